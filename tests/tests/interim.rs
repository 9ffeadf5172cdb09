//! Interim answers (1xx) of upstreams: each goes on to the client at once, whatever version of HTTP either side
//! speaks, and the answer that counts comes whole behind them (RFC 9110 §15.2, RFC 8297).
//!
//! "Interim responses … right and intact." Those that break the rules are in `faulty_answers.rs` and
//! `faulty_http2_upstreams.rs`.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use sluicegate_tests::client::{read_to_end, tcp};
use sluicegate_tests::http2::server::{Arrival, Manner, Server};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::wire::{self, is_interim};
use sluicegate_tests::{foreign, plugins, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A status and its fields.
type Head<'a> = (u16, &'a [(&'a str, &'a str)]);

/// The same as it was heard.
type Heard = (u16, Vec<(String, String)>);

/// In HTTP/1.1 and in HTTP/2.
const VERSIONS: [Version; 2] = [Version::Http1, Version::Http2];
const LINKS: &[(&str, &str)] = &[("link", "</a.css>; rel=preload"), ("link", "</b.js>")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// A server of both versions, and the proxy before it: `/1/` and `/2/` are how it is spoken to.
struct Site {
    server: Server,
    proxy: Proxy,
}

/// A client that has sent a request and waits for its answer.
enum Client {
    Http1(TcpStream),
    Http2 {
        answer: ResponseFuture,
        upload: SendStream<Bytes>,
        _sender: SendRequest<Bytes>,
    },
}

/// A server that has a request's head.
enum Asked {
    Http1(Box<dyn Wire>, wire::Head),
    Http2(Request<RecvStream>, SendResponse<Bytes>),
}

impl Site {
    /// `route` is more of each route's table, `more` stands behind.
    async fn start(route: &str, more: &str) -> Site {
        let manner = Manner::WEBSOCKET;
        let server = Server::new(manner).await;
        let addr = server.addr;
        let config = format!(
            r#"
            [runtime]
            workers = 1
            [[listener]]
            bind = "127.0.0.1:0"
            http2 = true
            [upstream.http1]
            servers = ["{addr}"]
            health = {{ fails = 60000 }}
            [upstream.http2]
            servers = ["h2c://{addr}"]
            health = {{ fails = 60000 }}
            [[route]]
            path = "/1/"
            to = "http1"
            {route}
            [[route]]
            path = "/2/"
            to = "http2"
            {route}
            {more}
            "#
        );
        let proxy = Proxy::start(&config).await;
        Site { server, proxy }
    }

    /// A request without a body, from one version to the other, as it has reached the server.
    async fn ask(&self, client: Version, method: &str, server: Version) -> (Client, Asked) {
        let client = self.begin(client, method, server, &[], true).await;
        (client, self.asked().await)
    }

    /// Sends a request's head; `end`: nothing follows it.
    async fn begin(
        &self,
        client: Version,
        method: &str,
        server: Version,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Client {
        let path = match server {
            Version::Http1 => "/1/",
            Version::Http2 => "/2/",
        };
        let mut stream = tcp(self.proxy.addr(0)).await;
        if client == Version::Http1 {
            let mut head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n");
            for (name, value) in fields {
                write!(head, "{name}: {value}\r\n").unwrap();
            }
            head += "\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            return Client::Http1(stream);
        }
        let handshake = h2::client::handshake(stream);
        let (sender, connection) = soon("an HTTP/2 handshake", handshake).await.unwrap();
        tokio::spawn(connection);
        let mut sender = soon("room for a stream", sender.ready()).await.unwrap();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://a{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        if method == "CONNECT" {
            let websocket = h2::ext::Protocol::from_static("websocket");
            request.extensions_mut().insert(websocket);
        }
        let (answer, upload) = sender.send_request(request, end).unwrap();
        Client::Http2 {
            answer,
            upload,
            _sender: sender,
        }
    }

    async fn asked(&self) -> Asked {
        match self.server.next().await {
            Arrival::Http1(mut wire) => {
                let head = wire::read_head(&mut wire).await.unwrap();
                Asked::Http1(wire, head)
            }
            Arrival::Http2(asked) => {
                let (request, answer) = asked.into_parts();
                Asked::Http2(request, answer)
            }
        }
    }
}

impl Client {
    /// The next head, without its date.
    async fn hear(&mut self) -> Heard {
        let (status, mut fields) = match self {
            Client::Http1(stream) => {
                let head = wire::read_head(stream).await.unwrap();
                (head.status(), head.fields.0)
            }
            Client::Http2 { answer, .. } => {
                let hearing = poll_fn(|cx| {
                    if let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
                        return Poll::Ready(interim);
                    }
                    let answered = Pin::new(&mut *answer).poll(cx);
                    answered.map_ok(|answer| answer.map(drop))
                });
                let head = soon("a head", hearing).await.unwrap();
                let fields = head.headers().iter();
                let fields = fields
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
                (head.status().as_u16(), fields.collect())
            }
        };
        fields.retain(|(name, _)| name != "date");
        (status, fields)
    }

    /// All the heads up to that of the answer.
    async fn hear_all(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.hear().await);
            if heard.last().is_some_and(|(status, _)| !is_interim(*status)) {
                return heard;
            }
        }
    }

    /// The end of the request's body.
    async fn send(&mut self, body: &'static str) {
        match self {
            Client::Http1(stream) => stream.write_all(body.as_bytes()).await.unwrap(),
            Client::Http2 { upload, .. } => upload.send_data(body.into(), true).unwrap(),
        }
    }
}

