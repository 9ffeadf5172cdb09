//! An ordinary request's way to an endpoint and back.
//!
//! [`reach()`] chooses the connection; what it speaks decides how the request goes on it. A request is sent
//! once more where a kept-alive connection was closed by its server just as it was used, if not a byte
//! was written, or if the request may be repeated (RFC 9110 §9.2.2) and has no body; and where a
//! server of HTTP/2 says that it has done nothing about it.
//!
//! A connection goes back to its pool only when both request and response are complete; an answer
//! that is complete before its request ends the request too.

mod http2;
mod reach;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, response};
use http_body::Body as _;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{
    BodyFault, Incoming, RequestBody, ResponseBody, ResponseEnd, UpstreamConnection,
};
use crate::budget::{Account, FREE};
use crate::config::model::Protocols;
use crate::error::Failure;
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::http1::client::{Fault, HeadFault, Progress, RequestHead, Upload};
use crate::http1::{Framing, HeadLimits};
use crate::http2::client::Fault as Http2Fault;
use crate::snapshot::{Route, Snapshot, UpstreamEntry};
use crate::upstream::{Endpoint, Outcome};
use crate::worker::Worker;
use crate::{forward, request};
pub(super) use http2::failure as http2_failure;
pub(super) use reach::{
    Leased, Reached, Server, Unreached, Used, Wanted, lease, reach, reach_endpoint,
};

/// The lease behind an answer, and where its connection goes once the answer is over.
pub(super) struct Loan {
    leased: Leased,
    /// `None`: the connection is closed.
    shelf: Option<Shelf>,
}

struct Shelf {
    worker: Arc<Worker>,
    keep_alive: Duration,
    limit: usize,
}

/// How long an attempt may take.
struct Waiting<'a> {
    timer: Pin<&'a mut Sleep>,
    /// Where what is held of the request's body counts.
    account: Option<Account>,
    /// Bytes of it that may come while none is taken.
    ahead: usize,
    started: Instant,
    patience: Duration,
}

/// Why an attempt brought no answer.
enum Missed {
    Http1(Fault<BodyFault>),
    Http2(Http2Fault),
    /// The request's own body failed, on its way over HTTP/2.
    Upload(BodyFault),
    TimedOut,
    /// There is no memory for what the server does not take.
    Shed,
}

/// A request ready to go to an endpoint of its upstream.
pub(super) struct Outbound<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshot: &'a Snapshot,
    pub(super) route: &'a Route,
    pub(super) upstream: &'a UpstreamEntry,
    /// As the upstream shall see them, but for what frames a body; on a straight route as the
    /// client sent them.
    pub(super) parts: &'a Parts,
    /// After rewriting.
    pub(super) path: &'a str,
    pub(super) websocket: bool,
}

/// The body of a request, as the attempts to send it need it.
enum Load {
    /// There is none.
    Nothing,
    Body(RequestBody),
    Http1(Upload<RequestBody>),
    /// What was taken from it cannot be given again.
    Lost,
}

/// Sends a prepared request and gives back the answer, its body still to come.
pub(super) async fn send(
    outbound: Outbound<'_>,
    exchange: &mut Exchange,
    body: Incoming,
) -> Result<Response<ResponseBody>, Failure> {
    let Outbound {
        connection,
        snapshot,
        route,
        upstream,
        parts,
        ..
    } = outbound;
    let ahead = body.ahead();
    let (framing, mut load) = load(snapshot, exchange, parts, body)?;
    let repeatable =
        matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) && framing.is_none();
    let idle_timeout = route.timeouts.idle_timeout;
    let mut head = None;
    let mut leased = lease(upstream, exchange, &[])?;
    let patience = route.timeouts.response_head;
    let mut timer = pin!(sleep_until(Instant::now() + patience));
    let mut wanted = Wanted::Any;
    let mut again = false;
    loop {
        let reached = reach(&outbound, exchange, leased, wanted, timer.as_mut());
        let (next, reached, started) = reached.await?;
        let waiting = Waiting {
            timer: timer.as_mut(),
            account: exchange.opened_account().cloned(),
            ahead,
            started,
            patience,
        };
        let (missed, then) = match reached {
            Reached::Http1 {
                connection: mut upstream_connection,
                kept,
            } => {
                let mut upload = load.http1(framing).ok_or_else(lost)?;
                let head = match &head {
                    Some(head) => head,
                    None => head.insert(outbound.head(exchange, framing)?),
                };
                match attempt(&mut upstream_connection, head, &mut upload, waiting).await {
                    Ok(answer) => {
                        let loan = Loan::of_pooled(connection, upstream, next);
                        let body = upstream_connection.into_body(upload);
                        let body = ResponseBody::upstream(body, idle_timeout);
                        return take_answer(answer, body, loan, exchange);
                    }
                    Err(missed) => {
                        let progress = upstream_connection.progress();
                        let may = kept && may_send_again(&missed, progress, repeatable);
                        load.put_back(upload);
                        (missed, may.then_some(Wanted::Fresh))
                    }
                }
            }
            Reached::Http2(slot) => {
                let reused = slot.is_reused();
                let body = load.http2().ok_or_else(lost)?;
                let head = outbound.http2_head(exchange, next.endpoint(), framing)?;
                let attempt = http2::attempt(slot, head, body, idle_timeout, waiting);
                // Boxed: a request over HTTP/1.1 does not hold room for it.
                match Box::pin(attempt).await {
                    Ok(answer) => {
                        let (answer, body) = answer.with_timeout(idle_timeout);
                        return take_answer(answer, body, Loan::of_closing(next), exchange);
                    }
                    Err((missed, body)) => {
                        let may_change = next.endpoint().protocols() == Protocols::Auto;
                        let then = http2::then(&missed, reused && repeatable, may_change);
                        let whole = load.recover(body);
                        (missed, then.filter(|_| whole))
                    }
                }
            }
        };
        match then {
            Some(then) if !again => wanted = then,
            _ => return Err(explain(missed, next, request::is_grpc(parts))),
        }
        again = true;
        leased = next;
    }
}

