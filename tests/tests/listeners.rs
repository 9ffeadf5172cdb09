//! Listeners: addresses of every kind, and TLS as clients meet it.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{self, Upstream};
use sluicegate_tests::{client, free_port, soon};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::client::TlsStream;

const SUBJECT: &str = "x-client-cert-subject";

/// An upstream behind a unix socket.
fn unix_upstream(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(upstream::describe_all("unix", stream));
        }
    });
}

/// One request over TLS; the status, and the description of what the upstream got.
async fn ask_tls(
    addr: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
    fields: &str,
) -> std::io::Result<(client::Head, serde_json::Value, TlsStream<TcpStream>)> {
    let mut stream = client::tls(addr, name, Arc::clone(config)).await?;
    let (head, described) = client::ask(&mut stream, name, "/", fields).await?;
    Ok((head, described, stream))
}

/// One HTTP/2 request for `https://host/` on its own connection.
async fn status_h2(stream: TlsStream<TcpStream>, hosts: &[&str]) -> Vec<StatusCode> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut statuses = Vec::new();
    for host in hosts {
        let request = Request::get(format!("https://{host}/"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = soon("a response", sender.send_request(request)).await;
        let response = response.unwrap();
        statuses.push(response.status());
        response.into_body().collect().await.unwrap();
    }
    statuses
}

#[tokio::test]
async fn plain_listeners_serve_ipv4_ipv6_and_unix_sockets() {
    let dir = TempDir::new().unwrap();
    unix_upstream(&dir.path().join("upstream.sock"));
    let has_ipv6 = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let mut config = String::from(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [[listener]]
        bind = "unix:{dir}/listener.sock"
        [[route]]
        to = "unix:{dir}/upstream.sock"
        "#,
    );
    if has_ipv6 {
        config.push_str("[[listener]]\nbind = \"[::1]:0\"\n");
    } else {
        eprintln!("skipped: this kernel has no IPv6");
    }
    let proxy = Proxy::start_in(dir, &config).await;

    let mut stream = client::tcp(proxy.addr(0)).await;
    let (head, described) = client::ask(&mut stream, "a.test", "/v4", "").await.unwrap();
    assert_eq!((head.status, &described["server"]), (200, &"unix".into()));
    assert_eq!(client::values_of(&described, "x-real-ip"), ["127.0.0.1"]);

    let path = proxy.dir().join("listener.sock");
    let mut stream = UnixStream::connect(path).await.unwrap();
    let (head, described) = client::ask(&mut stream, "a.test", "/unix", "")
        .await
        .unwrap();
    assert_eq!((head.status, &described["target"]), (200, &"/unix".into()));

    if has_ipv6 {
        // The unix listener has no address: the third is the second of TCP.
        let mut stream = client::tcp(proxy.addr(2)).await;
        let (head, described) = client::ask(&mut stream, "[::1]", "/v6", "").await.unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(client::values_of(&described, "x-real-ip"), ["::1"]);
    }
}

#[tokio::test]
async fn a_port_without_an_address_serves_every_family() {
    let upstream = Upstream::describing("any").await;
    let port = free_port();
    let _proxy = Proxy::start(&format!(
        "[[listener]]\nbind = \":{port}\"\n[[route]]\nto = \"{}\"\n",
        upstream.addr
    ))
    .await;
    let mut stream = client::tcp(SocketAddr::from(([127, 0, 0, 1], port))).await;
    let (_, described) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    // Not as an IPv4-mapped IPv6 address.
    assert_eq!(client::values_of(&described, "x-real-ip"), ["127.0.0.1"]);
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let mut stream = client::tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
        let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
        assert_eq!(head.status, 200);
    } else {
        eprintln!("skipped: this kernel has no IPv6");
    }
}

