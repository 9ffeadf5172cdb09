//! What a peer may send, frame by frame: lengths, stream ids and states, settings, heads, and how much of
//! what costs it nothing (RFC 9113 §4 to §6, §10.5).
//!
//! [`Frames::look`] takes bytes as they come and says how far they may go on to `h2`. It holds what it needs
//! for that: which streams the peer may still send on, and the compression context. It does no IO; its only
//! clock is that of [`Rate`].
//!
//! A fault of the connection ends it with the code that the standard names, which `h2` often does not. A
//! fault of a stream becomes a malformed head on it, so that `h2` resets the stream with PROTOCOL_ERROR; where
//! another code is due the connection ends, as §5.4.2 allows.

use std::collections::VecDeque;

use h2::Reason;

use super::head::{self, Decoder, Message, Undecodable};
use super::rate::Rate;

/// How much a peer may send of what costs it little.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of a head, each field counted with 32 more (RFC 9113 §6.5.2).
    pub head_size: usize,
    /// Fields of a head.
    pub head_fields: usize,
    /// Streams at once.
    pub streams: u32,
    /// Streams that are reset, by the peer or for its faults, in [`super::rate::WINDOW`], beyond as many as were
    /// answered to the end.
    pub resets: u32,
    /// Frames in the same time that carry nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, GOAWAY, CONTINUATION,
    /// interim heads, empty DATA, and unknown ones.
    pub control_frames: u32,
}

/// Who the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client {
        /// It was told of extended CONNECT.
        extended: bool,
    },
    Server,
}

/// What is behind the bytes that may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or the beginning of something: give it again, with more.
    Beginning,
    /// So many bytes are to be replaced by these.
    Instead { taken: usize, with: Vec<u8> },
    /// An end.
    Fault(Reason),
}

/// What one peer has sent, as far as it matters for what may come.
#[derive(Debug)]
pub(super) struct Frames {
    peer: Peer,
    bounds: Bounds,
    decoder: Decoder,
    /// Bytes that go on unseen: a payload's rest, or the preface's.
    unseen: usize,
    /// SETTINGS came.
    begun: bool,
    /// A server's SETTINGS allowed extended CONNECT.
    extended: bool,
    /// The last stream that was opened.
    last: u32,
    /// Those on which the peer may send.
    open: Open,
    /// Those that were reset under it, as far as remembered: what comes on them was under way.
    given_up: VecDeque<u32>,
    /// Ids that were passed over, as far as remembered, first and last.
    skipped: VecDeque<(u32, u32)>,
    resets: Rate,
    control: Rate,
    /// Heads that were refused.
    refused: u32,
    /// A GOAWAY came.
    leaving: bool,
}

/// Streams in the order of their ids, each with whether its head has come.
#[derive(Debug, Default)]
struct Open(Vec<(u32, bool)>);

/// A frame's head.
#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// What a frame leads to.
enum Step {
    Pass,
    Wait,
    Replace(Vec<u8>),
}

