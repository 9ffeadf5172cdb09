//! Everything after the 101: bytes go both ways until one [`Cause`] ends it.
//!
//! A tunnel is one poll function for both directions, in the task of its connection. It follows
//! frame heads (RFC 6455 §5.2) without touching payloads, which gives message counts and close codes
//! and lets a drain or an idle timeout put a Close between two frames. It holds no buffer while idle:
//! reads go through one scratch buffer per thread, and only what a slow receiver could not take is
//! kept, at most one scratch buffer's worth per direction.
//!
//! Memory is what an idle tunnel costs, so its future is written by hand: an `async fn` keeps room
//! for everything it ever moved.
//!
//! It refuses to judge: frames that break the protocol are passed on and merely stop the counting.

pub mod rate;
mod way;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::drain::{Member, Phase};
use crate::facts::{ClosedBy, Traffic};
use crate::random;
use crate::stream::Stream;
use crate::telemetry::metrics::{Direction, RouteMetrics};
use crate::tunnel::way::{Broken, Way};
use crate::ws::control::{CloseCode, encode_close};
use crate::ws::frame::Side;

/// A verified upgrade, ready to run.
pub struct Tunnel {
    pub downstream: Leg,
    pub upstream: Leg,
    /// RSV1 means something: permessage-deflate (RFC 7692) was agreed on.
    pub compressed: bool,
    /// Close after this long without a byte in either direction, or up to a quarter later.
    pub idle_timeout: Duration,
    /// Time that a drain gives this tunnel, from the drain's start.
    pub drain: Duration,
    /// Boxed: most sessions have no end.
    pub expiry: Option<Box<Expiry>>,
    pub member: Member,
    /// Where traffic is counted, from time to time and at the end.
    pub metrics: Option<RouteMetrics>,
}

/// When a session ends, and how its tunnel says so.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    pub at: Instant,
    pub code: CloseCode,
}

/// One side of a tunnel.
pub struct Leg {
    pub stream: Stream,
    /// What was read past the head of the handshake: the first bytes of the tunnel.
    pub early: Bytes,
}

/// How a tunnel went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub cause: Cause,
    pub closed_by: ClosedBy,
    /// The first close code that was seen or sent; 1005 for a Close without one.
    pub close_code: Option<CloseCode>,
    pub from_downstream: Traffic,
    pub from_upstream: Traffic,
    pub duration: Duration,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A Close frame from either side began it.
    Close,
    /// A side ended its stream without a Close frame.
    Eof,
    /// A side's connection broke.
    Reset,
    IdleTimeout,
    /// The session that a filter gave it has ended.
    Expired,
    /// An orderly stop of the proxy.
    Drain,
    /// The proxy had no time left.
    Stopped,
}

impl Cause {
    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Close => "close",
            Cause::Eof => "eof",
            Cause::Reset => "reset",
            Cause::IdleTimeout => "idle_timeout",
            Cause::Expired => "expired",
            Cause::Drain => "drain",
            Cause::Stopped => "stopped",
        }
    }
}

impl Tunnel {
    /// Carries bytes until the tunnel ends. Dropping the future closes both sockets.
    ///
    /// Call it within the runtime of the sockets.
    pub fn run(self) -> Running {
        let tick = self.idle_timeout / QUIET_TICKS;
        let started = Instant::now();
        let expires = self.expiry.as_ref().map(|expiry| expiry.at);
        let first = started + tick;
        Running {
            live: Live {
                from_downstream: Way::new(
                    Side::FromClient,
                    self.compressed,
                    &self.downstream.early,
                ),
                from_upstream: Way::new(Side::FromServer, self.compressed, &self.upstream.early),
                downstream: self.downstream.stream,
                upstream: self.upstream.stream,
                started,
                tick,
                drain: self.drain,
                expiry: self.expiry,
                member: self.member,
                metrics: self.metrics,
                counted: (Traffic::default(), Traffic::default()),
                ended: None,
                close_code: None,
                stage: Stage::Open,
                quiet_ticks: 0,
                active: false,
                armed: false,
                registered: false,
            },
            timer: sleep_until(expires.map_or(first, |expires| first.min(expires))),
        }
    }
}

