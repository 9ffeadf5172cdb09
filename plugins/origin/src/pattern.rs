//! The list of origins: many of them cost as little as a few.
//!
//! Every pattern becomes one text, `scheme://host:port` in lower case with the port written out; one with
//! a wildcard has a host that begins with the dot. An origin is looked up as it is, and once for each of
//! its host's parents.

/// Origins, sorted.
pub(crate) struct Patterns(Vec<String>);

impl Patterns {
    /// # Errors
    /// The index of the first pattern that is none, and why.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, (usize, String)> {
        let keys = patterns.iter().enumerate().map(|(index, pattern)| {
            key(pattern).map_err(|why| (index, format!("`{pattern}`: {why}")))
        });
        let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
        keys.sort_unstable();
        Ok(Patterns(keys))
    }

    /// Whether a client's `Origin` fits one of them; what is no origin fits none.
    pub(crate) fn matches(&self, origin: &[u8]) -> bool {
        let Ok(origin) = str::from_utf8(origin) else {
            return false;
        };
        let origin = origin.to_ascii_lowercase();
        if origin == NULL {
            return self.has(NULL);
        }
        let Some((scheme, host, port)) = split(&origin) else {
            return false;
        };
        // Whatever else a careless reader might see in it, or take for the end of the host.
        if check_host(host, false).is_err() {
            return false;
        }
        let Some(port) = effective_port(scheme, port) else {
            return false;
        };
        let has = |host: &str| self.has(&join(scheme, host, port));
        has(host) || host.match_indices('.').any(|(dot, _)| has(&host[dot..]))
    }

    fn has(&self, key: &str) -> bool {
        self.0.binary_search_by(|one| one.as_str().cmp(key)).is_ok()
    }
}

