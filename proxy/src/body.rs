//! Bodies on their way through: streamed, counted, limited, never collected; their trailers cleaned.
//!
//! A [`RequestBody`] enforces the size limit and the wait between two pieces, and leaves what went
//! wrong in its [`BodyWatch`], because hyper reports a failed body only as "the request failed". The
//! watch also ends it from outside, once nobody wants the rest.
//! A [`ResponseBody`] carries whatever must happen when the last byte is out (or the client has
//! gone): the upstream connection goes back to its pool, the access log gets its line.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::forward;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request body on its way to the upstream.
pub struct RequestBody {
    inner: Option<Incoming>,
    /// Bytes still allowed.
    left: Option<u64>,
    wait_limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    watch: Arc<BodyWatch>,
}

/// What is known of a request body while hyper owns it.
#[derive(Debug)]
pub struct BodyWatch {
    fault: AtomicU8,
    bytes: AtomicU64,
    last_progress: Mutex<Instant>,
    /// The next piece is the client's to send.
    waits_for_client: AtomicBool,
    /// The last piece has gone on.
    finished: AtomicBool,
    abandoned: AtomicBool,
    abandoning: AtomicWaker,
}

/// How a client's body failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("request body over the limit")]
    TooLarge,
    #[error("request body stalled")]
    TimedOut,
    /// Bad framing, or the client went away.
    #[error("request body broke off")]
    Broken,
}

/// A response body on its way to the client.
pub struct ResponseBody {
    inner: Inner,
    sent: u64,
    end: ResponseEnd,
    on_end: Option<Box<dyn OnEnd>>,
}

/// How far a response came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseEnd {
    /// The client was given every byte.
    Complete,
    /// The client left before that.
    ClientLeft,
    /// The upstream broke off.
    UpstreamBroke,
}

/// What happens when a response is over.
pub trait OnEnd: Send + Sync {
    fn ended(&mut self, sent: u64, end: ResponseEnd);
}

enum Inner {
    Own(Option<Bytes>),
    Upstream(FromUpstream),
}

/// A body that the upstream may not stop sending for too long.
struct FromUpstream {
    incoming: Incoming,
    idle_timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the response body stalled")]
struct Stalled;

impl RequestBody {
    /// A body without a byte.
    pub fn empty() -> RequestBody {
        RequestBody {
            inner: None,
            left: None,
            wait_limit: Duration::MAX,
            waiting: None,
            watch: Arc::new(BodyWatch::new(true)),
        }
    }

    /// `limit` in bytes; `wait_limit` bounds the wait for the next piece.
    pub fn new(inner: Incoming, limit: Option<u64>, wait_limit: Duration) -> RequestBody {
        let watch = Arc::new(BodyWatch::new(inner.is_end_stream()));
        RequestBody {
            inner: Some(inner),
            left: limit,
            wait_limit,
            waiting: None,
            watch,
        }
    }

    pub fn watch(&self) -> Arc<BodyWatch> {
        Arc::clone(&self.watch)
    }

    fn fail(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.watch.fault.store(fault as u8 + 1, Ordering::Release);
        self.end();
        Poll::Ready(Some(Err(fault.into())))
    }

