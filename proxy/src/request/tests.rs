use http::Request;

use super::*;
use crate::facts::TlsFacts;

const LIMITS: Limits = Limits {
    connections: None,
    connections_per_client: None,
    ipv6_prefix: 64,
    requests_per_connection: None,
    tls_handshakes: None,
    head_size: 8192,
    head_fields: 20,
    target_size: 100,
    request_body: None,
    memory: None,
    connection_memory: None,
    body_rate: None,
    http2_streams: 100,
    http2_resets: 100,
    http2_control_frames: 100,
};

/// A request from its parts: `METHOD target`, then `name: value` lines.
fn request(line: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
    let (method, target) = line.split_once(' ').unwrap();
    let mut builder = Request::builder()
        .method(method)
        .uri(target)
        .version(version);
    for (name, value) in fields {
        builder = builder.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    builder.body(()).unwrap().into_parts().0
}

fn conn(peer: &str, tls: bool) -> ConnectionFacts {
    let tls = tls.then_some(TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS13_AES_128_GCM_SHA256",
        sni: None,
        client_subject: None,
        resumed: false,
        http2: false,
    });
    ConnectionFacts {
        peer: Peer::Ip(peer.parse().unwrap()),
        listener: "test".into(),
        tls: tls.map(Box::new),
    }
}

fn trusted() -> Vec<IpNet> {
    vec![
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8:1::/48".parse().unwrap(),
    ]
}

fn admit_from(peer: &str, parts: &mut Parts) -> Result<RequestFacts, Rejection> {
    admit(parts, &conn(peer, false), &trusted(), &LIMITS)
}

fn check(line: &str, version: Version, fields: &[(&str, &str)], expect: Result<&str, (u16, &str)>) {
    let mut parts = request(line, version, fields);
    let got = admit_from("192.0.2.1:5", &mut parts)
        .map(|facts| format!("{} {}", facts.authority, facts.path))
        .map_err(|rejection| (rejection.status.as_u16(), rejection.reason));
    assert_eq!(
        got.as_deref().map_err(|error| *error),
        expect,
        "{line} {version:?} {fields:?}"
    );
}

const H1: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

#[test]
fn methods() {
    let host = [("host", "a")];
    check("GET /", H1, &host, Ok("a /"));
    check("PROPFIND /", H1, &host, Ok("a /"));
    check("OPTIONS *", H1, &host, Ok("a *"));
    check("TRACE /", H1, &host, Err((405, "method_not_allowed")));
    check("CONNECT a:443", H1, &host, Err((405, "method_not_allowed")));
    check("CONNECT a:443", H2, &[], Err((405, "method_not_allowed")));
    for method in ["TRACK", "PRI", "get", "Get", "posT", "trace", "connect"] {
        let line = format!("{method} /");
        check(&line, H1, &host, Err((405, "method_not_allowed")));
    }
    check("gets /", H1, &host, Ok("a /"));
    check(
        &("A".repeat(33) + " /"),
        H1,
        &host,
        Err((400, "method_too_long")),
    );
}

