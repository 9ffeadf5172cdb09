//! Password hashes as they are written: which kinds there are, and the one that fits no password.
//!
//! The proxy checks them for good when a password comes; this finds mistakes while the configuration
//! is read. PHC string format for argon2id (RFC 9106), crypt(5) for bcrypt.

/// A password hash that the proxy can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) String);

impl Hash {
    /// # Errors
    /// Why it cannot be checked. The message holds nothing of the hash.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with("$argon2id$") {
            check_argon2id(text)?;
        } else if ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|kind| text.starts_with(kind))
        {
            check_bcrypt(text)?;
        } else if text.starts_with('$') {
            return Err("is neither argon2id nor bcrypt");
        } else {
            return Err("is no password hash");
        }
        Ok(Hash(text.to_owned()))
    }

    /// One that costs the same and that no password fits: the digest is another.
    pub(crate) fn spoiled(&self) -> String {
        // Of a digest's first letter all six bits count, in both alphabets.
        let at = match self.0.rfind('$') {
            Some(dollar) if self.0.starts_with("$argon2id$") => dollar + 1,
            _ => BCRYPT_DIGEST,
        };
        let (before, digest) = self.0.split_at(at);
        let other = if digest.starts_with('A') { "B" } else { "A" };
        let rest = digest.get(1..).unwrap_or_default();
        format!("{before}{other}{rest}")
    }
}

/// `$argon2id$v=19$m=19456,t=2,p=1$SALT$DIGEST`
fn check_argon2id(text: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = text.split('$').collect();
    let ["", "argon2id", "v=19", parameters, salt, digest] = parts[..] else {
        return Err("is no argon2id hash of version 19");
    };
    let number =
        |part: Option<&str>, name: &str| -> Option<u32> { part?.strip_prefix(name)?.parse().ok() };
    let mut each = parameters.split(',');
    let (Some(memory), Some(passes), Some(_), None) = (
        number(each.next(), "m="),
        number(each.next(), "t="),
        number(each.next(), "p="),
        each.next(),
    ) else {
        return Err("has not the parameters m, t and p of argon2id");
    };
    if memory > MAX_MEMORY_KIB || passes > MAX_PASSES {
        return Err("is dearer than 64 MiB or 10 passes");
    }
    let is_base64 = |text: &str| {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        text.len() >= 11 && text.bytes().all(letter)
    };
    if text.len() > MAX_HASH || !is_base64(salt) || !is_base64(digest) {
        return Err("has no salt and digest of argon2id");
    }
    Ok(())
}

/// `$2b$10$` and 53 letters: 22 of salt, 31 of digest.
fn check_bcrypt(text: &str) -> Result<(), &'static str> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
    let parts: Vec<&str> = text.split('$').collect();
    let ["", _, cost, rest] = parts[..] else {
        return Err("is no bcrypt hash");
    };
    if cost.len() != 2 || rest.len() != 53 || !rest.bytes().all(letter) {
        return Err("is no bcrypt hash");
    }
    match cost.parse() {
        Ok(MIN_COST..=MAX_COST) => Ok(()),
        _ => Err("has a cost that is not 4 to 14"),
    }
}

const MAX_HASH: usize = 512;
const MAX_MEMORY_KIB: u32 = 64 << 10;
const MAX_PASSES: u32 = 10;
const MIN_COST: u32 = 4;
const MAX_COST: u32 = 14;
/// Where a bcrypt hash's digest begins.
const BCRYPT_DIGEST: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{ARGON2, BCRYPT};

    #[test]
    fn mistakes_are_found_early() {
        #[track_caller]
        fn check(text: &str, expect: Result<(), &str>) {
            assert_eq!(Hash::parse(text).map(drop), expect);
        }
        check(ARGON2, Ok(()));
        check(BCRYPT, Ok(()));
        check("s3cret", Err("is no password hash"));
        check("", Err("is no password hash"));
        check("$apr1$x$y", Err("is neither argon2id nor bcrypt"));
        check(
            "$argon2i$v=19$m=64,t=1,p=1$x$y",
            Err("is neither argon2id nor bcrypt"),
        );
        check(
            &ARGON2.replace("v=19", "v=16"),
            Err("is no argon2id hash of version 19"),
        );
        check(
            &ARGON2.replace("t=1,", ""),
            Err("has not the parameters m, t and p of argon2id"),
        );
        check(
            &ARGON2.replace("m=64", "m=65537"),
            Err("is dearer than 64 MiB or 10 passes"),
        );
        check(
            &ARGON2.replace("t=1", "t=11"),
            Err("is dearer than 64 MiB or 10 passes"),
        );
        check(
            &ARGON2.replace("$m=64", "$m=64$m=64"),
            Err("is no argon2id hash of version 19"),
        );
        check(
            "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$!",
            Err("has no salt and digest of argon2id"),
        );
        check(
            &BCRYPT.replace("$04$", "$15$"),
            Err("has a cost that is not 4 to 14"),
        );
        check(&BCRYPT[..59], Err("is no bcrypt hash"));
    }

    #[test]
    fn a_spoiled_hash_costs_the_same_and_fits_nothing() {
        for hash in [ARGON2, BCRYPT] {
            let spoiled = Hash::parse(hash).unwrap().spoiled();
            let differing = hash.bytes().zip(spoiled.bytes()).filter(|(a, b)| a != b);
            assert_eq!((spoiled.len(), differing.count()), (hash.len(), 1));
            assert!(Hash::parse(&spoiled).is_ok());
            let fits = sluicegate_plugin::crypto::verify_password(&spoiled, "s3cret");
            assert_eq!(fits, Ok(false));
        }
    }
}
