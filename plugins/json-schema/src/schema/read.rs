//! From a JSON text that is a schema to checks.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::{Check, Members, Part, Schema, Types, escaped, pattern};

type Keywords = Map<String, Value>;

/// Where it is wrong, and why.
type Fault = (String, String);

/// A keyword whose value is a `T`.
type Bound<T> = (&'static str, fn(T) -> Check);

pub(super) fn schema(root: &Value) -> Result<Schema, Fault> {
    let mut reading = Reading {
        root,
        parts: Vec::new(),
        known: BTreeMap::new(),
        depth: 0,
    };
    reading.part("", root)?;
    Ok(Schema {
        parts: reading.parts,
    })
}

struct Reading<'v> {
    root: &'v Value,
    parts: Vec<Vec<Check>>,
    /// By the place that a part is read from: each is read once.
    known: BTreeMap<String, Part>,
    depth: usize,
}

/// One part of the schema, an object, while it is read.
struct Here<'v> {
    place: String,
    keywords: &'v Keywords,
}

impl<'v> Reading<'v> {
    fn part(&mut self, place: &str, schema: &'v Value) -> Result<Part, Fault> {
        if let Some(known) = self.known.get(place) {
            return Ok(*known);
        }
        let part = self.parts.len();
        if part == MAX_PARTS || self.depth == MAX_DEPTH {
            return Err((place.to_owned(), "the schema is too large".to_owned()));
        }
        // Known before it is read: a reference within may mean the whole.
        self.known.insert(place.to_owned(), part);
        self.parts.push(Vec::new());
        let checks = match schema {
            Value::Bool(true) => Vec::new(),
            Value::Bool(false) => vec![Check::Never],
            Value::Object(keywords) => {
                self.depth += 1;
                let place = place.to_owned();
                let checks = self.checks(&Here { place, keywords })?;
                self.depth -= 1;
                checks
            }
            _ => return Err((place.to_owned(), "is no schema".to_owned())),
        };
        self.parts[part] = checks;
        Ok(part)
    }

    /// Those that are dear come last.
    fn checks(&mut self, here: &Here<'v>) -> Result<Vec<Check>, Fault> {
        for keyword in here.keywords.keys() {
            let of_root = here.place.is_empty() && keyword == "$id";
            if !of_root && !KEYWORDS.contains(&keyword.as_str()) {
                let message = match keyword.as_str() {
                    "additionalItems" | "dependencies" => "is of an older draft",
                    _ => "is not a keyword that is understood",
                };
                return Err(here.fault(keyword, message));
            }
        }
        let mut checks = Vec::new();
        self.of_values(here, &mut checks)?;
        self.of_lists(here, &mut checks)?;
        self.of_objects(here, &mut checks)?;
        self.of_logic(here, &mut checks)?;
        Ok(checks)
    }

