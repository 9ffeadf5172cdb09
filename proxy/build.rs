//! Puts the SDK's sources into the binary, for `sluicegate plugin new`: a plugin builds against the SDK of
//! the proxy that it was begun with, without a registry or a clone of the repository.
//!
//! Writes `sdk.rs`, a list of `(path below plugin-sdk, text)` in the order of the paths: manifests,
//! `src` and `wit` of the SDK and of the crates beside it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).ok_or_else(|| io::Error::other(name));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../plugin-sdk");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let (path, name) = (file.canonicalize()?, file.strip_prefix(&root));
        let name = name.map_err(io::Error::other)?;
        // Writing to a string does not fail.
        let _ = writeln!(list, "    ({name:?}, include_str!({path:?})),");
    }
    list.push_str("]\n");
    fs::write(Path::new(&variable("OUT_DIR")?).join("sdk.rs"), list)
}

/// Sources below a folder; what else a crate may have (tests, benches) stays behind.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !["tests", "benches", "target"].contains(&&*name) {
                collect(&path, files)?;
            }
        } else if name == "Cargo.toml" || name.ends_with(".rs") || name.ends_with(".wit") {
            files.push(path);
        }
    }
    Ok(())
}