pin_project! {
    /// A tunnel under way; its output is how it went.
    pub struct Running {
        live: Live,
        #[pin]
        timer: Sleep,
    }
}

impl Future for Running {
    type Output = Summary;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Summary> {
        let this = self.project();
        let (cause, closed_by) = ready!(this.live.poll(cx, this.timer));
        Poll::Ready(this.live.sum_up(cause, closed_by))
    }
}

/// The live state of a tunnel; `poll` is its whole story.
struct Live {
    downstream: Stream,
    upstream: Stream,
    from_downstream: Way,
    from_upstream: Way,
    started: Instant,
    /// The idle timeout's share of which [`QUIET_TICKS`] make a whole.
    tick: Duration,
    drain: Duration,
    expiry: Option<Box<Expiry>>,
    member: Member,
    metrics: Option<RouteMetrics>,
    /// What the metrics have been told already, from downstream and from upstream.
    counted: (Traffic, Traffic),
    /// The event that began the end; what follows from it does not change the verdict.
    ended: Option<(Cause, ClosedBy)>,
    close_code: Option<CloseCode>,
    stage: Stage,
    /// Ticks without a byte. A message only marks its tick, so none of them reads the clock.
    quiet_ticks: u32,
    /// A byte has moved since the last tick.
    active: bool,
    /// The timer has been polled since its last reset, so it will wake this task.
    armed: bool,
    /// The drain knows this task's waker.
    registered: bool,
}

/// What the one timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The idle timeout.
    Open,
    /// A drain has begun: until this tunnel's turn to leave.
    Leaving,
    /// Our Close frames are on their way: how long to wait for the answers.
    Closing,
    /// A side has ended: how long the other may take.
    Lingering,
}

type End = (Cause, ClosedBy);

