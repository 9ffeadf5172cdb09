//! Follows the framing of an HTTP/1 request stream byte by byte, without IO and in constant memory.
//!
//! It owns the rules of RFC 9112 that a lenient parser hides from its caller: which bytes may end a
//! line (§2.2), what a field line looks like (§5), how a body is delimited (§6.3) and what a chunk
//! line may hold (§7.1). It keeps no copy of the head: only the few words it must compare.
//!
//! Invariant: the answer depends on the bytes alone, never on how they were cut into reads. Once
//! refused, a stream stays refused.

use super::violation::Violation;
use super::word::{TARGET, TEXT, TOKEN, Word, run};

/// What a request head may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardLimits {
    /// Request head, bytes, from the first byte of the request line (or the blank line before it)
    /// to the blank line that ends it. Trailers get the same allowance again.
    pub head_size: usize,
    /// Field lines of a head; and of the trailers.
    pub head_fields: usize,
}

/// Where and why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Bytes of the fed slice that are still good.
    pub at: usize,
    pub violation: Violation,
    /// The head was already complete: the fault is in chunk lines or trailers.
    pub in_body: bool,
}

/// The state machine. Feed it every byte read from the client, in order.
#[derive(Debug)]
pub struct Inspector {
    limits: GuardLimits,
    state: State,
    head: Head,
    /// In the trailers of a chunked body, not in a head.
    in_trailers: bool,
    /// Bytes that the head or the trailers may still take; never 0, which is already a fault.
    room: usize,
    fields: usize,
    /// Bytes of chunk extensions that this body may still hold.
    extension_room: usize,
    /// The name (or method) and the value being read, as far as they matter.
    name: Word,
    value: Word,
    field: Field,
}

