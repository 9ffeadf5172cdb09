//! Upstreams: named groups of endpoints, and the choice of one for a request.
//!
//! [`Upstream::pick`] gives a [`Lease`]: the counted right to use an endpoint until it is dropped.
//! A tunnel holds its lease as long as it lives, so `least-conn` and `max_connections` see it.
//!
//! An [`Endpoint`] outlives the snapshot that made it: a reload finds those whose address, TLS and
//! protocol did not change in the previous generation and goes on with them, with their health, their
//! counted leases and, since a [`Pool`] knows them by identity, their idle connections. What a reload
//! may change without a fresh start (weight, backup, limits) belongs to the generation instead.

mod balance;
mod connect;
mod health;
mod multiplex;
mod pool;

use std::cell::LazyCell;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use crate::tls::{Speaks, Wish};
pub use connect::{ConnectError, ConnectErrorKind, Connected, Endpoint};
pub use health::Outcome;
pub use multiplex::{Multiplex, Opening, Place};
pub use pool::Pool;

use crate::config::model::{self, Balance, Http2Pool, PassiveHealth, WebSocketOver};
use crate::tls::{ClientTls, Fault};
use health::{Availability, Health};

/// One generation of a named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    name: Arc<str>,
    balance: Balance,
    health: PassiveHealth,
    members: Vec<Member>,
    tls: Option<Arc<ClientTls>>,
    choice: Mutex<Choice>,
    keep_alive: Duration,
    keep_alive_connections: usize,
    websocket: WebSocketOver,
    http2: Http2Pool,
}

/// What a choice leaves to the next one.
#[derive(Debug)]
struct Choice {
    turns: balance::Turns,
    /// Of no meaning between choices; has room for every endpoint.
    candidates: Vec<balance::Candidate>,
}

/// An endpoint's part in one generation.
#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    weight: u32,
    backup: bool,
    max_connections: usize,
}

/// The counted right to use an endpoint; dropping it gives the right back.
#[derive(Debug)]
pub struct Lease {
    claim: Claim,
    index: usize,
    health: PassiveHealth,
    trial: Option<Trial>,
}

/// What keeps an endpoint's count up once nothing more is to be said of it.
#[derive(Debug)]
pub struct Claim(Arc<Endpoint>);

/// The one request that finds out whether an endpoint is back.
#[derive(Debug)]
struct Trial {
    endpoint: Arc<Endpoint>,
    is_over: bool,
}

/// Why there is no endpoint for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Every endpoint is out or was tried already.
    #[error("every endpoint is down")]
    AllDown,
    /// Some endpoint is up, but at its `max_connections`.
    #[error("every endpoint is at its connection limit")]
    AllBusy,
}

impl Upstream {
    /// Makes the runtime form of an upstream, reading its TLS files if it has `https://` servers.
    ///
    /// `previous` is the same upstream before a reload.
    pub fn build(
        config: &model::Upstream,
        previous: Option<&Upstream>,
    ) -> Result<Arc<Upstream>, Vec<Fault>> {
        let tls = if config.servers.iter().any(|server| server.tls) {
            let previous = previous.and_then(|upstream| upstream.tls.as_ref());
            Some(ClientTls::build(&config.tls, &config.span, previous)?)
        } else {
            None
        };
        let mut reusable: Vec<_> = previous
            .into_iter()
            .flat_map(|upstream| &upstream.members)
            .map(|member| &member.endpoint)
            .collect();
        let members: Vec<_> = config
            .servers
            .iter()
            .map(|server| {
                let tls = tls.as_ref().filter(|_| server.tls);
                // Taken out of the list, so that a server written twice keeps two states.
                let kept = reusable
                    .iter()
                    .position(|endpoint| endpoint.is_same(&server.address, tls, server.protocols))
                    .map(|index| reusable.remove(index).clone());
                Member {
                    endpoint: kept.unwrap_or_else(|| {
                        let address = server.address.clone();
                        Arc::new(Endpoint::new(address, tls.cloned(), server.protocols))
                    }),
                    weight: server.weight.get(),
                    backup: server.backup,
                    max_connections: server.max_connections.map_or(usize::MAX, NonZeroUsize::get),
                }
            })
            .collect();
        Ok(Arc::new(Upstream {
            name: config.name.clone(),
            balance: config.balance,
            health: config.health,
            choice: Mutex::new(Choice {
                turns: balance::Turns::new(members.len()),
                candidates: Vec::with_capacity(members.len()),
            }),
            members,
            tls,
            keep_alive: config.keep_alive,
            keep_alive_connections: config.keep_alive_connections,
            websocket: config.websocket,
            http2: config.http2,
        }))
    }

