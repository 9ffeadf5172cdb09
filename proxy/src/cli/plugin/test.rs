//! `sluicegate plugin test`: a plugin's cases, run in the host that serves.
//!
//! A case is a request and what must come of it, as data (`config::cases`). It runs in the real host, under the
//! real limits, with a clock that stands still, a store of its own and upstreams that answer what
//! the case says; `compare` judges, `show` tells, `bless` writes down what was got.

mod bless;
mod capture;
mod compare;
mod converse;
mod head;
mod run;
mod show;
mod stub;
pub(super) mod written;

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluicegate_plugin_host::clock::SettableClock;
use sluicegate_plugin_host::{Grants, Inspection, inspect};
use tokio::runtime::Runtime;

use super::super::{Failure, print, runtime};
use super::{Profile, compile};
use crate::config::cases::{self, Case, Suite};
use crate::config::{self, Diagnostic, Report, Source};
use bless::Blessing;
use compare::Difference;
use run::{Outcome, Subject};
pub(super) use show::time;
use show::{Costs, Show, Unit};

/// Run a plugin's cases: requests, and what must come of them
///
/// Each PATH is a crate, which is built first, or a .wasm; its cases are the .toml files in the folder
/// `cases` beside it. They run in the host that serves, each with a clock that stands still, a store of
/// its own, and upstreams that answer what the case says. The exit code is 1 when a case fails,
/// and 3 when a case file has mistakes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// Folders of crates, or .wasm files
    #[arg(value_name = "PATH", default_value = ".")]
    plugins: Vec<PathBuf>,
    /// Where the case files are [default: the folder `cases` beside the plugin]
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Run only the cases that have this in their name
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write what came of each case that fails, or expects nothing yet, into its file
    #[arg(long)]
    bless: bool,
    /// Say only what is wrong
    #[arg(short, long)]
    quiet: bool,
}

/// What came of a plugin's cases, or of all plugins'.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    failed: usize,
    /// Files that could not be read, or not be run.
    mistaken: usize,
}

/// A file's cases as they are run.
struct File {
    path: PathBuf,
    source: Arc<Source>,
    suite: Suite,
}

pub(in crate::cli) fn test(args: &Args) -> Result<(), Failure> {
    let mut show = Show::new(std::io::stdout().is_terminal(), args.quiet);
    let mut all = Tally::default();
    for plugin in &args.plugins {
        let tally = test_plugin(plugin, args, &mut show)?;
        all.cases += tally.cases;
        all.failed += tally.failed;
        all.mistaken += tally.mistaken;
    }
    if all.cases == 0 && all.mistaken == 0 {
        return Err(match &args.only {
            Some(only) => Failure::runtime(format!("no case has `{only}` in its name")),
            None => Failure::runtime("there is no case to run").hint(FIRST_CASE),
        });
    }
    if all.mistaken > 0 {
        return Err(Failure::Config(String::new()));
    }
    if all.failed > 0 {
        return Err(Failure::Runtime(String::new()));
    }
    Ok(())
}

fn test_plugin(plugin: &Path, args: &Args, show: &mut Show) -> Result<Tally, Failure> {
    let (wasm, home) = component(plugin)?;
    let failed = |what: String| Failure::runtime(format!("`{}`: {what}", plugin.display()));
    let inspection = inspect(&wasm).map_err(|error| failed(error.to_string()))?;
    let cache = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
    let subject = Subject {
        wasm: &wasm,
        inspection: &inspection,
        // The host makes it, with the mode that it insists on.
        cache: &cache.path().join("compiled"),
    };
    let (title, compiled) = subject_title(&subject, &inspection).map_err(failed)?;
    let mut costs = Costs {
        call: None,
        peak_memory: 0,
        compile: compiled,
    };
    let runtime = runtime()?;
    let mut tally = Tally::default();
    for path in case_files(args.cases.as_deref(), &home)? {
        let Some(file) = read(path, show, &mut tally)? else {
            continue;
        };
        test_file(
            &file, &subject, args, &runtime, show, &mut tally, &mut costs,
        )?;
        print(&show.take())?;
    }
    if tally.cases > 0 {
        show.summary(&title, tally.cases, tally.failed, &costs);
    }
    print(&show.take())?;
    Ok(tally)
}

