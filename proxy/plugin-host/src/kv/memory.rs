//! The store in this process's memory, shared by all workers.
//!
//! Each plugin's part is a few shards, each under a lock that is held for one operation. A part lives as
//! long as somebody uses it, so it survives a reload that keeps the plugin and goes with one that
//! removes it. Nothing of it survives the process.
//!
//! Every entry counts with its key, its value and [`ENTRY_COST`], against its plugin's share and against
//! the total. An expired entry is gone for everybody who asks; its memory is given back when a write
//! comes by its shard, at the latest when a write would find no room. Each shard keeps its entries in the
//! order in which they expire, so that looking for expired ones costs little where there are none: who
//! fills a store makes writes to it fail, but not slow.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::future;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{KvError, KvFuture, KvStore, check_key, check_value};
use crate::clock::Clock;

/// How much a [`MemoryStore`] holds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLimits {
    /// Of one plugin.
    pub plugin: u64,
    /// Of all plugins together.
    pub total: u64,
}

impl Default for KvLimits {
    fn default() -> Self {
        KvLimits {
            plugin: 16 << 20,
            total: 64 << 20,
        }
    }
}

/// All plugins' parts.
#[derive(Debug)]
pub struct MemoryStore {
    limits: KvLimits,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
}

/// What the parts know of each other.
#[derive(Debug)]
struct Shared {
    parts: Mutex<HashMap<String, Weak<Part>>>,
    /// Bytes that the entries of all parts count.
    used: AtomicU64,
}

/// The entries of one plugin.
#[derive(Debug)]
struct Part {
    limits: KvLimits,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    used: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// Those that expire, by the moment at which they do.
    expiring: BTreeSet<(Duration, Arc<str>)>,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    /// Monotonic.
    expires: Option<Duration>,
}

#[derive(Debug)]
enum Value {
    Bytes(Box<[u8]>),
    Number(i64),
}

/// What an operation makes of an entry.
enum Change<T> {
    Keep(T),
    Put(Entry, T),
    Remove(T),
}

impl MemoryStore {
    pub fn new(limits: KvLimits, clock: Arc<dyn Clock>) -> Self {
        MemoryStore {
            limits,
            clock,
            shared: Arc::new(Shared {
                parts: Mutex::default(),
                used: AtomicU64::new(0),
            }),
        }
    }

    /// A plugin's part: the same one for the same name, as long as somebody has it.
    pub fn part(&self, plugin: &str) -> Arc<dyn KvStore> {
        let mut parts = lock(&self.shared.parts);
        if let Some(part) = parts.get(plugin).and_then(Weak::upgrade) {
            return part;
        }
        parts.retain(|_, part| part.strong_count() > 0);
        let part = Arc::new(Part {
            limits: self.limits,
            clock: Arc::clone(&self.clock),
            shared: Arc::clone(&self.shared),
            used: AtomicU64::new(0),
            hasher: RandomState::new(),
            shards: Default::default(),
        });
        parts.insert(plugin.to_owned(), Arc::downgrade(&part));
        part
    }

    /// Bytes that all entries count, expired ones that nobody came by included.
    pub fn used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }
}

impl KvStore for Part {
    fn get<'a>(&'a self, key: &'a str) -> KvFuture<'a, Option<Vec<u8>>> {
        ready(self.change(key, |entry| {
            Ok(Change::Keep(entry.map(|entry| entry.value.to_bytes())))
        }))
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], ttl: Option<Duration>) -> KvFuture<'a, ()> {
        ready(self.change(key, |_| Ok(Change::Put(self.entry(value, ttl)?, ()))))
    }

    fn add<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> KvFuture<'a, bool> {
        self.compare_and_set(key, None, value, ttl)
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> KvFuture<'a, bool> {
        ready(self.change(key, |entry| {
            check_value(value)?;
            let same = match (entry, expected) {
                (None, None) => true,
                (Some(entry), Some(expected)) => entry.value.is(expected),
                _ => false,
            };
            Ok(match same {
                true => Change::Put(self.entry(value, ttl)?, true),
                false => Change::Keep(false),
            })
        }))
    }

    fn increment<'a>(&'a self, key: &'a str, by: i64, ttl: Option<Duration>) -> KvFuture<'a, i64> {
        ready(self.change(key, |entry| {
            let (number, expires) = match entry {
                Some(entry) => (entry.value.number()?, entry.expires),
                None => (0, self.expiry(ttl)),
            };
            let sum = number.saturating_add(by);
            let value = Value::Number(sum);
            Ok(Change::Put(Entry { value, expires }, sum))
        }))
    }

    fn delete<'a>(&'a self, key: &'a str) -> KvFuture<'a, bool> {
        ready(self.change(key, |entry| {
            Ok(match entry {
                Some(_) => Change::Remove(true),
                None => Change::Keep(false),
            })
        }))
    }
}

impl Part {
    /// Does one operation under the lock of the key's shard, or, if there is no room for it,
    /// gives back what has expired anywhere and tries again.
    fn change<T>(
        &self,
        key: &str,
        decide: impl Fn(Option<&Entry>) -> Result<Change<T>, KvError>,
    ) -> Result<T, KvError> {
        check_key(key)?;
        loop {
            match self.try_change(key, &decide) {
                Err(KvError::Full) if self.forget_expired_everywhere() => {}
                result => return result,
            }
        }
    }

