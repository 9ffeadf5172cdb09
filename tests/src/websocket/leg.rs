//! What a peer can speak over: TCP, TLS, or a stream of HTTP/2.

use std::time::Duration;

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::http2::stream::Stream;

/// A stream in two halves.
pub trait Leg {
    type Sender: AsyncWrite + Unpin;
    type Receiver: AsyncRead + Unpin;

    fn halves(self) -> (Self::Receiver, Self::Sender);

    /// Ends it rudely: the other end meets an error, not an end.
    fn cut(receiver: Self::Receiver, sender: Self::Sender);
}

/// Any stream that can be ended rudely.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes its drop, which must follow, a rude end.
    fn cut(&mut self);
}

impl Leg for TcpStream {
    type Sender = OwnedWriteHalf;
    type Receiver = OwnedReadHalf;

    fn halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }

    fn cut(receiver: OwnedReadHalf, sender: OwnedWriteHalf) {
        receiver.reunite(sender).unwrap().cut();
    }
}

impl Leg for Box<dyn Wire + '_> {
    type Sender = WriteHalf<Self>;
    type Receiver = ReadHalf<Self>;

    fn halves(self) -> (Self::Receiver, Self::Sender) {
        tokio::io::split(self)
    }

    fn cut(receiver: Self::Receiver, sender: Self::Sender) {
        receiver.unsplit(sender).cut();
    }
}

impl Wire for TcpStream {
    fn cut(&mut self) {
        // No time to linger: the kernel answers with RST.
        let linger = socket2::SockRef::from(&*self).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }
}

impl Wire for tokio_rustls::client::TlsStream<TcpStream> {
    fn cut(&mut self) {
        self.get_mut().0.cut();
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn cut(&mut self) {
        self.get_mut().0.cut();
    }
}

impl Wire for Stream {
    fn cut(&mut self) {
        self.outgoing.reset(Reason::CANCEL);
    }
}
