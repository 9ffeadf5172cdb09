//! Where an answer's body ends, and what of it are data: without IO, in place.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::SizeHint;
use thiserror::Error;

use super::head::{find_end, parse_fields};

/// How a body is delimited (RFC 9112 §6.3), and how far it has come.
#[derive(Debug)]
pub(super) enum Decoder {
    Empty,
    /// Bytes still to come.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    /// The last byte was read.
    Done,
    /// It broke; nothing more is read.
    Failed,
}

/// The part of a chunked body (RFC 9112 §7.1) that comes next.
#[derive(Debug)]
pub(super) enum Chunk {
    Size,
    /// Bytes still to come of a chunk.
    Data(u64),
    /// The CRLF behind a chunk.
    DataEnd,
    /// Trailers, and the blank line; so many bytes were looked at and hold no end of them.
    Trailers(usize),
}

/// What a decoder found.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Nothing whole: read more.
    More,
    End,
}

/// Why an answer's body broke off.
#[derive(Debug, Error)]
pub enum BodyFault {
    #[error("the upstream closed the connection in the middle of its answer")]
    Truncated,
    #[error("the answer's chunks are malformed")]
    Chunk,
    #[error("the answer's trailers are malformed or too large")]
    Trailers,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Decoder {
    pub(super) fn length(length: u64) -> Decoder {
        Decoder::Length(length)
    }

    pub(super) fn chunked() -> Decoder {
        Decoder::Chunked(Chunk::Size)
    }

    /// Takes the next piece out of what was read.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Piece, BodyFault> {
        let piece = match self {
            Decoder::Empty | Decoder::Length(0) | Decoder::Done | Decoder::Failed => Ok(Piece::End),
            Decoder::Length(left) => Ok(take_data(read, left)),
            Decoder::Chunked(chunk) => chunk.decode(read),
            Decoder::UntilClose => Ok(take_data(read, &mut { u64::MAX })),
        };
        match &piece {
            Err(_) => *self = Decoder::Failed,
            Ok(Piece::End) if !matches!(self, Decoder::Failed) => *self = Decoder::Done,
            Ok(Piece::Trailers(_)) => *self = Decoder::Done,
            Ok(_) => {}
        }
        piece
    }

    /// The upstream has closed its side.
    pub(super) fn close(&mut self) -> Result<(), BodyFault> {
        if let Decoder::UntilClose = self {
            *self = Decoder::Done;
            Ok(())
        } else {
            *self = Decoder::Failed;
            Err(BodyFault::Truncated)
        }
    }

    /// Every byte was taken.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Decoder::Empty | Decoder::Length(0) | Decoder::Done)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Decoder::Empty | Decoder::Done => SizeHint::with_exact(0),
            Decoder::Length(left) => SizeHint::with_exact(*left),
            Decoder::Chunked(_) | Decoder::UntilClose | Decoder::Failed => SizeHint::default(),
        }
    }

    /// Bytes that are worth room for at the next read, if that is known.
    pub(super) fn expects(&self) -> Option<u64> {
        match self {
            Decoder::Length(left) | Decoder::Chunked(Chunk::Data(left)) => Some(*left),
            _ => None,
        }
    }
}

impl Chunk {
    fn decode(&mut self, read: &mut BytesMut) -> Result<Piece, BodyFault> {
        loop {
            match self {
                Chunk::Size => {
                    let Some(end) = memchr::memchr(b'\n', read) else {
                        return match read.len() > SIZE_LINE {
                            true => Err(BodyFault::Chunk),
                            false => Ok(Piece::More),
                        };
                    };
                    let size = read[..end]
                        .strip_suffix(b"\r")
                        .and_then(chunk_size)
                        .ok_or(BodyFault::Chunk)?;
                    read.advance(end + 1);
                    *self = match size {
                        0 => Chunk::Trailers(0),
                        size => Chunk::Data(size),
                    };
                }
                Chunk::Data(0) => *self = Chunk::DataEnd,
                Chunk::Data(left) => return Ok(take_data(read, left)),
                Chunk::DataEnd => {
                    match read.get(..2) {
                        None => return Ok(Piece::More),
                        Some(b"\r\n") => read.advance(2),
                        Some(_) => return Err(BodyFault::Chunk),
                    }
                    *self = Chunk::Size;
                }
                Chunk::Trailers(scanned) => return trailers(read, scanned),
            }
        }
    }
}

/// Trailers up to their blank line; mostly that line is all.
fn trailers(read: &mut BytesMut, scanned: &mut usize) -> Result<Piece, BodyFault> {
    if read.starts_with(b"\r\n") {
        read.advance(2);
        return Ok(Piece::End);
    }
    let end = find_end(read, *scanned);
    *scanned = read.len();
    if end.unwrap_or(read.len()) > TRAILERS_SIZE {
        return Err(BodyFault::Trailers);
    }
    let Some(end) = end else {
        return Ok(Piece::More);
    };
    let block = read.split_to(end).freeze();
    match parse_fields(&block, 0, TRAILERS_FIELDS) {
        Ok(trailers) => Ok(Piece::Trailers(trailers)),
        Err(_) => Err(BodyFault::Trailers),
    }
}

fn take_data(read: &mut BytesMut, left: &mut u64) -> Piece {
    if read.is_empty() {
        return Piece::More;
    }
    let taken = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= taken as u64;
    Piece::Data(read.split_to(taken).freeze())
}

/// 1*HEXDIG, then blanks or an extension, which says nothing to us.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, rest) = line.split_at(digits);
    let rest_is_fine = match rest {
        [] => true,
        [b' ' | b'\t' | b';', more @ ..] => {
            let after_blanks = more.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
            let extends = rest[0] == b';' || after_blanks.is_none_or(|byte| *byte == b';');
            extends
                && more
                    .iter()
                    .all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f)
        }
        _ => false,
    };
    if line.len() > SIZE_LINE || digits > 16 || !rest_is_fine {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

/// Of a chunk's size with its extensions, in bytes.
const SIZE_LINE: usize = 1024;
const TRAILERS_SIZE: usize = 16 * 1024;
const TRAILERS_FIELDS: usize = 100;
