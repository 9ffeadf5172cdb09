//! Keys and what they may verify.
//!
//! An algorithm verifies only with a key of its own kind ([`Key::fits`]): an HMAC over an RSA key's
//! numbers, the old way to forge tokens, has no form here. A key that states its algorithm is good for
//! that one alone. RFC 7517, RFC 7518 sections 3 and 6, RFC 8037.

use sluicegate_plugin::config;
use sluicegate_plugin::crypto::{self, Hash, PublicKey, Signature};
use sluicegate_plugin::serde::{Deserialize, Serialize};

use crate::token::{Token, decode};

/// How a token may be signed, as JWS names it. There is no `none`.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// A key that verifies.
#[derive(Debug)]
pub(crate) struct Key {
    kid: Option<String>,
    /// The one algorithm that the key says it is for.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Secret(Vec<u8>),
    Public(Kind, PublicKey),
}

/// What public keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

/// What an algorithm computes.
enum Scheme {
    Hmac(Hash),
    Public(Kind, Signature),
}

/// A JSON Web Key as it is written, the members that matter here.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(crate = "sluicegate_plugin::serde", default)]
pub(crate) struct Jwk {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing)]
    k: Option<String>,
    /// The private part, which has no business here.
    #[serde(skip_serializing)]
    d: Option<String>,
}

/// Whether a set of keys may hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The operator's own configuration.
    Config,
    /// Fetched from a public place: a secret there is a mistake, and public knowledge.
    Fetched,
}

impl Algorithm {
    pub(crate) fn named(name: &str) -> Option<Self> {
        // RFC 9864 gives the one kind of EdDSA in use a name of its own.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        ALGORITHMS.into_iter().find(|one| one.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    fn scheme(self) -> Scheme {
        match self {
            Algorithm::Hs256 => Scheme::Hmac(Hash::Sha256),
            Algorithm::Hs384 => Scheme::Hmac(Hash::Sha384),
            Algorithm::Hs512 => Scheme::Hmac(Hash::Sha512),
            Algorithm::Rs256 => Scheme::Public(Kind::Rsa, Signature::Rs256),
            Algorithm::Rs384 => Scheme::Public(Kind::Rsa, Signature::Rs384),
            Algorithm::Rs512 => Scheme::Public(Kind::Rsa, Signature::Rs512),
            Algorithm::Ps256 => Scheme::Public(Kind::Rsa, Signature::Ps256),
            Algorithm::Ps384 => Scheme::Public(Kind::Rsa, Signature::Ps384),
            Algorithm::Ps512 => Scheme::Public(Kind::Rsa, Signature::Ps512),
            Algorithm::Es256 => Scheme::Public(Kind::P256, Signature::Es256),
            Algorithm::Es384 => Scheme::Public(Kind::P384, Signature::Es384),
            Algorithm::Es512 => Scheme::Public(Kind::P521, Signature::Es512),
            Algorithm::EdDsa => Scheme::Public(Kind::Ed25519, Signature::EdDsa),
        }
    }
}

impl Jwk {
    pub(crate) fn of_json(json: &serde_json::Value) -> Option<Self> {
        Jwk::deserialize(json).ok()
    }
}

impl Key {
    /// A shared secret, by its bytes.
    ///
    /// # Errors
    /// Where it is shorter than the output of SHA-256 (RFC 7518, section 3.2).
    pub(crate) fn secret(kid: Option<String>, secret: &[u8]) -> Result<Self, String> {
        if secret.len() < MIN_SECRET {
            return Err(format!("is shorter than {MIN_SECRET} bytes"));
        }
        Ok(Key {
            kid,
            algorithm: None,
            material: Material::Secret(secret.to_vec()),
        })
    }

