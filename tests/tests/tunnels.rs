//! Tunnels: idle timeouts, back-pressure, and big messages both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::certs::Authority;
use sluicegate_tests::client;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls as tls;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

async fn start(to: std::net::SocketAddr, idle_timeout: &str) -> Proxy {
    Proxy::observed(&format!(
        "[[route]]\nto = '{to}'\nidle_timeout = '{idle_timeout}'"
    ))
    .await
}

async fn open(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://a.test/", &[]);
    client::websocket(stream, request).await.unwrap().0
}

/// Both ends of one tunnel.
async fn open_pair(
    proxy: &Proxy,
    script: &Script,
) -> (WebSocketStream<TcpStream>, WebSocketStream<TcpStream>) {
    tokio::join!(open(proxy), script.accept_websocket())
}

/// Both ends of one tunnel that speaks TLS on both sides.
async fn open_tls_pair() -> (
    Proxy,
    WebSocketStream<tls::client::TlsStream<TcpStream>>,
    WebSocketStream<tls::server::TlsStream<TcpStream>>,
) {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    let identity = authority.issue(&["a.test", "127.0.0.1"]);
    identity.write(dir.path(), "a");
    std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
    let script = Script::new().await;
    let config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        tls = {{ cert = "a.crt", key = "a.key" }}
        [upstream.back]
        servers = ["https://{}"]
        tls = {{ ca = "ca.pem" }}
        [[route]]
        to = "back"
        "#,
        script.addr
    );
    let proxy = Proxy::start_in(dir, &config).await;
    let connecting = async {
        let config = authority.client(&["http/1.1"]);
        let stream = client::tls(proxy.addr(0), "a.test", config).await.unwrap();
        let request = client::ws_request("wss://a.test/", &[]);
        client::websocket(stream, request).await.unwrap().0
    };
    let accepting = async {
        let acceptor = tls::TlsAcceptor::from(identity.server(None));
        let stream = acceptor.accept(script.accept().await).await.unwrap();
        tokio_tungstenite::accept_async(stream).await.unwrap()
    };
    let (client, server) = tokio::join!(connecting, accepting);
    (proxy, client, server)
}

