//! One direction's bytes, cut anywhere, to messages and control frames (RFC 6455 §5 and §6.2, RFC 7692
//! §7.2.2).
//!
//! A [`Reader`] checks everything that a receiver must: heads, the order of fragments, text, close
//! payloads, compressed data, and the limits of its [`Rules`]. What it is told to pass on it hands out as
//! it came, as soon as it is known to be right; what is wanted whole it collects. The events are the
//! same however the bytes are cut, but for the cuts in what is passed on.
//!
//! Nothing is reserved on a length's word: memory grows with the bytes that have come. Between messages a
//! reader holds no more than the [`Inflater`] of a direction that is compressed, so at most its last window.
//! After a Close everything is ignored (§5.5.1); after a [`Fault`] the reader is lost, and ignores it too.

use super::control::CloseCode;
use super::deflate::{self, InflateError, Inflater};
use super::head::{Expect, Head, MAX_HEAD, Opcode, Side, Violation};
use super::mask;
use super::message::{
    Begin, Control, ControlKind, DataKind, Event, Message, Passed, Want, Wire, WireHead,
};
use super::utf8::{InvalidUtf8, Utf8};

/// What one direction may send.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Who sends.
    pub side: Side,
    /// How this direction compresses; `None`: RSV1 is a violation.
    pub deflate: Option<deflate::Params>,
    /// Bytes of a message, inflated where it is collected or inspected; `u64::MAX`: no limit. On the wire
    /// a compressed one may take a quarter more than that, and 256 bytes.
    pub max_message: u64,
    /// Data frames of a message.
    pub max_frames: u32,
    /// Also looks into messages that are passed on: checks text, inflates (for the size and the
    /// context). Where compression keeps its context, without it a compressed message that is passed
    /// makes those behind it unreadable: [`Fault::ContextMissing`].
    pub inspect: bool,
}

/// Why a direction cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Framing(#[from] Violation),
    #[error("text is not UTF-8")]
    Text,
    #[error("close code {0} may not be sent")]
    CloseCode(CloseCode),
    #[error("close reason is not UTF-8")]
    CloseReason,
    #[error("message over {0} bytes")]
    TooBig(u64),
    #[error("message of over {0} frames")]
    TooManyFrames(u32),
    #[error("compressed data is broken")]
    Deflate,
    /// By [`Want::Refuse`].
    #[error("messages of this kind are not accepted")]
    Refused,
    /// A mistake of the caller's: see [`Rules::inspect`].
    #[error("compression context was not followed")]
    ContextMissing,
}

/// Reads one direction of a connection.
pub struct Reader {
    rules: Rules,
    messages: u64,
    /// The present frame, and how many bytes of its payload are still to come.
    frame: Head,
    left: u64,
    stage: Stage,
    /// What has come of a head.
    head: WireHead,
    /// What has come of a control frame's payload, masked.
    control: Vec<u8>,
    /// The data message that has begun.
    message: Option<Progress>,
    /// What has come of it, where it is wanted whole.
    collected: Option<Box<Message>>,
    inflater: Option<Box<Inflater>>,
    /// The inflater has missed a message whose context it needs.
    context_missing: bool,
    /// What was handed out ends inside a frame.
    inside_frame: bool,
    close: Option<CloseCode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Data,
    Control(ControlKind),
    /// After a Close or a fault.
    Over,
}

/// A data message on its way.
struct Progress {
    kind: DataKind,
    compressed: bool,
    pass: bool,
    utf8: Utf8,
    frames: u32,
    /// Payload bytes of the frames that have begun.
    wire: u64,
    /// Inflated bytes that were inspected.
    inflated: u64,
}

impl Reader {
    /// Allocates nothing.
    pub fn new(rules: Rules) -> Reader {
        Reader {
            rules,
            messages: 0,
            frame: Head {
                fin: true,
                rsv1: false,
                opcode: Opcode::Binary,
                mask: None,
                len: 0,
            },
            left: 0,
            stage: Stage::Head,
            head: WireHead::default(),
            control: Vec::new(),
            message: None,
            collected: None,
            inflater: None,
            context_missing: false,
            inside_frame: false,
            close: None,
        }
    }

