//! Patterns of topics, as MQTT has them (version 5, section 4.7): levels between separators, `+` for any one
//! level, `#` for any that follow. `{name}` in a level is what a label of the session says.
//!
//! What a client asks for may hold wildcards too. To be allowed, all that it stands for must be covered; to be
//! denied, it is enough that some of it is.

use sluicegate_plugin::check_label;

/// What `{…}` stands for in one session: the values of [`Names`], where a session has them.
pub(crate) type Values = [Option<String>];

/// The labels that patterns name, each once.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// Their values. One that would change what a pattern means, by a separator or a wildcard in it, is none.
    pub(crate) fn values(
        &self,
        separator: char,
        label: impl Fn(&str) -> Option<String>,
    ) -> Box<[Option<String>]> {
        let fits = |value: &String| !value.is_empty() && !value.contains([separator, '+', '#']);
        let values = self.0.iter().map(|name| label(name).filter(fits));
        values.collect()
    }

    fn index(&mut self, name: &str) -> usize {
        let known = self.0.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        })
    }
}

#[derive(Debug)]
pub(crate) struct Pattern {
    levels: Vec<Level>,
    separator: char,
}

#[derive(Debug)]
enum Level {
    /// `+`
    Any,
    /// `#`, the last one.
    Rest,
    /// Pieces that make up the level.
    These(Vec<Piece>),
}

#[derive(Debug)]
enum Piece {
    Text(String),
    /// Index among the names.
    Label(usize),
}

impl Pattern {
    /// # Errors
    /// Why it is no pattern.
    pub(crate) fn new(text: &str, separator: char, names: &mut Names) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let parts: Vec<&str> = text.split(separator).collect();
        let mut levels = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            levels.push(match *part {
                "+" => Level::Any,
                "#" if index + 1 == parts.len() => Level::Rest,
                "#" => return Err(format!("`{text}`: `#` can only be the last level")),
                part if part.contains(['+', '#']) => {
                    return Err(format!("`{text}`: a wildcard stands alone in its level"));
                }
                part => {
                    Level::These(pieces(part, names).map_err(|why| format!("`{text}`: {why}"))?)
                }
            });
        }
        Ok(Pattern { levels, separator })
    }

    /// Whether every topic that `topic` stands for is one of the pattern's.
    pub(crate) fn covers(&self, topic: &str, values: &Values) -> bool {
        if self.is_shy_of(topic) {
            return false;
        }
        let mut asked = topic.split(self.separator);
        for level in &self.levels {
            let fits = match (level, asked.next()) {
                (Level::Rest, _) => return true,
                (_, None) => false,
                (Level::Any, Some(asked)) => asked != "#",
                (Level::These(pieces), Some(asked)) => is_made_of(asked, pieces, values),
            };
            if !fits {
                return false;
            }
        }
        asked.next().is_none()
    }

    /// Whether some topic that `topic` stands for is one of the pattern's.
    pub(crate) fn meets(&self, topic: &str, values: &Values) -> bool {
        if self.is_shy_of(topic) {
            return false;
        }
        let mut asked = topic.split(self.separator);
        for level in &self.levels {
            let fits = match (level, asked.next()) {
                (Level::Rest, _) | (_, Some("#")) => return true,
                (_, None) => false,
                (Level::Any, Some(_)) | (_, Some("+")) => true,
                (Level::These(pieces), Some(asked)) => is_made_of(asked, pieces, values),
            };
            if !fits {
                return false;
            }
        }
        // `a/#` is `a` as well.
        asked.next().is_none_or(|next| next == "#")
    }

    /// Whether it names a label.
    pub(crate) fn is_of_session(&self) -> bool {
        self.levels.iter().any(|level| match level {
            Level::These(pieces) => pieces.iter().any(|piece| matches!(piece, Piece::Label(_))),
            Level::Any | Level::Rest => false,
        })
    }

    /// Topics that begin with `$` are the server's own: no wildcard stands for them.
    fn is_shy_of(&self, topic: &str) -> bool {
        topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::These(_)))
    }
}

