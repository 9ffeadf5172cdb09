//! A stream in memory, and polling it to the end: no runtime, no clock.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Brings its bytes in pieces with a wait before each, and then its end; keeps what is written.
#[derive(Debug)]
pub struct Wire {
    input: Bytes,
    piece: usize,
    waits: bool,
    far: Far,
}

/// The other end of a [`Wire`].
#[derive(Debug, Clone, Default)]
pub struct Far {
    written: Arc<Mutex<Vec<u8>>>,
    /// Bytes that are kept back.
    held: Arc<AtomicUsize>,
}

/// A body that is there already.
#[derive(Debug)]
pub struct Whole(pub Bytes);

impl Wire {
    pub fn new(input: &[u8], piece: u8) -> (Wire, Far) {
        let far = Far::default();
        let wire = Wire {
            input: Bytes::copy_from_slice(input),
            piece: usize::from(piece).max(1),
            waits: false,
            far: far.clone(),
        };
        (wire, far)
    }
}

impl Far {
    pub fn written(&self) -> Vec<u8> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.clone()
    }

    /// Keeps so many bytes at the end back, and the end.
    pub fn hold(&self, held: usize) {
        self.held.store(held, Ordering::Relaxed);
    }
}

/// Polls until it is ready. Nobody is waited for here, so what is not ready soon never is.
pub fn finish<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..POLLS {
        if let Poll::Ready(done) = poll(&mut cx) {
            return done;
        }
    }
    panic!("it waits for nothing");
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.waits = !self.waits;
        let held = self.far.held.load(Ordering::Relaxed);
        let there = self.input.len().saturating_sub(held);
        if self.waits || there == 0 && held > 0 {
            return Poll::Pending;
        }
        let n = self.piece.min(there).min(buf.remaining());
        buf.put_slice(&self.input[..n]);
        self.input.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = self
            .far
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = std::mem::take(&mut self.0);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

/// More than any input needs, of which each byte is a piece at most.
const POLLS: usize = 100_000;
