//! How a plugin has done on a route of late: whether it is in quarantine, and how many of its failures
//! the log has room for.
//!
//! It is the same over a reload that changes neither the plugin nor its config there. One that
//! changes either is a new chance.

use std::sync::Arc;

use sluicegate_plugin_host::{Allowance, Filter, Quarantine, QuarantineRule};

use super::Snapshot;
use crate::config::model;
use crate::telemetry::metrics::PluginMetrics;

/// The standing of one filter of a route.
pub struct Standing {
    filter: Filter,
    /// `None`: it is asked however often it fails.
    pub quarantine: Option<Quarantine>,
    /// Lines about its failures.
    pub failures: Allowance,
}

impl Standing {
    /// That of the previous generation, or a new one.
    pub(super) fn of(
        filter: &Filter,
        rule: Option<model::Quarantine>,
        route: &str,
        metrics: &PluginMetrics,
        previous: Option<&Snapshot>,
    ) -> Arc<Standing> {
        let rule = rule.map(|rule| QuarantineRule {
            fails: rule.fails,
            within: rule.within,
            out_for: rule.out_for,
        });
        let before = previous
            .into_iter()
            .flat_map(|previous| &previous.routes)
            .filter(|before| &*before.name == route)
            .flat_map(|before| &before.chain)
            .map(|link| &link.standing)
            .find(|before| {
                before.filter.is(filter) && before.quarantine.as_ref().map(Quarantine::rule) == rule
            });
        if let Some(before) = before {
            return Arc::clone(before);
        }
        metrics.not_quarantined();
        Arc::new(Standing {
            filter: filter.clone(),
            quarantine: rule.map(Quarantine::new),
            failures: Allowance::new(FAILURE_LINES),
        })
    }
}

/// Lines a second about the failures of one plugin on one route.
const FAILURE_LINES: u32 = 10;
