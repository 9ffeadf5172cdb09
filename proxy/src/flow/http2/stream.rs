//! One stream of an HTTP/2 connection: its request served, its answer sent, or the tunnel that it becomes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{Method, Request};

use tokio::time::timeout;

use crate::body::Incoming;
use crate::drain::Member;
use crate::flow::connection::Connection;
use crate::flow::{Answered, handle};
use crate::handshake::Extended;
use crate::http2::Duplex;
use crate::http2::body::{Received, SendFault};
use crate::http2::server::Reply;
use crate::stream::Stream;

/// Serves a request. Who resets the stream is served no further.
///
/// `patience` is how long the client may take nothing of the answer.
pub(super) async fn serve(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    mut reply: Reply,
    patience: Duration,
    member: Arc<Member>,
) {
    let (mut parts, stream) = request.into_parts();
    let (body, tunnelled) = match extend(&mut parts) {
        // Nothing of it is read before there is a tunnel.
        true => (Received::elsewhere(stream.is_end_stream()), Some(stream)),
        false => (reply.request_body(stream, &parts.headers), None),
    };
    let request = Request::from_parts(parts, Incoming::Http2(body));
    let answered = {
        let mut serving = pin!(handle(Arc::clone(&connection), request));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(answered) => Poll::Ready(Some(answered)),
            Poll::Pending => reply.poll_left(cx).map(|()| None),
        })
        .await
    };
    let Some(Answered {
        response,
        pace,
        upgrade,
    }) = answered
    else {
        return;
    };
    if let (Some(pending), Some(stream)) = (upgrade, tunnelled) {
        if let Some(outgoing) = reply.accept(response) {
            let duplex = Duplex::server(outgoing, stream);
            let downstream = Stream::Http2(Box::new(duplex));
            let tunnel = pending.run(downstream, Bytes::new(), member.again());
            // A task that served a request is too large for what may last for days.
            tokio::spawn(tunnel.map(move |()| drop(member)));
        }
        return;
    }
    let Some(sending) = reply.answer(response, patience) else {
        return;
    };
    let mut sending = sending.paced(pace);
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
