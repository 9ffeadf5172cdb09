//! Every example is read, and run with its own files: only ports, certificates and the built .wasm
//! files are put in their place.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::Response;
use rustls::ClientConfig;
use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::server::{Manner, Server};
use sluicegate_tests::proxy::{Proxy, source_root};
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

#[test]
fn every_example_is_a_sound_configuration_without_warnings() {
    let mut read = BTreeSet::new();
    for path in files_below(&source_root().join("examples"), "toml") {
        // Case files are for `plugin test`; the tools of other languages bring files of their own.
        let is_other = |part: &OsStr| part == "cases" || part == "node_modules" || part == ".venv";
        if path.file_name().unwrap() == "Cargo.toml" || path.iter().any(is_other) {
            continue;
        }
        let source = sluicegate::config::read(&path).unwrap();
        let (_, warnings) = sluicegate::config::parse(&source)
            .unwrap_or_else(|report| panic!("{}: {report}", path.display()));
        assert!(warnings.is_empty(), "{}: {warnings:?}", path.display());
        let readme = path.parent().unwrap().join("README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(name), "{name} is not in its README");
        read.insert(path);
    }
    assert!(read.len() >= 5, "{read:?}");
}

#[tokio::test]
async fn quickstart_serves_sockets_requests_and_its_own_health() {
    let (one, two) = (
        Upstream::echoing("one").await,
        Upstream::echoing("two").await,
    );
    let proxy = run(
        TempDir::new().unwrap(),
        "quickstart/sluicegate.toml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:3001", &one.addr.to_string()),
            ("127.0.0.1:3002", &two.addr.to_string()),
        ],
    )
    .await;
    // By open sockets: two clients never share a server while the other is free.
    let mut names = BTreeSet::new();
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request("ws://localhost/ws/", &[]);
        let (mut socket, _) = client::websocket(stream, request).await.unwrap();
        names.insert(ask(&mut socket, "whoami").await);
        sockets.push(socket);
    }
    assert_eq!(names, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    let (head, body) = client::get(proxy.addr(0), "/healthz").await;
    assert_eq!((head.status, &*body), (200, &b"ok"[..]));
    assert_eq!(client::get(proxy.addr(0), "/elsewhere").await.0.status, 404);
}

#[tokio::test]
async fn http2_carries_sockets_and_calls() {
    let app = Upstream::echoing("app").await;
    let manner = Manner::PLAIN;
    let [one, two] = [Server::new(manner.clone()).await, Server::new(manner).await];
    let authority = Authority::new("http2");
    let dir = TempDir::new().unwrap();
    authority
        .issue(&["localhost"])
        .write(dir.path(), "localhost");
    let proxy = run(
        dir,
        "http2/sluicegate.toml",
        &[
            ("\":8443\"", "\"127.0.0.2:0\""),
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:3001", &app.addr.to_string()),
            ("127.0.0.1:50051", &one.addr.to_string()),
            ("127.0.0.1:50052", &two.addr.to_string()),
        ],
    )
    .await;
    let browser = Client::tls(proxy.addr(0), &authority).await;
    let (head, stream) = browser.open("/ws/", &[]).await.unwrap();
    assert_eq!(head.status(), 200);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    assert_eq!(ask(&mut socket, "whoami").await, "app");

    // By open calls: two at once never share a server.
    let caller = Client::plain(proxy.addr(1)).await;
    let call = || caller.get("/helloworld.Greeter/SayHello");
    let serving = async {
        let (first, second) = tokio::join!(one.asked(), two.asked());
        first.respond(Response::new(()), "one");
        second.respond(Response::new(()), "two");
    };
    let (a, b, ()) = tokio::join!(call(), call(), serving);
    let bodies = BTreeSet::from([a.unwrap().body, b.unwrap().body]);
    assert_eq!(bodies, BTreeSet::from([b"one".to_vec(), b"two".to_vec()]));
}

