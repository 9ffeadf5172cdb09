//! One attempt over HTTP/2: a stream of a connection that others use too.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use h2::Reason;
use http::{Request, response};

use super::{Missed, Waiting, Wanted};
use crate::body::{RequestBody, ResponseBody};
use crate::error::Failure;
use crate::flow::interim::Interims;
use crate::http2::client::{self, Fault, Slot, Upload};

/// An answer whose body is still to come.
pub(super) struct Answered {
    parts: response::Parts,
    body: client::ResponseBody,
    /// The bytes of a request that goes on beside it.
    beside: Option<Arc<AtomicU64>>,
}

/// Sends on a stream and waits for the answer's head; gives the body back if there is none.
///
/// What is left of the request then goes on beside the answer, and may take its time: calls of gRPC are
/// open in both directions for as long as they like. Only a server that takes nothing of it for as long as
/// `stall` gets no more.
pub(super) async fn attempt(
    mut slot: Slot,
    head: Request<()>,
    body: Option<RequestBody>,
    stall: Duration,
    interims: &mut Interims<'_>,
    mut waiting: Waiting<'_>,
) -> Result<Answered, (Missed, Option<RequestBody>)> {
    waiting.begin();
    let (mut answer, send) = match slot.request(head, body.is_none()) {
        Ok(opened) => opened,
        Err(fault) => return Err((Missed::Http2(fault), body)),
    };
    let mut upload = body.map(|body| Upload::new(send, body, stall));
    let answered = poll_fn(|cx| {
        if let Some(upload) = &mut upload
            && let Poll::Ready(Err(fault)) = upload.poll_send(cx)
        {
            return Poll::Ready(Err(Missed::Upload(fault)));
        }
        if let Poll::Ready(answered) = interims.poll_http2(&mut answer, cx) {
            return Poll::Ready(answered.map_err(Missed::Http2));
        }
        let last_progress = || upload.as_ref().and_then(Upload::last_progress);
        let held_up = upload.as_ref().is_some_and(Upload::is_held_up);
        let over = waiting.poll_over(held_up, last_progress, cx);
        over.map(Err)
    })
    .await;
    let (parts, stream) = match answered {
        Ok(answered) => answered,
        Err(missed) => {
            if let (Missed::Shed, Some(upload)) = (&missed, &mut upload) {
                // With a drop alone its queue would stay until the server takes something again.
                upload.reset(Reason::CANCEL);
            }
            return Err((missed, upload.map(Upload::into_body)));
        }
    };
    let headers = &parts.headers;
    let Some(mut upload) = upload.filter(|upload| !upload.is_finished()) else {
        let body = client::ResponseBody::new(headers, stream, slot);
        return Ok(Answered {
            parts,
            body,
            beside: None,
        });
    };
    let body = upload.body_mut();
    body.forget_beginning();
    body.wait_without_limit();
    let beside = Some(body.received());
    let body = client::ResponseBody::beside(headers, stream, slot, upload);
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

/// How the request may be sent once more, if its body is still whole.
///
/// `repeatable`: it may be repeated, and its connection had served others. `may_change`: the endpoint may
/// be spoken to in HTTP/1.1 too.
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
