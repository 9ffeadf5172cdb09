//! The building blocks of a series: histograms and labelled counters whose updates are atomic adds.
//!
//! Nothing here locks or allocates after construction. A label is a `&'static str`, so a client
//! cannot make new ones, and a labelled counter has a fixed number of slots.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A histogram of durations with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in ascending order; one more bucket follows for what is above them.
    bounds: &'static [Duration],
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// Counters told apart by one label.
#[derive(Debug, Default)]
pub struct LabelledCounter {
    slots: [OnceLock<(&'static str, AtomicU64)>; MAX_LABELS],
    /// Everything that found no slot.
    other: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [Duration]) -> Histogram {
        Histogram {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, value: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Whether nothing has been observed yet.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|n| n.load(Ordering::Relaxed) == 0)
    }
}

impl LabelledCounter {
    pub fn inc(&self, label: &'static str) {
        self.add(label, 1);
    }

    /// Beyond [`MAX_LABELS`] labels the rest is counted as `other`.
    pub fn add(&self, label: &'static str, n: u64) {
        for slot in &self.slots {
            let (owner, count) = slot.get_or_init(|| (label, AtomicU64::new(0)));
            if *owner == label {
                count.fetch_add(n, Ordering::Relaxed);
                return;
            }
        }
        self.other.fetch_add(n, Ordering::Relaxed);
    }

    /// The labels seen so far and their counts.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let other = self.other.load(Ordering::Relaxed);
        self.slots
            .iter()
            .filter_map(OnceLock::get)
            .map(|(label, count)| (*label, count.load(Ordering::Relaxed)))
            .chain((other > 0).then_some(("other", other)))
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().map(Duration::as_secs_f64);
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(self.counts.iter().map(|n| n.load(Ordering::Relaxed)))
            .collect();
        // The count is the sum of what was just read, so that a scrape agrees with itself.
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// How many labels one [`LabelledCounter`] tells apart.
pub const MAX_LABELS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let counter = LabelledCounter::default();
        let labels: Vec<&'static str> = (0..MAX_LABELS + 3)
            .map(|i| &*Box::leak(i.to_string().into_boxed_str()))
            .collect();
        for label in &labels {
            counter.inc(label);
        }
        counter.add("0", 4);
        let counts: Vec<_> = counter.counts().collect();
        assert_eq!(counts.len(), MAX_LABELS + 1);
        assert_eq!(counts[0], ("0", 5));
        assert_eq!(counts[MAX_LABELS], ("other", 3));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];
        let histogram = Histogram::new(&BOUNDS);
        for nanos in [0, 1_000_000, 1_000_001, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_nanos(nanos));
        }
        let counts: Vec<u64> = histogram
            .counts
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .collect();
        assert_eq!(counts, [2, 2, 1]);
    }
}
