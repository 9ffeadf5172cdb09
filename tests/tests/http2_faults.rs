//! HTTP/2 clients that break its rules, frame by frame: what the standard names for each fault is what the
//! client sees, and no upstream hears of it. Heads have a file of their own, `http2_heads.rs`, and floods too.
//!
//! "Content-Length that does not match: refused on the stream." RFC 9113; sections stand beside the cases.

use sluicegate_tests::client::exchange;
use sluicegate_tests::http2::bare::{
    Bare, GET, Outcome, PREFACE, check, check_behind_a_request, claimed, data, get, post,
    proxy_in_front_of, settings,
};
use sluicegate_tests::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITIZED,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, headers,
};
use sluicegate_tests::until;
use sluicegate_tests::upstream::Script;
use tokio::io::AsyncWriteExt;

use Outcome::{End, Nothing, Reset, Silence};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const CALM: u32 = 11;

fn number(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

#[tokio::test]
async fn prefaces() {
    let upstream = Script::new().await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let get = get(&[]);
    // It is taken for HTTP/1.1, and is none.
    let answer = exchange(proxy.addr(0), &get).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    for (name, bytes, wanted) in [
        // §3.4: GOAWAY may be left out.
        (
            "another preface",
            [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", &get[..]].concat(),
            Silence,
        ),
        ("no SETTINGS", [PREFACE, &get].concat(), End(PROTOCOL)),
        (
            "PING first",
            [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
            End(PROTOCOL),
        ),
        (
            "an acknowledgement first",
            [PREFACE, &frame(SETTINGS, ACK, 0, b"")].concat(),
            End(PROTOCOL),
        ),
    ] {
        let mut client = Bare::connect(proxy.addr(0)).await;
        client.send(&bytes).await;
        assert_eq!(client.outcome(1, true).await, wanted, "{name}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn frames_of_a_wrong_size() {
    let ones = |length: usize| vec![1; length];
    check(vec![
        (
            "HEADERS too large",
            claimed(16_385, HEADERS, END_HEADERS, 1),
            End(FRAME_SIZE),
        ),
        (
            "an unknown frame too large",
            claimed(16_385, 0x20, 0, 0),
            End(FRAME_SIZE),
        ),
        // §6.3 to §6.9
        (
            "PRIORITY of 4",
            frame(PRIORITY, 0, 1, &ones(4)),
            End(FRAME_SIZE),
        ),
        (
            "PRIORITY of 6",
            frame(PRIORITY, 0, 1, &ones(6)),
            End(FRAME_SIZE),
        ),
        (
            "SETTINGS of 5",
            frame(SETTINGS, 0, 0, &ones(5)),
            End(FRAME_SIZE),
        ),
        (
            "SETTINGS of 7",
            frame(SETTINGS, 0, 0, &ones(7)),
            End(FRAME_SIZE),
        ),
        (
            "an acknowledgement of 6",
            frame(SETTINGS, ACK, 0, &ones(6)),
            End(FRAME_SIZE),
        ),
        ("PING of 7", frame(PING, 0, 0, &ones(7)), End(FRAME_SIZE)),
        ("PING of 9", frame(PING, 0, 0, &ones(9)), End(FRAME_SIZE)),
        (
            "GOAWAY of 7",
            frame(GOAWAY, 0, 0, &ones(7)),
            End(FRAME_SIZE),
        ),
        (
            "WINDOW_UPDATE of 3",
            frame(WINDOW_UPDATE, 0, 0, &ones(3)),
            End(FRAME_SIZE),
        ),
        (
            "WINDOW_UPDATE of 5",
            frame(WINDOW_UPDATE, 0, 0, &ones(5)),
            End(FRAME_SIZE),
        ),
        (
            "HEADERS that are all padding",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[9, 0x82]),
            End(PROTOCOL),
        ),
        (
            "HEADERS without room for its priority",
            frame(HEADERS, END_HEADERS | END_STREAM | PRIORITIZED, 1, &[0; 4]),
            End(FRAME_SIZE),
        ),
    ])
    .await;
    check_behind_a_request(vec![
        // §4.2
        (
            "DATA too large",
            [post(&[]), claimed(16_385, DATA, 0, 1)].concat(),
            End(FRAME_SIZE),
        ),
        (
            "RST_STREAM of 3",
            [get(&[]), frame(RST_STREAM, 0, 1, &ones(3))].concat(),
            End(FRAME_SIZE),
        ),
        (
            "RST_STREAM of 5",
            [get(&[]), frame(RST_STREAM, 0, 1, &ones(5))].concat(),
            End(FRAME_SIZE),
        ),
        // §6.1, §6.2: padding
        (
            "DATA that is all padding",
            [post(&[]), data(1, &[5, 0, 0, 0, 0], PADDED)].concat(),
            End(PROTOCOL),
        ),
    ])
    .await;
}

#[tokio::test]
async fn frames_on_a_stream_where_they_may_not_be() {
    check(vec![
        ("DATA on 0", data(0, b"a", 0), End(PROTOCOL)),
        (
            "HEADERS on 0",
            frame(HEADERS, END_HEADERS, 0, &block(GET)),
            End(PROTOCOL),
        ),
        (
            "PRIORITY on 0",
            frame(PRIORITY, 0, 0, &[0; 5]),
            End(PROTOCOL),
        ),
        (
            "RST_STREAM on 0",
            frame(RST_STREAM, 0, 0, &number(8)),
            End(PROTOCOL),
        ),
        ("SETTINGS on 1", frame(SETTINGS, 0, 1, b""), End(PROTOCOL)),
        ("PING on 1", frame(PING, 0, 1, &[0; 8]), End(PROTOCOL)),
        ("GOAWAY on 1", frame(GOAWAY, 0, 1, &[0; 8]), End(PROTOCOL)),
        (
            "CONTINUATION on 0",
            frame(CONTINUATION, END_HEADERS, 0, b""),
            End(PROTOCOL),
        ),
        // §5.1, §5.1.1
        (
            "DATA on an idle stream",
            data(1, b"a", END_STREAM),
            End(PROTOCOL),
        ),
        (
            "RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &number(8)),
            End(PROTOCOL),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &number(8)),
            End(PROTOCOL),
        ),
        (
            "CONTINUATION alone",
            frame(CONTINUATION, END_HEADERS, 1, &block(GET)),
            End(PROTOCOL),
        ),
        ("HEADERS on an even stream", headers(2, GET), End(PROTOCOL)),
        // §5.3.1 of RFC 7540
        (
            "HEADERS that depend on their own stream",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &[&[0, 0, 0, 1, 16], &block(GET)[..]].concat(),
            ),
            Reset(PROTOCOL),
        ),
        (
            "PRIORITY of an idle stream on itself",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]),
            End(PROTOCOL),
        ),
    ])
    .await;
    check_behind_a_request(vec![
        // §6.6
        (
            "PUSH_PROMISE",
            [post(&[]), frame(PUSH_PROMISE, END_HEADERS, 1, &number(2))].concat(),
            End(PROTOCOL),
        ),
    ])
    .await;
}

