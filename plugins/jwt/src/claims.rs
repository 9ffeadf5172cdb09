//! What a token claims, and the rules it must meet (RFC 7519, section 4.1; RFC 8725).

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::refusal::{Refused, Why};
use crate::token::Object;

/// What is asked of every token.
#[derive(Debug)]
pub(crate) struct Rules {
    /// None: any, also none.
    pub(crate) issuers: BTreeSet<String>,
    pub(crate) audience: Audience,
    pub(crate) require_exp: bool,
    pub(crate) leeway: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) scopes: BTreeSet<String>,
}

/// For whom tokens must be.
#[derive(Debug)]
pub(crate) enum Audience {
    /// For nobody in particular: one that names an audience means somebody else (RFC 7519, 4.1.3).
    Unnamed,
    Any,
    OneOf(BTreeSet<String>),
}

impl Rules {
    /// Judges the claims of a token whose signature is right; says when it expires.
    pub(crate) fn check(
        &self,
        claims: &Object,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, Refused> {
        let expires = self.check_times(claims, now)?;
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        self.check_scopes(claims)?;
        Ok(expires)
    }

    fn check_times(&self, claims: &Object, now: SystemTime) -> Result<Option<SystemTime>, Refused> {
        let expires = moment(claims, "exp")?;
        if expires.is_none() && self.require_exp {
            return Err(Refused::new(Why::Claim, "no `exp`"));
        }
        if expires.is_some_and(|expires| now >= expires + self.leeway) {
            return Err(Refused::new(Why::Expired, "`exp` is over"));
        }
        if moment(claims, "nbf")?.is_some_and(|begins| now + self.leeway < begins) {
            return Err(Refused::new(Why::NotYet, "`nbf` is to come"));
        }
        if let Some(max_age) = self.max_age {
            let Some(issued) = moment(claims, "iat")? else {
                return Err(Refused::new(Why::Claim, "no `iat`"));
            };
            if now >= issued + max_age + self.leeway {
                return Err(Refused::new(Why::Age, "older than `max_age`"));
            }
            if now + self.leeway < issued {
                return Err(Refused::new(Why::NotYet, "`iat` is to come"));
            }
        }
        Ok(expires)
    }

    fn check_issuer(&self, claims: &Object) -> Result<(), Refused> {
        if self.issuers.is_empty() {
            return Ok(());
        }
        match claims.0.get("iss") {
            Some(Value::String(issuer)) if self.issuers.contains(issuer) => Ok(()),
            Some(_) => Err(Refused::new(Why::Issuer, "another `iss`")),
            None => Err(Refused::new(Why::Issuer, "no `iss`")),
        }
    }

    fn check_audience(&self, claims: &Object) -> Result<(), Refused> {
        let refused = |detail: &'static str| Err(Refused::new(Why::Audience, detail));
        match (&self.audience, claims.0.get("aud")) {
            (Audience::Any, _) | (Audience::Unnamed, None) => Ok(()),
            (Audience::Unnamed, Some(_)) => {
                refused("the token has an `aud`, and no `audience` is configured")
            }
            (Audience::OneOf(_), None) => refused("no `aud`"),
            (Audience::OneOf(ours), Some(audience)) => {
                let Some(theirs) = strings(audience) else {
                    return Err(Refused::malformed("`aud` is no string or list of strings"));
                };
                if theirs.iter().any(|one| ours.contains(*one)) {
                    Ok(())
                } else {
                    refused("another `aud`")
                }
            }
        }
    }

    /// `scope` as in RFC 8693 (section 4.2), or `scp` as some providers have it.
    fn check_scopes(&self, claims: &Object) -> Result<(), Refused> {
        if self.scopes.is_empty() {
            return Ok(());
        }
        let granted = ["scope", "scp"].into_iter();
        let granted = granted.filter_map(|name| strings(claims.0.get(name)?));
        let granted: BTreeSet<&str> = granted.flatten().flat_map(|one| one.split(' ')).collect();
        match self
            .scopes
            .iter()
            .find(|one| !granted.contains(one.as_str()))
        {
            None => Ok(()),
            Some(missing) => Err(Refused::new(Why::Scope, format!("no scope `{missing}`"))),
        }
    }
}

impl Object {
    /// A claim as text: of a list, its items. `/a/b` is a JSON pointer (RFC 6901) to a claim within
    /// others. `None`: not there, or null.
    pub(crate) fn texts(&self, claim: &str) -> Result<Option<Vec<String>>, Refused> {
        let value = match claim.strip_prefix('/') {
            None => self.0.get(claim),
            Some(pointer) => {
                let (first, rest) = pointer.split_once('/').unwrap_or((pointer, ""));
                let first = first.replace("~1", "/").replace("~0", "~");
                let found = self.0.get(&first);
                if rest.is_empty() {
                    found
                } else {
                    found.and_then(|value| value.pointer(&format!("/{rest}")))
                }
            }
        };
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => {
                let items: Result<Vec<String>, Refused> =
                    items.iter().map(|item| scalar(claim, item)).collect();
                let items = items?;
                // In a header's list a comma divides: nobody shall smuggle in a second role.
                if items.iter().any(|item| item.contains(',')) {
                    let detail = format!("`{claim}` has items with a comma");
                    return Err(Refused::new(Why::Claim, detail));
                }
                Ok(Some(items))
            }
            Some(value) => Ok(Some(vec![scalar(claim, value)?])),
        }
    }
}

