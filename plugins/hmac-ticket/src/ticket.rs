//! A ticket: `[KID.]PAYLOAD.SIGNATURE`, each part base64url without padding but the key's name.
//!
//! The signature is HMAC-SHA256 (RFC 2104) of all that stands before the last dot. The payload is a JSON
//! object; it is read only after the signature was found to be right, and a member that nobody here knows
//! is refused: it might be a binding that its writer relies on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sluicegate_plugin::Secret;
use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::serde::Deserialize;

/// Why a request is refused; the values of the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Missing,
    Malformed,
    /// No key of this name.
    Key,
    Signature,
    Expired,
    /// Good for longer than `max_age`.
    TooLong,
    /// Not for this place, this client, or without what `require` asks for.
    Binding,
    /// A second time.
    Used,
    /// The store cannot say whether it was used.
    Store,
    /// The rest of the request cannot be sent on.
    Request,
}

/// What a ticket whose signature is right says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(crate = "sluicegate_plugin::serde", deny_unknown_fields)]
pub(crate) struct Ticket {
    /// When it ends, in seconds since 1970.
    pub(crate) exp: u64,
    /// Who it was given to.
    #[serde(default)]
    pub(crate) sub: Option<String>,
    /// Where it is good: a path, or what a path begins with and a `*`.
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// The one client that may use it.
    #[serde(default)]
    pub(crate) ip: Option<IpAddr>,
    /// When the session that it opens ends, in seconds since 1970.
    #[serde(default)]
    pub(crate) session_exp: Option<u64>,
    /// Anything, so that no two tickets are the same.
    #[serde(default, rename = "nonce")]
    _nonce: Option<String>,
}

impl Ticket {
    /// Reads a ticket that one of the keys has signed; with it comes its signature, which no other ticket
    /// has.
    pub(crate) fn verify<'a>(
        text: &'a str,
        keys: &BTreeMap<String, Secret>,
    ) -> Result<(Self, &'a str), Why> {
        if text.len() > MAX_TICKET {
            return Err(Why::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Why::Malformed)?;
        // Strict: there is one text for one signature, or a used ticket could be written anew.
        let tag = decode(signature)?;
        let (kid, payload) = match signed.split_once('.') {
            Some((kid, payload)) => (Some(kid), payload),
            None => (None, signed),
        };
        let is_right = |key: &Secret| {
            crypto::verify_hmac(
                Hash::Sha256,
                key.expose().as_bytes(),
                signed.as_bytes(),
                &tag,
            )
        };
        let right = match kid {
            Some(kid) => is_right(keys.get(kid).ok_or(Why::Key)?),
            None => keys.values().any(is_right),
        };
        if !right {
            return Err(Why::Signature);
        }
        let ticket = serde_json::from_slice(&decode(payload)?).map_err(|_| Why::Malformed)?;
        Ok((ticket, signature))
    }

    /// Whether it is good at this path.
    pub(crate) fn allows_path(&self, path: &str) -> bool {
        self.path
            .as_ref()
            .is_none_or(|own| match own.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == own,
            })
    }

    pub(crate) fn allows_host(&self, host: &str) -> bool {
        self.host
            .as_ref()
            .is_none_or(|own| own.eq_ignore_ascii_case(host))
    }

    pub(crate) fn allows_ip(&self, ip: IpAddr) -> bool {
        self.ip
            .is_none_or(|own| own.to_canonical() == ip.to_canonical())
    }
}

impl Why {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Why::Missing => "missing",
            Why::Malformed => "malformed",
            Why::Key => "key",
            Why::Signature => "signature",
            Why::Expired => "expired",
            Why::TooLong => "too-long",
            Why::Binding => "binding",
            Why::Used => "used",
            Why::Store => "store",
            Why::Request => "request",
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Why> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Why::Malformed)
}

