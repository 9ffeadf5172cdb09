//! Where a body ends, and what of its bytes are data: without IO, in place.
//!
//! A chunked body (RFC 9112 §7.1) is taken apart by the same strict rules whoever sends it, with two
//! exceptions: upstreams may pad a chunk's size with blanks, which some old servers do, and a client may not say
//! in trailers what only a head may say. What a reader cannot use is refused as soon as it is seen.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderName,
};
use http_body::SizeHint;
use thiserror::Error;

use super::syntax::{find_end, is_text, is_token, parse_fields, poses_as_framing};
use super::{HeadLimits, READ_AHEAD, READ_MOST, Violation};

/// How a body is delimited (RFC 9112 §6.3), and how far it has come.
#[derive(Debug)]
pub(super) enum Decoder {
    Empty,
    /// Bytes still to come.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    /// The last byte was read.
    Done,
    /// It broke; nothing more is read.
    Failed,
}

/// A chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    next: Next,
    /// Bytes of chunk extensions that it may still hold.
    extensions: usize,
    sender: Sender,
    trailers: HeadLimits,
}

/// Who sends a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    /// May pad a chunk's line with blanks.
    Upstream,
}

/// The part of a chunked body that comes next.
#[derive(Debug)]
enum Next {
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

/// Why a body broke off.
#[derive(Debug, Error)]
pub enum BodyFault {
    #[error("the connection was closed in the middle of a body")]
    Truncated,
    #[error("a body's framing is malformed: {0}")]
    Malformed(#[from] Violation),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Decoder {
    pub(super) fn chunked(trailers: HeadLimits, sender: Sender) -> Decoder {
        Decoder::Chunked(Chunked {
            next: Next::Size,
            extensions: CHUNK_EXTENSIONS,
            sender,
            trailers,
        })
    }

    /// Takes the next piece out of what was read.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Piece, BodyFault> {
        let piece = match self {
            Decoder::Empty | Decoder::Length(0) | Decoder::Done | Decoder::Failed => Ok(Piece::End),
            Decoder::Length(left) => Ok(take_data(read, left)),
            Decoder::Chunked(chunked) => chunked.decode(read),
            Decoder::UntilClose => Ok(take_data(read, &mut { u64::MAX })),
        };
        match &piece {
            Err(_) => *self = Decoder::Failed,
            Ok(Piece::End) if !matches!(self, Decoder::Failed) => *self = Decoder::Done,
            Ok(Piece::Trailers(_)) => *self = Decoder::Done,
            Ok(_) => {}
        }
        Ok(piece?)
    }

    /// The other side has closed its stream.
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

    /// How much room the next read is worth, in bytes.
    pub(super) fn wants(&self) -> usize {
        let expected = match self {
            Decoder::Length(left) => *left,
            Decoder::Chunked(Chunked {
                next: Next::Data(left),
                ..
            }) => *left,
            _ => 0,
        };
        usize::try_from(expected)
            .unwrap_or(READ_MOST)
            .clamp(READ_AHEAD, READ_MOST)
    }
}

impl Chunked {
    fn decode(&mut self, read: &mut BytesMut) -> Result<Piece, Violation> {
        loop {
            match &mut self.next {
                Next::Size => {
                    let Some((size, taken)) = self.chunk_line(read)? else {
                        return Ok(Piece::More);
                    };
                    read.advance(taken);
                    self.next = match size {
                        0 => Next::Trailers(0),
                        size => Next::Data(size),
                    };
                }
                Next::Data(0) => self.next = Next::DataEnd,
                Next::Data(left) => return Ok(take_data(read, left)),
                Next::DataEnd => match &read[..] {
                    [] | [b'\r'] => return Ok(Piece::More),
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        self.next = Next::Size;
                    }
                    _ => return Err(Violation::BadChunkEnd),
                },
                Next::Trailers(scanned) => {
                    return trailers(read, scanned, self.trailers, self.sender);
                }
            }
        }
    }

    /// A chunk's size, and the bytes of its line; `None` while the line is not whole.
    fn chunk_line(&mut self, read: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
        let line_end = memchr::memchr(b'\n', read);
        let seen = &read[..line_end.unwrap_or(read.len())];
        let digits = seen
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let rest = &seen[digits..];
        if digits > SIZE_DIGITS || digits == 0 && !seen.is_empty() {
            return Err(Violation::BadChunkSize);
        }
        let (extension, cr) = match rest {
            [extension @ .., b'\r'] => (extension, true),
            extension => (extension, false),
        };
        self.check_extension(extension, line_end.is_some())?;
        let Some(line_end) = line_end else {
            return Ok(None);
        };
        if !cr {
            return Err(Violation::BareLf);
        }
        let digits = std::str::from_utf8(&seen[..digits]).map_err(|_| Violation::BadChunkSize)?;
        let size = u64::from_str_radix(digits, 16).map_err(|_| Violation::BadChunkSize)?;
        self.extensions -= extension.len();
        Ok(Some((size, line_end + 1)))
    }

