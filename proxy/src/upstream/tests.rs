//! Picking, reloading, connecting and pooling, on loopback sockets and under paused time.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::{advance, sleep};

use super::*;
use crate::config::model::{
    CertSource, ListenerTls, Located, Protocols, Server, ServerAddress, TlsVersion, UpstreamTls,
};
use crate::http1::client::Connection;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::{ServerTls, self_signed};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SECOND: Duration = Duration::from_secs(1);

fn server(port: u16) -> Server {
    Server {
        address: ServerAddress::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        tls: false,
        protocols: Protocols::Http1,
        weight: NonZeroU32::MIN,
        backup: false,
        max_connections: None,
    }
}

fn config(servers: Vec<Server>) -> model::Upstream {
    model::Upstream {
        name: "test".into(),
        servers,
        balance: Balance::RoundRobin,
        tls: UpstreamTls::default(),
        health: PassiveHealth {
            fails: NonZeroU32::new(2).unwrap(),
            within: 10 * SECOND,
            out_for: 10 * SECOND,
        },
        keep_alive: 60 * SECOND,
        keep_alive_connections: 2,
        websocket: WebSocketOver::Auto,
        http2: Http2Pool {
            streams: 100,
            connections: 8,
            max_age: 3_600 * SECOND,
        },
        span: 0..0,
    }
}

fn upstream(servers: Vec<Server>) -> Arc<Upstream> {
    Upstream::build(&config(servers), None).unwrap()
}

/// Picks and leaves the lease be, as `Ok(index)`.
fn picked(upstream: &Upstream, tried: &[usize]) -> Result<usize, PickError> {
    upstream.pick(CLIENT, tried).map(|lease| lease.index())
}

