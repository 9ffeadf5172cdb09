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
mod load;
mod reach;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, response};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{BodyFault, Incoming, ResponseBody, ResponseEnd, UpstreamConnection};
use crate::budget::Account;
use crate::config::model::Protocols;
use crate::error::Failure;
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::flow::interim::Interims;
use crate::http1::client::{Fault, HeadFault, Progress, RequestHead};
use crate::http1::{Framing, HeadLimits};
use crate::http2::client::{Fault as Http2Fault, Slot};
use crate::snapshot::{Route, Snapshot, UpstreamEntry};
use crate::upstream::{Endpoint, Outcome};
use crate::worker::Worker;
use crate::{forward, request};
pub(super) use http2::failure as http2_failure;
use load::{Load, load};
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
    /// It could not even be sent.
    Unsent(Failure),
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

/// A request between its attempts.
struct Sending<'a, 'i> {
    outbound: &'a Outbound<'a>,
    framing: Option<Framing>,
    load: Load,
    /// Bytes of the body that may come while none is taken.
    ahead: usize,
    /// It has no body, and doing it twice is as good as once.
    repeatable: bool,
    /// As it goes on the wire of HTTP/1.1, once that is wanted.
    head: Option<RequestHead>,
    interims: &'a mut Interims<'i>,
}

/// An attempt without an answer, and what kind of connection the next one takes, if there may be one.
struct Unanswered {
    missed: Missed,
    then: Option<Wanted>,
}

/// Sends a prepared request and gives back the answer, its body still to come.
pub(super) async fn send(
    outbound: Outbound<'_>,
    exchange: &mut Exchange,
    body: Incoming,
    interims: &mut Interims<'_>,
) -> Result<Response<ResponseBody>, Failure> {
    let mut sending = Sending::new(&outbound, exchange, body, interims)?;
    let mut leased = lease(outbound.upstream, exchange, &[])?;
    let patience = outbound.route.timeouts.response_head;
    let mut timer = pin!(sleep_until(Instant::now() + patience));
    let mut wanted = Wanted::Any;
    let mut again = false;
    loop {
        let reaching = reach(&outbound, exchange, leased, wanted, timer.as_mut());
        let (next, reached, started) = reaching.await?;
        leased = next;
        let waiting = Waiting {
            timer: timer.as_mut(),
            account: exchange.opened_account().cloned(),
            ahead: sending.ahead,
            started,
            patience,
        };
        let unanswered = match reached {
            Reached::Http1 { connection, kept } => {
                let attempt = sending.over_http1(connection, kept, exchange, waiting);
                match attempt.await {
                    Ok(answer) => return take_answer(answer, outbound.loan(leased), exchange),
                    Err(unanswered) => unanswered,
                }
            }
            Reached::Http2(slot) => {
                let attempt = sending.over_http2(slot, leased.endpoint(), exchange, waiting);
                // Boxed: a request over HTTP/1.1 does not hold room for it.
                match Box::pin(attempt).await {
                    Ok(answer) => return take_answer(answer, Loan::of_closing(leased), exchange),
                    Err(unanswered) => unanswered,
                }
            }
        };
        match unanswered.then {
            Some(then) if !again => wanted = then,
            _ => {
                let called = request::is_grpc(outbound.parts);
                return Err(explain(unanswered.missed, leased, called));
            }
        }
        again = true;
    }
}

impl<'a, 'i> Sending<'a, 'i> {
    fn new(
        outbound: &'a Outbound<'a>,
        exchange: &mut Exchange,
        body: Incoming,
        interims: &'a mut Interims<'i>,
    ) -> Result<Sending<'a, 'i>, Failure> {
        let ahead = body.ahead();
        let parts = outbound.parts;
        let (framing, load) = load(outbound.snapshot, exchange, parts, body)?;
        let may_be_repeated = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        Ok(Sending {
            outbound,
            framing,
            load,
            ahead,
            repeatable: may_be_repeated && framing.is_none(),
            head: None,
            interims,
        })
    }

    /// `kept`: the connection served others, and may have been closed since.
    async fn over_http1(
        &mut self,
        mut connection: UpstreamConnection,
        kept: bool,
        exchange: &Exchange,
        mut waiting: Waiting<'_>,
    ) -> Result<(response::Parts, ResponseBody), Unanswered> {
        let mut upload = self.load.http1(self.framing).ok_or_else(lost)?;
        let head = match &self.head {
            Some(head) => head,
            None => self
                .head
                .insert(self.outbound.head(exchange, self.framing)?),
        };
        waiting.begin();
        connection.begin(head, &mut upload);
        let answered = poll_fn(|cx| {
            let answered = self.interims.poll_http1(&mut connection, &mut upload, cx);
            if let Poll::Ready(answered) = answered {
                return Poll::Ready(answered.map_err(Missed::Http1));
            }
            let over = waiting.poll_over(upload.is_held_up(), || upload.last_progress(), cx);
            over.map(Err)
        })
        .await;
        match answered {
            Ok(head) => {
                let idle_timeout = self.outbound.route.timeouts.idle_timeout;
                let body = connection.into_body(upload);
                Ok((head, ResponseBody::upstream(body, idle_timeout)))
            }
            Err(missed) => {
                self.load.put_back(upload);
                let may = kept && may_send_again(&missed, connection.progress(), self.repeatable);
                Err(Unanswered {
                    missed,
                    then: may.then_some(Wanted::Fresh),
                })
            }
        }
    }

    async fn over_http2(
        &mut self,
        slot: Slot,
        endpoint: &Endpoint,
        exchange: &Exchange,
        waiting: Waiting<'_>,
    ) -> Result<(response::Parts, ResponseBody), Unanswered> {
        let reused = slot.is_reused();
        let body = self.load.http2().ok_or_else(lost)?;
        let head = self.outbound.http2_head(exchange, endpoint, self.framing)?;
        let idle_timeout = self.outbound.route.timeouts.idle_timeout;
        let attempt = http2::attempt(slot, head, body, idle_timeout, self.interims, waiting);
        match attempt.await {
            Ok(answer) => Ok(answer.with_timeout(idle_timeout)),
            Err((missed, body)) => {
                let may_change = endpoint.protocols() == Protocols::Auto;
                let then = http2::then(&missed, reused && self.repeatable, may_change);
                let whole = self.load.recover(body);
                Err(Unanswered {
                    missed,
                    then: then.filter(|_| whole),
                })
            }
        }
    }
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Unanswered {
        Unanswered {
            missed: Missed::Unsent(failure),
            then: None,
        }
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

    /// Of a connection that goes back to its pool, unless the next one there would find itself logged in.
    fn loan(&self, leased: Leased) -> Loan {
        if request::logs_in_connection(&self.parts.headers) {
            return Loan::of_closing(leased);
        }
        let upstream = &self.upstream.upstream;
        Loan {
            leased,
            shelf: Some(Shelf {
                worker: Arc::clone(&self.connection.worker),
                keep_alive: upstream.keep_alive(),
                limit: upstream.keep_alive_connections(),
            }),
        }
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

fn take_answer(
    (mut parts, body): (response::Parts, ResponseBody),
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
        Missed::Unsent(failure) => return failure,
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
