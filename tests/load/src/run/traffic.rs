//! Rows of traffic on a proxy that runs: scripts that never stop, first to warm up, then counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Contestant, Effort, ONWARD, Sample, sample};
use crate::backend;
use crate::failure::Result;
use crate::frames::Message;
use crate::generator::http2::requests::{Exchange, Streams};
use crate::generator::http2::sockets::Sockets;
use crate::generator::{AT_ONCE, Generator, Script, deflate, http1, ws};
use crate::measure::processes::CpuReading;
use crate::plan::{Body, Figure, Onward, Spread, Transport};

/// CPU of a unit, in microseconds.
struct Turns {
    without: f64,
    with: f64,
}

/// Echo round trips, one after the other on each connection.
pub(super) fn echo(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    connections: usize,
    transport: Transport,
) -> Result<Sample> {
    let message = Rc::new(RefCell::new(Message::new(size)));
    let target = contestant.target(transport);
    let generator = Generator::new(target, move || ws::Echo::endless(&message))?;
    saturate(generator, connections, contestant.process(), effort)
}

/// Echo round trips at a rate.
pub(super) fn paced(
    contestant: &Contestant<'_>,
    effort: Effort,
    per_second: u32,
    connections: usize,
    transport: Transport,
) -> Result<Sample> {
    let message = Rc::new(RefCell::new(Message::new(PACED_SIZE)));
    let target = contestant.target(transport);
    let mut generator = Generator::new(target, move || ws::Echo::on_demand(&message))?;
    generator.open(connections, AT_ONCE)?;
    generator.pace(per_second, effort.warm_up, ws::Echo::send)?;
    let before = CpuReading::take(contestant.process())?;
    let tally = generator.pace(per_second, effort.time, ws::Echo::send)?;
    let after = CpuReading::take(contestant.process())?;
    let mut sample = sample(&tally, before, after, effort.time);
    let late = tally.lateness.quantile(0.99).as_secs_f64() * 1e3;
    sample.insert(Figure::GeneratorLate, late);
    Ok(sample)
}

/// Whole lives of WebSockets.
pub(super) fn life(
    contestant: &Contestant<'_>,
    effort: Effort,
    at_once: usize,
    transport: Transport,
) -> Result<Sample> {
    let close = ws::Close::new();
    let target = contestant.target(transport);
    let generator = Generator::new(target, move || ws::Life::new(&close))?;
    saturate(generator, at_once, contestant.process(), effort)
}

/// HTTP/1.1 GETs.
pub(super) fn get(
    contestant: &Contestant<'_>,
    effort: Effort,
    body: Body,
    connections: usize,
    transport: Transport,
    fresh: bool,
) -> Result<Sample> {
    let exchange = match body {
        Body::Small => http1::Exchange::new("/", backend::small_body(), fresh, None),
        Body::Large => http1::Exchange::new("/64k", backend::large_body(), fresh, None),
    };
    let target = contestant.target(transport);
    let generator = Generator::new(target, move || http1::Get::new(&exchange))?;
    saturate(generator, connections, contestant.process(), effort)
}

/// HTTP/2 GETs.
pub(super) fn http2(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
    streams: usize,
) -> Result<Sample> {
    http2_get("/", contestant, effort, connections, streams)
}

/// HTTP/2 GETs that go on over HTTP/2, and as many that go on over HTTP/1.1, by turns on the same proxy.
pub(super) fn http2_to_http2(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
    streams: usize,
) -> Result<Sample> {
    let turns = by_turns(effort, |onward, turn| {
        let path = if onward { ONWARD } else { "/" };
        http2_get(path, contestant, turn, connections, streams)
    })?;
    Ok(turns.times_http1())
}

fn http2_get(
    path: &str,
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
    streams: usize,
) -> Result<Sample> {
    let exchange = Exchange::new(path, backend::small_body(), streams);
    let target = contestant.http2(Transport::Tls);
    let generator = Generator::new(target, move || Streams::new(&exchange))?;
    saturate(generator, connections, contestant.process(), effort)
}

