//! Gives memory back to the system after a crowd has left.
//!
//! The system's allocator keeps what was freed between blocks that stay: after eight thousand
//! connections some 60 MB, for good. Nobody else could use it, so it is given back once most of a
//! crowd has gone, and only then: while connections come and go their memory is soon used again.

/// Watches how many connections there are, and says when memory is worth giving back.
#[derive(Debug, Default)]
pub struct Tide {
    /// The most since the last time.
    high: usize,
}

impl Tide {
    /// Whether a crowd has left since memory was last given back.
    pub fn has_ebbed(&mut self, open: usize) -> bool {
        let ebbed = self.high.saturating_sub(open) >= CROWD && open < self.high / 2;
        self.high = match ebbed {
            true => open,
            false => self.high.max(open),
        };
        ebbed
    }
}

/// Gives free memory back. Takes milliseconds, during which threads that allocate may wait: never
/// on a serving thread.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "only the allocator itself can give memory back")]
pub fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time from any thread. It touches only memory
    // that the allocator holds as free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators give back what they have by themselves, or never.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

/// Connections whose memory is worth a look through the heap.
const CROWD: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crowd_that_left_counts_and_only_once() {
        let mut tide = Tide::default();
        for (open, ebbed) in [
            (0, false),
            (400, false),
            (0, false),
            (8000, false),
            (7000, false),
            (3999, true),
            (3900, false),
            (1500, true),
            (1400, false),
            (900, false),
            (0, true),
            (0, false),
        ] {
            assert_eq!(tide.has_ebbed(open), ebbed, "{open}");
        }
    }
}
