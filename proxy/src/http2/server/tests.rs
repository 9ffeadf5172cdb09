//! A client of the `h2` crate, or bare frames, against a connection that answers as each test says.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};

use h2::client;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::http2::body::SendFault;

const LIMITS: Limits = Limits {
    bounds: Bounds {
        head_size: 16 * 1024,
        head_fields: 100,
        streams: 8,
        resets: 100,
        control_frames: 1000,
    },
    extended_connect: true,
};
const PATIENCE: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type Chunks = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

/// A server that gives each request to `serve`, in a task of its own, until its connection ends.
fn spawn<F>(
    stream: DuplexStream,
    serve: impl Fn(Request<RecvStream>, Reply) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut connection = Connection::new(stream, Bytes::new(), LIMITS);
        while let Some((request, reply)) = poll_fn(|cx| connection.poll_request(cx)).await {
            tokio::spawn(serve(request, reply));
        }
    })
}

/// A client's side of a connection to such a server.
async fn connect<F>(
    serve: impl Fn(Request<RecvStream>, Reply) -> F + Send + 'static,
) -> client::SendRequest<Bytes>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (near, far) = duplex(64 * 1024);
    spawn(far, serve);
    let (sender, connection) = client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: Method, fields: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static("https://a.test/");
    for (name, value) in fields {
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    request
}

/// Sends what is left of an answer, as far as the client lets it.
async fn send<B>(reply: Reply, response: Response<B>) -> Result<(), SendFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    match reply.answer(response, PATIENCE) {
        Some(mut sending) => poll_fn(|cx| sending.poll_send(cx)).await,
        None => Ok(()),
    }
}

