//! Builds plugins once, and makes hosts, filters and heads for tests.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluicegate_plugin_host::{
    CallFacts, Filter, Grants, Host, HostSettings, Limits, Plugin, RequestHead, ResponseHead,
    Session,
};

#[allow(unreachable_pub, reason = "a library of another crate")]
#[path = "../../../../tests/src/plugins.rs"]
mod plugins;

#[allow(unreachable_pub, reason = "a library of another crate")]
#[path = "../../../../tests/src/modules.rs"]
pub(crate) mod modules;

/// The misbehaving guest of `tests/guests`.
pub(crate) static GUEST: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-test-guests"));
/// One that builds much from its config.
pub(crate) static DEAR: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-dear-guest"));
/// A filter of messages that does what they tell it.
pub(crate) static MESSAGES: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-message-guest"));
pub(crate) static API_KEY: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-api-key"));
pub(crate) static HEADERS: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-headers"));

fn wasm(package: &str) -> Vec<u8> {
    std::fs::read(plugins::wasm(package)).expect("cargo wrote it")
}

pub(crate) fn host(instances: u32) -> Arc<Host> {
    Host::new(HostSettings {
        instances,
        ..HostSettings::default()
    })
    .expect("a host")
}

/// A host to which every `configure` is too dear to run again.
pub(crate) fn imaging_host(instances: u32) -> Arc<Host> {
    Host::new(HostSettings {
        instances,
        cheap_configure: Duration::ZERO,
        ..HostSettings::default()
    })
    .expect("a host")
}

pub(crate) fn plugin(host: &Arc<Host>, wasm: &[u8]) -> Arc<Plugin> {
    host.load("guest", wasm, Limits::default(), &Grants::default())
        .expect("it loads")
}

/// The misbehaving guest with a config, in a host of its own.
pub(crate) async fn guest(config: &str) -> Filter {
    plugin(&host(4), &GUEST)
        .configure(config)
        .await
        .expect("it takes the config")
}

pub(crate) fn request(headers: &[(&str, &str)]) -> Box<RequestHead> {
    Box::new(RequestHead {
        method: Method::GET,
        path: "/ws".into(),
        query: Some("a=1".into()),
        headers: fields(headers),
        upstream: None,
        session: Session::default(),
        facts: Arc::new(CallFacts {
            client_ip: [192, 0, 2, 7].into(),
            scheme: "https",
            host: "ws.example.com".into(),
            request_id: "id-1".into(),
            route: "the-route".into(),
            tls: None,
            peer: None,
            listener: ":443".into(),
            http_version: "1.1",
            is_websocket: true,
            outbound: None,
        }),
    })
}

pub(crate) fn response(headers: &[(&str, &str)]) -> Box<ResponseHead> {
    let status = StatusCode::SWITCHING_PROTOCOLS;
    Box::new(ResponseHead {
        status,
        is_upgrade: true,
        headers: fields(headers),
        offered: Arc::default(),
        session: Session::default(),
    })
}

fn fields(headers: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    headers.iter().map(field).collect()
}

/// What a test's thread writes to the log from now on.
pub(crate) struct Lines;

impl Lines {
    pub(crate) fn collect() -> Self {
        // For the whole process: what no thread has asked for may be off for all of them.
        static COLLECTOR: Once = Once::new();
        COLLECTOR.call_once(|| {
            let collector = tracing_subscriber::fmt()
                .with_writer(|| Lines)
                .with_ansi(false)
                .finish();
            tracing::subscriber::set_global_default(collector).expect("the only one");
        });
        WRITTEN.take();
        Lines
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(WRITTEN.with_borrow(Vec::clone)).expect("text")
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        WRITTEN.with_borrow_mut(|written| written.extend_from_slice(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

thread_local! {
    static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
