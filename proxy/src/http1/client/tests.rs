//! A real client against a scripted upstream that records every byte it got.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::super::Framing;
use super::*;

const LIMITS: HeadLimits = HeadLimits {
    size: 1024,
    fields: 8,
};

fn get() -> RequestHead {
    RequestHead::new(&Method::GET, &["/x"], &HeaderMap::new(), None)
}

async fn answer<S, B>(
    connection: &mut Connection<S>,
    request: &RequestHead,
    upload: &mut Upload<B>,
) -> Result<Parts, Fault<B::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    connection.begin(request, upload);
    std::future::poll_fn(|cx| connection.poll_answer(upload, LIMITS, cx)).await
}

/// An answer that comes in the given pieces, one read each; then the end of the stream.
struct Script {
    pieces: VecDeque<Vec<u8>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came of an answer: its status, body and trailers, and whether the connection may go on; or
/// what was wrong.
type Outcome = Result<(u16, Vec<u8>, Vec<String>, bool), String>;

async fn read_answer(pieces: Vec<Vec<u8>>, request: RequestHead) -> Outcome {
    let mut connection = Connection::new(Script {
        pieces: pieces.into(),
        written: Arc::default(),
    });
    let mut upload = Upload::<Empty<Bytes>>::none();
    let parts = answer(&mut connection, &request, &mut upload)
        .await
        .map_err(|fault| fault.to_string())?;
    let mut body = connection.into_body(upload);
    let mut data = Vec::new();
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|fault| fault.to_string())?.into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers.extend(
                frame
                    .into_trailers()
                    .unwrap()
                    .iter()
                    .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())),
            ),
        }
    }
    let reusable = body.into_connection().is_some();
    Ok((parts.status.as_u16(), data, trailers, reusable))
}

async fn whole(answer: &str) -> Outcome {
    read_answer(vec![answer.as_bytes().to_vec()], get()).await
}

#[tokio::test]
async fn answers_that_are_understood() {
    for (answer, status, body, trailers, reusable) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            200,
            "hi",
            &[][..],
            true,
        ),
        (
            "HTTP/1.1 200\r\nContent-Length:\t2 \r\n\r\nhi",
            200,
            "hi",
            &[],
            true,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", &[], true),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            304,
            "",
            &[],
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nto the end",
            200,
            "to the end",
            &[],
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            200,
            "hi",
            &[],
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
            200,
            "",
            &[],
            false,
        ),
        // Bytes that nobody asked for.
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi!",
            200,
            "hi",
            &[],
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
            200,
            "abc0123456789",
            &[],
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1 \r\na\r\n00\r\nx: 1\r\ny:\r\n\r\n",
            200,
            "a",
            &["x: 1", "y: "],
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n.",
            200,
            ".",
            &[],
            true,
        ),
    ] {
        let trailers = trailers.iter().map(|line| (*line).to_owned()).collect();
        let expect = Ok((status, body.as_bytes().to_vec(), trailers, reusable));
        assert_eq!(whole(answer).await, expect, "{answer:?}");
    }
}

#[tokio::test]
async fn interim_answers_are_heard_before_the_one_that_counts() {
    let said = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\ncontent-length: 5\r\n\r\n\
                HTTP/1.1 199\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let mut connection = Connection::new(Script {
        pieces: [said.as_bytes().to_vec()].into(),
        written: Arc::default(),
    });
    let mut upload = Upload::<Full<Bytes>>::none();
    connection.begin(&get(), &mut upload);
    let mut heard = Vec::new();
    loop {
        let next = std::future::poll_fn(|cx| connection.poll_heard(&mut upload, LIMITS, cx)).await;
        match next.unwrap() {
            Heard::Interim(head) => heard.push((head.status.as_u16(), head.headers.len())),
            Heard::Answer(head) => {
                heard.push((head.status.as_u16(), head.headers.len()));
                break;
            }
        }
    }
    assert_eq!(heard, [(103, 2), (199, 0), (200, 1)]);
    assert!(connection.into_body(upload).into_connection().is_some());
}

