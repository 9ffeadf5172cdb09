//! Passive health: an endpoint that keeps failing gets nothing for a while, then one trial.
//!
//! Up, until `fails` failures fall within `within`; out for `out_for`; then half open: one request
//! at a time is let through as a trial, and its outcome brings the endpoint back or sends it out
//! again. Requests that began earlier say nothing about an endpoint that is out. The caller passes
//! the time in; nothing here reads a clock or waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::PassiveHealth;

/// How an endpoint did for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// What a request may expect of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Availability {
    Up,
    /// Out long enough, and nobody is trying it yet.
    Trial,
    Out,
}

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    /// Mirrors `State::Up`, so that a pick takes no lock while all is well.
    up: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The latest failures, oldest first; fewer than `fails`, none older than `within`.
    Up(VecDeque<Instant>),
    Out {
        until: Instant,
        out_for: Duration,
    },
    /// One request tries it. Its client may take its time, so after a while another may try too.
    OnTrial {
        until: Instant,
        out_for: Duration,
    },
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            up: AtomicBool::new(true),
            state: Mutex::new(State::Up(VecDeque::new())),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub(super) fn availability(&self, now: Instant) -> Availability {
        if self.is_up() {
            return Availability::Up;
        }
        match *self.lock() {
            State::Up(_) => Availability::Up,
            State::Out { until, .. } | State::OnTrial { until, .. } if until <= now => {
                Availability::Trial
            }
            State::Out { .. } | State::OnTrial { .. } => Availability::Out,
        }
    }

    /// Lets a request through: `Some(true)` makes it the trial, `None` refuses it.
    pub(super) fn admit(&self, now: Instant) -> Option<bool> {
        if self.is_up() {
            return Some(false);
        }
        let mut state = self.lock();
        match *state {
            State::Up(_) => Some(false),
            State::Out { until, out_for } | State::OnTrial { until, out_for } if until <= now => {
                *state = State::OnTrial {
                    until: now + out_for,
                    out_for,
                };
                Some(true)
            }
            State::Out { .. } | State::OnTrial { .. } => None,
        }
    }

    pub(super) fn report(
        &self,
        outcome: Outcome,
        trial: bool,
        settings: PassiveHealth,
        now: Instant,
    ) {
        if outcome == Outcome::Success && !trial {
            return;
        }
        let mut state = self.lock();
        let goes_out = match (&mut *state, outcome) {
            (State::Up(failures), Outcome::Failure) => {
                while let Some(&first) = failures.front()
                    && now.duration_since(first) > settings.within
                {
                    failures.pop_front();
                }
                failures.push_back(now);
                failures.len() >= settings.fails.get() as usize
            }
            (State::OnTrial { .. }, Outcome::Failure) => trial,
            (State::OnTrial { .. }, Outcome::Success) => {
                *state = State::Up(VecDeque::new());
                self.up.store(true, Ordering::Release);
                return;
            }
            (State::Up(_), Outcome::Success) | (State::Out { .. }, _) => false,
        };
        if goes_out {
            let until = now + settings.out_for;
            *state = State::Out {
                until,
                out_for: settings.out_for,
            };
            self.up.store(false, Ordering::Release);
        }
    }

    /// The trial ended without an answer: the next request may try.
    pub(super) fn abandon_trial(&self, now: Instant) {
        let mut state = self.lock();
        if let State::OnTrial { out_for, .. } = *state {
            *state = State::Out {
                until: now,
                out_for,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const SETTINGS: PassiveHealth = PassiveHealth {
        fails: NonZeroU32::new(3).unwrap(),
        within: Duration::from_secs(10),
        out_for: Duration::from_secs(30),
    };

    struct Story {
        health: Health,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            Self {
                health: Health::new(),
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn fail(&self, seconds: u64, trial: bool) {
            let now = self.at(seconds);
            self.health.report(Outcome::Failure, trial, SETTINGS, now);
        }

        fn succeed(&self, seconds: u64, trial: bool) {
            let now = self.at(seconds);
            self.health.report(Outcome::Success, trial, SETTINGS, now);
        }

        fn check(&self, seconds: u64, expected: Availability) {
            let found = self.health.availability(self.at(seconds));
            assert_eq!(found, expected, "at {seconds} s");
        }
    }

    #[test]
    fn only_failures_within_the_window_count() {
        let story = Story::new();
        for seconds in [0, 6, 12, 18, 24] {
            story.fail(seconds, false);
            story.check(seconds, Availability::Up);
        }
        story.fail(25, false);
        story.check(25, Availability::Out);
        assert!(!story.health.is_up());
        story.check(54, Availability::Out);
        story.check(55, Availability::Trial);
    }

    #[test]
    fn a_trial_that_takes_too_long_does_not_keep_the_others_out() {
        let story = Story::new();
        (0..3).for_each(|seconds| story.fail(seconds, false));
        assert_eq!(story.health.admit(story.at(32)), Some(true));
        assert_eq!(story.health.admit(story.at(61)), None);
        assert_eq!(story.health.admit(story.at(62)), Some(true));
        story.succeed(63, true);
        story.check(63, Availability::Up);
        story.fail(64, true);
        story.check(64, Availability::Up);
    }

    #[test]
    fn one_trial_at_a_time_decides() {
        let story = Story::new();
        for _ in 0..3 {
            story.fail(0, false);
        }
        assert_eq!(story.health.admit(story.at(29)), None);
        assert_eq!(story.health.admit(story.at(30)), Some(true));
        assert_eq!(story.health.admit(story.at(30)), None);
        // An old request's outcome decides nothing.
        story.fail(31, false);
        story.succeed(31, false);
        story.check(31, Availability::Out);

        story.fail(32, true);
        story.check(61, Availability::Out);
        assert_eq!(story.health.admit(story.at(62)), Some(true));
        story.health.abandon_trial(story.at(63));
        assert_eq!(story.health.admit(story.at(63)), Some(true));
        story.succeed(64, true);
        assert!(story.health.is_up());
        assert_eq!(story.health.admit(story.at(64)), Some(false));
        // The count begins anew.
        story.fail(65, false);
        story.fail(65, false);
        story.check(65, Availability::Up);
    }
}
