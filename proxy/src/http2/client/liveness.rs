//! Whether a server is still there.
//!
//! While streams live, a silence of [`SILENCE`] leads to a ping; as long as nothing but its answer comes,
//! the next one is due only after [`PING_AGAIN`]: servers of gRPC end connections with more pings than
//! one in five minutes between their own messages. A connection without streams is not pinged at all, but
//! tried before it is used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::http2::gate::Moves;

/// What is known of a server's life.
#[derive(Debug)]
pub(super) struct Liveness {
    moves: Arc<Moves>,
    doubted: AtomicBool,
    /// Told that somebody waits for a proof.
    asked: Notify,
    /// Told when there is one, or will be none.
    told: Notify,
}

impl Liveness {
    pub(super) fn new(moves: Arc<Moves>) -> Liveness {
        Liveness {
            moves,
            doubted: AtomicBool::new(false),
            asked: Notify::new(),
            told: Notify::new(),
        }
    }

    /// Whether the server has said GOAWAY since this was last asked.
    pub(super) fn take_leaving(&self) -> bool {
        self.moves.take_leaving()
    }

    /// From now on a proof is waited for.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// Waits until there is no doubt any more, for better or worse.
    pub(super) async fn proven(&self) {
        let told = self.told.notified();
        if self.doubted.load(Ordering::Relaxed) {
            self.asked.notify_one();
            told.await;
        }
    }

    /// Ends all doubts.
    pub(super) fn tell(&self) {
        self.doubted.store(false, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Ends when the server does not answer a ping, or when `streams` says that nobody is left: how
    /// many live, or `None`.
    pub(super) async fn watch(&self, mut pings: PingPong, streams: impl Fn() -> Option<usize>) {
        let mut seen = 0;
        let mut pinged: Option<Instant> = None;
        loop {
            let asked = timeout(SILENCE, self.asked.notified()).await.is_ok()
                && self.doubted.load(Ordering::Relaxed);
            let Some(live) = streams() else { return };
            let read = self.moves.reads();
            if read != seen {
                seen = read;
                pinged = None;
                if !asked {
                    continue;
                }
            }
            let due = live > 0 && pinged.is_none_or(|at| at.elapsed() >= PING_AGAIN);
            if !asked && !due {
                continue;
            }
            let patience = if asked { PROOF_TIMEOUT } else { PING_TIMEOUT };
            let pong = timeout(patience, pings.ping(Ping::opaque())).await;
            if !matches!(pong, Ok(Ok(_))) {
                return;
            }
            pinged = Some(Instant::now());
            // What came is the pong: no sign of the streams' life.
            seen = self.moves.reads();
            self.tell();
        }
    }
}

/// Without a byte for about as long, a server with live streams is asked.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request waits for the proof that a rested connection is good.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);
/// Between pings of one silence: a little more than what servers of gRPC allow.
const PING_AGAIN: Duration = Duration::from_secs(5 * 60 + 10);
