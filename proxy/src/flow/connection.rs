//! What the requests of one downstream connection share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::admission::Admission;
use crate::budget::{Account, Kind};
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
    /// What its requests hold, where they come one after the other.
    account: OnceLock<Account>,
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
            account: OnceLock::new(),
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

    /// Where a request counts what it holds, over HTTP/1.1: with those before it.
    pub(super) fn account(&self) -> &Account {
        self.account.get_or_init(|| self.open_account())
    }

    /// As [`Connection::account`], if some request has held something.
    pub(super) fn opened_account(&self) -> Option<&Account> {
        self.account.get()
    }

    /// Where a request counts what it holds beside others.
    pub(super) fn open_account(&self) -> Account {
        self.worker.shared.budget.open(Kind::Request)
    }

    pub(super) fn begin_request(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}
