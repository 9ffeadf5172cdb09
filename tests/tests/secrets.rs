//! Secrets are never told: not in the log at its loudest, not in the access log, in reports, in admin pages.
//!
//! What is planted here, and in other tests, is searched for by the harness itself, in everything that a proxy says
//! (`tests/src/secrets.rs`); these tests take secrets to the places where proxies meet them, and most of all to where
//! something goes wrong with them.

use std::fs;
use std::net::SocketAddr;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::SinkExt as _;
use h2::Reason;
use http::Response;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::client;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::server::{Manner, Server};
use sluicegate_tests::plugins::wasm;
use sluicegate_tests::proxy::{Proxy, binary};
use sluicegate_tests::secrets::{assert_none_in, planted};
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Script, Upstream};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The loudest that there is, on both sides of whatever the proxy is built from.
const LOUD: &str = "[admin]\nbind = \"127.0.0.1:0\"\n[log]\naccess = \"json\"\nlevel = \"trace\"\n";

#[tokio::test]
async fn nothing_is_told_of_requests_whether_they_pass_or_not() {
    let pages = Upstream::describing("pages").await;
    let dead = format!("127.0.0.1:{}", sluicegate_tests::free_port());
    let mut proxy = Proxy::start(&format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\nhttp2 = true\n{LOUD}[limits]\nhead_size = \"4KiB\"\n\
         [[route]]\nto = \"{0}\"\norigins = [\"https://good.test\"]\n[[route]]\npath = \"/dead/\"\nto = \"{dead}\"\n\
         [[route]]\npath = \"/plain/\"\nto = \"{0}\"\n\
         [[route]]\npath = \"/moved/\"\nredirect = {{ to = \"https://{{host}}{{path}}\" }}\n",
        pages.addr
    ))
    .await;
    let basic = STANDARD.encode(format!("ann:{}", planted("password")));
    let fields = format!(
        "Authorization: Basic {basic}\r\nProxy-Authorization: Bearer {0}\r\nCookie: session={0}\r\n\
         Referer: http://a.test/?token={0}\r\nX-Api-Key: {0}\r\n",
        planted("field")
    );
    let query = planted("query");
    let host = "Host: a.test\r\n";
    let long = "x".repeat(8 << 10);
    let key = planted("key");
    let socket = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n";
    for (what, request, status) in [
        (
            "a request",
            format!("GET /?t={query} HTTP/1.1\r\n{host}{fields}\r\n"),
            200,
        ),
        (
            "a dead server",
            format!("GET /dead/?t={query} HTTP/1.1\r\n{host}{fields}\r\n"),
            502,
        ),
        (
            "a redirect",
            format!("GET /moved/?t={query} HTTP/1.1\r\n{host}{fields}\r\n"),
            308,
        ),
        (
            "two hosts",
            format!("GET /?t={query} HTTP/1.1\r\n{host}{host}{fields}\r\n"),
            400,
        ),
        (
            "a blank in the target",
            format!("GET /?t={query} x HTTP/1.1\r\n{host}{fields}\r\n"),
            400,
        ),
        (
            "a fragment",
            format!("GET /?t={query}#f HTTP/1.1\r\n{host}{fields}\r\n"),
            400,
        ),
        (
            "a bad escape",
            format!("GET /%zz?t={query} HTTP/1.1\r\n{host}{fields}\r\n"),
            400,
        ),
        (
            "a user in the target",
            format!("GET http://u:{query}@a.test/ HTTP/1.1\r\n{host}\r\n"),
            400,
        ),
        (
            "a user in the host",
            format!("GET / HTTP/1.1\r\nHost: u:{query}@a.test\r\n\r\n"),
            400,
        ),
        (
            "a NUL in a value",
            format!("GET / HTTP/1.1\r\n{host}Cookie: {key}\0\r\n\r\n"),
            400,
        ),
        (
            "a bare line feed",
            format!("GET / HTTP/1.1\r\n{host}Cookie: {key}\n\r\n"),
            400,
        ),
        (
            "a folded value",
            format!("GET / HTTP/1.1\r\n{host}Cookie: a\r\n {key}\r\n\r\n"),
            400,
        ),
        (
            "a field that is none",
            format!("GET / HTTP/1.1\r\n{host}{key}\r\n\r\n"),
            400,
        ),
        (
            "a blank in a name",
            format!("GET / HTTP/1.1\r\n{host}{key} : a\r\n\r\n"),
            400,
        ),
        (
            "a bad length",
            format!("POST / HTTP/1.1\r\n{host}Content-Length: {key}\r\n\r\n"),
            400,
        ),
        (
            "a coding",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: {key}\r\n\r\n"),
            400,
        ),
        (
            "a large head",
            format!("GET / HTTP/1.1\r\n{host}{fields}X: {long}\r\n\r\n"),
            431,
        ),
        (
            "a bad chunk",
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n{key}\r\n"),
            400,
        ),
        (
            "a bad WebSocket key",
            format!("GET / HTTP/1.1\r\n{host}{socket}Sec-WebSocket-Key: {key}\r\n\r\n"),
            400,
        ),
        (
            "a wrong origin",
            format!(
                "GET /?t={query} HTTP/1.1\r\n{host}{socket}Origin: https://evil.test\r\n{fields}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            403,
        ),
        (
            "no WebSocket there",
            format!(
                "GET /plain/?t={query} HTTP/1.1\r\n{host}{socket}{fields}Sec-WebSocket-Protocol: {key}\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            200,
        ),
    ] {
        let mut stream = client::tcp(proxy.addr(0)).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = String::from_utf8(client::read_to_end(&mut stream).await).unwrap();
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin), "{what}: {answer}");
        if status >= 400 {
            assert_none_in(&answer);
        }
    }

    let both = Client::plain(proxy.addr(0)).await;
    let bearer = format!("Bearer {key}");
    let fields = [("authorization", &*bearer), ("cookie", &*key)];
    for path in ["/", "/dead/", "/plain/", "/%zz"] {
        let target = format!("{path}?t={query}");
        assert!(both.get(&target).await.is_ok(), "{path}");
        assert!(both.open(&target, &fields).await.is_ok(), "{path}");
    }
    let event = proxy
        .access_event("request", |line| line["query"] == "?…")
        .await;
    assert_eq!(event["path"], "/");
    stop(&mut proxy).await;
    // Or else there was little to find anything in.
    assert!(proxy.stderr_text().contains("TRACE "));
}

