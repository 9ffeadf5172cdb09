//! The window of a context that idles: the last bytes of a direction.
//!
//! It grows with what was said, to the size of the window, and is a ring from then on.

/// The last bytes, as many as the window holds.
pub(super) struct History {
    bytes: Vec<u8>,
    /// Where the next byte goes once the ring is full; the oldest stands there.
    next: u16,
    window_bits: u8,
}

impl History {
    /// Of a window of 2^`window_bits` bytes, at most 2^15.
    pub(super) fn new(window_bits: u8) -> History {
        History {
            bytes: Vec::new(),
            next: 0,
            window_bits: window_bits.min(15),
        }
    }

    pub(super) fn push(&mut self, said: &[u8]) {
        let limit = self.limit();
        if said.len() >= limit {
            self.bytes.clear();
            self.next = 0;
            self.grow(limit);
            self.bytes.extend_from_slice(&said[said.len() - limit..]);
            return;
        }
        let (growing, said) = said.split_at(said.len().min(limit - self.bytes.len()));
        self.grow(self.bytes.len() + growing.len());
        self.bytes.extend_from_slice(growing);
        let next = usize::from(self.next);
        let (to_end, from_start) = said.split_at(said.len().min(limit - next));
        if to_end.is_empty() {
            return;
        }
        self.bytes[next..next + to_end.len()].copy_from_slice(to_end);
        self.bytes[..from_start.len()].copy_from_slice(from_start);
        // Below 2^15, as the window is.
        self.next = ((next + said.len()) % limit) as u16;
    }

    pub(super) fn clear(&mut self) {
        if !self.bytes.is_empty() {
            self.bytes = Vec::new();
            self.next = 0;
        }
    }

    /// From the oldest to the last one.
    pub(super) fn in_order(&mut self) -> &[u8] {
        self.bytes.rotate_left(usize::from(self.next));
        self.next = 0;
        &self.bytes
    }

    fn limit(&self) -> usize {
        1 << self.window_bits
    }

    /// Makes room for so many bytes: doubling, but never past the window.
    fn grow(&mut self, len: usize) {
        if len > self.bytes.capacity() {
            let room = len.next_power_of_two().clamp(SMALLEST, self.limit());
            self.bytes.reserve_exact(room - self.bytes.len());
        }
    }
}

/// Room that the first message makes; no window is smaller.
const SMALLEST: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_the_end_of_what_was_said(
            window_bits in 8u8..=10,
            said in prop::collection::vec(0usize..1500, 0..20),
            looks: u32,
        ) {
            let mut history = History::new(window_bits);
            let mut all: Vec<u8> = Vec::new();
            for (index, len) in said.into_iter().enumerate() {
                let piece: Vec<u8> = (0..len).map(|at| (index * 31 + at) as u8).collect();
                history.push(&piece);
                all.extend_from_slice(&piece);
                if looks >> index & 1 == 1 {
                    let start = all.len().saturating_sub(1 << window_bits);
                    prop_assert_eq!(history.in_order(), &all[start..]);
                }
                prop_assert!(history.bytes.capacity() <= 1 << window_bits);
            }
            let start = all.len().saturating_sub(1 << window_bits);
            prop_assert_eq!(history.in_order(), &all[start..]);
        }
    }
}
