//! A compiled plugin: what it says of itself, what it may use, and the way from a config to a
//! filter.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use sluicegate_plugin_services::clock::Clock;
use sluicegate_plugin_services::crypto::Passwords;
use sluicegate_plugin_services::kv::KvStore;
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::bindings::{Pre, about};
use crate::cache::sha256_hex;
use crate::component::plugin_component;
use crate::error::{ConfigureError, FilterError, LoadError};
use crate::filter::Filter;
use crate::grants::Grants;
use crate::host::Host;
use crate::instance::Instance;
use crate::log::{LogGate, escape};
use crate::metrics::PluginMetrics;

/// What one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, bytes.
    pub memory: u64,
    /// CPU time of one call, in steps of a millisecond. Wall-clock time, the wait for an instance
    /// included, is bounded as well: by twenty times as much or two seconds, whichever is longer.
    pub call_timeout: Duration,
    /// Wall-clock time `configure` may take when the plugin is loaded.
    pub configure_timeout: Duration,
    /// Instances alive at once in the whole process; further handshakes wait.
    pub instances: NonZeroU32,
    /// One HTTP request of the plugin's own, from connecting to the end of the answer.
    pub http_timeout: Duration,
    /// The body of an answer to one, bytes.
    pub http_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 16 << 20,
            call_timeout: Duration::from_millis(50),
            configure_timeout: Duration::from_secs(5),
            instances: const { NonZeroU32::new(256).unwrap() },
            http_timeout: Duration::from_secs(5),
            http_body: 1 << 20,
        }
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub request_hook: bool,
    pub response_hook: bool,
    /// The JSON Schema of its config, as text, if it has one.
    pub config_schema: Option<Arc<str>>,
}

/// A compiled plugin that fits the interface.
pub struct Plugin {
    pub(crate) host: Arc<Host>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) pre: Pre,
    pub(crate) limits: Limits,
    pub(crate) permits: Arc<Semaphore>,
    description: Description,
    load_time: Duration,
    from_cache: bool,
    content_hash: String,
}

/// What an instance needs to know of its plugin.
pub(crate) struct Identity {
    /// As the configuration names it.
    pub(crate) name: Arc<str>,
    pub(crate) log: LogGate,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    pub(crate) clock: Arc<dyn Clock>,
    /// Its part of the store.
    pub(crate) kv: Arc<dyn KvStore>,
    pub(crate) passwords: Arc<Passwords>,
    /// What it counts for itself.
    pub(crate) metrics: Arc<PluginMetrics>,
    /// The most memory that one instance had, bytes.
    pub(crate) peak_memory: AtomicUsize,
}

impl Plugin {
    pub(crate) fn load(
        host: &Arc<Host>,
        name: &str,
        wasm: &[u8],
        limits: Limits,
        grants: &Grants,
    ) -> Result<Arc<Self>, LoadError> {
        if limits.memory > host.max_memory {
            return Err(LoadError::MemoryLimit {
                limit: limits.memory,
                max: host.max_memory,
            });
        }
        let _one_at_a_time = host.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let (binary, version) = plugin_component(wasm, grants)?;
        let (component, from_cache) = compile(host, &binary)?;
        let unfit = |e: wasmtime::Error| LoadError::Interface(format!("{e:#}"));
        let pre = host.linker.instantiate_pre(&component).map_err(unfit)?;
        let pre = Pre::new(version, pre).map_err(unfit)?;
        let identity = Arc::new(Identity {
            name: name.into(),
            log: LogGate::new(),
            limits,
            grants: grants.clone(),
            clock: Arc::clone(&host.clock),
            kv: host.store.part(name),
            passwords: Arc::clone(&host.passwords),
            metrics: host.metrics().plugin(name),
            peak_memory: AtomicUsize::new(0),
        });
        let description = block_on(async {
            let mut instance = Instance::setup(host, &identity, &pre, &limits).await?;
            instance.describe(&limits).await
        });
        let description = checked(description.map_err(LoadError::Describe)?)?;
        Ok(Arc::new(Plugin {
            host: Arc::clone(host),
            identity,
            pre,
            limits,
            permits: Arc::new(Semaphore::new(limits.instances.get() as usize)),
            description,
            load_time: began.elapsed(),
            from_cache,
            content_hash: sha256_hex(wasm),
        }))
    }

