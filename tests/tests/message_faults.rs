//! What breaks the rules of WebSocket messages, on routes that read them: both ends hear the right close
//! code, nothing of a broken message passes, and deaths reach the other end.
//! Bombs, floods and slow readers are in `message_floods.rs`.

use std::time::{Duration, Instant};

use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::frame::{self, COMPRESSED, Frame, LengthForm};
use sluicegate_tests::websocket::{Heard, Peer, Role};
use tokio::io::AsyncWriteExt;

/// Something that an end must not send.
struct Fault {
    what: String,
    /// Written by the client or by the server, whose frames the function prepares.
    bytes: Box<Write>,
    code: u16,
    /// Only one who reads payloads sees it.
    in_payload: bool,
}

type Prepare<'a> = dyn Fn(Frame) -> Frame + 'a;
type Write = dyn Fn(&Prepare<'_>) -> Vec<u8>;

/// A proxy with these routes to one server: `/filter/` with a filter that passes everything on, `/limit/`
/// with a limit of messages alone, `/follow/` with neither.
async fn start(script: &Script) -> Proxy {
    let to = script.addr;
    Proxy::with_guest(&format!(
        r#"
        [[route]]
        path = "/filter/"
        to = "{to}"
        plugins = [{{ use = "guest", config = {{ act = "pass" }} }}]
        message_size = "{LIMIT}B"
        message_frames = 100
        [[route]]
        path = "/limit/"
        to = "{to}"
        message_size = "{LIMIT}B"
        message_frames = 100
        [[route]]
        path = "/close/"
        to = "{to}"
        plugins = [{{ use = "guest", config = {{ act = "close" }} }}]
        [[route]]
        path = "/text/"
        to = "{to}"
        text_only = true
        [[route]]
        path = "/follow/"
        to = "{to}"
        "#
    ))
    .await
}

fn framing_faults() -> Vec<Fault> {
    use frame::{BINARY, CLOSE, CONTINUATION, PING, TEXT};
    let mut faults = vec![
        fault(1002, "a length of 2^63", |end| {
            end(Frame::new(BINARY, "")).head_with_length(1 << 63)
        }),
        fault(1002, "five bytes in two", |end| {
            end(Frame::new(BINARY, "")).head(5, LengthForm::Two)
        }),
        fault(1002, "five bytes in eight", |end| {
            end(Frame::new(BINARY, "")).head(5, LengthForm::Eight)
        }),
        fault(1002, "65,535 bytes in eight", |end| {
            end(Frame::new(BINARY, "")).head(0xffff, LengthForm::Eight)
        }),
        fault(1009, "a head over the limit", |end| {
            end(Frame::new(BINARY, "")).head_with_length(LIMIT + 1)
        }),
        fault(1009, "a head of 2^62", |end| {
            end(Frame::new(BINARY, "")).head_with_length(1 << 62)
        }),
        fault(1009, "frames over the limit together", |end| {
            let half = vec![0; LIMIT as usize / 2 + 1];
            let mut bytes = end(Frame::new(BINARY, half).unfinished()).encode();
            bytes.extend(end(Frame::new(CONTINUATION, "")).head_with_length(LIMIT / 2));
            bytes
        }),
        fault(1008, "a hundred and one frames", |end| {
            let mut bytes = end(Frame::new(BINARY, "").unfinished()).encode();
            for _ in 0..100 {
                bytes.extend(end(Frame::new(CONTINUATION, "").unfinished()).encode());
            }
            bytes
        }),
        fault(
            1002,
            "a mask where none belongs, or none where it does",
            |end| {
                let frame = end(Frame::new(TEXT, "a"));
                let mask = match frame.mask {
                    Some(_) => None,
                    None => Some([1, 2, 3, 4]),
                };
                Frame { mask, ..frame }.encode()
            },
        ),
        fault(1002, "a Ping of 126 bytes", |end| {
            end(Frame::new(PING, "")).head(126, LengthForm::Two)
        }),
        fault(1002, "a Ping in pieces", |end| {
            end(Frame::new(PING, "a").unfinished()).encode()
        }),
        fault(1002, "a compressed Ping", |end| {
            end(Frame::new(PING, "a").with_rsv(COMPRESSED)).encode()
        }),
        fault(1002, "a Close in pieces", |end| {
            end(Frame::close(1000, "").unfinished()).encode()
        }),
        fault(1002, "a continuation of nothing", |end| {
            end(Frame::new(CONTINUATION, "a")).encode()
        }),
        fault(1002, "a continuation behind a whole message", |end| {
            let mut bytes = end(Frame::new(TEXT, "whole")).encode();
            bytes.extend(end(Frame::new(CONTINUATION, "a")).encode());
            bytes
        }),
        fault(1002, "a message within a message", |end| {
            let mut bytes = end(Frame::new(TEXT, "a").unfinished()).encode();
            bytes.extend(end(Frame::new(TEXT, "b")).encode());
            bytes
        }),
        fault(
            1002,
            "a compressed message where that was not agreed on",
            |end| end(Frame::new(TEXT, "a").with_rsv(COMPRESSED)).encode(),
        ),
        fault(1002, "a Close of one byte", |end| {
            end(Frame::new(CLOSE, "a")).encode()
        }),
        fault(1007, "a Close with a reason that is no UTF-8", |end| {
            end(Frame::new(CLOSE, [0x03, 0xe8, 0xff])).encode()
        }),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        faults.push(fault(1002, format!("an opcode of {opcode}"), move |end| {
            end(Frame::new(opcode, "a")).encode()
        }));
    }
    for rsv in [1, 2, 3] {
        faults.push(fault(1002, format!("reserved bits {rsv}"), move |end| {
            end(Frame::new(TEXT, "a").with_rsv(rsv)).encode()
        }));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        faults.push(fault(1002, format!("a close code of {code}"), move |end| {
            end(Frame::close(code, "")).encode()
        }));
    }
    faults
}

fn payload_faults() -> Vec<Fault> {
    use frame::{CONTINUATION, TEXT};
    let texts: [&[&[u8]]; 6] = [
        &[b"a\xff"],
        // A surrogate; overlong; over the last code point.
        &[b"\xed\xa0\x80"],
        &[b"\xc0\xaf"],
        &[b"\xf4\x90\x80\x80"],
        &[b"\xe2\x82", b"a"],
        // Cut off at the end.
        &[b"a", b"\xe2", b"\x82"],
    ];
    let faults = texts.into_iter().map(|pieces| {
        let in_payload = |end: &Prepare<'_>| {
            let frames = pieces.iter().enumerate().map(|(at, piece)| Frame {
                fin: at + 1 == pieces.len(),
                ..Frame::new(if at == 0 { TEXT } else { CONTINUATION }, *piece)
            });
            frames.flat_map(|frame| end(frame).encode()).collect()
        };
        Fault {
            in_payload: true,
            ..fault(1007, format!("a text of {pieces:x?}"), in_payload)
        }
    });
    faults.collect()
}

