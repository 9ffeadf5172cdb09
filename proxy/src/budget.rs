//! The memory that peers make the process hold, and who must go when it is too much.
//!
//! Whoever keeps bytes for somebody slow (a tunnel, a request) opens an [`Account`] and says how many they
//! are. The [`Budget`] has the sum. Above its limit it tells the costliest accounts to go, as many as it
//! takes to be a sixteenth below; from nine tenths on, until it is under eight, it [is short](Budget::is_short)
//! and nothing new should begin. A shortage that lasts is ended likewise, or a few who hold on to what they have
//! would keep all others out. It frees nothing itself: an account that is told must give back at once. What is out of
//! its reach then (of a stream that is reset the one frame that `h2` has begun to write, a piece of 64 KiB at most)
//! counts until it is gone, and others go in its place.
//!
//! Not counted is what each connection has room for anyway: a head of HTTP/1.1 that is not whole (`head_size`), one
//! frame of HTTP/2, and what a server has said of a head (4 times 64 KiB, once for a connection to it).
//!
//! Meant to cost nothing where nothing is held. The budget hears of an account when its owner has to wait, if
//! that holds [`FREE`] bytes by then; the shared sum is touched only where a step of 4 KiB is passed, and a
//! lock taken only for its first time. What an account said is given back with its drop, so the sum cannot drift.

mod system;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// The sum of all accounts of the process, and its limit.
#[derive(Debug)]
pub struct Budget {
    /// Below 0 for a moment, where one thread gives back what another has not charged yet.
    held: AtomicIsize,
    limit: AtomicUsize,
    /// Where the configuration says nothing.
    default_limit: usize,
    short: AtomicBool,
    /// When that began, in milliseconds of the budget's life.
    short_since: AtomicU64,
    began: Instant,
    /// What of the sum is held by those who were told to go.
    going: AtomicIsize,
    /// Held while accounts are told.
    telling: Mutex<()>,
    /// Accounts that hold, or held, something worth it.
    holders: [Mutex<HashMap<usize, Weak<Entry>>>; SHARDS],
    shed: [AtomicU64; Kind::ALL.len()],
}

/// What one tunnel or request makes the process hold. Clones are the same account.
#[derive(Debug, Clone)]
pub struct Account(Arc<Owner>);

/// What an account is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tunnel,
    /// A request and its answer.
    Request,
}

/// Those who can give back.
#[derive(Debug)]
struct Owner(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    budget: Arc<Budget>,
    kind: Kind,
    /// Bytes.
    held: AtomicUsize,
    /// Bytes that may come besides before anybody can say so.
    reserved: AtomicUsize,
    /// What of them the budget knows, in whole steps.
    charged: AtomicUsize,
    /// What of that it was told to give back.
    going: AtomicUsize,
    listed: AtomicBool,
    shed: AtomicBool,
    /// Nobody is left who could give back; what is still held goes when it goes.
    ownerless: AtomicBool,
    /// The waker wants to know of an empty account, too.
    awaited: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// Bytes that count until they are dropped.
struct Kept {
    bytes: Bytes,
    entry: Arc<Entry>,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Tunnel, Kind::Request];

    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Tunnel => "tunnel",
            Kind::Request => "request",
        }
    }
}

impl Budget {
    /// `limit` in bytes; `None`: half of what the process may have, as it is now.
    pub fn new(limit: Option<usize>) -> Arc<Budget> {
        let default_limit = system::available_memory().map_or(usize::MAX, |bytes| bytes / 2);
        Arc::new(Budget {
            held: AtomicIsize::new(0),
            limit: AtomicUsize::new(limit.unwrap_or(default_limit)),
            default_limit,
            short: AtomicBool::new(false),
            short_since: AtomicU64::new(0),
            began: Instant::now(),
            going: AtomicIsize::new(0),
            telling: Mutex::default(),
            holders: Default::default(),
            shed: Default::default(),
        })
    }

