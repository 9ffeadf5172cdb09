//! Bodies on HTTP/2 streams: off one as they are wanted, onto one as far as its peer takes them.
//!
//! A [`Received`] gives credit for bytes that it hands out, so that a body which nobody reads stops its
//! sender. A [`Sending`] asks for room only with a piece in hand: room that is asked for is taken from the
//! connection, and so from other streams. It waits with a deadline, as a peer that stops reading one
//! stream may go on with the others.
//!
//! Lengths against Content-Length are `h2`'s to check, for what comes in. RFC 9113 §5.2, §8.1.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::PIECE;
use crate::pace::Pace;

/// A body as it comes.
#[derive(Debug)]
pub struct Received {
    /// `None` of a body that somebody else reads.
    stream: Option<RecvStream>,
    /// Bytes still to come, where the head says how many there are.
    left: Option<u64>,
    /// Set when the body is waited for.
    wanted: Option<Arc<AtomicBool>>,
    ended: bool,
}

/// A body on its way out.
pub struct Sending<B> {
    stream: SendStream<Bytes>,
    /// A piece of the body that waits for room; gone before the body, for whose account it counts.
    piece: Bytes,
    body: B,
    /// How many have gone out, wrapping.
    pieces: u32,
    /// The peer may take nothing for so long.
    patience: Duration,
    /// Bytes that went out, and how slowly they may.
    sent: u64,
    pace: Option<Pace>,
    waiting: Option<Wait>,
}

/// The wait for room.
struct Wait {
    /// Its own end, whatever the pace allows.
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

/// Why a body did not go out whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFault<E> {
    /// The peer has reset the stream or is gone.
    #[error("the peer left")]
    Left,
    #[error("the peer stopped reading")]
    Stalled,
    #[error("the peer reads too slowly")]
    TooSlow,
    /// The body itself failed.
    #[error("{0}")]
    Body(E),
}

impl Received {
    /// `head` is the message's.
    pub fn new(stream: RecvStream, head: &HeaderMap) -> Received {
        let length = head.get(CONTENT_LENGTH);
        Received {
            left: length.and_then(|length| length.to_str().ok()?.parse().ok()),
            ended: stream.is_end_stream(),
            stream: Some(stream),
            wanted: None,
        }
    }

    /// A body that nobody gets: what comes on its stream is no body. `ended`: nothing comes.
    pub fn elsewhere(ended: bool) -> Received {
        Received {
            stream: None,
            left: None,
            wanted: None,
            ended,
        }
    }

