//! JSON Schema, draft 2020-12: the keywords of its validation vocabularies that speak of one value at a time.
//!
//! A schema becomes a list of checks for each of its parts; `$ref` is a number. What is not understood is
//! refused when the schema is read: nothing is left unchecked in silence. To check a value takes bounded time
//! and depth, whatever the value; what would take more does not fit.
//!
//! Not there: `unevaluated…`, `$dynamicRef`, `$anchor`, references to other documents. `format` and `content…`
//! are annotations, as the draft has it by default.

mod number;
mod pattern;
mod read;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Number, Value};

/// A schema that values can be checked against.
#[derive(Debug)]
pub(crate) struct Schema {
    /// The whole is the first.
    parts: Vec<Vec<Check>>,
}

/// Why a value does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Its place in the message, a JSON pointer.
    pub(crate) pointer: String,
    /// What is wrong there, in the schema's words: nothing of the message but the name of a member.
    pub(crate) reason: String,
}

/// Index of a part.
type Part = usize;

/// One keyword.
#[derive(Debug)]
enum Check {
    Never,
    Type(Types),
    OneOf(Vec<Value>),
    // Numbers.
    Minimum(Number),
    Maximum(Number),
    Above(Number),
    Below(Number),
    MultipleOf(Number),
    // Strings; characters.
    MinLength(u64),
    MaxLength(u64),
    Pattern(Box<Regex>),
    // Lists.
    Items {
        first: Vec<Part>,
        others: Option<Part>,
    },
    Contains {
        part: Part,
        min: u64,
        max: Option<u64>,
    },
    MinItems(u64),
    MaxItems(u64),
    UniqueItems,
    // Objects.
    Members(Box<Members>),
    Names(Part),
    Required(Vec<String>),
    RequiredWith(String, Vec<String>),
    PartWith(String, Part),
    MinMembers(u64),
    MaxMembers(u64),
    // Any value.
    All(Vec<Part>),
    Any(Vec<Part>),
    ExactlyOne(Vec<Part>),
    Not(Part),
    If {
        condition: Part,
        then: Option<Part>,
        otherwise: Option<Part>,
    },
}

/// `properties`, `patternProperties` and `additionalProperties`, which depend on each other.
#[derive(Debug)]
struct Members {
    named: BTreeMap<String, Part>,
    patterns: Vec<(Regex, Part)>,
    others: Option<Part>,
}

/// Names of types, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Types(u8);

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// Where it cannot be understood (a JSON pointer into it), and why.
    pub(crate) fn new(schema: &Value) -> Result<Self, (String, String)> {
        read::schema(schema)
    }

    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self, value: &Value) -> Result<(), Misfit> {
        let mut run = Run {
            schema: self,
            steps: MAX_STEPS,
            depth: MAX_DEPTH,
        };
        run.part(0, value).map_err(|wrong| Misfit {
            pointer: wrong.path.iter().rev().map(|key| escaped(key)).collect(),
            reason: wrong.reason,
        })
    }
}

/// One check of one value.
struct Run<'s> {
    schema: &'s Schema,
    /// How many are left.
    steps: u32,
    depth: u32,
}

/// A misfit on its way out.
struct Wrong {
    /// From the inside out.
    path: Vec<String>,
    reason: String,
    /// The check was given up: no alternative makes up for it.
    is_final: bool,
}

