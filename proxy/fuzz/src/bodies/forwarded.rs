//! What proxies before us say about the client, held against another reader.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use http::header::{HOST, HeaderName, HeaderValue};

use super::site::{From, SITE};
use crate::forward::prepare_request;
use crate::request::{admit, is_trusted};

/// Field values, a line each; its first byte says of which field.
pub fn forwarded(data: &[u8]) {
    let Some((&options, data)) = data.split_first() else {
        return;
    };
    let from = match options & 1 != 0 {
        true => From::Trusted,
        false => From::Stranger,
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    let host = HeaderValue::from_static("a.test");
    parts.headers.append(HOST, host);
    let mut chain: Vec<&[u8]> = Vec::new();
    for line in data.split(|byte| *byte == b'\n').take(FIELDS) {
        let Some((&field, value)) = line.split_first() else {
            continue;
        };
        let name = NAMES[usize::from(field) % NAMES.len()];
        if let Ok(value) = HeaderValue::from_bytes(value) {
            parts.headers.append(HeaderName::from_static(name), value);
            if name == "x-forwarded-for" {
                chain.extend(line[1..].split(|byte| *byte == b','));
            }
        }
    }
    let (site, conn) = (&SITE.config, from.facts());
    let admitted = admit(&mut parts, &conn, &site.trusted_proxies, &site.limits);
    let facts = admitted.unwrap_or_else(|rejection| panic!("refused: {rejection}"));
    assert_eq!(facts.client_ip, client(from, &chain));
    assert!(matches!(facts.scheme, "http" | "https"));
    let id = facts.request_id.as_bytes();
    assert!((1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic));
    if from == From::Stranger {
        assert_eq!(facts.scheme, "http");
        assert!(id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit));
    }
    prepare_request(&mut parts.headers, &facts, &conn);
    let last = parts
        .headers
        .get("x-forwarded-for")
        .map(HeaderValue::as_bytes);
    let last = last.and_then(|line| line.rsplit(|byte| *byte == b' ').next());
    assert_eq!(last, Some(from.ip().to_string().as_bytes()));
    for (name, value) in [
        ("x-real-ip", facts.client_ip.to_string()),
        ("x-forwarded-proto", facts.scheme.to_owned()),
        ("x-request-id", facts.request_id.to_string()),
    ] {
        let told: Vec<_> = parts.headers.get_all(name).iter().collect();
        assert_eq!(told, [value.as_str()], "{name}");
    }
}

/// From the nearest proxy outwards, as long as each is trusted and the one before it has an address.
fn client(from: From, chain: &[&[u8]]) -> IpAddr {
    let mut client = from.ip();
    let mut farther = chain.iter().rev();
    while is_trusted(client, &SITE.config.trusted_proxies) {
        match farther.next().and_then(|entry| address(entry)) {
            Some(next) => client = next,
            None => break,
        }
    }
    client
}

fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let alone = inner.unwrap_or(text).parse().ok();
    let address = alone.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))?;
    Some(match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        v4 => v4,
    })
}

const NAMES: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
    "x-real-ip",
    "forwarded",
    "x-forwarded-host",
];
const FIELDS: usize = 20;