impl Asked {
    async fn say(&mut self, (status, fields): Head<'_>) {
        match self {
            Asked::Http1(wire, _) => {
                let mut text = format!("HTTP/1.1 {status} Hm\r\n");
                for (name, value) in fields {
                    write!(text, "{name}: {value}\r\n").unwrap();
                }
                text += "\r\n";
                wire.write_all(text.as_bytes()).await.unwrap();
            }
            Asked::Http2(_, answer) => {
                let mut head = Response::builder().status(status);
                for (name, value) in fields {
                    head = head.header(*name, *value);
                }
                answer.send_informational(head.body(()).unwrap()).unwrap();
            }
        }
    }

    /// An answer without a body.
    async fn finish(&mut self, status: u16) {
        match self {
            Asked::Http1(wire, _) => {
                let fields = "content-length: 0\r\nconnection: close";
                let text = format!("HTTP/1.1 {status} Hm\r\n{fields}\r\n\r\n");
                wire.write_all(text.as_bytes()).await.unwrap();
            }
            Asked::Http2(_, answer) => {
                let head = Response::builder().status(status).body(()).unwrap();
                answer.send_response(head, true).unwrap();
            }
        }
    }

    /// The body of the request.
    async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = Vec::new();
        let reading = async {
            match self {
                Asked::Http1(wire, _) => {
                    body.resize(length, 0);
                    wire.read_exact(&mut body).await.unwrap();
                }
                Asked::Http2(request, _) => {
                    while let Some(piece) = request.body_mut().data().await {
                        body.extend_from_slice(&piece.unwrap());
                    }
                }
            }
        };
        soon("a body", reading).await;
        body
    }
}

fn owned((status, fields): Head<'_>) -> Heard {
    let fields = fields.iter();
    let fields = fields.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    (status, fields.collect())
}

/// All four ways between the versions.
fn ways() -> impl Iterator<Item = (Version, Version)> {
    let pairs = |client| VERSIONS.into_iter().map(move |server| (client, server));
    VERSIONS.into_iter().flat_map(pairs)
}

