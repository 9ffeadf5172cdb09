//! Script of HTTP/2 requests, several at once on each connection.
//!
//! The dynamic table is used as a browser does: the first request puts its fields in, later ones name them. Every
//! byte of the body is checked.

use std::rc::Rc;
use std::time::Instant;

use super::{FrameByFrame, Frames, receive};
use crate::failure::{Failure, Result};
use crate::generator::{Line, Next, Script};
use crate::http2::{
    ACCEPT, AUTHORITY, DATA, END_HEADERS, END_STREAM, HEADERS, Head, METHOD_GET, PATH,
    SCHEME_HTTPS, USER_AGENT, frame,
};

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
    frames: Frames,
    answers: u64,
}

struct Stream {
    id: u32,
    asked: Instant,
    answered: bool,
    arrived: usize,
}

impl Exchange {
    /// `GET path`, to be answered with a 200 and `body`, `at_once` at a time.
    pub(crate) fn new(path: &str, body: Vec<u8>, at_once: usize) -> Rc<Exchange> {
        // The first two are in the static table. The other four go into the dynamic one.
        let mut first = vec![METHOD_GET, SCHEME_HTTPS];
        let mut later = first.clone();
        let fields = [
            (PATH, path),
            (AUTHORITY, "localhost"),
            (USER_AGENT, "sluicegate-load"),
            (ACCEPT, "*/*"),
        ];
        for (at, (name, value)) in (1..).zip(fields) {
            first.push(0x40 | name);
            first.push(value.len() as u8);
            first.extend_from_slice(value.as_bytes());
            // The last that went in is the first of the dynamic table, behind 61 of the static one.
            later.push(0x80 | (61 + 1 + fields.len() as u8 - at));
        }
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
            frames: Frames::new(),
            answers: 0,
        }
    }

    fn ask(&mut self, now: Instant) {
        let template = if self.next_id == 1 {
            &self.exchange.first
        } else {
            &self.exchange.later
        };
        let out = &mut self.frames.out;
        let id_at = out.len() + ID_AT;
        out.extend_from_slice(template);
        out[id_at..id_at + 4].copy_from_slice(&self.next_id.to_be_bytes());
        self.open.push(Stream {
            id: self.next_id,
            asked: now,
            answered: false,
            arrived: 0,
        });
        self.next_id += 2;
    }

    fn stream(&mut self, id: u32) -> Result<&mut Stream> {
        self.open
            .iter_mut()
            .find(|stream| stream.id == id)
            .ok_or_else(|| Failure::new("an answer that nobody asked for"))
    }

    /// Counts the stream and asks again, if this frame was its last.
    fn end_of(&mut self, head: Head, line: &mut Line<'_>) -> Result<()> {
        if !head.has(END_STREAM) {
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
        self.ask(line.now);
        Ok(())
    }
}

impl FrameByFrame for Streams {
    fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    fn frame(&mut self, head: Head, payload: &[u8], line: &mut Line<'_>) -> Result<()> {
        match head.kind {
            HEADERS => {
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
                self.end_of(head, line)
            }
            _ => Ok(()),
        }
    }
}

impl Script for Streams {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        self.frames.begin();
        for _ in 0..self.exchange.at_once {
            self.ask(line.now);
        }
        self.frames.send(line)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        receive(self, bytes, line)
    }

    fn is_settled(&self) -> bool {
        self.answers > 0
    }
}

fn request(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 0, block)
}

/// Where the stream's number stands in a frame.
const ID_AT: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_requests_name_what_the_first_one_put_into_the_table() {
        let exchange = Exchange::new("/", Vec::new(), 1);
        let block = |request: &[u8]| request[crate::http2::HEAD..].to_vec();
        assert_eq!(
            block(&exchange.later),
            [METHOD_GET, SCHEME_HTTPS, 0xc1, 0xc0, 0xbf, 0xbe]
        );
        assert_eq!(block(&exchange.first)[2..5], [0x40 | PATH, 1, b'/']);
    }
}
