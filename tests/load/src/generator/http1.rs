//! Script of HTTP/1.1 requests, one after the other on a connection, or a connection for each.

use std::rc::Rc;
use std::time::Instant;

use super::{Line, Next, Script};
use crate::failure::{Failure, Result};

/// What all connections of a row ask and expect.
pub(crate) struct Exchange {
    request: Vec<u8>,
    body: Vec<u8>,
    /// One request a connection.
    fresh: bool,
    /// What the answer's head must hold, in lower case.
    field: Option<&'static str>,
}

/// Asks, compares the answer, and asks again.
pub(crate) struct Get {
    exchange: Rc<Exchange>,
    asked: Instant,
    /// A head that did not come whole.
    head: Vec<u8>,
    /// How much of the body is here; `None` while the head is not.
    arrived: Option<usize>,
    answers: u64,
}

impl Exchange {
    /// `GET path`, to be answered with a 200 and `body`.
    pub(crate) fn new(
        path: &str,
        body: Vec<u8>,
        fresh: bool,
        field: Option<&'static str>,
    ) -> Rc<Exchange> {
        let connection = if fresh { "Connection: close\r\n" } else { "" };
        Rc::new(Exchange {
            request: format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sluicegate-load\r\n\
                 Accept: */*\r\n{connection}\r\n"
            )
            .into_bytes(),
            body,
            fresh,
            field,
        })
    }
}

impl Get {
    pub(crate) fn new(exchange: &Rc<Exchange>) -> Get {
        Get {
            exchange: Rc::clone(exchange),
            asked: Instant::now(),
            head: Vec::new(),
            arrived: None,
            answers: 0,
        }
    }

    /// Takes the head from the front of `bytes`; returns what follows it.
    fn receive_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        if self.head.is_empty()
            && let Some(end) = head_end(bytes)
        {
            self.examine(&bytes[..end])?;
            return Ok(&bytes[end..]);
        }
        let had = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = head_end(&self.head) else {
            if self.head.len() > LONGEST_HEAD {
                return Err(Failure::new("an endless head"));
            }
            return Ok(&[]);
        };
        let head = std::mem::take(&mut self.head);
        self.examine(&head[..end])?;
        Ok(&bytes[end - had..])
    }

    fn examine(&mut self, head: &[u8]) -> Result<()> {
        let mut lines = head
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii_end);
        let status = lines.next().unwrap_or(b"");
        if !status.starts_with(b"HTTP/1.1 200") {
            return Err(Failure::new(format!(
                "`{}` instead of a 200",
                String::from_utf8_lossy(status)
            )));
        }
        let (mut length, mut field) = (None, self.exchange.field.is_none());
        for line in lines {
            if let Some((b"content-length:", value)) =
                line.split_at_checked(15).map(|(name, value)| {
                    if name.eq_ignore_ascii_case(b"content-length:") {
                        (&b"content-length:"[..], value)
                    } else {
                        (name, value)
                    }
                })
            {
                length = std::str::from_utf8(value.trim_ascii())
                    .ok()
                    .and_then(|text| text.parse::<usize>().ok());
            }
            if let Some(wanted) = self.exchange.field {
                field |= line.eq_ignore_ascii_case(wanted.as_bytes());
            }
        }
        if length != Some(self.exchange.body.len()) {
            return Err(Failure::new(format!("a Content-Length of {length:?}")));
        }
        if !field {
            return Err(Failure::new("an answer that no filter has touched"));
        }
        self.arrived = Some(0);
        Ok(())
    }
}

impl Script for Get {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        self.asked = line.now;
        line.send(&self.exchange.request)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        let mut bytes = bytes;
        if self.arrived.is_none() {
            bytes = self.receive_head(bytes)?;
        }
        let Some(arrived) = &mut self.arrived else {
            return Ok(Next::More);
        };
        let rest = &self.exchange.body[*arrived..];
        if !rest.starts_with(bytes) {
            return Err(Failure::new("another body"));
        }
        *arrived += bytes.len();
        if *arrived < self.exchange.body.len() {
            return Ok(Next::More);
        }
        self.arrived = None;
        self.answers += 1;
        if self.exchange.fresh {
            return Ok(Next::Done);
        }
        line.count(self.asked);
        self.asked = line.now;
        line.send(&self.exchange.request)?;
        Ok(Next::More)
    }

    fn is_settled(&self) -> bool {
        self.answers > 0 && !self.exchange.fresh
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .map(|at| at + 4)
}

const LONGEST_HEAD: usize = 16 * 1024;
