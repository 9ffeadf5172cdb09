//! Whether a message may go on as it came, compressed or not.

use super::Params;

/// The contexts of a sender on one leg and of its receiver on the other, compared.
///
/// A sender that compresses knows when it does not; for one that cannot, its receiver's leg is compressed by us.
///
/// What one leg's sender compressed the other leg's receiver can read if its window is at least as large
/// and holds what the sender's does. That is so from the start, as both are empty, and until a message
/// gets there changed or not at all; and it is so again once a whole window of the same bytes has
/// gone through both.
pub struct Passage {
    /// Messages that are not compressed go on as they are.
    leaves_plain: bool,
    /// Compressed messages may ever go on as they are.
    compatible: bool,
    /// Plain bytes that the sender's window holds; 0: messages do not refer to others.
    window: u32,
    /// Plain bytes that went through both contexts since they parted; at most `window`.
    together: u32,
}

impl Passage {
    /// From the sender's params to those of the receiver's leg, in the same direction; `None`: that leg
    /// has no compression.
    pub fn new(sender: Option<Params>, receiver: Option<Params>) -> Passage {
        let compatible = match (sender, receiver) {
            (Some(sender), Some(receiver)) => {
                sender.window_bits <= receiver.window_bits
                    && (receiver.takeover || !sender.takeover)
            }
            _ => false,
        };
        let window = match sender {
            // Not the agreed window: a sender that breaks the agreement and refers further back must not
            // make the receiver find something else there than we do.
            Some(sender) if sender.takeover => WIDEST_WINDOW,
            _ => 0,
        };
        Passage {
            leaves_plain: sender.is_some() || receiver.is_none(),
            compatible,
            window,
            together: window,
        }
    }

    /// Whether the sender's next message can go on as it comes.
    pub fn allows(&self, compressed: bool) -> bool {
        if compressed {
            self.compatible && self.together == self.window
        } else {
            self.leaves_plain
        }
    }

    /// A message of so many plain bytes went on as it came.
    pub fn passed(&mut self, compressed: bool, plain: u64) {
        if compressed {
            self.recompressed(plain);
        }
    }

    /// A message that the sender compressed went on with the same plain bytes, compressed anew.
    pub fn recompressed(&mut self, plain: u64) {
        let plain = u32::try_from(plain).unwrap_or(u32::MAX);
        self.together = self.together.saturating_add(plain).min(self.window);
    }

    /// Something else became of a message that the sender compressed (it was changed, dropped, or sent
    /// plain), or the proxy compressed one that the sender had not.
    pub fn parted(&mut self) {
        self.together = 0;
    }
}

/// As far back as DEFLATE can refer (RFC 1951 §2), bytes.
const WIDEST_WINDOW: u32 = 1 << 15;
