//! The upgrade: the handshake with the upstream, and the tunnel that follows a verified one.

mod opening;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response};

use self::opening::Hold;
use crate::body::ResponseBody;
use crate::config::model::TunnelRules;
use crate::drain::Member;
use crate::error::Failure;
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::Outbound;
use crate::flow::interim::Interims;
use crate::handshake::compression::{Bargain, Wishes};
use crate::handshake::{self, Offer};
use crate::snapshot::Route;
use crate::stream::Stream;
use crate::tunnel::{Judge, Leg, Level, Terms, Tunnel};
use crate::ws::deflate::Legs;

/// A verified upgrade whose 101 has not been sent yet. Dropping it closes the upstream's side.
pub(super) struct Upgrade {
    upstream: Leg,
    hold: Hold,
    subprotocol: Option<String>,
    idle_timeout: Duration,
    drain: Duration,
    rules: Arc<TunnelRules>,
    reads_messages: bool,
    compression: Legs,
    memory: Option<usize>,
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
/// A verified acceptance is answered with 101, whatever protocol either side speaks, and leaves its
/// [`Upgrade`] with the exchange. Any other answer is an ordinary response.
pub(super) async fn open(
    outbound: Outbound<'_>,
    exchange: &mut Exchange,
    mut offer: Offer,
    bargain: Bargain,
    interims: &mut Interims<'_>,
) -> Result<Response<ResponseBody>, Failure> {
    // Filters may have taken subprotocols back.
    let headers = &outbound.parts.headers;
    offer.subprotocols =
        handshake::offered_subprotocols(headers).ok_or(Failure::internal("subprotocols"))?;
    let route = outbound.route;
    let mut answered = opening::shake_hands(&outbound, exchange, interims).await?;
    if !answered.accepts() {
        return Ok(answered.into_response(exchange, route.timeouts.idle_timeout));
    }
    let agreed = answered
        .verify(&offer)
        .map_err(|fault| Failure::bad_gateway(fault.label()).because(fault))?;
    let compression = bargain.close(&agreed, &mut answered.head_mut().headers);
    let (head, upstream, hold) = answered.into_leg();
    exchange.upgrades(Upgrade {
        upstream,
        hold,
        subprotocol: agreed.subprotocol,
        idle_timeout: route.timeouts.idle_timeout,
        drain: route.timeouts.drain,
        rules: Arc::clone(&route.tunnel),
        reads_messages: route.reads_messages,
        compression,
        memory: outbound.snapshot.limits.connection_memory,
        judge: None,
    });
    Ok(Response::from_parts(head, ResponseBody::own(Bytes::new())))
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
        let hold = upgrade.hold;
        let rules = Arc::clone(&upgrade.rules);
        let level = if upgrade.reads_messages {
            Level::Messages(Box::new(Terms {
                rules: upgrade.rules,
                compression: upgrade.compression,
                memory: upgrade.memory,
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
            budget: self.exchange.budget(),
        };
        tunnel.run().map(move |summary| {
            drop((hold, open, admission));
            record.close(&summary);
        })
    }
}
