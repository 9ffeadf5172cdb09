//! What was got, written in the place of what was expected; everything else of the file stays as it is.
//!
//! A key that an author chose to look at gets its new value. Where the verdict itself is another, or nothing
//! was expected yet, `expect` is written anew, with all that the plugin did.

use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::compare::{self, Difference};
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
    let differences = blessing.differences.iter();
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
