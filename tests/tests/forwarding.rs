//! What changes in a header on its way through, in either direction.

use sluicegate_tests::client::tcp;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::wire::{self, Head, Message};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::UnboundedReceiver;

/// Sends GET with these fields; what the upstream saw.
async fn seen(proxy: &Proxy, requests: &mut UnboundedReceiver<Message>, fields: &str) -> Head {
    let mut client = tcp(proxy.addr(0)).await;
    let request = format!("GET /p?q HTTP/1.1\r\nHost: h.example\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = wire::read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.status(), 200, "{fields}");
    soon("the request", requests.recv()).await.unwrap().head
}

const SPOOFED: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 666\r\n\
    X-Forwarded-User: root\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: chosen\r\n\
    Forwarded: for=6.6.6.6\r\nX-Client-Cert-Subject: CN=root\r\n";

#[tokio::test]
async fn a_client_cannot_forge_where_it_comes_from() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let connection = "Connection: X-Forwarded-For, X-Real-IP, X-Request-Id, X-Forwarded-Proto, \
                      X-Forwarded-Host, Host\r\n";
    let underscores = "X_Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nx_request_id: a\r\n";
    for fields in [
        String::new(),
        SPOOFED.to_owned(),
        connection.to_owned(),
        format!("{connection}{SPOOFED}"),
        underscores.to_owned(),
    ] {
        let head = seen(&proxy, &mut requests, &fields).await;
        for (name, value) in [
            ("host", "h.example"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "h.example"),
            ("x-real-ip", "127.0.0.1"),
        ] {
            assert_eq!(head.fields.all(name), [value], "{name} after {fields}");
        }
        for name in [
            "forwarded",
            "x-forwarded-port",
            "x-forwarded-user",
            "x-client-cert-subject",
            "x_forwarded_for",
            "x_real_ip",
            "x_request_id",
        ] {
            assert_eq!(head.get(name), None, "{name} after {fields}");
        }
        let id = head.fields.all("x-request-id");
        assert_eq!(id.len(), 1);
        assert!(id[0].len() == 32 && id[0].bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[tokio::test]
async fn each_request_has_an_id_of_its_own() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..20 {
        let head = seen(&proxy, &mut requests, "").await;
        ids.insert(head.get("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids.len(), 20);
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_as_far_as_it_goes() {
    let (upstream, mut requests) = Upstream::collecting().await;
    let proxy = Proxy::start(&format!(
        r#"
        trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]
        [[listener]]
        bind = "127.0.0.1:0"
        [[route]]
        to = "{}"
        "#,
        upstream.addr
    ))
    .await;
    for (fields, chain, client) in [
        ("", "127.0.0.1", "127.0.0.1"),
        (
            "X-Forwarded-For: 1.2.3.4\r\n",
            "1.2.3.4, 127.0.0.1",
            "1.2.3.4",
        ),
        (
            "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1\r\n",
            "6.6.6.6, 1.2.3.4, 10.1.1.1, 127.0.0.1",
            "1.2.3.4",
        ),
        (
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4:5678\r\n",
            "6.6.6.6, 1.2.3.4:5678, 127.0.0.1",
            "1.2.3.4",
        ),
        (
            "X-Forwarded-For: 6.6.6.6, junk, 10.1.1.1\r\n",
            "6.6.6.6, junk, 10.1.1.1, 127.0.0.1",
            "10.1.1.1",
        ),
        (
            "X-Forwarded-For: [2001:db8::1]:80\r\n",
            "[2001:db8::1]:80, 127.0.0.1",
            "2001:db8::1",
        ),
    ] {
        let head = seen(&proxy, &mut requests, fields).await;
        assert_eq!(head.fields.all("x-forwarded-for"), [chain]);
        assert_eq!(head.fields.all("x-real-ip"), [client], "{fields}");
    }
    let head = seen(
        &proxy,
        &mut requests,
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.example\r\nX-Request-Id: abc-1\r\n",
    )
    .await;
    assert_eq!(head.fields.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.fields.all("x-forwarded-host"), ["outer.example"]);
    assert_eq!(head.fields.all("x-request-id"), ["abc-1"]);
    // Even a proxy's request id must be fit for a log.
    for bad in ["a b", "a\"b", "a, b", &"a".repeat(200)] {
        let head = seen(&proxy, &mut requests, &format!("X-Request-Id: {bad}\r\n")).await;
        assert_eq!(head.get("x-request-id").map(str::len), Some(32), "{bad}");
    }
}

#[tokio::test]
async fn the_fields_of_one_connection_end_with_it() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(upstream.addr, "").await;
    let mut client = tcp(proxy.addr(0)).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mine, keep-alive\r\n\
        Connection: X-Also\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        Proxy-Authorization: Basic x\r\nTE: trailers, deflate\r\nProxy: evil\r\n\
        X-Mine: a\r\nX-Also: a\r\nX-Kept: a\r\nAuthorization: Bearer x\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    let head = wire::read_head(&mut server).await.unwrap();
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy",
        "x-mine",
        "x-also",
        "upgrade",
    ] {
        assert_eq!(head.get(name), None, "{name}");
    }
    assert_eq!(head.fields.all("te"), ["trailers"]);
    assert_eq!(head.fields.all("connection"), ["te"]);
    assert_eq!(head.get("x-kept"), Some("a"));
    assert_eq!(head.get("authorization"), Some("Bearer x"));

    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Theirs, close\r\n\
        Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nProxy-Authenticate: Basic\r\n\
        Upgrade: h2c\r\nX-Theirs: a\r\nX-Kept: a\r\nServer: origin\r\n\
        Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n";
    server.write_all(answer).await.unwrap();
    let head = wire::read_head(&mut client).await.unwrap();
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "upgrade",
        "x-theirs",
        "connection",
    ] {
        assert_eq!(head.get(name), None, "{name}");
    }
    assert_eq!(head.get("x-kept"), Some("a"));
    assert_eq!(head.get("server"), Some("origin"));
    assert_eq!(head.fields.all("set-cookie"), ["a=1", "b=2"]);
    // The upstream's wish to close is no wish of ours.
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    upstream.accept().await;
}

#[tokio::test]
async fn a_route_edits_headers_both_ways() {
    let upstream = Script::new().await;
    let proxy = Proxy::in_front_of(
        upstream.addr,
        r#"
        name = "edited"
        [route.request_headers]
        set = { x-set = "{host} {path}{query} {scheme} {client_ip} {route}", x-id = "{request_id}" }
        add = { x-add = "ours" }
        remove = ["x-remove", "user-agent"]
        [route.response_headers]
        set = { x-frame-options = "DENY", x-id = "{request_id}" }
        add = { x-add = "ours" }
        remove = "server"
        "#,
    )
    .await;
    let mut client = tcp(proxy.addr(0)).await;
    let request = "GET /p?q=1 HTTP/1.1\r\nHost: h.example\r\nX-Set: theirs\r\nX-Set: theirs\r\n\
        X-Add: theirs\r\nX-Remove: a\r\nX-Remove: b\r\nUser-Agent: a\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut server = upstream.accept().await;
    let asked = wire::read_head(&mut server).await.unwrap();
    assert_eq!(
        asked.fields.all("x-set"),
        ["h.example /p?q=1 http 127.0.0.1 edited"]
    );
    assert_eq!(asked.fields.all("x-add"), ["theirs", "ours"]);
    assert_eq!(asked.get("x-remove"), None);
    assert_eq!(asked.get("user-agent"), None);
    let id = asked.get("x-request-id").unwrap();
    assert_eq!(asked.get("x-id"), Some(id));

    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Frame-Options: ALLOW\r\n\
        X-Add: theirs\r\nServer: origin\r\n\r\nok";
    server.write_all(answer).await.unwrap();
    let answer = wire::read_response(&mut client).await.unwrap();
    assert_eq!(answer.head.fields.all("x-frame-options"), ["DENY"]);
    assert_eq!(answer.head.fields.all("x-add"), ["theirs", "ours"]);
    assert_eq!(answer.head.get("server"), None);
    assert_eq!(answer.head.get("x-id"), Some(id));
    assert_eq!(answer.body, b"ok");
}
