//! `sluicegate demo`: the main job with nothing prepared.
//!
//! It builds the api-key plugin from this source tree, makes a throw-away certificate and a complete
//! configuration in a temporary folder, starts the echo backend, and runs the ordinary server with
//! that file. Nothing in the server knows that it is a demo; people can read, change and reload
//! the file while it runs. The folder goes when the demo ends.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::echo::cannot_listen;
use super::plugin::{self, Built, Profile};
use super::{Failure, runtime, say};
use crate::echo::serve;
use crate::listener::LocalAddr;
use crate::reload::Origin;
use crate::server::{self, Started};
use crate::tls::self_signed::self_signed;

/// Show the main job: TLS, a WebSocket route behind the api-key plugin, an echo backend
///
/// Needs nothing but Rust's own tools: the plugin is built from the source tree, the certificate is
/// made for the occasion. What to try is printed when it is ready.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen here with TLS; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    bind: SocketAddr,
}

pub(super) fn demo(args: &Args) -> Result<(), Failure> {
    // A taken port is told before the plugin is compiled; the server checks again.
    StdListener::bind(args.bind).map_err(|error| cannot_listen(args.bind, &error, "demo"))?;
    let plugin = api_key_plugin()?;
    let backend = Backend::start()?;
    let folder = Folder::fill(args.bind, &plugin, backend.address)?;
    let config = folder.config();
    let served = server::run(Origin::File(config.clone()), None, |started| {
        say(&what_to_try(started, &config));
    });
    backend.stop();
    served.map_err(|error| match Failure::from(error) {
        Failure::Bind(text) => Failure::Bind(text).hint("another address: `--bind 127.0.0.1:0`"),
        other => other,
    })
}

fn api_key_plugin() -> Result<Built, Failure> {
    let source = Path::new(API_KEY_SOURCE);
    if !source.join("Cargo.toml").is_file() {
        let what = format!(
            "the demo builds its plugin from source, and `{}` is not there",
            source.display()
        );
        return Err(Failure::runtime(what)
            .hint("run it in a clone of the repository: `cargo run --release -- demo`"));
    }
    say("building the api-key plugin\n");
    plugin::compile(source, Profile::Small)
}

/// The echo backend, on a thread of its own.
struct Backend {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Backend {
    fn start() -> Result<Backend, Failure> {
        let failed = |error| Failure::runtime(format!("cannot start the echo backend: {error}"));
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let runtime = runtime()?;
        let listener = runtime
            .block_on(TcpListener::bind(loopback))
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let work = move || {
            runtime.block_on(serve(listener, Some(PAGE), async {
                // Dropping the other end is a stop as well.
                let _ = stopped.await;
            }));
        };
        let thread = thread::Builder::new()
            .name("echo".to_owned())
            .spawn(work)
            .map_err(failed)?;
        Ok(Backend {
            address,
            stop,
            thread,
        })
    }

    fn stop(self) {
        let _ = self.stop.send(());
        // It has nothing left to say, not even of a panic.
        let _ = self.thread.join();
    }
}

/// What the demo's configuration is made of; removed when it is dropped.
struct Folder(TempDir);

impl Folder {
    fn fill(bind: SocketAddr, plugin: &Built, backend: SocketAddr) -> Result<Folder, Failure> {
        let failed = |error| Failure::runtime(format!("cannot fill a temporary folder: {error}"));
        let folder = tempfile::Builder::new()
            .prefix("sluicegate-demo-")
            .tempdir()
            .map_err(failed)?;
        let own = bind.ip().to_string();
        let mut names = vec!["localhost", "127.0.0.1", "::1"];
        if !bind.ip().is_unspecified() && !names.contains(&own.as_str()) {
            names.push(&own);
        }
        let certificate = self_signed(&names)
            .map_err(|error| Failure::runtime(format!("cannot make a certificate: {error}")))?;
        let wasm = plugin::write(plugin, folder.path())?;
        let wasm = wasm.file_name().unwrap_or_default().to_string_lossy();
        for (name, text) in [
            (CERTIFICATE, &certificate.cert_pem),
            (KEY, &certificate.key_pem),
            (CONFIG, &config_text(bind, backend, &wasm)),
        ] {
            std::fs::write(folder.path().join(name), text).map_err(failed)?;
        }
        Ok(Folder(folder))
    }

