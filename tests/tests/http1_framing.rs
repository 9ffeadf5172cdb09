//! Where a request's body ends: said twice, wrongly or not at all, and what is smuggled behind it.
//!
//! Both Content-Length and Transfer-Encoding, in either order; any Transfer-Encoding but a single final
//! `chunked`; TE twice, folded, in HTTP/1.0; odd, repeated, signed, hex, empty, list or over-long
//! Content-Length: refused. Chunk faults: no complete request reaches the upstream. Valid chunks: intact.

use sluicegate_tests::client::{read_to_end, tcp};
use sluicegate_tests::raw::{Bench, chunked, get_with, post_with, statuses};
use sluicegate_tests::wire;
use tokio::io::AsyncWriteExt;

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const END: &str = "0\r\n\r\n";
/// What would be served if it were taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// What follows must not be a request to anybody, and nothing reaches the upstream.
async fn check_refused(rows: &[(&str, Vec<u8>)]) {
    let mut bench = Bench::new("").await;
    for (name, request) in rows {
        let request = [request, SMUGGLED.as_bytes()].concat();
        bench.refuses(name, request, 400).await;
    }
    assert_eq!(bench.upstream.connections(), 0);
}

#[tokio::test]
async fn odd_lengths_are_refused() {
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        (
            "twice the same",
            post_with("Content-Length: 5\r\nContent-Length: 5\r\n", "abcde"),
        ),
        (
            "two different",
            post_with("Content-Length: 4\r\ncontent-length: 40\r\n", "PING"),
        ),
        (
            "on GET",
            get_with("Content-Length: 0\r\nContent-Length: 40\r\n"),
        ),
        (
            "blank before the colon",
            post_with("Content-Length : 5\r\n", "abcde"),
        ),
        (
            "one with a blank before the colon",
            post_with("Content-Length: 5\r\nContent-Length : 1\r\n", "abcde"),
        ),
        (
            "one with a tab in its name",
            post_with("Content-Length: 5\r\nContent\tLength: 9\r\n", "abcde"),
        ),
        (
            "one with an underscore",
            post_with("Content-Length: 5\r\nContent_Length: 9\r\n", "abcde"),
        ),
        ("folded", post_with("Content-Length:\r\n 5\r\n", "abcde")),
    ];
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "0x5",
        "0o5",
        "0b1",
        "5_0",
        "5,5",
        "5, 5",
        "5, 6",
        ",5",
        "5,",
        "5 5",
        "5\t5",
        "5.0",
        "5e0",
        "5;",
        "5;a=b",
        "5x",
        "x",
        "\"5\"",
        "#5",
        "(5)",
        "\u{b2}",
        "\u{ff15}",
        "\x0b5",
        "5\0",
        "05",
        "005",
        "00",
        "0200",
        "9223372036854775808",
        "9999999999999999999",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999",
    ] {
        rows.push((
            value,
            post_with(format!("Content-Length: {value}\r\n"), "abcde"),
        ));
    }
    let long = "5".repeat(100);
    rows.push((
        "very long",
        post_with(format!("Content-Length: {long}\r\n"), "abcde"),
    ));
    check_refused(&rows).await;
}

#[tokio::test]
async fn every_encoding_but_chunked_is_refused() {
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        ("twice", post_with([CHUNKED, CHUNKED].concat(), END)),
        (
            "identity behind it",
            post_with([CHUNKED, "Transfer-Encoding: identity\r\n"].concat(), END),
        ),
        (
            "identity before it",
            post_with(["Transfer-Encoding: identity\r\n", CHUNKED].concat(), END),
        ),
        (
            "folded",
            post_with("Transfer-Encoding:\r\n chunked\r\n", END),
        ),
        (
            "folded and longer",
            post_with("Transfer-Encoding: chunked\r\n , identity\r\n", END),
        ),
        (
            "in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nHost: a\r\n{CHUNKED}\r\n{END}").into_bytes(),
        ),
        (
            "blank before the colon",
            post_with("Transfer-Encoding : chunked\r\n", END),
        ),
        (
            "NUL in its name",
            post_with("Transfer-Encoding\0: chunked\r\n", END),
        ),
        (
            "behind a bare LF",
            post_with(format!("X: y\n{CHUNKED}"), END),
        ),
        (
            "behind a bare CR",
            post_with(format!("X: y\r{CHUNKED}"), END),
        ),
        (
            "underscore",
            post_with("Transfer_Encoding: chunked\r\n", END),
        ),
        ("on GET", get_with("Transfer-Encoding: identity\r\n")),
    ];
    for value in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,chunked",
        "chunked,",
        ", chunked",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "xchunked",
        "x-chunked",
        "chunkedx",
        "chunk",
        "chunk ed",
        "chunked chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked/1",
        "\x0bchunked",
        "\x0cchunked",
        "chunked\0",
        "chunked\x0b",
        "\u{a0}chunked",
        "chun\u{212a}ed",
        "cow",
    ] {
        let line = format!("Transfer-Encoding: {value}\r\n");
        rows.push((value, post_with(&line, END)));
        rows.push((value, post_with(line + "Content-Length: 5\r\n", END)));
    }
    check_refused(&rows).await;
}

