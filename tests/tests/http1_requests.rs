//! Heads of HTTP/1.1 requests as raw bytes: which are refused, with which status, before an upstream hears of
//! them, and which arrive as they were sent.
//!
//! Bare LF or CR in the head, NUL, blank before the colon, folded lines, no colon, bad field names, versions
//! other than 1.0 and 1.1, over-long method, target, field or head, too many fields, CONNECT, TRACE, an HTTP/2
//! preface: refused, not forwarded. What frames a body is in `http1_framing`, where it goes in `targets`.

use sluicegate_tests::client::{read_to_end, tcp};
use sluicegate_tests::raw::{Bench, get_with, post_with, statuses, with_line};
use sluicegate_tests::wire;
use tokio::io::AsyncWriteExt;

/// Every request must be refused with its status, be counted, and reach nobody.
async fn check_refused(rows: &[(&str, Vec<u8>, u16)]) {
    let mut bench = Bench::new("").await;
    for (name, request, status) in rows {
        bench.refuses(name, request, *status).await;
    }
    assert_eq!(bench.upstream.connections(), 0);
    assert_eq!(bench.rejected().await, rows.len());
}

#[tokio::test]
async fn lines_that_do_not_end_in_crlf_are_refused() {
    let raw = |text: &str| text.as_bytes().to_vec();
    check_refused(&[
        (
            "bare LF after the line",
            raw("GET / HTTP/1.1\nHost: a\r\n\r\n"),
            400,
        ),
        (
            "bare LF after a field",
            raw("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n"),
            400,
        ),
        (
            "bare LF at the end",
            raw("GET / HTTP/1.1\r\nHost: a\r\n\n"),
            400,
        ),
        ("bare LF only", raw("GET / HTTP/1.1\nHost: a\n\n"), 400),
        (
            "bare LF before the line",
            raw("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            400,
        ),
        (
            "CR after the line",
            raw("GET / HTTP/1.1\rHost: a\r\n\r\n"),
            400,
        ),
        (
            "CR CR LF after the line",
            raw("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
            400,
        ),
        ("CR CR LF after a field", get_with("X: a\r\r\n"), 400),
        ("CR in place of the end", get_with("\rX: a\r\n"), 400),
        (
            "two lines before it",
            raw("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            400,
        ),
        ("a blank line of blanks", raw("   \r\n\r\n"), 400),
    ])
    .await;
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let mut rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("two blanks", with_line("GET  / HTTP/1.1"), 400),
        ("two blanks later", with_line("GET /  HTTP/1.1"), 400),
        ("a blank before", with_line(" GET / HTTP/1.1"), 400),
        ("a blank behind", with_line("GET / HTTP/1.1 "), 400),
        ("a tab", with_line("GET\t/ HTTP/1.1"), 400),
        ("a tab later", with_line("GET /\tHTTP/1.1"), 400),
        ("a tab behind", with_line("GET / HTTP/1.1\t"), 400),
        ("vertical tab", with_line("GET\x0b/ HTTP/1.1"), 400),
        ("CR for a blank", with_line("GET\r/ HTTP/1.1"), 400),
        ("no target", with_line("GET HTTP/1.1"), 400),
        (
            "two words in the target",
            with_line("GET /a b HTTP/1.1"),
            400,
        ),
        ("no method", with_line(" / HTTP/1.1"), 400),
        ("only a method", with_line("GET"), 400),
        ("something before", with_line("xx xGET / HTTP/1.1"), 400),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), 400),
        (
            "HTTP/2 preface",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
            505,
        ),
        ("TLS", b"\x16\x03\x01\x02\0\x01\0\x01".to_vec(), 400),
        ("every byte", (0..=255).collect(), 400),
    ];
    for version in [
        "HTTP/1.2", "HTTP/1.9", "HTTP/0.9", "HTTP/0.0", "HTTP/2.0", "HTTP/2.1", "HTTP/3.0",
        "HTTP/9.9",
    ] {
        rows.push((version, with_line(format!("GET / {version}")), 505));
    }
    for version in [
        "",
        "HTTP/1",
        "HTTP/2",
        "HTTP/11",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/1.01",
        "HTTP/01.1",
        "HTTP/01.01",
        "HTTP/ 1.1",
        "HTTP /1.1",
        "HTTP/1,1",
        "HTTP/1.1.1",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/1.1x",
        "HTTP/1.1;x",
        "HTTP/1.1\0",
        "HTTP/1.x",
        "http/1.1",
        "Http/1.1",
        "HTTPS/1.1",
        "HTTP1.1",
        "HTTP\\1.1",
        "XTTP/1.1",
    ] {
        rows.push((version, with_line(format!("GET / {version}")), 400));
    }
    check_refused(&rows).await;
}

