//! What the requests of one downstream connection share.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::Version;

use crate::admission::Admission;
use crate::budget::{Account, Kind};
use crate::config::model::Limits;
use crate::error::Failure;
use crate::facts::ConnectionFacts;
use crate::pace::Sharers;
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
    /// Requests that have begun, and those of them that are under way.
    begun: AtomicUsize,
    open: AtomicU32,
    /// Bytes of their answers that have gone out, over HTTP/2.
    gone_out: AtomicU64,
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
            begun: AtomicUsize::new(0),
            open: AtomicU32::new(0),
            gone_out: AtomicU64::new(0),
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
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Who shares the connection's rate: on one of HTTP/1 there is one request at a time.
    pub(super) fn sharers(self: &Arc<Self>, version: Version) -> Option<Arc<dyn Sharers>> {
        (version == Version::HTTP_2).then(|| Arc::clone(self) as Arc<dyn Sharers>)
    }

    pub(super) fn end_request(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// At least one request has begun.
    pub(super) fn is_used(&self) -> bool {
        self.begun.load(Ordering::Relaxed) > 0
    }

    /// Whether the request that began last is the last that there may be.
    pub(super) fn is_last_request(&self, limits: &Limits) -> bool {
        let most = limits.requests_per_connection;
        most.is_some_and(|most| self.begun.load(Ordering::Relaxed) >= most.get())
    }

    /// Counts the end of a connection that its client would have gone on with.
    pub(super) fn retire(&self, reason: &'static str) {
        let shared = &self.worker.shared;
        shared
            .metrics
            .listener(&self.facts.listener)
            .retired(reason);
        let (peer, listener) = (self.facts.peer, &self.facts.listener);
        tracing::debug!(%peer, %listener, reason, "a connection is retired");
    }

    /// Counts an answer that is broken off: its client took it `too_slow`ly, or nothing of it for long.
    pub(super) fn cut_response(&self, too_slow: bool) {
        let reason = match too_slow {
            true => "too_slow",
            false => "stalled",
        };
        self.worker.shared.metrics.response_cut(reason);
        let (peer, listener) = (self.facts.peer, &self.facts.listener);
        tracing::info!(%peer, %listener, reason, "a response is cut: its client does not take it");
    }

    /// Whether this connection, which is idle, shall make room for another.
    pub(super) fn gives_way(&self) -> bool {
        self.is_used() && self.worker.shared.admission.gives_way()
    }
}

impl Sharers for Connection {
    fn count(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn gone_out(&self) -> &AtomicU64 {
        &self.gone_out
    }
}
