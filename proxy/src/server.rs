//! The process: workers and their listeners, reloads, and the order of a stop.
//!
//! One thread controls (signals, admin, reloads); the others are workers, each a current_thread
//! runtime with its own SO_REUSEPORT socket per listener, so that everything of a connection stays
//! on its core. Nothing that takes long runs on a worker: a reload builds its snapshot on the
//! control thread and the blocking pool, and is then swapped in as a whole or not at all.
//!
//! A start as root that is to become somebody else binds, becomes it, and only then reads certificates, plugins and
//! secrets; clients wait in the backlog for that long.
//!
//! A stop goes: not ready, no new connections, HTTP finishes what is under way, tunnels leave one
//! by one, exit. The control thread waits for the last [`Member`](crate::drain::Member), which tunnels are.

mod accept;
mod bound;
mod crew;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::admin::{self, AdminActions, AdminListener, AdminState, Readiness, ReloadOutcome};
use crate::banner;
use crate::config::model::{Bind, Config};
use crate::listener::{BindError, BoundListener, LocalAddr};
use crate::memory;
use crate::privileges;
use crate::reload::{self, Fixed, Origin, Rejected};
use crate::snapshot::{ListenerPolicy, Snapshot, Workshop};
use crate::supervisor::Supervisor;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Telemetry, TelemetryError};
use crate::worker::{Listener, Shared};
use accept::WorkerHandle;
use bound::{Bound, worker_count};
use crew::Crew;

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The rendered report.
    #[error("{0}")]
    Config(String),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot listen on the admin address `{bind}`: {source}")]
    AdminBind {
        bind: String,
        source: std::io::Error,
    },
    #[error("cannot set up the logs: {0}")]
    Telemetry(#[from] TelemetryError),
    #[error("interrupted before it served")]
    Interrupted,
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Where a server that has just started is reached.
#[derive(Debug, Clone)]
pub struct Started {
    /// In the order of the configuration; a port of 0 is resolved.
    pub listeners: Vec<LocalAddr>,
    /// `None` without `[admin]`, or when it is a unix socket.
    pub admin: Option<SocketAddr>,
}

/// Files that have changed; each asks for a reload.
pub type Changes = mpsc::Receiver<PathBuf>;

/// Runs until a signal ends it; `ready` is called once everything serves.
pub fn run(
    origin: Origin,
    changes: Option<Changes>,
    ready: impl FnOnce(&Started),
) -> Result<(), RunError> {
    let began = Instant::now();
    memory::keep_a_reserve();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let (server, mut control, started) = Server::start(origin, began).await?;
        control.changes = changes;
        ready(&started);
        server.control(control).await
    });
    // A plugin that is still being compiled must not hold up the exit.
    runtime.shutdown_background();
    ended
}

struct Server {
    origin: Origin,
    fixed: Fixed,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    listeners: HashMap<Bind, Arc<Listener>>,
    workshop: Workshop,
    actions: Arc<Actions>,
    supervisor: Supervisor,
    /// Flushes the logs when it is dropped, so it goes last.
    telemetry: Telemetry,
}

/// What the control thread listens to.
struct Control {
    reloads: mpsc::Receiver<oneshot::Sender<ReloadOutcome>>,
    changes: Option<Changes>,
    hup: Signal,
    stop: StopSignals,
    stop_admin: Option<oneshot::Sender<()>>,
}

/// The signals that end the process.
struct StopSignals {
    term: Signal,
    int: Signal,
    quit: Signal,
}

/// The admin listener's way to the control thread.
struct Actions {
    reloads: mpsc::Sender<oneshot::Sender<ReloadOutcome>>,
    readiness: AtomicU8,
}

/// All that can go wrong has gone well, and nothing serves yet.
struct Prepared {
    snapshot: Snapshot,
    listeners: Vec<(Bind, BoundListener)>,
    admin: Option<AdminListener>,
    workshop: Workshop,
    telemetry: Telemetry,
}

