//! The whole filter, beside a log and an upstream that is a closure.

use std::cell::RefCell;
use std::rc::Rc;

use sluicegate_plugin::{OpeningBuilder, testing};

use super::*;

fn filter(config: &str) -> AuditSample {
    testing::configure(config).unwrap_or_else(|error| panic!("{error}"))
}

fn opening() -> OpeningBuilder {
    Opening::builder().uri("/chat?x=1").label("sub", "ann\"")
}

fn noted() -> Vec<String> {
    let lines = testing::logs().into_iter();
    let fields = lines.map(|(_, message, fields)| {
        assert_eq!(message, "message");
        let fields = fields.into_iter().skip(1);
        fields.map(|(_, value)| value).collect::<Vec<_>>().join(" ")
    });
    fields.collect()
}

#[test]
fn a_share_of_the_messages_is_noted() {
    let filter = filter(r#"{"one_in": 3, "first": 2}"#);
    let session = &mut filter.open(&opening().build()).unwrap();
    session.until_next = 0;
    for _ in 0..8 {
        let reaction = filter.on_text(session, Side::Client, "hello");
        assert_eq!(reaction, Reaction::forward());
    }
    let numbers = [1, 2, 4, 7].map(|number| format!("client text {number} 5"));
    assert_eq!(noted(), numbers);
}

#[test]
fn connections_begin_anywhere_in_their_cycle() {
    let begins: std::collections::BTreeSet<u32> = (0..200).map(|_| phase(4)).collect();
    assert_eq!(begins, (0..4).collect());
    assert_eq!(phase(1), 0);
}

#[test]
fn what_is_noted_of_the_payload_is_a_choice() {
    #[track_caller]
    fn check(payload: &str, text: &str, binary: &str) {
        let filter = filter(&format!(
            r#"{{"one_in": 1, "max_bytes": 4, "payload": "{payload}"}}"#
        ));
        let session = &mut filter.open(&opening().build()).unwrap();
        let before = testing::logs().len();
        let _ = filter.on_text(session, Side::Client, "aaaéé");
        let _ = filter.on_binary(session, Side::Server, &[0, 255, 1, 2, 3]);
        let expect = [
            format!("client text 1 7{text}"),
            format!("server binary 2 5{binary}"),
        ];
        assert_eq!(noted()[before..], expect);
    }
    check("none", "", "");
    check("excerpt", " aaa", " 00ff0102");
    check(
        "hash",
        " f618ec34acb149a1c11091aa5e61794c6541e2ef1dfaf1b43aeb7971dc7d1452",
        " 4be72cf29a33b5f223067ab9d5dd9567e0c14978e6ed54e2d556ddc9e2cc6038",
    );
}

#[test]
fn records_are_sent_now_and_then_and_at_the_end() {
    let bodies = Rc::new(RefCell::new(Vec::new()));
    let status = Rc::new(RefCell::new(204));
    let (seen, answer) = (bodies.clone(), status.clone());
    testing::on_outbound(move |request| {
        assert_eq!(
            (request.upstream.as_str(), request.path.as_str()),
            ("audit", "/in?a=1")
        );
        assert_eq!(
            request.headers[1],
            ("Authorization".to_owned(), b"Bearer t".to_vec())
        );
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        seen.borrow_mut().push(body);
        Ok(outbound::Response::new(*answer.borrow()))
    });
    let filter = filter(
        r#"{"one_in": 1, "upstream": "audit", "path": "/in?a=1", "batch": 2, "flush": "1s",
            "payload": "excerpt", "headers": {"Authorization": "Bearer t"}}"#,
    );
    let expect = Interest::data().every(Duration::from_secs(1)).on_close();
    assert_eq!(filter.interest(), expect);
    let session = &mut filter.open(&opening().build()).unwrap();
    assert_eq!(filter.on_timer(session), Reaction::forward());
    assert!(bodies.borrow().is_empty());
    for text in ["one", "\"two\"", "three"] {
        let _ = filter.on_text(session, Side::Client, text);
    }
    *status.borrow_mut() = 500;
    let _ = filter.on_timer(session);
    let body = bodies.borrow_mut().remove(0);
    assert_eq!(body["labels"]["sub"], "ann\"");
    assert_eq!(body["path"], "/chat");
    let excerpts: Vec<_> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["excerpt"])
        .collect();
    assert_eq!(excerpts, ["one", "\"two\""]);
    assert_eq!(
        (&body["lost"], &body["ended"]),
        (&1.into(), &serde_json::Value::Null)
    );

    *status.borrow_mut() = 200;
    let _ = filter.on_binary(session, Side::Server, &[1]);
    let ending = Ending {
        code: Some(1000),
        by: Some(Side::Client),
        cause: "close".to_owned(),
    };
    filter.on_close(session, &ending);
    let body = bodies.borrow_mut().remove(0);
    assert_eq!(body["lost"], 3);
    assert_eq!(body["messages"][0]["number"], 4);
    assert_eq!(
        body["ended"],
        serde_json::json!({"code": 1000, "by": "client", "cause": "close"})
    );
    assert_eq!(testing::metric("lost", &[("why", "full")]), 1.0);
    assert_eq!(testing::metric("lost", &[("why", "unsent")]), 2.0);
    assert_eq!(testing::metric("sent", &[]), 1.0);
}

