//! HTTP/2 for both sides of the proxy, on the `h2` crate driven directly: connections, and what goes over
//! their streams.
//!
//! [`server`] speaks with clients, [`client`] with upstreams. [`body`] takes bodies off streams and puts
//! them on; a [`Duplex`] is a stream as bytes in both directions, for what a tunnel carries. Frames, HPACK and
//! flow control are `h2`'s; here are the limits that it gets, and what it leaves to its user. What a peer may
//! not do is decided before `h2` by the `gate`, as far as `h2` is lax about it. Generic over the connection's stream: it knows neither where its bytes come
//! from nor what a request is for.
//!
//! Flow control is the back-pressure: credit goes back when bytes are taken, never before. A connection
//! has credit for all its streams at once, so one that nobody reads takes nothing from the others.
//!
//! RFC 9113, RFC 8441.

pub mod body;
pub mod client;
mod duplex;
mod gate;
mod pulse;
pub mod server;

pub use duplex::Duplex;
pub use gate::Bounds;

#[cfg(test)]
pub(crate) use duplex::tests as testing;

/// The credit of a connection that carries so many streams.
fn connection_window(streams: u32) -> u32 {
    streams.saturating_mul(STREAM_WINDOW).min(MAX_WINDOW)
}

/// Bytes that one stream may send ahead of who reads it.
pub const STREAM_WINDOW: u32 = 128 * 1024;
/// Bytes that are kept of one stream for a peer that does not take them.
pub const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one DATA frame: with its head it fills a TLS record (RFC 8446 §5.1).
const PIECE: usize = 16 * 1024 - 9;
/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
