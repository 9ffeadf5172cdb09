//! Masking (RFC 6455 §5.3): each payload byte combined with a byte of the key by XOR, in turn.
//!
//! Masking and unmasking are the same. Whole words at a time, which the compiler turns into vectors.

/// Masks or unmasks `bytes`, the first of which stands at `offset` in its payload.
#[inline]
pub fn apply(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let word = word(key, offset);
    let (words, rest) = bytes.as_chunks_mut();
    for chunk in words {
        *chunk = (u64::from_le_bytes(*chunk) ^ word).to_le_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_le_bytes()) {
        *byte ^= key;
    }
}

/// Appends `bytes`, masked or unmasked; the first of them stands at `offset` in its payload.
#[inline]
pub fn append(bytes: &[u8], key: [u8; 4], offset: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(bytes);
    apply(&mut out[start..], key, offset);
}

/// The key as it lies over eight bytes from `offset` on, the first of them lowest.
#[inline]
fn word(key: [u8; 4], offset: usize) -> u64 {
    let key = u32::from_le_bytes(key).rotate_right(8 * (offset % 4) as u32);
    u64::from(key) << 32 | u64::from(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // §5.7: a masked "Hello".
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut bytes, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&bytes, b"Hello");
    }

    #[test]
    fn every_length_from_every_offset_is_masked_byte_by_byte() {
        let plain: Vec<u8> = (0..100).collect();
        let key = [0x11, 0x80, 0xfe, 0x03];
        for offset in [0, 1, 2, 3, 4, 1021] {
            for end in 0..plain.len() {
                let expect: Vec<u8> = plain[..end]
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| byte ^ key[(offset + at) % 4])
                    .collect();
                let mut masked = vec![7];
                append(&plain[..end], key, offset, &mut masked);
                assert_eq!(masked[1..], expect, "{end} bytes from {offset}");
                apply(&mut masked[1..], key, offset);
                assert_eq!(masked[1..], plain[..end], "{end} bytes from {offset}");
            }
        }
    }
}
