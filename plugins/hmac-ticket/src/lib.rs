//! Lets in who brings a signed ticket in the URL, once.
//!
//! A browser cannot set headers on a WebSocket, and its cookies go along wherever a page says. So the
//! backend, which knows the user, signs a ticket that is good for half a minute; the page puts it into
//! the socket's URL, and here it is checked, used up, and taken out. What it says of the user goes to
//! the upstream.
//!
//! That a ticket is good once is kept in the store until it would have expired; if the store cannot say,
//! nobody gets in.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Interval, Reply, Request, Secret, Verdict, check_header,
    check_label, clock, config, export, kv, metrics,
};

use crate::ticket::{Ticket, Why};

mod ticket;

#[config]
#[derive(Debug)]
pub struct Config {
    /// Name = key, 32 bytes or more.
    keys: BTreeMap<String, Secret>,
    /// Query parameter that carries the ticket.
    #[serde(default = "default_query")]
    query: String,
    /// A ticket that is good for longer than this is refused.
    #[serde(default = "default_max_age")]
    max_age: Interval,
    /// A ticket is good once.
    #[serde(default = "yes")]
    once: bool,
    /// What every ticket must say.
    #[serde(default)]
    require: BTreeSet<Member>,
    /// Header that tells the upstream whose ticket it was (`sub`).
    #[serde(default = "default_header")]
    header: String,
    /// Label of the session that holds the same.
    #[serde(default = "default_label")]
    label: String,
}

/// A member of a ticket.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum Member {
    Sub,
    Path,
    Host,
    Ip,
    SessionExp,
}

pub struct HmacTicket(Config);

impl Filter for HmacTicket {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.keys.is_empty() || config.keys.len() > MAX_KEYS {
            return Err(ConfigError::key(
                "keys",
                format!("has not 1 to {MAX_KEYS} keys"),
            ));
        }
        for (name, key) in &config.keys {
            let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if name.is_empty() || !name.bytes().all(letter) {
                let message = format!("`{name}`: only letters, digits, `-` and `_` name a key");
                return Err(ConfigError::key("keys", message));
            }
            if key.expose().len() < MIN_KEY {
                let message = format!("is shorter than {MIN_KEY} bytes");
                return Err(ConfigError::at(["keys", name], message));
            }
        }
        if config.query.is_empty() {
            return Err(ConfigError::key("query", "is empty"));
        }
        if config.max_age.is_zero() {
            return Err(ConfigError::key("max_age", "is no time at all"));
        }
        check_header(&config.header, "")
            .map_err(|error| ConfigError::key("header", format!("`{}`: {error}", config.header)))?;
        check_label(&config.label)
            .map_err(|_| ConfigError::key("label", format!("`{}` is no label", config.label)))?;
        Ok(HmacTicket(config))
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        match self.admit(req) {
            Ok(()) => Verdict::Continue,
            Err(why) => refuse(why).into(),
        }
    }
}

export!(HmacTicket);

impl HmacTicket {
    fn admit(&self, req: &mut Request) -> Result<(), Why> {
        let text = req
            .query_param(&self.0.query)
            .filter(|text| !text.is_empty());
        let text = text.ok_or(Why::Missing)?;
        // Before anything can refuse it: what is left in the query may end in the access log.
        req.remove_query_param(&self.0.query)
            .map_err(|_| Why::Request)?;
        let (ticket, signature) = Ticket::verify(&text, &self.0.keys)?;
        let now = clock::now();
        let left = self.check(&ticket, req, now)?;
        self.pass_on(&ticket, req).map_err(|_| Why::Request)?;
        // At last: what was refused for another reason is not used up.
        if self.0.once {
            let ttl = Some(left + Duration::from_secs(1));
            match kv::add(&format!("used:{signature}"), "", ttl) {
                Ok(true) => {}
                Ok(false) => return Err(Why::Used),
                Err(error) => {
                    sluicegate_plugin::warn!("tickets cannot be marked as used: {error}");
                    return Err(Why::Store);
                }
            }
        }
        Ok(())
    }

    /// Whether it is good here and now; returns for how long it still is.
    fn check(&self, ticket: &Ticket, req: &Request, now: SystemTime) -> Result<Duration, Why> {
        let left = moment(ticket.exp)?.duration_since(now);
        let left = left
            .ok()
            .filter(|left| !left.is_zero())
            .ok_or(Why::Expired)?;
        if left > self.0.max_age.get() {
            return Err(Why::TooLong);
        }
        if ticket
            .session_exp
            .is_some_and(|end| moment(end).is_ok_and(|end| end <= now))
        {
            return Err(Why::Expired);
        }
        let has_all = self.0.require.iter().all(|member| match member {
            Member::Sub => ticket.sub.is_some(),
            Member::Path => ticket.path.is_some(),
            Member::Host => ticket.host.is_some(),
            Member::Ip => ticket.ip.is_some(),
            Member::SessionExp => ticket.session_exp.is_some(),
        });
        let is_for_this = ticket.allows_path(&req.path())
            && ticket.allows_host(&req.host())
            && ticket.allows_ip(req.client_ip());
        if has_all && is_for_this {
            Ok(left)
        } else {
            Err(Why::Binding)
        }
    }

    fn pass_on(&self, ticket: &Ticket, req: &mut Request) -> Result<(), EditError> {
        // Whatever the client says of itself goes, also where the ticket says nothing.
        req.remove_header(&self.0.header)?;
        if let Some(sub) = &ticket.sub {
            req.set_header(&self.0.header, sub)?;
            req.set_label(&self.0.label, sub)?;
        }
        if let Some(end) = ticket.session_exp.and_then(|end| moment(end).ok()) {
            req.expire_at(end);
        }
        Ok(())
    }
}

fn refuse(why: Why) -> Reply {
    metrics::count("refused", &[("why", why.name())], 1).ok();
    let level = match why {
        Why::Missing => Level::Info,
        _ => Level::Warn,
    };
    log::event(level, "ticket refused", &[("why", why.name())]);
    let (status, body) = match why {
        Why::Missing => (403, "a ticket is required\n"),
        // The page can fetch another.
        Why::Expired | Why::Used => (403, "the ticket was used or has expired\n"),
        Why::Store => (503, "the ticket cannot be checked now\n"),
        Why::Request => (400, "the request cannot be sent on\n"),
        _ => (403, "the ticket is not valid\n"),
    };
    let reply = Reply::new(status)
        .header("content-type", "text/plain")
        .body(body);
    if status == 503 {
        reply.header("retry-after", "1")
    } else {
        reply
    }
}

fn moment(seconds: u64) -> Result<SystemTime, Why> {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .ok_or(Why::TooLong)
}

fn default_query() -> String {
    "ticket".to_owned()
}

fn default_max_age() -> Interval {
    Interval::from_secs(300)
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

/// Each is tried where a ticket does not name its key.
const MAX_KEYS: usize = 16;
/// As long as the output of SHA-256 (RFC 2104, section 3).
const MIN_KEY: usize = 32;

#[cfg(test)]
mod tests;