#[tokio::test]
async fn a_certificate_is_chosen_by_exact_name_then_wildcard_then_the_first() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    let first = authority.issue(&["first.test", "127.0.0.1"]);
    let wild = authority.issue(&["*.b.test"]);
    let exact = authority.issue(&["exact.b.test"]);
    first.write(dir.path(), "first");
    wild.write(dir.path(), "wild");
    exact.write(dir.path(), "exact");
    let proxy = Proxy::start_in(
        dir,
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        tls = { certs = [
            { cert = "first.crt", key = "first.key" },
            { cert = "wild.crt", key = "wild.key" },
            { cert = "exact.crt", key = "exact.key" },
        ] }
        [[route]]
        respond = { body = "{}" }
        "#,
    )
    .await;
    let config = authority.client(&[]);
    for (name, expected) in [
        ("first.test", &first),
        ("FIRST.test", &first),
        ("any.b.test", &wild),
        ("exact.b.test", &exact),
        // An address is never sent as SNI.
        ("127.0.0.1", &first),
    ] {
        let stream = client::tls(proxy.addr(0), name, Arc::clone(&config)).await;
        let stream = stream.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        assert_eq!(chain[0], expected.der(), "{name}");
    }
    for stranger in ["nowhere.test", "b.test", "two.labels.b.test"] {
        let error = client::tls(proxy.addr(0), stranger, Arc::clone(&config)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("first.test"), "{stranger}: {error}");
    }
}

#[tokio::test]
async fn alpn_and_versions_are_agreed_on_within_the_listeners_limits() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [[listener]]
            bind = "127.0.0.2:0"
            tls = {{ cert = "a.crt", key = "a.key", min_version = "1.3" }}
            http2 = false
            [[route]]
            to = "{}"
            "#,
            upstream.addr
        ),
    )
    .await;
    let (old, new, both) = (&[&TLS12][..], &[&TLS13][..], &[&TLS12, &TLS13][..]);
    let (v2, v3) = (ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3);
    for (listener, versions, offered, expected) in [
        (0, old, &["h2", "http/1.1"][..], Some((v2, Some("h2")))),
        (0, new, &["h2", "http/1.1"], Some((v3, Some("h2")))),
        (0, both, &["http/1.1"], Some((v3, Some("http/1.1")))),
        (0, both, &[], Some((v3, None))),
        (0, both, &["imap"], None),
        (1, both, &["h2", "http/1.1"], Some((v3, Some("http/1.1")))),
        (1, old, &["http/1.1"], None),
        (1, new, &["h2"], None),
    ] {
        let config = authority.client_of(versions, offered, None);
        let stream = client::tls(proxy.addr(listener), "a.test", config).await;
        let Some((version, alpn)) = expected else {
            assert!(stream.is_err(), "listener {listener}, ALPN {offered:?}");
            continue;
        };
        let mut stream = stream.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(version));
        assert_eq!(session.alpn_protocol(), alpn.map(str::as_bytes));
        if alpn == Some("h2") {
            assert_eq!(status_h2(stream, &["a.test"]).await, [200]);
        } else {
            let (head, described) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
            assert_eq!(head.status, 200);
            assert_eq!(
                client::values_of(&described, "x-forwarded-proto"),
                ["https"]
            );
        }
    }
}

/// Starts with one listener that demands client certificates and one that merely asks for them.
async fn start_mtls(clients: &Authority, servers: &Authority, upstream: &Upstream) -> Proxy {
    let dir = TempDir::new().unwrap();
    servers.issue(&["a.test"]).write(dir.path(), "a");
    std::fs::write(dir.path().join("clients.pem"), &clients.pem).unwrap();
    Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ cert = "a.crt", key = "a.key", client_ca = "clients.pem" }}
            [[listener]]
            bind = "127.0.0.2:0"
            tls = {{ cert = "a.crt", key = "a.key", client_ca = "clients.pem", client_auth = "optional" }}
            [[listener]]
            bind = "127.0.0.3:0"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [[route]]
            to = "{}"
            "#,
            upstream.addr
        ),
    )
    .await
}

