//! HTTP/1.1 requests as raw bytes: which are refused before an upstream hears of them, and which
//! arrive as they were sent.

use sluicegate_tests::client::{exchange, tcp};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{soon, wire};
use tokio::io::AsyncWriteExt;

/// The statuses of all responses in what came back.
fn statuses(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    // `HTTP/1.x 200`
    let starts = text.match_indices("HTTP/1.");
    starts
        .map(|(at, _)| text[at + 9..at + 12].to_owned())
        .collect()
}

/// Every request must be refused with a 4xx of its own and a closed connection, and reach nobody.
async fn check_refused(requests: &[(&str, String)]) {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "[admin]\nbind = \"127.0.0.1:0\"\n").await;
    for (name, request) in requests {
        // The end of the stream is the proof that the connection was closed.
        let answer = exchange(proxy.addr(0), request.as_bytes()).await;
        let statuses = statuses(&answer);
        let shown = String::from_utf8_lossy(&answer);
        assert_eq!(statuses.len(), 1, "{name}: {shown}");
        let refused = statuses[0].starts_with('4') || statuses[0] == "505";
        assert!(refused, "{name}: {shown}");
        assert!(shown.contains("connection: close\r\n"), "{name}: {shown}");
    }
    assert!(!upstream.was_contacted().await);
    let (_, metrics) = proxy.admin_request("GET", "/metrics", "").await;
    let rejected = metrics
        .lines()
        .filter(|line| line.starts_with("sluicegate_requests_rejected_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
    assert_eq!(rejected.sum::<usize>(), requests.len(), "{metrics}");
}

fn with_fields(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    with_fields("Transfer-Encoding: chunked\r\n") + body
}

#[tokio::test]
async fn ambiguous_lengths_are_refused() {
    const TE: &str = "Transfer-Encoding: chunked\r\n";
    const END: &str = "0\r\n\r\n";
    let coded = |value: &str| with_fields(&format!("Transfer-Encoding: {value}\r\n")) + END;
    let sized = |value: &str| with_fields(&format!("Content-Length: {value}\r\n")) + "abcde";
    check_refused(&[
        (
            "length, then encoding",
            with_fields(&format!("Content-Length: 5\r\n{TE}")) + END,
        ),
        (
            "encoding, then length",
            with_fields(&format!("{TE}Content-Length: 5\r\n")) + END,
        ),
        ("gzip, chunked", coded("gzip, chunked")),
        ("chunked, gzip", coded("chunked, gzip")),
        ("chunked, chunked", coded("chunked, chunked")),
        ("gzip", coded("gzip")),
        ("identity", coded("identity")),
        ("xchunked", coded("xchunked")),
        ("quoted", coded("\"chunked\"")),
        ("with a parameter", coded("chunked;q=1")),
        ("with a comma", coded("chunked,")),
        ("vertical tab", coded("\u{b}chunked")),
        ("empty encoding", coded("")),
        ("encoding twice", with_fields(&format!("{TE}{TE}")) + END),
        (
            "encoding folded",
            with_fields("Transfer-Encoding:\r\n chunked\r\n") + END,
        ),
        (
            "encoding in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nHost: a\r\n{TE}\r\n{END}"),
        ),
        ("signed", sized("+5")),
        ("negative", sized("-5")),
        ("hex", sized("0x5")),
        ("empty", sized("")),
        ("a list", sized("5, 5")),
        ("a list of two", sized("5,6")),
        ("blank inside", sized("5 5")),
        ("fraction", sized("5.0")),
        ("over 64 bits", sized("18446744073709551621")),
        ("very long", sized(&"5".repeat(100))),
        (
            "twice the same",
            with_fields("Content-Length: 5\r\nContent-Length: 5\r\n") + "abcde",
        ),
        (
            "two different",
            with_fields("Content-Length: 5\r\nContent-Length: 6\r\n") + "abcde",
        ),
    ])
    .await;
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let field = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let long = "a".repeat(20_000);
    check_refused(&[
        (
            "bare LF after the line",
            "GET / HTTP/1.1\nHost: a\r\n\r\n".into(),
        ),
        (
            "bare LF after a field",
            "GET / HTTP/1.1\r\nHost: a\n\r\n".into(),
        ),
        (
            "bare LF at the end",
            "GET / HTTP/1.1\r\nHost: a\r\n\n".into(),
        ),
        ("bare CR in a value", field("X: a\rb")),
        (
            "bare CR after the line",
            "GET / HTTP/1.1\rHost: a\r\n\r\n".into(),
        ),
        ("NUL in a value", field("X: a\0b")),
        ("NUL in a name", field("X\0: a")),
        ("escape in a value", field("X: \u{1b}[2J")),
        ("blank before the colon", field("X : a")),
        ("tab before the colon", field("X\t: a")),
        ("folded line", field("X: a\r\n b")),
        (
            "folded first line",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(),
        ),
        ("no colon", field("X")),
        ("no name", field(": a")),
        ("bad name", field("X(y): a")),
        ("name beyond ASCII", field("X\u{e4}: a")),
        ("HTTP/0.9", "GET /\r\n\r\n".into()),
        ("HTTP/1.2", line("GET / HTTP/1.2")),
        ("HTTP/2.0", line("GET / HTTP/2.0")),
        ("HTTP/11", line("GET / HTTP/11")),
        ("lower-case version", line("GET / http/1.1")),
        ("no version", line("GET / ")),
        ("two blanks", line("GET  / HTTP/1.1")),
        ("tab", line("GET\t/ HTTP/1.1")),
        ("blank after the version", line("GET / HTTP/1.1 ")),
        ("fragment", line("GET /#top HTTP/1.1")),
        ("no slash", line("GET a HTTP/1.1")),
        ("only a query", line("GET ?a HTTP/1.1")),
        ("asterisk", line("GET * HTTP/1.1")),
        ("foreign scheme", line("GET ftp://a/ HTTP/1.1")),
        ("bytes beyond ASCII", line("GET /\u{e4} HTTP/1.1")),
        ("bad method", line("G@T / HTTP/1.1")),
        ("no method", line(" / HTTP/1.1")),
        ("long method", line(&format!("{} / HTTP/1.1", &long[..33]))),
        ("long target", line(&format!("GET /{long} HTTP/1.1"))),
        ("long name", field(&format!("{long}: a"))),
        ("long value", field(&format!("X: {long}"))),
        ("many fields", field(&"X: a\r\n".repeat(150))),
        ("CONNECT", line("CONNECT a:443 HTTP/1.1")),
        ("CONNECT with a path", line("CONNECT / HTTP/1.1")),
        ("TRACE", line("TRACE / HTTP/1.1")),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        (
            "blank lines",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        ),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into()),
    ])
    .await;
}

