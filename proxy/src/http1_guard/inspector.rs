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
            state: State::IDLE,
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

    /// Whether what was fed are whole messages, without a byte of the next.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Head(HeadState::Idle { .. })) && !self.in_trailers
    }

    /// The stream may have become a tunnel: what follows is passed on unexamined.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.state, State::Tunnel)
    }

    fn in_body(&self) -> bool {
        match self.state {
            State::Refused { in_body, .. } => in_body,
            State::Length(_) | State::Chunk(_) | State::Tunnel => true,
            State::Head(_) => self.in_trailers,
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
            State::Chunk(state) => self.chunk_step(state, bytes),
            State::Head(state) => {
                let consumed = self.head_step(state, &bytes[..bytes.len().min(self.room)])?;
                // The end of a head has already lifted the limit.
                self.room = self.room.saturating_sub(consumed);
                if self.room == 0 {
                    return Err(Violation::HeadTooLarge.after(consumed));
                }
                Ok(consumed)
            }
        }
    }

    fn head_step(&mut self, state: HeadState, bytes: &[u8]) -> Result<usize, Fault> {
        let first = bytes[0];
        match state {
            HeadState::Idle { blank_line: false } if first == b'\r' => {
                self.begin_head();
                self.state = State::from(HeadState::BlankLineLf);
                Ok(1)
            }
            HeadState::Idle { blank_line } => {
                if !blank_line {
                    self.begin_head();
                }
                self.name.clear();
                self.state = State::from(HeadState::Method { length: 0 });
                Ok(0)
            }
            HeadState::BlankLineLf => self.expect_lf(
                first,
                Violation::BareCr,
                HeadState::Idle { blank_line: true },
            ),
            HeadState::Method { length } => self.method(bytes, length),
            HeadState::Target { empty } => {
                let taken = run(bytes, &TARGET);
                let empty = empty && taken == 0;
                match bytes.get(taken) {
                    None => self.state = State::from(HeadState::Target { empty }),
                    Some(b' ') if !empty => {
                        self.state = State::from(HeadState::Version { matched: 0 });
                        return Ok(taken + 1);
                    }
                    Some(b'#') => return Err(Violation::Fragment.after(taken)),
                    // HTTP/0.9 had no version.
                    Some(b'\r' | b'\n') => return Err(Violation::BadVersion.after(taken)),
                    Some(_) => return Err(Violation::BadTarget.after(taken)),
                }
                Ok(taken)
            }
            HeadState::Version { matched } => self.version(first, matched),
            HeadState::RequestLineLf => {
                self.expect_lf(first, Violation::BareCr, HeadState::FieldStart)
            }
            HeadState::FieldStart => self.field_start(first),
            HeadState::FieldName => self.field_name(bytes),
            HeadState::FieldValue => self.field_value(bytes),
            HeadState::FieldLf => self.expect_lf(first, Violation::BareCr, HeadState::FieldStart),
            HeadState::EndLf if first != b'\n' => Err(Violation::BareCr.after(0)),
            HeadState::EndLf => {
                self.end_head();
                Ok(1)
            }
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
                self.state = State::from(HeadState::Method { length });
                Ok(taken)
            }
            Some(b' ') if length > 0 => {
                self.head.is_get = self.name.is(b"GET");
                self.state = State::from(HeadState::Target { empty: true });
                Ok(taken + 1)
            }
            Some(_) => Err(Violation::BadMethod.after(taken)),
        }
    }

    fn version(&mut self, byte: u8, matched: usize) -> Result<usize, Fault> {
        self.state = State::from(match (matched, byte) {
            (matched, byte) if VERSION_PREFIX.get(matched) == Some(&byte) => HeadState::Version {
                matched: matched + 1,
            },
            (VERSION_MINOR, b'0' | b'1') => {
                self.head.is_http10 = byte == b'0';
                HeadState::Version {
                    matched: matched + 1,
                }
            }
            (VERSION_END, b'\r') => HeadState::RequestLineLf,
            (VERSION_END, b'\n') => return Err(Violation::BareLf.after(0)),
            _ => return Err(Violation::BadVersion.after(0)),
        });
        Ok(1)
    }

    fn field_start(&mut self, first: u8) -> Result<usize, Fault> {
        match first {
            b'\r' => {
                self.state = State::from(HeadState::EndLf);
                Ok(1)
            }
            b'\n' => Err(Violation::BareLf.after(0)),
            b' ' | b'\t' => Err(Violation::FoldedLine.after(0)),
            _ if !TOKEN[usize::from(first)] => Err(Violation::BadFieldName.after(0)),
            _ if self.fields == self.limits.head_fields => Err(Violation::TooManyFields.after(0)),
            _ => {
                self.fields += 1;
                self.name.clear();
                self.state = State::from(HeadState::FieldName);
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
        self.state = State::from(HeadState::FieldValue);
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
                self.state = State::from(HeadState::FieldLf);
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
            State::from(ChunkState::START)
        } else {
            match head.length {
                Some(length) if length > 0 => State::Length(length),
                _ if head.is_get && !head.is_http10 && head.upgrade == Upgrade::WebSocket => {
                    State::Tunnel
                }
                _ => State::IDLE,
            }
        };
        self.in_trailers = false;
        // Until the next head begins nothing is counted.
        self.room = usize::MAX;
    }

    fn chunk_step(&mut self, state: ChunkState, bytes: &[u8]) -> Result<usize, Fault> {
        let first = bytes[0];
        match state {
            ChunkState::Size { size, digits } => {
                let digit = char::from(first).to_digit(16);
                self.state = State::from(match (digit, first) {
                    (Some(_), _) if digits == CHUNK_SIZE_DIGITS => {
                        return Err(Violation::BadChunkSize.after(0));
                    }
                    (Some(digit), _) => ChunkState::Size {
                        size: size << 4 | u64::from(digit),
                        digits: digits + 1,
                    },
                    _ if digits == 0 => return Err(Violation::BadChunkSize.after(0)),
                    (None, b'\r') => ChunkState::LineLf { size },
                    (None, b';' | b' ' | b'\t') => {
                        self.state = State::from(ChunkState::Blank { size });
                        return Ok(0);
                    }
                    (None, b'\n') => return Err(Violation::BareLf.after(0)),
                    (None, _) => return Err(Violation::BadChunkSize.after(0)),
                });
                Ok(1)
            }
            ChunkState::Blank { size } => {
                self.state = State::from(match first {
                    b';' => ChunkState::Extension { size },
                    b' ' | b'\t' => ChunkState::Blank { size },
                    b'\n' => return Err(Violation::BareLf.after(0)),
                    // A blank with no extension after it is no chunk line.
                    _ => return Err(Violation::BadChunkSize.after(0)),
                });
                self.take_extension(1)
            }
            ChunkState::Extension { size } => {
                let taken = run(bytes, &TEXT);
                self.take_extension(taken)?;
                match bytes.get(taken) {
                    None => return Ok(taken),
                    Some(b'\r') => self.state = State::from(ChunkState::LineLf { size }),
                    Some(b'\n') => return Err(Violation::BareLf.after(taken)),
                    Some(_) => return Err(Violation::BadChunkExtension.after(taken)),
                }
                Ok(taken + 1)
            }
            ChunkState::LineLf { size: 0 } => {
                let consumed = self.expect_lf(first, Violation::BareCr, HeadState::FieldStart)?;
                self.begin_head();
                self.in_trailers = true;
                Ok(consumed)
            }
            ChunkState::LineLf { size } => {
                self.expect_lf(first, Violation::BareCr, ChunkState::Data(size))
            }
            ChunkState::Data(left) => {
                let taken = clamp(left, bytes.len());
                let left = left - taken as u64;
                self.state = State::from(if left == 0 {
                    ChunkState::EndCr
                } else {
                    ChunkState::Data(left)
                });
                Ok(taken)
            }
            ChunkState::EndCr if first == b'\r' => {
                self.state = State::from(ChunkState::EndLf);
                Ok(1)
            }
            ChunkState::EndCr => Err(Violation::BadChunkEnd.after(0)),
            ChunkState::EndLf => self.expect_lf(first, Violation::BadChunkEnd, ChunkState::START),
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

    fn expect_lf(
        &mut self,
        byte: u8,
        otherwise: Violation,
        next: impl Into<State>,
    ) -> Result<usize, Fault> {
        if byte != b'\n' {
            return Err(otherwise.after(0));
        }
        self.state = next.into();
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
    /// In a head, before one, or in trailers.
    Head(HeadState),
    /// In a body of which so many bytes are missing.
    Length(u64),
    Chunk(ChunkState),
    Tunnel,
    Refused {
        violation: Violation,
        in_body: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum HeadState {
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
    EndLf,
}

#[derive(Debug, Clone, Copy)]
enum ChunkState {
    Size { size: u64, digits: u8 },
    Blank { size: u64 },
    Extension { size: u64 },
    LineLf { size: u64 },
    Data(u64),
    EndCr,
    EndLf,
}

impl State {
    const IDLE: State = State::Head(HeadState::Idle { blank_line: false });
}

impl ChunkState {
    const START: ChunkState = ChunkState::Size { size: 0, digits: 0 };
}

impl From<HeadState> for State {
    fn from(state: HeadState) -> State {
        State::Head(state)
    }
}

impl From<ChunkState> for State {
    fn from(state: ChunkState) -> State {
        State::Chunk(state)
    }
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
