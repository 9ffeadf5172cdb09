//! An accepted or connected socket, before anybody speaks TLS on it; and listening on a unix socket.

pub mod unix;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// An accepted or connected socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket between two runtimes.
#[derive(Debug)]
pub enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// Has the peer see a reset instead of an orderly end when the socket is dropped, where sockets of its
    /// kind know the difference.
    pub fn break_off(&self) {
        if let Socket::Tcp(stream) = self {
            // It fails for a socket that is broken already.
            let _ = stream.set_zero_linger();
        }
    }

    /// Takes the socket out of its runtime, so that another can serve it.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Socket::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }
}

impl Detached {
    /// Hands the socket to the current runtime; fails when its poller takes no more.
    pub fn attach(self) -> io::Result<Socket> {
        Ok(match self {
            Detached::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

macro_rules! each_socket {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_socket!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_socket!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_socket!(self.get_mut(), s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_socket!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_socket!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}
