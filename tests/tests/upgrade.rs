//! The opening handshake, strict on both sides, and the bytes around it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::client::{self, exchange, read_to_end, tcp};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::wire::{self, Head};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// `hi`, masked with zeros.
const HI: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// `ho`, from a server.
const HO: &[u8] = &[0x81, 0x02, b'h', b'o'];

fn handshake_with(fields: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
    )
}

/// The answer that a right server gives, with these fields more.
fn accepted_with(fields: &str) -> String {
    let accept = derive_accept_key(KEY.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    )
}

/// Sends a handshake and gives it to the upstream.
async fn ask(proxy: &Proxy, upstream: &Script, request: &str) -> (TcpStream, TcpStream, Head) {
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    let seen = wire::read_head(&mut server).await.unwrap();
    (client, server, seen)
}

/// A tunnel between two bare sockets.
async fn tunnel(proxy: &Proxy, upstream: &Script) -> (TcpStream, TcpStream) {
    let (mut client, mut server, _) = ask(proxy, upstream, &handshake_with("")).await;
    let answer = accepted_with("");
    server.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 101);
    (client, server)
}

async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    soon("the bytes", stream.read_exact(&mut bytes))
        .await
        .unwrap();
    bytes
}

#[tokio::test]
async fn a_malformed_handshake_reaches_no_upstream() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let good = handshake_with("");
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let key = |value: &str| change(KEY, value);
    for (name, request, status) in [
        ("POST", change("GET", "POST"), 400),
        ("PUT", change("GET", "PUT"), 400),
        ("HEAD", change("GET", "HEAD"), 400),
        ("OPTIONS", change("GET", "OPTIONS"), 400),
        ("HTTP/1.0", change("HTTP/1.1", "HTTP/1.0"), 400),
        (
            "a body",
            handshake_with("Content-Length: 2\r\n") + "ab",
            400,
        ),
        (
            "a chunked body",
            handshake_with("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            400,
        ),
        (
            "a request as its body",
            handshake_with("Content-Length: 32\r\n") + "GET /next HTTP/1.1\r\nHost: b\r\n\r\n",
            400,
        ),
        ("no Connection", change("Connection: Upgrade\r\n", ""), 400),
        (
            "an option like it",
            change("Connection: Upgrade", "Connection: upgrades, \"upgrade\""),
            400,
        ),
        (
            "other Connection",
            change("Connection: Upgrade", "Connection: keep-alive"),
            400,
        ),
        (
            "two protocols",
            change("Upgrade: websocket", "Upgrade: websocket, h2c"),
            400,
        ),
        (
            "two protocols, the other first",
            change("Upgrade: websocket", "Upgrade: h2c, websocket"),
            400,
        ),
        (
            "a protocol's version",
            change("Upgrade: websocket", "Upgrade: websocket/13"),
            400,
        ),
        ("two fields", handshake_with("Upgrade: h2c\r\n"), 400),
        (
            "twice the same",
            handshake_with("Upgrade: websocket\r\n"),
            400,
        ),
        (
            "no key",
            change(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""),
            400,
        ),
        (
            "two keys",
            handshake_with(&format!("Sec-WebSocket-Key: {KEY}\r\n")),
            400,
        ),
        ("empty key", key(""), 400),
        ("short key", key("dGhlIHNhbXBsZSBub25j"), 400),
        ("long key", key("dGhlIHNhbXBsZSBub25jZTEyMzQ="), 400),
        ("no base64", key("dGhlIHNhbXBsZSBub25jZ!=="), 400),
        ("unpadded key", key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        (
            "another spelling of it",
            key("dGhlIHNhbXBsZSBub25jZR=="),
            400,
        ),
        ("a blank in it", key("dGhlIHNhbXBsZSBub25j Q=="), 400),
        ("another alphabet", key("dGhlIHNhbXBsZSBub-_jZQ=="), 400),
        (
            "no version",
            change("Sec-WebSocket-Version: 13\r\n", ""),
            426,
        ),
        ("version 8", change("Version: 13", "Version: 8"), 426),
        ("versions", change("Version: 13", "Version: 13, 8"), 426),
        (
            "two lines of them",
            handshake_with("Sec-WebSocket-Version: 8\r\n"),
            426,
        ),
        ("version 013", change("Version: 13", "Version: 013"), 426),
        ("no number", change("Version: 13", "Version: "), 426),
        (
            "bad subprotocol",
            handshake_with("Sec-WebSocket-Protocol: a b\r\n"),
            400,
        ),
        (
            "subprotocol twice",
            handshake_with("Sec-WebSocket-Protocol: a, a\r\n"),
            400,
        ),
        (
            "empty subprotocol",
            handshake_with("Sec-WebSocket-Protocol: \r\n"),
            400,
        ),
        (
            "bad extension",
            handshake_with("Sec-WebSocket-Extensions: a;=\r\n"),
            400,
        ),
        (
            "window bits out of range",
            handshake_with(
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=16\r\n",
            ),
            400,
        ),
    ] {
        // Bytes after it are no next request.
        let request = request + "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = exchange(proxy.addr(0), request.as_bytes()).await;
        let text = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert_eq!(text.matches("http/1.").count(), 1, "{name}: {text}");
        assert_eq!(&text[9..12], status.to_string(), "{name}: {text}");
        let names_version = text.contains("sec-websocket-version: 13\r\n");
        assert_eq!(names_version, status == 426, "{name}: {text}");
        let names_protocol = text.contains("upgrade: websocket\r\n");
        assert_eq!(names_protocol, status == 426, "{name}: {text}");
        let options = match status {
            426 => "connection: close, upgrade\r\n",
            _ => "connection: close\r\n",
        };
        assert!(text.contains(options), "{name}: {text}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn a_handshake_arrives_as_it_was_meant() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let request = handshake_with("Origin: https://x.example\r\nCookie: a=b\r\n")
        .replace("Upgrade: websocket", "Upgrade: WebSocket")
        .replace("Connection: Upgrade", "Connection: keep-alive, upgrade");
    let (_client, _server, seen) = ask(&proxy, &upstream, &request).await;
    assert_eq!(seen.start, "GET /ws HTTP/1.1");
    for (name, value) in [
        ("host", "a"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("origin", "https://x.example"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(seen.fields.all(name), [value], "{name}");
    }
}

#[tokio::test]
async fn an_upstream_that_answers_wrongly_gives_502() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let request = handshake_with(
        "Sec-WebSocket-Protocol: chat, news\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10\r\n",
    );
    let good = accepted_with("");
    let accept = derive_accept_key(KEY.as_bytes());
    let change = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let extension = |value: &str| accepted_with(&format!("Sec-WebSocket-Extensions: {value}\r\n"));
    for (name, answer) in [
        (
            "wrong accept",
            change(&accept, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ),
        ("the key itself", change(&accept, KEY)),
        (
            "no accept",
            change(&format!("Sec-WebSocket-Accept: {accept}\r\n"), ""),
        ),
        (
            "accept twice",
            accepted_with(&format!("Sec-WebSocket-Accept: {accept}\r\n")),
        ),
        ("no Upgrade", change("Upgrade: websocket\r\n", "")),
        ("Upgrade twice", accepted_with("Upgrade: websocket\r\n")),
        ("HTTP/1.0", change("HTTP/1.1", "HTTP/1.0")),
        (
            "another accept beside it",
            accepted_with("Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"),
        ),
        (
            "accept in lower case",
            change(&accept, &accept.to_lowercase()),
        ),
        (
            "a length and an encoding",
            accepted_with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
        ),
        ("a bare LF", change("Upgrade\r\n", "Upgrade\n")),
        (
            "other protocol",
            change("Upgrade: websocket", "Upgrade: h2c"),
        ),
        (
            "two protocols",
            change("Upgrade: websocket", "Upgrade: websocket, h2c"),
        ),
        ("no Connection", change("Connection: Upgrade\r\n", "")),
        (
            "other Connection",
            change("Connection: Upgrade", "Connection: close"),
        ),
        (
            "foreign subprotocol",
            accepted_with("Sec-WebSocket-Protocol: mail\r\n"),
        ),
        (
            "two subprotocols",
            accepted_with("Sec-WebSocket-Protocol: chat, news\r\n"),
        ),
        (
            "other case",
            accepted_with("Sec-WebSocket-Protocol: Chat\r\n"),
        ),
        ("foreign extension", extension("x-snappy")),
        (
            "extension twice",
            extension("permessage-deflate, permessage-deflate"),
        ),
        ("foreign parameter", extension("permessage-deflate; x=1")),
        (
            "window too large",
            extension("permessage-deflate; client_max_window_bits=12"),
        ),
        (
            "no window",
            extension("permessage-deflate; server_max_window_bits=7"),
        ),
        ("no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n".to_owned()),
        ("nothing", String::new()),
    ] {
        let (mut client, mut server, _) = ask(&proxy, &upstream, &request).await;
        server.write_all(answer.as_bytes()).await.unwrap();
        if answer.is_empty() {
            server.shutdown().await.unwrap();
        }
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 502, "{name}");
        assert_eq!(read_to_end(&mut client).await, b"", "{name}");
        assert_eq!(read_to_end(&mut server).await, b"", "{name}");
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_gives_502() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        handshake_with("").replace("Upgrade: websocket", "Upgrade: h2c"),
    ] {
        let (mut client, mut server, _) = ask(&proxy, &upstream, &request).await;
        server
            .write_all(accepted_with("").as_bytes())
            .await
            .unwrap();
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 502);
        assert_eq!(read_to_end(&mut server).await, b"", "not kept");
    }
}

#[tokio::test]
async fn other_protocols_are_not_upgraded_to() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for protocol in ["h2c", "TLS/1.0", "h2c, foo"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        );
        let (mut client, mut server, seen) = ask(&proxy, &upstream, &request).await;
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(seen.get(name), None, "{protocol}");
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        server.write_all(answer).await.unwrap();
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 200);
    }
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_response_and_its_connection_is_closed() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for status in [
        "200 OK",
        "302 Found",
        "401 Unauthorized",
        "404 Not Found",
        "426 Upgrade Required",
        "503 Service Unavailable",
    ] {
        // What the client sent on trust must not become the upstream's next request.
        let request = handshake_with("") + "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let (mut client, mut server, _) = ask(&proxy, &upstream, &request).await;
        // Nor is what follows the answer the client's to see.
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: 4\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\r\nbodyHTTP/1.1 200 OK\r\n\r\nmore"
        );
        server.write_all(answer.as_bytes()).await.unwrap();
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.start, format!("HTTP/1.1 {status}"));
        assert_eq!(answer.head.get("sec-websocket-version"), Some("13"));
        let names_protocol = answer.head.get("upgrade") == Some("websocket");
        assert_eq!(names_protocol, status.starts_with("426"), "{status}");
        assert_eq!(answer.body, b"body");
        assert_eq!(read_to_end(&mut client).await, b"", "{status}: closed");
        assert_eq!(read_to_end(&mut server).await, b"", "{status}: closed");
    }
    // A request after that has a connection of its own.
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (_client, _server, seen) = ask(&proxy, &upstream, plain).await;
    assert_eq!(seen.target(), "/");
}

