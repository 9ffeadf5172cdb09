//! Where a request wants to go: its host, the form of its target, and its path.
//!
//! Host: none, two, empty, malformed, with userinfo: 400. An absolute target wins over Host and rewrites it.
//! Paths: one normal form is matched, and the same one is forwarded, or the request is refused: no spelling
//! of a denied prefix reaches an upstream.

use sluicegate_tests::client::tcp;
use sluicegate_tests::http2;
use sluicegate_tests::http2::bare::{Bare, GET, Outcome::Answer, proxy_in_front_of};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::raw::{Bench, with_line};
use sluicegate_tests::upstream::Script;
use sluicegate_tests::wire;
use tokio::io::AsyncWriteExt;

const DENIED: &str = "[[route]]\npath = \"/admin\"\nrespond = { status = 403 }\n\
                      [[route]]\nhost = \"denied.example\"\nrespond = { status = 403 }\n";

const DENIED_HOSTS: &[&str] = &[
    "denied.example",
    "Denied.EXAMPLE",
    "denied.example.",
    "denied.example:80",
    "denied.example.:",
];

/// `/admin`, to some server.
const DENIED_PATHS: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin/x",
    "/admin?x",
    "/admin;x",
    "/ADMIN",
    "/Admin/x",
    "/%41DMIN",
    "//admin",
    "///admin//x",
    "/./admin",
    "/././admin/.",
    "/a/../admin",
    "/a/b/../../admin/",
    "/admin/a/..",
    "/admin/../admin",
    "/%61dmin",
    "/%61%64%6D%69%6e",
    "/%2e/admin",
    "/a/%2E%2e/admin",
    "/a/.%2e/admin",
    "http://a/admin",
    "http://a//admin",
];

/// What servers disagree about, or is no path.
const REFUSED_PATHS: &[&str] = &[
    "/%2Fadmin",
    "/%5cadmin",
    "/\\admin",
    "/a\\..\\admin",
    "/;/admin",
    "/;a=b/admin",
    "/a;x/../admin",
    "/a/..;/admin",
    "/a/..;x=y/admin",
    "/a/%2e%2e;/admin",
    "/a/%2e%2e%3b/admin",
    "/.;/admin",
    "/%00/admin",
    "/admin%00",
    "/admin%0a",
    "/admin%0d%0aX:y",
    "/admin%09",
    "/admin%7f",
    "/a/%c0%ae%c0%ae/admin",
    "/%c1%a1dmin",
    "/%e0%80%af",
    "/%f0%80%80%af",
    "/%ed%a0%80",
    "/%c0%af..%c0%afadmin",
    "/%u0061dmin",
    "/%",
    "/%4",
    "/%zz",
    "/%%36%31dmin",
    "/..",
    "/%2e%2e/admin",
    "/a/../../admin",
    "/a%2f..%2fadmin",
    "/a/%2e%2e%2fadmin",
];

fn with_host(host: impl AsRef<[u8]>) -> Vec<u8> {
    [
        b"GET / HTTP/1.1\r\nHost: ",
        host.as_ref(),
        b"\r\nConnection: close\r\n\r\n",
    ]
    .concat()
}

