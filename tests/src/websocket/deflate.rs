//! Compressed payloads with real references to the far end of any window: stored blocks, blocks with fixed
//! codes of our own making, and miniz_oxide's with codes of their own.
//!
//! What miniz_oxide writes knows no window but 32 KiB, so it starts afresh where another was agreed on.

use flate2::{Compress, Compression, FlushCompress};

use super::inflate::{DISTANCES, LENGTHS};
use super::negotiation::Params;
use super::random::Random;

/// One direction's compression, over all of its messages.
pub struct Deflater {
    params: Params,
    /// The plain bytes that references may reach.
    history: Vec<u8>,
    /// Writes all messages, with a context of its own.
    library: Option<Compress>,
}

struct Bits {
    bytes: Vec<u8>,
    /// How many bits of the last byte are taken; 0: all.
    used: u8,
}

impl Deflater {
    pub fn new(params: Params, random: &mut Random) -> Deflater {
        let whole_window = params.window_bits == 15;
        Deflater {
            params,
            history: Vec::new(),
            library: (whole_window && random.once_in(3)).then(library),
        }
    }

    /// The payload of one message (RFC 7692 §7.2.1).
    pub fn message(&mut self, plain: &[u8], random: &mut Random) -> Vec<u8> {
        if !self.params.takeover {
            self.history.clear();
            if let Some(library) = &mut self.library {
                library.reset();
            }
        }
        let window = 1 << self.params.window_bits;
        let mut ends = false;
        let payload = match &mut self.library {
            Some(library) => flushed(library, plain),
            None if plain.len() <= window && random.once_in(3) => flushed(&mut library(), plain),
            None => {
                ends = random.once_in(8);
                self.own_blocks(plain, window, ends, random)
            }
        };
        if ends && !plain.is_empty() {
            // Whoever inflates with zlib forgets what it knew.
            self.history.clear();
            return payload;
        }
        self.history.extend_from_slice(plain);
        let excess = self.history.len().saturating_sub(window);
        self.history.drain(..excess);
        payload
    }

    /// `ends`: as a stream that ends, with another one behind it (§7.2.3.5).
    fn own_blocks(&self, plain: &[u8], window: usize, ends: bool, random: &mut Random) -> Vec<u8> {
        let all = [self.history.as_slice(), plain].concat();
        let mut seen = Seen::new(window);
        for at in 0..self.history.len() {
            seen.note(&all, at);
        }
        let mut bits = Bits {
            bytes: Vec::new(),
            used: 0,
        };
        let mut at = self.history.len();
        while at < all.len() {
            let end = all.len().min(at + random.between(1, 60_000));
            bits.put(u32::from(ends && end == all.len()), 1);
            if random.once_in(5) {
                at = bits.stored(&all[at..end], at, &all, &mut seen);
            } else {
                at = bits.fixed(&all, at..end, &mut seen, random);
            }
        }
        // An empty stored block, but for its four bytes; it is all that an empty message has.
        if ends {
            bits.align();
        }
        bits.put(0, 3);
        bits.align();
        bits.bytes
    }
}

/// Plain bytes of one value, deflated as small as it goes: a thousandth.
pub fn bomb(plain: usize) -> Vec<u8> {
    flushed(&mut library(), &vec![b'a'; plain])
}

fn library() -> Compress {
    Compress::new(Compression::new(6), false)
}

fn flushed(library: &mut Compress, plain: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(plain.len() / 2 + 64);
    let before = library.total_in();
    loop {
        let taken = (library.total_in() - before) as usize;
        let rest = &plain[taken..];
        library
            .compress_vec(rest, &mut payload, FlushCompress::Sync)
            .unwrap();
        let taken = (library.total_in() - before) as usize;
        if taken == plain.len() && payload.len() < payload.capacity() {
            break;
        }
        payload.reserve(payload.len() + 64);
    }
    match payload.strip_suffix(&[0, 0, 0xff, 0xff]) {
        Some(payload) => payload.to_vec(),
        // Nothing to flush: an empty message behind another one.
        None => vec![0],
    }
}

/// Where three bytes stood last, and where they stood first within the window.
struct Seen {
    window: usize,
    last: Vec<Option<u32>>,
    first: Vec<Option<u32>>,
}

impl Seen {
    fn new(window: usize) -> Seen {
        Seen {
            window,
            last: vec![None; 1 << 13],
            first: vec![None; 1 << 13],
        }
    }

    fn note(&mut self, all: &[u8], at: usize) {
        let Some(place) = place(all, at) else { return };
        self.last[place] = Some(at as u32);
        let first = &mut self.first[place];
        if first.is_none_or(|first| at - first as usize > self.window / 2) {
            *first = Some(at as u32);
        }
    }

    /// A place within the window that goes on as `all[at..end]` does, and for how many bytes.
    fn find(&self, all: &[u8], at: usize, end: usize, far: bool) -> Option<(usize, usize)> {
        let table = if far { &self.first } else { &self.last };
        let from = table[place(all, at)?]? as usize;
        let length = (at..end.min(at + 258))
            .take_while(|here| all[*here] == all[from + here - at])
            .count();
        (at - from <= self.window && length >= 3).then_some((at - from, length))
    }
}