fn pieces(level: &str, names: &mut Names) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest) = (Vec::new(), level);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| "a `}` is missing".to_owned())?;
        check_label(name).map_err(|_| format!("`{name}` is no label"))?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Label(names.index(name)));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn is_made_of(mut text: &str, pieces: &[Piece], values: &Values) -> bool {
    for piece in pieces {
        let expect = match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Label(index) => values.get(*index).and_then(Option::as_deref),
        };
        match expect.and_then(|expect| text.strip_prefix(expect)) {
            Some(rest) => text = rest,
            None => return false,
        }
    }
    text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> (Pattern, Box<Values>) {
        let mut names = Names::default();
        let pattern = Pattern::new(text, '/', &mut names).unwrap_or_else(|why| panic!("{why}"));
        let labels = |name: &str| match name {
            "sub" => Some("ann".to_owned()),
            "wild" => Some("+".to_owned()),
            "deep" => Some("a/b".to_owned()),
            "empty" => Some(String::new()),
            _ => None,
        };
        (pattern, names.values('/', labels))
    }

    #[test]
    fn what_is_asked_for_is_covered_met_or_neither() {
        #[track_caller]
        fn check(text: &str, asked: &str, covers: bool, meets: bool) {
            let (pattern, values) = pattern(text);
            let got = (
                pattern.covers(asked, &values),
                pattern.meets(asked, &values),
            );
            assert_eq!(got, (covers, meets), "{text} {asked}");
        }
        for (text, asked, covers, meets) in [
            ("a/b", "a/b", true, true),
            ("a/b", "a/c", false, false),
            ("a/b", "a", false, false),
            ("a/b", "a/b/c", false, false),
            ("a/b", "A/b", false, false),
            ("a/b", "a/+", false, true),
            ("a/b", "#", false, true),
            ("a/b", "+/c", false, false),
            ("a/+", "a/b", true, true),
            ("a/+", "a/+", true, true),
            ("a/+", "a/", true, true),
            ("a/+", "a/#", false, true),
            ("a/+", "a", false, false),
            ("a/+", "a/b/c", false, false),
            ("a/#", "a", true, true),
            ("a/#", "a/b/c", true, true),
            ("a/#", "a/+/c", true, true),
            ("a/#", "a/#", true, true),
            ("a/#", "#", false, true),
            ("a/#", "b/#", false, false),
            ("a", "a/#", false, true),
            ("a", "a/+", false, false),
            ("+/b", "a/b", true, true),
            ("+/b", "#", false, true),
            ("#", "anything/at/all", true, true),
            ("#", "$SYS/broker", false, false),
            ("+/broker", "$SYS/broker", false, false),
            ("$SYS/#", "$SYS/broker", true, true),
            ("a/#", "$queue/a/b", false, false),
            ("$queue/#", "$queue/a/b", true, true),
            ("u/{sub}/#", "u/ann/x", true, true),
            ("u/{sub}/#", "u/ann", true, true),
            ("u/{sub}/#", "u/bob/x", false, false),
            ("u/{sub}/#", "u/+/x", false, true),
            ("u/{sub}", "u/", false, false),
            ("user-{sub}-in", "user-ann-in", true, true),
            ("user-{sub}-in", "user-ann-x-in", false, false),
            ("{wild}", "+", false, true),
            ("{wild}", "a", false, false),
            ("{deep}", "a/b", false, false),
            ("x{empty}", "x", false, false),
            ("x{none}", "x", false, false),
        ] {
            check(text, asked, covers, meets);
        }
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let error = Pattern::new(text, '/', &mut Names::default()).map(|_| ());
            assert_eq!(error, Err(expect.to_owned()));
        }
        check("", "is empty");
        check("a/#/b", "`a/#/b`: `#` can only be the last level");
        check("a/b+", "`a/b+`: a wildcard stands alone in its level");
        check("a/{sub", "`a/{sub`: a `}` is missing");
        check("a/{Sub}", "`a/{Sub}`: `Sub` is no label");
    }

    proptest::proptest! {
        /// Whatever is covered is met, if it stands for anything.
        #[test]
        fn what_is_covered_is_met(text in "([ab+]/){0,3}[ab+#]", asked in "([ab+]/){0,3}[ab+#]") {
            let (pattern, values) = pattern(&text);
            proptest::prop_assert!(!pattern.covers(&asked, &values) || pattern.meets(&asked, &values));
        }

        /// Level by level against a plain reading of the standard.
        #[test]
        fn a_topic_is_matched_as_brokers_match_it(text in "([ab+]/){0,3}[ab+#]", topic in "([ab]/){0,3}[ab]") {
            fn matches(pattern: &[&str], topic: &[&str]) -> bool {
                match (pattern, topic) {
                    (["#"], _) | ([], []) => true,
                    ([one, pattern @ ..], [level, topic @ ..]) => {
                        (*one == "+" || one == level) && matches(pattern, topic)
                    }
                    _ => false,
                }
            }
            let split = |text: &'_ str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
            let (levels, parts) = (split(&text), split(&topic));
            let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let (pattern, values) = pattern(&text);
            proptest::prop_assert_eq!(pattern.covers(&topic, &values), matches(&levels, &parts));
            proptest::prop_assert_eq!(pattern.meets(&topic, &values), matches(&levels, &parts));
        }
    }
}
