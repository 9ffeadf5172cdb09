//! What a filter costs a request: real plugins in the real host, everything included that a
//! request pays for.
//!
//! `fresh` is an instance for each request: permits, instantiation, `configure`, the hooks, the
//! end of the instance. `reused` is the hooks in an instance that serves a thousand requests; `chain`
//! is one to eight fresh ones, both hooks of each, around one request. `image` is fresh instances of a
//! plugin that builds much from its config, born with what it built, and `configured` the same when
//! it builds it each time; `routes` goes through fifty images of `api-key` in turn. `messages` is a call about
//! one in a conversation that is open, in an instance with a hundred others.
//!
//!     cargo bench --workspace --bench filters

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a benchmark tells of a failure"
)]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use sluicegate_plugin_host::messages::{Conversation, Isolation, Kind, Opening, Side};
use sluicegate_plugin_host::{
    CallFacts, Filter, Grants, Host, HostSettings, Limits, Plugin, RequestHead, ResponseHead,
    Session, Verdict,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

#[allow(unreachable_pub, reason = "a library of another crate")]
#[path = "../../../tests/src/plugins.rs"]
mod plugins;

fn filters(c: &mut Criterion) {
    let runtime = runtime();
    let cache = tempfile::tempdir().expect("a folder");
    let [headers, api_key] = [
        ("sluicegate-headers", HEADERS),
        ("sluicegate-api-key", API_KEY),
    ]
    .map(|(package, config)| filter(&runtime, &plugin(package, NEVER, &cache), config));
    let key = key();
    let (token, config) = token();
    let jwt = filter(
        &runtime,
        &plugin("sluicegate-jwt", AS_EVER, &cache),
        &config,
    );

    let mut group = c.benchmark_group("fresh");
    group.bench_function("headers: request and response", |b| {
        b.iter_custom(|n| runtime.block_on(exchanges(&[&headers], n)));
    });
    group.bench_function("api-key: request", |b| {
        b.iter_custom(|n| runtime.block_on(requests(from_ref(&api_key), &key, n)));
    });
    group.bench_function("jwt, ES256: request", |b| {
        b.iter_custom(|n| runtime.block_on(requests(from_ref(&jwt), &token, n)));
    });
    group.finish();

    let [headers_kept, api_key_kept] = [&headers, &api_key].map(|one| one.reusing(REUSE));
    let mut group = c.benchmark_group("reused");
    group.bench_function("headers: request and response", |b| {
        b.iter_custom(|n| runtime.block_on(exchanges(&[&headers_kept], n)));
    });
    group.bench_function("api-key: request", |b| {
        b.iter_custom(|n| runtime.block_on(requests(from_ref(&api_key_kept), &key, n)));
    });
    group.finish();

    let mut group = c.benchmark_group("chain");
    for length in [1, 2, 4, 8] {
        let chain = vec![&headers; length];
        group.bench_with_input(BenchmarkId::from_parameter(length), &chain, |b, chain| {
            b.iter_custom(|n| runtime.block_on(exchanges(chain, n)));
        });
    }
    group.finish();
}

fn images(c: &mut Criterion) {
    let runtime = runtime();
    let key = key();
    // Both hosts need the plugin compiled.
    let cache = tempfile::tempdir().expect("a folder");
    let configs = [
        ("one key", dear(1, 0)),
        ("20,000 keys", dear(20_000, 0)),
        ("200 patterns", dear(1, 200)),
    ];
    for (group, cheap) in [("image", Duration::ZERO), ("configured", NEVER)] {
        let mut group = c.benchmark_group(group);
        let plugin = plugin(DEAR, cheap, &cache);
        for (name, config) in &configs {
            let filter = filter(&runtime, &plugin, config);
            assert_eq!(filter.has_image(), cheap.is_zero());
            group.bench_function(*name, |b| {
                b.iter_custom(|n| runtime.block_on(requests(from_ref(&filter), &key, n)));
            });
        }
        group.finish();
    }

    let plugin = plugin("sluicegate-api-key", Duration::ZERO, &cache);
    let config = |route| format!(r#"{{"keys":{{"ci":"s3cret","ops":"{route}"}}}}"#);
    let filters: Vec<Filter> = (0..50)
        .map(|route| filter(&runtime, &plugin, &config(route)))
        .collect();
    let mut group = c.benchmark_group("routes");
    group.bench_function("fifty images in turn", |b| {
        b.iter_custom(|n| runtime.block_on(requests(&filters, &key, n)));
    });
    group.finish();
}

fn messages(c: &mut Criterion) {
    let runtime = runtime();
    let cache = tempfile::tempdir().expect("a folder");
    let talker = plugin("sluicegate-message-guest", NEVER, &cache);
    let talker = filter(&runtime, &talker, r#"{"does":"wants-close"}"#);
    let shared = talker.conversing(Some(Isolation::Shared), REUSE);
    let isolated = talker.conversing(Some(Isolation::Connection), REUSE);
    let mut others: Vec<_> = (0..100)
        .map(|_| runtime.block_on(conversation(&shared)))
        .collect();
    let conversation_of_many = others.last_mut().expect("a hundred");

    let mut group = c.benchmark_group("messages");
    let text = format!("as-binary {}", "a".repeat(1014));
    for (name, kind, data) in [
        ("passed on unread, 64 B", Kind::Pong, &[0; 64][..]),
        ("passed on unread, 1 KiB", Kind::Pong, &[0; 1024]),
        ("summed up, 1 KiB", Kind::Binary, &[0; 1024]),
        ("replaced, 1 KiB", Kind::Text, text.as_bytes()),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|n| runtime.block_on(ask(conversation_of_many, kind, data, n)));
        });
    }
    for (name, filter) in [("shared", &shared), ("isolated", &isolated)] {
        group.bench_function(format!("opened and dropped, {name}"), |b| {
            b.iter_custom(|n| {
                runtime.block_on(async {
                    let began = Instant::now();
                    for _ in 0..n {
                        drop(black_box(conversation(filter).await));
                    }
                    began.elapsed()
                })
            });
        });
    }
    group.finish();
}

