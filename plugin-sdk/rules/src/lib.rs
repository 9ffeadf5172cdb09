//! What a plugin may do to a head, what its own response may look like, and what it may answer to messages.
//!
//! The host enforces these rules on every call of a guest; the SDK enforces the very same ones on
//! the in-memory requests of an author's unit tests, so that a test that passes natively does not
//! fail behind the proxy. Names and values are judged by the `http` crate (RFC 9110, sections 5.1
//! and 5.5). Fields that carry framing, the connection, the WebSocket handshake (RFC 6455) or the
//! proxy's own word about the client are protected: a plugin reads them and never writes them.
//!
//! Every edit is whole or not at all.

#![forbid(unsafe_code)]

pub mod messages;
mod session;

use http::header::{HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::{Response, StatusCode};

pub use session::{MAX_LABEL_VALUE, MAX_LABELS, Session};

/// Fields in a head after an edit.
pub const MAX_FIELDS: usize = 128;
/// One value, and one query, in bytes.
pub const MAX_VALUE: usize = 8 * 1024;
/// Names and values of a head after an edit, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// The body of a plugin's own response, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// What a plugin may keep from one hook of a handshake to the next, in bytes.
pub const MAX_KEPT: usize = 4 * 1024;

/// Why an edit was refused; the head is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EditError {
    #[error("not a field name")]
    InvalidName,
    #[error("not a valid value")]
    InvalidValue,
    #[error("written by the proxy itself")]
    Protected,
    #[error("more than {MAX_FIELDS} fields")]
    TooMany,
    #[error("larger than {MAX_VALUE} bytes a value or {MAX_HEAD} bytes a head")]
    TooLarge,
    #[error("not among the subprotocols that the client offers")]
    NotOffered,
    #[error("not allowed to this plugin")]
    NotAllowed,
}

/// Why a plugin's own response cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("status `{0}` is not between 200 and 599")]
    Status(u16),
    #[error("header `{name}`: {error}")]
    Header { name: String, error: EditError },
    #[error("a body of {0} bytes; at most {MAX_BODY} are allowed")]
    Body(usize),
}

/// Replaces every value of a field.
///
/// # Errors
/// See [`EditError`]; anything but `NotOffered`.
pub fn set(fields: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), EditError> {
    set_named(fields, writable_name(name)?, value)
}

/// As [`set`], for a name that [`writable_name`] has judged.
///
/// # Errors
/// `InvalidValue`, `TooMany` and `TooLarge`.
pub fn set_named(fields: &mut HeaderMap, name: HeaderName, value: &[u8]) -> Result<(), EditError> {
    let value = writable_value(value)?;
    let replaced = fields.get_all(&name).iter();
    let (count, bytes) = replaced.fold((0, 0), |(n, b), old| {
        (n + 1, b + name.as_str().len() + old.len())
    });
    fits(fields, fields.len() - count + 1, bytes, &name, &value)?;
    fields.insert(name, value);
    Ok(())
}

/// Adds a value to a field.
///
/// # Errors
/// As [`set`].
pub fn add(fields: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), EditError> {
    add_named(fields, writable_name(name)?, value)
}

/// As [`add`], for a name that [`writable_name`] has judged.
///
/// # Errors
/// As [`set_named`].
pub fn add_named(fields: &mut HeaderMap, name: HeaderName, value: &[u8]) -> Result<(), EditError> {
    let value = writable_value(value)?;
    fits(fields, fields.len() + 1, 0, &name, &value)?;
    fields.append(name, value);
    Ok(())
}

/// Removes every value of a field; removing what is not there is fine.
///
/// # Errors
/// `InvalidName` and `Protected`.
pub fn remove(fields: &mut HeaderMap, name: &str) -> Result<(), EditError> {
    fields.remove(writable_name(name)?);
    Ok(())
}

/// The name of a field that a plugin may write.
///
/// # Errors
/// `InvalidName` and `Protected`.
pub fn writable_name(name: &str) -> Result<HeaderName, EditError> {
    // Longer names than this are an attempt to make the `http` crate work, not a field.
    if name.len() > MAX_NAME {
        return Err(EditError::InvalidName);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| EditError::InvalidName)?;
    if is_protected(name.as_str()) {
        Err(EditError::Protected)
    } else {
        Ok(name)
    }
}