    /// Makes a key of a JWK; `None`: it is not for signatures, or of a kind unknown here.
    ///
    /// # Errors
    /// What is wrong with a key that should have been one of ours.
    pub(crate) fn of_jwk(jwk: &Jwk, origin: Origin) -> Result<Option<Self>, String> {
        let for_signatures = jwk
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && jwk
                .key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let algorithm = jwk.alg.as_deref().map(Algorithm::named);
        if !for_signatures || algorithm == Some(None) {
            return Ok(None);
        }
        let algorithm = algorithm.flatten();
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Material::Public(Kind::Rsa, rsa(jwk)?),
            ("EC", Some("P-256")) => Material::Public(Kind::P256, point(jwk, 32)?),
            ("EC", Some("P-384")) => Material::Public(Kind::P384, point(jwk, 48)?),
            ("EC", Some("P-521")) => Material::Public(Kind::P521, point(jwk, 66)?),
            ("OKP", Some("Ed25519")) => {
                let key = sized("x", number("x", jwk.x.as_deref())?, 32)?;
                Material::Public(Kind::Ed25519, PublicKey::Ed25519(key))
            }
            ("oct", _) if origin == Origin::Config => {
                let secret = number("k", jwk.k.as_deref())?;
                return Key::secret(jwk.kid.clone(), &secret)
                    .map(|key| Some(Key { algorithm, ..key }))
                    .map_err(|error| format!("`k` {error}"));
            }
            _ => return Ok(None),
        };
        if jwk.d.is_some() {
            return Err("is a private key; leave the public part only".to_owned());
        }
        let kid = jwk.kid.clone();
        Ok(Some(Key {
            kid,
            algorithm,
            material,
        }))
    }

    /// Whether it can verify this algorithm's signatures at all.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        let stated = self.algorithm.is_none_or(|stated| stated == algorithm);
        let kind = match (algorithm.scheme(), &self.material) {
            (Scheme::Hmac(hash), Material::Secret(secret)) => secret.len() >= output_len(hash),
            (Scheme::Public(needed, _), Material::Public(kind, _)) => needed == *kind,
            _ => false,
        };
        stated && kind
    }

    /// Whether it may have made this token's signature: of the right kind, and not of another name.
    pub(crate) fn may_have_signed(&self, token: &Token<'_>) -> bool {
        let names = (self.kid.as_ref(), token.kid.as_ref());
        let named = !matches!(names, (Some(own), Some(other)) if own != other);
        named && self.fits(token.algorithm)
    }

    /// Whether the token's signature is by this key. A key of another kind made none.
    ///
    /// # Errors
    /// A public key that is none.
    pub(crate) fn has_signed(&self, token: &Token<'_>) -> Result<bool, crypto::Error> {
        let (data, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        match (token.algorithm.scheme(), &self.material) {
            _ if !self.may_have_signed(token) => Ok(false),
            (Scheme::Hmac(hash), Material::Secret(secret)) => {
                Ok(crypto::verify_hmac(hash, secret, data, signature))
            }
            (Scheme::Public(_, scheme), Material::Public(_, key)) => {
                crypto::verify(scheme, key, data, signature)
            }
            _ => Ok(false),
        }
    }
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Material::Secret(_) => f.write_str("Secret(…)"),
            Material::Public(kind, _) => f.debug_tuple("Public").field(kind).finish(),
        }
    }
}

fn rsa(jwk: &Jwk) -> Result<PublicKey, String> {
    let mut n = number("n", jwk.n.as_deref())?;
    let e = number("e", jwk.e.as_deref())?;
    // Some writers pad a number with a zero, which RFC 7518 forbids and every reader forgives.
    let zeros = n.iter().take_while(|byte| **byte == 0).count();
    n.drain(..zeros);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(format!("`n` has {bits} bits, not 2048 to 8192"));
    }
    Ok(PublicKey::Rsa { n, e })
}

fn point(jwk: &Jwk, len: usize) -> Result<PublicKey, String> {
    let x = sized("x", number("x", jwk.x.as_deref())?, len)?;
    let y = sized("y", number("y", jwk.y.as_deref())?, len)?;
    Ok(PublicKey::Ec { x, y })
}

fn number(name: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("has no `{name}`"))?;
    decode(text).map_err(|_| format!("`{name}` is not base64url"))
}

fn sized(name: &str, bytes: Vec<u8>, len: usize) -> Result<Vec<u8>, String> {
    if bytes.len() == len {
        Ok(bytes)
    } else {
        Err(format!("`{name}` has {} bytes, not {len}", bytes.len()))
    }
}

fn output_len(hash: Hash) -> usize {
    match hash {
        Hash::Sha256 => 32,
        Hash::Sha384 => 48,
        Hash::Sha512 => 64,
    }
}

const ALGORITHMS: [Algorithm; 13] = [
    Algorithm::Hs256,
    Algorithm::Hs384,
    Algorithm::Hs512,
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::EdDsa,
];
const MIN_SECRET: usize = 32;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;