async fn conversation(filter: &Filter) -> Conversation {
    let facts = request().facts;
    let opening = Opening {
        request_id: Arc::clone(&facts.request_id),
        route: Arc::clone(&facts.route),
        host: Arc::clone(&facts.host),
        path: "/ws".into(),
        query: None,
        client_ip: facts.client_ip,
        headers: request().headers,
        subprotocol: None,
        labels: Vec::new(),
        kept: Bytes::new(),
    };
    let opened = filter.open(&opening, facts).await.expect("it opens");
    opened.expect("it is interested")
}

/// `n` messages to one conversation.
async fn ask(conversation: &mut Conversation, kind: Kind, data: &[u8], n: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..n {
        let reaction = conversation.on_message(Side::Client, kind, black_box(data));
        black_box(reaction.await.expect("a reaction"));
    }
    began.elapsed()
}

/// `n` requests that filters let pass, each in its turn, and that get no answer.
async fn requests(filters: &[Filter], proof: &Proof, n: u64) -> Duration {
    let mut head = request();
    let began = Instant::now();
    for (filter, _) in filters.iter().cycle().zip(0..n) {
        // The filter before has taken it out.
        head.headers.insert(&proof.0, proof.1.clone());
        let (after, outcome) = filter.on_request(head).await;
        let outcome = outcome.expect("a verdict");
        assert!(matches!(outcome.verdict, Verdict::Continue));
        head = black_box(after);
    }
    began.elapsed()
}

/// What lets a request pass.
struct Proof(HeaderName, HeaderValue);

fn key() -> Proof {
    Proof(
        HeaderName::from_static("x-api-key"),
        HeaderValue::from_static("s3cret"),
    )
}

