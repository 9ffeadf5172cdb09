//! An engine with what its instances need: what they may import, and the thread that counts their
//! time. The host has one that serves, whose instances come from a pool, and, once a plugin needs it,
//! one that only makes images.

use std::sync::Arc;

use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::bindings::{self, Pre, State};
use crate::component::Dialect;
use crate::error::HostError;
use crate::functions::Functions;
use crate::ticker::Ticker;
use crate::wasi;

pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) ticker: Arc<Ticker>,
    linker: Linker<State>,
}

impl Machine {
    /// For instances that serve: at most so many at once, their memories at most so large.
    pub(crate) fn serving(
        instances: u32,
        max_memory: u64,
        functions: Arc<Functions>,
    ) -> Result<Self, HostError> {
        let mut config = common();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(
                instances, max_memory,
            )))
            // A heap with holes in it must still be mapped copy-on-write: 14 ms otherwise.
            .memory_guaranteed_dense_image_size(max_memory);
        let pool = |e: wasmtime::Error| HostError::Pool(format!("{e:#}"));
        config
            .enable_incremental_compilation(functions)
            .map_err(pool)?;
        Self::new(&config)
    }

    /// For instances that live for one `configure`: code that is soon compiled, memories that nobody
    /// reserves.
    pub(crate) fn for_images() -> Result<Self, HostError> {
        let mut config = common();
        config
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .cranelift_opt_level(OptLevel::None);
        Self::new(&config)
    }

    fn new(config: &Config) -> Result<Self, HostError> {
        let pool = |e: wasmtime::Error| HostError::Pool(format!("{e:#}"));
        let engine = Engine::new(config).map_err(pool)?;
        let mut linker = Linker::new(&engine);
        bindings::link(&mut linker).map_err(pool)?;
        let ticker = Ticker::start(&engine).map_err(HostError::Ticker)?;
        Ok(Machine {
            engine,
            ticker,
            linker,
        })
    }

    /// Gives a component what it imports, and finds what it exports. WASI is there only for those that are
    /// known to need it.
    pub(crate) fn link(
        &self,
        component: &Component,
        dialect: Dialect,
        with_wasi: bool,
    ) -> wasmtime::Result<Pre> {
        if !with_wasi {
            return Pre::new(dialect, self.linker.instantiate_pre(component)?);
        }
        let mut linker = self.linker.clone();
        wasi::link(&mut linker)?;
        Pre::new(dialect, linker.instantiate_pre(component)?)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}

/// What guests can tell apart must be the same in both, or an image would not fit its plugin.
fn common() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(256 << 10)
        .async_stack_size(512 << 10);
    config
}

fn pool(instances: u32, max_memory: u64) -> PoolingAllocationConfig {
    let slots = instances.saturating_add(SETUP_INSTANCES);
    let keep_resident = if instances > LARGE_POOL {
        0
    } else {
        KEEP_RESIDENT
    };
    let max_memory_size = usize::try_from(max_memory).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_stacks(slots)
        // A component made of a core module is four core instances: itself, and the shims around its
        // imports. Python's is 14, and each extension module is one more. They take no room here,
        // and the memory of all of a component's is bounded together: 1 MiB, of which Python's take 0.4.
        .total_core_instances(MAX_CORE_INSTANCES.saturating_mul(slots))
        .total_tables(4 * slots)
        // A second memory for some, as 4 GiB of address space go with each.
        .total_memories(slots + slots.min(SECOND_MEMORIES))
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_tables_per_component(8)
        .max_memories_per_component(2)
        .table_elements(bindings::MAX_TABLE_ELEMENTS)
        .max_memory_size(max_memory_size)
        .max_unused_warm_slots(slots.min(MAX_WARM_SLOTS))
        .linear_memory_keep_resident(keep_resident)
        .table_keep_resident(keep_resident)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Each slot takes two of the 65,530 memory maps that Linux gives a process, for its stack, and four more when it
/// is in use: 61,000 all together. The memories take 56 of 128 TiB of address space.
pub(crate) const MAX_INSTANCES: u32 = 10_240;
const SECOND_MEMORIES: u32 = 4096;
/// One that loads, one that tries a config and one that tries an image, besides those that serve.
const SETUP_INSTANCES: u32 = 3;
/// Free slots that still have the memory of the plugin or image they served: with fewer than there are
/// of these in turn, a fresh instance costs 100 µs instead of 17.
const MAX_WARM_SLOTS: u32 = 256;
/// Of one component.
const MAX_CORE_INSTANCES: u32 = 64;
/// What a free slot keeps resident of its memory, and as much of its table: page faults, and the
/// system calls that make them necessary, dominate the cost of a fresh instance. A quarter of this costs
/// half as much again, two or eight times as much gains nothing.
const KEEP_RESIDENT: usize = 256 << 10;
/// A pool of more is for conversations that have an instance each: when a crowd of them has gone, its memory is
/// given back, and fresh instances cost some page faults more.
const LARGE_POOL: u32 = 2048;