/// Compiles the plugin for all cases; its name and version, and how long that took.
fn subject_title(
    subject: &Subject<'_>,
    inspection: &Inspection,
) -> Result<(String, Duration), String> {
    let clock = Arc::new(SettableClock::new(Duration::ZERO));
    let (_, plugin) = subject.load(&clock, &everything(inspection), Duration::MAX)?;
    let description = plugin.description();
    let title = format!("{} {}", description.name, description.version);
    Ok((title, plugin.load_time()))
}

fn test_file(
    file: &File,
    subject: &Subject<'_>,
    args: &Args,
    runtime: &Runtime,
    show: &mut Show,
    tally: &mut Tally,
    costs: &mut Costs,
) -> Result<(), Failure> {
    let grants = subject.grants(&file.suite);
    let chosen =
        |case: &Case| (args.only.as_ref()).is_none_or(|only| case.name.value.contains(only));
    let mut to_bless: Vec<(usize, Vec<Difference>, Outcome)> = Vec::new();
    let cases = file.suite.cases.iter().enumerate();
    for (at, (index, case)) in cases.filter(|(_, case)| chosen(case)).enumerate() {
        if at == 0 {
            show.file(&file.source.name);
        }
        tally.cases += 1;
        let outcome = match subject.run(case, &grants, runtime) {
            Ok(outcome) => outcome,
            Err(mistake) => {
                tally.failed += 1;
                show.report(&report(file, vec![*mistake]));
                continue;
            }
        };
        if let Outcome::Called(got) = &outcome {
            costs.peak_memory = costs.peak_memory.max(got.peak_memory);
        }
        let differences = compare::differences(case, &outcome);
        // Messages expect something, whether `expect` is there or not.
        let blank = !case.expect.written && case.messages.is_empty();
        if args.bless && (!differences.is_empty() || blank) {
            if differences.iter().all(Difference::can_be_blessed) {
                show.blessed(&case.name.value);
            } else {
                tally.failed += 1;
                failed(file, case, &outcome, &differences, show);
            }
            to_bless.push((index, differences, outcome));
            continue;
        }
        if differences.is_empty() {
            show.passed(&case.name.value);
            if costs.call.is_none() && !args.quiet {
                let unit = match case.messages.is_empty() {
                    true => Unit::Call,
                    false => Unit::Message,
                };
                let call = subject.measure(case, &grants, runtime, MEASURED_CALLS);
                costs.call = call.map(|call| (call, unit));
            }
        } else {
            tally.failed += 1;
            failed(file, case, &outcome, &differences, show);
        }
    }
    if to_bless.is_empty() {
        return Ok(());
    }
    let blessings = to_bless
        .iter()
        .map(|(index, differences, outcome)| Blessing {
            index: *index,
            differences,
            outcome,
        });
    let blessings: Vec<_> = blessings.collect();
    write_blessed(file, &blessings)
}

fn failed(
    file: &File,
    case: &Case,
    outcome: &Outcome,
    differences: &[Difference],
    show: &mut Show,
) {
    let unanswered = match outcome {
        Outcome::Called(got) => got.unanswered.as_slice(),
        Outcome::ConfigRefused(_) => &[],
    };
    let place = |offset| {
        let line = line_of(&file.source, offset);
        format!("{}:{line}", file.source.name)
    };
    let of_case = place(case.name.span.start);
    let of_message = |index: usize| {
        let step = case.messages.get(index);
        place(step.map_or(case.name.span.start, |step| step.span.start))
    };
    show.failed(
        &case.name.value,
        &of_case,
        of_message,
        differences,
        unanswered,
    );
    if let (Outcome::ConfigRefused(reasons), None) = (outcome, &case.expect.config_error) {
        show.report(&report(file, reasons.clone()));
    }
}

/// A file's cases; a report and `None` where it has mistakes.
fn read(path: PathBuf, show: &mut Show, tally: &mut Tally) -> Result<Option<File>, Failure> {
    let source = config::read(&path).map_err(Failure::runtime)?;
    match cases::parse(&source) {
        Ok(suite) => Ok(Some(File {
            path,
            source,
            suite,
        })),
        Err(report) => {
            tally.mistaken += 1;
            show.report(&report.render(std::io::stdout().is_terminal()));
            print(&show.take())?;
            Ok(None)
        }
    }
}

