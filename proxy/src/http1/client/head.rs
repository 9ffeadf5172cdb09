//! The head of a request as bytes, and an answer's head from its bytes.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Method, Response, StatusCode, Version};
use thiserror::Error;

use super::super::decode::{Decoder, Sender};
use super::super::syntax::{FieldBlock, is_text, next_line, parse_fields, push_number_field};
use super::super::{Framing, HeadLimits, Violation};

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
    #[error("its status line is malformed")]
    StatusLine,
    #[error("it is not HTTP/1")]
    Version,
    #[error("{0}")]
    Malformed(#[from] Violation),
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
    /// How the body ends, unless the request was a HEAD.
    pub(super) body: Decoder,
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
                push_number_field(&mut fields.bytes, b"content-length", length);
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

impl Head {
    pub(super) fn is_interim(&self) -> bool {
        let status = self.parts.status;
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Parses a head, and tells where it ends. Values share its bytes.
pub(super) fn parse(head: &Bytes, limits: HeadLimits) -> Result<(Head, usize), HeadFault> {
    let (line, fields) = next_line(head, 0, limits).ok_or(HeadFault::StatusLine)??;
    let (version, status) = status_line(line)?;
    let mut response = Response::new(());
    *response.version_mut() = version;
    *response.status_mut() = status;
    let fields = parse_fields(head, fields, limits)?;
    let body = body_of(&fields, status, version, limits)?;
    // A connection that switches protocols leaves HTTP.
    let keep_alive = version == Version::HTTP_11
        && status != StatusCode::SWITCHING_PROTOCOLS
        && !fields.connection_says("close");
    *response.headers_mut() = fields.headers;
    let (parts, ()) = response.into_parts();
    let head = Head {
        parts,
        keep_alive,
        body,
    };
    Ok((head, fields.end))
}

/// How the body of the answer to another method than HEAD ends (RFC 9112 §6.3). An answer without
/// a body is checked all the same.
fn body_of(
    fields: &FieldBlock,
    status: StatusCode,
    version: Version,
    limits: HeadLimits,
) -> Result<Decoder, HeadFault> {
    let chunked = fields.is_chunked().map_err(|_| HeadFault::Framing)?;
    let length = fields.content_length().map_err(|_| HeadFault::Framing)?;
    let body = match (length, chunked) {
        (None, false) => Decoder::UntilClose,
        (Some(length), false) => Decoder::Length(length),
        (None, true) if version == Version::HTTP_11 => {
            let trailers = HeadLimits {
                size: limits.size.min(TRAILERS_SIZE),
                ..limits
            };
            Decoder::chunked(trailers, Sender::Upstream)
        }
        _ => return Err(HeadFault::Framing),
    };
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    Ok(if bodiless { Decoder::Empty } else { body })
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
        [b' ', text @ ..] => text.iter().all(|byte| is_text(*byte)),
        _ => false,
    };
    let status = StatusCode::from_bytes(digits).map_err(|_| HeadFault::StatusLine)?;
    // What is beyond has no class, and so no meaning (RFC 9110 §15).
    if !reason_is_fine || status.as_u16() > 599 {
        return Err(HeadFault::StatusLine);
    }
    Ok((version, status))
}

/// Of most requests, with our forwarding fields.
const HEAD_CAPACITY: usize = 1024;
/// Of the trailers of an answer, in bytes.
const TRAILERS_SIZE: usize = 16 * 1024;
