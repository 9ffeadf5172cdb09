//! Turning the live series into metric families at each scrape.
//!
//! A family's series must stand together under one description, so each family is one pass over
//! the series that have it. A family without a series is left out.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sluicegate_plugin_host::metrics::{MetricKind, Value};

use super::series::{Histogram, LabelledCounter};
use super::{METHODS, STATUS_CLASSES, Shared, lock};
use crate::budget::Kind;

/// One series of a family: its labels and its value.
struct Sample<V> {
    labels: Vec<(&'static str, String)>,
    value: V,
}

impl Collector for Shared {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.listeners(&mut families)?;
        self.routes(&mut families)?;
        self.endpoints(&mut families)?;
        self.plugins(&mut families)?;
        self.plugins_own(&mut families)?;
        self.process(&mut families)?;
        self.budget(&mut families)
    }
}

impl Shared {
    fn listeners(&self, families: &mut Families<'_>) -> fmt::Result {
        let all: Vec<_> = (self.listeners.all().into_iter())
            .map(|(bind, series)| (vec![("listener", bind)], series))
            .collect();
        families.gauge(
            "connections_open",
            "Client connections open now",
            all.iter().map(|(l, s)| gauge(l, &s.open)),
        )?;
        families.counter(
            "connections_accepted",
            "Client connections accepted",
            all.iter().map(|(l, s)| counter(l, &s.accepted)),
        )?;
        families.counter(
            "accept_errors",
            "Times at which no connection could be accepted, for want of descriptors or memory",
            all.iter().map(|(l, s)| counter(l, &s.accept_errors)),
        )?;
        families.counter(
            "connections_refused",
            "Client connections closed right after accept",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "reason", &s.refused)),
        )?;
        families.counter(
            "connections_retired",
            "Client connections ended between two requests, though their clients would have gone on",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "reason", &s.retired)),
        )?;
        families.counter(
            "tls_handshakes",
            "TLS handshakes with clients",
            all.iter().flat_map(|(l, s)| labelled(l, "result", &s.tls)),
        )
    }

    fn routes(&self, families: &mut Families<'_>) -> fmt::Result {
        let all: Vec<_> = (self.routes.all().into_iter())
            .map(|(name, series)| (vec![("route", name)], series))
            .collect();
        let websockets: Vec<_> = all
            .iter()
            .flat_map(|(l, s)| {
                let over_http2 = (with(l, "http_version", "2"), &s.over_http2);
                let ever = over_http2.1.handshakes.counts().next().is_some();
                let over_http1 = (with(l, "http_version", "1.1"), &s.over_http1);
                [over_http1].into_iter().chain(ever.then_some(over_http2))
            })
            .collect();
        families.gauge(
            "websockets_open",
            "WebSockets open now",
            websockets.iter().map(|(l, s)| gauge(l, &s.open)),
        )?;
        families.counter(
            "handshakes",
            "WebSocket handshakes, accepted or refused",
            websockets
                .iter()
                .flat_map(|(l, s)| labelled(l, "result", &s.handshakes)),
        )?;
        families.histogram(
            "websocket_duration_seconds",
            "Lifetimes of closed WebSockets",
            all.iter().map(|(l, s)| (l.clone(), &s.websocket_duration)),
        )?;
        families.counter(
            "websocket_closes",
            "Closed WebSockets by close code",
            all.iter().flat_map(|(l, s)| labelled(l, "code", &s.closes)),
        )?;
        families.counter(
            "websocket_limit_closes",
            "WebSockets closed by a limit of their route",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "limit", &s.limit_closes)),
        )?;
        let pings = all.iter().flat_map(|(l, s)| {
            [
                (with(l, "side", "client"), &s.client_pings),
                (with(l, "side", "server"), &s.server_pings),
            ]
        });
        families.histogram(
            "websocket_ping_round_trip_seconds",
            "Time from a ping of the proxy's own to its pong",
            pings.filter(|(_, pings)| !pings.is_empty()),
        )?;
        let traffic = || {
            all.iter().flat_map(|(l, s)| {
                [
                    (with(l, "direction", "from_downstream"), &s.from_downstream),
                    (with(l, "direction", "from_upstream"), &s.from_upstream),
                ]
            })
        };
        families.counter(
            "websocket_bytes",
            "Bytes copied through WebSocket tunnels",
            traffic().map(|(l, t)| counter(&l, &t.bytes)),
        )?;
        families.counter(
            "websocket_messages",
            "Whole messages that passed through WebSocket tunnels",
            traffic().map(|(l, t)| counter(&l, &t.messages)),
        )?;
        let recompressed = traffic().map(|(l, t)| counter(&l, &t.recompressed));
        families.counter(
            "websocket_recompressed_messages",
            "Messages that the proxy compressed anew on their way",
            recompressed.filter(|sample| sample.value > 0),
        )?;
        let requests = all.iter().flat_map(|(labels, series)| {
            METHODS.iter().zip(&series.requests).flat_map(|(m, row)| {
                let labels = with(labels, "method", m);
                STATUS_CLASSES
                    .iter()
                    .zip(row)
                    .map(move |(class, count)| counter(&with(&labels, "status", class), count))
            })
        });
        families.counter(
            "requests",
            "Ordinary requests answered",
            requests.filter(|sample| sample.value > 0),
        )?;
        let request_traffic = all.iter().flat_map(|(l, s)| {
            [
                counter(&with(l, "direction", "from_downstream"), &s.request_bytes),
                counter(&with(l, "direction", "from_upstream"), &s.response_bytes),
            ]
        });
        families.counter(
            "request_bytes",
            "Body bytes of ordinary requests and of their responses",
            request_traffic,
        )?;
        families.histogram(
            "request_duration_seconds",
            "Time from the head of an ordinary request to the end of its response",
            all.iter().map(|(l, s)| (l.clone(), &s.request_duration)),
        )
    }

    fn endpoints(&self, families: &mut Families<'_>) -> fmt::Result {
        let all: Vec<_> = (self.endpoints.all().into_iter())
            .map(|((upstream, address), series)| {
                (vec![("upstream", upstream), ("endpoint", address)], series)
            })
            .collect();
        families.gauge(
            "upstream_up",
            "Whether the endpoint is offered requests",
            all.iter().map(|(l, s)| gauge(l, &s.up)),
        )?;
        families.gauge(
            "upstream_leases",
            "Requests and tunnels that hold the endpoint now",
            all.iter().map(|(l, s)| gauge(l, &s.leases)),
        )?;
        families.gauge(
            "upstream_http2_connections",
            "HTTP/2 connections to the endpoint that are open",
            all.iter().map(|(l, s)| gauge(l, &s.http2_connections)),
        )?;
        families.counter(
            "upstream_connect_errors",
            "Failed connects to the endpoint",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "kind", &s.connect_errors)),
        )?;
        families.histogram(
            "upstream_connect_duration_seconds",
            "Time to connect to the endpoint",
            all.iter().map(|(l, s)| (l.clone(), &s.connect_duration)),
        )
    }

    fn plugins(&self, families: &mut Families<'_>) -> fmt::Result {
        let all: Vec<_> = (self.plugins.all().into_iter())
            .map(|((plugin, route), series)| (vec![("plugin", plugin), ("route", route)], series))
            .collect();
        families.counter(
            "plugin_calls",
            "Calls into plugins by result",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "result", &s.calls)),
        )?;
        families.histogram(
            "plugin_call_duration_seconds",
            "Time spent in calls into plugins",
            all.iter().map(|(l, s)| (l.clone(), &s.call_duration)),
        )?;
        families.counter(
            "plugin_messages",
            "Messages and ticks that plugins were asked about, by verdict",
            all.iter()
                .flat_map(|(l, s)| labelled(l, "verdict", &s.messages)),
        )?;
        let messages = all.iter().map(|(l, s)| (l.clone(), &s.message_duration));
        families.histogram(
            "plugin_message_duration_seconds",
            "Time spent in plugins on a message or tick",
            messages.filter(|(_, durations)| !durations.is_empty()),
        )?;
        families.counter(
            "plugin_quarantines",
            "How often the plugin failed so often that it was left out for a while",
            all.iter().map(|(l, s)| counter(l, &s.quarantines)),
        )?;
        let now = Instant::now();
        families.gauge(
            "plugin_quarantined",
            "Whether the plugin is left out now",
            all.iter().map(|(l, s)| {
                let until = *lock(&s.quarantined_until);
                sample(l.clone(), i64::from(until.is_some_and(|until| now < until)))
            }),
        )
    }

    /// What plugins count for themselves.
    fn plugins_own(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(registry) = self.plugins_own.get() else {
            return Ok(());
        };
        for family in registry.families(OWN) {
            let (kind, help) = match family.kind {
                MetricKind::Counter => (MetricType::Counter, "Counted by a plugin"),
                MetricKind::Gauge => (MetricType::Gauge, "Set by a plugin"),
                MetricKind::Histogram => (MetricType::Histogram, "Measured by a plugin"),
            };
            let encoder = &mut families.0;
            let mut series = encoder.encode_descriptor(&family.name, help, None, kind)?;
            for sample in &family.series {
                let mut line = series.encode_family(&sample.labels)?;
                match &sample.value {
                    Value::Counter(n) => line.encode_counter::<NoLabelSet, u64, u64>(n, None),
                    Value::Gauge(value) => line.encode_gauge(value),
                    Value::Histogram { buckets, sum } => {
                        let count = buckets.iter().map(|(_, n)| n).sum();
                        line.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
                    }
                }?;
            }
        }
        Ok(())
    }

    fn budget(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(budget) = self.budget.get() else {
            return Ok(());
        };
        let bytes = |n: usize| [sample(Vec::new(), i64::try_from(n).unwrap_or(i64::MAX))];
        families.gauge(
            "buffered_bytes",
            "Bytes held for peers that are slow, and of messages that are not whole",
            bytes(budget.held()),
        )?;
        families.gauge(
            "buffered_bytes_limit",
            "Most of them, before the costliest holders are ended",
            bytes(budget.limit()),
        )?;
        families.counter(
            "memory_shed",
            "Tunnels and requests ended because buffers took too much memory",
            Kind::ALL.map(|kind| sample(with(&[], "kind", kind.label()), budget.shed(kind))),
        )
    }

    fn process(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "requests_rejected",
            "Requests refused by the proxy itself",
            labelled(&[], "reason", &self.rejected),
        )?;
        families.counter(
            "responses_cut",
            "Responses broken off because their clients did not take them",
            labelled(&[], "reason", &self.responses_cut),
        )?;
        families.counter(
            "reloads",
            "Reloads of the configuration",
            labelled(&[], "result", &self.reloads),
        )?;
        let one = |value: i64| [sample(Vec::new(), value)];
        let of = |value: &AtomicU64| value.load(Ordering::Relaxed).cast_signed();
        let reloaded = of(&self.last_reload_success);
        families.gauge(
            "last_reload_success_timestamp_seconds",
            "When a reload was last applied",
            one(reloaded).into_iter().filter(|_| reloaded > 0),
        )?;
        families.gauge(
            "config_generation",
            "Generation of the configuration that serves",
            one(of(&self.config_generation)),
        )?;
        let certificates = lock(&self.certificates).clone();
        families.gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate expires",
            (certificates.into_iter()).map(|(name, at)| sample(vec![("cert", name)], at)),
        )?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        families.gauge("build_info", "Version that runs", [sample(version, 1)])?;
        let started = self.started.duration_since(UNIX_EPOCH);
        families.gauge(
            "start_time_seconds",
            "When the process started",
            one(started.map_or(0, |since| since.as_secs().cast_signed())),
        )?;
        let dropped = lock(&self.dropped).clone();
        families.counter(
            "log_lines_dropped",
            "Log lines dropped because their reader was too slow or gone",
            (dropped.iter()).map(|(stream, n)| counter(&with(&[], "stream", stream), n)),
        )?;
        families.gauge(
            "draining",
            "Whether the process is stopping",
            [gauge(&[], &self.draining)],
        )?;
        families.gauge(
            "resident_memory_bytes",
            "Resident memory of the process",
            resident_memory().into_iter().map(|n| sample(Vec::new(), n)),
        )?;
        families.gauge(
            "open_fds",
            "File descriptors the process has open",
            open_fds().into_iter().map(|n| sample(Vec::new(), n)),
        )
    }
}