impl Live {
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        if !self.registered {
            // A tunnel never changes its task, so one registration serves all its polls.
            self.member.wake_on_change(cx);
            self.registered = true;
        }
        if let Some(end) = self.obey_drain(timer.as_mut()) {
            return Poll::Ready(end);
        }
        loop {
            if let Some(end) = self.carry(cx) {
                return Poll::Ready(end);
            }
            self.look_for_the_end(timer.as_mut());
            // A timer that fired and was reset keeps this task's waker only once polled again.
            if self.armed && !timer.is_elapsed() {
                return Poll::Pending;
            }
            match timer.as_mut().poll(cx) {
                Poll::Pending => {
                    // A task that has used up its turn is woken at once, and the timer not yet told.
                    self.armed = tokio::task::coop::has_budget_remaining();
                    return Poll::Pending;
                }
                Poll::Ready(()) => {
                    if let Some(end) = self.timer_fired(timer.as_mut()) {
                        return Poll::Ready(end);
                    }
                }
            }
        }
    }

    fn obey_drain(&mut self, timer: Pin<&mut Sleep>) -> Option<End> {
        match self.member.phase() {
            Phase::Running => None,
            Phase::Stopped => Some(self.end(Cause::Stopped, ClosedBy::Proxy)),
            Phase::Draining => {
                if self.stage == Stage::Open
                    && let Some(left) = self.member.time_left(self.drain)
                {
                    // Each leaves at a moment of its own, so that the clients' reconnects are
                    // spread; the last third is for the answers.
                    self.set_stage(Stage::Leaving, random_below(left * 2 / 3), timer);
                }
                None
            }
        }
    }

    /// Moves what can be moved now, both ways.
    fn carry(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let (up, down) = SCRATCH.with_borrow_mut(|scratch| {
            let (downstream, upstream) = (&mut self.downstream, &mut self.upstream);
            // Behind the answer to a Close mostly comes the end, and both can leave together.
            let closed = self.from_upstream.close_code().is_some();
            if closed {
                upstream.cork();
            }
            let up = (self.from_downstream).pump(downstream, upstream, closed, scratch, cx);
            let closed = self.from_downstream.close_code().is_some();
            if closed {
                downstream.cork();
            }
            let down = (self.from_upstream).pump(upstream, downstream, closed, scratch, cx);
            (up, down)
        });
        let (up, down) = match (up, down) {
            (Ok(up), Ok(down)) => (up, down),
            (Err(Broken::Reader), _) | (_, Err(Broken::Writer)) => {
                self.note_close_frames();
                return Some(self.end(Cause::Reset, ClosedBy::Downstream));
            }
            (Err(Broken::Writer), _) | (_, Err(Broken::Reader)) => {
                self.note_close_frames();
                return Some(self.end(Cause::Reset, ClosedBy::Upstream));
            }
        };
        if up.moved || down.moved {
            self.active = true;
            let uncounted = self.from_downstream.bytes() + self.from_upstream.bytes()
                - self.counted.0.bytes
                - self.counted.1.bytes;
            if uncounted >= COUNT_EVERY {
                self.count_traffic();
            }
        }
        if (self.is_finished() || self.pass_ends_on(cx)) && self.has_said_goodbye(cx) {
            self.note_close_frames();
            return Some(self.end(Cause::Eof, ClosedBy::Downstream));
        }
        if up.more || down.more {
            // Enough for one turn: the worker's other tasks come first.
            cx.waker().wake_by_ref();
        }
        None
    }

    /// Ends the streams that nothing more is written to; true if the tunnel is over with that.
    fn pass_ends_on(&mut self, cx: &mut Context<'_>) -> bool {
        let (from_down, from_up) = (&mut self.from_downstream, &mut self.from_upstream);
        if self.stage == Stage::Closing && from_down.is_answered() && from_up.is_answered() {
            // Both have answered our Close: nothing more can come.
            from_down.finish();
            from_up.finish();
        }
        // Where the other way is done, the tunnel is over with this one's end, and its sockets are
        // dropped at once.
        let last = from_up.is_done() && self.upstream.is_plain();
        from_down.pass_end_on(&mut self.upstream, last, cx);
        let last = from_down.is_done() && self.downstream.is_plain();
        from_up.pass_end_on(&mut self.downstream, last, cx);
        from_down.is_done() && from_up.is_done()
    }

    /// Says goodbye to both sides; true once both have taken it. One that is gone needs none.
    fn has_said_goodbye(&mut self, cx: &mut Context<'_>) -> bool {
        let downstream = self.downstream.poll_goodbye(cx).is_ready();
        let upstream = self.upstream.poll_goodbye(cx).is_ready();
        downstream && upstream
    }

    /// Draws the conclusions from what has passed: Close frames and ended streams.
    fn look_for_the_end(&mut self, timer: Pin<&mut Sleep>) {
        self.note_close_frames();
        let (from_down, from_up) = (&self.from_downstream, &self.from_upstream);
        if self.ended.is_none() {
            if from_down.has_ended() {
                self.end(Cause::Eof, ClosedBy::Downstream);
            } else if from_up.has_ended() {
                self.end(Cause::Eof, ClosedBy::Upstream);
            }
        }
        let one_has_ended = self.from_downstream.has_ended() || self.from_upstream.has_ended();
        if matches!(self.stage, Stage::Open | Stage::Leaving)
            && (one_has_ended || self.both_said_close())
        {
            self.set_stage(Stage::Lingering, LINGER, timer);
        }
    }

    fn both_said_close(&self) -> bool {
        self.from_downstream.close_code().is_some() && self.from_upstream.close_code().is_some()
    }

    /// Both sides have said Close, behind which nothing comes (RFC 6455 §5.5.1), and one has ended
    /// its stream: the other's end need not be waited for.
    fn is_finished(&mut self) -> bool {
        let ended = self.from_downstream.has_ended() || self.from_upstream.has_ended();
        if !ended || !self.from_downstream.has_sent_all() || !self.from_upstream.has_sent_all() {
            return false;
        }
        self.note_close_frames();
        self.both_said_close()
    }

    fn timer_fired(&mut self, timer: Pin<&mut Sleep>) -> Option<End> {
        match self.stage {
            Stage::Open | Stage::Leaving if self.has_expired() => {
                let code = self.expiry.as_ref().map(|expiry| expiry.code);
                let code = code.unwrap_or(CloseCode::POLICY);
                self.say_close(Cause::Expired, code, "session expired", timer);
                None
            }
            Stage::Open => {
                self.count_traffic();
                self.quiet_ticks = match std::mem::take(&mut self.active) {
                    true => 0,
                    false => self.quiet_ticks + 1,
                };
                if self.quiet_ticks < QUIET_TICKS {
                    self.set_stage(Stage::Open, self.tick, timer);
                } else {
                    let code = CloseCode::GOING_AWAY;
                    self.say_close(Cause::IdleTimeout, code, "idle timeout", timer);
                }
                None
            }
            Stage::Leaving => {
                let code = CloseCode::GOING_AWAY;
                self.say_close(Cause::Drain, code, "server is shutting down", timer);
                None
            }
            Stage::Closing => Some(self.end(Cause::Eof, ClosedBy::Proxy)),
            Stage::Lingering => Some(self.end(Cause::Eof, ClosedBy::Proxy)),
        }
    }

    /// Ends the conversation from our side: a Close frame to both, at the next frame boundary.
    fn say_close(&mut self, cause: Cause, code: CloseCode, reason: &str, timer: Pin<&mut Sleep>) {
        self.end(cause, ClosedBy::Proxy);
        self.close_code.get_or_insert(code);
        self.from_upstream
            .interrupt(&encode_close(code, reason, None));
        self.from_downstream
            .interrupt(&encode_close(code, reason, Some(random_mask())));
        let wait = self
            .member
            .time_left(self.drain)
            .map_or(CLOSE_WAIT, |left| left.min(CLOSE_WAIT));
        self.set_stage(Stage::Closing, wait, timer);
    }

    fn sum_up(&mut self, cause: Cause, closed_by: ClosedBy) -> Summary {
        self.count_traffic();
        Summary {
            cause,
            closed_by,
            close_code: self.close_code,
            from_downstream: self.from_downstream.traffic(),
            from_upstream: self.from_upstream.traffic(),
            duration: self.started.elapsed(),
        }
    }

    fn count_traffic(&mut self) {
        let now = (self.from_downstream.traffic(), self.from_upstream.traffic());
        if let Some(metrics) = &self.metrics {
            for (direction, now, before) in [
                (Direction::FromDownstream, now.0, self.counted.0),
                (Direction::FromUpstream, now.1, self.counted.1),
            ] {
                let bytes = now.bytes - before.bytes;
                metrics.websocket_traffic(direction, bytes, now.messages - before.messages);
            }
        }
        self.counted = now;
    }

    fn note_close_frames(&mut self) {
        for (way, side) in [
            (&self.from_downstream, ClosedBy::Downstream),
            (&self.from_upstream, ClosedBy::Upstream),
        ] {
            if let Some(code) = way.close_code() {
                self.ended.get_or_insert((Cause::Close, side));
                self.close_code.get_or_insert(code);
            }
        }
    }

    fn set_stage(&mut self, stage: Stage, wait: Duration, timer: Pin<&mut Sleep>) {
        self.stage = stage;
        self.armed = false;
        let mut deadline = Instant::now() + wait;
        if let (Stage::Open | Stage::Leaving, Some(expiry)) = (stage, &self.expiry) {
            deadline = deadline.min(expiry.at);
        }
        timer.reset(deadline);
    }

    fn has_expired(&self) -> bool {
        let at = self.expiry.as_ref().map(|expiry| expiry.at);
        at.is_some_and(|at| at <= Instant::now())
    }

    /// The end that counts: this one, unless an earlier event began it.
    fn end(&mut self, cause: Cause, by: ClosedBy) -> End {
        *self.ended.get_or_insert((cause, by))
    }
}

