//! Compressed payloads to plain messages (RFC 7692 §7.2.2).

use thiserror::Error;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::history::History;
use super::states::{self, Found, Tag};
use super::{Params, TAIL};

/// The context of one direction's receiver.
///
/// While a message is under way it holds a zlib state of its thread, some 48 KiB; between messages only
/// the window.
pub struct Inflater {
    params: Params,
    /// As it was before the message, and with what came of it since.
    history: History,
    /// Of the message under way.
    state: Option<Box<Inflate>>,
    /// The state that the message before was inflated with.
    tag: Option<Tag>,
    /// Plain bytes of the message so far.
    made: u64,
    /// A block with BFINAL has ended the message's stream: no byte may come behind it.
    ended: bool,
    failed: bool,
}

/// Why a message cannot be inflated; its context is lost, and so is every message after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InflateError {
    #[error("the message is too big once inflated")]
    TooBig,
    #[error("the compressed data is invalid")]
    Invalid,
}

impl Inflater {
    /// Allocates nothing yet.
    pub fn new(params: Params) -> Inflater {
        Inflater {
            params,
            history: History::new(params.window_bits),
            state: None,
            tag: None,
            made: 0,
            ended: false,
            failed: false,
        }
    }

    /// Inflates a piece of one message's payload, appending to `out`.
    ///
    /// `limit` counts the plain bytes of the whole message: one more, and it is too big. Nothing past the
    /// limit is appended, and at most one step of 16 KiB is inflated in vain.
    pub fn push(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        limit: u64,
    ) -> Result<(), InflateError> {
        self.scan(input, limit, |piece| out.extend_from_slice(piece))
    }

    /// As [`push`](Inflater::push), for plain bytes that are only looked at: `sink` gets them in pieces of at
    /// most 16 KiB.
    pub fn scan(
        &mut self,
        input: &[u8],
        limit: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), InflateError> {
        if self.failed {
            return Err(InflateError::Invalid);
        }
        if input.is_empty() {
            return Ok(());
        }
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.begin()?,
        };
        let mut scratch = states::take_scratch();
        let inflated = self.run(&mut state, input, &mut scratch, limit, &mut sink);
        states::put_scratch(scratch);
        match inflated {
            Ok(()) => self.state = Some(state),
            Err(_) => self.fail(state),
        }
        inflated
    }

    /// The message has ended; the next [`push`](Inflater::push) begins another one.
    ///
    /// Everything inflated has been given out by then: what is left is to judge whether the payload was
    /// complete. One without a byte is not: even an empty message is one byte.
    pub fn finish(&mut self) -> Result<(), InflateError> {
        self.made = 0;
        self.ended = false;
        let Some(mut state) = self.state.take() else {
            self.failed = true;
            return Err(InflateError::Invalid);
        };
        if !(is_between_blocks(&mut state) && is_between_bytes(&mut state)) {
            self.fail(state);
            return Err(InflateError::Invalid);
        }
        self.tag = states::put_inflate(state, self.params.takeover);
        Ok(())
    }

    /// A state that knows the context.
    fn begin(&mut self) -> Result<Box<Inflate>, InflateError> {
        let mut state = match states::take_inflate(self.tag.take()) {
            Found::Own(state) => return Ok(state),
            Found::Other(mut state) => {
                state.reset(false);
                state
            }
            Found::Fresh(state) => state,
        };
        let window = self.history.in_order();
        if !window.is_empty() && state.set_dictionary(window).is_err() {
            self.fail(state);
            return Err(InflateError::Invalid);
        }
        Ok(state)
    }

    fn run(
        &mut self,
        state: &mut Inflate,
        mut input: &[u8],
        scratch: &mut [u8],
        limit: u64,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(), InflateError> {
        loop {
            let left = limit.saturating_sub(self.made);
            // One byte more than may come, to see whether it does.
            let room = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX);
            let room = room.min(scratch.len());
            let step = step(state, input, &mut scratch[..room], InflateFlush::NoFlush)?;
            input = &input[step.used..];
            let made = &scratch[..step.made];
            if made.len() as u64 > left {
                return Err(InflateError::TooBig);
            }
            if self.ended && !made.is_empty() {
                // Some receivers stop reading where a stream ends: they would see less than we do.
                return Err(InflateError::Invalid);
            }
            self.made += made.len() as u64;
            if self.params.takeover {
                self.history.push(made);
            }
            if !made.is_empty() {
                sink(made);
            }
            if step.status == Status::StreamEnd {
                // A block with BFINAL (§7.2.3.4) ends a DEFLATE stream; what follows is another one,
                // which cannot refer to the first.
                state.reset(false);
                self.history.clear();
                self.ended = true;
            } else if step.used == 0 && step.made == 0 && !input.is_empty() {
                return Err(InflateError::Invalid);
            }
            if input.is_empty() && step.made < room {
                return Ok(());
            }
        }
    }

    fn fail(&mut self, state: Box<Inflate>) {
        self.failed = true;
        self.history.clear();
        states::put_inflate(state, false);
    }
}

struct Step {
    used: usize,
    made: usize,
    status: Status,
}

fn step(
    state: &mut Inflate,
    input: &[u8],
    out: &mut [u8],
    flush: InflateFlush,
) -> Result<Step, InflateError> {
    let (used, made) = (state.total_in(), state.total_out());
    let status = state
        .decompress(input, out, flush)
        .map_err(|_| InflateError::Invalid)?;
    Ok(Step {
        used: (state.total_in() - used) as usize,
        made: (state.total_out() - made) as usize,
        status,
    })
}

/// Whether the tail, which is used up, ends a block without a byte coming out: told to, zlib stops between
/// two blocks, though there is more.
fn is_between_blocks(state: &mut Inflate) -> bool {
    let step = step(state, &TAIL_AND_MORE, &mut [0; 1], InflateFlush::Block);
    step.is_ok_and(|step| (step.used, step.made) == (TAIL.len(), 0) && step.status == Status::Ok)
}

/// Whether no bit of the last byte is left over. A payload may be cut inside a block so that the tail
/// becomes the end of that block instead of one of its own; what is left of the tail then are ones.
///
/// Between two bytes an empty block changes nothing. Behind one that is left over it is the stream's last
/// block, behind two likewise, and behind three it is no block.
fn is_between_bytes(state: &mut Inflate) -> bool {
    let step = step(state, &EMPTY_BLOCK, &mut [0; 1], InflateFlush::NoFlush);
    step.is_ok_and(|step| {
        (step.used, step.made) == (EMPTY_BLOCK.len(), 0) && step.status == Status::Ok
    })
}

/// The tail, and a byte to stop before.
const TAIL_AND_MORE: [u8; 5] = [0x00, 0x00, 0xff, 0xff, 0x00];
/// Without compression, not the last one.
const EMPTY_BLOCK: [u8; 5] = [0x00, 0x00, 0x00, 0xff, 0xff];
