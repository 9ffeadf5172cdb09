//! A stream under `h2`, which keeps it to itself: what a peer sends is looked at before `h2` sees it, and
//! what moves is counted.
//!
//! `h2` is lax about some rules and answers others with the wrong code, and it counts little of what a peer may
//! send without end. So [`frames`] looks at each frame first. Most go on where they lie in `h2`'s own
//! buffer. A head that is split over reads is held until it is whole, at most as much as [`Bounds`] allow a head,
//! several times; [`Moves`] tells how much there is of it, for who counts memory.
//!
//! A fault of the connection stops the reading: [`Gate`]'s owner finds it in [`Moves`] and ends the connection
//! with its code. Behind an error that we told, the peer's bytes are read for a moment longer before the stream is
//! closed: a socket that is closed over unread bytes is reset, and the peer would not learn why.

mod frames;
mod head;
mod huffman;
mod rate;

use std::future::Future;
use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub use frames::Bounds;
use frames::{
    DATA, END_STREAM, Found, Frames, GOAWAY, HEAD, HEADERS, ID_BITS, PREFACE, Peer, RST_STREAM,
};

/// A connection's stream with the guard before it.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: S,
    /// What was read of the stream before.
    early: Bytes,
    frames: Frames,
    /// The beginning of what cannot go on yet.
    held: BytesMut,
    /// Which of all beginnings it is.
    beginning: u32,
    /// What goes on next.
    ready: BytesMut,
    moves: Arc<Moves>,
    sent: Sent,
    /// The last write found no room.
    blocked: bool,
    /// The end of a connection with an error.
    farewell: Option<Farewell>,
}

/// What moved, and what was found in it; read by those who drive the connection.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Reads and writes that moved a byte, wrapping.
    reads: AtomicU32,
    writes: AtomicU32,
    /// Writes that found room again behind a write that found none: the peer took something.
    drained: AtomicU32,
    /// Heads that were refused, until somebody takes them.
    refused: AtomicU32,
    /// A GOAWAY came, until somebody takes note.
    leaving: AtomicBool,
    /// Which frame or head has begun and not ended, counted from one; zero if none has.
    begun: AtomicU32,
    /// Bytes of it.
    held: AtomicUsize,
    /// The code of a fault; none if zero.
    fault: AtomicU32,
}

/// Follows the frames that are written.
#[derive(Debug, Default)]
struct Sent {
    /// A frame's head, and what of its payload matters.
    head: [u8; HEAD + MATTERS],
    known: usize,
    /// Bytes that matter no more.
    left: usize,
    /// A GOAWAY with a fault is among them.
    blames: bool,
}

#[derive(Debug)]
struct Farewell {
    timer: Pin<Box<Sleep>>,
    /// Bytes that are still read.
    left: usize,
}

impl Moves {
    pub(super) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// A number that changes with each sign of the peer's life: it sent something, or took what had been
    /// too much for it.
    pub(super) fn signs(&self) -> u32 {
        self.reads()
            .wrapping_add(self.drained.load(Ordering::Relaxed))
    }

    /// Which of all frames and heads that came in pieces is not whole yet, if one is.
    pub(super) fn begun(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.begun.load(Ordering::Relaxed))
    }

    /// Bytes of a frame or head that has begun and not ended.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether the peer has said GOAWAY since this was last asked.
    pub(super) fn take_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) && self.leaving.swap(false, Ordering::Relaxed)
    }

    /// Why the connection must end.
    pub(super) fn fault(&self) -> Option<Reason> {
        match self.fault.load(Ordering::Relaxed) {
            0 => None,
            code => Some(Reason::from(code)),
        }
    }

    /// Heads that were refused since this was last asked.
    pub(super) fn take_refused(&self) -> u32 {
        match self.refused.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.refused.swap(0, Ordering::Relaxed),
        }
    }

    pub(super) fn blame(&self, reason: Reason) {
        if self.fault().is_none() {
            self.fault.store(reason.into(), Ordering::Relaxed);
        }
    }
}

impl<S> Gate<S> {
    /// Before a client. `early` was read of the stream before; `extended`: extended CONNECT is announced.
    pub(super) fn before_client(
        stream: S,
        early: Bytes,
        bounds: Bounds,
        extended: bool,
    ) -> (Gate<S>, Arc<Moves>) {
        Gate::new(stream, early, Peer::Client { extended }, bounds)
    }

    /// Before a server.
    pub(super) fn before_server(stream: S, bounds: Bounds) -> (Gate<S>, Arc<Moves>) {
        Gate::new(stream, Bytes::new(), Peer::Server, bounds)
    }

    fn new(stream: S, early: Bytes, peer: Peer, bounds: Bounds) -> (Gate<S>, Arc<Moves>) {
        let moves = Arc::<Moves>::default();
        let gate = Gate {
            stream,
            early,
            frames: Frames::from(peer, bounds),
            held: BytesMut::new(),
            beginning: 0,
            ready: BytesMut::new(),
            moves: Arc::clone(&moves),
            sent: Sent {
                // Toward a server the preface is ours.
                left: if peer == Peer::Server { PREFACE } else { 0 },
                ..Sent::default()
            },
            blocked: false,
            farewell: None,
        };
        (gate, moves)
    }

