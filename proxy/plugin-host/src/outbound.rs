//! HTTP requests of guests: what the proxy must provide for them, and what a guest may send.
//!
//! The host checks the request and bounds the wait; whoever implements [`Outbound`] knows the
//! upstreams, connects and speaks HTTP.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sluicegate_plugin_rules as rules;

/// A way to the upstreams of the configuration.
pub trait Outbound: fmt::Debug + Send + Sync {
    /// Sends a request and collects the answer. Dropping the future gives up on it.
    fn send(&self, request: OutboundRequest) -> OutboundFuture;
}

/// What becomes of an outbound request.
pub type OutboundFuture =
    Pin<Box<dyn Future<Output = Result<OutboundResponse, OutboundError>> + Send>>;

/// A request that a guest may send: checked, framed by whoever sends it.
#[derive(Debug, Clone)]
pub struct OutboundRequest {
    /// One that the plugin is allowed.
    pub upstream: Arc<str>,
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Without framing and connection fields; perhaps with a `host`.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The largest body that may be collected, bytes.
    pub max_body: usize,
    /// For all of it; the host gives up then as well.
    pub timeout: Duration,
}

/// An upstream's answer, whole.
#[derive(Debug, Clone)]
pub struct OutboundResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    #[error("`allow.http` does not name this upstream")]
    NotAllowed,
    #[error("the request cannot be sent: {0}")]
    Invalid(String),
    #[error("no server took the request: {0}")]
    Unreachable(String),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is too large")]
    TooLarge,
    #[error("a broken answer: {0}")]
    Broken(String),
}

/// A guest's request, in its own words.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) upstream: Arc<str>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) max_body: usize,
    pub(crate) timeout: Duration,
}

impl Asked {
    /// What of it may be sent. Framing, connection and forwarding fields are the proxy's, as in a head
    /// that a filter edits; `host` may be set, since nobody else's request is concerned.
    pub(crate) fn checked(self) -> Result<OutboundRequest, OutboundError> {
        let invalid = |what: String| OutboundError::Invalid(what);
        let method = Method::from_bytes(self.method.as_bytes())
            .ok()
            .filter(|method| *method != Method::CONNECT && self.method.len() <= MAX_METHOD)
            .ok_or_else(|| invalid("not a method that can be sent".to_owned()))?;
        if !self.path.starts_with('/') {
            return Err(invalid("the path does not begin with a slash".to_owned()));
        }
        rules::check_query(&self.path)
            .map_err(|_| invalid("the path holds what no URL can, or is too long".to_owned()))?;
        if self.body.len() > MAX_BODY {
            return Err(invalid(format!("a body of more than {MAX_BODY} bytes")));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let host = name.eq_ignore_ascii_case("host");
            let set = if host {
                HeaderValue::from_bytes(value)
                    .map(|value| drop(headers.insert(HeaderName::from_static("host"), value)))
                    .map_err(|_| rules::EditError::InvalidValue)
            } else {
                rules::add(&mut headers, name, value)
            };
            set.map_err(|error| {
                let name: String = name
                    .chars()
                    .take(64)
                    .flat_map(char::escape_default)
                    .collect();
                invalid(format!("header `{name}`: {error}"))
            })?;
        }
        Ok(OutboundRequest {
            upstream: self.upstream,
            method,
            path: self.path,
            headers,
            body: self.body.into(),
            max_body: self.max_body,
            timeout: self.timeout,
        })
    }
}

/// What a guest may send, bytes; with the rest of a request less than a guest's call may hand over.
const MAX_BODY: usize = 512 << 10;
const MAX_METHOD: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_sent_is_sent() {
        #[track_caller]
        fn check(edit: impl FnOnce(&mut Asked), expect: Result<(), &str>) {
            let mut asked = Asked {
                upstream: "idp".into(),
                method: "GET".into(),
                path: "/jwks?a=1".into(),
                headers: vec![("Accept".into(), b"application/json".to_vec())],
                body: Vec::new(),
                max_body: 100,
                timeout: Duration::from_secs(1),
            };
            edit(&mut asked);
            let checked = asked.checked().map(drop).map_err(|error| error.to_string());
            let expect = expect.map_err(|why| format!("the request cannot be sent: {why}"));
            assert_eq!(checked, expect);
        }
        check(|_| {}, Ok(()));
        check(
            |asked| asked.headers = vec![("Host".into(), b"idp.example.com".to_vec())],
            Ok(()),
        );
        check(
            |asked| asked.method = "CONNECT".into(),
            Err("not a method that can be sent"),
        );
        check(
            |asked| asked.method = "GE T".into(),
            Err("not a method that can be sent"),
        );
        check(
            |asked| asked.path = "http://evil/".into(),
            Err("the path does not begin with a slash"),
        );
        for path in ["/a b", "/a\r\nx: y", "/é", "/#f"] {
            check(
                |asked| asked.path = path.into(),
                Err("the path holds what no URL can, or is too long"),
            );
        }
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "X-Forwarded-For",
        ] {
            check(
                |asked| asked.headers = vec![(name.into(), b"1".to_vec())],
                Err(&format!("header `{name}`: written by the proxy itself")),
            );
        }
        check(
            |asked| asked.headers = vec![("x-a".into(), b"1\r\nx-b: 2".to_vec())],
            Err("header `x-a`: not a valid value"),
        );
        check(
            |asked| asked.body = vec![0; MAX_BODY + 1],
            Err("a body of more than 524288 bytes"),
        );
    }
}
