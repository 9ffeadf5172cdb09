//! The carrier of tunnels whose messages matter: to a limit, to a filter, to compression.
//!
//! Two [`Lane`]s, one a direction, and one [`Court`] between them. A lane reads what its sender says,
//! asks the court where a filter has an interest, and writes to its receiver. What nobody needs whole goes
//! through as its bytes come. While the court thinks about one message, the lane that brought it waits, and
//! the other goes on up to its next message for the court; so each side's order is kept, and no
//! side waits for the other's but there.
//!
//! Memory is bounded: per direction one message that is collected (the route's `message_size`), what its
//! sender sent in one read, and `tunnel_buffer` of what its receiver has not taken yet. Behind that the
//! sender's socket is not read.

mod court;
mod lane;
mod output;
mod throttle;
mod waiting;

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use tokio::time::Instant;

use self::court::Court;
use self::lane::{Beside, Lane, LaneTerms, Shared};
use super::carrier::{BrokenLeg, Carrier, Pumped, Stop};
use super::judge::Judge;
use super::{Cause, SCRATCH, Summary};
use crate::config::model::TunnelRules;
use crate::drain::Member;
use crate::stream::Stream;
use crate::telemetry::metrics::RouteMetrics;
use crate::ws::control::CloseCode;
use crate::ws::deflate::Legs;
use crate::ws::frame::Side;

/// What a tunnel of this level goes by.
pub struct Terms {
    pub rules: Arc<TunnelRules>,
    pub compression: Legs,
    /// Bytes that the tunnel may hold for slow sides and of messages under way; `None`: what else limits it.
    pub memory: Option<usize>,
    /// The route's filters, where one has an interest in this tunnel.
    pub judge: Option<Box<dyn Judge>>,
}

pub(super) struct Relay {
    from_client: Lane,
    from_server: Lane,
    court: Court,
    memory: Option<usize>,
    metrics: Option<RouteMetrics>,
}

impl Relay {
    /// The early bytes were read past the heads of the handshake.
    pub(super) fn new(
        terms: Terms,
        metrics: Option<RouteMetrics>,
        from_client: Bytes,
        from_server: Bytes,
    ) -> Relay {
        let now = Instant::now();
        let lane = |sender, early| {
            Lane::new(
                &LaneTerms {
                    sender,
                    rules: &terms.rules,
                    compression: &terms.compression,
                    interest: terms.judge.as_ref().map(|judge| judge.interest(sender)),
                },
                early,
                now,
            )
        };
        Relay {
            from_client: lane(Side::FromClient, from_client),
            from_server: lane(Side::FromServer, from_server),
            memory: terms.memory,
            court: terms.judge.map_or(Court::Empty, Court::Free),
            metrics,
        }
    }

    /// What the court has come to, and then each lane's turn: true if somebody can go on because of it.
    fn round(
        &mut self,
        downstream: &mut Stream,
        upstream: &mut Stream,
        shared: &mut Shared<'_>,
        pumped: &mut Pumped,
        cx: &mut Context<'_>,
    ) -> Result<bool, BrokenLeg> {
        let mut again = self.hear(shared, cx).unwrap_or_else(|stop| {
            pumped.stop.get_or_insert(stop);
            true
        });
        let (client, server) = (&mut self.from_client, &mut self.from_server);
        let court = &mut self.court;
        let (up, down) = SCRATCH.with_borrow_mut(|scratch| {
            let mut beside = Beside {
                other: &mut *server,
                court: &mut *court,
                shared: &mut *shared,
                cx: &mut *cx,
            };
            let up = client.turn(downstream, upstream, scratch, &mut beside);
            let mut beside = Beside {
                other: client,
                court,
                shared,
                cx,
            };
            let down = server.turn(upstream, downstream, scratch, &mut beside);
            (up, down)
        });
        let broken = BrokenLeg::of(up.broken, down.broken);
        for turn in [up, down] {
            pumped.moved |= turn.moved;
            pumped.more |= turn.more;
            if let Some(stop) = turn.stop {
                pumped.stop.get_or_insert(stop);
            }
            again |= turn.disturbed;
        }
        broken.map_or(Ok(again), Err)
    }

    /// What the court has come to, if it has: true if somebody can go on because of it.
    fn hear(&mut self, shared: &mut Shared<'_>, cx: &mut Context<'_>) -> Result<bool, Box<Stop>> {
        let Some((sender, judged)) = self.court.poll(cx)? else {
            return Ok(false);
        };
        let (lane, other) = match sender {
            Some(Side::FromServer) => (&mut self.from_server, &mut self.from_client),
            Some(Side::FromClient) | None => (&mut self.from_client, &mut self.from_server),
        };
        lane.hear(sender.is_some(), judged, other, shared)?;
        // What the time asks for comes before what is said next, or much talk would put it off for ever.
        let is_overfull = lane.output.is_overfull() || other.output.is_overfull();
        if !is_overfull && self.court.deadline().is_some() {
            self.court
                .on_time(*shared.now.get_or_insert_with(Instant::now));
        }
        // The other one's turn first, or a side that always has something to say would shut it out.
        other.ask_late(&mut Beside {
            other: lane,
            court: &mut self.court,
            shared,
            cx,
        })?;
        Ok(true)
    }

