//! The head of a request as bytes, and an answer's head from its bytes.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::response::Parts;
use http::{Method, Response, StatusCode, Version};
use thiserror::Error;

use super::decode::Decoder;

/// What an answer's head may use.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// From the status line to the blank line, in bytes.
    pub size: usize,
    pub fields: usize,
}

/// A request's head as it goes out, kept whole so that it may be sent again.
#[derive(Debug)]
pub struct RequestHead {
    bytes: Bytes,
    is_head: bool,
}

/// The field lines of a head that is being written.
#[derive(Debug)]
pub struct Fields {
    bytes: Vec<u8>,
}

/// Why an answer's head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeadFault {
    #[error("it is too large")]
    TooLarge,
    #[error("it has too many fields")]
    TooManyFields,
    #[error("its status line is malformed")]
    StatusLine,
    #[error("it is not HTTP/1")]
    Version,
    #[error("a line does not end with CRLF")]
    LineEnd,
    #[error("a field line is malformed")]
    Field,
    #[error("it says in two ways where its body ends")]
    Framing,
    #[error("too many interim answers")]
    Interims,
}

/// An answer's head, and what its connection fields said.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) keep_alive: bool,
}

impl RequestHead {
    /// `target` in origin form, in pieces, free of blanks and control characters.
    ///
    /// The fields that frame a body are `framing`'s and left out of `headers`; `None` is for no
    /// body and no word about it.
    pub fn new(
        method: &Method,
        target: &[&str],
        headers: &HeaderMap,
        framing: Option<Framing>,
    ) -> RequestHead {
        RequestHead::write(method, target, framing, |fields| {
            for (name, value) in headers {
                if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
                    fields.put(name.as_str(), value.as_bytes());
                }
            }
        })
    }

    /// As [`RequestHead::new`], with the fields that `write` puts into it; none of them may frame a
    /// body.
    pub fn write(
        method: &Method,
        target: &[&str],
        framing: Option<Framing>,
        write: impl FnOnce(&mut Fields),
    ) -> RequestHead {
        let mut bytes = Vec::with_capacity(HEAD_CAPACITY);
        bytes.extend_from_slice(method.as_str().as_bytes());
        bytes.push(b' ');
        for part in target {
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        let mut fields = Fields { bytes };
        write(&mut fields);
        match framing {
            None => {}
            Some(Framing::Length(length)) => {
                fields.put("content-length", length.to_string().as_bytes());
            }
            Some(Framing::Chunked) => fields.put("transfer-encoding", b"chunked"),
        }
        let mut bytes = fields.bytes;
        bytes.extend_from_slice(b"\r\n");
        RequestHead {
            bytes: bytes.into(),
            is_head: *method == Method::HEAD,
        }
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The answer to HEAD has no body, whatever it says.
    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }
}

impl Fields {
    /// Adds a line. Name and value are valid: they were parsed, or are our own.
    pub fn put(&mut self, name: &str, value: &[u8]) {
        self.put_with(name, |line| line.extend_from_slice(value));
    }

