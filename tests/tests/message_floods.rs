//! Bombs, floods and slow readers on routes that read messages: what they do to the memory of the proxy is
//! bounded, and nothing that was taken is lost.

use std::time::Duration;

use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::deflate::bomb;
use sluicegate_tests::websocket::frame::{self, COMPRESSED, Frame};
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::{Heard, Peer, Receiver};
use sluicegate_tests::{soon, until};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;

async fn start(script: &Script, acts: &[&str]) -> Proxy {
    let to = script.addr;
    let mut routes = format!("[[route]]\npath = '/follow/'\nto = '{to}'\n");
    for act in acts {
        routes += &format!(
            r#"
            [[route]]
            path = "/{act}/"
            to = "{to}"
            plugins = [{{ use = "guest", config = {{ act = "{act}", size = {INJECTED} }} }}]
            "#
        );
    }
    Proxy::with_guest(&routes).await
}

/// Waits for a Close with this code, answers it, and for the end.
async fn closed_with(peer: &mut Peer, code: u16) {
    let closing = async {
        loop {
            match peer.next().await {
                Heard::Close(Some((given, _))) => {
                    assert_eq!(given, code);
                    let _ = peer.say(Frame::close(code, "")).await;
                    assert_eq!(peer.closing().await, [Heard::End]);
                    return;
                }
                Heard::Message(_) | Heard::Ping(_) | Heard::Pong(_) => {}
                other => panic!("no Close but {other:?}"),
            }
        }
    };
    soon("the Close", closing).await;
}

fn grown(proxy: &Proxy, before: u64) -> u64 {
    proxy.resident_kib().saturating_sub(before)
}

/// One tunnel to its end, so that what the proxy makes once is there.
async fn warm_up(proxy: &Proxy, script: &Script, path: &str) -> u64 {
    for _ in 0..2 {
        let (mut client, mut server) = Peer::pair(proxy.addr(0), path, "", script, None).await;
        client.say(Frame::new(frame::TEXT, "a")).await.unwrap();
        assert!(matches!(server.next().await, Heard::Message(_)));
        server.say(Frame::close(1000, "")).await.unwrap();
        client.next().await;
        client.say(Frame::close(1000, "")).await.unwrap();
        drop(client);
        while server.next().await != Heard::End {}
    }
    proxy.resident_kib()
}

#[tokio::test]
async fn bombs_stop_at_the_limit() {
    let script = Script::new().await;
    let proxy = start(&script, &["pass"]).await;
    let before = warm_up(&proxy, &script, "/pass/").await;
    let params = Params {
        window_bits: 15,
        takeover: true,
    };
    let wish = Deflate {
        client: params,
        server: params,
    };
    let bomb = bomb(256 << 20);
    let whole = Frame::new(frame::BINARY, bomb.clone()).with_rsv(COMPRESSED);
    let mut pieces: Vec<Frame> = bomb
        .chunks(500)
        .map(|piece| Frame::new(frame::CONTINUATION, piece).unfinished())
        .collect();
    pieces.last_mut().unwrap().fin = true;
    pieces[0] = Frame {
        opcode: frame::BINARY,
        rsv: COMPRESSED,
        ..pieces[0].clone()
    };
    let offer = "permessage-deflate; client_max_window_bits";
    for (number, frames) in [vec![whole], pieces].iter().cycle().take(16).enumerate() {
        let pair = Peer::pair(proxy.addr(0), "/pass/", offer, &script, Some(wish)).await;
        let (mut thrower, mut other) = match number % 4 < 2 {
            true => pair,
            false => (pair.1, pair.0),
        };
        let throwing = async {
            for frame in frames {
                // It is told to stop before it has sent them all.
                if thrower.say(frame.clone()).await.is_err() {
                    break;
                }
            }
            thrower
        };
        let ((), thrower) = tokio::join!(closed_with(&mut other, 1009), throwing);
        drop(thrower);
    }
    let grown = grown(&proxy, before);
    assert!(grown < 4 << 10, "the proxy has grown by {grown} KiB");
}

#[tokio::test]
async fn a_million_empty_fragments_are_refused_where_they_are_collected() {
    let script = Script::new().await;
    let proxy = start(&script, &["pass"]).await;
    let before = warm_up(&proxy, &script, "/pass/").await;
    let (mut client, mut server) = Peer::pair(proxy.addr(0), "/pass/", "", &script, None).await;
    let flooding = async {
        // The proxy stops reading it.
        let _ = client.send(&fragments(1_000_000)).await;
        client
    };
    let ((), client) = tokio::join!(closed_with(&mut server, 1008), flooding);
    drop(client);
    let grown = grown(&proxy, before);
    assert!(grown < 4 << 10, "the proxy has grown by {grown} KiB");
}

