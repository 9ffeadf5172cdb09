//! The upgrade: the handshake with the upstream, and the tunnel that follows a verified one.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::body::{RequestBody, ResponseBody};
use crate::drain::Member;
use crate::error::Failure;
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::{self, Leased};
use crate::forward;
use crate::handshake::{self, Offer};
use crate::snapshot::{Route, UpstreamEntry};
use crate::stream::Stream;
use crate::telemetry::metrics::RouteMetrics;
use crate::tunnel::{Leg, Tunnel};
use crate::upstream::Outcome;

/// A verified upgrade whose 101 has not been sent yet. Dropping it closes the upstream's side.
pub(super) struct Upgrade {
    upstream: Leg,
    leased: Leased,
    compressed: bool,
    subprotocol: Option<String>,
    idle_timeout: Duration,
    drain: Duration,
}

/// An upgrade together with the exchange that asked for it.
pub(super) struct Pending {
    pub(super) upgrade: Upgrade,
    pub(super) exchange: Exchange,
}

type UpstreamConnection = http1::Connection<TokioIo<Stream>, RequestBody>;

/// Shakes hands with an endpoint.
///
/// A verified 101 is answered and leaves its [`Upgrade`] with the exchange. Any other status is an
/// ordinary response; its connection is closed after it.
pub(super) async fn open(
    route: &Route,
    upstream: &UpstreamEntry,
    exchange: &mut Exchange,
    parts: Parts,
    mut offer: Offer,
) -> Result<Response<ResponseBody>, Failure> {
    // Filters may have taken subprotocols back.
    offer.subprotocols =
        handshake::offered_subprotocols(&parts.headers).ok_or(Failure::internal("subprotocols"))?;
    let leased = forwarding::lease(upstream, exchange, &[])?;
    let (mut leased, stream) = forwarding::connect(route, upstream, exchange, leased).await?;
    let deadline = Instant::now() + route.timeouts.response_head;
    let request = Request::from_parts(parts, RequestBody::empty());
    let shaken = timeout_at(deadline, shake_hands(stream, request)).await;
    let (response, upstream_connection) = match shaken {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => {
            leased.report(Outcome::Failure);
            return Err(Failure::bad_gateway("upstream_broken").because(error));
        }
        Err(_) => {
            leased.report(Outcome::Failure);
            return Err(Failure::response_timeout());
        }
    };
    exchange.upstream_answered();
    leased.report(Outcome::Success);
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        if !forward::has_clear_framing(&parts.headers) {
            return Err(Failure::bad_gateway("upstream_framing"));
        }
        tokio::spawn(upstream_connection);
        forward::downstream_response(&mut parts, false);
        let body =
            ResponseBody::upstream(body, route.timeouts.idle_timeout).on_end(Box::new(leased));
        return Ok(Response::from_parts(parts, body));
    }
    let agreed = handshake::verify_upstream(&offer, &parts)
        .map_err(|fault| Failure::bad_gateway(fault.label()).because(fault))?;
    let upstream_leg = timeout_at(deadline, take_back(upstream_connection))
        .await
        .map_err(|_| Failure::response_timeout())?
        .map_err(|error| Failure::bad_gateway("upstream_broken").because(error))?;
    forward::downstream_response(&mut parts, true);
    exchange.upgrades(Upgrade {
        upstream: upstream_leg,
        leased,
        compressed: agreed
            .extensions
            .iter()
            .any(|extension| extension.name == "permessage-deflate"),
        subprotocol: agreed.subprotocol,
        idle_timeout: route.timeouts.idle_timeout,
        drain: route.timeouts.drain,
    });
    Ok(Response::from_parts(parts, ResponseBody::own(Bytes::new())))
}

/// Sends the request and reads the answer's head, driving the connection by hand: nobody else may
/// read from it, since what follows a 101 belongs to the tunnel.
async fn shake_hands(
    stream: Stream,
    request: Request<RequestBody>,
) -> hyper::Result<(Response<hyper::body::Incoming>, UpstreamConnection)> {
    let (mut sender, mut connection) = forwarding::client().handshake(TokioIo::new(stream)).await?;
    let mut answer = pin!(sender.send_request(request));
    let response = poll_fn(|cx| {
        if let Poll::Ready(response) = answer.as_mut().poll(cx) {
            return Poll::Ready(response);
        }
        let driven = connection.poll_without_shutdown(cx);
        match (answer.as_mut().poll(cx), driven) {
            (Poll::Ready(response), _) => Poll::Ready(response),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Pending, _) => Poll::Pending,
        }
    })
    .await?;
    Ok((response, connection))
}

/// The bare stream after a 101, with what was read past its head.
async fn take_back(mut connection: UpstreamConnection) -> hyper::Result<Leg> {
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    let parts = connection.into_parts();
    Ok(Leg {
        stream: parts.io.into_inner(),
        early: parts.read_buf,
    })
}

impl Pending {
    /// The tunnel from the moment that the 101 was written to its end.
    ///
    /// No `async fn`: that would keep room for all of the upgrade as long as the tunnel lives.
    pub(super) fn run(
        mut self,
        downstream: Stream,
        early: Bytes,
        member: Member,
    ) -> impl Future<Output = ()> + Send {
        let upgrade = self.upgrade;
        self.exchange.begin_tunnel(upgrade.subprotocol.as_deref());
        let metrics = self.exchange.route_metrics();
        let open = metrics.as_ref().map(RouteMetrics::websocket_open);
        let record = self.exchange.record();
        let leased = upgrade.leased;
        let tunnel = Tunnel {
            downstream: Leg {
                stream: downstream,
                early,
            },
            upstream: upgrade.upstream,
            compressed: upgrade.compressed,
            idle_timeout: upgrade.idle_timeout,
            drain: upgrade.drain,
            metrics,
            member,
        };
        tunnel.run().map(move |summary| {
            drop((leased, open));
            record.close(&summary);
        })
    }
}
