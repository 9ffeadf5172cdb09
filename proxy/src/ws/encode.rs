//! Messages that the proxy itself makes: one frame each (RFC 6455 §5.6).

use super::head::{Head, Opcode};
use super::mask;
use super::message::DataKind;

/// Appends a message as one frame. Toward a server `mask` is a fresh random key (RFC 6455 §5.3), toward
/// a client `None`.
pub fn encode_message(kind: DataKind, plain: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    encode(kind, false, plain, mask, out);
}

/// Appends a message whose payload was compressed as RFC 7692 §7.2.1 says, as one frame.
pub fn encode_compressed(
    kind: DataKind,
    deflated: &[u8],
    mask: Option<[u8; 4]>,
    out: &mut Vec<u8>,
) {
    encode(kind, true, deflated, mask, out);
}

fn encode(kind: DataKind, rsv1: bool, payload: &[u8], mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let head = Head {
        fin: true,
        rsv1,
        opcode: match kind {
            DataKind::Text => Opcode::Text,
            DataKind::Binary => Opcode::Binary,
        },
        mask,
        len: payload.len() as u64,
    };
    head.encode(out);
    match mask {
        Some(key) => mask::append(payload, key, 0, out),
        None => out.extend_from_slice(payload),
    }
}
