mod http2;

use super::*;
use crate::ws::control::encode_close;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::config::{Source, cases};
use crate::drain::Drain;
use crate::socket::Socket;

/// A tunnel between two real sockets, and their far ends.
struct Rig {
    client: UnixStream,
    server: UnixStream,
    drain: Drain,
    tunnel: JoinHandle<Summary>,
}

impl Rig {
    fn new(idle_timeout: Duration) -> Rig {
        Rig::expiring(idle_timeout, None)
    }

    fn expiring(idle_timeout: Duration, expiry: Option<Expiry>) -> Rig {
        let (client, downstream) = socket();
        let (server, upstream) = socket();
        let drain = Drain::default();
        let level = Level::Follow { compressed: false };
        let tunnel = Tunnel {
            idle_timeout,
            expiry: expiry.map(Box::new),
            ..tunnel(downstream, upstream, level, &drain)
        };
        Rig {
            client,
            server,
            drain,
            tunnel: tokio::spawn(tunnel.run()),
        }
    }
}

/// A tunnel that has time.
pub(super) fn tunnel(downstream: Stream, upstream: Stream, level: Level, drain: &Drain) -> Tunnel {
    let leg = |stream| Leg {
        stream,
        early: Bytes::new(),
    };
    Tunnel {
        downstream: leg(downstream),
        upstream: leg(upstream),
        level,
        silence: (None, None),
        idle_timeout: Duration::from_secs(600),
        drain: Duration::from_secs(3),
        expiry: None,
        member: drain.join(),
        budget: Budget::new(None),
        metrics: None,
    }
}

/// The far end of a tunnel's side, and that side.
pub(super) fn socket() -> (UnixStream, Stream) {
    let (far, near) = UnixStream::pair().unwrap();
    (far, Stream::Plain(Socket::Unix(near)))
}

