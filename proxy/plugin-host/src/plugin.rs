//! A compiled plugin: what it says of itself, what it may use, and the way from a config to a
//! filter.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sluicegate_plugin_services::clock::Clock;
use sluicegate_plugin_services::crypto::Passwords;
use sluicegate_plugin_services::kv::{KvStore, NoStore};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::bindings::{Hooks, Pre, about};
use crate::cache::{What, sha256_hex};
use crate::component::{Needs, PRESENT, plugin_component};
use crate::error::{ConfigureError, FilterError, LoadError};
use crate::filter::{Filter, Start};
use crate::grants::Grants;
use crate::host::Host;
use crate::image;
use crate::instance::Instance;
use crate::log::{LogGate, escape};
use crate::messages::Interest;
use crate::metrics::PluginMetrics;

/// What one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, bytes.
    pub memory: u64,
    /// CPU time of one call, in steps of a millisecond.
    pub call_timeout: Duration,
    /// Wall-clock time of one call, with all that it asks of the host.
    pub wall_timeout: Duration,
    /// Wall-clock time `configure` may take when the plugin is loaded.
    pub configure_timeout: Duration,
    /// Instances alive at once in the whole process; further handshakes wait.
    pub instances: NonZeroU32,
    /// How long a handshake waits for an instance.
    pub instance_wait: Duration,
    /// The body of a response that the plugin makes itself, bytes; at most 64 KiB.
    pub response_body: usize,
    /// Lines in the log, a second.
    pub log_lines: u32,
    /// The message of one, and each of its fields, bytes.
    pub log_line: usize,
    /// One HTTP request of the plugin's own, from connecting to the end of the answer.
    pub http_timeout: Duration,
    /// The body of an answer to one, bytes.
    pub http_body: usize,
    /// What one call about a message may return in messages, replaced and its own together, bytes.
    pub message_output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 16 << 20,
            call_timeout: Duration::from_millis(50),
            configure_timeout: Duration::from_secs(5),
            instances: const { NonZeroU32::new(256).unwrap() },
            wall_timeout: Duration::from_secs(2),
            instance_wait: Duration::from_secs(1),
            response_body: 64 << 10,
            log_lines: 100,
            log_line: 1 << 10,
            http_timeout: Duration::from_secs(5),
            http_body: 1 << 20,
            message_output: 1 << 20,
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
    pub message_hooks: bool,
    /// The JSON Schema of its config, as text, if it has one.
    pub config_schema: Option<Box<str>>,
    /// Interfaces that it imports and can do without: `kv`, `outbound`.
    pub optional: Vec<String>,
}

