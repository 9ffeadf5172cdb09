//! Sends some of the requests to another upstream: by a header, a cookie, a label, or a share of all clients.
//!
//! Rules are asked in order, and the first that takes a request decides. Who is in a share is no matter of
//! chance: it is read off a hash of what identifies the client, so a client stays where it is, in every
//! worker and every proxy with the same salt, and those in a share of 5 % are still in it at 10 %.

#![forbid(unsafe_code)]

mod share;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use sluicegate_plugin::{
    ConfigError, EditError, Filter, Reply, Request, Verdict, check_header, check_label,
    check_subprotocol, config, export, metrics,
};

use share::{Place, Share, Weights};

#[config]
#[derive(Debug, Clone)]
pub struct Config {
    /// Asked in order; a request that none takes stays with the route's upstream.
    rules: Vec<RuleConfig>,
    /// Changes who is in which share; the same in all proxies that should agree.
    #[serde(default)]
    salt: String,
    /// Session label that gets the name of the chosen upstream, for later filters and the access log.
    label: Option<String>,
}

#[config]
#[derive(Debug, Clone)]
struct RuleConfig {
    /// What a request must have for this rule; left out: any request will do.
    when: Option<Source>,
    /// The value it must have; left out: any.
    is: Option<String>,
    /// How many of a hundred clients it takes.
    #[serde(default = "all")]
    percent: f64,
    /// What tells clients apart. Without it in a request: the client's address.
    #[serde(default)]
    by: Source,
    /// The upstream, or several with their weights. Left out: the request stays with the route's.
    to: Option<Target>,
}

/// Where to look in a request.
#[config]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Source {
    /// The client's address; of an IPv6 one the first 64 bits.
    #[default]
    ClientIp,
    /// The first value of this header.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// What an earlier filter noted under this label.
    Label(String),
}

#[config]
#[derive(Debug, Clone)]
#[serde(untagged)]
enum Target {
    One(String),
    Weighted(BTreeMap<String, u32>),
}

pub struct Canary {
    rules: Vec<Rule>,
    salt: String,
    label: Option<String>,
}

struct Rule {
    when: Option<Source>,
    is: Option<String>,
    share: Share,
    by: Source,
    /// None: the request stays with the route's upstream.
    to: Option<Weights>,
}

impl Filter for Canary {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.rules.is_empty() {
            return Err(ConfigError::key("rules", "holds no rule"));
        }
        if let Some(label) = &config.label {
            let bad = |_| ConfigError::key("label", format!("`{label}` is no label's name"));
            check_label(label).map_err(bad)?;
        }
        let rules = config.rules.into_iter().enumerate();
        let rules = rules.map(|(index, rule)| {
            let at = |(key, message): (&str, String)| {
                ConfigError::at(["rules", &index.to_string(), key], message)
            };
            Rule::new(rule).map_err(at)
        });
        Ok(Canary {
            rules: rules.collect::<Result<_, _>>()?,
            salt: config.salt,
            label: config.label,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let chosen = self
            .rules
            .iter()
            .find_map(|rule| rule.choose(req, &self.salt));
        let Some(Some(upstream)) = chosen else {
            return Verdict::Continue;
        };
        if let Err(error) = req.set_upstream(upstream) {
            // The route's own upstream is the safe choice for a request, as for all the others.
            sluicegate_plugin::error!("upstream `{upstream}`: {error}");
            metrics::count("failed", &[("upstream", upstream)], 1).ok();
            return Verdict::Continue;
        }
        metrics::count("chosen", &[("upstream", upstream)], 1).ok();
        let Some(label) = &self.label else {
            return Verdict::Continue;
        };
        match req.set_label(label, upstream) {
            Ok(()) => Verdict::Continue,
            // Whoever is behind this may decide by the label: no request rather than one without it.
            Err(error) => {
                sluicegate_plugin::error!("label `{label}`: {error}");
                Reply::new(500).into()
            }
        }
    }
}

export!(Canary);

impl Rule {
    /// The error is the key, and what is wrong with it.
    fn new(config: RuleConfig) -> Result<Self, (&'static str, String)> {
        if config.is.is_some() && config.when.is_none() {
            return Err(("is", "there is no `when` to compare".to_owned()));
        }
        if let Some(when) = &config.when {
            when.check().map_err(|why| ("when", why))?;
        }
        config.by.check().map_err(|why| ("by", why))?;
        let share = Share::percent(config.percent).ok_or_else(|| {
            (
                "percent",
                format!("`{}` is not between 0 and 100", config.percent),
            )
        })?;
        let to = config.to.map(|to| match to {
            Target::One(name) => Weights::new([(name, 1)]),
            Target::Weighted(weights) => Weights::new(weights),
        });
        Ok(Rule {
            when: config.when,
            is: config.is,
            share,
            by: config.by,
            to: to.transpose().map_err(|why| ("to", why))?,
        })
    }

