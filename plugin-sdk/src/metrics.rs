//! Figures of the plugin's own among the proxy's metrics, as `sluicegate_plugin_PLUGIN_NAME`.
//!
//! Names and labels are `[a-z][a-z0-9_]*`, at most 64 bytes; a metric has at most 4 labels, always the
//! same ones, whose values are short (128 bytes) and few: a plugin has so many series and no more.

/// Why a figure was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// Not `[a-z][a-z0-9_]{0,63}`, in the name or a label's.
    InvalidName,
    /// A label's value of more than 128 bytes, or more than 4 labels.
    InvalidLabel,
    /// The name was used for another kind of metric, or with other labels.
    Mismatch,
    /// The plugin has all the series it may have.
    TooMany,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Error::InvalidName => "not a metric's or a label's name",
            Error::InvalidLabel => "too many labels, or too long a value",
            Error::Mismatch => "the name stands for another kind of metric, or other labels",
            Error::TooMany => "too many series",
        })
    }
}

impl std::error::Error for Error {}

/// Names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Adds to a counter.
///
/// # Errors
/// See [`Error`]; most plugins can do without the figure (`.ok()`).
pub fn count(name: &str, labels: Labels<'_>, by: u64) -> Result<(), Error> {
    told(host::count(name, &owned(labels), by))
}

/// Sets a gauge.
///
/// # Errors
/// See [`Error`].
pub fn gauge(name: &str, labels: Labels<'_>, value: f64) -> Result<(), Error> {
    told(host::gauge(name, &owned(labels), value))
}

/// Puts a value into a histogram whose buckets suit seconds, 1 ms to 10 s.
///
/// # Errors
/// See [`Error`].
pub fn observe(name: &str, labels: Labels<'_>, value: f64) -> Result<(), Error> {
    told(host::observe(name, &owned(labels), value))
}

fn owned(labels: Labels<'_>) -> Vec<(String, String)> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    labels.iter().map(pair).collect()
}

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::metrics as host;

#[cfg(target_arch = "wasm32")]
use crate::glue::bindings::sluicegate::plugin::metrics as host;

#[cfg(target_arch = "wasm32")]
fn told<T>(answer: Result<T, host::MetricError>) -> Result<T, Error> {
    answer.map_err(Error::from)
}

/// What stands in for the proxy speaks our words already.
#[cfg(not(target_arch = "wasm32"))]
fn told<T>(answer: Result<T, Error>) -> Result<T, Error> {
    answer
}

#[cfg(target_arch = "wasm32")]
impl From<host::MetricError> for Error {
    fn from(error: host::MetricError) -> Self {
        match error {
            host::MetricError::InvalidName => Error::InvalidName,
            host::MetricError::InvalidLabel => Error::InvalidLabel,
            host::MetricError::Mismatch => Error::Mismatch,
            host::MetricError::TooMany => Error::TooMany,
        }
    }
}
