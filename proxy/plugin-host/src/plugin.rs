//! A compiled plugin: what it says of itself, what it may use, and the way from a config to a
//! filter.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::bindings::{HandshakeFilterPre, State, about};
use crate::cache::{What, sha256_hex};
use crate::component::plugin_component;
use crate::error::{ConfigureError, FilterError, LoadError};
use crate::filter::{Filter, Start};
use crate::host::Host;
use crate::image;
use crate::instance::Instance;
use crate::log::{LogGate, escape};

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
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 16 << 20,
            call_timeout: Duration::from_millis(50),
            configure_timeout: Duration::from_secs(5),
            instances: const { NonZeroU32::new(256).unwrap() },
        }
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub request_hook: bool,
    pub response_hook: bool,
}

/// A compiled plugin that fits the interface.
pub struct Plugin {
    pub(crate) host: Arc<Host>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) pre: HandshakeFilterPre<State>,
    pub(crate) limits: Limits,
    pub(crate) permits: Arc<Semaphore>,
    /// The file, for images.
    pub(crate) wasm: Box<[u8]>,
    /// What images are made with, once one is wanted; it belongs to another engine.
    pub(crate) mould: OnceLock<HandshakeFilterPre<State>>,
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
    /// Where the guest's monotonic clock begins.
    pub(crate) started: Instant,
}

impl Plugin {
    pub(crate) fn load(
        host: &Arc<Host>,
        name: &str,
        wasm: &[u8],
        limits: Limits,
    ) -> Result<Arc<Self>, LoadError> {
        if limits.memory > host.max_memory {
            return Err(LoadError::MemoryLimit {
                limit: limits.memory,
                max: host.max_memory,
            });
        }
        let _one_at_a_time = host.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let content_hash = sha256_hex(wasm);
        let identity = Arc::new(Identity {
            name: name.into(),
            log: LogGate::new(),
            started: host.started,
        });
        let (loaded, from_cache) = match known(host, &content_hash)? {
            Some(loaded) => (loaded, true),
            None => (
                compile(host, &identity, &limits, wasm, &content_hash)?,
                false,
            ),
        };
        Ok(Arc::new(Plugin {
            host: Arc::clone(host),
            identity,
            pre: loaded.pre,
            limits,
            permits: Arc::new(Semaphore::new(limits.instances.get() as usize)),
            wasm: wasm.into(),
            mould: OnceLock::new(),
            description: loaded.description,
            load_time: began.elapsed(),
            from_cache,
            content_hash,
        }))
    }

    /// Proves that the plugin takes this config (a JSON object), in an instance of its own that
    /// does not count against `instances`.
    ///
    /// A dear config gets an image of the memory that it makes, on a thread for blocking work, which
    /// takes some tenths of a second. Where that cannot be done, a line in the log says why, and
    /// `configure` runs in every instance.
    ///
    /// # Errors
    /// The guest's refusal, or what became of it; within `configure_timeout`. The wait for
    /// another plugin that is being configured counts.
    pub async fn configure(self: &Arc<Self>, config_json: &str) -> Result<Filter, ConfigureError> {
        let cost =
            match tokio::time::timeout(self.limits.configure_timeout, self.try_out(config_json))
                .await
            {
                Ok(Ok(cost)) => cost,
                Ok(Err(FilterError::Configure(text))) => {
                    return Err(ConfigureError::Rejected(text));
                }
                Err(_) | Ok(Err(FilterError::Timeout)) => return Err(ConfigureError::Timeout),
                Ok(Err(error)) => return Err(ConfigureError::Failed(error)),
            };
        let start = if cost <= self.host.cheap_configure {
            Start::Configure(config_json.into())
        } else {
            match image::of(self, config_json).await {
                Ok(image) => Start::Image(Arc::new(image)),
                Err(refusal) => {
                    let plugin = self.name();
                    tracing::warn!(
                        target: "sluicegate::plugin",
                        plugin,
                        "configure takes {cost:.1?} in each instance, as its memory cannot be kept: {refusal}"
                    );
                    Start::Configure(config_json.into())
                }
            }
        };
        Ok(Filter::new(Arc::clone(self), start))
    }

