//! The results for programs: every figure with its median, least and most.

use serde_json::{Map, Value, json};

use super::Report;
use crate::run::Outcome;

/// The whole report as one JSON object.
pub(crate) fn render(report: &Report) -> String {
    let rows: Vec<Value> = report
        .rows
        .iter()
        .map(|result| {
            let peers: Map<String, Value> = result
                .peers
                .iter()
                .map(|(peer, outcome)| ((*peer).to_owned(), figures(outcome)))
                .collect();
            json!({ "row": result.row.id, "leading": result.row.leading(), "peers": peers })
        })
        .collect();
    let versions: Map<String, Value> = report
        .versions
        .iter()
        .map(|(peer, version)| ((*peer).to_owned(), json!(version)))
        .collect();
    let whole = json!({
        "machine": report.machine,
        "date": report.date,
        "rounds": report.rounds,
        "seconds": report.seconds,
        "pinned": report.pinned,
        "versions": versions,
        "left_out": report.left_out,
        "rows": rows,
    });
    format!("{whole:#}\n")
}

fn figures(outcome: &Outcome) -> Value {
    match outcome {
        Ok(figures) => json!(figures),
        Err(failure) => json!({ "failed": failure }),
    }
}
