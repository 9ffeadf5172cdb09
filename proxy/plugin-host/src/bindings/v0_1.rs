//! Version 0.1 of the interface, for plugins that were built for it: what they call is a part of what
//! the present version offers, under another name.

use wasmtime::component::{HasSelf, Linker, Resource};

use super::{RequestHandle, ResponseHandle, State, about, wit};

pub(crate) use generated::{HandshakeFilter, HandshakeFilterPre};

use super::generated::sluicegate::plugin::{clock as new_clock, logging as new_logging};
use generated::sluicegate::plugin::{about as old_about, clock, http, logging};

mod generated {
    #![allow(clippy::all, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit/0.1.0",
        world: "handshake-filter",
        imports: {
            "sluicegate:plugin/clock.now": trappable,
            "sluicegate:plugin/clock.monotonic-now": trappable,
        },
        exports: { default: async },
        with: {
            "sluicegate:plugin/http.request": crate::bindings::RequestHandle,
            "sluicegate:plugin/http.response": crate::bindings::ResponseHandle,
        },
    });
}

/// Gives a linker what a guest of this version may import.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    HandshakeFilter::add_to_linker::<_, HasSelf<State>>(linker, |state| state)
}

/// A description in the present form; there was no schema.
pub(super) fn description(old: old_about::Description) -> about::Description {
    let has = |hook| old.hooks.contains(&hook);
    let or_none = |used, hook| if used { hook } else { about::Hooks::empty() };
    about::Description {
        hooks: or_none(has(old_about::Hook::Request), about::Hooks::REQUEST)
            | or_none(has(old_about::Hook::Response), about::Hooks::RESPONSE),
        name: old.name,
        version: old.version,
        config_schema: None,
        optional: Vec::new(),
    }
}

pub(super) fn verdict(old: http::Verdict) -> wit::Verdict {
    match old {
        http::Verdict::Continue => wit::Verdict::Continue,
        http::Verdict::Respond(http::Reply {
            status,
            headers,
            body,
        }) => wit::Verdict::Respond(wit::Reply {
            status,
            headers,
            body,
        }),
    }
}

/// Methods whose types have not changed.
macro_rules! as_now {
    ($now:path, $handle:ty: $($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(
            fn $name(&mut self, this: Resource<$handle> $(, $arg: $type)*) -> $out {
                <State as $now>::$name(self, this $(, $arg)*)
            }
        )*
    };
}

/// Methods that may be refused.
macro_rules! edits {
    ($now:path, $handle:ty: $($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(
            fn $name(
                &mut self,
                this: Resource<$handle>
                $(, $arg: $type)*
            ) -> Result<(), http::EditError> {
                <State as $now>::$name(self, this $(, $arg)*).map_err(Into::into)
            }
        )*
    };
}

impl old_about::Host for State {}
impl http::Host for State {}

impl http::HostRequest for State {
    as_now! { wit::HostRequest, RequestHandle:
        method() -> String;
        path() -> String;
        query() -> Option<String>;
        scheme() -> String;
        host() -> String;
        client_ip() -> String;
        request_id() -> String;
        route() -> String;
        header(name: String) -> Option<Vec<u8>>;
        header_values(name: String) -> Vec<Vec<u8>>;
        headers() -> Vec<(String, Vec<u8>)>;
        subprotocols() -> Vec<String>;
    }
    edits! { wit::HostRequest, RequestHandle:
        set_query(query: Option<String>);
        set_header(name: String, value: Vec<u8>);
        add_header(name: String, value: Vec<u8>);
        remove_header(name: String);
        set_subprotocols(offered: Vec<String>);
    }
    fn tls(&mut self, this: Resource<RequestHandle>) -> Option<http::TlsFacts> {
        let facts = <State as wit::HostRequest>::tls(self, this)?;
        Some(http::TlsFacts {
            version: facts.version,
            cipher: facts.cipher,
            sni: facts.sni,
            client_subject: facts.client_subject,
        })
    }
    fn drop(&mut self, _: Resource<RequestHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl http::HostResponse for State {
    as_now! { wit::HostResponse, ResponseHandle:
        status() -> u16;
        is_upgrade() -> bool;
        header(name: String) -> Option<Vec<u8>>;
        header_values(name: String) -> Vec<Vec<u8>>;
        headers() -> Vec<(String, Vec<u8>)>;
    }
    edits! { wit::HostResponse, ResponseHandle:
        set_header(name: String, value: Vec<u8>);
        add_header(name: String, value: Vec<u8>);
        remove_header(name: String);
    }
    fn drop(&mut self, _: Resource<ResponseHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, message: String) {
        let level = match level {
            logging::Level::Trace => new_logging::Level::Trace,
            logging::Level::Debug => new_logging::Level::Debug,
            logging::Level::Info => new_logging::Level::Info,
            logging::Level::Warn => new_logging::Level::Warn,
            logging::Level::Error => new_logging::Level::Error,
        };
        new_logging::Host::log(self, level, message, Vec::new());
    }
}

impl clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        new_clock::Host::now(self)
    }
    fn monotonic_now(&mut self) -> wasmtime::Result<u64> {
        new_clock::Host::monotonic_now(self)
    }
}

impl From<wit::EditError> for http::EditError {
    fn from(error: wit::EditError) -> Self {
        match error {
            wit::EditError::InvalidName => http::EditError::InvalidName,
            wit::EditError::InvalidValue => http::EditError::InvalidValue,
            // Said only of what this version cannot ask for.
            wit::EditError::Protected | wit::EditError::NotAllowed => http::EditError::Protected,
            wit::EditError::TooMany => http::EditError::TooMany,
            wit::EditError::TooLarge => http::EditError::TooLarge,
            wit::EditError::NotOffered => http::EditError::NotOffered,
        }
    }
}