    fn config(&self) -> PathBuf {
        self.0.path().join(CONFIG)
    }
}

fn config_text(bind: SocketAddr, backend: SocketAddr, wasm: &str) -> String {
    format!(
        r#"# The configuration of `sluicegate demo`. Change it while the demo runs, and reload.

[[listener]]
bind = "{bind}"
tls  = {{ cert = "{CERTIFICATE}", key = "{KEY}" }}

[upstream.echo]
servers = ["{backend}"]

[plugin.auth]
wasm   = "{wasm}"
config = {{ keys = {{ demo = "{API_KEY}" }}, query = "api_key", subprotocol = "api-key." }}

[[route]]                    # the page, open to everybody
path_exact = "/"
to = "echo"

[[route]]                    # WebSockets and plain requests, with a key alone
path = "/ws/"
to = "echo"
plugins = ["auth"]

[admin]
bind = "127.0.0.1:0"

[timeouts]
drain = "2s"

[log]
access = "text"
"#
    )
}

fn what_to_try(started: &Started, config: &Path) -> String {
    let address = started.listeners.iter().find_map(LocalAddr::tcp);
    let port = address.map_or(0, |address| address.port());
    let host = match address.map(|address| address.ip()) {
        Some(ip) if !ip.is_loopback() && !ip.is_unspecified() => match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        },
        _ => "localhost".to_owned(),
    };
    let site = format!("{host}:{port}");
    let key = format!("-H 'X-Api-Key: {API_KEY}'");
    let mut text = String::from("\nTry it:\n");
    let mut line = |what: &str, command: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n  {what}\n    {command}");
    };
    line(
        "a page that opens a WebSocket (accept the throw-away certificate)",
        &format!("https://{site}/"),
    );
    line(
        "accepted: what you type comes back",
        &format!("wscat --no-check -c wss://{site}/ws/ {key}"),
    );
    line(
        "refused: no key",
        &format!("wscat --no-check -c wss://{site}/ws/"),
    );
    line(
        "an ordinary request, and what the backend saw of it",
        &format!("curl -k https://{site}/ws/hello {key}"),
    );
    line(
        "a refusal, read in full",
        &format!("curl -ki https://{site}/ws/"),
    );
    if let Some(admin) = started.admin {
        // As it was called: it need not be in the path.
        let program = std::env::args().next();
        let program = program.as_deref().unwrap_or("sluicegate");
        line(
            "change the file below, then",
            &format!("{program} reload --admin {admin}"),
        );
        line("metrics", &format!("curl http://{admin}/metrics"));
    }
    let _ = writeln!(text, "\n  the configuration\n    {}", config.display());
    let _ = writeln!(text, "\nStop it with ctrl-c.\n");
    text
}

/// Where the plugin's source was when this program was built.
const API_KEY_SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/api-key");
const PAGE: &str = include_str!("../../assets/demo.html");
/// The page has it as well.
const API_KEY: &str = "demo-key";
const CONFIG: &str = "sluicegate.toml";
const CERTIFICATE: &str = "localhost.crt";
const KEY: &str = "localhost.key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_knows_the_key_and_loads_nothing_from_elsewhere() {
        assert!(PAGE.contains(API_KEY));
        assert!(!PAGE.contains("src=") && !PAGE.contains("://"));
    }

    #[test]
    fn the_lines_name_the_address_that_is_listened_on() {
        #[track_caller]
        fn check(bind: &str, site: &str) {
            let started = Started {
                listeners: vec![LocalAddr::Tcp(bind.parse().unwrap())],
                admin: Some(([127, 0, 0, 1], 9900).into()),
            };
            let text = what_to_try(&started, Path::new("/tmp/demo.toml"));
            assert!(text.contains(&format!("wss://{site}/ws/ -H")), "{text}");
            assert!(text.contains("--admin 127.0.0.1:9900"), "{text}");
        }
        check("127.0.0.1:8443", "localhost:8443");
        check("0.0.0.0:1", "localhost:1");
        check("192.0.2.1:443", "192.0.2.1:443");
        check("[2001:db8::1]:443", "[2001:db8::1]:443");
    }
}