#[tokio::test]
async fn bytes_right_behind_the_request_wait_for_the_101() {
    let upstream = Script::new().await;
    let pages = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        &format!("[[route]]\npath = \"/pages/\"\nto = \"{}\"\n", pages.addr),
    )
    .await;
    let mut client = tcp(proxy.addr(0)).await;
    let request = [handshake_with("").as_bytes(), HI].concat();
    client.write_all(&request).await.unwrap();
    let mut server = upstream.accept().await;
    wire::read_head(&mut server).await.unwrap();
    client.write_all(HI).await.unwrap();
    // The one worker serves others meanwhile, so it has had every chance to send them.
    for _ in 0..3 {
        assert_eq!(client::get(proxy.addr(0), "/pages/").await.0.status, 200);
    }
    let nothing = server.try_read(&mut [0; 64]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    server
        .write_all(accepted_with("").as_bytes())
        .await
        .unwrap();
    assert_eq!(receive(&mut server, 2 * HI.len()).await, [HI, HI].concat());
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 101);
}

#[tokio::test]
async fn bytes_right_behind_the_101_are_not_lost() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let (mut client, mut server, _) = ask(&proxy, &upstream, &handshake_with("")).await;
    let many = HO.repeat(10_000);
    let answer = [accepted_with("").as_bytes(), &many].concat();
    server.write_all(&answer).await.unwrap();
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 101);
    assert!(receive(&mut client, many.len()).await == many);
}

