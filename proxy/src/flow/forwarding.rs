//! An ordinary request's way to an endpoint and back.
//!
//! Another endpoint is tried only while nothing was sent: after a failed connect. A kept-alive
//! connection that its server closed just as it was used is replaced by a fresh one, if not a byte
//! was written, or if the request may be repeated (RFC 9110 §9.2.2) and has no body.
//!
//! A connection goes back to its pool only when both request and response are complete; an answer
//! that is complete before its request ends the request too.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response, StatusCode, response};
use http_body::Body as _;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{
    BodyFault, Incoming, RequestBody, ResponseBody, ResponseEnd, UpstreamConnection,
};
use crate::error::{Failure, Side};
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::forward;
use crate::http1::client::{Fault, HeadFault, Progress, RequestHead, Upload};
use crate::http1::{Framing, HeadLimits};
use crate::snapshot::{Route, Snapshot, UpstreamEntry};
use crate::stream::Stream;
use crate::telemetry::metrics::{EndpointMetrics, OpenGuard};
use crate::upstream::{ConnectError, ConnectErrorKind, Lease, Outcome, PickError, Wish};
use crate::worker::Worker;

/// A lease whose use and outcome the metrics show.
pub(super) struct Leased {
    lease: Lease,
    metrics: EndpointMetrics,
    _counted: OpenGuard,
}

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
    started: Instant,
    patience: Duration,
}

/// Why an attempt brought no answer.
enum Missed {
    Fault(Fault<BodyFault>),
    TimedOut,
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
    let (framing, mut upload) = upload(snapshot, exchange, &parts.method, body)?;
    let request = outbound.head(exchange, framing)?;
    let patience = route.timeouts.response_head;
    let idle_timeout = route.timeouts.idle_timeout;

    let leased = lease(upstream, exchange, &[])?;
    let now = Instant::now();
    let mut timer = pin!(sleep_until(now + patience));
    if let Some(mut pooled) = connection.worker.pool.take(leased.lease.endpoint(), now) {
        exchange.sent_to(upstream.upstream.name(), leased.lease.endpoint(), now);
        let mut waiting = Waiting {
            timer: timer.as_mut(),
            started: now,
            patience,
        };
        match attempt(&mut pooled, &request, &mut upload, &mut waiting).await {
            Ok(answer) => {
                let loan = Loan::of_pooled(connection, upstream, leased);
                return take_answer(answer, pooled, upload, loan, idle_timeout, exchange);
            }
            Err(missed) => {
                if !may_send_again(&missed, pooled.progress(), &parts.method, framing) {
                    return Err(explain(missed, leased));
                }
            }
        }
    }

    let (leased, stream, now) = connect(route, upstream, exchange, leased, timer.as_mut()).await?;
    let mut fresh = UpstreamConnection::new(stream);
    let mut waiting = Waiting {
        timer,
        started: now,
        patience,
    };
    match attempt(&mut fresh, &request, &mut upload, &mut waiting).await {
        Ok(answer) => {
            let loan = Loan::of_pooled(connection, upstream, leased);
            take_answer(answer, fresh, upload, loan, idle_timeout, exchange)
        }
        Err(missed) => Err(explain(missed, leased)),
    }
}

/// How a request's body goes to the upstream.
fn upload(
    snapshot: &Snapshot,
    exchange: &mut Exchange,
    method: &Method,
    body: Incoming,
) -> Result<(Option<Framing>, Upload<RequestBody>), Failure> {
    if body.is_end_stream() {
        // Where a body is usual, its absence is said (RFC 9110 §8.6).
        let usual = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        return Ok((usual.then_some(Framing::Length(0)), Upload::none()));
    }
    let limit = snapshot.limits.request_body;
    let size = body.size_hint();
    if limit.is_some_and(|limit| size.lower() > limit) {
        return Err(BodyFault::TooLarge.into());
    }
    let framing = size.exact().map_or(Framing::Chunked, Framing::Length);
    let body = RequestBody::new(body, limit, snapshot.timeouts.request_body);
    exchange.counts(body.received());
    Ok((Some(framing), Upload::of(body, framing)))
}

/// Leases an endpoint, leaving out the tried ones.
pub(super) fn lease(
    upstream: &UpstreamEntry,
    exchange: &Exchange,
    tried: &[usize],
) -> Result<Leased, Failure> {
    let client = exchange.admitted_facts()?.client_ip;
    let lease = upstream.upstream.pick(client, tried).map_err(|error| {
        let label = match error {
            PickError::AllDown => "upstream_down",
            PickError::AllBusy => "upstream_busy",
        };
        Failure::unavailable(label)
    })?;
    let metrics = upstream.metrics[lease.index()].clone();
    Ok(Leased {
        _counted: metrics.lease(),
        lease,
        metrics,
    })
}