#[tokio::test]
async fn both_a_length_and_an_encoding_are_refused() {
    let length = |value: usize| format!("Content-Length: {value}\r\n");
    let hidden = format!("{:x}\r\n{SMUGGLED}\r\n{END}", SMUGGLED.len());
    let whole = END.len() + SMUGGLED.len();
    let mut rows: Vec<(&str, Vec<u8>)> = vec![
        ("the length wins", post_with(length(4) + CHUNKED, &hidden)),
        ("the encoding wins", post_with(length(whole) + CHUNKED, END)),
        (
            "one byte more",
            post_with(length(6) + CHUNKED, [END, "X"].concat()),
        ),
        ("a length of nothing", post_with(length(0) + CHUNKED, END)),
        (
            "on GET",
            [&get_with(length(5) + CHUNKED), END.as_bytes()].concat(),
        ),
        (
            "in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n{CHUNKED}\r\n{END}").into(),
        ),
    ];
    for spelling in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "TRANSFER-ENCODING: chunked",
        "Transfer-Encoding: chunked ",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding:chunked",
    ] {
        let coding = format!("{spelling}\r\n");
        rows.push((spelling, post_with(length(5) + &coding, END)));
        rows.push((spelling, post_with(coding.clone() + &length(5), END)));
        rows.push((spelling, post_with(coding + "X: y\r\n" + &length(5), END)));
    }
    check_refused(&rows).await;
}

