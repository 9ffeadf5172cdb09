//! `run --watch`: tells the server when a file that its configuration is made of has changed.
//!
//! What counts is what the files are, not what a file system says of them: events only wake the thread here
//! early, and every few seconds it looks by itself (folders that come and go, network file systems). So it does
//! not matter how an editor or a compiler replaces a file, and one that is being written is waited
//! for. A reload goes the way of SIGHUP: a file that is broken leaves the old configuration serving.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Failure, say};
use crate::config;
use crate::config::model::{CertSource, Config, PluginConfig, SecretSource};
use crate::server::Changes;

/// Begins to watch a configuration file and all files that it names.
///
/// # Errors
/// When no thread can be started. Where the system has no events, files are looked at every few seconds.
pub(super) fn changes(config: &Path) -> Result<Changes, Failure> {
    let (wake, woken) = sync_channel(1);
    let events = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change. One message that waits is as good as many.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = wake.try_send(());
        }
    });
    if let Err(error) = &events {
        say(&format!(
            "no events of the file system, {error}: looking by myself\n"
        ));
    }
    let (tell, changes) = mpsc::channel(1);
    let mut watch = Watch {
        config: config.to_owned(),
        events: events.ok(),
        folders: BTreeSet::new(),
        files: Vec::new(),
    };
    watch.look_up_files();
    thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch.run(&woken, &tell))
        .map_err(|error| Failure::runtime(format!("cannot watch files: {error}")))?;
    Ok(changes)
}

struct Watch {
    config: PathBuf,
    events: Option<RecommendedWatcher>,
    /// Those that events come from.
    folders: BTreeSet<PathBuf>,
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What is another one whenever a file was written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Watch {
    /// Until nobody listens any more.
    fn run(mut self, woken: &Receiver<()>, tell: &mpsc::Sender<PathBuf>) {
        loop {
            match woken.recv_timeout(LOOK) {
                // More is about to come, and most of it is about other files of the folder.
                Ok(()) => thread::sleep(SETTLE),
                Err(RecvTimeoutError::Timeout) => {}
                // Without events there is only the clock.
                Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
            }
            let Some(file) = self.changed() else {
                self.listen();
                continue;
            };
            self.settle();
            match tell.try_send(file) {
                // A reload that has not begun will see this change as well.
                Ok(()) | Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Closed(_)) => return,
            }
            self.look_up_files();
        }
    }

    /// The first file that is not what it was.
    fn changed(&self) -> Option<PathBuf> {
        let mut files = self.files.iter();
        let changed = files.find(|(path, stamp)| Stamp::of(path) != *stamp);
        changed.map(|(path, _)| path.clone())
    }

    /// Waits until nobody writes any more, but not for ever.
    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS {
            for (path, stamp) in &mut self.files {
                *stamp = Stamp::of(path);
            }
            thread::sleep(SETTLE);
            if self.changed().is_none() {
                return;
            }
        }
    }

    /// Reads which files there are to watch; a configuration with mistakes leaves them as they are.
    fn look_up_files(&mut self) {
        let mut files = vec![self.config.clone()];
        match config::read(&self.config)
            .ok()
            .and_then(|source| config::parse(&source).ok())
        {
            Some((config, _)) => files.extend(named_files(&config)),
            None => files.extend(self.files.iter().map(|(path, _)| path.clone())),
        }
        files.sort();
        files.dedup();
        let known = |path: &PathBuf| self.files.iter().find(|(known, _)| known == path);
        let files = files.into_iter().map(|path| {
            // Of a known one the stamp of the last look, so that nothing in between is missed.
            let stamp = known(&path).map_or_else(|| Stamp::of(&path), |(_, stamp)| *stamp);
            (path, stamp)
        });
        self.files = files.collect();
        self.listen();
    }

    /// Asks for events of all folders, also of those that files are links into.
    fn listen(&mut self) {
        let Some(events) = &mut self.events else {
            return;
        };
        let mut wanted = BTreeSet::new();
        for (path, _) in &self.files {
            wanted.insert(folder(path));
            wanted.extend(path.canonicalize().map(|path| folder(&path)));
        }
        // Its last event is gone with a folder, also if there is a new one of its name.
        self.folders.retain(|folder| folder.is_dir());
        for gone in self.folders.difference(&wanted) {
            let _ = events.unwatch(gone);
        }
        let kept: BTreeSet<PathBuf> = self.folders.intersection(&wanted).cloned().collect();
        let new = wanted.into_iter().filter(|folder| !kept.contains(folder));
        // What cannot be watched is looked at all the same.
        let new = new.filter(|folder| events.watch(folder, RecursiveMode::NonRecursive).is_ok());
        let new: Vec<PathBuf> = new.collect();
        self.folders = kept.into_iter().chain(new).collect();
    }
}

impl Stamp {
    /// `None`: it is not there.
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// Every file that a configuration names.
fn named_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut certificate = |certificate: &CertSource| {
        files.push(certificate.cert.value.clone());
        files.push(certificate.key.value.clone());
    };
    let listeners = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    listeners
        .clone()
        .flat_map(|tls| &tls.certs)
        .for_each(&mut certificate);
    let upstreams = config.upstreams.iter().map(|upstream| &upstream.tls);
    upstreams
        .clone()
        .filter_map(|tls| tls.client_cert.as_ref())
        .for_each(&mut certificate);
    let clients = listeners.filter_map(|tls| tls.client_auth.as_ref());
    files.extend(clients.map(|auth| auth.ca.value.clone()));
    files.extend(upstreams.filter_map(|tls| Some(tls.ca.as_ref()?.value.clone())));
    files.extend(
        config
            .plugins
            .iter()
            .map(|plugin| plugin.wasm.value.clone()),
    );
    let routes = config.routes.iter().flat_map(|route| &route.plugins);
    let configs = config.plugins.iter().map(|plugin| &plugin.config);
    files.extend(
        configs
            .chain(routes.map(|link| &link.config))
            .flat_map(secret_files),
    );
    files
}

fn secret_files(config: &PluginConfig) -> impl Iterator<Item = PathBuf> {
    config
        .secrets
        .iter()
        .filter_map(|secret| match &secret.source {
            SecretSource::File(path) => Some(path.clone()),
            SecretSource::Env(_) => None,
        })
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// How often files are looked at without an event.
const LOOK: Duration = Duration::from_secs(2);
/// How long a file must stay as it is to count as written.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_ROUNDS: u32 = 40;
