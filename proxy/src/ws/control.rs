//! Control frames (RFC 6455 §5.5) that the proxy sends, and close codes (§7.4).
//!
//! A control frame is at most 131 bytes, so it is built in place without an allocation. Nothing
//! here fails: what would not fit is cut, a code that must not be sent becomes no code.

use std::fmt;
use std::ops::Deref;

use super::head::{CLOSE, PING, PONG};
use super::mask;

/// The status code of a Close frame.
///
/// [`CloseCode::NO_STATUS`] stands for a Close without a code and never goes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

/// One encoded control frame; dereferences to its bytes.
#[derive(Clone, Copy)]
pub struct ControlFrame {
    bytes: [u8; MAX_CONTROL_FRAME],
    len: u8,
}

/// Encodes a Close frame, masked if it goes to a server.
///
/// The reason is cut to 123 bytes at a character boundary. A code that may not be sent
/// ([`CloseCode::may_be_sent`]) gives a Close with an empty payload.
pub fn encode_close(code: CloseCode, reason: &str, mask: Option<[u8; 4]>) -> ControlFrame {
    let mut payload = [0; MAX_CONTROL_PAYLOAD];
    if !code.may_be_sent() {
        return ControlFrame::new(CLOSE, &[], mask);
    }
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(MAX_CLOSE_REASON)];
    payload[..2].copy_from_slice(&code.0.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason);
    ControlFrame::new(CLOSE, &payload[..2 + reason.len()], mask)
}

/// Encodes a Ping frame, masked if it goes to a server; the payload is cut to 125 bytes.
pub fn encode_ping(payload: &[u8], mask: Option<[u8; 4]>) -> ControlFrame {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    ControlFrame::new(PING, payload, mask)
}

/// Encodes a Pong frame, masked if it goes to a server; the payload is cut to 125 bytes.
pub fn encode_pong(payload: &[u8], mask: Option<[u8; 4]>) -> ControlFrame {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    ControlFrame::new(PONG, payload, mask)
}

impl CloseCode {
    pub const NORMAL: CloseCode = CloseCode(1000);
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// The Close frame carried no code.
    pub const NO_STATUS: CloseCode = CloseCode(1005);
    /// Data that is not what it says it is, such as text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    pub const POLICY: CloseCode = CloseCode(1008);
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    pub const INTERNAL_ERROR: CloseCode = CloseCode(1011);
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);

    /// Whether the code may stand in a Close frame (RFC 6455 §7.4 and the IANA registry).
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }

    /// The code as a metric label: registered codes as they are, the others by their range.
    pub fn label(self) -> &'static str {
        match self.0 {
            1000 => "1000",
            1001 => "1001",
            1002 => "1002",
            1003 => "1003",
            1005 => "1005",
            1007 => "1007",
            1008 => "1008",
            1009 => "1009",
            1010 => "1010",
            1011 => "1011",
            1012 => "1012",
            1013 => "1013",
            1014 => "1014",
            3000..=3999 => "3xxx",
            4000..=4999 => "4xxx",
            _ => "invalid",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ControlFrame {
    /// `payload` is at most [`MAX_CONTROL_PAYLOAD`] bytes.
    pub(super) fn new(opcode: u8, payload: &[u8], key: Option<[u8; 4]>) -> ControlFrame {
        let mut bytes = [0; MAX_CONTROL_FRAME];
        bytes[0] = 0x80 | opcode;
        bytes[1] = payload.len() as u8;
        let mut start = 2;
        if let Some(key) = key {
            bytes[1] |= 0x80;
            bytes[2..6].copy_from_slice(&key);
            start = 6;
        }
        let end = start + payload.len();
        bytes[start..end].copy_from_slice(payload);
        if let Some(key) = key {
            mask::apply(&mut bytes[start..end], key, 0);
        }
        ControlFrame {
            bytes,
            len: end as u8,
        }
    }
}

impl Deref for ControlFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for ControlFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlFrame").field(&&self[..]).finish()
    }
}

/// Longest payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// Two bytes of head, four of mask, the payload.
pub const MAX_CONTROL_FRAME: usize = 2 + 4 + MAX_CONTROL_PAYLOAD;

const MAX_CLOSE_REASON: usize = MAX_CONTROL_PAYLOAD - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_frames_are_what_the_rfc_says() {
        let check = |code, reason: &str, mask, expect: &[u8]| {
            assert_eq!(
                &encode_close(CloseCode(code), reason, mask)[..],
                expect,
                "{code} {reason}"
            );
        };
        check(1000, "", None, &[0x88, 2, 0x03, 0xe8]);
        check(1001, "bye", None, b"\x88\x05\x03\xe9bye");
        check(
            1000,
            "",
            Some([1, 2, 3, 4]),
            &[0x88, 0x82, 1, 2, 3, 4, 0x02, 0xea],
        );
        // Codes that must not be sent become no code at all.
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            check(code, "ignored", None, &[0x88, 0]);
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let frame = encode_close(CloseCode::NORMAL, &"é".repeat(200), Some([0; 4]));
        assert_eq!(frame.len(), 6 + 2 + 122);
        assert_eq!(std::str::from_utf8(&frame[8..]).unwrap(), "é".repeat(61));
        assert_eq!(
            encode_close(CloseCode::NORMAL, &"x".repeat(500), Some([0; 4])).len(),
            MAX_CONTROL_FRAME
        );
    }

    #[test]
    fn pings_and_pongs_carry_at_most_125_bytes() {
        assert_eq!(&encode_ping(b"hi", None)[..], b"\x89\x02hi");
        assert_eq!(encode_ping(&[7; 300], None).len(), 2 + MAX_CONTROL_PAYLOAD);
        assert_eq!(&encode_pong(b"hi", None)[..], b"\x8a\x02hi");
        assert_eq!(encode_pong(&[7; 300], None).len(), 2 + MAX_CONTROL_PAYLOAD);
    }
}
