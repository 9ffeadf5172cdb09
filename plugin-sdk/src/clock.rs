//! What time it is. Natively the [`testing`](crate::testing) module can set it.

use std::time::{Duration, SystemTime};

/// The wall clock, in steps of a millisecond.
pub fn now() -> SystemTime {
    #[cfg(target_arch = "wasm32")]
    {
        SystemTime::UNIX_EPOCH + Duration::from_millis(host::now())
    }
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::now()
}

/// The wall clock as JSON Web Tokens have it: seconds since 1970.
pub fn unix_seconds() -> u64 {
    now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Time since some fixed moment; never goes back. `std::time::Instant` panics in a plugin.
pub fn monotonic() -> Duration {
    #[cfg(target_arch = "wasm32")]
    {
        Duration::from_nanos(host::monotonic_now())
    }
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::monotonic()
}

#[cfg(target_arch = "wasm32")]
use crate::glue::bindings::sluicegate::plugin::clock as host;

#[cfg(test)]
mod tests {
    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let before = super::monotonic();
        assert!(super::monotonic() >= before);
        assert!(super::now() > std::time::SystemTime::UNIX_EPOCH);
        assert!(super::unix_seconds() > 0);
    }
}
