//! Values that are written as strings: durations, sizes, names, choices.
//!
//! [`FromText`] turns the user's text into the value or into a [`Mistake`] that says what is wrong
//! and how to write it. Nothing here knows where in the file the text stands. Addresses and host
//! names are in `net`, what belongs to HTTP in `http`, the plugins' own config in `plugin_json`.

use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{
    AccessFormat, Balance, Compression, Isolation, OnError, OnMessageError, Over, Protocols,
    TlsVersion, WebSocketOver,
};
use super::reader::closest;

mod http;
mod net;
mod plugin_json;

pub(super) use http::{ExactPath, HeaderTemplate, NormalPath, RedirectTarget};
pub(super) use net::{ServerName, ServerUrl, looks_like_address};
pub(super) use plugin_json::{PluginJson, Secret};

/// What a string can mean.
pub(super) trait FromText: Sized {
    /// What the text must be, for "must be …, not an integer".
    const EXPECTED: &'static str = "a string";
    const HINT: Option<&'static str> = None;
    /// For editors: a regex that every good text matches.
    const PATTERN: Option<&'static str> = None;
    /// For editors: every good text, if they can be listed.
    const CHOICES: &'static [&'static str] = &[];

    fn from_text(text: &str) -> Result<Self, Mistake>;
}

/// Why a text means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// The bytes of the text that are to blame; without them the whole.
    pub(super) within: Option<Range<usize>>,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteSize(pub(super) u64);

/// The name of an upstream or a plugin: letters, digits, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

/// The name of a route: any printable text that fits into a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteName(pub(super) String);

/// The name of an upstream, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target(pub(super) String);

/// A tracing filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogLevel(pub(super) String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthMode {
    Require,
    Optional,
}

impl Mistake {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Mistake {
            message: message.into(),
            hint: None,
            within: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(super) fn within(mut self, within: Range<usize>) -> Self {
        self.within = Some(within);
        self
    }
}

/// The hint of a misspelt name, where one is close.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    closest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

impl FromText for Duration {
    const EXPECTED: &'static str = "a duration";
    const HINT: Option<&'static str> =
        Some("write it as a string with a unit: `\"500ms\"`, `\"10s\"`, `\"1h30m\"`");
    const PATTERN: Option<&'static str> = Some("^([0-9]+(ms|s|m|h|d))+$");

    /// Sums of whole numbers with units; more than nothing and at most ten years.
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |why: String| {
            let units = "the units are ms, s, m, h and d, as in `\"1h30m\"`".to_owned();
            Mistake::new(format!("`{text}` is not a duration: {why}")).hint(units)
        };
        let mut total = 0_u64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(bad("it is empty".to_owned()));
        }
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let unit_end = after
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_end);
            let factor = match (number, unit) {
                ("", _) => return Err(bad(format!("`{rest}` does not begin with a number"))),
                (_, "ms") => 1,
                (_, "s") => 1_000,
                (_, "m") => 60_000,
                (_, "h") => 3_600_000,
                (_, "d") => 86_400_000,
                (_, "") if after.is_empty() => return Err(bad("the unit is missing".to_owned())),
                (_, "") => return Err(bad(format!("`{after}` is no unit"))),
                _ => return Err(bad(format!("`{unit}` is no unit"))),
            };
            let part = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(factor));
            total = part
                .and_then(|part| total.checked_add(part))
                .filter(|total| *total <= LONGEST_MS)
                .ok_or_else(|| {
                    Mistake::new(format!("`{text}` is too long"))
                        .hint("ten years (`\"3650d\"`) is the longest".to_owned())
                })?;
            rest = next;
        }
        if total == 0 {
            let hint = "nothing can happen in no time; write a long one to wait for ever";
            return Err(Mistake::new(format!("`{text}` is no time at all")).hint(hint.to_owned()));
        }
        Ok(Duration::from_millis(total))
    }
}

/// Bytes a second; `None`: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRate(pub(crate) Option<NonZeroU64>);

impl FromText for ByteRate {
    const EXPECTED: &'static str = "a size, or \"off\"";
    const HINT: Option<&'static str> =
        Some("write it as a string: `\"240B\"`, `\"1KiB\"`, `\"off\"`");
    const PATTERN: Option<&'static str> = Some("^(off|[0-9]+(B|KB|KiB|MB|MiB|GB|GiB)?)$");

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "off" => Ok(ByteRate(None)),
            _ => ByteSize::from_text(text).map(|size| ByteRate(NonZeroU64::new(size.0))),
        }
    }
}