/// Where permessage-deflate was agreed on, with windows of 512 bytes.
fn deflate_faults() -> Vec<Fault> {
    use frame::{BINARY, CONTINUATION, PING};
    let compressed = |payload: &[u8]| Frame::new(BINARY, payload).with_rsv(COMPRESSED);
    let bomb = sluicegate_tests::websocket::deflate::bomb(LIMIT as usize + 1);
    let mut faults = vec![
        fault(1007, "a block of type 3", move |end| {
            end(compressed(&[0x06])).encode()
        }),
        fault(1007, "a reference to nothing", move |end| {
            // A fixed block that begins with a length of 3 and a distance of 1.
            end(compressed(&[0x03, 0x02, 0x00])).encode()
        }),
        fault(1007, "a stored block that is cut", move |end| {
            end(compressed(&[0x00, 0x09, 0x00, 0xf6, 0xff, 0x61])).encode()
        }),
        fault(1009, "a bomb", move |end| end(compressed(&bomb)).encode()),
        fault(1002, "a compressed Ping", |end| {
            end(Frame::new(PING, "a").with_rsv(COMPRESSED)).encode()
        }),
        fault(1002, "a compressed continuation", |end| {
            let mut bytes = end(Frame::new(BINARY, "a").unfinished()).encode();
            bytes.extend(end(Frame::new(CONTINUATION, "a").with_rsv(COMPRESSED)).encode());
            bytes
        }),
    ];
    for fault in &mut faults {
        fault.in_payload = fault.code != 1002;
    }
    faults
}

