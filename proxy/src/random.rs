//! Random bytes that nobody can guess, cheap enough for one request each.
//!
//! They come from the operating system, a batch at a time and thread. No generator of our own stands
//! between: a first use costs no seeding, and there is no state that could leak.

use std::cell::RefCell;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` random bytes, at most 256.
///
/// # Errors
/// When the operating system has none to give.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    const { assert!(N <= BATCH_SIZE) };
    BATCH.with_borrow_mut(Batch::take)
}

struct Batch {
    bytes: [u8; BATCH_SIZE],
    used: usize,
}

impl Batch {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        if N > BATCH_SIZE - self.used {
            if getrandom(&mut self.bytes, GetRandomFlags::empty())? < BATCH_SIZE {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + N];
        let mut bytes = [0; N];
        bytes.copy_from_slice(taken);
        // Given out once, and kept nowhere.
        taken.fill(0);
        self.used += N;
        Ok(bytes)
    }
}

/// What is always given whole (getrandom(2)); sixteen request ids.
const BATCH_SIZE: usize = 256;

thread_local! {
    static BATCH: RefCell<Batch> = const {
        RefCell::new(Batch { bytes: [0; BATCH_SIZE], used: BATCH_SIZE })
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn nothing_is_given_twice_over_batches() {
        let mut seen = HashSet::new();
        for _ in 0..BATCH_SIZE {
            assert!(seen.insert(bytes::<12>().unwrap()));
        }
    }
}
