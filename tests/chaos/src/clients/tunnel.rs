//! A WebSocket to which nothing may happen: what it says comes back, each message once and in order, until it
//! leaves by itself or the proxy stops.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::http2::client::Client;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{AnyPeer, Heard, Message, Peer};
use tokio::time::timeout;

use super::http::{PATIENCE, late};
use super::{Order, Orders, pause};
use crate::ledger::Count;
use crate::said::{self, Expectation};
use crate::voice;
use crate::world::{Door, World};

/// How a tunnel comes to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) route: &'static str,
    pub(crate) door: Door,
    pub(crate) deflate: bool,
}

/// A tunnel that is open.
pub(crate) struct Tunnel {
    world: Arc<World>,
    manner: Manner,
    peer: AnyPeer,
    number: u64,
    random: Random,
    sent: u64,
    due: Expectation,
}

/// Why nothing more is said.
enum End {
    /// The proxy has said Close with this code.
    Closed(Option<u16>),
    /// The stream has ended without.
    Cut,
}

impl Manner {
    /// All ways in turn.
    pub(crate) fn of(number: usize, http2: bool) -> Manner {
        const ROUTES: [&str; 4] = ["copy", "follow", "messages", "http2"];
        Manner {
            route: ROUTES[number % ROUTES.len()],
            door: match (number / ROUTES.len()).is_multiple_of(2) {
                true => Door::Plain,
                false => Door::Tls,
            },
            // One of four wishes, and both versions of HTTP get all of them.
            deflate: (number / (2 * ROUTES.len()) + usize::from(http2)).is_multiple_of(2),
        }
    }

    fn fields(self) -> Vec<(&'static str, &'static str)> {
        let mut fields = vec![("x-kind", "healthy")];
        if self.deflate {
            fields.push(("sec-websocket-extensions", "permessage-deflate"));
        }
        fields
    }

    fn path(self) -> String {
        format!("/{}", self.route)
    }
}

impl Tunnel {
    /// Opens one on a connection of its own.
    ///
    /// # Panics
    /// When that fails.
    pub(crate) async fn open(world: &Arc<World>, manner: Manner, random: Random) -> Tunnel {
        let leg = world.dial(manner.door).await.expect("a connection");
        let asked = Peer::ask(leg, &manner.path(), &manner.fields()).await;
        world.ledger.handshake(manner.route, "GET", status(&asked));
        Tunnel::new(world, manner, asked.expect("a tunnel"), random)
    }

    /// Opens one on a connection of HTTP/2.
    ///
    /// # Panics
    /// When that fails.
    pub(crate) async fn open_on(
        world: &Arc<World>,
        client: &Client,
        manner: Manner,
        random: Random,
    ) -> Tunnel {
        let asked = AnyPeer::connect_on(client, &manner.path(), &manner.fields()).await;
        let ledger = &world.ledger;
        ledger.handshake(manner.route, "CONNECT", status(&asked));
        Tunnel::new(world, manner, asked.expect("a tunnel"), random)
    }

    fn new(world: &Arc<World>, manner: Manner, peer: AnyPeer, mut random: Random) -> Tunnel {
        Tunnel {
            world: Arc::clone(world),
            manner,
            peer,
            number: random.number(),
            random,
            sent: 0,
            due: Expectation::default(),
        }
    }

    /// Speaks and listens until it is told to go.
    pub(crate) async fn live(mut self, mut orders: Orders) {
        // At a stop some say nothing more, and others go on as long as they can.
        let talks = self.random.once_in(2);
        loop {
            let length = Duration::from_millis(self.random.between(200, 3_000) as u64);
            let end = match pause(&mut orders, length).await {
                Order::Stay => self.talk().await,
                Order::Leave => return self.leave().await,
                Order::AwaitClose if talks => self.talk().await,
                Order::AwaitClose => loop {
                    match self.hear().await {
                        Ok(_) => {}
                        Err(end) => break Err(end),
                    }
                },
            };
            if let Err(end) = end {
                let expected = *orders.borrow() == Order::AwaitClose;
                return self.ended(end, expected).await;
            }
        }
    }

