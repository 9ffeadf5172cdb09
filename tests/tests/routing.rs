//! Which route takes a request, and what the routes that need no upstream answer.

use serde_json::Value;
use sluicegate_tests::client::{exchange, tcp};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::wire::{self, Message};
use tokio::io::AsyncWriteExt;

/// A proxy with one listener and these routes.
async fn routes(routes: &str) -> Proxy {
    Proxy::start(&format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{routes}")).await
}

async fn ask(proxy: &Proxy, method: &str, target: &str, host: &str, fields: &str) -> Message {
    let mut client = tcp(proxy.addr(0)).await;
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    wire::read_response(&mut client).await.unwrap()
}

/// A route that answers with its own name.
fn named(name: &str, conditions: &str) -> String {
    format!("[[route]]\n{conditions}\nrespond = {{ body = \"{name}\" }}\n")
}

#[tokio::test]
async fn the_most_specific_route_wins_in_any_order_of_the_file() {
    let mut file = [
        named("any", ""),
        named("any /a/", "path = \"/a/\""),
        named("wild", "host = \"*.example.com\""),
        named("wild deep", "host = \"*.b.example.com\""),
        named("host", "host = \"www.example.com\""),
        named("host /a", "host = \"www.example.com\"\npath = \"/a\""),
        named("host /a/b/", "host = \"www.example.com\"\npath = \"/a/b/\""),
        named(
            "host = /a/b/c",
            "host = \"www.example.com\"\npath_exact = \"/a/b/c\"",
        ),
        named(
            "host ~",
            "host = \"www.example.com\"\npath_regex = '^/a/\\d+$'",
        ),
        named("two hosts", "host = [\"one.test\", \"*.two.test\"]"),
        named(
            "header",
            "path = \"/a/\"\nmatch_headers = { x-kind = \"new\" }",
        ),
        named(
            "header regex",
            "path = \"/r/\"\nmatch_headers = { x-kind = \"~^v[0-9]+$\" }",
        ),
        named(
            "header present",
            "path = \"/p/\"\nmatch_headers = { x-kind = \"*\" }",
        ),
    ];
    for _ in 0..2 {
        let proxy = routes(&file.concat()).await;
        for (host, path, fields, name) in [
            ("other.test", "/", "", "any"),
            ("other.test", "/a", "", "any"),
            ("other.test", "/a/x", "", "any /a/"),
            ("example.com", "/", "", "any"),
            ("x.example.com", "/", "", "wild"),
            ("y.x.example.com", "/", "", "wild"),
            ("x.b.example.com", "/", "", "wild deep"),
            ("b.example.com", "/", "", "wild"),
            ("x.example.com", "/a/", "", "wild"),
            ("WWW.Example.com:8080", "/", "", "host"),
            ("www.example.com.", "/", "", "host"),
            ("www.example.com", "/abc", "", "host /a"),
            ("www.example.com", "/a/b/x", "", "host /a/b/"),
            ("www.example.com", "/a/b/c", "", "host = /a/b/c"),
            ("www.example.com", "/a/b/c?q", "", "host = /a/b/c"),
            ("www.example.com", "/a/b/cd", "", "host /a/b/"),
            ("www.example.com", "/a/17", "", "host ~"),
            ("www.example.com", "/a/17/", "", "host /a"),
            ("one.test", "/", "", "two hosts"),
            ("x.two.test", "/", "", "two hosts"),
            ("two.test", "/", "", "any"),
            ("other.test", "/a/x", "X-Kind: new\r\n", "header"),
            (
                "other.test",
                "/a/x",
                "X-Kind: old\r\nX-Kind: new\r\n",
                "header",
            ),
            ("other.test", "/a/x", "X-Kind: newer\r\n", "any /a/"),
            ("other.test", "/r/", "X-Kind: v17\r\n", "header regex"),
            ("other.test", "/r/", "X-Kind: v17b\r\n", "any"),
            ("other.test", "/p/", "X-Kind:\r\n", "header present"),
            ("other.test", "/p/", "", "any"),
        ] {
            let answer = ask(&proxy, "GET", path, host, fields).await;
            let body = String::from_utf8(answer.body).unwrap();
            assert_eq!(body, name, "{host}{path} {fields}");
        }
        file.reverse();
    }
}

#[tokio::test]
async fn a_method_that_no_route_takes_gives_405_with_the_ones_that_do() {
    let proxy = routes(
        &[
            named("read", "path = \"/a\"\nmethods = \"GET\""),
            named("write", "path = \"/a\"\nmethods = [\"POST\", \"PUT\"]"),
            named("fallback", "path = \"/b\""),
            named("only get", "path = \"/b/c\"\nmethods = \"GET\""),
        ]
        .concat(),
    )
    .await;
    for (method, path, status, name) in [
        ("GET", "/a", 200, "read"),
        ("POST", "/a", 200, "write"),
        ("PUT", "/a", 200, "write"),
        ("GET", "/b/c", 200, "only get"),
        ("PATCH", "/b/c", 200, "fallback"),
        ("GET", "/c", 404, ""),
    ] {
        let answer = ask(&proxy, method, path, "a", "").await;
        assert_eq!(answer.head.status(), status, "{method} {path}");
        if status == 200 {
            assert_eq!(answer.body, name.as_bytes(), "{method} {path}");
        }
    }
    let answer = ask(&proxy, "DELETE", "/a", "a", "").await;
    assert_eq!(answer.head.status(), 405);
    let mut allow: Vec<&str> = answer.head.get("allow").unwrap().split(", ").collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "HEAD", "POST", "PUT"]);
    let answer = exchange(
        proxy.addr(0),
        b"HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "HEAD comes with GET");
    assert!(answer.ends_with(b"\r\n\r\n"), "without the body");
}

