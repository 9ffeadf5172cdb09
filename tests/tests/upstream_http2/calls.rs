//! Calls of gRPC: streams in both directions, trailers, and waits that are nobody's fault.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use sluicegate_tests::http2::server::{Manner, Server};
use sluicegate_tests::http2::{Answer, exchange, request};
use sluicegate_tests::{client, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::interval;

use super::{Site, done, ok, read};

#[tokio::test]
async fn a_call_may_say_little_before_it_is_answered() {
    let server = Server::new(Manner::PLAIN).await;
    let more = "body_rate = '1MiB'\n[timeouts]\nrequest_body = '2s'";
    let site = Site::before(&server, "", more).await;
    for (kind, status) in [("application/grpc+proto", 200), ("application/json", 408)] {
        let client = site.http2().await;
        let mut call = client.request("POST", "/package.Service/Report");
        let value = HeaderValue::from_static(kind);
        call.headers_mut().insert("content-type", value);
        let mut opening = client.begin(call).await.unwrap();
        opening.outgoing.write_all(b"first").await.unwrap();
        let (_asked, mut answer) = server.asked().await.into_parts();
        let mut pace = interval(Duration::from_millis(100));
        for _ in 0..40 {
            pace.tick().await;
            // Who is cut finds out why below.
            if opening.outgoing.write_all(b".").await.is_err() {
                break;
            }
        }
        let _ = answer.send_response(Response::new(()), true);
        let (head, _) = opening.answered().await.unwrap();
        assert_eq!(head.status(), status, "{kind}");
    }
}

#[tokio::test]
async fn both_directions_stay_open_for_as_long_as_they_like() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let client = site.http2().await;
    let mut call = client.request("POST", "/package.Service/Chat");
    for (name, value) in [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
        ("x_trace", "kept"),
        ("x_real_ip", "6.6.6.6"),
    ] {
        let value = HeaderValue::from_static(value);
        call.headers_mut().insert(name, value);
    }
    let mut opening = client.begin(call).await.unwrap();
    opening.outgoing.write_all(b"first").await.unwrap();
    let (asked, mut answer) = server.asked().await.into_parts();
    assert_eq!(asked.headers()["te"], "trailers");
    assert_eq!(asked.headers()["x_trace"], "kept");
    assert!(
        !asked.headers().contains_key("x_real_ip"),
        "one of ours in disguise"
    );
    let mut body = asked.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    let head = Response::builder().header("content-type", "application/grpc+proto");
    let mut send = answer.send_response(head.body(()).unwrap(), false).unwrap();
    let (_, mut stream) = opening.answered().await.unwrap();

    // Each side speaks when it likes.
    for turn in 0..3_u8 {
        stream.outgoing.write_all(&[turn]).await.unwrap();
        let data = soon("the client's word", body.data())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(data[..], [turn]);
        send.send_data(Bytes::copy_from_slice(&[turn]), false)
            .unwrap();
        let mut byte = [0];
        let reading = stream.incoming.read_exact(&mut byte);
        soon("the server's word", reading).await.unwrap();
        assert_eq!(byte, [turn]);
    }
    // The server ends the call before the client does.
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("5"));
    trailers.insert("my_key", HeaderValue::from_static("kept"));
    send.send_trailers(trailers).unwrap();
    let mut rest = Vec::new();
    let reading = stream.incoming.read_to_end(&mut rest);
    soon("the end of the call", reading).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_call_is_told_in_trailers_or_in_the_head_alone() {
    let server = Server::new(Manner::PLAIN).await;
    let site = Site::before(&server, "", "").await;
    let stream = client::tls(
        site.proxy.addr(1),
        "localhost",
        site.authority.client(&["h2"]),
    );
    let (sender, connection) = h2::client::handshake(stream.await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    for trailers_only in [true, false] {
        let mut sending = sender.clone();
        let mut call = request("POST", "/package.Service/Unary");
        let kind = HeaderValue::from_static("application/grpc");
        call.headers_mut().insert("content-type", kind);
        let request =
            tokio::spawn(async move { exchange(&mut sending, call, &[b"ping"], None).await });
        let (asked, mut answer) = server.asked().await.into_parts();
        let mut body = asked.into_body();
        assert_eq!(read(&mut body).await, b"ping");
        let status = HeaderValue::from_static("0");
        if trailers_only {
            let head = Response::builder().header("grpc-status", status);
            answer.send_response(head.body(()).unwrap(), true).unwrap();
        } else {
            let mut send = answer.send_response(ok(), false).unwrap();
            send.send_data("pong".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status);
            trailers.insert("my_key", HeaderValue::from_static("kept"));
            trailers.insert("x_forwarded_for", HeaderValue::from_static("6.6.6.6"));
            send.send_trailers(trailers).unwrap();
        }
        let Answer {
            head,
            body,
            trailers,
        } = done(request).await.unwrap();
        if trailers_only {
            assert_eq!(
                (head.headers()["grpc-status"].as_bytes(), &*body),
                (&b"0"[..], &b""[..])
            );
            assert_eq!(trailers, None);
        } else {
            let trailers = trailers.unwrap();
            assert_eq!(
                (trailers["grpc-status"].as_bytes(), &*body),
                (&b"0"[..], &b"pong"[..])
            );
            assert_eq!(trailers["my_key"], "kept");
            assert_eq!(trailers.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_client_that_is_silent_is_cut_only_before_the_answer() {
    let server = Server::new(Manner::PLAIN).await;
    let servers = format!(
        "servers = [\"h2c://{}\"]\n[timeouts]\nrequest_body = \"1s\"",
        server.addr
    );
    let site = Site::new(&servers, "").await;
    let client = site.http2().await;
    let mut answered = client
        .begin(client.request("POST", "/answered"))
        .await
        .unwrap();
    answered.outgoing.write_all(b"hello").await.unwrap();
    let (asked, mut answer) = server.asked().await.into_parts();
    let mut body = asked.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    let mut send = answer.send_response(ok(), false).unwrap();
    let (_, mut stream) = answered.answered().await.unwrap();

    // Another that begins later ends by the same timeout: so the first has outlived it.
    let silent = client
        .begin(client.request("POST", "/silent"))
        .await
        .unwrap();
    let (head, _stream) = soon("a refusal", silent.answered()).await.unwrap();
    assert_eq!(head.status(), 408);
    stream.outgoing.write_all(b"still here").await.unwrap();
    assert_eq!(
        soon("more", body.data()).await.unwrap().unwrap(),
        "still here"
    );
    send.send_data("so am I".into(), true).unwrap();
    let mut rest = Vec::new();
    let reading = stream.incoming.read_to_end(&mut rest);
    soon("the answer", reading).await.unwrap();
    assert_eq!(rest, b"so am I");
}
