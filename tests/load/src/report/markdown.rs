//! The results for people: what was measured, how the goals stand, every figure, where we lose.

use std::fmt::{Result, Write as _};

use super::Report;
use super::judgement::{self, Judgement, NOISE, judgements, losses};
use crate::measure::series::Series;
use crate::peers::{OURS, REFERENCE};
use crate::plan::{Figure, Section};
use crate::run::{Outcome, RowResult};

/// The whole report as Markdown.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_report(report, &mut out);
    out
}

fn write_report(report: &Report, out: &mut String) -> Result {
    writeln!(out, "# Results\n")?;
    write_circumstances(report, out)?;
    for section in Section::ALL {
        let rows: Vec<&RowResult> = report
            .rows
            .iter()
            .filter(|result| result.row.section() == section)
            .collect();
        if !rows.is_empty() {
            writeln!(out, "\n## {}\n", section.title())?;
            write_section(&rows, out)?;
        }
    }
    write_rates(report, out)?;
    write_losses(report, out)?;
    write_failures(report, out)
}

fn write_circumstances(report: &Report, out: &mut String) -> Result {
    let machine = &report.machine;
    writeln!(
        out,
        "{}, {machine}, Linux {}. {} alternating rounds of {} s; {}. Each cell is the median, and in \
         brackets the least and the most; the rows under Memory and Scale start a proxy of their own \
         and run once, so they show no spread.\n",
        report.date,
        machine.kernel,
        report.rounds,
        report.seconds,
        if report.pinned {
            "the proxy on a processor of its own"
        } else {
            "processors not pinned"
        }
    )?;
    let versions: Vec<String> = report
        .versions
        .iter()
        .map(|(peer, version)| format!("{peer} {version}"))
        .collect();
    writeln!(out, "{}.", versions.join(", "))?;
    if let Some(commit) = &report.commit {
        writeln!(out, "\nsluicegate's sources are at commit {commit}.")?;
    }
    let all: Vec<_> = report.rows.iter().flat_map(judgements).collect();
    let met = all
        .iter()
        .filter(|judgement| judgement.met == Some(true))
        .count();
    let judged = all
        .iter()
        .filter(|judgement| judgement.met.is_some())
        .count();
    if judged > 0 {
        writeln!(out, "\nGoals met: {met} of {judged}.")?;
    }
    for left_out in &report.left_out {
        writeln!(out, "\nLeft out: {left_out}.")?;
    }
    Ok(())
}

/// One line for each figure of each row; ratios only where the reference takes part.
fn write_section(rows: &[&RowResult], out: &mut String) -> Result {
    let peers: Vec<&str> = rows[0].peers.iter().map(|(peer, _)| *peer).collect();
    let with_ratio = peers.contains(&REFERENCE);
    write!(out, "| | | {} |", peers.join(" | "))?;
    if with_ratio {
        write!(out, " ratio to {REFERENCE} |")?;
    }
    let numbers = peers.len() + usize::from(with_ratio);
    writeln!(out, " goal |\n|---|---|{}---|", "--:|".repeat(numbers))?;
    for result in rows {
        let judgements = judgements(result);
        for (at, &figure) in result.row.shown().iter().enumerate() {
            let name = if at == 0 { result.row.id.as_str() } else { "" };
            write!(out, "| {name} | {} |", figure.title())?;
            for (_, outcome) in &result.peers {
                write!(out, " {} |", cell(outcome, figure))?;
            }
            if with_ratio {
                let ratio = judgement::ratio(result, figure);
                let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
                write!(out, " {ratio} |")?;
            }
            let of_it = judgements.iter().filter(|one| one.figure == figure);
            let goals: Vec<String> = of_it.map(goal).collect();
            writeln!(out, " {} |", goals.join("; "))?;
        }
    }
    Ok(())
}

fn goal(judgement: &Judgement) -> String {
    let peer = judgement
        .peer
        .map_or(String::new(), |peer| format!("{peer} "));
    let met = match judgement.met {
        Some(true) => "met",
        Some(false) => "**missed**",
        None => "not judged",
    };
    format!("{peer}{} {met}", judgement.wanted)
}

