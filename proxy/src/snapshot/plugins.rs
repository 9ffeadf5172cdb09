//! Loading plugins and configuring them for each route that uses them.
//!
//! A plugin whose file and limits did not change is not compiled again, and a config that it has
//! accepted before is not tried again. Secrets (`env:`, `file:`) are read here, put into the JSON
//! that the guest gets, and never into a message.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sluicegate_plugin_host::{ConfigureError, Filter, Limits, Plugin};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{ChainLink, Snapshot, Workshop};
use crate::config::model::{self, Config, PluginConfig, SecretSource};
use crate::config::{Diagnostic, Source};

/// A compiled plugin, and how to tell that its file is still the same.
#[derive(Clone)]
pub struct LoadedPlugin {
    pub plugin: Arc<Plugin>,
    limits: model::PluginLimits,
    file: FileStamp,
    /// The filters that routes have made of it, by their resolved config.
    filters: HashMap<String, Filter>,
}

/// Enough to see that a file was replaced, without reading it.
#[derive(Clone, PartialEq, Eq)]
struct FileStamp {
    path: std::path::PathBuf,
    modified: Option<SystemTime>,
    len: u64,
}
