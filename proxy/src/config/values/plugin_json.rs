//! A plugin's own config: any table that JSON can say, with places for secrets.
//!
//! A string that begins with `env:` or `file:` stands for a secret. Only its place and source are
//! noted here; the secret itself is read when the plugin is configured.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};
use toml::de::{DeInteger, DeTable, DeValue};

use crate::config::diagnostic::Diagnostic;
use crate::config::model::{Place, SecretSource, Span};
use crate::config::reader::{Node, Read, Reader, inline_schema};

/// The config of a plugin, in one of the places where it can be written.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct PluginJson {
    pub(in crate::config) json: Map<String, Value>,
    pub(in crate::config) secrets: Vec<Secret>,
    /// Where each key and item stands in the file, by its JSON pointer.
    pub(in crate::config) places: BTreeMap<String, Place>,
}

/// A secret in a [`PluginJson`].
#[derive(Debug, Clone)]
pub(in crate::config) struct Secret {
    /// The key of the config that holds it, at any depth.
    pub(in crate::config) top_key: String,
    /// RFC 6901.
    pub(in crate::config) pointer: String,
    /// A relative path is as the user wrote it.
    pub(in crate::config) source: SecretSource,
    pub(in crate::config) span: Span,
}

impl Read for PluginJson {
    type Out = Self;
    const EXPECTED: &'static str = "a table";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let table = node.get_ref().as_table()?;
        let mut walk = Walk {
            reader,
            secrets: Vec::new(),
            places: BTreeMap::new(),
            path: Vec::new(),
            sound: true,
        };
        let json = walk.object(table);
        let Walk {
            secrets,
            places,
            sound,
            ..
        } = walk;
        sound.then_some(PluginJson {
            json,
            secrets,
            places,
        })
    }
}

inline_schema!([] PluginJson, |_generator| json_schema!({ "type": "object" }));

struct Walk<'w, 's> {
    reader: &'w mut Reader<'s>,
    secrets: Vec<Secret>,
    places: BTreeMap<String, Place>,
    path: Vec<String>,
    /// Nothing was reported yet.
    sound: bool,
}

impl Walk<'_, '_> {
    // The recursion ends: the TOML parser refuses documents nested more than 80 deep.
    fn value(&mut self, node: &Node<'_>) -> Value {
        match node.get_ref() {
            DeValue::String(text) => {
                self.note_secret(text, node.span());
                Value::from(text.as_ref())
            }
            DeValue::Boolean(value) => Value::from(*value),
            DeValue::Integer(integer) => match integer_value(integer) {
                Some(value) => value,
                None => self.refuse(node, format!("`{integer}` is too large"), "64 bits at most"),
            },
            DeValue::Float(float) => {
                match float
                    .as_str()
                    .parse()
                    .ok()
                    .and_then(serde_json::Number::from_f64)
                {
                    Some(number) => Value::Number(number),
                    None => {
                        let message = format!("`{float}` cannot be given to a plugin");
                        self.refuse(node, message, "configs are JSON, whose numbers are finite")
                    }
                }
            }
            DeValue::Datetime(date) => {
                let message = "a date cannot be given to a plugin".to_owned();
                self.refuse(
                    node,
                    message,
                    &format!("write it as a string: `\"{date}\"`"),
                )
            }
            DeValue::Array(nodes) => {
                let items = nodes.iter().enumerate();
                Value::Array(
                    items
                        .map(|(at, node)| self.child(at.to_string(), node.span(), node))
                        .collect(),
                )
            }
            DeValue::Table(table) => Value::Object(self.object(table)),
        }
    }

    fn object(&mut self, table: &DeTable<'_>) -> Map<String, Value> {
        let entries = table.iter();
        entries
            .map(|(key, node)| {
                (
                    key.get_ref().to_string(),
                    self.child(key.get_ref().to_string(), key.span(), node),
                )
            })
            .collect()
    }

