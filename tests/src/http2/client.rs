//! A client that opens WebSockets by extended CONNECT (RFC 8441), as many as a test wants on one connection.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, Reason};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stream::{Outgoing, Stream};
use super::{Answer, GOAWAY, exchange};
use crate::certs::Authority;
use crate::{client, soon};

/// One connection whose settings are known.
pub struct Client {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    /// How many GOAWAY frames came.
    goaways: watch::Receiver<usize>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A request whose head was sent, and not its end.
pub struct Opening {
    answer: ResponseFuture,
    /// What is sent here goes out before the answer has come.
    pub outgoing: Outgoing,
}

impl Client {
    /// Over bare TCP, with prior knowledge.
    pub async fn plain(addr: SocketAddr) -> Client {
        Client::start(client::tcp(addr).await, "http").await
    }

    /// Over TLS to `localhost`.
    pub async fn tls(addr: SocketAddr, authority: &Authority) -> Client {
        let stream = client::tls(addr, "localhost", authority.client(&["h2"])).await;
        let stream = stream.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        Client::start(stream, "https").await
    }

    async fn start<S>(stream: S, scheme: &'static str) -> Client
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (tell, goaways) = watch::channel(0);
        let tapped = Tapped {
            stream,
            tap: Tap::new(tell),
        };
        // One stalled stream shall not stall the others.
        let handshake = Builder::new()
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(tapped);
        let (sender, mut connection) = soon("an HTTP/2 handshake", handshake).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let driver = tokio::spawn(connection);
        // The server's settings are its first frame, so they stand before any pong.
        let pong = soon("the settings", pings.ping(Ping::opaque())).await;
        pong.unwrap();
        Client {
            sender,
            scheme,
            goaways,
            driver,
        }
    }

    /// Whether the server has said SETTINGS_ENABLE_CONNECT_PROTOCOL.
    pub fn announces_websocket(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// A request to `localhost`.
    pub fn request(&self, method: &str, path: &str) -> Request<()> {
        Request::builder()
            .method(method)
            .uri(format!("{}://localhost{path}", self.scheme))
            .body(())
            .unwrap()
    }

    /// An extended CONNECT of this protocol with these fields.
    pub fn connect(&self, protocol: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = self.request("CONNECT", path);
        request.extensions_mut().insert(Protocol::from(protocol));
        for (name, value) in fields {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    }

    /// As [`Client::connect`] for a WebSocket.
    pub fn websocket(&self, path: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = self.connect("websocket", path, fields);
        let version = http::HeaderValue::from_static("13");
        request
            .headers_mut()
            .insert("sec-websocket-version", version);
        request
    }

    /// Sends a head, and neither waits for its answer nor ends its stream.
    ///
    /// # Errors
    /// The connection takes no more streams.
    pub async fn begin(&self, request: Request<()>) -> Result<Opening, h2::Error> {
        let mut sender = soon("room for a stream", self.sender.clone().ready()).await?;
        let (answer, outgoing) = sender.send_request(request, false)?;
        Ok(Opening {
            answer,
            outgoing: Outgoing::new(outgoing),
        })
    }

    /// Asks for a WebSocket; whatever the answer, its stream comes with it.
    ///
    /// # Errors
    /// The connection takes no more streams, or the stream was reset.
    pub async fn open(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Response<()>, Stream), h2::Error> {
        self.begin(self.websocket(path, fields))
            .await?
            .answered()
            .await
    }

    /// A GET, and its whole answer.
    ///
    /// # Errors
    /// The connection takes no more streams, or the stream was reset.
    pub async fn get(&self, path: &str) -> Result<Answer, h2::Error> {
        exchange(
            &mut self.sender.clone(),
            self.request("GET", path),
            &[],
            None,
        )
        .await
    }

    /// How many GOAWAY frames came so far.
    pub fn goaways(&self) -> usize {
        *self.goaways.borrow()
    }

    /// Waits until a GOAWAY has come.
    pub async fn told_to_go(&mut self) {
        let told = self.goaways.wait_for(|count| *count > 0);
        // Without a sender the connection has ended, which says as much.
        let _ = soon("a GOAWAY", told).await;
    }

    /// Waits until the server has closed the connection.
    pub async fn ended(&mut self) -> Result<(), h2::Error> {
        soon("the connection's end", &mut self.driver)
            .await
            .unwrap()
    }
}

impl Opening {
    /// Waits for the answer's head.
    ///
    /// # Errors
    /// The stream was reset, or the connection broke.
    pub async fn answered(self) -> Result<(Response<()>, Stream), h2::Error> {
        let (head, incoming) = soon("an answer", self.answer).await?.into_parts();
        let stream = Stream::new(self.outgoing.into_inner(), incoming);
        Ok((Response::from_parts(head, ()), stream))
    }

    /// Takes the request back.
    pub fn cancel(mut self) {
        self.outgoing.reset(Reason::CANCEL);
    }
}

/// Passes a stream on, and looks at the frames that come.
struct Tapped<S> {
    stream: S,
    tap: Tap,
}

/// Counts GOAWAY frames.
struct Tap {
    goaways: watch::Sender<usize>,
    /// Of the frame head that has begun.
    head: Vec<u8>,
    /// Of a payload that has begun.
    left: usize,
}

impl Tap {
    fn new(goaways: watch::Sender<usize>) -> Tap {
        Tap {
            goaways,
            head: Vec::new(),
            left: 0,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let [a, b, c, kind, _, _, _, _, _] = *self.head {
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.head.clear();
                if kind == GOAWAY {
                    self.goaways.send_modify(|count| *count += 1);
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tapped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.tap.see(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tapped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