fn fault(
    code: u16,
    what: impl Into<String>,
    bytes: impl Fn(&Prepare<'_>) -> Vec<u8> + 'static,
) -> Fault {
    Fault {
        what: what.into(),
        bytes: Box::new(bytes),
        code,
        in_payload: false,
    }
}

/// Sends it from each end on this route and sees what both ends hear.
async fn check(proxy: &Proxy, script: &Script, path: &str, offers: &str, fault: &Fault) {
    use sluicegate_tests::websocket::negotiation::{Deflate, Params};
    let params = Params {
        window_bits: 9,
        takeover: true,
    };
    let wish = Deflate {
        client: params,
        server: params,
    };
    for from in [Role::Client, Role::Server] {
        let told = format!("{path}: {} from the {from:?}", fault.what);
        let wish = (!offers.is_empty()).then_some(wish);
        let (client, server) = Peer::pair(proxy.addr(0), path, offers, script, wish).await;
        assert_eq!(client.deflate.is_some(), wish.is_some(), "{told}");
        let (mut one, mut other) = match from {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let prepare = move |frame: Frame| match from {
            Role::Client => frame.masked([7, 7, 9, 250]),
            Role::Server => frame,
        };
        // It may be answered before all of it is sent.
        let bytes = (fault.bytes)(&prepare);
        let _ = one.send(&bytes).await;
        let (to_one, to_other) = tokio::join!(end(&mut one), end(&mut other));
        assert_eq!(to_one, to_other, "{told}");
        assert_eq!(to_one.0, fault.code, "{told}");
        assert!(!to_one.1.is_empty(), "{told}: no reason");
    }
}

/// The Close that comes next, but for whole messages before it, answered; then the stream ends.
async fn end(peer: &mut Peer) -> (u16, String) {
    loop {
        match peer.next().await {
            Heard::Message(message) => assert_eq!(message.data, b"whole"),
            Heard::Close(Some((code, reason))) => {
                let _ = peer.say(Frame::close(code, "")).await;
                assert_eq!(peer.closing().await, [Heard::End]);
                return (code, reason);
            }
            other => panic!("no Close but {other:?}"),
        }
    }
}

#[tokio::test]
async fn broken_framing_closes_both_sides_with_its_code() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    for fault in framing_faults() {
        for path in ["/filter/", "/limit/"] {
            check(&proxy, &script, path, "", &fault).await;
        }
    }
}

#[tokio::test]
async fn broken_text_closes_both_sides_and_no_part_of_it_passes() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    for fault in payload_faults() {
        check(&proxy, &script, "/filter/", "", &fault).await;
    }
}

#[tokio::test]
async fn broken_compression_closes_both_sides_with_its_code() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    let offers = "permessage-deflate; client_max_window_bits";
    for fault in deflate_faults() {
        check(&proxy, &script, "/filter/", offers, &fault).await;
        if !fault.in_payload {
            check(&proxy, &script, "/limit/", offers, &fault).await;
        }
    }
}

