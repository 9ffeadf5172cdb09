//! WebSockets to upstreams that speak HTTP/2: when they ride on it, what they share, and what becomes of
//! them when a server refuses, leaves or says nothing.

use h2::Reason;
use http::Response;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::client;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::server::{Arrival, Asked, Manner, Server};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::{AnyPeer, Heard, Peer};
use sluicegate_tests::wire::Head;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// What a client's handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Http1,
    Http2,
    Refused(u16),
}

/// A proxy before this server; `more` goes on with the upstream's table.
async fn start(server: &Server, more: &str) -> Proxy {
    let port = server.addr.port();
    Proxy::start(&config(&format!(
        "servers = ['h2c://127.0.0.1:{port}']\n{more}"
    )))
    .await
}

fn config(upstream: &str) -> String {
    format!(
        r#"
        [runtime]
        workers = 1
        [[listener]]
        bind = "127.0.0.1:0"
        http2 = true
        [[route]]
        to = "server"
        [upstream.server]
        health = {{ fails = 60000 }}
        {upstream}
        "#
    )
}

/// A WebSocket asked for by an upgrade.
async fn ask(proxy: &Proxy) -> Result<AnyPeer, Head> {
    let stream: Box<dyn Wire> = Box::new(client::tcp(proxy.addr(0)).await);
    Peer::ask(stream, "/", &[]).await
}

async fn accept(asked: Asked) -> AnyPeer {
    AnyPeer::answer(Arrival::Http2(asked), Wish::default()).await
}

/// Both ends of a tunnel, and the connection to the server that it is on.
async fn open(proxy: &Proxy, server: &Server) -> (AnyPeer, AnyPeer, usize) {
    let accepting = async {
        let asked = server.asked().await;
        let connection = asked.connection;
        (accept(asked).await, connection)
    };
    let (client, (server, connection)) = tokio::join!(ask(proxy), accepting);
    (client.expect("a WebSocket"), server, connection)
}

async fn echo(client: &mut AnyPeer, server: &mut AnyPeer) {
    pass(client, server).await;
    pass(server, client).await;
}

async fn pass(from: &mut AnyPeer, to: &mut AnyPeer) {
    from.say(Frame::new(frame::TEXT, "there?")).await.unwrap();
    let heard = to.next().await;
    assert!(matches!(heard, Heard::Message(message) if message.data == b"there?"));
}

/// The closing handshake, up to the end of both streams.
async fn close(mut client: AnyPeer, mut server: AnyPeer) {
    client.say(Frame::close(1000, "")).await.unwrap();
    assert!(matches!(server.next().await, Heard::Close(_)));
    server.say(Frame::close(1000, "")).await.unwrap();
    assert!(matches!(client.next().await, Heard::Close(_)));
    drop(client);
    assert_eq!(server.next().await, Heard::End);
}

