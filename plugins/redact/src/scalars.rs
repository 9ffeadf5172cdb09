//! A JSON text, or several in a row, whose strings and numbers are looked at one by one, so that it stays JSON.
//!
//! A string is seen as its reader will see it: `\u0040` is an `@`, and a lone surrogate U+FFFD. What is written in
//! its place is escaped. A number in which something was found becomes a string. Outside of lists and objects
//! numbers with blanks between them are looked at together: they may be no JSON at all, but a card's groups.
//! Everything else stays byte for byte as it was: blanks, order, repeated keys, how other strings are escaped.

use serde::de::IgnoredAny;

/// Where the JSON of a message begins; `None`: it is no JSON.
///
/// A packet's head may stand before it, as socket.io has it: `42/chat,["say",{…}]`. Several JSON texts may follow
/// each other, with blanks, line ends or U+001E between and after them, as in NDJSON, RFC 7464 and SignalR.
pub(crate) fn begin(text: &str) -> Option<usize> {
    let value = text.find(['{', '[', '"'])?;
    let prefix = &text[..value];
    if !is_sequence(&text[value..]) {
        return None;
    }
    if is_sequence(prefix) {
        return Some(0);
    }
    let of_packet = |byte: u8| byte.is_ascii_alphanumeric() || b"/_,-".contains(&byte);
    let packet =
        prefix.starts_with(|first: char| first.is_ascii_digit()) && prefix.bytes().all(of_packet);
    packet.then_some(value)
}

/// Rewrites the strings (keys among them) and numbers of a JSON text; `None`: none was changed.
///
/// `redact` says what stands in a scalar's place, `None`: what stood there.
pub(crate) fn rewrite(
    json: &str,
    mut redact: impl FnMut(&str) -> Option<String>,
) -> Option<String> {
    let bytes = json.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    let mut depth = 0_usize;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (len, changed) = match rest[0] {
            b'"' => {
                let len = string(rest);
                let literal = &json[at..at + len];
                let raw = literal.get(1..len - 1).unwrap_or_default();
                let changed = match raw.contains('\\') {
                    false => redact(raw),
                    true => {
                        let text = serde_json::from_str::<String>(literal);
                        let text = text.or_else(|_| serde_json::from_str(&mended(literal)));
                        redact(text.as_deref().unwrap_or(raw))
                    }
                };
                (len, changed)
            }
            byte if is_scalar(byte) => {
                let part = |byte: u8| is_scalar(byte) || (depth == 0 && is_blank(byte));
                let len = rest.iter().position(|byte| !part(*byte));
                let scalar = json[at..at + len.unwrap_or(rest.len())].trim_ascii_end();
                (scalar.len(), redact(scalar))
            }
            byte => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                (1, None)
            }
        };
        if let Some(changed) = changed {
            out.push_str(&json[copied..at]);
            out.push_str(&serde_json::Value::from(changed).to_string());
            copied = at + len;
        }
        at += len;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&json[copied..]);
    Some(out)
}

/// Whether a text is nothing but JSON texts, none of them too.
fn is_sequence(text: &str) -> bool {
    // The separator stands nowhere in a JSON text.
    text.split(RECORD_SEPARATOR).all(|record| {
        let mut values = serde_json::Deserializer::from_str(record).into_iter::<IgnoredAny>();
        values.all(|value| value.is_ok())
    })
}

/// A string literal with U+FFFD for each half of a pair of surrogates that lacks the other.
fn mended(literal: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(literal.len()), literal);
    while let Some((before, escape)) = rest.find('\\').map(|at| rest.split_at(at)) {
        let next = escape.get(6..).and_then(surrogate);
        let (len, with) = match (surrogate(escape), next) {
            (Some(0xD800..0xDC00), Some(0xDC00..)) => (12, None),
            (Some(_), _) => (6, Some("\\ufffd")),
            (None, _) => (2, None),
        };
        let Some((escape, after)) = escape.split_at_checked(len) else {
            break;
        };
        out.push_str(before);
        out.push_str(with.unwrap_or(escape));
        rest = after;
    }
    out + rest
}

/// Half of a pair, if a text begins with the escape of one.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xD800..0xE000).contains(&unit).then_some(unit)
}

