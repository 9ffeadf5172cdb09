//! The script of connections that echo compressed text (RFC 7692), with the context of all their messages on
//! both sides.

use std::time::Instant;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::ws::{DEFLATE_HANDSHAKE, Opening};
use super::{Line, Next, Script};
use crate::failure::{Failure, Result};
use crate::frames;

/// Sends texts of one size, no two of them the same, and compares every byte that comes back.
pub(crate) struct Echo {
    opening: Opening,
    size: usize,
    deflate: Compress,
    inflate: Decompress,
    /// How many have been sent, which decides what the next one says.
    number: u64,
    /// What the echo under way must say, and since when it is.
    plain: Vec<u8>,
    since: Option<Instant>,
    /// The start of a frame whose rest is still to come.
    partial: Vec<u8>,
}

impl Echo {
    /// Echoes without end; the connection is settled after the first.
    pub(crate) fn endless(size: usize) -> Echo {
        Echo {
            opening: Opening::new(),
            size,
            deflate: Compress::new(Compression::fast(), false),
            inflate: Decompress::new(false),
            number: 0,
            plain: Vec::new(),
            since: None,
            partial: Vec::new(),
        }
    }

    fn send(&mut self, line: &mut Line<'_>) -> Result<()> {
        self.plain.clear();
        while self.plain.len() < self.size {
            self.number += 1;
            // Any numbers that do not repeat soon.
            let (price, amount) = (self.number * 7919 % 100_003, self.number * 104_729 % 997);
            let order = format!(
                r#"{{"id":{},"symbol":"ACME","price":{price},"amount":{amount},"side":"buy"}},"#,
                self.number
            );
            self.plain.extend_from_slice(order.as_bytes());
        }
        self.plain.truncate(self.size);
        let mut payload = Vec::with_capacity(self.size + ROOM);
        let done = (self.deflate).compress_vec(&self.plain, &mut payload, FlushCompress::Sync);
        done.map_err(Failure::of("cannot compress"))?;
        let payload = payload.strip_suffix(&TAIL).unwrap_or(&payload);
        self.since = Some(line.now);
        line.send(&frames::compressed_text(payload))
    }

    /// Takes a frame off the front of `partial`; `None` while it is not all there.
    fn reply(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(head) = frames::reply_head(&self.partial).map_err(Failure::new)? else {
            return Ok(None);
        };
        let end = head.length + head.payload;
        if self.partial.len() < end {
            return Ok(None);
        }
        let rest = self.partial.split_off(end);
        let mut payload = std::mem::replace(&mut self.partial, rest);
        payload.drain(..head.length);
        if !head.compressed {
            return Ok(Some(payload));
        }
        payload.extend(TAIL);
        let mut plain = Vec::with_capacity(self.size + ROOM);
        (self.inflate)
            .decompress_vec(&payload, &mut plain, FlushDecompress::Sync)
            .map_err(Failure::of("cannot decompress an echo"))?;
        Ok(Some(plain))
    }
}

impl Script for Echo {
    fn begin(&mut self, line: &mut Line<'_>) -> Result<()> {
        line.send(DEFLATE_HANDSHAKE)
    }

    fn receive(&mut self, bytes: &[u8], line: &mut Line<'_>) -> Result<Next> {
        let mut bytes = bytes;
        if !self.opening.done {
            bytes = self.opening.receive(bytes)?;
            if self.opening.done {
                if !self.opening.deflate {
                    return Err(Failure::new("permessage-deflate was not agreed on"));
                }
                self.send(line)?;
            }
        }
        self.partial.extend_from_slice(bytes);
        while let Some(plain) = self.reply()? {
            let Some(since) = self.since.take() else {
                return Err(Failure::new("a message that nobody asked for"));
            };
            if plain != self.plain {
                return Err(Failure::new("a compressed echo differs"));
            }
            line.count(since);
            self.send(line)?;
        }
        Ok(Next::More)
    }

    fn is_settled(&self) -> bool {
        self.opening.done
    }
}

/// What a compressed message is sent without (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Over a message's size, for what does not get smaller.
const ROOM: usize = 256;