    /// Proves that the plugin takes this config (a JSON object), in an instance of its own that
    /// does not count against `instances`.
    ///
    /// # Errors
    /// The guest's refusal, or what became of it; within `configure_timeout`. The wait for
    /// another plugin that is being configured counts.
    pub async fn configure(self: &Arc<Self>, config_json: &str) -> Result<Filter, ConfigureError> {
        let limits = Limits {
            call_timeout: self.limits.configure_timeout,
            ..self.limits
        };
        let attempt = async {
            let _one_at_a_time = self.host.configuring.lock().await;
            let mut instance =
                Instance::setup(&self.host, &self.identity, &self.pre, &limits).await?;
            instance.configure(config_json, &limits).await
        };
        match tokio::time::timeout(self.limits.configure_timeout, attempt).await {
            Ok(Ok(hooks)) => Ok(Filter::new(Arc::clone(self), config_json, hooks)),
            Ok(Err(FilterError::Configure(problem))) => Err(ConfigureError::Rejected(problem)),
            Err(_) | Ok(Err(FilterError::Timeout)) => Err(ConfigureError::Timeout),
            Ok(Err(error)) => Err(ConfigureError::Failed(error)),
        }
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// How long [`Host::load`] took, the wait for other plugins not counted.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Whether the compiled code was already there.
    pub fn from_cache(&self) -> bool {
        self.from_cache
    }

    /// SHA-256 of the file, in hex.
    pub fn content_hash(&self) -> &str {
        &self.content_hash
    }

    /// The most linear memory that one of its instances had so far, bytes; right after the load, what
    /// an instance is born with.
    pub fn peak_memory(&self) -> usize {
        self.identity.peak_memory.load(Ordering::Relaxed)
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.identity.name)
            .field("description", &self.description)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Compiles a component, or takes it from the cache; says which.
fn compile(host: &Host, binary: &[u8]) -> Result<(Component, bool), LoadError> {
    if let Some(cache) = &host.cache
        && let Some(component) = cache.get(&host.engine, binary)
    {
        return Ok((component, true));
    }
    let component = Component::from_binary(&host.engine, binary)
        .map_err(|e| LoadError::Compile(format!("{e:#}")))?;
    if let Some(cache) = &host.cache {
        cache.put(&host.engine, binary, &component);
    }
    Ok((component, false))
}

/// A description fit for banners, log lines and metrics.
fn checked(description: about::Description) -> Result<Description, LoadError> {
    let about::Description {
        name,
        version,
        hooks,
        config_schema,
    } = description;
    for (what, text) in [("name", &name), ("version", &version)] {
        if text.is_empty() || text.len() > MAX_WORD || !text.bytes().all(|b| b.is_ascii_graphic()) {
            let text = escape(text);
            return Err(LoadError::Description(format!(
                "{what} `{text}` is not 1 to {MAX_WORD} visible ASCII characters"
            )));
        }
    }
    Ok(Description {
        name,
        version,
        request_hook: hooks.contains(about::Hooks::REQUEST),
        response_hook: hooks.contains(about::Hooks::RESPONSE),
        config_schema: config_schema.map(Into::into),
    })
}

/// Drives a future on this thread; meant for guests in set-up, which never wait for anything.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// A plugin's name and version, characters each.
const MAX_WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_short_and_visible() {
        #[track_caller]
        fn check(name: &str, version: &str, ok: bool) {
            let description = about::Description {
                name: name.into(),
                version: version.into(),
                hooks: about::Hooks::RESPONSE,
                config_schema: None,
            };
            match checked(description) {
                Ok(description) => {
                    assert!(ok && !description.request_hook && description.response_hook);
                }
                Err(error) => assert!(!ok, "{error}"),
            }
        }
        check("api-key", "0.1.0", true);
        check("", "0.1.0", false);
        check("api-key", "", false);
        check("api key", "1", false);
        check("a\nb", "1", false);
        check(&"a".repeat(65), "1", false);
    }
}
