//! A plugin's config: from JSON to the author's type, with errors that name the key.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

/// What is wrong with a config, and where. The proxy shows the place in the operator's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Keys and indices from the outside in; none: the config as a whole.
    place: Vec<String>,
    message: String,
}

impl ConfigError {
    /// A message about one key, e.g. `key("keys.ci", "is empty")`. Where a key may hold dots itself, say
    /// [`ConfigError::at`].
    pub fn key(key: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self::at(key.to_string().split('.'), message)
    }

    /// A message about one place, e.g. `at(["keys", name], "is empty")`.
    pub fn at<S: Into<String>>(
        place: impl IntoIterator<Item = S>,
        message: impl fmt::Display,
    ) -> Self {
        ConfigError {
            place: place.into_iter().map(Into::into).collect(),
            message: message.to_string(),
        }
    }

    /// The place as a JSON pointer (RFC 6901).
    #[cfg_attr(
        not(any(test, target_arch = "wasm32")),
        expect(dead_code, reason = "for the glue")
    )]
    pub(crate) fn pointer(&self) -> String {
        let escaped = self
            .place
            .iter()
            .map(|key| key.replace('~', "~0").replace('/', "~1"));
        escaped.map(|key| format!("/{key}")).collect()
    }

    #[cfg_attr(
        not(any(test, target_arch = "wasm32")),
        expect(dead_code, reason = "for the glue")
    )]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.place.join("."), self.message)
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<String> for ConfigError {
    fn from(message: String) -> Self {
        ConfigError {
            place: Vec::new(),
            message,
        }
    }
}

impl From<&str> for ConfigError {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// The config of a filter that takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// A string that is never printed.
///
/// In the proxy's configuration its value may come from elsewhere (`env:NAME`, `file:PATH`);
/// the plugin sees what it stands for.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Whether `candidate` is this secret. The time it takes depends on the length of the
    /// candidate only, not on how much of it is right.
    pub fn matches(&self, candidate: impl AsRef<[u8]>) -> bool {
        let (secret, candidate) = (self.0.as_bytes(), candidate.as_ref());
        let mut differ = u8::from(secret.len() != candidate.len());
        for (i, byte) in candidate.iter().enumerate() {
            // Past its end the secret wraps around: the lengths already differ.
            let own = if secret.is_empty() {
                0
            } else {
                secret[i % secret.len()]
            };
            differ |= std::hint::black_box(byte ^ own);
        }
        std::hint::black_box(differ) == 0
    }

    /// Whether it is the empty string, which is hardly ever meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<&str> for Secret {
    fn from(secret: &str) -> Self {
        Secret(secret.to_owned())
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// The JSON Schema of a config, as text.
#[cfg_attr(
    not(any(test, target_arch = "wasm32")),
    expect(dead_code, reason = "for the glue")
)]
pub(crate) fn schema<T: JsonSchema>() -> String {
    SchemaGenerator::default()
        .into_root_schema_for::<T>()
        .as_value()
        .to_string()
}

/// Reads a config; the error is for the operator.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, ConfigError> {
    // It may run in every instance: straight from the text as long as all is well.
    serde_json::from_str(json).or_else(|_| {
        let mut json = serde_json::Deserializer::from_str(json);
        let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (place, error) = (keys(error.path()), error.inner());
            let message = error.to_string();
            // The operator wrote TOML: a place in the JSON means nothing to them.
            let json_place = format!(" at line {} column {}", error.line(), error.column());
            let message = message.strip_suffix(&json_place).unwrap_or(&message);
            ConfigError::at(place, message)
        })?;
        json.end()
            .map_err(|error| ConfigError::from(error.to_string()))?;
        Ok(config)
    })
}

fn keys(path: &Path) -> Vec<String> {
    let keys = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        // The key of an enum's variant is in the map around it; where the JSON breaks off there is none.
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        keys: BTreeMap<String, Secret>,
        header: String,
    }

    #[test]
    fn errors_name_the_key() {
        #[track_caller]
        fn check(json: &str, expect: &str) {
            let error = parse::<Config>(json).map(|c| c.header).unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check("{}", "missing field `header`");
        check(
            r#"{"header":"h","kees":{}}"#,
            "`kees`: unknown field `kees`, expected `keys` or `header`",
        );
        check(
            r#"{"header":3}"#,
            "`header`: invalid type: integer `3`, expected a string",
        );
        check(
            r#"{"header":"h","keys":{"ci":true}}"#,
            "`keys.ci`: invalid type: boolean `true`, expected a string",
        );
        check(r#"{"header":"#, "`header`: EOF while parsing a value");
        check(
            r#"{"header":"h"} {}"#,
            "trailing characters at line 1 column 16",
        );
        let config: Config = parse(r#"{"header":"h","keys":{"ci":"s3"}}"#).unwrap();
        assert!(config.keys["ci"].matches("s3"));
        assert_eq!(parse::<NoConfig>("{}"), Ok(NoConfig {}));
    }

    #[test]
    fn a_place_is_a_pointer_too() {
        let error = ConfigError::key("keys.ci", "is empty");
        assert_eq!(
            (error.pointer().as_str(), error.message()),
            ("/keys/ci", "is empty")
        );
        let error = ConfigError::at(["keys", "a/b~c.d"], "is empty");
        assert_eq!(error.pointer(), "/keys/a~1b~0c.d");
        assert_eq!(ConfigError::from("bad").pointer(), "");
        let error = parse::<Config>(r#"{"header":"h","keys":{"a.b":1}}"#).unwrap_err();
        assert_eq!(error.pointer(), "/keys/a.b");
    }

    #[test]
    fn a_schema_refuses_unknown_keys_and_marks_secrets() {
        let schema: serde_json::Value = serde_json::from_str(&schema::<Config>()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["header"]));
        let key = &schema["properties"]["keys"]["additionalProperties"];
        assert_eq!(key["writeOnly"], true);
    }

    #[test]
    fn a_secret_matches_only_itself_and_is_not_printed() {
        let secret = Secret::from("s3cret");
        assert!(secret.matches("s3cret"));
        for other in ["", "s3cre", "s3crets", "s3creT", "s3crets3cret"] {
            assert!(!secret.matches(other), "{other}");
        }
        assert!(!Secret::from("").matches("x") && Secret::from("").matches(""));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