#[tokio::test]
async fn nothing_is_told_of_answers_and_messages() {
    let script = Script::new().await;
    let to = script.addr;
    let mut proxy = Proxy::start(&format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{LOUD}\
         [upstream.server]\nservers = [\"{to}\"]\nhealth = {{ fails = 60000 }}\n\
         [[route]]\nto = \"server\"\n[[route]]\npath = \"/copied/\"\nto = \"server\"\nfollow = false\n\
         [[route]]\npath = \"/read/\"\nto = \"server\"\nmessage_size = \"1KiB\"\n"
    ))
    .await;
    let secret = planted("answer");
    for (answer, status) in [
        (
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: {secret}\r\nContent-Length: 0\r\n\r\n"),
            200,
        ),
        (
            format!("HTTP/1.1 302 Found\r\nLocation: /?code={secret}\r\nContent-Length: 0\r\n\r\n"),
            302,
        ),
        (
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: {secret}\r\nContent-Length: {secret}\r\n\r\n"),
            502,
        ),
        (format!("HTTP/1.1 200 OK\r\n{secret}\r\n\r\n"), 502),
        (
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: a\n{secret}\r\n\r\n"),
            502,
        ),
        (format!("{secret}\r\n\r\n"), 502),
        (
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {secret}\r\nConnection: upgrade\r\n\r\n"
            ),
            502,
        ),
    ] {
        let asked = tokio::spawn(ask(proxy.addr(0)));
        let mut server = script.accept().await;
        client::read_request_head(&mut server).await;
        server.write_all(answer.as_bytes()).await.unwrap();
        let told = asked.await.unwrap();
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}: {told}"
        );
    }

    let spoken = planted("message");
    for path in ["/", "/copied/", "/read/"] {
        for last in [
            Message::Text("x".repeat(2 << 10).into()),
            Message::Close(Some(CloseFrame {
                code: 4000.into(),
                reason: spoken.clone().into(),
            })),
        ] {
            let url = format!("ws://a.test{path}?ticket={}", planted("ticket"));
            // What is offered may be a token; what is agreed on is a name.
            let offered = format!("chat, {spoken}");
            let protocol = [("sec-websocket-protocol", &*offered)];
            let request = client::ws_request(&url, &protocol);
            let stream = client::tcp(proxy.addr(0)).await;
            let shaken = client::websocket(stream, request);
            let accepted = async {
                let mut server = script.accept().await;
                let head = client::read_request_head(&mut server).await;
                let key = head
                    .lines()
                    .find_map(|line| line.strip_prefix("sec-websocket-key: "));
                let accept = sluicegate::handshake::accept_key(key.unwrap());
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                     Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
                );
                server.write_all(answer.as_bytes()).await.unwrap();
                server
            };
            let (shaken, mut server) = tokio::join!(shaken, accepted);
            let (mut socket, _) = shaken.unwrap();
            socket
                .send(Message::Text(spoken.clone().into()))
                .await
                .unwrap();
            socket
                .send(Message::Ping(spoken.clone().into()))
                .await
                .unwrap();
            socket.send(last).await.unwrap();
            // Text that is none, behind it all.
            let mut broken = vec![0x81, 0x7e, 0, 1];
            broken.push(0xff);
            let _ = server.write_all(&broken).await;
            // Nobody waits for an answer to a Close.
            let _ = server.shutdown().await;
            drop(socket);
            client::read_to_end(&mut server).await;
        }
        proxy
            .access_event("ws.close", |line| line["path"] == path)
            .await;
    }
    stop(&mut proxy).await;
}

