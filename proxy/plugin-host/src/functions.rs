//! Compiled functions, kept in memory, so that a plugin's second image compiles sooner: an image
//! differs from its plugin, and from other images of it, in its data, while the functions are the same.
//!
//! Only the functions of images are kept, and no data segments. A value that a guest keeps in a global
//! may be a constant of a function that sets it; so none of this is ever written to a disk.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use wasmtime::CacheStore;

#[derive(Default)]
pub(crate) struct Functions {
    recording: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By the hash that the compiler makes of a function.
    functions: HashMap<Box<[u8]>, Box<[u8]>>,
    bytes: usize,
}

/// What is compiled meanwhile is kept.
pub(crate) struct Recording<'a>(&'a Functions);

impl Functions {
    /// Keeps what is compiled until the answer is dropped; otherwise functions are only looked up.
    pub(crate) fn record(&self) -> Recording<'_> {
        self.recording.store(true, Ordering::Relaxed);
        Recording(self)
    }
}

impl CacheStore for Functions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.functions
            .get(key)
            .map(|function| Cow::Owned(function.to_vec()))
    }

    fn insert(&self, key: &[u8], function: Vec<u8>) -> bool {
        if !self.recording.load(Ordering::Relaxed) {
            return false;
        }
        let size = key.len() + function.len();
        if size > MAX_BYTES {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.bytes + size > MAX_BYTES {
            // What is still in use comes back with the next image.
            *kept = Kept::default();
        }
        if kept.functions.insert(key.into(), function.into()).is_none() {
            kept.bytes += size;
        }
        true
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.recording.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}

/// Of keys and functions together.
const MAX_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_kept_while_recording_and_within_the_limit() {
        let functions = Functions::default();
        assert!(!functions.insert(b"a", vec![1]), "nobody asked for it");
        let recording = functions.record();
        assert!(functions.insert(b"a", vec![1]) && functions.insert(b"a", vec![1]));
        assert_eq!(functions.kept.lock().unwrap().bytes, 2);
        assert!(!functions.insert(b"b", vec![0; MAX_BYTES]), "too large");
        assert_eq!(functions.get(b"a").as_deref(), Some([1].as_slice()));
        for key in 0..5 {
            assert!(functions.insert(&[key], vec![0; MAX_BYTES / 4]));
            assert!(functions.kept.lock().unwrap().bytes <= MAX_BYTES);
        }
        assert!(functions.get(&[0]).is_none());
        drop(recording);
        assert!(functions.get(&[4]).is_some(), "found without recording");
        assert!(!functions.insert(&[5], vec![1]));
    }
}
