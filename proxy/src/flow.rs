//! THE FLOW: one connection from accept to close, one request from head to answer.
//!
//! [`serve_connection`] → TLS handshake → a head is parsed → [`answer`]: admit, route, check the
//! opening handshake, run the filters, take the route's action, run the response filters → the
//! answer goes out. A verified upgrade leaves HTTP together with every byte read so far and becomes
//! a [`Tunnel`](crate::tunnel::Tunnel).
//!
//! Invariants: nothing the client sends after its head reaches the upstream before the 101; an
//! upstream connection on which an upgrade was asked for never goes back to the pool; a request
//! keeps the snapshot it began with, and so does the tunnel it becomes.

mod chain;
mod connection;
mod exchange;
mod forwarding;
mod guest_http;
mod http1;
mod http2;
mod interim;
mod link;
mod message_chain;
mod record;
mod watch;
mod websocket;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::Either;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::time::timeout;

use crate::admission::{Admission, TlsHandshakes};
use crate::body::{Incoming, ResponseBody};
use crate::config::model::Action;
use crate::drain::{Member, Phase};
use crate::error::{Failure, plain_response};
use crate::facts::{ConnectionFacts, Peer, TlsFacts};
use crate::flow::chain::Chain;
use crate::flow::connection::Connection;
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::Outbound;
use crate::flow::interim::{Herald, Interims};
use crate::flow::websocket::Pending;
use crate::forward::{self, TemplateValues};
use crate::handshake::compression::Bargain;
use crate::handshake::{self, Kind};
use crate::pace::Pace;
use crate::request;
use crate::route::Match;
use crate::snapshot::{Route, Snapshot};
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::{ServerTls, ServerTlsStream};
use crate::worker::{Listener, Worker};

/// Serves one accepted connection to its end, and the tunnel that it may become.
///
/// A task is as large as its largest stage for as long as it lives, and a tunnel may live for days:
/// all that comes before it is boxed, and gone when it begins. No `async fn`, which would keep room
/// for its arguments and for the tunnel twice.
pub fn serve_connection(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    socket: Socket,
    peer: Peer,
    admission: Admission,
    member: Member,
) -> impl Future<Output = ()> + Send {
    let http = serve_http(worker, listener, socket, peer, admission, member);
    Serving::Http {
        http: Box::pin(http),
    }
}

pin_project! {
    /// HTTP first, and then the tunnel that it may lead to.
    #[project = Stage]
    enum Serving<H, T> {
        Http { http: H },
        Tunnel { #[pin] tunnel: T },
    }
}

impl<H, T> Future for Serving<H, T>
where
    H: Future<Output = Option<T>> + Unpin,
    T: Future<Output = ()>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let tunnel = match self.as_mut().project() {
                Stage::Tunnel { tunnel } => return tunnel.poll(cx),
                Stage::Http { http } => ready!(Pin::new(http).poll(cx)),
            };
            match tunnel {
                None => return Poll::Ready(()),
                Some(tunnel) => self.set(Serving::Tunnel { tunnel }),
            }
        }
    }
}

/// Everything up to the end of HTTP/1.1; gives what it leads to: the tunnel of a verified upgrade, or HTTP/2.
async fn serve_http(
    worker: Arc<Worker>,
    listener: Arc<Listener>,
    socket: Socket,
    peer: Peer,
    admission: Admission,
    member: Member,
) -> Option<impl Future<Output = ()>> {
    let policy = listener.policy();
    let snapshot = worker.snapshot();
    let (stream, tls) = match &policy.tls {
        None => (Stream::Plain(socket), None),
        Some(tls) => {
            // Boxed, as all that only some connections need.
            let accepting = Box::pin(accept_tls(&worker, tls, socket, &member));
            match accepting.await? {
                Ok((stream, facts)) => {
                    listener.metrics.tls_handshake("ok");
                    (Stream::ServerTls(Box::new(stream)), Some(facts))
                }
                Err(fault) => {
                    listener.metrics.tls_handshake(fault.label());
                    tracing::debug!(%peer, listener = %policy.bind, error = %fault, "TLS handshake failed");
                    return None;
                }
            }
        }
    };
    let http2 = tls.as_ref().is_some_and(|tls| tls.http2);
    let facts = ConnectionFacts {
        peer,
        listener: Arc::clone(&policy.bind),
        tls: tls.map(Box::new),
    };
    let connection = Arc::new(Connection::new(worker, policy, facts, admission));
    let (stream, early, member) = match http2 {
        true => (stream, Bytes::new(), member),
        false => {
            let left = http1::serve(stream, Arc::clone(&connection), &snapshot, member).await?;
            match left.pending {
                Some(pending) => {
                    let tunnel = pending.run(left.stream, left.early, left.member);
                    return Some(Either::Left(tunnel));
                }
                None => (left.stream, left.early, left.member),
            }
        }
    };
    let http2 = http2::serve(stream, early, connection, &snapshot, member);
    Some(Either::Right(Box::pin(http2)))
}

