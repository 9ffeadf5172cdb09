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
use crate::ledger::Count;
use crate::upstreams::pages::BIG;
use crate::world::{Door, World};

/// What is read so slowly.
struct Source {
    stream: Box<dyn Wire>,
    /// Which the stream is one of.
    _client: Option<Client>,
    answer: bool,
}

/// Reads so slowly until the round is over. Then a WebSocket is broken off, and an answer read to its end: that is
/// either all of it, or the proxy has lost its patience and says so in its metrics.
pub(crate) async fn read_slowly(world: Arc<World>, number: usize, mut orders: Orders) {
    let door = match number % 2 {
        0 => Door::Plain,
        _ => Door::Tls,
    };
    while *orders.borrow() == Order::Stay {
        let source = match (number / 2) % 4 {
            0 => begin_answer(&world, door).await,
            1 => begin_tunnel(&world, door).await,
            2 => begin_answer_on(&world, door).await,
            _ => begin_tunnel_on(&world, door).await,
        };
        let Some(mut source) = source else {
            pause(&mut orders, Duration::from_secs(1)).await;
            continue;
        };
        let mut read = 0;
        let mut ended = false;
        while !ended && pause(&mut orders, Duration::from_secs(1)).await == Order::Stay {
            match source.stream.read_u8().await {
                Ok(_) => read += 1,
                Err(_) => ended = true,
            }
        }
        if source.answer {
            let mut rest = Vec::new();
            let reading = timeout(PATIENCE, source.stream.read_to_end(&mut rest));
            let whole = reading.await.is_ok_and(|read| read.is_ok()) && read + rest.len() >= BIG;
            if !whole {
                world.ledger.count(Count::ResponsesCut);
            }
        }
        source.stream.cut();
    }
}

async fn begin_answer(world: &World, door: Door) -> Option<Source> {
    let mut stream = world.dial(door).await.ok()?;
    let request = b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let status = status_of(&mut stream, request).await?;
    world.ledger.request("big", "GET", status);
    (status == 200).then_some(Source {
        stream,
        _client: None,
        answer: true,
    })
}

async fn begin_tunnel(world: &World, door: Door) -> Option<Source> {
    let mut stream = world.dial(door).await.ok()?;
    let request = open_handshake("/firehose", "x-kind: firehose\r\n");
    let status = status_of(&mut stream, request.as_bytes()).await?;
    tunnelled(world, "GET", status).then_some(Source {
        stream,
        _client: None,
        answer: false,
    })
}

async fn begin_answer_on(world: &World, door: Door) -> Option<Source> {
    let client = world.http2(door).await;
    let mut request = client.begin(client.request("GET", "/big")).await.ok()?;
    request.outgoing.shutdown().await.ok()?;
    let (head, stream) = request.answered().await.ok()?;
    let status = head.status().as_u16();
    world.ledger.request("big", "GET", status);
    (status == 200).then_some(Source {
        stream: Box::new(stream),
        _client: Some(client),
        answer: true,
    })
}

async fn begin_tunnel_on(world: &World, door: Door) -> Option<Source> {
    let client = world.http2(door).await;
    let opening = client.open("/firehose", &[("x-kind", "firehose")]).await;
    let (head, stream) = opening.ok()?;
    let status = match head.status().as_u16() {
        200 => 101,
        other => other,
    };
    tunnelled(world, "CONNECT", status).then_some(Source {
        stream: Box::new(stream),
        _client: Some(client),
        answer: false,
    })
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
async fn status_of(stream: &mut Box<dyn Wire>, request: &[u8]) -> Option<u16> {
    stream.write_all(request).await.ok()?;
    stream.flush().await.ok()?;
    let mut line = [0; 12];
    let reading = timeout(PATIENCE, stream.read_exact(&mut line)).await;
    reading.ok()?.ok()?;
    std::str::from_utf8(&line[9..]).ok()?.parse().ok()
}
