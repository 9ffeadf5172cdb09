//! HTTP/2 on the `h2` crate, driven directly on both sides (RFC 9113, RFC 8441).
//!
//! Generic over the connection's stream: it knows neither where its bytes come from nor what a request
//! is for.

mod duplex;

pub use duplex::Duplex;

#[cfg(test)]
pub(crate) use duplex::tests as testing;
