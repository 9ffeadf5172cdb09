//! What is counted, and its Prometheus text.
//!
//! Whoever counts resolves a handle once ([`Metrics::route`], [`Metrics::endpoint`] …) and from then
//! on only adds to atomics. A handle *is* its series: it appears in the text while somebody holds
//! it. A new snapshot asks for its handles while the old one is still alive, so routes that stay
//! keep their counts over a reload; a removed route's series leave with its last tunnel.
//!
//! Labels are names from the configuration or `&'static str`; nothing a client sends becomes one. Only the
//! plugins' own metrics have labels of the plugins' making, so many and no more.

mod collect;
pub mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use prometheus_client::registry::Registry;
use sluicegate_plugin_host::metrics::Registry as PluginRegistry;

use crate::ws::CloseCode;
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

/// A series with a gauge that an [`OpenGuard`] holds up.
trait Gauged: std::fmt::Debug + Send + Sync {
    fn gauge(&self) -> &AtomicI64;
}

#[derive(Debug, Default)]
struct ListenerSeries {
    open: AtomicI64,
    accepted: AtomicU64,
    refused: LabelledCounter,
    tls: LabelledCounter,
}

#[derive(Debug)]
struct RouteSeries {
    websockets_open: AtomicI64,
    handshakes: LabelledCounter,
    websocket_duration: Histogram,
    closes: LabelledCounter,
    from_downstream: Traffic,
    from_upstream: Traffic,
    /// By method, then by status class.
    requests: [[AtomicU64; STATUS_CLASSES.len()]; METHODS.len()],
    request_duration: Histogram,
    /// Body bytes of ordinary requests, and of their responses.
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Traffic {
    bytes: AtomicU64,
    messages: AtomicU64,
}

#[derive(Debug)]
struct EndpointSeries {
    up: AtomicI64,
    leases: AtomicI64,
    connect_errors: LabelledCounter,
    connect_duration: Histogram,
}

#[derive(Debug)]
struct PluginSeries {
    calls: LabelledCounter,
    call_duration: Histogram,
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
    reloads: LabelledCounter,
    last_reload_success: AtomicU64,
    config_generation: AtomicU64,
    /// Name and expiry in seconds since the epoch.
    certificates: Mutex<Vec<(String, i64)>>,
    dropped: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
    draining: AtomicI64,
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
            reloads: LabelledCounter::default(),
            last_reload_success: AtomicU64::new(0),
            config_generation: AtomicU64::new(0),
            certificates: Mutex::default(),
            dropped: Mutex::default(),
            draining: AtomicI64::new(0),
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

    /// Counts a connection closed right after accept.
    pub fn refused(&self, reason: &'static str) {
        self.0.refused.inc(reason);
    }

    pub fn tls_handshake(&self, ok: bool) {
        self.0.tls.inc(if ok { "ok" } else { "failed" });
    }
}

impl RouteMetrics {
    /// Counts a handshake that was answered 101; the WebSocket is open until the guard is dropped.
    pub fn websocket_open(&self) -> OpenGuard {
        self.0.handshakes.inc("accepted");
        OpenGuard::new(self.0.clone())
    }

    /// Counts a handshake that was not answered 101.
    pub fn handshake_refused(&self, label: &'static str) {
        self.0.handshakes.inc(label);
    }

    /// `code` is `None` when the tunnel ended without a Close frame.
    pub fn websocket_closed(&self, duration: Duration, code: Option<CloseCode>) {
        self.0.websocket_duration.observe(duration);
        self.0.closes.inc(code.map_or("none", CloseCode::label));
    }

