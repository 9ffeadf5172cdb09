//! Known answers of the standards, keys and signatures that are none, and arbitrary bytes.

use super::*;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self as aws, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use HashAlgorithm::{Sha256, Sha384, Sha512};
use SignatureAlgorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

const ALGORITHMS: [SignatureAlgorithm; 10] = [
    Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, Es512, EdDsa,
];

fn b64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn hashes_of_fips_180() {
    for (algorithm, data, expect) in [
        (
            Sha256,
            "abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            Sha256,
            "",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            Sha384,
            "abc",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
             8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            Sha512,
            "abc",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ] {
        assert_eq!(hex(&hash(algorithm, data.as_bytes())), expect, "{data}");
    }
}

#[test]
fn macs_of_rfc_4231() {
    let long_key = [0xaa; 131];
    for (key, data, sha256, sha384, sha512) in [
        (
            &b"Jefe"[..],
            &b"what do ya want for nothing?"[..],
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e\
             8e2240ca5e69e2c78b3239ecfab21649",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            &long_key,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6\
             0c2ef6ab4030fe8296248df163f44952",
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352\
             6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        ),
    ] {
        for (algorithm, expect) in [(Sha256, sha256), (Sha384, sha384), (Sha512, sha512)] {
            let tag = hmac(algorithm, key, data);
            assert_eq!(hex(&tag), expect, "{algorithm:?}");
            assert!(verify_hmac(algorithm, key, data, &tag));
            let mut wrong = tag.clone();
            wrong[0] ^= 1;
            let cut = &tag[..tag.len() - 1];
            let longer = [&tag[..], &[0]].concat();
            for wrong in [&wrong[..], cut, &longer, &[]] {
                assert!(!verify_hmac(algorithm, key, data, wrong));
            }
            assert!(!verify_hmac(algorithm, b"another key", data, &tag));
        }
    }
}

#[test]
fn secrets_are_equal_or_not() {
    for (a, b, equal) in [
        ("", "", true),
        ("secret", "secret", true),
        ("secret", "secreT", false),
        ("secret", "secret ", false),
        ("", "s", false),
    ] {
        assert_eq!(constant_time_equal(a.as_bytes(), b.as_bytes()), equal);
    }
}

/// A signed message and the key, as a JWK has it.
struct Vector {
    algorithm: SignatureAlgorithm,
    /// The first number, and the second.
    key: (&'static str, &'static str),
    data: &'static str,
    signature: &'static str,
}

impl Vector {
    #[track_caller]
    fn check(&self) {
        let (first, second) = (b64(self.key.0), b64(self.key.1));
        let key = match self.algorithm {
            EdDsa => PublicKey::Ed25519(&first),
            Es256 | Es384 | Es512 => PublicKey::Ec {
                x: &first,
                y: &second,
            },
            _ => PublicKey::Rsa {
                modulus: &first,
                exponent: &second,
            },
        };
        check_signature(
            self.algorithm,
            key,
            self.data.as_bytes(),
            &b64(self.signature),
        );
    }
}

/// The signature is right, nothing near it is, and no other algorithm takes key and signature for its own.
#[track_caller]
fn check_signature(
    algorithm: SignatureAlgorithm,
    key: PublicKey<'_>,
    data: &[u8],
    signature: &[u8],
) {
    let answer = |data: &[u8], signature: &[u8]| verify(algorithm, key, data, signature);
    assert_eq!(answer(data, signature), Ok(true), "{algorithm:?}");
    assert_eq!(answer(b"another message", signature), Ok(false));
    for at in [0, signature.len() / 2, signature.len() - 1] {
        let mut wrong = signature.to_vec();
        wrong[at] ^= 0x10;
        assert_eq!(answer(data, &wrong), Ok(false), "{algorithm:?} at {at}");
    }
    let longer = [signature, &[0]].concat();
    let zero_before = [&[0], signature].concat();
    let zeros = vec![0; signature.len()];
    let ones = vec![0xff; signature.len()];
    let cut = &signature[..signature.len() - 1];
    for wrong in [
        cut,
        &signature[1..],
        &longer,
        &zero_before,
        &zeros,
        &ones,
        &[],
    ] {
        assert_eq!(answer(data, wrong), Ok(false), "{algorithm:?}");
    }
    for other in ALGORITHMS.iter().filter(|other| **other != algorithm) {
        let answer = verify(*other, key, data, signature);
        assert!(
            matches!(answer, Ok(false) | Err(CryptoError::InvalidKey)),
            "{algorithm:?} as {other:?}: {answer:?}"
        );
    }
}

const RFC_7515_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_7515_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp\
    -Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0\
    LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k\
    G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RFC_7515_RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
    AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK\
    5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
    hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RFC_7515_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const RFC_7515_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

#[test]
fn rs256_of_rfc_7515() {
    let data = format!("eyJhbGciOiJSUzI1NiJ9.{RFC_7515_PAYLOAD}");
    let (modulus, exponent) = (b64(RFC_7515_MODULUS), b64("AQAB"));
    let key = PublicKey::Rsa {
        modulus: &modulus,
        exponent: &exponent,
    };
    check_signature(Rs256, key, data.as_bytes(), &b64(RFC_7515_RS256));
    // Written as signed integers, the numbers are the same.
    let (modulus, exponent) = (
        [&[0], &modulus[..]].concat(),
        [&[0], &exponent[..]].concat(),
    );
    let key = PublicKey::Rsa {
        modulus: &modulus,
        exponent: &exponent,
    };
    let answer = verify(Rs256, key, data.as_bytes(), &b64(RFC_7515_RS256));
    assert_eq!(answer, Ok(true));
}

#[test]
fn ps384_of_rfc_7520() {
    Vector {
        algorithm: Ps384,
        key: (
            "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_\
             AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tp\
             e-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniU\
             FAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw",
            "AQAB",
        ),
        data: "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.\
               SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250\
               byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hl\
               cmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4",
        signature:
            "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6\
             O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRm\
             BqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlq\
             RHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
    }
    .check();
}

#[test]
fn es256_and_es512_of_rfc_7515() {
    Vector {
        algorithm: Es256,
        key: (RFC_7515_X, RFC_7515_Y),
        data: "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
               cGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        signature:
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    }
    .check();
    Vector {
        algorithm: Es512,
        key: (
            "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
            "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
        ),
        data: "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA",
        signature: "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw\
                    _7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
    }
    .check();
}

#[test]
fn es384_of_openssl() {
    let (x, y) = (
        "sn0WSpjSa9P1uzXi3y6BuuwUR6N-CeLQg1i5mEl4e8XisreR4gy5YQT_6Eq2gJ1S",
        "mYPuxJlAxy_Cx6BybusUOTS8CYN5j9l123CcRVd9LEX1XH-mSgkeuHkwW4xyCMVu",
    );
    let vector = Vector {
        algorithm: Es384,
        key: (x, y),
        data: "sluicegate",
        signature: "6TI-MVxq517ncZjcJWKgBrm3HsHU8YqpMpXGkK4ktTtHo1iOEyTAJPjxq9BIhR5Gjznxe4g6glAdu-Gmipr6\
                    PQWdJ3MxXw85euGvaGOiP7nUo4zeL0Z1-UO2n5vLu2Bc",
    };
    vector.check();
    let spki = b64(
        "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEsn0WSpjSa9P1uzXi3y6BuuwUR6N-CeLQg1i5mEl4e8XisreR\
                    4gy5YQT_6Eq2gJ1SmYPuxJlAxy_Cx6BybusUOTS8CYN5j9l123CcRVd9LEX1XH-mSgkeuHkwW4xyCMVu",
    );
    check_signature(
        Es384,
        PublicKey::Spki(&spki),
        b"sluicegate",
        &b64(vector.signature),
    );
}

#[test]
fn eddsa_of_rfc_8037() {
    Vector {
        algorithm: EdDsa,
        key: ("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", ""),
        data: "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        signature:
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    }
    .check();
}

/// A new key pair for an algorithm: the SPKI of its public key, and the signature of a message.
fn signed(algorithm: SignatureAlgorithm, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let random = SystemRandom::new();
    let rsa = |encoding: &'static dyn RsaEncoding| {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &random, data, &mut signature).unwrap();
        let spki = pair.public_key().as_der().unwrap();
        (spki.as_ref().to_vec(), signature)
    };
    let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let signature = pair.sign(&random, data).unwrap();
        let spki = pair.public_key().as_der().unwrap();
        (spki.as_ref().to_vec(), signature.as_ref().to_vec())
    };
    match algorithm {
        Rs256 => rsa(&aws::RSA_PKCS1_SHA256),
        Rs384 => rsa(&aws::RSA_PKCS1_SHA384),
        Rs512 => rsa(&aws::RSA_PKCS1_SHA512),
        Ps256 => rsa(&aws::RSA_PSS_SHA256),
        Ps384 => rsa(&aws::RSA_PSS_SHA384),
        Ps512 => rsa(&aws::RSA_PSS_SHA512),
        Es256 => ec(&aws::ECDSA_P256_SHA256_FIXED_SIGNING),
        Es384 => ec(&aws::ECDSA_P384_SHA384_FIXED_SIGNING),
        Es512 => ec(&aws::ECDSA_P521_SHA512_FIXED_SIGNING),
        EdDsa => {
            let pair = Ed25519KeyPair::generate().unwrap();
            let spki = pair.public_key().as_der().unwrap();
            (spki.as_ref().to_vec(), pair.sign(data).as_ref().to_vec())
        }
    }
}

