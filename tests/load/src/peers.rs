//! The proxies that are compared: where their programs are, how they are configured and started.
//!
//! Each has a configuration as a careful operator would write it, kept in `peers/` beside the code;
//! what is in `@CAPITALS@` there is filled in at start. All have one worker, no access log,
//! keep-alive to the backend, TLS with the same certificate, and the same forwarding fields.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::generator::tls::Identity;
use crate::keeper::Kept;

/// A proxy in one configuration.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As tables and `--peers` name it.
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    template: &'static str,
    /// Added to what the template needs, by placeholder.
    extra: &'static [(&'static str, &'static str)],
}

/// Whose program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    Sluicegate,
    Nginx,
    Haproxy,
    Envoy,
    Caddy,
}

/// A peer whose program is on this machine.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) peer: &'static Peer,
    path: PathBuf,
    /// What the program says of its version.
    pub(crate) version: String,
}

/// What every proxy is started with.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) backend: u16,
    pub(crate) descriptors: u64,
    pub(crate) cpu: Option<usize>,
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running {
    kept: Kept,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Program {
    /// As it is called on PATH and as an option.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Sluicegate => "sluicegate",
            Program::Nginx => "nginx",
            Program::Haproxy => "haproxy",
            Program::Envoy => "envoy",
            Program::Caddy => "caddy",
        }
    }

    fn ask_version(self) -> &'static str {
        match self {
            Program::Nginx | Program::Haproxy => "-v",
            Program::Caddy => "version",
            Program::Sluicegate | Program::Envoy => "--version",
        }
    }

    fn arguments(self, config: &Path, folder: &Path) -> Vec<OsString> {
        let config: OsString = config.into();
        match self {
            Program::Sluicegate => vec!["run".into(), "--config".into(), config],
            Program::Nginx => vec![
                "-p".into(),
                folder.into(),
                "-e".into(),
                "stderr".into(),
                "-c".into(),
                config,
            ],
            Program::Haproxy => vec!["-db".into(), "-f".into(), config],
            Program::Envoy => vec![
                "--concurrency".into(),
                "1".into(),
                "--disable-hot-restart".into(),
                "--log-level".into(),
                "error".into(),
                "-c".into(),
                config,
            ],
            Program::Caddy => vec![
                "run".into(),
                "--adapter".into(),
                "caddyfile".into(),
                "--config".into(),
                config,
            ],
        }
    }

    /// Envoy goes by the ending of the file's name.
    fn config_name(self) -> &'static str {
        match self {
            Program::Envoy => "envoy.yaml",
            _ => "config",
        }
    }
}

impl Found {
    /// Finds the peer's program: where `told` says, else on PATH.
    ///
    /// # Errors
    /// When it is not there or does not tell its version.
    pub(crate) fn find(peer: &'static Peer, told: Option<&Path>) -> Result<Found> {
        let name = peer.program.name();
        let path = match told {
            Some(path) => path.to_owned(),
            None => on_path(name).ok_or_else(|| Failure::new(format!("no `{name}` on PATH")))?,
        };
        let output = Command::new(&path)
            .arg(peer.program.ask_version())
            .output()
            .map_err(Failure::of(&format!("cannot run `{}`", path.display())))?;
        let said = [output.stdout, output.stderr].concat();
        // Envoy begins with its own path, which may hold a version of something else.
        let said = String::from_utf8_lossy(&said).replace(&path.display().to_string(), "");
        let version = version_in(&said).unwrap_or("of unknown version");
        Ok(Found {
            peer,
            path,
            version: version.to_owned(),
        })
    }

    /// Starts it and waits until it answers on both ports.
    ///
    /// # Errors
    /// When it does not within [`START`], with what it wrote to standard error.
    pub(crate) fn start(&self, site: &Site) -> Result<Running> {
        let folder = site.folder.join(self.peer.name);
        fs::create_dir_all(&folder)?;
        let (plain, tls) = (free_port()?, free_port()?);
        let config = folder.join(self.peer.program.config_name());
        fs::write(&config, self.config(site, &folder, plain, tls))?;
        let log = folder.join("stderr");
        let running = Running {
            kept: Kept::program(
                &self.path,
                &self.peer.program.arguments(&config, &folder),
                site.cpu,
                &log,
            )?,
            plain: SocketAddr::from((Ipv4Addr::LOCALHOST, plain)),
            tls: SocketAddr::from((Ipv4Addr::LOCALHOST, tls)),
        };
        running.wait_until_ready().map_err(|failure| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            Failure::new(format!("{failure}; it said: {}", last.join(" | ")))
        })?;
        Ok(running)
    }

    fn config(&self, site: &Site, folder: &Path, plain: u16, tls: u16) -> String {
        let shown = |path: &Path| path.display().to_string();
        // Until 1.25 nginx had HTTP/2 switched on in the `listen` line, since then beside it.
        let (on_listener, beside) = if is_before_1_25(&self.version) {
            ("http2", "")
        } else {
            ("", "http2 on;")
        };
        let mut text = self.peer.template.to_owned();
        // The peer's own first: they may hold placeholders themselves.
        for (placeholder, value) in self.peer.extra {
            text = text.replace(placeholder, value);
        }
        for (placeholder, value) in [
            ("@PLAIN@", plain.to_string()),
            ("@TLS@", tls.to_string()),
            ("@BACKEND@", site.backend.to_string()),
            ("@CERT@", shown(&site.identity.certificate)),
            ("@KEY@", shown(&site.identity.key)),
            ("@JOINED@", shown(&site.identity.joined)),
            ("@FOLDER@", shown(folder)),
            ("@DESCRIPTORS@", site.descriptors.to_string()),
            // Two descriptors each, and some to spare.
            (
                "@CONNECTIONS@",
                (site.descriptors.saturating_sub(200) / 2).to_string(),
            ),
            ("@HTTP2_ON_LISTEN@", on_listener.to_owned()),
            ("@HTTP2_ON@", beside.to_owned()),
            ("@BUFFERS@", String::new()),
        ] {
            text = text.replace(placeholder, &value);
        }
        text
    }
}

