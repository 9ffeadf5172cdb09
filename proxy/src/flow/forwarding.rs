//! An ordinary request's way to an endpoint and back.
//!
//! Another endpoint is tried only while nothing was sent: after a failed connect. A kept-alive
//! connection that its server closed just as it was used is replaced by a fresh one, if hyper gives
//! the request back unsent, or if the request may be repeated (RFC 9110 §9.2.2) and has no body.
//!
//! A connection goes back to its pool only when both request and response are complete; an answer
//! that is complete before its request ends the request too.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep};

use crate::body::{BodyWatch, OnEnd, RequestBody, ResponseBody, ResponseEnd};
use crate::error::{Failure, Side};
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::forward;
use crate::snapshot::{Route, Snapshot, UpstreamEntry};
use crate::stream::Stream;
use crate::telemetry::metrics::{EndpointMetrics, OpenGuard};
use crate::upstream::{ConnectError, ConnectErrorKind, Lease, Outcome, PickError};
use crate::worker::Worker;

/// A lease whose use and outcome the metrics show.
pub(super) struct Leased {
    lease: Lease,
    metrics: EndpointMetrics,
    _counted: OpenGuard,
}

/// A connection that goes back to its pool when the response on it has been read.
struct Loan {
    sender: Option<SendRequest<RequestBody>>,
    request: Arc<BodyWatch>,
    leased: Leased,
    worker: Arc<Worker>,
    keep_alive: Duration,
    limit: usize,
}

/// Why an attempt brought no answer.
enum Missed {
    /// Not a byte of it was written.
    Unsent(Box<Request<RequestBody>>),
    Broken(hyper::Error),
    TimedOut,
}

/// Sends a prepared request and gives back the answer, its body still to come.
pub(super) async fn send(
    connection: &Connection,
    snapshot: &Snapshot,
    route: &Route,
    upstream: &UpstreamEntry,
    exchange: &mut Exchange,
    mut parts: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, Failure> {
    let limit = snapshot.limits.request_body;
    if limit.is_some_and(|limit| body.size_hint().lower() > limit) {
        return Err(crate::body::BodyFault::TooLarge.into());
    }
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        // Without a word about it hyper takes a GET for one that has no body, and drops it.
        parts
            .headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let body = RequestBody::new(body, limit, snapshot.timeouts.request_body);
    let watch = body.watch();
    exchange.watches(Arc::clone(&watch));
    let mut request = Request::from_parts(parts, body);
    let patience = route.timeouts.response_head;

    let leased = lease(upstream, exchange, &[])?;
    if let Some(mut sender) = connection.worker.pool.take(leased.lease.endpoint()) {
        let spare = repeatable(&request);
        exchange.sent_to(upstream.upstream.name(), leased.lease.endpoint());
        match attempt(&mut sender, request, &watch, patience).await {
            Ok(response) => {
                let loan = Loan::new(connection, upstream, leased, sender, watch);
                return take_answer(response, loan, route.timeouts.idle_timeout, exchange);
            }
            Err(Missed::Unsent(unsent)) => request = *unsent,
            Err(missed) => match (missed, spare) {
                (Missed::Broken(_), Some(spare)) => request = spare,
                (missed, _) => return Err(explain(missed, leased, &watch)),
            },
        }
    }

    let (leased, stream) = connect(route, upstream, exchange, leased).await?;
    let (mut sender, driver) = client()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::bad_gateway("upstream_broken").because(error))?;
    // What ends it reaches the request through its sender.
    tokio::spawn(driver);
    match attempt(&mut sender, request, &watch, patience).await {
        Ok(response) => {
            let loan = Loan::new(connection, upstream, leased, sender, watch);
            take_answer(response, loan, route.timeouts.idle_timeout, exchange)
        }
        Err(missed) => Err(explain(missed, leased, &watch)),
    }
}

