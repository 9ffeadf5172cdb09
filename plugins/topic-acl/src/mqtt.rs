//! MQTT over WebSocket (3.1.1 and 5, section 6), as far as who publishes and subscribes to what.
//!
//! Packets need not keep to the bounds of messages: what is not whole yet is held, up to a bound, and goes on
//! when it is. A packet that is refused is cut out of the stream and, where the protocol has an answer for
//! it, answered in the server's name.

mod packet;

use std::collections::BTreeMap;

use packet::{Connect, Frame, Publish, Subscribe};

/// One client's stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// `None`: no CONNECT yet.
    version: Option<Version>,
    /// The beginning of a packet.
    held: Vec<u8>,
    /// What a number stands for instead of a topic (version 5).
    aliases: BTreeMap<u16, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// 3.1 and 3.1.1
    Three,
    Five,
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    Subscribe,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Goes to the server in its place; `None`: the message as it came.
    pub(crate) onward: Option<Vec<u8>>,
    /// What the server would have answered to what was refused.
    pub(crate) answer: Vec<u8>,
    /// How many packets were refused.
    pub(crate) refused: u32,
    /// The client may not even connect like this.
    pub(crate) over: bool,
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No MQTT.
    Malformed,
    /// A packet is larger than is held.
    TooLarge,
}

impl Stream {
    /// Takes the client's next message; `allow` judges an action on all topics of a packet.
    ///
    /// # Errors
    /// The stream cannot be understood any further.
    pub(crate) fn take(
        &mut self,
        message: &[u8],
        largest: usize,
        mut allow: impl FnMut(Action, &[&str]) -> bool,
    ) -> Result<Outcome, Fault> {
        let mut joined = std::mem::take(&mut self.held);
        let had_held = !joined.is_empty();
        let mut rest = if had_held {
            joined.extend_from_slice(message);
            joined.as_slice()
        } else {
            message
        };
        let mut outcome = Outcome::default();
        let mut kept = Vec::new();
        let connected = self.version.is_some();
        if !connected
            && rest
                .first()
                .is_some_and(|first| first >> 4 != packet::CONNECT)
        {
            return Err(Fault::Malformed);
        }
        while let Some(frame) = Frame::first_of(rest, largest)? {
            let (whole, after) = rest.split_at(frame.len());
            rest = after;
            match self.judge(&frame, &mut allow)? {
                None => kept.extend_from_slice(whole),
                Some(answer) => {
                    outcome.answer.extend_from_slice(&answer);
                    outcome.refused += 1;
                    outcome.over |= frame.kind == packet::CONNECT;
                }
            }
        }
        let as_it_came = !had_held && rest.is_empty() && outcome.refused == 0;
        let held = rest.to_vec();
        self.held = held;
        outcome.onward = (!as_it_came).then_some(kept);
        Ok(outcome)
    }

    /// `Some`: it is refused, with this answer.
    fn judge(
        &mut self,
        frame: &Frame<'_>,
        allow: &mut impl FnMut(Action, &[&str]) -> bool,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(version) = self.version else {
            let connect = Connect::read(frame).ok_or(Fault::Malformed)?;
            self.version = Some(connect.version);
            let allowed = connect
                .will_topic
                .is_none_or(|topic| allow(Action::Publish, &[topic]));
            return Ok((!allowed).then(|| connect.refusal()));
        };
        match frame.kind {
            packet::CONNECT => Err(Fault::Malformed),
            packet::PUBLISH => {
                let publish = Publish::read(frame, version).ok_or(Fault::Malformed)?;
                let topic = self.topic_of(&publish).ok_or(Fault::Malformed)?;
                // Wildcards are for those who listen.
                let allowed = !topic.contains(['+', '#']) && allow(Action::Publish, &[topic]);
                Ok((!allowed).then(|| publish.refusal(version)))
            }
            packet::SUBSCRIBE => {
                let subscribe = Subscribe::read(frame, version).ok_or(Fault::Malformed)?;
                let allowed = allow(Action::Subscribe, &subscribe.topics);
                Ok((!allowed).then(|| subscribe.refusal(version)))
            }
            _ => Ok(None),
        }
    }

    /// The topic that a packet names itself, or by a number given to it before.
    fn topic_of<'a>(&'a mut self, publish: &Publish<'a>) -> Option<&'a str> {
        match publish.alias {
            None => Some(publish.topic).filter(|topic| !topic.is_empty()),
            Some(alias) if publish.topic.is_empty() => self.aliases.get(&alias).map(String::as_str),
            Some(alias) => {
                let room = self.aliases.len() < MAX_ALIASES || self.aliases.contains_key(&alias);
                room.then(|| self.aliases.insert(alias, publish.topic.to_owned()));
                room.then_some(publish.topic)
            }
        }
    }
}

/// More than brokers grant (`Topic Alias Maximum`) by default.
const MAX_ALIASES: usize = 128;

#[cfg(test)]
mod tests;
