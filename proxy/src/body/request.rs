//! A request's body on its way to the upstream.
//!
//! It enforces the size limit, the wait between two pieces and the slowest pace, and fails as what went
//! wrong. It can keep its beginning, for a request that a server gives back unseen.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Incoming;
use crate::budget::Account;
use crate::forward;
use crate::pace::Pace;

/// A request body on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    /// Bytes still allowed.
    left: Option<u64>,
    /// `None`: the next piece may take as long as it likes.
    wait_limit: Option<Duration>,
    pace: Pace,
    waiting: Option<Wait>,
    received: Arc<AtomicU64>,
    beginning: Beginning,
    /// What was taken and is still somewhere counts there; gone after what it has itself.
    account: Option<Account>,
}

/// The wait for a piece of a request's body.
#[derive(Debug)]
struct Wait {
    /// Its own end, whatever the pace allows.
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

/// What was taken of a body, as far as it can be given again.
#[derive(Debug)]
enum Beginning {
    /// Nothing was taken yet.
    Untouched,
    /// These pieces of `size` bytes were, of which `given` have been given (again).
    Kept {
        pieces: Vec<Bytes>,
        size: usize,
        given: usize,
    },
    /// Some of it is gone.
    Lost,
}

/// How a client's body failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("request body over the limit")]
    TooLarge,
    #[error("request body stalled")]
    TimedOut,
    #[error("request body came too slowly")]
    TooSlow,
    /// Bad framing, or the client went away.
    #[error("request body broke off")]
    Broken,
}

impl RequestBody {
    /// `limit` in bytes; `wait_limit` bounds the wait for the next piece, `pace` all waits together.
    pub fn new(
        inner: Incoming,
        limit: Option<u64>,
        wait_limit: Duration,
        pace: Pace,
    ) -> RequestBody {
        RequestBody {
            inner,
            left: limit,
            wait_limit: Some(wait_limit),
            pace,
            waiting: None,
            received: Arc::default(),
            beginning: Beginning::Untouched,
            account: None,
        }
    }

    /// Bytes that are taken from now on count for `account` until they are gone.
    pub fn count_for(&mut self, account: Account) {
        self.account = Some(account);
    }

    /// From now on what is taken is kept, up to 64 KiB, so that [`RequestBody::rewind`] can
    /// give it again.
    pub fn keep_beginning(&mut self) {
        if let Beginning::Untouched = self.beginning {
            self.beginning = Beginning::Kept {
                pieces: Vec::new(),
                size: 0,
                given: 0,
            };
        }
    }

    /// What was kept is not needed any more.
    pub fn forget_beginning(&mut self) {
        match &mut self.beginning {
            Beginning::Kept { pieces, given, .. } if *given < pieces.len() => {}
            beginning => *beginning = Beginning::Lost,
        }
    }

    /// Begins anew, if all that was taken is still there.
    pub fn rewind(&mut self) -> bool {
        match &mut self.beginning {
            Beginning::Untouched => true,
            Beginning::Kept { given, .. } => {
                *given = 0;
                true
            }
            Beginning::Lost => false,
        }
    }

    /// From now on the client may take its time: something else bounds the wait.
    pub fn wait_without_limit(&mut self) {
        self.wait_limit = None;
        self.waiting = None;
    }

    /// The next piece of what is to be given again.
    fn again(&mut self) -> Option<Bytes> {
        let Beginning::Kept { pieces, given, .. } = &mut self.beginning else {
            return None;
        };
        let piece = pieces.get(*given)?.clone();
        *given += 1;
        Some(piece)
    }

    /// Bytes that are still to be given again.
    fn kept_back(&self) -> u64 {
        match &self.beginning {
            Beginning::Kept { pieces, given, .. } => pieces[*given..]
                .iter()
                .map(|piece| piece.len() as u64)
                .sum(),
            Beginning::Untouched | Beginning::Lost => 0,
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let kept = match (&mut self.beginning, frame.data_ref()) {
            (
                Beginning::Kept {
                    pieces,
                    size,
                    given,
                },
                Some(data),
            ) if *size + data.len() <= BEGINNING && pieces.len() < BEGINNING_PIECES => {
                pieces.push(data.clone());
                *size += data.len();
                *given = pieces.len();
                true
            }
            _ => false,
        };
        if !kept {
            self.beginning = Beginning::Lost;
        }
    }

    /// The count of bytes that have come from the client, also once the body is somebody else's.
    pub fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Ready when the client has been waited for too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        let Some(limit) = self.wait_limit else {
            return Poll::Pending;
        };
        let received = self.received.load(Ordering::Relaxed);
        loop {
            let too_slow = self.pace.waits(received);
            let wait = self.waiting.get_or_insert_with(|| {
                let deadline = Instant::now() + limit;
                let timer = Box::pin(sleep_until(deadline.min(too_slow)));
                Wait { deadline, timer }
            });
            ready!(wait.timer.as_mut().poll(cx));
            let now = Instant::now();
            if wait.deadline <= now {
                return Poll::Ready(BodyFault::TimedOut);
            }
            if too_slow <= now {
                return Poll::Ready(BodyFault::TooSlow);
            }
            // What shared the connection's rate is over.
            wait.timer.as_mut().reset(wait.deadline.min(too_slow));
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyFault> {
        self.waiting = None;
        let frame = match &self.account {
            Some(account) => frame.map_data(|data| account.keep(data)),
            None => frame,
        };
        if let Some(data) = frame.data_ref() {
            let len = data.len() as u64;
            let received = self.received.fetch_add(len, Ordering::Relaxed) + len;
            self.pace.goes_on(received);
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(len).ok_or(BodyFault::TooLarge)?;
            }
        }
        self.keep(&frame);
        Ok(match frame.into_trailers() {
            Ok(mut trailers) => {
                forward::clean_request_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(data) => data,
        })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        if let Some(piece) = this.again() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(this.take(frame))),
            Poll::Ready(Some(Err(fault))) => Poll::Ready(Some(Err(fault))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.poll_late(cx).map(|fault| Some(Err(fault))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept_back() == 0 && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.inner.size_hint();
        match (hint.exact(), self.kept_back()) {
            (_, 0) => hint,
            (Some(rest), kept) => SizeHint::with_exact(rest + kept),
            (None, _) => SizeHint::new(),
        }
    }
}

/// Bytes of a request's body that are kept, so that it can be sent again.
const BEGINNING: usize = 64 * 1024;

/// And how many pieces they may be, as each holds on to a buffer.
const BEGINNING_PIECES: usize = 64;
