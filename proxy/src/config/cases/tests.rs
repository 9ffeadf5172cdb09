//! What case files say, and what is wrong with them.

use super::*;

fn read(text: &str) -> Result<Suite, String> {
    let source = Source {
        name: "t.toml".to_owned(),
        text: text.to_owned(),
        dir: PathBuf::from("cases"),
    };
    parse(&Arc::new(source)).map_err(|report| report.render(false))
}

#[track_caller]
fn refused(text: &str, why: &[&str]) {
    let report = read(text).expect_err(text);
    for part in why {
        assert!(report.contains(part), "{part}:\n{report}");
    }
}

#[test]
fn everything_has_a_default() {
    let suite = read("[[case]]\nname = \"a\"\n").expect("cases");
    assert!(suite.allow.is_none());
    let [case] = suite.cases.as_slice() else {
        panic!("{suite:?}");
    };
    assert_eq!(case.now.to_toml(), "2026-01-01T00:00:00Z");
    assert_eq!((case.repeat, case.every), (1, Duration::ZERO));
    let request = &case.request;
    assert_eq!(
        (&request.method, request.path.as_str()),
        (&Method::GET, "/")
    );
    assert_eq!((request.listener.as_str(), request.tls), (":80", false));
    assert!(!case.expect.written && case.expect.verdict.is_none());
}

#[test]
fn what_is_written_is_read() {
    let suite = read(
        r#"
        allow  = { kv = false, http = "idp" }
        config = { a = 1, secret = "file:s" }
        [[case]]
        name     = "n"
        config   = { b = 2, secret = "plain" }
        now      = 2026-01-01T01:00:00+01:00
        repeat   = 3
        every    = "10s"
        request  = { uri = "/p?q", client_subject = "CN=x", labels = { sub = "x" }, headers = { A = ["1", "2"] } }
        kv       = { n = 1, s = "x" }
        http     = [{ upstream = "idp", path = "/j", respond = { body_file = "j.json" } }]
        response = { status = 101 }
        [case.expect]
        verdict  = 401
        headers  = { A = false, B = "x", C = [] }
        logs     = "warn"
        kv       = { n = false, s = 2 }
        metrics  = { 'a{b="c"}' = 1.5 }
        lifetime = "1h"
        response = { status = 101 }
        "#,
    );
    let suite = suite.expect("cases");
    let allow = suite.allow.expect("grants");
    assert_eq!((allow.kv, allow.log), (Some(false), None));
    assert_eq!(allow.http.as_deref(), Some(&["idp".into()][..]));
    let case = &suite.cases[0];
    assert_eq!(
        case.config.json,
        serde_json::json!({"a": 1, "b": 2, "secret": "plain"})
    );
    assert!(
        case.config.secrets.is_empty(),
        "the file's secret was replaced"
    );
    assert_eq!(case.now.to_toml(), "2026-01-01T00:00:00Z");
    assert_eq!((case.repeat, case.every), (3, Duration::from_secs(10)));
    assert_eq!(case.request.query.as_deref(), Some("q"));
    assert!(case.request.tls, "a subject comes over TLS");
    assert_eq!(case.request.headers.get_all("a").iter().count(), 2);
    let body = case.http[0].answer.as_ref().map(|answer| &answer.body);
    assert!(
        matches!(body, Ok(Body::File(file)) if file.value == std::path::Path::new("cases/j.json"))
    );
    let expect = &case.expect;
    assert_eq!(expect.verdict, Some(Decision::Refuse(401)));
    assert_eq!(expect.headers[0].1, FieldValues::Absent);
    assert_eq!(expect.logs, ["warn"]);
    assert_eq!(expect.metrics[0].1, Amount(1.5));
    assert!(expect.kv.contains(&("n".to_owned(), Stored::Absent)));
    assert!(expect.response.is_some());
}

#[test]
fn mistakes_have_their_place_and_a_hint() {
    refused(
        "[[case]]\nname = 1\n",
        &["`name` must be a string", "t.toml:2:8"],
    );
    refused("[[case]]\n", &["[[case]] lacks the key `name`"]);
    refused("cases = []\n", &["did you mean `case`?"]);
    refused(
        "[case]\nname = \"a\"\n",
        &["write it with two brackets, [[case]]"],
    );
    let case = |rest: &str| format!("[[case]]\nname = \"a\"\n{rest}\n");
    refused(
        &case("verdict = 1"),
        &["`verdict` belongs in [case.expect]"],
    );
    refused(
        &case("request = { uri = \"a\" }"),
        &["does not begin with `/`"],
    );
    refused(
        &case("request = { uri = \"/a b\" }"),
        &["percent-encoded", "t.toml:3:22"],
    );
    refused(&case("kv = { a = false }"), &["a string or an integer"]);
    refused(&case("expect = { verdict = 100 }"), &["from 200 to 599"]);
    refused(
        &case("expect = { verdict = \"pass\" }"),
        &["must be `\"continue\"` or a status"],
    );
    refused(&case("expect = { headers = { a = true } }"), &["or false"]);
    refused(
        &case("expect = { response = { status = 200 } }"),
        &["no response hook"],
    );
    refused(
        &case("http = [{ upstream = \"a\", respond = {}, fail = \"timeout\" }]"),
        &["an answer cannot respond and fail"],
    );
    refused(
        &case("response = { body = \"a\", body_file = \"b\" }"),
        &["either `body` or `body_file`"],
    );
    refused("[[case]\n", &["this is not TOML"]);
}