fn take_down(upstream: &Upstream, index: usize) {
    let others: Vec<_> = (0..upstream.members.len())
        .filter(|&other| other != index)
        .collect();
    while let Ok(mut lease) = upstream.pick(CLIENT, &others) {
        lease.report(Outcome::Failure);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_endpoints_go_out_and_come_back_by_one_trial() {
    let upstream = upstream(vec![server(1), server(2)]);
    take_down(&upstream, 0);
    for _ in 0..4 {
        assert_eq!(picked(&upstream, &[]), Ok(1));
    }
    assert_eq!(picked(&upstream, &[1]), Err(PickError::AllDown));
    take_down(&upstream, 1);
    assert_eq!(picked(&upstream, &[]), Err(PickError::AllDown));

    advance(10 * SECOND).await;
    let mut trial = upstream.pick(CLIENT, &[1]).unwrap();
    assert_eq!(picked(&upstream, &[1]), Err(PickError::AllDown));
    trial.report(Outcome::Failure);
    drop(trial);
    assert_eq!(picked(&upstream, &[1]), Err(PickError::AllDown));

    advance(10 * SECOND).await;
    // A trial that is dropped without a report leaves room for the next.
    drop(upstream.pick(CLIENT, &[1]).unwrap());
    let mut trial = upstream.pick(CLIENT, &[1]).unwrap();
    trial.report(Outcome::Success);
    assert!(upstream.endpoints().next().unwrap().is_up());
    assert_eq!(picked(&upstream, &[1]), Ok(0));
}

#[tokio::test]
async fn backups_serve_only_while_nothing_else_is_up() {
    let mut servers = vec![server(1), server(2)];
    servers[1].backup = true;
    servers[0].max_connections = NonZeroUsize::new(1);
    let upstream = upstream(servers);
    let lease = upstream.pick(CLIENT, &[]).unwrap();
    assert_eq!(lease.index(), 0);
    assert_eq!(picked(&upstream, &[]), Err(PickError::AllBusy));
    drop(lease);
    assert_eq!(picked(&upstream, &[0]), Ok(1));
    take_down(&upstream, 0);
    assert_eq!(picked(&upstream, &[]), Ok(1));
}

#[tokio::test]
async fn leases_are_counted_until_they_are_dropped() {
    let mut config = config(vec![server(1), server(2)]);
    config.balance = Balance::LeastConn;
    config.servers[0].max_connections = NonZeroUsize::new(1);
    let upstream = Upstream::build(&config, None).unwrap();
    let tunnels: Vec<_> = (0..4)
        .map(|_| upstream.pick(CLIENT, &[]).unwrap())
        .collect();
    let active: Vec<_> = upstream.endpoints().map(|one| one.active()).collect();
    assert_eq!(active, [1, 3]);
    assert_eq!(picked(&upstream, &[1]), Err(PickError::AllBusy));
    drop(tunnels);
    assert!(upstream.endpoints().all(|one| one.active() == 0));
}

#[tokio::test]
async fn ip_hash_sticks_while_the_endpoint_is_up() {
    let mut config = config((1..=5).map(server).collect());
    config.balance = Balance::IpHash;
    let upstream = Upstream::build(&config, None).unwrap();
    let home = picked(&upstream, &[]).unwrap();
    for _ in 0..10 {
        assert_eq!(picked(&upstream, &[]), Ok(home));
    }
    take_down(&upstream, home);
    let away = picked(&upstream, &[]).unwrap();
    assert_ne!(away, home);
    assert_eq!(picked(&upstream, &[]), Ok(away));
    // The order of the servers does not matter: their addresses do.
    config.servers.reverse();
    let reversed = Upstream::build(&config, None).unwrap();
    assert_eq!(picked(&reversed, &[]), Ok(4 - home));
}

#[tokio::test]
async fn a_reload_goes_on_with_unchanged_endpoints() {
    let before = upstream(vec![server(1), server(2), server(2)]);
    take_down(&before, 0);
    let tunnel = before.pick(CLIENT, &[0, 2]).unwrap();
    assert_eq!(tunnel.index(), 1);

    let mut servers = vec![server(3), server(2), server(1), server(2)];
    servers[2].weight = NonZeroU32::new(7).unwrap();
    let after = Upstream::build(&config(servers), Some(&before)).unwrap();
    let old: Vec<_> = before.endpoints().collect();
    let new: Vec<_> = after.endpoints().collect();
    assert!(Arc::ptr_eq(new[1], old[1]) && Arc::ptr_eq(new[3], old[2]));
    assert!(Arc::ptr_eq(new[2], old[0]) && !new[2].is_up());
    assert!(new[0].is_up());
    assert_eq!(new[1].active(), 1);
    drop(tunnel);
    assert_eq!(new[1].active(), 0);
}

/// Its kept connections speak what it no longer does.
#[tokio::test]
async fn a_reload_that_changes_the_protocol_is_a_fresh_start() {
    let before = upstream(vec![server(1), server(2)]);
    let mut servers = vec![server(1), server(2)];
    servers[0].protocols = Protocols::Http2;
    let after = Upstream::build(&config(servers), Some(&before)).unwrap();
    let old: Vec<_> = before.endpoints().collect();
    let new: Vec<_> = after.endpoints().collect();
    assert!(!Arc::ptr_eq(new[0], old[0]) && Arc::ptr_eq(new[1], old[1]));
    assert_eq!(new[0].protocols(), Protocols::Http2);
    assert_eq!(new[0].name(), old[0].name());
}

#[tokio::test]
async fn connects_to_addresses_names_and_unix_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let connect = async |address: ServerAddress| {
        let endpoint = Endpoint::new(address, None, Protocols::Http1);
        endpoint.connect(Wish::Http1, pin!(sleep(5 * SECOND))).await
    };
    let by_address = connect(server(port).address).await.unwrap();
    let Stream::Plain(Socket::Tcp(stream)) = by_address.stream else {
        panic!("not a plain TCP stream");
    };
    assert!(stream.nodelay().unwrap());
    let endpoint = Endpoint::new(server(port).address, None, Protocols::Http2);
    for (wish, speaks) in [
        (Wish::Http1, Speaks::Http1),
        (Wish::Http2, Speaks::Http2),
        (Wish::Either, Speaks::Http1),
    ] {
        let connected = endpoint.connect(wish, pin!(sleep(5 * SECOND))).await;
        assert_eq!(connected.unwrap().speaks, speaks, "{wish:?}");
    }
    let name = ServerAddress::Name {
        host: "localhost".into(),
        port,
    };
    connect(name).await.unwrap();
    connect(ServerAddress::Unix(path.clone())).await.unwrap();

    let check = async |address: ServerAddress, kind: ConnectErrorKind| {
        let error = connect(address).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    };
    drop((listener, unix));
    check(server(port).address, ConnectErrorKind::Refused).await;
    check(ServerAddress::Unix(path), ConnectErrorKind::Refused).await;
    let missing = folder.path().join("missing.sock");
    check(ServerAddress::Unix(missing), ConnectErrorKind::Refused).await;
    let nameless = ServerAddress::Name {
        host: "no-such-host.invalid".into(),
        port,
    };
    check(nameless, ConnectErrorKind::Dns).await;
}

/// A listener whose certificate names `localhost`, and an upstream that trusts it.
fn tls_pair(port: u16, host: &str) -> (Arc<ServerTls>, Arc<Upstream>) {
    let folder = tempfile::tempdir().unwrap();
    let made = self_signed::self_signed(&["localhost"]).unwrap();
    let write = |file: &str, text: &str| {
        let value = folder.path().join(file);
        std::fs::write(&value, text).unwrap();
        Located { value, span: 0..0 }
    };
    let cert = write("cert.pem", &made.cert_pem);
    let key = write("key.pem", &made.key_pem);
    let mut config = config(vec![Server {
        address: ServerAddress::Name {
            host: host.into(),
            port,
        },
        tls: true,
        ..server(port)
    }]);
    config.tls.ca = Some(cert.clone());
    let listener = ListenerTls {
        certs: vec![CertSource { cert, key }],
        client_auth: None,
        min_version: TlsVersion::Tls12,
        span: 0..0,
    };
    let server = ServerTls::build(&listener, false, None).unwrap();
    (server, Upstream::build(&config, None).unwrap())
}

#[tokio::test]
async fn connects_with_tls_and_verifies() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for (host, verifies) in [("localhost", true), ("127.0.0.1", false)] {
        let (tls, upstream) = tls_pair(port, host);
        let endpoint = upstream.endpoints().next().unwrap();
        assert!(endpoint.uses_tls());
        assert_eq!(endpoint.to_string(), format!("https://{host}:{port}"));
        let accept = async {
            let (socket, _) = listener.accept().await?;
            let (mut stream, _) = tls.accept(Socket::Tcp(socket)).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        };
        let connect = async {
            let connected = endpoint
                .connect(Wish::Http1, pin!(sleep(5 * SECOND)))
                .await?;
            let mut stream = connected.stream;
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text).await;
            Ok::<_, ConnectError>(text)
        };
        let (_, connected): (io::Result<()>, _) = tokio::join!(accept, connect);
        match connected {
            Ok(text) => assert!(verifies && text == "hello", "{text}"),
            Err(error) => {
                assert!(!verifies, "{error}");
                assert_eq!(error.kind, ConnectErrorKind::Tls);
            }
        }
    }
}

