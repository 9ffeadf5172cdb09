//! The clients' view laid beside the metrics': what one of them has counted the other has, and nothing more.

use std::collections::BTreeMap;
use std::fmt;

use crate::clients::faults;
use crate::ledger::{Count, Ledger};
use crate::world::admin::Sample;

/// Notes each count that differs.
pub(crate) fn compare(ledger: &Ledger, metrics: &[Sample]) {
    let seen = ledger.counts();
    let mut counted: BTreeMap<Count, u64> = BTreeMap::new();
    for sample in metrics.iter().filter(|sample| sample.value > 0.0) {
        if let Some(count) = of_sample(sample) {
            if matches!(
                count,
                Count::OwnAnswers {
                    status: UNKNOWN,
                    ..
                }
            ) {
                ledger.broke(AGREE, format!("nobody gave cause for this: {sample:?}"));
            }
            *counted.entry(count).or_default() += sample.value as u64;
        }
    }
    let lacks = sum(metrics, "accept_errors_total");
    let shortages = ledger.shortages().len();
    if lacks < shortages as f64 {
        let how = format!("{shortages} times without descriptors, and accept_errors is {lacks}");
        ledger.broke(AGREE, how);
    }
    // Those who leave do not say what they saw; reasons have no routes, but requests have.
    let unseen = metrics.iter().filter(|sample| is_of_leavers(sample));
    let unseen = unseen.filter(|sample| sample.name == "requests_total");
    let unseen = unseen.filter(|sample| sample.labels.get("status").is_some_and(|s| s == "5xx"));
    let unseen: f64 = unseen.map(|sample| sample.value).sum();
    let unavailable = Count::OwnAnswers {
        status: 503,
        reason: None,
    };
    if let Some(unavailable) = counted.get_mut(&unavailable) {
        *unavailable = unavailable.saturating_sub(unseen as u64);
    }
    let mut all: Vec<&Count> = seen.keys().chain(counted.keys()).collect();
    all.sort();
    all.dedup();
    for count in all {
        let seen = seen.get(count).copied().unwrap_or(0);
        let counted = counted.get(count).copied().unwrap_or(0);
        if seen != counted {
            let how = format!("{count}: {seen} seen by clients, {counted} in the metrics");
            ledger.broke(AGREE, how);
        }
    }
}

/// The sum of a gauge's series.
pub(crate) fn sum(metrics: &[Sample], name: &str) -> f64 {
    let all = metrics.iter().filter(|sample| sample.name == name);
    all.map(|sample| sample.value).sum()
}

fn is_of_leavers(sample: &Sample) -> bool {
    let route = sample.labels.get("route");
    route.is_some_and(|route| route.starts_with("leave"))
}

/// What the sample counts, if clients can know it.
fn of_sample(sample: &Sample) -> Option<Count> {
    let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
    let route = label("route");
    if is_of_leavers(sample) {
        return None;
    }
    Some(match sample.name.as_str() {
        "connections_accepted_total" | "connections_refused_total" => Count::Connections {
            listener: label("listener"),
        },
        "tls_handshakes_total" => Count::TlsHandshakes {
            ok: label("result") == "ok",
        },
        "requests_total" => Count::Requests {
            route,
            method: label("method"),
            class: label("status").trim_end_matches("xx").parse().unwrap_or(0),
        },
        "handshakes_total" => Count::Handshakes {
            accepted: label("result") == "accepted",
            route,
        },
        "websocket_closes_total" => Count::Closes {
            code: match &*route {
                "talk" => None,
                _ => label("code").parse().ok(),
            },
            route,
        },
        "websocket_messages_total" if HEALTHY.contains(&&*route) => Count::Messages {
            from_client: label("direction") == "from_downstream",
            route,
        },
        "requests_rejected_total" => {
            let reason = label("reason");
            Count::OwnAnswers {
                status: status_of(&reason),
                reason: faults::reasons().find(|known| *known == reason),
            }
        }
        "responses_cut_total" => Count::ResponsesCut,
        "plugin_calls_total" if !matches!(&*label("result"), "continue" | "respond") => {
            Count::PluginFailures {
                plugin: label("plugin"),
                result: label("result"),
            }
        }
        "reloads_total" => Count::Reloads {
            applied: label("result") == "applied",
        },
        _ => return None,
    })
}

/// The status that a reason is told with; [`UNKNOWN`] for one that nobody here may give cause for.
fn status_of(reason: &str) -> u16 {
    match reason {
        "host" | "no_host" | "bare_lf" | "length_and_encoding" | "bad_target" | "bad_version" => {
            400
        }
        "no_route" => 404,
        "trap" | "timeout" | "memory" => 500,
        "connect_refused" | "connect_failed" | "upstream_closed" | "upstream_broken"
        | "upstream_framing" | "unasked_upgrade" | "upstream_accept" => 502,
        "upstream_down" | "upstream_busy" | "out_of_resources" | "overloaded" => 503,
        "connect_timeout" | "response_timeout" => 504,
        _ => UNKNOWN,
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |from_client: bool| if from_client { "client" } else { "server" };
        match self {
            Count::Connections { listener } => write!(f, "connections to {listener}"),
            Count::TlsHandshakes { ok: true } => write!(f, "TLS handshakes"),
            Count::TlsHandshakes { ok: false } => write!(f, "TLS handshakes that failed"),
            Count::Requests {
                route,
                method,
                class,
            } => write!(f, "{method} on {route} answered with {class}xx"),
            Count::Handshakes {
                route,
                accepted: true,
            } => write!(f, "WebSockets on {route}"),
            Count::Handshakes { route, .. } => write!(f, "WebSockets refused on {route}"),
            Count::Closes {
                route,
                code: Some(code),
            } => write!(f, "WebSockets on {route} closed with {code}"),
            Count::Closes { route, code: None } => write!(f, "WebSockets on {route} ended"),
            Count::Messages { route, from_client } => {
                write!(f, "messages on {route} from the {}", side(*from_client))
            }
            Count::OwnAnswers { status, reason } => {
                let reason = reason.unwrap_or("any other reason");
                write!(f, "answers of the proxy's own with {status} for {reason}")
            }
            Count::ResponsesCut => write!(f, "answers cut because they were not taken"),
            Count::PluginFailures { plugin, result } => write!(f, "failures of {plugin}: {result}"),
            Count::Reloads { applied: true } => write!(f, "reloads applied"),
            Count::Reloads { .. } => write!(f, "reloads rejected"),
        }
    }
}

const UNKNOWN: u16 = 0;
/// Routes whose messages are counted to the last one; on the others a tunnel may break with some under way.
const HEALTHY: [&str; 3] = ["follow", "messages", "http2"];
const AGREE: &str = "what clients saw and what the metrics count agree";
