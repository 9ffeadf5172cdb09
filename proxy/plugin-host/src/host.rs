//! What lives as long as the process: the engine with its instance pool, the epoch ticker, the
//! compile cache and the permits that stand in front of the pool.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sluicegate_plugin_services::clock::{Clock, SystemClock};
use sluicegate_plugin_services::crypto::Passwords;
use sluicegate_plugin_services::kv::{KvLimits, KvStore, MemoryStore};
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Linker,
};

use crate::bindings::{self, State};
use crate::cache::Cache;
use crate::error::{HostError, LoadError};
use crate::grants::Grants;
use crate::metrics::Registry;
use crate::plugin::{Limits, Plugin};
use crate::shelf::Shelves;
use crate::ticker::Ticker;

/// What the host may use; fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Instances alive at once, all plugins together; further handshakes wait. At most 4096.
    pub instances: u32,
    /// Where compiled plugins are kept: a folder of this user's own, mode 0700, made if it is
    /// not there. `None`: compile at every start.
    pub cache_dir: Option<PathBuf>,
    /// The most that a plugin's own memory limit may be, bytes.
    pub max_memory: u64,
    /// What plugins may keep in the store that workers share.
    pub kv: KvLimits,
    /// The time as plugins see it.
    pub clock: Arc<dyn Clock>,
}

impl Default for HostSettings {
    fn default() -> Self {
        HostSettings {
            instances: 1024,
            cache_dir: None,
            max_memory: 256 << 20,
            kv: KvLimits::default(),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Compiles and runs plugins.
pub struct Host {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) ticker: Arc<Ticker>,
    /// Instances that serve handshakes.
    pub(crate) permits: Arc<Semaphore>,
    /// Idle instances of filters that reuse them.
    pub(crate) shelves: Arc<Shelves>,
    /// The one instance that tries out a config, so that a busy proxy can still be reloaded.
    pub(crate) configuring: tokio::sync::Mutex<()>,
    /// One plugin compiles and describes itself at a time: it takes all cores as it is.
    pub(crate) loading: Mutex<()>,
    pub(crate) max_memory: u64,
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
        let pool = |e: wasmtime::Error| HostError::Pool(format!("{e:#}"));
        let engine =
            Engine::new(&engine_config(settings.instances, settings.max_memory)).map_err(pool)?;
        let mut linker = Linker::new(&engine);
        bindings::link(&mut linker).map_err(pool)?;
        let ticker = Ticker::start(&engine).map_err(HostError::Ticker)?;
        Ok(Arc::new(Host {
            engine,
            linker,
            cache,
            ticker,
            permits: Arc::new(Semaphore::new(settings.instances as usize)),
            shelves: Arc::default(),
            configuring: tokio::sync::Mutex::new(()),
            loading: Mutex::new(()),
            max_memory: settings.max_memory,
            store: MemoryStore::new(settings.kv, Arc::clone(&settings.clock)),
            passwords: Arc::new(
                Passwords::new(Arc::clone(&settings.clock)).map_err(HostError::Random)?,
            ),
            clock: settings.clock,
            metrics: Arc::default(),
        }))
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

impl Drop for Host {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}

fn engine_config(instances: u32, max_memory: u64) -> Config {
    let slots = instances.saturating_add(SETUP_INSTANCES);
    let max_memory_size = usize::try_from(max_memory).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        // A component made of a core module is four core instances: itself, and the shims
        // around its imports.
        .total_core_instances(4 * slots)
        .total_tables(4 * slots)
        .total_memories(2 * slots)
        .max_core_instances_per_component(16)
        .max_tables_per_component(8)
        .max_memories_per_component(2)
        .table_elements(bindings::MAX_TABLE_ELEMENTS)
        .max_memory_size(max_memory_size)
        .max_unused_warm_slots(slots.min(MAX_WARM_SLOTS))
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .max_wasm_stack(256 << 10)
        .async_stack_size(512 << 10)
        // A heap with holes in it must still be mapped copy-on-write: 14 ms otherwise.
        .memory_guaranteed_dense_image_size(max_memory);
    config
}

/// 4 GiB of address space for each of two memories a slot: 32 TiB of the 128 there are.
pub(crate) const MAX_INSTANCES: u32 = 4096;
/// One that loads and one that tries a config, besides those that serve.
const SETUP_INSTANCES: u32 = 2;
const MAX_WARM_SLOTS: u32 = 256;
/// What a free slot keeps resident of its memory, and as much of its table: page faults, and the
/// system calls that make them necessary, dominate the cost of a fresh instance.
const KEEP_RESIDENT: usize = 256 << 10;
