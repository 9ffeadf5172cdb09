use http::{Request, Response};
use proptest::prelude::*;

use super::*;

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const VALID: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-key", KEY),
    ("sec-websocket-version", "13"),
];

/// The valid fields with some replaced (an empty list removes one), and more appended.
fn fields<'a>(change: &[(&'a str, &[&'a str])]) -> Vec<(&'a str, &'a str)> {
    let changed = |name: &str| change.iter().any(|(other, _)| *other == name);
    let mut fields: Vec<_> = VALID
        .into_iter()
        .filter(|(name, _)| !changed(name))
        .collect();
    for (name, values) in change {
        fields.extend(values.iter().map(|value| (*name, *value)));
    }
    fields
}

fn parts(method: &str, version: Version, fields: &[(&str, &str)]) -> request::Parts {
    let mut builder = Request::builder().method(method).uri("/").version(version);
    for (name, value) in fields {
        builder = builder.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    builder.body(()).unwrap().into_parts().0
}

fn classified(change: &[(&str, &[&str])]) -> Result<Kind, (u16, &'static str)> {
    classify(&parts("GET", Version::HTTP_11, &fields(change)), true)
        .map_err(|rejection| (rejection.status.as_u16(), rejection.reason))
}

fn offer(change: &[(&str, &[&str])]) -> Offer {
    match classified(change) {
        Ok(Kind::WebSocket(offer)) => offer,
        other => panic!("{change:?} gives {other:?}"),
    }
}

#[test]
fn accept_key_of_the_rfc() {
    assert_eq!(accept_key(KEY), ACCEPT);
}

proptest! {
    #[test]
    fn a_nonce_is_what_a_decoder_makes_16_bytes_of(
        bytes: [u8; 16],
        place in 0..24_usize,
        other in "[A-Za-z0-9+/=_ é-]",
        any in "[A-Za-z0-9+/=]{20,26}",
    ) {
        let right = BASE64.encode(bytes);
        prop_assert!(is_nonce(&right));
        let mut changed = right.clone();
        changed.replace_range(place..=place, &other);
        for key in [&changed, &right[..23], &format!("{right}="), &any] {
            let decoded = BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16);
            prop_assert_eq!(is_nonce(key), decoded, "{}", key);
        }
    }
}

#[test]
fn valid_handshakes() {
    assert_eq!(offer(&[]).key, KEY);
    offer(&[("upgrade", &["WebSocket"])]);
    offer(&[("upgrade", &[" websocket\t"])]);
    offer(&[("connection", &["keep-alive, Upgrade"])]);
    offer(&[("connection", &["keep-alive", "x,UPGRADE"])]);
    let offered = offer(&[
        ("sec-websocket-protocol", &["chat, superchat", "x.y"]),
        (
            "sec-websocket-extensions",
            &["permessage-deflate; client_max_window_bits; server_max_window_bits=\"10\", foo;a=b"],
        ),
    ]);
    assert_eq!(offered.subprotocols, ["chat", "superchat", "x.y"]);
    assert_eq!(offered.extensions.len(), 2);
    assert_eq!(
        offered.extensions[0].params,
        [
            ("client_max_window_bits".to_owned(), None),
            ("server_max_window_bits".to_owned(), Some("10".to_owned())),
        ]
    );
}

