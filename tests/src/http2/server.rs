//! An upstream that speaks HTTP/2 and HTTP/1.1, whose requests the test itself answers: WebSockets by
//! extended CONNECT (RFC 8441) or by an upgrade, whichever the proxy asked for.
//!
//! Over TLS ALPN decides between the two, in plain the preface.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::stream::Stream;
use crate::soon;
use crate::websocket::leg::Wire;

/// An upstream on a port of its own; gone with all of its connections when dropped.
pub struct Server {
    pub addr: SocketAddr,
    arrivals: tokio::sync::Mutex<UnboundedReceiver<Arrival>>,
    connections: Connections,
    task: JoinHandle<()>,
}

/// How a [`Server`] behaves.
#[derive(Clone)]
pub struct Manner {
    /// With its ALPN; `None`: in plain.
    pub tls: Option<Arc<ServerConfig>>,
    /// Says SETTINGS_ENABLE_CONNECT_PROTOCOL.
    pub websocket: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub streams: Option<u32>,
}

/// What came from the proxy.
#[expect(clippy::large_enum_variant, reason = "a test holds few at a time")]
pub enum Arrival {
    /// A connection that speaks HTTP/1.1; nothing of it is read.
    Http1(Box<dyn Wire>),
    /// A stream.
    Http2(Asked),
}

/// A request on a stream, unanswered. Dropping it resets the stream.
pub struct Asked {
    pub head: Request<()>,
    /// Which HTTP/2 connection it came on, counted from 0.
    pub connection: usize,
    incoming: RecvStream,
    answer: SendResponse<Bytes>,
}

/// The orders of each HTTP/2 connection so far.
type Connections = Arc<Mutex<Vec<UnboundedSender<Order>>>>;

/// What a test may tell a connection.
enum Order {
    /// GOAWAY; what is open goes on.
    Leave,
    /// GOAWAY with this reason, and the end of everything.
    Abort(Reason),
    /// The end without a word.
    Cut,
}

impl Manner {
    /// In plain, without WebSockets.
    pub const PLAIN: Manner = Manner {
        tls: None,
        websocket: false,
        streams: None,
    };
    /// In plain, with WebSockets.
    pub const WEBSOCKET: Manner = Manner {
        websocket: true,
        ..Manner::PLAIN
    };
}

