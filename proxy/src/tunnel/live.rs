//! The life of a tunnel: what ends it, in which order, and what is told to whom.
//!
//! One poll function for both directions, one timer for whatever is waited for. The bytes themselves are
//! the [`Carrier`]'s business.
//!
//! Memory is what an idle tunnel costs, so its future is written by hand: an `async fn` keeps room for
//! everything it ever moved.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::carrier::{BrokenLeg, Carrier, OneWay, Stop};
use super::silence::Alarms;
use super::{Cause, Expiry, Summary, random_mask};
use crate::budget::{Account, Budget, FREE, Kind};
use crate::drain::{Member, Phase};
use crate::facts::{ClosedBy, Traffic};
use crate::stream::Stream;
use crate::telemetry::metrics::{Direction, RouteMetrics};
use crate::ws::control::{CloseCode, encode_close};
use crate::ws::frame::Side;

pin_project! {
    /// A tunnel under way; its output is how it went.
    pub(super) struct Running<C> {
        live: Live<C>,
        #[pin]
        timer: Sleep,
    }
}

/// What a tunnel of any kind begins with.
pub(super) struct Beginning<C> {
    pub(super) carrier: C,
    pub(super) downstream: Stream,
    pub(super) upstream: Stream,
    pub(super) idle_timeout: Duration,
    pub(super) drain: Duration,
    pub(super) expiry: Option<Box<Expiry>>,
    pub(super) member: Member,
    pub(super) budget: Arc<Budget>,
    pub(super) metrics: Option<RouteMetrics>,
    /// Where more than the stage may want the timer.
    pub(super) alarms: Option<Box<Alarms>>,
}

impl<C: Carrier> Running<C> {
    pub(super) fn new(beginning: Beginning<C>) -> Running<C> {
        let tick = beginning.idle_timeout / QUIET_TICKS;
        let started = Instant::now();
        let expires = beginning.expiry.as_ref().map(|expiry| expiry.at);
        let first = started + tick;
        let first = expires.map_or(first, |expires| first.min(expires));
        let mut alarms = beginning.alarms;
        if let Some(alarms) = &mut alarms {
            alarms.stage = first;
        }
        Running {
            live: Live {
                carrier: beginning.carrier,
                downstream: beginning.downstream,
                upstream: beginning.upstream,
                started,
                tick: u32::try_from(tick.as_millis()).unwrap_or(u32::MAX),
                drain: beginning.drain,
                extras: beginning.expiry.map(|expiry| {
                    Box::new(Extras {
                        expiry: Some(*expiry),
                        account: None,
                    })
                }),
                member: beginning.member,
                budget: beginning.budget,
                metrics: beginning.metrics,
                alarms,
                counted: (Traffic::default(), Traffic::default()),
                ended: None,
                close_code: None,
                stage: Stage::Open,
                broken: None,
                quiet_ticks: 0,
                active: false,
                armed: false,
                registered: false,
            },
            timer: sleep_until(first),
        }
    }
}

impl<C: Carrier> Future for Running<C> {
    type Output = Summary;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Summary> {
        let this = self.project();
        let (cause, closed_by) = ready!(this.live.poll(cx, this.timer));
        Poll::Ready(this.live.sum_up(cause, closed_by))
    }
}

/// The live state of a tunnel; `poll` is its whole story.
struct Live<C> {
    carrier: C,
    downstream: Stream,
    upstream: Stream,
    started: Instant,
    /// The idle timeout's share of which [`QUIET_TICKS`] make a whole, in milliseconds.
    tick: u32,
    drain: Duration,
    extras: Option<Box<Extras>>,
    member: Member,
    budget: Arc<Budget>,
    metrics: Option<RouteMetrics>,
    alarms: Option<Box<Alarms>>,
    /// What the metrics have been told already, from downstream and from upstream.
    counted: (Traffic, Traffic),
    /// The event that began the end; what follows from it does not change the verdict.
    ended: Option<(Cause, ClosedBy)>,
    close_code: Option<CloseCode>,
    stage: Stage,
    /// The side that broke, while what it said last is still on its way.
    broken: Option<BrokenLeg>,
    /// Ticks without a byte. A message only marks its tick, so none of them reads the clock.
    quiet_ticks: u32,
    /// A byte has moved since the last tick.
    active: bool,
    /// The timer has been polled since its last reset, so it will wake this task.
    armed: bool,
    /// The drain knows this task's waker.
    registered: bool,
}

