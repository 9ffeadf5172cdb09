//! One filter of a route as those see it who run it, on a handshake or on messages: may it be asked, and
//! what is told of its failures.

use std::time::Instant;

use sluicegate_plugin_host::{Admission, FilterError};

use crate::snapshot::{ChainLink, Route};

/// Whether a plugin is asked, or in quarantine.
pub(super) fn admits(route: &Route, link: &ChainLink, now: Instant) -> bool {
    let Some(quarantine) = &link.standing.quarantine else {
        return true;
    };
    match quarantine.admit(now) {
        Admission::Admitted => true,
        Admission::Back { spared } => {
            link.metrics.set_quarantine(None);
            let (plugin, route) = (link.filter.plugin().name(), &*route.name);
            tracing::info!(plugin, route, spared, "the plugin's quarantine is over");
            true
        }
        Admission::Out => false,
    }
}

/// Logs a filter's failure and holds it against the plugin; what it means for the request or the message is
/// the caller's business.
pub(super) fn failed(route: &Route, link: &ChainLink, error: &FilterError, now: Instant) {
    if !matches!(error, FilterError::Quarantined) {
        log_failure(route, link, error, now);
    }
    if error.is_fault()
        && let Some(quarantine) = &link.standing.quarantine
        && let Some(until) = quarantine.failed(now)
    {
        link.metrics.quarantined(until);
        let (plugin, route) = (link.filter.plugin().name(), &*route.name);
        let rule = quarantine.rule();
        let (fails, within, out_for) = (rule.fails, rule.within, rule.out_for);
        tracing::warn!(
            plugin,
            route,
            fails,
            ?within,
            ?out_for,
            "the plugin is in quarantine"
        );
    }
}

/// A line about a failure, if there is room for one, and a count of those before for which there
/// was none.
fn log_failure(route: &Route, link: &ChainLink, error: &FilterError, now: Instant) {
    let plugin = link.filter.plugin().name();
    let route = &*route.name;
    let pass = link.standing.failures.pass(now);
    if pass.suppressed > 0 {
        let suppressed = pass.suppressed;
        tracing::warn!(
            plugin,
            route,
            suppressed,
            "filter failed as often without a line"
        );
    }
    match error {
        _ if !pass.allowed => {}
        FilterError::Trap { backtrace, .. } => {
            tracing::warn!(plugin, route, %error, backtrace, "filter failed");
        }
        // In the guest's own words, which may quote its secrets.
        FilterError::Configure(_) => {
            tracing::warn!(plugin, route, "filter failed: it refuses its config now");
        }
        _ => tracing::warn!(plugin, route, %error, "filter failed"),
    }
}