fn write_rates(report: &Report, out: &mut String) -> Result {
    let rows: Vec<&RowResult> = report
        .rows
        .iter()
        .filter(|result| {
            let mut figures = result
                .peers
                .iter()
                .filter_map(|(_, outcome)| outcome.as_ref().ok());
            figures.any(|figures| figures.contains_key(&Figure::Rate))
        })
        .collect();
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let peers: Vec<&str> = first.peers.iter().map(|(peer, _)| *peer).collect();
    writeln!(
        out,
        "\n## Rates and latencies\n\nUnits per second, and the milliseconds that 50, 99 and 99.9 % \
         of them did not exceed. All rows but the paced ones are saturated: there a latency says how \
         long the queue was.\n"
    )?;
    writeln!(out, "| | {} |", peers.join(" | "))?;
    writeln!(out, "|---|{}", "--:|".repeat(peers.len()))?;
    for result in rows {
        write!(out, "| {} |", result.row.id)?;
        for (_, outcome) in &result.peers {
            let text = match outcome {
                Ok(figures) => {
                    let median = |figure| figures.get(&figure).map_or(0.0, |s: &Series| s.median);
                    let millis = |figure| short(median(figure));
                    format!(
                        "{:.0} · {} / {} / {}",
                        median(Figure::Rate),
                        millis(Figure::P50),
                        millis(Figure::P99),
                        millis(Figure::P999)
                    )
                }
                Err(_) => "failed".to_owned(),
            };
            write!(out, " {text} |")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_losses(report: &Report, out: &mut String) -> Result {
    let losses: Vec<_> = report.rows.iter().flat_map(losses).collect();
    if report
        .versions
        .iter()
        .all(|(peer, _)| peer.starts_with(OURS))
    {
        return Ok(());
    }
    writeln!(
        out,
        "\n## Where we lose\n\nFigures that are more than {:.0} % above those of the best peer.\n",
        NOISE * 100.0
    )?;
    if losses.is_empty() {
        return writeln!(out, "Nowhere in this run.");
    }
    for loss in losses {
        writeln!(
            out,
            "- {}, {}: {} against {} of {}",
            loss.row,
            loss.figure.title(),
            short(loss.ours),
            short(loss.theirs),
            loss.best,
        )?;
    }
    Ok(())
}

fn write_failures(report: &Report, out: &mut String) -> Result {
    let failures = report.rows.iter().flat_map(|result| {
        let row = &result.row.id;
        result.peers.iter().filter_map(move |(peer, outcome)| {
            let failure = outcome.as_ref().err()?;
            Some(format!("- {row}, {peer}: {failure}"))
        })
    });
    let failures: Vec<String> = failures.collect();
    if failures.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## Failed\n\n{}", failures.join("\n"))
}

fn cell(outcome: &Outcome, figure: Figure) -> String {
    let Ok(figures) = outcome else {
        return "failed".to_owned();
    };
    match figures.get(&figure) {
        None => String::new(),
        Some(Series { median, min, max }) if min < max => {
            format!("{} ({}–{})", short(*median), short(*min), short(*max))
        }
        Some(Series { median, .. }) => short(*median),
    }
}

/// About three digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Bound, Goal};
    use crate::report::judgement::tests::result;
    use crate::report::tests::report;

    #[test]
    fn a_row_shows_each_peer_the_ratio_and_the_goal() {
        let goal = Goal::new(Figure::Cpu, Bound::Ratio(0.5));
        let peers = [
            (OURS, Some(60.0)),
            (REFERENCE, Some(100.0)),
            ("caddy", None),
        ];
        let result = result(vec![goal], &peers);
        let mut out = String::new();
        write_section(&[&result], &mut out).unwrap();
        assert_eq!(
            out.lines().last().unwrap(),
            "| life/plain | CPU µs | 60.0 | 100 | failed | 0.60 | ≤ 0.5 × nginx **missed** |"
        );
        assert_even(&out);
    }

    #[test]
    fn a_table_without_the_reference_has_no_ratio_but_the_goals_of_each_form() {
        let (fresh, reused) = ("sluicegate-wasm", "sluicegate-wasm-reuse");
        let goal = Goal::new(Figure::Cpu, Bound::Most(18.0));
        let goals = vec![goal, Goal::new(Figure::Cpu, Bound::Most(4.0)).of(reused)];
        let result = result(goals, &[(fresh, Some(17.0)), (reused, Some(5.0))]);
        let mut out = String::new();
        write_section(&[&result], &mut out).unwrap();
        assert_eq!(
            out.lines().last().unwrap(),
            "| life/plain | CPU µs | 17.0 | 5.00 | ≤ 18 CPU µs met; \
             sluicegate-wasm-reuse ≤ 4 CPU µs **missed** |"
        );
        assert_even(&out);
    }

    #[test]
    fn the_report_says_what_it_rests_on_and_where_we_lose() {
        let row = result(Vec::new(), &[(OURS, Some(12.0)), (REFERENCE, Some(10.0))]);
        let text = render(&report(vec![row]));
        for said in [
            "2026-11-22, 2 processors (Z80), Linux 6.1. 3 alternating rounds of 1 s;",
            "rows under Memory and Scale start a proxy of their own and run once",
            "sluicegate's sources are at commit abc1234.",
            "more than 5 % above those of the best peer.\n\n- life/plain, CPU µs: 12.0 against 10.0",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    /// All lines of a table have the same number of cells.
    fn assert_even(table: &str) {
        let cells: Vec<usize> = table
            .lines()
            .map(|line| line.matches('|').count())
            .collect();
        assert!(cells.iter().all(|count| *count == cells[0]), "{table}");
    }

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, text) in [
            (1234.5, "1234"),
            (99.94, "99.9"),
            (9.994, "9.99"),
            (0.0, "0.00"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
