//! What a plugin may import, as the operator says.
//!
//! What cannot reach outside of the request that is filtered is granted unless it is taken away; what
//! can (a store that lasts, other servers) must be given.

use std::sync::Arc;

/// A plugin's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    pub log: bool,
    pub metrics: bool,
    pub clock: bool,
    pub random: bool,
    pub crypto: bool,
    pub kv: bool,
    /// A stub of WASI, for guests in languages whose runtime needs one: clocks, random bytes, output to
    /// the log, an empty file system.
    pub wasi: bool,
    /// Upstreams that it may send requests of its own to.
    pub http: Vec<Arc<str>>,
    /// Upstreams that it may send the client's request to, besides the route's.
    pub upstreams: Vec<Arc<str>>,
}

impl Default for Grants {
    fn default() -> Self {
        Grants {
            log: true,
            metrics: true,
            clock: true,
            random: true,
            crypto: true,
            kv: false,
            wasi: false,
            http: Vec::new(),
            upstreams: Vec::new(),
        }
    }
}

impl Grants {
    /// Everything that needs no name of an upstream, for a look at a plugin.
    pub fn all() -> Self {
        Grants {
            kv: true,
            wasi: true,
            ..Grants::default()
        }
    }

    /// Whether an interface of ours or WASI's may be imported; `Err`: what would grant it.
    pub(crate) fn allows(&self, interface: &str) -> Result<(), &'static str> {
        let (granted, key) = match interface {
            "logging" => (self.log, "log = true"),
            "metrics" => (self.metrics, "metrics = true"),
            "clock" => (self.clock, "clock = true"),
            "random" => (self.random, "random = true"),
            "crypto" => (self.crypto, "crypto = true"),
            "kv" => (self.kv, "kv = true"),
            "outbound" => (!self.http.is_empty(), "http = [\"UPSTREAM\"]"),
            _ if interface.starts_with("wasi:") => (self.wasi, "wasi = true"),
            _ => (true, ""),
        };
        if granted { Ok(()) } else { Err(key) }
    }
}
