//! Patterns as JSON Schema has them (ECMA-262) for an engine that runs in linear time.
//!
//! `\d`, `\w` and `\b` are ASCII's there, `\s` is not; a bracket within brackets is one. Lookarounds and
//! backreferences do not exist here, nor do `\p{…}` classes.

use regex::{Regex, RegexBuilder};

/// # Errors
/// Why it cannot be used.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&translated(pattern))
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_PROGRAM)
        .build();
    built.map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next_back().unwrap_or_default();
        line.trim_start_matches("error: ").to_owned()
    })
}

fn translated(pattern: &str) -> String {
    let (mut out, mut in_class) = (String::new(), false);
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(&format!("[{BLANKS}]")),
                Some('S') => out.push_str(&format!("[^{BLANKS}]")),
                Some('b') if in_class => out.push_str(r"\x08"),
                Some('b') => out.push_str(r"(?-u:\b)"),
                Some('/') => out.push('/'),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if in_class => out.push_str(r"\["),
            '&' | '~' if in_class => out.extend(['\\', char]),
            '[' => {
                in_class = true;
                out.push('[');
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            _ => out.push(char),
        }
    }
    out
}

const BLANKS: &str =
    r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";
/// Bytes of a compiled pattern, and of what it remembers while it runs.
const MAX_PROGRAM: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_the_standard() {
        for (pattern, text, expect) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^[\d-]+$", "1-2", true),
            (r"^[^\W_]+$", "a_b", false),
            (r"^\w+$", "é", false),
            (r"\s", "\u{a0}", true),
            (r"^\S$", "x", true),
            (r"\bcat\b", "écat", true),
            (r"^[[&]+$", "[&", true),
            (r"^a\/b$", "a/b", true),
            (r"^\u00e9$", "é", true),
            ("^.$", "é", true),
            ("a$", "a\n", false),
        ] {
            let found = compile(pattern).unwrap().is_match(text);
            assert_eq!(found, expect, "{pattern} {text:?}");
        }
        for (pattern, why) in [
            (
                "(?=a)",
                "look-around, including look-ahead and look-behind, is not supported",
            ),
            (r"(a)\1", "backreferences are not supported"),
            (
                r"\",
                "incomplete escape sequence, reached end of pattern prematurely",
            ),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), why);
        }
    }
}
