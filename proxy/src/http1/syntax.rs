//! Lines and fields of a head or of trailers (RFC 9112 §2.2 and §5), the same for both directions.
//!
//! A block is looked at line by line, in order, so that the first fault is the same however the
//! bytes were cut into reads.

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use memchr::memmem::Finder;

use super::{HeadLimits, Violation};

/// Takes out of `read` what holds a block of lines as [`find_end`] finds it. There may be more in it
/// than the block, for its parser to [`put_back`]: most reads end with the one they hold, which
/// then need not be searched for.
pub(super) fn take_block(read: &mut BytesMut, from: usize, seen: usize) -> Option<Bytes> {
    let block = &read[from..];
    let end = match block.len() <= USUAL_HEAD && block.ends_with(BLANK_LINE) {
        true => read.len(),
        false => from + find_end(block, seen.saturating_sub(from))?,
    };
    Some(match end == read.len() {
        true => std::mem::take(read).freeze(),
        false => read.split_to(end).freeze(),
    })
}

/// Puts back what was taken beyond the block that ends at `end`.
pub(super) fn put_back(read: &mut BytesMut, taken: &[u8], end: usize) {
    if end < taken.len() {
        // Then all that was read had been taken.
        read.extend_from_slice(&taken[end..]);
    }
}

/// Where a block of lines ends, its blank line included. Without one it ends behind the first line feed
/// that no carriage return precedes: nothing after that can be right.
///
/// The first `seen` bytes are known to hold no end.
pub(super) fn find_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut at = seen.saturating_sub(BLANK_LINE.len() - 1);
    // Mostly it is there, and what is wrong before it is for its parser to find.
    if let Some(blank) = FIND_BLANK_LINE.find(&bytes[at..]) {
        return Some(at + blank + BLANK_LINE.len());
    }
    while let Some(found) = memchr::memchr(b'\n', &bytes[at..]) {
        let end = at + found + 1;
        if !bytes[..end].ends_with(b"\r\n") {
            return Some(end);
        }
        at = end;
    }
    None
}

/// The line that begins at `at`, without its CRLF, and where the next one begins; `None` if it is
/// not whole. A carriage return inside it is for its reader to refuse.
pub(super) fn next_line(
    bytes: &[u8],
    at: usize,
    limits: HeadLimits,
) -> Option<Result<(&[u8], usize), Violation>> {
    let end = at + memchr::memchr(b'\n', &bytes[at..])?;
    if end >= limits.size {
        return Some(Err(Violation::HeadTooLarge));
    }
    let line = bytes[at..end].strip_suffix(b"\r");
    Some(line.map(|line| (line, end + 1)).ok_or(Violation::BareLf))
}

/// Field lines, and which of those that say something about the connection or the body are there:
/// most heads need not be searched for them.
#[derive(Debug)]
pub(super) struct FieldBlock {
    pub(super) headers: HeaderMap,
    /// Behind the blank line.
    pub(super) end: usize,
    connection: bool,
    expect: bool,
    length: bool,
    coding: bool,
}

/// Parses field lines from `at` to the blank line. Values share the bytes.
pub(super) fn parse_fields(
    bytes: &Bytes,
    mut at: usize,
    limits: HeadLimits,
) -> Result<FieldBlock, Violation> {
    // Counted, because room for many costs more than the count: the allocator keeps no large blocks
    // at hand.
    let lines = count_lines(&bytes[at..]);
    let mut fields = FieldBlock {
        headers: HeaderMap::with_capacity(lines.saturating_sub(1).min(limits.fields)),
        end: bytes.len(),
        connection: false,
        expect: false,
        length: false,
        coding: false,
    };
    while let Some(line) = next_line(bytes, at, limits) {
        let (line, next) = line?;
        if line.is_empty() {
            fields.end = next;
            break;
        }
        if fields.headers.len() == limits.fields {
            return Err(Violation::TooManyFields);
        }
        let (name, value) = split_field(line)?;
        let name = HeaderName::from_bytes(name).map_err(|_| bad_name(line))?;
        let value =
            HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| bad_value(value))?;
        fields.connection |= name == CONNECTION;
        fields.expect |= name == EXPECT;
        fields.length |= name == CONTENT_LENGTH;
        fields.coding |= name == TRANSFER_ENCODING;
        fields.headers.append(name, value);
        at = next;
    }
    Ok(fields)
}

