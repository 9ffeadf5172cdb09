//! Ordinary requests to which nothing may happen, one after the other on connections that stay.

use std::io::{Error, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicegate_tests::http2::client::Client;
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::wire;
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::time::timeout;

use super::http::{PATIENCE, late};
use super::{Order, Orders, pause};
use crate::upstreams::pages;
use crate::world::{Door, World};

/// A client of HTTP/1.1.
pub(crate) async fn over_http1(
    world: Arc<World>,
    door: Door,
    mut random: Random,
    mut orders: Orders,
) {
    let mut stream = None;
    while pause_a_little(&mut random, &mut orders).await == Order::Stay {
        let began = Instant::now();
        if let Err(error) = ask(&world, door, &mut stream, &mut random).await {
            stream = None;
            if !world.ledger.was_short_since(began) {
                world.ledger.broke(SERVED, format!("{door:?}: {error}"));
            }
        }
    }
}

/// A client of HTTP/2.
pub(crate) async fn over_http2(
    world: Arc<World>,
    door: Door,
    mut random: Random,
    mut orders: Orders,
) {
    let client: Client = world.http2(door).await;
    while pause_a_little(&mut random, &mut orders).await == Order::Stay {
        let began = Instant::now();
        let target = format!("/steady/{}", random.number());
        let answer = match client.get(&target).await {
            Ok(answer) => answer,
            Err(error) => {
                world
                    .ledger
                    .broke(SERVED, format!("{door:?}, HTTP/2: {error}"));
                continue;
            }
        };
        let status = answer.head.status().as_u16();
        world.ledger.request("steady", "GET", status);
        let right = status == 200 && answer.body == pages::answer("GET", &target, b"").as_bytes();
        if !right && !world.ledger.was_short_since(began) {
            let how = format!("{door:?}, HTTP/2: {status} {:?}", shown(&answer.body));
            world.ledger.broke(SERVED, how);
        }
    }
}

async fn pause_a_little(random: &mut Random, orders: &mut Orders) -> Order {
    pause(
        orders,
        Duration::from_millis(random.between(20, 400) as u64),
    )
    .await
}

async fn ask(
    world: &World,
    door: Door,
    kept: &mut Option<BufStream<Box<dyn Wire>>>,
    random: &mut Random,
) -> Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => BufStream::new(world.dial(door).await?),
    };
    let target = format!("/steady/{}", random.number());
    let (method, body) = match random.once_in(3) {
        true => {
            let length = random.between(0, 50_000);
            ("POST", random.bytes(length))
        }
        false => ("GET", Vec::new()),
    };
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let exchanging = timeout(PATIENCE, async {
        // The proxy may answer and close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.write_all(&body).await;
        let _ = stream.flush().await;
        wire::read_response(&mut stream).await
    });
    let answer = exchanging.await.unwrap_or_else(|_| Err(late()))?;
    let status = answer.head.status();
    world.ledger.request("steady", method, status);
    let expected = pages::answer(method, &target, &body);
    if status != 200 || answer.body != expected.as_bytes() {
        let how = format!("{status} {:?} to {expected}", shown(&answer.body));
        return Err(Error::other(how));
    }
    if answer.head.get("connection") != Some("close") {
        *kept = Some(stream);
    }
    Ok(())
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned()
}

const SERVED: &str = "a request to a healthy upstream is answered";
