//! Compiled functions of plugins, so that their images compile sooner: an image differs from its
//! plugin, and from other images of it, in its data, while nearly all functions are the same.
//!
//! Only what was compiled of a plugin's file gets in here, never of an image: so there is no byte of
//! any config in it, and it may lie in the cache folder, where a restart finds it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wasmtime::CacheStore;

#[derive(Default)]
pub(crate) struct Functions {
    recording: AtomicBool,
    kept: Mutex<Kept>,
}

/// By the hash that the compiler makes of a function and of all settings.
type Compiled = HashMap<Box<[u8]>, Box<[u8]>>;

#[derive(Default)]
struct Kept {
    functions: Compiled,
    bytes: usize,
    /// What was recorded since it was last asked for; these stay whatever is forgotten.
    fresh: Vec<u8>,
}

/// Ends the recording also where the compiler panics.
struct Recording<'a>(&'a AtomicBool);

impl Functions {
    /// Keeps what `compile` compiles; and all that is compiled meanwhile, so nothing else may be.
    /// Comes with all of it as bytes, for [`Functions::add`].
    pub(crate) fn record<T>(&self, compile: impl FnOnce() -> T) -> (T, Vec<u8>) {
        let compiled = {
            let _recording = Recording::start(&self.recording);
            compile()
        };
        (compiled, std::mem::take(&mut self.kept().fresh))
    }

    /// Takes in what was recorded at another time.
    pub(crate) fn add(&self, mut recorded: &[u8]) {
        let mut kept = self.kept();
        while let Some((key, function, rest)) = first(recorded) {
            kept.add(key, function);
            recorded = rest;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Recording<'a> {
    fn start(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Recording(flag)
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Kept {
    fn add(&mut self, key: &[u8], function: &[u8]) {
        let size = key.len() + function.len();
        if size > MAX_BYTES || self.functions.contains_key(key) {
            return;
        }
        if self.bytes + size > MAX_BYTES {
            // What is still in use comes back with the next image.
            self.functions.clear();
            self.bytes = 0;
        }
        self.functions.insert(key.into(), function.into());
        self.bytes += size;
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let kept = self.kept();
        let function = kept.functions.get(key)?;
        Some(Cow::Owned(function.to_vec()))
    }

    fn insert(&self, key: &[u8], function: Vec<u8>) -> bool {
        if !self.recording.load(Ordering::SeqCst) {
            return false;
        }
        let mut kept = self.kept();
        kept.add(key, &function);
        if kept.fresh.len() + key.len() + function.len() > MAX_BYTES {
            return false;
        }
        for part in [key, &function] {
            let Ok(length) = u32::try_from(part.len()) else {
                return false;
            };
            kept.fresh.extend_from_slice(&length.to_le_bytes());
            kept.fresh.extend_from_slice(part);
        }
        true
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}

/// The first key and function of what was recorded, and what follows them.
fn first(recorded: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let part = |bytes| -> Option<(&[u8], &[u8])> {
        let (length, rest): (&[u8; 4], &[u8]) = <[u8]>::split_first_chunk(bytes)?;
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
    };
    let (key, rest) = part(recorded)?;
    let (function, rest) = part(rest)?;
    Some((key, function, rest))
}

/// Of keys and functions together; of a plugin with more, some are compiled again for each image.
const MAX_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_found_here_and_elsewhere() {
        let functions = Functions::default();
        assert!(!functions.insert(b"a", vec![1]), "nobody asked for it");
        let (answer, recorded) = functions.record(|| {
            assert!(functions.insert(b"a", vec![1, 2]) && functions.insert(b"bc", vec![]));
            7
        });
        assert_eq!(answer, 7);
        assert!(!functions.insert(b"d", vec![1]));
        let others = Functions::default();
        others.add(&recorded);
        for functions in [functions, others] {
            assert_eq!(functions.get(b"a").as_deref(), Some([1, 2].as_slice()));
            assert_eq!(functions.get(b"bc").as_deref(), Some([].as_slice()));
            assert!(functions.get(b"d").is_none());
        }
        let cut = Functions::default();
        for length in 0..recorded.len() {
            cut.add(&recorded[..length]);
        }
        assert!(cut.get(b"bc").is_none());
    }

    #[test]
    fn there_is_a_limit() {
        let functions = Functions::default();
        let ((), recorded) = functions.record(|| {
            assert!(!functions.insert(b"large", vec![0; MAX_BYTES]));
            for key in 0..5 {
                functions.insert(&[key], vec![0; MAX_BYTES / 4]);
                assert!(functions.kept().bytes <= MAX_BYTES);
            }
        });
        assert!(recorded.len() <= MAX_BYTES);
        assert!(functions.get(&[0]).is_none() && functions.get(&[4]).is_some());
    }
}