#[tokio::test]
async fn nothing_is_told_of_what_goes_on_over_http2_or_past_a_filter_of_messages() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let mut proxy = Proxy::start(&format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n{LOUD}\
         [upstream.server]\nservers = [\"h2c://{}\"]\nhealth = {{ fails = 60000 }}\n\
         [plugin.redact]\nwasm = \"{}\"\n\
         config = {{ patterns = [{{ name = \"it\", match = \"{}\" }}] }}\n\
         [[route]]\nto = \"server\"\n\
         [[route]]\npath = \"/read/\"\nto = \"server\"\nplugins = [\"redact\"]\n",
        server.addr,
        wasm("sluicegate-redact").display(),
        planted("pattern"),
    ))
    .await;
    let secret = planted("onward");
    let request = format!(
        "POST /?t={secret} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {secret}\r\nCookie: {secret}\r\n\
         TE: trailers\r\nConnection: TE, close\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{secret}\r\n0\r\nX-Token: {secret}\r\n\r\n",
        secret.len(),
    );
    for is_answered in [true, false] {
        let asking = client::exchange(proxy.addr(0), request.as_bytes());
        let answering = async {
            let asked = server.asked().await;
            if !is_answered {
                return asked.reset(Reason::INTERNAL_ERROR);
            }
            let (_, mut answer) = asked.into_parts();
            let head = Response::builder().header("set-cookie", &secret);
            let mut body = answer.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(secret.clone().into(), false).unwrap();
            let trailers = [("x-token".parse().unwrap(), secret.parse().unwrap())];
            body.send_trailers(trailers.into_iter().collect()).unwrap();
        };
        let (answer, ()) = tokio::join!(asking, answering);
        let status = if is_answered { "200" } else { "502" };
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(
            answer.matches(&secret).count(),
            if is_answered { 3 } else { 0 },
            "{answer}"
        );
    }

    let url = format!("ws://a.test/read/?ticket={secret}");
    let stream = client::tcp(proxy.addr(0)).await;
    let shaking = client::websocket(stream, client::ws_request(&url, &[("cookie", &*secret)]));
    let accepting = async { server.asked().await.accept(Response::new(())) };
    let (shaken, server) = tokio::join!(shaking, accepting);
    let mut socket = shaken.unwrap().0;
    for word in [planted("pattern"), secret.clone()] {
        socket.send(Message::Text(word.into())).await.unwrap();
    }
    // What came is not what the upstream gets, and then the socket breaks with a message half said.
    socket.get_mut().write_all(&[0x81, 0xff]).await.unwrap();
    drop((socket, server));
    proxy
        .access_event("ws.close", |line| line["path"] == "/read/")
        .await;
    stop(&mut proxy).await;
}

