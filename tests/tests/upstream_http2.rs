//! HTTP/2 to upstreams: what goes over it, how connections are shared, and what happens when they end.

#[path = "upstream_http2/calls.rs"]
mod calls;

use futures_util::future::join_all;
use h2::{Reason, RecvStream};
use http::{HeaderValue, Response};
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::server::{Arrival, Asked, Manner, Server};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// A proxy with one worker: a plain listener, one over TLS, and `[upstream.it]` with these keys behind both.
struct Site {
    proxy: Proxy,
    authority: Authority,
}

/// However often it fails.
const NEVER_OUT: &str = "health = { fails = 60000 }";

impl Site {
    async fn new(upstream: &str, more: &str) -> Site {
        Site::with(Authority::new("test authority"), upstream, more).await
    }

    async fn with(authority: Authority, upstream: &str, more: &str) -> Site {
        let dir = TempDir::new().unwrap();
        let localhost = authority.issue(&["localhost", "127.0.0.1"]);
        localhost.write(dir.path(), "localhost");
        let config = format!(
            r#"
            [runtime]
            workers = 1
            [[listener]]
            bind = "127.0.0.1:0"
            [[listener]]
            bind = "127.0.0.2:0"
            tls = {{ cert = "localhost.crt", key = "localhost.key" }}
            [log]
            access = "json"
            [upstream.it]
            {upstream}
            [[route]]
            to = "it"
            {more}
            "#
        );
        let proxy = Proxy::start_in(dir, &config).await;
        Site { proxy, authority }
    }

    /// With one server, in plain.
    async fn before(server: &Server, upstream: &str, more: &str) -> Site {
        let keys = format!(
            "servers = [\"h2c://{}\"]\n{NEVER_OUT}\n{upstream}",
            server.addr
        );
        Site::new(&keys, more).await
    }

    /// A GET over HTTP/1.1 on a connection of its own: status and body.
    fn get(&self, path: &str) -> JoinHandle<(u16, String)> {
        let addr = self.proxy.addr(0);
        let path = path.to_owned();
        tokio::spawn(async move {
            let (head, body) = client::get(addr, &path).await;
            (head.status, String::from_utf8(body).unwrap())
        })
    }

    /// A POST likewise.
    fn post(&self, body: &str) -> JoinHandle<u16> {
        let addr = self.proxy.addr(0);
        let length = body.len();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        tokio::spawn(async move {
            let mut stream = client::tcp(addr).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            client::read_head(&mut stream).await.unwrap().status
        })
    }

    async fn http2(&self) -> Client {
        Client::tls(self.proxy.addr(1), &self.authority).await
    }
}

fn ok() -> Response<()> {
    Response::new(())
}

/// A whole body.
async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(data) = soon("more of a body", body.data()).await {
        let data = data.unwrap();
        whole.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    whole
}

/// Answers what comes with the path that was asked for.
async fn respond(server: &Server) -> usize {
    let asked = server.asked().await;
    let connection = asked.connection;
    let path = asked.head.uri().path().to_owned();
    say(asked, &path);
    connection
}

/// Sends requests until one comes on a second connection.
async fn move_on(site: &Site, server: &Server) {
    loop {
        let request = site.get("/next");
        let connection = respond(server).await;
        assert_eq!(done(request).await.0, 200);
        if connection == 1 {
            return;
        }
    }
}

/// Answers with a body, whose length is told.
fn say(asked: Asked, body: &str) {
    let head = Response::builder().header("content-length", body.len());
    asked.respond(head.body(()).unwrap(), body);
}

async fn done<T>(request: JoinHandle<T>) -> T {
    soon("an answer", request).await.unwrap()
}

