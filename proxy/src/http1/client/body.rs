//! An answer's body as it comes, and the connection behind it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, split};
use tokio::task::AbortHandle;

use super::super::decode::{BodyFault, Decoder, Piece};
use super::super::poll_read_body;
use super::{Connection, Upload};

/// The body of an upstream's answer. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct ResponseBody<S> {
    source: Source<S>,
    read: BytesMut,
    decoder: Decoder,
    keep_alive: bool,
}

#[derive(Debug)]
enum Source<S> {
    Whole(S),
    /// The answer has overtaken its request, whose rest a task of its own sends.
    Half {
        read: ReadHalf<S>,
        _rest: Uploading,
    },
}

/// A task that ends with its answer.
#[derive(Debug)]
struct Uploading(AbortHandle);

impl<S: AsyncRead + AsyncWrite + Unpin> ResponseBody<S> {
    pub(super) fn new<B>(connection: Connection<S>, upload: Upload<B>) -> ResponseBody<S>
    where
        S: Send + 'static,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Send,
    {
        let Connection {
            stream,
            read,
            keep_alive,
            decoder,
            ..
        } = connection;
        let (source, keep_alive) = match upload.is_finished() {
            true => (Source::Whole(stream), keep_alive),
            false => (send_the_rest(stream, upload), false),
        };
        ResponseBody {
            source,
            read,
            decoder,
            keep_alive,
        }
    }

    /// The connection, fit for another request: both the request and this body are whole, neither
    /// side wants to close, and nothing was read beyond the end.
    pub fn into_connection(self) -> Option<Connection<S>> {
        match self.source {
            Source::Whole(stream)
                if self.keep_alive && self.decoder.is_done() && self.read.is_empty() =>
            {
                // With a new buffer: the old one is shared with what was read.
                Some(Connection::new(stream))
            }
            _ => None,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wants = self.decoder.wants();
        match &mut self.source {
            Source::Whole(stream) => poll_read_body(stream, &mut self.read, wants, cx),
            Source::Half { read, .. } => poll_read_body(read, &mut self.read, wants, cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Body for ResponseBody<S> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self.get_mut();
        loop {
            match this.decoder.decode(&mut this.read) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            match ready!(this.poll_read(cx)) {
                Ok(0) => {
                    this.keep_alive = false;
                    return Poll::Ready(this.decoder.close().err().map(Err));
                }
                Ok(_) => {}
                Err(error) => {
                    // What was cut off is no whole body, even where only the close marks its end.
                    this.decoder = Decoder::Failed;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn send_the_rest<S, B>(stream: S, mut upload: Upload<B>) -> Source<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    let (read, mut write) = split(stream);
    let sending = tokio::spawn(async move {
        let sent = poll_fn(|cx| upload.poll_write(&mut write, cx)).await;
        if sent.is_err() {
            // The upstream must not take what it has for the whole; it is gone if this fails.
            let _ = write.shutdown().await;
        }
    });
    Source::Half {
        read,
        _rest: Uploading(sending.abort_handle()),
    }
}
