//! Whether the other end of a connection is still there: bytes that moved, and pings.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream under `h2`, which keeps it to itself: counts what moves.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    /// What was read of the stream before.
    early: Bytes,
    moves: Arc<Moves>,
}

/// Reads and writes that moved a byte, wrapping.
#[derive(Debug, Default)]
pub(super) struct Moves {
    reads: AtomicU32,
    writes: AtomicU32,
}

/// Finds a peer that vanished without a word: one that is silent is asked for a sign of life.
#[derive(Debug)]
pub(super) struct Pings {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    /// Reads when the timer was last set.
    heard: u32,
    /// The peer has been asked since.
    asked: bool,
}

impl Moves {
    pub(super) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    pub(super) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }
}

impl<S> Counted<S> {
    /// `early` was read of the stream before.
    pub(super) fn new(stream: S, early: Bytes) -> (Counted<S>, Arc<Moves>) {
        let moves = Arc::<Moves>::default();
        let counted = Counted {
            stream,
            early,
            moves: Arc::clone(&moves),
        };
        (counted, moves)
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            add_one(&self.moves.writes);
        }
        written
    }
}

impl Pings {
    pub(super) fn new(pings: PingPong) -> Pings {
        Pings {
            pings,
            timer: Box::pin(sleep(INTERVAL)),
            heard: 0,
            asked: false,
        }
    }

    /// Ready when a peer of which somebody `wants` something has not given a sign of life for too long.
    pub(super) fn poll_lost(
        &mut self,
        moves: &Moves,
        wants: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let heard = std::mem::replace(&mut self.heard, moves.reads());
            let silent = heard == self.heard;
            if silent && self.asked {
                return Poll::Ready(());
            }
            self.asked = silent && wants();
            let patience = match self.asked {
                true => {
                    // Whether it is answered is seen by what is read: the last pong is only put aside. If
                    // that is still on its way, it will do for this one.
                    let _ = self.pings.poll_pong(cx);
                    let _ = self.pings.send_ping(Ping::opaque());
                    PATIENCE
                }
                false => INTERVAL,
            };
            self.timer.as_mut().reset(Instant::now() + patience);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let n = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            add_one(&this.moves.reads);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Of a counter with one writer.
fn add_one(counter: &AtomicU32) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}

/// A peer may be silent for so long before it is asked.
const INTERVAL: Duration = Duration::from_secs(30);
/// And then for so long.
const PATIENCE: Duration = Duration::from_secs(20);
