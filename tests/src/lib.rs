//! What the end-to-end tests share: the real binary as a child process, upstreams that do exactly
//! what a test says, certificates, raw and WebSocket clients.
//!
//! Nothing here sleeps: every wait is for an event, under [`PATIENCE`]; what cannot tell that it has
//! changed (metrics, /proc) is asked again and again by [`until`]. Whatever a test starts is
//! stopped, by its process id or handle, when its value is dropped.

pub mod admin;
pub mod certs;
pub mod client;
pub mod foreign;
pub mod http2;
pub mod languages;
pub mod matrix;
pub mod memory;
pub mod modules;
pub mod plugins;
pub mod proxy;
pub mod raw;
pub mod secrets;
pub mod upstream;
pub mod websocket;
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

/// Asks until there is an answer, or fails the test saying what did not happen.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        loop {
            pace.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    soon(what, asking).await
}

/// A port of 127.0.0.1 that was free a moment ago, for what must be known before it is bound.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Lets this process, and what it starts, open as many descriptors as the system allows it.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read or write the struct that they are given.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}
