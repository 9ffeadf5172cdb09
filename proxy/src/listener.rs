//! Listening sockets: bound once for all workers, accepting without falling over.
//!
//! On TCP every worker gets a socket of its own (SO_REUSEPORT) and the kernel spreads the
//! connections. SO_REUSEPORT would also let a second server of the same user steal half of them,
//! so the first socket is bound without it: a port that is taken is an error here. A unix
//! socket is one socket that the workers share; the file of a server that died is replaced, that of
//! a live one is an error. The file stays behind on exit, for the next start to replace.
//!
//! Accepting never ends and never spins: what went wrong with one connection is skipped, and when
//! descriptors or memory run out the worker pauses for a moment and goes on.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::config::model::Bind;
use crate::facts::Peer;
use crate::socket::{Socket, unix};

/// The sockets of one listener, listening but not yet accepted from.
#[derive(Debug)]
pub struct BoundListener {
    /// Where it listens; a port of 0 is resolved.
    pub local_addr: LocalAddr,
    /// One for each worker.
    pub sockets: Vec<ListenSocket>,
}

/// A bound address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A listening socket on its way to a worker.
#[derive(Debug)]
pub struct ListenSocket {
    socket: RawSocket,
    unix: bool,
}

/// A listening socket in its worker's runtime.
#[derive(Debug)]
pub struct Acceptor {
    source: Source,
    pause: Option<Duration>,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`: {source}")]
pub struct BindError {
    /// As configured.
    pub address: String,
    pub source: io::Error,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl BoundListener {
    /// Binds `bind` and listens, with one socket for each of `workers`.
    ///
    /// `:port` is one dual-stack socket, or IPv4 alone on a machine without IPv6; an IPv6 address
    /// that is written out takes no IPv4 clients. A unix socket gets the mode 0660. Once this
    /// returns, clients can connect; they wait in the backlog until a worker accepts.
    pub fn bind(bind: &Bind, workers: usize) -> Result<Self, BindError> {
        match bind {
            Bind::Tcp(address) => bind_tcp(*address, true, workers),
            Bind::AnyTcp(port) => {
                let dual = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
                match bind_tcp(dual, false, workers) {
                    Err(error) if is_without_ipv6(&error) => bind_tcp(
                        SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)),
                        true,
                        workers,
                    ),
                    other => other,
                }
            }
            Bind::Unix(path) => bind_unix(path, workers),
        }
        .map_err(|source| BindError {
            address: bind.to_string(),
            hint: hint(bind, &source),
            source,
        })
    }
}

impl LocalAddr {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            LocalAddr::Tcp(address) => Some(*address),
            LocalAddr::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddr::Tcp(address) => address.fmt(f),
            LocalAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenSocket {
    /// Hands the socket to the current runtime, which must be the worker's own.
    ///
    /// Fails when called outside a runtime or when its poller takes no more sockets.
    pub fn register(self) -> io::Result<Acceptor> {
        let source = if self.unix {
            Source::Unix(UnixListener::from_std(self.socket.into())?)
        } else {
            Source::Tcp(TcpListener::from_std(self.socket.into())?)
        };
        Ok(Acceptor {
            source,
            pause: None,
        })
    }
}

impl Acceptor {
    /// Waits for the next connection, however long that takes.
    ///
    /// A connection that its client gave up in the backlog is skipped. Any other error, which is
    /// as a rule a lack of descriptors or memory, is logged and followed by a pause, 10 ms at first
    /// and half a second at most, in which other connections may end. TCP sockets come with
    /// TCP_NODELAY. Dropping the future loses no connection. `failed` is called before each pause.
    pub async fn accept(&mut self, failed: impl Fn()) -> (Socket, Peer) {
        loop {
            let accepted = match &self.source {
                Source::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, address)| (Socket::Tcp(stream), Peer::Ip(address))),
                Source::Unix(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, _)| (Socket::Unix(stream), Peer::Unix)),
            };
            match accepted {
                Ok(accepted) => {
                    self.pause = None;
                    return accepted;
                }
                Err(error) => {
                    if let Some(pause) = self.pause_after(&error) {
                        failed();
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// How long to wait after an error; the first of a row is logged, not every one.
    fn pause_after(&mut self, error: &io::Error) -> Option<Duration> {
        if is_of_one_connection(error) {
            return None;
        }
        if self.pause.is_none() {
            tracing::warn!(%error, "cannot accept connections for the moment");
        }
        let longer = self.pause.map(|last| (last * 2).min(LONGEST_PAUSE));
        self.pause = Some(longer.unwrap_or(FIRST_PAUSE));
        self.pause
    }
}

fn bind_tcp(mut address: SocketAddr, only_v6: bool, workers: usize) -> io::Result<BoundListener> {
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = tcp_socket(&address, only_v6)?;
        if sockets.is_empty() {
            // Alone: a port that anybody listens on is an error, and a port of 0 becomes one that
            // is really free. Only then may the other workers' sockets join.
            socket.bind(&address.into())?;
            socket.set_reuse_port(true)?;
            let port = socket.local_addr()?.as_socket().map(|local| local.port());
            address.set_port(port.unwrap_or(address.port()));
        } else {
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
        }
        socket.listen(BACKLOG)?;
        sockets.push(ListenSocket {
            socket,
            unix: false,
        });
    }
    Ok(BoundListener {
        local_addr: LocalAddr::Tcp(address),
        sockets,
    })
}

fn tcp_socket(address: &SocketAddr, only_v6: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(*address), Type::STREAM, None)?;
    // Connections of a former process that linger in TIME_WAIT must not block a restart.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Accepted sockets inherit it, which saves each a system call.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_unix(path: &Path, workers: usize) -> io::Result<BoundListener> {
    let socket = unix::listen(path, UNIX_MODE, BACKLOG)?;
    let sockets = (0..workers)
        .map(|_| {
            Ok(ListenSocket {
                socket: socket.try_clone()?,
                unix: true,
            })
        })
        .collect::<io::Result<_>>()?;
    Ok(BoundListener {
        local_addr: LocalAddr::Unix(path.to_owned()),
        sockets,
    })
}

/// No IPv6 in the kernel, or none configured.
fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn hint(bind: &Bind, error: &io::Error) -> Option<String> {
    let port = match bind {
        Bind::Tcp(address) => Some(address.port()),
        Bind::AnyTcp(port) => Some(*port),
        Bind::Unix(_) => None,
    };
    match (error.kind(), port) {
        (io::ErrorKind::AddrInUse, Some(port)) => Some(format!(
            "another server listens there; find it with `ss -ltnp 'sport = :{port}'`"
        )),
        (io::ErrorKind::AddrInUse, None) => {
            Some("another server listens there; stop it, or choose another path".to_owned())
        }
        (io::ErrorKind::PermissionDenied, Some(..1024)) => Some(
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE: in a systemd unit \
             `AmbientCapabilities=CAP_NET_BIND_SERVICE`, or once \
             `setcap cap_net_bind_service=+ep` on the program"
                .to_owned(),
        ),
        (io::ErrorKind::PermissionDenied, None) => {
            Some("the user that runs sluicegate must be able to write to the folder".to_owned())
        }
        (io::ErrorKind::AddrNotAvailable, _) => Some(
            "this machine has no such address; `:port` listens on every address it has".to_owned(),
        ),
        (io::ErrorKind::NotFound, None) => Some("the folder must exist".to_owned()),
        _ => None,
    }
}

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// For the owner and the group, e.g. that of a web server in front.
const UNIX_MODE: u32 = 0o660;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;

    fn loopback(port: u16) -> Bind {
        Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    async fn accept_any(acceptors: &mut [Acceptor]) -> (Socket, Peer) {
        let [first, second] = acceptors else {
            panic!("two workers");
        };
        tokio::select! {
            accepted = first.accept(|| ()) => accepted,
            accepted = second.accept(|| ()) => accepted,
        }
    }

    fn register(bound: BoundListener) -> Vec<Acceptor> {
        let sockets = bound.sockets.into_iter();
        sockets.map(|socket| socket.register().unwrap()).collect()
    }

    #[tokio::test]
    async fn workers_share_a_port_that_is_resolved_once() {
        let bound = BoundListener::bind(&loopback(0), 2).unwrap();
        let address = bound.local_addr.tcp().unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(bound.local_addr.to_string(), address.to_string());
        for socket in &bound.sockets {
            let local = socket.socket.local_addr().unwrap();
            assert_eq!(local.as_socket(), Some(address));
        }
        let mut acceptors = register(bound);
        for _ in 0..20 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (mut socket, peer) = accept_any(&mut acceptors).await;
            assert_eq!(peer, Peer::Ip(client.local_addr().unwrap()));
            let Socket::Tcp(stream) = &socket else {
                panic!("not TCP");
            };
            assert!(stream.nodelay().unwrap());
            client.write_all(b"x").await.unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn any_address_takes_ipv4_clients() {
        let bound = BoundListener::bind(&Bind::AnyTcp(0), 2).unwrap();
        let port = bound.local_addr.tcp().unwrap().port();
        let mut acceptors = register(bound);
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let (_, peer) = accept_any(&mut acceptors).await;
        assert_eq!(peer.ip(), client.local_addr().unwrap().ip());
    }

    #[test]
    fn a_taken_port_is_an_error_in_spite_of_reuse_port() {
        let bound = BoundListener::bind(&loopback(0), 2).unwrap();
        let port = bound.local_addr.tcp().unwrap().port();
        let error = BoundListener::bind(&loopback(port), 2).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("`127.0.0.1:{port}`")));
        assert!(error.hint.unwrap().contains(&format!(":{port}'")));
        let error = BoundListener::bind(&Bind::AnyTcp(port), 1).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot listen on `:{port}`"))
        );
        drop(bound);
        BoundListener::bind(&loopback(port), 2).unwrap();
    }

    #[tokio::test]
    async fn a_restart_binds_while_old_connections_linger() {
        let bound = BoundListener::bind(&loopback(0), 2).unwrap();
        let address = bound.local_addr.tcp().unwrap();
        let mut acceptors = register(bound);
        let mut client = TcpStream::connect(address).await.unwrap();
        // The server closes first: its side of the connection goes to TIME_WAIT.
        drop(accept_any(&mut acceptors).await);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        drop((client, acceptors));
        BoundListener::bind(&loopback(address.port()), 2).unwrap();
    }

    #[tokio::test]
    async fn a_unix_socket_replaces_a_dead_one_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let bind = Bind::Unix(path.clone());
        let bound = BoundListener::bind(&bind, 2).unwrap();
        assert_eq!(
            bound.local_addr.to_string(),
            format!("unix:{}", path.display())
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = BoundListener::bind(&bind, 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.hint.is_some());

        // The probe of the failed bind waits in the backlog; the client comes behind it.
        let mut acceptors = register(bound);
        accept_any(&mut acceptors).await;
        let mut client = UnixStream::connect(&path).await.unwrap();
        let (mut socket, peer) = accept_any(&mut acceptors).await;
        assert_eq!(peer, Peer::Unix);
        client.write_all(b"x").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'x');

        drop(acceptors);
        assert!(path.exists());
        BoundListener::bind(&bind, 1).unwrap();

        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let error = BoundListener::bind(&bind, 1).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn hints_name_the_cure() {
        let check = |bind: &Bind, kind: io::ErrorKind, expected: Option<&str>| {
            let hint = hint(bind, &io::Error::from(kind));
            match (hint, expected) {
                (Some(hint), Some(expected)) => assert!(hint.contains(expected), "{hint}"),
                (hint, expected) => assert_eq!(hint.as_deref(), expected),
            }
        };
        let unix = Bind::Unix("/run/s.sock".into());
        let denied = io::ErrorKind::PermissionDenied;
        check(&Bind::AnyTcp(443), denied, Some("CAP_NET_BIND_SERVICE"));
        check(&Bind::AnyTcp(8443), denied, None);
        check(&unix, denied, Some("folder"));
        check(&unix, io::ErrorKind::NotFound, Some("must exist"));
        check(
            &loopback(80),
            io::ErrorKind::AddrNotAvailable,
            Some("no such address"),
        );
    }

    #[tokio::test]
    async fn only_a_lack_of_resources_makes_a_pause() {
        let bound = BoundListener::bind(&loopback(0), 1).unwrap();
        let address = bound.local_addr.tcp().unwrap();
        let mut acceptor = register(bound).remove(0);
        let pause_after = |acceptor: &mut Acceptor, errno: i32| {
            acceptor.pause_after(&io::Error::from_raw_os_error(errno))
        };
        let milliseconds = |count| Some(Duration::from_millis(count));
        for (errno, expected) in [
            (libc::ECONNABORTED, None),
            (libc::EINTR, None),
            (libc::EMFILE, milliseconds(10)),
            (libc::ENFILE, milliseconds(20)),
            (libc::ECONNABORTED, None),
            (libc::ENOMEM, milliseconds(40)),
            (libc::ENOBUFS, milliseconds(80)),
        ] {
            assert_eq!(pause_after(&mut acceptor, errno), expected, "{errno}");
        }
        for _ in 0..10 {
            pause_after(&mut acceptor, libc::EMFILE);
        }
        assert_eq!(acceptor.pause, Some(LONGEST_PAUSE));

        // A connection ends the row.
        let _client = TcpStream::connect(address).await.unwrap();
        acceptor.accept(|| ()).await;
        assert_eq!(pause_after(&mut acceptor, libc::EMFILE), milliseconds(10));
    }
}