#[tokio::test]
async fn the_nginx_howto_mixes_sockets_and_pages_on_sticky_servers_over_tls() {
    let servers = [
        Upstream::serving_both("one").await,
        Upstream::serving_both("two").await,
        Upstream::serving_both("three").await,
    ];
    let authority = Authority::new("howto");
    let proxy = nginx_howto(
        &authority,
        servers.each_ref().map(|s| s.addr.to_string()),
        "24h",
    )
    .await;
    let tls = authority.client(&["http/1.1"]);

    // ip-hash: the same client has the same server, for sockets and pages, on /ws/ and on /.
    let mut socket = howto_socket(&proxy, &tls, "/ws/").await;
    let home = ask(&mut socket, "whoami").await;
    for path in ["/ws/", "/ws/chat", "/", "/page"] {
        for _ in 0..3 {
            let mut other = howto_socket(&proxy, &tls, path).await;
            assert_eq!(ask(&mut other, "whoami").await, home, "{path}");
            let (status, body) = howto_page(&proxy, &tls, path).await;
            let seen: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (status, &seen["server"]),
                (200, &Value::from(&*home)),
                "{path}"
            );
            let header = |name: &str| {
                let all = seen["headers"].as_array().unwrap();
                all.iter()
                    .find(|pair| pair[0] == name)
                    .map(|pair| pair[1].clone())
            };
            assert_eq!(header("host").unwrap(), "ws.yourdomain.com");
            assert_eq!(header("x-real-ip").unwrap(), "127.0.0.1");
            assert_eq!(header("x-forwarded-for").unwrap(), "127.0.0.1");
            assert_eq!(header("x-forwarded-proto").unwrap(), "https");
        }
    }

    // http → https, with path and query.
    let mut plain = client::tcp(proxy.addr(0)).await;
    let request = "GET /page?a=1 HTTP/1.1\r\nHost: ws.yourdomain.com\r\n\r\n";
    plain.write_all(request.as_bytes()).await.unwrap();
    let head = client::read_head(&mut plain).await.unwrap();
    assert_eq!(head.status, 308);
    let location = head.get("location").unwrap();
    assert!(
        location.starts_with("https://ws.yourdomain.com"),
        "{location}"
    );
    assert!(location.ends_with("/page?a=1"), "{location}");

    // HTTP/2 is offered where the client can take it; another name is another site.
    let stream = client::tls(proxy.addr(1), NAME, authority.client(&["h2", "http/1.1"])).await;
    assert_eq!(
        stream.unwrap().get_ref().1.alpn_protocol(),
        Some(&b"h2"[..])
    );
    let mut stream = client::tls(proxy.addr(1), NAME, tls.clone()).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: else.where\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let status = client::read_head(&mut stream).await.unwrap().status;
    assert!([404, 421].contains(&status), "{status}");

    // A malformed handshake is answered by the proxy: no version, then no key.
    let before: usize = servers.iter().map(Upstream::connections).sum();
    for fields in [
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n",
    ] {
        let mut stream = client::tls(proxy.addr(1), NAME, tls.clone()).await.unwrap();
        let request = format!(
            "GET /ws/ HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{fields}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(client::read_head(&mut stream).await.unwrap().status, 400);
    }
    let after: usize = servers.iter().map(Upstream::connections).sum();
    assert_eq!(before, after, "nothing of them reached a server");
    assert_eq!(ask(&mut socket, "still here").await, "still here");
}