#[tokio::test]
async fn a_handshake_in_two_pieces_is_the_same_handshake() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let request = [handshake_with("").as_bytes(), HI].concat();
    let answer = [accepted_with("").as_bytes(), HO].concat();
    for cut in 1..request.len().max(answer.len()) {
        let mut client = tcp(proxy.addr(0)).await;
        let (first, second) = request.split_at(cut.min(request.len()));
        client.write_all(first).await.unwrap();
        client.write_all(second).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_head(&mut server).await.unwrap();
        let (first, second) = answer.split_at(cut.min(answer.len()));
        server.write_all(first).await.unwrap();
        server.write_all(second).await.unwrap();
        let head = wire::read_head(&mut client).await.unwrap();
        assert_eq!(head.status(), 101, "cut at {cut}");
        assert_eq!(receive(&mut client, HO.len()).await, HO, "cut at {cut}");
        assert_eq!(receive(&mut server, HI.len()).await, HI, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_101_has_no_body_whatever_it_says() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for fields in ["Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n"] {
        let (mut client, mut server, _) = ask(&proxy, &upstream, &handshake_with("")).await;
        let answer = [accepted_with(fields).as_bytes(), HO].concat();
        server.write_all(&answer).await.unwrap();
        let head = wire::read_head(&mut client).await.unwrap();
        assert_eq!(head.status(), 101, "{fields}");
        for name in ["content-length", "transfer-encoding"] {
            assert_eq!(head.get(name), None, "{fields}");
        }
        assert_eq!(receive(&mut client, HO.len()).await, HO, "{fields}");
    }
}

#[tokio::test]
async fn an_upgrade_to_nothing_that_is_known_is_a_plain_request_with_its_body() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for protocol in ["h2c", "totally-made-up/1.0", "TLS/1.2, h2c"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 4\r\n\r\n\
             PRI PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        );
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        let seen = wire::read_request(&mut server).await.unwrap();
        assert_eq!(seen.body, b"PRI ", "{protocol}");
        assert_eq!(seen.head.get("upgrade"), None, "{protocol}");
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 200, "{protocol}");
        // The preface is no request of HTTP/1.1 any more.
        let rest = read_to_end(&mut client).await;
        assert!(rest.starts_with(b"HTTP/1.1 505 "), "{protocol}");
    }
}