    /// As [`Budget::new`]. What is held above a lower limit is shed now.
    pub fn set_limit(&self, limit: Option<usize>) {
        let limit = limit.unwrap_or(self.default_limit);
        if self.limit.swap(limit, Ordering::Relaxed) == limit {
            return;
        }
        let held = self.held();
        self.has_grown(held);
        self.has_shrunk(held);
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that all accounts together hold.
    pub fn held(&self) -> usize {
        at_least_0(self.held.load(Ordering::Relaxed))
    }

    /// There is so little left that nothing new should begin. Asked by what would: where that has been so
    /// for [`SHORTAGE`], the costliest are told to go.
    pub fn is_short(&self) -> bool {
        if !self.was_short() {
            return false;
        }
        // One thread may have found it short after another has given everything back.
        self.has_shrunk(self.held());
        if self.was_short() {
            let lasted = self
                .age()
                .saturating_sub(self.short_since.load(Ordering::Relaxed));
            if Duration::from_millis(lasted) >= SHORTAGE {
                let limit = self.limit();
                self.shed_to(limit - limit / 4);
            }
        }
        self.was_short()
    }

    fn was_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// In milliseconds.
    fn age(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How many accounts were told to go.
    pub fn shed(&self, kind: Kind) -> u64 {
        self.shed[kind as usize].load(Ordering::Relaxed)
    }

    /// Opens an account that holds nothing yet.
    pub fn open(self: &Arc<Self>, kind: Kind) -> Account {
        Account(Arc::new(Owner(Arc::new(Entry {
            budget: Arc::clone(self),
            kind,
            held: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            going: AtomicUsize::new(0),
            listed: AtomicBool::new(false),
            shed: AtomicBool::new(false),
            ownerless: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            waker: Mutex::default(),
        }))))
    }

    fn charge(&self, more: usize) {
        let more = more.cast_signed();
        let before = self.held.fetch_add(more, Ordering::Relaxed);
        self.has_grown(at_least_0(before + more));
    }

    fn credit(&self, less: usize) {
        let less = less.cast_signed();
        let before = self.held.fetch_sub(less, Ordering::Relaxed);
        self.has_shrunk(at_least_0(before - less));
    }

    fn has_grown(&self, held: usize) {
        let limit = self.limit();
        if held >= limit - limit / 10 && !self.was_short() {
            self.short_since.store(self.age(), Ordering::Relaxed);
            if !self.short.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    held,
                    limit,
                    "buffers take too much memory: new requests are refused"
                );
            }
        }
        if held > limit && self.staying() > limit {
            self.shed_to(limit - limit / 16);
        }
    }

    fn has_shrunk(&self, held: usize) {
        let limit = self.limit();
        if self.was_short() && held < limit - limit / 5 && self.short.swap(false, Ordering::Relaxed)
        {
            tracing::info!(
                held,
                limit,
                "buffers are small again: new requests are served"
            );
        }
    }

    /// What is held by those who were not told to go.
    fn staying(&self) -> usize {
        let going = self.going.load(Ordering::Relaxed);
        at_least_0(self.held.load(Ordering::Relaxed) - going)
    }

    /// Tells the costliest to go until the others hold `target`: less than it takes, as to look at all of
    /// them takes long.
    fn shed_to(&self, target: usize) {
        if self.staying() <= target {
            return;
        }
        let _telling = match self.telling.try_lock() {
            Ok(telling) => telling,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever is at it looks at this account too, or the next one that grows does.
            Err(TryLockError::WouldBlock) => return,
        };
        // None is held on to: who goes meanwhile shall be gone.
        let mut entries = Vec::new();
        for shard in &self.holders {
            entries.extend(lock(shard).values().cloned());
        }
        let staying = entries.into_iter().filter_map(|listed| {
            let entry = listed.upgrade()?;
            let stays =
                !entry.shed.load(Ordering::Relaxed) && !entry.ownerless.load(Ordering::Relaxed);
            stays.then(|| (Reverse(entry.charged.load(Ordering::Relaxed)), listed))
        });
        let mut staying: Vec<_> = staying.collect();
        staying.sort_unstable_by_key(|(charged, _)| *charged);
        for (Reverse(charged), listed) in staying {
            if charged == 0 || self.staying() <= target {
                break;
            }
            if let Some(entry) = listed.upgrade() {
                self.shed[entry.kind as usize].fetch_add(1, Ordering::Relaxed);
                entry.tell();
            }
        }
    }

    /// The shard of an entry at this address.
    fn shard(&self, address: usize) -> MutexGuard<'_, HashMap<usize, Weak<Entry>>> {
        lock(&self.holders[address / size_of::<Entry>() % SHARDS])
    }
}

impl Account {
    /// Holds so many bytes more, of which the budget hears with the next wait: what goes straight through
    /// is never its business.
    pub fn hold(&self, more: usize) {
        self.entry().held.fetch_add(more, Ordering::Relaxed);
    }

    /// Holds so many bytes less.
    pub fn give_back(&self, less: usize) {
        Entry::give_back(self.entry(), less);
    }

    /// Holds just so many bytes; not where pieces are [kept](Account::keep), which give back their own.
    pub fn set(&self, held: usize) {
        self.entry().held.store(held, Ordering::SeqCst);
        self.settle();
    }

    /// So many bytes may come besides, of which nobody is told before they are read.
    pub fn reserve(&self, bytes: usize) {
        let before = self.entry().reserved.swap(bytes, Ordering::SeqCst);
        // Less is told at once: nobody may wait any more.
        if bytes < before && self.entry().charged.load(Ordering::SeqCst) > 0 {
            self.settle();
        }
    }

    /// Tells the budget what is held.
    pub fn settle(&self) {
        Entry::settle(self.entry());
    }