#[tokio::test]
async fn nothing_is_told_of_what_plugins_judge() {
    let upstream = Upstream::describing("pages").await;
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("ticket.key"),
        planted("a-key-that-signs-tickets"),
    )
    .unwrap();
    let plugin = |name: &str, package: &str, config: &str| {
        format!(
            "[plugin.{name}]\nwasm = \"{}\"\n{config}\n[[route]]\npath = \"/{name}/\"\nto = \"{}\"\n\
             plugins = [\"{name}\"]\n",
            wasm(package).display(),
            upstream.addr
        )
    };
    let config = [
        format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{LOUD}"),
        plugin(
            "key",
            "sluicegate-api-key",
            "config = { keys = { ci = \"env:CI_KEY\" }, query = \"key\" }",
        ),
        plugin(
            "login",
            "sluicegate-basic-auth",
            "config = { users = { ann = \"env:HASH\" } }",
        ),
        plugin(
            "ticket",
            "sluicegate-hmac-ticket",
            "allow = { kv = true }\nconfig = { keys = { a = \"file:ticket.key\" } }",
        ),
        plugin("token", "sluicegate-subprotocol-token", "config = {}"),
    ]
    .concat();
    let key = planted("api-key");
    let hash = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";
    let mut proxy = Proxy::start_with(dir, &config, |command| {
        command.env("CI_KEY", &key).env("HASH", hash);
    })
    .await;
    let basic = |password: &str| {
        let encoded = STANDARD.encode(format!("ann:{password}"));
        format!("Authorization: Basic {encoded}\r\n")
    };
    let mut stream = client::tcp(proxy.addr(0)).await;
    for (target, fields, status) in [
        (format!("/key/?key={key}"), String::new(), 200),
        (format!("/key/?key={key}x"), String::new(), 403),
        ("/login/".to_owned(), basic(&planted("wrong")), 401),
        (
            "/login/".to_owned(),
            format!("Authorization: Basic {key}\r\n"),
            401,
        ),
        (format!("/ticket/?ticket={key}"), String::new(), 403),
        (
            "/token/".to_owned(),
            format!("Sec-WebSocket-Protocol: a, {key}\r\n"),
            200,
        ),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, _) = client::read_response(&mut stream).await.unwrap();
        // What exactly a plugin answers is its own tests' business.
        assert_eq!(head.status < 300, status < 300, "{target}: {}", head.status);
    }
    stop(&mut proxy).await;
    assert!(!proxy.stderr_text().contains(hash));
}

