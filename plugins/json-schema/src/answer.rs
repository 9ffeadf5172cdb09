//! Texts with `{names}` in them, filled in once: what is put in is not looked at again.

/// With each value as it is.
pub(crate) fn plain(template: &str, names: &[(&str, &str)]) -> String {
    filled(template, names, str::to_owned)
}

/// With each value as it is written within a JSON string.
pub(crate) fn json(template: &str, names: &[(&str, &str)]) -> String {
    filled(template, names, |value| {
        let quoted = serde_json::Value::from(value).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    })
}

fn filled(template: &str, names: &[(&str, &str)], write: impl Fn(&str) -> String) -> String {
    let (mut out, mut rest) = (String::new(), template);
    while let Some(brace) = rest.find('{') {
        let (before, after) = rest.split_at(brace);
        out.push_str(before);
        match names.iter().find(|(name, _)| after.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(&write(value));
                rest = &after[name.len()..];
            }
            None => {
                out.push('{');
                rest = &after[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_filled_once() {
        let names = [("{a}", "{b}\""), ("{b}", "\n")];
        assert_eq!(plain("{x{a}{b}{", &names), "{x{b}\"\n{");
        assert_eq!(json(r#"{"{a}":"{b}"}"#, &names), r#"{"{b}\"":"\n"}"#);
    }
}
