//! Lets each client through so often and no oftener.
//!
//! The generic cell rate algorithm: per key the store holds one moment, the one at which the client would
//! be back at nothing if it kept still (its *theoretical arrival time*). A request moves it on by the time
//! one request is worth; it is refused if that would be more than a burst ahead of now. No windows, so
//! no double share at their edges; one entry of twenty bytes per client, gone when it is at rest. The
//! step is a compare-and-set: two workers never spend the same share.
//!
//! What is refused costs the client nothing: it need not wait longer for having asked.

#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, Filter, Interval, Reply, Request, Verdict, check_header, check_label, clock,
    config, export, kv, metrics,
};

#[config]
#[derive(Debug)]
pub struct Config {
    /// How many requests a client has in `per`.
    limit: u32,
    /// The time that `limit` is for.
    per: Interval,
    /// How many of them may come at once; by default `limit`.
    burst: Option<u32>,
    /// What clients are told apart by.
    #[serde(default)]
    key: Key,
    /// What is counted.
    #[serde(default)]
    only: Only,
    /// Leading bits of an IPv6 address that stand for one client.
    #[serde(default = "default_prefix")]
    ipv6_prefix: u8,
    /// Routes with the same one share a client's allowance; by default each route has its own.
    bucket: Option<String>,
    /// What to do when the store is full or away.
    #[serde(default)]
    unavailable: Unavailable,
}

/// What clients are told apart by.
#[config]
#[derive(Debug, Default)]
#[serde(rename_all = "kebab-case")]
enum Key {
    /// The client's address.
    #[default]
    ClientIp,
    /// Nothing: all share one allowance.
    Route,
    /// The first value of a header; without one, the address.
    Header(String),
    /// What an earlier filter has noted, such as `sub`; without it, the address.
    Label(String),
}

#[config]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Only {
    /// Opening handshakes of WebSockets; other requests pass uncounted.
    #[default]
    Handshakes,
    /// Every request.
    All,
}

#[config]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Unavailable {
    /// Nobody is kept out.
    #[default]
    Pass,
    /// Everybody gets a 503.
    Deny,
}

pub struct RateLimit {
    config: Config,
    /// What one request is worth, nanoseconds.
    cost: u64,
    /// How far ahead of now a client may be, nanoseconds.
    burst: u64,
}

/// What becomes of one request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Within,
    /// Too many; there is room again after this.
    Beyond(Duration),
}

impl Filter for RateLimit {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.limit == 0 {
            return Err(ConfigError::key("limit", "lets nobody through"));
        }
        if config.burst == Some(0) {
            return Err(ConfigError::key("burst", "lets nobody through"));
        }
        let cost = nanos(config.per.get()) / u64::from(config.limit);
        if cost == 0 {
            let message = "is no time at all, or more than one request a nanosecond";
            return Err(ConfigError::key("per", message));
        }
        let burst = cost.checked_mul(config.burst.unwrap_or(config.limit).into());
        let burst = burst
            .filter(|burst| *burst <= LONGEST_BURST)
            .ok_or_else(|| ConfigError::key("burst", "is worth more than ten years"))?;
        match &config.key {
            Key::Header(name) => check_header(name, "")
                .map_err(|error| ConfigError::key("key.header", format!("`{name}`: {error}")))?,
            Key::Label(name) => check_label(name)
                .map_err(|_| ConfigError::key("key.label", format!("`{name}` is no label")))?,
            Key::ClientIp | Key::Route => {}
        }
        if config.ipv6_prefix == 0 || config.ipv6_prefix > 128 {
            return Err(ConfigError::key("ipv6_prefix", "is not between 1 and 128"));
        }
        if config
            .bucket
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.len() > MAX_BUCKET)
        {
            return Err(ConfigError::key("bucket", "has not 1 to 64 bytes"));
        }
        Ok(RateLimit {
            config,
            cost,
            burst,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        if self.config.only == Only::Handshakes && !req.is_websocket() {
            return Verdict::Continue;
        }
        match self.take(&self.entry(req)) {
            Ok(Outcome::Within) => Verdict::Continue,
            Ok(Outcome::Beyond(wait)) => {
                metrics::count("refused", &[("why", "limit")], 1).ok();
                log::event(
                    Level::Info,
                    "too many requests",
                    &[("by", self.config.key.name())],
                );
                text(429, "too many requests\n", wait).into()
            }
            Err(error) => self.on_unavailable(error),
        }
    }
}