impl Run<'_> {
    fn part(&mut self, part: Part, value: &Value) -> Result<(), Wrong> {
        if self.depth == 0 {
            return Err(Wrong::given_up("is nested too deeply to be checked"));
        }
        self.depth -= 1;
        let checks = self.schema.parts.get(part).map(Vec::as_slice);
        let mut checks = checks.unwrap_or_default().iter();
        let result = checks.try_for_each(|check| {
            self.step(1)?;
            self.one(check, value)
        });
        self.depth += 1;
        result
    }

    fn step(&mut self, steps: usize) -> Result<(), Wrong> {
        let left = u32::try_from(steps)
            .ok()
            .and_then(|steps| self.steps.checked_sub(steps));
        self.steps = left.ok_or_else(|| Wrong::given_up("takes too long to check"))?;
        Ok(())
    }

    /// Whether a part fits, for those that only count.
    fn fits(&mut self, part: Part, value: &Value) -> Result<bool, Wrong> {
        match self.part(part, value) {
            Ok(()) => Ok(true),
            Err(wrong) if wrong.is_final => Err(wrong),
            Err(_) => Ok(false),
        }
    }

    fn one(&mut self, check: &Check, value: &Value) -> Result<(), Wrong> {
        match (check, value) {
            (Check::Never, _) => Err(Wrong::new("may not be there")),
            (Check::Type(types), _) => match types.has(value) {
                true => Ok(()),
                false => Err(Wrong::new(format!("is not {types}"))),
            },
            (Check::OneOf(values), _) => {
                self.step(values.len())?;
                let fits = values.iter().any(|one| number::equal(one, value));
                Wrong::unless(fits, || "is none of the allowed values".to_owned())
            }
            (_, Value::Number(number)) => {
                on_number(check, number).unwrap_or_else(|| self.logic(check, value))
            }
            (_, Value::String(text)) => {
                on_text(check, text).unwrap_or_else(|| self.logic(check, value))
            }
            (_, Value::Array(items)) => self.on_list(check, items, value),
            (_, Value::Object(members)) => self.on_object(check, members, value),
            _ => self.logic(check, value),
        }
    }

    fn on_list(&mut self, check: &Check, items: &[Value], value: &Value) -> Result<(), Wrong> {
        match check {
            Check::Items { first, others } => {
                let parts = first.iter().map(|part| Some(*part));
                let parts = parts.chain(std::iter::repeat(*others));
                for (index, (item, part)) in items.iter().zip(parts).enumerate() {
                    let Some(part) = part else { break };
                    self.part(part, item)
                        .map_err(|wrong| wrong.below(index.to_string()))?;
                }
                Ok(())
            }
            Check::Contains { part, min, max } => {
                let mut count = 0_u64;
                for item in items {
                    count += u64::from(self.fits(*part, item)?);
                }
                let fits = count >= *min && max.is_none_or(|max| count <= max);
                Wrong::unless(fits, || match max {
                    Some(max) => format!("has not {min} to {max} of what it has to contain"),
                    None => format!("has not {min} or more of what it has to contain"),
                })
            }
            Check::MinItems(min) => Wrong::unless(items.len() as u64 >= *min, || {
                format!("has fewer than {min} items")
            }),
            Check::MaxItems(max) => Wrong::unless(items.len() as u64 <= *max, || {
                format!("has more than {max} items")
            }),
            Check::UniqueItems => {
                for (index, item) in items.iter().enumerate() {
                    self.step(index.saturating_mul(number::weight(item)))?;
                    if items[..index]
                        .iter()
                        .any(|other| number::equal(other, item))
                    {
                        return Err(Wrong::new("has an item twice"));
                    }
                }
                Ok(())
            }
            _ => self.logic(check, value),
        }
    }

    fn on_object(
        &mut self,
        check: &Check,
        members: &serde_json::Map<String, Value>,
        value: &Value,
    ) -> Result<(), Wrong> {
        let lacking = |names: &[String]| {
            let missing = names.iter().find(|name| !members.contains_key(*name));
            missing.map_or(Ok(()), |name| Err(Wrong::new(format!("lacks `{name}`"))))
        };
        match check {
            Check::Members(rules) => {
                for (name, member) in members {
                    let named = rules.named.get(name).copied();
                    let by_name = rules
                        .patterns
                        .iter()
                        .filter(|(name_is, _)| name_is.is_match(name));
                    let mut parts: Vec<Part> = named.into_iter().collect();
                    parts.extend(by_name.map(|(_, part)| *part));
                    if parts.is_empty() {
                        parts.extend(rules.others);
                    }
                    self.step(1 + rules.patterns.len())?;
                    for part in parts {
                        self.part(part, member)
                            .map_err(|wrong| wrong.below(shown(name)))?;
                    }
                }
                Ok(())
            }
            Check::Names(part) => members.keys().try_for_each(|name| {
                let fits = self.fits(*part, &Value::from(name.as_str()))?;
                Wrong::unless(fits, || format!("has a member named `{}`", shown(name)))
            }),
            Check::Required(names) => lacking(names),
            Check::RequiredWith(name, names) if members.contains_key(name) => lacking(names),
            Check::PartWith(name, part) if members.contains_key(name) => self.part(*part, value),
            Check::MinMembers(min) => {
                let fits = members.len() as u64 >= *min;
                Wrong::unless(fits, || format!("has fewer than {min} members"))
            }
            Check::MaxMembers(max) => {
                let fits = members.len() as u64 <= *max;
                Wrong::unless(fits, || format!("has more than {max} members"))
            }
            _ => self.logic(check, value),
        }
    }

    fn logic(&mut self, check: &Check, value: &Value) -> Result<(), Wrong> {
        match check {
            Check::All(parts) => parts.iter().try_for_each(|part| self.part(*part, value)),
            Check::Any(parts) => {
                for part in parts {
                    if self.fits(*part, value)? {
                        return Ok(());
                    }
                }
                Err(Wrong::new("fits none of the alternatives"))
            }
            Check::ExactlyOne(parts) => {
                let mut count = 0;
                for part in parts {
                    count += u32::from(self.fits(*part, value)?);
                }
                Wrong::unless(count == 1, || match count {
                    0 => "fits none of the alternatives".to_owned(),
                    _ => "fits more than one of the alternatives".to_owned(),
                })
            }
            Check::Not(part) => {
                let fits = self.fits(*part, value)?;
                Wrong::unless(!fits, || "is what it may not be".to_owned())
            }
            Check::If {
                condition,
                then,
                otherwise,
            } => {
                let part = if self.fits(*condition, value)? {
                    then
                } else {
                    otherwise
                };
                part.map_or(Ok(()), |part| self.part(part, value))
            }
            // For another type of value.
            _ => Ok(()),
        }
    }
}

