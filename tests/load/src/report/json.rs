//! The results for programs: every figure with its median, least and most.

use serde_json::{Map, Value, json};

use super::Report;
use super::verdict::{Verdict, verdicts};
use crate::run::{Outcome, RowResult};

/// The whole report as one JSON object.
pub(crate) fn render(report: &Report) -> String {
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
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
    });
    format!("{whole:#}\n")
}

fn row(result: &RowResult) -> Value {
    let peers: Map<String, Value> = result
        .peers
        .iter()
        .map(|(peer, outcome)| ((*peer).to_owned(), figures(outcome)))
        .collect();
    let goals: Vec<Value> = verdicts(result).iter().map(goal).collect();
    json!({ "row": result.row.id, "peers": peers, "goals": goals })
}

fn figures(outcome: &Outcome) -> Value {
    match outcome {
        Ok(figures) => json!(figures),
        Err(failure) => json!({ "failed": failure }),
    }
}

fn goal(verdict: &Verdict) -> Value {
    json!({ "figure": verdict.figure, "wanted": verdict.wanted, "met": verdict.met })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::verdict::tests::result;

    #[test]
    fn a_failure_is_not_a_figure() {
        let row = row(&result(Vec::new(), &[("one", Some(2.5)), ("two", None)]));
        assert_eq!(row["peers"]["one"]["cpu_us"]["median"], 2.5);
        assert_eq!(row["peers"]["two"]["failed"], "it broke");
    }
}
