//! HTTP/2 toward a client: requests on one connection, each answered on its own stream.
//!
//! [`Connection::poll_request`] drives the connection, its streams' bytes in both directions included, and
//! gives the next request with a [`Reply`] to it. What serves a request may run in a task of its own; the
//! connection's task has to be polled all the while. [`Connection::leave`] says GOAWAY: streams that are
//! open go on to their ends.
//!
//! A request is what the [gate](super::gate) and `h2` let through: they refuse malformed ones on their
//! streams, and end connections that flood them. An answer's head says what HTTP/2 may say and no more: nothing about the connection,
//! a Date, and the body's length where that is known.
//!
//! RFC 9110 §6.6.1, §8.6, §10.1.1; RFC 9113 §6.8, §8.1, §8.2.2; RFC 8441.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Handshake, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderName, SEC_WEBSOCKET_ACCEPT, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Received, Sending};
use super::gate::{Bounds, Gate, Moves};
use super::pulse::Pings;
use super::{SEND_BUFFER, STREAM_WINDOW, connection_window};
use crate::date;

/// A client's connection.
pub struct Connection<S> {
    stage: Stage<S>,
    moves: Arc<Moves>,
}

/// What a client may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub bounds: Bounds,
    /// Announce extended CONNECT (RFC 8441), and take it.
    pub extended_connect: bool,
}

/// The way to answer one request. Dropped unused, it resets the stream.
pub struct Reply {
    stream: SendResponse<Bytes>,
    /// HEAD: the answer's body stays here (RFC 9110 §9.3.2).
    head_only: bool,
    /// The client waits to be asked for the body; set once somebody wants it.
    asks: Option<Arc<AtomicBool>>,
}

enum Stage<S> {
    /// The client's preface is still to come.
    Beginning(Handshake<Gate<S>>),
    Open {
        connection: h2::server::Connection<Gate<S>, Bytes>,
        pings: Pings,
        /// The client is told of its fault.
        ending: bool,
    },
    Over,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// `early` was read of the stream before.
    pub fn new(stream: S, early: Bytes, limits: Limits) -> Connection<S> {
        let Limits {
            bounds,
            extended_connect,
        } = limits;
        let (stream, moves) = Gate::before_client(stream, early, bounds, extended_connect);
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(bounds.streams)
            .max_header_list_size(u32::try_from(bounds.head_size).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(PENDING_RESETS)
            // The gate counts them, in a window of time: a connection may live for long.
            .max_local_error_reset_streams(None)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(bounds.streams));
        if extended_connect {
            builder.enable_connect_protocol();
        }
        Connection {
            stage: Stage::Beginning(builder.handshake(stream)),
            moves,
        }
    }

