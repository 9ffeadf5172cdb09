//! Upstreams: the declared ones, and those that a route makes by naming an address.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Context, cert_and_key, count, number};
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{
    Balance, Http2Pool, Located, PassiveHealth, Protocols, Server, ServerAddress, Span, Upstream,
    UpstreamTls, WebSocketOver,
};
use crate::config::reader::{Either, Field};
use crate::config::schema;
use crate::config::values::{FromText, Name, ServerUrl, Target, did_you_mean, looks_like_address};

/// All upstreams by name, and which of them a route uses.
pub(super) struct Upstreams {
    entries: Vec<Entry>,
    by_name: HashMap<Arc<str>, usize>,
    /// The whole `[upstream]` was unreadable: no name can be called unknown.
    unreadable: bool,
}

struct Entry {
    name: Located<Arc<str>>,
    /// `None`: it has mistakes, but its name counts.
    upstream: Option<Upstream>,
    used: bool,
}

impl Upstreams {
    pub(super) fn lower(file: &schema::File, cx: &mut Context<'_>) -> Self {
        let mut upstreams = Upstreams {
            entries: Vec::new(),
            by_name: HashMap::new(),
            unreadable: matches!(file.upstream, Field::Mistaken),
        };
        for (name, field) in file.upstream.value().into_iter().flatten() {
            let arc: Arc<str> = Arc::from(name.value.0.as_str());
            let upstream = field
                .given()
                .and_then(|written| lower_upstream(&arc, name, &written.value, cx));
            upstreams.add(
                Located {
                    value: arc,
                    span: name.span.clone(),
                },
                upstream,
                false,
            );
        }
        upstreams
    }

    /// The upstream that a route's `to` means; an unknown one is reported.
    pub(super) fn resolve(&mut self, to: &Located<Target>, cx: &mut Context<'_>) -> Option<usize> {
        let text = to.value.0.as_str();
        if let Some(index) = self.by_name.get(text) {
            self.entries[*index].used = true;
            return Some(*index);
        }
        if looks_like_address(text) {
            let name: Arc<str> = Arc::from(text);
            let upstream = anonymous(&name, to, cx)?;
            let name = Located {
                value: name,
                span: to.span.clone(),
            };
            return Some(self.add(name, Some(upstream), true));
        }
        if !self.unreadable {
            let names = self.entries.iter().map(|entry| entry.name.value.as_ref());
            let names = names.filter(|name| !looks_like_address(name));
            let hint = did_you_mean(text, names).unwrap_or_else(|| {
                format!("declare `[upstream.{text}]`, or write an address such as `{text}:3000`")
            });
            let message = format!("there is no upstream `{text}`");
            cx.report(Diagnostic::error(to.span.clone(), message).hint(hint));
        }
        None
    }

    /// A declared upstream by its name, which then counts as used.
    pub(super) fn named(&mut self, name: &Located<Name>, cx: &mut Context<'_>) -> Option<Arc<str>> {
        if let Some(index) = self.by_name.get(name.value.0.as_str()) {
            let entry = &mut self.entries[*index];
            entry.used = true;
            return Some(Arc::clone(&entry.name.value));
        }
        if !self.unreadable {
            let names = self.entries.iter().map(|entry| &*entry.name.value);
            let hint = did_you_mean(&name.value.0, names)
                .unwrap_or_else(|| format!("declare `[upstream.{}]`", name.value.0));
            let message = format!("there is no upstream `{}`", name.value.0);
            cx.report(Diagnostic::error(name.span.clone(), message).hint(hint));
        }
        None
    }

    /// Warns of unused ones; `None` if one of them had mistakes.
    pub(super) fn finish(self, cx: &mut Context<'_>) -> Option<Vec<Upstream>> {
        for entry in self.entries.iter().filter(|entry| !entry.used) {
            let message = format!("no route uses the upstream `{}`", entry.name.value);
            cx.report(Diagnostic::warning(entry.name.span.clone(), message));
        }
        self.entries
            .into_iter()
            .map(|entry| entry.upstream)
            .collect()
    }

    fn add(&mut self, name: Located<Arc<str>>, upstream: Option<Upstream>, used: bool) -> usize {
        self.by_name
            .insert(Arc::clone(&name.value), self.entries.len());
        self.entries.push(Entry {
            name,
            upstream,
            used,
        });
        self.entries.len() - 1
    }
}

