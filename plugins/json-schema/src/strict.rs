//! A JSON text as a tree, if all its readers see the same tree.
//!
//! Of a member that stands there twice some readers take the first and some the last: such a text is
//! refused. So is one that is nested deeper than 128 levels.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// # Errors
/// Why it cannot be read, without quoting any of it.
pub(crate) fn parse(text: &str) -> Result<Value, &'static str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let twice = &mut false;
    let read = Tree { twice: &mut *twice }.deserialize(&mut reader);
    match read.and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) if *twice => Err("has a member twice"),
        // serde_json tells it by its words only.
        Err(error) if error.to_string().starts_with("recursion") => Err("is nested too deeply"),
        Err(_) => Err("is no JSON"),
    }
}

struct Tree<'a> {
    /// Set where a member stands twice.
    twice: &'a mut bool,
}

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
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Tree { twice: self.twice })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let member = map.next_value_seed(Tree { twice: self.twice })?;
            if members.insert(name, member).is_some() {
                *self.twice = true;
                return Err(A::Error::custom("a member stands there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

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
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }
}
