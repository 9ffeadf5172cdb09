//! The WebSocket opening handshake, judged on both sides (RFC 6455 §4, RFC 7692 §7, RFC 8441 §5).
//!
//! It owns two verdicts: whether a client's request is a WebSocket handshake, and whether the
//! upstream's answer accepts it. Over HTTP/2 a handshake is an extended CONNECT, whose client proves nothing
//! with a key; inside the proxy it is a GET like any other, marked as [`Extended`], with a key of our own
//! for an upstream that wants one. A malformed handshake is refused rather than forwarded as a plain
//! request, because the two ends might disagree about whether a tunnel began. Any other protocol
//! in Upgrade (`h2c` above all) is ignored, as RFC 9110 §7.8 allows: the request is a plain one.
//!
//! What follows a request that asks for `websocket` may be meant for a tunnel. So whatever
//! [`classify`] refuses, and whatever response but 101 a WebSocket request gets, must be sent with
//! `Connection: close`.

pub mod compression;
mod extension;

use std::net::Ipv6Addr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    AsHeaderName, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode, Version, request, response};
use thiserror::Error;

use crate::config::model::{OriginHost, OriginPattern};
use crate::random;
use crate::request::Rejection;
pub use extension::Extension;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Plain,
    WebSocket(Offer),
}

/// The extension of a request's head that says: this GET came as an extended CONNECT for `websocket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended;

/// A valid client handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Sec-WebSocket-Key, base64 of 16 bytes: the client's, or ours where it came over HTTP/2.
    pub key: String,
    /// In the client's order of preference, each once.
    pub subprotocols: Vec<String>,
    /// In the client's order of preference; a name may come with several sets of parameters.
    pub extensions: Vec<Extension>,
}

/// What both ends settled on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    pub subprotocol: Option<String>,
    pub extensions: Vec<Extension>,
}

/// Why an upstream's answer is no valid handshake. The client gets 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeFault {
    #[error("the upstream's status does not accept the handshake")]
    Status,
    #[error("the upstream speaks HTTP/1.0, which knows no upgrade")]
    Version,
    #[error("the upstream's Upgrade is not `websocket`")]
    Upgrade,
    #[error("the upstream's Connection has no `upgrade`")]
    Connection,
    #[error("the upstream's Sec-WebSocket-Accept does not match the key")]
    Accept,
    #[error("the upstream chose a subprotocol that was not offered")]
    Subprotocol,
    #[error("the upstream chose an extension that was not offered")]
    Extension,
}

impl HandshakeFault {
    /// A short stable word for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            HandshakeFault::Status => "upstream_status",
            HandshakeFault::Version => "upstream_version",
            HandshakeFault::Upgrade => "upstream_upgrade",
            HandshakeFault::Connection => "upstream_connection",
            HandshakeFault::Accept => "upstream_accept",
            HandshakeFault::Subprotocol => "upstream_subprotocol",
            HandshakeFault::Extension => "upstream_extension",
        }
    }
}

/// Whether Upgrade names `websocket`, rightly or wrongly: the answer, unless it is 101, closes an
/// HTTP/1 connection.
pub fn asks_for_websocket(headers: &HeaderMap) -> bool {
    tokens(headers, UPGRADE).any(|token| {
        // A version may stand behind a protocol's name, if not behind this one's.
        let name = token.split('/').next();
        name.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET))
    })
}

/// Tells a WebSocket handshake from a plain request.
///
/// Must see the client's own Connection and Upgrade fields. A rejection with status 426 is to be
/// sent with `Sec-WebSocket-Version: 13`, and each rejection with `Connection: close`.
///
/// Of an [`Extended`] one `body_is_empty` says that its stream has ended, which leaves no room for a tunnel.
pub fn classify(parts: &request::Parts, body_is_empty: bool) -> Result<Kind, Rejection> {
    let headers = &parts.headers;
    if !asks_for_websocket(headers) {
        return Ok(Kind::Plain);
    }
    let fields = Fields::of(headers);
    if !fields.is_websocket_alone() {
        return Err(Rejection::bad("upgrade_not_alone"));
    }
    if parts.method != Method::GET {
        return Err(Rejection::bad("upgrade_not_get"));
    }
    if is_extended(parts) {
        if body_is_empty || headers.contains_key(CONTENT_LENGTH) {
            return Err(Rejection::bad("websocket_with_body"));
        }
    } else if parts.version != Version::HTTP_11 {
        return Err(Rejection::bad("upgrade_not_http11"));
    } else if !body_is_empty {
        return Err(Rejection::bad("upgrade_with_body"));
    }
    if !fields.has_upgrade_option {
        return Err(Rejection::bad("upgrade_without_connection"));
    }
    if fields.version.text() != Some(VERSION) {
        return Err(Rejection::new(
            StatusCode::UPGRADE_REQUIRED,
            "websocket_version",
        ));
    }
    let key = fields
        .key
        .text()
        .filter(|key| is_nonce(key))
        .ok_or(Rejection::bad("websocket_key"))?;
    Ok(Kind::WebSocket(Offer {
        key: key.to_owned(),
        subprotocols: offered_subprotocols(headers)
            .ok_or(Rejection::bad("websocket_subprotocol"))?,
        extensions: Extension::parse_all(headers).ok_or(Rejection::bad("websocket_extension"))?,
    }))
}

