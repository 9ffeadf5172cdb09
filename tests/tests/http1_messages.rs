//! Valid HTTP/1.1 conversations: bodies, trailers, interim responses, and connections that go on.

use sluicegate_tests::client::{read_to_end, tcp};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::wire::{self, Head, read_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// 20 MiB that do not repeat.
fn large_body() -> Vec<u8> {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()
    });
    words.take(20 * 1024 * 1024 / 8).flatten().collect()
}

/// Sends GET on a connection and plays the upstream's answer to it.
async fn get_answered(client: &mut TcpStream, upstream: &mut TcpStream, answer: &str) {
    client.write_all(GET).await.unwrap();
    wire::read_request(upstream).await.unwrap();
    upstream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn the_client_is_told_to_continue_once_its_body_is_wanted() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head).await.unwrap();
    assert_eq!(wire::read_head(&mut client).await.unwrap().status(), 100);
    client.write_all(b"abc").await.unwrap();
    assert_eq!(read_response(&mut client).await.unwrap().head.status(), 200);
    let seen = soon("the request", requests.recv()).await.unwrap();
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.head.get("expect"), None, "settled on this side");
}

#[tokio::test]
async fn a_body_that_is_refused_is_never_asked_for() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "[[route]]\npath = \"/no\"\nrespond = { status = 403 }\n[limits]\nrequest_body = \"10B\"\n",
    )
    .await;
    for (path, length, expectation, status) in [
        ("/", 11, "100-continue", 413),
        ("/no", 5, "100-continue", 403),
        ("/", 5, "201-created", 417),
        ("/%00", 5, "100-continue", 400),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\
             Expect: {expectation}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), status, "{path} {expectation}");
        assert_eq!(read_to_end(&mut client).await, b"", "closed");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for framing in ["Content-Length: 10000000", "Transfer-Encoding: chunked"] {
        let mut client = tcp(proxy.addr(0)).await;
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_head(&mut server).await.unwrap();
        let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        server.write_all(answer).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!((answer.head.status(), &answer.body[..]), (403, &b"no"[..]));
        assert_eq!(read_to_end(&mut client).await, b"", "closed");
        // What the client may have sent is no request to anybody.
        assert_eq!(read_to_end(&mut server).await, b"");
    }
}

/// A reset while it still sends could take the answer away from it.
#[tokio::test]
async fn a_client_may_send_on_behind_an_answer_that_is_the_last() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "[[route]]\npath = \"/no\"\nrespond = { status = 403 }\n[limits]\nrequest_body = \"10B\"\n",
    )
    .await;
    const LENGTH: usize = 16 << 20;
    for (request, status) in [
        (
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"),
            413,
        ),
        (
            format!("POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"),
            403,
        ),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned(), 431),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        let sent = client.write_all(&vec![b'a'; LENGTH]).await;
        sent.unwrap_or_else(|error| panic!("{status}: {error}"));
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), status);
        assert_eq!(read_to_end(&mut client).await, b"", "closed");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn an_early_answer_that_is_refused_lets_go_of_the_request_too() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for answer in [
        "101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade",
        "200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\nabc";
        client.write_all(head).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_head(&mut server).await.unwrap();
        let answer = format!("HTTP/1.1 {answer}\r\n\r\n");
        server.write_all(answer.as_bytes()).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 502);
        assert_eq!(read_to_end(&mut client).await, b"", "closed");
        assert_eq!(read_to_end(&mut server).await, b"abc", "closed");
    }
}

#[tokio::test]
async fn interim_responses_do_not_end_a_request() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(GET).await.unwrap();
    let mut server = upstream.accept().await;
    wire::read_request(&mut server).await.unwrap();
    for interim in [
        "100 Continue",
        "102 Processing",
        "103 Early Hints",
        "199 Odd",
    ] {
        let head = format!("HTTP/1.1 {interim}\r\nLink: </x>\r\n\r\n");
        server.write_all(head.as_bytes()).await.unwrap();
    }
    for status in [102, 103, 199] {
        let interim = wire::read_head(&mut client).await.unwrap();
        assert_eq!(interim.status(), status);
        assert_eq!(interim.get("link"), Some("</x>"));
    }
    let last = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(last).await.unwrap();
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!((answer.head.status(), &answer.body[..]), (200, &b"ok"[..]));
    // And the connections are still in step.
    get_answered(
        &mut client,
        &mut server,
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 404);
}

