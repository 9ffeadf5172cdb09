//! Images of configured memory: what an instance begins with, what cannot have one, and where the
//! secrets in it may not go.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_plugin_host::{
    ConfigureError, Filter, FilterError, Grants, Host, HostSettings, Limits, Plugin, Verdict,
};

use crate::support::{
    API_KEY, DEAR, GUEST, HEADERS, Lines, host, imaging_host, plugin, request, response,
};

#[tokio::test]
async fn what_is_cheap_is_configured_each_time_and_what_is_dear_has_an_image() {
    let config = keys(20_000);
    for (cheap, has_image) in [(Duration::ZERO, true), (Duration::from_secs(60), false)] {
        let host = host_with(cheap, None);
        for wasm in [&*DEAR, &API_KEY, &HEADERS] {
            let config = if wasm == &*DEAR {
                &config
            } else if wasm == &*API_KEY {
                r#"{"keys":{"owner-7":"key-7"},"consumer_header":"x-owner"}"#
            } else {
                r#"{"request":{"set":{"x-owner":"owner-7"}}}"#
            };
            let filter = configured(&plugin(&host, wasm), config).await;
            assert_eq!(filter.has_image(), has_image);
            for _ in 0..3 {
                let head = request(&[("x-api-key", "key-7")]);
                let (head, outcome) = filter.on_request(head).await;
                assert!(matches!(
                    outcome.expect("a verdict").verdict,
                    Verdict::Continue
                ));
                assert_eq!(head.headers["x-owner"], "owner-7");
            }
        }
    }
    // Parsing so much is never cheap.
    let usual = configured(&plugin(&host(2), &DEAR), &config).await;
    assert!(usual.has_image());
}

#[tokio::test]
async fn each_instance_has_the_memory_that_configure_left() {
    let filter = configured(
        &plugin(&imaging_host(2), &GUEST),
        r#"{"request":"count","response":"count"}"#,
    )
    .await;
    assert!(filter.has_image());
    for _ in 0..5 {
        let (head, outcome) = filter.on_request(request(&[])).await;
        assert_eq!(head.headers["x-count"], "1", "nobody counted before");
        let hook = outcome
            .expect("a verdict")
            .response_hook
            .expect("it has one");
        let (head, verdict) = hook.on_response(response(&[])).await;
        verdict.expect("a verdict");
        assert_eq!(head.headers["x-count"], "2", "the same instance goes on");
    }
}

#[tokio::test]
async fn two_configs_of_a_plugin_have_images_of_their_own() {
    let plugin = plugin(&imaging_host(4), &DEAR);
    let [few, many] = [
        configured(&plugin, &keys(1)).await,
        configured(&plugin, &keys(100)).await,
    ];
    for (filter, lets_in) in [(&few, false), (&many, true), (&few, false), (&many, true)] {
        let (_, outcome) = filter.on_request(request(&[("x-api-key", "key-99")])).await;
        let verdict = outcome.expect("a verdict").verdict;
        assert_eq!(matches!(verdict, Verdict::Continue), lets_in, "{verdict:?}");
    }
}

