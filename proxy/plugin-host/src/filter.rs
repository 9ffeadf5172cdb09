//! One route's use of a plugin, and the calls of a handshake.
//!
//! An instance serves one handshake: it is instantiated, configured, asked about the request and,
//! if the plugin has that hook, about the response. A call that fails for any reason ends it, and
//! takes back what the call did to the head. Permits stand in front of the pool, so that a busy
//! moment means a wait and not a failure.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use sluicegate_plugin_rules as rules;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wasmtime::component::Resource;
use wasmtime::{Store, UpdateDeadline, WasmBacktrace};

use crate::bindings::{
    HandshakeFilter, HandshakeFilterPre, Hit, RequestHandle, ResponseHandle, State, about, wit,
};
use crate::error::FilterError;
use crate::host::{Host, Ticker};
use crate::log::escape;
use crate::plugin::{Identity, Limits, Plugin};

/// A plugin with one route's config. Cheap to clone.
#[derive(Clone)]
pub struct Filter {
    plugin: Arc<Plugin>,
    config: Arc<str>,
}

/// A request as a filter sees it.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    /// The normal form.
    pub path: Arc<str>,
    /// Without the `?`.
    pub query: Option<Arc<str>>,
    pub headers: HeaderMap,
    pub facts: Arc<CallFacts>,
}

/// An upstream's answer as a filter sees it.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// It accepts the upgrade.
    pub is_upgrade: bool,
    pub headers: HeaderMap,
}

/// What is known about a request and cannot be changed.
#[derive(Debug, Clone)]
pub struct CallFacts {
    pub client_ip: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Lower case, no port.
    pub host: Arc<str>,
    pub request_id: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    pub tls: Option<TlsFacts>,
}

/// What the TLS handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    pub version: &'static str,
    pub cipher: &'static str,
    pub sni: Option<Arc<str>>,
    pub client_subject: Option<Arc<str>>,
}

/// What a filter decides.
#[derive(Debug)]
pub enum Verdict {
    Continue,
    /// Checked: 200 to 599, at most 64 KiB, no protected field. It has no `content-length` yet.
    Respond(Response<Bytes>),
}

/// What came of a request hook.
#[derive(Debug)]
pub struct RequestOutcome {
    pub verdict: Verdict,
    /// The same instance, for the upstream's answer; `None` where the plugin has no such hook
    /// or has responded itself. It counts against `instances` until it is dropped.
    pub response_hook: Option<ResponseFilter>,
}

/// An instance that waits for the upstream's answer.
pub struct ResponseFilter {
    instance: Instance,
    filter: Filter,
}

impl Filter {
    pub(crate) fn new(plugin: Arc<Plugin>, config: &str) -> Self {
        Filter {
            plugin,
            config: config.into(),
        }
    }

    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Asks a fresh instance about a request.
    ///
    /// Waits at most a second for an instance. Then `configure` and the hook each have
    /// `call_timeout` of CPU time; the guest yields to other tasks each millisecond.
    ///
    /// # Errors
    /// See [`FilterError`]; the head then comes back as it was.
    pub async fn on_request(
        &self,
        head: RequestHead,
    ) -> (RequestHead, Result<RequestOutcome, FilterError>) {
        let limits = &self.plugin.limits;
        let mut instance = match within_wall(limits, self.configured(&head.facts.route)).await {
            Ok(instance) => instance,
            Err(error) => return (head, Err(error)),
        };
        instance.store.data_mut().request = Some(head);
        let verdict = within_wall(limits, instance.on_request(limits)).await;
        let state = instance.store.data_mut();
        state.end_call(verdict.is_ok());
        let Some(head) = state.request.take() else {
            unreachable!("only this function takes the head out");
        };
        let outcome = verdict.map(|verdict| {
            let waits =
                self.plugin.description().response_hook && matches!(verdict, Verdict::Continue);
            let response_hook = waits.then(|| ResponseFilter {
                instance,
                filter: self.clone(),
            });
            RequestOutcome {
                verdict,
                response_hook,
            }
        });
        (head, outcome)
    }