/// Families of ours that a plugin's own could run into.
pub(super) const OWN: &[(&str, MetricKind)] = &[
    ("plugin_calls", MetricKind::Counter),
    ("plugin_call_duration_seconds", MetricKind::Histogram),
    ("plugin_messages", MetricKind::Counter),
    ("plugin_message_duration_seconds", MetricKind::Histogram),
    ("plugin_quarantines", MetricKind::Counter),
    ("plugin_quarantined", MetricKind::Gauge),
];

/// Writes whole families; the registry adds the `sluicegate_` prefix.
struct Families<'a>(DescriptorEncoder<'a>);

type Labels = [(&'static str, String)];

impl Families<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<i64>>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, samples, |mut e, value| {
            e.encode_gauge(&value)
        })
    }

    /// The text gets the suffix `_total`.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<u64>>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, samples, |mut e, value| {
            e.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Vec<(&'static str, String)>, &'a Histogram)>,
    ) -> fmt::Result {
        let samples = samples.map(|(labels, value)| sample(labels, value));
        self.family(
            name,
            help,
            MetricType::Histogram,
            samples,
            |e, histogram| histogram.encode(e),
        )
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = Sample<V>>,
        encode: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for Sample { labels, value } in samples {
            if labels.is_empty() {
                return encode(family, value);
            }
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

fn sample<V>(labels: Vec<(&'static str, String)>, value: V) -> Sample<V> {
    Sample { labels, value }
}

fn gauge(labels: &Labels, value: &AtomicI64) -> Sample<i64> {
    sample(labels.to_vec(), value.load(Ordering::Relaxed))
}

fn counter(labels: &Labels, value: &AtomicU64) -> Sample<u64> {
    sample(labels.to_vec(), value.load(Ordering::Relaxed))
}

fn labelled<'a>(
    labels: &'a Labels,
    key: &'static str,
    counter: &'a LabelledCounter,
) -> impl Iterator<Item = Sample<u64>> + 'a {
    (counter.counts()).map(move |(label, count)| sample(with(labels, key, label), count))
}

fn with(labels: &Labels, key: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut labels = labels.to_vec();
    labels.push((key, value.to_owned()));
    labels
}

/// `None` where the kernel has no `/proc`.
fn resident_memory() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The size of `/proc/self/fd` is the number of descriptors since Linux 6.2, and 0 before: listing
/// the folder instead would take long where it matters most.
fn open_fds() -> Option<i64> {
    let count = fs::metadata("/proc/self/fd").ok()?.len();
    i64::try_from(count).ok().filter(|count| *count > 0)
}
