//! Builds plugins once, and makes hosts, filters and heads for tests.

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluicegate_plugin_host::{
    CallFacts, Filter, Grants, Host, HostSettings, Limits, Plugin, RequestHead, ResponseHead,
    Session,
};

#[allow(unreachable_pub, reason = "a library of another crate")]
#[path = "../../../../tests/src/plugins.rs"]
mod plugins;

/// The misbehaving guest of `tests/guests`.
pub(crate) static GUEST: LazyLock<Vec<u8>> = LazyLock::new(|| wasm("sluicegate-test-guests"));
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
