//! Heads of HTTP/2 that are none: how they are coded, and what they say. Each is refused on its stream, or
//! ends the connection where nobody knows any more what the next one means; no upstream hears of it. What is
//! odd but right arrives.
//!
//! "Field or pseudo-field values that would break HTTP/1 (CR, LF, NUL, blanks), upper case, duplicate, late or
//! missing pseudo-fields, connection-specific fields: refused on the stream. Count fields and cookie crumbs,
//! not only bytes." RFC 9113, RFC 7541, RFC 8441; sections stand beside the cases.

use sluicegate_tests::http2::bare::{
    Bare, GET, Outcome, check, claimed, data, get, post, proxy_in_front_of,
};
use sluicegate_tests::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITIZED, block, frame,
    headers,
};
use sluicegate_tests::upstream::Upstream;

use Outcome::{Answer, End, Reset};

const PROTOCOL: u32 = 1;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

/// A GET without one of its pseudo-fields.
fn without(name: &str) -> Vec<u8> {
    let rest: Vec<_> = GET
        .iter()
        .copied()
        .filter(|field| field.0 != name)
        .collect();
    headers(1, &rest)
}

/// A GET with another value of a pseudo-field.
fn with(name: &str, value: &str) -> Vec<u8> {
    let fields: Vec<_> = (GET.iter().copied())
        .map(|field| {
            if field.0 == name {
                (name, value)
            } else {
                field
            }
        })
        .collect();
    headers(1, &fields)
}

