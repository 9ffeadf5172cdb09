//! What a [`Reader`](super::Reader) reads: whole messages, pieces of those that are passed on, control
//! frames.
//!
//! A message is kept as it is meant, unmasked, with the heads of its frames apart: since a head has
//! one valid form only, [`Message::append_wire`] gives back every byte as it came, and nothing is
//! stored twice.

use std::ops::Deref;

use super::control::{CloseCode, ControlFrame, MAX_CONTROL_PAYLOAD};
use super::head::{CLOSE, Head, MAX_HEAD, Opcode, PING, PONG};
use super::mask;

/// A data message's kind (RFC 6455 §5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataKind {
    Text,
    Binary,
}

/// The first head of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    pub kind: DataKind,
    pub compressed: bool,
    /// Payload bytes of the first frame, compressed where the message is.
    pub frame_len: u64,
    /// The first frame is the last.
    pub fin: bool,
}

/// What becomes of a message that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// It is collected, and comes as one [`Event::Message`].
    Whole,
    /// Its bytes go on as they come, as [`Event::Passed`].
    Pass,
    /// No such messages here: [`Fault::Refused`](super::Fault::Refused).
    Refuse,
}

/// The next thing in a direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'b> {
    /// A message that was wanted whole. Control frames between its fragments came before it.
    Message(Message),
    /// The next bytes of a message that is passed on, of one frame at most.
    Passed {
        wire: Wire<'b>,
        /// The message ends with these bytes.
        ends: Option<Passed>,
    },
    /// A whole control frame.
    Control(Control),
}

/// Bytes as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire<'b> {
    /// A piece of the chunk that is read.
    Chunk(&'b [u8]),
    /// A frame's head that came in more than one chunk.
    Head(WireHead),
}

/// The bytes of a frame's head, or of its begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireHead {
    pub(super) bytes: [u8; MAX_HEAD],
    pub(super) len: u8,
}

/// A message that was passed on to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub kind: DataKind,
    pub compressed: bool,
    /// Payload bytes on the wire, without heads.
    pub wire: u64,
    /// Bytes of the message itself; of one that is compressed and was not looked into those on the wire.
    pub size: u64,
}

/// A whole data message. The payload of text is UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: DataKind,
    pub compressed: bool,
    first: Head,
    more: Vec<Head>,
    /// Of all frames, unmasked.
    pub(super) payload: Vec<u8>,
    /// Of a compressed message.
    pub(super) inflated: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlKind {
    Close,
    Ping,
    Pong,
}

/// A whole control frame; a Close among them is right: its code may be sent, its reason is text.
#[derive(Clone, Copy)]
pub struct Control {
    pub kind: ControlKind,
    mask: Option<[u8; 4]>,
    len: u8,
    payload: [u8; MAX_CONTROL_PAYLOAD],
}

impl Message {
    /// `first`: the head of its first frame; `room`: for so many bytes of payload, which are there.
    #[inline(always)]
    pub(super) fn new(first: Head, room: usize) -> Message {
        Message {
            kind: match first.opcode {
                Opcode::Text => DataKind::Text,
                _ => DataKind::Binary,
            },
            compressed: first.rsv1,
            first,
            more: Vec::new(),
            payload: Vec::with_capacity(room),
            inflated: Vec::new(),
        }
    }

    pub(super) fn begin_frame(&mut self, head: Head) {
        self.more.push(head);
    }

    /// Appends the next bytes of the payload, which stand at `offset` in their frame; returns them
    /// unmasked.
    #[inline]
    pub(super) fn add(&mut self, bytes: &[u8], mask: Option<[u8; 4]>, offset: usize) -> &[u8] {
        let start = self.payload.len();
        match mask {
            Some(key) => mask::append(bytes, key, offset, &mut self.payload),
            None => self.payload.extend_from_slice(bytes),
        }
        &self.payload[start..]
    }

    /// What the message says: unmasked, in one piece, not compressed.
    pub fn plain(&self) -> &[u8] {
        if self.compressed {
            &self.inflated
        } else {
            &self.payload
        }
    }

    pub fn into_plain(mut self) -> Vec<u8> {
        self.lend_plain()
    }

    /// What the message says, until [`Message::give_back`]; without it the message is empty.
    pub fn lend_plain(&mut self) -> Vec<u8> {
        std::mem::take(self.plain_mut())
    }

    /// Makes a message whole again that has lent this.
    pub fn give_back(&mut self, plain: Vec<u8>) {
        *self.plain_mut() = plain;
    }

    fn plain_mut(&mut self) -> &mut Vec<u8> {
        if self.compressed {
            &mut self.inflated
        } else {
            &mut self.payload
        }
    }

    /// How many frames it came in.
    pub fn frames(&self) -> usize {
        1 + self.more.len()
    }

    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        self.payload.len() + self.inflated.len()
    }

    /// Payload bytes on the wire, without heads.
    pub fn wire_payload(&self) -> usize {
        self.payload.len()
    }

    /// Appends all its frames exactly as they came: same fragments, same masks.
    pub fn append_wire(&self, out: &mut Vec<u8>) {
        out.reserve(self.payload.len() + MAX_HEAD * self.frames());
        let mut rest = &self.payload[..];
        for head in std::iter::once(&self.first).chain(&self.more) {
            let (payload, behind) = rest.split_at((head.len as usize).min(rest.len()));
            rest = behind;
            head.encode(out);
            match head.mask {
                Some(key) => mask::append(payload, key, 0, out),
                None => out.extend_from_slice(payload),
            }
        }
    }
}

impl Control {
    /// `payload` is masked still, and at most [`MAX_CONTROL_PAYLOAD`] bytes.
    pub(super) fn new(kind: ControlKind, masked: &[u8], mask: Option<[u8; 4]>) -> Control {
        let mut payload = [0; MAX_CONTROL_PAYLOAD];
        payload[..masked.len()].copy_from_slice(masked);
        if let Some(key) = mask {
            mask::apply(&mut payload[..masked.len()], key, 0);
        }
        Control {
            kind,
            mask,
            len: masked.len() as u8,
            payload,
        }
    }

    /// The payload, unmasked; of a Close with its code.
    pub fn payload(&self) -> &[u8] {
        &self.payload[..usize::from(self.len)]
    }

    /// The frame exactly as it came.
    pub fn wire(&self) -> ControlFrame {
        let opcode = match self.kind {
            ControlKind::Close => CLOSE,
            ControlKind::Ping => PING,
            ControlKind::Pong => PONG,
        };
        ControlFrame::new(opcode, self.payload(), self.mask)
    }

    /// A Close's code; `None`: without one, or no Close.
    pub fn close_code(&self) -> Option<CloseCode> {
        match (self.kind, self.payload().first_chunk()) {
            (ControlKind::Close, Some(code)) => Some(CloseCode(u16::from_be_bytes(*code))),
            _ => None,
        }
    }

    /// A Close's reason, empty where it gives none.
    pub fn close_reason(&self) -> &str {
        match (self.kind, self.payload().get(2..)) {
            (ControlKind::Close, Some(reason)) => std::str::from_utf8(reason).unwrap_or_default(),
            _ => "",
        }
    }
}

impl PartialEq for Control {
    fn eq(&self, other: &Control) -> bool {
        (self.kind, self.mask, self.payload()) == (other.kind, other.mask, other.payload())
    }
}

impl Eq for Control {}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("kind", &self.kind)
            .field("mask", &self.mask)
            .field("payload", &self.payload())
            .finish()
    }
}

impl Deref for Wire<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Wire::Chunk(bytes) => bytes,
            Wire::Head(head) => head,
        }
    }
}

impl Deref for WireHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
