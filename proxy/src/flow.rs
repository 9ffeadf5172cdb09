//! THE FLOW: one connection from accept to close, one request from head to answer.
//!
//! [`serve_connection`] → TLS handshake → hyper parses a head → [`answer`]: admit, route, check the
//! opening handshake, run the filters, take the route's action, run the response filters → the
//! answer goes out. A verified upgrade leaves hyper's hands together with every byte read so far
//! and becomes a [`Tunnel`](crate::tunnel::Tunnel) in a task of its own.
//!
//! Invariants: nothing the client sends after its head reaches the upstream before the 101; an
//! upstream connection on which an upgrade was asked for never goes back to the pool; a request
//! keeps the snapshot it began with, and so does the tunnel it becomes.

mod chain;
mod connection;
mod driver;
mod exchange;
mod forwarding;
mod record;
mod websocket;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::admission::Admission;
use crate::body::ResponseBody;
use crate::config::model::Action;
use crate::drain::{Member, Phase};
use crate::error::{Failure, plain_response};
use crate::facts::{ConnectionFacts, Peer, TlsFacts};
use crate::flow::chain::Chain;
use crate::flow::connection::Connection;
use crate::flow::driver::{Ended, drive_http1, drive_http2, hang_up};
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::Outbound;
use crate::flow::websocket::Pending;
use crate::forward::{self, TemplateValues};
use crate::handshake::{self, Kind};
use crate::http1_guard::{Guard, GuardLimits};
use crate::request;
use crate::route::Match;
use crate::snapshot::{Route, Snapshot};
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::{ServerTls, ServerTlsStream};
use crate::worker::{Listener, Worker};

/// Serves one accepted connection to its end. The tunnel that it may become goes on without it.
pub async fn serve_connection(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    socket: Socket,
    peer: Peer,
    admission: Admission,
    member: Member,
) {
    let policy = listener.policy();
    let snapshot = worker.snapshot();
    let (stream, tls) = match &policy.tls {
        None => (Stream::Plain(socket), None),
        Some(tls) => {
            let deadline = snapshot.timeouts.tls_handshake;
            // Boxed, as all that only some connections need: a task is as large as its largest
            // stage, for as long as it lives.
            let accepting = Box::pin(accept_tls(tls, socket, deadline, &member));
            let Some(accepted) = accepting.await else {
                return;
            };
            listener.metrics.tls_handshake(accepted.is_ok());
            match accepted {
                Ok((stream, facts)) => (Stream::ServerTls(Box::new(stream)), Some(facts)),
                Err(error) => {
                    tracing::debug!(%peer, listener = %policy.bind, error, "TLS handshake failed");
                    return;
                }
            }
        }
    };
    let http2 = tls.as_ref().is_some_and(|tls| tls.http2);
    let facts = ConnectionFacts {
        peer,
        listener: Arc::clone(&policy.bind),
        tls,
    };
    let connection = Arc::new(Connection::new(worker, policy, facts, admission));
    if http2 {
        Box::pin(serve_http2(stream, connection, &snapshot, member)).await;
    } else {
        serve_http1(stream, connection, snapshot, member).await;
    }
}

/// The TLS handshake under its deadline; `None` if a drain begins: nobody would be served behind it.
async fn accept_tls(
    tls: &ServerTls,
    socket: Socket,
    deadline: Duration,
    member: &Member,
) -> Option<Result<(ServerTlsStream, TlsFacts), String>> {
    tokio::select! {
        accepted = timeout(deadline, tls.accept(socket)) => Some(match accepted {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("timed out".to_owned()),
        }),
        () = member.reached(Phase::Draining) => None,
    }
}