    /// Bytes that count for this account wherever they go, until the last piece of them is dropped. A few are
    /// not worth it.
    pub fn keep(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < KEPT {
            return bytes;
        }
        self.hold(bytes.len());
        let entry = Arc::clone(self.entry());
        Bytes::from_owner(Kept { bytes, entry })
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entry().held.load(Ordering::Relaxed) == 0
    }

    /// Whether this one was told to go.
    pub fn is_shed(&self) -> bool {
        self.entry().shed.load(Ordering::SeqCst)
    }

    /// Tells the budget what is held while its owner waits; ready when this one is told to go. Keeps the
    /// waker of the last call.
    pub fn poll_shed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_shed() {
            self.entry().remember(cx);
        }
        self.settle();
        match self.is_shed() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Ready when next to nothing is held any more, or, with false, when this one is told to go. Keeps the
    /// waker of the last call.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let is_empty = || self.entry().held.load(Ordering::SeqCst) < FREE;
        if is_empty() {
            return Poll::Ready(true);
        }
        self.entry().awaited.store(true, Ordering::SeqCst);
        match self.poll_shed(cx) {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending if is_empty() => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    }

    fn entry(&self) -> &Arc<Entry> {
        &self.0.0
    }
}

impl Drop for Owner {
    /// What outlives it is no longer about to go: others may have to in its place.
    fn drop(&mut self) {
        let Owner(entry) = self;
        if Arc::strong_count(entry) == 1 {
            return;
        }
        entry.ownerless.store(true, Ordering::SeqCst);
        if entry.shed.load(Ordering::SeqCst) {
            entry.note_going();
            entry.budget.has_grown(entry.budget.held());
        }
    }
}

impl Entry {
    fn give_back(this: &Arc<Entry>, less: usize) {
        let before = this.held.fetch_sub(less, Ordering::SeqCst);
        let held = before - less;
        if held < FREE && this.awaited.swap(false, Ordering::SeqCst) {
            this.wake();
        }
        if this.charged.load(Ordering::SeqCst) > 0 {
            Entry::settle(this);
        }
    }

    /// Tells the budget, where what is held is another number of steps than it knows of.
    fn settle(this: &Arc<Entry>) {
        loop {
            let due = this.due();
            if this.charged.load(Ordering::SeqCst) == due {
                return;
            }
            if due > 0
                && !this.listed.load(Ordering::Relaxed)
                && !this.listed.swap(true, Ordering::Relaxed)
            {
                let address = Arc::as_ptr(this).addr();
                this.budget
                    .shard(address)
                    .insert(address, Arc::downgrade(this));
            }
            // With `tell`: one of the two sees what the other has done.
            let before = this.charged.swap(due, Ordering::SeqCst);
            if this.shed.load(Ordering::SeqCst) {
                this.note_going();
            }
            match due > before {
                true => this.budget.charge(due - before),
                false => this.budget.credit(before - due),
            }
            // Who gave back meanwhile may have found nothing charged: so look again.
        }
    }

    /// What is held, in whole steps.
    fn due(&self) -> usize {
        let held = self.held.load(Ordering::SeqCst) + self.reserved.load(Ordering::SeqCst);
        match held {
            0..FREE => 0,
            held => held.next_multiple_of(STEP),
        }
    }

    /// Tells the budget what is about to be given back.
    fn note_going(&self) {
        loop {
            let going = self.leaves();
            let before = self.going.swap(going, Ordering::SeqCst);
            let more = going.cast_signed() - before.cast_signed();
            self.budget.going.fetch_add(more, Ordering::Relaxed);
            // Who changed it since may have been here before the swap, which then undid its work.
            if self.leaves() == going {
                return;
            }
        }
    }

    /// What one that is told will give back.
    fn leaves(&self) -> usize {
        match self.ownerless.load(Ordering::SeqCst) {
            true => 0,
            false => self.charged.load(Ordering::SeqCst),
        }
    }

    fn tell(&self) {
        self.shed.store(true, Ordering::SeqCst);
        self.note_going();
        self.wake();
    }

    fn remember(&self, cx: &mut Context<'_>) {
        let mut waker = lock(&self.waker);
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if *self.listed.get_mut() {
            // Its memory is not used again while the list has it.
            let address = std::ptr::from_ref(self).addr();
            self.budget.shard(address).remove(&address);
        }
        let going = self.going.get_mut().cast_signed();
        self.budget.going.fetch_sub(going, Ordering::Relaxed);
        self.budget.credit(*self.charged.get_mut());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        Entry::give_back(&self.entry, self.bytes.len());
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn at_least_0(sum: isize) -> usize {
    sum.max(0).cast_unsigned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long new requests are refused before those who hold most are told to go.
const SHORTAGE: Duration = Duration::from_secs(2);
/// An account that holds less costs nothing.
pub const FREE: usize = 4 << 10;
/// The budget hears of what is held in steps of this.
const STEP: usize = 4 << 10;
/// Pieces below this are not kept an eye on.
const KEPT: usize = 256;
/// Parts of the list, so that the workers seldom meet.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests;
