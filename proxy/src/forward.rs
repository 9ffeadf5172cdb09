//! What changes in a message on its way through: hop-by-hop fields, forwarding fields, edits.
//!
//! The order of a request is [`prepare_request`] (before the filters, so that they see what is
//! true, and so that a client's Connection list cannot strip what they add), filters,
//! [`upstream_request`], the route's edits with [`apply_edits`], [`request_head`] or, for HTTP/2,
//! [`http2_request`]. Where a route has neither filters nor edits, nobody looks at the fields in
//! between, and [`straight_head`] does all of it at once, for HTTP/1.1. Of a response:
//! [`downstream_response`] first, then response filters, then edits; of what is said before it,
//! [`interim_response`] alone.
//!
//! Nothing here reads a body. Content-Length and Transfer-Encoding belong to `http1` and `http2`; no
//! filter and no edit may set a field of [`is_protected`].
//!
//! RFC 9110 §7.6 (Connection, Via is not added), RFC 9113 §8.2.2, RFC 6455 §4.

mod edit;
mod straight;

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, SET_COOKIE, TE, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri, Version, request, response};
use thiserror::Error;

use crate::config::model::HeaderEdits;
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::http1::Framing;
use crate::http1::client::RequestHead;
use crate::request::{X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID, is_no_token};
pub use edit::{
    RewriteFault, TemplateValues, apply_edits, redirect_location, render, rewrite_path,
};
pub use straight::{Circumstances, straight_head};

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
pub fn prepare_request(headers: &mut HeaderMap, facts: &RequestFacts, conn: &ConnectionFacts) {
    let wants_trailers = remove_unwanted(headers, |field| match field {
        Field::Upgrade | Field::HopByHop | Field::OneHopRequest | Field::ClientSubject => true,
        Field::Forwarding => !facts.peer_trusted,
        _ => false,
    });
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.reserve(FORWARDING_FIELDS);
    let mut chain: Vec<u8> = Vec::with_capacity(ADDRESS_LENGTH);
    if facts.peer_trusted {
        for line in headers.get_all(X_FORWARDED_FOR) {
            chain.extend_from_slice(line.as_bytes());
            chain.extend_from_slice(b", ");
        }
    }
    push_address(&mut chain, conn.peer.ip());
    let chain = value_of(chain);
    // Without trusted peers nobody but the client stands in the list.
    let client = match !facts.peer_trusted && facts.client_ip == conn.peer.ip() {
        true => chain.clone(),
        false => {
            let mut client = Vec::with_capacity(ADDRESS_LENGTH);
            push_address(&mut client, facts.client_ip);
            value_of(client)
        }
    };
    set_or_remove(headers, X_FORWARDED_FOR, chain);
    set_or_remove(headers, X_REAL_IP, client);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(facts.scheme));
    if !facts.peer_trusted || !headers.contains_key(X_FORWARDED_HOST) {
        let told = headers.get(HOST);
        // Mostly the client's own, which is shared rather than copied.
        let host = match told.filter(|told| told.as_bytes() == facts.authority.as_bytes()) {
            Some(told) => Some(told.clone()),
            None => HeaderValue::from_str(&facts.authority).ok(),
        };
        set_or_remove(headers, X_FORWARDED_HOST, host);
    }
    set_text(headers, X_REQUEST_ID, &facts.request_id);
    if let Some(subject) = conn
        .tls
        .as_ref()
        .and_then(|tls| tls.client_subject.as_deref())
    {
        set_text(headers, CLIENT_SUBJECT_HEADER, subject);
    }
}

/// Makes the fields of an HTTP/1.1 request to an upstream of prepared ones: Host, and the upgrade
/// fields of a WebSocket handshake.
pub fn upstream_request(
    headers: &mut HeaderMap,
    facts: &RequestFacts,
    websocket: bool,
) -> Result<(), BadUpstreamRequest> {
    if headers.get(HOST).map(HeaderValue::as_bytes) != Some(facts.authority.as_bytes()) {
        let host =
            HeaderValue::from_str(&facts.authority).map_err(|_| BadUpstreamRequest("host"))?;
        headers.insert(HOST, host);
    }
    if websocket {
        headers.remove(TE);
        set_upgrade(headers);
    } else if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    Ok(())
}

