//! What a JSON text says at a few places, in one pass and without a tree of it.
//!
//! It is read so that no reader behind the proxy can understand it otherwise: a member that is looked for
//! and stands there twice, or in another case of letters (which some readers take for the same), is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sluicegate_plugin::names::are_same_but_for_case;

/// What a place is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Action,
    Topic,
    Id,
}

/// The places that are looked at.
#[derive(Debug, Default)]
pub(crate) struct Places {
    role: Option<Role>,
    /// By member or index; `*`: every element.
    below: BTreeMap<String, Places>,
}

/// What was there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) action: Option<String>,
    pub(crate) topics: Vec<String>,
    pub(crate) id: Option<String>,
}

impl Places {
    /// Adds a JSON pointer (RFC 6901), in which `*` is every element of a list.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn add(&mut self, pointer: &str, role: Role) -> Result<(), String> {
        let Some(path) = pointer.strip_prefix('/') else {
            return Err(format!(
                "`{pointer}` is no JSON pointer: it begins with `/`"
            ));
        };
        let place = path.split('/').fold(self, |place, key| {
            let key = key.replace("~1", "/").replace("~0", "~");
            place.below.entry(key).or_default()
        });
        match place.role.replace(role) {
            Some(other) if other != role => Err(format!("`{pointer}` is looked at for two things")),
            _ => Ok(()),
        }
    }

    /// Reads a whole JSON text.
    ///
    /// # Errors
    /// It is no JSON, or can be read in two ways.
    pub(crate) fn read(&self, json: &str) -> Result<Found, serde_json::Error> {
        let mut found = Found::default();
        let mut reader = serde_json::Deserializer::from_str(json);
        At {
            place: self,
            found: &mut found,
        }
        .deserialize(&mut reader)?;
        reader.end()?;
        Ok(found)
    }

    fn is_watched(&self) -> bool {
        self.role.is_some() || !self.below.is_empty()
    }
}

/// One place while it is read.
struct At<'a> {
    place: &'a Places,
    found: &'a mut Found,
}

impl At<'_> {
    fn take<E: Error>(self, text: &str) -> Result<(), E> {
        match self.place.role {
            Some(Role::Topic) if self.found.topics.len() == MAX_TOPICS => {
                return Err(E::custom("too many topics"));
            }
            Some(Role::Topic) => self.found.topics.push(text.to_owned()),
            Some(Role::Action) => self.found.action = Some(text.to_owned()),
            Some(Role::Id) => self.found.id = Some(text.to_owned()),
            None => {}
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if self.place.is_watched() {
            return reader.deserialize_any(self);
        }
        reader.deserialize_ignored_any(IgnoredAny).map(drop)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is looked for")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.take(text)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.take(if value { "true" } else { "false" })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.take(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.take(&number.to_string())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        match self.place.role {
            // As many ways to write it as readers.
            Some(Role::Action | Role::Topic) => Err(E::custom("a fraction")),
            _ => Ok(()),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        // A list of topics is several topics; of actions or ids it is neither.
        if matches!(self.place.role, Some(Role::Action)) {
            return Err(A::Error::custom("an action that is a list"));
        }
        let own = Places {
            role: self.place.role.filter(|role| *role == Role::Topic),
            below: BTreeMap::new(),
        };
        for index in 0_usize.. {
            let below = &self.place.below;
            let place = below.get(&index.to_string()).or_else(|| below.get("*"));
            let element = At {
                place: place.unwrap_or(&own),
                found: self.found,
            };
            if list.next_element_seed(element)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if matches!(self.place.role, Some(Role::Action | Role::Topic)) {
            return Err(A::Error::custom("an object where a text is looked for"));
        }
        let mut seen: Vec<&str> = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let mut below = self.place.below.iter();
            let Some((name, place)) = below.find(|(name, _)| are_same_but_for_case(name, &key.0))
            else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if *name != key.0 || seen.contains(&name.as_str()) {
                return Err(A::Error::custom("a member that can be read in two ways"));
            }
            seen.push(name);
            map.next_value_seed(At {
                place,
                found: self.found,
            })?;
        }
        Ok(())
    }
}

/// A member's name, without a copy where it holds no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

/// In one message.
const MAX_TOPICS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(action: &str, topics: &[&str], id: &str) -> Places {
        let mut places = Places::default();
        places.add(action, Role::Action).unwrap();
        for topic in topics {
            places.add(topic, Role::Topic).unwrap();
        }
        places.add(id, Role::Id).unwrap();
        places
    }

    #[test]
    fn what_is_at_the_places_is_found() {
        #[track_caller]
        fn check(topics: &[&str], json: &str, action: Option<&str>, expect: &[&str]) {
            let found = places("/op", topics, "/a~1b/id").read(json).unwrap();
            assert_eq!(found.action.as_deref(), action);
            assert_eq!(found.topics, expect);
        }
        check(
            &["/t"],
            r#"{"op":"sub","t":"x","rest":[{}]}"#,
            Some("sub"),
            &["x"],
        );
        check(
            &["/t"],
            r#" {"\u006fp":"s\u0075b","t":["x",5,null,true]} "#,
            Some("sub"),
            &["x", "5", "true"],
        );
        check(
            &["/t/a", "/u"],
            r#"{"t":{"a":"x","b":"z"},"u":"y"}"#,
            None,
            &["x", "y"],
        );
        check(
            &["/t/*/c"],
            r#"{"t":[{"c":"x"},{"c":"y","d":0}]}"#,
            None,
            &["x", "y"],
        );
        check(&["/t/1"], r#"{"t":["x",["y","z"]]}"#, None, &["y", "z"]);
        check(&["/t"], r#"["op"]"#, None, &[]);
        check(&["/t"], "5", None, &[]);
        let found = places("/op", &["/t"], "/a~1b/id").read(r#"{"a/b":{"id":7},"op":null}"#);
        assert_eq!(found.unwrap().id.as_deref(), Some("7"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        for json in [
            "",
            "{",
            r#"{"op":"a"} {"op":"b"}"#,
            r#"{"op":"a","op":"b"}"#,
            r#"{"op":"a","Op":"b"}"#,
            r#"{"OP":"a"}"#,
            r#"{"op":"a","lınks":"b"}"#,
            r#"{"lin\u212as":"a"}"#,
            r#"{"linkſ":"a"}"#,
            r#"{"LİNKS":"a"}"#,
            r#"{"op":"a","\u006fp":"b"}"#,
            r#"{"t":"a","t":"b"}"#,
            r#"{"t":{}}"#,
            r#"{"t":[{}]}"#,
            r#"{"t":1.5}"#,
            r#"{"op":["a"]}"#,
            r#"{"op":{"a":1}}"#,
        ] {
            let places = places("/op", &["/t"], "/links");
            assert!(places.read(json).is_err(), "{json}");
        }
        let other = r#"{"öp":"a","opß":"b","link":"c","ſ":"d"}"#;
        let found = places("/op", &["/t"], "/links").read(other).unwrap();
        assert_eq!(found, Found::default());
        let many = format!(r#"{{"t":[{}0]}}"#, "0,".repeat(MAX_TOPICS));
        assert!(places("/op", &["/t"], "/id").read(&many).is_err());
    }

    #[test]
    fn a_bad_place_is_named() {
        let mut places = Places::default();
        let error = places.add("type", Role::Action);
        assert_eq!(
            error,
            Err("`type` is no JSON pointer: it begins with `/`".to_owned())
        );
        places.add("/type", Role::Action).unwrap();
        let error = places.add("/type", Role::Topic);
        assert_eq!(error, Err("`/type` is looked at for two things".to_owned()));
    }
}
