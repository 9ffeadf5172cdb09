//! The proxy under test, what stands behind it, and the ways in.
//!
//! Connections are made through here, so that each one stands in the ledger.

pub(crate) mod admin;
pub(crate) mod config;

use std::io::Result;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::plugins;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::websocket::leg::Wire;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ledger::{Count, Ledger};
use crate::plan::Plan;
use crate::upstreams::Upstreams;
use config::{Addresses, Wasm};

/// Everything that a run consists of, but for the clients and troubles of a round.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) proxy: Proxy,
    pub(crate) addresses: Addresses,
    pub(crate) authority: Authority,
    pub(crate) upstreams: Upstreams,
    tls: Arc<ClientConfig>,
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Plain,
    Tls,
}

/// A TLS handshake that enters its outcome into the ledger; one that is given up has failed.
struct TlsHandshake<'a> {
    ledger: &'a Ledger,
    ok: bool,
}

impl Drop for TlsHandshake<'_> {
    fn drop(&mut self) {
        self.ledger.count(Count::TlsHandshakes { ok: self.ok });
    }
}

impl World {
    /// Builds the plugins where that was not done yet, and starts everything.
    pub(crate) async fn start(plan: Plan, ledger: Arc<Ledger>) -> World {
        let wasm = tokio::task::spawn_blocking(|| Wasm {
            filter: plugins::wasm("sluicegate-test-guests"),
            messages: plugins::wasm("sluicegate-message-guest"),
            passing: plugins::wasm("sluicegate-conversation-guest"),
        });
        let wasm = wasm.await.expect("the plugins can be built");
        let upstreams = Upstreams::start(&ledger).await;
        let dir = TempDir::new().expect("a folder for the proxy");
        let authority = Authority::new("chaos authority");
        config::issue(&authority, dir.path(), 0);
        std::fs::write(dir.path().join("broken.wasm"), b"\0asm no component").expect("a file");
        let addresses = Addresses::new(&upstreams, wasm, plan.drain);
        let text = addresses.text(&config::Choices::default());
        let log = std::fs::File::create(dir.path().join("access.log")).expect("a file");
        let proxy = Proxy::start_with(dir, &text, |command| {
            command.stdout(Stdio::from(log));
        });
        let tls = authority.client(&["http/1.1"]);
        World {
            plan,
            ledger,
            proxy: proxy.await,
            addresses,
            authority,
            upstreams,
            tls,
        }
    }

    /// A connection that speaks HTTP/1.1.
    pub(crate) async fn dial(&self, door: Door) -> Result<Box<dyn Wire>> {
        let stream = self.tcp(door).await?;
        match door {
            Door::Plain => Ok(Box::new(stream)),
            Door::Tls => Ok(Box::new(self.tls(stream).await?)),
        }
    }

    /// Bare TCP; on the door with TLS the client must not go on in it.
    pub(crate) async fn tcp(&self, door: Door) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.addr(door)).await?;
        self.count(door);
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn tls(&self, stream: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let mut outcome = TlsHandshake {
            ledger: &self.ledger,
            ok: false,
        };
        let stream = connector.connect(name, stream).await?;
        outcome.ok = true;
        Ok(stream)
    }

    /// The certificate that a new connection is shown, DER.
    pub(crate) async fn shown_certificate(&self) -> Result<Vec<u8>> {
        let stream = self.tls(self.tcp(Door::Tls).await?).await?;
        let shown = stream.get_ref().1.peer_certificates();
        Ok(shown.expect("a certificate")[0].to_vec())
    }

    /// A connection that speaks HTTP/2.
    ///
    /// # Panics
    /// When the proxy does not let it in.
    pub(crate) async fn http2(&self, door: Door) -> Client {
        let client = match door {
            Door::Plain => Client::plain(self.addr(door)).await,
            Door::Tls => Client::tls(self.addr(door), &self.authority).await,
        };
        self.count(door);
        if door == Door::Tls {
            self.ledger.count(Count::TlsHandshakes { ok: true });
        }
        client
    }

    fn addr(&self, door: Door) -> SocketAddr {
        match door {
            Door::Plain => self.proxy.addr(0),
            Door::Tls => self.proxy.addr(1),
        }
    }

    fn count(&self, door: Door) {
        self.ledger.count(Count::Connections {
            listener: match door {
                Door::Plain => config::PLAIN.to_owned(),
                Door::Tls => config::TLS.to_owned(),
            },
        });
    }
}
