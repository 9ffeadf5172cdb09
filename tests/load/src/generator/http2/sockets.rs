//! Script of WebSockets over HTTP/2 (RFC 8441): so many on each connection, each with echoes that never end, or
//! on demand.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::{FrameByFrame, Frames, receive};
use crate::failure::{Failure, Result};
use crate::frames::Message;
use crate::generator::{Held, Line, Next, Script};
use crate::http2::{
    ACK, AUTHORITY, DATA, Debt, ENABLE_CONNECT_PROTOCOL, END_HEADERS, END_STREAM, HEADERS, Head,
    METHOD, Outlet, PATH, SCHEME_HTTP, SCHEME_HTTPS, SETTINGS, USER_AGENT, WINDOW_UPDATE, field,
    named_field, push_frame,
};

/// What opens each socket of a row.
pub(crate) struct Opening {
    block: Vec<u8>,
    /// Sockets on a connection.
    count: usize,
}

/// A connection's sockets.
pub(crate) struct Sockets {
    opening: Rc<Opening>,
    message: Rc<RefCell<Message>>,
    /// Send the next message as soon as an echo is complete.
    endless: bool,
    frames: Frames,
    outlet: Outlet,
    /// Socket `n` is stream `2n + 1`. None before the proxy has announced that it takes them.
    sockets: Vec<Socket>,
}

#[derive(Default)]
struct Socket {
    open: bool,
    /// Since when the message counts that is under way.
    since: Option<Instant>,
    /// Number of the echo that comes next.
    expected: u64,
    /// How much of it is here.
    arrived: usize,
    debt: Debt,
}

impl Opening {
    /// `count` sockets on each connection, as a browser would open them. `key`: with a Sec-WebSocket-Key, of
    /// which HTTP/2 knows nothing.
    pub(crate) fn new(path: &str, tls: bool, count: usize, key: bool) -> Rc<Opening> {
        let scheme = if tls { SCHEME_HTTPS } else { SCHEME_HTTP };
        let mut block = [
            field(METHOD, "CONNECT"),
            named_field(":protocol", "websocket"),
            vec![scheme],
            field(PATH, path),
            field(AUTHORITY, "localhost"),
            field(USER_AGENT, "sluicegate-load"),
            named_field("sec-websocket-version", "13"),
        ]
        .concat();
        if key {
            block.extend(named_field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="));
        }
        Rc::new(Opening { block, count })
    }
}

impl Sockets {
    /// Echoes without end; the connection is settled after the first on each socket.
    pub(crate) fn endless(opening: &Rc<Opening>, message: &Rc<RefCell<Message>>) -> Sockets {
        Sockets {
            endless: true,
            ..Sockets::on_demand(opening, message)
        }
    }

    /// Sends only what it is told; settled when nothing is under way.
    pub(crate) fn on_demand(opening: &Rc<Opening>, message: &Rc<RefCell<Message>>) -> Sockets {
        Sockets {
            opening: Rc::clone(opening),
            message: Rc::clone(message),
            endless: false,
            frames: Frames::new(),
            outlet: Outlet::new(),
            sockets: Vec::new(),
        }
    }

    fn open_all(&mut self) {
        self.sockets
            .resize_with(self.opening.count, Socket::default);
        for at in 0..self.sockets.len() {
            let (stream, out) = (stream(at), &mut self.frames.out);
            push_frame(HEADERS, END_HEADERS, stream, &self.opening.block, out);
            self.outlet.open(stream);
        }
    }

    fn send_on(&mut self, at: usize, now: Instant) {
        let socket = &mut self.sockets[at];
        socket.since = Some(now);
        let mut message = self.message.borrow_mut();
        let bytes = message.numbered(socket.expected);
        (self.outlet).send(stream(at), bytes, false, &mut self.frames.out);
    }

    fn receive_on(&mut self, stream: u32, payload: &[u8], line: &mut Line<'_>) -> Result<()> {
        let at = place(stream);
        let socket = (self.sockets.get_mut(at)).ok_or_else(unknown)?;
        (socket.debt).add(stream, payload.len(), &mut self.frames.out);
        let mut message = self.message.borrow_mut();
        let expected = message.reply(socket.expected);
        let since = match socket.since {
            Some(since) if expected[socket.arrived..].starts_with(payload) => since,
            Some(_) => return Err(Failure::new(format!("echo {} differs", socket.expected))),
            None if payload.is_empty() => return Ok(()),
            None => return Err(Failure::new("bytes that nobody asked for")),
        };
        socket.arrived += payload.len();
        if socket.arrived == expected.len() {
            socket.arrived = 0;
            socket.expected += 1;
            socket.since = None;
            line.count(since);
            drop(message);
            if self.endless {
                self.send_on(at, line.now);
            }
        }
        Ok(())
    }
}

impl FrameByFrame for Sockets {
    fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    fn frame(&mut self, head: Head, payload: &[u8], line: &mut Line<'_>) -> Result<()> {
        let out = &mut self.frames.out;
        match head.kind {
            SETTINGS if !head.has(ACK) => {
                let announced = self.outlet.obey(payload, ENABLE_CONNECT_PROTOCOL, out);
                if self.sockets.is_empty() {
                    if announced != Some(1) {
                        return Err(Failure::new("no WebSockets over HTTP/2 are announced"));
                    }
                    self.open_all();
                }
                Ok(())
            }
            WINDOW_UPDATE => self.outlet.grant(head.stream, payload, out),
            HEADERS | DATA if head.has(END_STREAM) => Err(Failure::new("the end of a socket")),
            HEADERS => {
                let at = place(head.stream);
                let socket = (self.sockets.get_mut(at)).ok_or_else(unknown)?;
                if std::mem::replace(&mut socket.open, true) {
                    return Err(Failure::new("a second answer"));
                }
                if self.endless {
                    self.send_on(at, line.now);
                }
                Ok(())
            }
            DATA => self.receive_on(head.stream, payload, line),
            _ => Ok(()),
        }
    }
}

impl Script for Sockets {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        self.frames.begin();
        self.frames.send(line)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        receive(self, bytes, line)
    }

    fn is_settled(&self) -> bool {
        let settled = |socket: &Socket| match self.endless {
            true => socket.expected > 0,
            false => socket.open && socket.since.is_none(),
        };
        self.sockets.len() == self.opening.count && self.sockets.iter().all(settled)
    }
}

impl Held for Sockets {
    fn say(&mut self, line: &mut Line<'_>) -> Result<()> {
        for at in 0..self.sockets.len() {
            self.send_on(at, line.now);
        }
        self.frames.send(line)
    }

    fn change(&mut self, message: &Rc<RefCell<Message>>) {
        self.message = Rc::clone(message);
    }
}

fn stream(at: usize) -> u32 {
    2 * at as u32 + 1
}

fn place(stream: u32) -> usize {
    stream as usize / 2
}

fn unknown() -> Failure {
    Failure::new("an answer that nobody asked for")
}
