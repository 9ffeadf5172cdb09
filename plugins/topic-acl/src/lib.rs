//! Says which topics a client may publish to and subscribe to, in protocols over WebSocket that have some.
//!
//! Only what clients send is looked at. What cannot be read is refused, whatever the rules: the server might
//! read it otherwise. Rules may speak of the session (`rooms/{sub}/#`), by the labels that a filter of the
//! handshake, such as `jwt`, noted.

#![forbid(unsafe_code)]

mod extract;
mod mqtt;
mod refusal;
mod rules;
mod socketio;
mod topic;

use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, MessageFilter, Opening, Reaction, Side, config, export,
};

use extract::{Found, Places, Role};
use refusal::{Refusal, RefuseConfig, Why};
use rules::{OneOrMany, RuleConfig, Rules};
use socketio::Packet;

#[config]
#[derive(Debug)]
pub struct Config {
    /// What clients speak.
    #[serde(default)]
    protocol: Protocol,
    /// Place of the action in a message, a JSON pointer; left out, every message is a `publish`. Of `json` only.
    action: Option<String>,
    /// Places of topics, JSON pointers; `*` is every element of a list. Of `socket.io` by default the first
    /// argument.
    topic: Option<OneOrMany>,
    /// Place of what an answer has to name, a JSON pointer.
    id: Option<String>,
    /// Namespaces of socket.io that are open; by default `/`.
    namespaces: Option<Vec<String>>,
    /// What stands between the levels of a topic.
    #[serde(default = "default_separator")]
    separator: char,
    /// What is allowed. Left out: all that `deny` does not name.
    allow: Option<Vec<RuleConfig>>,
    /// What is not, whatever `allow` says.
    #[serde(default)]
    deny: Vec<RuleConfig>,
    /// What becomes of a message that is not allowed.
    #[serde(default)]
    refuse: RefuseConfig,
    /// Close code of `refuse = "close"`.
    #[serde(default = "default_code")]
    code: u16,
    /// Its reason.
    #[serde(default = "default_reason")]
    reason: String,
    /// Answer of `refuse = "reply"`, with `{action}`, `{topic}` and `{id}`, each escaped as in a JSON string.
    reply: Option<String>,
}

/// What clients speak.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Protocol {
    /// JSON in text messages.
    #[default]
    #[serde(rename = "json")]
    Json,
    /// socket.io, versions 3 and 4 of its server: event and arguments.
    #[serde(rename = "socket.io")]
    SocketIo,
    /// MQTT 3.1, 3.1.1 and 5 in binary messages.
    #[serde(rename = "mqtt")]
    Mqtt,
}

pub struct TopicAcl {
    rules: Rules,
    speech: Speech,
    separator: char,
    refusal: Refusal,
}

/// How a message is read.
enum Speech {
    Json {
        places: Places,
        has_action: bool,
    },
    SocketIo {
        places: Places,
        namespaces: Vec<String>,
    },
    Mqtt,
}

pub struct Session {
    /// Of the labels that rules name.
    labels: Box<topic::Values>,
    /// Binary messages that belong to an event that was refused.
    orphans: u32,
    stream: mqtt::Stream,
}

impl Filter for TopicAcl {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.allow.is_none() && config.deny.is_empty() {
            return Err("neither `allow` nor `deny` is there".into());
        }
        if matches!(config.separator, '+' | '#' | '{' | '}') {
            return Err(ConfigError::key("separator", "means something else"));
        }
        let speech = Speech::new(&config)?;
        Ok(TopicAcl {
            rules: Rules::new(config.allow.as_deref(), &config.deny, config.separator)?,
            refusal: Refusal::new(
                config.refuse,
                config.code,
                config.reason,
                config.reply,
                matches!(speech, Speech::Mqtt),
            )?,
            separator: config.separator,
            speech,
        })
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for TopicAcl {
    type Session = Session;

    fn interest(&self) -> Interest {
        Interest::data().from(Side::Client)
    }

    fn open(&self, opening: &Opening) -> Option<Session> {
        let label = |name: &str| opening.label(name).map(str::to_owned);
        Some(Session {
            labels: self.rules.names.values(self.separator, label),
            orphans: 0,
            stream: mqtt::Stream::default(),
        })
    }

    fn on_text(&self, session: &mut Session, _: Side, text: &str) -> Reaction {
        match &self.speech {
            Speech::Json { places, has_action } => match places.read(text) {
                Ok(mut found) => {
                    if !has_action {
                        found.action = Some("publish".to_owned());
                    }
                    self.judge(session, &found)
                }
                Err(_) => self.refusal.refuse(Why::Unreadable),
            },
            Speech::SocketIo { places, namespaces } => {
                self.on_packet(session, places, namespaces, text)
            }
            Speech::Mqtt => self.refusal.end_stream(mqtt::Fault::Malformed),
        }
    }

    fn on_binary(&self, session: &mut Session, _: Side, data: &[u8]) -> Reaction {
        match self.speech {
            Speech::Json { .. } => self.refusal.refuse(Why::Unreadable),
            Speech::SocketIo { .. } if session.orphans > 0 => {
                session.orphans -= 1;
                Reaction::drop()
            }
            Speech::SocketIo { .. } => Reaction::forward(),
            Speech::Mqtt => self.on_stream(session, data),
        }
    }
}

export!(TopicAcl: messages);

impl TopicAcl {
    fn judge(&self, session: &Session, found: &Found) -> Reaction {
        let Some(action) = found.action.as_deref() else {
            return self.refusal.refuse(Why::Unreadable);
        };
        let topics = || found.topics.iter().map(String::as_str);
        let labels = &session.labels;
        if self.rules.allow(action, topics(), labels) {
            return Reaction::forward();
        }
        let refused = topics().find(|topic| !self.rules.allow(action, [*topic], labels));
        self.refusal.refuse(Why::NotAllowed {
            action,
            topic: refused.unwrap_or_default(),
            id: found.id.as_deref().unwrap_or_default(),
        })
    }

