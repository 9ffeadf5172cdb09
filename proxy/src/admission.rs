//! Who may connect: the count of all connections, and of each client's. A WebSocket that shares its
//! connection with others counts as one more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::facts::Peer;
use crate::telemetry::metrics::OpenGuard;

/// Counts open client connections, tunnels included.
pub struct AdmissionControl {
    open: AtomicUsize,
    freed: Notify,
    /// Only filled while `connections_per_client` is set.
    clients: Mutex<HashMap<IpAddr, usize>>,
    /// What the descriptor limit allows.
    default_limit: usize,
}

/// The right to be connected; dropping it gives it back.
pub struct Admission {
    control: Arc<AdmissionControl>,
    client: Option<IpAddr>,
    _open: Option<OpenGuard>,
    _carried: Option<Carried>,
}

/// How many connections one worker carries, tunnels included.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

/// One connection of a [`Load`], until it is dropped.
#[derive(Debug)]
pub struct Carried(Arc<AtomicUsize>);

impl Default for AdmissionControl {
    fn default() -> AdmissionControl {
        AdmissionControl {
            open: AtomicUsize::new(0),
            freed: Notify::new(),
            clients: Mutex::new(HashMap::new()),
            default_limit: default_limit(),
        }
    }
}

impl AdmissionControl {
    /// Counts one more, as soon as there are fewer than `limit` says at that time.
    pub async fn enter(self: &Arc<Self>, limit: impl Fn() -> Option<NonZeroUsize>) -> Admission {
        loop {
            let freed = self.freed.notified();
            if let Some(admission) = self.try_enter(limit()) {
                return admission;
            }
            freed.await;
        }
    }

    /// Counts one more, if there are fewer than `limit` now.
    pub fn try_enter(self: &Arc<Self>, limit: Option<NonZeroUsize>) -> Option<Admission> {
        let limit = limit.map_or(self.default_limit, NonZeroUsize::get);
        let entered = self
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < limit).then_some(open + 1)
            });
        entered.is_ok().then(|| Admission {
            control: Arc::clone(self),
            client: None,
            _open: None,
            _carried: None,
        })
    }

    /// Has those who wait look at the limit again.
    pub fn limit_changed(&self) {
        self.freed.notify_waiters();
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Counts the connection for its client too; `None` if the client has `limit` already.
    ///
    /// A client is an IPv4 address or an IPv6 /64, which is what one customer gets; clients on a
    /// unix socket cannot be told apart and are not counted.
    pub fn of_client(mut self, peer: Peer, limit: Option<NonZeroUsize>) -> Option<Admission> {
        if let (Some(limit), Peer::Ip(_)) = (limit, peer) {
            let ip = network_of(peer.ip());
            let mut clients = self.control.clients();
            let open = clients.entry(ip).or_insert(0);
            if *open >= limit.get() {
                return None;
            }
            *open += 1;
            drop(clients);
            self.client = Some(ip);
        }
        Some(self)
    }

    pub fn counted(mut self, open: OpenGuard) -> Admission {
        self._open = Some(open);
        self
    }

    /// Counts the connection for the worker that serves it.
    pub fn on(mut self, load: &Load) -> Admission {
        self._carried = Some(load.carry());
        self
    }

    /// Counts it for the worker that serves the other.
    pub fn beside(mut self, other: &Admission) -> Admission {
        self._carried = other._carried.as_ref().map(Carried::again);
        self
    }
}

impl Load {
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub fn carry(&self) -> Carried {
        self.0.fetch_add(1, Ordering::Relaxed);
        Carried(Arc::clone(&self.0))
    }
}

impl Carried {
    /// One more of the same load.
    fn again(&self) -> Carried {
        self.0.fetch_add(1, Ordering::Relaxed);
        Carried(Arc::clone(&self.0))
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(ip) = self.client {
            let mut clients = self.control.clients();
            if let Some(open) = clients.get_mut(&ip) {
                *open -= 1;
                if *open == 0 {
                    clients.remove(&ip);
                }
            }
        }
        self.control.open.fetch_sub(1, Ordering::AcqRel);
        self.control.freed.notify_waiters();
    }
}

fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// A proxied connection takes two descriptors, its own and its upstream's.
fn default_limit() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    (descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).max(1)
}

/// Listeners, logs, admin connections, certificate files during a reload.
const RESERVED_DESCRIPTORS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_place_is_given_once_and_given_back() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let first = control.enter(|| one).await;
        let waiting = {
            let control = Arc::clone(&control);
            tokio::spawn(async move { control.enter(|| one).await })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert!(control.try_enter(one).is_none());
        drop(first);
        drop(waiting.await.unwrap());
        assert!(control.try_enter(one).is_some());
        assert_eq!(control.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_socket_weighs_on_the_worker_of_its_connection() {
        let control = Arc::new(AdmissionControl::default());
        let load = Load::default();
        let connection = control.try_enter(None).unwrap().on(&load);
        let socket = control.try_enter(None).unwrap().beside(&connection);
        assert_eq!(load.open(), 2);
        drop(connection);
        assert_eq!(load.open(), 1);
        drop(socket);
        assert_eq!(load.open(), 0);
    }

    #[tokio::test]
    async fn a_client_has_its_own_limit() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let peer = |text: &str| Peer::Ip(text.parse().unwrap());
        let ip = peer("127.0.0.1:1");
        let first = control.enter(|| None).await.of_client(ip, one).unwrap();
        assert!(control.enter(|| None).await.of_client(ip, one).is_none());
        for (other, admitted) in [
            (peer("127.0.0.2:1"), true),
            (peer("127.0.0.1:2"), false),
            (Peer::Unix, true),
        ] {
            let entered = control.enter(|| None).await.of_client(other, one);
            assert_eq!(entered.is_some(), admitted, "{other}");
        }
        let v6 = control
            .enter(|| None)
            .await
            .of_client(peer("[2001:db8::1]:1"), one);
        let same_64 = control
            .enter(|| None)
            .await
            .of_client(peer("[2001:db8::2]:1"), one);
        assert!(v6.is_some() && same_64.is_none());
        drop(v6);
        drop(first);
        assert!(control.enter(|| None).await.of_client(ip, one).is_some());
        assert!(control.clients().is_empty());
    }
}
