//! Clients: raw bytes over plain TCP or TLS, and WebSockets on top of either.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::soon;

/// The head of an HTTP/1.1 response.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    /// Names in lower case, in the order of the wire.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(own, _)| own == name);
        field.map(|(_, value)| value.as_str())
    }
}

/// Connects over TCP.
pub async fn tcp(addr: SocketAddr) -> TcpStream {
    let stream = soon("a TCP connection", TcpStream::connect(addr))
        .await
        .unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects over TCP from this address of our own.
pub async fn tcp_from(source: IpAddr, addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    soon("a TCP connection", socket.connect(addr))
        .await
        .unwrap()
}

/// Connects over TLS with this server name.
pub async fn tls(
    addr: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(config).connect(name, tcp(addr).await);
    soon("a TLS handshake", connecting).await
}

/// Reads one response head, byte by byte: what follows stays in the stream.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Head> {
    let bytes = read_head_bytes(stream).await?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.trim_end().split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Head { status, fields })
}

/// Reads one request head, for upstreams that a test plays.
pub async fn read_request_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let bytes = read_head_bytes(stream).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn read_head_bytes(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(stream.read_u8().await?);
        }
        Ok(bytes)
    };
    soon("a head", reading).await
}

/// Reads a head and the body that its Content-Length announces.
pub async fn read_response(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<(Head, Vec<u8>)> {
    let head = read_head(stream).await?;
    let length = head
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    soon("a response body", stream.read_exact(&mut body)).await?;
    Ok((head, body))
}

/// Everything until the peer ends the stream (or breaks it).
pub async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset after the last byte is an end like any other here.
    let _ = soon("the end of the stream", reading).await;
    bytes
}

/// Sends raw bytes on a fresh connection and gives back everything until the proxy closes it.
pub async fn exchange(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = tcp(addr).await;
    // The proxy may close before it has read everything.
    let _ = stream.write_all(request).await;
    read_to_end(&mut stream).await
}

/// `GET path` on a fresh connection; status, head and body.
pub async fn get(addr: SocketAddr, path: &str) -> (Head, Vec<u8>) {
    let mut stream = tcp(addr).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_response(&mut stream).await.unwrap()
}

/// A WebSocket handshake over a stream that is connected already.
pub async fn websocket<S>(
    stream: S,
    request: Request,
) -> Result<(WebSocketStream<S>, Response), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    soon(
        "a handshake",
        tokio_tungstenite::client_async_with_config(request, stream, Some(config())),
    )
    .await
}

/// A handshake request for `url` with these extra fields.
pub fn ws_request(url: &str, fields: &[(&'static str, &str)]) -> Request {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = url.into_client_request().unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// `GET path` over a connection that stays open, with these extra field lines (each with its line
/// end); the body is parsed as JSON if it is.
pub async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    host: &str,
    path: &str,
    fields: &str,
) -> std::io::Result<(Head, Value)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let (head, body) = read_response(stream).await?;
    Ok((head, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// The values of a header field in a description (see `Upstream::describing`).
pub fn values_of<'a>(described: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = described["headers"].as_array().unwrap();
    let named = headers.iter().filter(|pair| pair[0] == name);
    named.map(|pair| pair[1].as_str().unwrap()).collect()
}

/// Small buffers, so that thousands of sockets fit into a test.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096)
}