#[test]
fn conversations_are_read() {
    let suite = read(
        r#"
        [[case]]
        name    = "n"
        request = { uri = "/ws" }
        ending  = { code = 1001, by = "proxy", cause = "drain" }
        [[case.messages]]
        client    = "a"
        to_server = ["b", { binary = "0aFF 00" }]
        to_client = false
        [[case.messages]]
        server = { ping = "p" }
        after  = "2s"
        repeat = 3
        [[case.messages]]
        client = ""
        close  = { code = 1008, reason = "no" }
        [[case.messages]]
        tick  = true
        close = 4000
        error = "trapped"
        "#,
    );
    let case = suite.expect("cases").cases.remove(0);
    assert!(case.request.websocket, "what else has messages");
    assert_eq!((case.ending.code, case.ending.by), (Some(1001), None));
    let [first, second, third, last] = case.messages.as_slice() else {
        panic!("{:?}", case.messages);
    };
    let text = Payload::Text("a".to_owned());
    assert_eq!(first.what, Happening::Said(Side::Client, text));
    let bytes = Payload::Binary(vec![0x0a, 0xff, 0]);
    let sent = vec![Payload::Text("b".to_owned()), bytes];
    assert_eq!(first.to_server, Some(sent));
    assert_eq!((&first.to_client, first.repeat), (&Some(vec![]), 1));
    let ping = Payload::Ping(b"p".to_vec());
    assert_eq!(second.what, Happening::Said(Side::Server, ping));
    let closing = Closing {
        code: 1008,
        reason: Some("no".to_owned()),
    };
    assert_eq!(third.close, Some(closing));
    assert_eq!(
        (second.repeat, second.after),
        (3, Some(Duration::from_secs(2)))
    );
    assert_eq!((&last.what, &second.to_server), (&Happening::Tick, &None));
    assert_eq!(last.error.as_deref(), Some("trapped"));
    assert_eq!(Payload::hex(&[0x0a, 0xff]), "0a ff");
}

#[test]
fn mistakes_in_conversations_have_their_place() {
    let step = |rest: &str| format!("[[case]]\nname = \"a\"\n[[case.messages]]\n{rest}\n");
    let hint = "one of `client = …`, `server = …` and `tick = true`";
    refused(
        &step("to_server = \"a\""),
        &["nothing happens in this step", hint],
    );
    refused(
        &step("client = \"a\"\nserver = \"b\""),
        &["a step is one message", hint],
    );
    refused(
        &step("client = { binary = \"0 0 g\" }"),
        &["no hexadecimal digit", "t.toml:4:26", "1 error"],
    );
    refused(
        &step("client = { binary = \"000\" }"),
        &["only one", "1 error"],
    );
    let kinds = "client = { ping = \"\", pong = \"\" }";
    refused(&step(kinds), &["of one kind", "t.toml:4:10"]);
    refused(&step("client = {}"), &["of one kind", "`{ ping = \"\" }`"]);
    refused(
        &step("client = { text = \"a\" }"),
        &["unknown key `text` in a message"],
    );
    refused(
        &step("client = 3"),
        &["must be a string or a table", "1 error"],
    );
    refused(
        &step("client = \"a\"\nto_client = true"),
        &["a message, an array of them, or false"],
    );
    refused(&step("client = \"a\"\nclose = 99"), &["from 1000 to 4999"]);
    refused(
        &step("client = \"a\"\nclose = { reason = \"r\" }"),
        &["lacks the key `code`"],
    );
    refused(
        &step("client = \"a\"\nclose = 1008\nrepeat = 2"),
        &["what ends the tunnel happens once"],
    );
    refused(
        &step("client = \"a\"\nwait = \"1s\""),
        &["did you mean `after`?"],
    );
    let case =
        |rest: &str| format!("[[case]]\nname = \"a\"\nmessages = [{{ client = \"a\" }}]\n{rest}\n");
    refused(&case("repeat = 2"), &["is run once", "t.toml:4:10"]);
    refused(
        &case("request = { websocket = false }"),
        &["there are no messages", "t.toml:4:25"],
    );
    refused(
        &case("response = { status = 200 }"),
        &["behind a status of 200"],
    );
    refused(
        &case("ending = { by = \"me\" }"),
        &["`client`, `server` or `proxy`"],
    );
}

#[test]
fn the_json_schema_knows_the_tables() {
    let schema = json_schema();
    let keys = |table: &serde_json::Value| {
        let properties = table["properties"].as_object().into_iter().flatten();
        properties.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&schema), ["allow", "case", "config"]);
    for (title, known) in schema::WORDS.tables {
        let described = schema["$defs"].as_object().expect("tables").values();
        let mut known: Vec<_> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        let same = |table: &serde_json::Value| {
            let mut keys = keys(table);
            keys.sort();
            keys == known
        };
        assert!(same(&schema) || { described }.any(same), "{title}");
    }
}

#[test]
fn the_words_of_others_lead_to_keys_that_exist() {
    for (theirs, ours) in schema::WORDS.elsewhere {
        let known = schema::WORDS
            .tables
            .iter()
            .any(|(_, keys)| keys.contains(ours));
        assert!(known, "{theirs} leads to {ours}");
    }
}
