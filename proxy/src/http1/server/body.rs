//! A request's body as it comes from the client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::BodyFault;
use super::super::decode::Piece;
use super::Io;

/// The body of a request, read from the client's stream when it is polled.
///
/// It may be polled from another task than its connection. A client that waits to be asked for it
/// (RFC 9110 §10.1.1) is asked at the first poll. Dropping it before its end ends the connection
/// after the answer, unless the rest has come already.
#[derive(Debug)]
pub struct RequestBody<S> {
    /// `None` of a request without a body.
    io: Option<Arc<Mutex<Io<S>>>>,
}

impl<S> RequestBody<S> {
    pub(super) fn new(io: Option<Arc<Mutex<Io<S>>>>) -> RequestBody<S> {
        RequestBody { io }
    }

    fn with_io<T>(&self, without: T, look: impl FnOnce(&mut Io<S>) -> T) -> T {
        match &self.io {
            None => without,
            Some(io) => look(&mut io.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Body for RequestBody<S> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.with_io(Poll::Ready(None), |io| {
            let piece = match ready!(io.poll_body(cx)) {
                Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
                Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Ok(Piece::End | Piece::More) => None,
                Err(fault) => Some(Err(fault)),
            };
            Poll::Ready(piece)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.with_io(true, |io| io.body.is_done())
    }

    fn size_hint(&self) -> SizeHint {
        self.with_io(SizeHint::with_exact(0), |io| io.body.size_hint())
    }
}

impl<S> Drop for RequestBody<S> {
    fn drop(&mut self) {
        self.with_io((), |io| io.lent = false);
    }
}
