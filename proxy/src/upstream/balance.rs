//! The balancing rules, free of health and IO: candidates in, one of them out.
//!
//! Round-robin is smooth and weighted: with weights 5, 1, 1 the heavy endpoint's turns are spread
//! out, never five in a row. `least-conn` compares leases per weight and lets equals take turns.
//! `ip-hash` is weighted rendezvous hashing: every pair of client and endpoint has a fixed score
//! and the best score wins, so an endpoint that goes moves only its own clients, and one that
//! comes takes only its share.

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::config::model::Balance;

/// An endpoint that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Place in the upstream.
    pub(super) index: usize,
    pub(super) weight: u32,
    /// Leases held now.
    pub(super) active: usize,
    /// Stable hash of the endpoint's address.
    pub(super) seed: u64,
}

/// How far each endpoint of an upstream is from its next turn.
#[derive(Debug)]
pub(super) struct Turns {
    credit: Vec<i64>,
}

impl Turns {
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            credit: vec![0; endpoints],
        }
    }

    /// The index of the chosen candidate; `None` if there are none.
    pub(super) fn choose(
        &mut self,
        balance: Balance,
        client: IpAddr,
        candidates: &[Candidate],
    ) -> Option<usize> {
        match balance {
            Balance::RoundRobin => self.next(candidates.iter()),
            Balance::LeastConn => {
                let least = candidates.iter().min_by(|a, b| load(a, b))?;
                let equals = candidates
                    .iter()
                    .filter(|candidate| load(candidate, least).is_eq());
                self.next(equals)
            }
            Balance::IpHash => {
                let client = stable_hash(&octets(client));
                candidates
                    .iter()
                    .max_by(|a, b| score(client, a).total_cmp(&score(client, b)))
                    .map(|candidate| candidate.index)
            }
        }
    }

    /// Smooth weighted round-robin: each earns its weight, the richest pays the sum.
    fn next<'a>(&mut self, candidates: impl Iterator<Item = &'a Candidate>) -> Option<usize> {
        let mut sum = 0;
        let mut richest: Option<usize> = None;
        for candidate in candidates {
            let weight = i64::from(candidate.weight);
            sum += weight;
            self.credit[candidate.index] += weight;
            if richest.is_none_or(|best| self.credit[candidate.index] > self.credit[best]) {
                richest = Some(candidate.index);
            }
        }
        self.credit[richest?] -= sum;
        richest
    }
}

/// FNV-1a with a finisher that spreads its weak high bits; the same in every build and process.
pub(super) fn stable_hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash)
}

/// Leases per weight, without a division.
fn load(a: &Candidate, b: &Candidate) -> Ordering {
    let left = a.active as u128 * u128::from(b.weight);
    let right = b.active as u128 * u128::from(a.weight);
    left.cmp(&right)
}

/// Weighted rendezvous: with `u` uniform in (0, 1), `-weight / ln(u)` is greatest for each
/// candidate in proportion to its weight.
fn score(client: u64, candidate: &Candidate) -> f64 {
    let hash = mix(client ^ candidate.seed);
    // 53 bits fill the mantissa; the half keeps both ends of the interval out.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(candidate.weight) / uniform.ln()
}

fn octets(client: IpAddr) -> Vec<u8> {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The finisher of SplitMix64.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let make = |(index, &weight)| Candidate {
            index,
            weight,
            active: 0,
            seed: stable_hash(format!("10.0.0.{index}:80").as_bytes()),
        };
        weights.iter().enumerate().map(make).collect()
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
    }

    #[test]
    fn round_robin_is_smooth() {
        fn check(weights: &[u32], expected: &[usize]) {
            let mut turns = Turns::new(weights.len());
            let candidates = candidates(weights);
            let chosen: Vec<_> = expected
                .iter()
                .filter_map(|_| turns.choose(Balance::RoundRobin, client(1), &candidates))
                .collect();
            assert_eq!(chosen, expected);
        }
        check(&[1, 1, 1], &[0, 1, 2, 0, 1, 2]);
        check(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[2], &[0, 0]);
        let none = Turns::new(0).choose(Balance::RoundRobin, client(1), &[]);
        assert_eq!(none, None);
    }

    #[test]
    fn least_conn_follows_leases_per_weight() {
        let mut turns = Turns::new(3);
        let mut list = candidates(&[1, 2, 1]);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let index = turns.choose(Balance::LeastConn, client(1), &list).unwrap();
            list[index].active += 1;
            seen.push(index);
        }
        let active: Vec<_> = list.iter().map(|candidate| candidate.active).collect();
        assert_eq!(active, [2, 4, 2], "{seen:?}");
        list[2].active = 0;
        let index = turns.choose(Balance::LeastConn, client(1), &list);
        assert_eq!(index, Some(2));
    }

    #[test]
    fn ip_hash_spreads_by_weight_and_moves_only_the_share() {
        const CLIENTS: u32 = 20_000;
        let list = candidates(&[1, 1, 2]);
        let mut turns = Turns::new(4);
        let mut choose = |list: &[Candidate], number| {
            turns.choose(Balance::IpHash, client(number), list).unwrap()
        };
        let before: Vec<_> = (0..CLIENTS).map(|number| choose(&list, number)).collect();
        for (index, share) in [0.25, 0.25, 0.5].into_iter().enumerate() {
            let count = before.iter().filter(|&&chosen| chosen == index).count();
            let part = count as f64 / f64::from(CLIENTS);
            assert!((part - share).abs() < 0.02, "endpoint {index}: {part}");
        }
        // Without endpoint 1 only its clients move.
        let fewer = [list[0], list[2]];
        for number in 0..CLIENTS {
            let after = choose(&fewer, number);
            let was = before[number as usize];
            assert!(after == was || was == 1, "client {number} moved from {was}");
        }
        // With a fourth, those who move all move to it.
        let more = candidates(&[1, 1, 2, 1]);
        let moved = (0..CLIENTS)
            .filter(|&number| {
                let after = choose(&more, number);
                assert!(after == before[number as usize] || after == 3);
                after == 3
            })
            .count();
        let part = moved as f64 / f64::from(CLIENTS);
        assert!((part - 0.2).abs() < 0.02, "{part}");
    }

    #[test]
    fn the_hash_never_changes() {
        // Stickiness across restarts and machines rests on these values.
        assert_eq!(stable_hash(b"10.0.0.1:80"), 0xdbbc_907f_2153_1a73);
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(octets(mapped), [10, 0, 0, 1]);
    }
}
