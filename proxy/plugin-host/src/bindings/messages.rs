//! `interface messages`: what the guest's side of a conversation exports, and how our types become the
//! interface's.
//!
//! Arguments are lowered from borrowed bytes, so a message is copied once, into the guest.

use std::time::Duration;

use http::HeaderMap;
use sluicegate_plugin_rules::messages as rules;

use crate::error::FilterError;
use crate::messages::{
    Ending, Injection, Interest, Kind, Kinds, MIN_EVERY, Message, Moment, Reaction, Side, Verdict,
};

pub(crate) use generated::exports::sluicegate::plugin::messages as wit;
pub(crate) use generated::{MessageHooks, MessageHooksIndices};

mod generated {
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit/0.2.0",
        world: "message-hooks",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// A message as a guest gets it. Callers see to it that text is UTF-8; what is not goes as binary.
pub(crate) fn message(kind: Kind, data: &[u8]) -> wit::MessageParam<'_> {
    match kind {
        Kind::Text => match simdutf8::basic::from_utf8(data) {
            Ok(text) => wit::MessageParam::Text(text),
            Err(_) => wit::MessageParam::Binary(data),
        },
        Kind::Binary => wit::MessageParam::Binary(data),
        Kind::Ping => wit::MessageParam::Ping(data),
        Kind::Pong => wit::MessageParam::Pong(data),
    }
}

pub(crate) fn side(side: Side) -> wit::Side {
    match side {
        Side::Client => wit::Side::Client,
        Side::Server => wit::Side::Server,
    }
}

pub(crate) fn ending(ending: &Ending) -> wit::Ending<'_> {
    wit::Ending {
        code: ending.code,
        by: ending.by.map(side),
        cause: ending.cause,
    }
}

/// Fields as a guest gets them.
pub(crate) fn fields(fields: &HeaderMap) -> Vec<(&str, &[u8])> {
    let field = |(name, value)| {
        (
            http::HeaderName::as_str(name),
            http::HeaderValue::as_bytes(value),
        )
    };
    fields.iter().map(field).collect()
}

/// Judges a guest's answer to a message of this kind, or to a timer.
///
/// # Errors
/// `MessageOutput`, `BadReaction`.
pub(crate) fn checked(
    judged: Option<Kind>,
    reaction: wit::Reaction,
    limit: usize,
) -> Result<Reaction, FilterError> {
    let injections = reaction.inject.into_iter().map(Injection::from);
    let reaction = Reaction {
        verdict: reaction.verdict.into(),
        inject: injections.collect(),
    };
    let injected = reaction.inject.iter().map(|injection| &injection.message);
    let (outcome, replaced) = match &reaction.verdict {
        Verdict::Forward => (rules::Outcome::Forward, 0),
        Verdict::Drop => (rules::Outcome::Drop, 0),
        Verdict::Close { code, .. } => (rules::Outcome::Close(*code), 0),
        Verdict::Replace(Message { kind, data }) => {
            (rules::Outcome::Replace(*kind, data.len()), data.len())
        }
    };
    let own: usize = injected.clone().map(|message| message.data.len()).sum();
    if own + replaced > limit {
        return Err(FilterError::MessageOutput { limit });
    }
    let injected = injected.map(|message| (message.kind, message.data.len()));
    rules::reaction(judged, outcome, injected).map_err(FilterError::BadReaction)?;
    Ok(reaction)
}

impl From<wit::Interest> for Interest {
    fn from(interest: wit::Interest) -> Self {
        let every = interest.every.map(u64::from).map(Duration::from_millis);
        Interest {
            from_client: interest.from_client.into(),
            from_server: interest.from_server.into(),
            max_size: interest.max_size,
            every: every.map(|every| every.max(MIN_EVERY)),
            close: interest.close,
        }
    }
}

impl From<wit::Kinds> for Kinds {
    fn from(kinds: wit::Kinds) -> Self {
        let all = [
            (wit::Kinds::TEXT, Kinds::TEXT),
            (wit::Kinds::BINARY, Kinds::BINARY),
            (wit::Kinds::PING, Kinds::PING),
            (wit::Kinds::PONG, Kinds::PONG),
        ];
        let wanted = all
            .into_iter()
            .filter(|(theirs, _)| kinds.contains(*theirs));
        wanted.fold(Kinds::NONE, |wanted, (_, ours)| wanted | ours)
    }
}

impl From<wit::MessageResult> for Message {
    fn from(message: wit::MessageResult) -> Self {
        let (kind, data) = match message {
            wit::MessageResult::Text(text) => (Kind::Text, text.into_bytes()),
            wit::MessageResult::Binary(data) => (Kind::Binary, data),
            wit::MessageResult::Ping(data) => (Kind::Ping, data),
            wit::MessageResult::Pong(data) => (Kind::Pong, data),
        };
        Message { kind, data }
    }
}

impl From<wit::Verdict> for Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Forward => Verdict::Forward,
            wit::Verdict::Replace(message) => Verdict::Replace(message.into()),
            wit::Verdict::Drop => Verdict::Drop,
            wit::Verdict::Close(wit::CloseFrame { code, mut reason }) => {
                reason.truncate(rules::cut_reason(&reason).len());
                Verdict::Close { code, reason }
            }
        }
    }
}

impl From<wit::Injection> for Injection {
    fn from(injection: wit::Injection) -> Self {
        Injection {
            to: match injection.to {
                wit::Side::Client => Side::Client,
                wit::Side::Server => Side::Server,
            },
            moment: match injection.moment {
                wit::Moment::Before => Moment::Before,
                wit::Moment::After => Moment::After,
            },
            message: injection.message.into(),
        }
    }
}