#[tokio::test]
async fn an_instance_from_an_image_has_the_same_limits() {
    let plugin = plugin(&imaging_host(2), &GUEST);
    for (act, label) in [
        ("trap", "trap"),
        ("memory", "memory"),
        ("stack", "trap"),
        ("loop", "timeout"),
    ] {
        let filter = configured(&plugin, &format!(r#"{{"request":"{act}"}}"#)).await;
        assert!(filter.has_image());
        let (_, outcome) = filter.on_request(request(&[])).await;
        let error = outcome.expect_err("it fails");
        assert_eq!(error.label(), label, "{act}: {error:?}");
        if let (FilterError::Trap { backtrace, .. }, "trap") = (&error, act) {
            assert!(backtrace.contains("trap_as_asked"), "{backtrace}");
        }
    }
}

#[tokio::test]
async fn a_configure_that_fails_fails_as_ever() {
    let limits = Limits {
        configure_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let plugin = imaging_host(1).load("guest", &GUEST, limits, &Grants::default());
    let plugin = plugin.expect("it loads");
    for (act, expect) in [
        ("trap", "trap"),
        ("memory", "memory"),
        ("loop", "timeout"),
        ("reject", "rejected"),
    ] {
        let config = format!(r#"{{"configure":"{act}"}}"#);
        let error = match plugin.configure(&config).await {
            Err(ConfigureError::Rejected(text)) => {
                assert!(text.message.contains("rejected as asked"), "{text}");
                "rejected"
            }
            Err(ConfigureError::Timeout) => "timeout",
            Err(ConfigureError::Failed(error)) => error.label(),
            other => panic!("{act}: {other:?}"),
        };
        assert_eq!(error, expect, "{act}");
    }
}

#[tokio::test]
async fn what_cannot_have_an_image_says_so_once_and_works_without() {
    #[track_caller]
    fn check(lines: &Lines, expect: &str) {
        let text = lines.text();
        let said: Vec<&str> = text.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(said.len(), 1, "{text}");
        assert!(said[0].contains(expect), "{text}");
    }
    // An export whose name the tool keeps for itself.
    let mut odd = GUEST.clone();
    let name = b"__heap_base";
    let place = odd.windows(name.len()).position(|bytes| bytes == name);
    odd[place.expect("it exports this")..][..name.len()].copy_from_slice(b"__wizer_any");
    let lines = Lines::collect();
    let filter = configured(&plugin(&imaging_host(2), &odd), r#"{"request":"count"}"#).await;
    assert!(!filter.has_image());
    for _ in 0..2 {
        let (head, outcome) = filter.on_request(request(&[])).await;
        outcome.expect("a verdict");
        assert_eq!(head.headers["x-count"], "1");
    }
    check(&lines, "__wizer_");

    let lines = Lines::collect();
    let limits = Limits {
        memory: 128 << 20,
        // What is dearer than a call may be is refused, and a busy machine makes all dear.
        call_timeout: Duration::from_secs(5),
        ..Limits::default()
    };
    let plugin = imaging_host(2).load("guest", &DEAR, limits, &Grants::default());
    let large = format!(r#"{{"keys":["key-0","{}"]}}"#, "a".repeat(17 << 20));
    let filter = configured(&plugin.expect("it loads"), &large).await;
    assert!(!filter.has_image());
    let (_, outcome) = filter.on_request(request(&[("x-api-key", "key-0")])).await;
    let verdict = outcome.expect("a verdict").verdict;
    assert!(matches!(verdict, Verdict::Continue), "{verdict:?}");
    check(&lines, "more than 16 MiB");
}

#[tokio::test]
async fn configure_logs_once_however_often_it_is_tried() {
    let lines = Lines::collect();
    let filter = configured(&plugin(&imaging_host(2), &DEAR), &keys(3)).await;
    for _ in 0..3 {
        let (_, outcome) = filter.on_request(request(&[])).await;
        outcome.expect("a verdict");
    }
    assert_eq!(lines.text().matches("configured with").count(), 1);
}

#[tokio::test]
async fn secrets_do_not_go_into_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let secret = "xK7-only-in-this-config-Qz";
    let config = format!(r#"{{"keys":["{secret}"]}}"#);
    for from_cache in [false, true] {
        let host = host_with(Duration::ZERO, Some(cache.clone()));
        let plugin = plugin(&host, &DEAR);
        assert_eq!(plugin.from_cache(), from_cache);
        let filter = configured(&plugin, &config).await;
        assert!(filter.has_image());
        let (head, outcome) = filter.on_request(request(&[("x-api-key", secret)])).await;
        outcome.expect("a verdict");
        assert_eq!(head.headers["x-owner"], "owner-0");
        let files: Vec<_> = fs::read_dir(&cache).expect("a folder").flatten().collect();
        assert_eq!(
            files.len(),
            3,
            "the plugin, its functions, and what its images are made with"
        );
        for file in files {
            let bytes = fs::read(file.path()).expect("readable");
            let found = bytes
                .windows(secret.len())
                .any(|bytes| bytes == secret.as_bytes());
            assert!(!found, "{}", file.path().display());
        }
    }
}

async fn configured(plugin: &Arc<Plugin>, config: &str) -> Filter {
    plugin.configure(config).await.expect("it takes the config")
}

fn host_with(cheap_configure: Duration, cache_dir: Option<std::path::PathBuf>) -> Arc<Host> {
    Host::new(HostSettings {
        instances: 2,
        cache_dir,
        cheap_configure,
        ..HostSettings::default()
    })
    .expect("a host")
}

fn keys(n: usize) -> String {
    let keys: Vec<String> = (0..n).map(|i| format!(r#""key-{i}""#)).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}
