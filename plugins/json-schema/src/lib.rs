//! Lets only messages through that fit a JSON Schema.
//!
//! One schema for all, or one of several by what a message says of itself (`by = "/type"`). What is told of a
//! message that does not fit is the place and the schema's complaint, never what stands there.

#![forbid(unsafe_code)]

mod answer;
mod schema;
mod strict;

use std::collections::BTreeMap;

use serde_json::Value;
use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, MessageFilter, Opening, Reaction, Senders, Side, config,
    export, metrics,
};

use schema::{Misfit, Schema};

#[config]
#[derive(Debug)]
pub struct Config {
    /// The schema of every message: a table, or JSON text as in `"file:schema.json"`.
    schema: Option<Value>,
    /// A JSON pointer to what names a message's schema among `schemas`.
    by: Option<String>,
    /// Schemas by name.
    #[serde(default)]
    schemas: BTreeMap<String, Value>,
    /// What becomes of a message that names none of them.
    #[serde(default)]
    unknown: Choice,
    /// What becomes of binary messages.
    #[serde(default)]
    binary: Choice,
    /// Whose messages are checked.
    #[serde(default = "default_from")]
    from: Senders,
    /// What becomes of a message that does not fit.
    #[serde(default)]
    invalid: Invalid,
    /// Close code of `invalid = "close"`.
    #[serde(default = "default_code")]
    code: u16,
    /// Its reason, with `{pointer}` and `{why}`; it is cut to 123 bytes.
    #[serde(default = "default_reason")]
    reason: String,
    /// Answer of `invalid = "reply"`, with `{pointer}` and `{why}`, each escaped as in a JSON string.
    #[serde(default = "default_reply")]
    reply: String,
}

#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    /// As if it did not fit.
    #[default]
    Refuse,
    /// It goes on unchecked.
    Pass,
}

/// What becomes of a message that does not fit.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
enum Invalid {
    /// The tunnel is closed.
    #[default]
    Close,
    /// It goes nowhere.
    Drop,
    /// It goes nowhere, and its sender gets an answer.
    Reply,
    /// It is logged and counted, and goes on: for a trial.
    Report,
}

pub struct JsonSchema {
    schemas: Schemas,
    unknown: Choice,
    binary: Choice,
    from: Senders,
    invalid: Invalid,
    code: u16,
    reason: String,
    reply: String,
}

enum Schemas {
    One(Schema),
    Named {
        by: String,
        schemas: BTreeMap<String, Schema>,
    },
}

impl Filter for JsonSchema {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if !matches!(config.code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            let message = format!("`{}` cannot be sent", config.code);
            return Err(ConfigError::key("code", message));
        }
        let schemas = match (config.schema, config.by) {
            (Some(schema), None) if config.schemas.is_empty() => {
                Schemas::One(compiled(&["schema"], &schema)?)
            }
            (None, Some(by)) if !config.schemas.is_empty() => {
                if !by.starts_with('/') {
                    let message = format!("`{by}` is no JSON pointer: it begins with `/`");
                    return Err(ConfigError::key("by", message));
                }
                let named = config.schemas.into_iter().map(|(name, schema)| {
                    let schema = compiled(&["schemas", &name], &schema)?;
                    Ok((name, schema))
                });
                let schemas = named.collect::<Result<_, ConfigError>>()?;
                Schemas::Named { by, schemas }
            }
            _ => return Err("either `schema`, or `by` and `schemas`".into()),
        };
        Ok(JsonSchema {
            schemas,
            unknown: config.unknown,
            binary: config.binary,
            from: config.from,
            invalid: config.invalid,
            code: config.code,
            reason: config.reason,
            reply: config.reply,
        })
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for JsonSchema {
    type Session = ();

    fn interest(&self) -> Interest {
        let interest = match self.binary {
            Choice::Refuse => Interest::data(),
            Choice::Pass => Interest::text(),
        };
        interest.sent_by(self.from)
    }

    fn open(&self, _: &Opening) -> Option<()> {
        Some(())
    }

    fn on_text(&self, (): &mut (), sender: Side, text: &str) -> Reaction {
        match self.check(text) {
            Ok(()) => Reaction::forward(),
            Err(misfit) => self.refuse(sender, &misfit),
        }
    }

    fn on_binary(&self, (): &mut (), sender: Side, _: &[u8]) -> Reaction {
        match self.binary {
            Choice::Pass => Reaction::forward(),
            Choice::Refuse => self.refuse(sender, &whole("is binary")),
        }
    }
}

export!(JsonSchema: messages);

impl JsonSchema {
    fn check(&self, text: &str) -> Result<(), Misfit> {
        let value = strict::parse(text).map_err(whole)?;
        let (by, schemas) = match &self.schemas {
            Schemas::One(schema) => return schema.check(&value),
            Schemas::Named { by, schemas } => (by, schemas),
        };
        if strict::is_spelled_otherwise(&value, by) {
            return Err(Misfit {
                pointer: by.clone(),
                reason: "can be read in two ways".to_owned(),
            });
        }
        let schema = match value.pointer(by) {
            Some(Value::String(name)) => schemas.get(name),
            Some(Value::Number(number)) => schemas.get(&number.to_string()),
            _ => None,
        };
        match (schema, self.unknown) {
            (Some(schema), _) => schema.check(&value),
            (None, Choice::Pass) => Ok(()),
            (None, Choice::Refuse) => Err(Misfit {
                pointer: by.clone(),
                reason: "names no known schema".to_owned(),
            }),
        }
    }

    fn refuse(&self, sender: Side, misfit: &Misfit) -> Reaction {
        let Misfit { pointer, reason } = misfit;
        let from = match sender {
            Side::Client => "client",
            Side::Server => "server",
        };
        // The figure is a convenience: the verdict stands without it.
        metrics::count("invalid", &[("from", from)], 1).ok();
        let fields = [("from", from), ("pointer", pointer), ("why", reason)];
        log::event(Level::Info, "invalid message", &fields);
        let names = [("{pointer}", pointer.as_str()), ("{why}", reason.as_str())];
        match self.invalid {
            Invalid::Close => Reaction::close(self.code, answer::plain(&self.reason, &names)),
            Invalid::Drop => Reaction::drop(),
            Invalid::Reply => Reaction::reply(sender, answer::json(&self.reply, &names)),
            Invalid::Report => Reaction::forward(),
        }
    }
}

/// About a message as a whole.
fn whole(reason: &str) -> Misfit {
    Misfit {
        pointer: String::new(),
        reason: reason.to_owned(),
    }
}

/// A schema of the config, which may be a text.
fn compiled(place: &[&str], schema: &Value) -> Result<Schema, ConfigError> {
    let parsed;
    let schema = match schema {
        Value::String(text) => {
            parsed =
                strict::parse(text).map_err(|why| ConfigError::at(place.iter().copied(), why))?;
            &parsed
        }
        schema => schema,
    };
    Schema::new(schema).map_err(|(pointer, why)| {
        // Where the operator wrote it; of a text nothing but the whole is known there.
        ConfigError::at(place.iter().copied(), format!("at `{pointer}`: {why}"))
    })
}

fn default_from() -> Senders {
    Senders::Client
}

fn default_code() -> u16 {
    1008
}

fn default_reason() -> String {
    "invalid message".to_owned()
}

fn default_reply() -> String {
    r#"{"error":"invalid message","pointer":"{pointer}","why":"{why}"}"#.to_owned()
}

#[cfg(test)]
mod tests;