#[tokio::test]
async fn streams_that_are_over_or_half_so() {
    let get = get(&[]);
    let after = |more: Vec<u8>| [get.clone(), more].concat();
    let reset = frame(RST_STREAM, 0, 1, &number(8));
    let after_reset = |more: Vec<u8>| [post(&[]), reset.clone(), more].concat();
    let third = headers(3, GET);
    check_behind_a_request(vec![
        // §5.1
        (
            "DATA behind END_STREAM",
            after(data(1, b"a", 0)),
            End(STREAM_CLOSED),
        ),
        (
            "HEADERS behind END_STREAM",
            after(headers(1, GET)),
            End(STREAM_CLOSED),
        ),
        (
            "trailers behind END_STREAM",
            after(headers(1, &[("x", "y")])),
            End(STREAM_CLOSED),
        ),
        (
            "CONTINUATION behind END_HEADERS",
            after(frame(CONTINUATION, END_HEADERS, 1, b"")),
            End(PROTOCOL),
        ),
        (
            "DATA behind RST_STREAM",
            after_reset(data(1, b"a", 0)),
            End(STREAM_CLOSED),
        ),
        (
            "HEADERS behind RST_STREAM",
            after_reset(headers(1, GET)),
            End(STREAM_CLOSED),
        ),
        ("RST_STREAM twice", after_reset(reset.clone()), Nothing),
        (
            "WINDOW_UPDATE behind RST_STREAM",
            after_reset(frame(WINDOW_UPDATE, 0, 1, &number(8))),
            Nothing,
        ),
        (
            "PRIORITY behind RST_STREAM",
            after_reset(frame(PRIORITY, 0, 1, &[0; 5])),
            Nothing,
        ),
        // §5.1.1
        (
            "HEADERS on a stream that was passed over",
            [third.clone(), get.clone()].concat(),
            End(PROTOCOL),
        ),
        (
            "DATA on a stream that was passed over",
            [third, data(1, b"a", 0)].concat(),
            End(PROTOCOL),
        ),
        // §6.9
        (
            "WINDOW_UPDATE by 0",
            after(frame(WINDOW_UPDATE, 0, 1, &number(0))),
            Reset(PROTOCOL),
        ),
        (
            "WINDOW_UPDATE by too much",
            after(frame(WINDOW_UPDATE, 0, 1, &number(u32::MAX >> 1))),
            Reset(FLOW_CONTROL),
        ),
        (
            "SETTINGS that make a window too large",
            after(
                [
                    frame(WINDOW_UPDATE, 0, 1, &number((u32::MAX >> 1) - 65_535)),
                    settings(&[(4, 65_536)]),
                ]
                .concat(),
            ),
            End(FLOW_CONTROL),
        ),
        (
            "PRIORITY of a stream on itself",
            after(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])),
            Reset(PROTOCOL),
        ),
        // §8.1
        (
            "trailers that end nothing",
            [
                post(&[]),
                frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")])),
            ]
            .concat(),
            Reset(PROTOCOL),
        ),
        (
            "trailers with a pseudo-field",
            [post(&[]), headers(1, &[("x", "y"), (":path", "/")])].concat(),
            Reset(PROTOCOL),
        ),
        (
            "trailers in upper case",
            [post(&[]), headers(1, &[("X", "y")])].concat(),
            Reset(PROTOCOL),
        ),
        (
            "trailers of the connection",
            [post(&[]), headers(1, &[("connection", "close")])].concat(),
            Reset(PROTOCOL),
        ),
    ])
    .await;
}

