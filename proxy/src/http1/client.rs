//! HTTP/1.1 toward an upstream: one request and its answer at a time on one connection.
//!
//! Whoever sends drives: no channel and no lock stand between a request and its socket, and a task only
//! sends the rest of a request that its answer has overtaken.
//! [`Connection::poll_heard`] writes a request and reads the heads that it brings, the answer's last;
//! [`Connection::into_body`] gives the body that follows, and [`ResponseBody::into_connection`] the
//! connection again once both are whole. After a 101, [`Connection::into_upgraded`] gives up the bare
//! stream with every byte that was read past the head.
//!
//! It distrusts an upstream's answer as much as a client's request: what breaks the rules is a
//! [`Fault`], and the connection is never used again. Of interim answers, which 101 is not, there may be a
//! few. Deadlines are the caller's: dropping any future here closes the connection.
//!
//! RFC 9110 §15.2, RFC 9112 §4, §6, §7 and §9.

mod body;
mod head;
mod upload;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use body::ResponseBody;
pub use head::{Fields, HeadFault, RequestHead};
pub use upload::Upload;

use super::decode::Decoder;
use super::syntax::{put_back, take_block};
use super::{HeadLimits, Violation, poll_read};
use head::{Head, parse};

/// A connection to an upstream, with at most one request under way.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    /// What was read and not yet used. Empty while no request is under way.
    read: BytesMut,
    /// Bytes of it that hold no end of a head: a head that comes drop by drop is looked at once.
    scanned: usize,
    progress: Progress,
    /// Neither side has said that it will close.
    keep_alive: bool,
    /// 1xx answers to the present request.
    interims: u32,
    /// The present request is a HEAD.
    to_head: bool,
    /// How the body of the present answer ends.
    decoder: Decoder,
}

/// How far the present request has come on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Not a byte was written: the request is as good as new.
    Nothing,
    /// The upstream may have seen some of it.
    Sent,
    /// Some of the answer has come.
    Answered,
}

/// A head that an upstream sends to a request; it keeps the fields of its own connection, for the caller to
/// look at and remove.
#[derive(Debug)]
pub enum Heard {
    /// 1xx but 101: the answer is still to come. Whatever it says, it has no body.
    Interim(Parts),
    Answer(Parts),
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault<E> {
    #[error("the upstream closed the connection before it answered")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the answer's head is refused: {0}")]
    Head(#[from] HeadFault),
    /// The request's own body failed; nothing is wrong with the upstream.
    #[error("the request body failed")]
    Upload(E),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S) -> Connection<S> {
        Connection {
            stream,
            read: BytesMut::new(),
            scanned: 0,
            progress: Progress::Nothing,
            keep_alive: true,
            interims: 0,
            to_head: false,
            decoder: Decoder::Empty,
        }
    }

    /// Whether the upstream has neither closed nor said anything since the last answer, as far as
    /// the runtime has heard.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// How far the request got; after a fault it tells whether it may be sent again.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Starts a request; [`Connection::poll_heard`] sends it.
    pub fn begin<B>(&mut self, request: &RequestHead, upload: &mut Upload<B>)
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        self.progress = Progress::Nothing;
        self.interims = 0;
        self.to_head = request.is_head();
        upload.begin(request.bytes());
    }

    /// Sends what is left of the request and waits for the next head, which may come before the
    /// request's body has gone out.
    pub fn poll_heard<B>(
        &mut self,
        upload: &mut Upload<B>,
        limits: HeadLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Heard, Fault<B::Error>>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        if let Poll::Ready(Err(fault)) = self.poll_upload(upload, cx) {
            // An upstream that refuses early closes its side: its answer may lie there already.
            if !matches!(fault, Fault::Io(_)) || self.progress == Progress::Nothing {
                return Poll::Ready(Err(fault));
            }
        }
        let head = ready!(self.poll_head(limits, cx))?;
        if head.is_interim() {
            self.interims += 1;
            return Poll::Ready(match self.interims > INTERIMS {
                true => Err(HeadFault::Interims.into()),
                false => Ok(Heard::Interim(head.parts)),
            });
        }
        self.keep_alive = head.keep_alive;
        self.decoder = match self.to_head {
            true => Decoder::Empty,
            false => head.body,
        };
        Poll::Ready(Ok(Heard::Answer(head.parts)))
    }

    /// As [`Connection::poll_heard`], for those whom interim answers do not concern.
    pub fn poll_answer<B>(
        &mut self,
        upload: &mut Upload<B>,
        limits: HeadLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Parts, Fault<B::Error>>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        loop {
            if let Heard::Answer(head) = ready!(self.poll_heard(upload, limits, cx))? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// The body that follows an answer's head, and the rest of the request's own.
    pub fn into_body<B>(self, upload: Upload<B>) -> ResponseBody<S>
    where
        S: Send + 'static,
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        ResponseBody::new(self, upload)
    }

    /// The bare stream after a 101, and what was read past its head.
    pub fn into_upgraded(self) -> (S, Bytes) {
        // A copy: a tunnel must not hold the whole read buffer for its life.
        let early = Bytes::copy_from_slice(&self.read);
        (self.stream, early)
    }

    fn poll_upload<B>(
        &mut self,
        upload: &mut Upload<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault<B::Error>>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        if upload.is_finished() {
            return Poll::Ready(Ok(()));
        }
        let polled = upload.poll_write(&mut self.stream, cx);
        if upload.has_written() {
            self.progress = self.progress.max(Progress::Sent);
        }
        polled
    }

    /// One whole head, read in as many pieces as it comes in.
    fn poll_head<E>(
        &mut self,
        limits: HeadLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Fault<E>>> {
        loop {
            if let Some(taken) = take_block(&mut self.read, 0, self.scanned) {
                self.scanned = 0;
                let (head, end) = parse(&taken, limits)?;
                put_back(&mut self.read, &taken, end);
                return Poll::Ready(Ok(head));
            }
            self.scanned = self.read.len();
            if self.scanned > limits.size {
                return Poll::Ready(Err(HeadFault::from(Violation::HeadTooLarge).into()));
            }
            if ready!(poll_read(&mut self.stream, &mut self.read, cx))? == 0 {
                return Poll::Ready(Err(Fault::Closed));
            }
            self.progress = Progress::Answered;
        }
    }
}

/// 1xx answers before the one that counts.
const INTERIMS: u32 = 16;

#[cfg(test)]
mod tests;