/// `None`: the check is not about numbers.
fn on_number(check: &Check, value: &Number) -> Option<Result<(), Wrong>> {
    use std::cmp::Ordering::{Greater, Less};

    let order = |bound: &Number| number::compare(value, bound);
    Some(match check {
        Check::Minimum(min) => Wrong::unless(order(min) != Less, || format!("is less than {min}")),
        Check::Maximum(max) => {
            Wrong::unless(order(max) != Greater, || format!("is more than {max}"))
        }
        Check::Above(min) => {
            Wrong::unless(order(min) == Greater, || format!("is not more than {min}"))
        }
        Check::Below(max) => {
            Wrong::unless(order(max) == Less, || format!("is not less than {max}"))
        }
        Check::MultipleOf(of) => Wrong::unless(number::is_multiple(value, of), || {
            format!("is no multiple of {of}")
        }),
        _ => return None,
    })
}

/// `None`: the check is not about strings.
fn on_text(check: &Check, text: &str) -> Option<Result<(), Wrong>> {
    let len = || text.chars().count() as u64;
    Some(match check {
        Check::MinLength(min) => {
            Wrong::unless(len() >= *min, || format!("has fewer than {min} characters"))
        }
        Check::MaxLength(max) => {
            Wrong::unless(len() <= *max, || format!("has more than {max} characters"))
        }
        Check::Pattern(pattern) => Wrong::unless(pattern.is_match(text), || {
            "does not match its pattern".to_owned()
        }),
        _ => return None,
    })
}

impl Wrong {
    fn new(reason: impl Into<String>) -> Self {
        Wrong {
            path: Vec::new(),
            reason: reason.into(),
            is_final: false,
        }
    }

    fn given_up(reason: &str) -> Self {
        Wrong {
            is_final: true,
            ..Self::new(reason)
        }
    }

    fn unless(fits: bool, reason: impl FnOnce() -> String) -> Result<(), Self> {
        if fits {
            Ok(())
        } else {
            Err(Self::new(reason()))
        }
    }

    fn below(mut self, key: String) -> Self {
        self.path.push(key);
        self
    }
}

impl Types {
    const NAMES: [&'static str; 7] = [
        "null", "boolean", "number", "string", "array", "object", "integer",
    ];

    fn named(name: &str) -> Option<Self> {
        let index = Self::NAMES.iter().position(|known| *known == name)?;
        Some(Types(1 << index))
    }

    fn and(self, other: Self) -> Self {
        Types(self.0 | other.0)
    }

    fn has(self, value: &Value) -> bool {
        let index = match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => 4,
            Value::Object(_) => 5,
        };
        let is_integer = || matches!(value, Value::Number(it) if number::is_integer(it));
        self.0 & 1 << index != 0 || (self.0 & 1 << 6 != 0 && is_integer())
    }
}

impl std::fmt::Display for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Self::NAMES.iter().enumerate();
        let named: Vec<&str> = names
            .filter(|(index, _)| self.0 & 1 << index != 0)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&named.join(" or "))
    }
}

/// A member's name in so many characters as belong into a log line or an answer.
fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// With a slash, as a JSON pointer has it (RFC 6901).
fn escaped(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Checks, and items compared, for one message: some milliseconds.
const MAX_STEPS: u32 = 100_000;
/// Parts within parts, for one message.
const MAX_DEPTH: u32 = 256;
/// Characters.
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests;
