//! Upstreams: one that answers with what it was asked, one that echoes WebSockets, and one that
//! does byte for byte what a test says.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{derive_accept_key, server};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::wire::{self, Message};
use crate::{client, soon};

/// An upstream on a port of its own; stops accepting when dropped.
pub struct Upstream {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    received: Received,
    task: JoinHandle<()>,
}

/// What came on each connection, byte for byte.
type Received = Arc<std::sync::Mutex<Vec<Vec<u8>>>>;

/// A stream of which everything that is read is kept.
struct Kept {
    stream: TcpStream,
    received: Received,
    /// This stream's place there.
    number: usize,
}

/// An upstream whose connections the test itself plays.
pub struct Script {
    pub addr: SocketAddr,
    accepted: Mutex<UnboundedReceiver<TcpStream>>,
    task: JoinHandle<()>,
}

/// An upstream that no connection reaches: its queue is full, and nobody takes one from it.
pub struct Jammed {
    pub addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl Upstream {
    /// Answers every request with JSON: `server`, `method`, `target`, `headers` (a list of pairs in
    /// the order of the wire), `body_len`.
    pub async fn describing(name: &'static str) -> Upstream {
        Upstream::describing_at(name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// As [`Upstream::describing`], on an address that the test chooses.
    pub async fn describing_at(name: &'static str, addr: SocketAddr) -> Upstream {
        Upstream::serve(addr, move |stream| describe_all(name, stream)).await
    }

    /// As [`Upstream::describing`], over TLS.
    pub async fn describing_tls(name: &'static str, config: Arc<ServerConfig>) -> Upstream {
        let acceptor = TlsAcceptor::from(config);
        Upstream::serve(loopback(), move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    describe_all(name, stream).await;
                }
            }
        })
        .await
    }

    /// Echoes WebSocket messages; chooses the first subprotocol offered. A text message `whoami`
    /// is answered with `name`.
    pub async fn echoing(name: &'static str) -> Upstream {
        Upstream::serve(loopback(), move |stream| echo(name, stream)).await
    }

    /// As [`Upstream::echoing`] and, for what asks for no WebSocket, as [`Upstream::describing`].
    pub async fn serving_both(name: &'static str) -> Upstream {
        Upstream::serve(loopback(), move |stream| async move {
            let service = service_fn(move |request| describe_or_echo(name, request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        })
        .await
    }

    /// Hands every whole request to the test and answers it with an empty 200. A request that
    /// breaks off or is badly framed is handed to nobody; [`Upstream::received`] has its bytes.
    pub async fn collecting() -> (Upstream, UnboundedReceiver<Message>) {
        let (tell, requests) = unbounded_channel();
        let received = Received::default();
        let kept = Arc::clone(&received);
        let mut upstream = Upstream::serve(loopback(), move |stream: TcpStream| {
            let (tell, mut stream) = (tell.clone(), Kept::new(stream, &kept));
            async move {
                while let Ok(request) = wire::read_request(&mut stream).await {
                    let _ = tell.send(request);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
                // What came behind it is kept too.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            }
        })
        .await;
        upstream.received = received;
        (upstream, requests)
    }

    /// Of one that is [`Upstream::collecting`]: the bytes that have come so far, by connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }

    /// Answers every request with the body that it brought, while it comes in.
    pub async fn mirroring() -> Upstream {
        Upstream::serve(loopback(), |stream| async move {
            let service = service_fn(|request: Request<Incoming>| async {
                Ok::<_, hyper::Error>(Response::new(request.into_body()))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
        .await
    }

    /// How many connections were ever accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn serve<F, T>(addr: SocketAddr, handle: F) -> Upstream
    where
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(handle(stream));
            }
        });
        Upstream {
            addr,
            connections,
            received: Received::default(),
            task,
        }
    }
}

impl Kept {
    fn new(stream: TcpStream, received: &Received) -> Kept {
        let mut all = received.lock().unwrap();
        all.push(Vec::new());
        Kept {
            stream,
            received: Arc::clone(received),
            number: all.len() - 1,
        }
    }
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        self.received.lock().unwrap()[self.number].extend_from_slice(new);
        read
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    pub async fn new() -> Script {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, accepted) = unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                if tell.send(stream).is_err() {
                    return;
                }
            }
        });
        Script {
            addr,
            accepted: Mutex::new(accepted),
            task,
        }
    }

    /// The next connection from the proxy.
    pub async fn accept(&self) -> TcpStream {
        let accepting = async { self.accepted.lock().await.recv().await };
        soon("a connection to the upstream", accepting)
            .await
            .unwrap()
    }

    /// As [`Script::accept`], past the upgrade to a WebSocket.
    pub async fn accept_websocket(&self) -> WebSocketStream<TcpStream> {
        let config = Some(client::config());
        let accepting = tokio_tungstenite::accept_async_with_config(self.accept().await, config);
        soon("the handshake with the upstream", accepting)
            .await
            .unwrap()
    }

    /// Whether a connection has come that nobody took yet.
    pub async fn was_contacted(&self) -> bool {
        !self.accepted.lock().await.is_empty()
    }
}

impl Jammed {
    pub async fn new() -> Jammed {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&loopback().into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(connected) = timeout(QUEUE_PATIENCE, TcpStream::connect(addr)).await {
            queued.push(connected.unwrap());
        }
        Jammed {
            addr,
            _listener: listener,
            _queued: queued,
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Describes every request of one connection, as [`Upstream::describing`] does.
pub async fn describe_all<S>(name: &'static str, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| describe(name, request));
    let io = TokioIo::new(stream);
    // However the proxy ends the connection is its own affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(io, service)
        .await;
}

/// A free port.
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn describe(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let text = json!({
        "server": name,
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body_len": body.len(),
    });
    let mut response = Response::new(Full::from(text.to_string()));
    response
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    Ok(response)
}

async fn describe_or_echo(
    name: &'static str,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return describe(name, request).await;
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let config = Some(client::config());
            let stream = TokioIo::new(stream);
            echo_all(
                name,
                WebSocketStream::from_raw_socket(stream, Role::Server, config).await,
            )
            .await;
        }
    });
    let response = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept);
    Ok(response.body(Full::default()).unwrap())
}

// The callback's type is tungstenite's.
#[expect(clippy::result_large_err)]
async fn echo(name: &'static str, stream: TcpStream) {
    let choose = |request: &server::Request, mut response: server::Response| {
        let offered = request.headers().get("sec-websocket-protocol");
        let first = offered.and_then(|value| value.to_str().ok()?.split(',').next());
        if let Some(first) = first {
            response
                .headers_mut()
                .insert("sec-websocket-protocol", first.trim().parse().unwrap());
        }
        Ok(response)
    };
    let config = Some(client::config());
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(stream, choose, config);
    if let Ok(socket) = accepted.await {
        echo_all(name, socket).await;
    }
}

async fn echo_all<S>(name: &'static str, mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = socket.next().await {
        let answer = match &message {
            message if message.to_text().is_ok_and(|text| text == "whoami") => name.into(),
            message if message.is_text() || message.is_binary() => message.clone(),
            _ => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}

/// A connection that takes longer on loopback waits for room in the queue.
const QUEUE_PATIENCE: Duration = Duration::from_millis(300);
