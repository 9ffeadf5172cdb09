//! An answer's body as it comes, and the rest of its request beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{FIELDS, Fault, HeadFault, Slot, Upload};

/// The body of an upstream's answer. Dropping it before its end resets the stream.
#[derive(Debug)]
pub struct ResponseBody {
    stream: RecvStream,
    next: Next,
    /// Bytes still to come, where the head says how many.
    left: Option<u64>,
    _rest: Option<Uploading>,
    _slot: Slot,
}

/// What is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Data,
    Trailers,
    Nothing,
}

/// A task that ends with its answer.
#[derive(Debug)]
struct Uploading(AbortHandle);

impl ResponseBody {
    /// Of an answer that came with these fields, to a request that is whole.
    pub fn new(headers: &HeaderMap, stream: RecvStream, slot: Slot) -> ResponseBody {
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        // A head may speak of a body that it does not bring, as the answer to HEAD does.
        let (next, left) = match stream.is_end_stream() {
            true => (Next::Nothing, Some(0)),
            false => (Next::Data, length),
        };
        ResponseBody {
            stream,
            next,
            left,
            _rest: None,
            _slot: slot,
        }
    }

    /// As [`ResponseBody::new`], of an answer that has overtaken its request: a task of its own sends
    /// the rest, as long as the answer comes.
    pub fn beside<B>(
        headers: &HeaderMap,
        stream: RecvStream,
        slot: Slot,
        send: SendStream<Bytes>,
        upload: Upload<B>,
    ) -> ResponseBody
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        let mut body = ResponseBody::new(headers, stream, slot);
        // After a whole answer nobody asks for the rest.
        if body.next != Next::Nothing {
            body._rest = Some(send_the_rest(send, upload));
        }
        body
    }

    /// Takes what comes next, and gives the window for it back: it is asked for when somebody has room.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let Some(data) = ready!(self.stream.poll_data(cx)) else {
                return Poll::Ready(None);
            };
            let data = data?;
            let len = data.len();
            // It fails only for a stream that has ended, which the next poll tells.
            let _ = self.stream.flow_control().release_capacity(len);
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(len as u64);
            }
            if len > 0 {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<HeaderMap, Fault>>> {
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(match trailers {
            Some(trailers) if trailers.len() > FIELDS => Some(Err(HeadFault::Fields.into())),
            trailers => trailers.map(Ok),
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if this.next == Next::Data {
            if let Some(data) = ready!(this.poll_data(cx)) {
                if data.is_err() {
                    this.next = Next::Nothing;
                }
                return Poll::Ready(Some(data.map(Frame::data)));
            }
            this.next = Next::Trailers;
        }
        if this.next == Next::Trailers {
            let trailers = ready!(this.poll_trailers(cx));
            this.next = Next::Nothing;
            return Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self.next {
            Next::Data | Next::Trailers => self.stream.is_end_stream(),
            Next::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn send_the_rest<B>(mut send: SendStream<Bytes>, mut upload: Upload<B>) -> Uploading
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    let sending = tokio::spawn(async move {
        if poll_fn(|cx| upload.poll_send(&mut send, cx)).await.is_err() {
            // The upstream must not take what it has for the whole.
            send.send_reset(Reason::CANCEL);
        }
    });
    Uploading(sending.abort_handle())
}
