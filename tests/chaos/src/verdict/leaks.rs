//! What is left of a crowd that has gone: nothing open, and no more memory than the crowd before left.

use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::verdict::metrics;
use crate::world::World;
use crate::world::admin::{Admin, Sample};

/// What the proxy holds while nobody is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) resident_kib: u64,
}

impl Rest {
    fn of(world: &World) -> Rest {
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.proxy.pid()));
        let status = status.expect("the proxy runs");
        let threads = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        Rest {
            descriptors: world.proxy.descriptors(),
            threads: threads.and_then(|n| n.trim().parse().ok()).unwrap_or(0),
            resident_kib: world.proxy.resident_kib(),
        }
    }

    /// Nothing of note has changed.
    fn is_like(self, other: Rest) -> bool {
        self.descriptors == other.descriptors
            && self.resident_kib.abs_diff(other.resident_kib) < other.resident_kib / 100
    }

    /// At most what the other one is, but for memory, which may be a tenth more.
    fn is_within(self, other: Rest) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads + SPARE_THREADS
            && self.resident_kib <= other.resident_kib + other.resident_kib / 10
    }
}

/// Waits until nothing is open any more and what is left is within `before`; the metrics, and what is left.
///
/// What does not come to rest in time is noted.
pub(crate) async fn settle(world: &World, before: Option<Rest>) -> (Vec<Sample>, Rest) {
    let mut admin = Admin::new(world.proxy.admin());
    let began = Instant::now();
    let mut last = None;
    loop {
        let rest = Rest::of(world);
        let samples = admin.metrics().await.expect("metrics");
        let open = GAUGES.map(|name| metrics::sum(&samples, name));
        let quiet = open == [0.0; GAUGES.len()];
        // Without a bound to compare with, it has until nothing changes any more.
        let within = match before {
            Some(before) => rest.is_within(before),
            None => last.is_some_and(|last| rest.is_like(last)) && began.elapsed() > AT_LEAST,
        };
        if quiet && within {
            return (samples, rest);
        }
        if began.elapsed() > AT_MOST {
            note(&world.ledger, open, rest, before);
            return (samples, rest);
        }
        last = Some(rest);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn note(ledger: &Ledger, open: [f64; GAUGES.len()], rest: Rest, before: Option<Rest>) {
    for (name, open) in GAUGES.into_iter().zip(open) {
        if open != 0.0 {
            ledger.broke(NO_LEAK, format!("{name} is {open} when all have gone"));
        }
    }
    if let Some(before) = before
        && !rest.is_within(before)
    {
        ledger.broke(NO_LEAK, format!("{rest:?} after {before:?}"));
    }
}

/// All of them are 0 when nobody is there.
const GAUGES: [&str; 5] = [
    "connections_open",
    "websockets_open",
    "upstream_leases",
    "upstream_http2_connections",
    "buffered_bytes",
];
/// Idle connections to upstreams live for two seconds, and are looked after every two.
const AT_LEAST: Duration = Duration::from_secs(6);
const AT_MOST: Duration = Duration::from_secs(45);
/// Threads for what blocks come and go.
const SPARE_THREADS: usize = 4;
const NO_LEAK: &str = "nothing is left behind by those who have gone";
