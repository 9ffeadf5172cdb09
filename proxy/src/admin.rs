//! The admin listener: health, readiness, metrics and reload over HTTP/1.1.
//!
//! There is no login. The listener is for loopback, a unix socket (made with mode 0600) or a network
//! that only operators reach. What it does guard against is a browser on the same machine: a
//! `POST` needs the header [`ADMIN_HEADER`], which a page of another origin cannot send without a
//! preflight that is never granted, and must not carry `Origin`; names other than `localhost` in
//! `Host` are refused where DNS rebinding could bring them (every `POST`, and everything on a
//! loopback address). Connections, heads and times are bounded by the constants below.

pub mod api;
pub mod client;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::config::model::Bind;
use crate::socket::{Socket, unix};
use crate::telemetry::metrics::Metrics;

/// What the admin listener may ask of the server.
pub trait AdminActions: Send + Sync + 'static {
    /// Reloads the configuration; further calls wait or join, as the server decides.
    ///
    /// Runs in a task of its own, so a client that leaves does not cut it in half.
    fn reload(&self) -> impl Future<Output = ReloadOutcome> + Send;

    fn readiness(&self) -> Readiness;
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration serves.
    Applied {
        generation: u64,
        /// Rendered warnings, empty without any.
        warnings: String,
    },
    /// The old configuration goes on.
    Rejected {
        /// The rendered mistakes.
        report: String,
    },
}

/// Whether new connections should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Starting,
    Ready,
    Draining,
}

/// What the admin pages show and do.
#[derive(Debug)]
pub struct AdminState<A> {
    pub metrics: Arc<Metrics>,
    pub actions: Arc<A>,
}

/// A bound admin listener; a unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub struct AdminListener {
    socket: ListenerSocket,
    /// Names other than `localhost` are refused in `Host`.
    loopback: bool,
    /// Kept only to remove the file when it is dropped.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl AdminListener {
    /// Binds the address; a unix socket that nobody listens on any more is replaced.
    pub async fn bind(bind: &Bind) -> io::Result<AdminListener> {
        let addr = match bind {
            Bind::Tcp(addr) => *addr,
            Bind::AnyTcp(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
            Bind::Unix(path) => {
                let socket = unix::listen(path, UNIX_MODE, BACKLOG)?;
                return Ok(AdminListener {
                    socket: ListenerSocket::Unix(UnixListener::from_std(socket.into())?),
                    loopback: false,
                    _file: Some(SocketFile(path.clone())),
                });
            }
        };
        Ok(AdminListener {
            socket: ListenerSocket::Tcp(TcpListener::bind(addr).await?),
            loopback: addr.ip().to_canonical().is_loopback(),
            _file: None,
        })
    }

    /// The address actually bound, for port 0; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => listener.local_addr().ok(),
            ListenerSocket::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => Ok(Socket::Tcp(listener.accept().await?.0)),
            ListenerSocket::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }

    fn trust(&self) -> api::Trust {
        match &self.socket {
            ListenerSocket::Unix(_) => api::Trust::Unix,
            ListenerSocket::Tcp(_) if self.loopback => api::Trust::Loopback,
            ListenerSocket::Tcp(_) => api::Trust::Network,
        }
    }
}

/// Serves until `shutdown` resolves, then cuts what is open.
///
/// Keep it running through a drain, so that `/readyz` can say so.
pub async fn serve<A: AdminActions>(
    listener: AdminListener,
    state: AdminState<A>,
    shutdown: impl Future<Output = ()>,
) {
    let state = Arc::new(state);
    let trust = listener.trust();
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= MAX_CONNECTIONS;
        let socket = tokio::select! {
            () = &mut shutdown => return,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            socket = listener.accept(), if !full => socket,
        };
        match socket {
            Ok(socket) => {
                connections.spawn(serve_connection(socket, Arc::clone(&state), trust));
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would spin.
                tracing::warn!(%error, "admin listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection<A: AdminActions>(
    socket: Socket,
    state: Arc<AdminState<A>>,
    trust: api::Trust,
) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(api::answer(&request, &state, trust).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), service);
    let result = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
    if let Ok(Err(error)) = result {
        tracing::debug!(%error, "admin connection failed");
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have removed it already; there is nothing left to do then.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Header that every `POST` must carry, with any value.
pub const ADMIN_HEADER: &str = "x-sluicegate-admin";

/// Connections at once; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;

/// Longest request head, bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// Longest wait for a request head, also between two requests.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest life of a connection; above what a reload may take.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);

/// Only who runs the proxy may ask it to reload.
const UNIX_MODE: u32 = 0o600;
const BACKLOG: i32 = 128;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
