//! Signatures and hashes, computed by the proxy: faster than in a plugin, RSA by far, and in constant
//! time where that matters.

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// A signature algorithm, as JWS names it (RFC 7518 section 3, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signature {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// A key that verifies signatures. Numbers are big-endian, as a JWK has them behind its base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// A modulus of 2048 to 8192 bits, and the exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point, each coordinate as long as the curve's field.
    Ec {
        x: Vec<u8>,
        y: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    /// DER of a SubjectPublicKeyInfo (RFC 5280).
    Spki(Vec<u8>),
}

/// Why nothing was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// Not a key of the kind that the algorithm needs.
    InvalidKey,
    /// Not a password hash of a supported kind, or one that would take too long.
    InvalidHash,
    /// More than the limits allow.
    TooLarge,
    /// Too many passwords are being checked at once.
    Busy,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Error::InvalidKey => "not a key for this algorithm",
            Error::InvalidHash => "not a supported password hash",
            Error::TooLarge => "too large",
            Error::Busy => "too many passwords are being checked",
        })
    }
}

impl std::error::Error for Error {}

pub fn hash(algorithm: Hash, data: &[u8]) -> Vec<u8> {
    host::hash(algorithm.into(), data)
}

pub fn hmac(algorithm: Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
    host::hmac(algorithm.into(), key, data)
}

/// Whether a tag is right (JWS's HS256 and so on); takes as long wherever it is wrong.
pub fn verify_hmac(algorithm: Hash, key: &[u8], data: &[u8], tag: &[u8]) -> bool {
    host::verify_hmac(algorithm.into(), key, data, tag)
}

/// Whether a signature is right. ECDSA's are the two numbers one after the other, as in JWS.
///
/// # Errors
/// `InvalidKey`, `TooLarge`.
pub fn verify(
    algorithm: Signature,
    key: &PublicKey,
    data: &[u8],
    signature: &[u8],
) -> Result<bool, Error> {
    Ok(host::verify(
        algorithm.into(),
        &key.into(),
        data,
        signature,
    )?)
}

/// Whether two secrets are the same; takes as long wherever they differ.
pub fn constant_time_equal(a: &[u8], b: &[u8]) -> bool {
    host::constant_time_equal(a, b)
}

/// Whether a password fits its hash: argon2id (a PHC string) or bcrypt. The proxy computes it beside
/// its workers and remembers a right answer for some minutes.
///
/// # Errors
/// `InvalidHash`, `TooLarge`, `Busy`.
pub fn verify_password(hash: &str, password: &str) -> Result<bool, Error> {
    Ok(host::verify_password(hash, password)?)
}

#[cfg(target_arch = "wasm32")]
use crate::glue::bindings::sluicegate::plugin::crypto as host;

#[cfg(not(target_arch = "wasm32"))]
use native as host;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{Error, Hash, PublicKey, Signature, host};

    impl From<Hash> for host::HashAlgorithm {
        fn from(hash: Hash) -> Self {
            match hash {
                Hash::Sha256 => host::HashAlgorithm::Sha256,
                Hash::Sha384 => host::HashAlgorithm::Sha384,
                Hash::Sha512 => host::HashAlgorithm::Sha512,
            }
        }
    }

    impl From<Signature> for host::SignatureAlgorithm {
        fn from(algorithm: Signature) -> Self {
            match algorithm {
                Signature::Rs256 => host::SignatureAlgorithm::Rs256,
                Signature::Rs384 => host::SignatureAlgorithm::Rs384,
                Signature::Rs512 => host::SignatureAlgorithm::Rs512,
                Signature::Ps256 => host::SignatureAlgorithm::Ps256,
                Signature::Ps384 => host::SignatureAlgorithm::Ps384,
                Signature::Ps512 => host::SignatureAlgorithm::Ps512,
                Signature::Es256 => host::SignatureAlgorithm::Es256,
                Signature::Es384 => host::SignatureAlgorithm::Es384,
                Signature::Es512 => host::SignatureAlgorithm::Es512,
                Signature::EdDsa => host::SignatureAlgorithm::Eddsa,
            }
        }
    }

    impl From<&PublicKey> for host::PublicKey {
        fn from(key: &PublicKey) -> Self {
            match key {
                PublicKey::Rsa { n, e } => host::PublicKey::Rsa((n.clone(), e.clone())),
                PublicKey::Ec { x, y } => host::PublicKey::Ec((x.clone(), y.clone())),
                PublicKey::Ed25519(key) => host::PublicKey::Ed25519(key.clone()),
                PublicKey::Spki(der) => host::PublicKey::Spki(der.clone()),
            }
        }
    }

    impl From<host::CryptoError> for Error {
        fn from(error: host::CryptoError) -> Self {
            match error {
                host::CryptoError::InvalidKey => Error::InvalidKey,
                host::CryptoError::InvalidHash => Error::InvalidHash,
                host::CryptoError::TooLarge => Error::TooLarge,
                host::CryptoError::Busy => Error::Busy,
            }
        }
    }
}