    /// As [`Fields::put`], with the value that `write` appends.
    pub fn put_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        write(bytes);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// How the other side learns where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

impl Head {
    pub(super) fn is_interim(&self) -> bool {
        let status = self.parts.status;
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// How the body ends (RFC 9112 §6.3). An answer without a body is checked all the same.
    pub(super) fn decoder(&self, to_head: bool) -> Result<Decoder, HeadFault> {
        let headers = &self.parts.headers;
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let decoder = match (lengths.next(), codings.next()) {
            (None, None) => Decoder::UntilClose,
            (Some(length), None) if lengths.next().is_none() => {
                Decoder::length(decimal(length.as_bytes()).ok_or(HeadFault::Framing)?)
            }
            (None, Some(coding))
                if codings.next().is_none()
                    && self.parts.version == Version::HTTP_11
                    && coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
            {
                Decoder::chunked()
            }
            _ => return Err(HeadFault::Framing),
        };
        let status = self.parts.status;
        let bodiless = to_head
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(if bodiless { Decoder::Empty } else { decoder })
    }
}

/// Where a head ends, its blank line included; the first `seen` bytes are known to hold no end.
pub(super) fn find_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(BLANK_LINE.len() - 1);
    let mut at = from;
    while let Some(found) = memchr::memchr(b'\n', &bytes[at..]) {
        let end = at + found + 1;
        if bytes[..end].ends_with(BLANK_LINE) {
            return Some(end);
        }
        at = end;
    }
    None
}

/// Parses a whole head. Values share its bytes.
pub(super) fn parse(head: &Bytes, limits: HeadLimits) -> Result<Head, HeadFault> {
    let line_end = memchr::memchr(b'\n', head).ok_or(HeadFault::StatusLine)?;
    let (version, status) = status_line(line(head, 0, line_end)?)?;
    let mut response = Response::new(());
    *response.version_mut() = version;
    *response.status_mut() = status;
    *response.headers_mut() = parse_fields(head, line_end + 1, limits.fields)?;
    // A connection that switches protocols leaves HTTP.
    let keep_alive = version == Version::HTTP_11
        && status != StatusCode::SWITCHING_PROTOCOLS
        && !says_close(response.headers());
    let (parts, ()) = response.into_parts();
    Ok(Head { parts, keep_alive })
}

/// Parses field lines from `at` to the blank line. Values share the bytes.
pub(super) fn parse_fields(
    bytes: &Bytes,
    mut at: usize,
    limit: usize,
) -> Result<HeaderMap, HeadFault> {
    // Counted, because room for many costs more than the count: the allocator keeps no large blocks
    // at hand.
    let lines = memchr::memchr_iter(b'\n', &bytes[at..]).count();
    let mut headers = HeaderMap::with_capacity(lines.saturating_sub(1).min(limit));
    while let Some(found) = memchr::memchr(b'\n', &bytes[at..]) {
        let field = line(bytes, at, at + found)?;
        if field.is_empty() {
            break;
        }
        if headers.len() == limit {
            return Err(HeadFault::TooManyFields);
        }
        let colon = memchr::memchr(b':', field).ok_or(HeadFault::Field)?;
        // A folded line starts with a blank, which no name does.
        let name = HeaderName::from_bytes(&field[..colon]).map_err(|_| HeadFault::Field)?;
        let value = bytes.slice_ref(trim(&field[colon + 1..]));
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadFault::Field)?;
        headers.append(name, value);
        at += found + 1;
    }
    Ok(headers)
}

/// The bytes from `start` to the line feed at `end`, without the CRLF.
fn line(head: &[u8], start: usize, end: usize) -> Result<&[u8], HeadFault> {
    // A CR inside it is refused as a control character.
    head[start..end]
        .strip_suffix(b"\r")
        .ok_or(HeadFault::LineEnd)
}

/// `HTTP/1.x SSS[ reason]`. The reason goes no further.
fn status_line(line: &[u8]) -> Result<(Version, StatusCode), HeadFault> {
    let (version, rest) = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor,
            b' ',
            rest @ ..,
        ] => match minor {
            b'0' => (Version::HTTP_10, rest),
            b'1' => (Version::HTTP_11, rest),
            _ => return Err(HeadFault::Version),
        },
        _ => return Err(HeadFault::StatusLine),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(HeadFault::StatusLine)?;
    let reason_is_fine = match reason {
        [] => true,
        [b' ', text @ ..] => text
            .iter()
            .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)),
        _ => false,
    };
    let status = StatusCode::from_bytes(digits).map_err(|_| HeadFault::StatusLine)?;
    if !reason_is_fine {
        return Err(HeadFault::StatusLine);
    }
    Ok((version, status))
}

/// 1*DIGIT that fits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut options = value.as_bytes().split(|byte| *byte == b',');
        options.any(|option| trim(option).eq_ignore_ascii_case(b"close"))
    })
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

const BLANK_LINE: &[u8] = b"\r\n\r\n";
/// Of most requests, with our forwarding fields.
const HEAD_CAPACITY: usize = 1024;
