//! Who may connect: the count of all connections, and of each client's. A WebSocket that shares its
//! connection with others counts as one more.
//!
//! At the limit, who comes waits. Connections between two requests give way to it, one for each that waits:
//! they hold nothing that their clients would miss.

mod tls;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::facts::Peer;
use crate::telemetry::metrics::OpenGuard;
pub use tls::{TlsHandshakes, TlsPlace, Turns};

/// Counts open client connections, tunnels included.
pub struct AdmissionControl {
    open: AtomicUsize,
    freed: Notify,
    /// How many wait for a place, and how many idle connections are making room for them.
    waiting: AtomicUsize,
    yielded: AtomicUsize,
    told: Seldom,
    /// When idle connections were asked last, by whomever.
    asked: Seldom,
    pub tls: Arc<TlsHandshakes>,
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

/// How many connections one client may have, and what a client is.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimit {
    pub most: NonZeroUsize,
    /// Leading bits of an IPv6 address that are one client.
    pub ipv6_prefix: u8,
}

/// Counts one that waits for a place.
struct Waiting<'a> {
    control: &'a AdmissionControl,
    /// Since when it has relied on those who have said that they make room.
    since: Instant,
}

/// Says that it is time to do the same thing again.
#[derive(Debug)]
struct Seldom {
    every: Duration,
    last: Mutex<Option<Instant>>,
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
            waiting: AtomicUsize::new(0),
            yielded: AtomicUsize::new(0),
            told: Seldom::every(SELDOM),
            asked: Seldom::every(ASK_AGAIN),
            tls: Arc::default(),
            clients: Mutex::new(HashMap::new()),
            default_limit: default_limit(),
        }
    }
}

