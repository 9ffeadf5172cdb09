//! HTTP/2 connections of one worker, by endpoint, each shared by many requests.
//!
//! Like the [`Pool`](super::Pool) it opens nothing itself: [`Multiplex::find`] gives a place on a
//! connection that there is, or an [`Opening`]: the right to open one, which only one request has at a
//! time. The others wait for what comes of it, each under a deadline of its own.
//!
//! A connection that takes no more streams (GOAWAY, too old, broken) is dropped from here at once; the
//! streams it has go on. Then it closes by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::connect::Endpoint;
use crate::config::model::Http2Pool;
use crate::http2::client::{Client, Slot, Waiters};

/// One worker's HTTP/2 connections.
#[derive(Debug, Default)]
pub struct Multiplex {
    /// By the endpoint's place in memory, which the shelf's `Weak` keeps from being reused.
    /// Uncontended: only the tasks of one worker's thread lock it, and never across a wait.
    shelves: Mutex<HashMap<usize, Shelf>>,
}

/// What there is for a request to an endpoint.
#[derive(Debug)]
pub enum Place<'a> {
    /// A stream on a connection that is there.
    Slot(Slot),
    /// There is room for a connection more, and nobody else opens one; or nobody minds, since the
    /// server is known to choose HTTP/1.1.
    Open(Opening<'a>),
    /// Another request opens a connection: look again when this is ready.
    Opening(OwnedNotified),
    /// Every connection that there may be is full: look again when this is ready.
    Full(OwnedNotified),
}

/// The right to open a connection; dropped without one, somebody else may try.
#[derive(Debug)]
pub struct Opening<'a> {
    multiplex: &'a Multiplex,
    endpoint: &'a Arc<Endpoint>,
    changed: Waiters,
    expects_http1: bool,
    tunnel: bool,
}

#[derive(Debug)]
struct Shelf {
    endpoint: Weak<Endpoint>,
    /// Oldest first, which is filled first: those that nobody needs get idle.
    held: Vec<Held>,
    /// Somebody opens one.
    opening: bool,
    /// When it was last asked by ALPN the server chose HTTP/1.1.
    http1: bool,
    /// Told of what waiting requests may want to know.
    changed: Waiters,
}

#[derive(Debug)]
struct Held {
    client: Client,
    keep_alive: Duration,
    max_age: Duration,
}

impl Multiplex {
    pub fn new() -> Multiplex {
        Multiplex::default()
    }

    /// A place for one more stream to `endpoint`, or how to come by one. Tunnels may have half of each
    /// connection.
    pub fn find<'a>(
        &'a self,
        endpoint: &'a Arc<Endpoint>,
        tunnel: bool,
        limits: Http2Pool,
        now: Instant,
    ) -> Place<'a> {
        let mut shelves = self.lock();
        let shelf = shelves.entry(key(endpoint)).or_insert_with(|| Shelf {
            endpoint: Arc::downgrade(endpoint),
            held: Vec::new(),
            opening: false,
            http1: false,
            changed: Waiters::default(),
        });
        shelf.held.retain_mut(|held| held.is_good(now));
        let mut clients = shelf.held.iter_mut().map(|held| &mut held.client);
        if let Some(slot) = clients.find_map(|client| client.take(tunnel)) {
            return Place::Slot(slot);
        }
        let waiting = || shelf.changed.wait(tunnel);
        if !shelf.http1 {
            if shelf.opening {
                return Place::Opening(waiting());
            }
            if shelf.held.len() >= limits.connections {
                return Place::Full(waiting());
            }
            shelf.opening = true;
        }
        Place::Open(Opening {
            multiplex: self,
            endpoint,
            changed: shelf.changed.clone(),
            expects_http1: shelf.http1,
            tunnel,
        })
    }

    /// Drops connections that rest or live too long, and those to endpoints that no snapshot has any
    /// more.
    ///
    /// Nothing else does so for an endpoint without traffic: call it every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, shelf| {
            shelf.held.retain_mut(|held| held.is_good(now));
            shelf.endpoint.strong_count() > 0
        });
    }

    /// Connections that take new streams.
    pub fn len(&self) -> usize {
        self.lock().values().map(|shelf| shelf.held.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening<'_> {
    /// Who is told of slots that come back.
    pub fn changed(&self) -> Waiters {
        self.changed.clone()
    }

    /// The server is known to choose HTTP/1.1.
    pub fn expects_http1(&self) -> bool {
        self.expects_http1
    }

    /// Shares the connection that was opened, and gives its first slot; `None` if it takes no stream.
    pub fn add(self, mut client: Client, limits: Http2Pool, keep_alive: Duration) -> Option<Slot> {
        let slot = client.take(self.tunnel)?;
        if let Some(shelf) = self.multiplex.lock().get_mut(&key(self.endpoint)) {
            shelf.http1 = false;
            shelf.held.push(Held {
                client,
                keep_alive,
                max_age: limits.max_age,
            });
        }
        self.changed.wake_all();
        Some(slot)
    }

    /// The server has chosen HTTP/1.1.
    pub fn is_http1(self) {
        if let Some(shelf) = self.multiplex.lock().get_mut(&key(self.endpoint)) {
            shelf.http1 = true;
        }
        self.changed.wake_all();
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if self.expects_http1 {
            return;
        }
        if let Some(shelf) = self.multiplex.lock().get_mut(&key(self.endpoint)) {
            shelf.opening = false;
        }
        self.changed.wake_one();
    }
}

impl Held {
    fn is_good(&mut self, now: Instant) -> bool {
        self.client.age(now) < self.max_age
            && self
                .client
                .idle_for(now)
                .is_none_or(|idle| idle < self.keep_alive)
            && self.client.is_good()
    }
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint).addr()
}

#[cfg(test)]
mod tests;
