//! What a route allows its tunnels without any plugin: sizes, kinds, rates, silence, age; and its pings.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use sluicegate_tests::client;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::frame::{self, Frame as RawFrame};
use sluicegate_tests::websocket::{Heard, Peer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

type End = WebSocketStream<TcpStream>;

/// More than sixty bytes.
const LARGE: &str = "this is a message of more than sixty bytes, though not of many more";

/// A route with these rules to a server that the test plays.
async fn start(rules: &str) -> (Proxy, Script) {
    let script = Script::new().await;
    let proxy = Proxy::observed(&format!("[[route]]\nto = '{}'\n{rules}", script.addr)).await;
    (proxy, script)
}

/// Both ends of a tunnel on a route with these rules.
async fn tunnel(rules: &str) -> (Proxy, End, End) {
    let (proxy, script) = start(rules).await;
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://a.test/", &[]);
    let (client, server) = tokio::join!(
        client::websocket(stream, request),
        script.accept_websocket()
    );
    (proxy, client.unwrap().0, server)
}

/// What comes until a Close, and its code. Answers it.
async fn told(end: &mut End) -> (Vec<Message>, u16) {
    let mut messages = Vec::new();
    let hearing = async {
        loop {
            match end.next().await.unwrap().unwrap() {
                Message::Close(frame) => return frame.unwrap().code.into(),
                message => messages.push(message),
            }
        }
    };
    let code = soon("a Close", hearing).await;
    end.flush().await.unwrap();
    (messages, code)
}

/// The `ws.close` of the one tunnel.
async fn close_line(proxy: &Proxy) -> Value {
    proxy.access_event("ws.close", |_| true).await
}

/// The log and the metrics say that this limit has ended the tunnel.
async fn recorded(proxy: &Proxy, limit: &str) {
    let line = close_line(proxy).await;
    assert_eq!(
        (&line["cause"], &line["closed_by"]),
        (&limit.into(), &"proxy".into())
    );
    let closes = format!(r#"sluicegate_websocket_limit_closes_total{{route="/",limit="{limit}"}}"#);
    assert_eq!(proxy.metric(&closes).await, Some(1.0), "{closes}");
}

/// The series of pongs that this side has answered the proxy's pings with.
fn round_trips(side: &str) -> String {
    let name = "sluicegate_websocket_ping_round_trip_seconds_count";
    format!(r#"{name}{{route="/",side="{side}"}}"#)
}

/// A frame of a text message.
fn piece(text: &'static str, data: Data, fin: bool) -> Message {
    Message::Frame(Frame::message(text, OpCode::Data(data), fin))
}

/// One side sends what it may and then what it may not; returns what of that the other has got.
/// Both are told `code`, and the records say `limit`.
async fn refuse(
    rules: &str,
    by_client: bool,
    (allowed, refused): (&Message, &[Message]),
    (code, limit): (u16, &str),
) -> Vec<Message> {
    let (proxy, mut client, mut server) = tunnel(rules).await;
    let (sender, receiver) = match by_client {
        true => (&mut client, &mut server),
        false => (&mut server, &mut client),
    };
    sender.send(allowed.clone()).await.unwrap();
    let first = soon("the first message", receiver.next()).await;
    assert_eq!(first.unwrap().unwrap(), *allowed, "{rules}");
    for message in refused {
        sender.feed(message.clone()).await.unwrap();
    }
    sender.flush().await.unwrap();
    let (to_sender, to_receiver) = tokio::join!(told(sender), told(receiver));
    assert_eq!(to_sender, (Vec::new(), code), "{rules}");
    assert_eq!(to_receiver.1, code, "{rules}");
    recorded(&proxy, limit).await;
    to_receiver.0
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_tunnel_with_1009() {
    let (ten, eleven) = (Message::text("0123456789"), Message::text("0123456789a"));
    let fragments = [
        piece("012345", Data::Text, false),
        piece("6789ab", Data::Continue, true),
    ];
    for (rules, by_client, refused) in [
        (
            "client_message_size = \"10\"",
            true,
            std::slice::from_ref(&eleven),
        ),
        (
            "server_message_size = \"10\"",
            false,
            std::slice::from_ref(&eleven),
        ),
        (
            "message_size = \"10\"",
            false,
            std::slice::from_ref(&eleven),
        ),
        ("message_size = \"10\"", true, &fragments),
        (
            "[limits]\nmessage_size = \"10\"",
            true,
            std::slice::from_ref(&eleven),
        ),
    ] {
        let end = (1009, "message_size");
        let received = refuse(rules, by_client, (&ten, refused), end).await;
        assert_eq!(received, [], "{rules}");
    }
}

#[tokio::test]
async fn a_message_of_the_wrong_kind_ends_the_tunnel_with_1003() {
    let (text, binary) = (Message::text("a"), Message::binary("b"));
    for (rules, by_client, allowed, refused) in [
        ("text_only = true", true, &text, &binary),
        ("binary_only = true", false, &binary, &text),
    ] {
        let messages = (allowed, &[refused.clone()][..]);
        let received = refuse(rules, by_client, messages, (1003, "message_kind")).await;
        assert_eq!(received, [], "{rules}");
    }
}

#[tokio::test]
async fn a_side_that_sends_too_much_in_a_second_is_told_1008() {
    for (rules, by_client, allowed) in [
        ("client_rate = { messages = 1 }", true, "a"),
        // What is larger than a burst may pass, but for a minute nothing after it.
        ("server_rate = { bytes = \"1\" }", false, LARGE),
    ] {
        // Several, as a second may bring one more.
        let refused = ["b", "c", "d"].map(Message::text);
        let messages = (&Message::text(allowed), &refused[..]);
        refuse(rules, by_client, messages, (1008, "message_rate")).await;
    }
}

#[tokio::test]
async fn a_burst_passes_at_once_and_what_comes_behind_it_ends_the_tunnel() {
    let rules = "client_rate = { messages = 1, messages_burst = 40 }";
    let (proxy, mut client, mut server) = tunnel(rules).await;
    // Together, as 40 more would be 40 s of it.
    let numbers = (0..80).map(|n| Message::text(n.to_string()));
    let numbers: Vec<_> = numbers.collect();
    for number in &numbers {
        client.feed(number.clone()).await.unwrap();
    }
    client.flush().await.unwrap();
    let (to_client, to_server) = tokio::join!(told(&mut client), told(&mut server));
    assert_eq!(to_client, (Vec::new(), 1008));
    let (passed, code) = to_server;
    assert_eq!(code, 1008);
    assert!((40..80).contains(&passed.len()), "{} passed", passed.len());
    assert_eq!(passed, numbers[..passed.len()]);
    recorded(&proxy, "message_rate").await;

    let rules = "server_rate = { bytes = \"1\", bytes_burst = \"4KiB\" }";
    let (proxy, mut client, mut server) = tunnel(rules).await;
    let large = Message::binary(vec![7; 1000]);
    for _ in 0..4 {
        server.send(large.clone()).await.unwrap();
        let message = soon("one of the burst", client.next()).await;
        assert_eq!(message.unwrap().unwrap(), large);
    }
    // It would have to wait for a quarter of an hour.
    server.send(large).await.unwrap();
    let (to_client, to_server) = tokio::join!(told(&mut client), told(&mut server));
    assert_eq!(to_client, (Vec::new(), 1008));
    assert_eq!(to_server, (Vec::new(), 1008));
    recorded(&proxy, "message_rate").await;
}

#[tokio::test]
async fn a_burst_passes_at_once_and_what_comes_behind_it_waits() {
    let rules = r#"client_rate = { messages = 1, messages_burst = 60, over = "wait" }"#;
    let (proxy, mut client, mut server) = tunnel(rules).await;
    let started = Instant::now();
    for n in 0..62 {
        client.feed(Message::text(n.to_string())).await.unwrap();
    }
    client.flush().await.unwrap();
    // A second for each would be more than anybody waits here.
    let burst = async {
        for n in 0..60 {
            let message = server.next().await.unwrap().unwrap();
            assert_eq!(message, Message::text(n.to_string()));
        }
    };
    soon("the burst", burst).await;
    for n in 60..62 {
        let message = soon("the rest", server.next()).await.unwrap().unwrap();
        assert_eq!(message, Message::text(n.to_string()));
    }
    // One may go before it is paid for.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(950), "{took:?}");
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = soon("the end", server.next()).await {}
    assert_eq!(close_line(&proxy).await["cause"], "close");

    let rules = r#"server_rate = { bytes = "1", bytes_burst = "4KiB", over = "wait" }"#;
    let (_proxy, mut client, mut server) = tunnel(rules).await;
    let large = Message::binary(vec![7; 1000]);
    for _ in 0..4 {
        server.send(large.clone()).await.unwrap();
        let message = soon("one of the burst", client.next()).await;
        assert_eq!(message.unwrap().unwrap(), large);
    }
    server.send(large).await.unwrap();
    // The other direction goes on, and nothing comes of this one.
    client.send(Message::text("still here")).await.unwrap();
    let message = soon("a message", server.next()).await.unwrap().unwrap();
    assert_eq!(message, Message::text("still here"));
    let early = timeout(Duration::from_millis(300), client.next()).await;
    assert!(early.is_err(), "{early:?}");
}

#[tokio::test]
async fn a_message_of_too_many_frames_ends_the_tunnel_with_1008() {
    let (_proxy, mut client, mut server) = tunnel("message_frames = 3").await;
    let frames = [
        piece("a", Data::Text, false),
        piece("b", Data::Continue, false),
        piece("c", Data::Continue, true),
    ];
    for frame in frames {
        client.send(frame).await.unwrap();
    }
    client.send(piece("d", Data::Text, false)).await.unwrap();
    for _ in 0..3 {
        let more = piece("e", Data::Continue, false);
        client.send(more).await.unwrap();
    }
    assert_eq!(told(&mut client).await, (Vec::new(), 1008));
    assert_eq!(told(&mut server).await, (vec![Message::text("abc")], 1008));
}

#[tokio::test]
async fn a_rate_may_let_the_sender_wait_instead() {
    let rules = r#"client_rate = { messages = 20, over = "wait" }"#;
    let (proxy, mut client, mut server) = tunnel(rules).await;
    let started = Instant::now();
    for n in 0..32 {
        client.feed(Message::text(n.to_string())).await.unwrap();
    }
    client.flush().await.unwrap();
    for n in 0..32 {
        let message = soon("a message", server.next()).await.unwrap().unwrap();
        assert_eq!(message, Message::text(n.to_string()));
    }
    // 20 at once; one may go before it is paid for.
    assert!(
        started.elapsed() >= Duration::from_millis(550),
        "{:?}",
        started.elapsed()
    );
    let bye = CloseFrame {
        code: CloseCode::Normal,
        reason: "bye".into(),
    };
    client.close(Some(bye)).await.unwrap();
    assert_eq!(told(&mut server).await, (Vec::new(), 1000));
    assert_eq!(close_line(&proxy).await["cause"], "close");
}

#[tokio::test]
async fn pings_of_the_proxy_are_between_it_and_each_side() {
    let (proxy, mut client, server) = tunnel("ping_interval = \"50ms\"").await;
    client.send(Message::Ping("mine".into())).await.unwrap();
    let (mut client_sends, mut client_hears) = client.split();
    let hear = |mut stream: futures_util::stream::SplitStream<End>| async move {
        let mut pongs = Vec::new();
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Pong(payload) = message {
                pongs.push(payload);
            }
        }
        pongs
    };
    let server = tokio::spawn(hear(server.split().1));
    let first = soon("a ping", client_hears.next()).await.unwrap().unwrap();
    assert!(
        matches!(first, Message::Ping(_) | Message::Pong(_)),
        "{first}"
    );
    let client = tokio::spawn(hear(client_hears));
    for side in ["client", "server"] {
        proxy
            .until_metric_is("pings with answers", &round_trips(side), |count| {
                count >= 3.0
            })
            .await;
    }
    client_sends.close().await.unwrap();
    let (client, server) = tokio::join!(client, server);
    let own = match first {
        Message::Pong(payload) => vec![payload],
        _ => client.unwrap(),
    };
    assert_eq!(own, ["mine"]);
    assert!(server.unwrap().is_empty());
}

#[tokio::test]
async fn pings_to_the_server_alone_stay_between_it_and_the_proxy() {
    let (proxy, script) = start("server_ping_interval = \"300ms\"\npong_timeout = \"299ms\"").await;
    let (mut client, mut server) = Peer::pair(proxy.addr(0), "/", "", &script, None).await;
    for _ in 0..3 {
        let Heard::Ping(payload) = server.next().await else {
            panic!("no ping");
        };
        assert_eq!(payload.len(), 8);
        // Its own pong, one that nobody asked for, and a message.
        for (opcode, payload) in [
            (frame::PONG, payload.as_slice()),
            (frame::PONG, b"unasked"),
            (frame::TEXT, b"a"),
        ] {
            server.say(RawFrame::new(opcode, payload)).await.unwrap();
        }
        assert_eq!(client.next().await, Heard::Pong(b"unasked".to_vec()));
        let heard = client.next().await;
        assert!(
            matches!(&heard, Heard::Message(message) if message.data == b"a"),
            "{heard:?}"
        );
    }
    assert_eq!(proxy.metric(&round_trips("server")).await, Some(3.0));
    assert_eq!(proxy.metric(&round_trips("client")).await, None);
    for peer in [&mut client, &mut server] {
        peer.say(RawFrame::close(1000, "")).await.unwrap();
    }
    assert_eq!(
        client.next().await,
        Heard::Close(Some((1000, String::new())))
    );
}

#[tokio::test]
async fn a_side_that_answers_no_ping_is_left() {
    for side in ["client", "server"] {
        let rules = format!("{side}_ping_interval = \"100ms\"\npong_timeout = \"50ms\"");
        let (proxy, mut client, mut server) = tunnel(&rules).await;
        // The one that is asked reads nothing, so it answers nothing.
        let (asked, other) = match side {
            "client" => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        assert_eq!(told(other).await, (Vec::new(), 1001), "{side}");
        let (heard, code) = told(asked).await;
        assert_eq!(code, 1001, "{side}");
        assert!(
            matches!(heard.as_slice(), [Message::Ping(_)]),
            "{side}: {heard:?}"
        );
        recorded(&proxy, "pong_timeout").await;
    }
}

#[tokio::test]
async fn a_silent_side_is_left_however_much_the_other_says() {
    for (rules, limit) in [
        ("client_idle_timeout = \"200ms\"", "client_idle_timeout"),
        ("server_idle_timeout = \"200ms\"", "server_idle_timeout"),
        ("max_lifetime = \"200ms\"\nlifetime_jitter = 0", "lifetime"),
    ] {
        let started = Instant::now();
        let (proxy, mut client, mut server) = tunnel(rules).await;
        let (silent, talks) = match limit {
            "client_idle_timeout" => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        loop {
            // It may be closed already.
            let _ = talks.send(Message::text("still here")).await;
            match soon("a message", silent.next()).await.unwrap().unwrap() {
                Message::Text(_) => {}
                end => {
                    let Message::Close(Some(frame)) = end else {
                        panic!("{limit}: {end}");
                    };
                    assert_eq!(u16::from(frame.code), 1001, "{limit}");
                    silent.flush().await.unwrap();
                    break;
                }
            }
        }
        assert!(started.elapsed() >= Duration::from_millis(200), "{limit}");
        assert_eq!(told(talks).await, (Vec::new(), 1001), "{limit}");
        recorded(&proxy, limit).await;
    }
}

#[tokio::test]
async fn a_route_that_copies_bytes_counts_none_of_their_messages() {
    for (rules, counted) in [("follow = false", 0), ("", 1)] {
        let (proxy, mut client, mut server) = tunnel(rules).await;
        client.send(Message::text("hello")).await.unwrap();
        client.close(None).await.unwrap();
        assert_eq!(
            soon("a message", server.next()).await.unwrap().unwrap(),
            Message::text("hello")
        );
        // Answers the Close.
        while let Some(Ok(_)) = soon("the end", server.next()).await {}
        drop(server);
        while let Some(Ok(_)) = soon("the end", client.next()).await {}
        let line = close_line(&proxy).await;
        assert_eq!(line["messages_in"], counted, "{rules}");
        // A masked head of 6 bytes each, and the text.
        assert_eq!(line["bytes_in"], 6 + 5 + 6, "{rules}");
    }
}
