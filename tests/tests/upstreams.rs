//! Upstreams: which endpoint serves whom, and what happens when endpoints fail.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Jammed, Script, Upstream};
use sluicegate_tests::{client, free_port, soon, until};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;

/// A proxy whose only route leads to `[upstream.it]` with these keys.
async fn start(upstream: &str) -> Proxy {
    Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        [[route]]
        to = "it"
        [upstream.it]
        {upstream}
        "#
    ))
    .await
}

/// Who answers a request from this address, or the status of a refusal.
async fn who_answers(proxy: &Proxy, source: Ipv4Addr) -> Result<String, u16> {
    let mut stream = client::tcp_from(IpAddr::V4(source), proxy.addr(0)).await;
    let (head, described) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    match head.status {
        200 => Ok(described["server"].as_str().unwrap().to_owned()),
        status => Err(status),
    }
}

async fn open_tunnel(proxy: &Proxy) -> (WebSocketStream<TcpStream>, String) {
    let request = client::ws_request("ws://a.test/", &[]);
    let stream = client::tcp(proxy.addr(0)).await;
    let (mut socket, _) = client::websocket(stream, request).await.unwrap();
    socket.send("whoami".into()).await.unwrap();
    let name = soon("an answer", socket.next()).await.unwrap().unwrap();
    (socket, name.to_text().unwrap().to_owned())
}

