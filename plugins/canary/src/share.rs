//! Who is in a share, and whom a weight gets: by a hash, for good.

use sluicegate_plugin::crypto::{self, Hash};

/// A client's place in two fields of 2^64 places: one for shares and one for weights, so that the share
/// that a rule takes says nothing about whom the rule chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    share: u64,
    weight: u64,
}

/// The first so many places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(u128);

/// Names, each with a part of all places.
#[derive(Debug)]
pub(crate) struct Weights {
    /// With the sum of its weight and those before it.
    names: Vec<(String, u64)>,
    total: u64,
    joined: String,
}

impl Place {
    /// The first 16 bytes of SHA-256 over salt, names and client, each but the last followed by a zero byte.
    pub(crate) fn of(salt: &str, names: &str, client: &str) -> Place {
        let hash = crypto::hash(Hash::Sha256, [salt, names, client].join("\0").as_bytes());
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let (share, rest) = hash.split_at(hash.len().min(8));
        Place {
            share: number(share),
            weight: number(&rest[..rest.len().min(8)]),
        }
    }
}

impl Share {
    /// None: not between 0 and 100.
    pub(crate) fn percent(percent: f64) -> Option<Share> {
        let places = percent / 100.0 * 2_f64.powi(64);
        let fits = (0.0..=100.0).contains(&percent);
        fits.then_some(Share(places as u128))
    }

    pub(crate) fn is_all(self) -> bool {
        self.0 > u128::from(u64::MAX)
    }

    pub(crate) fn takes(self, place: Place) -> bool {
        u128::from(place.share) < self.0
    }
}

impl Weights {
    /// # Errors
    /// What leaves nobody to choose.
    pub(crate) fn new(weights: impl IntoIterator<Item = (String, u32)>) -> Result<Self, String> {
        let (mut names, mut total) = (Vec::new(), 0);
        for (name, weight) in weights {
            if name.is_empty() {
                return Err("names no upstream".to_owned());
            }
            total += u64::from(weight);
            names.push((name, total));
        }
        match (names.is_empty(), total) {
            (true, _) => Err("names no upstream".to_owned()),
            (false, 0) => Err("no upstream has a weight".to_owned()),
            (false, _) => {
                let joined: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
                let joined = joined.join(",");
                Ok(Weights {
                    names,
                    total,
                    joined,
                })
            }
        }
    }

    /// All names, in order.
    pub(crate) fn names(&self) -> &str {
        &self.joined
    }

    pub(crate) fn is_one(&self) -> bool {
        self.names.len() == 1
    }

    pub(crate) fn choose(&self, place: Place) -> &str {
        // Below the total, so below the last sum.
        let point = (u128::from(place.weight) * u128::from(self.total)) >> 64;
        let behind = self
            .names
            .partition_point(|(_, sum)| u128::from(*sum) <= point);
        self.names.get(behind).map_or("", |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_can_be_computed_elsewhere() {
        // As any other program would: sha256("s\0a,b\0" + "192.0.2.1").
        let place = Place::of("s", "a,b", "192.0.2.1");
        assert_eq!(
            format!("{:016x}{:016x}", place.share, place.weight),
            "843cf13e71ac5d7e014b908b865d4fa0"
        );
    }

    #[test]
    fn all_and_nothing_are_exact() {
        let at = |share| Place { share, weight: 0 };
        let takes = |percent, place| Share::percent(percent).unwrap().takes(at(place));
        assert!(takes(100.0, u64::MAX) && takes(100.0, 0));
        assert!(Share::percent(100.0).unwrap().is_all() && !Share::percent(99.9).unwrap().is_all());
        assert!(!takes(0.0, 0));
        assert!(takes(50.0, (1 << 63) - 1) && !takes(50.0, 1 << 63));
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Share::percent(bad).is_none());
        }
    }

    #[test]
    fn each_weight_gets_its_part() {
        let weights =
            [("a", 1), ("b", 0), ("c", 3)].map(|(name, weight)| (name.to_owned(), weight));
        let weights = Weights::new(weights).unwrap();
        let at = |weight| weights.choose(Place { share: 0, weight });
        assert_eq!((at(0), at((1 << 62) - 1)), ("a", "a"));
        assert_eq!((at(1 << 62), at(u64::MAX)), ("c", "c"));
        assert_eq!(weights.names(), "a,b,c");
        let huge = Weights::new([("a".to_owned(), u32::MAX), ("b".to_owned(), u32::MAX)]).unwrap();
        assert_eq!(
            huge.choose(Place {
                share: 0,
                weight: u64::MAX
            }),
            "b"
        );
    }
}
