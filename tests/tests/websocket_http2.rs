//! WebSockets whose clients speak HTTP/2 (RFC 8441), before a server that speaks HTTP/1.1: what belongs to
//! this side alone. What holds between any two sides is in `websocket_matrix.rs`.

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;

use h2::Reason;
use http::Request;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::stream::Stream;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::Peer;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::wire::{self, Head};
use sluicegate_tests::{client, plugins, soon};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A proxy that speaks HTTP/2 without TLS; `more` goes on with the table of the route to the server.
async fn start(server: SocketAddr, more: &str) -> Proxy {
    Proxy::observed(&format!(
        r#"
        http2 = true
        [upstream.server]
        servers = ["{server}"]
        health = {{ fails = 60000 }}
        [[route]]
        path_exact = "/own"
        respond = {{ body = "own" }}
        [[route]]
        name = "sockets"
        path = "/ws/"
        to = "server"
        {more}
        "#
    ))
    .await
}

/// The server's end of the proxy's next connection, whose upgrade is answered.
async fn upgrade(script: &Script) -> (Head, TcpStream) {
    let mut server = script.accept().await;
    let head = wire::read_head(&mut server).await.unwrap();
    answer(&head, &mut server).await;
    (head, server)
}

async fn answer(head: &Head, server: &mut TcpStream) {
    let accept = derive_accept_key(head.get("sec-websocket-key").unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    server.write_all(answer.as_bytes()).await.unwrap();
}

/// Both ends of a tunnel.
async fn open(client: &Client, script: &Script) -> (Stream, TcpStream) {
    let (opened, (_, server)) = tokio::join!(client.open("/ws/", &[]), upgrade(script));
    let (head, stream) = opened.unwrap();
    assert_eq!(head.status(), 200);
    (stream, server)
}

fn from_client(text: &str) -> Vec<u8> {
    Frame::new(frame::TEXT, text).masked([1, 2, 3, 4]).encode()
}

fn from_server(text: &str) -> Vec<u8> {
    Frame::new(frame::TEXT, text).encode()
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    let read = soon("what was said", stream.read_exact(&mut got)).await;
    read.unwrap();
    assert!(got == bytes);
}

async fn expect_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    soon("the end", stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"");
}

async fn echo(client: &mut Stream, server: &mut TcpStream) {
    let (up, down) = (from_client("still there?"), from_server("still here"));
    client.write_all(&up).await.unwrap();
    expect(server, &up).await;
    server.write_all(&down).await.unwrap();
    expect(client, &down).await;
}

/// Says the same again and again, as its peer takes it.
async fn flood(mut stream: impl AsyncWrite + Unpin, frame: Arc<[u8]>, times: usize) {
    for _ in 0..times {
        stream.write_all(&frame).await.unwrap();
    }
    // Its end would be one of the tunnel.
    std::future::pending::<()>().await;
}

