//! `sluicegate reload`: have a running proxy read its configuration again, and say what came of it.

use std::path::PathBuf;

use super::{Failure, print, run, runtime, say};
use crate::admin::ReloadOutcome;
use crate::admin::client::{ReloadRequestError, request_reload};
use crate::config;
use crate::config::model::Bind;

/// Have a running proxy read its configuration again; no connection is dropped
///
/// The proxy is reached by its admin listener, found in the configuration file or given with
/// --admin. The exit code is 0 when the new configuration serves, 3 when it was rejected and the
/// old one goes on, and 1 when the proxy was not reached.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Configuration file that has the admin address [default: sluicegate.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Admin address: `127.0.0.1:9900`, `unix:/run/sluicegate.sock`
    #[arg(long, value_name = "ADDR", value_parser = config::parse_bind)]
    admin: Option<Bind>,
}

pub(super) fn reload(args: &Args) -> Result<(), Failure> {
    let admin = match &args.admin {
        Some(admin) => admin.clone(),
        None => configured(args)?,
    };
    let outcome = runtime()?
        .block_on(request_reload(&admin))
        .map_err(|error| not_reached(&admin, &error))?;
    match outcome {
        ReloadOutcome::Applied {
            generation,
            warnings,
        } => {
            say(&warnings);
            print(&format!("reloaded: generation {generation} serves\n"))
        }
        ReloadOutcome::Rejected { report } => Err(Failure::Config(format!(
            "{}\nrejected: the old configuration goes on\n",
            report.trim_end()
        ))),
    }
}

/// The admin address in the file. The file is the new one and may be full of mistakes: what the
/// proxy thinks of them is the proxy's to say, so only the address is looked for.
fn configured(args: &Args) -> Result<Bind, Failure> {
    let file = match &args.config {
        Some(file) => file.clone(),
        None => run::default_file()?,
    };
    let source =
        config::read(&file).map_err(|error| Failure::Config(format!("error: {error}\n")))?;
    config::admin_bind(&source).ok_or_else(|| {
        let missing = format!("no `[admin] bind` can be found in `{}`", file.display());
        Failure::runtime(missing).hint(
            "add `[admin]` with `bind = \"127.0.0.1:9900\"` and restart, name the address with \
             `--admin`, or send the proxy SIGHUP: `kill -HUP PID`",
        )
    })
}

fn not_reached(admin: &Bind, error: &ReloadRequestError) -> Failure {
    let cause =
        std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    let failure = Failure::runtime(format!("{error}{cause} (asked `{admin}`)"));
    match error {
        ReloadRequestError::Connect(_) => {
            failure.hint("is the proxy running, with this `[admin]`?")
        }
        ReloadRequestError::Timeout => failure.hint("it may still reload; its log will say"),
        ReloadRequestError::Http(_) | ReloadRequestError::Unexpected { .. } => failure,
    }
}

const EXAMPLES: &str = "\
Examples:
  sluicegate reload
  sluicegate reload --config /etc/sluicegate/sluicegate.toml
  sluicegate reload --admin 127.0.0.1:9900";