    /// Runs `configure` in fresh instances; says what it costs in one whose code and memory are warm.
    async fn try_out(&self, config_json: &str) -> Result<Duration, FilterError> {
        let limits = self.configure_limits();
        let quiet = self.quiet_identity();
        let _one_at_a_time = self.host.configuring.lock().await;
        let (all, mut least) = (Instant::now(), Duration::MAX);
        for run in 0..TRIALS {
            let identity = if run == 0 { &self.identity } else { &quiet };
            let machine = &self.host.machine;
            let mut instance = Instance::setup(machine, identity, &self.pre, &limits).await?;
            let began = Instant::now();
            instance.configure(config_json, &limits).await?;
            // Whatever disturbs a run makes it longer, so the shortest says most.
            least = least.min(began.elapsed());
            let cheap = self.host.cheap_configure;
            // The first run may have found the code cold, so it alone condemns nobody.
            let dear = run > 0 && least > cheap.saturating_mul(SURELY_DEAR);
            // Nor may measuring use up what was meant for a slow one.
            let long = all.elapsed() > self.limits.configure_timeout / 10;
            if least <= cheap || dear || long {
                break;
            }
        }
        Ok(least)
    }

    /// What `configure` may use when the plugin is loaded.
    pub(crate) fn configure_limits(&self) -> Limits {
        Limits {
            call_timeout: self.limits.configure_timeout,
            ..self.limits
        }
    }

    /// For instances that repeat what was done, and logged, before.
    pub(crate) fn quiet_identity(&self) -> Arc<Identity> {
        Arc::new(Identity {
            name: Arc::clone(&self.identity.name),
            log: LogGate::silent(),
            started: self.identity.started,
        })
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

/// What comes of a file.
struct Loaded {
    pre: HandshakeFilterPre<State>,
    description: Description,
}

/// A plugin that was here before.
fn known(host: &Host, content_hash: &str) -> Result<Option<Loaded>, LoadError> {
    let engine = &host.machine.engine;
    let found = host
        .cache
        .as_ref()
        .and_then(|cache| cache.component(engine, What::Plugin, content_hash))
        .and_then(|(note, component)| Some((serde_json::from_slice(&note).ok()?, component)));
    let Some((description, component)) = found else {
        return Ok(None);
    };
    let pre = host.machine.link(&component).map_err(|e| unfit(&e))?;
    Ok(Some(Loaded { pre, description }))
}

/// Checks and compiles a plugin, asks it about itself, and puts it into the cache.
fn compile(
    host: &Host,
    identity: &Arc<Identity>,
    limits: &Limits,
    wasm: &[u8],
    content_hash: &str,
) -> Result<Loaded, LoadError> {
    let Host { machine, cache, .. } = host;
    let binary = plugin_component(wasm)?;
    let compile = || Component::from_binary(&machine.engine, &binary);
    let (component, functions) = host.functions.record(compile);
    let component = component.map_err(|e| LoadError::Compile(format!("{e:#}")))?;
    let pre = machine.link(&component).map_err(|e| unfit(&e))?;
    let description = block_on(async {
        let mut instance = Instance::setup(machine, identity, &pre, limits).await?;
        instance.describe(limits).await
    });
    let description = checked(description.map_err(LoadError::Describe)?)?;
    if let Some(cache) = cache
        && let Ok(note) = serde_json::to_vec(&description)
    {
        cache.put_component(
            &machine.engine,
            What::Plugin,
            content_hash,
            &note,
            &component,
        );
        cache.put(&machine.engine, What::Functions, content_hash, &functions);
    }
    Ok(Loaded { pre, description })
}

fn unfit(error: &wasmtime::Error) -> LoadError {
    LoadError::Interface(format!("{error:#}"))
}

/// A description fit for banners, log lines and metrics.
fn checked(description: about::Description) -> Result<Description, LoadError> {
    let about::Description {
        name,
        version,
        hooks,
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
        request_hook: hooks.contains(&about::Hook::Request),
        response_hook: hooks.contains(&about::Hook::Response),
    })
}

/// Drives a future on this thread; meant for guests in set-up, which never wait for anything.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
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

/// Runs of `configure` until its cost is known.
const TRIALS: u32 = 5;
/// So many times what is cheap needs no further run to be called dear.
const SURELY_DEAR: u32 = 20;
/// A plugin's name and version, characters each.
const MAX_WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_short_and_visible() {
        #[track_caller]
        fn check(name: &str, version: &str, ok: bool) {
            let hooks = vec![about::Hook::Response];
            let description = about::Description {
                name: name.into(),
                version: version.into(),
                hooks,
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
