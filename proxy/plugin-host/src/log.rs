//! What guests write to the log: escaped, cut, and no more than so many lines a second.
//!
//! The allowance is the plugin's, not the instance's: ten thousand handshakes a second must not
//! become ten thousand lines.

use std::fmt::Write as _;
use std::time::Instant;

use tracing::Level;

use crate::allowance::Allowance;

/// The log allowance of one plugin.
#[derive(Debug)]
pub(crate) struct LogGate {
    lines: Allowance,
    /// Bytes of a message, and of a field.
    line: usize,
    silent: bool,
}

impl LogGate {
    /// So many lines a second, each of so many bytes.
    pub(crate) fn new(lines: u32, line: usize) -> Self {
        LogGate {
            lines: Allowance::new(lines),
            line,
            silent: false,
        }
    }

    /// For what is run again only to be measured, and has said its lines before.
    pub(crate) fn silent() -> Self {
        LogGate {
            silent: true,
            ..Self::new(0, 0)
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
        let pass = self.lines.pass(Instant::now());
        if pass.suppressed > 0 {
            let suppressed = pass.suppressed;
            tracing::warn!(target: TARGET, plugin, route, suppressed, "log lines suppressed");
        }
        if !pass.allowed {
            return;
        }
        let message = escape_to(message, self.line);
        let fields = told(fields, self.line);
        let fields = fields.as_deref().map(tracing::field::display);
        match level {
            Level::TRACE => tracing::trace!(target: TARGET, plugin, route, fields, "{message}"),
            Level::DEBUG => tracing::debug!(target: TARGET, plugin, route, fields, "{message}"),
            Level::INFO => tracing::info!(target: TARGET, plugin, route, fields, "{message}"),
            Level::WARN => tracing::warn!(target: TARGET, plugin, route, fields, "{message}"),
            Level::ERROR => tracing::error!(target: TARGET, plugin, route, fields, "{message}"),
        }
    }
}

/// A guest's fields as one, `name=value` each; `None` where it has none.
fn told(fields: &[(String, String)], line: usize) -> Option<String> {
    if fields.is_empty() {
        return None;
    }
    let fields = fields.iter().take(MAX_LOG_FIELDS);
    // Before control characters become escapes themselves.
    let cut = |text: &String| {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        escape_to(&quoted, line)
    };
    let pairs = fields.map(|(name, value)| format!("{}=\"{}\"", cut(name), cut(value)));
    Some(pairs.collect::<Vec<_>>().join(" "))
}

/// A guest's text as part of one line: control and direction characters escaped, at most 1 KiB.
pub(crate) fn escape(text: &str) -> String {
    escape_to(text, MAX_LINE)
}

/// As [`escape`], with at most so many bytes and an ellipsis.
fn escape_to(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        if out.len() + MAX_ESCAPE > most {
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
/// Fields of one line.
const MAX_LOG_FIELDS: usize = 16;
/// Bytes of what is no log line, but part of a message of ours.
const MAX_LINE: usize = 1024;
/// The longest escape, `\u{10ffff}`.
const MAX_ESCAPE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_and_cut() {
        for (text, expect) in [
            ("plain é", "plain é"),
            ("a\r\nb\x1b[31m\0", r"a\r\nb\u{1b}[31m\u{0}"),
            ("a\u{202e}b\u{85}", r"a\u{202e}b\u{85}"),
        ] {
            assert_eq!(escape(text), expect);
        }
        for most in [64, MAX_LINE, 10_000] {
            let long = escape_to(&"\u{1b}".repeat(2000), most);
            let len = long.len();
            assert!(len <= most + '…'.len_utf8() && long.ends_with('…'), "{len}");
        }
    }
}
