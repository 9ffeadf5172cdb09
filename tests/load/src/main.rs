//! The benchmark: sluicegate and the peers it finds, side by side in one run, on loopback.
//!
//! `plan` lists the rows, `peers` starts the proxies, `generator` and `backend` are the two ends,
//! `measure` reads what the proxies cost, `run` puts these together, `report` writes it down.
//! See `README.md` beside `Cargo.toml` for how to run it and how to read it.

mod backend;
mod failure;
mod frames;
mod generator;
mod keeper;
mod machine;
mod measure;
mod peers;
mod plan;
mod report;
mod run;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use failure::{Failure, Result};
use generator::tls::Identity;
use keeper::Kept;
use machine::{Machine, Places};
use peers::{Found, PEERS, Program, Site};
use plan::Extent;
use report::Report;
use run::{Contestant, Effort};

/// Measures sluicegate beside other proxies.
#[derive(Debug, Parser)]
#[command(name = "sluicegate-load", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
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
    /// A folder for results.json and results.md
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only check that it works: every kind of row, tiny, with sluicegate alone
    #[arg(long)]
    smoke: bool,
    /// Show the names of the rows and stop
    #[arg(long)]
    list: bool,
    /// Whether the proxy gets a processor of its own
    #[arg(long, value_enum, default_value_t = Pin::Auto)]
    pin: Pin,
    /// The proxy to measure [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    sluicegate: Option<PathBuf>,
    /// [default: the one on PATH, as for all peers]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    #[arg(long, value_name = "PATH")]
    caddy: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pin {
    Auto,
    Off,
}

#[derive(Debug, Subcommand)]
enum Command {
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Backend { cpu }) => machine::pin(*cpu).and_then(|()| backend::serve()),
        Some(Command::Keep { cpu, command }) => keeper::keep(*cpu, command),
        None => benchmark(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn benchmark(cli: &Cli) -> Result<()> {
    let extent = if cli.smoke {
        Extent::Smoke
    } else {
        Extent::Whole
    };
    let rows: Vec<plan::Row> = plan::rows(extent)
        .into_iter()
        .filter(|row| {
            cli.only.is_empty()
                || cli
                    .only
                    .iter()
                    .any(|wanted| row.id.contains(wanted.as_str()))
        })
        .collect();
    if cli.list {
        for row in &rows {
            writeln!(io::stdout(), "{}", row.id)?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        return Err(Failure::new("no row has such a name; `--list` shows them"));
    }
    let effort = effort(cli)?;
    let machine = Machine::examine();
    let places = match cli.pin {
        Pin::Auto => Places::choose(),
        Pin::Off => Places::default(),
    };
    machine::pin(places.generator)?;
    let mut left_out = Vec::new();
    let found = find(cli, &mut left_out)?;

    let folder = tempfile::tempdir().map_err(Failure::of("cannot make a temporary folder"))?;
    let backend = start_backend(places, folder.path())?;
    let site = Site {
        folder: folder.path().to_owned(),
        identity: Identity::make(folder.path())?,
        backend: u16::try_from(backend.first_line)
            .map_err(Failure::of("the backend has no port"))?,
        descriptors: machine::raise_descriptor_limit(),
        cpu: places.proxy,
    };
    let mut contestants = Vec::new();
    for found in &found {
        match Contestant::start(found, &site) {
            Ok(contestant) => contestants.push(contestant),
            Err(failure) => left_out.push(format!("{}: {failure}", found.peer.name)),
        }
    }
    for left_out in &left_out {
        say(&format!("left out: {left_out}"));
    }
    if contestants.is_empty() {
        return Err(Failure::new("no proxy to measure"));
    }

    let mut report = Report {
        machine,
        date: today(),
        rounds: effort.rounds,
        seconds: effort.time.as_secs_f64(),
        pinned: places != Places::default(),
        versions: contestants
            .iter()
            .map(|contestant| {
                let found = contestant.found;
                (found.peer.name, found.version.clone())
            })
            .collect(),
        left_out,
        rows: Vec::new(),
    };
    for row in &rows {
        report
            .rows
            .push(run::measure_row(row, &contestants, effort));
    }
    match &cli.out {
        Some(folder) => report.write(folder)?,
        None => io::stdout().write_all(report::markdown::render(&report).as_bytes())?,
    }
    let failed = report
        .rows
        .iter()
        .flat_map(|result| &result.peers)
        .filter(|(_, outcome)| outcome.is_err())
        .count();
    if failed > 0 {
        return Err(Failure::new(format!("{failed} measurements failed")));
    }
    Ok(())
}

fn effort(cli: &Cli) -> Result<Effort> {
    if cli.smoke {
        return Ok(Effort {
            rounds: 1,
            time: Duration::from_millis(200),
            warm_up: Duration::from_millis(50),
        });
    }
    let time = Duration::try_from_secs_f64(cli.seconds)
        .ok()
        .filter(|time| (SHORTEST..=LONGEST).contains(time))
        .ok_or_else(|| Failure::new(format!("`--seconds {}` is out of range", cli.seconds)))?;
    Ok(Effort {
        rounds: cli.rounds,
        time,
        warm_up: WARM_UP,
    })
}

fn find(cli: &Cli, left_out: &mut Vec<String>) -> Result<Vec<Found>> {
    if let Some(unknown) = cli
        .peers
        .iter()
        .find(|name| PEERS.iter().all(|peer| peer.name != name.as_str()))
    {
        let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(Failure::new(format!(
            "there is no peer `{unknown}`; there are {}",
            names.join(", ")
        )));
    }
    let beside = std::env::current_exe()?.with_file_name("sluicegate");
    let mut found = Vec::new();
    for peer in PEERS {
        let wanted = if cli.smoke {
            peer.program == Program::Sluicegate
        } else {
            cli.peers.is_empty() || cli.peers.iter().any(|name| name == peer.name)
        };
        if !wanted {
            continue;
        }
        let told: Option<&Path> = match peer.program {
            Program::Sluicegate => cli.sluicegate.as_deref().or(Some(&beside)),
            Program::Nginx => cli.nginx.as_deref(),
            Program::Haproxy => cli.haproxy.as_deref(),
            Program::Envoy => cli.envoy.as_deref(),
            Program::Caddy => cli.caddy.as_deref(),
        };
        match Found::find(peer, told) {
            Ok(peer) => found.push(peer),
            Err(failure) => left_out.push(format!("{}: {failure}", peer.name)),
        }
    }
    Ok(found)
}

fn start_backend(places: Places, folder: &Path) -> Result<Kept> {
    let mut arguments: Vec<OsString> = vec!["backend".into()];
    if let Some(cpu) = places.backend {
        arguments.extend(["--cpu".into(), cpu.to_string().into()]);
    }
    Kept::start(&arguments, &folder.join("backend.log"))
}

fn today() -> String {
    let output = Process::new("date").arg("+%Y-%m-%d").output();
    output.map_or_else(
        |_| "unknown day".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

const WARM_UP: Duration = Duration::from_millis(250);
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
