//! Judgement: which goals are met, and where another proxy does better.

use crate::peers::{OURS, REFERENCE};
use crate::plan::{Bound, Figure, Goal};
use crate::run::RowResult;

/// A goal and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judgement {
    /// The form of sluicegate that the goal names, if it names one.
    pub(crate) peer: Option<&'static str>,
    pub(crate) figure: Figure,
    /// As `≤ 0.95 × nginx`.
    pub(crate) wanted: String,
    /// `None` when a figure that it takes is missing.
    pub(crate) met: Option<bool>,
}

/// A figure in which another proxy does better.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loss {
    pub(crate) row: String,
    pub(crate) figure: Figure,
    pub(crate) ours: f64,
    pub(crate) best: &'static str,
    pub(crate) theirs: f64,
}

/// The median of a figure with one peer.
pub(crate) fn median(result: &RowResult, peer: &str, figure: Figure) -> Option<f64> {
    let (_, outcome) = result.peers.iter().find(|(name, _)| *name == peer)?;
    Some(outcome.as_ref().ok()?.get(&figure)?.median)
}

/// The median of a figure with sluicegate, in the first form that took part.
pub(crate) fn ours(result: &RowResult, figure: Figure) -> Option<f64> {
    let mut peers = result.peers.iter();
    let (name, _) = peers.find(|(name, _)| name.starts_with(OURS))?;
    median(result, name, figure)
}

/// Ours as a multiple of the reference.
pub(crate) fn ratio(result: &RowResult, figure: Figure) -> Option<f64> {
    if !figure.is_the_proxys() {
        return None;
    }
    to_reference(result, figure, ours(result, figure)?)
}

/// What came of all goals of a row.
pub(crate) fn judgements(result: &RowResult) -> Vec<Judgement> {
    result
        .row
        .goals
        .iter()
        .map(|goal| judgement(result, *goal))
        .collect()
}

/// The figures of a row in which the best other peer is better by more than [`NOISE`].
pub(crate) fn losses(result: &RowResult) -> Vec<Loss> {
    let figures = result.row.shown().iter();
    figures
        .filter(|figure| figure.is_the_proxys())
        .filter_map(|&figure| {
            let ours = ours(result, figure)?;
            let (best, theirs) = best_peer(result, figure)?;
            (ours > theirs * (1.0 + NOISE)).then(|| Loss {
                row: result.row.id.clone(),
                figure,
                ours,
                best,
                theirs,
            })
        })
        .collect()
}

fn judgement(result: &RowResult, goal: Goal) -> Judgement {
    let Goal {
        peer,
        figure,
        bound,
    } = goal;
    let ours = match peer {
        Some(peer) => median(result, peer, figure),
        None => ours(result, figure),
    };
    let (wanted, met) = match bound {
        Bound::Ratio(most) => (
            format!("≤ {most} × {REFERENCE}"),
            ours.and_then(|ours| to_reference(result, figure, ours))
                .map(|ratio| ratio <= most),
        ),
        Bound::Most(most) => (
            format!("≤ {most} {}", figure.title()),
            ours.map(|ours| ours <= most),
        ),
        Bound::BestPeer => (
            "≤ the best peer".to_owned(),
            ours.zip(best_peer(result, figure))
                .map(|(ours, (_, theirs))| ours <= theirs),
        ),
    };
    Judgement {
        peer,
        figure,
        wanted,
        met,
    }
}

fn to_reference(result: &RowResult, figure: Figure, value: f64) -> Option<f64> {
    let reference = median(result, REFERENCE, figure).filter(|value| *value > 0.0)?;
    Some(value / reference)
}

fn best_peer(result: &RowResult, figure: Figure) -> Option<(&'static str, f64)> {
    result
        .peers
        .iter()
        .filter(|(name, _)| !name.starts_with(OURS))
        .filter_map(|(name, _)| Some((*name, median(result, name, figure)?)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// Two figures that are closer than this are the same.
pub(crate) const NOISE: f64 = 0.05;

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::measure::series::Series;
    use crate::plan::{Row, Transport, Work};

    /// A row whose CPU figure is `medians`; `None` is a failure.
    pub(in crate::report) fn result(
        goals: Vec<Goal>,
        medians: &[(&'static str, Option<f64>)],
    ) -> RowResult {
        let outcome = |median: &Option<f64>| {
            let series = Series::of(*median).ok_or("it broke")?;
            Ok(BTreeMap::from([(Figure::Cpu, series)]))
        };
        RowResult {
            row: Row {
                id: "life/plain".to_owned(),
                work: Work::Life {
                    at_once: 1,
                    transport: Transport::Plain,
                },
                goals,
            },
            peers: medians
                .iter()
                .map(|(peer, median)| (*peer, outcome(median)))
                .collect(),
        }
    }

    fn met(bound: Bound, medians: &[(&'static str, Option<f64>)]) -> Option<bool> {
        let goal = Goal::new(Figure::Cpu, bound);
        judgements(&result(vec![goal], medians))[0].met
    }

    #[test]
    fn a_goal_is_met_missed_or_cannot_be_told() {
        let both = [(OURS, Some(9.0)), (REFERENCE, Some(10.0)), ("envoy", None)];
        assert_eq!(met(Bound::Ratio(0.9), &both), Some(true));
        assert_eq!(met(Bound::Ratio(0.89), &both), Some(false));
        assert_eq!(met(Bound::Most(9.0), &both), Some(true));
        assert_eq!(met(Bound::Most(8.9), &both), Some(false));
        assert_eq!(met(Bound::BestPeer, &both), Some(true));
        assert_eq!(met(Bound::BestPeer, &both[..1]), None);
        let broken = [(OURS, None), (REFERENCE, Some(10.0))];
        assert_eq!(met(Bound::Ratio(0.9), &broken), None);
        assert_eq!(met(Bound::Most(9.0), &broken), None);
    }

    #[test]
    fn a_goal_of_one_form_of_ours_is_judged_by_that_form() {
        const FAST: &str = "sluicegate-wasm-reuse";
        let goal = Goal::new(Figure::Cpu, Bound::Most(4.0));
        let judged = |medians: &[(&'static str, Option<f64>)]| {
            let result = result(vec![goal, goal.of(FAST)], medians);
            let judgements = judgements(&result);
            judgements.iter().map(|one| one.met).collect::<Vec<_>>()
        };
        let both = [("sluicegate-wasm", Some(17.0)), (FAST, Some(3.9))];
        assert_eq!(judged(&both), [Some(false), Some(true)]);
        assert_eq!(judged(&both[..1]), [Some(false), None]);
    }

    #[test]
    fn a_loss_names_the_best_and_noise_is_none() {
        let row = |ours| {
            result(
                Vec::new(),
                &[
                    (OURS, Some(ours)),
                    ("haproxy", Some(8.0)),
                    ("envoy", Some(7.0)),
                ],
            )
        };
        let lost = losses(&row(10.0));
        assert_eq!((lost[0].best, lost[0].theirs), ("envoy", 7.0));
        assert_eq!(losses(&row(7.2)), []);
        assert_eq!(losses(&row(6.0)), []);
    }
}