fn leases(addr: SocketAddr) -> String {
    format!(r#"sluicegate_upstream_leases{{upstream="it",endpoint="{addr}"}}"#)
}

#[tokio::test]
async fn turns_go_round_by_weight() {
    let (a, b) = (
        Upstream::describing("a").await,
        Upstream::describing("b").await,
    );
    let proxy = start(&format!(
        r#"servers = [{{ url = "{}", weight = 3 }}, "{}"]"#,
        a.addr, b.addr
    ))
    .await;
    let mut order = String::new();
    for _ in 0..8 {
        order += &who_answers(&proxy, Ipv4Addr::LOCALHOST).await.unwrap();
    }
    // Spread out: never three times `a` and then `b` in a lump of its own.
    assert_eq!(order, "aabaaaba");
}

#[tokio::test]
async fn least_conn_counts_live_tunnels() {
    let (a, b) = (Upstream::echoing("a").await, Upstream::echoing("b").await);
    let proxy = start(&format!(
        r#"servers = ["{}", "{}"]
        balance = "least-conn""#,
        a.addr, b.addr
    ))
    .await;
    let mut tunnels = BTreeMap::<String, Vec<_>>::new();
    for _ in 0..6 {
        let (socket, name) = open_tunnel(&proxy).await;
        tunnels.entry(name).or_default().push(socket);
    }
    let counts = |tunnels: &BTreeMap<String, Vec<_>>| (tunnels["a"].len(), tunnels["b"].len());
    assert_eq!(counts(&tunnels), (3, 3));

    tunnels.get_mut("a").unwrap().truncate(1);
    proxy.until_metric(&leases(a.addr), 1.0).await;
    for _ in 0..2 {
        let (socket, name) = open_tunnel(&proxy).await;
        tunnels.entry(name).or_default().push(socket);
    }
    assert_eq!(counts(&tunnels), (3, 3));
}

#[tokio::test]
async fn ip_hash_is_sticky_and_a_lost_endpoint_moves_only_its_own_clients() {
    let (a, b, c) = (
        Upstream::describing("a").await,
        Upstream::describing("b").await,
        Upstream::describing("c").await,
    );
    let proxy = start(&format!(
        r#"servers = ["{}", "{}", "{}"]
        balance = "ip-hash"
        health = {{ fails = 1, out_for = "1h" }}"#,
        a.addr, b.addr, c.addr
    ))
    .await;
    let clients: Vec<_> = (1..=60).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
    let mut before = BTreeMap::new();
    for &client in &clients {
        before.insert(client, who_answers(&proxy, client).await.unwrap());
    }
    for name in ["a", "b", "c"] {
        let count = before.values().filter(|own| *own == name).count();
        assert!(count >= 8, "{name} serves only {count} of 60");
    }
    for &client in &clients {
        let again = who_answers(&proxy, client).await.unwrap();
        assert_eq!(again, before[&client], "{client} is not sticky");
    }

    drop(b);
    for &client in &clients {
        // `b`'s own clients are served too, from the first request on.
        let after = who_answers(&proxy, client).await.unwrap();
        if before[&client] == "b" {
            assert_ne!(after, "b");
        } else {
            assert_eq!(after, before[&client], "{client} has moved");
        }
    }
}

#[tokio::test]
async fn a_backup_serves_only_while_the_others_are_out() {
    let port = free_port();
    let spare = Upstream::describing("spare").await;
    let proxy = start(&format!(
        r#"servers = ["127.0.0.1:{port}", {{ url = "{}", backup = true }}]
        health = {{ fails = 1, out_for = "200ms" }}"#,
        spare.addr
    ))
    .await;
    let local = Ipv4Addr::LOCALHOST;
    assert_eq!(who_answers(&proxy, local).await.unwrap(), "spare");
    assert_eq!(who_answers(&proxy, local).await.unwrap(), "spare");

    let addr = SocketAddr::from((local, port));
    let _main = Upstream::describing_at("main", addr).await;
    until("the return of the main endpoint", || async {
        (who_answers(&proxy, local).await.unwrap() == "main").then_some(())
    })
    .await;
    for _ in 0..5 {
        assert_eq!(who_answers(&proxy, local).await.unwrap(), "main");
    }
}

#[tokio::test]
async fn a_refused_connection_fails_over_with_the_request_intact() {
    let dead = free_port();
    let live = Upstream::describing("live").await;
    let proxy = start(&format!(
        r#"servers = ["127.0.0.1:{dead}", "{}"]
        health = {{ fails = 60000 }}"#,
        live.addr
    ))
    .await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    for _ in 0..4 {
        // Not idempotent: safe all the same, since nothing was sent.
        let body = "x".repeat(100_000);
        let request = format!(
            "POST /form HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, 200);
        let described: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(described["body_len"], 100_000);
        assert_eq!(described["method"], "POST");
    }
    let errors = format!(
        r#"sluicegate_upstream_connect_errors_total{{upstream="it",endpoint="127.0.0.1:{dead}",kind="refused"}}"#
    );
    assert!(proxy.metric(&errors).await.unwrap() >= 1.0);

    // A handshake fails over as well.
    let echo = Upstream::echoing("echo").await;
    let proxy = start(&format!(
        r#"servers = ["127.0.0.1:{dead}", "{}"]"#,
        echo.addr
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(open_tunnel(&proxy).await.1, "echo");
    }
}

#[tokio::test]
async fn a_name_is_looked_up_and_all_its_addresses_are_tried() {
    // `localhost` may be ::1 as well, where nobody listens.
    let upstream = Upstream::describing("named").await;
    let port = upstream.addr.port();
    let proxy = start(&format!(r#"servers = ["localhost:{port}"]"#)).await;
    let answer = who_answers(&proxy, Ipv4Addr::LOCALHOST).await;
    assert_eq!(answer.unwrap(), "named");

    // RFC 6761: a name that never exists.
    let proxy = start(r#"servers = ["nowhere.invalid:80"]"#).await;
    assert_eq!(who_answers(&proxy, Ipv4Addr::LOCALHOST).await, Err(502));
    let errors = r#"sluicegate_upstream_connect_errors_total{upstream="it",endpoint="nowhere.invalid:80",kind="dns"}"#;
    assert_eq!(proxy.metric(errors).await, Some(1.0));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_out_at_once_and_comes_back() {
    let port = free_port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let proxy = start(&format!(
        r#"servers = ["{addr}"]
        health = {{ fails = 2, within = "10s", out_for = "1500ms" }}"#
    ))
    .await;
    let local = Ipv4Addr::LOCALHOST;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(who_answers(&proxy, local).await);
    }
    // Refused twice, then nobody is asked any more.
    assert_eq!(answers, [Err(502), Err(502), Err(503), Err(503)]);
    let errors = format!(
        r#"sluicegate_upstream_connect_errors_total{{upstream="it",endpoint="{addr}",kind="refused"}}"#
    );
    assert_eq!(proxy.metric(&errors).await, Some(2.0));
    let up = format!(r#"sluicegate_upstream_up{{upstream="it",endpoint="{addr}"}}"#);
    assert_eq!(proxy.metric(&up).await, Some(0.0));

    let back = Upstream::describing_at("back", addr).await;
    until("the return of the endpoint", || async {
        who_answers(&proxy, local).await.ok()
    })
    .await;
    assert_eq!(proxy.metric(&up).await, Some(1.0));
    assert!(back.connections() >= 1);
}

#[tokio::test]
async fn only_failures_within_the_window_put_an_endpoint_out() {
    // Each attempt takes 300 ms to fail, so that much lies between two failures.
    let jammed = Jammed::new().await;
    for (within, answers) in [("100ms", [504; 4]), ("1m", [504, 504, 503, 503])] {
        let proxy = start(&format!(
            r#"servers = ["{}"]
            health = {{ fails = 2, within = "{within}", out_for = "1h" }}
            [timeouts]
            connect = "300ms""#,
            jammed.addr
        ))
        .await;
        for (count, status) in answers.into_iter().enumerate() {
            let answer = who_answers(&proxy, Ipv4Addr::LOCALHOST).await;
            assert_eq!(answer, Err(status), "{within}, request {count}");
        }
    }
}

#[tokio::test]
async fn an_idle_connection_to_an_endpoint_is_closed_after_its_keep_alive() {
    const KEEP_ALIVE: Duration = Duration::from_millis(400);
    let script = Script::new().await;
    let proxy = start(&format!(
        r#"servers = ["{}"]
        keep_alive = "{}ms""#,
        script.addr,
        KEEP_ALIVE.as_millis()
    ))
    .await;
    let mut downstream = client::tcp(proxy.addr(0)).await;
    let mut serve = async || {
        let serving = async {
            let mut endpoint = script.accept().await;
            client::read_request_head(&mut endpoint).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            let idle_since = Instant::now();
            endpoint.write_all(answer).await.unwrap();
            (endpoint, idle_since)
        };
        let asking = client::ask(&mut downstream, "a.test", "/", "");
        let (answer, served) = tokio::join!(asking, serving);
        assert_eq!(answer.unwrap().0.status, 200);
        served
    };
    let (mut endpoint, idle_since) = serve().await;
    assert!(client::read_to_end(&mut endpoint).await.is_empty());
    let idle = idle_since.elapsed();
    assert!(idle >= KEEP_ALIVE, "{idle:?}");
    // The client's own connection is still there, and the next request goes to a fresh one.
    serve().await;
}

#[tokio::test]
async fn an_endpoint_takes_no_more_than_its_connections() {
    let (a, b) = (Upstream::echoing("a").await, Upstream::echoing("b").await);
    let proxy = start(&format!(
        r#"servers = ["{}", {{ url = "{}", max_connections = 2 }}]
        max_connections = 1"#,
        a.addr, b.addr
    ))
    .await;
    let mut tunnels = BTreeMap::<String, Vec<_>>::new();
    for _ in 0..3 {
        let (socket, name) = open_tunnel(&proxy).await;
        tunnels.entry(name).or_default().push(socket);
    }
    assert_eq!((tunnels["a"].len(), tunnels["b"].len()), (1, 2));
    // Neither a tunnel nor a request.
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://a.test/", &[]);
    let error = client::websocket(stream, request).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!(who_answers(&proxy, Ipv4Addr::LOCALHOST).await, Err(503));

    tunnels.remove("a");
    proxy.until_metric(&leases(a.addr), 0.0).await;
    assert_eq!(open_tunnel(&proxy).await.1, "a");
}
