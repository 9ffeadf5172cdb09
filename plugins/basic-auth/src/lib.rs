//! Lets in who knows a user's password (RFC 7617), and tells the upstream who that is.
//!
//! Passwords stand in the configuration as argon2id or bcrypt hashes, which are slow on purpose: the
//! proxy checks them beside its workers, a few at once, and remembers a right one for some minutes. A
//! user that does not exist costs as much time as a wrong password: it is checked against a hash that
//! nothing fits.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sluicegate_plugin::crypto;
use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Reply, Request, Secret, Verdict, check_header, check_label,
    config, export, metrics,
};

use crate::hash::Hash;

mod hash;

#[config]
#[derive(Debug)]
pub struct Config {
    /// User name = password hash; or the text of an htpasswd file (`file:htpasswd`).
    users: Users,
    /// What the browser's dialogue calls this place.
    #[serde(default = "default_realm")]
    realm: String,
    /// Header that tells the upstream who the user is.
    #[serde(default = "default_header")]
    header: String,
    /// Label of the session that holds the user's name.
    #[serde(default = "default_label")]
    label: String,
    /// Take `Authorization` out of what goes upstream.
    #[serde(default = "yes")]
    strip: bool,
}

#[config]
#[derive(Debug)]
#[serde(untagged)]
enum Users {
    Table(BTreeMap<String, Secret>),
    /// Lines of `user:hash`; empty ones and those that begin with `#` are none.
    Htpasswd(Secret),
}

pub struct BasicAuth {
    config: Config,
    users: BTreeMap<String, Hash>,
    /// For users that do not exist.
    nobody: String,
}

/// Why a request is refused; the values of the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Missing,
    /// Two `Authorization` fields: the upstream might believe the other.
    Several,
    Malformed,
    Wrong,
    Busy,
    /// The rest of the request cannot be sent on.
    Request,
}

impl Filter for BasicAuth {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        let users = config.users.hashes()?;
        let Some(first) = users.values().next() else {
            return Err(ConfigError::key("users", "names nobody"));
        };
        // RFC 7617, section 2, and what need not be escaped in a quoted string.
        let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        if !config.realm.bytes().all(plain) {
            let message = format!("`{}`: holds what cannot be quoted", config.realm);
            return Err(ConfigError::key("realm", message));
        }
        check_header(&config.header, "")
            .map_err(|error| ConfigError::key("header", format!("`{}`: {error}", config.header)))?;
        check_label(&config.label)
            .map_err(|_| ConfigError::key("label", format!("`{}` is no label", config.label)))?;
        Ok(BasicAuth {
            nobody: first.spoiled(),
            users,
            config,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let admitted = self
            .user_of(req)
            .and_then(|user| self.pass_on(req, user).map_err(|_| Why::Request));
        match admitted {
            Ok(()) => Verdict::Continue,
            Err(why) => self.refuse(why).into(),
        }
    }
}

export!(BasicAuth);

impl BasicAuth {
    /// Who it is, as the configuration calls them.
    fn user_of(&self, req: &Request) -> Result<&str, Why> {
        let fields = req.header_values("authorization");
        let field = match fields.as_slice() {
            [] => return Err(Why::Missing),
            [field] => field,
            _ => return Err(Why::Several),
        };
        let credentials = basic(field).ok_or(Why::Missing)?;
        let (user, password) = parse(credentials).ok_or(Why::Malformed)?;
        let known = self.users.get_key_value(&user);
        let hash = known.map_or(self.nobody.as_str(), |(_, hash)| &hash.0);
        let right = match crypto::verify_password(hash, &password) {
            Ok(right) => right,
            Err(crypto::Error::Busy) => return Err(Why::Busy),
            // Longer than any password that has been hashed.
            Err(crypto::Error::TooLarge) => false,
            Err(error) => {
                log::event(
                    Level::Error,
                    "a password cannot be checked",
                    &[("user", &user), ("why", &error.to_string())],
                );
                false
            }
        };
        match known {
            Some((user, _)) if right => Ok(user),
            _ => Err(Why::Wrong),
        }
    }