    /// Adds what passed through a tunnel since the last call.
    pub fn websocket_traffic(&self, direction: Direction, bytes: u64, messages: u64) {
        let traffic = match direction {
            Direction::FromDownstream => &self.0.from_downstream,
            Direction::FromUpstream => &self.0.from_upstream,
        };
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

    /// Counts a quarantine that begins now and ends then.
    pub fn quarantined(&self, until: Instant) {
        self.0.quarantines.fetch_add(1, Ordering::Relaxed);
        *lock(&self.0.quarantined_until) = Some(until);
    }

    /// A quarantine ended, if there was one, or was lifted.
    pub fn not_quarantined(&self) {
        *lock(&self.0.quarantined_until) = None;
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

impl Gauged for ListenerSeries {
    fn gauge(&self) -> &AtomicI64 {
        &self.open
    }
}

impl Gauged for RouteSeries {
    fn gauge(&self) -> &AtomicI64 {
        &self.websockets_open
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
            websockets_open: AtomicI64::new(0),
            handshakes: LabelledCounter::default(),
            websocket_duration: Histogram::new(&LIFETIME_BUCKETS),
            closes: LabelledCounter::default(),
            from_downstream: Traffic::default(),
            from_upstream: Traffic::default(),
            requests: Default::default(),
            request_duration: Histogram::new(&LATENCY_BUCKETS),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }
}

impl EndpointSeries {
    fn new() -> EndpointSeries {
        EndpointSeries {
            up: AtomicI64::new(1),
            leases: AtomicI64::new(0),
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

/// Buckets for requests and connects: 500 µs to 60 s.
pub static LATENCY_BUCKETS: [Duration; 14] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// Buckets for the lifetimes of WebSockets: 1 s to a day.
pub static LIFETIME_BUCKETS: [Duration; 9] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
    Duration::from_secs(3_600),
    Duration::from_secs(14_400),
    Duration::from_secs(43_200),
    Duration::from_secs(86_400),
];

/// Buckets for plugin calls: 10 µs to 1 s.
pub static CALL_BUCKETS: [Duration; 11] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The last one stands for every other method.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.encode();
        for line in lines {
            assert!(text.lines().any(|l| l == *line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn everything_counted_is_in_the_text() {
        let metrics = Metrics::new();
        let listener = metrics.listener(":443");
        let connection = listener.accepted();
        listener.tls_handshake(true);
        listener.refused("limit");
        let route = metrics.route("chat");
        drop(route.websocket_open());
        let socket = route.websocket_open();
        route.handshake_refused("origin");
        route.websocket_closed(Duration::from_secs(30), Some(CloseCode(1001)));
        route.websocket_closed(Duration::from_secs(30), None);
        route.websocket_traffic(Direction::FromDownstream, 100, 2);
        route.request(
            &Method::GET,
            StatusCode::NOT_FOUND,
            Duration::from_millis(3),
        );
        let brew = Method::from_bytes(b"BREW").unwrap();
        route.request(&brew, StatusCode::OK, Duration::ZERO);
        route.request_traffic(7, 8);
        metrics.request_rejected("bad_head");
        let endpoint = metrics.endpoint("backend", "10.0.0.1:3000");
        let lease = endpoint.lease();
        endpoint.connect_error("refused");
        endpoint.connected(Duration::from_millis(1));
        let plugin = metrics.plugin("auth", "chat");
        plugin.call("continue", Duration::from_micros(30));
        plugin.quarantined(Instant::now() + Duration::from_secs(600));
        let other_plugin = metrics.plugin("ban", "chat");
        other_plugin.quarantined(Instant::now());
        metrics.reload_applied(7);
        metrics.reload_rejected();
        metrics.set_draining(true);
        metrics.set_certificates(vec![("ws.crt".to_owned(), 1_800_000_000)]);
        metrics.export_dropped("access", Arc::new(AtomicU64::new(4)));
        check(
            &metrics,
            &[
                r#"sluicegate_connections_open{listener=":443"} 1"#,
                r#"sluicegate_connections_accepted_total{listener=":443"} 1"#,
                r#"sluicegate_connections_refused_total{listener=":443",reason="limit"} 1"#,
                r#"sluicegate_tls_handshakes_total{listener=":443",result="ok"} 1"#,
                r#"sluicegate_websockets_open{route="chat"} 1"#,
                r#"sluicegate_handshakes_total{route="chat",result="accepted"} 2"#,
                r#"sluicegate_handshakes_total{route="chat",result="origin"} 1"#,
                r#"sluicegate_websocket_duration_seconds_count{route="chat"} 2"#,
                r#"sluicegate_websocket_duration_seconds_bucket{le="60.0",route="chat"} 2"#,
                r#"sluicegate_websocket_closes_total{route="chat",code="1001"} 1"#,
                r#"sluicegate_websocket_closes_total{route="chat",code="none"} 1"#,
                r#"sluicegate_websocket_bytes_total{route="chat",direction="from_downstream"} 100"#,
                r#"sluicegate_websocket_messages_total{route="chat",direction="from_downstream"} 2"#,
                r#"sluicegate_requests_total{route="chat",method="GET",status="4xx"} 1"#,
                r#"sluicegate_requests_total{route="chat",method="other",status="2xx"} 1"#,
                r#"sluicegate_request_bytes_total{route="chat",direction="from_downstream"} 7"#,
                r#"sluicegate_request_bytes_total{route="chat",direction="from_upstream"} 8"#,
                r#"sluicegate_request_duration_seconds_bucket{le="0.005",route="chat"} 2"#,
                r#"sluicegate_requests_rejected_total{reason="bad_head"} 1"#,
                r#"sluicegate_upstream_up{upstream="backend",endpoint="10.0.0.1:3000"} 1"#,
                r#"sluicegate_upstream_leases{upstream="backend",endpoint="10.0.0.1:3000"} 1"#,
                r#"sluicegate_upstream_connect_errors_total{upstream="backend",endpoint="10.0.0.1:3000",kind="refused"} 1"#,
                r#"sluicegate_plugin_calls_total{plugin="auth",route="chat",result="continue"} 1"#,
                r#"sluicegate_plugin_call_duration_seconds_count{plugin="auth",route="chat"} 1"#,
                r#"sluicegate_plugin_quarantines_total{plugin="auth",route="chat"} 1"#,
                r#"sluicegate_plugin_quarantined{plugin="auth",route="chat"} 1"#,
                r#"sluicegate_plugin_quarantined{plugin="ban",route="chat"} 0"#,
                r#"sluicegate_reloads_total{result="applied"} 1"#,
                r#"sluicegate_reloads_total{result="rejected"} 1"#,
                "sluicegate_config_generation 7",
                "sluicegate_draining 1",
                r#"sluicegate_certificate_expiry_timestamp_seconds{cert="ws.crt"} 1800000000"#,
                r#"sluicegate_log_lines_dropped_total{stream="access"} 4"#,
                concat!(
                    r#"sluicegate_build_info{version=""#,
                    env!("CARGO_PKG_VERSION"),
                    r#""} 1"#
                ),
                "# EOF",
            ],
        );
        drop((connection, socket, lease));
        check(
            &metrics,
            &[
                r#"sluicegate_connections_open{listener=":443"} 0"#,
                r#"sluicegate_websockets_open{route="chat"} 0"#,
                r#"sluicegate_upstream_leases{upstream="backend",endpoint="10.0.0.1:3000"} 0"#,
            ],
        );
    }

    #[test]
    fn series_live_as_long_as_a_handle() {
        let metrics = Metrics::new();
        let old = metrics.route("chat");
        old.handshake_refused("origin");
        let new = metrics.route("chat");
        drop(old);
        let line = r#"sluicegate_handshakes_total{route="chat",result="origin"} 1"#;
        check(&metrics, &[line]);
        let tunnel = new.websocket_open();
        drop(new);
        check(&metrics, &[line]);
        drop(tunnel);
        assert!(!metrics.encode().contains("chat"));
        let fresh = metrics.route("chat");
        assert!(!metrics.encode().contains(line));
        drop(fresh);
    }

    #[test]
    fn plugins_count_for_themselves() {
        let metrics = Metrics::new();
        let registry = Arc::new(PluginRegistry::new());
        metrics.export_plugins(Arc::clone(&registry));
        let auth = registry.plugin("my-auth");
        let reason = [("reason".to_owned(), "no \"key\"\n".to_owned())];
        auth.count("refused_total", &reason, 3).unwrap();
        auth.gauge("keys", &[], 2.5).unwrap();
        auth.observe("lookup_seconds", &[], 0.002).unwrap();
        check(
            &metrics,
            &[
                "# TYPE sluicegate_plugin_my_auth_refused counter",
                r#"sluicegate_plugin_my_auth_refused_total{plugin="my-auth",reason="no \"key\"\n"} 3"#,
                "# TYPE sluicegate_plugin_my_auth_keys gauge",
                r#"sluicegate_plugin_my_auth_keys{plugin="my-auth"} 2.5"#,
                r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="0.001",plugin="my-auth"} 0"#,
                r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="0.0025",plugin="my-auth"} 1"#,
                r#"sluicegate_plugin_my_auth_lookup_seconds_bucket{le="+Inf",plugin="my-auth"} 1"#,
                r#"sluicegate_plugin_my_auth_lookup_seconds_count{plugin="my-auth"} 1"#,
                r#"sluicegate_plugin_my_auth_lookup_seconds_sum{plugin="my-auth"} 0.002"#,
            ],
        );
    }

    /// Those that begin with `plugin_` are all told to the plugins' registry.
    #[test]
    fn no_plugin_can_take_the_name_of_a_family_of_ours() {
        let metrics = Metrics::new();
        let own = metrics.plugin("p", "route");
        own.call("continue", Duration::ZERO);
        let text = metrics.encode();
        let mut found = 0;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("# TYPE sluicegate_plugin_") {
                let (name, _) = name.split_once(' ').unwrap();
                let full = format!("plugin_{name}");
                assert!(collect::OWN.iter().any(|(own, _)| *own == full), "{full}");
                found += 1;
            }
        }
        assert_eq!(found, collect::OWN.len());
        let registry = Arc::new(PluginRegistry::new());
        let call = registry.plugin("call");
        call.observe("duration_seconds", &[], 1.0).unwrap();
        metrics.export_plugins(registry);
        assert!(!metrics.encode().contains(r#"plugin="call""#), "left out");
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::new();
        let route = metrics.route("a\"b\nc");
        route.handshake_refused("origin");
        check(
            &metrics,
            &[r#"sluicegate_handshakes_total{route="a\"b\nc",result="origin"} 1"#],
        );
    }
}
