//! Keeps the invariants of ARCHITECTURE.md that can be seen in the source.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

/// All Rust files under a folder of the workspace.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {folder}");
    found
}

/// A released version of the plugin interface never changes: plugins were built for it.
#[test]
fn released_interfaces_are_frozen() {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/wit");
    for (version, digest) in [
        (
            "0.1.0",
            "8d32d81c61c81fa4b1da9035e084a2773b22ef669bd6b51c2affea540f72edaf",
        ),
        (
            "0.2.0",
            "a834c759b8820dec9a485fabb2e1d6ba849d20043c19969095123fd0fc03f5dd",
        ),
    ] {
        let files = fs::read_dir(wit.join(version)).unwrap();
        let files: BTreeSet<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        let mut all = Context::new(&SHA256);
        for file in files {
            all.update(&fs::read(file).unwrap());
        }
        let found: String = all
            .finish()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(found, digest, "{version}");
    }
}

/// Fails if code (not comments) outside of `except` names one of `words`.
fn check(folder: &str, words: &[&str], except: &[&str]) {
    for (path, text) in sources(folder) {
        let shown = path.display().to_string();
        if except.iter().any(|allowed| shown.contains(allowed)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for word in words {
                assert!(
                    !code.contains(word),
                    "{shown}:{}: `{word}` does not belong here",
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_codec_does_no_io_and_reads_no_clock() {
    check(
        "proxy/src/ws",
        &["std::io", "std::net", "std::time", "tokio", "Instant"],
        &["tests.rs"],
    );
}

#[test]
fn the_configuration_opens_nothing() {
    check(
        "proxy/src/config",
        &[
            "std::fs",
            "File::open",
            "rustls",
            "wasmtime",
            "plugin_host",
            "tokio",
        ],
        &["tests.rs"],
    );
}

#[test]
fn only_the_plugin_host_names_wasmtime_and_only_tls_names_rustls() {
    check("proxy/src", &["wasmtime"], &[]);
    check("proxy/src", &["rustls"], &["src/tls"]);
}

#[test]
fn the_plugin_host_and_the_sdk_do_not_look_up() {
    check("proxy/plugin-host/src", &["use sluicegate::"], &[]);
    check("plugin-sdk/src", &["plugin_host", "use sluicegate::"], &[]);
}

/// Whoever adds a file here argues at each block why it is sound, and in its header why it is needed.
#[test]
fn unsafe_code_is_where_it_is_argued() {
    let allowed = BTreeSet::from([
        // What the C library alone can do: whom the process becomes, and giving memory back.
        "proxy/src/privileges.rs",
        "proxy/src/memory.rs",
        // Compiled code is taken from a folder that only we write.
        "proxy/plugin-host/src/cache.rs",
        // The bindings' handles under names of ours.
        "plugin-sdk/src/head.rs",
        // The benchmark chooses its processor, a test counts what is allocated, the others are tests' signals,
        // limits and terminals.
        "tests/load/src/machine.rs",
        "proxy/tests/idle_contexts.rs",
        "tests/src/lib.rs",
        "tests/src/proxy.rs",
        "tests/tests/http2_clients.rs",
        "tests/tests/limits.rs",
        "tests/tests/plugin_record.rs",
        "tests/tests/start.rs",
    ]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for folder in ["proxy", "plugin-sdk", "plugins", "tests", "examples"] {
        for (path, text) in sources(folder) {
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or(""));
            let begins = ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern "];
            if code
                .into_iter()
                .any(|code| begins.iter().any(|unsafe_| code.contains(unsafe_)))
            {
                found.insert(path.strip_prefix(&root).unwrap().display().to_string());
            }
        }
    }
    // The list of this test names what it looks for.
    found.remove("proxy/tests/architecture.rs");
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, allowed);
}

/// Clocks that can be set are for what people and other machines are told; whatever waits uses one that cannot.
#[test]
fn no_deadline_depends_on_the_time_of_day() {
    let told = [
        // Dates in answers, logs, metrics and the banner, and those of files.
        "proxy/src/date.rs",
        "proxy/src/telemetry/",
        "proxy/src/banner.rs",
        "proxy/src/cli/watch.rs",
        // What expires at a date: a certificate, and a session, whose end a tunnel counts down by the other clock.
        "proxy/src/tls/",
        "proxy/src/flow/exchange.rs",
    ];
    check("proxy/src", &["SystemTime"], &told);
}

#[test]
fn files_stay_readable() {
    for folder in ["proxy", "plugin-sdk", "plugins", "tests", "examples"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 800, "{} has {lines} lines", path.display());
        }
    }
}

/// The modules at the top of `proxy/src`, each with those it names in code (not in tests).
fn module_graph() -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources("proxy/src") {
        let inside = path.to_str().unwrap().rsplit_once("/proxy/src/").unwrap().1;
        if inside.ends_with("tests.rs") || inside.contains("tests/") {
            continue;
        }
        let module = inside.split(['/', '.']).next().unwrap().to_owned();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let named = code
            .lines()
            .map(|line| line.split("//").next().unwrap_or(""))
            .flat_map(|line| line.split("crate::").skip(1))
            .map(|rest| {
                rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("")
                    .to_owned()
            });
        graph.entry(module).or_default().extend(named);
    }
    let modules: BTreeSet<String> = graph.keys().cloned().collect();
    for (module, named) in &mut graph {
        named.retain(|name| name != module && modules.contains(name));
    }
    graph
}

#[test]
fn modules_depend_on_each_other_one_way() {
    let mut graph = module_graph();
    assert!(graph.len() > 20, "the graph was not found");
    // Take away what depends on nothing that is left; what remains in the end goes in circles.
    loop {
        let leaves: Vec<String> = graph
            .iter()
            .filter(|(_, named)| named.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if leaves.is_empty() {
            break;
        }
        for leaf in leaves {
            graph.remove(&leaf);
            for named in graph.values_mut() {
                named.remove(&leaf);
            }
        }
    }
    assert!(graph.is_empty(), "these modules go in circles: {graph:#?}");
}
