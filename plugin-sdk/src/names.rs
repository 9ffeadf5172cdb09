//! Names that clients choose, such as a JSON text's members, as different readers take them.

/// Whether two names are the same but for the case of letters. Some servers take such members of a JSON text for
/// one, so a filter that judges by the one should not let the other pass.
///
/// By all of Unicode, in which `ſ` is another `s` and the sign of kelvin a `k`.
///
/// ```
/// use sluicegate_plugin::names::are_same_but_for_case;
///
/// assert!(are_same_but_for_case("type", "Type"));
/// assert!(are_same_but_for_case("links", "lin\u{212a}ſ"));
/// assert!(!are_same_but_for_case("type", "types"));
/// ```
pub fn are_same_but_for_case(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    folded(a).eq(folded(b))
}

fn folded(name: &str) -> impl Iterator<Item = char> {
    let upper = name.chars().flat_map(char::to_uppercase);
    // More than one it is of `İ` only, which some take for an `i` and some for one with a dot.
    upper.filter_map(|letter| letter.to_lowercase().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_reader_takes_for_the_same_is_the_same() {
        for (name, other, expect) in [
            ("op", "op", true),
            ("op", "oP", true),
            ("op", "ops", false),
            ("links", "lın\u{212a}ſ", true),
            ("links", "LİNKS", true),
            ("link", "linkß", false),
            ("öp", "ÖP", true),
            ("öp", "op", false),
            ("", "", true),
        ] {
            assert_eq!(are_same_but_for_case(name, other), expect, "{name} {other}");
            assert_eq!(are_same_but_for_case(other, name), expect, "{other} {name}");
        }
    }
}
