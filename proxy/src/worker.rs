//! What traffic runs on: the process, its workers and its listeners, as connections see them.
//!
//! Three lifetimes, three types: [`Shared`] lives as long as the process, a [`Worker`] as its
//! thread, a [`Listener`] as its place in the configuration. A generation of the configuration is a
//! [`Snapshot`], which whoever needs it takes once and keeps.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::admission::{AdmissionControl, Turns};
use crate::budget::Budget;
use crate::drain::Drain;
use crate::snapshot::{ListenerPolicy, Snapshot};
use crate::telemetry::metrics::{ListenerMetrics, Metrics};
use crate::upstream::{Multiplex, Pool};

/// What all workers share for the life of the process.
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub admission: Arc<AdmissionControl>,
    pub budget: Arc<Budget>,
}

/// What the connections of one worker share.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub pool: Pool,
    pub multiplex: Multiplex,
    /// Of the TLS handshakes with its clients.
    pub turns: Turns,
}

/// One configured listener; its policy changes with a reload, its sockets stay.
pub struct Listener {
    policy: ArcSwap<ListenerPolicy>,
    pub metrics: ListenerMetrics,
    /// Joined by its accept loops; started when the listener goes.
    pub closing: Drain,
}

impl Shared {
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>) -> Shared {
        let budget = Budget::new(snapshot.limits.memory);
        metrics.export_budget(Arc::clone(&budget));
        Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            drain: Drain::default(),
            metrics,
            admission: Arc::default(),
            budget,
        }
    }

    /// The present generation.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// From now on new connections and requests use this generation.
    pub fn serve_with(&self, snapshot: Arc<Snapshot>) {
        self.budget.set_limit(snapshot.limits.memory);
        self.snapshot.store(snapshot);
        self.admission.limit_changed();
    }
}

impl Worker {
    pub fn new(shared: &Arc<Shared>) -> Worker {
        Worker {
            shared: Arc::clone(shared),
            pool: Pool::new(),
            multiplex: Multiplex::new(),
            turns: Turns::default(),
        }
    }

    /// The present generation.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }
}

impl Listener {
    pub fn new(policy: Arc<ListenerPolicy>, metrics: &Metrics) -> Listener {
        Listener {
            metrics: metrics.listener(&policy.bind),
            policy: ArcSwap::new(policy),
            closing: Drain::default(),
        }
    }

    /// How the present generation treats new connections.
    pub fn policy(&self) -> Arc<ListenerPolicy> {
        self.policy.load_full()
    }

    pub fn set_policy(&self, policy: &Arc<ListenerPolicy>) {
        self.policy.store(Arc::clone(policy));
    }
}
