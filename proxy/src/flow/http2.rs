//! One HTTP/2 connection: its streams side by side, under one timer, until it ends.
//!
//! The connection's own task drives the bytes of all streams; each request is served by a task of its own
//! ([`stream`]), and so is the tunnel that it may become. Those have deadlines of their own, so a
//! connection with one of them has none: it is idle when no stream is open, and stuck when bytes that
//! nobody waits for any more do not go out.
//!
//! A drain, and an idle timeout, say GOAWAY: open streams go on to their ends, or to the drain's. Where memory
//! is too short for what has come of a head, the connection is cut.

mod stream;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::{Sleep, sleep_until};

use crate::budget::{Account, FREE};
use crate::config::model as config;
use crate::drain::{Member, Phase};
use crate::flow::connection::Connection;
use crate::flow::watch::{Waiting, Watch};
use crate::http2::Bounds;
use crate::http2::server::{self, Limits, Reply};
use crate::snapshot::Snapshot;
use crate::stream::Stream;

/// Serves HTTP/2 on a stream to its end. `early` was read of it before.
///
/// No `async fn`, which would keep the snapshot as long as the connection lives.
pub(super) fn serve(
    stream: Stream,
    early: Bytes,
    connection: Arc<Connection>,
    snapshot: &Snapshot,
    member: Member,
) -> impl Future<Output = ()> + Send + use<> {
    let limits = &snapshot.limits;
    let limits = Limits {
        bounds: Bounds {
            head_size: limits.head_size,
            head_fields: limits.head_fields,
            streams: limits.http2_streams,
            resets: limits.http2_resets,
            control_frames: limits.http2_control_frames,
        },
        extended_connect: connection.policy.http2.websocket,
    };
    let mut driver = Driver {
        client: server::Connection::new(stream, early, limits),
        connection,
        member: Arc::new(member),
        watch: Watch::new(snapshot),
        waiting: Waiting::Head,
        patience: snapshot.longest_wait(),
        limits: snapshot.limits,
        writes: 0,
        moves: 0,
        registered: false,
        fault: None,
        leaving: false,
        requests: 0,
        account: None,
    };
    async move {
        let mut timer = pin!(sleep_until(driver.watch.begins_until()));
        poll_fn(|cx| driver.poll(timer.as_mut(), cx)).await;
    }
}

/// A connection between its preface and its end.
struct Driver {
    client: server::Connection<Stream>,
    connection: Arc<Connection>,
    /// Shared with what runs on its streams.
    member: Arc<Member>,
    watch: Watch,
    waiting: Waiting,
    /// How long a client may take nothing of a response.
    patience: Duration,
    /// Of the snapshot that the connection began with.
    limits: config::Limits,
    /// The client's count when it was last looked at.
    writes: u32,
    /// Changes as long as a busy connection may last.
    moves: u32,
    /// The task will be woken when a drain begins.
    registered: bool,
    /// Why the connection ends, once that is counted.
    fault: Option<Reason>,
    /// GOAWAY was said.
    leaving: bool,
    requests: usize,
    /// Where what has come of a head counts, while that is worth one.
    account: Option<Account>,
}

impl Driver {
    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(asked) = self.client.poll_request(cx) {
                match asked {
                    Some((request, reply)) => {
                        self.begin(request, reply);
                        self.count();
                    }
                    None => {
                        self.count_faults();
                        return Poll::Ready(());
                    }
                }
            }
            self.count_faults();
            if !std::mem::replace(&mut self.registered, true) {
                // A connection keeps its task, so one registration serves all its polls.
                self.member.wake_on_change(cx);
            }
            match self.member.phase() {
                Phase::Stopped => return Poll::Ready(()),
                Phase::Draining if !self.leaving => {
                    self.leave();
                    continue;
                }
                Phase::Draining | Phase::Running => {}
            }
            if self.is_shed(cx) {
                return Poll::Ready(());
            }
            self.look();
            if self.waiting == Waiting::NextRequest && !self.leaving && self.connection.gives_way()
            {
                self.connection.retire("room");
                self.leave();
                continue;
            }
            ready!(self.watch.poll_over(timer.as_mut(), self.moves, None, cx));
            if self.leaving || self.waiting == Waiting::Busy {
                return Poll::Ready(());
            }
            self.leave();
        }
    }

    /// Serves a request in a task of its own.
    fn begin(&self, request: Request<RecvStream>, reply: Reply) {
        let connection = Arc::clone(&self.connection);
        let member = Arc::clone(&self.member);
        tokio::spawn(stream::serve(
            connection,
            request,
            reply,
            self.patience,
            member,
        ));
    }

    /// Counts what was refused before it became a request, and a connection that ends for a fault.
    fn count_faults(&mut self) {
        let metrics = &self.connection.worker.shared.metrics;
        for _ in 0..self.client.take_refused() {
            metrics.request_rejected("http2_malformed");
        }
        let fault = self.client.fault();
        if fault == self.fault {
            return;
        }
        self.fault = fault;
        metrics.request_rejected(match fault {
            Some(Reason::ENHANCE_YOUR_CALM) => "http2_flood",
            _ => "http2_protocol",
        });
    }

    /// Says GOAWAY behind the last request that there may be.
    fn count(&mut self) {
        self.requests += 1;
        let most = self.limits.requests_per_connection;
        if most.is_some_and(|most| self.requests >= most.get()) && !self.leaving {
            self.connection.retire("requests");
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.client.leave();
        if self.waiting != Waiting::Busy {
            self.watch.allow(GOAWAY_GRACE);
        }
    }

    /// Says what there is of a head that is not whole; true if that must be given back.
    fn is_shed(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.client.held();
        if held < FREE {
            self.account = None;
            return false;
        }
        let open = || self.connection.open_account();
        let account = self.account.get_or_insert_with(open);
        account.set(held);
        account.poll_shed(cx).is_ready()
    }

    /// Sees what the connection waits for now, and whether it moves.
    fn look(&mut self) {
        let is_served = Arc::strong_count(&self.member) > 1;
        let waiting = match self.connection.is_used() {
            _ if is_served || self.client.has_streams() => Waiting::Busy,
            true => Waiting::NextRequest,
            false => Waiting::Head,
        };
        self.watch.waits_for(waiting);
        if std::mem::replace(&mut self.waiting, waiting) != waiting
            && self.leaving
            && waiting != Waiting::Busy
        {
            self.watch.allow(GOAWAY_GRACE);
        }
        let writes = self.client.writes();
        if is_served || writes != self.writes {
            self.writes = writes;
            self.moves = self.moves.wrapping_add(1);
        }
    }
}

/// How long a client may take to send its last requests after GOAWAY.
const GOAWAY_GRACE: Duration = Duration::from_secs(2);
