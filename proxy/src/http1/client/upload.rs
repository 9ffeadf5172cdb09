//! A request on its way out: its head, and its body as far as it has come from the client.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::super::Framing;
use super::super::syntax::{push_chunk_line, push_last_chunk};
use super::Fault;

/// The bytes of one request that are still to be written.
#[derive(Debug)]
pub struct Upload<B> {
    head: Bytes,
    /// Pieces of the body, chunk lines included.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// `None` when the last piece was taken from it.
    body: Option<B>,
    chunked: bool,
    /// Some byte of this request was written.
    written: bool,
    /// Everything was written and flushed.
    finished: bool,
    /// The client is to send the next piece.
    waits_for_body: bool,
    last_progress: Option<Instant>,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Of a request without a body.
    pub fn none() -> Upload<B> {
        Upload {
            head: Bytes::new(),
            queue: VecDeque::new(),
            queued: 0,
            body: None,
            chunked: false,
            written: false,
            finished: false,
            waits_for_body: false,
            last_progress: None,
        }
    }

    /// Of a body that is sent as `framing` says, which must be what the head says.
    pub fn of(body: B, framing: Framing) -> Upload<B> {
        Upload {
            body: Some(body),
            chunked: framing == Framing::Chunked,
            ..Upload::none()
        }
    }

    /// The body, without what was taken from it; `None` where its end was.
    pub fn into_body(self) -> Option<B> {
        self.body
    }

    /// Everything has gone out.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// What has come of the body waits for the upstream to take it.
    pub fn is_held_up(&self) -> bool {
        self.queued > 0 && !self.waits_for_body
    }

    /// Since when the upstream alone is waited for: the last piece of the body, or now while it is
    /// the client that everybody waits for. `None` without a body.
    pub fn last_progress(&self) -> Option<Instant> {
        match self.waits_for_body {
            true => Some(Instant::now()),
            false => self.last_progress,
        }
    }

    /// Puts the head first. After an attempt of which not a byte was written, what was queued
    /// already is sent from its beginning.
    pub(super) fn begin(&mut self, head: Bytes) {
        self.head = head;
        self.written = false;
        self.finished = false;
    }

    pub(super) fn has_written(&self) -> bool {
        self.written
    }

    /// Writes what there is to write; ready when all of it is out.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault<B::Error>>> {
        loop {
            self.fill(cx)?;
            if !self.head.has_remaining() && self.queue.is_empty() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                if self.body.is_some() {
                    return Poll::Pending;
                }
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            let n = ready!(self.poll_write_once(stream, cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.written = true;
            self.advance(n);
        }
    }

    /// Takes pieces of the body while there is room for them.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Fault<B::Error>> {
        while self.queued < QUEUE_SIZE
            && let Some(body) = &mut self.body
        {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // HTTP/2 may say the end in a frame of its own, which nobody needs to wait for.
                    let last = body.is_end_stream()
                        || !self.chunked && body.size_hint().exact() == Some(0);
                    self.push(frame);
                    if last {
                        self.end();
                    }
                    self.progressed();
                }
                Poll::Ready(Some(Err(error))) => return Err(Fault::Upload(error)),
                Poll::Ready(None) => {
                    self.end();
                    self.progressed();
                }
                Poll::Pending => {
                    self.waits_for_body = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            // An empty chunk would end the body.
            Ok(data) if data.is_empty() => {}
            Ok(data) if self.chunked => {
                let mut line = Vec::with_capacity(18);
                push_chunk_line(&mut line, data.len());
                self.push_bytes(line.into());
                self.push_bytes(data);
                self.push_bytes(Bytes::from_static(b"\r\n"));
            }
            Ok(data) => self.push_bytes(data),
            Err(frame) => {
                if let (Ok(trailers), true) = (frame.into_trailers(), self.chunked) {
                    let mut last = Vec::new();
                    push_last_chunk(&mut last, &trailers);
                    self.push_bytes(last.into());
                }
                // Nothing comes behind trailers.
                self.body = None;
            }
        }
    }

    fn end(&mut self) {
        if self.body.take().is_some() && self.chunked {
            self.push_bytes(Bytes::from_static(b"0\r\n\r\n"));
        }
    }

    fn push_bytes(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    fn progressed(&mut self) {
        self.waits_for_body = false;
        self.last_progress = Some(Instant::now());
    }

    fn poll_write_once<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        if self.queue.is_empty() {
            return stream.poll_write(cx, &self.head);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let pieces = std::iter::once(&self.head).chain(&self.queue);
        let mut used = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        stream.poll_write_vectored(cx, &slices[..used])
    }

    fn advance(&mut self, mut n: usize) {
        let of_head = n.min(self.head.len());
        self.head.advance(of_head);
        n -= of_head;
        self.queued -= n;
        while n > 0
            && let Some(first) = self.queue.front_mut()
        {
            let taken = n.min(first.len());
            first.advance(taken);
            n -= taken;
            if first.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

/// Of a body that the upstream is slow to take, in bytes.
const QUEUE_SIZE: usize = 64 * 1024;
/// Pieces of one write.
const SLICES: usize = 16;
