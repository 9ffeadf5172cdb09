//! Endpoints, and the way to them: name look-up, socket, TLS, all under one deadline.
//!
//! A name is looked up at each connect and its addresses are tried in turn; no attempt may use up
//! the time of those behind it. Nothing is sent but a TLS handshake, so a failed connect can
//! always be tried elsewhere.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, Sleep};

use super::balance::stable_hash;
use super::health::Health;
use crate::config::model::{Protocols, ServerAddress};
use crate::deadline::until;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::{ClientTls, Speaks, Wish};

/// One server of an upstream; it keeps its identity through reloads.
#[derive(Debug)]
pub struct Endpoint {
    address: ServerAddress,
    tls: Option<Arc<ClientTls>>,
    protocols: Protocols,
    /// As [`fmt::Display`] shows it.
    name: String,
    /// Stable hash of the name.
    seed: u64,
    active: AtomicUsize,
    pub(super) health: Health,
}

/// A new connection to an endpoint.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    pub speaks: Speaks,
}

/// Why there is no connection to an endpoint.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to `{endpoint}`: {source}")]
pub struct ConnectError {
    pub kind: ConnectErrorKind,
    /// The endpoint as configured.
    pub endpoint: String,
    pub source: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectErrorKind {
    Dns,
    Refused,
    Unreachable,
    Timeout,
    /// The TLS handshake failed, or the certificate did not verify.
    Tls,
    /// We ran out of descriptors, ports or memory: says nothing about the endpoint.
    Local,
    Other,
}

type Fault = (ConnectErrorKind, io::Error);

impl ConnectErrorKind {
    /// For metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            ConnectErrorKind::Dns => "dns",
            ConnectErrorKind::Refused => "refused",
            ConnectErrorKind::Unreachable => "unreachable",
            ConnectErrorKind::Timeout => "timeout",
            ConnectErrorKind::Tls => "tls",
            ConnectErrorKind::Local => "local",
            ConnectErrorKind::Other => "other",
        }
    }
}

impl Endpoint {
    pub(super) fn new(
        address: ServerAddress,
        tls: Option<Arc<ClientTls>>,
        protocols: Protocols,
    ) -> Self {
        let mut endpoint = Self {
            address,
            tls,
            protocols,
            name: String::new(),
            seed: 0,
            active: AtomicUsize::new(0),
            health: Health::new(),
        };
        endpoint.name = endpoint.to_string();
        endpoint.seed = stable_hash(endpoint.name.as_bytes());
        endpoint
    }

    /// Opens a connection before `timer` fires: look-up, socket and TLS handshake.
    ///
    /// Over TLS `wish` is what ALPN offers, and only HTTP/2 wished for and not chosen is an error of kind
    /// [`Tls`](ConnectErrorKind::Tls). Without TLS nobody is asked: the wish is what is spoken.
    /// Afterwards the timer may stand at an earlier time. Dropping the future closes what was opened
    /// so far.
    pub async fn connect(
        &self,
        wish: Wish,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<Connected, ConnectError> {
        let deadline = timer.deadline();
        let opened = match self.open(timer.as_mut()).await {
            Err(fault) => Err(fault),
            Ok(socket) => match &self.tls {
                None => Ok(Connected {
                    stream: Stream::Plain(socket),
                    speaks: match wish {
                        Wish::Http1 | Wish::Either => Speaks::Http1,
                        Wish::Http2 => Speaks::Http2,
                    },
                }),
                Some(tls) => {
                    // Boxed: a request to a plain endpoint does not hold room for it.
                    Box::pin(self.shake_hands(tls, socket, wish, deadline, timer)).await
                }
            },
        };
        opened.map_err(|(kind, source)| ConnectError {
            kind,
            endpoint: self.to_string(),
            source,
        })
    }

    /// The address as configured, with its scheme if that is https.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host and port as a `Host` field has them; `localhost` on a unix socket.
    pub fn authority(&self) -> &str {
        match self.address {
            ServerAddress::Unix(_) => "localhost",
            _ => self.name.strip_prefix("https://").unwrap_or(&self.name),
        }
    }

    /// Leases held now: requests and live tunnels.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// False from too many failures until a trial succeeds.
    pub fn is_up(&self) -> bool {
        self.health.is_up()
    }

    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What it is configured to be spoken to in.
    pub fn protocols(&self) -> Protocols {
        self.protocols
    }

    /// Whether a reload may go on with this endpoint for that server.
    ///
    /// Where the protocol changes it may not: its kept connections speak the other one.
    pub(super) fn is_same(
        &self,
        address: &ServerAddress,
        tls: Option<&Arc<ClientTls>>,
        protocols: Protocols,
    ) -> bool {
        self.address == *address
            && self.protocols == protocols
            && match (&self.tls, tls) {
                (None, None) => true,
                (Some(mine), Some(other)) => Arc::ptr_eq(mine, other),
                _ => false,
            }
    }

    /// Stable hash of the address.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Counts one more lease unless there are `max` already.
    pub(super) fn acquire(&self, max: usize) -> bool {
        self.active
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |active| {
                (active < max).then_some(active + 1)
            })
            .is_ok()
    }

