//! The plugins that filter messages, behind the real binary, where they meet what their cases cannot show:
//! compression, close codes, a session that another plugin labelled, an upstream of their own.

use serde_json::{Value, json};
use sluicegate_tests::plugins::wasm;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::soon;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::websocket::deflate::Deflater;
use sluicegate_tests::websocket::frame::{BINARY, CLOSE, COMPRESSED, Frame, TEXT};
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{Heard, Peer};

#[tokio::test]
async fn what_is_compressed_is_redacted_too() {
    let script = Script::new().await;
    let more = r#"config = { presets = ["email"], from = "client" }"#;
    let proxy = Proxy::with_plugin("sluicegate-redact", more, script.addr).await;
    let params = Params {
        window_bits: 15,
        takeover: true,
    };
    let wish = Deflate {
        client: params,
        server: params,
    };
    let pair = Peer::pair(
        proxy.addr(0),
        "/",
        "permessage-deflate",
        &script,
        Some(wish),
    )
    .await;
    let (mut client, mut server) = pair;
    let agreed = client.deflate.expect("permessage-deflate");
    let random = &mut Random::new(1);
    let mut deflater = Deflater::new(agreed.client, random);
    let mail = "my address is ann@example.com, my address is ann@example.com";
    for (said, heard) in [
        ("nothing to see here, nothing at all", None),
        (mail, Some("my address is [email], my address is [email]")),
        ("nothing to see here, nothing at all", None),
    ] {
        let payload = deflater.message(said.as_bytes(), random);
        let frame = Frame::new(TEXT, payload).with_rsv(COMPRESSED);
        client.say(frame).await.unwrap();
        assert_eq!(server.next().await.text(), heard.unwrap_or(said));
    }
    server.say(Frame::new(TEXT, mail)).await.unwrap();
    assert_eq!(client.next().await.text(), mail);
    proxy
        .until_metric(&counted("redacted", "what", "email"), 2.0)
        .await;
}