/// Judges a query that is to go upstream, without its `?`.
///
/// # Errors
/// `InvalidValue` unless every byte is visible ASCII other than `#`; `TooLarge`.
pub fn check_query(query: &str) -> Result<(), EditError> {
    if query.len() > MAX_VALUE {
        return Err(EditError::TooLarge);
    }
    if query.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        Ok(())
    } else {
        Err(EditError::InvalidValue)
    }
}

/// The subprotocols a head offers, in order; whatever is no token is left out.
pub fn subprotocols(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    fields
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|item| item.trim_matches([' ', '\t']))
        .filter(|item| is_token(item))
}

/// Offers only `chosen`, each of which the head already offers; none at all removes the field.
///
/// # Errors
/// `InvalidValue` for what is no token or comes twice, `NotOffered`.
pub fn set_subprotocols<S: AsRef<str>>(
    fields: &mut HeaderMap,
    chosen: &[S],
) -> Result<(), EditError> {
    for (i, one) in chosen.iter().map(AsRef::as_ref).enumerate() {
        if !is_token(one) || chosen[..i].iter().any(|earlier| earlier.as_ref() == one) {
            return Err(EditError::InvalidValue);
        }
        if !subprotocols(fields).any(|offered| offered == one) {
            return Err(EditError::NotOffered);
        }
    }
    if chosen.is_empty() {
        fields.remove(SEC_WEBSOCKET_PROTOCOL);
        return Ok(());
    }
    let list = chosen
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    let value = HeaderValue::try_from(list).map_err(|_| EditError::InvalidValue)?;
    fields.insert(SEC_WEBSOCKET_PROTOCOL, value);
    Ok(())
}

/// Answers an upgrade with one of the subprotocols that the client offered, or with none.
///
/// # Errors
/// `NotOffered`.
pub fn set_subprotocol<S: AsRef<str>>(
    fields: &mut HeaderMap,
    offered: &[S],
    chosen: Option<&str>,
) -> Result<(), EditError> {
    let Some(chosen) = chosen else {
        fields.remove(SEC_WEBSOCKET_PROTOCOL);
        return Ok(());
    };
    if !offered.iter().any(|one| one.as_ref() == chosen) {
        return Err(EditError::NotOffered);
    }
    let value = HeaderValue::from_str(chosen).map_err(|_| EditError::InvalidValue)?;
    fields.insert(SEC_WEBSOCKET_PROTOCOL, value);
    Ok(())
}

/// Makes a plugin's own response, if it may be sent.
///
/// # Errors
/// See [`ReplyError`].
pub fn reply<N: AsRef<str>, V: AsRef<[u8]>, B: AsRef<[u8]>>(
    status: u16,
    headers: &[(N, V)],
    body: B,
) -> Result<Response<B>, ReplyError> {
    let code = StatusCode::from_u16(status)
        .ok()
        .filter(|code| (200..600).contains(&code.as_u16()))
        .ok_or(ReplyError::Status(status))?;
    let size = body.as_ref().len();
    if size > MAX_BODY {
        return Err(ReplyError::Body(size));
    }
    let mut response = Response::new(body);
    *response.status_mut() = code;
    for (name, value) in headers {
        add(response.headers_mut(), name.as_ref(), value.as_ref()).map_err(|error| {
            // The name is the guest's: only as much of it as a log line bears.
            let name = name
                .as_ref()
                .chars()
                .take(64)
                .flat_map(char::escape_default)
                .collect();
            ReplyError::Header { name, error }
        })?;
    }
    Ok(response)
}

/// Judges a field without a head: whether [`set`] would take it into an empty one.
///
/// # Errors
/// As [`set`].
pub fn check_field(name: &str, value: &[u8]) -> Result<(), EditError> {
    if name.len() > MAX_NAME || !is_token(name) {
        return Err(EditError::InvalidName);
    }
    if is_protected(name) {
        return Err(EditError::Protected);
    }
    if value.len() > MAX_VALUE {
        return Err(EditError::TooLarge);
    }
    if value
        .iter()
        .all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f))
    {
        Ok(())
    } else {
        Err(EditError::InvalidValue)
    }
}