impl FieldBlock {
    /// Neither a length nor a coding is said.
    pub(super) fn frame_nothing(&self) -> bool {
        !self.length && !self.coding
    }

    /// The one Content-Length: 1*DIGIT, of which 63 bits hold the number, as some readers' have a sign. No
    /// zeros lead it: some would take it for octal.
    pub(super) fn content_length(&self) -> Result<Option<u64>, Violation> {
        if !self.length {
            return Ok(None);
        }
        let mut lengths = self.headers.get_all(CONTENT_LENGTH).iter();
        let digits = lengths.next().map_or(&b""[..], HeaderValue::as_bytes);
        let is_number = match digits {
            [] => false,
            [b'0', _, ..] => false,
            digits => digits.iter().all(u8::is_ascii_digit),
        };
        if !is_number || digits.len() > LENGTH_DIGITS {
            return Err(Violation::BadContentLength);
        }
        if lengths.next().is_some() {
            return Err(Violation::RepeatedContentLength);
        }
        let number = digits
            .iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        match number > MOST_LENGTH {
            true => Err(Violation::BadContentLength),
            false => Ok(Some(number)),
        }
    }

    /// Whether the body is chunked; nothing else can be said by Transfer-Encoding.
    pub(super) fn is_chunked(&self) -> Result<bool, Violation> {
        if !self.coding {
            return Ok(false);
        }
        let mut codings = self.headers.get_all(TRANSFER_ENCODING).iter();
        match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
            _ => Err(Violation::BadTransferEncoding),
        }
    }

    /// Whether Connection names this option.
    pub(super) fn connection_says(&self, option: &str) -> bool {
        let values = self.connection.then(|| self.headers.get_all(CONNECTION));
        values.is_some_and(|values| values.iter().any(|value| names_option(value, option)))
    }

    pub(super) fn expects_continue(&self) -> bool {
        let expectation = self.expect.then(|| self.headers.get(EXPECT)).flatten();
        expectation.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    }
}

/// As [`parse_fields`] would judge one line.
pub(super) fn check_field(line: &[u8]) -> Result<(), Violation> {
    let (name, value) = split_field(line)?;
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(bad_name(line));
    }
    if !value.iter().all(|byte| is_text(*byte)) {
        return Err(bad_value(value));
    }
    Ok(())
}

/// In sums of a byte, which take less than a search for each line.
fn count_lines(bytes: &[u8]) -> usize {
    let ends = |piece: &[u8]| {
        let ends = piece.iter().map(|byte| u8::from(*byte == b'\n'));
        usize::from(ends.sum::<u8>())
    };
    bytes.chunks(COUNTED_AT_ONCE).map(ends).sum()
}

/// `name: value`, the value without the blanks around it.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    // A folded line begins with a blank, which no name does.
    let colon = memchr::memchr(b':', line).ok_or_else(|| bad_name(line))?;
    Ok((&line[..colon], trim(&line[colon + 1..])))
}

/// Why a line does not begin with `name:`.
fn bad_name(line: &[u8]) -> Violation {
    match line.iter().position(|byte| !is_token(*byte)) {
        None => Violation::NoColon,
        Some(at) => match line[at] {
            b' ' | b'\t' if at == 0 => Violation::FoldedLine,
            b' ' | b'\t' => Violation::BlankBeforeColon,
            b'\r' => Violation::BareCr,
            _ => Violation::BadFieldName,
        },
    }
}

fn bad_value(value: &[u8]) -> Violation {
    match value.iter().find(|byte| !is_text(**byte)) {
        Some(b'\r') => Violation::BareCr,
        _ => Violation::ControlByte,
    }
}

pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether a Connection field names this option (RFC 9110 §7.6.1).
pub(super) fn names_option(value: &HeaderValue, wanted: &str) -> bool {
    let mut options = value.as_bytes().split(|byte| *byte == b',');
    options.any(|option| trim(option).eq_ignore_ascii_case(wanted.as_bytes()))
}

/// `transfer_encoding`: nobody honest says it, and some server may believe it.
pub fn poses_as_framing(name: &HeaderName) -> bool {
    let dashed = name.as_str().replace('_', "-");
    dashed != name.as_str()
        && [CONTENT_LENGTH, TRANSFER_ENCODING]
            .iter()
            .any(|framing| *framing == *dashed)
}

