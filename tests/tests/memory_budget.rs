//! The memory that peers make the proxy hold: the limit of all of it, who goes first, and what the others
//! and those who come then get.
//!
//! "Buffered bytes per connection and in all (a global memory budget that sheds the costliest first, with
//! 503 or Close 1013)."

use std::sync::Arc;

use sluicegate_tests::client;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::deflate::bomb;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Leg;
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::{AnyPeer, Heard, Peer};
use sluicegate_tests::{soon, until};
use socket2::SockRef;

const MIB: usize = 1 << 20;

/// Routes that read messages, and one that does not; with these `[limits]`.
fn config(script: &Script, limits: &str) -> String {
    format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        http2 = true
        [admin]
        bind = "127.0.0.1:0"
        [log]
        access = "json"
        [limits]
        {limits}
        [[route]]
        path = "/messages/"
        to = "{0}"
        compression = "terminate"
        message_size = "64MiB"
        [[route]]
        path = "/"
        to = "{0}"
        "#,
        script.addr
    )
}

async fn start(limits: &str) -> (Proxy, Script) {
    let script = Script::new().await;
    let proxy = Proxy::start(&config(&script, limits)).await;
    (proxy, script)
}

async fn tunnel(proxy: &Proxy, script: &Script) -> (Peer, Peer) {
    let offers = "permessage-deflate";
    Peer::pair(proxy.addr(0), "/messages/", offers, script, None).await
}

/// As [`tunnel`], over a stream of this client's.
async fn tunnel_on(client: &Client, script: &Script) -> (AnyPeer, Peer) {
    let offer = [("sec-websocket-extensions", "permessage-deflate")];
    let (client, server) = tokio::join!(
        AnyPeer::connect_on(client, "/messages/", &offer),
        Peer::accept(script, None)
    );
    (client.expect("a 200"), server)
}

/// A tunnel whose client has said `size` bytes of a message that does not end.
async fn half_said(proxy: &Proxy, script: &Script, size: usize) -> (Peer, Peer) {
    let (mut client, server) = tunnel(proxy, script).await;
    say_half(&mut client, size).await;
    (client, server)
}

/// The client says so much of a message that does not end. The server does not take compressed ones, so it is
/// collected.
async fn say_half(client: &mut Peer<impl Leg>, size: usize) {
    let frame = Frame::new(frame::BINARY, vec![7; size]).with_rsv(frame::COMPRESSED);
    client.say(frame.unfinished()).await.unwrap();
}

/// The client says a message of `size` bytes in few, which the server would get in full.
async fn throw_bomb(client: &mut Peer<impl Leg>, size: usize) {
    let frame = Frame::new(frame::BINARY, bomb(size)).with_rsv(frame::COMPRESSED);
    client.say(frame).await.unwrap();
}

/// Waits for a Close with this code.
async fn closed_with(peer: &mut Peer<impl Leg>, code: u16) {
    match soon("a Close", peer.next()).await {
        Heard::Close(Some((given, _))) => assert_eq!(given, code),
        other => panic!("no Close but {other:?}"),
    }
}

async fn still_talks((client, server): &mut (Peer<impl Leg>, Peer)) {
    client
        .say(Frame::new(frame::PING, *b"here?"))
        .await
        .unwrap();
    let heard = soon("a ping", server.next()).await;
    assert_eq!(heard, Heard::Ping(b"here?".to_vec()));
}

