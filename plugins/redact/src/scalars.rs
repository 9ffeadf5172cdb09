//! A JSON text whose strings and numbers are looked at one by one, so that it stays JSON.
//!
//! A string is seen as its reader will see it: `\u0040` is an `@`. What is written in its place is escaped. A
//! number in which something was found becomes a string. Everything else stays byte for byte as it was:
//! blanks, order, repeated keys, how other strings are escaped.

use serde::de::IgnoredAny;

/// Where the JSON of a message begins; `None`: it is no JSON.
///
/// Digits and a namespace may stand before it, as socket.io has it: `42/chat,["say",{…}]`.
pub(crate) fn begin(text: &str) -> Option<usize> {
    let value = text.find(['{', '[', '"'])?;
    let prefix = &text[..value];
    let blank = prefix.bytes().all(|byte| byte.is_ascii_whitespace());
    let of_packet = |byte: u8| byte.is_ascii_alphanumeric() || b"/_,-".contains(&byte);
    let packet = prefix.len() <= MAX_PREFIX
        && prefix.starts_with(|first: char| first.is_ascii_digit())
        && prefix.bytes().all(of_packet);
    let good = (blank || packet) && serde_json::from_str::<IgnoredAny>(&text[value..]).is_ok();
    good.then_some(value)
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
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (len, changed) = match rest[0] {
            b'"' => {
                let len = string(rest);
                let literal = &json[at..at + len];
                let raw = literal.get(1..len - 1).unwrap_or_default();
                let changed = match raw.contains('\\') {
                    false => redact(raw),
                    // A lone surrogate is no text: then it is looked at as it is written.
                    true => match serde_json::from_str::<String>(literal) {
                        Ok(text) => redact(&text),
                        Err(_) => redact(raw),
                    },
                };
                (len, changed)
            }
            byte if is_scalar(byte) => {
                let len = rest.iter().position(|byte| !is_scalar(*byte));
                let len = len.unwrap_or(rest.len());
                (len, redact(&json[at..at + len]))
            }
            _ => (1, None),
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

/// Before the JSON of a socket.io packet.
const MAX_PREFIX: usize = 128;

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
        check(" \n[1]", Some(2));
        check(r#""text""#, Some(0));
        check(r#"42["say",1]"#, Some(2));
        check(
            r#"451-/chat,17["say",{"_placeholder":true,"num":0}]"#,
            Some(12),
        );
        check("[12:30] hello", None);
        check("{curly} text", None);
        check("he said \"x\"", None);
        check("12", None);
        check("", None);
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
        check(r#"["\ud800 7"]"#, Some(r#"["\\ud800 \"x\\"]"#));
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
    }
}