impl Running {
    /// The root of its process tree.
    pub(crate) fn process(&self) -> u32 {
        self.kept.first_line
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let answered = answers(self.plain).and_then(|()| Ok(TcpStream::connect(self.tls)?));
            match answered {
                Ok(_) => return Ok(()),
                Err(failure) if Instant::now() > deadline => {
                    return Err(Failure::new(format!(
                        "not ready after {START:?}: {failure}"
                    )));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Whether a plain GET gets its 200.
fn answers(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(Failure::new("no 200"))
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn on_path(name: &str) -> Option<PathBuf> {
    // Debian keeps servers where ordinary users do not look.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The first thing that looks like a version: numbers and dots, at least one of each.
fn version_in(said: &str) -> Option<&str> {
    said.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

fn is_before_1_25(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0_u32));
    (parts.next(), parts.next()) < (Some(1), Some(25))
}

/// All of them; sluicegate is the first, and nginx as it comes is what the others are compared with.
pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: "sluicegate",
        program: Program::Sluicegate,
        template: include_str!("../peers/sluicegate.toml"),
        extra: &[],
    },
    Peer {
        name: REFERENCE,
        program: Program::Nginx,
        template: include_str!("../peers/nginx.conf"),
        extra: &[],
    },
    Peer {
        name: "nginx-32k",
        program: Program::Nginx,
        template: include_str!("../peers/nginx.conf"),
        extra: &[(
            "@BUFFERS@",
            "proxy_buffer_size 32k; proxy_buffers 8 32k; proxy_busy_buffers_size 64k;",
        )],
    },
    Peer {
        name: "haproxy",
        program: Program::Haproxy,
        template: include_str!("../peers/haproxy.cfg"),
        extra: &[],
    },
    Peer {
        name: "envoy",
        program: Program::Envoy,
        template: include_str!("../peers/envoy.yaml"),
        extra: &[],
    },
    Peer {
        name: "caddy",
        program: Program::Caddy,
        template: include_str!("../peers/Caddyfile"),
        extra: &[],
    },
];

/// The peer that ratios are taken to.
pub(crate) const REFERENCE: &str = "nginx";

/// Longest start of a proxy.
const START: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_switched_on_as_the_version_wants_it() {
        for (version, before) in [
            ("1.22.1", true),
            ("1.25.0", false),
            ("1.31.3", false),
            ("2.0.0", false),
        ] {
            assert_eq!(is_before_1_25(version), before, "{version}");
        }
    }

    #[test]
    fn a_version_is_found_in_what_programs_say() {
        for (said, version) in [
            (
                "nginx version: nginx/1.22.1\nbuilt with 3.0",
                Some("1.22.1"),
            ),
            (
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17",
                Some("2.6.12"),
            ),
            ("/x/envoy  version: 9e5580/1.40.0/Clean", Some("1.40.0")),
            ("v2.11.7 h1:yj0Y4=", Some("2.11.7")),
            ("none, really.", None),
        ] {
            assert_eq!(version_in(said), version);
        }
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site {
            folder: folder.path().to_owned(),
            identity: Identity::make(folder.path()).unwrap(),
            backend: 1,
            descriptors: 1000,
            cpu: None,
        };
        for peer in PEERS {
            let found = Found {
                peer,
                path: PathBuf::new(),
                version: String::new(),
            };
            let text = found.config(&site, folder.path(), 2, 3);
            let left = text.split('@').nth(1).filter(|word| {
                word.len() > 1 && word.bytes().all(|letter| letter.is_ascii_uppercase())
            });
            assert_eq!(left, None, "{}", peer.name);
        }
    }
}
