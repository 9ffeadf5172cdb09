//! The load generator: one thread, one epoll, any number of connections that each follow a script.
//!
//! What happens on a connection (an echo, a life, requests) is a [`Script`]; this module owns the
//! sockets, the TLS handshakes, the clock, the counts and every limit. Any answer that a script does
//! not expect ends the run with a failure: there are no error rates here, one error spoils a row.

pub(crate) mod deflate;
pub(crate) mod http1;
pub(crate) mod http2;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod wire;
pub(crate) mod ws;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use rustls::{ClientConfig, HandshakeKind};

use crate::failure::{Failure, Result};
use crate::frames::Message;
use crate::measure::latency::Histogram;
use wire::{Received, Scratch, Wire};

/// What one connection says and expects.
pub(crate) trait Script {
    /// The connection stands, TLS included: say the first thing.
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()>;

    /// Bytes have come. An error is an answer that is wrong.
    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next>;

    /// Whether the connection is as the row wants it before anything is measured.
    fn is_settled(&self) -> bool;
}

/// A script whose connections are held, and speak when they are told.
pub(crate) trait Held: Script {
    /// Sends a message, on each WebSocket of the connection. Only while nothing is under way.
    fn say(&mut self, line: &mut Line<'_>) -> Result<()>;

    /// From now on, messages of another size. Only while nothing is under way.
    fn change(&mut self, message: &Rc<RefCell<Message>>);
}

/// What a script waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// More bytes.
    More,
    /// That the proxy closes, as the generator does; then the unit is done and a new connection
    /// takes the place.
    End,
    /// Nothing: the unit is done; close, and a new connection takes the place.
    Done,
}

/// What a script may use while it has its turn.
pub(crate) struct Line<'a> {
    wire: &'a mut Wire,
    tally: &'a mut Tally,
    /// When the connection was asked for.
    pub(crate) opened: Instant,
    pub(crate) now: Instant,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) units: u64,
    pub(crate) latency: Histogram,
    /// How late the generator itself was with what was due; part of the latency, and no fault of the
    /// proxy.
    pub(crate) lateness: Histogram,
}

/// Where connections go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Fail when a TLS handshake that is measured went another way.
    pub(crate) handshake: Option<HandshakeKind>,
}

/// Connections that follow scripts of one type.
pub(crate) struct Generator<S> {
    poll: Poll,
    /// For [`Generator::pace`]; made once, because a waker that is dropped takes its last call along.
    waker: Arc<Waker>,
    events: Events,
    target: Target,
    make: Box<dyn FnMut() -> S>,
    connections: Vec<Option<Connection<S>>>,
    scratch: Scratch,
    tally: Tally,
    /// Places whose connection has been settled, or has lived its life.
    settled: usize,
    /// Whether TLS handshakes must go as the target says: at first there are no tickets.
    measuring: bool,
}

struct Connection<S> {
    wire: Wire,
    script: S,
    opened: Instant,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    TlsHandshake,
    Talking,
    /// The script waits for the end.
    Ending,
}

impl Line<'_> {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.wire.send(bytes).map_err(Failure::of("cannot send"))
    }

    /// Counts a unit that began at `since`.
    pub(crate) fn count(&mut self, since: Instant) {
        self.tally.units += 1;
        self.tally
            .latency
            .record(self.now.saturating_duration_since(since));
    }
}

impl<S: Script> Generator<S> {
    /// A generator without connections; `make` makes the script of each.
    ///
    /// # Errors
    /// When epoll cannot be had.
    pub(crate) fn new(target: Target, make: impl FnMut() -> S + 'static) -> Result<Generator<S>> {
        let poll = Poll::new()?;
        Ok(Generator {
            waker: Arc::new(Waker::new(poll.registry(), METRONOME)?),
            poll,
            events: Events::with_capacity(1024),
            target,
            make: Box::new(make),
            connections: Vec::new(),
            scratch: Scratch::new(),
            tally: Tally::default(),
            settled: 0,
            measuring: false,
        })
    }

