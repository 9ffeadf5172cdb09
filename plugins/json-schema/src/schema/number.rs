//! Values and numbers as JSON Schema compares them: whatever they are written like, and in decimal.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// `1` and `1.0` are equal, and what holds them.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a)| b.get(name).is_some_and(|b| equal(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => a == b,
    }
}

/// How much there is to compare in a value.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 1,
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(name, value)| of_text(name) + weight(value));
            members.sum::<usize>() + 1
        }
        Value::String(text) => of_text(text),
        _ => 1,
    }
}

fn of_text(text: &str) -> usize {
    text.len() / 64 + 1
}

pub(super) fn compare(a: &Number, b: &Number) -> Ordering {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => float(a).total_cmp(&float(b)),
    }
}

pub(super) fn is_integer(number: &Number) -> bool {
    number.as_i128().is_some() || float(number).fract() == 0.0
}

/// Exactly, of what the numbers look like in decimal: 19.99 is a multiple of 0.01.
pub(super) fn is_multiple(number: &Number, of: &Number) -> bool {
    let exact = || {
        let ((a, a_exponent), (b, b_exponent)) = (decimal(number)?, decimal(of)?);
        let common = a_exponent.min(b_exponent);
        let scaled = |value: i128, exponent: i32| {
            let factor = 10_i128.checked_pow((exponent - common).unsigned_abs())?;
            value.checked_mul(factor)
        };
        scaled(a, a_exponent)?.checked_rem(scaled(b, b_exponent)?)
    };
    exact().map_or_else(|| (float(number) % float(of)) == 0.0, |rest| rest == 0)
}

/// Digits and the power of ten that they are multiplied with.
fn decimal(number: &Number) -> Option<(i128, i32)> {
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let value = format!("{whole}{fraction}").parse().ok()?;
    Some((value, exponent - i32::try_from(fraction.len()).ok()?))
}

/// Without a sign of zero.
fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default() + 0.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_that_is_compared_weighs() {
        let weight = |value| super::weight(&value);
        let long = "x".repeat(640);
        assert_eq!(weight(json!(null)), 1);
        assert_eq!(weight(json!([1, "a", true])), 4);
        assert_eq!(weight(json!({"a": 1, "b": {}})), 5);
        assert_eq!(weight(json!(long)), 11);
        assert_eq!(weight(json!({ long: 1 })), 13);
    }

    #[test]
    fn multiples_are_decimal() {
        for (value, of, expect) in [
            ("19.99", "0.01", true),
            ("0.3", "0.1", true),
            ("4.5", "1.5", true),
            ("1e3", "10", true),
            ("-9", "3", true),
            ("0", "7", true),
            ("18446744073709551615", "5", true),
            ("18446744073709551614", "5", false),
            ("19.995", "0.01", false),
            ("1e300", "1e299", true),
            ("7", "2", false),
        ] {
            assert_eq!(
                is_multiple(&number(value), &number(of)),
                expect,
                "{value} {of}"
            );
        }
    }

    #[test]
    fn numbers_are_compared_by_value() {
        for (a, b, expect) in [
            ("1", "1.0", Ordering::Equal),
            ("-0.0", "0", Ordering::Equal),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("-1", "18446744073709551615", Ordering::Less),
            ("1.5", "1", Ordering::Greater),
        ] {
            assert_eq!(compare(&number(a), &number(b)), expect, "{a} {b}");
        }
        assert!(is_integer(&number("2.0")) && !is_integer(&number("2.5")));
    }
}
