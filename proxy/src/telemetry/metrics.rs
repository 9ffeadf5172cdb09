//! What is counted, and its Prometheus text.
//!
//! Whoever counts resolves a handle once ([`Metrics::route`], [`Metrics::endpoint`] …) and from then
//! on only adds to atomics. A handle *is* its series: it appears in the text while somebody holds
//! it. A new snapshot asks for its handles while the old one is still alive, so routes that stay
//! keep their counts over a reload; a removed route's series leave with its last tunnel.
//!
//! Labels are names from the configuration or `&'static str`; nothing a client sends becomes one. Only the
//! plugins' own metrics have labels of the plugins' making, so many and no more.

mod buckets;
mod collect;
pub mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode, Version};
use prometheus_client::registry::Registry;
use sluicegate_plugin_host::metrics::Registry as PluginRegistry;

use crate::budget::Budget;
use crate::ws::CloseCode;
use crate::ws::frame::Side;
use buckets::{CALL_BUCKETS, LATENCY_BUCKETS, LIFETIME_BUCKETS, MESSAGE_BUCKETS};
use series::{Histogram, LabelledCounter};

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Registry,
}

/// Which way bytes and messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    FromDownstream,
    FromUpstream,
}

impl From<Side> for Direction {
    fn from(sender: Side) -> Direction {
        match sender {
            Side::FromClient => Direction::FromDownstream,
            Side::FromServer => Direction::FromUpstream,
        }
    }
}

/// Series of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics(Arc<ListenerSeries>);

/// Series of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics(Arc<RouteSeries>);

/// Series of one endpoint of an upstream.
#[derive(Debug, Clone)]
pub struct EndpointMetrics(Arc<EndpointSeries>);

/// Series of one plugin on one route.
#[derive(Debug, Clone)]
pub struct PluginMetrics(Arc<PluginSeries>);

/// Counts one thing as open from its making to its drop, whatever way it ends.
#[derive(Debug)]
#[must_use = "dropping it at once counts nothing"]
pub struct OpenGuard(Arc<dyn Gauged>);

/// Counts a WebSocket of a route as open from its making to its drop.
#[derive(Debug)]
#[must_use = "dropping it at once counts nothing"]
pub struct WebSocketGuard {
    series: Arc<RouteSeries>,
    over: Version,
}

/// Counts an HTTP/2 connection to an endpoint as open from its making to its drop.
#[derive(Debug)]
#[must_use = "dropping it at once counts nothing"]
pub struct Http2Guard(Arc<EndpointSeries>);

/// A series with a gauge that an [`OpenGuard`] holds up.
trait Gauged: std::fmt::Debug + Send + Sync {
    fn gauge(&self) -> &AtomicI64;
}

#[derive(Debug, Default)]
struct ListenerSeries {
    open: AtomicI64,
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    refused: LabelledCounter,
    retired: LabelledCounter,
    tls: LabelledCounter,
}

