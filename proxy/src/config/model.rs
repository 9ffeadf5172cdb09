//! What the configuration means: a model whose invalid states cannot be built.
//!
//! `lower` makes it from the schema once every key has been checked; nothing here reads a file,
//! opens a socket or compiles a plugin. Values that only IO can judge (certificates, plugins,
//! secrets) are [`Located`], so that `Snapshot::build` can still point into the file.

mod tunnel;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::Regex;

pub use tunnel::{
    Allowance, COLLECTED_MESSAGE, Compression, Isolation, MESSAGE_FRAMES, OnMessageError, OnlyKind,
    Over, Rate, SideRules, TunnelRules,
};

/// A byte range in the configuration file.
pub type Span = Range<usize>;

/// A value and where the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// One whole configuration: every name in it resolves, every pattern compiles.
#[derive(Debug, Clone)]
pub struct Config {
    pub listeners: Vec<Listener>,
    /// In file order; a route names one by its index.
    pub upstreams: Vec<Upstream>,
    /// In file order; a route names one by its index.
    pub plugins: Vec<Plugin>,
    /// In file order, which never decides: see `crate::route`.
    pub routes: Vec<Route>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub admin: Option<Admin>,
    pub log: Log,
    pub runtime: Runtime,
    pub trusted_proxies: Vec<IpNet>,
}

/// An address to listen on or connect to that needs no look-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `127.0.0.1:80`, `[::1]:80`.
    Tcp(SocketAddr),
    /// `:80`: every address, IPv6 and IPv4 on one dual-stack socket.
    AnyTcp(u16),
    /// `unix:/run/sluicegate.sock`.
    Unix(PathBuf),
}

/// As the user would write it.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::AnyTcp(port) => write!(f, ":{port}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub bind: Located<Bind>,
    pub tls: Option<ListenerTls>,
    pub http2: Http2,
    /// Answer every request with a 308 to the same URL on https.
    pub redirect_to_https: bool,
}

/// HTTP/2 on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Offered by ALPN over TLS; without TLS taken from clients that begin with it (RFC 9113 section 3.3).
    pub enabled: bool,
    /// Announce WebSockets over it (RFC 8441).
    pub websocket: bool,
}

#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// At least one; the first serves clients whose SNI matches none.
    pub certs: Vec<CertSource>,
    pub client_auth: Option<ClientAuth>,
    pub min_version: TlsVersion,
    pub span: Span,
}

/// A certificate chain and its key, both PEM files.
#[derive(Debug, Clone)]
pub struct CertSource {
    pub cert: Located<PathBuf>,
    pub key: Located<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// PEM file with the authorities that sign client certificates.
    pub ca: Located<PathBuf>,
    /// Refuse clients without a certificate; otherwise they are served without a subject.
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: Arc<str>,
    /// At least one.
    pub servers: Vec<Server>,
    pub balance: Balance,
    pub tls: UpstreamTls,
    pub health: PassiveHealth,
    /// How long an idle kept-alive connection is kept.
    pub keep_alive: Duration,
    /// How many idle connections one worker keeps per endpoint.
    pub keep_alive_connections: usize,
    pub websocket: WebSocketOver,
    pub http2: Http2Pool,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub address: ServerAddress,
    /// Talk TLS to it (`https://`).
    pub tls: bool,
    /// Never [`Protocols::Auto`] without TLS, which has no ALPN to choose by.
    pub protocols: Protocols,
    pub weight: NonZeroU32,
    /// Used only while no other endpoint is up.
    pub backup: bool,
    pub max_connections: Option<NonZeroUsize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// Looked up at each connect.
    Name {
        host: Arc<str>,
        port: u16,
    },
    Unix(PathBuf),
}

/// What a server is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    Http1,
    /// By ALPN over TLS, with prior knowledge without it.
    Http2,
    /// HTTP/2 if ALPN chooses it, else HTTP/1.1.
    Auto,
}

/// What WebSockets to the servers of an upstream ride on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebSocketOver {
    /// HTTP/2 where the server speaks it and announces RFC 8441, else HTTP/1.1.
    Auto,
    Http1,
    /// HTTP/2, or not at all.
    Http2,
}

/// The HTTP/2 connections to each endpoint of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Pool {
    /// At once on one connection; at least one.
    pub streams: u32,
    /// Per endpoint and worker; at least one.
    pub connections: usize,
    /// From then on a connection takes no new streams.
    pub max_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConn,
    IpHash,
}

/// How to talk TLS to the `https://` servers of an upstream.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// PEM file of the only authorities to trust; without it the system's.
    pub ca: Option<Located<PathBuf>>,
    /// Certificate to present.
    pub client_cert: Option<CertSource>,
    /// Name to verify and send as SNI instead of the server's host.
    pub server_name: Option<Located<String>>,
}

/// An endpoint that fails `fails` times within `within` gets nothing for `out_for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassiveHealth {
    pub fails: NonZeroU32,
    pub within: Duration,
    pub out_for: Duration,
}