    fn pass_on(&self, req: &mut Request, user: &str) -> Result<(), EditError> {
        let Config {
            header,
            label,
            strip,
            ..
        } = &self.config;
        if *strip {
            req.remove_header("authorization")?;
        }
        // Replaces whatever the client claims to be.
        req.set_header(header, user)?;
        req.set_label(label, user)
    }

    fn refuse(&self, why: Why) -> Reply {
        metrics::count("refused", &[("why", why.name())], 1).ok();
        let level = match why {
            // Browsers ask without a password first.
            Why::Missing => Level::Info,
            _ => Level::Warn,
        };
        log::event(level, "user refused", &[("why", why.name())]);
        let (status, body) = match why {
            Why::Missing => (401, "a user name and a password are required\n"),
            Why::Malformed | Why::Wrong => (401, "user name or password are wrong\n"),
            Why::Several => (400, "`Authorization` was sent twice\n"),
            Why::Busy => (503, "try again later\n"),
            Why::Request => (400, "the request cannot be sent on\n"),
        };
        let reply = Reply::new(status)
            .header("content-type", "text/plain")
            .body(body);
        match status {
            401 => {
                let realm = &self.config.realm;
                let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
                reply.header("www-authenticate", challenge)
            }
            503 => reply.header("retry-after", "1"),
            _ => reply,
        }
    }
}

impl Users {
    fn hashes(&self) -> Result<BTreeMap<String, Hash>, ConfigError> {
        match self {
            Users::Table(table) => {
                let hashes = table.iter().map(|(user, hash)| {
                    check_user(user)
                        .map_err(|why| ConfigError::key("users", format!("`{user}`: {why}")))?;
                    let hash = Hash::parse(hash.expose())
                        .map_err(|why| ConfigError::at(["users", user], why))?;
                    Ok((user.clone(), hash))
                });
                hashes.collect()
            }
            Users::Htpasswd(text) => htpasswd(text.expose()),
        }
    }
}

impl Why {
    fn name(self) -> &'static str {
        match self {
            Why::Missing => "missing",
            Why::Several => "several",
            Why::Malformed => "malformed",
            Why::Wrong => "wrong",
            Why::Busy => "busy",
            Why::Request => "request",
        }
    }
}

/// The users of an htpasswd file. Messages name the line only: who mixes up a file of passwords with
/// one of hashes shall not read them in the log.
fn htpasswd(text: &str) -> Result<BTreeMap<String, Hash>, ConfigError> {
    let mut users = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| ConfigError::key("users", format!("line {}: {why}", i + 1));
        let (user, hash) = line.split_once(':').ok_or_else(|| wrong("has no colon"))?;
        check_user(user).map_err(wrong)?;
        let hash = Hash::parse(hash).map_err(wrong)?;
        if users.insert(user.to_owned(), hash).is_some() {
            return Err(wrong("names a user a second time"));
        }
    }
    Ok(users)
}

/// A name that can be sent in a header, kept as a label, and typed (RFC 7617, section 2).
fn check_user(user: &str) -> Result<(), &'static str> {
    if user.is_empty() || user.len() > MAX_USER {
        Err("has not 1 to 256 bytes")
    } else if user.contains(':') || user.chars().any(char::is_control) {
        Err("holds a colon or a control character")
    } else {
        Ok(())
    }
}

/// What follows the scheme, if that is `Basic`.
fn basic(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked("basic ".len())?;
    let is_basic = scheme.eq_ignore_ascii_case(b"basic ");
    is_basic.then(|| rest.trim_ascii())
}

/// User and password; the former ends at the first colon. Both are UTF-8, as the challenge asks.
fn parse(credentials: &[u8]) -> Option<(String, String)> {
    let decoded = BASE64_STANDARD.decode(credentials).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn default_realm() -> String {
    "sluicegate".to_owned()
}

fn default_header() -> String {
    "X-User".to_owned()
}

fn default_label() -> String {
    "sub".to_owned()
}

fn yes() -> bool {
    true
}

const MAX_USER: usize = 256;

#[cfg(test)]
mod tests;