    fn end(&mut self) {
        self.inner = None;
        self.waiting = None;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        this.watch.abandoning.register(cx.waker());
        if this.watch.abandoned.load(Ordering::Acquire) {
            this.end();
            return Poll::Ready(Some(Err("the answer came before the request's end".into())));
        }
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = None;
                this.watch.progressed();
                // HTTP/2 may say the end in a frame of its own, which nobody waits for.
                if inner.is_end_stream() || inner.size_hint().exact() == Some(0) {
                    this.watch.finish();
                }
                if let Some(data) = frame.data_ref() {
                    let len = data.len() as u64;
                    this.watch.bytes.fetch_add(len, Ordering::Relaxed);
                    if let Some(left) = &mut this.left {
                        match left.checked_sub(len) {
                            Some(rest) => *left = rest,
                            None => return this.fail(BodyFault::TooLarge),
                        }
                    }
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Poll::Ready(Some(Err(_))) => this.fail(BodyFault::Broken),
            Poll::Ready(None) => {
                this.watch.progressed();
                this.watch.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                this.watch.waits_for_client.store(true, Ordering::Release);
                let limit = this.wait_limit;
                let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(waiting.as_mut().poll(cx));
                this.fail(BodyFault::TimedOut)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl BodyWatch {
    fn new(finished: bool) -> BodyWatch {
        BodyWatch {
            fault: AtomicU8::new(0),
            bytes: AtomicU64::new(0),
            last_progress: Mutex::new(Instant::now()),
            waits_for_client: AtomicBool::new(false),
            finished: AtomicBool::new(finished),
            abandoned: AtomicBool::new(false),
            abandoning: AtomicWaker::new(),
        }
    }

    pub fn fault(&self) -> Option<BodyFault> {
        match self.fault.load(Ordering::Acquire) {
            0 => None,
            1 => Some(BodyFault::TooLarge),
            2 => Some(BodyFault::TimedOut),
            _ => Some(BodyFault::Broken),
        }
    }

    /// Body bytes that came from the client.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// When the last piece came; the beginning if none did.
    pub fn last_progress(&self) -> Instant {
        *self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everybody waits for the client to send more.
    pub fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Ordering::Acquire)
    }

    /// Whether the whole body has gone on to the upstream.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Nobody wants the rest: the body fails, which closes the connection that it was sent on and
    /// lets go of the client's.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.abandoning.wake();
    }

    fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    fn progressed(&self) {
        self.waits_for_client.store(false, Ordering::Release);
        *self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl ResponseBody {
    /// A body of our own; empty is fine.
    pub fn own(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody::from_inner(Inner::Own(Some(bytes.into())))
    }

    /// The upstream's body, streamed; broken off when nothing comes for `idle_timeout`.
    pub fn upstream(incoming: Incoming, idle_timeout: Duration) -> ResponseBody {
        ResponseBody::from_inner(Inner::Upstream(FromUpstream {
            incoming,
            idle_timeout,
            waiting: None,
        }))
    }

    /// Calls `on_end` once, when this body has been sent or dropped; in the order of the calls.
    pub fn on_end(mut self, on_end: Box<dyn OnEnd>) -> ResponseBody {
        self.on_end = Some(match self.on_end.take() {
            None => on_end,
            Some(first) => Box::new(Both(first, on_end)),
        });
        self
    }

    fn from_inner(inner: Inner) -> ResponseBody {
        ResponseBody {
            inner,
            sent: 0,
            end: ResponseEnd::ClientLeft,
            on_end: None,
        }
    }
}

impl FromUpstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = None;
                Poll::Ready(frame.map(|frame| frame.map(cleaned).map_err(BoxError::from)))
            }
            Poll::Pending => {
                let limit = self.idle_timeout;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                Poll::Ready(Some(Err(Stalled.into())))
            }
        }
    }
}

struct Both(Box<dyn OnEnd>, Box<dyn OnEnd>);

impl OnEnd for Both {
    fn ended(&mut self, sent: u64, end: ResponseEnd) {
        self.0.ended(sent, end);
        self.1.ended(sent, end);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.inner {
            Inner::Own(bytes) => bytes
                .take()
                .filter(|bytes| !bytes.is_empty())
                .map(|bytes| Ok(Frame::data(bytes))),
            Inner::Upstream(body) => ready!(body.poll_frame(cx)),
        };
        match &frame {
            None => this.end = ResponseEnd::Complete,
            Some(Ok(frame)) => {
                this.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Some(Err(_)) => this.end = ResponseEnd::UpstreamBroke,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Upstream(body) => body.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(mut on_end) = self.on_end.take() {
            // hyper does not poll a body again that has said it is at its end.
            let end = match self.end {
                ResponseEnd::ClientLeft if self.is_end_stream() => ResponseEnd::Complete,
                end => end,
            };
            on_end.ended(self.sent, end);
        }
    }
}

/// The frame as it may go on: trailers hold nothing that only a head may say.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            forward::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}
