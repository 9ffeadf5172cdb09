//! A response's body on its way to the client.
//!
//! It carries whatever must happen when the last byte is out (or the client has gone): the upstream
//! connection goes back to its pool, the access log gets its line. One of an upstream's breaks off where that
//! stops sending for too long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{BoxError, UpstreamConnection, each_version};
use crate::budget::{Account, FREE};
use crate::forward;
use crate::http1::client;
use crate::http2::STREAM_WINDOW;
use crate::http2::client as http2;
use crate::stream::Stream;

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

    /// Whether some of what was taken of it has still to go out, and counts.
    pub fn is_kept(&self) -> bool {
        self.account
            .as_ref()
            .is_some_and(|account| !account.is_empty())
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
    /// As [`super::Incoming::ahead`].
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