#[tokio::test]
async fn interim_answers_go_on_as_they_come_and_the_answer_behind_them() {
    // What the server says, and what the client hears before there is an answer.
    let rows: [(&str, &[Head<'_>], &[Head<'_>]); 5] = [
        ("hints", &[(103, LINKS)], &[(103, LINKS)]),
        ("no fields", &[(102, &[])], &[(102, &[])]),
        ("an unknown one", &[(199, LINKS)], &[(199, LINKS)]),
        ("100, which is ours to say", &[(100, LINKS)], &[]),
        (
            "several",
            &[(102, &[]), (100, &[]), (103, LINKS), (103, &[("x", "y")])],
            &[(102, &[]), (103, LINKS), (103, &[("x", "y")])],
        ),
    ];
    let site = Site::start("", "").await;
    for (client, server) in ways() {
        for (name, said, heard) in rows {
            for method in ["GET", "HEAD"] {
                let name = format!("{name}, {method} from {client:?} to {server:?}");
                let (mut client, mut asked) = site.ask(client, method, server).await;
                for head in said {
                    asked.say(*head).await;
                }
                // Before the server says more.
                for head in heard {
                    assert_eq!(client.hear().await, owned(*head), "{name}");
                }
                asked.finish(404).await;
                assert_eq!(client.hear().await.0, 404, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_frames_a_message_or_is_of_one_connection_stays_behind() {
    let site = Site::start("", "").await;
    for fields in [
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x-named\r\nX-Named: y\r\nKeep-Alive: timeout=5\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n",
        "Proxy-Authenticate: Basic\r\nTrailer: x\r\nProxy-Connection: close\r\n",
    ] {
        for client in VERSIONS {
            let (mut client, mut asked) = site.ask(client, "GET", Version::Http1).await;
            let Asked::Http1(wire, _) = &mut asked else {
                panic!("it came over HTTP/2");
            };
            // In one piece with the answer, so that nothing of it can be taken for a body.
            let said = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n{fields}\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            wire.write_all(said.as_bytes()).await.unwrap();
            let heard = client.hear_all().await;
            assert_eq!(heard[0], owned((103, &[("link", "</a>")])), "{fields}");
            assert_eq!((heard[1].0, heard.len()), (200, 2), "{fields}");
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_hears_only_the_answer() {
    let site = Site::start("", "").await;
    for path in ["/1/", "/2/"] {
        let mut client = tcp(site.proxy.addr(0)).await;
        let request = format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut asked = site.asked().await;
        asked.say((103, LINKS)).await;
        asked.finish(404).await;
        let heard = String::from_utf8(read_to_end(&mut client).await).unwrap();
        assert!(heard.starts_with("HTTP/1.1 404 "), "{heard}");
        assert!(!heard.contains("103"), "{heard}");
    }
}

#[tokio::test]
async fn a_client_is_asked_for_its_body_once_whatever_the_server_says() {
    let site = Site::start("", "").await;
    let fields = [("expect", "100-continue"), ("content-length", "5")];
    for (client, server) in ways() {
        let name = format!("{client:?} to {server:?}");
        let mut client = site.begin(client, "POST", server, &fields, false).await;
        let mut asked = site.asked().await;
        for status in [103, 100, 100] {
            asked.say((status, &[])).await;
        }
        // The server may be heard before it is known that the client has sent nothing.
        let mut heard = [client.hear().await.0, client.hear().await.0];
        heard.sort_unstable();
        assert_eq!(heard, [100, 103], "{name}");
        client.send("hello").await;
        assert_eq!(asked.body(5).await, b"hello", "{name}");
        asked.say((102, &[])).await;
        asked.finish(201).await;
        let heard: Vec<_> = client.hear_all().await.iter().map(|head| head.0).collect();
        assert_eq!(heard, [102, 201], "{name}");
    }
}

#[tokio::test]
async fn a_websocket_is_accepted_or_refused_behind_interim_answers() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    let site = Site::start("", "").await;
    for (client, server) in ways() {
        for accepted in [true, false] {
            let name = format!("{client:?} to {server:?}, accepted: {accepted}");
            let (method, fields) = match client {
                Version::Http1 => ("GET", &upgrade[..]),
                Version::Http2 => ("CONNECT", &upgrade[2..3]),
            };
            let over = client;
            let mut client = site.begin(client, method, server, fields, false).await;
            let mut asked = site.asked().await;
            asked.say((103, LINKS)).await;
            assert_eq!(client.hear().await, owned((103, LINKS)), "{name}");
            let mut open = None;
            match &mut asked {
                _ if !accepted => asked.finish(403).await,
                Asked::Http1(wire, head) => {
                    let key = head.get("sec-websocket-key").unwrap();
                    let accept = derive_accept_key(key.as_bytes());
                    let accept = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                    );
                    wire.write_all(accept.as_bytes()).await.unwrap();
                }
                Asked::Http2(_, answer) => {
                    open = Some(answer.send_response(Response::new(()), false).unwrap());
                }
            }
            let expected = match (accepted, over) {
                (true, Version::Http1) => 101,
                (true, Version::Http2) => 200,
                (false, _) => 403,
            };
            assert_eq!(client.hear().await.0, expected, "{name}");
            drop(open);
        }
    }
}

/// A filter that is to see the answer comes first, and what a route hides of its answers it hides here.
#[tokio::test]
async fn a_route_says_nothing_ahead_of_its_filters_and_nothing_that_it_hides() {
    const SAID: &[(&str, &str)] = &[("link", "</a>"), ("server", "it"), ("x-set", "own")];
    let filter = |config: &str| {
        let wasm = plugins::wasm("sluicegate-headers");
        let plugin = format!("[plugin.edit]\nwasm = \"{}\"\n{config}", wasm.display());
        ("plugins = [\"edit\"]".to_owned(), plugin)
    };
    let edits = "response_headers = { remove = [\"server\"], set = { x-set = \"1\" }, \
                 add = { link = \"</c>\" } }";
    for (name, (route, more), heard) in [
        ("edits", (edits.to_owned(), String::new()), Some(&SAID[..1])),
        (
            "a filter of requests",
            filter("config = { request = { set = { x-set = \"1\" } } }"),
            Some(SAID),
        ),
        (
            "a filter of answers",
            filter("config = { response = { remove = [\"server\"] } }"),
            None,
        ),
    ] {
        let site = Site::start(&route, &more).await;
        for (client, server) in ways() {
            let name = format!("{name}, {client:?} to {server:?}");
            let (mut client, mut asked) = site.ask(client, "GET", server).await;
            asked.say((103, SAID)).await;
            asked.finish(404).await;
            let mut heards = client.hear_all().await;
            assert_eq!(heards.pop().map(|head| head.0), Some(404), "{name}");
            let heard: Vec<_> = heard
                .into_iter()
                .map(|fields| owned((103, fields)))
                .collect();
            assert_eq!(heards, heard, "{name}");
        }
    }
}

/// Sixteen heads of 3 KiB: five fit into what may be said, and the answer comes as it would without them.
#[tokio::test]
async fn more_than_a_client_needs_to_be_told_is_left_out() {
    let long = "x".repeat(3 << 10);
    let site = Site::start("", "").await;
    for (client, server) in ways() {
        let (mut client, mut asked) = site.ask(client, "GET", server).await;
        for _ in 0..16 {
            asked.say((103, &[("link", long.as_str())])).await;
        }
        asked.finish(404).await;
        let heard: Vec<_> = client.hear_all().await.iter().map(|head| head.0).collect();
        assert_eq!(heard, [103, 103, 103, 103, 103, 404]);
    }
}

#[tokio::test]
async fn a_request_that_is_sent_again_may_bring_its_hints_again() {
    let site = Site::start("", "").await;
    for client in VERSIONS {
        let (mut client, mut asked) = site.ask(client, "GET", Version::Http2).await;
        asked.say((103, LINKS)).await;
        assert_eq!(client.hear().await, owned((103, LINKS)));
        let Asked::Http2(_, mut answer) = asked else {
            panic!("it came over HTTP/1.1");
        };
        answer.send_reset(Reason::REFUSED_STREAM);
        let mut asked = site.asked().await;
        asked.say((103, LINKS)).await;
        asked.finish(404).await;
        let heard: Vec<_> = client.hear_all().await.iter().map(|head| head.0).collect();
        assert_eq!(heard, [103, 404]);
    }
}

#[tokio::test]
async fn curl_is_told_early() {
    if foreign::program("curl").is_none() {
        return;
    }
    let site = Site::start("", "").await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = foreign::program("curl").unwrap();
        curl.args(["--silent", "--include", "--max-time", "20", version])
            .arg(format!("http://{}/1/", site.proxy.addr(0)));
        let serving = async {
            let mut asked = site.asked().await;
            asked.say((103, LINKS)).await;
            asked.finish(404).await;
        };
        let (said, ()) = tokio::join!(foreign::run(&mut curl), serving);
        let starts: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("HTTP/"))
            .collect();
        assert_eq!(starts.len(), 2, "{said}");
        assert!(starts[0].contains(" 103"), "{said}");
        assert!(starts[1].contains(" 404"), "{said}");
        assert!(said.contains("link: </b.js>"), "{said}");
    }
}
