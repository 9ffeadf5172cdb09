//! What carries the two directions of a tunnel, as its lifecycle sees it.
//!
//! `Live` knows when a tunnel begins to end and how; a carrier moves what is moved until then: bytes
//! (`Bytes`), or messages (`Relay`). It is a type parameter and no object, so that a tunnel that only
//! copies pays nothing for the others.

use std::task::Context;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::{Cause, Summary};
use crate::drain::Member;
use crate::facts::Traffic;
use crate::stream::Stream;
use crate::ws::control::{CloseCode, ControlFrame};
use crate::ws::frame::Side;

pub(super) trait Carrier: Send {
    type Way: OneWay;

    /// From downstream, and from upstream.
    fn ways(&self) -> (&Self::Way, &Self::Way);
    fn ways_mut(&mut self) -> (&mut Self::Way, &mut Self::Way);

    /// Moves what can be moved now, both ways.
    ///
    /// On return every wait has `cx`'s waker registered, unless the turn says there is `more`.
    fn pump(
        &mut self,
        downstream: &mut Stream,
        upstream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<Pumped, BrokenLeg>;

    /// Bytes of memory that it takes to wait for a side.
    fn size(&self) -> usize {
        let (from_down, from_up) = self.ways();
        from_down.size() + from_up.size()
    }

    /// When [`Carrier::on_time`] wants to be called; a carrier that ever does comes with `Alarms`.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// When to look again at a tunnel that is ending.
    fn resumes_at(&self) -> Option<Instant> {
        None
    }

    /// To be called then, or that moment would come again and again.
    fn resume(&mut self, _now: Instant) {}

    fn on_time(&mut self, _now: Instant) -> Option<Box<Stop>> {
        None
    }

    /// The tunnel is over.
    fn part(&mut self, _summary: &Summary, _member: &Member) {}
}

/// One direction.
pub(super) trait OneWay {
    /// Puts `close` in at the next frame boundary and drops everything after it.
    fn interrupt(&mut self, close: &ControlFrame);

    /// Bytes of memory that it takes to wait for either side.
    fn size(&self) -> usize;

    /// Gives that back, at the price of what the sender has said; false if the receiver can no longer be
    /// told anything, as it has got half a frame.
    fn let_go(&mut self) -> bool;

    /// The sender can no longer be told anything: [`OneWay::is_answered`] does not wait for its Close.
    fn expect_no_answer(&mut self);

    /// Nothing is read from the sender now, so it cannot be said to be silent.
    fn is_held_up(&self) -> bool;

    /// Lets the sender finish: puts `close` in the place of its own Close, or behind its end.
    fn interrupt_late(&mut self, close: &ControlFrame) {
        self.interrupt(close);
    }

    /// The sender has had its time to finish.
    fn hurry(&mut self) {}

    /// Wants nothing more from the sender: the receiver's stream is ended once it has everything.
    fn finish(&mut self);

    /// Once nothing more comes and the receiver has everything, ends its stream; with `by_drop` that
    /// is left to the drop of the writer, which nobody can tell from a shutdown.
    fn pass_end_on<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        by_drop: bool,
        cx: &mut Context<'_>,
    );

    /// The code of the Close frame that the sender sent.
    fn close_code(&self) -> Option<CloseCode>;

    /// The sender has sent a Close frame, as far as can be told.
    fn may_have_closed(&self) -> bool {
        self.close_code().is_some()
    }

    /// Our Close is on its way to the receiver, and the sender has said all it will.
    fn is_answered(&self) -> bool;

    /// The sender has ended its stream.
    fn has_ended(&self) -> bool;

    /// The receiver has everything that has come so far.
    fn has_sent_all(&self) -> bool;

    /// The receiver has everything and was told that nothing more comes.
    fn is_done(&self) -> bool;

    fn traffic(&self) -> Traffic;
}

/// What one turn achieved.
#[derive(Debug, Default)]
pub(super) struct Pumped {
    /// At least one byte came in or went out.
    pub(super) moved: bool,
    /// The turn ended because it was long enough, not because it had to wait.
    pub(super) more: bool,
    /// The carrier wants the tunnel to end.
    pub(super) stop: Option<Box<Stop>>,
}

/// A tunnel must end: what both sides are told, and what the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub cause: Cause,
    pub code: CloseCode,
    pub reason: String,
    /// Who broke a rule. What the other side has said by then still reaches it, and only then the Close.
    pub offender: Option<Side>,
}

/// A direction stands still for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Reader,
    Writer,
}

/// Which side's connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenLeg {
    Downstream,
    Upstream,
}

impl BrokenLeg {
    /// Of what became of the direction from downstream, and of the one from upstream.
    pub(super) fn of(up: Option<Broken>, down: Option<Broken>) -> Option<BrokenLeg> {
        match (up, down) {
            (None, None) => None,
            (Some(Broken::Reader), _) | (_, Some(Broken::Writer)) => Some(BrokenLeg::Downstream),
            (Some(Broken::Writer), _) | (_, Some(Broken::Reader)) => Some(BrokenLeg::Upstream),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderState {
    Open,
    /// The sender ended its stream.
    Ended,
    /// We want nothing more from it.
    Finished,
}