    /// What stands between a chunk's size and the end of its line: nothing, or extensions, which say
    /// nothing to us. `whole`: that is all of it.
    fn check_extension(&self, extension: &[u8], whole: bool) -> Result<(), Violation> {
        let mut place = Place::Size;
        for byte in extension.iter().take(self.extensions) {
            place = place.step(*byte).ok_or(match (place, byte) {
                (_, b'\r') => Violation::BareCr,
                (Place::Size | Place::Gap, _) => Violation::BadChunkSize,
                _ => Violation::BadChunkExtension,
            })?;
        }
        if extension.len() > self.extensions {
            return Err(Violation::ChunkExtensionsTooLong);
        }
        match place {
            _ if !whole => Ok(()),
            Place::Size | Place::Name | Place::Token | Place::Closed => Ok(()),
            Place::Gap | Place::ValueGap if self.sender == Sender::Upstream => Ok(()),
            Place::Gap => Err(Violation::BadChunkSize),
            _ => Err(Violation::BadChunkExtension),
        }
    }
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` a reader stands
/// (RFC 9112 §7.1.1).
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Behind the chunk's size.
    Size,
    /// Behind the blanks after it, which only a semicolon may end.
    Gap,
    Semicolon,
    Name,
    /// Behind the blanks after a name.
    NameGap,
    Equals,
    Token,
    Quoted,
    Backslash,
    /// Behind a quoted string.
    Closed,
    /// Behind the blanks after a value.
    ValueGap,
}

impl Place {
    fn step(self, byte: u8) -> Option<Place> {
        use Place::*;
        Some(match (self, byte) {
            (Quoted, b'"') => Closed,
            (Quoted, b'\\') => Backslash,
            (Quoted | Backslash, byte) if is_text(byte) => Quoted,
            (Size | Gap, b' ' | b'\t') => Gap,
            (Token | Closed | ValueGap, b' ' | b'\t') => ValueGap,
            (Semicolon, b' ' | b'\t') => Semicolon,
            (Name | NameGap, b' ' | b'\t') => NameGap,
            (Equals, b' ' | b'\t') => Equals,
            (Size | Gap | Name | NameGap | Token | Closed | ValueGap, b';') => Semicolon,
            (Name | NameGap, b'=') => Equals,
            (Equals, b'"') => Quoted,
            (Semicolon | Name, byte) if is_token(byte) => Name,
            (Equals | Token, byte) if is_token(byte) => Token,
            _ => return None,
        })
    }
}

/// Trailers up to their blank line; mostly that line is all.
fn trailers(
    read: &mut BytesMut,
    scanned: &mut usize,
    limits: HeadLimits,
    sender: Sender,
) -> Result<Piece, Violation> {
    if read.starts_with(b"\r\n") {
        read.advance(2);
        return Ok(Piece::End);
    }
    let end = find_end(read, *scanned);
    *scanned = read.len();
    let Some(end) = end else {
        return match read.len() > limits.size {
            true => Err(Violation::HeadTooLarge),
            false => Ok(Piece::More),
        };
    };
    let trailers = parse_fields(&read.split_to(end).freeze(), 0, limits)?;
    if !trailers.frame_nothing() {
        return Err(Violation::FramingInTrailers);
    }
    if sender == Sender::Client {
        if trailers.headers.keys().any(poses_as_framing) {
            return Err(Violation::FramingInTrailers);
        }
        if trailers.headers.keys().any(|name| OF_HEADS.contains(name)) {
            return Err(Violation::HeadFieldInTrailers);
        }
    }
    Ok(Piece::Trailers(trailers.headers))
}

fn take_data(read: &mut BytesMut, left: &mut u64) -> Piece {
    if read.is_empty() {
        return Piece::More;
    }
    let taken = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= taken as u64;
    Piece::Data(read.split_to(taken).freeze())
}

/// What would lead a request elsewhere, let it in or make something else of its body (RFC 9110 §6.5.1), to
/// a server that merges trailers into the head.
static OF_HEADS: [HeaderName; 5] = [
    HOST,
    AUTHORIZATION,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
];
/// 64 bits.
const SIZE_DIGITS: usize = 16;
/// Chunk extensions of one body, bytes in total: nobody uses them but attackers.
const CHUNK_EXTENSIONS: usize = 4096;
