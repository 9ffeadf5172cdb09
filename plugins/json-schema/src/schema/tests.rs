//! Keyword by keyword, and beside another implementation.

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use serde_json::json;

use super::*;

#[track_caller]
fn check(schema: &Value, value: &Value, expect: Result<(), (&str, &str)>) {
    let read = Schema::new(schema).unwrap_or_else(|(at, why)| panic!("{at}: {why}"));
    let got = read.check(value);
    let got = got
        .as_ref()
        .map_err(|misfit| (misfit.pointer.as_str(), misfit.reason.as_str()));
    assert_eq!(got.copied(), expect, "{schema} {value}");
}

#[test]
fn what_does_not_fit_is_named_with_its_place() {
    let cases = [
        (json!(false), json!(1), "", "may not be there"),
        (json!({"type": "integer"}), json!(1.5), "", "is not integer"),
        (
            json!({"type": ["null", "string"]}),
            json!(1),
            "",
            "is not null or string",
        ),
        (
            json!({"const": {"a": 1}}),
            json!({"a": 2}),
            "",
            "is none of the allowed values",
        ),
        (
            json!({"enum": [1, 2]}),
            json!(3),
            "",
            "is none of the allowed values",
        ),
        (json!({"minimum": 1}), json!(0.5), "", "is less than 1"),
        (json!({"maximum": 1}), json!(1.5), "", "is more than 1"),
        (
            json!({"exclusiveMinimum": 1}),
            json!(1),
            "",
            "is not more than 1",
        ),
        (
            json!({"exclusiveMaximum": 1}),
            json!(1.0),
            "",
            "is not less than 1",
        ),
        (
            json!({"multipleOf": 0.1}),
            json!(0.25),
            "",
            "is no multiple of 0.1",
        ),
        (
            json!({"minLength": 2}),
            json!("é"),
            "",
            "has fewer than 2 characters",
        ),
        (
            json!({"pattern": "^a"}),
            json!("ba"),
            "",
            "does not match its pattern",
        ),
        (
            json!({"items": {"type": "null"}}),
            json!([null, 1]),
            "/1",
            "is not null",
        ),
        (
            json!({"prefixItems": [true], "items": false}),
            json!([1, 2]),
            "/1",
            "may not be there",
        ),
        (
            json!({"minItems": 1}),
            json!([]),
            "",
            "has fewer than 1 items",
        ),
        (
            json!({"maxItems": 1}),
            json!([1, 2]),
            "",
            "has more than 1 items",
        ),
        (
            json!({"uniqueItems": true}),
            json!([1, {"a": 1}, 1.0]),
            "",
            "has an item twice",
        ),
        (
            json!({"contains": {"const": 1}, "maxContains": 1}),
            json!([1, 1]),
            "",
            "has not 1 to 1 of what it has to contain",
        ),
        (
            json!({"required": ["a", "b"]}),
            json!({"a": 1}),
            "",
            "lacks `b`",
        ),
        (
            json!({"properties": {"a": {"properties": {"b/c": {"type": "string"}}}}}),
            json!({"a": {"b/c": 1}}),
            "/a/b~1c",
            "is not string",
        ),
        (
            json!({"properties": {"a": true}, "patternProperties": {"^x": true}, "additionalProperties": false}),
            json!({"a": 1, "xy": 1, "b": 1}),
            "/b",
            "may not be there",
        ),
        (
            json!({"propertyNames": {"maxLength": 2}}),
            json!({"abc": 1}),
            "",
            "has a member named `abc`",
        ),
        (
            json!({"minProperties": 1}),
            json!({}),
            "",
            "has fewer than 1 members",
        ),
        (
            json!({"maxProperties": 0}),
            json!({"a": 1}),
            "",
            "has more than 0 members",
        ),
        (
            json!({"dependentRequired": {"a": ["b"]}}),
            json!({"a": 1}),
            "",
            "lacks `b`",
        ),
        (
            json!({"dependentSchemas": {"a": {"maxProperties": 1}}}),
            json!({"a": 1, "b": 1}),
            "",
            "has more than 1 members",
        ),
        (
            json!({"allOf": [true, {"type": "null"}]}),
            json!(1),
            "",
            "is not null",
        ),
        (
            json!({"anyOf": [{"type": "null"}, {"const": 2}]}),
            json!(1),
            "",
            "fits none of the alternatives",
        ),
        (
            json!({"oneOf": [true, {"const": 1}]}),
            json!(1),
            "",
            "fits more than one of the alternatives",
        ),
        (
            json!({"not": {"const": 1}}),
            json!(1),
            "",
            "is what it may not be",
        ),
        (
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}}),
            json!({"a": 1}),
            "",
            "lacks `b`",
        ),
        (
            json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}),
            json!([[], [[1]]]),
            "/1/0/0",
            "is not array",
        ),
    ];
    for (schema, value, pointer, why) in cases {
        check(&schema, &value, Err((pointer, why)));
        assert!(!jsonschema::is_valid(&schema, &value), "{schema} {value}");
    }
}

