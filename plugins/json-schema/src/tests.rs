//! The whole filter.

use sluicegate_plugin::testing;

use super::*;

fn filter(more: &str) -> JsonSchema {
    let schema = r#"{"type": "object", "required": ["say"], "properties": {"say": {"type": "string", "maxLength": 5}}}"#;
    testing::configure(format!(r#"{{"schema": {schema}{more}}}"#))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn check(filter: &JsonSchema, text: &str, expect: &Reaction) {
    let reaction = filter.on_text(&mut (), Side::Client, text);
    assert_eq!(&reaction, expect, "{text}");
    assert_eq!(reaction.check(Some(&text.into())), Ok(()));
}

const GOOD: &str = r#"{"say":"hello"}"#;
const LONG: &str = r#"{"say":"a secret"}"#;

#[test]
fn what_fits_goes_on_and_the_rest_does_not() {
    let forward = Reaction::forward();
    check(&filter(""), GOOD, &forward);
    check(&filter(""), LONG, &Reaction::close(1008, "invalid message"));
    check(
        &filter(""),
        "hello",
        &Reaction::close(1008, "invalid message"),
    );
    let reason = r#", "code": 4400, "reason": "{pointer} {why}""#;
    check(
        &filter(reason),
        LONG,
        &Reaction::close(4400, "/say has more than 5 characters"),
    );
    check(&filter(r#", "invalid": "drop""#), "{}", &Reaction::drop());
    check(&filter(r#", "invalid": "report""#), "{}", &forward);
    let reply = filter(r#", "invalid": "reply""#);
    let answer = r#"{"error":"invalid message","pointer":"","why":"lacks `say`"}"#;
    check(&reply, "{}", &Reaction::reply(Side::Client, answer));
    let server = reply.on_text(&mut (), Side::Server, "{}");
    assert_eq!(server, Reaction::reply(Side::Server, answer));
    assert_eq!(testing::metric("invalid", &[("from", "client")]), 6.0);
    assert!(!format!("{:?}", testing::logs()).contains("secret"));
}

#[test]
fn a_message_names_its_schema() {
    let config = |more: &str| {
        let config = format!(
            r#"{{"by": "/type", "schemas": {{"ping": {{"maxProperties": 1}}, "7": true,
                "say": {{"required": ["text"]}}}}, "invalid": "drop"{more}}}"#
        );
        testing::configure::<JsonSchema>(config).unwrap_or_else(|error| panic!("{error}"))
    };
    let (forward, drop) = (Reaction::forward(), Reaction::drop());
    let filter = config("");
    for (text, expect) in [
        (r#"{"type":"ping"}"#, &forward),
        (r#"{"type":"ping","x":1}"#, &drop),
        (r#"{"type":"say","text":""}"#, &forward),
        (r#"{"type":7}"#, &forward),
        (r#"{"type":"other"}"#, &drop),
        (r#"{"type":"ping","type":"say","text":""}"#, &drop),
        (r#"{"type":"say","text":"","Type":"ping"}"#, &drop),
        ("[]", &drop),
    ] {
        check(&filter, text, expect);
    }
    let passing = config(r#", "unknown": "pass""#);
    check(&passing, r#"{"type":"other"}"#, &forward);
    check(&passing, "[]", &forward);
    check(&passing, "[", &drop);
    check(&passing, r#"{"Type":"say"}"#, &drop);
}

#[test]
fn binary_messages_are_refused_unless_they_pass() {
    let refusing = filter(r#", "from": "both""#);
    assert_eq!(refusing.interest(), Interest::data());
    let reaction = refusing.on_binary(&mut (), Side::Server, GOOD.as_bytes());
    assert_eq!(reaction.close_code(), Some(1008));
    let passing = filter(r#", "binary": "pass""#);
    assert_eq!(passing.interest(), Interest::text().from(Side::Client));
    let server = filter(r#", "from": "server""#);
    assert_eq!(server.interest(), Interest::data().from(Side::Server));
}

#[test]
fn a_schema_may_be_a_text() {
    let filter = testing::configure::<JsonSchema>(r#"{"schema": "{\"type\": \"array\"}"}"#);
    let filter = filter.unwrap_or_else(|error| panic!("{error}"));
    check(&filter, "[]", &Reaction::forward());
    check(&filter, "{}", &Reaction::close(1008, "invalid message"));
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(config: &str, expect: &str) {
        let error = testing::configure::<JsonSchema>(config)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    let neither = "either `schema`, or `by` and `schemas`";
    check("{}", neither);
    check(r#"{"schema": true, "by": "/a"}"#, neither);
    check(r#"{"by": "/a"}"#, neither);
    check(
        r#"{"by": "a", "schemas": {"a": true}}"#,
        "`by`: `a` is no JSON pointer: it begins with `/`",
    );
    check(
        r#"{"schema": true, "code": 1006}"#,
        "`code`: `1006` cannot be sent",
    );
    check(
        r#"{"by": "/a", "schemas": {"a.b": {"anyOf": [{"type": "strin"}]}}}"#,
        "`schemas.a.b`: at `/anyOf/0/type`: is no type",
    );
    check(r#"{"schema": "{"}"#, "`schema`: is no JSON");
}
