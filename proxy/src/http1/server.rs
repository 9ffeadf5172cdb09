//! HTTP/1.1 toward a client: requests one after another on one connection, answered in their order.
//!
//! [`Connection::poll_request`] gives the next request, its body read from the stream as it is
//! polled. [`Connection::begin_answer`] and [`Connection::poll_answer`] write what became of it, and
//! [`Connection::may_go_on`] tells whether there can be another. After a 101,
//! [`Connection::into_stream`] gives up the bare stream with every byte that was read past the
//! request's head. Meanwhile a [`Herald`] says what comes before an answer.
//!
//! A request is what the rules of [`http1`](super) leave: all else is a [`Violation`], found as soon
//! as its line has come, and nothing is read behind it. A body that breaks the rules fails, so that
//! no request is completed. Neither takes the answers to earlier requests away.
//!
//! A client may end its stream behind its last request and is still answered; one whose stream
//! breaks while it waits is noticed by [`Connection::poll_broken`].
//!
//! Where HTTP/2 is spoken too, a client that begins with its preface (RFC 9113 §3.4) is told apart by
//! that: no request begins so.
//!
//! RFC 9110 §7.6.1, §9.3.2, §10.1.1; RFC 9112 §2, §3, §6, §7 and §9.

mod answer;
mod body;
mod head;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, Version, response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

pub use answer::Answer;
pub use body::RequestBody;

use super::decode::{Decoder, Piece};
use super::{BodyFault, HeadLimits, Violation, poll_read, poll_read_body};
use answer::{Asked, encode_interim};
use head::{Head, HeadReader};

/// A client's connection.
#[derive(Debug)]
pub struct Connection<S> {
    /// Shared with the body of a request while that is under way.
    io: Arc<Mutex<Io<S>>>,
    limits: HeadLimits,
    reader: HeadReader,
    /// Of the request under way, for its answer.
    asked: Asked,
    /// The first bytes may be HTTP/2's.
    may_be_http2: bool,
}

/// Why there is no next request.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("a request is refused: {0}")]
    Refused(#[from] Violation),
    /// Also when the client ends its stream in the middle of a head.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client begins to speak HTTP/2; nothing was taken of what it said.
    #[error("the client speaks HTTP/2")]
    Http2,
}

/// Tells the client of a request something before its answer begins.
///
/// To be dropped with whoever serves the request: while it lives, the connection does not give up its stream.
#[derive(Debug)]
pub struct Herald<S>(Arc<Mutex<Io<S>>>);

/// The stream, and what is between it and the messages.
#[derive(Debug)]
struct Io<S> {
    stream: S,
    /// What was read and not yet used.
    read: BytesMut,
    /// Of the request under way.
    body: Decoder,
    /// The body belongs to somebody who may still want it.
    lent: bool,
    /// The client is to be told to continue once the body is wanted.
    asks: bool,
    /// What the client is being told before its answer.
    saying: Bytes,
    /// The stream may hold some of that.
    unflushed: bool,
    /// The client has ended its stream.
    ended: bool,
    /// Reads and writes that moved a byte, wrapping.
    moves: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// `limits` are those of a request's head, and of its trailers once more.
    pub fn new(stream: S, limits: HeadLimits) -> Connection<S> {
        Connection {
            io: Arc::new(Mutex::new(Io {
                stream,
                read: BytesMut::new(),
                body: Decoder::Empty,
                lent: false,
                asks: false,
                saying: Bytes::new(),
                unflushed: false,
                ended: false,
                moves: 0,
            })),
            limits,
            reader: HeadReader::default(),
            asked: Asked::NOTHING,
            may_be_http2: false,
        }
    }

    /// The client may begin with HTTP/2's preface, which is then [`Fault::Http2`].
    pub fn or_http2(mut self, may_be: bool) -> Connection<S> {
        self.may_be_http2 = may_be;
        self
    }

