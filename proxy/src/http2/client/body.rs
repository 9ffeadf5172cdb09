//! An answer's body as it comes, and the rest of its request beside it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{FIELDS, Fault, HeadFault, Slot, Upload};
use crate::http2::body::Received;

/// The body of an upstream's answer. Dropping it before its end resets the stream.
#[derive(Debug)]
pub struct ResponseBody {
    received: Received,
    _rest: Option<Uploading>,
    _slot: Slot,
}

/// A task that ends with its answer.
#[derive(Debug)]
struct Uploading(AbortHandle);

impl ResponseBody {
    /// Of an answer that came with these fields, to a request that is whole.
    pub fn new(headers: &HeaderMap, stream: RecvStream, slot: Slot) -> ResponseBody {
        ResponseBody {
            received: Received::new(stream, headers),
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
        upload: Upload<B>,
    ) -> ResponseBody
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        let mut body = ResponseBody::new(headers, stream, slot);
        // After a whole answer nobody asks for the rest.
        if !body.is_end_stream() {
            body._rest = Some(send_the_rest(upload));
        }
        body
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.get_mut().received).poll_frame(cx));
        let fields = |frame: &Frame<Bytes>| frame.trailers_ref().map_or(0, HeaderMap::len);
        Poll::Ready(match frame {
            Some(Ok(frame)) if fields(&frame) > FIELDS => Some(Err(HeadFault::Fields.into())),
            frame => frame.map(|frame| frame.map_err(Fault::from)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.received.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.received.size_hint()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn send_the_rest<B>(mut upload: Upload<B>) -> Uploading
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    let sending = tokio::spawn(async move {
        if poll_fn(|cx| upload.poll_send(cx)).await.is_err() {
            // The upstream must not take what it has for the whole.
            upload.reset(Reason::CANCEL);
        }
    });
    Uploading(sending.abort_handle())
}
