//! Values that only case files have: moments, things that may be absent, metric names.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use toml::value::{Datetime, Offset};

use crate::config::diagnostic::Diagnostic;
use crate::config::reader::{Node, Read, Reader, inline_schema};
use crate::config::values::{FromText, Mistake};

/// A moment, since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Duration);

/// What must be there: nothing (`false`), or exactly these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValues {
    Absent,
    Exactly(Vec<String>),
}

/// What a plugin decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Continue,
    Refuse(u16),
}

/// An entry of the plugin's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Only where it is expected.
    Absent,
    Text(String),
    Number(i64),
}

/// The value of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount(pub f64);

/// `name`, or `name{label="value"}`: all series of a metric that have these labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricName {
    pub name: String,
    pub labels: Vec<(String, String)>,
}

/// What becomes of an HTTP request of a plugin that gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundFailure {
    Timeout,
    Unreachable,
    Broken,
    TooLarge,
}

/// Text without line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OneLine(pub(super) String);

/// Path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uri(pub(super) String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HttpVersion(pub(super) &'static str);

impl Moment {
    /// As TOML has it, in UTC and with milliseconds where there are some.
    pub fn to_toml(self) -> String {
        let seconds = self.0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let date = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        match self.0.subsec_millis() {
            0 => format!("{date}Z"),
            millis => format!("{date}.{millis:03}Z"),
        }
    }

    /// `None` without date, time or offset, and before 1970.
    fn of(datetime: &Datetime) -> Option<Moment> {
        let (date, time) = (datetime.date?, datetime.time?);
        let offset = match datetime.offset? {
            Offset::Z => 0,
            Offset::Custom { minutes } => i64::from(minutes),
        };
        let days = day_number(date.year.into(), date.month.into(), date.day.into());
        let minutes = days * 1440 + i64::from(time.hour) * 60 + i64::from(time.minute) - offset;
        let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
        let nanos = time.nanosecond.unwrap_or(0);
        Some(Moment(Duration::new(u64::try_from(seconds).ok()?, nanos)))
    }
}

impl Read for Moment {
    type Out = Self;
    const EXPECTED: &'static str = "a date and time";
    const HINT: Option<&'static str> =
        Some("without quotes and with its offset: `2026-01-01T00:00:00Z`");

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let datetime = node.get_ref().as_datetime()?;
        let moment = Moment::of(datetime);
        if moment.is_none() {
            let message = format!("`{datetime}` is no moment since 1970");
            let hint = Self::HINT.map(str::to_owned);
            reader.report(Diagnostic::error(node.span(), message).hint(hint));
        }
        moment
    }
}

impl Read for FieldValues {
    type Out = Self;
    const EXPECTED: &'static str = "a string, an array of them, or false";

    fn read(node: &Node<'_>, _: &mut Reader<'_>) -> Option<Self> {
        let value = node.get_ref();
        if let Some(there) = value.as_bool() {
            return (!there).then_some(FieldValues::Absent);
        }
        if let Some(one) = value.as_str() {
            return Some(FieldValues::Exactly(vec![one.to_owned()]));
        }
        let all = value.as_array()?.iter();
        let all: Option<Vec<_>> = all
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect();
        all.map(FieldValues::Exactly)
    }
}

impl Read for Decision {
    type Out = Self;
    const EXPECTED: &'static str = "`\"continue\"` or a status";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if node.get_ref().as_str() == Some("continue") {
            return Some(Decision::Continue);
        }
        let integer = node.get_ref().as_integer()?;
        let status = integer.as_str().parse().ok();
        let status = status.filter(|status| (200..600).contains(status));
        if status.is_none() {
            let message = format!("`{integer}` is no status that a plugin can answer");
            let hint = Some("from 200 to 599".to_owned());
            reader.report(Diagnostic::error(node.span(), message).hint(hint));
        }
        status.map(Decision::Refuse)
    }
}

