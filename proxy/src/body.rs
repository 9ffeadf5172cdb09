//! Bodies on their way through: streamed, counted, limited, never collected; their trailers cleaned.
//!
//! Request bodies go to the upstream, response bodies to the client. Both say what becomes of their
//! bytes: pieces that somebody is slow to take count in the memory budget until they are gone.

mod request;
mod response;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http1::{client, server};
use crate::http2::STREAM_WINDOW;
use crate::http2::body::Received;
use crate::stream::Stream;
pub use request::{BodyFault, RequestBody};
pub use response::{OnEnd, ResponseBody, ResponseEnd, UpstreamBody};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection to an upstream.
pub type UpstreamConnection = client::Connection<Stream>;

/// A request body as its protocol brings it.
#[derive(Debug)]
pub enum Incoming {
    Http1(server::RequestBody<Stream>),
    Http2(Received),
}

macro_rules! each_version {
    ($of:ident, $self:expr, $body:ident => $call:expr) => {
        match $self {
            $of::Http1($body) => $call,
            $of::Http2($body) => $call,
        }
    };
}
use each_version;

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
