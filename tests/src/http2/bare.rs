//! A client over TCP that writes whatever bytes a test gives it, and sees what becomes of a stream.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, block,
    frame, headers, read_frame,
};
use crate::proxy::Proxy;
use crate::soon;
use crate::upstream::Script;

use Outcome::Nothing;

/// A connection whose bytes the test writes itself.
pub struct Bare {
    pub stream: TcpStream,
}

/// What became of a connection, or of a stream on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Answer(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, and the end of the connection.
    End(u32),
    /// The end of the connection, and not a word.
    Silence,
    /// Nothing: the connection goes on.
    Nothing,
}

/// Starts with one worker, HTTP/2 without TLS and one route to this server; `more` goes on with the route's table.
pub async fn proxy_in_front_of(server: SocketAddr, more: &str) -> Proxy {
    Proxy::start(&format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        http2 = true
        [upstream.server]
        servers = ["{server}"]
        health = {{ fails = 60000 }}
        [[route]]
        to = "server"
        {more}
        "#
    ))
    .await
}

impl Bare {
    /// A client that has said nothing.
    pub async fn connect(addr: SocketAddr) -> Bare {
        let stream = TcpStream::connect(addr).await.unwrap();
        Bare { stream }
    }

    /// A client that has sent its preface and these settings, and taken the server's.
    pub async fn open(addr: SocketAddr, settings: &[(u16, u32)]) -> Bare {
        let mut bare = Bare::connect(addr).await;
        bare.send(PREFACE).await;
        bare.send(&self::settings(settings)).await;
        let frame = bare.frame().await.unwrap();
        assert_eq!(frame.kind, SETTINGS);
        bare.send(&frame_of_ack()).await;
        bare
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        soon("a frame", read_frame(&mut self.stream)).await.ok()
    }

    /// What becomes of `stream`. Unless it `waits` for more, nothing may come of it at all.
    pub async fn outcome(&mut self, stream: u32, waits: bool) -> Outcome {
        const MARK: &[u8] = b"so far..";
        if !waits {
            // Whether it fails shows what is read.
            let _ = self.stream.write_all(&frame(PING, 0, 0, MARK)).await;
        }
        let mut code = None;
        while let Some(frame) = self.frame().await {
            match frame.kind {
                GOAWAY if frame.number(4) > 0 => code = Some(frame.number(4)),
                RST_STREAM if frame.stream == stream => return Outcome::Reset(frame.number(0)),
                HEADERS if frame.stream == stream => return Outcome::Answer(frame.status()),
                PING if frame.flags == ACK && frame.payload == MARK => return Outcome::Nothing,
                _ => {}
            }
        }
        code.map_or(Outcome::Silence, Outcome::End)
    }

    /// A whole answer: its status and body.
    pub async fn answer(&mut self, stream: u32) -> (u16, Vec<u8>) {
        let mut status = 0;
        let mut body = Vec::new();
        loop {
            let frame = self.frame().await.expect("an answer");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS if status == 0 => status = frame.status(),
                DATA => body.extend(&frame.payload),
                RST_STREAM => panic!("reset with {}", frame.number(0)),
                _ => {}
            }
            if frame.flags & END_STREAM > 0 {
                return (status, body);
            }
        }
    }
}

impl Frame {
    /// The number at these four bytes of the payload.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload[at..].first_chunk();
        u32::from_be_bytes(*bytes.unwrap())
    }

    /// The status of an answer's head, as the `h2` crate writes it: the first field.
    pub fn status(&self) -> u16 {
        match self.payload[0] {
            indexed @ 0x88..=0x8e => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]
            }
            // A literal behind the name's index, coded.
            0x08 | 0x48 => {
                let length = usize::from(self.payload[1] & 0x7f);
                let coded = &self.payload[2..2 + length];
                assert!(self.payload[1] & 0x80 > 0, "{self:?}");
                digits(coded)
            }
            _ => panic!("no status: {self:?}"),
        }
    }
}

/// A SETTINGS frame.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// Three digits in Huffman's code: five bits for 0 to 2, six for the others (RFC 7541 appendix B).
fn digits(coded: &[u8]) -> u16 {
    let mut bits = coded
        .iter()
        .fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
    bits <<= 32 - 8 * coded.len();
    let mut number = 0;
    for _ in 0..3 {
        let (digit, length) = match bits >> 27 {
            digit @ 0..=2 => (digit, 5),
            _ => ((bits >> 26) - 0x19 + 3, 6),
        };
        number = number * 10 + u16::try_from(digit).unwrap();
        bits <<= length;
    }
    number
}

fn frame_of_ack() -> Vec<u8> {
    frame(SETTINGS, ACK, 0, b"")
}

pub const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a.test"),
    (":path", "/"),
];

pub const POST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "a.test"),
    (":path", "/"),
];

/// A name, what is sent behind the settings, and what becomes of stream 1.
pub type Case = (&'static str, Vec<u8>, Outcome);

/// Each case on a connection of its own; no upstream may be asked anything.
pub async fn check(cases: Vec<Case>) {
    let upstream = Script::new().await;
    let wrong = outcomes(&upstream, cases).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(!upstream.was_contacted().await);
}

/// As [`check`], of cases whose faults come behind a request that is fine: the upstream takes it and is silent.
pub async fn check_behind_a_request(cases: Vec<Case>) {
    let upstream = Script::new().await;
    let wrong = outcomes(&upstream, cases).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn outcomes(upstream: &Script, cases: Vec<Case>) -> Vec<String> {
    let proxy = proxy_in_front_of(upstream.addr, "").await;
    let mut wrong = Vec::new();
    for (name, bytes, wanted) in cases {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&bytes).await;
        let outcome = soon(name, client.outcome(1, wanted != Nothing)).await;
        if outcome != wanted {
            wrong.push(format!("{name}: {outcome:?}, not {wanted:?}"));
        }
    }
    let mut client = Bare::open(proxy.addr(0), &[]).await;
    assert_eq!(client.outcome(1, false).await, Nothing);
    wrong
}

/// A request whose head has these fields, whole.
pub fn get(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, &[GET, fields].concat())
}

/// The head of a request with a body.
pub fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &block(&[POST, fields].concat()))
}

/// A frame's head that claims a length, with nothing behind it.
pub fn claimed(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut head = frame(kind, flags, stream, b"");
    head[..3].copy_from_slice(&length.to_be_bytes()[1..]);
    head
}

pub fn data(stream: u32, text: &[u8], flags: u8) -> Vec<u8> {
    frame(DATA, flags, stream, text)
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
