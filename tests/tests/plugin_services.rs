//! What a plugin may ask of the proxy, through the real binary: each service works where it is granted
//! and is refused by name where it is not; sessions end tunnels and show in the access log.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn what_is_not_granted_is_refused_when_it_is_loaded() {
    for (allow, interface, key) in [
        ("", "kv", "allow = { kv = true }"),
        (
            "allow = { kv = true }",
            "outbound",
            "allow = { http = [\"UPSTREAM\"] }",
        ),
        (
            "allow = { kv = true, http = \"main\", crypto = false }",
            "crypto",
            "allow = { crypto = true }",
        ),
        (
            "allow = { kv = true, http = \"main\", log = false }",
            "logging",
            "allow = { log = true }",
        ),
    ] {
        let dir = with_guest();
        let config = config("127.0.0.1:1", allow, "{}", "");
        let mut proxy = Proxy::spawn(dir, &config, |_| {});
        assert_eq!(proxy.wait().await.code(), Some(3), "{interface}");
        let report = proxy.stderr_to_end().await;
        let expected = format!("imports `{interface}`, which the configuration does not grant");
        assert!(report.contains(&expected), "{report}");
        assert!(report.contains(key), "{report}");
    }
}

#[tokio::test]
async fn the_store_is_shared_and_survives_a_reload() {
    let upstream = Upstream::describing("main").await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start_in(with_guest(), &config(&to, ALLOW, "{}", "")).await;
    assert_eq!(asked(&proxy, "kv").await, r#"1 true Some("1") false false"#);
    assert_eq!(
        asked(&proxy, "kv").await,
        r#"2 false Some("2") false false"#
    );
    // Other instances, made with another config: the store is the plugin's, not the filter's.
    proxy.rewrite_config(&config(&to, ALLOW, "{ answers = true }", ""));
    assert!(proxy.reload().await);
    assert_eq!(
        asked(&proxy, "kv").await,
        r#"3 false Some("3") false false"#
    );
}

#[tokio::test]
async fn small_services_answer() {
    let upstream = Upstream::describing("main").await;
    let proxy = Proxy::start_in(
        with_guest(),
        &config(&upstream.addr.to_string(), ALLOW, "{}", ""),
    )
    .await;
    assert_eq!(asked(&proxy, "crypto").await, "ba78 Err(InvalidHash)");
    assert_eq!(asked(&proxy, "random").await, "true");
    let time: u64 = asked(&proxy, "clock").await.parse().unwrap();
    assert!(time > 1_700_000_000);
    assert_eq!(asked(&proxy, "facts").await, "127.0.0.1:0 1.1 false true");
    assert_eq!(asked(&proxy, "metrics").await, "Ok(()) Err(InvalidName)");
    let series = r#"sluicegate_plugin_guest_asked_total{plugin="guest",what="metrics"}"#;
    assert_eq!(proxy.metric(series).await, Some(2.0));
    // The log escapes what a line must not hold.
    asked(&proxy, "log").await;
    let line = proxy
        .log_line("a line with fields", |line| line.contains("with fields"))
        .await;
    assert!(line.contains(r#"fields=key="a\nb" other="c d""#), "{line}");
}

#[tokio::test]
async fn a_configure_that_asks_for_more_than_a_log_line_is_refused() {
    let dir = with_guest();
    let config = config("127.0.0.1:1", ALLOW, "{ impure = true }", "");
    let mut proxy = Proxy::spawn(dir, &config, |_| {});
    assert_eq!(proxy.wait().await.code(), Some(3));
    let report = proxy.stderr_to_end().await;
    assert!(
        report.contains("`configure` calls `clock`, but may only log"),
        "{report}"
    );
}

#[tokio::test]
async fn a_plugin_asks_an_upstream_and_only_those_that_it_is_granted() {
    let (main, idp) = (Upstream::describing("main").await, Script::new().await);
    let more = format!("[upstream.idp]\nservers = [\"{}\"]\n", idp.addr);
    let allow = "allow = { kv = true, http = \"idp\", upstreams = [\"main\"] }\n\
                 limits = { http_timeout = \"2s\", http_body = \"1KiB\" }";
    let to = main.addr.to_string();
    let proxy = Proxy::start_in(
        with_guest(),
        &config(&to, allow, "{ upstream = \"idp\" }", &more),
    )
    .await;

    let server = async {
        let mut stream = idp.accept().await;
        let head = client::read_request_head(&mut stream).await;
        assert!(head.starts_with("POST /check?a=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("x-asked-by: guest\r\n"), "{head}");
        assert!(head.contains(&format!("host: {}\r\n", idp.addr)), "{head}");
        assert!(head.contains("content-length: 10\r\n"), "{head}");
        let mut body = [0; 10];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"a question");
        let answer = b"HTTP/1.1 203 X\r\nX-From: idp\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        // The connection is kept, and serves the next one: an answer that is too large.
        let head = client::read_request_head(&mut stream).await;
        assert!(head.starts_with("POST /big HTTP/1.1\r\n"), "{head}");
        stream.read_exact(&mut body).await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.write_all(&[b'x'; 2000]).await.unwrap();
        stream
    };
    let guest = async {
        let path = "outbound&path=%2Fcheck%3Fa%3D1";
        assert_eq!(asked(&proxy, path).await, r#"203 Some("idp") ok"#);
        assert_eq!(asked(&proxy, "outbound&path=%2Fbig").await, "TooLarge");
    };
    let (_stream, ()) = tokio::join!(server, guest);

    // While it waits for an answer that does not come, others are served by the same worker.
    let waiting = asked(&proxy, "outbound&path=%2Fsilence");
    let others = async {
        let _silent = idp.accept().await;
        assert_eq!(asked(&proxy, "random").await, "true");
        _silent
    };
    let (answer, _silent) = tokio::join!(waiting, others);
    assert_eq!(answer, "Timeout");

    assert_eq!(asked(&proxy, "outbound&at=main").await, "NotAllowed");
    assert_eq!(asked(&proxy, "outbound&at=nobody").await, "NotAllowed");
    let bad = asked(&proxy, "outbound&path=http%3A%2F%2Fevil%2F").await;
    assert!(bad.starts_with("Invalid("), "{bad}");
}

#[tokio::test]
async fn a_request_goes_to_the_upstream_that_a_plugin_chose() {
    let main = Upstream::describing("main").await;
    let canary = Upstream::describing("canary").await;
    let more = format!("[upstream.canary]\nservers = [\"{}\"]\n", canary.addr);
    let allow = "allow = { kv = true, http = \"main\", upstreams = \"canary\" }";
    let to = main.addr.to_string();
    let text = config(&to, allow, "{ upstream = \"canary\" }", &more);
    let proxy = Proxy::start_in(with_guest(), &text).await;
    assert!(asked(&proxy, "nothing").await.contains("main"));
    assert!(asked(&proxy, "elsewhere").await.contains("canary"));
    proxy
        .access_line("the canary's line", |line| {
            line.contains(r#""upstream":"canary""#)
        })
        .await;

    // Not granted: the plugin is told.
    let allow = "allow = { kv = true, http = \"main\" }";
    proxy.rewrite_config(&config(&to, allow, "{ upstream = \"canary\" }", &more));
    assert!(proxy.reload().await);
    assert_eq!(
        asked(&proxy, "elsewhere").await,
        "not allowed to this plugin"
    );
}

#[tokio::test]
async fn labels_reach_later_filters_and_the_access_log() {
    let upstream = Upstream::echoing("main").await;
    let text = config(&upstream.addr.to_string(), ALLOW, "{ answers = true }", "");
    let proxy = Proxy::start_in(with_guest(), &text).await;
    let stream = client::tcp(proxy.addr(0)).await;
    let fields = [("sec-websocket-protocol", "answered, other")];
    let request = client::ws_request("ws://localhost/?ask=label", &fields);
    let (socket, response) = client::websocket(stream, request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "answered");
    assert_eq!(
        response.headers()["x-told"],
        r#"Ok(()) Err(NotOffered) Some("ci \"quoted\"")"#
    );
    drop(socket);
    let labels = r#""labels":{"sub":"ci \"quoted\"","tenant":"acme"}"#;
    for event in ["ws.open", "ws.close"] {
        let event = format!(r#""event":"{event}""#);
        let line = proxy
            .access_line("a line with labels", |line| line.contains(&event))
            .await;
        assert!(line.contains(labels), "{line}");
    }
    // A second filter of the chain sees what the first noted.
    let text = text.replace(
        "plugins = [\"guest\"]",
        "plugins = [\"guest\", { use = \"guest\", config = { reveals = true } }]",
    );
    proxy.rewrite_config(&text);
    assert!(proxy.reload().await);
    assert_eq!(
        asked(&proxy, "label").await,
        r#"[("sub", "ci \"quoted\""), ("tenant", "acme")]"#
    );
}

#[tokio::test]
async fn a_tunnel_ends_when_its_session_expires() {
    let upstream = Upstream::echoing("main").await;
    let text = config(&upstream.addr.to_string(), ALLOW, "{}", "");
    let text = format!("{text}\nexpiry_close_code = 4001\n");
    let proxy = Proxy::start_in(with_guest(), &text).await;
    for (ask, after) in [("expire", 400), ("lifetime", 300)] {
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request(&format!("ws://localhost/?ask={ask}"), &[]);
        let began = Instant::now();
        let (mut socket, _) = client::websocket(stream, request).await.unwrap();
        let closed = soon("the end of the session", socket.next()).await;
        let took = began.elapsed();
        let Some(Ok(Message::Close(Some(close)))) = closed else {
            panic!("{ask}: {closed:?}");
        };
        assert_eq!(u16::from(close.code), 4001, "{ask}");
        assert_eq!(close.reason.as_str(), "session expired", "{ask}");
        // Not before its time; how much later depends on this machine.
        assert!(took >= Duration::from_millis(after - 5), "{ask}: {took:?}");
        let event = r#""event":"ws.close""#;
        let line = proxy
            .access_line("its line", |line| {
                line.contains(event) && line.contains(r#""cause":"expired""#)
            })
            .await;
        assert!(line.contains(r#""closed_by":"proxy""#), "{line}");
        assert!(line.contains(r#""close_code":4001"#), "{line}");
    }
}

#[tokio::test]
async fn a_dear_config_is_set_up_once_and_each_reload_has_its_own() {
    let upstream = Upstream::describing("main").await;
    let dir = TempDir::new().unwrap();
    let wasm = plugins::wasm("sluicegate-dear-guest");
    std::fs::copy(wasm, dir.path().join("guest.wasm")).unwrap();
    let keys = |kept: &str| {
        let keys: Vec<String> = (0..3_000).map(|n| format!("key-{n}")).collect();
        let list = format!("{{ keys = {keys:?} }}").replace("key-7\"", &format!("{kept}\""));
        config(&upstream.addr.to_string(), "", &list, "")
    };
    let proxy = Proxy::start_in(dir, &keys("first")).await;
    let status = async |key: &str| {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nConnection: close\r\n\r\n"
        );
        let answer = client::exchange(proxy.addr(0), request.as_bytes()).await;
        String::from_utf8_lossy(&answer[9..12]).into_owned()
    };
    for _ in 0..3 {
        assert_eq!(status("first").await, "200");
        assert_eq!(status("key-2999").await, "200");
        assert_eq!(status("second").await, "403");
    }
    proxy.rewrite_config(&keys("second"));
    assert!(proxy.reload().await);
    assert_eq!(status("second").await, "200");
    assert_eq!(status("first").await, "403");
    // It logs in `configure`: once for each config, however many instances there were.
    let lines = proxy.stderr_text();
    let said = lines.matches("configured with 0 patterns").count();
    assert_eq!(said, 2, "{lines}");
}

/// The body of the answer to `GET /?ask=…`.
async fn asked(proxy: &Proxy, what: &str) -> String {
    let (_, body) = soon(
        "an answer",
        client::get(proxy.addr(0), &format!("/?ask={what}")),
    )
    .await;
    String::from_utf8(body).unwrap()
}

fn with_guest() -> TempDir {
    let dir = TempDir::new().unwrap();
    let wasm = plugins::wasm("sluicegate-services-guest");
    std::fs::copy(wasm, dir.path().join("guest.wasm")).unwrap();
    dir
}

fn config(to: &str, plugin: &str, config: &str, more: &str) -> String {
    format!(
        r#"
        [runtime]
        workers = 1
        [admin]
        bind = "127.0.0.1:0"
        [log]
        access = "json"
        [[listener]]
        bind = "127.0.0.1:0"
        [upstream.main]
        servers = ["{to}"]
        {more}
        [plugin.guest]
        wasm = "guest.wasm"
        config = {config}
        {plugin}
        [[route]]
        to = "main"
        plugins = ["guest"]"#
    )
}

const ALLOW: &str = "allow = { kv = true, http = \"main\" }";
