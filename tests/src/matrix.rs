//! Every way of a WebSocket through the proxy: by an upgrade of HTTP/1.1 or by a stream of HTTP/2, to the
//! proxy and on to the upstream, at each level of a tunnel, in plain and over TLS.

use std::fmt;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tempfile::TempDir;

use crate::certs::Authority;
use crate::client;
use crate::http2::client::Client;
use crate::http2::server::{Arrival, Manner, Server};
use crate::proxy::Proxy;
use crate::websocket::leg::Wire;
use crate::websocket::opening::Wish;
use crate::websocket::{AnyPeer, Peer};
use crate::wire::Head;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// How deep the tunnel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Copy,
    Follow,
    Messages,
    /// Messages, each leg compressed on its own.
    Terminate,
}

#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub downstream: Protocol,
    pub upstream: Protocol,
    pub level: Level,
    /// On both legs.
    pub tls: bool,
}

/// A proxy with a route for every cell, and the upstreams behind it.
pub struct Bench {
    pub proxy: Proxy,
    authority: Authority,
    plain: Server,
    tls: Server,
    /// Its upstreams and routes; [`LISTENERS`] go before.
    pub config: String,
}

/// A client's connections to the proxy, one of HTTP/2 for all of its sockets.
#[derive(Default)]
pub struct Visitor {
    plain: Option<Client>,
    tls: Option<Client>,
}

impl Bench {
    /// `more` goes on behind the routes.
    pub async fn start(more: &str) -> Bench {
        let authority = Authority::new("test authority");
        let identity = authority.issue(&["localhost"]);
        let dir = TempDir::new().unwrap();
        identity.write(dir.path(), "localhost");
        std::fs::write(dir.path().join("authority.pem"), &authority.pem).unwrap();
        let manner = Manner {
            tls: None,
            websocket: true,
            streams: None,
        };
        let plain = Server::new(manner.clone()).await;
        let tls = Server::new(Manner {
            tls: Some(identity.server_for(&["h2", "http/1.1"])),
            ..manner
        })
        .await;
        let mut config = String::new();
        for (secure, port) in [(false, plain.addr.port()), (true, tls.addr.port())] {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let scheme = protocol.scheme(secure);
                let trust = if secure {
                    "tls = { ca = 'authority.pem' }"
                } else {
                    ""
                };
                config += &format!(
                    "[upstream.{scheme}]\nservers = ['{scheme}://localhost:{port}']\n{trust}\n"
                );
                for level in LEVELS {
                    let rules = match level {
                        Level::Copy => "follow = false",
                        Level::Follow => "",
                        Level::Messages => "message_size = '16MiB'",
                        Level::Terminate => "compression = 'terminate'",
                    };
                    config += &format!(
                        "[[route]]\npath = '/{scheme}/{level:?}/'\nto = '{scheme}'\n{rules}\n"
                    );
                }
            }
        }
        config += more;
        let proxy = Proxy::start_in(dir, &format!("{LISTENERS}{config}")).await;
        Bench {
            proxy,
            authority,
            plain,
            tls,
            config,
        }
    }

    /// Holds a check in every cell with one of these levels.
    pub async fn in_every_cell(&self, levels: &[Level], check: impl AsyncFn(Cell)) {
        let mut failed = Vec::new();
        for cell in cells(levels) {
            if AssertUnwindSafe(check(cell)).catch_unwind().await.is_err() {
                eprintln!("this was in {cell}");
                failed.push(cell.to_string());
                self.plain.forget().await;
                self.tls.forget().await;
            }
        }
        assert!(failed.is_empty(), "failed in {failed:#?}");
    }

    /// Both ends of a tunnel of a visitor's own: the client's, the server's.
    pub async fn open(
        &self,
        cell: Cell,
        fields: &[(&str, &str)],
        wish: Wish,
    ) -> (AnyPeer, AnyPeer) {
        let mut visitor = Visitor::default();
        let opening = self.open_by(&mut visitor, cell, fields, wish);
        opening.await.expect("an open WebSocket")
    }

    /// As [`Bench::open`], by this visitor.
    ///
    /// # Errors
    /// The answer to the client, where it is none that opens a WebSocket.
    pub async fn open_by(
        &self,
        visitor: &mut Visitor,
        cell: Cell,
        fields: &[(&str, &str)],
        wish: Wish,
    ) -> Result<(AnyPeer, AnyPeer), Head> {
        let answering = async { AnyPeer::answer(self.arrival(cell).await, wish).await };
        let (client, server) = tokio::join!(self.ask(visitor, cell, fields), answering);
        Ok((client?, server))
    }

    /// The client's half of [`Bench::open_by`].
    ///
    /// # Errors
    /// As there.
    pub async fn ask(
        &self,
        visitor: &mut Visitor,
        cell: Cell,
        fields: &[(&str, &str)],
    ) -> Result<AnyPeer, Head> {
        let path = cell.path();
        let addr = self.proxy.addr(usize::from(cell.tls));
        match (cell.downstream, cell.tls) {
            (Protocol::Http1, false) => {
                let stream: Box<dyn Wire> = Box::new(client::tcp(addr).await);
                Peer::ask(stream, &path, fields).await
            }
            (Protocol::Http1, true) => {
                let config = self.authority.client(&["http/1.1"]);
                let stream = client::tls(addr, "localhost", config).await.unwrap();
                let stream: Box<dyn Wire> = Box::new(stream);
                Peer::ask(stream, &path, fields).await
            }
            (Protocol::Http2, false) => {
                if visitor.plain.is_none() {
                    visitor.plain = Some(Client::plain(addr).await);
                }
                let client = visitor.plain.as_ref().unwrap();
                AnyPeer::connect_on(client, &path, fields).await
            }
            (Protocol::Http2, true) => {
                if visitor.tls.is_none() {
                    visitor.tls = Some(Client::tls(addr, &self.authority).await);
                }
                let client = visitor.tls.as_ref().unwrap();
                AnyPeer::connect_on(client, &path, fields).await
            }
        }
    }

    /// What comes to the upstream, which must be what the cell says.
    pub async fn arrival(&self, cell: Cell) -> Arrival {
        let server = if cell.tls { &self.tls } else { &self.plain };
        let arrival = server.next().await;
        let protocol = match &arrival {
            Arrival::Http1(_) => Protocol::Http1,
            Arrival::Http2(_) => Protocol::Http2,
        };
        assert_eq!(protocol, cell.upstream, "the upstream's protocol");
        arrival
    }
}

