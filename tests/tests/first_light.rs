//! The shortest proof that the harness and the proxy work together.

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, soon};

#[tokio::test]
async fn a_websocket_and_a_request_go_through() {
    let (echo, pages) = (
        Upstream::echoing("echo").await,
        Upstream::describing("pages").await,
    );
    let mut proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [[route]]
        path = "/ws/"
        to = "{}"
        [[route]]
        to = "{}"
        "#,
        echo.addr, pages.addr
    ))
    .await;
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://localhost/ws/", &[]);
    let (mut socket, _) = client::websocket(stream, request).await.unwrap();
    socket.send("whoami".into()).await.unwrap();
    let answer = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.to_text().unwrap(), "echo");

    let (head, body) = client::get(proxy.addr(0), "/page").await;
    assert_eq!(head.status, 200);
    let described: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(described["target"], "/page");

    drop(socket);
    proxy.signal(libc::SIGTERM);
    assert!(proxy.wait().await.success());
}
