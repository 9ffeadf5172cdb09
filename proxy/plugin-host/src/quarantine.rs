//! A plugin that fails again and again on a route is not asked for a while.
//!
//! In, until `fails` failures fall within `within`; then out for `out_for`, and back as if nothing had
//! been. Failures of calls that began before it went out say nothing more. The caller passes the
//! time in; nothing here reads a clock, waits or writes a log.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When a plugin goes out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineRule {
    pub fails: NonZeroU32,
    pub within: Duration,
    pub out_for: Duration,
}

/// The standing of one plugin on one route.
#[derive(Debug)]
pub struct Quarantine {
    rule: QuarantineRule,
    /// Mirrors `State::Out`, so that a call takes no lock while all is well.
    out: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The latest failures, oldest first; fewer than `fails`, none older than `within`.
    In(VecDeque<Instant>),
    Out {
        until: Instant,
        /// Calls that were not made.
        spared: u64,
    },
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// Admitted, and the first one after a quarantine that spared it so many calls.
    Back {
        spared: u64,
    },
    Out,
}

impl Quarantine {
    pub fn new(rule: QuarantineRule) -> Self {
        Quarantine {
            rule,
            out: AtomicBool::new(false),
            state: Mutex::new(State::In(VecDeque::new())),
        }
    }

    pub fn rule(&self) -> QuarantineRule {
        self.rule
    }

    /// Asks for a call.
    pub fn admit(&self, now: Instant) -> Admission {
        if !self.out.load(Ordering::Acquire) {
            return Admission::Admitted;
        }
        let mut state = self.lock();
        match &mut *state {
            State::In(_) => Admission::Admitted,
            State::Out { until, spared } if now < *until => {
                *spared += 1;
                Admission::Out
            }
            State::Out { spared, .. } => {
                let spared = *spared;
                *state = State::In(VecDeque::new());
                self.out.store(false, Ordering::Release);
                Admission::Back { spared }
            }
        }
    }

    /// Reports that a call failed; returns when a quarantine ends that begins with this.
    pub fn failed(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let State::In(failures) = &mut *state else {
            return None;
        };
        while let Some(first) = failures.front()
            && now.saturating_duration_since(*first) > self.rule.within
        {
            failures.pop_front();
        }
        failures.push_back(now);
        if failures.len() < self.rule.fails.get() as usize {
            return None;
        }
        // Beyond what a clock can show, nobody waits for the end.
        let until = now.checked_add(self.rule.out_for).unwrap_or(now);
        *state = State::Out { until, spared: 0 };
        self.out.store(true, Ordering::Release);
        Some(until)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quarantine(fails: u32) -> (Quarantine, Instant) {
        let rule = QuarantineRule {
            fails: NonZeroU32::new(fails).unwrap(),
            within: 10 * SECOND,
            out_for: 30 * SECOND,
        };
        (Quarantine::new(rule), Instant::now())
    }

    #[test]
    fn out_after_so_many_failures_and_back_after_so_long() {
        let (quarantine, start) = quarantine(3);
        assert_eq!(quarantine.failed(start), None);
        assert_eq!(quarantine.failed(start), None);
        assert_eq!(quarantine.admit(start), Admission::Admitted);
        let end = start + 30 * SECOND;
        assert_eq!(quarantine.failed(start), Some(end));
        assert_eq!(quarantine.failed(start), None, "one that began before");
        for _ in 0..5 {
            assert_eq!(quarantine.admit(end - SECOND), Admission::Out);
        }
        assert_eq!(quarantine.admit(end), Admission::Back { spared: 5 });
        assert_eq!(quarantine.admit(end), Admission::Admitted);
        assert_eq!(quarantine.failed(end), None, "it begins anew");
    }

    #[test]
    fn old_failures_do_not_count() {
        let (quarantine, start) = quarantine(2);
        for n in 0..100 {
            let now = start + n * 11 * SECOND;
            assert_eq!(quarantine.failed(now), None);
            assert_eq!(quarantine.admit(now), Admission::Admitted);
        }
        let last = start + 99 * 11 * SECOND;
        assert!(
            quarantine.failed(last + 10 * SECOND).is_some(),
            "just within"
        );
    }

    #[test]
    fn one_failure_may_be_enough() {
        let (quarantine, start) = quarantine(1);
        assert!(quarantine.failed(start).is_some());
        assert_eq!(quarantine.admit(start), Admission::Out);
        let end = start + 30 * SECOND;
        assert_eq!(quarantine.admit(end), Admission::Back { spared: 1 });
        assert!(quarantine.failed(end).is_some());
    }
}
