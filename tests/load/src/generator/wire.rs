//! A connection of the generator as bytes in and out, whether plain or TLS.
//!
//! Works with edge-triggered readiness: `receive` is called until it says [`Received::Nothing`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use socket2::{Domain, Socket, Type};

use super::tls;

/// A non-blocking client connection.
pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What the socket did not take; TLS keeps its own.
    unsent: Vec<u8>,
    /// The last read was short: nothing is left in the socket until the next event.
    emptied: bool,
    /// The part of [`Scratch::raw`] that TLS has not taken yet. Empty when `receive` has said
    /// [`Received::Nothing`], so other connections may use the buffer then.
    undeciphered: Range<usize>,
}

/// What [`Wire::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

/// Two buffers that all connections share while they are being served.
pub(crate) struct Scratch {
    /// As it comes from the socket.
    pub(crate) raw: Vec<u8>,
    /// As the script sees it.
    pub(crate) clear: Vec<u8>,
}

impl Wire {
    /// Begins to connect; readiness to write says that it is done.
    pub(crate) fn connect(to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let begin = |config: &Arc<ClientConfig>| {
            let name = tls::server_name()?;
            let tls = ClientConnection::new(Arc::clone(config), name);
            tls.map_err(io::Error::other)
        };
        let mut tls = tls.map(begin).transpose()?;
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(Some(MOST_UNSENT));
        }
        Ok(Wire {
            socket: TcpStream::from_std(socket.into()),
            tls: tls.map(Box::new),
            unsent: Vec::new(),
            emptied: false,
            undeciphered: 0..0,
        })
    }

    /// Whether scripts may send and receive: the TLS handshake, if there is one, is done.
    pub(crate) fn is_open(&self) -> bool {
        !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// How the TLS handshake went; `None` without TLS.
    pub(crate) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.tls.as_ref()?.handshake_kind()
    }

    /// Sends `bytes`, now or when the socket takes them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            return self.flush();
        }
        let mut sent = 0;
        if self.unsent.is_empty() {
            while sent < bytes.len() {
                match self.socket.write(&bytes[sent..]) {
                    Ok(wrote) => sent += wrote,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        if self.unsent.len() > MOST_UNSENT {
            return Err(io::Error::other("the proxy does not read"));
        }
        Ok(())
    }

    /// Whether the kernel has everything that was to be sent.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.unsent.is_empty() && !self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.flush()?;
        }
        match self.socket.shutdown(Shutdown::Write) {
            // The proxy was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(wrote) => drop(self.unsent.drain(..wrote)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the next bytes into `scratch.clear`. `read_closed` is what the event said.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut Scratch,
        read_closed: bool,
    ) -> io::Result<Received> {
        loop {
            if let Some(tls) = &mut self.tls {
                match tls.reader().read(&mut scratch.clear) {
                    Ok(0) => return Ok(Received::End),
                    Ok(read) => return Ok(Received::Bytes(read)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // An end without close_notify: what matters here arrived before it.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(Received::End);
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(tls) = &mut self.tls
                && !self.undeciphered.is_empty()
            {
                // A piece at a time: rustls holds only so much clear text that nobody has read.
                let mut fresh = &scratch.raw[self.undeciphered.clone()];
                tls.read_tls(&mut fresh)?;
                self.undeciphered.start = self.undeciphered.end - fresh.len();
                tls.process_new_packets().map_err(io::Error::other)?;
                self.flush()?;
                continue;
            }
            if std::mem::take(&mut self.emptied) {
                return Ok(Received::Nothing);
            }
            let into = if self.tls.is_some() {
                &mut scratch.raw
            } else {
                &mut scratch.clear
            };
            let read = match self.socket.read(into) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Nothing);
                }
                Err(error) => return Err(error),
            };
            self.emptied = read > 0 && read < into.len() && !read_closed;
            let Some(tls) = &mut self.tls else {
                return Ok(if read == 0 {
                    Received::End
                } else {
                    Received::Bytes(read)
                });
            };
            if read == 0 {
                if tls.is_handshaking() {
                    return Ok(Received::End);
                }
                tls.read_tls(&mut io::empty())?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            self.undeciphered = 0..read;
        }
    }
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch {
            raw: vec![0; SCRATCH],
            clear: vec![0; SCRATCH],
        }
    }
}

const SCRATCH: usize = 256 * 1024;
/// No row has more than this under way on one connection.
const MOST_UNSENT: usize = 8 << 20;