/// Echoes of WebSockets over HTTP/2, and of as many over HTTP/1.1 all the way, by turns on the same proxy.
pub(super) fn sockets(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    spread: Spread,
    transport: Transport,
    onward: Onward,
) -> Result<Sample> {
    let turns = by_turns(effort, |over_http2, turn| {
        if !over_http2 {
            return echo(contestant, turn, size, spread.sockets(), transport);
        }
        let message = Rc::new(RefCell::new(Message::new(size)));
        let opening = contestant.opening(transport, spread.each, onward);
        let target = contestant.http2(transport);
        let generator = Generator::new(target, move || Sockets::endless(&opening, &message))?;
        saturate(generator, spread.connections, contestant.process(), turn)
    })?;
    Ok(turns.times_http1())
}

/// GETs with and without a filter, by turns on the same proxy, so that what disturbs one disturbs
/// the other.
pub(super) fn filter(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
) -> Result<Sample> {
    let turns = by_turns(effort, |filtered, turn| {
        let (path, field) = match filtered {
            true => (backend::FILTERED, Some(("x-frame-options", "DENY"))),
            false => ("/", None),
        };
        let exchange = http1::Exchange::new(path, backend::small_body(), false, field);
        let target = contestant.target(Transport::Plain);
        let generator = Generator::new(target, move || http1::Get::new(&exchange))?;
        saturate(generator, connections, contestant.process(), turn)
    })?;
    Ok(turns.added())
}

/// Echoes of text with and without a message filter, by turns as above.
pub(super) fn message_filter(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    connections: usize,
) -> Result<Sample> {
    let turns = by_turns(effort, |filtered, turn| {
        let message = Rc::new(RefCell::new(Message::text(size)));
        let target = contestant.filtered(filtered);
        let generator = Generator::new(target, move || match filtered {
            true => ws::Echo::endless(&message).filtered(),
            false => ws::Echo::endless(&message),
        })?;
        saturate(generator, connections, contestant.process(), turn)
    })?;
    Ok(turns.added())
}

/// Echoes of text that is compressed on its way, and of text that is not, by turns as above.
pub(super) fn compression(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    connections: usize,
) -> Result<Sample> {
    let turns = by_turns(effort, |compressed, turn| {
        let target = contestant.target(Transport::Plain);
        if compressed {
            let generator = Generator::new(target, move || deflate::Echo::endless(size))?;
            return saturate(generator, connections, contestant.process(), turn);
        }
        let message = Rc::new(RefCell::new(Message::text(size)));
        let generator = Generator::new(target, move || ws::Echo::endless(&message))?;
        saturate(generator, connections, contestant.process(), turn)
    })?;
    Ok(turns.added())
}

/// CPU of a unit without something and with it: `measure` is asked for each by turns.
fn by_turns(
    effort: Effort,
    mut measure: impl FnMut(bool, Effort) -> Result<Sample>,
) -> Result<Turns> {
    let turn = Effort {
        time: effort.time / TURNS,
        warm_up: effort.warm_up / TURNS,
        ..effort
    };
    let mut turns = Turns {
        without: 0.0,
        with: 0.0,
    };
    for _ in 0..TURNS {
        turns.without += measure(false, turn)?[&Figure::Cpu] / f64::from(TURNS);
        turns.with += measure(true, turn)?[&Figure::Cpu] / f64::from(TURNS);
    }
    Ok(turns)
}

impl Turns {
    /// What it adds.
    fn added(self) -> Sample {
        BTreeMap::from([
            (Figure::AddedCpu, self.with - self.without),
            (Figure::Cpu, self.with),
        ])
    }

    /// What it multiplies.
    fn times_http1(self) -> Sample {
        BTreeMap::from([
            (Figure::Cpu, self.with),
            (Figure::TimesHttp1, self.with / self.without),
        ])
    }
}

fn saturate<S: Script>(
    mut generator: Generator<S>,
    connections: usize,
    process: u32,
    effort: Effort,
) -> Result<Sample> {
    generator.open(connections, AT_ONCE)?;
    generator.run(effort.warm_up)?;
    let before = CpuReading::take(process)?;
    let tally = generator.run(effort.time)?;
    let after = CpuReading::take(process)?;
    Ok(sample(&tally, before, after, effort.time))
}

const PACED_SIZE: usize = 64;
const TURNS: u32 = 2;
