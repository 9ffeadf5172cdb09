//! A request's body between the attempts to send it.
//!
//! Over HTTP/1.1 it may be sent again where not a byte of the request was written, over HTTP/2 where all that was
//! taken from it is kept. A body that is neither whole nor kept ends the attempts.

use http::Method;
use http::request::Parts;
use http_body::Body as _;

use crate::body::{BodyFault, Incoming, RequestBody};
use crate::budget::FREE;
use crate::error::Failure;
use crate::flow::exchange::Exchange;
use crate::http1::Framing;
use crate::http1::client::Upload;
use crate::snapshot::Snapshot;

/// The body of a request, as the attempts to send it need it.
pub(super) enum Load {
    /// There is none.
    Nothing,
    Body(RequestBody),
    Http1(Upload<RequestBody>),
    /// What was taken from it cannot be given again.
    Lost,
}

/// A request's body, and how its end is said.
pub(super) fn load(
    snapshot: &Snapshot,
    exchange: &mut Exchange,
    parts: &Parts,
    body: Incoming,
) -> Result<(Option<Framing>, Load), Failure> {
    if body.is_end_stream() {
        // Where a body is usual, its absence is said (RFC 9110 §8.6).
        let usual = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        return Ok((usual.then_some(Framing::Length(0)), Load::Nothing));
    }
    let limit = snapshot.limits.request_body;
    let size = body.size_hint();
    if limit.is_some_and(|limit| size.lower() > limit) {
        return Err(BodyFault::TooLarge.into());
    }
    let framing = size.exact().map_or(Framing::Chunked, Framing::Length);
    let mut body = RequestBody::new(
        body,
        limit,
        snapshot.timeouts.request_body,
        exchange.request_pace(parts),
    );
    exchange.counts(body.received());
    if size.exact().is_none_or(|size| size >= FREE as u64) {
        body.count_for(exchange.account().clone());
    }
    Ok((Some(framing), Load::Body(body)))
}

impl Load {
    /// For an attempt over HTTP/1.1. Of one that came to nothing without a byte written, what was queued
    /// goes out first.
    pub(super) fn http1(&mut self, framing: Option<Framing>) -> Option<Upload<RequestBody>> {
        match std::mem::replace(self, Load::Lost) {
            Load::Nothing => {
                *self = Load::Nothing;
                Some(Upload::none())
            }
            Load::Body(body) => Some(Upload::of(body, framing.unwrap_or(Framing::Chunked))),
            Load::Http1(upload) => Some(upload),
            Load::Lost => None,
        }
    }

    /// For an attempt over HTTP/2, which keeps the body's beginning.
    pub(super) fn http2(&mut self) -> Option<Option<RequestBody>> {
        let mut body = match std::mem::replace(self, Load::Lost) {
            Load::Nothing => {
                *self = Load::Nothing;
                return Some(None);
            }
            Load::Body(body) => body,
            Load::Http1(upload) => upload.into_body()?,
            Load::Lost => return None,
        };
        body.keep_beginning();
        body.rewind().then_some(Some(body))
    }

    pub(super) fn put_back(&mut self, upload: Upload<RequestBody>) {
        if let Load::Lost = self {
            *self = Load::Http1(upload);
        }
    }

    /// Takes the body of an attempt that came to nothing; false if it cannot be sent again.
    pub(super) fn recover(&mut self, body: Option<RequestBody>) -> bool {
        let Some(mut body) = body else {
            return matches!(self, Load::Nothing);
        };
        let whole = body.rewind();
        *self = Load::Body(body);
        whole
    }
}
