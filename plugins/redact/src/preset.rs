//! What is found out of the box: personal data that has a form, and where it can, a checksum.
//!
//! One pass over the bytes. All that is looked for holds a digit, a `+`, an `@` or a `:`, so every other byte
//! costs one look into a table; what is found there is then tried by hand. Text that is part of a longer word
//! or number is nothing that is looked for: neither the digits of a fraction nor a group of a UUID.

use std::net::Ipv6Addr;
use std::ops::Range;

use sluicegate_plugin::config;

mod number;

/// A kind of personal data.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// Numbers of payment cards: an issuer's prefix, its length, Luhn's checksum; in one piece or in groups.
    Card,
    /// Email addresses.
    Email,
    /// Phone numbers with their country's code, as `+49 30 901820` (E.164).
    Phone,
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Bank accounts: length of the country, checksum; in one piece or in groups.
    Iban,
    /// Social security numbers of the US, as `123-45-6789`.
    Ssn,
}

impl Preset {
    /// As it is written in a config.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Preset::Card => "card",
            Preset::Email => "email",
            Preset::Phone => "phone",
            Preset::Ipv4 => "ipv4",
            Preset::Ipv6 => "ipv6",
            Preset::Iban => "iban",
            Preset::Ssn => "ssn",
        }
    }
}

/// Presets to look for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Presets(u8);

impl Presets {
    fn has(self, preset: Preset) -> bool {
        self.0 & 1 << preset as u8 != 0
    }

    /// The first of them in a text from a byte on.
    pub(crate) fn find(self, text: &str, from: usize) -> Option<(Preset, Range<usize>)> {
        if self == Presets::default() {
            return None;
        }
        let bytes = text.as_bytes();
        // Before `tried` no colon is worth another look.
        let (mut at, mut tried) = (from, from);
        while let Some(&byte) = bytes.get(at) {
            if MARK[usize::from(byte)] {
                let found = match byte {
                    b'@' => self.try_one(Preset::Email, email(bytes, from, at)),
                    b'+' => self.try_one(Preset::Phone, number::phone(bytes, at)),
                    b':' if at < tried => None,
                    b':' => match self.at_colon(bytes, from, at) {
                        Ok(found) => Some(found),
                        Err(end) => {
                            tried = end;
                            None
                        }
                    },
                    _ => match self.at_digit(bytes, from, at) {
                        Ok(found) => Some(found),
                        // The next thing begins behind this run of digits, or is not of digits.
                        Err(end) => {
                            at = end;
                            continue;
                        }
                    },
                };
                if found.is_some() {
                    return found;
                }
            }
            at += 1;
        }
        None
    }

    /// At the first digit of a run: what it begins, or where the run ends.
    fn at_digit(
        self,
        bytes: &[u8],
        from: usize,
        at: usize,
    ) -> Result<(Preset, Range<usize>), usize> {
        let end = at + digits(&bytes[at..]);
        let next = bytes.get(end).copied();
        let run = end - at;
        if is_inside(bytes, at) {
            // The two letters before it may belong to it.
            let iban = self.has(Preset::Iban) && at >= from + 2 && run >= 2;
            return match iban.then(|| number::iban(bytes, at - 2)).flatten() {
                Some(range) => Ok((Preset::Iban, range)),
                None => Err(end),
            };
        }
        if self.has(Preset::Card)
            && (run >= number::SHORTEST_CARD || (run >= 4 && matches!(next, Some(b' ' | b'-'))))
            && let Some(range) = number::card(bytes, at)
        {
            return Ok((Preset::Card, range));
        }
        match next {
            Some(b'-') if run == 3 && self.has(Preset::Ssn) => {
                if let Some(range) = number::ssn(bytes, at) {
                    return Ok((Preset::Ssn, range));
                }
            }
            Some(b'.') if run <= 3 && self.has(Preset::Ipv4) => {
                if let Some(range) = ipv4(bytes, at) {
                    return Ok((Preset::Ipv4, range));
                }
            }
            _ => {}
        }
        Err(end)
    }

    /// At the first colon of a run: the address that it is in, or up to where there is none.
    fn at_colon(
        self,
        bytes: &[u8],
        from: usize,
        at: usize,
    ) -> Result<(Preset, Range<usize>), usize> {
        // Where a JSON key ends, and in `https://`, no group stands before a colon, nor another colon behind.
        let before = at > from && bytes[at - 1].is_ascii_hexdigit();
        let after = bytes.get(at + 1);
        let begins = match before {
            true => after.is_some_and(|byte| byte.is_ascii_hexdigit() || *byte == b':'),
            false => after == Some(&b':'),
        };
        if !begins || !self.has(Preset::Ipv6) {
            return Err(at + 1);
        }
        ipv6(bytes, from, at).map(|range| (Preset::Ipv6, range))
    }

    fn try_one(
        self,
        preset: Preset,
        found: Option<Range<usize>>,
    ) -> Option<(Preset, Range<usize>)> {
        found
            .filter(|_| self.has(preset))
            .map(|range| (preset, range))
    }
}

