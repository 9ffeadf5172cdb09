//! Plugins that fail, loop, hoard, flood and lie, behind the real binary: what the client gets, and
//! that nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

#[tokio::test]
async fn a_failing_filter_denies_by_default_and_passes_only_where_the_route_says_so() {
    let upstream = Upstream::describing("pages").await;
    let acts = [
        "trap",
        "edit_and_trap",
        "memory",
        "stack",
        "loop",
        "big_body",
        "bad_status",
        "bad_reply_header",
    ];
    let mut routes = String::new();
    for act in acts {
        for hook in ["request", "response"] {
            for on_error in ["deny", "pass"] {
                routes += &route(
                    &format!("/{act}/{hook}/{on_error}"),
                    &upstream.addr.to_string(),
                    &format!(r#"{hook} = "{act}""#),
                    &format!(r#", on_error = "{on_error}""#),
                );
            }
        }
    }
    routes += &route(
        "/unsaid",
        &upstream.addr.to_string(),
        r#"request = "trap""#,
        "",
    );
    let proxy = Proxy::start(&with_guest("", &routes)).await;

    assert_eq!(client::get(proxy.addr(0), "/unsaid").await.0.status, 500);
    for act in acts {
        for hook in ["request", "response"] {
            let before = upstream.connections();
            let (head, body) = client::get(proxy.addr(0), &format!("/{act}/{hook}/deny?a=1")).await;
            assert_eq!(head.status, 500, "{act} {hook}");
            let body = String::from_utf8(body).unwrap();
            assert!(!body.contains(act), "the cause is not the client's: {body}");
            assert_eq!(head.get("x-edited"), None);
            if hook == "request" {
                assert_eq!(upstream.connections(), before, "{act}: it fails closed");
            }

            let (head, body) = client::get(proxy.addr(0), &format!("/{act}/{hook}/pass?a=1")).await;
            assert_eq!(head.status, 200, "{act} {hook}");
            assert_eq!(head.get("x-edited"), None, "undone");
            let seen: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(seen["target"], format!("/{act}/{hook}/pass?a=1"), "undone");
            assert!(!String::from_utf8(body).unwrap().contains("x-edited"));
        }
    }
    let log = proxy
        .log_line("the trap's log line", |line| line.contains("trap_as_asked"))
        .await;
    assert!(log.contains("plugin=\"guest\""), "{log}");
}

#[tokio::test]
async fn a_response_filter_that_fails_or_refuses_leaves_no_tunnel_behind() {
    let upstream = Script::new().await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start(&with_guest(
        "",
        &[
            route("/trap", &to, r#"response = "trap""#, ""),
            route("/refuse", &to, r#"response = "refuse""#, ""),
            route(
                "/pass",
                &to,
                r#"response = "edit_and_trap""#,
                r#", on_error = "pass""#,
            ),
        ]
        .concat(),
    ))
    .await;
    for (path, status) in [("/trap", 500), ("/refuse", 403), ("/pass", 101)] {
        let mut stream = client::tcp(proxy.addr(0)).await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut server = upstream.accept().await;
        read_head(&mut server).await;
        let accept = derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        server.write_all(answer.as_bytes()).await.unwrap();
        let (head, _) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, status, "{path}");
        assert_eq!(head.get("x-edited"), None, "{path}");
        // Bytes after a refusal are nobody's; after a 101 they are the tunnel's.
        let _ = stream.write_all(b"after").await;
        if status == 101 {
            let mut bytes = [0; 5];
            soon("the tunnel", server.read_exact(&mut bytes))
                .await
                .unwrap();
            assert_eq!(&bytes, b"after");
        } else {
            assert_eq!(client::read_to_end(&mut server).await, b"", "{path}");
            assert_eq!(head.get("upgrade"), None, "{path}");
            assert_eq!(head.get("sec-websocket-accept"), None, "{path}");
        }
    }
    let opened = proxy
        .access_line("the one tunnel", |line| line.contains("ws.open"))
        .await;
    assert!(opened.contains("/pass"), "{opened}");
    assert_eq!(
        proxy
            .access_lines()
            .iter()
            .filter(|line| line.contains("ws.open"))
            .count(),
        1
    );
}

#[tokio::test]
async fn an_endless_loop_is_cut_while_fifty_websockets_keep_echoing() {
    let upstream = Upstream::echoing("echo").await;
    let to = upstream.addr.to_string();
    // One worker, so that the loops and the sockets share a thread.
    let proxy = Proxy::start(&with_guest(
        "[runtime]\nworkers = 1\n",
        &[
            format!("[[route]]\npath = \"/ws/\"\nto = \"{to}\"\n"),
            route("/loop", &to, r#"request = "loop""#, ""),
        ]
        .concat(),
    ))
    .await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request("ws://localhost/ws/", &[]);
        sockets.push(client::websocket(stream, request).await.unwrap().0);
    }
    let addr = proxy.addr(0);
    let loops = tokio::spawn(async move {
        for _ in 0..5 {
            let began = Instant::now();
            let looping = (0..4).map(|_| client::get(addr, "/loop"));
            for (head, _) in join_all(looping).await {
                assert_eq!(head.status, 500);
            }
            // Four calls of 50 ms each on one thread, and the patience of a busy machine.
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{:?}",
                began.elapsed()
            );
        }
    });
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while !loops.is_finished() || rounds == 0 {
        let echoes = sockets.iter_mut().map(|socket| async move {
            let began = Instant::now();
            socket.send("tick".into()).await.unwrap();
            let echo = soon("an echo", socket.next()).await.unwrap().unwrap();
            assert_eq!(echo.to_text().unwrap(), "tick");
            began.elapsed()
        });
        let round = join_all(echoes).await.into_iter().max().unwrap();
        slowest = slowest.max(round);
        rounds += 1;
    }
    soon("the end of the loops", loops).await.unwrap();
    // Without the yields of the guest a round would wait for whole calls: 200 ms at the least.
    assert!(slowest < Duration::from_secs(1), "an echo took {slowest:?}");
    assert!(rounds >= 5, "only {rounds} rounds while 20 loops ran");
}

#[tokio::test]
async fn memory_bombs_leave_the_memory_of_the_process_flat() {
    let proxy = Proxy::start(&with_guest(
        "",
        &route("/bomb", "127.0.0.1:9", r#"request = "memory""#, ""),
    ))
    .await;
    let bombs = || async {
        for (head, _) in join_all((0..8).map(|_| client::get(proxy.addr(0), "/bomb"))).await {
            assert_eq!(head.status, 500);
        }
    };
    bombs().await;
    let before = proxy.resident_kib();
    for _ in 0..5 {
        bombs().await;
    }
    let after = proxy.resident_kib();
    // Forty bombs of 16 MiB each went off in between.
    assert!(after < before + (64 << 10), "{before} → {after} KiB");
}

#[tokio::test]
async fn forbidden_edits_change_nothing_and_the_plugin_is_told() {
    let upstream = Script::new().await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start(&with_guest(
        "",
        &route("/", &to, r#"request = "bad_headers""#, ""),
    ))
    .await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    let request = b"POST /?q=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nok";
    stream.write_all(request).await.unwrap();
    let mut server = upstream.accept().await;
    let head = read_head(&mut server).await;
    assert!(head.starts_with("POST /?q=1 HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    for field in ["\r\nhost: localhost\r\n", "\r\ncontent-length: 2\r\n"] {
        assert_eq!(lower.matches(field).count(), 1, "{field}: {head}");
    }
    for field in [
        "\r\nhost: evil",
        "x bad",
        "transfer-encoding",
        "upgrade:",
        "sec-websocket-key",
    ] {
        assert!(!lower.contains(field), "{field}: {head}");
    }
    for injected in ["x-split", "x-line", "x-return", "x-nul", "x-name"] {
        assert!(
            !lower.contains(&format!("\n{injected}")),
            "{injected}: {head}"
        );
    }
    let told = lower
        .lines()
        .find(|line| line.starts_with("x-refused: "))
        .unwrap();
    assert!(!told.contains("accepted"), "{told}");
    assert_eq!(
        told.matches("written by the proxy itself").count(),
        6,
        "{told}"
    );
    server
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client::read_head(&mut stream).await.unwrap().status, 204);
}

#[tokio::test]
async fn forbidden_edits_of_an_answer_change_nothing_either() {
    let upstream = Script::new().await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start(&with_guest(
        "",
        &route("/", &to, r#"response = "bad_headers""#, ""),
    ))
    .await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut server = upstream.accept().await;
        read_head(&mut server).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        server.write_all(answer).await.unwrap();
        // What follows is a next answer: the framing is the upstream's.
        let (head, body) = client::read_response(&mut stream).await.unwrap();
        assert_eq!((head.status, &*body), (200, &b"ok"[..]));
        for injected in [
            "x-split",
            "x-line",
            "x-return",
            "x-nul",
            "x-name",
            "set-cookie",
            "upgrade",
        ] {
            assert_eq!(head.get(injected), None, "{head:?}");
        }
        let told = head.get("x-refused").unwrap();
        assert!(!told.contains("accepted"), "{told}");
        assert_eq!(told.split("; ").count(), 11, "{told}");
    }
}

#[tokio::test]
async fn whatever_a_hook_does_wrong_its_request_fails_and_the_next_is_served() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let wrongs = [
        ("trap", "trap"),
        ("loop", "timeout"),
        ("memory", "memory"),
        ("stack", "trap"),
        ("big_body", "bad_reply"),
        ("bad_status", "bad_reply"),
        ("bad_reply_header", "bad_reply"),
    ];
    let mut routes = route("/fine", &to, "", "");
    for (act, _) in wrongs {
        for hook in ["request", "response"] {
            let config = format!(r#"{hook} = "{act}""#);
            routes += &route(&format!("/{hook}/{act}"), &to, &config, "");
        }
    }
    let admin = "[admin]\nbind = \"127.0.0.1:0\"\n";
    let config = with_guest("limits = { instances = 1 }\n", &routes);
    let proxy = Proxy::start(&format!("{admin}{config}")).await;
    for (act, label) in wrongs {
        for hook in ["request", "response"] {
            let path = format!("/{hook}/{act}");
            let (head, _) = client::get(proxy.addr(0), &path).await;
            assert_eq!(head.status, 500, "{path}");
            let failed = format!(
                r#"sluicegate_plugin_calls_total{{plugin="guest",route="{path}",result="{label}"}}"#
            );
            assert_eq!(proxy.metric(&failed).await, Some(1.0), "{failed}");
            // With the one instance that there is.
            let (head, _) = client::get(proxy.addr(0), "/fine").await;
            assert_eq!(head.status, 200, "after {path}");
        }
    }
}

#[tokio::test]
async fn a_log_flood_is_bounded_and_cannot_forge_lines() {
    let upstream = Upstream::describing("pages").await;
    let routes = [
        route(
            "/flood",
            &upstream.addr.to_string(),
            r#"request = "log_flood""#,
            "",
        ),
        route(
            "/trap",
            &upstream.addr.to_string(),
            r#"request = "trap""#,
            "",
        ),
    ];
    let proxy = Proxy::start(&with_guest("", &routes.concat())).await;
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(client::get(proxy.addr(0), "/flood").await.0.status, 200);
    }
    // What comes after the flood is the last that the log can hold of it.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    client::get(proxy.addr(0), "/trap").await;
    proxy
        .log_line("the trap", |line| line.contains("filter failed"))
        .await;
    let log = proxy.stderr_text();
    let flood: Vec<&str> = log.lines().filter(|line| line.contains("forged")).collect();
    assert!(
        (1..=100 * (seconds + 2)).contains(&flood.len()),
        "{} of 5000 lines in {seconds} s",
        flood.len()
    );
    for line in flood {
        assert!(line.contains(r"\r\n\u{1b}[31m"), "escaped: {line}");
        assert!(line.len() < 1400, "cut: {} bytes", line.len());
        assert!(line.contains("plugin=\"guest\""), "attributed: {line}");
    }
}

#[tokio::test]
async fn no_client_sees_what_another_left_behind() {
    let upstream = Upstream::describing("pages").await;
    let proxy = Proxy::start(&with_guest(
        "limits = { instances = 1 }\n",
        &route(
            "/",
            &upstream.addr.to_string(),
            r#"request = "count", response = "count""#,
            "",
        ),
    ))
    .await;
    for _ in 0..5 {
        let (head, body) = client::get(proxy.addr(0), "/").await;
        let seen: Value = serde_json::from_slice(&body).unwrap();
        let count = seen["headers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|pair| pair[0] == "x-count");
        assert_eq!(count.unwrap()[1], "1", "a fresh instance each");
        assert_eq!(head.get("x-count"), Some("2"), "the same for its response");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_call_gives_its_instance_back() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let authority = Authority::new("plugins");
    let dir = TempDir::new().unwrap();
    authority.issue(&["localhost"]).write(dir.path(), "site");
    let rounds = ["/a", "/b", "/c", "/d", "/e"];
    let mut routes = route("/fine", &to, r#"request = "count""#, "");
    for path in rounds {
        routes += &route(path, &to, r#"request = "loop""#, "");
    }
    // A call that nobody cuts, and one instance: it must come back by the leaving alone.
    let limits = "limits = { instances = 1, call_timeout = \"10m\" }\n";
    let tls =
        "[[listener]]\nbind = \"127.0.0.2:0\"\ntls = { cert = \"site.crt\", key = \"site.key\" }\n";
    let config = format!("{tls}{}", with_guest(limits, &routes));
    let proxy = Proxy::start_in(dir, &config).await;
    for path in rounds {
        let stream = client::tls(proxy.addr(0), "localhost", authority.client(&["h2"]))
            .await
            .unwrap();
        let (sender, connection) = soon("an HTTP/2 handshake", h2::client::handshake(stream))
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let mut sender = soon("a free stream", sender.ready()).await.unwrap();
        let request = http::Request::get(format!("https://localhost{path}"));
        let (response, _) = sender
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let name = format!("route=\"{path}\"");
        proxy
            .log_line("the call", |line| {
                line.contains("looping") && line.contains(&name)
            })
            .await;
        driver.abort();
        drop((response, sender));
        let (head, _) = client::get(proxy.addr(1), "/fine").await;
        assert_eq!(head.status, 200, "{path}");
    }
}

#[tokio::test]
async fn many_clients_that_leave_in_mid_call_leave_no_instance_behind() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start(&with_guest(
        "limits = { instances = 2, call_timeout = \"5ms\" }\n",
        &[
            route("/fine", &to, r#"request = "count""#, ""),
            route("/loop", &to, r#"request = "loop""#, ""),
        ]
        .concat(),
    ))
    .await;
    for _ in 0..5 {
        for _ in 0..20 {
            let mut stream = client::tcp(proxy.addr(0)).await;
            let request = b"GET /loop HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).await.unwrap();
            stream.set_zero_linger().unwrap();
        }
        let (head, _) = client::get(proxy.addr(0), "/fine").await;
        assert_eq!(head.status, 200);
    }
}

#[tokio::test]
async fn more_handshakes_than_instances_wait_and_succeed() {
    let upstream = Upstream::echoing("echo").await;
    let to = upstream.addr.to_string();
    let proxy = Proxy::start(&with_guest(
        "limits = { instances = 2 }\n",
        &route("/", &to, r#"request = "count", response = "count""#, ""),
    ))
    .await;
    let addr = proxy.addr(0);
    let handshakes = (0..40).map(|_| async move {
        let stream = client::tcp(addr).await;
        let request = client::ws_request("ws://localhost/", &[]);
        client::websocket(stream, request).await
    });
    let sockets = join_all(handshakes).await;
    for opened in &sockets {
        match opened {
            Ok((_, response)) => assert_eq!(response.headers()["x-count"], "2"),
            Err(WsError::Http(response)) => panic!("{}", response.status()),
            Err(error) => panic!("{error}"),
        }
    }
    // Open tunnels hold no instance.
    let (_socket, response) = {
        let stream = client::tcp(addr).await;
        client::websocket(stream, client::ws_request("ws://localhost/", &[]))
            .await
            .unwrap()
    };
    assert_eq!(response.status(), 101);
}

/// A listener, the misbehaving guest with these further keys, and the routes.
fn with_guest(more: &str, routes: &str) -> String {
    let (top, keys) = if more.starts_with('[') {
        (more, "")
    } else {
        ("", more)
    };
    format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{top}[plugin.guest]\nwasm = \"{}\"\n{keys}{routes}",
        plugins::wasm("sluicegate-test-guests").display()
    )
}

/// A route of the path's name with the guest in its chain.
fn route(path: &str, to: &str, config: &str, more: &str) -> String {
    format!(
        "[[route]]\nname = \"{path}\"\npath = \"{path}\"\nto = \"{to}\"\n\
         plugins = [{{ use = \"guest\", config = {{ {config} }}{more} }}]\n"
    )
}

async fn read_head(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await.unwrap());
        }
    };
    soon("a request head", reading).await;
    String::from_utf8(bytes).unwrap()
}