#[tokio::test]
async fn lengths_and_encodings_that_are_right_pass_with_any_method() {
    let mut bench = Bench::new("").await;
    for (fields, body, expect) in [
        ("Content-Length: 5\r\n", "abcde", "abcde"),
        ("Content-Length:5\r\n", "abcde", "abcde"),
        ("Content-Length: \t5 \t\r\n", "abcde", "abcde"),
        ("content-lengtH: 0\r\n", "", ""),
        (
            "Transfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "tRANSFER-eNCODING:CHUNKED \r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
    ] {
        for method in ["POST", "GET", "HEAD", "DELETE", "OPTIONS"] {
            let request = post_with(fields, body);
            let request = [method.as_bytes(), &request[4..]].concat();
            // One request more shows that both sides agree about the end.
            let both = [&request[..], &get_with("")].concat();
            let seen = bench.serves(fields, both, &[200, 200]).await;
            assert_eq!(seen.len(), 2, "{method} {fields:?}");
            assert_eq!(seen[0].body, expect.as_bytes(), "{method} {fields:?}");
        }
    }
    // That there is none is said where one is usual.
    let seen = bench.passes("no length", post_with("", "")).await;
    assert_eq!(seen.head.get("content-length"), Some("0"));
}

#[tokio::test]
async fn no_part_of_a_badly_chunked_body_completes_a_request() {
    let mut bench = Bench::new("").await;
    let long = "a".repeat(50_000);
    let mut rows: Vec<(&str, String)> = Vec::new();
    // In place of the line of a chunk of three bytes.
    for line in [
        "3\n",
        "3\r",
        "3\r\r\n",
        " 3\r\n",
        "\t3\r\n",
        "3 \r\n",
        "3\t\r\n",
        "3\x0b\r\n",
        "3\0\r\n",
        "0x3\r\n",
        "0X3\r\n",
        "+3\r\n",
        "-3\r\n",
        "3h\r\n",
        "g\r\n",
        "\"3\"\r\n",
        "3_0\r\n",
        "3.0\r\n",
        "3,3\r\n",
        "3 3\r\n",
        "\r\n",
        ";\r\n",
        "ffffffffffffffff3\r\n",
        "10000000000000003\r\n",
        "00000000000000003\r\n",
        // Extensions.
        "3;\r\n",
        "3; \r\n",
        "3;\n",
        "3;;a\r\n",
        "3;=b\r\n",
        "3;a=\r\n",
        "3;a b\r\n",
        "3;a=b c\r\n",
        "3;a=b \r\n",
        "3;a=\"b\r\n",
        "3;a=\"b\"c\r\n",
        "3;a=b=c\r\n",
        "3;a[\r\n",
        "3;\u{e9}\r\n",
        "3;a\nb\r\n",
        "3;a\rb\r\n",
        "3;a\0b\r\n",
        "3;a=\"\n\"\r\n",
        "3,a=b\r\n",
    ] {
        rows.push((line, format!("{line}abc\r\n0\r\n\r\n")));
    }
    // In place of all of it.
    for body in [
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabc\r\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3\r\nabc\r\n\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0 \r\n\r\n",
        "3\r\nabc\r\n0;\r\n\r\n",
        "3\r\nabc\r\n+0\r\n\r\n",
        "3\r\nabc\r\n-1\r\n\r\n",
        "3\r\nabc\r\nGET / HTTP/1.1\r\n\r\n",
        "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        rows.push((body, body.to_owned()));
    }
    // In the trailers.
    for trailers in [
        "X\r\n",
        "X : a\r\n",
        ": a\r\n",
        "X[: a\r\n",
        "X: a\r\n b\r\n",
        " X: a\r\n",
        "X: \0\r\n",
        "X: a\rb\r\n",
        "X: a\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content_Length: 3\r\n",
        "Transfer_encoding: chunked\r\n",
        "Host: b\r\n",
        "Authorization: b\r\n",
        "Content-Type: a/b\r\n",
        "Content-Encoding: br\r\n",
        "Content-Range: bytes 0-1/2\r\n",
    ] {
        rows.push((trailers, format!("3\r\nabc\r\n0\r\n{trailers}\r\n")));
    }
    for (name, body) in &rows {
        bench.refuses(name, chunked(body), 400).await;
    }
    for (name, body) in [
        ("endless size", "0".repeat(50_000)),
        ("endless blanks", format!("3{}", " ".repeat(50_000))),
        ("endless extension", format!("3;{long}")),
        ("endless extensions", "1;aaaaaaaaa\r\nx\r\n".repeat(1000)),
        (
            "endless trailers",
            format!("0\r\n{}", "X: a\r\n".repeat(5000)),
        ),
        ("endless trailer", format!("0\r\nX: {long}")),
    ] {
        bench.refuses(name, chunked(&body), 400).await;
        bench
            .refuses(name, chunked(body + "\r\nabc\r\n0\r\n\r\n"), 400)
            .await;
    }
    bench.check_unfinished();
}

#[tokio::test]
async fn a_body_that_breaks_off_completes_no_request() {
    let mut bench = Bench::new("").await;
    for request in [
        post_with("Content-Length: 5\r\n", "abc"),
        post_with("Content-Length: 9223372036854775807\r\n", "abc"),
        chunked("3"),
        chunked("3\r\n"),
        chunked("3\r\nabc\r\n"),
        chunked("5\r\nabc"),
        chunked("3\r\nabc\r\n0\r\n"),
        chunked("3\r\nabc\r\n0\r\nX: y\r\n"),
        chunked("ffffffffffffffff\r\nabc"),
    ] {
        let name = String::from_utf8_lossy(&request).into_owned();
        let seen = bench.serves(&name, request, &[400]).await;
        assert_eq!(seen, [], "{name:?}");
    }
    bench.check_unfinished();
}

#[tokio::test]
async fn valid_chunks_arrive_intact() {
    let mut bench = Bench::new("").await;
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
            "blanks around them",
            "3 ;\ta = b ; c\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "quoted separators",
            "3;a=\"\\\";=\u{e9}\"\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "line ends as data",
            "4\r\n\r\n\r\n\r\n0\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "a request as data",
            "12\r\nGET / HTTP/1.1\r\n\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ),
        ("trailers", "3\r\nabc\r\n0\r\nX: y\r\n\r\n", "abc"),
    ] {
        let seen = bench.passes(name, chunked(body)).await;
        assert_eq!(seen.body, expect.as_bytes(), "{name}");
    }
}

