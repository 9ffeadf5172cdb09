//! The memory that requests and their answers make the proxy hold: 503 where there is no answer yet, else a
//! visible end. The others go on.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response};
use sluicegate_tests::client::{self, read_request_head};
use sluicegate_tests::http2::bare::Bare;
use sluicegate_tests::http2::server::{Manner, Server};
use sluicegate_tests::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, block, frame,
};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Script;
use sluicegate_tests::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;
/// Of an answer.
const SIZE: usize = 600_000;

async fn start(memory: &str) -> (Proxy, Script) {
    let script = Script::new().await;
    let proxy = start_before(&script.addr.to_string(), memory).await;
    (proxy, script)
}

async fn start_before(server: &str, memory: &str) -> Proxy {
    Proxy::start(&config(server, memory)).await
}

fn config(server: &str, memory: &str) -> String {
    format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        http2 = true
        [admin]
        bind = "127.0.0.1:0"
        [log]
        access = "json"
        [limits]
        memory = "{memory}"
        [upstream.server]
        servers = ["{server}"]
        [[route]]
        to = "server"
        "#
    )
}

/// Waits until so many were told to go.
async fn shed_at_least(proxy: &Proxy, count: usize) {
    let are_shed = || async { (proxy.shed("request").await >= count).then_some(()) };
    until("some are shed", are_shed).await;
}

/// Waits until so much is held, and for a hundred answers just as much.
async fn stands_still(proxy: &Proxy, least: usize) {
    let standing = async {
        let mut times = 0;
        let mut before = 0;
        while times < 100 {
            let held = proxy.buffered().await;
            times = if held == before { times + 1 } else { 0 };
            before = held.max(least);
        }
    };
    soon("a standstill", standing).await;
}

fn request(method: &str) -> Request<()> {
    let request = Request::builder().method(method);
    request.uri("http://localhost/").body(()).unwrap()
}

/// An upstream's connection with the head of a request on it.
async fn asked(script: &Script) -> TcpStream {
    let mut stream = script.accept().await;
    read_request_head(&mut stream).await;
    stream
}

