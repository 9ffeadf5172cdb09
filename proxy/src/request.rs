//! Checks a parsed request for what its parser lets through, and gathers its facts.
//!
//! It owns the rules that need the whole head: the method, the target's form, one valid Host, the
//! path's normal form, field names and values that are safe on an HTTP/1.1 upstream, and who the
//! client is. It refuses; it never guesses which of two readings a client meant. HTTP/1 requests
//! have passed the rules of [`crate::http1`] before, HTTP/2 requests those of
//! [`crate::http2`] (its gate, and the `h2` crate), and the rules here hold for both.
//!
//! RFC 9110 §4.2, §5, §7.2; RFC 9112 §3; RFC 9113 §8.2 and §8.3.

mod authority;
mod path;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use h2::ext::Protocol;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use ipnet::IpNet;

use crate::config::model::Limits;
use crate::facts::{ConnectionFacts, Peer, RequestFacts};
use crate::http1::poses_as_framing;
use crate::random;
use authority::Authority;
pub use path::{PathFault, normal_path};

/// Why a request is answered by the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    pub status: StatusCode,
    /// A short stable word for logs and metrics; the client sees only the status.
    pub reason: &'static str,
}

impl Rejection {
    pub const fn new(status: StatusCode, reason: &'static str) -> Rejection {
        Rejection { status, reason }
    }

    pub(crate) const fn bad(reason: &'static str) -> Rejection {
        Rejection::new(StatusCode::BAD_REQUEST, reason)
    }
}

/// Checks the request and gathers its facts.
///
/// It also puts the head into the form that filters and the upstream will see: fields with an
/// underscore in their name are gone (servers that make `_` of `-` would take one for a field we
/// set) except from [gRPC](is_grpc), whose metadata may have them, and HTTP/2's cookie crumbs are one Cookie field (RFC 9113 §8.2.3).
///
/// After an error the head must not be used, and an HTTP/1 connection must be closed.
pub fn admit(
    parts: &mut Parts,
    conn: &ConnectionFacts,
    trusted: &[IpNet],
    limits: &Limits,
) -> Result<RequestFacts, Rejection> {
    check_method(parts)?;
    if parts.headers.len() > limits.head_fields {
        return Err(Rejection::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "too_many_fields",
        ));
    }
    let http2 = parts.version == Version::HTTP_2;
    check_fields(&parts.headers, http2)?;
    let (host, authority) = authority_of(parts, http2)?.into_texts();
    let (path, query) = target_of(parts, limits.target_size)?;

    let underscored = underscored(&parts.headers);
    if underscored.iter().any(poses_as_framing) {
        return Err(Rejection::bad("framing_with_underscore"));
    }
    if !is_grpc(parts) {
        for name in underscored {
            parts.headers.remove(name);
        }
    }
    if http2 {
        join_cookies(&mut parts.headers)?;
    }

    let peer_trusted = is_trusted(conn.peer.ip(), trusted);
    let headers = &parts.headers;
    let told = if peer_trusted {
        trusted_request_id(headers)
    } else {
        None
    };
    let request_id = match told {
        Some(id) => Arc::from(id),
        None => new_request_id()?,
    };
    let client_ip = match peer_trusted {
        true => client_ip(conn.peer, headers, trusted),
        false => conn.peer.ip(),
    };
    let scheme = scheme(conn, headers, peer_trusted);
    // What is to be had over TLS alone (RFC 9110 §7.4). Over HTTP/2 the scheme is what some proxy calls it.
    if !http2 && parts.uri.scheme_str() == Some("https") && scheme != "https" {
        return Err(Rejection::new(
            StatusCode::MISDIRECTED_REQUEST,
            "scheme_mismatch",
        ));
    }
    Ok(RequestFacts {
        peer_trusted,
        client_ip,
        scheme,
        host,
        authority,
        path,
        query,
        request_id,
    })
}