#[test]
fn hosts() {
    check("GET /", H1, &[], Err((400, "no_host")));
    check("GET /", Version::HTTP_10, &[], Err((400, "no_host")));
    check(
        "GET /",
        H1,
        &[("host", "a"), ("host", "a")],
        Err((400, "several_hosts")),
    );
    check("GET /", H1, &[("host", "")], Err((400, "bad_host")));
    check("GET /", H1, &[("host", "u@a")], Err((400, "bad_host")));
    check("GET /", H1, &[("host", "a, b")], Err((400, "bad_host")));
    check("GET /", H1, &[("host", "a/b")], Err((400, "bad_host")));
    check(
        "GET /",
        H1,
        &[("host", "caf\u{e9}")],
        Err((400, "bad_host")),
    );
    check(
        "GET /",
        H1,
        &[("host", "A.Example.:8080")],
        Ok("a.example:8080 /"),
    );

    check("GET http://b/x", H1, &[("host", "a")], Ok("b /x"));
    check("GET http://B:80", H1, &[("host", "a")], Ok("b:80 /"));
    check("GET http://b/x", H1, &[], Err((400, "no_host")));
    check(
        "GET http://b/x",
        H1,
        &[("host", "u@a")],
        Err((400, "bad_host")),
    );
    check(
        "GET http://u:p@b/x",
        H1,
        &[("host", "b")],
        Err((400, "bad_authority")),
    );
    check(
        "GET ftp://b/x",
        H1,
        &[("host", "b")],
        Err((400, "bad_scheme")),
    );

    check(
        "GET https://b/x",
        H1,
        &[("host", "a")],
        Err((421, "scheme_mismatch")),
    );
    check("GET https://a/x", H2, &[], Ok("a /x"));
    check("GET https://a/x", H2, &[("host", "A")], Ok("a /x"));
    check(
        "GET https://a/x",
        H2,
        &[("host", "b")],
        Err((400, "host_differs_from_authority")),
    );
    check(
        "GET https://a/x",
        H2,
        &[("host", "a:1")],
        Err((400, "host_differs_from_authority")),
    );
    check("GET https://u@a/x", H2, &[], Err((400, "bad_authority")));
    check("GET /x", H2, &[("host", "a")], Ok("a /x"));
    check("GET /x", H2, &[], Err((400, "no_host")));
}

#[test]
fn targets() {
    let host = [("host", "a")];
    check("GET x", H1, &host, Err((400, "bad_target")));
    check("GET a:80", H1, &host, Err((400, "bad_target")));
    check("GET *", H1, &host, Err((400, "bad_target")));
    check("GET //b/../x/%2e/y", H1, &host, Ok("a /x/y"));
    check("GET /a%2f", H1, &host, Err((400, "path_hidden_slash")));
    check("GET /../x", H1, &host, Err((400, "path_above_root")));
    check(
        &format!("GET /{}", "x".repeat(99)),
        H1,
        &host,
        Ok(&format!("a /{}", "x".repeat(99))),
    );
    check(
        &format!("GET /{}", "x".repeat(100)),
        H1,
        &host,
        Err((414, "target_too_long")),
    );
    check(
        &format!("GET /?{}", "x".repeat(99)),
        H2,
        &host,
        Err((414, "target_too_long")),
    );
    check("GET /?\u{e9}", H1, &host, Err((400, "bad_query")));

    let mut parts = request("GET /%61?b=%2f../&&", H1, &host);
    let facts = admit_from("192.0.2.1:5", &mut parts).unwrap();
    assert_eq!(
        (&*facts.path, facts.query.as_deref()),
        ("/a", Some("b=%2f../&&"))
    );
    let mut parts = request("GET http://b?q", H1, &host);
    let facts = admit_from("192.0.2.1:5", &mut parts).unwrap();
    assert_eq!((&*facts.path, facts.query.as_deref()), ("/", Some("q")));
}

