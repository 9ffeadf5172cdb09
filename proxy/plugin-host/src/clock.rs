//! What time it is: the system's clock, or one that a test sets.
//!
//! Two readings that are never mixed. The time of day may jump when somebody sets the machine's clock;
//! it is what plugins compare dates with. Monotonic time never goes back; whatever expires or waits here
//! is measured with it, so that a jump of the clock expires nothing.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time, shared by all threads.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day, since 1970-01-01 00:00 UTC.
    fn since_epoch(&self) -> Duration;

    /// The time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct SettableClock {
    reading: Mutex<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    since_epoch: Duration,
    monotonic: Duration,
}

impl SystemClock {
    /// Its monotonic time begins now.
    pub fn new() -> Self {
        SystemClock {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn since_epoch(&self) -> Duration {
        // A clock set before 1970 reads as 1970.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

impl SettableClock {
    /// Stands at this time of day; its monotonic time is zero.
    pub fn new(since_epoch: Duration) -> Self {
        SettableClock {
            reading: Mutex::new(Reading {
                since_epoch,
                monotonic: Duration::ZERO,
            }),
        }
    }

    /// Lets time pass, for both readings.
    pub fn advance(&self, by: Duration) {
        self.change(|reading| {
            reading.since_epoch = reading.since_epoch.saturating_add(by);
            reading.monotonic = reading.monotonic.saturating_add(by);
        });
    }

    /// Sets the time of day, forward or back, as if somebody had set the machine's clock: no time
    /// passes.
    pub fn set(&self, since_epoch: Duration) {
        self.change(|reading| reading.since_epoch = since_epoch);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Reading) -> T) -> T {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Clock for SettableClock {
    fn since_epoch(&self) -> Duration {
        self.change(|reading| reading.since_epoch)
    }

    fn monotonic(&self) -> Duration {
        self.change(|reading| reading.monotonic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_clock_tells_the_time_of_day_and_goes_on() {
        let clock = SystemClock::new();
        let year_2026 = Duration::from_secs(1_767_225_600);
        assert!(clock.since_epoch() > year_2026, "{:?}", clock.since_epoch());
        let before = clock.monotonic();
        while clock.monotonic() == before {}
        assert!(clock.monotonic() > before);
    }

    #[test]
    fn a_settable_clock_moves_only_when_moved() {
        let noon = Duration::from_secs(43_200);
        let clock = SettableClock::new(noon);
        assert_eq!(
            (clock.since_epoch(), clock.monotonic()),
            (noon, Duration::ZERO)
        );
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.since_epoch(), noon + Duration::from_secs(5));
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
        clock.set(Duration::from_secs(1));
        assert_eq!(clock.since_epoch(), Duration::from_secs(1));
        assert_eq!(
            clock.monotonic(),
            Duration::from_secs(5),
            "a jump is no time"
        );
    }
}
