//! One HTTP/2 stream as a byte stream: what a WebSocket speaks over once its extended CONNECT was answered
//! with 200 (RFC 8441 §5). Works for either role, and shares no code with the proxy.
//!
//! A window is given back only as the bytes are read, so that an end which does not read stalls its peer.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both halves. Dropped without a shutdown it resets the stream.
pub struct Stream {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// What the peer sends: ends with END_STREAM, breaks with RST_STREAM.
pub struct Incoming {
    stream: RecvStream,
    /// Of the last DATA frame, not yet read.
    rest: Bytes,
}

/// What goes to the peer, never more than its window allows.
pub struct Outgoing(SendStream<Bytes>);

impl Stream {
    pub fn new(outgoing: SendStream<Bytes>, incoming: RecvStream) -> Stream {
        Stream {
            incoming: Incoming {
                stream: incoming,
                rest: Bytes::new(),
            },
            outgoing: Outgoing(outgoing),
        }
    }
}

impl Outgoing {
    pub(super) fn new(stream: SendStream<Bytes>) -> Outgoing {
        Outgoing(stream)
    }

    pub(super) fn into_inner(self) -> SendStream<Bytes> {
        self.0
    }

    /// Last words in one DATA frame with END_STREAM, as Chromium sends its Close.
    pub fn finish_with(&mut self, bytes: &[u8]) {
        self.0
            .send_data(Bytes::copy_from_slice(bytes), true)
            .unwrap();
    }

    /// RST_STREAM.
    pub fn reset(&mut self, reason: Reason) {
        self.0.send_reset(reason);
    }

    /// Why the peer has reset the stream, once it has.
    pub async fn was_reset(&mut self) -> Reason {
        let reset = std::future::poll_fn(|cx| self.0.poll_reset(cx));
        crate::soon("a reset", reset).await.unwrap()
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.stream.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = buf.remaining().min(self.rest.len());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        let released = self.stream.flow_control().release_capacity(length);
        Poll::Ready(released.map_err(broken))
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.0.reserve_capacity(buf.len());
        while self.0.capacity() == 0 {
            match ready!(self.0.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            }
        }
        let length = buf.len().min(self.0.capacity());
        let data = Bytes::copy_from_slice(&buf[..length]);
        let sent = self.0.send_data(data, false);
        Poll::Ready(sent.map(|()| length).map_err(broken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(self.0.send_data(Bytes::new(), true).map_err(broken))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.outgoing).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.outgoing).poll_shutdown(cx)
    }
}

fn broken(error: h2::Error) -> Error {
    Error::new(ErrorKind::ConnectionReset, error)
}
