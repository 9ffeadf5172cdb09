//! The WebSocket opening handshake, judged on both sides (RFC 6455 §4, RFC 7692 §7).
//!
//! It owns two verdicts: whether a client's request is a WebSocket handshake, and whether the
//! upstream's 101 answers it. A malformed handshake is refused rather than forwarded as a plain
//! request, because the two ends might disagree about whether a tunnel began. Any other protocol
//! in Upgrade (`h2c` above all) is ignored, as RFC 9110 §7.8 allows: the request is a plain one.
//!
//! What follows a request that asks for `websocket` may be meant for a tunnel. So whatever
//! [`classify`] refuses, and whatever response but 101 a WebSocket request gets, must be sent with
//! `Connection: close`.

mod extension;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    AsHeaderName, CONNECTION, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode, Version, request, response};
use thiserror::Error;

use crate::config::model::{OriginHost, OriginPattern};
use crate::request::Rejection;
pub use extension::Extension;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Plain,
    WebSocket(Offer),
}

/// A valid client handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Sec-WebSocket-Key as sent: base64 of 16 bytes.
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
    #[error("the upstream's status is not 101")]
    Status,
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
    tokens(headers, UPGRADE).any(|token| token.eq_ignore_ascii_case(WEBSOCKET))
}

/// Tells a WebSocket handshake from a plain request.
///
/// Must see the client's own Connection and Upgrade fields. A rejection with status 426 is to be
/// sent with `Sec-WebSocket-Version: 13`, and each rejection with `Connection: close`.
pub fn classify(parts: &request::Parts, body_is_empty: bool) -> Result<Kind, Rejection> {
    let headers = &parts.headers;
    if !asks_for_websocket(headers) {
        return Ok(Kind::Plain);
    }
    if !is_websocket_alone(headers) {
        return Err(Rejection::bad("upgrade_not_alone"));
    }
    if parts.method != Method::GET {
        return Err(Rejection::bad("upgrade_not_get"));
    }
    if parts.version != Version::HTTP_11 {
        return Err(Rejection::bad("upgrade_not_http11"));
    }
    if !body_is_empty {
        return Err(Rejection::bad("upgrade_with_body"));
    }
    if !has_upgrade_option(headers) {
        return Err(Rejection::bad("upgrade_without_connection"));
    }
    if single(headers, SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(Rejection::new(
            StatusCode::UPGRADE_REQUIRED,
            "websocket_version",
        ));
    }
    let key = single(headers, SEC_WEBSOCKET_KEY)
        .filter(|key| {
            BASE64
                .decode(key)
                .is_ok_and(|nonce| nonce.len() == NONCE_LENGTH)
        })
        .ok_or(Rejection::bad("websocket_key"))?;
    Ok(Kind::WebSocket(Offer {
        key: key.to_owned(),
        subprotocols: offered_subprotocols(headers)
            .ok_or(Rejection::bad("websocket_subprotocol"))?,
        extensions: Extension::parse_all(headers).ok_or(Rejection::bad("websocket_extension"))?,
    }))
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
    if !is_websocket_alone(headers) {
        return Err(HandshakeFault::Upgrade);
    }
    if !has_upgrade_option(headers) {
        return Err(HandshakeFault::Connection);
    }
    if single(headers, SEC_WEBSOCKET_ACCEPT) != Some(&accept_key(&offer.key)) {
        return Err(HandshakeFault::Accept);
    }
    let subprotocol = match headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        false => None,
        true => Some(
            single(headers, SEC_WEBSOCKET_PROTOCOL)
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
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(ACCEPT_GUID.as_bytes());
    BASE64.encode(hash.finish())
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
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line: &HeaderValue| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(trim)
        .filter(|token| !token.is_empty())
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Stricter than "the list holds websocket".
fn is_websocket_alone(headers: &HeaderMap) -> bool {
    single(headers, UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(WEBSOCKET))
}

fn has_upgrade_option(headers: &HeaderMap) -> bool {
    tokens(headers, CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// The subprotocols that a request offers, in order; `None` if the list is malformed: empty, or with
/// elements that are no tokens or come twice (RFC 6455 §4.1).
pub fn offered_subprotocols(headers: &HeaderMap) -> Option<Vec<String>> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    if lines.iter().any(|line| line.to_str().is_err()) {
        return None;
    }
    let mut offered: Vec<String> = Vec::new();
    for name in tokens(headers, SEC_WEBSOCKET_PROTOCOL) {
        let repeated = offered.iter().any(|earlier| earlier == name);
        if repeated || !is_token(name) || offered.len() == SUBPROTOCOLS {
            return None;
        }
        offered.push(name.to_owned());
    }
    (lines.iter().next().is_none() || !offered.is_empty()).then_some(offered)
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
    if host.is_empty() || host.contains(['/', '?', '#', '@', '\\', ' ', ',']) {
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

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

const WEBSOCKET: &str = "websocket";
const VERSION: &str = "13";
const NONCE_LENGTH: usize = 16;
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// More than any client offers; keeps the check for repeated ones cheap.
const SUBPROTOCOLS: usize = 64;

#[cfg(test)]
mod tests;
