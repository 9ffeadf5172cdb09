//! Images: a plugin with a config in its memory, so that an instance is born configured.
//!
//! `configure` runs once, in an instance of a *mould*: the plugin, compiled with accessors to all it
//! remembers. What they show is written into the plugin as its initial memory, and the result is
//! compiled for the engine that serves, which maps it copy-on-write. So each instance begins with
//! exactly what `configure` left, and nobody sees what another wrote.
//!
//! Plugins whose memory is not all they remember (`shape`), or that remember too much, are refused; they
//! go on being configured each time. An image holds the secrets of its config: it is never written to a disk
//! or into a message. Guests run here under the limits of `configure`; only one image is made at a
//! time, as that takes some fifteen times the guest's memory, on a thread for blocking work.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use wasmtime::component::Component;
use wasmtime_wizer::{ComponentContext, Wizer};

use crate::bindings::Pre;
use crate::cache::What;
use crate::component::componentize;
use crate::error::{FilterError, HostError};
use crate::instance::Instance;
use crate::machine::Machine;
use crate::plugin::{Limits, Plugin, block_on};

mod memory;
mod shape;

/// Where images are made.
#[derive(Default)]
pub(crate) struct Workbench {
    /// Made for the first image.
    machine: Option<Machine>,
}

/// Why there is no image. Nothing of it comes from a config.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Shape(String),
    #[error("a plugin of more than {max} MiB takes too long to compile anew at each start", max = MAX_PLUGIN >> 20)]
    LargePlugin,
    #[error("configured it holds more than {max} MiB", max = MAX_MEMORY >> 20)]
    TooLarge,
    #[error("configured it holds too many scattered values")]
    TooScattered,
    #[error("configuring it once more ends with: {}", .0.label())]
    Configure(FilterError),
    #[error("it does not compile: {0}")]
    Compile(String),
    #[error("no instance starts from the image: {}", .0.label())]
    Start(FilterError),
    #[error("{0}")]
    Machine(HostError),
    #[error("it takes longer than {limit} s", limit = TIME_LIMIT.as_secs())]
    Late,
    #[error("the tool that makes it cannot cope with the plugin")]
    Panic,
}

impl Workbench {
    fn machine(&mut self) -> Result<&Machine, Refusal> {
        match self.machine.take() {
            Some(machine) => Ok(self.machine.insert(machine)),
            None => {
                let machine = Machine::for_images().map_err(Refusal::Machine)?;
                Ok(self.machine.insert(machine))
            }
        }
    }
}

/// Makes an image of a plugin that has taken this config before.
///
/// One that takes too long is waited for no more, but the next one begins only when it has ended.
pub(crate) async fn of(plugin: &Arc<Plugin>, config: &str) -> Result<Pre, Refusal> {
    if plugin.wasm.len() > MAX_PLUGIN {
        return Err(Refusal::LargePlugin);
    }
    let (plugin, config) = (Arc::clone(plugin), config.to_owned());
    let work = async {
        let mut workbench = Mutex::lock_owned(Arc::clone(&plugin.host.workbench)).await;
        spawn_blocking(move || make(&mut workbench, &plugin, &config)).await
    };
    match timeout(TIME_LIMIT, work).await {
        Ok(Ok(made)) => made,
        // The thread has caught it; what it worked on is gone.
        Ok(Err(_)) => Err(Refusal::Panic),
        Err(_) => Err(Refusal::Late),
    }
}