/// A GET's block with these bytes behind it, in a frame.
fn coded(more: &[u8]) -> Vec<u8> {
    let block = [&block(GET), more].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

/// These bytes before a GET's block.
fn coded_first(first: &[u8]) -> Vec<u8> {
    let block = [first, &block(GET)].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

/// A GET with these fields before its own.
fn get_first(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, &[fields, GET].concat())
}

#[tokio::test]
async fn heads_in_several_frames() {
    let block = block(GET);
    let (first, rest) = block.split_at(10);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let behind = |next: Vec<u8>| [begun.clone(), next].concat();
    let continued = frame(CONTINUATION, END_HEADERS, 1, rest);
    check(vec![
        // §6.10
        (
            "CONTINUATION of another stream",
            behind(frame(CONTINUATION, END_HEADERS, 3, rest)),
            End(PROTOCOL),
        ),
        (
            "DATA in between",
            behind([data(1, b"", 0), continued.clone()].concat()),
            End(PROTOCOL),
        ),
        (
            "another head in between",
            behind([headers(3, GET), continued.clone()].concat()),
            End(PROTOCOL),
        ),
        (
            "PING in between",
            behind([frame(PING, 0, 0, &[0; 8]), continued.clone()].concat()),
            End(PROTOCOL),
        ),
        (
            "an unknown frame in between",
            behind([frame(0x20, 0, 0, b""), continued.clone()].concat()),
            End(PROTOCOL),
        ),
        (
            "CONTINUATION too large",
            behind(claimed(16_385, CONTINUATION, 0, 1)),
            End(FRAME_SIZE),
        ),
        (
            "CONTINUATION without an end",
            behind(frame(CONTINUATION, 0, 1, b"").repeat(100)),
            End(CALM),
        ),
        (
            "the second is no HPACK",
            behind(frame(CONTINUATION, END_HEADERS, 1, &[0x80])),
            End(COMPRESSION),
        ),
    ])
    .await;
}

#[tokio::test]
async fn compression_that_is_wrong() {
    check(vec![
        // RFC 7541 §2.3.3, §6.1
        ("index 0", coded(&[0x80]), End(COMPRESSION)),
        (
            "an index beyond the table",
            coded(&[0xbe]),
            End(COMPRESSION),
        ),
        (
            "an index far beyond it",
            coded(&[0xff, 0xff, 0xff, 0x7f]),
            End(COMPRESSION),
        ),
        (
            "a name's index beyond the table",
            coded(&[0x7f, 0x40, 1, b'a']),
            End(COMPRESSION),
        ),
        // §5.1
        (
            "an integer without an end",
            coded(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            End(COMPRESSION),
        ),
        ("half an integer", coded(&[0xff]), End(COMPRESSION)),
        // §5.2
        (
            "a string that is cut",
            coded(&[0, 5, b'a']),
            End(COMPRESSION),
        ),
        ("a name alone", coded(&[0, 1, b'a']), End(COMPRESSION)),
        (
            "padding of a byte",
            coded(&[0, 1, b'a', 0x82, 0x1f, 0xff]),
            End(COMPRESSION),
        ),
        (
            "padding of zeros",
            coded(&[0, 1, b'a', 0x81, 0x18]),
            End(COMPRESSION),
        ),
        (
            "the end of strings in a string",
            coded(&[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            End(COMPRESSION),
        ),
        // §4.2, §6.3
        (
            "a table that is too large",
            coded_first(&[0x3f, 0xe2, 0x1f]),
            End(COMPRESSION),
        ),
        (
            "a table's size behind a field",
            coded(&[0x20]),
            End(COMPRESSION),
        ),
    ])
    .await;
}

#[tokio::test]
async fn malformed_pseudo_fields() {
    type Fields = Vec<(&'static str, &'static str)>;
    let extended = |change: &dyn Fn(&mut Fields)| {
        let mut fields = vec![
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
            ("sec-websocket-version", "13"),
        ];
        change(&mut fields);
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let only = |fields: &[(&str, &str)]| headers(1, fields);
    check(vec![
        // §8.3, §8.3.1
        ("no method", without(":method"), Reset(PROTOCOL)),
        ("no scheme", without(":scheme"), Reset(PROTOCOL)),
        ("no path", without(":path"), Reset(PROTOCOL)),
        (
            "no authority and no host",
            without(":authority"),
            Answer(400),
        ),
        ("no field at all", only(&[]), Reset(PROTOCOL)),
        (
            "two methods",
            get_first(&[(":method", "GET")]),
            Reset(PROTOCOL),
        ),
        (
            "two schemes",
            get_first(&[(":scheme", "http")]),
            Reset(PROTOCOL),
        ),
        ("two paths", get_first(&[(":path", "/")]), Reset(PROTOCOL)),
        (
            "two authorities",
            get_first(&[(":authority", "a.test")]),
            Reset(PROTOCOL),
        ),
        (
            "one behind the fields",
            get(&[("x", "y"), (":path", "/")]),
            Reset(PROTOCOL),
        ),
        (
            "all behind a field",
            get_first(&[("x", "y")]),
            Reset(PROTOCOL),
        ),
        ("an unknown one", get(&[(":unknown", "y")]), Reset(PROTOCOL)),
        ("a name of a colon", get(&[(":", "y")]), Reset(PROTOCOL)),
        ("an answer's", get(&[(":status", "200")]), Reset(PROTOCOL)),
        ("in upper case", get(&[(":Path", "/")]), Reset(PROTOCOL)),
        ("an empty method", with(":method", ""), Reset(PROTOCOL)),
        (
            "a blank in the method",
            with(":method", "GET /x"),
            Reset(PROTOCOL),
        ),
        (
            "CRLF in the method",
            with(":method", "GET / HTTP/1.1\r\nx: y"),
            Reset(PROTOCOL),
        ),
        ("an empty scheme", with(":scheme", ""), Reset(PROTOCOL)),
        (
            "a scheme with a blank",
            with(":scheme", "http x"),
            Reset(PROTOCOL),
        ),
        (
            "a scheme with CRLF",
            with(":scheme", "http\r\nx: y"),
            Reset(PROTOCOL),
        ),
        (
            "a scheme that is a URI",
            with(":scheme", "http://b.test/?"),
            Reset(PROTOCOL),
        ),
        (
            "a scheme of something else",
            with(":scheme", "ftp"),
            Answer(400),
        ),
        ("an empty path", with(":path", ""), Reset(PROTOCOL)),
        (
            "a path without a slash",
            with(":path", "x"),
            Reset(PROTOCOL),
        ),
        (
            "a path that is a URI",
            with(":path", "http://b.test/"),
            Reset(PROTOCOL),
        ),
        ("a path of a star", with(":path", "*"), Reset(PROTOCOL)),
        ("a fragment", with(":path", "/a#b"), Reset(PROTOCOL)),
        (
            "a blank in the path",
            with(":path", "/a b"),
            Reset(PROTOCOL),
        ),
        (
            "a blank behind the path",
            with(":path", "/ "),
            Reset(PROTOCOL),
        ),
        ("a tab in the path", with(":path", "/a\tb"), Reset(PROTOCOL)),
        (
            "CRLF in the path",
            with(":path", "/ HTTP/1.1\r\nx: y\r\n\r\n"),
            Reset(PROTOCOL),
        ),
        ("NUL in the path", with(":path", "/a\0b"), Reset(PROTOCOL)),
        ("DEL in the path", with(":path", "/a\x7fb"), Reset(PROTOCOL)),
        ("UTF-8 in the path", with(":path", "/ä"), Reset(PROTOCOL)),
        (
            "an empty authority",
            with(":authority", ""),
            Reset(PROTOCOL),
        ),
        (
            "a blank in the authority",
            with(":authority", "a.test b"),
            Reset(PROTOCOL),
        ),
        (
            "CRLF in the authority",
            with(":authority", "a.test\r\nx: y"),
            Reset(PROTOCOL),
        ),
        (
            "an authority with a user",
            with(":authority", "u:p@a.test"),
            Answer(400),
        ),
        (
            "an authority with a path",
            with(":authority", "a.test/x"),
            Reset(PROTOCOL),
        ),
        ("another host", get(&[("host", "b.test")]), Answer(400)),
        (
            "two hosts",
            get(&[("host", "a.test"), ("host", "a.test")]),
            Answer(400),
        ),
        ("an empty host", get(&[("host", "")]), Answer(400)),
        // §8.5
        (
            "CONNECT",
            only(&[(":method", "CONNECT"), (":authority", "a.test:80")]),
            Answer(405),
        ),
        (
            "CONNECT with a path",
            only(&[
                (":method", "CONNECT"),
                (":authority", "a.test:80"),
                (":path", "/"),
            ]),
            Reset(PROTOCOL),
        ),
        (
            "CONNECT with a scheme",
            only(&[
                (":method", "CONNECT"),
                (":authority", "a.test:80"),
                (":scheme", "http"),
            ]),
            Reset(PROTOCOL),
        ),
        (
            "CONNECT to nobody",
            only(&[(":method", "CONNECT")]),
            Reset(PROTOCOL),
        ),
        ("TRACE", with(":method", "TRACE"), Answer(405)),
        // RFC 8441 §4
        (
            "a protocol of a GET",
            get_first(&[(":protocol", "websocket")]),
            Reset(PROTOCOL),
        ),
        (
            "another protocol",
            extended(&|fields| fields[1].1 = "connect-udp"),
            Answer(501),
        ),
        (
            "an empty protocol",
            extended(&|fields| fields[1].1 = ""),
            Reset(PROTOCOL),
        ),
        (
            "a WebSocket without a path",
            extended(&|fields| _ = fields.remove(4)),
            Reset(PROTOCOL),
        ),
        (
            "a WebSocket without a scheme",
            extended(&|fields| _ = fields.remove(2)),
            Reset(PROTOCOL),
        ),
        (
            "a WebSocket without an authority",
            extended(&|fields| _ = fields.remove(3)),
            Answer(400),
        ),
        (
            "two protocols",
            extended(&|fields| fields.insert(1, (":protocol", "websocket"))),
            Reset(PROTOCOL),
        ),
        (
            "another version",
            extended(&|fields| fields[5].1 = "12"),
            Answer(426),
        ),
        (
            "no version",
            extended(&|fields| _ = fields.pop()),
            Answer(426),
        ),
    ])
    .await;
}

#[tokio::test]
async fn malformed_fields() {
    let of = |name: &str, value: &[u8]| {
        let mut field = vec![0, u8::try_from(name.len()).unwrap()];
        field.extend(name.as_bytes());
        field.push(u8::try_from(value.len()).unwrap());
        field.extend(value);
        coded(&field)
    };
    let mut cases = vec![
        // §8.2.1
        ("an empty name", get(&[("", "y")]), Reset(PROTOCOL)),
        ("upper case", get(&[("X-Y", "z")]), Reset(PROTOCOL)),
        ("a blank in a name", get(&[("x y", "z")]), Reset(PROTOCOL)),
        (
            "a blank behind a name",
            get(&[("x ", "z")]),
            Reset(PROTOCOL),
        ),
        ("a colon in a name", get(&[("x:y", "z")]), Reset(PROTOCOL)),
        (
            "a line in a name",
            get(&[("x: y\r\nz", "z")]),
            Reset(PROTOCOL),
        ),
        ("NUL in a name", get(&[("x\0", "z")]), Reset(PROTOCOL)),
        ("DEL in a name", get(&[("x\x7f", "z")]), Reset(PROTOCOL)),
        (
            "a bracket in a name",
            get(&[("x(y)", "z")]),
            Reset(PROTOCOL),
        ),
        ("UTF-8 in a name", get(&[("ä", "z")]), Reset(PROTOCOL)),
        ("NUL in a value", of("x", b"a\0b"), Reset(PROTOCOL)),
        ("CR in a value", of("x", b"a\rb"), Reset(PROTOCOL)),
        ("LF in a value", of("x", b"a\nb"), Reset(PROTOCOL)),
        ("a line in a value", of("x", b"a\r\ny: z"), Reset(PROTOCOL)),
        (
            "a request in a value",
            of("x", b"a\r\n\r\nGET /b HTTP/1.1\r\nhost: b\r\n\r\n"),
            Reset(PROTOCOL),
        ),
        ("DEL in a value", of("x", b"a\x7f"), Reset(PROTOCOL)),
        ("a blank before a value", of("x", b" a"), Reset(PROTOCOL)),
        ("a blank behind a value", of("x", b"a "), Reset(PROTOCOL)),
        ("a tab behind a value", of("x", b"a\t"), Reset(PROTOCOL)),
        // §8.2.2
        ("te: gzip", get(&[("te", "gzip")]), Reset(PROTOCOL)),
        (
            "te: trailers, gzip",
            get(&[("te", "trailers, gzip")]),
            Reset(PROTOCOL),
        ),
        // §8.1.1
        (
            "a length that comes with an end",
            get(&[("content-length", "1")]),
            Reset(PROTOCOL),
        ),
        (
            "an empty length",
            get(&[("content-length", "")]),
            Reset(PROTOCOL),
        ),
        (
            "a signed length",
            get(&[("content-length", "+0")]),
            Reset(PROTOCOL),
        ),
        (
            "a list of lengths",
            get(&[("content-length", "0, 0")]),
            Reset(PROTOCOL),
        ),
        (
            "a long length",
            get(&[("content-length", "99999999999999999999")]),
            Reset(PROTOCOL),
        ),
        (
            "a length of 64 bits",
            post(&[("content-length", "9223372036854775808")]),
            Reset(PROTOCOL),
        ),
        (
            "two lengths",
            get(&[("content-length", "0"), ("content-length", "1")]),
            Reset(PROTOCOL),
        ),
        (
            "the same length twice",
            get(&[("content-length", "0"), ("content-length", "0")]),
            Answer(400),
        ),
        (
            "an unknown expectation",
            get(&[("expect", "the worst")]),
            Answer(417),
        ),
        // RFC 6585 §5
        (
            "too many fields",
            get(&[("x", "y")].repeat(101)),
            Answer(431),
        ),
        (
            "too many crumbs",
            get(&[("cookie", "a=b")].repeat(101)),
            Answer(431),
        ),
        (
            "a head that is too large",
            get(&[("x", &"y".repeat(16_300))]),
            Answer(431),
        ),
    ];
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        cases.push(("of the connection", get(&[(name, "x")]), Reset(PROTOCOL)));
    }
    check(cases).await;
}

#[tokio::test]
async fn a_fault_of_one_stream_leaves_the_table_and_the_others_as_they_were() {
    let upstream = Upstream::describing("pages").await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    // A block that puts its fields into the table: with a bad octet, and with a good one.
    let inserting = |fields: &[(&str, &[u8])]| {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.extend([0x40, u8::try_from(name.len()).unwrap()]);
            block.extend(name.as_bytes());
            block.push(u8::try_from(value.len()).unwrap());
            block.extend(*value);
        }
        block
    };
    let bad: &[(&str, &[u8])] = &[
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", b"a.test"),
        (":path", b"/first"),
        ("x-bad", b"a\r\nb"),
        ("X-Upper", b"c"),
        ("x-good", b"d"),
    ];
    let whole = END_HEADERS | END_STREAM;
    client
        .send(&frame(HEADERS, whole, 1, &inserting(bad)))
        .await;
    assert_eq!(client.outcome(1, true).await, Reset(PROTOCOL));
    // The latest entry has index 62: all but the bad ones, by index.
    let by_index = [0x80 | 68, 0x80 | 67, 0x80 | 66, 0x80 | 65, 0x80 | 62];
    client.send(&frame(HEADERS, whole, 3, &by_index)).await;
    let (status, body) = client.answer(3).await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(
        body.contains("/first") && body.contains(r#"["x-good","d"]"#),
        "{body}"
    );
    // A bad one by index is as bad as it was; so is one of its name.
    for (stream, field) in [
        (5, &[0x80 | 64][..]),
        (7, &[0x80 | 63]),
        (9, &[0x7f, 0, 1, b'z']),
    ] {
        let block = [&by_index[..4], field].concat();
        client.send(&frame(HEADERS, whole, stream, &block)).await;
        assert_eq!(
            client.outcome(stream, true).await,
            Reset(PROTOCOL),
            "{stream}"
        );
    }
    client
        .send(&frame(
            HEADERS,
            whole,
            11,
            &[0x80 | 69, 0x80 | 68, 0x80 | 67, 0x80 | 66],
        ))
        .await;
    assert_eq!(client.answer(11).await.0, 200);
}

#[tokio::test]
async fn what_is_odd_but_right_passes() {
    let upstream = Upstream::describing("pages").await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let plain = block(GET);
    let bytewise: Vec<u8> = {
        let mut frames = frame(HEADERS, END_STREAM, 1, &plain[..1]);
        for byte in &plain[1..40] {
            frames.extend(frame(CONTINUATION, 0, 1, &[*byte]));
        }
        frames.extend(frame(CONTINUATION, END_HEADERS, 1, &plain[40..]));
        frames
    };
    let padded = [&[3][..], &plain, &[0; 3]].concat();
    let prioritized = [&[0x80, 0, 0, 9, 255][..], &plain].concat();
    let options: Vec<_> = with(":method", "OPTIONS");
    for (name, request) in [
        (
            "padding",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded),
        ),
        (
            "a priority",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &prioritized,
            ),
        ),
        ("a head byte by byte", bytewise),
        (
            "unknown flags",
            frame(HEADERS, END_HEADERS | END_STREAM | 0xc2, 1, &plain),
        ),
        ("a table of no size", coded_first(&[0x20])),
        (
            "a table of no size, and of one",
            coded_first(&[0x20, 0x3f, 0xe1, 0x1f]),
        ),
        ("fields never indexed", coded(&[0x10, 1, b'a', 1, b'b'])),
        ("a coded field", coded(&[0, 1, b'a', 0x82, 0x1c, 0x64])),
        ("te: trailers", get(&[("te", "trailers")])),
        ("an empty value", get(&[("x", "")])),
        ("octets above ASCII in a value", get(&[("x", "ä")])),
        ("the same host", get(&[("host", "A.test")])),
        ("no length of no body", get(&[("content-length", "0")])),
        ("OPTIONS", options),
        ("the reserved bit of a stream's id", {
            let mut request = get(&[]);
            request[5] |= 0x80;
            request
        }),
        (
            "unknown frames around it",
            [
                frame(0x20, 1, 1, b"abc"),
                get(&[]),
                frame(0x21, 0, 0, &[0; 300]),
            ]
            .concat(),
        ),
        (
            "a body with padding and empty frames",
            [
                post(&[("content-length", "3")]),
                data(1, b"", 0),
                data(1, &[2, b'a', 0, 0], PADDED),
                data(1, &[0, b'b', b'c'], PADDED),
                data(1, b"", END_STREAM),
            ]
            .concat(),
        ),
        ("HEAD that ends late", {
            let mut fields = GET.to_vec();
            fields[0] = (":method", "HEAD");
            let head = frame(HEADERS, END_HEADERS, 1, &block(&fields));
            [head, data(1, b"", END_STREAM)].concat()
        }),
        (
            "trailers",
            [post(&[]), data(1, b"abc", 0), headers(1, &[("x", "y")])].concat(),
        ),
    ] {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&request).await;
        let (status, _) = client.answer(1).await;
        assert_eq!(status, 200, "{name}");
        // And once more, a byte at a time.
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.stream.set_nodelay(true).unwrap();
        for byte in request {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        let (status, _) = client.answer(1).await;
        assert_eq!(status, 200, "{name}, byte by byte");
    }
}

#[tokio::test]
async fn crumbs_of_a_cookie_are_one_field() {
    let upstream = Upstream::describing("pages").await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    client
        .send(&get(&[("cookie", "a=b"), ("x", "y"), ("cookie", "c=d")]))
        .await;
    let (_, body) = client.answer(1).await;
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains(r#"["cookie","a=b; c=d"]"#), "{body}");
}

#[tokio::test]
async fn who_the_client_is_nobody_says_but_us() {
    let upstream = Upstream::describing("pages").await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    let spoofed = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-real-ip",
        "x-request-id",
        "x-client-cert-subject",
        "forwarded",
        "proxy",
        "x_forwarded_for",
        "x_real_ip",
        "x_own",
    ];
    let fields: Vec<_> = spoofed.map(|name| (name, "spoofed.test")).to_vec();
    client.send(&get(&fields)).await;
    let (status, body) = client.answer(1).await;
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(!body.contains("spoofed.test"), "{body}");
    for ours in [
        r#"["x-forwarded-for","127.0.0.1"]"#,
        r#"["x-forwarded-host","a.test"]"#,
        r#"["x-forwarded-proto","http"]"#,
        r#"["x-real-ip","127.0.0.1"]"#,
    ] {
        assert!(body.contains(ours), "{ours}: {body}");
    }
}
