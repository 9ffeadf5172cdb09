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
    /// Bytes of the shortest match.
    shortest: usize,
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
        let shortest = properties.minimum_len().unwrap_or_default();
        if shortest == 0 {
            return Err(("match", "matches where there is nothing".to_owned()));
        }
        let built = RegexBuilder::new(regex)
            .size_limit(MAX_PROGRAM)
            .dfa_size_limit(MAX_PROGRAM)
            .build();
        let regex = built.map_err(|error| ("match", last_line(&error)))?;
        if let Some(group) = own.as_ref().and_then(|own| unknown_group(own, &regex)) {
            return Err((
                "replace_with",
                format!("`${group}` is no group of the pattern"),
            ));
        }
        Ok(Pattern {
            name: name.clone(),
            regex,
            replace_with: match own {
                Some(own) => own.clone(),
                // No groups in there.
                None => replace_with(name).replace('$', "$$"),
            },
            anywhere: properties.look_set().iter().all(is_of_words),
            shortest,
        })
    }

    /// Whether no part of a text can match, if it does not contain what is between its parts.
    pub(crate) fn rules_out(&self, text: &str) -> bool {
        self.anywhere && !self.regex.is_match(text)
    }

    /// Whether a text is too short for any match.
    pub(crate) fn is_longer_than(&self, text: &str) -> bool {
        text.len() < self.shortest
    }

    /// The text with each match replaced, and how many there were. After so many as `most` it stops.
    pub(crate) fn replace<'t>(&self, text: &'t str, most: usize) -> (Cow<'t, str>, usize) {
        let mut count = 0;
        let with = |found: &regex::Captures<'_>| {
            count += 1;
            let mut with = String::new();
            found.expand(&self.replace_with, &mut with);
            with
        };
        // 0 would be all of them.
        let replaced = self.regex.replacen(text, most.max(1), with);
        (replaced, count)
    }
}

/// What a replacement names but the pattern does not have: it would be replaced by nothing.
fn unknown_group<'t>(replacement: &'t str, regex: &Regex) -> Option<&'t str> {
    let mut rest = replacement;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(escaped) = after.strip_prefix('$') {
            rest = escaped;
            continue;
        }
        let (name, next) = match after
            .strip_prefix('{')
            .and_then(|name| name.split_once('}'))
        {
            Some(braced) => braced,
            None => {
                let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                let end = after.bytes().position(|byte| !of_name(byte));
                after.split_at(end.unwrap_or(after.len()))
            }
        };
        let known = match name.parse::<usize>() {
            Ok(index) => index < regex.captures_len(),
            // A `$` before anything else is one.
            Err(_) => name.is_empty() || regex.capture_names().flatten().any(|one| one == name),
        };
        if !known {
            return Some(name);
        }
        rest = next;
    }
    None
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
        fn check(regex: &str, with: Option<&str>, text: &str, expect: &str, count: usize) {
            let pattern = pattern(regex, with).unwrap_or_else(|(key, why)| panic!("{key}: {why}"));
            assert_eq!(pattern.replace(text, 10), (expect.into(), count));
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
    fn a_replacement_names_groups_that_are_there() {
        #[track_caller]
        fn check(with: &str, expect: Option<&str>) {
            let error = pattern("(?P<word>a)(b)", Some(with)).err();
            let expect = expect.map(|group| format!("`${group}` is no group of the pattern"));
            assert_eq!(error, expect.map(|why| ("replace_with", why)));
        }
        check("$0 $1-$2 ${word} $word. $$1 $ 5$", None);
        check("$3", Some("3"));
        check("$1_", Some("1_"));
        check("${words}", Some("words"));
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