/// Whether it is a call of gRPC, which may go on to servers of HTTP/2.
pub fn is_grpc(parts: &Parts) -> bool {
    if parts.version != Version::HTTP_2 || parts.method != Method::POST {
        return false;
    }
    let kind = parts.headers.get(CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Whether a server would take all that follows on the same connection for the same user's (RFC 4559 §6).
pub fn logs_in_connection(headers: &HeaderMap) -> bool {
    let logs_in = |value: &HeaderValue| {
        let scheme = value.as_bytes().split(|byte| *byte == b' ').next();
        let scheme = scheme.unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    headers.get_all(AUTHORIZATION).iter().any(logs_in)
}

/// Takes away the fields that have an underscore in their name.
pub fn drop_underscores(headers: &mut HeaderMap) {
    for name in underscored(headers) {
        headers.remove(name);
    }
}

/// Whether a field's name came over HTTP/2 and is no token (RFC 9110 §5.6.2): the `http` crate takes a quote there.
pub fn is_no_token(name: &HeaderName) -> bool {
    memchr::memchr(b'"', name.as_str().as_bytes()).is_some()
}

/// Whether an address is one of `trusted_proxies`.
pub fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// The names that have an underscore; mostly none.
fn underscored(headers: &HeaderMap) -> Vec<HeaderName> {
    let has_one = |name: &&HeaderName| memchr::memchr(b'_', name.as_str().as_bytes()).is_some();
    headers.keys().filter(has_one).cloned().collect()
}

fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

fn check_method(parts: &Parts) -> Result<(), Rejection> {
    let method = &parts.method;
    // An extended CONNECT (RFC 8441 §4) for anything but a WebSocket, which comes here as a GET.
    if parts.extensions.get::<Protocol>().is_some() {
        return Err(Rejection::new(
            StatusCode::NOT_IMPLEMENTED,
            "unknown_protocol",
        ));
    }
    // CONNECT would make an open proxy, TRACE and TRACK would show what was added on the way, and PRI is
    // not a request's (RFC 9113 §11.6).
    if ["CONNECT", "TRACE", "TRACK", "PRI"].contains(&method.as_str()) {
        return Err(Rejection::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
        ));
    }
    // `get` is no GET (RFC 9110 §9.1), but some servers take it for one, which no route and no filter
    // would have judged.
    let name = method.as_str();
    if name.bytes().any(|byte| byte.is_ascii_lowercase())
        && STANDARD_METHODS
            .iter()
            .any(|standard| standard.eq_ignore_ascii_case(name))
    {
        return Err(Rejection::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
        ));
    }
    if name.len() > METHOD_LENGTH {
        return Err(Rejection::bad("method_too_long"));
    }
    Ok(())
}

fn check_fields(headers: &HeaderMap, http2: bool) -> Result<(), Rejection> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = length.as_bytes();
        let fine = match digits {
            [] => false,
            [b'0', _, ..] => false,
            digits => digits.iter().all(u8::is_ascii_digit),
        };
        if !fine || lengths.next().is_some() {
            return Err(Rejection::bad("bad_content_length"));
        }
    }
    let repeats = headers.keys_len() < headers.len();
    if repeats && SINGLE_FIELDS.iter().any(|name| is_repeated(headers, name)) {
        return Err(Rejection::bad("repeated_field"));
    }
    let mut expectations = headers.get_all(EXPECT).iter();
    if expectations.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Rejection::new(
            StatusCode::EXPECTATION_FAILED,
            "unknown_expectation",
        ));
    }
    if !http2 {
        return Ok(());
    }
    let connection_specific = [
        CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ];
    if connection_specific
        .iter()
        .any(|name| headers.contains_key(name))
    {
        return Err(Rejection::bad("connection_field_in_http2"));
    }
    if headers.get_all(TE).iter().any(|value| value != "trailers") {
        return Err(Rejection::bad("te_in_http2"));
    }
    if headers.keys().any(is_no_token) {
        return Err(Rejection::bad("bad_field_name"));
    }
    // HTTP/1 would strip them: two parties would see two values (RFC 9113 §8.2.1).
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if headers
        .values()
        .map(HeaderValue::as_bytes)
        .any(|value| blank(value.first()) || blank(value.last()))
    {
        return Err(Rejection::bad("blank_around_value"));
    }
    Ok(())
}

/// The one authority of a request. Every HTTP/1 request has one valid Host; the authority of an
/// absolute target wins over it (RFC 9112 §3.2.2). In HTTP/2 the two must agree.
fn authority_of(parts: &Parts, http2: bool) -> Result<Authority<'_>, Rejection> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match hosts.next() {
        Some(value) => {
            let text = value.to_str().map_err(|_| Rejection::bad("bad_host"))?;
            Some(Authority::parse(text).map_err(|_| Rejection::bad("bad_host"))?)
        }
        None => None,
    };
    if hosts.next().is_some() {
        return Err(Rejection::bad("several_hosts"));
    }
    let target = match parts.uri.authority() {
        Some(text) => {
            Some(Authority::parse(text.as_str()).map_err(|_| Rejection::bad("bad_authority"))?)
        }
        None => None,
    };
    match (target, host) {
        (Some(target), Some(host)) if http2 && target != host => {
            Err(Rejection::bad("host_differs_from_authority"))
        }
        (Some(target), host) if http2 || host.is_some() => Ok(target),
        (None, Some(host)) => Ok(host),
        _ => Err(Rejection::bad("no_host")),
    }
}