    /// More is held than may be. Said once: some of it may be away, in court, when the rest is let go.
    fn has_grown_too_large(&mut self) -> bool {
        let size = self.size();
        self.memory.take_if(|most| size > *most).is_some()
    }

    /// There is so much for a receiver that filters are not asked for more.
    fn is_overfull(&self) -> bool {
        self.from_client.output.is_overfull() || self.from_server.output.is_overfull()
    }
}

impl<'a> Shared<'a> {
    /// With the thread's buffers.
    fn lent(metrics: Option<&'a RouteMetrics>) -> Shared<'a> {
        Shared {
            out: OUT.take(),
            deflated: DEFLATED.take(),
            now: None,
            metrics,
        }
    }

    /// The thread keeps what is of ordinary size.
    fn give_back(self) {
        for (mut buffer, home) in [(self.out, &OUT), (self.deflated, &DEFLATED)] {
            buffer.clear();
            if buffer.capacity() <= KEPT_BUFFER {
                home.set(buffer);
            }
        }
    }
}

impl Carrier for Relay {
    type Way = Lane;

    fn ways(&self) -> (&Lane, &Lane) {
        (&self.from_client, &self.from_server)
    }

    fn ways_mut(&mut self) -> (&mut Lane, &mut Lane) {
        (&mut self.from_client, &mut self.from_server)
    }

    fn pump(
        &mut self,
        downstream: &mut Stream,
        upstream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<Pumped, BrokenLeg> {
        let mut pumped = Pumped::default();
        let metrics = self.metrics.take();
        let mut shared = Shared::lent(metrics.as_ref());
        let mut rounds = 0..ROUNDS_PER_TURN;
        let broken = loop {
            if rounds.next().is_none() {
                pumped.more = true;
                break None;
            }
            match self.round(downstream, upstream, &mut shared, &mut pumped, cx) {
                Err(leg) => break Some(leg),
                Ok(again) if again && pumped.stop.is_none() && !pumped.more => {}
                Ok(_) => break None,
            }
        };
        shared.give_back();
        self.metrics = metrics;
        if self.has_grown_too_large() {
            let stop = || {
                Box::new(Stop {
                    cause: Cause::ConnectionMemory,
                    code: CloseCode::TOO_BIG,
                    reason: "too much to keep".to_owned(),
                    offender: None,
                })
            };
            pumped.stop.get_or_insert_with(stop);
        }
        match broken {
            Some(leg) if pumped.stop.is_none() => Err(leg),
            _ => Ok(pumped),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let lanes = [&self.from_client, &self.from_server];
        let lanes = lanes.into_iter().filter_map(Lane::deadline);
        let court = self.court.deadline().filter(|_| !self.is_overfull());
        lanes.chain(court).min()
    }

    fn resumes_at(&self) -> Option<Instant> {
        let lanes = [&self.from_client, &self.from_server];
        lanes.into_iter().filter_map(Lane::resumes_at).min()
    }

    fn resume(&mut self, now: Instant) {
        self.from_client.resume(now);
        self.from_server.resume(now);
    }

    fn on_time(&mut self, now: Instant) -> Option<Box<Stop>> {
        let (client, server) = (&mut self.from_client, &mut self.from_server);
        // A ping goes where its pong comes from.
        let lost = client.on_time(now, server) || server.on_time(now, client);
        if lost {
            return Some(Box::new(Stop {
                cause: Cause::PongTimeout,
                code: CloseCode::GOING_AWAY,
                reason: "no pong".to_owned(),
                offender: None,
            }));
        }
        if !self.is_overfull() {
            self.court.on_time(now);
        }
        None
    }

    fn part(&mut self, summary: &Summary, member: &Member) {
        let court = std::mem::replace(&mut self.court, Court::Empty);
        if let Some(parting) = court.part(summary.clone()) {
            let member = member.again();
            tokio::spawn(async move {
                parting.await;
                drop(member);
            });
        }
    }
}

/// Times that one lane's progress may give the other something to do; then the worker's other tasks
/// have their turn.
const ROUNDS_PER_TURN: u32 = 16;
/// What a thread keeps of its buffers between turns.
const KEPT_BUFFER: usize = 256 << 10;

thread_local! {
    /// Where a turn puts what it has for a receiver.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Where messages are compressed.
    static DEFLATED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests;