/// A token signed with ES256, and the config that takes it.
fn token() -> (Proof, String) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    // An uncompressed point: 4, x, y.
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let b64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let config = format!(
        r#"{{"jwks":{{"keys":[{{"kty":"EC","crv":"P-256","kid":"1","x":"{}","y":"{}"}}]}},"audience":"ws"}}"#,
        b64(x),
        b64(y)
    );
    let header = b64(br#"{"alg":"ES256","kid":"1"}"#);
    let claims = b64(br#"{"sub":"ann","aud":"ws","exp":9999999999}"#);
    let signed = format!("{header}.{claims}");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
    let signature = b64(signature.expect("a signature").as_ref());
    let value = HeaderValue::try_from(format!("Bearer {signed}.{signature}"));
    let proof = Proof(header::AUTHORIZATION, value.expect("visible ASCII"));
    (proof, config)
}

/// `n` requests and their answers through a chain of filters.
async fn exchanges(chain: &[&Filter], n: u64) -> Duration {
    let (mut head, mut answer) = (request(), response());
    let mut waiting = Vec::with_capacity(chain.len());
    let began = Instant::now();
    for _ in 0..n {
        for filter in chain {
            let (after, outcome) = filter.on_request(head).await;
            waiting.extend(outcome.expect("a verdict").response_hook);
            head = black_box(after);
        }
        while let Some(hook) = waiting.pop() {
            let (after, verdict) = hook.on_response(answer).await;
            verdict.expect("a verdict");
            answer = black_box(after);
        }
    }
    began.elapsed()
}

fn filter(runtime: &Runtime, plugin: &Arc<Plugin>, config: &str) -> Filter {
    let filter = runtime.block_on(plugin.configure(config));
    filter.expect("it takes the config")
}

/// In a host of its own, to which a `configure` of so much is cheap.
fn plugin(package: &str, cheap_configure: Duration, cache: &TempDir) -> Arc<Plugin> {
    let host = Host::new(HostSettings {
        cheap_configure,
        cache_dir: Some(cache.path().join("plugins")),
        ..HostSettings::default()
    });
    let wasm = std::fs::read(plugins::wasm(package)).expect("cargo wrote it");
    let plugin = host
        .expect("a host")
        .load(package, &wasm, Limits::default(), &Grants::default());
    plugin.expect("it loads")
}

/// A config of so many keys and patterns; each lets `requests` pass.
fn dear(keys: usize, patterns: usize) -> String {
    let keys = (1..keys).map(|i| format!("key-{i}"));
    let keys: Vec<String> = keys.chain(["s3cret".to_owned()]).collect();
    let pattern = |i| format!("^/([a-z]+/{i}[0-9]*)?$");
    let patterns: Vec<String> = (0..patterns).map(pattern).collect();
    format!(r#"{{"keys":{keys:?},"patterns":{patterns:?}}}"#)
}

/// As a worker of the proxy has it.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// What a browser sends, more or less.
fn request() -> Box<RequestHead> {
    let fields = [
        ("host", "www.example.com"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "session=0123456789abcdef0123456789abcdef"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "192.0.2.7"),
    ];
    Box::new(RequestHead {
        method: Method::GET,
        path: "/".into(),
        query: None,
        headers: map(&fields),
        upstream: None,
        session: Session::default(),
        facts: Arc::new(CallFacts {
            client_ip: [192, 0, 2, 7].into(),
            scheme: "https",
            host: "www.example.com".into(),
            request_id: "0123456789abcdef".into(),
            route: "www".into(),
            tls: None,
            peer: None,
            listener: ":443".into(),
            http_version: "1.1",
            is_websocket: true,
            outbound: None,
        }),
    })
}

fn response() -> Box<ResponseHead> {
    let fields = [
        ("content-type", "text/html"),
        ("content-length", "5"),
        ("server", "backend"),
    ];
    Box::new(ResponseHead {
        status: StatusCode::OK,
        is_upgrade: false,
        offered: Arc::default(),
        session: Session::default(),
        headers: map(&fields),
    })
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|&(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        })
        .collect()
}

const HEADERS: &str = r#"{"request":{"remove":["x-debug"],"set":{"x-served-for":"www"}},"response":{"set":{"x-frame-options":"DENY"}}}"#;
const API_KEY: &str = r#"{"keys":{"ci":"s3cret","ops":"another"}}"#;

const DEAR: &str = "sluicegate-dear-guest";

/// No `configure` is too dear for this.
const AS_EVER: Duration = Duration::from_micros(50);
const NEVER: Duration = Duration::MAX;
const REUSE: NonZeroU32 = NonZeroU32::new(1000).unwrap();

criterion_group!(benches, filters, images, messages);
criterion_main!(benches);
