//! One instance of a plugin: its store, its limits, and the calls into it.
//!
//! Between two calls an instance is sound: nothing runs in it, nothing is lent to it. A call that
//! traps, overruns a limit, gives no usable reply or is dropped half way leaves it unsound for
//! good, and it is never called again.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use sluicegate_plugin_rules as rules;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component;
use wasmtime::{Store, UpdateDeadline, WasmBacktrace};

use crate::bindings::messages::MessageHooks;
use crate::bindings::{Exports, Hit, Hooks, Pre, State, about, wit};
use crate::error::FilterError;
use crate::filter::{CallFacts, RequestHead, ResponseHead, Verdict};
use crate::log::escape;
use crate::machine::Machine;
use crate::plugin::{Identity, Limits};
use crate::ticker::Ticker;

mod talk;

/// The right to an instance.
pub(crate) struct Permits {
    pub(crate) _of_plugin: OwnedSemaphorePermit,
    pub(crate) _of_host: OwnedSemaphorePermit,
    /// To one that lasts as long as tunnels do.
    pub(crate) _to_last: Option<OwnedSemaphorePermit>,
}

/// An instance of a plugin and everything it holds on to: too much to be moved around.
pub(crate) struct Instance {
    store: Store<State>,
    exports: Exports,
    /// Where it was made for conversations.
    messages: Option<MessageHooks>,
    ticker: Arc<Ticker>,
    /// No call is under way, and none has failed.
    sound: bool,
    /// Requests it was asked about.
    requests: u32,
    /// Given back after the store: the pool's slot is free before somebody is let in for it.
    _permits: Option<Permits>,
}

impl Instance {
    /// An instance outside of handshakes; `Host` sees to it that there are few at a time.
    pub(crate) async fn setup(
        machine: &Machine,
        identity: &Arc<Identity>,
        pre: &Pre,
        limits: &Limits,
    ) -> Result<Box<Self>, FilterError> {
        Self::new(machine, identity, pre, limits, &Arc::from(""), None).await
    }

    /// An instance that counts against the limits for as long as it lives.
    pub(crate) async fn new(
        machine: &Machine,
        identity: &Arc<Identity>,
        pre: &Pre,
        limits: &Limits,
        route: &Arc<str>,
        permits: Option<Permits>,
    ) -> Result<Box<Self>, FilterError> {
        let mut store = store(machine, identity, limits, route);
        let exports = {
            let _running = machine.ticker.running();
            pre.instantiate(&mut store).await
        };
        match exports {
            Ok(exports) => Ok(Box::new(Self::of(store, exports, machine, permits))),
            Err(error) => Err(failure(&store, &error)),
        }
    }

    /// An instance that is made to be taken apart after some calls: the second half is what
    /// [`Instance::into_store`] then needs to have in hand.
    pub(crate) async fn dissectible(
        machine: &Machine,
        identity: &Arc<Identity>,
        pre: &Pre,
        limits: &Limits,
    ) -> Result<(Self, component::Instance), FilterError> {
        let mut store = store(machine, identity, limits, &Arc::from(""));
        let made = {
            let _running = machine.ticker.running();
            // What a start function learnt would be frozen as well.
            store.data_mut().configuring = true;
            pre.dissect(&mut store).await
        };
        match made {
            Ok((exports, inner)) => Ok((Self::of(store, exports, machine, None), inner)),
            Err(error) => Err(failure(&store, &error)),
        }
    }

    fn of(
        store: Store<State>,
        exports: Exports,
        machine: &Machine,
        permits: Option<Permits>,
    ) -> Self {
        Instance {
            store,
            exports,
            messages: None,
            ticker: Arc::clone(&machine.ticker),
            sound: true,
            requests: 0,
            _permits: permits,
        }
    }

    /// What holds the instance's memory, ready for calls as long as one of these limits.
    pub(crate) fn into_store(self, limits: &Limits) -> Store<State> {
        let mut store = self.store;
        allow(&mut store, limits);
        store
    }

