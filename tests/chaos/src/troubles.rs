//! What happens to the proxy during a round, besides what its clients and upstreams do.

pub(crate) mod descriptors;
pub(crate) mod reloads;
pub(crate) mod vanishing;
