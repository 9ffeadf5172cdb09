//! `sluicegate run`: serve until a signal ends it.

use std::path::{Path, PathBuf};

use super::{Failure, watch};
use crate::config;
use crate::reload::Origin;
use crate::server;

/// Serve a configuration, or proxy one address to another without one
///
/// SIGHUP reloads the configuration and drops nothing. SIGTERM and SIGINT drain within
/// `[timeouts] drain`, a second one stops at once; SIGQUIT drains without a deadline.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The configuration file [default: sluicegate.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "from")]
    config: Option<PathBuf>,
    /// Listen here, without a file: `:8080`, `127.0.0.1:8080`, `unix:/run/web.sock`
    #[arg(long, value_name = "ADDR", requires = "to")]
    from: Option<String>,
    /// Forward to this server; again for more servers, which take turns
    #[arg(long, value_name = "SERVER", requires = "from")]
    to: Vec<String>,
    /// Reload when the configuration, a plugin, a certificate or a secret's file changes
    #[arg(long, conflicts_with = "from")]
    watch: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let origin = match (args.from, args.config) {
        (Some(from), _) => Origin::Text(config::quick(&from, &args.to)),
        (None, Some(file)) => Origin::File(file),
        (None, None) => Origin::File(default_file()?),
    };
    let changes = match &origin {
        Origin::File(file) if args.watch => Some(watch::changes(file)?),
        _ => None,
    };
    server::run(origin, changes, |_| {}).map_err(Failure::from)
}

/// `sluicegate.toml` in this folder, for commands that were given no file.
///
/// # Errors
/// When it is not there, with what one might have meant.
pub(super) fn default_file() -> Result<PathBuf, Failure> {
    let file = Path::new(config::DEFAULT_FILE);
    if file.exists() {
        return Ok(file.to_owned());
    }
    let missing = format!("error: there is no `{}` in this folder\n", file.display());
    Err(Failure::Config(missing).hint(
        "name a file with `--config`, or serve without one: \
         `sluicegate run --from :8080 --to 127.0.0.1:3000`",
    ))
}

const EXAMPLES: &str = "\
Examples:
  sluicegate run
  sluicegate run --watch                             while you write a configuration or a plugin
  sluicegate run --config /etc/sluicegate/sluicegate.toml
  sluicegate run --from :8080 --to 127.0.0.1:3000
  sluicegate run --from :8080 --to 10.0.0.11:3000 --to 10.0.0.12:3000";