/// By now the proxy has seen everything that this client sent before, and nothing came of it here.
async fn expect_silence(client: &Client, server: &TcpStream) {
    assert_eq!(client.get("/own").await.unwrap().body, b"own");
    let peeked = SockRef::from(server).peek(&mut [MaybeUninit::uninit(); 1]);
    let kind = peeked.map_err(|error| error.kind());
    assert_eq!(kind, Err(std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn the_server_is_asked_in_http1_and_early_words_wait_for_its_answer() {
    let script = Script::new().await;
    let proxy = start(script.addr, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    assert!(client.announces_websocket());
    let mut keys = Vec::new();
    for _ in 0..2 {
        let request = client.websocket(
            "/ws/chat?room=1",
            &[
                ("sec-websocket-key", THEIR_KEY),
                ("sec-websocket-accept", "x"),
                ("sec-websocket-protocol", "chat"),
                ("origin", "https://a.test"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
            ],
        );
        let mut opening = client.begin(request).await.unwrap();
        let early = from_client("early");
        opening.outgoing.write_all(&early).await.unwrap();
        let mut server = script.accept().await;
        let head = wire::read_head(&mut server).await.unwrap();
        assert_eq!(head.start, "GET /ws/chat?room=1 HTTP/1.1");
        for (name, values) in [
            ("host", &["localhost"][..]),
            ("connection", &["Upgrade"]),
            ("upgrade", &["websocket"]),
            ("sec-websocket-version", &["13"]),
            ("sec-websocket-accept", &[]),
            ("sec-websocket-protocol", &["chat"]),
            ("origin", &["https://a.test"]),
            ("cookie", &["a=1; b=2"]),
            ("content-length", &[]),
            ("transfer-encoding", &[]),
        ] {
            assert_eq!(head.fields.all(name), values, "{name}");
        }
        keys.push(head.get("sec-websocket-key").unwrap().to_owned());
        expect_silence(&client, &server).await;
        answer(&head, &mut server).await;
        expect(&mut server, &early).await;
        let (head, mut stream) = opening.answered().await.unwrap();
        assert_eq!(head.status(), 200);
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert_eq!(head.headers().get(name), None, "{name}");
        }
        echo(&mut stream, &mut server).await;
    }
    assert_ne!(keys[0], keys[1]);
    assert!(!keys.contains(&THEIR_KEY.to_owned()));
}

#[tokio::test]
async fn a_refusal_is_an_answer_on_its_stream() {
    let script = Script::new().await;
    let proxy = start(script.addr, "origins = ['https://good.test']").await;
    let client = Client::plain(proxy.addr(0)).await;
    let good = ("origin", "https://good.test");
    let bare = |path: &str, fields: &[(&str, &str)]| client.connect("websocket", path, fields);
    let upright = |path: &str, fields: &[(&str, &str)]| client.websocket(path, fields);
    let refused: [(Request<()>, u16, &str); 10] = [
        (
            client.connect("webtransport", "/ws/1", &[good]),
            501,
            "unknown_protocol",
        ),
        (
            client.request("CONNECT", "/ws/2"),
            405,
            "method_not_allowed",
        ),
        (bare("/ws/3", &[good]), 426, "websocket_version"),
        (
            bare("/ws/4", &[good, ("sec-websocket-version", "8")]),
            426,
            "websocket_version",
        ),
        (
            upright("/ws/5", &[good, ("sec-websocket-protocol", "a, a")]),
            400,
            "websocket_subprotocol",
        ),
        (
            upright("/ws/6", &[good, ("content-length", "0")]),
            400,
            "websocket_with_body",
        ),
        (upright("/ws/7", &[]), 403, "origin"),
        (
            upright("/ws/8", &[("origin", "https://evil.test")]),
            403,
            "origin",
        ),
        (upright("/else", &[good]), 404, "no_route"),
        // There is no tunnel to begin, and a 200 would say so.
        (upright("/own", &[good]), 501, "no_websocket"),
    ];
    for (request, status, label) in refused {
        let path = request.uri().path().to_owned();
        let (head, mut stream) = client
            .begin(request)
            .await
            .unwrap()
            .answered()
            .await
            .unwrap();
        assert_eq!(head.status(), status, "{path}");
        let version = head.headers().get("sec-websocket-version");
        assert_eq!(version.is_some(), status == 426, "{path}");
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        assert!(body.starts_with(&status.to_string()), "{path}: {body}");
        // An ordinary CONNECT has no path.
        let its_own = |line: &serde_json::Value| match status {
            405 => line["status"] == 405,
            _ => line["path"] == path,
        };
        let line = proxy.access_event("request", its_own).await;
        assert_eq!(line["refused"], label, "{path}");
        assert_eq!(line["status"], status, "{path}");
        assert_eq!(line["method"], "CONNECT", "{path}");
        assert_eq!(line["protocol"], "HTTP/2", "{path}");
    }
    assert!(!script.was_contacted().await);
    let fields = [good];
    let (opened, (_, mut server)) = tokio::join!(client.open("/ws/", &fields), upgrade(&script));
    echo(&mut opened.unwrap().1, &mut server).await;
}

#[tokio::test]
async fn what_the_server_says_instead_passes_unless_it_would_begin_a_tunnel() {
    let script = Script::new().await;
    let proxy = start(script.addr, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    for (said, expected, body) in [
        (
            "403 Forbidden\r\nX-Why: no\r\nContent-Length: 4",
            403,
            "gone",
        ),
        (
            "302 Found\r\nLocation: /in\r\nContent-Length: 4",
            302,
            "gone",
        ),
        ("200 OK\r\nContent-Length: 4", 502, "502 "),
        ("204 No Content", 502, "502 "),
        // Without an accept.
        (
            "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket",
            502,
            "502 ",
        ),
    ] {
        let answering = async {
            let mut server = script.accept().await;
            wire::read_head(&mut server).await.unwrap();
            let answer = format!("HTTP/1.1 {said}\r\n\r\ngone");
            server.write_all(answer.as_bytes()).await.unwrap();
            server
        };
        let (opened, mut server) = tokio::join!(client.open("/ws/", &[]), answering);
        let (head, mut stream) = opened.unwrap();
        assert_eq!(head.status(), expected, "{said}");
        assert_eq!(head.headers().contains_key("x-why"), expected == 403);
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        assert!(got.starts_with(body), "{said}: {got}");
        // That connection is no use to anybody else.
        client::read_to_end(&mut server).await;
    }
    let line = proxy.access_event("request", |line| line["status"] == 502);
    assert_eq!(line.await["refused"], "upstream_status");
}

/// A route that guards handshakes guards all of them.
#[tokio::test]
async fn it_meets_the_route_that_an_upgrade_meets() {
    let script = Script::new().await;
    let more = "
        [[route]]
        path = '/guarded/'
        match_headers = { upgrade = 'websocket', connection = '~(?i)upgrade', sec-websocket-key = '*' }
        origins = ['https://good.test']
        to = 'server'
        [[route]]
        path = '/guarded/'
        respond = { body = 'anybody' }";
    let proxy = start(script.addr, more).await;
    let client = Client::plain(proxy.addr(0)).await;
    let page = client.get("/guarded/").await.unwrap();
    assert_eq!(page.body, b"anybody");
    let refused = Peer::connect(proxy.addr(0), "/guarded/", "").await;
    assert_eq!(refused.err().unwrap().status(), 403);
    for fields in [&[][..], &[("sec-websocket-accept", "x")]] {
        let (head, _) = client.open("/guarded/", fields).await.unwrap();
        assert_eq!(head.status(), 403);
    }
    assert!(!script.was_contacted().await);
    let fields = [("origin", "https://good.test")];
    let (opened, (_, mut server)) =
        tokio::join!(client.open("/guarded/", &fields), upgrade(&script));
    echo(&mut opened.unwrap().1, &mut server).await;
}

#[tokio::test]
async fn a_filter_refuses_and_lets_in() {
    let script = Script::new().await;
    let wasm = plugins::wasm("sluicegate-api-key");
    let more = format!(
        "plugins = ['keys']\n[plugin.keys]\nwasm = '{}'\nconfig = {{ keys = {{ ci = 's3cret' }} }}",
        wasm.display()
    );
    let proxy = start(script.addr, &more).await;
    let client = Client::plain(proxy.addr(0)).await;
    let (head, _) = client
        .open("/ws/", &[("x-api-key", "guess")])
        .await
        .unwrap();
    assert_eq!(head.status(), 403);
    assert!(!script.was_contacted().await);
    let allowed = client.open("/ws/", &[("x-api-key", "s3cret")]);
    let (opened, (seen, mut server)) = tokio::join!(allowed, upgrade(&script));
    assert_eq!(seen.get("x-consumer"), Some("ci"));
    echo(&mut opened.unwrap().1, &mut server).await;
}

#[tokio::test]
async fn an_end_with_the_close_waits_for_the_servers_answer() {
    for rules in ["", "message_size = '1MiB'", "follow = false"] {
        let script = Script::new().await;
        let proxy = start(script.addr, rules).await;
        let client = Client::plain(proxy.addr(0)).await;
        let (mut stream, mut server) = open(&client, &script).await;
        echo(&mut stream, &mut server).await;
        let close = Frame::close(1000, "bye").masked([5, 6, 7, 8]).encode();
        // As browsers do.
        stream.outgoing.finish_with(&close);
        expect(&mut server, &close).await;
        expect_silence(&client, &server).await;
        let answer = Frame::close(1000, "").encode();
        server.write_all(&answer).await.unwrap();
        server.shutdown().await.unwrap();
        expect(&mut stream, &answer).await;
        expect_end(&mut stream).await;
        expect_end(&mut server).await;
        let line = proxy.access_event("ws.close", |_| true).await;
        assert_eq!(line["closed_by"], "client", "{rules}");
        let (cause, code) = match rules {
            "follow = false" => ("eof", serde_json::Value::Null),
            _ => ("close", 1000.into()),
        };
        assert_eq!(
            (&line["cause"], &line["close_code"]),
            (&cause.into(), &code)
        );
    }
}

#[tokio::test]
async fn a_reset_is_the_end_of_one_socket() {
    let script = Script::new().await;
    let proxy = start(script.addr, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    let (mut staying, mut its_server) = open(&client, &script).await;
    for (reason, close, cause) in [
        (Reason::CANCEL, false, "reset"),
        (Reason::INTERNAL_ERROR, false, "reset"),
        (Reason::CANCEL, true, "close"),
    ] {
        let (mut stream, mut server) = open(&client, &script).await;
        echo(&mut stream, &mut server).await;
        if close {
            let close = Frame::close(1001, "").masked([5, 6, 7, 8]).encode();
            stream.write_all(&close).await.unwrap();
            expect(&mut server, &close).await;
        }
        stream.outgoing.reset(reason);
        expect_end(&mut server).await;
        let line = proxy.access_event("ws.close", |line| {
            line["cause"] == cause && line["close_code"].is_number() == close
        });
        assert_eq!(line.await["closed_by"], "client");
        echo(&mut staying, &mut its_server).await;
    }
    let (mut stream, server) = open(&client, &script).await;
    SockRef::from(&server)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(server);
    assert_eq!(stream.outgoing.was_reset().await, Reason::CANCEL);
    let line = proxy.access_event("ws.close", |line| line["closed_by"] == "upstream");
    assert_eq!(line.await["cause"], "reset");
    echo(&mut staying, &mut its_server).await;
}

#[tokio::test]
async fn logs_and_metrics_say_what_was_sent() {
    let script = Script::new().await;
    let proxy = start(script.addr, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    let (mut stream, mut server) = open(&client, &script).await;
    echo(&mut stream, &mut server).await;
    let sockets = r#"sluicegate_websockets_open{route="sockets",http_version="2"}"#;
    proxy.until_metric(sockets, 1.0).await;
    stream.shutdown().await.unwrap();
    expect_end(&mut server).await;
    drop(server);
    expect_end(&mut stream).await;
    let opened = proxy.access_event("ws.open", |_| true).await;
    assert_eq!(opened["status"], 200);
    let closed = proxy.access_event("ws.close", |_| true).await;
    for line in [&opened, &closed] {
        assert_eq!(line["method"], "CONNECT");
        assert_eq!(line["protocol"], "HTTP/2");
        assert_eq!(line["upstream_protocol"], "HTTP/1.1");
        assert_eq!(line["path"], "/ws/");
        assert_eq!(line["route"], "sockets");
    }
    assert_eq!(closed["messages_in"], 1);
    assert_eq!(closed["messages_out"], 1);
    assert_eq!(closed["cause"], "eof");
    proxy.until_metric(sockets, 0.0).await;
    let accepted =
        r#"sluicegate_handshakes_total{route="sockets",http_version="2",result="accepted"}"#;
    proxy.until_metric(accepted, 1.0).await;
}

#[tokio::test]
async fn readers_that_stand_still_hold_up_nobody_else_and_little_memory() {
    const STALLED: usize = 20;
    // Beyond what the kernel's buffers take.
    const FRAMES: usize = 32;
    let script = Script::new().await;
    let proxy = start(script.addr, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    let frame = Frame::new(frame::BINARY, vec![7; 1 << 20]);
    let up: Arc<[u8]> = frame.clone().masked([0; 4]).encode().into();
    let down: Arc<[u8]> = frame.encode().into();
    let before = proxy.resident_kib();
    let mut readers = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..STALLED {
        let (stream, server) = open(&client, &script).await;
        writers.push(tokio::spawn(flood(server, Arc::clone(&down), FRAMES)));
        readers.push(stream);
    }
    let mut silent = Vec::new();
    for _ in 0..STALLED {
        let (stream, server) = open(&client, &script).await;
        writers.push(tokio::spawn(flood(stream, Arc::clone(&up), FRAMES)));
        silent.push(server);
    }
    let (mut stream, mut server) = open(&client, &script).await;
    for _ in 0..100 {
        echo(&mut stream, &mut server).await;
    }
    let grown = proxy.resident_kib().saturating_sub(before);
    // Of each what a window, h2's queue and one read can hold, not the megabytes.
    assert!(grown < 2 * STALLED as u64 * 512, "{grown} KiB");
    for _ in 0..FRAMES {
        expect(&mut readers[0], &down).await;
    }
    for _ in 0..FRAMES {
        expect(&mut silent[0], &up).await;
    }
    echo(&mut stream, &mut server).await;
}

#[tokio::test]
async fn a_socket_counts_as_a_connection_of_its_client() {
    let script = Script::new().await;
    let proxy = start(script.addr, "[limits]\nconnections_per_client = 3").await;
    let client = Client::plain(proxy.addr(0)).await;
    let (first, server) = open(&client, &script).await;
    let (mut second, mut its_server) = open(&client, &script).await;
    let (head, _) = client.open("/ws/", &[]).await.unwrap();
    assert_eq!(head.status(), 503);
    assert!(!script.was_contacted().await);
    let full = |line: &serde_json::Value| line["refused"] == "connections_per_client";
    assert_eq!(proxy.access_event("request", full).await["status"], 503);
    // Requests of the same connection are none.
    assert_eq!(client.get("/own").await.unwrap().body, b"own");
    drop((first, server));
    proxy.access_event("ws.close", |_| true).await;
    let (mut third, mut its_own) = open(&client, &script).await;
    echo(&mut second, &mut its_server).await;
    echo(&mut third, &mut its_own).await;
}

#[tokio::test]
async fn a_connection_with_a_socket_is_not_idle() {
    let script = Script::new().await;
    let proxy = start(script.addr, "[timeouts]\nkeep_alive = '300ms'").await;
    let mut client = Client::plain(proxy.addr(0)).await;
    let (mut stream, mut server) = open(&client, &script).await;
    // Another one that is idle from later on is told to go.
    let mut idle = Client::plain(proxy.addr(0)).await;
    assert_eq!(idle.get("/own").await.unwrap().body, b"own");
    idle.told_to_go().await;
    assert_eq!(client.goaways(), 0);
    echo(&mut stream, &mut server).await;
    drop((stream, server));
    client.told_to_go().await;
}

#[tokio::test]
async fn a_listener_may_leave_websockets_to_http1() {
    let script = Script::new().await;
    let proxy = Proxy::start(&format!(
        "[[listener]]\nbind = '127.0.0.1:0'\nhttp2 = {{ enabled = true, websocket = false }}\n\
         [[route]]\nto = '{}'\n",
        script.addr
    ))
    .await;
    let client = Client::plain(proxy.addr(0)).await;
    assert!(!client.announces_websocket());
    let refused = client.open("/", &[]).await.map(|(head, _)| head.status());
    assert!(refused.is_err(), "{refused:?}");
    assert!(!script.was_contacted().await);
}

/// `not the server's`, as a client that speaks HTTP/1.1 would send it.
const THEIR_KEY: &str = "bm90IHRoZSBzZXJ2ZXIncw==";
