//! A network as it is written (RFC 4632, RFC 4291 section 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that begin alike. Part of IPv4 if it can be: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// All bits behind the prefix are 0.
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// All that a text names, between blanks, commas or lines; `#` begins a comment.
    ///
    /// # Errors
    /// What is no network.
    pub(crate) fn all_of(text: &str) -> Result<Vec<Network>, String> {
        let code = |line| str::split(line, '#').next().unwrap_or_default();
        let words = text.lines().map(code).flat_map(|line| {
            let gap = |c: char| c == ',' || c.is_whitespace();
            line.split(gap).filter(|word| !word.is_empty())
        });
        words.map(Network::parse).collect()
    }

    fn parse(text: &str) -> Result<Network, String> {
        let bad =
            || format!("`{text}` is not a network, as `10.0.0.0/8`, `fd00::/8` or `192.0.2.7` are");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            Some(prefix) => Some(prefix).filter(digits).and_then(|p| p.parse().ok()),
            None => Some(bits),
        };
        let prefix = prefix.filter(|&prefix| prefix <= bits).ok_or_else(bad)?;
        let network = match (address.to_canonical(), address) {
            (IpAddr::V4(v4), IpAddr::V6(_)) if prefix >= MAPPED => Network::v4(v4, prefix - MAPPED),
            (_, IpAddr::V4(v4)) => Network::v4(v4, prefix),
            (_, IpAddr::V6(v6)) => Network::v6(v6, prefix),
        };
        // Whoever wrote it may have meant the address alone.
        if network.first != address && network.first != address.to_canonical() {
            return Err(format!(
                "`{text}` has bits outside the network: `{network}`"
            ));
        }
        Ok(network)
    }

    fn v4(address: Ipv4Addr, prefix: u8) -> Network {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Network {
            first: Ipv4Addr::from_bits(address.to_bits() & mask).into(),
            prefix,
        }
    }

    fn v6(address: Ipv6Addr, prefix: u8) -> Network {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        Network {
            first: Ipv6Addr::from_bits(address.to_bits() & mask).into(),
            prefix,
        }
    }

    /// Its first and last address, as numbers.
    pub(crate) fn range(self) -> Range {
        match self.first {
            IpAddr::V4(first) => {
                let first = first.to_bits();
                let rest = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                Range::V4(first, first | rest)
            }
            IpAddr::V6(first) => {
                let first = first.to_bits();
                let rest = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                Range::V6(first, first | rest)
            }
        }
    }
}

/// First and last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    V4(u32, u32),
    V6(u128, u128),
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.first.is_ipv4() { 32 } else { 128 };
        match self.prefix == bits {
            true => self.first.fmt(f),
            false => write!(f, "{}/{}", self.first, self.prefix),
        }
    }
}

/// Bits in front of an IPv4 address that is written as an IPv6 one (RFC 4291 section 2.5.5.2).
const MAPPED: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        #[track_caller]
        fn check(text: &str, expect: Result<&str, &str>) {
            let got = Network::parse(text).map(|network| network.to_string());
            match (&got, expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect),
                (Err(got), Err(expect)) => assert!(got.ends_with(expect), "{got}"),
                _ => panic!("{text}: {got:?}"),
            }
        }
        check("10.0.0.0/8", Ok("10.0.0.0/8"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("192.0.2.7", Ok("192.0.2.7"));
        check("192.0.2.7/32", Ok("192.0.2.7"));
        check("2001:DB8::/32", Ok("2001:db8::/32"));
        check("::/0", Ok("::/0"));
        check("::1", Ok("::1"));
        check("::ffff:10.0.0.0/104", Ok("10.0.0.0/8"));
        check("::ffff:0:0/96", Ok("0.0.0.0/0"));
        check("::ffff:192.0.2.7", Ok("192.0.2.7"));
        check("10.0.0.1/8", Err("bits outside the network: `10.0.0.0/8`"));
        check("fd00::1/8", Err("bits outside the network: `fd00::/8`"));
        check("::ffff:10.0.0.1/104", Err("`10.0.0.0/8`"));
        check("::ffff:0:0/80", Err("bits outside the network: `::/80`"));
        for bad in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "::/129",
            "a/8",
            "010.0.0.1",
            "::1/256",
            "10.0.0.0/8/8",
        ] {
            check(bad, Err("are"));
        }
    }

    #[test]
    fn a_text_holds_many() {
        let text = "10.0.0.0/8,::1 # us\r\n\n# and nobody: else\n 192.0.2.7\t192.0.2.8 ,";
        let found = Network::all_of(text).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.0/8", "::1", "192.0.2.7", "192.0.2.8"]);
        assert_eq!(Network::all_of(" \n#\n"), Ok(Vec::new()));
        assert!(Network::all_of("::1 x").is_err());
    }

    #[test]
    fn a_range_is_the_first_and_the_last() {
        #[track_caller]
        fn check(text: &str, expect: Range) {
            assert_eq!(Network::parse(text).map(Network::range), Ok(expect));
        }
        check("0.0.0.0/0", Range::V4(0, u32::MAX));
        check("10.0.0.0/8", Range::V4(0x0a00_0000, 0x0aff_ffff));
        check("10.0.0.1", Range::V4(0x0a00_0001, 0x0a00_0001));
        check("::/0", Range::V6(0, u128::MAX));
        check("::4/126", Range::V6(4, 7));
        check("::4", Range::V6(4, 4));
    }
}
