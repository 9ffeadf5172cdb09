//! Everything that can go wrong, by the moment it does: start, load, configure, call.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sluicegate_plugin_rules::ReplyError;
use sluicegate_plugin_rules::messages::ReactionError;

use crate::log::escape;

/// Why the host did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    #[error("the instance pool cannot be made: {0}")]
    Pool(String),
    #[error("`{0}` plugin instances are more than this host can reserve; the most is {max}", max = crate::machine::MAX_INSTANCES)]
    TooManyInstances(u32),
    #[error("the system has no random bytes: {0}")]
    Random(#[source] std::io::Error),
    #[error("the epoch thread does not start: {0}")]
    Ticker(#[source] std::io::Error),
    #[error("plugin cache `{path}`: {problem}", path = path.display())]
    Cache { path: PathBuf, problem: String },
}

/// Why a file is no plugin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error("not a WebAssembly file")]
    NotWasm,
    #[error("`{size}` bytes; a plugin has at most {max}", max = crate::component::MAX_SIZE)]
    TooBig { size: usize },
    #[error("invalid or truncated WebAssembly: {0}")]
    Invalid(String),
    #[error("a core module without an interface description; does the crate call `export!`?")]
    NoInterface,
    #[error("imports `{0}`, which sluicegate does not offer")]
    UnknownImport(String),
    #[error("does not export `{0}`")]
    MissingExport(String),
    #[error(
        "made for `{found}`; this sluicegate speaks {spoken}: rebuild the plugin with one of its SDKs, or run the sluicegate that it was made for"
    )]
    Version { found: String, spoken: String },
    #[error(
        "imports `{interface}`, which the configuration does not grant; write `allow = {{ {key} }}`"
    )]
    NotGranted { interface: String, key: String },
    #[error("does not fit the interface: {0}")]
    Interface(String),
    #[error("does not compile: {0}")]
    Compile(String),
    #[error("a memory limit of `{limit}` bytes; this host allows at most {max}")]
    MemoryLimit { limit: u64, max: u64 },
    #[error("fails to describe itself: {0}")]
    Describe(#[source] FilterError),
    #[error("describes itself wrongly: {0}")]
    Description(String),
    /// Its description and its exports do not agree.
    #[error(
        "{} the hook `messages`, but {} `{export}`",
        if *says { "says that it has" } else { "does not say that it has" },
        if *says { "does not export" } else { "exports" },
        export = crate::component::MESSAGES,
    )]
    Messages { says: bool },
}

/// Why a plugin does not take a config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// In the guest's own words.
    #[error("{0}")]
    Rejected(ConfigProblem),
    #[error("configure took longer than `configure_timeout`")]
    Timeout,
    /// Each handshake would run it, and be cut.
    #[error(
        "configure takes {0:.1?}, longer than `call_timeout`, and the memory that it leaves cannot be kept"
    )]
    Dear(Duration),
    #[error("configure failed: {0}")]
    Failed(#[source] FilterError),
}

/// What a guest has against a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The place as the guest tells it, a JSON pointer (RFC 6901); empty: the config as a whole.
    pub pointer: String,
    /// Escaped, at most 1 KiB.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            return f.write_str(&self.message);
        }
        let keys = self.pointer.split('/').skip(1);
        let keys: Vec<_> = keys
            .map(|key| key.replace("~1", "/").replace("~0", "~"))
            .collect();
        write!(f, "`{}`: {}", escape(&keys.join(".")), self.message)
    }
}

/// Why a call gave no verdict. The head is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// `backtrace` holds the guest's function names, innermost first, one a line.
    #[error("trapped: {reason}")]
    Trap { reason: String, backtrace: String },
    #[error("ran longer than `call_timeout`")]
    Timeout,
    /// What it waited for took too long, or others kept it from running.
    #[error("took longer than `wall_timeout`")]
    WallTimeout,
    #[error("wanted more memory than its limit")]
    Memory,
    #[error("no instance was free in time")]
    NoInstance,
    /// It had accepted this very config when it was loaded.
    #[error("rejected its config in a fresh instance: {0}")]
    Configure(ConfigProblem),
    #[error("gave a response that cannot be sent: {0}")]
    BadReply(#[source] ReplyError),
    #[error("gave a response with a body of {size} bytes; `response_body` allows {limit}")]
    ReplyBody { size: usize, limit: usize },
    #[error("gave a reaction that cannot be carried out: {0}")]
    BadReaction(#[source] ReactionError),
    #[error("gave more messages than `message_output` allows, {limit} bytes")]
    MessageOutput { limit: usize },
    /// While another connection's conversation had its turn.
    #[error("its instance has failed before")]
    InstanceGone,
    /// It was not asked: it has failed too often of late.
    #[error("is in quarantine")]
    Quarantined,
}

impl FilterError {
    /// Whether it is the plugin's own fault, and not that of who uses it or of a busy moment.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            FilterError::NoInstance | FilterError::InstanceGone | FilterError::Quarantined
        )
    }

    /// A word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            FilterError::Trap { .. } => "trap",
            FilterError::Timeout => "timeout",
            FilterError::WallTimeout => "wall_timeout",
            FilterError::Memory => "memory",
            FilterError::NoInstance => "no_instance",
            FilterError::Configure(_) => "configure",
            FilterError::BadReply(_)
            | FilterError::ReplyBody { .. }
            | FilterError::BadReaction(_)
            | FilterError::MessageOutput { .. } => "bad_reply",
            FilterError::InstanceGone => "instance_gone",
            FilterError::Quarantined => "quarantined",
        }
    }
}
