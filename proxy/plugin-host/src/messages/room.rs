//! Rooms: instances that conversations share, and who is let into which.
//!
//! A room belongs to the thread that opened it and lives as long as somebody sits in it. It is made before its
//! instance is, so that a crowd at the door waits for one instance and not each for its own. Calls
//! take turns in the order in which they asked. An instance that a call leaves unsound ends at once: the room
//! has failed then, everybody in it is told, and nobody else gets in.

use std::collections::HashMap;
use std::mem;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard as Locked, PoisonError, Weak};
use std::task::Waker;
use std::thread::{self, ThreadId};

use tokio::sync::{Mutex, MutexGuard};
use wasmtime::component::ResourceAny;

use super::Isolation;
use crate::error::FilterError;
use crate::instance::Instance;
use crate::plugin::Plugin;

/// The rooms of one filter.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// Conversations in one.
    seats: NonZeroU32,
    /// Those with a free seat, or that had one and are gone; the latest last.
    free: Lock<HashMap<ThreadId, Vec<Weak<Room>>>>,
}

/// An instance for conversations.
#[derive(Debug)]
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    thread: ThreadId,
    /// Changed under the lock of `rooms` only.
    taken: AtomicU32,
    stage: Mutex<Stage>,
    /// Mirrors `Stage::Failed`, for those who do not have their turn.
    failed: AtomicBool,
    people: Lock<People>,
    /// Somebody is in `People::gone`.
    untidy: AtomicBool,
}

/// What is behind the door.
enum Stage {
    /// No instance yet.
    Empty,
    Open(Box<Instance>),
    Failed,
}

/// Who sits in a room, as far as it must be known.
#[derive(Debug, Default)]
struct People {
    /// Conversations that are over, whose part of the instance is still to be freed.
    gone: Vec<ResourceAny>,
    /// Whom to tell of a failure.
    watching: HashMap<u64, Waker>,
    watchers: u64,
}

/// A turn in a room: nobody else's call runs as long as it lives.
pub(super) struct Turn<'a> {
    room: &'a Room,
    stage: MutexGuard<'a, Stage>,
}

impl Rooms {
    /// So spread; `None`: as suits the plugin.
    pub(crate) fn new(
        plugin: &Plugin,
        isolation: Option<Isolation>,
        seats: NonZeroU32,
    ) -> Arc<Self> {
        let suitable = match plugin.waits {
            true => Isolation::Connection,
            false => Isolation::Shared,
        };
        Arc::new(Rooms {
            seats: match isolation.unwrap_or(suitable) {
                Isolation::Shared => seats,
                Isolation::Connection => NonZeroU32::MIN,
            },
            free: Lock::default(),
        })
    }

    /// A seat in one of this thread's rooms; [`Room::leave`] gives it back.
    pub(super) fn sit(self: &Arc<Self>) -> Arc<Room> {
        let thread = thread::current().id();
        let mut free = lock(&self.free);
        let own = free.entry(thread).or_default();
        while let Some(last) = own.last() {
            let room = last.upgrade().filter(|room| !room.has_failed());
            let Some(room) = room else {
                own.pop();
                continue;
            };
            if room.taken.fetch_add(1, Ordering::Relaxed) + 1 == self.seats.get() {
                own.pop();
            }
            return room;
        }
        let room = Arc::new(Room {
            rooms: Arc::clone(self),
            thread,
            taken: AtomicU32::new(1),
            stage: Mutex::new(Stage::Empty),
            failed: AtomicBool::new(false),
            people: Lock::default(),
            untidy: AtomicBool::new(false),
        });
        if self.seats > NonZeroU32::MIN {
            own.push(Arc::downgrade(&room));
        }
        room
    }
}

impl Room {
    /// A turn in an instance that is there, if nobody has his and there is nothing to tidy up first.
    pub(super) fn turn_at_once(&self) -> Option<Turn<'_>> {
        if self.untidy.load(Ordering::Acquire) {
            return None;
        }
        let stage = self.stage.try_lock().ok()?;
        let is_open = matches!(*stage, Stage::Open(_));
        is_open.then_some(Turn { room: self, stage })
    }

    /// Waits for a turn; `make` furnishes a room that nobody has used yet.
    ///
    /// # Errors
    /// `InstanceGone`, and what `make` says.
    pub(super) async fn turn<M>(&self, make: impl FnOnce() -> M) -> Result<Turn<'_>, FilterError>
    where
        M: Future<Output = Result<Box<Instance>, FilterError>>,
    {
        let mut turn = Turn {
            room: self,
            stage: self.stage.lock().await,
        };
        match *turn.stage {
            Stage::Open(_) => {}
            Stage::Failed => return Err(FilterError::InstanceGone),
            Stage::Empty => match make().await {
                Ok(instance) => *turn.stage = Stage::Open(instance),
                Err(error) => {
                    turn.fail();
                    return Err(error);
                }
            },
        }
        Ok(turn)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Sees to it that this task is told of a failure; the answer is for [`Room::leave`].
    pub(super) fn watch(&self, known_as: Option<u64>, waker: Waker) -> u64 {
        let mut people = lock(&self.people);
        let id = known_as.unwrap_or_else(|| {
            people.watchers += 1;
            people.watchers
        });
        people.watching.insert(id, waker);
        id
    }

    /// Gives a seat back, and with it what the conversation had of the instance.
    pub(super) fn leave(self: &Arc<Self>, had: Option<ResourceAny>, known_as: Option<u64>) {
        {
            let mut people = lock(&self.people);
            if let Some(id) = known_as {
                people.watching.remove(&id);
            }
            if !self.has_failed()
                && let Some(had) = had
            {
                people.gone.push(had);
                self.untidy.store(true, Ordering::Release);
            }
        }
        let mut free = lock(&self.rooms.free);
        let was_full = self.taken.fetch_sub(1, Ordering::Relaxed) == self.rooms.seats.get();
        if was_full
            && self.rooms.seats > NonZeroU32::MIN
            && let Some(own) = free.get_mut(&self.thread)
        {
            own.push(Arc::downgrade(self));
        }
    }
}

impl Turn<'_> {
    /// What is called.
    ///
    /// # Errors
    /// `InstanceGone`, once it has failed.
    pub(super) fn instance(&mut self) -> Result<&mut Instance, FilterError> {
        match &mut *self.stage {
            Stage::Open(instance) => Ok(instance),
            Stage::Empty | Stage::Failed => Err(FilterError::InstanceGone),
        }
    }

    /// Conversations that are over and must be freed.
    pub(super) fn gone(&mut self) -> Vec<ResourceAny> {
        let mut people = lock(&self.room.people);
        self.room.untidy.store(false, Ordering::Release);
        mem::take(&mut people.gone)
    }

    fn fail(&mut self) {
        let ended = mem::replace(&mut *self.stage, Stage::Failed);
        self.room.failed.store(true, Ordering::Release);
        let mut people = lock(&self.room.people);
        people.gone.clear();
        let watching = mem::take(&mut people.watching);
        drop(people);
        drop(ended);
        watching.into_values().for_each(Waker::wake);
    }
}

impl Drop for Turn<'_> {
    /// A call that failed, or that was dropped half way, is the end of the instance.
    fn drop(&mut self) {
        if matches!(&*self.stage, Stage::Open(instance) if !instance.is_sound()) {
            self.fail();
        }
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Empty => "Empty",
            Stage::Open(_) => "Open",
            Stage::Failed => "Failed",
        })
    }
}

/// No code panics under these locks.
fn lock<T>(lock: &Lock<T>) -> Locked<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
