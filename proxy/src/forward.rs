//! What changes in a message on its way through: hop-by-hop fields, forwarding fields, edits.
//!
//! The order of a request is [`prepare_request`] (before the filters, so that they see what is
//! true, and so that a client's Connection list cannot strip what they add), filters,
//! [`upstream_request`], the route's edits with [`apply_edits`]. Of a response:
//! [`downstream_response`] first, then response filters, then edits.
//!
//! Nothing here reads a body. Content-Length and Transfer-Encoding belong to the HTTP library; no
//! filter and no edit may set a field of [`is_protected`].
//!
//! RFC 9110 §7.6 (Connection, Via is not added), RFC 9113 §8.2.2, RFC 6455 §4.

mod edit;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{StatusCode, Uri, Version, request, response};
use thiserror::Error;

use crate::facts::{ConnectionFacts, RequestFacts};
use crate::request::{
    KEEP_ALIVE, PROXY_CONNECTION, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID,
};
pub use edit::{
    RewriteFault, TemplateValues, apply_edits, redirect_location, render, rewrite_path,
};

/// Carries the subject of the client certificate that was verified; a client's own copy never
/// gets through.
pub const CLIENT_SUBJECT_HEADER: HeaderName = HeaderName::from_static("x-client-cert-subject");

/// A value that no HTTP/1.1 request line or field can hold. Facts of an admitted request never
/// cause it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the upstream request has no valid {0}")]
pub struct BadUpstreamRequest(&'static str);

/// Takes the hop-by-hop fields out of a request and sets the forwarding fields.
///
/// A client's own forwarding fields survive only if the peer is trusted; ours come last. Of TE
/// only `trailers` is kept.
pub fn prepare_request(
    headers: &mut HeaderMap,
    facts: &RequestFacts,
    conn: &ConnectionFacts,
    peer_trusted: bool,
) {
    let wants_trailers = headers.get_all(TE).iter().any(|value| {
        let mut codings = value.as_bytes().split(|byte| *byte == b',');
        codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    strip_hop_by_hop(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // The body is read, and 100 sent, by our own server. `Proxy` becomes HTTP_PROXY in CGI.
    for name in [EXPECT, PROXY_AUTHORIZATION, PROXY, CLIENT_SUBJECT_HEADER] {
        headers.remove(name);
    }
    if !peer_trusted {
        drop_forwarding(headers);
    }

    let mut chain: Vec<u8> = Vec::new();
    for line in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(conn.peer.ip().to_string().as_bytes());
    set_text(headers, X_FORWARDED_FOR, &chain);
    set_text(headers, X_REAL_IP, facts.client_ip.to_string());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(facts.scheme));
    if !headers.contains_key(X_FORWARDED_HOST) {
        set_text(headers, X_FORWARDED_HOST, &*facts.authority);
    }
    set_text(headers, X_REQUEST_ID, &*facts.request_id);
    if let Some(subject) = conn
        .tls
        .as_ref()
        .and_then(|tls| tls.client_subject.as_deref())
    {
        set_text(headers, CLIENT_SUBJECT_HEADER, subject);
    }
}

/// Makes an HTTP/1.1 request to an upstream of a prepared one: origin form with the path (after
/// rewriting) and the query, Host, and the upgrade fields of a WebSocket handshake.
pub fn upstream_request(
    parts: &mut request::Parts,
    facts: &RequestFacts,
    path: &str,
    websocket: bool,
) -> Result<(), BadUpstreamRequest> {
    let target = match &facts.query {
        Some(query) => [path, "?", query].concat(),
        None => path.to_owned(),
    };
    parts.uri = target
        .parse::<PathAndQuery>()
        .map(Uri::from)
        .map_err(|_| BadUpstreamRequest("path"))?;
    parts.version = Version::HTTP_11;
    let host = HeaderValue::from_str(&facts.authority).map_err(|_| BadUpstreamRequest("host"))?;
    parts.headers.insert(HOST, host);
    if websocket {
        parts.headers.remove(TE);
        set_upgrade(&mut parts.headers);
    } else if parts.headers.contains_key(TE) {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(())
}

/// Takes the hop-by-hop fields out of an upstream's response, so that it is right for HTTP/1 and
/// HTTP/2 alike. `upgraded`: a verified 101, which gets its own upgrade fields again.
pub fn downstream_response(parts: &mut response::Parts, upgraded: bool) {
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(PROXY_AUTHENTICATE);
    parts.version = Version::HTTP_11;
    if upgraded {
        // A 101 has no body (RFC 9110 §8.6).
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(TRAILER);
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        set_upgrade(&mut parts.headers);
    }
}

/// Whether an upstream's head says in one way, or not at all, where its body ends: one decimal
/// Content-Length, or `chunked` alone. Whoever read another end than we did could be made to take
/// a body for the next response (RFC 9112 §6.3).
pub fn has_clear_framing(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => {
            lengths.next().is_none() && length.as_bytes().iter().all(u8::is_ascii_digit)
        }
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// Takes out of trailers, in either direction, what only a head may say (RFC 9110 §6.5.1):
/// framing, routing, forwarding, credentials, content format. Some servers merge trailers into the
/// head, where such a field would pass for one that was checked.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let only_in_heads = |name: &&HeaderName| {
        is_kept(name)
            || name.as_str().contains('_')
            || name.as_str().starts_with("content-")
            || [AUTHORIZATION, COOKIE, SET_COOKIE, EXPECT].contains(name)
    };
    let names: Vec<HeaderName> = trailers.keys().filter(only_in_heads).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Fields that frame a message or make the handshake: neither filters nor edits may touch them.
pub fn is_protected(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || *name == CONTENT_LENGTH
        || *name == TRAILER
        || name.as_str().starts_with("sec-websocket-")
}

/// Removes the fields of one connection: the ones every hop knows, and those that Connection names,
/// except the ones that a sender may not take away from us.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok())
        .filter(|name| !is_kept(name))
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// End-to-end by nature: naming it in Connection has no effect.
fn is_kept(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_LENGTH || is_forwarding(name) || is_protected(name)
}

fn drop_forwarding(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_forwarding(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn is_forwarding(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-")
        || [FORWARDED, X_REAL_IP, X_REQUEST_ID, CLIENT_SUBJECT_HEADER].contains(name)
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Sets a field; a text that no field can hold leaves it out rather than cut in two.
fn set_text(headers: &mut HeaderMap, name: HeaderName, text: impl AsRef<[u8]>) {
    match HeaderValue::from_bytes(text.as_ref()) {
        Ok(value) => headers.insert(name, value),
        Err(_) => headers.remove(name),
    };
}

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROXY: HeaderName = HeaderName::from_static("proxy");
/// RFC 9110 §7.6.1, and what older senders use.
static HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

#[cfg(test)]
mod tests;