#[tokio::test]
async fn websockets_ride_on_http2_where_the_server_takes_them() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&["localhost"]);
    let both: &[&str] = &["h2", "http/1.1"];
    let old: &[&str] = &["http/1.1"];
    for (scheme, alpn, announced, more, expected) in [
        ("h2c", both, true, "", Outcome::Http2),
        ("h2c", both, true, "websocket = 'auto'", Outcome::Http2),
        ("h2c", both, true, "websocket = 'h2'", Outcome::Http2),
        ("h2c", both, true, "websocket = 'h1'", Outcome::Http1),
        ("h2c", both, false, "", Outcome::Http1),
        (
            "h2c",
            both,
            false,
            "websocket = 'h2'",
            Outcome::Refused(502),
        ),
        ("http", both, true, "http = '2'", Outcome::Http2),
        ("http", both, true, "", Outcome::Http1),
        ("h2", both, true, "", Outcome::Http2),
        ("h2", both, true, "websocket = 'h1'", Outcome::Http1),
        ("h2", both, false, "", Outcome::Http1),
        ("h2", old, true, "", Outcome::Refused(502)),
        ("https", both, true, "", Outcome::Http1),
        ("https", both, true, "http = 'auto'", Outcome::Http2),
        ("https", both, false, "http = 'auto'", Outcome::Http1),
        ("https", old, true, "http = 'auto'", Outcome::Http1),
        (
            "https",
            old,
            true,
            "http = 'auto'\nwebsocket = 'h2'",
            Outcome::Refused(502),
        ),
    ] {
        let secure = matches!(scheme, "h2" | "https");
        let server = Server::new(Manner {
            tls: secure.then(|| identity.server_for(alpn)),
            websocket: announced,
            streams: None,
        })
        .await;
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
        let port = server.addr.port();
        let trust = if secure {
            "tls = { ca = 'authority.pem' }"
        } else {
            ""
        };
        let upstream = format!("servers = ['{scheme}://localhost:{port}']\n{trust}\n{more}");
        let proxy = Proxy::start_in(dir, &config(&upstream)).await;
        let on_http2 = Client::plain(proxy.addr(0)).await;
        // Twice each: what is known from the first handshake serves the second.
        for by_upgrade in [true, false, true, false] {
            let asking = async {
                match by_upgrade {
                    true => ask(&proxy).await,
                    false => AnyPeer::connect_on(&on_http2, "/", &[]).await,
                }
            };
            let answering = async {
                if let Outcome::Refused(_) = expected {
                    return None;
                }
                let arrival = server.next().await;
                let came = match arrival {
                    Arrival::Http1(_) => Outcome::Http1,
                    Arrival::Http2(_) => Outcome::Http2,
                };
                Some((came, AnyPeer::answer(arrival, Wish::default()).await))
            };
            let (client, server) = tokio::join!(asking, answering);
            let outcome = match (client, server) {
                (Ok(mut client), Some((came, mut server))) => {
                    echo(&mut client, &mut server).await;
                    came
                }
                (Err(head), None) => Outcome::Refused(head.status()),
                (client, _) => panic!("{scheme} {more}: {:?}", client.err()),
            };
            assert_eq!(outcome, expected, "{scheme} {alpn:?} {announced} {more}");
        }
        assert!(!server.was_contacted().await, "{scheme} {more}");
    }
}

#[tokio::test]
async fn sockets_share_a_connection_up_to_half_of_its_streams() {
    for (manner, more, each) in [
        (Manner::WEBSOCKET, "", 50),
        (Manner::WEBSOCKET, "http2 = { streams = 3 }", 2),
        (
            Manner {
                streams: Some(4),
                ..Manner::WEBSOCKET
            },
            "",
            2,
        ),
    ] {
        let server = Server::new(manner).await;
        let proxy = start(&server, more).await;
        let mut sockets = Vec::new();
        for index in 0..7 {
            let (client, server, connection) = open(&proxy, &server).await;
            assert_eq!(connection, index / each, "{more}");
            sockets.push((client, server));
        }
        for (client, server) in &mut sockets {
            echo(client, server).await;
        }
    }
}

