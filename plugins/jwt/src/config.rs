//! What the operator writes, and the mistakes that can be found in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sluicegate_plugin::schemars::{Schema, SchemaGenerator, json_schema};
use sluicegate_plugin::{
    ConfigError, Interval, Secret, check_header, check_label, check_subprotocol, config,
};

use crate::claims::{Audience, Rules};
use crate::key::{Algorithm, Jwk, Key, Origin};
use crate::remote::{MAX_KEYS, Remote};
use crate::source::Sources;

#[config]
#[derive(Debug)]
pub struct Config {
    /// Look for the token in `Authorization: Bearer TOKEN`.
    #[serde(default = "yes")]
    bearer: bool,
    /// Header that carries the bare token.
    header: Option<String>,
    /// Cookie that carries it.
    cookie: Option<String>,
    /// Query parameter that carries it.
    query: Option<String>,
    /// What a subprotocol that carries it begins with.
    subprotocol: Option<String>,
    /// Take the token out of what goes upstream.
    #[serde(default = "yes")]
    pub(crate) strip: bool,

    /// Keys: a JSON Web Key Set, as a table or as JSON text (`file:jwks.json`).
    #[serde(default)]
    #[schemars(schema_with = "string_or_table")]
    jwks: Option<Value>,
    /// The secret of HS256, HS384 and HS512, 32 bytes or more.
    secret: Option<Secret>,
    /// Such secrets by key id.
    #[serde(default)]
    secrets: BTreeMap<String, Secret>,
    /// Upstream that publishes a JSON Web Key Set; `allow.http` must name it.
    jwks_upstream: Option<String>,
    /// Where it does.
    #[serde(default = "default_jwks_path")]
    jwks_path: String,
    /// `Host` of that request; by default the server's own.
    jwks_host: Option<String>,
    /// Fetched keys are fetched anew when they are this old.
    #[serde(default = "default_jwks_ttl")]
    jwks_ttl: Interval,
    /// They are used up to this age while fetching fails.
    #[serde(default = "default_jwks_stale")]
    jwks_stale: Interval,
    /// They are fetched at most once in this time, also for a token whose key is not among them.
    #[serde(default = "default_jwks_refetch")]
    jwks_refetch: Interval,
    /// How long fetching may take.
    #[serde(default = "default_jwks_timeout")]
    jwks_timeout: Interval,
    /// Algorithms that tokens may be signed with; by default whatever the keys are for.
    pub(crate) algorithms: Option<Vec<Algorithm>>,

    /// What tokens must say they are (`typ`), such as `at+jwt`; by default anything.
    #[serde(default)]
    pub(crate) types: OneOrMore,
    /// Whose tokens are accepted (`iss`); by default anybody's who has a key.
    #[serde(default)]
    issuer: OneOrMore,
    /// For whom tokens must be (`aud`); `"*"`: for anybody.
    #[serde(default)]
    audience: OneOrMore,
    /// Refuse tokens that never expire.
    #[serde(default = "yes")]
    require_exp: bool,
    /// How far clocks may differ.
    #[serde(default = "default_leeway")]
    leeway: Interval,
    /// Refuse tokens that were issued (`iat`) longer ago.
    max_age: Option<Interval>,
    /// Scopes that a token must have, all of them.
    #[serde(default)]
    scopes: BTreeSet<String>,

    /// Claims that the upstream gets: claim = header. `/a/b` is a claim within others.
    #[serde(default)]
    pub(crate) claims: BTreeMap<String, String>,
    /// Claims that become labels of the session: claim = label.
    #[serde(default = "default_labels")]
    pub(crate) labels: BTreeMap<String, String>,
    /// End the tunnel when the token expires.
    #[serde(default = "yes")]
    pub(crate) expire: bool,
    /// What `WWW-Authenticate` calls this place.
    #[serde(default = "default_realm")]
    pub(crate) realm: String,
}