    /// None: the rule does not take this request. `Some(None)`: it stays where it is.
    fn choose(&self, req: &Request, salt: &str) -> Option<Option<&str>> {
        if let Some(when) = &self.when {
            let value = when.of(req)?;
            if self.is.as_ref().is_some_and(|wanted| *wanted != value) {
                return None;
            }
        }
        let names = self.to.as_ref().map_or("", Weights::names);
        // Where all places lead to the same, none need be computed.
        let same = self.share.is_all() && self.to.as_ref().is_none_or(Weights::is_one);
        let place = match same {
            true => Place::default(),
            false => Place::of(salt, names, &self.client(req)),
        };
        let taken = self.share.takes(place);
        taken.then(|| self.to.as_ref().map(|to| to.choose(place)))
    }

    /// What stays the same for a client.
    fn client(&self, req: &Request) -> String {
        let known = self.by.of(req);
        known.unwrap_or_else(|| network_of(req.client_ip()))
    }
}

impl Source {
    fn of(&self, req: &Request) -> Option<String> {
        match self {
            Source::ClientIp => Some(network_of(req.client_ip())),
            Source::Header(name) => req.header(name),
            Source::Cookie(name) => req.cookie(name),
            Source::Label(name) => req.label(name),
        }
    }

    /// Finds at load what no request could have.
    fn check(&self) -> Result<(), String> {
        let (good, name) = match self {
            Source::ClientIp => return Ok(()),
            // Also of fields that only the proxy may write: here they are read.
            Source::Header(name) => (check_header(name, "") != Err(EditError::InvalidName), name),
            Source::Cookie(name) => (check_subprotocol(name).is_ok(), name),
            Source::Label(name) => (check_label(name).is_ok(), name),
        };
        good.then_some(())
            .ok_or_else(|| format!("`{name}` cannot be in a request"))
    }
}

/// A client as a network sees it: most hosts take a new IPv6 address of their 64-bit network every day
/// (RFC 8981).
fn network_of(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).to_string(),
    }
}