#[tokio::test]
async fn requests_find_room_beside_all_the_sockets_there_may_be() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let more = "http2 = { streams = 4, connections = 1 }\n[timeouts]\nconnect = '300ms'";
    let proxy = start(&server, more).await;
    let mut sockets = vec![open(&proxy, &server).await, open(&proxy, &server).await];
    let refused = ask(&proxy).await;
    assert_eq!(refused.err().map(|head| head.status()), Some(503));
    let client = Client::plain(proxy.addr(0)).await;
    let answering = async {
        // Both are under way at once.
        let asked = [server.asked().await, server.asked().await];
        for asked in asked {
            asked.respond(Response::new(()), "found");
        }
    };
    let (one, two, ()) = tokio::join!(client.get("/1"), client.get("/2"), answering);
    for answer in [one, two] {
        assert_eq!(answer.unwrap().body, b"found");
    }
    for (client, server, _) in &mut sockets {
        echo(client, server).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_socket_that_finds_no_room_has_a_connection_of_its_own_where_it_may() {
    let authority = Authority::new("test authority");
    let identity = authority.issue(&["localhost"]);
    let server = Server::new(Manner {
        tls: Some(identity.server_for(&["h2", "http/1.1"])),
        websocket: true,
        streams: None,
    })
    .await;
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
    let upstream = format!(
        "servers = ['https://localhost:{}']\nhttp = 'auto'\ntls = {{ ca = 'authority.pem' }}\n\
         http2 = {{ streams = 2, connections = 1 }}",
        server.addr.port()
    );
    let proxy = Proxy::start_in(dir, &config(&upstream)).await;
    let _first = open(&proxy, &server).await;
    for _ in 0..2 {
        let answering = async {
            let arrival = server.next().await;
            assert!(matches!(arrival, Arrival::Http1(_)));
            AnyPeer::answer(arrival, Wish::default()).await
        };
        let (client, mut server) = tokio::join!(ask(&proxy), answering);
        echo(&mut client.expect("a WebSocket"), &mut server).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_place_is_given_back_when_its_socket_ends() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let more =
        "websocket = 'h2'\nhttp2 = { streams = 1, connections = 1 }\n[timeouts]\nconnect = '300ms'";
    let proxy = start(&server, more).await;
    for reset in [false, true] {
        let (client, end, connection) = open(&proxy, &server).await;
        assert_eq!(connection, 0);
        let refused = ask(&proxy).await;
        assert_eq!(refused.err().map(|head| head.status()), Some(503));
        match reset {
            false => close(client, end).await,
            true => {
                client.reset();
                let mut end = end;
                assert_eq!(end.next().await, Heard::End);
            }
        }
    }
    let (mut client, mut end, _) = open(&proxy, &server).await;
    echo(&mut client, &mut end).await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn what_a_server_did_not_look_at_is_sent_again() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    let answering = async {
        for _ in 0..2 {
            server.asked().await.reset(Reason::REFUSED_STREAM);
        }
        accept(server.asked().await).await
    };
    let (client, mut end) = tokio::join!(ask(&proxy), answering);
    echo(&mut client.expect("a WebSocket"), &mut end).await;

    // Not for ever.
    let answering = async {
        for _ in 0..3 {
            server.asked().await.reset(Reason::REFUSED_STREAM);
        }
    };
    let (client, ()) = tokio::join!(ask(&proxy), answering);
    assert_eq!(client.err().map(|head| head.status()), Some(503));
    assert!(!server.was_contacted().await);
}

#[tokio::test]
async fn what_a_server_may_have_acted_on_is_not_sent_again() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    for reason in [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::NO_ERROR,
        Reason::PROTOCOL_ERROR,
    ] {
        let answering = async { server.asked().await.reset(reason) };
        let (client, ()) = tokio::join!(ask(&proxy), answering);
        let status = client.err().map(|head| head.status());
        assert_eq!(status, Some(502), "{reason:?}");
    }
    let answering = async {
        let asked = server.asked().await;
        server.cut(asked.connection);
        // Dropped now it would be reset, and the connection cut later.
        asked
    };
    let (client, _asked) = tokio::join!(ask(&proxy), answering);
    assert_eq!(client.err().map(|head| head.status()), Some(502));
    assert!(!server.was_contacted().await);
    let (mut client, mut end, connection) = open(&proxy, &server).await;
    echo(&mut client, &mut end).await;
    assert_eq!(connection, 1);
}

#[tokio::test]
async fn who_resets_handshakes_or_has_no_websockets_is_not_put_out() {
    let resets = Server::new(Manner::WEBSOCKET).await;
    let without = Server::new(Manner {
        websocket: false,
        ..Manner::WEBSOCKET
    })
    .await;
    // With the health rules of who says nothing.
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [[route]]
        to = "resets"
        [[route]]
        path = "/without/"
        to = "without"
        [upstream.resets]
        servers = ["h2c://{}"]
        [upstream.without]
        servers = ["h2c://{}"]
        "#,
        resets.addr, without.addr
    ))
    .await;
    for _ in 0..10 {
        let answering = async { resets.asked().await.reset(Reason::INTERNAL_ERROR) };
        let (refused, ()) = tokio::join!(ask(&proxy), answering);
        assert_eq!(refused.err().map(|head| head.status()), Some(502));

        let asking = async {
            let stream: Box<dyn Wire> = Box::new(client::tcp(proxy.addr(0)).await);
            Peer::ask(stream, "/without/", &[]).await
        };
        // It hangs up on what it takes for no HTTP/2.
        let answering = async { assert!(matches!(without.next().await, Arrival::Http1(_))) };
        let (refused, ()) = tokio::join!(asking, answering);
        assert_eq!(refused.err().map(|head| head.status()), Some(502));
        proxy
            .log_line("what was tried", |line| {
                line.contains("no WebSocket over HTTP/2, and over HTTP/1.1")
            })
            .await;
    }
}

