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
        if self.params.window_bits < SMALLEST_WINDOW || plain.len() < SHORTEST {
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
        // With the tail, no more than that is of use.
        out.resize(start + plain.len() + TAIL.len(), 0);
        let status = state
            .zlib
            .compress(plain, &mut out[start..], DeflateFlush::SyncFlush);
        let used = (state.zlib.total_in() - used) as usize;
        let made = (state.zlib.total_out() - made) as usize;
        let end = start + made;
        let smaller = status == Ok(Status::Ok)
            && used == plain.len()
            && made < plain.len() + TAIL.len()
            && out[start..end].ends_with(&TAIL);
        out.truncate(if smaller { end - TAIL.len() } else { start });
        self.tag = states::put_deflate(state, smaller && self.params.takeover);
        if smaller && self.params.takeover {
            self.history.push(plain);
        }
        smaller
    }

    /// Begins anew with an empty context: compressed messages reached the receiver without this deflater,
    /// so that what it remembers stands elsewhere in the receiver's window.
    pub fn forget(&mut self) {
        self.history.clear();
        self.tag = None;
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