#[test]
fn every_algorithm_takes_its_own_spki_and_no_other() {
    for algorithm in ALGORITHMS {
        let (spki, signature) = signed(algorithm, b"message");
        check_signature(algorithm, PublicKey::Spki(&spki), b"message", &signature);
        let answer = |der: &[u8]| verify(algorithm, PublicKey::Spki(der), b"message", &signature);
        let cut = &spki[..spki.len() - 1];
        let longer = [&spki[..], &[0]].concat();
        for wrong in [cut, &spki[1..], &longer, &[]] {
            assert_eq!(answer(wrong), Err(CryptoError::InvalidKey), "{algorithm:?}");
        }
        for family in [Rs256, Es256, Es384, Es512, EdDsa] {
            let (other, _) = signed(family, b"message");
            if other.len() != spki.len() {
                assert_eq!(
                    answer(&other),
                    Err(CryptoError::InvalidKey),
                    "{algorithm:?}"
                );
            }
        }
    }
}

#[test]
fn an_rsa_pss_key_is_none_for_other_paddings() {
    let (spki, signature) = signed(Rs256, b"message");
    // id-RSASSA-PSS in the place of rsaEncryption.
    let at = spki
        .windows(4)
        .position(|bytes| bytes == [0x0d, 1, 1, 1])
        .unwrap();
    let mut pss = spki.clone();
    pss[at + 3] = 0x0a;
    let answer = verify(Rs256, PublicKey::Spki(&pss), b"message", &signature);
    assert_eq!(answer, Err(CryptoError::InvalidKey));
}