#[tokio::test]
async fn answers_that_are_refused() {
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let long_name = "x".repeat(2000);
    let many = "a: b\r\n".repeat(9);
    let interims = "HTTP/1.1 100 Continue\r\n\r\n".repeat(17);
    for (answer, fault) in [
        (String::new(), "closed the connection"),
        (
            "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
            "closed the connection",
        ),
        ("ICY 200 OK\r\n\r\n".to_owned(), "status line"),
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), "status line"),
        ("HTTP/1.1  200 OK\r\n\r\n".to_owned(), "status line"),
        ("HTTP/1.1 200OK\r\n\r\n".to_owned(), "status line"),
        ("HTTP/2.0 200 OK\r\n\r\n".to_owned(), "status line"),
        ("HTTP/1.2 200 OK\r\n\r\n".to_owned(), "not HTTP/1"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n".to_owned(), "status line"),
        (
            "HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n".to_owned(),
            "bare_lf",
        ),
        (format!("{head}a: b\nc: d\r\n\r\n"), "bare_lf"),
        (format!("{head}a: b\rc: d\r\n\r\n"), "bare_cr"),
        (format!("{head}a: b\r\n c\r\n\r\n"), "folded_line"),
        (format!("{head}a : b\r\n\r\n"), "blank_before_colon"),
        (format!("{head}: b\r\n\r\n"), "bad_field_name"),
        (format!("{head}nocolon\r\n\r\n"), "no_colon"),
        (format!("{head}a: \0\r\n\r\n"), "control_byte"),
        (format!("{head}{long_name}: 1\r\n\r\n"), "head_too_large"),
        (format!("{head}{long_name}"), "head_too_large"),
        (format!("{head}{many}\r\n"), "too_many_fields"),
        (format!("{interims}{head}\r\n"), "too many interim"),
        (
            format!("{head}content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
            "in two ways",
        ),
        (
            format!("{head}content-length: 3, 3\r\n\r\nabc"),
            "in two ways",
        ),
        (
            format!("{head}content-length: +3\r\n\r\nabc"),
            "in two ways",
        ),
        (format!("{head}content-length:\r\n\r\n"), "in two ways"),
        (
            format!("{head}content-length: 99999999999999999999\r\n\r\n"),
            "in two ways",
        ),
        (
            format!("{head}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"),
            "in two ways",
        ),
        (
            format!("{head}transfer-encoding: gzip, chunked\r\n\r\n"),
            "in two ways",
        ),
        (
            format!("{head}transfer-encoding: identity\r\n\r\n"),
            "in two ways",
        ),
        (
            format!("{head}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n"),
            "in two ways",
        ),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "in two ways",
        ),
        (
            format!("{head}content-length: 3\r\n\r\nab"),
            "in the middle",
        ),
        (format!("{chunked}3\r\nab"), "in the middle"),
        (format!("{chunked}3\r\nabc\r\n0\r\n"), "in the middle"),
        (format!("{chunked}3\nabc\r\n0\r\n\r\n"), "bare_lf"),
        (format!("{chunked}3\r\nabcd\r\n0\r\n\r\n"), "bad_chunk_end"),
        (format!("{chunked}x\r\n"), "bad_chunk_size"),
        (format!("{chunked}\r\n"), "bad_chunk_size"),
        (format!("{chunked}0x3\r\nabc\r\n"), "bad_chunk_size"),
        (format!("{chunked}-1\r\n"), "bad_chunk_size"),
        (format!("{chunked}3 x\r\nabc\r\n"), "bad_chunk_size"),
        (format!("{chunked}11111111111111111\r\n"), "bad_chunk_size"),
        (
            format!("{chunked}3;{long_name}{long_name}{long_name}\r\nabc\r\n"),
            "chunk_extensions_too_long",
        ),
        (
            format!("{chunked}0\r\nbad trailer\r\n\r\n"),
            "blank_before_colon",
        ),
        (
            format!("{chunked}0\r\na: {}\r\n\r\n", "x".repeat(17_000)),
            "head_too_large",
        ),
    ] {
        let got = whole(&answer).await;
        let got = got.expect_err(&answer[..answer.len().min(80)]);
        assert!(
            got.contains(fault),
            "{:?}: {got}",
            &answer[..answer.len().min(80)]
        );
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let head = RequestHead::new(&Method::HEAD, &["/"], &HeaderMap::new(), None);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n".to_vec();
    let got = read_answer(vec![answer], head).await;
    assert_eq!(got, Ok((200, Vec::new(), Vec::new(), true)));
}

