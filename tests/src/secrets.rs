//! Secrets that tests plant wherever the proxy meets secrets, to be found again nowhere in what it says: its log, its
//! access log, its reports, its admin pages.
//!
//! All of that is searched in every test: whoever gives the proxy a password, a token, a cookie or a message that is
//! nobody's business makes it with [`planted`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// A secret that is known by its beginning; good as a token, a cookie, a password and a part of a URL.
pub fn planted(what: &str) -> String {
    format!("{PREFIX}{what}")
}

/// Fails where a planted secret was told, plain or in base64.
pub fn assert_none_in(told: &str) {
    for form in forms() {
        assert!(!told.contains(&form), "a planted secret was told: {told}");
    }
}

/// How the beginning may be written: base64 depends on what stands in front of it.
fn forms() -> Vec<String> {
    let base64 = (0..3).map(|shift| {
        let text = format!("{}{PREFIX}", "x".repeat(shift));
        let encoded = STANDARD_NO_PAD.encode(text);
        // Its first and last characters hold bits of the neighbours too.
        encoded[shift + usize::from(shift > 0)..encoded.len() - 1].to_owned()
    });
    base64.chain([PREFIX.to_owned()]).collect()
}

const PREFIX: &str = "sluicegate-planted-secret-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_secret_is_found_in_every_form() {
        assert_none_in("sluicegate says nothing");
        for told in [
            planted("a"),
            STANDARD_NO_PAD.encode(planted("a")),
            STANDARD_NO_PAD.encode(format!("user:{}", planted("a"))),
            STANDARD_NO_PAD.encode(format!("users:{}", planted("a"))),
            STANDARD_NO_PAD.encode(format!("a user:{}", planted("a"))),
        ] {
            let found = std::panic::catch_unwind(|| assert_none_in(&format!("it was {told}.")));
            assert!(found.is_err(), "{told}");
        }
    }
}