#[derive(Debug)]
struct RouteSeries {
    over_http1: WebSockets,
    over_http2: WebSockets,
    websocket_duration: Histogram,
    closes: LabelledCounter,
    limit_closes: LabelledCounter,
    client_pings: Histogram,
    server_pings: Histogram,
    from_downstream: Traffic,
    from_upstream: Traffic,
    /// By method, then by status class.
    requests: [[AtomicU64; STATUS_CLASSES.len()]; METHODS.len()],
    request_duration: Histogram,
    /// Body bytes of ordinary requests, and of their responses.
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

/// Those whose clients speak one version of HTTP.
#[derive(Debug, Default)]
struct WebSockets {
    open: AtomicI64,
    handshakes: LabelledCounter,
}

#[derive(Debug, Default)]
struct Traffic {
    bytes: AtomicU64,
    messages: AtomicU64,
    recompressed: AtomicU64,
}

#[derive(Debug)]
struct EndpointSeries {
    up: AtomicI64,
    leases: AtomicI64,
    http2_connections: AtomicI64,
    connect_errors: LabelledCounter,
    connect_duration: Histogram,
}

#[derive(Debug)]
struct PluginSeries {
    calls: LabelledCounter,
    call_duration: Histogram,
    messages: LabelledCounter,
    message_duration: Histogram,
    quarantines: AtomicU64,
    quarantined_until: Mutex<Option<Instant>>,
}

/// What the collector reads and the handles come from.
#[derive(Debug)]
struct Shared {
    listeners: Live<String, ListenerSeries>,
    routes: Live<String, RouteSeries>,
    /// By upstream and address.
    endpoints: Live<(String, String), EndpointSeries>,
    /// By plugin and route.
    plugins: Live<(String, String), PluginSeries>,
    /// What plugins count for themselves, once there is a host for them.
    plugins_own: OnceLock<Arc<PluginRegistry>>,
    rejected: LabelledCounter,
    responses_cut: LabelledCounter,
    reloads: LabelledCounter,
    last_reload_success: AtomicU64,
    config_generation: AtomicU64,
    /// Name and expiry in seconds since the epoch.
    certificates: Mutex<Vec<(String, i64)>>,
    dropped: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
    draining: AtomicI64,
    /// Once the process serves.
    budget: OnceLock<Arc<Budget>>,
    started: SystemTime,
}

/// Series by name, each for as long as a handle to it lives.
#[derive(Debug)]
struct Live<K, S>(Mutex<BTreeMap<K, Weak<S>>>);

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let shared = Arc::new(Shared {
            listeners: Live::default(),
            routes: Live::default(),
            endpoints: Live::default(),
            plugins: Live::default(),
            plugins_own: OnceLock::new(),
            rejected: LabelledCounter::default(),
            responses_cut: LabelledCounter::default(),
            reloads: LabelledCounter::default(),
            last_reload_success: AtomicU64::new(0),
            config_generation: AtomicU64::new(0),
            certificates: Mutex::default(),
            dropped: Mutex::default(),
            draining: AtomicI64::new(0),
            budget: OnceLock::new(),
            started: SystemTime::now(),
        });
        let mut registry = Registry::with_prefix("sluicegate");
        registry.register_collector(Box::new(Arc::clone(&shared)));
        Arc::new(Metrics { shared, registry })
    }

    /// `bind` as configured.
    pub fn listener(&self, bind: &str) -> ListenerMetrics {
        ListenerMetrics(self.shared.listeners.get(bind.to_owned(), Default::default))
    }

    pub fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics(self.shared.routes.get(name.to_owned(), RouteSeries::new))
    }

    /// A new endpoint counts as up.
    pub fn endpoint(&self, upstream: &str, address: &str) -> EndpointMetrics {
        let key = (upstream.to_owned(), address.to_owned());
        EndpointMetrics(self.shared.endpoints.get(key, EndpointSeries::new))
    }

    pub fn plugin(&self, plugin: &str, route: &str) -> PluginMetrics {
        let key = (plugin.to_owned(), route.to_owned());
        PluginMetrics(self.shared.plugins.get(key, PluginSeries::new))
    }

    /// Counts a request refused by the proxy itself, with or without a route.
    pub fn request_rejected(&self, reason: &'static str) {
        self.shared.rejected.inc(reason);
    }

    /// Counts a response that was broken off for what its client did or did not do.
    pub fn response_cut(&self, reason: &'static str) {
        self.shared.responses_cut.inc(reason);
    }

    /// Counts a reload that was applied, and publishes its generation.
    pub fn reload_applied(&self, generation: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        self.shared.reloads.inc("applied");
        self.shared
            .last_reload_success
            .store(now, Ordering::Relaxed);
        self.set_generation(generation);
    }

    /// Counts a reload that was refused; the old configuration goes on.
    pub fn reload_rejected(&self) {
        self.shared.reloads.inc("rejected");
    }

    /// The generation that serves, also before any reload.
    pub fn set_generation(&self, generation: u64) {
        self.shared
            .config_generation
            .store(generation, Ordering::Relaxed);
    }

    /// The certificates in use, by name, with their expiry in seconds since the epoch.
    pub fn set_certificates(&self, certificates: Vec<(String, i64)>) {
        *lock(&self.shared.certificates) = certificates;
    }

    pub fn set_draining(&self, draining: bool) {
        self.shared
            .draining
            .store(i64::from(draining), Ordering::Relaxed);
    }

    /// Exports what plugins count for themselves; the first call's registry stays.
    pub fn export_plugins(&self, registry: Arc<PluginRegistry>) {
        self.shared.plugins_own.get_or_init(|| registry);
    }

    /// Exports a count of log lines dropped on `stream`; call once per stream.
    pub fn export_dropped(&self, stream: &'static str, dropped: Arc<AtomicU64>) {
        lock(&self.shared.dropped).push((stream, dropped));
    }

    /// Exports what is held in buffers; the first call's budget stays.
    pub fn export_budget(&self, budget: Arc<Budget>) {
        self.shared.budget.get_or_init(|| budget);
    }

    /// Everything in the OpenMetrics text format ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail, and our own encoders add no failure.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        text
    }
}

