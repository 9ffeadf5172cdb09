//! The addresses of a configuration, bound all at once, and whom the process becomes after that.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RunError;
use crate::admin::AdminListener;
use crate::banner;
use crate::config::model::{Account, Bind, Config};
use crate::config::{self, Diagnostic, Report, Source};
use crate::listener::BoundListener;
use crate::privileges::{self, Identity};
use crate::reload::Origin;

/// All addresses of a configuration, listening.
pub(super) struct Bound {
    /// In the order of the configuration.
    pub(super) listeners: Vec<(Bind, BoundListener)>,
    pub(super) admin: Option<AdminListener>,
}

impl Bound {
    /// Binds them all; clients can connect from then on, and wait.
    pub(super) async fn of(config: &Config) -> Result<Bound, RunError> {
        let workers = worker_count(config).get();
        let listeners = config.listeners.iter().map(|listener| {
            let bind = listener.bind.value.clone();
            BoundListener::bind(&bind, workers).map(|bound| (bind, bound))
        });
        let listeners = listeners.collect::<Result<_, _>>()?;
        let admin = match &config.admin {
            None => None,
            Some(admin) => {
                let bind = &admin.bind.value;
                let listener = AdminListener::bind(bind).await;
                Some(listener.map_err(|source| RunError::AdminBind {
                    bind: bind.to_string(),
                    source,
                })?)
            }
        };
        Ok(Bound { listeners, admin })
    }

    /// The files of its unix sockets.
    fn files(config: &Config) -> impl Iterator<Item = &Path> {
        let listeners = config.listeners.iter().map(|listener| &listener.bind.value);
        let admin = config.admin.iter().map(|admin| &admin.bind.value);
        listeners.chain(admin).filter_map(|bind| match bind {
            Bind::Unix(path) => Some(path.as_path()),
            Bind::Tcp(_) | Bind::AnyTcp(_) => None,
        })
    }
}

/// Gives up root for good, but for the unix sockets that it takes along; returns the home of whom it became.
///
/// The configuration itself has been read before; that it can be read again, as a reload will, is tried.
pub(super) fn become_account(
    account: &Account,
    config: &Config,
    source: &Arc<Source>,
    origin: &Origin,
) -> Result<PathBuf, RunError> {
    let mistaken = |message| Box::new(Diagnostic::error(account.user.span.clone(), message));
    let user = &account.user.value;
    let identity = Identity::find(account).and_then(|identity| {
        let refused = |error| mistaken(format!("cannot become `{user}`: {error}"));
        for file in Bound::files(config).filter(|_| privileges::is_root()) {
            let refused =
                |error| mistaken(format!("cannot give `{user}` {}: {error}", file.display()));
            identity.own_socket(file).map_err(refused)?;
        }
        identity.assume().map_err(refused)?;
        if let Origin::File(file) = origin {
            let unreadable = |error| {
                let mistake = *mistaken(format!("{error}, as `{user}`"));
                Box::new(mistake.hint("each reload reads it".to_owned()))
            };
            config::read(file).map_err(unreadable)?;
        }
        Ok(identity)
    });
    match identity {
        Ok(identity) => Ok(identity.home()),
        Err(mistake) => {
            let report = Report::new(source, vec![*mistake]);
            Err(RunError::Config(report.render(banner::is_terminal())))
        }
    }
}

pub(super) fn worker_count(config: &Config) -> NonZeroUsize {
    config
        .runtime
        .workers
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}
