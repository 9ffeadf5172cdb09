//! The filters of `examples/filters`, built with each language's own tools and run behind the real proxy.

use serde_json::Value;
use sluicegate_tests::languages::{self, C, JAVASCRIPT, PYTHON, Tools};
use sluicegate_tests::proxy::{Proxy, binary, source_root};
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, plugins};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Error as WsError;

#[tokio::test]
async fn rust() {
    let dir = TempDir::new().unwrap();
    std::fs::copy(
        plugins::wasm("token-gate"),
        dir.path().join("token_gate.wasm"),
    )
    .unwrap();
    let config = source_root().join("examples/filters/rust/sluicegate.toml");
    std::fs::copy(config, dir.path().join("sluicegate.toml")).unwrap();
    lets_in_who_knows_the_token("rust", dir).await;
}

#[tokio::test]
async fn javascript() {
    example(JAVASCRIPT).await;
}

#[tokio::test]
async fn python() {
    example(PYTHON).await;
}

#[tokio::test]
async fn c() {
    example(C).await;
}

async fn example(tools: Tools) {
    if let Some(dir) = languages::example(tools) {
        lets_in_who_knows_the_token(tools.folder, dir).await;
    }
}

async fn lets_in_who_knows_the_token(language: &str, dir: TempDir) {
    let cases = source_root()
        .join("examples/filters")
        .join(language)
        .join("cases");
    let tested = Command::new(binary())
        .args(["plugin", "test", "token_gate.wasm", "--cases"])
        .arg(cases)
        .current_dir(dir.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()).into_owned();
    assert!(tested.status.success(), "{said}");
    assert!(said.contains("3 cases, all pass"), "{said}");

    let server = Upstream::serving_both("server").await;
    let proxy = languages::serve(dir, &server.addr.to_string()).await;

    for (token, status) in [
        ("s3cret", 200),
        ("s3cre7", 401),
        ("s3cret2", 401),
        ("", 401),
    ] {
        let (got, body) = ask(&proxy, &format!("X-Token: {token}\r\n")).await;
        assert_eq!(got, status, "{token}");
        if status == 200 {
            let seen: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(client::values_of(&seen, "x-filtered-by"), [language]);
        } else {
            assert_eq!(body, b"a token, please\n");
        }
    }
    assert_eq!(ask(&proxy, "").await.0, 401);
    let refused = proxy
        .log_line("the reason", |line| {
            line.contains("no token, or a wrong one")
        })
        .await;
    assert!(refused.contains("token-gate"), "{refused}");

    let handshake = |fields| client::ws_request("ws://localhost/", fields);
    let stream = client::tcp(proxy.addr(0)).await;
    let opened = client::websocket(stream, handshake(&[("X-Token", "s3cret")])).await;
    opened.unwrap();
    let stream = client::tcp(proxy.addr(0)).await;
    let Err(WsError::Http(refused)) = client::websocket(stream, handshake(&[])).await else {
        panic!("a socket without a token")
    };
    assert_eq!(refused.status(), 401);
}

/// A GET with these fields: its status and its body.
async fn ask(proxy: &Proxy, fields: &str) -> (u16, Vec<u8>) {
    let mut stream = client::tcp(proxy.addr(0)).await;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, body) = client::read_response(&mut stream).await.unwrap();
    (head.status, body)
}