    /// A pristine instance that has this filter's config.
    async fn configured(&self, route: &Arc<str>) -> Result<Instance, FilterError> {
        let Plugin {
            host,
            identity,
            pre,
            limits,
            permits,
            ..
        } = &*self.plugin;
        let permits = timeout(INSTANCE_WAIT, async {
            let own = Arc::clone(permits).acquire_owned().await.ok()?;
            let shared = Arc::clone(&host.permits).acquire_owned().await.ok()?;
            Some([own, shared])
        });
        let permits = permits
            .await
            .ok()
            .flatten()
            .ok_or(FilterError::NoInstance)?;
        let mut instance = Instance::new(host, identity, pre, limits, route).await?;
        instance.permits = Some(permits);
        instance.configure(&self.config, limits).await?;
        Ok(instance)
    }
}

impl ResponseFilter {
    /// Asks the instance about the upstream's answer, and ends it.
    ///
    /// # Errors
    /// See [`FilterError`]; the head then comes back as it was.
    pub async fn on_response(
        mut self,
        head: ResponseHead,
    ) -> (ResponseHead, Result<Verdict, FilterError>) {
        let limits = &self.filter.plugin.limits;
        self.instance.store.data_mut().response = Some(head);
        let verdict = within_wall(limits, self.instance.on_response(limits)).await;
        let state = self.instance.store.data_mut();
        state.end_call(verdict.is_ok());
        let Some(head) = state.response.take() else {
            unreachable!("only this function takes the head out");
        };
        (head, verdict)
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }
}

/// An instance of a plugin and everything it holds on to.
pub(crate) struct Instance {
    store: Store<State>,
    bindings: HandshakeFilter,
    ticker: Arc<Ticker>,
    /// Given back after the store: the pool's slot is free before somebody is let in for it.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

impl Instance {
    /// An instance outside of handshakes; `Host` sees to it that there are few at a time.
    pub(crate) async fn setup(
        host: &Host,
        identity: &Arc<Identity>,
        pre: &HandshakeFilterPre<State>,
        limits: &Limits,
    ) -> Result<Self, FilterError> {
        Self::new(host, identity, pre, limits, &Arc::from("")).await
    }

    async fn new(
        host: &Host,
        identity: &Arc<Identity>,
        pre: &HandshakeFilterPre<State>,
        limits: &Limits,
        route: &Arc<str>,
    ) -> Result<Self, FilterError> {
        let state = State::new(Arc::clone(identity), Arc::clone(route), limits.memory);
        let mut store = Store::new(&host.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(MAX_ARGUMENTS);
        store.epoch_deadline_callback(|mut cx| {
            let state = cx.data_mut();
            let Some(left) = state.ticks.checked_sub(1) else {
                state.hit = Some(Hit::Time);
                return Ok(UpdateDeadline::Interrupt);
            };
            state.ticks = left;
            // tokio's own yield lets the runtime look at its sockets before it comes back here;
            // merely waking this task would not.
            Ok(UpdateDeadline::YieldCustom(
                1,
                Box::pin(tokio::task::yield_now()),
            ))
        });
        allow(&mut store, limits);
        let ticker = Arc::clone(&host.ticker);
        let bindings = {
            let _running = ticker.running();
            pre.instantiate_async(&mut store).await
        };
        match bindings {
            Ok(bindings) => Ok(Instance {
                store,
                bindings,
                ticker,
                permits: None,
            }),
            Err(error) => Err(failure(&store, &error)),
        }
    }

    pub(crate) async fn describe(
        &mut self,
        limits: &Limits,
    ) -> Result<about::Description, FilterError> {
        let _running = self.ticker.running();
        allow(&mut self.store, limits);
        let result = self.bindings.call_describe(&mut self.store).await;
        result.map_err(|error| failure(&self.store, &error))
    }

    /// `FilterError::Configure` is the guest's refusal, escaped.
    pub(crate) async fn configure(
        &mut self,
        config: &str,
        limits: &Limits,
    ) -> Result<(), FilterError> {
        let _running = self.ticker.running();
        allow(&mut self.store, limits);
        match self.bindings.call_configure(&mut self.store, config).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(text)) => Err(FilterError::Configure(escape(&text))),
            Err(error) => Err(failure(&self.store, &error)),
        }
    }