/// The bytes of the plugin, and the folder that its cases are beside.
fn component(plugin: &Path) -> Result<(Vec<u8>, PathBuf), Failure> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Failure::runtime(format!("`{}`: {error}", path.display()))
    };
    if plugin.join("Cargo.toml").is_file() {
        let built = compile(plugin, Profile::Small)?;
        return Ok((built.component, plugin.to_owned()));
    }
    let file = match plugin.is_dir() {
        false => plugin.to_owned(),
        // A project in another language, built by its own tools.
        true => {
            let found = files_in(plugin, "wasm").map_err(|error| unreadable(plugin, error))?;
            let [one] = found.as_slice() else {
                let what = match found.len() {
                    0 => "is no crate and has no .wasm",
                    _ => "has more than one .wasm",
                };
                let what = format!("`{}` {what}", plugin.display());
                return Err(Failure::runtime(what).hint("name a crate's folder or a .wasm file"));
            };
            one.clone()
        }
    };
    let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, error))?;
    let home = file.parent().unwrap_or(Path::new(""));
    Ok((bytes, home.to_owned()))
}

fn case_files(given: Option<&Path>, home: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = given.map_or_else(|| home.join("cases"), Path::to_owned);
    if folder.is_file() {
        return Ok(vec![folder]);
    }
    let files = files_in(&folder, "toml").map_err(|error| {
        let failure = Failure::runtime(format!("no cases in `{}`: {error}", folder.display()));
        failure.hint(FIRST_CASE)
    })?;
    Ok(files)
}

/// The files of this kind in a folder, by name.
fn files_in(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new(extension)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Grants for a look at a plugin: whatever it may import.
pub(super) fn everything(inspection: &Inspection) -> Grants {
    let asks = |name: &String| name.starts_with("sluicegate:plugin/outbound@");
    let http = inspection.imports.iter().any(asks);
    Grants {
        http: http.then(|| "nobody".into()).into_iter().collect(),
        ..Grants::all()
    }
}

/// Replaces the file, as a whole or not at all.
fn write_blessed(file: &File, blessings: &[Blessing<'_>]) -> Result<(), Failure> {
    let failed = |what: String| {
        let file = file.path.display();
        Failure::runtime(format!("cannot bless `{file}`: {what}"))
    };
    let text = bless::blessed(&file.source.text, blessings).map_err(failed)?;
    let folder = match file.path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let written = || {
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(text.as_bytes())?;
        let permissions = std::fs::metadata(&file.path)?.permissions();
        new.as_file().set_permissions(permissions)?;
        new.persist(&file.path)?;
        Ok(())
    };
    written().map_err(|error: std::io::Error| failed(error.to_string()))
}

fn report(file: &File, diagnostics: Vec<Diagnostic>) -> String {
    let report = Report::new(&file.source, diagnostics);
    report.render(std::io::stdout().is_terminal())
}

/// Counted from 1.
fn line_of(source: &Source, offset: usize) -> usize {
    let before = source.text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// Enough for a median that stands still.
const MEASURED_CALLS: usize = 200;
const FIRST_CASE: &str = "a file of cases, say `cases/first.toml`, begins like this:\n\n    \
     config = { }\n\n    [[case]]\n    name    = \"a request without anything\"\n    \
     request = { uri = \"/\" }\n\n\
     `sluicegate plugin test --bless` then writes down what the plugin does with it";

const EXAMPLES: &str = "\
A case file:
  config = { keys = { ci = \"s3cret\" } }             for all cases of the file

  [[case]]
  name    = \"a right key passes\"
  request = { headers = { X-Api-Key = \"s3cret\" } }  also: method, uri, host, client_ip, websocket, …
  [case.expect]
  verdict = \"continue\"                              or the status of a refusal
  headers = { X-Consumer = \"ci\", X-Api-Key = false }  false: not there

A conversation:
  [[case]]
  name = \"who does not stop is closed\"
  [[case.messages]]
  client    = \"darn it\"
  to_server = \"**** it\"                           what arrives; without it, the message itself
  [[case.messages]]
  client = \"darn!\"
  close  = 1008

Further keys of a case: config, now, repeat, every, kv, http, response, ending; of messages: server,
tick, to_client, after, repeat, error; of expect: body, query, subprotocols, upstream, labels,
expires_at, lifetime, logs, metrics, kv, error, config_error, response. The README of the SDK,
plugin-sdk, explains each.

Examples:
  sluicegate plugin test                             the crate in this folder
  sluicegate plugin test my_filter.wasm --cases cases --only expired";