#[tokio::test]
async fn a_million_empty_fragments_pass_where_frames_are_only_followed() {
    let script = Script::new().await;
    let proxy = start(&script, &[]).await;
    let before = warm_up(&proxy, &script, "/follow/").await;
    let (mut client, mut server) = Peer::pair(proxy.addr(0), "/follow/", "", &script, None).await;
    let flooding = async {
        client.send(&fragments(1_000_000)).await.unwrap();
        let last = Frame::new(frame::CONTINUATION, "end");
        client.say(last).await.unwrap();
    };
    let ((), heard) = tokio::join!(flooding, server.next());
    assert!(matches!(heard, Heard::Message(message) if message.data == b"end"));
    let grown = grown(&proxy, before);
    assert!(grown < 4 << 10, "the proxy has grown by {grown} KiB");
}

fn fragments(count: usize) -> Vec<u8> {
    let mask = [0, 0, 0, 0];
    let first = Frame::new(frame::BINARY, "").unfinished().masked(mask);
    let next = Frame::new(frame::CONTINUATION, "")
        .unfinished()
        .masked(mask);
    let mut bytes = first.encode();
    bytes.extend(next.encode().repeat(count - 1));
    bytes
}

#[tokio::test]
async fn a_flood_of_pings_waits_for_its_reader() {
    let script = Script::new().await;
    let proxy = start(&script, &["pass"]).await;
    for path in ["/pass/", "/follow/"] {
        let before = warm_up(&proxy, &script, path).await;
        let (mut client, mut server) = Peer::pair(proxy.addr(0), path, "", &script, None).await;
        let ping = Frame::new(frame::PING, [b'p'; 125])
            .masked([1, 2, 3, 4])
            .encode();
        let (sent, rest) = stuff(&mut client.sender, &ping).await;
        let grown = grown(&proxy, before);
        assert!(
            grown < 4 << 10,
            "{path}: the proxy has grown by {grown} KiB"
        );
        let reading = async {
            for _ in 0..sent {
                assert_eq!(server.next().await, Heard::Ping(vec![b'p'; 125]));
            }
        };
        let (finished, ()) = tokio::join!(client.send(&rest), reading);
        finished.unwrap();
    }
}

