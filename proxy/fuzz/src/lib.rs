//! The WebSocket codec of the proxy, taken in by path, and what is fuzzed of it.
//!
//! `ws.rs` and `ws/` here are links to the proxy's. See README.md for how to run it.

pub mod bodies;
pub mod ws;