#[tokio::test]
async fn the_costliest_message_goes_and_the_small_ones_survive() {
    let (proxy, script) = start(r#"memory = "8MiB""#).await;
    let mut small = Vec::new();
    for _ in 0..3 {
        small.push(half_said(&proxy, &script, MIB / 2).await);
    }
    let mut late = tunnel(&proxy, &script).await;
    let (mut client, mut server) = half_said(&proxy, &script, 5 * MIB).await;
    proxy.holds(13 * MIB / 2).await;
    assert_eq!(proxy.shed("tunnel").await, 0);
    // Two more, and it is over eight.
    let more = Frame::new(frame::BINARY, vec![7; 2 * MIB]).with_rsv(frame::COMPRESSED);
    late.0.say(more.unfinished()).await.unwrap();
    closed_with(&mut client, 1013).await;
    closed_with(&mut server, 1013).await;
    client.say(Frame::close(1013, "")).await.unwrap();
    server.say(Frame::close(1013, "")).await.unwrap();
    let line = proxy.access_event("ws.close", |_| true).await;
    assert_eq!(line["cause"], "memory", "{line}");
    assert_eq!(line["close_code"], 1013, "{line}");
    assert_eq!(proxy.shed("tunnel").await, 1);
    proxy.holds_at_most(4 * MIB).await;
    for pair in small.iter_mut().chain([&mut late]) {
        still_talks(pair).await;
    }
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_who_spoke_to_it_is_told() {
    let (proxy, script) = start(r#"memory = "8MiB""#).await;
    let mut well = tunnel(&proxy, &script).await;
    let (mut client, mut server) = tunnel(&proxy, &script).await;
    throw_bomb(&mut client, 30 * MIB).await;
    closed_with(&mut client, 1013).await;
    client.say(Frame::close(1013, "")).await.unwrap();
    assert_eq!(soon("the client's end", client.next()).await, Heard::End);
    // It has got a part of the message, and then the end: there is no place for a Close.
    assert_eq!(soon("the server's end", server.next()).await, Heard::End);
    let line = proxy.access_event("ws.close", |_| true).await;
    assert_eq!(line["cause"], "memory", "{line}");
    proxy.holds_at_most(0).await;
    still_talks(&mut well).await;
}

#[tokio::test]
async fn the_costliest_of_one_connection_goes_and_the_others_on_it_stay() {
    let (proxy, script) = start(r#"memory = "8MiB""#).await;
    let client = Client::plain(proxy.addr(0)).await;
    let mut small = Vec::new();
    for _ in 0..3 {
        let mut pair = tunnel_on(&client, &script).await;
        say_half(&mut pair.0, MIB / 2).await;
        small.push(pair);
    }
    let (mut costly, mut server) = tunnel_on(&client, &script).await;
    say_half(&mut costly, 5 * MIB).await;
    proxy.holds(13 * MIB / 2).await;
    assert_eq!(proxy.shed("tunnel").await, 0);
    let mut late = tunnel_on(&client, &script).await;
    say_half(&mut late.0, 2 * MIB).await;
    closed_with(&mut costly, 1013).await;
    closed_with(&mut server, 1013).await;
    costly.say(Frame::close(1013, "")).await.unwrap();
    server.say(Frame::close(1013, "")).await.unwrap();
    assert_eq!(soon("its stream's end", costly.next()).await, Heard::End);
    assert!(costly.receiver.broken.is_none(), "no reset");
    let line = proxy.access_event("ws.close", |_| true).await;
    assert_eq!(line["cause"], "memory", "{line}");
    // One that its server does not take, with what HTTP/2 has room for besides: it hears why, and is ended.
    let (mut stuck, mut server) = tunnel_on(&client, &script).await;
    throw_bomb(&mut stuck, 30 * MIB).await;
    closed_with(&mut stuck, 1013).await;
    assert_eq!(soon("the server's end", server.next()).await, Heard::End);
    assert_eq!(proxy.shed("tunnel").await, 2);
    proxy.holds_at_most(4 * MIB).await;
    for pair in small.iter_mut().chain([&mut late]) {
        still_talks(pair).await;
    }
}

#[tokio::test]
async fn a_flood_for_readers_that_sleep_leaves_the_process_near_its_limit() {
    let (proxy, script) = start(r#"memory = "32MiB""#).await;
    let mut pairs = Vec::new();
    for _ in 0..60 {
        pairs.push(tunnel(&proxy, &script).await);
    }
    let before = proxy.resident_kib();
    let mut most = 0;
    for (client, _) in &mut pairs {
        throw_bomb(client, 12 * MIB).await;
        most = most.max(proxy.resident_kib());
    }
    // Those who stay hold less than the limit, and take up about that.
    until("most of them are shed", || {
        most = most.max(proxy.resident_kib());
        async { (proxy.shed("tunnel").await >= 55).then_some(()) }
    })
    .await;
    let grown = most - before;
    // One message is worked on besides: inflated, encoded, and put aside, in buffers that grow by doubling.
    assert!(grown < 96 << 10, "the proxy has grown by {grown} KiB");
    proxy.holds_at_most(32 * MIB).await;
    drop(pairs);
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn tunnels_that_nobody_looks_into_are_shed_like_others() {
    for follow in [true, false] {
        let script = Script::new().await;
        let proxy = Proxy::observed(&format!(
            r#"
            [limits]
            memory = "1MiB"
            [[route]]
            to = "{}"
            follow = {follow}
            "#,
            script.addr
        ))
        .await;
        let mut pairs = Vec::new();
        for _ in 0..100 {
            let accepting = async {
                let stream = script.accept().await;
                // What the kernel takes for it is in nobody's budget, and slow to fill.
                SockRef::from(&stream)
                    .set_recv_buffer_size(16 << 10)
                    .unwrap();
                let wish = Wish {
                    deflate: None,
                    subprotocol: None,
                };
                Peer::upgrade(stream, wish).await
            };
            let (client, server) = tokio::join!(Peer::connect(proxy.addr(0), "/", ""), accepting);
            pairs.push((client.expect("a 101"), server));
        }
        let message = Frame::new(frame::BINARY, vec![7; MIB]).masked([1, 2, 3, 4]);
        let message: Arc<[u8]> = message.encode().into();
        let mut floods = Vec::new();
        for (mut client, server) in pairs {
            let message = Arc::clone(&message);
            floods.push(tokio::spawn(async move {
                while client.send(&message).await.is_ok() {}
                drop(server);
            }));
        }
        until("some are shed", || async {
            (proxy.shed("tunnel").await >= 3).then_some(())
        })
        .await;
        let line = proxy.access_event("ws.close", |_| true).await;
        assert_eq!(line["cause"], "memory", "{line}");
        proxy.holds_at_most(MIB).await;
        for flood in floods {
            flood.abort();
        }
    }
}

#[tokio::test]
async fn while_memory_is_short_nothing_new_begins() {
    let (proxy, script) = start(r#"memory = "8MiB""#).await;
    let (mut client, _server) = half_said(&proxy, &script, 15 * MIB / 2).await;
    proxy.holds(15 * MIB / 2).await;
    let plain = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // At once: a shortage does not last for long.
    let (answer, refused) = tokio::join!(
        client::exchange(proxy.addr(0), plain),
        Peer::connect(proxy.addr(0), "/messages/", "")
    );
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert_eq!(refused.err().expect("a refusal").status(), 503);
    let reason = r#"sluicegate_requests_rejected_total{reason="overloaded"}"#;
    assert_eq!(proxy.metric(reason).await, Some(2.0));
    assert!(!script.was_contacted().await);
    // The limit is not reached; but as long as somebody asks in vain, the costliest goes in the end.
    until("the shortage to end", || async {
        client::exchange(proxy.addr(0), plain).await;
        (proxy.shed("tunnel").await == 1).then_some(())
    })
    .await;
    closed_with(&mut client, 1013).await;
    proxy.holds_at_most(0).await;
    still_talks(&mut tunnel(&proxy, &script).await).await;
}

#[tokio::test]
async fn a_reload_changes_the_limit_at_once() {
    let (proxy, script) = start(r#"memory = "64MiB""#).await;
    let mut costly = half_said(&proxy, &script, 6 * MIB).await;
    let mut cheap = half_said(&proxy, &script, MIB).await;
    proxy.holds(7 * MIB).await;
    proxy.rewrite_config(&config(&script, r#"memory = "4MiB""#));
    assert!(proxy.reload().await);
    let limit = proxy.metric("sluicegate_buffered_bytes_limit").await;
    assert_eq!(limit, Some((4 * MIB) as f64));
    closed_with(&mut costly.0, 1013).await;
    closed_with(&mut costly.1, 1013).await;
    still_talks(&mut cheap).await;
}

#[tokio::test]
async fn one_connection_may_hold_less_than_all() {
    let (proxy, script) = start(r#"connection_memory = "1MiB""#).await;
    let mut fits = half_said(&proxy, &script, MIB / 2).await;
    let (mut client, mut server) = tunnel(&proxy, &script).await;
    throw_bomb(&mut client, 20 * MIB).await;
    closed_with(&mut client, 1009).await;
    assert_eq!(soon("the server's end", server.next()).await, Heard::End);
    let (mut client, mut server) = half_said(&proxy, &script, 2 * MIB).await;
    closed_with(&mut client, 1009).await;
    closed_with(&mut server, 1009).await;
    still_talks(&mut fits).await;
    let limit =
        r#"sluicegate_websocket_limit_closes_total{route="/messages/",limit="connection_memory"}"#;
    proxy.until_metric(limit, 2.0).await;
}