/// The target's path in normal form and its query.
fn target_of(parts: &Parts, limit: usize) -> Result<(Arc<str>, Option<Arc<str>>), Rejection> {
    let uri = &parts.uri;
    // Authority form (`GET example.com`): only CONNECT may have it.
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err(Rejection::bad("bad_target"));
    }
    if uri
        .scheme_str()
        .is_some_and(|scheme| !matches!(scheme, "http" | "https"))
    {
        return Err(Rejection::bad("bad_scheme"));
    }
    let query = uri.query();
    let size = uri.path().len() + query.map_or(0, |query| query.len() + 1);
    if size > limit {
        return Err(Rejection::new(StatusCode::URI_TOO_LONG, "target_too_long"));
    }
    if query.is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Rejection::bad("bad_query"));
    }
    let path = match uri.path() {
        "*" if parts.method == Method::OPTIONS && query.is_none() => "*".into(),
        path => normal_path(path)
            .map_err(|fault| Rejection::bad(fault.label()))?
            .into(),
    };
    Ok((path, query.map(Arc::from)))
}

/// Empty ones are left out: behind the last crumb there is no blank (RFC 9110 §5.5).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let crumbs = headers.get_all(COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return Ok(());
    }
    let crumbs = crumbs.iter().map(HeaderValue::as_bytes);
    let crumbs: Vec<&[u8]> = crumbs.filter(|crumb| !crumb.is_empty()).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        .map_err(|_| Rejection::bad("bad_cookie"))?;
    headers.insert(COOKIE, joined);
    Ok(())
}

/// Walks X-Forwarded-For from the right, as far as the addresses are trusted proxies. An entry
/// that is no address ends the walk: who wrote it is unknown.
fn client_ip(peer: Peer, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.ip();
    let lines: Vec<&HeaderValue> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    for line in lines.into_iter().rev() {
        for entry in line.as_bytes().rsplit(|byte| *byte == b',') {
            if !is_trusted(client, trusted) {
                return client;
            }
            match forwarded_address(entry) {
                Some(ip) => client = ip,
                None => return client,
            }
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:1234`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:1234`.
fn forwarded_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let unbracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip = unbracketed
        .unwrap_or(text)
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|addr| addr.ip()))
        .ok()?;
    Some(ip.to_canonical())
}

fn scheme(conn: &ConnectionFacts, headers: &HeaderMap, peer_trusted: bool) -> &'static str {
    let ours = if conn.tls.is_some() { "https" } else { "http" };
    if !peer_trusted {
        return ours;
    }
    let told = headers
        .get_all(X_FORWARDED_PROTO)
        .iter()
        .next_back()
        .and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next())
        .map(<[u8]>::trim_ascii);
    match told {
        Some(word) if word.eq_ignore_ascii_case(b"https") || word.eq_ignore_ascii_case(b"wss") => {
            "https"
        }
        Some(word) if word.eq_ignore_ascii_case(b"http") || word.eq_ignore_ascii_case(b"ws") => {
            "http"
        }
        _ => ours,
    }
}

/// A proxy's request id, if it is one word that is safe in logs and headers.
fn trusted_request_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    let id = values.next()?.to_str().ok()?;
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(&byte);
    (values.next().is_none() && (1..=REQUEST_ID_LENGTH).contains(&id.len()) && id.bytes().all(fine))
        .then_some(id)
}

/// 32 lower-case hex digits that nobody can guess.
pub fn new_request_id() -> Result<Arc<str>, Rejection> {
    let random: [u8; 16] = random::bytes()
        .map_err(|_| Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "no_random_bytes"))?;
    let id = random.map(|byte| HEX[usize::from(byte)]);
    // Hex digits are ASCII.
    Ok(std::str::from_utf8(id.as_flattened())
        .unwrap_or_default()
        .into())
}

/// Each byte as two digits.
static HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const STANDARD_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
];
/// What two parties would read two ways if it came twice: who asks, and what the body is. Others of one line are
/// harmless, or checked where they are used.
static SINGLE_FIELDS: [HeaderName; 2] = [AUTHORIZATION, CONTENT_TYPE];
/// As in [`crate::http1`].
const METHOD_LENGTH: usize = 32;
const REQUEST_ID_LENGTH: usize = 128;

#[cfg(test)]
mod tests;
