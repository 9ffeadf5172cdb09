//! One direction of a tunnel whose messages matter: read, check, ask; what comes of it is its
//! [`Output`]'s to send.

mod in_court;

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::court::Court;
use super::output::{Output, Place};
use super::throttle::{Throttle, TooMuch};
use super::waiting::{Waiting, data_kind};
use crate::config::model::{COLLECTED_MESSAGE, MESSAGE_FRAMES, OnlyKind, TunnelRules};
use crate::facts::Traffic;
use crate::random;
use crate::telemetry::metrics::RouteMetrics;
use crate::tunnel::Cause;
use crate::tunnel::carrier::{Broken, OneWay, ReaderState, Stop};
use crate::tunnel::judge::Interest;
use crate::tunnel::keepalive::{Due, Pinger, Seen};
use crate::tunnel::way::CHUNKS_PER_TURN;
use crate::ws::control::{CloseCode, ControlFrame};
use crate::ws::deflate::{Legs, Passage};
use crate::ws::frame::Side;
use crate::ws::message::{Begin, DataKind, Event, Want};
use crate::ws::reader::{Fault, Reader, Rules};

pub(in crate::tunnel) struct Lane {
    sender: Side,
    reader: Reader,
    /// The court's; nothing without one.
    interest: Interest,
    only: Option<DataKind>,
    throttle: Option<Box<Throttle>>,
    /// Pings to the sender.
    pinger: Option<Box<Pinger>>,
    pub(super) output: Output,
    /// What the sender said last and the court has not answered yet.
    waiting: Option<Box<Waiting>>,
    /// Bytes of it that the court has.
    lent: usize,
    /// The sender can be told nothing, so it answers nothing.
    unanswered: bool,
    /// Read, but not looked at.
    backlog: Bytes,
    state: ReaderState,
    bytes: u64,
}

/// What a lane begins with.
pub(super) struct LaneTerms<'a> {
    pub(super) sender: Side,
    pub(super) rules: &'a TunnelRules,
    pub(super) compression: &'a Legs,
    pub(super) interest: Option<Interest>,
}

/// What both lanes use in a turn.
pub(super) struct Shared<'a> {
    pub(super) out: Vec<u8>,
    pub(super) deflated: Vec<u8>,
    /// Read once, and only if somebody asks.
    pub(super) now: Option<Instant>,
    pub(super) metrics: Option<&'a RouteMetrics>,
}

/// What a lane has beside it in its turn.
pub(super) struct Beside<'a, 's, 'c> {
    pub(super) other: &'a mut Lane,
    pub(super) court: &'a mut Court,
    pub(super) shared: &'a mut Shared<'s>,
    pub(super) cx: &'a mut Context<'c>,
}

impl Shared<'_> {
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }
}

/// What one turn achieved.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) moved: bool,
    /// It ended because it was long enough.
    pub(super) more: bool,
    /// The other lane, or the court, has something to do now.
    pub(super) disturbed: bool,
    pub(super) stop: Option<Box<Stop>>,
    pub(super) broken: Option<Broken>,
}

/// What came of reading from the sender.
enum Came {
    Nothing,
    End,
    /// And what came of those.
    Bytes(Result<(), Box<Stop>>),
}

impl Lane {
    pub(super) fn new(terms: &LaneTerms<'_>, early: Bytes, now: Instant) -> Lane {
        let LaneTerms {
            sender,
            rules,
            compression,
            interest,
        } = *terms;
        let (mine, from, to) = match sender {
            Side::FromClient => (
                &rules.client,
                compression.downstream.map(|agreed| agreed.from_client),
                compression.upstream.map(|agreed| agreed.from_client),
            ),
            Side::FromServer => (
                &rules.server,
                compression.upstream.map(|agreed| agreed.from_server),
                compression.downstream.map(|agreed| agreed.from_server),
            ),
        };
        // Where nobody changes anything, what can pass at first can always pass.
        let passes = Passage::new(from, to).allows(from.is_some());
        let collects = interest.is_some_and(|interest| interest.in_data()) || !passes;
        let unless_said = if collects {
            COLLECTED_MESSAGE
        } else {
            u64::MAX
        };
        Lane {
            sender,
            reader: Reader::new(Rules {
                side: sender,
                deflate: from,
                max_message: mine.message_size.unwrap_or(unless_said),
                max_frames: rules
                    .message_frames
                    .map_or(MESSAGE_FRAMES, std::num::NonZeroU32::get),
                // Where nobody collects and nobody counts, a payload is nobody's business.
                inspect: collects || (from.is_some() && mine.message_size.is_some()),
            }),
            interest: interest.unwrap_or_default(),
            only: rules.only.map(|only| match only {
                OnlyKind::Text => DataKind::Text,
                OnlyKind::Binary => DataKind::Binary,
            }),
            output: Output::new(sender, from, to, rules),
            throttle: mine.rate.map(|rate| {
                let mut throttle = Throttle::new(&rate, now);
                // What is too much already shows when more comes.
                let _ = throttle.charge(0, early.len() as u64, now);
                Box::new(throttle)
            }),
            pinger: mine
                .ping_interval
                .map(|interval| Box::new(Pinger::new(interval, rules.pong_timeout, now))),
            waiting: None,
            lent: 0,
            unanswered: false,
            bytes: early.len() as u64,
            backlog: early,
            state: ReaderState::Open,
        }
    }

