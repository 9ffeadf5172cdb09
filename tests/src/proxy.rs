//! The real binary, run from a configuration in a directory of its own.
//!
//! Whatever it says, in any test, is searched for planted secrets when it ends: see [`crate::secrets`].

use std::io::{BufRead as _, BufReader, PipeReader, pipe};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::{plugins, secrets, soon};

/// A running sluicegate; killed when dropped.
pub struct Proxy {
    child: Child,
    dir: TempDir,
    stderr: Lines,
    stdout: Lines,
    /// Those who fill the lines; they end with the process.
    readers: Vec<JoinHandle<()>>,
}

/// What a stream of the child has said so far.
#[derive(Clone)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    /// How many there are; closed at the stream's end.
    count: watch::Receiver<usize>,
}

impl Proxy {
    /// Starts with this configuration and waits until it serves.
    ///
    /// `{dir}` in the text stands for the directory that [`Proxy::dir`] gives.
    pub async fn start(config: &str) -> Proxy {
        Proxy::start_in(TempDir::new().unwrap(), config).await
    }

    /// Starts with one worker, one plain listener and one route to this server, which is never
    /// taken out for its failures. `more` goes on with the route's table.
    pub async fn in_front_of(server: SocketAddr, more: &str) -> Proxy {
        Proxy::start(&format!(
            r#"
            [runtime]
            workers = 1
            [[listener]]
            bind = "127.0.0.1:0"
            [upstream.server]
            servers = ["{server}"]
            health = {{ fails = 60000 }}
            [[route]]
            to = "server"
            {more}
            "#
        ))
        .await
    }

    /// Starts with one worker, an admin listener, an access log in JSON, and one plain listener, with whose
    /// table `more` goes on.
    pub async fn observed(more: &str) -> Proxy {
        Proxy::start(&format!(
            r#"
            [runtime]
            workers = 1
            [admin]
            bind = "127.0.0.1:0"
            [log]
            access = "json"
            [[listener]]
            bind = "127.0.0.1:0"
            {more}
            "#
        ))
        .await
    }

    /// As [`Proxy::observed`], with the guest of conversations as the plugin `guest`, with whose table `more`
    /// goes on.
    pub async fn with_guest(more: &str) -> Proxy {
        let wasm = conversation_guest().await;
        Proxy::observed(&format!(
            "[plugin.guest]\nwasm = \"{}\"\n{more}",
            wasm.display()
        ))
        .await
    }

    /// Starts with one plugin, `filter`, of this package on the one route to a server; `more` goes on with
    /// the plugin's table.
    pub async fn with_plugin(package: &str, more: &str, server: SocketAddr) -> Proxy {
        Proxy::start(&format!(
            r#"
            trusted_proxies = ["127.0.0.1"]
            [[listener]]
            bind = "127.0.0.1:0"
            [admin]
            bind = "127.0.0.1:0"
            [log]
            access = "json"
            [plugin.filter]
            wasm = "{}"
            {more}
            [[route]]
            to = "{server}"
            plugins = ["filter"]
            "#,
            plugins::wasm(package).display(),
        ))
        .await
    }

    /// As [`Proxy::start`], in a directory that holds certificates or plugins already.
    pub async fn start_in(dir: TempDir, config: &str) -> Proxy {
        Proxy::start_with(dir, config, |_| {}).await
    }

    /// As [`Proxy::start_in`], with changes to the command (environment, limits).
    pub async fn start_with(
        dir: TempDir,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Proxy {
        let mut proxy = Proxy::spawn(dir, config, change);
        let ready = async {
            loop {
                if proxy
                    .stderr
                    .find(|line| line.starts_with("ready in"))
                    .is_some()
                {
                    return true;
                }
                if !proxy.stderr.more().await {
                    return false;
                }
            }
        };
        if !soon("the start of the proxy", ready).await {
            let status = proxy.child.wait().await.unwrap();
            panic!("the proxy ended with {status}:\n{}", proxy.stderr_text());
        }
        proxy
    }

    /// Starts without waiting, for configurations that must not serve.
    pub fn spawn(dir: TempDir, config: &str, change: impl FnOnce(&mut Command)) -> Proxy {
        let path = dir.path().join("sluicegate.toml");
        write_config(dir.path(), &path, config);
        let (heard_stderr, stderr) = pipe().unwrap();
        let (heard_stdout, stdout) = pipe().unwrap();
        let mut command = Command::new(binary());
        command
            .args(["run", "--config"])
            .arg(&path)
            .current_dir(dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true);
        // A test may send either elsewhere.
        change(&mut command);
        let child = command.spawn().unwrap();
        let (stderr, stderr_reader) = Lines::of(heard_stderr);
        let (stdout, stdout_reader) = Lines::of(heard_stdout);
        Proxy {
            child,
            dir,
            stderr,
            stdout,
            readers: vec![stderr_reader, stdout_reader],
        }
    }

    /// Address of the listener at this place in the configuration.
    pub fn addr(&self, index: usize) -> SocketAddr {
        let lines = self.stderr.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| line.strip_prefix("listening "))
            .nth(index)
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no TCP listener {index} in the banner: {lines:?}"))
    }

