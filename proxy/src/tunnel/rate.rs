//! Token buckets: how much a side of a tunnel may send in a second, and at once after a pause.
//!
//! No clock in here: the caller says what time it is. Levels are whole billionths of a token, and a
//! nanosecond brings a whole number of them, so nothing is rounded and no bucket drifts, however long
//! it lives and however often it is asked.
//!
//! What is larger than a whole burst passes when the bucket is full, and leaves a debt: it could pass at no
//! other time, and the rate holds in the long run.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::Allowance;

/// An allowance as it is used up: tokens that come with time and go with what is sent.
#[derive(Debug, Clone)]
pub struct Bucket {
    allowance: Allowance,
    /// In billionths of a token, below nothing after a debt.
    level: i128,
    /// When the level was right.
    at: Instant,
}

impl Bucket {
    /// A bucket that is full at `now`.
    pub fn new(allowance: Allowance, now: Instant) -> Bucket {
        Bucket {
            allowance,
            level: billionths(allowance.burst),
            at: now,
        }
    }

    /// Takes `n` tokens: as many as there are, or more than a burst out of a full bucket.
    ///
    /// # Errors
    /// How long until it would do, if nothing else is taken; then nothing was taken.
    pub fn take(&mut self, n: u64, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        let missing = self.missing(n);
        if !missing.is_zero() {
            return Err(missing);
        }
        self.level -= billionths(n);
        Ok(())
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        // A nanosecond brings a billionth of what a second brings.
        let nanos = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let come = nanos.saturating_mul(i128::from(self.allowance.per_second));
        let full = billionths(self.allowance.burst);
        self.level = self.level.saturating_add(come).min(full);
        self.at = self.at.max(now);
    }

    /// How long until `n` can be taken; exact, in whole nanoseconds.
    fn missing(&self, n: u64) -> Duration {
        // Nothing costs nothing, whatever the debt.
        if n == 0 {
            return Duration::ZERO;
        }
        let needed = billionths(n.min(self.allowance.burst)) - self.level;
        let Ok(needed) = u128::try_from(needed) else {
            return Duration::ZERO;
        };
        let nanos = needed.div_ceil(u128::from(self.allowance.per_second.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Tokens in the unit of the level; the largest number is far from its end.
fn billionths(tokens: u64) -> i128 {
    i128::from(tokens) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowance(per_second: u64, burst: u64) -> Allowance {
        Allowance { per_second, burst }
    }

    #[test]
    fn tokens_come_with_time_and_go_with_what_is_taken() {
        /// Steps: at this millisecond take so much; `Some`: refused for so many milliseconds.
        #[track_caller]
        fn check(allowance: Allowance, steps: &[(u64, u64, Option<u64>)]) {
            let start = Instant::now();
            let mut bucket = Bucket::new(allowance, start);
            for (at, n, expected) in steps {
                let refused = bucket.take(*n, start + Duration::from_millis(*at)).err();
                let expected = expected.map(Duration::from_millis);
                assert_eq!(refused, expected, "{n} at {at} ms");
            }
        }
        // A second's worth at once, then as they come.
        check(
            allowance(4, 4),
            &[
                (0, 4, None),
                (0, 1, Some(250)),
                (249, 1, Some(1)),
                (250, 1, None),
                (250, 1, Some(250)),
                (750, 2, None),
                (750, 3, Some(750)),
            ],
        );
        // A pause fills it up to a burst and no further.
        check(
            allowance(1, 10),
            &[
                (0, 10, None),
                (5_000, 6, Some(1_000)),
                (5_000, 5, None),
                (1_000_000, 10, None),
                (1_000_000, 1, Some(1_000)),
            ],
        );
        // More than a burst: when it is full, and the debt is paid before anything else.
        check(
            allowance(10, 10),
            &[
                (0, 1, None),
                (0, 30, Some(100)),
                (100, 30, None),
                (100, 1, Some(2_100)),
                (2_000, 0, None),
                (2_100, 1, Some(100)),
                (2_200, 1, None),
            ],
        );
        // A clock that goes back brings nothing, and takes nothing.
        check(
            allowance(10, 10),
            &[
                (500, 10, None),
                (0, 1, Some(100)),
                (600, 1, None),
                (600, 1, Some(100)),
            ],
        );
    }

    #[test]
    fn the_largest_numbers_fit() {
        let start = Instant::now();
        let century = Duration::from_secs(100 * 365 * 86_400);
        let mut large = Bucket::new(allowance(u64::MAX, u64::MAX), start);
        assert_eq!(large.take(u64::MAX, start), Ok(()));
        assert_eq!(large.take(u64::MAX, start), Err(Duration::from_secs(1)));
        assert_eq!(large.take(u64::MAX, start + century), Ok(()));

        let mut slow = Bucket::new(allowance(1, 1), start);
        assert_eq!(slow.take(u64::MAX, start), Ok(()));
        assert_eq!(slow.take(1, start), Err(Duration::from_nanos(u64::MAX)));
        assert!(slow.take(1, start + century).is_err());
    }

    proptest! {
        /// Whatever is asked for and when: never more than a burst and what time has brought, and what
        /// is refused passes after just the time that was told.
        #[test]
        fn the_rate_holds_to_the_nanosecond(
            per_second in 1_u64..5_000,
            pause in 0_u64..10_000,
            asks in prop::collection::vec((0_u64..3_000_000_000, 1_u64..20_000), 1..60),
        ) {
            let allowance = allowance(per_second, per_second + pause);
            let start = Instant::now();
            let mut bucket = Bucket::new(allowance, start);
            let (mut elapsed, mut taken) = (0_u128, 0_u128);
            for (step, n) in asks {
                let n = n.min(allowance.burst);
                elapsed += u128::from(step);
                let at = |nanos: u128| start + Duration::from_nanos(u64::try_from(nanos).unwrap());
                if let Err(wait) = bucket.take(n, at(elapsed)) {
                    elapsed += wait.as_nanos();
                    let early = elapsed - 1;
                    prop_assert_eq!(bucket.take(n, at(early)), Err(Duration::from_nanos(1)));
                    prop_assert_eq!(bucket.take(n, at(elapsed)), Ok(()));
                }
                taken += u128::from(n);
                let most = u128::from(allowance.burst) * 1_000_000_000 + elapsed * u128::from(per_second);
                prop_assert!(taken * 1_000_000_000 <= most);
            }
        }
    }

    #[test]
    fn a_day_of_small_steps_does_not_drift() {
        // A third of a token each time: what is rounded away would be missing in the end.
        let start = Instant::now();
        let mut bucket = Bucket::new(allowance(1, 1_000_000_000), start);
        assert_eq!(bucket.take(1_000_000_000, start), Ok(()));
        let mut now = start;
        for _ in 0..300_000 {
            now += Duration::from_nanos(333_333_333);
            assert!(bucket.take(1_000_000_000, now).is_err());
        }
        now += Duration::from_nanos(100_000);
        assert_eq!(bucket.take(100_000, now), Ok(()));
        assert_eq!(bucket.take(1, now), Err(Duration::from_secs(1)));
    }
}
