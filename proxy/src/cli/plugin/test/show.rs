//! How a run is shown: a line for each case, the differences of those that fail, and what a call costs.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::super::size;
use super::compare::{Difference, Place};

/// The finished lines of a run.
pub(super) struct Show {
    text: String,
    color: bool,
    /// Say only what is wrong.
    quiet: bool,
}

/// What a time is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Call,
    Message,
}

/// What a plugin costs.
pub(super) struct Costs {
    /// Of a fresh instance and its request hook, or of a message.
    pub(super) call: Option<(Duration, Unit)>,
    /// Bytes.
    pub(super) peak_memory: usize,
    pub(super) compile: Duration,
}

impl Show {
    pub(super) fn new(color: bool, quiet: bool) -> Self {
        Show {
            text: String::new(),
            color,
            quiet,
        }
    }

    /// What was shown since the last time.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    pub(super) fn file(&mut self, name: &str) {
        if !self.quiet {
            self.line(&[name]);
        }
    }

    pub(super) fn passed(&mut self, case: &str) {
        if !self.quiet {
            let ok = self.paint(GREEN, "ok");
            self.line(&["  ", &ok, "      ", &clean(case)]);
        }
    }

    pub(super) fn blessed(&mut self, case: &str) {
        let word = self.paint(YELLOW, "blessed");
        self.line(&["  ", &word, " ", &clean(case)]);
    }

    /// `place` is `FILE:LINE`; `of_message` is that of one of its messages.
    pub(super) fn failed(
        &mut self,
        case: &str,
        place: &str,
        of_message: impl Fn(usize) -> String,
        differences: &[Difference],
        unanswered: &[String],
    ) {
        let word = self.paint(RED, "FAILED");
        self.line(&["  ", &word, "  ", &clean(case), "  (", place, ")"]);
        for Difference {
            place,
            path,
            expected,
            got,
            ..
        } in differences
        {
            let key = clean(&path.join("."));
            let heading = match place {
                Place::Expect => format!("expect.{key}"),
                Place::Message(index) => {
                    let colon = if path.is_empty() { "" } else { ": " };
                    format!(
                        "message {}{colon}{key}  ({})",
                        index + 1,
                        of_message(*index)
                    )
                }
            };
            self.line(&["            ", &heading]);
            for (mark, color, lines) in [("- ", RED, expected), ("+ ", GREEN, got)] {
                for line in lines {
                    let line = self.paint(color, &format!("{mark}{}", clean(line)));
                    self.line(&["              ", &line]);
                }
            }
        }
        for request in unanswered {
            self.line(&["            the plugin asked for ", &clean(request)]);
            self.line(&["            and no `[[case.http]]` answers that"]);
        }
    }

    pub(super) fn report(&mut self, report: &str) {
        self.text.push_str(report);
    }

    pub(super) fn summary(&mut self, plugin: &str, cases: usize, failed: usize, costs: &Costs) {
        if self.quiet && failed == 0 {
            return;
        }
        let counted = match cases {
            1 => "1 case".to_owned(),
            _ => format!("{cases} cases"),
        };
        let result = match failed {
            0 => self.paint(GREEN, "all pass"),
            _ => self.paint(RED, &format!("{failed} failed")),
        };
        self.line(&[plugin, ": ", &counted, ", ", &result]);
        if self.quiet {
            return;
        }
        let call = costs.call.map(|(call, unit)| {
            let unit = match unit {
                Unit::Call => "call",
                Unit::Message => "message",
            };
            format!("{} a {unit}, ", time(call))
        });
        let call = call.unwrap_or_default();
        let (memory, compile) = (size(costs.peak_memory), time(costs.compile));
        self.line(&[
            "  ",
            &call,
            &memory,
            " of memory at most, compiled in ",
            &compile,
        ]);
    }

    fn line(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
        self.text.push('\n');
    }

    fn paint(&self, color: &str, text: &str) -> String {
        match self.color {
            true => format!("{color}{text}{RESET}"),
            false => text.to_owned(),
        }
    }
}

/// `23.1 µs`, `1.2 ms`, for people.
pub(in crate::cli) fn time(time: Duration) -> String {
    match time.as_nanos() {
        nanos @ 0..1_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos @ 0..1_000_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        nanos => format!("{:.1} s", nanos as f64 / 1e9),
    }
}

/// Names and values of a guest or a file must not reach the terminal raw.
fn clean(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        // Writing to a string cannot fail.
        let _ = match c.is_control() {
            true => write!(out, "{}", c.escape_default()),
            false => write!(out, "{c}"),
        };
        out
    })
}

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const RESET: &str = "\u{1b}[0m";