#[test]
fn what_is_no_key() {
    let x = b64(RFC_7515_X);
    let y = b64(RFC_7515_Y);
    let modulus = b64(RFC_7515_MODULUS);
    let mut off_curve = y.clone();
    off_curve[31] ^= 1;
    let field = b64("_____wAAAAEAAAAAAAAAAAAAAAD_______________8");
    let small = b64(
        "uf6Vs5aJesnajgkcqwPcGGYKMZ7AtFLHjtLqzYLi4Pvahd6Fk_Xn86uPTd4htxco46boDWibRCDOhroxyYciYJMZ\
                     ujGvgl2vtcBRYepdC9hMOF2o8mmrmBNjQVhpvWfQiEehLYkpSdoIafCfLPTKYADqUEsy_TckBqCh0mBLyr8",
    );
    let mut even = modulus.clone();
    even[255] &= 0xfe;
    let too_large = vec![0xff; 1025];
    let far_too_large = vec![0xff; 1 << 20];
    let zeros = vec![0; 256];
    let ec = |x, y| PublicKey::Ec { x, y };
    let rsa = |modulus, exponent| PublicKey::Rsa { modulus, exponent };
    for (algorithm, key) in [
        (Es256, ec(&x, &off_curve)),
        (Es256, ec(&x, &[0; 32])),
        (Es256, ec(&[0; 32], &[0; 32])),
        (Es256, ec(&field, &y)),
        (Es256, ec(&x[1..], &y)),
        (Es256, ec(&x, &y[..31])),
        (Es256, ec(&[&x[..], &y[..]].concat(), &[])),
        (Es384, ec(&x, &y)),
        (Es384, ec(&[0; 48], &[0; 48])),
        (Es512, ec(&x, &y)),
        (Es256, PublicKey::Spki(&[&[4], &x[..], &y[..]].concat())),
        (Es256, rsa(&modulus, &[1, 0, 1])),
        (Es256, PublicKey::Ed25519(&x)),
        (Rs256, rsa(&small, &[1, 0, 1])),
        (Ps256, rsa(&small, &[1, 0, 1])),
        (Rs256, rsa(&modulus[1..], &[1, 0, 1])),
        (Rs256, rsa(&too_large, &[1, 0, 1])),
        (Rs256, rsa(&far_too_large, &[1, 0, 1])),
        (Rs256, rsa(&zeros, &[1, 0, 1])),
        (Rs256, rsa(&even, &[1, 0, 1])),
        (Rs256, rsa(&modulus, &[])),
        (Rs256, rsa(&modulus, &[0])),
        (Rs256, rsa(&modulus, &[1])),
        (Rs256, rsa(&modulus, &[2])),
        (Rs256, rsa(&modulus, &far_too_large)),
        (Rs256, rsa(&[], &[1, 0, 1])),
        (Rs256, ec(&x, &y)),
        (Rs256, PublicKey::Spki(b"-----BEGIN PUBLIC KEY-----")),
        (EdDsa, PublicKey::Ed25519(&x[1..])),
        (EdDsa, PublicKey::Ed25519(&[])),
        (EdDsa, PublicKey::Ed25519(&[&x[..], &[0]].concat())),
        (EdDsa, PublicKey::Spki(&x)),
        (EdDsa, ec(&x, &y)),
    ] {
        let answer = verify(algorithm, key, b"message", &[0; 64]);
        assert_eq!(
            answer,
            Err(CryptoError::InvalidKey),
            "{algorithm:?} {key:?}"
        );
    }
}

