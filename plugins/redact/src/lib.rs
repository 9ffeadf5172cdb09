//! Takes personal data and whatever else has a pattern out of text messages.
//!
//! A message that is JSON is looked at string by string, as its reader will see them, and stays JSON; any
//! other as one text. Most messages hold nothing: those cost one pass for all presets and one per pattern, and
//! go on as they came. Binary messages are not looked at.
//!
//! Many connections share an instance, and a call that takes too long or gives back too much ends them all: so
//! what is done for one message is bounded, and one that needs more closes its own tunnel.

#![forbid(unsafe_code)]

mod pattern;
mod preset;
mod scalars;

use std::collections::BTreeMap;

use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, MessageFilter, Opening, Reaction, Senders, Side, config,
    export, metrics,
};

use pattern::{Pattern, PatternConfig};
use preset::{Preset, Presets};

#[config]
#[derive(Debug)]
pub struct Config {
    /// What is found out of the box.
    #[serde(default)]
    presets: Vec<Preset>,
    /// Regular expressions besides, applied in this order to what the presets left.
    #[serde(default)]
    patterns: Vec<PatternConfig>,
    /// What stands in place of what was found; `{name}` is the preset's or pattern's name.
    #[serde(default = "default_replacement")]
    replace_with: String,
    /// Whose messages are looked at.
    #[serde(default)]
    from: Senders,
    /// Looks at a message that is JSON string by string. False: every message is one text.
    #[serde(default = "default_json")]
    json: bool,
}

pub struct Redact {
    presets: Presets,
    patterns: Vec<Pattern>,
    replace_with: String,
    from: Senders,
    json: bool,
}

/// What is done for one message.
struct Work<'a> {
    /// What was found how often.
    counts: BTreeMap<&'a str, u64>,
    /// Searches and replacements that are left; at 0 the message is more than is done for one.
    left: usize,
}

impl Filter for Redact {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        if config.presets.is_empty() && config.patterns.is_empty() {
            return Err("neither `presets` nor `patterns` is there".into());
        }
        let with = |name: &str| config.replace_with.replace("{name}", name);
        let patterns = config.patterns.iter().enumerate().map(|(index, pattern)| {
            Pattern::new(pattern, with)
                .map_err(|(key, why)| ConfigError::at(["patterns", &index.to_string(), key], why))
        });
        Ok(Redact {
            patterns: patterns.collect::<Result<_, _>>()?,
            presets: config.presets.into_iter().collect(),
            replace_with: config.replace_with,
            from: config.from,
            json: config.json,
        })
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for Redact {
    type Session = ();

    fn interest(&self) -> Interest {
        Interest::text().sent_by(self.from)
    }

    fn open(&self, _: &Opening) -> Option<()> {
        Some(())
    }

    fn on_text(&self, (): &mut (), _: Side, text: &str) -> Reaction {
        let mut work = Work {
            counts: BTreeMap::new(),
            left: MAX_WORK,
        };
        let redacted = self.redacted(text, &mut work);
        for (name, count) in work.counts {
            // The figure is a convenience.
            metrics::count("redacted", &[("what", name)], count).ok();
        }
        match redacted {
            _ if work.left == 0 => Reaction::close(1008, "too much to redact"),
            None => Reaction::forward(),
            Some(redacted) if redacted.len() > MAX_OUTPUT => Reaction::close(1009, "too large"),
            Some(redacted) => Reaction::replace(redacted),
        }
    }
}

export!(Redact: messages);

impl Redact {
    /// The message without what was found; `None`: nothing was.
    fn redacted<'s>(&'s self, text: &str, work: &mut Work<'s>) -> Option<String> {
        // With escapes in it, what a reader sees may not be there in this form.
        let plain = !self.json || !text.contains('\\');
        if plain && self.is_clean(text) {
            return None;
        }
        match self.json.then(|| scalars::begin(text)).flatten() {
            Some(begin) => {
                let (head, json) = text.split_at(begin);
                let new_head = self.replaced(head, work);
                let new_json = scalars::rewrite(json, |scalar| self.replaced(scalar, work));
                (new_head.is_some() || new_json.is_some()).then(|| {
                    new_head.unwrap_or_else(|| head.to_owned())
                        + new_json.as_deref().unwrap_or(json)
                })
            }
            None => self.replaced(text, work),
        }
    }

