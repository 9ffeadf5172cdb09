//! The normal forms of a path and a host, and the judgement of an Origin, against the most lenient readers.

use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Request, Uri};

use super::site::{DENIED, From, SITE};
use crate::handshake::origin_allowed;
use crate::request::{admit, normal_path};

/// A path, a Host and an Origin, each a line. Anything may stand in them but line feeds.
pub fn targets(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let [path, host, origin] = [(); 3].map(|()| lines.next().unwrap_or_default());
    if let Ok(path) = std::str::from_utf8(path) {
        check_path(path);
    }
    check_host(host);
    check_origin(origin);
}

fn check_path(path: &str) {
    let Ok(normal) = normal_path(path) else {
        return;
    };
    check_normal(&normal);
    // Whoever decodes, merges and resolves sees the same in both.
    assert_eq!(lenient(&normal), lenient(path), "{path} became {normal}");
    // In a target its query begins there, or its fragment; one that is too long is refused for that.
    if path.len() <= TARGET_LENGTH
        && !path.contains(['?', '#'])
        && let Ok(mut parts) = parts_of(path, b"a.test")
    {
        let decided = SITE.decide(&mut parts, &From::Stranger.facts(), true);
        let denied = is_denied(path);
        assert_eq!(decided.err(), denied.then_some(DENIED), "{path}");
    }
}

/// What must hold of every path that is matched and forwarded.
pub fn check_normal(path: &str) {
    assert_eq!(normal_path(path).as_deref(), Ok(path), "it is not final");
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
    assert!(!path.contains(['\\', '#', '?']), "{path}");
    // As many segments, none of them a dot segment, for whoever decodes them.
    let plain = path.split(';').next().unwrap_or_default();
    let seen = lenient(path);
    assert_eq!(
        seen.matches('/').count(),
        plain.matches('/').count(),
        "{path}: {seen}"
    );
}

/// Whether a careless server might take it for `/admin/`, in any case.
pub fn is_denied(path: &str) -> bool {
    lenient(path).to_ascii_lowercase().starts_with("/admin/")
}

/// As a careless server reads a path: decoded, backslashes made slashes, parameters cut, slashes merged, dots
/// resolved. Bytes that are no text become marks.
fn lenient(path: &str) -> String {
    let decoded = decode(path.as_bytes());
    let mut segments: Vec<String> = Vec::new();
    let mut ends_open = false;
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next();
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        ends_open = matches!(&*name, "" | "." | "..");
        match &*name {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(name),
        }
    }
    let end = if ends_open && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = behind.get(..2).filter(|_| byte == b'%');
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                rest = &behind[2..];
            }
            None => {
                decoded.push(byte);
                rest = behind;
            }
        }
    }
    decoded
}

/// A host is admitted in one form, which is admitted as it is.
fn check_host(host: &[u8]) {
    let limits = &SITE.config.limits;
    let admit = |host: &[u8]| {
        let mut parts = parts_of("/", host).ok()?;
        admit(&mut parts, &From::Stranger.facts(), &[], limits).ok()
    };
    let Some(facts) = admit(host) else {
        return;
    };
    let authority = facts.authority.as_bytes();
    let is_plain =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_:[]".contains(byte);
    assert!(
        !authority.is_empty() && authority.iter().all(is_plain),
        "{facts:?}"
    );
    assert!(facts.authority.starts_with(&*facts.host));
    assert!(!facts.host.ends_with('.'));
    let again = admit(authority).map(|facts| (facts.host, facts.authority));
    assert_eq!(again, Some((facts.host.clone(), facts.authority.clone())));
    let bare = admit(facts.host.as_bytes()).map(|facts| facts.host);
    assert_eq!(bare, Some(facts.host));
}

/// The patterns of the route for sockets, read by another reader.
fn check_origin(origin: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(origin) else {
        return;
    };
    let mut routes = SITE.config.routes.iter();
    let route = routes.find(|route| &*route.name == "sockets");
    let patterns = route.map(|route| &route.origins[..]).unwrap_or_default();
    assert!(!patterns.is_empty());
    let headers = HeaderMap::from_iter([(ORIGIN, value)]);
    if !origin_allowed(&headers, patterns) {
        return;
    }
    let text = String::from_utf8_lossy(origin.trim_ascii()).to_ascii_lowercase();
    if text == "null" {
        return;
    }
    let uri: Uri = text
        .parse()
        .unwrap_or_else(|_| panic!("`{text}` is no URL"));
    assert_eq!(uri.scheme_str(), Some("https"), "{text}");
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(443);
    let is_a = host == "a.test" || host.ends_with(".a.test") && host.len() > ".a.test".len();
    assert!(
        is_a && port == 443 || host == "b.test" && port == 8443,
        "{text}"
    );
}

fn parts_of(path: &str, host: &[u8]) -> Result<Parts, http::Error> {
    let request = Request::get(path).header(HOST, host).body(())?;
    Ok(request.into_parts().0)
}

/// Within the limits of [`SITE`].
const TARGET_LENGTH: usize = 512;
