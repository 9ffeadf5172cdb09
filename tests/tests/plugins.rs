//! The first-party plugins behind the real binary: who gets in, what the upstream sees, in which
//! order filters run, and whose config counts.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A secret that nothing may tell (`tests/src/secrets.rs`).
const KEY: &str = "sluicegate-planted-secret-of-ci";

#[tokio::test]
async fn a_key_opens_a_websocket_wherever_it_may_be_and_goes_no_further() {
    let upstream = Script::new().await;
    let proxy = with_api_key(upstream.addr).await;
    for (name, path, field) in [
        ("header", "/ws/?a=1", Some(("x-api-key", KEY.to_owned()))),
        (
            "bearer",
            "/ws/?a=1",
            Some(("authorization", format!("Bearer {KEY}"))),
        ),
        (
            "query",
            "/ws/?a=1&api_key=sluicegate-planted-secret-of-ci",
            None,
        ),
        (
            "subprotocol",
            "/ws/?a=1",
            Some(("sec-websocket-protocol", format!("chat, api-key.{KEY}"))),
        ),
    ] {
        let mut fields = vec![("x-consumer", "forged"), ("X-Consumer", "twice")];
        fields.extend(field.as_ref().map(|(name, value)| (*name, value.as_str())));
        let url = format!("ws://localhost{path}");
        let stream = client::tcp(proxy.addr(0)).await;
        let (opened, (head, mut server)) = tokio::join!(
            client::websocket(stream, client::ws_request(&url, &fields)),
            accept_websocket(&upstream),
        );
        let (_socket, response) = opened.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(response.status(), 101, "{name}");
        assert!(
            head.starts_with("GET /ws/?a=1 HTTP/1.1\r\n"),
            "{name}: {head}"
        );
        assert_eq!(values(&head, "x-consumer"), ["ci"], "{name}");
        assert!(!head.contains(KEY), "{name}: {head}");
        let protocols = values(&head, "sec-websocket-protocol");
        let expected: &[&str] = if name == "subprotocol" {
            &["chat"]
        } else {
            &[]
        };
        assert_eq!(protocols, expected, "{name}");
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn without_a_valid_key_nothing_reaches_the_upstream() {
    let upstream = Script::new().await;
    let proxy = with_api_key(upstream.addr).await;
    for (path, fields, status) in [
        ("/ws/", &[][..], 401),
        ("/ws/", &[("x-api-key", "")], 401),
        (
            "/ws/",
            &[("authorization", "Basic sluicegate-planted-secret-of-ci")],
            401,
        ),
        ("/ws/", &[("x-consumer", "ci")], 401),
        ("/ws/", &[("x-api-key", "s3cret-of-c")], 403),
        ("/ws/", &[("authorization", "Bearer nope")], 403),
        ("/ws/?api_key=nope", &[], 403),
        (
            "/ws/",
            &[("sec-websocket-protocol", "chat, api-key.nope")],
            403,
        ),
    ] {
        let request = client::ws_request(&format!("ws://localhost{path}"), fields);
        let stream = client::tcp(proxy.addr(0)).await;
        match client::websocket(stream, request).await {
            Err(WsError::Http(response)) => {
                assert_eq!(response.status(), status, "{path} {fields:?}");
                let challenged = response.headers().contains_key("www-authenticate");
                assert_eq!(challenged, status == 401, "{path} {fields:?}");
            }
            other => panic!("{path} {fields:?}: {other:?}"),
        }
    }
    // The first connection that the upstream gets is this one's, so there was none before it.
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://localhost/ws/last", &[("x-api-key", KEY)]);
    let (opened, (head, _server)) = tokio::join!(
        client::websocket(stream, request),
        accept_websocket(&upstream)
    );
    opened.unwrap();
    assert!(head.starts_with("GET /ws/last "), "{head}");
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn ordinary_requests_are_judged_too_over_http1_and_http2() {
    let upstream = Upstream::describing("pages").await;
    let authority = Authority::new("plugins");
    let dir = TempDir::new().unwrap();
    authority.issue(&["localhost"]).write(dir.path(), "site");
    let config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        tls = {{ cert = "site.crt", key = "site.key" }}
        {}
        "#,
        api_key_and_route(upstream.addr)
    );
    let proxy = Proxy::start_in(dir, &config).await;

    let tls = authority.client(&["http/1.1"]);
    for (field, status) in [
        ("", 401),
        ("X-Api-Key: nope\r\n", 403),
        (&*format!("X-Api-Key: {KEY}\r\n"), 200),
    ] {
        let mut stream = client::tls(proxy.addr(0), "localhost", tls.clone())
            .await
            .unwrap();
        let request = format!(
            "GET /ws/page HTTP/1.1\r\nHost: localhost\r\nX-Consumer: forged\r\n{field}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, status, "{field}");
        if status == 200 {
            described_consumer(&body);
        }
    }

    let stream = client::tls(proxy.addr(0), "localhost", authority.client(&["h2"]))
        .await
        .unwrap();
    let (mut sender, connection) = soon("an HTTP/2 handshake", h2::client::handshake(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    for (key, status) in [(None, 401), (Some("nope"), 403), (Some(KEY), 200)] {
        let mut request =
            http::Request::get("https://localhost/ws/page").header("x-consumer", "forged");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        sender = soon("a free stream", sender.ready()).await.unwrap();
        let (response, _) = sender
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let response = soon("a response", response).await.unwrap();
        assert_eq!(response.status(), status);
        let body = read_body(response.into_body()).await;
        if status == 200 {
            described_consumer(&body);
        }
    }
    driver.abort();
}

#[tokio::test]
async fn headers_are_edited_on_requests_responses_and_on_a_101() {
    let upstream = Script::new().await;
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [plugin.headers]
        wasm = "{}"
        [plugin.headers.config]
        request = {{ remove = ["X-Debug"], set = {{ X-Served-For = "chat" }}, add = {{ Accept = "text/plain" }} }}
        response = {{ remove = ["Server"], set = {{ X-Frame-Options = "DENY" }} }}
        [[route]]
        to = "{}"
        plugins = ["headers"]
        "#,
        plugins::wasm("sluicegate-headers").display(),
        upstream.addr
    ))
    .await;
    let sent = [
        ("x-debug", "1"),
        ("x-served-for", "forged"),
        ("accept", "text/html"),
    ];
    let check_request = |head: &str| {
        assert!(values(head, "x-debug").is_empty(), "{head}");
        assert_eq!(values(head, "x-served-for"), ["chat"], "{head}");
        assert_eq!(values(head, "accept"), ["text/html", "text/plain"]);
    };

    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://localhost/", &sent);
    let (opened, (head, mut server)) = tokio::join!(
        client::websocket(stream, request),
        accept_websocket(&upstream)
    );
    check_request(&head);
    let (mut socket, response) = opened.unwrap();
    assert_eq!(response.headers()["x-frame-options"], "DENY");
    assert!(!response.headers().contains_key("server"));
    // A tunnel like any other follows: an unmasked text frame "hi".
    server.write_all(b"\x81\x02hi").await.unwrap();
    let message = soon("a message", socket.next()).await.unwrap().unwrap();
    assert_eq!(message.to_text().unwrap(), "hi");

    let mut stream = client::tcp(proxy.addr(0)).await;
    let fields: String = sent.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    check_request(&read_request(&mut server).await);
    let answer =
        b"HTTP/1.1 200 OK\r\nServer: old\r\nX-Frame-Options: ALLOW\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer).await.unwrap();
    let (head, body) = client::read_response(&mut stream).await.unwrap();
    assert_eq!((head.get("server"), &*body), (None, &b"ok"[..]));
    assert_eq!(head.get("x-frame-options"), Some("DENY"));
}

#[tokio::test]
async fn filters_run_in_order_and_on_the_way_back_in_reverse() {
    let upstream = Script::new().await;
    let adds = |value: &str| {
        format!(
            r#"config = {{ request = {{ add = {{ X-Way = "{value}" }} }}, response = {{ add = {{ X-Way = "{value}" }} }} }}"#
        )
    };
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [plugin.auth]
        wasm = "{}"
        config = {{ keys = {{ ci = "{KEY}" }} }}
        [plugin.headers]
        wasm = "{}"
        [[route]]
        to = "{}"
        plugins = [{{ use = "headers", {} }}, "auth", {{ use = "headers", {} }}]
        "#,
        plugins::wasm("sluicegate-api-key").display(),
        plugins::wasm("sluicegate-headers").display(),
        upstream.addr,
        adds("first"),
        adds("second"),
    ))
    .await;
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://localhost/", &[("x-api-key", KEY)]);
    let (opened, (head, _server)) = tokio::join!(
        client::websocket(stream, request),
        accept_websocket(&upstream)
    );
    assert_eq!(values(&head, "x-way"), ["first", "second"]);
    let (_socket, response) = opened.unwrap();
    let way: Vec<_> = response.headers().get_all("x-way").iter().collect();
    assert_eq!(way, ["second", "first"]);

    // A refusal goes back through the filters that had let the request pass, and no others.
    let (head, _) = client::get(proxy.addr(0), "/").await;
    assert_eq!(head.status, 401);
    let way: Vec<_> = head.fields.iter().filter(|(n, _)| n == "x-way").collect();
    assert_eq!(way, [&("x-way".to_owned(), "first".to_owned())]);
}

#[tokio::test]
async fn a_routes_config_lies_over_the_plugins_own() {
    let upstream = Upstream::echoing("echo").await;
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [plugin.auth]
        wasm = "{wasm}"
        config = {{ keys = {{ ci = "{KEY}" }}, header = "X-Api-Key", bearer = false }}
        [[route]]
        path = "/own/"
        to = "{to}"
        plugins = ["auth"]
        [[route]]
        path = "/header/"
        to = "{to}"
        plugins = [{{ use = "auth", config = {{ header = "X-Other" }} }}]
        [[route]]
        path = "/keys/"
        to = "{to}"
        plugins = [{{ use = "auth", config = {{ keys = {{ ops = "key-of-ops" }} }} }}]
        "#,
        wasm = plugins::wasm("sluicegate-api-key").display(),
        to = upstream.addr
    ))
    .await;
    for (path, name, key, status) in [
        ("/own/", "x-api-key", KEY, 101),
        ("/own/", "x-other", KEY, 401),
        ("/own/", "x-api-key", "key-of-ops", 403),
        ("/header/", "x-other", KEY, 101),
        ("/header/", "x-api-key", KEY, 401),
        ("/keys/", "x-api-key", "key-of-ops", 101),
        ("/keys/", "x-api-key", KEY, 403),
    ] {
        let url = format!("ws://localhost{path}");
        let stream = client::tcp(proxy.addr(0)).await;
        let got = match client::websocket(stream, client::ws_request(&url, &[(name, key)])).await {
            Ok((mut socket, response)) => {
                socket.send("whoami".into()).await.unwrap();
                let answer = soon("an echo", socket.next()).await.unwrap().unwrap();
                assert_eq!(answer.to_text().unwrap(), "echo");
                response.status()
            }
            Err(WsError::Http(response)) => response.status(),
            Err(error) => panic!("{path} {name}: {error}"),
        };
        assert_eq!(got, status, "{path} {name}: {key}");
    }
}

