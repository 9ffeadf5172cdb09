//! The server behind every proxy: `GET` answers and a WebSocket echo, as cheap as they can be, over HTTP/1.1 or,
//! for who begins with its preface, HTTP/2.
//!
//! One thread, one epoll. A frame that arrives whole is unmasked, given its new head in place and
//! written from the buffer it was read into. It reads nothing more from a connection while an echo
//! waits to be written, so a slow reader costs it one message, not a queue.
//!
//! Runs as a child of the benchmark in a process of its own, and ends when its standard input does,
//! so that it never outlives the benchmark.

mod http2;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::failure::{Failure, Result};
use crate::http2::PREFACE;
use crate::{frames, heads};
use http2::Session;

/// Opens a socket for [`serve`] on a port of the kernel's choice.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Serves until there is something to read on `parent`, or its end.
///
/// # Errors
/// When epoll fails or no connection can be accepted.
pub(crate) fn serve(mut listener: TcpListener, parent: &impl AsRawFd) -> Result<()> {
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let parent = parent.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&parent), PARENT, Interest::READABLE)?;

    let mut server = Server::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                PARENT => return Ok(()),
                LISTENER => server.accept(&listener, &poll)?,
                Token(slot) => server.ready(slot, event),
            }
        }
    }
}

/// What the small answer says.
pub(crate) fn small_body() -> Vec<u8> {
    b"Hello from behind the proxy.\n".to_vec()
}

/// What `/64k` says.
pub(crate) fn large_body() -> Vec<u8> {
    (0..64 * 1024).map(|at| (at % 253) as u8).collect()
}

/// The one right answer to a `Sec-WebSocket-Key` (RFC 6455, section 4.2.2).
pub(crate) fn accept_for(key: &[u8]) -> String {
    let mut joined = key.to_vec();
    joined.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &joined))
}

struct Server {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    answers: Answers,
    /// What was read, by whichever connection is being served.
    scratch: Vec<u8>,
    /// What several frames or requests read at once are answered with.
    out: Vec<u8>,
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    /// The start of a frame or a head whose rest is still to come.
    partial: Vec<u8>,
    unsent: Vec<u8>,
    talk: Talk,
    /// Close as soon as everything is written.
    closing: bool,
}

/// What a connection speaks.
enum Talk {
    Http1,
    WebSocket,
    Http2(Box<Session>),
}

/// A frame that was turned into its echo where it lay.
struct Echo {
    reply: Range<usize>,
    opcode: u8,
}

impl Server {
    fn new() -> Server {
        Server {
            connections: Vec::new(),
            free: Vec::new(),
            answers: Answers {
                small: answer(&small_body()),
                large: answer(&large_body()),
            },
            scratch: vec![0; frames::LONGEST + READ],
            out: Vec::new(),
        }
    }

    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> Result<()> {
        loop {
            let (mut socket, _) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(Failure::of("the backend cannot accept")(error)),
            };
            socket.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.registry().register(
                &mut socket,
                Token(slot),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            self.connections[slot] = Some(Connection {
                socket,
                partial: Vec::new(),
                unsent: Vec::new(),
                talk: Talk::Http1,
                closing: false,
            });
        }
    }

