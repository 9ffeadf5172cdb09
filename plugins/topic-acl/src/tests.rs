//! The whole filter, in each protocol.

use sluicegate_plugin::testing;

use super::*;

fn filter(config: &str) -> TopicAcl {
    testing::configure(config).unwrap_or_else(|error| panic!("{error}"))
}

fn session(filter: &TopicAcl) -> Session {
    let opening = Opening::builder().label("sub", "ann").build();
    filter.open(&opening).unwrap()
}

#[track_caller]
fn check(filter: &TopicAcl, session: &mut Session, text: &str, expect: &Reaction) {
    let reaction = filter.on_text(session, Side::Client, text);
    assert_eq!(&reaction, expect, "{text}");
    assert_eq!(reaction.check(Some(&text.into())), Ok(()));
}

#[test]
fn json_is_judged_by_action_and_topic() {
    let filter = filter(
        r#"{"action": "/type", "topic": ["/room", "/rooms"], "id": "/id", "refuse": "reply",
            "reply": "{\"id\":\"{id}\",\"error\":\"{topic}\"}",
            "allow": [{"action": ["subscribe", "publish"], "topic": "rooms/{sub}/#"},
                      {"action": "subscribe", "topic": "news"}, {"action": "ping"}]}"#,
    );
    let session = &mut session(&filter);
    let forward = Reaction::forward();
    let reply = |text: &str| Reaction::reply(Side::Client, text);
    for (text, expect) in [
        (r#"{"type":"subscribe","room":"rooms/ann/1"}"#, &forward),
        (
            r#"{"type":"publish","room":"rooms/ann","say":"x"}"#,
            &forward,
        ),
        (
            r#"{"type":"subscribe","rooms":["news","rooms/ann/2"]}"#,
            &forward,
        ),
        (r#"{"type":"ping"}"#, &forward),
        (
            r#"{"type":"subscribe","rooms":["news","rooms/bob/2"],"id":7}"#,
            &reply(r#"{"id":"7","error":"rooms/bob/2"}"#),
        ),
        (
            r#"{"type":"publish","room":"news"}"#,
            &reply(r#"{"id":"","error":"news"}"#),
        ),
        (r#"{"type":"subscribe"}"#, &reply(r#"{"id":"","error":""}"#)),
        (r#"{"type":"other"}"#, &reply(r#"{"id":"","error":""}"#)),
        (r#"{"room":"news"}"#, &reply(r#"{"id":"","error":""}"#)),
        (r#"[{"type":"ping"}]"#, &reply(r#"{"id":"","error":""}"#)),
        ("ping", &reply(r#"{"id":"","error":""}"#)),
    ] {
        check(&filter, session, text, expect);
    }
    let binary = filter.on_binary(session, Side::Client, b"{}");
    assert_eq!(binary, reply(r#"{"id":"","error":""}"#));
    assert_eq!(testing::metric("refused", &[("why", "not-allowed")]), 4.0);
    assert_eq!(testing::metric("refused", &[("why", "unreadable")]), 4.0);
}

#[test]
fn without_a_place_of_the_action_all_is_published() {
    let filter = filter(
        r#"{"topic": "/to", "separator": ":", "refuse": "drop",
            "allow": [{"action": "publish", "topic": "user:{sub}:+"}]}"#,
    );
    let session = &mut session(&filter);
    check(
        &filter,
        session,
        r#"{"to":"user:ann:x"}"#,
        &Reaction::forward(),
    );
    check(
        &filter,
        session,
        r#"{"to":"user:bob:x"}"#,
        &Reaction::drop(),
    );
}

#[test]
fn events_of_socket_io_are_judged() {
    let filter = filter(
        r#"{"protocol": "socket.io", "topic": "/1/room", "refuse": "reply",
            "reply": "43{id}[\"{action}: no {topic}\"]", "namespaces": ["/", "/chat"],
            "allow": [{"action": "join", "topic": "{sub}/+"}, {"action": "upload"}]}"#,
    );
    let session = &mut session(&filter);
    let forward = Reaction::forward();
    let reply = |text: &str| Reaction::reply(Side::Client, text);
    for (text, expect) in [
        ("2", &forward),
        ("40/chat,", &forward),
        (r#"42["join",{"room":"ann/a"}]"#, &forward),
        (r#"42/chat,5["join",{"room":"ann/a"}]"#, &forward),
        (
            r#"425["join",{"room":"bob/a"}]"#,
            &reply(r#"435["join: no bob/a"]"#),
        ),
        (
            r#"42["leave",{"room":"ann/a"}]"#,
            &reply(r#"43["leave: no ann/a"]"#),
        ),
        (
            r#"42/admin,["join",{"room":"ann/a"}]"#,
            &reply(r#"43[": no "]"#),
        ),
        ("40/admin,", &reply(r#"43[": no "]"#)),
        (r#"42["join""#, &reply(r#"43[": no "]"#)),
        ("hello", &reply(r#"43[": no "]"#)),
    ] {
        check(&filter, session, text, expect);
    }
    let binary = |session: &mut Session| filter.on_binary(session, Side::Client, b"x");
    check(
        &filter,
        session,
        r#"452-["upload",{"_placeholder":true}]"#,
        &forward,
    );
    assert_eq!(
        [binary(session), binary(session)],
        [forward.clone(), forward.clone()]
    );
    let _ = filter.on_text(
        session,
        Side::Client,
        r#"452-["other",{"_placeholder":true}]"#,
    );
    let dropped = Reaction::drop();
    assert_eq!(
        [binary(session), binary(session), binary(session)],
        [dropped.clone(), dropped, forward]
    );
}

/// CONNECT of version 3.1.1 and a PUBLISH with quality of service 1.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
const ALLOWED: &[u8] = b"\x32\x0a\x00\x05a/ann\x00\x07x";
const OTHERS: &[u8] = b"\x32\x0a\x00\x05a/bob\x00\x07x";

fn mqtt(more: &str) -> String {
    format!(
        r#"{{"protocol": "mqtt", "allow": [{{"action": "publish", "topic": "a/{{sub}}"}}]{more}}}"#
    )
}

#[test]
fn packets_of_mqtt_are_judged() {
    #[track_caller]
    fn check(more: &str, expect: &[Reaction; 3]) {
        let filter = filter(&mqtt(more));
        let session = &mut session(&filter);
        let mut take = |data: &[u8]| {
            let reaction = filter.on_binary(session, Side::Client, data);
            assert_eq!(reaction.check(Some(&data.to_vec().into())), Ok(()));
            reaction
        };
        assert_eq!(
            [take(CONNECT), take(ALLOWED)],
            [Reaction::forward(), Reaction::forward()]
        );
        assert_eq!(&take(OTHERS), &expect[0]);
        assert_eq!(&take(&[ALLOWED, OTHERS].concat()), &expect[1]);
        assert_eq!(&take(&[0x82, 0]), &expect[2]);
        let text = filter.on_text(session, Side::Client, "x");
        assert!(text.close_code().is_some());
    }
    let close = Reaction::close(1008, "not allowed");
    check("", &[close.clone(), close.clone(), close.clone()]);
    check(
        r#", "refuse": "drop""#,
        &[
            Reaction::drop(),
            Reaction::replace(ALLOWED.to_vec()),
            close.clone(),
        ],
    );
    let puback = b"\x40\x02\x00\x07".to_vec();
    check(
        r#", "refuse": "reply", "code": 4403, "reason": "no""#,
        &[
            Reaction::drop().send_before(Side::Client, puback.clone()),
            Reaction::replace(ALLOWED.to_vec()).send_before(Side::Client, puback),
            Reaction::close(4403, "no"),
        ],
    );
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(config: &str, expect: &str) {
        let error = testing::configure::<TopicAcl>(config)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), expect);
    }
    check("{}", "neither `allow` nor `deny` is there");
    check(
        r#"{"allow": [], "separator": "+"}"#,
        "`separator`: means something else",
    );
    check(
        r#"{"protocol": "mqtt", "allow": [], "topic": "/a"}"#,
        "`topic`: this protocol has no use for it",
    );
    check(
        r#"{"protocol": "socket.io", "allow": [], "action": "/a"}"#,
        "`action`: this protocol has no use for it",
    );
    check(
        r#"{"allow": [], "action": "a"}"#,
        "`action`: `a` is no JSON pointer: it begins with `/`",
    );
}