/// The head as it goes to the upstream: origin form with the path (after rewriting) and the query.
pub fn request_head(
    parts: &request::Parts,
    path: &str,
    query: Option<&str>,
    framing: Option<Framing>,
) -> Result<RequestHead, BadUpstreamRequest> {
    if !fits_request_line(path) || !query.is_none_or(fits_request_line) {
        return Err(BadUpstreamRequest("target"));
    }
    let target: &[&str] = match &query {
        Some(query) => &[path, "?", query],
        None => &[path],
    };
    Ok(RequestHead::new(
        &parts.method,
        target,
        &parts.headers,
        framing,
    ))
}

/// The same for an HTTP/2 server, of prepared fields: `:authority` is what Host says, and nothing of a
/// connection is left. `scheme` is that of the connection.
///
/// Of the fields with an underscore, which only a gRPC request still has, those stay behind that some
/// servers would take for one of ours.
pub fn http2_request(
    method: &Method,
    mut headers: HeaderMap,
    (path, query): (&str, Option<&str>),
    scheme: &'static str,
    framing: Option<Framing>,
) -> Result<Request<()>, BadUpstreamRequest> {
    let host = headers.remove(HOST).ok_or(BadUpstreamRequest("host"))?;
    let stays = |name: &&HeaderName| match Field::of(name) {
        Field::Upgrade => false,
        Field::HopByHop => **name == TE,
        Field::Length => **name != CONTENT_LENGTH,
        _ => !poses(name),
    };
    let gone: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !stays(name))
        .cloned()
        .collect();
    for name in gone {
        headers.remove(name);
    }
    if let Some(Framing::Length(length)) = framing {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let target = match query {
        Some(query) => Bytes::from([path, "?", query].concat()),
        None => Bytes::copy_from_slice(path.as_bytes()),
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(
            PathAndQuery::from_maybe_shared(target).map_err(|_| BadUpstreamRequest("target"))?,
        )
        .build()
        .map_err(|_| BadUpstreamRequest("host"))?;
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Takes the hop-by-hop fields out of an upstream's response, so that it is right for HTTP/1 and
/// HTTP/2 alike. `upgraded`: a verified 101, which gets its own upgrade fields again.
pub fn downstream_response(parts: &mut response::Parts, upgraded: bool) {
    remove_unwanted(&mut parts.headers, |field| match field {
        // Set anew below.
        Field::Upgrade => !upgraded,
        // A 101 has no body (RFC 9110 §8.6).
        Field::Length => upgraded,
        field => matches!(field, Field::HopByHop | Field::OneHopResponse),
    });
    parts.version = Version::HTTP_11;
    if parts.status == StatusCode::UPGRADE_REQUIRED {
        // It must name what it asks for (RFC 9110 §15.5.22), and there is one thing that we can do.
        parts
            .headers
            .insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if upgraded {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        set_upgrade(&mut parts.headers);
    }
}

/// Takes out of an interim response (1xx) what is of the upstream's connection, what would frame a message or
/// make a handshake, and the upstream's own of what the route removes from responses or sets in them.
pub fn interim_response(headers: &mut HeaderMap, edits: &HeaderEdits) {
    remove_unwanted(headers, |field| {
        matches!(
            field,
            Field::Upgrade
                | Field::HopByHop
                | Field::OneHopResponse
                | Field::Length
                | Field::Handshake
        )
    });
    let set = edits.set.iter().map(|(name, _)| name);
    for name in edits.remove.iter().chain(set) {
        headers.remove(name);
    }
}

/// As [`clean_trailers`], of a request: fields with an underscore go as well, as in heads.
pub fn clean_request_trailers(trailers: &mut HeaderMap) {
    let names: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    for name in names {
        trailers.remove(name);
    }
    clean_trailers(trailers);
}

/// Takes out of trailers, in either direction, what only a head may say (RFC 9110 §6.5.1):
/// framing, routing, forwarding, credentials, content format. Some servers merge trailers into the
/// head, where such a field would pass for one that was checked.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let only_in_heads = |name: &&HeaderName| {
        Field::of(name) != Field::Other
            || poses(name)
            || is_no_token(name)
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
    matches!(
        Field::of(name),
        Field::Upgrade | Field::HopByHop | Field::Length | Field::Handshake
    )
}

/// What a field is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Of one connection, and set anew where the next one is upgraded.
    Upgrade,
    /// Of one connection (RFC 9110 §7.6.1), and what older senders use.
    HopByHop,
    /// Meant for us, who read the body and send 100; or dangerous behind us, as `Proxy`, which
    /// becomes HTTP_PROXY in CGI.
    OneHopRequest,
    OneHopResponse,
    /// Who the client is, as proxies tell each other.
    Forwarding,
    ClientSubject,
    Host,
    /// Frames a message, with Transfer-Encoding.
    Length,
    /// Of the WebSocket handshake.
    Handshake,
    /// End to end, and none of our business.
    Other,
}

impl Field {
    fn of(name: &HeaderName) -> Field {
        match name.as_str() {
            "connection" | "upgrade" => Field::Upgrade,
            "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" => Field::HopByHop,
            "expect" | "proxy-authorization" | "proxy" => Field::OneHopRequest,
            "proxy-authenticate" => Field::OneHopResponse,
            "forwarded" | "x-real-ip" | "x-request-id" => Field::Forwarding,
            "x-client-cert-subject" => Field::ClientSubject,
            "host" => Field::Host,
            "content-length" | "trailer" => Field::Length,
            other if other.starts_with("x-forwarded-") => Field::Forwarding,
            other if other.starts_with("sec-websocket-") => Field::Handshake,
            _ => Field::Other,
        }
    }

    /// Naming it in Connection has no effect: a sender may not take it away from us.
    fn is_kept(self) -> bool {
        !matches!(
            self,
            Field::OneHopRequest | Field::OneHopResponse | Field::Other
        )
    }
}

/// Whether a server that makes `_` of `-` would take it for a field that we set or watch over.
fn poses(name: &HeaderName) -> bool {
    memchr::memchr(b'_', name.as_str().as_bytes()).is_some()
        && HeaderName::try_from(name.as_str().replace('_', "-"))
            .is_ok_and(|name| Field::of(&name) != Field::Other)
}

/// Takes out the fields that `unwanted` names and those that Connection does, except the ones that
/// a sender may not take away from us. Tells whether TE had `trailers`.
fn remove_unwanted(headers: &mut HeaderMap, unwanted: impl Fn(Field) -> bool) -> bool {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    let mut te_trailers = false;
    loop {
        // A few at a time, which needs no memory; most heads have no more.
        let mut found = [const { None }; AT_ONCE];
        let mut slots = found.iter_mut();
        for (name, value) in &*headers {
            if !unwanted(Field::of(name)) {
                continue;
            }
            te_trailers |= *name == TE && asks_trailers(value);
            match slots.next() {
                Some(slot) => *slot = Some(name.clone()),
                None => break,
            }
        }
        let last = found[AT_ONCE - 1].is_none();
        for name in found.into_iter().flatten() {
            headers.remove(name);
        }
        if last {
            return te_trailers;
        }
    }
}

/// The fields, of those that are there, which Connection names and may name.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    let lines = headers.get_all(CONNECTION).iter();
    let unusual = lines.filter(|line| !is_usual_option(line.as_bytes()));
    for option in unusual.flat_map(options) {
        if let Ok(name) = HeaderName::from_bytes(option)
            && !Field::of(&name).is_kept()
            && headers.contains_key(&name)
            && !named.contains(&name)
        {
            named.push(name);
        }
    }
    named
}