    /// Reads the next event out of `bytes` and moves it past what that took; `None`: all of it is
    /// used, more is needed.
    ///
    /// `want` is asked once for each data message, as soon as the head of its first frame is there.
    /// With a fault everything that is left is dropped.
    pub fn read<'b>(
        &mut self,
        bytes: &mut &'b [u8],
        mut want: impl FnMut(&Begin) -> Want,
    ) -> Result<Option<Event<'b>>, Fault> {
        let event = self.next(bytes, &mut want);
        if event.is_err() {
            self.end();
            *bytes = &[];
        }
        event
    }

    /// Data messages that have come whole.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether a control frame may be put in behind what was handed out: it ends between two frames,
    /// and no Close is among it. A fault does not change that.
    pub fn at_boundary(&self) -> bool {
        !self.inside_frame && self.close.is_none()
    }

    /// Whether a data message has begun and not ended.
    pub fn in_message(&self) -> bool {
        self.message.is_some()
    }

    /// Whether the begin of a message was handed out, and its end not: no data frame may be put in.
    pub fn is_passing(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.pass)
    }

    /// Whether nothing has come in part.
    pub fn is_idle(&self) -> bool {
        self.message.is_none() && self.stage == Stage::Head && self.head.is_empty()
    }

    /// The code of the Close that has come, [`CloseCode::NO_STATUS`] if it had none.
    pub fn close(&self) -> Option<CloseCode> {
        self.close
    }

    /// Whether nothing more will be read: a Close has come, or there was a fault.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Bytes of the message that is being collected, as far as it has come.
    pub fn collected(&self) -> usize {
        let message = self.collected.as_ref();
        message.map_or(0, |message| message.wire_payload())
    }

    /// Lets go of everything collected. From now on nothing is looked into: the caller wants no message
    /// whole any more.
    pub fn let_go(&mut self) {
        self.collected = None;
        self.inflater = None;
        self.context_missing = true;
        self.rules.inspect = false;
        if let Some(message) = &mut self.message {
            message.pass = true;
        }
    }

    /// Not inlined: so its event, large as the type is, is written where the caller wants it.
    #[inline(never)]
    fn next<'b>(
        &mut self,
        bytes: &mut &'b [u8],
        want: &mut impl FnMut(&Begin) -> Want,
    ) -> Next<'b> {
        loop {
            match self.stage {
                Stage::Over => {
                    *bytes = &[];
                    return Ok(None);
                }
                Stage::Head => {
                    let frame = *bytes;
                    let Some(used) = self.read_head(bytes)? else {
                        return Ok(None);
                    };
                    self.begin_frame(want)?;
                    if self.stage == Stage::Data && self.is_passing() {
                        return if self.head.is_empty() {
                            self.pass(frame, used, bytes)
                        } else {
                            self.pass_head()
                        };
                    }
                    self.head.len = 0;
                }
                _ if bytes.is_empty() && self.left > 0 => return Ok(None),
                Stage::Data if self.is_passing() => {
                    let rest = *bytes;
                    return self.pass(rest, 0, bytes);
                }
                Stage::Data => {
                    let whole = self.collect(bytes);
                    if !matches!(whole, Ok(None)) {
                        return whole;
                    }
                }
                Stage::Control(kind) => {
                    if let Some(control) = self.read_control(kind, bytes)? {
                        return Ok(Some(Event::Control(control)));
                    }
                }
            }
        }
    }

    /// Reads a head into `self.frame`, and says how many bytes of the chunk it took. One that began in
    /// an earlier chunk is in `self.head` as well.
    #[inline(always)]
    fn read_head(&mut self, bytes: &mut &[u8]) -> Result<Option<usize>, Fault> {
        let expect = Expect {
            side: self.rules.side,
            rsv1_allowed: self.rules.deflate.is_some(),
            in_message: self.message.is_some(),
        };
        let begun = usize::from(self.head.len);
        let parsed = if begun == 0 {
            Head::parse(bytes, expect)?
        } else {
            let more = bytes.len().min(MAX_HEAD - begun);
            self.head.bytes[begun..begun + more].copy_from_slice(&bytes[..more]);
            Head::parse(&self.head.bytes[..begun + more], expect)?
        };
        let Some((head, len)) = parsed else {
            // At most 13 bytes, or the head would be complete.
            if begun == 0 {
                self.head.bytes[..bytes.len()].copy_from_slice(bytes);
            }
            self.head.len += bytes.len() as u8;
            *bytes = &[];
            return Ok(None);
        };
        if begun > 0 {
            self.head.len = len as u8;
        }
        let used = len - begun;
        *bytes = &bytes[used..];
        self.frame = head;
        self.left = head.len;
        Ok(Some(used))
    }

    /// What the frame in `self.frame` is, and whether its message may go on.
    #[inline(always)]
    fn begin_frame(&mut self, want: &mut impl FnMut(&Begin) -> Want) -> Result<(), Fault> {
        self.stage = match self.frame.opcode {
            Opcode::Close => Stage::Control(ControlKind::Close),
            Opcode::Ping => Stage::Control(ControlKind::Ping),
            Opcode::Pong => Stage::Control(ControlKind::Pong),
            Opcode::Continuation => Stage::Data,
            Opcode::Text => self.begin_message(DataKind::Text, want)?,
            Opcode::Binary => self.begin_message(DataKind::Binary, want)?,
        };
        let Some(message) = &mut self.message else {
            return Ok(());
        };
        if self.stage != Stage::Data {
            return Ok(());
        }
        message.frames += 1;
        if message.frames > self.rules.max_frames {
            return Err(Fault::TooManyFrames(self.rules.max_frames));
        }
        message.wire = message.wire.saturating_add(self.frame.len);
        let limit = self.rules.max_message;
        let wire_limit = if message.compressed {
            limit.saturating_add(limit / 4 + DEFLATE_SLACK)
        } else {
            limit
        };
        if message.wire > wire_limit {
            return Err(Fault::TooBig(limit));
        }
        if let Some(message) = &mut self.collected {
            message.begin_frame(self.frame);
        }
        Ok(())
    }

    #[inline(always)]
    fn begin_message(
        &mut self,
        kind: DataKind,
        want: &mut impl FnMut(&Begin) -> Want,
    ) -> Result<Stage, Fault> {
        let compressed = self.frame.rsv1;
        let want = want(&Begin {
            kind,
            compressed,
            frame_len: self.frame.len,
            fin: self.frame.fin,
        });
        match want {
            Want::Refuse => return Err(Fault::Refused),
            Want::Whole if compressed && self.context_missing => return Err(Fault::ContextMissing),
            Want::Pass if compressed && !self.rules.inspect => {
                self.context_missing |= self.rules.deflate.is_some_and(|params| params.takeover);
            }
            _ => {}
        }
        self.message = Some(Progress {
            kind,
            compressed,
            pass: want == Want::Pass,
            utf8: Utf8::default(),
            frames: 0,
            wire: 0,
            inflated: 0,
        });
        Ok(Stage::Data)
    }

    /// Hands out a head that came in pieces.
    fn pass_head<'b>(&mut self) -> Next<'b> {
        let wire = Wire::Head(std::mem::take(&mut self.head));
        let ends = self.end_passed_frame()?;
        self.inside_frame = self.left > 0;
        Ok(Some(Event::Passed { wire, ends }))
    }

    /// Hands out what the chunk has of the present frame: from `frame` on, which begins with `head_len`
    /// bytes of its head, and of its payload what is in `bytes`.
    #[inline(always)]
    fn pass<'b>(&mut self, frame: &'b [u8], head_len: usize, bytes: &mut &'b [u8]) -> Next<'b> {
        let offset = self.frame.len - self.left;
        let payload = take(bytes, &mut self.left);
        if self.rules.inspect {
            self.inspect(payload, offset as usize)?;
        }
        let ends = self.end_passed_frame()?;
        self.inside_frame = self.left > 0;
        let wire = Wire::Chunk(&frame[..head_len + payload.len()]);
        Ok(Some(Event::Passed { wire, ends }))
    }

    /// Ends the frame if all of it is there, and with the last one its message.
    #[inline(always)]
    fn end_passed_frame(&mut self) -> Result<Option<Passed>, Fault> {
        if self.left > 0 {
            return Ok(None);
        }
        self.stage = Stage::Head;
        if !self.frame.fin {
            return Ok(None);
        }
        if self.rules.inspect {
            self.inspect_end()?;
        }
        self.messages += 1;
        let passed = self.message.as_ref().map(|message| Passed {
            kind: message.kind,
            compressed: message.compressed,
            wire: message.wire,
            size: if message.compressed && self.rules.inspect {
                message.inflated
            } else {
                message.wire
            },
        });
        self.message = None;
        Ok(passed)
    }

    /// Looks into the next bytes of a message that is passed on.
    fn inspect(&mut self, payload: &[u8], offset: usize) -> Result<(), Fault> {
        let opaque = |message: &Progress| message.kind == DataKind::Binary && !message.compressed;
        if self.message.as_ref().is_none_or(opaque) {
            return Ok(());
        }
        let Some(key) = self.frame.mask else {
            return self.inspect_plain(payload);
        };
        let mut scratch = [0; SCRATCH];
        for (piece, offset) in payload.chunks(SCRATCH).zip((offset..).step_by(SCRATCH)) {
            let unmasked = &mut scratch[..piece.len()];
            unmasked.copy_from_slice(piece);
            mask::apply(unmasked, key, offset);
            self.inspect_plain(unmasked)?;
        }
        Ok(())
    }

    fn inspect_plain(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let Some(message) = &mut self.message else {
            return Ok(());
        };
        if !message.compressed {
            return Ok(message.utf8.push(payload)?);
        }
        let limit = self.rules.max_message;
        let inflater = inflater(&mut self.inflater, self.rules.deflate)?;
        let mut text = Ok(());
        let scanned = inflater.scan(payload, limit, |plain| message.see(plain, &mut text));
        text?;
        scanned.map_err(|error| inflate_fault(error, limit))
    }

    fn inspect_end(&mut self) -> Result<(), Fault> {
        let Some(message) = &mut self.message else {
            return Ok(());
        };
        if message.compressed {
            inflater(&mut self.inflater, self.rules.deflate)?
                .finish()
                .map_err(|_| Fault::Deflate)?;
        }
        Ok(message.utf8.finish()?)
    }

    /// Adds what the chunk has of the present frame to its message, and hands that out once it is whole.
    #[inline(always)]
    fn collect<'b>(&mut self, bytes: &mut &'b [u8]) -> Next<'b> {
        let offset = (self.frame.len - self.left) as usize;
        let payload = take(bytes, &mut self.left);
        let ends = self.left == 0 && self.frame.fin;
        if ends && self.collected.is_none() {
            // All of it is in the chunk, as is most often so.
            let mut message = Message::new(self.frame, payload.len());
            self.add(&mut message, payload, offset)?;
            self.end_message(&mut message)?;
            return Ok(Some(Event::Message(message)));
        }
        let mut message = match self.collected.take() {
            Some(message) => message,
            None => Box::new(Message::new(self.frame, payload.len())),
        };
        self.add(&mut message, payload, offset)?;
        if ends {
            self.end_message(&mut message)?;
            return Ok(Some(Event::Message(*message)));
        }
        self.collected = Some(message);
        if self.left == 0 {
            self.stage = Stage::Head;
        }
        Ok(None)
    }

    /// Text is checked as it comes, so that a wrong one ends here and not behind its last fragment.
    #[inline(always)]
    fn add(&mut self, message: &mut Message, payload: &[u8], offset: usize) -> Result<(), Fault> {
        let is_text = message.kind == DataKind::Text && !message.compressed;
        let added = message.add(payload, self.frame.mask, offset);
        if let (true, Some(progress)) = (is_text, &mut self.message) {
            progress.utf8.push(added)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn end_message(&mut self, message: &mut Message) -> Result<(), Fault> {
        self.stage = Stage::Head;
        if message.compressed {
            self.inflate(message)?;
        } else if let Some(progress) = &mut self.message {
            progress.utf8.finish()?;
        }
        self.message = None;
        self.messages += 1;
        Ok(())
    }

    /// Only once a message is whole: one that comes slowly keeps no inflater busy.
    fn inflate(&mut self, message: &mut Message) -> Result<(), Fault> {
        let limit = self.rules.max_message;
        let inflater = inflater(&mut self.inflater, self.rules.deflate)?;
        inflater
            .push(&message.payload, &mut message.inflated, limit)
            .and_then(|()| inflater.finish())
            .map_err(|error| inflate_fault(error, limit))?;
        if message.kind == DataKind::Text {
            simdutf8::basic::from_utf8(&message.inflated).map_err(|_| Fault::Text)?;
        }
        Ok(())
    }

    fn read_control(
        &mut self,
        kind: ControlKind,
        bytes: &mut &[u8],
    ) -> Result<Option<Control>, Fault> {
        let payload = take(bytes, &mut self.left);
        let control = if self.control.is_empty() && self.left == 0 {
            Control::new(kind, payload, self.frame.mask)
        } else {
            self.control.extend_from_slice(payload);
            if self.left > 0 {
                return Ok(None);
            }
            Control::new(kind, &std::mem::take(&mut self.control), self.frame.mask)
        };
        self.stage = Stage::Head;
        if kind == ControlKind::Close {
            let code = control.close_code();
            if let Some(code) = code.filter(|code| !code.may_be_sent()) {
                return Err(Fault::CloseCode(code));
            }
            let reason = control.payload().get(2..).unwrap_or_default();
            std::str::from_utf8(reason).map_err(|_| Fault::CloseReason)?;
            self.close = Some(code.unwrap_or(CloseCode::NO_STATUS));
            self.end();
        }
        Ok(Some(control))
    }

    /// Nothing more is read; gives back what it holds.
    fn end(&mut self) {
        self.stage = Stage::Over;
        self.control = Vec::new();
        self.collected = None;
        self.inflater = None;
    }
}

impl Progress {
    /// Looks at inflated bytes.
    fn see(&mut self, plain: &[u8], text: &mut Result<(), InvalidUtf8>) {
        self.inflated += plain.len() as u64;
        if self.kind == DataKind::Text && text.is_ok() {
            *text = self.utf8.push(plain);
        }
    }
}

impl Fault {
    /// What a Close that answers it says (RFC 6455 §7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Fault::Framing(_) | Fault::CloseCode(_) => CloseCode::PROTOCOL_ERROR,
            Fault::Text | Fault::CloseReason | Fault::Deflate => CloseCode::INVALID_DATA,
            Fault::TooBig(_) => CloseCode::TOO_BIG,
            Fault::TooManyFrames(_) => CloseCode::POLICY,
            Fault::Refused => CloseCode::UNSUPPORTED,
            Fault::ContextMissing => CloseCode::INTERNAL_ERROR,
        }
    }
}

