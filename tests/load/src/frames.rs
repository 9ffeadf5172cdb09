//! WebSocket frames as bytes that are made once: what the generator sends, what must come back,
//! and what the backend needs to turn one into the other (RFC 6455, section 5).
//!
//! No IO. Only whole, unfragmented messages; the benchmark sends nothing else.

/// A message of one size, ready to send again and again with another number in it.
///
/// The first [`NUMBER`] bytes of the payload hold the number, in letters, so that no echo passes for another and
/// text stays text.
#[derive(Debug)]
pub(crate) struct Message {
    masked: Vec<u8>,
    reply: Vec<u8>,
    masked_payload_at: usize,
    reply_payload_at: usize,
}

impl Message {
    /// A binary message of `size` bytes of payload, at least [`NUMBER`].
    pub(crate) fn new(size: usize) -> Message {
        let size = size.max(NUMBER);
        Message::of(
            BINARY,
            &(0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>(),
        )
    }

    /// A text of as many bytes: JSON but for its number.
    pub(crate) fn text(size: usize) -> Message {
        let size = size.max(NUMBER);
        Message::of(TEXT, &JSON.bytes().cycle().take(size).collect::<Vec<u8>>())
    }

    fn of(opcode: u8, payload: &[u8]) -> Message {
        let mut masked = head(opcode, payload.len(), Some(MASK));
        let mut reply = head(opcode, payload.len(), None);
        let masked_payload_at = masked.len();
        let reply_payload_at = reply.len();
        masked.extend_from_slice(payload);
        unmask(&mut masked[masked_payload_at..], MASK);
        reply.extend_from_slice(payload);
        Message {
            masked,
            reply,
            masked_payload_at,
            reply_payload_at,
        }
    }

    /// The frame to send, with `number` in it.
    pub(crate) fn numbered(&mut self, number: u64) -> &[u8] {
        let mut bytes = in_letters(number);
        unmask(&mut bytes, MASK);
        self.masked[self.masked_payload_at..][..NUMBER].copy_from_slice(&bytes);
        &self.masked
    }

    /// All bytes of the echo of message `number`.
    pub(crate) fn reply(&mut self, number: u64) -> &[u8] {
        self.reply[self.reply_payload_at..][..NUMBER].copy_from_slice(&in_letters(number));
        &self.reply
    }
}

/// Six bits a letter: no run comes to their end.
fn in_letters(number: u64) -> [u8; NUMBER] {
    std::array::from_fn(|at| b'0' + (number >> (6 * at) & 0x3f) as u8)
}

/// A text with this compressed payload, masked.
pub(crate) fn compressed_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = head(TEXT, payload.len(), Some(MASK));
    frame[0] |= RSV1;
    let at = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[at..], MASK);
    frame
}

/// What the head of a server's frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyHead {
    pub(crate) compressed: bool,
    /// Bytes of the head itself.
    pub(crate) length: usize,
    pub(crate) payload: usize,
}

/// Reads the head of a text at the start of `bytes`: `Ok(None)` while it is not all there.
///
/// # Errors
/// Anything but a whole text without a mask of at most 64 KiB.
pub(crate) fn reply_head(bytes: &[u8]) -> Result<Option<ReplyHead>, &'static str> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & !RSV1 != FIN | TEXT || second & MASKED != 0 {
        return Err("something else than a text of a server");
    }
    let (length, payload) = match (second, bytes) {
        (126, [_, _, high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return Ok(None),
        (127, _) => return Err("a frame that is too long"),
        (short, _) => (2, usize::from(short)),
    };
    Ok(Some(ReplyHead {
        compressed: first & RSV1 != 0,
        length,
        payload,
    }))
}

/// Close 1000 as a client sends it.
pub(crate) fn masked_close() -> Vec<u8> {
    let mut frame = head(CLOSE, NORMAL.len(), Some(MASK));
    let at = frame.len();
    frame.extend_from_slice(&NORMAL);
    unmask(&mut frame[at..], MASK);
    frame
}

/// Close 1000 as a server answers it.
pub(crate) fn close_reply() -> Vec<u8> {
    let mut frame = head(CLOSE, NORMAL.len(), None);
    frame.extend_from_slice(&NORMAL);
    frame
}

/// What the head of a masked frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaskedHead {
    pub(crate) opcode: u8,
    /// Bytes of the head itself.
    pub(crate) length: usize,
    pub(crate) payload: usize,
    pub(crate) mask: [u8; 4],
}

