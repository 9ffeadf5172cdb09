//! The record of one request: what the access log and the metrics will say of it.
//!
//! An exchange is logged exactly once, when it is dropped: an ordinary one with its response body,
//! sent or not; one whose client leaves before an answer with what serves it. A WebSocket's
//! exchange is logged twice, as `ws.open` and, by the [`TunnelRecord`] that it leaves behind, as
//! `ws.close`.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use sluicegate_plugin_host::{Outbound, Session};
use tokio::time::Instant;

use crate::admission::Admission;
use crate::body::{OnEnd, ResponseBody, ResponseEnd, UpstreamConnection};
use crate::budget::{Account, Budget};
use crate::error::{Failure, Side};
use crate::facts::RequestFacts;
use crate::flow::connection::Connection;
use crate::flow::forwarding::Loan;
use crate::flow::guest_http::GuestHttp;
use crate::flow::record::{RequestRecord, TunnelRecord};
use crate::flow::websocket::Upgrade;
use crate::handshake::{self, HandshakeFault};
use crate::pace::Pace;
use crate::random;
use crate::request;
use crate::snapshot::{Route, Snapshot, UpstreamEntry};
use crate::telemetry::access_log::{self, ErrorLabel, RequestEvent, WsOpenEvent};
use crate::telemetry::metrics::RouteMetrics;
use crate::tunnel::{Expiry, Judge};
use crate::upstream::{Endpoint, Speaks};
use crate::ws::CloseCode;

