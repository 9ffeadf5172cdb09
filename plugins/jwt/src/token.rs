//! A token's outer form: JWS compact serialization (RFC 7515, section 3.1), strictly.
//!
//! Three parts of base64url without padding and without stray bits, a header that is one JSON object
//! without repeated members. Extensions that must be understood (`crit`) are refused; keys that a token
//! brings along (`jwk`, `jku`, `x5c` …) are never looked at. What the payload says is trusted by nobody
//! until the signature was found to be right, so it is not even decoded here.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use sluicegate_plugin::serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::key::Algorithm;
use crate::refusal::{Refused, Why, excerpt};

/// A token whose signature nobody has checked yet.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    /// What it says it is, in lower case and without `application/`.
    pub(crate) typ: Option<String>,
    /// What the signature is of.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    payload: &'a str,
}

/// A JSON object; one that says something twice is refused (RFC 7515, section 4; RFC 7519, section 4).
#[derive(Debug, Default)]
pub(crate) struct Object(pub(crate) BTreeMap<String, Value>);

impl<'a> Token<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Refused> {
        if text.len() > MAX_TOKEN {
            return Err(Refused::malformed("longer than 16 KiB"));
        }
        let three_parts = || Refused::malformed("not three parts");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(three_parts)?;
        let (header, payload) = signed.split_once('.').ok_or_else(three_parts)?;
        if payload.contains('.') {
            return Err(three_parts());
        }
        let header = Object::parse(&decode(header)?)
            .map_err(|error| Refused::malformed(format!("header: {error}")))?;
        if header.0.contains_key("crit") {
            return Err(Refused::malformed("header: `crit` is not supported"));
        }
        let Some(Value::String(algorithm)) = header.0.get("alg") else {
            return Err(Refused::malformed("header: no `alg`"));
        };
        let algorithm = Algorithm::named(algorithm).ok_or_else(|| {
            let name = excerpt(algorithm);
            Refused::new(Why::Algorithm, format!("`{name}` is not supported"))
        })?;
        let kid = header.text("kid")?;
        let typ = header.text("typ")?.map(|typ| media_type(&typ));
        let signature = decode(signature)?;
        Ok(Token {
            algorithm,
            kid,
            typ,
            signed,
            signature,
            payload,
        })
    }

    /// What it claims; for after the signature was checked.
    pub(crate) fn payload(&self) -> Result<Object, Refused> {
        Object::parse(&decode(self.payload)?)
            .map_err(|error| Refused::malformed(format!("claims: {error}")))
    }
}

impl Object {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// A member of a header that is text, if it is there.
    fn text(&self, name: &str) -> Result<Option<String>, Refused> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refused::malformed(format!("header: `{name}` is no string"))),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member comes twice"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A media type as headers write it (RFC 7515, section 4.1.9): in any case, `application/` left out.
pub(crate) fn media_type(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let short = text.strip_prefix("application/");
    short.unwrap_or(&text).to_owned()
}

/// base64url without padding (RFC 7515, section 2); one text for one meaning.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Refused> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Refused::malformed("not base64url"))
}

const MAX_TOKEN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn only_the_one_strict_form_is_read() {
        #[track_caller]
        fn check(text: &str, expect: Result<Option<&str>, &str>) {
            let got = Token::parse(text);
            let got = got.as_ref().map(|token| token.kid.as_deref());
            assert_eq!(got.map_err(|refused| &*refused.detail), expect, "{text}");
        }
        let with = |header: &str| format!("{}.e30.AAAA", encode(header));
        check(&with(r#"{"alg":"ES256"}"#), Ok(None));
        check(&with(r#"{"alg":"ES256","kid":"a"}"#), Ok(Some("a")));
        check("", Err("not three parts"));
        check("e30.e30", Err("not three parts"));
        check("e30.e30.e30.e30", Err("not three parts"));
        check("e30.e30.e30.e30.e30", Err("not three parts"));
        check(
            "..",
            Err("header: EOF while parsing a value at line 1 column 0"),
        );
        check(&with("{}"), Err("header: no `alg`"));
        check(&with(r#"{"alg":1}"#), Err("header: no `alg`"));
        check(&with(r#"{"alg":"none"}"#), Err("`none` is not supported"));
        check(&with(r#"{"alg":"None"}"#), Err("`None` is not supported"));
        check(&with(r#"{"alg":"es256"}"#), Err("`es256` is not supported"));
        check(
            &with(r#"{"alg":"ES256","kid":1}"#),
            Err("header: `kid` is no string"),
        );
        check(
            &with(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#),
            Err("header: `crit` is not supported"),
        );
        check(
            &with(r#"{"alg":"ES256","alg":"HS256"}"#),
            Err("header: a member comes twice at line 1 column 29"),
        );
        check(
            &with(r#"["ES256"]"#),
            Err("header: invalid type: sequence, expected a JSON object at line 1 column 0"),
        );
        // Padding, the other alphabet, blanks, stray bits.
        let good = with(r#"{"alg":"ES256"}"#);
        for bad in ["AA==", "A+A/", "AA A", "AB", "A", "AAAA\n", "é"] {
            let text = good.replace("AAAA", bad);
            check(&text, Err("not base64url"));
        }
        check(&"a".repeat(MAX_TOKEN + 1), Err("longer than 16 KiB"));
        let deep = "[".repeat(4_000);
        assert!(Token::parse(&with(&format!(r#"{{"alg":"ES256","x":{deep}"#))).is_err());
    }
}