#[tokio::test]
async fn calls_into_plugins_are_counted() {
    let upstream = Upstream::describing("pages").await;
    let config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        {}
        "#,
        api_key_and_route(upstream.addr)
    );
    let proxy = Proxy::start(&config).await;
    for (path, times) in [
        ("/ws/?api_key=sluicegate-planted-secret-of-ci", 3),
        ("/ws/", 2),
    ] {
        for _ in 0..times {
            client::get(proxy.addr(0), path).await;
        }
    }
    for (name, labels, value) in [
        ("calls_total", r#",result="continue""#, 3.0),
        ("calls_total", r#",result="respond""#, 2.0),
        ("call_duration_seconds_count", "", 5.0),
    ] {
        let series = format!(r#"sluicegate_plugin_{name}{{plugin="auth",route="chat"{labels}}}"#);
        assert_eq!(proxy.metric(&series).await, Some(value), "{series}");
    }
}

async fn with_api_key(upstream: SocketAddr) -> Proxy {
    let config = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{}",
        api_key_and_route(upstream)
    );
    Proxy::start(&config).await
}

fn api_key_and_route(upstream: SocketAddr) -> String {
    format!(
        r#"
        [plugin.auth]
        wasm = "{}"
        config = {{ keys = {{ other = "another-key", ci = "{KEY}" }}, query = "api_key", subprotocol = "api-key." }}
        [[route]]
        name = "chat"
        path = "/ws/"
        to = "{upstream}"
        plugins = ["auth"]
        "#,
        plugins::wasm("sluicegate-api-key").display(),
    )
}

/// Plays the upstream's side of one handshake; gives back the head that it got.
async fn accept_websocket(upstream: &Script) -> (String, TcpStream) {
    let mut stream = upstream.accept().await;
    let head = read_request(&mut stream).await;
    let accept = derive_accept_key(values(&head, "sec-websocket-key")[0].as_bytes());
    let chosen = values(&head, "sec-websocket-protocol");
    let chosen = chosen
        .first()
        .map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"))
        .unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Server: old\r\nSec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    (head, stream)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await.unwrap());
        }
    };
    soon("a request head", reading).await;
    String::from_utf8(bytes).unwrap()
}

/// All values of a field of a raw head.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

#[track_caller]
fn described_consumer(body: &[u8]) {
    let seen: Value = serde_json::from_slice(body).unwrap();
    let headers = seen["headers"].as_array().unwrap();
    let of = |name: &str| -> Vec<&Value> {
        headers
            .iter()
            .filter(|pair| pair[0] == name)
            .map(|pair| &pair[1])
            .collect()
    };
    assert_eq!(of("x-consumer"), ["ci"]);
    assert!(of("x-api-key").is_empty());
}

async fn read_body(mut body: h2::RecvStream) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(data) = soon("a piece of the body", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    bytes.into()
}
