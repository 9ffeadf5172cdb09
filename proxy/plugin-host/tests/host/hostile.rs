//! Plugins that mean harm by their every value: fuzzing of what a guest may say to its host.
//!
//! Whatever a guest does, its host goes on: no panic, every failure is an error that names it, a head comes back as it
//! was or changed by the rules, and the next plugin is served. `SLUICEGATE_HOSTILE=0..10000` in the environment plays
//! other guests than the first few; a failure names its guest.

mod guest;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sluicegate_plugin_host::messages::{
    Ending, Kind, Message, Opening, Reaction, Side, Verdict as Becomes,
};
use sluicegate_plugin_host::{Filter, FilterError, Grants, Host, Limits, RequestHead, Verdict};

use crate::support::{host, modules, plugin, request, response};

/// How far guests came.
#[derive(Debug, Default)]
struct Reached {
    loaded: u32,
    configured: u32,
    continued: u32,
    responded: u32,
    failed: u32,
    reacted: u32,
}

#[tokio::test]
async fn whatever_a_guest_says_its_host_goes_on() {
    let host = host(8);
    let good = modules::text("", "", "", "(call $drop_request (local.get 0))");
    let good = plugin(&host, &modules::encoded(&good))
        .configure("{}")
        .await
        .expect("a filter");
    let mut reached = Reached::default();
    for seed in seeds() {
        println!("guest {seed}");
        meet(&host, seed, &mut reached).await;
        let (_, outcome) = good.on_request(request(&[])).await;
        outcome.expect("the others are served");
    }
    println!("{reached:?}");
    let Reached {
        loaded,
        configured,
        continued,
        failed,
        reacted,
        ..
    } = reached;
    for stage in [loaded, configured, continued, failed, reacted] {
        assert!(stage > 0, "{reached:?}");
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("SLUICEGATE_HOSTILE") else {
        return 0..GUESTS;
    };
    let (first, end) = range.split_once("..").expect("FIRST..END");
    first.parse().expect("a number")..end.parse().expect("a number")
}

async fn meet(host: &Arc<Host>, seed: u64, reached: &mut Reached) {
    let grants = Grants {
        kv: true,
        http: vec!["idp".into()],
        upstreams: vec!["other".into()],
        ..Grants::default()
    };
    let limits = Limits {
        memory: 1 << 20,
        call_timeout: Duration::from_millis(20),
        wall_timeout: Duration::from_millis(500),
        configure_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let plugin = match host.load("hostile", &guest::wasm(seed), limits, &grants) {
        Ok(plugin) => plugin,
        Err(error) => return println!("is not loaded: {error}"),
    };
    reached.loaded += 1;
    let filter = match plugin.configure("{}").await {
        Ok(filter) => filter,
        Err(error) => return println!("takes no config: {error}"),
    };
    reached.configured += 1;
    filters(&filter, reached).await;
    converses(&filter, &limits, reached).await;
}

async fn filters(filter: &Filter, reached: &mut Reached) {
    let before = request(&FIELDS);
    let (after, outcome) = filter.on_request(before.clone()).await;
    check_request(&before, &after, outcome.as_ref().err());
    let hook = match outcome {
        Ok(outcome) => {
            check_verdict(&outcome.verdict, reached);
            outcome.response_hook
        }
        Err(error) => {
            println!("fails: {error}");
            reached.failed += 1;
            None
        }
    };
    if let Some(hook) = hook {
        let before = response(&FIELDS);
        let (after, outcome) = hook.on_response(before.clone()).await;
        match outcome {
            Ok(outcome) => check_verdict(&outcome.verdict, reached),
            Err(_) => assert_eq!(format!("{after:?}"), format!("{before:?}")),
        }
        for name in PROTECTED {
            assert_eq!(after.headers.get(name), before.headers.get(name), "{name}");
        }
    }
}

async fn converses(filter: &Filter, limits: &Limits, reached: &mut Reached) {
    let head = request(&FIELDS);
    let opening = Opening {
        request_id: "id-1".into(),
        route: "the-route".into(),
        host: "ws.example.com".into(),
        path: "/ws".into(),
        query: None,
        client_ip: [192, 0, 2, 7].into(),
        headers: head.headers.clone(),
        subprotocol: None,
        labels: Vec::new(),
        kept: Bytes::new(),
    };
    let mut conversation = match filter.open(&opening, Arc::clone(&head.facts)).await {
        Ok(Some(conversation)) => conversation,
        Ok(None) => return,
        Err(error) => return println!("opens nothing: {error}"),
    };
    let mut check = |reaction: Result<Reaction, FilterError>| match reaction {
        Ok(reaction) => {
            reached.reacted += 1;
            check_reaction(&reaction, limits);
        }
        Err(error) => println!("does not react: {error}"),
    };
    check(
        conversation
            .on_message(Side::Client, Kind::Text, b"hello")
            .await,
    );
    check(
        conversation
            .on_message(Side::Server, Kind::Binary, b"\0\xff")
            .await,
    );
    check(conversation.on_timer().await);
    let ending = Ending {
        code: Some(1000),
        by: None,
        cause: "close",
    };
    let _ = conversation.on_close(&ending).await;
}

/// After a failure the head is as it was, and by the rules otherwise.
fn check_request(before: &RequestHead, after: &RequestHead, error: Option<&FilterError>) {
    if error.is_some() {
        assert_eq!(format!("{after:?}"), format!("{before:?}"));
    }
    for name in PROTECTED {
        assert_eq!(after.headers.get(name), before.headers.get(name), "{name}");
    }
    assert_eq!((&after.method, &after.path), (&before.method, &before.path));
    let query = after.query.as_deref().unwrap_or_default();
    assert!(
        query
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    );
    assert!(matches!(after.upstream.as_deref(), None | Some("other")));
}

fn check_verdict(verdict: &Verdict, reached: &mut Reached) {
    let Verdict::Respond(reply) = verdict else {
        reached.continued += 1;
        return;
    };
    reached.responded += 1;
    assert!((StatusCode::OK.as_u16()..=599).contains(&reply.status().as_u16()));
    assert!(reply.body().len() <= 64 << 10);
    for name in PROTECTED {
        assert!(!reply.headers().contains_key(name), "{name}");
    }
}

fn check_reaction(reaction: &Reaction, limits: &Limits) {
    assert!(reaction.inject.len() <= 64);
    let mut messages: Vec<&Message> = Vec::new();
    messages.extend(reaction.inject.iter().map(|injection| &injection.message));
    match &reaction.verdict {
        Becomes::Forward | Becomes::Drop => {}
        Becomes::Replace(message) => messages.push(message),
        Becomes::Close { code, reason } => {
            assert!(
                matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999),
                "{code}"
            );
            assert!(reason.len() <= 123);
        }
    }
    let size: usize = messages.iter().map(|message| message.data.len()).sum();
    assert!(size <= limits.message_output);
    for Message { kind, data } in messages {
        match kind {
            Kind::Text => assert!(std::str::from_utf8(data).is_ok()),
            Kind::Binary => {}
            Kind::Ping | Kind::Pong => assert!(data.len() <= 125),
        }
    }
}

const FIELDS: [(&str, &str); 8] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
    ("content-length", "0"),
    ("x-a", "1"),
    ("x-a", "2"),
    ("cookie", "a=b"),
];
/// What no plugin may touch.
const PROTECTED: [&str; 6] = [
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "content-length",
    "transfer-encoding",
];
/// Played by every run of the tests.
const GUESTS: u64 = 60;
