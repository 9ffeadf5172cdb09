//! Upstreams that lie, break off or die: the client sees it, and nobody else suffers. What they may say, row by
//! row, is in `faulty_answers.rs`; a tunnel whose one side goes is in `tunnels.rs`.

use sluicegate_tests::certs::Authority;
use sluicegate_tests::client::{self, read_to_end, tcp};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::wire::{self, read_response};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// Takes the next connection and its request.
async fn take(upstream: &Script) -> TcpStream {
    let mut server = upstream.accept().await;
    wire::read_request(&mut server).await.unwrap();
    server
}

/// Asks, and lets the upstream give a right answer on a connection of its own.
async fn check_next_is_good(client: &mut TcpStream, upstream: &Script) {
    client.write_all(GET).await.unwrap();
    let mut server = take(upstream).await;
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood";
    server.write_all(answer).await.unwrap();
    assert_eq!(read_response(client).await.unwrap().body, b"good");
}

#[tokio::test]
async fn a_malformed_head_gives_502() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    for (name, answer) in [
        (
            "length, then encoding",
            ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        (
            "encoding, then length",
            ok("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n") + "0\r\n\r\n",
        ),
        ("other encoding", ok("Transfer-Encoding: gzip\r\n")),
        (
            "two encodings",
            ok("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n",
        ),
        (
            "encoding twice",
            ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        ),
        (
            "encoding in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "lengths that differ",
            ok("Content-Length: 3\r\nContent-Length: 4\r\n") + "abcd",
        ),
        ("lengths in a list", ok("Content-Length: 3, 4\r\n") + "abcd"),
        ("negative length", ok("Content-Length: -1\r\n")),
        ("length in words", ok("Content-Length: three\r\n") + "abc"),
        (
            "giant length",
            ok("Content-Length: 99999999999999999999\r\n") + "abc",
        ),
        ("NUL in a value", ok("X: a\0b\r\n")),
        (
            "blank before the colon",
            ok("Content-Length : 3\r\n") + "abc",
        ),
        ("folded line", ok("X: a\r\n b\r\n")),
        ("no colon", ok("X\r\n")),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n".into()),
        ("HTTP/0.9", "<html></html>\r\n\r\n".into()),
        ("status of two digits", "HTTP/1.1 20 OK\r\n\r\n".into()),
        ("status of letters", "HTTP/1.1 abc OK\r\n\r\n".into()),
        ("giant head", ok(&format!("X: {}\r\n", "a".repeat(100_000)))),
        (
            "endless line",
            "HTTP/1.1 200 ".to_owned() + &"a".repeat(200_000),
        ),
        ("many fields", ok(&"X: a\r\n".repeat(1000))),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-".into()),
        ("nothing", String::new()),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        // The proxy may have seen enough before all of it is written.
        let _ = server.write_all(answer.as_bytes()).await;
        let _ = server.shutdown().await;
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 502, "{name}");
        assert_eq!(read_to_end(&mut server).await, b"", "{name}: not kept");
        check_next_is_good(&mut client, &upstream).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_seen_by_the_client() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    for (name, framing, body) in [
        ("short", "Content-Length: 10", "abc"),
        ("empty", "Content-Length: 10", ""),
        ("no last chunk", CHUNKED, "3\r\nabc\r\n"),
        ("half a chunk", CHUNKED, "5\r\nabc"),
        ("no end of the trailers", CHUNKED, "3\r\nabc\r\n0\r\n"),
        ("bad chunk size", CHUNKED, "3\r\nabc\r\nxyz\r\n"),
        (
            "no line end after a chunk",
            CHUNKED,
            "3\r\nabcdef\r\n0\r\n\r\n",
        ),
        ("overflow", CHUNKED, "fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        (
            "bare LF in a chunk line",
            CHUNKED,
            "3;x\ny\r\nabc\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
        server.write_all(answer.as_bytes()).await.unwrap();
        server.shutdown().await.unwrap();
        let answer = read_response(&mut client).await;
        // Either no answer but a failure, or one that is visibly cut.
        assert!(
            answer
                .as_ref()
                .map_or(true, |answer| answer.head.status() == 502),
            "{name}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn the_log_says_who_broke_a_response_off() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "[log]\naccess = \"json\"\n").await;
    for (upstream_breaks, side, kind) in [
        (true, "upstream", "response_broken"),
        (false, "downstream", "response_cut"),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nabc";
        server.write_all(head).await.unwrap();
        wire::read_head(&mut client).await.unwrap();
        if upstream_breaks {
            drop(server);
            read_to_end(&mut client).await;
        } else {
            drop(client);
            // The client's absence shows as soon as something is written to it.
            while server.write_all(&[0; 1000]).await.is_ok() {}
        }
        let line = proxy
            .access_line("the request's line", |line| line.contains(kind))
            .await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["error_side"], side, "{line}");
        assert_eq!(line["refused"], serde_json::Value::Null, "{line}");
    }
}

#[tokio::test]
async fn a_reset_in_a_body_without_length_is_seen_by_the_client() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(GET).await.unwrap();
    let mut server = take(&upstream).await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\n\r\nabc")
        .await
        .unwrap();
    wire::read_head(&mut client).await.unwrap();
    let mut piece = [0; 8];
    soon("a piece", client.read_exact(&mut piece))
        .await
        .unwrap();
    let linger = Some(std::time::Duration::ZERO);
    socket2::SockRef::from(&server).set_linger(linger).unwrap();
    drop(server);
    assert_eq!(read_to_end(&mut client).await, b"", "no last chunk");
}

/// Over TLS the end of the stream is a word of its own: without it anybody on the way may have cut the body.
#[tokio::test]
async fn a_tls_stream_that_ends_without_goodbye_is_a_cut_body() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    let identity = authority.issue(&["localhost"]);
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let upstream = Script::new().await;
    let proxy = Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            [upstream.server]
            servers = ["https://{}"]
            tls = {{ ca = "ca.pem", server_name = "localhost" }}
            [[route]]
            to = "server"
            "#,
            upstream.addr
        ),
    )
    .await;
    let acceptor = TlsAcceptor::from(identity.server(None));
    for (version, goodbye) in [("1.1", true), ("1.1", false), ("1.0", true), ("1.0", false)] {
        let mut client = tcp(proxy.addr(0)).await;
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let accepting = acceptor.accept(upstream.accept().await);
        let mut server = soon("a TLS handshake", accepting).await.unwrap();
        wire::read_request(&mut server).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\n\r\nall there is";
        server.write_all(answer).await.unwrap();
        server.flush().await.unwrap();
        match goodbye {
            true => server.shutdown().await.unwrap(),
            false => server.get_mut().0.shutdown().await.unwrap(),
        }
        let mut got = Vec::new();
        let ended = soon("the end", client.read_to_end(&mut got)).await;
        let whole = match version {
            "1.1" => got.ends_with(b"\r\n0\r\n\r\n"),
            _ => ended.is_ok(),
        };
        let shown = String::from_utf8_lossy(&got);
        assert_eq!(whole, goodbye, "HTTP/{version}: {shown}");
    }
}