#[test]
fn malformed_handshakes() {
    let bad = |change: &[(&str, &[&str])], status: u16, reason: &'static str| {
        assert_eq!(classified(change), Err((status, reason)), "{change:?}");
    };
    bad(
        &[("upgrade", &["websocket, h2c"])],
        400,
        "upgrade_not_alone",
    );
    bad(
        &[("upgrade", &["h2c", "websocket"])],
        400,
        "upgrade_not_alone",
    );
    bad(
        &[("upgrade", &["websocket", "websocket"])],
        400,
        "upgrade_not_alone",
    );
    bad(&[("upgrade", &["websocket,"])], 400, "upgrade_not_alone");
    bad(&[("upgrade", &["WebSocket/13"])], 400, "upgrade_not_alone");
    bad(&[("connection", &[])], 400, "upgrade_without_connection");
    bad(
        &[("connection", &["keep-alive"])],
        400,
        "upgrade_without_connection",
    );
    bad(
        &[("connection", &["upgrades"])],
        400,
        "upgrade_without_connection",
    );
    for version in [&[][..], &["12"], &["8, 13"], &["13", "13"], &["+13"], &[""]] {
        bad(
            &[("sec-websocket-version", version)],
            426,
            "websocket_version",
        );
    }
    for key in [
        &[][..],
        &[""],
        &["short"],
        &["dGhlIHNhbXBsZSBub25jZQ"],
        &["dGhlIHNhbXBsZSBub25jZR=="],
        &["dGhlIHNhbXBsZSBub25jZTE2"],
        &["dGhlIHNhbXBsZSBub25j!Q=="],
        &[KEY, KEY],
    ] {
        bad(&[("sec-websocket-key", key)], 400, "websocket_key");
    }
    for protocols in [
        &[""][..],
        &[","],
        &["a b"],
        &["a,a"],
        &["a", "a"],
        &["a/b"],
        &["\u{e9}"],
    ] {
        bad(
            &[("sec-websocket-protocol", protocols)],
            400,
            "websocket_subprotocol",
        );
    }
    for extension in [
        "a b",
        ";x",
        "x;",
        "x;a=",
        "x;a=\"b c\"",
        "x;a=\"b",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; client_max_window_bits=8; client_max_window_bits=8",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; unknown",
    ] {
        bad(
            &[("sec-websocket-extensions", &[extension])],
            400,
            "websocket_extension",
        );
    }
}

#[test]
fn a_handshake_is_a_get_of_http11_without_body() {
    let classified = |method: &str, version: Version, empty: bool| {
        let kind = classify(&parts(method, version, &fields(&[])), empty);
        kind.map_err(|rejection| rejection.reason)
    };
    assert!(classified("GET", Version::HTTP_11, true).is_ok());
    assert_eq!(
        classified("POST", Version::HTTP_11, true),
        Err("upgrade_not_get")
    );
    assert_eq!(
        classified("HEAD", Version::HTTP_11, true),
        Err("upgrade_not_get")
    );
    assert_eq!(
        classified("GET", Version::HTTP_10, true),
        Err("upgrade_not_http11")
    );
    assert_eq!(
        classified("GET", Version::HTTP_11, false),
        Err("upgrade_with_body")
    );
}

#[test]
fn other_upgrades_are_plain_requests() {
    for upgrade in [&[][..], &["h2c"], &["TLS/1.0, irc/6.9"], &["websockets"]] {
        assert_eq!(
            classified(&[("upgrade", upgrade)]),
            Ok(Kind::Plain),
            "{upgrade:?}"
        );
    }
}

/// An extended CONNECT as `flow` hands it on.
fn extended_parts(fields: &[(&str, &str)]) -> request::Parts {
    let mut parts = parts("GET", Version::HTTP_2, fields);
    parts.extensions.insert(Extended);
    as_upgrade(&mut parts).unwrap();
    parts
}

