//! A real connection over a stream that brings bytes in pieces of any size.

mod answers;

use std::future::poll_fn;

use http::StatusCode;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::Violation::*;
use super::*;

const LIMITS: HeadLimits = HeadLimits {
    size: 8192,
    fields: 10,
};

/// What a server made of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    /// Method, target and body of every request whose body arrived whole.
    requests: Vec<(String, Vec<u8>)>,
    /// Of the head or the body that ended it.
    violation: Option<Violation>,
    /// The client's stream ended in the middle of something.
    cut: bool,
    /// The status codes, in their order.
    statuses: Vec<u16>,
}

async fn serve_pieces(bytes: &[u8], piece: usize) -> Served {
    let (mut client, server) = duplex(64 * 1024);
    let talk = async {
        for piece in bytes.chunks(piece) {
            // A refused stream may already be closed.
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (mut served, answer) = tokio::join!(serve_all(server), talk);
    let starts = answer.match_indices("HTTP/1.1 ");
    served.statuses = starts
        .filter_map(|(at, _)| answer[at + 9..at + 12].parse().ok())
        .collect();
    served
}

async fn serve_all(stream: DuplexStream) -> Served {
    let mut connection = Connection::new(stream, LIMITS);
    let mut served = Served {
        requests: Vec::new(),
        violation: None,
        cut: false,
        statuses: Vec::new(),
    };
    loop {
        let mut response = Response::new(Full::<Bytes>::default());
        match poll_fn(|cx| connection.poll_request(cx)).await {
            Ok(None) => break,
            Err(Fault::Io(_)) => {
                served.cut = true;
                break;
            }
            Err(Fault::Http2) => unreachable!("it was not asked to tell"),
            Err(Fault::Refused(violation)) => {
                served.violation = Some(violation);
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            Ok(Some(request)) => {
                let (parts, body) = request.into_parts();
                match body.collect().await {
                    Ok(body) => served.requests.push((
                        format!("{} {}", parts.method, parts.uri),
                        body.to_bytes().into(),
                    )),
                    Err(fault) => {
                        match fault {
                            BodyFault::Malformed(violation) => served.violation = Some(violation),
                            _ => served.cut = true,
                        }
                        *response.status_mut() = StatusCode::BAD_REQUEST;
                    }
                }
            }
        }
        let mut answer = connection.begin_answer(response);
        let written = poll_fn(|cx| connection.poll_answer(&mut answer, cx)).await;
        if written.is_err() || !connection.may_go_on(&answer) {
            break;
        }
    }
    let _ = poll_fn(|cx| connection.poll_shutdown(cx)).await;
    served
}

fn serve(bytes: &[u8], piece: usize) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(serve_pieces(bytes, piece))
}

/// Whatever the pieces, the stream is fine, or refused for this.
fn check(bytes: impl AsRef<[u8]>, expect: Result<(), Violation>) {
    let bytes = bytes.as_ref();
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let whole = serve(bytes, bytes.len());
    assert_eq!(whole.violation, expect.err(), "{shown:?}");
    if expect.is_err() {
        assert_eq!(whole.statuses, [400], "{shown:?}");
        assert_eq!(whole.requests, [], "{shown:?}");
    }
    for piece in [1, 2, 3, 7] {
        assert_eq!(serve(bytes, piece), whole, "{shown:?} in pieces of {piece}");
    }
}

fn head(fields: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    head("Transfer-Encoding: chunked\r\n") + body
}

#[test]
fn what_is_fine() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(()));
    check("\r\nGET / HTTP/1.0\r\n\r\n", Ok(()));
    check("GET / HTTP/1.1\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Ok(()));
    check(
        "OPTIONS * HTTP/1.1\r\nEmpty:\r\nBlank: \t \r\nT:\ta b\t\r\n\r\n",
        Ok(()),
    );
    check(
        b"GET http://a/\"?q={} HTTP/1.1\r\nName: caf\xc3\xa9\r\n\r\n",
        Ok(()),
    );
    check(
        head("Content-Length: 3\r\n") + "\n\0\rGET / HTTP/1.1\r\n\r\n",
        Ok(()),
    );
    check(
        head("content-LENGTH:  3\t\r\n") + "abcGET / HTTP/1.1\r\n\r\n",
        Ok(()),
    );
    check(head("Content-Length: 9223372036854775807\r\n"), Ok(()));
    check(chunked("0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok(()));
    check(
        chunked("3\r\n\r\n\n\r\nA;x=\"y\"\r\n0123456789\r\n00\r\nT: x\r\n\r\n"),
        Ok(()),
    );
    for extension in [
        " ; a",
        "\t;\ta = b ; c",
        ";a;b=c;d=\"\"",
        ";a=\"x;\\\"\\y\u{e9}\t\"\t;b",
    ] {
        check(chunked(&format!("1{extension}\r\nx\r\n0\r\n\r\n")), Ok(()));
    }
    check(chunked("ffffffffffffffff\r\nx"), Ok(()));
    check(head("Transfer-Encoding: \tCHUNKED \r\n"), Ok(()));
}

#[test]
fn request_lines() {
    for (bytes, violation) in [
        ("\r\n\r\nGET / HTTP/1.1\r\n", BadMethod),
        ("\nGET / HTTP/1.1\r\n", BadMethod),
        ("\rGET / HTTP/1.1\r\n", BadMethod),
        (" GET / HTTP/1.1\r\n", BadMethod),
        ("\0GET / HTTP/1.1\r\n", BadMethod),
        ("G\0ET / HTTP/1.1\r\n", BadMethod),
        ("GE:T / HTTP/1.1\r\n", BadMethod),
        ("\x16\x03\x01\x02", BadMethod),
        ("GET\t/ HTTP/1.1\r\n", BadMethod),
        ("GET  / HTTP/1.1\r\n", BadTarget),
        ("GET /a\0 HTTP/1.1\r\n", BadTarget),
        ("GET /a\x7f HTTP/1.1\r\n", BadTarget),
        ("GET /caf\u{e9} HTTP/1.1\r\n", BadTarget),
        ("GET /\tHTTP/1.1\r\n", BadTarget),
        ("GET /#x HTTP/1.1\r\n", Fragment),
        ("GET /?a#x HTTP/1.1\r\n", Fragment),
        ("GET /\r\n", BadVersion),
        ("GET /\n", BareLf),
        ("GET / \r\n", BadVersion),
        ("GET / HTTP/1.2\r\n", UnsupportedVersion),
        ("GET / HTTP/0.9\r\n", UnsupportedVersion),
        ("GET / HTTP/2.0\r\n", UnsupportedVersion),
        ("GET / HTTP/1\r\n", BadVersion),
        ("GET / HTTP/01.1\r\n", BadVersion),
        ("GET / HTTP/ 1.1\r\n", BadVersion),
        ("GET / http/1.1\r\n", BadVersion),
        ("GET / HTTP/1.1 \r\n", BadVersion),
        ("GET / HTTP/1.10\r\n", BadVersion),
        ("GET /  HTTP/1.1\r\n", BadVersion),
        ("GET / HTTP/1.1\n", BareLf),
        ("GET / HTTP/1.1\rHost: a\r\n", BareCr),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", UnsupportedVersion),
    ] {
        check(bytes, Err(violation));
    }
    check("A".repeat(32) + " / HTTP/1.1\r\n\r\n", Ok(()));
    check("A".repeat(33), Err(MethodTooLong));
}

#[test]
fn field_lines() {
    for (fields, violation) in [
        ("X: a\nY: b\r\n", BareLf),
        ("X: a\rY: b\r\n", BareCr),
        ("X: a\r\r\n", BareCr),
        ("X: a\r\n\n", BareLf),
        ("X: a\r\n\rx", BareCr),
        ("X: a\0b\r\n", ControlByte),
        ("X: a\x01\r\n", ControlByte),
        ("X: a\x0b\r\n", ControlByte),
        ("X: a\x7f\r\n", ControlByte),
        ("X : a\r\n", BlankBeforeColon),
        ("X\t: a\r\n", BlankBeforeColon),
        ("X: a\r\n b\r\n", FoldedLine),
        ("X: a\r\n\tb\r\n", FoldedLine),
        ("NoColon\r\n", NoColon),
        ("NoColon\n", BareLf),
        (": a\r\n", BadFieldName),
        ("X\0: a\r\n", BadFieldName),
        ("X(y): a\r\n", BadFieldName),
        ("\u{e9}: a\r\n", BadFieldName),
        ("\0\r\n", BadFieldName),
    ] {
        check(head(fields), Err(violation));
    }
    check("GET / HTTP/1.1\r\n Host: a\r\n", Err(FoldedLine));
}

#[test]
fn framing_fields() {
    for (fields, violation) in [
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            LengthAndEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            LengthAndEncoding,
        ),
        (
            "Content-Length: 0\r\nX: y\r\nTransfer-Encoding: chunked\r\n",
            LengthAndEncoding,
        ),
        (
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            RepeatedContentLength,
        ),
        (
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            RepeatedContentLength,
        ),
        ("Content-Length: 1, 1\r\n", BadContentLength),
        ("Content-Length: +1\r\n", BadContentLength),
        ("Content-Length: -1\r\n", BadContentLength),
        ("Content-Length: 0x1\r\n", BadContentLength),
        ("Content-Length: a\r\n", BadContentLength),
        ("Content-Length: 1 1\r\n", BadContentLength),
        ("Content-Length: 1.0\r\n", BadContentLength),
        ("Content-Length:\r\n", BadContentLength),
        ("Content-Length:  \r\n", BadContentLength),
        ("Content-Length: 10000000000000000000\r\n", BadContentLength),
        ("Content-Length: 01\r\n", BadContentLength),
        ("Content-Length: 00\r\n", BadContentLength),
        ("Transfer-Encoding: gzip\r\n", BadTransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", BadTransferEncoding),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            BadTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n",
            BadTransferEncoding,
        ),
        ("Transfer-Encoding: identity\r\n", BadTransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", BadTransferEncoding),
        ("Transfer-Encoding: chunked;x\r\n", BadTransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", BadTransferEncoding),
        ("Transfer-Encoding: chunked,\r\n", BadTransferEncoding),
        ("Transfer-Encoding:\r\n", BadTransferEncoding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            BadTransferEncoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            BadTransferEncoding,
        ),
        ("Transfer-Encoding:\r\n chunked\r\n", FoldedLine),
        ("Transfer-Encoding: \x0bchunked\r\n", ControlByte),
    ] {
        check(head(fields), Err(violation));
    }
    check(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Err(BadTransferEncoding),
    );
}

#[test]
fn chunk_lines_and_trailers() {
    for (body, violation) in [
        ("3\nabc\r\n", BareLf),
        ("3\rabc\r\n", BareCr),
        ("3\r\nabc\n0\r\n\r\n", BadChunkEnd),
        ("3\r\nabc\r0\r\n\r\n", BadChunkEnd),
        ("3\r\nabcd\r\n", BadChunkEnd),
        ("3\r\nabc0\r\n\r\n", BadChunkEnd),
        ("0x3\r\n", BadChunkSize),
        ("+3\r\n", BadChunkSize),
        ("-3\r\n", BadChunkSize),
        (" 3\r\n", BadChunkSize),
        ("3 \r\n", BadChunkSize),
        ("3 3\r\n", BadChunkSize),
        ("g\r\n", BadChunkSize),
        ("\r\n", BadChunkSize),
        (";x\r\n", BadChunkSize),
        ("10000000000000000\r\n", BadChunkSize),
        ("00000000000000003\r\n", BadChunkSize),
        ("3;a\nabc\r\n", BareLf),
        ("3;a\rabc\r\n", BareCr),
        ("3;a\0\r\n", BadChunkExtension),
        ("3;a\x01\r\n", BadChunkExtension),
        ("3;\x7f\r\n", BadChunkExtension),
        ("3;\r\n", BadChunkExtension),
        ("3; \r\n", BadChunkExtension),
        ("3;;a\r\n", BadChunkExtension),
        ("3;=b\r\n", BadChunkExtension),
        ("3;a=\r\n", BadChunkExtension),
        ("3;a b\r\n", BadChunkExtension),
        ("3;a \r\n", BadChunkExtension),
        ("3;a=b c\r\n", BadChunkExtension),
        ("3;a=b \r\n", BadChunkExtension),
        ("3;a=b=c\r\n", BadChunkExtension),
        ("3;a=\"b\r\n", BadChunkExtension),
        ("3;a=\"b\\\"\r\n", BadChunkExtension),
        ("3;a=\"b\"c\r\n", BadChunkExtension),
        ("3;a=\"\x01\"\r\n", BadChunkExtension),
        ("3;[\r\n", BadChunkExtension),
        ("3;\u{e9}\r\n", BadChunkExtension),
        ("3,a\r\n", BadChunkSize),
        ("0;\r\n\r\n", BadChunkExtension),
        ("0\n\r\n", BareLf),
        ("0\r\n\n", BareLf),
        ("0\r\nT: a\n\r\n", BareLf),
        ("0\r\nT : a\r\n\r\n", BlankBeforeColon),
        ("0\r\nNo colon\r\n\r\n", BlankBeforeColon),
        ("0\r\nNoColon\r\n\r\n", NoColon),
        ("0\r\n folded: a\r\n\r\n", FoldedLine),
        ("0\r\nContent-Length: 1\r\n\r\n", FramingInTrailers),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", FramingInTrailers),
        ("0\r\nT: a\r\nhost: a\r\n\r\n", HeadFieldInTrailers),
        ("0\r\nAuthorization: a\r\n\r\n", HeadFieldInTrailers),
        ("0\r\nContent-Type: a/b\r\n\r\n", HeadFieldInTrailers),
    ] {
        check(chunked(body), Err(violation));
    }
    let extension = |length: usize| format!("1;{}\r\nx\r\n", "e".repeat(length - 1));
    check(chunked(&extension(4096)), Ok(()));
    check(chunked(&extension(4097)), Err(ChunkExtensionsTooLong));
    check(
        chunked(&extension(1025).repeat(4)),
        Err(ChunkExtensionsTooLong),
    );
    check(
        chunked(&("1".to_owned() + &" ".repeat(5000))),
        Err(ChunkExtensionsTooLong),
    );
    check(
        chunked(&("0\r\n".to_owned() + &"T: a\r\n".repeat(10) + "\r\n")),
        Ok(()),
    );
    check(
        chunked(&("0\r\n".to_owned() + &"T: a\r\n".repeat(11) + "\r\n")),
        Err(TooManyFields),
    );
    check(
        chunked(&("0\r\nT: ".to_owned() + &"a".repeat(9000))),
        Err(HeadTooLarge),
    );
}

#[test]
fn limits() {
    let sized = |size: usize| {
        let start = "GET / HTTP/1.1\r\nX: ";
        format!("{start}{}\r\n\r\n", "a".repeat(size - start.len() - 4))
    };
    check(sized(8192), Ok(()));
    check(sized(8192).repeat(3), Ok(()));
    check(sized(8193), Err(HeadTooLarge));
    check("GET /".to_owned() + &"a".repeat(9000), Err(TargetTooLong));
    let long_line = |target: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(target));
    check(long_line(8192 - 18), Ok(()));
    check(long_line(8192 - 17), Err(HeadTooLarge));
    check(long_line(8192 - 15), Err(TargetTooLong));
    check(long_line(9000), Err(TargetTooLong));
    check("GET / ".to_owned() + &"a".repeat(9000), Err(BadVersion));
    check(head("Y: b\r\n".repeat(9).as_str()), Ok(()));
    check(head("Y: b\r\n".repeat(10).as_str()), Err(TooManyFields));
}

#[test]
fn earlier_requests_are_answered_before_a_refused_one() {
    for fault in [
        "\0",
        "GET / HTTP/1.1\n",
        "\r\nGET / HTTP/1.1\r\nX : y\r\n\r\n",
    ] {
        let bytes = head("Content-Length: 2\r\n") + "ab" + &chunked("1\r\nc\r\n0\r\n\r\n") + fault;
        for piece in [1, bytes.len()] {
            let served = serve(bytes.as_bytes(), piece);
            assert_eq!(served.statuses, [200, 200, 400], "{fault:?}");
            let bodies: Vec<&[u8]> = served.requests.iter().map(|(_, body)| &body[..]).collect();
            assert_eq!(bodies, [&b"ab"[..], b"c"]);
        }
    }
}

#[test]
fn what_is_cut_off_is_no_request() {
    for bytes in [
        "GET / HT".to_owned(),
        head("")[..20].to_owned(),
        head("Content-Length: 3\r\n") + "ab",
        chunked("1\r\na"),
        chunked("1\r\na\r\n0\r\n"),
    ] {
        for piece in [1, bytes.len()] {
            let served = serve(bytes.as_bytes(), piece);
            assert!(served.cut, "{bytes:?}");
            assert_eq!(served.requests, [], "{bytes:?}");
        }
    }
}

/// Requests that are fine, with the bodies they carry.
fn valid_request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let fields = proptest::collection::vec("[A-Wa-w][a-z-]{0,8}: ?[!-~ \t]{0,20}\r\n", 0..5);
    let body = proptest::collection::vec(any::<u8>(), 0..50);
    (fields, body, any::<bool>(), 1_usize..20).prop_map(|(fields, body, chunked, size)| {
        let mut bytes = b"POST /x HTTP/1.1\r\nHost: a\r\n".to_vec();
        for field in fields {
            bytes.extend_from_slice(b"X-");
            bytes.extend_from_slice(field.as_bytes());
        }
        if chunked {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(size) {
                bytes.extend_from_slice(format!("{:X};e=1\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nT: x\r\n\r\n");
        } else {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        }
        (bytes, body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cutting_changes_nothing(
        requests in proptest::collection::vec(valid_request(), 1..3),
        flip in any::<proptest::sample::Index>(),
        byte in proptest::sample::select(&b"\0\r\n :;a0\x80"[..]),
        piece in 1_usize..30,
    ) {
        let mut bytes: Vec<u8> = requests.into_iter().flat_map(|(bytes, _)| bytes).collect();
        let at = flip.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(serve(&bytes, piece), serve(&bytes, bytes.len()));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        prop_assert_eq!(serve(&bytes, 3), serve(&bytes, bytes.len()));
    }

    #[test]
    fn valid_requests_arrive_intact(
        requests in proptest::collection::vec(valid_request(), 1..4),
        piece in 1_usize..100,
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let served = serve(&bytes, piece);
        prop_assert_eq!(served.violation, None);
        let got: Vec<Vec<u8>> = served.requests.into_iter().map(|(_, body)| body).collect();
        let sent: Vec<Vec<u8>> = requests.into_iter().map(|(_, body)| body).collect();
        prop_assert_eq!(got, sent);
    }
}