#[tokio::test]
async fn endless_interim_responses_are_bounded() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(GET).await.unwrap();
    let mut server = take(&upstream).await;
    let flood = tokio::spawn(async move {
        let batch = "HTTP/1.1 100 Continue\r\nX: y\r\n\r\n".repeat(100);
        while server.write_all(batch.as_bytes()).await.is_ok() {}
    });
    // Meanwhile the only worker serves others.
    let mut other = tcp(proxy.addr(0)).await;
    check_next_is_good(&mut other, &upstream).await;
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 502);
    soon("the end of the flood", flood).await.unwrap();
}

#[tokio::test]
async fn bytes_past_the_end_never_become_the_next_response() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let no_content = b"HTTP/1.1 204 No Content\r\n\r\n".as_slice();
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n".as_slice();
    for first in [OK, chunked, no_content] {
        // In one piece with the response.
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        server.write_all(&[first, POISON].concat()).await.unwrap();
        read_response(&mut client).await.unwrap();
        check_next_is_good(&mut client, &upstream).await;
        assert_eq!(read_to_end(&mut server).await, b"", "not used again");

        // Right after it.
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        server.write_all(first).await.unwrap();
        read_response(&mut client).await.unwrap();
        server.write_all(POISON).await.unwrap();
        assert_eq!(read_to_end(&mut server).await, b"", "closed");
        check_next_is_good(&mut client, &upstream).await;
    }
}

/// RFC 4559 §6: such a login is the connection's, and whoever comes next on it would be that user.
#[tokio::test]
async fn a_connection_that_somebody_logged_in_is_nobody_elses() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for (login, kept) in [
        ("NTLM TlRMTVNTUAABAAAA", false),
        ("negotiate YIIJvwYGKwYBBQUCoIIJ", false),
        ("Negotiate", false),
        ("Basic bnRsbTpuZWdvdGlhdGU=", true),
        ("Negotiated x", true),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut server = take(&upstream).await;
        server.write_all(OK).await.unwrap();
        read_response(&mut client).await.unwrap();
        if kept {
            client.write_all(GET).await.unwrap();
            wire::read_request(&mut server).await.unwrap();
            let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            server.write_all(last).await.unwrap();
            read_response(&mut client).await.unwrap();
        }
        assert_eq!(read_to_end(&mut server).await, b"", "{login}");
    }
}

#[tokio::test]
async fn a_body_after_head_is_no_response() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    client
        .write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut server = take(&upstream).await;
    let poison = String::from_utf8_lossy(POISON);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{poison}",
        poison.len()
    );
    server.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 200);
    check_next_is_good(&mut client, &upstream).await;
}

#[tokio::test]
async fn a_kept_connection_that_dies_is_replaced_for_a_safe_request_only() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for (request, again) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            false,
        ),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = take(&upstream).await;
        server.write_all(OK).await.unwrap();
        read_response(&mut client).await.unwrap();
        // The next one arrives, and the server goes without an answer.
        client.write_all(request.as_bytes()).await.unwrap();
        wire::read_request(&mut server).await.unwrap();
        drop(server);
        if again {
            let mut server = take(&upstream).await;
            let answer =
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            server.write_all(answer).await.unwrap();
            let head = wire::read_head(&mut client).await.unwrap();
            assert_eq!(head.status(), 404, "{request}");
        } else {
            let answer = read_response(&mut client).await.unwrap();
            assert_eq!(answer.head.status(), 502, "{request}");
            assert!(!upstream.was_contacted().await, "{request}: sent twice");
        }
    }
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_not_replaced() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(GET).await.unwrap();
    drop(take(&upstream).await);
    assert_eq!(read_response(&mut client).await.unwrap().head.status(), 502);
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_answered_for_at_once() {
    let upstream = Script::new().await;
    let addr = upstream.addr;
    let proxy = Proxy::start(&format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        [upstream.broken]
        servers = ["{addr}"]
        health = {{ fails = 2 }}
        [[route]]
        to = "broken"
        "#
    ))
    .await;
    for status in [502, 502, 503, 503] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        if status == 502 {
            let mut server = take(&upstream).await;
            server.write_all(b"garbage\r\n\r\n").await.unwrap();
        }
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), status);
    }
    assert!(!upstream.was_contacted().await);
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 503);
}