/// Bytes of the string literal at the beginning, quotes included.
fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
            None => return bytes.len(),
        }
    }
}

/// Part of a number, or of `true`, `false` and `null`.
fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// Between words of one line.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Behind each message of SignalR, before each of RFC 7464.
const RECORD_SEPARATOR: char = '\u{1e}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_text() {
        #[track_caller]
        fn check(text: &str, expect: Option<usize>) {
            assert_eq!(begin(text), expect, "{text}");
        }
        check(r#"{"a":1}"#, Some(0));
        check(" \n[1]", Some(0));
        check(r#""text""#, Some(0));
        check(r#"42["say",1]"#, Some(0));
        check(
            r#"451-/chat,17["say",{"_placeholder":true,"num":0}]"#,
            Some(12),
        );
        check("[12:30] hello", None);
        check("{curly} text", None);
        check("he said \"x\"", None);
        check("12", None);
        check("", None);
        check("{}\u{1e}[1]\u{1e}", Some(0));
        check("\u{1e}{}\n", Some(0));
        check("{}\n\"x\"\r\n1\n", Some(0));
        check("true\n{}[] null", Some(0));
        check("{} x", None);
        check("{}\u{1e}x", None);
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        check(&deep, Some(0));
    }

    #[test]
    fn only_what_changes_is_written_anew() {
        #[track_caller]
        fn check(json: &str, expect: Option<&str>) {
            let redact = |text: &str| text.contains('7').then(|| text.replace('7', "\"x\\"));
            assert_eq!(rewrite(json, redact).as_deref(), expect);
        }
        check(r#"{ "a" : [1, true, null, -2.5e+3] }"#, None);
        check(r#"{"a":"7","b":1}"#, Some(r#"{"a":"\"x\\","b":1}"#));
        check(
            r#"{"a":17, "b":17}"#,
            Some(r#"{"a":"1\"x\\", "b":"1\"x\\"}"#),
        );
        check(r#"["\u0037","A"]"#, Some(r#"["\"x\\","A"]"#));
        check(r#"["\"7\""]"#, Some(r#"["\"\"x\\\""]"#));
        check(r#"{"7":0}"#, Some(r#"{"\"x\\":0}"#));
        check(r#"["\ud800 \u0037"]"#, Some(r#"["� \"x\\"]"#));
        check(
            r#"["\udc00\ud83d\ude00\\\ud800 7"]"#,
            Some(r#"["�😀\\� \"x\\"]"#),
        );
        check(r#"["\ud800 8"]"#, None);
        check(
            "{}\u{1e}[\"7\"]\u{1e}",
            Some("{}\u{1e}[\"\\\"x\\\\\"]\u{1e}"),
        );
        check("[1] 2 7 \n 3", Some("[1] \"2 \\\"x\\\\\" \n 3"));
        check("", None);
    }

    proptest::proptest! {
        #[test]
        fn json_stays_json(keys in proptest::collection::vec(("\\PC{0,9}", "[7\\\\\"a\\PC]{0,9}", 0..99_i32), 0..5)) {
            let json = keys.iter().map(|(key, text, number)| {
                serde_json::json!({ key.as_str(): [text, number] })
            });
            let before = serde_json::Value::from_iter(json);
            let redact = |text: &str| text.contains('7').then(|| text.replace('7', "\"\\\n"));
            let after = rewrite(&before.to_string(), redact).unwrap_or(before.to_string());
            let after: serde_json::Value = serde_json::from_str(&after).unwrap();
            proptest::prop_assert!(!after.to_string().contains('7'));
        }

        #[test]
        fn what_is_no_json_does_no_harm(text in "[\\PC\"\\\\0-9]{0,40}") {
            rewrite(&text, |scalar| Some(scalar.to_owned()));
        }

        #[test]
        fn every_string_can_be_read(
            text in proptest::collection::vec(r#"\\\\|\\n|\\u[dD][89cDf][0-9]{2}|\\u00e9|é|u"#, 0..9),
        ) {
            let literal = format!("\"{}\"", text.concat());
            let mended = mended(&literal);
            proptest::prop_assert!(serde_json::from_str::<String>(&mended).is_ok(), "{}", mended);
            if serde_json::from_str::<String>(&literal).is_ok() {
                proptest::prop_assert_eq!(mended, literal);
            }
        }
    }
}
