//! Scripts of WebSocket connections: echoes that never end, echoes on demand, and whole lives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::{Held, Line, Next, Script};
use crate::failure::{Failure, Result};
use crate::frames::{self, Message};
use crate::heads;

/// The opening handshake, and whatever the proxy must answer to it.
pub(super) struct Opening {
    /// The head of the answer, as far as it came.
    head: Vec<u8>,
    pub(super) done: bool,
    /// permessage-deflate was agreed on.
    pub(super) deflate: bool,
}

/// Sends messages and compares every byte that comes back.
pub(crate) struct Echo {
    opening: Opening,
    /// The request that opens it.
    handshake: &'static [u8],
    message: Rc<RefCell<Message>>,
    /// Send the next message as soon as an echo is complete.
    endless: bool,
    /// Since when each message counts that is under way.
    under_way: VecDeque<Instant>,
    /// Number of the echo that comes next.
    expected: u64,
    /// How much of it is here.
    arrived: usize,
    /// Echoes to see before the connection is settled.
    first: u64,
    /// The opening handshake is a unit of its own.
    counts_opening: bool,
}

/// Connects, upgrades, closes in order and waits for the end.
pub(crate) struct Life {
    opening: Opening,
    close: Rc<Close>,
    arrived: usize,
}

/// The Close frames of all lives.
pub(crate) struct Close {
    sent: Vec<u8>,
    reply: Vec<u8>,
}

impl Opening {
    pub(super) fn new() -> Opening {
        Opening {
            head: Vec::new(),
            done: false,
            deflate: false,
        }
    }

    /// Takes the answer's head from the front of `bytes`; returns what follows it.
    pub(super) fn receive<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let had = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = heads::end(&self.head) else {
            if self.head.len() > LONGEST_HEAD {
                return Err(Failure::new("an endless head"));
            }
            return Ok(&[]);
        };
        let rest = &bytes[end - had..];
        let head = &self.head[..end];
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let text = String::from_utf8_lossy(head);
            let line = text.lines().next().unwrap_or("");
            return Err(Failure::new(format!("`{line}` instead of a 101")));
        }
        if heads::field(head, "sec-websocket-accept") != Some(ACCEPT) {
            return Err(Failure::new("a 101 with a wrong Sec-WebSocket-Accept"));
        }
        self.deflate = heads::field(head, "sec-websocket-extensions")
            .is_some_and(|value| value.starts_with(b"permessage-deflate"));
        self.done = true;
        self.head = Vec::new();
        Ok(rest)
    }
}

impl Echo {
    /// Echoes without end; the connection is settled after the first.
    pub(crate) fn endless(message: &Rc<RefCell<Message>>) -> Echo {
        Echo {
            endless: true,
            first: 1,
            ..Echo::on_demand(message)
        }
    }

    /// Sends only what [`Echo::send`] says; settled when nothing is under way.
    pub(crate) fn on_demand(message: &Rc<RefCell<Message>>) -> Echo {
        Echo {
            opening: Opening::new(),
            handshake: HANDSHAKE,
            message: Rc::clone(message),
            endless: false,
            under_way: VecDeque::new(),
            expected: 0,
            arrived: 0,
            first: 0,
            counts_opening: false,
        }
    }

    /// As [`Echo::on_demand`], and the way from the connect to the 101 counts.
    pub(crate) fn counting_openings(message: &Rc<RefCell<Message>>) -> Echo {
        Echo {
            counts_opening: true,
            ..Echo::on_demand(message)
        }
    }

    /// The same where the proxy has its filter.
    pub(crate) fn filtered(self) -> Echo {
        Echo {
            handshake: FILTERED_HANDSHAKE,
            ..self
        }
    }

    /// Sends a message that counts from `due`.
    pub(crate) fn send(&mut self, due: Instant, line: &mut Line<'_>) -> Result<()> {
        let number = self.expected + self.under_way.len() as u64;
        self.under_way.push_back(due);
        line.send(self.message.borrow_mut().numbered(number))
    }
}

impl Held for Echo {
    fn say(&mut self, line: &mut Line<'_>) -> Result<()> {
        self.send(line.now, line)
    }

