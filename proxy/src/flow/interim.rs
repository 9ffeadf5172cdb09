//! Interim answers (1xx): what an upstream says ahead of its answer goes on to the client (RFC 9110 §15.2).
//!
//! Two kinds never do: 100, as the proxy asks for a body itself when it wants it, and 101, which ends a
//! handshake or is a fault. To a client of HTTP/1.0 none does. No filter sees one, so where a filter of
//! the route is to see the answer nothing is said before it has. Fields that the route's edits remove from answers
//! or set in them are taken out, as the upstream's own are not for the client; nothing is added.
//!
//! They are hints that a client can do without: nobody waits until it takes them. What it is slow to take, and what
//! is beyond [`ROOM`] for one request, is left out.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::response::Parts;
use http::{HeaderMap, StatusCode, Version};
use http_body::Body;

use super::forwarding::RESPONSE_HEAD;
use crate::body::UpstreamConnection;
use crate::forward;
use crate::http1;
use crate::http1::client::Upload;
use crate::http2;
use crate::http2::server::Reply;
use crate::snapshot::Route;
use crate::stream::Stream;

/// Who says something to a client before its answer, by the client's protocol.
pub(super) enum Herald<'a> {
    Http1(http1::server::Herald<Stream>),
    Http2(&'a Mutex<Reply>),
}

/// What one request's client is told before its answer.
pub(super) struct Interims<'a> {
    /// `None`: nothing.
    herald: Option<Herald<'a>>,
    route: &'a Route,
    /// Bytes that may still be said.
    room: usize,
}

impl<'a> Interims<'a> {
    /// `judged`: a filter is to see the answer.
    pub(super) fn new(
        herald: Herald<'a>,
        version: Version,
        route: &'a Route,
        judged: bool,
    ) -> Interims<'a> {
        let may_be = version != Version::HTTP_10 && !judged;
        Interims {
            herald: may_be.then_some(herald),
            route,
            room: ROOM,
        }
    }

    /// The head of an upstream's answer over HTTP/1.1; what comes before it goes on.
    pub(super) fn poll_http1<B>(
        &mut self,
        connection: &mut UpstreamConnection,
        upload: &mut Upload<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Parts, http1::client::Fault<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        use http1::client::Heard;
        loop {
            match ready!(connection.poll_heard(upload, RESPONSE_HEAD, cx))? {
                Heard::Answer(head) => return Poll::Ready(Ok(head)),
                Heard::Interim(head) => self.pass_on(head, cx),
            }
        }
    }

    /// As [`Interims::poll_http1`], over HTTP/2.
    pub(super) fn poll_http2(
        &mut self,
        answer: &mut http2::client::Answer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Parts, RecvStream), http2::client::Fault>> {
        use http2::client::Heard;
        loop {
            match ready!(answer.poll_heard(cx))? {
                Heard::Answer(head, body) => return Poll::Ready(Ok((head, body))),
                Heard::Interim(head) => self.pass_on(head, cx),
            }
        }
    }

    fn pass_on(&mut self, mut head: Parts, cx: &mut Context<'_>) {
        let Some(herald) = &self.herald else {
            return;
        };
        if head.status == StatusCode::CONTINUE {
            return;
        }
        forward::interim_response(&mut head.headers, &self.route.response_headers);
        let Some(left) = self.room.checked_sub(size(&head.headers)) else {
            return;
        };
        self.room = left;
        match herald {
            Herald::Http1(herald) => herald.say(&head, cx),
            Herald::Http2(reply) => reply
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .say(head, cx),
        }
    }
}

/// As RFC 9113 §6.5.2 counts a head's fields, and the status for one.
fn size(headers: &HeaderMap) -> usize {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ENTRY);
    sizes.sum::<usize>() + ENTRY
}

/// What may be said ahead of one answer, in bytes.
const ROOM: usize = 16 * 1024;
const ENTRY: usize = 32;
