//! Addresses, host names, origins and networks.
//!
//! Host names are DNS names in ASCII (RFC 1123, with `_`), compared in lower case; names in other
//! alphabets must be written in punycode, as they come over the wire.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::{FromText, Mistake};
use crate::config::model::{Bind, HostPattern, OriginHost, OriginPattern, ServerAddress};

/// Where a server is and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct ServerUrl {
    pub(in crate::config) address: ServerAddress,
    pub(in crate::config) tls: bool,
    /// `h2://` or `h2c://`, which leave nothing else to choose.
    pub(in crate::config) http2: bool,
}

/// A name to verify in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct ServerName(pub(in crate::config) String);

/// Whether the `to` of a route is an address rather than a name.
pub(in crate::config) fn looks_like_address(text: &str) -> bool {
    text.contains(['.', ':', '/'])
}

impl FromText for Bind {
    const EXPECTED: &'static str = "an address";
    const HINT: Option<&'static str> =
        Some("as in `\":443\"`, `\"127.0.0.1:80\"`, `\"unix:/path\"`");

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: String| {
            Err(Mistake::new(format!("`{text}` is not an address to listen on")).hint(hint))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(text, path).map(Bind::Unix);
        }
        if let Some(port) = text.strip_prefix(':')
            && !port.contains(':')
        {
            return port_number(text, port).map(Bind::AnyTcp);
        }
        if let Ok(address) = text.parse() {
            return Ok(Bind::Tcp(address));
        }
        if text.parse::<u16>().is_ok() {
            return bad(format!("a port alone is written `:{text}`"));
        }
        if text.contains("://") {
            return bad("leave out the scheme; `tls` makes it https".to_owned());
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return bad(format!("add a port: `{}`", SocketAddr::new(ip, 443)));
        }
        match text.rsplit_once(':') {
            Some(("*", port)) => bad(format!("every address is written `:{port}`")),
            Some(("localhost", port)) => bad(format!("did you mean `127.0.0.1:{port}`?")),
            Some((host, port)) if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() => {
                port_number(text, port).and_then(|_| bad(EXAMPLES.to_owned()))
            }
            Some(_) => bad("a listener needs an IP address, not a host name".to_owned()),
            None => bad(EXAMPLES.to_owned()),
        }
    }
}

impl FromText for ServerUrl {
    const EXPECTED: &'static str = "an address";

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: &str| {
            let message = format!("`{text}` is not the address of a server");
            Err(Mistake::new(message).hint(hint.to_owned()))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(ServerUrl {
                address: ServerAddress::Unix(unix_path(text, path)?),
                tls: false,
                http2: false,
            });
        }
        let (scheme, authority) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, authority)) => (Some(scheme), authority),
        };
        let (default_port, tls) = match scheme {
            None => (None, false),
            Some("http" | "ws" | "h2c") => (Some(80), false),
            Some("https" | "wss" | "h2") => (Some(443), true),
            Some(_) => return bad("the schemes are http, https, h2, h2c and unix"),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#']) {
            return bad(
                "leave out the path; a route changes paths with `strip_prefix` or `rewrite`",
            );
        }
        if authority.contains('@') {
            // Not quoted: there may be a password in it.
            let message = "the address of a server has no user";
            let hint = "leave it out; send credentials with `request_headers`".to_owned();
            return Err(Mistake::new(message).hint(hint));
        }
        if authority.parse::<Ipv6Addr>().is_ok() {
            return bad("write an IPv6 address in brackets, as in `[::1]:3000`");
        }
        let (host, port) = split_port(authority);
        let port = match (port, default_port) {
            (Some(port), _) => match port_number(text, port)? {
                0 => return bad("the port cannot be 0"),
                port => port,
            },
            (None, Some(port)) => port,
            (None, None) => return bad("add the port, as in `127.0.0.1:3000`"),
        };
        let address = match ip_host(host) {
            Some(ip) => ServerAddress::Ip(SocketAddr::new(ip, port)),
            None => {
                let host = match host_name(host) {
                    Ok(host) => Arc::from(host),
                    Err(why) => return bad(&why),
                };
                ServerAddress::Name { host, port }
            }
        };
        Ok(ServerUrl {
            address,
            tls,
            http2: matches!(scheme, Some("h2" | "h2c")),
        })
    }
}

impl FromText for ServerName {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        if let Some(ip) = ip_host(text) {
            return Ok(ServerName(ip.to_string()));
        }
        let bad = |why| Mistake::new(format!("`{text}` is not a server name")).hint(why);
        host_name(text).map(ServerName).map_err(bad)
    }
}

