//! What the requests of one downstream connection share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    admission: Admission,
    /// At least one request has begun.
    used: AtomicBool,
}

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
            admission,
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

    /// Counts a WebSocket on this connection for the worker that serves both.
    pub(super) fn carries_too(&self, socket: Admission) -> Admission {
        socket.beside(&self.admission)
    }

    pub(super) fn begin_request(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}
