//! The servers behind the proxy: two that behave, one that does everything wrong, one that comes and goes.

pub(crate) mod echo;
pub(crate) mod faulty;
pub(crate) mod pages;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluicegate_tests::http2::server::{Manner, Server};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::ledger::Ledger;

/// All of them; gone when dropped.
pub(crate) struct Upstreams {
    /// WebSockets over HTTP/1.1.
    pub(crate) echo: Upstream,
    /// WebSockets over HTTP/2.
    pub(crate) echo_http2: Upstream,
    pub(crate) pages: Upstream,
    pub(crate) faulty: Upstream,
    /// As the pages, while it is there.
    pub(crate) vanishing: Vanishing,
}

/// A server on an address of its own.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

/// A server that can be taken away with all of its connections, and come back.
pub(crate) struct Vanishing {
    pub(crate) addr: SocketAddr,
    present: Mutex<Option<Upstream>>,
}

impl Upstreams {
    pub(crate) async fn start(ledger: &Arc<Ledger>) -> Upstreams {
        let manner = Manner {
            tls: None,
            websocket: true,
            streams: None,
        };
        let http2 = Server::new(manner).await;
        let addr = http2.addr;
        let books = Arc::clone(ledger);
        let task = tokio::spawn(echo::serve_http2(http2, books));
        let books = Arc::clone(ledger);
        Upstreams {
            echo: Upstream::on(bind(loopback()), move |stream| {
                echo::serve(stream, Arc::clone(&books))
            }),
            echo_http2: Upstream { addr, task },
            pages: Upstream::on(bind(loopback()), pages::serve),
            faulty: Upstream::on(bind(loopback()), faulty::serve),
            vanishing: Vanishing::new(),
        }
    }
}

impl Upstream {
    fn on<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Upstream
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("descriptors of our own");
                        // One that has broken already shows it when it is read.
                        let _ = stream.set_nodelay(true);
                        connections.spawn(serve(stream));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Upstream { addr, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vanishing {
    fn new() -> Vanishing {
        // No connection leaves from this address: its port stays free while it is away.
        let addr = SocketAddr::from(([127, 0, 0, 3], 0));
        let upstream = Upstream::on(bind(addr), pages::serve);
        Vanishing {
            addr: upstream.addr,
            present: Mutex::new(Some(upstream)),
        }
    }

    /// Its port is free when this returns.
    pub(crate) async fn vanish(&self) {
        let gone = self.lock().take();
        if let Some(mut upstream) = gone {
            upstream.task.abort();
            // That it was aborted is no news.
            let _ = (&mut upstream.task).await;
        }
    }

    pub(crate) fn come_back(&self) {
        let listen = || Upstream::on(bind(self.addr), pages::serve);
        self.lock().get_or_insert_with(listen);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Upstream>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn bind(addr: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(addr).expect("a free port");
    // Thousands of tunnels come at once.
    socket.listen(4096).expect("a queue")
}