#[test]
fn fields() {
    let with = |name: &'static str, value: &'static str| [("host", "a"), (name, value)];
    check(
        "GET /",
        H2,
        &with("connection", "x"),
        Err((400, "connection_field_in_http2")),
    );
    check(
        "GET /",
        H2,
        &with("keep-alive", "x"),
        Err((400, "connection_field_in_http2")),
    );
    check(
        "GET /",
        H2,
        &with("proxy-connection", "x"),
        Err((400, "connection_field_in_http2")),
    );
    check(
        "GET /",
        H2,
        &with("upgrade", "websocket"),
        Err((400, "connection_field_in_http2")),
    );
    check(
        "GET /",
        H2,
        &with("transfer-encoding", "x"),
        Err((400, "connection_field_in_http2")),
    );
    check("GET /", H2, &with("te", "gzip"), Err((400, "te_in_http2")));
    check("GET /", H2, &with("te", "trailers"), Ok("a /"));
    check(
        "GET /",
        H2,
        &with("x", " a"),
        Err((400, "blank_around_value")),
    );
    check(
        "GET /",
        H2,
        &with("x", "a\t"),
        Err((400, "blank_around_value")),
    );
    check("GET /", H2, &with("x", ""), Ok("a /"));
    check("GET /", H1, &with("expect", "100-Continue"), Ok("a /"));
    check(
        "GET /",
        H1,
        &with("expect", "x"),
        Err((417, "unknown_expectation")),
    );
    check(
        "GET /",
        H2,
        &with("content-length", "+1"),
        Err((400, "bad_content_length")),
    );
    check(
        "GET /",
        H2,
        &with("content-length", ""),
        Err((400, "bad_content_length")),
    );
    let twice = [
        ("host", "a"),
        ("content-length", "1"),
        ("content-length", "1"),
    ];
    check("GET /", H2, &twice, Err((400, "bad_content_length")));
    for length in ["01", "00"] {
        check(
            "GET /",
            H2,
            &with("content-length", length),
            Err((400, "bad_content_length")),
        );
    }
    for version in [H1, H2] {
        for name in ["authorization", "content-type"] {
            let twice = [("host", "a"), (name, "x"), (name, "x")];
            check("GET /", version, &twice, Err((400, "repeated_field")));
        }
        for name in ["transfer_encoding", "content_length", "content_Length"] {
            let refused = Err((400, "framing_with_underscore"));
            check("GET /", version, &with(name, "1"), refused);
        }
    }
    let mut many = vec![("cookie", "a=b"); 19];
    many.push(("host", "a"));
    check("GET /", H2, &many, Ok("a /"));
    many.push(("cookie", "a=b"));
    check("GET /", H2, &many, Err((431, "too_many_fields")));
    // What cannot even be a field value.
    for value in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\x7f"] {
        assert!(HeaderValue::from_bytes(value).is_err());
    }
}

