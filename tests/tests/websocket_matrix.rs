//! WebSockets between every pair of protocols, at each level of a tunnel, in plain and over TLS.
//!
//! Every property is held in every cell; a failure names the cells.

use std::slice;
use std::time::Duration;

use http::Response;
use sluicegate_tests::http2::server::Arrival;
use sluicegate_tests::matrix::{Bench, LISTENERS, Level, PASSING, Protocol, Visitor, cells};
use sluicegate_tests::websocket::deflate::Deflater;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{AnyPeer, Heard};
use sluicegate_tests::wire;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

#[tokio::test]
async fn messages_pass_whole_in_any_size_and_any_fragments() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let (mut client, mut server) = bench.open(cell, &[], Wish::default()).await;
            for size in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
                let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                let frame = Frame::new(frame::BINARY, data.clone());
                pass(&mut client, &mut server, slice::from_ref(&frame), &data).await;
                pass(&mut server, &mut client, &[frame], &data).await;
            }
            let pieces = [
                Frame::new(frame::TEXT, "one, ").unfinished(),
                Frame::new(frame::CONTINUATION, "").unfinished(),
                Frame::new(frame::CONTINUATION, "two, ").unfinished(),
                Frame::new(frame::CONTINUATION, "three"),
            ];
            pass(&mut client, &mut server, &pieces, b"one, two, three").await;
            pass(&mut server, &mut client, &pieces, b"one, two, three").await;
            client.say(Frame::new(frame::PING, "here")).await.unwrap();
            assert_eq!(server.next().await, Heard::Ping(b"here".to_vec()));
            server.say(Frame::new(frame::PONG, "here")).await.unwrap();
            assert_eq!(client.next().await, Heard::Pong(b"here".to_vec()));
        })
        .await;
}

#[tokio::test]
async fn both_ways_are_open_at_once() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let (mut client, mut server) = bench.open(cell, &[], Wish::default()).await;
            let data = vec![b'x'; 3_000_000];
            let frame = Frame::new(frame::BINARY, data.clone());
            let (up, down) = (frame.clone().masked([1, 2, 3, 4]).encode(), frame.encode());
            let (sent_up, sent_down, at_server, at_client) = tokio::join!(
                client.sender.write_all(&up),
                server.sender.write_all(&down),
                server.receiver.next(),
                client.receiver.next(),
            );
            sent_up.unwrap();
            sent_down.unwrap();
            for heard in [at_server, at_client] {
                assert!(matches!(heard, Heard::Message(message) if message.data == data));
            }
        })
        .await;
}

#[tokio::test]
async fn a_stalled_reader_holds_up_nobody_else() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            if (cell.downstream, cell.upstream) == (Protocol::Http1, Protocol::Http1) {
                // They share nothing.
                return;
            }
            let mut visitor = Visitor::default();
            let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
            let (mut client, mut server) = opening.await.unwrap();
            for client_stalls in [true, false] {
                let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
                let (one, other) = opening.await.unwrap();
                let (mut stalled, mut talker) = match client_stalls {
                    true => (one, other),
                    false => (other, one),
                };
                let message = vec![b'f'; 64 << 10];
                let talking = async {
                    for _ in 0..FLOOD {
                        let frame = Frame::new(frame::BINARY, message.clone());
                        talker.say(frame).await.unwrap();
                    }
                    talker
                };
                let mut talking = std::pin::pin!(talking);
                for _ in 0..20 {
                    tokio::select! {
                        biased;
                        () = echo(&mut client, &mut server) => {}
                        _ = &mut talking => panic!("nothing holds the flood up"),
                    }
                }
                let hearing = async {
                    for _ in 0..FLOOD {
                        let heard = stalled.next().await;
                        assert!(matches!(heard, Heard::Message(heard) if heard.data == message));
                    }
                };
                let (_talker, ()) = tokio::join!(talking, hearing);
            }
        })
        .await;
}

#[tokio::test]
async fn a_subprotocol_is_offered_and_chosen() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let offered = [("sec-websocket-protocol", "chat, superchat")];
            for chosen in [Some("superchat"), None] {
                let wish = Wish {
                    subprotocol: chosen,
                    ..Wish::default()
                };
                let (client, server) = bench.open(cell, &offered, wish).await;
                let name = "sec-websocket-protocol";
                assert_eq!(server.fields.all(name), ["chat, superchat"]);
                let answered: Vec<&str> = chosen.into_iter().collect();
                assert_eq!(client.fields.all(name), answered);
            }
        })
        .await;
}

