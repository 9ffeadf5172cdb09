//! Header blocks, looked through before `h2` takes them (RFC 7541; RFC 9113 §8.2, §8.3).
//!
//! A [`Decoder`] follows the compression context of one direction. Of its dynamic table it keeps what an
//! entry means, not its bytes. It says whether a block is coded rightly, what it would take in memory, and
//! whether its fields are those of a message.
//!
//! A block that is no message must still be decoded by whoever shares the context. So there is a
//! [stand-in](Block::stand_in) for it, which changes `h2`'s table as the block does and is malformed in
//! a way that `h2` refuses on the stream: left alone, it would end the connection for a bad octet, or
//! not see the fault.

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::huffman;

/// The compression context of what one peer sends.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The latest first.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

/// What was found in a block.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) fields: usize,
    /// Bytes of names and values, and 32 more for each field (RFC 9113 §6.5.2).
    pub(super) size: usize,
    /// The pseudo-fields' values, and whether another field came.
    pseudo: [Option<Value>; PSEUDO],
    regular: bool,
    malformed: bool,
    /// What makes the same changes to a table, and puts in nothing that `h2` would not take.
    insertions: Vec<u8>,
}

/// What a block must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Request {
        /// `:protocol` is known (RFC 8441 §4).
        extended: bool,
    },
    Response,
    Trailers,
}

/// A block cannot be decoded, and the context is lost (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