    /// Sets `wanted` when somebody waits for a byte of the body.
    pub(super) fn telling(mut self, wanted: Arc<AtomicBool>) -> Received {
        self.wanted = Some(wanted);
        self
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        let Some(stream) = this.stream.as_mut().filter(|_| !this.ended) else {
            return Poll::Ready(None);
        };
        let piece = loop {
            let polled = stream.poll_data(cx);
            if let (Poll::Pending, Some(wanted)) = (&polled, this.wanted.take()) {
                wanted.store(true, Ordering::Relaxed);
            }
            match ready!(polled) {
                // The end, in a frame of its own.
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(piece) => break piece,
                None => {
                    let trailers = ready!(stream.poll_trailers(cx)).transpose();
                    this.ended = true;
                    return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
                }
            }
        };
        let piece = piece.inspect_err(|_| this.ended = true)?;
        // It fails only for a stream that has ended, which the next poll tells.
        let _ = stream.flow_control().release_capacity(piece.len());
        if let Some(left) = &mut this.left {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = || self.stream.as_ref().is_some_and(RecvStream::is_end_stream);
        self.ended || ended()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    /// `stream` has sent its head and nothing else; its peer may take nothing for as long as `patience`.
    pub fn new(stream: SendStream<Bytes>, body: B, patience: Duration) -> Sending<B> {
        Sending {
            stream,
            piece: Bytes::new(),
            body,
            pieces: 0,
            patience,
            sent: 0,
            pace: None,
            waiting: None,
        }
    }

    /// As [`Sending::new`], to a peer that has to keep this pace.
    pub fn paced(mut self, pace: Pace) -> Sending<B> {
        self.pace = Some(pace);
        self
    }

    /// Whether, after a poll that was not ready, the body is to bring the next piece.
    pub fn waits_for_body(&self) -> bool {
        self.piece.is_empty()
    }

    /// How many pieces have gone out, wrapping.
    pub(super) fn pieces(&self) -> u32 {
        self.pieces
    }

    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, without what was taken from it.
    pub(super) fn into_body(self) -> B {
        self.body
    }

    /// Puts the body on its stream and ends that; ready when `h2` has all of it.
    ///
    /// After a fault the stream is still to be [reset](Sending::reset).
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendFault<B::Error>>> {
        loop {
            if !self.piece.is_empty() {
                ready!(self.poll_room(cx))?;
                if self.send_piece()? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // Who reset the stream waits for nothing.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(Err(SendFault::Left)),
                    Poll::Pending => Poll::Pending,
                };
            };
            let Some(frame) = frame.transpose().map_err(SendFault::Body)? else {
                return Poll::Ready(self.end(Bytes::new()));
            };
            match frame.into_data() {
                Ok(data) => self.piece = data,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let sent = self.stream.send_trailers(trailers);
                        return Poll::Ready(sent.map_err(|_| SendFault::Left));
                    }
                }
            }
        }
    }

    /// Tells the peer that the rest does not come.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Waits until the peer takes something.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendFault<B::Error>>> {
        let wanted = self.piece.len().min(PIECE);
        self.stream.reserve_capacity(wanted);
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Err(SendFault::Left)),
                Poll::Pending => return self.poll_late(cx).map(Err),
            }
        }
        self.waiting = None;
        if let Some(pace) = &mut self.pace {
            pace.goes_on(self.sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the peer has been waited for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<SendFault<B::Error>> {
        loop {
            let too_slow = self.pace.as_mut().map(|pace| pace.waits(self.sent));
            let patience = self.patience;
            let wait = self.waiting.get_or_insert_with(|| {
                let deadline = Instant::now() + patience;
                let timer = Box::pin(sleep_until(
                    too_slow.map_or(deadline, |at| at.min(deadline)),
                ));
                Wait { deadline, timer }
            });
            ready!(wait.timer.as_mut().poll(cx));
            let now = Instant::now();
            match too_slow {
                _ if wait.deadline <= now => return Poll::Ready(SendFault::Stalled),
                Some(too_slow) if now < too_slow => {
                    // What shared the connection's rate is over.
                    wait.timer.as_mut().reset(wait.deadline.min(too_slow));
                }
                _ => return Poll::Ready(SendFault::TooSlow),
            }
        }
    }

    /// Sends as much of the piece as there is room for; true if that was the body's last.
    fn send_piece(&mut self) -> Result<bool, SendFault<B::Error>> {
        self.pieces = self.pieces.wrapping_add(1);
        let room = self.stream.capacity().min(PIECE);
        let goes = self.piece.len().min(room);
        self.sent += goes as u64;
        if let Some(pace) = &self.pace {
            pace.goes_out(goes);
        }
        if self.piece.len() > room {
            let data = self.piece.split_to(room);
            let sent = self.stream.send_data(data, false);
            return sent.map(|()| false).map_err(|_| SendFault::Left);
        }
        let piece = std::mem::take(&mut self.piece);
        if self.body.is_end_stream() {
            return self.end(piece).map(|()| true);
        }
        let sent = self.stream.send_data(piece, false);
        sent.map(|()| false).map_err(|_| SendFault::Left)
    }

    fn end(&mut self, last: Bytes) -> Result<(), SendFault<B::Error>> {
        let sent = self.stream.send_data(last, true);
        sent.map_err(|_| SendFault::Left)
    }
}