/// A request under way.
pub(super) struct Exchange {
    connection: Arc<Connection>,
    snapshot: Arc<Snapshot>,
    started: Instant,
    /// As sent, CONNECT for a WebSocket over HTTP/2.
    method: Method,
    version: Version,
    facts: Option<RequestFacts>,
    refused: Option<Refused>,
    route: Option<Arc<Route>>,
    upstream: Option<Arc<str>>,
    endpoint: Option<Arc<Endpoint>>,
    upstream_speaks: Speaks,
    upstream_started: Option<Instant>,
    upstream_duration: Option<Duration>,
    /// Bytes of the request's body so far; `None` without one.
    received: Option<Arc<AtomicU64>>,
    /// What is held of both bodies, where that is worth one.
    account: Option<Account>,
    /// The upstream connection behind the answer.
    loan: Option<Loan>,
    /// A WebSocket was asked for.
    handshake: bool,
    /// The place of a WebSocket that shares its connection.
    admission: Option<Box<Admission>>,
    status: StatusCode,
    /// Why the proxy answered itself.
    failure: Option<(Side, &'static str)>,
    /// Why the answer did not go out whole.
    cut: Option<(Side, &'static str)>,
    sent: u64,
    /// What filters noted; the tunnel obeys it.
    session: Session,
    /// The upstream that a filter chose instead of the route's.
    chosen: Option<Arc<str>>,
    /// A verified upgrade whose 101 is still to be sent.
    upgrade: Option<Upgrade>,
    /// The tunnel writes its own events: nothing is left to say.
    told: bool,
}

/// What is known of a request that was refused before it had facts.
struct Refused {
    id: Option<Arc<str>>,
    /// As sent.
    path: String,
}

impl Exchange {
    pub(super) fn begin(
        connection: &Arc<Connection>,
        snapshot: &Arc<Snapshot>,
        parts: &Parts,
    ) -> Box<Exchange> {
        connection.begin_request();
        let extended = handshake::is_extended(parts);
        Box::new(Exchange {
            connection: Arc::clone(connection),
            snapshot: Arc::clone(snapshot),
            started: Instant::now(),
            method: match extended {
                true => Method::CONNECT,
                false => parts.method.clone(),
            },
            version: parts.version,
            facts: None,
            refused: None,
            route: None,
            upstream: None,
            endpoint: None,
            upstream_speaks: Speaks::Http1,
            upstream_started: None,
            upstream_duration: None,
            received: None,
            account: None,
            loan: None,
            handshake: false,
            admission: None,
            status: client_closed_request(),
            failure: None,
            cut: None,
            sent: 0,
            session: Session::default(),
            chosen: None,
            upgrade: None,
            told: false,
        })
    }

    pub(super) fn admitted(&mut self, facts: RequestFacts) -> &RequestFacts {
        self.facts.insert(facts)
    }

    /// The facts of an admitted request.
    pub(super) fn facts(&self) -> Option<&RequestFacts> {
        self.facts.as_ref()
    }

    /// As [`Exchange::facts`], for the stages behind the admission.
    pub(super) fn admitted_facts(&self) -> Result<&RequestFacts, Failure> {
        self.facts.as_ref().ok_or(Failure::internal("no_facts"))
    }

    pub(super) fn facts_mut(&mut self) -> Option<&mut RequestFacts> {
        self.facts.as_mut()
    }

    /// Empty before the request was admitted or refused.
    pub(super) fn request_id(&self) -> &str {
        let admitted = self.facts.as_ref().map(|facts| &facts.request_id);
        let refused = self
            .refused
            .as_ref()
            .and_then(|refused| refused.id.as_ref());
        admitted.or(refused).map_or("", |id| id)
    }

    pub(super) fn routed(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
    }

    /// A WebSocket was asked for; over HTTP/2 it shares its connection, and takes a place like one.
    pub(super) fn begin_handshake(&mut self) -> Result<(), Failure> {
        self.handshake = true;
        if self.version != Version::HTTP_2 {
            return Ok(());
        }
        let limits = &self.snapshot.limits;
        let full = |label| Failure::new(Side::Proxy, StatusCode::SERVICE_UNAVAILABLE, label);
        let control = &self.connection.worker.shared.admission;
        let entered = control.try_enter(limits.connections);
        let entered = entered.ok_or_else(|| full("connections"))?;
        let peer = self.connection.facts.peer;
        let admission = entered
            .of_client(peer, self.snapshot.client_limit(peer))
            .ok_or_else(|| full("connections_per_client"))?;
        let admission = self.connection.carries_too(admission);
        self.admission = Some(Box::new(admission));
        Ok(())
    }

    /// A WebSocket was asked for, and the answer is one to an ordinary request: the upstream's, unless its
    /// own was `verified` or it was never asked.
    pub(super) fn no_websocket(&self, verified: bool) -> Failure {
        match self.upstream_duration {
            Some(_) if !verified => Failure::bad_gateway(HandshakeFault::Status.label()),
            _ => Failure::downstream(StatusCode::NOT_IMPLEMENTED, "no_websocket"),
        }
    }

    /// The place of the WebSocket, for its tunnel to keep.
    pub(super) fn take_admission(&mut self) -> Option<Box<Admission>> {
        self.admission.take()
    }

    /// The slowest pace at which the client may send the request's body. A call of gRPC has none: its client
    /// speaks when it has something to say.
    pub(super) fn request_pace(&self, parts: &Parts) -> Pace {
        let rate = self.body_rate().filter(|_| !request::is_grpc(parts));
        let patience = self.snapshot.timeouts.request_body;
        Pace::receiving(rate, patience, self.connection.sharers(self.version))
    }

    /// The slowest pace at which it may take the answer.
    pub(super) fn response_pace(&self) -> Pace {
        let route = self.route.as_ref();
        let patience = route.map_or(Duration::MAX, |route| route.timeouts.idle_timeout);
        let sharers = self.connection.sharers(self.version);
        Pace::sending(self.body_rate(), patience, sharers)
    }

    fn body_rate(&self) -> Option<NonZeroU64> {
        let route = self.route.as_ref().map(|route| route.body_rate);
        route.unwrap_or(self.snapshot.limits.body_rate)
    }

    pub(super) fn counts(&mut self, received: Arc<AtomicU64>) {
        self.received = Some(received);
    }

    pub(super) fn lends(&mut self, loan: Loan) {
        self.loan = Some(loan);
    }

    /// The last one counts; it is spoken to in HTTP/1.1 unless [`Exchange::upstream_speaks`] says
    /// otherwise.
    pub(super) fn sent_to(&mut self, upstream: &Arc<str>, endpoint: &Arc<Endpoint>, now: Instant) {
        self.upstream = Some(Arc::clone(upstream));
        self.endpoint = Some(Arc::clone(endpoint));
        self.upstream_speaks = Speaks::Http1;
        self.upstream_started = Some(now);
    }

    /// What the endpoint is spoken to in.
    pub(super) fn upstream_speaks(&mut self, speaks: Speaks) {
        self.upstream_speaks = speaks;
    }

    pub(super) fn upstream_answered(&mut self) {
        self.upstream_duration = self.upstream_started.map(|started| started.elapsed());
    }

    /// Gives a request that has no facts what its log line needs.
    pub(super) fn refuse(&mut self, parts: &Parts) {
        self.refused = Some(Refused {
            id: request::new_request_id().ok(),
            path: parts.uri.path().to_owned(),
        });
    }

    /// Notes why the proxy answers itself; the first reason counts.
    pub(super) fn fail(&mut self, failure: &Failure) {
        if let Some(detail) = &failure.detail {
            tracing::info!(
                request_id = self.request_id(),
                route = self.route.as_ref().map(|route| &*route.name),
                side = failure.side.label(),
                kind = failure.label,
                detail,
                "request failed"
            );
        }
        self.failure.get_or_insert((failure.side, failure.label));
    }

    /// What the request's filters came to.
    pub(super) fn filtered(&mut self, session: Session, upstream: Option<Arc<str>>) {
        self.session = session;
        self.chosen = upstream;
    }

    pub(super) fn take_session(&mut self) -> Session {
        std::mem::take(&mut self.session)
    }

    /// When and how the tunnel must end, as filters said.
    pub(super) fn expiry(&self) -> Option<Box<Expiry>> {
        let now = Instant::now();
        let route = self.route.as_ref()?;
        let until = self.session.expires_at().map(|moment| {
            let left = moment.duration_since(SystemTime::now());
            left.unwrap_or_default()
        });
        let lifetime = self.session.max_lifetime.map(Duration::from_millis);
        let session = until.into_iter().chain(lifetime).min();
        let rules = &route.tunnel;
        let max_lifetime = rules.max_lifetime;
        let max_lifetime = max_lifetime.map(|max| jittered(max, rules.lifetime_jitter));
        let ends_by_route = max_lifetime.is_some_and(|max| session.is_none_or(|left| max < left));
        let left = session.into_iter().chain(max_lifetime).min()?;
        Some(Box::new(Expiry {
            // Beyond what the clock can say is never.
            at: now.checked_add(left)?,
            code: CloseCode(route.expiry_close_code),
            lifetime: ends_by_route,
        }))
    }

    pub(super) fn put_session(&mut self, session: Session) {
        self.session = session;
    }

    /// The upstream that a filter chose, which the configuration has seen to be there.
    pub(super) fn chosen_upstream<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s UpstreamEntry> {
        let chosen = self.chosen.as_ref()?;
        let mut upstreams = snapshot.upstreams.iter();
        upstreams.find(|entry| entry.upstream.name() == chosen)
    }

    /// The way to the upstreams of this generation, for guests.
    pub(super) fn outbound(&self) -> Arc<dyn Outbound> {
        let client = self.facts.as_ref().map(|facts| facts.client_ip);
        Arc::new(GuestHttp {
            worker: Arc::clone(&self.connection.worker),
            snapshot: Arc::clone(&self.snapshot),
            client: client.unwrap_or_else(|| self.connection.facts.peer.ip()),
        })
    }

    /// What the client speaks.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// As filters are told it.
    pub(super) fn http_version(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        }
    }

    pub(super) fn upgrades(&mut self, upgrade: Upgrade) {
        self.upgrade = Some(upgrade);
    }

    pub(super) fn take_upgrade(&mut self) -> Option<Upgrade> {
        self.upgrade.take()
    }

    /// The upstream has accepted the upgrade, and no filter has put another answer in its place.
    pub(super) fn is_upgraded(&self, response: &Response<ResponseBody>) -> bool {
        self.upgrade.is_some() && response.status() == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Who judges the messages of the tunnel that is to come.
    pub(super) fn judge_messages(&mut self, judge: Option<Box<dyn Judge>>) {
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.judge_messages(judge);
        }
    }

    /// Where what the process holds for this client counts.
    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.connection.worker.shared.budget)
    }

    /// Where what is held of the request and its answer counts.
    pub(super) fn account(&mut self) -> &Account {
        let connection = &self.connection;
        self.account.get_or_insert_with(|| match self.version {
            Version::HTTP_2 => connection.open_account(),
            _ => connection.account().clone(),
        })
    }

    /// As [`Exchange::account`], if something was held.
    pub(super) fn opened_account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The route that matched.
    pub(super) fn route(&self) -> Result<Arc<Route>, Failure> {
        self.route.clone().ok_or(Failure::internal("route"))
    }

    pub(super) fn route_metrics(&self) -> Option<RouteMetrics> {
        self.route.as_ref().map(|route| route.metrics.clone())
    }

    /// The response that goes out; the exchange ends with its body.
    pub(super) fn end_with(
        mut self: Box<Self>,
        response: Response<ResponseBody>,
    ) -> Response<ResponseBody> {
        self.status = response.status();
        response.map(|body| body.on_end(self))
    }

    /// The handshake is answered: the request is over, the tunnel begins. Writes `ws.open`.
    pub(super) fn begin_tunnel(&mut self, subprotocol: Option<&str>) {
        self.status = match self.version {
            Version::HTTP_2 => StatusCode::OK,
            _ => StatusCode::SWITCHING_PROTOCOLS,
        };
        self.told = true;
        let log = &self.snapshot.access_log;
        if log.is_on() {
            log.ws_open(&WsOpenEvent {
                exchange: self.event(),
                status: self.status.as_u16(),
                duration: self.started.elapsed(),
                upstream_duration: self.upstream_duration,
                subprotocol,
            });
        }
    }

    /// What the tunnel has to remember of this exchange.
    pub(super) fn record(&self) -> TunnelRecord {
        let log = &self.snapshot.access_log;
        TunnelRecord {
            connection: Arc::clone(&self.connection),
            snapshot: Arc::clone(&self.snapshot),
            route: self.route.clone(),
            upstream: self.upstream.clone(),
            endpoint: self.endpoint.clone(),
            request: log
                .is_on()
                .then(|| RequestRecord::new(&self.event(), self.version, self.upstream_speaks)),
        }
    }

    fn event(&self) -> access_log::Exchange<'_> {
        let facts = self.facts.as_ref();
        let raw_path = self.refused.as_ref().map_or("", |refused| &refused.path);
        access_log::Exchange {
            connection: &self.connection.facts,
            request_id: self.request_id(),
            client_ip: facts.map_or_else(|| self.connection.facts.peer.ip(), |f| f.client_ip),
            method: self.method.as_str(),
            host: facts.map_or("", |facts| &facts.host),
            path: facts.map_or(raw_path, |facts| &facts.path),
            query: facts.and_then(|facts| facts.query.as_deref()),
            protocol: protocol(self.version),
            route: self.route.as_ref().map(|route| &*route.name),
            upstream: self.upstream.as_deref(),
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.name()),
            upstream_protocol: (self.endpoint.as_ref())
                .map(|_| upstream_protocol(self.upstream_speaks)),
            labels: &self.session.labels,
        }
    }

    fn log(&self) {
        let duration = self.started.elapsed();
        let refused = self.failure.map(|(_, label)| label);
        let received = self.received.as_ref();
        let received = received.map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        let metrics = &self.connection.worker.shared.metrics;
        if let Some(label) = refused {
            metrics.request_rejected(label);
        }
        if let Some(route) = &self.route {
            if self.handshake {
                let label = refused.unwrap_or(match self.status {
                    status if status == client_closed_request() => "client_left",
                    _ => "answered_otherwise",
                });
                route.metrics.handshake_refused(self.version, label);
            }
            route.metrics.request(&self.method, self.status, duration);
            route.metrics.request_traffic(received, self.sent);
        }
        let log = &self.snapshot.access_log;
        if !log.is_on() {
            return;
        }
        log.request(&RequestEvent {
            exchange: self.event(),
            status: self.status.as_u16(),
            duration,
            upstream_duration: self.upstream_duration,
            bytes_in: received,
            bytes_out: self.sent,
            refused,
            error: self.failure.or(self.cut).map(|(side, kind)| ErrorLabel {
                side: side.label(),
                kind,
            }),
        });
    }
}

