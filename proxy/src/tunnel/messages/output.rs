//! What the receiver of a lane gets, in which order.
//!
//! What the sender said goes on as it came or as it was changed; then, where a message ends, what others
//! put in ([`Output::inject`]); where a frame ends, our own control frames. So nothing ever stands inside
//! a message, or inside a frame, of somebody else's, and nothing behind a Close (RFC 6455 §5.5.1).
//!
//! Compressed messages go on as they came while the receiver can read them so ([`Passage`]); others are
//! written anew, with a fresh mask toward a server.

use std::task::Context;

use tokio::io::AsyncWrite;

use super::lane::Shared;
use crate::config::model::TunnelRules;
use crate::telemetry::metrics::Direction;
use crate::tunnel::carrier::Broken;
use crate::tunnel::judge::{Kind, Message};
use crate::tunnel::outlet::Outlet;
use crate::tunnel::random_mask;
use crate::ws::control::{ControlFrame, encode_ping, encode_pong};
use crate::ws::deflate::{Deflater, Params, Passage};
use crate::ws::encode::{encode_compressed, encode_message};
use crate::ws::frame::Side;
use crate::ws::message::{self, DataKind, Passed};

pub(super) struct Output {
    sender: Side,
    pub(super) outlet: Outlet,
    /// Bytes that the outlet was given.
    given: u64,
    passage: Passage,
    /// What compresses for the receiver, where that was agreed on.
    deflater: Option<Box<Deflater>>,
    /// Frames of messages that the sender did not say, until a message ends.
    aside: Vec<u8>,
    /// Our ping to the receiver, until a frame ends.
    ping: Option<Box<ControlFrame>>,
    /// Our Close, likewise.
    interruption: Option<Box<ControlFrame>>,
    /// Our Close, in the place of the sender's own.
    last_word: Option<Box<ControlFrame>>,
    /// A Close has gone out (or never can): nothing follows it.
    muted: bool,
    /// How much there may be for the receiver before nothing more is read for it.
    buffer: usize,
}

/// Where the receiver stands in what it has been sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Between two frames.
    pub(super) between_frames: bool,
    /// Between two messages.
    pub(super) between_messages: bool,
    /// Nothing of the sender's is in court.
    pub(super) settled: bool,
    /// What the sender says can no longer be read.
    pub(super) lost: bool,
}

impl Output {
    pub(super) fn new(
        sender: Side,
        from: Option<Params>,
        to: Option<Params>,
        rules: &TunnelRules,
    ) -> Output {
        let level = rules.compression_level;
        let window = rules.compression_window;
        Output {
            sender,
            outlet: Outlet::default(),
            given: 0,
            passage: Passage::new(from, to),
            deflater: to.map(|to| Box::new(Deflater::new(to.within(window), level))),
            aside: Vec::new(),
            ping: None,
            interruption: None,
            last_word: None,
            muted: false,
            buffer: rules.buffer,
        }
    }

    pub(super) fn is_muted(&self) -> bool {
        self.muted
    }

    /// What waits for a message to end, bytes.
    pub(super) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// Others have put in so much that the receiver must take some of it first.
    pub(super) fn is_full(&self) -> bool {
        self.aside.len() > self.buffer
    }

    /// There is so much for the receiver, in whatever state, that nothing should be made of thin air.
    pub(super) fn is_overfull(&self) -> bool {
        self.aside.len() + self.outlet.held_len() > self.buffer
    }

    /// With this much to send, enough is enough.
    pub(super) fn is_enough(&self, out: &[u8]) -> bool {
        out.len() > self.buffer
    }

    /// A ping of ours waits for a frame to end.
    pub(super) fn has_ping(&self) -> bool {
        self.ping.is_some()
    }

    /// Our Close waits for a frame to end, or for a verdict.
    pub(super) fn has_close(&self) -> bool {
        self.interruption.is_some()
    }

