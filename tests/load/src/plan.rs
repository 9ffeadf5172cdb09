//! The rows of the benchmark: what each does, how it is called, and what sluicegate wants to reach.

mod goals;
mod rows;

use std::fmt;

use goals::{GOALS, GOALS_OF_FORMS};
pub(crate) use rows::rows;

/// One row: one kind of work, measured with every peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// As `--only` and the tables name it, for example `echo/64B/500/plain`.
    pub(crate) id: String,
    pub(crate) work: Work,
    pub(crate) goals: Vec<Goal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Echo round trips, each connection sending again as soon as an echo is back.
    Echo {
        size: usize,
        connections: usize,
        transport: Transport,
    },
    /// Echo round trips at a rate; latency counts from when each was due.
    Paced {
        per_second: u32,
        connections: usize,
        transport: Transport,
    },
    /// Connect, upgrade, close in order; so many at once.
    Life {
        at_once: usize,
        transport: Transport,
    },
    /// HTTP/1.1 GETs.
    Get {
        body: Body,
        connections: usize,
        transport: Transport,
        /// A new connection for each.
        fresh: bool,
    },
    /// HTTP/2 GETs over TLS.
    Http2 { connections: usize, streams: usize },
    /// The same to a backend over HTTP/2, and to one over HTTP/1.1.
    Http2ToHttp2 { connections: usize, streams: usize },
    /// Echoes of WebSockets over HTTP/2, and of as many over HTTP/1.1.
    Sockets {
        size: usize,
        spread: Spread,
        transport: Transport,
        onward: Onward,
    },
    /// WebSockets over HTTP/2, over TLS, that are held.
    IdleSockets { spread: Spread },
    /// Connections that are held: after a small echo, after a large one, after they closed.
    Idle {
        connections: usize,
        transport: Transport,
    },
    /// Echoes on some connections while many more are idle.
    Crowd { idle: usize, busy: usize },
    /// Connections that all come at once.
    Burst {
        connections: usize,
        transport: Transport,
    },
    /// Echoes while other connections send and do not read what comes back.
    SlowReaders { busy: usize, slow: usize },
    /// GETs through a header filter, and the same without it.
    Filter { connections: usize },
    /// Echoes of text through a message filter, and the same without it.
    MessageFilter { size: usize, connections: usize },
    /// Echoes of compressed text, and the same without compression.
    Compression { size: usize, connections: usize },
    /// Connections that are held, with a message filter on each.
    FilteredIdle { connections: usize },
}

/// WebSockets over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) connections: usize,
    /// On each connection.
    pub(crate) each: usize,
}

/// How WebSockets over HTTP/2 go on from the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onward {
    /// On a connection of HTTP/1.1 for each.
    Http1,
    /// Over HTTP/2 without TLS.
    Http2,
}

/// Where a row stands in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Messages,
    Lives,
    Requests,
    Http2,
    Memory,
    Scale,
    Filters,
    MessageFilters,
    Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    /// TLS 1.3; connections that are opened while it is measured make full TLS handshakes.
    Tls,
    /// As `Tls`, with tickets of earlier connections.
    TlsResumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Small,
    Large,
}

/// What sluicegate wants to reach in one figure of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Goal {
    /// Which form of sluicegate; `None` is the first that takes part in the row.
    pub(crate) peer: Option<&'static str>,
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
}

/// How a goal is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// At most so many times nginx.
    Ratio(f64),
    /// At most this.
    Most(f64),
    /// No worse than the best peer.
    BestPeer,
}

/// A figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) enum Figure {
    /// Microseconds of CPU per unit.
    #[serde(rename = "cpu_us")]
    Cpu,
    /// Microseconds of CPU that a filter adds to a unit.
    #[serde(rename = "added_cpu_us")]
    AddedCpu,
    /// CPU of a unit over HTTP/2 as a multiple of the same over HTTP/1.1.
    #[serde(rename = "cpu_times_http1")]
    TimesHttp1,
    /// Units per second.
    #[serde(rename = "rate_per_s")]
    Rate,
    /// Latencies in milliseconds.
    #[serde(rename = "p50_ms")]
    P50,
    #[serde(rename = "p99_ms")]
    P99,
    #[serde(rename = "p99.9_ms")]
    P999,
    /// How late the generator itself was, 99 % of the time, in milliseconds.
    #[serde(rename = "generator_late_p99_ms")]
    GeneratorLate,
    /// KiB of memory per connection that has had one small echo.
    #[serde(rename = "idle_kib_each")]
    IdleKib,
    /// KiB of memory per connection that has had one 16 KiB echo.
    #[serde(rename = "after_16kib_kib_each")]
    AfterLargeKib,
    /// MiB of memory while all connections are open.
    #[serde(rename = "held_mib")]
    HeldMib,
    /// MiB of memory that remain when all connections are closed.
    #[serde(rename = "kept_mib")]
    KeptMib,
}