    /// Moves what can be moved, until somebody makes it wait.
    pub(super) fn turn<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
        beside: &mut Beside<'_, '_, '_>,
    ) -> Turn
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = Turn::default();
        if let Err(broken) = self.take_turn(reader, writer, scratch, beside, &mut turn) {
            turn.broken = Some(broken);
        }
        turn
    }

    fn take_turn<R, W>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        scratch: &mut [u8],
        beside: &mut Beside<'_, '_, '_>,
        turn: &mut Turn,
    ) -> Result<(), Broken>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..CHUNKS_PER_TURN {
            self.send_what_waits(writer, beside, turn)?;
            if !self.output.outlet.is_clear() {
                return Ok(());
            }
            if self.output.aside() > 0 && !self.reader.is_passing() {
                continue;
            }
            // The court may hold what would be injected next.
            if turn.stop.is_some() || self.is_held_back(beside) {
                self.output.outlet.flush(writer, beside.cx)?;
                return Ok(());
            }
            let others = beside.other.output.aside();
            let processed = if self.backlog.is_empty() {
                let is_flushed = self.output.outlet.flush(writer, beside.cx)?;
                // What is not holds a chunk of its own; a second one waits in the sender's socket.
                if self.state != ReaderState::Open || !is_flushed {
                    return Ok(());
                }
                match self.read_on(reader, scratch, beside)? {
                    Came::Nothing => return Ok(()),
                    Came::End => continue,
                    Came::Bytes(processed) => {
                        turn.moved = true;
                        processed
                    }
                }
            } else {
                self.process_backlog(beside)
            };
            if let Err(stop) = processed {
                turn.stop = Some(stop);
            }
            turn.disturbed |= beside.other.output.aside() > others;
            turn.moved |= !beside.shared.out.is_empty();
            self.output
                .send(&mut beside.shared.out, writer, beside.cx)?;
            if turn.stop.is_some() {
                return Ok(());
            }
        }
        turn.more = true;
        Ok(())
    }

    /// What waits for the court is put before it, and what waits for the receiver is sent.
    fn send_what_waits<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        beside: &mut Beside<'_, '_, '_>,
        turn: &mut Turn,
    ) -> Result<(), Broken> {
        let was_full = self.output.is_full();
        if self.waiting.is_some()
            && let Err(stop) = self.ask(beside)
        {
            turn.stop = Some(stop);
        }
        if self.output.outlet.is_clear() {
            self.put_own(beside.shared);
        }
        self.output.hold(&mut beside.shared.out);
        turn.disturbed |= was_full && !self.output.is_full();
        turn.moved |= self.output.outlet.send_held(writer, beside.cx)?;
        Ok(())
    }

    /// Reads what the sender's socket has, as much as `scratch` takes, and processes it.
    fn read_on<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut R,
        scratch: &mut [u8],
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<Came, Broken> {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(reader).poll_read(beside.cx, &mut buf) {
            Poll::Pending => return Ok(Came::Nothing),
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
            Poll::Ready(Err(error)) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(Broken::Reader);
            }
            // A TLS stream cut without close_notify ends like a plain one.
            Poll::Ready(_) => {
                self.state = ReaderState::Ended;
                self.output.hurry();
                return Ok(Came::End);
            }
        }
        let mut rest = buf.filled();
        let len = rest.len() as u64;
        self.bytes += len;
        let charged = self.charge(len, beside.shared);
        let processed = charged.and_then(|()| self.process(&mut rest, beside));
        if !rest.is_empty() {
            self.backlog = Bytes::copy_from_slice(rest);
        }
        Ok(Came::Bytes(processed))
    }

    /// Processes what was read before.
    fn process_backlog(&mut self, beside: &mut Beside<'_, '_, '_>) -> Result<(), Box<Stop>> {
        let mut backlog = std::mem::take(&mut self.backlog);
        let mut rest = &backlog[..];
        let processed = self.process(&mut rest, beside);
        let used = backlog.len() - rest.len();
        backlog.advance(used);
        // One that is used up lets go of its memory.
        if !backlog.is_empty() {
            self.backlog = backlog;
        }
        processed
    }

    /// Looks at what the sender sent and leaves the rest: nothing, unless the court has to think, there is
    /// enough for the receiver, or the tunnel must end.
    fn process(
        &mut self,
        rest: &mut &[u8],
        beside: &mut Beside<'_, '_, '_>,
    ) -> Result<(), Box<Stop>> {
        loop {
            self.put_own(beside.shared);
            if self.output.is_enough(&beside.shared.out) || self.is_held_back(beside) {
                return Ok(());
            }
            let (interest, only, muted) = (self.interest, self.only, self.output.is_muted());
            let allows = [false, true].map(|compressed| self.output.passes(compressed));
            let mut throttle = self.throttle.as_deref_mut().filter(|_| !muted);
            let mut is_too_much = false;
            let want = |begin: &Begin| {
                if muted {
                    return Want::Pass;
                }
                let charged = throttle
                    .as_mut()
                    .map(|throttle| throttle.charge(1, 0, beside.shared.now()));
                is_too_much = matches!(charged, Some(Err(TooMuch)));
                if is_too_much || only.is_some_and(|only| only != begin.kind) {
                    return Want::Refuse;
                }
                let kind = data_kind(begin.kind);
                let known = begin.fin && !begin.compressed;
                let size = if known { begin.frame_len } else { 0 };
                if interest.wants(kind, size) || !allows[usize::from(begin.compressed)] {
                    Want::Whole
                } else {
                    Want::Pass
                }
            };
            match self.reader.read(rest, want) {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Passed { wire, ends })) => {
                    self.output.wire(&wire, beside.shared);
                    if let Some(passed) = ends {
                        self.output.passed(&passed);
                    }
                }
                Ok(Some(Event::Message(message))) => {
                    if !self.output.is_muted() {
                        self.message(message, beside)?;
                    }
                }
                Ok(Some(Event::Control(control))) => {
                    self.control(control, beside)?;
                }
                Err(fault) => {
                    return match self.output.is_muted() {
                        true => Ok(()),
                        false if is_too_much => Err(self.too_much()),
                        false => Err(Box::new(self.stop_for(&fault))),
                    };
                }
            }
        }
    }

    /// Puts in what is ours, where it may stand now.
    fn put_own(&mut self, shared: &mut Shared<'_>) {
        self.put_own_if(true, shared);
    }

    /// As [`Lane::put_own`]; `settled`: what the court was asked about is on its way already.
    fn put_own_if(&mut self, settled: bool, shared: &mut Shared<'_>) {
        let place = Place {
            between_frames: self.reader.at_boundary(),
            between_messages: !self.reader.is_passing(),
            settled: settled && self.waiting.is_none(),
            lost: self.is_lost(),
        };
        self.output.put_own(place, &mut shared.out);
    }

    /// When this lane has something to do without a byte.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.output.is_muted() {
            return None;
        }
        let pinger = self.pinger.as_ref().map(|pinger| pinger.deadline());
        let throttle = self.throttle.as_ref().and_then(|throttle| throttle.until());
        pinger.into_iter().chain(throttle).min()
    }

    /// Ends a wait for the rate, if it is over, and pings the sender over the other lane; true if the sender
    /// owes a pong for too long.
    pub(super) fn on_time(&mut self, now: Instant, other: &mut Lane) -> bool {
        self.resume(now);
        let to_it = &other.output;
        let seen = Seen {
            held_up: self.is_held_up()
                || to_it.is_full()
                || (to_it.has_ping() && to_it.outlet.is_clear()),
            received: self.bytes,
            taken: (!to_it.outlet.is_clear()).then(|| to_it.taken()),
        };
        let Some(pinger) = &mut self.pinger else {
            return false;
        };
        // A failure of the system's generator leaves zeros: a ping all the same, merely predictable.
        match pinger.due(now, seen, random::bytes().unwrap_or_default()) {
            None => false,
            Some(Due::Ping(payload)) => {
                other.output.ping(&payload);
                false
            }
            Some(Due::Lost) => true,
        }
    }

    /// So much was put in for the receiver that it must take some of it first. While a message passes only
    /// its end makes room, so this lane goes on, and just the other one waits.
    fn is_full(&self) -> bool {
        self.output.is_full() && !self.reader.is_passing()
    }

    /// Nothing more is looked at for now: the court, the rate or a receiver comes first.
    fn is_held_back(&mut self, beside: &mut Beside<'_, '_, '_>) -> bool {
        self.waiting.is_some()
            || self.is_full()
            || beside.other.output.is_full()
            || self.is_throttled(beside.shared)
    }

    /// When a wait for the rate ends.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        self.throttle.as_ref().and_then(|throttle| throttle.until())
    }

    /// Ends a wait for the rate, if it is over.
    pub(super) fn resume(&mut self, now: Instant) {
        if let Some(throttle) = &mut self.throttle {
            throttle.resume(now);
        }
    }

    /// The sender has broken the protocol: nothing that it sends can be read.
    fn is_lost(&self) -> bool {
        self.reader.is_over() && self.reader.close().is_none()
    }

    fn is_throttled(&mut self, shared: &mut Shared<'_>) -> bool {
        let Some(throttle) = self.throttle.as_mut().filter(|_| !self.output.is_muted()) else {
            return false;
        };
        if throttle.until().is_some() {
            throttle.resume(shared.now());
        }
        throttle.until().is_some()
    }

    /// Takes note of bytes that came.
    fn charge(&mut self, bytes: u64, shared: &mut Shared<'_>) -> Result<(), Box<Stop>> {
        let Some(throttle) = self.throttle.as_mut().filter(|_| !self.output.is_muted()) else {
            return Ok(());
        };
        let charged = throttle.charge(0, bytes, shared.now());
        charged.map_err(|TooMuch| self.too_much())
    }

    fn too_much(&self) -> Box<Stop> {
        Box::new(Stop {
            cause: Cause::MessageRate,
            code: CloseCode::POLICY,
            reason: format!("{}: too much at once", name(self.sender)),
            offender: Some(self.sender),
        })
    }

    fn stop_for(&self, fault: &Fault) -> Stop {
        let who = name(self.sender);
        let (cause, code) = match fault {
            Fault::TooBig(_) => (Cause::MessageSize, fault.close_code()),
            Fault::TooManyFrames(_) => (Cause::MessageFrames, fault.close_code()),
            Fault::Refused => (Cause::MessageKind, CloseCode::UNSUPPORTED),
            _ => (Cause::Protocol, fault.close_code()),
        };
        Stop {
            cause,
            code,
            reason: format!("{who}: {fault}"),
            offender: Some(self.sender),
        }
    }
}