    /// Whether nothing can be found, neither in the text nor in a string of it.
    fn is_clean(&self, text: &str) -> bool {
        self.presets.find(text, 0).is_none()
            && self.patterns.iter().all(|pattern| pattern.rules_out(text))
    }

    fn replaced<'s>(&'s self, text: &str, work: &mut Work<'s>) -> Option<String> {
        let mut current = self.without_presets(text, work);
        for pattern in &self.patterns {
            let before = current.as_deref().unwrap_or(text);
            if pattern.is_longer_than(before) || work.left == 0 {
                continue;
            }
            work.left -= 1;
            let (replaced, count) = pattern.replace(before, work.left);
            if count > 0 {
                let replaced = replaced.into_owned();
                work.found(&pattern.name, count);
                current = Some(replaced);
            }
        }
        current
    }

    fn without_presets(&self, text: &str, work: &mut Work<'_>) -> Option<String> {
        let (mut out, mut copied) = (String::new(), 0);
        while work.left > 0
            && let Some((preset, range)) = self.presets.find(text, copied)
        {
            out.push_str(&text[copied..range.start]);
            out.push_str(&self.replace_with.replace("{name}", preset.name()));
            work.found(preset.name(), 1);
            copied = range.end;
        }
        (copied > 0).then(|| out + &text[copied..])
    }
}

impl<'a> Work<'a> {
    fn found(&mut self, name: &'a str, count: usize) {
        *self.counts.entry(name).or_default() += count as u64;
        self.left = self.left.saturating_sub(count * REPLACEMENT);
    }
}

fn default_replacement() -> String {
    "[{name}]".to_owned()
}

fn default_json() -> bool {
    true
}

/// Searches of a string for a pattern, in one message: some milliseconds.
const MAX_WORK: usize = 100_000;
/// What a replacement counts among them.
const REPLACEMENT: usize = 10;
/// Bytes of what goes on in a message's place: the proxy takes 1 MiB back from a plugin, if nobody says more.
const MAX_OUTPUT: usize = 1000 << 10;

#[cfg(test)]
mod tests {
    use sluicegate_plugin::testing;

    use super::*;

    fn filter(config: &str) -> Redact {
        testing::configure(config).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn check(config: &str, text: &str, expect: Option<&str>) {
        let reaction = filter(config).on_text(&mut (), Side::Client, text);
        assert_eq!(
            reaction,
            expect.map_or(Reaction::forward(), Reaction::replace),
            "{text}"
        );
    }

    #[test]
    fn a_text_loses_what_was_found() {
        let config = r#"{"presets": ["card", "email"],
            "patterns": [{"name": "key", "match": "sk_[a-z0-9]{4,}"}]}"#;
        check(config, "nothing of the kind", None);
        check(config, "at 12:30 in room 4111", None);
        check(
            config,
            "4111 1111 1111 1111, ann@example.com, sk_live01",
            Some("[card], [email], [key]"),
        );
        check(config, "[12:30] ann@example.com", Some("[12:30] [email]"));
        // No JSON, though it begins like it.
        check(config, "{ 4111 1111 1111 1111", Some("{ [card]"));
        assert_eq!(testing::metric("redacted", &[("what", "email")]), 2.0);
        assert_eq!(testing::metric("redacted", &[("what", "key")]), 1.0);
    }