    fn of_values(&mut self, here: &Here<'v>, checks: &mut Vec<Check>) -> Result<(), Fault> {
        if let Some(types) = here.get("type") {
            let names = match types {
                Value::Array(names) => names.as_slice(),
                one => std::slice::from_ref(one),
            };
            let mut types = names.iter().map(|name| Types::named(name.as_str()?));
            let all = types.try_fold(Types(0), |all, one| Some(all.and(one?)));
            let all = all.filter(|all| *all != Types(0));
            checks.push(Check::Type(
                all.ok_or_else(|| here.fault("type", "is no type"))?,
            ));
        }
        if let Some(value) = here.get("const") {
            checks.push(Check::OneOf(vec![value.clone()]));
        }
        if let Some(values) = here.get("enum") {
            let values = values.as_array();
            let values = values.ok_or_else(|| here.fault("enum", "is no list"))?;
            checks.push(Check::OneOf(values.clone()));
        }
        let bounds: [Bound<Number>; 5] = [
            ("minimum", Check::Minimum),
            ("maximum", Check::Maximum),
            ("exclusiveMinimum", Check::Above),
            ("exclusiveMaximum", Check::Below),
            ("multipleOf", Check::MultipleOf),
        ];
        for (keyword, check) in bounds {
            if let Some(value) = here.get(keyword) {
                let Value::Number(number) = value else {
                    return Err(here.fault(keyword, "is no number"));
                };
                if keyword == "multipleOf" && number.as_f64().is_none_or(|number| number <= 0.0) {
                    return Err(here.fault(keyword, "is not more than 0"));
                }
                checks.push(check(number.clone()));
            }
        }
        let counts: [Bound<u64>; 6] = [
            ("minLength", Check::MinLength),
            ("maxLength", Check::MaxLength),
            ("minItems", Check::MinItems),
            ("maxItems", Check::MaxItems),
            ("minProperties", Check::MinMembers),
            ("maxProperties", Check::MaxMembers),
        ];
        for (keyword, check) in counts {
            if let Some(count) = here.count(keyword)? {
                checks.push(check(count));
            }
        }
        if let Some(text) = here.get("pattern") {
            let text = text.as_str().unwrap_or_default();
            let regex = pattern::compile(text).map_err(|why| here.fault("pattern", &why))?;
            checks.push(Check::Pattern(Box::new(regex)));
        }
        Ok(())
    }

    fn of_lists(&mut self, here: &Here<'v>, checks: &mut Vec<Check>) -> Result<(), Fault> {
        let first = self.list(here, "prefixItems")?.unwrap_or_default();
        if here.get("items").is_some_and(Value::is_array) {
            return Err(here.fault("items", "is a list: say `prefixItems`"));
        }
        let others = self.below(here, "items")?;
        if !first.is_empty() || others.is_some() {
            checks.push(Check::Items { first, others });
        }
        if let Some(part) = self.below(here, "contains")? {
            let min = here.count("minContains")?.unwrap_or(1);
            let max = here.count("maxContains")?;
            checks.push(Check::Contains { part, min, max });
        }
        if here.get("uniqueItems") == Some(&Value::Bool(true)) {
            checks.push(Check::UniqueItems);
        }
        Ok(())
    }

    fn of_objects(&mut self, here: &Here<'v>, checks: &mut Vec<Check>) -> Result<(), Fault> {
        if let Some(names) = here.get("required") {
            checks.push(Check::Required(here.names("required", names)?));
        }
        let named = self.map(here, "properties")?.into_iter().collect();
        let patterns = self.map(here, "patternProperties")?.into_iter();
        let patterns = patterns.map(|(text, part)| {
            let regex = pattern::compile(&text);
            Ok((
                regex.map_err(|why| here.fault("patternProperties", &why))?,
                part,
            ))
        });
        let members = Members {
            named,
            patterns: patterns.collect::<Result<_, Fault>>()?,
            others: self.below(here, "additionalProperties")?,
        };
        if !members.named.is_empty() || !members.patterns.is_empty() || members.others.is_some() {
            checks.push(Check::Members(Box::new(members)));
        }
        if let Some(part) = self.below(here, "propertyNames")? {
            checks.push(Check::Names(part));
        }
        if let Some(lists) = here.get("dependentRequired") {
            let lists = lists.as_object();
            let lists = lists.ok_or_else(|| here.fault("dependentRequired", "is no object"))?;
            for (name, names) in lists {
                let names = here.names("dependentRequired", names)?;
                checks.push(Check::RequiredWith(name.clone(), names));
            }
        }
        for (name, part) in self.map(here, "dependentSchemas")? {
            checks.push(Check::PartWith(name, part));
        }
        Ok(())
    }

