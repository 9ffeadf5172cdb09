//! Compiled plugins, kept between starts.
//!
//! Compiled code is native code: whoever can write it can run anything in the proxy. So the
//! folder must belong to the proxy's own user and be closed to everybody else, or it is refused;
//! each file ends with the SHA-256 of what is before, against torn and rotten files. The name is
//! the hash of the plugin's file and of everything about proxy, engine and machine that the code
//! depends on; so a plugin that is here needs no look into its file at all. What was found out about
//! it stands before the code, as a note.
//!
//! Images of configured memory are not kept here: they hold the secrets of the config. What is kept
//! is a function of the plugin's file alone.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::HostError;

#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// What was made of a plugin's file; everything goes by the file's SHA-256.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) enum What {
    /// What serves.
    Plugin,
    /// What images are made with.
    Mould,
    /// The functions of what serves, by themselves.
    Functions,
}

impl Cache {
    /// Opens a private folder, made if it is not there.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, HostError> {
        let open = || -> io::Result<Result<(), &'static str>> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)?;
            let meta = fs::symlink_metadata(&folder)?;
            // A new file's owner is who we are, without asking libc.
            let own = tempfile::tempfile_in(&folder)?.metadata()?.uid();
            Ok(if !meta.is_dir() {
                Err("not a folder of its own but a link")
            } else if meta.uid() != own {
                Err("belongs to another user")
            } else if meta.mode() & 0o077 != 0 {
                Err("open to other users; it must have mode 0700")
            } else {
                Ok(())
            })
        };
        let problem = match open() {
            Ok(Ok(())) => return Ok(Cache { folder }),
            Ok(Err(problem)) => problem.to_owned(),
            Err(error) => error.to_string(),
        };
        Err(HostError::Cache {
            path: folder,
            problem,
        })
    }

    /// The note and the code that were made of this file, if they are there and whole.
    #[expect(
        unsafe_code,
        reason = "compiled code cannot be verified, only its origin can"
    )]
    pub(crate) fn component(
        &self,
        engine: &Engine,
        what: What,
        hash: &str,
    ) -> Option<(Vec<u8>, Component)> {
        let bytes = self.bytes(engine, what, hash)?;
        let (length, bytes) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (note, code) = bytes.split_at_checked(length)?;
        // SAFETY: `deserialize` wants bytes that `Component::serialize` of a compatible engine
        // wrote. Only `put` writes to this folder: `open` made sure that it is a folder of this
        // user's that no other user can enter, and this file is closed to others as well. The
        // digest rules out a torn or rotten file, and the name's engine hash (which wasmtime
        // checks again) another engine. The bytes are our own copy, so nothing changes under it.
        let component = unsafe { Component::deserialize(engine, code) }.ok()?;
        Some((note.to_vec(), component))
    }

    /// Keeps compiled code, and a note.
    pub(crate) fn put_component(
        &self,
        engine: &Engine,
        what: What,
        hash: &str,
        note: &[u8],
        compiled: &Component,
    ) {
        let length = u32::try_from(note.len()).unwrap_or(u32::MAX).to_le_bytes();
        match compiled.serialize() {
            Ok(code) => self.put(engine, what, hash, &[&length[..], note, &code].concat()),
            Err(error) => warn(&format_args!("{error:#}")),
        }
    }

    /// What [`Cache::put`] kept of this file, if it is there and whole.
    pub(crate) fn bytes(&self, engine: &Engine, what: What, hash: &str) -> Option<Vec<u8>> {
        let path = self.path(engine, what, hash);
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.mode() & 0o077 != 0 || meta.len() > MAX_FILE {
            return None;
        }
        let mut bytes = fs::read(&path).ok()?;
        let length = bytes.len().checked_sub(SHA256_OUTPUT_LEN)?;
        let sum = bytes.split_off(length);
        (digest(&SHA256, &bytes).as_ref() == sum).then_some(bytes)
    }

    /// Keeps what was made of a file. Best effort: a full disk costs the next start some time, not
    /// this one.
    pub(crate) fn put(&self, engine: &Engine, what: What, hash: &str, bytes: &[u8]) {
        let write = || -> io::Result<()> {
            let mut kept = tempfile::NamedTempFile::new_in(&self.folder)?;
            kept.write_all(bytes)?;
            kept.write_all(digest(&SHA256, bytes).as_ref())?;
            kept.persist(self.path(engine, what, hash))?;
            self.prune()
        };
        if let Err(error) = write() {
            warn(&error);
        }
    }

    /// Removes the oldest files past the limit.
    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(&self.folder)?
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == EXTENSION))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        files
            .iter()
            .skip(MAX_FILES)
            .try_for_each(|(_, path)| fs::remove_file(path))
    }

    fn path(&self, engine: &Engine, what: What, hash: &str) -> PathBuf {
        let mut key = Sha256Hasher(Context::new(&SHA256));
        // Also what turns a file into a component, and the note, may differ from version to version.
        (what, hash, FORMAT, env!("CARGO_PKG_VERSION")).hash(&mut key);
        engine.precompile_compatibility_hash().hash(&mut key);
        let name = hex(key.0.finish().as_ref());
        Path::new(&self.folder).join(name).with_extension(EXTENSION)
    }
}

/// SHA-256 as 64 lower-case hex digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn warn(error: &dyn fmt::Display) {
    tracing::warn!(target: "sluicegate::plugin", %error, "compiled plugin not cached");
}

/// Lets what only implements `Hash` go into a SHA-256.
struct Sha256Hasher(Context);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Never asked for: the digest is taken from the context.
    fn finish(&self) -> u64 {
        0
    }
}

const EXTENSION: &str = "cwasm";
/// Of files and notes; another one makes all files that are there strangers.
const FORMAT: u32 = 4;
/// Files kept, at most three of a plugin; the oldest go first.
const MAX_FILES: usize = 192;
const MAX_FILE: u64 = 512 << 20;