#[tokio::test]
async fn settings_and_windows_of_the_connection() {
    check(vec![
        // §6.5.2
        ("ENABLE_PUSH of 2", settings(&[(2, 2)]), End(PROTOCOL)),
        (
            "INITIAL_WINDOW_SIZE of 2^31",
            settings(&[(4, 1 << 31)]),
            End(FLOW_CONTROL),
        ),
        (
            "MAX_FRAME_SIZE of 16,383",
            settings(&[(5, 16_383)]),
            End(PROTOCOL),
        ),
        (
            "MAX_FRAME_SIZE of 2^24",
            settings(&[(5, 1 << 24)]),
            End(PROTOCOL),
        ),
        (
            "ENABLE_CONNECT_PROTOCOL of 2",
            settings(&[(8, 2)]),
            End(PROTOCOL),
        ),
        (
            "unknown settings",
            settings(&[(0xabcd, 7), (0, 0)]),
            Nothing,
        ),
        (
            "a compressor's table as large as can be",
            settings(&[(1, u32::MAX)]),
            Nothing,
        ),
        // §6.9
        (
            "WINDOW_UPDATE by 0",
            frame(WINDOW_UPDATE, 0, 0, &number(0)),
            End(PROTOCOL),
        ),
        (
            "WINDOW_UPDATE by too much",
            frame(WINDOW_UPDATE, 0, 0, &number(u32::MAX >> 1)),
            End(FLOW_CONTROL),
        ),
        // §4.1, §5.5
        (
            "an unknown frame",
            frame(0x20, 0xff, 77, b"anything"),
            Nothing,
        ),
        (
            "an unknown frame of no bytes",
            frame(0xff, 0, 0, b""),
            Nothing,
        ),
        ("unknown flags", frame(PING, 0xfe, 0, &[7; 8]), Nothing),
        (
            "a PING that nobody asked for",
            frame(PING, ACK, 0, &[7; 8]),
            Nothing,
        ),
    ])
    .await;
}

