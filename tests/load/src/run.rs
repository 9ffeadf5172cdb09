//! Carries the plan out: every row with every peer, in alternating rounds.
//!
//! A failure spoils the row of the peer it happened with, visibly, and nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind};

use crate::backend;
use crate::failure::Result;
use crate::frames::Message;
use crate::generator::tls::{Identity, Sessions};
use crate::generator::{Generator, Script, Tally, Target, http1, http2, ws};
use crate::measure::processes::CpuReading;
use crate::measure::series::Series;
use crate::peers::{Found, Running, Site};
use crate::plan::{Body, Figure, Row, Transport, Work};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    /// Of each measurement.
    pub(crate) time: Duration,
    /// Before each measurement.
    pub(crate) warm_up: Duration,
}

/// What became of one row.
#[derive(Debug)]
pub(crate) struct RowResult {
    pub(crate) row: Row,
    /// By the peers' names, in the order of the run.
    pub(crate) peers: Vec<(&'static str, Outcome)>,
}

/// What became of one row with one peer.
pub(crate) type Outcome = std::result::Result<BTreeMap<Figure, Series>, String>;

/// The figures of one measurement.
type Sample = BTreeMap<Figure, f64>;

/// A peer while the benchmark runs.
pub(crate) struct Contestant<'a> {
    pub(crate) found: &'a Found,
    pub(crate) running: Running,
    /// What the generator offers it; each peer gets its own, because tickets are kept inside.
    offers: Offers,
}

struct Offers {
    full: Arc<ClientConfig>,
    resumed: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl<'a> Contestant<'a> {
    /// Starts the peer.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start(found: &'a Found, site: &Site) -> Result<Contestant<'a>> {
        Ok(Contestant {
            found,
            running: found.start(site)?,
            offers: Offers::new(&site.identity)?,
        })
    }

    fn target(&self, transport: Transport) -> Target {
        let (address, tls, handshake) = match transport {
            Transport::Plain => (self.running.plain, None, None),
            Transport::Tls => (
                self.running.tls,
                Some(&self.offers.full),
                Some(HandshakeKind::Full),
            ),
            Transport::TlsResumed => (
                self.running.tls,
                Some(&self.offers.resumed),
                Some(HandshakeKind::Resumed),
            ),
        };
        Target {
            address,
            tls: tls.map(Arc::clone),
            handshake,
        }
    }
}

impl Offers {
    fn new(identity: &Identity) -> Result<Offers> {
        Ok(Offers {
            full: identity.client(Sessions::Full, b"http/1.1")?,
            resumed: identity.client(Sessions::Resumed, b"http/1.1")?,
            http2: identity.client(Sessions::Full, b"h2")?,
        })
    }
}

