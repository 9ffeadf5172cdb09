//! A small store that all workers share, each plugin's keys apart from the others'.
//!
//! The operator grants it (`allow = { kv = true }`) and bounds it. Keys have 1 to 512 bytes, values at
//! most 64 KiB. It lives in the proxy's memory: what is in it is gone after a restart. Natively every
//! test has an empty one of its own.

use std::time::Duration;

/// Why the store did not do it; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// Key or value are larger than allowed, or the key is empty.
    TooLarge,
    /// The plugin's share is full of entries that have not expired.
    Full,
    /// [`increment`] found something that is no number.
    NotANumber,
    /// The store does not answer.
    Unavailable,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Error::TooLarge => "key or value are too large",
            Error::Full => "the store is full",
            Error::NotANumber => "not a number",
            Error::Unavailable => "the store does not answer",
        })
    }
}

impl std::error::Error for Error {}

/// What is there under a key.
///
/// # Errors
/// `TooLarge`, `Unavailable`.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    told(host::get(key))
}

/// Sets a value; without a time to live it stays while the proxy runs.
///
/// # Errors
/// See [`Error`].
pub fn set(key: &str, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<(), Error> {
    told(host::set(key, value.as_ref(), ttl.map(millis)))
}

/// Sets what is not there yet; false: it is there.
///
/// # Errors
/// See [`Error`].
pub fn add(key: &str, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<bool, Error> {
    told(host::add(key, value.as_ref(), ttl.map(millis)))
}

/// Sets what is still as expected (`None`: absent); false: it is not.
///
/// # Errors
/// See [`Error`].
pub fn compare_and_set(
    key: &str,
    expected: Option<&[u8]>,
    value: impl AsRef<[u8]>,
    ttl: Option<Duration>,
) -> Result<bool, Error> {
    told(host::compare_and_set(
        key,
        expected,
        value.as_ref(),
        ttl.map(millis),
    ))
}

/// Adds to a number and returns the sum. It begins as 0 with this time to live, and keeps that later
/// on; [`get`] reads it as decimal digits.
///
/// # Errors
/// See [`Error`].
pub fn increment(key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, Error> {
    told(host::increment(key, by, ttl.map(millis)))
}

/// Removes a value; false: it was not there.
///
/// # Errors
/// `TooLarge`, `Unavailable`.
pub fn delete(key: &str) -> Result<bool, Error> {
    told(host::delete(key))
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::kv as host;

#[cfg(target_arch = "wasm32")]
use crate::glue::bindings::sluicegate::plugin::kv as host;

#[cfg(target_arch = "wasm32")]
fn told<T>(answer: Result<T, host::KvError>) -> Result<T, Error> {
    answer.map_err(Error::from)
}

/// What stands in for the proxy speaks our words already.
#[cfg(not(target_arch = "wasm32"))]
fn told<T>(answer: Result<T, Error>) -> Result<T, Error> {
    answer
}

#[cfg(target_arch = "wasm32")]
impl From<host::KvError> for Error {
    fn from(error: host::KvError) -> Self {
        match error {
            host::KvError::TooLarge => Error::TooLarge,
            host::KvError::Full => Error::Full,
            host::KvError::NotANumber => Error::NotANumber,
            host::KvError::Unavailable => Error::Unavailable,
        }
    }
}
