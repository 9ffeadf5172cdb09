//! What lives as long as the process: the engine with its instance pool, the compile cache, the
//! workbench for images and the permits that stand in front of the pool.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate_plugin_services::clock::{Clock, SystemClock};
use sluicegate_plugin_services::crypto::Passwords;
use sluicegate_plugin_services::kv::{KvLimits, KvStore, MemoryStore};
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::error::{HostError, LoadError};
use crate::functions::Functions;
use crate::grants::Grants;
use crate::image::Workbench;
use crate::machine::{MAX_INSTANCES, Machine};
use crate::metrics::Registry;
use crate::plugin::{Limits, Plugin};
use crate::shelf::Shelves;

/// What the host may use; fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Instances alive at once, all plugins together; further handshakes wait. At most 10,240. Some of
    /// them, a quarter but at most 240, are not for conversations.
    pub instances: u32,
    /// Where compiled plugins are kept: a folder of this user's own, mode 0700, made if it is
    /// not there. `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// The most that a plugin's own memory limit may be, bytes.
    pub max_memory: u64,
    /// The most that `configure` may cost to run again in every fresh instance. Where it costs more,
    /// instances begin with an image of a memory in which it ran.
    pub cheap_configure: Duration,
    /// What plugins may keep in the store that workers share.
    pub kv: KvLimits,
    /// The time as plugins see it.
    pub clock: Arc<dyn Clock>,
}

impl HostSettings {
    /// The most that `instances` may be.
    pub const MAX_INSTANCES: u32 = MAX_INSTANCES;
}

impl Default for HostSettings {
    fn default() -> Self {
        HostSettings {
            instances: 1024,
            cache_dir: None,
            max_memory: 256 << 20,
            cheap_configure: Duration::from_micros(50),
            kv: KvLimits::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Compiles and runs plugins.
pub struct Host {
    pub(crate) machine: Machine,
    pub(crate) cache: Option<Cache>,
    /// Of plugins that were compiled or that images were made of.
    pub(crate) functions: Arc<Functions>,
    /// Where images are made; one at a time, as they take memory.
    pub(crate) workbench: Arc<tokio::sync::Mutex<Workbench>>,
    /// Instances that serve.
    pub(crate) permits: Arc<Semaphore>,
    instances: u32,
    /// Those of them that may last as long as tunnels do: some are left for handshakes, or plugins that
    /// filter messages could keep all others from working.
    pub(crate) lasting: Arc<Semaphore>,
    /// Idle instances of filters that reuse them.
    pub(crate) shelves: Arc<Shelves>,
    /// The one instance that tries out a config, so that a busy proxy can still be reloaded.
    pub(crate) configuring: tokio::sync::Mutex<()>,
    /// One plugin or image compiles at a time: it takes all cores as it is.
    pub(crate) loading: Mutex<()>,
    pub(crate) max_memory: u64,
    pub(crate) cheap_configure: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: MemoryStore,
    pub(crate) passwords: Arc<Passwords>,
    metrics: Arc<Registry>,
}

impl Host {
    /// Makes the engine, reserves the pool's address space and starts the epoch thread.
    ///
    /// # Errors
    /// See [`HostError`]; a cache folder that others may write to is refused.
    pub fn new(settings: HostSettings) -> Result<Arc<Self>, HostError> {
        if settings.instances > MAX_INSTANCES {
            return Err(HostError::TooManyInstances(settings.instances));
        }
        let cache = settings.cache_dir.map(Cache::open).transpose()?;
        let functions = Arc::new(Functions::default());
        let machine = Machine::serving(
            settings.instances,
            settings.max_memory,
            Arc::clone(&functions),
        )?;
        Ok(Arc::new(Host {
            machine,
            cache,
            functions,
            workbench: Arc::default(),
            permits: Arc::new(Semaphore::new(settings.instances as usize)),
            instances: settings.instances,
            lasting: Arc::new(Semaphore::new(
                (settings.instances - (settings.instances / 4).min(FOR_HANDSHAKES)) as usize,
            )),
            shelves: Arc::default(),
            configuring: tokio::sync::Mutex::new(()),
            loading: Mutex::new(()),
            max_memory: settings.max_memory,
            cheap_configure: settings.cheap_configure,
            store: MemoryStore::new(settings.kv, Arc::clone(&settings.clock)),
            passwords: Arc::new(
                Passwords::new(Arc::clone(&settings.clock)).map_err(HostError::Random)?,
            ),
            clock: settings.clock,
            metrics: Arc::default(),
        }))
    }

    /// Instances alive at once at the most, all plugins together.
    pub fn instances(&self) -> u32 {
        self.instances
    }

    /// What plugins count for themselves.
    pub fn metrics(&self) -> &Arc<Registry> {
        &self.metrics
    }

    /// What a plugin keeps in the store.
    pub fn kv(&self, plugin: &str) -> Arc<dyn KvStore> {
        self.store.part(plugin)
    }

    /// Makes a plugin of a component, or of the core module that cargo wrote.
    ///
    /// Blocks for as long as compiling takes, or reading from the cache: call it on a blocking
    /// thread, under a timeout of the caller's own.
    ///
    /// # Errors
    /// See [`LoadError`]; it names the import or export that is wrong, or what is not granted.
    pub fn load(
        self: &Arc<Self>,
        name: &str,
        wasm: &[u8],
        limits: Limits,
        grants: &Grants,
    ) -> Result<Arc<Plugin>, LoadError> {
        Plugin::load(self, name, wasm, limits, grants)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}

/// Instances for handshakes alone, but no more than a quarter of all.
const FOR_HANDSHAKES: u32 = 240;
