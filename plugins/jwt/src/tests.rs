//! The whole filter, with real signatures.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::{outbound, testing};

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW: u64 = 1_300_000_000;

fn filter(config: Value) -> Jwt {
    set_now(NOW);
    testing::configure(config).unwrap_or_else(|error| panic!("{error}"))
}

fn set_now(seconds: u64) {
    testing::set_now(at(seconds));
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", b64(signature))
}

fn hs256(claims: &Value) -> String {
    token(&json!({"alg": "HS256"}), claims, |data| {
        crypto::hmac(Hash::Sha256, SECRET.as_bytes(), data)
    })
}

fn request(token: &str) -> Request {
    Request::builder()
        .header("authorization", format!("Bearer {token}"))
        .build()
}

/// `Err`: the reason in the metric.
fn judge(filter: &Jwt, token: &str) -> Result<(), Why> {
    filter
        .admit(&mut request(token))
        .map_err(|refused| refused.why)
}

struct Ec(EcdsaKeyPair);

impl Ec {
    fn generate() -> Self {
        Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (b64(&point[1..33]), b64(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y, "use": "sig"})
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        token(&json!({"alg": "ES256", "kid": kid}), claims, |data| {
            self.0
                .sign(&SystemRandom::new(), data)
                .unwrap()
                .as_ref()
                .to_vec()
        })
    }
}

struct Rsa(RsaKeyPair);

