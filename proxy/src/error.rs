//! The one place where what went wrong becomes a status, a log label and a metric label.
//!
//! Elsewhere errors only carry facts. The client learns the status and the request id, never
//! addresses, plugin names or messages of a peer.

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Response, StatusCode};

use crate::body::{BodyFault, ResponseBody};
use crate::forward::RewriteFault;
use crate::request::Rejection;

/// Why a request got an answer of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub side: Side,
    pub status: StatusCode,
    /// Stable, for logs and metrics.
    pub label: &'static str,
    /// A value of `Allow`, for 405.
    pub allow: Option<HeaderValue>,
    /// What else the log should say; never sent.
    pub detail: Option<String>,
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
    Filter,
    Proxy,
}

impl Side {
    pub fn label(self) -> &'static str {
        match self {
            Side::Downstream => "downstream",
            Side::Upstream => "upstream",
            Side::Filter => "filter",
            Side::Proxy => "proxy",
        }
    }
}

impl Failure {
    pub fn new(side: Side, status: StatusCode, label: &'static str) -> Failure {
        Failure {
            side,
            status,
            label,
            allow: None,
            detail: None,
        }
    }

    pub fn because(mut self, detail: impl std::fmt::Display) -> Failure {
        self.detail = Some(detail.to_string());
        self
    }

    pub fn downstream(status: StatusCode, label: &'static str) -> Failure {
        Failure::new(Side::Downstream, status, label)
    }

    /// The upstream could not be used or made no sense.
    pub fn bad_gateway(label: &'static str) -> Failure {
        Failure::new(Side::Upstream, StatusCode::BAD_GATEWAY, label)
    }

    pub fn no_route() -> Failure {
        Failure::downstream(StatusCode::NOT_FOUND, "no_route")
    }

    pub fn method_not_allowed(allow: HeaderValue) -> Failure {
        Failure {
            allow: Some(allow),
            ..Failure::downstream(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        }
    }

    /// The name in SNI and the Host belong to different policies (RFC 9110 §15.5.20).
    pub fn misdirected() -> Failure {
        Failure::downstream(StatusCode::MISDIRECTED_REQUEST, "sni_host_mismatch")
    }

    pub fn origin_refused() -> Failure {
        Failure::downstream(StatusCode::FORBIDDEN, "origin")
    }

    /// No endpoint may be used now.
    pub fn unavailable(label: &'static str) -> Failure {
        Failure::new(Side::Upstream, StatusCode::SERVICE_UNAVAILABLE, label)
    }

    /// There is no memory for it.
    pub fn overloaded() -> Failure {
        Failure::new(Side::Proxy, StatusCode::SERVICE_UNAVAILABLE, "overloaded")
    }

    /// The proxy contradicts itself; never caused by what a peer sends.
    pub fn internal(label: &'static str) -> Failure {
        Failure::new(Side::Proxy, StatusCode::INTERNAL_SERVER_ERROR, label)
    }

    pub fn connect_timeout() -> Failure {
        Failure::new(
            Side::Upstream,
            StatusCode::GATEWAY_TIMEOUT,
            "connect_timeout",
        )
    }

    pub fn response_timeout() -> Failure {
        Failure::new(
            Side::Upstream,
            StatusCode::GATEWAY_TIMEOUT,
            "response_timeout",
        )
    }

    /// A text answer that says what happened only by its status and the request id.
    pub fn response(&self, request_id: &str) -> Response<ResponseBody> {
        let mut response = plain_response(self.status, request_id);
        if let Some(allow) = &self.allow {
            response.headers_mut().insert(ALLOW, allow.clone());
        }
        if self.side == Side::Proxy && self.status == StatusCode::SERVICE_UNAVAILABLE {
            // What the proxy itself has too much of passes.
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

impl From<BodyFault> for Failure {
    fn from(fault: BodyFault) -> Failure {
        let (status, label) = match fault {
            BodyFault::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request_body_too_large"),
            BodyFault::TimedOut => (StatusCode::REQUEST_TIMEOUT, "request_body_timeout"),
            BodyFault::TooSlow => (StatusCode::REQUEST_TIMEOUT, "request_body_too_slow"),
            BodyFault::Broken => (StatusCode::BAD_REQUEST, "request_body_broken"),
        };
        Failure::downstream(status, label)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Failure {
        match rejection.status {
            // No route was asked: what may be used anywhere.
            StatusCode::METHOD_NOT_ALLOWED => {
                Failure::method_not_allowed(HeaderValue::from_static(USUAL_METHODS))
            }
            status => Failure::downstream(status, rejection.reason),
        }
    }
}

impl From<RewriteFault> for Failure {
    /// The client's path does not survive the route's rewriting.
    fn from(_: RewriteFault) -> Failure {
        Failure::downstream(StatusCode::BAD_REQUEST, "rewrite")
    }
}

/// `STATUS REASON`, the request id, nothing else.
pub fn plain_response(status: StatusCode, request_id: &str) -> Response<ResponseBody> {
    let reason = status.canonical_reason().unwrap_or("");
    let text = format!("{} {reason}\nrequest id: {request_id}\n", status.as_u16());
    let mut response = Response::new(ResponseBody::own(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const USUAL_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
