//! One attempt over HTTP/2: a stream of a connection that others use too.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use http::{Request, response};

use super::{Missed, Waiting, Wanted};
use crate::body::{RequestBody, ResponseBody};
use crate::error::Failure;
use crate::http2::client::{self, Fault, Slot};

pub(super) use crate::http2::client::Upload;

/// An answer whose body is still to come.
pub(super) struct Answered {
    parts: response::Parts,
    body: client::ResponseBody,
    /// The bytes of a request that goes on beside it.
    beside: Option<Arc<AtomicU64>>,
}

/// Sends on a stream and waits for the answer's head; gives the body back if there is none.
///
/// What is left of the request then goes on beside the answer, and may take its time: calls of gRPC are open
/// in both directions for as long as they like.
pub(super) async fn attempt(
    mut slot: Slot,
    head: Request<()>,
    mut upload: Upload<RequestBody>,
    mut waiting: Waiting<'_>,
) -> Result<Answered, (Missed, Upload<RequestBody>)> {
    waiting.begin();
    let (mut answer, mut send) = match slot.request(head, upload.is_finished()) {
        Ok(opened) => opened,
        Err(fault) => return Err((Missed::Http2(fault), upload)),
    };
    let answered = poll_fn(|cx| {
        if let Poll::Ready(Err(fault)) = upload.poll_send(&mut send, cx) {
            return Poll::Ready(Err(Missed::Upload(fault)));
        }
        if let Poll::Ready(answered) = Pin::new(&mut answer).poll(cx) {
            return Poll::Ready(answered.map_err(Missed::Http2));
        }
        let over = waiting.poll_over(|| upload.last_progress(), cx);
        over.map(|()| Err(Missed::TimedOut))
    })
    .await;
    let (parts, stream) = match answered {
        Ok(answered) => answered,
        Err(missed) => return Err((missed, upload)),
    };
    let headers = &parts.headers;
    if upload.is_finished() {
        let body = client::ResponseBody::new(headers, stream, slot);
        return Ok(Answered {
            parts,
            body,
            beside: None,
        });
    }
    let beside = upload.body_mut().map(|body| {
        body.forget_beginning();
        body.wait_without_limit();
        body.received()
    });
    let body = client::ResponseBody::beside(headers, stream, slot, send, upload);
    Ok(Answered {
        parts,
        body,
        beside,
    })
}

impl Answered {
    /// The head, and the body that breaks off when nothing moves for `idle_timeout`.
    pub(super) fn with_timeout(self, idle_timeout: Duration) -> (response::Parts, ResponseBody) {
        let body = match self.beside {
            None => ResponseBody::upstream(self.body, idle_timeout),
            Some(received) => ResponseBody::beside(self.body, idle_timeout, received),
        };
        (self.parts, body)
    }
}

/// How the request may be sent once more, if its body is still whole. `repeatable`: it may be repeated, and its
/// connection had served others; `may_change`: the endpoint may be spoken to in HTTP/1.1 too.
pub(super) fn then(missed: &Missed, repeatable: bool, may_change: bool) -> Option<Wanted> {
    let Missed::Http2(fault) = missed else {
        return None;
    };
    match fault {
        Fault::Http1Required => may_change.then_some(Wanted::FreshHttp1),
        fault if fault.is_unseen() => Some(Wanted::Any),
        Fault::Closed(_) => repeatable.then_some(Wanted::Any),
        _ => None,
    }
}

/// What an upstream's fault means to the client.
pub(in crate::flow) fn failure(fault: &Fault) -> Failure {
    match fault {
        Fault::Refused => Failure::unavailable("upstream_refused"),
        Fault::GoneAway | Fault::Closed(_) => Failure::bad_gateway("upstream_closed"),
        Fault::Http1Required => Failure::bad_gateway("upstream_wants_http1"),
        Fault::Reset(_) => Failure::bad_gateway("upstream_reset"),
        Fault::Protocol(_) | Fault::Head(_) => Failure::bad_gateway("upstream_broken"),
        Fault::Unsendable(_) => Failure::internal("upstream_request"),
    }
    .because(fault)
}