fn make(workbench: &mut Workbench, plugin: &Plugin, config: &str) -> Result<Pre, Refusal> {
    let began = Instant::now();
    let host = &plugin.host;
    let component = componentize(&plugin.wasm).map_err(|e| Refusal::Shape(e.to_string()))?;
    shape::check(&component, plugin.pre.dialect().messages)?;
    let mut wizer = Wizer::new();
    // Nothing is exported for its sake, and so nothing may be taken away.
    wizer.keep_init_func(true);
    let (context, accessible) = wizer
        .instrument_component(&component)
        .map_err(|e| Refusal::Shape(format!("{e:#}")))?;
    let machine = workbench.machine()?;
    let mould = mould(machine, plugin, &accessible)?;
    let image = block_on(snapshot(machine, plugin, mould, config, &wizer, &context))?;
    let compiled = {
        let _one_at_a_time = host.loading.lock().unwrap_or_else(PoisonError::into_inner);
        recall_functions(plugin);
        Component::from_binary(&host.machine.engine, &image)
    };
    let compile = |e: wasmtime::Error| Refusal::Compile(format!("{e:#}"));
    let pre = host
        .machine
        .link(&compiled.map_err(compile)?, plugin.pre.dialect(), false)
        .map_err(compile)?;
    // Whether it starts; the first handshake then finds the memory mapped.
    let first = Instance::setup(&host.machine, &plugin.identity, &pre, &plugin.limits);
    block_on(first).map_err(Refusal::Start)?;
    tracing::debug!(
        target: "sluicegate::plugin",
        plugin = plugin.name(),
        bytes = image.len(),
        "image made in {:.1?}",
        began.elapsed()
    );
    Ok(pre)
}

/// Sees to it that what was compiled of the plugin need not be compiled again.
fn recall_functions(plugin: &Plugin) {
    let engine = &plugin.host.machine.engine;
    if let Some(cache) = &plugin.host.cache
        && let Some(functions) = cache.bytes(engine, What::Functions, plugin.content_hash())
    {
        plugin.host.functions.add(&functions);
    }
}

/// The plugin with accessors, compiled once; it knows no config, so it may come from the cache.
fn mould<'a>(machine: &Machine, plugin: &'a Plugin, accessible: &[u8]) -> Result<&'a Pre, Refusal> {
    if let Some(mould) = plugin.mould.get() {
        return Ok(mould);
    }
    let compile = |e: wasmtime::Error| Refusal::Compile(format!("{e:#}"));
    let cache = plugin.host.cache.as_ref();
    let known = cache
        .and_then(|cache| cache.component(&machine.engine, What::Mould, plugin.content_hash()));
    let component = match known {
        Some((_, component)) => component,
        None => {
            let component = Component::from_binary(&machine.engine, accessible).map_err(compile)?;
            if let Some(cache) = cache {
                cache.put_component(
                    &machine.engine,
                    What::Mould,
                    plugin.content_hash(),
                    &[],
                    &component,
                );
            }
            component
        }
    };
    let mould = machine
        .link(&component, plugin.pre.dialect(), false)
        .map_err(compile)?;
    Ok(plugin.mould.get_or_init(|| mould))
}

/// Configures an instance of the mould, and writes what it then remembers into the plugin.
async fn snapshot(
    machine: &Machine,
    plugin: &Plugin,
    mould: &Pre,
    config: &str,
    wizer: &Wizer,
    context: &ComponentContext<'_>,
) -> Result<Vec<u8>, Refusal> {
    let most = plugin.limits.memory.min(MAX_MEMORY);
    let limits = Limits {
        memory: most + memory::ACCESS,
        ..plugin.configure_limits()
    };
    let identity = plugin.quiet_identity();
    let (mut instance, inner) = Instance::dissectible(machine, &identity, mould, &limits)
        .await
        .map_err(Refusal::configure)?;
    instance
        .configure(config, &limits)
        .await
        .map_err(Refusal::configure)?;
    let mut contents = memory::Contents::new(instance.into_store(&limits), inner, most);
    let image = wizer.snapshot_component(context, &mut contents).await;
    contents.finish()?;
    image.map_err(|e| Refusal::Shape(format!("{e:#}")))
}

impl Refusal {
    /// `configure` went well under the plugin's own limits, so memory means ours.
    fn configure(error: FilterError) -> Self {
        match error {
            FilterError::Memory => Refusal::TooLarge,
            error => Refusal::Configure(error),
        }
    }
}

/// All memories of a configured instance, bytes; the image is hardly larger than the plugin and these.
const MAX_MEMORY: u64 = 16 << 20;
/// The file, bytes. Images are not cached; a JavaScript engine's (12 MiB) took 46 s in a development build.
const MAX_PLUGIN: usize = 4 << 20;
/// For one image, the wait for others included.
const TIME_LIMIT: Duration = Duration::from_secs(60);
