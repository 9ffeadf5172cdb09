//! A plugin's config against the JSON Schema that the plugin gives of it: before the plugin itself sees
//! it, and with the place of each mistake in the operator's file.
//!
//! The schema is the guest's word and trusted with nothing: it is bounded, its patterns run in linear
//! time, and it can refer to nothing outside of itself. No value is ever quoted, as any may be a secret.
//! What stands for a secret (`env:`, `file:`) is not judged here: `configure` sees the real one.

use std::collections::HashMap;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::config::model::{PluginConfig, Span};
use crate::config::{Diagnostic, did_you_mean};

/// A schema that configs can be checked against.
pub struct ConfigSchema {
    schema: Value,
    validator: Validator,
}

impl ConfigSchema {
    /// # Errors
    /// Why it is no schema that can be used.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SCHEMA {
            return Err(format!("it has more than {MAX_SCHEMA} bytes"));
        }
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut work = Work {
            root: &schema,
            known: HashMap::new(),
        };
        match work.of(&schema, 0) {
            Some(..=MAX_WORK) => {}
            Some(_) => return Err("to check a config against it would take too long".to_owned()),
            None => return Err("it is too deep, or refers to what is not in it".to_owned()),
        }
        let patterns = PatternOptions::regex()
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN);
        let validator = jsonschema::options()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| error.to_string())?;
        Ok(ConfigSchema { schema, validator })
    }

    /// Every mistake, each at its place.
    pub fn mistakes(&self, plugin: &str, config: &PluginConfig) -> Vec<Diagnostic> {
        let errors = self.validator.iter_errors(&config.json);
        errors
            .filter(|error| {
                // Whatever a secret is, it is a string.
                let of_type = matches!(error.kind(), ValidationErrorKind::Type { .. });
                of_type || !is_secret(config, error.instance_path().as_str())
            })
            .flat_map(|error| self.told(plugin, config, &error))
            .take(MAX_MISTAKES)
            .collect()
    }

    fn told(
        &self,
        plugin: &str,
        config: &PluginConfig,
        error: &ValidationError<'_>,
    ) -> Vec<Diagnostic> {
        let pointer = error.instance_path().as_str();
        let here = || place(config, pointer);
        let one = |message: String| vec![Diagnostic::error(here(), message)];
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let known = self.keys_beside(error);
                let unknown = unexpected.iter().map(|key| {
                    let message = format!("plugin `{plugin}` has no key `{}`", shown(key));
                    let names = known.iter().map(String::as_str);
                    let hint = did_you_mean(key, names).or_else(|| listed(&known));
                    Diagnostic::error(key_place(config, pointer, key), message).hint(hint)
                });
                unknown.collect()
            }
            ValidationErrorKind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let message = format!("plugin `{plugin}` needs the key `{}`", shown(key));
                let hint = self.description_beside(error, key);
                vec![Diagnostic::error(here(), message).hint(hint)]
            }
            ValidationErrorKind::Type { kind } => {
                let expected = match kind {
                    TypeKind::Single(one) => one.to_string(),
                    TypeKind::Multiple(set) => {
                        let types: Vec<String> = set.iter().map(|one| one.to_string()).collect();
                        types.join(" or ")
                    }
                };
                one(format!(
                    "plugin `{plugin}` expects a value of type {expected} here"
                ))
            }
            ValidationErrorKind::Enum { options } => {
                let options: Vec<String> = options
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|option| option.as_str().map(str::to_owned))
                    .collect();
                let given = config.json.pointer(pointer).and_then(Value::as_str);
                let names = options.iter().map(String::as_str);
                let hint = given
                    .and_then(|given| did_you_mean(given, names))
                    .or_else(|| listed(&options));
                let message = format!("plugin `{plugin}` does not know this value");
                vec![Diagnostic::error(here(), message).hint(hint)]
            }
            ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => one(
                format!("plugin `{plugin}` takes this in none of the forms that it knows"),
            ),
            _ => {
                let masked = error.masked_with("the value");
                one(format!("plugin `{plugin}`: {}", shown(&masked.to_string())))
            }
        }
    }

    /// The keys that the schema knows where this error is.
    fn keys_beside(&self, error: &ValidationError<'_>) -> Vec<String> {
        let properties = self.beside(error, "properties");
        let keys = properties.and_then(Value::as_object);
        keys.into_iter()
            .flat_map(|keys| keys.keys().map(|key| shown(key)))
            .collect()
    }

    fn description_beside(&self, error: &ValidationError<'_>, key: &str) -> Option<String> {
        let property = self.beside(error, "properties")?.get(key)?;
        let text = property.get("description")?.as_str()?;
        Some(shown(text.lines().next()?))
    }

    /// A keyword of the same part of the schema as the one that failed.
    fn beside(&self, error: &ValidationError<'_>, keyword: &str) -> Option<&Value> {
        // A path into what `$ref` names, where there is one on the way.
        let path = error.absolute_keyword_location().map_or_else(
            || error.schema_path().as_str().to_owned(),
            |location| location.fragment().map_or("", |it| it.as_str()).to_owned(),
        );
        let (parent, _) = path.rsplit_once('/')?;
        self.schema.pointer(parent)?.get(keyword)
    }
}