    fn child(&mut self, key: String, key_span: Span, node: &Node<'_>) -> Value {
        self.path.push(key);
        let place = Place {
            key: key_span,
            value: node.span(),
        };
        self.places.insert(self.pointer(), place);
        let value = self.value(node);
        self.path.pop();
        value
    }

    fn note_secret(&mut self, text: &str, span: Span) {
        let source = if let Some(name) = text.strip_prefix("env:") {
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty()
                || name.starts_with(|c: char| c.is_ascii_digit())
                || !name.chars().all(good)
            {
                let message = format!("`{}` names no environment variable", text.escape_debug());
                return self.report(span, message, "as in `env:API_KEY`");
            }
            SecretSource::Env(name.to_owned())
        } else if let Some(path) = text.strip_prefix("file:") {
            if path.is_empty() || path.contains('\0') {
                let message = format!("`{}` names no file", text.escape_debug());
                return self.report(span, message, "as in `file:secrets/api_key`");
            }
            SecretSource::File(PathBuf::from(path))
        } else {
            return;
        };
        let pointer = self.pointer();
        let top_key = self.path.first().cloned().unwrap_or_default();
        self.secrets.push(Secret {
            top_key,
            pointer,
            source,
            span,
        });
    }

    /// Where the walk is, as a JSON pointer.
    fn pointer(&self) -> String {
        let escaped = self
            .path
            .iter()
            .map(|key| key.replace('~', "~0").replace('/', "~1"));
        escaped.map(|key| format!("/{key}")).collect()
    }

    fn refuse(&mut self, node: &Node<'_>, message: String, hint: &str) -> Value {
        self.report(node.span(), message, hint);
        Value::Null
    }

    fn report(&mut self, span: Span, message: String, hint: &str) {
        self.sound = false;
        self.reader
            .report(Diagnostic::error(span, message).hint(hint.to_owned()));
    }
}

fn integer_value(integer: &DeInteger<'_>) -> Option<Value> {
    let (text, radix) = (integer.as_str(), integer.radix());
    let signed = i64::from_str_radix(text, radix).ok().map(Value::from);
    signed.or_else(|| u64::from_str_radix(text, radix).ok().map(Value::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Option<PluginJson>, Vec<Diagnostic>) {
        let document = DeValue::parse(text).expect("toml");
        let mut reader = Reader::new(text, &crate::config::schema::WORDS);
        let read = PluginJson::read(&document, &mut reader);
        (read, reader.into_diagnostics())
    }

    #[test]
    fn toml_becomes_json() {
        let (config, mistakes) =
            read(r#"{ a = 1, b = [true, "x", 0x10], c = { d = 1.5 }, e = 18446744073709551615 }"#);
        assert!(mistakes.is_empty());
        let expected = json!({"a": 1, "b": [true, "x", 16], "c": {"d": 1.5}, "e": u64::MAX});
        assert_eq!(
            config.map(|config| Value::Object(config.json)),
            Some(expected)
        );
    }

    #[test]
    fn secrets_are_noted_at_any_depth() {
        let (config, _) = read(r#"{ keys = { "a/b~" = "env:KEY" }, l = ["file:s/k"], x = "env" }"#);
        let mut secrets = config.expect("config").secrets;
        secrets.sort_by_key(|secret| secret.span.start);
        let found: Vec<_> = secrets
            .iter()
            .map(|s| (s.top_key.as_str(), s.pointer.as_str(), &s.source))
            .collect();
        assert_eq!(
            found,
            [
                ("keys", "/keys/a~1b~0", &SecretSource::Env("KEY".to_owned())),
                ("l", "/l/0", &SecretSource::File("s/k".into())),
            ]
        );
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let check = |value: &str| {
            let (config, mistakes) = read(&format!("{{ a = {value} }}"));
            assert!(config.is_none(), "{value}");
            assert_eq!(mistakes.len(), 1, "{value}");
        };
        for value in [
            "nan",
            "inf",
            "1979-05-27",
            "99999999999999999999",
            "\"env:\"",
            "\"env:1A\"",
            "\"file:\"",
        ] {
            check(value);
        }
    }
}
