//! `reuse` on a route, behind the real binary: what one request leaves to the next, for how many of
//! them, and what puts an end to it. The guest counts the calls that its instance has seen.

use std::net::SocketAddr;

use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, plugins};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn an_instance_serves_so_many_requests_and_a_reload_starts_afresh() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr;
    let routes = [
        route("/three", to, ", reuse = 3"),
        route("/two", to, ", reuse = 2"),
        route("/none", to, ", reuse = 0"),
        route("/unsaid", to, ""),
    ]
    .concat();
    let proxy = Proxy::start(&with_guest(&routes)).await;
    for (path, expected) in [
        ("/three", ["2", "4", "6", "2", "4"]),
        ("/two", ["2", "4", "2", "4", "2"]),
        ("/none", ["2"; 5]),
        ("/unsaid", ["2"; 5]),
    ] {
        for count in expected {
            assert_eq!(calls_seen(&proxy, path).await, count, "{path}");
        }
    }
    assert_eq!(
        calls_seen(&proxy, "/three").await,
        "6",
        "the routes between had instances of their own"
    );
    assert_eq!(calls_seen(&proxy, "/three").await, "2");
    assert!(proxy.reload().await);
    assert_eq!(calls_seen(&proxy, "/three").await, "2");
    assert_eq!(calls_seen(&proxy, "/three").await, "4");
}

#[tokio::test]
async fn a_trap_or_a_timeout_ends_an_instance_before_its_time() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::start(&with_guest(&route("/", upstream.addr, ", reuse = 100"))).await;
    for fault in ["trap", "loop"] {
        assert_eq!(calls_seen(&proxy, "/").await, "2");
        assert_eq!(calls_seen(&proxy, "/").await, "4");
        let (head, _) = client::get(proxy.addr(0), &format!("/?{fault}")).await;
        assert_eq!(head.status, 500);
        assert_eq!(calls_seen(&proxy, "/").await, "2", "after a {fault}");
        let (head, _) = client::get(proxy.addr(0), "/?trap").await;
        assert_eq!(head.status, 500);
    }
}

#[tokio::test]
async fn requests_at_the_same_time_have_an_instance_each() {
    let upstream = Script::new().await;
    let proxy = Proxy::start(&with_guest(&route("/", upstream.addr, ", reuse = 100"))).await;
    for count in ["2", "4"] {
        // Both requests are with the upstream, and their instances wait for its answers.
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..2 {
            clients.push(ask(proxy.addr(0)).await);
            let mut server = upstream.accept().await;
            client::read_request_head(&mut server).await;
            servers.push(server);
        }
        let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        for (mut server, mut client) in servers.into_iter().zip(clients) {
            server.write_all(answer).await.unwrap();
            let (head, _) = client::read_response(&mut client).await.unwrap();
            assert_eq!(head.status, 204);
            assert_eq!(head.get("x-count"), Some(count));
        }
    }
}

/// What the guest tells with the answer: two calls for each request that its instance has served.
async fn calls_seen(proxy: &Proxy, path: &str) -> String {
    let (head, _) = client::get(proxy.addr(0), path).await;
    assert_eq!(head.status, 200, "{path}");
    head.get("x-count").expect("the guest counts").to_owned()
}

async fn ask(proxy: SocketAddr) -> TcpStream {
    let mut stream = client::tcp(proxy).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// One worker: each has instances of its own.
fn with_guest(routes: &str) -> String {
    let wasm = plugins::wasm("sluicegate-test-guests");
    format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [runtime]
        workers = 1
        [plugin.guest]
        wasm = "{}"
        config = {{ request = "count_or_fail", response = "count" }}
        {routes}
        "#,
        wasm.display()
    )
}

fn route(path: &str, to: SocketAddr, more: &str) -> String {
    format!(
        r#"
        [[route]]
        path = "{path}"
        to = "http://{to}"
        plugins = [{{ use = "guest"{more} }}]
        "#
    )
}