    fn change(&mut self, message: &Rc<RefCell<Message>>) {
        self.message = Rc::clone(message);
    }
}

impl Script for Echo {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        line.send(self.handshake)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        let mut bytes = bytes;
        if !self.opening.done {
            bytes = self.opening.receive(bytes)?;
            if self.opening.done && self.counts_opening {
                line.count(line.opened);
            }
            if self.opening.done && self.endless {
                self.send(line.now, line)?;
            }
        }
        while !bytes.is_empty() {
            let Some(&since) = self.under_way.front() else {
                return Err(Failure::new("bytes that nobody asked for"));
            };
            {
                let mut message = self.message.borrow_mut();
                let rest = &message.reply(self.expected)[self.arrived..];
                let here = rest.len().min(bytes.len());
                if rest[..here] != bytes[..here] {
                    return Err(Failure::new(format!("echo {} differs", self.expected)));
                }
                bytes = &bytes[here..];
                if here < rest.len() {
                    self.arrived += here;
                    break;
                }
            }
            self.arrived = 0;
            self.expected += 1;
            self.under_way.pop_front();
            line.count(since);
            if self.endless {
                self.send(line.now, line)?;
            }
        }
        Ok(Next::More)
    }

    fn is_settled(&self) -> bool {
        self.opening.done
            && self.expected >= self.first
            && (self.endless || self.under_way.is_empty())
    }
}

impl Life {
    pub(crate) fn new(close: &Rc<Close>) -> Life {
        Life {
            opening: Opening::new(),
            close: Rc::clone(close),
            arrived: 0,
        }
    }
}

impl Close {
    pub(crate) fn new() -> Rc<Close> {
        Rc::new(Close {
            sent: frames::masked_close(),
            reply: frames::close_reply(),
        })
    }
}

impl Script for Life {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        line.send(HANDSHAKE)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        let mut bytes = bytes;
        if !self.opening.done {
            bytes = self.opening.receive(bytes)?;
            if self.opening.done {
                line.send(&self.close.sent)?;
            }
        }
        let rest = &self.close.reply[self.arrived..];
        if !rest.starts_with(bytes) {
            return Err(Failure::new("something else than the Close"));
        }
        self.arrived += bytes.len();
        Ok(if self.arrived == self.close.reply.len() {
            Next::End
        } else {
            Next::More
        })
    }

    /// A life settles by ending.
    fn is_settled(&self) -> bool {
        false
    }
}

macro_rules! rest_of_handshake {
    ($($more:literal)?) => {
        concat!(" HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sluicegate-load\r\n\
         Accept: */*\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", $($more,)? "\r\n")
    };
}

const LONGEST_HEAD: usize = 16 * 1024;
/// The handshake of RFC 6455, section 1.3, as a browser would send it.
const HANDSHAKE: &[u8] = concat!("GET /ws", rest_of_handshake!()).as_bytes();
/// The same below [`backend::FILTERED`](crate::backend::FILTERED).
const FILTERED_HANDSHAKE: &[u8] = concat!("GET /filtered/ws", rest_of_handshake!()).as_bytes();
/// With an offer to compress.
pub(super) const DEFLATE_HANDSHAKE: &[u8] = concat!(
    "GET /ws",
    rest_of_handshake!("Sec-WebSocket-Extensions: permessage-deflate\r\n")
)
.as_bytes();
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::accept_for;

    #[test]
    fn a_101_is_taken_off_what_follows_it_wherever_it_is_cut() {
        let accept = accept_for(b"dGhlIHNhbXBsZSBub25jZQ==");
        let head = format!("HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        let whole = format!("{head}frames");
        for cut in 0..head.len() {
            let mut opening = Opening::new();
            assert_eq!(opening.receive(&whole.as_bytes()[..cut]), Ok(&[][..]));
            let rest = opening.receive(&whole.as_bytes()[cut..]);
            assert_eq!(rest, Ok(&b"frames"[..]), "cut at {cut}");
            assert!(opening.done);
        }
    }

    #[test]
    fn another_answer_or_a_wrong_accept_is_a_failure() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: no\r\n\r\n",
        ] {
            assert!(Opening::new().receive(head.as_bytes()).is_err(), "{head}");
        }
    }
}
