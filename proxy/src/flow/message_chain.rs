//! A route's message filters around one tunnel: in order for what the client says, in reverse for what
//! the server does.
//!
//! A filter sees what the one before it made of a message; one that drops it, or ends the tunnel, is the
//! last that does. What filters inject goes straight to its receiver. A failing filter's `on_message_error`
//! decides: `close` ends the tunnel with 1011, `pass` goes on as if it had forwarded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant as Clock;

use sluicegate_plugin_host::FilterError;
use sluicegate_plugin_host::messages::{self as guest, Conversation, Ending, Reaction};
use tokio::time::Instant;

use crate::config::model::OnMessageError;
use crate::facts::ClosedBy;
use crate::flow::link;
use crate::snapshot::Route;
use crate::tunnel::{
    Cause, Injection, Interest, Judge, Judged, Judging, Kind, Message, Moment, Outcome, Receiver,
    Stop, Summary,
};
use crate::ws::control::CloseCode;
use crate::ws::frame::Side;

/// The conversations of a tunnel.
pub(super) struct MessageChain {
    route: Arc<Route>,
    /// In the order of the route.
    talks: Vec<Talk>,
}

/// One filter's.
struct Talk {
    /// The filter's place in the route's chain.
    link: usize,
    interest: guest::Interest,
    /// `None`: its instance has failed, and the route goes on without it.
    conversation: Option<Conversation>,
    next_tick: Option<Instant>,
}

/// What a filter's answer comes to.
enum Said {
    /// The next one is asked.
    On,
    /// The next one is asked about this.
    Instead(Message),
    Over(Outcome),
}

impl MessageChain {
    pub(super) fn new(route: Arc<Route>) -> MessageChain {
        MessageChain {
            route,
            talks: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, link: usize, conversation: Conversation) {
        let Some(interest) = self.route.chain[link].filter.interest().copied() else {
            return;
        };
        self.talks.push(Talk {
            link,
            interest,
            conversation: Some(conversation),
            next_tick: interest.every.map(|every| Instant::now() + every),
        });
    }

    /// `None`: no filter has begun a conversation.
    pub(super) fn into_judge(self) -> Option<Box<dyn Judge>> {
        if self.talks.is_empty() {
            return None;
        }
        Some(Box::new(self))
    }

    async fn consider(&mut self, sender: Side, mut message: Message) -> Judged {
        let mut inject = Vec::new();
        let mut changed = false;
        let count = self.talks.len();
        for step in 0..count {
            let talk = &mut self.talks[match sender {
                Side::FromClient => step,
                Side::FromServer => count - 1 - step,
            }];
            let (from, kind) = (guest_side(sender), guest_kind(message.kind));
            let Some(conversation) = &mut talk.conversation else {
                continue;
            };
            if !talk.interest.wants(from, kind, message.data.len()) {
                continue;
            }
            let started = Clock::now();
            let answer = conversation.on_message(from, kind, &message.data).await;
            match talk.heard(&self.route, answer, started, &mut inject) {
                Said::On => {}
                Said::Instead(new) => {
                    message = new;
                    changed = true;
                }
                Said::Over(outcome) => return Judged { outcome, inject },
            }
        }
        let outcome = match changed {
            true => Outcome::Replace(message),
            false => Outcome::Forward(message),
        };
        Judged { outcome, inject }
    }

    async fn let_time_pass(&mut self) -> Judged {
        let mut inject = Vec::new();
        let now = Instant::now();
        for talk in &mut self.talks {
            let (Some(every), Some(due)) = (talk.interest.every, talk.next_tick) else {
                continue;
            };
            let Some(conversation) = talk.conversation.as_mut().filter(|_| due <= now) else {
                continue;
            };
            talk.next_tick = Some(now + every);
            let started = Clock::now();
            let answer = conversation.on_timer().await;
            if let Said::Over(outcome) = talk.heard(&self.route, answer, started, &mut inject) {
                return Judged { outcome, inject };
            }
        }
        let outcome = Outcome::Nothing;
        Judged { outcome, inject }
    }
}

impl Talk {
    fn heard(
        &mut self,
        route: &Route,
        answer: Result<Reaction, FilterError>,
        started: Clock,
        inject: &mut Vec<Injection>,
    ) -> Said {
        let link = &route.chain[self.link];
        let now = Clock::now();
        let reaction = match answer {
            Ok(reaction) => reaction,
            Err(error) => {
                link.metrics.message(error.label(), now - started);
                link::failed(route, link, &error, now);
                return match link.on_message_error {
                    OnMessageError::Close => Said::Over(Outcome::Stop(filter_failed())),
                    OnMessageError::Pass => Said::On,
                };
            }
        };
        inject.extend(reaction.inject.into_iter().map(injection));
        let (label, said) = match reaction.verdict {
            guest::Verdict::Forward => ("forward", Said::On),
            guest::Verdict::Replace(message) => ("replace", Said::Instead(own(message))),
            guest::Verdict::Drop => ("drop", Said::Over(Outcome::Drop)),
            guest::Verdict::Close { code, reason } => {
                let stop = Stop {
                    cause: Cause::Filter,
                    code: CloseCode(code),
                    reason,
                    offender: None,
                };
                ("close", Said::Over(Outcome::Stop(Box::new(stop))))
            }
        };
        link.metrics.message(label, now - started);
        said
    }
}

impl Judge for MessageChain {
    fn interest(&self, sender: Side) -> Interest {
        let mut sum = Interest::default();
        for talk in &self.talks {
            let side = guest_side(sender);
            let wants = |kind| talk.interest.wants(side, kind, 0);
            let (text, binary) = (wants(guest::Kind::Text), wants(guest::Kind::Binary));
            let (ping, pong) = (wants(guest::Kind::Ping), wants(guest::Kind::Pong));
            let max_size = match text || binary || ping || pong {
                true => talk.interest.max_size.map_or(u64::MAX, u64::from),
                false => 0,
            };
            sum = Interest {
                text: sum.text || text,
                binary: sum.binary || binary,
                ping: sum.ping || ping,
                pong: sum.pong || pong,
                max_size: sum.max_size.max(max_size),
            };
        }
        sum
    }

