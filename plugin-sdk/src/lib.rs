//! Write a sluicegate plugin: a struct, a typed config, one function per hook.
//!
//! ```
//! use sluicegate_plugin::{ConfigError, Filter, Reply, Request, Secret, Verdict, config, export};
//!
//! #[config]
//! struct Config {
//!     /// What a client must send as `X-Token`.
//!     token: Secret,
//! }
//!
//! struct Gate(Config);
//!
//! impl Filter for Gate {
//!     type Config = Config;
//!
//!     fn configure(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Gate(config))
//!     }
//!
//!     fn on_request(&self, req: &mut Request) -> Verdict {
//!         match req.header("x-token") {
//!             Some(token) if self.0.token.matches(&token) => Verdict::Continue,
//!             _ => Reply::new(401).body("a token, please\n").into(),
//!         }
//!     }
//! }
//!
//! export!(Gate);
//!
//! let gate = Gate::configure(Config { token: "s3cret".into() }).unwrap();
//! let mut req = Request::builder().header("X-Token", "s3cret").build();
//! assert_eq!(gate.on_request(&mut req), Verdict::Continue);
//! # assert_eq!(gate.on_request(&mut Request::builder().build()).status(), Some(401));
//! ```
//!
//! # The contract
//! - Every handshake gets an instance of its own, configured: `on_request` runs, then `on_response` if there
//!   is one and the upstream answered. Nothing is left from one client to the next, so a counter in a
//!   `static` always starts anew; [`kv`] is what lasts. Only where the operator sets `reuse` does an
//!   instance serve several requests, one after the other; so keep nothing that is one client's.
//! - `configure` is a pure function of the config: the proxy runs it for each handshake, or, if it takes
//!   long, once at load, and gives every handshake the memory that it left. It may log and nothing
//!   else; the clock, random bytes and the rest trap in it. Its error reaches the operator
//!   with the place in the configuration ([`ConfigError::key`]).
//! - A panic, too much memory or too much time ends the call; the route's `on_error` then
//!   decides (by default the client gets a 500). What the call had edited is undone.
//! - There are no files, no sockets and no environment. What there is, is in the modules here;
//!   [`kv`], [`outbound`] and [`Request::set_upstream`] work where the operator allows them.
//! - Filters of WebSocket messages live longer and share more: see [`messages`].
//!
//! # Limits
//! See [`EditError`] for edits of a head and [`Reply`] for responses; memory and time are
//! the operator's choice (`[plugin.NAME]` in the configuration).
//!
//! # Tests
//! On any other target than wasm, [`Request::builder`] and [`Response::builder`] make heads in
//! memory, under the same rules as behind the proxy, and [`testing`] stands in for everything else: test
//! a filter with plain `cargo test`, and the finished plugin with `sluicegate plugin test`.

// The generated bindings name this crate from the outside.
#[cfg(target_arch = "wasm32")]
extern crate self as sluicegate_plugin;

pub mod clock;
pub mod crypto;
pub mod kv;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod names;
pub mod outbound;
pub mod random;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

// The same allocator as std's, but new enough to begin with the memory that an instance is born
// with (`plugin build` asks the linker for it). std's grows the memory at its first allocation, which
// costs every fresh instance two system calls and the page faults after them.
#[cfg(all(target_arch = "wasm32", feature = "heap"))]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

mod config;
#[doc(hidden)]
pub mod glue;
mod head;
mod interval;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod verdict;

#[doc(hidden)]
pub use {schemars, serde};

pub use config::{ConfigError, NoConfig, Secret};
pub use head::{
    EditError, Request, Response, TlsFacts, check_header, check_label, check_subprotocol,
};
pub use interval::Interval;
pub use messages::{Ending, Interest, Message, MessageFilter, Opening, Reaction, Senders, Side};
pub use sluicegate_plugin_macros::config;
pub use verdict::{Reply, Verdict};
#[cfg(not(target_arch = "wasm32"))]
pub use {
    messages::OpeningBuilder,
    native::{RequestBuilder, ResponseBuilder},
};

