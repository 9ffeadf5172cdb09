//! HTTP/2 connections as a whole: how they begin, what one stream may cost the others, how they end.

use h2::ext::Protocol;
use sluicegate_tests::http2::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, Site,
    WINDOW_UPDATE, block, frame, headers, read_frame, request,
};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::wire::{self, Message, read_response};
use sluicegate_tests::{client, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/"),
];
const CONNECT: &[(&str, &str)] = &[
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/"),
    ("sec-websocket-version", "13"),
];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A head that leaves its stream open.
fn open(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}

fn with<'a>(
    fields: &[(&'a str, &'a str)],
    name: &'a str,
    value: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let own = fields.iter().copied();
    let mut fields: Vec<_> = own.filter(|(own, _)| *own != name).collect();
    let end = fields
        .iter()
        .filter(|(own, _)| own.starts_with(':'))
        .count();
    let place = if name.starts_with(':') {
        end
    } else {
        fields.len()
    };
    fields.insert(place, (name, value));
    fields
}

/// Reads a request and answers it with nothing.
async fn answer(mut server: TcpStream) -> Message {
    let seen = wire::read_request(&mut server).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    server.write_all(answer).await.unwrap();
    seen
}

async fn serves(client: &mut Raw, stream: u32) {
    client.send(&headers(stream, GET)).await;
    let answer = client.frame(|frame| frame.stream == stream).await;
    assert!(answer.is_ok(), "{answer:?}");
}

/// What nobody reads: handshakes that the server leaves unanswered, and a whole window of small frames on
/// each.
#[tokio::test]
async fn streams_that_nobody_reads_leave_the_others_their_window() {
    const STALLED: u32 = 8;
    const WINDOW: usize = 128 * 1024;
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect_raw(&[]).await;
    let settings = client
        .frame(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0)
        .await;
    // SETTINGS_INITIAL_WINDOW_SIZE
    let window = [&[0, 4][..], &u32::try_from(WINDOW).unwrap().to_be_bytes()].concat();
    assert!(settings.payload.chunks(6).any(|setting| setting == window));
    let mut stalled = Vec::new();
    for stream in (0..STALLED).map(|count| 2 * count + 1) {
        client.send(&open(stream, CONNECT)).await;
        stalled.push(upstream.accept().await);
        let small = frame(DATA, 0, stream, &[b'x'; 64]);
        client.send(&small.repeat(WINDOW / 64)).await;
    }
    let stream = 2 * STALLED + 1;
    client
        .send(&open(stream, &with(GET, ":method", "POST")))
        .await;
    let piece = [b'y'; 16_000];
    for _ in 0..5 {
        client.send(&frame(DATA, 0, stream, &piece)).await;
    }
    client.send(&frame(DATA, END_STREAM, stream, &piece)).await;
    let serving = async {
        let seen = answer(upstream.accept().await).await;
        assert_eq!(seen.body, piece.repeat(6));
    };
    let answered = client.frame(|frame| frame.stream == stream && frame.kind != WINDOW_UPDATE);
    let (answer, ()) = tokio::join!(answered, serving);
    assert!(answer.is_ok(), "{answer:?}");
    // Nothing of what they said went on before it was asked for.
    for mut server in stalled {
        let head = wire::read_head(&mut server).await.unwrap();
        assert_eq!(head.start, "GET / HTTP/1.1");
        assert!(server.try_read(&mut [0]).is_err());
    }
}

#[tokio::test]
async fn a_response_that_its_client_takes_nothing_of_is_reset() {
    let upstream = Upstream::describing("pages").await;
    // A client may take as long as anybody may on any route.
    let timeouts = "connect = \"500ms\"\nresponse_head = \"500ms\"\nidle_timeout = \"1s\"\n\
        [timeouts]\nrequest_body = \"1s\"\n";
    let site = Site::in_front_of(upstream.addr, timeouts).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: no stream may send a byte of its body.
    let mut client = site.connect_raw(&[(4, 0)]).await;
    client.send(&headers(1, GET)).await;
    client
        .frame(|frame| frame.stream == 1 && frame.is_ok())
        .await;
    let reset = client.frame(|frame| frame.stream == 1).await;
    assert_eq!((reset.kind, &*reset.payload), (RST_STREAM, &CANCEL[..]));
    // The connection goes on.
    client.send(&headers(3, GET)).await;
    client
        .frame(|frame| frame.stream == 3 && frame.is_ok())
        .await;
    let window = 100_000_u32.to_be_bytes();
    client.send(&frame(WINDOW_UPDATE, 0, 3, &window)).await;
    client
        .frame(|frame| frame.stream == 3 && frame.kind == DATA && frame.flags & END_STREAM != 0)
        .await;
}

