//! What a filter reaches beyond its heads, for authors' unit tests: a clock to set, a store, an answer to
//! outbound requests, and what was logged and counted. Each thread, so each test, has its own.
//!
//! ```
//! use sluicegate_plugin::{clock, kv, testing};
//! use std::time::Duration;
//!
//! kv::set("seen", "1", Some(Duration::from_secs(60))).unwrap();
//! testing::advance(Duration::from_secs(61));
//! assert_eq!(kv::get("seen"), Ok(None));
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime};

use crate::log::Level;
use crate::{ConfigError, Filter, outbound};

/// Configures a filter as the proxy does, from JSON.
///
/// # Errors
/// What the operator would be told.
pub fn configure<F: Filter>(config: impl Display) -> Result<F, ConfigError> {
    F::configure(crate::config::parse(&config.to_string())?)
}

/// Stops the wall clock at a moment.
pub fn set_now(now: SystemTime) {
    WORLD.with_borrow_mut(|world| {
        world.stopped_at = Some(now);
        world.advanced = Duration::ZERO;
    });
}

/// Moves both clocks on.
pub fn advance(by: Duration) {
    WORLD.with_borrow_mut(|world| world.advanced += by);
}

/// Answers outbound requests from now on; without it no server takes them.
pub fn on_outbound(
    answer: impl FnMut(&outbound::Request) -> Result<outbound::Response, outbound::Error> + 'static,
) {
    WORLD.with_borrow_mut(|world| world.outbound = Some(Box::new(answer)));
}

/// Lets every use of the store fail from now on; `None`: no longer.
pub fn fail_kv(error: Option<crate::kv::Error>) {
    WORLD.with_borrow_mut(|world| world.kv_error = error);
}

/// Level, message and fields of a line.
pub type LogLine = (Level, String, Vec<(String, String)>);

/// What was logged so far.
pub fn logs() -> Vec<LogLine> {
    WORLD.with_borrow(|world| world.logs.clone())
}

/// What a counter holds, or a gauge, or how many values a histogram took; 0 for what was never used.
pub fn metric(name: &str, labels: crate::metrics::Labels<'_>) -> f64 {
    let key = metrics::key(name, labels.iter().copied());
    WORLD.with_borrow(|world| world.figures.get(&key).copied().unwrap_or_default())
}

type Answer = Box<dyn FnMut(&outbound::Request) -> Result<outbound::Response, outbound::Error>>;

struct World {
    started: Instant,
    stopped_at: Option<SystemTime>,
    advanced: Duration,
    outbound: Option<Answer>,
    logs: Vec<LogLine>,
    figures: BTreeMap<String, f64>,
    entries: BTreeMap<String, Entry>,
    kv_error: Option<crate::kv::Error>,
}

struct Entry {
    value: Vec<u8>,
    /// On the monotonic clock.
    expires: Option<Duration>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World {
        started: Instant::now(),
        stopped_at: None,
        advanced: Duration::ZERO,
        outbound: None,
        logs: Vec::new(),
        figures: BTreeMap::new(),
        entries: BTreeMap::new(),
        kv_error: None,
    });
}

pub(crate) fn now() -> SystemTime {
    WORLD.with_borrow(|world| world.stopped_at.unwrap_or_else(SystemTime::now) + world.advanced)
}

pub(crate) fn monotonic() -> Duration {
    WORLD.with_borrow(|world| world.started.elapsed() + world.advanced)
}

#[expect(clippy::panic, reason = "only in authors' tests")]
pub(crate) fn random(len: u32) -> Vec<u8> {
    // Without the system's random bytes no test can go on.
    services::random::bytes(len as usize).unwrap_or_else(|error| panic!("no random bytes: {error}"))
}

pub(crate) fn send(request: &outbound::Request) -> Result<outbound::Response, outbound::Error> {
    // Taken out for the call: the answer may use the other fakes.
    let answer = WORLD.with_borrow_mut(|world| world.outbound.take());
    let Some(mut answer) = answer else {
        return Err(outbound::Error::Unreachable("no test answers".to_owned()));
    };
    let answered = answer(request);
    WORLD.with_borrow_mut(|world| {
        world.outbound.get_or_insert(answer);
    });
    answered
}

pub(crate) mod logging {
    use super::{Level, WORLD};

    pub(crate) fn log(level: Level, message: &str, fields: &[(String, String)]) {
        eprintln!("{level:?}: {message} {fields:?}");
        let line = (level, message.to_owned(), fields.to_vec());
        WORLD.with_borrow_mut(|world| world.logs.push(line));
    }
}

pub(crate) mod metrics {
    use super::WORLD;
    use crate::metrics::Error;

    pub(crate) fn count(name: &str, labels: &[(String, String)], by: u64) -> Result<(), Error> {
        // Exact up to 2^53, more than a test counts.
        change(name, labels, |figure| *figure += by as f64)
    }

    pub(crate) fn gauge(name: &str, labels: &[(String, String)], value: f64) -> Result<(), Error> {
        change(name, labels, |figure| *figure = value)
    }

    pub(crate) fn observe(name: &str, labels: &[(String, String)], _: f64) -> Result<(), Error> {
        change(name, labels, |count| *count += 1.0)
    }

    pub(super) fn key<'a>(name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
        let mut labels: Vec<_> = labels.collect();
        labels.sort_unstable();
        format!("{name} {labels:?}")
    }

    fn change(
        name: &str,
        labels: &[(String, String)],
        change: impl FnOnce(&mut f64),
    ) -> Result<(), Error> {
        let names = labels.iter().map(|(name, _)| name.as_str());
        if !std::iter::once(name).chain(names).all(is_name) {
            return Err(Error::InvalidName);
        }
        if labels.len() > 4 || labels.iter().any(|(_, value)| value.len() > 128) {
            return Err(Error::InvalidLabel);
        }
        let labels = labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let key = key(name, labels);
        WORLD.with_borrow_mut(|world| change(world.figures.entry(key).or_default()));
        Ok(())
    }

    fn is_name(name: &str) -> bool {
        name.len() <= 64
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }
}

