//! Clients that read one byte a second: of a large answer, or of a WebSocket on which more comes than that.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::http2::client::Client;
use sluicegate_tests::websocket::leg::Wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::faults::open_handshake;
use super::http::PATIENCE;
use super::{Order, Orders, pause};
use crate::world::{Door, World};

/// What is read so slowly.
type Source = Box<dyn Wire>;

/// Reads so slowly until the round is over; then it breaks off.
pub(crate) async fn read_slowly(world: Arc<World>, number: usize, mut orders: Orders) {
    let door = match number % 2 {
        0 => Door::Plain,
        _ => Door::Tls,
    };
    while *orders.borrow() == Order::Stay {
        // A stream is there for as long as its client.
        let (_client, source) = match (number / 2) % 4 {
            0 => (None, begin_answer(&world, door).await),
            1 => (None, begin_tunnel(&world, door).await),
            way => {
                let client = world.http2(door).await;
                let source = match way {
                    2 => begin_answer_on(&world, &client).await,
                    _ => begin_tunnel_on(&world, &client).await,
                };
                (Some(client), source)
            }
        };
        let Some(mut source) = source else {
            pause(&mut orders, Duration::from_secs(1)).await;
            continue;
        };
        // The proxy may lose its patience; then there is another one.
        while pause(&mut orders, Duration::from_secs(1)).await == Order::Stay {
            if source.read_u8().await.is_err() {
                break;
            }
        }
        source.cut();
    }
}

async fn begin_answer(world: &World, door: Door) -> Option<Source> {
    let mut stream = world.dial(door).await.ok()?;
    let request = b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let status = status_of(&mut stream, request).await?;
    world.ledger.request("big", "GET", status);
    (status == 200).then_some(stream)
}

async fn begin_tunnel(world: &World, door: Door) -> Option<Source> {
    let mut stream = world.dial(door).await.ok()?;
    let request = open_handshake("/firehose", "x-kind: firehose\r\n");
    let status = status_of(&mut stream, request.as_bytes()).await?;
    tunnelled(world, "GET", status).then_some(stream)
}

async fn begin_answer_on(world: &World, client: &Client) -> Option<Source> {
    let mut request = client.begin(client.request("GET", "/big")).await.ok()?;
    request.outgoing.shutdown().await.ok()?;
    let (head, stream) = request.answered().await.ok()?;
    let status = head.status().as_u16();
    world.ledger.request("big", "GET", status);
    (status == 200).then(|| Box::new(stream) as Source)
}

async fn begin_tunnel_on(world: &World, client: &Client) -> Option<Source> {
    let opening = client.open("/firehose", &[("x-kind", "firehose")]).await;
    let (head, stream) = opening.ok()?;
    let status = match head.status().as_u16() {
        200 => 101,
        other => other,
    };
    tunnelled(world, "CONNECT", status).then(|| Box::new(stream) as Source)
}

/// It will end without a Close.
fn tunnelled(world: &World, method: &str, status: u16) -> bool {
    world.ledger.handshake("firehose", method, status);
    if status == 101 {
        world.ledger.closed("firehose", None);
    }
    status == 101
}

/// Sends the request, and reads no more than the first line of the answer.
async fn status_of(stream: &mut Source, request: &[u8]) -> Option<u16> {
    stream.write_all(request).await.ok()?;
    stream.flush().await.ok()?;
    let mut line = [0; 12];
    let reading = timeout(PATIENCE, stream.read_exact(&mut line)).await;
    reading.ok()?.ok()?;
    std::str::from_utf8(&line[9..]).ok()?.parse().ok()
}
