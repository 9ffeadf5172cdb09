//! Refuses malformed HTTP/1 before hyper's parser can forgive it.
//!
//! [`Guard`] sits between a client's stream and hyper's server and shows every byte that is read to
//! an [`Inspector`], in the caller's buffer and without a copy. What hyper reads is what the client
//! sent, up to the first fault. A fault in a head is replaced by bytes that no HTTP parser accepts,
//! so that hyper answers 4xx in its turn, after the responses to earlier requests, and closes; the
//! service never sees the request. A fault in a body (chunk lines, trailers) is a read error of
//! kind `InvalidData` right after the last good byte.
//!
//! Invariant for the owner: once a GET that asks for `Upgrade: websocket` was read, what follows is
//! passed on unexamined, because it may belong to a tunnel. Such a request must be answered with
//! 101 or with `Connection: close`, never with a response that keeps the connection.
//!
//! RFC 9112 §2.2, §3, §5, §6 and §7.1; status 431 needs hyper's `max_headers` and
//! `max_header_size` set to the same limits, otherwise it is 400.

mod inspector;
mod violation;
mod word;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use inspector::{GuardLimits, Inspector, Refusal};
pub use violation::Violation;

/// A client's stream whose HTTP/1 framing is checked while it is read.
#[derive(Debug)]
pub struct Guard<S> {
    stream: S,
    inspector: Inspector,
    stop: Option<Stop>,
    seen: GuardHandle,
}

/// Tells, also after the guard went into hyper, how far the client's stream has come.
#[derive(Debug, Clone)]
pub struct GuardHandle(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    violation: AtomicU8,
    between_messages: AtomicBool,
    /// The client has not taken yet what was to be written.
    writing: AtomicBool,
    /// The violation was in a head: no request came of it.
    in_head: AtomicBool,
    /// The client has ended its stream.
    ended: AtomicBool,
    /// Reads and writes that moved a byte, wrapping.
    moves: AtomicU32,
}

impl<S> Guard<S> {
    pub fn new(stream: S, limits: GuardLimits) -> Guard<S> {
        Guard {
            stream,
            inspector: Inspector::new(limits),
            stop: None,
            seen: GuardHandle(Arc::new(Seen {
                violation: AtomicU8::new(0),
                between_messages: AtomicBool::new(true),
                writing: AtomicBool::new(false),
                in_head: AtomicBool::new(false),
                ended: AtomicBool::new(false),
                moves: AtomicU32::new(0),
            })),
        }
    }

    pub fn handle(&self) -> GuardHandle {
        self.seen.clone()
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The bare stream, for a tunnel. Bytes that were read stay with whoever read them.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S> Guard<S> {
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.seen.set_writing(true);
        } else {
            self.seen.moved();
        }
        written
    }
}

impl GuardHandle {
    /// Why the stream was refused, if it was.
    pub fn violation(&self) -> Option<Violation> {
        Violation::from_code(self.0.violation.load(Ordering::Relaxed))
    }

    /// Whether all that was read are whole requests: not a byte of the next one has come.
    pub fn is_between_messages(&self) -> bool {
        self.0.between_messages.load(Ordering::Relaxed)
    }

    /// As [`GuardHandle::violation`], unless it was in the body of a request that was served.
    pub fn refused_head(&self) -> Option<Violation> {
        self.violation()
            .filter(|_| self.0.in_head.load(Ordering::Relaxed))
    }

    /// Whether the client has ended its stream: nothing more can come.
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Whether the client is slow to take what is written.
    pub fn is_writing(&self) -> bool {
        self.0.writing.load(Ordering::Relaxed)
    }

    fn set_writing(&self, writing: bool) {
        self.0.writing.store(writing, Ordering::Relaxed);
    }

    /// A number that changes whenever bytes move, either way.
    pub fn moves(&self) -> u32 {
        self.0.moves.load(Ordering::Relaxed)
    }

    fn moved(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }

    fn set(&self, violation: Violation, in_body: bool) {
        self.0.in_head.store(!in_body, Ordering::Relaxed);
        self.0.violation.store(violation as u8, Ordering::Relaxed);
    }

    fn set_between_messages(&self, between: bool) {
        self.0.between_messages.store(between, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stop.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                this.seen.0.ended.store(true, Ordering::Relaxed);
                return Poll::Ready(Ok(()));
            }
            this.seen.moved();
            let inspected = this.inspector.feed(&buf.filled()[before..]);
            this.seen
                .set_between_messages(this.inspector.is_between_messages());
            let Err(refusal) = inspected else {
                return Poll::Ready(Ok(()));
            };
            this.seen.set(refusal.violation, refusal.in_body);
            this.stop = Some(Stop::of(refusal));
            buf.set_filled(before + refusal.at);
            if refusal.at > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        match &mut this.stop {
            Some(Stop::Poison(rest)) => {
                let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                buf.put_slice(now);
                *rest = later;
                Poll::Ready(Ok(()))
            }
            Some(Stop::Error(violation)) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                violation.label(),
            ))),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.seen.set_writing(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// What the reader gets instead of the refused bytes.
#[derive(Debug)]
enum Stop {
    /// The rest of the bytes that make the parser refuse; then the end of the stream.
    Poison(&'static [u8]),
    Error(Violation),
}

impl Stop {
    fn of(refusal: Refusal) -> Stop {
        match refusal.violation {
            violation if refusal.in_body => Stop::Error(violation),
            Violation::TooManyFields => Stop::Poison(ONE_FIELD_MORE),
            _ => Stop::Poison(NUL),
        }
    }
}

/// No part of a head may hold NUL. The blank line makes hyper look: it does not parse a head again
/// before it has seen one.
const NUL: &[u8] = b"\0\r\n\r\n";
/// Sent at the start of a line: for a parser with the same limit one field too many (431), for any
/// other a bad name (400).
const ONE_FIELD_MORE: &[u8] = b"x:\r\n\0\r\n\r\n";

#[cfg(test)]
mod tests;
