//! First-party plugins behind the real binary, where they meet the proxy's own rules: which subprotocol is
//! answered, which upstream is chosen, whose address counts, which page began a handshake.

use serde_json::Value;
use sluicegate_tests::client::{self, Head};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// As a browser does, the client here fails where it offered subprotocols and none is chosen.
#[tokio::test]
async fn a_token_moves_into_a_header_and_the_browser_gets_a_subprotocol() {
    let upstream = Script::new().await;
    let proxy = Proxy::with_plugin("sluicegate-subprotocol-token", "", upstream.addr).await;
    for (offered, reaches, chosen) in [
        ("bearer, abc.def", None, Some("bearer")),
        ("bearer, abc.def, chat", Some("chat"), Some("chat")),
    ] {
        let fields = [
            ("sec-websocket-protocol", offered),
            ("authorization", "Basic Zm9v"),
        ];
        let request = client::ws_request("ws://localhost/", &fields);
        let stream = client::tcp(proxy.addr(0)).await;
        let (opened, head) = tokio::join!(
            client::websocket(stream, request),
            accept_websocket(&upstream)
        );
        let (_socket, response) = opened.unwrap_or_else(|error| panic!("{offered}: {error}"));
        let answered = response.headers().get("sec-websocket-protocol");
        assert_eq!(answered.map(|name| name.to_str().unwrap()), chosen);
        assert_eq!(value(&head, "sec-websocket-protocol"), reaches);
        assert_eq!(value(&head, "authorization"), Some("Bearer abc.def"));
        assert!(!head.contains("Zm9v"), "{head}");
    }
    let request = client::ws_request("ws://localhost/", &[("sec-websocket-protocol", "bearer")]);
    let refused = client::websocket(client::tcp(proxy.addr(0)).await, request).await;
    assert!(matches!(refused, Err(WsError::Http(response)) if response.status() == 400));
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn a_canary_is_sent_to_the_other_upstream() {
    let (stable, next) = (
        Upstream::describing("stable").await,
        Upstream::describing("next").await,
    );
    let more = format!(
        r#"
        allow  = {{ upstreams = ["next"] }}
        config = {{ label = "variant", rules = [
            {{ when = {{ header = "X-Canary" }}, is = "always", to = "next" }},
            {{ when = {{ header = "X-Typo" }}, to = "nxet" }},
            {{ percent = 50, by = {{ cookie = "uid" }}, to = "next" }},
        ] }}
        [upstream.next]
        servers = ["{}"]
        "#,
        next.addr
    );
    let proxy = Proxy::with_plugin("sluicegate-canary", &more, stable.addr).await;
    // Whose place is in the share is the same everywhere: so the README says.
    for (fields, server) in [
        ("X-Canary: always\r\n", "next"),
        ("X-Canary: never\r\nCookie: uid=bert\r\n", "stable"),
        ("Cookie: uid=anna\r\n", "next"),
        ("Cookie: uid=bert\r\n", "stable"),
        ("Cookie: uid=anna\r\nX-Typo: 1\r\n", "stable"),
    ] {
        let (head, seen) = ask(&proxy, fields).await;
        assert_eq!(
            (head.status, &seen["server"]),
            (200, &Value::from(server)),
            "{fields}"
        );
    }
    let logged = |line: &Value| line["upstream"] == "next";
    let line = proxy.access_event("request", logged).await;
    assert_eq!(line["labels"]["variant"], "next", "{line}");
    let chosen = r#"sluicegate_plugin_filter_chosen_total{plugin="filter",upstream="next"}"#;
    proxy.until_metric(chosen, 2.0).await;
}

#[tokio::test]
async fn the_address_behind_a_trusted_proxy_counts() {
    let upstream = Upstream::describing("server").await;
    let more = r#"config = { allow = { office = ["192.0.2.0/24"] }, deny = ["192.0.2.66"], label = "network" }"#;
    let proxy = Proxy::with_plugin("sluicegate-ip-allow", more, upstream.addr).await;
    for (client, status) in [
        ("192.0.2.1", 200),
        ("::ffff:192.0.2.1", 200),
        ("192.0.2.66", 403),
        ("198.51.100.1", 403),
        // What the client claims itself stands before what the proxy saw.
        ("192.0.2.1, 198.51.100.1", 403),
    ] {
        let (head, _) = ask(&proxy, &format!("X-Forwarded-For: {client}\r\n")).await;
        assert_eq!(head.status, status, "{client}");
    }
    let logged = |line: &Value| line["labels"]["network"] == "office";
    proxy.access_event("request", logged).await;
}

#[tokio::test]
async fn only_pages_of_the_list_open_websockets() {
    let upstream = Upstream::echoing("server").await;
    let more = r#"config = { allow = ["https://*.example.com"] }"#;
    let proxy = Proxy::with_plugin("sluicegate-origin", more, upstream.addr).await;
    for (origin, status) in [
        (Some("https://app.example.com"), 101),
        (Some("https://example.com.evil.net"), 403),
        (None, 403),
    ] {
        let fields: Vec<_> = origin
            .map(|origin| ("origin", origin))
            .into_iter()
            .collect();
        let request = client::ws_request("ws://localhost/", &fields);
        let opened = client::websocket(client::tcp(proxy.addr(0)).await, request).await;
        let answered = match opened {
            Ok((_, response)) => response.status(),
            Err(WsError::Http(response)) => response.status(),
            Err(error) => panic!("{origin:?}: {error}"),
        };
        assert_eq!(answered, status, "{origin:?}");
    }
    let why = |why: &str| {
        format!(r#"sluicegate_plugin_filter_refused_total{{plugin="filter",why="{why}"}}"#)
    };
    proxy.until_metric(&why("not-allowed"), 1.0).await;
    proxy.until_metric(&why("missing"), 1.0).await;
}

async fn ask(proxy: &Proxy, fields: &str) -> (Head, Value) {
    let mut stream = client::tcp(proxy.addr(0)).await;
    client::ask(&mut stream, "localhost", "/", fields)
        .await
        .unwrap()
}

/// Plays the upstream's side of a handshake, choosing the first subprotocol; gives back the head it got.
async fn accept_websocket(upstream: &Script) -> String {
    let mut stream = upstream.accept().await;
    let head = client::read_request_head(&mut stream).await;
    let accept = derive_accept_key(value(&head, "sec-websocket-key").unwrap().as_bytes());
    let chosen =
        value(&head, "sec-websocket-protocol").and_then(|offered| offered.split(',').next());
    let chosen = chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        chosen.unwrap_or_default()
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    head
}

/// The first value of a field in a raw head.
fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let (_, value) = fields.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
    Some(value)
}