#[test]
fn an_extended_connect_is_a_handshake_with_a_key_of_ours() {
    let version = ("sec-websocket-version", "13");
    let mut keys = Vec::new();
    for its_own in [
        &[][..],
        &[("sec-websocket-key", KEY)],
        &[("sec-websocket-key", "x"), ("sec-websocket-key", "y")],
        &[
            ("sec-websocket-key", KEY),
            ("sec-websocket-accept", ACCEPT),
            ("sec-websocket-accept", "x"),
        ],
    ] {
        let fields = [
            &[
                version,
                ("sec-websocket-protocol", "chat, superchat"),
                ("sec-websocket-extensions", "permessage-deflate, foo;a=b"),
            ],
            its_own,
        ];
        let parts = extended_parts(&fields.concat());
        let Ok(Kind::WebSocket(offer)) = classify(&parts, false) else {
            panic!("{its_own:?} is refused");
        };
        assert_eq!(single(&parts.headers, UPGRADE), Some("websocket"));
        assert_eq!(single(&parts.headers, CONNECTION), Some("Upgrade"));
        assert!(is_nonce(&offer.key), "{}", offer.key);
        assert_eq!(single(&parts.headers, SEC_WEBSOCKET_KEY), Some(&*offer.key));
        assert_eq!(single(&parts.headers, SEC_WEBSOCKET_VERSION), Some("13"));
        assert!(!parts.headers.contains_key(SEC_WEBSOCKET_ACCEPT));
        assert_eq!(offer.subprotocols, ["chat", "superchat"]);
        assert_eq!(offer.extensions.len(), 2);
        keys.push(offer.key);
    }
    keys.push(KEY.to_owned());
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5, "each its own: {keys:?}");
}

#[test]
fn malformed_extended_connects() {
    const FINE: (&str, &str) = ("sec-websocket-version", "13");
    for (fields, has_ended, expect) in [
        (&[FINE][..], false, None),
        (&[FINE], true, Some((400, "websocket_with_body"))),
        (
            &[FINE, ("content-length", "0")],
            false,
            Some((400, "websocket_with_body")),
        ),
        (
            &[FINE, ("content-length", "5")],
            false,
            Some((400, "websocket_with_body")),
        ),
        (&[], false, Some((426, "websocket_version"))),
        (&[FINE, FINE], false, Some((426, "websocket_version"))),
        (
            &[("sec-websocket-version", "12")],
            false,
            Some((426, "websocket_version")),
        ),
        (
            &[("sec-websocket-version", "8, 13")],
            false,
            Some((426, "websocket_version")),
        ),
        (
            &[FINE, ("sec-websocket-protocol", "a, a")],
            false,
            Some((400, "websocket_subprotocol")),
        ),
        (
            &[FINE, ("sec-websocket-protocol", "")],
            false,
            Some((400, "websocket_subprotocol")),
        ),
        (
            &[
                FINE,
                ("sec-websocket-extensions", "permessage-deflate; unknown"),
            ],
            false,
            Some((400, "websocket_extension")),
        ),
    ] {
        let refused = classify(&extended_parts(fields), has_ended).err();
        let refused = refused.map(|rejection| (rejection.status.as_u16(), rejection.reason));
        assert_eq!(refused, expect, "{fields:?}");
    }
}

#[test]
fn without_the_mark_it_is_a_plain_request() {
    let fields = [
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "a, a"),
    ];
    let mut parts = parts("GET", Version::HTTP_2, &fields);
    as_upgrade(&mut parts).unwrap();
    assert_eq!(classify(&parts, false), Ok(Kind::Plain));
    assert!(!parts.headers.contains_key(SEC_WEBSOCKET_KEY));
}