/// A string, or a list of them.
#[config]
#[derive(Debug)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Config {
    pub(crate) fn sources(&self) -> Result<Sources, ConfigError> {
        if let Some(name) = &self.header {
            check_header(name, "").map_err(|error| named("header", name, error))?;
        }
        for (key, name) in [("cookie", &self.cookie), ("subprotocol", &self.subprotocol)] {
            if let Some(name) = name
                .as_ref()
                .filter(|name| check_subprotocol(name).is_err())
            {
                return Err(named(key, name, "holds what it cannot"));
            }
        }
        if self.query.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::key("query", "is empty"));
        }
        let nowhere = !self.bearer
            && [&self.header, &self.cookie, &self.query, &self.subprotocol]
                .iter()
                .all(|place| place.is_none());
        if nowhere {
            return Err(ConfigError::key(
                "bearer",
                "then nothing says where the token is",
            ));
        }
        Ok(Sources {
            bearer: self.bearer,
            header: self.header.clone(),
            cookie: self.cookie.clone(),
            query: self.query.clone(),
            subprotocol: self.subprotocol.clone(),
        })
    }

    /// The keys that stand in the configuration.
    pub(crate) fn static_keys(&self) -> Result<Vec<Key>, ConfigError> {
        let mut keys = Vec::new();
        if let Some(jwks) = &self.jwks {
            keys = key_set(jwks)?;
        }
        if let Some(secret) = &self.secret {
            let key = Key::secret(None, secret.expose().as_bytes());
            keys.push(key.map_err(|error| ConfigError::key("secret", error))?);
        }
        for (kid, secret) in &self.secrets {
            let key = Key::secret(Some(kid.clone()), secret.expose().as_bytes());
            keys.push(key.map_err(|error| ConfigError::at(["secrets", kid], error))?);
        }
        if keys.is_empty() && self.jwks_upstream.is_none() {
            let message =
                "no keys: one of `jwks`, `jwks_upstream`, `secret` and `secrets` is needed";
            return Err(message.into());
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys").into());
        }
        if let Some(algorithms) = &self.algorithms {
            let unfit = |one: &&Algorithm| !keys.iter().any(|key| key.fits(**one));
            let all_unfit = algorithms.iter().find(unfit);
            match all_unfit {
                _ if algorithms.is_empty() => {
                    return Err(ConfigError::key("algorithms", "is empty"));
                }
                Some(one) if self.jwks_upstream.is_none() => {
                    let message = format!("`{}`: no key is for it", one.name());
                    return Err(ConfigError::key("algorithms", message));
                }
                _ => {}
            }
        }
        Ok(keys)
    }

    pub(crate) fn remote(&self) -> Result<Option<Remote>, ConfigError> {
        let Some(upstream) = self.jwks_upstream.clone() else {
            return Ok(None);
        };
        let bounded = |key: &str, text: &str| match text.len() {
            1..=MAX_PLACE if text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') => Ok(()),
            _ => Err(named(key, text, "cannot be asked for")),
        };
        bounded("jwks_upstream", &upstream)?;
        bounded("jwks_path", &self.jwks_path)?;
        if let Some(host) = &self.jwks_host {
            bounded("jwks_host", host)?;
        }
        if !self.jwks_path.starts_with('/') {
            return Err(named(
                "jwks_path",
                &self.jwks_path,
                "does not begin with `/`",
            ));
        }
        for (key, interval) in [
            ("jwks_ttl", self.jwks_ttl),
            ("jwks_refetch", self.jwks_refetch),
            ("jwks_timeout", self.jwks_timeout),
        ] {
            if interval.is_zero() {
                return Err(ConfigError::key(key, "is no time at all"));
            }
        }
        if self.jwks_stale < self.jwks_ttl {
            return Err(ConfigError::key("jwks_stale", "is shorter than `jwks_ttl`"));
        }
        Ok(Some(Remote {
            upstream,
            path: self.jwks_path.clone(),
            host: self.jwks_host.clone(),
            ttl: self.jwks_ttl.get(),
            stale: self.jwks_stale.get(),
            refetch: self.jwks_refetch.get(),
            timeout: self.jwks_timeout.get(),
        }))
    }

    pub(crate) fn rules(&self) -> Result<Rules, ConfigError> {
        // RFC 6749, section 3.3.
        let is_scope = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if let Some(bad) = self
            .scopes
            .iter()
            .find(|one| one.is_empty() || !one.bytes().all(is_scope))
        {
            return Err(named("scopes", bad, "is no scope"));
        }
        let audience = self.audience.to_set();
        Ok(Rules {
            issuers: self.issuer.to_set(),
            audience: match audience.len() {
                0 => Audience::Unnamed,
                _ if audience.contains("*") => Audience::Any,
                _ => Audience::OneOf(audience),
            },
            require_exp: self.require_exp,
            leeway: self.leeway.get(),
            max_age: self.max_age.map(Interval::get),
            scopes: self.scopes.clone(),
        })
    }

    /// What is written for others to read: headers, labels, the realm.
    pub(crate) fn check_names(&self) -> Result<(), ConfigError> {
        let mut headers = BTreeSet::new();
        for (claim, header) in &self.claims {
            if !headers.insert(header.to_ascii_lowercase()) {
                let message = format!("`{header}` is another claim's as well");
                return Err(ConfigError::at(["claims", claim], message));
            }
            check_header(header, "").map_err(|error| {
                ConfigError::at(["claims", claim], format!("`{header}`: {error}"))
            })?;
        }
        for (claim, label) in &self.labels {
            check_label(label).map_err(|_| {
                ConfigError::at(["labels", claim], format!("`{label}` is no label"))
            })?;
        }
        let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        if !self.realm.bytes().all(plain) {
            return Err(named("realm", &self.realm, "holds what cannot be quoted"));
        }
        Ok(())
    }
}

