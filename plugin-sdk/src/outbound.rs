//! HTTP requests to upstreams of the configuration, those that the operator grants
//! (`allow = { http = ["idp"] }`).
//!
//! The plugin waits for the answer; the proxy's worker does not. Head and body of the answer, and the time
//! for all of it, are bounded by the operator. Natively a test says what is answered
//! ([`testing::on_outbound`](crate::testing::on_outbound)).

use std::time::Duration;

use crate::head;

/// A request to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub upstream: String,
    pub method: String,
    /// Path and query, from the slash on.
    pub path: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub timeout: Option<Duration>,
}

/// The upstream's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The configuration does not allow this upstream to the plugin.
    NotAllowed,
    /// Why the request cannot be sent.
    Invalid(String),
    /// Why no server took it.
    Unreachable(String),
    Timeout,
    /// The answer's head or body is larger than the limit.
    TooLarge,
    /// The answer breaks the protocol, or off.
    Broken(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotAllowed => f.write_str("`allow.http` does not name this upstream"),
            Error::Invalid(why) => write!(f, "the request cannot be sent: {why}"),
            Error::Unreachable(why) => write!(f, "no server took the request: {why}"),
            Error::Timeout => f.write_str("no answer in time"),
            Error::TooLarge => f.write_str("the answer is too large"),
            Error::Broken(why) => write!(f, "a broken answer: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Request {
    /// A GET of a path at an upstream.
    pub fn get(upstream: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new("GET", upstream, path)
    }

    /// A POST without a body yet.
    pub fn post(upstream: impl Into<String>, path: impl Into<String>) -> Self {
        Self::new("POST", upstream, path)
    }

    pub fn new(method: &str, upstream: impl Into<String>, path: impl Into<String>) -> Self {
        Request {
            upstream: upstream.into(),
            method: method.to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        }
    }

    /// Adds a header; the proxy writes those of framing and connection itself.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// For all of it, connecting included; the operator's limit holds besides.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn send(self) -> Result<Response, Error> {
        #[cfg(target_arch = "wasm32")]
        {
            wasm::send(self)
        }
        #[cfg(not(target_arch = "wasm32"))]
        crate::testing::send(&self)
    }
}

impl Response {
    /// An empty answer, for tests.
    pub fn new(status: u16) -> Self {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first value of a header, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(head::first(&self.headers, name)?).ok()
    }
}

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{Error, Request, Response};
    use crate::glue::bindings::sluicegate::plugin::outbound as host;

    pub(super) fn send(request: Request) -> Result<Response, Error> {
        let Request {
            upstream,
            method,
            path,
            headers,
            body,
            timeout,
        } = request;
        let timeout = timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        let answer = host::send(&host::OutboundRequest {
            upstream,
            method,
            path,
            headers,
            body,
            timeout,
        });
        match answer {
            Ok(host::OutboundResponse {
                status,
                headers,
                body,
            }) => Ok(Response {
                status,
                headers,
                body,
            }),
            Err(error) => Err(match error {
                host::OutboundError::NotAllowed => Error::NotAllowed,
                host::OutboundError::Invalid(why) => Error::Invalid(why),
                host::OutboundError::Unreachable(why) => Error::Unreachable(why),
                host::OutboundError::Timeout => Error::Timeout,
                host::OutboundError::TooLarge => Error::TooLarge,
                host::OutboundError::Broken(why) => Error::Broken(why),
            }),
        }
    }
}
