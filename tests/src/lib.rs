//! What the end-to-end tests share: the real binary as a child process, upstreams that do exactly
//! what a test says, certificates, raw and WebSocket clients.
//!
//! Nothing here sleeps: every wait is for an event, under [`PATIENCE`]. Whatever a test starts is
//! stopped, by its process id or handle, when its value is dropped.

pub mod certs;
pub mod client;
pub mod http2;
pub mod proxy;
pub mod upstream;
pub mod wire;

use std::future::Future;
use std::time::Duration;

/// How long any one event may take before a test fails; far above what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for an event, or fails the test saying what did not happen.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}
