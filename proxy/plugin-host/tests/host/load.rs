//! What is a plugin and what is not, and the compile cache.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sluicegate_plugin_host::{
    Grants, Host, HostError, HostSettings, Kind, Limits, LoadError, componentize, inspect,
};

use crate::support::{GUEST, host, request};

#[test]
fn what_is_no_plugin_is_refused_by_name() {
    let host = host(1);
    #[track_caller]
    fn check(host: &std::sync::Arc<Host>, wasm: &[u8], expect: &str) {
        let error = host
            .load("p", wasm, Limits::default(), &Grants::default())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(expect), "{error}");
    }
    let wat = |text: &str| wat::parse_str(text).expect("valid text");
    check(&host, b"", "not a WebAssembly file");
    check(&host, b"#!/bin/sh", "not a WebAssembly file");
    check(
        &host,
        &GUEST[..GUEST.len() / 2],
        "invalid or truncated WebAssembly",
    );
    check(&host, &GUEST[..8], "without an interface description");
    check(
        &host,
        &[b"\0asm".as_slice(), &vec![0; 33 << 20]].concat(),
        "at most 33554432",
    );
    check(
        &host,
        &wat(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#),
        "imports `wasi_snapshot_preview1.fd_write`, which sluicegate does not offer",
    );
    check(
        &host,
        &wat(r#"(component (import "wasi:http/types@0.2.0" (instance)))"#),
        "imports `wasi:http/types@0.2.0`, which sluicegate does not offer",
    );
    check(
        &host,
        &wat(r#"(component (import "sluicegate:plugin/http@9.0.0" (instance)))"#),
        "made for `sluicegate:plugin/http@9.0.0`; this sluicegate speaks 0.1.0 and 0.2.0: rebuild",
    );
    check(&host, &wat("(component)"), "does not export `describe`");
    check(&host, &wat("(module)"), "without an interface description");
    let limits = Limits {
        memory: 1 << 40,
        ..Limits::default()
    };
    assert!(matches!(
        host.load("p", &GUEST, limits, &Grants::default()),
        Err(LoadError::MemoryLimit { .. })
    ));
}

#[test]
fn a_plugin_can_be_inspected_and_componentized() {
    let seen = inspect(&GUEST).expect("it is valid");
    assert_eq!(seen.kind, Kind::Module);
    assert_eq!(seen.version.as_deref(), Some("0.2.0"));
    assert_eq!(
        seen.exports,
        ["describe", "configure", "on-request", "on-response"]
    );
    assert!(
        seen.imports
            .contains(&"sluicegate:plugin/http@0.2.0".to_owned())
    );
    assert!(
        seen.producers.iter().any(|p| p.starts_with("Rust")),
        "{:?}",
        seen.producers
    );

    let component = componentize(&GUEST).expect("it is valid");
    assert_eq!(component.len(), seen.component_size);
    assert_eq!(componentize(&component).expect("still valid"), component);
    assert_eq!(inspect(&component).expect("valid").kind, Kind::Component);
    let plugin = host(1)
        .load("p", &component, Limits::default(), &Grants::default())
        .expect("it loads");
    assert_eq!(plugin.description().name, "sluicegate-test-guests");
    assert!(plugin.description().request_hook && plugin.description().response_hook);
    assert_eq!(plugin.content_hash().len(), 64);
}

#[tokio::test]
async fn the_cache_gives_the_same_plugin_and_ignores_what_is_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    for round in 0..4 {
        let plugin = cached_host(&cache).expect("a host").load(
            "p",
            &GUEST,
            Limits::default(),
            &Grants::default(),
        );
        let plugin = plugin.expect("it loads");
        assert_eq!(plugin.from_cache(), matches!(round, 1 | 3), "round {round}");
        let filter = plugin
            .configure(r#"{"request":"count"}"#)
            .await
            .expect("a config");
        let (head, outcome) = filter.on_request(request(&[])).await;
        assert!(outcome.is_ok());
        assert_eq!(head.headers["x-count"], "1");
        if round == 1 {
            for file in files(&cache) {
                let mode = fs::metadata(&file).expect("there").permissions().mode();
                assert_eq!(mode & 0o077, 0);
                let mut bytes = fs::read(&file).expect("readable");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&file, bytes).expect("writable");
            }
        }
    }
    // An empty or truncated file is no reason to fail either.
    for file in files(&cache) {
        fs::write(file, b"").expect("writable");
    }
    let plugin = cached_host(&cache).expect("a host").load(
        "p",
        &GUEST,
        Limits::default(),
        &Grants::default(),
    );
    assert!(!plugin.expect("it loads").from_cache());
}

#[test]
fn a_cache_folder_that_others_can_open_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    cached_host(&cache).expect("made by the host");
    assert_eq!(
        fs::metadata(&cache).expect("there").permissions().mode() & 0o777,
        0o700
    );
    for mode in [0o755, 0o770, 0o701] {
        fs::set_permissions(&cache, Permissions::from_mode(mode)).expect("ours");
        match cached_host(&cache) {
            Err(HostError::Cache { problem, .. }) => assert!(problem.contains("0700"), "{problem}"),
            other => panic!("{other:?}"),
        }
    }
    let link = folder.path().join("link");
    fs::set_permissions(&cache, Permissions::from_mode(0o700)).expect("ours");
    std::os::unix::fs::symlink(&cache, &link).expect("a link");
    assert!(matches!(cached_host(&link), Err(HostError::Cache { .. })));
}

#[test]
fn too_many_instances_are_refused() {
    let settings = HostSettings {
        instances: 20_000,
        ..HostSettings::default()
    };
    assert!(matches!(
        Host::new(settings),
        Err(HostError::TooManyInstances(20_000))
    ));
}

fn cached_host(cache: &Path) -> Result<std::sync::Arc<Host>, HostError> {
    let cache_dir = Some(cache.to_owned());
    Host::new(HostSettings {
        instances: 2,
        cache_dir,
        ..HostSettings::default()
    })
}

/// The code of the one plugin, and its functions by themselves.
fn files(folder: &Path) -> [std::path::PathBuf; 2] {
    let files: Vec<_> = fs::read_dir(folder).expect("a folder").flatten().collect();
    let paths: Vec<_> = files.iter().map(fs::DirEntry::path).collect();
    paths.try_into().expect("two files")
}