    fn of_logic(&mut self, here: &Here<'v>, checks: &mut Vec<Check>) -> Result<(), Fault> {
        if let Some(reference) = here.get("$ref") {
            checks.push(Check::All(vec![self.reference(here, reference)?]));
        }
        checks.extend(self.list(here, "allOf")?.map(Check::All));
        checks.extend(self.list(here, "anyOf")?.map(Check::Any));
        checks.extend(self.list(here, "oneOf")?.map(Check::ExactlyOne));
        checks.extend(self.below(here, "not")?.map(Check::Not));
        let (then, otherwise) = (self.below(here, "then")?, self.below(here, "else")?);
        if let Some(condition) = self.below(here, "if")? {
            checks.push(Check::If {
                condition,
                then,
                otherwise,
            });
        }
        Ok(())
    }

    fn reference(&mut self, here: &Here<'v>, reference: &Value) -> Result<Part, Fault> {
        let root = self.root;
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
        let pointer = pointer.filter(|pointer| !pointer.contains('%'));
        let found = pointer.and_then(|pointer| Some((pointer, root.pointer(pointer)?)));
        let Some((pointer, schema)) = found else {
            return Err(here.fault("$ref", "names nothing in this schema"));
        };
        self.part(pointer, schema)
    }

    /// A keyword whose value is a schema.
    fn below(&mut self, here: &Here<'v>, keyword: &str) -> Result<Option<Part>, Fault> {
        let schema = here.get(keyword);
        let part = schema.map(|schema| self.part(&here.place(keyword), schema));
        part.transpose()
    }

    /// A keyword whose value is a list of schemas.
    fn list(&mut self, here: &Here<'v>, keyword: &str) -> Result<Option<Vec<Part>>, Fault> {
        let Some(schemas) = here.get(keyword) else {
            return Ok(None);
        };
        let schemas = schemas.as_array().filter(|schemas| !schemas.is_empty());
        let schemas = schemas.ok_or_else(|| here.fault(keyword, "is no list of schemas"))?;
        let place = here.place(keyword);
        let parts = schemas.iter().enumerate();
        parts
            .map(|(index, schema)| self.part(&format!("{place}/{index}"), schema))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A keyword whose value holds schemas by name.
    fn map(&mut self, here: &Here<'v>, keyword: &str) -> Result<Vec<(String, Part)>, Fault> {
        let Some(schemas) = here.get(keyword) else {
            return Ok(Vec::new());
        };
        let schemas = schemas.as_object();
        let schemas = schemas.ok_or_else(|| here.fault(keyword, "is no object"))?;
        let place = here.place(keyword);
        let parts = schemas.iter().map(|(name, schema)| {
            let part = self.part(&format!("{place}{}", escaped(name)), schema)?;
            Ok((name.clone(), part))
        });
        parts.collect()
    }
}

impl<'v> Here<'v> {
    fn get(&self, keyword: &str) -> Option<&'v Value> {
        self.keywords.get(keyword)
    }

    fn place(&self, keyword: &str) -> String {
        format!("{}/{keyword}", self.place)
    }

    fn count(&self, keyword: &str) -> Result<Option<u64>, Fault> {
        let count = self.get(keyword).map(|value| {
            let whole = value
                .as_f64()
                .filter(|it| it.fract() == 0.0 && (0.0..9e15).contains(it));
            whole
                .map(|count| count as u64)
                .ok_or_else(|| self.fault(keyword, "is no count"))
        });
        count.transpose()
    }

    fn names(&self, keyword: &str, names: &Value) -> Result<Vec<String>, Fault> {
        let names = names.as_array().and_then(|names| {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect()
        });
        names.ok_or_else(|| self.fault(keyword, "is no list of names"))
    }

    fn fault(&self, keyword: &str, why: &str) -> Fault {
        (self.place(keyword), why.to_owned())
    }
}

/// What is understood, and what says nothing about values.
const KEYWORDS: [&str; 51] = [
    "$comment",
    "$defs",
    "$ref",
    "$schema",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "dependentRequired",
    "dependentSchemas",
    "deprecated",
    "description",
    "else",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "if",
    "items",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "readOnly",
    "required",
    "then",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
];
/// Of one schema.
const MAX_PARTS: usize = 10_000;
/// Parts within parts, and references that lead to references.
const MAX_DEPTH: usize = 128;