impl Inspector {
    pub fn new(limits: GuardLimits) -> Inspector {
        Inspector {
            limits,
            state: State::Idle { blank_line: false },
            head: Head::default(),
            in_trailers: false,
            room: usize::MAX,
            fields: 0,
            extension_room: CHUNK_EXTENSIONS,
            name: Word::default(),
            value: Word::default(),
            field: Field::Other,
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// An error says how many of them precede the fault; nothing after that may reach a parser.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(consumed) => at += consumed,
                Err(Fault { after, violation }) => {
                    let in_body = self.in_body();
                    self.state = State::Refused { violation, in_body };
                    return Err(Refusal {
                        at: at + after,
                        violation,
                        in_body,
                    });
                }
            }
        }
        Ok(())
    }

    /// The stream may have become a tunnel: what follows is passed on unexamined.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.state, State::Tunnel)
    }

    fn in_body(&self) -> bool {
        match self.state {
            State::Refused { in_body, .. } => in_body,
            State::Length(_) | State::Tunnel => true,
            State::ChunkSize { .. }
            | State::ChunkBlank { .. }
            | State::ChunkExtension { .. }
            | State::ChunkLineLf { .. }
            | State::ChunkData(_)
            | State::ChunkEndCr
            | State::ChunkEndLf => true,
            _ => self.in_trailers,
        }
    }

    /// Consumes at least one byte of a non-empty slice, or moves to another state.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.state {
            State::Refused { violation, .. } => Err(violation.after(0)),
            State::Tunnel => Ok(bytes.len()),
            State::Length(left) => {
                let taken = clamp(left, bytes.len());
                let left = left - taken as u64;
                self.state = if left == 0 {
                    State::IDLE
                } else {
                    State::Length(left)
                };
                Ok(taken)
            }
            State::ChunkSize { .. }
            | State::ChunkBlank { .. }
            | State::ChunkExtension { .. }
            | State::ChunkLineLf { .. }
            | State::ChunkData(_)
            | State::ChunkEndCr
            | State::ChunkEndLf => self.chunk_step(bytes),
            _ => {
                let consumed = self.head_step(&bytes[..bytes.len().min(self.room)])?;
                // The end of a head has already lifted the limit.
                self.room = self.room.saturating_sub(consumed);
                if self.room == 0 {
                    return Err(Violation::HeadTooLarge.after(consumed));
                }
                Ok(consumed)
            }
        }
    }

    fn head_step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let first = bytes[0];
        match self.state {
            State::Idle { blank_line: false } if first == b'\r' => {
                self.begin_head();
                self.state = State::BlankLineLf;
                Ok(1)
            }
            State::Idle { blank_line } => {
                if !blank_line {
                    self.begin_head();
                }
                self.name.clear();
                self.state = State::Method { length: 0 };
                Ok(0)
            }
            State::BlankLineLf => {
                self.expect_lf(first, Violation::BareCr, State::Idle { blank_line: true })
            }
            State::Method { length } => self.method(bytes, length),
            State::Target { empty } => {
                let taken = run(bytes, &TARGET);
                let empty = empty && taken == 0;
                match bytes.get(taken) {
                    None => self.state = State::Target { empty },
                    Some(b' ') if !empty => {
                        self.state = State::Version { matched: 0 };
                        return Ok(taken + 1);
                    }
                    Some(b'#') => return Err(Violation::Fragment.after(taken)),
                    // HTTP/0.9 had no version.
                    Some(b'\r' | b'\n') => return Err(Violation::BadVersion.after(taken)),
                    Some(_) => return Err(Violation::BadTarget.after(taken)),
                }
                Ok(taken)
            }
            State::Version { matched } => self.version(first, matched),
            State::RequestLineLf => self.expect_lf(first, Violation::BareCr, State::FieldStart),
            State::FieldStart => self.field_start(first),
            State::FieldName => self.field_name(bytes),
            State::FieldValue => self.field_value(bytes),
            State::FieldLf => self.expect_lf(first, Violation::BareCr, State::FieldStart),
            State::HeadLf if first != b'\n' => Err(Violation::BareCr.after(0)),
            State::HeadLf => {
                self.end_head();
                Ok(1)
            }
            // `step` sends every other state elsewhere.
            _ => Ok(bytes.len()),
        }
    }

    fn begin_head(&mut self) {
        self.head = Head::default();
        self.in_trailers = false;
        self.fields = 0;
        self.room = self.limits.head_size.max(1);
    }

    fn method(&mut self, bytes: &[u8], length: usize) -> Result<usize, Fault> {
        let taken = run(bytes, &TOKEN);
        if length + taken > METHOD_LENGTH {
            return Err(Violation::MethodTooLong.after(METHOD_LENGTH - length));
        }
        self.name.push(&bytes[..taken]);
        let length = length + taken;
        match bytes.get(taken) {
            None => {
                self.state = State::Method { length };
                Ok(taken)
            }
            Some(b' ') if length > 0 => {
                self.head.is_get = self.name.is(b"GET");
                self.state = State::Target { empty: true };
                Ok(taken + 1)
            }
            Some(_) => Err(Violation::BadMethod.after(taken)),
        }
    }

    fn version(&mut self, byte: u8, matched: usize) -> Result<usize, Fault> {
        self.state = match (matched, byte) {
            (matched, byte) if VERSION_PREFIX.get(matched) == Some(&byte) => State::Version {
                matched: matched + 1,
            },
            (VERSION_MINOR, b'0' | b'1') => {
                self.head.is_http10 = byte == b'0';
                State::Version {
                    matched: matched + 1,
                }
            }
            (VERSION_END, b'\r') => State::RequestLineLf,
            (VERSION_END, b'\n') => return Err(Violation::BareLf.after(0)),
            _ => return Err(Violation::BadVersion.after(0)),
        };
        Ok(1)
    }

    fn field_start(&mut self, first: u8) -> Result<usize, Fault> {
        match first {
            b'\r' => {
                self.state = State::HeadLf;
                Ok(1)
            }
            b'\n' => Err(Violation::BareLf.after(0)),
            b' ' | b'\t' => Err(Violation::FoldedLine.after(0)),
            _ if !TOKEN[usize::from(first)] => Err(Violation::BadFieldName.after(0)),
            _ if self.fields == self.limits.head_fields => Err(Violation::TooManyFields.after(0)),
            _ => {
                self.fields += 1;
                self.name.clear();
                self.state = State::FieldName;
                Ok(0)
            }
        }
    }

    fn field_name(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let taken = run(bytes, &TOKEN);
        self.name.push(&bytes[..taken]);
        match bytes.get(taken) {
            None => return Ok(taken),
            Some(b':') => {}
            Some(b' ' | b'\t') => return Err(Violation::BlankBeforeColon.after(taken)),
            Some(b'\r' | b'\n') => return Err(Violation::NoColon.after(taken)),
            Some(_) => return Err(Violation::BadFieldName.after(taken)),
        }
        self.field = if self.name.is_ignoring_case(b"content-length") {
            Field::ContentLength
        } else if self.name.is_ignoring_case(b"transfer-encoding") {
            Field::TransferEncoding
        } else if self.name.is_ignoring_case(b"upgrade") {
            Field::Upgrade
        } else {
            Field::Other
        };
        if self.in_trailers && matches!(self.field, Field::ContentLength | Field::TransferEncoding)
        {
            return Err(Violation::FramingInTrailers.after(taken));
        }
        self.value.clear();
        self.state = State::FieldValue;
        Ok(taken + 1)
    }

    fn field_value(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let taken = run(bytes, &TEXT);
        if self.field != Field::Other {
            self.value.push_value(&bytes[..taken]);
        }
        match bytes.get(taken) {
            None => Ok(taken),
            Some(b'\r') => {
                self.end_field()
                    .map_err(|violation| violation.after(taken))?;
                self.state = State::FieldLf;
                Ok(taken + 1)
            }
            Some(b'\n') => Err(Violation::BareLf.after(taken)),
            Some(_) => Err(Violation::ControlByte.after(taken)),
        }
    }

    fn end_field(&mut self) -> Result<(), Violation> {
        let head = &mut self.head;
        match self.field {
            Field::Other => {}
            Field::Upgrade => {
                head.upgrade = match head.upgrade {
                    Upgrade::Absent if self.value.is_ignoring_case(b"websocket") => {
                        Upgrade::WebSocket
                    }
                    _ => Upgrade::Other,
                };
            }
            Field::ContentLength => {
                let length = self.value.decimal().ok_or(Violation::BadContentLength)?;
                if head.length.is_some() {
                    return Err(Violation::RepeatedContentLength);
                }
                head.length = Some(length);
            }
            Field::TransferEncoding => {
                let fine = self.value.is_ignoring_case(b"chunked");
                if !fine || head.chunked || head.is_http10 {
                    return Err(Violation::BadTransferEncoding);
                }
                head.chunked = true;
            }
        }
        if head.chunked && head.length.is_some() {
            return Err(Violation::LengthAndEncoding);
        }
        Ok(())
    }

    fn end_head(&mut self) {
        let head = &self.head;
        self.state = if self.in_trailers {
            State::IDLE
        } else if head.chunked {
            self.extension_room = CHUNK_EXTENSIONS;
            State::CHUNK_SIZE
        } else {
            match head.length {
                Some(length) if length > 0 => State::Length(length),
                _ if head.is_get && !head.is_http10 && head.upgrade == Upgrade::WebSocket => {
                    State::Tunnel
                }
                _ => State::IDLE,
            }
        };
        // Until the next head begins nothing is counted.
        self.room = usize::MAX;
    }

    fn chunk_step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let first = bytes[0];
        match self.state {
            State::ChunkSize { size, digits } => {
                let digit = char::from(first).to_digit(16);
                self.state = match (digit, first) {
                    (Some(_), _) if digits == CHUNK_SIZE_DIGITS => {
                        return Err(Violation::BadChunkSize.after(0));
                    }
                    (Some(digit), _) => State::ChunkSize {
                        size: size << 4 | u64::from(digit),
                        digits: digits + 1,
                    },
                    _ if digits == 0 => return Err(Violation::BadChunkSize.after(0)),
                    (None, b'\r') => State::ChunkLineLf { size },
                    (None, b';' | b' ' | b'\t') => {
                        self.state = State::ChunkBlank { size };
                        return Ok(0);
                    }
                    (None, b'\n') => return Err(Violation::BareLf.after(0)),
                    (None, _) => return Err(Violation::BadChunkSize.after(0)),
                };
                Ok(1)
            }
            State::ChunkBlank { size } => {
                self.state = match first {
                    b';' => State::ChunkExtension { size },
                    b' ' | b'\t' => State::ChunkBlank { size },
                    b'\n' => return Err(Violation::BareLf.after(0)),
                    // A blank with no extension after it is no chunk line.
                    _ => return Err(Violation::BadChunkSize.after(0)),
                };
                self.take_extension(1)
            }
            State::ChunkExtension { size } => {
                let taken = run(bytes, &TEXT);
                self.take_extension(taken)?;
                match bytes.get(taken) {
                    None => return Ok(taken),
                    Some(b'\r') => self.state = State::ChunkLineLf { size },
                    Some(b'\n') => return Err(Violation::BareLf.after(taken)),
                    Some(_) => return Err(Violation::BadChunkExtension.after(taken)),
                }
                Ok(taken + 1)
            }
            State::ChunkLineLf { size: 0 } => {
                let consumed = self.expect_lf(first, Violation::BareCr, State::FieldStart)?;
                self.begin_head();
                self.in_trailers = true;
                Ok(consumed)
            }
            State::ChunkLineLf { size } => {
                self.expect_lf(first, Violation::BareCr, State::ChunkData(size))
            }
            State::ChunkData(left) => {
                let taken = clamp(left, bytes.len());
                let left = left - taken as u64;
                self.state = if left == 0 {
                    State::ChunkEndCr
                } else {
                    State::ChunkData(left)
                };
                Ok(taken)
            }
            State::ChunkEndCr if first == b'\r' => {
                self.state = State::ChunkEndLf;
                Ok(1)
            }
            State::ChunkEndCr => Err(Violation::BadChunkEnd.after(0)),
            State::ChunkEndLf => self.expect_lf(first, Violation::BadChunkEnd, State::CHUNK_SIZE),
            // `step` sends every other state elsewhere.
            _ => Ok(bytes.len()),
        }
    }

    fn take_extension(&mut self, bytes: usize) -> Result<usize, Fault> {
        match self.extension_room.checked_sub(bytes) {
            Some(room) => {
                self.extension_room = room;
                Ok(bytes)
            }
            None => Err(Violation::ChunkExtensionsTooLong.after(self.extension_room)),
        }
    }

    fn expect_lf(&mut self, byte: u8, otherwise: Violation, next: State) -> Result<usize, Fault> {
        if byte != b'\n' {
            return Err(otherwise.after(0));
        }
        self.state = next;
        Ok(1)
    }
}

