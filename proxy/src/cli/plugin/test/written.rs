//! Values as case files have them.

use std::fmt::Write as _;

use toml_edit::{Array, InlineTable, Value};

use crate::config::cases::{Closing, FieldValues, Moment, Payload, Stored};

pub(super) fn datetime(moment: Moment) -> Value {
    let text = moment.to_toml();
    text.parse().unwrap_or_else(|_| text.into())
}

/// With the largest unit that leaves nothing over.
pub(super) fn duration(milliseconds: u64) -> String {
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let whole = |(unit, _): &(u64, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*unit);
    match units.into_iter().find(whole) {
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}

pub(super) fn number(value: f64) -> Value {
    match value as i64 {
        whole if whole as f64 == value => whole.into(),
        _ => value.into(),
    }
}

pub(super) fn stored_value(stored: &Stored) -> Value {
    match stored {
        Stored::Absent => false.into(),
        Stored::Text(stored) => text(stored),
        Stored::Number(number) => (*number).into(),
    }
}

pub(super) fn field_values(values: &FieldValues) -> Value {
    match values {
        FieldValues::Absent => false.into(),
        FieldValues::Exactly(values) => match values.as_slice() {
            [one] => text(one),
            values => array(values),
        },
    }
}

/// A string on one line, whatever is in it.
pub(in crate::cli::plugin) fn text(text: &str) -> Value {
    let mut quoted = String::new();
    let literal = !text.contains(|c: char| c == '\'' || c.is_control());
    if literal && text.contains(['"', '\\']) {
        quoted = format!("'{text}'");
    } else {
        quoted.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                // Writing to a string cannot fail.
                c if c.is_control() => drop(write!(quoted, "\\U{:08X}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
    }
    quoted.parse().unwrap_or_else(|_| text.into())
}

pub(super) fn array(values: &[String]) -> Value {
    Value::Array(values.iter().map(|value| text(value)).collect::<Array>())
}

pub(super) fn table(entries: impl Iterator<Item = (String, Value)>) -> Value {
    Value::InlineTable(entries.collect::<InlineTable>())
}

/// A text as TOML has it.
pub(super) fn quoted(text: &str) -> String {
    shown(&self::text(text))
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Boolean(there) if !there.value() => "not there".to_owned(),
        value => value.to_string().trim().to_owned(),
    }
}

/// Messages as `to_server` has them.
pub(super) fn arrival(messages: &[Payload]) -> Value {
    match messages {
        [] => Value::from(false),
        [one] => message(one),
        several => Value::Array(several.iter().map(message).collect::<Array>()),
    }
}

pub(in crate::cli::plugin) fn message(payload: &Payload) -> Value {
    let typed = |kind: &str, value: String| table([(kind.to_owned(), text(&value))].into_iter());
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match payload {
        Payload::Text(said) => text(said),
        Payload::Binary(bytes) => typed("binary", Payload::hex(bytes)),
        Payload::Ping(bytes) => typed("ping", lossy(bytes)),
        Payload::Pong(bytes) => typed("pong", lossy(bytes)),
    }
}

pub(super) fn closing(closing: Option<&Closing>) -> Value {
    let Some(Closing { code, reason }) = closing else {
        return Value::from(false);
    };
    let code = i64::from(*code);
    match reason.as_deref() {
        None | Some("") => code.into(),
        Some(reason) => {
            let mut both = InlineTable::new();
            both.insert("code", code.into());
            both.insert("reason", text(reason));
            Value::InlineTable(both)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_one_line_of_toml_and_reads_back(value in "(?s:.{0,40})") {
            let shown = shown(&text(&value));
            prop_assert!(!shown.contains(['\n', '\r']), "{shown:?}");
            let line = format!("a = {shown}\n");
            let read: toml_edit::DocumentMut = line.parse().expect("toml");
            prop_assert_eq!(read["a"].as_str(), Some(value.as_str()));
        }
    }

    #[test]
    fn durations_have_the_largest_unit_that_fits() {
        for (milliseconds, expect) in [
            (0, "0ms"),
            (1, "1ms"),
            (1_500, "1500ms"),
            (60_000, "1m"),
            (5_400_000, "90m"),
            (172_800_000, "2d"),
        ] {
            assert_eq!(duration(milliseconds), expect);
        }
    }
}
