//! What a tunnel remembers of the request that it came from, for its `ws.close` line.
//!
//! A tunnel may be idle for days, so its record is small: one string for all that is text, which
//! also keeps no buffer of the parsed head alive.

use std::net::IpAddr;
use std::sync::Arc;

use http::Version;

use crate::flow::connection::Connection;
use crate::flow::exchange;
use crate::snapshot::{Route, Snapshot};
use crate::telemetry::access_log::{Exchange, WsCloseEvent};
use crate::tunnel::Summary;
use crate::upstream::{Endpoint, Speaks};

/// Says how a tunnel went once it has ended.
pub(super) struct TunnelRecord {
    pub(super) connection: Arc<Connection>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) upstream: Option<Arc<str>>,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// `None` where no line will be written.
    pub(super) request: Option<RequestRecord>,
}

/// The request's own part of an event.
pub(super) struct RequestRecord {
    client_ip: IpAddr,
    /// Request id, host, path and query in a row.
    text: Box<str>,
    /// Where the first three end.
    ends: [u32; 3],
    has_query: bool,
    /// As the client speaks it.
    version: Version,
    /// As the upstream is spoken to.
    upstream_speaks: Speaks,
    labels: Box<[(String, String)]>,
}

impl TunnelRecord {
    /// Counts the end and writes `ws.close`.
    pub(super) fn close(&self, summary: &Summary) {
        if let Some(route) = &self.route {
            route
                .metrics
                .websocket_closed(summary.duration, summary.close_code);
            if summary.cause.is_limit() {
                route.metrics.limit_closed(summary.cause.label());
            }
        }
        let Some(request) = &self.request else {
            return;
        };
        let [id, host, path] = request.ends.map(|end| end as usize);
        self.snapshot.access_log.ws_close(&WsCloseEvent {
            exchange: Exchange {
                connection: &self.connection.facts,
                request_id: &request.text[..id],
                client_ip: request.client_ip,
                method: exchange::handshake_method(request.version),
                host: &request.text[id..host],
                path: &request.text[host..path],
                query: request.has_query.then_some(&request.text[path..]),
                protocol: exchange::protocol(request.version),
                route: self.route.as_ref().map(|route| &*route.name),
                upstream: self.upstream.as_deref(),
                endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.name()),
                upstream_protocol: Some(exchange::upstream_protocol(request.upstream_speaks)),
                labels: &request.labels,
            },
            duration: summary.duration,
            from_client: summary.from_downstream,
            from_upstream: summary.from_upstream,
            close_code: summary.close_code,
            close_reason: summary.stop.as_ref().map(|stop| stop.reason.as_str()),
            closed_by: summary.closed_by,
            cause: summary.cause.label(),
        });
    }
}

impl RequestRecord {
    pub(super) fn new(
        event: &Exchange<'_>,
        version: Version,
        upstream_speaks: Speaks,
    ) -> RequestRecord {
        let query = event.query.unwrap_or("");
        let text = [event.request_id, event.host, event.path, query].concat();
        let id = event.request_id.len();
        let host = id + event.host.len();
        let path = host + event.path.len();
        RequestRecord {
            client_ip: event.client_ip,
            text: text.into(),
            // A head of 4 GiB is refused long before.
            ends: [id, host, path].map(|end| u32::try_from(end).unwrap_or(0)),
            has_query: event.query.is_some(),
            version,
            upstream_speaks,
            labels: event.labels.into(),
        }
    }
}
