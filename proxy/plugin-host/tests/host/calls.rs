//! What a well-behaved plugin gets and gives.

use http::StatusCode;
use sluicegate_plugin_host::{ConfigureError, Filter, FilterError, ResponseFilter, Verdict};

use crate::support::{API_KEY, GUEST, HEADERS, guest, host, plugin, request, response};

#[tokio::test]
async fn a_verdict_and_everything_the_guest_saw() {
    let filter = guest(r#"{"request":"refuse"}"#).await;
    let (_, outcome) = filter.on_request(request(&[])).await;
    let outcome = outcome.expect("a verdict");
    assert!(outcome.response_hook.is_none(), "nothing follows a refusal");
    let Verdict::Respond(reply) = outcome.verdict else {
        panic!("it refuses")
    };
    assert_eq!(reply.status(), StatusCode::FORBIDDEN);
    assert_eq!(reply.headers()["x-reason"], "as asked");
    let seen = std::str::from_utf8(reply.body()).expect("text");
    assert_eq!(
        seen,
        "GET /ws?a=1 https ws.example.com 192.0.2.7 id-1 the-route None"
    );
}

#[tokio::test]
async fn every_handshake_has_an_instance_of_its_own() {
    let filter = guest(r#"{"request":"count","response":"count"}"#).await;
    for _ in 0..3 {
        let (head, hook) = passed(&filter).await;
        assert_eq!(
            head.headers["x-count"], "1",
            "nothing is left of the handshake before"
        );
        let (head, verdict) = hook.on_response(response(&[])).await;
        let verdict = verdict.map(|outcome| outcome.verdict);
        assert!(matches!(verdict, Ok(Verdict::Continue)));
        assert_eq!(
            head.headers["x-count"], "2",
            "both hooks run in one instance"
        );
    }
}

#[tokio::test]
async fn forbidden_edits_are_refused_and_the_guest_is_told() {
    let filter = guest(r#"{"request":"bad_headers"}"#).await;
    let original = request(&[
        ("connection", "upgrade"),
        ("sec-websocket-protocol", "chat"),
    ]);
    let (mut head, outcome) = filter.on_request(original.clone()).await;
    outcome.expect("it goes on");
    let told = head
        .headers
        .remove("x-refused")
        .expect("it lists what it was told");
    let values = ["not a valid value"; 4].join("; ");
    let names = ["not a field name"; 2].join("; ");
    let protected = ["written by the proxy itself"; 6].join("; ");
    assert_eq!(
        told.to_str().expect("ascii"),
        format!("{values}; {names}; {protected}; not a valid value; not offered by the client")
    );
    assert_eq!(head.headers, original.headers, "nothing else changed");
    assert_eq!(head.query, original.query);
}

#[tokio::test]
async fn a_plugin_without_the_response_hook_holds_no_instance() {
    let host = host(1);
    let api_key = plugin(&host, &API_KEY);
    assert!(!api_key.description().response_hook);
    let filter = api_key
        .configure(r#"{"keys":{"ci":"s3cret"},"query":"key"}"#)
        .await
        .expect("a config");
    for _ in 0..2 {
        let mut head = request(&[("x-consumer", "forged")]);
        head.query = Some("a=1&key=s3cret".into());
        let (head, outcome) = filter.on_request(head).await;
        let outcome = outcome.expect("a verdict");
        assert!(matches!(outcome.verdict, Verdict::Continue));
        assert!(outcome.response_hook.is_none());
        assert_eq!(head.headers["x-consumer"], "ci");
        assert_eq!(head.query.as_deref(), Some("a=1"));
    }
    let (_, outcome) = filter.on_request(request(&[])).await;
    assert!(
        matches!(outcome.expect("a verdict").verdict, Verdict::Respond(r) if r.status() == 401)
    );
}

#[tokio::test]
async fn one_component_serves_several_configs() {
    let plugin = plugin(&host(4), &HEADERS);
    assert!(plugin.description().response_hook);
    let config = |value: &str| format!(r#"{{"response":{{"set":{{"x-route":"{value}"}}}}}}"#);
    let one = plugin.configure(&config("one")).await.expect("a config");
    let two = plugin.configure(&config("two")).await.expect("a config");
    for (filter, expect) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        let (_, hook) = passed(filter).await;
        let (head, verdict) = hook.on_response(response(&[("x-route", "upstream")])).await;
        let verdict = verdict.map(|outcome| outcome.verdict);
        assert!(matches!(verdict, Ok(Verdict::Continue)));
        assert_eq!(head.headers["x-route"], expect);
    }
}

#[tokio::test]
async fn a_refused_config_says_which_key() {
    let guest = plugin(&host(1), &GUEST);
    for (config, expect) in [
        (
            r#"{"configure":"reject"}"#,
            "`configure`: rejected as asked",
        ),
        (
            r#"{"nonsense":1}"#,
            "`nonsense`: unknown field `nonsense`, expected one of `request`, `response`, `configure`",
        ),
        ("{", "EOF while parsing an object"),
    ] {
        match guest.configure(config).await {
            Err(ConfigureError::Rejected(problem)) => assert_eq!(problem.to_string(), expect),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        guest.configure(r#"{"configure":"trap"}"#).await,
        Err(ConfigureError::Failed(FilterError::Trap { .. }))
    ));
}

async fn passed(filter: &Filter) -> (Box<sluicegate_plugin_host::RequestHead>, ResponseFilter) {
    let (head, outcome) = filter.on_request(request(&[])).await;
    let outcome = outcome.expect("a verdict");
    assert!(matches!(outcome.verdict, Verdict::Continue));
    (head, outcome.response_hook.expect("it has the hook"))
}
