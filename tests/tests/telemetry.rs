//! What the proxy says about itself: the access log, the metrics, the admin listener.

use std::fs::OpenOptions;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{Response, StatusCode};
use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::server::{Manner, Server};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::secrets::planted;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, http2, plugins, soon, until};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

fn config(log: &str, rest: &str) -> String {
    format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        [log]
        {log}
        {rest}
        "#
    )
}

type Socket = WebSocketStream<TcpStream>;

async fn open_pair(proxy: &Proxy, script: &Script, path: &str) -> (Socket, Socket) {
    let opening = async {
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request(&format!("ws://a.test{path}"), &[]);
        client::websocket(stream, request).await.unwrap().0
    };
    tokio::join!(opening, script.accept_websocket())
}

async fn pass(from: &mut Socket, to: &mut Socket, message: Message) {
    from.send(message.clone()).await.unwrap();
    let heard = soon("a message", to.next()).await.unwrap().unwrap();
    assert_eq!(heard, message);
}

/// Reads until the other side has ended, then ends this one.
async fn ended(mut socket: Socket) {
    while soon("the end", socket.next()).await.is_some() {}
}

/// Says Close with this code and waits for both ends.
async fn close(mut from: Socket, to: Socket, code: u16) {
    let frame = CloseFrame {
        code: code.into(),
        reason: "".into(),
    };
    from.close(Some(frame)).await.unwrap();
    tokio::join!(ended(from), ended(to));
}

fn millis(event: &Value, key: &str) -> f64 {
    let value = event[key].as_f64();
    value.unwrap_or_else(|| panic!("no {key} in {event}"))
}

#[tokio::test]
async fn a_websocket_is_logged_when_it_opens_and_when_it_closes() {
    let script = Script::new().await;
    let proxy = Proxy::start(&config(
        "access = \"json\"",
        &format!(
            "[[route]]\nname = \"chat\"\npath = \"/ws/\"\nto = \"back\"\nidle_timeout = \"400ms\"\n\
             [upstream.back]\nservers = [\"{}\"]\n",
            script.addr
        ),
    ))
    .await;
    // Who, with which code, and the log's words for it.
    for (who, code, closed_by, cause) in [
        ("client", Some(1000), "client", "close"),
        ("upstream", Some(4321), "upstream", "close"),
        ("nobody", Some(1001), "proxy", "idle_timeout"),
        ("client breaks", None, "client", "eof"),
        ("upstream breaks", None, "upstream", "eof"),
    ] {
        let path = format!("/ws/{}", who.replace(' ', "-"));
        let (mut down, mut up) = open_pair(&proxy, &script, &path).await;
        let opened = proxy
            .access_event("ws.open", |event| event["path"] == *path)
            .await;
        assert_eq!(opened["status"], 101);
        assert_eq!(opened["route"], "chat");
        assert_eq!(opened["upstream"], "back");
        assert_eq!(opened["endpoint"], script.addr.to_string());
        assert_eq!(opened["upstream_protocol"], "HTTP/1.1");
        assert_eq!(opened["client_ip"], "127.0.0.1");
        assert_eq!(opened["host"], "a.test");
        assert!(millis(&opened, "upstream_ms") <= millis(&opened, "duration_ms"));

        // Two messages up, a ping that is none, one message down.
        pass(&mut down, &mut up, "hello".into()).await;
        pass(&mut down, &mut up, Message::binary(vec![7; 200])).await;
        pass(&mut down, &mut up, Message::Ping("ping".into())).await;
        pass(&mut up, &mut down, "hi".into()).await;
        // tungstenite answers the ping with its next write.
        let (mut bytes_in, mut bytes_out) = (6 + 5 + 8 + 200 + 6 + 4, 2 + 2);
        bytes_out += 2 + 4;
        match who {
            "client" => close(down, up, 1000).await,
            "upstream" => close(up, down, 4321).await,
            "client breaks" => {
                drop(down);
                client::read_to_end(up.get_mut()).await;
                drop(up);
            }
            "upstream breaks" => {
                drop(up);
                client::read_to_end(down.get_mut()).await;
                drop(down);
            }
            _ => {
                tokio::join!(ended(down), ended(up));
            }
        }
        let closed = proxy
            .access_event("ws.close", |event| event["path"] == *path)
            .await;
        assert_eq!(closed["request_id"], opened["request_id"]);
        assert_eq!(closed["close_code"].as_u64(), code, "{who}: {closed}");
        assert_eq!(closed["closed_by"], closed_by, "{who}: {closed}");
        assert_eq!(closed["cause"], cause, "{who}: {closed}");
        assert_eq!(closed["messages_in"], 2, "{who}: {closed}");
        assert_eq!(closed["messages_out"], 1, "{who}: {closed}");
        if code.is_some() {
            // The Close frames of both sides.
            bytes_in += 6 + 2;
            bytes_out += 2 + 2;
        }
        if closed_by != "proxy" {
            assert_eq!(closed["bytes_in"], bytes_in, "{who}: {closed}");
            assert_eq!(closed["bytes_out"], bytes_out, "{who}: {closed}");
        } else {
            assert!(millis(&closed, "duration_ms") >= 400.0);
        }
        assert!(millis(&closed, "duration_ms") > 0.0);
    }
}

