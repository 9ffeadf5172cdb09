//! Rows of traffic on a proxy that runs: scripts that never stop, first to warm up, then counted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Contestant, Effort, Sample, sample};
use crate::backend;
use crate::failure::Result;
use crate::frames::Message;
use crate::generator::{AT_ONCE, Generator, Script, deflate, http1, http2 as h2, ws};
use crate::measure::processes::CpuReading;
use crate::plan::{Body, Figure, Transport};

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
    let exchange = h2::Exchange::new(backend::small_body(), streams);
    let generator = Generator::new(contestant.http2(), move || h2::Streams::new(&exchange))?;
    saturate(generator, connections, contestant.process(), effort)
}

/// GETs with and without a filter, by turns on the same proxy, so that what disturbs one disturbs
/// the other.
pub(super) fn filter(
    contestant: &Contestant<'_>,
    effort: Effort,
    connections: usize,
) -> Result<Sample> {
    by_turns(effort, |filtered, turn| {
        let (path, field) = match filtered {
            true => (backend::FILTERED, Some(("x-frame-options", "DENY"))),
            false => ("/", None),
        };
        let exchange = http1::Exchange::new(path, backend::small_body(), false, field);
        let target = contestant.target(Transport::Plain);
        let generator = Generator::new(target, move || http1::Get::new(&exchange))?;
        saturate(generator, connections, contestant.process(), turn)
    })
}

/// Echoes of text with and without a message filter, by turns as above.
pub(super) fn message_filter(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    connections: usize,
) -> Result<Sample> {
    by_turns(effort, |filtered, turn| {
        let message = Rc::new(RefCell::new(Message::text(size)));
        let target = contestant.filtered(filtered);
        let generator = Generator::new(target, move || match filtered {
            true => ws::Echo::endless(&message).filtered(),
            false => ws::Echo::endless(&message),
        })?;
        saturate(generator, connections, contestant.process(), turn)
    })
}

/// Echoes of text that is compressed on its way, and of text that is not, by turns as above.
pub(super) fn compression(
    contestant: &Contestant<'_>,
    effort: Effort,
    size: usize,
    connections: usize,
) -> Result<Sample> {
    by_turns(effort, |compressed, turn| {
        let target = contestant.target(Transport::Plain);
        if compressed {
            let generator = Generator::new(target, move || deflate::Echo::endless(size))?;
            return saturate(generator, connections, contestant.process(), turn);
        }
        let message = Rc::new(RefCell::new(Message::text(size)));
        let generator = Generator::new(target, move || ws::Echo::endless(&message))?;
        saturate(generator, connections, contestant.process(), turn)
    })
}

/// What something adds to a unit: `measure` is asked without and with it by turns.
fn by_turns(
    effort: Effort,
    mut measure: impl FnMut(bool, Effort) -> Result<Sample>,
) -> Result<Sample> {
    let turn = Effort {
        time: effort.time / FILTER_TURNS,
        warm_up: effort.warm_up / FILTER_TURNS,
        ..effort
    };
    let (mut with, mut without) = (0.0, 0.0);
    for _ in 0..FILTER_TURNS {
        without += measure(false, turn)?[&Figure::Cpu];
        with += measure(true, turn)?[&Figure::Cpu];
    }
    let turns = f64::from(FILTER_TURNS);
    Ok(BTreeMap::from([
        (Figure::AddedCpu, (with - without) / turns),
        (Figure::Cpu, with / turns),
    ]))
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
const FILTER_TURNS: u32 = 2;