    fn judge(mut self: Box<Self>, sender: Side, message: Message) -> Judging {
        Box::pin(async move {
            let judged = self.consider(sender, message).await;
            (self as Box<dyn Judge>, judged)
        })
    }

    fn tick(mut self: Box<Self>) -> Judging {
        Box::pin(async move {
            let judged = self.let_time_pass().await;
            (self as Box<dyn Judge>, judged)
        })
    }

    fn next_tick(&self) -> Option<Instant> {
        let talks = self.talks.iter().filter(|talk| talk.conversation.is_some());
        talks.filter_map(|talk| talk.next_tick).min()
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<Box<Stop>> {
        for talk in &mut self.talks {
            let Some(conversation) = &mut talk.conversation else {
                continue;
            };
            if conversation.poll_failed(cx).is_pending() {
                continue;
            }
            match self.route.chain[talk.link].on_message_error {
                OnMessageError::Close => return Poll::Ready(filter_failed()),
                OnMessageError::Pass => talk.conversation = None,
            }
        }
        Poll::Pending
    }

    fn part(self: Box<Self>, summary: Summary) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let ending = Ending {
                code: summary.close_code.map(|code| code.0),
                by: match summary.closed_by {
                    ClosedBy::Downstream => Some(guest::Side::Client),
                    ClosedBy::Upstream => Some(guest::Side::Server),
                    ClosedBy::Proxy => None,
                },
                cause: summary.cause.label(),
            };
            for talk in self.talks {
                let Some(conversation) = talk.conversation.filter(|_| talk.interest.close) else {
                    continue;
                };
                let started = Clock::now();
                if let Err(error) = conversation.on_close(&ending).await {
                    let link = &self.route.chain[talk.link];
                    let now = Clock::now();
                    link.metrics.message(error.label(), now - started);
                    link::failed(&self.route, link, &error, now);
                }
            }
        })
    }
}

fn filter_failed() -> Box<Stop> {
    Box::new(Stop {
        cause: Cause::FilterFailed,
        code: CloseCode::INTERNAL_ERROR,
        reason: "a filter failed".to_owned(),
        offender: None,
    })
}

fn injection(injection: guest::Injection) -> Injection {
    Injection {
        to: match injection.to {
            guest::Side::Client => Receiver::Client,
            guest::Side::Server => Receiver::Server,
        },
        moment: match injection.moment {
            guest::Moment::Before => Moment::Before,
            guest::Moment::After => Moment::After,
        },
        message: own(injection.message),
    }
}

fn own(message: guest::Message) -> Message {
    Message {
        kind: match message.kind {
            guest::Kind::Text => Kind::Text,
            guest::Kind::Binary => Kind::Binary,
            guest::Kind::Ping => Kind::Ping,
            guest::Kind::Pong => Kind::Pong,
        },
        data: message.data,
    }
}

fn guest_side(sender: Side) -> guest::Side {
    match sender {
        Side::FromClient => guest::Side::Client,
        Side::FromServer => guest::Side::Server,
    }
}

fn guest_kind(kind: Kind) -> guest::Kind {
    match kind {
        Kind::Text => guest::Kind::Text,
        Kind::Binary => guest::Kind::Binary,
        Kind::Ping => guest::Kind::Ping,
        Kind::Pong => guest::Kind::Pong,
    }
}
