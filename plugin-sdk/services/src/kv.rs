//! The store that plugins keep small things in: counters, used tickets, answers of other services.
//!
//! A [`KvStore`] is one plugin's part of a store; no plugin can name another's keys. What is here
//! lives in memory ([`MemoryStore`]); one that asks a server implements the same trait, which is why
//! every operation is a future. Each operation is atomic, also between workers.
//!
//! What a store refuses: keys that are empty or longer than [`MAX_KEY`], values longer than
//! [`MAX_VALUE`], and more than the plugin's share. It never forgets an entry that has not expired to
//! make room for another: a rate limit or a used ticket that could be pushed out would be no limit.

mod memory;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

pub use memory::{KvLimits, MemoryStore};

/// One plugin's part of a store.
///
/// `ttl` is the time until an entry is forgotten; `None`: as long as the store lives. An operation that
/// fails has changed nothing, but for [`KvError::Unavailable`], behind which nobody knows.
pub trait KvStore: fmt::Debug + Send + Sync {
    /// What was stored, a number as its decimal digits.
    fn get<'a>(&'a self, key: &'a str) -> KvFuture<'a, Option<Vec<u8>>>;

    /// Stores a value, whatever was there.
    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], ttl: Option<Duration>) -> KvFuture<'a, ()>;

    /// Stores what is not there yet; `false`: it is there, and stays as it is.
    fn add<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> KvFuture<'a, bool>;

    /// Stores a value in the place of the expected one (`None`: of none); `false`: it is another.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
        ttl: Option<Duration>,
    ) -> KvFuture<'a, bool>;

    /// Adds to a number and returns the sum, which stops at the ends of its range. What is not there
    /// begins as 0 with this time to live; what is there keeps its own.
    fn increment<'a>(&'a self, key: &'a str, by: i64, ttl: Option<Duration>) -> KvFuture<'a, i64>;

    /// Forgets an entry; `false`: it was not there.
    fn delete<'a>(&'a self, key: &'a str) -> KvFuture<'a, bool>;
}

/// The store of a plugin that is granted none: it never answers.
#[derive(Debug)]
pub struct NoStore;

/// The answer of a store.
pub type KvFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, KvError>> + Send + 'a>>;

/// Why a store did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The key is empty or longer than [`MAX_KEY`], or the value longer than [`MAX_VALUE`].
    #[error("the key or the value is larger than allowed")]
    TooLarge,
    /// No room is left, and nothing that is there has expired.
    #[error("the store is full")]
    Full,
    /// `increment` found something else.
    #[error("the value is no number")]
    NotANumber,
    /// A store beyond the network gave no answer in time.
    #[error("the store does not answer")]
    Unavailable,
}

impl KvStore for NoStore {
    fn get<'a>(&'a self, _: &'a str) -> KvFuture<'a, Option<Vec<u8>>> {
        unavailable()
    }

    fn set<'a>(&'a self, _: &'a str, _: &'a [u8], _: Option<Duration>) -> KvFuture<'a, ()> {
        unavailable()
    }

    fn add<'a>(&'a self, _: &'a str, _: &'a [u8], _: Option<Duration>) -> KvFuture<'a, bool> {
        unavailable()
    }

    fn compare_and_set<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a [u8]>,
        _: &'a [u8],
        _: Option<Duration>,
    ) -> KvFuture<'a, bool> {
        unavailable()
    }

    fn increment<'a>(&'a self, _: &'a str, _: i64, _: Option<Duration>) -> KvFuture<'a, i64> {
        unavailable()
    }

    fn delete<'a>(&'a self, _: &'a str) -> KvFuture<'a, bool> {
        unavailable()
    }
}

fn unavailable<'a, T: Send + 'a>() -> KvFuture<'a, T> {
    Box::pin(std::future::ready(Err(KvError::Unavailable)))
}

/// A key of this length or an error.
///
/// # Errors
/// [`KvError::TooLarge`]
pub fn check_key(key: &str) -> Result<(), KvError> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        _ => Err(KvError::TooLarge),
    }
}

/// A value of this length or an error.
///
/// # Errors
/// [`KvError::TooLarge`]
pub fn check_value(value: &[u8]) -> Result<(), KvError> {
    match value.len() {
        0..=MAX_VALUE => Ok(()),
        _ => Err(KvError::TooLarge),
    }
}

/// Bytes of a key.
pub const MAX_KEY: usize = 512;
/// Bytes of a value.
pub const MAX_VALUE: usize = 64 << 10;
