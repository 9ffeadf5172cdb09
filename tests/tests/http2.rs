//! HTTP/2 over TLS: what it carries, and what it refuses on one stream without harm to the others.

use http::{HeaderMap, HeaderValue};
use sluicegate_tests::http2::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, Site, WINDOW_UPDATE,
    block, exchange, frame, get, headers, request,
};
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{soon, wire};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const GOOD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/good"),
];

#[tokio::test]
async fn requests_become_http1_requests() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect().await;
    for (method, body) in [
        ("GET", &[][..]),
        ("POST", &[b"abc".as_slice(), b"def"][..]),
        ("GET", &[b"abc".as_slice()][..]),
        ("DELETE", &[][..]),
    ] {
        let answer = exchange(&mut client, request(method, "/p?q"), body, None).await;
        let answer = answer.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.head.headers().get("connection"), None);
        let seen = soon("the request", requests.recv()).await.unwrap();
        assert_eq!(seen.head.start, format!("{method} /p?q HTTP/1.1"));
        assert_eq!(seen.head.fields.all("host"), ["localhost"]);
        assert_eq!(seen.head.fields.all("x-forwarded-proto"), ["https"]);
        assert_eq!(seen.body, body.concat());
    }
}

#[tokio::test]
async fn an_end_in_a_frame_of_its_own_costs_no_upstream_connection() {
    let upstream = Upstream::describing("pages").await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect().await;
    for length in [Some("3"), None] {
        for _ in 0..5 {
            let mut asked = request("POST", "/");
            if let Some(length) = length {
                let length = HeaderValue::from_static(length);
                asked.headers_mut().insert("content-length", length);
            }
            let answer = exchange(&mut client, asked, &[b"abc", b""], None).await;
            assert_eq!(answer.unwrap().head.status(), 200);
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let upstream = Upstream::mirroring().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let client = site.connect().await;
    let body: Vec<u8> = (0..8 * 1024 * 1024_u32)
        .map(|at| (at % 251) as u8)
        .collect();
    let pieces: Vec<&[u8]> = body.chunks(100_003).collect();
    let (mut one, mut two) = (client.clone(), client.clone());
    let (one, two) = tokio::join!(
        exchange(&mut one, request("POST", "/1"), &pieces, None),
        exchange(&mut two, request("PUT", "/2"), &pieces, None),
    );
    assert!(one.unwrap().body == body);
    assert!(two.unwrap().body == body);
}

#[tokio::test]
async fn trailers_pass_both_ways_without_what_only_a_head_may_say() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut asked = request("POST", "/");
    let announced = "x-sum, x-forwarded-for, cookie";
    asked
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    asked
        .headers_mut()
        .insert("trailer", HeaderValue::from_static(announced));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("6"));
    trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
    trailers.insert("cookie", HeaderValue::from_static("evil"));
    let mut client = site.connect().await;
    let playing = async {
        let mut server = upstream.accept().await;
        let seen = wire::read_request(&mut server).await.unwrap();
        assert_eq!(seen.body, b"abc");
        assert_eq!(seen.trailers.0, [("x-sum".to_owned(), "6".to_owned())]);
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\
            X-Sum: 7\r\nX-Forwarded-For: 6.6.6.6\r\nSet-Cookie: evil\r\n\r\n";
        server.write_all(answer).await.unwrap();
    };
    let body: &[&[u8]] = &[b"abc"];
    let (answer, ()) = tokio::join!(exchange(&mut client, asked, body, Some(trailers)), playing);
    let answer = answer.unwrap();
    assert_eq!(answer.body, b"xyz");
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "7");
}

#[tokio::test]
async fn head_and_answers_without_a_body_end_their_stream() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect().await;
    for (method, answer) in [
        ("HEAD", "200 OK\r\nContent-Length: 5"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified\r\nETag: \"x\""),
    ] {
        let playing = async {
            let mut server = upstream.accept().await;
            wire::read_request(&mut server).await.unwrap();
            let answer = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n");
            server.write_all(answer.as_bytes()).await.unwrap();
        };
        let (got, ()) = tokio::join!(
            exchange(&mut client, request(method, "/"), &[], None),
            playing
        );
        let got = got.unwrap();
        assert!(answer.starts_with(got.head.status().as_str()));
        assert_eq!(got.body, b"");
        let length = got.head.headers().get("content-length");
        assert_eq!(length.is_some(), method == "HEAD", "{length:?}");
    }
}

#[tokio::test]
async fn cookie_crumbs_are_joined() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut asked = get("/");
    for crumb in ["a=1", "b=2; c=3", "d=4"] {
        let crumb = HeaderValue::from_static(crumb);
        asked.headers_mut().append("cookie", crumb);
    }
    exchange(&mut site.connect().await, asked, &[], None)
        .await
        .unwrap();
    let seen = soon("the request", requests.recv()).await.unwrap();
    assert_eq!(seen.head.fields.all("cookie"), ["a=1; b=2; c=3; d=4"]);
}

