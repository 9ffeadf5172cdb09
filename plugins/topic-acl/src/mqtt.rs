//! MQTT over WebSocket (3.1.1 and 5, section 6), as far as who publishes and subscribes to what.
//!
//! Packets need not keep to the bounds of messages. One is judged as soon as its topics are there, and what
//! comes of it later goes the same way: only a cut head is ever held, and so no more than [`MAX_HELD`] bytes. A
//! packet that is refused is cut out of the stream and, where the protocol has an answer for it, answered in
//! the server's name.

mod packet;

use std::collections::BTreeMap;

use packet::{Connect, Frame, Publish, Subscribe};

/// One client's stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// `None`: no CONNECT yet.
    version: Option<Version>,
    /// The beginning of a packet that cannot be judged yet.
    held: Vec<u8>,
    /// Bytes that are to come of the packet that was judged last, and whether they go on.
    left: usize,
    passing: bool,
    /// What a number stands for instead of a topic (version 5).
    aliases: BTreeMap<u16, String>,
    /// Bytes of them.
    alias_bytes: usize,
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
    /// A cut head is larger than is held, or what goes on than can be given back.
    TooLarge,
    /// A message has more packets and topics than are judged at once.
    TooMany,
}

/// What becomes of a packet.
enum Verdict {
    Pass,
    /// With what the server would have answered.
    Refuse(Vec<u8>),
}

impl Stream {
    /// Takes the client's next message; `allow` judges an action on all topics of a packet.
    ///
    /// # Errors
    /// The stream cannot be understood any further.
    pub(crate) fn take(
        &mut self,
        message: &[u8],
        mut allow: impl FnMut(Action, &[&str]) -> bool,
    ) -> Result<Outcome, Fault> {
        let mut joined = std::mem::take(&mut self.held);
        let mut changed = !joined.is_empty();
        let mut rest = message;
        if changed {
            joined.extend_from_slice(message);
            rest = &joined;
        }
        let mut outcome = Outcome::default();
        let (mut kept, mut judged) = (Vec::new(), 0);
        while !rest.is_empty() {
            if self.left == 0 {
                let mut allow = |action, topics: &[&str]| {
                    judged += topics.len();
                    judged <= MAX_JUDGED && allow(action, topics)
                };
                let Some((len, verdict)) = self.judge_first(rest, &mut allow)? else {
                    if rest.len() > MAX_HELD {
                        return Err(Fault::TooLarge);
                    }
                    self.held = rest.to_vec();
                    changed = true;
                    break;
                };
                judged += 1;
                if judged > MAX_JUDGED {
                    return Err(Fault::TooMany);
                }
                self.left = len;
                self.passing = true;
                if let Verdict::Refuse(answer) = verdict {
                    self.passing = false;
                    outcome.refused += 1;
                    outcome.answer.extend(answer);
                    outcome.over |= rest[0] >> 4 == packet::CONNECT;
                }
            }
            let (piece, after) = rest.split_at(rest.len().min(self.left));
            rest = after;
            self.left -= piece.len();
            match self.passing {
                true => kept.extend_from_slice(piece),
                false => changed = true,
            }
        }
        if changed && kept.len() > MAX_ONWARD {
            return Err(Fault::TooLarge);
        }
        outcome.onward = changed.then_some(kept);
        Ok(outcome)
    }

    /// The length of the first packet, and what becomes of it. `None`: more is needed.
    fn judge_first(
        &mut self,
        bytes: &[u8],
        allow: &mut impl FnMut(Action, &[&str]) -> bool,
    ) -> Result<Option<(usize, Verdict)>, Fault> {
        let is_connect = bytes[0] >> 4 == packet::CONNECT;
        if is_connect == self.version.is_some() {
            return Err(Fault::Malformed);
        }
        let Some(frame) = Frame::first_of(bytes)? else {
            return Ok(None);
        };
        match self.judge(&frame, allow) {
            Some(verdict) => Ok(Some((frame.len(), verdict))),
            None if frame.is_whole() => Err(Fault::Malformed),
            None => Ok(None),
        }
    }

    /// `None`: it cannot be read, or not yet.
    fn judge(
        &mut self,
        frame: &Frame<'_>,
        allow: &mut impl FnMut(Action, &[&str]) -> bool,
    ) -> Option<Verdict> {
        let or_refuse = |allowed, answer: &dyn Fn() -> Vec<u8>| match allowed {
            true => Verdict::Pass,
            false => Verdict::Refuse(answer()),
        };
        let Some(version) = self.version else {
            let connect = Connect::read(frame)?;
            self.version = Some(connect.version);
            let allowed = connect
                .will_topic
                .is_none_or(|topic| allow(Action::Publish, &[topic]));
            return Some(or_refuse(allowed, &|| connect.refusal()));
        };
        match frame.kind {
            packet::PUBLISH => {
                let publish = Publish::read(frame, version)?;
                let topic = self.topic_of(&publish)?;
                // Wildcards are for those who listen.
                let allowed = !topic.contains(['+', '#']) && allow(Action::Publish, &[topic]);
                Some(or_refuse(allowed, &|| publish.refusal(version)))
            }
            packet::SUBSCRIBE => {
                let subscribe = Subscribe::read(frame, version)?;
                let allowed = allow(Action::Subscribe, &subscribe.topics);
                Some(or_refuse(allowed, &|| subscribe.refusal(version)))
            }
            _ => Some(Verdict::Pass),
        }
    }

    /// The topic that a packet names itself, or by a number given to it before.
    fn topic_of<'a>(&'a mut self, publish: &Publish<'a>) -> Option<&'a str> {
        let topic = publish.topic;
        match publish.alias {
            None => Some(topic).filter(|topic| !topic.is_empty()),
            Some(alias) if topic.is_empty() => self.aliases.get(&alias).map(String::as_str),
            Some(alias) => {
                let old = self.aliases.get(&alias).map_or(0, String::len);
                let bytes = self.alias_bytes - old + topic.len();
                if bytes > MAX_ALIAS_BYTES || self.aliases.len() == MAX_ALIASES && old == 0 {
                    return None;
                }
                self.alias_bytes = bytes;
                self.aliases.insert(alias, topic.to_owned());
                Some(topic)
            }
        }
    }
}

/// Of a client: an instance has a thousand of them.
const MAX_HELD: usize = 4 << 10;
/// Packets and their topics, in one message.
const MAX_JUDGED: usize = 1024;
/// In place of a message: the proxy takes 1 MiB back from a plugin, if nobody says more.
const MAX_ONWARD: usize = 1000 << 10;
/// More than brokers grant (`Topic Alias Maximum`) by default.
const MAX_ALIASES: usize = 128;
const MAX_ALIAS_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests;
