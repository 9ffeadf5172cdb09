//! sluicegate: a WebSocket-first reverse proxy that its users program with WebAssembly.
//!
//! Read [`flow`] first: it is one connection from accept to close. ARCHITECTURE.md has the map.

pub mod admin;
pub mod admission;
pub mod banner;
pub mod body;
pub mod budget;
pub mod cli;
pub mod config;
pub mod date;
pub mod deadline;
pub mod drain;
pub mod echo;
pub mod error;
pub mod facts;
pub mod flow;
pub mod forward;
pub mod handshake;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod memory;
pub mod pace;
pub mod privileges;
pub mod random;
pub mod reload;
pub mod request;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod socket;
pub mod stream;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod worker;
pub mod ws;

#[cfg(test)]
mod seeds_tests;
