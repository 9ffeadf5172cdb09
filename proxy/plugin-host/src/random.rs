//! Random bytes for guests, and for the host's own keys.
//!
//! They come from the operating system: short ones out of a batch that each thread keeps, as a
//! system call for each would cost more than the bytes; long ones straight. A batch's bytes are given
//! out once and wiped, so there is no state that could leak.

use std::cell::RefCell;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// What a guest may ask for at once, bytes.
pub const MAX_LEN: usize = 4096;

/// As many random bytes, at most [`MAX_LEN`].
///
/// # Errors
/// When the operating system has none to give.
pub fn bytes(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.min(MAX_LEN)];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// Fills all of `bytes`.
///
/// # Errors
/// As for [`bytes`]; what `bytes` then holds is not to be used.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    if bytes.len() <= BATCHED_LEN {
        return BATCH.with_borrow_mut(|batch| batch.take(bytes));
    }
    from_system(bytes)
}

struct Batch {
    bytes: [u8; BATCH_SIZE],
    used: usize,
}

impl Batch {
    fn take(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.len() > BATCH_SIZE - self.used {
            // Until it is full again, nothing of it may be given out.
            self.used = BATCH_SIZE;
            from_system(&mut self.bytes)?;
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + bytes.len()];
        bytes.copy_from_slice(taken);
        taken.fill(0);
        self.used += bytes.len();
        Ok(())
    }
}

fn from_system(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(given) => bytes = &mut bytes[given..],
            // More than 256 bytes may be interrupted by a signal.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

const BATCH_SIZE: usize = 1024;
/// From here on a system call is small beside the bytes.
const BATCHED_LEN: usize = 64;

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
        for _ in 0..4 * BATCH_SIZE / 16 {
            assert!(seen.insert(bytes(16).unwrap()));
        }
    }

    #[test]
    fn every_length_is_filled_to_its_end_and_bounded() {
        for len in [0, 1, 7, BATCHED_LEN, BATCHED_LEN + 1, 1000, MAX_LEN] {
            let given = bytes(len).unwrap();
            assert_eq!(given.len(), len);
            // 16 zero bytes at the end are as likely as a broken machine.
            let tail = &given[len - len.min(16)..];
            assert!(len < 16 || tail.iter().any(|byte| *byte != 0), "{len}");
        }
        assert_eq!(bytes(usize::MAX).unwrap().len(), MAX_LEN);
    }

    #[test]
    fn a_batch_wipes_what_it_gave() {
        bytes(BATCHED_LEN).unwrap();
        BATCH.with_borrow(|batch| {
            assert!(batch.used >= BATCHED_LEN);
            assert!(batch.bytes[..batch.used].iter().all(|byte| *byte == 0));
        });
    }
}
