//! A plugin's config against the JSON Schema that the plugin gives of it: before the plugin itself sees
//! it, and with the place of each mistake in the operator's file.
//!
//! The schema is the guest's word and trusted with nothing: it is bounded, its patterns run in linear
//! time, and it can refer to nothing outside of itself. No value is ever quoted, as any may be a secret.
//! What stands for a secret (`env:`, `file:`) is not judged here: `configure` sees the real one.

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
        let validator = jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| error.to_string())?;
        Ok(ConfigSchema { schema, validator })
    }

    /// Every mistake, each at its place.
    pub fn mistakes(&self, plugin: &str, config: &PluginConfig) -> Vec<Diagnostic> {
        let errors = self.validator.iter_errors(&config.json);
        errors
            .filter(|error| !is_secret(config, error.instance_path().as_str()))
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

/// Bytes of a schema.
const MAX_SCHEMA: usize = 256 << 10;
/// Mistakes told of one config.
const MAX_MISTAKES: usize = 20;
const MAX_SHOWN: usize = 200;
