//! Latencies, counted in buckets whose width grows with the value: never wrong by more than 1.6 %.

use std::time::Duration;

/// Counts of latencies from 1 ns to over a minute, in fixed memory.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let at = bucket(nanos).min(BUCKETS - 1);
        self.counts[at] += 1;
        self.total += 1;
    }

    /// The latency that `share` (0 to 1) of the units did not exceed; zero when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(at));
            }
        }
        Duration::ZERO
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

/// Values under 2^STEPS have a bucket each; after that, each power of two has 2^STEPS.
fn bucket(nanos: u64) -> usize {
    let power = u64::BITS - nanos.leading_zeros();
    let shift = power.saturating_sub(STEPS + 1);
    (shift as usize) * (1 << STEPS) + (nanos >> shift) as usize
}

/// The value in the middle of a bucket.
fn middle(at: usize) -> u64 {
    let shift = (at >> STEPS).saturating_sub(1) as u32;
    let low = ((at - (shift as usize) * (1 << STEPS)) as u64) << shift;
    low + ((1_u64 << shift) >> 1)
}

const STEPS: u32 = 5;
/// Enough for 2^37 ns, over two minutes.
const BUCKETS: usize = (37 - STEPS as usize + 1) << STEPS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_within_two_percent_of_what_it_holds() {
        let mut last = 0;
        for nanos in (0..40_000_000_000_u64).step_by(77_777_777).chain(0..5000) {
            let found = middle(bucket(nanos));
            let off = found.abs_diff(nanos) as f64;
            assert!(off <= nanos as f64 * 0.016 + 1.0, "{nanos} became {found}");
            last = last.max(bucket(nanos));
        }
        assert!(last < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!(
                (found / micros - 1.0_f64).abs() < 0.02,
                "{share}: {found} instead of {micros}"
            );
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
