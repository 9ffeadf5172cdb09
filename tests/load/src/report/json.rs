//! The results for programs: every figure with its median, least and most.
//!
//! One JSON object, laid out for reading and for comparing two runs line by line: a line for each
//! fact of the run, and in each row a line for its goals and ratios and one for each peer.

use std::collections::BTreeMap;
use std::fmt::{Result, Write as _};

use serde_json::{Map, Value, json};

use super::Report;
use super::judgement::{self, Judgement, judgements};
use crate::peers::REFERENCE;
use crate::plan::Figure;
use crate::run::{Outcome, RowResult};

/// The whole report as one JSON object.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(report, &mut out);
    out
}

fn write_report(report: &Report, out: &mut String) -> Result {
    let versions: Map<String, Value> = report
        .versions
        .iter()
        .map(|(peer, version)| ((*peer).to_owned(), json!(version)))
        .collect();
    writeln!(out, "{{")?;
    for (fact, value) in [
        ("date", json!(report.date)),
        ("machine", json!(report.machine)),
        ("commit", json!(report.commit)),
        ("versions", Value::Object(versions)),
        ("rounds", json!(report.rounds)),
        ("seconds", json!(report.seconds)),
        ("pinned", json!(report.pinned)),
        ("left_out", json!(report.left_out)),
    ] {
        writeln!(out, "  \"{fact}\": {value},")?;
    }
    let rows: Vec<String> = report.rows.iter().map(row).collect();
    writeln!(out, "  \"rows\": [{}]\n}}", rows.join(","))
}

/// A row, from the end of the line before it to the end of its own last one.
fn row(result: &RowResult) -> String {
    let peers = result.peers.iter();
    let peers =
        peers.map(|(peer, outcome)| format!("\n        {}: {}", json!(peer), cell(outcome)));
    let goals: Vec<Value> = judgements(result).iter().map(goal).collect();
    format!(
        "\n    {{ \"row\": {}, \"ratio_to_{REFERENCE}\": {}, \"goals\": {},\n      \"peers\": {{{} }} }}",
        json!(result.row.id),
        json!(ratios(result)),
        json!(goals),
        peers.collect::<Vec<_>>().join(",")
    )
}

/// Ours as a multiple of the reference, by the figures that the tables show.
fn ratios(result: &RowResult) -> BTreeMap<Figure, f64> {
    let figures = result.row.shown().iter();
    figures
        .filter_map(|&figure| Some((figure, judgement::ratio(result, figure)?)))
        .collect()
}

fn cell(outcome: &Outcome) -> Value {
    match outcome {
        Ok(figures) => json!(figures),
        Err(failure) => json!({ "failed": failure }),
    }
}

fn goal(judgement: &Judgement) -> Value {
    let Judgement {
        peer,
        figure,
        wanted,
        met,
    } = judgement;
    json!({ "peer": peer, "figure": figure, "wanted": wanted, "met": met })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::OURS;
    use crate::plan::{Bound, Goal};
    use crate::report::judgement::tests::result;
    use crate::report::tests::report;

    fn parsed(rows: Vec<RowResult>) -> (String, Value) {
        let text = render(&report(rows));
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn a_failure_is_not_a_figure() {
        let (_, whole) = parsed(vec![result(
            Vec::new(),
            &[("one", Some(2.5)), ("two", None)],
        )]);
        let peers = &whole["rows"][0]["peers"];
        assert_eq!(peers["one"]["cpu_us"]["median"], 2.5);
        assert_eq!(peers["two"], json!({ "failed": "it broke" }));
    }

    #[test]
    fn a_row_has_its_ratio_and_goals_and_a_line_for_each_peer() {
        let row = || {
            let goal = Goal::new(Figure::Cpu, Bound::Ratio(0.5));
            result(vec![goal], &[(OURS, Some(5.0)), (REFERENCE, Some(10.0))])
        };
        let (text, whole) = parsed(vec![row(), row()]);
        let second = &whole["rows"][1];
        assert_eq!(second["ratio_to_nginx"], json!({ "cpu_us": 0.5 }));
        assert_eq!(second["goals"][0]["met"], true);
        assert_eq!(whole["commit"], "abc1234");
        let cells = text.lines().filter(|line| line.contains("median"));
        assert_eq!(cells.count(), 4, "{text}");
    }

    #[test]
    fn a_run_without_rows_is_still_an_object() {
        assert_eq!(parsed(Vec::new()).1["rows"], json!([]));
    }
}