/// A compiled plugin that fits the interface.
pub struct Plugin {
    pub(crate) host: Arc<Host>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) pre: Pre,
    pub(crate) limits: Limits,
    pub(crate) permits: Arc<Semaphore>,
    /// It calls what may take longer than others should wait for it.
    pub(crate) waits: bool,
    /// The file, for images.
    pub(crate) wasm: Box<[u8]>,
    /// What images are made with, once one is wanted; it belongs to another engine.
    pub(crate) mould: OnceLock<Pre>,
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
        let content_hash = sha256_hex(wasm);
        let identity = Arc::new(Identity {
            name: name.into(),
            log: LogGate::new(limits.log_lines, limits.log_line),
            limits,
            grants: grants.clone(),
            clock: Arc::clone(&host.clock),
            kv: match grants.kv {
                true => host.store.part(name),
                false => Arc::new(NoStore),
            },
            passwords: Arc::clone(&host.passwords),
            metrics: host.metrics().plugin(name),
            peak_memory: AtomicUsize::new(0),
        });
        let (loaded, from_cache) = match known(host, grants, &content_hash)? {
            Some(loaded) => (loaded, true),
            None => (compile(host, &identity, wasm, &content_hash)?, false),
        };
        Ok(Arc::new(Plugin {
            host: Arc::clone(host),
            identity,
            pre: loaded.pre,
            limits,
            permits: Arc::new(Semaphore::new(limits.instances.get() as usize)),
            waits: loaded.waits,
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
        let (cost, hooks, interest) =
            match tokio::time::timeout(self.limits.configure_timeout, self.try_out(config_json))
                .await
            {
                Ok(Ok(tried)) => tried,
                Ok(Err(FilterError::Configure(problem))) => {
                    return Err(ConfigureError::Rejected(problem));
                }
                Err(_) | Ok(Err(FilterError::Timeout)) => return Err(ConfigureError::Timeout),
                Ok(Err(error)) => return Err(ConfigureError::Failed(error)),
            };
        let start = if cost <= self.host.cheap_configure {
            Start::Configure(config_json.into())
        } else {
            match image::of(self, config_json).await {
                Ok(image) => Start::Image(Arc::new(image)),
                Err(_) if cost >= self.limits.call_timeout => {
                    return Err(ConfigureError::Dear(cost));
                }
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
        Ok(Filter::new(Arc::clone(self), start, hooks, interest))
    }

    /// Runs `configure` in fresh instances; says what it costs in one whose code and memory are warm, and
    /// the hooks that this config uses, and what it wants of messages.
    async fn try_out(
        &self,
        config_json: &str,
    ) -> Result<(Duration, Hooks, Option<Interest>), FilterError> {
        let limits = self.configure_limits();
        let quiet = self.quiet_identity();
        let _one_at_a_time = self.host.configuring.lock().await;
        let (all, mut least) = (Instant::now(), Duration::MAX);
        let mut run = 0;
        loop {
            let identity = if run == 0 { &self.identity } else { &quiet };
            let machine = &self.host.machine;
            let mut instance =
                Instance::talking(machine, identity, &self.pre, &limits, &Arc::from(""), None)
                    .await?;
            let began = Instant::now();
            let hooks = instance.configure(config_json, &limits).await?;
            // Whatever disturbs a run makes it longer, so the shortest says most.
            least = least.min(began.elapsed());
            let cheap = self.host.cheap_configure;
            run += 1;
            // The first run may have found the code cold, so it alone condemns nobody.
            let dear = run > 1 && least > cheap.saturating_mul(SURELY_DEAR);
            // Nor may measuring use up what was meant for a slow one.
            let long = all.elapsed() > self.limits.configure_timeout / 10;
            if run == TRIALS || least <= cheap || dear || long {
                let interest = match hooks.messages && self.description.message_hooks {
                    true => Some(instance.wants(&limits).await?),
                    false => None,
                };
                return Ok((least, hooks, interest));
            }
        }
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
        let own = &*self.identity;
        Arc::new(Identity {
            name: Arc::clone(&own.name),
            log: LogGate::silent(),
            limits: own.limits,
            grants: own.grants.clone(),
            clock: Arc::clone(&own.clock),
            kv: Arc::clone(&own.kv),
            passwords: Arc::clone(&own.passwords),
            metrics: Arc::clone(&own.metrics),
            peak_memory: AtomicUsize::new(0),
        })
    }

    pub fn host(&self) -> &Host {
        &self.host
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

    /// The most linear memory that one of its instances had so far, bytes; right after it was compiled,
    /// what an instance is born with.
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

/// What comes of a file.
struct Loaded {
    pre: Pre,
    description: Description,
    waits: bool,
}

/// What the cache keeps beside the code: all that is known of a file without reading it.
#[derive(Serialize, Deserialize)]
struct Note {
    needs: Needs,
    description: Description,
}

/// A plugin that was here before.
fn known(host: &Host, grants: &Grants, content_hash: &str) -> Result<Option<Loaded>, LoadError> {
    let engine = &host.machine.engine;
    let found = host
        .cache
        .as_ref()
        .and_then(|cache| cache.component(engine, What::Plugin, content_hash))
        .and_then(|(note, component)| Some((serde_json::from_slice(&note).ok()?, component)));
    let Some((Note { needs, description }, component)) = found else {
        return Ok(None);
    };
    needs.check(grants, &description.optional)?;
    let pre = host
        .machine
        .link(&component, needs.dialect, needs.wasi())
        .map_err(|e| unfit(&e))?;
    Ok(Some(Loaded {
        pre,
        description,
        waits: needs.waits(grants),
    }))
}

/// Checks and compiles a plugin, asks it about itself, and puts it into the cache.
fn compile(
    host: &Host,
    identity: &Arc<Identity>,
    wasm: &[u8],
    content_hash: &str,
) -> Result<Loaded, LoadError> {
    let Host { machine, cache, .. } = host;
    let (binary, needs) = plugin_component(wasm)?;
    // What it can do without it says itself: until it has, all of that counts as such.
    needs.check(&identity.grants, &OPTIONAL.map(str::to_owned))?;
    let compile = || Component::from_binary(&machine.engine, &binary);
    let (component, functions) = host.functions.record(compile);
    let component = component.map_err(|e| LoadError::Compile(format!("{e:#}")))?;
    let pre = machine
        .link(&component, needs.dialect, needs.wasi())
        .map_err(|e| unfit(&e))?;
    let limits = &identity.limits;
    let description = block_on(async {
        let mut instance = Instance::setup(machine, identity, &pre, limits).await?;
        instance.describe(limits).await
    });
    let description = checked(description.map_err(LoadError::Describe)?)?;
    if description.message_hooks != needs.dialect.messages {
        return Err(LoadError::Messages {
            says: description.message_hooks,
        });
    }
    needs.check(&identity.grants, &description.optional)?;
    let note = Note { needs, description };
    if let Some(cache) = cache
        && let Ok(note) = serde_json::to_vec(&note)
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
    Ok(Loaded {
        pre,
        description: note.description,
        waits: note.needs.waits(&identity.grants),
    })
}

fn unfit(error: &wasmtime::Error) -> LoadError {
    LoadError::Interface(format!(
        "{error:#}; rebuild it with the SDK of this sluicegate (interface {PRESENT})"
    ))
}

/// A description fit for banners, log lines and metrics.
fn checked(description: about::Description) -> Result<Description, LoadError> {
    let about::Description {
        name,
        version,
        hooks,
        config_schema,
        optional,
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
        message_hooks: hooks.contains(about::Hooks::MESSAGES),
        config_schema: config_schema.map(Into::into),
        optional: optional
            .into_iter()
            .filter(|name| OPTIONAL.contains(&name.as_str()))
            .collect(),
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
/// What a plugin may say it can do without: its calls can answer that it is not there.
const OPTIONAL: [&str; 2] = ["kv", "outbound"];
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
                optional: vec!["kv".into(), "log".into()],
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
