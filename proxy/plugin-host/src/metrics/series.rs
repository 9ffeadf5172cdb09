//! The metrics of one plugin.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{
    Family, MAX_LABEL_VALUE, MAX_LABELS, MAX_NAME, MAX_SERIES, MetricError, MetricKind, Sample,
    Value, lines_of,
};

/// One plugin's counters, gauges and histograms.
#[derive(Debug)]
pub struct PluginMetrics {
    hasher: RandomState,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    families: BTreeMap<Box<str>, Shape>,
    /// By the hash of name and labels; the few that share one stand side by side.
    series: HashMap<u64, Vec<Series>>,
    count: usize,
}

/// What all series of a name have in common.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    kind: MetricKind,
    /// In order.
    labels: Vec<Box<str>>,
}

#[derive(Debug)]
struct Series {
    name: Box<str>,
    /// In the order of their names.
    labels: Vec<(Box<str>, Box<str>)>,
    cell: Cell,
}

#[derive(Debug)]
enum Cell {
    Counter(AtomicU64),
    /// The bits of an f64.
    Gauge(AtomicU64),
    Histogram {
        counts: [AtomicU64; BOUNDS.len() + 1],
        /// The bits of an f64.
        sum: AtomicU64,
    },
}

/// Labels as a guest gave them, and their order.
#[derive(Clone, Copy)]
struct Labels<'a> {
    given: &'a [(String, String)],
    order: [usize; MAX_LABELS],
}

impl PluginMetrics {
    pub(super) fn new() -> Self {
        PluginMetrics {
            hasher: RandomState::new(),
            state: RwLock::default(),
        }
    }

    /// Adds to a counter. A name that ends in `_total` means the one without.
    ///
    /// # Errors
    /// See [`MetricError`]; nothing has changed then.
    pub fn count(
        &self,
        name: &str,
        labels: &[(String, String)],
        by: u64,
    ) -> Result<(), MetricError> {
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.with(name, labels, MetricKind::Counter, |cell| {
            if let Cell::Counter(count) = cell {
                count.fetch_add(by, Ordering::Relaxed);
            }
        })
    }

    /// Sets a gauge.
    ///
    /// # Errors
    /// See [`MetricError`]; nothing has changed then.
    pub fn gauge(
        &self,
        name: &str,
        labels: &[(String, String)],
        value: f64,
    ) -> Result<(), MetricError> {
        self.with(name, labels, MetricKind::Gauge, |cell| {
            if let Cell::Gauge(bits) = cell {
                bits.store(value.to_bits(), Ordering::Relaxed);
            }
        })
    }

    /// Puts a value into a histogram; one that is not finite has no place there and is left out.
    ///
    /// # Errors
    /// See [`MetricError`]; nothing has changed then.
    pub fn observe(
        &self,
        name: &str,
        labels: &[(String, String)],
        value: f64,
    ) -> Result<(), MetricError> {
        self.with(name, labels, MetricKind::Histogram, |cell| {
            if let Cell::Histogram { counts, sum } = cell
                && value.is_finite()
            {
                let bucket = BOUNDS.partition_point(|bound| *bound < value);
                counts[bucket].fetch_add(1, Ordering::Relaxed);
                let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
                // It never refuses.
                let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            }
        })
    }