#[tokio::test]
async fn bodies_that_are_not_as_long_as_they_say() {
    let sized = |length: &str, more: &[Vec<u8>]| {
        [post(&[("content-length", length)]), more.concat()].concat()
    };
    check_behind_a_request(vec![
        (
            "too short",
            sized("5", &[data(1, b"abc", END_STREAM)]),
            Reset(PROTOCOL),
        ),
        (
            "too long",
            sized("5", &[data(1, b"abcdef", END_STREAM)]),
            Reset(PROTOCOL),
        ),
        (
            "too long at once",
            sized("5", &[data(1, b"abc", 0), data(1, b"def", 0)]),
            Reset(PROTOCOL),
        ),
        (
            "nothing",
            sized("5", &[data(1, b"", END_STREAM)]),
            Reset(PROTOCOL),
        ),
        (
            "too short before trailers",
            sized("5", &[data(1, b"abc", 0), headers(1, &[("x", "y")])]),
            Reset(PROTOCOL),
        ),
        (
            "something of nothing",
            sized("0", &[data(1, b"a", END_STREAM)]),
            Reset(PROTOCOL),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_overruns_a_window_ends_its_stream() {
    let upstream = Script::new().await;
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    client.send(&post(&[])).await;
    // A stream's window is 128 KiB, and the upstream reads nothing.
    let piece = data(1, &[b'x'; 16_384], 0);
    let writing = async {
        for _ in 0..4096 {
            if client.stream.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), writing).await;
    assert_eq!(client.outcome(1, true).await, Reset(FLOW_CONTROL));
}

#[tokio::test]
async fn more_streams_than_there_may_be_are_refused() {
    let upstream = Script::new().await;
    let proxy = proxy_in_front_of(upstream.addr, "[limits]\nhttp2_streams = 2\n").await;
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    for stream in [1, 3, 5] {
        client.send(&headers(stream, GET)).await;
    }
    assert_eq!(client.outcome(5, true).await, Reset(REFUSED));
}

#[tokio::test]
async fn faults_are_counted() {
    let upstream = Script::new().await;
    let more =
        "[admin]\nbind = \"127.0.0.1:0\"\n[limits]\nhttp2_control_frames = 50\nhttp2_resets = 5\n";
    let proxy = proxy_in_front_of(upstream.addr, more).await;
    let reset = |count: u32| {
        let stream = 2 * count + 1;
        let cancel = frame(RST_STREAM, 0, stream, &number(8));
        [headers(stream, GET), cancel].concat()
    };
    let cases: [(Vec<u8>, Outcome); 4] = [
        (get(&[("X", "y")]), Reset(PROTOCOL)),
        (data(0, b"a", 0), End(PROTOCOL)),
        (frame(PING, 0, 0, &[0; 8]).repeat(60), End(CALM)),
        ((0..6).flat_map(reset).collect(), End(CALM)),
    ];
    for (bytes, wanted) in cases {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&bytes).await;
        assert_eq!(client.outcome(1, true).await, wanted);
    }
    for (reason, count) in [
        ("http2_malformed", 1),
        ("http2_protocol", 1),
        ("http2_flood", 2),
    ] {
        let line = format!("sluicegate_requests_rejected_total{{reason=\"{reason}\"}} {count}\n");
        // A client may see its connection's end before that is counted.
        until(&line, async || {
            let (_, metrics) = proxy.admin_request("GET", "/metrics", "").await;
            metrics.contains(&line).then_some(())
        })
        .await;
    }
}