/// What few tunnels have.
#[derive(Default)]
struct Extras {
    expiry: Option<Expiry>,
    /// Of what is held, once that was worth one.
    account: Option<Account>,
}

/// What the one timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The idle timeout.
    Open,
    /// A drain has begun: until this tunnel's turn to leave.
    Leaving,
    /// A side has broken a rule: how long the other's last words to it may take.
    Parting,
    /// Our Close frames are on their way: how long to wait for the answers.
    Closing,
    /// A side has ended: how long the other may take.
    Lingering,
}

type End = (Cause, ClosedBy);

impl<C: Carrier> Live<C> {
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
            if let Some(end) = self.carry(cx, timer.as_mut()) {
                return Poll::Ready(end);
            }
            self.look_for_the_end(timer.as_mut());
            self.look_for_a_reset(cx, timer.as_mut());
            self.advance_timer(timer.as_mut());
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

    /// Sees to it that the timer fires for whoever wants it first.
    fn advance_timer(&mut self, timer: Pin<&mut Sleep>) {
        let Some(alarms) = &self.alarms else {
            return;
        };
        // Once the end has begun, nothing else does; but what was read before it must go on.
        let due = match self.stage {
            Stage::Open | Stage::Leaving => {
                let own = alarms.deadline().into_iter();
                own.chain(self.carrier.deadline()).min()
            }
            Stage::Parting | Stage::Closing | Stage::Lingering => self.carrier.resumes_at(),
        };
        if let Some(due) = due
            && due < timer.deadline()
        {
            timer.reset(due);
            self.armed = false;
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
    fn carry(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Option<End> {
        let pumped = match self.broken {
            Some(leg) => Err(leg),
            None => (self.carrier).pump(&mut self.downstream, &mut self.upstream, cx),
        };
        let pumped = match pumped {
            Ok(pumped) => pumped,
            Err(leg) => {
                self.note_close_frames();
                let side = match leg {
                    BrokenLeg::Downstream => ClosedBy::Downstream,
                    BrokenLeg::Upstream => ClosedBy::Upstream,
                };
                let end = self.end(Cause::Reset, side);
                if self.has_passed_close_on(leg, cx) {
                    return Some(end);
                }
                // What waits for the other side waits no longer than memory lasts.
                if self.is_shed(cx) {
                    return Some(end);
                }
                if self.broken.replace(leg).is_none() {
                    self.set_stage(Stage::Lingering, LINGER, timer);
                }
                return None;
            }
        };
        if pumped.moved {
            self.active = true;
            let (from_down, from_up) = self.carrier.ways();
            let uncounted = from_down.traffic().bytes + from_up.traffic().bytes
                - self.counted.0.bytes
                - self.counted.1.bytes;
            if uncounted >= COUNT_EVERY {
                self.count_traffic();
            }
        }
        if let Some(stop) = pumped.stop {
            if stop.cause == Cause::ConnectionMemory {
                self.let_go();
            }
            self.obey(stop, timer);
            // What both sides are told goes out with the next turn.
            cx.waker().wake_by_ref();
        } else if self.is_shed(cx) && self.leave_for_memory(timer) {
            cx.waker().wake_by_ref();
        }
        if (self.is_finished() || self.pass_ends_on(cx)) && self.has_said_goodbye(cx) {
            self.note_close_frames();
            return Some(self.end(Cause::Eof, ClosedBy::Downstream));
        }
        if pumped.more {
            // Enough for one turn: the worker's other tasks come first.
            cx.waker().wake_by_ref();
        }
        None
    }

    /// Says what is held, where that is worth a word; true if it must be given back.
    fn is_shed(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.size();
        if held < FREE && self.extras.is_none() {
            return false;
        }
        let extras = self.extras.get_or_insert_default();
        if held < FREE && extras.account.is_none() {
            return false;
        }
        let open = || self.budget.open(Kind::Tunnel);
        let account = extras.account.get_or_insert_with(open);
        account.set(held);
        held >= FREE && account.poll_shed(cx).is_ready()
    }

    /// True if the sides are told with the next turn, false if the tunnel was ending anyway.
    fn leave_for_memory(&mut self, timer: Pin<&mut Sleep>) -> bool {
        self.let_go();
        let stop = Stop {
            cause: Cause::Memory,
            code: CloseCode::TRY_AGAIN_LATER,
            reason: "out of memory".to_owned(),
            offender: None,
        };
        self.obey(Box::new(stop), timer)
    }

    /// Gives back what is held for the sides. One that waits for the rest of a frame hears nothing more.
    fn let_go(&mut self) {
        let (from_down, from_up) = self.carrier.ways_mut();
        if !from_down.let_go() {
            from_up.expect_no_answer();
        }
        if !from_up.let_go() {
            from_down.expect_no_answer();
        }
        let held = self.size();
        if let Some(account) = self.account() {
            account.set(held);
        }
    }

    /// Bytes of memory that it takes to wait, with what streams of HTTP/2 may hold meanwhile.
    fn size(&self) -> usize {
        let held = self.carrier.size();
        if held == 0 {
            return 0;
        }
        let (from_down, from_up) = self.carrier.ways();
        let (down, up) = (self.downstream.depths(), self.upstream.depths());
        let ways = [(from_down, down.0 + up.1), (from_up, up.0 + down.1)];
        let held_up = ways.iter().filter(|(way, _)| way.is_held_up());
        held + held_up.map(|(_, depth)| depth).sum::<usize>()
    }

    fn account(&self) -> Option<&Account> {
        self.extras.as_ref()?.account.as_ref()
    }

    fn expiry(&self) -> Option<Expiry> {
        self.extras.as_ref()?.expiry
    }

    /// Ends the streams that nothing more is written to; true if the tunnel is over with that.
    fn pass_ends_on(&mut self, cx: &mut Context<'_>) -> bool {
        let (from_down, from_up) = self.carrier.ways_mut();
        if matches!(self.stage, Stage::Parting | Stage::Closing)
            && from_down.is_answered()
            && from_up.is_answered()
        {
            // Both have answered our Close: nothing more can come.
            from_down.finish();
            from_up.finish();
        }
        // Where the other way is done, the tunnel is over with this one's end, and its sockets are
        // dropped at once.
        if !self.downstream.ends_early() || !is_unanswered(from_down, from_up) {
            let last = from_up.is_done() && self.upstream.is_plain();
            from_down.pass_end_on(&mut self.upstream, last, cx);
        }
        let last = from_down.is_done() && self.downstream.is_plain();
        from_up.pass_end_on(&mut self.downstream, last, cx);
        from_down.is_done() && from_up.is_done()
    }

    /// Behind the Close of a side that broke, ends the other's stream; true once nothing of that has to be
    /// waited for. A stream of HTTP/2 that is only dropped throws away what is on its way, the Close above all.
    fn has_passed_close_on(&mut self, broken: BrokenLeg, cx: &mut Context<'_>) -> bool {
        let (from_down, from_up) = self.carrier.ways();
        let (way, other) = match broken {
            BrokenLeg::Downstream => (from_down, &mut self.upstream),
            BrokenLeg::Upstream => (from_up, &mut self.downstream),
        };
        way.close_code().is_none() || way.is_held_up() || other.poll_goodbye(cx).is_ready()
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
        let (from_down, from_up) = self.carrier.ways();
        if self.ended.is_none() {
            if from_down.has_ended() {
                self.end(Cause::Eof, ClosedBy::Downstream);
            } else if from_up.has_ended() {
                self.end(Cause::Eof, ClosedBy::Upstream);
            }
        }
        let (from_down, from_up) = self.carrier.ways();
        let one_has_ended = from_down.has_ended() || from_up.has_ended();
        if matches!(self.stage, Stage::Open | Stage::Leaving)
            && (one_has_ended || self.both_said_close())
        {
            self.set_stage(Stage::Lingering, LINGER, timer);
        }
    }

    /// A client that resets its stream is gone also while nothing is read of it. What it has said before may
    /// still go on for as long as behind any other end.
    fn look_for_a_reset(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) {
        let Stream::Http2(client) = &mut self.downstream else {
            return;
        };
        if self.ended.is_none()
            && self.carrier.ways().0.is_held_up()
            && client.poll_reset(cx).is_ready()
        {
            self.end(Cause::Reset, ClosedBy::Downstream);
            self.set_stage(Stage::Lingering, LINGER, timer);
        }
    }

    fn both_said_close(&self) -> bool {
        let (from_down, from_up) = self.carrier.ways();
        from_down.close_code().is_some() && from_up.close_code().is_some()
    }

    /// Both sides have said Close, behind which nothing comes (RFC 6455 §5.5.1), and one has ended
    /// its stream: the other's end need not be waited for.
    fn is_finished(&mut self) -> bool {
        let (from_down, from_up) = self.carrier.ways();
        let ended = from_down.has_ended() || from_up.has_ended();
        if !ended || !from_down.has_sent_all() || !from_up.has_sent_all() {
            return false;
        }
        self.note_close_frames();
        self.both_said_close()
    }

    fn timer_fired(&mut self, mut timer: Pin<&mut Sleep>) -> Option<End> {
        if !self.is_for_the_stage(timer.as_mut()) {
            return None;
        }
        match self.stage {
            Stage::Open | Stage::Leaving if self.has_expired() => {
                self.expire(timer);
                None
            }
            Stage::Open => {
                self.end_tick(timer);
                None
            }
            Stage::Leaving => {
                let code = CloseCode::GOING_AWAY;
                self.say_close(Cause::Drain, code, "server is shutting down", timer);
                None
            }
            Stage::Parting => {
                let (from_down, from_up) = self.carrier.ways_mut();
                from_down.hurry();
                from_up.hurry();
                let left = self.member.time_left(self.drain);
                let wait = left.map_or(CLOSE_WAIT, |left| left.min(CLOSE_WAIT));
                self.set_stage(Stage::Closing, wait, timer);
                None
            }
            Stage::Closing => Some(self.end(Cause::Eof, ClosedBy::Proxy)),
            Stage::Lingering => Some(self.end(Cause::Eof, ClosedBy::Proxy)),
        }
    }

    /// Serves who else wanted the timer; true if it is the stage's time as well.
    fn is_for_the_stage(&mut self, mut timer: Pin<&mut Sleep>) -> bool {
        let Some(alarms) = &mut self.alarms else {
            return true;
        };
        let (now, due) = (Instant::now(), alarms.stage);
        if matches!(self.stage, Stage::Open | Stage::Leaving) {
            self.armed = false;
            timer.as_mut().reset(due);
            let (from_client, from_server) = self.carrier.ways();
            let silent = alarms.on_time(now, from_client, from_server);
            if let Some(stop) = silent.or_else(|| self.carrier.on_time(now)) {
                self.obey(stop, timer);
                return false;
            }
        } else {
            self.carrier.resume(now);
            if now < due {
                self.armed = false;
                timer.reset(due);
            }
        }
        now >= due
    }

    fn expire(&mut self, timer: Pin<&mut Sleep>) {
        let (cause, code, reason) = match self.expiry() {
            Some(Expiry { lifetime: true, .. }) => {
                (Cause::Lifetime, CloseCode::GOING_AWAY, "lifetime reached")
            }
            Some(Expiry { code, .. }) => (Cause::Expired, code, "session expired"),
            None => (Cause::Expired, CloseCode::POLICY, "session expired"),
        };
        self.say_close(cause, code, reason, timer);
    }

    /// A part of the idle timeout is over.
    fn end_tick(&mut self, timer: Pin<&mut Sleep>) {
        self.count_traffic();
        let is_idle = self.account().is_none_or(Account::is_empty);
        self.extras
            .take_if(|extras| is_idle && extras.expiry.is_none());
        self.quiet_ticks = match std::mem::take(&mut self.active) {
            true => 0,
            false => self.quiet_ticks + 1,
        };
        if self.quiet_ticks < QUIET_TICKS {
            self.set_stage(Stage::Open, Duration::from_millis(self.tick.into()), timer);
        } else {
            let code = CloseCode::GOING_AWAY;
            self.say_close(Cause::IdleTimeout, code, "idle timeout", timer);
        }
    }

    /// What the carrier found: a limit, a filter's verdict, a broken protocol.
    /// False if the tunnel was ending already.
    fn obey(&mut self, stop: Box<Stop>, timer: Pin<&mut Sleep>) -> bool {
        let begins = matches!(self.stage, Stage::Open | Stage::Leaving | Stage::Lingering);
        if begins {
            self.tell_both(stop.cause, stop.code, &stop.reason, stop.offender, timer);
            if let Some(alarms) = &mut self.alarms {
                alarms.stop = Some(stop);
            }
        }
        begins
    }

    /// Ends the conversation from our side: a Close frame to both, at the next frame boundary.
    fn say_close(&mut self, cause: Cause, code: CloseCode, reason: &str, timer: Pin<&mut Sleep>) {
        self.tell_both(cause, code, reason, None, timer);
    }

    /// As [`Live::say_close`]; the one who broke a rule is told once the other has finished.
    fn tell_both(
        &mut self,
        cause: Cause,
        code: CloseCode,
        reason: &str,
        offender: Option<Side>,
        timer: Pin<&mut Sleep>,
    ) {
        self.end(cause, ClosedBy::Proxy);
        self.close_code.get_or_insert(code);
        let to_client = encode_close(code, reason, None);
        let to_server = encode_close(code, reason, Some(random_mask()));
        let (from_down, from_up) = self.carrier.ways_mut();
        match offender {
            Some(Side::FromClient) => from_up.interrupt_late(&to_client),
            _ => from_up.interrupt(&to_client),
        }
        match offender {
            Some(Side::FromServer) => from_down.interrupt_late(&to_server),
            _ => from_down.interrupt(&to_server),
        }
        let (stage, wait) = match offender {
            Some(_) => (Stage::Parting, LAST_WORDS),
            None => (Stage::Closing, CLOSE_WAIT),
        };
        let left = self.member.time_left(self.drain);
        self.set_stage(stage, left.map_or(wait, |left| left.min(wait)), timer);
    }

    fn sum_up(&mut self, cause: Cause, closed_by: ClosedBy) -> Summary {
        self.count_traffic();
        let (from_down, from_up) = self.carrier.ways();
        let summary = Summary {
            cause,
            closed_by,
            close_code: self.close_code,
            from_downstream: from_down.traffic(),
            from_upstream: from_up.traffic(),
            duration: self.started.elapsed(),
            stop: self.alarms.as_mut().and_then(|alarms| alarms.stop.take()),
        };
        self.carrier.part(&summary, &self.member);
        summary
    }

    fn count_traffic(&mut self) {
        let (from_down, from_up) = self.carrier.ways();
        let now = (from_down.traffic(), from_up.traffic());
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
        let (from_down, from_up) = self.carrier.ways();
        for (way, side) in [
            (from_down, ClosedBy::Downstream),
            (from_up, ClosedBy::Upstream),
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
        if let (Stage::Open | Stage::Leaving, Some(expiry)) = (stage, self.expiry()) {
            deadline = deadline.min(expiry.at);
        }
        if let Some(alarms) = &mut self.alarms {
            alarms.stage = deadline;
        }
        timer.reset(deadline);
    }

    fn has_expired(&self) -> bool {
        self.expiry()
            .is_some_and(|expiry| expiry.at <= Instant::now())
    }

    /// The end that counts: this one, unless an earlier event began it.
    fn end(&mut self, cause: Cause, by: ClosedBy) -> End {
        *self.ended.get_or_insert((cause, by))
    }
}

/// The client has said Close and the server may still say its own: many a server that finds an end right
/// behind a Close hangs up without an answer, and the client takes that for a failure. At last [`LINGER`]
/// ends both.
fn is_unanswered<W: OneWay>(from_down: &W, from_up: &W) -> bool {
    from_down.may_have_closed() && from_up.close_code().is_none() && !from_up.has_ended()
}

fn random_below(limit: Duration) -> Duration {
    limit.mul_f64(f64::from(u32::from_ne_bytes(random_mask())) / f64::from(u32::MAX))
}

/// Parts of the idle timeout that must pass without a byte: the more, the more exact.
const QUIET_TICKS: u32 = 4;
/// How long the other sides may take to answer our Close.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long what a side has said may still be on its way to one that broke a rule.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the second side may take to end its stream after the first.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that may pass before the metrics hear of them.
const COUNT_EVERY: u64 = 64 * 1024;
