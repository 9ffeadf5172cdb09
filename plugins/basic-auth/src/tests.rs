//! The whole filter, with hashes that are cheap to check. The password is `s3cret`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sluicegate_plugin::testing;

use super::*;

pub(crate) const ARGON2: &str = "$argon2id$v=19$m=64,t=1,p=1$c2x1aWNlZ2F0ZSBzYWx0IQ$9rdx7AmbvK0OXF4mNW6kSojyApkn1Rmh1047hZg4a1U";
pub(crate) const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG";

fn filter() -> BasicAuth {
    configure(&format!(
        r#"{{"users": {{"ann": "{ARGON2}", "zoë": "{BCRYPT}"}}, "realm": "ws"}}"#
    ))
    .unwrap_or_else(|error| panic!("{error}"))
}

fn configure(config: &str) -> Result<BasicAuth, ConfigError> {
    testing::configure(config)
}

fn basic(credentials: impl AsRef<[u8]>) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

fn request(authorization: &str) -> Request {
    Request::builder()
        .header("authorization", authorization)
        .header("X-User", "root")
        .build()
}

#[test]
fn users_are_known_by_their_passwords() {
    #[track_caller]
    fn check(authorization: &str, expect: Result<&str, Why>) {
        let filter = filter();
        let mut req = request(authorization);
        assert_eq!(filter.user_of(&req), expect);
        let verdict = filter.on_request(&mut req);
        match expect {
            Ok(user) => {
                assert_eq!(verdict, Verdict::Continue);
                assert_eq!(req.header_values("x-user"), [user.as_bytes()]);
                assert_eq!(req.label("sub").as_deref(), Some(user));
                assert_eq!(req.header("authorization"), None);
            }
            Err(_) => assert_eq!(verdict.status(), Some(401)),
        }
    }
    check(&basic("ann:s3cret"), Ok("ann"));
    check(&basic("zoë:s3cret"), Ok("zoë"));
    check(&basic("ann:s3cret").replace("Basic", "bASIC"), Ok("ann"));
    check(
        &basic("ann:s3cret").replace("Basic ", "Basic   "),
        Ok("ann"),
    );
    check(&basic("ann:S3cret"), Err(Why::Wrong));
    check(&basic("ann:"), Err(Why::Wrong));
    check(&basic("ann:s3cret:"), Err(Why::Wrong));
    check(&basic("bob:s3cret"), Err(Why::Wrong));
    check(&basic(":s3cret"), Err(Why::Wrong));
    check(
        &basic(format!("ann:{}", "x".repeat(2_000))),
        Err(Why::Wrong),
    );
    check(&basic("zo\u{308}e:s3cret"), Err(Why::Wrong));
    check(&basic("ann"), Err(Why::Malformed));
    check(&basic("ann:s3cret\0"), Err(Why::Malformed));
    check(&basic("a\nn:x"), Err(Why::Malformed));
    check(&basic(b"zo\xeb:s3cret"), Err(Why::Malformed));
    check("Basic YW5u!", Err(Why::Malformed));
    check("Basic YW5uOnMzY3JldA", Err(Why::Malformed));
    check("Basic ", Err(Why::Malformed));
    check("Basic", Err(Why::Missing));
    check("Bearer abc", Err(Why::Missing));
}

#[test]
fn refusals_can_be_sent_and_challenge() {
    #[track_caller]
    fn check(req: &mut Request, why: &str, status: u16, challenge: bool) {
        let Verdict::Respond(reply) = filter().on_request(req) else {
            panic!("it refuses")
        };
        assert_eq!(reply.check(), Ok(()));
        let expect = challenge.then_some(r#"Basic realm="ws", charset="UTF-8""#);
        assert_eq!(reply.get("www-authenticate"), expect);
        assert_eq!(Verdict::from(reply).status(), Some(status));
        assert_eq!(testing::metric("refused", &[("why", why)]), 1.0);
        let (_, message, fields) = testing::logs().pop().unwrap();
        assert_eq!(message, "user refused");
        assert_eq!(fields, [("why".to_owned(), why.to_owned())]);
    }
    check(&mut Request::builder().build(), "missing", 401, true);
    check(&mut request(&basic("ann:nope")), "wrong", 401, true);
    let right = basic("ann:s3cret");
    let twice = Request::builder()
        .header("authorization", &right)
        .header("authorization", &right);
    check(&mut twice.build(), "several", 400, false);
    let reply = filter().refuse(Why::Busy);
    assert_eq!(reply.get("retry-after"), Some("1"));
    assert_eq!(Verdict::from(reply).status(), Some(503));
}

#[test]
fn a_file_of_htpasswd_will_do() {
    let file = format!("# users\n\nann:{ARGON2}\r\n  zoë:{BCRYPT}\n");
    let config =
        format!(r#"{{"users": {file:?}, "strip": false, "header": "X-Name", "label": "user"}}"#);
    let filter = configure(&config).unwrap_or_else(|error| panic!("{error}"));
    let authorization = basic("zoë:s3cret");
    let mut req = request(&authorization);
    assert_eq!(filter.on_request(&mut req), Verdict::Continue);
    assert_eq!(req.header("x-name").as_deref(), Some("zoë"));
    assert_eq!(req.header("authorization"), Some(authorization));
    assert_eq!(req.label("user").as_deref(), Some("zoë"));
}

#[test]
fn a_bad_config_is_named_and_no_hash_shown() {
    #[track_caller]
    fn check(config: &str, expect: &str) {
        let error = configure(config).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(expect));
    }
    check(r#"{"users": {}}"#, "`users`: names nobody");
    check(r#"{"users": ""}"#, "`users`: names nobody");
    check(
        r#"{"users": {"ann": "s3cret"}}"#,
        "`users.ann`: is no password hash",
    );
    check(
        r#"{"users": {"a:b": "x"}}"#,
        "`users`: `a:b`: holds a colon or a control character",
    );
    check(
        r#"{"users": {"": "x"}}"#,
        "`users`: ``: has not 1 to 256 bytes",
    );
    check(r#"{"users": "ann"}"#, "`users`: line 1: has no colon");
    check(
        r#"{"users": "\nann:s3cret"}"#,
        "`users`: line 2: is no password hash",
    );
    check(
        &format!(r#"{{"users": "ann:{BCRYPT}\nann:{BCRYPT}"}}"#),
        "`users`: line 2: names a user a second time",
    );
    let with = |key: &str, value: &str| {
        format!(r#"{{"users": {{"ann": "{BCRYPT}"}}, "{key}": "{value}"}}"#)
    };
    check(
        &with("realm", "a\\\""),
        "`realm`: `a\"`: holds what cannot be quoted",
    );
    check(
        &with("header", "Host"),
        "`header`: `Host`: written by the proxy itself",
    );
    check(&with("label", "Sub"), "`label`: `Sub` is no label");
}
