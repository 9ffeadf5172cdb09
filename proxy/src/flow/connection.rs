//! What the requests of one downstream connection share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::admission::Admission;
use crate::error::Failure;
use crate::facts::ConnectionFacts;
use crate::snapshot::ListenerPolicy;
use crate::worker::Worker;

pub(super) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) policy: Arc<ListenerPolicy>,
    pub(super) facts: ConnectionFacts,
    /// The right to be open; given back when the last of connection, request and tunnel is gone.
    _admission: Admission,
    /// Requests begun and not yet answered to the last byte.
    in_flight: AtomicUsize,
    /// At least one request has begun.
    used: AtomicBool,
}

/// A request under way; the connection is busy while one lives.
pub(super) struct InFlight(Arc<Connection>);

impl Connection {
    pub(super) fn new(
        worker: Arc<Worker>,
        policy: Arc<ListenerPolicy>,
        facts: ConnectionFacts,
        admission: Admission,
    ) -> Connection {
        Connection {
            worker,
            policy,
            facts,
            _admission: admission,
            in_flight: AtomicUsize::new(0),
            used: AtomicBool::new(false),
        }
    }

    /// 421 if the request's host belongs to other certificates than the SNI that opened the
    /// connection.
    pub(super) fn check_authority(&self, host: &str) -> Result<(), Failure> {
        let (Some(policy), Some(facts)) = (&self.policy.tls, &self.facts.tls) else {
            return Ok(());
        };
        if policy.covers(facts.sni.as_deref(), host) {
            Ok(())
        } else {
            Err(Failure::misdirected())
        }
    }

    pub(super) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.used.store(true, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
