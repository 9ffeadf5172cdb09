//! Asking a running proxy for a reload, for `sluicegate reload`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::{ADMIN_HEADER, ReloadOutcome};
use crate::config::model::Bind;
use crate::socket::Socket;

/// Why no outcome came back; the reload may have happened all the same after `Timeout`.
#[derive(Debug, thiserror::Error)]
pub enum ReloadRequestError {
    #[error("no proxy answers on its admin address")]
    Connect(#[source] io::Error),
    #[error("no answer from the proxy's admin address in time")]
    Timeout,
    #[error("the connection to the admin address failed")]
    Http(#[from] hyper::Error),
    #[error("the admin address answered {status}: `{body}`")]
    Unexpected { status: StatusCode, body: String },
}

/// Asks the proxy whose admin listener is `bind` to reload, and waits for what comes of it.
///
/// Waits at most [`CONNECT_TIMEOUT`] for the connection and [`RELOAD_TIMEOUT`] for the answer.
pub async fn request_reload(bind: &Bind) -> Result<ReloadOutcome, ReloadRequestError> {
    let socket = timeout(CONNECT_TIMEOUT, connect(bind))
        .await
        .map_err(|_| ReloadRequestError::Timeout)?
        .map_err(ReloadRequestError::Connect)?;
    timeout(RELOAD_TIMEOUT, exchange(socket))
        .await
        .map_err(|_| ReloadRequestError::Timeout)?
}

async fn connect(bind: &Bind) -> io::Result<Socket> {
    let addr = match bind {
        Bind::Unix(path) => return Ok(Socket::Unix(UnixStream::connect(path).await?)),
        Bind::AnyTcp(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
        Bind::Tcp(addr) => match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, addr.port()).into(),
            IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, addr.port()).into(),
            _ => *addr,
        },
    };
    Ok(Socket::Tcp(TcpStream::connect(addr).await?))
}

async fn exchange(socket: Socket) -> Result<ReloadOutcome, ReloadRequestError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/reload");
    let headers = request.headers_mut();
    headers.insert(HOST, http::HeaderValue::from_static("localhost"));
    headers.insert(ADMIN_HEADER, http::HeaderValue::from_static("1"));
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        // The keys decide, not the status: an outcome is one of ours or it does not parse.
        serde_json::from_slice(&body).map_err(|_| ReloadRequestError::Unexpected {
            status,
            body: excerpt(&body),
        })
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        // The answer first: the connection may end in the same moment.
        biased;
        outcome = &mut answer => outcome,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

/// The beginning of a strange answer, fit for a terminal.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    text.trim().escape_debug().to_string()
}

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Plugins may have to be compiled.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(300);

const MAX_ANSWER: usize = 4 << 20;