#[test]
fn the_end_is_told_of_each_connection_that_has_records() {
    let bodies = Rc::new(RefCell::new(Vec::new()));
    let seen = bodies.clone();
    testing::on_outbound(move |request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let status = if body["ended"].is_null() { 500 } else { 204 };
        seen.borrow_mut().push(body);
        Ok(outbound::Response::new(status))
    });
    let filter = filter(r#"{"one_in": 1, "upstream": "audit"}"#);
    let ending = Ending {
        code: Some(1001),
        by: Some(Side::Server),
        cause: "close".to_owned(),
    };
    let silent = &mut filter.open(&opening().build()).unwrap();
    filter.on_close(silent, &ending);
    assert!(bodies.borrow().is_empty());

    let session = &mut filter.open(&opening().build()).unwrap();
    let _ = filter.on_text(session, Side::Client, "one");
    for _ in 0..2 {
        let _ = filter.on_timer(session);
    }
    filter.on_close(session, &ending);
    let bodies = bodies.borrow();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[1]["messages"], serde_json::json!([]));
    assert_eq!(
        (&bodies[1]["lost"], &bodies[1]["ended"]["code"]),
        (&1.into(), &1001.into())
    );
}

#[test]
fn what_waits_to_be_sent_is_bounded() {
    let filter = filter(
        r#"{"one_in": 1, "upstream": "audit", "batch": 1000, "payload": "excerpt", "max_bytes": 4096}"#,
    );
    let session = &mut filter.open(&opening().build()).unwrap();
    let worst = "\u{1}".repeat(4096);
    for _ in 0..100 {
        let _ = filter.on_text(session, Side::Client, &worst);
    }
    assert!(
        session.pending.len() <= MAX_PENDING,
        "{}",
        session.pending.len()
    );
    assert_eq!(u64::from(session.count) + session.lost, 100);
    assert!(session.count > 1);
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(more: &str, expect: &str) {
        let config = format!(r#"{{"one_in": 1{more}}}"#);
        let error = testing::configure::<AuditSample>(config)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    check(r#", "batch": 0"#, "`batch`: is nothing at all");
    check(r#", "flush": "0s""#, "`flush`: is nothing at all");
    check(r#", "max_bytes": 5000"#, "`max_bytes`: is more than 4096");
    check(r#", "path": "x""#, "`path`: `x` is no path");
    check(
        r#", "headers": {"Host": "x"}"#,
        "`headers.Host`: written by the proxy itself",
    );
}
