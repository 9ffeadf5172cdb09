//! Requests of the plugins' own: to upstreams of the generation that serves the client's request, over
//! the worker's pool.
//!
//! What may be asked, how long and how much, the plugin host has judged. Health, balance and connection
//! limits are the upstream's as for any request. A request that may be repeated and has no body is sent
//! once more where a kept-alive connection was closed under it.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::{fmt, future::poll_fn};

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::response::Parts;
use http::{HeaderValue, Method, Request, request};
use http_body::Body;
use http_body_util::Full;
use sluicegate_plugin_host::{
    Outbound, OutboundError, OutboundFuture, OutboundRequest, OutboundResponse,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::body::UpstreamConnection;
use crate::budget::{Account, Kind};
use crate::flow::forwarding::{RESPONSE_HEAD, Reached, Server, Unreached, Wanted, reach_endpoint};
use crate::forward;
use crate::http1::Violation;
use crate::http1::client::{Fault, HeadFault, Progress, Upload};
use crate::http1::{BodyFault, Framing};
use crate::http2::client::{self as http2, Slot};
use crate::snapshot::{Snapshot, UpstreamEntry};
use crate::telemetry::metrics::EndpointMetrics;
use crate::upstream::{ConnectErrorKind, Lease, Outcome};
use crate::worker::Worker;

/// The way to the upstreams for the guests of one request.
pub(super) struct GuestHttp {
    pub(super) worker: Arc<Worker>,
    pub(super) snapshot: Arc<Snapshot>,
    /// For a balance by address: the guest asks on its client's behalf.
    pub(super) client: IpAddr,
}

impl Outbound for GuestHttp {
    fn send(&self, request: OutboundRequest) -> OutboundFuture {
        let way = GuestHttp {
            worker: Arc::clone(&self.worker),
            snapshot: Arc::clone(&self.snapshot),
            client: self.client,
        };
        Box::pin(async move { way.exchange(request).await })
    }
}

impl fmt::Debug for GuestHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestHttp").finish_non_exhaustive()
    }
}

impl GuestHttp {
    async fn exchange(self, asked: OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let mut upstreams = self.snapshot.upstreams.iter();
        let entry = upstreams
            .find(|entry| *entry.upstream.name() == asked.upstream)
            .ok_or(OutboundError::NotAllowed)?;
        let unreachable = |why: &dyn fmt::Display| OutboundError::Unreachable(why.to_string());
        let deadline = Instant::now() + asked.timeout;
        let mut tried = Vec::new();
        let mut wanted = Wanted::Any;
        loop {
            let lease = entry.upstream.pick(self.client, &tried);
            let mut lease = lease.map_err(|error| unreachable(&error))?;
            let metrics = &entry.metrics[lease.index()];
            let _counted = metrics.lease();
            let now = Instant::now();
            // One server that takes no connection leaves time for another.
            let patience = (asked.timeout / MAX_TRIES).min(deadline.duration_since(now));
            let timer = pin!(sleep_until(now + patience));
            let server = Server {
                worker: &self.worker,
                upstream: &entry.upstream,
                endpoint: lease.endpoint(),
                metrics,
            };
            match reach_endpoint(server, wanted, (now, patience), timer).await {
                Ok(reached) => {
                    if reached.is_new() {
                        metrics.connected(now.elapsed());
                    }
                    let account = self.worker.shared.budget.open(Kind::Request);
                    let attempt = async {
                        match reached {
                            Reached::Http1 { connection, kept } => {
                                let connection = (connection, kept);
                                self.attempt(connection, &asked, entry, &lease, &account)
                                    .await
                            }
                            // Boxed: a request over HTTP/1.1 does not hold room for it.
                            Reached::Http2(slot) => {
                                Box::pin(attempt_http2(slot, &asked, &lease, &account)).await
                            }
                        }
                    };
                    match until(deadline, attempt).await {
                        Err(Missed::Again { .. }) if wanted == Wanted::Any => {
                            wanted = Wanted::Fresh;
                        }
                        done => return judged(done, &mut lease, metrics),
                    }
                }
                Err(error @ Unreached::Full) => return Err(unreachable(&error)),
                Err(Unreached::Connect(error)) => {
                    metrics.connect_error(error.kind.label());
                    if error.kind == ConnectErrorKind::Local {
                        // No endpoint's fault, and no other endpoint would do better.
                        return Err(unreachable(&error));
                    }
                    lease.report(Outcome::Failure);
                    metrics.set_up(lease.endpoint().is_up());
                    tried.push(lease.index());
                    if tried.len() == MAX_TRIES as usize || Instant::now() >= deadline {
                        return Err(unreachable(&error));
                    }
                }
            }
        }
    }