/// Makes the head of an [`Extended`] request say what an HTTP/1.1 client would have said, with a key of
/// ours (RFC 8441 §5 keeps all fields but key and accept). Others stay as they are.
///
/// For routes, which may match any field, and for an upstream of HTTP/1.1.
pub fn as_upgrade(parts: &mut request::Parts) -> Result<(), Rejection> {
    if !is_extended(parts) {
        return Ok(());
    }
    let nonce: [u8; 16] = random::bytes()
        .map_err(|_| Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "no_random_bytes"))?;
    let key =
        HeaderValue::try_from(BASE64.encode(nonce)).map_err(|_| Rejection::bad("websocket_key"))?;
    let headers = &mut parts.headers;
    headers.insert(SEC_WEBSOCKET_KEY, key);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    Ok(())
}

/// Whether it came as an extended CONNECT for `websocket`.
pub fn is_extended(parts: &request::Parts) -> bool {
    parts.extensions.get::<Extended>().is_some()
}

/// Whether a request's Origin may open a WebSocket here. No patterns: any may, and none need be.
///
/// With patterns a request without exactly one Origin is refused; only browsers send it, and they
/// are whom the patterns are about.
pub fn origin_allowed(headers: &HeaderMap, patterns: &[OriginPattern]) -> bool {
    if patterns.is_empty() {
        return true;
    }
    let Some(origin) = single(headers, ORIGIN).map(str::to_ascii_lowercase) else {
        return false;
    };
    if origin == "null" {
        return patterns
            .iter()
            .any(|pattern| pattern.host == OriginHost::Null);
    }
    let Some((scheme, host, port)) = split_origin(&origin) else {
        return false;
    };
    patterns.iter().any(|pattern| {
        let host_matches = match &pattern.host {
            OriginHost::Null => false,
            OriginHost::Exact(exact) => host == exact,
            OriginHost::Wildcard(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|label| !label.is_empty()),
        };
        let default = default_port(scheme);
        host_matches && pattern.scheme == scheme && pattern.port.or(default) == port.or(default)
    })
}

/// Checks an upstream's 101 against what the client offered.
pub fn verify_upstream(offer: &Offer, parts: &response::Parts) -> Result<Agreed, HandshakeFault> {
    let headers = &parts.headers;
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeFault::Status);
    }
    if parts.version != Version::HTTP_11 {
        return Err(HandshakeFault::Version);
    }
    let fields = Fields::of(headers);
    if !fields.is_websocket_alone() {
        return Err(HandshakeFault::Upgrade);
    }
    if !fields.has_upgrade_option {
        return Err(HandshakeFault::Connection);
    }
    let accept = fields.accept.text().map(str::as_bytes);
    if accept != Some(&accept_bytes(&offer.key)) {
        return Err(HandshakeFault::Accept);
    }
    agreed(offer, &fields, headers)
}

/// As [`verify_upstream`], for the answer to an extended CONNECT: any 2xx accepts it (RFC 9110 §9.3.6), and
/// there is neither an upgrade nor a proof.
pub fn verify_http2(offer: &Offer, parts: &response::Parts) -> Result<Agreed, HandshakeFault> {
    if !parts.status.is_success() {
        return Err(HandshakeFault::Status);
    }
    agreed(offer, &Fields::of(&parts.headers), &parts.headers)
}

/// Whether the upstream chose from what was offered.
fn agreed(
    offer: &Offer,
    fields: &Fields<'_>,
    headers: &HeaderMap,
) -> Result<Agreed, HandshakeFault> {
    let subprotocol = match fields.protocol {
        Lines::None => None,
        protocol => Some(
            protocol
                .text()
                .filter(|chosen| offer.subprotocols.iter().any(|offered| offered == chosen))
                .ok_or(HandshakeFault::Subprotocol)?
                .to_owned(),
        ),
    };
    let extensions = Extension::parse_all(headers).ok_or(HandshakeFault::Extension)?;
    for (index, chosen) in extensions.iter().enumerate() {
        let offered = offer
            .extensions
            .iter()
            .any(|offered| chosen.answers(offered));
        let repeated = extensions[..index]
            .iter()
            .any(|earlier| earlier.name == chosen.name);
        if !offered || repeated {
            return Err(HandshakeFault::Extension);
        }
    }
    Ok(Agreed {
        subprotocol,
        extensions,
    })
}