fn random_below(limit: Duration) -> Duration {
    limit.mul_f64(f64::from(u32::from_ne_bytes(random_mask())) / f64::from(u32::MAX))
}

/// A fresh masking key (RFC 6455 §5.3 asks for strong entropy).
fn random_mask() -> [u8; 4] {
    // A failure of the system's generator leaves a zero key: valid on the wire, merely predictable.
    random::bytes().unwrap_or_default()
}

/// Parts of the idle timeout that must pass without a byte: the more, the more exact.
const QUIET_TICKS: u32 = 4;
/// How long the other sides may take to answer our Close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long the second side may take to end its stream after the first.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that may pass before the metrics hear of them.
const COUNT_EVERY: u64 = 64 * 1024;
/// One read's worth; measured best at 16 KiB messages and free while idle.
const SCRATCH_SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    use crate::drain::Drain;
    use crate::socket::Socket;

    /// A tunnel between two real sockets, and their far ends.
    struct Rig {
        client: UnixStream,
        server: UnixStream,
        drain: Drain,
        tunnel: JoinHandle<Summary>,
    }

    impl Rig {
        fn new(idle_timeout: Duration) -> Rig {
            Rig::expiring(idle_timeout, None)
        }

        fn expiring(idle_timeout: Duration, expiry: Option<Expiry>) -> Rig {
            let (client, downstream) = UnixStream::pair().unwrap();
            let (server, upstream) = UnixStream::pair().unwrap();
            let drain = Drain::default();
            let leg = |socket| Leg {
                stream: Stream::Plain(Socket::Unix(socket)),
                early: Bytes::new(),
            };
            let tunnel = Tunnel {
                downstream: leg(downstream),
                upstream: leg(upstream),
                compressed: false,
                idle_timeout,
                drain: Duration::from_secs(3),
                expiry: expiry.map(Box::new),
                member: drain.join(),
                metrics: None,
            };
            Rig {
                client,
                server,
                drain,
                tunnel: tokio::spawn(tunnel.run()),
            }
        }
    }

    async fn receive(socket: &mut UnixStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        socket.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn rest(socket: &mut UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    /// A masked `hi` and a plain `ho`.
    const HI: &[u8] = &[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    const HO: &[u8] = &[0x81, 0x02, b'h', b'o'];

    #[tokio::test]
    async fn carries_both_ways_and_tells_who_closed_with_what() {
        let mut rig = Rig::new(Duration::from_secs(60));
        rig.client.write_all(HI).await.unwrap();
        assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
        rig.server.write_all(HO).await.unwrap();
        assert_eq!(receive(&mut rig.client, HO.len()).await, HO);

        let close = encode_close(CloseCode::NORMAL, "", Some([9, 8, 7, 6]));
        rig.client.write_all(&close).await.unwrap();
        assert_eq!(receive(&mut rig.server, close.len()).await, &close[..]);
        let answer = encode_close(CloseCode::NORMAL, "", None);
        rig.server.write_all(&answer).await.unwrap();
        drop(rig.server);
        assert_eq!(rest(&mut rig.client).await, &answer[..]);

        // Behind two Close frames one side's end is enough: the client's is not waited for.
        let summary = rig.tunnel.await.unwrap();
        drop(rig.client);
        assert_eq!(summary.cause, Cause::Close);
        assert_eq!(summary.closed_by, ClosedBy::Downstream);
        assert_eq!(summary.close_code, Some(CloseCode::NORMAL));
        assert_eq!(
            summary.from_downstream,
            Traffic {
                bytes: (HI.len() + close.len()) as u64,
                messages: 1
            }
        );
        assert_eq!(summary.from_upstream.messages, 1);
        assert_eq!(rig.drain.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_it_should_busy_or_idle() {
        let lifetime = Duration::from_millis(2_300);
        for (idle_timeout, busy) in [(60, false), (60, true), (4, true)] {
            let started = Instant::now();
            let expiry = Expiry {
                at: started + lifetime,
                code: CloseCode(4001),
            };
            let mut rig = Rig::expiring(Duration::from_secs(idle_timeout), Some(expiry));
            if busy {
                while started.elapsed() + Duration::from_millis(200) < lifetime {
                    rig.client.write_all(HI).await.unwrap();
                    assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
                    tokio::time::advance(Duration::from_millis(100)).await;
                }
            }
            let close = encode_close(CloseCode(4001), "session expired", None);
            assert_eq!(receive(&mut rig.client, close.len()).await, &close[..]);
            let took = started.elapsed();
            assert!(took >= lifetime, "{took:?}");
            assert!(took < lifetime + Duration::from_millis(100), "{took:?}");
            drop((rig.client, rig.server));
            let summary = rig.tunnel.await.unwrap();
            assert_eq!(summary.cause, Cause::Expired);
            assert_eq!(summary.close_code, Some(CloseCode(4001)));
        }
    }

    #[tokio::test]
    async fn an_upstream_that_vanishes_ends_the_client_too() {
        let mut rig = Rig::new(Duration::from_secs(60));
        drop(rig.server);
        assert_eq!(rest(&mut rig.client).await, b"");
        drop(rig.client);
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.closed_by, ClosedBy::Upstream);
        assert_eq!(summary.close_code, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_tunnel_is_closed_with_a_close_frame_on_both_sides() {
        let mut rig = Rig::new(Duration::from_secs(60));
        let started = Instant::now();
        let to_client = encode_close(CloseCode::GOING_AWAY, "idle timeout", None);
        assert_eq!(
            receive(&mut rig.client, to_client.len()).await,
            &to_client[..]
        );
        assert_eq!(started.elapsed().as_secs(), 60);
        let to_server = receive(&mut rig.server, to_client.len() + 4).await;
        assert_eq!(to_server[..2], [0x88, 0x80 | to_client[1]], "masked");
        drop((rig.client, rig.server));
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(
            (summary.cause, summary.closed_by),
            (Cause::IdleTimeout, ClosedBy::Proxy)
        );
        assert_eq!(summary.close_code, Some(CloseCode::GOING_AWAY));
    }

    #[tokio::test]
    async fn a_drain_closes_within_its_time_even_if_nobody_answers() {
        let mut rig = Rig::new(Duration::from_secs(60));
        rig.client.write_all(HI).await.unwrap();
        receive(&mut rig.server, HI.len()).await;
        let started = Instant::now();
        rig.drain.start();
        let to_client = encode_close(CloseCode::GOING_AWAY, "server is shutting down", None);
        assert_eq!(rest(&mut rig.client).await, &to_client[..]);
        assert!(started.elapsed() < Duration::from_secs(4));
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.cause, Cause::Drain);
        rig.drain.emptied().await;
    }

    #[tokio::test]
    async fn a_patient_drain_leaves_the_tunnel_alone_and_a_stop_ends_it() {
        let mut rig = Rig::new(Duration::from_secs(60));
        rig.drain.start_patient();
        rig.client.write_all(HI).await.unwrap();
        assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
        rig.drain.stop();
        assert_eq!(rig.tunnel.await.unwrap().cause, Cause::Stopped);
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_sender_back() {
        let mut rig = Rig::new(Duration::from_secs(60));
        let mut frame = vec![0x82, 127, 0, 0, 0, 0, 0, 0x80, 0, 0];
        frame.resize(frame.len() + 0x80_0000, 7);
        let mut server = rig.server;
        let sent = frame.clone();
        let sender = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
            server
        });
        // The client has read nothing, so the sender must still be waiting.
        let mut first = receive(&mut rig.client, 1).await;
        assert!(!sender.is_finished());
        first.extend(receive(&mut rig.client, frame.len() - 1).await);
        assert!(first == frame, "every byte arrives in order");
        drop(sender.await.unwrap());
        drop(rig.client);
        assert_eq!(rig.tunnel.await.unwrap().from_upstream.messages, 1);
    }
}
