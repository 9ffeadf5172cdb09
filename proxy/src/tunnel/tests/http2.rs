//! Tunnels one or both of whose sides are streams of an HTTP/2 connection.

use super::*;

use tokio::time::timeout;

use crate::http2::Duplex;
use crate::http2::testing::Connection;

/// Far ends: of an HTTP/2 stream to the client, and of a socket to the server.
struct Rig {
    client: Duplex,
    server: UnixStream,
    drain: Drain,
    tunnel: JoinHandle<Summary>,
    _connection: Connection,
}

impl Rig {
    async fn new(level: Level) -> Rig {
        let mut connection = Connection::new().await;
        let (client, downstream) = connection.pair().await;
        let (server, upstream) = socket();
        let drain = Drain::default();
        let downstream = Stream::Http2(Box::new(downstream));
        let tunnel = tunnel(downstream, upstream, level, &drain);
        Rig {
            client,
            server,
            drain,
            tunnel: tokio::spawn(tunnel.run()),
            _connection: connection,
        }
    }
}

fn levels() -> [Level; 3] {
    [
        Level::Copy,
        Level::Follow { compressed: false },
        Level::Messages(Box::new(Terms {
            rules: std::sync::Arc::default(),
            compression: crate::ws::deflate::Legs::default(),
            memory: None,
            judge: None,
        })),
    ]
}

fn client_close() -> Vec<u8> {
    encode_close(CloseCode::NORMAL, "", Some([9, 8, 7, 6])).to_vec()
}

fn server_close() -> Vec<u8> {
    encode_close(CloseCode::NORMAL, "", None).to_vec()
}

async fn expect(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

async fn expect_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test(start_paused = true)]
async fn an_end_with_a_close_waits_for_the_answer() {
    for level in levels() {
        let blind = matches!(level, Level::Copy);
        let mut rig = Rig::new(level).await;
        rig.client.write_all(HI).await.unwrap();
        expect(&mut rig.server, HI).await;
        // As Chromium does: the Close frame has END_STREAM.
        rig.client.write_all(&client_close()).await.unwrap();
        rig.client.shutdown().await.unwrap();
        expect(&mut rig.server, &client_close()).await;
        let more = timeout(Duration::from_secs(4), rig.server.read(&mut [0; 1])).await;
        assert!(more.is_err(), "the end went ahead of the answer");
        rig.server.write_all(&server_close()).await.unwrap();
        expect(&mut rig.client, &server_close()).await;
        if blind {
            rig.server.shutdown().await.unwrap();
        }
        expect_end(&mut rig.client).await;
        expect_end(&mut rig.server).await;
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.closed_by, ClosedBy::Downstream);
        let (cause, code) = match blind {
            true => (Cause::Eof, None),
            false => (Cause::Close, Some(CloseCode::NORMAL)),
        };
        assert_eq!((summary.cause, summary.close_code), (cause, code));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_passed_on_in_the_end() {
    // Without a Close at once; behind one that nobody answers after a while.
    for (close, soon) in [(false, true), (true, false)] {
        let mut rig = Rig::new(Level::Follow { compressed: false }).await;
        if close {
            rig.client.write_all(&client_close()).await.unwrap();
            expect(&mut rig.server, &client_close()).await;
        }
        rig.client.shutdown().await.unwrap();
        let began = Instant::now();
        expect_end(&mut rig.server).await;
        let waited = began.elapsed();
        assert_eq!(waited < Duration::from_secs(1), soon, "{waited:?}");
        assert!(waited < Duration::from_secs(6), "{waited:?}");
        drop(rig.server);
        assert_eq!(rig.tunnel.await.unwrap().closed_by, ClosedBy::Downstream);
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_unless_a_close_came_first() {
    for (close, cause) in [(false, Cause::Reset), (true, Cause::Close)] {
        let mut rig = Rig::new(Level::Follow { compressed: false }).await;
        rig.client.write_all(HI).await.unwrap();
        expect(&mut rig.server, HI).await;
        if close {
            rig.client.write_all(&client_close()).await.unwrap();
            expect(&mut rig.server, &client_close()).await;
        }
        drop(rig.client);
        expect_end(&mut rig.server).await;
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.cause, cause);
        assert_eq!(summary.closed_by, ClosedBy::Downstream);
        assert_eq!(summary.close_code, close.then_some(CloseCode::NORMAL));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_seen_while_the_server_takes_nothing() {
    // A masked frame of 16 KiB.
    let mut piece = vec![0x82, 0x80 | 126, 0x40, 0, 1, 2, 3, 4];
    piece.resize(piece.len() + 0x4000, 7);
    for goes_on in [false, true] {
        for level in levels() {
            let mut rig = Rig::new(level).await;
            let flood = async {
                loop {
                    rig.client.write_all(&piece).await.unwrap();
                }
            };
            assert!(timeout(Duration::from_secs(1), flood).await.is_err());
            drop(rig.client);
            // By now the tunnel has been told.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut got = Vec::new();
            if goes_on {
                rig.server.read_to_end(&mut got).await.unwrap();
            }
            let summary = rig.tunnel.await.unwrap();
            let came = summary.from_downstream.bytes;
            assert_eq!(goes_on, got.len() as u64 == came, "{} of {came}", got.len());
            assert_eq!(summary.cause, Cause::Reset);
            assert_eq!(summary.closed_by, ClosedBy::Downstream);
            assert!(summary.duration < Duration::from_secs(10));
        }
    }
}

#[tokio::test]
async fn a_server_that_breaks_off_resets_the_stream() {
    let mut rig = Rig::new(Level::Follow { compressed: false }).await;
    rig.client.write_all(HI).await.unwrap();
    // Unread bytes make the kernel answer with a reset.
    drop(rig.server);
    loop {
        match rig.client.read(&mut [0; 64]).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                break;
            }
        }
    }
    drop(rig.client);
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.closed_by, ClosedBy::Upstream);
}

#[tokio::test]
async fn a_drain_says_close_and_ends_both_sides() {
    for level in levels().into_iter().skip(1) {
        let mut rig = Rig::new(level).await;
        rig.client.write_all(HI).await.unwrap();
        expect(&mut rig.server, HI).await;
        rig.drain.start();
        let told = encode_close(CloseCode::GOING_AWAY, "server is shutting down", None);
        expect(&mut rig.client, &told).await;
        receive(&mut rig.server, told.len() + 4).await;
        let answer = encode_close(CloseCode::GOING_AWAY, "", Some([9, 8, 7, 6]));
        rig.client.write_all(&answer).await.unwrap();
        rig.client.shutdown().await.unwrap();
        let answer = encode_close(CloseCode::GOING_AWAY, "", None);
        rig.server.write_all(&answer).await.unwrap();
        expect_end(&mut rig.client).await;
        expect_end(&mut rig.server).await;
        assert_eq!(rig.tunnel.await.unwrap().cause, Cause::Drain);
    }
}

/// Far ends of two streams, and the tunnel between them.
struct Between {
    client: Duplex,
    server: Duplex,
    tunnel: JoinHandle<Summary>,
    _connections: [Connection; 2],
}

impl Between {
    async fn new(level: Level) -> Between {
        let (mut near, mut far) = (Connection::new().await, Connection::new().await);
        let (client, downstream) = near.pair().await;
        let (upstream, server) = far.pair().await;
        let tunnel = tunnel(
            Stream::Http2(Box::new(downstream)),
            Stream::Http2(Box::new(upstream)),
            level,
            &Drain::default(),
        );
        Between {
            client,
            server,
            tunnel: tokio::spawn(tunnel.run()),
            _connections: [near, far],
        }
    }
}

#[tokio::test]
async fn last_words_reach_a_server_over_http2() {
    for (level, server_ends) in levels().into_iter().zip([true, true, true]).chain([
        // A drop of this side would take back what has not gone out.
        (Level::Follow { compressed: false }, false),
    ]) {
        let blind = matches!(level, Level::Copy);
        let mut rig = Between::new(level).await;
        // The server begins the end, and the client's answer is the last that is said.
        rig.server.write_all(&server_close()).await.unwrap();
        if server_ends {
            rig.server.shutdown().await.unwrap();
        }
        expect(&mut rig.client, &server_close()).await;
        rig.client.write_all(&client_close()).await.unwrap();
        rig.client.shutdown().await.unwrap();
        expect(&mut rig.server, &client_close()).await;
        expect_end(&mut rig.server).await;
        expect_end(&mut rig.client).await;
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.closed_by, ClosedBy::Upstream);
        assert_eq!(summary.cause == Cause::Eof, blind);
    }
}