#[test]
fn points_of_small_order_are_no_keys() {
    let hex = |text: &str| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    };
    let ones = "ff".repeat(30);
    for y in [
        "00".repeat(32),
        format!("01{}", "00".repeat(31)),
        format!("ec{ones}7f"),
        format!("ed{ones}7f"),
        format!("ee{ones}7f"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".to_owned(),
    ] {
        for sign in [0, 0x80] {
            let mut key = hex(&y);
            key[31] |= sign;
            // With the neutral element as its first half, such a signature would fit any message.
            let mut signature = [0; 64];
            signature[0] = 1;
            let answer = verify(EdDsa, PublicKey::Ed25519(&key), b"message", &signature);
            assert_eq!(answer, Err(CryptoError::InvalidKey), "{y} {sign}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_right_and_never_panic(
        which in 0..ALGORITHMS.len(),
        kind in 0..4,
        first in prop::collection::vec(any::<u8>(), 0..600),
        second in prop::collection::vec(any::<u8>(), 0..80),
        signature in prop::collection::vec(any::<u8>(), 0..600),
        data in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let key = match kind {
            0 => PublicKey::Rsa { modulus: &first, exponent: &second },
            1 => PublicKey::Ec { x: &first, y: &second },
            2 => PublicKey::Ed25519(&first),
            _ => PublicKey::Spki(&first),
        };
        prop_assert_ne!(verify(ALGORITHMS[which], key, &data, &signature), Ok(true));
    }

    #[test]
    fn damaged_keys_never_panic(
        which in prop::sample::select(vec![Es256, EdDsa]),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (mut spki, signature) = signed(which, b"m");
        let at = at.index(spki.len());
        let before = std::mem::replace(&mut spki[at], byte);
        let answer = verify(which, PublicKey::Spki(&spki), b"m", &signature);
        prop_assert_eq!(answer == Ok(true), before == byte);
    }
}