#[test]
fn origins() {
    let pattern = |scheme: &str, host: OriginHost, port| OriginPattern {
        scheme: scheme.to_owned(),
        host,
        port,
    };
    let exact = pattern(
        "https",
        OriginHost::Exact("app.example.com".to_owned()),
        None,
    );
    let wildcard = pattern(
        "https",
        OriginHost::Wildcard(".example.org".to_owned()),
        Some(8443),
    );
    let local = pattern("http", OriginHost::Exact("[::1]".to_owned()), Some(80));
    let patterns = [exact, wildcard, local];
    let allowed = |origins: &[&str], patterns: &[OriginPattern]| {
        let lines: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        origin_allowed(&parts("GET", Version::HTTP_11, &lines).headers, patterns)
    };
    for (origin, expect) in [
        ("https://app.example.com", true),
        ("HTTPS://App.Example.com:443", true),
        ("https://app.example.com:8443", false),
        ("http://app.example.com", false),
        ("http://app.example.com:443", false),
        ("https://app.example.com.evil.net", false),
        ("https://evil.net/app.example.com", false),
        ("https://u@app.example.com", false),
        ("https://app.example.com/", false),
        ("https://app.example.com:443x", false),
        ("https://a.b.example.org:8443", true),
        ("https://.example.org:8443", false),
        ("https://example.org:8443", false),
        ("https://a.example.org", false),
        ("https://evil.net#.example.org:8443", false),
        ("https://x`.example.org:8443", false),
        ("https://x%2f.example.org:8443", false),
        ("http://[::1]", true),
        ("null", false),
        ("", false),
        ("app.example.com", false),
    ] {
        assert_eq!(allowed(&[origin], &patterns), expect, "{origin}");
    }
    assert!(!allowed(&[], &patterns));
    assert!(!allowed(
        &["https://app.example.com", "https://app.example.com"],
        &patterns
    ));
    assert!(allowed(&["null"], &[pattern("", OriginHost::Null, None)]));
    assert!(allowed(&["https://evil.net"], &[]));
    assert!(allowed(&[], &[]));
}

/// The verdict on a 101 with these fields, for the offer with these protocols and extensions.
fn verified(
    protocols: &[&str],
    extensions: &[&str],
    status: u16,
    answer: &[(&str, &str)],
) -> Result<Agreed, HandshakeFault> {
    let offer = offer(&[
        ("sec-websocket-protocol", protocols),
        ("sec-websocket-extensions", extensions),
    ]);
    let mut builder = Response::builder().status(status);
    for (name, value) in answer {
        builder = builder.header(*name, *value);
    }
    verify_upstream(&offer, &builder.body(()).unwrap().into_parts().0)
}

const ANSWER: [(&str, &str); 3] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-accept", ACCEPT),
];

#[test]
fn upstream_answers() {
    use HandshakeFault::*;
    let fault = |status: u16, answer: &[(&str, &str)]| verified(&[], &[], status, answer).err();
    assert_eq!(fault(101, &ANSWER), None);
    assert_eq!(fault(200, &ANSWER), Some(Status));
    assert_eq!(fault(101, &ANSWER[1..]), Some(Upgrade));
    assert_eq!(fault(101, &[ANSWER[0], ANSWER[2]]), Some(Connection));
    assert_eq!(fault(101, &ANSWER[..2]), Some(Accept));
    let with = |index: usize, value: &'static str| {
        let mut answer = ANSWER;
        answer[index].1 = value;
        fault(101, &answer)
    };
    assert_eq!(with(0, "h2c"), Some(Upgrade));
    assert_eq!(with(0, "websocket, h2c"), Some(Upgrade));
    assert_eq!(with(0, "WebSocket"), None);
    assert_eq!(with(1, "close"), Some(Connection));
    assert_eq!(with(2, "s3pPLMBiTxaQ9kYGzzhZRbK+xOp="), Some(Accept));
    assert_eq!(with(2, "S3PPLMBITXAQ9KYGZZHZRBK+XOO="), Some(Accept));
    let twice = [&ANSWER[..], &ANSWER[2..]].concat();
    assert_eq!(fault(101, &twice), Some(Accept));
}