impl From<InvalidUtf8> for Fault {
    fn from(_: InvalidUtf8) -> Fault {
        Fault::Text
    }
}

type Next<'b> = Result<Option<Event<'b>>, Fault>;

/// Takes up to `left` bytes off the front of the chunk.
#[inline]
fn take<'b>(bytes: &mut &'b [u8], left: &mut u64) -> &'b [u8] {
    let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    *left -= len as u64;
    taken
}

fn inflater(
    inflater: &mut Option<Box<Inflater>>,
    params: Option<deflate::Params>,
) -> Result<&mut Inflater, Fault> {
    // Without parameters no frame is compressed: its head is a violation.
    let params = params.ok_or(Violation::ReservedBit)?;
    Ok(inflater.get_or_insert_with(|| Box::new(Inflater::new(params))))
}

fn inflate_fault(error: InflateError, limit: u64) -> Fault {
    match error {
        InflateError::TooBig => Fault::TooBig(limit),
        InflateError::Invalid => Fault::Deflate,
    }
}

/// Masked payloads that are only looked at are unmasked in steps of this.
const SCRATCH: usize = 1024;

/// What compressed data that does not shrink may take besides a quarter of its size; zlib's own bound is
/// below that.
const DEFLATE_SLACK: u64 = 256;

#[cfg(test)]
mod differential_tests;
#[cfg(test)]
mod tests;
