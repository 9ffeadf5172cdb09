//! Lets clients in, or keeps them out, by the networks they come from.
//!
//! What `deny` names stays out, whatever `allow` says; with an `allow`, only what it names comes in. An
//! IPv4 address counts as one however it is written, `::ffff:192.0.2.1` too.

#![forbid(unsafe_code)]

mod network;
mod table;

use std::collections::BTreeMap;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, Filter, Reply, Request, Verdict, check_label, config, export, metrics,
};

use network::Network;
use table::Table;

#[config]
#[derive(Debug, Clone)]
pub struct Config {
    /// Networks that come in. Left out: all that `deny` does not name.
    allow: Option<List>,
    /// Networks that stay out, whatever `allow` says.
    deny: Option<List>,
    /// Session label that gets the name of the network by which a client came in.
    label: Option<String>,
}

/// Networks: `192.0.2.0/24`, `2001:db8::/32`, a single address. A text may hold many of them, between
/// blanks, commas or lines, as a file (`file:PATH`) does; `#` begins a comment.
#[config]
#[derive(Debug, Clone)]
#[serde(untagged)]
enum List {
    /// Each network is its own name.
    Plain(Vec<String>),
    /// Name to networks.
    Named(BTreeMap<String, Vec<String>>),
}

pub struct IpAllow {
    /// None: everybody who is not denied.
    allow: Option<Named>,
    deny: Option<Named>,
    label: Option<String>,
}

/// Networks and what they are called.
struct Named {
    table: Table,
    names: Names,
}

enum Names {
    Own(Vec<Network>),
    Given(Vec<String>),
}

impl Filter for IpAllow {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.allow.is_none() && config.deny.is_none() {
            return Err("neither `allow` nor `deny` is there".into());
        }
        let allow = config.allow.map(|list| Named::new("allow", list));
        let allow = allow.transpose()?;
        // An empty file would let nobody in; more likely it was cut off on its way.
        if allow.as_ref().is_some_and(|named| named.table.is_empty()) {
            return Err(ConfigError::key("allow", "names no network"));
        }
        let deny = config.deny.map(|list| Named::new("deny", list));
        if let Some(label) = &config.label {
            let bad = |_| ConfigError::key("label", format!("`{label}` is no label's name"));
            check_label(label).map_err(bad)?;
        }
        Ok(IpAllow {
            allow,
            deny: deny.transpose()?,
            label: config.label,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let client = req.client_ip().to_canonical();
        let network = |list: &Named| Some(list.name(list.table.find(client)?));
        if let Some(network) = self.deny.as_ref().and_then(network) {
            return refuse(&client.to_string(), "denied", &network);
        }
        let Some(allow) = &self.allow else {
            return Verdict::Continue;
        };
        let Some(network) = network(allow) else {
            return refuse(&client.to_string(), "unknown", "");
        };
        let Some(label) = &self.label else {
            return Verdict::Continue;
        };
        match req.set_label(label, &network) {
            Ok(()) => Verdict::Continue,
            // Whoever is behind this may decide by the label: no request rather than one without it.
            Err(error) => {
                sluicegate_plugin::error!("label `{label}`: {error}");
                Reply::new(500).into()
            }
        }
    }
}

export!(IpAllow);

impl Named {
    fn new(key: &str, list: List) -> Result<Self, ConfigError> {
        let mut networks = Vec::new();
        let names = match list {
            List::Plain(texts) => {
                for (index, text) in texts.iter().enumerate() {
                    let all = Network::all_of(text);
                    let at = |why| ConfigError::at([key, &index.to_string()], why);
                    networks.extend(all.map_err(at)?);
                }
                Names::Own(networks.clone())
            }
            List::Named(named) => return Self::given(key, named),
        };
        let numbered = (0..).zip(networks).map(|(name, network)| (network, name));
        Ok(Named {
            table: Table::new(numbered),
            names,
        })
    }

    fn given(key: &str, named: BTreeMap<String, Vec<String>>) -> Result<Self, ConfigError> {
        let (mut networks, mut names) = (Vec::new(), Vec::new());
        for (number, (name, texts)) in (0..).zip(named) {
            if !(1..=MAX_NAME).contains(&name.len()) || name.contains(char::is_control) {
                return Err(ConfigError::key(key, format!("`{name}` is no name")));
            }
            for (index, text) in texts.iter().enumerate() {
                let all = Network::all_of(text);
                let at = |why| ConfigError::at([key, &name, &index.to_string()], why);
                networks.extend(all.map_err(at)?.into_iter().map(|one| (one, number)));
            }
            names.push(name);
        }
        Ok(Named {
            table: Table::new(networks),
            names: Names::Given(names),
        })
    }

    fn name(&self, number: u32) -> String {
        let index = number as usize;
        match &self.names {
            Names::Own(networks) => networks.get(index).map(ToString::to_string),
            Names::Given(names) => names.get(index).cloned(),
        }
        .unwrap_or_default()
    }
}

fn refuse(client: &str, why: &str, network: &str) -> Verdict {
    let fields = [("why", why), ("client", client), ("network", network)];
    // Only a network that is known can be said.
    let known = if network.is_empty() { 2 } else { 3 };
    log::event(Level::Warn, "client refused", &fields[..known]);
    // The figure is a convenience: the verdict stands without it.
    metrics::count("refused", &[("why", why)], 1).ok();
    Reply::new(403)
        .header("content-type", "text/plain")
        .body("your address is not allowed\n")
        .into()
}

/// Of a network's name: it becomes a label's value.
const MAX_NAME: usize = 256;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use sluicegate_plugin::testing;

