//! A backend to try a configuration against: it answers every request with what it received.
//!
//! A WebSocket handshake on any path is accepted, with the first subprotocol that was offered, and
//! every message comes back. Any other request is answered with its own head as JSON, so that people
//! see what the proxy forwarded. It is no part of the proxy's data path, and no server for the
//! internet: but its connections, heads, messages and times are bounded all the same.
//!
//! A stop sends Close 1001 to WebSockets, finishes requests, and waits for both for a moment.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use crate::drain::{Drain, Member, Phase};
use crate::handshake::{self, Kind, Offer};

/// Serves until `stop` is ready, then drains for at most [`DRAIN_TIMEOUT`].
///
/// `page` is what `GET /` answers, as HTML; without one `/` is a path like any other.
pub async fn serve(
    listener: TcpListener,
    page: Option<&'static str>,
    stop: impl Future<Output = ()>,
) {
    let drain = Drain::default();
    tokio::select! {
        () = accept(&listener, page, &drain) => {}
        () = stop => {}
    }
    drop(listener);
    drain.start();
    // Whoever is late is cut when the runtime goes.
    let _ = timeout(DRAIN_TIMEOUT, drain.emptied()).await;
    drain.stop();
}

async fn accept(listener: &TcpListener, page: Option<&'static str>, drain: &Drain) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed, so this ends with `stop` alone.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((socket, _)) => {
                let connection = Connection {
                    page,
                    member: drain.join(),
                    permit: Arc::new(permit),
                };
                tokio::spawn(connection.serve(socket));
            }
            // Out of descriptors, or a client that left already.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

struct Connection {
    page: Option<&'static str>,
    member: Member,
    /// A WebSocket holds on to it after its connection has gone.
    permit: Arc<tokio::sync::OwnedSemaphorePermit>,
}

impl Connection {
    async fn serve(self, socket: TcpStream) {
        // Small messages must not wait for each other's acknowledgement.
        let _ = socket.set_nodelay(true);
        let service =
            service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // A client that breaks off is its own affair.
            _ = connection.as_mut() => return,
            () = self.member.reached(Phase::Draining) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (parts, body) = request.into_parts();
        match handshake::classify(&parts, body.is_end_stream()) {
            Ok(Kind::WebSocket(offer)) => self.switch(upgrade, &offer),
            Ok(Kind::Plain) if parts.method == Method::GET && parts.uri.path() == "/" => {
                match self.page {
                    Some(page) => html(page),
                    None => describe(&parts, body).await,
                }
            }
            Ok(Kind::Plain) => describe(&parts, body).await,
            Err(rejection) => {
                let mut response = Response::new(Full::from(format!("{}\n", rejection.reason)));
                *response.status_mut() = rejection.status;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                response
            }
        }
    }

    /// Accepts a handshake; the echoing begins once the 101 is out.
    fn switch(&self, upgrade: OnUpgrade, offer: &Offer) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let mut insert = |name, value: &str| {
            // Base64, or what was read from a header: both are header values.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        insert(SEC_WEBSOCKET_ACCEPT, &handshake::accept_key(&offer.key));
        if let Some(subprotocol) = offer.subprotocols.first() {
            insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        let (member, permit) = (self.member.again(), Arc::clone(&self.permit));
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                echo(upgraded, &member).await;
            }
            drop(permit);
        });
        response
    }
}

/// Sends every message back until one side closes.
async fn echo(upgraded: Upgraded, member: &Member) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let close = tokio::select! {
        ended = send_back(&mut socket) => match ended {
            Ok(()) => return,
            Err(WebSocketError::Capacity(_)) => CloseCode::Size,
            Err(WebSocketError::Utf8(_)) => CloseCode::Invalid,
            Err(WebSocketError::Protocol(_)) => CloseCode::Protocol,
            // The connection is gone.
            Err(_) => return,
        },
        () = member.reached(Phase::Draining) => CloseCode::Away,
    };
    let frame = CloseFrame {
        code: close,
        reason: "".into(),
    };
    // A client that neither reads nor answers is cut.
    let _ = timeout(CLOSE_TIMEOUT, async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    })
    .await;
}

