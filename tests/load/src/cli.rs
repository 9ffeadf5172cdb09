//! What can be asked of the benchmark.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::failure::{Failure, Result};
use crate::machine::Places;
use crate::peers::{PEERS, Peer, Program};
use crate::plan::{self, Extent, Row};
use crate::run::Effort;

/// Measures sluicegate beside other proxies.
#[derive(Debug, Parser)]
#[command(name = "sluicegate-load", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Only rows whose name contains this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Only these peers, by name
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each row is measured with each peer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement lasts
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// A folder for results.json, results.md and the plots
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Only check that it works: every kind of row, tiny, with sluicegate alone
    #[arg(long)]
    smoke: bool,
    /// Show the names of the rows and stop
    #[arg(long)]
    pub(crate) list: bool,
    /// Whether the proxy gets a processor of its own
    #[arg(long, value_enum, default_value_t = Pin::Auto)]
    pin: Pin,
    /// The proxy to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    sluicegate: Option<PathBuf>,
    /// An earlier sluicegate, which takes part as a peer
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// [default: the one on PATH, as for all peers]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// The nginx that can load njs and Lua
    #[arg(long, value_name = "PATH")]
    nginx_scripted: Option<PathBuf>,
    /// Where that nginx has its modules
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/nginx/modules")]
    pub(crate) nginx_modules: PathBuf,
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    caddy: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    node: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// The headers plugin [default: built from `plugins/headers`]
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// The plugin of message filters [default: built from `tests/guests/conversations`]
    #[arg(long, value_name = "FILE")]
    pub(crate) messages_plugin: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pin {
    Auto,
    Off,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The backend, as the benchmark starts it for itself
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Keeps a proxy, as the benchmark starts it for itself
    #[command(hide = true)]
    Keep {
        #[arg(long)]
        cpu: Option<usize>,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

impl Cli {
    /// The rows that are wanted.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn rows(&self) -> Result<Vec<Row>> {
        let extent = if self.smoke {
            Extent::Smoke
        } else {
            Extent::Whole
        };
        let mut rows = plan::rows(extent);
        rows.retain(|row| {
            self.only.is_empty() || self.only.iter().any(|part| row.id.contains(part))
        });
        if rows.is_empty() {
            return Err(Failure::new("no row has such a name; `--list` shows them"));
        }
        Ok(rows)
    }

    /// The peers that are wanted, whether they are on this machine or not.
    ///
    /// # Errors
    /// When a name is unknown.
    pub(crate) fn peers(&self) -> Result<Vec<&'static Peer>> {
        let known = |name: &String| PEERS.iter().any(|peer| peer.name == name);
        if let Some(unknown) = self.peers.iter().find(|name| !known(name)) {
            let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
            return Err(Failure::new(format!(
                "there is no peer `{unknown}`; there are {}",
                names.join(", ")
            )));
        }
        let wanted = |peer: &&Peer| {
            if peer.program == Program::Baseline && self.baseline.is_none() {
                false
            } else if self.smoke {
                peer.program == Program::Sluicegate
            } else {
                self.peers.is_empty() || self.peers.iter().any(|name| name == peer.name)
            }
        };
        Ok(PEERS.iter().filter(wanted).collect())
    }

    /// Where the user says that a program is; sluicegate is beside this program unless told else.
    ///
    /// # Errors
    /// When this program does not know where it is itself.
    pub(crate) fn told(&self, program: Program) -> Result<Option<PathBuf>> {
        let told: Option<&Path> = match program {
            Program::Sluicegate => self.sluicegate.as_deref(),
            Program::Baseline => self.baseline.as_deref(),
            Program::Nginx => self.nginx.as_deref(),
            Program::ScriptedNginx => self.nginx_scripted.as_deref(),
            Program::Haproxy => self.haproxy.as_deref(),
            Program::Envoy => self.envoy.as_deref(),
            Program::Caddy => self.caddy.as_deref(),
            Program::Node => self.node.as_deref(),
            Program::Python => self.python.as_deref(),
        };
        match (told, program) {
            (None, Program::Sluicegate) => {
                Ok(Some(std::env::current_exe()?.with_file_name("sluicegate")))
            }
            (told, _) => Ok(told.map(Path::to_owned)),
        }
    }

    /// How long and how often.
    ///
    /// # Errors
    /// When the time is out of range.
    pub(crate) fn effort(&self) -> Result<Effort> {
        if self.smoke {
            return Ok(Effort {
                rounds: 1,
                time: Duration::from_millis(150),
                warm_up: Duration::from_millis(50),
                rest: Duration::from_millis(50),
            });
        }
        let time = Duration::try_from_secs_f64(self.seconds)
            .ok()
            .filter(|time| (SHORTEST..=LONGEST).contains(time))
            .ok_or_else(|| Failure::new(format!("`--seconds {}` is out of range", self.seconds)))?;
        Ok(Effort {
            rounds: self.rounds,
            time,
            warm_up: WARM_UP,
            rest: REST,
        })
    }

    /// Who runs where.
    pub(crate) fn places(&self) -> Places {
        match self.pin {
            Pin::Auto => Places::choose(),
            Pin::Off => Places::default(),
        }
    }
}

const WARM_UP: Duration = Duration::from_millis(250);
const REST: Duration = Duration::from_millis(750);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
