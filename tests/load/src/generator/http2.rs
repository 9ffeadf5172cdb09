//! Script of HTTP/2 requests, several at once on each connection (RFC 9113).
//!
//! Requests are bytes that were made once, but for the stream's number. The dynamic table is used as
//! a browser does: the first request puts its fields in, later ones name them. Of an answer, the
//! status and every byte of the body are checked; its other fields are not decoded.

use std::rc::Rc;
use std::time::Instant;

use super::{Line, Next, Script};
use crate::failure::{Failure, Result};

/// What all connections of a row ask and expect.
pub(crate) struct Exchange {
    first: Vec<u8>,
    later: Vec<u8>,
    body: Vec<u8>,
    at_once: usize,
}

/// Keeps `at_once` requests under way.
pub(crate) struct Streams {
    exchange: Rc<Exchange>,
    open: Vec<Stream>,
    next_id: u32,
    /// A frame that did not come whole.
    partial: Vec<u8>,
    answers: u64,
    /// Body bytes for which the proxy has not got new credit.
    uncredited: usize,
}

struct Stream {
    id: u32,
    asked: Instant,
    answered: bool,
    arrived: usize,
}

/// A frame's head, its payload, and what follows it.
type Split<'a> = (Head, &'a [u8], &'a [u8]);

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Exchange {
    /// `GET /`, to be answered with a 200 and `body`, `at_once` at a time.
    pub(crate) fn new(body: Vec<u8>, at_once: usize) -> Rc<Exchange> {
        // GET, https, `/`: each in the static table. Then three fields that go into the dynamic one.
        let mut first = vec![0x82, 0x87, 0x84];
        for (name, value) in [(1, "localhost"), (58, "sluicegate-load"), (19, "*/*")] {
            first.push(0x40 | name);
            first.push(value.len() as u8);
            first.extend_from_slice(value.as_bytes());
        }
        let later = vec![0x82, 0x87, 0x84, 0xc0, 0xbf, 0xbe];
        Rc::new(Exchange {
            first: request(&first),
            later: request(&later),
            body,
            at_once,
        })
    }
}

impl Streams {
    pub(crate) fn new(exchange: &Rc<Exchange>) -> Streams {
        Streams {
            exchange: Rc::clone(exchange),
            open: Vec::with_capacity(exchange.at_once),
            next_id: 1,
            partial: Vec::new(),
            answers: 0,
            uncredited: 0,
        }
    }

    fn ask(&mut self, line: &mut Line<'_>) -> Result<()> {
        let template = if self.next_id == 1 {
            &self.exchange.first
        } else {
            &self.exchange.later
        };
        let mut bytes = [0; LONGEST_REQUEST];
        let bytes = &mut bytes[..template.len()];
        bytes.copy_from_slice(template);
        bytes[5..9].copy_from_slice(&self.next_id.to_be_bytes());
        self.open.push(Stream {
            id: self.next_id,
            asked: line.now,
            answered: false,
            arrived: 0,
        });
        self.next_id += 2;
        line.send(bytes)
    }

    fn frame(&mut self, head: Head, payload: &[u8], line: &mut Line<'_>) -> Result<()> {
        match head.kind {
            DATA | HEADERS if head.flags & PADDED != 0 || head.stream == 0 => {
                Err(Failure::new("padding, or a frame without a stream"))
            }
            HEADERS => {
                let block = &payload[if head.flags & PRIORITY != 0 { 5 } else { 0 }..];
                let mut fields = block.iter().skip_while(|byte| **byte & 0xe0 == 0x20);
                if head.flags & END_HEADERS == 0 || fields.next() != Some(&STATUS_200) {
                    return Err(Failure::new("an answer that is no 200"));
                }
                self.stream(head.stream)?.answered = true;
                self.end_of(head, line)
            }
            DATA => {
                let exchange = Rc::clone(&self.exchange);
                let stream = self.stream(head.stream)?;
                let rest = &exchange.body[stream.arrived.min(exchange.body.len())..];
                if !stream.answered || !rest.starts_with(payload) {
                    return Err(Failure::new("another body"));
                }
                stream.arrived += payload.len();
                self.credit(payload.len(), line)?;
                self.end_of(head, line)
            }
            SETTINGS if head.flags & ACK == 0 => line.send(&frame(SETTINGS, ACK, 0, &[])),
            PING if head.flags & ACK == 0 => line.send(&frame(PING, ACK, 0, payload)),
            RST_STREAM | GOAWAY | CONTINUATION => Err(Failure::new(format!(
                "the proxy sent a frame of type {}",
                head.kind
            ))),
            _ => Ok(()),
        }
    }

