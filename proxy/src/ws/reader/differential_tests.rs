//! The reader beside tungstenite: the same bytes give the same messages and the same verdict.
//!
//! The differences that are meant, each accounted for below:
//! - tungstenite takes a length in a longer form than it needs; RFC 6455 §5.2 does not, nor do we.
//! - It hands out a Close whose code may not be sent as a 1002 of its own; here that is a fault.
//! - It does not know 1014 (Bad Gateway), which IANA has registered since.
//! - It judges a frame once all of it is there, we at the first wrong byte. So most streams end in
//!   padding that completes the last frame; in others we may find a fault where it still waits.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as TheirCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as TheirMessage, WebSocket};

use super::*;
use crate::ws::frame::tests::{cut, frame};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing is wrong, but for a last frame that is not complete.
    Right,
    NotUtf8,
    Wrong,
    /// Wrong for us, and meant to be a difference.
    LengthForm,
}

/// A socket that the peer has written to and that takes every answer.
struct Socket(Cursor<Vec<u8>>);

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(side: Side, stream: &[u8]) -> (Vec<Seen>, Verdict) {
    let role = match side {
        Side::FromClient => Role::Server,
        Side::FromServer => Role::Client,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let socket = Socket(Cursor::new(stream.to_vec()));
    let mut socket = WebSocket::from_raw_socket(socket, role, Some(config));
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(TheirMessage::Text(text)) => Seen::Text(text.as_bytes().to_vec()),
            Ok(TheirMessage::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(TheirMessage::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(TheirMessage::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
            Ok(TheirMessage::Close(Some(close)))
                if close.code == TheirCode::Protocol
                    && close.reason.as_str() == "Protocol violation" =>
            {
                return (seen, Verdict::Wrong);
            }
            Ok(TheirMessage::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.to_string()));
                seen.push(Seen::Close(close));
                return (seen, Verdict::Right);
            }
            Ok(TheirMessage::Frame(_)) => panic!("tungstenite reads no bare frames"),
            Err(Error::Protocol(error)) if error.to_string().contains("without closing") => {
                return (seen, Verdict::Right);
            }
            Err(Error::Utf8(_)) => return (seen, Verdict::NotUtf8),
            Err(_) => return (seen, Verdict::Wrong),
        });
    }
}

fn ours(side: Side, chunks: &[Vec<u8>], want: Want) -> (Vec<Seen>, Verdict, u64) {
    let mut reader = Reader::new(Rules {
        side,
        deflate: None,
        max_message: LIMIT as u64,
        max_frames: u32::MAX,
        inspect: true,
    });
    let mut seen = Vec::new();
    for chunk in chunks {
        let mut bytes = &chunk[..];
        loop {
            let event = match reader.read(&mut bytes, |_| want) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(fault) => {
                    let verdict = match fault {
                        Fault::Text | Fault::CloseReason => Verdict::NotUtf8,
                        Fault::Framing(Violation::LengthNotMinimal) => Verdict::LengthForm,
                        // A control frame whose length takes more than a byte, maybe without need.
                        Fault::Framing(Violation::ControlTooLong) => Verdict::LengthForm,
                        _ => Verdict::Wrong,
                    };
                    return (seen, verdict, reader.messages());
                }
            };
            seen.push(match event {
                Event::Passed { .. } => continue,
                Event::Message(message) => match message.kind {
                    DataKind::Text => Seen::Text(message.into_plain()),
                    DataKind::Binary => Seen::Binary(message.into_plain()),
                },
                Event::Control(control) => match control.kind {
                    ControlKind::Ping => Seen::Ping(control.payload().to_vec()),
                    ControlKind::Pong => Seen::Pong(control.payload().to_vec()),
                    ControlKind::Close => {
                        let reason = control.close_reason().to_owned();
                        Seen::Close(control.close_code().map(|code| (code.0, reason)))
                    }
                },
            });
        }
    }
    (seen, Verdict::Right, reader.messages())
}

