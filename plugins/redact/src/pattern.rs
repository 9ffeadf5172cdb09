//! The operator's own patterns: regular expressions that run in linear time, whatever they are given.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::Look;
use sluicegate_plugin::config;

/// What is looked for, and what stands in its place.
#[config]
#[derive(Debug, Clone)]
pub(crate) struct PatternConfig {
    /// What it is called: in metrics, and for `{name}`.
    name: String,
    /// A regular expression.
    #[serde(rename = "match")]
    regex: String,
    /// Instead of the plugin's own `replace_with`; `$1` or `${word}` is what a group matched.
    replace_with: Option<String>,
}

pub(crate) struct Pattern {
    pub(crate) name: String,
    regex: Regex,
    replace_with: String,
    /// What it finds in a part of a text it finds in the whole as well.
    anywhere: bool,
}

impl Pattern {
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn new(
        config: &PatternConfig,
        replace_with: impl Fn(&str) -> String,
    ) -> Result<Self, (&'static str, String)> {
        let PatternConfig {
            name,
            regex,
            replace_with: own,
        } = config;
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            return Err((
                "name",
                format!("`{name}` has not 1 to {MAX_NAME} bytes of text"),
            ));
        }
        let hir = regex_syntax::parse(regex).map_err(|error| ("match", last_line(&error)))?;
        let properties = hir.properties();
        if properties.minimum_len().is_none_or(|len| len == 0) {
            return Err(("match", "matches where there is nothing".to_owned()));
        }
        let built = RegexBuilder::new(regex)
            .size_limit(MAX_PROGRAM)
            .dfa_size_limit(MAX_PROGRAM)
            .build();
        Ok(Pattern {
            name: name.clone(),
            regex: built.map_err(|error| ("match", last_line(&error)))?,
            replace_with: match own {
                Some(own) => own.clone(),
                // No groups in there.
                None => replace_with(name).replace('$', "$$"),
            },
            anywhere: properties.look_set().iter().all(is_of_words),
        })
    }

    /// Whether no part of a text can match, if it does not contain what is between its parts.
    pub(crate) fn rules_out(&self, text: &str) -> bool {
        self.anywhere && !self.regex.is_match(text)
    }

    /// The text with each match replaced, and how many there were.
    pub(crate) fn replace<'t>(&self, text: &'t str) -> (Cow<'t, str>, u64) {
        let mut count = 0;
        let replaced = self.regex.replace_all(text, |found: &regex::Captures<'_>| {
            count += 1;
            let mut with = String::new();
            found.expand(&self.replace_with, &mut with);
            with
        });
        (replaced, count)
    }
}

/// `\b` and its kin: a quote around a string is to them what its end is.
fn is_of_words(look: Look) -> bool {
    !matches!(
        look,
        Look::Start | Look::End | Look::StartLF | Look::EndLF | Look::StartCRLF | Look::EndCRLF
    )
}

/// The message itself, without the drawing above it.
fn last_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let line = text.lines().next_back().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

const MAX_NAME: usize = 64;
/// Bytes of a compiled pattern, and of what it remembers while it runs.
const MAX_PROGRAM: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(regex: &str, replace_with: Option<&str>) -> Result<Pattern, (&'static str, String)> {
        let config = PatternConfig {
            name: "own".to_owned(),
            regex: regex.to_owned(),
            replace_with: replace_with.map(str::to_owned),
        };
        Pattern::new(&config, |name| format!("[${name}]"))
    }

    #[test]
    fn matches_are_replaced() {
        #[track_caller]
        fn check(regex: &str, with: Option<&str>, text: &str, expect: &str, count: u64) {
            let pattern = pattern(regex, with).unwrap_or_else(|(key, why)| panic!("{key}: {why}"));
            assert_eq!(pattern.replace(text), (expect.into(), count));
        }
        check("a+", None, "caat a", "c[$own]t [$own]", 2);
        check(r"(?i)(key)=\w+", Some("$1=*"), "KEY=abc", "KEY=*", 1);
        check(r"\bü\w+\b", None, "über Übel", "[$own] Übel", 1);
        check("x", None, "nothing", "nothing", 0);
    }

    #[test]
    fn what_cannot_work_is_said() {
        #[track_caller]
        fn check(regex: &str, expect: &str) {
            let error = pattern(regex, None).map(|_| ()).unwrap_err();
            assert_eq!(error, ("match", expect.to_owned()));
        }
        check("a*", "matches where there is nothing");
        check("(", "unclosed group");
        check(r"(a)\1", "backreferences are not supported");
        check(
            r"\w{500}{500}",
            "Compiled regex exceeds size limit of 1048576 bytes.",
        );
    }

    #[test]
    fn a_text_is_ruled_out_only_if_none_of_its_strings_can_match() {
        for (regex, expect) in [
            ("^a", false),
            ("a$", false),
            ("(?m)^a", false),
            (r"\ba\b", true),
        ] {
            let pattern = pattern(regex, None).unwrap();
            assert_eq!(pattern.rules_out(r#"["b"]"#), expect, "{regex}");
            assert!(!pattern.rules_out(r#"["a"]"#), "{regex}");
        }
    }
}