/// How many steps a schema takes for one value: what `$ref`s name counts wherever they stand, so that
/// a small text cannot ask for 2^50 of them.
struct Work<'s> {
    root: &'s Value,
    /// By the address of the part; `None` while it is being counted.
    known: HashMap<*const Value, Option<u64>>,
}

impl Work<'_> {
    /// `None`: too deep, or a `$ref` that names nothing here.
    fn of(&mut self, part: &Value, depth: u32) -> Option<u64> {
        if depth > MAX_DEPTH {
            return None;
        }
        if let Some(known) = self.known.get(&std::ptr::from_ref(part)) {
            // A circle goes on only as deep as the config does.
            return Some(known.unwrap_or(1));
        }
        self.known.insert(std::ptr::from_ref(part), None);
        let mut work: u64 = 1;
        match part {
            Value::Array(items) => {
                for item in items {
                    work = work.saturating_add(self.of(item, depth + 1)?);
                }
            }
            Value::Object(keys) => {
                for (key, value) in keys {
                    work = work.saturating_add(match (key.as_str(), value) {
                        ("$ref", Value::String(target)) => {
                            let target = target.strip_prefix('#')?;
                            self.of(self.root.pointer(target)?, depth + 1)?
                        }
                        // Other ways to name a part of it are not for a config's schema.
                        ("$dynamicRef" | "$recursiveRef", _) => return None,
                        _ => self.of(value, depth + 1)?,
                    });
                }
            }
            _ => {}
        }
        self.known.insert(std::ptr::from_ref(part), Some(work));
        Some(work)
    }
}

/// Where the value at a pointer stands, or the nearest around it that was written.
pub fn place(config: &PluginConfig, pointer: &str) -> Span {
    let mut pointer = pointer;
    loop {
        if let Some(place) = config.places.get(pointer) {
            return place.value.clone();
        }
        match pointer.rsplit_once('/') {
            Some((parent, _)) => pointer = parent,
            None => return config.span.clone(),
        }
    }
}

fn key_place(config: &PluginConfig, parent: &str, key: &str) -> Span {
    let key = key.replace('~', "~0").replace('/', "~1");
    let pointer = format!("{parent}/{key}");
    match config.places.get(&pointer) {
        Some(place) => place.key.clone(),
        None => place(config, parent),
    }
}

fn is_secret(config: &PluginConfig, pointer: &str) -> bool {
    config
        .secrets
        .iter()
        .any(|secret| secret.pointer == pointer)
}

fn listed(names: &[String]) -> Option<String> {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("it knows {}", names.join(", ")))
}

/// A guest's or the file's text as part of a message.
fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

/// Steps for one value.
const MAX_WORK: u64 = 1_000_000;
/// Parts in each other.
const MAX_DEPTH: u32 = 100;
/// A compiled pattern, bytes.
const MAX_PATTERN: usize = 256 << 10;
/// Bytes of a schema.
const MAX_SCHEMA: usize = 256 << 10;
/// Mistakes told of one config.
const MAX_MISTAKES: usize = 20;
const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_asks_for_too_much_is_refused() {
        #[track_caller]
        fn check(schema: &str, fits: bool) {
            let made = ConfigSchema::new(schema).map(drop);
            assert_eq!(made.is_ok(), fits, "{made:?}");
        }
        check(
            r#"{"type":"object","properties":{"a":{"type":"string"}}}"#,
            true,
        );
        let tree = r##"{"$defs":{"t":{"type":"object","properties":{"l":{"$ref":"#/$defs/t"},
            "r":{"$ref":"#/$defs/t"}}}},"$ref":"#/$defs/t"}"##;
        check(tree, true);
        // Each doubles the one before.
        let doubled = |n: u32| {
            let both = |n| format!(r##"{{"$ref":"#/$defs/a{n}"}},{{"$ref":"#/$defs/a{n}"}}"##);
            let parts = (1..=n).map(|n| format!(r#""a{n}":{{"allOf":[{}]}}"#, both(n - 1)));
            let parts: Vec<String> = parts.collect();
            let parts = parts.join(",");
            format!(r##"{{"$defs":{{"a0":{{"type":"object"}},{parts}}},"$ref":"#/$defs/a{n}"}}"##)
        };
        check(&doubled(3), true);
        check(&doubled(40), false);
        check(
            &format!(
                "{}{}",
                r#"{"not":"#.repeat(200),
                "{}".to_owned() + &"}".repeat(200)
            ),
            false,
        );
        check(r#"{"type":"string","pattern":"(\\w{99}){99}"}"#, false);
        check(r#"{"$ref":"https://example.com/schema"}"#, false);
        check("[", false);
    }
}