impl OnEnd for Exchange {
    fn account(&mut self) -> Option<Account> {
        Some(Exchange::account(self).clone())
    }

    fn ended(&mut self, sent: u64, end: ResponseEnd, connection: Option<UpstreamConnection>) {
        if let Some(mut loan) = self.loan.take() {
            loan.ended(end, connection);
        }
        self.sent = sent;
        let is_shed = self.account.as_ref().is_some_and(Account::is_shed);
        self.cut = match end {
            ResponseEnd::Complete => None,
            _ if is_shed => Some((Side::Proxy, "overloaded")),
            ResponseEnd::ClientLeft => Some((Side::Downstream, "response_cut")),
            ResponseEnd::UpstreamBroke | ResponseEnd::GivenUp => {
                Some((Side::Upstream, "response_broken"))
            }
        };
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.end_request();
        if !self.told {
            self.log();
        }
    }
}

/// Logs and counts what was refused before it became a request.
pub(super) fn log_refused_head(connection: &Connection, status: StatusCode, label: &'static str) {
    let shared = &connection.worker.shared;
    shared.metrics.request_rejected(label);
    connection
        .worker
        .snapshot()
        .access_log
        .request(&RequestEvent {
            exchange: access_log::Exchange {
                connection: &connection.facts,
                request_id: "",
                client_ip: connection.facts.peer.ip(),
                method: "",
                host: "",
                path: "",
                query: None,
                protocol: protocol(Version::HTTP_11),
                route: None,
                upstream: None,
                endpoint: None,
                upstream_protocol: None,
                labels: &[],
            },
            status: status.as_u16(),
            duration: Duration::ZERO,
            upstream_duration: None,
            bytes_in: 0,
            bytes_out: 0,
            refused: Some(label),
            error: Some(ErrorLabel {
                side: Side::Downstream.label(),
                kind: label,
            }),
        });
}