#[tokio::test]
async fn nothing_is_told_of_a_configuration_however_wrong_it_is() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("ca");
    for name in ["own", "other"] {
        authority.issue(&["a.test"]).write(dir.path(), name);
    }
    let keys =
        ["own.key", "other.key"].map(|name| fs::read_to_string(dir.path().join(name)).unwrap());
    let secret = planted("configuration");
    fs::write(dir.path().join("secret"), &secret).unwrap();
    let pem = |label: &str| format!("-----BEGIN {label}-----\n{secret}\n-----END {label}-----\n");
    fs::write(dir.path().join("broken.key"), pem("PRIVATE KEY")).unwrap();
    fs::write(dir.path().join("broken.crt"), pem("CERTIFICATE")).unwrap();
    fs::copy(wasm("sluicegate-api-key"), dir.path().join("key.wasm")).unwrap();
    let good = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ cert = \"own.crt\", key = \"own.key\" }}\n{LOUD}\
         [plugin.key]\nwasm = \"key.wasm\"\nconfig = {{ keys = {{ ci = \"{secret}\" }} }}\n\
         [[route]]\nto = \"127.0.0.1:9\"\nplugins = [\"key\"]\n\
         request_headers = {{ set = {{ authorization = \"Bearer {secret}\" }} }}\n"
    );
    let mut proxy = Proxy::start_with(dir, &good, |command| {
        command.env("PLANTED", &secret);
    })
    .await;
    let inline = format!("{{ keys = {{ ci = \"{secret}\" }} }}");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let plugin = |config: &str| with(&inline, config);
    for (what, config, told) in [
        (
            "an unknown key beside it",
            plugin(&format!("{{ keys = {{ ci = \"{secret}\" }}, tokne = 1 }}")),
            "tokne",
        ),
        (
            "the wrong type",
            plugin(&format!("{{ keys = \"{secret}\" }}")),
            "keys",
        ),
        (
            "a list of them",
            plugin(&format!("{{ keys = [\"{secret}\"] }}")),
            "keys",
        ),
        (
            "a date beside it",
            plugin(&format!(
                "{{ keys = {{ ci = \"{secret}\" }}, day = 1979-05-27 }}"
            )),
            "date",
        ),
        (
            "what the plugin refuses",
            plugin(&format!(
                "{{ keys = {{ ci = \"a\" }}, consumer_header = \"{secret} {secret}\" }}"
            )),
            "consumer_header",
        ),
        (
            "from the environment, what it refuses",
            plugin("{ keys = { ci = \"a\" }, query = \"env:PLANTED\", bearer = \"env:PLANTED\" }"),
            "bearer",
        ),
        (
            "a key of the configuration instead",
            with("[plugin.key]", &format!("[plugin.key]\nkey = \"{secret}\"")),
            "`key`",
        ),
        (
            "no end of the string",
            plugin(&format!("{{ keys = {{ ci = \"{secret} }} }}")),
            "not TOML",
        ),
        (
            "a bad escape",
            plugin(&format!("{{ keys = {{ ci = \"\\q{secret}\" }} }}")),
            "not TOML",
        ),
        ("two values", with("Bearer ", "Bearer\\n"), "header field"),
        (
            "a variable that is none",
            with("Bearer ", "Bearer {no} "),
            "variable",
        ),
        (
            "a user in a URL",
            with("127.0.0.1:9", &format!("http://u:{secret}@127.0.0.1:9")),
            "no user",
        ),
        (
            "a file that is not there",
            plugin("{ keys = { ci = \"file:nowhere\" } }"),
            "nowhere",
        ),
        (
            "a variable that is not there",
            plugin("{ keys = { ci = \"env:NOWHERE\" } }"),
            "NOWHERE",
        ),
        (
            "a key that is none",
            with("own.key", "broken.key"),
            "broken.key",
        ),
        (
            "a certificate that is none",
            with("own.crt", "broken.crt"),
            "broken.crt",
        ),
        ("a key that is no PEM", with("own.key", "secret"), "secret"),
        (
            "another certificate's key",
            with("own.key", "other.key"),
            "other.key",
        ),
    ] {
        proxy.rewrite_config(&config);
        let (status, outcome) = proxy.post_reload().await;
        assert_eq!(status, 422, "{what}");
        assert!(
            outcome["report"].as_str().unwrap().contains(told),
            "{what}: {outcome}"
        );
        for more in [&[][..], &["--json"]] {
            let output = check(&proxy, &secret, more).await;
            assert_eq!(output.status.code(), Some(3), "{what}");
            for said in [output.stdout, output.stderr] {
                assert_none_in(&String::from_utf8(said).unwrap());
            }
        }
    }
    stop(&mut proxy).await;
    for line in keys.iter().flat_map(|key| key.lines()) {
        if !line.starts_with('-') {
            assert!(!proxy.stderr_text().contains(line), "a line of a key");
        }
    }
}

async fn check(proxy: &Proxy, secret: &str, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    let command = command
        .args(["check", "--config"])
        .arg(proxy.config_path())
        .args(more)
        .env("XDG_CACHE_HOME", proxy.dir().join("cache"))
        .env("PLANTED", secret);
    soon("the check", command.output()).await.unwrap()
}

async fn ask(addr: SocketAddr) -> String {
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    String::from_utf8(client::exchange(addr, request).await).unwrap()
}

/// Looks at the metrics and ends it: all that it had to say is said, and the harness looks through it.
async fn stop(proxy: &mut Proxy) {
    assert_eq!(proxy.admin_get("/metrics").await.0, 200);
    proxy.signal(libc::SIGTERM);
    proxy.wait().await;
    proxy.stderr_to_end().await;
}
