//! Every timeout and every size limit of ordinary requests.

use std::net::SocketAddr;

use sluicegate_tests::client::{exchange, get, read_to_end, tcp};
use sluicegate_tests::http2::{Frame, GOAWAY, Site, headers};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Jammed, Script, Upstream};
use sluicegate_tests::wire::{self, read_response};
use tokio::io::AsyncWriteExt;

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_slow_head_is_cut_with_408() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "[timeouts]\nrequest_head = \"300ms\"\n").await;
    for sent in ["", "GET", "GET / HTTP/1.1\r\nHost: a\r\n", "\r\n"] {
        let answer = exchange(proxy.addr(0), sent.as_bytes()).await;
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 "), "{sent:?}: {text}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn a_slow_head_is_cut_also_on_a_connection_that_was_used() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(upstream.addr, "[timeouts]\nrequest_head = \"300ms\"\n").await;
    let mut client = tcp(proxy.addr(0)).await;
    let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(whole.as_bytes()).await.unwrap();
    assert_eq!(read_response(&mut client).await.unwrap().head.status(), 200);
    client.write_all(&whole.as_bytes()[..10]).await.unwrap();
    assert_eq!(read_response(&mut client).await.unwrap().head.status(), 408);
    assert_eq!(read_to_end(&mut client).await, b"");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(upstream.addr, "[timeouts]\nkeep_alive = \"100ms\"\n").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_response(&mut client).await.unwrap().head.status(), 200);
        assert_eq!(read_to_end(&mut client).await, b"", "{request}");
    }
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go() {
    let upstream = Upstream::describing("pages").await;
    for timeouts in ["keep_alive = \"100ms\"", "request_head = \"100ms\""] {
        let site = Site::in_front_of(upstream.addr, &format!("[timeouts]\n{timeouts}\n")).await;
        let mut client = site.connect_raw(&[]).await;
        if timeouts.starts_with("keep_alive") {
            let request = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "localhost"),
                (":path", "/"),
            ];
            client.send(&headers(1, &request)).await;
            client.frame(Frame::is_ok).await;
        }
        let last = client.frame(|frame| frame.kind == GOAWAY).await;
        assert_eq!(last.payload[4..8], [0; 4], "without an error");
        assert!(
            read_to_end(&mut client.stream).await.len() < 100,
            "{timeouts}"
        );
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_cut_with_408() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "[timeouts]\nrequest_body = \"300ms\"\n").await;
    for (framing, part) in [
        ("Content-Length: 10", "abc"),
        ("Content-Length: 10", ""),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n"),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 408, "{framing}");
        assert_eq!(read_to_end(&mut client).await, b"");
        // The upstream sees that it did not get all of it.
        let mut server = upstream.accept().await;
        assert!(wire::read_request(&mut server).await.is_err());
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_gives_504() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "response_head = \"300ms\"\n").await;
    for part in [
        "",
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
            .await
            .unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        server.write_all(part.as_bytes()).await.unwrap();
        let (interims, answer) = wire::read_responses(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 504, "{part}");
        assert_eq!(interims.len(), usize::from(part.contains("103")), "{part}");
        assert_eq!(read_to_end(&mut server).await, b"", "given up");
    }
}

#[tokio::test]
async fn a_connect_that_is_refused_gives_502_and_then_503() {
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [upstream.gone]
        servers = ["{}", "{}"]
        health = {{ fails = 1 }}
        [[route]]
        to = "gone"
        "#,
        nowhere(),
        nowhere()
    ))
    .await;
    assert_eq!(get(proxy.addr(0), "/").await.0.status, 502);
    assert_eq!(get(proxy.addr(0), "/").await.0.status, 503, "all are out");
}