    use super::*;

    fn filter(config: &str) -> IpAllow {
        match testing::configure(config) {
            Ok(filter) => filter,
            Err(error) => panic!("{error}"),
        }
    }

    fn from(client: &str) -> Request {
        let ip: IpAddr = client.parse().unwrap();
        Request::builder().client_ip(ip).build()
    }

    #[test]
    fn clients_come_in_by_their_network() {
        #[track_caller]
        fn check(config: &str, client: &str, expect: Option<u16>) {
            let verdict = filter(config).on_request(&mut from(client));
            assert_eq!(verdict.status(), expect, "{client}");
        }
        let allow = r#"{"allow":["10.0.0.0/8","2001:db8::/32"]}"#;
        check(allow, "10.1.2.3", None);
        check(allow, "::ffff:10.1.2.3", None);
        check(allow, "11.0.0.0", Some(403));
        check(allow, "2001:db8:1::1", None);
        check(allow, "2001:db9::1", Some(403));
        let deny = r#"{"deny":["10.0.0.0/8"]}"#;
        check(deny, "10.1.2.3", Some(403));
        check(deny, "::ffff:10.1.2.3", Some(403));
        check(deny, "11.0.0.0", None);
        let both = r#"{"allow":["10.1.0.0/16"],"deny":["10.0.0.0/8"]}"#;
        check(both, "10.1.2.3", Some(403));
        let mapped = r#"{"allow":["::ffff:10.0.0.0/104"]}"#;
        check(mapped, "10.1.2.3", None);
        check(mapped, "11.1.2.3", Some(403));
        check(r#"{"allow":["::/0"]}"#, "10.1.2.3", Some(403));
        check(r#"{"allow":["0.0.0.0/0"]}"#, "2001:db8::1", Some(403));
        check(r#"{"deny":["\n# none today\n"]}"#, "10.1.2.3", None);
    }

    #[test]
    fn the_network_is_noted_where_asked_for() {
        #[track_caller]
        fn check(config: &str, client: &str, expect: &str) {
            let mut req = from(client);
            assert_eq!(filter(config).on_request(&mut req), Verdict::Continue);
            assert_eq!(req.label("network").as_deref(), Some(expect));
        }
        let plain = r#"{"label":"network","allow":["10.0.0.0/8, 10.1.0.0/16","::1"]}"#;
        check(plain, "10.2.0.0", "10.0.0.0/8");
        check(plain, "10.1.0.0", "10.1.0.0/16");
        check(plain, "::1", "::1");
        let named =
            r#"{"label":"network","allow":{"office":["192.0.2.0/24"],"vpn":["10.0.0.0/8","::1"]}}"#;
        check(named, "192.0.2.9", "office");
        check(named, "::1", "vpn");
    }

    #[test]
    fn a_label_that_cannot_be_set_lets_nobody_in() {
        let mut req = Request::builder();
        for n in 0..32 {
            req = req.label(&format!("l{n}"), "");
        }
        let filter = filter(r#"{"label":"network","allow":["0.0.0.0/0"]}"#);
        assert_eq!(filter.on_request(&mut req.build()).status(), Some(500));
    }

    #[test]
    fn refusals_are_told() {
        let filter = filter(r#"{"allow":["10.0.0.0/8"],"deny":{"old-vpn":["10.9.0.0/16"]}}"#);
        filter.on_request(&mut from("10.9.1.1"));
        filter.on_request(&mut from("192.0.2.1"));
        assert_eq!(testing::metric("refused", &[("why", "denied")]), 1.0);
        assert_eq!(testing::metric("refused", &[("why", "unknown")]), 1.0);
        let said = testing::logs();
        let network = ("network".to_owned(), "old-vpn".to_owned());
        assert!(said[0].2.contains(&network) && said[1].2.len() == 2);
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: &str, expect: &str) {
            let error = testing::configure::<IpAllow>(config)
                .map(|_| ())
                .unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check("{}", "neither `allow` nor `deny` is there");
        check(r#"{"allow":[]}"#, "`allow`: names no network");
        check(r#"{"allow":[" # empty"]}"#, "`allow`: names no network");
        check(
            r#"{"deny":["::1","10.0.0.1/8"]}"#,
            "`deny.1`: `10.0.0.1/8` has bits outside the network: `10.0.0.0/8`",
        );
        check(
            r#"{"allow":{"vpn":["10.0.0.0/8\nfoo"]}}"#,
            "`allow.vpn.0`: `foo` is not a network, as `10.0.0.0/8`, `fd00::/8` or `192.0.2.7` are",
        );
        check(r#"{"allow":{"":["::1"]}}"#, "`allow`: `` is no name");
        check(
            r#"{"allow":["::1"],"label":"Net"}"#,
            "`label`: `Net` is no label's name",
        );
    }
}
