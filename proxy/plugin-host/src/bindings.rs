//! The interface as the host sees it: generated bindings of the versions it speaks, the state of one
//! instance, and what a guest may call (`heads`, `services`).
//!
//! An instance works on one head at a time, so its handles need no table: a request or response
//! handle stands for the head that the state holds. Handles are lent for one call, and the
//! component model does not let a guest keep them.

mod heads;
pub(crate) mod messages;
mod services;
mod v0_1;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use sluicegate_plugin_rules::{self as rules, Session};
use wasmtime::component::{HasSelf, Instance, InstancePre, Linker, Resource};
use wasmtime::{ResourceLimiter, Store};

use crate::component::{Dialect, Version};
use crate::error::ConfigProblem;
use crate::filter::{CallFacts, RequestHead, ResponseHead};
use crate::log::escape;
use crate::plugin::Identity;
use crate::undo::Undo;
use crate::wasi::WasiState;

pub(crate) use generated::sluicegate::plugin::{about, http as wit};

use generated::{HandshakeFilter, HandshakeFilterIndices};
use messages::{MessageHooks, MessageHooksIndices};

mod generated {
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit/0.2.0",
        world: "handshake-filter",
        imports: {
            "sluicegate:plugin/clock.now": trappable,
            "sluicegate:plugin/clock.monotonic-now": trappable,
            "sluicegate:plugin/random.bytes": trappable,
            "sluicegate:plugin/metrics.count": trappable,
            "sluicegate:plugin/metrics.gauge": trappable,
            "sluicegate:plugin/metrics.observe": trappable,
            "sluicegate:plugin/crypto.hash": trappable,
            "sluicegate:plugin/crypto.hmac": trappable,
            "sluicegate:plugin/crypto.verify-hmac": trappable,
            "sluicegate:plugin/crypto.verify": trappable,
            "sluicegate:plugin/crypto.constant-time-equal": trappable,
            "sluicegate:plugin/crypto.verify-password": async | trappable,
            "sluicegate:plugin/kv.get": async | trappable,
            "sluicegate:plugin/kv.set": async | trappable,
            "sluicegate:plugin/kv.add": async | trappable,
            "sluicegate:plugin/kv.compare-and-set": async | trappable,
            "sluicegate:plugin/kv.increment": async | trappable,
            "sluicegate:plugin/kv.delete": async | trappable,
            "sluicegate:plugin/outbound.send": async | trappable,
        },
        exports: { default: async },
        with: {
            "sluicegate:plugin/http.request": super::RequestHandle,
            "sluicegate:plugin/http.response": super::ResponseHandle,
        },
    });
}

/// A component that fits one of the versions of the interface, linked.
#[derive(Clone)]
pub(crate) enum Pre {
    Current(Current),
    V0_1(v0_1::HandshakeFilterPre<State>),
}

/// One that fits the present version.
#[derive(Clone)]
pub(crate) struct Current {
    pre: InstancePre<State>,
    handshake: HandshakeFilterIndices,
    /// Where it has the hooks of messages.
    messages: Option<MessageHooksIndices>,
}

/// The exports of an instance.
pub(crate) enum Exports {
    Current(HandshakeFilter),
    V0_1(v0_1::HandshakeFilter),
}

/// The hooks that do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hooks {
    pub(crate) request: bool,
    pub(crate) response: bool,
    pub(crate) messages: bool,
}

/// Stands for [`State::request`].
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it again")]
pub struct RequestHandle;

/// Stands for [`State::response`].
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the bindings export it again")]
pub struct ResponseHandle;

/// What belongs to one instance.
pub(crate) struct State {
    pub(crate) plugin: Arc<Identity>,
    /// For log lines; empty while no request is known.
    pub(crate) route: Arc<str>,
    pub(crate) request: Option<Box<RequestHead>>,
    pub(crate) response: Option<Box<ResponseHead>>,
    /// Of the request whose head is lent, or of the conversation that is going on.
    pub(crate) facts: Option<Arc<CallFacts>>,
    /// What the plugin's hooks of this handshake have kept.
    pub(crate) kept: Bytes,
    /// `configure` is running, which may only log.
    pub(crate) configuring: bool,
    /// What runs has run and logged before, with the same config.
    pub(crate) repeats: bool,
    /// What this call has edited.
    undo: Undo,
    /// Epoch ticks left to this call.
    pub(crate) ticks: u64,
    /// A limit that this instance hit; it is not called again.
    pub(crate) hit: Option<Hit>,
    /// For guests with WASI, once they ask for something of it.
    pub(crate) wasi: Option<Box<WasiState>>,
    memory: usize,
    max_memory: usize,
}