impl FromText for HostPattern {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: String| Mistake::new(format!("`{text}` is not a host")).hint(hint);
        if text == "*" {
            return Err(bad("leave the key out to match any host".to_owned()));
        }
        if let Some((_, host)) = text.split_once("://") {
            let host = host.split('/').next().unwrap_or(host);
            return Err(bad(format!("leave out the scheme: `{host}`")));
        }
        if text.contains('/') {
            return Err(bad("a path has its own key, `path`".to_owned()));
        }
        if ip_host(text).is_some() {
            return Ok(HostPattern::Exact(text.to_ascii_lowercase()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(bad(format!(
                "write an IPv6 address in brackets: `[{text}]`"
            )));
        }
        if let (host, Some(_)) = split_port(text) {
            return Err(bad(format!(
                "leave out the port, the listener has it: `{host}`"
            )));
        }
        match text.strip_prefix("*.") {
            Some(rest) if ip_host(rest).is_some() => {
                Err(bad("an IP address has no wildcards".to_owned()))
            }
            Some(rest) => host_name(rest)
                .map(|host| HostPattern::Wildcard(format!(".{host}")))
                .map_err(bad),
            None => host_name(text).map(HostPattern::Exact).map_err(bad),
        }
    }
}

impl FromText for OriginPattern {
    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: String| Mistake::new(format!("`{text}` is not an origin")).hint(hint);
        if text == "null" {
            return Ok(OriginPattern {
                scheme: String::new(),
                host: OriginHost::Null,
                port: None,
            });
        }
        if text == "*" {
            return Err(bad("leave the key out to allow any origin".to_owned()));
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err(bad(format!("it begins with a scheme: `https://{text}`")));
        };
        let scheme = scheme.to_ascii_lowercase();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(good) {
            return Err(bad(format!("`{scheme}` is no scheme")));
        }
        if let Some((authority, _)) = authority.split_once('/') {
            return Err(bad(format!(
                "an origin has no path: `{scheme}://{authority}`"
            )));
        }
        let (host, port) = split_port(authority);
        let port = port.map(|port| port_number(text, port)).transpose()?;
        let host = match host.strip_prefix("*.") {
            _ if ip_host(host).is_some() => OriginHost::Exact(host.to_ascii_lowercase()),
            Some(rest) => OriginHost::Wildcard(format!(".{}", host_name(rest).map_err(bad)?)),
            None => OriginHost::Exact(host_name(host).map_err(bad)?),
        };
        Ok(OriginPattern { scheme, host, port })
    }
}

impl FromText for IpNet {
    const EXPECTED: &'static str = "a network";

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |hint: String| Mistake::new(format!("`{text}` is not a network")).hint(hint);
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(ip));
        }
        let net: IpNet = text
            .parse()
            .map_err(|_| bad("as in `10.0.0.0/8`, `fd00::/8` or `192.0.2.7`".to_owned()))?;
        if net.trunc() != net {
            let hint = format!(
                "the address has bits outside the network: `{}`",
                net.trunc()
            );
            return Err(bad(hint));
        }
        Ok(net)
    }
}

/// A host in lower case, or what is wrong with it.
fn host_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if !text.is_ascii() {
        return Err("write it in punycode (`xn--…`), as it comes over the wire".to_owned());
    }
    if text.contains('*') {
        return Err("`*` can only stand for the first labels, as in `*.example.com`".to_owned());
    }
    if text.ends_with('.') {
        return Err("leave out the dot at the end".to_owned());
    }
    if text.len() > 253 {
        return Err("a host name has at most 253 bytes".to_owned());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let good_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if let Some(label) = text.split('.').find(|label| !good_label(label)) {
        return Err(format!(
            "`{}` cannot be a part of a host name",
            label.escape_debug()
        ));
    }
    let last_is_number = text
        .rsplit('.')
        .next()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if last_is_number {
        return Err("it looks like an IP address, but is none".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// `127.0.0.1` or `[::1]`.
fn ip_host(host: &str) -> Option<IpAddr> {
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// `host:port`; colons in brackets are part of the host.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn port_number(text: &str, port: &str) -> Result<u16, Mistake> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| digits).ok_or_else(|| {
        let start = text.rfind(port).unwrap_or(0);
        Mistake::new(format!("`{port}` is not a port"))
            .hint("a number from 1 to 65535".to_owned())
            .within(start..start + port.len())
    })
}

fn unix_path(text: &str, path: &str) -> Result<PathBuf, Mistake> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains('\0') {
        let message = format!("`{}` names no socket", text.escape_debug());
        return Err(Mistake::new(message).hint("as in `unix:/run/app.sock`".to_owned()));
    }
    Ok(PathBuf::from(path))
}