impl Prepared {
    async fn by(
        origin: &Origin,
        metrics: &Arc<Metrics>,
        stop: &mut StopSignals,
    ) -> Result<Prepared, RunError> {
        let parsed = reload::parse(origin).map_err(RunError::Config)?;
        let telemetry = crate::telemetry::init(&parsed.config.log, metrics)?;
        let access_log = telemetry.access_log(&parsed.config.log);
        // Who gives up root binds first; anybody else when nothing can go wrong any more but that.
        let (early, home) = match &parsed.config.runtime.account {
            None => (None, None),
            Some(account) => {
                let bound = Bound::of(&parsed.config).await?;
                let home = bound::become_account(account, &parsed.config, &parsed.source, origin)?;
                (Some(bound), Some(home))
            }
        };
        if privileges::is_root() && home.is_none() {
            tracing::warn!("serving as root; `[runtime] user` names whom to become instead");
        }
        let workshop = reload::workshop(metrics, home, banner::progress());
        let built = tokio::select! {
            built = reload::build(parsed, None, &workshop, access_log) => built,
            _ = stop.asked() => return Err(RunError::Interrupted),
        };
        let (snapshot, report) = built.map_err(|Rejected(report)| RunError::Config(report))?;
        if !report.diagnostics.is_empty() {
            eprint(&report.render(banner::is_terminal()));
        }
        let Bound { listeners, admin } = match early {
            Some(bound) => bound,
            None => Bound::of(&snapshot.config).await?,
        };
        Ok(Prepared {
            snapshot,
            listeners,
            admin,
            workshop,
            telemetry,
        })
    }
}

impl Control {
    fn new(reloads: mpsc::Receiver<oneshot::Sender<ReloadOutcome>>) -> std::io::Result<Control> {
        Ok(Control {
            reloads,
            changes: None,
            hup: signal(SignalKind::hangup())?,
            stop: StopSignals {
                term: signal(SignalKind::terminate())?,
                int: signal(SignalKind::interrupt())?,
                quit: signal(SignalKind::quit())?,
            },
            stop_admin: None,
        })
    }
}

impl Server {
    async fn start(origin: Origin, began: Instant) -> Result<(Server, Control, Started), RunError> {
        // Signals first: one that comes during a long start must not be lost.
        let (tell_reload, reloads) = mpsc::channel(RELOADS_WAITING);
        let mut control = Control::new(reloads)?;
        let metrics = Metrics::new();
        let Prepared {
            snapshot,
            listeners: bound,
            admin,
            workshop,
            telemetry,
        } = Prepared::by(&origin, &metrics, &mut control.stop).await?;

        publish(&metrics, &snapshot);
        metrics.set_generation(snapshot.generation);
        let workers = worker_count(&snapshot.config);
        let lines = banner::Banner::new(&snapshot, &bound, admin.as_ref(), workers, began);
        let fixed = Fixed::of(&snapshot.config);
        let shared = Arc::new(Shared::new(snapshot, metrics));
        let workers = Crew::places(workers.get())
            .into_iter()
            .enumerate()
            .map(|(id, (place, handed))| WorkerHandle::start(id, &shared, place, handed))
            .collect::<Result<Vec<_>, _>>()?;
        let actions = Arc::new(Actions {
            reloads: tell_reload,
            readiness: AtomicU8::new(Readiness::Ready as u8),
        });
        let mut server = Server {
            origin,
            fixed,
            shared,
            workers,
            listeners: HashMap::new(),
            workshop,
            actions,
            supervisor: Supervisor::from_environment(),
            telemetry,
        };
        let snapshot = server.shared.snapshot();
        let started = Started {
            listeners: bound
                .iter()
                .map(|(_, own)| own.local_addr.clone())
                .collect(),
            admin: admin.as_ref().and_then(AdminListener::local_addr),
        };
        for (bind, listener) in bound {
            server.listen(bind, listener, &snapshot)?;
        }
        if let Some(admin) = admin {
            control.stop_admin = Some(server.serve_admin(admin));
        }
        lines.print();
        server.supervisor.ready("serving");
        Ok((server, control, started))
    }

    /// Hands a bound listener's sockets to the workers.
    fn listen(
        &mut self,
        bind: Bind,
        bound: BoundListener,
        snapshot: &Snapshot,
    ) -> std::io::Result<()> {
        let Some(policy) = policy_of(snapshot, &bind) else {
            return Ok(());
        };
        let listener = Arc::new(Listener::new(policy, &self.shared.metrics));
        for (worker, socket) in self.workers.iter().zip(bound.sockets) {
            worker.listen(socket, &listener)?;
        }
        self.listeners.insert(bind, listener);
        Ok(())
    }

