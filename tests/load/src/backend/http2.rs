//! The backend's side of an HTTP/2 connection with prior knowledge (RFC 9113), WebSockets on it included
//! (RFC 8441).
//!
//! Of a request only its method is read: a GET has the small answer, anything else is taken for a WebSocket.

use std::collections::BTreeMap;
use std::io;

use super::{echo_in_place, small_body};
use crate::frames::CLOSE;
use crate::http2::{
    ACK, CONTENT_LENGTH, CONTENT_TYPE, CONTINUATION, DATA, Debt, ENABLE_CONNECT_PROTOCOL,
    END_HEADERS, END_STREAM, HEAD, HEADERS, Head, METHOD_GET, Outlet, PADDED, PING, PRIORITY,
    RST_STREAM, SERVER, SETTINGS, STATUS_200, WINDOW_UPDATE, field, greeting, push_frame, split,
};

/// A connection.
pub(super) struct Session {
    outlet: Outlet,
    sockets: BTreeMap<u32, Socket>,
    debt: Debt,
    answer: Vec<u8>,
    body: Vec<u8>,
}

#[derive(Default)]
struct Socket {
    /// The start of a WebSocket frame whose rest is still to come.
    partial: Vec<u8>,
    debt: Debt,
}

impl Session {
    /// A connection whose preface has come; what is to be said first goes into `out`.
    pub(super) fn begin(out: &mut Vec<u8>) -> Session {
        out.extend(greeting(&[(ENABLE_CONNECT_PROTOCOL, 1)]));
        let body = small_body();
        let fields = [
            vec![STATUS_200],
            field(SERVER, "backend"),
            field(CONTENT_TYPE, "application/octet-stream"),
            field(CONTENT_LENGTH, &body.len().to_string()),
        ];
        Session {
            outlet: Outlet::new(),
            sockets: BTreeMap::new(),
            debt: Debt::default(),
            answer: fields.concat(),
            body,
        }
    }

    /// Answers every whole frame of `bytes` into `out`; returns how many bytes those took.
    ///
    /// # Errors
    /// When the proxy breaks the protocol, as far as that is looked at.
    pub(super) fn answer(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some((head, ..)) = split(&bytes[taken..])? {
            let start = taken + HEAD;
            taken = start + head.length;
            self.frame(head, &mut bytes[start..taken], out)?;
        }
        Ok(taken)
    }

    fn frame(&mut self, head: Head, payload: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
        match head.kind {
            HEADERS => self.request(head, payload, out),
            DATA => self.data(head, payload, out),
            SETTINGS if !head.has(ACK) => {
                self.outlet.obey(payload, 0, out);
                push_frame(SETTINGS, ACK, 0, &[], out);
                Ok(())
            }
            PING if !head.has(ACK) => {
                push_frame(PING, ACK, 0, payload, out);
                Ok(())
            }
            WINDOW_UPDATE => Ok(self.outlet.grant(head.stream, payload, out)?),
            RST_STREAM => {
                self.close(head.stream);
                Ok(())
            }
            CONTINUATION => Err(broken("a head in pieces")),
            _ => Ok(()),
        }
    }

    fn request(&mut self, head: Head, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let stream = head.stream;
        let block = payload.get(if head.has(PRIORITY) { 5 } else { 0 }..);
        let (Some(block), true, false) = (block, head.has(END_HEADERS), head.has(PADDED)) else {
            return Err(broken("a head in pieces, or padded"));
        };
        self.outlet.open(stream);
        if asks_get(block).ok_or_else(|| broken("no HPACK"))? {
            push_frame(HEADERS, END_HEADERS, stream, &self.answer, out);
            self.outlet.send(stream, &self.body, true, out);
        } else {
            self.sockets.insert(stream, Socket::default());
            push_frame(HEADERS, END_HEADERS, stream, &[STATUS_200], out);
        }
        Ok(())
    }