/// A limit that ends an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    Time,
    Memory,
}

impl State {
    pub(crate) fn new(plugin: Arc<Identity>, route: Arc<str>, max_memory: u64) -> Self {
        State {
            plugin,
            route,
            request: None,
            response: None,
            facts: None,
            kept: Bytes::new(),
            configuring: false,
            repeats: false,
            undo: Undo::default(),
            ticks: 0,
            hit: None,
            wasi: None,
            memory: 0,
            max_memory: usize::try_from(max_memory).unwrap_or(usize::MAX),
        }
    }

    /// Ends a call: its edits stand, or the head is again as it was.
    pub(crate) fn end_call(&mut self, keep_edits: bool) {
        // They lead to the generation that the request began with, which an idle instance must not
        // keep alive.
        self.facts = None;
        if keep_edits {
            self.undo.forget();
        } else if let Some(response) = &mut self.response {
            self.undo.fields(&mut response.headers);
            self.undo.session(&mut response.session);
        } else if let Some(request) = &mut self.request {
            self.undo.fields(&mut request.headers);
            self.undo.query(&mut request.query);
            self.undo.upstream(&mut request.upstream);
            self.undo.session(&mut request.session);
        }
    }

    /// The session, as filters know it so far.
    fn session(&self) -> &Session {
        match (&self.response, &self.request) {
            (Some(response), _) => &response.session,
            (None, Some(request)) => &request.session,
            (None, None) => &NO_SESSION,
        }
    }

    /// Edits the session in a way that can be undone. A guest that has a handle has a head.
    fn edit_session(
        &mut self,
        edit: impl FnOnce(&mut Session) -> Result<(), rules::EditError>,
    ) -> Result<(), wit::EditError> {
        let session = match (&mut self.response, &mut self.request) {
            (Some(response), _) => &mut response.session,
            (None, Some(request)) => &mut request.session,
            (None, None) => return Ok(()),
        };
        self.undo.note_session(session);
        edit(session).map_err(Into::into)
    }

    /// Keeps bytes for later hooks; of a call that fails nobody asks for them.
    fn keep_bytes(&mut self, data: Vec<u8>) -> Result<(), wit::EditError> {
        if data.len() > rules::MAX_KEPT {
            return Err(wit::EditError::TooLarge);
        }
        self.kept = data.into();
        Ok(())
    }

    /// Edits a field of the request, having seen to it that this can be undone.
    fn edit_request(
        &mut self,
        name: HeaderName,
        edit: impl FnOnce(&mut HeaderMap, HeaderName) -> Result<(), rules::EditError>,
    ) -> Result<(), wit::EditError> {
        let Some(request) = &mut self.request else {
            return Ok(());
        };
        self.undo.note_field(&request.headers, &name);
        edit(&mut request.headers, name).map_err(Into::into)
    }

    /// As [`State::edit_request`].
    fn edit_response(
        &mut self,
        name: HeaderName,
        edit: impl FnOnce(&mut HeaderMap, HeaderName) -> Result<(), rules::EditError>,
    ) -> Result<(), wit::EditError> {
        let Some(response) = &mut self.response else {
            return Ok(());
        };
        self.undo.note_field(&response.headers, &name);
        edit(&mut response.headers, name).map_err(Into::into)
    }

    /// Reads the request. A guest that has a handle has a request; a default is what it would
    /// get otherwise.
    fn read<T: Default>(&self, read: impl FnOnce(&RequestHead) -> T) -> T {
        self.request.as_deref().map(read).unwrap_or_default()
    }

    fn read_response<T: Default>(&self, read: impl FnOnce(&ResponseHead) -> T) -> T {
        self.response.as_deref().map(read).unwrap_or_default()
    }
}

/// Gives a linker everything that a guest may import.
pub(crate) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    HandshakeFilter::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    v0_1::link(linker)
}

