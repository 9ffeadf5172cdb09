//! The head of a frame (RFC 6455 §5.2): 2 to 14 bytes, and all that they may say.
//!
//! One set of rules for everything that reads frames: each check looks at the bytes that are there
//! and fails at the first that breaks a rule, so that it does not matter how a stream is cut. What a
//! frame means inside its message (limits, text, compression) is the [`Reader`](super::Reader)'s.

use super::control::MAX_CONTROL_PAYLOAD;

/// Who sends the frames: decides whether they must be masked (RFC 6455 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    FromClient,
    FromServer,
}

/// What a frame is (RFC 6455 §5.2 and §11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    Continuation = CONTINUATION,
    Text = TEXT,
    Binary = BINARY,
    Close = CLOSE,
    Ping = PING,
    Pong = PONG,
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last frame of its message.
    pub fin: bool,
    /// The message is compressed (RFC 7692 §6).
    pub rsv1: bool,
    pub opcode: Opcode,
    /// The key of a frame to a server.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub len: u64,
}

/// What decides, besides its own bytes, whether a head is right.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    pub side: Side,
    /// The handshake settled permessage-deflate, whose frames set RSV1 on the first frame of a data
    /// message and nowhere else (RFC 7692 §6).
    pub rsv1_allowed: bool,
    /// A data message has begun and not ended.
    pub in_message: bool,
}

/// A breach of the framing rules; each is a protocol error (1002).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    #[error("reserved bit set without an extension that defines it")]
    ReservedBit,
    #[error("reserved opcode")]
    ReservedOpcode,
    #[error("client frame without a mask")]
    MaskMissing,
    #[error("server frame with a mask")]
    MaskUnexpected,
    #[error("control frame over 125 bytes")]
    ControlTooLong,
    #[error("fragmented control frame")]
    ControlFragmented,
    #[error("length not in its shortest form")]
    LengthNotMinimal,
    #[error("length of 2^63 or more")]
    LengthTooLarge,
    #[error("continuation without a message to continue")]
    ContinuationWithoutStart,
    #[error("new message inside a fragmented one")]
    MessageInsideMessage,
    #[error("close payload of one byte")]
    CloseTooShort,
}

