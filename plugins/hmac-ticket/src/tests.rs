//! The whole filter.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sluicegate_plugin::crypto::{Hash, hmac};
use sluicegate_plugin::testing;

use super::*;

pub(crate) const KEY: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_700_000_000;

pub(crate) fn sign(payload: &str) -> String {
    let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
    let tag = hmac(Hash::Sha256, KEY.as_bytes(), payload.as_bytes());
    format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn filter(more: &str) -> HmacTicket {
    testing::set_now(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
    configure(&format!(r#"{{"keys": {{"k1": "{KEY}"}}{more}}}"#))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn configure(config: &str) -> Result<HmacTicket, ConfigError> {
    testing::configure(config)
}

fn request(ticket: &str) -> Request {
    Request::builder()
        .uri(&format!("/ws/chat?a=1&ticket={ticket}&b=2"))
        .host("ws.example.com")
        .header("X-User", "root")
        .build()
}

#[test]
fn a_ticket_opens_the_door_once() {
    let filter = filter("");
    let ticket = sign(r#"{"exp":1700000030,"sub":"ann","session_exp":1700003600}"#);
    let mut req = request(&ticket);
    assert_eq!(filter.on_request(&mut req), Verdict::Continue);
    assert_eq!(req.query().as_deref(), Some("a=1&b=2"));
    assert_eq!(req.header_values("x-user"), [b"ann"]);
    assert_eq!(req.label("sub").as_deref(), Some("ann"));
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_003_600);
    assert_eq!(req.expires_at(), Some(end));
    for seconds in [0, 15, 14] {
        testing::advance(Duration::from_secs(seconds));
        assert_eq!(filter.admit(&mut request(&ticket)), Err(Why::Used));
    }
    // The store may forget it now: it is over.
    testing::advance(Duration::from_secs(1));
    assert_eq!(filter.admit(&mut request(&ticket)), Err(Why::Expired));
}

#[test]
fn tickets_without_a_name_name_nobody() {
    let filter = filter(r#", "once": false"#);
    let ticket = sign(r#"{"exp":1700000030}"#);
    for _ in 0..2 {
        let mut req = request(&ticket);
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        assert_eq!((req.header("x-user"), req.label("sub")), (None, None));
        assert_eq!(req.expires_at(), None);
    }
}

#[test]
fn a_ticket_is_good_where_and_when_it_says() {
    #[track_caller]
    fn check(config: &str, payload: &str, expect: Result<(), Why>) {
        let filter = filter(config);
        assert_eq!(
            filter.admit(&mut request(&sign(payload))),
            expect,
            "{payload}"
        );
    }
    check("", r#"{"exp":1700000001}"#, Ok(()));
    check("", r#"{"exp":1700000000}"#, Err(Why::Expired));
    check("", r#"{"exp":0}"#, Err(Why::Expired));
    check("", r#"{"exp":1700000300}"#, Ok(()));
    check("", r#"{"exp":1700000301}"#, Err(Why::TooLong));
    check("", r#"{"exp":18446744073709551615}"#, Err(Why::TooLong));
    check(r#", "max_age": "10m""#, r#"{"exp":1700000301}"#, Ok(()));
    check(
        "",
        r#"{"exp":1700000001,"session_exp":1700000000}"#,
        Err(Why::Expired),
    );
    check("", r#"{"exp":1700000001,"path":"/ws/chat"}"#, Ok(()));
    check("", r#"{"exp":1700000001,"path":"/ws"}"#, Err(Why::Binding));
    check("", r#"{"exp":1700000001,"ip":"192.0.2.1"}"#, Ok(()));
    check(
        "",
        r#"{"exp":1700000001,"ip":"192.0.2.2"}"#,
        Err(Why::Binding),
    );
    check("", r#"{"exp":1700000001,"host":"ws.example.com"}"#, Ok(()));
    check(
        "",
        r#"{"exp":1700000001,"host":"example.com"}"#,
        Err(Why::Binding),
    );
    let require = r#", "require": ["sub", "ip"]"#;
    check(
        require,
        r#"{"exp":1700000001,"sub":"a"}"#,
        Err(Why::Binding),
    );
    check(
        require,
        r#"{"exp":1700000001,"sub":"b","ip":"192.0.2.1"}"#,
        Ok(()),
    );
    check("", r#"{"exp":1700000001,"sub":"a\nb"}"#, Err(Why::Request));
}

#[test]
fn what_is_refused_is_not_used_up() {
    let filter = filter("");
    let ticket = sign(r#"{"exp":1700000030,"path":"/other"}"#);
    assert_eq!(filter.admit(&mut request(&ticket)), Err(Why::Binding));
    let mut elsewhere = Request::builder()
        .uri(&format!("/other?ticket={ticket}"))
        .build();
    assert_eq!(filter.admit(&mut elsewhere), Ok(()));
    assert_eq!(elsewhere.query(), None);

    testing::fail_kv(Some(kv::Error::Full));
    let ticket = sign(r#"{"exp":1700000030}"#);
    assert_eq!(filter.admit(&mut request(&ticket)), Err(Why::Store));
    testing::fail_kv(None);
    assert_eq!(filter.admit(&mut request(&ticket)), Ok(()));
}

#[test]
fn refusals_can_be_sent_and_are_counted() {
    #[track_caller]
    fn check(ticket: &str, why: &str, status: u16) {
        let Verdict::Respond(reply) = filter("").on_request(&mut request(ticket)) else {
            panic!("it refuses")
        };
        assert_eq!(reply.check(), Ok(()));
        assert_eq!(Verdict::from(reply).status(), Some(status));
        assert_eq!(testing::metric("refused", &[("why", why)]), 1.0);
        let (_, message, fields) = testing::logs().pop().unwrap();
        assert_eq!(message, "ticket refused");
        assert_eq!(fields, [("why".to_owned(), why.to_owned())]);
    }
    check("", "missing", 403);
    check("x", "malformed", 403);
    check("x.AAAA", "signature", 403);
    check(&sign(r#"{"exp":1}"#), "expired", 403);
    testing::fail_kv(Some(kv::Error::Unavailable));
    check(&sign(r#"{"exp":1700000030}"#), "store", 503);
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(config: &str, expect: &str) {
        let error = configure(config).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(expect));
    }
    check(r#"{"keys": {}}"#, "`keys`: has not 1 to 16 keys");
    check(
        r#"{"keys": {"k1": "short"}}"#,
        "`keys.k1`: is shorter than 32 bytes",
    );
    check(
        r#"{"keys": {"k.1": "short"}}"#,
        "`keys`: `k.1`: only letters, digits, `-` and `_` name a key",
    );
    let with = |more: &str| format!(r#"{{"keys": {{"k1": "{KEY}"}}, {more}}}"#);
    check(&with(r#""query": """#), "`query`: is empty");
    check(&with(r#""max_age": "0s""#), "`max_age`: is no time at all");
    check(
        &with(r#""header": "Host""#),
        "`header`: `Host`: written by the proxy itself",
    );
    check(&with(r#""label": "a b""#), "`label`: `a b` is no label");
    check(
        &with(r#""require": ["iq"]"#),
        "`require.0`: unknown variant `iq`, expected one of `sub`, `path`, `host`, `ip`, `session_exp`",
    );
}
