//! Frames as they are on the wire (RFC 6455 §5.2), right ones and wrong ones.

use std::fmt;
use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// RSV1, by which a message is compressed (RFC 7692 §6).
pub const COMPRESSED: u8 = 4;

#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// RSV1 to RSV3, the first one being the highest bit.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame {
            fin: true,
            rsv: 0,
            opcode,
            mask: None,
            payload: payload.into(),
        }
    }

    /// A Close with this code and reason.
    pub fn close(code: u16, reason: &str) -> Frame {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        Frame::new(CLOSE, payload)
    }

    pub fn masked(self, mask: [u8; 4]) -> Frame {
        Frame {
            mask: Some(mask),
            ..self
        }
    }

    /// The first or a middle frame of a message.
    pub fn unfinished(self) -> Frame {
        Frame { fin: false, ..self }
    }

    pub fn with_rsv(self, rsv: u8) -> Frame {
        Frame { rsv, ..self }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut wire = self.head_with_length(self.payload.len() as u64);
        let start = wire.len();
        wire.extend_from_slice(&self.payload);
        if let Some(mask) = self.mask {
            apply(&mut wire[start..], mask);
        }
        wire
    }

    /// Its head, with a length that need not be the payload's.
    pub fn head_with_length(&self, length: u64) -> Vec<u8> {
        let form = match length {
            0..=125 => LengthForm::Short,
            126..=0xffff => LengthForm::Two,
            _ => LengthForm::Eight,
        };
        self.head(length, form)
    }

    /// Its head, with its length in a form that need not be the shortest.
    pub fn head(&self, length: u64, form: LengthForm) -> Vec<u8> {
        let mut wire = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        match form {
            LengthForm::Short => wire.push(masked | length as u8),
            LengthForm::Two => {
                wire.push(masked | 126);
                wire.extend((length as u16).to_be_bytes());
            }
            LengthForm::Eight => {
                wire.push(masked | 127);
                wire.extend(length.to_be_bytes());
            }
        }
        wire.extend(self.mask.iter().flatten());
        wire
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame {
            fin,
            rsv,
            opcode,
            mask,
            payload,
        } = self;
        let shown = shown(payload);
        write!(f, "Frame {{ {fin} {rsv} {opcode} {mask:?} {shown} }}")
    }
}

/// Bytes as a failure tells them: not all of many.
pub(super) fn shown(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
    format!("{} bytes: {start:?}", bytes.len())
}

/// How a head says a length.
#[derive(Debug, Clone, Copy)]
pub enum LengthForm {
    Short,
    Two,
    Eight,
}

/// Reads a frame, with its bytes as they came; `None`: the stream ended between two.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Frame, Vec<u8>)>> {
    let mut wire = vec![0; 2];
    if stream.read(&mut wire[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut wire[1..]).await?;
    let (first, second) = (wire[0], wire[1]);
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask_len = usize::from(second >> 7) * 4;
    wire.resize(2 + extended + mask_len, 0);
    stream.read_exact(&mut wire[2..]).await?;
    let length = match extended {
        0 => u64::from(second & 0x7f),
        _ => wire[2..2 + extended]
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length < MOST);
    let length = length.ok_or(Error::new(ErrorKind::InvalidData, "a giant frame"))?;
    let mask = wire[2 + extended..].try_into().ok();
    let start = wire.len();
    wire.resize(start + length, 0);
    stream.read_exact(&mut wire[start..]).await?;
    let mut payload = wire[start..].to_vec();
    if let Some(mask) = mask {
        apply(&mut payload, mask);
    }
    let frame = Frame {
        fin: first >> 7 == 1,
        rsv: first >> 4 & 7,
        opcode: first & 15,
        mask,
        payload,
    };
    Ok(Some((frame, wire)))
}

fn apply(bytes: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// No test sends a larger frame.
const MOST: usize = 1 << 30;