impl Head {
    /// The head that `bytes` begin with, and how many of them it takes; `None`: it goes on.
    ///
    /// A violation is reported as soon as the byte is there that shows it.
    #[inline(always)]
    pub fn parse(bytes: &[u8], expect: Expect) -> Result<Option<(Head, usize)>, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let opcode = check_first(first, expect)?;
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        check_second(first, second, expect.side)?;
        let (len, mut used) = match second & LENGTH {
            LENGTH_16 => match bytes[2..].first_chunk() {
                Some(raw) => (u64::from(u16::from_be_bytes(*raw)), 4),
                None => return Ok(None),
            },
            LENGTH_64 => match bytes[2..].first_chunk() {
                Some(raw) => (u64::from_be_bytes(*raw), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        check_length(first, second, len)?;
        let mask = match expect.side {
            Side::FromServer => None,
            Side::FromClient => match bytes[used..].first_chunk() {
                Some(key) => {
                    used += 4;
                    Some(*key)
                }
                None => return Ok(None),
            },
        };
        let head = Head {
            fin: first & FIN != 0,
            rsv1: first & RSV1 != 0,
            opcode,
            mask,
            len,
        };
        Ok(Some((head, used)))
    }

    /// Appends the head, its length in the shortest form.
    ///
    /// A head that was [parsed](Head::parse) comes out byte for byte as it came.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; MAX_HEAD];
        bytes[0] =
            self.opcode as u8 | if self.fin { FIN } else { 0 } | if self.rsv1 { RSV1 } else { 0 };
        let mut used = if self.len <= MAX_CONTROL_PAYLOAD as u64 {
            bytes[1] = self.len as u8;
            2
        } else if let Ok(len) = u16::try_from(self.len) {
            bytes[1] = LENGTH_16;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            4
        } else {
            bytes[1] = LENGTH_64;
            bytes[2..10].copy_from_slice(&self.len.to_be_bytes());
            10
        };
        if let Some(key) = self.mask {
            bytes[1] |= MASKED;
            bytes[used..used + 4].copy_from_slice(&key);
            used += 4;
        }
        out.extend_from_slice(&bytes[..used]);
    }
}

impl Opcode {
    /// The opcode in a frame's first byte; `None`: a reserved one.
    #[inline]
    fn of(first: u8) -> Option<Opcode> {
        Some(match first & OPCODE {
            CONTINUATION => Opcode::Continuation,
            TEXT => Opcode::Text,
            BINARY => Opcode::Binary,
            CLOSE => Opcode::Close,
            PING => Opcode::Ping,
            PONG => Opcode::Pong,
            _ => return None,
        })
    }
}

/// The first byte: FIN, reserved bits, opcode.
#[inline]
pub(super) fn check_first(first: u8, expect: Expect) -> Result<Opcode, Violation> {
    let starts_message = matches!(first & OPCODE, TEXT | BINARY);
    if first & (RSV2 | RSV3) != 0 || (first & RSV1 != 0 && !(expect.rsv1_allowed && starts_message))
    {
        return Err(Violation::ReservedBit);
    }
    let opcode = Opcode::of(first).ok_or(Violation::ReservedOpcode)?;
    match opcode {
        Opcode::Continuation if !expect.in_message => Err(Violation::ContinuationWithoutStart),
        Opcode::Text | Opcode::Binary if expect.in_message => Err(Violation::MessageInsideMessage),
        Opcode::Close | Opcode::Ping | Opcode::Pong if first & FIN == 0 => {
            Err(Violation::ControlFragmented)
        }
        _ => Ok(opcode),
    }
}

/// The second byte: mask bit and seven bits of length.
#[inline]
pub(super) fn check_second(first: u8, second: u8, side: Side) -> Result<(), Violation> {
    match (side, second & MASKED != 0) {
        (Side::FromClient, false) => return Err(Violation::MaskMissing),
        (Side::FromServer, true) => return Err(Violation::MaskUnexpected),
        _ => {}
    }
    if first & OPCODE >= CLOSE && usize::from(second & LENGTH) > MAX_CONTROL_PAYLOAD {
        return Err(Violation::ControlTooLong);
    }
    Ok(())
}

/// The whole length, wherever it stood.
#[inline]
pub(super) fn check_length(first: u8, second: u8, len: u64) -> Result<(), Violation> {
    let minimal = match second & LENGTH {
        LENGTH_16 => len > MAX_CONTROL_PAYLOAD as u64,
        LENGTH_64 => len > u64::from(u16::MAX),
        _ => true,
    };
    if !minimal {
        return Err(Violation::LengthNotMinimal);
    }
    if len >> 63 != 0 {
        return Err(Violation::LengthTooLarge);
    }
    if first & OPCODE == CLOSE && len == 1 {
        return Err(Violation::CloseTooShort);
    }
    Ok(())
}

/// The longest head: two bytes, eight of length, four of mask.
pub const MAX_HEAD: usize = 14;

pub(super) const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
pub(super) const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
pub(super) const LENGTH: u8 = 0x7f;
pub(super) const LENGTH_16: u8 = 126;
pub(super) const LENGTH_64: u8 = 127;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xa;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_head() -> impl Strategy<Value = Head> {
        let len = prop_oneof![
            0..200_u64,
            65_000..66_000_u64,
            any::<u64>().prop_map(|len| len >> 1)
        ];
        let mask = prop::option::of(any::<[u8; 4]>());
        (any::<bool>(), any::<bool>(), 0..6_usize, mask, len).prop_map(
            |(fin, rsv1, kind, mask, len)| {
                let opcode = [
                    Opcode::Continuation,
                    Opcode::Text,
                    Opcode::Binary,
                    Opcode::Close,
                    Opcode::Ping,
                    Opcode::Pong,
                ][kind];
                let control = opcode as u8 >= CLOSE;
                Head {
                    fin: fin || control,
                    rsv1: rsv1 && matches!(opcode, Opcode::Text | Opcode::Binary),
                    opcode,
                    mask,
                    len: if control { 2 + len % 124 } else { len },
                }
            },
        )
    }

    #[test]
    fn lengths_take_their_shortest_form() {
        let check = |len, expect: &[u8]| {
            let head = Head {
                fin: true,
                rsv1: false,
                opcode: Opcode::Binary,
                mask: None,
                len,
            };
            let mut out = Vec::new();
            head.encode(&mut out);
            assert_eq!(out, expect, "{len}");
        };
        check(0, &[0x82, 0]);
        check(125, &[0x82, 125]);
        check(126, &[0x82, 126, 0, 126]);
        check(0xffff, &[0x82, 126, 0xff, 0xff]);
        check(0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn heads_come_back_as_they_went(head in any_head(), tail in any::<[u8; 3]>()) {
            let expect = Expect {
                side: if head.mask.is_some() { Side::FromClient } else { Side::FromServer },
                rsv1_allowed: head.rsv1,
                in_message: head.opcode == Opcode::Continuation,
            };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Head::parse(&bytes[..cut], expect), Ok(None));
            }
            let used = bytes.len();
            bytes.extend(tail);
            prop_assert_eq!(Head::parse(&bytes, expect), Ok(Some((head, used))));
        }

        /// More bytes never take a violation back, and never show one that was not there before
        /// where the head was complete.
        #[test]
        fn a_verdict_is_final(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            from_client in any::<bool>(), rsv1_allowed in any::<bool>(), in_message in any::<bool>(),
        ) {
            let side = if from_client { Side::FromClient } else { Side::FromServer };
            let expect = Expect { side, rsv1_allowed, in_message };
            let whole = Head::parse(&bytes, expect);
            for cut in 0..bytes.len() {
                match Head::parse(&bytes[..cut], expect) {
                    Ok(None) => {}
                    verdict => prop_assert_eq!(verdict, whole),
                }
            }
        }
    }
}