#[tokio::test]
async fn a_request_needs_one_valid_host() {
    let hosts = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    let host = |value: &str| hosts(&format!("Host: {value}\r\n"));
    let absolute = |authority: &str| format!("GET http://{authority}/ HTTP/1.1\r\nHost: a\r\n\r\n");
    check_refused(&[
        ("none", hosts("")),
        ("none in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n".into()),
        ("two", hosts("Host: a\r\nHost: b\r\n")),
        ("the same twice", hosts("Host: a\r\nHost: a\r\n")),
        ("empty", host("")),
        ("userinfo", host("user@a")),
        ("password", host("user:word@a")),
        ("a list", host("a, b")),
        ("a path", host("a/b")),
        ("a blank", host("a b")),
        ("bad port", host("a:port")),
        ("large port", host("a:65536")),
        ("open bracket", host("[::1")),
        ("empty label", host("a..b")),
        ("escape", host("%61")),
        ("absolute target with userinfo", absolute("user@a")),
        ("absolute target with a bad port", absolute("a:x")),
        (
            "absolute target alone",
            "GET http://a/ HTTP/1.1\r\n\r\n".into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_absolute_target_wins_over_host_and_rewrites_it() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for (target, line, host) in [
        (
            "http://Other.example/x?y",
            "GET /x?y HTTP/1.1",
            "other.example",
        ),
        (
            "http://other.example:81",
            "GET / HTTP/1.1",
            "other.example:81",
        ),
        ("/x", "GET /x HTTP/1.1", "first.example"),
    ] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: first.example\r\nConnection: close\r\n\r\n");
        exchange(proxy.addr(0), request.as_bytes()).await;
        let seen = requests.recv().await.unwrap().head;
        assert_eq!(seen.start, line);
        assert_eq!(seen.fields.all("host"), [host]);
        assert_eq!(seen.get("x-forwarded-host"), Some(host));
    }
}

#[tokio::test]
async fn no_part_of_a_badly_chunked_body_completes_a_request() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let long = "a".repeat(50_000);
    for (name, body) in [
        ("bare LF after the size", "3\nabc\r\n0\r\n\r\n".to_owned()),
        ("bare CR after the size", "3\rabc\r\n0\r\n\r\n".into()),
        ("bare LF after the data", "3\r\nabc\n0\r\n\r\n".into()),
        ("nothing after the data", "3\r\nabc0\r\n\r\n".into()),
        ("data too long", "3\r\nabcd\r\n0\r\n\r\n".into()),
        ("bare LF at the end", "3\r\nabc\r\n0\r\n\n".into()),
        ("bare LF after the last chunk", "3\r\nabc\r\n0\n\r\n".into()),
        ("prefix 0x", "0x3\r\nabc\r\n0\r\n\r\n".into()),
        ("plus", "+3\r\nabc\r\n0\r\n\r\n".into()),
        ("minus", "-3\r\nabc\r\n0\r\n\r\n".into()),
        ("leading blank", " 3\r\nabc\r\n0\r\n\r\n".into()),
        ("trailing blank", "3 \r\nabc\r\n0\r\n\r\n".into()),
        ("no size", "\r\nabc\r\n0\r\n\r\n".into()),
        ("no hex", "g\r\nabc\r\n0\r\n\r\n".into()),
        ("overflow", "10000000000000003\r\nabc\r\n0\r\n\r\n".into()),
        (
            "many digits",
            format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(16)),
        ),
        ("LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n".into()),
        ("CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n".into()),
        ("NUL in an extension", "3;a\0\r\nabc\r\n0\r\n\r\n".into()),
        ("endless extension", format!("3;{long}\r\nabc\r\n0\r\n\r\n")),
        (
            "endless extensions",
            "1;aaaaaaaaa\r\nx\r\n".repeat(1000) + "0\r\n\r\n",
        ),
        (
            "endless trailers",
            format!("0\r\n{}\r\n", "X: a\r\n".repeat(1000)),
        ),
        ("endless trailer", format!("0\r\nX: {long}\r\n\r\n")),
        ("trailer without a colon", "0\r\nX\r\n\r\n".into()),
        (
            "blank before a trailer's colon",
            "0\r\nX : a\r\n\r\n".into(),
        ),
        ("folded trailer", "0\r\nX: a\r\n b\r\n\r\n".into()),
        ("NUL in a trailer", "0\r\nX: \0\r\n\r\n".into()),
        (
            "length in the trailers",
            "0\r\nContent-Length: 3\r\n\r\n".into(),
        ),
        (
            "encoding in the trailers",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        (
            "a request in place of the end",
            "3\r\nabc\r\nGET / HTTP/1.1\r\n\r\n".into(),
        ),
    ] {
        let answer = exchange(proxy.addr(0), chunked(&body).as_bytes()).await;
        let statuses = statuses(&answer);
        assert_eq!(statuses.len(), 1, "{name}: {statuses:?}");
        assert!(statuses[0].starts_with('4'), "{name}: {statuses:?}");
    }
    assert!(requests.try_recv().is_err(), "a request was completed");
}

#[tokio::test]
async fn a_body_that_breaks_off_completes_no_request() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for request in [
        with_fields("Content-Length: 5\r\n") + "abc",
        chunked("3\r\nabc\r\n"),
        chunked("5\r\nabc"),
        chunked("3\r\nabc\r\n0\r\n"),
    ] {
        let mut stream = tcp(proxy.addr(0)).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = wire::read_response(&mut stream).await.unwrap();
        assert_eq!(answer.head.status(), 400, "{request:?}");
    }
    assert!(requests.try_recv().is_err(), "a request was completed");
}

