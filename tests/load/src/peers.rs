//! The proxies that are compared: how each is configured, started, and known to be ready.
//!
//! Each has a configuration as a careful operator would write it, kept in `peers/` beside the code;
//! what is in `@CAPITALS@` there is filled in at start. All have one worker, no access log,
//! keep-alive to the backend, TLS with the same certificate, and the same forwarding fields.

mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::generator::tls::Identity;
use crate::keeper::Kept;
use crate::plan::Section;
pub(crate) use program::Program;

/// A proxy in one configuration.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As tables and `--peers` name it.
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) role: Role,
    template: &'static str,
    /// What stands for the template's own placeholders.
    fill: &'static [(&'static str, &'static str)],
    /// Further files of its folder, by name.
    files: &'static [(&'static str, &'static str)],
    /// Module that the program loads, in the folder of modules.
    module: Option<&'static str>,
    /// Where its filter is.
    pub(crate) door: Door,
    /// Whether it passes a WebSocket over HTTP/2 on to HTTP/1.1 only with a Sec-WebSocket-Key of the client's,
    /// which no browser sends there.
    pub(crate) needs_key: bool,
}

/// Which rows a peer takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// All but those of filters.
    Proxy,
    /// Only those of header filters.
    Filter,
    /// Only those of message filters.
    MessageFilter,
    /// Only those of compression.
    Compressor,
    /// Only those of WebSockets over HTTP/2.
    Http2,
}

/// How a connection comes to the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// By a path of its own.
    Path,
    /// By the second port, for what knows no paths; it has no TLS there.
    OtherPort,
}

/// A peer whose program is on this machine.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) peer: &'static Peer,
    pub(crate) path: PathBuf,
    /// The number of the program's version.
    pub(crate) version: String,
}

/// What every proxy is started with.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) backend: u16,
    pub(crate) descriptors: u64,
    pub(crate) cpu: Option<usize>,
    /// The plugins of the filters, built.
    pub(crate) plugins: Plugins,
    /// Where nginx has its modules.
    pub(crate) modules: PathBuf,
}

