//! Why a measurement has no figure: one sentence for a person. Nothing here branches on the cause.

use std::fmt;
use std::io;

/// What went wrong, ready to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(String);

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure(what.into())
    }

    /// For `map_err`: what was tried, then why it failed.
    pub(crate) fn of<E: fmt::Display>(tried: &str) -> impl Fn(E) -> Failure {
        move |error| Failure(format!("{tried}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::other(failure.0)
    }
}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Failure {
        Failure(format!("TLS: {error}"))
    }
}
