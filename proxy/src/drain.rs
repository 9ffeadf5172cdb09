//! An orderly stop: tells every connection and tunnel to finish, and knows when all have.
//!
//! Each connection is a [`Member`] from before its first byte until it, or the tunnel that it became,
//! is dropped. A member's check is one relaxed atomic load; its waker is stored once, so a tunnel that
//! moves a million messages pays nothing more for being drainable.
//!
//! The phases only go forward: running → draining → stopped.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The side that starts the stop and waits for its end. Clones share one state.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// How far the stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Finish what is under way, take on nothing new.
    Draining,
    /// End now.
    Stopped,
}

/// Proof that something is still running; the drain waits until it is dropped.
pub struct Member {
    shared: Arc<Shared>,
    slot: usize,
}

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    started: OnceLock<Started>,
    members: Mutex<Members>,
    emptied: Notify,
}

#[derive(Clone, Copy)]
struct Started {
    at: Instant,
    patient: bool,
}

/// A slab: `wakers[slot]` of a live member, or a link in the free list.
#[derive(Default)]
struct Members {
    slots: Vec<Slot>,
    free: Option<usize>,
    live: usize,
    /// Where [`Drain::wake_some`] goes on.
    next: usize,
}

enum Slot {
    Live(Option<Waker>),
    Free(Option<usize>),
}

impl Drain {
    /// Counts something new. It may join while draining; whether new connections are still accepted is
    /// the server's choice.
    pub fn join(&self) -> Member {
        let mut members = self.shared.members();
        let slot = match members.free {
            Some(slot) => {
                if let Slot::Free(next) = members.slots[slot] {
                    members.free = next;
                }
                members.slots[slot] = Slot::Live(None);
                slot
            }
            None => {
                members.slots.push(Slot::Live(None));
                members.slots.len() - 1
            }
        };
        members.live += 1;
        Member {
            shared: Arc::clone(&self.shared),
            slot,
        }
    }

    /// Asks every member to finish within its own drain time.
    pub fn start(&self) {
        self.begin(false);
    }

    /// Asks for no new work and lets tunnels live until they end by themselves.
    pub fn start_patient(&self) {
        self.begin(true);
    }

    /// Ends everything now.
    pub fn stop(&self) {
        self.begin(false);
        self.shared.advance(Phase::Stopped);
    }

    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Wakes some members, others than the last call did, to look at something else than the phase.
    pub fn wake_some(&self) {
        let wakers: Vec<Waker> = {
            let mut members = self.shared.members();
            let count = members.slots.len();
            let first = members.next.checked_rem(count).unwrap_or(0);
            members.next = first + SOME;
            let some = (0..count.min(SOME)).map(|n| &members.slots[(first + n) % count]);
            let live = some.filter_map(|slot| match slot {
                Slot::Live(waker) => waker.clone(),
                Slot::Free(_) => None,
            });
            live.collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many connections and tunnels are live.
    pub fn live(&self) -> usize {
        self.shared.members().live
    }

    /// Waits, without a limit, until the last member has gone.
    pub async fn emptied(&self) {
        loop {
            let notified = self.shared.emptied.notified();
            if self.live() == 0 {
                return;
            }
            notified.await;
        }
    }

    fn begin(&self, patient: bool) {
        self.shared.started.get_or_init(|| Started {
            at: Instant::now(),
            patient,
        });
        self.shared.advance(Phase::Draining);
    }
}

impl Member {
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// The time left to a member that may take `limit` from the start of the drain; `None` while
    /// nothing drains, or when the drain is patient.
    pub fn time_left(&self, limit: Duration) -> Option<Duration> {
        let started = self.shared.started.get()?;
        (!started.patient).then(|| limit.saturating_sub(started.at.elapsed()))
    }

    /// Another member of the same drain, for a task that this one leaves behind.
    pub fn again(&self) -> Member {
        Drain {
            shared: Arc::clone(&self.shared),
        }
        .join()
    }

    /// Has `cx`'s task woken at each change of phase from now on.
    pub fn wake_on_change(&self, cx: &Context<'_>) {
        let mut members = self.shared.members();
        if let Slot::Live(waker) = &mut members.slots[self.slot] {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
    }

    /// Waits until the phase is `wanted` or later.
    pub async fn reached(&self, wanted: Phase) {
        poll_fn(|cx| {
            if self.phase() >= wanted {
                return Poll::Ready(());
            }
            self.wake_on_change(cx);
            // The phase may have changed between the check and the registration.
            if self.phase() >= wanted {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.shared.members();
        members.slots[self.slot] = Slot::Free(members.free);
        members.free = Some(self.slot);
        members.live -= 1;
        if members.live == 0 {
            // Give a burst's memory back while nobody needs it.
            members.slots = Vec::new();
            members.free = None;
            self.shared.emptied.notify_waiters();
        }
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    fn advance(&self, to: Phase) {
        self.phase.fetch_max(to as u8, Ordering::AcqRel);
        let wakers: Vec<Waker> = self
            .members()
            .slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Live(waker) => waker.clone(),
                Slot::Free(_) => None,
            })
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// No code panics while it holds this lock, so a poisoned one is still consistent.
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Members that are woken together.
const SOME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_members_are_woken_in_turn() {
        let drain = Drain::default();
        let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = 2 * SOME + 10;
        for _ in 0..count {
            let (member, woken) = (drain.join(), Arc::clone(&woken));
            tokio::spawn(async move {
                let mut first = true;
                poll_fn(|cx| {
                    member.wake_on_change(cx);
                    match std::mem::replace(&mut first, false) {
                        true => Poll::Pending,
                        false => Poll::Ready(()),
                    }
                })
                .await;
                woken.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
            });
        }
        let settle = async || {
            for _ in 0..count {
                tokio::task::yield_now().await;
            }
        };
        settle().await;
        for expect in [SOME, 2 * SOME, count] {
            drain.wake_some();
            settle().await;
            assert_eq!(woken.load(Ordering::Relaxed), expect);
        }
        Drain::default().wake_some();
    }

    #[tokio::test]
    async fn a_member_learns_of_the_drain_and_the_drain_of_its_end() {
        let drain = Drain::default();
        let member = drain.join();
        let (heard, hears) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            member.reached(Phase::Draining).await;
            heard.send(member.time_left(Duration::from_secs(9))).ok();
            member.reached(Phase::Stopped).await;
        });
        tokio::task::yield_now().await;
        drain.start();
        let left = hears.await.unwrap().unwrap();
        assert!(left > Duration::from_secs(8) && left <= Duration::from_secs(9));
        assert_eq!(drain.live(), 1);
        drain.stop();
        drain.emptied().await;
        task.await.unwrap();
        assert_eq!(drain.live(), 0);
    }

    #[tokio::test]
    async fn a_patient_drain_sets_no_deadline() {
        let drain = Drain::default();
        let member = drain.join();
        assert_eq!(member.time_left(Duration::from_secs(1)), None);
        drain.start_patient();
        assert_eq!(member.phase(), Phase::Draining);
        assert_eq!(member.time_left(Duration::from_secs(1)), None);
    }

    #[test]
    fn slots_are_used_again() {
        let drain = Drain::default();
        let first = drain.join();
        let second = drain.join();
        drop(first);
        let third = drain.join();
        assert_eq!(third.slot, 0);
        assert_eq!(drain.shared.members().slots.len(), 2);
        drop((second, third));
        assert_eq!(drain.live(), 0);
        let fourth = drain.join().again();
        assert_eq!(drain.live(), 1);
        drop(fourth);
    }
}