/// A request's body, and how its end is said.
fn load(
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
    fn http1(&mut self, framing: Option<Framing>) -> Option<Upload<RequestBody>> {
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
    fn http2(&mut self) -> Option<Option<RequestBody>> {
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

    fn put_back(&mut self, upload: Upload<RequestBody>) {
        if let Load::Lost = self {
            *self = Load::Http1(upload);
        }
    }

    /// Takes the body of an attempt that came to nothing; false if it cannot be sent again.
    fn recover(&mut self, body: Option<RequestBody>) -> bool {
        let Some(mut body) = body else {
            return matches!(self, Load::Nothing);
        };
        let whole = body.rewind();
        *self = Load::Body(body);
        whole
    }
}

/// The other protocol has begun to send the body.
fn lost() -> Failure {
    Failure::bad_gateway("upstream_closed")
}

impl Outbound<'_> {
    /// The head as it goes on the wire.
    pub(super) fn head(
        &self,
        exchange: &Exchange,
        framing: Option<Framing>,
    ) -> Result<RequestHead, Failure> {
        let facts = exchange.admitted_facts()?;
        let mut parts = Cow::Borrowed(self.parts);
        if request::is_grpc(&parts) {
            // Only servers of HTTP/2 are sure to tell them from fields with a dash.
            request::drop_underscores(&mut parts.to_mut().headers);
        }
        let head = if self.route.is_straight() {
            let about = forward::Circumstances {
                facts,
                conn: &self.connection.facts,
                websocket: self.websocket,
            };
            forward::straight_head(&parts, self.path, about, framing)
        } else {
            forward::request_head(&parts, self.path, facts.query.as_deref(), framing)
        };
        head.map_err(|error| Failure::internal("upstream_request").because(error))
    }

    /// The head for an endpoint that is spoken to in HTTP/2.
    pub(super) fn http2_head(
        &self,
        exchange: &Exchange,
        endpoint: &Endpoint,
        framing: Option<Framing>,
    ) -> Result<Request<()>, Failure> {
        let facts = exchange.admitted_facts()?;
        let failure = |error| Failure::internal("upstream_request").because(error);
        let mut headers = self.parts.headers.clone();
        if self.route.is_straight() {
            forward::prepare_request(&mut headers, facts, &self.connection.facts);
            forward::upstream_request(&mut headers, facts, self.websocket).map_err(failure)?;
        }
        let scheme = match endpoint.uses_tls() {
            true => "https",
            false => "http",
        };
        let target = (self.path, facts.query.as_deref());
        forward::http2_request(&self.parts.method, headers, target, scheme, framing)
            .map_err(failure)
    }
}

impl Loan {
    fn of_pooled(connection: &Connection, upstream: &UpstreamEntry, leased: Leased) -> Loan {
        Loan {
            leased,
            shelf: Some(Shelf {
                worker: Arc::clone(&connection.worker),
                keep_alive: upstream.upstream.keep_alive(),
                limit: upstream.upstream.keep_alive_connections(),
            }),
        }
    }

    /// Of a connection that is closed after its answer.
    pub(super) fn of_closing(leased: Leased) -> Loan {
        Loan {
            leased,
            shelf: None,
        }
    }

    /// The answer is over; `connection` is its connection, if it is fit for another request.
    pub(super) fn ended(&mut self, end: ResponseEnd, connection: Option<UpstreamConnection>) {
        if end == ResponseEnd::UpstreamBroke {
            self.leased.report(Outcome::Failure);
        }
        if let (Some(shelf), Some(connection)) = (&self.shelf, connection) {
            let endpoint = self.leased.endpoint();
            let pool = &shelf.worker.pool;
            pool.put_back(endpoint, connection, shelf.keep_alive, shelf.limit);
        }
    }
}

impl Waiting<'_> {
    /// Ready when it has been too long, or there is no memory for the wait. `held_up`: what came of the
    /// body waits for the server.
    ///
    /// The wait counts from the last piece of the body, so that a long upload is not cut; while the
    /// client itself is what everybody waits for, the body's own deadline counts.
    fn poll_over(
        &mut self,
        held_up: bool,
        last_progress: impl Fn() -> Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Missed> {
        if let Some(account) = &self.account {
            account.reserve(if held_up { self.ahead } else { 0 });
            if account.poll_shed(cx).is_ready() {
                return Poll::Ready(Missed::Shed);
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let deadline = last_progress().unwrap_or(self.started) + self.patience;
            if deadline <= Instant::now() {
                return Poll::Ready(Missed::TimedOut);
            }
            self.timer.as_mut().reset(deadline);
        }
    }

    fn begin(&mut self) {
        let first = self.started + self.patience;
        if self.timer.deadline() != first {
            self.timer.as_mut().reset(first);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.reserve(0);
        }
    }
}

/// Sends on one connection and waits for the answer's head.
async fn attempt(
    connection: &mut UpstreamConnection,
    request: &RequestHead,
    upload: &mut Upload<RequestBody>,
    mut waiting: Waiting<'_>,
) -> Result<response::Parts, Missed> {
    waiting.begin();
    connection.begin(request, upload);
    poll_fn(|cx| {
        if let Poll::Ready(answered) = connection.poll_answer(upload, RESPONSE_HEAD, cx) {
            return Poll::Ready(answered.map_err(Missed::Http1));
        }
        let over = waiting.poll_over(upload.is_held_up(), || upload.last_progress(), cx);
        over.map(Err)
    })
    .await
}

fn take_answer(
    mut parts: response::Parts,
    body: ResponseBody,
    mut loan: Loan,
    exchange: &mut Exchange,
) -> Result<Response<ResponseBody>, Failure> {
    exchange.upstream_answered();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        loan.leased.report(Outcome::Failure);
        return Err(Failure::bad_gateway("unasked_upgrade"));
    }
    loan.leased.report(Outcome::Success);
    exchange.lends(loan);
    forward::downstream_response(&mut parts, false);
    Ok(Response::from_parts(parts, body))
}

/// Whether a connection that brought no answer may have been closed before the request came: then
/// another one gets it, unless the first may have acted on it.
fn may_send_again(missed: &Missed, progress: Progress, repeatable: bool) -> bool {
    let closed = matches!(missed, Missed::Http1(Fault::Closed | Fault::Io(_)));
    closed
        && match progress {
            Progress::Nothing => true,
            Progress::Sent => repeatable,
            Progress::Answered => false,
        }
}

/// Whose fault it was.
///
/// It counts against the server's health unless that has given up this one request, or was `called`: the
/// method of a call may say nothing for as long as it likes.
fn explain(missed: Missed, mut leased: Leased, called: bool) -> Failure {
    let (failure, blamed) = match missed {
        Missed::Http1(Fault::Upload(fault)) | Missed::Upload(fault) => return fault.into(),
        Missed::Shed => return Failure::overloaded(),
        Missed::TimedOut => (Failure::response_timeout(), !called),
        Missed::Http1(fault) => (upstream_failure(&fault), true),
        Missed::Http2(fault) => (http2::failure(&fault), fault.blames_server()),
    };
    if blamed {
        leased.report(Outcome::Failure);
    }
    failure
}

/// What an upstream's fault means to the client.
pub(super) fn upstream_failure(fault: &Fault<BodyFault>) -> Failure {
    let label = match fault {
        Fault::Closed => "upstream_closed",
        Fault::Head(HeadFault::Framing) => "upstream_framing",
        Fault::Head(_) | Fault::Io(_) | Fault::Upload(_) => "upstream_broken",
    };
    Failure::bad_gateway(label).because(fault)
}

/// What an upstream's head may use.
pub(super) const RESPONSE_HEAD: HeadLimits = HeadLimits {
    size: 64 * 1024,
    fields: 200,
};
