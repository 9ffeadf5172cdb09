//! What time it is.

use std::time::{Duration, SystemTime};

/// The wall clock.
pub fn now() -> SystemTime {
    #[cfg(target_arch = "wasm32")]
    {
        SystemTime::UNIX_EPOCH + Duration::from_millis(host::now())
    }
    #[cfg(not(target_arch = "wasm32"))]
    SystemTime::now()
}

/// Time since some fixed moment; never goes back. `std::time::Instant` panics in a plugin.
pub fn monotonic() -> Duration {
    #[cfg(target_arch = "wasm32")]
    {
        Duration::from_nanos(host::monotonic_now())
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::sync::LazyLock;
        use std::time::Instant;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
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
    }
}