    /// Goes on from what was found at the beginning of what is held.
    fn sift(&mut self, mut found: Found) {
        loop {
            match found {
                Found::Beginning => break,
                Found::Instead { taken, with } => {
                    self.begin();
                    self.held.advance(taken);
                    self.ready.extend_from_slice(&with);
                }
                Found::Fault(reason) => {
                    self.held.clear();
                    self.moves.blame(reason);
                    break;
                }
            }
            found = self.look_again();
        }
        let begun = if self.held.is_empty() {
            self.held = BytesMut::new();
            0
        } else {
            self.beginning
        };
        self.moves.begun.store(begun, Ordering::Relaxed);
        self.moves.held.store(self.held.len(), Ordering::Relaxed);
        let refused = self.frames.take_refused();
        if refused > 0 {
            self.moves.refused.fetch_add(refused, Ordering::Relaxed);
        }
    }

    fn look_again(&mut self) -> Found {
        let (passed, found) = self.frames.look(&self.held);
        self.note_leaving();
        if passed > 0 {
            self.begin();
        }
        self.ready.extend_from_slice(&self.held[..passed]);
        self.held.advance(passed);
        found
    }

    /// What is held now is another beginning than before.
    fn begin(&mut self) {
        self.beginning = self.beginning.wrapping_add(1).max(1);
    }

    fn note_leaving(&mut self) {
        if self.frames.take_leaving() {
            self.moves.leaving.store(true, Ordering::Relaxed);
        }
    }

    fn wrote(
        &mut self,
        bufs: &[IoSlice<'_>],
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let was_blocked = std::mem::replace(&mut self.blocked, written.is_pending());
        if let Poll::Ready(Ok(mut left @ 1..)) = written {
            add_one(&self.moves.writes);
            if was_blocked {
                add_one(&self.moves.drained);
            }
            for buf in bufs {
                let bytes = &buf[..left.min(buf.len())];
                left -= bytes.len();
                if let Err(reason) = self.sent.follow(bytes, &mut self.frames) {
                    self.moves.blame(reason);
                }
            }
        }
        written
    }
}

impl Sent {
    fn follow(&mut self, mut bytes: &[u8], frames: &mut Frames) -> Result<(), Reason> {
        let mut followed = Ok(());
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                bytes.advance(skipped);
                self.left -= skipped;
                continue;
            }
            let wanted = match self.head[3] {
                RST_STREAM | GOAWAY if self.known >= HEAD => HEAD + self.length().min(MATTERS),
                _ => HEAD,
            };
            let taken = bytes.len().min(wanted - self.known);
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            bytes.advance(taken);
            self.known += taken;
            let is_known = self.known >= HEAD && {
                let matters = match self.head[3] {
                    RST_STREAM | GOAWAY => self.length().min(MATTERS),
                    _ => 0,
                };
                self.known == HEAD + matters
            };
            if is_known {
                self.left = self.length() - (self.known - HEAD);
                self.known = 0;
                followed = followed.and(self.note(frames));
            }
        }
        followed
    }

    /// Tells what a frame means for what may come.
    fn note(&mut self, frames: &mut Frames) -> Result<(), Reason> {
        let stream = self.number(HEAD - 4) & ID_BITS;
        if matches!(self.head[3], HEADERS | DATA) && self.head[4] & END_STREAM > 0 {
            frames.answered();
        }
        match self.head[3] {
            HEADERS => {
                frames.opened(stream);
                frames.sent();
            }
            DATA if self.length() >= WORTHY => frames.sent(),
            RST_STREAM => return frames.gave_up(stream, Reason::from(self.number(HEAD))),
            GOAWAY => self.blames |= self.number(HEAD + 4) != 0,
            _ => {}
        }
        Ok(())
    }

    fn length(&self) -> usize {
        self.number(0) as usize >> 8
    }

    fn number(&self, at: usize) -> u32 {
        let bytes = self.head.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            add_one(&self.moves.reads);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets, until the peer has closed too or has had time to learn why it should.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let farewell = self.farewell.get_or_insert_with(|| Farewell {
            timer: Box::pin(sleep(FAREWELL)),
            left: FAREWELL_SIZE,
        });
        let mut scratch = [0; PIECE];
        while farewell.left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    farewell.left = farewell.left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return farewell.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                if this.ready.is_empty() {
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.moves.fault().is_some() {
                return match this.frames.peer() {
                    // Whoever polls the connection looks for a fault next.
                    Peer::Client { .. } => Poll::Pending,
                    Peer::Server => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                };
            }
            if this.held.is_empty() {
                let before = buf.filled().len();
                ready!(this.poll_bytes(cx, buf))?;
                let bytes = &buf.filled()[before..];
                if bytes.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let (passed, found) = this.frames.look(bytes);
                this.note_leaving();
                if passed < bytes.len() {
                    this.begin();
                    this.held.extend_from_slice(&bytes[passed..]);
                    buf.set_filled(before + passed);
                    this.sift(found);
                }
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let mut scratch = [0; PIECE];
            let mut piece = ReadBuf::new(&mut scratch);
            ready!(this.poll_bytes(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(piece.filled());
            let found = this.look_again();
            this.sift(found);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&[IoSlice::new(buf)], written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(bufs, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.farewell.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.sent.blames {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_farewell(cx).map(Ok)
    }
}

/// Of a counter with one writer.
fn add_one(counter: &AtomicU32) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}

/// Bytes that are read at once while a frame is held.
const PIECE: usize = 4096;
/// Bytes of a frame's payload that tell why it was sent.
const MATTERS: usize = 8;
/// A DATA frame of as many bytes is one that a peer may answer: with less, who asks byte by byte could go on
/// for ever.
const WORTHY: usize = 8;
/// How long a peer that was told of its fault is listened to, and how many bytes.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_SIZE: usize = 256 * 1024;