#[derive(Debug, Clone)]
pub struct Plugin {
    pub name: Arc<str>,
    pub wasm: Located<PathBuf>,
    /// The config of routes that give none of their own.
    pub config: PluginConfig,
    pub allow: Allow,
    pub limits: PluginLimits,
    pub span: Span,
}

/// What one plugin may ask of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    pub log: bool,
    pub metrics: bool,
    pub clock: bool,
    pub random: bool,
    pub crypto: bool,
    pub kv: bool,
    pub wasi: bool,
    /// Names of upstreams that there are.
    pub http: Vec<Arc<str>>,
    /// As `http`.
    pub upstreams: Vec<Arc<str>>,
}

/// What one plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginLimits {
    /// Linear memory of one instance, bytes.
    pub memory: u64,
    /// CPU time of one call.
    pub call_timeout: Duration,
    /// Wall-clock time of one call.
    pub wall_timeout: Duration,
    /// Wall-clock time `configure` may take when the plugin is loaded.
    pub configure_timeout: Duration,
    /// Instances alive at once in the whole process; further handshakes wait.
    pub instances: NonZeroU32,
    /// So long.
    pub instance_wait: Duration,
    /// Body of a response that the plugin makes itself, bytes.
    pub response_body: u64,
    /// Lines in the log, a second.
    pub log_lines: u32,
    /// Message of such a line, and each field, bytes.
    pub log_line: u64,
    /// An HTTP request of the plugin's own, whole.
    pub http_timeout: Duration,
    /// Body of the answer to one, bytes.
    pub http_body: u64,
    /// What one call for a message may give back, bytes.
    pub message_output: u64,
    /// `None`: it is asked however often it fails.
    pub quarantine: Option<Quarantine>,
}

/// A plugin that fails so often within this time on a route is not asked there for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    pub fails: NonZeroU32,
    pub within: Duration,
    pub out_for: Duration,
}

/// A plugin's config as JSON, with the places where secrets go.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    /// An object; secrets still hold what the user wrote (`env:NAME`).
    pub json: serde_json::Value,
    pub secrets: Vec<SecretRef>,
    /// Where each key and item of `json` stands in the file, by its JSON pointer.
    pub places: BTreeMap<String, Place>,
    pub span: Span,
}

/// Where a key and its value stand; an item of an array is both.
#[derive(Debug, Clone)]
pub struct Place {
    pub key: Span,
    pub value: Span,
}

/// A string in a plugin's config that stands for a secret.
#[derive(Debug, Clone)]
pub struct SecretRef {
    /// JSON pointer (RFC 6901) into the config.
    pub pointer: String,
    pub source: SecretSource,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `env:NAME`
    Env(String),
    /// `file:PATH`, without the file's trailing line end.
    File(PathBuf),
}

#[derive(Debug, Clone)]
pub struct Route {
    /// `name`, or else the host and path as written; unique, used in logs and metrics.
    pub name: Arc<str>,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Empty: any method.
    pub methods: Vec<Method>,
    pub match_headers: Vec<HeaderMatch>,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Origins (RFC 6454) that may open a WebSocket; empty: any.
    pub origins: Vec<OriginPattern>,
    pub plugins: Vec<PluginUse>,
    pub timeouts: RouteTimeouts,
    /// Bytes a second that a client has to send or to take of a body; `None`: as slowly as it likes.
    pub body_rate: Option<NonZeroU64>,
    pub tunnel: TunnelRules,
    /// One that may be sent.
    pub expiry_close_code: u16,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Lower case, no port.
    Exact(String),
    /// `*.example.com` is `Wildcard(".example.com")`: one or more labels in front.
    Wildcard(String),
}

#[derive(Debug, Clone)]
pub enum PathPattern {
    Exact(String),
    /// Bytes, as nginx's `location`: `/ws` also matches `/wsx`.
    Prefix(String),
    /// Unanchored, on the normalised path.
    Regex(Regex),
}