    /// Whether it may be called again.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound
    }

    /// How many requests it was asked about.
    pub(crate) fn requests(&self) -> u32 {
        self.requests
    }

    pub(crate) async fn describe(
        &mut self,
        limits: &Limits,
    ) -> Result<about::Description, FilterError> {
        let _running = self.ticker.running();
        self.sound = false;
        allow(&mut self.store, limits);
        let result = self.exports.describe(&mut self.store).await;
        let description = result.map_err(|error| failure(&self.store, &error))?;
        self.sound = true;
        Ok(description)
    }

    /// `FilterError::Configure` is the guest's refusal, escaped.
    pub(crate) async fn configure(
        &mut self,
        config: &str,
        limits: &Limits,
    ) -> Result<Hooks, FilterError> {
        let _running = self.ticker.running();
        self.sound = false;
        allow(&mut self.store, limits);
        match self.exports.configure(&mut self.store, config).await {
            Ok(Ok(hooks)) => {
                self.sound = true;
                Ok(hooks)
            }
            Ok(Err(problem)) => Err(FilterError::Configure(problem)),
            Err(error) => Err(failure(&self.store, &error)),
        }
    }

    /// As [`Instance::configure`], with a config that the plugin took when it was loaded: what it logs was
    /// said then.
    pub(crate) async fn configure_again(
        &mut self,
        config: &str,
        limits: &Limits,
    ) -> Result<Hooks, FilterError> {
        self.store.data_mut().repeats = true;
        let configured = self.configure(config, limits).await;
        self.store.data_mut().repeats = false;
        configured
    }

    /// Lends the guest a request and asks it; [`Instance::take_request`] takes it back.
    pub(crate) async fn on_request(&mut self, limits: &Limits) -> Result<Verdict, FilterError> {
        self.sound = false;
        self.requests = self.requests.saturating_add(1);
        allow(&mut self.store, limits);
        let result = {
            let _running = self.ticker.running();
            self.exports.on_request(&mut self.store).await
        };
        self.judged(result, limits)
    }

    pub(crate) async fn on_response(&mut self, limits: &Limits) -> Result<Verdict, FilterError> {
        self.sound = false;
        allow(&mut self.store, limits);
        let result = {
            let _running = self.ticker.running();
            self.exports.on_response(&mut self.store).await
        };
        self.judged(result, limits)
    }

    pub(crate) fn lend_request(&mut self, head: Box<RequestHead>) {
        let state = self.store.data_mut();
        state.facts = Some(Arc::clone(&head.facts));
        state.kept = Bytes::new();
        state.request = Some(head);
    }

    /// As [`Instance::lend_request`], with what was kept at the request.
    pub(crate) fn lend_response(
        &mut self,
        head: Box<ResponseHead>,
        facts: Arc<CallFacts>,
        kept: Bytes,
    ) {
        let state = self.store.data_mut();
        state.facts = Some(facts);
        state.kept = kept;
        state.response = Some(head);
    }

    /// Ends the call: its edits stand, or the head is again as it was.
    pub(crate) fn take_request(&mut self, keep_edits: bool) -> Box<RequestHead> {
        let state = self.store.data_mut();
        state.end_call(keep_edits);
        match state.request.take() {
            Some(head) => head,
            None => unreachable!("only this function takes the head out"),
        }
    }

    /// As [`Instance::take_request`].
    pub(crate) fn take_response(&mut self, keep_edits: bool) -> Box<ResponseHead> {
        let state = self.store.data_mut();
        state.end_call(keep_edits);
        match state.response.take() {
            Some(head) => head,
            None => unreachable!("only this function takes the head out"),
        }
    }

    /// What the plugin's hooks of this handshake have kept so far.
    pub(crate) fn take_kept(&mut self) -> Bytes {
        std::mem::take(&mut self.store.data_mut().kept)
    }

    fn judged(
        &mut self,
        result: wasmtime::Result<wit::Verdict>,
        limits: &Limits,
    ) -> Result<Verdict, FilterError> {
        let verdict = match result {
            Ok(wit::Verdict::Continue) => Verdict::Continue,
            Ok(wit::Verdict::Respond(reply)) => Verdict::Respond(checked(reply, limits)?),
            Err(error) => return Err(failure(&self.store, &error)),
        };
        self.sound = true;
        Ok(verdict)
    }
}

fn store(
    machine: &Machine,
    identity: &Arc<Identity>,
    limits: &Limits,
    route: &Arc<str>,
) -> Store<State> {
    let state = State::new(Arc::clone(identity), Arc::clone(route), limits.memory);
    let mut store = Store::new(&machine.engine, state);
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
    store
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

fn checked(reply: wit::Reply, limits: &Limits) -> Result<Response<Bytes>, FilterError> {
    let wit::Reply {
        status,
        headers,
        body,
    } = reply;
    let (size, limit) = (body.len(), limits.response_body);
    if size > limit {
        return Err(FilterError::ReplyBody { size, limit });
    }
    rules::reply(status, &headers, Bytes::from(body)).map_err(FilterError::BadReply)
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

/// What one host call may copy out of a guest, bytes.
const MAX_ARGUMENTS: usize = 1 << 20;
const MAX_FRAMES: usize = 20;
