//! Which of many networks an address is in: sorted ranges and one binary search.
//!
//! Networks either hold one another or have nothing in common. So the smallest that holds an address is
//! found by cutting the larger ones up where smaller ones lie in them, once, when the table is made.

use std::net::IpAddr;

use crate::network::{Network, Range};

/// Networks, each with the number of its name.
pub(crate) struct Table {
    v4: Vec<Piece<u32>>,
    v6: Vec<Piece<u128>>,
}

/// Addresses from `first` to `last`; no two pieces share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece<A> {
    first: A,
    last: A,
    name: u32,
}

/// What of an address as a number is needed to cut ranges up.
trait Address: Copy + Ord {
    fn after(self) -> Option<Self>;
    fn before(self) -> Option<Self>;
}

impl Table {
    pub(crate) fn new(networks: impl IntoIterator<Item = (Network, u32)>) -> Table {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, name) in networks {
            match network.range() {
                Range::V4(first, last) => v4.push(Piece { first, last, name }),
                Range::V6(first, last) => v6.push(Piece { first, last, name }),
            }
        }
        Table {
            v4: cut(v4),
            v6: cut(v6),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The name of the smallest network that holds this address.
    pub(crate) fn find(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(v4) => find(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => find(&self.v6, v6.to_bits()),
        }
    }
}

fn find<A: Address>(pieces: &[Piece<A>], address: A) -> Option<u32> {
    let behind = pieces.partition_point(|piece| piece.first <= address);
    let piece = pieces[..behind].last()?;
    (address <= piece.last).then_some(piece.name)
}

/// Makes pieces of ranges that hold one another. Of two that are the same, the earlier one counts.
fn cut<A: Address>(mut ranges: Vec<Piece<A>>) -> Vec<Piece<A>> {
    // Outer ones before those inside them.
    ranges.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
    ranges.dedup_by_key(|range| (range.first, range.last));
    let mut pieces: Vec<Piece<A>> = Vec::with_capacity(ranges.len());
    // The ranges around the present place, each inside the one before; what is left of each begins at
    // `first`.
    let mut around: Vec<Piece<A>> = Vec::new();
    for range in ranges {
        close(&mut around, &mut pieces, |open| open.last < range.first);
        // What lies between the smaller range before, if any, and this one.
        if let Some(open) = around.last()
            && let Some(last) = range.first.before()
            && open.first <= last
        {
            pieces.push(Piece { last, ..*open });
        }
        around.push(range);
    }
    close(&mut around, &mut pieces, |_| true);
    pieces
}

/// Ends ranges from the innermost on, as long as they are over.
fn close<A: Address>(
    around: &mut Vec<Piece<A>>,
    pieces: &mut Vec<Piece<A>>,
    is_over: impl Fn(&Piece<A>) -> bool,
) {
    while let Some(open) = around.pop_if(|open| is_over(open)) {
        if open.first <= open.last {
            pieces.push(open);
        }
        let Some(outer) = around.last_mut() else {
            return;
        };
        match open.last.after() {
            Some(next) => outer.first = next,
            // The outer ones end with the last address too: nothing is left of any.
            None => around.clear(),
        }
    }
}

impl Address for u32 {
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Address for u128 {
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Vec<Network> {
        Network::all_of(text).unwrap()
    }

    /// The networks by their index.
    fn table(text: &str) -> Table {
        Table::new((0..).zip(networks(text)).map(|(name, one)| (one, name)))
    }

    #[test]
    fn the_smallest_network_around_an_address_is_found() {
        let table =
            table("10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.1.2.3 10.255.0.0/16 ::/0 ::1 ffff::/16");
        for (address, expect) in [
            ("9.255.255.255", None),
            ("10.0.0.0", Some(0)),
            ("10.0.255.255", Some(0)),
            ("10.1.0.0", Some(1)),
            ("10.1.2.2", Some(2)),
            ("10.1.2.3", Some(3)),
            ("10.1.2.4", Some(2)),
            ("10.1.3.0", Some(1)),
            ("10.2.0.0", Some(0)),
            ("10.255.255.255", Some(4)),
            ("11.0.0.0", None),
            ("::ffff:10.1.2.3", Some(3)),
            ("::", Some(5)),
            ("::1", Some(6)),
            ("::2", Some(5)),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(7)),
        ] {
            assert_eq!(table.find(address.parse().unwrap()), expect, "{address}");
        }
    }

    #[test]
    fn of_two_that_are_the_same_the_first_counts() {
        let table = table("10.0.0.0/8 192.0.2.0/24 10.0.0.0/8");
        assert_eq!(table.find("10.0.0.1".parse().unwrap()), Some(0));
        assert_eq!(table.v4.len(), 2);
    }

    /// Against asking each network in turn, over a small corner of the address space.
    #[test]
    fn it_agrees_with_looking_at_each() {
        let mut random = 7_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) % below
        };
        for _ in 0..200 {
            let pick = |_| {
                let prefix = 32 - next(9);
                let address = next(256) >> (32 - prefix) << (32 - prefix);
                format!("255.255.255.{address}/{prefix}")
            };
            let text = (0..12).map(pick).collect::<Vec<_>>().join(" ");
            let (all, table) = (networks(&text), table(&text));
            for last in 0..=255_u32 {
                let address = 0xffff_ff00 | last;
                let holds = |network: &&Network| match network.range() {
                    Range::V4(first, last) => (first..=last).contains(&address),
                    Range::V6(..) => false,
                };
                let size = |network: &&Network| match network.range() {
                    Range::V4(first, last) => last - first,
                    Range::V6(..) => 0,
                };
                let expect = all.iter().filter(holds).min_by_key(size);
                let got = find(&table.v4, address).map(|name| &all[name as usize]);
                assert_eq!(got, expect, "{last} in {text}");
            }
        }
    }
}