async fn serve_http1(
    stream: Stream,
    connection: Arc<Connection>,
    snapshot: Arc<Snapshot>,
    member: Member,
) {
    let limits = &snapshot.limits;
    let guard = Guard::new(
        stream,
        GuardLimits {
            head_size: limits.head_size,
            head_fields: limits.head_fields,
        },
    );
    let guarded = guard.handle();
    let service = {
        let connection = Arc::clone(&connection);
        // Boxed: an idle connection then does not hold room for a request.
        service_fn(move |request| Box::pin(handle(Arc::clone(&connection), request)))
    };
    let mut builder = http1::Builder::new();
    if limits.head_fields != HYPER_MAX_HEADERS {
        // Its own default costs hyper less than the same number set.
        builder.max_headers(limits.head_fields);
    }
    let mut server = builder
        .timer(TokioTimer::new())
        // Deadlines are the driver's: hyper's own cannot tell an idle connection from a slow head.
        .header_read_timeout(None)
        // A client that ends its stream after the request is still answered.
        .half_close(true)
        .max_header_size(limits.head_size)
        .max_buf_size(limits.head_size.max(MIN_HYPER_BUFFER))
        .serve_connection(TokioIo::new(guard), service);
    let ended = drive_http1(&mut server, &connection, &guarded, &snapshot, &member).await;
    let parts = server.into_parts();
    let stream = parts.io.into_inner().into_inner();
    // From here on this task is nobody's: a tunnel runs in a fresh one, which is smaller.
    match (ended, connection.take_upgrade()) {
        (Ended::Done, Some(upgrade)) => {
            tokio::spawn(upgrade.run(stream, parts.read_buf, member));
        }
        (ended, abandoned) => {
            drop(abandoned);
            if let Some(violation) = guarded.refused_head() {
                connection.note_refused_head(violation.label());
            }
            // After a client that has ended there is nobody to say goodbye to.
            if !guarded.has_ended() || ended == Ended::SlowHead {
                Box::pin(hang_up(stream, ended)).await;
            }
        }
    }
}

async fn serve_http2(
    stream: Stream,
    connection: Arc<Connection>,
    snapshot: &Snapshot,
    member: Member,
) {
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| handle(Arc::clone(&connection), request))
    };
    let limits = &snapshot.limits;
    let server = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    drive_http2(server, &connection, snapshot, &member).await;
}

/// One request, one answer, one line in the access log.
async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    // The guard stops looking after a head that asks for a WebSocket, see there.
    let mut must_close = handshake::asks_for_websocket(&parts.headers);
    if must_close {
        connection.note_handshake();
    }
    let snapshot = connection.worker.snapshot();
    let mut exchange = Exchange::begin(&connection, &snapshot, &parts);
    let answered = answer(&connection, &snapshot, &mut exchange, &mut parts, body).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(failure) => {
            if exchange.facts().is_none() {
                must_close = true;
                exchange.refuse(&parts);
            }
            exchange.fail(&failure);
            failure.response(exchange.request_id())
        }
    };
    // A response filter may have put its own answer in the place of the 101.
    let upgrade = exchange.take_upgrade();
    if let (Some(upgrade), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, response.status()) {
        connection.put_upgrade(Pending { upgrade, exchange });
        return Ok(response);
    }
    if must_close && version < Version::HTTP_2 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(exchange.end_with(response))
}