proptest! {
    /// However an answer is cut into reads, it means the same.
    #[test]
    fn pieces_do_not_matter(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in proptest::collection::vec(1_usize..9, 1..200),
    ) {
        let mut answer =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in &chunks {
            answer.extend_from_slice(format!("{:X};e\r\n", chunk.len()).as_bytes());
            answer.extend_from_slice(chunk);
            answer.extend_from_slice(b"\r\n");
        }
        answer.extend_from_slice(b"0\r\nt: v\r\n\r\n");
        let mut rest = answer.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = more;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let got = runtime.block_on(read_answer(pieces, get()));
        prop_assert_eq!(got, Ok((200, chunks.concat(), vec!["t: v".to_owned()], true)));
    }
}

/// Sends a request with a body to a script, and gives back what was written.
async fn written<B>(method: &Method, headers: &HeaderMap, framing: Framing, body: B) -> String
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let record: Arc<Mutex<Vec<u8>>> = Arc::default();
    let mut connection = Connection::new(Script {
        pieces: [b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()].into(),
        written: Arc::clone(&record),
    });
    let head = RequestHead::new(method, &["/p", "?", "q"], headers, Some(framing));
    let mut upload = Upload::of(body, framing);
    let parts = answer(&mut connection, &head, &mut upload).await.unwrap();
    assert_eq!(parts.status, StatusCode::NO_CONTENT);
    assert!(upload.is_finished());
    let bytes = record.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn requests_on_the_wire() {
    let mut headers = HeaderMap::new();
    headers.insert("host", "h".parse().unwrap());
    headers.insert("content-length", "999".parse().unwrap());
    headers.append("x-a", "1".parse().unwrap());
    headers.append("x-a", "2".parse().unwrap());
    assert_eq!(
        written(
            &Method::PUT,
            &headers,
            Framing::Length(5),
            Full::from("hello")
        )
        .await,
        "PUT /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\n\r\nhello"
    );
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", "7".parse().unwrap());
    let frames = [
        Frame::data(Bytes::from_static(b"0123456789abcdef")),
        Frame::data(Bytes::new()),
        Frame::data(Bytes::from_static(b"!")),
        Frame::trailers(trailers),
    ];
    let frames = frames.into_iter().map(Ok::<_, Infallible>);
    let body = StreamBody::new(futures_util::stream::iter(frames));
    assert_eq!(
        written(&Method::POST, &HeaderMap::new(), Framing::Chunked, body).await,
        "POST /p?q HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n1\r\n!\r\n0\r\nsum: 7\r\n\r\n"
    );
    let body = StreamBody::new(futures_util::stream::empty::<
        Result<Frame<Bytes>, Infallible>,
    >());
    assert_eq!(
        written(&Method::GET, &HeaderMap::new(), Framing::Chunked, body).await,
        "GET /p?q HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    );
}

/// A connection, and the server's end of it.
fn pair() -> (Connection<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    (Connection::new(near), far)
}

async fn read_head(server: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(server.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn one_connection_carries_one_request_after_another() {
    let (mut connection, mut server) = pair();
    for body in ["one", "two"] {
        assert!(connection.is_quiet());
        let mut upload = Upload::<Empty<Bytes>>::none();
        let request = get();
        let asked = answer(&mut connection, &request, &mut upload);
        let served = async {
            assert_eq!(read_head(&mut server).await, "GET /x HTTP/1.1\r\n\r\n");
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}");
            server.write_all(text.as_bytes()).await.unwrap();
        };
        let (parts, ()) = tokio::join!(asked, served);
        assert_eq!(parts.unwrap().headers["content-length"], "3");
        let mut response = connection.into_body(upload);
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), body);
        assert!(response.is_end_stream());
        connection = response.into_connection().unwrap();
    }
    drop(server);
    assert!(!connection.is_quiet());
}

