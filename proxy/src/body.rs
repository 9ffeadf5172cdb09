//! Bodies on their way through: streamed, counted, limited, never collected; their trailers cleaned.
//!
//! A [`RequestBody`] enforces the size limit, the wait between two pieces and the slowest pace, and fails as
//! what went wrong. It can keep its beginning, for a request that a server gives back unseen. A [`ResponseBody`]
//! carries whatever must happen when the last byte is out (or the client has gone): the upstream
//! connection goes back to its pool, the access log gets its line.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::budget::{Account, FREE};
use crate::forward;
use crate::http1::{client, server};
use crate::http2::STREAM_WINDOW;
use crate::http2::body::Received;
use crate::http2::client as http2;
use crate::pace::Pace;
use crate::stream::Stream;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection to an upstream.
pub type UpstreamConnection = client::Connection<Stream>;

/// A request body as its protocol brings it.
#[derive(Debug)]
pub enum Incoming {
    Http1(server::RequestBody<Stream>),
    Http2(Received),
}

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
    /// What was taken and is still somewhere counts there.
    account: Option<Account>,
    beginning: Beginning,
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

/// A response body on its way to the client.
pub struct ResponseBody {
    inner: Inner,
    sent: u64,
    end: ResponseEnd,
    /// What was taken and is still somewhere counts there, where there was something worth it.
    account: Option<Account>,
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
    /// It broke off, which says nothing about the upstream's health: the stream was reset alone, or neither
    /// side had anything to say.
    GivenUp,
}

/// What happens when a response is over.
pub trait OnEnd: Send + Sync {
    /// `connection` is the upstream's, if it is fit for another request.
    fn ended(&mut self, sent: u64, end: ResponseEnd, connection: Option<UpstreamConnection>);

    /// Where the bytes of the response count.
    fn account(&mut self) -> Option<Account> {
        None
    }
}

enum Inner {
    Own(Option<Bytes>),
    Upstream(FromUpstream),
}

/// The body of an upstream's answer as its protocol brings it.
#[derive(Debug)]
pub enum UpstreamBody {
    Http1(client::ResponseBody<Stream>),
    Http2(http2::ResponseBody),
}

/// A body that the upstream may not stop sending for too long.
struct FromUpstream {
    body: UpstreamBody,
    idle_timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    /// Bytes of the request that goes on beside it, which is movement too, and how many there were when
    /// the wait began.
    beside: Option<(Arc<AtomicU64>, u64)>,
}

#[derive(Debug, thiserror::Error)]
#[error("the response body stalled")]
struct Stalled {
    /// And so did the request beside it.
    beside: bool,
}

macro_rules! each_version {
    ($of:ident, $self:expr, $body:ident => $call:expr) => {
        match $self {
            $of::Http1($body) => $call,
            $of::Http2($body) => $call,
        }
    };
}

impl Incoming {
    /// Bytes that may have come without being taken, and without anybody having been told.
    pub fn ahead(&self) -> usize {
        match self {
            Incoming::Http1(_) => 0,
            Incoming::Http2(_) => STREAM_WINDOW as usize,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = each_version!(Incoming, self.get_mut(), body => {
            ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(|_| BodyFault::Broken))
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        each_version!(Incoming, self, body => body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        each_version!(Incoming, self, body => body.size_hint())
    }
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
            account: None,
            beginning: Beginning::Untouched,
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

impl ResponseBody {
    /// A body of our own; empty is fine.
    pub fn own(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody::from_inner(Inner::Own(Some(bytes.into())))
    }

    /// The upstream's body, streamed; broken off when nothing comes for `idle_timeout`.
    pub fn upstream(body: impl Into<UpstreamBody>, idle_timeout: Duration) -> ResponseBody {
        ResponseBody::from_inner(Inner::Upstream(FromUpstream {
            body: body.into(),
            idle_timeout,
            waiting: None,
            beside: None,
        }))
    }

    /// As [`ResponseBody::upstream`], while its request goes on: `received` counts that one's bytes, and
    /// only when nothing comes from either side it is broken off.
    pub fn beside(
        body: impl Into<UpstreamBody>,
        idle_timeout: Duration,
        received: Arc<AtomicU64>,
    ) -> ResponseBody {
        ResponseBody::from_inner(Inner::Upstream(FromUpstream {
            body: body.into(),
            idle_timeout,
            waiting: None,
            beside: Some((received, 0)),
        }))
    }

    /// Takes away a body of our own, for the answer to HEAD, and tells its length; `None` of an
    /// upstream's, which sent none.
    pub fn take_own(&mut self) -> Option<u64> {
        match &mut self.inner {
            Inner::Own(bytes) => Some(bytes.take().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Upstream(_) => None,
        }
    }

    /// Of this answer only the head is sent (RFC 9110 §6.4.1): with that the client has everything.
    pub fn stays_here(&mut self) {
        self.end = ResponseEnd::Complete;
    }

    /// Calls `on_end` once, when this body has been sent or dropped.
    pub fn on_end(mut self, on_end: Box<dyn OnEnd>) -> ResponseBody {
        self.on_end = Some(on_end);
        self
    }

    /// Whether the client is waited for: then an upstream may send ahead.
    pub fn is_held_up(&self, held_up: bool) {
        let ahead = match &self.inner {
            Inner::Upstream(body) if held_up => body.body.ahead(),
            _ => 0,
        };
        if let Some(account) = &self.account {
            account.reserve(ahead);
        }
    }

    /// Ready when what the client has not taken must be given back; asked while it is waited for.
    pub fn poll_shed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.account {
            Some(account) => account.poll_shed(cx),
            None => Poll::Pending,
        }
    }

    /// Ready when the client has taken nearly all that was taken of the body, or, with false, when that must
    /// be given back.
    pub fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match &self.account {
            Some(account) => account.poll_empty(cx),
            None => Poll::Ready(true),
        }
    }

    /// It is over: what it carried for its end happens now, not with the drop.
    pub fn finish(&mut self) {
        if let Some(mut on_end) = self.on_end.take() {
            // Nobody polls a body again that has said it is at its end.
            let end = match self.end {
                ResponseEnd::ClientLeft if self.is_end_stream() => ResponseEnd::Complete,
                end => end,
            };
            let connection = match std::mem::replace(&mut self.inner, Inner::Own(None)) {
                Inner::Upstream(upstream) => upstream.body.into_connection(),
                Inner::Own(_) => None,
            };
            on_end.ended(self.sent, end, connection);
        }
        if let Some(account) = &self.account {
            account.reserve(0);
        }
    }

    /// There is one once there was enough to count.
    fn account(&mut self) -> Option<&Account> {
        if self.account.is_none() && self.sent >= FREE as u64 {
            self.account = self.on_end.as_mut().and_then(|on_end| on_end.account());
        }
        self.account.as_ref()
    }

    fn from_inner(inner: Inner) -> ResponseBody {
        ResponseBody {
            inner,
            sent: 0,
            end: ResponseEnd::ClientLeft,
            account: None,
            on_end: None,
        }
    }
}

impl FromUpstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = None;
                Poll::Ready(frame.map(|frame| frame.map(cleaned)))
            }
            Poll::Pending => {
                let limit = self.idle_timeout;
                loop {
                    let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
                    ready!(waiting.as_mut().poll(cx));
                    self.waiting = None;
                    if !self.has_moved_beside() {
                        let beside = self.beside.is_some();
                        return Poll::Ready(Some(Err(Stalled { beside }.into())));
                    }
                }
            }
        }
    }

    /// Whether some of the request has come since this was last asked.
    fn has_moved_beside(&mut self) -> bool {
        let Some((received, before)) = &mut self.beside else {
            return false;
        };
        let now = received.load(Ordering::Relaxed);
        std::mem::replace(before, now) != now
    }
}

