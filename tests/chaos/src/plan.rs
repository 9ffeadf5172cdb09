//! How large a run is, how long, and by which seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use sluicegate_tests::websocket::random::Random;

/// Thousands of sockets through a proxy while everything around it breaks.
#[derive(Debug, Parser)]
#[command(name = "sluicegate-chaos", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How long the main round lasts
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// WebSockets that must not lose a message
    #[arg(long, default_value_t = 2000)]
    sockets: usize,
    /// Repeats the choices of an earlier run [default: by the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Some hundred sockets, some seconds
    #[arg(long)]
    smoke: bool,
    /// Name whatever fails as it happens
    #[arg(long)]
    pub(crate) verbose: bool,
}

/// What a run does.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How long the first round lasts, after which memory is what it is.
    pub(crate) warm_up: Duration,
    pub(crate) main: Duration,
    /// WebSockets that nothing happens to.
    pub(crate) tunnels: usize,
    /// Connections with ordinary requests that nothing happens to.
    pub(crate) requesters: usize,
    /// Clients that run into one fault after the other.
    pub(crate) seekers: usize,
    pub(crate) slow_readers: usize,
    /// Clients that go at any moment.
    pub(crate) leavers: usize,
    /// How long the stop at the end may take.
    pub(crate) drain: Duration,
}

impl Cli {
    pub(crate) fn plan(&self) -> Plan {
        let seed = self.seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |since| since.as_nanos() as u64)
        });
        if self.smoke {
            return Plan {
                seed,
                warm_up: Duration::from_secs(8),
                main: Duration::from_secs(10),
                tunnels: 80,
                requesters: 8,
                seekers: 12,
                slow_readers: 8,
                leavers: 12,
                drain: Duration::from_secs(4),
            };
        }
        let main = Duration::from_secs_f64(self.minutes.max(0.1) * 60.0);
        Plan {
            seed,
            warm_up: (main / 4).clamp(Duration::from_secs(10), Duration::from_secs(45)),
            main,
            tunnels: self.sockets,
            requesters: self.sockets.div_ceil(40),
            seekers: self.sockets.div_ceil(25),
            slow_readers: self.sockets.div_ceil(20),
            leavers: self.sockets.div_ceil(20),
            drain: Duration::from_secs(15),
        }
    }
}

impl Plan {
    /// The choices of one participant.
    pub(crate) fn random(&self, round: u64, role: u64, number: usize) -> Random {
        let stream = (round << 56) | (role << 48) | number as u64;
        // Two steps apart in one sequence would be the same choices, one later.
        let mut mixed = Random::new(self.seed ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Random::new(mixed.number())
    }
}