impl PathPattern {
    /// The path that it is or begins with; `None` of a regex.
    pub fn literal(&self) -> Option<&str> {
        match self {
            PathPattern::Exact(path) | PathPattern::Prefix(path) => Some(path),
            PathPattern::Regex(_) => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: HeaderValueMatch,
}

#[derive(Debug, Clone)]
pub enum HeaderValueMatch {
    /// `"*"`
    Present,
    Exact(HeaderValue),
    /// `"~regex"`
    Regex(Regex),
}

/// `https://app.example.com`, `https://*.example.com`, or `null`; compared in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern {
    /// `https`, or empty for `null`.
    pub scheme: String,
    pub host: OriginHost,
    /// `None`: the scheme's default port.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginHost {
    /// The literal origin `null`.
    Null,
    Exact(String),
    /// As in [`HostPattern::Wildcard`].
    Wildcard(String),
}

#[derive(Debug, Clone)]
pub enum Action {
    Forward {
        /// Index into [`Config::upstreams`].
        upstream: usize,
        rewrite: Option<Rewrite>,
    },
    Respond {
        status: StatusCode,
        body: Arc<str>,
        content_type: HeaderValue,
    },
    Redirect {
        to: Template,
        status: StatusCode,
    },
}

/// How the path changes on its way to the upstream. The query is kept.
#[derive(Debug, Clone)]
pub enum Rewrite {
    StripPrefix(String),
    /// First match of the regex replaced; `$1` names a group.
    Regex {
        regex: Regex,
        to: String,
    },
}

/// Edits of a header map: removals first, then `set`, then `add`.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, Template)>,
    pub add: Vec<(HeaderName, Template)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Text with variables, e.g. `https://{host}{path}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// `{host}`: the request's host without its port.
    Host,
    /// `{path}`: the normalised path.
    Path,
    /// `{query}`: `?` and the query, or nothing.
    Query,
    /// `{scheme}`: `http` or `https`.
    Scheme,
    /// `{client_ip}`: the client's address after `trusted_proxies`.
    ClientIp,
    /// `{request_id}`
    RequestId,
    /// `{tls_subject}`: subject of the client's certificate, or nothing.
    TlsSubject,
    /// `{route}`: the route's name.
    Route,
}

/// A plugin on a route, in chain order.
#[derive(Debug, Clone)]
pub struct PluginUse {
    /// Index into [`Config::plugins`].
    pub plugin: usize,
    /// The plugin's config with the route's keys laid over it (top level).
    pub config: PluginConfig,
    pub on_error: OnError,
    /// Requests that one instance serves, one after the other; `None`: an instance for each.
    pub reuse: Option<NonZeroU32>,
    /// `None`: as suits what the plugin imports.
    pub isolation: Option<Isolation>,
    /// Tunnels that share an instance at most, where they do.
    pub connections_per_instance: NonZeroU32,
    pub on_message_error: OnMessageError,
    /// The keys given here that only say something of messages.
    pub message_keys: Vec<Located<&'static str>>,
    pub span: Span,
}

/// What a filter's failure does to the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnError {
    /// 500 (or 503 when no instance was free in time); nothing reaches the upstream.
    Deny,
    /// Go on as if the filter had continued, its header changes undone.
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub tls_handshake: Duration,
    pub request_head: Duration,
    /// Longest wait for the next piece of a request body.
    pub request_body: Duration,
    /// How long an idle client connection is kept between requests.
    pub keep_alive: Duration,
    /// How long an orderly stop may take; also the default of each route's own `drain`.
    pub drain: Duration,
}

/// The last four of `[timeouts]`, which a route may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTimeouts {
    pub connect: Duration,
    pub response_head: Duration,
    /// A tunnel without a byte in either direction for this long is closed, and so is a response
    /// whose body stalls for this long.
    pub idle_timeout: Duration,
    pub drain: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections in the whole process; `None`: what the descriptor limit allows.
    pub connections: Option<NonZeroUsize>,
    pub connections_per_client: Option<NonZeroUsize>,
    /// Leading bits of an IPv6 address that are one client.
    pub ipv6_prefix: u8,
    /// The last one of a connection is told so.
    pub requests_per_connection: Option<NonZeroUsize>,
    /// TLS handshakes with clients in the whole process; `None`: what the cores can do.
    pub tls_handshakes: Option<NonZeroUsize>,
    /// Request head, bytes.
    pub head_size: usize,
    pub head_fields: usize,
    /// Request target, bytes.
    pub target_size: usize,
    /// Request body, bytes; `None`: no limit (bodies are streamed).
    pub request_body: Option<u64>,
    /// Bytes in all buffers that fill up where somebody is slow; `None`: half of what the process may have.
    pub memory: Option<usize>,
    /// Bytes in those of one tunnel whose messages are read; `None`: what the other limits allow.
    pub connection_memory: Option<usize>,
    /// As [`Route::body_rate`], where there is no route.
    pub body_rate: Option<NonZeroU64>,
    /// Concurrent HTTP/2 streams per connection.
    pub http2_streams: u32,
    /// Streams reset on one connection in ten seconds.
    pub http2_resets: u32,
    /// HTTP/2 frames that carry nothing on one connection in ten seconds.
    pub http2_control_frames: u32,
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub bind: Located<Bind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub access: AccessFormat,
    /// A tracing filter: `info`, or `info,sluicegate::tunnel=debug`.
    pub level: String,
    /// Write query strings to the access log instead of `?…`.
    pub query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    Json,
    Text,
    Off,
}

#[derive(Debug, Clone)]
pub struct Runtime {
    /// `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// Whom to become once everything is bound; `None`: who started it.
    pub account: Option<Account>,
}

/// Names that only the system can judge.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: Located<String>,
    /// `None`: the user's own.
    pub group: Option<Located<String>>,
}
