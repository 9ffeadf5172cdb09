//! HTTP/2 toward an upstream: many requests on one connection.
//!
//! [`connect`] gives a [`Client`], whose [`Slot`]s are counted places for one request each, and a
//! future that drives the connection until it ends. [`Slot::request`] opens a stream: an [`Answer`] is
//! its head to come, [`ResponseBody`] what follows, [`Upload`] the request's own body on its way out.
//!
//! It distrusts an answer as much as HTTP/1's client does: what breaks the rules is a [`Fault`]. A
//! fault tells whether the server has seen the request, which decides who may send it again.
//!
//! A server that vanished is found by pings: while streams live and nothing comes, and before a
//! connection is used again after a long rest. They are few, since servers of gRPC close connections
//! that ping too often. All other deadlines are the caller's.
//!
//! RFC 9113, RFC 8441 §3.

mod body;
mod fault;
mod liveness;
mod upload;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

pub use body::ResponseBody;
pub use fault::{Fault, HeadFault};
pub use upload::Upload;

use super::gate::{Bounds, Gate};
use super::{SEND_BUFFER, STREAM_WINDOW, connection_window};
use liveness::Liveness;

/// A connection to an upstream, as long as it takes new requests.
///
/// Dropping it closes the connection once its last [`Slot`] is gone too.
#[derive(Debug)]
pub struct Client {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// The right to one stream; given back when dropped, so keep it as long as the stream lives.
#[derive(Debug)]
pub struct Slot {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
    /// The connection has served others before.
    reused: bool,
    /// It is a tunnel's.
    tunnel: bool,
}

/// The head of an answer that is to come. Dropping it resets the stream, unless it has come.
///
/// As a future it leaves out the interim answers before it.
#[derive(Debug)]
pub struct Answer {
    response: ResponseFuture,
    /// 1xx answers so far.
    interims: u32,
}

/// What a server sends to a request.
#[derive(Debug)]
pub enum Heard {
    /// 1xx: the answer is still to come.
    Interim(Parts),
    /// The head, and what follows it.
    Answer(Parts, RecvStream),
}

/// Those who wait for a slot of some connection: a request, or a tunnel.
#[derive(Debug, Clone, Default)]
pub struct Waiters {
    requests: Arc<Notify>,
    tunnels: Arc<Notify>,
}

/// What the slots of one connection and its driver share.
#[derive(Debug)]
struct Shared {
    born: Instant,
    /// Slots given out.
    open: AtomicUsize,
    /// Those of them that tunnels have.
    tunnels: AtomicUsize,
    /// How many there may be, if the server allows as many.
    streams: usize,
    /// Some slot was given out once.
    used: AtomicBool,
    /// Milliseconds from `born` to the moment that the last slot came back.
    rests_since: AtomicU64,
    /// The server did not show that it lives.
    given_up: AtomicBool,
    liveness: Liveness,
    /// Told of each slot that comes back.
    freed: Waiters,
}

/// Opens HTTP/2 on a connection, and gives it back once the server's settings are known.
///
/// `streams` is how many may be open at once, if the server allows as many; at least one. `freed` is told
/// of each slot that comes back. The second part drives the connection and must be spawned.
///
/// Waits without a limit: the caller sets the deadline.
pub async fn connect<S>(
    stream: S,
    streams: u32,
    freed: Waiters,
) -> Result<(Client, impl Future<Output = ()> + use<S>), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let bounds = Bounds {
        head_size: HEAD_SIZE as usize,
        head_fields: FIELDS,
        streams,
        // Who resets a stream has answered it.
        resets: u32::MAX,
        control_frames: CONTROL_FRAMES,
    };
    let (stream, moves) = Gate::before_server(stream, bounds);
    let window = connection_window(streams);
    let (send, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .data_frame_budget(FRAME_COST * window as usize)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEAD_SIZE)
        // None until the server has said how many.
        .initial_max_send_streams(0)
        .enable_push(false)
        // Streams that we gave up, as their clients left, do not count against the server when it still
        // answers them: many would end the connection of all the others.
        .max_concurrent_reset_streams(RESETS)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(stream)
        .await?;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            let error = ended.map_or_else(Fault::from, |()| Fault::closed());
            return Poll::Ready(Err(error));
        }
        match connection.max_concurrent_send_streams() {
            0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    })
    .await?;
    let shared = Arc::new(Shared {
        born: Instant::now(),
        open: AtomicUsize::new(0),
        tunnels: AtomicUsize::new(0),
        streams: usize::try_from(streams).unwrap_or(usize::MAX),
        used: AtomicBool::new(false),
        rests_since: AtomicU64::new(0),
        given_up: AtomicBool::new(false),
        liveness: Liveness::new(moves),
        freed,
    });
    let pings = connection.ping_pong();
    let client = Client {
        send,
        shared: Arc::clone(&shared),
    };
    let driver = async move {
        {
            let mut connection = pin!(connection);
            let mut watched = pin!(shared.watch(pings));
            poll_fn(|cx| {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if shared.liveness.take_leaving() {
                    // Who waits for room here waits in vain.
                    shared.freed.wake_all();
                }
                watched.as_mut().poll(cx)
            })
            .await;
        }
        shared.given_up.store(true, Ordering::Relaxed);
        shared.liveness.tell();
        shared.freed.wake_all();
    };
    Ok((client, driver))
}

