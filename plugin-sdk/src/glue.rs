//! Between an author's [`Filter`] and the generated bindings; not for authors.
//!
//! An instance is configured once: the filter sits in a thread local, set by `configure` and read by
//! the hooks. What message filters export besides is in `messages`.

use crate::{Filter, Response, Verdict};

/// The response hook of `T`.
pub type OnResponse<T> = fn(&T, &mut Response) -> Verdict;

/// What `export!` knows of an author's crate.
pub trait Exported: 'static {
    type Filter: Filter;
    const NAME: &'static str;
    const VERSION: &'static str;
    const ON_RESPONSE: Option<OnResponse<Self::Filter>>;
    /// It exports the messages' interface too.
    const MESSAGES: bool;
}

#[cfg(target_arch = "wasm32")]
pub mod messages;

/// What the bindings ask of a message filter, where there are none.
#[cfg(not(target_arch = "wasm32"))]
pub const fn check_messages<P: Exported<Filter: crate::MessageFilter>>() {}

#[cfg(target_arch = "wasm32")]
pub use wasm::*;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use std::any::Any;
    use std::cell::OnceCell;

    use super::Exported;
    use crate::{Filter, Hook, Request, Response, Service};

    pub use wit_bindgen::rt;

    #[allow(
        unsafe_code,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        reason = "generated"
    )]
    pub mod bindings {
        wit_bindgen::generate!({
            world: "handshake-filter",
            path: "wit/0.2.0",
            runtime_path: "::sluicegate_plugin::glue::rt",
            pub_export_macro: true,
            export_macro_name: "export_bindings",
            default_bindings_module: "::sluicegate_plugin::glue::bindings",
        });
    }

    use bindings::sluicegate::plugin::{about, http};

    thread_local! {
        // `Any`, because a thread local cannot name a type parameter.
        static FILTER: OnceCell<Box<dyn Any>> = const { OnceCell::new() };
    }

    pub fn describe<P: Exported>() -> about::Description {
        let hooks = hooks(true, P::ON_RESPONSE.is_some(), P::MESSAGES);
        about::Description {
            name: P::NAME.into(),
            version: P::VERSION.into(),
            hooks,
            config_schema: Some(crate::config::schema::<<P::Filter as Filter>::Config>()),
            optional: P::Filter::OPTIONAL.iter().map(interface).collect(),
        }
    }

    pub fn configure<P: Exported>(json: &str) -> Result<about::Hooks, about::ConfigError> {
        let configured = crate::config::parse(json).and_then(P::Filter::configure);
        let filter = configured.map_err(|error| about::ConfigError {
            pointer: error.pointer(),
            message: error.message().into(),
        })?;
        let hooks = hooks(
            filter.uses(Hook::Request),
            P::ON_RESPONSE.is_some() && filter.uses(Hook::Response),
            P::MESSAGES && filter.uses(Hook::Messages),
        );
        // The host configures an instance once. The boxed filter is leaked with it.
        FILTER.with(|cell| drop(cell.set(Box::new(filter))));
        Ok(hooks)
    }

    pub fn on_request<P: Exported>(req: &http::Request) -> http::Verdict {
        with_filter::<P, _>(|filter| filter.on_request(&mut Request::lent(req))).into()
    }

    pub fn on_response<P: Exported>(res: &http::Response) -> http::Verdict {
        let Some(hook) = P::ON_RESPONSE else {
            return http::Verdict::Continue;
        };
        with_filter::<P, _>(|filter| hook(filter, &mut Response::lent(res))).into()
    }

    fn interface(service: &Service) -> String {
        match service {
            Service::Kv => "kv".into(),
            Service::Outbound => "outbound".into(),
        }
    }

    fn hooks(request: bool, response: bool, messages: bool) -> about::Hooks {
        let or_none = |used, hook| if used { hook } else { about::Hooks::empty() };
        or_none(request, about::Hooks::REQUEST)
            | or_none(response, about::Hooks::RESPONSE)
            | or_none(messages, about::Hooks::MESSAGES)
    }

    pub(super) fn with_filter<P: Exported, T>(hook: impl FnOnce(&P::Filter) -> T) -> T {
        FILTER.with(
            |cell| match cell.get().and_then(|filter| filter.downcast_ref()) {
                Some(filter) => hook(filter),
                // The host configures first. Nothing a filter could say would be right here, so the
                // call traps and the route's `on_error` decides.
                None => std::process::abort(),
            },
        )
    }
}

/// The exports of a component; nothing on other targets.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_to_wasm {
    ($plugin:ident) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::glue::bindings::{Guest, sluicegate::plugin};

            impl Guest for $plugin {
                fn describe() -> plugin::about::Description {
                    $crate::glue::describe::<$plugin>()
                }
                fn configure(
                    config: ::std::string::String,
                ) -> ::core::result::Result<plugin::about::Hooks, plugin::about::ConfigError>
                {
                    $crate::glue::configure::<$plugin>(&config)
                }
                fn on_request(req: &plugin::http::Request) -> plugin::http::Verdict {
                    $crate::glue::on_request::<$plugin>(req)
                }
                fn on_response(res: &plugin::http::Response) -> plugin::http::Verdict {
                    $crate::glue::on_response::<$plugin>(res)
                }
            }

    $crate::glue::bindings::export_bindings!($plugin with_types_in $crate::glue::bindings);
        };
        // Natively nothing is exported, but the hooks are still checked.
        #[cfg(not(target_arch = "wasm32"))]
        const _: &str = <$plugin as $crate::glue::Exported>::NAME;
    };
}

/// The exports of a component that filters messages, besides the others.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_messages_to_wasm {
    ($plugin:ident) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::glue::messages::{self, bindings, wit};

            impl wit::Guest for $plugin {
                type Conversation = messages::Conversation<$plugin>;

                fn wants() -> wit::Interest {
                    messages::wants::<$plugin>()
                }
                fn open(opening: wit::Opening) -> ::core::option::Option<wit::Conversation> {
                    messages::open::<$plugin>(opening)
                }
            }

    bindings::export_bindings!($plugin with_types_in bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::glue::check_messages::<$plugin>();
    };
}