#[tokio::test]
async fn a_request_says_the_same_as_over_http1() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(
        &server,
        "",
        "request_headers = { set = { X-Route = \"it\" } }",
    )
    .await;
    let mut stream = client::tcp(site.proxy.addr(0)).await;
    let request = "PUT /a%20b?c=d HTTP/1.1\r\nHost: App.Test:8080\r\nTE: trailers\r\n\
                   Connection: close, X-Hop\r\nX-Hop: 1\r\nX_Odd: 1\r\nCookie: a=1; b=2\r\n\
                   Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-End: yes\r\nX_End: no\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let (asked, mut answer) = server.asked().await.into_parts();
    let (head, mut body) = asked.into_parts();
    assert_eq!(head.method, "PUT");
    assert_eq!(head.uri, "http://app.test:8080/a%20b?c=d");
    let fields = &head.headers;
    for (name, value) in [
        ("te", "trailers"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "app.test:8080"),
        ("x-forwarded-proto", "http"),
        ("x-route", "it"),
    ] {
        assert_eq!(fields.get(name).unwrap(), value, "{name}");
    }
    for name in [
        "host",
        "connection",
        "x-hop",
        "x_odd",
        "expect",
        "transfer-encoding",
        "content-length",
    ] {
        assert!(!fields.contains_key(name), "{name}: {fields:?}");
    }
    assert_eq!(read(&mut body).await, b"abc");
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["x-end"], "yes");
    assert_eq!(trailers.len(), 1);

    let head = Response::builder()
        .status(201)
        .header("content-length", "5")
        .header("x-answer", "1")
        .body(());
    let mut send = answer.send_response(head.unwrap(), false).unwrap();
    send.send_data("hello".into(), true).unwrap();
    let (head, body) = client::read_response(&mut stream).await.unwrap();
    assert_eq!((head.status, &*body), (201, &b"hello"[..]));
    assert_eq!(head.get("x-answer"), Some("1"));
    let line = site.proxy.access_event("request", |_| true).await;
    assert_eq!(line["upstream_protocol"], "HTTP/2");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let client = site.http2().await;
    for (method, status, length) in [
        ("HEAD", 200, Some("7")),
        ("GET", 204, None),
        ("GET", 304, None),
    ] {
        let request = client.request(method, "/");
        let opening = client.begin(request).await.unwrap();
        let (asked, mut answer) = server.asked().await.into_parts();
        assert_eq!(asked.method(), method);
        let mut head = Response::builder().status(status);
        if let Some(length) = length {
            head = head.header("content-length", length);
        }
        answer.send_response(head.body(()).unwrap(), true).unwrap();
        let (head, _stream) = opening.answered().await.unwrap();
        assert_eq!(head.status(), status);
        let said = head.headers().get("content-length");
        assert_eq!(
            said.map(|value| value.to_str().unwrap()),
            length,
            "{method} {status}"
        );
    }
}