impl Client {
    /// A slot, if there is room for one more and the server still takes requests.
    ///
    /// A `tunnel` may keep it for days: half of the room is not for tunnels, so that requests find some.
    pub fn take(&mut self, tunnel: bool) -> Option<Slot> {
        if !self.is_good() {
            return None;
        }
        let shared = &self.shared;
        let room = shared.streams.min(self.send.current_max_send_streams());
        let open = shared.open.load(Ordering::Relaxed);
        let tunnels = shared.tunnels.load(Ordering::Relaxed);
        if open >= room || tunnel && tunnels >= room.div_ceil(2) {
            return None;
        }
        let reused = shared.used.swap(true, Ordering::Relaxed);
        if open == 0 && reused && shared.rest(Instant::now()) >= REST {
            shared.liveness.doubt();
        }
        shared.open.store(open + 1, Ordering::Relaxed);
        if tunnel {
            shared.tunnels.store(tunnels + 1, Ordering::Relaxed);
        }
        Some(Slot {
            send: self.send.clone(),
            shared: Arc::clone(shared),
            reused,
            tunnel,
        })
    }

    /// Whether the server takes new streams: it has not said GOAWAY, and the connection lives.
    pub fn is_good(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        !self.shared.given_up.load(Ordering::Relaxed)
            && matches!(self.send.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// How long no slot has been out; `None` while one is.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        match self.shared.open.load(Ordering::Relaxed) {
            0 => Some(self.shared.rest(now)),
            _ => None,
        }
    }

    /// How long the connection has been there.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.shared.born)
    }
}

impl Slot {
    /// Whether the server announces WebSockets over HTTP/2 (RFC 8441 §3).
    pub fn speaks_websocket(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Whether the connection has served others before this slot was taken.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Waits, after the connection's long rest, until the server has shown that it is still there.
    ///
    /// False if it does not do so in time or has left; then the connection is used no more. Ready at once
    /// where there is no doubt.
    pub async fn prove(&self) -> bool {
        self.shared.liveness.proven().await;
        !self.shared.given_up.load(Ordering::Relaxed)
    }

    /// Sends a request's head; `end`: nothing follows it.
    ///
    /// Its URI has scheme, authority and path, its fields none of a connection's. For an extended CONNECT
    /// the extensions hold a [`h2::ext::Protocol`].
    pub fn request(
        &mut self,
        head: Request<()>,
        end: bool,
    ) -> Result<(Answer, SendStream<Bytes>), Fault> {
        let (response, send) = self
            .send
            .send_request(head, end)
            .map_err(|error| Fault::unsent(error, self.shared.given_up.load(Ordering::Relaxed)))?;
        let answer = Answer {
            response,
            interims: 0,
        };
        Ok((answer, send))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let shared = &self.shared;
        if self.tunnel {
            shared.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
        if shared.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let age = Instant::now().saturating_duration_since(shared.born);
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            shared.rests_since.store(age, Ordering::Relaxed);
        }
        shared.freed.wake_one();
    }
}

impl Waiters {
    /// Waits until there may be a slot.
    pub fn wait(&self, tunnel: bool) -> OwnedNotified {
        let waiters = match tunnel {
            true => &self.tunnels,
            false => &self.requests,
        };
        Arc::clone(waiters).notified_owned()
    }

