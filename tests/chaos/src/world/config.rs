//! The configuration that the proxy runs on, and how it changes: good generations and broken ones.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluicegate_tests::certs::{Authority, Identity};

use crate::upstreams::Upstreams;

/// What stays the same.
pub(crate) struct Addresses {
    echo: SocketAddr,
    echo_http2: SocketAddr,
    pages: SocketAddr,
    faulty: SocketAddr,
    vanishing: SocketAddr,
    wasm: Wasm,
    drain: Duration,
}

/// The plugins.
pub(crate) struct Wasm {
    /// Misbehaves in a hook, as its config says.
    pub(crate) filter: PathBuf,
    /// Misbehaves over messages, as they say.
    pub(crate) messages: PathBuf,
    /// Lets every message pass.
    pub(crate) passing: PathBuf,
}

/// What differs from one generation to the next.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Choices {
    /// What answers to requests say of it.
    pub(crate) mark: u64,
    /// Which certificate is served.
    pub(crate) certificate: u64,
    /// How many routes and upstreams there are besides.
    pub(crate) more_routes: usize,
    pub(crate) flaw: Option<Flaw>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    NotToml,
    UnknownKey,
    NoSuchUpstream,
    NoSuchCertificate,
    /// The key of another certificate.
    OtherKey,
    NoComponent,
    /// The plugin itself says no.
    RejectedByPlugin,
}

impl Addresses {
    pub(crate) fn new(upstreams: &Upstreams, wasm: Wasm, drain: Duration) -> Addresses {
        Addresses {
            echo: upstreams.echo.addr,
            echo_http2: upstreams.echo_http2.addr,
            pages: upstreams.pages.addr,
            faulty: upstreams.faulty.addr,
            vanishing: upstreams.vanishing.addr,
            wasm,
            drain,
        }
    }

    /// The file's text.
    pub(crate) fn text(&self, choices: &Choices) -> String {
        let flawed = |flaw| choices.flaw == Some(flaw);
        let mut text = self.process(choices, &flawed);
        text += &self.upstreams();
        text += &self.plugins(choices, &flawed);
        text += ROUTES;
        let pages = match flawed(Flaw::NoSuchUpstream) {
            true => "page",
            false => "pages",
        };
        let mark = choices.mark;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"
            [[route]]
            name = "steady"
            path = "/steady"
            to = "{pages}"
            response_headers = {{ set = {{ x-mark = "{mark}" }} }}
            "#
        );
        for number in 0..choices.more_routes {
            let to = self.pages;
            let _ = write!(
                text,
                "[[route]]\npath = '/more/{mark}/{number}'\nto = '{to}'\n"
            );
        }
        match choices.flaw {
            Some(Flaw::NotToml) => text.push_str("[[route]\n"),
            Some(Flaw::UnknownKey) => text.push_str("[[route]]\nto = 'pages'\npaht = '/x'\n"),
            _ => {}
        }
        text
    }

    fn process(&self, choices: &Choices, flawed: &impl Fn(Flaw) -> bool) -> String {
        let drain = self.drain.as_secs();
        let cert = match flawed(Flaw::NoSuchCertificate) {
            true => "none".to_owned(),
            false => choices.certificate.to_string(),
        };
        let key = match flawed(Flaw::OtherKey) {
            true => "other".to_owned(),
            false => choices.certificate.to_string(),
        };
        format!(
            r#"
            [admin]
            bind = "127.0.0.1:0"
            [log]
            access = "json"
            level = "warn,sluicegate::reload=info"
            [runtime]
            workers = 2
            [limits]
            connections = 50000
            [timeouts]
            drain = "{drain}s"
            [[listener]]
            bind = "{PLAIN}"
            http2 = true
            [[listener]]
            bind = "{TLS}"
            tls = {{ cert = "{cert}.crt", key = "{key}.key" }}
            "#
        )
    }

    fn upstreams(&self) -> String {
        let Addresses {
            echo,
            echo_http2,
            pages,
            faulty,
            vanishing,
            ..
        } = self;
        // Faults are asked for too often for an endpoint to stay in for them.
        format!(
            r#"
            [upstream.echo]
            servers = ["{echo}"]
            keep_alive = "2s"
            [upstream.echo-http2]
            servers = ["h2c://{echo_http2}"]
            http2 = {{ connections = 64 }}
            keep_alive = "2s"
            [upstream.pages]
            servers = ["{pages}"]
            keep_alive = "2s"
            health = {{ fails = 60000 }}
            [upstream.faulty]
            servers = ["{faulty}"]
            keep_alive = "2s"
            health = {{ fails = 60000 }}
            [upstream.vanishing]
            servers = ["{vanishing}", "{pages}"]
            keep_alive = "2s"
            health = {{ out_for = "1s" }}
            [upstream.gone]
            servers = ["{vanishing}"]
            keep_alive = "2s"
            health = {{ out_for = "1s" }}
            "#
        )
    }

    fn plugins(&self, choices: &Choices, flawed: &impl Fn(Flaw) -> bool) -> String {
        let filter = match flawed(Flaw::NoComponent) {
            true => Path::new("broken.wasm"),
            false => &self.wasm.filter,
        };
        let configure = match flawed(Flaw::RejectedByPlugin) {
            true => "reject",
            false => "continue",
        };
        let mark = choices.mark;
        let filter = filter.display();
        let passing = self.wasm.passing.display();
        let messages = self.wasm.messages.display();
        format!(
            r#"
            [plugin.trapping]
            wasm = "{filter}"
            config = {{ request = "trap", configure = "{configure}" }}
            [plugin.looping]
            wasm = "{filter}"
            config = {{ request = "loop" }}
            limits = {{ call_timeout = "20ms", wall_timeout = "20s" }}
            [plugin.swelling]
            wasm = "{filter}"
            config = {{ request = "memory" }}
            [plugin.passing]
            wasm = "{passing}"
            config = {{ act = "pass", mark = "{mark}" }}
            [plugin.talking]
            wasm = "{messages}"
            limits = {{ call_timeout = "20ms", wall_timeout = "20s" }}
            "#
        )
    }
}