/// Why there is no TLS with a client.
#[derive(Debug, thiserror::Error)]
enum TlsFault {
    #[error("{0}")]
    Failed(io::Error),
    #[error("timed out")]
    TimedOut,
    #[error("it took long, and others waited")]
    GaveWay,
    #[error("there was no room for another one")]
    NoRoom,
}

impl TlsFault {
    fn label(&self) -> &'static str {
        match self {
            TlsFault::Failed(_) => "failed",
            TlsFault::TimedOut => "timed_out",
            TlsFault::GaveWay => "gave_way",
            TlsFault::NoRoom => "no_room",
        }
    }
}

/// The TLS handshake; `None` if a drain begins: nobody would be served behind it.
async fn accept_tls(
    worker: &Worker,
    tls: &ServerTls,
    socket: Socket,
    member: &Member,
) -> Option<Result<(ServerTlsStream, TlsFacts), TlsFault>> {
    tokio::select! {
        accepted = shake_hands(worker, tls, socket) => Some(accepted),
        () = member.reached(Phase::Draining) => None,
    }
}

/// The TLS handshake under its deadline, which begins when there is room for it; waits for that as long.
async fn shake_hands(
    worker: &Worker,
    tls: &ServerTls,
    socket: Socket,
) -> Result<(ServerTlsStream, TlsFacts), TlsFault> {
    let handshakes: &Arc<TlsHandshakes> = &worker.shared.admission.tls;
    let deadline = worker.snapshot().timeouts.tls_handshake;
    let limit = || worker.snapshot().limits.tls_handshakes;
    let place = timeout(deadline, handshakes.enter(limit)).await;
    let place = place.map_err(|_| TlsFault::NoRoom)?;
    let accepting = pin!(tls.accept(socket));
    tokio::select! {
        biased;
        accepted = timeout(deadline, worker.turns.run(accepting)) => match accepted {
            Ok(accepted) => accepted.map_err(TlsFault::Failed),
            Err(_) => Err(TlsFault::TimedOut),
        },
        () = place.outstayed() => Err(TlsFault::GaveWay),
    }
}

/// What became of a request.
struct Answered {
    response: Response<ResponseBody>,
    /// At which the client has to take it.
    pace: Pace,
    /// What a 101 leads to once it was sent.
    upgrade: Option<Box<Pending>>,
}

/// What a request's client still sends, and what it is told before its answer.
struct Downstream<'a> {
    body: Incoming,
    interims: Interims<'a>,
}

