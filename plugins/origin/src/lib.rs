//! Refuses handshakes that other people's web pages began (cross-site WebSocket hijacking).
//!
//! A browser opens a WebSocket to any site that a page names, and sends that site's cookies along; only
//! the `Origin` field (RFC 6454) tells whose page it was. The list is matched as a route's own `origins` is:
//! scheme, host and port, each compared exactly, a missing port being the scheme's own.

#![forbid(unsafe_code)]

mod pattern;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{ConfigError, Filter, Reply, Request, Verdict, config, export, metrics};

use pattern::Patterns;

#[config]
#[derive(Debug, Clone)]
pub struct Config {
    /// Origins that may come in: `https://app.example.com`, `https://*.example.com`,
    /// `http://localhost:3000`, or `null`.
    allow: Vec<String>,
    /// What becomes of a request without an `Origin`. Browsers send one with each handshake, other clients
    /// need not.
    #[serde(default)]
    missing: Choice,
    /// Which requests are checked.
    #[serde(default)]
    check: Check,
    /// Only log and count what would be refused.
    #[serde(default)]
    report_only: bool,
}

#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    Allow,
    #[default]
    Deny,
}

#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
enum Check {
    /// The opening handshakes of WebSockets.
    #[default]
    Handshakes,
    /// Ordinary requests too.
    All,
}

pub struct Origin {
    allowed: Patterns,
    missing: Choice,
    check: Check,
    report_only: bool,
}

impl Filter for Origin {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.allow.is_empty() {
            return Err(ConfigError::key("allow", "names no origin"));
        }
        let allowed = Patterns::new(&config.allow)
            .map_err(|(index, message)| ConfigError::at(["allow", &index.to_string()], message))?;
        Ok(Origin {
            allowed,
            missing: config.missing,
            check: config.check,
            report_only: config.report_only,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        if self.check == Check::Handshakes && !req.is_websocket() {
            return Verdict::Continue;
        }
        let origins = req.header_values("origin");
        let why = match origins.as_slice() {
            [] if self.missing == Choice::Allow => return Verdict::Continue,
            [] => "missing",
            [origin] if self.allowed.matches(origin) => return Verdict::Continue,
            [_] => "not-allowed",
            // Two of them are nobody's honest request, and who reads the other one?
            _ => "several",
        };
        self.refuse(why, origins.first().map_or(b"", Vec::as_slice))
    }
}

impl Origin {
    fn refuse(&self, why: &str, origin: &[u8]) -> Verdict {
        let message = match self.report_only {
            true => "origin would be refused",
            false => "origin refused",
        };
        let origin = String::from_utf8_lossy(origin);
        let fields = [("why", why), ("origin", &*origin)];
        let known = if origin.is_empty() { 1 } else { 2 };
        log::event(Level::Warn, message, &fields[..known]);
        // The figure is a convenience: the verdict stands without it.
        metrics::count("refused", &[("why", why)], 1).ok();
        if self.report_only {
            return Verdict::Continue;
        }
        Reply::new(403)
            .header("content-type", "text/plain")
            .body("this origin is not allowed\n")
            .into()
    }
}

export!(Origin);

#[cfg(test)]
mod tests {
    use sluicegate_plugin::testing;

    use super::*;

    fn config(allow: &[&str]) -> Config {
        Config {
            allow: allow.iter().map(|&origin| origin.to_owned()).collect(),
            missing: Choice::Deny,
            check: Check::Handshakes,
            report_only: false,
        }
    }

    fn filter(config: Config) -> Origin {
        match Origin::configure(config) {
            Ok(filter) => filter,
            Err(error) => panic!("{error}"),
        }
    }

    fn handshake(origins: &[&str]) -> Request {
        let plain = Request::builder().websocket();
        let with =
            |req: sluicegate_plugin::RequestBuilder, origin: &&str| req.header("Origin", origin);
        origins.iter().fold(plain, with).build()
    }

    const APP: &str = "https://app.example.com";

    #[test]
    fn only_pages_of_the_list_get_in() {
        #[track_caller]
        fn check(origins: &[&str], why: Option<&str>) {
            let before = why.map(|why| testing::metric("refused", &[("why", why)]));
            let verdict = filter(config(&[APP])).on_request(&mut handshake(origins));
            assert_eq!(verdict.status(), why.map(|_| 403), "{origins:?}");
            let after = why.map(|why| testing::metric("refused", &[("why", why)]) - 1.0);
            assert_eq!(before, after);
        }
        check(&[APP], None);
        check(&["https://evil.example"], Some("not-allowed"));
        check(&["null"], Some("not-allowed"));
        check(&[], Some("missing"));
        check(&[APP, APP], Some("several"));
        check(&[&format!("{APP}, {APP}")], Some("not-allowed"));
    }

    #[test]
    fn clients_that_are_no_browsers_come_in_by_choice() {
        let filter = filter(Config {
            missing: Choice::Allow,
            ..config(&[APP, "null"])
        });
        for (origins, status) in [
            (&[][..], None),
            (&["null"][..], None),
            (&[""][..], Some(403)),
            (&["https://evil.example"][..], Some(403)),
        ] {
            let verdict = filter.on_request(&mut handshake(origins));
            assert_eq!(verdict.status(), status, "{origins:?}");
        }
    }

    #[test]
    fn ordinary_requests_are_checked_by_choice() {
        let plain = || {
            Request::builder()
                .header("Origin", "https://evil.example")
                .build()
        };
        let handshakes = filter(config(&[APP]));
        assert_eq!(handshakes.on_request(&mut plain()), Verdict::Continue);
        let all = filter(Config {
            check: Check::All,
            ..config(&[APP])
        });
        assert_eq!(all.on_request(&mut plain()).status(), Some(403));
    }

    #[test]
    fn a_trial_only_tells() {
        let filter = filter(Config {
            report_only: true,
            ..config(&[APP])
        });
        let verdict = filter.on_request(&mut handshake(&["https://evil.example"]));
        assert_eq!(verdict, Verdict::Continue);
        let (level, message, fields) = testing::logs().remove(0);
        assert_eq!(
            (level, message.as_str()),
            (Level::Warn, "origin would be refused")
        );
        assert!(fields.contains(&("origin".into(), "https://evil.example".into())));
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(allow: &[&str], expect: &str) {
            let error = Origin::configure(config(allow)).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check(&[], "`allow`: names no origin");
        check(
            &[APP, "app.example.com"],
            "`allow.1`: `app.example.com`: it begins with a scheme, as in `https://app.example.com`",
        );
    }
}
