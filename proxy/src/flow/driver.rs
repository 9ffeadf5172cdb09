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
use crate::snapshot::Snapshot;
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
    snapshot: &Snapshot,
    member: &Member,
) -> Ended
where
    S: HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Future: Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let waiting = || {
        // A response is over for hyper before its last bytes have left its buffer.
        if connection.is_busy() || guard.is_writing() {
            Waiting::Busy
        } else if connection.is_used() && guard.is_between_messages() {
            Waiting::NextRequest
        } else {
            Waiting::Head
        }
    };
    let mut leaving = false;
    let mut registered = false;
    let mut watch = Watch::new(snapshot);
    let mut timer = pin!(sleep_until(watch.deadline));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = server.poll_without_shutdown(cx) {
                return Poll::Ready(result.map_or(Ended::Failed, |()| Ended::Done));
            }
            if !std::mem::replace(&mut registered, true) {
                // A connection keeps its task, so one registration serves all its polls.
                member.wake_on_change(cx);
            }
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
                Waiting::Busy => {
                    if watch.is_stalled(guard.moves()) {
                        return Poll::Ready(Ended::Cut);
                    }
                    timer.as_mut().reset(watch.rearm());
                }
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
    snapshot: &Snapshot,
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
    let mut registered = false;
    let mut watch = Watch::new(snapshot);
    let mut timer = pin!(sleep_until(watch.deadline));
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
    /// How long a busy connection may move no byte: longer than any route lets anybody wait.
    stall: Duration,
    waiting: Waiting,
    deadline: Instant,
    /// The guard's count when a busy wait was last armed.
    moves: Option<u32>,
}

impl<'a> Watch<'a> {
    fn new(snapshot: &'a Snapshot) -> Watch<'a> {
        let timeouts = &snapshot.timeouts;
        Watch {
            timeouts,
            stall: snapshot.longest_wait(),
            waiting: Waiting::Head,
            deadline: Instant::now() + timeouts.request_head,
            moves: None,
        }
    }

    /// Starts a new wait if this is another one; true if the deadline has moved.
    fn now_waits_for(&mut self, waiting: Waiting) -> bool {
        if waiting == self.waiting {
            return false;
        }
        self.waiting = waiting;
        self.moves = None;
        self.rearm();
        // A busy connection's own timer is armed only once the old one has fired for nothing: most
        // requests are over before that.
        waiting != Waiting::Busy
    }

    /// Whether a whole busy wait has passed without a byte: its client does not read any more.
    fn is_stalled(&mut self, moves: u32) -> bool {
        self.moves.replace(moves) == Some(moves)
    }

    fn rearm(&mut self) -> Instant {
        self.deadline = Instant::now()
            + match self.waiting {
                Waiting::Busy => self.stall,
                Waiting::Head => self.timeouts.request_head,
                Waiting::NextRequest => self.timeouts.keep_alive,
            };
        self.deadline
    }
}

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// How long a client may take to send its last requests after GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;