impl From<client::ResponseBody<Stream>> for UpstreamBody {
    fn from(body: client::ResponseBody<Stream>) -> UpstreamBody {
        UpstreamBody::Http1(body)
    }
}

impl From<http2::ResponseBody> for UpstreamBody {
    fn from(body: http2::ResponseBody) -> UpstreamBody {
        UpstreamBody::Http2(body)
    }
}

impl UpstreamBody {
    /// As [`Incoming::ahead`].
    fn ahead(&self) -> usize {
        match self {
            UpstreamBody::Http1(_) => 0,
            UpstreamBody::Http2(_) => STREAM_WINDOW as usize,
        }
    }

    /// The connection, if it is fit for another request and was this one's alone.
    fn into_connection(self) -> Option<UpstreamConnection> {
        match self {
            UpstreamBody::Http1(body) => body.into_connection(),
            UpstreamBody::Http2(_) => None,
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = each_version!(UpstreamBody, self.get_mut(), body => {
            ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        each_version!(UpstreamBody, self, body => body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        each_version!(UpstreamBody, self, body => body.size_hint())
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
            Some(Err(error)) => this.end = end_of(error),
        }
        let count = |frame: Frame<Bytes>| match this.account() {
            Some(account) => frame.map_data(|data| account.keep(data)),
            None => frame,
        };
        Poll::Ready(frame.map(|frame| frame.map(count)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Inner::Upstream(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Upstream(body) => body.body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What a body's error says about the upstream.
fn end_of(error: &BoxError) -> ResponseEnd {
    let fault = error.downcast_ref::<http2::Fault>();
    let stalled = error.downcast_ref::<Stalled>();
    match (fault, stalled) {
        (Some(fault), _) if !fault.blames_server() => ResponseEnd::GivenUp,
        (_, Some(Stalled { beside: true })) => ResponseEnd::GivenUp,
        _ => ResponseEnd::UpstreamBroke,
    }
}

/// The answer's frame as it may go on: trailers hold nothing that only a head may say.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            forward::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

/// Bytes of a request's body that are kept, so that it can be sent again.
const BEGINNING: usize = 64 * 1024;
/// And how many pieces they may be, as each holds on to a buffer.
const BEGINNING_PIECES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Noted(Arc<Mutex<Option<ResponseEnd>>>);

    impl OnEnd for Noted {
        fn ended(&mut self, _: u64, end: ResponseEnd, _: Option<UpstreamConnection>) {
            *self.0.lock().unwrap() = Some(end);
        }
    }

    #[test]
    fn an_answer_of_which_only_the_head_is_sent_is_whole() {
        #[track_caller]
        fn check(stays_here: bool, expect: ResponseEnd) {
            let noted = Arc::default();
            let mut body = ResponseBody::own("a body").on_end(Box::new(Noted(Arc::clone(&noted))));
            if stays_here {
                body.stays_here();
            }
            drop(body);
            assert_eq!(*noted.lock().unwrap(), Some(expect));
        }
        check(true, ResponseEnd::Complete);
        check(false, ResponseEnd::ClientLeft);
    }
}
