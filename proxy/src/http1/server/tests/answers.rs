//! What a client gets, and what becomes of its connection.

use std::convert::Infallible;
use std::future::poll_fn;

use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::*;
use super::LIMITS;

/// A connection, and the client's end of it.
fn pair() -> (Connection<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(256 * 1024);
    (Connection::new(near, LIMITS), far)
}

async fn next_request(
    connection: &mut Connection<DuplexStream>,
) -> Request<RequestBody<DuplexStream>> {
    let request = poll_fn(|cx| connection.poll_request(cx)).await;
    request.unwrap().unwrap()
}

/// What a response looks like to the client of this request, but for its date.
async fn answered<B>(request: &str, response: Response<B>) -> (String, bool)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut connection, mut client) = pair();
    client.write_all(request.as_bytes()).await.unwrap();
    drop(next_request(&mut connection).await);
    let mut answer = connection.begin_answer(response);
    let written = poll_fn(|cx| connection.poll_answer(&mut answer, cx)).await;
    let goes_on = written.is_ok() && connection.may_go_on(&answer);
    drop(connection);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    let lines = text.split_inclusive("\r\n");
    let dates = lines.clone().filter(|line| line.starts_with("date: "));
    assert!(dates.map(str::len).eq([37]), "{text}");
    let rest = lines.filter(|line| !line.starts_with("date: ")).collect();
    (rest, goes_on)
}

fn frames(frames: Vec<Frame<Bytes>>) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    StreamBody::new(futures_util::stream::iter(
        frames.into_iter().map(Ok::<_, Infallible>),
    ))
}

fn pieces() -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("sum", "7".parse().unwrap());
    frames(vec![
        Frame::data(Bytes::from_static(b"0123456789abcdef")),
        Frame::data(Bytes::new()),
        Frame::data(Bytes::from_static(b"!")),
        Frame::trailers(trailers),
    ])
}

#[tokio::test]
async fn answers_on_the_wire() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    let response = |status: u16| Response::builder().status(status);
    let hello = || Full::from("hello");
    for (request, response, text, goes_on) in [
        (
            get,
            response(200)
                .header("x-a", "1")
                .header("content-length", "99")
                .header("transfer-encoding", "gzip"),
            "200 OK\r\nx-a: 1\r\ncontent-length: 5\r\n\r\nhello",
            true,
        ),
        (
            get,
            response(200).header("connection", "x, Close"),
            "200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            false,
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            response(404),
            "404 Not Found\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            false,
        ),
        (
            old,
            response(200),
            "200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            false,
        ),
        (
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            response(200),
            "200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello",
            true,
        ),
        (
            "HEAD / HTTP/1.1\r\n\r\n",
            response(200).header("content-length", "7"),
            "200 OK\r\ncontent-length: 7\r\n\r\n",
            true,
        ),
        (get, response(204), "204 No Content\r\n\r\n", true),
        (
            "HEAD / HTTP/1.1\r\n\r\n",
            response(204).header("content-length", "0"),
            "204 No Content\r\n\r\n",
            true,
        ),
        (
            get,
            response(426).header("upgrade", "websocket"),
            "426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 5\r\n\
             connection: upgrade\r\n\r\nhello",
            true,
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
            response(426).header("upgrade", "websocket"),
            "426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 5\r\n\
             connection: close, upgrade\r\n\r\nhello",
            false,
        ),
        (
            get,
            response(304).header("content-length", "7"),
            "304 Not Modified\r\n\r\n",
            true,
        ),
        (
            get,
            response(101).header("connection", "upgrade"),
            "101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
            true,
        ),
        (
            get,
            response(799),
            "799 \r\ncontent-length: 5\r\n\r\nhello",
            true,
        ),
    ] {
        let got = answered(request, response.body(hello()).unwrap()).await;
        assert_eq!(got, (format!("HTTP/1.1 {text}"), goes_on), "{request:?}");
    }
    let chunks = "10\r\n0123456789abcdef\r\n1\r\n!\r\n0\r\nsum: 7\r\n\r\n";
    for (request, text, goes_on) in [
        (
            get,
            format!("transfer-encoding: chunked\r\n\r\n{chunks}"),
            true,
        ),
        (
            old,
            "connection: close\r\n\r\n0123456789abcdef!".to_owned(),
            false,
        ),
    ] {
        let got = answered(request, Response::new(pieces())).await;
        assert_eq!(got, (format!("HTTP/1.1 200 OK\r\n{text}"), goes_on));
    }
    let (text, goes_on) = answered(get, Response::new(frames(Vec::new()))).await;
    assert!(text.ends_with("\r\n\r\n0\r\n\r\n") && goes_on, "{text}");
}