impl Rsa {
    fn generate() -> Self {
        Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn modulus(&self) -> Vec<u8> {
        // RSAPublicKey (RFC 8017, A.1.1) of 2048 bits: two heads of four bytes, a zero, the modulus, and
        // the exponent 65537 in five.
        let der = self.0.public_key().as_ref();
        assert_eq!((der.len(), der[8]), (9 + 256 + 5, 0));
        der[9..9 + 256].to_vec()
    }

    fn jwk(&self) -> Value {
        json!({"kty": "RSA", "n": b64(self.modulus()), "e": "AQAB"})
    }

    fn token(&self, alg: &str, encoding: &'static dyn RsaEncoding, claims: &Value) -> String {
        token(&json!({"alg": alg}), claims, |data| {
            let mut signature = vec![0; self.0.public_modulus_len()];
            self.0
                .sign(encoding, &SystemRandom::new(), data, &mut signature)
                .unwrap();
            signature
        })
    }
}

/// RFC 7515, appendix A; they expire at 1300819380.
const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn rfc_7515() -> [(Value, String); 3] {
    let hs256 = json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"});
    let rs256 = json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
    let es256 = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let with = |header: &str, signature: &str| format!("{header}.{PAYLOAD}.{signature}");
    [
        (
            hs256,
            with(
                "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
        ),
        (
            rs256,
            with(
                "eyJhbGciOiJSUzI1NiJ9",
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
        ),
        (
            es256,
            with(
                "eyJhbGciOiJFUzI1NiJ9",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
        ),
    ]
}

#[test]
fn the_tokens_of_rfc_7515_are_right() {
    for (jwk, token) in rfc_7515() {
        let filter = filter(json!({ "jwks": { "keys": [jwk] }, "issuer": "joe" }));
        assert_eq!(judge(&filter, &token), Ok(()), "{token}");
        set_now(1_300_819_380 + 30);
        assert_eq!(judge(&filter, &token), Err(Why::Expired));
    }
}

#[test]
fn the_signature_of_rfc_8037_is_right_though_its_payload_claims_nothing() {
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let filter = filter(json!({ "jwks": { "keys": [jwk] } }));
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let token = format!(
        "{signed}.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
    assert_eq!(judge(&filter, &token), Err(Why::Malformed));
    let token = token.replace("hgyY", "hgyZ");
    assert_eq!(judge(&filter, &token), Err(Why::Signature));
}

#[test]
fn a_token_changed_anywhere_is_refused() {
    for (jwk, token) in rfc_7515() {
        let filter = filter(json!({ "jwks": { "keys": [jwk] } }));
        for i in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(judge(&filter, &changed).is_err(), "byte {i} of {token}");
        }
        for end in 0..token.len() {
            assert!(
                judge(&filter, &token[..end]).is_err(),
                "{end} bytes of {token}"
            );
        }
        for more in [".", "A", "==", " A"] {
            assert!(judge(&filter, &format!("{token}{more}")).is_err(), "{more}");
        }
    }
}

#[test]
fn every_kind_of_key_verifies_its_own_algorithms() {
    let claims = json!({"exp": NOW + 60});
    let (rsa, ec) = (Rsa::generate(), Ec::generate());
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(ed.public_key().as_ref())});
    let all = json!({ "jwks": { "keys": [rsa.jwk(), ec.jwk("e"), ed_jwk] }, "secret": SECRET });
    let filter = filter(all.clone());
    let ed_token = |alg: &str| {
        let sign = |data: &[u8]| ed.sign(data).as_ref().to_vec();
        token(&json!({ "alg": alg }), &claims, sign)
    };
    let tokens = [
        rsa.token("RS256", &RSA_PKCS1_SHA256, &claims),
        rsa.token("PS256", &RSA_PSS_SHA256, &claims),
        ec.token("e", &claims),
        ed_token("EdDSA"),
        ed_token("Ed25519"),
        hs256(&claims),
    ];
    for token in &tokens {
        assert_eq!(judge(&filter, token), Ok(()), "{token}");
    }
    // The padding that the header does not say.
    let other_padding = rsa.token("RS256", &RSA_PSS_SHA256, &claims);
    assert_eq!(judge(&filter, &other_padding), Err(Why::Signature));

    let mut some = all;
    some["algorithms"] = json!(["ES256", "PS256"]);
    let filter = self::filter(some);
    let expect = [false, true, true, false, false, false];
    for (token, expect) in tokens.iter().zip(expect) {
        let expect = if expect { Ok(()) } else { Err(Why::Algorithm) };
        assert_eq!(judge(&filter, token), expect, "{token}");
    }
}

#[test]
fn a_public_key_is_no_secret_and_an_algorithm_no_other() {
    let claims = json!({"exp": NOW + 60});
    let (rsa, ec) = (Rsa::generate(), Ec::generate());
    let jwks = json!({ "keys": [rsa.jwk(), ec.jwk("e")] });
    let filter = filter(json!({ "jwks": jwks }));
    for public in [
        rsa.modulus(),
        b64(rsa.modulus()).into(),
        jwks.to_string().into(),
    ] {
        let forged = token(&json!({"alg": "HS256"}), &claims, |data| {
            crypto::hmac(Hash::Sha256, &public, data)
        });
        assert_eq!(judge(&filter, &forged), Err(Why::Key));
    }
    for alg in ["none", "NONE", "", "HS1", "RSA-OAEP", "dir"] {
        let forged = token(&json!({ "alg": alg }), &claims, |_| Vec::new());
        assert_eq!(judge(&filter, &forged), Err(Why::Algorithm), "{alg}");
    }
    for alg in ["ES384", "ES512", "EdDSA"] {
        let forged = token(&json!({ "alg": alg }), &claims, |_| vec![0; 64]);
        assert_eq!(judge(&filter, &forged), Err(Why::Key), "{alg}");
    }
    // Signatures of zeros, and of no length at all (CVE-2022-21449 and its like).
    for signature in [vec![0; 64], Vec::new(), vec![0; 63]] {
        let forged = token(&json!({"alg": "ES256"}), &claims, |_| signature);
        assert_eq!(judge(&filter, &forged), Err(Why::Signature));
    }
    // A key that the token brings along.
    let own = Ec::generate();
    let header = json!({"alg": "ES256", "jwk": own.jwk("x")});
    let forged = token(&header, &claims, |data| {
        own.0
            .sign(&SystemRandom::new(), data)
            .unwrap()
            .as_ref()
            .to_vec()
    });
    assert_eq!(judge(&filter, &forged), Err(Why::Signature));
}

#[test]
fn a_token_of_another_type_opens_nothing() {
    let filter = filter(json!({ "secret": SECRET, "types": "AT+JWT" }));
    let typed = |header: Value| {
        token(&header, &json!({"exp": NOW + 60}), |data| {
            crypto::hmac(Hash::Sha256, SECRET.as_bytes(), data)
        })
    };
    for typ in ["at+jwt", "application/at+JWT"] {
        assert_eq!(
            judge(&filter, &typed(json!({"alg": "HS256", "typ": typ}))),
            Ok(())
        );
    }
    for header in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "typ": "JWT"}),
    ] {
        assert_eq!(judge(&filter, &typed(header)), Err(Why::Type));
    }
    let odd = json!({"alg": "HS256", "typ": ["at+jwt"]});
    assert_eq!(judge(&filter, &typed(odd)), Err(Why::Malformed));
}

