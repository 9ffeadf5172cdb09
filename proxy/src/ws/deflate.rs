//! permessage-deflate (RFC 7692): what a message's payload is once compressed, and back.
//!
//! Each direction of each leg has a context of its own: an [`Inflater`] for what its peer sends, a
//! [`Deflater`] for what we compress, and a [`Passage`] that knows whether a compressed message may go
//! from one leg to the other as it came.
//!
//! A context that idles is its window and nothing else: the last bytes that were said, no more than
//! the window holds and none where contexts are not taken over. zlib's states, fifty KiB to inflate and
//! hundreds to deflate, belong to the thread (`states`). A context that finds the state it used last goes
//! on with it; else it takes another and gives it the window as its dictionary. Both come to the same.
//!
//! It refuses a payload that does not end where §7.2.1 has it end. To accept one would leave us at
//! another bit of the stream than the receiver whom it is passed on to, who would then read other
//! messages than we do.

mod deflater;
mod history;
mod inflater;
mod passage;
mod states;

pub use deflater::Deflater;
pub use inflater::{InflateError, Inflater};
pub use passage::Passage;

/// How one direction of a leg is compressed (§7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// The base-2 logarithm of how far back the sender may refer, 8 to 15.
    pub window_bits: u8,
    /// Messages may refer to the ones before them.
    pub takeover: bool,
}

/// What a leg has settled, for each of its directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    pub from_client: Params,
    pub from_server: Params,
}

/// What each leg has settled; `None`: it is not compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Legs {
    pub downstream: Option<Negotiated>,
    pub upstream: Option<Negotiated>,
}

impl Params {
    /// The same with a window of at most so many bits: a sender may always use less than was agreed.
    pub fn within(self, window_bits: u8) -> Params {
        Params {
            window_bits: self.window_bits.min(window_bits),
            ..self
        }
    }
}

/// What a sender takes off the end of each message and a receiver puts back (§7.2.1, §7.2.2): the
/// lengths of an empty block without compression, whose head stays.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

#[cfg(test)]
mod tests;
