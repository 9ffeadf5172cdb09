//! The sources that the proxy should be made from: their commit, and whether it is older than they.
//!
//! They are those beside which this program was built. Times of files can only raise a suspicion:
//! an older proxy was not made from the sources as they are, or they were merely checked out again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::bounded;

/// The commit that the sources are at, with `-dirty` when they have changed since; `None` without
/// git. Results that an earlier run has written are no change.
pub(crate) fn commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ".",
        ":(exclude)tests/load/results",
    ])?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

/// The youngest source of the proxy, named from the workspace, if it is younger than the `program`.
pub(crate) fn younger_than(program: &Path) -> Option<PathBuf> {
    let made = fs::metadata(program).ok()?.modified().ok()?;
    let (changed, path) = SOURCES
        .iter()
        .filter_map(|source| youngest(&Path::new(WORKSPACE).join(source), DEPTH))
        .max()?;
    let named = path.strip_prefix(WORKSPACE).unwrap_or(&path);
    (changed > made).then(|| named.to_owned())
}

/// The file under `path` that was changed last, and when.
fn youngest(path: &Path, depth: u32) -> Option<(SystemTime, PathBuf)> {
    let facts = fs::symlink_metadata(path).ok()?;
    if facts.is_dir() {
        let depth = depth.checked_sub(1)?;
        let entries = fs::read_dir(path).ok()?.flatten();
        entries
            .filter_map(|entry| youngest(&entry.path(), depth))
            .max()
    } else {
        Some((facts.modified().ok()?, path.to_owned()))
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(WORKSPACE).args(arguments);
    let output = bounded::output(&mut command, ANSWER).ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(said)
}

/// The sources that this program was built from.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// What the proxy is built from; its tests and benches do not change it.
const SOURCES: &[&str] = &[
    "proxy/src",
    "proxy/assets",
    "proxy/Cargo.toml",
    "proxy/plugin-host/src",
    "proxy/plugin-host/Cargo.toml",
];
/// Folders within folders.
const DEPTH: u32 = 16;
const ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_there_and_younger_than_a_program_of_1970() {
        for source in SOURCES {
            assert!(Path::new(WORKSPACE).join(source).exists(), "{source}");
        }
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sluicegate");
        let file = fs::File::create(&program).unwrap();
        assert_eq!(younger_than(&program), None);
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let source = younger_than(&program).unwrap();
        assert!(source.starts_with("proxy"), "{source:?}");
        assert_eq!(younger_than(&folder.path().join("none")), None);
    }

    #[test]
    fn the_youngest_file_is_found_in_folders_but_not_too_deep() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let old = fs::File::create(folder.path().join("old.rs")).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::write(inner.join("new.rs"), "").unwrap();
        let found = |depth| youngest(folder.path(), depth).unwrap().1;
        assert!(found(2).ends_with("inner/new.rs"));
        assert!(found(1).ends_with("old.rs"));
    }
}
