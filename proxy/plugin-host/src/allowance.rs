//! So many lines a second, and a count of the rest: for what others can make the proxy write.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines that one source may write. Shared by all threads.
#[derive(Debug)]
pub struct Allowance {
    per_second: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    started: Instant,
    lines: u32,
    suppressed: u64,
}

/// What becomes of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// It may be written.
    pub allowed: bool,
    /// So many were not, in the second before; to be said now.
    pub suppressed: u64,
}

impl Allowance {
    pub fn new(per_second: u32) -> Self {
        let window = Window {
            started: Instant::now(),
            lines: 0,
            suppressed: 0,
        };
        Allowance {
            per_second,
            window: Mutex::new(window),
        }
    }

    /// Asks for a line. The number of suppressed ones comes with the first line of a later second.
    pub fn pass(&self, now: Instant) -> Pass {
        // No code panics under this lock.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suppressed = 0;
        if now.saturating_duration_since(window.started) >= SECOND {
            suppressed = window.suppressed;
            *window = Window {
                started: now,
                lines: 0,
                suppressed: 0,
            };
        }
        let allowed = window.lines < self.per_second;
        if allowed {
            window.lines += 1;
        } else {
            window.suppressed += 1;
        }
        Pass {
            allowed,
            suppressed,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_so_many_lines_and_the_next_one_counts_the_rest() {
        let allowance = Allowance::new(100);
        let start = Instant::now();
        let passed = (0..1000).filter(|_| allowance.pass(start).allowed).count();
        assert_eq!(passed, 100);
        for suppressed in [900, 0] {
            let allowed = true;
            let expect = Pass {
                allowed,
                suppressed,
            };
            assert_eq!(allowance.pass(start + SECOND), expect);
        }
    }

    #[test]
    fn none_is_an_allowance_too() {
        let allowance = Allowance::new(0);
        let start = Instant::now();
        assert!(!allowance.pass(start).allowed);
        let later = allowance.pass(start + SECOND);
        assert_eq!((later.allowed, later.suppressed), (false, 1));
    }
}
