//! `host[:port]` in its one normal form: lower case, no trailing dot, no empty port.
//!
//! Stricter than RFC 3986 §3.2: no userinfo, no percent-encoding, no sub-delimiters. Names that
//! need those exist in no DNS, and two parties read them in two ways.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// Lower case; an IPv6 address in brackets, in its canonical spelling.
    pub(super) host: Cow<'a, str>,
    pub(super) port: Option<u16>,
}

/// The text is no `host[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadAuthority;

impl Authority<'_> {
    pub(super) fn parse(text: &str) -> Result<Authority<'_>, BadAuthority> {
        let host_end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(BadAuthority)? + 2,
            // A text's own search takes longer than so short a text is worth.
            None => (text.bytes().position(|byte| byte == b':')).unwrap_or(text.len()),
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

    /// The host alone, and with its port: one text where there is none.
    pub(super) fn into_texts(self) -> (Arc<str>, Arc<str>) {
        let host: Arc<str> = self.host.into();
        let authority = match self.port {
            None => Arc::clone(&host),
            Some(port) => format!("{host}:{port}").into(),
        };
        (host, authority)
    }
}

fn normal_host(host: &str) -> Result<Cow<'_, str>, BadAuthority> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(BadAuthority)?;
        let address: Ipv6Addr = address.parse().map_err(|_| BadAuthority)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut label = 0;
    let mut upper = false;
    for byte in host.bytes() {
        match byte {
            b'.' if label == 0 => return Err(BadAuthority),
            b'.' => {
                label = 0;
                continue;
            }
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => upper = true,
            _ => return Err(BadAuthority),
        }
        label += 1;
    }
    if label == 0 || host.len() > HOST_LENGTH {
        return Err(BadAuthority);
    }
    Ok(match upper {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    })
}

/// RFC 1035 §2.3.4, without the final dot.
const HOST_LENGTH: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        let got = Authority::parse(text)
            .ok()
            .map(|authority| authority.into_texts().1);
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
