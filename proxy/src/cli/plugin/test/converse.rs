//! The conversation of a case: what is said through the tunnel, shown to the plugin in the real host, and what
//! arrives where.
//!
//! Around the plugin this does what the proxy's tunnel does: what is of no interest goes on unseen, a reaction
//! becomes what each side gets, and nothing follows a Close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_plugin_host::clock::SettableClock;
use sluicegate_plugin_host::messages::{
    Conversation, Ending, Interest, Kind, Message, Moment, Opening, Reaction, Side, Verdict,
};
use sluicegate_plugin_host::{CallFacts, Filter, FilterError};

use super::run::told;
use crate::config::cases::{self, Case, Happening, Payload, Step};

/// What came of a conversation.
#[derive(Debug, Default)]
pub(super) struct Conversed {
    /// What came of each step, each different thing once; nothing where the tunnel had ended before.
    pub(super) steps: Vec<Vec<Came>>,
    /// Why a call failed that was about no message: when the conversation began or ended.
    pub(super) error: Option<String>,
}

/// What came of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) to_server: Vec<Payload>,
    pub(super) to_client: Vec<Payload>,
    /// Code and reason.
    pub(super) close: Option<(u16, String)>,
    pub(super) error: Option<String>,
}

/// A tunnel under test.
struct Talk<'a> {
    filter: &'a Filter,
    /// `None`: the plugin makes nothing of this tunnel.
    conversation: Option<Conversation>,
    clock: &'a SettableClock,
}

impl Came {
    /// Whether the tunnel has ended.
    pub(super) fn ends(&self) -> bool {
        self.close.is_some() || self.error.is_some()
    }

    fn failed(error: String) -> Self {
        Came {
            error: Some(error),
            ..Came::default()
        }
    }

    fn arrive(&mut self, at: Side, message: Payload) {
        match at {
            Side::Client => self.to_client.push(message),
            Side::Server => self.to_server.push(message),
        }
    }
}

/// Runs the steps of a case, and ends the tunnel if they have not.
pub(super) async fn converse(
    filter: &Filter,
    opening: &Opening,
    facts: &Arc<CallFacts>,
    case: &Case,
    clock: &SettableClock,
) -> Conversed {
    let mut conversed = Conversed::default();
    let conversation = match filter.open(opening, Arc::clone(facts)).await {
        Ok(conversation) => conversation,
        Err(error) => {
            conversed.error = Some(told(&error));
            return conversed;
        }
    };
    let mut talk = Talk {
        filter,
        conversation,
        clock,
    };
    let mut last = Came::default();
    for step in &case.messages {
        let mut came: Vec<Came> = Vec::new();
        for _ in 0..step.repeat {
            if last.ends() {
                break;
            }
            last = talk.step(step).await;
            if !came.contains(&last) {
                came.push(last.clone());
            }
        }
        conversed.steps.push(came);
    }
    if last.error.is_none() {
        let end = talk.end(&last, &case.ending).await;
        conversed.error = end.err().map(|error| told(&error));
    }
    conversed
}

/// How long so many calls about the first message that the plugin sees take each; none where it sees none.
pub(super) async fn times(
    filter: &Filter,
    opening: &Opening,
    facts: &Arc<CallFacts>,
    case: &Case,
    calls: usize,
) -> Vec<Duration> {
    let seen = case.messages.iter().find_map(|step| match &step.what {
        Happening::Said(sender, said) => {
            let (kind, data) = parts(said);
            let interest = filter.interest()?;
            let wanted = interest.wants(side(*sender), kind, data.len());
            wanted.then_some((side(*sender), kind, data))
        }
        Happening::Tick => None,
    });
    let mut times = Vec::with_capacity(calls);
    let (Some((sender, kind, data)), Ok(Some(mut conversation))) =
        (seen, filter.open(opening, Arc::clone(facts)).await)
    else {
        return times;
    };
    for _ in 0..calls {
        let began = Instant::now();
        let reaction = conversation.on_message(sender, kind, data).await;
        times.push(began.elapsed());
        if reaction.is_err() {
            break;
        }
    }
    times
}