#[tokio::test]
async fn requests_share_a_connection_as_far_as_its_streams_go() {
    for (streams, ours) in [(Some(2), 100), (None, 2)] {
        let manner = Manner {
            streams,
            ..Manner::PLAIN
        };
        let server = Server::new(manner).await;
        let keys = format!("http2 = {{ streams = {ours}, connections = 2 }}");
        let site = Site::before(&server, &keys, "connect = \"1s\"").await;
        let mut asked: Vec<Asked> = Vec::new();
        let mut requests = Vec::new();
        for number in 0..4 {
            requests.push(site.get(&format!("/{number}")));
            asked.push(server.asked().await);
        }
        let connections: Vec<usize> = asked.iter().map(|asked| asked.connection).collect();
        assert_eq!(connections, [0, 0, 1, 1]);

        // There may be no third connection: it waits until somebody makes room.
        let fifth = site.get("/fifth");
        say(asked.remove(0), "first");
        assert_eq!(done(requests.remove(0)).await, (200, "first".to_owned()));
        asked.insert(0, server.asked().await);
        // Or until its time is up.
        assert_eq!(done(site.get("/sixth")).await.0, 503);
        let line = site
            .proxy
            .access_event("request", |line| line["path"] == "/sixth")
            .await;
        assert_eq!(line["error_kind"], "upstream_busy");
        for asked in asked {
            say(asked, "done");
        }
        requests.push(fifth);
        for (status, body) in join_all(requests.into_iter().map(done)).await {
            assert_eq!((status, &*body), (200, "done"));
        }
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn many_at_once_wait_for_one_connection() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let requests: Vec<_> = (0..50)
        .map(|number| site.get(&format!("/{number}")))
        .collect();
    for _ in 0..50 {
        respond(&server).await;
    }
    for (number, request) in requests.into_iter().enumerate() {
        assert_eq!(done(request).await, (200, format!("/{number}")));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn goaway_moves_new_requests_and_leaves_old_ones() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let first = site.get("/first");
    let (_request, mut answer) = server.asked().await.into_parts();
    let mut send = answer.send_response(ok(), false).unwrap();
    server.leave(0);
    move_on(&site, &server).await;
    send.send_data("as ever".into(), true).unwrap();
    let (status, _body) = done(first).await;
    assert_eq!(status, 200);
    let request = site.get("/last");
    assert_eq!(respond(&server).await, 1);
    assert_eq!(done(request).await.0, 200);
}

#[tokio::test]
async fn what_the_server_has_not_seen_is_sent_once_more() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let request = site.post("the body");
    server.asked().await.reset(Reason::REFUSED_STREAM);
    let (mut asked, mut answer) = server.asked().await.into_parts();
    assert_eq!(read(asked.body_mut()).await, b"the body");
    answer.send_response(ok(), true).unwrap();
    assert_eq!(done(request).await, 200);

    // Not twice, and not what is too long to be kept.
    for (body, refusals) in [("the body", 2), (&*"x".repeat(100_000), 1)] {
        let request = site.post(body);
        for _ in 0..refusals {
            let (mut asked, mut answer) = server.asked().await.into_parts();
            assert_eq!(read(asked.body_mut()).await.len(), body.len());
            answer.send_reset(Reason::REFUSED_STREAM);
        }
        assert_eq!(done(request).await, 503);
    }
    assert!(!server.was_contacted().await);
}

#[tokio::test]
async fn a_cut_connection_repeats_only_what_may_be_repeated() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let warm = site.get("/warm");
    assert_eq!(respond(&server).await, 0);
    done(warm).await;
    let (get, post) = (site.get("/again"), site.post("once"));
    let seen = [server.asked().await, server.asked().await];
    assert!(seen.iter().all(|asked| asked.connection == 0));
    server.cut(0);
    assert_eq!(respond(&server).await, 1);
    assert_eq!(done(get).await, (200, "/again".to_owned()));
    assert_eq!(done(post).await, 502);
    assert!(!server.was_contacted().await);
}

#[tokio::test]
async fn an_old_connection_takes_no_new_streams() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "http2 = { max_age = \"1s\" }", "").await;
    let held = site.get("/held");
    let asked = server.asked().await;
    move_on(&site, &server).await;
    say(asked, "old");
    assert_eq!(done(held).await, (200, "old".to_owned()));
}

#[tokio::test]
async fn a_connection_at_rest_is_closed() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "keep_alive = \"1s\"", "").await;
    let before = site.proxy.descriptors();
    let request = site.get("/");
    let asked = server.asked().await;
    assert!(site.proxy.descriptors() > before);
    say(asked, "");
    done(request).await;
    until("the connection's end", || async {
        (site.proxy.descriptors() <= before).then_some(())
    })
    .await;
    let request = site.get("/");
    assert_eq!(respond(&server).await, 1);
    assert_eq!(done(request).await.0, 200);
}

#[tokio::test]
async fn alpn_decides_where_the_configuration_does_not() {
    let authority = Authority::new("server authority");
    let identity = authority.issue(&["localhost"]);
    for (http, offers, expect) in [
        ("auto", &["h2", "http/1.1"][..], Ok("2")),
        ("auto", &["http/1.1"], Ok("1.1")),
        ("2", &["h2", "http/1.1"], Ok("2")),
        ("2", &["http/1.1"], Err(502)),
        ("1", &["h2", "http/1.1"], Ok("1.1")),
    ] {
        let tls = identity.server_for(offers);
        let server = Server::new(Manner {
            tls: Some(tls),
            ..Manner::PLAIN
        })
        .await;
        let listening = Authority::new("test authority");
        let dir = TempDir::new().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let keys = format!(
            "servers = [\"https://localhost:{}\"]\nhttp = \"{http}\"\ntls = {{ ca = \"{}\" }}",
            server.addr.port(),
            ca.display(),
        );
        let site = Site::with(listening, &keys, "").await;
        let request = site.get("/one");
        let status = match expect {
            Err(status) => status,
            Ok("2") => {
                let asked = server.asked().await;
                assert_eq!(asked.head.uri().scheme_str(), Some("https"));
                asked.respond(ok(), "");
                200
            }
            Ok(_) => {
                let Arrival::Http1(mut stream) = server.next().await else {
                    panic!("{http} with {offers:?}: HTTP/2");
                };
                // It is used as it is, and kept for the next.
                for path in ["/one", "/two"] {
                    let next = (path == "/two").then(|| site.get(path));
                    let head = client::read_request_head(&mut stream).await;
                    assert!(head.starts_with(&format!("GET {path} HTTP/1.1")), "{head}");
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                    if let Some(next) = next {
                        assert_eq!(done(next).await.0, 200);
                    }
                }
                200
            }
        };
        assert_eq!(done(request).await.0, status, "{http} with {offers:?}");
        assert!(!server.was_contacted().await);
    }
}

