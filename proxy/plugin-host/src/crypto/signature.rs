//! Checking signatures with public keys as a JWK or a certificate has them.
//!
//! A key is accepted only if it is of the one kind that its algorithm needs: RSA of 2048 to 8192 bits, a
//! point on the algorithm's own curve, an Ed25519 key. Anything else is [`CryptoError::InvalidKey`], apart
//! from a signature that is merely wrong. A SubjectPublicKeyInfo is taken apart here, down to the key, and
//! its algorithm identifier compared byte for byte: an RSASSA-PSS key is none for RS256, and one of
//! another curve none for ES256. The eight Ed25519 points of small order, whose signatures anybody can
//! make, are refused.
//!
//! A key is parsed each time. To keep it parsed would save 3 of the 17 µs of an RS256 and nothing of
//! ES256's 40 or EdDSA's 27.
//!
//! RFC 7518 sections 3 and 6, RFC 8017, RFC 8037, RFC 5280 section 4.1.2.7, RFC 5480.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    self as aws, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};

use super::CryptoError;

/// As JWS names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
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

/// A public key, its numbers big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey<'a> {
    Rsa {
        modulus: &'a [u8],
        exponent: &'a [u8],
    },
    /// A point on the algorithm's curve; both are as long as the curve's field.
    Ec {
        x: &'a [u8],
        y: &'a [u8],
    },
    Ed25519(&'a [u8]),
    /// DER of a SubjectPublicKeyInfo.
    Spki(&'a [u8]),
}

/// Whether a signature is right. ECDSA's are the two numbers one after the other, as in JWS.
///
/// # Errors
/// [`CryptoError::InvalidKey`] for a key that this algorithm cannot use, whatever the signature.
pub fn verify(
    algorithm: SignatureAlgorithm,
    key: PublicKey<'_>,
    data: &[u8],
    signature: &[u8],
) -> Result<bool, CryptoError> {
    let key = parse(algorithm, key)?;
    Ok(key.verify_sig(data, signature).is_ok())
}

/// What the algorithms have in common with each other.
enum Family {
    Rsa(&'static RsaParameters),
    Ec {
        algorithm: &'static dyn VerificationAlgorithm,
        /// Bytes of a coordinate.
        field: usize,
        identifier: &'static [u8],
    },
    Ed25519,
}

impl SignatureAlgorithm {
    fn family(self) -> Family {
        let (algorithm, field, identifier): (&'static dyn VerificationAlgorithm, _, _) = match self
        {
            SignatureAlgorithm::Rs256 => return Family::Rsa(&aws::RSA_PKCS1_2048_8192_SHA256),
            SignatureAlgorithm::Rs384 => return Family::Rsa(&aws::RSA_PKCS1_2048_8192_SHA384),
            SignatureAlgorithm::Rs512 => return Family::Rsa(&aws::RSA_PKCS1_2048_8192_SHA512),
            SignatureAlgorithm::Ps256 => return Family::Rsa(&aws::RSA_PSS_2048_8192_SHA256),
            SignatureAlgorithm::Ps384 => return Family::Rsa(&aws::RSA_PSS_2048_8192_SHA384),
            SignatureAlgorithm::Ps512 => return Family::Rsa(&aws::RSA_PSS_2048_8192_SHA512),
            SignatureAlgorithm::EdDsa => return Family::Ed25519,
            SignatureAlgorithm::Es256 => (&aws::ECDSA_P256_SHA256_FIXED, 32, P256),
            SignatureAlgorithm::Es384 => (&aws::ECDSA_P384_SHA384_FIXED, 48, P384),
            SignatureAlgorithm::Es512 => (&aws::ECDSA_P521_SHA512_FIXED, 66, P521),
        };
        Family::Ec {
            algorithm,
            field,
            identifier,
        }
    }
}

fn parse(
    algorithm: SignatureAlgorithm,
    key: PublicKey<'_>,
) -> Result<ParsedPublicKey, CryptoError> {
    let parsed = match (algorithm.family(), key) {
        (Family::Rsa(parameters), PublicKey::Rsa { modulus, exponent }) => {
            let (n, e) = (without_zeros(modulus), without_zeros(exponent));
            if n.len() > MAX_MODULUS || e.len() > MAX_EXPONENT {
                return Err(CryptoError::InvalidKey);
            }
            let components = RsaPublicKeyComponents { n, e };
            let der = components.as_der().map_err(|_| CryptoError::InvalidKey)?;
            return rsa(parameters, spki(der.as_ref(), RSA)?);
        }
        (Family::Rsa(parameters), PublicKey::Spki(der)) => {
            return rsa(parameters, spki(der, RSA)?);
        }
        (
            Family::Ec {
                algorithm, field, ..
            },
            PublicKey::Ec { x, y },
        ) if x.len() == field && y.len() == field => {
            ParsedPublicKey::new(algorithm, [&[UNCOMPRESSED], x, y].concat())
        }
        (
            Family::Ec {
                algorithm,
                identifier,
                ..
            },
            PublicKey::Spki(der),
        ) => ParsedPublicKey::new(algorithm, spki(der, identifier)?),
        (Family::Ed25519, PublicKey::Ed25519(key)) => ed25519(key)?,
        (Family::Ed25519, PublicKey::Spki(der)) => ed25519(spki(der, ED25519)?)?,
        _ => return Err(CryptoError::InvalidKey),
    };
    parsed.map_err(|_| CryptoError::InvalidKey)
}

/// `der` is an RSAPublicKey (RFC 8017, appendix A.1.1).
fn rsa(parameters: &'static RsaParameters, der: &[u8]) -> Result<ParsedPublicKey, CryptoError> {
    // Parsing checks the numbers; the size would only be looked at by each verification.
    let parsed = ParsedPublicKey::new(parameters, der).map_err(|_| CryptoError::InvalidKey)?;
    match RsaParameters::public_modulus_len(der) {
        Ok(bits)
            if (parameters.min_modulus_len()..=parameters.max_modulus_len()).contains(&bits) =>
        {
            Ok(parsed)
        }
        _ => Err(CryptoError::InvalidKey),
    }
}

type Parsed = Result<ParsedPublicKey, aws_lc_rs::error::KeyRejected>;

/// A raw key; longer, it would be taken for yet another SubjectPublicKeyInfo.
fn ed25519(key: &[u8]) -> Result<Parsed, CryptoError> {
    let mut point: [u8; 32] = key.try_into().map_err(|_| CryptoError::InvalidKey)?;
    // The sign of x.
    point[31] &= 0x7f;
    let small_order = match (point[0], point[31]) {
        // y is 0 or 1; or the prime less 1, or beyond it and again 0 or 1.
        (0 | 1, 0) => point[1..31].iter().all(|byte| *byte == 0),
        (0xec..=0xee, 0x7f) => point[1..31].iter().all(|byte| *byte == 0xff),
        _ => ORDER_EIGHT.contains(&&point),
    };
    if small_order {
        return Err(CryptoError::InvalidKey);
    }
    Ok(ParsedPublicKey::new(&aws::ED25519, key))
}

/// The key in a SubjectPublicKeyInfo, if it is of this very kind.
fn spki<'a>(der: &'a [u8], identifier: &[u8]) -> Result<&'a [u8], CryptoError> {
    let key = || {
        let (info, after) = element(der, SEQUENCE)?;
        let (found, rest) = element(info, SEQUENCE)?;
        let (bits, behind) = element(rest, BIT_STRING)?;
        let (unused, key) = bits.split_first()?;
        (found == identifier && *unused == 0 && behind.is_empty() && after.is_empty())
            .then_some(key)
    };
    key().ok_or(CryptoError::InvalidKey)
}

/// The content of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => {
            let (len, rest) = rest.split_first()?;
            (usize::from(*len), rest)
        }
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    (*found == tag)
        .then(|| rest.split_at_checked(len))
        .flatten()
}

/// Some key sets write numbers with the zero that a signed integer needs.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Bytes: 8192 bits, and more than any exponent has.
const MAX_MODULUS: usize = 1024;
const MAX_EXPONENT: usize = 8;

/// SEC 1, section 2.3.3.
const UNCOMPRESSED: u8 = 4;
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// Contents of the AlgorithmIdentifiers: rsaEncryption with NULL; id-ecPublicKey with secp256r1,
/// secp384r1, secp521r1; id-Ed25519.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const P521: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23";
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";

/// The y of the points of order eight, little-endian; there are two, with each sign of x.
const ORDER_EIGHT: [&[u8; 32]; 2] = [
    b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\
      \xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\
      \x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
];
