//! How slowly a client may send a body, or take an answer.
//!
//! Only time in which the client is waited for counts, not what the proxy or an upstream takes. A client
//! may be waited for as long as its bytes would have taken at the slowest rate, and as long as one wait may
//! take (with an answer [`GRACE`] at most) on top of that; so it may pause, but not live on a byte now and then.
//! The deadline of a single wait is somebody else's.
//!
//! What shares a connection shares its rate. Of ten bodies that come on one each needs a tenth. Answers count
//! together: one may have to wait until the client has taken all that went out before it.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client has been waited for, against what it has moved.
pub struct Pace {
    /// Bytes a second; `None`: any.
    rate: Option<NonZeroU64>,
    shared: Option<Shared>,
    /// Bytes moved, when this was last asked.
    moved: u64,
    /// How much longer the client may be waited for.
    left: Duration,
    /// The most that this can become.
    most: Duration,
    /// The beginning of the present wait.
    since: Option<Instant>,
}

/// What shares a connection.
pub trait Sharers: Send + Sync {
    /// How many they are now.
    fn count(&self) -> u32;
    /// Counts the bytes of all their answers that have gone out.
    fn gone_out(&self) -> &AtomicU64;
}

/// What is shared.
enum Shared {
    /// Each has its part of the rate.
    Rate(Arc<dyn Sharers>),
    /// All are as fast as they are together.
    Movement(Arc<dyn Sharers>),
}

impl Pace {
    /// Of what a client sends, at `rate` bytes a second; one wait may take `patience`. A fast beginning is
    /// worth a minute of silence and no more, or that one wait. `sharers` send on the same connection.
    pub fn receiving(
        rate: Option<NonZeroU64>,
        patience: Duration,
        sharers: Option<Arc<dyn Sharers>>,
    ) -> Pace {
        Pace {
            rate,
            shared: sharers.map(Shared::Rate),
            moved: 0,
            left: patience,
            most: patience.max(MOST_CREDIT),
            since: None,
        }
    }

    /// Of what a client takes, as [`Pace::receiving`]. Much of it may lie in the kernel and has to last until
    /// the client has made room there, so it is worth what it is worth; what the `sharers` have put there
    /// before is worth minutes.
    pub fn sending(
        rate: Option<NonZeroU64>,
        patience: Duration,
        sharers: Option<Arc<dyn Sharers>>,
    ) -> Pace {
        let before = sharers
            .as_ref()
            .map_or(0, |all| all.gone_out().load(Ordering::Relaxed));
        let worth = rate.map_or(0, |rate| rate.get().saturating_mul(MOST_BEFORE));
        Pace {
            rate,
            shared: sharers.map(Shared::Movement),
            moved: before.saturating_sub(worth),
            left: patience.min(GRACE),
            most: Duration::MAX,
            since: None,
        }
    }

    /// Counts what has gone out for all that share the connection.
    pub fn goes_out(&self, bytes: usize) {
        if let Some(Shared::Movement(all)) = &self.shared {
            all.gone_out().fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// The client is waited for, and has moved so many bytes in all; tells when that is too slow.
    pub fn waits(&mut self, moved: u64) -> Instant {
        let now = Instant::now();
        if self.rate.is_none() {
            return now + FOREVER;
        }
        let moved = self.together(moved);
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
            self.account(self.together(moved), Instant::now());
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

    /// How many have a part of the rate.
    fn sharers(&self) -> u32 {
        match &self.shared {
            Some(Shared::Rate(all)) => all.count().max(1),
            Some(Shared::Movement(_)) | None => 1,
        }
    }

    /// What counts as moved, where this one has moved so much.
    fn together(&self, moved: u64) -> u64 {
        match &self.shared {
            Some(Shared::Movement(all)) => all.gone_out().load(Ordering::Relaxed),
            Some(Shared::Rate(_)) | None => moved,
        }
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

/// The most that a client may be waited for before the rate counts at which it takes an answer.
const GRACE: Duration = Duration::from_secs(10);
/// Seconds that an answer may wait for what went out before it: a window of HTTP/2 may be many megabytes, and
/// be given back in large pieces.
const MOST_BEFORE: u64 = 300;
const MOST_CREDIT: Duration = Duration::from_secs(60);
const NANOS: u64 = 1_000_000_000;
/// Longer than anything lasts, and within what a clock can say.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[derive(Default)]
    struct Ten(AtomicU64);

    impl Sharers for Ten {
        fn count(&self) -> u32 {
            10
        }

        fn gone_out(&self) -> &AtomicU64 {
            &self.0
        }
    }

    const RATE: Option<NonZeroU64> = NonZeroU64::new(100);
    const SECOND: Duration = Duration::from_secs(1);

    /// How many seconds a client is waited for that moves so many bytes each second, on each of all streams.
    async fn lasts(mut pace: Pace, first: u64, each: u64) -> u64 {
        let start = Instant::now();
        let mut moved = 0;
        pace.waits(moved);
        moved += first;
        pace.goes_out(first as usize);
        for _ in 0..10_000 {
            // Before the next byte.
            if pace.waits(moved) < Instant::now() + SECOND {
                break;
            }
            advance(SECOND).await;
            moved += each;
            pace.goes_out(10 * each as usize);
        }
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_the_rate_is_waited_for_as_long_as_it_takes() {
        let receiving = || Pace::receiving(RATE, GRACE * 3, None);
        let sending = || Pace::sending(RATE, GRACE * 3, None);
        let ten = |before| -> Option<Arc<dyn Sharers>> { Some(Arc::new(Ten(before))) };
        let received = || Pace::receiving(RATE, GRACE * 3, ten(0.into()));
        let sent = |before: u64| Pace::sending(RATE, GRACE * 3, ten(before.into()));
        for (name, pace, first, each, expect) in [
            ("nothing", receiving(), 0, 0, 30),
            ("nothing taken", sending(), 0, 0, 10),
            ("no rate", Pace::receiving(None, GRACE, None), 0, 0, 10_000),
            ("impatience", Pace::sending(RATE, 3 * SECOND, None), 0, 1, 3),
            ("a byte a second", receiving(), 0, 1, 30),
            ("half the rate", receiving(), 0, 50, 60),
            ("the rate", receiving(), 0, 100, 10_000),
            ("a fast beginning", receiving(), 10_000_000, 0, 60),
            (
                "much patience",
                Pace::receiving(RATE, 90 * SECOND, None),
                10_000_000,
                0,
                90,
            ),
            ("a full kernel", sending(), 100_000, 0, 1010),
            ("a tenth sent of each", received(), 0, 10, 10_000),
            ("less than a tenth", received(), 0, 1, 333),
            ("a tenth taken of each", sent(0), 0, 10, 10_000),
            ("less of each", sent(0), 0, 5, 20),
            ("behind something small", sent(1_000), 0, 0, 20),
            ("behind a full window", sent(12_000_000), 0, 0, 310),
        ] {
            let lasted = lasts(pace, first, each).await;
            assert!(lasted.abs_diff(expect) <= 2, "{name}: {lasted} seconds");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let mut pace = Pace::receiving(RATE, GRACE, None);
        for second in 0..9 {
            let until = pace.waits(0) - Instant::now();
            assert_eq!(until.as_secs(), 10 - second);
            advance(SECOND).await;
            pace.goes_on(0);
            advance(100 * SECOND).await;
        }
    }
}
