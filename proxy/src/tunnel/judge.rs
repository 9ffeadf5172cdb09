//! What a tunnel asks about its messages, and what it is answered.
//!
//! A [`Judge`] stands for all filters of a route. The tunnel asks it about one message at a time, in the
//! order of each side, and lets the rest wait. An answer may take its time: the judge is away with the
//! question until then, and a tunnel that ends meanwhile lets it finish.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::Summary;
use super::carrier::Stop;
use crate::ws::frame::Side;

/// The message filters of a tunnel.
pub trait Judge: Send + Sync {
    /// What it wants to see of a side's messages; does not change.
    fn interest(&self, sender: Side) -> Interest;

    /// Asks about a message. What is not of interest need not be asked about. One that goes on comes back
    /// with the answer, so that nobody has to copy it.
    fn judge(self: Box<Self>, sender: Side, message: Message) -> Judging;

    /// Asks what there is to do now that [`Judge::next_tick`] has come.
    fn tick(self: Box<Self>) -> Judging;

    fn next_tick(&self) -> Option<Instant>;

    /// Ready if the tunnel must end for no message's sake. Keeps the waker of the last call.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<Box<Stop>>;

    /// The tunnel has ended.
    fn part(self: Box<Self>, summary: Summary) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The judge comes back with its answer.
pub type Judging = Pin<Box<dyn Future<Output = (Box<dyn Judge>, Judged)> + Send>>;

/// An answer.
#[derive(Debug)]
pub struct Judged {
    pub outcome: Outcome,
    pub inject: Vec<Injection>,
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Outcome {
    /// There was none: it is the answer to a tick.
    Nothing,
    /// It goes on as it came; here it is again.
    Forward(Message),
    /// This goes on in its place: data for data, the same kind of control frame for one.
    Replace(Message),
    Drop,
    /// The tunnel ends.
    Stop(Box<Stop>),
}

/// A message of the judge's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// Who gets it.
    pub to: Receiver,
    pub moment: Moment,
    pub message: Message,
}

/// The end of a tunnel that something is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    Client,
    Server,
}

/// Before or after what became of the message in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// A message as both ends mean it. Text is UTF-8; a control frame's has at most 125 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// What a judge wants to see of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    pub text: bool,
    pub binary: bool,
    pub ping: bool,
    pub pong: bool,
    /// Larger messages need not be shown.
    pub max_size: u64,
}

impl Interest {
    pub fn wants(&self, kind: Kind, size: u64) -> bool {
        let kind = match kind {
            Kind::Text => self.text,
            Kind::Binary => self.binary,
            Kind::Ping => self.ping,
            Kind::Pong => self.pong,
        };
        kind && size <= self.max_size
    }

    /// Whether it is about data at all.
    pub fn in_data(&self) -> bool {
        self.text || self.binary
    }
}
