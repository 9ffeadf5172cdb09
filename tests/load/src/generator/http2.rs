//! HTTP/2 connections (RFC 9113): scripts of requests, and of WebSockets (RFC 8441).
//!
//! What they have in common is here. Heads are bytes that were made once, but for the stream's number. Of an
//! answer's head only the status is decoded, which every proxy puts first.

pub(crate) mod requests;
pub(crate) mod sockets;

use super::{Line, Next};
use crate::failure::{Failure, Result};
use crate::http2::{
    ACK, CONTINUATION, DATA, Debt, ENABLE_PUSH, END_HEADERS, GOAWAY, HEADERS, Head, PADDED, PING,
    PREFACE, PRIORITY, RST_STREAM, SETTINGS, STATUS_200, greeting, push_frame, split,
};

/// Frames of one connection: split where they begin and end, its housekeeping done.
struct Frames {
    /// A frame that did not come whole.
    partial: Vec<u8>,
    /// What the frames that came are answered with, sent in one piece.
    out: Vec<u8>,
    debt: Debt,
}

/// A script that gets whole frames.
trait FrameByFrame {
    fn frames(&mut self) -> &mut Frames;

    /// A frame whose housekeeping is done.
    fn frame(&mut self, head: Head, payload: &[u8], line: &mut Line<'_>) -> Result<()>;
}

impl Frames {
    fn new() -> Frames {
        Frames {
            partial: Vec::new(),
            out: Vec::new(),
            debt: Debt::default(),
        }
    }

    /// The preface and what goes with it.
    fn begin(&mut self) {
        self.out.extend_from_slice(PREFACE);
        self.out.extend(greeting(&[(ENABLE_PUSH, 0)]));
    }

    /// Does what every connection does with a frame; an error is one that no proxy should send.
    fn housekeep(&mut self, head: Head, payload: &[u8]) -> Result<()> {
        match head.kind {
            DATA | HEADERS if head.has(PADDED) || head.stream == 0 => {
                Err(Failure::new("padding, or a frame without a stream"))
            }
            HEADERS if !answers_200(head, payload) => Err(Failure::new("an answer that is no 200")),
            DATA => {
                self.debt.add(0, head.length, &mut self.out);
                Ok(())
            }
            SETTINGS | PING if !head.has(ACK) => {
                let payload = if head.kind == PING { payload } else { &[] };
                push_frame(head.kind, ACK, 0, payload, &mut self.out);
                Ok(())
            }
            RST_STREAM | GOAWAY | CONTINUATION => Err(Failure::new(format!(
                "the proxy sent a frame of type {}",
                head.kind
            ))),
            _ => Ok(()),
        }
    }

    fn send(&mut self, line: &mut Line<'_>) -> Result<()> {
        if !self.out.is_empty() {
            line.send(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }
}

/// Hands every whole frame among what was left and `bytes` to `act`; returns what is left now.
fn each_frame(
    mut left: Vec<u8>,
    bytes: &[u8],
    mut act: impl FnMut(Head, &[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut rest = if left.is_empty() {
        bytes
    } else {
        left.extend_from_slice(bytes);
        &left
    };
    while let Some((head, payload, after)) = split(rest)? {
        act(head, payload)?;
        rest = after;
    }
    Ok(rest.to_vec())
}

/// Hands the frames among `bytes` to a script, and sends what they are answered with.
fn receive<S: FrameByFrame>(script: &mut S, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
    let left = std::mem::take(&mut script.frames().partial);
    let left = each_frame(left, bytes, |head, payload| {
        script.frames().housekeep(head, payload)?;
        script.frame(head, payload, line)
    })?;
    script.frames().partial = left;
    script.frames().send(line)?;
    Ok(Next::More)
}

fn answers_200(head: Head, payload: &[u8]) -> bool {
    let block = payload.get(if head.has(PRIORITY) { 5 } else { 0 }..);
    let mut fields = block.unwrap_or_default().iter();
    // The table's size may be told first.
    let first = fields.find(|byte| **byte & 0xe0 != 0x20);
    head.has(END_HEADERS) && first == Some(&STATUS_200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frame;

    #[test]
    fn frames_are_the_same_wherever_they_are_cut() {
        let bytes = [
            frame(PING, 0, 0, &[7; 8]),
            frame(DATA, 0, 1, b"hello"),
            frame(SETTINGS, ACK, 0, b""),
        ]
        .concat();
        for cut in 0..bytes.len() {
            let mut seen = Vec::new();
            let mut act = |head: Head, payload: &[u8]| {
                seen.push((head.kind, payload.len()));
                Ok(())
            };
            let left = each_frame(Vec::new(), &bytes[..cut], &mut act).unwrap();
            let left = each_frame(left, &bytes[cut..], &mut act).unwrap();
            assert!(left.is_empty());
            assert_eq!(seen, [(PING, 8), (DATA, 5), (SETTINGS, 0)], "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_is_known_by_its_first_field() {
        let head = |flags| Head {
            length: 0,
            kind: HEADERS,
            flags,
            stream: 1,
        };
        assert!(answers_200(head(END_HEADERS), &[STATUS_200, 0xbe]));
        assert!(answers_200(head(END_HEADERS), &[0x20, STATUS_200]));
        let with_priority = [0, 0, 0, 0, 0, STATUS_200];
        assert!(answers_200(head(END_HEADERS | PRIORITY), &with_priority));
        assert!(!answers_200(head(END_HEADERS), &[0x8d]));
        assert!(!answers_200(head(0), &[STATUS_200]));
        assert!(!answers_200(head(END_HEADERS | PRIORITY), &[]));
    }
}