impl Read for Stored {
    type Out = Self;
    const EXPECTED: &'static str = "a string, an integer, or false";

    fn read(node: &Node<'_>, _: &mut Reader<'_>) -> Option<Self> {
        let value = node.get_ref();
        if let Some(there) = value.as_bool() {
            return (!there).then_some(Stored::Absent);
        }
        if let Some(integer) = value.as_integer() {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
            return number.map(Stored::Number);
        }
        Some(Stored::Text(value.as_str()?.to_owned()))
    }
}

impl Read for Amount {
    type Out = Self;
    const EXPECTED: &'static str = "a number";

    fn read(node: &Node<'_>, _: &mut Reader<'_>) -> Option<Self> {
        let value = node.get_ref();
        let text = match (value.as_integer(), value.as_float()) {
            (Some(integer), _) => integer.as_str(),
            (None, float) => float?.as_str(),
        };
        text.parse().ok().map(Amount)
    }
}

impl FromText for MetricName {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = || {
            Mistake::new(format!("`{}` names no metric", text.escape_debug()))
                .hint("as in `refused` or `'refused{why=\"expired\"}'`".to_owned())
        };
        let (name, labels) = match text.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').ok_or_else(bad)?),
            None => (text, ""),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(word) {
            return Err(bad());
        }
        let mut read = Vec::new();
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, quoted) = rest.split_once("=\"").ok_or_else(bad)?;
            let (value, after) = quoted.split_once('"').ok_or_else(bad)?;
            read.push((label.trim().to_owned(), value.to_owned()));
            rest = match after.trim_start().strip_prefix(',') {
                Some(next) => next,
                None if after.trim().is_empty() => "",
                None => return Err(bad()),
            };
        }
        Ok(MetricName {
            name: name.to_owned(),
            labels: read,
        })
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let labels = self.labels.iter();
        let labels: Vec<_> = labels
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        if labels.is_empty() {
            return Ok(());
        }
        write!(f, "{{{}}}", labels.join(","))
    }
}

impl FromText for OutboundFailure {
    const CHOICES: &'static [&'static str] = &["timeout", "unreachable", "broken", "too-large"];

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "timeout" => Ok(OutboundFailure::Timeout),
            "unreachable" => Ok(OutboundFailure::Unreachable),
            "broken" => Ok(OutboundFailure::Broken),
            "too-large" => Ok(OutboundFailure::TooLarge),
            _ => {
                let known = format!("one of {}", Self::CHOICES.join(", "));
                let message = format!("`{}` is no way to fail", text.escape_debug());
                Err(Mistake::new(message).hint(known))
            }
        }
    }
}

impl FromText for OneLine {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() || text.chars().any(char::is_control) {
            let message = format!("`{}` is not one line of text", text.escape_debug());
            return Err(Mistake::new(message));
        }
        Ok(OneLine(text.to_owned()))
    }
}

impl FromText for Uri {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if !text.starts_with('/') {
            let message = format!("`{}` does not begin with `/`", text.escape_debug());
            let hint = "path and query, as in `/ws/?a=1`; the name goes into `host`".to_owned();
            return Err(Mistake::new(message).hint(hint));
        }
        match text.find(|c: char| !c.is_ascii_graphic() || c == '#') {
            Some(at) => {
                let message = "a request's path and query hold no such character";
                let hint = "write it percent-encoded, as `%20`".to_owned();
                Err(Mistake::new(message).hint(hint).within(at..at + 1))
            }
            None => Ok(Uri(text.to_owned())),
        }
    }
}

impl FromText for HttpVersion {
    const CHOICES: &'static [&'static str] = &["1.0", "1.1", "2"];

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let known = Self::CHOICES.iter().find(|version| **version == text);
        known.map(|version| HttpVersion(version)).ok_or_else(|| {
            let message = format!("`{}` is no version of HTTP here", text.escape_debug());
            Mistake::new(message).hint("`1.0`, `1.1` or `2`".to_owned())
        })
    }
}