#[tokio::test]
async fn a_server_may_ask_for_http1_where_it_is_allowed() {
    let authority = Authority::new("server authority");
    let tls = authority
        .issue(&["localhost"])
        .server_for(&["h2", "http/1.1"]);
    let server = Server::new(Manner {
        tls: Some(tls),
        ..Manner::PLAIN
    })
    .await;
    for (http, expect) in [("auto", 200), ("2", 502)] {
        let dir = TempDir::new().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let keys = format!(
            "servers = [\"https://localhost:{}\"]\nhttp = \"{http}\"\ntls = {{ ca = \"{}\" }}",
            server.addr.port(),
            ca.display(),
        );
        let site = Site::new(&keys, "").await;
        let request = site.post("over HTTP/1.1");
        server.asked().await.reset(Reason::HTTP_1_1_REQUIRED);
        if expect == 200 {
            let Arrival::Http1(mut stream) = server.next().await else {
                panic!("HTTP/2 again");
            };
            let head = client::read_request_head(&mut stream).await;
            assert!(
                head.to_ascii_lowercase().contains("content-length: 13\r\n"),
                "{head}"
            );
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
        assert_eq!(done(request).await, expect, "{http}");
    }
}

#[tokio::test]
async fn faults_of_the_server_are_told() {
    let server = Server::new(Manner::PLAIN).await;
    let more = "response_head = \"1s\"\nidle_timeout = \"1s\"";
    let site = Site::before(&server, "", more).await;
    // Before the head: a status.
    for (path, status, kind) in [
        ("/reset", 502, "upstream_reset"),
        ("/silent", 504, "response_timeout"),
        ("/fields", 502, "upstream_broken"),
    ] {
        let request = site.get(path);
        let (asked, mut answer) = server.asked().await.into_parts();
        match path {
            "/reset" => answer.send_reset(Reason::INTERNAL_ERROR),
            "/fields" => {
                let mut head = ok();
                for _ in 0..201 {
                    head.headers_mut()
                        .append("a", HeaderValue::from_static("b"));
                }
                answer.send_response(head, true).unwrap();
            }
            _ => {}
        }
        assert_eq!(done(request).await.0, status, "{path}");
        let line = site
            .proxy
            .access_event("request", |line| line["path"] == path)
            .await;
        assert_eq!(line["error_kind"], kind);
        drop(asked);
    }
    // Behind it: an answer that is not whole.
    for path in ["/cut", "/stalled"] {
        let mut stream = client::tcp(site.proxy.addr(0)).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (_asked, mut answer) = server.asked().await.into_parts();
        let mut send = answer.send_response(ok(), false).unwrap();
        send.send_data("begun".into(), false).unwrap();
        assert_eq!(client::read_head(&mut stream).await.unwrap().status, 200);
        let mut chunk = [0; 10];
        soon("the beginning", stream.read_exact(&mut chunk))
            .await
            .unwrap();
        assert_eq!(&chunk, b"5\r\nbegun\r\n");
        if path == "/cut" {
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        let text = client::read_to_end(&mut stream).await;
        assert_eq!(text, b"", "{path}");
        let line = site
            .proxy
            .access_event("request", |line| line["path"] == path)
            .await;
        assert_eq!(line["status"], 200, "{path}");
        assert_eq!(line["error_kind"], "response_broken", "{path}");
    }
}

#[tokio::test]
async fn a_server_that_gives_up_a_request_is_well() {
    let server = Server::new(Manner::PLAIN).await;
    // With the health that is the default.
    let keys = format!("servers = [\"h2c://{}\"]", server.addr);
    let site = Site::new(&keys, "response_head = \"1s\"").await;
    let client = site.http2().await;
    for _ in 0..4 {
        // Before the head, and behind it.
        let request = site.get("/");
        server.asked().await.reset(Reason::INTERNAL_ERROR);
        assert_eq!(done(request).await.0, 502);

        let request = client.begin(client.request("POST", "/")).await.unwrap();
        let (_asked, mut answer) = server.asked().await.into_parts();
        let mut send = answer.send_response(ok(), false).unwrap();
        let (_, mut stream) = request.answered().await.unwrap();
        send.send_reset(Reason::INTERNAL_ERROR);
        let mut rest = Vec::new();
        let reading = stream.incoming.read_to_end(&mut rest);
        soon("the end of it", reading).await.unwrap_err();
    }
    // And calls that take longer than anybody waits.
    let mut calls = Vec::new();
    for _ in 0..4 {
        let mut call = client.request("POST", "/package.Service/Slow");
        let kind = HeaderValue::from_static("application/grpc");
        call.headers_mut().insert("content-type", kind);
        let mut opening = client.begin(call).await.unwrap();
        opening.outgoing.finish_with(b"question");
        calls.push((opening, server.asked().await));
    }
    for (opening, _asked) in calls {
        let (head, _stream) = soon("a timeout", opening.answered()).await.unwrap();
        assert_eq!(head.status(), 504);
    }
    let request = site.get("/");
    respond(&server).await;
    assert_eq!(done(request).await.0, 200);
}

#[tokio::test]
async fn open_connections_are_counted() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "[admin]\nbind = \"127.0.0.3:0\"").await;
    let series = format!(
        "sluicegate_upstream_http2_connections{{upstream=\"it\",endpoint=\"{}\"}}",
        server.addr
    );
    site.proxy.until_metric(&series, 0.0).await;
    let request = site.get("/");
    respond(&server).await;
    done(request).await;
    assert_eq!(site.proxy.metric(&series).await, Some(1.0));
    server.cut(0);
    site.proxy.until_metric(&series, 0.0).await;
}