    async fn on_request(&mut self, limits: &Limits) -> Result<Verdict, FilterError> {
        let _running = self.ticker.running();
        allow(&mut self.store, limits);
        let handle = Resource::<RequestHandle>::new_borrow(0);
        match self.bindings.call_on_request(&mut self.store, handle).await {
            Ok(verdict) => judged(verdict),
            Err(error) => Err(failure(&self.store, &error)),
        }
    }

    async fn on_response(&mut self, limits: &Limits) -> Result<Verdict, FilterError> {
        let _running = self.ticker.running();
        allow(&mut self.store, limits);
        let handle = Resource::<ResponseHandle>::new_borrow(0);
        match self
            .bindings
            .call_on_response(&mut self.store, handle)
            .await
        {
            Ok(verdict) => judged(verdict),
            Err(error) => Err(failure(&self.store, &error)),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The config holds secrets.
        f.debug_struct("Filter")
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFilter")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// Gives the next call its CPU time.
fn allow(store: &mut Store<State>, limits: &Limits) {
    store.data_mut().ticks = limits
        .call_timeout
        .as_millis()
        .try_into()
        .unwrap_or(u64::MAX);
    store.set_epoch_deadline(1);
}

/// CPU time alone does not bound a wait: a call that others keep from running ends as well.
async fn within_wall<T>(
    limits: &Limits,
    call: impl Future<Output = Result<T, FilterError>>,
) -> Result<T, FilterError> {
    let wall = limits
        .call_timeout
        .saturating_mul(WALL_FACTOR)
        .max(MIN_WALL);
    timeout(wall, call)
        .await
        .unwrap_or(Err(FilterError::Timeout))
}

fn judged(verdict: wit::Verdict) -> Result<Verdict, FilterError> {
    match verdict {
        wit::Verdict::Continue => Ok(Verdict::Continue),
        wit::Verdict::Respond(wit::Reply {
            status,
            headers,
            body,
        }) => rules::reply(status, &headers, Bytes::from(body))
            .map(Verdict::Respond)
            .map_err(FilterError::BadReply),
    }
}

/// What ended a call, in our words.
fn failure(store: &Store<State>, error: &wasmtime::Error) -> FilterError {
    match store.data().hit {
        Some(Hit::Time) => return FilterError::Timeout,
        Some(Hit::Memory) => return FilterError::Memory,
        None => {}
    }
    // Printed, because only then are the names demangled; the first line is a heading.
    let printed = error
        .downcast_ref::<WasmBacktrace>()
        .map(ToString::to_string);
    let frames = printed
        .iter()
        .flat_map(|text| text.lines().skip(1).take(MAX_FRAMES));
    let frames: Vec<String> = frames.map(|frame| escape(frame.trim())).collect();
    FilterError::Trap {
        reason: escape(&error.root_cause().to_string()),
        backtrace: frames.join("\n"),
    }
}

/// How long a handshake waits for an instance.
const INSTANCE_WAIT: Duration = Duration::from_secs(1);
/// Wall-clock time of a call, in `call_timeout`s; and at least this long.
const WALL_FACTOR: u32 = 20;
const MIN_WALL: Duration = Duration::from_secs(2);
/// What one host call may copy out of a guest, bytes.
const MAX_ARGUMENTS: usize = 1 << 20;
const MAX_FRAMES: usize = 20;
