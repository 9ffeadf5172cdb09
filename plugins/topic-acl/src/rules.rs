//! Who may do what: rules of actions and topics, what denies before what allows.

use sluicegate_plugin::{ConfigError, config};

use crate::topic::{Names, Pattern, Values};

/// Actions and the topics they are for.
#[config]
#[derive(Debug, Clone)]
pub(crate) struct RuleConfig {
    /// One or several actions; `*`: any.
    action: OneOrMany,
    /// Patterns of topics; left out: whatever the topic, and none.
    topic: Option<OneOrMany>,
}

/// A text, or a list of them.
#[config]
#[derive(Debug, Clone)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// The rules of a config.
#[derive(Debug)]
pub(crate) struct Rules {
    /// None: whatever is not denied.
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
    pub(crate) names: Names,
}

#[derive(Debug)]
struct Rule {
    /// Empty: any.
    actions: Vec<String>,
    topics: Option<Vec<Pattern>>,
}

impl Rules {
    /// # Errors
    /// Where and what is wrong.
    pub(crate) fn new(
        allow: Option<&[RuleConfig]>,
        deny: &[RuleConfig],
        separator: char,
    ) -> Result<Self, ConfigError> {
        let mut names = Names::default();
        let mut list = |key: &str, rules: &[RuleConfig]| -> Result<Vec<Rule>, ConfigError> {
            let rules = rules.iter().enumerate().map(|(index, rule)| {
                Rule::new(rule, separator, &mut names)
                    .map_err(|(part, why)| ConfigError::at([key, &index.to_string(), part], why))
            });
            rules.collect()
        };
        let allow = allow.map(|rules| list("allow", rules)).transpose()?;
        let deny = list("deny", deny)?;
        let of_session = deny.iter().position(Rule::is_of_session);
        if let Some(index) = of_session {
            // Whose label is missing would be denied nothing.
            let message = "a topic that is denied holds no label";
            return Err(ConfigError::at(
                ["deny", &index.to_string(), "topic"],
                message,
            ));
        }
        Ok(Rules { allow, deny, names })
    }

    /// Whether an action on all these topics is allowed.
    pub(crate) fn allow<'t>(
        &self,
        action: &str,
        topics: impl IntoIterator<Item = &'t str>,
        values: &Values,
    ) -> bool {
        let mut topics = topics.into_iter().peekable();
        if topics.peek().is_none() {
            return self.allow_one(action, None, values);
        }
        topics.all(|topic| self.allow_one(action, Some(topic), values))
    }

    fn allow_one(&self, action: &str, topic: Option<&str>, values: &Values) -> bool {
        let denied = |rule: &Rule| rule.fits(action, topic, |it, topic| it.meets(topic, values));
        let allowed = |rule: &Rule| rule.fits(action, topic, |it, topic| it.covers(topic, values));
        !self.deny.iter().any(denied)
            && self
                .allow
                .as_ref()
                .is_none_or(|rules| rules.iter().any(allowed))
    }
}

impl Rule {
    fn new(
        config: &RuleConfig,
        separator: char,
        names: &mut Names,
    ) -> Result<Self, (&'static str, String)> {
        let actions = config.action.all();
        if actions.is_empty() {
            return Err(("action", "names none".to_owned()));
        }
        let any = actions.iter().any(|action| action == "*");
        let topics = config.topic.as_ref().map(|topics| {
            let patterns = topics.all().iter();
            patterns
                .map(|topic| Pattern::new(topic, separator, names).map_err(|why| ("topic", why)))
                .collect()
        });
        Ok(Rule {
            actions: if any { Vec::new() } else { actions.to_vec() },
            topics: topics.transpose()?,
        })
    }

    fn fits(
        &self,
        action: &str,
        topic: Option<&str>,
        fits: impl Fn(&Pattern, &str) -> bool,
    ) -> bool {
        let named = self.actions.is_empty() || self.actions.iter().any(|one| one == action);
        named
            && self.topics.as_ref().is_none_or(|patterns| {
                topic.is_some_and(|topic| patterns.iter().any(|pattern| fits(pattern, topic)))
            })
    }

    fn is_of_session(&self) -> bool {
        let mut patterns = self.topics.iter().flatten();
        patterns.any(Pattern::is_of_session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: Option<&str>, deny: &str) -> Result<Rules, ConfigError> {
        let read = |json: &str| -> Vec<RuleConfig> { serde_json::from_str(json).unwrap() };
        Rules::new(allow.map(read).as_deref(), &read(deny), '/')
    }

    #[test]
    fn what_is_denied_is_not_allowed_and_what_is_not_allowed_is_denied() {
        let allow = r#"[{"action": "subscribe", "topic": ["rooms/#", "news"]},
                        {"action": ["ping", "pong"]}, {"action": "*", "topic": "any"}]"#;
        let deny = r#"[{"action": "subscribe", "topic": "rooms/secret"}, {"action": "pong"}]"#;
        let rules = rules(Some(allow), deny).unwrap();
        for (action, topics, expect) in [
            ("subscribe", &["rooms/a"][..], true),
            ("subscribe", &["rooms/a", "news"], true),
            ("subscribe", &["rooms/a", "other"], false),
            ("subscribe", &["rooms/secret"], false),
            ("subscribe", &["rooms/+"], false),
            ("subscribe", &[], false),
            ("publish", &["rooms/a"], false),
            ("publish", &["any"], true),
            ("ping", &[], true),
            ("ping", &["whatever"], true),
            ("pong", &[], false),
        ] {
            assert_eq!(
                rules.allow(action, topics.iter().copied(), &[]),
                expect,
                "{action} {topics:?}"
            );
        }
    }

    #[test]
    fn without_an_allow_list_only_what_is_denied_is_refused() {
        let rules = rules(None, r#"[{"action": "*", "topic": "secret/#"}]"#).unwrap();
        assert!(rules.allow("publish", ["a"], &[]));
        assert!(rules.allow("publish", [], &[]));
        assert!(!rules.allow("publish", ["a", "secret/b"], &[]));
    }

    #[test]
    fn a_bad_rule_is_named() {
        #[track_caller]
        fn check(allow: &str, deny: &str, expect: &str) {
            let error = rules(Some(allow), deny).map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        }
        check(r#"[{"action": []}]"#, "[]", "`allow.0.action`: names none");
        check(
            r#"[{"action": "a"}, {"action": "a", "topic": "a#"}]"#,
            "[]",
            "`allow.1.topic`: `a#`: a wildcard stands alone in its level",
        );
        check(
            "[]",
            r#"[{"action": "a", "topic": "u/{sub}"}]"#,
            "`deny.0.topic`: a topic that is denied holds no label",
        );
    }
}
