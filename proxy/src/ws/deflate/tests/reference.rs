//! A receiver as RFC 1951 and RFC 7692 tell it, bit by bit: slow, strict about its window, and without
//! any code of the one that is tested.

pub(super) struct Receiver {
    window: usize,
    takeover: bool,
    /// Everything since the context began.
    said: Vec<u8>,
}

/// What a payload means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) plain: Vec<u8>,
    /// The furthest that any match reached back.
    pub(super) reach: usize,
}

impl Receiver {
    pub(super) fn new(window_bits: u8, takeover: bool) -> Receiver {
        Receiver {
            window: 1 << window_bits,
            takeover,
            said: Vec::new(),
        }
    }

    /// One message; `None`: its payload is wrong or incomplete.
    pub(super) fn message(&mut self, payload: &[u8]) -> Option<Meaning> {
        if !self.takeover {
            self.said.clear();
        }
        let mut stream = Stream {
            bytes: [payload, &[0x00, 0x00, 0xff, 0xff]].concat(),
            at: 0,
            payload: payload.len() * 8,
            window: self.window,
            said: std::mem::take(&mut self.said),
            plain: Vec::new(),
            reach: 0,
        };
        let end = stream.bytes.len() * 8;
        while stream.at < end {
            let last = stream.bits(1)? == 1;
            match stream.bits(2)? {
                0 => stream.stored()?,
                1 => {
                    let lengths = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
                    stream.compressed(&Code::of(&lengths)?, &Code::of(&[5; 30])?)?;
                }
                2 => {
                    let (literals, distances) = stream.tables()?;
                    stream.compressed(&literals, &distances)?;
                }
                _ => return None,
            }
            if last {
                stream.at = stream.at.next_multiple_of(8);
                stream.said.clear();
                if stream.at >= end {
                    return None;
                }
            }
        }
        self.said = stream.said;
        Some(Meaning {
            plain: stream.plain,
            reach: stream.reach,
        })
    }
}

struct Stream {
    bytes: Vec<u8>,
    at: usize,
    /// Where the payload ends, in bits: from there on nothing may come out.
    payload: usize,
    window: usize,
    said: Vec<u8>,
    plain: Vec<u8>,
    reach: usize,
}

impl Stream {
    fn bits(&mut self, count: usize) -> Option<usize> {
        let mut value = 0;
        for place in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value |= usize::from(byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Some(value)
    }

    fn put(&mut self, byte: u8) -> Option<()> {
        self.said.push(byte);
        self.plain.push(byte);
        (self.at <= self.payload).then_some(())
    }

    fn stored(&mut self) -> Option<()> {
        self.at = self.at.next_multiple_of(8);
        let len = self.bits(16)?;
        if self.bits(16)? != len ^ 0xffff {
            return None;
        }
        for _ in 0..len {
            let byte = self.bits(8)? as u8;
            self.put(byte)?;
        }
        Some(())
    }

    fn tables(&mut self) -> Option<(Code, Code)> {
        let (literals, distances) = (self.bits(5)? + 257, self.bits(5)? + 1);
        let count = self.bits(4)? + 4;
        if literals > 286 || distances > 30 {
            return None;
        }
        let mut lengths = [0; 19];
        for place in &ORDER[..count] {
            lengths[*place] = self.bits(3)?;
        }
        let code = Code::of(&lengths)?;
        if !code.complete {
            return None;
        }
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            let (value, times) = match code.read(self)? {
                16 => (*lengths.last()?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length, 1),
            };
            lengths.resize(lengths.len() + times, value);
        }
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return None;
        }
        let (literals, distances) = lengths.split_at(literals);
        let (literals, distances) = (Code::of(literals)?, Code::of(distances)?);
        (literals.is_fine() && distances.is_fine()).then_some((literals, distances))
    }

    fn compressed(&mut self, literals: &Code, distances: &Code) -> Option<()> {
        loop {
            match literals.read(self)? {
                256 => return Some(()),
                byte @ 0..256 => self.put(byte as u8)?,
                symbol => {
                    let (base, extra) = *LENGTHS.get(symbol - 257)?;
                    let length = base + self.bits(extra)?;
                    let (base, extra) = *DISTANCES.get(distances.read(self)?)?;
                    let distance = base + self.bits(extra)?;
                    if distance > self.window.min(self.said.len()) {
                        return None;
                    }
                    self.reach = self.reach.max(distance);
                    for _ in 0..length {
                        self.put(self.said[self.said.len() - distance])?;
                    }
                }
            }
        }
    }
}

/// A canonical Huffman code (RFC 1951 §3.2.2).
struct Code {
    /// How many codes have each length.
    counts: [usize; 16],
    /// In the order of their codes.
    symbols: Vec<usize>,
    complete: bool,
}

impl Code {
    fn of(lengths: &[usize]) -> Option<Code> {
        let mut counts = [0; 16];
        for length in lengths {
            counts[*length] += 1;
        }
        counts[0] = 0;
        let mut free: i32 = 1;
        for count in &counts[1..] {
            free = 2 * free - *count as i32;
            if free < 0 {
                return None;
            }
        }
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|at| lengths[*at] > 0).collect();
        symbols.sort_by_key(|at| lengths[*at]);
        Some(Code {
            counts,
            symbols,
            complete: free == 0,
        })
    }

    /// zlib bears an incomplete code only where it has a single symbol of one bit, or none.
    fn is_fine(&self) -> bool {
        let single = self.symbols.len() == 1 && self.counts[1] == 1;
        self.complete || single || self.symbols.is_empty()
    }

    fn read(&self, stream: &mut Stream) -> Option<usize> {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= stream.bits(1)?;
            if code < first + count {
                return Some(self.symbols[index + code - first]);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// Smallest length and extra bits of each symbol from 257.
const LENGTHS: [(usize, usize); 29] = {
    let mut table = [(0, 0); 29];
    let (mut symbol, mut base) = (0, 3);
    while symbol < 28 {
        let extra = if symbol < 8 { 0 } else { symbol / 4 - 1 };
        table[symbol] = (base, extra);
        base += 1 << extra;
        symbol += 1;
    }
    table[28] = (258, 0);
    table
};
/// Smallest distance and extra bits of each symbol.
const DISTANCES: [(usize, usize); 30] = {
    let mut table = [(0, 0); 30];
    let (mut symbol, mut base) = (0, 1);
    while symbol < 30 {
        let extra = if symbol < 4 { 0 } else { symbol / 2 - 1 };
        table[symbol] = (base, extra);
        base += 1 << extra;
        symbol += 1;
    }
    table
};
