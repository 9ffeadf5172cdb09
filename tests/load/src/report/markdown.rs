//! The results for people: one table of the leading figures, one of everything.

use std::fmt::Write as _;

use super::Report;
use crate::measure::series::Series;
use crate::peers::REFERENCE;
use crate::plan::{Figure, Goal};
use crate::run::{Outcome, RowResult};

/// The whole report as Markdown.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(report, &mut out);
    out
}

fn write_report(report: &Report, out: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(out, "# Results\n")?;
    writeln!(
        out,
        "{}, {} × {}, Linux {}. {} rounds of {} s, alternating; {}.\n",
        report.date,
        machine.processors,
        machine.processor,
        machine.kernel,
        report.rounds,
        report.seconds,
        if report.pinned {
            "the proxy on a processor of its own"
        } else {
            "processors not pinned"
        }
    )?;
    for (peer, version) in &report.versions {
        writeln!(out, "- {peer}: {version}")?;
    }
    for left_out in &report.left_out {
        writeln!(out, "- left out: {left_out}")?;
    }
    writeln!(out)?;
    let peers: Vec<&str> = report.versions.iter().map(|(peer, _)| *peer).collect();
    writeln!(
        out,
        "| row | {} | ratio to {REFERENCE} | goal |",
        peers.join(" | ")
    )?;
    writeln!(out, "|---|{}---|---|", "--:|".repeat(peers.len()))?;
    for result in &report.rows {
        write!(
            out,
            "| {} ({}) |",
            result.row.id,
            result.row.leading().title()
        )?;
        for peer in &peers {
            let outcome = outcome_of(result, peer);
            write!(out, " {} |", cell(outcome, result.row.leading()))?;
        }
        writeln!(out, " {} |", verdict(result))?;
    }
    Ok(())
}

fn outcome_of<'a>(result: &'a RowResult, peer: &str) -> Option<&'a Outcome> {
    let (_, outcome) = result.peers.iter().find(|(name, _)| *name == peer)?;
    Some(outcome)
}

fn cell(outcome: Option<&Outcome>, figure: Figure) -> String {
    match outcome {
        None => "–".to_owned(),
        Some(Err(_)) => "failed".to_owned(),
        Some(Ok(figures)) => figures.get(&figure).map_or("–".to_owned(), |series| {
            let Series { median, min, max } = series;
            format!("{median:.1} ({min:.1}–{max:.1})")
        }),
    }
}

/// The ratio to the reference and whether the goal is met: the last two columns.
fn verdict(result: &RowResult) -> String {
    let leading = |peer| {
        let figures = outcome_of(result, peer)?.as_ref().ok()?;
        Some(figures.get(&result.row.leading())?.median)
    };
    let ratio = match (leading("sluicegate"), leading(REFERENCE)) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => Some(ours / theirs),
        _ => None,
    };
    let shown = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let goal = match (result.row.goal, ratio) {
        (None, _) => String::new(),
        (Some(Goal::Ratio(goal)), None) => format!("≤ {goal}"),
        (Some(Goal::Ratio(goal)), Some(ratio)) if ratio <= goal => format!("≤ {goal} met"),
        (Some(Goal::Ratio(goal)), Some(_)) => format!("≤ {goal} **missed**"),
    };
    format!("{shown} | {goal}")
}