impl ListenerMetrics {
    /// Counts an accepted connection, open until the guard is dropped.
    pub fn accepted(&self) -> OpenGuard {
        self.0.accepted.fetch_add(1, Ordering::Relaxed);
        OpenGuard::new(self.0.clone())
    }

    /// Counts a time at which nothing could be accepted, for want of descriptors or memory.
    pub fn accept_failed(&self) {
        self.0.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection closed right after accept.
    pub fn refused(&self, reason: &'static str) {
        self.0.refused.inc(reason);
    }

    /// Counts a connection that ends between two requests although its client would have gone on.
    pub fn retired(&self, reason: &'static str) {
        self.0.retired.inc(reason);
    }

    /// Counts a TLS handshake; `result` is `ok` or why there is none.
    pub fn tls_handshake(&self, result: &'static str) {
        self.0.tls.inc(result);
    }
}

impl RouteMetrics {
    /// Counts a handshake that was accepted; the WebSocket is open until the guard is dropped.
    ///
    /// `over` is what the client speaks.
    pub fn websocket_open(&self, over: Version) -> WebSocketGuard {
        let websockets = self.0.websockets(over);
        websockets.handshakes.inc("accepted");
        websockets.open.fetch_add(1, Ordering::Relaxed);
        WebSocketGuard {
            series: Arc::clone(&self.0),
            over,
        }
    }

    /// Counts a handshake that was not accepted.
    pub fn handshake_refused(&self, over: Version, label: &'static str) {
        self.0.websockets(over).handshakes.inc(label);
    }

    /// `code` is `None` when the tunnel ended without a Close frame.
    pub fn websocket_closed(&self, duration: Duration, code: Option<CloseCode>) {
        self.0.websocket_duration.observe(duration);
        self.0.closes.inc(code.map_or("none", CloseCode::label));
    }

    /// Counts a tunnel that a limit of the route ended, by the limit's name.
    pub fn limit_closed(&self, limit: &'static str) {
        self.0.limit_closes.inc(limit);
    }

    /// From a ping of the proxy's own to the pong of the side that was asked.
    pub fn ping_round_trip(&self, side: Side, took: Duration) {
        match side {
            Side::FromClient => self.0.client_pings.observe(took),
            Side::FromServer => self.0.server_pings.observe(took),
        }
    }

    /// Adds messages that had to be compressed anew.
    pub fn recompressed(&self, direction: Direction, messages: u64) {
        let traffic = self.0.traffic(direction);
        traffic.recompressed.fetch_add(messages, Ordering::Relaxed);
    }

    /// Adds what passed through a tunnel since the last call.
    pub fn websocket_traffic(&self, direction: Direction, bytes: u64, messages: u64) {
        let traffic = self.0.traffic(direction);
        traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
        traffic.messages.fetch_add(messages, Ordering::Relaxed);
    }

    /// Counts an ordinary request when its response has ended.
    pub fn request(&self, method: &Method, status: StatusCode, duration: Duration) {
        let other = METHODS.len() - 1;
        let row = METHODS.iter().position(|m| method == *m).unwrap_or(other);
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUS_CLASSES.len()) - 1;
        self.0.requests[row][class].fetch_add(1, Ordering::Relaxed);
        self.0.request_duration.observe(duration);
    }

    /// Adds the body bytes of an ordinary request and of its response.
    pub fn request_traffic(&self, from_downstream: u64, from_upstream: u64) {
        self.0
            .request_bytes
            .fetch_add(from_downstream, Ordering::Relaxed);
        self.0
            .response_bytes
            .fetch_add(from_upstream, Ordering::Relaxed);
    }
}

impl EndpointMetrics {
    pub fn set_up(&self, up: bool) {
        self.0.up.store(i64::from(up), Ordering::Relaxed);
    }

    /// Counts a lease until the guard is dropped.
    pub fn lease(&self) -> OpenGuard {
        OpenGuard::new(self.0.clone())
    }

    /// Counts an HTTP/2 connection until the guard is dropped.
    pub fn http2_connection(&self) -> Http2Guard {
        self.0.http2_connections.fetch_add(1, Ordering::Relaxed);
        Http2Guard(Arc::clone(&self.0))
    }

    pub fn connected(&self, duration: Duration) {
        self.0.connect_duration.observe(duration);
    }