    /// Whether a message may go on as it comes: compressed, or not.
    pub(super) fn passes(&self, compressed: bool) -> bool {
        self.passage.allows(compressed)
    }

    /// Bytes that go on as they came.
    pub(super) fn wire(&mut self, wire: &[u8], shared: &mut Shared<'_>) {
        if !self.muted {
            shared.out.extend_from_slice(wire);
        }
    }

    /// The sender's own Close. Behind it nothing of ours may go to the receiver.
    pub(super) fn close(&mut self, wire: &[u8], shared: &mut Shared<'_>) {
        let ours = self.last_word.take();
        self.wire(ours.as_deref().map_or(wire, |ours| ours), shared);
        self.mute();
    }

    /// A message has gone on as it came, in pieces.
    pub(super) fn passed(&mut self, passed: &Passed) {
        self.passage.passed(passed.compressed, passed.size);
        self.forget_if(passed.compressed);
    }

    /// Sends a message on unchanged: as it came, where the receiver can read it so.
    pub(super) fn forward(&mut self, message: &message::Message, shared: &mut Shared<'_>) {
        if self.muted {
            return;
        }
        let plain = message.plain();
        if !self.passage.allows(message.compressed) {
            // One that was compressed is so again, also if it grows: contexts stay together.
            let deflate = if message.compressed {
                Deflater::recompress
            } else {
                Deflater::message
            };
            if self.compress(message.kind, plain, shared, deflate) {
                self.passage.recompressed(plain.len() as u64);
                return;
            }
            if message.compressed {
                encode_message(message.kind, plain, self.mask(), &mut shared.out);
                self.passage.parted();
                return;
            }
        }
        message.append_wire(&mut shared.out);
        self.passage.passed(message.compressed, plain.len() as u64);
        self.forget_if(message.compressed);
    }

    /// Sends another message in the place of one that was compressed, or not.
    pub(super) fn replace(
        &mut self,
        message: &Message,
        was_compressed: bool,
        shared: &mut Shared<'_>,
    ) {
        if self.muted {
            return;
        }
        let mask = self.mask();
        let out = &mut shared.out;
        let compressed = match message.kind {
            Kind::Text => self.encode_data(DataKind::Text, &message.data, shared),
            Kind::Binary => self.encode_data(DataKind::Binary, &message.data, shared),
            Kind::Ping => {
                out.extend_from_slice(&encode_ping(&message.data, mask));
                false
            }
            Kind::Pong => {
                out.extend_from_slice(&encode_pong(&message.data, mask));
                false
            }
        };
        if compressed || was_compressed {
            self.passage.parted();
        }
    }

    /// A message goes nowhere.
    pub(super) fn dropped(&mut self, was_compressed: bool) {
        if was_compressed {
            self.passage.parted();
        }
    }

    /// A message of somebody else's. It goes uncompressed, so that no context is touched.
    pub(super) fn inject(&mut self, message: &Message) {
        if self.muted {
            return;
        }
        let mask = self.mask();
        let (data, aside) = (&message.data, &mut self.aside);
        match message.kind {
            Kind::Text => encode_message(DataKind::Text, data, mask, aside),
            Kind::Binary => encode_message(DataKind::Binary, data, mask, aside),
            Kind::Ping => aside.extend_from_slice(&encode_ping(data, mask)),
            Kind::Pong => aside.extend_from_slice(&encode_pong(data, mask)),
        }
    }

    pub(super) fn ping(&mut self, payload: &[u8]) {
        self.ping = Some(Box::new(encode_ping(payload, self.mask())));
    }

    pub(super) fn interrupt(&mut self, close: &ControlFrame) {
        if !self.muted {
            self.interruption = Some(Box::new(*close));
        }
    }

    /// Lets the sender finish: `close` takes the place of its own.
    pub(super) fn interrupt_late(&mut self, close: &ControlFrame) {
        if !self.muted {
            self.last_word = Some(Box::new(*close));
        }
    }