/// What is sent over HTTP/2 is logged as it is, and counted apart.
#[tokio::test]
async fn both_ends_of_http2_are_told() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = Proxy::observed(&format!(
        r#"
        http2 = true
        [[route]]
        name = "it"
        path = "/it"
        to = "h2c://{}"
        "#,
        server.addr
    ))
    .await;
    let downstream = http2::client::Client::plain(proxy.addr(0)).await;
    let open = r#"sluicegate_websockets_open{route="it",http_version="2"}"#;
    let refused = r#"sluicegate_requests_total{route="it",method="CONNECT",status="4xx"}"#;

    let ok = || Response::new(());
    let accepting = async { server.asked().await.accept(ok()) };
    let (opening, up) = tokio::join!(downstream.open("/it/ws", &[]), accepting);
    let (head, down) = opening.unwrap();
    assert_eq!(head.status(), 200);
    let opened = proxy.access_event("ws.open", |_| true).await;
    proxy.until_metric(open, 1.0).await;
    drop((down, up));
    let closed = proxy.access_event("ws.close", |_| true).await;
    proxy.until_metric(open, 0.0).await;
    assert_eq!(opened["status"], 200);
    for event in [opened, closed] {
        assert_eq!(event["method"], "CONNECT", "{event}");
        assert_eq!(event["protocol"], "HTTP/2", "{event}");
        assert_eq!(event["upstream_protocol"], "HTTP/2", "{event}");
    }

    let mut no = ok();
    *no.status_mut() = StatusCode::FORBIDDEN;
    let refusing = async { server.asked().await.respond(no, "no") };
    let (opening, ()) = tokio::join!(downstream.open("/it/no", &[]), refusing);
    assert_eq!(opening.unwrap().0.status(), 403);
    let answering = async { server.asked().await.respond(ok(), "yes") };
    let (answer, ()) = tokio::join!(downstream.get("/it/page"), answering);
    assert_eq!(answer.unwrap().head.status(), 200);
    for (path, method, status) in [("/it/no", "CONNECT", 403), ("/it/page", "GET", 200)] {
        let event = proxy
            .access_event("request", |event| event["path"] == path)
            .await;
        assert_eq!(event["method"], method, "{event}");
        assert_eq!(event["status"], status, "{event}");
        assert_eq!(event["protocol"], "HTTP/2", "{event}");
        assert_eq!(event["upstream_protocol"], "HTTP/2", "{event}");
    }
    proxy.until_metric(refused, 1.0).await;
}

#[tokio::test]
async fn requests_are_logged_without_their_query_unless_it_is_asked_for() {
    let pages = Upstream::describing("pages").await;
    let routes = format!(
        "[[route]]\nname = \"pages\"\npath = \"/p\"\nto = \"{}\"\n",
        pages.addr
    );
    for (log, secret, expected) in [
        (
            "access = \"json\"",
            format!("token={}", planted("query")),
            "?…",
        ),
        (
            "access = \"json\"\nquery = true",
            "token=told".to_owned(),
            "token=told",
        ),
    ] {
        let mut proxy = Proxy::start(&config(log, &routes)).await;
        let (head, body) = client::get(proxy.addr(0), &format!("/p?{secret}")).await;
        assert_eq!(head.status, 200);
        let (missing, _) = client::get(proxy.addr(0), &format!("/missing?{secret}")).await;
        assert_eq!(missing.status, 404);

        let event = proxy
            .access_event("request", |event| event["status"] == 200)
            .await;
        assert_eq!(event["method"], "GET");
        assert_eq!(event["path"], "/p");
        assert_eq!(event["query"], expected);
        assert_eq!(event["route"], "pages");
        assert_eq!(event["protocol"], "HTTP/1.1");
        assert_eq!(event["upstream_protocol"], "HTTP/1.1");
        assert_eq!(event["bytes_out"], body.len());
        assert!(millis(&event, "duration_ms") >= millis(&event, "upstream_ms"));

        let event = proxy
            .access_event("request", |event| event["status"] == 404)
            .await;
        assert_eq!(event["refused"], "no_route");
        assert_eq!(event["upstream_protocol"], Value::Null);
        assert_eq!(event["query"], expected);
        proxy.signal(libc::SIGTERM);
        proxy.wait().await;
        proxy.access_log().await;
    }
}