#[tokio::test]
async fn a_filter_that_floods_the_other_side_is_held_back_by_it() {
    let script = Script::new().await;
    let proxy = start(&script, &["flood"]).await;
    for from_client in [true, false] {
        let before = warm_up(&proxy, &script, "/flood/").await;
        let pair = Peer::pair(proxy.addr(0), "/flood/", "", &script, None).await;
        let (mut talker, mut reader) = match from_client {
            true => pair,
            false => (pair.1, pair.0),
        };
        let small = prepared(Frame::new(frame::TEXT, MORE), from_client);
        let (sent, _) = stuff(&mut talker.sender, &small).await;
        let grown = grown(&proxy, before);
        assert!(grown < HELD_KIB, "the proxy has grown by {grown} KiB");
        // Not the last one, which may not be sent to its end.
        for _ in 0..READ.min(sent - 1) {
            expect(&mut reader.receiver, &MORE).await;
            for _ in 0..16 {
                expect(&mut reader.receiver, &[b'f'; INJECTED]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_side_that_reads_no_replies_is_not_read() {
    let script = Script::new().await;
    let proxy = start(&script, &["reply"]).await;
    for from_client in [true, false] {
        let before = warm_up(&proxy, &script, "/reply/").await;
        let pair = Peer::pair(proxy.addr(0), "/reply/", "", &script, None).await;
        let (mut talker, mut other) = match from_client {
            true => pair,
            false => (pair.1, pair.0),
        };
        let small = prepared(Frame::new(frame::TEXT, MORE), from_client);
        // The other side reads all the time: only the replies are in the way.
        let reading = tokio::spawn(async move {
            let mut heard = 0;
            // There are pauses: without the patience of `next`.
            while let Heard::Message(message) = other.receiver.read().await {
                assert!(message.data == MORE, "{message:?}");
                heard += 1;
            }
            heard
        });
        let (sent, rest) = stuff(&mut talker.sender, &small).await;
        let grown = grown(&proxy, before);
        assert!(grown < HELD_KIB, "the proxy has grown by {grown} KiB");
        let receiver = &mut talker.receiver;
        let replies = async {
            for _ in 0..sent {
                expect(receiver, &[b'r'; INJECTED]).await;
            }
        };
        let (finished, ()) = tokio::join!(talker.sender.write_all(&rest), replies);
        finished.unwrap();
        drop(talker);
        assert_eq!(soon("all of it", reading).await.unwrap(), sent);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_sender_through_a_filter() {
    let script = Script::new().await;
    let proxy = start(&script, &["scan"]).await;
    for from_client in [true, false] {
        let before = warm_up(&proxy, &script, "/scan/").await;
        let pair = Peer::pair(proxy.addr(0), "/scan/", "", &script, None).await;
        let (mut talker, mut reader) = match from_client {
            true => pair,
            false => (pair.1, pair.0),
        };
        let large = prepared(Frame::new(frame::BINARY, vec![b'x'; INJECTED]), from_client);
        let (sent, rest) = stuff(&mut talker.sender, &large).await;
        let grown = grown(&proxy, before);
        assert!(grown < HELD_KIB, "the proxy has grown by {grown} KiB");
        let reading = async {
            for _ in 0..sent {
                expect(&mut reader.receiver, &[b'x'; INJECTED]).await;
            }
        };
        let (finished, ()) = tokio::join!(talker.send(&rest), reading);
        finished.unwrap();
    }
}

/// Small on the way in and large on the way out, messages of one read are as many as `tunnel_buffer` has room for;
/// the others wait as they came.
#[tokio::test]
async fn what_waits_for_a_reader_that_stands_still_is_as_much_as_tunnel_buffer() {
    let script = Script::new().await;
    let route = |buffer| {
        let to = script.addr;
        format!(
            r#"
            [[route]]
            path = "/{buffer}/"
            to = "{to}"
            compression = "terminate"
            tunnel_buffer = "{buffer}"
            "#
        )
    };
    let proxy = Proxy::observed(&(route("64KiB") + &route("64MiB"))).await;
    let plain = vec![b'a'; 64 << 10];
    let small = Frame::new(frame::BINARY, bomb(plain.len())).with_rsv(COMPRESSED);
    // One read's worth.
    let messages = (60 << 10) / small.encode().len();
    let burst = small.encode().repeat(messages);
    let params = Params {
        window_bits: 12,
        takeover: true,
    };
    let wish = Deflate {
        client: params,
        server: params,
    };
    for (path, most) in [("/64KiB/", Some(HELD_KIB)), ("/64MiB/", None)] {
        let before = warm_up(&proxy, &script, path).await;
        let pair = Peer::pair(proxy.addr(0), path, "", &script, Some(wish)).await;
        let (mut client, mut server) = pair;
        server.send(&burst).await.unwrap();
        let large = Frame::new(frame::BINARY, vec![b'b'; INJECTED]).encode();
        let (sent, rest) = stuff(&mut server.sender, &large).await;
        match most {
            Some(most) => {
                let grown = grown(&proxy, before);
                assert!(grown < most, "the proxy has grown by {grown} KiB");
            }
            None => {
                let half = (messages * plain.len() / 2) as u64 >> 10;
                let keeps = || async { (grown(&proxy, before) >= half).then_some(()) };
                until("all of it is kept", keeps).await;
            }
        }
        let reading = async {
            for _ in 0..messages {
                expect(&mut client.receiver, &plain).await;
            }
            for _ in 0..sent {
                expect(&mut client.receiver, &[b'b'; INJECTED]).await;
            }
        };
        let (finished, ()) = tokio::join!(server.send(&rest), reading);
        finished.unwrap();
    }
}

fn prepared(frame: Frame, from_client: bool) -> Vec<u8> {
    match from_client {
        true => frame.masked([9, 8, 7, 6]).encode(),
        false => frame.encode(),
    }
}

async fn expect(receiver: &mut Receiver, data: &[u8]) {
    match receiver.next().await {
        Heard::Message(message) => assert!(message.data == data, "{:?}", message.data.first()),
        other => panic!("no message but {other:?}"),
    }
}

/// Sends the same piece until nothing more is taken: how many were begun, and the rest of the last one.
async fn stuff(sender: &mut OwnedWriteHalf, piece: &[u8]) -> (usize, Vec<u8>) {
    let (mut sent, mut at) = (0, piece.len());
    for _ in 0..MOST_WRITES {
        if at == piece.len() {
            (sent, at) = (sent + 1, 0);
        }
        match timeout(STUCK, sender.write(&piece[at..])).await {
            Ok(written) => at += written.unwrap(),
            Err(_) => return (sent, piece[at..].to_vec()),
        }
    }
    panic!("no end to what is taken");
}

/// Bytes of a message that a filter injects: sixteen of them are allowed in one answer.
const INJECTED: usize = 60_000;
/// What a tunnel may hold: its buffers both ways and one answer of a filter, with room for what the
/// allocator keeps.
const HELD_KIB: u64 = 4 << 10;
/// Kernels buffer some megabytes on the way.
const STUCK: Duration = Duration::from_millis(700);
const MOST_WRITES: usize = 2_000_000;
/// Of sixteen times as much as was sent, as much is read as shows that all is in order.
const READ: usize = 40;
/// What is answered or flooded: large, so that not many of them fill the kernels' buffers.
static MORE: [u8; 30_000] = [b'm'; 30_000];