    /// Waits for the next request; `None` if the client has ended its stream instead.
    ///
    /// The request before it must have been answered. After a fault there is none any more.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Request<RequestBody<S>>>, Fault>> {
        let mut io = self.io.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.may_be_http2 && io.read.starts_with(PREFACE) {
                return Poll::Ready(Err(Fault::Http2));
            }
            if !io.read.is_empty()
                && let Some(head) = self.reader.take(&mut io.read, self.limits)?
            {
                self.may_be_http2 = false;
                self.asked = Asked::of(&head);
                let lent = io.expect_body(head.body, head.expects_continue);
                drop(io);
                let body = RequestBody::new(lent.then(|| Arc::clone(&self.io)));
                return Poll::Ready(Ok(Some(Request::from_parts(head.parts, body))));
            }
            if io.ended {
                return Poll::Ready(match io.read.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                });
            }
            if io.read.is_empty() {
                // It may own the room of the last body.
                io.read = BytesMut::new();
            }
            ready!(io.poll_read(cx))?;
        }
    }

    /// Not a byte of the next request has come; a blank line may stand before it.
    pub fn is_between_requests(&self) -> bool {
        matches!(&self.io().read[..], b"" | b"\r\n")
    }

    /// Whether the client has ended its stream: nothing more can come.
    pub fn has_ended(&self) -> bool {
        self.io().ended
    }

    /// A number that changes whenever bytes move, either way.
    pub fn moves(&self) -> u32 {
        self.io().moves
    }

    /// The way to tell the client of the present request something before its answer.
    pub fn herald(&self) -> Herald<S> {
        Herald(Arc::clone(&self.io))
    }

    /// Ready when the client's stream breaks, so that nobody waits for the answer any more.
    ///
    /// Goes on with what the client is being told before its answer. What it sends meanwhile is kept for
    /// later, up to the size of a head.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limits.size;
        let mut io = self.io();
        if io.say(cx).is_err() {
            return Poll::Ready(());
        }
        // A body under way is read by its owner, who sees what becomes of the stream.
        while io.body.is_done() && !io.ended && io.read.len() < limit {
            match ready!(io.poll_read(cx)) {
                Ok(_) => {}
                // An end without TLS's goodbye is an end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => io.ended = true,
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Starts the answer to the present request, or to what was refused as one. A response that
    /// says `Connection: close` is the connection's last, and so is one that overtakes a body that
    /// nobody wants.
    pub fn begin_answer<B>(&mut self, response: Response<B>) -> Answer<B>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut asked = std::mem::replace(&mut self.asked, Asked::NOTHING);
        let mut io = self.io();
        // Who was not yet told to continue is not; what the client is being told it hears first.
        io.asks = false;
        // The answer flushes it; an upload that goes on must not take the stream's waker for that.
        io.unflushed = false;
        let unsaid = std::mem::take(&mut io.saying);
        asked.keep_alive &= io.lent || io.skip_body();
        drop(io);
        Answer::new(response, asked, &unsaid)
    }

    /// Writes an answer; ready when its last byte is out. An error says nothing about whose fault
    /// it was: the answer's body may have failed, or the client may have gone.
    pub fn poll_answer<B>(
        &mut self,
        answer: &mut Answer<B>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        answer.poll_write(&mut Writer(&self.io), cx)
    }

    /// Whether another request may come after a written answer.
    pub fn may_go_on<B>(&mut self, answer: &Answer<B>) -> bool {
        let mut io = self.io();
        answer.goes_on() && !io.lent && io.skip_body()
    }

    /// Whether a written answer leaves nothing to be read: the client has said that its request,
    /// which had no body, was the last. Then the stream can be closed at once (RFC 9112 §9.6).
    pub fn is_served<B>(&self, answer: &Answer<B>) -> bool {
        answer.was_asked_as_last() && self.io().read.is_empty()
    }

    /// The bare stream, and what was read and not used of it: after a 101 what was read past the
    /// request's head. `None` if the request's body is still somebody's, which a request for another
    /// protocol does not have.
    pub fn into_stream(self) -> Option<(S, Bytes)> {
        let io = Arc::into_inner(self.io)?;
        let Io { stream, read, .. } = io.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A copy: a tunnel must not hold the whole read buffer for its life.
        Some((stream, Bytes::copy_from_slice(&read)))
    }

    /// Lets the stream be looked at.
    pub fn with_stream(&self, look: impl FnOnce(&S)) {
        look(&self.io().stream);
    }

    /// Ends our side of the stream.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io().stream).poll_shutdown(cx)
    }

    /// Reads what nobody wants any more; gives the number of bytes, 0 at the stream's end.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut io = self.io();
        io.read.clear();
        io.poll_read(cx)
    }

    /// No code panics while it holds this lock, so a poisoned one is still consistent.
    fn io(&self) -> MutexGuard<'_, Io<S>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Io<S> {
    /// Prepares for the body that follows a head; true if there is one.
    fn expect_body(&mut self, body: Decoder, ask_for_it: bool) -> bool {
        self.lent = !body.is_done();
        self.body = body;
        // A client that has sent some of it does not wait to be asked.
        self.asks = self.lent && ask_for_it && self.read.is_empty();
        self.lent
    }

    /// Drops what has come of a body that nobody wants; true if that was all of it.
    fn skip_body(&mut self) -> bool {
        while !self.body.is_done() {
            match self.body.decode(&mut self.read) {
                Ok(Piece::Data(_) | Piece::Trailers(_)) => {}
                Ok(Piece::More | Piece::End) | Err(_) => return self.body.is_done(),
            }
        }
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(poll_read(&mut self.stream, &mut self.read, cx))?;
        self.note_read(n);
        Poll::Ready(Ok(n))
    }

    /// The next piece of the body under way.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyFault>> {
        loop {
            match self.body.decode(&mut self.read) {
                Ok(Piece::More) => {}
                piece => return Poll::Ready(piece),
            }
            if self.ended {
                let cut = self.body.close();
                return Poll::Ready(cut.map(|()| Piece::End));
            }
            if std::mem::take(&mut self.asks) {
                self.saying = match self.saying.is_empty() {
                    true => Bytes::from_static(CONTINUE),
                    false => [&self.saying, CONTINUE].concat().into(),
                };
            }
            self.say(cx)?;
            let wants = self.body.wants();
            let n = ready!(poll_read_body(&mut self.stream, &mut self.read, wants, cx))?;
            self.note_read(n);
        }
    }

    /// Writes what the client is being told before its answer, as far as it takes that; the task is woken when it
    /// takes more.
    fn say(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.saying.is_empty() {
            let Poll::Ready(n) = Pin::new(&mut self.stream).poll_write(cx, &self.saying)? else {
                return Ok(());
            };
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.saying.advance(n);
            self.unflushed = true;
            self.moves = self.moves.wrapping_add(1);
        }
        if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    fn note_read(&mut self, n: usize) {
        match n {
            0 => self.ended = true,
            _ => self.moves = self.moves.wrapping_add(1),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Herald<S> {
    /// Tells the client an interim answer, but no 101; it is left out if the client has not taken what it was told
    /// before.
    pub fn say(&self, interim: &response::Parts, cx: &mut Context<'_>) {
        let mut io = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if io.saying.is_empty() {
            io.saying = encode_interim(interim).into();
            // The connection finds out itself what is wrong with its stream.
            let _ = io.say(cx);
        }
    }
}

/// The stream for an answer, locked for each write alone: what the answer's body does in between
/// may read the request's.
struct Writer<'a, S>(&'a Mutex<Io<S>>);

impl<S: AsyncWrite + Unpin> Writer<'_, S> {
    fn write(
        &self,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut io = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write(Pin::new(&mut io.stream));
        if written.is_ready() {
            io.moves = io.moves.wrapping_add(1);
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Writer<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut io.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut io = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut io.stream).poll_shutdown(cx)
    }
}

impl Asked {
    /// Nothing that could be answered at length: a refused head.
    const NOTHING: Asked = Asked {
        head_only: false,
        old: false,
        keep_alive: false,
        last: false,
    };

    fn of(head: &Head) -> Asked {
        Asked {
            head_only: head.parts.method == Method::HEAD,
            old: head.parts.version == Version::HTTP_10,
            keep_alive: head.keep_alive,
            last: !head.keep_alive && head.body.is_done(),
        }
    }
}

/// The line that HTTP/2's preface begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests;
