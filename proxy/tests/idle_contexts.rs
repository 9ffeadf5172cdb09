//! What an idle context of permessage-deflate keeps of the heap, counted at the allocator: its window, as far as
//! something was said, and nothing else. zlib's states belong to the thread.
//!
//! A test binary of its own, as it counts whatever its process allocates: one test, on one thread.

#![expect(unsafe_code, reason = "an allocator is unsafe to be")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sluicegate::ws::deflate::{Deflater, Inflater, Params};

/// The system's allocator, and how many bytes of it are taken.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: each call goes on to the system's allocator as it came; what is counted besides changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises, passed on; every block came from there.
        unsafe { System.dealloc(block, layout) }
    }
}

/// In bytes.
struct Kept {
    inflaters: usize,
    deflaters: usize,
    /// zlib's, on the thread's shelves.
    states: usize,
}

/// Both ends of one direction.
struct Pair {
    deflater: Deflater,
    inflater: Inflater,
}

impl Pair {
    fn new(params: Params) -> Pair {
        Pair {
            deflater: Deflater::new(params, 6),
            inflater: Inflater::new(params),
        }
    }

    fn carry(&mut self, message: &[u8]) {
        let (mut payload, mut plain) = (Vec::new(), Vec::new());
        assert!(self.deflater.message(message, &mut payload));
        let limit = message.len() as u64;
        self.inflater.push(&payload, &mut plain, limit).unwrap();
        self.inflater.finish().unwrap();
        assert_eq!(plain, message);
    }
}

#[test]
fn an_idle_context_keeps_its_window_and_nothing_else() {
    // Not enough for any window, and too much for all.
    let short = b"a few words, a few words".as_slice();
    let long = b"what was said long ago is said again. ".repeat(2000);
    // What an inflater and a deflater keep; of that, a deflater no more than 12 bits. And their thread, KiB: 16 states
    // to inflate, of 47, and 16 to deflate, and what it inflates into.
    for (window_bits, takeover, message, inflater, deflater, states) in [
        (15, true, long.as_slice(), 32 << 10, 4 << 10, 16 * 334 + 16),
        (12, true, &long, 4 << 10, 4 << 10, 16 * 222 + 16),
        (9, true, &long, 512, 512, 16 * 208 + 16),
        (15, true, short, 256, 256, 16 * 334 + 16),
        (15, false, &long, 0, 0, 334 + 16),
    ] {
        let told = format!(
            "{window_bits} bits, takeover {takeover}, {} B",
            message.len()
        );
        let params = Params {
            window_bits,
            takeover,
        };
        let message = message.to_vec();
        // A thread of its own, whose states are nobody else's.
        let measuring = thread::spawn(move || measure(params, &message));
        let kept = measuring.join().unwrap();
        assert_eq!(kept.inflaters, inflater * PAIRS, "{told}");
        assert_eq!(kept.deflaters, deflater * PAIRS, "{told}");
        let kib = kept.states >> 10;
        assert!(kib.abs_diff(states) <= 16, "{told}: {kib} KiB of states");
    }
}

/// What many idle pairs keep, and what their thread does.
fn measure(params: Params, message: &[u8]) -> Kept {
    let before = taken();
    // So that the thread has all the states that it ever keeps.
    for _ in 0..PAIRS {
        Pair::new(params).carry(message);
    }
    let states = taken() - before;
    let mut pairs: Vec<Pair> = (0..PAIRS).map(|_| Pair::new(params)).collect();
    let fresh = taken();
    for _ in 0..2 {
        for pair in &mut pairs {
            pair.carry(message);
        }
    }
    let idle = taken();
    for pair in &mut pairs {
        pair.deflater.forget();
    }
    let without_deflaters = taken();
    Kept {
        inflaters: without_deflaters - fresh,
        deflaters: idle - without_deflaters,
        states,
    }
}

fn taken() -> usize {
    TAKEN.load(Ordering::Relaxed)
}

/// Several times as many as a thread keeps states.
const PAIRS: usize = 100;
