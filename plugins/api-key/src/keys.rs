//! Whose key is it? One look-up, however many there are.
//!
//! Only SHA-256 of each key is kept. A slow password hash would add nothing: it makes guessing dear, and a
//! random key of 128 bits cannot be guessed at any price.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};
use sluicegate_plugin::{ConfigError, Secret};

/// Consumers by the hash of their key.
pub(crate) struct Keys(HashMap<Digest, String>);

type Digest = [u8; 32];

impl Keys {
    /// From consumer to key, plain or hashed (`sha256:HEX`).
    ///
    /// # Errors
    /// The place among `keys`, never the key.
    pub(crate) fn new(keys: BTreeMap<String, Secret>) -> Result<Self, ConfigError> {
        if keys.is_empty() {
            return Err(ConfigError::key("keys", "names no consumer"));
        }
        let mut consumers = HashMap::with_capacity(keys.len());
        for (consumer, key) in keys {
            if !is_name(&consumer) {
                let message = format!("`{consumer}` is no consumer name");
                return Err(ConfigError::key("keys", message));
            }
            let at = |message: &str| ConfigError::at(["keys", &consumer], message);
            let digest = digest_of(&key).map_err(at)?;
            if let Some(other) = consumers.get(&digest) {
                return Err(at(&format!("is the key of `{other}` too")));
            }
            consumers.insert(digest, consumer);
        }
        Ok(Keys(consumers))
    }

    /// The consumer whose key this is.
    pub(crate) fn consumer(&self, presented: &str) -> Option<&str> {
        // The time this takes may tell how much of a stored hash is that of the presented key. But nobody can
        // choose a hash and present what has it, so nobody gets closer to a key by it.
        self.0.get(&hash(presented)).map(String::as_str)
    }
}

fn digest_of(key: &Secret) -> Result<Digest, &'static str> {
    let key = key.expose();
    match key.strip_prefix("sha256:") {
        Some(digits) => from_hex(digits).ok_or("64 hex digits follow `sha256:`"),
        None if key.is_empty() => Err("is empty"),
        None => Ok(hash(key)),
    }
}

fn hash(key: &str) -> Digest {
    Sha256::digest(key).into()
}

fn from_hex(digits: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if digits.len() != 2 * digest.len() {
        return None;
    }
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

/// It becomes a header's value and a label's.
fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[(&str, &str)]) -> Result<Keys, ConfigError> {
        let pair = |&(name, key): &(&str, &str)| (name.to_owned(), Secret::from(key));
        Keys::new(keys.iter().map(pair).collect())
    }

    /// Of `s3cret`.
    const HASHED: &str = "sha256:1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";

    #[test]
    fn plain_and_hashed_keys_name_their_consumer() {
        let keys = keys(&[("app", "0ther"), ("ci", HASHED)]).unwrap();
        for (presented, expect) in [
            ("s3cret", Some("ci")),
            ("0ther", Some("app")),
            ("S3cret", None),
            ("s3cret0", None),
            ("", None),
            // The hash is no key.
            (HASHED, None),
            (&HASHED[7..], None),
        ] {
            assert_eq!(keys.consumer(presented), expect, "{presented}");
        }
    }

    #[test]
    fn the_digits_of_a_hash_may_be_of_either_case() {
        let upper = HASHED.to_uppercase().replace("SHA256", "sha256");
        let keys = keys(&[("ci", &upper)]).unwrap();
        assert_eq!(keys.consumer("s3cret"), Some("ci"));
    }

    #[test]
    fn a_bad_key_is_named_and_not_shown() {
        #[track_caller]
        fn check(with: &[(&str, &str)], expect: &str) {
            let error = keys(with).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check(&[], "`keys`: names no consumer");
        check(&[("ci", "")], "`keys.ci`: is empty");
        check(&[("a b", "x")], "`keys`: `a b` is no consumer name");
        check(&[("", "x")], "`keys`: `` is no consumer name");
        check(
            &[("a", "x"), ("b.c", "x")],
            "`keys.b.c`: is the key of `a` too",
        );
        check(
            &[("a", "s3cret"), ("b", HASHED)],
            "`keys.b`: is the key of `a` too",
        );
        for bad in [
            "sha256:",
            "sha256:1ec1",
            &format!("{HASHED}0"),
            &HASHED.replace('1', "+"),
        ] {
            check(&[("ci", bad)], "`keys.ci`: 64 hex digits follow `sha256:`");
        }
    }
}
