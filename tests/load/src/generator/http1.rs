//! Script of HTTP/1.1 requests, one after the other on a connection, or a connection for each.

use std::rc::Rc;
use std::time::Instant;

use super::{Line, Next, Script};
use crate::failure::{Failure, Result};
use crate::heads;

/// What all connections of a row ask and expect.
pub(crate) struct Exchange {
    request: Vec<u8>,
    body: Vec<u8>,
    /// One request a connection.
    fresh: bool,
    /// A field that the answer must have: its name in lower case, and its value.
    field: Option<Field>,
}

/// A field's name in lower case, and its value.
pub(crate) type Field = (&'static str, &'static str);

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
        field: Option<Field>,
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
            && let Some(end) = heads::end(bytes)
        {
            self.examine(&bytes[..end])?;
            return Ok(&bytes[end..]);
        }
        let had = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = heads::end(&self.head) else {
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
        if !head.starts_with(b"HTTP/1.1 200") {
            let status = head.split(|byte| *byte == b'\r').next().unwrap_or(b"");
            return Err(Failure::new(format!(
                "`{}` instead of a 200",
                String::from_utf8_lossy(status)
            )));
        }
        let length = heads::field(head, "content-length").and_then(number);
        if length != Some(self.exchange.body.len()) {
            return Err(Failure::new(format!("a Content-Length of {length:?}")));
        }
        if let Some((name, value)) = self.exchange.field
            && heads::field(head, name) != Some(value.as_bytes())
        {
            return Err(Failure::new(format!("an answer without `{name}: {value}`")));
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

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

const LONGEST_HEAD: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn examine(head: &str) -> Result<()> {
        let field = Some(("x-by", "us"));
        let mut get = Get::new(&Exchange::new("/", b"12345".to_vec(), false, field));
        get.examine(head.as_bytes())
    }

    #[test]
    fn only_the_expected_answer_passes() {
        let fine = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-By: us\r\n\r\n";
        assert_eq!(examine(fine), Ok(()));
        for (from, to) in [
            ("200", "404"),
            (": 5", ": 6"),
            (": us", ": you"),
            ("content-", "x-"),
        ] {
            assert!(examine(&fine.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_head_may_come_in_pieces() {
        let mut get = Get::new(&Exchange::new("/", b"12345".to_vec(), false, None));
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123";
        for (at, byte) in answer[..answer.len() - 3].iter().enumerate() {
            assert!(get.arrived.is_none(), "{at}");
            assert_eq!(get.receive_head(&[*byte]), Ok(&[][..]));
        }
        assert_eq!(get.arrived, Some(0));
        get.arrived = None;
        assert_eq!(get.receive_head(answer), Ok(&b"123"[..]));
    }
}
