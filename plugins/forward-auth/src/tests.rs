//! The whole filter, beside a service that is a closure.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use sluicegate_plugin::outbound::Response;
use sluicegate_plugin::testing;

use super::*;

type Questions = Rc<RefCell<Vec<outbound::Request>>>;

fn filter(more: &str) -> ForwardAuth {
    configure(&format!(
        r#"{{"upstream": "auth", "path": "/check"{more}}}"#
    ))
    .unwrap_or_else(|error| panic!("{error}"))
}

fn configure(config: &str) -> Result<ForwardAuth, ConfigError> {
    testing::configure(config)
}

fn serve(answer: impl Fn() -> Result<Response, Error> + 'static) -> Questions {
    let questions = Questions::default();
    let asked = questions.clone();
    testing::on_outbound(move |question| {
        asked.borrow_mut().push(question.clone());
        answer()
    });
    questions
}

fn request() -> Request {
    Request::builder()
        .uri("/ws/chat?a=1")
        .host("ws.example.com")
        .header("Host", "WS.example.com:8080")
        .header("Authorization", "Bearer t0k")
        .header("Cookie", "a=1")
        .header("Cookie", "b=2")
        .header("X-Other", "1")
        .header("X-User", "root")
        .build()
}

fn reply(verdict: Verdict) -> Reply {
    let Verdict::Respond(reply) = verdict else {
        panic!("it refuses")
    };
    assert_eq!(reply.check(), Ok(()));
    reply
}