#[tokio::test]
async fn a_server_that_wants_http1_gets_it() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    let answering = async {
        server.asked().await.reset(Reason::HTTP_1_1_REQUIRED);
        let arrival = server.next().await;
        assert!(matches!(arrival, Arrival::Http1(_)));
        AnyPeer::answer(arrival, Wish::default()).await
    };
    let (client, mut end) = tokio::join!(ask(&proxy), answering);
    echo(&mut client.expect("a WebSocket"), &mut end).await;

    let proxy = start(&server, "websocket = 'h2'").await;
    let answering = async {
        let asked = server.asked().await;
        asked.reset(Reason::HTTP_1_1_REQUIRED);
    };
    let (client, ()) = tokio::join!(ask(&proxy), answering);
    assert_eq!(client.err().map(|head| head.status()), Some(502));
    assert!(!server.was_contacted().await);
}

#[tokio::test]
async fn sockets_go_on_when_their_server_leaves_and_new_ones_go_elsewhere() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    let (mut client, mut end, first) = open(&proxy, &server).await;
    server.leave(first);
    echo(&mut client, &mut end).await;
    // The proxy may need a moment to see it.
    let (mut other_client, mut other_end) = loop {
        let (client, end, connection) = open(&proxy, &server).await;
        if connection != first {
            break (client, end);
        }
    };
    echo(&mut other_client, &mut other_end).await;
    echo(&mut client, &mut end).await;
    close(client, end).await;
    close(other_client, other_end).await;
}

#[tokio::test]
async fn a_connection_that_breaks_ends_its_sockets_and_no_others() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "http2 = { streams = 4 }").await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(open(&proxy, &server).await);
    }
    server.cut(0);
    for (client, end, connection) in &mut sockets {
        match connection {
            0 => assert_eq!(client.next().await, Heard::End),
            _ => echo(client, end).await,
        }
    }
    let (mut client, mut end, _) = open(&proxy, &server).await;
    echo(&mut client, &mut end).await;
    server.abort(1, Reason::INTERNAL_ERROR);
    for (client, _, _) in &mut sockets {
        assert_eq!(client.next().await, Heard::End);
    }
    echo(&mut client, &mut end).await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_is_not_wanted_any_more_is_taken_back() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "[timeouts]\nresponse_head = '300ms'").await;
    let asking = async { server.asked().await.taken_back().await };
    let (client, reason) = tokio::join!(ask(&proxy), asking);
    assert_eq!(client.err().map(|head| head.status()), Some(504));
    assert_eq!(reason, Reason::CANCEL);

    let proxy = start(&server, "").await;
    let on_http2 = Client::plain(proxy.addr(0)).await;
    let opening = on_http2.begin(on_http2.websocket("/", &[])).await.unwrap();
    let asked = server.asked().await;
    opening.cancel();
    assert_eq!(asked.taken_back().await, Reason::CANCEL);
}

#[tokio::test]
async fn what_a_client_sends_early_waits_for_the_acceptance() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    let on_http2 = Client::plain(proxy.addr(0)).await;
    let mut opening = on_http2.begin(on_http2.websocket("/", &[])).await.unwrap();
    let early = Frame::new(frame::TEXT, "early").masked([1, 2, 3, 4]);
    opening.outgoing.write_all(&early.encode()).await.unwrap();
    let mut asked = server.asked().await;
    // What has come by now would have come before what is said here, on the same connections.
    let connecting = AnyPeer::connect_on(&on_http2, "/", &[]);
    let (client, mut end) = tokio::join!(connecting, async { accept(server.asked().await).await });
    echo(&mut client.expect("a WebSocket"), &mut end).await;
    assert_eq!(server.connections(), 1);
    assert!(!asked.has_more());
    let mut end = accept(asked).await;
    let heard = end.next().await;
    assert!(matches!(heard, Heard::Message(message) if message.data == b"early"));
    opening.answered().await.unwrap();
}

#[tokio::test]
async fn an_acceptance_of_what_was_not_offered_is_none() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let proxy = start(&server, "").await;
    for (name, value) in [
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        let answering = async {
            let answer = Response::builder().header(name, value).body(()).unwrap();
            server.asked().await.accept(answer)
        };
        let (client, mut stream) = tokio::join!(ask(&proxy), answering);
        let status = client.err().map(|head| head.status());
        assert_eq!(status, Some(502), "{name}");
        assert_eq!(stream.outgoing.was_reset().await, Reason::CANCEL);
    }
}
