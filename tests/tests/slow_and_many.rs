//! Slow, many, big: slow heads, bodies and TLS handshakes are cut at their timeouts, also those that move a byte
//! now and then; who is slow for somebody else's sake is not. A slow reader of a busy socket: bounded memory,
//! back-pressure to the other side.
//!
//! Out of descriptors, and the limits of connections: `limits.rs`. 20 MiB both ways: `http1_messages.rs`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::client::{self, read_to_end, tcp};
use sluicegate_tests::http2::{
    DATA, END_STREAM, HEADERS, RST_STREAM, WINDOW_UPDATE, frame, headers, read_frame,
};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::wire::{self, read_response};
use sluicegate_tests::{soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{interval, timeout};

/// One route to `server`; HTTP/2 is spoken too.
async fn start(server: std::net::SocketAddr, timeouts: &str, limits: &str) -> Proxy {
    Proxy::observed(&format!(
        r#"
        http2 = true
        [timeouts]
        {timeouts}
        [limits]
        {limits}
        [[route]]
        to = "{server}"
        [[route]]
        path = "/patient/"
        to = "{server}"
        body_rate = "1B"
        "#
    ))
    .await
}

/// Sends a byte of `bytes` every 50 ms, again and again, until something comes back or the stream ends.
async fn trickle(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> Duration {
    let began = Instant::now();
    let mut pace = interval(BEAT);
    let mut heard = [0; 1];
    let trickling = async {
        for byte in bytes.iter().cycle() {
            tokio::select! {
                _ = stream.read(&mut heard) => return,
                _ = pace.tick() => {}
            }
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    };
    soon("an end of the trickle", trickling).await;
    began.elapsed()
}

/// As [`trickle`], with the answer that comes of it.
async fn answered(stream: &mut TcpStream, bytes: &[u8]) -> (Duration, String) {
    let mut pace = interval(BEAT);
    let began = Instant::now();
    let answering = async {
        for byte in bytes.iter().cycle() {
            tokio::select! {
                answer = stream.readable() => {
                    answer.unwrap();
                    return;
                }
                _ = pace.tick() => {}
            }
            stream.write_all(&[*byte]).await.unwrap();
        }
    };
    soon("an answer to the trickle", answering).await;
    let took = began.elapsed();
    (took, String::from_utf8(read_to_end(stream).await).unwrap())
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() {
    let upstream = Script::new().await;
    let proxy = start(upstream.addr, "request_head = '600ms'", "").await;
    for (name, first, rest) in [
        ("target", "GET /", "a"),
        ("field", "GET / HTTP/1.1\r\nHost: a\r\nX: ", "a"),
        ("fields", "GET / HTTP/1.1\r\nHost: a\r\n", "X: a\r\n"),
        ("blank lines", "", "\r\n"),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(first.as_bytes()).await.unwrap();
        let (took, answer) = answered(&mut client, rest.as_bytes()).await;
        // More than one blank line before a request is refused for itself.
        let expect = match name {
            "blank lines" => "HTTP/1.1 400 ",
            _ => "HTTP/1.1 408 ",
        };
        assert!(answer.starts_with(expect), "{name}: {answer}");
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
    }
    assert!(!upstream.was_contacted().await);
    let timeouts = r#"sluicegate_requests_rejected_total{reason="request_head_timeout"}"#;
    assert_eq!(proxy.metric(timeouts).await, Some(3.0));
}

#[tokio::test]
async fn a_head_over_http2_that_comes_byte_by_byte_has_one_deadline_too() {
    let upstream = Script::new().await;
    let proxy = start(upstream.addr, "request_head = '600ms'", "").await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let settings = frame(4, 0, 0, b"");
    // A header that the table has, again and again in one endless block.
    let endless = [
        &frame(HEADERS, 0, 1, &[0x82])[..],
        &[0, 0x40, 0, 9, 4, 0, 0, 0, 1],
    ]
    .concat();
    for (name, first) in [
        ("preface", &preface[..20]),
        ("settings", &[preface, &settings[..5]].concat()),
        ("block", &[preface, &settings, &endless[..]].concat()),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(first).await.unwrap();
        let reading = async {
            let mut pace = interval(BEAT);
            let mut heard = vec![0; 1024];
            loop {
                tokio::select! {
                    read = client.read(&mut heard) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    },
                    // More of the block; the others just stop.
                    _ = pace.tick() => if name == "block" {
                        let _ = client.write_all(&[0x82]).await;
                    },
                }
            }
        };
        soon(name, reading).await;
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn a_tls_handshake_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() {
    let (proxy, authority) = secure("[timeouts]\ntls_handshake = '600ms'\n").await;
    let mut client = tcp(proxy.addr(0)).await;
    // A record of 16 KiB that is to be a ClientHello.
    client
        .write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
        .await
        .unwrap();
    let took = trickle(&mut client, b"\x03").await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let failed = r#"sluicegate_tls_handshakes_total{listener="127.0.0.1:0",result="timed_out"}"#;
    proxy.until_metric(failed, 1.0).await;
    asks(&proxy, &authority).await;
}

#[tokio::test]
async fn half_open_tls_handshakes_give_way_to_who_waits_in_line() {
    let (proxy, authority) = secure("[limits]\ntls_handshakes = 2\n").await;
    let shaken = |result: &str| {
        format!("sluicegate_tls_handshakes_total{{listener=\"127.0.0.1:0\",result=\"{result}\"}}")
    };
    // One that is established suffers from none of it.
    let stream = client::tls(proxy.addr(0), "a.test", authority.client(&[])).await;
    let mut established = stream.unwrap();
    client::ask(&mut established, "a.test", "/", "")
        .await
        .unwrap();
    let mut half_open = Vec::new();
    for _ in 0..2 {
        let mut stream = tcp(proxy.addr(0)).await;
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        half_open.push(stream);
    }
    let open = r#"sluicegate_connections_open{listener="127.0.0.1:0"}"#;
    proxy.until_metric(open, 3.0).await;
    let began = Instant::now();
    let waiting = async {
        // More than there are places.
        let all = (0..4).map(|_| asks(&proxy, &authority));
        futures_util::future::join_all(all).await;
    };
    let established = async {
        for _ in 0..10 {
            client::ask(&mut established, "a.test", "/", "")
                .await
                .unwrap();
        }
    };
    tokio::join!(waiting, established);
    // Not for the ten seconds that a TLS handshake may take, let alone for those of two.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    for stream in &mut half_open {
        read_to_end(stream).await;
    }
    proxy.until_metric(&shaken("gave_way"), 2.0).await;
    proxy.until_metric(&shaken("ok"), 5.0).await;
    proxy
        .log_line("the limit", |line| {
            line.contains("as many TLS handshakes as may be")
        })
        .await;
}

#[tokio::test]
async fn nobody_waits_in_line_for_longer_than_a_tls_handshake_may_take() {
    let limits = "[limits]\ntls_handshakes = 1\n[timeouts]\ntls_handshake = '1s'\n";
    let (proxy, _) = secure(limits).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(tcp(proxy.addr(0)).await);
    }
    for stream in &mut silent {
        assert!(read_to_end(stream).await.is_empty());
    }
    let of = async |result: &str| {
        let series = format!(
            "sluicegate_tls_handshakes_total{{listener=\"127.0.0.1:0\",result=\"{result}\"}}"
        );
        proxy.metric(&series).await.unwrap_or(0.0)
    };
    let (timed_out, no_room) = until("the count of all", || async {
        let counts = (of("timed_out").await, of("no_room").await);
        (counts.0 + counts.1 == 4.0).then_some(counts)
    })
    .await;
    // The first one has its second; then the next one has its own, unless its wait was over first.
    assert!(timed_out >= 1.0 && no_room >= 2.0, "{timed_out}, {no_room}");
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_cut_with_408() {
    let upstream = Script::new().await;
    let proxy = start(upstream.addr, "request_body = '2s'", "body_rate = '1KiB'").await;
    for (framing, piece) in [
        ("Content-Length: 100000", "a"),
        ("Transfer-Encoding: chunked", "1\r\na\r\n"),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (took, answer) = answered(&mut client, piece.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{framing}: {answer}");
        assert!(took < Duration::from_secs(10), "{framing}: {took:?}");
        // The upstream sees that it did not get all of it.
        let mut server = upstream.accept().await;
        assert!(wire::read_request(&mut server).await.is_err());
    }
    let line = proxy
        .access_line("its line", |line| line.contains("request_body_too_slow"))
        .await;
    assert!(line.contains("\"status\":408"), "{line}");
    let series = r#"sluicegate_requests_rejected_total{reason="request_body_too_slow"}"#;
    proxy.until_metric(series, 2.0).await;
}

#[tokio::test]
async fn a_body_over_http2_that_comes_too_slowly_is_cut_with_408() {
    let upstream = Script::new().await;
    let proxy = start(upstream.addr, "request_body = '2s'", "body_rate = '1KiB'").await;
    let handshake = h2::client::handshake(tcp(proxy.addr(0)).await);
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://localhost/").body(()).unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut outgoing) = sender.send_request(request, false).unwrap();
    let trickling = async {
        let mut pace = interval(BEAT);
        loop {
            pace.tick().await;
            if outgoing.send_data(Bytes::from_static(b"a"), false).is_err() {
                return;
            }
        }
    };
    let answer = tokio::select! {
        answer = soon("the answer", answer) => answer.unwrap(),
        () = trickling => panic!("reset instead of answered"),
    };
    assert_eq!(answer.status(), 408);
}

#[tokio::test]
async fn a_route_may_have_more_patience() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = start(upstream.addr, "request_body = '2s'", "body_rate = '1KiB'").await;
    let mut client = tcp(proxy.addr(0)).await;
    let head = "POST /patient/ HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut pace = interval(BEAT);
    for _ in 0..60 {
        pace.tick().await;
        client.write_all(b"a").await.unwrap();
    }
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(requests.recv().await.unwrap().body, b"a".repeat(60));
}

#[tokio::test]
async fn who_is_slow_for_the_upstreams_sake_is_not_cut() {
    const SIZE: usize = 32 << 20;
    let upstream = Script::new().await;
    let timeouts = "request_body = '2s'\nidle_timeout = '30s'";
    let proxy = start(upstream.addr, timeouts, "body_rate = '64MiB'").await;
    // The upstream takes nothing of a request for a while.
    let mut client = tcp(proxy.addr(0)).await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let body = vec![b'x'; SIZE];
    let mut server = upstream.accept().await;
    wire::read_head(&mut server).await.unwrap();
    let (mut from_proxy, mut to_proxy) = client.split();
    let sending = async { to_proxy.write_all(&body).await.unwrap() };
    let serving = async {
        wait(Duration::from_secs(3)).await;
        let mut received = vec![0; SIZE];
        soon("the body", server.read_exact(&mut received))
            .await
            .unwrap();
        // And then takes its time over the answer.
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
        server.write_all(head).await.unwrap();
        let mut pace = interval(Duration::from_millis(200));
        for _ in 0..10 {
            pace.tick().await;
            server.write_all(b"y").await.unwrap();
        }
    };
    let ((), (), answer) = tokio::join!(sending, serving, read_response(&mut from_proxy));
    let answer = answer.unwrap();
    assert_eq!(
        (answer.head.status(), &answer.body[..]),
        (200, &b"yyyyyyyyyy"[..])
    );
}

#[tokio::test]
async fn an_answer_that_is_taken_too_slowly_is_cut() {
    let upstream = Script::new().await;
    let proxy = start(upstream.addr, "idle_timeout = '3s'", "body_rate = '64MiB'").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut client = socket.connect(proxy.addr(0)).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut server = upstream.accept().await;
    wire::read_request(&mut server).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    server.write_all(head).await.unwrap();
    let piece = vec![0; 1 << 20];
    let flood = async { while server.write_all(&piece).await.is_ok() {} };
    let reading = async {
        let mut pace = interval(Duration::from_millis(20));
        let mut piece = vec![0; 8 << 10];
        let mut got = 0;
        loop {
            pace.tick().await;
            match client.read(&mut piece).await {
                Ok(0) | Err(_) => return got,
                Ok(n) => got += n,
            }
        }
    };
    let began = Instant::now();
    let ((), got) = soon("the cut", async { tokio::join!(flood, reading) }).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(got < 100_000_000, "{got}");
    let series = r#"sluicegate_responses_cut_total{reason="too_slow"}"#;
    assert_eq!(proxy.metric(series).await, Some(1.0));
    proxy
        .access_line("its line", |line| line.contains("response_cut"))
        .await;
    proxy
        .log_line("why", |line| line.contains("too_slow"))
        .await;
}

#[tokio::test]
async fn an_answer_over_http2_that_is_taken_byte_by_byte_is_cut() {
    let upstream = Upstream::describing("pages").await;
    let proxy = start(upstream.addr, "idle_timeout = '3s'", "body_rate = '1KiB'").await;
    let mut stream = tcp(proxy.addr(0)).await;
    // SETTINGS_INITIAL_WINDOW_SIZE of one byte.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]);
    let request = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/"),
    ];
    let start = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &settings[..],
        &headers(1, &request),
    ]
    .concat();
    stream.write_all(&start).await.unwrap();
    let (mut from_proxy, mut to_proxy) = stream.split();
    let granting = async {
        let mut pace = interval(BEAT);
        loop {
            pace.tick().await;
            let one = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
            to_proxy.write_all(&one).await.unwrap();
        }
    };
    let reading = async {
        let mut data = 0;
        loop {
            let frame = read_frame(&mut from_proxy).await.unwrap();
            match frame.kind {
                DATA => data += frame.payload.len(),
                RST_STREAM => return (data, frame.payload),
                _ => {}
            }
        }
    };
    let (data, code) = tokio::select! {
        () = granting => unreachable!("it has no end"),
        read = soon("the reset", reading) => read,
    };
    assert!(data < 200, "{data} bytes");
    assert_eq!(code, [0, 0, 0, 8], "CANCEL");
    let series = r#"sluicegate_responses_cut_total{reason="too_slow"}"#;
    assert_eq!(proxy.metric(series).await, Some(1.0));
    // The connection goes on, and serves who reads.
    to_proxy
        .write_all(&frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]))
        .await
        .unwrap();
    to_proxy.write_all(&headers(3, &request)).await.unwrap();
    let reading = async {
        loop {
            let frame = read_frame(&mut from_proxy).await.unwrap();
            if frame.stream == 3 && frame.kind == DATA && frame.flags & END_STREAM != 0 {
                return;
            }
        }
    };
    soon("the answer", reading).await;
}

/// A proxy over TLS for `a.test`.
async fn secure(more: &str) -> (Proxy, Authority) {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let text = format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        tls = {{ cert = "a.crt", key = "a.key" }}
        [admin]
        bind = "127.0.0.1:0"
        {more}
        [[route]]
        respond = {{ body = "own" }}
        "#
    );
    (Proxy::start_in(dir, &text).await, authority)
}

/// A TLS handshake, a request and its answer.
async fn asks(proxy: &Proxy, authority: &Authority) {
    let stream = client::tls(proxy.addr(0), "a.test", authority.client(&[])).await;
    let (head, _) = client::ask(&mut stream.unwrap(), "a.test", "/", "")
        .await
        .unwrap();
    assert_eq!(head.status, 200);
}

/// Lets time pass in which nothing shall happen.
async fn wait(time: Duration) {
    let nothing = std::future::pending::<()>();
    assert!(timeout(time, nothing).await.is_err());
}

/// Between two bytes of who is slow.
const BEAT: Duration = Duration::from_millis(50);
