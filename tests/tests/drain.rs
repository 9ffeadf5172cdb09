//! Stops: who is told, who may finish, and how the next process takes over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, free_port, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

async fn start(bind: &str, to: SocketAddr, drain: &str) -> Proxy {
    Proxy::start(&config(bind, to, drain)).await
}

fn config(bind: &str, to: SocketAddr, drain: &str) -> String {
    format!(
        r#"
        [[listener]]
        bind = "{bind}"
        [admin]
        bind = "127.0.0.1:0"
        [[route]]
        to = "{to}"
        [timeouts]
        drain = "{drain}"
        "#
    )
}

async fn open(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    open_at(proxy, "/").await
}

async fn open_at(proxy: &Proxy, path: &str) -> WebSocketStream<TcpStream> {
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request(&format!("ws://a.test{path}"), &[]);
    client::websocket(stream, request).await.unwrap().0
}

async fn echoes(socket: &mut WebSocketStream<TcpStream>) {
    socket.send("ping".into()).await.unwrap();
    let answer = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.to_text().unwrap(), "ping");
}

/// The Close that comes next: its code and reason, and when.
async fn closed(mut socket: WebSocketStream<TcpStream>) -> (u16, String, Instant) {
    match soon("a Close", socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => {
            let at = Instant::now();
            // Sends the answer.
            while socket.next().await.is_some() {}
            (frame.code.into(), frame.reason.to_string(), at)
        }
        other => panic!("no Close but {other:?}"),
    }
}

async fn draining(proxy: &Proxy) {
    proxy
        .log_line("the drain", |line| line.contains("draining"))
        .await;
}

#[tokio::test]
async fn term_and_int_close_live_sockets_one_by_one_within_the_drain_time() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let echo = Upstream::echoing("echo").await;
        let mut proxy = start("127.0.0.1:0", echo.addr, "3s").await;
        let mut sockets = Vec::new();
        for _ in 0..40 {
            let mut socket = open(&proxy).await;
            echoes(&mut socket).await;
            sockets.push(socket);
        }
        let began = Instant::now();
        proxy.signal(signal);
        let closed = futures_util::future::join_all(sockets.into_iter().map(closed)).await;
        let mut times: Vec<_> = closed.iter().map(|(.., at)| *at - began).collect();
        for (code, reason, _) in closed {
            assert_eq!((code, &*reason), (1001, "server is shutting down"));
        }
        times.sort();
        assert!(*times.last().unwrap() < Duration::from_secs(3), "{times:?}");
        // Forty moments out of two seconds: neither all at once nor in a few bursts.
        let span = times[39] - times[0];
        assert!(span > Duration::from_millis(800), "{times:?}");
        let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest.unwrap() < span / 2, "{times:?}");
        assert_eq!(proxy.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_leave_by_itself() {
    let script = Script::new().await;
    let mut proxy = start("127.0.0.1:0", script.addr, "600ms").await;
    let (mut client, mut server) = tokio::join!(open(&proxy), script.accept_websocket());
    // A request that is never answered, and sockets that never answer a Close.
    let mut stuck = client::tcp(proxy.addr(0)).await;
    stuck
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await
        .unwrap();
    let _upstream = script.accept().await;
    let began = Instant::now();
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.exit_code().await, Some(0));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(600) && took < Duration::from_secs(5),
        "{took:?}"
    );
    for socket in [&mut client, &mut server] {
        let Some(Ok(Message::Close(Some(frame)))) = soon("a Close", socket.next()).await else {
            panic!("no Close");
        };
        assert_eq!(u16::from(frame.code), 1001);
    }
    assert!(client::read_to_end(&mut stuck).await.is_empty());
}

