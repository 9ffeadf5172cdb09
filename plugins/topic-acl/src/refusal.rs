//! What becomes of a message that is not allowed, and what is told of it.

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{ConfigError, Message, Reaction, Side, config, metrics};

use crate::mqtt::{Fault, Outcome};

/// What becomes of a message that is not allowed.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RefuseConfig {
    /// The tunnel is closed.
    #[default]
    Close,
    /// It goes nowhere, and nobody is told.
    Drop,
    /// It goes nowhere, and the client gets an answer: `reply`, or with MQTT the one that the protocol has.
    Reply,
}

/// Why a message is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why<'a> {
    NotAllowed {
        action: &'a str,
        topic: &'a str,
        id: &'a str,
    },
    /// It is not what the protocol has.
    Unreadable,
    /// Of socket.io.
    Namespace,
}

pub(crate) struct Refusal {
    way: Way,
    code: u16,
    reason: String,
}

enum Way {
    Close,
    Drop,
    Reply(String),
    /// As the protocol has it.
    Answer,
}

impl Refusal {
    /// # Errors
    /// Which key is wrong, and why.
    pub(crate) fn new(
        refuse: RefuseConfig,
        code: u16,
        reason: String,
        reply: Option<String>,
        answers_itself: bool,
    ) -> Result<Self, ConfigError> {
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(ConfigError::key("code", format!("`{code}` cannot be sent")));
        }
        if reason.len() > MAX_REASON {
            let message = format!("has more than {MAX_REASON} bytes");
            return Err(ConfigError::key("reason", message));
        }
        let way = match (refuse, reply) {
            (RefuseConfig::Close, None) => Way::Close,
            (RefuseConfig::Drop, None) => Way::Drop,
            (RefuseConfig::Reply, None) if answers_itself => Way::Answer,
            (RefuseConfig::Reply, Some(text)) if !answers_itself => Way::Reply(text),
            (RefuseConfig::Reply, None) => {
                return Err(ConfigError::key("reply", "is needed to reply"));
            }
            (_, Some(_)) => return Err(ConfigError::key("reply", "is never sent")),
        };
        Ok(Refusal { way, code, reason })
    }

    /// Judges a whole message.
    pub(crate) fn refuse(&self, why: Why<'_>) -> Reaction {
        self.note(why);
        match &self.way {
            Way::Close | Way::Answer => self.close(),
            Way::Drop => Reaction::drop(),
            Way::Reply(text) => Reaction::reply(Side::Client, filled(text, why)),
        }
    }

    /// What becomes of a piece of a stream in which packets were judged, and noted if they were refused.
    pub(crate) fn of_stream(&self, outcome: Outcome) -> Reaction {
        if outcome.refused > 0 && matches!(self.way, Way::Close) {
            return self.close();
        }
        let mut reaction = match outcome.onward {
            _ if outcome.over => self.close(),
            None => Reaction::forward(),
            Some(onward) if onward.is_empty() => Reaction::drop(),
            Some(onward) => Reaction::replace(Message::Binary(onward)),
        };
        if matches!(self.way, Way::Answer) && !outcome.answer.is_empty() {
            reaction = reaction.send_before(Side::Client, Message::Binary(outcome.answer));
        }
        reaction
    }

    /// A stream cannot be read on where it was left once.
    pub(crate) fn end_stream(&self, fault: Fault) -> Reaction {
        self.note(Why::Unreadable);
        match fault {
            Fault::Malformed | Fault::TooMany => self.close(),
            Fault::TooLarge => Reaction::close(1009, "too large"),
        }
    }

    /// For the operator.
    pub(crate) fn note(&self, why: Why<'_>) {
        // The figure is a convenience: the verdict stands without it.
        metrics::count("refused", &[("why", why.name())], 1).ok();
        let fields = [("why", why.name()), ("action", ""), ("topic", "")];
        match why {
            Why::NotAllowed { action, topic, .. } => {
                let fields = [fields[0], ("action", action), ("topic", topic)];
                log::event(Level::Info, "message refused", &fields);
            }
            _ => log::event(Level::Info, "message refused", &fields[..1]),
        }
    }

    fn close(&self) -> Reaction {
        Reaction::close(self.code, self.reason.as_str())
    }
}

impl Why<'_> {
    fn name(self) -> &'static str {
        match self {
            Why::NotAllowed { .. } => "not-allowed",
            Why::Unreadable => "unreadable",
            Why::Namespace => "namespace",
        }
    }
}

/// A template with what it names put in, once: what is put in is not looked at again.
fn filled(template: &str, why: Why<'_>) -> String {
    let (action, topic, id) = match why {
        Why::NotAllowed { action, topic, id } => (action, topic, id),
        _ => ("", "", ""),
    };
    let names = [("{action}", action), ("{topic}", topic), ("{id}", id)];
    let (mut out, mut rest) = (String::new(), template);
    while let Some(brace) = rest.find('{') {
        let (before, after) = rest.split_at(brace);
        out.push_str(before);
        let name = names.iter().find(|(name, _)| after.starts_with(name));
        match name {
            Some((name, value)) => {
                // An answer is no place for what may be as long as a message.
                let value = &value[..value.floor_char_boundary(MAX_SHOWN)];
                let quoted = serde_json::Value::from(value).to_string();
                out.push_str(&quoted[1..quoted.len() - 1]);
                rest = &after[name.len()..];
            }
            None => {
                out.push('{');
                rest = &after[1..];
            }
        }
    }
    out + rest
}

/// Bytes of a topic, an action or an id.
const MAX_SHOWN: usize = 256;
/// Of a Close (RFC 6455, section 5.5).
const MAX_REASON: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_once_and_stays_json() {
        let why = Why::NotAllowed {
            action: "a\"b",
            topic: "{id}\n",
            id: "7",
        };
        let template = r#"{"a":"{action}","t":"{topic}","x":{"{other}":"{id}"}}"#;
        let expect = r#"{"a":"a\"b","t":"{id}\n","x":{"{other}":"7"}}"#;
        assert_eq!(filled(template, why), expect);
        assert_eq!(filled("{id}{", Why::Unreadable), "{");
        let long = &"é".repeat(1000);
        let why = Why::NotAllowed {
            action: long,
            topic: long,
            id: long,
        };
        assert_eq!(filled("{action}{topic}", why).len(), 2 * MAX_SHOWN);
    }

    #[test]
    fn a_refusal_that_cannot_be_is_named() {
        #[track_caller]
        fn check(refuse: RefuseConfig, code: u16, reply: Option<&str>, mqtt: bool, expect: &str) {
            let reply = reply.map(str::to_owned);
            let made = Refusal::new(refuse, code, String::new(), reply, mqtt);
            assert_eq!(made.map(|_| ()).unwrap_err().to_string(), expect);
        }
        use RefuseConfig::{Close, Drop, Reply};
        check(Close, 1005, None, false, "`code`: `1005` cannot be sent");
        check(Reply, 1008, None, false, "`reply`: is needed to reply");
        check(Reply, 1008, Some("x"), true, "`reply`: is never sent");
        check(Drop, 1008, Some("x"), false, "`reply`: is never sent");
    }
}
