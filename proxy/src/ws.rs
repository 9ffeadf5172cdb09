//! The WebSocket protocol (RFC 6455) after the handshake, sans-IO.
//!
//! Everything here is a pure function of the bytes it is given: no socket, no clock, no plugin, no
//! policy. [`Follower`] keeps count of the frames that pass through a tunnel without touching their
//! payloads; [`control`] makes the few frames that the proxy itself sends. What a violation or a
//! close code means for a connection is the tunnel's business.

pub mod control;
pub mod deflate;
pub mod frame;

pub use control::{CloseCode, ControlFrame, encode_close, encode_ping};
pub use frame::{Follower, Side, Violation};
