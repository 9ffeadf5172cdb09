//! Carries the plan out: every row with every peer, in alternating rounds.
//!
//! A failure spoils the row of the peer it happened with, visibly, and nothing else.

mod crowds;
mod traffic;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, HandshakeKind};

use crate::failure::Result;
use crate::generator::http2::sockets::Opening;
use crate::generator::tls::{Identity, Sessions};
use crate::generator::{Tally, Target};
use crate::measure::processes::CpuReading;
use crate::measure::series::Series;
use crate::peers::{Door, Found, Role, Running, Site};
use crate::plan::{Figure, Onward, Row, Transport, Work};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    /// Of each measurement.
    pub(crate) time: Duration,
    /// Before each measurement.
    pub(crate) warm_up: Duration,
    /// For a proxy to come to rest before its memory is read.
    pub(crate) rest: Duration,
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
    running: Running,
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

    fn process(&self) -> u32 {
        self.running.process()
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

    /// Where a message filter is, or is not.
    fn filtered(&self, filtered: bool) -> Target {
        match (filtered, self.found.peer.door) {
            (true, Door::OtherPort) => Target {
                address: self.running.tls,
                ..self.target(Transport::Plain)
            },
            _ => self.target(Transport::Plain),
        }
    }

    fn http2(&self, transport: Transport) -> Target {
        Target {
            tls: (transport != Transport::Plain).then(|| Arc::clone(&self.offers.http2)),
            handshake: None,
            ..self.target(transport)
        }
    }

    /// What opens WebSockets over HTTP/2, so many on each connection.
    fn opening(&self, transport: Transport, count: usize, onward: Onward) -> Rc<Opening> {
        let (path, key) = match onward {
            Onward::Http1 => ("/ws", self.found.peer.needs_key),
            Onward::Http2 => (ONWARD, false),
        };
        Opening::new(path, transport != Transport::Plain, count, key)
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

/// Measures one row with all contestants that take part in it, and says on standard error how it
/// goes.
pub(crate) fn measure_row(
    row: &Row,
    contestants: &[Contestant<'_>],
    site: &Site,
    effort: Effort,
) -> RowResult {
    let role = Role::of(row.section());
    let contestants: Vec<&Contestant<'_>> = contestants
        .iter()
        .filter(|contestant| contestant.found.peer.role == role)
        .collect();
    let mut samples: Vec<std::result::Result<Vec<Sample>, String>> =
        contestants.iter().map(|_| Ok(Vec::new())).collect();
    let rounds = if row.is_measured_once() {
        1
    } else {
        effort.rounds
    };
    for round in 0..rounds {
        for step in 0..contestants.len() {
            // Each round begins with another one, so that none always follows the same.
            let at = (step + round as usize) % contestants.len();
            let Ok(earlier) = &mut samples[at] else {
                continue;
            };
            match measure(row.work, contestants[at], site, effort) {
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

fn measure(work: Work, contestant: &Contestant<'_>, site: &Site, effort: Effort) -> Result<Sample> {
    let fresh = || Contestant::start(contestant.found, site);
    match work {
        Work::Echo {
            size,
            connections,
            transport,
        } => traffic::echo(contestant, effort, size, connections, transport),
        Work::Paced {
            per_second,
            connections,
            transport,
        } => traffic::paced(contestant, effort, per_second, connections, transport),
        Work::Life { at_once, transport } => traffic::life(contestant, effort, at_once, transport),
        Work::Get {
            body,
            connections,
            transport,
            fresh,
        } => traffic::get(contestant, effort, body, connections, transport, fresh),
        Work::Http2 {
            connections,
            streams,
        } => traffic::http2(contestant, effort, connections, streams),
        Work::Http2ToHttp2 {
            connections,
            streams,
        } => traffic::http2_to_http2(contestant, effort, connections, streams),
        Work::Sockets {
            size,
            spread,
            transport,
            onward,
        } => traffic::sockets(contestant, effort, size, spread, transport, onward),
        Work::IdleSockets { spread } => crowds::idle_sockets(&fresh()?, effort, spread),
        Work::Filter { connections } => traffic::filter(contestant, effort, connections),
        Work::MessageFilter { size, connections } => {
            traffic::message_filter(contestant, effort, size, connections)
        }
        Work::Compression { size, connections } => {
            traffic::compression(contestant, effort, size, connections)
        }
        Work::FilteredIdle { connections } => crowds::filtered_idle(&fresh()?, effort, connections),
        Work::Idle {
            connections,
            transport,
        } => crowds::idle(&fresh()?, effort, connections, transport),
        Work::Crowd { idle, busy } => crowds::crowd(&fresh()?, effort, idle, busy),
        Work::Burst {
            connections,
            transport,
        } => crowds::burst(&fresh()?, effort, connections, transport),
        Work::SlowReaders { busy, slow } => crowds::slow_readers(&fresh()?, effort, busy, slow),
    }
}

/// What a tally and two readings of the CPU time amount to.
fn sample(tally: &Tally, before: CpuReading, after: CpuReading, time: Duration) -> Sample {
    let units = tally.units as f64;
    let quantile = |share| tally.latency.quantile(share).as_secs_f64() * 1e3;
    BTreeMap::from([
        (
            Figure::Cpu,
            after.since(&before).as_secs_f64() * 1e6 / units,
        ),
        (Figure::Rate, units / time.as_secs_f64()),
        (Figure::P50, quantile(0.5)),
        (Figure::P99, quantile(0.99)),
        (Figure::P999, quantile(0.999)),
    ])
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
            .map(|(figure, series)| format!("{} {:.2}", figure.title(), series.median))
            .collect::<Vec<_>>()
            .join(", "),
        Err(failure) => format!("FAILED: {failure}"),
    };
    let _ = writeln!(io::stderr(), "{:<24} {peer:<15} {said}", row.id);
}

/// The path from which every proxy of [`Role::Http2`] goes on over HTTP/2.
const ONWARD: &str = "/onward/";