    /// Chooses an endpoint for a request of `client`, leaving out the `tried` ones.
    ///
    /// Answers at once. Backups are used only while every other endpoint is out or tried; an
    /// endpoint at its `max_connections` counts as up. Among the rest `balance` decides.
    pub fn pick(&self, client: IpAddr, tried: &[usize]) -> Result<Lease, PickError> {
        // Only health asks for the time, and only where an endpoint is not well.
        let now = LazyCell::new(Instant::now);
        let is_out =
            |health: &Health| !health.is_up() && health.availability(*now) == Availability::Out;
        let admit = |health: &Health| match health.is_up() {
            true => Some(false),
            false => health.admit(*now),
        };
        // Held for a few comparisons per endpoint; nothing in it waits.
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        let Choice { turns, candidates } = &mut *choice;
        let mut passed_over = tried.to_vec();
        let mut busy = false;
        for backup in [false, true] {
            loop {
                candidates.clear();
                for (index, member) in self.members.iter().enumerate() {
                    if member.backup != backup
                        || passed_over.contains(&index)
                        || is_out(&member.endpoint.health)
                    {
                        continue;
                    }
                    candidates.push(balance::Candidate {
                        index,
                        weight: member.weight,
                        active: member.endpoint.active(),
                        seed: member.endpoint.seed(),
                    });
                }
                let Some(index) = turns.choose(self.balance, client, candidates) else {
                    break;
                };
                let member = &self.members[index];
                if !member.endpoint.acquire(member.max_connections) {
                    busy = true;
                } else if let Some(trial) = admit(&member.endpoint.health) {
                    let endpoint = &member.endpoint;
                    return Ok(Lease {
                        claim: Claim(Arc::clone(endpoint)),
                        index,
                        health: self.health,
                        trial: trial.then(|| Trial {
                            endpoint: Arc::clone(endpoint),
                            is_over: false,
                        }),
                    });
                } else {
                    // Another generation's request took the trial first.
                    member.endpoint.release();
                }
                passed_over.push(index);
            }
            if busy {
                return Err(PickError::AllBusy);
            }
        }
        Err(PickError::AllDown)
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The endpoints in the order of the configuration; a lease's `index` counts them.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// How long an idle connection to an endpoint may be kept.
    pub fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// How many idle connections a worker may keep per endpoint.
    pub fn keep_alive_connections(&self) -> usize {
        self.keep_alive_connections
    }

    /// What WebSockets to its endpoints ride on.
    pub fn websocket(&self) -> WebSocketOver {
        self.websocket
    }

    /// How many HTTP/2 connections there may be, and what one carries.
    pub fn http2(&self) -> Http2Pool {
        self.http2
    }
}

impl Lease {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.claim.0
    }

    /// The endpoint's place in its upstream: add it to `tried` when failing over.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Tells how the endpoint did, as far as its own health goes.
    ///
    /// A failure is one of the endpoint (refused, timed out, broken answer), never of the client. A
    /// trial that ends without a report leaves the question open for the next request.
    pub fn report(&mut self, outcome: Outcome) {
        let trial = self.trial.take();
        if outcome == Outcome::Success && trial.is_none() {
            return;
        }
        let health = &self.endpoint().health;
        health.report(outcome, trial.is_some(), self.health, Instant::now());
        if let Some(mut trial) = trial {
            trial.is_over = true;
        }
    }

    /// Gives up all but the count.
    pub fn into_claim(self) -> Claim {
        self.claim
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.is_over {
            self.endpoint.health.abandon_trial(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
