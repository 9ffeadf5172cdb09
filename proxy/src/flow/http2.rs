//! One HTTP/2 connection, driven by hyper, until it ends.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep_until;

use crate::body::Incoming;
use crate::drain::{Member, Phase};
use crate::flow::connection::Connection;
use crate::flow::handle;
use crate::flow::watch::{Waiting, Watch};
use crate::snapshot::Snapshot;
use crate::stream::Stream;

/// Serves HTTP/2 on a stream; a drain and an idle timeout say GOAWAY first.
pub(super) async fn serve(
    stream: Stream,
    connection: Arc<Connection>,
    snapshot: &Snapshot,
    member: Member,
) {
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request: Request<hyper::body::Incoming>| {
            let connection = Arc::clone(&connection);
            let request = request.map(Incoming::Http2);
            async { Ok::<_, Infallible>(handle(connection, request).await.response) }
        })
    };
    let limits = &snapshot.limits;
    let server = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.head_size).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut server = pin!(server);
    let waiting = || match (connection.is_busy(), connection.is_used()) {
        (true, _) => Waiting::Busy,
        (false, true) => Waiting::NextRequest,
        (false, false) => Waiting::Head,
    };
    let mut leaving = false;
    let mut registered = false;
    // Its streams move, or end by deadlines of their own; a wait without a move is none for it.
    let mut polls = 0_u32;
    let mut watch = Watch::new(snapshot);
    let mut timer = pin!(sleep_until(watch.begins_until()));
    poll_fn(|cx| {
        loop {
            if server.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut registered, true) {
                // A connection keeps its task, so one registration serves all its polls.
                member.wake_on_change(cx);
            }
            match member.phase() {
                Phase::Stopped => return Poll::Ready(()),
                Phase::Draining if !leaving => {
                    leaving = true;
                    server.as_mut().graceful_shutdown();
                    continue;
                }
                _ => {}
            }
            watch.waits_for(waiting());
            polls = polls.wrapping_add(1);
            if watch.poll_over(timer.as_mut(), polls, cx).is_pending() {
                return Poll::Pending;
            }
            if leaving {
                return Poll::Ready(());
            }
            leaving = true;
            watch.allow(GOAWAY_GRACE);
            server.as_mut().graceful_shutdown();
        }
    })
    .await;
}

/// Streams that a client may reset before we have seen them (rapid reset, CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// Bytes of a response that one stalled stream may hold.
const SEND_BUFFER: usize = 64 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Finds peers that vanished without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to send its last requests after GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);
