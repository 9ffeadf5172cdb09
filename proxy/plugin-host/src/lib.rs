//! Runs sluicegate's WebAssembly filters; the only crate of the proxy that names wasmtime.
//!
//! A [`Host`] lives as long as the process: engine, instance pool, epoch ticker, compile cache. A
//! [`Plugin`] is one compiled component. A [`Filter`] is a plugin with one route's config, proven
//! to be acceptable. Each handshake gets a pristine, configured instance, which ends when its last
//! hook is done, or waits on a `shelf` for the next request where the route says so. How an instance
//! comes to be configured is private to `filter`: by `configure`, or where that is dear, from an
//! [image](HostSettings::cheap_configure) of a memory in which it ran.
//!
//! What is said in a tunnel is for [`messages`]: a filter that is interested has a conversation for each
//! tunnel, many of which share an instance.
//!
//! What is refused: files, sockets and WASI are not linked; an import that is not ours is a load
//! error. Guests are bounded in memory, tables, stack, CPU time per call, wall-clock time,
//! instances, log lines and what they may write into a head or answer to a message (`sluicegate-plugin-rules`). Bytes
//! from a guest never cause a panic here. A guest never blocks the thread that runs it for more
//! than a tick of the epoch.
//!
//! Calls run inside a tokio runtime with its timer enabled. Dropping a call's future at any point
//! frees the instance, in mid-call together with all conversations that share it.

mod allowance;
mod bindings;
mod cache;
mod component;
mod error;
mod filter;
mod functions;
mod grants;
mod host;
mod image;
mod instance;
mod log;
mod machine;
pub mod messages;
pub mod metrics;
mod outbound;
mod plugin;
mod quarantine;
mod shelf;
mod ticker;
mod undo;
mod wasi;

pub use allowance::{Allowance, Pass};
pub use component::{Inspection, Kind, componentize, inspect};
pub use error::{ConfigProblem, ConfigureError, FilterError, HostError, LoadError};
pub use filter::{
    CallFacts, Filter, RequestHead, RequestOutcome, ResponseFilter, ResponseHead, ResponseOutcome,
    TlsFacts, Verdict,
};
pub use grants::Grants;
pub use host::{Host, HostSettings};
pub use outbound::{Outbound, OutboundError, OutboundFuture, OutboundRequest, OutboundResponse};
pub use plugin::{Description, Limits, Plugin};
pub use quarantine::{Admission, Quarantine, QuarantineRule};
pub use sluicegate_plugin_rules::{MAX_KEPT, Session};
pub use sluicegate_plugin_services::{clock, kv};
