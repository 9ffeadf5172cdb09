//! `host[:port]` in its one normal form: lower case, no trailing dot, no empty port.
//!
//! Stricter than RFC 3986 §3.2: no userinfo, no percent-encoding, no sub-delimiters. Names that
//! need those exist in no DNS, and two parties read them in two ways.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// Lower case; an IPv6 address in brackets, in its canonical spelling.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// The text is no `host[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadAuthority;

impl FromStr for Authority {
    type Err = BadAuthority;

    fn from_str(text: &str) -> Result<Authority, BadAuthority> {
        let host_end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(BadAuthority)? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(host_end);
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| BadAuthority)?)
            }
            None if port.is_empty() => None,
            _ => return Err(BadAuthority),
        };
        Ok(Authority {
            host: normal_host(host)?,
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

fn normal_host(host: &str) -> Result<String, BadAuthority> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(BadAuthority)?;
        let address: Ipv6Addr = address.parse().map_err(|_| BadAuthority)?;
        return Ok(format!("[{address}]"));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let fine = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if host.len() > HOST_LENGTH || !host.split('.').all(fine) {
        return Err(BadAuthority);
    }
    Ok(host.to_ascii_lowercase())
}

/// RFC 1035 §2.3.4, without the final dot.
const HOST_LENGTH: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let got = text
            .parse::<Authority>()
            .ok()
            .map(|authority| authority.to_string());
        assert_eq!(got.as_deref(), expect, "{text}");
    }

    #[test]
    fn one_normal_form() {
        check("Example.COM", Some("example.com"));
        check("example.com.", Some("example.com"));
        check("example.com:", Some("example.com"));
        check("example.com:8080", Some("example.com:8080"));
        check("example.com:0080", Some("example.com:80"));
        check("my_service", Some("my_service"));
        check("192.0.2.1:80", Some("192.0.2.1:80"));
        check("[2001:DB8:0::1]:80", Some("[2001:db8::1]:80"));
        check("[::1]", Some("[::1]"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ".",
            "..",
            ":80",
            "a..b",
            ".a",
            "user@example.com",
            "u:p@h",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%2eb",
            "ex\u{e4}mple",
            "a:b",
            "a:+80",
            "a:65536",
            "a:80:80",
            "::1",
            "[::1",
            "[::1]x",
            "[]",
            "[v1.x]",
            "[::1]:x",
            "[fe80::1%25eth0]",
            "a\tb",
            " a",
        ] {
            check(text, None);
        }
        check(&"a".repeat(253), Some(&"a".repeat(253)));
        check(&"a".repeat(254), None);
    }
}
