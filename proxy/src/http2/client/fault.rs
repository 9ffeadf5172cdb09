//! Why a request brought no answer, and whether the server has seen it.

use std::io;

use h2::Reason;

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server reset the stream before it did anything (RFC 9113 §8.7).
    #[error("the server refused the stream")]
    Refused,
    /// The server said GOAWAY and did not take this stream any more, or the connection had ended before
    /// the stream was opened.
    #[error("the server is going away")]
    GoneAway,
    /// The server wants this request over HTTP/1.1 (RFC 9113 §7).
    #[error("the server wants HTTP/1.1")]
    Http1Required,
    /// The connection ended, and nobody knows how far the request had come.
    #[error("the connection broke off: {0}")]
    Closed(io::Error),
    #[error("the server reset the stream: {0}")]
    Reset(Reason),
    /// The server broke the rules of HTTP/2.
    #[error("{0}")]
    Protocol(h2::Error),
    #[error("the answer's head is refused: {0}")]
    Head(#[from] HeadFault),
    /// Our request has no form in HTTP/2.
    #[error("the request cannot be sent: {0}")]
    Unsendable(h2::Error),
}

/// Why an answer's head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error("too many interim answers")]
    Interims,
    #[error("101 does not exist in HTTP/2")]
    Switching,
    #[error("too many fields")]
    Fields,
    #[error("blanks around a field's value")]
    Blanks,
}

impl Fault {
    /// The server has done nothing about the request: it may be sent again, whatever it is.
    pub fn is_unseen(&self) -> bool {
        matches!(
            self,
            Fault::Refused | Fault::GoneAway | Fault::Http1Required
        )
    }

    /// Whether it tells against the server's health. One that answers a stream, be it with a reset, is there.
    pub fn blames_server(&self) -> bool {
        match self {
            Fault::GoneAway | Fault::Closed(_) | Fault::Protocol(_) | Fault::Head(_) => true,
            Fault::Refused | Fault::Http1Required | Fault::Reset(_) | Fault::Unsendable(_) => false,
        }
    }

    /// The connection ended in order.
    pub(super) fn closed() -> Fault {
        Fault::Closed(io::ErrorKind::UnexpectedEof.into())
    }

    /// Of a stream that could not be opened.
    pub(super) fn unsent(error: h2::Error, connection_ended: bool) -> Fault {
        if connection_ended || error.is_io() || error.is_go_away() {
            return Fault::GoneAway;
        }
        Fault::Unsendable(error)
    }
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Fault {
        match error.reason() {
            Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Fault::Http1Required,
            Some(Reason::REFUSED_STREAM) if error.is_remote() && error.is_reset() => Fault::Refused,
            Some(reason) if error.is_remote() && error.is_reset() => Fault::Reset(reason),
            // Of streams that the server had taken on only their connection's end is told.
            Some(_) if error.is_remote() => Fault::GoneAway,
            _ => match error.get_io() {
                Some(error) => Fault::Closed(error.kind().into()),
                None => Fault::Protocol(error),
            },
        }
    }
}
