//! The modules of the proxy that need neither TLS nor plugins, and what is fuzzed of them.
//!
//! All files here but `bodies` are links to the proxy's. See README.md for how to run it.

#![allow(dead_code, reason = "the rest of the proxy uses it")]

pub mod bodies;
pub mod config;
pub mod date;
pub mod facts;
pub mod forward;
pub mod handshake;
pub mod http1;
pub mod http2;
pub mod pace;
pub mod random;
pub mod request;
pub mod route;
pub mod ws;