    /// One request and its whole answer; a connection that is still good goes back to the pool.
    async fn attempt(
        &self,
        (mut connection, kept): (UpstreamConnection, bool),
        asked: &OutboundRequest,
        entry: &UpstreamEntry,
        lease: &Lease,
        account: &Account,
    ) -> Result<OutboundResponse, Missed> {
        let (head, mut upload) = request_of(asked, lease)?;
        connection.begin(&head, &mut upload);
        let answer = poll_fn(|cx| connection.poll_answer(&mut upload, RESPONSE_HEAD, cx)).await;
        let parts = answer.map_err(|fault| missed(&fault, connection.progress(), kept, asked))?;
        let mut body = connection.into_body(upload);
        let broken = |fault: BodyFault| Missed::Broken(fault.to_string());
        let whole = collect(&mut body, asked.max_body, account, broken).await?;
        if let Some(connection) = body.into_connection() {
            let upstream = &entry.upstream;
            self.worker.pool.put_back(
                lease.endpoint(),
                connection,
                upstream.keep_alive(),
                upstream.keep_alive_connections(),
            );
        }
        Ok(response(parts, whole))
    }
}

/// As [`GuestHttp::attempt`], on a connection that others use too.
async fn attempt_http2(
    mut slot: Slot,
    asked: &OutboundRequest,
    lease: &Lease,
    account: &Account,
) -> Result<OutboundResponse, Missed> {
    let head = http2_request_of(asked, lease)?;
    let reused = slot.is_reused();
    let missed = |fault| missed_http2(&fault, reused, asked);
    let (mut answer, send) = slot.request(head, asked.body.is_empty()).map_err(missed)?;
    let rest = (!asked.body.is_empty()).then(|| Full::new(asked.body.clone()));
    let mut upload = rest.map(|rest| http2::Upload::new(send, rest, asked.timeout));
    let answer = poll_fn(|cx| {
        if let Some(upload) = &mut upload {
            let _ = upload.poll_send(cx);
        }
        Pin::new(&mut answer).poll(cx)
    });
    let (parts, stream) = answer.await.map_err(missed)?;
    let headers = &parts.headers;
    let mut body = match upload.filter(|upload| !upload.is_finished()) {
        Some(upload) => http2::ResponseBody::beside(headers, stream, slot, upload),
        None => http2::ResponseBody::new(headers, stream, slot),
    };
    let broken = |fault| broken_http2(&fault);
    let whole = collect(&mut body, asked.max_body, account, broken).await?;
    Ok(response(parts, whole))
}

/// Takes a body of at most `most` bytes, as far as memory lasts.
async fn collect<B>(
    body: &mut B,
    most: usize,
    account: &Account,
    broken: impl Fn(B::Error) -> Missed,
) -> Result<Bytes, Missed>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = BytesMut::new();
    loop {
        let polled = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => account.poll_shed(cx).map(Err),
        });
        let Ok(polled) = polled.await else {
            return Err(Missed::GivenUp(
                "no memory is left for its answer".to_owned(),
            ));
        };
        let Some(frame) = polled.transpose().map_err(&broken)? else {
            return Ok(whole.freeze());
        };
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > most {
                return Err(Missed::TooLarge);
            }
            whole.extend_from_slice(&data);
            account.hold(data.len());
        }
    }
}

fn response(parts: Parts, body: Bytes) -> OutboundResponse {
    OutboundResponse {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}

/// An attempt, and what it makes known of the endpoint.
fn judged(
    attempt: Result<OutboundResponse, Missed>,
    lease: &mut Lease,
    metrics: &EndpointMetrics,
) -> Result<OutboundResponse, OutboundError> {
    match attempt {
        Ok(_) | Err(Missed::TooLarge) => lease.report(Outcome::Success),
        // It is there, and refuses this one request.
        Err(Missed::GivenUp(_) | Missed::Again { blamed: false }) => {}
        Err(_) => lease.report(Outcome::Failure),
    }
    metrics.set_up(lease.endpoint().is_up());
    attempt.map_err(OutboundError::from)
}

async fn until<T>(
    deadline: Instant,
    attempt: impl Future<Output = Result<T, Missed>>,
) -> Result<T, Missed> {
    let attempt = timeout_at(deadline, attempt).await;
    attempt.unwrap_or(Err(Missed::TimedOut))
}

/// Why an attempt brought no answer.
enum Missed {
    /// The connection was closed before an answer came, and another one may have the request.
    Again {
        blamed: bool,
    },
    TimedOut,
    TooLarge,
    Broken(String),
    /// As broken, but the server is well.
    GivenUp(String),
}

impl From<Missed> for OutboundError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Again { .. } => OutboundError::Broken(CLOSED.to_owned()),
            Missed::TimedOut => OutboundError::Timeout,
            Missed::TooLarge => OutboundError::TooLarge,
            Missed::Broken(why) | Missed::GivenUp(why) => OutboundError::Broken(why),
        }
    }
}

