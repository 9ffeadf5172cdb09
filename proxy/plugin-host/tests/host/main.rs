//! The host with real plugins: built from source by cargo, as an author's would be.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "test support, outside of #[test] functions"
)]

mod calls;
mod hostile;
mod images;
mod limits;
mod load;
mod messages;
mod reuse;
mod support;
mod tables;
mod wasi;
