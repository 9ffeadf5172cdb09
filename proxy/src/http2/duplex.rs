//! One stream of an HTTP/2 connection as a stream of bytes: DATA both ways.
//!
//! RFC 8441 §5: the stream stands in for TCP. END_STREAM is FIN, RST_STREAM is RST, and flow control is the
//! back-pressure: what is not read is not given back to the peer's window, and nothing is taken from a
//! writer that the peer's window and h2's send buffer have no room for.
//!
//! A drop without a shutdown resets the stream with CANCEL. As a client h2 also throws away what is
//! queued then, END_STREAM with it; so a client says [`Duplex::poll_goodbye`] first.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::{MAX_WINDOW, PIECE, STREAM_WINDOW};

/// Both directions of an HTTP/2 stream whose heads have been exchanged.
#[derive(Debug)]
pub struct Duplex {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// The rest of a DATA frame.
    left: Bytes,
    /// Bytes that were taken, and of which the peer has not been told.
    untold: u32,
    role: Role,
    /// END_STREAM has been queued.
    ended: bool,
    /// Resolves once END_STREAM is no longer queued.
    sent: Option<oneshot::Receiver<()>>,
}

/// Which end of its connection a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

impl Duplex {
    /// The server's end: the request's body, and what `send_response` gave.
    pub fn server(send: SendStream<Bytes>, recv: RecvStream) -> Duplex {
        Duplex::new(send, recv, Role::Server)
    }

    /// The client's end: what `send_request` gave, and the response's body.
    pub fn client(send: SendStream<Bytes>, recv: RecvStream) -> Duplex {
        Duplex::new(send, recv, Role::Client)
    }

    fn new(send: SendStream<Bytes>, recv: RecvStream, role: Role) -> Duplex {
        Duplex {
            send,
            recv,
            left: Bytes::new(),
            untold: 0,
            role,
            ended: false,
            sent: None,
        }
    }

    /// Ends the stream, if a shutdown has not, and waits until a drop can no longer undo that: as a client,
    /// until the connection has taken everything from the stream's queue. The caller bounds it.
    pub fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.end();
        // A stream that both have ended is closed: nothing is reset.
        if let Some(sent) = &mut self.sent
            && !self.recv.is_end_stream()
        {
            // The word itself is never said: the sender is only dropped.
            let _ = ready!(Pin::new(sent).poll(cx));
        }
        self.sent = None;
        Poll::Ready(ended)
    }

    /// Ready when the peer has reset the stream or is gone, which a read tells only behind all that came before.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }

    /// Tells the peer that it may send more, in a frame that goes out with others.
    fn give_credit(&mut self) {
        let taken = std::mem::take(&mut self.untold);
        if taken > 0 {
            // A stream that was reset has no window.
            let _ = self.recv.flow_control().release_capacity(taken as usize);
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let last = match self.role {
            // A server's queue survives the drop.
            Role::Server => Bytes::new(),
            Role::Client => {
                let (queued, sent) = oneshot::channel();
                self.sent = Some(sent);
                Bytes::from_owner(Queued { _until: queued })
            }
        };
        self.send.send_data(last, true).map_err(broken)
    }
}

impl AsyncRead for Duplex {
    /// Fills `buf` from as many DATA frames as there are.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let mut end = Poll::Ready(Ok(()));
        while buf.remaining() > 0 {
            if this.left.is_empty() {
                match this.recv.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => {
                        this.left = data;
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => end = Poll::Ready(Err(broken(error))),
                    Poll::Ready(None) => {}
                    Poll::Pending => end = Poll::Pending,
                }
                break;
            }
            let taken = this.left.len().min(buf.remaining());
            buf.put_slice(&this.left[..taken]);
            this.left.advance(taken);
            if this.left.is_empty() {
                // An empty slice would keep the connection's whole read buffer alive.
                this.left = Bytes::new();
            }
        }
        let read = buf.filled().len() - before;
        if read == 0 {
            return end;
        }
        // h2 says an end, whichever it is, again at the next read. No window lets more come than fits.
        let read = u32::try_from(read).unwrap_or(MAX_WINDOW);
        this.untold = this.untold.saturating_add(read);
        if this.untold >= MOST_UNTOLD {
            this.give_credit();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wanted = piece(buf.len());
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        this.give_credit();
        // What is reserved is taken from the connection's window, and all of it is used below.
        this.send.reserve_capacity(wanted);
        loop {
            let room = this.send.capacity();
            if room > 0 {
                let piece = &buf[..wanted.min(room)];
                let sent = this.send.send_data(Bytes::copy_from_slice(piece), false);
                return Poll::Ready(sent.map(|()| piece.len()).map_err(broken));
            }
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    /// The connection's task writes: there is nothing to do here.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Queues END_STREAM.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().end())
    }
}

/// The payload of a last DATA frame: empty, and dropped once it is queued no longer.
struct Queued {
    _until: oneshot::Sender<()>,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

/// How much of so many bytes the next frame carries.
///
/// What is a little more than whole frames begins with the little: `h2` writes a short frame together with a
/// long one behind it, but no frame together with a long one before it.
fn piece(length: usize) -> usize {
    match length % PIECE {
        rest @ 1..=SHORT if length > PIECE => rest,
        _ => length.min(PIECE),
    }
}

/// Whatever its reason, a stream that neither side ended is broken. Never `UnexpectedEof`, which a
/// connection's own fault may be, and which readers take for an end.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// Bytes that may be taken before the peer is told, unless something is said to it anyway: with a fifth of a
/// window untold, and what `h2` collects, the peer has always room to go on.
const MOST_UNTOLD: u32 = STREAM_WINDOW / 5;
/// Bytes of a frame that `h2` copies into its buffer instead of writing them from where they are.
const SHORT: usize = 200;

#[cfg(test)]
pub(crate) mod tests;
