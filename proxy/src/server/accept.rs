//! Worker threads: one runtime each, accepting from sockets of their own and serving what they
//! accept, or what a busier worker hands over.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::drain::{Member, Phase};
use crate::flow;
use crate::listener::{Acceptor, ListenSocket};
use crate::memory::{self, Tide};
use crate::server::crew::{Accepted, Handed, Place};
use crate::socket::Socket;
use crate::worker::{Listener, Shared, Worker};

/// The control thread's grip on a worker; the thread ends when it is dropped.
pub(super) struct WorkerHandle {
    sockets: mpsc::UnboundedSender<NewSocket>,
}

/// A socket to accept from, at most one per listener and reload.
struct NewSocket {
    socket: ListenSocket,
    listener: Arc<Listener>,
    closing: Member,
}

impl WorkerHandle {
    pub(super) fn start(
        id: usize,
        shared: &Arc<Shared>,
        place: Place,
        handed: Handed,
    ) -> std::io::Result<WorkerHandle> {
        let (sockets, received) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker::new(shared));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || runtime.block_on(work(worker, received, place, handed)))?;
        Ok(WorkerHandle { sockets })
    }

    pub(super) fn listen(
        &self,
        socket: ListenSocket,
        listener: &Arc<Listener>,
    ) -> std::io::Result<()> {
        let socket = NewSocket {
            socket,
            listener: Arc::clone(listener),
            closing: listener.closing.join(),
        };
        self.sockets
            .send(socket)
            .map_err(|_| std::io::Error::other("a worker thread has ended"))
    }
}

async fn work(
    worker: Arc<Worker>,
    mut sockets: mpsc::UnboundedReceiver<NewSocket>,
    place: Place,
    mut handed: Handed,
) {
    let place = Arc::new(place);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let mut tide = Tide::default();
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                worker.pool.sweep();
                worker.multiplex.sweep();
                if tide.has_turned(place.load()) {
                    tokio::task::spawn_blocking(memory::give_back);
                }
            }
            Some(accepted) = handed.recv() => match accepted.arrive() {
                Ok(accepted) => serve(&worker, accepted),
                Err(error) => tracing::warn!(%error, "a worker cannot take over a connection"),
            },
            socket = sockets.recv() => {
                let Some(NewSocket { socket, listener, closing }) = socket else {
                    return;
                };
                match socket.register() {
                    Ok(acceptor) => {
                        let worker = Arc::clone(&worker);
                        let place = Arc::clone(&place);
                        tokio::spawn(accept(closing, worker, place, acceptor, listener));
                    }
                    Err(error) => tracing::error!(%error, "a worker cannot accept connections"),
                }
            }
        }
    }
}

/// Accepts until the listener closes. Nothing slow happens here: a TLS handshake is the
/// connection's own affair.
///
/// `closing` comes first, so that it is dropped last: who waits for it finds the socket closed.
async fn accept(
    closing: Member,
    worker: Arc<Worker>,
    place: Arc<Place>,
    mut acceptor: Acceptor,
    listener: Arc<Listener>,
) {
    loop {
        let (socket, peer) = tokio::select! {
            biased;
            () = closing.reached(Phase::Draining) => return,
            accepted = acceptor.accept(|| listener.metrics.accept_failed()) => accepted,
        };
        let limit = || worker.snapshot().limits.connections;
        let wake = || worker.shared.drain.wake_some();
        let admission = tokio::select! {
            biased;
            admission = worker.shared.admission.enter(limit, wake) => admission,
            () = closing.reached(Phase::Draining) => return,
        };
        let per_client = worker.snapshot().client_limit(peer);
        let Some(admission) = admission.of_client(peer, per_client) else {
            listener.metrics.refused("connections_per_client");
            continue;
        };
        let accepted = Accepted {
            admission: admission.counted(listener.metrics.accepted()),
            member: worker.shared.drain.join(),
            listener: Arc::clone(&listener),
            socket,
            peer,
        };
        if let Some(accepted) = place.share(accepted) {
            serve(&worker, accepted);
        }
    }
}

fn serve(worker: &Arc<Worker>, accepted: Accepted<Socket>) {
    tokio::spawn(flow::serve_connection(
        Arc::clone(worker),
        accepted.listener,
        accepted.socket,
        accepted.peer,
        accepted.admission,
        accepted.member,
    ));
}

/// How often idle upstream connections past their time are closed, and memory is looked after.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
