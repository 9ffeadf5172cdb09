//! Notes a sample of the messages: in the log, or by HTTP at an upstream.
//!
//! Nothing is ever changed or held up: a message goes on whatever becomes of its record. Records for an upstream
//! are collected per connection, up to a bound, and sent now and then and when the connection has ended; what
//! does not fit or cannot be sent is counted and forgotten.

#![forbid(unsafe_code)]

mod record;

use std::time::Duration;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, Ending, Filter, Hook, Interest, Interval, MessageFilter, Opening, Reaction,
    Secret, Senders, Service, Side, check_header, config, export, metrics, outbound, random,
};

use record::{Payload, Record};

#[config]
#[derive(Debug)]
pub struct Config {
    /// Of each connection one message in so many; 1: each.
    one_in: u32,
    /// The first so many messages of each connection besides.
    #[serde(default)]
    first: u32,
    /// Whose messages.
    #[serde(default)]
    from: Senders,
    /// What is noted of the message itself.
    #[serde(default)]
    payload: Payload,
    /// Bytes of an excerpt.
    #[serde(default = "default_max_bytes")]
    max_bytes: u16,
    /// The upstream that records are sent to; left out, they are lines in the log.
    upstream: Option<String>,
    /// Path, and query, of that request.
    #[serde(default = "default_path")]
    path: String,
    /// Its `Host`; by default the server's.
    host: Option<String>,
    /// Headers of it, such as `Authorization`.
    #[serde(default)]
    headers: std::collections::BTreeMap<String, Secret>,
    /// How often what has come together is sent.
    #[serde(default = "default_flush")]
    flush: Interval,
    /// Records of a connection that come together until then; more are lost.
    #[serde(default = "default_batch")]
    batch: u16,
    /// How long sending may take.
    #[serde(default = "default_timeout")]
    timeout: Interval,
}

pub struct AuditSample {
    config: Config,
}

pub struct Session {
    /// Where records go to an upstream: what they begin with.
    head: String,
    /// Messages so far.
    seen: u64,
    /// Messages until the next one of the sample.
    until_next: u32,
    /// Records, as JSON, between commas.
    pending: String,
    count: u16,
    lost: u64,
    /// Whether the connection has, or had, any: then its end is told.
    has_records: bool,
}

impl Filter for AuditSample {
    type Config = Config;
    const OPTIONAL: &'static [Service] = &[Service::Outbound];