    fn stream(&mut self, id: u32) -> Result<&mut Stream> {
        self.open
            .iter_mut()
            .find(|stream| stream.id == id)
            .ok_or_else(|| Failure::new("an answer that nobody asked for"))
    }

    /// Counts the stream and asks again, if this frame was its last.
    fn end_of(&mut self, head: Head, line: &mut Line<'_>) -> Result<()> {
        if head.flags & END_STREAM == 0 {
            return Ok(());
        }
        let expected = self.exchange.body.len();
        let Some(at) = self.open.iter().position(|stream| stream.id == head.stream) else {
            return Ok(());
        };
        let stream = self.open.swap_remove(at);
        if stream.arrived != expected {
            return Err(Failure::new(format!("a body of {} bytes", stream.arrived)));
        }
        self.answers += 1;
        line.count(stream.asked);
        self.ask(line)
    }

    /// Gives the connection's flow-control window back, seldom and in large pieces. The streams'
    /// own windows are larger than any body.
    fn credit(&mut self, consumed: usize, line: &mut Line<'_>) -> Result<()> {
        self.uncredited += consumed;
        if self.uncredited >= WINDOW as usize / 2 {
            let bytes = (self.uncredited as u32).to_be_bytes();
            self.uncredited = 0;
            line.send(&frame(WINDOW_UPDATE, 0, 0, &bytes))?;
        }
        Ok(())
    }
}

impl Script for Streams {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = Vec::new();
        for (name, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW)] {
            settings.extend_from_slice(&u16::to_be_bytes(name));
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes()));
        line.send(&hello)?;
        for _ in 0..self.exchange.at_once {
            self.ask(line)?;
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        let mut joined = std::mem::take(&mut self.partial);
        let whole = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut rest = whole;
        while let Some((head, payload, after)) = split(rest)? {
            self.frame(head, payload, line)?;
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(Next::More)
    }

    fn is_settled(&self) -> bool {
        self.answers > 0
    }
}

/// Splits the first frame off; `None` while it is not whole.
fn split(bytes: &[u8]) -> Result<Option<Split<'_>>> {
    let &[a, b, c, kind, flags, s0, s1, s2, s3, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    let head = Head {
        length: u32::from_be_bytes([0, a, b, c]) as usize,
        kind,
        flags,
        stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
    };
    if head.length > LONGEST_FRAME {
        return Err(Failure::new("a frame that is too long"));
    }
    Ok(rest
        .split_at_checked(head.length)
        .map(|(payload, after)| (head, payload, after)))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn request(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 0, block)
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW: u32 = 1 << 30;
/// `:status: 200` of the static table.
const STATUS_200: u8 = 0x88;
/// Nobody was allowed more.
const LONGEST_FRAME: usize = 16_384;
const LONGEST_REQUEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_split_off_only_when_it_is_whole() {
        let mut bytes = frame(DATA, END_STREAM, 5, b"hello");
        let length = bytes.len();
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
        for short in 0..length {
            assert!(split(&bytes[..short]).unwrap().is_none());
        }
        let (head, payload, after) = split(&bytes).unwrap().unwrap();
        assert_eq!((head.kind, head.stream, payload), (DATA, 5, &b"hello"[..]));
        assert_eq!(after, &bytes[length..]);
        assert!(split(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn requests_fit_their_buffer() {
        let exchange = Exchange::new(Vec::new(), 1);
        assert!(exchange.first.len() <= LONGEST_REQUEST);
        assert!(exchange.later.len() < exchange.first.len());
    }
}
