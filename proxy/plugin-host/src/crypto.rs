//! Hashes, signatures and passwords for guests, on aws-lc-rs: RSA in a guest is too slow, and a
//! comparison in constant time is nothing that a guest can promise.
//!
//! Algorithms are types of their own kind: a MAC takes a [`HashAlgorithm`] and bytes, a signature a
//! [`SignatureAlgorithm`] and a [`PublicKey`]. So no mistake of a plugin can have a public key checked as
//! an HMAC's secret, the classic forgery of JWTs. Nothing here signs.
//!
//! RFC 7515 and 7518 (JWS, JWA), RFC 8037 (EdDSA), RFC 2104 (HMAC), RFC 9106 (Argon2).

mod password;
mod signature;

use aws_lc_rs::{constant_time, digest, hmac};

pub use password::{MAX_HASH, MAX_PASSWORD, Passwords};
pub use signature::{PublicKey, SignatureAlgorithm, verify};

/// SHA-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("not a key of the kind that the algorithm needs")]
    InvalidKey,
    /// Also one that would take too long or too much memory.
    #[error("not a password hash of a supported kind")]
    InvalidHash,
    #[error("more than the limits allow")]
    TooLarge,
    /// The work of others keeps all places taken.
    #[error("too many passwords are being checked")]
    Busy,
}

/// The hash of some bytes: 32, 48 or 64 bytes.
pub fn hash(algorithm: HashAlgorithm, data: &[u8]) -> Vec<u8> {
    let algorithm = match algorithm {
        HashAlgorithm::Sha256 => &digest::SHA256,
        HashAlgorithm::Sha384 => &digest::SHA384,
        HashAlgorithm::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, data).as_ref().to_vec()
}

/// The authentication code of some bytes, as long as the hash.
pub fn hmac(algorithm: HashAlgorithm, key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac_key(algorithm, key), data)
        .as_ref()
        .to_vec()
}

/// Whether a code is the right one, and whole; takes as long wherever it is wrong.
pub fn verify_hmac(algorithm: HashAlgorithm, key: &[u8], data: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac_key(algorithm, key), data, tag).is_ok()
}

/// Whether two secrets are the same; takes as long wherever they differ, but tells lengths apart.
pub fn constant_time_equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn hmac_key(algorithm: HashAlgorithm, key: &[u8]) -> hmac::Key {
    let algorithm = match algorithm {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
        HashAlgorithm::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::Key::new(algorithm, key)
}

#[cfg(test)]
mod tests;