#[tokio::test]
async fn the_nginx_howto_answers_502_while_its_servers_are_down() {
    let authority = Authority::new("howto");
    let gone = {
        let upstream = Upstream::echoing("gone").await;
        upstream.addr.to_string()
    };
    // Bound and closed again: connections are refused.
    let proxy = nginx_howto(
        &authority,
        [
            gone.clone(),
            gone.replace(".1:", ".2:"),
            gone.replace(".1:", ".3:"),
        ],
        "24h",
    )
    .await;
    let tls = authority.client(&["http/1.1"]);
    let (status, _) = howto_page(&proxy, &tls, "/").await;
    assert_eq!(status, 502);
    let stream = client::tls(proxy.addr(1), NAME, tls).await.unwrap();
    let request = client::ws_request(&format!("wss://{NAME}/ws/"), &[]);
    match client::websocket(stream, request).await {
        Err(WsError::Http(response)) => assert_eq!(response.status(), 502),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_nginx_howto_keeps_a_socket_alive_by_traffic_and_drops_it_when_idle() {
    let servers = [
        Upstream::echoing("one").await,
        Upstream::echoing("two").await,
        Upstream::echoing("three").await,
    ];
    let authority = Authority::new("howto");
    let proxy = nginx_howto(
        &authority,
        servers.each_ref().map(|s| s.addr.to_string()),
        "1s",
    )
    .await;
    let tls = authority.client(&["http/1.1"]);
    let mut socket = howto_socket(&proxy, &tls, "/ws/").await;
    // Traffic for more than three idle timeouts.
    let began = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    while began.elapsed() < Duration::from_millis(3200) {
        beat.tick().await;
        assert_eq!(ask(&mut socket, "beat").await, "beat");
    }
    let quiet = Instant::now();
    // A Close frame or the bare end: either way it is over.
    let end = async { while let Some(Ok(_)) = socket.next().await {} };
    soon("the idle timeout", end).await;
    let idle = quiet.elapsed();
    assert!(idle >= Duration::from_millis(900), "too early: {idle:?}");
    let line = proxy
        .access_line("its end", |line| line.contains("ws.close"))
        .await;
    assert!(line.contains("idle"), "{line}");
}

#[tokio::test]
async fn tls_chooses_certificates_by_name_and_speaks_mutual_tls_to_the_backend() {
    let authority = Authority::new("example-ca");
    let certificates = || {
        let dir = TempDir::new().unwrap();
        let certs = dir.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        std::fs::write(certs.join("ca.crt"), &authority.pem).unwrap();
        for (file, name) in [
            ("shop", "shop.example.com"),
            ("devices", "*.devices.example.com"),
            ("backend", "backend.internal"),
            ("proxy", "sluicegate"),
        ] {
            authority.issue(&[name]).write(&certs, file);
        }
        dir
    };
    let pages = Upstream::describing("pages").await;
    let backend = run(
        certificates(),
        "tls/backend.toml",
        &[
            ("127.0.0.1:9443", "127.0.0.1:0"),
            ("127.0.0.1:3000", &pages.addr.to_string()),
        ],
    )
    .await;
    let front = run(
        certificates(),
        "tls/sluicegate.toml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0"),
            ("127.0.0.1:9900", "127.0.0.1:0"),
            ("127.0.0.1:9443", &backend.addr(0).to_string()),
        ],
    )
    .await;
    let sensor = authority.issue(&["sensor-17"]);
    for (name, identity, subject) in [
        ("shop.example.com", None, None),
        ("a.devices.example.com", Some(&sensor), Some("CN=sensor-17")),
    ] {
        let config = authority.client_with(&["http/1.1"], identity);
        // The client verifies that the certificate is for this name.
        let mut stream = client::tls(front.addr(0), name, config).await.unwrap();
        let request =
            format!("GET / HTTP/1.1\r\nHost: {name}\r\nX-Client-Cert-Subject: CN=forged\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, 200, "{name}");
        let seen: Value = serde_json::from_slice(&body).unwrap();
        let headers = seen["headers"].as_array().unwrap();
        let header = |name: &str| {
            headers
                .iter()
                .find(|pair| pair[0] == name)
                .map(|pair| &pair[1])
        };
        assert_eq!(header("x-client-cert-subject").unwrap(), "CN=sluicegate");
        assert_eq!(
            header("x-device").and_then(Value::as_str),
            subject,
            "{name}"
        );
    }
}

#[tokio::test]
async fn auth_runs_an_authors_own_filter_before_the_api_key() {
    let pages = Upstream::describing("pages").await;
    let dir = TempDir::new().unwrap();
    let wasm = dir.path().join("plugins");
    std::fs::create_dir(&wasm).unwrap();
    for (package, file) in [
        ("tenant-gate", "tenant_gate.wasm"),
        ("sluicegate-api-key", "api_key.wasm"),
    ] {
        std::fs::copy(plugins::wasm(package), wasm.join(file)).unwrap();
    }
    std::fs::write(dir.path().join("ops.key"), "key-of-ops\n").unwrap();
    let config = example(
        "auth/sluicegate.toml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:9900", "127.0.0.1:0"),
            ("127.0.0.1:3000", &pages.addr.to_string()),
        ],
    );
    let proxy = Proxy::start_with(dir, &config, |command| {
        command.env("CI_KEY", "try-me");
    })
    .await;
    for (host, path, key, status, consumer) in [
        ("acme.example.com", "/ws/", Some("try-me"), 200, "ci"),
        ("globex.example.com", "/ws/", Some("try-me"), 200, "ci"),
        ("evil.example.com", "/ws/", Some("try-me"), 404, ""),
        ("acme.example.com", "/ws/", None, 401, ""),
        ("acme.example.com", "/ws/", Some("guess"), 403, ""),
        (
            "acme.example.com",
            "/admin/",
            Some("key-of-ops"),
            200,
            "ops",
        ),
        ("acme.example.com", "/admin/", Some("try-me"), 403, ""),
        ("globex.example.com", "/admin/", Some("key-of-ops"), 404, ""),
    ] {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let key = key
            .map(|key| format!("X-Api-Key: {key}\r\n"))
            .unwrap_or_default();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Tenant: forged\r\n{key}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, status, "{host} {path} {key}");
        if status == 200 {
            let seen: Value = serde_json::from_slice(&body).unwrap();
            let headers = seen["headers"].as_array().unwrap();
            let tenant = host.split('.').next().unwrap();
            for (name, value) in [("x-tenant", tenant), ("x-consumer", consumer)] {
                let found: Vec<_> = headers.iter().filter(|pair| pair[0] == name).collect();
                assert_eq!(found.len(), 1, "{name}");
                assert_eq!(found[0][1], value);
            }
        }
    }
}