/// A filter of handshakes and ordinary requests; what every plugin is, also one that is a
/// [`MessageFilter`] besides.
pub trait Filter: Sized + 'static {
    /// Read from the plugin's `config` in the proxy's configuration: a struct under [`macro@config`], or
    /// [`NoConfig`]. The proxy checks what the operator wrote against its JSON Schema.
    type Config: serde::de::DeserializeOwned + schemars::JsonSchema;

    /// Services that must be granted, but that the filter can do without: where the operator grants none
    /// of it, the plugin is loaded all the same, and every call of [`kv`] answers
    /// [`kv::Error::Unavailable`], of [`outbound`] [`outbound::Error::NotAllowed`]. Let `configure` refuse
    /// a config that needs what may be missing only if you must: it cannot tell.
    const OPTIONAL: &'static [Service] = &[];

    /// Makes the filter; a pure function of the config.
    ///
    /// # Errors
    /// What is wrong with the config. The proxy then does not start, or keeps its old
    /// configuration.
    fn configure(config: Self::Config) -> Result<Self, ConfigError>;

    /// Whether a hook does anything with this config. The proxy does not call one that doesn't, which
    /// makes a request cheaper.
    fn uses(&self, hook: Hook) -> bool {
        let _ = hook;
        true
    }

    /// Decides on a request before anything of it reaches the upstream.
    fn on_request(&self, req: &mut Request) -> Verdict {
        let _ = req;
        Verdict::Continue
    }
}

/// What an operator must grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// [`kv`], by `allow = { kv = true }`.
    Kv,
    /// [`outbound`], by `allow = { http = ["NAME"] }`.
    Outbound,
}

/// A moment at which a filter is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// [`Filter::on_request`].
    Request,
    /// [`ResponseFilter::on_response`].
    Response,
    /// Those of [`MessageFilter`].
    Messages,
}

/// The second hook: the upstream's answer, before the client sees it.
///
/// [`export!`] finds out by itself whether a filter implements it.
pub trait ResponseFilter: Filter {
    /// Decides on a response; the instance is the one that saw the request.
    fn on_response(&self, res: &mut Response) -> Verdict;
}

/// Makes a [`Filter`] the plugin of this crate; once, at the root.
///
/// The crate must be a `cdylib`; its package name and version become the plugin's. If the type
/// also implements [`ResponseFilter`], that hook is exported too; nothing needs to be said. A
/// [`MessageFilter`] is exported by `export!(TYPE: messages)`, which makes it a component of another world;
/// to forget that does not compile:
///
/// ```compile_fail,E0080
/// # use sluicegate_plugin::{ConfigError, Filter, MessageFilter, NoConfig, Opening, export};
/// # struct Polite;
/// # impl Filter for Polite {
/// #     type Config = NoConfig;
/// #     fn configure(_: NoConfig) -> Result<Self, ConfigError> { Ok(Polite) }
/// # }
/// # impl MessageFilter for Polite {
/// #     type Session = ();
/// #     fn open(&self, _: &Opening) -> Option<()> { Some(()) }
/// # }
/// export!(Polite);
/// ```
#[macro_export]
macro_rules! export {
    ($filter:ty) => {
        $crate::__export!($filter, false);
    };
    ($filter:ty: messages) => {
        $crate::__export!($filter, true, __export_messages_to_wasm);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($filter:ty, $messages:literal $(, $more:ident)?) => {
        const _: () = {
            // An inherent constant hides the trait's of the same name, but only where its bound
            // holds: this is how the response hook is found, and hooks that were forgotten.
            struct Probe<T>(::core::marker::PhantomData<T>);

            #[allow(dead_code)]
            impl<T: $crate::ResponseFilter> Probe<T> {
                const ON_RESPONSE: ::core::option::Option<$crate::glue::OnResponse<T>> =
                    ::core::option::Option::Some(<T as $crate::ResponseFilter>::on_response);
            }

            #[allow(dead_code)]
            impl<T: $crate::MessageFilter> Probe<T> {
                const FILTERS_MESSAGES: bool = true;
            }

            #[allow(dead_code)]
            trait NoHook<T> {
                const ON_RESPONSE: ::core::option::Option<$crate::glue::OnResponse<T>> =
                    ::core::option::Option::None;
                const FILTERS_MESSAGES: bool = false;
            }
            impl<T> NoHook<T> for Probe<T> {}

            ::core::assert!(
                $messages || !<Probe<$filter>>::FILTERS_MESSAGES,
                "a `MessageFilter` is exported by `export!(TYPE: messages)`",
            );

            struct Plugin;

            impl $crate::glue::Exported for Plugin {
                type Filter = $filter;
                const NAME: &'static str = ::core::env!("CARGO_PKG_NAME");
                const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");
                const ON_RESPONSE: ::core::option::Option<$crate::glue::OnResponse<$filter>> =
                    <Probe<$filter>>::ON_RESPONSE;
                const MESSAGES: bool = $messages;
            }

            $crate::__export_to_wasm!(Plugin);
            $($crate::$more!(Plugin);)?
        };
    };
}

/// The filters of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
