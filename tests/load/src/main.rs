//! The benchmark: sluicegate and the peers it finds, side by side in one run, on loopback.
//!
//! `plan` lists the rows, `peers` starts the proxies, `generator` and `backend` are the two ends,
//! `measure` reads what the proxies cost, `run` puts these together, `report` writes it down.
//! See `README.md` beside `Cargo.toml` for how to run it and how to read it.

mod backend;
mod bounded;
mod cli;
mod failure;
mod frames;
mod generator;
mod heads;
mod http2;
mod keeper;
mod machine;
mod measure;
mod peers;
mod plan;
mod report;
mod run;
mod sources;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use clap::Parser;

use cli::{Cli, Command};
use failure::{Failure, Result};
use generator::tls::Identity;
use keeper::Kept;
use machine::{Machine, Places};
use peers::{Found, Plugins, Role, Site};
use plan::Row;
use report::Report;
use run::Contestant;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Backend { cpu }) => serve_backend(*cpu),
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
    let mut rows = cli.rows()?;
    if cli.list {
        for row in &rows {
            writeln!(io::stdout(), "{}", row.id)?;
        }
        return Ok(());
    }
    let effort = cli.effort()?;
    let places = cli.places();
    let machine = Machine::examine();
    machine::pin(places.generator)?;
    let descriptors = machine::raise_descriptor_limit();
    let mut left_out = too_wide(&mut rows, descriptors);
    let found = find(cli, &rows, &mut left_out)?;

    let temporary = tempfile::tempdir().map_err(Failure::of("cannot make a temporary folder"))?;
    let folder = temporary.path();
    let backend = start_backend(places, folder)?;
    let (told, told_of_messages) = (cli.plugin.as_deref(), cli.messages_plugin.as_deref());
    let site = Site {
        folder: folder.to_owned(),
        identity: Identity::make(folder)?,
        backend: u16::try_from(backend.first_line)
            .map_err(Failure::of("the backend has no port"))?,
        descriptors,
        cpu: places.proxy,
        plugins: Plugins {
            headers: plugin(told, HEADERS, Role::Filter, &found, folder)?,
            messages: plugin(
                told_of_messages,
                MESSAGES,
                Role::MessageFilter,
                &found,
                folder,
            )?,
        },
        modules: cli.nginx_modules.clone(),
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

    for stale in stale(&found) {
        say(&format!("warning: {stale}"));
    }

    let mut report = Report {
        machine,
        date: today(),
        rounds: effort.rounds,
        seconds: effort.time.as_secs_f64(),
        pinned: places != Places::default(),
        commit: sources::commit(),
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
        let result = run::measure_row(row, &contestants, &site, effort);
        report.rows.push(result);
    }
    match &cli.out {
        Some(folder) => report.write(folder)?,
        None => io::stdout().write_all(report::markdown::render(&report).as_bytes())?,
    }
    check(&report)
}

/// The `backend` command: says its port, then serves until the benchmark ends.
fn serve_backend(cpu: Option<usize>) -> Result<()> {
    machine::pin(cpu)?;
    let listener = backend::listen()?;
    writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
    backend::serve(listener, &io::stdin())
}

/// Takes out the rows that need more descriptors than there may be, and tells of each.
fn too_wide(rows: &mut Vec<Row>, descriptors: u64) -> Vec<String> {
    let wide = rows.extract_if(.., |row| row.descriptors() > descriptors);
    let tell = |row: Row| {
        format!(
            "{}: needs {} descriptors, and the limit is {descriptors}",
            row.id,
            row.descriptors()
        )
    };
    wide.map(tell).collect()
}

/// The peers of the rows that are on this machine; the others are left out, but never sluicegate.
fn find(cli: &Cli, rows: &[Row], left_out: &mut Vec<String>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for peer in cli.peers()? {
        if !rows.iter().any(|row| Role::of(row.section()) == peer.role) {
            continue;
        }
        let told = cli.told(peer.program)?;
        match Found::find(peer, told.as_deref(), &cli.nginx_modules) {
            Ok(peer) => found.push(peer),
            Err(failure) if peer.is_ours() => {
                let hint = "`cargo build --release` makes it";
                return Err(Failure::new(format!("{failure}; {hint}")));
            }
            Err(failure) => left_out.push(format!("{}: {failure}", peer.name)),
        }
    }
    Ok(found)
}

/// The plugin that filters of this role use: the one that is told, or built with the very proxy that will
/// run it.
fn plugin(
    told: Option<&Path>,
    source: &str,
    role: Role,
    found: &[Found],
    folder: &Path,
) -> Result<PathBuf> {
    if let Some(plugin) = told {
        return Ok(plugin.to_owned());
    }
    let Some(ours) = found
        .iter()
        .find(|found| found.peer.is_ours() && found.peer.role == role)
    else {
        return Ok(PathBuf::new());
    };
    let out = folder.join(format!("plugins-{role:?}"));
    let mut build = Process::new(&ours.path);
    build.args(["plugin", "build", source, "--out"]).arg(&out);
    let built =
        bounded::output(&mut build, PLUGIN_BUILD).map_err(Failure::of("cannot build a plugin"))?;
    if !built.status.success() {
        return Err(Failure::new(format!(
            "cannot build `{source}`: {}",
            String::from_utf8_lossy(&built.stderr).trim()
        )));
    }
    std::fs::read_dir(&out)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "wasm"))
        .ok_or_else(|| Failure::new(format!("`{source}` was built, but is not there")))
}

/// What to say of measured proxies that are older than their sources.
fn stale(found: &[Found]) -> BTreeSet<String> {
    let ours = found.iter().filter(|found| found.peer.is_ours());
    ours.filter_map(|found| {
        let source = sources::younger_than(&found.path)?;
        Some(format!(
            "`{}` is older than `{}`: the results may not be those of the sources",
            found.path.display(),
            source.display()
        ))
    })
    .collect()
}

fn start_backend(places: Places, folder: &Path) -> Result<Kept> {
    let mut arguments: Vec<OsString> = vec!["backend".into()];
    if let Some(cpu) = places.backend {
        arguments.extend(["--cpu".into(), cpu.to_string().into()]);
    }
    Kept::start(&arguments, &folder.join("backend.log"))
}

/// A run with failures, or without sluicegate where that was wanted, is no success.
fn check(report: &Report) -> Result<()> {
    let outcomes = || report.rows.iter().flat_map(|result| &result.peers);
    let failed = outcomes().filter(|(_, outcome)| outcome.is_err()).count();
    let measured: BTreeSet<&str> = outcomes().map(|(peer, _)| *peer).collect();
    match (failed, measured.len()) {
        (0, 0) => Err(Failure::new("no proxy was measured")),
        (0, _) if report.rows.iter().any(|result| result.peers.is_empty()) => {
            Err(Failure::new("some rows have no proxy"))
        }
        (0, _) => Ok(()),
        (failed, _) => Err(Failure::new(format!("{failed} measurements failed"))),
    }
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

/// The plugins' crates, in the sources that this program was built from.
const HEADERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/headers");
const MESSAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/conversations");
/// The longest build of the plugin, on a busy machine and with all it depends on.
const PLUGIN_BUILD: Duration = Duration::from_secs(600);