/// The Sec-WebSocket-Accept that belongs to a key (RFC 6455 §4.2.2).
pub fn accept_key(key: &str) -> String {
    String::from_utf8_lossy(&accept_bytes(key)).into_owned()
}

fn accept_bytes(key: &str) -> [u8; ACCEPT_LENGTH] {
    let text = [key, ACCEPT_GUID].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let mut accept = [0; ACCEPT_LENGTH];
    // It fits: 20 bytes are 28 characters.
    let _ = BASE64.encode_slice(hash, &mut accept);
    accept
}

/// The fields of a handshake, found in one pass: a look-up in the map hashes the name each time.
#[derive(Default)]
struct Fields<'a> {
    upgrade: Lines<'a>,
    /// Connection names `upgrade`.
    has_upgrade_option: bool,
    version: Lines<'a>,
    key: Lines<'a>,
    accept: Lines<'a>,
    protocol: Lines<'a>,
}

/// The lines of a field that may come once.
#[derive(Clone, Copy, Default)]
enum Lines<'a> {
    #[default]
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> Fields<'a> {
    fn of(headers: &'a HeaderMap) -> Fields<'a> {
        let mut fields = Fields::default();
        for (name, value) in headers {
            let lines = if *name == UPGRADE {
                &mut fields.upgrade
            } else if *name == SEC_WEBSOCKET_VERSION {
                &mut fields.version
            } else if *name == SEC_WEBSOCKET_KEY {
                &mut fields.key
            } else if *name == SEC_WEBSOCKET_ACCEPT {
                &mut fields.accept
            } else if *name == SEC_WEBSOCKET_PROTOCOL {
                &mut fields.protocol
            } else {
                fields.has_upgrade_option |= *name == CONNECTION
                    && elements(value).any(|option| option.eq_ignore_ascii_case("upgrade"));
                continue;
            };
            *lines = match lines {
                Lines::None => Lines::One(value),
                _ => Lines::Several,
            };
        }
        fields
    }

    /// Stricter than "the list holds websocket".
    fn is_websocket_alone(&self) -> bool {
        self.upgrade
            .text()
            .is_some_and(|value| value.eq_ignore_ascii_case(WEBSOCKET))
    }
}

impl<'a> Lines<'a> {
    /// The one line, if it is visible ASCII.
    fn text(self) -> Option<&'a str> {
        match self {
            Lines::One(value) => value.to_str().ok().map(trim),
            Lines::None | Lines::Several => None,
        }
    }
}

/// Whether this is base64 of 16 bytes in its one right spelling: 21 characters, one whose low four
/// bits are clear, and the padding (RFC 4648 §3.5).
fn is_nonce(key: &str) -> bool {
    let Some((digits, b"==")) = key.as_bytes().split_last_chunk() else {
        return false;
    };
    let Some((last, digits)) = digits.split_last() else {
        return false;
    };
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.len() == NONCE_DIGITS
        && digits.iter().all(is_digit)
        && matches!(last, b'A' | b'Q' | b'g' | b'w')
}

/// The value of a field that must come exactly once, in visible ASCII.
fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok().map(trim)
}

/// All elements of a list field, over all its lines; empty ones and non-ASCII lines left out.
fn tokens(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().flat_map(elements)
}

/// The elements of one line.
fn elements(line: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = line.to_str().unwrap_or_default();
    text.split(',').map(trim).filter(|token| !token.is_empty())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The subprotocols that a request offers, in order; `None` if the list is malformed: empty, or with
/// elements that are no tokens or come twice (RFC 6455 §4.1).
pub fn offered_subprotocols(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().peekable();
    if lines.peek().is_none() {
        return Some(Vec::new());
    }
    let mut offered: Vec<String> = Vec::new();
    for line in lines {
        line.to_str().ok()?;
        for name in elements(line) {
            let repeated = offered.iter().any(|earlier| earlier == name);
            if repeated || !is_token(name) || offered.len() == SUBPROTOCOLS {
                return None;
            }
            offered.push(name.to_owned());
        }
    }
    (!offered.is_empty()).then_some(offered)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fine)
}

/// Scheme, host and port of a lower-case `scheme://host[:port]`, without anything after.
fn split_origin(origin: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, rest) = origin.split_once("://")?;
    let host_end = match rest.find(']') {
        Some(end) => end + 1,
        None => rest.find(':').unwrap_or(rest.len()),
    };
    let (host, port) = rest.split_at(host_end);
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let is_fine = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_of_a_name),
    };
    if !is_fine {
        return None;
    }
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        None if port.is_empty() => None,
        _ => return None,
    };
    Some((scheme, host, port))
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

const WEBSOCKET: &str = "websocket";
const VERSION: &str = "13";
/// Whole characters of a nonce, before the last one.
const NONCE_DIGITS: usize = 21;
const ACCEPT_LENGTH: usize = 28;
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// More than any client offers; keeps the check for repeated ones cheap.
const SUBPROTOCOLS: usize = 64;

#[cfg(test)]
mod tests;
