//! Calls about conversations, in an instance that lives as long as they do.
//!
//! A reaction that breaks a rule leaves the instance sound: what it holds of other conversations is not
//! touched by it. Everything else that goes wrong does not.

use std::sync::Arc;

use wasmtime::component::ResourceAny;

use super::{Instance, MAX_ARGUMENTS, Permits, allow, failure, store};
use crate::bindings::messages::{self, MessageHooks, wit};
use crate::bindings::{Pre, State};
use crate::error::FilterError;
use crate::filter::CallFacts;
use crate::machine::Machine;
use crate::messages::{Ending, Interest, Kind, Opening, Reaction, Side};
use crate::plugin::{Identity, Limits};

impl Instance {
    /// An instance for conversations, or to be asked what it wants of messages.
    pub(crate) async fn talking(
        machine: &Machine,
        identity: &Arc<Identity>,
        pre: &Pre,
        limits: &Limits,
        route: &Arc<str>,
        permits: Option<Permits>,
    ) -> Result<Box<Self>, FilterError> {
        let mut store = store(machine, identity, limits, route);
        let output = limits.message_output.saturating_add(INJECTIONS);
        store.set_hostcall_fuel(output.max(MAX_ARGUMENTS));
        let made = {
            let _running = machine.ticker.running();
            pre.instantiate_talking(&mut store).await
        };
        match made {
            Ok((exports, messages)) => {
                let mut instance = Box::new(Self::of(store, exports, machine, permits));
                instance.messages = messages;
                Ok(instance)
            }
            Err(error) => Err(failure(&store, &error)),
        }
    }

    /// What the plugin wants to see, once it is configured.
    pub(crate) async fn wants(&mut self, limits: &Limits) -> Result<Interest, FilterError> {
        self.begin(limits, None);
        let result = {
            let _running = self.ticker.running();
            let hooks = hooks(&self.messages)?.sluicegate_plugin_messages();
            hooks.call_wants(&mut self.store).await
        };
        self.ended(result, limits).map(Interest::from)
    }

    pub(crate) async fn open(
        &mut self,
        opening: &Opening,
        facts: &Arc<CallFacts>,
        limits: &Limits,
    ) -> Result<Option<ResourceAny>, FilterError> {
        let headers = messages::fields(&opening.headers);
        let labels = opening.labels.iter();
        let labels: Vec<_> = labels.map(|(name, value)| (&**name, &**value)).collect();
        let client_ip = opening.client_ip.to_string();
        let opening = wit::Opening {
            request_id: &opening.request_id,
            route: &opening.route,
            host: &opening.host,
            path: &opening.path,
            query: opening.query.as_deref(),
            client_ip: &client_ip,
            headers: &headers,
            subprotocol: opening.subprotocol.as_deref(),
            labels: &labels,
            kept: &opening.kept,
        };
        self.begin(limits, Some(facts));
        let result = {
            let _running = self.ticker.running();
            let hooks = hooks(&self.messages)?.sluicegate_plugin_messages();
            hooks.call_open(&mut self.store, opening).await
        };
        self.ended(result, limits)
    }

    pub(crate) async fn on_message(
        &mut self,
        conversation: ResourceAny,
        facts: &Arc<CallFacts>,
        (sender, kind, data): (Side, Kind, &[u8]),
        limits: &Limits,
    ) -> Result<Reaction, FilterError> {
        let (sender, message) = (messages::side(sender), messages::message(kind, data));
        self.begin(limits, Some(facts));
        let result = {
            let _running = self.ticker.running();
            let hooks = hooks(&self.messages)?.sluicegate_plugin_messages();
            let hooks = hooks.conversation();
            hooks
                .call_on_message(&mut self.store, conversation, sender, message)
                .await
        };
        let reaction = self.ended(result, limits)?;
        messages::checked(Some(kind), reaction, limits.message_output)
    }

    pub(crate) async fn on_timer(
        &mut self,
        conversation: ResourceAny,
        facts: &Arc<CallFacts>,
        limits: &Limits,
    ) -> Result<Reaction, FilterError> {
        self.begin(limits, Some(facts));
        let result = {
            let _running = self.ticker.running();
            let hooks = hooks(&self.messages)?.sluicegate_plugin_messages();
            let hooks = hooks.conversation();
            hooks.call_on_timer(&mut self.store, conversation).await
        };
        let reaction = self.ended(result, limits)?;
        messages::checked(None, reaction, limits.message_output)
    }

    pub(crate) async fn on_close(
        &mut self,
        conversation: ResourceAny,
        facts: &Arc<CallFacts>,
        ending: &Ending,
        limits: &Limits,
    ) -> Result<(), FilterError> {
        self.begin(limits, Some(facts));
        let result = {
            let _running = self.ticker.running();
            let hooks = hooks(&self.messages)?.sluicegate_plugin_messages();
            let hooks = hooks.conversation();
            hooks
                .call_on_close(&mut self.store, conversation, messages::ending(ending))
                .await
        };
        self.ended(result, limits)
    }

    /// Runs the destructor of a conversation that nobody holds any more.
    pub(crate) async fn dismiss(
        &mut self,
        conversation: ResourceAny,
        limits: &Limits,
    ) -> Result<(), FilterError> {
        self.begin(limits, None);
        let result = {
            let _running = self.ticker.running();
            conversation.resource_drop_async(&mut self.store).await
        };
        self.ended(result, limits)
    }

    fn begin(&mut self, limits: &Limits, facts: Option<&Arc<CallFacts>>) {
        self.sound = false;
        allow(&mut self.store, limits);
        let Some(facts) = facts else {
            return;
        };
        let state = self.store.data_mut();
        // Conversations of several routes may share an instance.
        if !Arc::ptr_eq(&state.route, &facts.route) {
            state.route = Arc::clone(&facts.route);
        }
        state.facts = Some(Arc::clone(facts));
    }

    fn ended<T>(&mut self, result: wasmtime::Result<T>, limits: &Limits) -> Result<T, FilterError> {
        self.store.data_mut().facts = None;
        match result {
            Ok(value) => {
                self.sound = true;
                Ok(value)
            }
            Err(error) => Err(talk_failure(&self.store, &error, limits)),
        }
    }
}

/// The hooks of an instance that was made to talk.
fn hooks(hooks: &Option<MessageHooks>) -> Result<&MessageHooks, FilterError> {
    hooks.as_ref().ok_or_else(|| FilterError::Trap {
        reason: "it has no hooks of messages".to_owned(),
        backtrace: String::new(),
    })
}

fn talk_failure(
    store: &wasmtime::Store<State>,
    error: &wasmtime::Error,
    limits: &Limits,
) -> FilterError {
    match failure(store, error) {
        // What came back was too large to be read; a backtrace tells where a guest handed over too much itself.
        FilterError::Trap { reason, backtrace }
            if backtrace.is_empty() && reason.contains(TOO_MUCH) =>
        {
            FilterError::MessageOutput {
                limit: limits.message_output,
            }
        }
        failure => failure,
    }
}

/// Room for more injections than there may be, besides what is in them, bytes: so that they can be counted.
const INJECTIONS: usize = 64 << 10;
/// What wasmtime says of a result that does not fit.
const TOO_MUCH: &str = "too much data";