#[test]
fn a_named_key_is_used_for_its_name_only() {
    let claims = json!({"exp": NOW + 60});
    let (a, b) = (Ec::generate(), Ec::generate());
    let mut stated = a.jwk("a");
    stated["alg"] = "ES256".into();
    let filter = filter(json!({ "jwks": { "keys": [stated, b.jwk("b")] } }));
    assert_eq!(judge(&filter, &a.token("a", &claims)), Ok(()));
    assert_eq!(judge(&filter, &a.token("b", &claims)), Err(Why::Signature));
    assert_eq!(judge(&filter, &a.token("c", &claims)), Err(Why::Key));
    let logs = testing::logs();
    assert!(logs.is_empty(), "{logs:?}");
}

#[test]
fn the_upstream_hears_the_claims_and_no_token() {
    let filter = filter(json!({
        "secret": SECRET,
        "query": "token",
        "claims": { "sub": "X-User", "/realm/roles": "X-Roles", "email": "X-Email" },
        "labels": { "sub": "sub", "tenant": "org" },
    }));
    let claims = json!({
        "sub": "ann", "exp": NOW + 60, "tenant": 7, "realm": { "roles": ["a", "b"] },
    });
    let mut req = Request::builder()
        .uri("/ws?a=1&token=other")
        .header("authorization", format!("Bearer {}", hs256(&claims)))
        .header("X-User", "root")
        .header("X-User", "admin")
        .header("X-Email", "forged@example.com")
        .build();
    assert_eq!(filter.on_request(&mut req), Verdict::Continue);
    assert_eq!(req.header_values("x-user"), [b"ann"]);
    assert_eq!(req.header_values("x-roles"), [b"a,b"]);
    assert_eq!(req.header("x-email"), None);
    assert_eq!(req.header("authorization"), None);
    assert_eq!(req.query().as_deref(), Some("a=1"));
    assert_eq!(req.label("sub").as_deref(), Some("ann"));
    assert_eq!(req.label("org").as_deref(), Some("7"));

    for bad in [
        json!({"exp": NOW + 60, "realm": {"roles": ["a", "b,root"]}}),
        json!({"exp": NOW + 60, "sub": "a\r\nX-Admin: 1"}),
        json!({"exp": NOW + 60, "sub": {"a": 1}}),
        json!({"exp": NOW + 60, "sub": "x".repeat(2_000)}),
    ] {
        assert_eq!(judge(&filter, &hs256(&bad)), Err(Why::Claim), "{bad}");
    }
}

#[test]
fn the_session_ends_with_the_token() {
    #[track_caller]
    fn check(expire: bool, exp: Option<u64>, expect: Option<u64>) {
        let filter = filter(json!({ "secret": SECRET, "expire": expire, "require_exp": false }));
        let claims = exp.map_or(json!({}), |exp| json!({ "exp": exp }));
        let mut req = request(&hs256(&claims));
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.expires_at(), expect.map(at));
    }
    check(true, Some(NOW + 60), Some(NOW + 60));
    check(true, Some(NOW - 10), Some(NOW + 20));
    check(true, None, None);
    check(false, Some(NOW + 60), None);
}

#[test]
fn the_token_can_go_on() {
    let filter = filter(json!({ "secret": SECRET, "strip": false }));
    let mut req = request(&hs256(&json!({"exp": NOW + 60})));
    assert_eq!(filter.on_request(&mut req), Verdict::Continue);
    assert!(req.header("authorization").is_some());
}

