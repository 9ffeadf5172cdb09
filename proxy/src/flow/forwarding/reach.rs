//! From a choice of endpoints to a connection to one of them.
//!
//! Another endpoint is tried only while nothing was sent: after a failed connect. What a connection
//! speaks is its endpoint's configuration, or for `auto` what ALPN chose: then a connection of HTTP/1.1 is
//! used as it is, and its endpoint remembered.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use tokio::time::{Instant, Sleep};

use super::Outbound;
use crate::body::UpstreamConnection;
use crate::config::model::Protocols;
use crate::deadline::until;
use crate::error::{Failure, Side};
use crate::flow::exchange::Exchange;
use crate::http2::client::{self as http2, Slot};
use crate::snapshot::UpstreamEntry;
use crate::stream::Stream;
use crate::telemetry::metrics::{EndpointMetrics, OpenGuard};
use crate::upstream::{
    Claim, ConnectError, ConnectErrorKind, Connected, Endpoint, Lease, Opening, Outcome, PickError,
    Place, Speaks, Upstream, Wish,
};
use crate::worker::Worker;

/// A lease whose use and outcome the metrics show.
pub(in crate::flow) struct Leased {
    lease: Lease,
    metrics: EndpointMetrics,
    counted: OpenGuard,
}

/// The use of an endpoint by something that may last for days: no more of a lease than must be kept.
pub(in crate::flow) struct Used {
    _claim: Claim,
    _counted: OpenGuard,
}

/// What kind of connection a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::flow) enum Wanted {
    /// What the endpoint speaks; a kept one is fine.
    Any,
    /// What the endpoint speaks, but no HTTP/1.1 connection that served others.
    Fresh,
    /// As [`Wanted::Fresh`], for a tunnel. It waits for no room on shared connections where an HTTP/1.1
    /// connection would do as well: `or_http1`, and a server that speaks both.
    Tunnel { or_http1: bool },
    /// HTTP/1.1, whatever else the endpoint speaks, on a connection that served nobody.
    FreshHttp1,
}

/// A connection on which a request may be sent.
pub(in crate::flow) enum Reached {
    Http1 {
        connection: UpstreamConnection,
        /// It served others, and may have been closed since.
        kept: bool,
    },
    Http2(Slot),
}

/// One endpoint, and what there is to come by a connection to it.
#[derive(Clone, Copy)]
pub(in crate::flow) struct Server<'a> {
    pub(in crate::flow) worker: &'a Worker,
    pub(in crate::flow) upstream: &'a Upstream,
    pub(in crate::flow) endpoint: &'a Arc<Endpoint>,
    pub(in crate::flow) metrics: &'a EndpointMetrics,
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::flow) enum Unreached {
    #[error("{0}")]
    Connect(ConnectError),
    /// All the HTTP/2 connections that there may be stayed full.
    #[error("all its connections are full")]
    Full,
}

/// Leases an endpoint, leaving out the tried ones.
pub(in crate::flow) fn lease(
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
        counted: metrics.lease(),
        lease,
        metrics,
    })
}

