//! HTTP/2 over the `h2` crate, for both sides of the proxy.
//!
//! [`client`] speaks with upstreams. A connection is a task that reads and writes for all of its
//! streams; each stream is driven by whoever has its handles, and what flows is bounded by windows:
//! bytes that nobody takes are not asked for.
//!
//! The window of a connection is that of all its streams together. `h2` gives no window of the
//! connection back for bytes that wait in a stream, so with less some stalled streams would starve the
//! others.
//!
//! RFC 9113.

pub mod client;
mod counted;

pub use counted::Counted;

/// What a stream may receive ahead of its reader, in bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// What a stream may have written ahead of its peer, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of one DATA frame: with its head it fills a TLS record.
const PIECE: usize = 16 * 1024 - 9;

/// The window of a connection with this many streams.
fn connection_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).clamp(STREAM_WINDOW, MAX_WINDOW)
}

/// RFC 9113 §6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