#[tokio::test]
async fn compression_is_passed_through() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let (mut client, mut server) = bench.open(cell, &DEFLATE, COMPRESSING).await;
            let agreed = client.deflate.expect("compression");
            assert_eq!(server.deflate, Some(agreed));
            let mut random = Random::new(1);
            let mut up = Deflater::new(agreed.client, &mut random);
            let mut down = Deflater::new(agreed.server, &mut random);
            for text in ["Hello, hello, hello", "hello again, and again", ""] {
                let payload = up.message(text.as_bytes(), &mut random);
                compressed(&mut client, &mut server, payload, text).await;
                let payload = down.message(text.as_bytes(), &mut random);
                compressed(&mut server, &mut client, payload, text).await;
            }
        })
        .await;
}

#[tokio::test]
async fn compression_is_ended_on_either_leg() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(&[Level::Terminate], async |cell| {
            let text = "the same words, the same words, the same words, the same words";
            let plain = Frame::new(frame::TEXT, text);
            for (offered, wish) in [
                (&[][..], COMPRESSING),
                (&DEFLATE[..], Wish::default()),
                (&DEFLATE[..], COMPRESSING),
            ] {
                let (mut client, mut server) = bench.open(cell, offered, wish).await;
                assert_eq!(client.deflate.is_some(), !offered.is_empty());
                assert_eq!(server.deflate.is_some(), wish.deflate.is_some());
                pass(
                    &mut client,
                    &mut server,
                    slice::from_ref(&plain),
                    text.as_bytes(),
                )
                .await;
                pass(
                    &mut server,
                    &mut client,
                    slice::from_ref(&plain),
                    text.as_bytes(),
                )
                .await;
            }
        })
        .await;
}

#[tokio::test]
async fn a_close_and_its_answer_reach_the_other_end_before_the_stream_ends() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let closes = [
                (Vec::new(), None),
                (Frame::close(1000, "").payload, Some((1000, ""))),
                (
                    Frame::close(4321, "good bye").payload,
                    Some((4321, "good bye")),
                ),
            ];
            for (payload, said) in closes {
                let said = said.map(|(code, reason)| (code, reason.to_owned()));
                for client_begins in [true, false] {
                    let (client, server) = bench.open(cell, &[], Wish::default()).await;
                    let (mut one, mut other) = match client_begins {
                        true => (client, server),
                        false => (server, client),
                    };
                    let close = Frame::new(frame::CLOSE, payload.clone());
                    one.say(close.clone()).await.unwrap();
                    assert_eq!(other.next().await, Heard::Close(said.clone()));
                    other.say(close).await.unwrap();
                    assert_eq!(one.next().await, Heard::Close(said.clone()));
                    let (server, client) = match client_begins {
                        true => (&mut other, &mut one),
                        false => (&mut one, &mut other),
                    };
                    // The server's end goes first.
                    server.sender.shutdown().await.unwrap();
                    assert_eq!(client.next().await, Heard::End);
                    // The proxy may be gone already.
                    let _ = client.sender.shutdown().await;
                    assert_eq!(server.next().await, Heard::End);
                    for end in [client, server] {
                        assert!(end.receiver.broken.is_none(), "{:?}", end.receiver.broken);
                    }
                }
            }
        })
        .await;
}

#[tokio::test]
async fn what_the_server_says_at_once_is_not_lost() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let mut visitor = Visitor::default();
            let greeting = async {
                let arrival = bench.arrival(cell).await;
                let mut server = AnyPeer::answer(arrival, Wish::default()).await;
                server
                    .say(Frame::new(frame::TEXT, "welcome"))
                    .await
                    .unwrap();
                server
            };
            let asking = bench.ask(&mut visitor, cell, &[]);
            let (client, _server) = tokio::join!(asking, greeting);
            let heard = client
                .unwrap_or_else(|head| panic!("{head:?}"))
                .next()
                .await;
            assert!(matches!(heard, Heard::Message(message) if message.data == b"welcome"));
        })
        .await;
}