#[tokio::test]
async fn a_message_filter_masks_words_and_closes_on_who_does_not_stop() {
    let server = Upstream::echoing("server").await;
    let dir = TempDir::new().unwrap();
    let wasm = dir.path().join("word_guard.wasm");
    std::fs::copy(plugins::wasm("word-guard"), wasm).unwrap();
    let proxy = run(
        dir,
        "messages/sluicegate.toml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0"),
            ("127.0.0.1:3000", &server.addr.to_string()),
        ],
    )
    .await;
    let connect = async || {
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request("ws://localhost/", &[]);
        client::websocket(stream, request).await.unwrap().0
    };
    let (mut socket, mut other) = (connect().await, connect().await);
    for (said, heard) in [
        ("hello", "hello"),
        ("Darn it", "**** it"),
        ("darn, DARN", "****, ****"),
        ("so darned", "so ****ed"),
    ] {
        assert_eq!(ask(&mut socket, said).await, heard);
    }
    socket.send("darn".into()).await.unwrap();
    let close = soon("a Close", socket.next()).await.unwrap().unwrap();
    let WsMessage::Close(Some(close)) = close else {
        panic!("{close:?}");
    };
    assert_eq!(u16::from(close.code), 1008);
    assert_eq!(close.reason.as_str(), "mind your language");
    // Each tunnel has its own strikes.
    assert_eq!(ask(&mut other, "darn").await, "****");
}

const NAME: &str = "ws.yourdomain.com";

/// An example's text with these addresses put in the place of its own.
fn example(path: &str, replaced: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(source_root().join("examples").join(path)).unwrap();
    for (own, ours) in replaced {
        assert!(text.contains(own), "{path} does not name {own}");
        text = text.replace(own, ours);
    }
    text
}

async fn run(dir: TempDir, path: &str, replaced: &[(&str, &str)]) -> Proxy {
    Proxy::start_in(dir, &example(path, replaced)).await
}

/// Listener 0 redirects, listener 1 is TLS.
async fn nginx_howto(authority: &Authority, servers: [String; 3], idle: &str) -> Proxy {
    let dir = TempDir::new().unwrap();
    authority.issue(&[NAME]).write(dir.path(), "ws");
    run(
        dir,
        "nginx-howto/sluicegate.toml",
        &[
            ("\":8080\"", "\"127.0.0.2:0\""),
            ("\":8443\"", "\"127.0.0.1:0\""),
            ("127.0.0.1:3001", &servers[0]),
            ("127.0.0.1:3002", &servers[1]),
            ("127.0.0.1:3003", &servers[2]),
            ("24h", idle),
        ],
    )
    .await
}

async fn howto_socket(
    proxy: &Proxy,
    tls: &Arc<ClientConfig>,
    path: &str,
) -> WebSocketStream<TlsStream<TcpStream>> {
    let stream = client::tls(proxy.addr(1), NAME, tls.clone()).await.unwrap();
    let request = client::ws_request(&format!("wss://{NAME}{path}"), &[]);
    client::websocket(stream, request).await.unwrap().0
}

async fn howto_page(proxy: &Proxy, tls: &Arc<ClientConfig>, path: &str) -> (u16, Vec<u8>) {
    let mut stream = client::tls(proxy.addr(1), NAME, tls.clone()).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {NAME}\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = client::read_response(&mut stream).await.unwrap();
    (head.status, body)
}

async fn ask<S>(socket: &mut WebSocketStream<S>, what: &str) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    socket.send(what.into()).await.unwrap();
    let answer = soon("an answer", socket.next()).await.unwrap().unwrap();
    answer.to_text().unwrap().to_owned()
}

fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            files.push(path);
        }
    }
    files
}
