//! The goals, row by row.

use super::Bound::{self, BestPeer, Most, Ratio};
use super::Figure::{self, AddedCpu, Cpu, IdleKib, KeptMib, P99, TimesHttp1};

/// What sluicegate wants to reach, by row.
pub(super) const GOALS: &[(&str, Figure, Bound)] = &[
    ("echo/64B/500/plain", Cpu, Ratio(0.95)),
    ("echo/64B/500/tls", Cpu, Ratio(0.88)),
    ("echo/64B/64/plain", Cpu, Ratio(1.05)),
    ("echo/1KiB/64/tls", Cpu, Ratio(0.65)),
    ("echo/16KiB/64/plain", Cpu, Ratio(0.27)),
    ("echo/16KiB/64/tls", Cpu, Ratio(0.34)),
    ("paced/64B/500/plain", P99, BestPeer),
    ("paced/64B/500/tls", P99, BestPeer),
    ("life/plain", Cpu, Ratio(0.95)),
    ("life/tls", Cpu, Ratio(0.45)),
    ("life/tls-resumed", Cpu, Ratio(0.5)),
    ("get/kept/plain", Cpu, Ratio(1.1)),
    ("get/kept/tls", Cpu, Ratio(0.95)),
    ("get/http2/tls", Cpu, Ratio(1.0)),
    ("get/new/plain", Cpu, Ratio(1.0)),
    ("get/new/tls", Cpu, Ratio(0.45)),
    // A tunnel over HTTP/2 against one over HTTP/1.1 through the same proxy.
    ("http2/echo/64B/50x1/plain", TimesHttp1, Most(1.6)),
    ("http2/echo/64B/50x1/tls", TimesHttp1, Most(1.6)),
    ("http2/echo/64B/1x50/plain", TimesHttp1, Most(1.6)),
    ("http2/echo/64B/1x50/tls", TimesHttp1, Most(1.6)),
    ("http2/echo/64B/50x1/plain", Cpu, BestPeer),
    ("http2/echo/64B/50x1/tls", Cpu, BestPeer),
    ("http2/echo/64B/1x50/plain", Cpu, BestPeer),
    ("http2/echo/64B/1x50/tls", Cpu, BestPeer),
    ("http2/echo/16KiB/50x1/plain", Cpu, BestPeer),
    ("http2/echo/16KiB/50x1/tls", Cpu, BestPeer),
    ("http2/echo/16KiB/1x50/plain", Cpu, BestPeer),
    ("http2/echo/16KiB/1x50/tls", Cpu, BestPeer),
    ("http2/onward-echo/64B/50x1/plain", Cpu, BestPeer),
    ("http2/onward-echo/64B/1x50/plain", Cpu, BestPeer),
    ("http2/onward-get/tls", Cpu, BestPeer),
    ("http2/idle/2000x1/tls", IdleKib, BestPeer),
    ("http2/idle/200x10/tls", IdleKib, BestPeer),
    ("http2/idle/200x10/tls", IdleKib, Most(6.0)),
    ("http2/idle/40x50/tls", IdleKib, BestPeer),
    ("http2/idle/40x50/tls", IdleKib, Most(6.0)),
    ("idle/2000/plain", IdleKib, Most(2.0)),
    ("idle/2000/tls", IdleKib, Most(8.0)),
    ("idle/8000/plain", IdleKib, Most(2.0)),
    ("idle/8000/plain", KeptMib, Most(60.0)),
    ("idle/8000/tls", IdleKib, Most(8.0)),
    ("idle/8000/tls", KeptMib, Most(60.0)),
    ("filter/headers", AddedCpu, Most(18.0)),
];

/// The same of one form of sluicegate, where a row has several.
pub(super) const GOALS_OF_FORMS: &[(&str, &str, Figure, Bound)] = &[
    (
        "filter/headers",
        "sluicegate-wasm-reuse",
        AddedCpu,
        Most(4.0),
    ),
    ("messages/64B", "sluicegate-pass", AddedCpu, Most(3.0)),
    ("messages/64B", "sluicegate-scan", AddedCpu, Most(3.0)),
    ("messages/64B", "sluicegate-redact", AddedCpu, Most(3.0)),
    ("messages/1KiB", "sluicegate-pass", AddedCpu, Most(5.0)),
    ("messages/1KiB", "sluicegate-scan", AddedCpu, Most(5.0)),
    ("messages/1KiB", "sluicegate-redact", AddedCpu, Most(5.0)),
];