#[tokio::test]
async fn who_waits_to_be_asked_for_a_body_is_asked() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect_raw(&[]).await;
    let asked = with(&with(GET, ":method", "POST"), "expect", "100-continue");
    client.send(&open(1, &asked)).await;
    let interim = client.frame(|frame| frame.stream == 1).await;
    assert_eq!(interim.kind, HEADERS);
    assert_eq!(interim.flags & END_STREAM, 0);
    assert!(!interim.is_ok());
    client.send(&frame(DATA, END_STREAM, 1, b"body")).await;
    let answer = client.frame(|frame| frame.stream == 1).await;
    assert!(answer.is_ok(), "{answer:?}");
    let seen = soon("the request", requests.recv()).await.unwrap();
    assert_eq!(seen.body, b"body");
    assert_eq!(seen.head.get("expect"), None);
}

#[tokio::test]
async fn a_connect_for_anything_but_a_websocket_is_refused() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let client = site.connect().await;
    // What may be asked for is known with the first answer.
    let mut bare = request("CONNECT", "");
    *bare.uri_mut() = "localhost:443".parse().unwrap();
    for (protocol, status) in [
        (None, 405),
        (Some("connect-udp"), 501),
        (Some("WebSocket"), 501),
        (Some("webtransport"), 501),
    ] {
        let asked = match protocol {
            None => bare.clone(),
            Some(protocol) => {
                let mut asked = request("CONNECT", "/");
                asked.extensions_mut().insert(Protocol::from(protocol));
                asked
            }
        };
        let mut sender = client.clone().ready().await.unwrap();
        let (answer, _open) = sender.send_request(asked, false).unwrap();
        let answer = soon("an answer", answer).await.unwrap();
        assert_eq!(answer.status(), status, "{protocol:?}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn a_reload_leaves_a_connection_alone_and_serves_its_next_streams_anew() {
    let upstream = Upstream::describing("pages").await;
    let site = Site::in_front_of(upstream.addr, "[admin]\nbind = \"127.0.0.1:0\"\n").await;
    let mut client = site.connect_raw(&[]).await;
    serves(&mut client, 1).await;
    let config = std::fs::read_to_string(site.proxy.config_path()).unwrap();
    let more = "[[route]]\npath_exact = \"/new\"\nrespond = { body = \"new\" }\n";
    site.proxy.rewrite_config(&format!("{config}\n{more}"));
    assert!(site.proxy.reload().await);
    client.send(&headers(3, &with(GET, ":path", "/new"))).await;
    let answer = client
        .frame(|frame| frame.kind == DATA && frame.stream == 3 || frame.kind == GOAWAY)
        .await;
    assert_eq!((answer.kind, &*answer.payload), (DATA, &b"new"[..]));
    serves(&mut client, 5).await;
}

#[tokio::test]
async fn a_drain_lets_go_of_idle_connections_and_waits_for_open_streams() {
    let upstream = Script::new().await;
    let more = "[[route]]\npath_exact = \"/own\"\nrespond = { body = \"own\" }\n";
    let mut site = Site::in_front_of(upstream.addr, more).await;
    let mut idle = site.connect_raw(&[]).await;
    idle.send(&headers(1, &with(GET, ":path", "/own"))).await;
    assert!(idle.frame(|frame| frame.stream == 1).await.is_ok());
    let mut busy = site.connect_raw(&[]).await;
    busy.send(&headers(1, GET)).await;
    let server = upstream.accept().await;
    site.proxy.signal(libc::SIGQUIT);
    // Neither answers the PING that goes with it.
    for client in [&mut idle, &mut busy] {
        let told = client.frame(|frame| frame.kind == GOAWAY).await;
        assert_eq!(told.payload[4..], [0; 4], "without an error");
    }
    let rest = client::read_to_end(&mut idle.stream);
    soon("the end of the idle connection", rest).await;
    answer(server).await;
    assert!(busy.frame(|frame| frame.stream == 1).await.is_ok());
    let rest = client::read_to_end(&mut busy.stream);
    soon("the end of the other connection", rest).await;
    assert_eq!(site.proxy.exit_code().await, Some(0));
}

#[tokio::test]
async fn who_resets_a_stream_is_served_no_further() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect_raw(&[]).await;
    for (stream, begun) in [(1, false), (3, true)] {
        client.send(&headers(stream, GET)).await;
        let mut server = upstream.accept().await;
        wire::read_request(&mut server).await.unwrap();
        if begun {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
            server.write_all(head).await.unwrap();
            assert!(client.frame(|frame| frame.stream == stream).await.is_ok());
        }
        client.send(&frame(RST_STREAM, 0, stream, &CANCEL)).await;
        let rest = client::read_to_end(&mut server);
        assert_eq!(soon("the server's end", rest).await, b"");
    }
    client.send(&headers(5, GET)).await;
    answer(upstream.accept().await).await;
    assert!(client.frame(|frame| frame.stream == 5).await.is_ok());
}