/// One frame, right or not quite.
fn any_frame(side: Side) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        20 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "[a-zé€😀]{0,12}".prop_map(String::into_bytes),
        1 => "[ -~]{120,300}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => Just(vec![b'x'; LIMIT - 10]),
    ];
    let data = (first, payload).boxed();
    let close = prop_oneof![
        Just(vec![]),
        (prop_oneof![1000..1017_u16, any::<u16>()], ".{0,30}").prop_map(|(code, reason)| [
            &code.to_be_bytes(),
            reason.as_bytes()
        ]
        .concat()),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    let close = close.prop_map(|payload| (0x88, payload)).boxed();
    let mask = prop_oneof![
        40 => any::<[u8; 4]>().prop_map(move |key| (side == Side::FromClient).then_some(key)),
        1 => prop::option::of(any::<[u8; 4]>()),
    ];
    let one = prop_oneof![15 => data, 1 => close];
    (one, mask).prop_map(|((first, payload), mask)| frame(first, &payload, mask))
}

/// Frames of both directions, a few of their bits changed now and then.
fn any_stream() -> impl Strategy<Value = (Side, Vec<u8>)> {
    let side = prop::sample::select(vec![Side::FromClient, Side::FromServer]);
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..3);
    let flips = prop_oneof![3 => Just(vec![]), 2 => flips];
    side.prop_flat_map(move |side| {
        let frames = prop::collection::vec(any_frame(side), 0..10);
        (frames, flips.clone()).prop_map(move |(frames, flips)| {
            let mut stream = frames.concat();
            for (at, bit) in flips {
                if !stream.is_empty() {
                    // Most likely inside a head, if the frame is short.
                    let at = at.index(stream.len().min(200));
                    stream[at] ^= 1 << bit;
                }
            }
            (side, stream)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_same_messages_and_the_same_verdict(
        (side, stream) in any_stream(),
        cuts in prop::collection::vec(0..400_usize, 0..20),
        padded in prop::bool::weighted(0.8),
    ) {
        let mut stream = stream;
        if padded {
            // Unmasked continuations of nothing, to either side wrong once they are read as frames.
            stream.resize(stream.len() + LIMIT + 14, 0);
        }
        let (their_seen, their_verdict) = theirs(side, &stream);
        let chunks = cut(&stream, &cuts);
        let (our_seen, our_verdict, messages) = ours(side, &chunks, Want::Whole);
        match our_verdict {
            Verdict::LengthForm => prop_assert!(their_seen.starts_with(&our_seen)),
            // They wait for the rest of a frame that is wrong already.
            Verdict::Wrong | Verdict::NotUtf8 if !padded && their_verdict == Verdict::Right => {
                prop_assert_eq!(&our_seen, &their_seen);
            }
            // They know better only until IANA's next addition.
            _ if our_seen.iter().any(|seen| matches!(seen, Seen::Close(Some((1014, _))))) => {
                prop_assert_eq!(their_verdict, Verdict::Wrong);
                prop_assert_eq!(&our_seen[..our_seen.len() - 1], &their_seen[..]);
            }
            _ => {
                prop_assert_eq!(&our_seen, &their_seen);
                // Text in a wrong frame may be wrong as well: which comes first is not the point.
                let right = |verdict| verdict == Verdict::Right;
                prop_assert_eq!(right(our_verdict), right(their_verdict));
                if their_verdict == Verdict::NotUtf8 {
                    prop_assert_ne!(our_verdict, Verdict::Right);
                }
            }
        }

        // What is passed on is judged like what is collected.
        let (passed_seen, passed_verdict, passed) = ours(side, &chunks, Want::Pass);
        prop_assert_eq!((passed_verdict, passed), (our_verdict, messages));
        let controls = our_seen.into_iter().filter(|seen| {
            !matches!(seen, Seen::Text(_) | Seen::Binary(_))
        });
        prop_assert_eq!(passed_seen, controls.collect::<Vec<_>>());
    }
}

/// Bytes of a message and of a frame, for both.
const LIMIT: usize = 2000;
