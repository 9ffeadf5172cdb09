//! A figure that was measured several times: its median and its spread.

use serde::Serialize;

/// Median, least and most of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Series {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Series {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Series> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Series {
            median: f64::midpoint(low, high),
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, median, min, max) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[5.0, 1.0, 3.0], 3.0, 1.0, 5.0),
            (&[4.0, 1.0, 2.0, 9.0], 3.0, 1.0, 9.0),
        ] {
            let series = Series::of(values.iter().copied());
            assert_eq!(series, Some(Series { median, min, max }));
        }
        assert_eq!(Series::of([]), None);
    }
}
