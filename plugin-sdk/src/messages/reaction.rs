//! What a filter answers.

use super::{Message, Side};

/// What becomes of a message, and what the filter says itself.
///
/// ```
/// use sluicegate_plugin::{Reaction, Side};
///
/// let refused = Reaction::drop().send_after(Side::Client, r#"{"error":"not allowed"}"#);
/// assert_eq!(refused, Reaction::reply(Side::Client, r#"{"error":"not allowed"}"#));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Reaction {
    verdict: Verdict,
    inject: Vec<Injection>,
}

/// What becomes of the message under judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next filter, in the end to the other side.
    Forward,
    /// This goes on in its place.
    Replace(Message),
    /// It goes nowhere.
    Drop,
    /// It goes nowhere, and both sides get this Close.
    Close { code: u16, reason: String },
}

/// A message of the filter's own. It goes straight to its side, past the other filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    pub to: Side,
    pub moment: Moment,
    pub message: Message,
}

/// When an injected message goes, seen from what became of the message under judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    Before,
    After,
}

impl Reaction {
    /// The message goes on; after a timer: all goes on.
    pub const fn forward() -> Self {
        Self::new(Verdict::Forward)
    }

    /// The message goes nowhere; the other side does not learn of it.
    pub const fn drop() -> Self {
        Self::new(Verdict::Drop)
    }

    /// This goes on in the message's place: data for data, a ping for a ping, a pong for a pong.
    pub fn replace(message: impl Into<Message>) -> Self {
        Self::new(Verdict::Replace(message.into()))
    }

    /// The message goes nowhere, and the tunnel ends: both sides get this Close.
    ///
    /// The code is one of 1000 to 1003, 1007 to 1014 (1008: a policy was violated) and 3000 to 4999; the
    /// reason is cut to 123 bytes.
    pub fn close(code: u16, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::new(Verdict::Close { code, reason })
    }

    /// The message goes nowhere, and its sender gets this answer.
    pub fn reply(sender: Side, answer: impl Into<Message>) -> Self {
        Self::drop().send_after(sender, answer)
    }

    /// Sends a message of the filter's own, before what becomes of the one under judgement.
    pub fn send_before(self, to: Side, message: impl Into<Message>) -> Self {
        self.send(to, Moment::Before, message.into())
    }

    /// Sends a message of the filter's own, after what becomes of the one under judgement.
    pub fn send_after(self, to: Side, message: impl Into<Message>) -> Self {
        self.send(to, Moment::After, message.into())
    }

    /// What becomes of the message.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What the filter says itself, in order.
    pub fn injections(&self) -> &[Injection] {
        &self.inject
    }

    /// The message that goes on in place of the one under judgement.
    pub fn replacement(&self) -> Option<&Message> {
        match &self.verdict {
            Verdict::Replace(message) => Some(message),
            _ => None,
        }
    }