export!(RateLimit);

impl RateLimit {
    /// One request of a client.
    fn take(&self, entry: &str) -> Result<Outcome, kv::Error> {
        for _ in 0..ATTEMPTS {
            let now = nanos_since_1970();
            let stored = kv::get(entry)?;
            // What is no number was not written here; it counts as nothing.
            let ahead = stored.as_deref().and_then(number).unwrap_or_default();
            // No further ahead than anything here puts it: a clock that was set back locks nobody out.
            let ahead = ahead.clamp(now, now.saturating_add(self.burst));
            let next = ahead.saturating_add(self.cost);
            let excess = (next - now).saturating_sub(self.burst);
            if excess > 0 {
                return Ok(Outcome::Beyond(Duration::from_nanos(excess)));
            }
            // Rounded up: forgotten too early, a client would get more than its share.
            let ttl = Duration::from_nanos(next - now) + Duration::from_millis(1);
            let set = kv::compare_and_set(entry, stored.as_deref(), next.to_string(), Some(ttl))?;
            if set {
                return Ok(Outcome::Within);
            }
        }
        Err(kv::Error::Unavailable)
    }

    fn on_unavailable(&self, error: kv::Error) -> Verdict {
        metrics::count("unavailable", &[], 1).ok();
        log::event(
            Level::Warn,
            "requests cannot be counted",
            &[("why", &error.to_string())],
        );
        match self.config.unavailable {
            Unavailable::Pass => Verdict::Continue,
            Unavailable::Deny => text(503, "try again later\n", Duration::from_secs(1)).into(),
        }
    }

    /// The client's place in the store. What it sent itself is hashed: it may be long, or a secret.
    fn entry(&self, req: &Request) -> String {
        let given = match &self.config.key {
            Key::ClientIp => None,
            Key::Route => Some(String::new()),
            Key::Header(name) => req.header(name).map(|value| hashed("h", &value)),
            Key::Label(name) => req.label(name).map(|value| hashed("l", &value)),
        };
        let client = given.unwrap_or_else(|| network(req.client_ip(), self.config.ipv6_prefix));
        match &self.config.bucket {
            Some(name) => format!("b:{client}:{name}"),
            // A route is named after its path where nobody has named it, which may be long.
            None => format!("{}:{client}", hashed("r", &req.route())),
        }
    }
}

impl Key {
    fn name(&self) -> &'static str {
        match self {
            Key::ClientIp => "client-ip",
            Key::Route => "route",
            Key::Header(_) => "header",
            Key::Label(_) => "label",
        }
    }
}

/// One client: an IPv4 address, or the network that an IPv6 client can pick its addresses from.
fn network(ip: IpAddr, ipv6_prefix: u8) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let mask = u128::MAX << 128_u8.saturating_sub(ipv6_prefix);
            std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).to_string()
        }
    }
}

