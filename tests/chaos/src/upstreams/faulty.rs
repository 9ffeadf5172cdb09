//! An upstream that fails in the way that the path names, `/faulty/NAME`; one request a connection.

use std::io::Result;
use std::time::Duration;

use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::{AnyPeer, Heard, Peer};
use sluicegate_tests::wire::{self, Head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ledger::UPSTREAMS_OWN;

pub(crate) async fn serve(stream: TcpStream) {
    // Who fails on purpose does not mind that the other end goes first.
    let _ = fail(stream).await;
}

async fn fail(mut stream: TcpStream) -> Result<()> {
    let mut start = [0; 256];
    let seen = stream.peek(&mut start).await?;
    if start[..seen].starts_with(b"GET /faulty/ws-tunnel-") {
        return fail_tunnel(stream).await;
    }
    let head = wire::read_head(&mut stream).await?;
    match name(&head) {
        "reset" => stream.cut(),
        "close" => {}
        "garbage" => stream.write_all(b"200 is what I mean\r\n\r\n").await?,
        "interim" => loop {
            stream
                .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                .await?;
        },
        "big-head" => {
            let field = format!("x-field: {}\r\n", "v".repeat(1000));
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(100));
            stream.write_all(head.as_bytes()).await?;
        }
        "two-lengths" => {
            answer(
                &mut stream,
                "Content-Length: 3\r\nContent-Length: 4",
                "abcd",
            )
            .await?;
        }
        "unasked-101" => {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
                .await?;
        }
        "stall" => gone(&mut stream).await?,
        "cut-length" => answer(&mut stream, "Content-Length: 100000", &BODY.repeat(50)).await?,
        "reset-length" => {
            answer(&mut stream, "Content-Length: 100000", &BODY.repeat(50)).await?;
            stream.cut();
        }
        "stall-length" => {
            answer(&mut stream, "Content-Length: 100000", &BODY.repeat(50)).await?;
            gone(&mut stream).await?;
        }
        "cut-chunk" => answer(&mut stream, CHUNKED, &format!("ffff\r\n{BODY}")).await?,
        "bad-chunk" => answer(&mut stream, CHUNKED, &format!("xyz\r\n{BODY}")).await?,
        "no-last-chunk" => answer(&mut stream, CHUNKED, "4\r\nabcd\r\n").await?,
        "too-much" => answer(&mut stream, "Content-Length: 4", &BODY.repeat(50)).await?,
        "ws-refused" => {
            let head = format!("HTTP/1.1 {UPSTREAMS_OWN} No\r\nContent-Length: 2\r\n\r\nno");
            stream.write_all(head.as_bytes()).await?;
        }
        "ws-wrong-accept" => {
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
                )
                .await?;
        }
        other => panic!("no fault is called `{other}`"),
    }
    Ok(())
}

async fn fail_tunnel(stream: TcpStream) -> Result<()> {
    let leg: Box<dyn Wire> = Box::new(stream);
    let mut peer: AnyPeer = Peer::upgrade(leg, Wish::default()).await;
    // A message has passed, so both ends know that there is a tunnel.
    if !matches!(peer.receiver.read().await, Heard::Message(_)) {
        return Ok(());
    }
    peer.say(Frame::new(frame::TEXT, "heard")).await?;
    let fault = peer.fields.all("x-fault").join("");
    match fault.as_str() {
        "reset" => {
            peer.reset();
            return Ok(());
        }
        "end" => {}
        "half-frame" => {
            let whole = Frame::new(frame::BINARY, vec![1; 1000]).encode();
            peer.send(&whole[..500]).await?;
        }
        "stall" => {
            // Nothing is read any more; the client sends until it has enough.
            sleep(Duration::from_secs(1)).await;
        }
        "overload" => {
            peer.say(Frame::close(1013, "try again later")).await?;
            while !matches!(peer.receiver.read().await, Heard::Close(_) | Heard::End) {}
        }
        other => panic!("no fault is called `{other}`"),
    }
    peer.sender.shutdown().await
}

fn name(head: &Head) -> &str {
    let target = head.target();
    target.strip_prefix("/faulty/").unwrap_or(target)
}

async fn answer(stream: &mut TcpStream, framing: &str, body: &str) -> Result<()> {
    let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await
}

/// Says nothing until the other end goes.
async fn gone(stream: &mut TcpStream) -> Result<()> {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

const CHUNKED: &str = "Transfer-Encoding: chunked";
const BODY: &str = "so much of it and no more\n";
