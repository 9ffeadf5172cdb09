//! What a person sees at the start: what listens, what was loaded, how long it took.
//!
//! With colour and aligned on a terminal; elsewhere plain lines, one fact each, that a script can
//! read. It goes to stderr; stdout belongs to the access log.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::num::NonZeroUsize;
use std::time::{Instant, SystemTime};

use crate::admin::AdminListener;
use crate::config::model::{Action, Bind, Config, HostPattern, PathPattern, Protocols};
use crate::listener::BoundListener;
use crate::snapshot::{ListenerPolicy, Snapshot};
use crate::upstream::Endpoint;

/// The finished text, printed once everything serves.
pub struct Banner {
    text: String,
    began: Instant,
    color: bool,
}

/// Whether stderr is a terminal.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Tells a waiting person what takes time; says nothing where nobody waits.
pub fn progress() -> Box<dyn Fn(&str) + Send + Sync> {
    if is_terminal() {
        Box::new(|what| print(&format!("\x1b[2m… {what}\x1b[0m\n")))
    } else {
        Box::new(|_| {})
    }
}

impl Banner {
    pub fn new(
        snapshot: &Snapshot,
        bound: &[(Bind, BoundListener)],
        admin: Option<&AdminListener>,
        workers: NonZeroUsize,
        began: Instant,
    ) -> Banner {
        let color = is_terminal();
        let mut lines = Lines {
            text: String::new(),
            color,
        };
        lines.title(&format!("sluicegate {}", env!("CARGO_PKG_VERSION")));
        for ((_, listener), (_, policy)) in bound.iter().zip(&snapshot.listeners) {
            lines.line(
                "listening",
                &listener.local_addr.to_string(),
                &protocols(policy),
            );
        }
        for loaded in &snapshot.plugins {
            let plugin = &loaded.plugin;
            let millis = plugin.load_time().as_secs_f64() * 1000.0;
            let how = if plugin.from_cache() {
                "from the cache"
            } else {
                "compiled"
            };
            let what = plugin.description();
            lines.line(
                "plugin",
                plugin.name(),
                &format!("{} {}, {how} in {millis:.1} ms", what.name, what.version),
            );
        }
        for route in &snapshot.config.routes {
            lines.line(
                "route",
                &condition(route),
                &outcome(route, &snapshot.config),
            );
        }
        for entry in &snapshot.upstreams {
            let endpoints = entry.upstream.endpoints().map(|endpoint| server(endpoint));
            let endpoints: Vec<String> = endpoints.collect();
            lines.line("upstream", entry.upstream.name(), &endpoints.join(", "));
        }
        match (
            admin.and_then(AdminListener::local_addr),
            &snapshot.config.admin,
        ) {
            (Some(addr), _) => lines.line("admin", &addr.to_string(), "/metrics /healthz /readyz"),
            (None, Some(admin)) => lines.line("admin", &admin.bind.value.to_string(), ""),
            (None, None) => {}
        }
        lines.line("workers", &workers.to_string(), "");
        Banner {
            text: lines.text,
            began,
            color,
        }
    }

    pub fn print(mut self) {
        let millis = self.began.elapsed().as_millis();
        let ready = format!("ready in {millis} ms");
        if self.color {
            let _ = writeln!(self.text, "\x1b[32m{ready}\x1b[0m");
        } else {
            let _ = writeln!(self.text, "{ready}");
        }
        print(&self.text);
    }
}

struct Lines {
    text: String,
    color: bool,
}

impl Lines {
    fn title(&mut self, title: &str) {
        // Writing to a string cannot fail.
        let _ = if self.color {
            writeln!(self.text, "\x1b[1m{title}\x1b[0m")
        } else {
            writeln!(self.text, "{title}")
        };
    }

    fn line(&mut self, what: &str, name: &str, detail: &str) {
        let line = if self.color {
            format!("  \x1b[2m{what:<10}\x1b[0m {name:<28} {detail}")
        } else {
            format!("{what} {name} {detail}")
        };
        let _ = writeln!(self.text, "{}", line.trim_end());
    }
}

fn protocols(policy: &ListenerPolicy) -> String {
    let Some(tls) = &policy.tls else {
        return match policy.redirect_to_https {
            Some(_) => "http, redirects to https".to_owned(),
            None => format!("{}http/1.1", http2(policy, "h2c")),
        };
    };
    let http2 = http2(policy, "h2");
    let now = SystemTime::now();
    let certs: Vec<String> = tls
        .certs()
        .iter()
        .map(|cert| {
            let name = cert.names.first().map_or("no name", String::as_str);
            match cert.days_left(now) {
                ..0 => format!("{name} (expired)"),
                days => format!("{name} ({days} days left)"),
            }
        })
        .collect();
    let mtls = if tls.asks_client_certificate() {
        ", client certificates"
    } else {
        ""
    };
    format!("tls {http2}http/1.1{mtls}, {}", certs.join(", "))
}

/// What to say in front of HTTP/1.1.
fn http2(policy: &ListenerPolicy, name: &str) -> String {
    match (policy.http2.enabled, policy.http2.websocket) {
        (false, _) => String::new(),
        (true, true) => format!("{name}, "),
        (true, false) => format!("{name} without WebSockets, "),
    }
}

fn server(endpoint: &Endpoint) -> String {
    let name = endpoint.name();
    match (endpoint.protocols(), endpoint.uses_tls()) {
        (Protocols::Http1, _) => name.to_owned(),
        (Protocols::Http2, true) => format!("{name} (h2)"),
        (Protocols::Http2, false) => format!("{name} (h2c)"),
        (Protocols::Auto, _) => format!("{name} (h2, http/1.1)"),
    }
}

fn condition(route: &crate::config::model::Route) -> String {
    let hosts: Vec<String> = route
        .hosts
        .iter()
        .map(|host| match host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Wildcard(suffix) => format!("*{suffix}"),
        })
        .collect();
    let path = match &route.path {
        PathPattern::Exact(path) => format!("={path}"),
        PathPattern::Prefix(path) => path.clone(),
        PathPattern::Regex(regex) => format!("~{regex}"),
    };
    format!("{}{path}", hosts.join("|"))
}

fn outcome(route: &crate::config::model::Route, config: &Config) -> String {
    let plugins: Vec<&str> = route
        .plugins
        .iter()
        .map(|link| &*config.plugins[link.plugin].name)
        .collect();
    let chain = if plugins.is_empty() {
        String::new()
    } else {
        format!("{} → ", plugins.join(" → "))
    };
    let end = match &route.action {
        Action::Forward { upstream, .. } => config.upstreams[*upstream].name.to_string(),
        Action::Respond { status, .. } => format!("respond {}", status.as_u16()),
        Action::Redirect { status, .. } => format!("redirect {}", status.as_u16()),
    };
    format!("→ {chain}{end}")
}

fn print(text: &str) {
    // A closed stderr must not stop the server.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