/// Comes by a connection to the leased endpoint, or to others while connecting fails; tells also the
/// time.
pub(in crate::flow) async fn reach(
    outbound: &Outbound<'_>,
    exchange: &mut Exchange,
    first: Leased,
    wanted: Wanted,
    mut timer: Pin<&mut Sleep>,
) -> Result<(Leased, Reached, Instant), Failure> {
    let Outbound {
        connection,
        route,
        upstream,
        ..
    } = outbound;
    let mut leased = first;
    let mut tried = Vec::new();
    loop {
        let started = Instant::now();
        let endpoint = leased.lease.endpoint();
        exchange.sent_to(upstream.upstream.name(), endpoint, started);
        let server = Server {
            worker: &connection.worker,
            upstream: &upstream.upstream,
            endpoint,
            metrics: &leased.metrics,
        };
        // A fallback on a server that is not said to speak HTTP/1.1.
        let guessed = wanted == Wanted::FreshHttp1 && endpoint.protocols() == Protocols::Http2;
        let patience = (started, route.timeouts.connect);
        match reach_endpoint(server, wanted, patience, timer.as_mut()).await {
            Ok(reached) => {
                let now = match reached {
                    // Taken from the shelf, without a wait.
                    Reached::Http1 { kept: true, .. }
                        if endpoint.protocols() == Protocols::Http1 =>
                    {
                        started
                    }
                    _ => Instant::now(),
                };
                if reached.is_new() {
                    leased.metrics.connected(now - started);
                }
                if let Reached::Http2(_) = reached {
                    exchange.upstream_speaks(Speaks::Http2);
                }
                return Ok((leased, reached, now));
            }
            Err(full @ Unreached::Full) => {
                return Err(Failure::unavailable("upstream_busy").because(full));
            }
            Err(Unreached::Connect(error)) => {
                leased.metrics.connect_error(error.kind.label());
                if error.kind == ConnectErrorKind::Local {
                    // No endpoint's fault, and no other endpoint would do better.
                    return Err(connect_failure(&error));
                }
                if !guessed {
                    leased.report(Outcome::Failure);
                }
                tried.push(leased.lease.index());
                if tried.len() == MAX_TRIES {
                    return Err(connect_failure(&error));
                }
                leased = lease(upstream, exchange, &tried).map_err(|_| connect_failure(&error))?;
            }
        }
    }
}

/// Comes by a connection to one endpoint, within `patience` from `now` on; moves `timer` if that takes a
/// wait.
pub(in crate::flow) async fn reach_endpoint(
    server: Server<'_>,
    wanted: Wanted,
    (now, patience): (Instant, Duration),
    mut timer: Pin<&mut Sleep>,
) -> Result<Reached, Unreached> {
    let Server {
        worker, endpoint, ..
    } = server;
    if wanted != Wanted::FreshHttp1 && endpoint.protocols() != Protocols::Http1 {
        timer.as_mut().reset(now + patience);
        // Boxed: a request to an endpoint of HTTP/1.1 does not hold room for it.
        return Box::pin(multiplexed(server, wanted, timer)).await;
    }
    if wanted == Wanted::Any
        && let Some(kept) = Reached::kept_http1(worker, endpoint, now)
    {
        return Ok(kept);
    }
    timer.as_mut().reset(now + patience);
    let connected = endpoint.connect(Wish::Http1, timer).await;
    connected
        .map(|connected| Reached::fresh_http1(connected.stream))
        .map_err(Unreached::Connect)
}

/// Comes by a connection to an endpoint that may speak HTTP/2, before `timer` fires.
///
/// One request at a time opens a connection, the others wait for it; so they do while all that there
/// may be are full.
async fn multiplexed(
    server: Server<'_>,
    wanted: Wanted,
    mut timer: Pin<&mut Sleep>,
) -> Result<Reached, Unreached> {
    let Server {
        worker,
        upstream,
        endpoint,
        ..
    } = server;
    let deadline = timer.deadline();
    let late = || Unreached::Connect(late(endpoint));
    let tunnel = matches!(wanted, Wanted::Tunnel { .. });
    let may_change =
        wanted == Wanted::Tunnel { or_http1: true } && endpoint.protocols() == Protocols::Auto;
    let limits = upstream.http2();
    loop {
        let found = worker
            .multiplex
            .find(endpoint, tunnel, limits, Instant::now());
        match found {
            Place::Slot(slot) => {
                let proven = until(deadline, timer.as_mut(), pin!(slot.prove())).await;
                match proven {
                    Some(true) => return Ok(Reached::Http2(slot)),
                    // It is not found again.
                    Some(false) => {}
                    None => return Err(late()),
                }
            }
            Place::Opening(changed) => {
                let waited = until(deadline, timer.as_mut(), pin!(changed)).await;
                waited.ok_or_else(late)?;
            }
            Place::Full(_) if may_change => {
                let connected = endpoint.connect(Wish::Http1, timer).await;
                return connected
                    .map(|connected| Reached::fresh_http1(connected.stream))
                    .map_err(Unreached::Connect);
            }
            Place::Full(changed) => {
                let waited = until(deadline, timer.as_mut(), pin!(changed)).await;
                waited.ok_or(Unreached::Full)?;
            }
            Place::Open(opening) => {
                if opening.expects_http1()
                    && wanted == Wanted::Any
                    && let Some(kept) = Reached::kept_http1(worker, endpoint, Instant::now())
                {
                    return Ok(kept);
                }
                let opened = open(opening, server, timer).await;
                return opened.map_err(Unreached::Connect);
            }
        }
    }
}