#[tokio::test]
async fn a_route_has_a_drain_of_its_own() {
    const TUNNELS: usize = 20;
    let (short, long) = ("600ms", "1000h");
    for (general, quick, slow) in [
        (long, format!("drain = '{short}'"), String::new()),
        (short, String::new(), format!("drain = '{long}'")),
    ] {
        let echo = Upstream::echoing("echo").await;
        let mut proxy = Proxy::start(&format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            [admin]
            bind = "127.0.0.1:0"
            [timeouts]
            drain = "{general}"
            [[route]]
            name = "quick"
            path = "/quick"
            to = "{}"
            {quick}
            [[route]]
            path = "/slow"
            to = "{}"
            {slow}
            "#,
            echo.addr, echo.addr
        ))
        .await;
        let (mut quick, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..TUNNELS {
            quick.push(open_at(&proxy, "/quick").await);
            slow.push(open_at(&proxy, "/slow").await);
        }
        // It answers no Close, and so stays to the end of its drain.
        let mut stuck = open_at(&proxy, "/quick").await;
        proxy.signal(libc::SIGTERM);
        for (code, reason, _) in futures_util::future::join_all(quick.into_iter().map(closed)).await
        {
            assert_eq!((code, &*reason), (1001, "server is shutting down"));
        }
        let open_now = r#"sluicegate_websockets_open{route="quick",http_version="1.1"}"#;
        proxy.until_metric(open_now, 0.0).await;
        let told = soon("a Close", stuck.next()).await;
        assert!(matches!(told, Some(Ok(Message::Close(_)))), "{told:?}");
        for socket in &mut slow {
            echoes(socket).await;
        }
        proxy.signal(libc::SIGTERM);
        assert_eq!(proxy.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    for (first, second) in [
        (libc::SIGTERM, libc::SIGTERM),
        (libc::SIGINT, libc::SIGINT),
        (libc::SIGTERM, libc::SIGINT),
        (libc::SIGTERM, libc::SIGQUIT),
        (libc::SIGQUIT, libc::SIGTERM),
    ] {
        let echo = Upstream::echoing("echo").await;
        let mut proxy = start("127.0.0.1:0", echo.addr, "1h").await;
        let mut socket = open(&proxy).await;
        echoes(&mut socket).await;
        proxy.signal(first);
        draining(&proxy).await;
        proxy.signal(second);
        assert_eq!(proxy.exit_code().await, Some(0));
        proxy
            .log_line("the cut", |line| line.contains("connections were cut"))
            .await;
    }
}

#[tokio::test]
async fn quit_lets_tunnels_live_and_takes_nothing_new() {
    let echo = Upstream::echoing("echo").await;
    // The deadline is for TERM: a patient drain outlives it.
    let mut proxy = start("127.0.0.1:0", echo.addr, "100ms").await;
    assert_eq!(proxy.admin_get("/readyz").await.0, 200);
    let mut idle = client::tcp(proxy.addr(0)).await;
    let mut socket = open(&proxy).await;
    echoes(&mut socket).await;

    proxy.signal(libc::SIGQUIT);
    draining(&proxy).await;
    // An idle connection is closed, and the port with it.
    assert!(client::read_to_end(&mut idle).await.is_empty());
    let refused = TcpStream::connect(proxy.addr(0)).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(
        proxy.admin_get("/readyz").await,
        (503, "draining\n".to_owned())
    );
    assert_eq!(proxy.admin_get("/healthz").await.0, 200);
    assert_eq!(proxy.metric("sluicegate_draining").await, Some(1.0));
    let (status, outcome) = soon("the answer to a reload", proxy.post_reload()).await;
    assert_eq!((status, &outcome["result"]), (422, &"rejected".into()));

    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..5 {
        pace.tick().await;
        echoes(&mut socket).await;
    }
    socket.close(None).await.unwrap();
    while soon("the end", socket.next()).await.is_some() {}
    drop(socket);
    assert_eq!(proxy.exit_code().await, Some(0));
    proxy
        .log_line("the end", |line| line.contains("stopped"))
        .await;
    assert!(!proxy.stderr_text().contains("connections were cut"));
}

#[tokio::test]
async fn what_is_under_way_is_finished() {
    let script = Script::new().await;
    // One worker, which hears of the drain on all its connections in one turn.
    let text = config("127.0.0.1:0", script.addr, "4s") + "[runtime]\nworkers = 1\n";
    let mut proxy = Proxy::start(&text).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    // One request waits for its head, one is in the middle of its body, one is a handshake.
    let mut waiting = client::tcp(proxy.addr(0)).await;
    waiting.write_all(request).await.unwrap();
    let mut waiting_upstream = script.accept().await;
    client::read_request_head(&mut waiting_upstream).await;

    let mut reading = client::tcp(proxy.addr(0)).await;
    reading.write_all(request).await.unwrap();
    let mut reading_upstream = script.accept().await;
    client::read_request_head(&mut reading_upstream).await;
    reading_upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        .await
        .unwrap();
    assert_eq!(client::read_head(&mut reading).await.unwrap().status, 200);
    let mut half = [0; 5];
    soon("half a body", reading.read_exact(&mut half))
        .await
        .unwrap();

    let (mut shaking, mut shaken) = tokio::join!(open(&proxy), async {
        let upstream = script.accept().await;
        let mut idle = client::tcp(proxy.addr(0)).await;
        let open = r#"sluicegate_connections_open{listener="127.0.0.1:0"}"#;
        proxy.until_metric(open, 4.0).await;
        proxy.signal(libc::SIGTERM);
        assert!(client::read_to_end(&mut idle).await.is_empty());
        tokio_tungstenite::accept_async(upstream).await.unwrap()
    });
    waiting_upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    reading_upstream.write_all(b"-half").await.unwrap();
    let (head, body) = client::read_response(&mut waiting).await.unwrap();
    assert_eq!((head.status, &*body), (200, &b"ok"[..]));
    assert_eq!(head.get("connection"), Some("close"));
    assert_eq!(client::read_to_end(&mut reading).await, b"-half");

    // The tunnel has begun, and is asked to leave like all others.
    shaken.send("hello".into()).await.unwrap();
    let heard = soon("a message", shaking.next()).await.unwrap().unwrap();
    assert_eq!(heard.to_text().unwrap(), "hello");
    let (down, _) = tokio::join!(closed(shaking), async {
        while soon("the end", shaken.next()).await.is_some() {}
    });
    assert_eq!(down.0, 1001);
    drop((waiting, reading));
    assert_eq!(proxy.exit_code().await, Some(0));
}

/// Starts a TLS listener whose route leads to `to`, and connects to it with HTTP/2.
async fn start_http2(to: SocketAddr) -> (Proxy, tokio_rustls::client::TlsStream<TcpStream>) {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let config = config("127.0.0.1:0", to, "20s").replace(
        "[admin]",
        "tls = { cert = \"a.crt\", key = \"a.key\" }\n[admin]",
    );
    let proxy = Proxy::start_in(dir, &config).await;
    let tls = authority.client(&["h2"]);
    let stream = client::tls(proxy.addr(0), "a.test", tls).await.unwrap();
    (proxy, stream)
}

#[tokio::test]
async fn a_tls_handshake_that_never_ends_does_not_hold_up_a_stop() {
    let upstream = Upstream::describing("pages").await;
    let (mut proxy, stream) = start_http2(upstream.addr).await;
    drop(stream);
    let mut half_open = client::tcp(proxy.addr(0)).await;
    half_open
        .write_all(b"\x16\x03\x01\x02\x00\x01")
        .await
        .unwrap();
    let open = r#"sluicegate_connections_open{listener="127.0.0.1:0"}"#;
    proxy.until_metric(open, 1.0).await;
    let began = Instant::now();
    proxy.signal(libc::SIGQUIT);
    assert_eq!(proxy.exit_code().await, Some(0));
    // Neither the handshake's ten seconds nor a drain's.
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn http2_is_told_by_goaway() {
    let upstream = Upstream::describing("pages").await;
    let (mut proxy, mut stream) = start_http2(upstream.addr).await;
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
    };
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
    let mut codes = Vec::new();
    let conversation = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], head[4]) {
                (SETTINGS, 0) => {
                    stream.write_all(&frame(SETTINGS, ACK, &[])).await.unwrap();
                    proxy.signal(libc::SIGTERM);
                }
                (PING, 0) => stream.write_all(&frame(PING, ACK, &payload)).await.unwrap(),
                (GOAWAY, _) => codes.push(payload[4..8].to_vec()),
                _ => {}
            }
        }
    };
    soon("the end of the connection", conversation).await;
    assert!(!codes.is_empty());
    assert!(codes.iter().all(|code| code == &[0; 4]), "{codes:?}");
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_http2_request_under_way_is_finished() {
    let script = Script::new().await;
    let (mut proxy, stream) = start_http2(script.addr).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://a.test/").body(Empty::<Bytes>::new());
    let (response, _upstream) = tokio::join!(sender.send_request(request.unwrap()), async {
        let mut upstream = script.accept().await;
        client::read_request_head(&mut upstream).await;
        proxy.signal(libc::SIGTERM);
        draining(&proxy).await;
        upstream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            .await
            .unwrap();
        upstream
    });
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "done");
    soon("the end of the connection", connection)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn after_kill_9_the_same_addresses_are_bound_at_once() {
    let echo = Upstream::echoing("echo").await;
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("listener.sock");
    let config = config(&format!("127.0.0.1:{}", free_port()), echo.addr, "1s")
        + &format!("[[listener]]\nbind = \"unix:{}\"\n", socket.display());
    let mut first = Proxy::start(&config).await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = open(&first).await;
        echoes(&mut socket).await;
        sockets.push(socket);
    }
    let addr = first.addr(0);
    first.signal(libc::SIGKILL);
    assert!(!first.wait().await.success());
    // The old connections linger in the kernel, the socket's file on the disk.
    let second = Proxy::start(&config).await;
    assert_eq!(second.addr(0), addr);
    echoes(&mut open(&second).await).await;
    let stream = UnixStream::connect(&socket).await.unwrap();
    let request = client::ws_request("ws://a.test/", &[]);
    client::websocket(stream, request).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_a_clear_error_with_exit_code_4() {
    let upstream = Upstream::describing("pages").await;
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    // The port of a sluicegate is as taken as any: SO_REUSEPORT must not share it.
    let other = start("127.0.0.1:0", upstream.addr, "1s").await;
    let path = other.dir().join("file");
    std::fs::write(&path, "not a socket").unwrap();
    let free = "127.0.0.1:0";
    let file = format!("unix:{}", path.display());
    for (bind, admin, blamed) in [
        (&*taken, free, &*taken),
        (&other.addr(0).to_string(), free, &other.addr(0).to_string()),
        (free, &taken, &taken),
        (&file, free, &file),
    ] {
        let text = config(bind, upstream.addr, "1s").replace(
            "[admin]\n        bind = \"127.0.0.1:0\"",
            &format!("[admin]\n        bind = \"{admin}\""),
        );
        let mut proxy = Proxy::spawn(TempDir::new().unwrap(), &text, |_| {});
        assert_eq!(proxy.exit_code().await, Some(4), "{bind} {admin}");
        let line = proxy
            .log_line("the reason", |line| line.contains("cannot listen on"))
            .await;
        assert!(line.contains(&format!("`{blamed}`")), "{line}");
    }
    assert_eq!(client::get(other.addr(0), "/").await.0.status, 200);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_reload() {
    let echo = Upstream::echoing("echo").await;
    let text = config("127.0.0.1:0", echo.addr, "1s");
    let mut proxy = Proxy::start(&text).await;
    // Reading a plugin from a pipe that nobody writes to takes for ever.
    let made = std::process::Command::new("mkfifo")
        .arg(proxy.dir().join("never.wasm"))
        .status();
    assert!(made.unwrap().success());
    proxy.rewrite_config(&format!(
        "{text}\n[plugin.never]\nwasm = \"never.wasm\"\n[[route]]\npath = \"/never\"\nto = \"{}\"\nplugins = [\"never\"]\n",
        echo.addr
    ));
    proxy.signal(libc::SIGHUP);
    let mut socket = open(&proxy).await;
    echoes(&mut socket).await;
    proxy.signal(libc::SIGTERM);
    draining(&proxy).await;
    let (code, ..) = closed(socket).await;
    assert_eq!(code, 1001);
    assert_eq!(proxy.exit_code().await, Some(0));
}
