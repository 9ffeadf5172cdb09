//! HTTP/1.1 as bytes, for both sides of the proxy: heads, fields, bodies.
//!
//! [`server`] speaks with clients, [`client`] with upstreams. Both read what the other side sends by
//! the same rules, which forgive nothing that two readers could understand differently: lines end
//! with CRLF, names are tokens, values hold no control characters, a body's end is said once and
//! clearly. What is refused has a name, a [`Violation`].
//!
//! There is no channel and no timer in here: whoever polls drives, and deadlines are the caller's.
//! Nothing is kept of a connection that is idle but its state; bytes are read through one scratch
//! buffer per thread.
//!
//! RFC 9110 §5, RFC 9112.

pub mod client;
mod decode;
pub mod server;
mod syntax;
mod violation;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

pub use decode::BodyFault;
pub use syntax::poses_as_framing;
pub use violation::Violation;

/// What a head, or the trailers of a body, may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// From the first byte to the blank line, both included.
    pub size: usize,
    pub fields: usize,
}

/// How the other side learns where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// Reads once, through the thread's scratch buffer: who waits for a head holds no buffer.
///
/// Ready with 0 is the end of the stream.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
        read.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
}

/// Reads once into the buffer itself, where `wants` bytes are worth it; a wait keeps no room for
/// them.
fn poll_read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    wants: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if wants <= READ_AHEAD {
        return poll_read(stream, read, cx);
    }
    read.reserve(wants);
    let polled = pin!(stream.read_buf(read)).poll(cx);
    if polled.is_pending() && read.is_empty() {
        *read = BytesMut::new();
    }
    polled
}

/// Room for a usual head and a small body.
const READ_AHEAD: usize = 8 * 1024;
/// Bytes of a body that are read at once.
const READ_MOST: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<[u8; READ_AHEAD]> = const { RefCell::new([0; READ_AHEAD]) };
}
