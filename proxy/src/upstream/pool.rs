//! Idle HTTP/1.1 connections of one worker, by endpoint.
//!
//! A pool never opens a connection and never spawns: the flow drives each connection and puts the
//! sender back once a response has been read to its end. Only connections that carried ordinary
//! requests belong here, never one on which an upgrade was asked for.
//!
//! A server may close an idle connection just as it is taken. [`Pool::take`] sorts out those known
//! to be closed; for the rest, send with [`SendRequest::try_send_request`], whose error hands the
//! request back if none of it was written: then it is safe to repeat on a fresh connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::connect::Endpoint;

/// One worker's idle connections, for requests with body `B`.
#[derive(Debug)]
pub struct Pool<B> {
    /// By the endpoint's place in memory, which the shelf's `Weak` keeps from being reused.
    /// Uncontended: only the tasks of one worker's thread lock it, and never across a wait.
    shelves: Mutex<HashMap<usize, Shelf<B>>>,
}

#[derive(Debug)]
struct Shelf<B> {
    endpoint: Weak<Endpoint>,
    /// Longest idle first.
    idle: VecDeque<Idle<B>>,
}

#[derive(Debug)]
struct Idle<B> {
    sender: SendRequest<B>,
    until: Instant,
}

impl<B> Pool<B> {
    pub fn new() -> Self {
        Self {
            shelves: Mutex::new(HashMap::new()),
        }
    }

    /// The connection to `endpoint` that was used last, if one is ready and not past its time.
    pub fn take(&self, endpoint: &Arc<Endpoint>) -> Option<SendRequest<B>> {
        let now = Instant::now();
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(&key(endpoint))?;
        while let Some(idle) = shelf.idle.pop_back() {
            if idle.is_good(now) {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Keeps a connection for at most `keep_alive`, and at most `limit` of them for the endpoint.
    ///
    /// Beyond the limit the one that idled longest is closed. A connection that is not ready or
    /// already closed is dropped: read the response to its end, then await `SendRequest::ready`,
    /// since the connection's task needs a turn of its own before it says so.
    pub fn put_back(
        &self,
        endpoint: &Arc<Endpoint>,
        sender: SendRequest<B>,
        keep_alive: Duration,
        limit: usize,
    ) {
        if !sender.is_ready() || limit == 0 {
            return;
        }
        let now = Instant::now();
        let mut shelves = self.lock();
        let shelf = shelves.entry(key(endpoint)).or_insert_with(|| Shelf {
            endpoint: Arc::downgrade(endpoint),
            idle: VecDeque::new(),
        });
        shelf.idle.retain(|idle| idle.is_good(now));
        while shelf.idle.len() >= limit {
            shelf.idle.pop_front();
        }
        shelf.idle.push_back(Idle {
            sender,
            until: now + keep_alive,
        });
    }

    /// Closes connections past their time and those to endpoints that no snapshot has any more.
    ///
    /// Nothing else does so for an endpoint without traffic: call it every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, shelf| {
            shelf.idle.retain(|idle| idle.is_good(now));
            !shelf.idle.is_empty() && shelf.endpoint.strong_count() > 0
        });
    }

    /// Idle connections kept now.
    pub fn len(&self) -> usize {
        self.lock().values().map(|shelf| shelf.idle.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Shelf<B>>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Idle<B> {
    fn is_good(&self, now: Instant) -> bool {
        now < self.until && self.sender.is_ready() && !self.sender.is_closed()
    }
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}
