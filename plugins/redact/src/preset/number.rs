//! Numbers with rules of their own: cards (ISO/IEC 7812), phones (E.164), accounts (ISO 13616), US social
//! security.
//!
//! Each function looks at a place that does not go on something before it, and finds the whole or nothing.

use std::ops::Range;

use super::{digits, is_followed, is_inside, is_word};

/// 13 to 19 digits in one piece, or in groups with a blank or a hyphen between them.
pub(super) fn card(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    if !matches!(bytes[at], b'2'..=b'6') {
        return None;
    }
    let mut number = [0; LONGEST_CARD];
    let (mut len, mut end) = (0, at);
    loop {
        let group = digits(&bytes[end..]);
        // Numbers beside each other are no groups of one.
        if len > 0 && !(3..=7).contains(&group) {
            break;
        }
        let room = number.get_mut(len..len + group)?;
        for (digit, byte) in room.iter_mut().zip(&bytes[end..]) {
            *digit = byte - b'0';
        }
        len += group;
        end += group;
        match bytes.get(end..end + 2) {
            Some([b' ' | b'-', next]) if next.is_ascii_digit() => end += 1,
            _ => break,
        }
    }
    let number = &number[..len];
    let good = !is_followed(bytes, end) && is_issued(number) && luhn(number);
    good.then_some(at..end)
}

/// Whether some issuer's numbers begin like this and have this length.
fn is_issued(number: &[u8]) -> bool {
    let Some(head) = number.first_chunk::<6>() else {
        return false;
    };
    let prefix = head
        .iter()
        .fold(0, |sum, digit| sum * 10 + u32::from(*digit));
    let fits = |&(low, high, ref lengths): &(u32, u32, Range<usize>)| {
        (low..=high).contains(&prefix) && lengths.contains(&number.len())
    };
    ISSUERS.iter().any(fits)
}

fn luhn(number: &[u8]) -> bool {
    let sum = number.iter().rev().enumerate().map(|(place, digit)| {
        let doubled = if place % 2 == 1 { digit * 2 } else { *digit };
        u32::from(doubled / 10 + doubled % 10)
    });
    sum.sum::<u32>().is_multiple_of(10)
}

/// `+` and 8 to 15 digits, with blanks, hyphens, dots and brackets between them.
pub(super) fn phone(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    if at > 0 && is_word(bytes[at - 1]) || bytes.get(at + 1).is_none_or(|first| *first == b'0') {
        return None;
    }
    let (mut count, mut end, mut gap) = (0, at + 1, 0);
    for (place, byte) in bytes.iter().enumerate().skip(at + 1) {
        match byte {
            b'0'..=b'9' => {
                count += 1;
                end = place + 1;
                gap = 0;
            }
            b' ' | b'-' | b'.' | b'(' | b')' if count > 0 && gap < 2 => gap += 1,
            _ => break,
        }
        if count > 15 {
            return None;
        }
    }
    (count >= 8 && !is_followed(bytes, end)).then_some(at..end)
}

/// From the letters of its country on.
pub(super) fn iban(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    if is_inside(bytes, at) {
        return None;
    }
    let country = [bytes[at], bytes[at + 1]].map(|byte| byte.to_ascii_uppercase());
    let expect = length_of(country)?;
    let (mut account, mut len) = ([0; LONGEST_IBAN], 0);
    let mut end = at;
    while len < expect {
        let byte = *bytes.get(end)?;
        end += 1;
        if byte == b' ' && len % 4 == 0 && bytes[end - 2] != b' ' {
            continue;
        }
        if !byte.is_ascii_alphanumeric() {
            return None;
        }
        *account.get_mut(len)? = byte.to_ascii_uppercase();
        len += 1;
    }
    if is_followed(bytes, end) {
        return None;
    }
    // ISO 7064, MOD 97-10: the first four come last, letters are 10 to 35.
    let (first, rest) = account[..len].split_at(4);
    let value = rest.iter().chain(first).fold(0_u32, |sum, byte| {
        let next = match byte {
            b'0'..=b'9' => sum * 10 + u32::from(byte - b'0'),
            letter => sum * 100 + u32::from(letter - b'A' + 10),
        };
        next % 97
    });
    (value == 1).then_some(at..end)
}

/// How long the accounts of a country are.
fn length_of(country: [u8; 2]) -> Option<usize> {
    let entries = IBAN_LENGTHS.as_chunks::<5>().0;
    let index = entries
        .binary_search_by(|entry| entry[..2].cmp(&country))
        .ok()?;
    let [_, _, tens, ones, _] = entries[index];
    Some(usize::from(tens - b'0') * 10 + usize::from(ones - b'0'))
}

/// `123-45-6789`, but for what was never given out.
pub(super) fn ssn(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let end = at + "123-45-6789".len();
    let text = bytes.get(at..end)?;
    let form = text.iter().enumerate().all(|(place, byte)| match place {
        3 | 6 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    let given =
        area != b"000" && area != b"666" && area[0] != b'9' && group != b"00" && serial != b"0000";
    (form && given && !is_followed(bytes, end)).then_some(at..end)
}

pub(super) const SHORTEST_CARD: usize = 13;
const LONGEST_CARD: usize = 19;
const LONGEST_IBAN: usize = 34;

/// First and last prefix of six digits, and the lengths (half open).
const ISSUERS: [(u32, u32, Range<usize>); 12] = [
    (222_100, 272_099, 16..17), // Mastercard
    (300_000, 305_999, 14..20), // Diners Club
    (340_000, 349_999, 15..16), // American Express
    (352_800, 358_999, 16..20), // JCB
    (360_000, 369_999, 14..20), // Diners Club
    (370_000, 379_999, 15..16), // American Express
    (380_000, 399_999, 16..20), // Diners Club
    (400_000, 499_999, 13..20), // Visa
    (500_000, 509_999, 13..20), // Maestro
    (510_000, 559_999, 16..17), // Mastercard
    (560_000, 599_999, 13..20), // Maestro
    (600_000, 699_999, 13..20), // Discover, Maestro, Mir's partners, UnionPay
];

/// The registry of ISO 13616, sorted, five bytes each.
const IBAN_LENGTHS: &[u8] = b"AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 \
CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 \
IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 \
MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 \
SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30 ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_can_be_looked_up() {
        let (entries, rest) = IBAN_LENGTHS.as_chunks::<5>();
        assert!(rest.is_empty() && entries.is_sorted());
        for entry in entries {
            let len = length_of([entry[0], entry[1]]);
            assert!(len.is_some_and(|len| (15..=LONGEST_IBAN).contains(&len)));
        }
        assert_eq!(length_of(*b"DE"), Some(22));
        assert_eq!(length_of(*b"XX"), None);
    }
}