    /// The code of the Close that ends the tunnel.
    pub fn close_code(&self) -> Option<u16> {
        match &self.verdict {
            Verdict::Close { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the proxy would obey this as the answer to a message; `None`: to a timer.
    ///
    /// # Errors
    /// Says which rule is broken.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self, judged: Option<&Message>) -> Result<(), String> {
        use sluicegate_plugin_rules::messages::{Outcome, reaction};

        let outcome = match &self.verdict {
            Verdict::Forward => Outcome::Forward,
            Verdict::Replace(message) => {
                let (kind, len) = message.measure();
                Outcome::Replace(kind, len)
            }
            Verdict::Drop => Outcome::Drop,
            Verdict::Close { code, .. } => Outcome::Close(*code),
        };
        let injected = self.inject.iter().map(|one| one.message.measure());
        let judged = judged.map(|message| message.measure().0);
        reaction(judged, outcome, injected).map_err(|error| error.to_string())
    }

    const fn new(verdict: Verdict) -> Self {
        Reaction {
            verdict,
            inject: Vec::new(),
        }
    }

    fn send(mut self, to: Side, moment: Moment, message: Message) -> Self {
        self.inject.push(Injection {
            to,
            moment,
            message,
        });
        self
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Message {
    fn measure(&self) -> (sluicegate_plugin_rules::messages::Kind, usize) {
        use sluicegate_plugin_rules::messages::Kind;

        match self {
            Message::Text(text) => (Kind::Text, text.len()),
            Message::Binary(data) => (Kind::Binary, data.len()),
            Message::Ping(data) => (Kind::Ping, data.len()),
            Message::Pong(data) => (Kind::Pong, data.len()),
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{Injection, Message, Moment, Reaction, Side, Verdict};
    use crate::glue::messages::wit;

    // Every one of these moves what it has: a message leaves the guest from where the filter made it.

    impl From<Reaction> for wit::Reaction {
        fn from(reaction: Reaction) -> Self {
            wit::Reaction {
                verdict: match reaction.verdict {
                    Verdict::Forward => wit::Verdict::Forward,
                    Verdict::Replace(message) => wit::Verdict::Replace(message.into()),
                    Verdict::Drop => wit::Verdict::Drop,
                    Verdict::Close { code, reason } => {
                        wit::Verdict::Close(wit::CloseFrame { code, reason })
                    }
                },
                inject: reaction.inject.into_iter().map(Into::into).collect(),
            }
        }
    }

    impl From<Injection> for wit::Injection {
        fn from(injection: Injection) -> Self {
            wit::Injection {
                to: injection.to.into(),
                moment: match injection.moment {
                    Moment::Before => wit::Moment::Before,
                    Moment::After => wit::Moment::After,
                },
                message: injection.message.into(),
            }
        }
    }

    impl From<Message> for wit::Message {
        fn from(message: Message) -> Self {
            match message {
                Message::Text(text) => wit::Message::Text(text),
                Message::Binary(data) => wit::Message::Binary(data),
                Message::Ping(data) => wit::Message::Ping(data),
                Message::Pong(data) => wit::Message::Pong(data),
            }
        }
    }

    impl From<Side> for wit::Side {
        fn from(side: Side) -> Self {
            match side {
                Side::Client => wit::Side::Client,
                Side::Server => wit::Side::Server,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaction_is_checked_by_the_rules_of_the_proxy() {
        #[track_caller]
        fn check(reaction: &Reaction, expect: Result<(), &str>) {
            let text = Message::from("judged");
            assert_eq!(reaction.check(Some(&text)), expect.map_err(str::to_owned));
        }
        check(&Reaction::replace(vec![1, 2]), Ok(()));
        check(&Reaction::close(1008, "no"), Ok(()));
        check(
            &Reaction::close(1006, "no"),
            Err("close code `1006` may not be sent"),
        );
        check(
            &Reaction::replace(Message::Ping(Vec::new())),
            Err("a ping in place of a text"),
        );
        let mut many = Reaction::forward();
        for _ in 0..65 {
            many = many.send_before(Side::Server, "x");
        }
        let expect = "65 messages of its own; at most 64 are allowed";
        check(&many, Err(expect));
        let late = Reaction::drop().check(None);
        assert_eq!(
            late.unwrap_err(),
            "a verdict on a message where there is none"
        );
    }

    #[test]
    fn a_reaction_can_be_looked_into() {
        let reaction = Reaction::replace("b")
            .send_before(Side::Server, "a")
            .send_after(Side::Client, vec![1]);
        assert_eq!(reaction.replacement(), Some(&Message::from("b")));
        assert_eq!(reaction.close_code(), None);
        let sent: Vec<_> = reaction.injections().iter().map(|one| one.to).collect();
        assert_eq!(sent, [Side::Server, Side::Client]);
        assert_eq!(Reaction::close(4000, "").close_code(), Some(4000));
    }
}