/// Reads the head at the start of `bytes`: `Ok(None)` while it is not all there.
///
/// # Errors
/// An unmasked or fragmented frame, reserved bits, or a length over [`LONGEST`].
pub(crate) fn masked_head(bytes: &[u8]) -> Result<Option<MaskedHead>, &'static str> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0xf0 != FIN {
        return Err("a fragment, or reserved bits");
    }
    if second & MASKED == 0 {
        return Err("a frame without a mask");
    }
    let (payload, length_bytes) = match (second & !MASKED, bytes) {
        (126, [_, _, high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 2),
        (127, [_, _, a, b, c, d, e, f, g, h, ..]) => {
            let long = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (usize::try_from(long).unwrap_or(usize::MAX), 8)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (usize::from(short), 0),
    };
    if payload > LONGEST {
        return Err("a frame that is too long");
    }
    let Some(&[a, b, c, d]) = bytes.get(2 + length_bytes..6 + length_bytes) else {
        return Ok(None);
    };
    Ok(Some(MaskedHead {
        opcode: first & 0x0f,
        length: 6 + length_bytes,
        payload,
        mask: [a, b, c, d],
    }))
}

/// The head of an unfragmented frame.
pub(crate) fn head(opcode: u8, payload: usize, mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut head = vec![FIN | opcode];
    if payload < 126 {
        head.push(masked | payload as u8);
    } else if let Ok(short) = u16::try_from(payload) {
        head.push(masked | 126);
        head.extend_from_slice(&short.to_be_bytes());
    } else {
        head.push(masked | 127);
        head.extend_from_slice(&(payload as u64).to_be_bytes());
    }
    head.extend(mask.into_iter().flatten());
    head
}

/// Masks or unmasks whole payloads in place, eight bytes at a time.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
    // `rest` begins on a multiple of 8, so the mask begins anew there; past four bytes it repeats.
    if rest.len() > mask.len() {
        for (byte, key) in rest[mask.len()..].iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
/// Bytes at the start of a payload that hold the message's number.
pub(crate) const NUMBER: usize = 8;
/// Longest payload that the backend echoes.
pub(crate) const LONGEST: usize = 1 << 20;

const JSON: &str = r#"{"symbol":"ACME","side":"buy","price":101.25,"amount":7,"account":"4417-2290","note":"at once"},"#;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
/// Any mask but zero, so that both ends do the work of masking.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmasked_message_is_its_reply() {
        for size in [8, 64, 125, 126, 1024, 65_535, 65_536, 100_003] {
            for (mut message, opcode) in [(Message::new(size), BINARY), (Message::text(size), TEXT)]
            {
                let mut sent = message.numbered(700).to_vec();
                let head_read = masked_head(&sent).unwrap().unwrap();
                assert_eq!((head_read.opcode, head_read.payload), (opcode, size));
                let payload = &mut sent[head_read.length..];
                unmask(payload, head_read.mask);
                assert!(opcode == BINARY || payload.is_ascii(), "size {size}");
                let mut echo = head(opcode, payload.len(), None);
                echo.extend_from_slice(payload);
                assert!(echo == message.reply(700), "size {size}");
                assert!(echo != message.reply(701), "size {size}");
            }
        }
    }

    #[test]
    fn a_head_is_read_only_when_it_is_all_there() {
        for size in [64, 1024, 100_000] {
            let mut message = Message::new(size);
            let sent = message.numbered(1).to_vec();
            let length = masked_head(&sent).unwrap().unwrap().length;
            for short in 0..length {
                assert_eq!(masked_head(&sent[..short]), Ok(None));
            }
        }
    }

    #[test]
    fn frames_that_the_benchmark_does_not_send_are_refused() {
        for bytes in [
            &[0x02, 0x81, 0, 0, 0, 0, 0][..],
            &[0x82, 0x01, 0],
            &[0xc2, 0x81, 0, 0, 0, 0, 0],
            &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4],
        ] {
            assert!(masked_head(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_close_is_answered_by_its_unmasked_self() {
        let mut close = masked_close();
        let read = masked_head(&close).unwrap().unwrap();
        assert_eq!((read.opcode, read.payload), (CLOSE, 2));
        unmask(&mut close[read.length..], read.mask);
        assert_eq!(close[read.length..], close_reply()[2..]);
    }
}