async fn send_back(socket: &mut WebSocketStream<TokioIo<Upgraded>>) -> Result<(), WebSocketError> {
    while let Some(message) = socket.next().await {
        let message = message?;
        // Pings and Close are answered by the codec.
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// What was received, as JSON; the body is counted and not kept.
async fn describe(parts: &request::Parts, mut body: Incoming) -> Response<Full<Bytes>> {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    let description = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": fields(&parts.headers),
        "body_bytes": bytes,
    });
    let mut response = Response::new(Full::from(format!("{description:#}\n")));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Names and values, the values of a repeated name as a list.
fn fields(headers: &HeaderMap) -> Value {
    let value = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let entries = headers.keys().map(|name| {
        let values: Vec<String> = headers.get_all(name).iter().map(value).collect();
        let shown = match <[String; 1]>::try_from(values) {
            Ok([one]) => json!(one),
            Err(many) => json!(many),
        };
        (name.as_str().to_owned(), shown)
    });
    Value::Object(entries.collect())
}

fn html(page: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(page));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

/// How long a stop waits for what is under way.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a Close waits to be sent and answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client has for its request head, on a kept-alive connection as well.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_CONNECTIONS: usize = 4096;
/// Bytes of a request head.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of a message.
const MAX_MESSAGE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio_tungstenite::client_async;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    use super::*;

    struct Backend {
        connection: TcpStream,
        stop: oneshot::Sender<()>,
        served: tokio::task::JoinHandle<()>,
    }

    async fn backend(page: Option<&'static str>) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, page, async {
            stopped.await.ok();
        }));
        let connection = TcpStream::connect(address).await.unwrap();
        Backend {
            connection,
            stop,
            served,
        }
    }

    /// Sends a request on a connection of its own and reads the answer to its end.
    async fn ask(page: Option<&'static str>, head: &str, body: &str) -> String {
        let mut backend = backend(page).await;
        let request = format!("{head}\r\nConnection: close\r\n\r\n{body}");
        backend
            .connection
            .write_all(request.as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        backend
            .connection
            .read_to_string(&mut answer)
            .await
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn a_request_is_described() {
        let head = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5";
        let answer = ask(Some("<p>"), head, "hello").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body,
            json!({
                "method": "POST", "target": "/a?b=c", "version": "HTTP/1.1", "body_bytes": 5,
                "headers": {
                    "host": "x", "x-a": ["1", "2"], "content-length": "5", "connection": "close",
                },
            })
        );
    }

    #[tokio::test]
    async fn the_page_is_at_the_root_alone() {
        let root = "GET / HTTP/1.1\r\nHost: x";
        assert!(
            ask(Some("<p>page</p>"), root, "")
                .await
                .ends_with("<p>page</p>")
        );
        assert!(ask(None, root, "").await.contains("\"target\": \"/\""));
        let other = "GET /page HTTP/1.1\r\nHost: x";
        assert!(
            ask(Some("<p>"), other, "")
                .await
                .contains("\"target\": \"/page\"")
        );
    }

    #[tokio::test]
    async fn a_malformed_handshake_is_refused() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Key: short";
        let answer = ask(None, head, "").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }

    #[tokio::test]
    async fn messages_come_back_and_a_stop_says_goodbye() {
        let backend = backend(None).await;
        let mut request = "ws://x/chat".into_client_request().unwrap();
        let offered = HeaderValue::from_static("first, second");
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, offered);
        let (mut socket, answer) = client_async(request, backend.connection).await.unwrap();
        assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "first");
        for message in [Message::text("hello"), Message::binary(vec![0; 70_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        backend.stop.send(()).unwrap();
        let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
            panic!("no Close");
        };
        assert_eq!(frame.code, CloseCode::Away);
        assert!(socket.next().await.is_none_or(|end| end.is_err()));
        backend.served.await.unwrap();
    }

    #[tokio::test]
    async fn a_message_that_is_too_big_is_refused() {
        let backend = backend(None).await;
        let (mut socket, _) = client_async("ws://x/", backend.connection).await.unwrap();
        // The head of a frame alone says how big it is.
        let size = (MAX_MESSAGE as u64 + 1).to_be_bytes();
        let head = [&[0x82, 0xff][..], &size, &[0; 4]].concat();
        socket.get_mut().write_all(&head).await.unwrap();
        let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
            panic!("no Close");
        };
        assert_eq!(frame.code, CloseCode::Size);
    }
}