/// Large pieces, a client that takes them as it likes, and the last chunk behind them.
#[tokio::test]
async fn a_slow_client_gets_every_byte() {
    let body: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let data = body.chunks(70_001).map(Bytes::copy_from_slice);
    let (near, mut client) = duplex(1000);
    let mut connection = Connection::new(near, LIMITS);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(next_request(&mut connection).await);
    let mut answer =
        connection.begin_answer(Response::new(frames(data.map(Frame::data).collect())));
    let writing = async move {
        poll_fn(|cx| connection.poll_answer(&mut answer, cx))
            .await
            .unwrap();
        assert!(connection.may_go_on(&answer));
    };
    let mut text = Vec::new();
    let (_, read) = tokio::join!(writing, client.read_to_end(&mut text));
    read.unwrap();
    let mut got = Vec::new();
    let start = memchr::memmem::find(&text, b"\r\n\r\n").unwrap() + 4;
    let mut rest = &text[start..];
    loop {
        let line = memchr::memchr(b'\n', rest).unwrap();
        let size = std::str::from_utf8(&rest[..line - 1]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        got.extend_from_slice(&rest[line + 1..line + 1 + size]);
        rest = &rest[line + 1 + size + 2..];
        if size == 0 {
            break;
        }
    }
    assert!(rest.is_empty() && got == body);
}

/// A body that does not keep its word: the client must see that it did not get all.
#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_connection() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, &str>>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let data = receiver.recv().await?;
        Some((data.map(Frame::data), receiver))
    });
    let (mut connection, mut client) = pair();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(next_request(&mut connection).await);
    let mut answer = connection.begin_answer(Response::new(StreamBody::new(Box::pin(stream))));
    sender.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    let failing = async {
        let mut buf = vec![0; 1000];
        let mut n = 0;
        while !buf[..n].ends_with(b"4\r\nhalf\r\n") {
            n += client.read(&mut buf[n..]).await.unwrap();
        }
        sender.send(Err("broken")).await.unwrap();
    };
    let writing = poll_fn(|cx| connection.poll_answer(&mut answer, cx));
    let (written, ()) = tokio::join!(writing, failing);
    assert!(written.is_err());
    // What was there before goes out, if it is only the head.
    let (mut connection, mut client) = pair();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(next_request(&mut connection).await);
    let broken = futures_util::stream::iter([Err::<Frame<Bytes>, _>("broken")]);
    let mut answer = connection.begin_answer(Response::new(StreamBody::new(broken)));
    let written = poll_fn(|cx| connection.poll_answer(&mut answer, cx)).await;
    assert!(written.is_err());
    drop(connection);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"));
}

#[tokio::test]
async fn a_client_is_told_to_continue_when_its_body_is_wanted() {
    let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
    let (mut connection, mut client) = pair();
    client.write_all(head.as_bytes()).await.unwrap();
    let request = next_request(&mut connection).await;
    let asked = async {
        let mut text = [0; 25];
        client.read_exact(&mut text).await.unwrap();
        assert_eq!(text, CONTINUE);
        client.write_all(b"abc").await.unwrap();
    };
    let (body, ()) = tokio::join!(request.into_body().collect(), asked);
    assert_eq!(body.unwrap().to_bytes(), "abc");
    // Who has sent some of it is not asked.
    client
        .write_all((head.to_owned() + "abc").as_bytes())
        .await
        .unwrap();
    let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
    poll_fn(|cx| connection.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    let body = next_request(&mut connection).await.into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    drop(connection);
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && !text.contains("Continue"),
        "{text}"
    );
}

/// A client that takes what it is told in small pieces: an answer may come in the middle of one.
#[tokio::test]
async fn an_answer_does_not_cut_what_the_client_is_being_told() {
    let (near, mut client) = duplex(90);
    let mut connection = Connection::new(near, LIMITS);
    let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut body = next_request(&mut connection).await.into_body();
    // Nearly full already.
    poll_fn(|cx| {
        let mut io = connection.io();
        Pin::new(&mut io.stream).poll_write(cx, &[b'.'; 80])
    })
    .await
    .unwrap();
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    assert!(polled.is_pending());
    drop(body);
    let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
    let writing = async move {
        let written = poll_fn(|cx| connection.poll_answer(&mut answer, cx)).await;
        drop(connection);
        written
    };
    let mut text = String::new();
    let (written, read) = tokio::join!(writing, client.read_to_string(&mut text));
    written.unwrap();
    read.unwrap();
    let told = text.trim_start_matches('.');
    let expect = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(told.starts_with(expect), "{told}");
}

fn early_hints(link: &str) -> response::Parts {
    let interim = Response::builder()
        .status(103)
        .header("link", link)
        .header("content-length", "2")
        .header("connection", "close")
        .body(());
    interim.unwrap().into_parts().0
}

