//! The goals, row by row.

use super::{Bound, Figure};

/// What sluicegate wants to reach, by row.
pub(super) const GOALS: &[(&str, Figure, Bound)] = &[
    ("echo/64B/500/plain", Figure::Cpu, Bound::Ratio(0.95)),
    ("echo/64B/500/tls", Figure::Cpu, Bound::Ratio(0.88)),
    ("echo/64B/64/plain", Figure::Cpu, Bound::Ratio(1.05)),
    ("echo/1KiB/64/tls", Figure::Cpu, Bound::Ratio(0.65)),
    ("echo/16KiB/64/plain", Figure::Cpu, Bound::Ratio(0.27)),
    ("echo/16KiB/64/tls", Figure::Cpu, Bound::Ratio(0.34)),
    ("paced/64B/500/plain", Figure::P99, Bound::BestPeer),
    ("paced/64B/500/tls", Figure::P99, Bound::BestPeer),
    ("life/plain", Figure::Cpu, Bound::Ratio(0.95)),
    ("life/tls", Figure::Cpu, Bound::Ratio(0.45)),
    ("life/tls-resumed", Figure::Cpu, Bound::Ratio(0.5)),
    ("get/kept/plain", Figure::Cpu, Bound::Ratio(1.1)),
    ("get/kept/tls", Figure::Cpu, Bound::Ratio(0.95)),
    ("get/http2/tls", Figure::Cpu, Bound::Ratio(1.0)),
    ("get/new/plain", Figure::Cpu, Bound::Ratio(1.0)),
    ("get/new/tls", Figure::Cpu, Bound::Ratio(0.45)),
    // A tunnel over HTTP/2 against one over HTTP/1.1 through the same proxy.
    (
        "http2/echo/64B/50x1/plain",
        Figure::TimesHttp1,
        Bound::Most(1.6),
    ),
    (
        "http2/echo/64B/50x1/tls",
        Figure::TimesHttp1,
        Bound::Most(1.6),
    ),
    (
        "http2/echo/64B/1x50/plain",
        Figure::TimesHttp1,
        Bound::Most(1.6),
    ),
    (
        "http2/echo/64B/1x50/tls",
        Figure::TimesHttp1,
        Bound::Most(1.6),
    ),
    ("http2/echo/64B/50x1/plain", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/64B/50x1/tls", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/64B/1x50/plain", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/64B/1x50/tls", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/16KiB/50x1/plain", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/16KiB/50x1/tls", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/16KiB/1x50/plain", Figure::Cpu, Bound::BestPeer),
    ("http2/echo/16KiB/1x50/tls", Figure::Cpu, Bound::BestPeer),
    (
        "http2/onward-echo/64B/50x1/plain",
        Figure::Cpu,
        Bound::BestPeer,
    ),
    (
        "http2/onward-echo/64B/1x50/plain",
        Figure::Cpu,
        Bound::BestPeer,
    ),
    ("http2/onward-get/tls", Figure::Cpu, Bound::BestPeer),
    ("http2/idle/2000x1/tls", Figure::IdleKib, Bound::BestPeer),
    ("http2/idle/200x10/tls", Figure::IdleKib, Bound::BestPeer),
    ("http2/idle/200x10/tls", Figure::IdleKib, Bound::Most(6.0)),
    ("http2/idle/40x50/tls", Figure::IdleKib, Bound::BestPeer),
    ("http2/idle/40x50/tls", Figure::IdleKib, Bound::Most(6.0)),
    ("idle/2000/plain", Figure::IdleKib, Bound::Most(2.0)),
    ("idle/2000/tls", Figure::IdleKib, Bound::Most(8.0)),
    ("idle/8000/plain", Figure::IdleKib, Bound::Most(2.0)),
    ("idle/8000/plain", Figure::KeptMib, Bound::Most(60.0)),
    ("idle/8000/tls", Figure::IdleKib, Bound::Most(8.0)),
    ("idle/8000/tls", Figure::KeptMib, Bound::Most(60.0)),
    ("filter/headers", Figure::AddedCpu, Bound::Most(18.0)),
];
/// The same of one form of sluicegate, where a row has several.
pub(super) const GOALS_OF_FORMS: &[(&str, &str, Figure, Bound)] = &[
    (
        "filter/headers",
        "sluicegate-wasm-reuse",
        Figure::AddedCpu,
        Bound::Most(4.0),
    ),
    (
        "messages/64B",
        "sluicegate-pass",
        Figure::AddedCpu,
        Bound::Most(3.0),
    ),
    (
        "messages/64B",
        "sluicegate-scan",
        Figure::AddedCpu,
        Bound::Most(3.0),
    ),
    (
        "messages/64B",
        "sluicegate-redact",
        Figure::AddedCpu,
        Bound::Most(3.0),
    ),
    (
        "messages/1KiB",
        "sluicegate-pass",
        Figure::AddedCpu,
        Bound::Most(5.0),
    ),
    (
        "messages/1KiB",
        "sluicegate-scan",
        Figure::AddedCpu,
        Bound::Most(5.0),
    ),
    (
        "messages/1KiB",
        "sluicegate-redact",
        Figure::AddedCpu,
        Bound::Most(5.0),
    ),
];
