//! A client that runs into one fault after the other, and knows what it must see of each.

use std::io::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_tests::http2::client::Client;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{AnyPeer, Heard, Peer};
use tokio::time::timeout;

use super::faults::{Ask, FAULTS, Fault, Sees, open_handshake};
use super::http::{self, Answer, PATIENCE, late};
use super::{Order, Orders, pause};
use crate::ledger::Count;
use crate::world::{Door, World};

/// What a client saw.
#[derive(Debug)]
enum Seen {
    Answer(Answer),
    /// A tunnel's end.
    Close(Option<u16>),
}

/// A connection of HTTP/2, and the next one when the proxy has had enough of it.
struct Streams {
    door: Door,
    client: Option<Client>,
}

impl Streams {
    fn new(door: Door) -> Streams {
        Streams { door, client: None }
    }

    async fn get(&mut self, world: &World, path: &str) -> Result<Answer> {
        if let Some(client) = &self.client {
            match http::get_on(client, path).await {
                Err(error) if http::is_goodbye(&error) => {}
                answer => return answer,
            }
        }
        let client = self.client.insert(world.http2(self.door).await);
        http::get_on(client, path).await
    }
}

/// Begins at a fault of its own, so that all are met early. One in three asks over HTTP/2 what can be asked so.
pub(crate) async fn seek(world: Arc<World>, number: usize, mut random: Random, mut orders: Orders) {
    let mut fault = FAULTS[number % FAULTS.len()];
    let mut streams = match number % 6 {
        0 => Some(Streams::new(Door::Plain)),
        1 => Some(Streams::new(Door::Tls)),
        _ => None,
    };
    loop {
        let length = Duration::from_millis(random.between(20, 800) as u64);
        if pause(&mut orders, length).await != Order::Stay {
            return;
        }
        let door = random.pick(&[Door::Plain, Door::Tls]);
        meet(&world, fault, door, streams.as_mut()).await;
        fault = random.pick(&FAULTS);
    }
}

async fn meet(world: &World, fault: Fault, door: Door, streams: Option<&mut Streams>) {
    let began = Instant::now();
    let over = streams.as_ref().map_or("", |_| ", maybe over HTTP/2");
    let seen = match (fault.ask, streams) {
        (Ask::Get { route, path }, Some(streams)) => {
            let answer = streams.get(world, path).await;
            // A stream that is reset may take its head with it.
            let answer = match (fault.sees, answer) {
                (Sees::Cut, Err(error)) if http::is_reset(&error) => Ok(http::only_reset()),
                (_, answer) => answer,
            };
            answer.map(|answer| answered(world, fault, route, answer))
        }
        _ => match world.dial(door).await {
            Ok(stream) => run(world, fault, stream).await,
            Err(error) => Err(error),
        },
    };
    world.ledger.met(fault.name);
    let fits = match &seen {
        Ok(seen) => fits(fault, seen),
        Err(_) => false,
    };
    // Without descriptors anything may be refused, so long as it is said.
    let excused = match &seen {
        Ok(Seen::Answer(answer)) => {
            answer.head.status() == 503 && world.ledger.was_short_since(began)
        }
        _ => false,
    };
    if !fits && !excused {
        let seen = match seen {
            Ok(Seen::Answer(answer)) => format!(
                "{}, whole: {}, {:?}",
                answer.head.start,
                answer.whole,
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(80)])
            ),
            other => format!("{other:?}"),
        };
        let how = format!(
            "{} ({door:?}{over}): expected {:?}, saw {seen}",
            fault.name, fault.sees
        );
        world.ledger.broke(FAULT_TOLD, how);
    }
}

fn fits(fault: Fault, seen: &Seen) -> bool {
    match (fault.sees, seen) {
        (Sees::Status(status), Seen::Answer(answer)) => {
            answer.head.status() == status && answer.whole
        }
        (Sees::Cut, Seen::Answer(answer)) => answer.head.status() == 200 && !answer.whole,
        (Sees::Whole(body), Seen::Answer(answer)) => {
            answer.head.status() == 200 && answer.whole && answer.body == body.as_bytes()
        }
        (Sees::OneOf(statuses), Seen::Answer(answer)) => statuses.contains(&answer.head.status()),
        // What one conversation breaks ends the others of its instance.
        (Sees::Close(Some(_)), Seen::Close(Some(1011))) => true,
        (Sees::Close(code), Seen::Close(seen)) => code == *seen,
        _ => false,
    }
}

