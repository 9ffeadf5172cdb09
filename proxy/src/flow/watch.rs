//! What a connection waits for, and until when.
//!
//! An idle connection, one whose head comes in drop by drop and one that moves no byte have limits
//! of their own. One timer serves them all: it is set back only for an earlier deadline, and finds
//! out when it fires that a later one counts now, so that a request in between costs it nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::config::model::Timeouts;
use crate::snapshot::Snapshot;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A request is under way; its own deadlines count.
    Busy,
    /// The first head, or the rest of one.
    Head,
    /// The next request.
    NextRequest,
}

/// The present wait and its end.
pub(super) struct Watch {
    request_head: Duration,
    keep_alive: Duration,
    /// How long a busy connection may move no byte: longer than any route lets anybody wait.
    stall: Duration,
    waiting: Waiting,
    /// `None` of a busy connection that the timer has not found yet.
    deadline: Option<Instant>,
    /// The count of moves when a busy wait was last armed.
    moves: Option<u32>,
    /// The timer has been polled since it was last set, so it will wake the connection's task.
    armed: bool,
}

impl Watch {
    /// Begins with the wait for a head.
    pub(super) fn new(snapshot: &Snapshot) -> Watch {
        let Timeouts {
            request_head,
            keep_alive,
            ..
        } = snapshot.timeouts;
        Watch {
            request_head,
            keep_alive,
            stall: snapshot.longest_wait(),
            waiting: Waiting::Head,
            deadline: Some(Instant::now() + request_head),
            moves: None,
            armed: false,
        }
    }

    /// The first deadline, for the timer.
    pub(super) fn begins_until(&self) -> Instant {
        self.deadline.unwrap_or_else(Instant::now)
    }

    /// Starts a new wait, if this is another one.
    pub(super) fn waits_for(&mut self, waiting: Waiting) {
        if waiting == self.waiting {
            return;
        }
        self.waiting = waiting;
        self.moves = None;
        match waiting {
            Waiting::Busy => self.deadline = None,
            Waiting::Head | Waiting::NextRequest => self.rearm(),
        }
    }

    /// Ready when the present wait has lasted too long. `moves` changes whenever a byte is moved.
    pub(super) fn poll_over(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        moves: u32,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            if let Some(deadline) = self.deadline
                && deadline < timer.deadline()
            {
                timer.as_mut().reset(deadline);
                self.armed = false;
            }
            if self.armed && !timer.is_elapsed() {
                return Poll::Pending;
            }
            self.armed = true;
            ready!(timer.as_mut().poll(cx));
            self.armed = false;
            match self.deadline {
                Some(deadline) if deadline <= Instant::now() => {
                    // A busy connection may last, as long as it moves.
                    if self.waiting != Waiting::Busy || self.moves == Some(moves) {
                        return Poll::Ready(());
                    }
                    self.rearm();
                }
                Some(_) => {}
                None => self.rearm(),
            }
            self.moves = Some(moves);
            if let Some(deadline) = self.deadline {
                timer.as_mut().reset(deadline);
            }
        }
    }

    /// Gives the present wait its whole time again, or another one its first.
    pub(super) fn rearm(&mut self) {
        let patience = match self.waiting {
            Waiting::Busy => self.stall,
            Waiting::Head => self.request_head,
            Waiting::NextRequest => self.keep_alive,
        };
        self.deadline = Some(Instant::now() + patience);
    }

    /// Gives the present wait this much time from now on.
    pub(super) fn allow(&mut self, patience: Duration) {
        self.deadline = Some(Instant::now() + patience);
    }
}