/// How long and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// Every kind of row with tiny counts.
    Smoke,
}

impl Row {
    fn new(id: String, work: Work) -> Row {
        let general = GOALS
            .iter()
            .filter(|(row, ..)| *row == id)
            .map(|&(_, figure, bound)| Goal::new(figure, bound));
        let of_forms = GOALS_OF_FORMS
            .iter()
            .filter(|(row, ..)| *row == id)
            .map(|&(_, peer, figure, bound)| Goal::new(figure, bound).of(peer));
        let goals = general.chain(of_forms).collect();
        Row { id, work, goals }
    }

    pub(crate) fn section(&self) -> Section {
        match self.work {
            Work::Echo { .. } | Work::Paced { .. } => Section::Messages,
            Work::Life { .. } => Section::Lives,
            Work::Get { .. } | Work::Http2 { .. } => Section::Requests,
            Work::Http2ToHttp2 { .. } | Work::Sockets { .. } | Work::IdleSockets { .. } => {
                Section::Http2
            }
            Work::Idle { .. } => Section::Memory,
            Work::Crowd { .. } | Work::Burst { .. } | Work::SlowReaders { .. } => Section::Scale,
            Work::Filter { .. } => Section::Filters,
            Work::MessageFilter { .. } | Work::FilteredIdle { .. } => Section::MessageFilters,
            Work::Compression { .. } => Section::Compression,
        }
    }

    /// Whether once is enough: it starts a proxy of its own, which is dear, and it hardly varies.
    pub(crate) fn is_measured_once(&self) -> bool {
        matches!(self.section(), Section::Memory | Section::Scale)
            || matches!(
                self.work,
                Work::FilteredIdle { .. } | Work::IdleSockets { .. }
            )
    }

    /// What a plot says of it.
    pub(crate) fn title(&self) -> String {
        match self.work {
            Work::Echo {
                size,
                connections,
                transport,
            } => {
                let size = match size {
                    bytes if bytes < 1024 => format!("{bytes} B"),
                    larger => format!("{} KiB", larger / 1024),
                };
                format!("echo {size}, {connections} conns, {}", transport.title())
            }
            Work::Life { transport, .. } => format!("WebSocket life, {}", transport.title()),
            Work::Get {
                body: Body::Small,
                transport,
                fresh,
                ..
            } => {
                let connection = if fresh { "new conn" } else { "kept" };
                format!("GET, {connection}, {}", transport.title())
            }
            Work::Http2 { .. } => "GET, HTTP/2, TLS".to_owned(),
            Work::Idle {
                connections,
                transport,
            } => format!("{connections} held, {}", transport.title()),
            _ => self.id.clone(),
        }
    }

    /// The figures that belong in the table, the leading one first.
    pub(crate) fn shown(&self) -> &'static [Figure] {
        match self.work {
            Work::Paced { .. } => &[Figure::P99, Figure::GeneratorLate],
            Work::Idle { .. } => &[Figure::IdleKib, Figure::AfterLargeKib, Figure::KeptMib],
            Work::Crowd { .. } | Work::Burst { .. } => &[Figure::Cpu, Figure::P99, Figure::HeldMib],
            Work::SlowReaders { .. } => &[Figure::HeldMib, Figure::Cpu],
            Work::FilteredIdle { .. } | Work::IdleSockets { .. } => {
                &[Figure::IdleKib, Figure::KeptMib]
            }
            Work::Http2ToHttp2 { .. } | Work::Sockets { .. } => &[Figure::Cpu, Figure::TimesHttp1],
            Work::Filter { .. } | Work::MessageFilter { .. } => &[Figure::AddedCpu],
            Work::Compression { .. } => &[Figure::AddedCpu, Figure::Cpu],
            _ => &[Figure::Cpu],
        }
    }

    /// Descriptors that one process needs for it at most: the proxy has two for each connection.
    pub(crate) fn descriptors(&self) -> u64 {
        let connections = match self.work {
            Work::Echo { connections, .. }
            | Work::Paced { connections, .. }
            | Work::Get { connections, .. }
            | Work::Http2 { connections, .. }
            | Work::Http2ToHttp2 { connections, .. }
            | Work::Idle { connections, .. }
            | Work::Burst { connections, .. }
            | Work::Filter { connections }
            | Work::MessageFilter { connections, .. }
            | Work::Compression { connections, .. }
            | Work::FilteredIdle { connections } => connections,
            Work::Life { at_once, .. } => at_once,
            Work::Sockets { spread, .. } | Work::IdleSockets { spread } => spread.sockets(),
            Work::Crowd { idle, busy } => idle + busy,
            Work::SlowReaders { busy, slow } => busy + slow,
        };
        2 * connections as u64 + SPARE_DESCRIPTORS
    }
}