    fn serve_admin(&self, listener: AdminListener) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        let state = AdminState {
            metrics: Arc::clone(&self.shared.metrics),
            actions: Arc::clone(&self.actions),
        };
        tokio::spawn(admin::serve(listener, state, async {
            // Also when the server is dropped.
            let _ = stopped.await;
        }));
        stop
    }

    /// Obeys signals and reload requests until it is time to go.
    async fn control(mut self, mut control: Control) -> Result<(), RunError> {
        let patient = loop {
            let asker = tokio::select! {
                _ = control.hup.recv() => None,
                Some(asker) = control.reloads.recv() => Some(asker),
                file = changed(&mut control.changes) => {
                    tracing::info!(file = %file.display(), "a file has changed");
                    None
                }
                patient = control.stop.asked() => break patient,
            };
            // A reload may compile for a while; a stop does not wait for that.
            let outcome = tokio::select! {
                outcome = self.reload() => outcome,
                patient = control.stop.asked() => break patient,
            };
            if let Some(asker) = asker {
                // An asker that has left learns it from the log.
                let _ = asker.send(outcome);
            }
        };
        self.drain(patient, &mut control).await;
        Ok(())
    }

    async fn reload(&mut self) -> ReloadOutcome {
        self.supervisor.reloading();
        match self.try_reload().await {
            Ok((generation, warnings)) => {
                self.supervisor.ready("serving");
                self.shared.metrics.reload_applied(generation);
                tracing::info!(generation, "configuration reloaded");
                ReloadOutcome::Applied {
                    generation,
                    warnings,
                }
            }
            Err(Rejected(report)) => {
                self.supervisor
                    .ready("serving, but the last reload was rejected");
                self.shared.metrics.reload_rejected();
                tracing::error!("reload rejected, the old configuration goes on");
                eprint(&report);
                ReloadOutcome::Rejected { report }
            }
        }
    }

    /// Everything that can fail comes before the first change.
    async fn try_reload(&mut self) -> Result<(u64, String), Rejected> {
        let previous = self.shared.snapshot();
        let parsed = reload::parse(&self.origin).map_err(Rejected)?;
        let log = parsed.config.log.clone();
        crate::telemetry::parse_level(&log.level).map_err(|error| Rejected(error.to_string()))?;
        let access_log = self.telemetry.access_log(&log);
        let built = reload::build(parsed, Some(&previous), &self.workshop, access_log);
        let (snapshot, report) = built.await?;
        let mut bound = Vec::new();
        for (bind, _) in &snapshot.listeners {
            if !self.listeners.contains_key(bind) {
                let listener = BoundListener::bind(bind, self.workers.len())
                    .map_err(|error| Rejected(reload::bind_report(&error)))?;
                bound.push((bind.clone(), listener));
            }
        }

        let snapshot = Arc::new(snapshot);
        for (bind, policy) in &snapshot.listeners {
            if let Some(listener) = self.listeners.get(bind) {
                listener.set_policy(policy);
            }
        }
        self.shared.serve_with(Arc::clone(&snapshot));
        for (bind, listener) in bound {
            // The new configuration serves already; this would need a worker to have died.
            if let Err(error) = self.listen(bind, listener, &snapshot) {
                tracing::error!(%error, "a new listener does not serve");
            }
        }
        self.close_listeners_not_in(&snapshot).await;
        publish(&self.shared.metrics, &snapshot);
        if let Err(error) = self.telemetry.set_level(&log.level) {
            tracing::warn!(%error, "the log level stays as it was");
        }
        let mut warnings = match report.diagnostics.as_slice() {
            [] => String::new(),
            _ => report.render(false),
        };
        warnings.push_str(&self.fixed.needs_restart(&snapshot.config));
        if !warnings.is_empty() {
            tracing::warn!(warnings, "configuration reloaded with warnings");
        }
        Ok((snapshot.generation, warnings))
    }

    async fn close_listeners_not_in(&mut self, snapshot: &Snapshot) {
        let (kept, gone) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(bind, _)| policy_of(snapshot, bind).is_some());
        self.listeners = kept;
        close_all(HashMap::values(&gone)).await;
    }

    async fn drain(self, patient: bool, control: &mut Control) {
        let drain = &self.shared.drain;
        // Whoever asks for a reload now is told at once that there will be none.
        control.reloads.close();
        while control.reloads.try_recv().is_ok() {}
        self.actions.set_readiness(Readiness::Draining);
        self.supervisor.stopping();
        self.shared.metrics.set_draining(true);
        close_all(self.listeners.values()).await;
        let open = drain.live();
        let deadline = longest_drain(&self.shared.snapshot().config);
        if patient {
            tracing::info!(open, "draining without a deadline");
            drain.start_patient();
        } else {
            tracing::info!(open, deadline = ?deadline, "draining");
            drain.start();
        }
        tokio::select! {
            () = drain.emptied() => {}
            () = tokio::time::sleep(deadline), if !patient => {}
            () = control.stop.again(patient) => {}
        }
        let left = drain.live();
        drain.stop();
        if left > 0 {
            tracing::warn!(left, "connections were cut");
            // Each notices at its next poll; a guest that computes has its own limit.
            let _ = timeout(STOP_GRACE, drain.emptied()).await;
        }
        tracing::info!("stopped");
        if let Some(stop) = control.stop_admin.take() {
            let _ = stop.send(());
        }
    }
}