    #[test]
    fn json_stays_json() {
        let config = r#"{"presets": ["card", "email"], "replace_with": "\"{name}\\",
            "patterns": [{"name": "word", "match": "^secret$"}]}"#;
        check(config, r#"{"id":1766016000000,"say":"hi"}"#, None);
        check(
            config,
            r#"{"say":"ann\u0040example.com"}"#,
            Some(r#"{"say":"\"email\\"}"#),
        );
        check(
            config,
            r#"{ "n": 4111111111111111, "m": -0.5 }"#,
            Some(r#"{ "n": "\"card\\", "m": -0.5 }"#),
        );
        check(
            config,
            r#"["secret", "no secret"]"#,
            Some(r#"["\"word\\", "no secret"]"#),
        );
        check(
            config,
            r#"42["say","ann@example.com"]"#,
            Some(r#"42["say","\"email\\"]"#),
        );
        check(config, r#"{"a\/b":"\n"}"#, None);
        check(
            config,
            r#"["\ud800 ann\u0040example.com"]"#,
            Some(r#"["� \"email\\"]"#),
        );
        check(
            config,
            "{\"say\":\"ann\\u0040example.com\"}\u{1e}",
            Some("{\"say\":\"\\\"email\\\\\"}\u{1e}"),
        );
        check(
            config,
            "{}\n[\"ann\\u0040example.com\"]\n",
            Some("{}\n[\"\\\"email\\\\\"]\n"),
        );
    }

    #[test]
    fn what_stands_around_json_is_looked_at() {
        let config = r#"{"presets": ["card", "email"]}"#;
        check(config, r#"4111111111111111["x"]"#, Some(r#""[card]"["x"]"#));
        check(
            config,
            r#"42/4111-1111-1111-1111,["x","ann\u0040example.com"]"#,
            Some(r#"42/[card],["x","[email]"]"#),
        );
        check(
            config,
            r#"["x"] 4111 1111 1111 1111"#,
            Some(r#"["x"] "[card]""#),
        );
        check(config, r#"42/chat,17["x"]"#, None);
    }

    #[test]
    fn json_is_one_text_by_choice() {
        let config = r#"{"json": false,
            "patterns": [{"name": "p", "match": "\"password\":\"[^\"]*\"", "replace_with": "\"password\":\"*\""}]}"#;
        check(config, r#"{"password":"x"}"#, Some(r#"{"password":"*"}"#));
    }

    #[test]
    fn patterns_work_on_what_is_left() {
        let config = r#"{"presets": ["email"], "patterns": [
            {"name": "a", "match": "\\[email\\] (\\w+)", "replace_with": "<$1>"},
            {"name": "b", "match": "<", "replace_with": "«"}]}"#;
        check(config, "ann@example.com wrote", Some("«wrote>"));
    }

    #[test]
    fn what_is_done_for_one_message_is_bounded() {
        let filter = filter(
            r#"{"presets": ["ipv6"], "patterns": [{"name": "a", "match": "a", "replace_with": "aaaa"}]}"#,
        );
        let close = |text: String| filter.on_text(&mut (), Side::Client, &text).close_code();
        let list = |item: &str, count: usize| format!("[{}0]", format!("{item},").repeat(count));
        assert_eq!(close(list("\"::1\"", 5_000)), None);
        assert_eq!(close(list("\"::1\"", 20_000)), Some(1008));
        assert_eq!(close("a ".repeat(20_000)), Some(1008));
        assert_eq!(close("a ".repeat(9_000)), None);
        // Strings that are searched in vain: one of them has an escape.
        assert_eq!(close(list("\"x\"", 90_000) + " "), None);
        assert_eq!(close(list("\"\\n\"", 90_000)), None);
        assert_eq!(close(list("\"\\n\"", 110_000)), Some(1008));
        let large = "b".repeat(MAX_OUTPUT - 2);
        assert_eq!(close(format!("{large}a")), Some(1009));
        assert_eq!(close(format!("{large}bbb")), None);
        // However much larger it was before.
        assert_eq!(
            close(format!("{large}{}a", "0:0:0:0:0:0:0:1 ".repeat(9))),
            Some(1009)
        );
    }

    #[test]
    fn a_side_is_looked_at_by_choice() {
        let config = |from: &str| format!(r#"{{"presets": ["email"], "from": "{from}"}}"#);
        let interest = |from: &str| filter(&config(from)).interest();
        assert_eq!(interest("both"), Interest::text());
        assert_eq!(interest("client"), Interest::text().from(Side::Client));
        assert_eq!(interest("server"), Interest::text().from(Side::Server));
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: &str, expect: &str) {
            let error = testing::configure::<Redact>(config)
                .map(|_| ())
                .unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check("{}", "neither `presets` nor `patterns` is there");
        check(
            r#"{"patterns": [{"name": "a", "match": "["}]}"#,
            "`patterns.0.match`: unclosed character class",
        );
        check(
            r#"{"patterns": [{"name": "", "match": "a"}]}"#,
            "`patterns.0.name`: `` has not 1 to 64 bytes of text",
        );
    }
}