impl Spread {
    pub(crate) fn sockets(self) -> usize {
        self.connections * self.each
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.connections, self.each)
    }
}

impl Goal {
    pub(crate) fn new(figure: Figure, bound: Bound) -> Goal {
        Goal {
            peer: None,
            figure,
            bound,
        }
    }

    /// The same for this form of sluicegate alone.
    pub(crate) fn of(self, peer: &'static str) -> Goal {
        Goal {
            peer: Some(peer),
            ..self
        }
    }
}

impl Transport {
    fn title(self) -> &'static str {
        match self {
            Transport::Plain => "plain",
            Transport::Tls => "TLS",
            Transport::TlsResumed => "TLS resumed",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Plain => "plain",
            Transport::Tls => "tls",
            Transport::TlsResumed => "tls-resumed",
        })
    }
}

impl Figure {
    /// Whether it is the proxy's doing, and a cost, so that proxies may be compared by it.
    pub(crate) fn is_the_proxys(self) -> bool {
        !matches!(self, Figure::GeneratorLate | Figure::TimesHttp1)
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU µs",
            Figure::Rate => "per s",
            Figure::P50 => "p50 ms",
            Figure::P99 => "p99 ms",
            Figure::P999 => "p99.9 ms",
            Figure::GeneratorLate => "of it the generator's",
            Figure::AddedCpu => "CPU µs added",
            Figure::TimesHttp1 => "× HTTP/1.1",
            Figure::IdleKib => "KiB each",
            Figure::AfterLargeKib => "KiB each after 16 KiB",
            Figure::HeldMib => "MiB held",
            Figure::KeptMib => "MiB kept",
        }
    }
}

impl Section {
    pub(crate) const ALL: [Section; 9] = [
        Section::Messages,
        Section::Lives,
        Section::Requests,
        Section::Http2,
        Section::Memory,
        Section::Scale,
        Section::Filters,
        Section::MessageFilters,
        Section::Compression,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Section::Messages => "Messages",
            Section::Lives => "Lives of a WebSocket",
            Section::Requests => "Requests",
            Section::Http2 => "WebSockets over HTTP/2, and HTTP/2 to the backend",
            Section::Memory => "Memory",
            Section::Scale => "Scale",
            Section::Filters => "Header filter",
            Section::MessageFilters => "Message filter",
            Section::Compression => "Compression that a proxy or server does itself",
        }
    }
}

/// Listeners, pipes, files, pooled connections to the backend.
const SPARE_DESCRIPTORS: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::PEERS;
    use std::collections::BTreeSet;

    #[test]
    fn every_goal_has_its_row_and_every_row_its_own_name() {
        let rows = rows(Extent::Whole);
        let names: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            for goal in &row.goals {
                assert!(row.shown().contains(&goal.figure), "{}", row.id);
                let known = |peer| PEERS.iter().any(|it| it.name == peer && it.is_ours());
                assert!(goal.peer.is_none_or(known), "{}", row.id);
            }
        }
        let found: usize = rows.iter().map(|row| row.goals.len()).sum();
        assert_eq!(found, GOALS.len() + GOALS_OF_FORMS.len());
    }

    #[test]
    fn the_smoke_run_has_every_kind_of_work() {
        let kinds = |extent| -> BTreeSet<String> {
            rows(extent)
                .iter()
                .map(|row| format!("{:?}", std::mem::discriminant(&row.work)))
                .collect()
        };
        assert_eq!(kinds(Extent::Smoke), kinds(Extent::Whole));
    }
}