impl FromIterator<Preset> for Presets {
    fn from_iter<T: IntoIterator<Item = Preset>>(presets: T) -> Self {
        let bits = presets.into_iter().map(|preset| 1 << preset as u8);
        Presets(bits.fold(0, |all, one| all | one))
    }
}

/// `local@domain.tld` around an `@` (the plain form of RFC 5321; no quoted local parts).
fn email(bytes: &[u8], from: usize, at: usize) -> Option<Range<usize>> {
    let local = |byte: &&u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(byte);
    let mut start = at - bytes[from..at].iter().rev().take_while(local).count();
    // What only quotes or encloses an address is not part of it.
    while start < at && !(bytes[start].is_ascii_alphanumeric() || bytes[start] == b'_') {
        start += 1;
    }
    let host = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-' || **byte == b'.';
    let mut domain = &bytes[at + 1..];
    domain = &domain[..domain.iter().take_while(host).count()];
    while let [rest @ .., b'.' | b'-'] = domain {
        domain = rest;
    }
    let dot = domain.iter().rposition(|byte| *byte == b'.')?;
    let (name, top) = (&domain[..dot], &domain[dot + 1..]);
    let good = start < at
        && name.first().is_some_and(u8::is_ascii_alphanumeric)
        && top.len() >= 2
        && top.iter().any(u8::is_ascii_alphabetic);
    good.then(|| start..at + 1 + domain.len())
}

/// Four numbers up to 255, without zeros in front.
fn ipv4(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let mut end = at;
    for group in 0..4 {
        if group > 0 {
            end += ".".len();
            bytes.get(end).filter(|_| bytes[end - 1] == b'.')?;
        }
        let len = digits(&bytes[end..bytes.len().min(end + 4)]);
        let number = &bytes[end..end + len];
        let value = number
            .iter()
            .fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
        if len == 0 || value > 255 || (len > 1 && number[0] == b'0') {
            return None;
        }
        end += len;
    }
    (!is_followed(bytes, end)).then_some(at..end)
}

/// Around its first colon. If there is none: up to where there is none, for each run of groups is tried once.
fn ipv6(bytes: &[u8], from: usize, at: usize) -> Result<Range<usize>, usize> {
    let hex = |byte: &&u8| byte.is_ascii_hexdigit();
    // A group has four digits at most: one more shows that there are too many.
    let start = at - bytes[from..at].iter().rev().take(5).take_while(hex).count();
    if start > 0 && is_word(bytes[start - 1]) {
        return Err(at + 1);
    }
    let of_it = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
    let run = extent(&bytes[start..], of_it);
    let mut len = run;
    while len > 0 && bytes[start + len - 1] == b'.' {
        len -= 1;
    }
    let parses = |len: usize| {
        let text = bytes
            .get(start..start + len)
            .filter(|_| len <= LONGEST_IPV6);
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        text.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok())
    };
    // A colon behind it is punctuation.
    if len > 0 && bytes[start + len - 1] == b':' && !parses(len) {
        len -= 1;
    }
    let range = start..start + len;
    // `dead::beef` may well be a name of something.
    let digit = bytes[range.clone()].iter().any(u8::is_ascii_digit);
    match digit && !is_followed(bytes, range.end) && parses(len) {
        true => Ok(range),
        false => Err(start + run),
    }
}

/// Whether what begins here goes on something before it: a word, a fraction, a hyphenated id.
fn is_inside(bytes: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| bytes[at]);
    match before(1) {
        Some(b'.') => before(2).is_some_and(|byte| byte.is_ascii_digit()),
        Some(b'-') => before(2).is_some_and(is_word),
        Some(byte) => is_word(byte),
        None => false,
    }
}

