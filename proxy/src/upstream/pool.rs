//! Idle HTTP/1.1 connections of one worker, by endpoint.
//!
//! A pool never opens a connection: the flow gives one back when both a request and its answer are
//! whole. Only connections that carried ordinary requests belong here, never one on which an upgrade
//! was asked for.
//!
//! A server may close an idle connection just as it is taken. [`Pool::take`] sorts out those known
//! to be closed; the rest shows when it is used.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Endpoint;
use crate::http1::client::Connection;
use crate::stream::Stream;

/// One worker's idle connections.
#[derive(Debug, Default)]
pub struct Pool {
    /// By the endpoint's place in memory, which the shelf's `Weak` keeps from being reused.
    /// Uncontended: only the tasks of one worker's thread lock it, and never across a wait.
    /// Few as they are, they are found faster than a key is hashed.
    shelves: Mutex<BTreeMap<usize, Shelf>>,
}

#[derive(Debug)]
struct Shelf {
    endpoint: Weak<Endpoint>,
    /// Longest idle first.
    idle: VecDeque<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection<Stream>,
    until: Instant,
}

impl Pool {
    pub fn new() -> Self {
        Self::default()
    }

    /// The connection to `endpoint` that was used last, if one is ready and not past its time.
    pub fn take(&self, endpoint: &Arc<Endpoint>, now: Instant) -> Option<Connection<Stream>> {
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(&key(endpoint))?;
        while let Some(mut idle) = shelf.idle.pop_back() {
            if idle.is_good(now) {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection for at most `keep_alive`, and at most `limit` of them for the endpoint.
    ///
    /// Beyond the limit the one that idled longest is closed.
    pub fn put_back(
        &self,
        endpoint: &Arc<Endpoint>,
        connection: Connection<Stream>,
        keep_alive: Duration,
        limit: usize,
    ) {
        if limit == 0 {
            return;
        }
        let now = Instant::now();
        let mut shelves = self.lock();
        let shelf = shelves.entry(key(endpoint)).or_insert_with(|| Shelf {
            endpoint: Arc::downgrade(endpoint),
            idle: VecDeque::new(),
        });
        while shelf.idle.len() >= limit {
            shelf.idle.pop_front();
        }
        shelf.idle.push_back(Idle {
            connection,
            until: now + keep_alive,
        });
    }

    /// Closes connections past their time and those to endpoints that no snapshot has any more.
    ///
    /// Nothing else does so for an endpoint without traffic: call it every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, shelf| {
            shelf.idle.retain_mut(|idle| idle.is_good(now));
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_good(&mut self, now: Instant) -> bool {
        now < self.until && self.connection.is_quiet()
    }
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}
