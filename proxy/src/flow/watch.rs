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
        Watch::with(request_head, keep_alive, snapshot.longest_wait())
    }

    fn with(request_head: Duration, keep_alive: Duration, stall: Duration) -> Watch {
        Watch {
            request_head,
            keep_alive,
            stall,
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

    /// Ready when the present wait has lasted too long. `moves` changes whenever a byte is moved; `paced` is
    /// another end, where there is one.
    pub(super) fn poll_over(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        moves: u32,
        paced: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let first = self.deadline.into_iter().chain(paced).min();
            if let Some(first) = first
                && first < timer.deadline()
            {
                timer.as_mut().reset(first);
                self.armed = false;
            }
            if self.armed && !timer.is_elapsed() {
                return Poll::Pending;
            }
            // A task that has used up its turn is woken at once, and the timer not yet told of it.
            self.armed = tokio::task::coop::has_budget_remaining();
            ready!(timer.as_mut().poll(cx));
            self.armed = false;
            let now = Instant::now();
            if paced.is_some_and(|paced| paced <= now) {
                return Poll::Ready(());
            }
            // A busy connection may last, as long as it moves.
            let moved = self.waiting == Waiting::Busy && self.moves != Some(moves);
            match self.deadline {
                Some(deadline) if deadline > now => {}
                Some(_) if !moved => return Poll::Ready(()),
                Some(_) | None => {
                    self.rearm();
                    self.moves = Some(moves);
                }
            }
            if let Some(first) = self.deadline.into_iter().chain(paced).min() {
                timer.as_mut().reset(first);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::task::{consume_budget, coop::has_budget_remaining};
    use tokio::time::{sleep_until, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a wait lasts whose first poll comes at the end of its task's turn.
    async fn waited(waiting: Waiting, mut moves: impl FnMut() -> u32) -> Duration {
        let start = Instant::now();
        let mut watch = Watch::with(SECOND, 5 * SECOND, 3 * SECOND);
        let mut timer = pin!(sleep_until(watch.begins_until()));
        watch.waits_for(waiting);
        let mut exhausted = false;
        let over = poll_fn(|cx| {
            while !exhausted && has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            exhausted = true;
            watch.poll_over(timer.as_mut(), moves(), None, cx)
        });
        timeout(100 * SECOND, over).await.unwrap();
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_end() {
        assert_eq!(waited(Waiting::Head, || 0).await.as_secs(), 1);
        assert_eq!(waited(Waiting::NextRequest, || 0).await.as_secs(), 5);
        // Found by the timer of the wait before it, and then given its whole time.
        assert_eq!(waited(Waiting::Busy, || 0).await.as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_of_another_kind_comes_first_and_moves_nothing_else() {
        let start = Instant::now();
        let mut watch = Watch::with(SECOND, 5 * SECOND, 30 * SECOND);
        let mut timer = pin!(sleep_until(watch.begins_until()));
        watch.waits_for(Waiting::Busy);
        let moving = std::cell::Cell::new(0);
        // It is put off from one second to the next.
        for second in 2..20 {
            let paced = Some(start + second * SECOND);
            let over = poll_fn(|cx| watch.poll_over(timer.as_mut(), moving.get(), paced, cx));
            timeout(100 * SECOND, over).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), u64::from(second));
            moving.set(second);
        }
        let over = poll_fn(|cx| watch.poll_over(timer.as_mut(), 1000, None, cx));
        timeout(100 * SECOND, over).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 61, "two whole waits");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_may_last_as_long_as_it_moves() {
        let mut moves = 0;
        let moving = || {
            moves = (moves + 1).min(4);
            moves
        };
        assert!(waited(Waiting::Busy, moving).await.as_secs() > 6);
    }
}
