//! Drives hyper's connection, and cuts it when a deadline or a drain says so.
//!
//! hyper has one head timer that cannot tell an idle kept-alive connection from a head that comes
//! in drop by drop. Here both have their own limit, measured exactly: after each poll of hyper the
//! driver asks what the connection waits for now, and keeps one timer for that.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::body::ResponseBody;
use crate::config::model::Timeouts;
use crate::drain::{Member, Phase};
use crate::flow::connection::Connection;
use crate::http1_guard::{Guard, GuardHandle};
use crate::stream::Stream;

/// How hyper's part of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the rules of HTTP: closed, or upgraded.
    Done,
    /// A broken peer or broken bytes.
    Failed,
    /// A head did not arrive in time; nothing was answered to it.
    SlowHead,
    /// Idle for too long, or the proxy stops at once.
    Cut,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// A request is under way; its own deadlines count.
    Busy,
    /// The first head, or the rest of one.
    Head,
    /// The next request.
    NextRequest,
}

type Http1Server<S> = hyper::server::conn::http1::Connection<TokioIo<Guard<Stream>>, S>;
type Http2Server<S> = hyper::server::conn::http2::Connection<TokioIo<Stream>, S, TokioExecutor>;

/// Runs HTTP/1 until the connection ends or leaves HTTP. Does not shut the stream down.
pub(super) async fn drive_http1<S>(
    server: &mut Http1Server<S>,
    connection: &Connection,
    guard: &GuardHandle,
    timeouts: &Timeouts,
    member: &Member,
) -> Ended
where
    S: HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let waiting = || {
        if connection.is_busy() {
            Waiting::Busy
        } else if connection.is_used() && guard.is_between_messages() {
            Waiting::NextRequest
        } else {
            Waiting::Head
        }
    };
    let mut leaving = false;
    let mut watch = Watch::new(timeouts);
    let mut timer = pin!(sleep_until(watch.deadline));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = server.poll_without_shutdown(cx) {
                return Poll::Ready(result.map_or(Ended::Failed, |()| Ended::Done));
            }
            member.wake_on_change(cx);
            match member.phase() {
                Phase::Stopped => return Poll::Ready(Ended::Cut),
                Phase::Draining if !leaving => {
                    leaving = true;
                    // hyper would put `Connection: close` into a 101. After a handshake the
                    // connection is closed or upgraded in any case.
                    if !connection.shakes_hands() {
                        Pin::new(&mut *server).graceful_shutdown();
                        continue;
                    }
                }
                _ => {}
            }
            if leaving && !connection.is_used() && guard.is_between_messages() {
                // hyper waits for the first request whatever it is told.
                return Poll::Ready(Ended::Done);
            }
            if watch.now_waits_for(waiting()) {
                timer.as_mut().reset(watch.deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match watch.waiting {
                Waiting::Busy => timer.as_mut().reset(watch.rearm()),
                Waiting::Head => return Poll::Ready(Ended::SlowHead),
                Waiting::NextRequest => return Poll::Ready(Ended::Cut),
            }
        }
    })
    .await
}

/// Runs HTTP/2 until the connection ends; a drain and an idle timeout say GOAWAY first.
pub(super) async fn drive_http2<S>(
    server: Http2Server<S>,
    connection: &Connection,
    timeouts: &Timeouts,
    member: &Member,
) where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut server = pin!(server);
    let waiting = || match (connection.is_busy(), connection.is_used()) {
        (true, _) => Waiting::Busy,
        (false, true) => Waiting::NextRequest,
        (false, false) => Waiting::Head,
    };
    let mut leaving = false;
    let mut watch = Watch::new(timeouts);
    let mut timer = pin!(sleep_until(watch.deadline));
    poll_fn(|cx| {
        loop {
            if server.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            member.wake_on_change(cx);
            match member.phase() {
                Phase::Stopped => return Poll::Ready(()),
                Phase::Draining if !leaving => {
                    leaving = true;
                    server.as_mut().graceful_shutdown();
                    continue;
                }
                _ => {}
            }
            if watch.now_waits_for(waiting()) {
                timer.as_mut().reset(watch.deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match watch.waiting {
                Waiting::Busy => timer.as_mut().reset(watch.rearm()),
                _ if leaving => return Poll::Ready(()),
                _ => {
                    leaving = true;
                    timer.as_mut().reset(Instant::now() + GOAWAY_GRACE);
                    server.as_mut().graceful_shutdown();
                }
            }
        }
    })
    .await;
}

/// Ends a stream so that what was written last arrives: a reset could overtake it.
pub(super) async fn hang_up(mut stream: Stream, ended: Ended) {
    let goodbye = async {
        if ended == Ended::SlowHead {
            stream.write_all(REQUEST_TIMEOUT).await?;
        }
        stream.shutdown().await?;
        if ended != Ended::Cut {
            // Bytes that the client still sends would make the kernel answer with a reset.
            let mut sink = [0; 4096];
            let mut left = LINGER_BYTES;
            while left > 0 {
                match stream.read(&mut sink).await? {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
        }
        std::io::Result::Ok(())
    };
    // Whether the client got the goodbye is its own affair.
    let _ = timeout(LINGER, goodbye).await;
}

/// The present wait and its end.
struct Watch<'a> {
    timeouts: &'a Timeouts,
    waiting: Waiting,
    deadline: Instant,
}

impl<'a> Watch<'a> {
    fn new(timeouts: &'a Timeouts) -> Watch<'a> {
        Watch {
            timeouts,
            waiting: Waiting::Head,
            deadline: Instant::now() + timeouts.request_head,
        }
    }

    /// Starts a new wait if this is another one; true if the deadline has moved.
    fn now_waits_for(&mut self, waiting: Waiting) -> bool {
        if waiting == self.waiting {
            return false;
        }
        self.waiting = waiting;
        self.rearm();
        // A busy connection needs no timer: the old one may fire once for nothing.
        waiting != Waiting::Busy
    }

    fn rearm(&mut self) -> Instant {
        self.deadline = Instant::now()
            + match self.waiting {
                Waiting::Busy => BUSY_CHECK,
                Waiting::Head => self.timeouts.request_head,
                Waiting::NextRequest => self.timeouts.keep_alive,
            };
        self.deadline
    }
}

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// A timer that has fired during a request is put off by this much.
const BUSY_CHECK: Duration = Duration::from_secs(3600);
/// How long a client may take to send its last requests after GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;