const EXAMPLES: &str = "as in `:443`, `127.0.0.1:80`, `[::1]:80` or `unix:/path`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let check = |text: &str, expected: Option<Bind>| {
            assert_eq!(Bind::from_text(text).ok(), expected, "{text}");
        };
        check(":443", Some(Bind::AnyTcp(443)));
        check(":0", Some(Bind::AnyTcp(0)));
        check("127.0.0.1:80", Some(Bind::Tcp(([127, 0, 0, 1], 80).into())));
        check(
            "[::1]:80",
            Some(Bind::Tcp((Ipv6Addr::LOCALHOST, 80).into())),
        );
        check("unix:/run/a.sock", Some(Bind::Unix("/run/a.sock".into())));
        for bad in [
            "",
            ":",
            ":x",
            ":65536",
            ":+1",
            "443",
            "localhost:80",
            "*:80",
            "127.0.0.1",
            "::1",
            "[::1]",
            "::1:80",
            "unix:",
            "http://127.0.0.1:80",
            "127.0.0.1:99999",
            "[::1:80",
            "::",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn servers() {
        let name = |host: &str, port| ServerAddress::Name {
            host: Arc::from(host),
            port,
        };
        let ip = |text: &str| ServerAddress::Ip(text.parse().expect("address"));
        let check = |text: &str, expected: Option<(ServerAddress, bool)>| {
            let found = ServerUrl::from_text(text).ok().map(|url| {
                assert_eq!(url.http2, text.starts_with("h2"), "{text}");
                (url.address, url.tls)
            });
            assert_eq!(found, expected, "{text}");
        };
        check("10.0.0.11:3000", Some((ip("10.0.0.11:3000"), false)));
        check("http://App.local", Some((name("app.local", 80), false)));
        check("https://app.local/", Some((name("app.local", 443), true)));
        check("https://[::1]:8443", Some((ip("[::1]:8443"), true)));
        check("wss://app.local", Some((name("app.local", 443), true)));
        check("h2://app.local", Some((name("app.local", 443), true)));
        check("h2c://app.local", Some((name("app.local", 80), false)));
        check("h2c://10.0.0.11:9", Some((ip("10.0.0.11:9"), false)));
        check(
            "unix:app.sock",
            Some((ServerAddress::Unix("app.sock".into()), false)),
        );
        for bad in [
            "",
            "app.local",
            "10.0.0.1",
            "app:0",
            "app:x",
            "ftp://app:1",
            "h2c:app:1",
            "h2c://app/v1",
            "http://app/v1",
            "unix:",
            "http://a@b",
            "::1",
            "[::1]",
            "http://",
            "http://:80",
            "1.2.3:80",
            "300.1.1.1:80",
            "a b:80",
            "-a:80",
            "http://a?b",
            "[::1]x:1",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expected: Option<HostPattern>| {
            assert_eq!(HostPattern::from_text(text).ok(), expected, "{text}");
        };
        let exact = |host: &str| Some(HostPattern::Exact(host.to_owned()));
        check("WS.Example.com", exact("ws.example.com"));
        check("localhost", exact("localhost"));
        check("[::1]", exact("[::1]"));
        check("10.0.0.1", exact("10.0.0.1"));
        check(
            "*.example.com",
            Some(HostPattern::Wildcard(".example.com".to_owned())),
        );
        for bad in [
            "",
            "*",
            "*.",
            "*x.example.com",
            "a.*.com",
            "*.*.com",
            "example.com:443",
            "bücher.de",
            "https://example.com",
            "example.com/ws",
            "example.com.",
            "a..b",
            "::1",
            "*.10.0.0.1",
            "a b",
            "-a.com",
            "1.2.3",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn origins() {
        let check = |text: &str, expected: Option<(&str, OriginHost, Option<u16>)>| {
            let found = OriginPattern::from_text(text)
                .ok()
                .map(|o| (o.scheme, o.host, o.port));
            let expected = expected.map(|(scheme, host, port)| (scheme.to_owned(), host, port));
            assert_eq!(found, expected, "{text}");
        };
        let exact = |host: &str| OriginHost::Exact(host.to_owned());
        check("null", Some(("", OriginHost::Null, None)));
        check(
            "https://App.example.com",
            Some(("https", exact("app.example.com"), None)),
        );
        check(
            "http://localhost:3000",
            Some(("http", exact("localhost"), Some(3000))),
        );
        check("http://[::1]:80", Some(("http", exact("[::1]"), Some(80))));
        check("app://bundle", Some(("app", exact("bundle"), None)));
        let wildcard = OriginHost::Wildcard(".example.com".to_owned());
        check("https://*.example.com", Some(("https", wildcard, None)));
        for bad in [
            "*",
            "app.example.com",
            "https://a.com/",
            "https://",
            "://a.com",
            "https://a:x",
            "1a://b",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn networks() {
        let check = |text: &str, expected: Option<&str>| {
            let found = IpNet::from_text(text).ok().map(|net| net.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("10.0.0.0/8", Some("10.0.0.0/8"));
        check("127.0.0.1", Some("127.0.0.1/32"));
        check("fd00::/8", Some("fd00::/8"));
        for bad in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0/8",
            "localhost",
            "10.0.0.0/",
        ] {
            check(bad, None);
        }
    }
}