fn chunks(pieces: &[&'static str]) -> Chunks {
    let pieces = pieces
        .iter()
        .map(|piece| Ok(Frame::data(Bytes::from(*piece))));
    Box::pin(StreamBody::new(futures_util::stream::iter(
        pieces.collect::<Vec<_>>(),
    )))
}

#[tokio::test]
async fn a_head_says_what_http2_may_say_and_how_long_the_body_is() {
    let full = || -> Chunks { Box::pin(Full::new(Bytes::from("abc"))) };
    let none = || -> Chunks { Box::pin(Empty::new()) };
    let open = || chunks(&["abc", "def"]);
    // Method, status, the length that the head claims, body; and what is said of the length.
    for (method, status, claimed, body, length) in [
        (Method::GET, 200, None, full(), Some("3")),
        (Method::GET, 200, Some("7"), full(), Some("3")),
        (Method::GET, 200, None, none(), None),
        (Method::GET, 200, Some("0"), none(), Some("0")),
        (Method::GET, 200, Some("7"), open(), None),
        (Method::HEAD, 200, Some("7"), none(), Some("7")),
        (Method::HEAD, 200, None, full(), None),
        (Method::GET, 204, Some("7"), none(), None),
        (Method::GET, 304, Some("7"), none(), None),
    ] {
        let case = format!("{method} {status} {claimed:?}");
        let answer = std::sync::Mutex::new(Some((status, claimed, body)));
        let mut client = connect(move |_, reply| {
            let (status, claimed, body) = answer.lock().unwrap().take().unwrap();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            let headers = response.headers_mut();
            for name in &OF_THE_CONNECTION {
                headers.insert(name, HeaderValue::from_static("trailers"));
            }
            if let Some(claimed) = claimed {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static(claimed));
            }
            async move { send(reply, response).await.unwrap() }
        })
        .await;
        let (answer, _) = client.send_request(request(method, &[]), true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        assert_eq!(head.status, status, "{case}");
        let said = head.headers.get(CONTENT_LENGTH);
        assert_eq!(said.map(|said| said.to_str().unwrap()), length, "{case}");
        assert!(head.headers.contains_key(DATE), "{case}");
        for name in &OF_THE_CONNECTION {
            assert!(!head.headers.contains_key(name), "{case}: {name}");
        }
        while let Some(piece) = body.data().await {
            piece.unwrap();
        }
    }
}

#[tokio::test]
async fn a_date_that_is_there_stays() {
    let mut client = connect(|_, reply| async {
        let mut response = Response::new(Empty::<Bytes>::new());
        let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
        response.headers_mut().insert(DATE, date);
        send(reply, response).await.unwrap();
    })
    .await;
    let (answer, _) = client
        .send_request(request(Method::GET, &[]), true)
        .unwrap();
    let head = answer.await.unwrap();
    assert_eq!(head.headers()[DATE], "Thu, 01 Jan 1970 00:00:00 GMT");
}

#[tokio::test]
async fn who_waits_to_be_asked_for_a_body_is_asked_once_it_is_wanted() {
    let serve = |request: Request<RecvStream>, mut reply: Reply| async move {
        let (head, stream) = request.into_parts();
        let mut body = pin!(reply.request_body(stream, &head.headers).collect());
        let wants = head.uri.query() != Some("unwanted");
        let body = poll_fn(|cx| {
            if !wants {
                return Poll::Ready(Bytes::new());
            }
            if let Poll::Ready(body) = body.as_mut().poll(cx) {
                return Poll::Ready(body.unwrap().to_bytes());
            }
            reply.poll_left(cx).map(|()| Bytes::new())
        })
        .await;
        send(reply, Response::new(Full::new(body))).await.unwrap();
    };
    // What is asked, what is sent with the head, whether the client is asked for a body.
    for (uri, sent, asked) in [
        ("https://a.test/", "", true),
        ("https://a.test/", "early", false),
        ("https://a.test/?unwanted", "", false),
    ] {
        let mut client = connect(serve).await;
        let mut request = request(Method::POST, &[("expect", "100-continue")]);
        *request.uri_mut() = uri.parse().unwrap();
        let (mut answer, mut stream) = client.send_request(request, false).unwrap();
        if !sent.is_empty() {
            stream.send_data(sent.into(), true).unwrap();
        }
        let mut told = false;
        let head = loop {
            let informed = poll_fn(|cx| {
                if let Poll::Ready(Some(informed)) = answer.poll_informational(cx) {
                    return Poll::Ready(Err(informed.unwrap()));
                }
                Pin::new(&mut answer).poll(cx).map(Ok)
            });
            match informed.await {
                Ok(head) => break head.unwrap(),
                Err(informed) => {
                    assert_eq!(informed.status(), 100);
                    assert!(!std::mem::replace(&mut told, true), "asked twice");
                    stream.send_data("asked".into(), true).unwrap();
                }
            }
        };
        assert_eq!(head.status(), 200);
        assert_eq!(told, asked, "{uri} {sent}");
        let expected = if asked { "asked" } else { sent };
        let body = head.into_body().data().await;
        assert_eq!(body.map_or(Bytes::new(), Result::unwrap), expected);
    }
}

#[tokio::test]
async fn interim_answers_say_nothing_of_a_connection() {
    let mut client = connect(|_, mut reply| async move {
        let interim = Response::builder()
            .status(103)
            .version(Version::HTTP_11)
            .header(CONNECTION, "close")
            .header(TRANSFER_ENCODING, "chunked")
            .header(CONTENT_LENGTH, "5")
            .header("link", "</a>")
            .header("link", "</b>");
        let (interim, ()) = interim.body(()).unwrap().into_parts();
        poll_fn(|cx| {
            reply.say(interim.clone(), cx);
            Poll::Ready(())
        })
        .await;
        send(reply, Response::new(Full::new(Bytes::new())))
            .await
            .unwrap();
    })
    .await;
    let (mut answer, _) = client
        .send_request(request(Method::GET, &[]), true)
        .unwrap();
    let interim = poll_fn(|cx| answer.poll_informational(cx)).await;
    let interim = interim.unwrap().unwrap();
    assert_eq!(interim.status(), 103);
    let fields = interim.headers();
    assert_eq!(fields.len(), 2);
    assert!(fields.get_all("link").iter().eq(["</a>", "</b>"]));
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_accepted_extended_connect_is_a_200_that_stays_open() {
    let mut client = connect(|request, reply| async move {
        let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
        assert_eq!(protocol.as_str(), "websocket");
        let switching = Response::builder()
            .status(101)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, "abc")
            .header("sec-websocket-protocol", "chat")
            .body(())
            .unwrap();
        let mut stream = reply.accept(switching).unwrap();
        stream.send_data("hello".into(), true).unwrap();
    })
    .await;
    // It is announced in the server's first settings.
    client = client.ready().await.unwrap();
    let mut asked = request(Method::GET, &[]);
    client
        .send_request(asked, true)
        .unwrap()
        .0
        .await
        .unwrap_err();
    assert!(client.is_extended_connect_protocol_enabled());
    asked = request(Method::CONNECT, &[]);
    let protocol = h2::ext::Protocol::from_static("websocket");
    asked.extensions_mut().insert(protocol);
    let (answer, _stream) = client.send_request(asked, false).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    assert_eq!(head.status, 200);
    let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["sec-websocket-protocol", "date"]);
    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_an_answer_is_given_up() {
    let (done, ended) = tokio::sync::oneshot::channel();
    let done = std::sync::Mutex::new(Some(done));
    let mut client = connect(move |_, reply| {
        let done = done.lock().unwrap().take().unwrap();
        async move {
            let body = Full::new(Bytes::from(vec![b'x'; 300_000]));
            done.send(send(reply, Response::new(body)).await).unwrap();
        }
    })
    .await;
    let began = Instant::now();
    let (answer, _) = client
        .send_request(request(Method::GET, &[]), true)
        .unwrap();
    let mut body = answer.await.unwrap().into_body();
    // It takes a little after half of the time, and nothing after that.
    tokio::time::sleep(PATIENCE / 2).await;
    let piece = body.data().await.unwrap().unwrap();
    body.flow_control().release_capacity(piece.len()).unwrap();
    while let Ok(Some(Ok(piece))) = timeout(Duration::from_millis(1), body.data()).await {
        body.flow_control()
            .release_capacity(piece.len() / 2)
            .unwrap();
    }
    assert_eq!(ended.await.unwrap(), Err(SendFault::Stalled));
    let taken = began.elapsed();
    assert!(taken >= PATIENCE * 3 / 2, "{taken:?}");
    assert!(taken < PATIENCE * 2, "{taken:?}");
}

#[tokio::test]
async fn who_resets_a_stream_is_served_no_further() {
    for begun in [false, true] {
        let (done, ended) = tokio::sync::oneshot::channel();
        let done = std::sync::Mutex::new(Some(done));
        let mut client = connect(move |_, mut reply| {
            let done = done.lock().unwrap().take().unwrap();
            async move {
                if begun {
                    let open = StreamBody::new(futures_util::stream::pending::<
                        Result<Frame<Bytes>, Infallible>,
                    >());
                    let sent = send(reply, Response::new(open)).await;
                    assert_eq!(sent, Err(SendFault::Left));
                } else {
                    poll_fn(|cx| reply.poll_left(cx)).await;
                }
                done.send(()).unwrap();
            }
        })
        .await;
        let (answer, mut stream) = client
            .send_request(request(Method::POST, &[]), false)
            .unwrap();
        if begun {
            let _open = answer.await.unwrap();
            stream.send_reset(Reason::CANCEL);
            ended.await.unwrap();
        } else {
            stream.send_reset(Reason::CANCEL);
            ended.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_connection_that_fails_is_over_once_and_for_all() {
    let (mut near, far) = duplex(1024);
    let mut connection = Connection::new(far, Bytes::new(), LIMITS);
    near.write_all(PREFACE).await.unwrap();
    near.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // DATA on a stream that nobody has opened.
    near.write_all(b"\0\0\x01\0\0\0\0\0\x01x").await.unwrap();
    for _ in 0..3 {
        let asked = poll_fn(|cx| connection.poll_request(cx)).await;
        assert!(asked.is_none());
    }
    assert!(!connection.has_streams());
}

#[tokio::test]
async fn what_was_read_before_comes_first() {
    let (mut near, far) = duplex(1024);
    let (early, late) = PREFACE.split_at(10);
    near.write_all(late).await.unwrap();
    near.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut connection = Connection::new(far, Bytes::from_static(early), LIMITS);
    let mut settings = [0; 9];
    tokio::select! {
        _ = poll_fn(|cx| connection.poll_request(cx)) => panic!("nothing is asked"),
        // An acknowledgement of the client's settings.
        () = async {
            while settings[3..5] != [4, 1] {
                let mut frame = vec![0; usize::from(settings[2])];
                near.read_exact(&mut frame).await.unwrap();
                near.read_exact(&mut settings).await.unwrap();
            }
        } => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_pinged_while_something_is_open_for_it() {
    for answers in [true, false] {
        let (mut near, far) = duplex(64 * 1024);
        let server = spawn(far, |_, mut reply| async move {
            poll_fn(|cx| reply.poll_left(cx)).await;
        });
        // GET, https, / of the static table, and an authority.
        let get = b"\0\0\x09\x01\x05\0\0\0\x01\x82\x87\x84\x41\x04a.te";
        near.write_all(PREFACE).await.unwrap();
        near.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        near.write_all(get).await.unwrap();
        let began = Instant::now();
        let mut pings = 0;
        let reading = async {
            let mut head = [0; 9];
            while near.read_exact(&mut head).await.is_ok() {
                let mut payload = vec![0; usize::from(head[2])];
                near.read_exact(&mut payload).await.unwrap();
                if head[3..5] == [6, 0] {
                    pings += 1;
                    if answers {
                        head[4] = 1;
                        near.write_all(&head).await.unwrap();
                        near.write_all(&payload).await.unwrap();
                    }
                }
            }
        };
        let ended = timeout(Duration::from_secs(3600), reading).await;
        assert_eq!(ended.is_err(), answers);
        if answers {
            // One for each silence, and the wait that found it answered.
            assert!((60..=120).contains(&pings), "{pings}");
            server.abort();
        } else {
            assert_eq!(pings, 1);
            assert!(began.elapsed() < Duration::from_secs(90));
            server.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_what_it_gets_is_there() {
    let (mut near, far) = duplex(64 * 1024);
    let server = spawn(far, |_, reply| async {
        let body = Full::new(Bytes::from(vec![0; 4 << 20]));
        let _ = send(reply, Response::new(body)).await;
    });
    // As large a window as can be, so that the client need not say a word.
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff";
    let update = b"\0\0\x04\x08\0\0\0\0\0\x70\0\0\0";
    let get = b"\0\0\x09\x01\x05\0\0\0\x01\x82\x87\x84\x41\x04a.te";
    near.write_all(&[PREFACE, settings, update, get].concat())
        .await
        .unwrap();
    let mut piece = vec![0; 64 * 1024];
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        near.read_exact(&mut piece).await.unwrap();
    }
    assert!(!server.is_finished());
    // One that stops to take anything is asked, and given up.
    let began = Instant::now();
    server.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(150));
}

#[tokio::test(start_paused = true)]
async fn half_a_head_does_not_wait_for_ever() {
    let (mut near, far) = duplex(64 * 1024);
    let server = spawn(far, |_, mut reply| async move {
        poll_fn(|cx| reply.poll_left(cx)).await;
    });
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let get = b"\0\0\x09\x01\x05\0\0\0\x01\x82\x87\x84\x41\x04a.te";
    // The same without its end.
    let half = b"\0\0\x09\x01\x01\0\0\0\x03\x82\x87\x84\x41\x04a.te";
    near.write_all(&[PREFACE, settings, get, half].concat())
        .await
        .unwrap();
    let began = Instant::now();
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(70));
    // ENHANCE_YOUR_CALM
    let last = said.len() - 17;
    assert_eq!(said[last + 3], 7, "{said:?}");
    assert_eq!(said[last + 16], 11, "{said:?}");
    drop(near);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_sends_nothing_now_and_then_may_do_so_for_ever() {
    let (mut near, far) = duplex(64 * 1024);
    let server = spawn(far, |request, reply| async move {
        let mut body = request.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        send(reply, Response::new(Empty::<Bytes>::new()))
            .await
            .unwrap();
    });
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let post = b"\0\0\x09\x01\x04\0\0\0\x01\x83\x87\x84\x41\x04a.te";
    near.write_all(&[PREFACE, settings, post].concat())
        .await
        .unwrap();
    for _ in 0..2000 {
        near.write_all(b"\0\0\0\0\0\0\0\0\x01").await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    near.write_all(b"\0\0\x01\0\x01\0\0\0\x01x").await.unwrap();
    let mut head = [0; 9];
    while head[3] != 1 {
        near.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[2])];
        near.read_exact(&mut payload).await.unwrap();
    }
    server.abort();
}