fn scalar(claim: &str, value: &Value) -> Result<String, Refused> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        _ => Err(Refused::new(
            Why::Claim,
            format!("`{claim}` is no text, number or list of them"),
        )),
    }
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(items) => items.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// NumericDate: seconds since 1970, perhaps with a fraction.
fn moment(claims: &Object, name: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(value) = claims.0.get(name) else {
        return Ok(None);
    };
    let seconds = value
        .as_f64()
        .filter(|seconds| (0.0..LATEST).contains(seconds))
        .ok_or_else(|| Refused::malformed(format!("`{name}` is no moment")))?;
    // Exact: a double holds far more than milliseconds of the range above.
    let millis = Duration::from_millis((seconds * 1000.0) as u64);
    Ok(Some(SystemTime::UNIX_EPOCH + millis))
}

/// The year 9999, in seconds since 1970: nobody's token means a later one.
const LATEST: f64 = 253_402_300_800.0;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn rules() -> Rules {
        Rules {
            issuers: BTreeSet::new(),
            audience: Audience::Unnamed,
            require_exp: true,
            leeway: Duration::from_secs(30),
            max_age: None,
            scopes: BTreeSet::new(),
        }
    }

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[track_caller]
    fn check(rules: &Rules, claims: &str, expect: Result<Option<u64>, &str>) {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let claims = Object::parse(claims.as_bytes()).unwrap();
        let got = rules.check(&claims, at(NOW));
        let got = got.as_ref().map_err(|refused| &*refused.detail);
        assert_eq!(
            got,
            expect
                .map(|expires| expires.map(at))
                .as_ref()
                .map_err(|e| *e)
        );
    }

    #[test]
    fn times_are_checked_with_leeway() {
        let r = rules();
        check(&r, r#"{"exp":1000001}"#, Ok(Some(1_000_001)));
        check(&r, r#"{"exp":1000001.0}"#, Ok(Some(1_000_001)));
        check(&r, r#"{"exp":999971}"#, Ok(Some(999_971)));
        check(&r, r#"{"exp":999970}"#, Err("`exp` is over"));
        check(&r, "{}", Err("no `exp`"));
        for bad in ["\"1000001\"", "null", "-1", "1e300", "[]", "true"] {
            check(
                &r,
                &format!(r#"{{"exp":{bad}}}"#),
                Err("`exp` is no moment"),
            );
        }
        check(&r, r#"{"exp":1000001,"nbf":1000030}"#, Ok(Some(1_000_001)));
        check(
            &r,
            r#"{"exp":1000001,"nbf":1000031}"#,
            Err("`nbf` is to come"),
        );
        check(
            &r,
            r#"{"exp":1000001,"nbf":"now"}"#,
            Err("`nbf` is no moment"),
        );
        check(&r, r#"{"exp":1000001,"iat":2000000}"#, Ok(Some(1_000_001)));

        let r = Rules {
            require_exp: false,
            max_age: Some(Duration::from_secs(60)),
            ..rules()
        };
        check(&r, r#"{"iat":999911}"#, Ok(None));
        check(&r, r#"{"iat":999910}"#, Err("older than `max_age`"));
        check(&r, r#"{"iat":1000031}"#, Err("`iat` is to come"));
        check(&r, "{}", Err("no `iat`"));
        check(&r, r#"{"iat":999990,"exp":10}"#, Err("`exp` is over"));
    }

    #[test]
    fn issuer_and_audience_are_exact() {
        let r = Rules {
            issuers: set(&["https://a", "https://b"]),
            require_exp: false,
            ..rules()
        };
        check(&r, r#"{"iss":"https://b"}"#, Ok(None));
        check(&r, r#"{"iss":"https://b/"}"#, Err("another `iss`"));
        check(&r, r#"{"iss":["https://b"]}"#, Err("another `iss`"));
        check(&r, "{}", Err("no `iss`"));

        let r = Rules {
            audience: Audience::OneOf(set(&["ws", "chat"])),
            require_exp: false,
            ..rules()
        };
        check(&r, r#"{"aud":"ws"}"#, Ok(None));
        check(&r, r#"{"aud":["other","chat"]}"#, Ok(None));
        check(&r, r#"{"aud":["other"]}"#, Err("another `aud`"));
        check(&r, r#"{"aud":[]}"#, Err("another `aud`"));
        check(
            &r,
            r#"{"aud":["ws",1]}"#,
            Err("`aud` is no string or list of strings"),
        );
        check(&r, "{}", Err("no `aud`"));

        let r = Rules {
            require_exp: false,
            ..rules()
        };
        check(
            &r,
            r#"{"aud":"ws"}"#,
            Err("the token has an `aud`, and no `audience` is configured"),
        );
        let r = Rules {
            audience: Audience::Any,
            ..r
        };
        check(&r, r#"{"aud":"ws"}"#, Ok(None));
    }

    #[test]
    fn every_scope_is_needed() {
        let r = Rules {
            scopes: set(&["ws:read", "ws:write"]),
            require_exp: false,
            ..rules()
        };
        check(&r, r#"{"scope":"ws:write x ws:read"}"#, Ok(None));
        check(&r, r#"{"scp":["ws:read","ws:write"]}"#, Ok(None));
        check(
            &r,
            r#"{"scope":"ws:read ws:writer"}"#,
            Err("no scope `ws:write`"),
        );
        check(&r, r#"{"scope":{"ws:read":1}}"#, Err("no scope `ws:read`"));
        check(&r, "{}", Err("no scope `ws:read`"));
    }

    #[test]
    fn claims_become_text() {
        #[track_caller]
        fn check(claim: &str, expect: Result<Option<&[&str]>, &str>) {
            let claims = br#"{"sub":"ann","n":7,"ok":true,"nil":null,"list":["a",1],
                "realm":{"roles":["x","y"],"a/b":"z"},"name":"Doe, Ann","bad":["a,b"],"a/b":{"c":"d"}}"#;
            let got = Object::parse(claims).unwrap().texts(claim);
            let got = got.map_err(|refused| refused.detail.into_owned());
            let expect = expect.map(|texts| {
                texts.map(|texts| texts.iter().map(|&text| text.to_owned()).collect())
            });
            assert_eq!(got, expect.map_err(str::to_owned), "{claim}");
        }
        check("sub", Ok(Some(&["ann"])));
        check("n", Ok(Some(&["7"])));
        check("ok", Ok(Some(&["true"])));
        check("nil", Ok(None));
        check("missing", Ok(None));
        check("name", Ok(Some(&["Doe, Ann"])));
        check("bad", Err("`bad` has items with a comma"));
        check("list", Ok(Some(&["a", "1"])));
        check("/realm/roles", Ok(Some(&["x", "y"])));
        check("/realm/a~1b", Ok(Some(&["z"])));
        check("/a~1b/c", Ok(Some(&["d"])));
        check("/sub", Ok(Some(&["ann"])));
        check("/sub/more", Ok(None));
        check("realm", Err("`realm` is no text, number or list of them"));
    }
}
