//! One log line as JSON or as text, written straight into a buffer.

use std::fmt::{self, Display, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::MAX_VALUE;

/// Takes the fields of an event one after the other. An empty text is left out.
pub(super) trait Line {
    fn text(&mut self, key: &'static str, value: &str);
    /// For values of our own whose text needs no escaping.
    fn display(&mut self, key: &'static str, value: &dyn Display);
    fn number(&mut self, key: &'static str, value: u64);
    fn millis(&mut self, key: &'static str, value: Duration);
    /// `"labels":{"sub":"…"}`, or `label.sub=…`; nothing where there are none.
    fn labels(&mut self, labels: &[(String, String)]);
}

/// `{"ts":"…","event":"request","status":200,…}`
pub(super) struct JsonLine<'a>(&'a mut String);

/// `2026-01-31T10:20:30.456Z request status=200 …`, values with blanks or quotes in quotes.
pub(super) struct TextLine<'a>(&'a mut String);

impl<'a> JsonLine<'a> {
    pub(super) fn begin(out: &'a mut String, event: &str, at: SystemTime) -> JsonLine<'a> {
        put(
            out,
            format_args!(r#"{{"ts":"{}","event":"{event}""#, Timestamp(at)),
        );
        JsonLine(out)
    }

    pub(super) fn end(self) {
        self.0.push_str("}\n");
    }
}

impl Line for JsonLine<'_> {
    fn text(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            put(self.0, format_args!(r#","{key}":""#));
            escape(self.0, value);
            self.0.push('"');
        }
    }

    fn display(&mut self, key: &'static str, value: &dyn Display) {
        put(self.0, format_args!(r#","{key}":"{value}""#));
    }

    fn number(&mut self, key: &'static str, value: u64) {
        put(self.0, format_args!(r#","{key}":{value}"#));
    }

    fn millis(&mut self, key: &'static str, value: Duration) {
        put(self.0, format_args!(r#","{key}":{}"#, Millis(value)));
    }

    fn labels(&mut self, labels: &[(String, String)]) {
        for (at, (name, value)) in labels.iter().enumerate() {
            self.0
                .push_str(if at == 0 { r#","labels":{""# } else { r#",""# });
            escape(self.0, name);
            self.0.push_str(r#"":""#);
            escape(self.0, value);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }
}

impl<'a> TextLine<'a> {
    pub(super) fn begin(out: &'a mut String, event: &str, at: SystemTime) -> TextLine<'a> {
        put(out, format_args!("{} {event}", Timestamp(at)));
        TextLine(out)
    }

    pub(super) fn end(self) {
        self.0.push('\n');
    }

    fn value(&mut self, value: &str) {
        let quote = if value.contains([' ', '"', '\\', '=']) {
            "\""
        } else {
            ""
        };
        self.0.push('=');
        self.0.push_str(quote);
        escape(self.0, value);
        self.0.push_str(quote);
    }
}

impl Line for TextLine<'_> {
    fn text(&mut self, key: &'static str, value: &str) {
        if value.is_empty() {
            return;
        }
        put(self.0, format_args!(" {key}"));
        self.value(value);
    }

    fn display(&mut self, key: &'static str, value: &dyn Display) {
        put(self.0, format_args!(" {key}={value}"));
    }

    fn number(&mut self, key: &'static str, value: u64) {
        put(self.0, format_args!(" {key}={value}"));
    }

    fn millis(&mut self, key: &'static str, value: Duration) {
        put(self.0, format_args!(" {key}={}", Millis(value)));
    }

    fn labels(&mut self, labels: &[(String, String)]) {
        for (name, value) in labels {
            self.0.push_str(" label.");
            escape(self.0, name);
            self.value(value);
        }
    }
}

/// A point in time as RFC 3339 in UTC with milliseconds; before 1970 counts as 1970.
struct Timestamp(SystemTime);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil_date(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

/// Milliseconds with three decimals.
struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar.
///
/// Counts in eras of 400 years (146,097 days) of years that begin in March, so that the leap day is
/// the last day of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Appends `value`, cut to [`MAX_VALUE`] bytes, with JSON escapes.
fn escape(out: &mut String, value: &str) {
    let cut = &value[..value.floor_char_boundary(MAX_VALUE)];
    let mut plain = 0;
    for (at, c) in cut.char_indices() {
        if !needs_escape(c) {
            continue;
        }
        out.push_str(&cut[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of these are in the basic plane, so four digits do.
            c => put(out, format_args!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push_str(&cut[plain..]);
    if cut.len() < value.len() {
        out.push('…');
    }
}

/// Controls, and what turns the direction of text or breaks lines in a viewer.
fn needs_escape(c: char) -> bool {
    matches!(
        c,
        '"' | '\\' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    ) || c.is_control()
}

fn put(out: &mut String, args: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(args);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps() {
        let check = |millis: u64, expect: &str| {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(Timestamp(at).to_string(), expect);
        };
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399_999, "2000-02-28T23:59:59.999Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(1_709_210_096_007, "2024-02-29T12:34:56.007Z");
        check(4_102_444_799_000, "2099-12-31T23:59:59.000Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn days_follow_one_another() {
        let month_length = |year: u64, month| match month {
            2 if year.is_multiple_of(4)
                && (!year.is_multiple_of(100) || year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expect = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(civil_date(day), expect);
            let (year, month, day) = expect;
            expect = if day < month_length(year, month) {
                (year, month, day + 1)
            } else if month < 12 {
                (year, month + 1, 1)
            } else {
                (year + 1, 1, 1)
            };
        }
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_of_json_and_reads_back(value in "\\PC{0,40}|(?s:.{0,40})") {
            let mut out = String::new();
            let mut line = JsonLine::begin(&mut out, "test", UNIX_EPOCH);
            line.text("key", &value);
            line.end();
            prop_assert_eq!(out.find('\n'), Some(out.len() - 1));
            prop_assert!(!out.trim_end().chars().any(char::is_control));
            let json: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(json["key"].as_str().unwrap_or_default(), value);
        }

        #[test]
        fn any_text_is_one_line_of_text(value in "(?s:.{0,40})") {
            let mut out = String::new();
            let mut line = TextLine::begin(&mut out, "test", UNIX_EPOCH);
            line.text("key", &value);
            line.end();
            prop_assert_eq!(out.find('\n'), Some(out.len() - 1));
            prop_assert!(!out.trim_end().chars().any(char::is_control));
        }
    }
}