#[tokio::test]
async fn the_access_log_is_text_by_default_and_can_be_off() {
    let pages = Upstream::describing("pages").await;
    for (log, expected) in [
        ("", true),
        ("access = \"text\"", true),
        ("access = \"off\"", false),
    ] {
        let route = format!("[[route]]\nname = \"all\"\nto = \"{}\"\n", pages.addr);
        let mut proxy = Proxy::start(&config(log, &route)).await;
        assert_eq!(client::get(proxy.addr(0), "/a%20b?q").await.0.status, 200);
        proxy.signal(libc::SIGTERM);
        proxy.wait().await;
        let lines = proxy.access_log().await;
        assert_eq!(lines.len(), usize::from(expected), "{lines:?}");
        for line in lines {
            let words = [
                "request status=200",
                "method=GET",
                "path=/a%20b",
                "route=all",
            ];
            for word in words {
                assert!(line.contains(word), "no {word} in {line}");
            }
        }
    }
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    let pages = Upstream::describing("pages").await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut proxy = Proxy::start_with(
        TempDir::new().unwrap(),
        &config(
            "access = \"json\"",
            &format!("[[route]]\nto = \"{}\"\n", pages.addr),
        ),
        |command| {
            command.stdout(full);
        },
    )
    .await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    for _ in 0..100 {
        let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
        assert_eq!(head.status, 200);
    }
    let dropped = r#"sluicegate_log_lines_dropped_total{stream="access"}"#;
    proxy.until_metric(dropped, 100.0).await;
    drop(stream);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn with_nowhere_to_write_any_log_it_serves() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("web.sock");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let config = "[[listener]]\nbind = \"unix:web.sock\"\n[log]\nlevel = \"trace\"\n\
                  [[route]]\nrespond = {}\n";
    let mut proxy = Proxy::spawn(dir, config, |command| {
        command.stdout(full()).stderr(full());
    });
    // It cannot say that it is ready.
    let connected = || async { UnixStream::connect(&socket).await.ok() };
    for (path, status) in [("/", 200), ("/%zz", 400), ("/", 200)] {
        let mut stream = until("a connection", connected).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, _) = client::read_response(&mut stream).await.unwrap();
        assert_eq!(head.status, status);
    }
    proxy.signal(libc::SIGHUP);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let (echo, pages) = (
        Upstream::echoing("echo").await,
        Upstream::describing("pages").await,
    );
    let dead = sluicegate_tests::free_port();
    let proxy = Proxy::start_in(
        dir,
        &config(
            "",
            &format!(
                r#"
                [[listener]]
                bind = "127.0.0.2:0"
                tls = {{ cert = "a.crt", key = "a.key" }}
                [[route]]
                name = "ws"
                path = "/ws/"
                to = "{}"
                [[route]]
                name = "pages"
                path = "/pages"
                to = "{}"
                [[route]]
                name = "dead"
                path = "/dead"
                to = "127.0.0.1:{dead}"
                "#,
                echo.addr, pages.addr
            ),
        ),
    )
    .await;
    let stream = client::tls(proxy.addr(1), "a.test", authority.client(&[])).await;
    let request = client::ws_request("wss://a.test/ws/", &[]);
    let (mut socket, _) = client::websocket(stream.unwrap(), request).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    soon("an echo", socket.next()).await.unwrap().unwrap();
    let request = client::ws_request("ws://a.test/pages", &[]);
    let stream = client::tcp(proxy.addr(0)).await;
    client::websocket(stream, request).await.unwrap_err();
    for (path, status) in [("/pages", 200), ("/dead", 502), ("/nowhere", 404)] {
        assert_eq!(client::get(proxy.addr(0), path).await.0.status, status);
    }
    assert!(proxy.reload().await);
    assert_eq!(
        proxy
            .metric(r#"sluicegate_websockets_open{route="ws",http_version="1.1"}"#)
            .await,
        Some(1.0)
    );
    socket.close(None).await.unwrap();
    while soon("the end", socket.next()).await.is_some() {}
    drop(socket);
    proxy
        .until_metric(
            r#"sluicegate_websockets_open{route="ws",http_version="1.1"}"#,
            0.0,
        )
        .await;

    let (head, text) = proxy.admin_request("GET", "/metrics", "").await;
    let content_type = head.get("content-type").unwrap();
    assert!(content_type.starts_with("application/openmetrics-text"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (series, value) in [
        (r#"connections_accepted_total{listener="127.0.0.2:0"}"#, "1"),
        (r#"connections_open{listener="127.0.0.2:0"}"#, "0"),
        (
            r#"tls_handshakes_total{listener="127.0.0.2:0",result="ok"}"#,
            "1",
        ),
        (
            r#"handshakes_total{route="ws",http_version="1.1",result="accepted"}"#,
            "1",
        ),
        (
            r#"handshakes_total{route="pages",http_version="1.1",result="answered_otherwise"}"#,
            "1",
        ),
        (
            r#"websocket_messages_total{route="ws",direction="from_downstream"}"#,
            "1",
        ),
        (
            r#"requests_total{route="dead",method="GET",status="5xx"}"#,
            "1",
        ),
        (r#"request_duration_seconds_count{route="dead"}"#, "1"),
        (r#"requests_rejected_total{reason="no_route"}"#, "1"),
        (r#"reloads_total{result="applied"}"#, "1"),
        ("config_generation", "2"),
        ("draining", "0"),
    ] {
        let line = format!("sluicegate_{series} {value}");
        assert!(text.lines().any(|own| own == line), "no {line}");
    }
    for prefix in [
        "websocket_bytes_total{",
        "websocket_duration_seconds_bucket{",
        "upstream_up{",
        "upstream_leases{",
        "upstream_http2_connections{",
        "upstream_connect_errors_total{",
        "upstream_connect_duration_seconds_bucket{",
        "certificate_expiry_timestamp_seconds{",
        "build_info{",
        "last_reload_success_timestamp_seconds ",
        "start_time_seconds ",
        "resident_memory_bytes ",
        "open_fds ",
    ] {
        let line = format!("sluicegate_{prefix}");
        assert!(text.lines().any(|own| own.starts_with(&line)), "no {line}");
    }
}

#[tokio::test]
async fn the_time_that_plugins_take_is_measured_by_plugin_and_route() {
    const CALL_TIMEOUT: Duration = Duration::from_millis(200);
    let upstream = Upstream::describing("pages").await;
    let mut rest = format!(
        "[plugin.guest]\nwasm = '{}'\nlimits = {{ call_timeout = '{}ms' }}\n",
        plugins::wasm("sluicegate-test-guests").display(),
        CALL_TIMEOUT.as_millis()
    );
    for (name, act) in [("quick", "refuse"), ("slow", "loop"), ("unused", "loop")] {
        rest += &format!(
            "[[route]]\nname = '{name}'\npath = '/{name}'\nto = '{}'\n\
             plugins = [{{ use = 'guest', config = {{ request = '{act}' }} }}]\n",
            upstream.addr
        );
    }
    let proxy = Proxy::start(&config("", &rest)).await;
    for (path, status) in [("/quick", 403), ("/slow", 500), ("/slow", 500)] {
        assert_eq!(client::get(proxy.addr(0), path).await.0.status, status);
    }
    let figure = async |part: &str, route: &str, bound: &str| {
        let labels = format!(r#"{bound}plugin="guest",route="{route}""#);
        let series = format!("sluicegate_plugin_call_duration_seconds_{part}{{{labels}}}");
        proxy
            .metric(&series)
            .await
            .unwrap_or_else(|| panic!("no {series}"))
    };
    for (route, calls) in [("quick", 1.0), ("slow", 2.0), ("unused", 0.0)] {
        assert_eq!(figure("count", route, "").await, calls, "{route}");
        assert_eq!(figure("bucket", route, r#"le="+Inf","#).await, calls);
    }
    // Seconds, as the name says.
    let timeout = CALL_TIMEOUT.as_secs_f64();
    assert!(figure("sum", "quick", "").await > 0.0);
    let slow = figure("sum", "slow", "").await;
    assert!((2.0 * timeout..10.0).contains(&slow), "{slow}");
}

#[tokio::test]
async fn a_web_page_cannot_ask_for_a_reload() {
    let proxy = Proxy::start(&config("", "[[route]]\nrespond = {}\n")).await;
    let own = "X-Sluicegate-Admin: 1\r\n";
    for (method, fields, status) in [
        ("POST", "", 403),
        (
            "POST",
            "Origin: http://evil.example\r\nX-Sluicegate-Admin: 1\r\n",
            403,
        ),
        ("POST", "Origin: null\r\nX-Sluicegate-Admin: 1\r\n", 403),
        (
            "POST",
            "Host: evil.example\r\nX-Sluicegate-Admin: 1\r\n",
            403,
        ),
        ("GET", own, 405),
        ("OPTIONS", "Origin: http://evil.example\r\n", 405),
    ] {
        let (head, _) = proxy.admin_request(method, "/reload", fields).await;
        assert_eq!(head.status, status, "{method} {fields}");
        assert_eq!(head.get("access-control-allow-origin"), None);
    }
    assert_eq!(
        proxy.metric("sluicegate_config_generation").await,
        Some(1.0)
    );
    assert_eq!(proxy.post_reload().await.0, 200);
    assert_eq!(
        proxy.metric("sluicegate_config_generation").await,
        Some(2.0)
    );
}
