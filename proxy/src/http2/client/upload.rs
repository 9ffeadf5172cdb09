//! A request's body on its way out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::Body;
use tokio::time::Instant;

use super::super::PIECE;

/// What of a request is still to be sent behind its head.
#[derive(Debug)]
pub struct Upload<B> {
    body: Option<B>,
    next: Next,
    /// The client is to send the next piece.
    waits_for_body: bool,
    last_progress: Option<Instant>,
}

#[derive(Debug)]
enum Next {
    /// The body's next frame.
    Frame,
    /// A piece of it; `last`: nothing comes behind it.
    Piece {
        data: Bytes,
        last: bool,
    },
    Trailers(HeaderMap),
    /// Everything is out, or the server wants no more of it.
    Nothing,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Of a request whose head is all of it.
    pub fn none() -> Upload<B> {
        Upload {
            body: None,
            next: Next::Nothing,
            waits_for_body: false,
            last_progress: None,
        }
    }

    pub fn of(body: B) -> Upload<B> {
        Upload {
            body: Some(body),
            next: Next::Frame,
            ..Upload::none()
        }
    }

    /// Nothing is left to send.
    pub fn is_finished(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// Since when the upstream alone is waited for: the last piece of the body, or now while it is
    /// the client that everybody waits for. `None` without a body.
    pub fn last_progress(&self) -> Option<Instant> {
        match self.waits_for_body {
            true => Some(Instant::now()),
            false => self.last_progress,
        }
    }

    pub fn body_mut(&mut self) -> Option<&mut B> {
        self.body.as_mut()
    }

    /// The body, without what was taken from it.
    pub fn into_body(self) -> Option<B> {
        self.body
    }

    /// Sends what there is to send, as far as the windows allow; ready when all of it is out.
    ///
    /// A stream that takes no more ends it too: why, its answer tells. An error is the body's own.
    pub fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), B::Error>> {
        loop {
            match &mut self.next {
                Next::Nothing => return Poll::Ready(Ok(())),
                Next::Frame => ready!(self.poll_body(cx))?,
                Next::Piece { data, last } => {
                    let Some(room) = ready!(poll_room(stream, data.len(), cx)) else {
                        self.next = Next::Nothing;
                        continue;
                    };
                    let piece = data.split_to(data.len().min(room).min(PIECE));
                    let whole = data.is_empty();
                    let last = whole && *last;
                    let sent = stream.send_data(piece, last);
                    self.last_progress = Some(Instant::now());
                    if last || sent.is_err() {
                        self.next = Next::Nothing;
                    } else if whole {
                        self.next = Next::Frame;
                    }
                }
                Next::Trailers(trailers) => {
                    // One that fails has ended, and its answer tells why.
                    let _ = stream.send_trailers(std::mem::take(trailers));
                    self.next = Next::Nothing;
                }
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        let Some(body) = &mut self.body else {
            self.next = Next::Nothing;
            return Poll::Ready(Ok(()));
        };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            self.waits_for_body = true;
            return Poll::Pending;
        };
        self.waits_for_body = false;
        self.last_progress = Some(Instant::now());
        self.next = match frame.transpose()? {
            None => Next::Piece {
                data: Bytes::new(),
                last: true,
            },
            Some(frame) => match frame.into_data() {
                Ok(data) if data.is_empty() && !body.is_end_stream() => Next::Frame,
                Ok(data) => Next::Piece {
                    data,
                    last: body.is_end_stream(),
                },
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Next::Trailers(trailers),
                    Err(_) => Next::Frame,
                },
            },
        };
        Poll::Ready(Ok(()))
    }
}

/// How much of `len` bytes the stream takes now; `None` if it takes no more at all.
///
/// Room is asked for only with bytes in hand, as it is taken from the connection's other streams.
fn poll_room(
    stream: &mut SendStream<Bytes>,
    len: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    if len == 0 {
        return Poll::Ready(Some(0));
    }
    stream.reserve_capacity(len);
    loop {
        match stream.capacity() {
            0 => {}
            room => return Poll::Ready(Some(room)),
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}