impl FromText for ByteSize {
    const EXPECTED: &'static str = "a size";
    const HINT: Option<&'static str> =
        Some("write it as a string: `\"16KiB\"`, `\"1MB\"`, `\"512\"`");
    const PATTERN: Option<&'static str> = Some("^[0-9]+(B|KB|KiB|MB|MiB|GB|GiB)?$");

    /// A whole number of bytes, with or without a unit; more than nothing.
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |why: String| {
            let units = "the units are B, KB, KiB, MB, MiB, GB and GiB, as in `\"16KiB\"`";
            Mistake::new(format!("`{text}` is not a size: {why}")).hint(units.to_owned())
        };
        let (number, unit) = split_number(text);
        if number.is_empty() {
            return Err(bad("it does not begin with a number".to_owned()));
        }
        let factor = match unit {
            "" | "B" => 1,
            "KB" => 1_000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return Err(bad(format!("`{unit}` is no unit"))),
        };
        match number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
        {
            None => Err(bad("it is too large".to_owned())),
            Some(0) => Err(bad("it is nothing".to_owned())),
            Some(bytes) => Ok(ByteSize(bytes)),
        }
    }
}

impl FromText for Name {
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9_-]{1,64}$");

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if (1..=64).contains(&text.len()) && text.chars().all(good) {
            return Ok(Name(text.to_owned()));
        }
        let hint = "a name has 1 to 64 letters, digits, `_` and `-`".to_owned();
        Err(Mistake::new(format!("`{text}` cannot be a name")).hint(hint))
    }
}

impl FromText for RouteName {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if (1..=100).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Ok(RouteName(text.to_owned()));
        }
        let hint = "1 to 100 bytes without control characters".to_owned();
        Err(Mistake::new(format!("`{}` cannot name a route", text.escape_debug())).hint(hint))
    }
}

impl FromText for Target {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if looks_like_address(text) {
            ServerUrl::from_text(text)?;
        } else {
            Name::from_text(text)?;
        }
        Ok(Target(text.to_owned()))
    }
}

impl FromText for Protocols {
    const HINT: Option<&'static str> = Some("one of `\"1\"`, `\"2\"` and `\"auto\"`");
    const CHOICES: &'static [&'static str] = &["1", "2", "auto"];

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "1" => Ok(Protocols::Http1),
            "2" => Ok(Protocols::Http2),
            "auto" => Ok(Protocols::Auto),
            // One digit is as close to another as any: no word of these is nearer than the rest.
            _ => Err(Mistake::new(format!("`{text}` is not possible here"))
                .hint(Self::HINT.map(str::to_owned))),
        }
    }
}

impl FromText for LogLevel {
    /// `LEVEL` or `TARGET=LEVEL`, separated by commas.
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let mut offset = 0;
        for directive in text.split(',') {
            let (target, level) = match directive.rsplit_once('=') {
                Some((target, level)) => (Some(target), level),
                None => (None, directive),
            };
            let within = offset + directive.len() - level.len()..offset + directive.len();
            if !LEVELS.contains(&level) {
                let hint = did_you_mean(level, LEVELS.iter().copied());
                let hint = hint.unwrap_or_else(|| format!("the levels are {}", LEVELS.join(", ")));
                let message = format!("`{level}` is not a log level");
                return Err(Mistake::new(message).hint(hint).within(within));
            }
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            if let Some(target) = target
                && (target.is_empty() || !target.chars().all(good))
            {
                let message = format!("`{target}` is not a part of the program");
                let hint = "as in `info,sluicegate::tunnel=debug`".to_owned();
                let within = offset..offset + target.len();
                return Err(Mistake::new(message).hint(hint).within(within));
            }
            offset += directive.len() + 1;
        }
        Ok(LogLevel(text.to_owned()))
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    const EXPECTED: &'static str = "the path of a file";

    fn from_text(text: &str) -> Result<Self, Mistake> {
        if text.is_empty() || text.contains('\0') {
            return Err(Mistake::new(format!(
                "`{}` is no path",
                text.escape_debug()
            )));
        }
        Ok(PathBuf::from(text))
    }
}

/// Values with a fixed list of words.
macro_rules! choices {
    ($type:ty { $($word:literal => $value:expr,)* }) => {
        impl FromText for $type {
            const CHOICES: &'static [&'static str] = &[$($word),*];

            fn from_text(text: &str) -> Result<Self, Mistake> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err(not_a_choice(text, Self::CHOICES)),
                }
            }
        }
    };
}

