//! A TLS stream that holds no buffer while it is idle.
//!
//! rustls' buffered connections keep a 4 KiB read buffer each for life and read 4 KiB at a time.
//! This stream drives rustls' unbuffered ones instead: ciphertext is read into a scratch buffer per
//! thread, up to four records in one call, and encrypted into another; the heap holds only what did
//! not fit, such as the first half of a record or what a slow peer could not take.
//!
//! Bounds: at most one scratch buffer of ciphertext per direction and one record of plaintext. A
//! peer whose last writes have not gone out takes no new ones.
//!
//! What rustls wants to say when the handshake is over or nearly so (session tickets, a client's
//! Finished, answers to key updates) goes out with the next bytes of the owner, which saves a system
//! call and a packet. A client's Finished goes alone if the owner would rather read first.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Socket;

/// One side of a TLS connection over a socket.
pub struct TlsStream<C> {
    socket: Socket,
    connection: C,
    /// Decrypted, and more than the reader had room for.
    plain: Held,
    /// Read, but not a whole record yet.
    incoming: Vec<u8>,
    /// Encrypted, and not sent yet.
    outgoing: Held,
    /// What is outgoing can wait for the next write.
    patient: bool,
    /// Short writes wait for a flush or the goodbye.
    corked: bool,
    /// The peer has ended its side in the orderly way.
    peer_closed: bool,
    /// We have ended ours.
    closed: bool,
}

/// What TLS a stream speaks: the two sides of rustls under one name.
pub trait Connection: Unpin {
    type Data;

    /// Whether the peer waits for our last words of a TLS 1.3 handshake: a server does, for they
    /// are our Finished; a client does not, for they are tickets.
    const LAST_WORDS_ARE_AWAITED: bool;

    fn common(&self) -> &CommonState;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    const LAST_WORDS_ARE_AWAITED: bool = false;

