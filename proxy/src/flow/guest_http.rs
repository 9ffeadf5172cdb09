//! Requests of the plugins' own: to upstreams of the generation that serves the client's request, over
//! the worker's pool.
//!
//! What may be asked, how long and how much, the plugin host has judged. Health, balance and connection
//! limits are the upstream's as for any request. A request that may be repeated and has no body is sent
//! once more where a kept-alive connection was closed under it.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::{fmt, future::poll_fn};

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderValue, Method, request};
use http_body::Body;
use http_body_util::Full;
use sluicegate_plugin_host::{
    Outbound, OutboundError, OutboundFuture, OutboundRequest, OutboundResponse,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::body::UpstreamConnection;
use crate::flow::forwarding::RESPONSE_HEAD;
use crate::forward;
use crate::http1::Framing;
use crate::http1::Violation;
use crate::http1::client::{Fault, HeadFault, Progress, Upload};
use crate::snapshot::{Snapshot, UpstreamEntry};
use crate::telemetry::metrics::EndpointMetrics;
use crate::upstream::{ConnectErrorKind, Lease, Outcome, Wish};
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
        loop {
            let lease = entry.upstream.pick(self.client, &tried);
            let mut lease = lease.map_err(|error| unreachable(&error))?;
            let metrics = &entry.metrics[lease.index()];
            let _counted = metrics.lease();
            let now = Instant::now();
            if let Some(pooled) = self.worker.pool.take(lease.endpoint(), now) {
                let attempt = self.attempt(pooled, &asked, entry, &lease);
                match until(deadline, attempt).await {
                    Err(Missed::Closed { repeatable: true }) => {}
                    done => return judged(done, &mut lease, metrics),
                }
            }
            // One server that takes no connection leaves time for another.
            let patience = asked.timeout / MAX_TRIES;
            let timer = pin!(sleep_until(deadline.min(now + patience)));
            match lease.endpoint().connect(Wish::Http1, timer).await {
                Ok(connected) => {
                    metrics.connected(now.elapsed());
                    let fresh = UpstreamConnection::new(connected.stream);
                    let attempt = self.attempt(fresh, &asked, entry, &lease);
                    return judged(until(deadline, attempt).await, &mut lease, metrics);
                }
                Err(error) => {
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
        mut connection: UpstreamConnection,
        asked: &OutboundRequest,
        entry: &UpstreamEntry,
        lease: &Lease,
    ) -> Result<OutboundResponse, Missed> {
        let (head, mut upload) = request_of(asked, lease)?;
        connection.begin(&head, &mut upload);
        let answer = poll_fn(|cx| connection.poll_answer(&mut upload, RESPONSE_HEAD, cx)).await;
        let parts = answer.map_err(|fault| missed(&fault, connection.progress(), asked))?;
        let mut body = connection.into_body(upload);
        let mut whole = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|fault| Missed::Broken(fault.to_string()))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > asked.max_body {
                    return Err(Missed::TooLarge);
                }
                whole.extend_from_slice(&data);
            }
        }
        if let Some(connection) = body.into_connection() {
            let upstream = &entry.upstream;
            self.worker.pool.put_back(
                lease.endpoint(),
                connection,
                upstream.keep_alive(),
                upstream.keep_alive_connections(),
            );
        }
        Ok(OutboundResponse {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: whole.freeze(),
        })
    }
}

/// An attempt, and what it makes known of the endpoint.
fn judged(
    attempt: Result<OutboundResponse, Missed>,
    lease: &mut Lease,
    metrics: &EndpointMetrics,
) -> Result<OutboundResponse, OutboundError> {
    lease.report(match attempt {
        Ok(_) | Err(Missed::TooLarge) => Outcome::Success,
        Err(_) => Outcome::Failure,
    });
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
    /// The connection was closed before an answer came.
    Closed {
        repeatable: bool,
    },
    TimedOut,
    TooLarge,
    Broken(String),
}

impl From<Missed> for OutboundError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Closed { .. } => {
                OutboundError::Broken("the server closed before it answered".to_owned())
            }
            Missed::TimedOut => OutboundError::Timeout,
            Missed::TooLarge => OutboundError::TooLarge,
            Missed::Broken(why) => OutboundError::Broken(why),
        }
    }
}

fn missed<E>(fault: &Fault<E>, progress: Progress, asked: &OutboundRequest) -> Missed {
    match fault {
        Fault::Closed | Fault::Io(_) if progress < Progress::Answered => {
            let safe = matches!(asked.method, Method::GET | Method::HEAD | Method::OPTIONS);
            Missed::Closed {
                repeatable: progress == Progress::Nothing || safe && asked.body.is_empty(),
            }
        }
        Fault::Closed => Missed::Broken("the answer's head broke off".to_owned()),
        Fault::Io(error) => Missed::Broken(error.to_string()),
        Fault::Head(HeadFault::Malformed(Violation::HeadTooLarge)) => Missed::TooLarge,
        Fault::Head(fault) => Missed::Broken(format!("its head is refused: {fault}")),
        Fault::Upload(_) => Missed::Broken("the request broke off".to_owned()),
    }
}

/// The head as it goes on the wire, and the body behind it.
fn request_of(
    asked: &OutboundRequest,
    lease: &Lease,
) -> Result<(crate::http1::client::RequestHead, Upload<Full<Bytes>>), Missed> {
    let broken = |why: &dyn fmt::Display| Missed::Broken(format!("it cannot be sent: {why}"));
    let mut parts = request::Request::new(()).into_parts().0;
    parts.method = asked.method.clone();
    parts.headers = asked.headers.clone();
    if !parts.headers.contains_key(HOST) {
        let host = HeaderValue::from_str(lease.endpoint().authority());
        parts
            .headers
            .insert(HOST, host.map_err(|error| broken(&error))?);
    }
    let usual = matches!(asked.method, Method::POST | Method::PUT | Method::PATCH);
    let length = asked.body.len() as u64;
    let framing = (length > 0 || usual).then_some(Framing::Length(length));
    let (path, query) = match asked.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (asked.path.as_str(), None),
    };
    let head =
        forward::request_head(&parts, path, query, framing).map_err(|error| broken(&error))?;
    let upload = match length {
        0 => Upload::none(),
        _ => Upload::of(Full::new(asked.body.clone()), Framing::Length(length)),
    };
    Ok((head, upload))
}

/// Endpoints that one request may be tried on.
const MAX_TRIES: u32 = 3;
