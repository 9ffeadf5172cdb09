//! What the admin listener answers; see [`crate::admin`] for who may ask.
//!
//! `GET /metrics`, `/healthz`, `/readyz`; `POST /reload`. Bodies of requests are never read.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::{ADMIN_HEADER, AdminActions, AdminState, Readiness, ReloadOutcome};
use crate::telemetry::metrics;

/// How a request can have come to this listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Only who may open the socket's file.
    Unix,
    /// Local processes, browsers among them.
    Loopback,
    /// Whoever reaches the address, under whatever name it has there.
    Network,
}

pub(super) async fn answer<A: AdminActions, B>(
    request: &Request<B>,
    state: &AdminState<A>,
    trust: Trust,
) -> Response<Full<Bytes>> {
    let page = match request.uri().path() {
        "/metrics" | "/healthz" | "/readyz" => &[Method::GET, Method::HEAD][..],
        "/reload" => &[Method::POST][..],
        _ => return text(StatusCode::NOT_FOUND, "not found\n"),
    };
    if !page.contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        let allow = if page.len() == 1 { "POST" } else { "GET, HEAD" };
        (response.headers_mut()).insert(ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    if let Err(reason) = check_sender(request, trust) {
        return text(StatusCode::FORBIDDEN, reason);
    }
    match request.uri().path() {
        "/metrics" => {
            let body = state.metrics.encode();
            response(StatusCode::OK, metrics::CONTENT_TYPE, body)
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match state.actions.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ready\n"),
            Readiness::Starting => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        },
        _ => reload(&state.actions).await,
    }
}

async fn reload<A: AdminActions>(actions: &Arc<A>) -> Response<Full<Bytes>> {
    let actions = Arc::clone(actions);
    let Ok(outcome) = tokio::spawn(async move { actions.reload().await }).await else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reload was cut off\n",
        );
    };
    let status = match outcome {
        ReloadOutcome::Applied { .. } => StatusCode::OK,
        ReloadOutcome::Rejected { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    };
    match serde_json::to_string(&outcome) {
        Ok(json) => response(status, "application/json", json + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "no report\n"),
    }
}

/// Keeps browsers out, as the module header of [`crate::admin`] explains.
fn check_sender<B>(request: &Request<B>, trust: Trust) -> Result<(), &'static str> {
    let acts = request.method() == Method::POST;
    let headers = request.headers();
    if acts && headers.contains_key(ORIGIN) {
        return Err("requests from web pages are refused\n");
    }
    if acts && !headers.contains_key(ADMIN_HEADER) {
        return Err("header X-Sluicegate-Admin is missing\n");
    }
    let host_matters = match trust {
        Trust::Unix => false,
        Trust::Loopback => true,
        Trust::Network => acts,
    };
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if host_matters && (hosts.next().is_some() || !host.is_some_and(is_local_name)) {
        return Err("host is neither an address nor localhost\n");
    }
    Ok(())
}

/// Whether DNS has no say in the name: an IP address or `localhost`, with or without a port.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address = (name.strip_prefix('[')).and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || address.unwrap_or(name).parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names() {
        for name in [
            "localhost",
            "LOCALHOST:9900",
            "127.0.0.1",
            "127.0.0.1:9900",
            "[::1]",
            "[::1]:9900",
            "10.0.0.1:1",
        ] {
            assert!(is_local_name(name), "{name}");
        }
        for name in [
            "",
            ":9900",
            "evil.example",
            "evil.example:9900",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::1].evil.example",
        ] {
            assert!(!is_local_name(name), "{name}");
        }
    }
}