/// `token` of RFC 9110, section 5.6.2: field names and subprotocols.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether the proxy keeps this field to itself, in any case. Underscores count as hyphens,
/// because some servers read them so.
pub fn is_protected(name: &str) -> bool {
    PROTECTED
        .iter()
        .any(|field| field.len() == name.len() && begins(name, field))
        || PROTECTED_PREFIXES.iter().any(|prefix| begins(name, prefix))
}

/// Whether a name begins with `prefix`, as a careless server reads it. Nothing is allocated: every
/// edit of every request asks this several times.
fn begins(name: &str, prefix: &str) -> bool {
    let careless = |byte: u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    name.len() >= prefix.len()
        && name
            .bytes()
            .map(careless)
            .zip(prefix.bytes())
            .all(|(a, b)| a == b)
}

fn writable_value(value: &[u8]) -> Result<HeaderValue, EditError> {
    if value.len() > MAX_VALUE {
        return Err(EditError::TooLarge);
    }
    HeaderValue::from_bytes(value).map_err(|_| EditError::InvalidValue)
}

/// Whether the head stays within its limits with `count` fields, `freed` bytes gone and one
/// field more.
fn fits(
    fields: &HeaderMap,
    count: usize,
    freed: usize,
    name: &HeaderName,
    value: &HeaderValue,
) -> Result<(), EditError> {
    if count > MAX_FIELDS {
        return Err(EditError::TooMany);
    }
    let bytes: usize = fields.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    if bytes - freed + name.as_str().len() + value.len() > MAX_HEAD {
        return Err(EditError::TooLarge);
    }
    Ok(())
}

const MAX_NAME: usize = 256;

const PROTECTED: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-client-cert-subject",
    "x-real-ip",
    "x-request-id",
];