#[tokio::test]
async fn the_log_says_why() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    let whys = [
        ("/filter/", Frame::new(3, "a"), "protocol_error", 1002),
        (
            "/filter/",
            Frame::new(frame::TEXT, [0xff]),
            "protocol_error",
            1007,
        ),
        (
            "/limit/",
            Frame::new(frame::TEXT, vec![b'a'; LIMIT as usize + 1]),
            "message_size",
            1009,
        ),
        (
            "/text/",
            Frame::new(frame::BINARY, "a"),
            "message_kind",
            1003,
        ),
        (
            "/close/",
            Frame::new(frame::TEXT, "close 4321 enough"),
            "filter",
            4321,
        ),
    ];
    for (path, frame, cause, code) in whys {
        let (mut client, mut server) = Peer::pair(proxy.addr(0), path, "", &script, None).await;
        let _ = client.say(frame).await;
        let (to_client, to_server) = tokio::join!(end(&mut client), end(&mut server));
        assert_eq!((to_client.0, to_server.0), (code, code), "{path}");
        if cause == "filter" {
            assert_eq!(
                (to_client.1.as_str(), to_server.1.as_str()),
                ("enough", "enough")
            );
        }
        let line = proxy
            .access_event("ws.close", |event| {
                event["close_code"] == code && event["cause"] == cause
            })
            .await;
        assert_eq!(line["closed_by"], "proxy", "{path}");
    }
}

#[tokio::test]
async fn what_follows_a_close_is_ignored() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    for path in ["/filter/", "/limit/"] {
        let (mut client, mut server) = Peer::pair(proxy.addr(0), path, "", &script, None).await;
        client.say(Frame::close(1000, "bye")).await.unwrap();
        client.say(Frame::new(frame::TEXT, "more")).await.unwrap();
        // Not even its faults.
        client.say(Frame::new(3, "")).await.unwrap();
        let bye = Heard::Close(Some((1000, "bye".to_owned())));
        assert_eq!(server.next().await, bye);
        server.say(Frame::close(1000, "bye")).await.unwrap();
        drop(server);
        assert_eq!(client.closing().await, [bye, Heard::End]);
    }
}

#[tokio::test]
async fn an_end_without_a_close_reaches_the_other_side_and_no_part_of_a_message_does() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    for (path, from_client, reset) in [
        ("/filter/", true, false),
        ("/filter/", true, true),
        ("/filter/", false, false),
        ("/filter/", false, true),
        ("/limit/", true, true),
        ("/limit/", false, false),
    ] {
        let (client, server) = Peer::pair(proxy.addr(0), path, "", &script, None).await;
        let (mut going, mut staying) = match from_client {
            true => (client, server),
            false => (server, client),
        };
        going.say(Frame::new(frame::TEXT, "whole")).await.unwrap();
        // It has come through before the other one's end can overtake it.
        let Heard::Message(message) = staying.next().await else {
            panic!("{path}: no message");
        };
        assert_eq!(message.data, b"whole");
        going
            .say(Frame::new(frame::TEXT, "pa").unfinished())
            .await
            .unwrap();
        let began = Instant::now();
        if reset {
            going.reset();
        } else {
            drop(going);
        }
        let heard = staying.closing().await;
        assert_eq!(heard, [Heard::End], "{path}");
        assert!(began.elapsed() < Duration::from_secs(2), "{path}");
    }
}

#[tokio::test]
async fn a_side_that_has_said_all_still_hears() {
    let script = Script::new().await;
    let proxy = start(&script).await;
    for path in ["/follow/", "/filter/", "/limit/"] {
        for client_first in [true, false] {
            let (client, server) = Peer::pair(proxy.addr(0), path, "", &script, None).await;
            let (mut one, mut other) = match client_first {
                true => (client, server),
                false => (server, client),
            };
            one.say(Frame::new(frame::TEXT, "last")).await.unwrap();
            one.sender.shutdown().await.unwrap();
            let said = |heard| match heard {
                Heard::Message(message) => String::from_utf8(message.data).unwrap(),
                other => panic!("{path}: no message but {other:?}"),
            };
            assert_eq!(said(other.next().await), "last");
            assert_eq!(other.next().await, Heard::End, "{path}");
            for answer in ["first", "second"] {
                other.say(Frame::new(frame::TEXT, answer)).await.unwrap();
                assert_eq!(said(one.next().await), answer, "{path}");
            }
            drop(other);
            assert_eq!(one.next().await, Heard::End, "{path}");
        }
    }
}

/// Bytes of the largest message on the routes with a limit.
const LIMIT: u64 = 100_000;
