//! An answer on its way out: its head, and its body as far as it has come.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode, response};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::super::syntax::{
    names_option, push_chunk_line, push_field, push_last_chunk, push_number_field,
};
use crate::date;

/// One answer that is still to be written, wholly or in part.
#[derive(Debug)]
pub struct Answer<B> {
    /// `None` when its last piece was taken.
    body: Option<B>,
    framing: Framing,
    /// What goes out next, in this order: the head or a chunk's line, a piece of the body, and what
    /// frames it.
    text: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Why the body broke off: what came before that still goes out.
    broken: Option<io::Error>,
    goes_on: bool,
    /// The body has come to its end.
    ended: bool,
    /// Bytes that the stream has taken.
    sent: u64,
    /// The stream takes no more for the moment.
    blocked: bool,
    /// The client has said that its request is the last.
    asked_as_last: bool,
}

/// What an answer has to know of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// HEAD: the answer's body stays here (RFC 9110 §9.3.2).
    pub(super) head_only: bool,
    /// HTTP/1.0: no chunks, and a connection that goes on must be said.
    pub(super) old: bool,
    /// The connection may carry another request.
    pub(super) keep_alive: bool,
    /// It may not, by the client's own word.
    pub(super) last: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is no body.
    Nothing,
    /// Bytes still to come.
    Length(u64),
    Chunked,
    UntilClose,
}

impl<B> Answer<B> {
    /// Whether the connection may carry another request after it.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Whether the end of the stream, if it came now, would pass for the end of the body although it is not.
    pub fn would_look_whole(&self) -> bool {
        self.framing == Framing::UntilClose && !(self.ended && self.is_out())
    }

    /// The body, while it may have more.
    pub fn body(&self) -> Option<&B> {
        self.body.as_ref()
    }

    /// How many bytes the stream has taken, heads and framing included.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether, after a write that was not ready, the client is to take something.
    pub fn waits_for_client(&self) -> bool {
        self.blocked
    }

    /// Nothing is left of what the body has brought so far.
    fn is_out(&self) -> bool {
        self.written == self.text.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether the client has said that it sends nothing behind its request.
    pub(super) fn was_asked_as_last(&self) -> bool {
        self.asked_as_last
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// `unsaid` is what has to go out before its head.
    pub(super) fn new(response: Response<B>, asked: Asked, unsaid: &[u8]) -> Answer<B> {
        let (parts, body) = response.into_parts();
        let framing = framing_of(&parts, &body, asked);
        let (text, goes_on) = encode_head(&parts, framing, asked, unsaid);
        let has_body = framing != Framing::Nothing && !body.is_end_stream();
        let mut answer = Answer {
            body: Some(body),
            framing,
            text,
            written: 0,
            data: Bytes::new(),
            tail: b"",
            broken: None,
            goes_on,
            ended: false,
            sent: 0,
            blocked: false,
            asked_as_last: asked.last,
        };
        if !has_body {
            answer.end();
        }
        answer
    }

    /// Writes what there is to write; ready when all of it is out.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            // The head waits for no body, but takes along what is there.
            let filled = self.poll_fill(cx).unwrap_or_else(|broken| {
                self.broken = Some(broken);
                self.body = None;
                Poll::Ready(())
            });
            // A flush or a write that is not ready returns.
            self.blocked = true;
            while !self.is_out() {
                let n = ready!(self.poll_write_left(stream, cx))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.advance(n);
            }
            if filled.is_pending() || self.body.is_none() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                self.blocked = false;
                return filled.map(|()| self.broken.take().map_or(Ok(()), Err));
            }
        }
    }

    /// Takes a piece of the body, if there is room for one; ready unless one is waited for.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, io::Error> {
        if !self.data.is_empty() || !self.tail.is_empty() {
            return Ok(Poll::Ready(()));
        }
        let Some(body) = &mut self.body else {
            return Ok(Poll::Ready(()));
        };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Ok(frame))) => {
                let last = body.is_end_stream();
                self.push(frame)?;
                if last {
                    self.end_checked()?;
                }
            }
            Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
            Poll::Ready(None) => self.end_checked()?,
        }
        Ok(Poll::Ready(()))
    }

    fn push(&mut self, frame: Frame<Bytes>) -> io::Result<()> {
        match frame.into_data() {
            // An empty chunk would end the body.
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                match &mut self.framing {
                    Framing::Length(left) => {
                        *left = left
                            .checked_sub(data.len() as u64)
                            .ok_or(io::ErrorKind::InvalidData)?;
                    }
                    Framing::Chunked => {
                        push_chunk_line(&mut self.text, data.len());
                        self.tail = b"\r\n";
                    }
                    Framing::Nothing | Framing::UntilClose => {}
                }
                let beside = self.text.capacity() - self.text.len();
                if data.len() + self.tail.len() <= beside {
                    self.text.extend_from_slice(&data);
                    self.text.extend_from_slice(std::mem::take(&mut self.tail));
                } else {
                    self.data = data;
                }
            }
            Err(frame) => {
                if let (Ok(trailers), Framing::Chunked) = (frame.into_trailers(), self.framing) {
                    push_last_chunk(&mut self.text, &trailers);
                }
                // Nothing comes behind trailers.
                self.body = None;
                self.ended = true;
            }
        }
        Ok(())
    }

    /// The body has come to its end, which must be where the head says.
    fn end_checked(&mut self) -> io::Result<()> {
        match self.framing {
            Framing::Length(left) if left > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                self.end();
                Ok(())
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.body.take().is_some() && self.framing == Framing::Chunked {
            match self.data.is_empty() {
                true => self.text.extend_from_slice(LAST_CHUNK),
                false => self.tail = b"\r\n0\r\n\r\n",
            }
        }
    }

    fn poll_write_left<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        let text = &self.text[self.written..];
        if self.data.is_empty() && self.tail.is_empty() {
            return stream.poll_write(cx, text);
        }
        let slices = [text, &self.data, self.tail].map(IoSlice::new);
        let first = usize::from(text.is_empty());
        stream.poll_write_vectored(cx, &slices[first..])
    }

    fn advance(&mut self, mut n: usize) {
        self.sent += n as u64;
        let of_text = n.min(self.text.len() - self.written);
        self.written += of_text;
        n -= of_text;
        let of_data = n.min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[n - of_data..];
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
    }
}

