//! Limits: how many connections, whose, and what happens when the system has no more to give.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, stream};
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, raise_descriptor_limit, soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

fn config(limits: &str, echo: &Upstream, pages: &Upstream) -> String {
    format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        [limits]
        {limits}
        [[route]]
        path = "/ws/"
        to = "{}"
        [[route]]
        to = "{}"
        "#,
        echo.addr, pages.addr
    )
}

async fn upstreams() -> (Upstream, Upstream) {
    (
        Upstream::echoing("echo").await,
        Upstream::describing("pages").await,
    )
}

async fn open(proxy: &Proxy) -> WebSocketStream<TcpStream> {
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://a.test/ws/", &[]);
    client::websocket(stream, request).await.unwrap().0
}

async fn echoes<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    socket.send("ping".into()).await.unwrap();
    let answer = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.to_text().unwrap(), "ping");
}

/// Makes the child's limit of descriptors this small.
fn descriptors(limit: u64) -> impl FnOnce(&mut Command) {
    move |command| {
        let limit = libc::rlimit {
            rlim_cur: limit,
            rlim_max: limit,
        };
        let lower = move || {
            // SAFETY: setrlimit(2) only reads the struct that it is given.
            match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure makes one system call, which is safe between fork and exec.
        unsafe { command.pre_exec(lower) };
    }
}

/// Sends a request and looks for a while whether the proxy answers it.
async fn stays_unanswered(stream: &mut TcpStream) {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await
        .unwrap();
    let answer = timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_goes() {
    let (echo, pages) = upstreams().await;
    let proxy = Proxy::start(&config("connections = 2", &echo, &pages)).await;
    let mut tunnels = [open(&proxy).await, open(&proxy).await];
    let mut waiting = client::tcp(proxy.addr(0)).await;
    stays_unanswered(&mut waiting).await;
    for tunnel in &mut tunnels {
        echoes(tunnel).await;
    }
    // Tunnels count for as long as they live.
    drop(tunnels);
    let (head, _) = client::read_response(&mut waiting).await.unwrap();
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn a_limit_raised_by_a_reload_lets_in_who_waits() {
    let (echo, pages) = upstreams().await;
    let proxy = Proxy::start(&config("connections = 1", &echo, &pages)).await;
    let mut tunnel = open(&proxy).await;
    let mut waiting = client::tcp(proxy.addr(0)).await;
    stays_unanswered(&mut waiting).await;
    proxy.rewrite_config(&config("connections = 2", &echo, &pages));
    assert!(proxy.reload().await);
    let (head, _) = client::read_response(&mut waiting).await.unwrap();
    assert_eq!(head.status, 200);
    echoes(&mut tunnel).await;
}

#[tokio::test]
async fn a_client_has_only_its_own_connections() {
    let (echo, pages) = upstreams().await;
    let proxy = Proxy::start(&config("connections_per_client = 2", &echo, &pages)).await;
    let first = open(&proxy).await;
    let mut second = client::tcp(proxy.addr(0)).await;
    client::ask(&mut second, "a.test", "/", "").await.unwrap();

    let mut third = client::tcp(proxy.addr(0)).await;
    assert!(client::read_to_end(&mut third).await.is_empty());
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut stream = client::tcp_from(other, proxy.addr(0)).await;
    let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    assert_eq!(head.status, 200);
    let refused = proxy
        .metric(
            r#"sluicegate_connections_refused_total{listener="127.0.0.1:0",reason="connections_per_client"}"#,
        )
        .await;
    assert_eq!(refused, Some(1.0));

    drop(first);
    until("room for another connection", || async {
        let mut again = client::tcp(proxy.addr(0)).await;
        let answer = client::ask(&mut again, "a.test", "/", "").await;
        answer.ok().filter(|(head, _)| head.status == 200)
    })
    .await;
    // The other client's connection and the second one were never touched.
    client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    client::ask(&mut second, "a.test", "/", "").await.unwrap();
}

/// Whether this many connections that each ask something are all served.
async fn serves(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
        assert_eq!(head.status, 200);
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn a_trusted_proxy_and_a_unix_socket_bring_many_clients() {
    let (echo, pages) = upstreams().await;
    let limits = config("connections_per_client = 1", &echo, &pages);
    let text = format!(
        "trusted_proxies = ['127.0.0.1']\n{}",
        limits.replacen("[admin]", "[[listener]]\nbind = 'unix:socket'\n[admin]", 1)
    );
    let proxy = Proxy::start(&text).await;
    let _served = serves(&proxy, 3).await;
    let path = proxy.dir().join("socket");
    let mut local = Vec::new();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let answer = client::ask(&mut stream, "a.test", "/", "").await;
        assert_eq!(answer.unwrap().0.status, 200);
        local.push(stream);
    }
    // Who is not trusted is one client.
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut first = client::tcp_from(other, proxy.addr(0)).await;
    client::ask(&mut first, "a.test", "/", "").await.unwrap();
    let mut second = client::tcp_from(other, proxy.addr(0)).await;
    assert!(client::read_to_end(&mut second).await.is_empty());
}

#[tokio::test]
async fn on_a_listener_of_both_kinds_ipv4_clients_are_told_apart() {
    let (echo, pages) = upstreams().await;
    let limits = "connections_per_client = 1\nipv6_prefix = 1";
    let text = config(limits, &echo, &pages).replacen("127.0.0.1:0", ":0", 1);
    let proxy = Proxy::start(&text).await;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.addr(0).port()));
    let mut kept = Vec::new();
    for last in 1..4 {
        let client = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let mut first = client::tcp_from(client, addr).await;
        let answer = client::ask(&mut first, "a.test", "/", "").await;
        assert_eq!(answer.unwrap().0.status, 200);
        let mut second = client::tcp_from(client, addr).await;
        assert!(client::read_to_end(&mut second).await.is_empty());
        kept.push(first);
    }
}

#[tokio::test]
async fn idle_connections_make_room_and_no_others() {
    let (echo, pages) = upstreams().await;
    let text = config("connections = 4", &echo, &pages) + "[runtime]\nworkers = 1\n";
    let proxy = Proxy::start(&text).await;
    let mut tunnel = open(&proxy).await;
    let mut idle = serves(&proxy, 2).await;
    // This one has begun to say something, which its worker has heard before it hears what comes later.
    let mut busy = serves(&proxy, 1).await.remove(0);
    busy.write_all(b"GET / HT").await.unwrap();
    echoes(&mut tunnel).await;
    // Each newcomer takes the place of one.
    let mut newcomers = [open(&proxy).await, open(&proxy).await];
    for stream in &mut idle {
        assert!(client::read_to_end(stream).await.is_empty());
    }
    let rest = b"TP/1.1\r\nHost: a.test\r\n\r\n";
    busy.write_all(rest).await.unwrap();
    assert_eq!(
        client::read_response(&mut busy).await.unwrap().0.status,
        200
    );
    for newcomer in &mut newcomers {
        echoes(newcomer).await;
    }
    echoes(&mut tunnel).await;
    let retired = r#"sluicegate_connections_retired_total{listener="127.0.0.1:0",reason="room"}"#;
    assert_eq!(proxy.metric(retired).await, Some(2.0));
    proxy
        .log_line("the limit", |line| {
            line.contains("as many connections as may be")
        })
        .await;
}

#[tokio::test]
async fn who_is_sent_away_does_not_keep_its_place_by_staying() {
    let (echo, pages) = upstreams().await;
    let proxy = Proxy::start(&config("connections = 1", &echo, &pages)).await;
    let began = Instant::now();
    // Each takes the place of the one before, which never closes its side.
    let _stay = serves(&proxy, 11).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn an_idle_http2_connection_makes_room_too() {
    let (echo, pages) = upstreams().await;
    let text = config("connections = 1", &echo, &pages);
    let text = text.replacen("[admin]", "http2 = true\n[admin]", 1);
    let proxy = Proxy::start(&text).await;
    let mut client = Client::plain(proxy.addr(0)).await;
    assert_eq!(client.get("/").await.unwrap().head.status(), 200);
    serves(&proxy, 1).await;
    client.told_to_go().await;
    assert!(client.ended().await.is_ok());
}

#[tokio::test]
async fn the_limits_hold_while_everybody_comes_at_once() {
    const CROWD: usize = 100;
    let (echo, pages) = upstreams().await;
    for (limits, most) in [("connections = 7", 7), ("connections_per_client = 7", 7)] {
        let proxy = Proxy::start(&config(limits, &echo, &pages)).await;
        let addr = proxy.addr(0);
        // Each that is served becomes a tunnel, which makes room for nobody.
        let crowd = stream::iter(0..CROWD).map(|_| async {
            let stream = client::tcp(addr).await;
            let request = client::ws_request("ws://a.test/ws/", &[]);
            let opening = client::websocket(stream, request);
            timeout(Duration::from_secs(3), opening).await
        });
        let opened: Vec<_> = crowd.buffer_unordered(CROWD).collect().await;
        let refused = opened
            .iter()
            .filter(|opened| matches!(opened, Ok(Err(_))))
            .count();
        let mut tunnels: Vec<_> = opened.into_iter().flatten().flatten().collect();
        assert_eq!(tunnels.len(), most, "{limits}");
        for (tunnel, _) in &mut tunnels {
            echoes(tunnel).await;
        }
        let open = r#"sluicegate_connections_open{listener="127.0.0.1:0"}"#;
        assert_eq!(proxy.metric(open).await, Some(most as f64), "{limits}");
        let expect = if limits.contains("client") {
            CROWD - most
        } else {
            0
        };
        assert_eq!(refused, expect, "{limits}: closed instead of left to wait");
    }
}

#[tokio::test]
async fn the_last_request_of_a_connection_is_told_so() {
    let (echo, pages) = upstreams().await;
    let proxy = Proxy::start(&config("requests_per_connection = 3", &echo, &pages)).await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    for last in [false, false, true] {
        let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.get("connection"), last.then_some("close"));
    }
    assert!(client::read_to_end(&mut stream).await.is_empty());
    let retired =
        r#"sluicegate_connections_retired_total{listener="127.0.0.1:0",reason="requests"}"#;
    assert_eq!(proxy.metric(retired).await, Some(1.0));

    // As the last request a WebSocket may live as long as it likes.
    let mut stream = client::tcp(proxy.addr(0)).await;
    for _ in 0..2 {
        client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    }
    let request = client::ws_request("ws://a.test/ws/", &[]);
    let (mut socket, _) = client::websocket(stream, request).await.unwrap();
    echoes(&mut socket).await;
    assert_eq!(proxy.metric(retired).await, Some(1.0));
}

#[tokio::test]
async fn the_last_request_over_http2_brings_goaway_and_sockets_go_on() {
    let (echo, pages) = upstreams().await;
    let text = config("requests_per_connection = 3", &echo, &pages);
    let text = text.replacen("[admin]", "http2 = true\n[admin]", 1);
    let proxy = Proxy::start(&text).await;
    let mut client = Client::plain(proxy.addr(0)).await;
    let (head, stream) = client.open("/ws/", &[]).await.unwrap();
    assert_eq!(head.status(), 200);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    assert_eq!(client.get("/").await.unwrap().head.status(), 200);
    assert_eq!(client.goaways(), 0);
    assert_eq!(client.get("/").await.unwrap().head.status(), 200);
    client.told_to_go().await;
    echoes(&mut socket).await;
    assert!(client.get("/").await.is_err(), "nothing new");
    echoes(&mut socket).await;
    let retired =
        r#"sluicegate_connections_retired_total{listener="127.0.0.1:0",reason="requests"}"#;
    assert_eq!(proxy.metric(retired).await, Some(1.0));
    drop(socket);
    assert!(client.ended().await.is_ok());
}

#[tokio::test]
async fn by_default_connections_leave_descriptors_for_their_upstreams() {
    let (echo, pages) = upstreams().await;
    // 64 are set aside, a proxied connection takes two: there is room for 8.
    let proxy = Proxy::start_with(
        TempDir::new().unwrap(),
        &config("", &echo, &pages),
        descriptors(80),
    )
    .await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(open(&proxy).await);
    }
    let mut waiting = client::tcp(proxy.addr(0)).await;
    stays_unanswered(&mut waiting).await;
    for tunnel in &mut tunnels {
        echoes(tunnel).await;
    }
    tunnels.pop();
    let (head, _) = client::read_response(&mut waiting).await.unwrap();
    assert_eq!(head.status, 200);
    let log = proxy.stderr_text();
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test]
async fn without_descriptors_nothing_crashes_or_spins_and_it_recovers() {
    let (echo, pages) = upstreams().await;
    // No connection to the upstream is kept for later: each request needs a descriptor of its own.
    let text = config("connections = 100000", &echo, &pages).replace(
        &format!("to = \"{}\"", pages.addr),
        &format!(
            "to = \"pages\"\n[upstream.pages]\nservers = [\"{}\"]\nkeep_alive_connections = 0\nhealth = {{ out_for = \"1h\" }}\n",
            pages.addr
        ),
    );
    let proxy = Proxy::start_with(TempDir::new().unwrap(), &text, descriptors(80)).await;
    let mut tunnel = open(&proxy).await;
    let mut served = Vec::new();
    for _ in 0..5 {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
        assert_eq!(head.status, 200);
        served.push(stream);
    }
    let mut crowd = Vec::new();
    for _ in 0..120 {
        crowd.push(client::tcp(proxy.addr(0)).await);
    }
    proxy
        .log_line("the lack of descriptors", |line| {
            line.contains("cannot accept connections for the moment")
        })
        .await;
    assert!(proxy.descriptors() >= 80);
    echoes(&mut tunnel).await;
    // What is connected is told that there is nothing left, often enough to put an endpoint out if
    // it were to blame. (A descriptor that just got free may still serve one.)
    let mut refused = 0;
    let asking = async {
        for at in (0..5).cycle() {
            let (head, _) = client::ask(&mut served[at], "a.test", "/", "")
                .await
                .unwrap();
            refused += usize::from(head.status == 503);
            if refused == 10 {
                return;
            }
        }
    };
    soon("ten refusals", asking).await;

    let (began, before) = (Instant::now(), proxy.cpu_ticks());
    for _ in 0..10 {
        echoes(&mut tunnel).await;
    }
    until("a second", || async {
        (began.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    let ticks = proxy.cpu_ticks() - before;
    assert!(ticks < 25, "{ticks} hundredths of a second of CPU time");

    drop((crowd, served));
    // An endpoint that was put out would stay out for an hour; it was never at fault.
    until("an answer from the upstream", || async {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let answer = client::ask(&mut stream, "a.test", "/", "").await;
        answer.ok().filter(|(head, _)| head.status == 200)
    })
    .await;
    echoes(&mut tunnel).await;
    let errors = r#"sluicegate_accept_errors_total{listener="127.0.0.1:0"}"#;
    // Few, as there is a pause after each.
    let errors = proxy.metric(errors).await.unwrap();
    assert!((1.0..100.0).contains(&errors), "{errors}");
}

#[tokio::test]
async fn hundreds_of_half_open_tls_handshakes_hold_up_nobody() {
    const HALF_OPEN: usize = 500;
    raise_descriptor_limit();
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let (echo, pages) = upstreams().await;
    let text = config("", &echo, &pages).replacen(
        "[admin]",
        "tls = { cert = 'a.crt', key = 'a.key' }\n[admin]",
        1,
    );
    let proxy = Proxy::start_in(dir, &text).await;
    let addr = proxy.addr(0);
    let half_open: Vec<_> = stream::iter(0..HALF_OPEN)
        .map(|number| async move {
            let mut stream = client::tcp(addr).await;
            if number % 2 == 0 {
                // The start of a record that announces 512 bytes of ClientHello.
                stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
            }
            stream
        })
        .buffer_unordered(50)
        .collect()
        .await;
    let open = r#"sluicegate_connections_open{listener="127.0.0.1:0"}"#;
    proxy.until_metric(open, HALF_OPEN as f64).await;

    let began = Instant::now();
    for _ in 0..10 {
        let stream = client::tls(addr, "a.test", authority.client(&[])).await;
        let (head, _) = client::ask(&mut stream.unwrap(), "a.test", "/", "")
            .await
            .unwrap();
        assert_eq!(head.status, 200);
    }
    // Far below the ten seconds that each of the others may still take.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(half_open);
    proxy.until_metric(open, 0.0).await;
}