    fn data(&mut self, head: Head, payload: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.debt.add(0, head.length, out);
        let Some(socket) = self.sockets.get_mut(&head.stream) else {
            // It was reset, and this was on its way.
            return Ok(());
        };
        if head.has(PADDED) {
            return Err(broken("padding"));
        }
        socket.debt.add(head.stream, head.length, out);
        let mut partial = std::mem::take(&mut socket.partial);
        let mut rest = if partial.is_empty() {
            payload
        } else {
            partial.extend_from_slice(payload);
            &mut partial[..]
        };
        let mut closing = false;
        while let Some(echo) = echo_in_place(rest)? {
            closing |= echo.opcode == CLOSE;
            let bytes = &rest[echo.reply.clone()];
            (self.outlet).send(head.stream, bytes, closing, out);
            rest = &mut rest[echo.reply.end..];
        }
        socket.partial = rest.to_vec();
        if closing {
            self.sockets.remove(&head.stream);
        } else if head.has(END_STREAM) {
            self.outlet.send(head.stream, &[], true, out);
            self.sockets.remove(&head.stream);
        }
        Ok(())
    }

    fn close(&mut self, stream: u32) {
        self.outlet.close(stream);
        self.sockets.remove(&stream);
    }
}

/// Whether a block of HPACK says `:method: GET` by the entry of the static table, as every encoder does; no
/// other field is decoded, so no table is needed. `None`: it is malformed.
fn asks_get(block: &[u8]) -> Option<bool> {
    let mut rest = block;
    while let Some(&first) = rest.first() {
        if first == METHOD_GET {
            return Some(true);
        }
        // RFC 7541, section 6: how a field begins tells how many bits its first number has.
        let (bits, texts) = match first {
            0x80.. => (7, 0),
            0x40..0x80 => (6, 1),
            0x20..0x40 => (5, 0),
            _ => (4, 1),
        };
        let name = number(bits, &mut rest)?;
        let with_name = usize::from(texts == 1 && name == 0);
        for _ in 0..texts + with_name {
            let length = number(7, &mut rest)?;
            rest = rest.get(length..)?;
        }
    }
    Some(false)
}

/// Takes a number with a prefix of so many bits (RFC 7541, section 5.1).
fn number(bits: u32, rest: &mut &[u8]) -> Option<usize> {
    let most = (1 << bits) - 1;
    let (first, after) = rest.split_first()?;
    *rest = after;
    let mut number = usize::from(*first) & most;
    if number < most {
        return Some(number);
    }
    for shift in [0, 7, 14] {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number += (usize::from(*byte) & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn broken(what: &'static str) -> io::Error {
    io::Error::other(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::{AUTHORITY, METHOD, PATH, SCHEME_HTTP, named_field};

    #[test]
    fn a_get_is_told_from_a_connect_wherever_its_method_stands() {
        let long = "x".repeat(126);
        let others = [
            vec![0x3f, 0xe1, 0x1f],
            vec![SCHEME_HTTP],
            field(AUTHORITY, "localhost"),
            field(PATH, "/\u{82}"),
            named_field(":protocol", "websocket"),
            // In the dynamic table, of which nothing is known here.
            vec![0x40 | 38, 3, b'a', b'b', b'c'],
            vec![0xbe],
            field(CONTENT_TYPE, &long),
        ];
        let connect = [&others[..], &[field(METHOD, "CONNECT")]].concat().concat();
        assert_eq!(asks_get(&connect), Some(false));
        for at in 0..=others.len() {
            let mut fields = others.to_vec();
            fields.insert(at, vec![METHOD_GET]);
            assert_eq!(asks_get(&fields.concat()), Some(true), "at {at}");
        }
        assert_eq!(asks_get(&[SCHEME_HTTP]), Some(false));
        for malformed in [&[0x40][..], &[0x00, 0x05, b'a'], &[0x7f, 0xff, 0xff, 0xff]] {
            assert_eq!(asks_get(malformed), None, "{malformed:?}");
        }
    }
}