    pub(super) fn release(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    async fn open(&self, mut timer: Pin<&mut Sleep>) -> Result<Socket, Fault> {
        match &self.address {
            ServerAddress::Ip(address) => open_tcp(&[*address], timer).await,
            ServerAddress::Name { host, port } => {
                let deadline = timer.deadline();
                let look_up = Box::pin(lookup_host((&**host, *port)));
                let found = match until(deadline, timer.as_mut(), pin!(look_up)).await {
                    Some(Ok(found)) => found.take(MAX_ADDRESSES).collect::<Vec<_>>(),
                    Some(Err(error)) if is_lack_of_our_own(&error) => {
                        return Err((ConnectErrorKind::Local, error));
                    }
                    Some(Err(error)) => return Err((ConnectErrorKind::Dns, error)),
                    None => return Err(timed_out("the name look-up took too long")),
                };
                open_tcp(&found, timer).await
            }
            ServerAddress::Unix(path) => {
                let deadline = timer.deadline();
                match until(deadline, timer, pin!(UnixStream::connect(path))).await {
                    Some(Ok(stream)) => Ok(Socket::Unix(stream)),
                    Some(Err(error)) => Err((kind(&error), error)),
                    None => Err(timed_out("the socket did not accept in time")),
                }
            }
        }
    }

    async fn shake_hands(
        &self,
        tls: &ClientTls,
        socket: Socket,
        wish: Wish,
        deadline: Instant,
        timer: Pin<&mut Sleep>,
    ) -> Result<Connected, Fault> {
        let host = self.host();
        match until(deadline, timer, pin!(tls.connect(socket, &host, wish))).await {
            Some(Ok((stream, speaks))) => Ok(Connected {
                stream: Stream::ClientTls(Box::new(stream)),
                speaks,
            }),
            Some(Err(error)) => Err((ConnectErrorKind::Tls, error)),
            None => Err(timed_out("the TLS handshake took too long")),
        }
    }

    /// The name that TLS verifies; a unix socket has none of its own.
    fn host(&self) -> String {
        match &self.address {
            ServerAddress::Ip(address) => address.ip().to_string(),
            ServerAddress::Name { host, .. } => host.to_string(),
            ServerAddress::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls.is_some() {
            f.write_str("https://")?;
        }
        match &self.address {
            ServerAddress::Ip(address) => address.fmt(f),
            ServerAddress::Name { host, port } => match host.parse() {
                Ok(IpAddr::V6(_)) => write!(f, "[{host}]:{port}"),
                _ => write!(f, "{host}:{port}"),
            },
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Tries the addresses in turn, each with a fair part of the time that is left to `timer`.
async fn open_tcp(addresses: &[SocketAddr], mut timer: Pin<&mut Sleep>) -> Result<Socket, Fault> {
    let deadline = timer.deadline();
    let mut last = None;
    for (index, &address) in addresses.iter().enumerate() {
        let until_then = match u32::try_from(addresses.len() - index) {
            Ok(1) | Err(_) => deadline,
            Ok(left) => {
                let now = Instant::now();
                now + deadline.saturating_duration_since(now) / left
            }
        };
        match until(until_then, timer.as_mut(), pin!(dial(address))).await {
            Some(Ok(stream)) => return Ok(Socket::Tcp(stream)),
            Some(Err(error)) => last = Some((kind(&error), error)),
            None => last = Some(timed_out("no answer in time")),
        }
    }
    Err(last.unwrap_or_else(|| {
        let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        (ConnectErrorKind::Dns, error)
    }))
}

/// Connects, and asks for the outcome only where the poller hints at a bad one.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = RawSocket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Small frames must not wait for an acknowledgement; without it things still work.
    let _ = socket.set_tcp_nodelay(true);
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    // A failed connect closes both ways and is writable for that.
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

fn kind(error: &io::Error) -> ConnectErrorKind {
    match error.kind() {
        // A unix socket whose server is gone says one or the other.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ConnectErrorKind::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ConnectErrorKind::Unreachable
        }
        io::ErrorKind::TimedOut => ConnectErrorKind::Timeout,
        _ if is_lack_of_our_own(error) => ConnectErrorKind::Local,
        _ => ConnectErrorKind::Other,
    }
}

/// No descriptor, no free port of ours, no memory.
fn is_lack_of_our_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

fn timed_out(what: &'static str) -> Fault {
    let error = io::Error::new(io::ErrorKind::TimedOut, what);
    (ConnectErrorKind::Timeout, error)
}

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
