use std::sync::Arc;

use http::{Request, Response};
use regex::Regex;

use super::*;
use crate::config::model::{HeaderEdits, Rewrite, Template, TemplatePart, Variable};
use crate::facts::{Peer, TlsFacts};
use crate::request::PathFault;

fn facts() -> RequestFacts {
    RequestFacts {
        peer_trusted: false,
        client_ip: "203.0.113.9".parse().unwrap(),
        scheme: "https",
        host: "ws.example.com".into(),
        authority: "ws.example.com:8443".into(),
        path: "/a/b".into(),
        query: Some("q=1".into()),
        request_id: "0123".into(),
    }
}

fn conn(subject: Option<&str>) -> ConnectionFacts {
    let tls = TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS13_AES_128_GCM_SHA256",
        sni: None,
        client_subject: subject.map(Arc::from),
        resumed: false,
        http2: false,
    };
    let peer = Peer::Ip("10.0.0.1:5".parse().unwrap());
    ConnectionFacts {
        peer,
        listener: "test".into(),
        tls: Some(Box::new(tls)),
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

/// All lines as `name: value`, sorted.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    let mut lines: Vec<String> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

fn prepared(fields: &[(&str, &str)], trusted: bool) -> HeaderMap {
    let mut headers = headers(fields);
    let facts = RequestFacts {
        peer_trusted: trusted,
        ..facts()
    };
    prepare_request(&mut headers, &facts, &conn(None));
    headers
}

#[test]
fn hop_by_hop_fields_end_here() {
    let headers = prepared(
        &[
            ("connection", "close, X-Named ,sec-websocket-key"),
            ("connection", "Authorization"),
            ("x-named", "1"),
            ("authorization", "secret"),
            ("sec-websocket-key", "k"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("proxy", "http://evil"),
            ("te", "gzip, trailers;q=1"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("trailer", "T"),
            ("accept", "*/*"),
        ],
        false,
    );
    assert_eq!(
        lines(&headers),
        [
            "accept: */*",
            "sec-websocket-key: k",
            "trailer: T",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-host: ws.example.com:8443",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.9",
            "x-request-id: 0123",
        ]
    );
    assert_eq!(prepared(&[("te", "gzip, Trailers")], false)[TE], "trailers");
}

#[test]
fn forwarding_fields() {
    let sent = [
        (
            "connection",
            "x-forwarded-for, x-real-ip, x-forwarded-proto, forwarded, host",
        ),
        (
            "connection",
            "x-client-cert-subject, x-request-id, x-forwarded-host",
        ),
        ("host", "ws.example.com"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "front.example.com"),
        ("x-forwarded-prefix", "/p"),
        ("x-real-ip", "6.6.6.6"),
        ("x-request-id", "evil"),
        ("forwarded", "for=6.6.6.6"),
        ("x-client-cert-subject", "CN=admin"),
    ];
    assert_eq!(
        lines(&prepared(&sent, false)),
        [
            "host: ws.example.com",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-host: ws.example.com:8443",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.9",
            "x-request-id: 0123",
        ]
    );
    assert_eq!(
        lines(&prepared(&sent, true)),
        [
            "forwarded: for=6.6.6.6",
            "host: ws.example.com",
            "x-forwarded-for: 6.6.6.6, 203.0.113.9, 10.0.0.1",
            "x-forwarded-host: front.example.com",
            "x-forwarded-prefix: /p",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.9",
            "x-request-id: 0123",
        ]
    );
}

#[test]
fn only_a_verified_certificate_gives_a_subject() {
    for (subject, expect) in [
        (None, None),
        (Some("CN=J\u{fc}rgen,O=x"), Some("CN=J\u{fc}rgen,O=x")),
        (Some("CN=a\r\nX-Admin: 1"), None),
    ] {
        let mut map = headers(&[("x-client-cert-subject", "CN=admin")]);
        prepare_request(&mut map, &facts(), &conn(subject));
        let value = map.get(CLIENT_SUBJECT_HEADER).map(HeaderValue::as_bytes);
        assert_eq!(value, expect.map(str::as_bytes));
        assert!(!map.contains_key("x-admin"));
    }
}

#[test]
fn upstream_requests() {
    for (fields, websocket, expect) in [
        (
            &[("host", "other")][..],
            false,
            &["host: ws.example.com:8443"][..],
        ),
        (
            &[("te", "trailers")],
            false,
            &[
                "connection: te",
                "host: ws.example.com:8443",
                "te: trailers",
            ],
        ),
        (
            &[("te", "trailers"), ("sec-websocket-key", "k")],
            true,
            &[
                "connection: Upgrade",
                "host: ws.example.com:8443",
                "sec-websocket-key: k",
                "upgrade: websocket",
            ],
        ),
    ] {
        let mut map = headers(fields);
        upstream_request(&mut map, &facts(), websocket).unwrap();
        assert_eq!(lines(&map), expect);
    }
    let bad_host = RequestFacts {
        authority: "a\r\nb".into(),
        ..facts()
    };
    assert!(upstream_request(&mut HeaderMap::new(), &bad_host, false).is_err());
}

#[test]
fn only_a_target_without_blanks_and_controls_goes_out() {
    let (parts, ()) = Request::new(()).into_parts();
    for (path, query, fits) in [
        ("/x", Some("q=1"), true),
        ("//x", None, true),
        ("*", None, true),
        ("/a b", None, false),
        ("/a\r\nb", None, false),
        ("/", Some("a b"), false),
        ("/", Some("\u{7f}"), false),
    ] {
        let head = request_head(&parts, path, query, None);
        assert_eq!(head.is_ok(), fits, "{path}?{query:?}");
    }
}

#[test]
fn addresses_as_text() {
    for address in ["0.0.0.0", "1.20.255.100", "127.0.0.1", "2001:db8::1", "::"] {
        let mut text = Vec::new();
        push_address(&mut text, address.parse().unwrap());
        assert_eq!(text, address.as_bytes());
    }
}

#[test]
fn downstream_responses() {
    let response = |upgraded: bool| {
        let mut parts = Response::builder()
            .status(if upgraded { 101 } else { 200 })
            .body(())
            .unwrap()
            .into_parts()
            .0;
        parts.headers = headers(&[
            ("connection", "close, x-named, content-length, upgrade"),
            ("x-named", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("proxy-authenticate", "Basic"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("content-length", "5"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        downstream_response(&mut parts, upgraded);
        lines(&parts.headers)
    };
    assert_eq!(
        response(false),
        ["content-length: 5", "set-cookie: a", "set-cookie: b"]
    );
    let (mut parts, ()) = Response::builder()
        .status(426)
        .body(())
        .unwrap()
        .into_parts();
    parts.headers = headers(&[("upgrade", "h2c"), ("connection", "upgrade")]);
    downstream_response(&mut parts, false);
    assert_eq!(lines(&parts.headers), ["upgrade: websocket"]);
    assert_eq!(
        response(true),
        [
            "connection: Upgrade",
            "set-cookie: a",
            "set-cookie: b",
            "upgrade: websocket"
        ]
    );
}

#[test]
fn interim_responses() {
    let mut fields = headers(&[
        ("connection", "keep-alive, x-named"),
        ("x-named", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("content-length", "5"),
        ("trailer", "x"),
        ("sec-websocket-accept", "x"),
        ("server", "it"),
        ("x-set", "own"),
        ("x-added", "own"),
        ("link", "</a>"),
        ("link", "</b>"),
    ]);
    let one = || template(&[literal("1")]);
    let edits = HeaderEdits {
        remove: vec![HeaderName::from_static("server")],
        set: vec![(HeaderName::from_static("x-set"), one())],
        add: vec![(HeaderName::from_static("x-added"), one())],
    };
    interim_response(&mut fields, &edits);
    assert_eq!(lines(&fields), ["link: </a>", "link: </b>", "x-added: own"]);
}

#[test]
fn a_head_for_http2_says_nothing_of_a_connection() {
    let check =
        |fields: &[(&str, &str)], target, framing, expect: Result<(&str, &[&str]), &str>| {
            let request = http2_request(&Method::GET, headers(fields), target, "https", framing);
            let got = request.map(|request| (request.uri().to_string(), lines(request.headers())));
            let expect = expect
                .map(|(uri, lines)| {
                    (
                        uri.to_owned(),
                        lines.iter().map(|&line| line.to_owned()).collect(),
                    )
                })
                .map_err(|_| ());
            assert_eq!(got.map_err(|_| ()), expect, "{fields:?}");
        };
    check(
        &[
            ("host", "a.test:8080"),
            ("connection", "te"),
            ("te", "trailers"),
            ("content-length", "7"),
            ("cookie", "a=1; b=2"),
        ],
        ("/a%20b", Some("c=d")),
        Some(Framing::Length(3)),
        Ok((
            "https://a.test:8080/a%20b?c=d",
            &["content-length: 3", "cookie: a=1; b=2", "te: trailers"],
        )),
    );
    check(
        &[
            ("host", "my_service"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("my_key", "passes"),
            ("x_real_ip", "poses"),
            ("x_client_cert_subject", "poses"),
            ("content_length", "poses"),
            ("sec_websocket_key", "poses"),
        ],
        ("/", None),
        Some(Framing::Chunked),
        Ok(("https://my_service/", &["my_key: passes"])),
    );
    check(
        &[("host", "[::1]:1")],
        ("*", None),
        None,
        Ok(("https://[::1]:1*", &[])),
    );
    check(&[], ("/", None), None, Err("no host"));
    check(&[("host", "a b")], ("/", None), None, Err("no authority"));
    check(&[("host", "a")], ("/a b", None), None, Err("no target"));
}

#[test]
fn trailers() {
    let mut trailers = headers(&[
        ("grpc-status", "0"),
        ("x-checksum", "1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("x-client-cert-subject", "CN=admin"),
        ("host", "b"),
        ("authorization", "x"),
        ("set-cookie", "a"),
        ("content-length", "1"),
        ("content-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("sec-websocket-key", "k"),
        ("proxy", "http://evil.test"),
        ("proxy-authorization", "x"),
        ("proxy-authenticate", "x"),
        ("expect", "100-continue"),
        ("my_key", "of an answer"),
    ]);
    let no_token = HeaderName::from_lowercase(b"x\"y").unwrap();
    trailers.insert(no_token, HeaderValue::from_static("of HTTP/2"));
    let mut of_request = trailers.clone();
    clean_trailers(&mut trailers);
    let cleaned = ["grpc-status: 0", "my_key: of an answer", "x-checksum: 1"];
    assert_eq!(lines(&trailers), cleaned);
    clean_request_trailers(&mut of_request);
    assert_eq!(lines(&of_request), ["grpc-status: 0", "x-checksum: 1"]);
}

fn template(parts: &[TemplatePart]) -> Template {
    Template {
        parts: parts.to_vec(),
    }
}

fn literal(text: &str) -> TemplatePart {
    TemplatePart::Literal(text.to_owned())
}

#[test]
fn templates() {
    use TemplatePart::Variable as Var;
    let check = |facts: &RequestFacts, conn: &ConnectionFacts, expect: &str| {
        let all = [
            Variable::Host,
            Variable::Path,
            Variable::Query,
            Variable::Scheme,
            Variable::ClientIp,
            Variable::RequestId,
            Variable::TlsSubject,
            Variable::Route,
        ];
        let parts: Vec<_> = all
            .into_iter()
            .flat_map(|one| [Var(one), literal("|")])
            .collect();
        let values = TemplateValues {
            facts,
            conn,
            route: "r",
        };
        assert_eq!(render(&template(&parts), &values), expect);
    };
    check(
        &facts(),
        &conn(Some("CN=x")),
        "ws.example.com|/a/b|?q=1|https|203.0.113.9|0123|CN=x|r|",
    );
    let no_query = RequestFacts {
        query: None,
        ..facts()
    };
    check(
        &no_query,
        &conn(None),
        "ws.example.com|/a/b||https|203.0.113.9|0123||r|",
    );
}

#[test]
fn redirects() {
    use TemplatePart::Variable as Var;
    let to = template(&[
        literal("https://"),
        Var(Variable::Host),
        Var(Variable::Path),
        Var(Variable::Query),
    ]);
    let (facts, conn) = (facts(), conn(Some("a\r\nb")));
    let values = TemplateValues {
        facts: &facts,
        conn: &conn,
        route: "r",
    };
    assert_eq!(
        redirect_location(&to, &values).unwrap(),
        "https://ws.example.com/a/b?q=1"
    );
    assert_eq!(
        redirect_location(&template(&[Var(Variable::TlsSubject)]), &values),
        None
    );
}

#[test]
fn edits() {
    let name = HeaderName::from_static;
    let text = |text: &str| template(&[literal(text)]);
    let subject = || template(&[TemplatePart::Variable(Variable::TlsSubject)]);
    let edits = HeaderEdits {
        remove: vec![
            name("x-gone"),
            name("connection"),
            name("sec-websocket-key"),
        ],
        set: vec![
            (name("x-set"), text("new")),
            (name("x-gone"), text("back")),
            (name("x-bad"), subject()),
            (name("content-length"), text("99")),
            (name("host"), text("inner")),
        ],
        add: vec![
            (name("x-set"), text("more")),
            (name("x-bad-too"), subject()),
            (name("transfer-encoding"), text("chunked")),
            (name("upgrade"), text("h2c")),
        ],
    };
    let mut map = headers(&[
        ("x-gone", "1"),
        ("x-set", "1"),
        ("x-set", "2"),
        ("x-bad", "the client's"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", "k"),
        ("content-length", "5"),
        ("host", "a"),
    ]);
    let (facts, conn) = (facts(), conn(Some("a\r\nX-Admin: 1")));
    apply_edits(
        &edits,
        &mut map,
        &TemplateValues {
            facts: &facts,
            conn: &conn,
            route: "r",
        },
    );
    assert_eq!(
        lines(&map),
        [
            "connection: Upgrade",
            "content-length: 5",
            "host: inner",
            "sec-websocket-key: k",
            "x-gone: back",
            "x-set: more",
            "x-set: new",
        ]
    );
}

#[test]
fn rewrites() {
    let strip = |prefix: &str, path: &str| {
        rewrite_path(&Rewrite::StripPrefix(prefix.to_owned()), path).map_err(|fault| fault.0)
    };
    assert_eq!(strip("/api", "/api/x").unwrap(), "/x");
    assert_eq!(strip("/api/", "/api/x").unwrap(), "/x");
    assert_eq!(strip("/api", "/api").unwrap(), "/");
    assert_eq!(strip("/api", "/other").unwrap(), "/other");
    assert_eq!(strip("/a", "/ab/c").unwrap(), "/b/c");
    assert_eq!(strip("/api", "*").unwrap(), "*");

    let regex = |pattern: &str, to: &str, path: &str| {
        let regex = Regex::new(pattern).unwrap();
        rewrite_path(
            &Rewrite::Regex {
                regex,
                to: to.to_owned(),
            },
            path,
        )
        .map_err(|fault| fault.0)
    };
    assert_eq!(
        regex("^/u/([0-9]+)$", "/user/$1/x", "/u/7").unwrap(),
        "/user/7/x"
    );
    assert_eq!(regex("^/u/([0-9]+)$", "/user/$1", "/u/a").unwrap(), "/u/a");
    assert_eq!(regex("^/", "", "/a").unwrap(), "/a");
    assert_eq!(regex("b", "./../c", "/a/b").unwrap(), "/c");
    assert_eq!(regex("x", "", "/a/.x./b"), Ok("/b".to_owned()));
    assert_eq!(regex("^/a", "/..", "/a/b"), Err(PathFault::AboveRoot));
    assert_eq!(regex("x", "\r\n", "/axb"), Err(PathFault::BadCharacter));
    assert_eq!(regex("20", "2f", "/a%20b"), Err(PathFault::HiddenSlash));
}