    fn try_change<T>(
        &self,
        key: &str,
        decide: &impl Fn(Option<&Entry>) -> Result<Change<T>, KvError>,
    ) -> Result<T, KvError> {
        let now = self.clock.monotonic();
        let mut shard = self.shard(key);
        let found = shard.entries.get(key).filter(|entry| entry.lives(now));
        let (new, answer) = match decide(found)? {
            Change::Keep(answer) => return Ok(answer),
            Change::Put(entry, answer) => (Some(entry), answer),
            Change::Remove(answer) => (None, answer),
        };
        // Whoever writes also takes out a few that have expired: as many go as come.
        self.release(shard.forget_expired(now, EXPIRED_PER_WRITE));
        let old_cost = shard.entries.get(key).map_or(0, |old| old.cost(key));
        let Some(entry) = new else {
            shard.remove(key);
            self.release(old_cost);
            return Ok(answer);
        };
        let cost = entry.cost(key);
        self.reserve(cost.saturating_sub(old_cost))?;
        self.release(old_cost.saturating_sub(cost));
        shard.put(key, entry);
        Ok(answer)
    }

    fn entry(&self, value: &[u8], ttl: Option<Duration>) -> Result<Entry, KvError> {
        check_value(value)?;
        Ok(Entry {
            value: Value::Bytes(value.into()),
            expires: self.expiry(ttl),
        })
    }

    /// A moment that cannot be written never comes.
    fn expiry(&self, ttl: Option<Duration>) -> Option<Duration> {
        self.clock.monotonic().checked_add(ttl?)
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        // The upper bits: each shard's own map begins with the lower ones.
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }

    /// Counts so many bytes more, or none.
    fn reserve(&self, bytes: u64) -> Result<(), KvError> {
        take(&self.used, bytes, self.limits.plugin)?;
        take(&self.shared.used, bytes, self.limits.total).inspect_err(|_| {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        })
    }

    fn release(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Gives back what has expired, in other plugins' parts as well; says whether that was anything.
    /// No lock of a shard may be held.
    fn forget_expired_everywhere(&self) -> bool {
        // Not under the lock of the list: a part may end here, with this function its last holder.
        let parts: Vec<_> = lock(&self.shared.parts).values().cloned().collect();
        let mut found = false;
        for part in parts.iter().filter_map(Weak::upgrade) {
            let now = part.clock.monotonic();
            for shard in &part.shards {
                let freed = lock(shard).forget_expired(now, usize::MAX);
                part.release(freed);
                found |= freed > 0;
            }
        }
        found
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let used = self.used.load(Ordering::Relaxed);
        self.shared.used.fetch_sub(used, Ordering::Relaxed);
    }
}

impl Shard {
    fn put(&mut self, key: &str, entry: Entry) {
        let (key, before) = match self.entries.remove_entry(key) {
            Some((key, old)) => (key, old.expires),
            None => (key.into(), None),
        };
        if before != entry.expires {
            if let Some(at) = before {
                self.expiring.remove(&(at, Arc::clone(&key)));
            }
            if let Some(at) = entry.expires {
                self.expiring.insert((at, Arc::clone(&key)));
            }
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, old)) = self.entries.remove_entry(key)
            && let Some(at) = old.expires
        {
            self.expiring.remove(&(at, key));
        }
    }

    /// Takes out so many expired entries at most, and says how many bytes they counted.
    fn forget_expired(&mut self, now: Duration, at_most: usize) -> u64 {
        let mut freed = 0;
        for _ in 0..at_most {
            match self.expiring.first() {
                Some((at, _)) if *at <= now => {}
                _ => break,
            }
            if let Some((_, key)) = self.expiring.pop_first()
                && let Some(entry) = self.entries.remove(&key)
            {
                freed += entry.cost(&key);
            }
        }
        freed
    }
}

impl Entry {
    fn lives(&self, now: Duration) -> bool {
        self.expires.is_none_or(|at| now < at)
    }

    fn cost(&self, key: &str) -> u64 {
        let value = match &self.value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Number(_) => 0,
        };
        (key.len() + value) as u64 + ENTRY_COST
    }
}

impl Value {
    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Number(number) => number.to_string().into_bytes(),
        }
    }

    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Value::Bytes(own) => **own == *bytes,
            Value::Number(number) => number.to_string().as_bytes() == bytes,
        }
    }

    /// Decimal digits are a number, whoever stored them.
    fn number(&self) -> Result<i64, KvError> {
        match self {
            Value::Number(number) => Ok(*number),
            Value::Bytes(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or(KvError::NotANumber),
        }
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, KvError>) -> KvFuture<'a, T> {
    Box::pin(future::ready(result))
}

/// Adds to a count that must stay within a limit.
fn take(used: &AtomicU64, bytes: u64, limit: u64) -> Result<(), KvError> {
    if bytes == 0 {
        return Ok(());
    }
    let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        .map(|_| ())
        .map_err(|_| KvError::Full)
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an entry counts besides its key and value: its places in the two collections and the
/// allocations of both, bytes.
const ENTRY_COST: u64 = 192;
const SHARDS: usize = 16;
const EXPIRED_PER_WRITE: usize = 2;

#[cfg(test)]
mod tests;
