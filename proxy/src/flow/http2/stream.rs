//! One stream of an HTTP/2 connection: its request served, its answer sent, or the tunnel that it becomes.

mod room;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{Method, Request};
use tokio::task::yield_now;
use tokio::time::timeout;

use self::room::{Lent, Spare};
use crate::body::Incoming;
use crate::drain::Member;
use crate::flow::connection::Connection;
use crate::flow::interim::Herald;
use crate::flow::websocket::Pending;
use crate::flow::{Answered, Serving, handle};
use crate::handshake::Extended;
use crate::http2::Duplex;
use crate::http2::body::{Received, SendFault};
use crate::http2::server::Reply;
use crate::stream::Stream;

/// What a stream begins with.
struct Asked {
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    reply: Reply,
    patience: Duration,
    member: Arc<Member>,
}

/// A WebSocket that both sides have accepted.
struct Accepted {
    pending: Box<Pending>,
    duplex: Duplex,
    member: Arc<Member>,
}

/// Serves a request, and the tunnel that it may lead to. Who resets the stream is served no further.
///
/// `patience` is how long the client may take nothing of the answer.
///
/// No `async fn`: a task that had room for a request would be too large for a tunnel, which may last for days.
pub(super) fn serve(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    reply: Reply,
    patience: Duration,
    member: Arc<Member>,
) -> impl Future<Output = ()> + Send {
    let asked = Asked {
        connection,
        request,
        reply,
        patience,
        member,
    };
    let answering = Lent::new(&SPARE, asked, answer);
    Serving::Http {
        http: answering.map(|accepted| accepted.map(Accepted::run)),
    }
}

impl Accepted {
    fn run(self) -> impl Future<Output = ()> + Send {
        let Accepted {
            pending,
            duplex,
            member,
        } = self;
        let downstream = Stream::Http2(Box::new(duplex));
        let tunnel = pending.run(downstream, Bytes::new(), member.again());
        tunnel.map(move |()| drop(member))
    }
}

async fn answer(asked: Asked) -> Option<Accepted> {
    let Asked {
        connection,
        request,
        reply,
        patience,
        member,
    } = asked;
    let (mut parts, stream) = request.into_parts();
    let (body, tunnelled) = match extend(&mut parts) {
        // Nothing of it is read before there is a tunnel.
        true => (Received::elsewhere(stream.is_end_stream()), Some(stream)),
        false => (reply.request_body(stream, &parts.headers), None),
    };
    let request = Request::from_parts(parts, Incoming::Http2(body));
    // What serves the request may say something ahead of its answer.
    let reply = Mutex::new(reply);
    let answered = {
        let herald = Herald::Http2(&reply);
        let mut serving = pin!(handle(Arc::clone(&connection), request, herald));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => {
                let mut reply = reply.lock().unwrap_or_else(PoisonError::into_inner);
                reply.poll_left(cx).map(|()| None)
            }
        })
        .await
    };
    let reply = reply.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Answered {
        response,
        pace,
        upgrade,
    } = answered?;
    if let (Some(pending), Some(stream)) = (upgrade, tunnelled) {
        let duplex = Duplex::server(reply.accept(response)?, stream);
        return Some(Accepted {
            pending,
            duplex,
            member,
        });
    }
    let mut sending = reply.answer(response, patience)?.paced(pace);
    let sent = poll_fn(|cx| match sending.poll_send(cx) {
        Poll::Ready(sent) => Poll::Ready(Some(sent)),
        Poll::Pending => {
            let held_up = !sending.waits_for_body();
            let body = sending.body_mut();
            body.is_held_up(held_up);
            body.poll_shed(cx).map(|()| None)
        }
    });
    match sent.await {
        Some(Ok(())) => {
            // Nobody waits for the client's taking it; but it is memory as long as it does not.
            sending.body_mut().finish();
            drop(member);
            if sending.body_mut().is_kept() {
                // The connection's task comes first: mostly it writes all of it, and there is nothing to wait for.
                yield_now().await;
            }
            let empty = poll_fn(|cx| sending.body_mut().poll_empty(cx));
            if let Ok(false) = timeout(patience, empty).await {
                sending.reset(Reason::ENHANCE_YOUR_CALM);
            }
        }
        Some(Err(SendFault::Left)) => {}
        Some(Err(fault @ (SendFault::Stalled | SendFault::TooSlow))) => {
            connection.cut_response(matches!(fault, SendFault::TooSlow));
            sending.reset(Reason::CANCEL);
        }
        Some(Err(SendFault::Body(_))) => sending.reset(Reason::INTERNAL_ERROR),
        None => sending.reset(Reason::ENHANCE_YOUR_CALM),
    }
    None
}

/// Makes of a WebSocket's extended CONNECT (RFC 8441 §5) the GET that it stands for; false of what is none.
fn extend(parts: &mut Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    let extends = parts.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
    if extends {
        parts.extensions.remove::<Protocol>();
        parts.extensions.insert(Extended);
        parts.method = Method::GET;
    }
    extends
}

thread_local! {
    static SPARE: Spare<Asked, Option<Accepted>> = const { Spare::new() };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, C, D, E, T>(_: impl Fn(A, B, C, D, E) -> T) -> usize {
        size_of::<T>()
    }

    /// As one of its own connection.
    #[test]
    fn an_idle_tunnel_is_small() {
        let size = size_of_output(serve);
        assert!(size + 104 <= 6 * 128, "{size} bytes");
    }
}
