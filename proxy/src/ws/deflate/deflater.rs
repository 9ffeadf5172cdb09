//! Plain messages to compressed payloads (RFC 7692 §7.2.1).

use zlib_rs::{DeflateFlush, Status};

use super::history::History;
use super::states::{self, Found, Tag};
use super::{Params, TAIL};

/// The context of one direction's sender: ours. Between messages it holds only the window's end.
pub struct Deflater {
    params: Params,
    level: u8,
    /// May be less than the receiver has.
    history: History,
    /// The state that the message before was deflated with.
    tag: Option<Tag>,
}

impl Deflater {
    /// Allocates nothing yet. `level` is zlib's, 1 to 9.
    pub fn new(params: Params, level: u8) -> Deflater {
        Deflater {
            params,
            level: level.clamp(1, 9),
            history: History::new(params.window_bits.min(KEPT_BITS)),
            tag: None,
        }
    }

    /// Compresses one whole message and appends its payload to `out`.
    ///
    /// False: it would not get smaller, or the window has 8 bits, which zlib cannot write. Then nothing
    /// was appended, the context is as before, and the message goes plain, which is always allowed.
    pub fn message(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        plain.len() >= SHORTEST && self.deflate(plain, plain.len(), out)
    }

    /// As [`message`](Deflater::message), for one that its sender had compressed: it may get a little larger,
    /// as long as the contexts of sender and receiver stay together.
    pub fn recompress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        if plain.is_empty() {
            // zlib has nothing to say about it (§7.2.3.6).
            out.push(0x00);
            return true;
        }
        self.deflate(plain, plain.len() + plain.len() / 4 + SLACK, out)
    }

    /// Begins anew with an empty context: compressed messages reached the receiver without this deflater,
    /// so that what it remembers stands elsewhere in the receiver's window.
    pub fn forget(&mut self) {
        self.history.clear();
        self.tag = None;
    }

    /// Compresses a message to fewer than `limit` bytes, or not at all.
    fn deflate(&mut self, plain: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        if self.params.window_bits < SMALLEST_WINDOW {
            return false;
        }
        let tag = self.tag.take();
        let mut state = match states::take_deflate(tag, self.params.window_bits, self.level) {
            Found::Own(state) => state,
            Found::Other(mut state) => {
                state.zlib.reset();
                self.prime(state)
            }
            Found::Fresh(state) => self.prime(state),
        };
        let start = out.len();
        let used = state.zlib.total_in();
        let made = state.zlib.total_out();
        let room = limit + TAIL.len();
        out.resize(start + room, 0);
        let status = state
            .zlib
            .compress(plain, &mut out[start..], DeflateFlush::SyncFlush);
        let used = (state.zlib.total_in() - used) as usize;
        let made = (state.zlib.total_out() - made) as usize;
        let end = start + made;
        // With room left, all that zlib has to say about the message has been said.
        let fits = status == Ok(Status::Ok)
            && used == plain.len()
            && made < room
            && out[start..end].ends_with(&TAIL);
        out.truncate(if fits { end - TAIL.len() } else { start });
        self.tag = states::put_deflate(state, fits && self.params.takeover);
        if fits && self.params.takeover {
            self.history.push(plain);
        }
        fits
    }

    fn prime(&mut self, mut state: Box<states::Compressor>) -> Box<states::Compressor> {
        let window = self.history.in_order();
        // An empty context is right as well, so that nothing depends on it.
        if !window.is_empty() && state.zlib.set_dictionary(window).is_err() {
            state.zlib.reset();
        }
        state
    }
}

/// How much of the window is kept, in bits, for when the state has gone to somebody else: to hash a KiB
/// of it anew costs as much as to compress 150 bytes, at each message.
const KEPT_BITS: u8 = 12;
/// In bits; zlib makes 9 of 8.
const SMALLEST_WINDOW: u8 = 9;
/// Bytes of a message that may get smaller: a block's head and end and one short match take four.
const SHORTEST: usize = 5;
/// By what a message may grow besides a quarter of its size: a block's head and end, a partial byte.
const SLACK: usize = 16;
