//! A plugin that builds much from its config and then does little with it: what images are for.

use std::collections::HashMap;

use regex::Regex;
use sluicegate_plugin::{ConfigError, Filter, Reply, Request, Verdict, config, export};

#[config]
pub struct Config {
    /// Who gets in by `x-api-key`.
    keys: Vec<String>,
    /// The first one is what a path must look like.
    #[serde(default)]
    patterns: Vec<String>,
}

pub struct Dear {
    /// Key to the name of its owner.
    owners: HashMap<String, String>,
    patterns: Vec<Regex>,
}

impl Filter for Dear {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        let owner = |(number, key): (usize, String)| (key, format!("owner-{number}"));
        let owners = config.keys.into_iter().enumerate().map(owner).collect();
        let pattern = |text: &String| Regex::new(text).map_err(|error| error.to_string());
        let patterns: Vec<_> = config
            .patterns
            .iter()
            .map(pattern)
            .collect::<Result<_, _>>()?;
        for pattern in &patterns {
            // What it makes when it is first used is then there.
            pattern.is_match("/");
        }
        sluicegate_plugin::info!("configured with {} patterns", patterns.len());
        Ok(Dear { owners, patterns })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let fits = self
            .patterns
            .first()
            .is_none_or(|pattern| pattern.is_match(&req.path()));
        let owner = req
            .header("x-api-key")
            .and_then(|key| self.owners.get(&key));
        match owner {
            Some(owner) if fits => match req.set_header("x-owner", owner) {
                Ok(()) => Verdict::Continue,
                Err(error) => Reply::new(500).body(error.to_string()).into(),
            },
            _ => Reply::new(403).into(),
        }
    }
}

export!(Dear);
