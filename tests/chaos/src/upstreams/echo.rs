//! WebSockets whose messages come back, over HTTP/1.1 and HTTP/2; those of healthy tunnels are checked on
//! their way.
//!
//! On `/firehose` messages come without end instead. On `/talk` what comes back is not checked, as the plugin
//! there may have changed it.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::http2::server::{Arrival, Server};
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::{Leg, Wire};
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::{AnyPeer, Heard, Message, Peer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ledger::Ledger;
use crate::said::Expectation;
use crate::voice;

pub(crate) async fn serve(stream: TcpStream, ledger: Arc<Ledger>) {
    // Some clients leave before their handshake has come here as a whole.
    let mut first = [0; 4];
    if !matches!(stream.peek(&mut first).await, Ok(1..)) {
        return;
    }
    let leg: Box<dyn Wire> = Box::new(stream);
    echo(Peer::upgrade(leg, wish()).await, &ledger).await;
}

pub(crate) async fn serve_http2(server: Server, ledger: Arc<Ledger>) {
    let mut tunnels = JoinSet::new();
    loop {
        // It takes silence for a failure, as the tests do.
        let arriving = timeout(Duration::from_secs(5), server.next());
        tokio::select! {
            arrival = arriving => {
                if let Ok(arrival @ Arrival::Http2(_)) = arrival {
                    let ledger = Arc::clone(&ledger);
                    tunnels.spawn(async move {
                        echo(AnyPeer::answer(arrival, wish()).await, &ledger).await;
                    });
                }
            }
            Some(_) = tunnels.join_next() => {}
        }
    }
}

fn wish() -> Wish {
    let params = Params {
        window_bits: 15,
        takeover: true,
    };
    Wish {
        deflate: Some(Deflate {
            client: params,
            server: params,
        }),
        subprotocol: None,
    }
}

async fn echo(mut peer: AnyPeer, ledger: &Ledger) {
    let kind = peer.fields.all("x-kind").first().copied().unwrap_or("");
    match kind {
        "firehose" => {
            let _ = flood(&mut peer).await;
        }
        _ => {
            let checks = kind == "healthy";
            let _ = answer_all(&mut peer, checks.then_some(ledger)).await;
        }
    }
}

async fn answer_all(peer: &mut AnyPeer, ledger: Option<&Ledger>) -> Result<()> {
    let mut due = Expectation::default();
    loop {
        match peer.receiver.read().await {
            Heard::Message(message) => {
                if let Some(ledger) = ledger
                    && let Err(how) = due.check(&message)
                {
                    ledger.broke(crate::clients::tunnel::NO_MESSAGE_LOST, how);
                }
                send(peer, &message).await?;
            }
            Heard::Ping(data) => peer.say(Frame::new(frame::PONG, data)).await?,
            Heard::Pong(_) => {}
            Heard::Close(close) => {
                let answer = match close {
                    Some((code, reason)) => Frame::close(code, &reason),
                    None => Frame::new(frame::CLOSE, []),
                };
                peer.say(answer).await?;
                return peer.sender.shutdown().await;
            }
            Heard::End => return Ok(()),
        }
    }
}

/// Compressed if it came so.
async fn send<L: Leg>(peer: &mut Peer<L>, message: &Message) -> Result<()> {
    let compress = message.compressed && peer.deflate.is_some();
    peer.say(voice::frame(message.text, &message.data, compress))
        .await
}

async fn flood(peer: &mut AnyPeer) -> Result<()> {
    loop {
        peer.say(Frame::new(frame::BINARY, vec![7; 16 << 10]))
            .await?;
    }
}
