//! A client's HTTP/2 connection: any frames, through the proxy's server, its decisions and its HTTP/1.1 writer.
//!
//! What is taken goes to the upstream as one whole request (see [`requests`](super::requests)), whatever its fields
//! held. What the server says are whole frames, not many more bytes than came, and its end when the client's has come.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{self, with_timers};
use super::requests::{fields_of, forward};
use super::site::{Decision, From, SITE};
use super::strict::{Broken, Head, Message};
use super::wire::{Whole, Wire};
use crate::handshake::{Extended, Kind};
use crate::http2::body::{Received, Sending};
use crate::http2::server::{Connection, Limits, Reply};
use crate::http2::{Bounds, Duplex};
use crate::request;

/// Options, the size of the pieces, then frames: see [`frames::from_client`].
pub fn http2(data: &[u8]) {
    let Some((&[options, piece], data)) = data.split_first_chunk() else {
        return;
    };
    let stream = match options & 1 != 0 {
        true => data.to_vec(),
        false => frames::from_client(data),
    };
    with_timers(|| serve(&stream, piece));
}

fn serve(stream: &[u8], piece: u8) {
    let (wire, far) = Wire::new(stream, piece.max(MIN_PIECE));
    let mut connection = Connection::new(wire, Bytes::new(), LIMITS);
    let mut cx = Context::from_waker(Waker::noop());
    let mut tasks: Vec<Task> = Vec::new();
    let mut polls = 0;
    loop {
        match connection.poll_request(&mut cx) {
            Poll::Ready(Some((request, reply))) => tasks.push(Task::begin(request, reply)),
            Poll::Ready(None) => break,
            Poll::Pending => {}
        }
        tasks.retain_mut(|task| task.poll(&mut cx).is_pending());
        assert!(
            tasks.len() <= LIMITS.bounds.streams as usize + RESETS,
            "too many at once"
        );
        polls += 1;
        assert!(
            polls < POLLS + stream.len(),
            "it does not end with its client"
        );
    }
    let written = far.written();
    let most = SAID_FIRST + stream.len() * SAID_FOR_A_BYTE;
    assert!(
        written.len() <= most,
        "{} for {}",
        written.len(),
        stream.len()
    );
    frames::check(&written);
}

/// One request, from its head to the end of its answer.
enum Task {
    Taking(Box<Taking>),
    Sending(Box<Sending<Whole>>),
    Tunnel(Box<Duplex>),
}

struct Taking {
    parts: Parts,
    /// `None` of a WebSocket's.
    body: Option<Received>,
    stream: Option<RecvStream>,
    reply: Option<Reply>,
    frames: VecDeque<Frame<Bytes>>,
    hint: SizeHint,
    empty: bool,
}

impl Task {
    fn begin(request: Request<RecvStream>, reply: Reply) -> Task {
        let (mut parts, stream) = request.into_parts();
        let protocol = parts.extensions.get::<Protocol>();
        let extends = parts.method == Method::CONNECT
            && protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
        let empty = stream.is_end_stream();
        let (body, stream) = match extends {
            true => {
                parts.extensions.remove::<Protocol>();
                parts.extensions.insert(Extended);
                parts.method = Method::GET;
                (None, Some(stream))
            }
            false => (Some(reply.request_body(stream, &parts.headers)), None),
        };
        Task::Taking(Box::new(Taking {
            hint: body.as_ref().map(Body::size_hint).unwrap_or_default(),
            parts,
            body,
            stream,
            reply: Some(reply),
            frames: VecDeque::new(),
            empty,
        }))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Task::Taking(taking) => match ready!(taking.poll(cx)) {
                    Some(next) => *self = next,
                    None => return Poll::Ready(()),
                },
                Task::Sending(sending) => return sending.poll_send(cx).map(drop),
                Task::Tunnel(duplex) => return poll_echo(duplex, cx),
            }
        }
    }
}

