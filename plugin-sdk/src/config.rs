//! A plugin's config: from JSON to the author's type, with errors that name the key.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What is wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// A message about one key, e.g. `key("keys.ci", "is empty")`.
    pub fn key(key: impl fmt::Display, message: impl fmt::Display) -> Self {
        ConfigError(format!("`{key}`: {message}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl From<String> for ConfigError {
    fn from(message: String) -> Self {
        ConfigError(message)
    }
}

impl From<&str> for ConfigError {
    fn from(message: &str) -> Self {
        ConfigError(message.to_owned())
    }
}

/// The config of a filter that takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
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

/// Reads a config; the error is for the operator.
#[cfg_attr(
    not(any(test, target_arch = "wasm32")),
    expect(dead_code, reason = "for the glue")
)]
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    // It runs in every instance: straight from the text as long as all is well.
    serde_json::from_str(json).or_else(|_| {
        let mut json = serde_json::Deserializer::from_str(json);
        let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (path, error) = (error.path().to_string(), error.inner());
            let message = error.to_string();
            // The operator wrote TOML: a place in the JSON means nothing to them.
            let place = format!(" at line {} column {}", error.line(), error.column());
            let message = message.strip_suffix(&place).unwrap_or(&message);
            // The path is `.` at the top, where serde's message names the key by itself, and `?`
            // where the JSON breaks off.
            match path.as_str() {
                "." | "?" => message.to_owned(),
                path => format!("`{path}`: {message}"),
            }
        })?;
        json.end().map_err(|error| error.to_string())?;
        Ok(config)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize)]
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
            assert_eq!(parse::<Config>(json).map(|c| c.header).unwrap_err(), expect);
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