    /// There may be room for one: of each kind, as one of them may not be allowed to take it.
    pub fn wake_one(&self) {
        self.requests.notify_one();
        self.tunnels.notify_one();
    }

    /// There is room for many.
    pub fn wake_all(&self) {
        self.requests.notify_waiters();
        self.tunnels.notify_waiters();
    }
}

impl Answer {
    /// Waits for the next head.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, Fault>> {
        if let Some(interim) = ready!(self.response.poll_informational(cx)) {
            let (mut head, ()) = interim?.into_parts();
            // HTTP/2 has no 101 (RFC 9113 §8.6).
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(HeadFault::Switching.into()));
            }
            self.interims += 1;
            if self.interims > INTERIMS {
                return Poll::Ready(Err(HeadFault::Interims.into()));
            }
            check_fields(&mut head.headers)?;
            return Poll::Ready(Ok(Heard::Interim(head)));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx))?;
        let (mut head, body) = response.into_parts();
        check_fields(&mut head.headers)?;
        Poll::Ready(Ok(Heard::Answer(head, body)))
    }
}

impl Future for Answer {
    type Output = Result<(Parts, RecvStream), Fault>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            if let Heard::Answer(head, body) = ready!(this.poll_heard(cx))? {
                return Poll::Ready(Ok((head, body)));
            }
        }
    }
}

impl Shared {
    fn rest(&self, now: Instant) -> Duration {
        let since = Duration::from_millis(self.rests_since.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born)
            .saturating_sub(since)
    }

    /// Ends when the server is seen to be gone, or when nobody has use for the connection but it does
    /// not close.
    async fn watch(self: &Arc<Self>, pings: Option<h2::PingPong>) {
        let Some(pings) = pings else { return };
        let wanted = || match Arc::strong_count(self) {
            1 => None,
            _ => Some(self.open.load(Ordering::Relaxed)),
        };
        self.liveness.watch(pings, wanted).await;
    }
}

/// Checks what `h2` leaves to us, and says a length once.
fn check_fields(headers: &mut HeaderMap) -> Result<(), HeadFault> {
    if headers.len() > FIELDS {
        return Err(HeadFault::Fields);
    }
    let blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    if headers
        .values()
        .map(http::HeaderValue::as_bytes)
        .any(|value| blank(value.first()) || blank(value.last()))
    {
        return Err(HeadFault::Blanks);
    }
    // Several that agree are one; `h2` has seen to it that they do.
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
        && let Some(length) = headers.get(CONTENT_LENGTH).cloned()
    {
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(())
}

/// What an answer's head may use, in bytes as RFC 9113 §6.5.2 counts them, and its fields.
const HEAD_SIZE: u32 = 64 * 1024;
const FIELDS: usize = 200;
/// 1xx answers before the one that counts.
const INTERIMS: u32 = 16;
/// Frames in ten seconds that carry nothing and answer nothing.
const CONTROL_FRAMES: u32 = 1000;
/// What keeping a window full of frames may cost beside their bytes, in windows: as much as frames of 64
/// bytes do. With less, some clients that do not read would end the connection of all the others.
const FRAME_COST: usize = 4;
/// Streams that we reset a moment ago and still know.
const RESETS: usize = 1000;
/// After such a rest a connection is tried before it is used.
const REST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