#[test]
fn upstream_answers_over_http2() {
    use HandshakeFault::*;
    let offer = offer(&[
        ("sec-websocket-protocol", &["a, b"]),
        ("sec-websocket-extensions", &["permessage-deflate"]),
    ]);
    let verified = |status: u16, answer: &[(&str, &str)]| {
        let mut builder = Response::builder().status(status);
        for (name, value) in answer {
            builder = builder.header(*name, *value);
        }
        verify_http2(&offer, &builder.body(()).unwrap().into_parts().0)
    };
    let agreed = verified(200, &[("sec-websocket-protocol", "b")]).unwrap();
    assert_eq!(agreed.subprotocol.as_deref(), Some("b"));
    assert!(agreed.extensions.is_empty());
    for (status, answer, expect) in [
        (200, &[][..], None),
        (204, &[], None),
        (101, &ANSWER, Some(Status)),
        (199, &[], Some(Status)),
        (301, &[], Some(Status)),
        (403, &[], Some(Status)),
        (501, &[], Some(Status)),
        (200, &[("sec-websocket-accept", "none of ours")], None),
        (
            200,
            &[("sec-websocket-extensions", "permessage-deflate")],
            None,
        ),
        (200, &[("sec-websocket-protocol", "c")], Some(Subprotocol)),
        (
            200,
            &[("sec-websocket-extensions", "permessage-brotli")],
            Some(Extension),
        ),
    ] {
        assert_eq!(
            verified(status, answer).err(),
            expect,
            "{status} {answer:?}"
        );
    }
}

#[test]
fn upstream_subprotocols() {
    let chosen = |offered: &[&str], chosen: &[&str]| {
        let lines = chosen
            .iter()
            .map(|chosen| ("sec-websocket-protocol", *chosen));
        let answer: Vec<_> = ANSWER.into_iter().chain(lines).collect();
        verified(offered, &[], 101, &answer).map(|agreed| agreed.subprotocol)
    };
    assert_eq!(chosen(&[], &[]), Ok(None));
    assert_eq!(chosen(&["a, b"], &[]), Ok(None));
    assert_eq!(chosen(&["a, b"], &["b"]), Ok(Some("b".to_owned())));
    for (offered, answer) in [
        (&[][..], &["a"][..]),
        (&["a, b"], &["c"]),
        (&["a, b"], &["A"]),
        (&["a, b"], &["a, b"]),
        (&["a, b"], &["a", "a"]),
        (&["a, b"], &[""]),
    ] {
        assert_eq!(
            chosen(offered, answer),
            Err(HandshakeFault::Subprotocol),
            "{answer:?}"
        );
    }
}

#[test]
fn upstream_extensions() {
    let fine = |offered: &str, chosen: &str| {
        let mut answer = ANSWER.to_vec();
        answer.push(("sec-websocket-extensions", chosen));
        match verified(&[], &[offered], 101, &answer) {
            Ok(_) => true,
            Err(HandshakeFault::Extension) => false,
            Err(other) => panic!("{other}"),
        }
    };
    let deflate = "permessage-deflate";
    let any_client = "permessage-deflate; client_max_window_bits";
    assert!(fine(deflate, ""));
    assert!(fine(deflate, deflate));
    assert!(fine(
        deflate,
        "permessage-deflate; server_max_window_bits=8"
    ));
    assert!(fine(
        deflate,
        "permessage-deflate; server_no_context_takeover"
    ));
    assert!(fine(
        any_client,
        "permessage-deflate; client_max_window_bits=15"
    ));
    assert!(fine(
        "permessage-deflate; client_max_window_bits=10, permessage-deflate",
        deflate
    ));
    assert!(fine("x, y; a=b", "y; c, x"));

    assert!(!fine("x", deflate));
    assert!(!fine(deflate, "permessage-deflate, permessage-deflate"));
    assert!(!fine(
        deflate,
        "permessage-deflate; client_max_window_bits=15"
    ));
    assert!(!fine(any_client, any_client));
    assert!(!fine(
        any_client,
        "permessage-deflate; client_max_window_bits=16"
    ));
    assert!(!fine(
        deflate,
        "permessage-deflate; server_max_window_bits=7"
    ));
    assert!(!fine(deflate, "permessage-deflate; x"));
    assert!(!fine(
        "permessage-deflate; server_no_context_takeover",
        deflate
    ));
    assert!(!fine(
        "permessage-deflate; server_max_window_bits=10",
        deflate
    ));
    assert!(!fine(
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=11"
    ));
    assert!(!fine(
        "permessage-deflate; client_max_window_bits=10",
        "permessage-deflate; client_max_window_bits=11"
    ));
    assert!(!fine("x", "x y"));
}