/// A pattern of the configuration as it is looked up.
fn key(pattern: &str) -> Result<String, String> {
    if pattern == NULL {
        return Ok(NULL.to_owned());
    }
    if pattern == "*" {
        return Err("every origin would be let in; leave the plugin out instead".to_owned());
    }
    let lower = pattern.to_ascii_lowercase();
    let (scheme, host, port) = split(&lower)
        .ok_or_else(|| format!("it begins with a scheme, as in `https://{pattern}`"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(good) {
        return Err(format!("`{scheme}` is no scheme"));
    }
    if host.contains('/') || port.is_some_and(|port| port.contains('/')) {
        return Err("an origin has no path".to_owned());
    }
    let port = effective_port(scheme, port).ok_or("the port is no number from 1 to 65535")?;
    let wildcard = host.strip_prefix("*.");
    check_host(wildcard.unwrap_or(host), wildcard.is_some())?;
    Ok(join(scheme, host.strip_prefix('*').unwrap_or(host), port))
}

/// A name in lower case, or an IP address, as a browser writes it into an origin.
fn check_host(host: &str, wildcard: bool) -> Result<(), String> {
    if let Some(v6) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let good = !wildcard && v6.parse::<std::net::Ipv6Addr>().is_ok();
        return good
            .then_some(())
            .ok_or_else(|| format!("`{host}` is no address"));
    }
    if !host.is_ascii() {
        return Err("write it in punycode (`xn--…`), as browsers send it".to_owned());
    }
    if host.contains('*') {
        return Err(
            "`*` can only stand for the first labels, as in `https://*.example.com`".to_owned(),
        );
    }
    let digits = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if wildcard && host.rsplit('.').next().is_some_and(digits) {
        return Err("an address has no wildcards".to_owned());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match host
        .split('.')
        .find(|label| label.is_empty() || !label.chars().all(good))
    {
        Some("") => Err("a part of the host is missing".to_owned()),
        Some(label) => Err(format!("`{label}` cannot be a part of a host name")),
        None => Ok(()),
    }
}

/// Scheme, host and what stands behind the colon of a lower-case `scheme://host[:port]`.
fn split(origin: &str) -> Option<(&str, &str, Option<&str>)> {
    let (scheme, rest) = origin.split_once("://")?;
    let (host, port) = match rest.rsplit_once(':') {
        // Colons in brackets are part of the host.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    Some((scheme, host, port))
}

/// 0 where there is none and the scheme has none of its own.
fn effective_port(scheme: &str, port: Option<&str>) -> Option<u16> {
    match (port, scheme) {
        (Some(digits), _) => {
            let number = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|&port| number && port > 0)
        }
        (None, "https" | "wss") => Some(443),
        (None, "http" | "ws") => Some(80),
        (None, _) => Some(0),
    }
}

fn join(scheme: &str, host: &str, port: u16) -> String {
    format!("{scheme}://{host}:{port}")
}

const NULL: &str = "null";

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(patterns: &[&str]) -> Result<Patterns, (usize, String)> {
        let patterns: Vec<String> = patterns.iter().map(|&one| one.to_owned()).collect();
        Patterns::new(&patterns)
    }

    #[test]
    fn origins_are_matched_as_a_route_matches_them() {
        let allowed = patterns(&[
            "https://App.example.com",
            "https://*.example.org:8443",
            "http://[::1]:80",
            "http://127.0.0.1:3000",
            "app://bundle",
        ])
        .unwrap();
        for (origin, expect) in [
            ("https://app.example.com", true),
            ("HTTPS://App.Example.com:443", true),
            ("https://app.example.com:8443", false),
            ("http://app.example.com", false),
            ("http://app.example.com:443", false),
            ("https://xapp.example.com", false),
            ("https://app.example.com.evil.net", false),
            ("https://evil.net/app.example.com", false),
            ("https://u@app.example.com", false),
            ("https://app.example.com/", false),
            ("https://app.example.com:", false),
            ("https://app.example.com:443x", false),
            ("https://app.example.com:+443", false),
            ("https://app.example.com:99999", false),
            ("https://app.example.com, https://evil.net", false),
            ("https://a.b.example.org:8443", true),
            ("https://.example.org:8443", false),
            ("https://a..example.org:8443", false),
            ("https://example.org:8443", false),
            ("https://a.example.org", false),
            ("https://evilexample.org:8443", false),
            ("https://evil.net#.example.org:8443", false),
            ("https://evil.net:1@a.example.org:8443", false),
            ("https://evil.net:1.example.org:8443", false),
            ("https://[::1].example.org:8443", false),
            ("http://[::1]", true),
            ("http://[::1]:81", false),
            ("http://127.0.0.1:3000", true),
            ("http://127.0.0.1", false),
            ("app://bundle", true),
            ("app://other", false),
            ("null", false),
            ("", false),
            ("app.example.com", false),
            ("://app.example.com", false),
        ] {
            assert_eq!(allowed.matches(origin.as_bytes()), expect, "{origin}");
        }
        assert!(!allowed.matches(b"https://app.example.com\xff"));
        assert!(patterns(&["null"]).unwrap().matches(b"null"));
        assert!(!patterns(&["https://null"]).unwrap().matches(b"null"));
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        #[track_caller]
        fn check(pattern: &str, expect: &str) {
            let Err((index, message)) = patterns(&["null", pattern]) else {
                panic!("`{pattern}` is taken")
            };
            assert_eq!(index, 1);
            assert!(message.ends_with(expect), "{message}");
        }
        check("*", "leave the plugin out instead");
        check(
            "example.com",
            "it begins with a scheme, as in `https://example.com`",
        );
        check("https://a.com/", "an origin has no path");
        check("https://a.com:80/x", "an origin has no path");
        check("1a://b", "`1a` is no scheme");
        check("://a.com", "`` is no scheme");
        check("https://", "a part of the host is missing");
        check("https://a:x", "the port is no number from 1 to 65535");
        check("https://a:0", "the port is no number from 1 to 65535");
        check("https://*.0.0.1", "an address has no wildcards");
        check("https://*", "as in `https://*.example.com`");
        check("https://a.*.com", "as in `https://*.example.com`");
        check("https://a..com", "a part of the host is missing");
        check("https://a b.com", "`a b` cannot be a part of a host name");
        check("https://bücher.example", "as browsers send it");
        check("http://[::1", "`[:` cannot be a part of a host name");
        check("http://[::x]", "`[::x]` is no address");
    }
}