    /// Some messages there and back.
    async fn talk(&mut self) -> std::result::Result<(), End> {
        let (count, most) = match self.random.once_in(6) {
            true => (1, 100 << 10),
            // No more than fits into the buffers on the way: nothing is heard meanwhile.
            false => (self.random.between(1, 5), 2_000),
        };
        for _ in 0..count {
            if self.say(most).await.is_err() {
                // The reason may lie in wait.
                break;
            }
        }
        for _ in 0..count {
            self.hear().await?;
        }
        Ok(())
    }

    async fn say(&mut self, most: usize) -> Result<()> {
        let text = self.random.once_in(2);
        let filling = said::filling(&mut self.random, text, most);
        let said = said::compose(self.number, self.sent, &filling);
        let compressed = self.peer.deflate.is_some() && !self.random.once_in(4);
        let frame = voice::frame(text, &said, compressed);
        let saying = timeout(PATIENCE, self.peer.say(frame));
        saying.await.unwrap_or_else(|_| Err(late()))?;
        self.sent += 1;
        self.passed(true);
        Ok(())
    }

    /// The next message, which must be the one that is due.
    async fn hear(&mut self) -> std::result::Result<Message, End> {
        loop {
            let heard = match timeout(PATIENCE, self.peer.receiver.read()).await {
                Ok(heard) => heard,
                Err(_) => {
                    let how = format!("{:?}: no answer to {}", self.manner, self.sent);
                    self.world.ledger.broke(NO_MESSAGE_LOST, how);
                    return Err(End::Cut);
                }
            };
            match heard {
                Heard::Message(message) => {
                    self.passed(false);
                    if let Err(how) = self.due.check(&message) {
                        let how = format!("{:?}: {how}", self.manner);
                        self.world.ledger.broke(NO_MESSAGE_LOST, how);
                    }
                    return Ok(message);
                }
                Heard::Ping(data) => {
                    // Whoever is gone is heard to be gone.
                    let _ = self.peer.say(Frame::new(frame::PONG, data)).await;
                }
                Heard::Pong(_) => {}
                Heard::Close(close) => return Err(End::Closed(close.map(|(code, _)| code))),
                Heard::End => return Err(End::Cut),
            }
        }
    }

    fn passed(&self, from_client: bool) {
        let route = self.manner.route;
        if route != "copy" {
            self.world.ledger.count(Count::Messages {
                route: route.to_owned(),
                from_client,
            });
        }
    }

    /// Says Close, and waits for the answer to it.
    async fn leave(mut self) {
        let _ = self.peer.say(Frame::close(1000, "")).await;
        let end = loop {
            if let Err(end) = self.hear().await {
                break end;
            }
        };
        let code = match end {
            End::Closed(code) => code,
            End::Cut => None,
        };
        if code != Some(1000) {
            let how = format!("{:?}: {code:?} in answer to a Close", self.manner);
            self.world.ledger.broke(NO_TUNNEL_LOST, how);
        }
        self.closed(code);
    }

    fn closed(&self, code: Option<u16>) {
        // Who only copies bytes sees no Close.
        let seen = code.filter(|_| self.manner.route != "copy");
        self.world.ledger.closed(self.manner.route, seen);
    }

    /// The end came from the other side.
    async fn ended(mut self, end: End, expected: bool) {
        let code = match end {
            End::Closed(code) => {
                // An answer in time lets the proxy be done with it.
                let _ = self.peer.say(Frame::close(code.unwrap_or(1000), "")).await;
                code
            }
            End::Cut => None,
        };
        self.closed(code);
        let how = format!("{:?}: {code:?}", self.manner);
        let ledger = &self.world.ledger;
        match (expected, code) {
            (false, _) => ledger.broke(NO_TUNNEL_LOST, how),
            (true, Some(1001 | 1012)) => ledger.goodbye(),
            // Who only copies bytes has no place for a Close.
            (true, None) if self.manner.route == "copy" => {}
            (true, _) => ledger.broke(GOODBYE, how),
        }
    }
}

fn status(asked: &std::result::Result<AnyPeer, sluicegate_tests::wire::Head>) -> u16 {
    match asked {
        Ok(_) => 101,
        Err(head) => head.status(),
    }
}

pub(crate) const NO_MESSAGE_LOST: &str =
    "no message of a healthy tunnel is lost, doubled or damaged";
pub(crate) const NO_TUNNEL_LOST: &str = "no healthy tunnel ends before its time";
pub(crate) const GOODBYE: &str = "at a stop each tunnel is told so by a Close";