#[tokio::test]
async fn how_far_a_failed_request_got() {
    for (answers, expect) in [("", Progress::Sent), ("HTTP/1.1 2", Progress::Answered)] {
        let (mut connection, mut server) = pair();
        let mut upload = Upload::<Empty<Bytes>>::none();
        let request = get();
        let asked = answer(&mut connection, &request, &mut upload);
        let served = async {
            read_head(&mut server).await;
            server.write_all(answers.as_bytes()).await.unwrap();
            drop(server);
        };
        let (fault, ()) = tokio::join!(asked, served);
        assert!(matches!(fault, Err(Fault::Closed)));
        assert_eq!(connection.progress(), expect);
    }
    let (mut connection, server) = pair();
    drop(server);
    let mut upload = Upload::<Empty<Bytes>>::none();
    let fault = answer(&mut connection, &get(), &mut upload).await;
    assert!(matches!(fault, Err(Fault::Io(_))));
    assert_eq!(connection.progress(), Progress::Nothing);
    // The same upload then goes out whole on another connection.
    let (mut connection, mut server) = pair();
    let request = get();
    let asked = answer(&mut connection, &request, &mut upload);
    let served = async {
        assert_eq!(read_head(&mut server).await, "GET /x HTTP/1.1\r\n\r\n");
        server
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
    };
    let (parts, ()) = tokio::join!(asked, served);
    assert_eq!(parts.unwrap().status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn an_upgraded_stream_comes_with_its_early_bytes() {
    let (mut connection, mut server) = pair();
    server
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nearly")
        .await
        .unwrap();
    let mut upload = Upload::<Empty<Bytes>>::none();
    let parts = answer(&mut connection, &get(), &mut upload).await.unwrap();
    assert_eq!(parts.status, StatusCode::SWITCHING_PROTOCOLS);
    let (_stream, early) = connection.into_upgraded();
    assert_eq!(early, "early");
}

/// The answer's head and body come while the request's body is still under way: both go on.
#[tokio::test]
async fn an_answer_may_overtake_its_request() {
    let (mut connection, mut server) = pair();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        let data = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(data)), receiver))
    });
    let mut upload = Upload::of(StreamBody::new(Box::pin(frames)), Framing::Chunked);
    let request = RequestHead::new(
        &Method::POST,
        &["/"],
        &HeaderMap::new(),
        Some(Framing::Chunked),
    );
    let asked = answer(&mut connection, &request, &mut upload);
    let served = async {
        read_head(&mut server).await;
        server
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
            .await
            .unwrap();
    };
    let (parts, ()) = tokio::join!(asked, served);
    parts.unwrap();
    let mut response = connection.into_body(upload);
    let first = response.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "a");
    sender.send(Bytes::from_static(b"late")).await.unwrap();
    let mut got = [0; 9];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"4\r\nlate\r\n");
    drop(sender);
    let mut end = [0; 5];
    server.read_exact(&mut end).await.unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    server.write_all(b"b").await.unwrap();
    let last = response.frame().await.unwrap().unwrap();
    assert_eq!(last.into_data().unwrap(), "b");
    // Two tasks have held it.
    assert!(response.into_connection().is_none());
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}

/// An answer that is over ends its request: nobody waits for the rest of it.
#[tokio::test]
async fn a_request_does_not_outlive_its_answer() {
    let (mut connection, mut server) = pair();
    let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let mut upload = Upload::of(StreamBody::new(frames), Framing::Length(9));
    let request = RequestHead::new(
        &Method::POST,
        &["/"],
        &HeaderMap::new(),
        Some(Framing::Length(9)),
    );
    server
        .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    answer(&mut connection, &request, &mut upload)
        .await
        .unwrap();
    drop(connection.into_body(upload));
    read_head(&mut server).await;
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
}