#[tokio::test]
async fn client_certificates_are_verified_and_their_subject_cannot_be_spoofed() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let upstream = Upstream::describing("pages").await;
    let proxy = start_mtls(&clients, &servers, &upstream).await;
    let alice = clients.issue(&["alice"]);
    let mallory = Authority::new("clients").issue(&["alice"]);
    let spoof = "X-Client-Cert-Subject: CN=root\r\nx_client_cert_subject: CN=root\r\n";
    let (required, optional, never) = (0, 1, 2);
    for versions in [&[&TLS12][..], &[&TLS13]] {
        for (listener, identity, expected) in [
            (required, Some(&alice), Some(&["CN=alice"][..])),
            (required, Some(&mallory), None),
            (required, None, None),
            (optional, Some(&alice), Some(&["CN=alice"])),
            (optional, Some(&mallory), None),
            (optional, None, Some(&[])),
            (never, None, Some(&[])),
        ] {
            let config = servers.client_of(versions, &[], identity);
            let asked = ask_tls(proxy.addr(listener), "a.test", &config, spoof).await;
            let Some(expected) = expected else {
                assert!(asked.is_err(), "listener {listener}");
                continue;
            };
            let (head, described, _) = asked.unwrap();
            assert_eq!(head.status, 200);
            assert_eq!(client::values_of(&described, SUBJECT), expected);
            let text = described.to_string();
            assert!(!text.contains("CN=root"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_session_is_resumed_by_a_ticket_that_opens_no_other_policy() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let upstream = Upstream::describing("pages").await;
    let proxy = start_mtls(&clients, &servers, &upstream).await;
    let alice = clients.issue(&["alice"]);
    let kind = |stream: &TlsStream<TcpStream>| stream.get_ref().1.handshake_kind().unwrap();
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = servers.client_of(versions, &[], Some(&alice));
        let (_, _, stream) = ask_tls(proxy.addr(0), "a.test", &config, "").await.unwrap();
        assert_eq!(kind(&stream), HandshakeKind::Full);
        let (_, described, stream) = ask_tls(proxy.addr(0), "a.test", &config, "").await.unwrap();
        assert_eq!(kind(&stream), HandshakeKind::Resumed);
        // What the first handshake proved still holds.
        assert_eq!(client::values_of(&described, SUBJECT), ["CN=alice"]);

        // A ticket that was given without any certificate opens nothing where one is demanded.
        let anonymous = servers.client_of(versions, &[], None);
        ask_tls(proxy.addr(2), "a.test", &anonymous, "")
            .await
            .unwrap();
        let (_, _, stream) = ask_tls(proxy.addr(2), "a.test", &anonymous, "")
            .await
            .unwrap();
        assert_eq!(kind(&stream), HandshakeKind::Resumed);
        ask_tls(proxy.addr(0), "a.test", &anonymous, "")
            .await
            .unwrap_err();
        let (_, _, stream) = ask_tls(proxy.addr(1), "a.test", &anonymous, "")
            .await
            .unwrap();
        assert_eq!(kind(&stream), HandshakeKind::Full);
    }

    let store = Arc::new(ClientSessionMemoryCache::new(64));
    let mut config = (*servers.client_of(&[&TLS13], &[], None)).clone();
    config.resumption = Resumption::store(Arc::clone(&store) as _);
    ask_tls(proxy.addr(2), "a.test", &Arc::new(config), "")
        .await
        .unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let tickets = std::iter::from_fn(|| store.take_tls13_ticket(&name));
    assert_eq!(tickets.count(), 1);
}

#[tokio::test]
async fn a_host_of_another_certificate_than_the_sni_is_misdirected() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority
        .issue(&["a.test", "also-a.test"])
        .write(dir.path(), "a");
    authority.issue(&["b.test"]).write(dir.path(), "b");
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ certs = [{{ cert = "a.crt", key = "a.key" }}, {{ cert = "b.crt", key = "b.key" }}] }}
            [[route]]
            to = "{}"
            "#,
            upstream.addr
        ),
    )
    .await;
    let hosts = ["a.test", "also-a.test", "b.test", "a.test"];
    let mut stream = client::tls(proxy.addr(0), "a.test", authority.client(&[]))
        .await
        .unwrap();
    let mut statuses = Vec::new();
    for host in hosts {
        let (head, _) = client::ask(&mut stream, host, "/", "").await.unwrap();
        statuses.push(head.status);
    }
    assert_eq!(statuses, [200, 200, 421, 200]);

    let config = authority.client(&["h2"]);
    let stream = client::tls(proxy.addr(0), "a.test", config).await.unwrap();
    assert_eq!(status_h2(stream, &hosts).await, [200, 200, 421, 200]);
}