#[test]
fn the_service_hears_who_wants_what() {
    let questions = serve(|| Ok(Response::new(204)));
    let filter = filter(r#", "host": "auth.example.com", "timeout": "2s""#);
    assert_eq!(filter.on_request(&mut request()), Verdict::Continue);
    let questions = questions.borrow();
    let [question] = questions.as_slice() else {
        panic!("one question")
    };
    assert_eq!(
        (question.upstream.as_str(), question.path.as_str()),
        ("auth", "/check")
    );
    assert_eq!(question.timeout, Some(Duration::from_secs(2)));
    let headers: Vec<(&str, &str)> = question
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(
        headers,
        [
            ("X-Original-Method", "GET"),
            ("X-Original-URL", "http://ws.example.com:8080/ws/chat?a=1"),
            ("X-Original-URI", "/ws/chat?a=1"),
            ("X-Original-For", "192.0.2.1"),
            ("Host", "auth.example.com"),
            ("Authorization", "Bearer t0k"),
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
        ]
    );
}

#[test]
fn the_port_is_the_one_the_client_knows() {
    #[track_caller]
    fn check(sent: Option<&str>, expect: &str) {
        let mut req = Request::builder().host("ws.example.com");
        if let Some(sent) = sent {
            req = req.header("Host", sent);
        }
        assert_eq!(authority(&req.build()), expect);
    }
    check(None, "ws.example.com");
    check(Some("ws.example.com"), "ws.example.com");
    check(Some("ws.example.com:8443"), "ws.example.com:8443");
    check(Some("ws.example.com:x"), "ws.example.com");
    check(Some("evil.example.com:8443"), "ws.example.com");
    check(Some("ws.example.com.evil:1"), "ws.example.com");
}

#[test]
fn the_upstream_hears_what_the_service_says() {
    serve(|| {
        Ok(Response::new(200)
            .with_header("X-User", "ann")
            .with_header("X-Role", "a")
            .with_header("X-Role", "b")
            .with_header("X-Secret", "s"))
    });
    let filter = filter(
        r#", "response_headers": ["X-User", "X-Role", "X-Tenant"], "labels": {"X-User": "sub"},
           "lifetime": "1h""#,
    );
    let mut req = request();
    req.set_header("x-tenant", "forged").unwrap();
    assert_eq!(filter.on_request(&mut req), Verdict::Continue);
    assert_eq!(req.header_values("x-user"), [b"ann"]);
    assert_eq!(req.header_values("x-role"), [b"a", b"b"]);
    assert_eq!(
        (req.header("x-tenant"), req.header("x-secret")),
        (None, None)
    );
    assert_eq!(req.label("sub").as_deref(), Some("ann"));
    assert_eq!(req.lifetime(), Some(Duration::from_secs(3600)));
}

#[test]
fn other_answers_are_the_clients() {
    serve(|| {
        Ok(Response::new(302)
            .with_header("Location", "https://login.example.com/")
            .with_header("Set-Cookie", "state=1")
            .with_header("Set-Cookie", "b=2")
            .with_header("Content-Type", "text/html")
            .with_header("Server", "x")
            .with_header("Connection", "close")
            .with_body("<p>over there</p>"))
    });
    let filter = filter("");
    let reply = reply(filter.on_request(&mut request()));
    assert_eq!(reply.get("location"), Some("https://login.example.com/"));
    assert_eq!(reply.get("content-type"), Some("text/html"));
    assert_eq!((reply.get("server"), reply.get("connection")), (None, None));
    let expect = Reply::new(302)
        .header("location", "https://login.example.com/")
        .header("set-cookie", "state=1")
        .header("set-cookie", "b=2")
        .header("content-type", "text/html")
        .body("<p>over there</p>");
    assert_eq!(reply, expect);
    assert_eq!(testing::metric("refused", &[("why", "denied")]), 1.0);

    serve(|| Ok(Response::new(403).with_body(vec![b'x'; MAX_BODY + 1])));
    let reply = super::tests::reply(filter.on_request(&mut request()));
    assert_eq!(reply, Reply::new(403));
}

#[test]
fn a_service_that_is_not_there_lets_nobody_in_unless_it_is_said_so() {
    #[track_caller]
    fn check(answer: Result<Response, Error>, why: &str, deny: u16, pass: Option<u16>) {
        let lists = r#", "response_headers": ["X-User"]"#;
        serve(move || answer.clone());
        let reply = reply(filter(lists).on_request(&mut request()));
        assert_eq!(Verdict::from(reply).status(), Some(deny), "{why}");
        assert!(testing::metric("refused", &[("why", why)]) >= 1.0);
        let filter = filter(&format!(r#"{lists}, "on_unreachable": "pass""#));
        let mut req = request();
        assert_eq!(filter.on_request(&mut req).status(), pass, "{why}");
        if pass.is_none() {
            // Nobody vouches for the client: it is nobody.
            assert_eq!(req.header("x-user"), None);
            assert!(testing::metric("passed", &[("why", why)]) >= 1.0);
        }
    }
    check(
        Err(Error::Unreachable("refused".into())),
        "unreachable",
        503,
        None,
    );
    check(Err(Error::Timeout), "unreachable", 503, None);
    // What a client could bring about.
    check(
        Err(Error::Invalid("too long".into())),
        "invalid",
        400,
        Some(400),
    );
    check(Err(Error::TooLarge), "answer", 503, Some(503));
    check(Err(Error::Broken("off".into())), "answer", 503, Some(503));
    check(Err(Error::NotAllowed), "answer", 503, Some(503));
    for status in [500, 502, 503, 199, 100] {
        check(Ok(Response::new(status)), "answer", 503, Some(503));
    }
}

#[test]
fn answers_are_remembered_for_as_long_as_was_said() {
    let filter =
        filter(r#", "allow_ttl": "30s", "deny_ttl": "5s", "response_headers": ["X-User"]"#);
    let status = Rc::new(RefCell::new(200));
    let answer = status.clone();
    let questions = serve(move || {
        Ok(Response::new(*answer.borrow())
            .with_header("X-User", "ann")
            .with_body("no"))
    });
    let go = || {
        let mut req = request();
        let verdict = filter.on_request(&mut req);
        (verdict.status(), req.header("x-user"))
    };
    let ann = (None, Some("ann".to_owned()));
    assert_eq!([go(), go()], [ann.clone(), ann.clone()]);
    *status.borrow_mut() = 401;
    testing::advance(Duration::from_secs(29));
    assert_eq!(go(), ann);
    assert_eq!(questions.borrow().len(), 1);
    testing::advance(Duration::from_secs(1));
    assert_eq!([go().0, go().0], [Some(401), Some(401)]);
    assert_eq!(questions.borrow().len(), 2);
    *status.borrow_mut() = 200;
    testing::advance(Duration::from_secs(5));
    assert_eq!(go(), ann);
    assert_eq!(questions.borrow().len(), 3);
    assert_eq!(testing::metric("cached", &[]), 3.0);

    // Another client, another question.
    let mut other = request();
    other.set_header("authorization", "Bearer other").unwrap();
    assert_eq!(filter.on_request(&mut other), Verdict::Continue);
    assert_eq!(questions.borrow().len(), 4);
    // A failure is not remembered, and a store that fails is none.
    testing::fail_kv(Some(sluicegate_plugin::kv::Error::Full));
    assert_eq!([go(), go()], [ann.clone(), ann]);
    assert_eq!(questions.borrow().len(), 6);
}

#[test]
fn a_cookie_is_one_clients() {
    let filter = filter(r#", "allow_ttl": "30s", "deny_ttl": "30s""#);
    let questions = serve(|| Ok(Response::new(302).with_header("Set-Cookie", "state=1")));
    for _ in 0..2 {
        assert_eq!(filter.on_request(&mut request()).status(), Some(302));
    }
    assert_eq!(questions.borrow().len(), 2);
}

#[test]
fn a_bad_config_is_named() {
    #[track_caller]
    fn check(more: &str, expect: &str) {
        let config = format!(r#"{{"upstream": "auth", "path": "/check"{more}}}"#);
        let error = configure(&config).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(expect));
    }
    let error = configure(r#"{"upstream": "", "path": "/"}"#).err();
    assert_eq!(error, Some(ConfigError::key("upstream", "is empty")));
    let error = configure(r#"{"upstream": "a", "path": "check"}"#).err();
    assert_eq!(error, Some(ConfigError::key("path", "`check` is no path")));
    check(
        r#", "method": "CONNECT""#,
        "`method`: `CONNECT` is not GET, HEAD or POST",
    );
    check(r#", "host": "a b""#, "`host`: `a b` is no host");
    check(
        r#", "request_headers": ["Cookie", "Host"]"#,
        "`request_headers.1`: `Host`: written by the proxy itself",
    );
    check(
        r#", "request_headers": ["x-original-uri"]"#,
        "`request_headers`: `x-original-uri` is written by this plugin",
    );
    check(
        r#", "response_headers": ["X User"]"#,
        "`response_headers.0`: `X User`: not a field name",
    );
    check(
        r#", "labels": {"X-User": "Sub"}"#,
        "`labels.X-User`: `Sub` is no label",
    );
    check(r#", "timeout": "0s""#, "`timeout`: is no time at all");
    check(r#", "deny_ttl": "0s""#, "`deny_ttl`: is no time at all");
}