impl OneWay for Lane {
    fn is_held_up(&self) -> bool {
        let throttled = self
            .throttle
            .as_ref()
            .is_some_and(|throttle| throttle.until().is_some());
        self.waiting.is_some()
            || !self.backlog.is_empty()
            || throttled
            || !self.output.outlet.is_clear()
    }

    fn size(&self) -> usize {
        let waiting = self.waiting.as_ref().map_or(0, |waiting| waiting.size());
        let said = self.reader.collected() + waiting + self.lent + self.backlog.len();
        said + self.output.size()
    }

    fn let_go(&mut self) -> bool {
        let can_be_told = !self.is_lost();
        self.waiting = None;
        self.reader.let_go();
        self.output.let_go() && can_be_told
    }

    fn expect_no_answer(&mut self) {
        self.unanswered = true;
    }

    fn interrupt(&mut self, close: &ControlFrame) {
        self.output.interrupt(close);
    }

    fn interrupt_late(&mut self, close: &ControlFrame) {
        match self.reader.close().is_some() || self.has_ended() {
            true => self.output.interrupt(close),
            false => self.output.interrupt_late(close),
        }
    }

    fn hurry(&mut self) {
        self.output.hurry();
    }

    fn finish(&mut self) {
        if self.state == ReaderState::Open {
            self.state = ReaderState::Finished;
        }
    }

    fn pass_end_on<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        by_drop: bool,
        cx: &mut Context<'_>,
    ) {
        let has_close = self.output.has_close() && self.reader.at_boundary();
        let is_over = self.waiting.is_none() && self.backlog.is_empty();
        if self.state != ReaderState::Open && is_over && !has_close {
            self.output.outlet.shut(writer, by_drop, cx);
            if self.output.outlet.is_shut() {
                self.output.mute();
            }
        }
    }

    fn close_code(&self) -> Option<CloseCode> {
        self.reader.close()
    }

    fn is_answered(&self) -> bool {
        let has_finished = self.reader.is_over() || self.has_ended();
        self.output.is_muted() && (self.unanswered || has_finished)
    }

    fn has_ended(&self) -> bool {
        self.state == ReaderState::Ended && self.waiting.is_none() && self.backlog.is_empty()
    }

    fn has_sent_all(&self) -> bool {
        self.output.outlet.has_sent_all()
    }

    fn is_done(&self) -> bool {
        self.output.outlet.is_shut()
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            bytes: self.bytes,
            messages: self.reader.messages(),
        }
    }
}

fn name(sender: Side) -> &'static str {
    match sender {
        Side::FromClient => "client",
        Side::FromServer => "server",
    }
}
