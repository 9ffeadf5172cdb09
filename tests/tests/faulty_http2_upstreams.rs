//! Servers of HTTP/2 that break its rules: the client gets a 502, or sees that its answer broke off, and the
//! next request finds everything well.
//!
//! "Bad framing, cut bodies, endless interim responses, giant heads, bytes past the end: 502 or an abort the
//! client can see, and never a poisoned next response." RFC 9113.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_tests::client::exchange;
use sluicegate_tests::http2::bare::{PREFACE, claimed, data, settings};
use sluicegate_tests::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, headers, read_frame,
};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// With the default of 60 s for an answer's head, whoever waits for that has not seen the fault.
const PATIENCE: Duration = Duration::from_secs(20);
const OK: &[(&str, &str)] = &[(":status", "200")];

/// A name, and what a server sends behind its settings when a request has come on stream 1.
type Case = (&'static str, Vec<u8>);

/// Reads up to the head of a request on a new connection.
async fn take_request(stream: &mut TcpStream) {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    assert_eq!(preface, PREFACE);
    let start = [settings(&[]), frame(SETTINGS, ACK, 0, b"")].concat();
    stream.write_all(&start).await.unwrap();
    while read_frame(stream).await.unwrap().kind != HEADERS {}
}

/// What a client of HTTP/1.1 gets in each case; behind it a request must find a server that is well.
async fn answers(cases: Vec<Case>) -> Vec<(&'static str, String)> {
    let server = Arc::new(Script::new().await);
    let addr = server.addr;
    let proxy = Proxy::in_front_of(addr, "").await;
    let config = std::fs::read_to_string(proxy.config_path()).unwrap();
    let config = config.replace(&format!("\"{addr}\""), &format!("\"h2c://{addr}\""));
    proxy.rewrite_config(&config);
    assert!(proxy.reload().await);
    let request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
    let mut answers = Vec::new();
    let well = [headers(1, OK), vec![]].concat();
    for (name, bytes) in cases {
        for (round, bytes) in [bytes, well.clone()].into_iter().enumerate() {
            let serving = tokio::spawn({
                let server = Arc::clone(&server);
                async move {
                    let mut stream = server.accept().await;
                    take_request(&mut stream).await;
                    // The proxy may close it before all is written.
                    let _ = stream.write_all(&bytes).await;
                    let _ = copy(&mut stream, &mut sink()).await;
                }
            });
            let answering = exchange(proxy.addr(0), request);
            let answer = timeout(PATIENCE, answering).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer: {name}"));
            serving.abort();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            match round {
                0 => answers.push((name, answer)),
                _ => assert!(
                    answer.starts_with("HTTP/1.1 200 "),
                    "behind {name}: {answer}"
                ),
            }
        }
    }
    answers
}

/// Each must become a 502.
async fn check_is_502(cases: Vec<Case>) {
    for (name, answer) in answers(cases).await {
        assert!(answer.starts_with("HTTP/1.1 502 "), "{name}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
    }
}

/// A head that says 200 and these fields; a body is to follow.
fn begun(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &block(&[OK, fields].concat()))
}

/// An interim answer with this field.
fn hint(name: &str, value: &str) -> Vec<u8> {
    let fields = [(":status", "103"), (name, value)];
    frame(HEADERS, END_HEADERS, 1, &block(&fields))
}

fn coded(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
}

#[tokio::test]
async fn frames_that_break_the_rules_are_a_502() {
    check_is_502(vec![
        (
            "HTTP/1.1",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
        ("DATA on 0", data(0, b"a", 0)),
        ("DATA on an idle stream", data(3, b"a", 0)),
        ("DATA before a head", data(1, b"a", END_STREAM)),
        ("HEADERS on 0", frame(HEADERS, END_HEADERS, 0, &block(OK))),
        ("HEADERS on an idle stream", headers(3, OK)),
        ("HEADERS on a stream of the server's", headers(2, OK)),
        (
            "PUSH_PROMISE",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
        ),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])),
        ("RST_STREAM that is well", frame(RST_STREAM, 0, 1, &[0; 4])),
        (
            "RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 3, &[0; 4]),
        ),
        ("WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "WINDOW_UPDATE by too much",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
        ),
        (
            "WINDOW_UPDATE by 0 of a stream",
            frame(WINDOW_UPDATE, 0, 1, &[0; 4]),
        ),
        (
            "CONTINUATION alone",
            frame(CONTINUATION, END_HEADERS, 1, &block(OK)),
        ),
        ("a head that is broken off by PING", {
            [frame(HEADERS, 0, 1, &block(OK)), frame(PING, 0, 0, &[0; 8])].concat()
        }),
        ("a frame too large", claimed(16_385, DATA, 0, 1)),
        ("PING of 7", frame(PING, 0, 0, &[0; 7])),
        ("SETTINGS of 5", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS that push", settings(&[(2, 1)])),
        (
            "SETTINGS that take RFC 8441 back",
            [settings(&[(8, 1)]), settings(&[(8, 0)])].concat(),
        ),
        (
            "SETTINGS with a window too large",
            settings(&[(4, 1 << 31)]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn heads_that_are_none_are_a_502() {
    let with = |fields: &[(&str, &str)]| headers(1, &[OK, fields].concat());
    let many: Vec<_> = [("x", "y")].repeat(201);
    check_is_502(vec![
        ("no status", headers(1, &[("x", "y")])),
        ("two statuses", with(OK)),
        ("a status of two digits", headers(1, &[(":status", "20")])),
        ("a status of letters", headers(1, &[(":status", "2OO")])),
        (
            "a status behind a field",
            headers(1, &[("x", "y"), (":status", "200")]),
        ),
        ("a request's pseudo-field", with(&[(":path", "/")])),
        ("upper case", with(&[("X", "y")])),
        ("an empty name", with(&[("", "y")])),
        ("a blank in a name", with(&[("x y", "z")])),
        ("a quote in a name", with(&[("x\"y", "z")])),
        ("a colon in a name", with(&[("x:y", "z")])),
        ("a line in a value", with(&[("x", "y\r\nset-cookie: z")])),
        ("NUL in a value", with(&[("x", "\0")])),
        ("a blank before a value", with(&[("x", " y")])),
        ("of the connection", with(&[("connection", "close")])),
        ("an encoding", with(&[("transfer-encoding", "chunked")])),
        ("a length that is none", with(&[("content-length", "x")])),
        ("an empty length", with(&[("content-length", "")])),
        (
            "two lengths",
            begun(&[("content-length", "1"), ("content-length", "2")]),
        ),
        (
            "a length that comes with an end",
            with(&[("content-length", "1")]),
        ),
        ("101", headers(1, &[(":status", "101")])),
        (
            "an interim answer that ends",
            headers(1, &[(":status", "103")]),
        ),
        ("a line in one", hint("x", "y\r\nset-cookie: z")),
        ("a blank before a value in one", hint("x", " y")),
        ("one of the connection", hint("connection", "close")),
        ("too many fields", with(&many)),
        ("a field that is too large", {
            let value = vec![b'y'; 100_000];
            let head = [&block(OK)[..], b"\x00\x01x\x7f", &[0xa1, 0x8c, 6], &value].concat();
            let (first, rest) = head.split_at(16_384);
            let pieces: Vec<Vec<u8>> = (rest.chunks(16_384))
                .map(|piece| frame(CONTINUATION, 0, 1, piece))
                .collect();
            [
                frame(HEADERS, END_STREAM, 1, first),
                pieces.concat(),
                frame(CONTINUATION, END_HEADERS, 1, b""),
            ]
            .concat()
        }),
        ("a head without an end", {
            let more = frame(CONTINUATION, 0, 1, &block(&[("x", "y")])).repeat(20_000);
            [frame(HEADERS, 0, 1, &block(OK)), more].concat()
        }),
        ("index 0", coded(&[0x88, 0x80])),
        ("an index beyond the table", coded(&[0x88, 0xbe])),
        ("a string that is cut", coded(&[0x88, 0, 9, b'x'])),
    ])
    .await;
}

/// As many as there may be go on.
#[tokio::test]
async fn interim_answers_without_an_end_end_in_a_502() {
    let endless = vec![("endless", hint("x", "y").repeat(5000))];
    for (_, answer) in answers(endless).await {
        let starts: Vec<_> = (answer.match_indices("HTTP/1.1 "))
            .map(|(at, start)| &answer[at + start.len()..][..3])
            .collect();
        let (last, hints) = starts.split_last().unwrap();
        assert_eq!(*last, "502", "{answer}");
        assert!(hints.len() <= 16, "{answer}");
        assert!(hints.iter().all(|status| *status == "103"), "{answer}");
    }
}

#[tokio::test]
async fn floods_are_a_502() {
    let endless = |frame: Vec<u8>| frame.repeat(5000);
    check_is_502(vec![
        ("PING", endless(frame(PING, 0, 0, &[0; 8]))),
        ("SETTINGS", endless(settings(&[(4, 70_000)]))),
        (
            "WINDOW_UPDATE",
            endless(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ),
        (
            "GOAWAY",
            endless(frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])),
        ),
        ("unknown frames", endless(frame(0x42, 0, 0, b""))),
    ])
    .await;
}

#[tokio::test]
async fn bodies_that_break_off_or_break_the_rules_do_so_visibly() {
    let after = |more: Vec<u8>| [begun(&[]), data(1, b"half", 0), more].concat();
    let sized =
        |more: Vec<u8>| [begun(&[("content-length", "8")]), data(1, b"half", 0), more].concat();
    for (name, answer) in answers(vec![
        ("too long", sized(data(1, b"other half", END_STREAM))),
        ("too short", sized(data(1, b"", END_STREAM))),
        ("too short, with trailers", sized(headers(1, &[("x", "y")]))),
        ("reset", after(frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]))),
        (
            "reset, and all is well",
            after(frame(RST_STREAM, 0, 1, &[0; 4])),
        ),
        (
            "a frame of the connection that is none",
            after(frame(PING, 0, 0, b"x")),
        ),
        (
            "a second head",
            after(frame(HEADERS, END_HEADERS, 1, &block(OK))),
        ),
        ("trailers with a status", after(headers(1, OK))),
        ("trailers in upper case", after(headers(1, &[("X", "y")]))),
        (
            "trailers with a line",
            after(headers(1, &[("x", "y\r\nz: a")])),
        ),
        ("a flood", after(frame(PING, 0, 0, &[0; 8]).repeat(5000))),
        ("empty frames", after(data(1, b"", 0).repeat(5000))),
    ])
    .await
    {
        // What came of the body may be lost with it, but nobody takes what is there for the whole.
        let is_refused = answer.starts_with("HTTP/1.1 502 ");
        let is_cut = answer.starts_with("HTTP/1.1 200 ") && {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            match head.contains("content-length: 8") {
                true => body.len() < 8,
                false => head.contains("transfer-encoding: chunked") && !body.contains("0\r\n\r\n"),
            }
        };
        assert!(is_refused || is_cut, "{name}: {answer}");
    }
}
