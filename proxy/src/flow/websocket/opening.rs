//! The handshake with an endpoint: an upgrade of HTTP/1.1 (RFC 6455 §4), or an extended CONNECT on a
//! connection of HTTP/2 that carries others as well (RFC 8441 §5).
//!
//! Which of the two is the upstream's `websocket`: `auto` takes HTTP/2 where the endpoint speaks it and
//! announces RFC 8441, else an HTTP/1.1 connection of its own. A handshake is sent again only while the
//! server says that it did nothing with it (RFC 9113 §8.7).

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{Method, Response, StatusCode, response};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{RequestBody, ResponseBody, UpstreamConnection};
use crate::config::model::{Protocols, WebSocketOver};
use crate::deadline::until;
use crate::error::Failure;
use crate::flow::exchange::Exchange;
use crate::flow::forwarding::{
    self, Leased, Loan, Outbound, Reached, Used, Wanted, http2_failure, upstream_failure,
};
use crate::flow::interim::Interims;
use crate::forward;
use crate::handshake::{self, Agreed, HandshakeFault, Offer};
use crate::http1::client::Upload;
use crate::http2::Duplex;
use crate::http2::client::{self, Fault, Slot};
use crate::stream::Stream;
use crate::tunnel::Leg;
use crate::upstream::Outcome;

/// A handshake that an endpoint has answered, one way or the other.
pub(super) struct Answered {
    head: response::Parts,
    over: Over,
    leased: Leased,
}

/// What an upstream's leg keeps from others as long as it lives.
pub(super) struct Hold {
    _used: Used,
    /// Boxed: a tunnel to a server of HTTP/1.1 does not hold room for it.
    _slot: Option<Box<Slot>>,
}

/// What a handshake went over.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and neither outlives the handshake"
)]
enum Over {
    Http1 {
        connection: UpstreamConnection,
        upload: Upload<RequestBody>,
    },
    Http2 {
        send: SendStream<Bytes>,
        recv: RecvStream,
        slot: Slot,
    },
}

/// Why there is no answer, and what can be done about it.
struct Missed {
    failure: Failure,
    remedy: Remedy,
    /// It tells against the endpoint's health.
    blames_endpoint: bool,
}

enum Remedy {
    None,
    /// The server did nothing with the request: it may be sent again.
    Again,
    /// The server takes no WebSockets over HTTP/2.
    Http1,
}

/// Shakes hands with an endpoint of the upstream; with others while none has seen the request.
pub(super) async fn shake_hands(
    outbound: &Outbound<'_>,
    exchange: &mut Exchange,
    interims: &mut Interims<'_>,
) -> Result<Answered, Failure> {
    let over = outbound.upstream.upstream.websocket();
    let mut wanted = match over {
        WebSocketOver::Http1 => Wanted::FreshHttp1,
        WebSocketOver::Auto | WebSocketOver::Http2 => Wanted::Tunnel {
            or_http1: over == WebSocketOver::Auto,
        },
    };
    let mut leased = forwarding::lease(outbound.upstream, exchange, &[])?;
    let connect = outbound.route.timeouts.connect;
    let mut timer = pin!(sleep_until(Instant::now() + connect));
    let mut tries = 1;
    let mut fell_back = false;
    loop {
        let reaching = forwarding::reach(outbound, exchange, leased, wanted, timer.as_mut());
        let (lease, reached, now) = match reaching.await {
            Err(failure) if fell_back => return Err(after_http2(failure)),
            reached => reached?,
        };
        leased = lease;
        let shaken = match reached {
            Reached::Http1 { .. } if over == WebSocketOver::Http2 => {
                Err(Missed::without_http2("the server speaks HTTP/1.1"))
            }
            Reached::Http1 { connection, .. } => {
                let wait = (now, timer.as_mut());
                upgrade(outbound, exchange, connection, interims, wait).await
            }
            Reached::Http2(slot) if slot.speaks_websocket() => {
                // Boxed: a handshake over HTTP/1.1 does not hold room for it.
                let wait = (now, timer.as_mut());
                let connecting =
                    connect_extended(outbound, exchange, &leased, slot, interims, wait);
                Box::pin(connecting).await
            }
            Reached::Http2(_) => Err(Missed::without_http2(
                "the server does not announce WebSockets over HTTP/2",
            )),
        };
        let missed = match shaken {
            Ok((head, over)) => {
                exchange.upstream_answered();
                leased.report(Outcome::Success);
                return Ok(Answered { head, over, leased });
            }
            Err(missed) => missed,
        };
        match missed.remedy {
            Remedy::Again if tries < MAX_TRIES => tries += 1,
            Remedy::Http1 if over == WebSocketOver::Auto => {
                wanted = Wanted::FreshHttp1;
                fell_back = true;
            }
            // Nobody has said that the endpoint speaks HTTP/1.1 at all.
            _ if fell_back && leased.endpoint().protocols() == Protocols::Http2 => {
                return Err(after_http2(missed.failure));
            }
            _ => {
                if missed.blames_endpoint {
                    leased.report(Outcome::Failure);
                }
                return Err(missed.failure);
            }
        }
    }
}

impl Answered {
    /// Whether this is how its protocol accepts a handshake; any other answer is an ordinary one.
    pub(super) fn accepts(&self) -> bool {
        match self.over {
            Over::Http1 { .. } => self.head.status == StatusCode::SWITCHING_PROTOCOLS,
            Over::Http2 { .. } => self.head.status.is_success(),
        }
    }

