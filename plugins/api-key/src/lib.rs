//! Lets in who presents a key, and tells the upstream who that is.
//!
//! The key is looked for in a header, in `Authorization: Bearer`, and where the config says so in
//! the query or among the offered subprotocols (browsers cannot set headers on a WebSocket). The first one
//! found decides.

#![forbid(unsafe_code)]

mod keys;

use std::collections::BTreeMap;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Reply, Request, Secret, Verdict, check_header,
    check_subprotocol, config, export, metrics,
};

use keys::Keys;

#[config]
#[derive(Debug, Clone)]
pub struct Config {
    /// Consumer name to key, or to `sha256:` and the hash of the key in hex.
    keys: BTreeMap<String, Secret>,
    /// Header that carries the key.
    #[serde(default = "default_header")]
    header: String,
    /// Also accept `Authorization: Bearer KEY`.
    #[serde(default = "yes")]
    bearer: bool,
    /// Query parameter that carries the key.
    query: Option<String>,
    /// What a subprotocol that carries the key begins with.
    subprotocol: Option<String>,
    /// Header that tells the upstream who the consumer is.
    #[serde(default = "default_consumer_header")]
    consumer_header: String,
    /// Take the key out of what goes upstream.
    #[serde(default = "yes")]
    strip: bool,
}

pub struct ApiKey {
    keys: Keys,
    /// Without the keys.
    config: Config,
}

impl Filter for ApiKey {
    type Config = Config;

    fn configure(mut config: Config) -> Result<Self, ConfigError> {
        let keys = Keys::new(std::mem::take(&mut config.keys))?;
        for (key, name) in [
            ("header", &config.header),
            ("consumer_header", &config.consumer_header),
        ] {
            check_header(name, "")
                .map_err(|error| ConfigError::key(key, format!("`{name}`: {error}")))?;
        }
        if config.query.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::key("query", "is empty"));
        }
        if let Some(prefix) = &config.subprotocol {
            let bad = |_| {
                let message = format!("`{prefix}` cannot begin a subprotocol");
                ConfigError::key("subprotocol", message)
            };
            check_subprotocol(prefix).map_err(bad)?;
        }
        Ok(ApiKey { keys, config })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let Some(presented) = self.presented(req) else {
            return refused("missing", Reply::new(401))
                .header("www-authenticate", "Bearer realm=\"sluicegate\"")
                .body("an API key is required\n")
                .into();
        };
        let Some(consumer) = self.keys.consumer(&presented) else {
            return refused("unknown", Reply::new(403))
                .body("this API key is not valid\n")
                .into();
        };
        match self.pass_on(req, consumer) {
            Ok(()) => Verdict::Continue,
            // Better no request than one that carries the key on or names nobody.
            Err(error) => {
                sluicegate_plugin::warn!("the request cannot be rewritten: {error}");
                Reply::new(400).into()
            }
        }
    }
}

impl ApiKey {
    /// The first key found, in the order of the documentation.
    fn presented(&self, req: &Request) -> Option<String> {
        let Config {
            header,
            bearer,
            query,
            subprotocol,
            ..
        } = &self.config;
        req.header(header)
            .or_else(|| {
                bearer
                    .then(|| bearer_of(&req.header("authorization")?))
                    .flatten()
            })
            .or_else(|| req.query_param(query.as_ref()?))
            .or_else(|| {
                let prefix = subprotocol.as_ref()?;
                req.subprotocols()
                    .iter()
                    .find_map(|p| Some(p.strip_prefix(prefix)?.to_owned()))
            })
            .filter(|key| !key.is_empty())
    }

    /// Names the consumer to the upstream and takes the key out, wherever it was.
    fn pass_on(&self, req: &mut Request, consumer: &str) -> Result<(), EditError> {
        let Config {
            header,
            bearer,
            query,
            subprotocol,
            consumer_header,
            strip,
            ..
        } = &self.config;
        if *strip {
            req.remove_header(header)?;
            if *bearer
                && req
                    .header("authorization")
                    .is_some_and(|v| bearer_of(&v).is_some())
            {
                req.remove_header("authorization")?;
            }
            if let Some(name) = query {
                req.remove_query_param(name)?;
            }
            if let Some(prefix) = subprotocol {
                let mut offered = req.subprotocols();
                let before = offered.len();
                offered.retain(|one| !one.starts_with(prefix.as_str()));
                if offered.len() != before {
                    req.set_subprotocols(&offered)?;
                }
            }
        }
        req.set_label("sub", consumer)?;
        // Replaces whatever the client claims to be.
        req.set_header(consumer_header, consumer)
    }
}

export!(ApiKey);

/// Says why, never what was presented.
fn refused(why: &str, reply: Reply) -> Reply {
    log::event(Level::Warn, "key refused", &[("why", why)]);
    // The figure is a convenience: the verdict stands without it.
    metrics::count("refused", &[("why", why)], 1).ok();
    reply.header("content-type", "text/plain")
}

fn bearer_of(authorization: &str) -> Option<String> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}

fn default_header() -> String {
    "X-Api-Key".to_owned()
}

