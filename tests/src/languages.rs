//! Tools for plugins in other languages than Rust, and the filters built with them.
//!
//! The tools are found in `target/languages`, where `.ci/languages.sh` puts them, or on the PATH. What is
//! missing is said, and the test that needs it does nothing: not everybody has a Node.js.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::proxy::{Proxy, binary, source_root};
use tempfile::TempDir;

/// What builds the filters of one language.
#[derive(Debug, Clone, Copy)]
pub struct Tools {
    /// The folder in `examples/filters`.
    pub folder: &'static str,
    /// Programs that must be there.
    pub programs: &'static [&'static str],
    /// The command of the README.
    pub build: &'static str,
}

pub const JAVASCRIPT: Tools = Tools {
    folder: "javascript",
    programs: &["npm", "componentize-js"],
    build: "npm run --silent build",
};
pub const PYTHON: Tools = Tools {
    folder: "python",
    programs: &["componentize-py"],
    build: "sh build.sh",
};
pub const C: Tools = Tools {
    folder: "c",
    programs: &["clang", "wasm-ld", "wit-bindgen"],
    build: "sh build.sh",
};

impl Tools {
    /// Whether all of them are installed; if not, says so.
    pub fn are_there(self) -> bool {
        let path = search_path();
        let missing =
            |program: &&&str| !env::split_paths(&path).any(|folder| folder.join(program).is_file());
        let missing: Vec<_> = self.programs.iter().filter(missing).collect();
        if !missing.is_empty() {
            println!("skipped: no {missing:?}; .ci/languages.sh installs them");
        }
        missing.is_empty()
    }

    /// Builds the project in a folder.
    pub fn run_build(self, folder: &Path) {
        let output = Command::new("sh")
            .args(["-c", self.build])
            .current_dir(folder)
            .env("PATH", search_path())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{}: {said}", self.build);
    }
}

/// A copy of the filter in `examples/filters`, built; `None`: the tools are missing.
pub fn example(tools: Tools) -> Option<TempDir> {
    if !tools.are_there() {
        return None;
    }
    let dir = TempDir::new().unwrap();
    let example = source_root().join("examples/filters").join(tools.folder);
    copy(&example, dir.path());
    tools.run_build(dir.path());
    Some(dir)
}

/// The proxy with the `sluicegate.toml` of a folder in which a filter was built, in front of this server.
///
/// `check` runs first: a large plugin may take longer to compile than a start is waited for, and its code is
/// kept for the start.
pub async fn serve(dir: TempDir, server: &str) -> Proxy {
    let path = dir.path().join("sluicegate.toml");
    let config = fs::read_to_string(&path).unwrap();
    assert!(config.contains("\"127.0.0.1:8080\"") && config.contains("\"127.0.0.1:3000\""));
    let config = config
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:3000", server);
    fs::write(&path, &config).unwrap();
    let output = tokio::process::Command::new(binary())
        .arg("check")
        .current_dir(dir.path())
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Proxy::start_in(dir, &config).await
}

/// Copies a folder, and what its links point to.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let (path, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

fn search_path() -> OsString {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| source_root().join("target"), PathBuf::from)
        .join("languages");
    let ours = ["bin", "node_modules/.bin", "venv/bin"].map(|folder| target.join(folder));
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(ours.into_iter().chain(env::split_paths(&path))).unwrap()
}
