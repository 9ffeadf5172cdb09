//! One configuration for all targets, and what the proxy decides about a request under it: the stages of
//! `flow::answer` without their IO.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use http::StatusCode;
use http::request::Parts;

use super::target;
use crate::config::model::Config;
use crate::config::{self, Source};
use crate::facts::{ConnectionFacts, Peer, RequestFacts};
use crate::handshake::{self, Kind};
use crate::http1::HeadLimits;
use crate::request::{self, Rejection};
use crate::route::{Match, Table};

pub static SITE: LazyLock<Site> = LazyLock::new(Site::new);

pub struct Site {
    pub config: Config,
    pub table: Table,
}

/// What is known of a request that goes to an upstream.
#[derive(Debug)]
pub struct Decision {
    pub facts: RequestFacts,
    pub kind: Kind,
}

/// Who sends a request, from where the proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Stranger,
    /// A proxy whose forwarding fields count.
    Trusted,
    /// Another, behind this one.
    NextHop,
}

impl From {
    pub fn ip(self) -> IpAddr {
        let octets = match self {
            From::Stranger => [203, 0, 113, 9],
            From::Trusted => [10, 0, 0, 1],
            From::NextHop => [10, 0, 0, 2],
        };
        octets.into()
    }

    pub fn facts(self) -> ConnectionFacts {
        ConnectionFacts {
            peer: Peer::Ip((self.ip(), 4711).into()),
            listener: ":80".into(),
            tls: None,
        }
    }
}

impl Site {
    fn new() -> Site {
        let source = Arc::new(Source {
            name: "site.toml".to_owned(),
            text: TEXT.to_owned(),
            dir: PathBuf::new(),
        });
        let (config, _) = config::parse(&source).unwrap_or_else(|report| panic!("{report}"));
        let table = Table::new(&config.routes);
        Site { config, table }
    }

    /// Judges a request, whose head then has the form that goes upstream.
    pub fn decide(
        &self,
        parts: &mut Parts,
        conn: &ConnectionFacts,
        body_is_empty: bool,
    ) -> Result<Decision, Rejection> {
        let config = &self.config;
        let facts = request::admit(parts, conn, &config.trusted_proxies, &config.limits)?;
        handshake::as_upgrade(parts)?;
        let found = self
            .table
            .find(&facts.host, facts.place(), &parts.method, &parts.headers);
        let route = match found {
            Match::Route(index) => &config.routes[index],
            Match::NotFound => return Err(Rejection::new(StatusCode::NOT_FOUND, "no_route")),
            Match::MethodNotAllowed { .. } => {
                return Err(Rejection::new(StatusCode::METHOD_NOT_ALLOWED, "method"));
            }
        };
        // No spelling of a denied path leads anywhere else.
        let denied = route.name.starts_with("admin");
        let is_denied = target::is_denied(&facts.path);
        assert_eq!(denied, is_denied, "{} goes to {}", facts.path, route.name);
        if denied {
            return Err(DENIED);
        }
        let kind = handshake::classify(parts, body_is_empty)?;
        if matches!(kind, Kind::WebSocket(_))
            && !handshake::origin_allowed(&parts.headers, &route.origins)
        {
            return Err(Rejection::new(StatusCode::FORBIDDEN, "origin"));
        }
        Ok(Decision { facts, kind })
    }
}

/// What is said about `/admin/`, in all spellings.
pub const DENIED: Rejection = Rejection::new(StatusCode::FORBIDDEN, "denied");

/// Of a head in HTTP/1.1. Small, so that limits are met as well.
pub const HEAD: HeadLimits = HeadLimits {
    size: 1024,
    fields: 16,
};

const TEXT: &str = r#"
trusted_proxies = ["10.0.0.0/8"]

[[listener]]
bind = ":80"

[limits]
head_size = "1KiB"
head_fields = 40

[[route]]
name = "admin"
path = "/admin/"
respond = { status = 403 }

[[route]]
name = "admin of a.test"
host = "a.test"
path = "/admin/"
respond = { status = 403 }

[[route]]
name = "site"
host = "a.test"
to = "127.0.0.1:1"

[[route]]
name = "sockets"
path = "/ws"
origins = ["https://a.test", "https://*.a.test", "https://b.test:8443", "null"]
to = "127.0.0.1:1"

[[route]]
name = "gets"
path_regex = "^/get/[a-z]+$"
methods = ["GET"]
match_headers = { x-kind = "~^[ab]" }
to = "127.0.0.1:1"

[[route]]
name = "rest"
to = "127.0.0.1:1"
"#;