/// Measures one row with all contestants and says on standard error how it goes.
pub(crate) fn measure_row(row: &Row, contestants: &[Contestant<'_>], effort: Effort) -> RowResult {
    let mut samples: Vec<std::result::Result<Vec<Sample>, String>> =
        contestants.iter().map(|_| Ok(Vec::new())).collect();
    for round in 0..effort.rounds {
        for step in 0..contestants.len() {
            // Each round begins with another one, so that none always follows the same.
            let at = (step + round as usize) % contestants.len();
            let Ok(earlier) = &mut samples[at] else {
                continue;
            };
            match measure(row.work, &contestants[at], effort) {
                Ok(sample) => earlier.push(sample),
                Err(failure) => samples[at] = Err(failure.to_string()),
            }
        }
    }
    let peers = contestants
        .iter()
        .zip(samples)
        .map(|(contestant, samples)| {
            let outcome = samples.map(|samples| summary(&samples));
            tell(row, contestant.found.peer.name, &outcome);
            (contestant.found.peer.name, outcome)
        })
        .collect();
    RowResult {
        row: row.clone(),
        peers,
    }
}

fn summary(samples: &[Sample]) -> BTreeMap<Figure, Series> {
    let figures = samples.iter().flat_map(|sample| sample.keys().copied());
    figures
        .filter_map(|figure| {
            let values = samples.iter().filter_map(|sample| sample.get(&figure));
            Some((figure, Series::of(values.copied())?))
        })
        .collect()
}

fn tell(row: &Row, peer: &str, outcome: &Outcome) {
    let said = match outcome {
        Ok(figures) => figures
            .iter()
            .map(|(figure, series)| format!("{} {:.1}", figure.title(), series.median))
            .collect::<Vec<_>>()
            .join(", "),
        Err(failure) => format!("FAILED: {failure}"),
    };
    let _ = writeln!(io::stderr(), "{:<24} {peer:<12} {said}", row.id);
}

fn measure(work: Work, contestant: &Contestant<'_>, effort: Effort) -> Result<Sample> {
    let process = contestant.running.process();
    match work {
        Work::Echo {
            size,
            connections,
            transport,
        } => {
            let message = Rc::new(RefCell::new(Message::new(size)));
            let target = contestant.target(transport);
            let generator = Generator::new(target, move || ws::Echo::endless(&message))?;
            saturate(generator, connections, process, effort)
        }
        Work::Paced {
            per_second,
            connections,
            transport,
        } => {
            let message = Rc::new(RefCell::new(Message::new(PACED_SIZE)));
            let target = contestant.target(transport);
            let mut generator = Generator::new(target, move || ws::Echo::on_demand(&message))?;
            generator.open(connections, OPENING_AT_ONCE)?;
            generator.pace(per_second, effort.warm_up, ws::Echo::send)?;
            let before = CpuReading::take(process)?;
            let tally = generator.pace(per_second, effort.time, ws::Echo::send)?;
            let after = CpuReading::take(process)?;
            Ok(sample(&tally, before, after, effort.time))
        }
        Work::Life { at_once, transport } => {
            let close = ws::Close::new();
            let target = contestant.target(transport);
            let generator = Generator::new(target, move || ws::Life::new(&close))?;
            saturate(generator, at_once, process, effort)
        }
        Work::Get {
            body,
            connections,
            transport,
            fresh,
        } => {
            let exchange = match body {
                Body::Small => http1::Exchange::new("/", backend::small_body(), fresh, None),
                Body::Large => http1::Exchange::new("/64k", backend::large_body(), fresh, None),
            };
            let target = contestant.target(transport);
            let generator = Generator::new(target, move || http1::Get::new(&exchange))?;
            saturate(generator, connections, process, effort)
        }
        Work::Http2 {
            connections,
            streams,
        } => {
            let exchange = http2::Exchange::new(backend::small_body(), streams);
            let target = Target {
                address: contestant.running.tls,
                tls: Some(Arc::clone(&contestant.offers.http2)),
                handshake: None,
            };
            let generator = Generator::new(target, move || http2::Streams::new(&exchange))?;
            saturate(generator, connections, process, effort)
        }
    }
}

/// Lets scripts that never stop run, first to warm up, then counted.
fn saturate<S: Script>(
    mut generator: Generator<S>,
    connections: usize,
    process: u32,
    effort: Effort,
) -> Result<Sample> {
    generator.open(connections, OPENING_AT_ONCE)?;
    generator.run(effort.warm_up)?;
    let before = CpuReading::take(process)?;
    let tally = generator.run(effort.time)?;
    let after = CpuReading::take(process)?;
    Ok(sample(&tally, before, after, effort.time))
}

fn sample(tally: &Tally, before: CpuReading, after: CpuReading, time: Duration) -> Sample {
    let units = tally.units as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    BTreeMap::from([
        (Figure::Cpu, micros(after.since(&before)) / units),
        (Figure::Rate, units / time.as_secs_f64()),
        (Figure::P50, micros(tally.latency.quantile(0.5))),
        (Figure::P99, micros(tally.latency.quantile(0.99))),
        (Figure::P999, micros(tally.latency.quantile(0.999))),
    ])
}

const PACED_SIZE: usize = 64;
/// Connections on their way at once while a row is being set up.
const OPENING_AT_ONCE: usize = 64;