fn place(all: &[u8], at: usize) -> Option<usize> {
    let three = all.get(at..at + 3)?;
    let number = three
        .iter()
        .fold(0_usize, |sum, byte| sum * 31 + usize::from(*byte));
    Some(number & 0x1fff)
}

impl Bits {
    fn put(&mut self, value: u32, count: u8) {
        for place in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            let bit = (value >> place & 1) as u8;
            *self.bytes.last_mut().unwrap() |= bit << self.used;
            self.used = (self.used + 1) % 8;
        }
    }

    /// Huffman codes stand the other way round.
    fn put_code(&mut self, code: u32, count: u8) {
        self.put(code.reverse_bits() >> (32 - count), count);
    }

    fn align(&mut self) {
        self.used = 0;
    }

    fn stored(&mut self, bytes: &[u8], at: usize, all: &[u8], seen: &mut Seen) -> usize {
        self.put(0, 2);
        self.align();
        let len = bytes.len() as u16;
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend((!len).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
        for at in at..at + bytes.len() {
            seen.note(all, at);
        }
        at + bytes.len()
    }

    fn fixed(
        &mut self,
        all: &[u8],
        range: std::ops::Range<usize>,
        seen: &mut Seen,
        random: &mut Random,
    ) -> usize {
        self.put(1, 2);
        let mut at = range.start;
        while at < range.end {
            let next = match seen.find(all, at, range.end, random.once_in(2)) {
                Some((distance, length)) => {
                    self.reference(distance, length);
                    at + length
                }
                None => {
                    self.symbol(usize::from(all[at]));
                    at + 1
                }
            };
            for at in at..next {
                seen.note(all, at);
            }
            at = next;
        }
        self.symbol(256);
        at
    }

    fn reference(&mut self, distance: usize, length: usize) {
        // 258 has a code of its own, the last one, though the one before reaches it too.
        let code = LENGTHS
            .iter()
            .rposition(|(base, _)| *base <= length)
            .unwrap();
        let (base, extra) = LENGTHS[code];
        self.symbol(257 + code);
        self.put((length - base) as u32, extra);
        let code = DISTANCES
            .iter()
            .rposition(|(base, _)| *base <= distance)
            .unwrap();
        let (base, extra) = DISTANCES[code];
        self.put_code(code as u32, 5);
        self.put((distance - base) as u32, extra);
    }

    /// RFC 1951 §3.2.6.
    fn symbol(&mut self, symbol: usize) {
        let number = symbol as u32;
        match symbol {
            0..=143 => self.put_code(0x30 + number, 8),
            144..=255 => self.put_code(0x190 + number - 144, 9),
            256..=279 => self.put_code(number - 256, 7),
            _ => self.put_code(0xc0 + number - 280, 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::super::inflate::Inflater;
    use super::*;

    #[test]
    fn what_is_deflated_inflates_here_and_in_a_library_and_stays_in_its_window() {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let params = Params {
                window_bits: random.between(8, 15) as u8,
                takeover: random.once_in(2),
            };
            let mut deflater = Deflater::new(params, &mut random);
            let mut inflater = Inflater::new(params);
            let mut library = Decompress::new(false);
            let vocabulary: Vec<[u8; 8]> = (0..40).map(|_| random.number().to_ne_bytes()).collect();
            for _ in 0..8 {
                let words = random.pick(&[0, 1, 30, 400, 6000]);
                let plain: Vec<u8> = (0..words).flat_map(|_| random.pick(&vocabulary)).collect();
                let payload = deflater.message(&plain, &mut random);
                assert_eq!(inflater.message(&payload), Ok(plain.clone()), "seed {seed}");
                if !params.takeover {
                    library.reset(false);
                }
                let mut input = payload.clone();
                input.extend([0, 0, 0xff, 0xff]);
                let mut out = Vec::with_capacity(plain.len() + 64);
                let outcome = library.decompress_vec(&input, &mut out, FlushDecompress::Sync);
                match outcome.unwrap() {
                    // It stops where a stream ends, and would forget what it knew: not asked any further.
                    flate2::Status::StreamEnd => {
                        assert!(out == plain, "seed {seed}");
                        break;
                    }
                    _ => assert!(out == plain, "seed {seed}"),
                }
            }
        }
    }

    #[test]
    fn a_reference_past_the_window_is_an_error() {
        let of = |window_bits| Params {
            window_bits,
            takeover: true,
        };
        let mut random = Random::new(1);
        let plain = [random.bytes(300), vec![0; 300], random.bytes(300)].concat();
        let twice = [plain.clone(), plain].concat();
        let payload = flushed(&mut library(), &twice);
        assert_eq!(Inflater::new(of(10)).message(&payload), Ok(twice));
        let error = Inflater::new(of(9)).message(&payload).unwrap_err();
        assert!(error.contains("900 bytes back"), "{error}");
    }
}