    fn configure(config: Config) -> Result<Self, ConfigError> {
        for (key, zero) in [
            ("one_in", config.one_in == 0),
            ("batch", config.batch == 0),
            ("flush", config.flush.is_zero()),
            ("timeout", config.timeout.is_zero()),
        ] {
            if zero {
                return Err(ConfigError::key(key, "is nothing at all"));
            }
        }
        if config.max_bytes > MAX_EXCERPT {
            let message = format!("is more than {MAX_EXCERPT}");
            return Err(ConfigError::key("max_bytes", message));
        }
        let sendable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if !config.path.starts_with('/') || !sendable(&config.path) {
            let message = format!("`{}` is no path", config.path);
            return Err(ConfigError::key("path", message));
        }
        for (name, value) in &config.headers {
            check_header(name, value.expose())
                .map_err(|error| ConfigError::at(["headers", name], error))?;
        }
        Ok(AuditSample { config })
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for AuditSample {
    type Session = Session;

    fn interest(&self) -> Interest {
        let interest = Interest::data().sent_by(self.config.from);
        match self.config.upstream {
            Some(_) => interest.every(self.config.flush.get()).on_close(),
            None => interest,
        }
    }

    fn open(&self, opening: &Opening) -> Option<Session> {
        let head = match self.config.upstream {
            Some(_) => record::head(opening),
            None => opening.request_id().to_owned(),
        };
        Some(Session {
            head,
            seen: 0,
            until_next: phase(self.config.one_in),
            pending: String::new(),
            count: 0,
            lost: 0,
            has_records: false,
        })
    }

    fn on_text(&self, session: &mut Session, sender: Side, text: &str) -> Reaction {
        if self.is_of_sample(session) {
            let excerpt = || record::excerpt(text, self.config.max_bytes.into()).to_owned();
            self.note(session, sender, "text", text.as_bytes(), excerpt);
        }
        Reaction::forward()
    }

    fn on_binary(&self, session: &mut Session, sender: Side, data: &[u8]) -> Reaction {
        if self.is_of_sample(session) {
            let excerpt = || record::hex(data.iter().take(self.config.max_bytes.into()));
            self.note(session, sender, "binary", data, excerpt);
        }
        Reaction::forward()
    }

    fn on_timer(&self, session: &mut Session) -> Reaction {
        if session.count > 0 {
            self.send(session, None);
        }
        Reaction::forward()
    }

    fn on_close(&self, session: &mut Session, ending: &Ending) {
        if session.has_records {
            self.send(session, Some(ending));
        }
    }
}

export!(AuditSample: messages);

impl AuditSample {
    fn is_of_sample(&self, session: &mut Session) -> bool {
        session.seen += 1;
        let next = session.until_next.checked_sub(1);
        session.until_next = next.unwrap_or(self.config.one_in - 1);
        next.is_none() || session.seen <= self.config.first.into()
    }

    fn note(
        &self,
        session: &mut Session,
        sender: Side,
        kind: &'static str,
        data: &[u8],
        excerpt: impl FnOnce() -> String,
    ) {
        let record = Record {
            from: match sender {
                Side::Client => "client",
                Side::Server => "server",
            },
            kind,
            number: session.seen,
            size: data.len(),
            payload: self.config.payload.of(data, excerpt),
        };
        if self.config.upstream.is_none() {
            return record.log(&session.head);
        }
        session.has_records = true;
        let json = record.json();
        let room = MAX_PENDING.saturating_sub(session.pending.len());
        if session.count == self.config.batch || json.len() >= room {
            session.lost += 1;
            count("lost", "full", 1);
            return;
        }
        if session.count > 0 {
            session.pending.push(',');
        }
        session.pending.push_str(&json);
        session.count += 1;
    }

    /// Sends what there is; the records are gone afterwards, whatever comes of it.
    fn send(&self, session: &mut Session, ending: Option<&Ending>) {
        let Some(upstream) = &self.config.upstream else {
            return;
        };
        let records = std::mem::take(&mut session.pending);
        let count_of_them = u64::from(std::mem::take(&mut session.count));
        let mut request = outbound::Request::post(upstream.as_str(), self.config.path.as_str())
            .header("content-type", "application/json")
            .timeout(self.config.timeout.get())
            .body(record::body(&session.head, &records, session.lost, ending));
        if let Some(host) = &self.config.host {
            request = request.header("host", host.as_str());
        }
        for (name, value) in &self.config.headers {
            request = request.header(name.as_str(), value.expose());
        }
        let why = match request.send() {
            Ok(answer) if (200..300).contains(&answer.status) => {
                session.lost = 0;
                metrics::count("sent", &[], count_of_them).ok();
                return;
            }
            Ok(answer) => format!("status {}", answer.status),
            Err(error) => error.to_string(),
        };
        session.lost += count_of_them;
        count("lost", "unsent", count_of_them);
        log::event(Level::Warn, "records cannot be sent", &[("why", &why)]);
    }
}

/// The figure is a convenience.
fn count(name: &str, why: &str, by: u64) {
    metrics::count(name, &[("why", why)], by).ok();
}

/// Where in its cycle a connection begins: so that short ones are in the sample, too.
fn phase(one_in: u32) -> u32 {
    if one_in == 1 {
        return 0;
    }
    let bytes = random::bytes(4);
    let number = bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    number % one_in
}

fn default_max_bytes() -> u16 {
    256
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_flush() -> Interval {
    Interval::from_secs(5)
}

fn default_batch() -> u16 {
    100
}

fn default_timeout() -> Interval {
    Duration::from_secs(2).into()
}

/// Bytes of a message.
const MAX_EXCERPT: u16 = 4096;
/// Bytes of a connection's records, as JSON.
const MAX_PENDING: usize = 64 << 10;

#[cfg(test)]
mod tests;