#[tokio::test]
async fn another_endpoint_is_tried_while_one_does_not_open_http2() {
    // It speaks HTTP/1.1, and answers the preface with 400 or an end.
    let old = Upstream::describing("old").await;
    let server = Server::new(Manner::PLAIN).await;
    let servers = format!(
        "servers = [\"h2c://{}\", \"h2c://{}\"]",
        old.addr, server.addr
    );
    let site = Site::new(&servers, "").await;
    for _ in 0..2 {
        let request = site.get("/");
        respond(&server).await;
        assert_eq!(done(request).await.0, 200);
    }
}

#[tokio::test]
async fn plugins_ask_services_over_http2() {
    let upstream = Upstream::describing("server").await;
    let service = Server::new(Manner::PLAIN).await;
    let config = format!(
        r#"
        allow  = {{ kv = true, http = ["service"] }}
        config = {{ upstream = "service", path = "/check", response_headers = ["X-User"] }}
        [upstream.service]
        servers = ["h2c://{}"]
        "#,
        service.addr
    );
    let proxy = Proxy::with_plugin("sluicegate-forward-auth", &config, upstream.addr).await;
    let addr = proxy.addr(0);
    let request = tokio::spawn(async move { client::get(addr, "/a?b=1").await });
    // What the service has not seen is asked again.
    service.asked().await.reset(Reason::REFUSED_STREAM);
    let asked = service.asked().await;
    assert_eq!(asked.head.uri().path(), "/check");
    assert_eq!(
        asked.head.uri().authority().unwrap().as_str(),
        service.addr.to_string()
    );
    let answer = Response::builder()
        .header("x-user", "ann")
        .body(())
        .unwrap();
    asked.respond(answer, "ignored");
    let (head, body) = done(request).await;
    assert_eq!(head.status, 200);
    let described = serde_json::from_slice(&body).unwrap();
    assert_eq!(client::values_of(&described, "x-user"), ["ann"]);
}