impl Flaw {
    pub(crate) const ALL: [Flaw; 7] = [
        Flaw::NotToml,
        Flaw::UnknownKey,
        Flaw::NoSuchUpstream,
        Flaw::NoSuchCertificate,
        Flaw::OtherKey,
        Flaw::NoComponent,
        Flaw::RejectedByPlugin,
    ];
}

/// Writes the certificate of this number for `localhost`.
pub(crate) fn issue(authority: &Authority, dir: &Path, number: u64) -> Identity {
    let identity = authority.issue(&["localhost"]);
    identity.write(dir, &number.to_string());
    identity
}

/// The listeners, the plain one and the one with TLS, each with whatever port is free.
pub(crate) const PLAIN: &str = "127.0.0.1:0";
pub(crate) const TLS: &str = "127.0.0.2:0";
/// What no generation changes.
const ROUTES: &str = r#"
    [[route]]
    name = "copy"
    path = "/copy"
    to = "echo"
    follow = false
    [[route]]
    name = "follow"
    path = "/follow"
    to = "echo"
    [[route]]
    name = "messages"
    path = "/messages"
    to = "echo"
    plugins = ["passing"]
    compression = "terminate"
    ping_interval = "20s"
    pong_timeout = "15s"
    [[route]]
    name = "http2"
    path = "/http2"
    to = "echo-http2"
    [[route]]
    name = "big"
    path = "/big"
    to = "pages"
    [[route]]
    name = "firehose"
    path = "/firehose"
    to = "echo"
    [[route]]
    name = "leave"
    path = "/leave"
    to = "echo"
    [[route]]
    name = "leave-pages"
    path = "/leave/page"
    to = "pages"
    [[route]]
    name = "faulty"
    path = "/faulty"
    to = "faulty"
    response_head = "5s"
    idle_timeout = "6s"
    [[route]]
    name = "vanishing"
    path = "/vanishing"
    to = "vanishing"
    [[route]]
    name = "gone"
    path = "/gone"
    to = "gone"
    [[route]]
    name = "trap"
    path = "/trap"
    to = "pages"
    plugins = ["trapping"]
    [[route]]
    name = "trap-passed"
    path = "/passed"
    to = "pages"
    plugins = [{ use = "trapping", on_error = "pass" }]
    [[route]]
    name = "loop"
    path = "/loop"
    to = "pages"
    plugins = ["looping"]
    [[route]]
    name = "swell"
    path = "/swell"
    to = "pages"
    plugins = ["swelling"]
    [[route]]
    name = "talk"
    path = "/talk"
    to = "echo"
    plugins = ["talking"]
"#;
