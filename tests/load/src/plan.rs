//! The rows of the benchmark: what each does, how it is called, and what sluicegate wants to reach.

use std::fmt;

/// One row: one kind of work, measured with every peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// As `--only` and the tables name it, for example `echo/64B/500/plain`.
    pub(crate) id: String,
    pub(crate) work: Work,
    pub(crate) goal: Option<Goal>,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    /// TLS 1.3; connections that are opened while it is measured make full handshakes.
    Tls,
    /// As `Tls`, with tickets of earlier connections.
    TlsResumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Small,
    Large,
}

/// What sluicegate wants to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    /// At most this ratio to nginx, in the row's leading figure.
    Ratio(f64),
}

/// A figure of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Microseconds of CPU per unit.
    Cpu,
    /// Units per second.
    Rate,
    /// Latencies in microseconds.
    P50,
    P99,
    P999,
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
        let goal = GOALS
            .iter()
            .find(|(row, _)| *row == id)
            .map(|(_, goal)| *goal);
        Row { id, work, goal }
    }

    /// The figure that ratios and plots are made of.
    pub(crate) fn leading(&self) -> Figure {
        match self.work {
            Work::Paced { .. } => Figure::P99,
            _ => Figure::Cpu,
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
    pub(crate) fn title(self) -> &'static str {
        match self {
            Figure::Cpu => "CPU µs",
            Figure::Rate => "per s",
            Figure::P50 => "p50 µs",
            Figure::P99 => "p99 µs",
            Figure::P999 => "p99.9 µs",
        }
    }
}

/// All rows, in the order in which they are run and shown.
pub(crate) fn rows(extent: Extent) -> Vec<Row> {
    let smoke = extent == Extent::Smoke;
    let both = [Transport::Plain, Transport::Tls];
    let mut rows = Vec::new();
    let sizes = [(64, "64B"), (1024, "1KiB"), (16 * 1024, "16KiB")];
    let crowds = if smoke { vec![3] } else { vec![1, 64, 500] };
    for (size, called) in sizes {
        for &connections in &crowds {
            for transport in both {
                rows.push(Row::new(
                    format!("echo/{called}/{connections}/{transport}"),
                    Work::Echo {
                        size,
                        connections,
                        transport,
                    },
                ));
            }
        }
    }
    let (per_second, connections) = if smoke { (1000, 5) } else { (10_000, 500) };
    for transport in both {
        rows.push(Row::new(
            format!("paced/64B/{connections}/{transport}"),
            Work::Paced {
                per_second,
                connections,
                transport,
            },
        ));
    }
    let at_once = if smoke { 2 } else { 16 };
    for transport in [Transport::Plain, Transport::Tls, Transport::TlsResumed] {
        rows.push(Row::new(
            format!("life/{transport}"),
            Work::Life { at_once, transport },
        ));
    }
    let connections = if smoke { 3 } else { 64 };
    for (body, called, fresh) in [
        (Body::Small, "get/kept", false),
        (Body::Small, "get/new", true),
        (Body::Large, "get/64KiB", false),
    ] {
        for transport in both {
            rows.push(Row::new(
                format!("{called}/{transport}"),
                Work::Get {
                    body,
                    connections: if fresh { at_once } else { connections },
                    transport,
                    fresh,
                },
            ));
        }
    }
    rows.push(Row::new(
        "get/http2/tls".to_owned(),
        Work::Http2 {
            connections: if smoke { 2 } else { 8 },
            streams: if smoke { 2 } else { 8 },
        },
    ));
    rows
}

/// What sluicegate wants to reach, by row.
const GOALS: &[(&str, Goal)] = &[
    ("echo/64B/500/plain", Goal::Ratio(0.95)),
    ("echo/64B/500/tls", Goal::Ratio(0.88)),
    ("echo/64B/64/plain", Goal::Ratio(1.05)),
    ("echo/1KiB/64/tls", Goal::Ratio(0.65)),
    ("echo/16KiB/64/plain", Goal::Ratio(0.27)),
    ("echo/16KiB/64/tls", Goal::Ratio(0.34)),
    ("life/plain", Goal::Ratio(0.95)),
    ("life/tls", Goal::Ratio(0.45)),
    ("life/tls-resumed", Goal::Ratio(0.5)),
    ("get/kept/plain", Goal::Ratio(1.1)),
    ("get/kept/tls", Goal::Ratio(0.95)),
    ("get/http2/tls", Goal::Ratio(1.0)),
    ("get/new/plain", Goal::Ratio(1.0)),
    ("get/new/tls", Goal::Ratio(0.45)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_goal_has_its_row_and_every_row_its_own_name() {
        let rows = rows(Extent::Whole);
        let names: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for (row, _) in GOALS {
            assert!(names.contains(row), "{row}");
        }
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