impl Server {
    pub async fn new(manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, arrivals) = unbounded_channel();
        let connections = Connections::default();
        let orders = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let serving = serve(stream, manner.clone(), tell.clone(), Arc::clone(&orders));
                tasks.spawn(serving);
            }
        });
        Server {
            addr,
            arrivals: tokio::sync::Mutex::new(arrivals),
            connections,
            task,
        }
    }

    /// The next request over HTTP/2, or connection of HTTP/1.1.
    pub async fn next(&self) -> Arrival {
        let arriving = async { self.arrivals.lock().await.recv().await };
        soon("something from the proxy", arriving).await.unwrap()
    }

    /// The next request, which must come over HTTP/2.
    pub async fn asked(&self) -> Asked {
        match self.next().await {
            Arrival::Http2(asked) => asked,
            Arrival::Http1(_) => panic!("a connection of HTTP/1.1"),
        }
    }

    /// Whether something has come that nobody took yet.
    pub async fn was_contacted(&self) -> bool {
        !self.arrivals.lock().await.is_empty()
    }

    /// Drops what has come and nobody took.
    pub async fn forget(&self) {
        let mut arrivals = self.arrivals.lock().await;
        while arrivals.try_recv().is_ok() {}
    }

    /// How many HTTP/2 connections there were.
    pub fn connections(&self) -> usize {
        self.lock().len()
    }

    /// Says GOAWAY on this connection, whose open streams go on.
    pub fn leave(&self, connection: usize) {
        self.order(connection, Order::Leave);
    }

    /// Says GOAWAY with this reason and ends the connection.
    pub fn abort(&self, connection: usize, reason: Reason) {
        self.order(connection, Order::Abort(reason));
    }

    /// Ends this connection without a word.
    pub fn cut(&self, connection: usize) {
        self.order(connection, Order::Cut);
    }

    fn order(&self, connection: usize, order: Order) {
        // A connection that is gone obeys any order.
        let _ = self.lock()[connection].send(order);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<UnboundedSender<Order>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asked {
    /// Whether this is an extended CONNECT for a WebSocket.
    pub fn is_websocket(&self) -> bool {
        let protocol = self.head.extensions().get::<h2::ext::Protocol>();
        self.head.method() == "CONNECT"
            && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
    }

    /// Answers with this head, and goes on with the stream.
    pub fn accept(mut self, head: Response<()>) -> Stream {
        let outgoing = self.answer.send_response(head, false).unwrap();
        Stream::new(outgoing, self.incoming)
    }

    /// Answers with this head and body, and ends the stream.
    pub fn respond(mut self, head: Response<()>, body: &str) {
        let mut outgoing = self.answer.send_response(head, false).unwrap();
        outgoing
            .send_data(Bytes::copy_from_slice(body.as_bytes()), true)
            .unwrap();
    }

    /// The request with its body to come, and the way to answer it bit by bit.
    pub fn into_parts(self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        (self.head.map(|()| self.incoming), self.answer)
    }

    /// Whether anything has come behind the head so far, or its stream has ended.
    pub fn has_more(&mut self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        self.incoming.poll_data(&mut cx).is_ready()
    }

    /// Waits until the proxy takes the request back, and tells with which reason.
    pub async fn taken_back(mut self) -> Reason {
        let reset = std::future::poll_fn(|cx| self.answer.poll_reset(cx));
        soon("a reset", reset).await.unwrap()
    }

    /// RST_STREAM.
    pub fn reset(mut self, reason: Reason) {
        self.answer.send_reset(reason);
    }
}

async fn serve(
    stream: TcpStream,
    manner: Manner,
    arrivals: UnboundedSender<Arrival>,
    connections: Connections,
) {
    let Some(tls) = &manner.tls else {
        return match starts_with_preface(&stream).await {
            true => serve_http2(stream, manner, arrivals, connections).await,
            false => hand_over(stream, &arrivals),
        };
    };
    let acceptor = TlsAcceptor::from(Arc::clone(tls));
    // A client that breaks off in the handshake is its own test's affair.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve_http2(stream, manner, arrivals, connections).await,
        _ => hand_over(stream, &arrivals),
    }
}

fn hand_over(stream: impl Wire + 'static, arrivals: &UnboundedSender<Arrival>) {
    // Nobody asks any more when the test is over.
    let _ = arrivals.send(Arrival::Http1(Box::new(stream)));
}

async fn starts_with_preface(stream: &TcpStream) -> bool {
    let mut start = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return false,
            Ok(length) if length < start.len() && PREFACE.starts_with(&start[..length]) => {
                tokio::task::yield_now().await;
            }
            Ok(_) => return start == PREFACE,
        }
    }
}

async fn serve_http2<S>(
    stream: S,
    manner: Manner,
    arrivals: UnboundedSender<Arrival>,
    connections: Connections,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    builder.initial_connection_window_size(CONNECTION_WINDOW);
    if manner.websocket {
        builder.enable_connect_protocol();
    }
    if let Some(streams) = manner.streams {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let (tell, mut orders) = unbounded_channel();
    let number = {
        let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push(tell);
        connections.len() - 1
    };
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Leave) => connection.graceful_shutdown(),
                Some(Order::Abort(reason)) => connection.abrupt_shutdown(reason),
                Some(Order::Cut) | None => return,
            },
            asked = connection.accept() => {
                let Some(Ok((request, answer))) = asked else {
                    return;
                };
                let (head, incoming) = request.into_parts();
                let head = Request::from_parts(head, ());
                let asked = Asked { head, connection: number, incoming, answer };
                if arrivals.send(Arrival::Http2(asked)).is_err() {
                    return;
                }
            }
        }
    }
}

/// How HTTP/2 with prior knowledge begins, as far as HTTP/1.1 never does.
const PREFACE: [u8; 5] = *b"PRI *";
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