/// Files of plugins; empty where no row needs them.
#[derive(Debug, Default)]
pub(crate) struct Plugins {
    pub(crate) headers: PathBuf,
    pub(crate) messages: PathBuf,
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running {
    kept: Kept,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Found {
    /// Finds the peer's program: where `told` says, else on PATH.
    ///
    /// # Errors
    /// When it or its module is not there.
    pub(crate) fn find(peer: &'static Peer, told: Option<&Path>, modules: &Path) -> Result<Found> {
        let path = peer.program.locate(told)?;
        if let Some(module) = peer.module.map(|module| modules.join(module))
            && !module.is_file()
        {
            return Err(Failure::new(format!("there is no `{}`", module.display())));
        }
        let version = peer.program.version(&path)?;
        Ok(Found {
            peer,
            path,
            version,
        })
    }

    /// Starts it and waits until it answers on both ports.
    ///
    /// # Errors
    /// When it does not within [`START`], with what it wrote to standard error.
    pub(crate) fn start(&self, site: &Site) -> Result<Running> {
        let (plain, tls) = (free_port()?, free_port()?);
        // The port makes the folder its own: one peer may run twice.
        let folder = site.folder.join(format!("{}-{plain}", self.peer.name));
        fs::create_dir_all(&folder)?;
        let config = folder.join(self.peer.program.config_name());
        fs::write(&config, self.config(site, &folder, plain, tls))?;
        for (name, text) in self.peer.files {
            fs::write(folder.join(name), text)?;
        }
        let log = folder.join("stderr");
        let running = Running {
            kept: Kept::program(self, &config, &folder, site.cpu, &log)?,
            plain: SocketAddr::from((Ipv4Addr::LOCALHOST, plain)),
            tls: SocketAddr::from((Ipv4Addr::LOCALHOST, tls)),
        };
        running.wait_until_ready().map_err(|failure| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = said.lines().take(LINES).collect();
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
        for (placeholder, value) in self.peer.fill {
            text = text.replace(placeholder, value);
        }
        // Two descriptors each, and some to spare.
        let connections = site.descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2;
        for (placeholder, value) in [
            ("@PLAIN@", plain.to_string()),
            ("@TLS@", tls.to_string()),
            ("@BACKEND@", site.backend.to_string()),
            ("@CERT@", shown(&site.identity.certificate)),
            ("@KEY@", shown(&site.identity.key)),
            ("@JOINED@", shown(&site.identity.joined)),
            ("@FOLDER@", shown(folder)),
            ("@DESCRIPTORS@", site.descriptors.to_string()),
            ("@CONNECTIONS@", connections.to_string()),
            ("@HEADERS_PLUGIN@", shown(&site.plugins.headers)),
            ("@MESSAGES_PLUGIN@", shown(&site.plugins.messages)),
            ("@MODULES@", shown(&site.modules)),
            ("@HTTP2_ON_LISTEN@", on_listener.to_owned()),
            ("@HTTP2_ON@", beside.to_owned()),
            ("@BUFFERS@", String::new()),
        ] {
            text = text.replace(placeholder, &value);
        }
        text
    }
}

impl Role {
    /// Who takes part in the rows of a section.
    pub(crate) fn of(section: Section) -> Role {
        match section {
            Section::Filters => Role::Filter,
            Section::MessageFilters => Role::MessageFilter,
            Section::Compression => Role::Compressor,
            Section::Http2 => Role::Http2,
            _ => Role::Proxy,
        }
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

fn is_before_1_25(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0_u32));
    (parts.next(), parts.next()) < (Some(1), Some(25))
}

impl Peer {
    /// Whether it is sluicegate, in whichever form.
    pub(crate) fn is_ours(&self) -> bool {
        self.program == Program::Sluicegate
    }

    const fn proxy(name: &'static str, program: Program, template: &'static str) -> Peer {
        Peer {
            name,
            program,
            role: Role::Proxy,
            template,
            fill: &[],
            files: &[],
            module: None,
            door: Door::Path,
            needs_key: false,
        }
    }

    const fn filter(name: &'static str, program: Program, template: &'static str) -> Peer {
        Peer {
            role: Role::Filter,
            ..Peer::proxy(name, program, template)
        }
    }

    const fn compressor(name: &'static str, program: Program, template: &'static str) -> Peer {
        Peer {
            role: Role::Compressor,
            ..Peer::proxy(name, program, template)
        }
    }

    const fn http2(name: &'static str, program: Program, template: &'static str) -> Peer {
        Peer {
            role: Role::Http2,
            ..Peer::proxy(name, program, template)
        }
    }

    /// Our own with a message filter that does this.
    const fn of_messages(
        name: &'static str,
        fill: &'static [(&'static str, &'static str)],
    ) -> Peer {
        Peer {
            role: Role::MessageFilter,
            fill,
            ..Peer::proxy(name, Program::Sluicegate, MESSAGE_FILTER)
        }
    }
}

/// All of them; sluicegate is the first, and nginx as it comes is what the others are compared with.
pub(crate) const PEERS: &[Peer] = &[
    Peer::proxy(
        OURS,
        Program::Sluicegate,
        include_str!("../peers/sluicegate.toml"),
    ),
    Peer::proxy(
        "baseline",
        Program::Baseline,
        include_str!("../peers/sluicegate.toml"),
    ),
    Peer::proxy(REFERENCE, Program::Nginx, NGINX),
    Peer {
        fill: &[(
            "@BUFFERS@",
            "proxy_buffer_size 32k; proxy_buffers 8 32k; proxy_busy_buffers_size 64k;",
        )],
        ..Peer::proxy("nginx-32k", Program::Nginx, NGINX)
    },
    Peer::proxy(
        "haproxy",
        Program::Haproxy,
        include_str!("../peers/haproxy.cfg"),
    ),
    Peer::proxy("envoy", Program::Envoy, include_str!("../peers/envoy.yaml")),
    Peer::proxy("caddy", Program::Caddy, include_str!("../peers/Caddyfile")),
    Peer {
        fill: &[("@USE@", "\"headers\"")],
        ..Peer::filter("sluicegate-wasm", Program::Sluicegate, FILTER)
    },
    Peer {
        fill: &[("@USE@", "{ use = \"headers\", reuse = 1000 }")],
        ..Peer::filter("sluicegate-wasm-reuse", Program::Sluicegate, FILTER)
    },
    Peer {
        fill: &[
            (
                "@LOAD_MODULES@",
                "load_module @MODULES@/ngx_http_js_module.so;",
            ),
            (
                "@SCRIPT_IMPORT@",
                "js_path @FOLDER@; js_import headers from headers.js; js_set $served headers.served;",
            ),
            // A location with one `proxy_set_header` inherits none.
            (
                "@SCRIPT@",
                "js_header_filter headers.response;
            proxy_set_header X-Served-For      $served;
            proxy_set_header Connection        \"\";
            proxy_set_header Host              $host;
            proxy_set_header X-Real-IP         $remote_addr;
            proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host  $host;",
            ),
        ],
        files: &[("headers.js", include_str!("../peers/headers.js"))],
        module: Some("ngx_http_js_module.so"),
        ..Peer::filter("nginx-njs", Program::ScriptedNginx, SCRIPTED_NGINX)
    },
    Peer {
        fill: &[
            (
                "@LOAD_MODULES@",
                "load_module @MODULES@/ndk_http_module.so; load_module @MODULES@/ngx_http_lua_module.so;",
            ),
            ("@SCRIPT_IMPORT@", ""),
            (
                "@SCRIPT@",
                "access_by_lua_block { ngx.req.set_header(\"X-Served-For\", \"bench\") }
            header_filter_by_lua_block { ngx.header[\"X-Frame-Options\"] = \"DENY\" }",
            ),
        ],
        module: Some("ngx_http_lua_module.so"),
        ..Peer::filter("nginx-lua", Program::ScriptedNginx, SCRIPTED_NGINX)
    },
    Peer {
        files: &[("headers.lua", include_str!("../peers/headers.lua"))],
        ..Peer::filter(
            "haproxy-lua",
            Program::Haproxy,
            include_str!("../peers/haproxy-lua.cfg"),
        )
    },
    Peer::filter(
        "envoy-lua",
        Program::Envoy,
        include_str!("../peers/envoy-lua.yaml"),
    ),
    Peer::of_messages("sluicegate-pass", &[("@ACT@", "pass")]),
    Peer::of_messages("sluicegate-scan", &[("@ACT@", "scan")]),
    Peer::of_messages("sluicegate-redact", &[("@ACT@", "redact")]),
    Peer {
        role: Role::MessageFilter,
        files: &[("bytes.js", include_str!("../peers/bytes.js"))],
        module: Some("ngx_stream_js_module.so"),
        door: Door::OtherPort,
        ..Peer::proxy(
            "nginx-stream-njs",
            Program::ScriptedNginx,
            include_str!("../peers/nginx-stream.conf"),
        )
    },
    Peer::compressor(
        "sluicegate-terminate",
        Program::Sluicegate,
        include_str!("../peers/sluicegate-terminate.toml"),
    ),
    Peer::http2("sluicegate-http2", Program::Sluicegate, SLUICEGATE_HTTP2),
    Peer::http2("baseline-http2", Program::Baseline, SLUICEGATE_HTTP2),
    Peer::http2(
        "haproxy-http2",
        Program::Haproxy,
        include_str!("../peers/haproxy-http2.cfg"),
    ),
    Peer {
        needs_key: true,
        ..Peer::http2(
            "envoy-http2",
            Program::Envoy,
            include_str!("../peers/envoy-http2.yaml"),
        )
    },
    Peer::compressor("node-ws", Program::Node, include_str!("../peers/server.js")),
    Peer::compressor(
        "python-websockets",
        Program::Python,
        include_str!("../peers/server.py"),
    ),
];

pub(crate) const OURS: &str = "sluicegate";
/// The peer that ratios are taken to.
pub(crate) const REFERENCE: &str = "nginx";

const FILTER: &str = include_str!("../peers/sluicegate-filter.toml");
const MESSAGE_FILTER: &str = include_str!("../peers/sluicegate-messages.toml");
const NGINX: &str = include_str!("../peers/nginx.conf");
const SLUICEGATE_HTTP2: &str = include_str!("../peers/sluicegate-http2.toml");
const SCRIPTED_NGINX: &str = include_str!("../peers/nginx-script.conf");
/// Longest start of a proxy.
const START: Duration = Duration::from_secs(20);
/// Of what a proxy that does not start has to say.
const LINES: usize = 8;
/// Descriptors of a proxy that are not for connections.
const SPARE_DESCRIPTORS: u64 = 200;

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
    fn every_placeholder_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site {
            folder: folder.path().to_owned(),
            identity: Identity::make(folder.path()).unwrap(),
            backend: 1,
            descriptors: 1000,
            cpu: None,
            plugins: Plugins::default(),
            modules: PathBuf::new(),
        };
        for peer in PEERS {
            let found = Found {
                peer,
                path: PathBuf::new(),
                version: String::new(),
            };
            let text = found.config(&site, folder.path(), 2, 3);
            let left: Vec<&str> = text
                .split('@')
                .filter(|word| {
                    word.len() > 1
                        && word
                            .bytes()
                            .all(|letter| letter.is_ascii_uppercase() || letter == b'_')
                })
                .collect();
            assert!(left.is_empty(), "{}: {left:?}", peer.name);
        }
    }
}