    /// Address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.stderr
            .find(|line| line.starts_with("admin "))
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("no admin address in the banner"))
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("sluicegate.toml")
    }

    /// Replaces the configuration file; nothing reads it before a reload.
    pub fn rewrite_config(&self, config: &str) {
        write_config(self.dir.path(), &self.config_path(), config);
    }

    /// Sends HUP and waits until the reload has been applied or rejected; true if applied.
    pub async fn reload(&self) -> bool {
        let before = self.reloads();
        self.signal(libc::SIGHUP);
        let mut stderr = self.stderr.clone();
        let done = async {
            loop {
                stderr.count.borrow_and_update();
                if self.reloads() > before {
                    return;
                }
                assert!(stderr.more().await, "the proxy has ended");
            }
        };
        soon("the reload", done).await;
        self.stderr
            .find_last(|line| line.contains("reloaded") || line.contains("reload rejected"))
            .is_some_and(|line| line.contains("configuration reloaded"))
    }

    fn reloads(&self) -> usize {
        let lines = self.stderr.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| {
                line.contains("configuration reloaded generation=")
                    || line.contains("reload rejected")
            })
            .count()
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).unwrap();
        // SAFETY: kill(2) takes any pid and signal; the child is ours and not yet reaped.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub async fn wait(&mut self) -> ExitStatus {
        soon("the end of the proxy", self.child.wait())
            .await
            .unwrap()
    }

    pub fn stderr_text(&self) -> String {
        self.stderr.lines.lock().unwrap().join("\n")
    }

    /// Everything on stderr, once the proxy has closed it.
    pub async fn stderr_to_end(&self) -> String {
        let mut lines = self.stderr.clone();
        let ended = async { while lines.more().await {} };
        soon("the end of stderr", ended).await;
        self.stderr_text()
    }

    /// Waits for a line of the log (stderr).
    pub async fn log_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stderr.wait_for(what, wanted).await
    }

    /// Waits for a line of the access log (stdout).
    pub async fn access_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stdout.wait_for(what, wanted).await
    }

    /// The access log so far.
    pub fn access_lines(&self) -> Vec<String> {
        self.stdout.lines.lock().unwrap().clone()
    }

    /// The whole access log of a process that ends.
    pub async fn access_log(&self) -> Vec<String> {
        let mut stdout = self.stdout.clone();
        soon("the end of the access log", async {
            while stdout.more().await {}
        })
        .await;
        self.access_lines()
    }
}

impl Lines {
    /// On a thread of its own, which hears the stream out also where the test's runtime has ended.
    fn of(stream: PipeReader) -> (Lines, JoinHandle<()>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (tell, count) = watch::channel(0);
        let reader = BufReader::new(stream);
        let written = Arc::clone(&lines);
        let thread = thread::spawn(move || {
            for line in reader.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                written.lock().unwrap().push(line);
                tell.send_modify(|count| *count += 1);
            }
        });
        (Lines { lines, count }, thread)
    }

    fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().find(|line| wanted(line)).cloned()
    }

    fn find_last(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().rev().find(|line| wanted(line)).cloned()
    }

    /// Waits for another line; false at the end of the stream.
    async fn more(&mut self) -> bool {
        self.count.changed().await.is_ok()
    }

    async fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut lines = self.clone();
        let found = async {
            loop {
                if let Some(line) = lines.find(&wanted) {
                    return line;
                }
                assert!(lines.more().await, "{what}: the stream has ended");
            }
        };
        soon(what, found).await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.start_kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            return;
        }
        for lines in [&self.stderr, &self.stdout] {
            for line in &*lines.lines.lock().unwrap() {
                secrets::assert_none_in(line);
            }
        }
    }
}

/// The .wasm of `tests/guests/conversations`, built while the test's other tasks go on.
pub async fn conversation_guest() -> PathBuf {
    let wasm = tokio::task::spawn_blocking(|| plugins::wasm("sluicegate-conversation-guest"));
    wasm.await.unwrap()
}

/// The binary that is built with these tests.
pub fn binary() -> PathBuf {
    // A test is target/PROFILE/deps/TEST, and this stands beside the folder, with the other programs.
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().unwrap();
    let profile = match folder.ends_with("deps") {
        true => folder.parent().unwrap(),
        false => folder,
    };
    profile.join("sluicegate-under-test")
}

/// The root of the source tree.
pub fn source_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn write_config(dir: &Path, path: &Path, config: &str) {
    let text = config.replace("{dir}", dir.to_str().unwrap());
    std::fs::write(path, text).unwrap();
}
