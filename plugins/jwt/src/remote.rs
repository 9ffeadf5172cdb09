//! Keys that an identity provider publishes: fetched, kept in the store that all workers share, and
//! fetched anew when they are old or do not hold a token's key.
//!
//! At most one worker asks at a time, and at most once in `refetch`, whatever tokens are sent; the others
//! go on with the keys there are, up to `stale` old if the provider does not answer. Only while there
//! are none at all, after a start, may a few ask at once; whoever comes later is told to try again.

use std::time::{Duration, SystemTime};

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::serde::{Deserialize, Serialize};
use sluicegate_plugin::{clock, kv, metrics, outbound};

use crate::key::{Jwk, Key, Origin};
use crate::refusal::{Refused, Why};
use crate::token::Token;

/// Where the keys are, and how long they last.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) upstream: String,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    /// They are fetched anew when they are older than this.
    pub(crate) ttl: Duration,
    /// They are used up to this age if that fails.
    pub(crate) stale: Duration,
    /// Nobody asks more often.
    pub(crate) refetch: Duration,
    pub(crate) timeout: Duration,
}

/// What is in the store.
#[derive(Serialize, Deserialize)]
#[serde(crate = "sluicegate_plugin::serde")]
struct Fetched {
    /// When, in milliseconds since 1970.
    at: u64,
    keys: Vec<Jwk>,
}

/// What a provider publishes (RFC 7517, section 5).
#[derive(Deserialize)]
#[serde(crate = "sluicegate_plugin::serde")]
struct Published {
    /// One by one: a key of a form that nobody here knows does not hide the others.
    keys: Vec<serde_json::Value>,
}

impl Remote {
    /// The keys to try a token with.
    pub(crate) fn keys(&self, token: &Token<'_>) -> Result<Vec<Key>, Refused> {
        let now = millis_since_1970();
        let known = self.load();
        if let Some((at, keys)) = &known {
            let fresh = u128::from(now.saturating_sub(*at)) < self.ttl.as_millis();
            if fresh && keys.iter().any(|key| key.may_have_signed(token)) {
                return Ok(known.map(|(_, keys)| keys).unwrap_or_default());
            }
        }
        let known = known.map(|(_, keys)| keys);
        if !self.may_ask(known.is_some()) {
            return known.ok_or_else(unavailable);
        }
        match self.fetch(now) {
            Ok(keys) => {
                metrics::count("keys_fetched", &[("result", "ok")], 1).ok();
                Ok(keys)
            }
            Err(why) => {
                metrics::count("keys_fetched", &[("result", "failed")], 1).ok();
                let fields = [("upstream", self.upstream.as_str()), ("why", &why)];
                log::event(Level::Warn, "keys cannot be fetched", &fields);
                // Without the note somebody asks a few times more; that is all.
                kv::set(&self.entry("failed"), "", Some(self.refetch)).ok();
                known.ok_or_else(unavailable)
            }
        }
    }

    fn load(&self) -> Option<(u64, Vec<Key>)> {
        let stored = kv::get(&self.entry("keys")).ok()??;
        let Fetched { at, keys } = serde_json::from_slice(&stored).ok()?;
        Some((at, usable(&keys)))
    }

    /// Whether it is this instance's turn to ask the provider.
    fn may_ask(&self, has_keys: bool) -> bool {
        // Counted anew in each span of `refetch`; without a count nobody asks.
        let turn = kv::increment(&self.entry("asked"), 1, Some(self.refetch));
        match turn {
            Ok(1) => true,
            Ok(turn) if !has_keys && turn <= MOST_AT_ONCE => {
                matches!(kv::get(&self.entry("failed")), Ok(None))
            }
            Ok(_) => false,
            Err(error) => {
                let why = error.to_string();
                let fields = [("why", why.as_str()), ("help", "allow = { kv = true }")];
                log::event(Level::Warn, "keys cannot be kept, nor fetched", &fields);
                false
            }
        }
    }

    fn fetch(&self, now: u64) -> Result<Vec<Key>, String> {
        let mut request = outbound::Request::get(&self.upstream, &self.path)
            .header("accept", "application/jwk-set+json, application/json")
            .timeout(self.timeout);
        if let Some(host) = &self.host {
            request = request.header("host", host.as_str());
        }
        let answer = request.send().map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("status {}", answer.status));
        }
        let published: Published = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let jwks = published.keys.into_iter().take(MAX_KEYS);
        let mut jwks: Vec<Jwk> = jwks.filter_map(|jwk| Jwk::of_json(&jwk)).collect();
        // Only what is of use is kept: certificate chains are ten times as large as their keys.
        jwks.retain(|jwk| matches!(Key::of_jwk(jwk, Origin::Fetched), Ok(Some(_))));
        let keys = usable(&jwks);
        if keys.is_empty() {
            return Err("none of the keys can be used".to_owned());
        }
        let fetched = Fetched {
            at: now,
            keys: jwks,
        };
        let stored = serde_json::to_vec(&fetched).map_err(|error| error.to_string())?;
        if let Err(error) = kv::set(&self.entry("keys"), stored, Some(self.stale)) {
            log::event(
                Level::Warn,
                "keys cannot be kept",
                &[("why", &error.to_string())],
            );
        }
        Ok(keys)
    }

    /// The place in the store: routes may fetch from different providers.
    fn entry(&self, what: &str) -> String {
        let host = self.host.as_deref().unwrap_or_default();
        format!("{what}:{}:{host}:{}", self.upstream, self.path)
    }
}

fn usable(jwks: &[Jwk]) -> Vec<Key> {
    jwks.iter()
        .filter_map(|jwk| Key::of_jwk(jwk, Origin::Fetched).ok().flatten())
        .collect()
}

fn unavailable() -> Refused {
    Refused::new(Why::Unavailable, "there are no keys yet")
}

fn millis_since_1970() -> u64 {
    let since = clock::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Keys of one set, static or fetched.
pub(crate) const MAX_KEYS: usize = 64;
/// Who may ask at once while there are no keys.
const MOST_AT_ONCE: i64 = 32;
