//! How slowly a client may send a body, or take an answer.
//!
//! Only time in which the client is waited for counts, not what the proxy or an upstream takes. A client
//! may be waited for as long as its bytes would have taken at the slowest rate, and as long as one wait may
//! take ([`GRACE`] at most) on top of that; so it may pause, but not live on a byte now and then. The
//! deadline of a single wait is somebody else's.
//!
//! What shares a connection shares its rate: of ten answers that wait on one each needs a tenth.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long a client has been waited for, against what it has moved.
pub struct Pace {
    /// Bytes a second; `None`: any.
    rate: Option<NonZeroU64>,
    sharers: Option<Arc<dyn Sharers>>,
    /// Bytes moved, when this was last asked.
    moved: u64,
    /// How much longer the client may be waited for.
    left: Duration,
    /// The most that this can become.
    most: Duration,
    /// The beginning of the present wait.
    since: Option<Instant>,
}

/// How many share a connection's rate now.
pub trait Sharers: Send + Sync {
    fn count(&self) -> u32;
}

impl Pace {
    /// Of what a client sends, at `rate` bytes a second; one wait may take `patience`. A fast beginning is
    /// worth a minute of silence and no more.
    pub fn receiving(rate: Option<NonZeroU64>, patience: Duration) -> Pace {
        Pace::new(rate, patience, MOST_CREDIT)
    }

    /// Of what a client takes, as [`Pace::receiving`]. Much of it may lie in the kernel and has to last until
    /// the client has made room there, so it is worth what it is worth.
    pub fn sending(rate: Option<NonZeroU64>, patience: Duration) -> Pace {
        Pace::new(rate, patience, Duration::MAX)
    }

    fn new(rate: Option<NonZeroU64>, patience: Duration, most: Duration) -> Pace {
        Pace {
            rate,
            sharers: None,
            moved: 0,
            left: patience.min(GRACE),
            most,
            since: None,
        }
    }

    pub fn shared(mut self, sharers: Option<Arc<dyn Sharers>>) -> Pace {
        self.sharers = sharers;
        self
    }

    /// The client is waited for, and has moved so many bytes in all; tells when that is too slow.
    pub fn waits(&mut self, moved: u64) -> Instant {
        let now = Instant::now();
        if self.rate.is_none() {
            return now + FOREVER;
        }
        if moved != self.moved {
            self.account(moved, now);
        }
        let since = *self.since.get_or_insert(now);
        let left = self.left.saturating_mul(self.sharers());
        since.checked_add(left).unwrap_or(now + FOREVER)
    }

    /// Something else is waited for, or nothing.
    pub fn goes_on(&mut self, moved: u64) {
        if self.since.is_some() {
            self.account(moved, Instant::now());
        }
    }

    /// Ends a wait.
    fn account(&mut self, moved: u64, now: Instant) {
        let bytes = moved.saturating_sub(self.moved);
        self.moved = moved;
        let earned = self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos(bytes.saturating_mul(NANOS) / rate)
        });
        let waited = self
            .since
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        let left = self.left.saturating_sub(waited / self.sharers());
        self.left = left.saturating_add(earned).min(self.most);
    }

    fn sharers(&self) -> u32 {
        self.sharers.as_ref().map_or(1, |own| own.count().max(1))
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace")
            .field("rate", &self.rate)
            .field("moved", &self.moved)
            .field("left", &self.left)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// The most that a client may be waited for before its rate counts.
const GRACE: Duration = Duration::from_secs(10);
const MOST_CREDIT: Duration = Duration::from_secs(60);
const NANOS: u64 = 1_000_000_000;
/// Longer than anything lasts, and within what a clock can say.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    struct Ten;

    impl Sharers for Ten {
        fn count(&self) -> u32 {
            10
        }
    }

    const RATE: Option<NonZeroU64> = NonZeroU64::new(100);
    const SECOND: Duration = Duration::from_secs(1);

    /// How many seconds a client is waited for that moves so many bytes each second.
    async fn lasts(mut pace: Pace, first: u64, each: u64) -> u64 {
        let start = Instant::now();
        let mut moved = 0;
        pace.waits(moved);
        moved += first;
        for _ in 0..10_000 {
            // Before the next byte.
            if pace.waits(moved) < Instant::now() + SECOND {
                break;
            }
            advance(SECOND).await;
            moved += each;
        }
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_the_rate_is_waited_for_as_long_as_it_takes() {
        let receiving = || Pace::receiving(RATE, GRACE * 6);
        let sending = || Pace::sending(RATE, GRACE * 6);
        let shared = || sending().shared(Some(Arc::new(Ten)));
        for (name, pace, first, each, expect) in [
            ("nothing", receiving(), 0, 0, 10),
            ("no rate", Pace::receiving(None, GRACE), 0, 0, 10_000),
            ("impatience", Pace::receiving(RATE, 3 * SECOND), 0, 1, 3),
            ("a byte a second", receiving(), 0, 1, 10),
            ("half the rate", receiving(), 0, 50, 20),
            ("the rate", receiving(), 0, 100, 10_000),
            ("a tenth of it each", shared(), 0, 10, 10_000),
            ("less than a tenth", shared(), 0, 1, 111),
            ("a fast beginning", receiving(), 10_000_000, 0, 60),
            ("a full kernel", sending(), 100_000, 0, 1010),
        ] {
            let lasted = lasts(pace, first, each).await;
            assert!(lasted.abs_diff(expect) <= 2, "{name}: {lasted} seconds");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let mut pace = Pace::receiving(RATE, GRACE);
        for second in 0..9 {
            let until = pace.waits(0) - Instant::now();
            assert_eq!(until.as_secs(), 10 - second);
            advance(SECOND).await;
            pace.goes_on(0);
            advance(100 * SECOND).await;
        }
    }
}