impl AdmissionControl {
    /// Counts one more, as soon as there are fewer than `limit` says at that time.
    ///
    /// Until then idle connections are asked to make room: `wake` has some of them look whether they
    /// [give way](AdmissionControl::gives_way), and is called until it was enough; but however many wait and
    /// come too late for a place, all of them together call it once in 5 ms.
    pub async fn enter(
        self: &Arc<Self>,
        limit: impl Fn() -> Option<NonZeroUsize>,
        mut wake: impl FnMut(),
    ) -> Admission {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let freed = self.freed.notified();
            if let Some(admission) = self.try_enter(limit()) {
                return admission;
            }
            let waiting = waiting.get_or_insert_with(|| Waiting::new(self));
            waiting.relies_on_others();
            if self.wants_room() && self.asked.is_time() {
                wake();
            }
            let _ = timeout(ASK_AGAIN, freed).await;
        }
    }

    /// Whether a connection that is idle shall end, as another waits for its place.
    pub fn gives_way(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Relaxed);
        waiting > 0
            && (self.yielded)
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |yielded| {
                    (yielded < waiting).then_some(yielded + 1)
                })
                .is_ok()
    }

    /// Whether there are more who wait than make room.
    fn wants_room(&self) -> bool {
        self.yielded.load(Ordering::Acquire) < self.waiting.load(Ordering::Acquire)
    }

    /// Somebody who was making room makes it no more: it is used, or has become somebody else's.
    fn forget_yielded(&self) {
        let _ = (self.yielded).fetch_update(Ordering::AcqRel, Ordering::Acquire, |yielded| {
            yielded.checked_sub(1)
        });
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

    /// Has those who wait look at the limits again.
    pub fn limit_changed(&self) {
        self.freed.notify_waiters();
        self.tls.limit_changed();
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Counts the connection for its client too; `None` if the client has as many as it may already.
    ///
    /// A client is an IPv4 address or an IPv6 network; clients on a unix socket cannot be told apart and
    /// are not counted.
    pub fn of_client(mut self, peer: Peer, limit: Option<ClientLimit>) -> Option<Admission> {
        if let (Some(limit), Peer::Ip(_)) = (limit, peer) {
            let ip = network_of(peer.ip(), limit.ipv6_prefix);
            let mut clients = self.control.clients();
            let open = clients.entry(ip).or_insert(0);
            if *open >= limit.most.get() {
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

impl<'a> Waiting<'a> {
    fn new(control: &'a AdmissionControl) -> Waiting<'a> {
        if control.told.is_time() {
            tracing::warn!("there are as many connections as may be; others wait");
        }
        control.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting {
            control,
            since: Instant::now(),
        }
    }

    /// Asks for another's room in time: the place that was made may have gone to somebody who never waited, or
    /// not have been made after all.
    fn relies_on_others(&mut self) {
        if self.since.elapsed() >= PATIENCE {
            self.since = Instant::now();
            self.control.forget_yielded();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.control.waiting.fetch_sub(1, Ordering::AcqRel);
        self.control.forget_yielded();
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

impl Seldom {
    fn every(every: Duration) -> Seldom {
        Seldom {
            every,
            last: Mutex::default(),
        }
    }

    /// True for the first who asks, and then for one in a while.
    fn is_time(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= self.every);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

fn network_of(ip: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let host = 128_u32.saturating_sub(ipv6_prefix.into());
            let mask = u128::MAX.checked_shl(host).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
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
/// How often idle connections are asked for room: a few at a time, so that there is soon room where many are
/// idle, and little is spent where none is.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// How long one may take to make room, before another is asked in its stead.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two lines in the log about the same limit.
const SELDOM: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn the_last_place_is_given_once_and_given_back() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let first = control.enter(|| one, || {}).await;
        let waiting = {
            let control = Arc::clone(&control);
            tokio::spawn(async move { control.enter(|| one, || {}).await })
        };
        yield_now().await;
        assert!(!waiting.is_finished());
        assert!(control.try_enter(one).is_none());
        drop(first);
        drop(waiting.await.unwrap());
        assert!(control.try_enter(one).is_some());
        assert_eq!(control.open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_idle_connections_give_way_as_others_wait() {
        let control = Arc::new(AdmissionControl::default());
        let four = NonZeroUsize::new(4);
        let mut open: Vec<_> = (0..4).filter_map(|_| control.try_enter(four)).collect();
        assert!(!control.gives_way(), "nobody waits");
        let enter = || {
            let control = Arc::clone(&control);
            tokio::spawn(async move { control.enter(|| four, || {}).await })
        };
        let waiting = [enter(), enter()];
        yield_now().await;
        let given = [(); 3].map(|()| control.gives_way());
        assert_eq!(given, [true, true, false]);
        open.truncate(2);
        for entered in waiting {
            open.push(entered.await.unwrap());
        }
        assert!(!control.gives_way(), "nobody waits any more");
        // Who gives up waiting wants nothing.
        let waiting = enter();
        yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        assert!(!control.gives_way());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_asked_until_there_is_room() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let first = std::cell::RefCell::new(control.try_enter(one));
        let asked = std::cell::Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                drop(first.take());
            }
        };
        control.enter(|| one, ask).await;
        assert_eq!(asked.get(), 3);
    }

    /// At a limit of one: who waits, and how often idle connections have been asked.
    fn one_waits(
        control: &Arc<AdmissionControl>,
        asked: &Arc<AtomicUsize>,
    ) -> JoinHandle<Admission> {
        let (control, asked) = (Arc::clone(control), Arc::clone(asked));
        tokio::spawn(async move {
            let ask = || {
                asked.fetch_add(1, Ordering::Relaxed);
            };
            control.enter(|| NonZeroUsize::new(1), ask).await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn places_that_others_take_have_nobody_asked_again() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let mut thief = control.try_enter(one);
        let asked = Arc::default();
        let waiting = [(); 3].map(|()| one_waits(&control, &asked));
        yield_now().await;
        for _ in 0..100 {
            drop(thief.take());
            thief = control.try_enter(one);
            yield_now().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        sleep(ASK_AGAIN).await;
        yield_now().await;
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    }

    #[tokio::test(start_paused = true)]
    async fn another_is_asked_where_a_place_was_lost_to_a_thief() {
        let control = Arc::new(AdmissionControl::default());
        let one = NonZeroUsize::new(1);
        let idle = control.try_enter(one);
        let asked = Arc::default();
        let waiting = one_waits(&control, &asked);
        yield_now().await;
        assert!(control.gives_way());
        drop(idle);
        let thief = control.try_enter(one);
        assert!(thief.is_some());
        // While one makes room, nobody else is asked for it.
        sleep(PATIENCE / 2).await;
        assert!(!control.gives_way());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        sleep(PATIENCE).await;
        assert!(control.gives_way(), "again");
        assert!(asked.load(Ordering::Relaxed) > 1);
        drop(thief);
        waiting.await.unwrap();
        assert_eq!(control.yielded.load(Ordering::Relaxed), 0);
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

    #[test]
    fn a_client_has_its_own_limit() {
        let control = Arc::new(AdmissionControl::default());
        let enter = |peer: &str, ipv6_prefix| {
            let peer = match peer {
                "unix" => Peer::Unix,
                ip => Peer::Ip((ip.parse::<IpAddr>().unwrap(), 1).into()),
            };
            let limit = ClientLimit {
                most: NonZeroUsize::MIN,
                ipv6_prefix,
            };
            let admission = control.try_enter(None).unwrap();
            admission.of_client(peer, Some(limit))
        };
        for (first, prefix, second, admitted) in [
            ("127.0.0.1", 64, "127.0.0.1", false),
            ("127.0.0.1", 64, "127.0.0.2", true),
            ("127.0.0.1", 64, "::ffff:127.0.0.1", false),
            ("::ffff:10.0.0.1", 64, "::ffff:10.0.0.2", true),
            ("2001:db8::1", 64, "2001:db8::ffff:2", false),
            ("2001:db8::1", 64, "2001:db8:0:1::1", true),
            ("2001:db8::1", 56, "2001:db8:0:ff::1", false),
            ("2001:db8::1", 56, "2001:db8:0:100::1", true),
            ("2001:db8::1", 128, "2001:db8::2", true),
            ("2001:db8::1", 128, "2001:db8::1", false),
            ("2001:db8::1", 1, "4001:db8::1", false),
            ("2001:db8::1", 1, "8001:db8::1", true),
            ("unix", 64, "unix", true),
            ("127.0.0.1", 64, "unix", true),
        ] {
            let one = enter(first, prefix);
            assert!(one.is_some());
            let other = enter(second, prefix);
            assert_eq!(other.is_some(), admitted, "{first}, {second}, /{prefix}");
            drop((one, other));
            assert!(control.clients().is_empty());
        }
        assert_eq!(control.open.load(Ordering::Relaxed), 0);
    }
}