#[tokio::test]
async fn methods_that_nobody_should_see_are_refused() {
    let mut rows: Vec<(&str, Vec<u8>, u16)> = vec![
        (
            "CONNECT",
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_vec(),
            405,
        ),
        ("CONNECT with a path", with_line("CONNECT / HTTP/1.1"), 405),
        ("TRACE", with_line("TRACE / HTTP/1.1"), 405),
        ("TRACK", with_line("TRACK / HTTP/1.1"), 405),
        ("PRI", with_line("PRI / HTTP/1.1"), 405),
        (
            "TRACE with a body",
            b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_vec(),
            405,
        ),
        ("long", with_line("A".repeat(33) + " / HTTP/1.1"), 400),
        (
            "longer",
            with_line("A".repeat(100_000) + " / HTTP/1.1"),
            400,
        ),
    ];
    for other_case in ["get", "Get", "pOST", "trace", "Connect", "options"] {
        let line = format!("{other_case} / HTTP/1.1");
        rows.push((other_case, with_line(line), 405));
    }
    for byte in b"\0\x7f\"(),/:;<=>?@[\\]{}\x80" {
        let line = [b"GE", &[*byte][..], b"T / HTTP/1.1"].concat();
        rows.push(("no token", with_line(line), 400));
    }
    check_refused(&rows).await;
}

#[tokio::test]
async fn a_refused_method_is_told_what_may_be_used() {
    let mut bench = Bench::new("").await;
    let mut client = tcp(bench.proxy.addr(0)).await;
    let request = with_line("TRACE / HTTP/1.1");
    client.write_all(&request).await.unwrap();
    let answer = wire::read_response(&mut client).await.unwrap();
    let allow = answer.head.get("allow").unwrap();
    assert!(allow.contains("GET") && !allow.contains("TRACE"), "{allow}");
    for method in ["PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "X!"] {
        let seen = bench.passes(method, with_line(format!("{method} /x HTTP/1.1")));
        assert_eq!(seen.await.head.start, format!("{method} /x HTTP/1.1"));
    }
}

#[tokio::test]
async fn malformed_fields_are_refused() {
    let mut rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("blank before the colon", get_with("X : a\r\n"), 400),
        ("tab before the colon", get_with("X\t: a\r\n"), 400),
        ("folded", get_with("X: a\r\n b\r\n"), 400),
        ("folded with a tab", get_with("X: a\r\n\tb\r\n"), 400),
        (
            "folded over a framing field",
            post_with("X: a\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            400,
        ),
        (
            "a blank before the first",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(),
            400,
        ),
        (
            "a line of blanks before the first",
            b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n".to_vec(),
            400,
        ),
        ("no colon", get_with("NoColon\r\n"), 400),
        ("no name", get_with(": a\r\n"), 400),
        ("bare CR in a value", get_with("X: a\rb\r\n"), 400),
        ("bare CR before a value", get_with("X:\ra\r\n"), 400),
        (
            "credentials twice",
            get_with("Authorization: a\r\nAuthorization: b\r\n"),
            400,
        ),
        (
            "two types of body",
            post_with(
                "Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 1\r\n",
                "x",
            ),
            400,
        ),
        ("unknown expectation", get_with("Expect: 200-ok\r\n"), 417),
        ("no expectation", get_with("Expect:\r\n"), 417),
        (
            "two expectations",
            get_with("Expect: 100-continue, x\r\n"),
            417,
        ),
        (
            "two lines of them",
            get_with("Expect: 100-continue\r\nExpect: x\r\n"),
            417,
        ),
    ];
    for byte in b"\0\x01\x08\x0b\x0c\x1b \t\x7f\"(),/;<=>?@[\\]{}\x80\xc3\xff" {
        let line = [b"X", &[*byte][..], b"Y: a\r\n"].concat();
        rows.push(("no token", get_with(line), 400));
    }
    let controls = (0..32)
        .chain([127])
        .filter(|byte| !b"\t\r\n".contains(byte));
    for byte in controls {
        let line = [b"X: a", &[byte][..], b"b\r\n"].concat();
        rows.push(("a control byte", get_with(line), 400));
    }
    check_refused(&rows).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let long = "a".repeat(100_000);
    let field = |name: &str, value: &str| get_with(format!("{name}: {value}\r\n"));
    check_refused(&[
        ("target", with_line(format!("GET /{long} HTTP/1.1")), 414),
        (
            "target that fits a head",
            with_line(format!("GET /{} HTTP/1.1", &long[..10_000])),
            414,
        ),
        ("query", with_line(format!("GET /?{long} HTTP/1.1")), 414),
        ("endless target", format!("GET /{long}").into_bytes(), 414),
        ("version", with_line(format!("GET / HTTP/1.1{long}")), 400),
        ("value", field("X", &long), 431),
        ("cookie", field("Cookie", &format!("a={long}")), 431),
        ("name", field(&long, "x"), 431),
        (
            "endless name",
            [b"GET / HTTP/1.1\r\nHost: a\r\n", long.as_bytes()].concat(),
            431,
        ),
        ("101 fields", get_with("X: a\r\n".repeat(100)), 431),
        ("10,000 fields", get_with("X: a\r\n".repeat(10_000)), 431),
    ])
    .await;
    let mut bench = Bench::new("").await;
    bench
        .passes(
            "a long target",
            with_line(format!("GET /{} HTTP/1.1", &long[..7_900])),
        )
        .await;
    bench
        .passes("100 fields", get_with("X: a\r\n".repeat(99)))
        .await;
}

