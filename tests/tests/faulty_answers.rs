//! Hostile or dying upstreams: bad framing, cut bodies, endless interim responses, giant heads, bytes past the
//! end: 502 or an abort the client can see, whatever version of HTTP it speaks, and never a poisoned next
//! response.
//!
//! Each row is what an upstream says, byte by byte; what else upstreams do is in `faulty_upstreams.rs`.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use sluicegate_tests::client::{read_to_end, tcp};
use sluicegate_tests::http2::bare::proxy_in_front_of;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::wire::{self, read_response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::interval;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Speaks all versions of HTTP, to one server that is never out.
async fn start(upstream: &Script, timeouts: &str) -> Proxy {
    proxy_in_front_of(upstream.addr, &format!("[timeouts]\n{timeouts}")).await
}

/// Asks for something, and has the server say this and no more.
async fn ask(proxy: &Proxy, upstream: &Script, request: &str, answer: &[u8]) -> TcpStream {
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    say(upstream, answer, false).await;
    client
}

/// Answers the next request; `reset` is how the stream then ends.
async fn say(upstream: &Script, answer: &[u8], reset: bool) {
    let mut server = upstream.accept().await;
    wire::read_request(&mut server).await.unwrap();
    // The proxy may have seen enough before all of it is written.
    let _ = server.write_all(answer).await;
    if reset {
        break_off(server);
        return;
    }
    let _ = server.shutdown().await;
    let rest = read_to_end(&mut server).await;
    assert_eq!(rest, b"", "the connection was used again");
}

/// Drops a connection so that its peer sees a reset, once the kernel has nothing left to deliver.
fn break_off(stream: TcpStream) {
    let linger = Some(Duration::ZERO);
    socket2::SockRef::from(&stream).set_linger(linger).unwrap();
}

/// The same client is still served, with a right answer that came on another connection.
async fn next_is_good(client: &mut TcpStream, upstream: &Script) {
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood";
    client.write_all(GET.as_bytes()).await.unwrap();
    say(upstream, answer, false).await;
    assert_eq!(read_response(client).await.unwrap().body, b"good");
}

#[tokio::test]
async fn a_faulty_head_gives_502() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let line = |line: &str| format!("{line}\r\nContent-Length: 4\r\n\r\ngood");
    let after = |interim: &str| format!("{interim}{}", line("HTTP/1.1 200 OK"));
    for (name, answer) in [
        ("no version", line("200 OK")),
        ("lower case", line("http/1.1 200 OK")),
        ("another protocol", line("ICY 200 OK")),
        ("HTTP/0.9", line("HTTP/0.9 200 OK")),
        ("HTTP/1.2", line("HTTP/1.2 200 OK")),
        ("HTTP/1.10", line("HTTP/1.10 200 OK")),
        ("HTTP/1.", line("HTTP/1. 200 OK")),
        ("HTTP/11", line("HTTP/11 200 OK")),
        ("HTTP/2", line("HTTP/2 200 OK")),
        ("blank in the version", line("HTTP /1.1 200 OK")),
        ("no status", line("HTTP/1.1")),
        ("no status but a blank", line("HTTP/1.1 ")),
        ("two blanks", line("HTTP/1.1  200 OK")),
        ("tab", line("HTTP/1.1\t200 OK")),
        ("blank first", line(" HTTP/1.1 200 OK")),
        ("blank line first", line("\r\nHTTP/1.1 200 OK")),
        ("status 0", line("HTTP/1.1 0 OK")),
        ("status 000", line("HTTP/1.1 000 OK")),
        ("status 99", line("HTTP/1.1 99 OK")),
        ("status 099", line("HTTP/1.1 099 OK")),
        ("status 600", line("HTTP/1.1 600 OK")),
        ("status 999", line("HTTP/1.1 999 OK")),
        ("status 1000", line("HTTP/1.1 1000 OK")),
        ("status 20000", line("HTTP/1.1 20000 OK")),
        ("signed status", line("HTTP/1.1 +20 OK")),
        ("negative status", line("HTTP/1.1 -20 OK")),
        ("status in hex", line("HTTP/1.1 0xC OK")),
        ("status of letters", line("HTTP/1.1 two OK")),
        ("status and letters", line("HTTP/1.1 200OK")),
        ("status with a point", line("HTTP/1.1 20.0 OK")),
        ("NUL in the reason", line("HTTP/1.1 200 O\0K")),
        ("bell in the reason", line("HTTP/1.1 200 O\x07K")),
        ("delete in the reason", line("HTTP/1.1 200 O\x7fK")),
        ("CR in the reason", line("HTTP/1.1 200 O\rK")),
        (
            "LF behind the line",
            "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n".into(),
        ),
        (
            "LF behind a field",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n".into(),
        ),
        (
            "LF as the blank line",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n".into(),
        ),
        (
            "LF everywhere",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n".into(),
        ),
        (
            "CR as a line end",
            "HTTP/1.1 200 OK\rContent-Length: 0\r\n\r\n".into(),
        ),
        ("CR in a value", ok("X: a\rb\r\n")),
        ("CR before CRLF", ok("X: a\r\r\n")),
        ("NUL in a value", ok("X: \0\r\n")),
        ("escape in a value", ok("X: \x1b[31m\r\n")),
        ("delete in a value", ok("X: \x7f\r\n")),
        ("NUL in a name", ok("X\0: a\r\n")),
        ("empty name", ok(": a\r\n")),
        ("blank in a name", ok("X Y: a\r\n")),
        ("blank before the colon", ok("X : a\r\n")),
        ("tab before the colon", ok("X\t: a\r\n")),
        ("bracket in a name", ok("X(1): a\r\n")),
        ("high byte in a name", ok("\u{fc}: a\r\n")),
        ("folded by a tab", ok("X: a\r\n\tb\r\n")),
        ("folded first line", ok(" X: a\r\n")),
        ("line of blanks", ok("X: a\r\n  \r\n")),
        ("no colon", ok("X a\r\n")),
        (
            "the same length twice",
            ok("Content-Length: 4\r\nContent-Length: 4\r\n") + "good",
        ),
        (
            "the same length in a list",
            ok("Content-Length: 4, 4\r\n") + "good",
        ),
        ("empty length", ok("Content-Length:\r\n")),
        ("signed length", ok("Content-Length: +4\r\n") + "good"),
        ("length in hex", ok("Content-Length: 0x4\r\n") + "good"),
        ("length with a unit", ok("Content-Length: 4B\r\n") + "good"),
        (
            "length with a point",
            ok("Content-Length: 4.0\r\n") + "good",
        ),
        ("two numbers", ok("Content-Length: 4 4\r\n") + "good"),
        (
            "length that wraps",
            ok("Content-Length: 18446744073709551620\r\n") + "good",
        ),
        ("empty coding", ok("Transfer-Encoding:\r\n")),
        ("identity", ok("Transfer-Encoding: identity\r\n") + "good"),
        (
            "chunked twice in a list",
            ok("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n",
        ),
        (
            "chunked and nothing",
            ok("Transfer-Encoding: chunked,\r\n") + "0\r\n\r\n",
        ),
        (
            "chunked first",
            ok("Transfer-Encoding: chunked, gzip\r\n") + "0\r\n\r\n",
        ),
        (
            "chunked in quotes",
            ok("Transfer-Encoding: \"chunked\"\r\n") + "0\r\n\r\n",
        ),
        (
            "chunked with a parameter",
            ok("Transfer-Encoding: chunked;q=1\r\n") + "0\r\n\r\n",
        ),
        (
            "nearly chunked",
            ok("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n",
        ),
        (
            "chunked in HTTP/1.0, with a length",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "both framings of an answer without a body",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
                .into(),
        ),
        (
            "101 that nobody asked for",
            ok("").replace("200 OK", "101 Switching Protocols"),
        ),
        (
            "101 to a WebSocket that nobody asked for",
            ok("Connection: upgrade\r\nUpgrade: websocket\r\n").replace("200 OK", "101 Web Socket"),
        ),
        (
            "100 with a body",
            after("HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhi"),
        ),
        (
            "100 with chunks",
            after(
                "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            ),
        ),
        (
            "faulty 103",
            after("HTTP/1.1 103 Early Hints\r\nLink : a\r\n\r\n"),
        ),
        (
            "CR in a value of a 103",
            after("HTTP/1.1 103 Early Hints\r\nLink: a\rSet-Cookie: b\r\n\r\n"),
        ),
        (
            "two framings of a 103",
            after(
                "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
        ),
        (
            "giant 103",
            after(&format!(
                "HTTP/1.1 103 Early Hints\r\nX: {}\r\n\r\n",
                "a".repeat(70_000)
            )),
        ),
        ("a request", GET.into()),
        ("TLS", "\x16\x03\x01\x02\0\x01\0".into()),
        ("HTTP/2", "\0\0\x12\x04\0\0\0\0\0".into()),
        ("201 fields", ok(&"X: a\r\n".repeat(201))),
        (
            "a field of 64 KiB",
            ok(&format!("X: {}\r\n", "a".repeat(1 << 16))),
        ),
        (
            "a name of 64 KiB",
            ok(&format!("{}: a\r\n", "a".repeat(1 << 16))),
        ),
        (
            "a reason of 64 KiB",
            line(&format!("HTTP/1.1 200 {}", "a".repeat(1 << 16))),
        ),
    ] {
        let mut client = ask(&proxy, &upstream, GET, answer.as_bytes()).await;
        let got = read_response(&mut client).await.unwrap();
        assert_eq!(got.head.status(), 502, "{name}");
        next_is_good(&mut client, &upstream).await;
    }
}

/// Those that there may be go on before it is known what comes of them.
#[tokio::test]
async fn interim_answers_must_lead_to_an_answer_and_be_few() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let hint = "HTTP/1.1 103 Early Hints\r\nX: a\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood";
    for (name, said, heard, status) in [
        ("sixteen", hint.repeat(16) + last, 16, 200),
        ("nothing else", hint.repeat(16), 16, 502),
        ("too many", hint.repeat(17) + last, 16, 502),
        (
            "a bad one behind a good one",
            hint.to_owned() + &hint.replace("X: a", "X: a\rb") + last,
            1,
            502,
        ),
        (
            "a body",
            hint.replace("X: a", "Content-Length: 2") + "hi" + last,
            1,
            502,
        ),
    ] {
        let mut client = ask(&proxy, &upstream, GET, said.as_bytes()).await;
        let (interims, got) = wire::read_responses(&mut client).await.unwrap();
        assert_eq!(got.head.status(), status, "{name}");
        assert_eq!(interims.len(), heard, "{name}");
        next_is_good(&mut client, &upstream).await;
    }
}

#[tokio::test]
async fn an_unusual_head_is_understood_and_told_in_the_usual_way() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let line = |line: &str| format!("{line}\r\nContent-Length: 4\r\n\r\ngood");
    for (name, answer, start) in [
        ("no reason", line("HTTP/1.1 200"), "HTTP/1.1 200 OK"),
        ("empty reason", line("HTTP/1.1 200 "), "HTTP/1.1 200 OK"),
        (
            "another reason",
            line("HTTP/1.1 200 Well, well"),
            "HTTP/1.1 200 OK",
        ),
        (
            "reason in another script",
            line("HTTP/1.1 200 \u{43e}\u{43a}"),
            "HTTP/1.1 200 OK",
        ),
        ("HTTP/1.0", line("HTTP/1.0 200 OK"), "HTTP/1.1 200 OK"),
        (
            "a status of no name",
            line("HTTP/1.1 599 Hm"),
            "HTTP/1.1 599 ",
        ),
        (
            "200 fields",
            line(&("HTTP/1.1 200 OK".to_owned() + &"\r\nX: a".repeat(199))),
            "HTTP/1.1 200 OK",
        ),
        (
            "blanks around values",
            "HTTP/1.1 200 OK\r\nContent-Length:\t 4 \t\r\n\r\ngood".into(),
            "HTTP/1.1 200 OK",
        ),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        server.write_all(answer.as_bytes()).await.unwrap();
        let got = read_response(&mut client).await.unwrap();
        assert_eq!(got.head.start, start, "{name}");
        assert_eq!(got.body, b"good", "{name}");
    }
}

#[tokio::test]
async fn a_body_where_there_can_be_none_is_nobodys() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let head = GET.replace("GET", "HEAD");
    for (name, request, answer, status) in [
        (
            "204 with a length",
            GET,
            "204 No Content\r\nContent-Length: 4\r\n\r\nevil",
            204,
        ),
        (
            "204 with chunks",
            GET,
            "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
            204,
        ),
        ("204 with bytes", GET, "204 No Content\r\n\r\nevil", 204),
        (
            "304 with a length",
            GET,
            "304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
            304,
        ),
        (
            "304 with chunks",
            GET,
            "304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
            304,
        ),
        (
            "HEAD with a length",
            &head,
            "200 OK\r\nContent-Length: 4\r\n\r\nevil",
            200,
        ),
        (
            "HEAD with chunks",
            &head,
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
            200,
        ),
        ("HEAD with bytes", &head, "200 OK\r\n\r\nevil", 200),
        (
            "more than the length",
            GET,
            "200 OK\r\nContent-Length: 0\r\n\r\nevil",
            200,
        ),
        (
            "more than the last chunk",
            GET,
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nevil",
            200,
        ),
    ] {
        let answer = format!("HTTP/1.1 {answer}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        let mut client = ask(&proxy, &upstream, request, answer.as_bytes()).await;
        let got = wire::read_head(&mut client).await.unwrap();
        assert_eq!(got.status(), status, "{name}");
        if name.starts_with("more than the last chunk") {
            // An answer of no known length is told in chunks.
            let mut last = [0; 5];
            client.read_exact(&mut last).await.unwrap();
        }
        next_is_good(&mut client, &upstream).await;
    }
}

/// Bodies that break off, by what the server says behind a good head, and whether it then resets the stream.
const CUT: &[(&str, &str, bool)] = &[
    ("length, nothing", "Content-Length: 10\r\n\r\n", false),
    ("length, some", "Content-Length: 10\r\n\r\nabc", false),
    (
        "length, all but one",
        "Content-Length: 10\r\n\r\nabcdefghi",
        false,
    ),
    ("length, reset", "Content-Length: 10\r\n\r\nabc", true),
    ("no length, reset", "\r\nabc", true),
];

/// The same for chunks.
const BAD_CHUNKS: &[(&str, &str, bool)] = &[
    ("nothing", "", false),
    ("no last chunk", "3\r\nabc\r\n", false),
    ("reset", "3\r\nabc\r\n", true),
    ("half a size", "3\r\nabc\r\n1", false),
    ("half a chunk", "5\r\nabc", false),
    ("half a line end", "3\r\nabc\r", false),
    ("no trailers' end", "3\r\nabc\r\n0\r\n", false),
    ("half a trailer", "3\r\nabc\r\n0\r\nX: a\r\n", false),
    ("LF behind the size", "3\nabc\r\n0\r\n\r\n", false),
    ("CR behind the size", "3\rabc\r\n0\r\n\r\n", false),
    ("LF behind the data", "3\r\nabc\n0\r\n\r\n", false),
    ("LF behind the last size", "3\r\nabc\r\n0\n\r\n", false),
    ("LF at the end", "3\r\nabc\r\n0\r\n\n", false),
    ("no line end", "3\r\nabc0\r\n\r\n", false),
    ("data too long", "3\r\nabcd\r\n0\r\n\r\n", false),
    ("data too short", "3\r\nab\r\n0\r\n\r\n", false),
    ("no size", "\r\nabc\r\n0\r\n\r\n", false),
    (
        "no size but an extension",
        ";a=b\r\nabc\r\n0\r\n\r\n",
        false,
    ),
    ("signed size", "+3\r\nabc\r\n0\r\n\r\n", false),
    ("negative size", "-3\r\nabc\r\n0\r\n\r\n", false),
    ("size with 0x", "0x3\r\nabc\r\n0\r\n\r\n", false),
    ("size with a line", "3_0\r\nabc\r\n0\r\n\r\n", false),
    ("size of letters", "three\r\nabc\r\n0\r\n\r\n", false),
    (
        "size that wraps",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        false,
    ),
    (
        "size of many zeros",
        "00000000000000000000000000000003\r\nabc\r\n0\r\n\r\n",
        false,
    ),
    ("blank first", " 3\r\nabc\r\n0\r\n\r\n", false),
    ("NUL in an extension", "3;a=\0\r\nabc\r\n0\r\n\r\n", false),
    ("LF in an extension", "3;a\n=b\r\nabc\r\n0\r\n\r\n", false),
    ("CR in an extension", "3;a\r=b\r\nabc\r\n0\r\n\r\n", false),
    ("NUL in a trailer", "3\r\nabc\r\n0\r\nX: \0\r\n\r\n", false),
    (
        "blank before a trailer's colon",
        "3\r\nabc\r\n0\r\nX : a\r\n\r\n",
        false,
    ),
    (
        "folded trailer",
        "3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n",
        false,
    ),
    ("no colon in a trailer", "3\r\nabc\r\n0\r\nX\r\n\r\n", false),
    ("LF behind a trailer", "3\r\nabc\r\n0\r\nX: a\n\r\n", false),
];

/// All of them, and the giants.
fn bad_bodies() -> Vec<(String, Vec<u8>, bool)> {
    let cut = CUT.iter().map(|(name, answer, reset)| {
        let answer = format!("HTTP/1.1 200 OK\r\n{answer}");
        ((*name).to_owned(), answer.into_bytes(), *reset)
    });
    let chunk = |text: &str| format!("{CHUNKED}{text}").into_bytes();
    let chunks = BAD_CHUNKS
        .iter()
        .map(|(name, body, reset)| (format!("chunks, {name}"), chunk(body), *reset));
    let endless = [
        ("endless size", "0".repeat(100_000)),
        ("endless extension", format!("3;{}", "a".repeat(100_000))),
        (
            "endless extensions",
            "1;abcdefghijklmnop\r\na\r\n".repeat(10_000),
        ),
        (
            "endless trailer",
            format!("3\r\nabc\r\n0\r\nX: {}", "a".repeat(100_000)),
        ),
        (
            "endless trailers",
            format!("3\r\nabc\r\n0\r\n{}", "X: a\r\n".repeat(20_000)),
        ),
    ];
    let endless = endless
        .iter()
        .map(|(name, body)| ((*name).to_owned(), chunk(body), false));
    cut.chain(chunks).chain(endless).collect()
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_off_over_http1() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    for (name, answer, reset) in bad_bodies() {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        say(&upstream, &answer, reset).await;
        // 502, or an answer that is visibly not whole.
        let got = read_response(&mut client).await;
        let status = got.as_ref().map(|answer| answer.head.status());
        assert!(matches!(status, Ok(502) | Err(_)), "{name}: {got:?}");
    }
    next_is_good(&mut tcp(proxy.addr(0)).await, &upstream).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_the_whole_stream_of_http_1_0() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let request = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    for (name, answer, reset) in bad_bodies() {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        say(&upstream, &answer, reset).await;
        let mut got = Vec::new();
        let ended = soon(&name, client.read_to_end(&mut got)).await;
        let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
        let broken = match ended {
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
            // Its length says that something is missing.
            Ok(_) => text.contains("content-length: 10\r\n") || text.starts_with("http/1.1 502 "),
        };
        assert!(broken, "{name}: {text}");
    }
    // One that is whole ends in order.
    let mut client = tcp(proxy.addr(0)).await;
    client.write_all(request.as_bytes()).await.unwrap();
    let whole = format!("{CHUNKED}4\r\ngood\r\n0\r\nX: a\r\n\r\n");
    say(&upstream, whole.as_bytes(), false).await;
    let mut got = String::new();
    client.read_to_string(&mut got).await.unwrap();
    assert!(got.ends_with("\r\n\r\ngood"), "{got}");
}

#[tokio::test]
async fn a_body_that_breaks_off_resets_its_stream_of_http2_and_no_other() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    let client = Client::plain(proxy.addr(0)).await;
    for (name, answer, reset) in bad_bodies() {
        let (got, ()) = tokio::join!(client.get("/"), say(&upstream, &answer, reset));
        match got {
            Ok(got) => assert_eq!(got.head.status(), 502, "{name}"),
            Err(error) => assert!(error.is_reset(), "{name}: {error}"),
        }
    }
    let good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood";
    let (got, ()) = tokio::join!(client.get("/"), say(&upstream, good, false));
    assert_eq!(got.unwrap().body, b"good");
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_one_deadline_for_all_of_it() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "response_head = '600ms'").await;
    for (name, first, rest) in [
        ("reason", "HTTP/1.1 200 ", "a"),
        ("field", "HTTP/1.1 200 OK\r\nX: ", "a"),
        ("fields", "HTTP/1.1 200 OK\r\n", "X: a\r\n"),
        (
            "interim answers",
            "",
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
        ),
    ] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        let began = Instant::now();
        let dribble = async {
            let mut pace = interval(Duration::from_millis(20));
            for byte in [first, rest].concat().bytes().chain(rest.bytes().cycle()) {
                pace.tick().await;
                if server.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        };
        let (got, ()) = tokio::join!(read_response(&mut client), soon("the end", dribble));
        assert_eq!(got.unwrap().head.status(), 504, "{name}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_before_it_is_used_gives_502_and_after_it_nothing() {
    let upstream = Script::new().await;
    let proxy = start(&upstream, "").await;
    // Right after it was accepted.
    for request in [GET.to_owned(), GET.replace("GET", "POST")] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(request.as_bytes()).await.unwrap();
        break_off(upstream.accept().await);
        let got = read_response(&mut client).await.unwrap();
        assert_eq!(got.head.status(), 502, "{request}");
        assert!(!upstream.was_contacted().await, "{request}: sent twice");
    }
    // After a whole answer: it stands, and whoever comes next notices nothing.
    for request in [GET.to_owned(), GET.replace("GET", "POST")] {
        let mut client = tcp(proxy.addr(0)).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        server
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
            .await
            .unwrap();
        assert_eq!(read_response(&mut client).await.unwrap().body, b"good");
        break_off(server);
        client.write_all(request.as_bytes()).await.unwrap();
        say(
            &upstream,
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain",
            false,
        )
        .await;
        assert_eq!(
            read_response(&mut client).await.unwrap().body,
            b"again",
            "{request}"
        );
    }
}