/// A violation found after some good bytes of the slice at hand.
struct Fault {
    after: usize,
    violation: Violation,
}

impl Violation {
    fn after(self, after: usize) -> Fault {
        Fault {
            after,
            violation: self,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Between messages; `blank_line`: the one that may precede a request was there.
    Idle {
        blank_line: bool,
    },
    BlankLineLf,
    Method {
        length: usize,
    },
    Target {
        empty: bool,
    },
    Version {
        matched: usize,
    },
    RequestLineLf,
    FieldStart,
    FieldName,
    FieldValue,
    FieldLf,
    HeadLf,
    Length(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkBlank {
        size: u64,
    },
    ChunkExtension {
        size: u64,
    },
    ChunkLineLf {
        size: u64,
    },
    ChunkData(u64),
    ChunkEndCr,
    ChunkEndLf,
    Tunnel,
    Refused {
        violation: Violation,
        in_body: bool,
    },
}

impl State {
    const IDLE: State = State::Idle { blank_line: false };
    const CHUNK_SIZE: State = State::ChunkSize { size: 0, digits: 0 };
}

/// What a head said about its framing.
#[derive(Debug, Default)]
struct Head {
    is_get: bool,
    is_http10: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: Upgrade,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    #[default]
    Absent,
    /// One field, one token.
    WebSocket,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    ContentLength,
    TransferEncoding,
    Upgrade,
    Other,
}

fn clamp(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

const VERSION_PREFIX: &[u8] = b"HTTP/1.";
const VERSION_MINOR: usize = VERSION_PREFIX.len();
const VERSION_END: usize = VERSION_MINOR + 1;
/// The longest registered method has 16 letters.
const METHOD_LENGTH: usize = 32;
const CHUNK_SIZE_DIGITS: u8 = 16;
/// Chunk extensions of one body, bytes in total: nobody uses them but attackers.
const CHUNK_EXTENSIONS: usize = 4096;