#[tokio::test]
async fn routes_answer_and_redirect_by_themselves() {
    let proxy = routes(
        r#"
        [[route]]
        path = "/teapot"
        respond = { status = 418, body = "{}", content_type = "application/json" }
        [[route]]
        path = "/old"
        redirect = { to = "https://{host}/new{path}{query}", status = 301 }
        [[route]]
        path = "/away"
        redirect = { to = "https://away.example/?from={route}&ip={client_ip}&scheme={scheme}" }
        [[route]]
        path = "/named"
        name = "by-name"
        redirect = { to = "/{route}/{{x}}" }
        "#,
    )
    .await;
    let answer = ask(&proxy, "GET", "/teapot", "a", "").await;
    assert_eq!(answer.head.status(), 418);
    assert_eq!(answer.head.get("content-type"), Some("application/json"));
    assert_eq!(answer.body, b"{}");

    for (target, status, location) in [
        ("/old/x?y=z", 301, "https://h.example/new/old/x?y=z"),
        ("/old//evil/../x", 301, "https://h.example/new/old/x"),
        ("/old", 301, "https://h.example/new/old"),
        ("/named", 308, "/by-name/{x}"),
    ] {
        let answer = ask(&proxy, "GET", target, "H.example:99", "").await;
        assert_eq!(answer.head.status(), status);
        assert_eq!(answer.head.fields.all("location"), [location]);
    }
    let answer = ask(&proxy, "POST", "/away", "h", "").await;
    let location = answer.head.get("location").unwrap();
    assert!(location.starts_with("https://away.example/?from="));
    assert!(
        location.ends_with("&ip=127.0.0.1&scheme=http"),
        "{location}"
    );
}

#[tokio::test]
async fn paths_are_rewritten_on_their_way_upstream() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr;
    let proxy = routes(&format!(
        r#"
        [[route]]
        path = "/api/"
        strip_prefix = "/api"
        to = "{to}"
        [[route]]
        path = "/bare"
        strip_prefix = "/bare"
        to = "{to}"
        [[route]]
        path = "/user/"
        rewrite = {{ regex = '^/user/(?<id>\d+)/(.*)$', to = '/u/$2/${{id}}' }}
        to = "{to}"
        [[route]]
        path = "/up/"
        rewrite = {{ regex = '^/up/', to = '/../' }}
        to = "{to}"
        [[route]]
        to = "{to}"
        "#
    ))
    .await;
    for (target, forwarded) in [
        ("/api/v1/x?q=1", "/v1/x?q=1"),
        ("/api/", "/"),
        ("/bare", "/"),
        ("/bareness", "/ness"),
        ("/user/17/name?q", "/u/name/17?q"),
        ("/user/x/name", "/user/x/name"),
        ("/other?", "/other?"),
    ] {
        let answer = ask(&proxy, "GET", target, "a", "").await;
        assert_eq!(answer.head.status(), 200, "{target}");
        let described: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(described["target"], forwarded);
    }
    // A rewritten path is held to the same rules.
    let answer = ask(&proxy, "GET", "/up/x", "a", "").await;
    assert_eq!(answer.head.status(), 400);
}

#[tokio::test]
async fn an_error_says_its_status_and_the_request_id_only() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = routes(&format!(
        "[[route]]\npath = \"/secret-name\"\nname = \"secret\"\nto = \"{nowhere}\"\n"
    ))
    .await;
    for (target, first) in [
        ("/secret-name", "502 Bad Gateway"),
        ("/none", "404 Not Found"),
        ("/%00", "400 Bad Request"),
    ] {
        let answer = ask(&proxy, "GET", target, "a", "").await;
        let text = String::from_utf8(answer.body).unwrap();
        let (status, id) = text.trim_end().split_once("\nrequest id: ").unwrap();
        assert_eq!(status, first);
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        let mut names: Vec<&str> = answer
            .head
            .fields
            .0
            .iter()
            .map(|(name, _)| &**name)
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cache-control",
                "connection",
                "content-length",
                "content-type",
                "date"
            ]
        );
    }
}