#[tokio::test]
async fn a_plain_listener_redirects_to_https() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let port = free_port();
    let proxy = Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            redirect_to_https = true
            [[listener]]
            bind = "127.0.0.1:{port}"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [[route]]
            respond = {{ body = "over https" }}
            "#
        ),
    )
    .await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    for host in ["a.test", "a.test:8080"] {
        let (head, _) = client::ask(&mut stream, host, "/x/../y?q=1", "")
            .await
            .unwrap();
        assert_eq!(head.status, 308);
        let location = format!("https://a.test:{port}/y?q=1");
        assert_eq!(head.get("location"), Some(&*location));
    }
    // A WebSocket is not opened in the clear either.
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://a.test/", &[]);
    let error = client::websocket(stream, request).await.unwrap_err();
    assert!(error.to_string().contains("308"), "{error}");

    let config = authority.client(&[]);
    let (head, _, _) = ask_tls(proxy.addr(1), "a.test", &config, "").await.unwrap();
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn a_slow_tls_handshake_is_cut_in_time_and_holds_up_nobody() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let echo = Upstream::echoing("echo").await;
    let proxy = Proxy::start_in(
        dir,
        &format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [[route]]
            to = "{}"
            [timeouts]
            tls_handshake = "700ms"
            "#,
            echo.addr
        ),
    )
    .await;
    let began = Instant::now();
    let mut silent = client::tcp(proxy.addr(0)).await;
    let mut halting = client::tcp(proxy.addr(0)).await;
    // The start of a record that announces 512 bytes of ClientHello.
    halting
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00")
        .await
        .unwrap();

    let config = authority.client(&["http/1.1"]);
    let stream = client::tls(proxy.addr(0), "a.test", config).await.unwrap();
    let request = client::ws_request("wss://a.test/", &[]);
    let (mut socket, _) = client::websocket(stream, request).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    let echoed = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echoed.to_text().unwrap(), "hello");

    client::read_to_end(&mut silent).await;
    client::read_to_end(&mut halting).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(700), "{took:?}");
    // The timeout was the handshakes', not the connection's.
    socket.send("still here".into()).await.unwrap();
    let echoed = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echoed.to_text().unwrap(), "still here");
}

#[tokio::test]
async fn an_https_upstream_is_verified_and_is_shown_our_certificate() {
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    let clients = Authority::new("clients");
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("trusted.pem"), &trusted.pem).unwrap();
    std::fs::write(dir.path().join("other.pem"), &other.pem).unwrap();
    clients.issue(&["sluicegate"]).write(dir.path(), "client");
    let open = Upstream::describing_tls(
        "open",
        trusted.issue(&["backend.test", "127.0.0.1"]).server(None),
    )
    .await;
    let strict = Upstream::describing_tls(
        "strict",
        trusted.issue(&["127.0.0.1"]).server(Some(&clients)),
    )
    .await;
    let cases = [
        ("address", &open, "ca = 'trusted.pem'", 200),
        (
            "name",
            &open,
            "ca = 'trusted.pem', server_name = 'backend.test'",
            200,
        ),
        (
            "wrong-name",
            &open,
            "ca = 'trusted.pem', server_name = 'elsewhere.test'",
            502,
        ),
        ("wrong-ca", &open, "ca = 'other.pem'", 502),
        ("system-ca", &open, "", 502),
        (
            "client-cert",
            &strict,
            "ca = 'trusted.pem', cert = 'client.crt', key = 'client.key'",
            200,
        ),
        ("no-client-cert", &strict, "ca = 'trusted.pem'", 502),
    ];
    let mut config = String::from("[[listener]]\nbind = \"127.0.0.1:0\"\n");
    for (name, upstream, tls, _) in &cases {
        config.push_str(&format!(
            "[upstream.{name}]\nservers = [\"https://{}\"]\ntls = {{ {tls} }}\n\
             [[route]]\npath = \"/{name}\"\nto = \"{name}\"\n",
            upstream.addr
        ));
    }
    // Prefixes of one another would match too much.
    let config = config.replace("path = \"/", "path_exact = \"/");
    let proxy = Proxy::start_in(dir, &config).await;
    for (name, upstream, _, expected) in &cases {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let (head, described) = client::ask(&mut stream, "a.test", &format!("/{name}"), "")
            .await
            .unwrap();
        assert_eq!(head.status, *expected, "{name}");
        if *expected == 200 {
            let own = if upstream.addr == open.addr {
                "open"
            } else {
                "strict"
            };
            assert_eq!(described["server"], own);
        }
    }
}