#[tokio::test]
async fn a_malformed_request_is_refused_and_others_are_served() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let with = |more: &[(&'static str, &'static str)]| [GOOD, more].concat();
    let without = |name: &str| -> Vec<(&'static str, &'static str)> {
        GOOD.iter()
            .copied()
            .filter(|(own, _)| *own != name)
            .collect()
    };
    let instead = |name: &'static str, value: &'static str| {
        let mut fields = without(name);
        fields.insert(0, (name, value));
        fields
    };
    let late = [&GOOD[..3], &[("x", "y")], &GOOD[3..]].concat();
    for (name, fields) in [
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no authority", without(":authority")),
        ("two paths", with(&[(":path", "/other")])),
        ("two methods", with(&[(":method", "GET")])),
        ("a late path", late),
        ("a response's field", with(&[(":status", "200")])),
        ("an unknown field", with(&[(":x", "y")])),
        ("upper case", with(&[("X-Upper", "a")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("CR LF in a value", with(&[("x", "a\r\nX-Evil: b")])),
        ("LF in a value", with(&[("x", "a\nb")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("blank before a value", with(&[("x", " a")])),
        ("blank behind a value", with(&[("x", "a\t")])),
        ("blank in a name", with(&[("x y", "a")])),
        ("colon in a name", with(&[("x:y", "a")])),
        ("CR LF in a name", with(&[("x\r\ny", "a")])),
        ("no name", with(&[("", "a")])),
        (
            "CR LF in the path",
            instead(":path", "/ HTTP/1.1\r\nX-Evil: b"),
        ),
        ("blank in the path", instead(":path", "/a b")),
        ("empty path", instead(":path", "")),
        ("no slash", instead(":path", "good")),
        ("asterisk", instead(":path", "*")),
        ("hidden slash", instead(":path", "/a%2fb")),
        ("blank in the method", instead(":method", "GET /evil")),
        ("CR LF in the method", instead(":method", "GET\r\n")),
        ("CONNECT with a path", instead(":method", "CONNECT")),
        ("TRACE", instead(":method", "TRACE")),
        ("scheme", instead(":scheme", "ftp")),
        ("userinfo", instead(":authority", "user@localhost")),
        (
            "CR LF in the authority",
            instead(":authority", "localhost\r\nX-Evil: b"),
        ),
        ("other host", with(&[("host", "elsewhere.test")])),
        (
            "two hosts",
            with(&[("host", "localhost"), ("host", "localhost")]),
        ),
        ("a WebSocket whose stream has ended", {
            let mut fields = instead(":method", "CONNECT");
            fields.insert(0, (":protocol", "websocket"));
            fields
        }),
        ("length without a body", with(&[("content-length", "5")])),
        ("length in words", with(&[("content-length", "five")])),
        (
            "two lengths",
            with(&[("content-length", "0"), ("content-length", "0")]),
        ),
        ("expectation", with(&[("expect", "tea")])),
    ] {
        let mut client = site.connect_raw(&[]).await;
        client.send(&headers(1, &fields)).await;
        let answer = client
            .frame(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY))
            .await;
        assert!(!answer.is_ok(), "{name}: served");
        if answer.kind == GOAWAY {
            // What is no field at all may end the connection (RFC 9113 §5.4.1).
            client = site.connect_raw(&[]).await;
        } else {
            assert_eq!(answer.stream, 1, "{name}: {answer:?}");
        }
        client.send(&headers(3, GOOD)).await;
        let answer = client.frame(|frame| frame.stream == 3).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
        let seen = soon("the good request", requests.recv()).await.unwrap();
        assert_eq!(seen.head.target(), "/good", "{name}");
        assert_eq!(seen.head.get("x-evil"), None, "{name}");
    }
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_completes_no_request() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut fields = GOOD.to_vec();
    fields[0] = (":method", "POST");
    fields.push(("content-length", "5"));
    for body in ["abc", "abcdefg", ""] {
        let mut client = site.connect_raw(&[]).await;
        client
            .send(&frame(HEADERS, END_HEADERS, 1, &block(&fields)))
            .await;
        client
            .send(&frame(DATA, END_STREAM, 1, body.as_bytes()))
            .await;
        let answer = client
            .frame(|frame| frame.stream == 1 && frame.kind != WINDOW_UPDATE)
            .await;
        assert!(!answer.is_ok(), "{body}");
        client.send(&headers(3, GOOD)).await;
        let answer = client.frame(|frame| frame.stream == 3).await;
        assert!(answer.is_ok(), "{answer:?}");
        let seen = soon("the good request", requests.recv()).await.unwrap();
        assert_eq!(seen.head.target(), "/good");
        assert_eq!(seen.body, b"");
    }
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn an_upstream_that_breaks_off_resets_its_stream_only() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let client = site.connect().await;
    let (mut broken, mut whole) = (client.clone(), client.clone());
    let playing = async {
        let mut first = upstream.accept().await;
        let seen = wire::read_request(&mut first).await.unwrap();
        let mut second = upstream.accept().await;
        wire::read_request(&mut second).await.unwrap();
        let (mut broken, mut whole) = match seen.head.target() {
            "/broken" => (first, second),
            _ => (second, first),
        };
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc";
        broken.write_all(head).await.unwrap();
        whole.write_all(head).await.unwrap();
        drop(broken);
        whole.write_all(b"def").await.unwrap();
        whole
    };
    let (broken, whole, _server) = tokio::join!(
        exchange(&mut broken, get("/broken"), &[], None),
        exchange(&mut whole, get("/whole"), &[], None),
        playing,
    );
    assert!(broken.unwrap_err().is_reset());
    assert_eq!(whole.unwrap().body, b"abcdef");
}

#[tokio::test]
async fn a_body_over_the_limit_gives_413_on_its_stream() {
    let upstream = Upstream::describing("pages").await;
    let site = Site::in_front_of(upstream.addr, "[limits]\nrequest_body = \"10B\"\n").await;
    let mut client = site.connect().await;
    for (body, status) in [
        (&[b"0123456789".as_slice()][..], 200),
        (&[b"012345".as_slice(), b"6789a"][..], 413),
    ] {
        let answer = exchange(&mut client, request("POST", "/"), body, None).await;
        assert_eq!(answer.unwrap().head.status(), status);
    }
}

#[tokio::test]
async fn heads_over_the_limits_give_431_on_their_stream() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "").await;
    let mut client = site.connect().await;
    let long = "v".repeat(17 * 1024);
    for (name, value, times) in [("cookie", "a=b", 101), ("x", "", 101), ("x", &*long, 1)] {
        let mut asked = get("/");
        for _ in 0..times {
            asked.headers_mut().append(name, value.parse().unwrap());
        }
        let answer = exchange(&mut client, asked, &[], None).await.unwrap();
        assert_eq!(answer.head.status(), 431, "{name}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn streams_without_a_window_do_not_hold_up_others() {
    let upstream = Upstream::describing("pages").await;
    let site = Site::in_front_of(upstream.addr, "").await;
    // SETTINGS_INITIAL_WINDOW_SIZE: no stream may send a byte of its body.
    let mut client = site.connect_raw(&[(4, 0)]).await;
    for stream in [1, 3, 5, 7] {
        client.send(&headers(stream, GOOD)).await;
        let answer = client.frame(|frame| frame.stream == stream).await;
        assert!(answer.is_ok());
    }
    let window = 10_000_u32.to_be_bytes();
    client.send(&frame(WINDOW_UPDATE, 0, 5, &window)).await;
    let data = client.frame(|frame| frame.kind == DATA).await;
    assert_eq!(data.stream, 5);
    assert!(!data.payload.is_empty());
    site.assert_serves().await;
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_others_are_served() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "[limits]\nhttp2_streams = 2\n").await;
    let mut client = site.connect_raw(&[]).await;
    let settings = client
        .frame(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0)
        .await;
    // SETTINGS_MAX_CONCURRENT_STREAMS
    let limit = [0, 3, 0, 0, 0, 2];
    assert!(settings.payload.chunks(6).any(|setting| setting == limit));

    client.send(&headers(1, GOOD)).await;
    let first = upstream.accept().await;
    client.send(&headers(3, GOOD)).await;
    let _second = upstream.accept().await;
    client.send(&headers(5, GOOD)).await;
    let refused = client.frame(|frame| frame.stream == 5).await;
    assert_eq!(refused.kind, RST_STREAM);
    assert_eq!(refused.payload, REFUSED_STREAM.to_be_bytes());
    assert!(!upstream.was_contacted().await);
    // The limit is each connection's own.
    tokio::join!(site.assert_serves(), async {
        answer(upstream.accept().await).await;
    });

    answer(first).await;
    client
        .frame(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0)
        .await;
    client.send(&headers(7, GOOD)).await;
    answer(upstream.accept().await).await;
    assert!(client.frame(|frame| frame.stream == 7).await.is_ok());
}

#[tokio::test]
async fn a_client_that_knows_the_limit_of_streams_waits_for_its_turn() {
    let upstream = Script::new().await;
    let site = Site::in_front_of(upstream.addr, "[limits]\nhttp2_streams = 2\n").await;
    let mut client = site.connect().await;
    // Whoever has an answer has seen the settings.
    let (first, ()) = tokio::join!(exchange(&mut client, get("/"), &[], None), async {
        answer(upstream.accept().await).await;
    });
    assert_eq!(first.unwrap().head.status(), 200);
    let asking = (0..6).map(|_| {
        let mut client = client.clone();
        async move { exchange(&mut client, get("/"), &[], None).await }
    });
    let serving = async {
        for _ in 0..3 {
            let pair = (upstream.accept().await, upstream.accept().await);
            assert!(!upstream.was_contacted().await);
            tokio::join!(answer(pair.0), answer(pair.1));
        }
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asking), serving);
    for answer in answers {
        assert_eq!(answer.unwrap().head.status(), 200);
    }
}

/// Reads a request and answers it with nothing, on a connection that nobody uses again.
async fn answer(mut stream: TcpStream) {
    wire::read_request(&mut stream).await.unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(answer).await.unwrap();
}

/// RFC 9113 §7: nothing was done with the stream.
const REFUSED_STREAM: u32 = 7;
