//! Figures that plugins make of their own: counters, gauges and histograms, told apart by labels.
//!
//! Each plugin has its own set. It lives as long as somebody holds it, so it survives a reload that keeps
//! the plugin and goes with one that removes it. To count in a series that is known takes a shared lock
//! and an atomic addition, and allocates nothing; what makes a series is bounded per plugin, since a label's
//! value may come from a client.
//!
//! What a plugin may not do is refused at once, not when somebody reads: names that are none, one name for
//! two kinds or two sets of labels, names whose exported lines would run into each other (a histogram `x`
//! writes `x_count`). Across plugins that can still happen, as in `a` with `b_c` beside `a_b` with `c`;
//! then [`Registry::families`] has the first in the order of names.

mod series;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use series::PluginMetrics;

/// All plugins' metrics.
#[derive(Debug, Default)]
pub struct Registry {
    plugins: Mutex<BTreeMap<String, Weak<PluginMetrics>>>,
}

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as it is now, with all its series.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Without a counter's `_total`.
    pub name: String,
    pub kind: MetricKind,
    pub series: Vec<Sample>,
}

/// One series of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// In the order of their names.
    pub labels: Vec<(String, String)>,
    pub value: Value,
}

/// The value of a series, of the kind that its family has.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(f64),
    /// Upper bounds, infinity last, and how many values fell below each but not below the one before.
    Histogram {
        buckets: Vec<(f64, u64)>,
        sum: f64,
    },
}

/// Why a value was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// Of the metric or of a label.
    #[error("not a metric's name")]
    InvalidName,
    /// A value of more than [`MAX_LABEL_VALUE`] bytes, more than [`MAX_LABELS`], one twice, or `le` or
    /// `plugin`, which are the exporter's.
    #[error("not a metric's labels")]
    InvalidLabel,
    #[error("the name is another kind of metric, or has other labels")]
    Mismatch,
    #[error("the plugin has all the series it may have")]
    TooMany,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    /// A plugin's metrics: the same ones for the same name, as long as somebody has them.
    pub fn plugin(&self, name: &str) -> Arc<PluginMetrics> {
        let mut plugins = self.lock();
        if let Some(metrics) = plugins.get(name).and_then(Weak::upgrade) {
            return metrics;
        }
        plugins.retain(|_, metrics| metrics.strong_count() > 0);
        let metrics = Arc::new(PluginMetrics::new());
        plugins.insert(name.to_owned(), Arc::downgrade(&metrics));
        metrics
    }

    /// Everything as `plugin_PLUGIN_NAME`, each series with the label `plugin` besides its own, in the
    /// order of names. A family whose lines would run into those of one before it, or of one in `taken`,
    /// is left out.
    pub fn families(&self, taken: &[(&str, MetricKind)]) -> Vec<Family> {
        let all: Vec<_> = (self.lock().iter())
            .filter_map(|(name, metrics)| Some((name.clone(), metrics.upgrade()?)))
            .collect();
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for (plugin, metrics) in all {
            for mut family in metrics.families() {
                family.name = format!("plugin_{}_{}", sanitized(&plugin), family.name);
                for series in &mut family.series {
                    series
                        .labels
                        .insert(0, ("plugin".to_owned(), plugin.clone()));
                }
                match families.get_mut(&family.name) {
                    // Two plugins whose names differ only in what may not stand in a metric's.
                    Some(other) if other.kind == family.kind => other.series.extend(family.series),
                    Some(_) => {}
                    None => {
                        families.insert(family.name.clone(), family);
                    }
                }
            }
        }
        let taken = taken.iter().flat_map(|(name, kind)| lines_of(name, *kind));
        let mut lines: HashSet<String> = taken.collect();
        families
            .into_values()
            .filter(|family| {
                let own = lines_of(&family.name, family.kind);
                let free = own.iter().all(|line| !lines.contains(line));
                if free {
                    lines.extend(own);
                }
                free
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<PluginMetrics>>> {
        // No code panics under this lock.
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the lines of a family begin with; no other family may have one of these.
fn lines_of(name: &str, kind: MetricKind) -> Vec<String> {
    let suffixes: &[&str] = match kind {
        MetricKind::Counter => &["", "_total"],
        MetricKind::Gauge => &[""],
        MetricKind::Histogram => &["", "_bucket", "_count", "_sum"],
    };
    suffixes
        .iter()
        .map(|suffix| format!("{name}{suffix}"))
        .collect()
}

/// A plugin's name as part of a metric's.
fn sanitized(plugin: &str) -> String {
    let part = |c: char| match c {
        'a'..='z' | '0'..='9' => c,
        'A'..='Z' => c.to_ascii_lowercase(),
        _ => '_',
    };
    plugin.chars().map(part).collect()
}

/// Bytes of a metric's or a label's name.
pub const MAX_NAME: usize = 64;
pub const MAX_LABELS: usize = 4;
/// Bytes of a label's value.
pub const MAX_LABEL_VALUE: usize = 128;
/// Series of one plugin, all its metrics together.
pub const MAX_SERIES: usize = 200;

#[cfg(test)]
mod tests;
