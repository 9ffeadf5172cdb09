//! A round: everybody comes, everything breaks for a while, everybody goes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::http2::client::Client;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::clients::tunnel::{Manner, Tunnel};
use crate::clients::{Order, Orders, leaver, requests, seeker, slow};
use crate::troubles::{descriptors, reloads, vanishing};
use crate::world::{Door, World};

/// The clients of a round, and what they are told.
pub(crate) struct Crowd {
    world: Arc<World>,
    round: u64,
    clients: JoinSet<()>,
    tell: watch::Sender<Order>,
}

/// Lets everybody come, lets everything break for so long, and sends everybody home.
pub(crate) async fn hold(world: &Arc<World>, round: u64, length: Duration) {
    let mut crowd = Crowd::new(world, round);
    let began = Instant::now();
    let passed = |what: &str| println!("round {round}, at {:.1?}: {what}", began.elapsed());
    crowd.open_tunnels().await;
    passed("all tunnels are open");
    crowd.let_others_come();
    let mut troubles = Crowd::new(world, round);
    troubles.begin_troubles();
    sleep_until(Instant::now() + length).await;
    troubles.end(Order::Leave).await;
    passed("the troubles are over");
    crowd.end(Order::Leave).await;
    passed("all have gone");
}

impl Crowd {
    pub(crate) fn new(world: &Arc<World>, round: u64) -> Crowd {
        Crowd {
            world: Arc::clone(world),
            round,
            clients: JoinSet::new(),
            tell: watch::Sender::new(Order::Stay),
        }
    }

    /// All tunnels, half of them on connections of their own; returns when they are open.
    pub(crate) async fn open_tunnels(&mut self) {
        let Crowd { world, round, .. } = &*self;
        let (world, round) = (Arc::clone(world), *round);
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        let count = world.plan.tunnels;
        for number in 0..count / 2 {
            let (world, at_once) = (Arc::clone(&world), Arc::clone(&at_once));
            opening.spawn(async move {
                let _place = at_once.acquire_owned().await.expect("it stays open");
                let random = world.plan.random(round, 0, number);
                vec![Tunnel::open(&world, Manner::of(number, false), random).await]
            });
        }
        for first in (count / 2..count).step_by(A_CONNECTION) {
            let numbers = first..count.min(first + A_CONNECTION);
            let (world, at_once) = (Arc::clone(&world), Arc::clone(&at_once));
            let door = match (first / A_CONNECTION).is_multiple_of(2) {
                true => Door::Plain,
                false => Door::Tls,
            };
            opening.spawn(async move {
                let _place = at_once.acquire_owned().await.expect("it stays open");
                let client: Client = world.http2(door).await;
                let mut tunnels = Vec::new();
                for number in numbers {
                    let manner = Manner {
                        door,
                        ..Manner::of(number, true)
                    };
                    let random = world.plan.random(round, 1, number);
                    tunnels.push(Tunnel::open_on(&world, &client, manner, random).await);
                }
                tunnels
            });
        }
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok(tunnels) => {
                    for tunnel in tunnels {
                        let orders = self.tell.subscribe();
                        self.clients.spawn(tunnel.live(orders));
                    }
                }
                Err(error) => self.note(error),
            }
        }
    }

    fn let_others_come(&mut self) {
        let plan = self.world.plan.clone();
        for number in 0..plan.requesters {
            let door = match number.is_multiple_of(2) {
                true => Door::Plain,
                false => Door::Tls,
            };
            match number % 3 {
                0 => self.add(2, number, |world, random, orders| {
                    requests::over_http2(world, door, random, orders)
                }),
                _ => self.add(2, number, |world, random, orders| {
                    requests::over_http1(world, door, random, orders)
                }),
            }
        }
        for number in 0..plan.seekers {
            self.add(3, number, |world, random, orders| {
                seeker::seek(world, number, random, orders)
            });
        }
        for number in 0..plan.slow_readers {
            self.add(4, number, |world, _, orders| {
                slow::read_slowly(world, number, orders)
            });
        }
        for number in 0..plan.leavers {
            self.add(5, number, leaver::come_and_go);
        }
    }

    fn begin_troubles(&mut self) {
        self.add(6, 0, reloads::reload);
        self.add(7, 0, descriptors::run_out);
        self.add(8, 0, vanishing::vanish_and_return);
    }

    fn add<F>(
        &mut self,
        role: u64,
        number: usize,
        begin: impl FnOnce(Arc<World>, sluicegate_tests::websocket::random::Random, Orders) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let random = self.world.plan.random(self.round, role, number);
        let client = begin(Arc::clone(&self.world), random, self.tell.subscribe());
        self.clients.spawn(client);
    }

    pub(crate) fn tell(&self, order: Order) {
        self.tell.send_replace(order);
    }

    /// Tells everybody, and waits until the last one is done.
    pub(crate) async fn end(mut self, order: Order) {
        self.tell(order);
        let waiting = timeout(PATIENCE, async {
            while let Some(done) = self.clients.join_next().await {
                if let Err(error) = done {
                    self.note(error);
                }
            }
        });
        if waiting.await.is_err() {
            let left = self.clients.len();
            let how = format!("{left} are still at it after {PATIENCE:?}");
            self.world.ledger.broke(DONE, how);
        }
    }

    fn note(&self, error: JoinError) {
        let how = match error.try_into_panic() {
            Ok(panic) => panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)),
            Err(_) => None,
        };
        let how = how.unwrap_or_default();
        self.world.ledger.broke(DONE, how);
    }
}

/// Tunnels that are opened at the same time.
const AT_ONCE: usize = 64;
/// Tunnels on one connection of HTTP/2.
const A_CONNECTION: usize = 20;
/// Twice the clients' own.
const PATIENCE: Duration = Duration::from_secs(90);
const DONE: &str = "each client comes to its end as it should";
