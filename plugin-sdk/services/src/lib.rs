//! What the proxy offers to plugins beyond their heads: time, random bytes, a store, cryptography,
//! figures. The plugin host serves guests with it; the SDK's unit tests run on the very same code.
//!
//! Nothing here knows WebAssembly.

#![forbid(unsafe_code)]

pub mod clock;
pub mod crypto;
pub mod kv;
pub mod random;
