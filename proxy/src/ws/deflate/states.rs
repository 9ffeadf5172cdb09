//! zlib's states, kept by the thread for whoever compresses next.
//!
//! A shelf holds a few of them, each under a tag that its last user keeps: who comes back in time finds
//! a state that knows the context. The one that has waited longest goes to somebody else.
//!
//! Tags are unique in the process, so that no context ever takes another one's state for its own, whatever
//! thread it moves to.

use std::cell::RefCell;
use std::thread::ThreadId;

use zlib_rs::{Deflate, DeflateConfig, Inflate};

/// Names one state on one thread's shelf, as its last user left it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    thread: ThreadId,
    serial: u64,
}

/// A state for a context that comes with the tag of the one before.
pub(super) enum Found<S> {
    /// As it was left.
    Own(S),
    /// Somebody else's, or nobody's: to be reset.
    Other(S),
    Fresh(S),
}

/// A compressor and what it was made for.
pub(super) struct Compressor {
    pub(super) zlib: Deflate,
    window_bits: u8,
    level: u8,
}

struct Shelf<S> {
    thread: ThreadId,
    serial: u64,
    limit: usize,
    /// In the order they came; those without a tag are in front.
    states: Vec<(Option<u64>, S)>,
}

struct Shelves {
    // Boxed: it is moved at each message.
    inflate: Shelf<Box<Inflate>>,
    deflate: Shelf<Box<Compressor>>,
    scratch: Vec<u8>,
}

/// A state to inflate with, for any window.
pub(super) fn take_inflate(tag: Option<Tag>) -> Found<Box<Inflate>> {
    with(|shelves| {
        shelves.inflate.take(
            tag,
            |_| true,
            || Box::new(Inflate::new(false, WIDEST_WINDOW)),
        )
    })
}

/// Gives a state back; with `keep`, under the tag that finds it again.
pub(super) fn put_inflate(state: Box<Inflate>, keep: bool) -> Option<Tag> {
    with(|shelves| shelves.inflate.put(state, keep))
}

/// A state to deflate with, for a window of 9 to 15 bits and a level of 1 to 9.
pub(super) fn take_deflate(tag: Option<Tag>, window_bits: u8, level: u8) -> Found<Box<Compressor>> {
    with(|shelves| {
        shelves.deflate.take(
            tag,
            |state| (state.window_bits, state.level) == (window_bits, level),
            || Box::new(Compressor::new(window_bits, level)),
        )
    })
}

/// Gives a state back; with `keep`, under the tag that finds it again.
pub(super) fn put_deflate(state: Box<Compressor>, keep: bool) -> Option<Tag> {
    with(|shelves| shelves.deflate.put(state, keep))
}

/// The thread's scratch bytes, [`SCRATCH`] of them, to be given back.
pub(super) fn take_scratch() -> Vec<u8> {
    let mut scratch = with(|shelves| std::mem::take(&mut shelves.scratch));
    scratch.resize(SCRATCH, 0);
    scratch
}

pub(super) fn put_scratch(scratch: Vec<u8>) {
    with(|shelves| shelves.scratch = scratch);
}

fn with<T>(work: impl FnOnce(&mut Shelves) -> T) -> T {
    SHELVES.with_borrow_mut(work)
}

impl Compressor {
    fn new(window_bits: u8, level: u8) -> Compressor {
        let config = DeflateConfig {
            // Raw, without zlib's own head.
            window_bits: -i32::from(window_bits),
            mem_level: MEM_LEVEL,
            ..DeflateConfig::new(i32::from(level))
        };
        Compressor {
            zlib: Deflate::new_with_config(config),
            window_bits,
            level,
        }
    }
}

impl<S> Shelf<S> {
    fn new(limit: usize) -> Shelf<S> {
        Shelf {
            thread: std::thread::current().id(),
            serial: 0,
            limit,
            states: Vec::new(),
        }
    }

    fn take(
        &mut self,
        tag: Option<Tag>,
        fits: impl Fn(&S) -> bool,
        make: impl FnOnce() -> S,
    ) -> Found<S> {
        if let Some(tag) = tag.filter(|tag| tag.thread == self.thread) {
            let own = |(serial, _): &(Option<u64>, S)| *serial == Some(tag.serial);
            if let Some(place) = self.states.iter().rposition(own) {
                return Found::Own(self.states.remove(place).1);
            }
        }
        let free = |(serial, state): &(Option<u64>, S)| serial.is_none() && fits(state);
        let place = match self.states.iter().position(free) {
            None if self.states.len() >= self.limit => {
                self.states.iter().position(|(_, state)| fits(state))
            }
            place => place,
        };
        match place {
            Some(place) => Found::Other(self.states.remove(place).1),
            None => Found::Fresh(make()),
        }
    }

    fn put(&mut self, state: S, keep: bool) -> Option<Tag> {
        if self.states.len() >= self.limit {
            self.states.remove(0);
        }
        if !keep {
            self.states.insert(0, (None, state));
            return None;
        }
        self.serial += 1;
        self.states.push((Some(self.serial), state));
        Some(Tag {
            thread: self.thread,
            serial: self.serial,
        })
    }
}

thread_local! {
    static SHELVES: RefCell<Shelves> = RefCell::new(Shelves {
        inflate: Shelf::new(INFLATE_STATES),
        deflate: Shelf::new(DEFLATE_STATES),
        scratch: Vec::new(),
    });
}

/// Of a state that inflates whatever any window may hold; zlib keeps room for the widest anyway.
const WIDEST_WINDOW: u8 = 15;
/// 48 KiB each. One that is not found costs a copy of the window, so that few are enough.
const INFLATE_STATES: usize = 16;
/// 180 KiB each with a window of 12 bits, 290 with 15: at most 5 MiB a thread. One that is not found costs
/// to clear 128 KiB of hash table and to hash the window; but more of them than a core's cache holds
/// would be no faster to use than that.
const DEFLATE_STATES: usize = 16;
/// 4,096 symbols a block, in 28 KiB: twice as many make no JSON of 16 KiB smaller.
const MEM_LEVEL: i32 = 6;
/// Bytes that are inflated at a time: what a bomb gets beyond its limit.
const SCRATCH: usize = 16 * 1024;