fn missed<E>(fault: &Fault<E>, progress: Progress, kept: bool, asked: &OutboundRequest) -> Missed {
    match fault {
        Fault::Closed | Fault::Io(_) if progress < Progress::Answered => {
            match kept && (progress == Progress::Nothing || is_repeatable(asked)) {
                true => Missed::Again { blamed: true },
                false => Missed::Broken(CLOSED.to_owned()),
            }
        }
        Fault::Closed => Missed::Broken("the answer's head broke off".to_owned()),
        Fault::Io(error) => Missed::Broken(error.to_string()),
        Fault::Head(HeadFault::Malformed(Violation::HeadTooLarge)) => Missed::TooLarge,
        Fault::Head(fault) => Missed::Broken(format!("its head is refused: {fault}")),
        Fault::Upload(_) => Missed::Broken("the request broke off".to_owned()),
    }
}

/// The body is at hand as a whole: what the server has not seen may always be sent again.
fn missed_http2(fault: &http2::Fault, reused: bool, asked: &OutboundRequest) -> Missed {
    match fault {
        http2::Fault::Closed(_) if reused && is_repeatable(asked) => Missed::Again { blamed: true },
        http2::Fault::Closed(_) => Missed::Broken(CLOSED.to_owned()),
        fault if fault.is_unseen() => Missed::Again {
            blamed: fault.blames_server(),
        },
        fault => broken_http2(fault),
    }
}

fn broken_http2(fault: &http2::Fault) -> Missed {
    match fault.blames_server() {
        true => Missed::Broken(fault.to_string()),
        false => Missed::GivenUp(fault.to_string()),
    }
}

fn is_repeatable(asked: &OutboundRequest) -> bool {
    matches!(asked.method, Method::GET | Method::HEAD | Method::OPTIONS) && asked.body.is_empty()
}

/// The head as it goes on the wire, and the body behind it.
fn request_of(
    asked: &OutboundRequest,
    lease: &Lease,
) -> Result<(crate::http1::client::RequestHead, Upload<Full<Bytes>>), Missed> {
    let parts = parts_of(asked, lease)?;
    let (path, query) = target_of(asked);
    let head = forward::request_head(&parts, path, query, framing_of(asked));
    let length = asked.body.len() as u64;
    let upload = match length {
        0 => Upload::none(),
        _ => Upload::of(Full::new(asked.body.clone()), Framing::Length(length)),
    };
    Ok((head.map_err(|error| unsendable(&error))?, upload))
}

fn http2_request_of(asked: &OutboundRequest, lease: &Lease) -> Result<Request<()>, Missed> {
    let parts = parts_of(asked, lease)?;
    let scheme = match lease.endpoint().uses_tls() {
        true => "https",
        false => "http",
    };
    let framing = framing_of(asked);
    forward::http2_request(
        &parts.method,
        parts.headers,
        target_of(asked),
        scheme,
        framing,
    )
    .map_err(|error| unsendable(&error))
}

fn parts_of(asked: &OutboundRequest, lease: &Lease) -> Result<request::Parts, Missed> {
    let mut parts = Request::new(()).into_parts().0;
    parts.method = asked.method.clone();
    parts.headers = asked.headers.clone();
    if !parts.headers.contains_key(HOST) {
        let host = HeaderValue::from_str(lease.endpoint().authority());
        let host = host.map_err(|error| unsendable(&error))?;
        parts.headers.insert(HOST, host);
    }
    Ok(parts)
}

fn framing_of(asked: &OutboundRequest) -> Option<Framing> {
    let usual = matches!(asked.method, Method::POST | Method::PUT | Method::PATCH);
    let length = asked.body.len() as u64;
    (length > 0 || usual).then_some(Framing::Length(length))
}

fn target_of(asked: &OutboundRequest) -> (&str, Option<&str>) {
    match asked.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&asked.path, None),
    }
}

fn unsendable(why: &dyn fmt::Display) -> Missed {
    Missed::Broken(format!("it cannot be sent: {why}"))
}

const CLOSED: &str = "the server closed before it answered";

/// Endpoints that one request may be tried on.
const MAX_TRIES: u32 = 3;