/// Does what leads into the fault, and enters into the ledger what came of it.
async fn run(world: &World, fault: Fault, mut stream: Box<dyn Wire>) -> Result<Seen> {
    let ledger = &world.ledger;
    match fault.ask {
        Ask::Get { route, path } => {
            let answer = http::get(&mut stream, path, "").await?;
            Ok(answered(world, fault, route, answer))
        }
        Ask::Plugin {
            route,
            path,
            plugin,
            result,
            websocket,
        } => {
            let answer = match websocket {
                true => {
                    let request = open_handshake(path, "");
                    http::exchange(&mut stream, request.as_bytes()).await?
                }
                false => http::get(&mut stream, path, "").await?,
            };
            ledger.count(Count::PluginFailures {
                plugin: plugin.to_owned(),
                result: result.to_owned(),
            });
            if websocket {
                let status = answer.head.status();
                ledger.handshake_for(route, "GET", status, fault.reason_of(status));
                return Ok(Seen::Answer(answer));
            }
            Ok(answered(world, fault, route, answer))
        }
        Ask::Raw(bytes) => {
            let answer = http::exchange(&mut stream, bytes.as_bytes()).await?;
            let status = answer.head.status();
            ledger.own_answer(status, fault.reason_of(status));
            Ok(Seen::Answer(answer))
        }
        Ask::Handshake(path) => {
            let request = open_handshake(path, "");
            let answer = http::exchange(&mut stream, request.as_bytes()).await?;
            let status = answer.head.status();
            ledger.handshake_for("faulty", "GET", status, fault.reason_of(status));
            Ok(Seen::Answer(answer))
        }
        Ask::Tunnel(how) => {
            let fields = [("x-fault", how)];
            let opened = open(world, stream, "faulty", "/faulty/ws-tunnel-x", &fields).await;
            let mut peer = match opened {
                Ok(peer) => peer,
                Err(answer) => return Ok(Seen::Answer(answer)),
            };
            let code = through(&mut peer, how).await;
            // A tunnel that breaks while it is used has ended without a Close as well.
            let code = code.unwrap_or(None);
            ledger.closed("faulty", code);
            Ok(Seen::Close(code))
        }
        Ask::Talk(word) => converse(world, stream, Frame::new(frame::TEXT, word)).await,
        Ask::BadFrame => converse(world, stream, Frame::new(0xb, "x")).await,
    }
}

fn answered(world: &World, fault: Fault, route: &str, answer: Answer) -> Seen {
    let status = answer.head.status();
    let reason = fault.reason_of(status);
    world.ledger.request_for(route, "GET", status, reason);
    Seen::Answer(answer)
}

/// A refusal is an answer without a body to speak of.
async fn open(
    world: &World,
    stream: Box<dyn Wire>,
    route: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> std::result::Result<AnyPeer, Answer> {
    let asked = Peer::ask(stream, path, fields).await;
    match asked {
        Ok(peer) => {
            world.ledger.handshake(route, "GET", 101);
            Ok(peer)
        }
        Err(head) => {
            world.ledger.handshake(route, "GET", head.status());
            Err(Answer {
                head,
                body: Vec::new(),
                whole: true,
            })
        }
    }
}

/// Says something, hears that it was heard, and then what becomes of the tunnel.
async fn through(peer: &mut AnyPeer, how: &str) -> Result<Option<u16>> {
    peer.say(Frame::new(frame::TEXT, "hello")).await?;
    if how == "stall" {
        // Until the buffers on the way are full, or the other end is gone.
        let sending = async {
            while peer
                .say(Frame::new(frame::BINARY, vec![1; 64 << 10]))
                .await
                .is_ok()
            {}
        };
        let _ = timeout(Duration::from_millis(1_500), sending).await;
    }
    end_of(peer).await
}

/// Whoever says hello gets an answer unless somebody else has broken the instance before.
async fn converse(world: &World, stream: Box<dyn Wire>, says: Frame) -> Result<Seen> {
    let mut peer = match open(world, stream, "talk", "/talk", &[]).await {
        Ok(peer) => peer,
        Err(answer) => return Ok(Seen::Answer(answer)),
    };
    let talking = async {
        peer.say(Frame::new(frame::TEXT, "hello")).await?;
        peer.say(says).await?;
        end_of(&mut peer).await
    };
    let code = talking.await;
    // Two conversations of one instance can end at once, each with a code of its own on the way.
    world.ledger.closed("talk", None);
    Ok(Seen::Close(code?))
}

/// Reads up to a Close, which it answers, or an end without one.
async fn end_of(peer: &mut AnyPeer) -> Result<Option<u16>> {
    let reading = async {
        loop {
            match peer.receiver.read().await {
                Heard::Close(close) => {
                    let code = close.map(|(code, _)| code);
                    // The proxy may not wait for the answer.
                    let _ = peer.say(Frame::close(code.unwrap_or(1000), "")).await;
                    return code;
                }
                Heard::End => return None,
                Heard::Message(_) | Heard::Ping(_) | Heard::Pong(_) => {}
            }
        }
    };
    timeout(PATIENCE, reading).await.map_err(|_| late())
}

const FAULT_TOLD: &str = "a fault is told to whom it concerns, and as what it is";
