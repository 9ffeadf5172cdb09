//! The Huffman code of header blocks (RFC 7541 §5.2, appendix B).
//!
//! The code is canonical: within one length codes grow with their symbols. So the lengths are all there is
//! to know; the rest is derived from them when this is compiled.

/// A string was not coded as it must be: its padding is wrong, or it holds the end of strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Miscoded;

/// Decodes a string behind what `out` holds already.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Miscoded> {
    // What was read and not decoded yet: so many bits, the first of them the highest.
    let mut bits: u64 = 0;
    let mut count: u32 = 0;
    let mut coded = coded.iter();
    loop {
        while count <= 56
            && let Some(byte) = coded.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        // Behind the end come ones, as in padding.
        let window = (bits | (u64::MAX >> count.min(63))) >> 32;
        let (symbol, length) = first_symbol(window as u32);
        if length > count {
            // What is left is no code: less than a byte, and the beginning of the code that ends strings.
            let is_padding = count < 8 && bits == !(u64::MAX >> count);
            return if is_padding { Ok(()) } else { Err(Miscoded) };
        }
        out.push(u8::try_from(symbol).map_err(|_| Miscoded)?);
        bits <<= length;
        count -= length;
    }
}

/// The symbol whose code these bits begin with, and the code's length.
fn first_symbol(window: u32) -> (u16, u32) {
    let (symbol, length) = SHORT[(window >> 24) as usize];
    if length > 0 {
        return (symbol, u32::from(length));
    }
    let mut length = SHORTEST;
    while length < LONGEST && u64::from(window) >= CODE.ends[length] {
        length += 1;
    }
    let nth = (u64::from(window) - CODE.starts[length]) >> (32 - length);
    (
        CODE.symbols[CODE.offsets[length] + nth as usize],
        length as u32,
    )
}

/// The code, ordered by length.
struct Code {
    /// All symbols, shorter codes first.
    symbols: [u16; 257],
    /// Where the symbols of a length begin.
    offsets: [usize; LONGEST + 1],
    /// The first code of a length, and what is behind its last, as the highest of 32 bits.
    starts: [u64; LONGEST + 1],
    ends: [u64; LONGEST + 1],
}

const fn code() -> Code {
    let mut code = Code {
        symbols: [0; 257],
        offsets: [0; LONGEST + 1],
        starts: [0; LONGEST + 1],
        ends: [0; LONGEST + 1],
    };
    let mut next: u64 = 0;
    let mut found = 0;
    let mut length = SHORTEST;
    while length <= LONGEST {
        code.offsets[length] = found;
        code.starts[length] = next;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[found] = symbol as u16;
                found += 1;
                next += 1 << (32 - length);
            }
            symbol += 1;
        }
        code.ends[length] = next;
        length += 1;
    }
    code
}

/// The symbol and length of the code that a byte begins with; no length where that is longer than a byte.
const fn short() -> [(u16, u8); 256] {
    let mut table = [(0, 0); 256];
    let mut length = SHORTEST;
    while length <= 8 {
        let mut nth = CODE.offsets[length];
        let mut start = CODE.starts[length];
        while start < CODE.ends[length] {
            let mut byte = start >> 24;
            while byte < (start + (1 << (32 - length))) >> 24 {
                table[byte as usize] = (CODE.symbols[nth], length as u8);
                byte += 1;
            }
            start += 1 << (32 - length);
            nth += 1;
        }
        length += 1;
    }
    table
}

static CODE: Code = code();
static SHORT: [(u16, u8); 256] = short();

const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Bits of each octet's code, and of the end of strings.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes by the same lengths, one symbol after the other.
    fn encode(symbols: &[u16]) -> Vec<u8> {
        let mut bits = Vec::new();
        for symbol in symbols {
            let at = CODE.symbols.iter().position(|other| other == symbol);
            let at = at.unwrap();
            let length = usize::from(LENGTHS[usize::from(*symbol)]);
            let nth = (at - CODE.offsets[length]) as u64;
            let code = (CODE.starts[length] >> (32 - length)) + nth;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        while bits.len() % 8 > 0 {
            bits.push(true);
        }
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |all, bit| all << 1 | u8::from(*bit)))
            .collect()
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Miscoded> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_complete() {
        assert_eq!(CODE.ends[LONGEST], 1 << 32);
        // RFC 7541 appendix B: the first and the last code of an octet.
        assert_eq!(first_symbol(0), (u16::from(b'0'), 5));
        assert_eq!(first_symbol(0xffff_fff0), (10, 30));
    }

    #[test]
    fn examples_of_the_standard() {
        // RFC 7541 §C.4.1, C.4.2, C.6.1.
        let cases: [(&[u8], &[u8]); 3] = [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
                b"www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], b"no-cache"),
            (&[0x64, 0x02], b"302"),
        ];
        for (coded, text) in cases {
            assert_eq!(decoded(coded).unwrap(), text);
        }
    }

    #[test]
    fn each_octet_and_all_of_them() {
        for octet in 0..=255 {
            assert_eq!(decoded(&encode(&[octet.into()])).unwrap(), [octet]);
        }
        let all: Vec<u16> = (0..=255).collect();
        let octets: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), octets);
        assert_eq!(decoded(b"").unwrap(), b"");
    }

    #[test]
    fn wrong_padding_and_ends_are_refused() {
        for coded in [
            // A byte of padding, padding with a zero, four bytes of it.
            &[0x64, 0x02, 0xff][..],
            &[0xff],
            &[0x00],
            &[0x1f, 0xfe],
            &[0xff, 0xff, 0xff, 0xff],
            &encode(&[u16::from(b'a'), 256]),
        ] {
            assert_eq!(decoded(coded), Err(Miscoded), "{coded:x?}");
        }
    }
}
