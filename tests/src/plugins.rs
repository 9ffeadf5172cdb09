//! Plugins from source: each crate is built for wasm once per process, as `sluicegate plugin build`
//! builds it, into `target/plugins`. cargo's own lock keeps processes apart.
//!
//! It uses the standard library only: the tests of the plugin host take this file in as well.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

/// The .wasm of a package of the workspace, such as `sluicegate-api-key`.
///
/// Blocks for as long as cargo takes.
///
/// # Panics
/// When the package cannot be built; with cargo's own words.
pub fn wasm(package: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = built.get(package) {
        return file.clone();
    }
    let file = build(package);
    built.insert(package.to_owned(), file.clone());
    file
}

fn build(package: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file())
        .expect("the tests are in the workspace");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("plugins");
    ensure_target(root);
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--release", "--lib", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .args(["--package", package, "--target-dir"])
        .arg(&target)
        // Flags for the machine under test are not for wasm.
        .env_remove("RUSTFLAGS");
    for setting in SMALL {
        cargo
            .arg("--config")
            .arg(format!("profile.release.{setting}"));
    }
    cargo.args(["--config", HEAP]);
    let output = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{package}: {said}");
    // The package's own artifact is the last one.
    let messages = String::from_utf8_lossy(&output.stdout);
    let file = messages
        .lines()
        .rev()
        .filter_map(|line| line.split_once("\"filenames\":[\""))
        .filter_map(|(_, rest)| rest.split('"').next())
        .find(|file| file.ends_with(".wasm"));
    PathBuf::from(file.expect("cargo names the .wasm it made"))
}

/// On a fresh machine the first test to need the target installs it.
fn ensure_target(root: &Path) {
    let script = Command::new("bash")
        .arg(root.join(".ci/wasm-target.sh"))
        .output()
        .expect("bash runs");
    let said = String::from_utf8_lossy(&script.stderr);
    assert!(script.status.success(), "{said}");
}

const TARGET: &str = "wasm32-unknown-unknown";
const SMALL: [&str; 6] = [
    "opt-level=3",
    "lto=\"fat\"",
    "codegen-units=1",
    "panic=\"abort\"",
    "debug=false",
    "strip=\"debuginfo\"",
];
/// A heap to begin with: growing the memory costs a fresh instance more than most filters do.
const HEAP: &str = "target.wasm32-unknown-unknown.rustflags=[\"-Clink-arg=--initial-heap=131072\"]";
