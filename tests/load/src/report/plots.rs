//! Which figures become plots.

use super::Report;
use super::judgement::median;
use super::svg::{Chart, Group, Series};
use crate::peers::{OURS, PEERS, REFERENCE, Role};
use crate::plan::{Bound, Figure, Section};
use crate::run::RowResult;

/// CPU per unit of every row with a goal, relative to the reference. `None` without a reference.
pub(crate) fn cpu(report: &Report) -> Option<String> {
    let series = proxies(report, |peer| peer != REFERENCE);
    let with_goal = |result: &&RowResult| {
        let mut goals = result.row.goals.iter();
        goals.any(|goal| goal.figure == Figure::Cpu && matches!(goal.bound, Bound::Ratio(_)))
    };
    let groups: Vec<Group> = report
        .rows
        .iter()
        .filter(with_goal)
        .filter_map(|result| {
            let reference = median(result, REFERENCE, Figure::Cpu)?;
            let values = series
                .iter()
                .map(|peer| Some(median(result, peer, Figure::Cpu)? / reference));
            Some(Group {
                label: result.row.title(),
                values: values.collect(),
            })
        })
        .collect();
    chart(
        format!("CPU time for the same work, {REFERENCE} = 1"),
        format!("shorter is cheaper; {}", circumstances(report)),
        series,
        groups,
        CPU_AXIS,
        Some((1.0, REFERENCE.to_owned())),
    )
}

/// Memory per idle connection. `None` without rows of memory.
pub(crate) fn memory(report: &Report) -> Option<String> {
    let series = proxies(report, |_| true);
    let rows = report
        .rows
        .iter()
        .filter(|result| result.row.section() == Section::Memory);
    let groups: Vec<Group> = rows
        .map(|result| Group {
            label: result.row.title(),
            values: series
                .iter()
                .map(|peer| median(result, peer, Figure::IdleKib))
                .collect(),
        })
        .collect();
    let longest = groups
        .iter()
        .flat_map(|group| group.values.iter().flatten())
        .fold(1.0_f64, |most, value| most.max(*value));
    chart(
        "KiB of memory per idle WebSocket".to_owned(),
        format!("after one small echo; {}", circumstances(report)),
        series,
        groups,
        longest,
        None,
    )
}

fn chart(
    title: String,
    subtitle: String,
    series: Vec<&'static str>,
    groups: Vec<Group>,
    axis: f64,
    line: Option<(f64, String)>,
) -> Option<String> {
    if groups.is_empty() {
        return None;
    }
    let chart = Chart {
        title,
        subtitle,
        series: series.into_iter().map(in_its_colour).collect(),
        groups,
        axis,
        line,
    };
    Some(chart.render())
}

fn in_its_colour(peer: &str) -> Series {
    Series {
        name: peer.to_owned(),
        colour: PEERS
            .iter()
            .position(|known| known.name == peer)
            .unwrap_or_default(),
    }
}

fn circumstances(report: &Report) -> String {
    format!("one worker each, {}, {}", report.machine, report.date)
}

/// The peers of the ordinary rows, ours first.
fn proxies(report: &Report, wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let ordinary = |result: &&RowResult| Role::of(result.row.section()) == Role::Proxy;
    let mut peers: Vec<&'static str> = report
        .rows
        .iter()
        .find(ordinary)
        .map(|result| result.peers.iter().map(|(peer, _)| *peer))
        .into_iter()
        .flatten()
        .filter(|peer| wanted(peer))
        .collect();
    peers.sort_by_key(|peer| *peer != OURS);
    peers
}

/// What costs more than this many times the reference is cut.
const CPU_AXIS: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Goal;
    use crate::report::judgement::tests::result;
    use crate::report::tests::report;

    #[test]
    fn costs_are_drawn_of_all_but_the_reference_which_is_the_line() {
        let peers = [
            (OURS, Some(6.0)),
            (REFERENCE, Some(10.0)),
            ("nginx-32k", Some(5.0)),
        ];
        let goal = Goal::new(Figure::Cpu, Bound::Ratio(0.7));
        let svg = cpu(&report(vec![result(vec![goal], &peers)])).unwrap();
        for value in [">0.60<", ">0.50<"] {
            assert!(svg.contains(value), "{svg}");
        }
        assert!(!svg.contains(">1.00<"), "{svg}");
    }
}