impl Frames {
    pub(super) fn from(peer: Peer, bounds: Bounds) -> Frames {
        Frames {
            peer,
            bounds,
            decoder: Decoder::new(),
            unseen: match peer {
                Peer::Client { .. } => PREFACE,
                Peer::Server => 0,
            },
            begun: false,
            extended: false,
            last: 0,
            open: Open::default(),
            given_up: VecDeque::new(),
            skipped: VecDeque::new(),
            resets: Rate::new(bounds.resets),
            control: Rate::new(bounds.control_frames),
            refused: 0,
            leaving: false,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Looks at bytes: so many of them may go on, and then comes what was found.
    pub(super) fn look(&mut self, bytes: &[u8]) -> (usize, Found) {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            let unseen = self.unseen.min(rest.len());
            self.unseen -= unseen;
            passed += unseen;
            let rest = &rest[unseen..];
            let Some(head) = Head::parse(rest) else {
                return (passed, Found::Beginning);
            };
            let payload = &rest[HEAD..];
            let mut taken = HEAD + head.length;
            let step = match head.check(self.begun) {
                Err(reason) => Err(reason),
                Ok(()) if head.kind == DATA => self.data(head, payload),
                Ok(()) if head.kind == HEADERS => self.headers(rest, &mut taken),
                Ok(()) => match payload.get(..head.length) {
                    Some(payload) => self.control(head, payload),
                    None if head.kind > CONTINUATION => self.control(head, &[]),
                    None => Ok(Step::Wait),
                },
            };
            match step {
                Ok(Step::Pass) => {
                    let there = taken.min(rest.len());
                    self.unseen = taken - there;
                    passed += there;
                }
                Ok(Step::Wait) => return (passed, Found::Beginning),
                Ok(Step::Replace(with)) => return (passed, Found::Instead { taken, with }),
                Err(reason) => return (passed, Found::Fault(reason)),
            }
        }
    }

    /// Heads that were refused since this was last asked.
    pub(super) fn take_refused(&mut self) -> u32 {
        std::mem::take(&mut self.refused)
    }

    /// Whether a GOAWAY has come since this was last asked.
    pub(super) fn take_leaving(&mut self) -> bool {
        std::mem::take(&mut self.leaving)
    }

    /// We have opened a stream.
    pub(super) fn opened(&mut self, stream: u32) {
        if stream > self.last {
            self.last = stream;
            self.open.push(stream, false);
        }
    }

    /// We have reset a stream.
    pub(super) fn gave_up(&mut self, stream: u32, reason: Reason) -> Result<(), Reason> {
        if self.peer == Peer::Server {
            self.open.remove(stream);
            return Ok(());
        }
        if self.open.remove(stream) {
            self.remember_given_up(stream);
        }
        match reason {
            Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR | Reason::FRAME_SIZE_ERROR => {
                self.resets.count()
            }
            // What was under way when it could not know better.
            Reason::STREAM_CLOSED | Reason::REFUSED_STREAM => self.control.count(),
            _ => Ok(()),
        }
    }

    /// We have answered a stream to the end: who resets it now leaves nothing undone.
    pub(super) fn answered(&mut self) {
        self.resets.forgive(1);
    }

    /// We have sent what the peer may have to answer.
    pub(super) fn sent(&mut self) {
        self.control.forgive(ANSWERS);
    }

    fn data(&mut self, head: Head, payload: &[u8]) -> Result<Step, Reason> {
        let ends = head.flags & END_STREAM > 0;
        let mut length = head.length;
        if head.flags & PADDED > 0 {
            let padding = match (length.checked_sub(1), payload.first()) {
                (None, _) => return Err(Reason::FRAME_SIZE_ERROR),
                (_, None) => return Ok(Step::Wait),
                (Some(rest), Some(padding)) => rest.checked_sub(usize::from(*padding)),
            };
            length = padding.ok_or(Reason::PROTOCOL_ERROR)?;
        }
        self.check_open(head.stream)?;
        if ends {
            self.open.remove(head.stream);
        } else if length == 0 {
            self.control.count()?;
            if head.length == 0 {
                // They say nothing, and `h2` counts them for the life of a connection.
                return Ok(Step::Replace(Vec::new()));
            }
        }
        Ok(Step::Pass)
    }

    /// A head or trailers, with the CONTINUATION frames that belong to them.
    fn headers(&mut self, bytes: &[u8], taken: &mut usize) -> Result<Step, Reason> {
        let Some(fragments) = Fragments::gather(bytes, self.block_limit())? else {
            return Ok(Step::Wait);
        };
        *taken = fragments.taken;
        let head = fragments.head;
        for _ in 1..fragments.frames {
            self.control.count()?;
        }
        let whole;
        let block = match fragments.frames {
            1 => fragments.first,
            _ => {
                whole = fragments.join(bytes);
                &whole[..]
            }
        };
        let stream = head.stream;
        let ends = head.flags & END_STREAM > 0;
        let message = self.begin_head(stream, ends)?;
        let found = self
            .decoder
            .read(block)
            .map_err(|Undecodable| Reason::COMPRESSION_ERROR)?;
        if found.size > ABUSE * self.bounds.head_size
            || found.fields > ABUSE * self.bounds.head_fields
        {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if found.is_interim() {
            self.control.count()?;
        }
        // What was under way on a stream that is no more is nobody's message, but `h2` decodes it.
        let is_fine = match message {
            None => !found.is_malformed(),
            Some(message) => {
                found.is(message)
                    && !fragments.depends_on_itself
                    && !(found.is_interim() && ends)
                    && (message != Message::Trailers || ends)
            }
        };
        if !is_fine {
            self.refused = self.refused.saturating_add(1);
            self.open.remove(stream);
            if !ends {
                self.remember_given_up(stream);
            }
            let end = if ends { END_STREAM } else { 0 };
            return Ok(Step::Replace(frames_of(stream, end, &found.stand_in())));
        }
        if message == Some(Message::Response) && !found.is_interim() {
            self.open.has_head(stream);
        }
        if ends {
            self.open.remove(stream);
        }
        match fragments.frames {
            1 => Ok(Step::Pass),
            // `h2` takes few frames for one head, however small they are.
            _ => Ok(Step::Replace(frames_of(
                stream,
                head.flags & END_STREAM,
                block,
            ))),
        }
    }

    /// What a head on this stream must be; `None` where nobody waits for one any more.
    fn begin_head(&mut self, stream: u32, ends: bool) -> Result<Option<Message>, Reason> {
        if stream.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match self.peer {
            Peer::Server => {
                if stream > self.last {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                Ok(self.open.find(stream).map(|has_head| match has_head {
                    true => Message::Trailers,
                    false => Message::Response,
                }))
            }
            Peer::Client { extended } if stream > self.last => {
                // Even ids among them are nobody's.
                let skipped = (self.last + 1, stream - 1);
                if skipped.1 > skipped.0 {
                    remember(&mut self.skipped, skipped, SKIPPED);
                }
                self.last = stream;
                if !ends {
                    self.open.push(stream, true);
                }
                match self.open.len() > self.open_limit() {
                    true => Err(Reason::ENHANCE_YOUR_CALM),
                    false => Ok(Some(Message::Request { extended })),
                }
            }
            Peer::Client { .. } => {
                self.check_open(stream)?;
                let is_open = self.open.find(stream).is_some();
                Ok(is_open.then_some(Message::Trailers))
            }
        }
    }

    /// Whether the peer may send on a stream, or may not have known yet that it may not (RFC 9113 §5.1).
    fn check_open(&self, stream: u32) -> Result<(), Reason> {
        if self.is_idle(stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.peer == Peer::Server
            || self.open.find(stream).is_some()
            || self.given_up.contains(&stream)
        {
            return Ok(());
        }
        let was_skipped = |(first, last): &(u32, u32)| (*first..=*last).contains(&stream);
        match self.skipped.iter().any(was_skipped) {
            true => Err(Reason::PROTOCOL_ERROR),
            false => Err(Reason::STREAM_CLOSED),
        }
    }

    /// Everything but DATA and heads; the payload is whole, unless the kind is unknown.
    fn control(&mut self, head: Head, payload: &[u8]) -> Result<Step, Reason> {
        let stream = head.stream;
        if head.kind == RST_STREAM {
            if self.is_idle(stream) {
                return Err(Reason::PROTOCOL_ERROR);
            }
            self.open.remove(stream);
            if self.peer != Peer::Server {
                self.resets.count()?;
            }
            return Ok(Step::Pass);
        }
        self.control.count()?;
        match head.kind {
            SETTINGS => return self.settings(head, payload),
            GOAWAY => self.leaving = true,
            PRIORITY if number(payload) & ID_BITS == stream => return self.refuse(stream),
            WINDOW_UPDATE => {
                if stream != 0 && self.is_idle(stream) {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                if number(payload) & ID_BITS == 0 {
                    return self.refuse(stream);
                }
            }
            // Nobody pushes to us, and only heads are continued.
            PUSH_PROMISE | CONTINUATION => return Err(Reason::PROTOCOL_ERROR),
            _ => {}
        }
        Ok(Step::Pass)
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<Step, Reason> {
        self.begun = true;
        let mut tames = false;
        let mut tame = payload.to_vec();
        let (settings, _) = tame.as_chunks_mut::<6>();
        for setting in settings {
            let [high, low, ..] = *setting;
            let value = number(&setting[2..]);
            match u16::from_be_bytes([high, low]) {
                // Our compressor would keep as much, for as long as the peer likes.
                HEADER_TABLE_SIZE if value > TABLE_SIZE => {
                    setting[2..].copy_from_slice(&TABLE_SIZE.to_be_bytes());
                    tames = true;
                }
                ENABLE_PUSH if value > u32::from(self.peer != Peer::Server) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                INITIAL_WINDOW_SIZE if value > ID_BITS => return Err(Reason::FLOW_CONTROL_ERROR),
                MAX_FRAME_SIZE if !(16_384..1 << 24).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                ENABLE_CONNECT_PROTOCOL if value > 1 || value == 0 && self.extended => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                ENABLE_CONNECT_PROTOCOL => self.extended = value == 1,
                _ => {}
            }
        }
        if !tames {
            return Ok(Step::Pass);
        }
        let mut frame = head.bytes().to_vec();
        frame.extend(tame);
        Ok(Step::Replace(frame))
    }

    /// A fault of a stream, or of the connection where there is no stream.
    fn refuse(&mut self, stream: u32) -> Result<Step, Reason> {
        if self.is_idle(stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.open.remove(stream) {
            self.remember_given_up(stream);
        }
        Ok(Step::Replace(frames_of(stream, 0, head::MALFORMED)))
    }

    fn is_idle(&self, stream: u32) -> bool {
        stream > self.last || stream.is_multiple_of(2)
    }

    fn remember_given_up(&mut self, stream: u32) {
        if self.peer != Peer::Server && !self.given_up.contains(&stream) {
            remember(&mut self.given_up, stream, GIVEN_UP);
        }
    }

    /// Bytes of a head as it is sent, all frames of it.
    fn block_limit(&self) -> usize {
        ABUSE * self.bounds.head_size + FRAME
    }

    /// A client may not know its limit yet, nor what was refused.
    fn open_limit(&self) -> usize {
        (self.bounds.streams as usize).saturating_mul(2).max(1000)
    }
}

/// A head and the frames that it came in.
struct Fragments<'a> {
    /// The HEADERS frame's.
    head: Head,
    /// What it holds of the block.
    first: &'a [u8],
    /// RFC 7540 §5.3.1.
    depends_on_itself: bool,
    frames: usize,
    /// Bytes of all frames.
    taken: usize,
}

impl<'a> Fragments<'a> {
    /// Takes the frames of one head from the first bytes; `None` if there are more to come.
    fn gather(bytes: &'a [u8], limit: usize) -> Result<Option<Fragments<'a>>, Reason> {
        let Some(head) = Head::parse(bytes) else {
            return Ok(None);
        };
        let mut taken = HEAD + head.length;
        let mut frames = 1;
        let mut flags = head.flags;
        while flags & END_HEADERS == 0 {
            let Some(next) = bytes.get(taken..).and_then(Head::parse) else {
                return Ok(None);
            };
            if next.kind != CONTINUATION || next.stream != head.stream {
                return Err(Reason::PROTOCOL_ERROR);
            }
            next.check(true)?;
            flags = next.flags;
            frames += 1;
            taken += HEAD + next.length;
            if frames > FRAGMENTS || taken > limit + HEAD * frames {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
        }
        let Some(mut payload) = bytes
            .get(HEAD..HEAD + head.length)
            .filter(|_| taken <= bytes.len())
        else {
            return Ok(None);
        };
        let mut padding = 0;
        if head.flags & PADDED > 0 {
            let (count, rest) = payload.split_first().ok_or(Reason::FRAME_SIZE_ERROR)?;
            padding = usize::from(*count);
            payload = rest;
        }
        let mut depends_on_itself = false;
        if head.flags & PRIORITIZED > 0 {
            let (priority, rest) = payload
                .split_at_checked(5)
                .ok_or(Reason::FRAME_SIZE_ERROR)?;
            depends_on_itself = number(priority) & ID_BITS == head.stream;
            payload = rest;
        }
        let length = payload.len().checked_sub(padding);
        Ok(Some(Fragments {
            head,
            first: &payload[..length.ok_or(Reason::PROTOCOL_ERROR)?],
            depends_on_itself,
            frames,
            taken,
        }))
    }

    /// The whole block, out of the bytes that it was gathered from.
    fn join(&self, bytes: &[u8]) -> Vec<u8> {
        let mut block = self.first.to_vec();
        let mut rest = &bytes[HEAD + self.head.length..self.taken];
        while let Some(head) = Head::parse(rest) {
            block.extend(&rest[HEAD..HEAD + head.length]);
            rest = &rest[HEAD + head.length..];
        }
        block
    }
}

impl Open {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// `stream` is above all others.
    fn push(&mut self, stream: u32, has_head: bool) {
        self.0.push((stream, has_head));
    }

    fn find(&self, stream: u32) -> Option<bool> {
        let at = self.position(stream)?;
        Some(self.0[at].1)
    }

    fn has_head(&mut self, stream: u32) {
        if let Some(at) = self.position(stream) {
            self.0[at].1 = true;
        }
    }

    /// Whether it was there.
    fn remove(&mut self, stream: u32) -> bool {
        let at = self.position(stream);
        at.map(|at| self.0.remove(at)).is_some()
    }

    fn position(&self, stream: u32) -> Option<usize> {
        self.0.binary_search_by_key(&stream, |(id, _)| *id).ok()
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        Some(Head {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & ID_BITS,
        })
    }

    fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    /// Checks its length, and whether it may be about a stream. `begun`: it is not the first.
    fn check(self, begun: bool) -> Result<(), Reason> {
        if !begun && (self.kind != SETTINGS || self.flags & ACK > 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let is_sized = match self.kind {
            PRIORITY => self.length == 5,
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            SETTINGS if self.flags & ACK > 0 => self.length == 0,
            SETTINGS => self.length.is_multiple_of(6),
            PING => self.length == 8,
            GOAWAY => self.length >= 8,
            _ => true,
        };
        if !is_sized || self.length > FRAME {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let is_placed = match self.kind {
            DATA | HEADERS | PRIORITY | RST_STREAM | PUSH_PROMISE | CONTINUATION => {
                self.stream != 0
            }
            SETTINGS | PING | GOAWAY => self.stream == 0,
            _ => true,
        };
        if is_placed {
            Ok(())
        } else {
            Err(Reason::PROTOCOL_ERROR)
        }
    }
}

/// A block in as few frames as it takes.
fn frames_of(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut frames = Vec::with_capacity(block.len() + HEAD);
    let mut rest = block;
    let mut kind = HEADERS;
    let mut flags = flags;
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(FRAME));
        if behind.is_empty() {
            flags |= END_HEADERS;
        }
        let head = Head {
            length: piece.len(),
            kind,
            flags,
            stream,
        };
        frames.extend(head.bytes());
        frames.extend(piece);
        if behind.is_empty() {
            return frames;
        }
        rest = behind;
        kind = CONTINUATION;
        flags = 0;
    }
}

fn remember<T>(latest: &mut VecDeque<T>, item: T, limit: usize) {
    if latest.len() == limit {
        latest.pop_front();
    }
    latest.push_back(item);
}

/// The number in the first four bytes, or none.
fn number(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;
/// Bytes of a client's preface before its first frame.
pub(super) const PREFACE: usize = 24;
/// SETTINGS_MAX_FRAME_SIZE, of which we say nothing.
const FRAME: usize = 16_384;
/// Frames of one head.
const FRAGMENTS: usize = 64;
/// A head of which so many times too much comes is no mistake.
const ABUSE: usize = 4;
/// Streams that were reset under a peer and whose frames may still be under way.
const GIVEN_UP: usize = 256;
/// Ranges of ids that were passed over.
const SKIPPED: usize = 16;
/// Frames that a peer may send in answer to one that carries something.
const ANSWERS: u32 = 4;
/// SETTINGS_HEADER_TABLE_SIZE as far as we use it.
const TABLE_SIZE: u32 = 4096;
pub(super) const ID_BITS: u32 = u32::MAX >> 1;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITIZED: u8 = 32;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

#[cfg(test)]
mod tests;