    fn on_packet(
        &self,
        session: &mut Session,
        places: &Places,
        namespaces: &[String],
        text: &str,
    ) -> Reaction {
        let is_open = |namespace: &str| namespaces.iter().any(|open| open == namespace);
        let (reaction, attachments) = match socketio::parse(text) {
            Some(Packet::Other { namespace }) if is_open(namespace) => return Reaction::forward(),
            Some(Packet::Event {
                namespace,
                attachments,
                ack,
                json,
            }) if is_open(namespace) => match places.read(json) {
                Ok(mut found) => {
                    found.id = found.id.or(ack.map(str::to_owned));
                    (self.judge(session, &found), attachments)
                }
                Err(_) => (self.refusal.refuse(Why::Unreadable), attachments),
            },
            Some(Packet::Event { attachments, .. }) => {
                (self.refusal.refuse(Why::Namespace), attachments)
            }
            Some(Packet::Other { .. }) => (self.refusal.refuse(Why::Namespace), 0),
            None => (self.refusal.refuse(Why::Unreadable), 0),
        };
        if reaction != Reaction::forward() {
            session.orphans = attachments;
        }
        reaction
    }

    fn on_stream(&self, session: &mut Session, data: &[u8]) -> Reaction {
        let Session { labels, stream, .. } = session;
        let outcome = stream.take(data, |action, topics| {
            let (action, topics) = (action.name(), topics.iter().copied());
            let refused = topics
                .clone()
                .find(|topic| !self.rules.allow(action, [*topic], labels));
            if let Some(topic) = refused {
                self.refusal.note(Why::NotAllowed {
                    action,
                    topic,
                    id: "",
                });
            }
            refused.is_none()
        });
        match outcome {
            Ok(outcome) => self.refusal.of_stream(outcome),
            Err(fault) => self.refusal.end_stream(fault),
        }
    }
}

impl Speech {
    fn new(config: &Config) -> Result<Self, ConfigError> {
        let protocol = config.protocol;
        let only = |given: bool, key: &str, whose: &[Protocol]| {
            if given && !whose.contains(&protocol) {
                return Err(ConfigError::key(key, "this protocol has no use for it"));
            }
            Ok(())
        };
        use Protocol::{Json, Mqtt, SocketIo};
        only(config.action.is_some(), "action", &[Json])?;
        only(config.topic.is_some(), "topic", &[Json, SocketIo])?;
        only(config.id.is_some(), "id", &[Json, SocketIo])?;
        only(config.namespaces.is_some(), "namespaces", &[SocketIo])?;
        if protocol == Mqtt {
            return Ok(Speech::Mqtt);
        }
        let mut places = Places::default();
        let mut add = |key: &str, pointers: &[String], role| {
            let mut all = pointers.iter().map(|pointer| places.add(pointer, role));
            all.try_for_each(|added| added.map_err(|why| ConfigError::key(key, why)))
        };
        let (first, second) = (["/0".to_owned()], ["/1".to_owned()]);
        match protocol {
            SocketIo => add("action", &first, Role::Action)?,
            _ => add("action", config.action.as_slice(), Role::Action)?,
        }
        match &config.topic {
            Some(topic) => add("topic", topic.all(), Role::Topic)?,
            None if protocol == SocketIo => add("topic", &second, Role::Topic)?,
            None => {}
        }
        add("id", config.id.as_slice(), Role::Id)?;
        Ok(match protocol {
            SocketIo => Speech::SocketIo {
                places,
                namespaces: config
                    .namespaces
                    .clone()
                    .unwrap_or_else(|| vec!["/".to_owned()]),
            },
            _ => Speech::Json {
                places,
                has_action: config.action.is_some(),
            },
        })
    }
}

fn default_separator() -> char {
    '/'
}

fn default_code() -> u16 {
    1008
}

fn default_reason() -> String {
    "not allowed".to_owned()
}

#[cfg(test)]
mod tests;