async fn plain(http2: &str) -> (Proxy, Upstream) {
    let upstream = Upstream::describing("pages").await;
    let config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        {http2}
        [timeouts]
        request_head = "300ms"
        [[route]]
        to = "{}"
        "#,
        upstream.addr
    );
    (Proxy::start(&config).await, upstream)
}

#[tokio::test]
async fn without_tls_http2_is_told_by_its_first_bytes() {
    let (proxy, _upstream) = plain("http2 = true").await;
    let settings = frame(SETTINGS, 0, 0, b"");
    let whole = [
        PREFACE,
        &settings,
        &headers(1, &with(GET, ":scheme", "http")),
    ]
    .concat();
    for cuts in [&[][..], &[1], &[3, 4], &[14, 16], &[15, 24], &[18, 20, 30]] {
        let mut stream = client::tcp(proxy.addr(0)).await;
        stream.set_nodelay(true).unwrap();
        let mut from = 0;
        for cut in cuts {
            stream.write_all(&whole[from..*cut]).await.unwrap();
            from = *cut;
            // What was sent has come once an answer to another connection is there.
            client::get(proxy.addr(0), "/").await;
        }
        stream.write_all(&whole[from..]).await.unwrap();
        let answer = async {
            loop {
                let frame = read_frame(&mut stream).await.unwrap();
                if frame.stream == 1 {
                    return frame;
                }
            }
        };
        let answer: Frame = soon("an answer", answer).await;
        assert!(answer.is_ok(), "{cuts:?}: {answer:?}");
    }
}

#[tokio::test]
async fn what_only_begins_like_http2_is_http1() {
    for (http2, first, status) in [
        ("http2 = true", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("http2 = true", "PRI / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("http2 = true", "PRI * HTTP/2.1\r\n\r\n", 505),
        ("http2 = true", "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        // Begun, and not gone on with.
        ("http2 = true", "PRI * HTTP/2.0\r", 408),
        ("", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("http2 = false", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ] {
        let (proxy, _upstream) = plain(http2).await;
        let mut stream = client::tcp(proxy.addr(0)).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        let answer = soon("an answer", read_response(&mut stream)).await.unwrap();
        assert_eq!(answer.head.status(), status, "{http2} {first:?}");
        if status == 200 {
            // Only the first bytes may be HTTP/2's.
            stream.write_all(PREFACE).await.unwrap();
            let answer = soon("an answer", read_response(&mut stream)).await.unwrap();
            assert_eq!(answer.head.status(), 505);
        }
        let mut rest = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    }
}

/// RFC 9113 §7, as it stands in RST_STREAM.
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