#[tokio::test]
async fn a_handshake_that_the_proxy_answers_itself_is_the_last_request() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "path = \"/other\"\n[[route]]\npath = \"/ws\"\nrespond = { body = \"here\" }\n",
    )
    .await;
    for (path, status) in [("/ws", "200"), ("/none", "404")] {
        let request = handshake_with("").replace("/ws", path);
        let request = request + "GET /other HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = exchange(proxy.addr(0), request.as_bytes()).await;
        let text = String::from_utf8(answer).unwrap();
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{text}");
        assert_eq!(&text[9..12], status);
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn an_interim_response_may_precede_the_101() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let (mut client, mut server, _) = ask(&proxy, &upstream, &handshake_with("")).await;
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
    let answer = interim.to_owned() + &accepted_with("");
    server.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 103);
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 101);
    client.write_all(HI).await.unwrap();
    assert_eq!(receive(&mut server, HI.len()).await, HI);
}

#[tokio::test]
async fn an_upstream_that_never_answers_the_handshake_gives_504() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "response_head = \"300ms\"\n").await;
    let (mut client, mut server, _) = ask(&proxy, &upstream, &handshake_with("")).await;
    let answer = wire::read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 504);
    assert_eq!(read_to_end(&mut server).await, b"");
}

#[tokio::test]
async fn only_listed_origins_may_open_a_websocket() {
    let echo = Upstream::echoing("echo").await;
    let proxy = Proxy::in_front_of(
        echo.addr,
        "origins = [\"https://app.example.com\", \"https://*.trusted.example\"]\n",
    )
    .await;
    for (origin, allowed) in [
        ("Origin: https://app.example.com\r\n", true),
        ("Origin: https://APP.example.com\r\n", true),
        ("Origin: https://app.example.com:443\r\n", true),
        ("Origin: https://x.trusted.example\r\n", true),
        ("Origin: http://app.example.com\r\n", false),
        ("Origin: https://app.example.com:8443\r\n", false),
        ("Origin: https://app.example.com.evil.example\r\n", false),
        (
            "Origin: https://evil.example/https://app.example.com\r\n",
            false,
        ),
        ("Origin: https://trusted.example\r\n", false),
        ("Origin: https://eviltrusted.example\r\n", false),
        ("Origin: null\r\n", false),
        (
            "Origin: https://app.example.com\r\nOrigin: https://evil.example\r\n",
            false,
        ),
        ("", false),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let request = handshake_with(origin);
        client.write_all(request.as_bytes()).await.unwrap();
        let head = wire::read_head(&mut client).await.unwrap();
        assert_eq!(head.status(), if allowed { 101 } else { 403 }, "{origin}");
    }
}