#[tokio::test]
async fn valid_chunks_arrive_intact() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    for (name, body, expect) in [
        ("one", "3\r\nabc\r\n0\r\n\r\n", "abc"),
        (
            "several",
            "3\r\nabc\r\n1\r\nd\r\n2\r\nef\r\n0\r\n\r\n",
            "abcdef",
        ),
        ("none", "0\r\n\r\n", ""),
        ("several zeros", "3\r\nabc\r\n000\r\n\r\n", "abc"),
        (
            "hex of either case",
            "a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
            "01234567890123456789a",
        ),
        ("leading zeros", "0003\r\nabc\r\n0\r\n\r\n", "abc"),
        ("extensions", "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n", "abc"),
        (
            "line ends as data",
            "4\r\n\r\n\r\n\r\n0\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "a request as data",
            "10\r\nGET / HTTP/1.1\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n",
        ),
        ("trailers", "3\r\nabc\r\n0\r\nX: y\r\n\r\n", "abc"),
    ] {
        // The method must make no difference: a body may come with any.
        for method in ["POST", "GET", "DELETE"] {
            let request = chunked(body).replacen("POST", method, 1);
            let mut stream = tcp(proxy.addr(0)).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = wire::read_response(&mut stream).await.unwrap();
            assert_eq!(answer.head.status(), 200, "{method}: {name}");
            let seen = soon("the request", requests.recv()).await.unwrap();
            assert_eq!(seen.body, expect.as_bytes(), "{method}: {name}");
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()
        + "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        + "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        + "GET /4 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = tcp(proxy.addr(0)).await;
    stream.write_all(requests.as_bytes()).await.unwrap();
    for (target, length) in [("/1", 0), ("/2", 3), ("/3", 2), ("/4", 0)] {
        let answer = wire::read_response(&mut stream).await.unwrap();
        let described: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(described["target"], target);
        assert_eq!(described["body_len"], length);
    }
    assert_eq!(upstream.connections(), 1, "one connection is enough");
}

#[tokio::test]
async fn requests_before_a_malformed_one_are_answered() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let good = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = exchange(
        proxy.addr(0),
        (good.repeat(2) + "GET /\n\r\n" + good).as_bytes(),
    )
    .await;
    assert_eq!(statuses(&answer), ["200", "200", "400"]);
}

