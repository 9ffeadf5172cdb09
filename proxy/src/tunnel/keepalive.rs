//! Pings of the proxy's own (RFC 6455 §5.5.2), to one side of a tunnel.
//!
//! Each carries eight bytes that nobody can guess, so that its pong is told from answers to the other
//! end's pings and kept from that end. A pong may answer an earlier ping of ours too; only the last counts.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Pinger {
    interval: Duration,
    timeout: Duration,
    next: Instant,
    /// The last ping, until its pong has come.
    waiting: Option<Sent>,
    /// Pings whose pongs must not reach the other side: the last, and the one before it.
    known: [Option<Payload>; 2],
}

struct Sent {
    payload: Payload,
    at: Instant,
    /// Since when there has been no sign of life.
    quiet: Instant,
    seen: Seen,
}

pub(super) type Payload = [u8; 8];

/// What was seen of the side so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// It cannot be judged: nothing is read from it now, or the ping cannot go out for another's sake.
    pub(super) held_up: bool,
    /// Bytes from it.
    pub(super) received: u64,
    /// Bytes to it, where more wait that it does not take: then each one taken is a sign of life.
    pub(super) taken: Option<u64>,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The payload of a ping to send.
    Ping(Payload),
    /// No pong has come in time.
    Lost,
}

/// Whose a pong is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pong {
    /// The answer to our last ping, after so long.
    Answer(Duration),
    /// An answer to one of ours before it, or a second one.
    Late,
    /// Somebody else's.
    Foreign,
}

impl Pinger {
    /// `timeout` is shorter than `interval`.
    pub(super) fn new(interval: Duration, timeout: Duration, now: Instant) -> Pinger {
        Pinger {
            interval,
            timeout,
            next: now + interval,
            waiting: None,
            known: [None, None],
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        match &self.waiting {
            Some(sent) => (sent.quiet + self.timeout).min(self.next),
            None => self.next,
        }
    }

    /// To be called when the deadline has come; `payload` is for a ping that may be due.
    pub(super) fn due(&mut self, now: Instant, seen: Seen, payload: Payload) -> Option<Due> {
        if let Some(sent) = &mut self.waiting
            && now >= sent.quiet + self.timeout
        {
            if seen.is_life(&sent.seen) {
                (sent.quiet, sent.seen) = (now, seen);
            } else {
                return Some(Due::Lost);
            }
        }
        if now < self.next {
            return None;
        }
        self.next = now + self.interval;
        self.known = [Some(payload), self.known[0]];
        self.waiting = Some(Sent {
            payload,
            at: now,
            quiet: now,
            seen,
        });
        Some(Due::Ping(payload))
    }

    pub(super) fn pong(&mut self, payload: &[u8], now: impl FnOnce() -> Instant) -> Pong {
        if let Some(sent) = &self.waiting
            && sent.payload == payload
        {
            let round_trip = now() - sent.at;
            self.waiting = None;
            return Pong::Answer(round_trip);
        }
        let ours = self.known.iter().flatten().any(|known| known == payload);
        if ours { Pong::Late } else { Pong::Foreign }
    }
}

impl Seen {
    /// Whether something has come since, or gone where it had to be taken.
    fn is_life(&self, before: &Seen) -> bool {
        let taken = self.taken.is_some_and(|taken| before.taken != Some(taken));
        self.held_up || taken || self.received != before.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const QUIET: Seen = Seen {
        held_up: false,
        received: 0,
        taken: None,
    };

    #[test]
    fn a_ping_an_interval_and_its_pong_is_known() {
        let start = Instant::now();
        let mut pinger = Pinger::new(30 * SECOND, 10 * SECOND, start);
        assert_eq!(pinger.deadline(), start + 30 * SECOND);
        assert_eq!(pinger.due(start + 29 * SECOND, QUIET, [1; 8]), None);
        let sent = start + 30 * SECOND;
        assert_eq!(pinger.due(sent, QUIET, [1; 8]), Some(Due::Ping([1; 8])));
        assert_eq!(pinger.deadline(), sent + 10 * SECOND);
        assert_eq!(pinger.pong(b"other", || sent), Pong::Foreign);
        assert_eq!(pinger.pong(&[1; 8], || sent + SECOND), Pong::Answer(SECOND));
        assert_eq!(pinger.pong(&[1; 8], || sent + SECOND), Pong::Late);
        assert_eq!(pinger.deadline(), sent + 30 * SECOND);
        assert_eq!(
            pinger.due(pinger.deadline(), QUIET, [2; 8]),
            Some(Due::Ping([2; 8]))
        );
        assert_eq!(pinger.pong(&[1; 8], || sent), Pong::Late);
    }

    #[test]
    fn without_a_pong_in_time_the_side_is_lost() {
        let start = Instant::now();
        let mut pinger = Pinger::new(30 * SECOND, 10 * SECOND, start);
        let sent = start + 30 * SECOND;
        assert_eq!(pinger.due(sent, QUIET, [1; 8]), Some(Due::Ping([1; 8])));
        assert_eq!(pinger.due(sent + 9 * SECOND, QUIET, [2; 8]), None);
        assert_eq!(
            pinger.due(sent + 10 * SECOND, QUIET, [2; 8]),
            Some(Due::Lost)
        );
    }

    #[test]
    fn a_side_that_says_or_takes_something_is_not_lost() {
        let start = Instant::now();
        let mut pinger = Pinger::new(300 * SECOND, 10 * SECOND, start);
        let sent = start + 300 * SECOND;
        assert_eq!(pinger.due(sent, QUIET, [1; 8]), Some(Due::Ping([1; 8])));
        let signs = [
            Seen {
                received: 1,
                ..QUIET
            },
            Seen {
                received: 1,
                taken: Some(9),
                ..QUIET
            },
            Seen {
                received: 1,
                taken: Some(10),
                ..QUIET
            },
            Seen {
                received: 1,
                held_up: true,
                ..QUIET
            },
        ];
        for seen in signs {
            assert_eq!(
                pinger.due(pinger.deadline(), seen, [2; 8]),
                None,
                "{seen:?}"
            );
        }
        let last = Seen {
            received: 1,
            ..QUIET
        };
        assert_eq!(pinger.due(pinger.deadline(), last, [2; 8]), Some(Due::Lost));
    }
}