impl FromText for IpAddr {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        text.parse().map_err(|_| {
            let message = format!("`{}` is not an address", text.escape_debug());
            Mistake::new(message).hint("as in `192.0.2.1` or `2001:db8::1`".to_owned())
        })
    }
}

inline_schema!([] Moment, |_generator| json_schema!({ "type": "string", "format": "date-time" }));
inline_schema!([] FieldValues, |_generator| json_schema!({
    "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }, { "const": false }]
}));
inline_schema!([] Decision, |_generator| json_schema!({
    "anyOf": [{ "const": "continue" }, { "type": "integer", "minimum": 200, "maximum": 599 }]
}));
inline_schema!([] Stored, |_generator| json_schema!({ "type": ["string", "integer", "boolean"] }));
inline_schema!([] Amount, |_generator| json_schema!({ "type": "number" }));

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the odd day comes last.
    let year = if month > 2 { year } else { year - 1 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date of a day since 1970-01-01.
fn civil_date(days: u64) -> (i64, i64, i64) {
    let days = i64::try_from(days).unwrap_or(i64::MAX / 2);
    // By the mean length of a year, at most one away.
    let guess = 1970 + days * 400 / 146_097;
    let years = [guess + 1, guess, guess - 1].into_iter();
    let mut begun = years.filter(|year| day_number(*year, 1, 1) <= days);
    let year = begun.next().unwrap_or(guess);
    let mut months = (1..=12).rev();
    let month = months.find(|month| day_number(year, *month, 1) <= days);
    let month = month.unwrap_or(1);
    (year, month, days - day_number(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_back() {
        #[track_caller]
        fn check(text: &str, seconds: Option<u64>, shown: &str) {
            let moment = Moment::of(&text.parse().expect("toml"));
            assert_eq!(moment.map(|moment| moment.0.as_secs()), seconds, "{text}");
            assert_eq!(moment.map(Moment::to_toml).unwrap_or_default(), shown);
        }
        check("1970-01-01T00:00:00Z", Some(0), "1970-01-01T00:00:00Z");
        check(
            "2026-01-01T00:00:00Z",
            Some(1_767_225_600),
            "2026-01-01T00:00:00Z",
        );
        check(
            "2024-02-29T12:30:01.250Z",
            Some(1_709_209_801),
            "2024-02-29T12:30:01.250Z",
        );
        check(
            "2026-01-01T02:00:00+02:00",
            Some(1_767_225_600),
            "2026-01-01T00:00:00Z",
        );
        check("1969-12-31T23:59:59Z", None, "");
        check("2026-01-01", None, "");
        check("2026-01-01T00:00:00", None, "");
    }

    #[test]
    fn dates_follow_one_another() {
        for day in 0..60_000 {
            let (year, month, date) = civil_date(day);
            assert_eq!(
                day_number(year, month, date),
                i64::try_from(day).expect("small")
            );
            assert!((1..=31).contains(&date), "{year}-{month}-{date}");
        }
    }

    #[test]
    fn metric_names_with_labels() {
        #[track_caller]
        fn check(text: &str, expect: Option<&str>) {
            let name = MetricName::from_text(text).ok();
            assert_eq!(
                name.map(|name| name.to_string()).as_deref(),
                expect,
                "{text}"
            );
        }
        check("refused", Some("refused"));
        check("refused{}", Some("refused"));
        check("refused{why=\"old\"}", Some("refused{why=\"old\"}"));
        check("a{b=\"c\", d=\"e\"}", Some("a{b=\"c\",d=\"e\"}"));
        check("a{b=\"c\",}", Some("a{b=\"c\"}"));
        for bad in [
            "",
            "{a=\"b\"}",
            "a b",
            "a{b}",
            "a{b=\"c}",
            "a{b=\"c\"",
            "a{b=\"c\"d=\"e\"}",
        ] {
            check(bad, None);
        }
    }
}
