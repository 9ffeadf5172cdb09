//! What guests write to the log: escaped, cut, and no more than so many lines a second.
//!
//! The allowance is the plugin's, not the instance's: ten thousand handshakes a second must not
//! become ten thousand lines.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

/// The log allowance of one plugin.
#[derive(Debug)]
pub(crate) struct LogGate {
    window: Mutex<Window>,
    silent: bool,
}

#[derive(Debug)]
struct Window {
    started: Instant,
    lines: u32,
    suppressed: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Pass {
    allowed: bool,
    /// Lines that the window before kept back, to be said now.
    suppressed: u64,
}

impl LogGate {
    pub(crate) fn new() -> Self {
        let window = Window {
            started: Instant::now(),
            lines: 0,
            suppressed: 0,
        };
        LogGate {
            window: Mutex::new(window),
            silent: false,
        }
    }

    /// For what is run again only to be measured, and has said its lines before.
    pub(crate) fn silent() -> Self {
        LogGate {
            silent: true,
            ..Self::new()
        }
    }

    /// Writes a line of a guest, or counts it as suppressed. The number of suppressed lines
    /// comes with the first line of a later second.
    pub(crate) fn write(
        &self,
        level: Level,
        plugin: &str,
        route: &str,
        message: &str,
        fields: &[(String, String)],
    ) {
        if self.silent || !enabled(level) {
            return;
        }
        let pass = self.pass(Instant::now());
        if pass.suppressed > 0 {
            let suppressed = pass.suppressed;
            tracing::warn!(target: TARGET, plugin, route, suppressed, "log lines suppressed");
        }
        if !pass.allowed {
            return;
        }
        let message = escape(message);
        let fields = told(fields);
        let fields = fields.as_deref().map(tracing::field::display);
        match level {
            Level::TRACE => tracing::trace!(target: TARGET, plugin, route, fields, "{message}"),
            Level::DEBUG => tracing::debug!(target: TARGET, plugin, route, fields, "{message}"),
            Level::INFO => tracing::info!(target: TARGET, plugin, route, fields, "{message}"),
            Level::WARN => tracing::warn!(target: TARGET, plugin, route, fields, "{message}"),
            Level::ERROR => tracing::error!(target: TARGET, plugin, route, fields, "{message}"),
        }
    }

    fn pass(&self, now: Instant) -> Pass {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suppressed = 0;
        if now.saturating_duration_since(window.started) >= WINDOW {
            suppressed = window.suppressed;
            *window = Window {
                started: now,
                lines: 0,
                suppressed: 0,
            };
        }
        let allowed = window.lines < LINES_PER_WINDOW;
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

/// A guest's fields as one, `name=value` each; `None` where it has none.
fn told(fields: &[(String, String)]) -> Option<String> {
    if fields.is_empty() {
        return None;
    }
    let fields = fields.iter().take(MAX_LOG_FIELDS);
    let pairs = fields.map(|(name, value)| format!("{}=\"{}\"", escape(name), escape(value)));
    Some(pairs.collect::<Vec<_>>().join(" "))
}

/// A guest's text as part of one line: control and direction characters escaped, at most 1 KiB.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_LINE));
    for c in text.chars() {
        if out.len() + MAX_ESCAPE > MAX_LINE {
            out.push('…');
            break;
        }
        let reorders = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if c.is_control() || reorders {
            // Writing to a string does not fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn enabled(level: Level) -> bool {
    match level {
        Level::TRACE => tracing::enabled!(target: TARGET, Level::TRACE),
        Level::DEBUG => tracing::enabled!(target: TARGET, Level::DEBUG),
        Level::INFO => tracing::enabled!(target: TARGET, Level::INFO),
        Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
        Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
    }
}

const TARGET: &str = "sluicegate::plugin";
const WINDOW: Duration = Duration::from_secs(1);
const LINES_PER_WINDOW: u32 = 100;
/// Fields of one line.
const MAX_LOG_FIELDS: usize = 16;
/// Bytes of one line.
const MAX_LINE: usize = 1024;
/// The longest escape, `\u{10ffff}`.
const MAX_ESCAPE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_so_many_lines_and_the_next_one_counts_the_rest() {
        let gate = LogGate::new();
        let start = Instant::now();
        let passed = (0..1000).filter(|_| gate.pass(start).allowed).count();
        assert_eq!(passed, 100);
        assert_eq!(
            gate.pass(start + WINDOW),
            Pass {
                allowed: true,
                suppressed: 900
            }
        );
        assert_eq!(
            gate.pass(start + WINDOW),
            Pass {
                allowed: true,
                suppressed: 0
            }
        );
    }

    #[test]
    fn lines_are_escaped_and_cut() {
        for (text, expect) in [
            ("plain é", "plain é"),
            ("a\r\nb\x1b[31m\0", r"a\r\nb\u{1b}[31m\u{0}"),
            ("a\u{202e}b\u{85}", r"a\u{202e}b\u{85}"),
        ] {
            assert_eq!(escape(text), expect);
        }
        let long = escape(&"\u{1b}".repeat(2000));
        assert!(
            long.len() <= MAX_LINE + '…'.len_utf8() && long.ends_with('…'),
            "{}",
            long.len()
        );
    }
}
