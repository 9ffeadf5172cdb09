//! A JSON text as a tree, if all its readers see the same tree.
//!
//! Of a member that stands there twice some readers take the first and some the last: such a text is
//! refused. So is one that is nested deeper than 128 levels, and one whose tree would take more than
//! [`MAX_TREE`] bytes: a thousand connections share an instance's memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sluicegate_plugin::names::are_same_but_for_case;

/// # Errors
/// Why it cannot be read, without quoting any of it.
pub(crate) fn parse(text: &str) -> Result<Value, &'static str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut growth = Growth {
        room: MAX_TREE,
        fault: None,
    };
    let read = Tree(&mut growth).deserialize(&mut reader);
    match read.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) => Err(growth.fault.unwrap_or_else(|| {
            // serde_json tells it by its words only.
            match error.to_string().starts_with("recursion") {
                true => "is nested too deeply",
                false => "is no JSON",
            }
        })),
    }
}

/// Whether a member on the way of a JSON pointer stands there in another case of letters, which some readers take
/// for the same.
pub(crate) fn is_spelled_otherwise(value: &Value, pointer: &str) -> bool {
    pointer.match_indices('/').any(|(at, _)| {
        let (above, below) = (&pointer[..at], &pointer[at + 1..]);
        let key = below.split('/').next().unwrap_or_default();
        let key = key.replace("~1", "/").replace("~0", "~");
        let members = value.pointer(above).and_then(Value::as_object);
        let is_other = |name: &String| *name != key && are_same_but_for_case(name, &key);
        members.is_some_and(|members| members.keys().any(is_other))
    })
}

/// What all parts of a tree share while it grows.
struct Growth {
    /// Bytes that it may still take.
    room: usize,
    /// What is wrong, where it is not the JSON.
    fault: Option<&'static str>,
}

impl Growth {
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.room.checked_sub(bytes);
        self.room = left.ok_or_else(|| self.fail("has too many parts"))?;
        Ok(())
    }

    fn fail<E: Error>(&mut self, why: &'static str) -> E {
        self.fault = Some(why);
        E::custom(why)
    }
}

struct Tree<'a>(&'a mut Growth);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.0.take(text.len())?;
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Tree(self.0))? {
            self.0.take(PART)?;
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        self.0.take(OBJECT)?;
        while let Some(name) = map.next_key::<String>()? {
            self.0.take(PART + name.len())?;
            let member = map.next_value_seed(Tree(self.0))?;
            if members.insert(name, member).is_some() {
                return Err(self.0.fail("has a member twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

/// Bytes, of the 16 MiB that an instance has if nobody says otherwise.
const MAX_TREE: usize = 4 << 20;
/// Bytes of a value in a list that grows, or of a member with its name.
const PART: usize = 64;
/// Bytes of an object, which has room for eleven members from the beginning.
const OBJECT: usize = 640;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_tree_or_none() {
        for text in [
            "null",
            " [1,-2,3.5,\"x\",true] ",
            r#"{"a":{"a":[]},"b":{"a":1e3}}"#,
        ] {
            assert_eq!(parse(text), Ok(serde_json::from_str(text).unwrap()));
        }
        for (text, why) in [
            ("", "is no JSON"),
            ("{", "is no JSON"),
            ("1 2", "is no JSON"),
            ("[1e999]", "is no JSON"),
            (r#"{"a":1,"a":1}"#, "has a member twice"),
            (r#"[{"a":1,"b":2,"\u0061":3}]"#, "has a member twice"),
            (&"[".repeat(200), "is nested too deeply"),
            (
                &format!("[{}0]", "0,".repeat(100_000)),
                "has too many parts",
            ),
            (
                &format!("[{}0]", "{},".repeat(10_000)),
                "has too many parts",
            ),
        ] {
            assert_eq!(parse(text), Err(why));
        }
    }

    #[test]
    fn another_case_of_letters_is_seen() {
        for (text, expect) in [
            (r#"{"a/k":{"s":1,"T":2},"S":3}"#, false),
            (r#"{"a/k":[{"S":1}]}"#, false),
            (r#"["s"]"#, false),
            (r#"{"a/k":{"s":1,"S":2}}"#, true),
            (r#"{"a/k":{"S":1}}"#, true),
            (r#"{"a/k":{"ſ":1}}"#, true),
            (r#"{"A/k":{"s":1}}"#, true),
            (r#"{"a/k":{"s":1},"a/\u212a":{}}"#, true),
        ] {
            let value = parse(text).unwrap();
            assert_eq!(is_spelled_otherwise(&value, "/a~1k/s"), expect, "{text}");
        }
    }
}