impl OneOrMore {
    pub(crate) fn to_set(&self) -> BTreeSet<String> {
        match self {
            OneOrMore::One(one) => BTreeSet::from([one.clone()]),
            OneOrMore::More(more) => more.iter().cloned().collect(),
        }
    }
}

impl Default for OneOrMore {
    fn default() -> Self {
        OneOrMore::More(Vec::new())
    }
}

/// The keys of a set; messages do not repeat what might be a secret.
fn key_set(jwks: &Value) -> Result<Vec<Key>, ConfigError> {
    let parsed;
    let set = match jwks {
        Value::String(text) => {
            parsed = serde_json::from_str(text).map_err(|error| {
                let place = format!("line {} column {}", error.line(), error.column());
                ConfigError::key("jwks", format!("is not JSON, as {place} shows"))
            })?;
            &parsed
        }
        table => table,
    };
    let Some(Value::Array(items)) = set.get("keys") else {
        return Err(ConfigError::key(
            "jwks",
            "is no key set: there is no list `keys`",
        ));
    };
    let mut keys = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let wrong = |message: &str| ConfigError::key("jwks", format!("key {i}: {message}"));
        let jwk = Jwk::of_json(item).ok_or_else(|| wrong("is no JSON Web Key"))?;
        match Key::of_jwk(&jwk, Origin::Config) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => sluicegate_plugin::debug!("`jwks`: key {i} is not used"),
            Err(message) => return Err(wrong(&message)),
        }
    }
    if keys.is_empty() {
        return Err(ConfigError::key("jwks", "holds no key for signatures"));
    }
    Ok(keys)
}

fn named(key: &str, value: &str, message: impl std::fmt::Display) -> ConfigError {
    ConfigError::key(key, format!("`{value}`: {message}"))
}

fn string_or_table(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "object", "null"], "writeOnly": true })
}

fn default_labels() -> BTreeMap<String, String> {
    BTreeMap::from([("sub".to_owned(), "sub".to_owned())])
}

fn default_jwks_path() -> String {
    "/.well-known/jwks.json".to_owned()
}

fn default_jwks_ttl() -> Interval {
    Interval::from_secs(600)
}

fn default_jwks_stale() -> Interval {
    Interval::from_secs(24 * 3600)
}

fn default_jwks_refetch() -> Interval {
    Interval::from_secs(10)
}

fn default_jwks_timeout() -> Interval {
    Interval::from_secs(5)
}

fn default_leeway() -> Interval {
    Interval::from_secs(30)
}

fn default_realm() -> String {
    "sluicegate".to_owned()
}

fn yes() -> bool {
    true
}

/// Bytes of a name or path of where keys are: three of them make a key of the store.
const MAX_PLACE: usize = 150;
