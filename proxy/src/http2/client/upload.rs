//! A request's body on its way out, and how long it has not moved.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::time::Instant;

use crate::http2::body::{SendFault, Sending};

/// What of a request follows its head.
pub struct Upload<B> {
    sending: Sending<B>,
    /// All of it is out, or the server takes no more.
    finished: bool,
    last_progress: Option<Instant>,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// The server may take nothing for as long as `patience`.
    pub fn new(stream: SendStream<Bytes>, body: B, patience: Duration) -> Upload<B> {
        Upload {
            sending: Sending::new(stream, body, patience),
            finished: false,
            last_progress: None,
        }
    }

    /// Nothing is left to send.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// What has come of the body waits for the upstream to take it.
    pub fn is_held_up(&self) -> bool {
        !self.finished && !self.sending.waits_for_body()
    }

    /// Since when the upstream alone is waited for: the last piece of the body, or now while it is
    /// the client that everybody waits for. `None` before anything was sent.
    pub fn last_progress(&self) -> Option<Instant> {
        match !self.finished && self.sending.waits_for_body() {
            true => Some(Instant::now()),
            false => self.last_progress,
        }
    }

    pub fn body_mut(&mut self) -> &mut B {
        self.sending.body_mut()
    }

    /// The body, without what was taken from it.
    pub fn into_body(self) -> B {
        self.sending.into_body()
    }

    /// Tells the server that the rest does not come.
    pub fn reset(&mut self, reason: Reason) {
        self.sending.reset(reason);
    }

    /// Sends what there is to send, as far as the windows allow; ready when all of it is out.
    ///
    /// A server that takes no more ends it too: why, its answer tells. An error is the body's own.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let before = self.sending.pieces();
        let polled = self.sending.poll_send(cx);
        if self.sending.pieces() != before {
            self.last_progress = Some(Instant::now());
        }
        let sent = ready!(polled);
        self.finished = true;
        Poll::Ready(match sent {
            Ok(()) | Err(SendFault::Left) => Ok(()),
            Err(SendFault::Stalled | SendFault::TooSlow) => {
                self.sending.reset(Reason::CANCEL);
                Ok(())
            }
            Err(SendFault::Body(error)) => Err(error),
        })
    }
}