const PROTECTED_PREFIXES: [&str; 3] = ["proxy-", "sec-websocket-", "x-forwarded-"];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edits_are_judged() {
        #[track_caller]
        fn check(name: &str, value: &[u8], expect: Result<(), EditError>) {
            for edit in [set, add] {
                let mut fields = HeaderMap::new();
                assert_eq!(edit(&mut fields, name, value), expect, "{name}");
                assert_eq!(fields.len(), usize::from(expect.is_ok()));
            }
        }
        check("X-Consumer", b"ci", Ok(()));
        check("x-empty", b"", Ok(()));
        check("x-latin", b"caf\xe9", Ok(()));
        check("", b"v", Err(EditError::InvalidName));
        check("x y", b"v", Err(EditError::InvalidName));
        check("x:", b"v", Err(EditError::InvalidName));
        check("x\r\nhost", b"v", Err(EditError::InvalidName));
        check(&"x".repeat(300), b"v", Err(EditError::InvalidName));
        check("x", b"a\r\nhost: b", Err(EditError::InvalidValue));
        check("x", b"a\nb", Err(EditError::InvalidValue));
        check("x", b"a\0b", Err(EditError::InvalidValue));
        check("x", &[b'a'; MAX_VALUE + 1], Err(EditError::TooLarge));
        for name in [
            "Content-Length",
            "transfer-encoding",
            "CONNECTION",
            "Upgrade",
            "te",
            "Trailer",
            "keep-alive",
            "Host",
            "Proxy-Connection",
            "proxy-authorization",
            "Sec-WebSocket-Key",
            "sec-websocket-protocol",
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Real-IP",
        ] {
            check(name, b"v", Err(EditError::Protected));
            assert_eq!(
                remove(&mut HeaderMap::new(), name),
                Err(EditError::Protected)
            );
        }
    }

    #[test]
    fn a_head_stays_within_its_limits() {
        let mut fields = HeaderMap::new();
        for i in 0..MAX_FIELDS {
            add(&mut fields, &format!("x-{i}"), b"v").expect("below the limit");
        }
        assert_eq!(add(&mut fields, "x-0", b"v"), Err(EditError::TooMany));
        assert_eq!(set(&mut fields, "x-new", b"v"), Err(EditError::TooMany));
        assert_eq!(
            set(&mut fields, "x-0", b"w"),
            Ok(()),
            "replacing needs no room"
        );

        let mut fields = HeaderMap::new();
        let big = [b'a'; MAX_VALUE];
        for i in 0..7 {
            add(&mut fields, &format!("x-{i}"), &big).expect("below the limit");
        }
        assert_eq!(add(&mut fields, "x-7", &big), Err(EditError::TooLarge));
        assert_eq!(
            set(&mut fields, "x-6", &big),
            Ok(()),
            "replacing frees the old value"
        );
    }

    #[test]
    fn subprotocols_can_only_be_taken_away() {
        #[track_caller]
        fn check(chosen: &[&str], expect: Result<Option<&str>, EditError>) {
            let mut fields = HeaderMap::new();
            fields.append(
                SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("chat , api-key.s3"),
            );
            fields.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v2"));
            let done = set_subprotocols(&mut fields, chosen);
            let left = fields
                .get(SEC_WEBSOCKET_PROTOCOL)
                .map(|v| v.to_str().expect("ascii"));
            assert_eq!(done.map(|()| left), expect);
        }
        check(&["chat", "v2"], Ok(Some("chat, v2")));
        check(&[], Ok(None));
        check(&["other"], Err(EditError::NotOffered));
        check(&["CHAT"], Err(EditError::NotOffered));
        check(&["chat", "chat"], Err(EditError::InvalidValue));
        check(&["chat, v2"], Err(EditError::InvalidValue));
        check(&[""], Err(EditError::InvalidValue));
    }

    #[test]
    fn replies_are_judged() {
        #[track_caller]
        fn check(status: u16, name: &str, body: usize, expect: Option<&str>) {
            let got = reply(status, &[(name, "v")], vec![0; body])
                .err()
                .map(|e| e.to_string());
            assert_eq!(got.as_deref(), expect);
        }
        check(200, "x-a", MAX_BODY, None);
        check(599, "set-cookie", 0, None);
        check(101, "x", 0, Some("status `101` is not between 200 and 599"));
        check(600, "x", 0, Some("status `600` is not between 200 and 599"));
        check(0, "x", 0, Some("status `0` is not between 200 and 599"));
        check(
            403,
            "Content-Length",
            0,
            Some("header `Content-Length`: written by the proxy itself"),
        );
        check(403, "a\nb", 0, Some(r"header `a\nb`: not a field name"));
        check(
            403,
            "x",
            MAX_BODY + 1,
            Some("a body of 65537 bytes; at most 65536 are allowed"),
        );
    }

    #[test]
    fn queries_are_judged() {
        for (query, expect) in [
            ("a=1&b=%20", Ok(())),
            ("", Ok(())),
            ("a b", Err(EditError::InvalidValue)),
            ("a#b", Err(EditError::InvalidValue)),
            ("a\r\n", Err(EditError::InvalidValue)),
            ("é", Err(EditError::InvalidValue)),
        ] {
            assert_eq!(check_query(query), expect, "{query:?}");
        }
        assert_eq!(
            check_query(&"a".repeat(MAX_VALUE + 1)),
            Err(EditError::TooLarge)
        );
    }

    proptest! {
        /// A field judged beforehand and the edit itself get the same answer.
        #[test]
        fn a_field_is_judged_as_it_is_set(
            name in "[a-zA-Z_\\- :é\u{0}]{0,12}|(?i)host|(?i)x[-_]forwarded[-_]for",
            value in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let set = set(&mut HeaderMap::new(), &name, &value);
            prop_assert_eq!(check_field(&name, &value), set);
        }

        /// Whatever a guest sends: what is accepted is a writable, clean field, and what is
        /// refused leaves no trace.
        #[test]
        fn nothing_unclean_gets_in(name in ".{0,20}", value in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut fields = HeaderMap::new();
            match set(&mut fields, &name, &value) {
                Ok(()) => {
                    let (name, value) = fields.iter().next().expect("it was set");
                    prop_assert!(!is_protected(name.as_str()));
                    prop_assert!(value.as_bytes().iter().all(|b| *b == b'\t' || (*b >= 32 && *b != 127)));
                }
                Err(_) => prop_assert!(fields.is_empty()),
            }
        }
    }
}