/// Opens a connection, and shares it if it speaks HTTP/2.
async fn open(
    opening: Opening<'_>,
    server: Server<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Result<Reached, ConnectError> {
    let Server {
        upstream, endpoint, ..
    } = server;
    let deadline = timer.deadline();
    let wish = match endpoint.protocols() {
        Protocols::Auto => Wish::Either,
        Protocols::Http1 | Protocols::Http2 => Wish::Http2,
    };
    let Connected { stream, speaks } = endpoint.connect(wish, timer.as_mut()).await?;
    if speaks == Speaks::Http1 {
        opening.is_http1();
        return Ok(Reached::fresh_http1(stream));
    }
    let limits = upstream.http2();
    let connecting = http2::connect(stream, limits.streams, opening.changed());
    let (client, driver) = match until(deadline, timer, pin!(connecting)).await {
        Some(connected) => {
            connected.map_err(|fault| connect_error(endpoint, io::Error::other(fault)))?
        }
        None => return Err(late(endpoint)),
    };
    let counted = server.metrics.http2_connection();
    tokio::spawn(driver.map(move |()| drop(counted)));
    let slot = opening.add(client, limits, upstream.keep_alive());
    slot.map(Reached::Http2)
        .ok_or_else(|| connect_error(endpoint, io::Error::other("it has left again")))
}

impl Reached {
    fn kept_http1(worker: &Worker, endpoint: &Arc<Endpoint>, now: Instant) -> Option<Reached> {
        let connection = worker.pool.take(endpoint, now)?;
        Some(Reached::Http1 {
            connection,
            kept: true,
        })
    }

    fn fresh_http1(stream: Stream) -> Reached {
        Reached::Http1 {
            connection: UpstreamConnection::new(stream),
            kept: false,
        }
    }

    /// The connection was opened for this request.
    pub(in crate::flow) fn is_new(&self) -> bool {
        match self {
            Reached::Http1 { kept, .. } => !kept,
            Reached::Http2(slot) => !slot.is_reused(),
        }
    }
}

impl Leased {
    /// Tells the endpoint's health, and publishes what came of it.
    pub(in crate::flow) fn report(&mut self, outcome: Outcome) {
        self.lease.report(outcome);
        self.metrics.set_up(self.lease.endpoint().is_up());
    }

    pub(in crate::flow) fn endpoint(&self) -> &Arc<Endpoint> {
        self.lease.endpoint()
    }

    /// Nothing more will be reported.
    pub(in crate::flow) fn into_use(self) -> Used {
        Used {
            _claim: self.lease.into_claim(),
            _counted: self.counted,
        }
    }
}

/// Of a connection that the server took but did not open HTTP/2 on.
fn connect_error(endpoint: &Endpoint, source: io::Error) -> ConnectError {
    let kind = match source.kind() {
        io::ErrorKind::TimedOut => ConnectErrorKind::Timeout,
        _ => ConnectErrorKind::Other,
    };
    ConnectError {
        kind,
        endpoint: endpoint.name().to_owned(),
        source,
    }
}

fn late(endpoint: &Endpoint) -> ConnectError {
    connect_error(endpoint, io::ErrorKind::TimedOut.into())
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