/// A field, as far as its meaning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    name: Name,
    value: Value,
    name_size: usize,
    value_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    ContentLength,
    Te,
    Regular,
    /// One of the connection (RFC 9113 §8.2.2), or none at all.
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Fine,
    /// `:method: CONNECT`.
    Connect,
    /// `:method: OPTIONS`.
    Options,
    /// `:path: *`.
    Star,
    /// `:status: 1xx`.
    Interim,
    Bad,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder {
            entries: VecDeque::new(),
            size: 0,
            limit: TABLE_SIZE,
        }
    }

    /// Reads a whole block.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Block, Undecodable> {
        let mut found = Block::default();
        let mut decoded = (Vec::new(), Vec::new());
        let mut may_resize = true;
        while let Some(&first) = block.first() {
            let start = block;
            if let 0x20..0x40 = first {
                let limit = integer(&mut block, 5)?;
                if !may_resize || limit > TABLE_SIZE {
                    return Err(Undecodable);
                }
                self.limit = limit;
                self.make_room(0);
                let written = start.len() - block.len();
                found.insertions.extend(&start[..written]);
                continue;
            }
            may_resize = false;
            if let 0x80.. = first {
                found.add(self.entry(integer(&mut block, 7)?)?);
                continue;
            }
            let is_inserted = first >= 0x40;
            let index = integer(&mut block, if is_inserted { 6 } else { 4 })?;
            let (name, name_size) = match index {
                0 => {
                    let name = string(&mut block, &mut decoded.0)?;
                    (Name::of(name), name.len())
                }
                index => {
                    let entry = self.entry(index)?;
                    (entry.name, entry.name_size)
                }
            };
            let text = string(&mut block, &mut decoded.1)?;
            let mut entry = Entry {
                name,
                value: name.judge(text),
                name_size,
                value_size: text.len(),
            };
            found.add(entry);
            if is_inserted {
                if name.is_taken_with(text) {
                    let written = start.len() - block.len();
                    found.insertions.extend(&start[..written]);
                } else {
                    // Who names a field by this one later means what `h2` does not know.
                    entry.name = Name::Bad;
                    found.insert_nonsense(&entry)?;
                }
                self.insert(entry);
            }
        }
        Ok(found)
    }

    fn entry(&self, index: usize) -> Result<Entry, Undecodable> {
        let index = index.checked_sub(1).ok_or(Undecodable)?;
        let entry = match index.checked_sub(STATIC.len()) {
            None => STATIC.get(index),
            Some(index) => self.entries.get(index),
        };
        entry.copied().ok_or(Undecodable)
    }

    fn insert(&mut self, entry: Entry) {
        self.make_room(entry.size());
        if entry.size() <= self.limit {
            self.size += entry.size();
            self.entries.push_front(entry);
        }
    }

    /// Drops entries until there is room for one of this size, or none is left.
    fn make_room(&mut self, size: usize) {
        while self.size + size > self.limit
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Block {
    /// Whether it is such a message's, as far as its fields tell (RFC 9113 §8.1, §8.3, §8.5).
    pub(super) fn is(&self, message: Message) -> bool {
        if self.malformed {
            return false;
        }
        let [method, scheme, authority, path, protocol, status] = self.pseudo;
        match message {
            Message::Trailers => self.pseudo.iter().all(Option::is_none),
            Message::Response => {
                status.is_some() && self.pseudo[..PSEUDO - 1].iter().all(Option::is_none)
            }
            Message::Request { .. } if method.is_none() || status.is_some() => false,
            Message::Request { extended } => match (method, protocol) {
                (Some(Value::Connect), None) => {
                    authority.is_some() && scheme.is_none() && path.is_none()
                }
                (Some(Value::Connect), Some(_)) => {
                    extended && scheme.is_some() && path == Some(Value::Fine)
                }
                (_, Some(_)) => false,
                (_, None) => {
                    let fits = match path {
                        Some(Value::Star) => method == Some(Value::Options),
                        path => path.is_some(),
                    };
                    fits && scheme.is_some()
                }
            },
        }
    }

    /// Whether some field is none that any message may have.
    pub(super) fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Whether it is the head of an answer that another one follows.
    pub(super) fn is_interim(&self) -> bool {
        self.pseudo[PSEUDO - 1] == Some(Value::Interim)
    }

    /// A block that `h2` finds malformed on its stream.
    pub(super) fn stand_in(mut self) -> Vec<u8> {
        self.insertions.extend(MALFORMED);
        self.insertions
    }

    fn add(&mut self, entry: Entry) {
        self.fields += 1;
        self.size += entry.size();
        self.malformed |= entry.name == Name::Bad || entry.value == Value::Bad;
        match self.pseudo.get_mut(entry.name as usize) {
            Some(pseudo) => {
                self.malformed |= self.regular || pseudo.replace(entry.value).is_some();
            }
            None => self.regular = true,
        }
    }

    /// A field of the same size, so that the same entries have room beside it.
    fn insert_nonsense(&mut self, entry: &Entry) -> Result<(), Undecodable> {
        let both = entry.name_size + entry.value_size;
        let name = entry.name_size.max(1);
        let value = both.checked_sub(name).ok_or(Undecodable)?;
        self.insertions.push(0x40);
        for length in [name, value] {
            push_length(length, &mut self.insertions);
            self.insertions.extend(std::iter::repeat_n(b'x', length));
        }
        Ok(())
    }
}

impl Entry {
    /// As the table counts it (RFC 7541 §4.1).
    fn size(&self) -> usize {
        self.name_size + self.value_size + OVERHEAD
    }
}

impl Name {
    fn of(name: &[u8]) -> Name {
        match name {
            b":method" => Name::Method,
            b":scheme" => Name::Scheme,
            b":authority" => Name::Authority,
            b":path" => Name::Path,
            b":protocol" => Name::Protocol,
            b":status" => Name::Status,
            b"content-length" => Name::ContentLength,
            b"te" => Name::Te,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Name::Bad,
            name if is_token(name) && !name.iter().any(u8::is_ascii_uppercase) => Name::Regular,
            _ => Name::Bad,
        }
    }

    fn judge(self, value: &[u8]) -> Value {
        let is_fine = match self {
            Name::Method if value == b"CONNECT" => return Value::Connect,
            Name::Method if value == b"OPTIONS" => return Value::Options,
            Name::Path if value == b"*" => return Value::Star,
            Name::Status if value.starts_with(b"1") && is_status(value) => return Value::Interim,
            Name::Method | Name::Protocol => is_token(value),
            Name::Status => is_status(value),
            Name::Scheme => {
                value.first().is_some_and(u8::is_ascii_alphabetic)
                    && value.iter().all(|byte| {
                        byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
                    })
            }
            Name::Authority => !value.is_empty() && value.iter().all(u8::is_ascii_graphic),
            Name::Path => {
                value.first() == Some(&b'/')
                    && value
                        .iter()
                        .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
            }
            Name::ContentLength => {
                !value.is_empty()
                    && value.iter().all(u8::is_ascii_digit)
                    && (value.len(), value) <= (MOST_LENGTH.len(), MOST_LENGTH)
            }
            Name::Te => value == b"trailers",
            Name::Regular => {
                let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
                is_text(value) && !is_blank(value.first()) && !is_blank(value.last())
            }
            Name::Bad => false,
        };
        if is_fine { Value::Fine } else { Value::Bad }
    }

    /// Whether `h2` decodes a field of this name, with this value.
    fn is_taken_with(self, value: &[u8]) -> bool {
        match self {
            Name::Method => is_token(value),
            Name::Status => is_status(value),
            Name::Scheme | Name::Authority | Name::Path | Name::Protocol => {
                std::str::from_utf8(value).is_ok()
            }
            Name::ContentLength | Name::Te | Name::Regular => is_text(value),
            Name::Bad => false,
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_mark = |byte| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && (text.iter()).all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

fn is_status(text: &[u8]) -> bool {
    matches!(text, [b'1'..=b'9', rest @ ..] if rest.len() == 2 && rest.iter().all(u8::is_ascii_digit))
}

/// RFC 9110 §5.5.
fn is_text(value: &[u8]) -> bool {
    !(value.iter()).any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Takes an integer, coded behind a prefix (RFC 7541 §5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Undecodable> {
    let (first, mut rest) = block.split_first().ok_or(Undecodable)?;
    let mask = u8::MAX >> (8 - prefix);
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first().ok_or(Undecodable)?;
            rest = behind;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift == INTEGER_BITS {
                return Err(Undecodable);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Takes a string, decoded into `decoded` where it is Huffman's (RFC 7541 §5.2).
fn string<'a, 'b: 'a>(
    block: &mut &'b [u8],
    decoded: &'a mut Vec<u8>,
) -> Result<&'a [u8], Undecodable> {
    let is_coded = block.first().is_some_and(|first| first & 0x80 > 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    if !is_coded {
        return Ok(text);
    }
    decoded.clear();
    // No code is shorter than five bits.
    decoded.reserve(text.len() * 8 / 5);
    huffman::decode(text, decoded).map_err(|_| Undecodable)?;
    Ok(decoded)
}

/// The length of a plain string, coded.
fn push_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(length as u8);
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// A field that no message may have, literal and inserted nowhere.
pub(super) const MALFORMED: &[u8] = b"\x00\x0aconnection\x01x";

/// SETTINGS_HEADER_TABLE_SIZE, of which we say nothing.
const TABLE_SIZE: usize = 4096;
const OVERHEAD: usize = 32;
const PSEUDO: usize = 6;
/// A Content-Length that has 63 bits, as over HTTP/1.1.
const MOST_LENGTH: &[u8] = b"9223372036854775807";
/// Bits of an integer behind its prefix, as many as `h2` takes.
const INTEGER_BITS: u32 = 28;

/// RFC 7541 appendix A.
static STATIC: LazyLock<[Entry; 61]> = LazyLock::new(|| {
    STATIC_TEXTS.map(|(name, value)| {
        let name_size = name.len();
        let name = Name::of(name.as_bytes());
        Entry {
            name,
            value: name.judge(value.as_bytes()),
            name_size,
            value_size: value.len(),
        }
    })
});

const STATIC_TEXTS: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests;