#[tokio::test]
async fn last_words_are_not_lost_when_an_end_leaves_behind_them() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            for client_leaves in [true, false] {
                let (client, server) = bench.open(cell, &[], Wish::default()).await;
                let (mut one, mut other) = match client_leaves {
                    true => (client, server),
                    false => (server, client),
                };
                let words = vec![b'w'; 100_000];
                let leaving = async {
                    let frame = Frame::new(frame::BINARY, words.clone());
                    one.say(frame).await.unwrap();
                    one.sender.shutdown().await.unwrap();
                    one.next().await
                };
                // An end of HTTP/2 may come with a Close, which nobody sees there: so it is held back.
                let held_back = client_leaves
                    && cell.level == Level::Copy
                    && cell.downstream == Protocol::Http2;
                let hearing = async {
                    let first = other.next().await;
                    if held_back {
                        other.sender.shutdown().await.unwrap();
                    }
                    assert_eq!(other.next().await, Heard::End);
                    if !held_back {
                        other.sender.shutdown().await.unwrap();
                    }
                    first
                };
                let (last, heard) = tokio::join!(leaving, hearing);
                assert_eq!(last, Heard::End);
                assert!(matches!(heard, Heard::Message(message) if message.data == words));
                for end in [one, other] {
                    assert!(end.receiver.broken.is_none(), "{:?}", end.receiver.broken);
                }
            }
        })
        .await;
}

#[tokio::test]
async fn an_end_that_breaks_off_ends_the_other_and_no_other_socket() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let mut visitor = Visitor::default();
            let mut pairs = Vec::new();
            for _ in 0..3 {
                let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
                pairs.push(opening.await.unwrap());
            }
            let (client, mut server) = pairs.pop().unwrap();
            let soon = Duration::from_secs(2);
            client.reset();
            assert_eq!(timeout(soon, server.next()).await.unwrap(), Heard::End);
            let (mut client, server) = pairs.pop().unwrap();
            server.reset();
            assert_eq!(timeout(soon, client.next()).await.unwrap(), Heard::End);
            let (mut client, mut server) = pairs.pop().unwrap();
            echo(&mut client, &mut server).await;
        })
        .await;
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_answer() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            let mut visitor = Visitor::default();
            let asking = bench.ask(&mut visitor, cell, &[]);
            let refusing = async { refuse(bench.arrival(cell).await).await };
            let (refused, ()) = tokio::join!(asking, refusing);
            let head = refused.err().expect("a refusal");
            assert_eq!(head.status(), 403);
            assert_eq!(head.get("x-why"), Some("no"));
            let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
            let (mut client, mut server) = opening.await.unwrap();
            echo(&mut client, &mut server).await;
        })
        .await;
}

#[tokio::test]
async fn a_server_that_ignores_the_upgrade_opens_no_stream_of_http2() {
    let bench = Bench::start("").await;
    bench
        .in_every_cell(PASSING, async |cell| {
            if cell.upstream == Protocol::Http2 {
                return;
            }
            let mut visitor = Visitor::default();
            let asking = bench.ask(&mut visitor, cell, &[]);
            let ignoring = async {
                let Arrival::Http1(mut stream) = bench.arrival(cell).await else {
                    panic!("a stream");
                };
                wire::read_head(&mut stream).await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.flush().await.unwrap();
            };
            let (answered, ()) = tokio::join!(asking, ignoring);
            let status = answered.err().map(|head| head.status());
            // By extended CONNECT a 200 would be the acceptance.
            let expected = match cell.downstream {
                Protocol::Http1 => 200,
                Protocol::Http2 => 502,
            };
            assert_eq!(status, Some(expected));
        })
        .await;
}