fn asks_trailers(te: &HeaderValue) -> bool {
    options(te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn fits_request_line(text: &str) -> bool {
    text.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// What nearly every Connection is: no field's name, or one that goes anyway.
fn is_usual_option(option: &[u8]) -> bool {
    let usual: [&[u8]; 3] = [b"keep-alive", b"upgrade", b"close"];
    usual.iter().any(|usual| option.eq_ignore_ascii_case(usual))
}

/// The elements of a list field's line.
fn options(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
}

fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn set_text(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    set_or_remove(headers, name, HeaderValue::from_str(text).ok());
}

/// Sets a field; what is no value leaves the field out rather than cut in two.
fn set_or_remove(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// A value without a copy, if it is one.
fn value_of(bytes: Vec<u8>) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).ok()
}

/// An address as text; most are IPv4, and the standard formatter is slow for those.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    text.push(b'.');
                }
                if octet >= 100 {
                    text.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    text.push(b'0' + octet / 10 % 10);
                }
                text.push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(address) => text.extend_from_slice(address.to_string().as_bytes()),
    }
}

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Names of unwanted fields that are looked up in one pass.
const AT_ONCE: usize = 4;
/// That every request gets from us.
const FORWARDING_FIELDS: usize = 5;
/// Of an IPv4 address, as text.
const ADDRESS_LENGTH: usize = 15;

#[cfg(test)]
mod tests;
