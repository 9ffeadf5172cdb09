//! What of a configuration's text is shown to nobody, not even to point at a mistake on its line.
//!
//! Reports go to logs and to who asks for a reload, and the values of a plugin's config, those that stand beside it by
//! mistake, those that a route puts into headers, and the user in a URL may all be secrets. Their characters become stars, each as many as it has
//! bytes, so that spans stay true. `env:` and `file:` only say where a secret is. What a file with broken syntax
//! means is a guess, so on the lines that are broken everything in quotes is hidden as well.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::Span;
use super::reader::{Table as _, plain};
use super::schema::{Plugin, PluginUse};

/// The text without what may be secret, byte for byte as long.
pub(super) fn masked(text: &str) -> String {
    let (document, faults) = DeTable::parse_recoverable(text);
    let mut hidden = Vec::new();
    table(document.get_ref(), &mut Vec::new(), text, &mut hidden);
    for fault in faults {
        if let Some(span) = fault.span() {
            quoted(text, &span, &mut hidden);
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut hidden_at = vec![false; text.len()];
    for span in hidden {
        if let Some(bytes) = hidden_at.get_mut(span) {
            bytes.fill(true);
        }
    }
    for (at, char) in text.char_indices() {
        // What strings are made of is shown: it is where their mistakes are.
        if hidden_at[at] && !matches!(char, '"' | '\'' | '\\' | '\r' | '\n') {
            out.extend(std::iter::repeat_n('*', char.len_utf8()));
        } else {
            out.push(char);
        }
    }
    out
}

fn table<'t>(table: &'t DeTable<'_>, path: &mut Vec<&'t str>, text: &str, hidden: &mut Vec<Span>) {
    for (key, node) in table {
        path.push(key.get_ref());
        value(node, path, text, hidden);
        path.pop();
    }
}

// The recursion ends: the TOML parser refuses documents nested more than 80 deep.
fn value<'t>(
    node: &'t Spanned<DeValue<'_>>,
    path: &mut Vec<&'t str>,
    text: &str,
    hidden: &mut Vec<Span>,
) {
    match node.get_ref() {
        DeValue::Table(inner) => table(inner, path, text, hidden),
        DeValue::Array(items) => {
            for item in items {
                value(item, path, text, hidden);
            }
        }
        DeValue::String(string) => {
            let span = node.span();
            let source = string.starts_with("env:") || string.starts_with("file:");
            if may_be_secret(path) && !source {
                hidden.push(span);
            } else if let Some(written) = text.get(span.clone())
                && let Some(user) = user_in(written)
            {
                hidden.push(span.start + user.start..span.start + user.end);
            }
        }
        DeValue::Integer(_) | DeValue::Float(_) if is_plugin_config(path) => {
            hidden.push(node.span());
        }
        _ => {}
    }
}

/// Arrays are no part of a path.
fn may_be_secret(path: &[&str]) -> bool {
    is_plugin_config(path)
        || matches!(
            path,
            [.., "request_headers" | "response_headers", "set" | "add", _]
        )
}

fn is_plugin_config(path: &[&str]) -> bool {
    let own = |key: &&str, known: &[&str]| {
        *key == "config" || !known.iter().any(|known| plain(known) == *key)
    };
    match path {
        ["plugin", _, key, ..] => own(key, Plugin::KEYS),
        ["route", "plugins", key, ..] => own(key, PluginUse::KEYS),
        _ => false,
    }
}

/// The user and the password of a URL.
fn user_in(text: &str) -> Option<Span> {
    let start = text.find("://")? + 3;
    let end = text[start..].rfind('@')? + start;
    Some(start..end)
}

/// What stands in quotes on the line of a span, up to the line's end where nothing closes them.
fn quoted(text: &str, span: &Span, hidden: &mut Vec<Span>) {
    let at = text.floor_char_boundary(span.start.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..]
        .find('\n')
        .map_or(text.len(), |length| at + length);
    let mut open: Option<(char, usize)> = None;
    for (offset, char) in text[start..end].char_indices() {
        let here = start + offset;
        match open {
            None if matches!(char, '"' | '\'') => open = Some((char, here)),
            Some((quote, from)) if quote == char => {
                hidden.push(from..here);
                open = None;
            }
            _ => {}
        }
    }
    if let Some((_, from)) = open {
        hidden.push(from..end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(masked(text), expected);
        assert_eq!(masked(text).len(), text.len());
    }

    #[test]
    fn values_that_may_be_secrets_are_hidden_and_their_places_stay() {
        check(
            "[plugin.a]\nconfig = { key = \"hunter2\", pin = 1234, on = true }",
            "[plugin.a]\nconfig = { key = \"*******\", pin = ****, on = true }",
        );
        check(
            "[plugin.a.config.keys]\nci = [\"ü\", '''a\nb''']\n",
            "[plugin.a.config.keys]\nci = [\"**\", '''*\n*''']\n",
        );
        check(
            "[[route]]\nplugins = [{ use = \"a\", config = { key = \"k\" } }]",
            "[[route]]\nplugins = [{ use = \"a\", config = { key = \"*\" } }]",
        );
        check(
            "[[route]]\nrequest_headers = { set = { authorization = \"Bearer x\" } }",
            "[[route]]\nrequest_headers = { set = { authorization = \"********\" } }",
        );
        check(
            "[plugin.a]\nwasm = \"a.wasm\"\nkey = \"hunter2\"",
            "[plugin.a]\nwasm = \"a.wasm\"\nkey = \"*******\"",
        );
        check(
            "[upstream.a]\nservers = [\"http://u:p@10.0.0.1:80\"]",
            "[upstream.a]\nservers = [\"http://***@10.0.0.1:80\"]",
        );
    }

    #[test]
    fn everything_else_is_shown() {
        for text in [
            "[plugin.a]\nwasm = \"a.wasm\"\nconfig = { key = \"env:KEY\", other = \"file:key\" }",
            "[[route]]\nhost = \"a.test\"\nresponse_headers = { remove = [\"server\"] }",
            "[upstream.config]\nservers = [\"http://10.0.0.1:80\"]",
            "bind = 127.0.0.1:80",
        ] {
            check(text, text);
        }
    }

    #[test]
    fn on_broken_lines_what_is_in_quotes_is_hidden() {
        check(
            "[[listener]]\nbind = \":80\"\n[plugin.a]\nconfig = { key = \"hunter2 }",
            "[[listener]]\nbind = \":80\"\n[plugin.a]\nconfig = { key = \"*********",
        );
        check(
            "[plugin.a]\nconfig = { key = \"hunter\\q2\" }",
            "[plugin.a]\nconfig = { key = \"******\\**\" }",
        );
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_length(text in "[a-z\\[\\]{}=.\"'\\\\ü\r\n\t# ]{0,80}") {
            prop_assert_eq!(masked(&text).len(), text.len());
        }
    }
}
