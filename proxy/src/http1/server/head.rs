//! A request's head from its bytes.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::super::decode::{Decoder, Sender};
use super::super::syntax::{
    FieldBlock, check_field, is_token, next_line, parse_fields, put_back, take_block,
};
use super::super::{HeadLimits, Violation};

/// A request's head, and what it says of its connection.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    /// How the body is delimited.
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
}

/// Finds heads in what is read, however it is cut. A head's lines are looked at as they come, so
/// that one that is wrong is refused before it is whole.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// Bytes that are known to hold no end of a head.
    scanned: usize,
    /// Where the first line begins that was not looked at yet.
    line: usize,
    /// Lines that were looked at, the request line first.
    lines: usize,
}

impl HeadReader {
    /// Takes the next head out of what was read; `None` if it is not whole yet.
    pub(super) fn take(
        &mut self,
        read: &mut BytesMut,
        limits: HeadLimits,
    ) -> Result<Option<Head>, Violation> {
        // One blank line may precede a request (RFC 9112 §2.2); it counts for the size.
        let start = match read.starts_with(b"\r\n") {
            true => 2,
            false => 0,
        };
        if let Some(taken) = take_block(read, start, self.scanned) {
            *self = HeadReader::default();
            let (head, end) = parse(&taken, start, limits)?;
            put_back(read, &taken, end);
            return Ok(Some(head));
        }
        self.scanned = read.len();
        self.line = self.line.max(start);
        self.check_lines(read, limits)?;
        Ok(None)
    }

    /// Judges what has come so far as [`parse`] will.
    fn check_lines(&mut self, read: &[u8], limits: HeadLimits) -> Result<(), Violation> {
        if self.lines == 0 {
            check_beginning(&read[self.line..])?;
        }
        while let Some(line) = next_line(read, self.line, limits) {
            let (line, next) = match self.lines {
                0 => line.map_err(|fault| in_request_line(fault, read, limits))?,
                _ => line?,
            };
            match self.lines {
                0 => split_request_line(line).map(drop)?,
                fields if fields > limits.fields => return Err(Violation::TooManyFields),
                _ => check_field(line)?,
            }
            self.line = next;
            self.lines += 1;
        }
        match read.len() > limits.size {
            true if self.lines == 0 => Err(in_request_line(Violation::HeadTooLarge, read, limits)),
            true => Err(Violation::HeadTooLarge),
            false => Ok(()),
        }
    }
}

/// Parses the head that begins at `start`, and tells where it ends. Target and values share its
/// bytes.
fn parse(head: &Bytes, start: usize, limits: HeadLimits) -> Result<(Head, usize), Violation> {
    check_beginning(&head[start..])?;
    let (line, fields) = next_line(head, start, limits)
        .ok_or(Violation::BadMethod)?
        .map_err(|fault| in_request_line(fault, head, limits))?;
    let (method, target, version) = split_request_line(line)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).map_err(|_| Violation::BadMethod)?;
    *request.uri_mut() =
        Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_| Violation::BadTarget)?;
    if *request.method() == Method::OPTIONS && has_no_path(target) {
        let uri = std::mem::take(request.uri_mut());
        *request.uri_mut() = with_star(uri).ok_or(Violation::BadTarget)?;
    }
    *request.version_mut() = version;
    let fields = parse_fields(head, fields, limits)?;
    let body = body_of(&fields, version, limits)?;
    let keep_alive = !fields.connection_says("close")
        && (version == Version::HTTP_11 || fields.connection_says("keep-alive"));
    let expects_continue = version == Version::HTTP_11 && fields.expects_continue();
    *request.headers_mut() = fields.headers;
    let (parts, ()) = request.into_parts();
    let head = Head {
        parts,
        body,
        keep_alive,
        expects_continue,
    };
    Ok((head, fields.end))
}

/// `method target HTTP/1.x` (RFC 9112 §3), whose beginning was checked.
fn split_request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Violation> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    match target.iter().find(|byte| !is_target(**byte)) {
        None if target.is_empty() => return Err(Violation::BadTarget),
        None => {}
        Some(b'#') => return Err(Violation::Fragment),
        Some(_) => return Err(Violation::BadTarget),
    }
    let version = match words.next() {
        Some(b"HTTP/1.1") => Version::HTTP_11,
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(rest) if rest.contains(&b'\r') => return Err(Violation::BareCr),
        Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
            return Err(Violation::UnsupportedVersion);
        }
        _ => return Err(Violation::BadVersion),
    };
    if target.len() > TARGET_LENGTH {
        return Err(Violation::TargetTooLong);
    }
    Ok((method, target, version))
}

/// Whether a target is `http://host`, of which a [`Uri`] makes `http://host/`.
fn has_no_path(target: &[u8]) -> bool {
    target.first() != Some(&b'/')
        && target
            .windows(SCHEME_END.len())
            .position(|bytes| bytes == SCHEME_END)
            .is_some_and(|at| {
                !target[at + SCHEME_END.len()..]
                    .iter()
                    .any(|byte| b"/?".contains(byte))
            })
}

/// The target of a question about a whole server, asked in absolute form (RFC 9112 §3.2.4).
fn with_star(uri: Uri) -> Option<Uri> {
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).ok()
}

/// What is wrong with a request line that has this fault: one that is too large for a head has too
/// long a target, unless what is long stands behind that.
fn in_request_line(fault: Violation, read: &[u8], limits: HeadLimits) -> Violation {
    if fault != Violation::HeadTooLarge {
        return fault;
    }
    let seen = &read[..limits.size.min(read.len())];
    match seen.splitn(3, |byte| *byte == b' ').nth(2) {
        Some(rest) if !VERSIONS.iter().any(|line_end| line_end.starts_with(rest)) => {
            Violation::BadVersion
        }
        _ => Violation::TargetTooLong,
    }
}

/// Refuses what does not even begin like a request, TLS for example, before it is waited for.
fn check_beginning(bytes: &[u8]) -> Result<(), Violation> {
    let mut length = 0;
    loop {
        match bytes.get(length) {
            Some(byte) if is_token(*byte) => length += 1,
            _ if length > METHOD_LENGTH => return Err(Violation::MethodTooLong),
            None => return Ok(()),
            Some(b' ') if length > 0 => return Ok(()),
            // Half of a line end, and the line is not there yet.
            Some(b'\r') if bytes == b"\r" => return Ok(()),
            Some(_) => return Err(Violation::BadMethod),
        }
    }
}

/// How a request's body is delimited (RFC 9112 §6.3). Whoever says it twice is not served.
fn body_of(
    fields: &FieldBlock,
    version: Version,
    limits: HeadLimits,
) -> Result<Decoder, Violation> {
    let chunked = fields.is_chunked()?;
    if chunked && version == Version::HTTP_10 {
        return Err(Violation::BadTransferEncoding);
    }
    match fields.content_length()? {
        Some(_) if chunked => Err(Violation::LengthAndEncoding),
        None if chunked => Ok(Decoder::chunked(limits, Sender::Client)),
        None | Some(0) => Ok(Decoder::Empty),
        Some(length) => Ok(Decoder::Length(length)),
    }
}

/// Visible ASCII but the fragment's mark, which is never sent (RFC 9112 §3.2).
fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

const SCHEME_END: &[u8] = b"://";
/// The longest registered method has 16 letters.
const METHOD_LENGTH: usize = 32;
/// How a request line ends.
const VERSIONS: [&[u8]; 2] = [b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"];
/// What a [`Uri`] holds.
const TARGET_LENGTH: usize = 65_534;