    pub fn connect_error(&self, kind: &'static str) {
        self.0.connect_errors.inc(kind);
    }
}

impl PluginMetrics {
    /// Counts one call; `result` is `continue`, `respond` or the label of a failure.
    pub fn call(&self, result: &'static str, duration: Duration) {
        self.0.calls.inc(result);
        self.0.call_duration.observe(duration);
    }

    /// Counts one message or tick that it was asked about; `verdict` is `forward`, `replace`, `drop`,
    /// `close` or the label of a failure.
    pub fn message(&self, verdict: &'static str, duration: Duration) {
        self.0.messages.inc(verdict);
        self.0.message_duration.observe(duration);
    }

    /// Counts a quarantine that begins now and ends then.
    pub fn quarantined(&self, until: Instant) {
        self.0.quarantines.fetch_add(1, Ordering::Relaxed);
        self.set_quarantine(Some(until));
    }

    /// What quarantine it is in, whenever that began.
    pub fn set_quarantine(&self, until: Option<Instant>) {
        *lock(&self.0.quarantined_until) = until;
    }
}

impl OpenGuard {
    fn new(series: Arc<dyn Gauged>) -> OpenGuard {
        series.gauge().fetch_add(1, Ordering::Relaxed);
        OpenGuard(series)
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.gauge().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for WebSocketGuard {
    fn drop(&mut self) {
        let open = &self.series.websockets(self.over).open;
        open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Http2Guard {
    fn drop(&mut self) {
        self.0.http2_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gauged for ListenerSeries {
    fn gauge(&self) -> &AtomicI64 {
        &self.open
    }
}

impl Gauged for EndpointSeries {
    fn gauge(&self) -> &AtomicI64 {
        &self.leases
    }
}

impl RouteSeries {
    fn new() -> RouteSeries {
        RouteSeries {
            over_http1: WebSockets::default(),
            over_http2: WebSockets::default(),
            websocket_duration: Histogram::new(&LIFETIME_BUCKETS),
            closes: LabelledCounter::default(),
            limit_closes: LabelledCounter::default(),
            client_pings: Histogram::new(&LATENCY_BUCKETS),
            server_pings: Histogram::new(&LATENCY_BUCKETS),
            from_downstream: Traffic::default(),
            from_upstream: Traffic::default(),
            requests: Default::default(),
            request_duration: Histogram::new(&LATENCY_BUCKETS),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }

    fn websockets(&self, over: Version) -> &WebSockets {
        match over {
            Version::HTTP_2 => &self.over_http2,
            _ => &self.over_http1,
        }
    }

    fn traffic(&self, direction: Direction) -> &Traffic {
        match direction {
            Direction::FromDownstream => &self.from_downstream,
            Direction::FromUpstream => &self.from_upstream,
        }
    }
}

impl EndpointSeries {
    fn new() -> EndpointSeries {
        EndpointSeries {
            up: AtomicI64::new(1),
            leases: AtomicI64::new(0),
            http2_connections: AtomicI64::new(0),
            connect_errors: LabelledCounter::default(),
            connect_duration: Histogram::new(&LATENCY_BUCKETS),
        }
    }
}

impl PluginSeries {
    fn new() -> PluginSeries {
        PluginSeries {
            calls: LabelledCounter::default(),
            call_duration: Histogram::new(&CALL_BUCKETS),
            messages: LabelledCounter::default(),
            message_duration: Histogram::new(&MESSAGE_BUCKETS),
            quarantines: AtomicU64::new(0),
            quarantined_until: Mutex::default(),
        }
    }
}

impl<K: Ord + Clone, S> Live<K, S> {
    fn get(&self, key: K, new: impl FnOnce() -> S) -> Arc<S> {
        let mut map = lock(&self.0);
        if let Some(series) = map.get(&key).and_then(Weak::upgrade) {
            return series;
        }
        // Making a handle is rare: the moment to forget the dead ones.
        map.retain(|_, series| series.strong_count() > 0);
        let series = Arc::new(new());
        map.insert(key, Arc::downgrade(&series));
        series
    }

    fn all(&self) -> Vec<(K, Arc<S>)> {
        lock(&self.0)
            .iter()
            .filter_map(|(key, series)| Some((key.clone(), series.upgrade()?)))
            .collect()
    }
}

impl<K, S> Default for Live<K, S> {
    fn default() -> Self {
        Live(Mutex::default())
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The last one stands for every other method; CONNECT is a WebSocket over HTTP/2 that was refused.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "other",
];

#[cfg(test)]
mod tests;
