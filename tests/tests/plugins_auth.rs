//! The plugins that ask who somebody is, behind the real binary, where they meet the proxy's store, its
//! outbound requests, its cryptography, and the end of a session.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sluicegate_tests::client::{self, Head};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::secrets::planted;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::Upstream;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn a_token_opens_a_tunnel_that_ends_with_it() {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": b64(x), "y": b64(y)});
    let (provider, mut asked) = serve("200 OK", "", json!({ "keys": [jwk] }).to_string()).await;
    let token = |expires: Duration| {
        let claims = json!({"sub": "ann", "aud": "ws", "exp": expires.as_secs_f64()});
        let header = b64(r#"{"alg":"ES256","kid":"1"}"#);
        let signed = format!("{header}.{}", b64(claims.to_string()));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("Bearer {signed}.{}", b64(signature))
    };
    let upstream = Upstream::echoing("server").await;
    let more = format!(
        r#"
        allow  = {{ kv = true, http = ["provider"] }}
        config = {{ jwks_upstream = "provider", jwks_path = "/keys", audience = "ws" }}
        [upstream.provider]
        servers = ["{provider}"]
        "#
    );
    let proxy = Proxy::with_plugin("sluicegate-jwt", &more, upstream.addr).await;

    let expires = since_1970() + Duration::from_secs(2);
    let long = token(since_1970() + Duration::from_secs(600));
    let fields = [("authorization", &*token(expires))];
    let request = client::ws_request("ws://localhost/", &fields);
    let stream = client::tcp(proxy.addr(0)).await;
    let (mut socket, _) = client::websocket(stream, request).await.unwrap();
    let closed = soon("the end of the session", socket.next()).await;
    assert!(
        matches!(closed, Some(Ok(Message::Close(Some(_))))),
        "{closed:?}"
    );
    assert!(since_1970() + Duration::from_millis(5) >= expires);
    let line = proxy.access_event("ws.close", |line| line["cause"] == "expired");
    assert_eq!(line.await["labels"]["sub"], "ann");

    let (head, _) = ask(&proxy, "/", "").await;
    assert_eq!(head.status, 401);
    assert_eq!(
        head.get("www-authenticate"),
        Some(r#"Bearer realm="sluicegate""#)
    );
    // The signature is one byte off.
    let mut forged = long.clone();
    let last = forged.pop();
    forged.push(if last == Some('A') { 'Q' } else { 'A' });
    let (head, _) = ask(&proxy, "/", &format!("Authorization: {forged}\r\n")).await;
    assert_eq!(head.status, 401);
    // The keys were fetched for the first token and kept since.
    let question = asked.recv().await.unwrap();
    assert!(question.starts_with("GET /keys HTTP/1.1\r\n"), "{question}");
    assert!(asked.try_recv().is_err());
    proxy
        .until_metric(&counted("refused", "signature"), 1.0)
        .await;
}

#[tokio::test]
async fn keys_that_stand_in_the_configuration_need_no_grant() {
    let upstream = Upstream::describing("server").await;
    let config = r#"config = { secret = "sluicegate-planted-secret-of-hmac", audience = "ws" }"#;
    let proxy = Proxy::with_plugin("sluicegate-jwt", config, upstream.addr).await;
    let (head, _) = ask(&proxy, "/", "Authorization: Bearer a.b.c\r\n").await;
    assert_eq!(head.status, 401);
    let b64 = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    let claims = format!(
        r#"{{"sub":"ann","aud":"ws","exp":{}}}"#,
        since_1970().as_secs() + 60
    );
    let signed = format!("{}.{}", b64(br#"{"alg":"HS256"}"#), b64(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"sluicegate-planted-secret-of-hmac");
    let tag = hmac::sign(&key, signed.as_bytes());
    let field = format!("Authorization: Bearer {signed}.{}\r\n", b64(tag.as_ref()));
    let (head, _) = ask(&proxy, "/", &field).await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn without_a_store_fetched_keys_are_refused_and_the_log_says_why() {
    let upstream = Upstream::describing("server").await;
    let more = r#"
        allow  = { http = ["provider"] }
        config = { jwks_upstream = "provider", audience = "ws" }
        [upstream.provider]
        servers = ["127.0.0.1:1"]
        "#;
    let proxy = Proxy::with_plugin("sluicegate-jwt", more, upstream.addr).await;
    let b64 = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.AAAA", b64(r#"{"alg":"ES256"}"#), b64("{}"));
    let (head, _) = ask(&proxy, "/", &format!("Authorization: Bearer {token}\r\n")).await;
    assert_eq!(head.status, 503);
    let line = proxy
        .log_line("why", |line| line.contains("keys cannot be kept"))
        .await;
    assert!(line.contains("allow = { kv = true }"), "{line}");
}

#[tokio::test]
async fn a_ticket_opens_the_door_once() {
    const KEY: &str = "sluicegate-planted-secret-of-hmac";
    let upstream = Upstream::describing("server").await;
    let more = format!("allow = {{ kv = true }}\nconfig = {{ keys = {{ k1 = \"{KEY}\" }} }}");
    let proxy = Proxy::with_plugin("sluicegate-hmac-ticket", &more, upstream.addr).await;
    let payload = json!({"exp": since_1970().as_secs() + 60, "sub": "ann", "path": "/ws/*"});
    let payload = b64(payload.to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let ticket = format!("{payload}.{}", b64(hmac::sign(&key, payload.as_bytes())));

    let (head, _) = ask(&proxy, &format!("/other?ticket={ticket}"), "").await;
    assert_eq!(head.status, 403);
    let uri = format!("/ws/?a=1&ticket={ticket}");
    let (head, seen) = ask(&proxy, &uri, "X-User: root\r\n").await;
    assert_eq!(head.status, 200);
    assert_eq!(client::values_of(&seen, "x-user"), ["ann"]);
    assert!(!seen.to_string().contains(&payload), "{seen}");
    // Whichever worker gets it.
    for _ in 0..4 {
        assert_eq!(ask(&proxy, &uri, "").await.0.status, 403);
    }
    proxy.until_metric(&counted("refused", "used"), 4.0).await;
}

#[tokio::test]
async fn the_workers_share_a_clients_allowance() {
    let upstream = Upstream::describing("server").await;
    let more = r#"
        allow  = { kv = true }
        config = { limit = 5, per = "1h", only = "all" }
        "#;
    let proxy = Proxy::with_plugin("sluicegate-rate-limit", more, upstream.addr).await;
    let many = (0..20).map(|_| ask(&proxy, "/", ""));
    let answers = futures_util::future::join_all(many).await;
    let passed = answers.iter().filter(|(head, _)| head.status == 200);
    assert_eq!(passed.count(), 5);
    let refused = answers.iter().filter(|(head, _)| head.status == 429);
    for (head, _) in refused {
        let wait: u64 = head.get("retry-after").unwrap().parse().unwrap();
        assert!((600..=720).contains(&wait), "{wait}");
    }
    // A client from elsewhere has its own.
    let (head, _) = ask(&proxy, "/", "X-Forwarded-For: 192.0.2.9\r\n").await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn passwords_are_checked_against_their_hashes() {
    // "s3cret", cheaply.
    let more = r#"config = { users = { ann = '$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG' } }"#;
    let upstream = Upstream::describing("server").await;
    let proxy = Proxy::with_plugin("sluicegate-basic-auth", more, upstream.addr).await;
    let wrong = format!("ann:{}", planted("password"));
    for (credentials, status) in [("ann:s3cret", 200), (&wrong, 401), ("bob:s3cret", 401)] {
        let fields = format!(
            "Authorization: Basic {}\r\n",
            BASE64_STANDARD.encode(credentials)
        );
        let (head, seen) = ask(&proxy, "/", &fields).await;
        assert_eq!(head.status, status, "{credentials}");
        if status == 200 {
            assert_eq!(client::values_of(&seen, "x-user"), ["ann"]);
            assert!(client::values_of(&seen, "authorization").is_empty());
        }
    }
    proxy.until_metric(&counted("refused", "wrong"), 2.0).await;
}

#[tokio::test]
async fn a_service_decides_and_is_not_asked_twice() {
    let upstream = Upstream::describing("server").await;
    let config = |service: SocketAddr| {
        format!(
            r#"
            allow  = {{ kv = true, http = ["service"] }}
            config = {{ upstream = "service", path = "/check", response_headers = ["X-User"], allow_ttl = "1h" }}
            [upstream.service]
            servers = ["{service}"]
            "#
        )
    };
    let (service, mut asked) = serve("200 OK", "X-User: ann\r\n", String::new()).await;
    let proxy =
        Proxy::with_plugin("sluicegate-forward-auth", &config(service), upstream.addr).await;
    let cookie = planted("session");
    for _ in 0..3 {
        let fields = format!("Cookie: {cookie}\r\nX-User: root\r\n");
        let (head, seen) = ask(&proxy, &format!("/a?b={cookie}"), &fields).await;
        assert_eq!(head.status, 200);
        assert_eq!(client::values_of(&seen, "x-user"), ["ann"]);
    }
    let question = asked.recv().await.unwrap().to_ascii_lowercase();
    for line in [
        "get /check http/1.1",
        &*format!("cookie: {cookie}"),
        &*format!("x-original-url: http://localhost/a?b={cookie}"),
    ] {
        assert!(question.contains(&format!("{line}\r\n")), "{question}");
    }
    assert!(asked.try_recv().is_err());

    let fields = format!("Location: /login\r\nSet-Cookie: {cookie}\r\n");
    let (service, _asked) = serve("302 Found", &fields, "over there".to_owned()).await;
    let proxy =
        Proxy::with_plugin("sluicegate-forward-auth", &config(service), upstream.addr).await;
    let (head, body) = client::get(proxy.addr(0), "/").await;
    assert_eq!((head.status, &*body), (302, &b"over there"[..]));
    assert_eq!(head.get("location"), Some("/login"));
    assert_eq!(head.get("set-cookie"), Some(&*cookie));

    // Nobody listens there any more.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy =
        Proxy::with_plugin("sluicegate-forward-auth", &config(service), upstream.addr).await;
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 503);
}

/// Answers every request alike, and tells the heads that came.
async fn serve(
    status: &str,
    fields: &str,
    body: String,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n{body}"
    );
    let (heads, asked) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = client::read_request_head(&mut stream).await;
            let _ = heads.send(head);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (addr, asked)
}

/// A request to an upstream that describes it; `null` where the answer is another's.
async fn ask(proxy: &Proxy, uri: &str, fields: &str) -> (Head, Value) {
    let mut stream = client::tcp(proxy.addr(0)).await;
    client::ask(&mut stream, "localhost", uri, fields)
        .await
        .unwrap()
}

fn counted(name: &str, why: &str) -> String {
    format!(r#"sluicegate_plugin_filter_{name}_total{{plugin="filter",why="{why}"}}"#)
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