fn lower_upstream(
    arc: &Arc<str>,
    name: &Located<Name>,
    written: &schema::Upstream,
    cx: &mut Context<'_>,
) -> Option<Upstream> {
    let servers = lower_servers(written, cx);
    let tls = match written.tls.given() {
        Some(tls) => lower_tls(&tls.value, &tls.span, servers.as_deref(), cx)?,
        None => UpstreamTls::default(),
    };
    if let Some(servers) = &servers {
        refuse_unspoken(written, servers, cx);
    }
    Some(Upstream {
        name: Arc::clone(arc),
        servers: servers?,
        balance: written
            .balance
            .value()
            .copied()
            .unwrap_or(Balance::RoundRobin),
        tls,
        health: lower_health(written.health.value()),
        keep_alive: written.keep_alive.value().copied().unwrap_or(KEEP_ALIVE),
        keep_alive_connections: number(&written.keep_alive_connections, KEEP_ALIVE_CONNECTIONS)
            as usize,
        websocket: written
            .websocket
            .value()
            .copied()
            .unwrap_or(WebSocketOver::Auto),
        http2: lower_http2(written.http2.value()),
        span: name.span.clone(),
    })
}

fn lower_servers(written: &schema::Upstream, cx: &mut Context<'_>) -> Option<Vec<Server>> {
    let fields = written.servers.given()?;
    if fields.value.is_empty() {
        let message = "an upstream needs at least one server";
        cx.report(Diagnostic::error(fields.span.clone(), message));
        return None;
    }
    let default_max = count(&written.max_connections);
    let http = written.http.value().copied().unwrap_or(Protocols::Http1);
    let mut good: Vec<Server> = Vec::new();
    let mut seen: HashMap<ServerAddress, Span> = HashMap::new();
    let mut complete = true;
    for field in &fields.value {
        let server = field.given().and_then(|given| {
            let (url, table) = match &given.value {
                Either::Short(url) => (url, None),
                Either::Table(table) => (table.url.value()?, Some(table)),
            };
            if let Some(http) = written.http.given()
                && url.http2
                && http.value == Protocols::Http1
            {
                let message = "this server speaks HTTP/2 only";
                let hint =
                    "write it with `http` or `https`, or leave `http = \"1\"` out".to_owned();
                let mistake = Diagnostic::error(given.span.clone(), message).hint(hint);
                cx.report(mistake.related(http.span.clone(), "here all are to speak HTTP/1.1"));
            }
            let weight = table.map_or(1, |table| number(&table.weight, 1));
            let server = Server {
                address: resolve_path(&url.address, cx),
                tls: url.tls,
                protocols: protocols(url, http),
                weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN),
                backup: table
                    .and_then(|table| table.backup.value().copied())
                    .unwrap_or(false),
                max_connections: table
                    .and_then(|table| count(&table.max_connections))
                    .or(default_max),
            };
            Some((server, given.span.clone()))
        });
        let Some((server, span)) = server else {
            complete = false;
            continue;
        };
        if let Some(first) = seen.insert(server.address.clone(), span.clone()) {
            let mistake = Diagnostic::error(span, "this server is listed twice")
                .hint("give one of them a larger share with `weight`".to_owned());
            cx.report(mistake.related(first, "first here"));
        }
        good.push(server);
    }
    if complete && good.iter().all(|server| server.backup) {
        let message = "all servers of this upstream are backups";
        let hint = "a backup stands in for servers without `backup = true`".to_owned();
        cx.report(Diagnostic::error(fields.span.clone(), message).hint(hint));
    }
    complete.then_some(good)
}

/// What a server is spoken to in: its scheme says it, or else the upstream.
fn protocols(url: &ServerUrl, upstream: Protocols) -> Protocols {
    match upstream {
        _ if url.http2 => Protocols::Http2,
        Protocols::Auto if !url.tls => Protocols::Http1,
        other => other,
    }
}

/// Keys about HTTP/2 on an upstream whose servers are not spoken to in it.
fn refuse_unspoken(written: &schema::Upstream, servers: &[Server], cx: &mut Context<'_>) {
    if written.http.is_mistaken() {
        return;
    }
    let is_old = |server: &Server| server.protocols == Protocols::Http1;
    if let Some(http2) = written.http2.given()
        && servers.iter().all(is_old)
    {
        let message = "no server of this upstream speaks HTTP/2";
        cx.report(Diagnostic::error(http2.span.clone(), message).hint(SPEAK_HTTP2.to_owned()));
    }
    if let Some(websocket) = written.websocket.given()
        && websocket.value == WebSocketOver::Http2
        && let Some(index) = servers.iter().position(is_old)
    {
        let message = "WebSockets cannot ride on HTTP/2 to every server of this upstream";
        let mut mistake = Diagnostic::error(websocket.span.clone(), message);
        let fields = written.servers.value().map(Vec::as_slice);
        if let Some(server) = fields.and_then(|fields| fields.get(index)?.given()) {
            mistake = mistake.related(server.span.clone(), "this one speaks HTTP/1.1");
        }
        cx.report(mistake.hint(SPEAK_HTTP2.to_owned()));
    }
    if let Some(http) = written.http.given()
        && http.value == Protocols::Auto
        && !servers.iter().any(|server| server.tls)
    {
        let message = "`http = \"auto\"` changes nothing without `https://` servers";
        let hint = "TLS is what chooses; `http = \"2\"` is for servers that take HTTP/2 unasked";
        cx.report(Diagnostic::warning(http.span.clone(), message).hint(hint.to_owned()));
    }
}

