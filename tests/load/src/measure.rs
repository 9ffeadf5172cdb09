//! What is measured: CPU time, memory, latency; and what a series of figures amounts to.

pub(crate) mod latency;
pub(crate) mod processes;
pub(crate) mod series;