#[test]
fn refusals_say_as_much_as_rfc_6750_wants() {
    #[track_caller]
    fn check(headers: &[(&str, &str)], why: &str, status: u16, challenge: Option<&str>) {
        let filter = filter(json!({
            "secret": SECRET, "realm": "ws", "scopes": ["chat", "read"], "issuer": "me",
        }));
        let mut req = Request::builder();
        for (name, value) in headers {
            req = req.header(name, value);
        }
        let Verdict::Respond(reply) = filter.on_request(&mut req.build()) else {
            panic!("it refuses");
        };
        assert_eq!(reply.check(), Ok(()));
        assert_eq!(reply.get("www-authenticate"), challenge);
        assert_eq!(Verdict::from(reply).status(), Some(status));
        assert_eq!(testing::metric("refused", &[("why", why)]), 1.0, "{why}");
        let (_, message, fields) = testing::logs().pop().unwrap();
        assert_eq!(
            (message.as_str(), fields[0].1.as_str()),
            ("token refused", why)
        );
        for (_, value) in headers {
            assert!(!format!("{fields:?}").contains(value));
        }
    }
    let bearer = |claims: &Value| format!("Bearer {}", hs256(claims));
    let invalid = r#"Bearer realm="ws", error="invalid_token""#;
    check(&[], "missing", 401, Some(r#"Bearer realm="ws""#));
    std::thread::spawn(move || {
        let headers = [("authorization", "Bearer x.y")];
        check(&headers, "malformed", 401, Some(invalid));
        let headers = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        let challenge = r#"Bearer realm="ws", error="invalid_request""#;
        check(&headers, "several", 400, Some(challenge));
        let old = bearer(&json!({"exp": NOW - 60}));
        let challenge = format!(r#"{invalid}, error_description="expired""#);
        check(&[("authorization", &old)], "expired", 401, Some(&challenge));
        let other = bearer(&json!({"exp": NOW + 60, "iss": "you"}));
        check(&[("authorization", &other)], "issuer", 401, Some(invalid));
        let weak = bearer(&json!({"exp": NOW + 60, "iss": "me", "scope": "chat"}));
        let challenge = r#"Bearer realm="ws", error="insufficient_scope", scope="chat read""#;
        check(&[("authorization", &weak)], "scope", 403, Some(challenge));
    })
    .join()
    .unwrap();
}

/// Counts the requests for keys, and answers what `answer` says.
fn serve(answer: impl Fn() -> Result<outbound::Response, outbound::Error> + 'static) -> Asked {
    let asked = Asked::default();
    let count = asked.clone();
    testing::on_outbound(move |request| {
        assert_eq!(
            (request.upstream.as_str(), request.path.as_str()),
            ("idp", "/keys")
        );
        count.set(count.get() + 1);
        answer()
    });
    asked
}

type Asked = std::rc::Rc<std::cell::Cell<u32>>;

fn key_set(keys: &[Value]) -> outbound::Response {
    outbound::Response::new(200).with_body(json!({ "keys": keys }).to_string())
}

fn remote() -> Jwt {
    filter(json!({ "jwks_upstream": "idp", "jwks_path": "/keys" }))
}

#[test]
fn fetched_keys_are_kept_and_follow_a_rotation() {
    let claims = json!({"exp": NOW + 100_000});
    let (old, new) = (Ec::generate(), Ec::generate());
    let published = std::rc::Rc::new(std::cell::RefCell::new(vec![old.jwk("old")]));
    let serving = published.clone();
    let filter = remote();
    let asked = serve(move || Ok(key_set(&serving.borrow())));
    for _ in 0..3 {
        assert_eq!(judge(&filter, &old.token("old", &claims)), Ok(()));
    }
    assert_eq!(asked.get(), 1);

    // A key that nobody knows is asked for once in ten seconds, however often it is tried.
    testing::advance(Duration::from_secs(11));
    for _ in 0..3 {
        assert_eq!(judge(&filter, &new.token("new", &claims)), Err(Why::Key));
    }
    assert_eq!(asked.get(), 2);
    *published.borrow_mut() = vec![new.jwk("new"), old.jwk("old")];
    testing::advance(Duration::from_secs(11));
    assert_eq!(judge(&filter, &new.token("new", &claims)), Ok(()));
    assert_eq!(judge(&filter, &old.token("old", &claims)), Ok(()));
    assert_eq!(asked.get(), 3);

    // A key that is withdrawn is good until the set is old.
    *published.borrow_mut() = vec![new.jwk("new")];
    testing::advance(Duration::from_secs(500));
    assert_eq!(judge(&filter, &old.token("old", &claims)), Ok(()));
    testing::advance(Duration::from_secs(101));
    assert_eq!(judge(&filter, &old.token("old", &claims)), Err(Why::Key));
    assert_eq!(asked.get(), 4);
}

#[test]
fn old_keys_serve_while_the_provider_fails() {
    let claims = json!({"exp": NOW + 1_000_000});
    let key = Ec::generate();
    let (jwk, token) = (key.jwk("a"), key.token("a", &claims));
    let filter = remote();
    serve(move || Ok(key_set(std::slice::from_ref(&jwk))));
    assert_eq!(judge(&filter, &token), Ok(()));
    let asked = serve(|| Err(outbound::Error::Timeout));
    testing::advance(Duration::from_secs(601));
    for _ in 0..3 {
        assert_eq!(judge(&filter, &token), Ok(()));
    }
    assert_eq!(asked.get(), 1);
    assert_eq!(
        testing::metric("keys_fetched", &[("result", "failed")]),
        1.0
    );
    // After a day nobody can say any more whether they are still good.
    testing::advance(Duration::from_secs(24 * 3600));
    for _ in 0..3 {
        assert_eq!(judge(&filter, &token), Err(Why::Unavailable));
    }
    assert_eq!(asked.get(), 2);
    assert_eq!(filter.on_request(&mut request(&token)).status(), Some(503));
}

#[test]
fn what_the_provider_sends_is_not_believed_blindly() {
    #[track_caller]
    fn check(answer: outbound::Response, why: &'static str) {
        // Each in a store of its own.
        let checked = std::thread::spawn(move || {
            let filter = remote();
            serve(move || Ok(answer.clone()));
            let token = hs256(&json!({"exp": NOW + 60}));
            assert_eq!(judge(&filter, &token), Err(Why::Unavailable));
            let (_, _, fields) = testing::logs().pop().unwrap();
            assert!(fields[1].1.starts_with(why), "{fields:?}");
        });
        assert!(checked.join().is_ok(), "{why}");
    }
    let none = "none of the keys can be used";
    check(outbound::Response::new(404), "status 404");
    check(
        outbound::Response::new(200).with_body("<html>"),
        "not a JSON Web Key Set",
    );
    check(
        outbound::Response::new(200).with_body("{}"),
        "not a JSON Web Key Set",
    );
    check(key_set(&[]), none);
    // A secret in public is none.
    let public_secret = json!({"kty": "oct", "k": b64(SECRET)});
    check(key_set(&[public_secret]), none);
    let encryption =
        json!({"kty": "EC", "crv": "P-256", "use": "enc", "x": b64([1; 32]), "y": b64([1; 32])});
    check(key_set(&[encryption]), none);
    check(
        key_set(&[json!(1), json!({"kty": 1}), json!({"kty": "EC"})]),
        none,
    );
}

#[test]
fn without_keys_only_a_few_ask_at_once() {
    let filter = remote();
    // The answer comes while others still wait: nothing was stored by then.
    let asked = serve(|| {
        sluicegate_plugin::kv::delete("failed:idp::/keys").unwrap();
        Err(outbound::Error::Timeout)
    });
    let token = Ec::generate().token("a", &json!({"exp": NOW + 60}));
    assert_eq!(judge(&filter, &token), Err(Why::Unavailable));
    for _ in 0..100 {
        sluicegate_plugin::kv::delete("failed:idp::/keys").unwrap();
        assert_eq!(judge(&filter, &token), Err(Why::Unavailable));
    }
    assert_eq!(asked.get(), 32);
    testing::advance(Duration::from_secs(11));
    testing::fail_kv(Some(sluicegate_plugin::kv::Error::Unavailable));
    assert_eq!(judge(&filter, &token), Err(Why::Unavailable));
    assert_eq!(asked.get(), 32);
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(config: Value, expect: &str) {
        let error = testing::configure::<Jwt>(config)
            .err()
            .map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some(expect));
    }
    check(
        json!({}),
        "no keys: one of `jwks`, `jwks_upstream`, `secret` and `secrets` is needed",
    );
    check(
        json!({"secret": "short"}),
        "`secret`: is shorter than 32 bytes",
    );
    check(
        json!({"secrets": {"a.b": "short"}}),
        "`secrets.a.b`: is shorter than 32 bytes",
    );
    check(
        json!({"jwks": "{"}),
        "`jwks`: is not JSON, as line 1 column 1 shows",
    );
    check(
        json!({"jwks": {}}),
        "`jwks`: is no key set: there is no list `keys`",
    );
    check(
        json!({"jwks": {"keys": []}}),
        "`jwks`: holds no key for signatures",
    );
    check(
        json!({"jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA"}]}}),
        "`jwks`: key 0: `x` has 1 bytes, not 32",
    );
    check(
        json!({"jwks": {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}}),
        "`jwks`: key 0: `n` has 17 bits, not 2048 to 8192",
    );
    let (mut private, public) = (Ec::generate().jwk("a"), Ec::generate().jwk("b"));
    private["d"] = "AAAA".into();
    check(
        json!({"jwks": {"keys": [private]}}),
        "`jwks`: key 0: is a private key; leave the public part only",
    );
    check(
        json!({"jwks": {"keys": [public]}, "algorithms": ["ES256", "HS256"]}),
        "`algorithms`: `HS256`: no key is for it",
    );
    let with = |key: &str, value: Value| json!({ "secret": SECRET, key: value });
    check(with("algorithms", json!([])), "`algorithms`: is empty");
    check(
        with("algorithms", json!(["none"])),
        "`algorithms.0`: unknown variant `none`, expected one of `HS256`, `HS384`, `HS512`, \
         `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, `ES512`, `EdDSA`",
    );
    check(
        with("header", json!("X Y")),
        "`header`: `X Y`: not a field name",
    );
    check(
        with("cookie", json!("a;b")),
        "`cookie`: `a;b`: holds what it cannot",
    );
    check(with("query", json!("")), "`query`: is empty");
    check(
        with("bearer", json!(false)),
        "`bearer`: then nothing says where the token is",
    );
    check(
        with("claims", json!({"sub": "Host"})),
        "`claims.sub`: `Host`: written by the proxy itself",
    );
    check(
        with("claims", json!({"a": "X-User", "b": "x-user"})),
        "`claims.b`: `x-user` is another claim's as well",
    );
    check(
        with("labels", json!({"sub": "Sub"})),
        "`labels.sub`: `Sub` is no label",
    );
    check(
        with("scopes", json!(["a b"])),
        "`scopes`: `a b`: is no scope",
    );
    check(
        with("realm", json!("a\"b")),
        "`realm`: `a\"b`: holds what cannot be quoted",
    );
    let with = |key: &str, value: &str| json!({ "jwks_upstream": "idp", key: value });
    check(
        with("jwks_path", "keys"),
        "`jwks_path`: `keys`: does not begin with `/`",
    );
    check(
        with("jwks_path", "/ä"),
        "`jwks_path`: `/ä`: cannot be asked for",
    );
    check(with("jwks_ttl", "0s"), "`jwks_ttl`: is no time at all");
    check(
        with("jwks_stale", "1s"),
        "`jwks_stale`: is shorter than `jwks_ttl`",
    );
    check(
        with("leeway", "soon"),
        "`leeway`: `soon` is not a duration, as `30s` or `1h30m` are",
    );
}

proptest! {
    /// Whatever is sent: without the key nobody gets in, and nothing panics.
    #[test]
    fn what_nobody_signed_opens_nothing(
        header in r#"\{("(alg|kid|crit|typ|x)":("HS256"|"ES256"|"none"|1|\[\]|null),?){0,4}\}"#,
        payload in prop::collection::vec(any::<u8>(), 0..40),
        signature in prop::collection::vec(any::<u8>(), 0..70),
        noise in ".{0,60}",
    ) {
        let filter = filter(json!({
            "secret": SECRET,
            "jwks": { "keys": [rfc_7515()[2].0] },
            "query": "q",
        }));
        let token = format!("{}.{}.{}", b64(header), b64(payload), b64(signature));
        prop_assert!(judge(&filter, &token).is_err());
        let mut req = Request::builder().uri(&format!("/?q={noise}")).build();
        prop_assert!(filter.admit(&mut req).is_err());
    }
}
