//! Where a token is looked for, and how it is taken out of what goes upstream.

use sluicegate_plugin::{EditError, Request};

use crate::refusal::{Refused, Why};

/// The places, in the order in which they are tried; the first token found decides.
#[derive(Debug)]
pub(crate) struct Sources {
    /// `Authorization: Bearer TOKEN`
    pub(crate) bearer: bool,
    pub(crate) header: Option<String>,
    pub(crate) cookie: Option<String>,
    pub(crate) query: Option<String>,
    /// What a subprotocol that carries the token begins with.
    pub(crate) subprotocol: Option<String>,
}

impl Sources {
    pub(crate) fn find(&self, req: &Request) -> Result<Option<String>, Refused> {
        if self.bearer {
            // Two `Authorization` fields: this proxy would believe one and the upstream the other.
            let fields = req.header_values("authorization");
            if fields.len() > 1 {
                return Err(several("two `Authorization` fields"));
            }
            if let Some(token) = fields.first().and_then(|field| bearer_of(field)) {
                return Ok(Some(token));
            }
        }
        if let Some(name) = &self.header {
            let mut fields = req.header_values(name);
            if fields.len() > 1 {
                return Err(several("two fields of one name"));
            }
            if let Some(field) = fields.pop() {
                return Ok(Some(String::from_utf8_lossy(&field).into_owned()));
            }
        }
        let elsewhere = || {
            let cookie = self.cookie.as_ref().and_then(|name| req.cookie(name));
            cookie
                .or_else(|| req.query_param(self.query.as_ref()?))
                .or_else(|| {
                    let prefix = self.subprotocol.as_ref()?;
                    let offered = req.subprotocols();
                    offered
                        .iter()
                        .find_map(|one| Some(one.strip_prefix(prefix)?.to_owned()))
                })
        };
        Ok(elsewhere().filter(|token| !token.is_empty()))
    }

    /// Takes whatever stands in any of the places away.
    pub(crate) fn strip(&self, req: &mut Request) -> Result<(), EditError> {
        if self.bearer {
            let field = req.header_values("authorization");
            if field
                .first()
                .is_some_and(|field| bearer_of(field).is_some())
            {
                req.remove_header("authorization")?;
            }
        }
        if let Some(name) = &self.header {
            req.remove_header(name)?;
        }
        if let Some(name) = &self.cookie {
            remove_cookie(req, name)?;
        }
        if let Some(name) = &self.query {
            req.remove_query_param(name)?;
        }
        if let Some(prefix) = &self.subprotocol {
            let mut offered = req.subprotocols();
            let before = offered.len();
            offered.retain(|one| !one.starts_with(prefix.as_str()));
            if offered.len() != before {
                req.set_subprotocols(&offered)?;
            }
        }
        Ok(())
    }
}

/// The token of `Bearer TOKEN`; an empty one is none.
fn bearer_of(authorization: &[u8]) -> Option<String> {
    let (scheme, token) = authorization.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty())
        .then(|| String::from_utf8_lossy(token).into_owned())
}

fn remove_cookie(req: &mut Request, name: &str) -> Result<(), EditError> {
    let fields = req.header_values("cookie");
    let is_other = |pair: &&[u8]| {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        key.trim_ascii() != name.as_bytes()
    };
    let pairs = fields
        .iter()
        .flat_map(|field| field.split(|byte| *byte == b';'));
    let pairs: Vec<&[u8]> = pairs.map(<[u8]>::trim_ascii).collect();
    let kept: Vec<&[u8]> = pairs.iter().copied().filter(is_other).collect();
    if kept.len() == pairs.len() {
        return Ok(());
    }
    if kept.is_empty() {
        return req.remove_header("cookie");
    }
    req.set_header("cookie", kept.join(&b"; "[..]))
}

fn several(detail: &'static str) -> Refused {
    Refused::new(Why::Several, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources {
            bearer: true,
            header: Some("X-Token".into()),
            cookie: Some("token".into()),
            query: Some("access_token".into()),
            subprotocol: Some("jwt.".into()),
        }
    }

    #[test]
    fn a_token_is_found_in_every_place_and_taken_out_of_all() {
        #[track_caller]
        fn check(uri: &str, headers: &[(&str, &str)], expect: Option<&str>) {
            let mut req = Request::builder().uri(uri);
            for (name, value) in headers {
                req = req.header(name, value);
            }
            let mut req = req.build();
            assert_eq!(sources().find(&req).unwrap().as_deref(), expect);
            sources().strip(&mut req).unwrap();
            assert_eq!(sources().find(&req).unwrap(), None);
            let left = format!("{:?} {:?}", req.headers(), req.query());
            assert!(!left.contains("t0k"), "{left}");
        }
        check("/", &[], None);
        check("/", &[("authorization", "Bearer t0k")], Some("t0k"));
        check("/", &[("authorization", "bEARER   t0k ")], Some("t0k"));
        check("/", &[("authorization", "Bearer ")], None);
        check("/", &[("authorization", "Bearer")], None);
        check("/", &[("authorization", "Basic abc")], None);
        check("/", &[("x-token", "t0k")], Some("t0k"));
        check("/", &[("cookie", "a=1; token=t0k")], Some("t0k"));
        check("/?access_token=t0k&b=1", &[], Some("t0k"));
        check(
            "/",
            &[("sec-websocket-protocol", "chat, jwt.t0k")],
            Some("t0k"),
        );
        let everywhere = [
            ("authorization", "Bearer t0k1"),
            ("x-token", "t0k2"),
            ("cookie", "token=t0k3"),
            ("sec-websocket-protocol", "jwt.t0k4"),
        ];
        check("/?access_token=t0k5", &everywhere, Some("t0k1"));
        check("/?access_token=t0k5", &everywhere[1..], Some("t0k2"));
        check("/?access_token=t0k5", &everywhere[2..], Some("t0k3"));
        check("/?access_token=t0k5", &everywhere[3..], Some("t0k5"));
    }

    #[test]
    fn nobody_sends_two() {
        for name in ["authorization", "x-token"] {
            let req = Request::builder()
                .header(name, "Bearer a")
                .header(name, "Bearer b");
            let refused = sources().find(&req.build()).unwrap_err();
            assert_eq!(refused.why, Why::Several);
        }
    }

    #[test]
    fn other_cookies_stay() {
        #[track_caller]
        fn check(cookies: &[&str], expect: &[&str]) {
            let mut req = Request::builder();
            for cookie in cookies {
                req = req.header("cookie", cookie);
            }
            let mut req = req.build();
            sources().strip(&mut req).unwrap();
            let left = req.header_values("cookie");
            assert_eq!(
                left,
                expect.iter().map(|s| s.as_bytes()).collect::<Vec<_>>()
            );
        }
        check(&["a=1; token=x; b=2"], &["a=1; b=2"]);
        check(&["token=x"], &[]);
        check(&["token=x; token=y"], &[]);
        check(&["a=1", "token=x;b=2"], &["a=1; b=2"]);
        check(&["a=1;b=2", "c"], &["a=1;b=2", "c"]);
        check(&["tokens=1; a=token"], &["tokens=1; a=token"]);
    }
}
