//! `sluicegate check`: everything that `run` does, short of listening.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, print, run, runtime, say};
use crate::config::model::Config;
use crate::config::{self, Diagnostic, Report, Source};
use crate::privileges::Identity;
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::{banner, reload};

/// Check a configuration: the file, its certificates, its plugins and their configs
///
/// Nothing is bound and no upstream is contacted. The exit code is 0 when the configuration can
/// serve (there may be warnings), and 3 when it cannot.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file [default: sluicegate.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the report as JSON: an array of {severity, file, line, column, message, hint}
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &Args) -> Result<(), Failure> {
    let file = match &args.config {
        Some(file) => file.clone(),
        None => run::default_file()?,
    };
    let (report, contents) = match examine(&file)? {
        Ok((report, contents)) => (report, Some(contents)),
        Err(report) => (report, None),
    };
    if args.json {
        print(&format!("{:#}\n", report.to_json()))?;
        return match contents {
            Some(_) => Ok(()),
            None => Err(Failure::Config(String::new())),
        };
    }
    let Some(contents) = contents else {
        return Err(Failure::Config(report.render(banner::is_terminal())));
    };
    if !report.diagnostics.is_empty() {
        say(&report.render(banner::is_terminal()));
    }
    print(&format!("{}: can serve: {contents}\n", file.display()))
}

/// The report of a configuration that can serve, with what is in it; or of one that cannot.
fn examine(file: &Path) -> Result<Result<(Report, String), Report>, Failure> {
    let source = match config::read(file) {
        Ok(source) => source,
        Err(error) => {
            // A report like any other, for programs that read it.
            let source = Source {
                name: file.display().to_string(),
                text: String::new(),
                dir: PathBuf::new(),
            };
            let mistake = Diagnostic::missing(error.to_string());
            return Ok(Err(Report::new(&Arc::new(source), vec![mistake])));
        }
    };
    let (config, warnings) = match config::parse(&source) {
        Ok(parsed) => parsed,
        Err(report) => return Ok(Err(report)),
    };
    let account = config.runtime.account.as_ref().map(Identity::find);
    if let Some(Err(unknown)) = account {
        return Ok(Err(Report::new(&source, vec![*unknown])));
    }
    let contents = contents(&config);
    let workshop = reload::workshop(&Metrics::new(), None, banner::progress());
    let log = AccessLog::off();
    let built = runtime()?.block_on(Snapshot::build(
        &source, config, warnings, None, &workshop, log,
    ));
    Ok(built.map(|(_, report)| (report, contents)))
}

fn contents(config: &Config) -> String {
    let count = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    [
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.upstreams.len(), "upstream"),
        count(config.plugins.len(), "plugin"),
    ]
    .join(", ")
}