pub(super) fn push_field(bytes: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

/// A field whose value is a number.
pub(super) fn push_number_field(bytes: &mut Vec<u8>, name: &[u8], mut number: u64) {
    let mut digits = [0; NUMBER_DIGITS];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    push_field(bytes, name, &digits[first..]);
}

/// The size of a chunk that goes out, as its line.
pub(super) fn push_chunk_line(bytes: &mut Vec<u8>, size: usize) {
    // A vector takes all that is written to it.
    let _ = write!(bytes, "{size:x}\r\n");
}

/// The last chunk with its trailers (RFC 9112 §7.1.2).
pub(super) fn push_last_chunk(bytes: &mut Vec<u8>, trailers: &HeaderMap) {
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        push_field(bytes, name.as_str().as_bytes(), value.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
}

/// RFC 9110 §5.6.2
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// What a value or a reason may hold (RFC 9110 §5.5), obs-text included.
pub(super) fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..=0xff)
}

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
            )
            || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~');
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

static TOKEN: [bool; 256] = token_table();
const BLANK_LINE: &[u8] = b"\r\n\r\n";
static FIND_BLANK_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BLANK_LINE));
/// As many as a byte can count.
const COUNTED_AT_ONCE: usize = 255;
/// Bytes. What is longer may well hold many requests, and is not copied for each of them.
const USUAL_HEAD: usize = 2048;
/// 10^19 - 1 fits 64 bits.
const LENGTH_DIGITS: usize = 19;
const MOST_LENGTH: u64 = u64::MAX >> 1;
/// Of any number of 64 bits.
const NUMBER_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Two judges of one line: the parser, and the check for lines of a head that is not whole yet.
    #[test]
    fn the_check_of_a_line_agrees_with_the_parser() {
        let limits = HeadLimits {
            size: 1000,
            fields: 1,
        };
        let pieces = (0..=255_u8).flat_map(|byte| {
            let place = |before: &[u8], after: &[u8]| [before, &[byte], after].concat();
            [
                place(b"", b"x: y"),
                place(b"x", b": y"),
                place(b"x:", b"y"),
                place(b"x: a", b"b"),
                place(b"x", b""),
            ]
        });
        for line in pieces.filter(|line| !line.contains(&b'\n')) {
            let block = Bytes::from([&line[..], b"\r\n\r\n"].concat());
            let parsed = parse_fields(&block, 0, limits).map(drop);
            // A lone CR at the end of a line belongs to its end.
            if line != b"\r" {
                assert_eq!(check_field(&line), parsed, "{}", line.escape_ascii());
            }
        }
    }

    #[test]
    fn a_block_ends_behind_its_blank_line_or_its_first_bare_line_feed() {
        for (bytes, end) in [
            ("", None),
            ("a: b\r\n", None),
            ("a: b\r\n\r", None),
            ("a: b\r\n\r\n", Some(8)),
            ("a: b\r\n\r\nbody\r\n\r\n", Some(8)),
            ("\r\n\r\n", Some(4)),
            ("a: b\nc: d\r\n", Some(5)),
            ("\n", Some(1)),
        ] {
            for seen in 0..end.unwrap_or(bytes.len()) {
                assert_eq!(find_end(bytes.as_bytes(), seen), end, "{bytes:?} {seen}");
            }
        }
    }

    #[test]
    fn lines_are_counted_however_many_there_are() {
        for count in [0, 1, 254, 255, 256, 10_000] {
            assert_eq!(count_lines(&b"\n".repeat(count)), count);
            assert_eq!(count_lines(&b"a\r\n".repeat(count)), count);
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 64, 1_000_000, u64::MAX] {
            let mut bytes = Vec::new();
            push_number_field(&mut bytes, b"n", number);
            assert_eq!(bytes, format!("n: {number}\r\n").into_bytes());
        }
    }

    #[test]
    fn chunk_lines_are_hexadecimal() {
        for (size, line) in [(0, "0"), (9, "9"), (16, "10"), (0xbeef, "beef")] {
            let mut bytes = Vec::new();
            push_chunk_line(&mut bytes, size);
            assert_eq!(bytes, format!("{line}\r\n").into_bytes());
        }
    }
}
