//! The interface as the host sees it: generated bindings, the state of one instance, and what a
//! guest may call.
//!
//! An instance works on one head at a time, so its handles need no table: a request or response
//! handle stands for the head that the state holds. Handles are lent for one call, and the
//! component model does not let a guest keep them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use sluicegate_plugin_rules as rules;
use wasmtime::ResourceLimiter;
use wasmtime::component::{HasSelf, Linker, Resource};

use crate::filter::{RequestHead, ResponseHead};
use crate::plugin::Identity;
use crate::undo::Undo;

pub(crate) use generated::sluicegate::plugin::{about, http as wit};
pub(crate) use generated::{HandshakeFilter, HandshakeFilterPre};

use generated::sluicegate::plugin::{clock, logging};

mod generated {
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit/0.1.0",
        world: "handshake-filter",
        exports: { default: async },
        with: {
            "sluicegate:plugin/http.request": super::RequestHandle,
            "sluicegate:plugin/http.response": super::ResponseHandle,
        },
    });
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
    plugin: Arc<Identity>,
    /// For log lines; empty while no request is known.
    route: Arc<str>,
    pub(crate) request: Option<Box<RequestHead>>,
    pub(crate) response: Option<Box<ResponseHead>>,
    /// What this call has edited.
    undo: Undo,
    /// Epoch ticks left to this call.
    pub(crate) ticks: u64,
    /// A limit that this instance hit; it is not called again.
    pub(crate) hit: Option<Hit>,
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
            undo: Undo::default(),
            ticks: 0,
            hit: None,
            memory: 0,
            max_memory: usize::try_from(max_memory).unwrap_or(usize::MAX),
        }
    }

    /// Ends a call: its edits stand, or the head is again as it was.
    pub(crate) fn end_call(&mut self, keep_edits: bool) {
        if keep_edits {
            self.undo.forget();
        } else if let Some(response) = &mut self.response {
            self.undo.fields(&mut response.headers);
        } else if let Some(request) = &mut self.request {
            self.undo.fields(&mut request.headers);
            self.undo.query(&mut request.query);
        }
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
    HandshakeFilter::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

impl about::Host for State {}
impl wit::Host for State {}

impl wit::HostRequest for State {
    fn method(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.method.as_str().to_owned())
    }
    fn path(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.path.as_ref().to_owned())
    }
    fn query(&mut self, _: Resource<RequestHandle>) -> Option<String> {
        self.read(|head| head.query.as_deref().map(str::to_owned))
    }
    fn set_query(
        &mut self,
        _: Resource<RequestHandle>,
        query: Option<String>,
    ) -> Result<(), wit::EditError> {
        query.as_deref().map_or(Ok(()), rules::check_query)?;
        if let Some(head) = &mut self.request {
            self.undo.note_query(head.query.as_ref());
            head.query = query.map(Into::into);
        }
        Ok(())
    }
    fn scheme(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.scheme.to_owned())
    }
    fn host(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.host.as_ref().to_owned())
    }
    fn client_ip(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.client_ip.to_string())
    }
    fn request_id(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.request_id.as_ref().to_owned())
    }
    fn route(&mut self, _: Resource<RequestHandle>) -> String {
        self.read(|head| head.facts.route.as_ref().to_owned())
    }
    fn tls(&mut self, _: Resource<RequestHandle>) -> Option<wit::TlsFacts> {
        self.read(|head| {
            head.facts.tls.as_ref().map(|tls| wit::TlsFacts {
                version: tls.version.to_owned(),
                cipher: tls.cipher.to_owned(),
                sni: tls.sni.as_deref().map(str::to_owned),
                client_subject: tls.client_subject.as_deref().map(str::to_owned),
            })
        })
    }
    fn header(&mut self, _: Resource<RequestHandle>, name: String) -> Option<Vec<u8>> {
        self.read(|head| first(&head.headers, &name))
    }
    fn header_values(&mut self, _: Resource<RequestHandle>, name: String) -> Vec<Vec<u8>> {
        self.read(|head| all(&head.headers, &name))
    }
    fn headers(&mut self, _: Resource<RequestHandle>) -> Vec<(String, Vec<u8>)> {
        self.read(|head| pairs(&head.headers))
    }
    fn set_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| rules::set_named(fields, name, &value))
    }
    fn add_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| rules::add_named(fields, name, &value))
    }
    fn remove_header(
        &mut self,
        _: Resource<RequestHandle>,
        name: String,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_request(name, |fields, name| {
            fields.remove(name);
            Ok(())
        })
    }
    fn subprotocols(&mut self, _: Resource<RequestHandle>) -> Vec<String> {
        self.read(|head| {
            rules::subprotocols(&head.headers)
                .map(str::to_owned)
                .collect()
        })
    }
    fn set_subprotocols(
        &mut self,
        _: Resource<RequestHandle>,
        offered: Vec<String>,
    ) -> Result<(), wit::EditError> {
        self.edit_request(SEC_WEBSOCKET_PROTOCOL, |fields, _| {
            rules::set_subprotocols(fields, &offered)
        })
    }
    fn drop(&mut self, _: Resource<RequestHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl wit::HostResponse for State {
    fn status(&mut self, _: Resource<ResponseHandle>) -> u16 {
        self.read_response(|head| head.status.as_u16())
    }
    fn is_upgrade(&mut self, _: Resource<ResponseHandle>) -> bool {
        self.read_response(|head| head.is_upgrade)
    }
    fn header(&mut self, _: Resource<ResponseHandle>, name: String) -> Option<Vec<u8>> {
        self.read_response(|head| first(&head.headers, &name))
    }
    fn header_values(&mut self, _: Resource<ResponseHandle>, name: String) -> Vec<Vec<u8>> {
        self.read_response(|head| all(&head.headers, &name))
    }
    fn headers(&mut self, _: Resource<ResponseHandle>) -> Vec<(String, Vec<u8>)> {
        self.read_response(|head| pairs(&head.headers))
    }
    fn set_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| rules::set_named(fields, name, &value))
    }
    fn add_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
        value: Vec<u8>,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| rules::add_named(fields, name, &value))
    }
    fn remove_header(
        &mut self,
        _: Resource<ResponseHandle>,
        name: String,
    ) -> Result<(), wit::EditError> {
        let name = rules::writable_name(&name)?;
        self.edit_response(name, |fields, name| {
            fields.remove(name);
            Ok(())
        })
    }
    fn drop(&mut self, _: Resource<ResponseHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, message: String) {
        let level = match level {
            logging::Level::Trace => tracing::Level::TRACE,
            logging::Level::Debug => tracing::Level::DEBUG,
            logging::Level::Info => tracing::Level::INFO,
            logging::Level::Warn => tracing::Level::WARN,
            logging::Level::Error => tracing::Level::ERROR,
        };
        self.plugin
            .log
            .write(level, &self.plugin.name, &self.route, &message);
    }
}

impl clock::Host for State {
    fn now(&mut self) -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    }
    fn monotonic_now(&mut self) -> u64 {
        u64::try_from(self.plugin.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
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

impl From<rules::EditError> for wit::EditError {
    fn from(error: rules::EditError) -> Self {
        match error {
            rules::EditError::InvalidName => wit::EditError::InvalidName,
            rules::EditError::InvalidValue => wit::EditError::InvalidValue,
            rules::EditError::Protected => wit::EditError::Protected,
            rules::EditError::TooMany => wit::EditError::TooMany,
            rules::EditError::TooLarge => wit::EditError::TooLarge,
            rules::EditError::NotOffered => wit::EditError::NotOffered,
        }
    }
}

fn first(fields: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    fields.get(name).map(|value| value.as_bytes().to_vec())
}

fn all(fields: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    fields
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes().to_vec())
        .collect()
}

fn pairs(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_bytes().into()))
        .collect()
}

/// Elements of one table; the pool reserves as many.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 20_000;