fn framing_of<B: Body>(parts: &response::Parts, body: &B, asked: Asked) -> Framing {
    let bodiless = parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    if bodiless || asked.head_only {
        return Framing::Nothing;
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if asked.old => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// The head of an interim answer (1xx but 101) as it goes on the wire. It frames nothing and ends nothing.
pub(super) fn encode_interim(parts: &response::Parts) -> Vec<u8> {
    let mut text = Vec::with_capacity(HEAD_CAPACITY);
    push_status_line(&mut text, parts.status);
    for (name, value) in &parts.headers {
        if ![CONNECTION, UPGRADE, TRANSFER_ENCODING, CONTENT_LENGTH].contains(name) {
            push_field(&mut text, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    text.extend_from_slice(b"\r\n");
    text
}

fn push_status_line(text: &mut Vec<u8>, status: StatusCode) {
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// The head as it goes on the wire, and whether the connection goes on behind the answer. What
/// frames the message is said by us alone.
fn encode_head(
    parts: &response::Parts,
    framing: Framing,
    asked: Asked,
    unsaid: &[u8],
) -> (Vec<u8>, bool) {
    let mut goes_on = asked.keep_alive && framing != Framing::UntilClose;
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut text = Vec::with_capacity(HEAD_CAPACITY);
    text.extend_from_slice(unsaid);
    push_status_line(&mut text, parts.status);
    // Of the body that a GET would have got.
    let tells_length = asked.head_only && parts.status != StatusCode::NO_CONTENT;
    let mut dated = false;
    let mut offers_upgrade = false;
    for (name, value) in &parts.headers {
        if *name == CONNECTION && !switches {
            goes_on &= !names_option(value, "close");
            continue;
        }
        if *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH && !tells_length {
            continue;
        }
        offers_upgrade |= *name == UPGRADE;
        dated |= *name == DATE;
        push_field(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        Framing::Length(length) => {
            push_number_field(&mut text, b"content-length", length);
        }
        Framing::Chunked => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Nothing | Framing::UntilClose => {}
    }
    if !switches {
        let options: &[u8] = match (goes_on, asked.old, offers_upgrade) {
            (false, _, false) => b"connection: close\r\n",
            (false, _, true) => b"connection: close, upgrade\r\n",
            (true, true, false) => b"connection: keep-alive\r\n",
            (true, true, true) => b"connection: keep-alive, upgrade\r\n",
            (true, false, true) => b"connection: upgrade\r\n",
            (true, false, false) => b"",
        };
        text.extend_from_slice(options);
    }
    if !dated {
        push_field(&mut text, b"date", date::now().as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    (text, goes_on)
}

/// Of most answers, with a small body; what the allocator has at hand.
const HEAD_CAPACITY: usize = 1024;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
