//! Lines in the proxy's log, marked with the plugin and the route.
//!
//! The proxy cuts message and fields to 1 KiB each, escapes control characters and takes so many lines
//! a second from a plugin (100, if the operator says nothing else). Natively they go to stderr, so that
//! `cargo test` shows them on failure, and to [`testing::logs`](crate::testing::logs).
//!
//! ```
//! use sluicegate_plugin::log::{self, Level};
//!
//! sluicegate_plugin::info!("{} keys", 3);
//! log::event(Level::Warn, "token refused", &[("issuer", "idp.example.com")]);
//! ```

use std::fmt;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes a line with fields of its own, at most 16.
pub fn event(level: Level, message: &str, fields: &[(&str, &str)]) {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let fields: Vec<(String, String)> = fields.iter().map(pair).collect();
    host::log(told(level), message, &fields);
}

/// Writes a line; the macros [`trace!`](crate::trace), [`debug!`](crate::debug),
/// [`info!`](crate::info), [`warn!`](crate::warn) and [`error!`](crate::error) are shorter.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    match message.as_str() {
        Some(text) => host::log(told(level), text, &[]),
        None => host::log(told(level), &message.to_string(), &[]),
    }
}

#[cfg(not(target_arch = "wasm32"))]
use crate::testing::logging as host;

#[cfg(target_arch = "wasm32")]
use crate::glue::bindings::sluicegate::plugin::logging as host;

#[cfg(not(target_arch = "wasm32"))]
fn told(level: Level) -> Level {
    level
}

#[cfg(target_arch = "wasm32")]
fn told(level: Level) -> host::Level {
    level.into()
}

#[cfg(target_arch = "wasm32")]
impl From<Level> for host::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => host::Level::Trace,
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        }
    }
}
/// Logs at [`Level::Trace`](crate::log::Level), with the arguments of `format!`.
#[macro_export]
macro_rules! trace {
    ($($arg:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::core::format_args!($($arg)+)) };
}

/// Logs at [`Level::Debug`](crate::log::Level), with the arguments of `format!`.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($arg)+)) };
}

/// Logs at [`Level::Info`](crate::log::Level), with the arguments of `format!`.
#[macro_export]
macro_rules! info {
    ($($arg:tt)+) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($arg)+)) };
}

/// Logs at [`Level::Warn`](crate::log::Level), with the arguments of `format!`.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($arg)+)) };
}

/// Logs at [`Level::Error`](crate::log::Level), with the arguments of `format!`.
#[macro_export]
macro_rules! error {
    ($($arg:tt)+) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($arg)+)) };
}
