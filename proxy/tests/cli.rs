//! The command line on the real binary: exit codes, messages, signals, the demo.
//!
//! Nothing sleeps: a start is awaited by the banner's last line, a reload by its log line, a stop by
//! the exit code. Every process is ended when its test is.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

fn sluicegate(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command
        .args(args)
        .current_dir(folder.path())
        .env("XDG_CACHE_HOME", folder.path().join("cache"))
        .stdin(Stdio::null());
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs a command to its end.
fn output(folder: &TempDir, args: &[&str]) -> Output {
    sluicegate(folder, args).output().expect("it runs")
}

/// Runs a command to its end and checks its exit code and a part of its stderr.
#[track_caller]
fn check(folder: &TempDir, args: &[&str], code: i32, message: &str) -> Output {
    let output = output(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: {stderr}");
    output
}

/// A process that serves; killed when dropped.
struct Running {
    child: Child,
    stderr: Receiver<String>,
    /// What [`Running::until`] has passed over.
    seen: Vec<String>,
}

impl Running {
    fn start(folder: &TempDir, args: &[&str]) -> Running {
        let mut child = sluicegate(folder, args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let pipe = child.stderr.take().expect("piped");
        let (lines, stderr) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Running {
            child,
            stderr,
            seen: Vec::new(),
        }
    }

    /// Starts a server and waits until it serves.
    fn serve(folder: &TempDir, args: &[&str]) -> Running {
        let mut running = Running::start(folder, args);
        running.until("ready in");
        running
    }

    /// Waits for a line that contains `part`.
    fn until(&mut self, part: &str) -> String {
        loop {
            match self.stderr.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(_) => panic!("no `{part}` in {:#?}", self.seen),
            }
        }
    }

    /// The address in the banner's line about `what`.
    fn address(&self, what: &str) -> SocketAddr {
        let lines = &self.seen;
        let line = lines.iter().find_map(|line| line.strip_prefix(what));
        let address = line.and_then(|rest| rest.split_whitespace().next());
        address.expect(what).parse().expect("an address")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    /// Ends it as an operator would.
    fn terminate(self) {
        self.signal(Signal::TERM);
        self.ended();
    }

    /// Waits for an orderly end.
    fn ended(mut self) {
        let status = self.child.wait().expect("its status");
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole answer to a GET on a connection of its own.
fn get(address: SocketAddr, path: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("it listens");
    connection
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    answer
}

fn write(folder: &TempDir, name: &str, text: &str) {
    std::fs::write(folder.path().join(name), text).expect("written");
}

/// A server that answers everything with `body`.
fn responding(bind: &str, body: &str) -> String {
    format!(
        "[[listener]]\nbind = \"{bind}\"\n\n[admin]\nbind = \"127.0.0.1:0\"\n\n\
         [runtime]\nworkers = 1\n\n\
         [[route]]\npath = \"/\"\nrespond = {{ status = 200, body = \"{body}\" }}\n"
    )
}

#[test]
fn usage_is_2_and_help_is_0() {
    let folder = folder();
    check(&folder, &[], 2, "Usage");
    check(&folder, &["run", "--from", ":0"], 2, "--to");
    check(&folder, &["reload", "--admin", "nowhere"], 2, "`nowhere`");
    check(&folder, &["--help"], 0, "");
    check(&folder, &["--version"], 0, "");
}

#[test]
fn a_missing_file_says_what_else_can_be_done() {
    let folder = folder();
    check(&folder, &["run"], 3, "there is no `sluicegate.toml`");
    check(&folder, &["run"], 3, "sluicegate run --from :8080");
    check(&folder, &["check"], 3, "there is no `sluicegate.toml`");
    check(
        &folder,
        &["run", "--config", "a.toml"],
        3,
        "cannot read `a.toml`",
    );
    check(
        &folder,
        &["check", "--config", "a.toml"],
        3,
        "cannot read `a.toml`",
    );
}

#[test]
fn arguments_are_checked_like_a_file() {
    let folder = folder();
    let bad = ["run", "--from", "localhost:80", "--to", "127.0.0.1:3000"];
    check(&folder, &bad, 3, "did you mean `127.0.0.1:80`?");
}

#[test]
fn check_reports_for_people_and_for_programs() {
    let folder = folder();
    write(&folder, "sluicegate.toml", &responding("127.0.0.1:0", "x"));
    let good = check(&folder, &["check"], 0, "");
    let said = String::from_utf8_lossy(&good.stdout);
    assert!(said.contains("can serve: 1 listener, 1 route"), "{said}");
    let good = check(&folder, &["check", "--json"], 0, "");
    let report: Value = serde_json::from_slice(&good.stdout).expect("JSON");
    assert_eq!(report, Value::Array(Vec::new()));

    write(&folder, "bad.toml", "[[listener]]\nbnd = \":0\"\n");
    check(
        &folder,
        &["check", "--config", "bad.toml"],
        3,
        "bad.toml:2:1",
    );
    let bad = check(&folder, &["check", "--json", "--config", "bad.toml"], 3, "");
    let report: Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    let unknown = report.as_array().into_iter().flatten();
    let unknown = unknown.clone().find(|entry| entry["line"] == 2);
    let unknown = unknown.expect("the misspelt key");
    assert_eq!(
        (&unknown["file"], &unknown["column"]),
        (&"bad.toml".into(), &1.into())
    );
    assert!(
        unknown["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("`bind`"))
    );

    let gone = check(
        &folder,
        &["check", "--json", "--config", "gone.toml"],
        3,
        "",
    );
    let report: Value = serde_json::from_slice(&gone.stdout).expect("JSON");
    assert_eq!(
        (&report[0]["severity"], &report[0]["line"]),
        (&"error".into(), &Value::Null)
    );
}

#[test]
fn check_finds_what_only_reading_files_shows() {
    let folder = folder();
    let tls = "tls = { cert = \"none.crt\", key = \"none.key\" }\n\n[admin]";
    let text = responding("127.0.0.1:0", "x").replacen("[admin]", tls, 1);
    write(&folder, "sluicegate.toml", &text);
    check(&folder, &["check"], 3, "none.crt");
}

#[test]
fn the_schema_is_json() {
    let output = check(&folder(), &["schema"], 0, "");
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema["properties"]["listener"].is_object(), "{schema}");
}

#[test]
fn a_taken_port_is_4() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let message = format!("cannot listen on `{address}`");
    check(
        &folder,
        &["run", "--from", &address, "--to", "127.0.0.1:1"],
        4,
        &message,
    );
    check(&folder, &["echo", "--bind", &address], 4, &message);
    let demo = check(&folder, &["demo", "--bind", &address], 4, &message);
    assert!(String::from_utf8_lossy(&demo.stderr).contains("--bind"));

    let admin = responding("127.0.0.1:0", "x").replace(
        "[admin]\nbind = \"127.0.0.1:0\"",
        &format!("[admin]\nbind = \"{address}\""),
    );
    write(&folder, "sluicegate.toml", &admin);
    check(&folder, &["run"], 4, "`[admin] bind`");
}

#[test]
fn from_and_to_need_no_file() {
    let folder = folder();
    let mut echo = Running::start(&folder, &["echo", "--bind", "127.0.0.1:0"]);
    let listening = echo.until("listening on");
    let backend = listening.rsplit(' ').next().expect("an address");
    let args = ["run", "--from", "127.0.0.1:0", "--to", backend];
    let proxy = Running::serve(&folder, &args);

    let answer = get(proxy.address("listening"), "/a?b=c");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let seen: Value = serde_json::from_str(body).expect("what the backend saw");
    assert_eq!(seen["target"], "/a?b=c");
    assert_eq!(seen["headers"]["x-forwarded-for"], "127.0.0.1");
    proxy.terminate();
    echo.terminate();
}

#[test]
fn hup_reloads_and_a_broken_file_changes_nothing() {
    let folder = folder();
    write(
        &folder,
        "sluicegate.toml",
        &responding("127.0.0.1:0", "one"),
    );
    let mut proxy = Running::serve(&folder, &["run"]);
    let address = proxy.address("listening");
    assert!(get(address, "/").ends_with("one"));

    write(
        &folder,
        "sluicegate.toml",
        &responding("127.0.0.1:0", "two"),
    );
    proxy.signal(Signal::HUP);
    proxy.until("configuration reloaded");
    assert!(get(address, "/").ends_with("two"));

    write(&folder, "sluicegate.toml", "listener = 1");
    proxy.signal(Signal::HUP);
    proxy.until("reload rejected");
    assert!(get(address, "/").ends_with("two"));
    proxy.terminate();
}

#[test]
fn reload_says_what_came_of_it() {
    let folder = folder();
    write(
        &folder,
        "sluicegate.toml",
        &responding("127.0.0.1:0", "one"),
    );
    let proxy = Running::serve(&folder, &["run"]);
    let admin = proxy.address("admin").to_string();
    let reload = ["reload", "--admin", &admin];

    write(
        &folder,
        "sluicegate.toml",
        &responding("127.0.0.1:0", "two"),
    );
    let applied = check(&folder, &reload, 0, "");
    assert_eq!(
        String::from_utf8_lossy(&applied.stdout),
        "reloaded: generation 2 serves\n"
    );
    assert_eq!(String::from_utf8_lossy(&applied.stderr), "");
    assert!(get(proxy.address("listening"), "/").ends_with("two"));

    write(&folder, "sluicegate.toml", "listener = 1");
    let rejected = check(&folder, &reload, 3, "sluicegate.toml:1:");
    assert!(String::from_utf8_lossy(&rejected.stderr).contains("the old configuration goes on"));
    assert!(get(proxy.address("listening"), "/").ends_with("two"));

    // The address comes out of a broken file, too: the proxy is asked and learns of the mistake.
    let broken = format!("[admin]\nbind = \"{admin}\"\n\n[[listener]]\nbind = 80\n");
    write(&folder, "sluicegate.toml", &broken);
    check(&folder, &["reload"], 3, "the old configuration goes on");

    proxy.terminate();
    check(&folder, &reload, 1, "is the proxy running");
}

#[test]
fn reload_without_an_admin_listener_names_the_ways_out() {
    let folder = folder();
    let text = "[[listener]]\nbind = \":0\"\n\n[[route]]\nto = \"127.0.0.1:1\"\n";
    write(&folder, "sluicegate.toml", text);
    check(&folder, &["reload"], 1, "[admin]");
    check(&folder, &["reload"], 1, "kill -HUP");
}

#[test]
fn a_plugin_is_built_and_inspected() {
    let folder = folder();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/api-key");
    let source = source.to_str().expect("a path");
    let built = check(&folder, &["plugin", "build", source, "--out", "out"], 0, "");
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    let (file, rest) = said.split_once(": ").expect("the file and its facts");
    assert!(file.starts_with("out/") && rest.contains("KiB"), "{said}");
    assert!(rest.contains("sluicegate:plugin/http@"), "{said}");

    let inspected = check(&folder, &["plugin", "inspect", file], 0, "");
    let facts = String::from_utf8_lossy(&inspected.stdout);
    for fact in [
        "component",
        "api-key",
        "on-request",
        "hooks       request",
        " in a fresh instance",
        "keys ",
        "required",
        "Consumer name to key",
    ] {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    let schema = check(&folder, &["plugin", "inspect", file, "--json"], 0, "");
    let schema: Value = serde_json::from_slice(&schema.stdout).expect("JSON and nothing else");
    assert_eq!(schema["properties"]["keys"]["type"], "object");
    write(&folder, "text.wasm", "text");
    check(
        &folder,
        &["plugin", "inspect", "text.wasm"],
        1,
        "`text.wasm`: not a WebAssembly file",
    );
}

#[test]
fn what_is_no_plugin_is_not_built() {
    let folder = folder();
    check(&folder, &["plugin", "build"], 1, "has no Cargo.toml");
    write(
        &folder,
        "Cargo.toml",
        "[package]\nname = \"plain\"\nedition = \"2024\"\n\n[workspace]\n",
    );
    std::fs::create_dir(folder.path().join("src")).expect("a folder");
    write(&folder, "src/lib.rs", "");
    check(
        &folder,
        &["plugin", "build"],
        1,
        "crate-type = [\"cdylib\", \"rlib\"]",
    );
    write(&folder, "Cargo.toml", "[workspace]\nresolver = \"3\"\n");
    check(
        &folder,
        &["plugin", "build"],
        1,
        "is a workspace, not a crate",
    );

    write(
        &folder,
        "Cargo.toml",
        "[package]\nname = \"bare\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n[workspace]\n",
    );
    check(
        &folder,
        &["plugin", "build", "--debug"],
        1,
        "does the crate call `export!`?",
    );
    write(&folder, "src/lib.rs", "not rust");
    check(&folder, &["plugin", "build", "--debug"], 1, "cargo failed");
}

#[test]
fn a_missing_target_is_named_with_the_way_to_it() {
    let folder = folder();
    let manifest =
        "[package]\nname = \"bare\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n[workspace]\n";
    write(&folder, "Cargo.toml", manifest);
    std::fs::create_dir(folder.path().join("src")).expect("a folder");
    write(&folder, "src/lib.rs", "");
    write(&folder, "rustc", "#!/bin/sh\necho /nonexistent\n");
    let rustc = folder.path().join("rustc");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&rustc, executable).expect("set");
    let output = sluicegate(&folder, &["plugin", "build"])
        .env("CARGO", env!("CARGO"))
        .env("RUSTC", rustc)
        // No rustup to be found.
        .env("PATH", folder.path())
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let hint = "hint: install the target: `rustup target add wasm32-unknown-unknown`";
    assert!(stderr.contains(hint), "{stderr}");
}

#[test]
fn the_demo_takes_the_key_and_refuses_without_it() {
    let folder = folder();
    let mut demo = Running::serve(&folder, &["demo", "--bind", "127.0.0.1:0"]);
    demo.until("ctrl-c");
    let address = demo.address("listening");
    let config = demo.seen.iter().map(|line| line.trim());
    let config = PathBuf::from(
        config
            .clone()
            .find(|line| line.ends_with("sluicegate.toml"))
            .expect("a file"),
    );
    let site = format!("wss://localhost:{}/ws/", address.port());
    let wscat = format!("wscat --no-check -c {site} -H 'X-Api-Key: demo-key'");
    assert!(
        demo.seen.iter().any(|line| line.trim() == wscat),
        "{:#?}",
        demo.seen
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let trusted = config.with_file_name("localhost.crt");
        let connect = async |url: &str, headers: &[(&'static str, &'static str)]| {
            let mut request = url.into_client_request().expect("a request");
            for (name, value) in headers {
                let value = value.parse().expect("a value");
                request.headers_mut().insert(*name, value);
            }
            client_async(request, tls(address, &trusted).await).await
        };
        let query = format!("{site}?api_key=demo-key");
        for (url, headers) in [
            (site.as_str(), &[("x-api-key", "demo-key")][..]),
            (&query, &[]),
            (
                &site,
                &[("sec-websocket-protocol", "echo, api-key.demo-key")],
            ),
        ] {
            let (mut socket, _) = connect(url, headers).await.expect("accepted");
            socket.send(Message::text("hello")).await.expect("sent");
            let echoed = socket.next().await.expect("an answer").expect("a message");
            assert_eq!(echoed, Message::text("hello"));
        }
        for (headers, status) in [(&[][..], 401), (&[("x-api-key", "guess")], 403)] {
            match connect(&site, headers).await {
                Err(WebSocketError::Http(answer)) => assert_eq!(answer.status(), status),
                other => panic!("{other:?}"),
            }
        }

        // A stop says goodbye to who is still there.
        let (mut socket, _) = connect(&query, &[]).await.expect("accepted");
        demo.signal(Signal::TERM);
        let last = socket.next().await.expect("an answer").expect("a message");
        assert!(matches!(&last, Message::Close(Some(_))), "{last:?}");
    });
    demo.ended();
    assert!(!config.exists(), "the folder stays behind");
}

async fn tls(
    address: SocketAddr,
    trusted: &Path,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(trusted).expect("a certificate");
    roots.add(certificate).expect("it can be trusted");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let name = "localhost".try_into().expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, socket)
        .await
        .expect("a TLS handshake")
}

/// A plugin may have to be built from nothing on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
