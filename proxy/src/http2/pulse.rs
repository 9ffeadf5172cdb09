//! Whether the other end of a connection is still there: bytes that moved, and pings.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong, Reason};
use tokio::time::{Instant, Sleep, sleep};

use super::gate::Moves;

/// Finds a peer that vanished without a word: one that is silent is asked for a sign of life.
#[derive(Debug)]
pub(super) struct Pings {
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    /// Signs of life, and writes, when the timer was last set.
    heard: u32,
    written: u32,
    /// What had begun to come then and was not whole.
    begun: Option<NonZeroU32>,
    /// The peer has been asked since.
    asked: bool,
}

impl Pings {
    pub(super) fn new(pings: PingPong) -> Pings {
        Pings {
            pings,
            timer: Box::pin(sleep(INTERVAL)),
            heard: 0,
            written: 0,
            begun: None,
            asked: false,
        }
    }

    /// Ready when a peer of which somebody `wants` something has not given a sign of life for too long; also
    /// when it has taken longer than that for a single frame or head, which is then its fault.
    pub(super) fn poll_lost(
        &mut self,
        moves: &Moves,
        wants: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let begun = std::mem::replace(&mut self.begun, moves.begun());
            if begun.is_some() && begun == self.begun {
                moves.blame(Reason::ENHANCE_YOUR_CALM);
                return Poll::Ready(());
            }
            let heard = std::mem::replace(&mut self.heard, moves.signs());
            let silent = heard == self.heard;
            let written = std::mem::replace(&mut self.written, moves.writes());
            if silent && self.asked {
                return Poll::Ready(());
            }
            self.asked = silent && wants();
            let patience = match self.asked {
                true => {
                    // Whether it is answered is seen by what is read: the last pong is only put aside. If
                    // that is still on its way, it will do for this one.
                    let _ = self.pings.poll_pong(cx);
                    let _ = self.pings.send_ping(Ping::opaque());
                    // It waits behind what the kernel still holds.
                    match written == self.written {
                        true => PATIENCE,
                        false => LONG_PATIENCE,
                    }
                }
                false => INTERVAL,
            };
            self.timer.as_mut().reset(Instant::now() + patience);
        }
    }
}

/// A peer may be silent for so long before it is asked.
const INTERVAL: Duration = Duration::from_secs(30);
/// And then for so long; longer, while something was on its way to it.
const PATIENCE: Duration = Duration::from_secs(20);
const LONG_PATIENCE: Duration = Duration::from_secs(60);
