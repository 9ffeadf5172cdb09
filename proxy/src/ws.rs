//! The WebSocket protocol (RFC 6455) and its compression (RFC 7692) after the handshake, sans-IO.
//!
//! Everything here is a pure function of the bytes it is given: no socket, no clock, no plugin, no
//! policy. [`Follower`] keeps count of the frames that pass through a tunnel without touching their
//! payloads. [`Reader`] makes messages of them, checked and within limits; [`encode`] and [`control`] make
//! the frames that the proxy itself sends. Below them are the [`head`] of a frame, the [`mask`], [`utf8`]
//! and [`deflate`]. What a violation or a close code means for a connection is the tunnel's business.

pub mod control;
pub mod deflate;
pub mod encode;
pub mod frame;
pub mod head;
pub mod mask;
pub mod message;
pub mod reader;
pub mod utf8;

pub use control::{CloseCode, ControlFrame, encode_close, encode_ping, encode_pong};
pub use encode::{encode_compressed, encode_message};
pub use frame::Follower;
pub use head::{Head, Opcode, Side, Violation};
pub use message::{
    Begin, Control, ControlKind, DataKind, Event, Message, Passed, Want, Wire, WireHead,
};
pub use reader::{Fault, Reader, Rules};