#[tokio::test]
async fn a_connect_that_takes_too_long_gives_504() {
    let upstream = Jammed::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "connect = \"300ms\"\n").await;
    assert_eq!(get(proxy.addr(0), "/").await.0.status, 504);
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "[limits]\nhead_size = \"2KiB\"\nhead_fields = 10\ntarget_size = \"1KiB\"\n",
    )
    .await;
    let head = |target: usize, fields: &str| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n{fields}\r\n",
            "t".repeat(target)
        )
    };
    for (name, request, status) in [
        ("target", head(1024, ""), "414"),
        (
            "query",
            head(0, "").replace("/ ", &format!("/?{} ", "q".repeat(1023))),
            "414",
        ),
        ("target beyond the head", head(3000, ""), "414"),
        (
            "value",
            head(0, &format!("X: {}\r\n", "v".repeat(2048))),
            "431",
        ),
        (
            "name",
            head(0, &format!("{}: v\r\n", "n".repeat(2048))),
            "431",
        ),
        ("many fields", head(0, &"X: v\r\n".repeat(10)), "431"),
        (
            "all together",
            head(900, &format!("{0}: {0}\r\n", "x".repeat(700))),
            "431",
        ),
    ] {
        let answer = exchange(proxy.addr(0), request.as_bytes()).await;
        let text = String::from_utf8(answer).unwrap();
        assert_eq!(&text[9..12], status, "{name}: {text}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn heads_at_the_limits_are_served() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "[limits]\nhead_size = \"2KiB\"\nhead_fields = 10\ntarget_size = \"1KiB\"\n",
    )
    .await;
    let fields = "Host: a\r\nConnection: close\r\n".to_owned() + &"X: v\r\n".repeat(7);
    let start = format!("GET /{} HTTP/1.1\r\n{fields}", "t".repeat(1023));
    let rest = 2048 - start.len() - "X: \r\n\r\n".len() - 1;
    let request = format!("{start}X: {}\r\n\r\n", "v".repeat(rest));
    let answer = exchange(proxy.addr(0), request.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_body_over_its_limit_gives_413_at_once_or_when_it_gets_there() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "[limits]\nrequest_body = \"10B\"\n").await;
    for (name, request, status) in [
        ("announced", "Content-Length: 11\r\n\r\n", 413),
        (
            "one chunk",
            "Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n",
            413,
        ),
        (
            "the second",
            "Transfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n5\r\n01234\r\n",
            413,
        ),
        ("just right", "Content-Length: 10\r\n\r\n0123456789", 200),
        (
            "chunked",
            "Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
            200,
        ),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{request}");
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), status, "{name}");
        let served = requests.try_recv().is_ok();
        assert_eq!(served, status == 200, "{name}");
        if status == 413 {
            assert_eq!(read_to_end(&mut client).await, b"", "{name}");
        }
    }
}

#[tokio::test]
async fn a_response_that_stalls_is_cut_whoever_stalls_it() {
    let upstream = Script::new().await;
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        [timeouts]
        request_head = "200ms"
        request_body = "200ms"
        keep_alive = "200ms"
        connect = "200ms"
        response_head = "200ms"
        idle_timeout = "500ms"
        [upstream.one]
        servers = ["{}"]
        [[route]]
        to = "one"
        "#,
        upstream.addr
    ))
    .await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    // The upstream stops in the middle of a body: the client sees that it is not whole.
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut silent = upstream.accept().await;
    wire::read_request(&mut silent).await.unwrap();
    let part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc";
    silent.write_all(part).await.unwrap();
    let answer = read_to_end(&mut client).await;
    assert!(answer.ends_with(b"\r\n\r\nabc"));

    // The client stops reading: its place and the endpoint's lease are given back.
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut eager = upstream.accept().await;
    wire::read_request(&mut eager).await.unwrap();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    eager.write_all(head).await.unwrap();
    let piece = vec![0; 1 << 20];
    // Ends when the proxy lets go of the upstream.
    let flood = async { while eager.write_all(&piece).await.is_ok() {} };
    soon("the proxy letting go of the upstream", flood).await;
    proxy
        .until_metric(
            &format!(
                "sluicegate_upstream_leases{{upstream=\"one\",endpoint=\"{}\"}}",
                upstream.addr
            ),
            0.0,
        )
        .await;
    drop(client);
}