pub(crate) mod kv {
    use std::time::Duration;

    use super::{Entry, WORLD, monotonic};
    use crate::kv::Error;

    pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
        entry(key, |entry| entry.as_ref().map(|entry| entry.value.clone()))
    }

    pub(crate) fn set(key: &str, value: &[u8], ttl: Option<u64>) -> Result<(), Error> {
        let new = new_entry(value, ttl)?;
        entry(key, |entry| *entry = Some(new))
    }

    pub(crate) fn add(key: &str, value: &[u8], ttl: Option<u64>) -> Result<bool, Error> {
        compare_and_set(key, None, value, ttl)
    }

    pub(crate) fn compare_and_set(
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl: Option<u64>,
    ) -> Result<bool, Error> {
        let new = new_entry(value, ttl)?;
        entry(key, |entry| {
            let as_expected = entry.as_ref().map(|entry| entry.value.as_slice()) == expected;
            if as_expected {
                *entry = Some(new);
            }
            as_expected
        })
    }

    pub(crate) fn increment(key: &str, by: i64, ttl: Option<u64>) -> Result<i64, Error> {
        let new = new_entry(b"0", ttl)?;
        entry(key, |entry| {
            let entry = entry.get_or_insert(new);
            let number = std::str::from_utf8(&entry.value).ok();
            let number: i64 = number
                .and_then(|text| text.parse().ok())
                .ok_or(Error::NotANumber)?;
            let sum = number.saturating_add(by);
            entry.value = sum.to_string().into_bytes();
            Ok(sum)
        })?
    }

    pub(crate) fn delete(key: &str) -> Result<bool, Error> {
        entry(key, |entry| entry.take().is_some())
    }

    fn new_entry(value: &[u8], ttl: Option<u64>) -> Result<Entry, Error> {
        if value.len() > 64 << 10 {
            return Err(Error::TooLarge);
        }
        Ok(Entry {
            value: value.to_vec(),
            expires: ttl.map(|ttl| monotonic() + Duration::from_millis(ttl)),
        })
    }

    /// Works on what is there under a key and has not expired.
    fn entry<T>(key: &str, work: impl FnOnce(&mut Option<Entry>) -> T) -> Result<T, Error> {
        if key.is_empty() || key.len() > 512 {
            return Err(Error::TooLarge);
        }
        let now = monotonic();
        WORLD.with_borrow_mut(|world| {
            if let Some(error) = world.kv_error {
                return Err(error);
            }
            let found = world.entries.remove(key);
            let mut found = found.filter(|entry| entry.expires.is_none_or(|end| now < end));
            let result = work(&mut found);
            if let Some(entry) = found {
                world.entries.insert(key.to_owned(), entry);
            }
            Ok(result)
        })
    }
}

use sluicegate_plugin_services as services;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, kv, metrics};

    #[test]
    fn time_stands_still_until_it_is_moved() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        set_now(moment);
        assert_eq!((clock::now(), clock::unix_seconds()), (moment, 1_000_000));
        let before = clock::monotonic();
        advance(Duration::from_secs(5));
        assert_eq!(clock::unix_seconds(), 1_000_005);
        assert!(clock::monotonic() - before >= Duration::from_secs(5));
    }

    #[test]
    fn the_store_does_what_the_proxys_does() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(kv::add("a", "1", minute), Ok(true));
        assert_eq!(kv::add("a", "2", minute), Ok(false));
        assert_eq!(kv::increment("a", 4, None), Ok(5));
        assert_eq!(kv::get("a"), Ok(Some(b"5".to_vec())));
        assert_eq!(kv::compare_and_set("a", Some(b"4"), "x", None), Ok(false));
        assert_eq!(kv::compare_and_set("a", Some(b"5"), "x", minute), Ok(true));
        assert_eq!(kv::increment("a", 1, None), Err(kv::Error::NotANumber));
        advance(Duration::from_secs(61));
        assert_eq!(kv::get("a"), Ok(None));
        assert_eq!(kv::delete("a"), Ok(false));
        assert_eq!(kv::set("", "", None), Err(kv::Error::TooLarge));
        assert_eq!(kv::set("k", [0; 70_000], None), Err(kv::Error::TooLarge));
        fail_kv(Some(kv::Error::Full));
        assert_eq!(kv::add("b", "1", None), Err(kv::Error::Full));
        fail_kv(None);
        assert_eq!(kv::add("b", "1", None), Ok(true));
    }

    #[test]
    fn what_is_counted_and_sent_is_seen() {
        metrics::count("refused", &[("why", "old")], 2).unwrap();
        metrics::count("refused", &[("why", "old")], 1).unwrap();
        assert_eq!(metric("refused", &[("why", "old")]), 3.0);
        assert_eq!(metric("refused", &[]), 0.0);
        assert_eq!(
            metrics::count("Refused", &[], 1),
            Err(metrics::Error::InvalidName)
        );
        let get = || outbound::Request::get("idp", "/jwks").send();
        assert!(matches!(get(), Err(outbound::Error::Unreachable(_))));
        on_outbound(|request| Ok(outbound::Response::new(200).with_body(request.path.as_str())));
        assert_eq!(get().unwrap().body, b"/jwks");
        assert_eq!(get().unwrap().status, 200);
    }
}