async fn receive(socket: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn rest(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// A masked `hi` and a plain `ho`.
const HI: &[u8] = &[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
const HO: &[u8] = &[0x81, 0x02, b'h', b'o'];

#[tokio::test]
async fn carries_both_ways_and_tells_who_closed_with_what() {
    let mut rig = Rig::new(Duration::from_secs(60));
    rig.client.write_all(HI).await.unwrap();
    assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
    rig.server.write_all(HO).await.unwrap();
    assert_eq!(receive(&mut rig.client, HO.len()).await, HO);

    let close = encode_close(CloseCode::NORMAL, "", Some([9, 8, 7, 6]));
    rig.client.write_all(&close).await.unwrap();
    assert_eq!(receive(&mut rig.server, close.len()).await, &close[..]);
    let answer = encode_close(CloseCode::NORMAL, "", None);
    rig.server.write_all(&answer).await.unwrap();
    drop(rig.server);
    assert_eq!(rest(&mut rig.client).await, &answer[..]);

    // Behind two Close frames one side's end is enough: the client's is not waited for.
    let summary = rig.tunnel.await.unwrap();
    drop(rig.client);
    assert_eq!(summary.cause, Cause::Close);
    assert_eq!(summary.closed_by, ClosedBy::Downstream);
    assert_eq!(summary.close_code, Some(CloseCode::NORMAL));
    assert_eq!(
        summary.from_downstream,
        Traffic {
            bytes: (HI.len() + close.len()) as u64,
            messages: 1
        }
    );
    assert_eq!(summary.from_upstream.messages, 1);
    assert_eq!(rig.drain.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_when_it_should_busy_or_idle() {
    let lifetime = Duration::from_millis(2_300);
    for (idle_timeout, busy) in [(60, false), (60, true), (4, true)] {
        let started = Instant::now();
        let expiry = Expiry {
            at: started + lifetime,
            code: CloseCode(4001),
            lifetime: false,
        };
        let mut rig = Rig::expiring(Duration::from_secs(idle_timeout), Some(expiry));
        if busy {
            while started.elapsed() + Duration::from_millis(200) < lifetime {
                rig.client.write_all(HI).await.unwrap();
                assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        }
        let close = encode_close(CloseCode(4001), "session expired", None);
        assert_eq!(receive(&mut rig.client, close.len()).await, &close[..]);
        let took = started.elapsed();
        assert!(took >= lifetime, "{took:?}");
        assert!(took < lifetime + Duration::from_millis(100), "{took:?}");
        drop((rig.client, rig.server));
        let summary = rig.tunnel.await.unwrap();
        assert_eq!(summary.cause, Cause::Expired);
        assert_eq!(summary.close_code, Some(CloseCode(4001)));
    }
}

#[tokio::test]
async fn an_upstream_that_vanishes_ends_the_client_too() {
    let mut rig = Rig::new(Duration::from_secs(60));
    drop(rig.server);
    assert_eq!(rest(&mut rig.client).await, b"");
    drop(rig.client);
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.closed_by, ClosedBy::Upstream);
    assert_eq!(summary.close_code, None);
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_is_closed_with_a_close_frame_on_both_sides() {
    let mut rig = Rig::new(Duration::from_secs(60));
    let started = Instant::now();
    let to_client = encode_close(CloseCode::GOING_AWAY, "idle timeout", None);
    assert_eq!(
        receive(&mut rig.client, to_client.len()).await,
        &to_client[..]
    );
    assert_eq!(started.elapsed().as_secs(), 60);
    let to_server = receive(&mut rig.server, to_client.len() + 4).await;
    assert_eq!(to_server[..2], [0x88, 0x80 | to_client[1]], "masked");
    drop((rig.client, rig.server));
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(
        (summary.cause, summary.closed_by),
        (Cause::IdleTimeout, ClosedBy::Proxy)
    );
    assert_eq!(summary.close_code, Some(CloseCode::GOING_AWAY));
}

#[tokio::test]
async fn a_drain_closes_within_its_time_even_if_nobody_answers() {
    let mut rig = Rig::new(Duration::from_secs(60));
    rig.client.write_all(HI).await.unwrap();
    receive(&mut rig.server, HI.len()).await;
    let started = Instant::now();
    rig.drain.start();
    let to_client = encode_close(CloseCode::GOING_AWAY, "server is shutting down", None);
    assert_eq!(rest(&mut rig.client).await, &to_client[..]);
    assert!(started.elapsed() < Duration::from_secs(4));
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.cause, Cause::Drain);
    rig.drain.emptied().await;
}

#[tokio::test]
async fn a_patient_drain_leaves_the_tunnel_alone_and_a_stop_ends_it() {
    let mut rig = Rig::new(Duration::from_secs(60));
    rig.drain.start_patient();
    rig.client.write_all(HI).await.unwrap();
    assert_eq!(receive(&mut rig.server, HI.len()).await, HI);
    rig.drain.stop();
    assert_eq!(rig.tunnel.await.unwrap().cause, Cause::Stopped);
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let mut rig = Rig::new(Duration::from_secs(60));
    let mut frame = vec![0x82, 127, 0, 0, 0, 0, 0, 0x80, 0, 0];
    frame.resize(frame.len() + 0x80_0000, 7);
    let mut server = rig.server;
    let sent = frame.clone();
    let sender = tokio::spawn(async move {
        server.write_all(&sent).await.unwrap();
        server
    });
    // The client has read nothing, so the sender must still be waiting.
    let mut first = receive(&mut rig.client, 1).await;
    assert!(!sender.is_finished());
    first.extend(receive(&mut rig.client, frame.len() - 1).await);
    assert!(first == frame, "every byte arrives in order");
    drop(sender.await.unwrap());
    drop(rig.client);
    assert_eq!(rig.tunnel.await.unwrap().from_upstream.messages, 1);
}

#[test]
fn a_case_of_a_plugin_may_end_with_any_cause() {
    const ALL: [Cause; Cause::Stopped as usize + 1] = [
        Cause::Close,
        Cause::Eof,
        Cause::Reset,
        Cause::IdleTimeout,
        Cause::Expired,
        Cause::Lifetime,
        Cause::SilentClient,
        Cause::SilentServer,
        Cause::PongTimeout,
        Cause::Protocol,
        Cause::MessageSize,
        Cause::MessageRate,
        Cause::MessageKind,
        Cause::MessageFrames,
        Cause::ConnectionMemory,
        Cause::Memory,
        Cause::Filter,
        Cause::FilterFailed,
        Cause::Drain,
        Cause::Stopped,
    ];
    for (index, cause) in ALL.into_iter().enumerate() {
        assert_eq!(cause as usize, index);
        let (name, label) = ("cases.toml".to_owned(), cause.label());
        let text = format!(
            "[[case]]\nname = \"a\"\nending = {{ cause = \"{label}\" }}\n\
             [[case.messages]]\nclient = \"hello\"\n"
        );
        let dir = std::path::PathBuf::new();
        let suite = cases::parse(&Arc::new(Source { name, text, dir }));
        let suite = suite.map_err(|report| report.render(false));
        assert_eq!(suite.unwrap().cases[0].ending.cause, label);
    }
}