/// Half of a SHA-256, 128 bits, in hex: nobody finds two that are the same.
fn hashed(kind: &str, value: &str) -> String {
    let hash = crypto::hash(Hash::Sha256, value.as_bytes());
    let half = hash.iter().take(16);
    half.fold(kind.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn nanos_since_1970() -> u64 {
    let since = clock::now().duration_since(SystemTime::UNIX_EPOCH);
    nanos(since.unwrap_or_default())
}

/// Until the year 2554.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// With `Retry-After` in whole seconds (RFC 9110, section 10.2.3), rounded up.
fn text(status: u16, body: &str, wait: Duration) -> Reply {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Reply::new(status)
        .header("retry-after", seconds.to_string())
        .header("content-type", "text/plain")
        .body(body)
}

fn default_prefix() -> u8 {
    64
}

const MAX_BUCKET: usize = 64;
/// Other workers change the same entry now and then; not so often in a row.
const ATTEMPTS: usize = 16;
const LONGEST_BURST: u64 = 3650 * 86_400 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use sluicegate_plugin::testing;

    use super::*;

    fn filter(config: &str) -> RateLimit {
        testing::set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        testing::configure(config).unwrap_or_else(|error| panic!("{error}"))
    }

    fn from(ip: &str) -> sluicegate_plugin::RequestBuilder {
        Request::builder()
            .websocket()
            .client_ip(ip.parse().unwrap())
    }

    fn retry_after(filter: &RateLimit, req: sluicegate_plugin::RequestBuilder) -> Option<u64> {
        match filter.on_request(&mut req.build()) {
            Verdict::Continue => None,
            Verdict::Respond(reply) => {
                assert_eq!(reply.check(), Ok(()));
                let seconds = reply.get("retry-after").unwrap().parse().unwrap();
                assert_eq!(Verdict::from(reply).status(), Some(429));
                Some(seconds)
            }
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let filter = filter(r#"{"limit": 6, "per": "1m", "burst": 3}"#);
        let go = || retry_after(&filter, from("192.0.2.1"));
        assert_eq!(
            [go(), go(), go(), go(), go()],
            [None, None, None, Some(10), Some(10)]
        );
        testing::advance(Duration::from_millis(9_500));
        assert_eq!(go(), Some(1));
        testing::advance(Duration::from_millis(500));
        assert_eq!([go(), go()], [None, Some(10)]);
        // At rest for long, no more than a burst is saved up.
        testing::advance(Duration::from_secs(3600));
        assert_eq!([go(), go(), go(), go()], [None, None, None, Some(10)]);
        assert_eq!(testing::metric("refused", &[("why", "limit")]), 5.0);
    }

    #[test]
    fn in_the_long_run_nobody_gets_more_than_the_limit() {
        let filter = filter(r#"{"limit": 100, "per": "1s"}"#);
        let mut passed = 0;
        for _ in 0..10_000 {
            passed += u32::from(retry_after(&filter, from("192.0.2.1")).is_none());
            testing::advance(Duration::from_millis(1));
        }
        assert_eq!(passed, 100 + 10 * 100 - 1);
    }

    #[test]
    fn clients_are_told_apart() {
        #[track_caller]
        fn check(
            key: &str,
            a: sluicegate_plugin::RequestBuilder,
            b: sluicegate_plugin::RequestBuilder,
            same: bool,
        ) {
            let filter = filter(&format!(r#"{{"limit": 1, "per": "1m", "key": {key}}}"#));
            assert_eq!(retry_after(&filter, a), None);
            assert_eq!(retry_after(&filter, b).is_some(), same);
            testing::advance(Duration::from_secs(61));
        }
        let ip = r#""client-ip""#;
        check(ip, from("192.0.2.1"), from("192.0.2.1"), true);
        check(ip, from("192.0.2.2"), from("192.0.2.3"), false);
        check(ip, from("::ffff:192.0.2.4"), from("192.0.2.4"), true);
        check(ip, from("2001:db8::1"), from("2001:db8::ffff:2"), true);
        check(ip, from("2001:db8:0:1::1"), from("2001:db8:0:2::1"), false);
        check(r#""route""#, from("192.0.2.5"), from("192.0.2.6"), true);
        let keyed = |value: &str| from("192.0.2.7").header("x-key", value);
        let header = r#"{"header": "X-Key"}"#;
        check(header, keyed("a"), keyed("b"), false);
        check(
            header,
            keyed("c"),
            keyed("c").client_ip([9, 9, 9, 9].into()),
            true,
        );
        check(header, from("192.0.2.8"), from("192.0.2.8"), true);
        let label = |value: &str| from("192.0.2.9").label("sub", value);
        check(r#"{"label": "sub"}"#, label("ann"), label("bob"), false);
        check(r#"{"label": "sub"}"#, label("cid"), label("cid"), true);
        // Nobody spends another's allowance by calling himself what the other's entry is called.
        check(header, from("192.0.2.10"), keyed("192.0.2.10"), false);
    }

    #[test]
    fn routes_share_only_what_is_called_the_same() {
        let request = |route: &str| from("192.0.2.1").route(route);
        let own = filter(r#"{"limit": 1, "per": "1m"}"#);
        assert_eq!(retry_after(&own, request("a")), None);
        assert_eq!(retry_after(&own, request("b")), None);
        assert!(retry_after(&own, request("a")).is_some());
        let shared = filter(r#"{"limit": 1, "per": "1m", "bucket": "login"}"#);
        assert_eq!(retry_after(&shared, request("a")), None);
        assert!(retry_after(&shared, request("b")).is_some());
    }

    #[test]
    fn other_requests_are_counted_only_if_asked_for() {
        let plain = || Request::builder();
        let handshakes = filter(r#"{"limit": 1, "per": "1m"}"#);
        for _ in 0..3 {
            assert_eq!(retry_after(&handshakes, plain()), None);
        }
        let all = filter(r#"{"limit": 1, "per": "1m", "only": "all"}"#);
        assert_eq!(retry_after(&all, plain()), None);
        assert!(retry_after(&all, plain()).is_some());
    }

    #[test]
    fn without_the_store_the_operator_decides() {
        let pass = filter(r#"{"limit": 1, "per": "1m"}"#);
        let deny = filter(r#"{"limit": 1, "per": "1m", "unavailable": "deny"}"#);
        testing::fail_kv(Some(kv::Error::Full));
        let mut req = from("192.0.2.1").build();
        assert_eq!(pass.on_request(&mut req), Verdict::Continue);
        assert_eq!(deny.on_request(&mut req).status(), Some(503));
        assert_eq!(testing::metric("unavailable", &[]), 2.0);
        testing::fail_kv(None);
        // What somebody else wrote there is not believed, nor is a moment that nobody here wrote.
        let entry = deny.entry(&req);
        for odd in ["", "x", "-1", "18446744073709551615"] {
            kv::set(&entry, odd, None).unwrap();
            let wait = retry_after(&deny, from("192.0.2.1"));
            assert!(wait.is_none_or(|wait| wait <= 60), "{odd}: {wait:?}");
        }
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: &str, expect: &str) {
            let error = testing::configure::<RateLimit>(config)
                .err()
                .map(|e| e.to_string());
            assert_eq!(error.as_deref(), Some(expect));
        }
        check(
            r#"{"limit": 0, "per": "1s"}"#,
            "`limit`: lets nobody through",
        );
        check(
            r#"{"limit": 1, "per": "1s", "burst": 0}"#,
            "`burst`: lets nobody through",
        );
        let message = "`per`: is no time at all, or more than one request a nanosecond";
        check(r#"{"limit": 1, "per": "0s"}"#, message);
        check(r#"{"limit": 4000000000, "per": "1s"}"#, message);
        check(
            r#"{"limit": 1, "per": "3650d", "burst": 2}"#,
            "`burst`: is worth more than ten years",
        );
        check(
            r#"{"limit": 1, "per": "1s", "key": {"header": "X Y"}}"#,
            "`key.header`: `X Y`: not a field name",
        );
        check(
            r#"{"limit": 1, "per": "1s", "key": {"label": "Sub"}}"#,
            "`key.label`: `Sub` is no label",
        );
        check(
            r#"{"limit": 1, "per": "1s", "ipv6_prefix": 129}"#,
            "`ipv6_prefix`: is not between 1 and 128",
        );
        check(
            r#"{"limit": 1, "per": "1s", "bucket": ""}"#,
            "`bucket`: has not 1 to 64 bytes",
        );
        check(r#"{"limit": 1}"#, "missing field `per`");
    }
}