    fn common(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    const LAST_WORDS_ARE_AWAITED: bool = true;

    fn common(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

/// Bytes of which some are used up already; gives its memory back when all are.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    at: usize,
}

/// Where rustls stands with what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand<T> {
    /// In the handshake, waiting for the peer.
    Shaking,
    /// Waiting for more ciphertext, or for something to encrypt.
    Open(T),
    /// The reader has no room left.
    Full,
    /// Nothing more will come.
    Ended,
}

impl<C: Connection> TlsStream<C> {
    /// Shakes hands. Waits for the peer without a limit.
    ///
    /// On an error the peer has been sent the alert, as far as the socket took it at once.
    pub(super) async fn handshake(socket: Socket, connection: C) -> io::Result<TlsStream<C>> {
        let mut stream = TlsStream {
            socket,
            connection,
            plain: Held::default(),
            incoming: Vec::new(),
            outgoing: Held::default(),
            patient: false,
            corked: false,
            peer_closed: false,
            closed: false,
        };
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// What the handshake settled.
    pub fn settled(&self) -> &C {
        &self.connection
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// From now on short writes wait for a flush or the goodbye, so that last words and the
    /// close_notify behind them leave in one packet.
    pub fn cork(&mut self) {
        self.corked = true;
    }

    /// Sends what was written and close_notify behind it (RFC 8446 §6.1). Nothing can be written
    /// after it; the socket stays open both ways until a shutdown or the drop.
    pub fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.closed, true) {
            let mut goodbye = [0; GOODBYE];
            // A connection that cannot say goodbye is closed without.
            if let Ok(Ok(len)) = self.when_open(|traffic| traffic.queue_close_notify(&mut goodbye))
            {
                self.outgoing.hold(&goodbye[..len]);
            }
        }
        self.send_outgoing(cx)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.patient {
                ready!(self.send_outgoing(cx))?;
            }
            if !self.connection.common().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let stand = ready!(self.read_records(cx, &mut ReadBuf::new(&mut [])));
            let stand = stand.inspect_err(|_| self.send_alert(cx))?;
            let common = self.connection.common();
            if !common.is_handshaking() {
                self.patient = common.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            } else if stand == Stand::Ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads from the socket, at most once, and decrypts into `out` and what does not fit there
    /// into `plain`. Ready does not promise a byte of plaintext.
    fn read_records(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Stand<()>>> {
        INCOMING.with_borrow_mut(|scratch| {
            let mut filled = self.unpack_incoming(scratch);
            let before = out.filled().len();
            let shaking = self.connection.common().is_handshaking();
            // What was held may be enough, and a client speaks first.
            if filled > 0 || shaking {
                let stand = self.process_all(scratch, &mut filled, out)?;
                let waits = matches!(stand, Stand::Open(()) | Stand::Shaking);
                // A handshake goes on with what is to be sent; later, that is the writer's affair.
                let shaken = shaking
                    && (!self.outgoing.is_empty() || !self.connection.common().is_handshaking());
                if !waits || shaken || out.filled().len() > before {
                    self.incoming.extend_from_slice(&scratch[..filled]);
                    return Poll::Ready(Ok(stand));
                }
            }
            let room = (out.remaining() + READ_AHEAD)
                .max(MAX_RECORD)
                .min(scratch.len() - filled);
            if room == 0 {
                return Poll::Ready(Err(invalid("a handshake message is too long")));
            }
            let mut buf = ReadBuf::new(&mut scratch[filled..filled + room]);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut buf);
            let n = buf.filled().len();
            filled += n;
            let stand = match read {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                // Only close_notify is an orderly end.
                Poll::Ready(Ok(())) if n == 0 => {
                    Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
                }
                Poll::Ready(Ok(())) => Poll::Ready(self.process_all(scratch, &mut filled, out)),
            };
            self.incoming.extend_from_slice(&scratch[..filled]);
            stand
        })
    }

    /// Processes the first `filled` bytes and leaves the unused ones in their place.
    fn process_all(
        &mut self,
        scratch: &mut [u8],
        filled: &mut usize,
        out: &mut ReadBuf<'_>,
    ) -> io::Result<Stand<()>> {
        let (used, stand) = self.process(&mut scratch[..*filled], Some(out), |_| ());
        scratch.copy_within(used..*filled, 0);
        *filled -= used;
        stand
    }

    /// Shows rustls the ciphertext and obeys it until it stands still; says how much was used up.
    ///
    /// Without `out` the plaintext is kept for later. `open` is called where the stream is open.
    fn process<T>(
        &mut self,
        incoming: &mut [u8],
        mut out: Option<&mut ReadBuf<'_>>,
        open: impl FnOnce(&mut WriteTraffic<'_, C::Data>) -> T,
    ) -> (usize, io::Result<Stand<T>>) {
        let shaking = self.connection.common().is_handshaking();
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process(&mut incoming[used..]);
            let stand = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let taken = out.as_mut().map_or(0, |out| {
                            let taken = record.payload.len().min(out.remaining());
                            out.put_slice(&record.payload[..taken]);
                            taken
                        });
                        self.plain.hold(&record.payload[taken..]);
                    }
                    match &out {
                        Some(out) if out.remaining() == 0 || !self.plain.is_empty() => {
                            Some(Stand::Full)
                        }
                        _ => None,
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    if self.outgoing.is_empty() {
                        self.patient = !shaking;
                    }
                    encode(data, &mut self.outgoing.bytes);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    // It is ours to send now.
                    transmit.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    out.is_some().then_some(Stand::Ended)
                }
                Ok(ConnectionState::Closed) => Some(Stand::Ended),
                Ok(ConnectionState::BlockedHandshake) => Some(Stand::Shaking),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return (used + discard, Ok(Stand::Open(open(&mut traffic))));
                }
                Ok(_) => return (used, Err(invalid("early data was not offered"))),
                Err(error) => {
                    // Nothing more can be read or written but the alert.
                    (self.closed, self.peer_closed, self.patient) = (true, true, false);
                    used += discard;
                    let status = self.connection.process(&mut incoming[used..]);
                    if let Ok(ConnectionState::EncodeTlsData(alert)) = status.state {
                        encode(alert, &mut self.outgoing.bytes);
                    }
                    return (used, Err(invalid(error)));
                }
            };
            used += discard;
            if let Some(stand) = stand {
                return (used, Ok(stand));
            }
        }
    }

    /// Calls `open` if there is still somebody to write to.
    ///
    /// rustls must be shown what is left of the incoming ciphertext: it may have begun with it.
    fn when_open<T>(
        &mut self,
        open: impl FnOnce(&mut WriteTraffic<'_, C::Data>) -> T,
    ) -> io::Result<T> {
        let stand = if self.incoming.is_empty() {
            self.process(&mut [], None, open).1
        } else {
            INCOMING.with_borrow_mut(|scratch| {
                let filled = self.unpack_incoming(scratch);
                let (used, stand) = self.process(&mut scratch[..filled], None, open);
                self.incoming.extend_from_slice(&scratch[used..filled]);
                stand
            })
        };
        match stand? {
            Stand::Open(result) => Ok(result),
            Stand::Shaking | Stand::Full | Stand::Ended => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn unpack_incoming(&mut self, scratch: &mut [u8]) -> usize {
        let incoming = std::mem::take(&mut self.incoming);
        scratch[..incoming.len()].copy_from_slice(&incoming);
        incoming.len()
    }

    /// Encrypts `plain` and sends it behind whatever is outgoing; what the socket does not take is
    /// held, and so is what is corked.
    fn seal_and_send(&mut self, plain: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        OUTGOING.with_borrow_mut(|scratch| {
            let (front, sealed) = scratch.split_at_mut(PREFIX);
            let len = self
                .when_open(|traffic| traffic.encrypt(plain, sealed))?
                .map_err(|error| io::Error::other(error.to_string()))?;
            self.patient = false;
            let first = self.outgoing.rest();
            if self.corked && first.len() + len <= front.len() {
                self.outgoing.hold(&sealed[..len]);
                return Ok(());
            }
            if first.len() > front.len() {
                self.outgoing.hold(&sealed[..len]);
                return match self.send_outgoing(cx) {
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
                };
            }
            let start = PREFIX - first.len();
            front[start..].copy_from_slice(first);
            self.outgoing.clear();
            let whole = &scratch[start..PREFIX + len];
            let sent = match Pin::new(&mut self.socket).poll_write(cx, whole) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            self.outgoing.hold(&whole[sent..]);
            Ok(())
        })
    }

    /// What is outgoing may go out with the next write.
    fn can_wait(&self) -> bool {
        self.patient || (self.corked && self.outgoing.rest().len() <= PREFIX)
    }

    fn send_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.rest()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// A peer that does not take the alert at once goes without.
    fn send_alert(&mut self, cx: &mut Context<'_>) {
        let _ = self.send_outgoing(cx);
    }
}

impl<C: Connection> AsyncRead for TlsStream<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.plain.is_empty() {
                let n = this.plain.rest().len().min(buf.remaining());
                buf.put_slice(&this.plain.rest()[..n]);
                this.plain.advance(n);
                return Poll::Ready(Ok(()));
            }
            if this.peer_closed {
                return Poll::Ready(Ok(()));
            }
            if C::LAST_WORDS_ARE_AWAITED
                && this.patient
                && let Poll::Ready(sent) = this.send_outgoing(cx)
            {
                sent?;
                this.patient = false;
            }
            let before = buf.filled().len();
            let stand = ready!(this.read_records(cx, buf));
            stand.inspect_err(|_| this.send_alert(cx))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<C: Connection> AsyncWrite for TlsStream<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !this.can_wait() {
            ready!(this.send_outgoing(cx))?;
        }
        let chunk = &buf[..buf.len().min(CHUNK)];
        if !chunk.is_empty() {
            this.seal_and_send(chunk, cx)?;
        }
        Poll::Ready(Ok(chunk.len()))
    }

    /// Puts short slices, such as a head and its body, into one record.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        match (filled.next(), filled.next()) {
            (None, _) => Poll::Ready(Ok(0)),
            (Some(only), None) => self.poll_write(cx, only),
            (Some(first), Some(_)) if first.len() >= GATHERED => self.poll_write(cx, first),
            (Some(_), Some(_)) => GATHER.with_borrow_mut(|gather| {
                let mut len = 0;
                for buf in bufs {
                    let n = buf.len().min(gather.len() - len);
                    gather[len..len + n].copy_from_slice(&buf[..n]);
                    len += n;
                }
                self.poll_write(cx, &gather[..len])
            }),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.patient {
            return Poll::Ready(Ok(()));
        }
        this.send_outgoing(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_goodbye(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl<C> fmt::Debug for TlsStream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn hold(&mut self, bytes: &[u8]) {
        // An empty vector allocates nothing for nothing.
        self.bytes.extend_from_slice(bytes);
    }

    fn advance(&mut self, n: usize) {
        self.at += n;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        *self = Held::default();
    }
}

/// Appends what rustls has encrypted already.
fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let at = out.len();
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else {
        return;
    };
    out.resize(at + needed.required_size, 0);
    if data.encode(&mut out[at..]).is_err() {
        out.truncate(at);
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The longest record (RFC 8446 §5.2; RFC 5246 allows more overhead), with its head.
const MAX_RECORD: usize = 16 * 1024 + 2048 + 5;
/// Ciphertext read beyond the reader's room: the overhead of the records that fill it.
const READ_AHEAD: usize = 1024;
/// The longest handshake message that rustls takes, and a record behind it.
const INCOMING_SIZE: usize = 64 * 1024 + 2 * MAX_RECORD;
/// Plaintext that one write takes at most.
const CHUNK: usize = 64 * 1024;
/// Space in front of a write for what waited for it: tickets, as a rule, or what was corked.
const PREFIX: usize = 4096;
/// A chunk and the overhead of its records.
const OUTGOING_SIZE: usize = PREFIX + CHUNK + 1024;
/// A close_notify, and an answer to a key update that rustls may put before it.
const GOODBYE: usize = 256;
/// Slices that are put into one record: as much as one holds.
const GATHERED: usize = 16 * 1024;

thread_local! {
    static INCOMING: RefCell<Box<[u8]>> = scratch(INCOMING_SIZE);
    static OUTGOING: RefCell<Box<[u8]>> = scratch(OUTGOING_SIZE);
    static GATHER: RefCell<Box<[u8]>> = scratch(GATHERED);
}

fn scratch(size: usize) -> RefCell<Box<[u8]>> {
    RefCell::new(vec![0; size].into_boxed_slice())
}
