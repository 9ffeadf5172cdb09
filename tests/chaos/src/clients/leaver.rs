//! Clients that go at any moment, mostly without a word: what they leave behind must be cleaned away.
//!
//! What the proxy makes of a request whose client left is between it and nobody: only their connections are in
//! the ledger.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::random::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::faults::open_handshake;
use super::{Order, Orders, pause};
use crate::ledger::Count;
use crate::world::{Door, World};

pub(crate) async fn come_and_go(world: Arc<World>, mut random: Random, mut orders: Orders) {
    loop {
        let length = Duration::from_millis(random.between(10, 1_000) as u64);
        if pause(&mut orders, length).await != Order::Stay {
            return;
        }
        // However far it came.
        let _ = timeout(ENOUGH, visit(&world, &mut random)).await;
    }
}

async fn visit(world: &World, random: &mut Random) -> Result<()> {
    if random.once_in(6) {
        return begin_tls(world, random).await;
    }
    let door = random.pick(&[Door::Plain, Door::Tls]);
    let mut stream = world.dial(door).await?;
    let rudely = random.once_in(2);
    let done = go_on(&mut stream, random).await;
    if rudely {
        stream.cut();
    }
    done
}

/// Part of a TLS handshake: the head of a record, or some of what it announces.
async fn begin_tls(world: &World, random: &mut Random) -> Result<()> {
    let mut stream = world.tcp(Door::Tls).await?;
    world.ledger.count(Count::TlsHandshakes { ok: false });
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    stream
        .write_all(&hello[..random.between(0, hello.len())])
        .await?;
    linger(random).await;
    if random.once_in(2) {
        stream.cut();
    }
    Ok(())
}

async fn go_on(stream: &mut Box<dyn Wire>, random: &mut Random) -> Result<()> {
    let way = random.below(3);
    let asks_for_tunnel = way > 0;
    let request = match way {
        0 => "GET /leave/page HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        1 => open_handshake("/leave", "x-kind: firehose\r\n"),
        _ => open_handshake("/leave", ""),
    };
    let moment = random.below(6);
    let sent = match moment {
        0 => 0,
        1 => random.between(1, request.len() - 1),
        _ => request.len(),
    };
    stream.write_all(&request.as_bytes()[..sent]).await?;
    stream.flush().await?;
    if moment < 3 {
        linger(random).await;
        return Ok(());
    }
    // Into the answer, and into what follows it.
    let mut some = vec![0; random.between(1, 2_000)];
    stream.read_exact(&mut some).await?;
    if !asks_for_tunnel {
        return Ok(());
    }
    let message = Frame::new(frame::BINARY, vec![3; 300]).masked([1, 2, 3, 4]);
    let message = message.encode();
    let sent = random.between(1, message.len());
    stream.write_all(&message[..sent]).await?;
    stream.flush().await?;
    linger(random).await;
    Ok(())
}

async fn linger(random: &mut Random) {
    if random.once_in(2) {
        tokio::time::sleep(Duration::from_millis(random.between(1, 300) as u64)).await;
    }
}

/// How long a visit lasts at most; many wait for more than comes.
const ENOUGH: Duration = Duration::from_secs(3);