impl Pre {
    /// Finds the exports of a component that was made for this version.
    pub(crate) fn new(dialect: Dialect, pre: InstancePre<State>) -> wasmtime::Result<Self> {
        Ok(match dialect.version {
            Version::Current => Pre::Current(Current {
                handshake: HandshakeFilterIndices::new(&pre)?,
                messages: match dialect.messages {
                    true => Some(MessageHooksIndices::new(&pre)?),
                    false => None,
                },
                pre,
            }),
            Version::V0_1 => Pre::V0_1(v0_1::HandshakeFilterPre::new(pre)?),
        })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Pre::Current(current) => Dialect {
                version: Version::Current,
                messages: current.messages.is_some(),
            },
            Pre::V0_1(_) => Dialect {
                version: Version::V0_1,
                messages: false,
            },
        }
    }

    pub(crate) async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        match self {
            Pre::Current(_) => Ok(self.dissect(store).await?.0),
            Pre::V0_1(pre) => Ok(Exports::V0_1(pre.instantiate_async(store).await?)),
        }
    }

    /// An instance in its two forms: what is called, and what its memories and further exports are found
    /// through.
    pub(crate) async fn dissect(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<(Exports, Instance)> {
        Ok(match self {
            Pre::Current(Current { pre, handshake, .. }) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                (
                    Exports::Current(handshake.load(store, &instance)?),
                    instance,
                )
            }
            Pre::V0_1(pre) => {
                let instance = pre.instance_pre().instantiate_async(&mut *store).await?;
                let exports = v0_1::HandshakeFilter::new(store, &instance)?;
                (Exports::V0_1(exports), instance)
            }
        })
    }

    /// An instance that talks; `None` where the plugin has no hooks of messages.
    pub(crate) async fn instantiate_talking(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<(Exports, Option<MessageHooks>)> {
        let (exports, instance) = self.dissect(store).await?;
        let hooks = match self {
            Pre::Current(Current {
                messages: Some(indices),
                ..
            }) => Some(indices.load(store, &instance)?),
            _ => None,
        };
        Ok((exports, hooks))
    }
}

impl Exports {
    pub(crate) async fn describe(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<about::Description> {
        match self {
            Exports::Current(exports) => exports.call_describe(store).await,
            Exports::V0_1(exports) => exports.call_describe(store).await.map(v0_1::description),
        }
    }

    /// The hooks that this config uses, or the guest's refusal.
    pub(crate) async fn configure(
        &self,
        store: &mut Store<State>,
        config: &str,
    ) -> wasmtime::Result<Result<Hooks, ConfigProblem>> {
        store.data_mut().configuring = true;
        let configured = match self {
            Exports::Current(exports) => {
                let configured = exports.call_configure(&mut *store, config).await?;
                configured.map(Hooks::from).map_err(ConfigProblem::from)
            }
            Exports::V0_1(exports) => {
                let configured = exports.call_configure(&mut *store, config).await?;
                let both = Hooks {
                    request: true,
                    response: true,
                    messages: false,
                };
                configured.map(|()| both).map_err(|text| ConfigProblem {
                    pointer: String::new(),
                    message: escape(&text),
                })
            }
        };
        store.data_mut().configuring = false;
        Ok(configured)
    }

    pub(crate) async fn on_request(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<wit::Verdict> {
        let handle = Resource::<RequestHandle>::new_borrow(0);
        match self {
            Exports::Current(exports) => exports.call_on_request(store, handle).await,
            Exports::V0_1(exports) => {
                let verdict = exports.call_on_request(store, handle).await;
                verdict.map(v0_1::verdict)
            }
        }
    }

    pub(crate) async fn on_response(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<wit::Verdict> {
        let handle = Resource::<ResponseHandle>::new_borrow(0);
        match self {
            Exports::Current(exports) => exports.call_on_response(store, handle).await,
            Exports::V0_1(exports) => {
                let verdict = exports.call_on_response(store, handle).await;
                verdict.map(v0_1::verdict)
            }
        }
    }
}

impl about::Host for State {}

impl From<about::Hooks> for Hooks {
    fn from(hooks: about::Hooks) -> Self {
        Hooks {
            request: hooks.contains(about::Hooks::REQUEST),
            response: hooks.contains(about::Hooks::RESPONSE),
            messages: hooks.contains(about::Hooks::MESSAGES),
        }
    }
}

impl From<about::ConfigError> for ConfigProblem {
    fn from(error: about::ConfigError) -> Self {
        ConfigProblem {
            pointer: error.pointer,
            message: escape(&error.message),
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // All memories of the instance together.
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.max_memory {
            self.hit = Some(Hit::Memory);
            return Ok(false);
        }
        self.memory = total;
        // Written once in a while only: all workers share it.
        let peak = &self.plugin.peak_memory;
        if peak.load(Ordering::Relaxed) < total {
            peak.fetch_max(total, Ordering::Relaxed);
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

/// Elements of one table; the pool reserves as many.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 20_000;

static NO_SESSION: Session = Session {
    labels: Vec::new(),
    expires_at: None,
    max_lifetime: None,
};