fn all() -> f64 {
    100.0
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin::{RequestBuilder, testing};

    use super::*;

    fn filter(config: &str) -> Canary {
        match testing::configure(config) {
            Ok(filter) => filter,
            Err(error) => panic!("{error}"),
        }
    }

    fn client(ip: &str) -> RequestBuilder {
        let ip: IpAddr = ip.parse().unwrap();
        Request::builder()
            .client_ip(ip)
            .upstreams(&["blue", "green"])
    }

    fn chosen(filter: &Canary, req: RequestBuilder) -> Option<String> {
        let mut req = req.build();
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        req.upstream().map(str::to_owned)
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let filter = filter(
            r#"{"rules":[
                {"when":{"header":"X-Stay"}},
                {"when":{"cookie":"canary"},"is":"always","to":"blue"},
                {"when":{"label":"tier"},"is":"beta","to":"green"},
                {"when":"client-ip","is":"192.0.2.9","to":"blue"},
                {"when":{"header":"X-Canary"},"to":"green"}
            ]}"#,
        );
        let check = |req: RequestBuilder, expect: Option<&str>| {
            assert_eq!(chosen(&filter, req).as_deref(), expect);
        };
        let one = || client("192.0.2.1");
        check(one(), None);
        check(one().header("Cookie", "a=1; canary=always"), Some("blue"));
        check(one().header("Cookie", "canary=never"), None);
        check(one().label("tier", "beta"), Some("green"));
        check(one().header("X-Canary", ""), Some("green"));
        check(one().header("X-Canary", "1").header("X-Stay", "1"), None);
        check(client("192.0.2.9").header("X-Canary", "1"), Some("blue"));
    }

    #[test]
    fn a_client_stays_where_it_is_and_shares_only_grow() {
        let with = |percent: &str, by: &str| {
            filter(&format!(
                r#"{{"rules":[{{"percent":{percent},"by":{by},"to":"blue"}}]}}"#
            ))
        };
        let in_share = |filter: &Canary| -> Vec<u32> {
            let taken = |n: &u32| {
                let user = client("192.0.2.1").header("X-User", n.to_string());
                chosen(filter, user).is_some()
            };
            (0..1000).filter(taken).collect()
        };
        let user = r#"{"header":"X-User"}"#;
        let five = in_share(&with("5", user));
        assert!((25..=80).contains(&five.len()), "{}", five.len());
        assert_eq!(five, in_share(&with("5", user)));
        let twenty = in_share(&with("20", user));
        assert!((150..=250).contains(&twenty.len()), "{}", twenty.len());
        assert!(five.iter().all(|user| twenty.contains(user)));
        assert_eq!(in_share(&with("0", user)).len(), 0);
        assert_eq!(in_share(&with("100", user)).len(), 1000);
        // The same address each time: one and the same client.
        assert!([0, 1000].contains(&in_share(&with("50", r#""client-ip""#)).len()));
        assert!([0, 1000].contains(&in_share(&with("50", r#"{"cookie":"uid"}"#)).len()));
    }

    #[test]
    fn a_client_is_its_network_and_another_salt_shuffles() {
        let with = |salt: &str| {
            filter(&format!(
                r#"{{"salt":"{salt}","rules":[{{"percent":50,"to":"blue"}}]}}"#
            ))
        };
        let where_are = |filter: &Canary, host: &str| -> Vec<bool> {
            let one =
                |n: u32| chosen(filter, client(&format!("2001:db8:0:{n:x}::{host}"))).is_some();
            (0..64).map(one).collect()
        };
        let (a, b) = (with("a"), with("b"));
        assert_eq!(where_are(&a, "1"), where_are(&a, "2"));
        assert_ne!(where_are(&a, "1"), where_are(&b, "1"));
        let mapped = |ip: &str| chosen(&a, client(ip));
        assert_eq!(mapped("::ffff:192.0.2.1"), mapped("192.0.2.1"));
    }

    #[test]
    fn weights_divide_all_who_fit() {
        let filter = filter(r#"{"label":"variant","rules":[{"to":{"blue":1,"green":3}}]}"#);
        let mut blue = 0;
        for n in 0..1000_u32 {
            let mut req = client(&IpAddr::from(n.to_be_bytes()).to_string()).build();
            assert_eq!(filter.on_request(&mut req), Verdict::Continue);
            assert_eq!(req.label("variant").as_deref(), req.upstream());
            blue += u32::from(req.upstream() == Some("blue"));
        }
        assert!((200..=300).contains(&blue), "{blue}");
        let counted = testing::metric("chosen", &[("upstream", "blue")]);
        assert_eq!(counted, f64::from(blue));
    }

    #[test]
    fn what_is_not_allowed_stays_and_is_told() {
        let filter = filter(r#"{"rules":[{"to":"red"}]}"#);
        assert_eq!(chosen(&filter, client("192.0.2.1")), None);
        assert_eq!(testing::metric("failed", &[("upstream", "red")]), 1.0);
        assert_eq!(
            testing::logs()[0].1,
            "upstream `red`: not allowed to this plugin"
        );
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: &str, expect: &str) {
            let made = testing::configure::<Canary>(config).map(|_| ());
            assert_eq!(made.unwrap_err().to_string(), expect);
        }
        check(r#"{"rules":[]}"#, "`rules`: holds no rule");
        check(
            r#"{"rules":[{"to":"a"},{"is":"x","to":"a"}]}"#,
            "`rules.1.is`: there is no `when` to compare",
        );
        for percent in ["-1", "100.1", "1e999"] {
            let config = format!(r#"{{"rules":[{{"percent":{percent},"to":"a"}}]}}"#);
            assert!(testing::configure::<Canary>(config).is_err(), "{percent}");
        }
        check(
            r#"{"rules":[{"percent":101,"to":"a"}]}"#,
            "`rules.0.percent`: `101` is not between 0 and 100",
        );
        check(
            r#"{"rules":[{"to":""}]}"#,
            "`rules.0.to`: names no upstream",
        );
        check(
            r#"{"rules":[{"to":{}}]}"#,
            "`rules.0.to`: names no upstream",
        );
        check(
            r#"{"rules":[{"to":{"a":0}}]}"#,
            "`rules.0.to`: no upstream has a weight",
        );
        check(
            r#"{"rules":[{"when":{"header":"a b"},"to":"a"}]}"#,
            "`rules.0.when`: `a b` cannot be in a request",
        );
        check(
            r#"{"rules":[{"by":{"label":"Sub"},"to":"a"}]}"#,
            "`rules.0.by`: `Sub` cannot be in a request",
        );
        check(
            r#"{"rules":[{"to":"a"}],"label":"A"}"#,
            "`label`: `A` is no label's name",
        );
        assert!(testing::configure::<Canary>(r#"{"rules":[{"when":{"header":"Host"}}]}"#).is_ok());
    }
}