#[test]
fn a_schema_that_is_not_understood_is_refused() {
    for (schema, at, why) in [
        (json!(1), "", "is no schema"),
        (
            json!({"properties": {"a": 1}}),
            "/properties/a",
            "is no schema",
        ),
        (
            json!({"requird": []}),
            "/requird",
            "is not a keyword that is understood",
        ),
        (
            json!({"unevaluatedItems": true}),
            "/unevaluatedItems",
            "is not a keyword that is understood",
        ),
        (
            json!({"dependencies": {}}),
            "/dependencies",
            "is of an older draft",
        ),
        (
            json!({"items": [true]}),
            "/items",
            "is a list: say `prefixItems`",
        ),
        (
            json!({"not": {"$id": "x"}}),
            "/not/$id",
            "is not a keyword that is understood",
        ),
        (json!({"type": []}), "/type", "is no type"),
        (json!({"type": "int"}), "/type", "is no type"),
        (json!({"enum": 1}), "/enum", "is no list"),
        (json!({"minimum": "1"}), "/minimum", "is no number"),
        (
            json!({"multipleOf": 0}),
            "/multipleOf",
            "is not more than 0",
        ),
        (json!({"minLength": -1}), "/minLength", "is no count"),
        (json!({"pattern": "("}), "/pattern", "unclosed group"),
        (json!({"anyOf": []}), "/anyOf", "is no list of schemas"),
        (json!({"required": [1]}), "/required", "is no list of names"),
        (
            json!({"$ref": "#/$defs/x"}),
            "/$ref",
            "names nothing in this schema",
        ),
        (
            json!({"$ref": "https://example.com/"}),
            "/$ref",
            "names nothing in this schema",
        ),
    ] {
        let error = Schema::new(&schema).map(|_| ()).unwrap_err();
        assert_eq!(error, (at.to_owned(), why.to_owned()), "{schema}");
    }
    let mut deep = json!(true);
    for _ in 0..MAX_DEPTH {
        deep = json!({ "not": deep });
    }
    assert!(Schema::new(&deep).is_err());
}

#[test]
fn checking_ends() {
    let deep = Err(("", "is nested too deeply to be checked"));
    check(&json!({"$ref": "#"}), &json!(1), deep);
    let alternatives = json!({"anyOf": [{"not": {"$ref": "#"}}, {"not": {"$ref": "#"}}]});
    check(&alternatives, &json!(1), deep);
    let many: Vec<u32> = (0..10_000).collect();
    let long = Err(("", "takes too long to check"));
    check(&json!({"uniqueItems": true}), &json!(many), long);
    let items = json!({"anyOf": [{"items": {"const": "x"}}, true]});
    check(&items, &json!(vec![1; 10]), Ok(()));
    let all = json!({"items": {"anyOf": [{"const": "x"}, true]}});
    let result = Schema::new(&all).unwrap().check(&json!(vec![1; 100_000]));
    assert_eq!(result.unwrap_err().reason, "takes too long to check");
}

/// Small values of few kinds, so that schemas often fit.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i32).prop_map(Value::from),
        (-6..7_i32).prop_map(|half| json!(f64::from(half) / 2.0)),
        "[ab]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[ab]{1,2}", inner, 0..3)
                .prop_map(|members| json!(members)),
        ]
    })
}

fn schema() -> impl Strategy<Value = Value> {
    let keyword = |name: &'static str, value: proptest::strategy::BoxedStrategy<Value>| {
        value.prop_map(move |value| json!({ name: value })).boxed()
    };
    let count = || (0..3_u32).prop_map(Value::from).boxed();
    let number = || {
        (-4..5_i32)
            .prop_map(|half| json!(f64::from(half) / 2.0))
            .boxed()
    };
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        proptest::sample::subsequence(Types::NAMES.to_vec(), 1..4)
            .prop_map(|types| json!({"type": types})),
        keyword("const", value().boxed()),
        keyword("minimum", number()),
        keyword("exclusiveMaximum", number()),
        (1..4_u32).prop_map(|half| json!({"multipleOf": f64::from(half) / 2.0})),
        keyword("minLength", count()),
        keyword("maxLength", count()),
        "\\^?(a|b|\\[ab\\]|\\.)[+?]?\\$?".prop_map(|pattern| json!({"pattern": pattern})),
        keyword("minItems", count()),
        keyword("maxProperties", count()),
        Just(json!({"uniqueItems": true})),
        "[ab]".prop_map(|name| json!({"required": [name]})),
        Just(json!({"$ref": "#/$defs/x"})),
    ];
    let part = leaf.prop_recursive(3, 16, 3, |inner| {
        let some = || proptest::collection::vec(inner.clone(), 1..3).prop_map(Value::from);
        let one = |name: &'static str| inner.clone().prop_map(move |part| json!({ name: part }));
        prop_oneof![
            some().prop_map(|parts| json!({"allOf": parts})),
            some().prop_map(|parts| json!({"anyOf": parts})),
            some().prop_map(|parts| json!({"oneOf": parts})),
            some().prop_map(|parts| json!({"prefixItems": parts, "items": {"type": "string"}})),
            one("not"),
            one("items"),
            one("contains"),
            one("additionalProperties"),
            one("propertyNames"),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| json!({
                "properties": {"a": a}, "patternProperties": {"b": b}, "additionalProperties": false
            })),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| json!({"if": a, "then": b, "else": c})),
        ]
    });
    (part.clone(), part).prop_map(|(whole, x)| json!({
        "allOf": [whole], "$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/y"}}, "y": x_without_ref(&x)}
    }))
}

/// References that lead back without going into the value have no meaning.
fn x_without_ref(part: &Value) -> Value {
    let text = part
        .to_string()
        .replace(r##"{"$ref":"#/$defs/x"}"##, "true");
    serde_json::from_str(&text).unwrap()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1000))]

    #[test]
    fn another_implementation_says_the_same(schema in schema(), value in value()) {
        let ours = Schema::new(&schema).unwrap().check(&value);
        let other = jsonschema::draft202012::is_valid(&schema, &value);
        proptest::prop_assert_eq!(ours.is_ok(), other, "{:?}", ours);
    }
}