#[tokio::test]
async fn interim_answers_go_out_at_once_and_beside_what_asks_for_a_body() {
    let (mut connection, mut client) = pair();
    let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut body = next_request(&mut connection).await.into_body();
    let herald = connection.herald();
    let told = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".as_bytes();
    for expected in [told, CONTINUE, told] {
        poll_fn(|cx| {
            match expected == CONTINUE {
                true => assert!(Pin::new(&mut body).poll_frame(cx).is_pending()),
                false => herald.say(&early_hints("</a>"), cx),
            }
            Poll::Ready(())
        })
        .await;
        let mut text = vec![0; expected.len()];
        client.read_exact(&mut text).await.unwrap();
        assert_eq!(text, expected);
    }
    client.write_all(b"abc").await.unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    drop(herald);
    let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
    poll_fn(|cx| connection.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    assert!(connection.may_go_on(&answer));
    drop((answer, connection));
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
}

/// What is being told goes on while the request is served, whoever is polled; more is left out meanwhile.
#[tokio::test]
async fn a_client_that_is_slow_to_take_an_interim_answer_is_told_no_more_until_it_has() {
    let (near, mut client) = duplex(30);
    let mut connection = Connection::new(near, LIMITS);
    let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let sending = client.write_all(head.as_bytes());
    let (request, sent) = tokio::join!(next_request(&mut connection), sending);
    sent.unwrap();
    let mut body = request.into_body();
    let herald = connection.herald();
    let mut rounds = 0..3;
    let serving = poll_fn(|cx| {
        // The first goes out in part, and what asks for the body stands behind it.
        for _ in rounds.by_ref() {
            herald.say(&early_hints("</a>"), cx);
            assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
        }
        assert!(connection.poll_broken(cx).is_pending());
        match connection.io().saying.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
    let told = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let mut text = vec![0; told.len()];
    let (read, ()) = tokio::join!(client.read_exact(&mut text), serving);
    read.unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), told);
    let mut nothing = [0];
    let more = poll_fn(|cx| {
        let mut buf = tokio::io::ReadBuf::new(&mut nothing);
        Poll::Ready(Pin::new(&mut client).poll_read(cx, &mut buf).is_ready())
    });
    assert!(!more.await, "something was told twice");
}

/// Between two requests a connection holds no room for bytes, and a blank line is no request.
#[tokio::test]
async fn an_idle_connection_is_idle() {
    let (mut connection, mut client) = pair();
    let mut request = b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".to_vec();
    request.resize(request.len() + 100_000, b'x');
    client.write_all(&request).await.unwrap();
    let body = next_request(&mut connection).await.into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 100_000);
    let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
    poll_fn(|cx| connection.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    assert!(connection.may_go_on(&answer));
    let next = poll_fn(|cx| Poll::Ready(connection.poll_request(cx).is_pending())).await;
    assert!(next && connection.is_between_requests());
    assert_eq!(connection.io().read.capacity(), 0);
    for (sent, between) in [(&b"\r\n"[..], true), (b"G", false)] {
        client.write_all(sent).await.unwrap();
        let next = poll_fn(|cx| Poll::Ready(connection.poll_request(cx).is_pending())).await;
        assert!(next);
        assert_eq!(connection.is_between_requests(), between);
    }
}

/// A body that nobody reads: what of it has come is skipped, what has not ends the connection.
#[tokio::test]
async fn an_unread_body_is_no_next_request() {
    let smuggled = "GET /evil HTTP/1.1\r\n\r\n";
    let length = smuggled.len();
    for (sent, goes_on) in [
        (format!("Content-Length: {length}\r\n\r\n{smuggled}"), true),
        (
            format!("Content-Length: {}\r\n\r\n{smuggled}", length + 1),
            false,
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
            true,
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n"),
            false,
        ),
        (
            format!("Transfer-Encoding: chunked\r\n\r\n\n{smuggled}"),
            false,
        ),
        (
            "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n".to_owned(),
            false,
        ),
    ] {
        let request = format!("POST / HTTP/1.1\r\n{sent}");
        let (text, went_on) = answered(&request, Response::new(Empty::<Bytes>::new())).await;
        assert_eq!(went_on, goes_on, "{request:?}");
        assert_eq!(text.contains("connection: close"), !goes_on, "{request:?}");
        let (mut connection, mut client) = pair();
        client.write_all(request.as_bytes()).await.unwrap();
        client
            .write_all(b"GET /next HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        drop(next_request(&mut connection).await);
        let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
        poll_fn(|cx| connection.poll_answer(&mut answer, cx))
            .await
            .unwrap();
        if connection.may_go_on(&answer) {
            assert_eq!(next_request(&mut connection).await.uri(), "/next");
        }
    }
}

/// Only behind a request that its client called the last can the stream be closed without a look.
#[tokio::test]
async fn who_says_that_a_request_is_the_last_is_served_with_its_answer() {
    for (request, served) in [
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", true),
        ("POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", false),
        ("POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nx", false),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
    ] {
        let (mut connection, mut client) = pair();
        client.write_all(request.as_bytes()).await.unwrap();
        drop(next_request(&mut connection).await);
        let response = Response::builder().header("connection", "close");
        let mut answer = connection.begin_answer(response.body(Empty::<Bytes>::new()).unwrap());
        poll_fn(|cx| connection.poll_answer(&mut answer, cx))
            .await
            .unwrap();
        assert_eq!(connection.is_served(&answer), served, "{request:?}");
    }
}

/// The body is read, and the answer written, at the same time.
#[tokio::test]
async fn an_answer_may_overtake_its_request() {
    let (mut connection, mut client) = pair();
    let head = "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut body = next_request(&mut connection).await.into_body();
    assert_eq!(body.size_hint().exact(), Some(6));
    let mut answer = connection.begin_answer(Response::new(Full::<Bytes>::from("early")));
    poll_fn(|cx| connection.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    client.write_all(b"def").await.unwrap();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!(got, b"abcdef");
    assert!(!connection.may_go_on(&answer), "somebody has the body");
    drop(body);
    assert!(connection.may_go_on(&answer));
}

#[tokio::test]
async fn an_upgraded_stream_comes_with_its_early_bytes() {
    let (mut connection, mut client) = pair();
    let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(b"\x81\x80").await.unwrap();
    drop(next_request(&mut connection).await);
    client.write_all(b"\0\0\0\0").await.unwrap();
    let broken = poll_fn(|cx| Poll::Ready(connection.poll_broken(cx))).await;
    assert!(broken.is_pending());
    let (_stream, early) = connection.into_stream().unwrap();
    assert_eq!(early, &b"\x81\x80\0\0\0\0"[..]);
}

/// A stream that fails when it is read.
struct Broken(io::ErrorKind);

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.0.into()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_is_noticed_and_one_that_ends_is_answered() {
    // A TLS stream that ends without a goodbye has ended all the same.
    for (kind, breaks) in [
        (io::ErrorKind::ConnectionReset, true),
        (io::ErrorKind::UnexpectedEof, false),
    ] {
        let mut connection = Connection::new(Broken(kind), LIMITS);
        let broken = poll_fn(|cx| Poll::Ready(connection.poll_broken(cx))).await;
        assert_eq!(broken.is_ready(), breaks);
        assert_eq!(connection.has_ended(), !breaks);
    }

    let (mut connection, mut client) = pair();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    drop(next_request(&mut connection).await);
    let broken = poll_fn(|cx| Poll::Ready(connection.poll_broken(cx))).await;
    assert!(broken.is_pending() && connection.has_ended());
    let mut answer = connection.begin_answer(Response::new(Full::<Bytes>::from("ok")));
    poll_fn(|cx| connection.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    let next = poll_fn(|cx| connection.poll_request(cx)).await;
    assert!(next.unwrap().is_none());
    // A flood behind a request that is being served is not read without end.
    let (mut connection, mut client) = pair();
    let flood = [b"GET / HTTP/1.1\r\n\r\n", &vec![b'a'; 100_000][..]].concat();
    client.write_all(&flood).await.unwrap();
    drop(next_request(&mut connection).await);
    let broken = poll_fn(|cx| Poll::Ready(connection.poll_broken(cx))).await;
    assert!(broken.is_pending() && connection.io().read.len() < 20_000);
}

/// A stream that gives this to read, takes everything, and never has it out.
struct Unflushed {
    given: &'static [u8],
    asked: usize,
}

impl AsyncRead for Unflushed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let given = std::mem::take(&mut self.given);
        buf.put_slice(given);
        match given.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Unflushed {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.asked += 1;
        Poll::Pending
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A stream wakes one task when it has written: that must be the one that answers.
#[tokio::test]
async fn an_upload_leaves_the_stream_to_the_answer() {
    let stream = Unflushed {
        given: b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
        asked: 0,
    };
    let mut connection = Connection::new(stream, LIMITS);
    let request = poll_fn(|cx| connection.poll_request(cx)).await;
    let mut body = request.unwrap().unwrap().into_body();
    let flushes = |connection: &Connection<Unflushed>| connection.io().stream.asked;
    poll_fn(|cx| {
        assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
        assert_eq!(flushes(&connection), 1, "it was told to continue");
        let mut answer = connection.begin_answer(Response::new(Empty::<Bytes>::new()));
        assert!(connection.poll_answer(&mut answer, cx).is_pending());
        assert_eq!(flushes(&connection), 2);
        assert!(Pin::new(&mut body).poll_frame(cx).is_pending());
        assert_eq!(flushes(&connection), 2);
        Poll::Ready(())
    })
    .await;
}