impl Talk<'_> {
    async fn step(&mut self, step: &Step) -> Came {
        match &step.what {
            Happening::Said(sender, said) => {
                self.clock.advance(step.after.unwrap_or_default());
                self.said(side(*sender), said).await
            }
            Happening::Tick => self.tick(step.after).await,
        }
    }

    async fn said(&mut self, sender: Side, said: &Payload) -> Came {
        let (kind, data) = parts(said);
        let unseen = Reaction {
            verdict: Verdict::Forward,
            inject: Vec::new(),
        };
        let wanted = |interest: &Interest| interest.wants(sender, kind, data.len());
        let reaction = match &mut self.conversation {
            Some(conversation) if self.filter.interest().is_some_and(wanted) => {
                conversation.on_message(sender, kind, data).await
            }
            _ => Ok(unseen),
        };
        came_of(Some((sender, said)), reaction)
    }

    async fn tick(&mut self, after: Option<Duration>) -> Came {
        let every = self.filter.interest().and_then(|interest| interest.every);
        let (Some(every), Some(conversation)) = (every, &mut self.conversation) else {
            return Came::failed("no timer: the plugin wants none here".to_owned());
        };
        self.clock.advance(after.unwrap_or(every));
        came_of(None, conversation.on_timer().await)
    }

    /// Tells the plugin how the tunnel ended: by itself, or as the case says.
    async fn end(self, last: &Came, ending: &cases::Ending) -> Result<(), FilterError> {
        let ending = match &last.close {
            Some((code, _)) => Ending {
                code: Some(*code),
                by: None,
                cause: CLOSED_BY_FILTER,
            },
            None => Ending {
                code: ending.code,
                by: ending.by.map(side),
                cause: ending.cause,
            },
        };
        match self.conversation {
            Some(conversation) => conversation.on_close(&ending).await,
            None => Ok(()),
        }
    }
}

/// What each side gets when this was said, or nothing was.
fn came_of(said: Option<(Side, &Payload)>, reaction: Result<Reaction, FilterError>) -> Came {
    let Reaction { verdict, inject } = match reaction {
        Ok(reaction) => reaction,
        Err(error) => return Came::failed(told(&error)),
    };
    let mut came = Came::default();
    let (before, after): (Vec<_>, Vec<_>) = inject
        .into_iter()
        .partition(|injection| injection.moment == Moment::Before);
    for injection in before {
        came.arrive(injection.to, payload(injection.message));
    }
    match (verdict, said) {
        (Verdict::Close { code, reason }, _) => {
            came.close = Some((code, reason));
            return came;
        }
        (Verdict::Forward, Some((sender, said))) => came.arrive(sender.other(), said.clone()),
        (Verdict::Replace(message), Some((sender, _))) => {
            came.arrive(sender.other(), payload(message));
        }
        (Verdict::Drop, _) | (_, None) => {}
    }
    for injection in after {
        came.arrive(injection.to, payload(injection.message));
    }
    came
}

fn side(side: cases::Side) -> Side {
    match side {
        cases::Side::Client => Side::Client,
        cases::Side::Server => Side::Server,
    }
}

fn parts(payload: &Payload) -> (Kind, &[u8]) {
    match payload {
        Payload::Text(text) => (Kind::Text, text.as_bytes()),
        Payload::Binary(data) => (Kind::Binary, data),
        Payload::Ping(data) => (Kind::Ping, data),
        Payload::Pong(data) => (Kind::Pong, data),
    }
}

fn payload(message: Message) -> Payload {
    match message.kind {
        // The host lets only UTF-8 through.
        Kind::Text => Payload::Text(String::from_utf8_lossy(&message.data).into_owned()),
        Kind::Binary => Payload::Binary(message.data),
        Kind::Ping => Payload::Ping(message.data),
        Kind::Pong => Payload::Pong(message.data),
    }
}

/// As the access log has it.
const CLOSED_BY_FILTER: &str = "filter";
