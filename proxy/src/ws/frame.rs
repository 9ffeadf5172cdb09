//! Following frame heads (RFC 6455 §5.2) through a byte stream without touching payloads.
//!
//! A tunnel shows every chunk it copies to a [`Follower`], however the chunks are cut. The follower
//! reads the 2 to 14 bytes of each frame head, skips payloads in one step, and so knows how many
//! messages have passed, the close code, and whether a frame of our own may be put in here.
//!
//! It buffers nothing and allocates nothing. After a [`Violation`] it is *lost*: it reports the
//! violation once and counts nothing more, for no byte that follows can be trusted to be a frame
//! head. After a Close frame it ignores what follows (§5.5.1). Neither stops the bytes: that is the
//! tunnel's decision.

use super::control::CloseCode;
use super::head::{
    CLOSE, Expect, FIN, LENGTH, LENGTH_16, LENGTH_64, OPCODE, check_first, check_length,
    check_second,
};
pub use super::head::{Side, Violation};

/// Counts the frames of one direction of a connection.
#[derive(Debug, Clone)]
pub struct Follower {
    messages: u64,
    /// Payload bytes still to come; while the head is read, its length so far.
    payload_left: u64,
    mask: [u8; 4],
    close: u16,
    stage: Stage,
    /// Bytes of the present stage that are still missing.
    stage_left: u8,
    /// The first byte of the frame: FIN, reserved bits, opcode.
    first: u8,
    /// The second byte of the frame: mask bit and 7 bits of length.
    second: u8,
    side: Side,
    rsv1_allowed: bool,
    in_message: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
    Length,
    Mask,
    /// The first two bytes of a Close frame's payload.
    CloseCode,
    Payload,
    Closed,
    Lost,
}

impl Follower {
    /// `rsv1_allowed`: the handshake settled permessage-deflate, whose frames set RSV1 on the first
    /// frame of a data message and nowhere else (RFC 7692 §6).
    pub fn new(side: Side, rsv1_allowed: bool) -> Follower {
        Follower {
            messages: 0,
            payload_left: 0,
            mask: [0; 4],
            close: 0,
            stage: Stage::First,
            stage_left: 0,
            first: 0,
            second: 0,
            side,
            rsv1_allowed,
            in_message: false,
        }
    }

    /// One that follows nothing: lost from the start.
    pub fn blind(side: Side) -> Follower {
        Follower {
            stage: Stage::Lost,
            ..Follower::new(side, false)
        }
    }

    /// Follows the next bytes of the stream, cut anywhere.
    ///
    /// Frames before a violation are counted; the violation is returned by one call only.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let used = self.follow_frame(bytes)?;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Follows `bytes` to the end of the present frame at most, and says how many bytes that was.
    ///
    /// So a caller that waits to put in a frame of its own finds the next boundary inside a chunk:
    /// it passes on that many bytes, then looks at [`Follower::at_boundary`]. Never 0 for a chunk
    /// that is not empty; a closed or lost follower uses up everything.
    pub fn follow_frame(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            match self.stage {
                Stage::Closed | Stage::Lost => return Ok(bytes.len()),
                Stage::Payload => {
                    let rest = (bytes.len() - at) as u64;
                    let skipped = self.payload_left.min(rest);
                    self.payload_left -= skipped;
                    at += skipped as usize;
                    if self.payload_left == 0 {
                        self.end_frame();
                        return Ok(at);
                    }
                    continue;
                }
                Stage::First => {
                    self.first_byte(byte).map_err(|v| self.lose(v))?;
                    self.stage = Stage::Second;
                }
                Stage::Second => self.second_byte(byte).map_err(|v| self.lose(v))?,
                Stage::Length => {
                    self.payload_left = self.payload_left << 8 | u64::from(byte);
                    self.stage_left -= 1;
                    if self.stage_left == 0 {
                        self.length_known().map_err(|v| self.lose(v))?;
                    }
                }
                Stage::Mask => {
                    self.mask[usize::from(4 - self.stage_left)] = byte;
                    self.stage_left -= 1;
                    if self.stage_left == 0 {
                        self.head_done();
                    }
                }
                Stage::CloseCode => {
                    let mask = match self.side {
                        Side::FromClient => self.mask[usize::from(2 - self.stage_left)],
                        Side::FromServer => 0,
                    };
                    self.close = self.close << 8 | u16::from(byte ^ mask);
                    self.payload_left -= 1;
                    self.stage_left -= 1;
                    if self.stage_left == 0 {
                        self.stage = Stage::Payload;
                    }
                }
            }
            at += 1;
            if self.stage == Stage::Payload && self.payload_left == 0 {
                self.end_frame();
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// Data messages that have passed whole.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The code of the Close frame that has passed, [`CloseCode::NO_STATUS`] if it had none.
    ///
    /// As sent: whether it [may be sent](CloseCode::may_be_sent) is not checked.
    pub fn close(&self) -> Option<CloseCode> {
        (self.stage == Stage::Closed).then_some(CloseCode(self.close))
    }

    /// Whether a control frame may be put in here: between two frames, and no Close has passed.
    ///
    /// Between two fragments of a message counts: control frames may stand there (§5.4).
    pub fn at_boundary(&self) -> bool {
        self.stage == Stage::First
    }

    /// Whether a fragmented message has begun and not ended: a data frame may not be put in.
    pub fn in_message(&self) -> bool {
        self.in_message
    }

    /// Whether a violation has ended the counting.
    pub fn is_lost(&self) -> bool {
        self.stage == Stage::Lost
    }

    fn first_byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.first = byte;
        let expect = Expect {
            side: self.side,
            rsv1_allowed: self.rsv1_allowed,
            in_message: self.in_message,
        };
        check_first(byte, expect).map(|_| ())
    }

    fn second_byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.second = byte;
        check_second(self.first, byte, self.side)?;
        self.stage = Stage::Length;
        self.payload_left = 0;
        match byte & LENGTH {
            LENGTH_16 => self.stage_left = 2,
            LENGTH_64 => self.stage_left = 8,
            length => {
                self.payload_left = u64::from(length);
                self.length_known()?;
            }
        }
        Ok(())
    }

    fn length_known(&mut self) -> Result<(), Violation> {
        check_length(self.first, self.second, self.payload_left)?;
        match self.side {
            Side::FromClient => {
                self.stage = Stage::Mask;
                self.stage_left = 4;
            }
            Side::FromServer => self.head_done(),
        }
        Ok(())
    }

    fn head_done(&mut self) {
        self.stage = Stage::Payload;
        if self.first & OPCODE == CLOSE {
            if self.payload_left == 0 {
                self.close = CloseCode::NO_STATUS.0;
            } else {
                self.stage = Stage::CloseCode;
                self.stage_left = 2;
            }
        }
    }

    fn end_frame(&mut self) {
        self.stage = Stage::First;
        if self.first & OPCODE == CLOSE {
            self.stage = Stage::Closed;
        } else if !self.is_control() {
            self.in_message = self.first & FIN == 0;
            self.messages += u64::from(!self.in_message);
        }
    }

    fn is_control(&self) -> bool {
        self.first & OPCODE >= CLOSE
    }

    fn lose(&mut self, violation: Violation) -> Violation {
        self.stage = Stage::Lost;
        violation
    }
}

#[cfg(test)]
pub(super) mod tests;