impl StopSignals {
    /// Waits for the first; true if the stop is to be patient.
    async fn asked(&mut self) -> bool {
        tokio::select! {
            _ = self.term.recv() => false,
            _ = self.int.recv() => false,
            _ = self.quit.recv() => true,
        }
    }

    /// Waits for a second one; another QUIT asks a patient stop for nothing new.
    async fn again(&mut self, patient: bool) {
        while self.asked().await && patient {}
    }
}

impl Actions {
    fn set_readiness(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::Release);
    }
}

impl AdminActions for Actions {
    async fn reload(&self) -> ReloadOutcome {
        let (asker, answer) = oneshot::channel();
        let gone = || ReloadOutcome::Rejected {
            report: "the server is stopping".to_owned(),
        };
        if self.reloads.send(asker).await.is_err() {
            return gone();
        }
        answer.await.unwrap_or_else(|_| gone())
    }

    fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Acquire) {
            ready if ready == Readiness::Ready as u8 => Readiness::Ready,
            draining if draining == Readiness::Draining as u8 => Readiness::Draining,
            _ => Readiness::Starting,
        }
    }
}

/// Waits for the next changed file; for ever where nobody looks for changes.
async fn changed(changes: &mut Option<Changes>) -> PathBuf {
    if let Some(changes) = changes
        && let Some(file) = changes.recv().await
    {
        return file;
    }
    std::future::pending().await
}

/// Stops accepting, everywhere at once; returns when the sockets are closed.
async fn close_all(listeners: impl Iterator<Item = &Arc<Listener>> + Clone) {
    for listener in listeners.clone() {
        listener.closing.start();
    }
    for listener in listeners {
        listener.closing.emptied().await;
    }
}

fn policy_of(snapshot: &Snapshot, bind: &Bind) -> Option<Arc<ListenerPolicy>> {
    let (_, policy) = snapshot.listeners.iter().find(|(own, _)| own == bind)?;
    Some(Arc::clone(policy))
}

fn publish(metrics: &Metrics, snapshot: &Snapshot) {
    metrics.set_certificates(
        snapshot
            .certificates()
            .map(|cert| (cert.names.join(","), cert.not_after))
            .collect(),
    );
    // A changed plugin or config begins without the quarantine of the one before.
    for link in snapshot.routes.iter().flat_map(|route| &route.chain) {
        link.metrics
            .set_quarantine(link.standing.quarantined_until());
    }
}

fn longest_drain(config: &Config) -> Duration {
    let routes = config.routes.iter().map(|route| route.timeouts.drain);
    routes.fold(config.timeouts.drain, Duration::max)
}

/// For people: reports go to stderr as they are, not as log lines.
fn eprint(text: &str) {
    use std::io::Write as _;
    // A closed stderr must not stop the server.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Reload requests that wait for the one under way.
const RELOADS_WAITING: usize = 16;
/// How long connections have to notice that they are stopped.
const STOP_GRACE: Duration = Duration::from_secs(1);