/// Connects to the leased endpoint, or to others while that fails; tells also the time.
pub(super) async fn connect(
    route: &Route,
    upstream: &UpstreamEntry,
    exchange: &mut Exchange,
    first: Leased,
    mut timer: Pin<&mut Sleep>,
) -> Result<(Leased, Stream, Instant), Failure> {
    let mut leased = first;
    let mut tried = Vec::new();
    loop {
        let started = Instant::now();
        exchange.sent_to(upstream.upstream.name(), leased.lease.endpoint(), started);
        timer.as_mut().reset(started + route.timeouts.connect);
        let connecting = leased.lease.endpoint().connect(Wish::Http1, timer.as_mut());
        match connecting.await {
            Ok(connected) => {
                let now = Instant::now();
                leased.metrics.connected(now - started);
                return Ok((leased, connected.stream, now));
            }
            Err(error) => {
                leased.metrics.connect_error(error.kind.label());
                if error.kind == ConnectErrorKind::Local {
                    // No endpoint's fault, and no other endpoint would do better.
                    return Err(connect_failure(&error));
                }
                leased.report(Outcome::Failure);
                tried.push(leased.lease.index());
                if tried.len() == MAX_TRIES {
                    return Err(connect_failure(&error));
                }
                leased = lease(upstream, exchange, &tried).map_err(|_| connect_failure(&error))?;
            }
        }
    }
}

impl Outbound<'_> {
    /// The head as it goes on the wire.
    pub(super) fn head(
        &self,
        exchange: &Exchange,
        framing: Option<Framing>,
    ) -> Result<RequestHead, Failure> {
        let facts = exchange.admitted_facts()?;
        let head = if self.route.is_straight() {
            let about = forward::Circumstances {
                facts,
                conn: &self.connection.facts,
                websocket: self.websocket,
            };
            forward::straight_head(self.parts, self.path, about, framing)
        } else {
            forward::request_head(self.parts, self.path, facts.query.as_deref(), framing)
        };
        head.map_err(|error| Failure::internal("upstream_request").because(error))
    }
}

impl Leased {
    /// Tells the endpoint's health, and publishes what came of it.
    pub(super) fn report(&mut self, outcome: Outcome) {
        self.lease.report(outcome);
        self.metrics.set_up(self.lease.endpoint().is_up());
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
            let endpoint = self.leased.lease.endpoint();
            let pool = &shelf.worker.pool;
            pool.put_back(endpoint, connection, shelf.keep_alive, shelf.limit);
        }
    }
}

/// Sends on one connection and waits for the answer's head.
///
/// The wait counts from the last piece of the body, so that a long upload is not cut; while the
/// client itself is what everybody waits for, the body's own deadline counts.
async fn attempt(
    connection: &mut UpstreamConnection,
    request: &RequestHead,
    upload: &mut Upload<RequestBody>,
    waiting: &mut Waiting<'_>,
) -> Result<response::Parts, Missed> {
    let Waiting {
        timer,
        started,
        patience,
    } = waiting;
    let first = *started + *patience;
    if timer.deadline() != first {
        timer.as_mut().reset(first);
    }
    connection.begin(request, upload);
    poll_fn(|cx| {
        if let Poll::Ready(answered) = connection.poll_answer(upload, RESPONSE_HEAD, cx) {
            return Poll::Ready(answered.map_err(Missed::Fault));
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let deadline = upload.last_progress().unwrap_or(*started) + *patience;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(Missed::TimedOut));
            }
            timer.as_mut().reset(deadline);
        }
    })
    .await
}

fn take_answer(
    mut parts: response::Parts,
    connection: UpstreamConnection,
    upload: Upload<RequestBody>,
    mut loan: Loan,
    idle_timeout: Duration,
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
    let body = ResponseBody::upstream(connection.into_body(upload), idle_timeout);
    Ok(Response::from_parts(parts, body))
}

/// Whether a connection that brought no answer may have been closed before the request came: then
/// another one gets it, unless the first may have acted on it.
fn may_send_again(
    missed: &Missed,
    progress: Progress,
    method: &Method,
    framing: Option<Framing>,
) -> bool {
    let closed = matches!(missed, Missed::Fault(Fault::Closed | Fault::Io(_)));
    let repeatable =
        matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && framing.is_none();
    closed
        && match progress {
            Progress::Nothing => true,
            Progress::Sent => repeatable,
            Progress::Answered => false,
        }
}

/// Whose fault it was.
fn explain(missed: Missed, mut leased: Leased) -> Failure {
    let failure = match missed {
        Missed::Fault(Fault::Upload(fault)) => return fault.into(),
        Missed::TimedOut => Failure::response_timeout(),
        Missed::Fault(fault) => upstream_failure(&fault),
    };
    leased.report(Outcome::Failure);
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

fn connect_failure(error: &ConnectError) -> Failure {
    let failure = match error.kind {
        ConnectErrorKind::Timeout => Failure::connect_timeout(),
        ConnectErrorKind::Dns => Failure::bad_gateway("connect_dns"),
        ConnectErrorKind::Refused => Failure::bad_gateway("connect_refused"),
        ConnectErrorKind::Tls => Failure::bad_gateway("connect_tls"),
        ConnectErrorKind::Local => Failure::new(
            Side::Proxy,
            StatusCode::SERVICE_UNAVAILABLE,
            "out_of_resources",
        ),
        ConnectErrorKind::Unreachable | ConnectErrorKind::Other => {
            Failure::bad_gateway("connect_failed")
        }
    };
    failure.because(error)
}

/// Endpoints that one request may be tried on.
const MAX_TRIES: usize = 3;
/// What an upstream's head may use.
pub(super) const RESPONSE_HEAD: HeadLimits = HeadLimits {
    size: 64 * 1024,
    fields: 200,
};
