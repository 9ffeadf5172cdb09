//! What was got, written in the place of what was expected; everything else of the file stays as it is.
//!
//! A key that an author chose to look at gets its new value. Where the verdict itself is another, or nothing
//! was expected yet, `expect` is written anew, with all that the plugin did. A message gets what came of it where
//! that is not what comes of a message by itself.

use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::compare::{self, Difference, Place};
use super::run::Outcome;

/// What a case wants to have changed.
pub(super) struct Blessing<'a> {
    /// Of the file's cases.
    pub(super) index: usize,
    pub(super) differences: &'a [Difference],
    pub(super) outcome: &'a Outcome,
}

/// The text with the blessings in it.
///
/// # Errors
/// When the cases are not written as `[[case]]`.
pub(super) fn blessed(text: &str, blessings: &[Blessing<'_>]) -> Result<String, String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error| format!("it is not TOML any more: {error}"))?;
    for blessing in blessings {
        let cases = document
            .get_mut("case")
            .and_then(Item::as_array_of_tables_mut);
        let case = cases.and_then(|cases| cases.get_mut(blessing.index));
        bless(
            case.ok_or("its cases are not written as `[[case]]`")?,
            blessing,
        );
    }
    Ok(document.to_string())
}

fn bless(case: &mut Table, blessing: &Blessing<'_>) {
    let mut in_messages = false;
    for difference in blessing.differences {
        if let Place::Message(index) = difference.place {
            in_messages = true;
            bless_message(case, index, difference);
        }
    }
    let mut differences = (blessing.differences.iter())
        .filter(|one| one.place == Place::Expect)
        .peekable();
    if in_messages && differences.peek().is_none() {
        return;
    }
    let single: Option<Vec<(Vec<&str>, &Value)>> = differences
        .map(|one| {
            Some((
                one.path.iter().map(String::as_str).collect(),
                one.write.as_ref()?,
            ))
        })
        .collect();
    match (
        single,
        case.get_mut("expect").and_then(Item::as_table_like_mut),
    ) {
        (Some(single), Some(expect)) if !single.is_empty() => {
            for (path, value) in single {
                put(expect, &path, value);
            }
        }
        (_, written) => {
            let written = match written {
                Some(expect) => {
                    expect.clear();
                    expect
                }
                None => {
                    // A table of its own, not one inside of braces.
                    let mut fresh = Table::new();
                    fresh.set_implicit(false);
                    case.insert("expect", Item::Table(fresh));
                    match case.get_mut("expect").and_then(Item::as_table_like_mut) {
                        Some(fresh) => fresh,
                        None => return,
                    }
                }
            };
            for (path, value) in compare::everything(blessing.outcome) {
                put(written, &path, &value);
            }
        }
    }
}

/// Writes what came of a message into it. What could not be said any more stays, for its author to decide.
fn bless_message(case: &mut Table, index: usize, difference: &Difference) {
    let inline = matches!(case.get("messages"), Some(Item::Value(_)));
    let message: Option<&mut dyn TableLike> = match case.get_mut("messages") {
        Some(Item::ArrayOfTables(messages)) => messages.get_mut(index).map(|table| table as _),
        Some(Item::Value(Value::Array(messages))) => {
            let message = messages.get_mut(index).and_then(Value::as_inline_table_mut);
            message.map(|table| table as _)
        }
        _ => None,
    };
    let (Some(message), Some(value)) = (message, &difference.write) else {
        return;
    };
    match (difference.path.as_slice(), value.as_bool()) {
        // There is no other way to expect no failure.
        ([key], Some(false)) if key == "error" => drop(message.remove(key)),
        (path, _) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            put(message, &path, value);
        }
    }
    if inline {
        // A new key behind the last one: the blanks before the brace were the last one's.
        message.fmt();
    }
}

/// Sets a value; tables on the way to it are made where they are missing.
fn put(table: &mut dyn TableLike, path: &[&str], value: &Value) {
    let [above @ .., last] = path else {
        return;
    };
    let mut table = table;
    for key in above {
        if !table.contains_key(key) {
            table.insert(key, Item::Value(InlineTable::new().into()));
        }
        let Some(next) = table.get_mut(key).and_then(Item::as_table_like_mut) else {
            return;
        };
        table = next;
    }
    // Header fields and keys of any case mean the same field.
    let same = table.iter().find(|(key, _)| key.eq_ignore_ascii_case(last));
    let key = same.map_or_else(|| (*last).to_owned(), |(key, _)| key.to_owned());
    match table.get_mut(&key).and_then(Item::as_value_mut) {
        Some(there) => {
            // With the space and the comment around it.
            let decor = there.decor().clone();
            *there = value.clone();
            *there.decor_mut() = decor;
        }
        None => drop(table.insert(&key, Item::Value(value.clone()))),
    }
}