    /// Checks an acceptance against what was offered, and makes its head the 101 that it is to the client.
    pub(super) fn verify(&mut self, offer: &Offer) -> Result<Agreed, HandshakeFault> {
        let head = &mut self.head;
        let agreed = match self.over {
            Over::Http1 { .. } => handshake::verify_upstream(offer, head)?,
            Over::Http2 { .. } => {
                let agreed = handshake::verify_http2(offer, head)?;
                // Over HTTP/2 no key is proven; the client's own leg may ask for it.
                let accept = HeaderValue::try_from(handshake::accept_key(&offer.key));
                let accept = accept.map_err(|_| HandshakeFault::Accept)?;
                head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                agreed
            }
        };
        forward::downstream_response(head, true);
        Ok(agreed)
    }

    pub(super) fn head_mut(&mut self) -> &mut response::Parts {
        &mut self.head
    }

    /// The leg of a verified handshake, with every byte read past the head.
    pub(super) fn into_leg(self) -> (response::Parts, Leg, Hold) {
        let (leg, slot) = match self.over {
            Over::Http1 { connection, .. } => {
                let (stream, early) = connection.into_upgraded();
                (Leg { stream, early }, None)
            }
            Over::Http2 { send, recv, slot } => {
                let stream = Stream::Http2(Box::new(Duplex::client(send, recv)));
                let early = Bytes::new();
                (Leg { stream, early }, Some(Box::new(slot)))
            }
        };
        let hold = Hold {
            _used: self.leased.into_use(),
            _slot: slot,
        };
        (self.head, leg, hold)
    }

    /// The answer of a server that did not accept. A connection of HTTP/1.1 is closed after it.
    pub(super) fn into_response(
        mut self,
        exchange: &mut Exchange,
        idle_timeout: Duration,
    ) -> Response<ResponseBody> {
        forward::downstream_response(&mut self.head, false);
        exchange.lends(Loan::of_closing(self.leased));
        let body = match self.over {
            Over::Http1 { connection, upload } => {
                ResponseBody::upstream(connection.into_body(upload), idle_timeout)
            }
            Over::Http2 {
                send: _,
                recv,
                slot,
            } => {
                let body = client::ResponseBody::new(&self.head.headers, recv, slot);
                ResponseBody::upstream(body, idle_timeout)
            }
        };
        Response::from_parts(self.head, body)
    }
}

/// Asks for an upgrade on an HTTP/1.1 connection that is nobody else's.
async fn upgrade(
    outbound: &Outbound<'_>,
    exchange: &Exchange,
    mut connection: UpstreamConnection,
    interims: &mut Interims<'_>,
    (now, timer): (Instant, Pin<&mut Sleep>),
) -> Result<(response::Parts, Over), Missed> {
    let request = outbound.head(exchange, None)?;
    let mut upload = Upload::<RequestBody>::none();
    connection.begin(&request, &mut upload);
    let answer = pin!(poll_fn(|cx| interims.poll_http1(
        &mut connection,
        &mut upload,
        cx
    )));
    let patience = outbound.route.timeouts.response_head;
    match until(now + patience, timer, answer).await {
        Some(Ok(head)) => Ok((head, Over::Http1 { connection, upload })),
        Some(Err(fault)) => Err(upstream_failure(&fault).into()),
        None => Err(Failure::response_timeout().into()),
    }
}

/// Sends an extended CONNECT on a stream of its own.
async fn connect_extended(
    outbound: &Outbound<'_>,
    exchange: &Exchange,
    leased: &Leased,
    mut slot: Slot,
    interims: &mut Interims<'_>,
    (now, timer): (Instant, Pin<&mut Sleep>),
) -> Result<(response::Parts, Over), Missed> {
    let mut request = outbound.http2_head(exchange, leased.endpoint(), None)?;
    *request.method_mut() = Method::CONNECT;
    let websocket = Protocol::from_static("websocket");
    request.extensions_mut().insert(websocket);
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    let (mut answer, send) = slot.request(request, false)?;
    let answer = pin!(poll_fn(|cx| interims.poll_http2(&mut answer, cx)));
    let patience = outbound.route.timeouts.response_head;
    match until(now + patience, timer, answer).await {
        Some(Ok((head, recv))) => Ok((head, Over::Http2 { send, recv, slot })),
        Some(Err(fault)) => Err(fault.into()),
        None => Err(Failure::response_timeout().into()),
    }
}

/// A failure over HTTP/1.1, which was tried because HTTP/2 takes no WebSockets there.
fn after_http2(failure: Failure) -> Failure {
    let detail = failure.detail.clone().unwrap_or_default();
    failure.because(format!(
        "no WebSocket over HTTP/2, and over HTTP/1.1: {detail}"
    ))
}

impl Missed {
    /// The endpoint does not do what `websocket = "h2"` says of it.
    fn without_http2(why: &str) -> Missed {
        Missed {
            failure: Failure::bad_gateway("websocket_http2").because(why),
            remedy: Remedy::Http1,
            // The configuration's fault.
            blames_endpoint: false,
        }
    }
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Missed {
        Missed {
            failure,
            remedy: Remedy::None,
            blames_endpoint: true,
        }
    }
}

impl From<Fault> for Missed {
    fn from(fault: Fault) -> Missed {
        let remedy = match fault {
            Fault::Http1Required => Remedy::Http1,
            ref fault if fault.is_unseen() => Remedy::Again,
            _ => Remedy::None,
        };
        Missed {
            failure: http2_failure(&fault),
            remedy,
            blames_endpoint: fault.blames_server(),
        }
    }
}

/// How often one handshake is sent before it is answered.
const MAX_TRIES: usize = 3;