choices!(Balance {
    "round-robin" => Balance::RoundRobin,
    "least-conn" => Balance::LeastConn,
    "ip-hash" => Balance::IpHash,
});
choices!(WebSocketOver {
    "auto" => WebSocketOver::Auto,
    "h1" => WebSocketOver::Http1,
    "h2" => WebSocketOver::Http2,
});
choices!(OnError {
    "deny" => OnError::Deny,
    "pass" => OnError::Pass,
});
choices!(OnMessageError {
    "close" => OnMessageError::Close,
    "pass" => OnMessageError::Pass,
});
choices!(Isolation {
    "shared" => Isolation::Shared,
    "connection" => Isolation::Connection,
});
choices!(Compression {
    "pass" => Compression::Pass,
    "terminate" => Compression::Terminate,
    "off" => Compression::Off,
});
choices!(Over {
    "close" => Over::Close,
    "wait" => Over::Wait,
});
choices!(TlsVersion {
    "1.2" => TlsVersion::Tls12,
    "1.3" => TlsVersion::Tls13,
});
choices!(ClientAuthMode {
    "require" => ClientAuthMode::Require,
    "optional" => ClientAuthMode::Optional,
});
choices!(AccessFormat {
    "json" => AccessFormat::Json,
    "text" => AccessFormat::Text,
    "off" => AccessFormat::Off,
});

fn not_a_choice(text: &str, choices: &[&str]) -> Mistake {
    let hint = did_you_mean(text, choices.iter().copied());
    let hint = hint.unwrap_or_else(|| {
        let quoted: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
        format!("one of {}", quoted.join(", "))
    });
    Mistake::new(format!("`{text}` is not possible here")).hint(hint)
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// Ten years: far beyond any use, and far from where timers overflow.
const LONGEST_MS: u64 = 3_650 * 86_400_000;
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            let ms = Duration::from_text(text).ok().map(|d| d.as_millis() as u64);
            assert_eq!(ms, expected, "{text}");
        };
        check("500ms", Some(500));
        check("10s", Some(10_000));
        check("5m", Some(300_000));
        check("24h", Some(86_400_000));
        check("7d", Some(604_800_000));
        check("1h30m", Some(5_400_000));
        check("3650d", Some(LONGEST_MS));
        check("3651d", None);
        check("99999999999999999999s", None);
        check("0s", None);
        check("", None);
        check("10", None);
        check("s", None);
        check("-1s", None);
        check("1.5s", None);
        check("10 s", None);
        check("10S", None);
        check("1h30", None);
        check("1hö", None);
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(
                ByteSize::from_text(text).ok().map(|size| size.0),
                expected,
                "{text}"
            );
        };
        check("512", Some(512));
        check("512B", Some(512));
        check("16KiB", Some(16_384));
        check("1MB", Some(1_000_000));
        check("2GiB", Some(2 << 30));
        check("0", None);
        check("", None);
        check("KiB", None);
        check("16kib", None);
        check("1.5MB", None);
        check("99999999999GiB", None);
    }

    #[test]
    fn log_levels() {
        let check = |text: &str, blamed: Option<&str>| {
            let found = LogLevel::from_text(text)
                .err()
                .and_then(|mistake| mistake.within);
            assert_eq!(found.map(|within| &text[within]), blamed, "{text}");
        };
        check("info", None);
        check("info,sluicegate::tunnel=debug", None);
        check("inof", Some("inof"));
        check("info,sluicegate=loud", Some("loud"));
        check("info,=debug", Some(""));
        check("info,a b=debug,off", Some("a b"));
        check("info,", Some(""));
        check("", Some(""));
    }

    #[test]
    fn choices_are_suggested() {
        let hint = |text: &str| {
            Balance::from_text(text)
                .err()
                .and_then(|mistake| mistake.hint)
        };
        assert_eq!(hint("round-robin"), None);
        assert_eq!(
            hint("roundrobin").as_deref(),
            Some("did you mean `round-robin`?")
        );
        assert_eq!(
            hint("random").as_deref(),
            Some("one of `round-robin`, `least-conn`, `ip-hash`")
        );
    }

    #[test]
    fn names() {
        let check =
            |text: &str, good: bool| assert_eq!(Name::from_text(text).is_ok(), good, "{text}");
        check("api-key_2", true);
        check("", false);
        check("a.b", false);
        check("ä", false);
        check(&"x".repeat(65), false);
    }
}