#[tokio::test]
async fn a_message_that_does_not_fit_is_answered_or_ends_the_tunnel() {
    let upstream = Upstream::echoing("server").await;
    let config = |invalid: &str| {
        format!(
            r#"config = {{ schema = {{ required = ["say"] }}, invalid = "{invalid}", reason = "{{why}}" }}"#
        )
    };
    let package = "sluicegate-json-schema";
    let replying = Proxy::with_plugin(package, &config("reply"), upstream.addr).await;
    let mut client = Peer::connect(replying.addr(0), "/", "")
        .await
        .expect("a 101");
    for (said, heard) in [
        (r#"{"say":"hello"}"#, r#"{"say":"hello"}"#),
        (
            "{}",
            r#"{"error":"invalid message","pointer":"","why":"lacks `say`"}"#,
        ),
        (r#"{"say":"again"}"#, r#"{"say":"again"}"#),
    ] {
        client.say(Frame::new(TEXT, said)).await.unwrap();
        assert_eq!(client.next().await.text(), heard);
    }
    let closing = Proxy::with_plugin(package, &config("close"), upstream.addr).await;
    let mut client = Peer::connect(closing.addr(0), "/", "")
        .await
        .expect("a 101");
    client.say(Frame::new(TEXT, "{}")).await.unwrap();
    let close = Heard::Close(Some((1008, "lacks `say`".to_owned())));
    assert_eq!(client.next().await, close);
    closing
        .until_metric(&counted("invalid", "from", "client"), 1.0)
        .await;
}

#[tokio::test]
async fn who_may_publish_what_depends_on_who_it_is() {
    let script = Script::new().await;
    let packages = ["sluicegate-ip-allow", "sluicegate-topic-acl"];
    let built = tokio::task::spawn_blocking(move || packages.map(wasm)).await;
    let [who, acl] = built.unwrap();
    // The label is the name of the client's network.
    let proxy = Proxy::start(&format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [plugin.who]
        wasm = "{}"
        config = {{ allow = {{ ann = ["127.0.0.0/8"] }}, label = "sub" }}
        [plugin.acl]
        wasm = "{}"
        [plugin.acl.config]
        protocol = "mqtt"
        refuse   = "reply"
        allow    = [{{ action = "publish", topic = "a/{{sub}}" }}]
        [[route]]
        to = "{}"
        plugins = ["who", "acl"]
        "#,
        who.display(),
        acl.display(),
        script.addr,
    ))
    .await;
    let (mut client, mut server) = Peer::pair(proxy.addr(0), "/mqtt", "", &script, None).await;
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
    let own = b"\x32\x0a\x00\x05a/ann\x00\x07x";
    let others = b"\x32\x0a\x00\x05a/bob\x00\x08x";
    client.say(Frame::new(BINARY, *connect)).await.unwrap();
    assert_eq!(data(server.next().await), connect);
    // A packet of somebody else's between two pieces of an own one's.
    let message = [&others[..], &own[..5]].concat();
    client.say(Frame::new(BINARY, message)).await.unwrap();
    assert_eq!(data(client.next().await), b"\x40\x02\x00\x08");
    client.say(Frame::new(BINARY, &own[5..])).await.unwrap();
    assert_eq!(data(server.next().await), own);
    server.say(Frame::new(BINARY, *others)).await.unwrap();
    assert_eq!(data(client.next().await), others);
    client.say(Frame::new(TEXT, "no MQTT")).await.unwrap();
    let close = Heard::Close(Some((1008, "not allowed".to_owned())));
    assert_eq!(client.next().await, close);
    assert_eq!(server.next().await, close);
}

#[tokio::test]
async fn a_sample_reaches_its_upstream_when_the_tunnel_ends() {
    let script = Script::new().await;
    let (audit, mut requests) = Upstream::collecting().await;
    let more = format!(
        r#"
        allow  = {{ http = ["audit"] }}
        config = {{ one_in = 1, payload = "excerpt", upstream = "audit", flush = "1h" }}
        [upstream.audit]
        servers = ["{}"]
        "#,
        audit.addr
    );
    let proxy = Proxy::with_plugin("sluicegate-audit-sample", &more, script.addr).await;
    let (mut client, mut server) = Peer::pair(proxy.addr(0), "/chat", "", &script, None).await;
    client.say(Frame::new(TEXT, "hello")).await.unwrap();
    assert_eq!(server.next().await.text(), "hello");
    server.say(Frame::new(BINARY, [1, 255])).await.unwrap();
    assert_eq!(data(client.next().await), [1, 255]);
    let close = Frame::close(1000, "bye");
    assert_eq!(close.opcode, CLOSE);
    client.say(close.clone()).await.unwrap();
    assert!(matches!(server.next().await, Heard::Close(Some((1000, _)))));
    server.say(close).await.unwrap();
    assert!(matches!(client.next().await, Heard::Close(Some((1000, _)))));
    let request = soon("the records", requests.recv()).await.unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let of_message = |index: usize| {
        let message = &body["messages"][index];
        ["from", "kind", "size", "excerpt"].map(|key| message[key].clone())
    };
    assert_eq!(
        of_message(0),
        [json!("client"), json!("text"), json!(5), json!("hello")]
    );
    assert_eq!(
        of_message(1),
        [json!("server"), json!("binary"), json!(2), json!("01ff")]
    );
    assert_eq!((&body["path"], &body["lost"]), (&json!("/chat"), &json!(0)));
    let ended = json!({"code": 1000, "by": "client", "cause": "close"});
    assert_eq!(body["ended"], ended);
    let line = proxy.access_event("ws.close", |_| true).await;
    assert_eq!(body["request_id"], line["request_id"]);
}

#[track_caller]
fn data(heard: Heard) -> Vec<u8> {
    match heard {
        Heard::Message(message) if !message.text => message.data,
        other => panic!("{other:?}"),
    }
}

fn counted(name: &str, label: &str, value: &str) -> String {
    format!(r#"sluicegate_plugin_filter_{name}_total{{plugin="filter",{label}="{value}"}}"#)
}