fn lower_http2(written: Option<&schema::UpstreamHttp2>) -> Http2Pool {
    Http2Pool {
        streams: written.map_or(STREAMS, |http2| number(&http2.streams, STREAMS)),
        connections: written.map_or(CONNECTIONS, |http2| number(&http2.connections, CONNECTIONS))
            as usize,
        max_age: written
            .and_then(|http2| http2.max_age.value().copied())
            .unwrap_or(MAX_AGE),
    }
}

fn lower_tls(
    written: &schema::UpstreamTls,
    span: &Span,
    servers: Option<&[Server]>,
    cx: &mut Context<'_>,
) -> Option<UpstreamTls> {
    if let Some(servers) = servers
        && !servers.iter().any(|server| server.tls)
    {
        let unix = servers
            .iter()
            .all(|server| matches!(server.address, ServerAddress::Unix(_)));
        let hint = match unix {
            true => "unix sockets are spoken to without TLS; leave `tls` out",
            false => "write the servers as `https://…` or `h2://…`, or leave `tls` out",
        };
        let message = "no server of this upstream speaks TLS";
        cx.report(Diagnostic::error(span.clone(), message).hint(hint.to_owned()));
    }
    let client_cert = cert_and_key(&written.cert, &written.key, span, cx);
    let name = written.server_name.given();
    Some(UpstreamTls {
        ca: cx.path(&written.ca),
        client_cert,
        server_name: name.map(|n| Located {
            value: n.value.0.clone(),
            span: n.span.clone(),
        }),
    })
}

fn lower_health(written: Option<&schema::Health>) -> PassiveHealth {
    let fails = written.map_or(FAILS, |health| number(&health.fails, FAILS));
    PassiveHealth {
        fails: NonZeroU32::new(fails).unwrap_or(NonZeroU32::MIN),
        within: written
            .and_then(|health| health.within.value().copied())
            .unwrap_or(WITHIN),
        out_for: written
            .and_then(|health| health.out_for.value().copied())
            .unwrap_or(OUT_FOR),
    }
}

/// The upstream of `to = "127.0.0.1:3000"`.
fn anonymous(name: &Arc<str>, to: &Located<Target>, cx: &Context<'_>) -> Option<Upstream> {
    let url = ServerUrl::from_text(&to.value.0).ok()?;
    let server = Server {
        address: resolve_path(&url.address, cx),
        tls: url.tls,
        protocols: protocols(&url, Protocols::Http1),
        weight: NonZeroU32::MIN,
        backup: false,
        max_connections: None,
    };
    Some(Upstream {
        name: Arc::clone(name),
        servers: vec![server],
        balance: Balance::RoundRobin,
        tls: UpstreamTls::default(),
        health: lower_health(None),
        keep_alive: KEEP_ALIVE,
        keep_alive_connections: KEEP_ALIVE_CONNECTIONS as usize,
        websocket: WebSocketOver::Auto,
        http2: lower_http2(None),
        span: to.span.clone(),
    })
}

fn resolve_path(address: &ServerAddress, cx: &Context<'_>) -> ServerAddress {
    match address {
        ServerAddress::Unix(path) => ServerAddress::Unix(cx.dir.join(path)),
        other => other.clone(),
    }
}

const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_CONNECTIONS: u32 = 64;
const STREAMS: u32 = 100;
const CONNECTIONS: u32 = 8;
const MAX_AGE: Duration = Duration::from_secs(3_600);
const SPEAK_HTTP2: &str =
    "write `http = \"2\"` or `\"auto\"`, or servers as `h2://host` or `h2c://host`";
const FAILS: u32 = 3;
const WITHIN: Duration = Duration::from_secs(10);
const OUT_FOR: Duration = Duration::from_secs(10);