/// The proxy's own code, called directly.
#[cfg(not(target_arch = "wasm32"))]
mod native {
    use sluicegate_plugin_services::crypto as services;

    use super::{Error, Hash, PublicKey, Signature};

    pub(super) use services::{
        HashAlgorithm, SignatureAlgorithm, constant_time_equal, hash, hmac, verify_hmac,
    };

    pub(super) fn verify(
        algorithm: SignatureAlgorithm,
        key: &services::PublicKey<'_>,
        data: &[u8],
        signature: &[u8],
    ) -> Result<bool, services::CryptoError> {
        services::verify(algorithm, *key, data, signature)
    }

    pub(super) fn verify_password(
        hash: &str,
        password: &str,
    ) -> Result<bool, services::CryptoError> {
        services::fits(hash, password)
    }

    impl From<Hash> for HashAlgorithm {
        fn from(hash: Hash) -> Self {
            match hash {
                Hash::Sha256 => HashAlgorithm::Sha256,
                Hash::Sha384 => HashAlgorithm::Sha384,
                Hash::Sha512 => HashAlgorithm::Sha512,
            }
        }
    }

    impl From<Signature> for SignatureAlgorithm {
        fn from(algorithm: Signature) -> Self {
            match algorithm {
                Signature::Rs256 => SignatureAlgorithm::Rs256,
                Signature::Rs384 => SignatureAlgorithm::Rs384,
                Signature::Rs512 => SignatureAlgorithm::Rs512,
                Signature::Ps256 => SignatureAlgorithm::Ps256,
                Signature::Ps384 => SignatureAlgorithm::Ps384,
                Signature::Ps512 => SignatureAlgorithm::Ps512,
                Signature::Es256 => SignatureAlgorithm::Es256,
                Signature::Es384 => SignatureAlgorithm::Es384,
                Signature::Es512 => SignatureAlgorithm::Es512,
                Signature::EdDsa => SignatureAlgorithm::EdDsa,
            }
        }
    }

    impl<'a> From<&'a PublicKey> for services::PublicKey<'a> {
        fn from(key: &'a PublicKey) -> Self {
            match key {
                PublicKey::Rsa { n, e } => services::PublicKey::Rsa {
                    modulus: n,
                    exponent: e,
                },
                PublicKey::Ec { x, y } => services::PublicKey::Ec { x, y },
                PublicKey::Ed25519(key) => services::PublicKey::Ed25519(key),
                PublicKey::Spki(der) => services::PublicKey::Spki(der),
            }
        }
    }

    impl From<services::CryptoError> for Error {
        fn from(error: services::CryptoError) -> Self {
            match error {
                services::CryptoError::InvalidKey => Error::InvalidKey,
                services::CryptoError::InvalidHash => Error::InvalidHash,
                services::CryptoError::TooLarge => Error::TooLarge,
                services::CryptoError::Busy => Error::Busy,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxys_own_code_answers_here_too() {
        let tag = hmac(Hash::Sha256, b"key", b"data");
        assert!(verify_hmac(Hash::Sha256, b"key", b"data", &tag));
        assert!(!verify_hmac(Hash::Sha256, b"key", b"date", &tag));
        assert_eq!(hash(Hash::Sha512, b"").len(), 64);
        assert!(constant_time_equal(b"a", b"a") && !constant_time_equal(b"a", b"b"));
        let nonsense = PublicKey::Ed25519(vec![0; 31]);
        let verified = verify(Signature::EdDsa, &nonsense, b"", &[0; 64]);
        assert_eq!(verified, Err(Error::InvalidKey));
        assert_eq!(verify_password("plain", "plain"), Err(Error::InvalidHash));
    }
}
