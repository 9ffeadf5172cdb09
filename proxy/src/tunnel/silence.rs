//! How long one side has said nothing, for routes that end a tunnel for it.
//!
//! As with the idle timeout, no message reads the clock: a tick, a quarter of the time, looks at what has
//! come since the last one. So the end comes up to a quarter late.

use std::time::Duration;

use tokio::time::Instant;

use super::Cause;
use super::carrier::{OneWay, Stop};
use crate::ws::control::CloseCode;

/// What a tunnel waits for besides what its stage does, while one timer serves all.
pub(super) struct Alarms {
    /// The stage's own deadline.
    pub(super) stage: Instant,
    /// What the tunnel ends for, where it was an alarm or the carrier that said so.
    pub(super) stop: Option<Box<Stop>>,
    client: Option<Silence>,
    server: Option<Silence>,
}

/// One side's.
struct Silence {
    tick: Duration,
    next: Instant,
    quiet_ticks: u32,
    /// From this side, at the last tick.
    bytes: u64,
}

impl Alarms {
    /// Begins now, with how long each side may say nothing.
    pub(super) fn new(client: Option<Duration>, server: Option<Duration>, now: Instant) -> Alarms {
        let silence = |limit: Duration| Silence {
            tick: limit / QUIET_TICKS,
            next: now + limit / QUIET_TICKS,
            quiet_ticks: 0,
            bytes: 0,
        };
        Alarms {
            stage: now,
            stop: None,
            client: client.map(silence),
            server: server.map(silence),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let each = [&self.client, &self.server].into_iter().flatten();
        each.map(|silence| silence.next).min()
    }

    pub(super) fn on_time<W: OneWay>(
        &mut self,
        now: Instant,
        from_client: &W,
        from_server: &W,
    ) -> Option<Box<Stop>> {
        let client = self.client.as_mut();
        let client = client.is_some_and(|silence| silence.is_over(now, from_client));
        let server = self.server.as_mut();
        let server = server.is_some_and(|silence| silence.is_over(now, from_server));
        let (cause, reason) = match (client, server) {
            (true, _) => (Cause::SilentClient, "client idle timeout"),
            (_, true) => (Cause::SilentServer, "server idle timeout"),
            (false, false) => return None,
        };
        Some(Box::new(Stop {
            cause,
            code: CloseCode::GOING_AWAY,
            reason: reason.to_owned(),
            offender: None,
        }))
    }
}

impl Silence {
    fn is_over(&mut self, now: Instant, way: &impl OneWay) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.tick;
        let bytes = way.traffic().bytes;
        let said = bytes > std::mem::replace(&mut self.bytes, bytes);
        self.quiet_ticks = match said || way.is_held_up() {
            true => 0,
            false => self.quiet_ticks + 1,
        };
        self.quiet_ticks >= QUIET_TICKS
    }
}

/// Parts of the time that must pass without a byte: the more, the more exact.
const QUIET_TICKS: u32 = 4;
