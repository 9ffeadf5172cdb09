//! RFC 1951 backwards, written for judging: it knows the negotiated window and refuses a reference past
//! it, which other inflaters with their 32 KiB let through.

use super::negotiation::Params;

/// One direction's decompression, over all of its messages.
pub struct Inflater {
    params: Params,
    /// What references may reach: the plain bytes so far, at most 32 KiB of them between two messages.
    history: Vec<u8>,
}

struct Bits<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: usize,
}

/// A canonical Huffman code: how many symbols have each length, and the symbols in the order of their codes.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

type Result<T> = std::result::Result<T, String>;

impl Inflater {
    pub fn new(params: Params) -> Inflater {
        Inflater {
            params,
            history: Vec::new(),
        }
    }

    /// The plain bytes of a message whose payload this is (RFC 7692 §7.2.2).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn message(&mut self, payload: &[u8]) -> Result<Vec<u8>> {
        if !self.params.takeover {
            self.history.clear();
        }
        let mut input = payload.to_vec();
        input.extend([0, 0, 0xff, 0xff]);
        let mut bits = Bits {
            bytes: &input,
            at: 0,
        };
        let mut start = self.history.len();
        let mut plain = Vec::new();
        while bits.at < input.len() * 8 {
            let last = self.block(&mut bits)?;
            plain.extend_from_slice(&self.history[start..]);
            if last {
                // Another stream follows in the same message (RFC 7692 §7.2.3.5).
                bits.align();
                self.history.clear();
            }
            start = self.history.len();
        }
        let excess = self.history.len().saturating_sub(1 << 15);
        self.history.drain(..excess);
        Ok(plain)
    }

    /// Whether the block is the last one of a stream.
    fn block(&mut self, bits: &mut Bits<'_>) -> Result<bool> {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => self.stored(bits)?,
            1 => {
                let (literals, distances) = fixed();
                self.compressed(bits, &literals, &distances)?;
            }
            2 => {
                let (literals, distances) = dynamic(bits)?;
                self.compressed(bits, &literals, &distances)?;
            }
            _ => return Err("a block of type 3".into()),
        }
        Ok(last)
    }

    fn stored(&mut self, bits: &mut Bits<'_>) -> Result<()> {
        bits.align();
        let (len, complement) = (bits.take(16)?, bits.take(16)?);
        if len != !complement & 0xffff {
            return Err(format!("a stored block of {len} and {complement} bytes"));
        }
        let start = bits.at / 8;
        let end = start + len as usize;
        let bytes = bits.bytes.get(start..end).ok_or("a stored block is cut")?;
        self.history.extend_from_slice(bytes);
        bits.at = end * 8;
        Ok(())
    }

    fn compressed(&mut self, bits: &mut Bits<'_>, literals: &Code, distances: &Code) -> Result<()> {
        loop {
            let symbol = usize::from(literals.read(bits)?);
            match symbol {
                0..=255 => self.history.push(symbol as u8),
                256 => return Ok(()),
                257..=285 => {
                    let (base, extra) = LENGTHS[symbol - 257];
                    let length = base + bits.take(extra)? as usize;
                    let symbol = usize::from(distances.read(bits)?);
                    let (base, extra) = *DISTANCES.get(symbol).ok_or("a distance code over 29")?;
                    self.repeat(base + bits.take(extra)? as usize, length)?;
                }
                _ => return Err(format!("a length code of {symbol}")),
            }
        }
    }

    fn repeat(&mut self, distance: usize, length: usize) -> Result<()> {
        let window = 1 << self.params.window_bits;
        if distance > window || distance > self.history.len() {
            let known = self.history.len();
            return Err(format!(
                "a reference {distance} bytes back with {known} known, in a window of {window}"
            ));
        }
        let from = self.history.len() - distance;
        for at in from..from + length {
            self.history.push(self.history[at]);
        }
        Ok(())
    }
}

impl Bits<'_> {
    fn take(&mut self, count: u8) -> Result<u32> {
        let mut value = 0;
        for place in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or("the data is cut")?;
            value |= u32::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Ok(value)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

impl Code {
    fn new(lengths: &[u8]) -> Code {
        let mut counts = [0; 16];
        for &length in lengths {
            counts[usize::from(length)] += 1;
        }
        counts[0] = 0;
        let mut symbols = Vec::new();
        for wanted in 1..16 {
            let of_length = lengths
                .iter()
                .enumerate()
                .filter(|(_, len)| **len == wanted);
            symbols.extend(of_length.map(|(symbol, _)| symbol as u16));
        }
        Code { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<u16> {
        let (mut code, mut first, mut index) = (0_i32, 0_i32, 0_i32);
        for count in &self.counts[1..] {
            code |= bits.take(1)? as i32;
            let count = i32::from(*count);
            if code - count < first {
                return Ok(self.symbols[(index + code - first) as usize]);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err("a code that stands for nothing".into())
    }
}

fn fixed() -> (Code, Code) {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    (Code::new(&lengths), Code::new(&[5; 30]))
}

fn dynamic(bits: &mut Bits<'_>) -> Result<(Code, Code)> {
    let literals = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    let lengths = bits.take(4)? as usize + 4;
    let mut order = [0; 19];
    for place in &ORDER[..lengths] {
        order[*place] = bits.take(3)? as u8;
    }
    let code = Code::new(&order);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.read(bits)? {
            16 => {
                let last = *lengths.last().ok_or("nothing to repeat")?;
                (last, 3 + bits.take(2)?)
            }
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths.extend((0..times).map(|_| length));
    }
    if lengths.len() > literals + distances {
        return Err("more code lengths than codes".into());
    }
    let (literals, distances) = lengths.split_at(literals);
    Ok((Code::new(literals), Code::new(distances)))
}

/// Shortest length and extra bits of the codes 257 to 285.
pub(super) const LENGTHS: [(usize, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// Shortest distance and extra bits of the codes 0 to 29.
pub(super) const DISTANCES: [(usize, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
