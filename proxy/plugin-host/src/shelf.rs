//! Instances between two requests, for filters that reuse them.
//!
//! An instance lies on the shelf only while it is sound and idle, so two requests never share one.
//! Each thread takes back what it put there itself, the latest first: that one's memory is still
//! in the thread's caches. An instance on the shelf counts against the limits like any other; so
//! when a request has to wait for a place, idle ones make room ([`Shelves::make_room`]).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

use crate::instance::Instance;

/// One thread's idle instances, the latest last; each is taken and put back without being moved.
type Idle = Vec<Box<Instance>>;

/// The idle instances of one filter.
pub(crate) struct Shelf {
    /// Requests that one instance serves.
    requests: NonZeroU32,
    shelves: Arc<Shelves>,
    idle: Mutex<HashMap<ThreadId, Idle>>,
}

/// All shelves of a host.
#[derive(Default)]
pub(crate) struct Shelves {
    all: Mutex<Vec<Weak<Shelf>>>,
    /// Requests that wait for an instance; while there are any, nothing is kept.
    waiting: AtomicU32,
}

/// A request waits for an instance for as long as this lives.
pub(crate) struct Waiting<'a>(&'a Shelves);

impl Shelf {
    pub(crate) fn new(requests: NonZeroU32, shelves: &Arc<Shelves>) -> Arc<Self> {
        let shelf = Arc::new(Shelf {
            requests,
            shelves: Arc::clone(shelves),
            idle: Mutex::default(),
        });
        let mut all = lock(&shelves.all);
        all.retain(|shelf| shelf.strong_count() > 0);
        all.push(Arc::downgrade(&shelf));
        drop(all);
        shelf
    }

    pub(crate) fn take(&self) -> Option<Box<Instance>> {
        lock(&self.idle).get_mut(&thread::current().id())?.pop()
    }

    /// Keeps an instance for a later request, or ends it: when it is unsound or has served its
    /// number, when others wait for a place, when enough are here.
    pub(crate) fn put(&self, instance: Box<Instance>) {
        if !instance.is_sound() || instance.requests() >= self.requests.get() {
            return;
        }
        let mut idle = lock(&self.idle);
        // Under the lock: who waits has counted itself before it looks through the shelves, so
        // either it is seen here, or it finds this instance.
        if self.shelves.waiting.load(Ordering::SeqCst) > 0 {
            drop(idle);
            return;
        }
        let own = idle.entry(thread::current().id()).or_default();
        if own.len() < MAX_IDLE {
            own.push(instance);
        }
    }

    /// Takes out all idle instances, for their end without the lock.
    fn clear(&self) -> HashMap<ThreadId, Idle> {
        std::mem::take(&mut *lock(&self.idle))
    }
}

impl Shelves {
    /// Ends all idle instances, and sees to it that no more are kept until the answer is dropped.
    pub(crate) fn make_room(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self);
        let all: Vec<Arc<Shelf>> = lock(&self.all).iter().filter_map(Weak::upgrade).collect();
        for shelf in all {
            drop(shelf.clear());
        }
        waiting
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Idle instances of one filter on one thread; what a burst left beyond them ends with it.
const MAX_IDLE: usize = 64;