#[tokio::test]
async fn unusual_fields_arrive_as_they_were_sent() {
    let mut bench = Bench::new("").await;
    for (name, line, field, values) in [
        ("no blank", &b"X:y\r\n"[..], "x", &["y"][..]),
        ("many blanks", b"X: \t y \t\r\n", "x", &["y"]),
        ("empty", b"X:\r\n", "x", &[""]),
        ("a tab inside", b"X: a\tb\r\n", "x", &["a\tb"]),
        ("colons", b"X: a:b::c\r\n", "x", &["a:b::c"]),
        ("twice", b"X: a\r\nx: b\r\n", "x", &["a", "b"]),
        ("beyond ASCII", b"X: \xe9\xff\r\n", "x", &["\u{e9}\u{ff}"]),
        (
            "every token character",
            b"X!#$%&'*+-.^`|~0: y\r\n",
            "x!#$%&'*+-.^`|~0",
            &["y"],
        ),
        (
            "an odd cookie",
            b"Cookie: ===;;; a=hello world\r\n",
            "cookie",
            &["===;;; a=hello world"],
        ),
        ("a via", b"Via: 1.0 other\r\n", "via", &["1.0 other"]),
        (
            "a range",
            b"Range: bytes=abc-xyz\r\n",
            "range",
            &["bytes=abc-xyz"],
        ),
    ] {
        let seen = bench.passes(name, get_with(line)).await;
        assert_eq!(seen.head.fields.all(field), values, "{name}");
    }
    let after_a_line = [b"\r\n", &get_with("")[..]].concat();
    bench.passes("one line before it", after_a_line).await;
    let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    assert_eq!(
        bench.passes("HTTP/1.0", old).await.head.start,
        "GET / HTTP/1.1"
    );
}

#[tokio::test]
async fn a_connection_ends_when_either_side_says_so() {
    let mut bench = Bench::new("").await;
    let next = get_with("");
    for (fields, served) in [
        ("Connection: close\r\n", 1),
        ("Connection: x, Close\r\n", 1),
        ("Connection: keep-alive\r\nConnection: close\r\n", 1),
        ("Connection: closed\r\n", 2),
        ("Connection: keep-alive\r\n", 2),
    ] {
        let both = [get_with(fields), next.clone()].concat();
        let seen = bench.serves(fields, both, &[200, 200][..served]).await;
        assert_eq!(seen.len(), served, "{fields}");
    }
    for (fields, served) in [
        ("", 1),
        ("Connection: close, keep-alive\r\n", 1),
        ("Connection: Keep-Alive\r\n", 2),
    ] {
        let old = format!("GET / HTTP/1.0\r\nHost: a\r\n{fields}\r\n").repeat(2);
        let seen = bench.serves(fields, old, &[200, 200][..served]).await;
        assert_eq!(seen.len(), served, "HTTP/1.0 {fields}");
    }
}

#[tokio::test]
async fn an_unfinished_head_is_no_request() {
    let mut bench = Bench::new("").await;
    let whole = get_with("X: a\r\n");
    for end in 1..whole.len() {
        let mut client = tcp(bench.proxy.addr(0)).await;
        client.write_all(&whole[..end]).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = read_to_end(&mut client).await;
        assert_eq!(statuses(&answer), [0; 0], "{end} bytes");
    }
    assert_eq!(bench.upstream.connections(), 0);
    // In two pieces it is one.
    for end in 1..whole.len() {
        let mut client = tcp(bench.proxy.addr(0)).await;
        client.write_all(&whole[..end]).await.unwrap();
        client.write_all(&whole[end..]).await.unwrap();
        let answer = wire::read_response(&mut client).await.unwrap();
        assert_eq!(answer.head.status(), 200, "{end} bytes");
    }
    assert_eq!(bench.serves("all", b"", &[]).await.len(), whole.len() - 1);
}
