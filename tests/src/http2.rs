//! HTTP/2: the `h2` crate as a client and a server that behave, and bare frames for a client that does not.

pub mod bare;
pub mod client;
pub mod server;
pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use self::client::Client;
use crate::certs::Authority;
use crate::proxy::Proxy;
use crate::soon;

/// A proxy for `localhost` over TLS, with a client's side of it.
pub struct Site {
    pub proxy: Proxy,
    authority: Authority,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub head: Response<()>,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// A connection whose frames the test writes and reads itself.
pub struct Raw {
    pub stream: TlsStream<TcpStream>,
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Site {
    /// One worker, one route to this server; `more` goes on with the route's table.
    pub async fn in_front_of(server: SocketAddr, more: &str) -> Site {
        let authority = Authority::new("test authority");
        let dir = TempDir::new().unwrap();
        authority
            .issue(&["localhost"])
            .write(dir.path(), "localhost");
        let config = format!(
            r#"
            [runtime]
            workers = 1
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ cert = "localhost.crt", key = "localhost.key" }}
            [upstream.server]
            servers = ["{server}"]
            health = {{ fails = 60000 }}
            [[route]]
            to = "server"
            {more}
            "#
        );
        let proxy = Proxy::start_in(dir, &config).await;
        Site { proxy, authority }
    }

    /// A client that behaves.
    pub async fn connect(&self) -> SendRequest<Bytes> {
        let stream = self.tls(&["h2"]).await;
        let (sender, connection) = soon("an HTTP/2 handshake", h2::client::handshake(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// A client that opens WebSockets.
    pub async fn client(&self) -> Client {
        Client::tls(self.proxy.addr(0), &self.authority).await
    }

    /// A client that has sent its preface and these settings.
    pub async fn connect_raw(&self, settings: &[(u16, u32)]) -> Raw {
        let mut stream = self.tls(&["h2"]).await;
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let start = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &frame(SETTINGS, 0, 0, &payload)[..],
            &frame(SETTINGS, ACK, 0, b""),
        ]
        .concat();
        stream.write_all(&start).await.unwrap();
        Raw { stream }
    }

    /// A GET on a connection of its own must be answered with 200.
    pub async fn assert_serves(&self) {
        let answer = exchange(&mut self.connect().await, get("/served"), &[], None).await;
        assert_eq!(answer.unwrap().head.status(), 200);
    }

    /// Memory that the proxy holds, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.proxy.resident_kib()
    }

    async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let config: Arc<ClientConfig> = self.authority.client(alpn);
        crate::client::tls(self.proxy.addr(0), "localhost", config)
            .await
            .unwrap()
    }
}

/// `GET https://localhost` and this path.
pub fn get(path: &str) -> Request<()> {
    request("GET", path)
}

pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .body(())
        .unwrap()
}

/// Sends a request in these pieces, and reads its answer to the end.
pub async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[&[u8]],
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let exchanging = async {
        let mut sender = sender.clone().ready().await?;
        let ends = body.is_empty() && trailers.is_none();
        let (answer, mut stream) = sender.send_request(request, ends)?;
        for (index, piece) in body.iter().enumerate() {
            let ends = index + 1 == body.len() && trailers.is_none();
            stream.send_data(Bytes::copy_from_slice(piece), ends)?;
        }
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers)?;
        }
        let (parts, mut incoming) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = incoming.data().await {
            let piece = piece?;
            incoming.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        let trailers = incoming.trailers().await?;
        let head = Response::from_parts(parts, ());
        Ok(Answer {
            head,
            body,
            trailers,
        })
    };
    soon("an answer", exchanging).await
}

impl Raw {
    pub async fn send(&mut self, frame: &[u8]) {
        self.stream.write_all(frame).await.unwrap();
        // Records that the socket had no room for wait until somebody asks.
        self.stream.flush().await.unwrap();
    }

    /// The next frame that passes.
    pub async fn frame(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let reading = async {
            loop {
                let frame = read_frame(&mut self.stream).await.unwrap();
                if wanted(&frame) {
                    return frame;
                }
            }
        };
        soon("a frame", reading).await
    }
}

impl Frame {
    /// A response head that says 200.
    pub fn is_ok(&self) -> bool {
        // `:status: 200` is an entry of HPACK's static table.
        self.kind == HEADERS && self.payload.first() == Some(&0x88)
    }
}

/// Reads the next frame.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        payload,
    })
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// A HEADERS frame that ends its stream.
pub fn headers(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// HPACK that leaves nothing in any table (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 §5.1 with a prefix of seven bits.
fn push_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(u8::try_from(length).unwrap());
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
        rest /= 0x80;
    }
    block.push(u8::try_from(rest).unwrap());
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 32;