#[tokio::test]
async fn a_subprotocol_is_negotiated_through() {
    let echo = Upstream::echoing("echo").await;
    let proxy = Proxy::in_front_of(echo.addr, "").await;
    let request = client::ws_request(
        "ws://localhost/ws",
        &[("sec-websocket-protocol", "chat, news")],
    );
    let stream = tcp(proxy.addr(0)).await;
    let (mut socket, answer) = client::websocket(stream, request).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    socket.send("hello".into()).await.unwrap();
    let echoed = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echoed.to_text().unwrap(), "hello");
}

#[tokio::test]
async fn compression_is_negotiated_through_and_its_frames_pass() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let offer = "permessage-deflate; client_max_window_bits";
    let request = handshake_with(&format!("Sec-WebSocket-Extensions: {offer}\r\n"));
    let (mut client, mut server, seen) = ask(&proxy, &upstream, &request).await;
    assert_eq!(seen.get("sec-websocket-extensions"), Some(offer));
    let chosen = "permessage-deflate; client_max_window_bits=12";
    let answer = accepted_with(&format!("Sec-WebSocket-Extensions: {chosen}\r\n"));
    server.write_all(answer.as_bytes()).await.unwrap();
    let head = wire::read_head(&mut client).await.unwrap();
    assert_eq!(head.get("sec-websocket-extensions"), Some(chosen));
    // `Hello` of RFC 7692 §7.2.3.1.
    let hello = [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    server.write_all(&hello).await.unwrap();
    assert_eq!(receive(&mut client, hello.len()).await, hello);
}

#[tokio::test]
async fn the_end_of_either_side_reaches_the_other_at_once() {
    let upstream = Script::new().await;
    for level in ["follow = false", "", "message_size = \"1MiB\""] {
        let proxy = Proxy::in_front_of(upstream.addr, level).await;
        for client_ends in [true, false] {
            for reset in [false, true] {
                let (mut client, mut server) = tunnel(&proxy, &upstream).await;
                client.write_all(HI).await.unwrap();
                assert_eq!(receive(&mut server, HI.len()).await, HI);
                let (ending, mut other) = match client_ends {
                    true => (client, server),
                    false => (server, client),
                };
                if reset {
                    let linger = Some(Duration::ZERO);
                    SockRef::from(&ending).set_linger(linger).unwrap();
                }
                drop(ending);
                let case = format!("`{level}`, client: {client_ends}, reset: {reset}");
                let end = timeout(Duration::from_secs(2), read_to_end(&mut other)).await;
                let said = end.unwrap_or_else(|_| panic!("no end within two seconds: {case}"));
                // Who reads messages says with a Close that there is no more.
                assert!(said.is_empty() || level.starts_with("message"), "{case}");
            }
        }
    }
}