#[tokio::test]
async fn a_reset_of_either_stream_resets_the_other() {
    for client_resets in [true, false] {
        let mut rig = Between::new(Level::Follow { compressed: false }).await;
        rig.client.write_all(HI).await.unwrap();
        expect(&mut rig.server, HI).await;
        let (gone, mut left) = match client_resets {
            true => (rig.client, rig.server),
            false => (rig.server, rig.client),
        };
        drop(gone);
        let error = left.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(rig.tunnel.await.unwrap().cause, Cause::Reset);
    }
}

#[tokio::test]
async fn a_close_arrives_though_its_sender_breaks_off_behind_it() {
    for level in levels().into_iter().skip(1) {
        let mut rig = Rig::new(level).await;
        rig.client.write_all(HI).await.unwrap();
        rig.server.readable().await.unwrap();
        rig.server.write_all(&server_close()).await.unwrap();
        // Unread bytes make the kernel answer with a reset.
        drop(rig.server);
        expect(&mut rig.client, &server_close()).await;
        expect_end(&mut rig.client).await;
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.cause, Cause::Close);
        assert_eq!(summary.closed_by, ClosedBy::Upstream);
    }
    for level in levels().into_iter().skip(1) {
        let mut connection = Connection::new().await;
        let (upstream, mut server) = connection.pair().await;
        let (mut client, downstream) = socket();
        let upstream = Stream::Http2(Box::new(upstream));
        let tunnel = tunnel(downstream, upstream, level, &Drain::default());
        let tunnel = tokio::spawn(tunnel.run());
        server.write_all(&server_close()).await.unwrap();
        client.readable().await.unwrap();
        client.write_all(&client_close()).await.unwrap();
        drop(client);
        expect(&mut server, &client_close()).await;
        expect_end(&mut server).await;
        assert_eq!(tunnel.await.unwrap().cause, Cause::Close);
    }
}

#[tokio::test]
async fn a_slow_reader_of_one_stream_holds_its_sender_back() {
    let mut rig = Between::new(Level::Follow { compressed: false }).await;
    let mut frame = vec![0x82, 127, 0, 0, 0, 0, 0, 0x20, 0, 0];
    frame.resize(frame.len() + 0x20_0000, 7);
    let sent = frame.clone();
    let mut server = rig.server;
    let sender = tokio::spawn(async move {
        server.write_all(&sent).await.unwrap();
        server
    });
    let mut first = vec![0; 1];
    rig.client.read_exact(&mut first).await.unwrap();
    assert!(!sender.is_finished());
    first.resize(frame.len(), 0);
    rig.client.read_exact(&mut first[1..]).await.unwrap();
    assert!(first == frame, "every byte arrives in order");
    drop(sender.await.unwrap());
    drop(rig.client);
    assert_eq!(rig.tunnel.await.unwrap().from_upstream.messages, 1);
}