/// Earlier by a random part of this share, 0.0 to 1.0, so that tunnels that came together do not leave
/// together.
fn jittered(lifetime: Duration, share: f64) -> Duration {
    let random = random::bytes().map_or(0.0, |bytes| f64::from(u32::from_ne_bytes(bytes)));
    lifetime.mul_f64(1.0 - random / f64::from(u32::MAX) * share)
}

pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

pub(super) fn upstream_protocol(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Http1 => protocol(Version::HTTP_11),
        Speaks::Http2 => protocol(Version::HTTP_2),
    }
}

/// How a client asks for a WebSocket (RFC 6455 section 4.1, RFC 8441 section 5).
pub(super) fn handshake_method(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "CONNECT",
        _ => "GET",
    }
}

/// nginx's word for a client that left before its answer; only ever logged.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread_over_the_whole_jitter_and_no_further() {
        let max = Duration::from_secs(1000);
        for (share, tenth) in [(0.1, 10.0), (0.5, 50.0), (1.0, 100.0)] {
            let mut draws: Vec<_> = (0..1000).map(|_| jittered(max, share)).collect();
            let earliest = max.mul_f64(1.0 - share);
            assert!(draws.iter().all(|draw| (earliest..=max).contains(draw)));
            // One that shuns a tenth of the room by chance: 0.9 to the power of 1000.
            for tenths in 0..10 {
                let from = earliest + Duration::from_secs_f64(tenth * f64::from(tenths));
                let part = from..=from + Duration::from_secs_f64(tenth);
                let drawn = draws.iter().any(|draw| part.contains(draw));
                assert!(drawn, "none within {part:?} of {share}");
            }
            draws.sort_unstable();
            draws.dedup();
            assert!(draws.len() > 900, "{} of 1000 differ", draws.len());
        }
        assert_eq!(jittered(max, 0.0), max);
    }
}
