//! `sluicegate plugin record` between a real client and a real server, and its cases in `plugin test`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::proxy::binary;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

/// Killed where a test fails.
struct Recorder(Child, SocketAddr);

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_is_said_becomes_a_case_that_a_plugin_can_be_tested_with() {
    let server = Upstream::serving_both("server").await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("recorded.toml");
    let mut recorder = recorder(server.addr, &dir);

    let (head, _) = client::get(recorder.1, "/page").await;
    assert_eq!(head.status, 200, "plain requests pass");
    let stream = client::tcp(recorder.1).await;
    let offer = [("Sec-WebSocket-Extensions", "permessage-deflate")];
    let request = client::ws_request("ws://example.com/chat?a=1", &offer);
    let (mut socket, answer) = client::websocket(stream, request).await.unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-extensions"));
    for said in ["hello", "darn \"it\""] {
        socket.send(said.into()).await.unwrap();
        let heard = soon("the echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(heard.to_text().unwrap(), said);
    }
    socket
        .send(Message::Binary(vec![0, 255].into()))
        .await
        .unwrap();
    soon("the echo", socket.next()).await.unwrap().unwrap();

    // An open one is written down too when the recorder stops.
    let pid = libc::pid_t::try_from(recorder.0.id()).unwrap();
    // SAFETY: kill(2) takes any pid and signal; the child is ours and not yet reaped.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let status = tokio::task::spawn_blocking(move || recorder.0.wait().unwrap());
    assert!(soon("the recorder's end", status).await.unwrap().success());

    let recorded = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        recorded,
        r#"
[[case]]
name = "recorded 1"
request = { uri = "/chat?a=1" }
ending = { cause = "eof" }

[[case.messages]]
client = "hello"

[[case.messages]]
server = "hello"

[[case.messages]]
client = 'darn "it"'

[[case.messages]]
server = 'darn "it"'

[[case.messages]]
client = { binary = "00 ff" }

[[case.messages]]
server = { binary = "00 ff" }
"#
    );

    let cases = format!("config = {{ words = [\"darn\"] }}\n{recorded}");
    std::fs::write(&file, cases).unwrap();
    let bless = Command::new(binary())
        .args(["plugin", "test", "--bless", "--cases"])
        .args([&file, &plugins::wasm("word-guard")])
        .output()
        .unwrap();
    assert!(bless.status.success(), "{bless:?}");
    let blessed = std::fs::read_to_string(&file).unwrap();
    let masked = "client = 'darn \"it\"'\nto_server = '**** \"it\"'\n";
    assert!(blessed.contains(masked), "{blessed}");
}

/// A recorder in front of a server.
fn recorder(server: SocketAddr, dir: &TempDir) -> Recorder {
    let mut child = Command::new(binary())
        .args(["plugin", "record", &server.to_string()])
        .args(["--bind", "127.0.0.1:0", "--output", "recorded.toml"])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    lines.read_line(&mut said).unwrap();
    let address = said.trim().rsplit(' ').next().unwrap().parse();
    Recorder(child, address.unwrap_or_else(|_| panic!("{said}")))
}