/// The stages of a request, in order. An error before the route's stages is answered as it is.
async fn answer(
    connection: &Arc<Connection>,
    snapshot: &Arc<Snapshot>,
    exchange: &mut Exchange,
    parts: &mut Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, Failure> {
    let facts = request::admit(
        parts,
        &connection.facts,
        &snapshot.trusted_proxies,
        &snapshot.limits,
    )?;
    let facts = exchange.admitted(facts);
    if let Some(port) = connection.policy.redirect_to_https {
        return redirect_to_https(&facts.authority, &facts.path, facts.query.as_deref(), port);
    }
    connection.check_authority(&facts.host)?;
    let route = find_route(snapshot, parts, &facts.host, &facts.path)?;
    exchange.routed(&route);
    let kind = handshake::classify(parts, body.is_end_stream())?;
    if let Kind::WebSocket(_) = kind {
        exchange.is_handshake();
        if !handshake::origin_allowed(&parts.headers, &route.origins) {
            return Err(Failure::origin_refused());
        }
    }
    if !route.is_straight() {
        let facts = exchange.admitted_facts()?;
        forward::prepare_request(&mut parts.headers, facts, &connection.facts);
    }
    let mut chain = Chain::new(&route, connection, exchange)?;
    let filtered = match chain.is_empty() {
        true => Ok(None),
        false => Box::pin(chain.filter_request(parts, exchange)).await,
    };
    let answered = match filtered {
        Ok(Some(response)) => Ok(response),
        Ok(None) => act(connection, snapshot, &route, exchange, parts, body, kind).await,
        Err(failure) => Err(failure),
    };
    let mut response = answered.unwrap_or_else(|failure| {
        exchange.fail(&failure);
        failure.response(exchange.request_id())
    });
    if !chain.is_empty()
        && let Err(failure) = Box::pin(chain.filter_response(&mut response)).await
    {
        exchange.fail(&failure);
        response = failure.response(exchange.request_id());
    }
    let values = TemplateValues {
        facts: exchange.admitted_facts()?,
        conn: &connection.facts,
        route: &route.name,
    };
    forward::apply_edits(&route.response_headers, response.headers_mut(), &values);
    Ok(response)
}

/// What the route does with a request that its filters let through.
async fn act(
    connection: &Arc<Connection>,
    snapshot: &Arc<Snapshot>,
    route: &Arc<Route>,
    exchange: &mut Exchange,
    parts: &mut Parts,
    body: Incoming,
    kind: Kind,
) -> Result<Response<ResponseBody>, Failure> {
    let values = TemplateValues {
        facts: exchange.admitted_facts()?,
        conn: &connection.facts,
        route: &route.name,
    };
    match &route.action {
        Action::Respond {
            status,
            body,
            content_type,
        } => {
            let mut response = Response::new(ResponseBody::own(body.as_bytes().to_vec()));
            *response.status_mut() = *status;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, content_type.clone());
            Ok(response)
        }
        Action::Redirect { to, status } => {
            let location = forward::redirect_location(to, &values)
                .ok_or(Failure::downstream(StatusCode::BAD_REQUEST, "redirect"))?;
            let mut response = plain_response(*status, exchange.request_id());
            response.headers_mut().insert(LOCATION, location);
            Ok(response)
        }
        Action::Forward { upstream, rewrite } => {
            let facts = values.facts;
            let path = match rewrite {
                None => Arc::clone(&facts.path),
                Some(rewrite) => forward::rewrite_path(rewrite, &facts.path)
                    .map_err(|fault| Failure::from(fault).because(fault))?
                    .into(),
            };
            let websocket = matches!(kind, Kind::WebSocket(_));
            if !route.is_straight() {
                forward::upstream_request(&mut parts.headers, facts, websocket)
                    .map_err(|error| Failure::internal("upstream_request").because(error))?;
                forward::apply_edits(&route.request_headers, &mut parts.headers, &values);
            }
            let upstream = &snapshot.upstreams[*upstream];
            let outbound = Outbound {
                connection,
                snapshot,
                route,
                upstream,
                parts,
                path: &path,
                websocket,
            };
            match kind {
                Kind::Plain => forwarding::send(outbound, exchange, body).await,
                Kind::WebSocket(offer) => websocket::open(outbound, exchange, offer).await,
            }
        }
    }
}

fn find_route(
    snapshot: &Snapshot,
    parts: &Parts,
    host: &str,
    path: &str,
) -> Result<Arc<Route>, Failure> {
    match snapshot
        .table
        .find(host, path, &parts.method, &parts.headers)
    {
        Match::Route(index) => Ok(Arc::clone(&snapshot.routes[index])),
        Match::NotFound => Err(Failure::no_route()),
        Match::MethodNotAllowed { allow } => {
            let list: Vec<&str> = allow.iter().map(http::Method::as_str).collect();
            let allow = HeaderValue::from_str(&list.join(", "))
                .unwrap_or_else(|_| HeaderValue::from_static(""));
            Err(Failure::method_not_allowed(allow))
        }
    }
}

/// The same URL on https; `port` is left out where it is https's own.
fn redirect_to_https(
    authority: &str,
    path: &str,
    query: Option<&str>,
    port: u16,
) -> Result<Response<ResponseBody>, Failure> {
    // An authority's last colon is its port's, unless it stands inside an IPv6 address.
    let host = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') => host,
        _ => authority,
    };
    let port = match port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("https://{host}{port}{path}{query}"))
        .map_err(|_| Failure::downstream(StatusCode::BAD_REQUEST, "redirect"))?;
    let mut response = Response::new(ResponseBody::own(""));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// What hyper takes when nobody says otherwise.
const HYPER_MAX_HEADERS: usize = 100;
/// hyper does not take less; the guard enforces smaller limits.
const MIN_HYPER_BUFFER: usize = 8 * 1024;
/// Streams that a client may reset before we have seen them (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Bytes of a response that one stalled stream may hold.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Finds peers that vanished without a word.
const HTTP2_PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);
