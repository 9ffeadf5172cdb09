//! `sluicegate plugin new`, from nothing to a filter that refuses, outside of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sluicegate_tests::languages::{JAVASCRIPT, PYTHON};
use sluicegate_tests::proxy::{binary, source_root};
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, languages, plugins};
use tempfile::TempDir;

#[tokio::test]
async fn a_rust_plugin_builds_without_the_repository_or_the_network() {
    let dir = TempDir::new().unwrap();
    let folder = made(&dir, "my-gate", &[]);

    // Whoever builds a plugin here has fetched what every plugin needs.
    plugins::wasm("token-gate");

    let target = target();
    let built = Command::new(binary())
        .args(["plugin", "build"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let said = String::from_utf8_lossy(&built.stdout);
    assert!(said.starts_with("./my_gate.wasm: "), "{said}");

    let cases = Command::new(binary())
        .args(["plugin", "test"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    assert!(cases.status.success(), "{}", text(&cases));
    assert!(
        text(&cases).contains("my-gate 0.1.0: 3 cases, all pass"),
        "{}",
        text(&cases)
    );

    // Its own tests, natively.
    let tested = Command::new("cargo")
        .args(["test", "--offline"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .unwrap();
    assert!(tested.status.success(), "{}", text(&tested));

    // What was fetched for the proxy is enough, and cargo has not changed a version.
    let lock = fs::read_to_string(folder.join("Cargo.lock")).unwrap();
    let ours = fs::read_to_string(source_root().join("Cargo.lock")).unwrap();
    for package in lock
        .split("\n\n")
        .filter(|package| package.contains("checksum"))
    {
        let version: Vec<_> = package.lines().skip(1).take(2).collect();
        assert!(ours.contains(&version.join("\n")), "{package}");
    }
    refuses(folder).await;
    drop(dir);
}

#[test]
fn a_message_filter_builds_and_passes_its_cases() {
    let dir = TempDir::new().unwrap();
    let folder = made(&dir, "my-guard", &["--kind", "messages"]);
    plugins::wasm("word-guard");
    let target = target();
    for (command, said) in [
        ("build", "./my_guard.wasm: "),
        ("test", "my-guard 0.1.0: 2 cases, all pass"),
    ] {
        let output = Command::new(binary())
            .args(["plugin", command])
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_NET_OFFLINE", "true")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
}

#[test]
fn the_folder_is_that_of_the_example_under_another_name() {
    // The examples are built and run by `languages`; so these would be, too.
    let dir = TempDir::new().unwrap();
    for (lang, tools) in [("js", JAVASCRIPT), ("python", PYTHON)] {
        let name = format!("my-{lang}-gate");
        let folder = made(&dir, &name, &["--lang", lang]);
        let example = source_root().join("examples/filters").join(tools.folder);
        for file in files_below(&folder) {
            let made = fs::read_to_string(folder.join(&file)).unwrap();
            let made = made
                .replace(&name, "token-gate")
                .replace(&name.replace('-', "_"), "token_gate");
            if file != Path::new(".gitignore") {
                let example = fs::read_to_string(example.join(&file)).unwrap();
                assert_eq!(made, example, "{}", file.display());
            }
        }
        assert!(folder.join("wit/deps/sluicegate-plugin/http.wit").is_file());
    }
}

#[test]
fn the_next_commands_are_told() {
    let dir = TempDir::new().unwrap();
    for (lang, build) in [
        ("rust", "sluicegate plugin build"),
        ("js", "npm install && npm run build"),
        ("python", "sh build.sh"),
    ] {
        let output = new(
            &dir,
            &[&format!("in-{lang}"), "--lang", lang, "--kind", "handshake"],
        );
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        let next: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("    "))
            .collect();
        let cd = format!("    cd in-{lang}");
        assert_eq!(
            next,
            [&cd, &format!("    {build}"), "    sluicegate plugin test"],
            "{said}"
        );
    }
}

#[test]
fn what_exists_is_left_alone_and_bad_names_are_refused() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("taken")).unwrap();
    for (args, code, expect) in [
        (&["taken"][..], 1, "`./taken` exists already"),
        (
            &["My_Gate"],
            2,
            "a name is lower-case letters, digits and single hyphens",
        ),
        (&["../escape"], 2, "a name is lower-case letters"),
        (&["match"], 2, "means something else to Rust"),
        (&["gate", "--lang", "cobol"], 2, "invalid value 'cobol'"),
        (&["gate", "--kind", "tunnel"], 2, "invalid value 'tunnel'"),
        (
            &["gate", "--kind", "messages", "--lang", "js"],
            1,
            "no message filter to begin with in this language",
        ),
        (&[], 2, "<NAME>"),
    ] {
        let output = new(&dir, args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            text(&output)
        );
        assert!(
            text(&output).contains(expect),
            "{args:?}: {}",
            text(&output)
        );
    }
    let left: Vec<_> = dir.path().read_dir().unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(dir.path().join("taken").read_dir().unwrap().count(), 0);
}

/// Runs the plugin in a folder with the configuration that it came with.
async fn refuses(folder: PathBuf) {
    let dir = TempDir::new().unwrap();
    for file in ["my_gate.wasm", "sluicegate.toml"] {
        fs::copy(folder.join(file), dir.path().join(file)).unwrap();
    }
    let server = Upstream::describing("server").await;
    let proxy = languages::serve(dir, &server.addr.to_string()).await;
    let (head, body) = client::get(proxy.addr(0), "/").await;
    assert_eq!((head.status, &*body), (401, &b"a token, please\n"[..]));
    let why = proxy
        .log_line("the reason", |line| {
            line.contains("no token, or a wrong one")
        })
        .await;
    assert!(why.contains("my-gate"), "{why}");
}

/// One target folder for all such crates keeps the tests short; it holds the SDK's dependencies only.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| source_root().join("target"), PathBuf::from)
        .join("plugin-new")
}

/// A new plugin's folder.
fn made(dir: &TempDir, name: &str, args: &[&str]) -> PathBuf {
    let output = new(dir, &[&[name], args].concat());
    assert!(output.status.success(), "{}", text(&output));
    dir.path().join(name)
}

/// Every file, by its path in the folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = Path::new(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(files_below(&path).iter().map(|file| name.join(file)));
        } else {
            found.push(name.to_owned());
        }
    }
    found
}

fn new(dir: &TempDir, args: &[&str]) -> Output {
    let folder: &Path = dir.path();
    let mut command = Command::new(binary());
    command
        .args(["plugin", "new"])
        .args(args)
        .current_dir(folder);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let said = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