#[tokio::test]
async fn a_request_needs_one_valid_host() {
    let mut bench = Bench::new("").await;
    for (name, request) in [
        ("none", "GET / HTTP/1.1\r\n\r\n"),
        ("none in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n"),
        (
            "none with an absolute target",
            "GET http://a/ HTTP/1.1\r\n\r\n",
        ),
        ("two", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (
            "the same twice",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhOST: a\r\n\r\n",
        ),
        ("folded", "GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
    ] {
        bench.refuses(name, request, 400).await;
    }
    for host in [
        "",
        " ",
        ".",
        "a..b",
        ".a",
        "user@a",
        "user:word@a",
        "@a",
        "a, b",
        "a,b",
        "a b",
        "a\tb",
        "a/b",
        "a/",
        "a?b",
        "a#b",
        "a\\b",
        "a;b",
        "a|b",
        "\"a\"",
        "'a'",
        "(a)",
        "<a>",
        "{a}",
        "a*",
        "*",
        "a!",
        "a$",
        "a&b",
        "a=b",
        "a~b",
        "a^b",
        "a`b",
        "%61",
        "a%00",
        "a%2eb",
        "http://a",
        "\u{e4}",
        "a:port",
        "a:-1",
        "a:+1",
        "a: 1",
        "a:65536",
        "a:99999999999",
        "a:80:80",
        ":80",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[g::1]",
        "[]",
        "[127.0.0.1]",
        "[::1%25lo]",
        "[v1.a]",
    ] {
        bench.refuses(host, with_host(host), 400).await;
    }
    bench.refuses("long", with_host("a".repeat(254)), 400).await;
    assert_eq!(bench.upstream.connections(), 0);
}

#[tokio::test]
async fn a_host_goes_on_in_its_normal_form() {
    let mut bench = Bench::new("").await;
    for (host, forwarded) in [
        ("a", "a"),
        ("A.Example", "a.example"),
        ("a.", "a"),
        ("a:80", "a:80"),
        ("a:0080", "a:80"),
        ("a:", "a"),
        ("my_service", "my_service"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("[::1]:80", "[::1]:80"),
        ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ("\ta \t", "a"),
    ] {
        let seen = bench.passes(host, with_host(host)).await;
        assert_eq!(seen.head.fields.all("host"), [forwarded], "{host:?}");
        assert_eq!(
            seen.head.get("x-forwarded-host"),
            Some(forwarded),
            "{host:?}"
        );
    }
}

#[tokio::test]
async fn no_spelling_of_a_host_leads_around_its_route() {
    let mut bench = Bench::new(DENIED).await;
    for host in DENIED_HOSTS {
        let seen = bench.serves(host, with_host(host), &[403]).await;
        assert_eq!(seen, [], "{host}");
    }
    for line in [
        "GET http://denied.example/ HTTP/1.1",
        "GET HTTP://DENIED.example:80 HTTP/1.1",
        "GET http://denied.example.?x HTTP/1.1",
    ] {
        let seen = bench.serves(line, with_line(line), &[403]).await;
        assert_eq!(seen, [], "{line}");
    }
}

#[tokio::test]
async fn targets_of_another_form_are_refused() {
    let mut bench = Bench::new("").await;
    for target in [
        "a",
        "../a",
        "?a",
        "a:80",
        "a:80/",
        "*",
        "**",
        "/a#top",
        "/#",
        "#",
        "http://",
        "http:///x",
        "http:/a",
        "http:a",
        "http://user@a/",
        "http://user:word@a/",
        "http://a:x/",
        "http://a:99999/",
        "http://:80/",
        "http://[::1/",
        "http://a\\b/",
        "http://a,b/",
        "http://%61/",
        "http://a/#top",
        "http://a/../..",
        "ftp://a/",
        "ws://a/",
        "file:///a",
        "javascript:a",
        "://a/",
        "/caf\u{e9}",
        "/\u{2215}",
        "/?\u{e9}",
    ] {
        bench
            .refuses(target, with_line(format!("GET {target} HTTP/1.1")), 400)
            .await;
    }
    for target in ["*x", "**", "*?a"] {
        bench
            .refuses(target, with_line(format!("OPTIONS {target} HTTP/1.1")), 400)
            .await;
    }
    // To be had over TLS alone.
    bench
        .refuses("https", with_line("GET https://a/ HTTP/1.1"), 421)
        .await;
    // LF ends the line, and a blank the target.
    for byte in (0..=32).chain(127..=255) {
        let line = |target: &[u8]| with_line([b"GET /", target, b" HTTP/1.1"].concat());
        bench
            .refuses("a byte in the path", line(&[b'a', byte, b'b']), 400)
            .await;
        bench
            .refuses("a byte in the query", line(&[b'?', byte, b'b']), 400)
            .await;
    }
    assert_eq!(bench.upstream.connections(), 0);
}

#[tokio::test]
async fn an_absolute_target_wins_over_host_and_rewrites_it() {
    let mut bench = Bench::new("").await;
    for (target, line, host) in [
        (
            "http://Other.example/x?y",
            "GET /x?y HTTP/1.1",
            "other.example",
        ),
        (
            "http://other.example:81",
            "GET / HTTP/1.1",
            "other.example:81",
        ),
        (
            "HTTP://other.example?y",
            "GET /?y HTTP/1.1",
            "other.example",
        ),
        ("//other.example/x", "GET /other.example/x HTTP/1.1", "a"),
        (
            "/http://other.example/x",
            "GET /http:/other.example/x HTTP/1.1",
            "a",
        ),
        ("/x", "GET /x HTTP/1.1", "a"),
    ] {
        let seen = bench
            .passes(target, with_line(format!("GET {target} HTTP/1.1")))
            .await;
        assert_eq!(seen.head.start, line);
        assert_eq!(seen.head.fields.all("host"), [host]);
        assert_eq!(seen.head.get("x-forwarded-host"), Some(host));
    }
}

#[tokio::test]
async fn a_question_about_the_whole_server_goes_where_its_root_goes() {
    let mut bench = Bench::new("rewrite = { regex = \"^/(.*)\", to = \"/v1/$1\" }\n").await;
    let seen = bench.passes("*", with_line("OPTIONS * HTTP/1.1")).await;
    assert_eq!(seen.head.start, "OPTIONS * HTTP/1.1");
    // RFC 9112 §3.2.4: so is one in absolute form that names no path.
    for (target, asked, host) in [
        ("http://other.example:81", "*", "other.example:81"),
        ("HTTP://[::1]", "*", "[::1]"),
        ("http://other.example/", "/v1/", "other.example"),
        ("http://other.example?x", "/v1/?x", "other.example"),
        (
            "/x?y=http://other.example",
            "/v1/x?y=http://other.example",
            "a",
        ),
    ] {
        let line = with_line(format!("OPTIONS {target} HTTP/1.1"));
        let seen = bench.passes(target, line).await;
        assert_eq!(seen.head.target(), asked, "{target}");
        assert_eq!(seen.head.fields.all("host"), [host], "{target}");
    }
    let seen = bench.passes("GET", with_line("GET http://other.example HTTP/1.1"));
    assert_eq!(seen.await.head.target(), "/v1/");
    let proxy = Proxy::start(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nredirect = { to = \"https://{host}{path}\", status = 308 }\n",
    )
    .await;
    let mut client = tcp(proxy.addr(0)).await;
    client
        .write_all(&with_line("OPTIONS * HTTP/1.1"))
        .await
        .unwrap();
    let answer = wire::read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.get("location"), Some("https://a/"));
}

#[tokio::test]
async fn a_denied_prefix_has_no_other_spelling() {
    let mut bench = Bench::new(DENIED).await;
    for target in DENIED_PATHS {
        let line = with_line(format!("GET {target} HTTP/1.1"));
        let seen = bench.serves(target, line, &[403]).await;
        assert_eq!(seen, [], "{target}");
    }
    for target in REFUSED_PATHS {
        bench
            .refuses(target, with_line(format!("GET {target} HTTP/1.1")), 400)
            .await;
    }
    assert_eq!(bench.upstream.connections(), 0);
}

#[tokio::test]
async fn paths_and_hosts_are_judged_over_http2_as_well() {
    let upstream = Script::new().await;
    let proxy = proxy_in_front_of(upstream.addr, DENIED).await;
    let with = |place: usize, value: &'static str| {
        let mut fields = GET.to_vec();
        fields[place].1 = value;
        (value, http2::headers(1, &fields))
    };
    let [authority, path] = [2, 3];
    let denied = DENIED_PATHS.iter().filter(|path| path.starts_with('/'));
    let denied = denied.map(|value| with(path, value));
    let denied = denied.chain(DENIED_HOSTS.iter().map(|value| with(authority, value)));
    let refused = REFUSED_PATHS.iter().map(|value| with(path, value));
    let cases = denied.map(|(value, request)| (value, request, 403));
    let cases = cases.chain(refused.map(|(value, request)| (value, request, 400)));
    for (value, request, status) in cases {
        let mut client = Bare::open(proxy.addr(0), &[]).await;
        client.send(&request).await;
        assert_eq!(client.outcome(1, true).await, Answer(status), "{value}");
    }
    assert!(!upstream.was_contacted().await);
}

#[tokio::test]
async fn what_is_forwarded_is_what_was_matched() {
    let mut bench = Bench::new(DENIED).await;
    for (target, forwarded) in [
        ("/", "/"),
        ("/a/../b//c/./d?x=/../y", "/b/c/d?x=/../y"),
        ("/%7euser/%c3%a9%2B", "/~user/%C3%A9%2B"),
        ("/a;v=1", "/a;v=1"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a|b\"{}^", "/a%7Cb%22%7B%7D%5E"),
        // Decoded once, not twice.
        ("/%2561dmin", "/%2561dmin"),
        ("/%252e%252e/admin", "/%252e%252e/admin"),
        // Queries go on as they came.
        ("/?", "/?"),
        ("/??a/../%2e%00", "/??a/../%2e%00"),
        ("/?'{}|^`[]\\", "/?'{}|^`[]\\"),
    ] {
        let seen = bench
            .passes(target, with_line(format!("GET {target} HTTP/1.1")))
            .await;
        assert_eq!(seen.head.target(), forwarded);
    }
}