    /// Everything as it is now, in the order of names and labels.
    pub fn families(&self) -> Vec<Family> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for series in state.series.values().flatten() {
            all.entry(&series.name).or_default().push(series.sample());
        }
        let family = |(name, mut series): (&str, Vec<Sample>)| {
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
            Some(Family {
                name: name.to_owned(),
                kind: state.families.get(name)?.kind,
                series,
            })
        };
        all.into_iter().filter_map(family).collect()
    }

    /// Finds a series or makes it.
    fn with(
        &self,
        name: &str,
        labels: &[(String, String)],
        kind: MetricKind,
        update: impl FnOnce(&Cell),
    ) -> Result<(), MetricError> {
        let labels = Labels::new(labels)?;
        let hash = self.hash(name, labels);
        // No code panics under these locks.
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = state.find(hash, name, labels) {
            return series.cell.update(kind, update);
        }
        drop(state);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have made it meanwhile.
        if let Some(series) = state.find(hash, name, labels) {
            return series.cell.update(kind, update);
        }
        state.admit(name, labels, kind)?;
        let cell = Cell::new(kind);
        update(&cell);
        let text = |(name, value): (&str, &str)| (name.into(), value.into());
        state.series.entry(hash).or_default().push(Series {
            name: name.into(),
            labels: labels.sorted().map(text).collect(),
            cell,
        });
        state.count += 1;
        Ok(())
    }

    fn hash(&self, name: &str, labels: Labels<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        name.hash(&mut hasher);
        for label in labels.sorted() {
            label.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl State {
    fn find(&self, hash: u64, name: &str, labels: Labels<'_>) -> Option<&Series> {
        self.series.get(&hash)?.iter().find(|series| {
            let own = series.labels.iter();
            *series.name == *name && own.map(|(n, v)| (&**n, &**v)).eq(labels.sorted())
        })
    }

    /// Whether there may be a new series of this name; makes its family if it is the first.
    fn admit(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        kind: MetricKind,
    ) -> Result<(), MetricError> {
        check_name(name)?;
        for (name, value) in labels.sorted() {
            check_name(name)?;
            if value.len() > MAX_LABEL_VALUE || RESERVED.contains(&name) {
                return Err(MetricError::InvalidLabel);
            }
        }
        let shape = Shape {
            kind,
            labels: labels.sorted().map(|(name, _)| name.into()).collect(),
        };
        let known = self.families.get(name);
        if known.is_some_and(|known| *known != shape) {
            return Err(MetricError::Mismatch);
        }
        if self.count >= MAX_SERIES {
            return Err(MetricError::TooMany);
        }
        if known.is_none() {
            let own = lines_of(name, kind);
            for (other, shape) in &self.families {
                if lines_of(other, shape.kind)
                    .iter()
                    .any(|line| own.contains(line))
                {
                    return Err(MetricError::Mismatch);
                }
            }
            self.families.insert(name.into(), shape);
        }
        Ok(())
    }
}

impl Series {
    fn sample(&self) -> Sample {
        let text = |(name, value): &(Box<str>, Box<str>)| (name.to_string(), value.to_string());
        let value = match &self.cell {
            Cell::Counter(count) => Value::Counter(count.load(Ordering::Relaxed)),
            Cell::Gauge(bits) => Value::Gauge(f64::from_bits(bits.load(Ordering::Relaxed))),
            Cell::Histogram { counts, sum } => Value::Histogram {
                buckets: (BOUNDS.into_iter().chain([f64::INFINITY]))
                    .zip(counts.iter().map(|count| count.load(Ordering::Relaxed)))
                    .collect(),
                sum: f64::from_bits(sum.load(Ordering::Relaxed)),
            },
        };
        Sample {
            labels: self.labels.iter().map(text).collect(),
            value,
        }
    }
}

impl Cell {
    fn new(kind: MetricKind) -> Self {
        let zero = || AtomicU64::new(0);
        match kind {
            MetricKind::Counter => Cell::Counter(zero()),
            MetricKind::Gauge => Cell::Gauge(zero()),
            MetricKind::Histogram => Cell::Histogram {
                counts: Default::default(),
                sum: zero(),
            },
        }
    }

    fn update(&self, kind: MetricKind, update: impl FnOnce(&Cell)) -> Result<(), MetricError> {
        let own = match self {
            Cell::Counter(_) => MetricKind::Counter,
            Cell::Gauge(_) => MetricKind::Gauge,
            Cell::Histogram { .. } => MetricKind::Histogram,
        };
        if own != kind {
            return Err(MetricError::Mismatch);
        }
        update(self);
        Ok(())
    }
}

impl<'a> Labels<'a> {
    /// Puts labels in order without moving them.
    fn new(given: &'a [(String, String)]) -> Result<Self, MetricError> {
        let mut order = [0; MAX_LABELS];
        if given.len() > MAX_LABELS {
            return Err(MetricError::InvalidLabel);
        }
        let used = &mut order[..given.len()];
        for (at, place) in used.iter_mut().enumerate() {
            *place = at;
        }
        used.sort_unstable_by_key(|at| &given[*at].0);
        let twice = |pair: &[usize]| given[pair[0]].0 == given[pair[1]].0;
        if used.windows(2).any(twice) {
            return Err(MetricError::InvalidLabel);
        }
        Ok(Labels { given, order })
    }

    fn sorted(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pair = move |at: usize| (&*self.given[at].0, &*self.given[at].1);
        self.order.into_iter().take(self.given.len()).map(pair)
    }
}

/// `[a-z][a-z0-9_]{0,63}`
fn check_name(name: &str) -> Result<(), MetricError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match first && name.len() <= MAX_NAME && name.bytes().all(rest) {
        true => Ok(()),
        false => Err(MetricError::InvalidName),
    }
}

/// Labels that the exporter writes itself.
const RESERVED: [&str; 2] = ["le", "plugin"];

/// Upper bounds of a histogram's buckets: they suit seconds.
const BOUNDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