#[tokio::test]
async fn a_silent_tls_server_runs_into_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_, upstream) = tls_pair(listener.local_addr().unwrap().port(), "localhost");
    let endpoint = upstream.endpoints().next().unwrap();
    let error = endpoint
        .connect(Wish::Http1, pin!(sleep(Duration::from_millis(50))))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ConnectErrorKind::Timeout, "{error}");
    assert_eq!(error.kind.label(), "timeout");
}

/// An idle connection and the server's end of it.
fn idle() -> (Connection<Stream>, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Connection::new(Stream::Plain(Socket::Unix(near))), far)
}

/// Waits until the other end has closed.
async fn closed(mut far: UnixStream) {
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_pool_is_bounded_and_forgets() {
    let upstream = upstream(vec![server(1), server(2)]);
    let endpoints: Vec<_> = upstream.endpoints().cloned().collect();
    let pool = Pool::new();
    assert!(pool.take(&endpoints[0], Instant::now()).is_none());

    let mut ends = Vec::new();
    for _ in 0..3 {
        let (connection, far) = idle();
        pool.put_back(&endpoints[0], connection, 60 * SECOND, 2);
        ends.push(far);
    }
    assert_eq!(pool.len(), 2);
    assert!(pool.take(&endpoints[1], Instant::now()).is_none());
    // The first was pushed out, and closed.
    closed(ends.remove(0)).await;
    assert!(pool.take(&endpoints[0], Instant::now()).is_some());
    assert!(pool.take(&endpoints[0], Instant::now()).is_some());
    assert!(pool.take(&endpoints[0], Instant::now()).is_none());

    let (connection, far) = idle();
    pool.put_back(&endpoints[1], connection, 60 * SECOND, 2);
    advance(59 * SECOND).await;
    pool.sweep();
    assert_eq!(pool.len(), 1);
    advance(SECOND).await;
    assert!(pool.take(&endpoints[1], Instant::now()).is_none());
    closed(far).await;

    let (connection, far) = idle();
    pool.put_back(&endpoints[1], connection, 60 * SECOND, 2);
    drop((upstream, endpoints));
    pool.sweep();
    assert!(pool.is_empty());
    closed(far).await;
}

/// A server that has closed, or that speaks unasked, is not used.
#[tokio::test]
async fn a_connection_that_is_not_quiet_is_not_given() {
    let upstream = upstream(vec![server(1)]);
    let endpoint = upstream.endpoints().next().unwrap();
    let pool = Pool::new();
    for says in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(says).await.unwrap();
        drop(far);
        // Until the runtime knows of it.
        near.readable().await.unwrap();
        let connection = Connection::new(Stream::Plain(Socket::Unix(near)));
        pool.put_back(endpoint, connection, 60 * SECOND, 1);
        assert!(pool.take(endpoint, Instant::now()).is_none());
    }
}