/// Bytes; far more than any that fits well into a URL.
const MAX_TICKET: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{KEY, sign};

    fn keys() -> BTreeMap<String, Secret> {
        let other = "another key, which is of no use here";
        [("k1", other), ("k2", KEY)]
            .map(|(name, key)| (name.to_owned(), Secret::from(key)))
            .into()
    }

    fn verify(text: &str) -> Result<Ticket, Why> {
        Ticket::verify(text, &keys()).map(|(ticket, _)| ticket)
    }

    /// Made by Node and by Python as the README shows.
    const BY_NODE: &str = "eyJleHAiOjE3MDAwMDAwMzAsInN1YiI6ImFubiIsInBhdGgiOiIvd3MvKiIsIm5vbmNlIjoibjEifQ.\
        U4-lGXzWPwBpYSRAOZxBUcGOz8233Eq9k5mHRehPzwk";
    const BY_NODE_NAMED: &str = "k2.eyJleHAiOjE3MDAwMDAwMzAsInN1YiI6ImFubiIsInBhdGgiOiIvd3MvKiIsIm5vbmNlIjoibjEifQ.\
        a4rTg0UeZPdKD8YHYU4XcLkiZUHIYJJV_AVdEziNR_s";

    #[test]
    fn tickets_of_other_languages_are_read() {
        for text in [BY_NODE, BY_NODE_NAMED] {
            let ticket = verify(text).unwrap();
            assert_eq!(ticket.sub.as_deref(), Some("ann"));
            assert_eq!(ticket.exp, 1_700_000_030);
            assert_eq!(ticket.path.as_deref(), Some("/ws/*"));
        }
    }

    #[test]
    fn a_ticket_changed_anywhere_is_refused() {
        for text in [BY_NODE, BY_NODE_NAMED] {
            for i in 0..text.len() {
                let mut bytes = text.as_bytes().to_vec();
                bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                assert!(verify(&changed).is_err(), "byte {i} of {text}");
                assert!(verify(&text[..i]).is_err(), "{i} bytes of {text}");
            }
            for more in ["=", ".", "A", " "] {
                assert!(verify(&format!("{text}{more}")).is_err());
            }
        }
    }

    #[test]
    fn only_what_is_known_is_believed() {
        #[track_caller]
        fn check(text: &str, expect: Why) {
            assert_eq!(verify(text), Err(expect), "{text}");
        }
        check("", Why::Malformed);
        check(".", Why::Signature);
        check("a", Why::Malformed);
        check("k9.e30.AAAA", Why::Key);
        check(&BY_NODE_NAMED.replace("k2.", "k1."), Why::Signature);
        check(&BY_NODE_NAMED.replace("k2.", ""), Why::Signature);
        check(&"a".repeat(MAX_TICKET + 1), Why::Malformed);
        for payload in [
            "{}",
            "[]",
            "1",
            r#"{"exp":"1"}"#,
            r#"{"exp":-1}"#,
            r#"{"exp":1.5}"#,
            r#"{"exp":1,"exp":2}"#,
            r#"{"exp":1,"pth":"/ws"}"#,
            r#"{"exp":1,"ip":"me"}"#,
            r#"{"exp":1} x"#,
        ] {
            check(&sign(payload), Why::Malformed);
        }
        assert!(verify(&sign(r#"{"exp":1,"sub":null}"#)).is_ok());
    }

    #[test]
    fn bindings_are_exact() {
        let bound = |path: &str| Ticket {
            path: Some(path.to_owned()),
            ..Ticket::default()
        };
        assert!(bound("/ws").allows_path("/ws") && !bound("/ws").allows_path("/ws/"));
        assert!(bound("/ws/*").allows_path("/ws/a/b") && !bound("/ws/*").allows_path("/ws"));
        assert!(Ticket::default().allows_path("/"));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let bound = Ticket {
            ip: Some(ip("::ffff:192.0.2.1")),
            host: Some("WS.example.com".to_owned()),
            ..Ticket::default()
        };
        assert!(bound.allows_ip(ip("192.0.2.1")) && !bound.allows_ip(ip("192.0.2.2")));
        assert!(bound.allows_host("ws.example.com") && !bound.allows_host("example.com"));
    }
}