/// How to speak HTTP/1.1 to an upstream, with heads that have a limit.
pub(super) fn client() -> http1::Builder {
    let mut client = http1::Builder::new();
    client
        .max_headers(RESPONSE_FIELDS)
        .max_header_size(RESPONSE_HEAD)
        .max_buf_size(RESPONSE_HEAD);
    client
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

/// Connects to the leased endpoint, or to others while that fails.
pub(super) async fn connect(
    route: &Route,
    upstream: &UpstreamEntry,
    exchange: &mut Exchange,
    first: Leased,
) -> Result<(Leased, Stream), Failure> {
    let mut leased = first;
    let mut tried = Vec::new();
    loop {
        exchange.sent_to(upstream.upstream.name(), leased.lease.endpoint());
        let started = Instant::now();
        match leased
            .lease
            .endpoint()
            .connect(route.timeouts.connect)
            .await
        {
            Ok(stream) => {
                leased.metrics.connected(started.elapsed());
                return Ok((leased, stream));
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

impl Leased {
    /// Tells the endpoint's health, and publishes what came of it.
    pub(super) fn report(&mut self, outcome: Outcome) {
        self.lease.report(outcome);
        self.metrics.set_up(self.lease.endpoint().is_up());
    }
}

/// A response holds its lease until it is over.
impl OnEnd for Leased {
    fn ended(&mut self, _sent: u64, _end: ResponseEnd) {}
}

impl Loan {
    fn new(
        connection: &Connection,
        upstream: &UpstreamEntry,
        leased: Leased,
        sender: SendRequest<RequestBody>,
        request: Arc<BodyWatch>,
    ) -> Loan {
        Loan {
            sender: Some(sender),
            request,
            leased,
            worker: Arc::clone(&connection.worker),
            keep_alive: upstream.upstream.keep_alive(),
            limit: upstream.upstream.keep_alive_connections(),
        }
    }
}

impl OnEnd for Loan {
    fn ended(&mut self, _sent: u64, end: ResponseEnd) {
        if end == ResponseEnd::UpstreamBroke {
            self.leased.report(Outcome::Failure);
        }
        if self.request.is_finished()
            && let Some(sender) = self.sender.take()
        {
            // The pool drops it if its response was not read to the end.
            let endpoint = self.leased.lease.endpoint();
            self.worker
                .pool
                .put_back(endpoint, sender, self.keep_alive, self.limit);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !self.request.is_finished() {
            // Both connections would wait for the rest of a request that is over.
            self.request.abandon();
        }
    }
}

/// Sends on one connection and waits for the answer's head.
///
/// The wait counts from the last piece of the body, so that a long upload is not cut; while the
/// client itself is what everybody waits for, the body's own deadline counts.
async fn attempt(
    sender: &mut SendRequest<RequestBody>,
    request: Request<RequestBody>,
    watch: &BodyWatch,
    patience: Duration,
) -> Result<Response<Incoming>, Missed> {
    let mut answer = pin!(sender.try_send_request(request));
    let mut timer = pin!(sleep(patience));
    loop {
        tokio::select! {
            biased;
            answered = &mut answer => return answered.map_err(|mut error| {
                match error.take_message() {
                    Some(unsent) => Missed::Unsent(Box::new(unsent)),
                    None => Missed::Broken(error.into_error()),
                }
            }),
            () = &mut timer => {
                let since = if watch.waits_for_client() {
                    Instant::now()
                } else {
                    watch.last_progress()
                };
                if since + patience <= Instant::now() {
                    return Err(Missed::TimedOut);
                }
                timer.as_mut().reset(since + patience);
            }
        }
    }
}

fn take_answer(
    response: Response<Incoming>,
    mut loan: Loan,
    idle_timeout: Duration,
    exchange: &mut Exchange,
) -> Result<Response<ResponseBody>, Failure> {
    exchange.upstream_answered();
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        loan.leased.report(Outcome::Failure);
        return Err(Failure::bad_gateway("unasked_upgrade"));
    }
    if !forward::has_clear_framing(&parts.headers) {
        loan.leased.report(Outcome::Failure);
        return Err(Failure::bad_gateway("upstream_framing"));
    }
    loan.leased.report(Outcome::Success);
    forward::downstream_response(&mut parts, false);
    let body = ResponseBody::upstream(body, idle_timeout).on_end(Box::new(loan));
    Ok(Response::from_parts(parts, body))
}

/// Whose fault it was: a broken client body looks to hyper like a broken request.
fn explain(missed: Missed, mut leased: Leased, watch: &BodyWatch) -> Failure {
    if let Some(fault) = watch.fault() {
        return fault.into();
    }
    leased.report(Outcome::Failure);
    match missed {
        Missed::TimedOut => Failure::response_timeout(),
        Missed::Unsent(_) => Failure::bad_gateway("upstream_closed"),
        Missed::Broken(error) => Failure::bad_gateway("upstream_broken").because(error),
    }
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

/// A copy of a request that may be sent twice.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Endpoints that one request may be tried on.
const MAX_TRIES: usize = 3;
/// Fields of a response head.
const RESPONSE_FIELDS: usize = 200;
/// Bytes of a response head; also what hyper reads ahead of a body.
const RESPONSE_HEAD: usize = 64 * 1024;
