//! Rows with many connections: their memory, their coming, and what the few busy ones pay for the
//! many idle or slow. Each is measured on a proxy that was started for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Contestant, Effort, Sample, sample};
use crate::failure::Result;
use crate::frames::Message;
use crate::generator::http2::sockets::Sockets;
use crate::generator::{AT_ONCE, Generator, Held, Target, ws};
use crate::measure::processes::{CpuReading, memory};
use crate::plan::{Figure, Onward, Spread, Transport};

/// Memory of idle connections beyond that of a proxy that has served one: after an echo of 64 bytes
/// on each, after one of 16 KiB on each, and what remains when all have closed.
pub(super) fn idle(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
    transport: Transport,
) -> Result<Sample> {
    hold(
        contestant,
        effort,
        contestant.target(transport),
        Spread {
            connections,
            each: 1,
        },
        ws::Echo::on_demand,
    )
}

/// The same with a message filter on each.
pub(super) fn filtered_idle(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
) -> Result<Sample> {
    hold(
        contestant,
        effort,
        contestant.filtered(true),
        Spread {
            connections,
            each: 1,
        },
        |message| ws::Echo::on_demand(message).filtered(),
    )
}

/// The same with WebSockets over HTTP/2, over TLS; the memory is that of a socket.
pub(super) fn idle_sockets(
    contestant: &Contestant<'_>,
    effort: Effort,
    spread: Spread,
) -> Result<Sample> {
    let transport = Transport::Tls;
    let opening = contestant.opening(transport, spread.each, Onward::Http1);
    hold(
        contestant,
        effort,
        contestant.http2(transport),
        spread,
        move |message| Sockets::on_demand(&opening, message),
    )
}

/// Holds WebSockets that `make` makes, so many of them on each connection.
fn hold<S: Held>(
    contestant: &Contestant<'_>,
    effort: Effort,
    target: Target,
    spread: Spread,
    make: impl Fn(&Rc<RefCell<Message>>) -> S + Clone + 'static,
) -> Result<Sample> {
    let process = contestant.process();
    let (small, large) = (message(SMALL), message(LARGE));
    // What a first connection costs once, code that is mapped and buffers that all share, is no
    // connection's own.
    first_connection(target.clone(), make.clone())?;
    thread::sleep(effort.rest);
    let empty = memory(process)?;
    let more = |now: u64| now.saturating_sub(empty) as f64;

    let at_once = AT_ONCE / spread.each;
    let mut generator = Generator::new(target, move || make(&small))?;
    generator.open(spread.connections, at_once)?;
    generator.each(at_once, S::say)?;
    // Some give memory back at once, some when they next look after it.
    thread::sleep(effort.rest * 6);
    let idle = more(memory(process)?);

    generator.each(at_once, |held, line| {
        held.change(&large);
        held.say(line)
    })?;
    thread::sleep(effort.rest);
    let after_large = more(memory(process)?);

    drop(generator);
    thread::sleep(effort.rest * 6);
    let kept = more(memory(process)?);
    let each = spread.sockets() as f64 * 1024.0;
    Ok(BTreeMap::from([
        (Figure::IdleKib, idle / each),
        (Figure::AfterLargeKib, after_large / each),
        (Figure::KeptMib, kept / MIB),
    ]))
}

/// One connection that echoes a large message and goes.
fn first_connection<S: Held>(
    target: Target,
    make: impl Fn(&Rc<RefCell<Message>>) -> S + 'static,
) -> Result<()> {
    let large = message(LARGE);
    let mut generator = Generator::new(target, move || make(&large))?;
    generator.open(1, 1)?;
    generator.each(1, S::say)
}

/// Echoes on the busy connections while the idle ones are there.
pub(super) fn crowd(
    contestant: &Contestant<'_>,
    effort: Effort,
    idle: usize,
    busy: usize,
) -> Result<Sample> {
    let process = contestant.process();
    let small = message(SMALL);
    let empty = memory(process)?;
    let target = contestant.target(Transport::Plain);
    let quiet = Rc::clone(&small);
    let mut sleepers = Generator::new(target.clone(), move || ws::Echo::on_demand(&quiet))?;
    sleepers.open(idle, AT_ONCE)?;
    let mut workers = Generator::new(target, move || ws::Echo::endless(&small))?;
    workers.open(busy, AT_ONCE)?;
    let sample = beside(&mut workers, process, empty, effort)?;
    // Nobody was dropped to make room: each idle one still echoes.
    sleepers.each(AT_ONCE, Held::say)?;
    Ok(sample)
}

/// All connections at once; a unit is one that got its 101.
pub(super) fn burst(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
    transport: Transport,
) -> Result<Sample> {
    let process = contestant.process();
    let small = message(SMALL);
    let empty = memory(process)?;
    let target = contestant.target(transport);
    let mut generator = Generator::new(target, move || ws::Echo::counting_openings(&small))?;
    let before = CpuReading::take(process)?;
    let start = Instant::now();
    generator.open(connections, connections)?;
    let time = start.elapsed();
    let after = CpuReading::take(process)?;
    let mut sample = sample(&generator.take_tally(), before, after, time);
    thread::sleep(effort.rest);
    let held = memory(process)?.saturating_sub(empty);
    sample.insert(Figure::HeldMib, held as f64 / MIB);
    Ok(sample)
}

/// Echoes on the busy connections while the slow ones have sent all they could and read nothing.
pub(super) fn slow_readers(
    contestant: &Contestant<'_>,
    effort: Effort,
    busy: usize,
    slow: usize,
) -> Result<Sample> {
    let process = contestant.process();
    let large = message(LARGE);
    let empty = memory(process)?;
    let target = contestant.target(Transport::Plain);
    let unread = Rc::clone(&large);
    let mut readers = Generator::new(target.clone(), move || ws::Echo::on_demand(&unread))?;
    readers.open(slow, AT_ONCE)?;
    let mut workers = Generator::new(target, move || ws::Echo::endless(&large))?;
    workers.open(busy, AT_ONCE)?;
    readers.stuff(STUFFING, |echo, line| echo.send(line.now, line))?;
    let sample = beside(&mut workers, process, empty, effort)?;
    // Late is not lost: every echo is there once they read.
    readers.catch_up(CATCHING_UP)?;
    Ok(sample)
}

/// What the busy ones cost, and what is held meanwhile beyond `empty`.
fn beside(
    workers: &mut Generator<ws::Echo>,
    process: u32,
    empty: u64,
    effort: Effort,
) -> Result<Sample> {
    workers.run(effort.warm_up)?;
    let before = CpuReading::take(process)?;
    let tally = workers.run(effort.time)?;
    let after = CpuReading::take(process)?;
    let held = memory(process)?.saturating_sub(empty);
    let mut sample = sample(&tally, before, after, effort.time);
    sample.insert(Figure::HeldMib, held as f64 / MIB);
    Ok(sample)
}

fn message(size: usize) -> Rc<RefCell<Message>> {
    Rc::new(RefCell::new(Message::new(size)))
}

const SMALL: usize = 64;
const LARGE: usize = 16 * 1024;
const MIB: f64 = 1024.0 * 1024.0;
/// Kernels buffer some megabytes for each connection.
const STUFFING: Duration = Duration::from_secs(30);
const CATCHING_UP: Duration = Duration::from_secs(30);