impl Visitor {
    /// Those of HTTP/2 that are open.
    pub fn connections(&mut self) -> impl Iterator<Item = &mut Client> {
        self.plain.iter_mut().chain(&mut self.tls)
    }
}

impl Cell {
    pub fn path(self) -> String {
        let scheme = self.upstream.scheme(self.tls);
        format!("/{scheme}/{:?}/", self.level)
    }
}

impl Protocol {
    /// Of a server that speaks it.
    fn scheme(self, tls: bool) -> &'static str {
        match (self, tls) {
            (Protocol::Http1, false) => "http",
            (Protocol::Http1, true) => "https",
            (Protocol::Http2, false) => "h2c",
            (Protocol::Http2, true) => "h2",
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "over TLS" } else { "in plain" };
        write!(
            f,
            "{:?} to {:?}, {:?}, {tls}",
            self.downstream, self.upstream, self.level
        )
    }
}

/// The cells with one of these levels.
pub fn cells(levels: &[Level]) -> impl Iterator<Item = Cell> {
    let protocols = [Protocol::Http1, Protocol::Http2];
    levels.iter().flat_map(move |level| {
        protocols.into_iter().flat_map(move |downstream| {
            protocols.into_iter().flat_map(move |upstream| {
                [false, true].map(|tls| Cell {
                    downstream,
                    upstream,
                    level: *level,
                    tls,
                })
            })
        })
    })
}

const LEVELS: [Level; 4] = [
    Level::Copy,
    Level::Follow,
    Level::Messages,
    Level::Terminate,
];
/// Those that leave compression to the two ends.
pub const PASSING: &[Level] = &[Level::Copy, Level::Follow, Level::Messages];
/// How a bench's configuration begins.
pub const LISTENERS: &str = r#"
    [runtime]
    workers = 1
    [[listener]]
    bind = "127.0.0.1:0"
    http2 = true
    [[listener]]
    bind = "127.0.0.2:0"
    tls = { cert = "localhost.crt", key = "localhost.key" }
    [admin]
    bind = "127.0.0.1:0"
"#;
