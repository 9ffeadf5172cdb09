//! From what was written to what it means: names resolve, defaults fill in, contradictions show.
//!
//! Every part goes on after a mistake, so that one run finds all of them. A part that cannot be
//! built is `None`, and its mistake has been reported; the model comes out only if every part did.

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostic::{Diagnostic, Severity};
use super::model::{
    AccessFormat, Account, Admin, Bind, CertSource, ClientAuth, Config, Http2, Limits, Listener,
    ListenerTls, Located, Log, RouteTimeouts, Runtime, Span, Timeouts, TlsVersion,
};
use super::reader::{BoolOr, Either, Field, Read, Text};
use super::schema;
use super::values::{ByteRate, ByteSize, ClientAuthMode};

mod conflicts;
mod plugins;
mod routes;
mod tunnels;
mod upstreams;

use plugins::Plugins;
pub(super) use plugins::{located, overlay};
use upstreams::Upstreams;

/// Turns the file into the model; `None` if a mistake was reported, now or earlier.
pub(super) fn lower(
    file: &schema::File,
    dir: &Path,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Config> {
    let mut cx = Context { dir, diagnostics };

    let listeners = listeners(file, &mut cx);
    let admin = file.admin.value().map(|admin| lower_admin(admin, &mut cx));
    refuse_equal_binds(&listeners, admin.as_ref().and_then(Option::as_ref), &mut cx);

    let (timeouts, route_timeouts) = timeouts(file.timeouts.value());
    let limits = limits(file.limits.value(), &mut cx);
    let runtime = runtime(file.runtime.value(), &mut cx);
    let mut upstreams = Upstreams::lower(file, &mut cx);
    let mut plugins = Plugins::lower(file, &mut upstreams, &mut cx);
    let routes = routes::lower(file, route_timeouts, &mut upstreams, &mut plugins, &mut cx);

    // Only a sound file is searched for what it does not use: a misspelt name leaves its upstream
    // unused, and one mistake should be reported once.
    if cx
        .diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
    {
        return None;
    }
    Some(Config {
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        upstreams: upstreams.finish(&mut cx)?,
        plugins: plugins.finish(&mut cx)?,
        routes: routes?,
        timeouts,
        limits: limits?,
        admin: match admin {
            Some(admin) => Some(admin?),
            None => None,
        },
        log: log(file.log.value()),
        runtime,
        trusted_proxies: values(&file.trusted_proxies).copied().collect(),
    })
}

/// What every part needs: where relative paths begin, and where mistakes go.
struct Context<'a> {
    dir: &'a Path,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Context<'_> {
    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn path(&self, field: &Field<Text<PathBuf>>) -> Option<Located<PathBuf>> {
        let given = field.given()?;
        Some(Located {
            value: self.dir.join(&given.value),
            span: given.span.clone(),
        })
    }

    fn bind(&self, bind: &Located<Bind>) -> Located<Bind> {
        let value = match &bind.value {
            Bind::Unix(path) => Bind::Unix(self.dir.join(path)),
            other => other.clone(),
        };
        Located {
            value,
            span: bind.span.clone(),
        }
    }
}

fn listeners(file: &schema::File, cx: &mut Context<'_>) -> Vec<Option<Listener>> {
    let Some(written) = entries(&file.listener) else {
        return vec![None];
    };
    if written.is_empty() {
        cx.report(
            Diagnostic::missing("there is no listener")
                .hint("add `[[listener]]` with `bind = \":8080\"`".to_owned()),
        );
    }
    let secure = written.iter().any(|listener| {
        listener
            .value()
            .is_none_or(|listener| !listener.tls.is_absent())
    });
    written
        .iter()
        .map(|listener| lower_listener(listener.value()?, secure, cx))
        .collect()
}

fn lower_listener(
    written: &schema::Listener,
    some_listener_has_tls: bool,
    cx: &mut Context<'_>,
) -> Option<Listener> {
    if let Some(redirect) = written
        .redirect_to_https
        .given()
        .filter(|redirect| redirect.value)
    {
        if !written.tls.is_absent() {
            let message = "a listener with `tls` serves https already";
            let hint = "put `redirect_to_https` on the listener without `tls`".to_owned();
            cx.report(Diagnostic::error(redirect.span.clone(), message).hint(hint));
        } else if !some_listener_has_tls {
            let message = "there is no listener with `tls` to redirect to";
            let hint = "add one, as in `bind = \":443\"` with `tls = { cert = …, key = … }`";
            cx.report(Diagnostic::error(redirect.span.clone(), message).hint(hint.to_owned()));
        }
    }
    let tls = match &written.tls {
        Field::Absent => None,
        Field::Mistaken => return None,
        Field::Given(tls) => Some(lower_tls(&tls.value, &tls.span, cx)?),
    };
    Some(Listener {
        bind: cx.bind(written.bind.given()?),
        http2: lower_http2(&written.http2, tls.is_some(), cx)?,
        tls,
        redirect_to_https: written.redirect_to_https.value().copied().unwrap_or(false),
    })
}

/// On where TLS is, unless it is written.
fn lower_http2(
    written: &Field<BoolOr<schema::ListenerHttp2>>,
    has_tls: bool,
    cx: &mut Context<'_>,
) -> Option<Http2> {
    let (enabled, websocket) = match written {
        Field::Absent => (has_tls, None),
        Field::Mistaken => return None,
        Field::Given(given) => match &given.value {
            Either::Short(enabled) => (*enabled, None),
            Either::Table(table) => (
                table.enabled.value().copied().unwrap_or(has_tls),
                (table.websocket.given()).filter(|_| !table.enabled.is_mistaken()),
            ),
        },
    };
    if let Some(websocket) = websocket
        && !enabled
    {
        let message = "`websocket` is about HTTP/2, which is off on this listener";
        let hint = "without `tls` it is on where `enabled = true` says so".to_owned();
        let mistake = Diagnostic::error(websocket.span.clone(), message);
        cx.report(mistake.hint((!has_tls).then_some(hint)));
    }
    Some(Http2 {
        enabled,
        websocket: enabled && websocket.is_none_or(|websocket| websocket.value),
    })
}

fn lower_tls(
    written: &schema::ListenerTls,
    span: &Span,
    cx: &mut Context<'_>,
) -> Option<ListenerTls> {
    let certs = match &written.certs {
        Field::Absent => {
            let one = cert_and_key(&written.cert, &written.key, span, cx);
            if written.cert.is_absent() && written.key.is_absent() {
                let hint = "as in `tls = { cert = \"ws.crt\", key = \"ws.key\" }`".to_owned();
                let message = "TLS needs a certificate";
                cx.report(Diagnostic::error(span.clone(), message).hint(hint));
            }
            one.map(|one| vec![one])
        }
        Field::Mistaken => None,
        Field::Given(certs) => {
            if !written.cert.is_absent() || !written.key.is_absent() {
                let message = "`certs` stands beside `cert` and `key`";
                let hint = "move the one certificate into `certs`".to_owned();
                cx.report(Diagnostic::error(certs.span.clone(), message).hint(hint));
            }
            if certs.value.is_empty() {
                let message = "TLS needs at least one certificate";
                cx.report(Diagnostic::error(certs.span.clone(), message));
                return None;
            }
            let source = |cert: &Field<schema::Certificate>| {
                let cert = cert.value()?;
                Some(CertSource {
                    cert: cx.path(&cert.cert)?,
                    key: cx.path(&cert.key)?,
                })
            };
            certs.value.iter().map(source).collect()
        }
    };
    if let Some(mode) = written.client_auth.given()
        && written.client_ca.is_absent()
    {
        let message = "`client_auth` needs `client_ca`";
        let hint = "name the file with the authorities that sign client certificates".to_owned();
        cx.report(Diagnostic::error(mode.span.clone(), message).hint(hint));
    }
    let required = written.client_auth.value() != Some(&ClientAuthMode::Optional);
    Some(ListenerTls {
        certs: certs?,
        client_auth: cx
            .path(&written.client_ca)
            .map(|ca| ClientAuth { ca, required }),
        min_version: written
            .min_version
            .value()
            .copied()
            .unwrap_or(TlsVersion::Tls12),
        span: span.clone(),
    })
}

/// A certificate with its key; one without the other is a mistake.
fn cert_and_key(
    cert: &Field<Text<PathBuf>>,
    key: &Field<Text<PathBuf>>,
    span: &Span,
    cx: &mut Context<'_>,
) -> Option<CertSource> {
    match (cert.is_absent(), key.is_absent()) {
        (false, true) => {
            let span = cert.given().map_or(span, |cert| &cert.span).clone();
            let hint = "add `key`, the file with its private key".to_owned();
            cx.report(Diagnostic::error(span, "this certificate has no `key`").hint(hint));
        }
        (true, false) => {
            let span = key.given().map_or(span, |key| &key.span).clone();
            let hint = "add `cert`, the file with its certificate chain".to_owned();
            cx.report(Diagnostic::error(span, "this key has no `cert`").hint(hint));
        }
        _ => {}
    }
    Some(CertSource {
        cert: cx.path(cert)?,
        key: cx.path(key)?,
    })
}

fn lower_admin(written: &schema::Admin, cx: &mut Context<'_>) -> Option<Admin> {
    Some(Admin {
        bind: cx.bind(written.bind.given()?),
    })
}

fn refuse_equal_binds(listeners: &[Option<Listener>], admin: Option<&Admin>, cx: &mut Context<'_>) {
    let binds = listeners.iter().flatten().map(|listener| &listener.bind);
    let binds: Vec<_> = binds.chain(admin.map(|admin| &admin.bind)).collect();
    for (index, bind) in binds.iter().enumerate() {
        if let Some(first) = binds[..index].iter().find(|first| {
            // Listeners are told apart by what is written, so port 0 serves only once as such.
            let twice_written = index < listeners.len() && first.value == bind.value;
            twice_written || same_socket(&first.value, &bind.value)
        }) {
            let message = "this address is taken by another listener";
            let mistake = Diagnostic::error(bind.span.clone(), message);
            cx.report(mistake.related(first.span.clone(), "taken here"));
        }
    }
}

fn same_socket(a: &Bind, b: &Bind) -> bool {
    match (a, b) {
        (Bind::AnyTcp(a), Bind::AnyTcp(b)) => a == b && *a != 0,
        (Bind::AnyTcp(port), Bind::Tcp(address)) | (Bind::Tcp(address), Bind::AnyTcp(port)) => {
            address.ip().is_unspecified() && address.port() == *port && *port != 0
        }
        (Bind::Tcp(a), Bind::Tcp(b)) => a == b && a.port() != 0,
        (Bind::Unix(a), Bind::Unix(b)) => a == b,
        _ => false,
    }
}

fn timeouts(written: Option<&schema::Timeouts>) -> (Timeouts, RouteTimeouts) {
    let get = |field: fn(&schema::Timeouts) -> &Field<Text<Duration>>, default: Duration| {
        written
            .and_then(|timeouts| field(timeouts).value().copied())
            .unwrap_or(default)
    };
    let drain = get(|t| &t.drain, DRAIN);
    let process = Timeouts {
        tls_handshake: get(|t| &t.tls_handshake, TLS_HANDSHAKE),
        request_head: get(|t| &t.request_head, REQUEST_HEAD),
        request_body: get(|t| &t.request_body, REQUEST_BODY),
        keep_alive: get(|t| &t.keep_alive, KEEP_ALIVE),
        drain,
    };
    let routes = RouteTimeouts {
        connect: get(|t| &t.connect, CONNECT),
        response_head: get(|t| &t.response_head, RESPONSE_HEAD),
        idle_timeout: get(|t| &t.idle_timeout, IDLE_TIMEOUT),
        drain,
    };
    (process, routes)
}

fn limits(written: Option<&schema::Limits>, cx: &mut Context<'_>) -> Option<Limits> {
    let empty = schema::Limits::default();
    let written = written.unwrap_or(&empty);
    let mut size = |field: &Field<Text<ByteSize>>, default: usize, most: (usize, &str)| {
        let Some(given) = field.given() else {
            return Some(default);
        };
        let bytes = usize::try_from(given.value.0).ok();
        let bytes = bytes.filter(|bytes| (MIN_HEAD..=most.0).contains(bytes));
        if bytes.is_none() {
            let message = "this size is out of range";
            let hint = format!("from `1KiB` to `{}`", most.1);
            cx.report(Diagnostic::error(given.span.clone(), message).hint(hint));
        }
        bytes
    };
    let head_size = size(&written.head_size, HEAD_SIZE, MAX_HEAD);
    let target_size = size(&written.target_size, TARGET_SIZE, MAX_TARGET);
    if let (Some(head), Some(target)) = (head_size, target_size)
        && target > head
    {
        // A smaller head alone need not repeat the target's limit.
        if let Some(given) = written.target_size.given() {
            let message = "`target_size` is larger than `head_size`";
            let hint = "the target is part of the head".to_owned();
            cx.report(Diagnostic::error(given.span.clone(), message).hint(hint));
        }
    }
    let memory = memory(&written.memory, MIN_MEMORY, "at least `1MiB`", cx);
    let connection_memory = memory_of_one(written, memory.flatten(), cx);
    Some(Limits {
        connections: count(&written.connections),
        connections_per_client: count(&written.connections_per_client),
        ipv6_prefix: u8::try_from(number(&written.ipv6_prefix, IPV6_PREFIX)).unwrap_or(u8::MAX),
        requests_per_connection: count(&written.requests_per_connection),
        tls_handshakes: count(&written.tls_handshakes),
        head_size: head_size?,
        head_fields: number(&written.head_fields, HEAD_FIELDS) as usize,
        target_size: target_size?.min(head_size?),
        request_body: written.request_body.value().map(|size| size.0),
        memory: memory?,
        connection_memory: connection_memory?,
        body_rate: rate(&written.body_rate).unwrap_or(BODY_RATE.0),
        http2_streams: number(&written.http2_streams, HTTP2_STREAMS),
        http2_resets: number(&written.http2_resets, HTTP2_RESETS),
        http2_control_frames: number(&written.http2_control_frames, HTTP2_CONTROL_FRAMES),
    })
}

/// An amount of memory, if one is given; `None` if it is a mistake.
fn memory(
    field: &Field<Text<ByteSize>>,
    least: usize,
    hint: &str,
    cx: &mut Context<'_>,
) -> Option<Option<usize>> {
    let Some(given) = field.given() else {
        return Some(None);
    };
    // What is beyond all memory is no limit.
    let bytes = usize::try_from(given.value.0).unwrap_or(usize::MAX);
    if bytes >= least {
        return Some(Some(bytes));
    }
    let message = "this is too little memory to work with";
    cx.report(Diagnostic::error(given.span.clone(), message).hint(hint.to_owned()));
    None
}

/// `connection_memory`, which is less than `all` where that is given.
fn memory_of_one(
    written: &schema::Limits,
    all: Option<usize>,
    cx: &mut Context<'_>,
) -> Option<Option<usize>> {
    let field = &written.connection_memory;
    let one = memory(field, MIN_CONNECTION_MEMORY, "at least `64KiB`", cx)?;
    if let (Some(one), Some(all), Some(given)) = (one, all, field.given())
        && one > all
    {
        let message = "`connection_memory` is more than `memory`";
        let hint = "a part cannot be larger than the whole".to_owned();
        cx.report(Diagnostic::error(given.span.clone(), message).hint(hint));
        return None;
    }
    Some(one)
}

fn log(written: Option<&schema::Log>) -> Log {
    Log {
        access: written
            .and_then(|log| log.access.value().copied())
            .unwrap_or(AccessFormat::Text),
        level: written
            .and_then(|log| log.level.value())
            .map_or_else(|| LEVEL.to_owned(), |level| level.0.clone()),
        query: written
            .and_then(|log| log.query.value().copied())
            .unwrap_or(false),
    }
}

fn runtime(written: Option<&schema::Runtime>, cx: &mut Context<'_>) -> Runtime {
    let user = written.and_then(|runtime| runtime.user.given());
    let group = written.and_then(|runtime| runtime.group.given());
    if let (Some(runtime), None, Some(group)) = (written, user, group)
        && runtime.user.is_absent()
    {
        cx.report(
            Diagnostic::error(group.span.clone(), "`group` without `user`")
                .hint("name the user as well: the group comes with it".to_owned()),
        );
    }
    Runtime {
        workers: written.and_then(|runtime| count(&runtime.workers)),
        account: user.map(|user| Account {
            user: user.clone(),
            group: group.cloned(),
        }),
    }
}

/// The entries of an array; `None` if it was no array.
fn entries<L, T: Read>(field: &Field<L>) -> Option<&[Field<T>]>
where
    L: Read<Out = Vec<Field<T>>>,
{
    match field {
        Field::Absent => Some(&[]),
        Field::Mistaken => None,
        Field::Given(entries) => Some(&entries.value),
    }
}

/// The good values of an array.
fn values<'a, L, T: Read + 'a>(field: &'a Field<L>) -> impl Iterator<Item = &'a T::Out>
where
    L: Read<Out = Vec<Field<T>>>,
{
    entries(field)
        .unwrap_or_default()
        .iter()
        .filter_map(Field::value)
}

/// An integer whose range the schema has checked.
fn number<T: Read<Out = u64>>(field: &Field<T>, default: u32) -> u32 {
    field
        .value()
        .map_or(default, |value| u32::try_from(*value).unwrap_or(u32::MAX))
}

/// An optional limit on how many.
fn count<T: Read<Out = u64>>(field: &Field<T>) -> Option<NonZeroUsize> {
    let value = *field.value()?;
    NonZeroUsize::new(usize::try_from(value).unwrap_or(usize::MAX))
}

/// A size, which is more than nothing, as so much a second.
fn rate(field: &Field<Text<ByteRate>>) -> Option<Option<NonZeroU64>> {
    field.value().map(|rate| rate.0)
}

/// A size that has bounds; `None`, and a report, outside of them.
fn size(
    field: &Field<Text<ByteSize>>,
    default: u64,
    bounds: RangeInclusive<u64>,
    message: &str,
    hint: &str,
    cx: &mut Context<'_>,
) -> Option<u64> {
    let size = field.value().map_or(default, |size| size.0);
    if let Some(given) = field.given()
        && !bounds.contains(&size)
    {
        let diagnostic = Diagnostic::error(given.span.clone(), message.to_owned());
        cx.report(diagnostic.hint(hint.to_owned()));
        return None;
    }
    Some(size)
}

const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
const REQUEST_HEAD: Duration = Duration::from_secs(10);
const REQUEST_BODY: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
const CONNECT: Duration = Duration::from_secs(5);
const RESPONSE_HEAD: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
const DRAIN: Duration = Duration::from_secs(30);
const HEAD_SIZE: usize = 16 << 10;
const HEAD_FIELDS: u32 = 100;
const TARGET_SIZE: usize = 8 << 10;
const MIN_HEAD: usize = 1 << 10;
const MAX_HEAD: (usize, &str) = (1 << 20, "1MiB");
/// A URI of 64 KiB cannot be held, and this is only a part of one.
const MAX_TARGET: (usize, &str) = (60 << 10, "60KiB");
const MIN_MEMORY: usize = 1 << 20;
const MIN_CONNECTION_MEMORY: usize = 64 << 10;
const HTTP2_STREAMS: u32 = 128;
const HTTP2_RESETS: u32 = 200;
const HTTP2_CONTROL_FRAMES: u32 = 1000;
/// Far below any line that a page could be read on, far above what costs an attacker nothing.
const BODY_RATE: ByteRate = ByteRate(NonZeroU64::new(240));
/// What one customer gets.
const IPV6_PREFIX: u32 = 64;
const LEVEL: &str = "info";
