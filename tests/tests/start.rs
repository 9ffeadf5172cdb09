//! A start: what the banner says, and what deserves a word but does not stop it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::{Proxy, binary};
use sluicegate_tests::{client, plugins, soon};
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test]
async fn the_banner_tells_what_serves_and_whether_plugins_were_compiled() {
    let authority = Authority::new("ca");
    let kept = TempDir::new().unwrap();
    let wasm = plugins::wasm("sluicegate-api-key");
    for how in ["compiled", "from the cache"] {
        let dir = TempDir::new().unwrap();
        let end = SystemTime::now() + 90 * DAY + HOUR;
        let identity = authority.issue_until(&["a.test", "b.test"], end);
        identity.write(dir.path(), "a");
        let config = format!(
            r#"
            [runtime]
            workers = 2
            [[listener]]
            bind = "127.0.0.1:0"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [[listener]]
            bind = "127.0.0.2:0"
            [[listener]]
            bind = "127.0.0.3:0"
            http2 = true
            [[listener]]
            bind = "127.0.0.4:0"
            http2 = {{ enabled = true, websocket = false }}
            [admin]
            bind = "127.0.0.1:0"
            [upstream.backend]
            servers = ["127.0.0.1:1", "h2c://127.0.0.1:2"]
            [plugin.auth]
            wasm = "{}"
            config = {{ keys = {{ ci = "k" }} }}
            [[route]]
            host = "a.test"
            path = "/ws/"
            to = "backend"
            plugins = ["auth"]
            [[route]]
            respond = {{ status = 204 }}
            "#,
            wasm.display()
        );
        let proxy = Proxy::start_with(dir, &config, |command| {
            command.env("XDG_CACHE_HOME", kept.path());
        })
        .await;
        let version = env!("CARGO_PKG_VERSION");
        let banner = [
            format!("sluicegate {version}"),
            format!(
                "listening {} tls h2, http/1.1, a.test (90 days left)",
                proxy.addr(0)
            ),
            format!("listening {} http/1.1", proxy.addr(1)),
            format!("listening {} h2c, http/1.1", proxy.addr(2)),
            format!(
                "listening {} h2c without WebSockets, http/1.1",
                proxy.addr(3)
            ),
            format!("plugin auth sluicegate-api-key {version}, {how} in N ms"),
            "route a.test/ws/ → auth → backend".to_owned(),
            "route / → respond 204".to_owned(),
            "upstream backend 127.0.0.1:1, 127.0.0.1:2 (h2c)".to_owned(),
            format!("admin {} /metrics /healthz /readyz", proxy.admin()),
            "workers 2".to_owned(),
            "ready in N ms".to_owned(),
        ];
        // Plain lines in this order and nothing else: no colour, no progress, no log.
        assert_eq!(without_times(&proxy.stderr_text()), banner.join("\n"));
    }
}

#[tokio::test]
async fn on_a_terminal_the_banner_has_colour() {
    let dir = TempDir::new().unwrap();
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let path = dir.path().join("sluicegate.toml");
    std::fs::write(&path, config).unwrap();
    let (screen, terminal) = terminal();
    let mut proxy = Command::new(binary())
        .args(["run", "--config"])
        .arg(&path)
        .env("XDG_CACHE_HOME", dir.path())
        .stdin(Stdio::null())
        .stderr(terminal)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(screen).lines().map_while(Result::ok);
        let mut shown = Vec::new();
        for line in lines {
            shown.push(line.trim_end().to_owned());
            if line.contains("ready in") {
                break;
            }
        }
        shown
    });
    let shown = soon("the banner", reading).await.unwrap();
    proxy.kill().await.unwrap();
    let shown: Vec<String> = shown
        .into_iter()
        .filter(|line| !is_about_root(line))
        .collect();
    let title = format!("\x1b[1msluicegate {}\x1b[0m", env!("CARGO_PKG_VERSION"));
    assert_eq!(shown[0], title);
    let last = shown.last().unwrap();
    assert!(last.starts_with("\x1b[32mready in "), "{last}");
    assert!(last.ends_with(" ms\x1b[0m"), "{last}");
}

#[tokio::test]
async fn an_expired_certificate_is_a_warning_and_serves_who_accepts_it() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    let end = SystemTime::now() - DAY - HOUR;
    authority
        .issue_until(&["a.test"], end)
        .write(dir.path(), "old");
    let config = "[[listener]]\nbind = \"127.0.0.1:0\"\n\
                  tls = { cert = \"old.crt\", key = \"old.key\" }\n[[route]]\nrespond = {}\n";
    let proxy = Proxy::start_in(dir, config).await;
    let report = proxy.stderr_text();
    let warning = format!(
        "warning: the certificate `{}` expired 2 day(s) ago",
        proxy.dir().join("old.crt").display()
    );
    for told in [&*warning, "sluicegate.toml:3:16", "a.test (expired)"] {
        assert!(report.contains(told), "{told}: {report}");
    }

    let client = authority.client(&["http/1.1"]);
    let error = client::tls(proxy.addr(0), "a.test", Arc::clone(&client)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    let mut late = (*client).clone();
    late.time_provider = Arc::new(Clock(end - HOUR));
    let mut stream = client::tls(proxy.addr(0), "a.test", Arc::new(late))
        .await
        .unwrap();
    let (head, _) = client::ask(&mut stream, "a.test", "/", "").await.unwrap();
    assert_eq!(head.status, 200);
}

/// Both ends of a new terminal: what is shown on it, and where programs write.
fn terminal() -> (File, OwnedFd) {
    let (mut screen, mut terminal) = (-1, -1);
    let (name, settings, size) = (ptr::null_mut(), ptr::null(), ptr::null());
    // SAFETY: both descriptors are written before it says 0; the rest may be null.
    let result = unsafe { libc::openpty(&mut screen, &mut terminal, name, settings, size) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: they are open and nobody else's.
    unsafe { (File::from_raw_fd(screen), OwnedFd::from_raw_fd(terminal)) }
}

/// A clock that stands still.
#[derive(Debug)]
struct Clock(SystemTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// What only those hear who run the tests as root.
fn is_about_root(line: &str) -> bool {
    line.contains("serving as root")
}

/// The text with `N` for each figure before ` ms`.
fn without_times(text: &str) -> String {
    let lines = text.lines().filter(|line| !is_about_root(line));
    let lines = lines.map(|line| match line.strip_suffix(" ms") {
        Some(rest) => {
            let rest = rest.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            format!("{rest}N ms")
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