/// One request, one answer, one line in the access log.
async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
    herald: Herald<'_>,
) -> Answered {
    let (mut parts, body) = request.into_parts();
    let to_head = parts.method == Method::HEAD;
    let old = parts.version < Version::HTTP_2;
    // Bytes that a client sends behind such a head are for the tunnel: they are no next request.
    let mut must_close = handshake::asks_for_websocket(&parts.headers);
    let snapshot = connection.worker.snapshot();
    let mut exchange = Exchange::begin(&connection, &snapshot, &parts);
    let is_last = old && connection.is_last_request(&snapshot.limits);
    let answering = answer(
        &connection,
        &snapshot,
        &mut exchange,
        &mut parts,
        body,
        herald,
    );
    let answered = answering.await;
    let pace = exchange.response_pace();
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
    let verified = upgrade.is_some();
    if let (Some(upgrade), StatusCode::SWITCHING_PROTOCOLS) = (upgrade, response.status()) {
        return Answered {
            response,
            pace,
            upgrade: Some(Box::new(Pending { upgrade, exchange })),
        };
    }
    if response.status().is_success() && handshake::is_extended(&parts) {
        // On that stream any 2xx would begin a tunnel (RFC 9110 §9.3.6).
        let failure = exchange.no_websocket(verified);
        exchange.fail(&failure);
        response = failure.response(exchange.request_id());
    }
    if is_last {
        connection.retire("requests");
    }
    if (must_close || is_last) && old {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if to_head && let Some(length) = response.body_mut().take_own() {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let bodiless = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if to_head || bodiless {
        response.body_mut().stays_here();
    }
    Answered {
        response: exchange.end_with(response),
        pace,
        upgrade: None,
    }
}

/// The stages of a request, in order. An error before the route's stages is answered as it is.
async fn answer(
    connection: &Arc<Connection>,
    snapshot: &Arc<Snapshot>,
    exchange: &mut Exchange,
    parts: &mut Parts,
    body: Incoming,
    herald: Herald<'_>,
) -> Result<Response<ResponseBody>, Failure> {
    let facts = request::admit(
        parts,
        &connection.facts,
        &snapshot.trusted_proxies,
        &snapshot.limits,
    )?;
    let facts = exchange.admitted(facts);
    if connection.worker.shared.budget.is_short() {
        return Err(Failure::overloaded());
    }
    handshake::as_upgrade(parts)?;
    if let Some(port) = connection.policy.redirect_to_https {
        return redirect_to_https(
            &facts.authority,
            facts.place(),
            facts.query.as_deref(),
            port,
        );
    }
    connection.check_authority(&facts.host)?;
    let route = find_route(snapshot, parts, &facts.host, facts.place())?;
    exchange.routed(&route);
    let kind = handshake::classify(parts, body.is_end_stream())?;
    if let Kind::WebSocket(_) = kind {
        exchange.begin_handshake()?;
        if !handshake::origin_allowed(&parts.headers, &route.origins) {
            return Err(Failure::origin_refused());
        }
    }
    if !route.is_straight() {
        let facts = exchange.admitted_facts()?;
        forward::prepare_request(&mut parts.headers, facts, &connection.facts);
    }
    let mut chain = Chain::new(&route, connection, exchange, &kind)?;
    let filtered = match chain.is_empty() {
        true => Ok(None),
        false => Box::pin(chain.filter_request(parts, exchange)).await,
    };
    let answered = match filtered {
        Ok(Some(response)) => Ok(response),
        Ok(None) => {
            let interims = Interims::new(herald, exchange.version(), &route, chain.sees_answer());
            let downstream = Downstream { body, interims };
            act(
                connection, snapshot, &route, exchange, parts, downstream, kind,
            )
            .await
        }
        Err(failure) => Err(failure),
    };
    let mut response = answered.unwrap_or_else(|failure| {
        exchange.fail(&failure);
        failure.response(exchange.request_id())
    });
    if !chain.is_empty()
        && let Err(failure) = Box::pin(chain.filter_response(&mut response, exchange)).await
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
    if route.converses && exchange.is_upgraded(&response) {
        match Box::pin(chain.converse(&response, exchange)).await {
            Ok(judge) => exchange.judge_messages(judge),
            Err(failure) => {
                exchange.fail(&failure);
                response = failure.response(exchange.request_id());
            }
        }
    }
    Ok(response)
}

/// What the route does with a request that its filters let through.
async fn act(
    connection: &Arc<Connection>,
    snapshot: &Arc<Snapshot>,
    route: &Arc<Route>,
    exchange: &mut Exchange,
    parts: &mut Parts,
    downstream: Downstream<'_>,
    mut kind: Kind,
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
            let upstream = exchange
                .chosen_upstream(snapshot)
                .unwrap_or(&snapshot.upstreams[*upstream]);
            let bargain = match &mut kind {
                Kind::WebSocket(offer) => websocket::bargain(route, offer, &mut parts.headers),
                Kind::Plain => Bargain::Shared,
            };
            let outbound = Outbound {
                connection,
                snapshot,
                route,
                upstream,
                parts,
                path: &path,
                websocket,
            };
            let Downstream { body, mut interims } = downstream;
            match kind {
                Kind::Plain => forwarding::send(outbound, exchange, body, &mut interims).await,
                Kind::WebSocket(offer) => {
                    websocket::open(outbound, exchange, offer, bargain, &mut interims).await
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, C, D, E, F, T>(_: impl Fn(A, B, C, D, E, F) -> T) -> usize {
        size_of::<T>()
    }

    /// A task is 104 bytes more than its future, and takes memory in steps of 128.
    #[test]
    fn an_idle_tunnel_is_small() {
        let size = size_of_output(serve_connection);
        assert!(size + 104 <= 6 * 128, "{size} bytes");
    }
}