#[tokio::test]
async fn answers_without_a_body_leave_both_connections_in_step() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    let mut server = None;
    let get = |head: &Head, name: &str| head.get(name).map(str::to_owned);
    for (method, answer, status, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 5", 200, Some("5")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", 200, None),
        ("HEAD", "404 Not Found\r\nContent-Length: 7", 404, Some("7")),
        ("GET", "204 No Content", 204, None),
        ("GET", "304 Not Modified\r\nContent-Length: 5", 304, None),
        ("GET", "304 Not Modified\r\nETag: \"x\"", 304, None),
        ("DELETE", "204 No Content\r\nETag: \"x\"", 204, None),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        if server.is_none() {
            server = Some(upstream.accept().await);
        }
        let server = server.as_mut().unwrap();
        let seen = wire::read_request(server).await.unwrap();
        assert!(seen.head.start.starts_with(method));
        let answer = format!("HTTP/1.1 {answer}\r\n\r\n");
        server.write_all(answer.as_bytes()).await.unwrap();
        // A stray body would be taken for the next head.
        let head = wire::read_head(&mut client).await.unwrap();
        assert_eq!(head.status(), status, "{method}: {answer}");
        assert_eq!(get(&head, "content-length").as_deref(), length, "{answer}");
    }
    assert!(!upstream.was_contacted().await, "one connection is enough");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_intact() {
    let upstream = Upstream::mirroring().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let body = large_body();
    let mut chunked = Vec::new();
    for piece in body.chunks(70_001) {
        chunked.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    for (framing, sent) in [
        (format!("Content-Length: {}", body.len()), &body),
        ("Transfer-Encoding: chunked".to_owned(), &chunked),
    ] {
        let client = tcp(proxy.addr(0)).await;
        let (mut reader, mut writer) = client.into_split();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        let sending = async {
            writer.write_all(head.as_bytes()).await.unwrap();
            writer.write_all(sent).await.unwrap();
        };
        let (answer, ()) = tokio::join!(read_response(&mut reader), sending);
        let answer = answer.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert!(answer.body == body, "{framing}: the body has changed");
    }
}

#[tokio::test]
async fn a_response_that_lasts_until_its_connection_ends_is_framed_anew() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    for version in ["1.0", "1.1"] {
        client.write_all(GET).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        let answer = format!("HTTP/{version} 200 OK\r\n\r\nall of it");
        server.write_all(answer.as_bytes()).await.unwrap();
        drop(server);
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.get("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.body, b"all of it");
    }
}

#[tokio::test]
async fn an_old_client_gets_what_it_understands() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    let request = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut server = upstream.accept().await;
    let seen = wire::read_request(&mut server).await.unwrap();
    assert_eq!(seen.head.start, "GET / HTTP/1.1");
    let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    server.write_all(answer).await.unwrap();
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.get("transfer-encoding"), None);
    assert_eq!(answer.body, b"abc");
}

#[tokio::test]
async fn trailers_pass_both_ways_without_what_only_a_head_may_say() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let announced = "X-Sum, X_Forwarded_For, X-Forwarded-For, X-Real-IP, Cookie, Connection, \
                     X-Client-Cert-Subject";
    let body = "3\r\nabc\r\n0\r\nX-Sum: 6\r\nX_Forwarded_For: evil\r\nX-Forwarded-For: evil\r\n\
                X-Real-IP: evil\r\nCookie: evil\r\nConnection: evil\r\nX-Client-Cert-Subject: evil\r\n";
    let mut client = tcp(proxy.addr(0)).await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: {announced}\r\n\r\n{body}\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    let seen = wire::read_request(&mut server).await.unwrap();
    let only = [("x-sum".to_owned(), "6".to_owned())];
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.trailers.0, only);
    assert_eq!(seen.head.get("te"), Some("trailers"));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {announced}\r\n\r\n{body}\
         Content-Range: evil\r\nHost: evil\r\n\r\n"
    );
    server.write_all(answer.as_bytes()).await.unwrap();
    let answer = read_response(&mut client).await.unwrap();
    assert_eq!(answer.body, b"abc");
    assert_eq!(answer.trailers.0, only);
}

#[tokio::test]
async fn a_client_that_ends_its_stream_after_the_request_is_answered() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        server.write_all(answer).await.unwrap();
        let answer = read_response(&mut client).await.unwrap();
        assert_eq!(answer.body, b"ok", "{request}");
        assert_eq!(read_to_end(&mut client).await, b"");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_takes_its_request_along() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let partly = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart";
    for answer in [&b""[..], partly] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        server.write_all(answer).await.unwrap();
        if !answer.is_empty() {
            wire::read_head(&mut client).await.unwrap();
        }
        // Closing sends a reset.
        client.set_zero_linger().unwrap();
        drop(client);
        let rest = soon("the upstream is let go", read_to_end(&mut server)).await;
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn a_body_is_streamed_while_it_comes() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut server = upstream.accept().await;
    wire::read_head(&mut server).await.unwrap();
    let mut piece = [0; 8];
    client.write_all(b"3\r\nabc\r\n").await.unwrap();
    soon("a piece", server.read_exact(&mut piece))
        .await
        .unwrap();
    assert_eq!(&piece, b"3\r\nabc\r\n");
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n";
    server.write_all(head).await.unwrap();
    // Both bodies are under way at once.
    wire::read_head(&mut client).await.unwrap();
    soon("a piece", client.read_exact(&mut piece))
        .await
        .unwrap();
    assert_eq!(&piece, b"3\r\nxyz\r\n");
    client.write_all(b"3\r\ndef\r\n").await.unwrap();
    soon("a piece", server.read_exact(&mut piece))
        .await
        .unwrap();
    assert_eq!(&piece, b"3\r\ndef\r\n");
}