/// The code of the Close that comes next, with its reason.
async fn closed_with<S>(socket: &mut WebSocketStream<S>) -> (u16, String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match soon("a Close", socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("no Close but {other:?}"),
    }
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_on_both_sides() {
    let script = Script::new().await;
    let proxy = start(script.addr, "400ms").await;
    let (mut client, mut server) = open_pair(&proxy, &script).await;
    let began = Instant::now();
    let (down, up) = tokio::join!(closed_with(&mut client), closed_with(&mut server));
    assert!(began.elapsed() >= Duration::from_millis(400));
    let expected = (1001, "idle timeout".to_owned());
    assert_eq!((down, up), (expected.clone(), expected));
    // Both answers go out, both streams end.
    let (down, up) = tokio::join!(client.next(), server.next());
    assert!(down.is_none() && up.is_none(), "{down:?}, {up:?}");
    let line = proxy.access_event("ws.close", |_| true).await;
    assert_eq!(line["closed_by"], "proxy");
    assert_eq!(line["cause"], "idle_timeout");
    assert_eq!(line["close_code"], 1001);
}

#[tokio::test]
async fn traffic_in_either_direction_puts_the_idle_timeout_off() {
    let script = Script::new().await;
    let idle = Duration::from_millis(900);
    let proxy = start(script.addr, "900ms").await;
    for from_client in [true, false] {
        let (mut client, mut server) = open_pair(&proxy, &script).await;
        let began = Instant::now();
        let mut pace = tokio::time::interval(idle / 4);
        for _ in 0..8 {
            pace.tick().await;
            let (from, to) = match from_client {
                true => (&mut client, &mut server),
                false => (&mut server, &mut client),
            };
            from.send("tick".into()).await.unwrap();
            let heard = soon("a message", to.next()).await.unwrap().unwrap();
            assert_eq!(heard.to_text().unwrap(), "tick");
        }
        let last = Instant::now();
        assert!(last - began > idle);
        assert_eq!(closed_with(&mut client).await.0, 1001);
        // Counted from the last byte, give or take the way through the kernel.
        assert!(last.elapsed() >= idle - Duration::from_millis(50));
    }
}

#[tokio::test]
async fn the_end_of_one_side_reaches_the_other_at_once() {
    let script = Script::new().await;
    let proxy = start(script.addr, "1h").await;
    for (from_client, reset) in [(true, false), (true, true), (false, false), (false, true)] {
        let (client, server) = open_pair(&proxy, &script).await;
        let (going, mut staying) = match from_client {
            true => (client.into_inner(), server.into_inner()),
            false => (server.into_inner(), client.into_inner()),
        };
        let began = Instant::now();
        if reset {
            // No time to linger: the kernel answers with RST.
            socket2::SockRef::from(&going)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(going);
        assert!(client::read_to_end(&mut staying).await.is_empty());
        assert!(began.elapsed() < Duration::from_secs(2));
        drop(staying);
        let (who, cause) = (
            if from_client { "client" } else { "upstream" },
            if reset { "reset" } else { "eof" },
        );
        let closed = proxy
            .access_event("ws.close", |event| {
                event["closed_by"] == who && event["cause"] == cause
            })
            .await;
        assert_eq!(closed.get("close_code"), None);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_sender_and_not_in_our_memory() {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = 512;
    let script = Script::new().await;
    let proxy = start(script.addr, "1h").await;
    let (mut client, mut server) = open_pair(&proxy, &script).await;
    let before = proxy.resident_kib();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let sender = tokio::spawn(async move {
        for number in 0..PIECES {
            let piece = vec![u8::try_from(number % 251).unwrap(); PIECE];
            server.send(Message::binary(piece)).await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
        }
        server
    });
    // Stuck: nothing moves for twenty looks in a row.
    let (last, still) = (AtomicUsize::new(0), AtomicUsize::new(0));
    until("back-pressure", || async {
        let now = sent.load(Ordering::SeqCst);
        if now == 0 || last.swap(now, Ordering::SeqCst) != now {
            still.store(0, Ordering::SeqCst);
        }
        (still.fetch_add(1, Ordering::SeqCst) >= 20).then_some(())
    })
    .await;
    let held = sent.load(Ordering::SeqCst) * PIECE;
    assert!(held < PIECES * PIECE / 2, "{held} bytes were taken");
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "the proxy has grown by {grown} KiB");

    for number in 0..PIECES {
        let piece = soon("a piece", client.next()).await.unwrap().unwrap();
        let piece = piece.into_data();
        assert_eq!(piece.len(), PIECE);
        assert!(piece.iter().all(|&byte| usize::from(byte) == number % 251));
    }
    sender.await.unwrap();
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "the proxy has grown by {grown} KiB");
}

/// Sends a big message from each end at the same time.
async fn exchange_big_messages<C, S>(client: WebSocketStream<C>, server: WebSocketStream<S>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    const SIZE: usize = 16 << 20;
    // Neither constant nor periodic in a power of two: a byte lost or swapped shows.
    let payload = |seed: usize| -> Vec<u8> {
        let byte = |at: usize| (at.wrapping_mul(31).wrapping_add(at >> 8) + seed) as u8;
        (0..SIZE).map(byte).collect()
    };
    let (up, down) = (payload(1), payload(2));
    let ((mut to_proxy, mut from_proxy), (mut to_back, mut from_back)) =
        (client.split(), server.split());
    let (sent_up, sent_down, got_down, got_up) = soon("both messages", async {
        tokio::join!(
            to_proxy.send(Message::binary(up.clone())),
            to_back.send(Message::binary(down.clone())),
            from_proxy.next(),
            from_back.next(),
        )
    })
    .await;
    sent_up.unwrap();
    sent_down.unwrap();
    assert!(got_down.unwrap().unwrap().into_data() == down);
    assert!(got_up.unwrap().unwrap().into_data() == up);
}

#[tokio::test]
async fn sixteen_mebibytes_pass_intact_in_both_directions_at_once() {
    let script = Script::new().await;
    let proxy = start(script.addr, "1h").await;
    let (client, server) = open_pair(&proxy, &script).await;
    exchange_big_messages(client, server).await;
}

#[tokio::test]
async fn sixteen_mebibytes_pass_intact_through_tls_on_both_sides() {
    let (_proxy, client, server) = open_tls_pair().await;
    exchange_big_messages(client, server).await;
}

#[tokio::test]
async fn both_sides_of_a_tls_tunnel_hear_its_close_and_its_orderly_end() {
    async fn say_close<A, B>(first: &mut WebSocketStream<A>, second: &mut WebSocketStream<B>)
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let close = CloseFrame {
            code: CloseCode::Away,
            reason: "lunch".into(),
        };
        first.close(Some(close)).await.unwrap();
        assert_eq!(closed_with(second).await, (1001, "lunch".to_owned()));
        second.flush().await.unwrap();
        assert_eq!(closed_with(first).await, (1001, "lunch".to_owned()));
    }

    for client_begins in [true, false] {
        let (_proxy, mut client, mut server) = open_tls_pair().await;
        if client_begins {
            say_close(&mut client, &mut server).await;
        } else {
            say_close(&mut server, &mut client).await;
        }
        let (client, server) = (client.get_mut(), server.get_mut());
        server.shutdown().await.unwrap();
        // An end without close_notify would be an error.
        let mut nothing = [0; 64];
        assert_eq!(soon("the end", client.read(&mut nothing)).await.unwrap(), 0);
        assert_eq!(soon("the end", server.read(&mut nothing)).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn sixteen_mebibytes_are_echoed_while_more_go_up() {
    const SIZE: usize = 16 << 20;
    let echo = Upstream::echoing("echo").await;
    let proxy = start(echo.addr, "1h").await;
    let (mut to, mut from) = open(&proxy).await.split();
    let messages: Vec<Vec<u8>> = (1..=3).map(|n| vec![n; SIZE]).collect();
    let sending = async {
        for message in &messages {
            to.send(Message::binary(message.clone())).await.unwrap();
        }
    };
    let receiving = async {
        for message in &messages {
            let echoed = from.next().await.unwrap().unwrap();
            assert!(echoed.into_data() == *message);
        }
    };
    soon("the echoes", async { tokio::join!(sending, receiving) }).await;
}
