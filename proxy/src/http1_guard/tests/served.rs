//! What hyper's real server makes of a guarded stream.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// One run of hyper's server over a guarded stream.
struct Served {
    answer: String,
    /// Path and body of every request whose body arrived whole.
    requests: Vec<(String, Bytes)>,
    violation: Option<Violation>,
}

impl Served {
    fn statuses(&self) -> Vec<u16> {
        let starts = self.answer.match_indices("HTTP/1.1 ");
        starts
            .filter_map(|(at, _)| self.answer[at + 9..at + 12].parse().ok())
            .collect()
    }
}

fn serve(bytes: &[u8], piece: usize) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(serve_async(bytes, piece))
}

async fn serve_async(bytes: &[u8], piece: usize) -> Served {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let guard = Guard::new(server, LIMITS);
    let handle = guard.handle();
    let requests = Mutex::new(Vec::new());
    let service = service_fn(async |request: Request<Incoming>| {
        let path = request.uri().to_string();
        let mut response = Response::new(Full::new(Bytes::new()));
        match request.into_body().collect().await {
            Ok(body) => requests.lock().unwrap().push((path, body.to_bytes())),
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .max_headers(LIMITS.head_fields)
        .max_header_size(LIMITS.head_size)
        .serve_connection(TokioIo::new(guard), service);
    let talk = async {
        for piece in bytes.chunks(piece) {
            // A refused stream may already be closed.
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let (_, answer) = tokio::join!(connection, talk);
    Served {
        answer,
        requests: requests.into_inner().unwrap(),
        violation: handle.violation(),
    }
}

#[test]
fn hyper_refuses_a_poisoned_head() {
    for (bytes, violation, status) in [
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), BadMethod, 400),
        (
            "A".repeat(40) + " / HTTP/1.1\r\nHost: a\r\n\r\n",
            MethodTooLong,
            400,
        ),
        (
            "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            Fragment,
            400,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), BareLf, 400),
        ("GET / HTTP/1.1\r\nHost: a\n\n".to_owned(), BareLf, 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(), BareLf, 400),
        ("GET / HTTP/1.1\r\n\n".to_owned(), BareLf, 400),
        (
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(),
            BadVersion,
            400,
        ),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            BadVersion,
            400,
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            BadVersion,
            400,
        ),
        (head("X: a\0\r\n"), ControlByte, 400),
        (head("X : a\r\n"), BlankBeforeColon, 400),
        (head("X: a\r\n b\r\n"), FoldedLine, 400),
        (head("X\r\n"), NoColon, 400),
        (
            head("Content-Length: 1\r\nContent-Length: 1\r\n") + "x",
            RepeatedContentLength,
            400,
        ),
        (
            head("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            LengthAndEncoding,
            400,
        ),
        (
            head("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            LengthAndEncoding,
            400,
        ),
        (
            head("Transfer-Encoding: gzip, chunked\r\n"),
            BadTransferEncoding,
            400,
        ),
        (head(&"X: a\r\n".repeat(10)), TooManyFields, 431),
        (
            head(&format!("X: {}\r\n", "a".repeat(9000))),
            HeadTooLarge,
            431,
        ),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)),
            HeadTooLarge,
            431,
        ),
    ] {
        for piece in [1, 10, bytes.len()] {
            let served = serve(bytes.as_bytes(), piece);
            let shown = &bytes[..bytes.len().min(60)];
            assert_eq!(
                served.statuses(),
                [status],
                "{shown:?} in pieces of {piece}"
            );
            assert_eq!(served.requests, [], "{shown:?}");
            assert_eq!(served.violation, Some(violation), "{shown:?}");
        }
    }
}

#[test]
fn earlier_requests_are_answered_before_a_poisoned_one() {
    for fault in [
        "\0",
        "GET / HTTP/1.1\n",
        "\r\nGET / HTTP/1.1\r\nX : y\r\n\r\n",
    ] {
        let bytes = head("Content-Length: 2\r\n") + "ab" + &chunked("1\r\nc\r\n0\r\n\r\n") + fault;
        for piece in [1, bytes.len()] {
            let served = serve(bytes.as_bytes(), piece);
            assert_eq!(
                served.statuses(),
                [200, 200, 400],
                "{fault:?} in pieces of {piece}"
            );
            let bodies: Vec<&[u8]> = served.requests.iter().map(|(_, body)| &body[..]).collect();
            assert_eq!(bodies, [&b"ab"[..], b"c"]);
        }
    }
}

#[test]
fn a_fault_in_a_body_is_a_read_error() {
    for body in [
        "2\r\nab\r\n3\nabc\r\n0\r\n\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        "0\r\n\n",
        "1\r\nab",
    ] {
        let bytes = chunked(body) + "GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
        for piece in [1, bytes.len()] {
            let served = serve(bytes.as_bytes(), piece);
            assert_eq!(served.requests, [], "{body:?}");
            assert_eq!(served.statuses(), [400], "{body:?}");
            assert!(served.violation.is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn valid_requests_reach_hyper_intact(
        requests in proptest::collection::vec(valid_request(), 1..4),
        piece in 1_usize..100,
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let served = serve(&bytes, piece);
        prop_assert_eq!(served.violation, None);
        let got: Vec<Vec<u8>> = served.requests.iter().map(|(_, body)| body.to_vec()).collect();
        let sent: Vec<Vec<u8>> = requests.into_iter().map(|(_, body)| body).collect();
        prop_assert_eq!(got, sent);
    }
}