#[tokio::test]
async fn a_denied_prefix_has_no_other_spelling() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        "[[route]]\npath = \"/admin\"\nrespond = { status = 403 }\n",
    )
    .await;
    for target in [
        "/admin",
        "/admin/x",
        "//admin",
        "///admin//x",
        "/./admin",
        "/a/../admin",
        "/a/b/../../admin/",
        "/%61dmin",
        "/%61%64%6D%69%6e",
        "/%2e/admin",
        "/a/%2E%2e/admin",
        "/a/.%2e/admin",
        "/%2Fadmin",
        "/%5cadmin",
        "/\\admin",
        "/a\\..\\admin",
        "/;/admin",
        "/;a=b/admin",
        "/a/..;/admin",
        "/a/..;x=y/admin",
        "/a/%2e%2e%3b/admin",
        "/%00/admin",
        "/admin%00",
        "/a/%c0%ae%c0%ae/admin",
        "/%c1%a1dmin",
        "/%u0061dmin",
        "/%",
        "/..",
        "/%2e%2e/admin",
        "http://a/admin",
        "http://a//admin",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = exchange(proxy.addr(0), request.as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(
            statuses == ["403"] || statuses == ["400"],
            "{target}: {statuses:?}"
        );
    }
    assert!(requests.try_recv().is_err(), "a request was forwarded");
    // What is forwarded is what was matched.
    for (target, forwarded) in [
        ("/a/../b//c/./d?x=/../y", "/b/c/d?x=/../y"),
        ("/%7euser/%c3%a9%2B", "/~user/%C3%A9%2B"),
        ("/a;v=1", "/a;v=1"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        exchange(proxy.addr(0), request.as_bytes()).await;
        let seen = soon("the request", requests.recv()).await.unwrap();
        assert_eq!(seen.head.target(), forwarded);
    }
}
