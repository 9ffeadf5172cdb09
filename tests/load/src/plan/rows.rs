//! The rows: which there are, and how they are called.

use super::{Body, Extent, Onward, Row, Spread, Transport, Work};

/// All rows, in the order in which they are run and shown.
pub(crate) fn rows(extent: Extent) -> Vec<Row> {
    let smoke = extent == Extent::Smoke;
    let both = [Transport::Plain, Transport::Tls];
    let mut rows = Vec::new();
    let sizes = [(64, "64B"), (1024, "1KiB"), (16 * 1024, "16KiB")];
    let crowds = if smoke { vec![3] } else { vec![1, 64, 500] };
    for (size, called) in sizes {
        for &connections in &crowds {
            for transport in both {
                rows.push(Row::new(
                    format!("echo/{called}/{connections}/{transport}"),
                    Work::Echo {
                        size,
                        connections,
                        transport,
                    },
                ));
            }
        }
    }
    let (per_second, connections) = if smoke { (1000, 5) } else { (10_000, 500) };
    for transport in both {
        rows.push(Row::new(
            format!("paced/64B/{connections}/{transport}"),
            Work::Paced {
                per_second,
                connections,
                transport,
            },
        ));
    }
    let at_once = if smoke { 2 } else { 16 };
    for transport in [Transport::Plain, Transport::Tls, Transport::TlsResumed] {
        rows.push(Row::new(
            format!("life/{transport}"),
            Work::Life { at_once, transport },
        ));
    }
    let connections = if smoke { 3 } else { 64 };
    for (body, called, fresh) in [
        (Body::Small, "get/kept", false),
        (Body::Small, "get/new", true),
        (Body::Large, "get/64KiB", false),
    ] {
        for transport in both {
            rows.push(Row::new(
                format!("{called}/{transport}"),
                Work::Get {
                    body,
                    connections: if fresh { at_once } else { connections },
                    transport,
                    fresh,
                },
            ));
        }
    }
    rows.push(Row::new(
        "get/http2/tls".to_owned(),
        Work::Http2 {
            connections: if smoke { 2 } else { 8 },
            streams: if smoke { 2 } else { 8 },
        },
    ));
    rows.extend(http2(smoke));
    let crowds = if smoke { vec![20] } else { vec![2000, 8000] };
    for &connections in &crowds {
        for transport in both {
            rows.push(Row::new(
                format!("idle/{connections}/{transport}"),
                Work::Idle {
                    connections,
                    transport,
                },
            ));
        }
    }
    let crowds = if smoke {
        vec![(50, 5)]
    } else {
        // The smaller one fits a limit of 20,000 descriptors.
        vec![(9000, 500), (15_000, 500)]
    };
    for (idle, busy) in crowds {
        rows.push(Row::new(
            format!("scale/{idle}-idle-{busy}-busy"),
            Work::Crowd { idle, busy },
        ));
    }
    let connections = if smoke { 50 } else { 5000 };
    for transport in both {
        rows.push(Row::new(
            format!("scale/burst-{connections}/{transport}"),
            Work::Burst {
                connections,
                transport,
            },
        ));
    }
    let (busy, slow) = if smoke { (9, 1) } else { (180, 20) };
    rows.push(Row::new(
        format!("scale/{slow}-slow-in-{}", busy + slow),
        Work::SlowReaders { busy, slow },
    ));
    rows.push(Row::new(
        "filter/headers".to_owned(),
        Work::Filter {
            connections: if smoke { 3 } else { 64 },
        },
    ));
    for (size, called) in &sizes[..2] {
        rows.push(Row::new(
            format!("messages/{called}"),
            Work::MessageFilter {
                size: *size,
                connections: if smoke { 3 } else { 64 },
            },
        ));
    }
    for (size, called) in sizes {
        rows.push(Row::new(
            format!("deflate/{called}"),
            Work::Compression {
                size,
                connections: if smoke { 3 } else { 64 },
            },
        ));
    }
    // Fits a limit of 20,000 descriptors.
    let connections = if smoke { 20 } else { 9700 };
    rows.push(Row::new(
        format!("messages/idle-{connections}"),
        Work::FilteredIdle { connections },
    ));
    if smoke {
        for row in &mut rows {
            row.goals.clear();
        }
    }
    rows
}

/// Rows that only proxies can do that take WebSockets over HTTP/2.
fn http2(smoke: bool) -> Vec<Row> {
    let spread = |connections, each| Spread { connections, each };
    let (spreads, idle) = if smoke {
        (vec![spread(2, 3)], vec![spread(4, 5)])
    } else {
        (
            vec![spread(50, 1), spread(1, 50)],
            vec![spread(2000, 1), spread(200, 10), spread(40, 50)],
        )
    };
    let echo = |name: &str, size, called: &str, spread, transport, onward| {
        Row::new(
            format!("http2/{name}/{called}/{spread}/{transport}"),
            Work::Sockets {
                size,
                spread,
                transport,
                onward,
            },
        )
    };
    let mut rows = Vec::new();
    for (size, called) in [(64, "64B"), (16 * 1024, "16KiB")] {
        for &spread in &spreads {
            for transport in [Transport::Plain, Transport::Tls] {
                rows.push(echo("echo", size, called, spread, transport, Onward::Http1));
            }
        }
    }
    for &spread in &spreads {
        let transport = Transport::Plain;
        rows.push(echo(
            "onward-echo",
            64,
            "64B",
            spread,
            transport,
            Onward::Http2,
        ));
    }
    let (connections, streams) = if smoke { (2, 2) } else { (8, 8) };
    rows.push(Row::new(
        "http2/onward-get/tls".to_owned(),
        Work::Http2ToHttp2 {
            connections,
            streams,
        },
    ));
    for spread in idle {
        rows.push(Row::new(
            format!("http2/idle/{spread}/tls"),
            Work::IdleSockets { spread },
        ));
    }
    rows
}