#[tokio::test]
async fn a_drain_says_close_on_both_legs() {
    let mut bench = Bench::start("[timeouts]\ndrain = '2s'").await;
    let mut visitor = Visitor::default();
    let mut sockets = Vec::new();
    for cell in cells(PASSING) {
        let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
        sockets.push((cell, opening.await.unwrap()));
    }
    bench.proxy.signal(libc::SIGTERM);
    let ending = sockets.into_iter().map(async |(cell, (client, server))| {
        let told = async |mut end: AnyPeer| {
            if cell.level != Level::Copy {
                let heard = end.next().await;
                let going = Some((1001, "server is shutting down".to_owned()));
                assert_eq!(heard, Heard::Close(going), "{cell}");
                end.say(Frame::close(1001, "")).await.unwrap();
            }
            assert_eq!(end.next().await, Heard::End, "{cell}");
        };
        tokio::join!(told(client), told(server));
    });
    futures_util::future::join_all(ending).await;
    assert_eq!(bench.proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn in_a_drain_open_sockets_go_on_and_a_connection_takes_no_new_ones() {
    let mut bench = Bench::start("[timeouts]\ndrain = '1000h'").await;
    let mut visitor = Visitor::default();
    let mut sockets = Vec::new();
    for cell in cells(PASSING) {
        let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
        sockets.push((cell, opening.await.unwrap()));
    }
    bench.proxy.signal(libc::SIGTERM);
    for connection in visitor.connections() {
        connection.told_to_go().await;
    }
    for (_, (client, server)) in &mut sockets {
        echo(client, server).await;
    }
    for connection in visitor.connections() {
        assert!(connection.open("/", &[]).await.is_err());
    }
    bench.proxy.signal(libc::SIGTERM);
    for (cell, (mut client, mut server)) in sockets {
        assert_eq!(client.next().await, Heard::End, "{cell}");
        assert_eq!(server.next().await, Heard::End, "{cell}");
    }
    assert_eq!(bench.proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_reload_touches_no_socket_and_new_streams_meet_new_routes() {
    let bench = Bench::start("").await;
    let mut visitor = Visitor::default();
    let mut sockets = Vec::new();
    for cell in cells(PASSING) {
        let opening = bench.open_by(&mut visitor, cell, &[], Wish::default());
        sockets.push((cell, opening.await.unwrap()));
    }
    let new = "[[route]]\npath_exact = '/new'\nrespond = { body = 'new' }\n";
    for routes in [format!("{}{new}", bench.config), new.to_owned()] {
        bench.proxy.rewrite_config(&format!("{LISTENERS}{routes}"));
        assert!(bench.proxy.reload().await);
        for (_, (client, server)) in &mut sockets {
            echo(client, server).await;
        }
        for connection in visitor.connections() {
            assert_eq!(connection.get("/new").await.unwrap().body, b"new");
            assert_eq!(connection.goaways(), 0);
        }
    }
    // None of the old routes is left.
    for cell in cells(PASSING) {
        let refused = bench.ask(&mut visitor, cell, &[]).await;
        assert_eq!(refused.err().map(|head| head.status()), Some(404), "{cell}");
    }
    for (_, (client, server)) in &mut sockets {
        echo(client, server).await;
    }
}

/// One message in these frames, which the other end must get whole.
async fn pass(from: &mut AnyPeer, to: &mut AnyPeer, frames: &[Frame], data: &[u8]) {
    let saying = async {
        for frame in frames {
            from.say(frame.clone()).await.unwrap();
        }
    };
    let ((), heard) = tokio::join!(saying, to.next());
    match heard {
        Heard::Message(message) => assert!(message.data == data, "{message:?}"),
        other => panic!("no message but {other:?}"),
    }
}

async fn echo(client: &mut AnyPeer, server: &mut AnyPeer) {
    let frame = Frame::new(frame::TEXT, "still there?");
    pass(client, server, slice::from_ref(&frame), &frame.payload).await;
    pass(server, client, slice::from_ref(&frame), &frame.payload).await;
}

/// A compressed message, which the other end must get as it was compressed.
async fn compressed(from: &mut AnyPeer, to: &mut AnyPeer, payload: Vec<u8>, text: &str) {
    let frame = Frame::new(frame::TEXT, payload).with_rsv(frame::COMPRESSED);
    from.say(frame).await.unwrap();
    match to.next().await {
        Heard::Message(message) => {
            assert!(message.compressed);
            assert_eq!(message.data, text.as_bytes());
        }
        other => panic!("no message but {other:?}"),
    }
}

/// Answers a handshake with 403.
async fn refuse(arrival: Arrival) {
    match arrival {
        Arrival::Http1(mut stream) => {
            wire::read_head(&mut stream).await.unwrap();
            let answer = b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 6\r\n\r\nno, no";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
        }
        Arrival::Http2(asked) => {
            let head = Response::builder().status(403).header("x-why", "no");
            asked.respond(head.body(()).unwrap(), "no, no");
        }
    }
}

/// Messages of 64 KiB: more than both legs can hold.
const FLOOD: usize = 128;
const DEFLATE: [(&str, &str); 1] = [(
    "sec-websocket-extensions",
    "permessage-deflate; client_max_window_bits",
)];
const COMPRESSING: Wish = Wish {
    deflate: Some(Deflate {
        client: Params {
            window_bits: 15,
            takeover: true,
        },
        server: Params {
            window_bits: 15,
            takeover: true,
        },
    }),
    subprotocol: None,
};