    /// The sender has had its time, or has ended without a Close.
    pub(super) fn hurry(&mut self) {
        self.interruption = self.last_word.take().or(self.interruption.take());
    }

    /// Puts in what is ours, where it may stand now.
    pub(super) fn put_own(&mut self, place: Place, out: &mut Vec<u8>) {
        if self.muted {
            return;
        }
        if place.between_messages && !self.aside.is_empty() {
            out.append(&mut self.aside);
            self.aside.shrink_to_fit();
        }
        if !place.between_frames {
            if place.lost && self.interruption.is_some() {
                // In the middle of a frame that will never end.
                self.mute();
            }
            return;
        }
        if let Some(ping) = self.ping.take() {
            out.extend_from_slice(&ping);
        }
        if place.settled
            && let Some(close) = self.interruption.take()
        {
            out.extend_from_slice(&close);
            self.mute();
        }
    }

    /// Keeps what `out` has until the receiver can take it.
    pub(super) fn hold(&mut self, out: &mut Vec<u8>) {
        self.given += out.len() as u64;
        self.outlet.hold(out);
        out.clear();
    }

    /// Bytes of memory that it takes.
    pub(super) fn size(&self) -> usize {
        self.outlet.size() + self.aside.len()
    }

    /// Gives that back; false if nothing more may be sent, as the receiver has got half a frame.
    pub(super) fn let_go(&mut self) -> bool {
        self.aside = Vec::new();
        let is_cut = self.outlet.cut();
        if is_cut {
            self.mute();
        }
        !is_cut
    }

    pub(super) fn mute(&mut self) {
        self.muted = true;
        self.interruption = None;
        self.last_word = None;
        self.ping = None;
        self.aside = Vec::new();
    }

    /// Writes what the receiver takes at once and holds the rest.
    pub(super) fn send<W: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Vec<u8>,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        self.given += out.len() as u64;
        let sent = self.outlet.send(out, writer, cx);
        // Also where the receiver is gone: the buffer is the other direction's next.
        out.clear();
        sent
    }

    /// Bytes that the receiver took so far.
    pub(super) fn taken(&self) -> u64 {
        self.given - self.outlet.held_len() as u64
    }

    /// Encodes a message, compressed where there is compression and it gets smaller; says whether it did.
    fn encode_data(&mut self, kind: DataKind, plain: &[u8], shared: &mut Shared<'_>) -> bool {
        let compressed = self.compress(kind, plain, shared, Deflater::message);
        if !compressed {
            encode_message(kind, plain, self.mask(), &mut shared.out);
        }
        compressed
    }

    /// Encodes a message compressed, where there is compression and `deflate` thinks it worth it.
    fn compress(
        &mut self,
        kind: DataKind,
        plain: &[u8],
        shared: &mut Shared<'_>,
        deflate: fn(&mut Deflater, &[u8], &mut Vec<u8>) -> bool,
    ) -> bool {
        let mask = self.mask();
        let Shared { out, deflated, .. } = shared;
        deflated.clear();
        let compressed = match &mut self.deflater {
            Some(deflater) => deflate(deflater, plain, deflated),
            None => false,
        };
        if compressed {
            encode_compressed(kind, deflated, mask, out);
            if let Some(metrics) = shared.metrics {
                metrics.recompressed(Direction::from(self.sender), 1);
            }
        }
        compressed
    }

    /// A compressed message went by as it came: what our own compressor remembers is no longer what the
    /// receiver does.
    fn forget_if(&mut self, compressed: bool) {
        if compressed && let Some(deflater) = &mut self.deflater {
            deflater.forget();
        }
    }

    /// The key for a frame to the receiver.
    fn mask(&self) -> Option<[u8; 4]> {
        match self.sender {
            Side::FromClient => Some(random_mask()),
            Side::FromServer => None,
        }
    }
}
