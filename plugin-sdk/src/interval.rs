//! Lengths of time in a config, written as in the rest of the proxy's configuration.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time in a config: `"500ms"`, `"30s"`, `"1h30m"`, at most ten years.
///
/// Unlike the proxy's own it may be `"0s"`: only the plugin knows where nothing can happen in no time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(Duration);

impl Interval {
    pub const fn from_secs(seconds: u64) -> Self {
        Interval(Duration::from_secs(seconds))
    }

    pub const fn get(self) -> Duration {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a duration, as `30s` or `1h30m` are");
        let mut total = 0_u64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let (number, after) = split_where(rest, |c| !c.is_ascii_digit());
            let (unit, next) = split_where(after, |c| !c.is_ascii_alphabetic());
            let factor = UNITS.iter().find(|(_, name)| *name == unit);
            let Some((factor, _)) = factor.filter(|_| !number.is_empty()) else {
                return Err(bad());
            };
            let part = number
                .parse()
                .ok()
                .and_then(|n: u64| n.checked_mul(*factor));
            total = part
                .and_then(|part| total.checked_add(part))
                .filter(|total| *total <= LONGEST_MS)
                .ok_or_else(|| format!("`{text}` is more than ten years"))?;
            rest = next;
        }
        Ok(Interval(Duration::from_millis(total)))
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Duration> for Interval {
    fn from(duration: Duration) -> Self {
        Interval(duration)
    }
}

impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.0
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl fmt::Display for Interval {
    /// In the largest unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let fits = |(factor, _): &&(u64, &str)| millis.is_multiple_of(u128::from(*factor));
        let (factor, unit) = match UNITS.iter().find(fits) {
            Some(unit) if millis > 0 => *unit,
            _ => (1_000, "s"),
        };
        write!(f, "{}{unit}", millis / u128::from(factor))
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" })
    }
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

/// Milliseconds, the largest first.
const UNITS: [(u64, &str); 5] = [
    (86_400_000, "d"),
    (3_600_000, "h"),
    (60_000, "m"),
    (1_000, "s"),
    (1, "ms"),
];
const LONGEST_MS: u64 = 3650 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_as_the_proxy_reads_its_own() {
        #[track_caller]
        fn check(text: &str, expect: Option<u64>) {
            let json = serde_json::Value::from(text);
            let got = serde_json::from_value::<Interval>(json).ok();
            assert_eq!(
                got.map(|interval| interval.get().as_millis()),
                expect.map(u128::from)
            );
        }
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("1h30m", Some(5_400_000));
        check("3650d", Some(LONGEST_MS));
        check("0s", Some(0));
        for bad in [
            "", "10", "s", "-1s", "1.5s", "10 s", "10S", "1h30", "1hö", "3651d",
        ] {
            check(bad, None);
        }
        check("99999999999999999999s", None);
    }

    #[test]
    fn intervals_are_written_as_they_are_read() {
        for text in ["500ms", "90s", "5m", "36h", "7d", "0s", "1001ms"] {
            let interval = Interval::parse(text).unwrap();
            assert_eq!(interval.to_string(), text);
        }
        assert_eq!(serde_json::json!(Interval::from_secs(5_400)), "90m");
    }
}