    /// Waits for the next request; `None` when the connection is over, by the client's will or for its
    /// faults, or because it has given no sign of life.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(Request<RecvStream>, Reply)>> {
        let asked = ready!(self.poll_stages(cx));
        if asked.is_none() {
            // `h2` would give its error again and again.
            self.stage = Stage::Over;
        }
        Poll::Ready(asked)
    }

    fn poll_stages(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Request<RecvStream>, Reply)>> {
        loop {
            match &mut self.stage {
                Stage::Beginning(handshake) => {
                    let Ok(mut connection) = ready!(Pin::new(handshake).poll(cx)) else {
                        return Poll::Ready(None);
                    };
                    let Some(pings) = connection.ping_pong().map(Pings::new) else {
                        return Poll::Ready(None);
                    };
                    self.stage = Stage::Open {
                        connection,
                        pings,
                        ending: false,
                    };
                }
                Stage::Open {
                    connection,
                    pings,
                    ending,
                } => {
                    if let Poll::Ready(asked) = connection.poll_accept(cx) {
                        return Poll::Ready(match asked {
                            Some(Ok((request, stream))) => {
                                let reply = Reply::to(&request, stream);
                                Some((request, reply))
                            }
                            Some(Err(error)) => {
                                if let Some(reason) = error.reason().filter(|_| error.is_library())
                                {
                                    self.moves.blame(reason);
                                }
                                None
                            }
                            None => None,
                        });
                    }
                    if let Some(fault) = self.moves.fault()
                        && !std::mem::replace(ending, true)
                    {
                        connection.abrupt_shutdown(fault);
                        continue;
                    }
                    ready!(pings.poll_lost(&self.moves, || connection.has_streams(), cx));
                    if self.moves.fault().is_some() && !*ending {
                        continue;
                    }
                    return Poll::Ready(None);
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    /// Asks the client to send no more requests; ends the connection behind the last stream, or at once
    /// if the client has not begun it. What a client sends before it knows is still served.
    pub fn leave(&mut self) {
        match &mut self.stage {
            Stage::Open { connection, .. } => connection.graceful_shutdown(),
            stage => *stage = Stage::Over,
        }
    }

    /// A stream is open, or its last bytes are not out.
    pub fn has_streams(&self) -> bool {
        match &self.stage {
            Stage::Open { connection, .. } => connection.has_streams(),
            Stage::Beginning(_) | Stage::Over => false,
        }
    }

    /// Why the connection ended or is about to, if it is for a fault of the client.
    pub fn fault(&self) -> Option<Reason> {
        self.moves.fault()
    }

    /// Requests that were refused for their heads before they came here, since this was last asked.
    pub fn take_refused(&self) -> u32 {
        self.moves.take_refused()
    }

    /// Bytes of a frame or head that has begun to come and not ended, where that was not within one read.
    pub fn held(&self) -> usize {
        self.moves.held()
    }

    /// A number that changes whenever bytes go out.
    pub fn writes(&self) -> u32 {
        self.moves.writes()
    }
}

impl Reply {
    fn to<B>(request: &Request<B>, stream: SendResponse<Bytes>) -> Reply {
        let expects = request.headers().get(EXPECT);
        Reply {
            stream,
            head_only: *request.method() == Method::HEAD,
            asks: expects.is_some().then(Arc::default),
        }
    }

    /// The body of the request. Where the client waits to be asked for it (RFC 9110 §10.1.1), it is
    /// asked by [`Reply::poll_left`] once the body is waited for.
    pub fn request_body(&self, stream: RecvStream, head: &HeaderMap) -> Received {
        let body = Received::new(stream, head);
        match &self.asks {
            Some(asks) => body.telling(Arc::clone(asks)),
            None => body,
        }
    }

    /// Ready when the client has reset the stream or is gone, so that nobody waits for the answer.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self
            .asks
            .as_ref()
            .is_some_and(|asks| asks.load(Ordering::Relaxed))
        {
            self.asks = None;
            let (mut ask, ()) = Response::new(()).into_parts();
            ask.status = StatusCode::CONTINUE;
            self.say(ask, cx);
        }
        self.stream.poll_reset(cx).map(drop)
    }

    /// Tells the client something ahead of its answer, unless it has left: an interim answer, but no 101.
    ///
    /// No window holds it back: how much of that there may be is the caller's to say.
    pub fn say(&mut self, mut interim: response::Parts, cx: &mut Context<'_>) {
        // On a stream that the client has reset there is nothing to be said (RFC 9113 §5.1).
        if self.stream.poll_reset(cx).is_ready() {
            return;
        }
        interim.version = Version::HTTP_2;
        interim.headers.remove(CONTENT_LENGTH);
        remove_fields_of_the_connection(&mut interim.headers);
        // It fails for a connection that has ended, which whoever waits for the stream is told.
        let _ = self
            .stream
            .send_informational(Response::from_parts(interim, ()));
    }

    /// Begins the answer; its body, where it has one, is still to be sent. `None` also if the client has
    /// left.
    pub fn answer<B>(mut self, response: Response<B>, patience: Duration) -> Option<Sending<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (mut parts, body) = response.into_parts();
        let bodiless = self.head_only
            || parts.status == StatusCode::NO_CONTENT
            || parts.status == StatusCode::NOT_MODIFIED;
        let ends = bodiless || body.is_end_stream();
        match body.size_hint().exact() {
            // What is said of a body that a GET would have.
            _ if self.head_only => {}
            _ if bodiless => drop(parts.headers.remove(CONTENT_LENGTH)),
            // The stream's end says it.
            _ if ends => {}
            Some(length) => {
                let length = HeaderValue::from(length);
                parts.headers.insert(CONTENT_LENGTH, length);
            }
            None => drop(parts.headers.remove(CONTENT_LENGTH)),
        }
        let stream = self.send_head(Response::from_parts(parts, ()), ends)?;
        (!ends).then(|| Sending::new(stream, body, patience))
    }

    /// Answers an extended CONNECT: the 101 that stands for its acceptance goes out as a 200, and the
    /// stream is the client's (RFC 8441 §5). `None` if the client has left.
    pub fn accept<B>(mut self, switching: Response<B>) -> Option<SendStream<Bytes>> {
        let mut accepted = switching.map(drop);
        *accepted.status_mut() = StatusCode::OK;
        let headers = accepted.headers_mut();
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        headers.remove(CONTENT_LENGTH);
        self.send_head(accepted, false)
    }

    fn send_head(&mut self, mut head: Response<()>, ends: bool) -> Option<SendStream<Bytes>> {
        *head.version_mut() = Version::HTTP_2;
        let headers = head.headers_mut();
        remove_fields_of_the_connection(headers);
        headers.entry(DATE).or_insert_with(date::now);
        match self.stream.send_response(head, ends) {
            Ok(stream) => Some(stream),
            Err(_) => {
                self.stream.send_reset(Reason::INTERNAL_ERROR);
                None
            }
        }
    }
}

fn remove_fields_of_the_connection(headers: &mut HeaderMap) {
    for name in &OF_THE_CONNECTION {
        headers.remove(name);
    }
}

/// Fields that HTTP/2 has frames for, or no use (RFC 9113 §8.2.2).
static OF_THE_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
];

/// Streams that a client may reset before we have seen them (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;

#[cfg(test)]
mod tests;