#[test]
fn fields_are_tidied() {
    let mut parts = request(
        "GET /",
        H2,
        &[
            ("host", "a"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded_for", "1.2.3.4"),
            ("cookie", "a=1"),
            ("cookie", ""),
            ("cookie", "b=2; c=3"),
            ("cookie", ""),
        ],
    );
    admit_from("192.0.2.1:5", &mut parts).unwrap();
    assert_eq!(parts.headers.len(), 2);
    assert_eq!(parts.headers[COOKIE], "a=1; b=2; c=3");
}

#[test]
fn clients_behind_trusted_proxies() {
    for (peer, lines, expect) in [
        ("192.0.2.1:5", &["1.2.3.4"][..], "192.0.2.1"),
        ("10.0.0.1:5", &[], "10.0.0.1"),
        ("10.0.0.1:5", &["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1:5", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1:5", &["6.6.6.6, 1.2.3.4 ,10.0.0.2"], "1.2.3.4"),
        (
            "10.0.0.1:5",
            &["6.6.6.6", "1.2.3.4", "10.0.0.2,10.0.0.3"],
            "1.2.3.4",
        ),
        ("10.0.0.1:5", &["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1:5", &["1.2.3.4, junk"], "10.0.0.1"),
        ("10.0.0.1:5", &["1.2.3.4, junk, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1:5", &["1.2.3.4,"], "10.0.0.1"),
        ("10.0.0.1:5", &["1.2.3.4:99"], "1.2.3.4"),
        ("10.0.0.1:5", &["[2001:db8::7]:99"], "2001:db8::7"),
        ("10.0.0.1:5", &["[2001:db8::7]"], "2001:db8::7"),
        ("10.0.0.1:5", &["::ffff:1.2.3.4"], "1.2.3.4"),
        (
            "[2001:db8:1::1]:5",
            &["9.9.9.9, ::ffff:10.1.1.1"],
            "9.9.9.9",
        ),
        ("[::ffff:10.0.0.1]:5", &["1.2.3.4"], "1.2.3.4"),
    ] {
        let mut fields = vec![("host", "a")];
        fields.extend(lines.iter().map(|line| ("x-forwarded-for", *line)));
        let mut parts = request("GET /", H1, &fields);
        let admitted = admit_from(peer, &mut parts).unwrap();
        assert_eq!(admitted.client_ip.to_string(), expect, "{peer} {lines:?}");
        assert_eq!(admitted.peer_trusted, peer != "192.0.2.1:5");
    }
}

#[test]
fn schemes() {
    for (peer, tls, told, expect) in [
        ("192.0.2.1:5", false, "https", "http"),
        ("192.0.2.1:5", true, "http", "https"),
        ("10.0.0.1:5", false, "https", "https"),
        ("10.0.0.1:5", false, "http, WSS", "https"),
        ("10.0.0.1:5", true, "http", "http"),
        ("10.0.0.1:5", true, "gopher", "https"),
    ] {
        let mut parts = request("GET /", H1, &[("host", "a"), ("x-forwarded-proto", told)]);
        let admitted = admit(&mut parts, &conn(peer, tls), &trusted(), &LIMITS).unwrap();
        assert_eq!(admitted.scheme, expect, "{peer} {tls} {told}");
    }
}

#[test]
fn request_ids() {
    let id = |peer: &str, told: &[&str]| {
        let mut fields = vec![("host", "a")];
        fields.extend(told.iter().map(|told| ("x-request-id", *told)));
        admit_from(peer, &mut request("GET /", H1, &fields))
            .unwrap()
            .request_id
    };
    assert_eq!(&*id("10.0.0.1:5", &["abc-1"]), "abc-1");
    let long = "a".repeat(129);
    for (peer, told) in [
        ("192.0.2.1:5", &["abc-1"][..]),
        ("10.0.0.1:5", &[]),
        ("10.0.0.1:5", &[""]),
        ("10.0.0.1:5", &["a b"]),
        ("10.0.0.1:5", &["a", "b"]),
        ("10.0.0.1:5", &[&long]),
    ] {
        let made = id(peer, told);
        assert_eq!(made.len(), 32, "{told:?}");
        assert!(
            made.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert_ne!(made, id(peer, told));
    }
}

#[test]
fn only_metadata_of_grpc_has_underscores() {
    for (line, version, kind, kept) in [
        ("POST https://a/", Version::HTTP_2, "application/grpc", true),
        (
            "POST https://a/",
            Version::HTTP_2,
            "application/grpc+proto",
            true,
        ),
        (
            "POST https://a/",
            Version::HTTP_2,
            "application/grpc; x=y",
            true,
        ),
        (
            "POST https://a/",
            Version::HTTP_2,
            "application/grpc-web",
            false,
        ),
        ("POST https://a/", Version::HTTP_2, "text/plain", false),
        ("GET https://a/", Version::HTTP_2, "application/grpc", false),
        ("POST /", Version::HTTP_11, "application/grpc", false),
    ] {
        let fields = [("host", "a"), ("content-type", kind), ("my_key", "1")];
        let mut parts = request(line, version, &fields);
        admit_from("192.0.2.1:5", &mut parts).unwrap();
        assert_eq!(
            parts.headers.contains_key("my_key"),
            kept,
            "{line} {version:?} {kind}"
        );
    }
}

#[test]
fn a_name_that_is_no_token_is_refused_over_http2() {
    let mut parts = request("GET /", H2, &[("host", "a")]);
    let name = HeaderName::from_lowercase(b"x\"y").unwrap();
    parts.headers.insert(name, HeaderValue::from_static("z"));
    let refused = admit_from("192.0.2.1:5", &mut parts).unwrap_err();
    assert_eq!(
        (refused.status.as_u16(), refused.reason),
        (400, "bad_field_name")
    );
}
