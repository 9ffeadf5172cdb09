//! From the configuration's text to a snapshot, at start and at every reload alike.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use sluicegate_plugin_host::HostSettings;

use crate::banner;
use crate::config::model::{Bind, Config};
use crate::config::{self, Diagnostic, Report, Source};
use crate::listener::BindError;
use crate::snapshot::{Snapshot, Workshop};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Read anew at each reload.
    File(PathBuf),
    /// Given on the command line: a reload only reads certificates and plugins again.
    Text(Arc<Source>),
}

/// A configuration that parsed.
pub struct Parsed {
    pub source: Arc<Source>,
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
}

/// The rendered report of a configuration that cannot serve.
#[derive(Debug)]
pub struct Rejected(pub String);

/// What a process keeps as it was started with, whatever its configuration says later.
#[derive(Debug)]
pub struct Fixed {
    admin: Option<Bind>,
    workers: Option<NonZeroUsize>,
    /// User and group.
    account: Option<(String, Option<String>)>,
}

impl Fixed {
    pub fn of(config: &Config) -> Fixed {
        Fixed {
            admin: config.admin.as_ref().map(|admin| admin.bind.value.clone()),
            workers: config.runtime.workers,
            account: config.runtime.account.as_ref().map(|account| {
                let group = account.group.as_ref();
                (
                    account.user.value.clone(),
                    group.map(|group| group.value.clone()),
                )
            }),
        }
    }

    /// Warnings about what `wanted` would have otherwise; empty without any.
    pub fn needs_restart(&self, wanted: &Config) -> String {
        let wanted = Fixed::of(wanted);
        let mut text = String::new();
        if self.admin != wanted.admin {
            text.push_str("warning: a change of `[admin] bind` needs a restart\n");
        }
        if self.workers != wanted.workers {
            text.push_str("warning: a change of `[runtime] workers` needs a restart\n");
        }
        if self.account != wanted.account {
            text.push_str("warning: a change of `[runtime] user` or `group` needs a restart\n");
        }
        text
    }
}

/// Reads and parses.
///
/// # Errors
/// The rendered report.
pub fn parse(origin: &Origin) -> Result<Parsed, String> {
    let source = match origin {
        Origin::File(path) => config::read(path).map_err(|error| format!("error: {error}\n"))?,
        Origin::Text(source) => Arc::clone(source),
    };
    match config::parse(&source) {
        Ok((config, warnings)) => Ok(Parsed {
            source,
            config,
            warnings,
        }),
        Err(report) => Err(report.render(banner::is_terminal())),
    }
}

/// Does the configuration's IO; the report beside the snapshot holds warnings only.
///
/// # Errors
/// The rendered report; the previous generation is untouched.
pub async fn build(
    parsed: Parsed,
    previous: Option<&Snapshot>,
    workshop: &Workshop,
    access_log: AccessLog,
) -> Result<(Snapshot, Report), Rejected> {
    let Parsed {
        source,
        config,
        warnings,
    } = parsed;
    Snapshot::build(&source, config, warnings, previous, workshop, access_log)
        .await
        .map_err(|report| Rejected(report.render(banner::is_terminal())))
}

/// What snapshots are built with: the plugin host, once there is a plugin, and its cache, which is in
/// `home` where that is not the environment's.
pub fn workshop(
    metrics: &Arc<Metrics>,
    home: Option<PathBuf>,
    progress: Box<dyn Fn(&str) + Send + Sync>,
) -> Workshop {
    let settings = HostSettings {
        cache_dir: cache_dir(home),
        ..HostSettings::default()
    };
    Workshop::new(settings, Arc::clone(metrics), progress)
}

/// A bind error with its hint, as a report.
pub fn bind_report(error: &BindError) -> String {
    match &error.hint {
        Some(hint) => format!("error: {error}\nhint: {hint}\n"),
        None => format!("error: {error}\n"),
    }
}

/// systemd's cache folder for the service, or the user's own.
fn cache_dir(home: Option<PathBuf>) -> Option<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("CACHE_DIRECTORY")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("sluicegate")))
        .or_else(|| (home.or_else(|| from("HOME"))).map(|home| home.join(".cache/sluicegate")))
        .map(|dir| dir.join("plugins"))
}
