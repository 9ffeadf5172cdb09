//! A message that stands before the court, or waits to.

use crate::tunnel::judge::{Kind, Message};
use crate::ws::message::{self, Control, ControlKind, DataKind};

/// What was said, until the court has answered.
pub(super) enum Waiting {
    Data(message::Message),
    Control(Control),
}

impl Waiting {
    /// What the court is asked about; a data message comes back if it goes on.
    pub(super) fn lend(&mut self) -> Message {
        match self {
            Waiting::Data(message) => Message {
                kind: data_kind(message.kind),
                data: message.lend_plain(),
            },
            Waiting::Control(control) => Message {
                kind: match control.kind {
                    ControlKind::Ping => Kind::Ping,
                    // A Close is never asked about.
                    ControlKind::Pong | ControlKind::Close => Kind::Pong,
                },
                data: control.payload().to_vec(),
            },
        }
    }

    /// Bytes of memory that it takes, without what is lent.
    pub(super) fn size(&self) -> usize {
        match self {
            Waiting::Data(message) => message.size(),
            Waiting::Control(_) => 0,
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self, Waiting::Data(message) if message.compressed)
    }
}

pub(super) fn data_kind(kind: DataKind) -> Kind {
    match kind {
        DataKind::Text => Kind::Text,
        DataKind::Binary => Kind::Binary,
    }
}
