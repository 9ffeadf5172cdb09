//! The upgrade: the handshake with the upstream, and the tunnel that follows a verified one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, sleep_until};

use crate::body::{RequestBody, ResponseBody};
use crate::config::model::TunnelRules;
use crate::deadline::until;
use crate::drain::Member;
use crate::error::Failure;
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::{
    self, Leased, Loan, Outbound, RESPONSE_HEAD, Reached, Wanted, upstream_failure,
};
use crate::forward;
use crate::handshake::compression::{Bargain, Wishes};
use crate::handshake::{self, Offer};
use crate::http1::client::Upload;
use crate::snapshot::Route;
use crate::stream::Stream;
use crate::tunnel::{Judge, Leg, Level, Terms, Tunnel};
use crate::upstream::Outcome;
use crate::ws::deflate::Legs;

/// A verified upgrade whose 101 has not been sent yet. Dropping it closes the upstream's side.
pub(super) struct Upgrade {
    upstream: Leg,
    leased: Leased,
    subprotocol: Option<String>,
    idle_timeout: Duration,
    drain: Duration,
    rules: Arc<TunnelRules>,
    reads_messages: bool,
    compression: Legs,
    judge: Option<Box<dyn Judge>>,
}

/// An upgrade together with the exchange that asked for it.
pub(super) struct Pending {
    pub(super) upgrade: Upgrade,
    pub(super) exchange: Box<Exchange>,
}

/// What the route does about extensions: the request's head, and `offer`, become what the upstream shall
/// see, also on a straight route.
pub(super) fn bargain(route: &Route, offer: &mut Offer, headers: &mut HeaderMap) -> Bargain {
    let wishes = Wishes {
        compression: route.tunnel.compression,
        window_bits: route.tunnel.compression_window,
        reads_messages: route.reads_messages,
    };
    Bargain::open(wishes, offer, headers)
}

/// Shakes hands with an endpoint.
///
/// A verified 101 is answered and leaves its [`Upgrade`] with the exchange. Any other status is an
/// ordinary response; its connection is closed after it.
pub(super) async fn open(
    outbound: Outbound<'_>,
    exchange: &mut Exchange,
    mut offer: Offer,
    bargain: Bargain,
) -> Result<Response<ResponseBody>, Failure> {
    let Outbound {
        route,
        upstream,
        parts,
        ..
    } = outbound;
    // Filters may have taken subprotocols back.
    offer.subprotocols =
        handshake::offered_subprotocols(&parts.headers).ok_or(Failure::internal("subprotocols"))?;
    let request = outbound.head(exchange, None)?;
    let leased = forwarding::lease(upstream, exchange, &[])?;
    let mut timer = pin!(sleep_until(Instant::now() + route.timeouts.connect));
    let reached = forwarding::reach(
        &outbound,
        exchange,
        leased,
        Wanted::FreshHttp1,
        timer.as_mut(),
    );
    let (mut leased, Reached::Http1 { mut connection, .. }, now) = reached.await? else {
        return Err(Failure::internal("upstream_protocol"));
    };
    let mut upload = Upload::<RequestBody>::none();
    connection.begin(&request, &mut upload);
    let answer = pin!(poll_fn(|cx| connection.poll_answer(
        &mut upload,
        RESPONSE_HEAD,
        cx
    )));
    let mut answer = match until(now + route.timeouts.response_head, timer, answer).await {
        Some(Ok(answer)) => answer,
        Some(Err(fault)) => {
            leased.report(Outcome::Failure);
            return Err(upstream_failure(&fault));
        }
        None => {
            leased.report(Outcome::Failure);
            return Err(Failure::response_timeout());
        }
    };
    exchange.upstream_answered();
    leased.report(Outcome::Success);
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        forward::downstream_response(&mut answer, false);
        exchange.lends(Loan::of_closing(leased));
        let body =
            ResponseBody::upstream(connection.into_body(upload), route.timeouts.idle_timeout);
        return Ok(Response::from_parts(answer, body));
    }
    let agreed = handshake::verify_upstream(&offer, &answer)
        .map_err(|fault| Failure::bad_gateway(fault.label()).because(fault))?;
    forward::downstream_response(&mut answer, true);
    let compression = bargain.close(&agreed, &mut answer.headers);
    let (stream, early) = connection.into_upgraded();
    exchange.upgrades(Upgrade {
        upstream: Leg { stream, early },
        leased,
        subprotocol: agreed.subprotocol,
        idle_timeout: route.timeouts.idle_timeout,
        drain: route.timeouts.drain,
        rules: Arc::clone(&route.tunnel),
        reads_messages: route.reads_messages,
        compression,
        judge: None,
    });
    Ok(Response::from_parts(
        answer,
        ResponseBody::own(Bytes::new()),
    ))
}

impl Upgrade {
    pub(super) fn judge_messages(&mut self, judge: Option<Box<dyn Judge>>) {
        self.judge = judge;
    }
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
        let open = metrics
            .as_ref()
            .map(|metrics| metrics.websocket_open(self.exchange.version()));
        let expiry = self.exchange.expiry();
        let record = self.exchange.record();
        let admission = self.exchange.take_admission();
        let leased = upgrade.leased;
        let rules = Arc::clone(&upgrade.rules);
        let level = if upgrade.reads_messages {
            Level::Messages(Box::new(Terms {
                rules: upgrade.rules,
                compression: upgrade.compression,
                judge: upgrade.judge,
            }))
        } else if rules.follow {
            Level::Follow {
                compressed: upgrade.compression.upstream.is_some(),
            }
        } else {
            Level::Copy
        };
        let tunnel = Tunnel {
            downstream: Leg {
                stream: downstream,
                early,
            },
            upstream: upgrade.upstream,
            level,
            silence: (rules.client.idle_timeout, rules.server.idle_timeout),
            idle_timeout: upgrade.idle_timeout,
            drain: upgrade.drain,
            expiry,
            metrics,
            member,
        };
        tunnel.run().map(move |summary| {
            drop((leased, open, admission));
            record.close(&summary);
        })
    }
}