/// Whether what ends here is followed by more of the same: a letter, a digit, a fraction.
fn is_followed(bytes: &[u8], end: usize) -> bool {
    match bytes.get(end) {
        Some(b'.' | b'-') => bytes.get(end + 1).is_some_and(|byte| is_word(*byte)),
        Some(byte) => is_word(*byte),
        None => false,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn digits(bytes: &[u8]) -> usize {
    extent(bytes, |byte| byte.is_ascii_digit())
}

fn extent(bytes: &[u8], of_it: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| !of_it(*byte))
        .unwrap_or(bytes.len())
}

const LONGEST_IPV6: usize = "0000:0000:0000:0000:0000:ffff:255.255.255.255".len();

/// The bytes at which something can be found.
static MARK: [bool; 256] = {
    let mut mark = [false; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        mark[digit as usize] = true;
        digit += 1;
    }
    mark[b'@' as usize] = true;
    mark[b'+' as usize] = true;
    mark[b':' as usize] = true;
    mark
};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Preset; 7] = [
        Preset::Card,
        Preset::Email,
        Preset::Phone,
        Preset::Ipv4,
        Preset::Ipv6,
        Preset::Iban,
        Preset::Ssn,
    ];

    /// Everything that is found in a text, as `name=text`.
    fn found(text: &str) -> Vec<String> {
        let presets: Presets = ALL.into_iter().collect();
        let (mut all, mut from) = (Vec::new(), 0);
        while let Some((preset, range)) = presets.find(text, from) {
            all.push(format!("{}={}", preset.name(), &text[range.clone()]));
            from = range.end;
        }
        all
    }

    #[test]
    fn what_has_the_form_is_found() {
        #[track_caller]
        fn check(text: &str, expect: &[&str]) {
            assert_eq!(found(text), expect, "{text}");
        }
        check("pay 4111 1111 1111 1111.", &["card=4111 1111 1111 1111"]);
        check("4111-1111-1111-1111", &["card=4111-1111-1111-1111"]);
        check(r#"{"n":5555555555554444}"#, &["card=5555555555554444"]);
        check("(378282246310005)", &["card=378282246310005"]);
        check("3782 822463 10005", &["card=3782 822463 10005"]);
        check("card:4111111111111111", &["card=4111111111111111"]);
        check("6011000990139424", &["card=6011000990139424"]);
        check(
            "mail a.b+c@mail.example.org, ok",
            &["email=a.b+c@mail.example.org"],
        );
        check("<ann@example.com>.", &["email=ann@example.com"]);
        check("mailto:ann@example.com?x", &["email=ann@example.com"]);
        check("ann@example.com.", &["email=ann@example.com"]);
        check("ümlaut@example.com", &["email=mlaut@example.com"]);
        check("call +49 30 901820-0!", &["phone=+49 30 901820-0"]);
        check("+1 (555) 010-9999", &["phone=+1 (555) 010-9999"]);
        check("+442079460000", &["phone=+442079460000"]);
        check("from 192.0.2.1.", &["ipv4=192.0.2.1"]);
        check("192.0.2.1:8080", &["ipv4=192.0.2.1"]);
        check("[2001:db8::1]:443", &["ipv6=2001:db8::1"]);
        check("::1 and fe80::a1: no", &["ipv6=::1", "ipv6=fe80::a1"]);
        check("::ffff:192.0.2.1", &["ipv6=::ffff:192.0.2.1"]);
        check("2001:db8:0:0:0:0:0:1", &["ipv6=2001:db8:0:0:0:0:0:1"]);
        check(
            "DE89 3704 0044 0532 0130 00 is it",
            &["iban=DE89 3704 0044 0532 0130 00"],
        );
        check("gb82west12345698765432", &["iban=gb82west12345698765432"]);
        check("SSN 123-45-6789", &["ssn=123-45-6789"]);
        check(
            "ann@example.com 192.0.2.1 4111111111111111",
            &[
                "email=ann@example.com",
                "ipv4=192.0.2.1",
                "card=4111111111111111",
            ],
        );
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "",
            "no digits here",
            // Luhn, issuer, length.
            "4111 1111 1111 1112",
            "1111111111111117",
            "1766016000000",
            "411111111111111",
            // Parts of something longer.
            "0.4111111111111111",
            "4111111111111111.5",
            "x4111111111111111",
            "4111111111111111x",
            "44111111111111111111",
            "550e8400-e29b-4111-8111-4111111111111111",
            // No address.
            "@example.com",
            "a@b",
            "a@.com",
            "a@1.2",
            "@",
            "ann@",
            "1+1",
            "+12345",
            "+0 1234567",
            "+1234567890123456",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "v1.2.3.4",
            "1.2.3.4-beta",
            "12:34:56",
            "std::vec",
            "dead::beef",
            "::",
            ":",
            r#"{"a":1,"b":{"c":2}}"#,
            "https://example.com/",
            "DE88370400440532013000",
            "XX89370400440532013000",
            "DE8937040044053201300",
            "XDE89370400440532013000",
            "000-45-6789",
            "666-45-6789",
            "912-45-6789",
            "123-00-6789",
            "123-45-0000",
            "123-45-67890",
            "2123-45-6789",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_found() {
        let text = "+442079460000 ann@example.com 192.0.2.1 ::1 123-45-6789 4111111111111111 \
                    DE89370400440532013000";
        assert_eq!(found(text).len(), ALL.len());
        for preset in ALL {
            let only: Presets = [preset].into_iter().collect();
            let (first, range) = only.find(text, 0).unwrap();
            assert_eq!(first, preset);
            assert_eq!(only.find(text, range.end), None);
        }
    }

    proptest::proptest! {
        /// Any text at all, and one of nothing but what matters.
        #[test]
        fn a_match_is_a_piece_of_the_text(
            text in "([0-9a-f:.@+() DE-]|\\PC){0,80}",
        ) {
            let presets: Presets = ALL.into_iter().collect();
            let mut from = 0;
            while let Some((_, range)) = presets.find(&text, from) {
                proptest::prop_assert!(range.start >= from && range.end > range.start);
                proptest::prop_assert!(text.get(range.clone()).is_some());
                from = range.end;
            }
        }
    }
}
