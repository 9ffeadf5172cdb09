//! One byte stream type for every leg: TCP or unix socket, plain or TLS, or one stream of an HTTP/2
//! connection.
//!
//! An enum, not a trait object: a tunnel polls it for each chunk, and the larger variants are boxed so
//! that a plain connection does not pay for their size.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http2::{Duplex, SEND_BUFFER, STREAM_WINDOW};
use crate::socket::Socket;
use crate::tls::{ClientTlsStream, ServerTlsStream};

/// A leg of a connection.
#[derive(Debug)]
pub enum Stream {
    Plain(Socket),
    ServerTls(Box<ServerTlsStream>),
    ClientTls(Box<ClientTlsStream>),
    Http2(Box<Duplex>),
}

impl Stream {
    /// Nothing is said at its end: dropping it ends it as well as a shutdown.
    pub fn is_plain(&self) -> bool {
        matches!(self, Stream::Plain(_))
    }

    /// A client may end it together with its Close frame: over HTTP/2 with END_STREAM on the same frame,
    /// where over TCP it waits for the server's answer and FIN.
    pub fn ends_early(&self) -> bool {
        matches!(self, Stream::Http2(_))
    }

    /// Bytes that it may hold itself where nobody reads it, and where its peer takes nothing.
    pub fn depths(&self) -> (usize, usize) {
        match self {
            Stream::Http2(_) => (STREAM_WINDOW as usize, SEND_BUFFER),
            Stream::Plain(_) | Stream::ServerTls(_) | Stream::ClientTls(_) => (0, 0),
        }
    }

    /// From now on last words may wait for a flush or the goodbye: TLS sends them together.
    pub fn cork(&mut self) {
        match self {
            Stream::Plain(_) | Stream::Http2(_) => {}
            Stream::ServerTls(stream) => stream.cork(),
            Stream::ClientTls(stream) => stream.cork(),
        }
    }

    /// Has the peer see that something is missing when the stream is dropped: TCP's end alone could be the
    /// end of what it was sent. A stream of HTTP/2 is reset by being dropped.
    pub fn break_off(&self) {
        match self {
            Stream::Plain(socket) => socket.break_off(),
            Stream::ServerTls(stream) => stream.socket().break_off(),
            Stream::ClientTls(stream) => stream.socket().break_off(),
            Stream::Http2(_) => {}
        }
    }

    /// Says that nothing more will be written, where that is not the socket's end itself: TLS's
    /// close_notify, HTTP/2's END_STREAM. Dropping the stream does the rest.
    pub fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::ServerTls(stream) => stream.poll_goodbye(cx),
            Stream::ClientTls(stream) => stream.poll_goodbye(cx),
            Stream::Http2(stream) => stream.poll_goodbye(cx),
        }
    }
}

macro_rules! each_stream {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Plain($stream) => $call,
            Stream::ServerTls($stream) => $call,
            Stream::ClientTls($stream) => $call,
            Stream::Http2($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_stream!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_stream!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_stream!(self.get_mut(), s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each_stream!(self, s => s.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_stream!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_stream!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}