/// Requests on one connection: what each is answered with, and which targets the upstream saw.
#[tokio::test]
async fn requests_behind_one_another_stay_apart() {
    let mut bench = Bench::new("[[route]]\npath = \"/no\"\nrespond = { status = 403 }\n").await;
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let post = |target: &str, fields: &str, body: &str| {
        format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
    };
    let asks = "Content-Length: 3\r\nExpect: 100-continue";
    let prefix = "GET /hidden HTTP/1.1\r\nHost: a\r\n";
    let prefix_length = format!("Content-Length: {}", prefix.len());
    for (name, requests, expect, targets) in [
        (
            "plain",
            get("/1") + &get("/2") + &get("/3"),
            &[200, 200, 200][..],
            &["/1", "/2", "/3"][..],
        ),
        (
            "bodies",
            post("/1", "Content-Length: 3", "abc")
                + &post("/2", "Transfer-Encoding: chunked", "2\r\nab\r\n0\r\n\r\n")
                + &get("/3"),
            &[200, 200, 200],
            &["/1", "/2", "/3"],
        ),
        (
            "a line end behind a body",
            post("/1", "Content-Length: 3", "abc") + "\r\n" + &get("/2"),
            &[200, 200],
            &["/1", "/2"],
        ),
        (
            "a refused head in the middle",
            get("/1") + "GET /2\r\n\r\n" + &get("/3"),
            &[200, 400],
            &["/1"],
        ),
        (
            "a refused version in the middle",
            get("/1") + "GET /2 HTTP/1.2\r\nHost: a\r\n\r\n" + &get("/3"),
            &[200, 505],
            &["/1"],
        ),
        (
            "a refused body in the middle",
            get("/1") + &post("/2", "Transfer-Encoding: chunked", "x\r\n") + &get("/3"),
            &[200, 400],
            &["/1"],
        ),
        (
            "a refused target in the middle",
            get("/1") + &get("/%00") + &get("/3"),
            &[200, 400],
            &["/1"],
        ),
        (
            "a route's refusal, its body there",
            get("/1") + &post("/no", "Content-Length: 3", "abc") + &get("/3"),
            &[200, 403, 200],
            &["/1", "/3"],
        ),
        (
            "a route's refusal, its body not all there",
            get("/1") + &post("/no", "Content-Length: 300", &get("/3")),
            &[200, 403],
            &["/1"],
        ),
        (
            "a body sent without being asked for",
            post("/1", asks, "abc") + &get("/2"),
            &[200, 200],
            &["/1", "/2"],
        ),
        (
            "a refusal of what asks first, its body there",
            post("/no", asks, "abc") + &get("/2"),
            &[403, 200],
            &["/2"],
        ),
        (
            "nothing to ask for",
            post("/1", "Content-Length: 0\r\nExpect: 100-continue", "") + &get("/2"),
            &[200, 200],
            &["/1", "/2"],
        ),
        (
            "the beginning of a request as a body of GET",
            format!("GET /1 HTTP/1.1\r\nHost: a\r\n{prefix_length}\r\n\r\n{prefix}\r\n")
                + &get("/2"),
            &[200, 200],
            &["/1", "/2"],
        ),
        (
            "a byte behind a length of nothing",
            post("/1", "Content-Length: 0", "\0") + &get("/2"),
            &[200, 400],
            &["/1"],
        ),
    ] {
        let seen = bench.serves(name, requests, expect).await;
        let seen: Vec<&str> = seen.iter().map(|request| request.head.target()).collect();
        assert_eq!(seen, targets, "{name}");
    }
}

#[tokio::test]
async fn what_waits_to_be_asked_is_no_request_once_it_was_refused() {
    let bench = Bench::new("[[route]]\npath = \"/no\"\nrespond = { status = 403 }\n").await;
    let length = SMUGGLED.len();
    let head = format!(
        "POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut client = tcp(bench.proxy.addr(0)).await;
    client.write_all(head.as_bytes()).await.unwrap();
    let answer = wire::read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 403);
    let _ = client.write_all(SMUGGLED.as_bytes()).await;
    assert_eq!(statuses(&read_to_end(&mut client).await), [0; 0]);
    assert_eq!(bench.upstream.connections(), 0);
}

#[tokio::test]
async fn pipelined_requests_share_one_upstream_connection() {
    let mut bench = Bench::new("").await;
    let many = get_with("").repeat(200);
    let seen = bench.serves("two hundred", many, &[200; 200]).await;
    assert_eq!(seen.len(), 200);
    assert_eq!(bench.upstream.connections(), 1);
}