impl Taking {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Task>> {
        let broken = loop {
            let Some(body) = &mut self.body else {
                break false;
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.frames.push_back(frame),
                Poll::Ready(Some(Err(_))) => break true,
                Poll::Ready(None) => break false,
                Poll::Pending => {
                    let reply = self.reply.as_mut();
                    let left = reply.map_or(Poll::Ready(()), |reply| reply.poll_left(cx));
                    return left.map(|()| None);
                }
            }
        };
        let decided = SITE.decide(&mut self.parts, &From::Stranger.facts(), self.empty);
        let status = match &decided {
            Ok(decision) => {
                self.forward(decision, broken);
                match decision.kind {
                    Kind::Plain => StatusCode::OK,
                    Kind::WebSocket(_) => StatusCode::SWITCHING_PROTOCOLS,
                }
            }
            Err(rejection) => rejection.status,
        };
        let mut response = Response::new(Whole(Bytes::from_static(b"said")));
        *response.status_mut() = status;
        Poll::Ready(
            self.reply
                .take()
                .and_then(|reply| match self.stream.take() {
                    Some(stream) if status == StatusCode::SWITCHING_PROTOCOLS => {
                        let send = reply.accept(response)?;
                        Some(Task::Tunnel(Box::new(Duplex::server(send, stream))))
                    }
                    _ => {
                        let sending = reply.answer(response, PATIENCE)?;
                        Some(Task::Sending(Box::new(sending)))
                    }
                }),
        )
    }

    /// Sends the request on with the body that came.
    fn forward(&mut self, decision: &Decision, broken: bool) {
        if request::is_grpc(&self.parts) {
            request::drop_underscores(&mut self.parts.headers);
        }
        let fields = fields_of(&self.parts.headers);
        let head = Head {
            fields,
            ..Head::default()
        };
        let mut body = Vec::new();
        let mut trailers = HeaderMap::new();
        for frame in &self.frames {
            body.extend_from_slice(frame.data_ref().map_or(b"", |data| data));
            trailers.extend(frame.trailers_ref().cloned().unwrap_or_default());
        }
        let reference = match broken {
            true => Err(Broken::Cut),
            false => Ok(Message {
                head: head.clone(),
                body,
                trailers: fields_of(&trailers),
                extensions: 0,
            }),
        };
        let body = Taken {
            frames: std::mem::take(&mut self.frames),
            hint: self.hint,
            broken,
            empty: self.empty || self.stream.is_some(),
        };
        forward(
            &self.parts,
            &head,
            decision,
            From::Stranger,
            body,
            &reference,
        );
    }
}

/// Says what the client says.
fn poll_echo(duplex: &mut Duplex, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let mut buf = [0; 64];
        let mut buf = ReadBuf::new(&mut buf);
        if ready!(Pin::new(&mut *duplex).poll_read(cx, &mut buf)).is_err() {
            return Poll::Ready(());
        }
        let said = buf.filled();
        if said.is_empty() {
            return Pin::new(duplex).poll_shutdown(cx).map(drop);
        }
        // Without room for it, it is left out.
        if let Poll::Ready(Err(_)) = Pin::new(&mut *duplex).poll_write(cx, said) {
            return Poll::Ready(());
        }
    }
}

/// A body that has come, or broken off.
struct Taken {
    frames: VecDeque<Frame<Bytes>>,
    hint: SizeHint,
    broken: bool,
    empty: bool,
}

impl Body for Taken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.frames.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None if self.broken => Some(Err(io::ErrorKind::ConnectionReset.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.empty
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

const LIMITS: Limits = Limits {
    bounds: Bounds {
        head_size: 2048,
        head_fields: 16,
        streams: 8,
        resets: 40,
        control_frames: 200,
    },
    extended_connect: true,
};
/// Streams that a client may have reset before they are seen.
const RESETS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the bytes that come at once; a frame's head is read in as many steps.
const MIN_PIECE: u8 = 8;
const POLLS: usize = 1000;
/// The server's own first frames, and what it may say for each byte of the client's.
const SAID_FIRST: usize = 1024;
const SAID_FOR_A_BYTE: usize = 16;