    /// Opens `count` more connections, at most `at_once` on their way at any moment, and waits until
    /// all are settled.
    ///
    /// # Errors
    /// When one fails, or [`OPENING`] has passed.
    pub(crate) fn open(&mut self, count: usize, at_once: usize) -> Result<()> {
        let deadline = Instant::now() + OPENING;
        let goal = self.connections.len() + count;
        self.connections.reserve_exact(count);
        while self.settled < goal {
            while self.connections.len() < goal
                && self.connections.len() - self.settled < at_once.max(1)
            {
                let slot = self.connections.len();
                self.connections.push(None);
                self.connect(slot)?;
            }
            self.turn(Some(Duration::from_millis(100)))?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "only {} of {goal} connections were ready in {OPENING:?}",
                    self.settled
                )));
            }
        }
        Ok(())
    }

    /// Lets the scripts run for `time` and says what was counted in it.
    ///
    /// # Errors
    /// When a connection fails, or nothing at all was counted.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Tally> {
        self.tally = Tally::default();
        self.measuring = true;
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.turn(Some(left))?;
        }
        self.measuring = false;
        if self.tally.units == 0 {
            return Err(Failure::new(format!("not one unit in {time:?}")));
        }
        Ok(std::mem::take(&mut self.tally))
    }

    /// Lets `act` speak on every connection, `at_once` of them until they are settled, then the next.
    ///
    /// # Errors
    /// When a connection fails, or a batch takes longer than [`BATCH`].
    pub(crate) fn each(
        &mut self,
        at_once: usize,
        mut act: impl FnMut(&mut S, &mut Line<'_>) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..self.connections.len()).collect();
        for batch in all.chunks(at_once.max(1)) {
            for slot in batch {
                self.speak(*slot, Instant::now(), &mut act)?;
            }
            self.settle(BATCH)?;
        }
        Ok(())
    }

    /// Lets `act` speak on every connection whose earlier words are all with the kernel, again and
    /// again, reading nothing, until for [`STUFFED`] none could say more.
    ///
    /// # Errors
    /// When a connection fails, or it goes on for longer than `limit`.
    pub(crate) fn stuff(
        &mut self,
        limit: Duration,
        mut act: impl FnMut(&mut S, &mut Line<'_>) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut progress = Instant::now();
        while progress.elapsed() < STUFFED {
            for slot in 0..self.connections.len() {
                let Some(Some(connection)) = self.connections.get_mut(slot) else {
                    continue;
                };
                connection.wire.flush()?;
                if connection.wire.has_sent_all() {
                    self.speak(slot, Instant::now(), &mut act)?;
                    progress = Instant::now();
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("no end of sending in {limit:?}")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Reads what came while nobody listened, until every script is settled.
    ///
    /// # Errors
    /// When a connection fails, or `limit` has passed.
    pub(crate) fn catch_up(&mut self, limit: Duration) -> Result<()> {
        for slot in 0..self.connections.len() {
            self.ready(slot, false)?;
        }
        self.settle(limit)
    }

    /// What was counted since the last call or the last run.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Waits until every script is settled.
    ///
    /// # Errors
    /// When a connection fails, or `limit` has passed.
    pub(crate) fn settle(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let waiting = self
                .connections
                .iter()
                .flatten()
                .filter(|connection| !connection.script.is_settled())
                .count();
            if waiting == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "{waiting} connections still wait after {limit:?}"
                )));
            }
            self.turn(Some(Duration::from_millis(20)))?;
        }
    }

    /// Lets `act` speak at a rate, `per_second` times spread over the connections in turn, each time
    /// with the moment at which it was due, for `time`. What comes late is late: nothing is skipped.
    ///
    /// # Errors
    /// When a connection fails, or nothing at all was counted.
    pub(crate) fn pace(
        &mut self,
        per_second: u32,
        time: Duration,
        mut act: impl FnMut(&mut S, Instant, &mut Line<'_>) -> Result<()>,
    ) -> Result<Tally> {
        let gap = Duration::from_secs(1) / per_second.max(1);
        let ticks = u32::try_from(time.as_nanos() / gap.as_nanos().max(1)).unwrap_or(u32::MAX);
        let waker = Arc::clone(&self.waker);
        self.tally = Tally::default();
        let start = Instant::now() + gap;
        let metronome = thread::spawn(move || {
            for tick in 0..ticks {
                thread::sleep((start + gap * tick).saturating_duration_since(Instant::now()));
                if waker.wake().is_err() {
                    return;
                }
            }
        });
        let mut paced = || {
            let mut next = 0;
            while next < ticks {
                self.turn(Some(Duration::from_millis(100)))?;
                loop {
                    let now = Instant::now();
                    let due = start + gap * next;
                    if due > now || next == ticks {
                        break;
                    }
                    self.tally.lateness.record(now - due);
                    let slot = next as usize % self.connections.len().max(1);
                    self.speak(slot, now, &mut |script, line| act(script, due, line))?;
                    next += 1;
                }
            }
            self.settle(LAST_ECHOES)
        };
        let outcome = paced();
        if metronome.join().is_err() {
            return Err(Failure::new("the metronome broke"));
        }
        outcome?;
        if self.tally.units == 0 {
            return Err(Failure::new(format!("not one unit in {time:?}")));
        }
        Ok(std::mem::take(&mut self.tally))
    }

    fn speak(
        &mut self,
        slot: usize,
        now: Instant,
        act: &mut impl FnMut(&mut S, &mut Line<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return Ok(());
        };
        act(
            &mut connection.script,
            &mut Line {
                wire: &mut connection.wire,
                tally: &mut self.tally,
                opened: connection.opened,
                now,
            },
        )
    }

    fn connect(&mut self, slot: usize) -> Result<()> {
        let opened = Instant::now();
        let mut wire = Wire::connect(self.target.address, self.target.tls.as_ref())
            .map_err(Failure::of("cannot connect"))?;
        self.poll.registry().register(
            &mut wire.socket,
            Token(slot),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.connections[slot] = Some(Connection {
            wire,
            script: (self.make)(),
            opened,
            phase: Phase::Connecting,
        });
        Ok(())
    }

    fn turn(&mut self, wait: Option<Duration>) -> Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let Token(slot) = event.token();
            if event.token() != METRONOME {
                self.ready(slot, event.is_read_closed())?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Serves one connection as far as it goes.
    fn ready(&mut self, slot: usize, read_closed: bool) -> Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return Ok(());
        };
        let was_settled = connection.script.is_settled();
        let serve = connection.serve(&mut self.scratch, &mut self.tally, read_closed);
        let ended = serve.map_err(Failure::of(&format!("connection {slot}")))?;
        if let Some(expected) = self.target.handshake
            && self.measuring
            && ended
            && connection.wire.handshake_kind() != Some(expected)
        {
            return Err(Failure::new(format!(
                "a TLS handshake was {:?}, not {expected:?}",
                connection.wire.handshake_kind()
            )));
        }
        if ended {
            // The first connection of a place is settled once its life was lived.
            self.settled = (self.settled + 1).min(self.connections.len());
            self.connections[slot] = None;
            return self.connect(slot);
        }
        if !was_settled && connection.script.is_settled() && self.settled < self.connections.len() {
            self.settled += 1;
        }
        Ok(())
    }
}

impl<S: Script> Connection<S> {
    /// Returns whether the connection is at its end, as the script wished.
    fn serve(
        &mut self,
        scratch: &mut Scratch,
        tally: &mut Tally,
        read_closed: bool,
    ) -> Result<bool> {
        if self.phase == Phase::Connecting {
            if let Some(error) = self.wire.socket.take_error()? {
                return Err(Failure::of("cannot connect")(error));
            }
            self.phase = Phase::TlsHandshake;
        }
        self.wire.flush()?;
        loop {
            if self.phase == Phase::TlsHandshake && self.wire.is_open() {
                self.phase = Phase::Talking;
                let mut line = Line {
                    wire: &mut self.wire,
                    tally,
                    opened: self.opened,
                    now: Instant::now(),
                };
                self.script.begin(&mut line)?;
            }
            let read = match self.wire.receive(scratch, read_closed)? {
                Received::Bytes(read) => read,
                Received::Nothing if self.phase == Phase::TlsHandshake && self.wire.is_open() => {
                    continue;
                }
                Received::Nothing => return Ok(false),
                Received::End if self.phase == Phase::Ending => {
                    tally.units += 1;
                    tally.latency.record(self.opened.elapsed());
                    return Ok(true);
                }
                Received::End => return Err(Failure::new("the proxy closed it")),
            };
            if self.phase == Phase::Ending {
                return Err(Failure::new(format!("{read} bytes after the end")));
            }
            let mut line = Line {
                wire: &mut self.wire,
                tally,
                opened: self.opened,
                now: Instant::now(),
            };
            match self.script.receive(&scratch.clear[..read], &mut line)? {
                Next::More => {}
                Next::End => {
                    // Both ends close now, as after a Close that was answered nothing may follow.
                    self.wire.finish()?;
                    self.phase = Phase::Ending;
                }
                Next::Done => {
                    line.count(self.opened);
                    return Ok(true);
                }
            }
        }
    }
}

const METRONOME: Token = Token(usize::MAX);
/// WebSockets in a batch.
pub(crate) const AT_ONCE: usize = 64;
/// Longest time to open the connections of a row.
const OPENING: Duration = Duration::from_secs(60);
/// Longest time for an echo on each connection of a batch.
const BATCH: Duration = Duration::from_secs(10);
/// A connection that took nothing for so long is full.
const STUFFED: Duration = Duration::from_millis(300);
/// Longest wait for the last echoes of a paced run.
const LAST_ECHOES: Duration = Duration::from_secs(5);
