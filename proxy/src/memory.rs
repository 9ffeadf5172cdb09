//! What the system's allocator keeps: enough for a worker's next turn, and not what a crowd has left.
//!
//! By itself it gives back the end of a thread's memory beyond 128 KiB, and takes it again, page by page,
//! in the next turn: with fifty messages of 16 KiB under way a quarter of all CPU time. So it is made to keep
//! more. How much is not laid down: then what is larger would come from the system anew each time, which
//! takes three quarters of the time of a message of 1 MiB. It goes on to learn from what is given back.
//!
//! What was freed between blocks that stay it keeps for good. Of a crowd that comes at once that is
//! what its handshakes took: as much again as two thousand WebSockets over HTTP/2 need from then on. Of
//! eight thousand connections that leave it is some 60 MB. Nobody else could use it, so it is given back, and
//! only then: while connections come and go their memory is soon used again.

use std::hint::black_box;

/// Watches how many connections there are, and says when memory is worth giving back.
#[derive(Debug, Default)]
pub struct Tide {
    /// How many there were when memory was last given back.
    mark: usize,
    /// The most since then.
    high: usize,
    /// How many there were at the last look.
    last: usize,
}

impl Tide {
    /// Whether a crowd has come and stands still, or has left, since memory was last given back. Asked at
    /// regular times.
    pub fn has_turned(&mut self, open: usize) -> bool {
        let still = open <= std::mem::replace(&mut self.last, open);
        self.high = self.high.max(open);
        let left = self.high - open >= CROWD && open < self.high / 2;
        // In proportion, so that who grows by and by does not look through all of the heap each time.
        let came = still && open.saturating_sub(self.mark) >= CROWD.max(self.mark / 2);
        if left || came {
            self.mark = open;
            self.high = open;
        }
        left || came
    }
}

/// Makes the allocator keep what one turn of a thread frees for its next, up to [`RESERVE`] at first. For the
/// whole process, once, before threads are started.
///
/// glibc's measure is the largest block that it had from the system alone and got back, 32 MiB at most: from then
/// on it has such blocks at hand, and keeps twice as much at the end of each thread's memory. Others have measures of
/// their own.
pub fn keep_a_reserve() {
    drop(black_box(Vec::<u8>::with_capacity(RESERVE / 2)));
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

/// Bytes that stay at the end of a thread's memory. Half of it must be more than the 128 KiB below which a block is
/// never had from the system alone.
const RESERVE: usize = 1 << 20;
/// Connections whose memory is worth a look through the heap.
const CROWD: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that a thread has had to get from the system so far.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        let field = behind_name.split_whitespace().nth(7).unwrap();
        field.parse().unwrap()
    }

    /// Of turns each of which takes so many blocks, writes to them and frees them.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn faults_of_a_turn(count: usize, size: usize) -> u64 {
        let turn = move || drop(black_box(vec![vec![1_u8; size]; count]));
        let turns = move || {
            (0..5).for_each(|_| turn());
            let before = faults();
            (0..100).for_each(|_| turn());
            (faults() - before) / 100
        };
        std::thread::spawn(turns).join().unwrap()
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_turn_finds_the_memory_of_the_one_before() {
        keep_a_reserve();
        // Of 200, 256 and 1024 pages.
        for (count, size) in [(50, 16 << 10), (1, 1 << 20), (1, 4 << 20)] {
            let faults = faults_of_a_turn(count, size);
            assert!(
                faults < 20,
                "{count} blocks of {size} bytes: {faults} faults"
            );
        }
    }

    #[test]
    fn a_crowd_counts_when_it_stands_still_or_has_left_and_only_once() {
        let mut tide = Tide::default();
        for (open, turned) in [
            (0, false),
            (400, false),
            (400, false),
            (0, false),
            // Still coming, then there.
            (5000, false),
            (8000, false),
            (7990, true),
            (8000, false),
            (7000, false),
            (3999, true),
            (3900, false),
            // Too few for so many, then enough.
            (5500, false),
            (5500, false),
            (6000, false),
            (6000, true),
            (2500, true),
            (1100, true),
            (900, false),
            (0, true),
            (0, false),
        ] {
            assert_eq!(tide.has_turned(open), turned, "{open}");
        }
    }

    #[test]
    fn a_swell_that_is_no_crowd_costs_nothing() {
        let mut tide = Tide::default();
        assert!(!tide.has_turned(1000));
        assert!(tide.has_turned(1000));
        for open in [1400, 900, 1400, 1400, 800, 800, 1400, 1400] {
            assert!(!tide.has_turned(open), "{open}");
        }
    }
}