fn default_consumer_header() -> String {
    "X-Consumer".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin::testing;

    use super::*;

    fn config() -> Config {
        let keys = [("ci", "s3cret"), ("app", "0ther")];
        Config {
            keys: keys
                .map(|(name, key)| (name.to_owned(), Secret::from(key)))
                .into(),
            header: default_header(),
            bearer: true,
            query: Some("api_key".into()),
            subprotocol: Some("api-key.".into()),
            consumer_header: default_consumer_header(),
            strip: true,
        }
    }

    fn filter(config: Config) -> ApiKey {
        match ApiKey::configure(config) {
            Ok(filter) => filter,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_key_is_found_wherever_it_may_be() {
        #[track_caller]
        fn check(uri: &str, headers: &[(&str, &str)], expect: Result<&str, u16>) {
            let mut req = Request::builder().uri(uri);
            for (name, value) in headers {
                req = req.header(name, value);
            }
            let mut req = req.header("X-Consumer", "forged").build();
            let verdict = filter(config()).on_request(&mut req);
            match expect {
                Ok(consumer) => {
                    assert_eq!(verdict, Verdict::Continue);
                    assert_eq!(req.header_values("x-consumer"), [consumer.as_bytes()]);
                    assert_eq!(req.label("sub").as_deref(), Some(consumer));
                    let left = format!("{:?} {:?}", req.headers(), req.query());
                    assert!(
                        !left.contains("s3cret") && !left.contains("0ther"),
                        "{left}"
                    );
                }
                Err(status) => assert_eq!(verdict.status(), Some(status)),
            }
        }
        check("/", &[], Err(401));
        check("/", &[("x-api-key", "")], Err(401));
        check("/", &[("x-api-key", "s3cret")], Ok("ci"));
        check("/", &[("X-API-KEY", "0ther")], Ok("app"));
        check("/", &[("x-api-key", "S3cret")], Err(403));
        check("/", &[("x-api-key", "s3cret0")], Err(403));
        check("/", &[("authorization", "bearer s3cret")], Ok("ci"));
        check("/", &[("authorization", "Basic s3cret")], Err(401));
        check("/?api_key=s3cret", &[], Ok("ci"));
        check("/?a=1&api_key=s%33cret&b=2", &[], Ok("ci"));
        check("/?api_key=nope", &[], Err(403));
        check(
            "/",
            &[("sec-websocket-protocol", "chat, api-key.0ther")],
            Ok("app"),
        );
        check("/", &[("sec-websocket-protocol", "api-key.nope")], Err(403));
        check("/?api_key=0ther", &[("x-api-key", "wrong")], Err(403));
    }

    #[test]
    fn what_else_the_client_sent_stays() {
        let mut req = Request::builder()
            .uri("/ws?a=1&api_key=s3cret")
            .header("sec-websocket-protocol", "chat, api-key.s3cret, v2")
            .header("authorization", "Basic Zm9v")
            .build();
        assert_eq!(filter(config()).on_request(&mut req), Verdict::Continue);
        assert_eq!(req.query().as_deref(), Some("a=1"));
        assert_eq!(req.subprotocols(), ["chat", "v2"]);
        assert_eq!(req.header("authorization").as_deref(), Some("Basic Zm9v"));
    }

    #[test]
    fn strip_can_be_off() {
        let filter = filter(Config {
            strip: false,
            ..config()
        });
        let mut req = Request::builder().header("x-api-key", "s3cret").build();
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.header("x-api-key").as_deref(), Some("s3cret"));
    }

    #[test]
    fn refusals_are_told_without_the_key() {
        let filter = filter(config());
        filter.on_request(&mut Request::builder().build());
        for _ in 0..2 {
            let wrong = Request::builder().header("x-api-key", "wr0ng");
            filter.on_request(&mut wrong.build());
        }
        assert_eq!(testing::metric("refused", &[("why", "missing")]), 1.0);
        assert_eq!(testing::metric("refused", &[("why", "unknown")]), 2.0);
        let said = testing::logs();
        assert_eq!(said.len(), 3);
        assert!(!format!("{said:?}").contains("wr0ng"));
    }

    #[test]
    fn refusals_can_be_sent_and_challenge() {
        let Verdict::Respond(reply) = filter(config()).on_request(&mut Request::builder().build())
        else {
            panic!("it refuses")
        };
        assert_eq!(reply.check(), Ok(()));
        assert!(reply.get("www-authenticate").is_some());
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: Config, expect: &str) {
            assert_eq!(
                ApiKey::configure(config)
                    .map(|_| ())
                    .unwrap_err()
                    .to_string(),
                expect
            );
        }
        check(
            Config {
                keys: BTreeMap::new(),
                ..config()
            },
            "`keys`: names no consumer",
        );
        check(
            Config {
                header: "X Key".into(),
                ..config()
            },
            "`header`: `X Key`: not a field name",
        );
        check(
            Config {
                consumer_header: String::new(),
                ..config()
            },
            "`consumer_header`: ``: not a field name",
        );
        check(
            Config {
                query: Some(String::new()),
                ..config()
            },
            "`query`: is empty",
        );
        check(
            Config {
                subprotocol: Some("a,b".into()),
                ..config()
            },
            "`subprotocol`: `a,b` cannot begin a subprotocol",
        );
    }
}