#[tokio::test]
async fn uploads_that_the_upstream_does_not_take_get_503() {
    let (proxy, script) = start("1MiB").await;
    let mut pairs = Vec::new();
    for _ in 0..30 {
        let mut client = client::tcp(proxy.addr(0)).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        pairs.push((client, asked(&script).await));
    }
    let piece: Arc<[u8]> = vec![7; MIB].into();
    let mut uploads = JoinSet::new();
    let mut asleep = Vec::new();
    for (client, server) in pairs {
        asleep.push(server);
        let piece = Arc::clone(&piece);
        uploads.spawn(async move {
            let (mut read, mut write) = client.into_split();
            let sending =
                tokio::spawn(async move { while write.write_all(&piece).await.is_ok() {} });
            let mut answer = Vec::new();
            // A reset may be all that comes behind it.
            let _ = read.read_to_end(&mut answer).await;
            sending.abort();
            String::from_utf8(answer).unwrap()
        });
    }
    shed_at_least(&proxy, 3).await;
    for _ in 0..3 {
        let answer = soon("an answer", uploads.join_next())
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
        for line in ["connection: close", "retry-after: 1"] {
            assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
        }
    }
    let line = proxy
        .access_line("a refusal", |line| line.contains(r#""status":503"#))
        .await;
    assert!(line.contains(r#""overloaded""#), "{line}");
    proxy.holds_at_most(MIB).await;
    uploads.shutdown().await;
    drop(asleep);
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_cut() {
    let (proxy, script) = start("1MiB").await;
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..40 {
        let mut client = client::tcp(proxy.addr(0)).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        servers.push(asked(&script).await);
        clients.push(client);
    }
    let piece: Arc<[u8]> = vec![7; MIB].into();
    let mut answers = JoinSet::new();
    for mut server in servers {
        let piece = Arc::clone(&piece);
        answers.spawn(async move {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            server.write_all(head).await.unwrap();
            while server.write_all(&piece).await.is_ok() {}
        });
    }
    shed_at_least(&proxy, 3).await;
    for _ in 0..3 {
        soon("the upstream's connection to go too", answers.join_next()).await;
    }
    let line = proxy
        .access_line("a cut", |line| line.contains(r#""overloaded""#))
        .await;
    assert!(line.contains(r#""status":200"#), "{line}");
    proxy.holds_at_most(MIB).await;
    drop(clients);
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn streams_that_are_not_read_are_reset_and_their_neighbours_are_whole() {
    let (proxy, script) = start("1MiB").await;
    let stream = client::tcp(proxy.addr(0)).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 24);
    builder.initial_connection_window_size(1 << 28);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let mut connection = Box::pin(connection);
    let mut waiting = Vec::new();
    let mut servers = Vec::new();
    let asking = async {
        for _ in 0..50 {
            let mut sender = sender.clone().ready().await.unwrap();
            waiting.push(sender.send_request(request("GET"), true).unwrap().0);
            servers.push(asked(&script).await);
        }
    };
    tokio::select! {
        _ = &mut connection => panic!("the connection has ended"),
        () = asking => {}
    }
    // There is room for all of it in the client's windows, but it does not read.
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
    let answer: Arc<[u8]> = [head.as_bytes(), &[7; SIZE]].concat().into();
    let mut answers = JoinSet::new();
    for mut server in servers {
        let answer = Arc::clone(&answer);
        answers.spawn(async move { server.write_all(&answer).await });
    }
    shed_at_least(&proxy, 10).await;
    proxy.holds_at_most(MIB).await;
    tokio::spawn(connection);
    let (mut whole, mut reset) = (0, 0);
    for answer in waiting {
        let mut body = match soon("a head", answer).await {
            Ok(answer) => answer.into_body(),
            Err(error) => {
                assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
                reset += 1;
                continue;
            }
        };
        let mut size = 0;
        loop {
            match soon("a piece", body.data()).await {
                Some(Ok(piece)) => {
                    size += piece.len();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                }
                Some(Err(error)) => {
                    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
                    reset += 1;
                    break;
                }
                None => {
                    assert_eq!(size, SIZE);
                    whole += 1;
                    break;
                }
            }
        }
    }
    assert!(whole >= 3 && reset >= 10, "{whole} whole, {reset} reset");
    // One or the other may have gone out before it was to go.
    assert!(reset <= proxy.shed("request").await);
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn what_a_stream_may_send_ahead_counts_too() {
    let (proxy, script) = start("2MiB").await;
    let stream = client::tcp(proxy.addr(0)).await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut waiting = Vec::new();
    let mut streams = Vec::new();
    let mut uploads = JoinSet::new();
    let mut servers = Vec::new();
    for _ in 0..30 {
        let mut sender = sender.clone().ready().await.unwrap();
        let (answer, stream) = sender.send_request(request("POST"), false).unwrap();
        servers.push(asked(&script).await);
        waiting.push(answer);
        streams.push(stream);
    }
    for mut stream in streams {
        uploads.spawn(async move {
            loop {
                stream.reserve_capacity(16 << 10);
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else {
                    return;
                };
                if stream.send_data(vec![7; room].into(), false).is_err() {
                    return;
                }
            }
        });
    }
    // At most ten can hold a queue and a window each.
    shed_at_least(&proxy, 10).await;
    proxy.holds_at_most(2 * MIB).await;
    let mut refused = JoinSet::new();
    for answer in waiting {
        refused.spawn(answer);
    }
    for _ in 0..10 {
        let answer = soon("an answer", refused.join_next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.unwrap().status(), 503);
    }
    uploads.shutdown().await;
    drop((refused, sender));
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn what_an_http2_server_sends_ahead_of_a_slow_client_is_given_back_behind_its_trailers() {
    const SIZE: usize = 16 * MIB;
    let server = Server::new(Manner::PLAIN).await;
    let proxy = start_before(&format!("h2c://{}", server.addr), "64MiB").await;
    let mut client = client::tcp(proxy.addr(0)).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
    for _ in 0..2 {
        client.write_all(request).await.unwrap();
        let (_, mut answer) = server.asked().await.into_parts();
        let mut sending = answer.send_response(Response::new(()), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", HeaderValue::from_static("7"));
        sending.send_data(vec![7; SIZE].into(), false).unwrap();
        sending.send_trailers(trailers).unwrap();
        // A window, at least.
        proxy.holds(128 << 10).await;
        let mut taken = Vec::new();
        let end = b"0\r\nsum: 7\r\n\r\n";
        while !taken.ends_with(end) {
            let read = soon("more of the answer", client.read_buf(&mut taken)).await;
            assert_ne!(read.unwrap(), 0, "the end");
        }
        assert!(taken.len() > SIZE);
        // The connection goes on, and holds nothing.
        proxy.holds_at_most(0).await;
    }
}

#[tokio::test]
async fn heads_that_do_not_end_are_cut() {
    let (proxy, script) = start("1MiB").await;
    let head = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/"),
        ("x", &"v".repeat(12 << 10)),
    ]);
    // One has said less than the others.
    let (begun, rest) = head.split_at(5 << 10);
    let mut modest = Bare::open(proxy.addr(0), &[]).await;
    modest.send(&frame(HEADERS, END_STREAM, 1, begun)).await;
    let begun = &head[..10 << 10];
    let mut clients = Vec::new();
    for _ in 0..80 {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&frame(HEADERS, END_STREAM, 1, begun)).await;
        clients.push(client);
    }
    // All that there is room for.
    proxy.holds(MIB / 2).await;
    assert_eq!(proxy.shed("request").await, 0);
    for _ in 0..40 {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&frame(HEADERS, END_STREAM, 1, begun)).await;
        clients.push(client);
    }
    shed_at_least(&proxy, 1).await;
    proxy.holds_at_most(MIB).await;
    let mut ends = JoinSet::new();
    for mut client in clients {
        // A reset may be all that comes.
        ends.spawn(async move { client.stream.read_to_end(&mut Vec::new()).await.map(drop) });
    }
    let _ = soon("an end", ends.join_next()).await;
    ends.shutdown().await;
    proxy.holds_at_most(MIB / 2).await;
    // A head that ends goes on, and is held no more.
    modest
        .send(&frame(CONTINUATION, END_HEADERS, 1, rest))
        .await;
    asked(&script).await;
    proxy.holds_at_most(0).await;
}

#[tokio::test]
async fn uploads_leave_nothing_on_a_connection_that_takes_nothing() {
    let script = Script::new().await;
    let server = format!("h2c://{}", script.addr);
    let proxy = start_before(&server, "64MiB").await;
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    let piece: Arc<[u8]> = vec![7; MIB].into();
    let mut uploads = JoinSet::new();
    for _ in 0..40 {
        let mut client = client::tcp(proxy.addr(0)).await;
        let piece = Arc::clone(&piece);
        uploads.spawn(async move {
            client.write_all(request).await.unwrap();
            while client.write_all(&piece).await.is_ok() {}
        });
    }
    // A window for each, and one for all of them; and then nothing is read.
    let mut stream = script.accept().await;
    let window = (1_u32 << 24).to_be_bytes();
    let settings = [&[0, 4][..], &window].concat();
    let start = [
        frame(SETTINGS, 0, 0, &settings),
        frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()),
    ];
    stream.write_all(&start.concat()).await.unwrap();
    // What `h2` keeps of each.
    stands_still(&proxy, 40 * (64 << 10)).await;
    proxy.rewrite_config(&config(&server, "1MiB"));
    assert!(proxy.reload().await);
    shed_at_least(&proxy, 20).await;
    proxy.holds_at_most(MIB).await;
    uploads.shutdown().await;
    drop(stream);
    proxy.holds_at_most(0).await;
}