    fn ready(&mut self, slot: usize, event: &Event) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else {
            return;
        };
        // A peer that breaks the protocol or the connection loses the connection; the generator sees it.
        let open = connection.turn(
            &self.answers,
            &mut self.scratch,
            &mut self.out,
            event.is_read_closed(),
        );
        if !open.unwrap_or(false) {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

impl Connection {
    /// Writes what waits, then reads and answers until there is nothing to read or a write waits
    /// again. Returns whether the connection stays.
    fn turn(
        &mut self,
        answers: &Answers,
        scratch: &mut [u8],
        out: &mut Vec<u8>,
        read_closed: bool,
    ) -> io::Result<bool> {
        loop {
            self.flush()?;
            if !self.unsent.is_empty() {
                return Ok(true);
            }
            if self.closing {
                return Ok(false);
            }
            let kept = self.partial.len();
            scratch[..kept].copy_from_slice(&self.partial);
            let space = &mut scratch[kept..];
            let room = space.len();
            let read = match self.socket.read(space) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            self.partial.clear();
            let taken = self.answer(answers, &mut scratch[..kept + read], out)?;
            self.partial.extend_from_slice(&scratch[taken..kept + read]);
            // A short read has emptied the socket; what comes later makes an event of its own. Only
            // an end that came with these bytes does not.
            if read < room && !read_closed && self.unsent.is_empty() && !self.closing {
                return Ok(true);
            }
        }
    }

    /// Answers every whole request or frame of `bytes`; returns how many bytes those took.
    fn answer(
        &mut self,
        answers: &Answers,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
    ) -> io::Result<usize> {
        out.clear();
        let mut taken = 0;
        while !self.closing {
            let rest = &mut bytes[taken..];
            match &mut self.talk {
                Talk::WebSocket => {
                    let Some(echo) = echo_in_place(rest)? else {
                        break;
                    };
                    self.closing = echo.opcode == frames::CLOSE;
                    let alone = taken == 0 && echo.reply.end == rest.len();
                    taken += echo.reply.end;
                    if alone {
                        self.send(&bytes[echo.reply])?;
                    } else {
                        out.extend_from_slice(&rest[echo.reply]);
                    }
                }
                Talk::Http2(session) => {
                    taken += session.answer(rest, out)?;
                    break;
                }
                Talk::Http1 if PREFACE.starts_with(&rest[..rest.len().min(PREFACE.len())]) => {
                    if rest.len() < PREFACE.len() {
                        break;
                    }
                    taken += PREFACE.len();
                    self.talk = Talk::Http2(Box::new(Session::begin(out)));
                }
                Talk::Http1 => {
                    let Some(length) = heads::end(rest) else {
                        break;
                    };
                    taken += length;
                    self.answer_head(&rest[..length], answers, out);
                }
            }
        }
        if !out.is_empty() {
            self.send(out)?;
        }
        Ok(taken)
    }

    fn answer_head(&mut self, head: &[u8], answers: &Answers, out: &mut Vec<u8>) {
        if let Some(key) = heads::field(head, "sec-websocket-key") {
            self.talk = Talk::WebSocket;
            out.extend_from_slice(SWITCHING);
            out.extend_from_slice(accept_for(key).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
            return;
        }
        self.closing = heads::field(head, "connection")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or(b"");
        out.extend_from_slice(if path.ends_with(b"/64k") {
            &answers.large
        } else if path.starts_with(FILTERED.as_bytes())
            && heads::field(head, "x-served-for") != Some(b"bench")
        {
            NOT_FILTERED
        } else {
            &answers.small
        });
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.unsent.is_empty() {
            write_some(&mut self.socket, bytes)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write_some(&mut self.socket, &self.unsent)?;
            self.unsent.drain(..sent);
            if self.unsent.is_empty() {
                // Thousands of connections each had their turn with a large echo.
                self.unsent = Vec::new();
            }
        }
        Ok(())
    }
}

/// Turns the frame at the start of `bytes` into its echo; `None` while it is not whole.
fn echo_in_place(bytes: &mut [u8]) -> io::Result<Option<Echo>> {
    let Some(head) = frames::masked_head(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let (start, end) = (head.length, head.length + head.payload);
    let Some(payload) = bytes.get_mut(start..end) else {
        return Ok(None);
    };
    frames::unmask(payload, head.mask);
    let reply_head = frames::head(head.opcode, head.payload, None);
    // The mask's four bytes are room enough for the new head in front of the payload.
    let reply_at = start - reply_head.len();
    bytes[reply_at..start].copy_from_slice(&reply_head);
    Ok(Some(Echo {
        reply: reply_at..end,
        opcode: head.opcode,
    }))
}

/// Writes until the socket takes no more; returns how much it took.
fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(wrote) => sent += wrote,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn answer(body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Paths on which every proxy's filter edits the request and the response.
pub(crate) const FILTERED: &str = "/filtered/";
const NOT_FILTERED: &[u8] = b"HTTP/1.1 500 Not Filtered\r\nContent-Length: 0\r\n\r\n";
const LISTENER: Token = Token(usize::MAX);
const PARENT: Token = Token(usize::MAX - 1);
const BACKLOG: i32 = 16_384;
/// Room to read behind the start of the longest frame.
const READ: usize = 256 * 1024;
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_standard() {
        assert_eq!(
            accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
