//! Moves a token that a browser sends among the subprotocols to where upstreams look for one.
//!
//! A browser can set no header on a WebSocket but `Sec-WebSocket-Protocol`, so tokens travel in it. They are
//! taken out of the offer and put into a header; nothing is verified here, that is for who reads the header.
//! A browser closes the socket if it offered subprotocols and none is chosen (WHATWG WebSockets,
//! section 3), so one is chosen for an upstream that was left with none to choose from.

#![forbid(unsafe_code)]

use std::cell::Cell;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Hook, Reply, Request, Response, ResponseFilter, Verdict,
    check_header, check_subprotocol, config, export, metrics,
};

#[config]
#[derive(Debug, Clone)]
pub struct Config {
    /// What a subprotocol that carries the token begins with, such as `token.`.
    prefix: Option<String>,
    /// The subprotocol that announces the next one as the token, as in `["bearer", token]`. If neither
    /// this nor `prefix` is there: `bearer`.
    marker: Option<String>,
    /// Header that gets the token.
    #[serde(default = "default_header")]
    header: String,
    /// What stands before the token in the header; empty: the token alone.
    #[serde(default = "default_scheme")]
    scheme: String,
    /// The client sends the token as base64url without padding.
    #[serde(default)]
    base64url: bool,
    /// Choose a subprotocol where the client offered nothing but the token and the upstream chose none.
    #[serde(default = "yes")]
    answer: bool,
}

pub struct SubprotocolToken {
    config: Config,
    /// What to choose for the upstream of this handshake. Set or emptied by each request.
    answer: Cell<Option<String>>,
}

/// What the subprotocols that a client offered come to.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// As it was sent.
    token: Option<String>,
    /// What a client that offered it will accept as chosen.
    carrier: Option<String>,
    /// For the upstream.
    rest: Vec<String>,
}

/// Why a handshake is refused: what it says cannot be meant.
#[derive(Debug, PartialEq, Eq)]
struct Malformed(&'static str);

impl Filter for SubprotocolToken {
    type Config = Config;

    fn configure(mut config: Config) -> Result<Self, ConfigError> {
        if config.prefix.is_none() && config.marker.is_none() {
            config.marker = Some("bearer".to_owned());
        }
        for (key, text) in [("prefix", &config.prefix), ("marker", &config.marker)] {
            let Some(text) = text else { continue };
            let bad = |_| ConfigError::key(key, format!("`{text}` cannot be in a subprotocol"));
            check_subprotocol(text).map_err(bad)?;
        }
        let name = &config.header;
        let bad = |error| ConfigError::key("header", format!("`{name}`: {error}"));
        check_header(name, "").map_err(bad)?;
        let scheme = &config.scheme;
        let bad = |error| ConfigError::key("scheme", format!("`{scheme}`: {error}"));
        check_header(name, scheme).map_err(bad)?;
        Ok(SubprotocolToken {
            config,
            answer: Cell::new(None),
        })
    }

    fn uses(&self, hook: Hook) -> bool {
        match hook {
            Hook::Response => self.config.answer,
            _ => true,
        }
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        self.answer.set(None);
        if !req.is_websocket() {
            return Verdict::Continue;
        }
        match self.take(req) {
            Ok(()) => Verdict::Continue,
            Err(Malformed(why)) => {
                log::event(Level::Warn, "token refused", &[("why", why)]);
                // The figure is a convenience: the verdict stands without it.
                metrics::count("refused", &[("why", why)], 1).ok();
                Reply::new(400)
                    .header("content-type", "text/plain")
                    .body("the token among the subprotocols is malformed\n")
                    .into()
            }
        }
    }
}

impl ResponseFilter for SubprotocolToken {
    fn on_response(&self, res: &mut Response) -> Verdict {
        let Some(answer) = self.answer.take() else {
            return Verdict::Continue;
        };
        if !res.is_upgrade() || res.header("sec-websocket-protocol").is_some() {
            return Verdict::Continue;
        }
        if let Err(error) = res.set_subprotocol(Some(&answer)) {
            // A client that is no browser can live with that.
            sluicegate_plugin::warn!("no subprotocol can be answered: {error}");
        }
        Verdict::Continue
    }
}

impl SubprotocolToken {
    fn take(&self, req: &mut Request) -> Result<(), Malformed> {
        let offer = self.sort(req.subprotocols())?;
        let Some(token) = offer.token else {
            return Ok(());
        };
        let token = match self.config.base64url {
            true => BASE64_URL_SAFE_NO_PAD
                .decode(token)
                .map_err(|_| Malformed("base64url"))?,
            false => token.into_bytes(),
        };
        // Anything else could be read as two fields' worth, or as nothing.
        if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
            return Err(Malformed("characters"));
        }
        let mut value = self.config.scheme.clone().into_bytes();
        if !value.is_empty() {
            value.push(b' ');
        }
        value.extend(token);
        // The client's own copy goes: what it says twice, upstreams may read either way.
        let moved = req
            .set_header(&self.config.header, value)
            .and_then(|()| req.set_subprotocols(&offer.rest));
        moved.map_err(|error: EditError| match error {
            EditError::TooLarge | EditError::TooMany => Malformed("too-large"),
            _ => Malformed("characters"),
        })?;
        if offer.rest.is_empty() {
            self.answer.set(offer.carrier);
        }
        Ok(())
    }

    /// Tells the token from the other subprotocols.
    fn sort(&self, offered: Vec<String>) -> Result<Offer, Malformed> {
        let mut found = Offer {
            token: None,
            carrier: None,
            rest: Vec::with_capacity(offered.len()),
        };
        let mut offered = offered.into_iter();
        while let Some(one) = offered.next() {
            let (token, carrier) = if self.config.marker.as_ref() == Some(&one) {
                (offered.next().ok_or(Malformed("missing"))?, one)
            } else if let Some(token) = self.after_prefix(&one) {
                (token.to_owned(), one)
            } else {
                found.rest.push(one);
                continue;
            };
            // Of two tokens one would be checked and the other one used.
            if found.token.replace(token).is_some() {
                return Err(Malformed("several"));
            }
            found.carrier = Some(carrier);
        }
        Ok(found)
    }

    fn after_prefix<'a>(&self, subprotocol: &'a str) -> Option<&'a str> {
        subprotocol.strip_prefix(self.config.prefix.as_deref()?)
    }
}

export!(SubprotocolToken);

fn default_header() -> String {
    "Authorization".to_owned()
}

fn default_scheme() -> String {
    "Bearer".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use sluicegate_plugin::testing;

    use super::*;

    fn filter(config: &str) -> SubprotocolToken {
        match testing::configure(config) {
            Ok(filter) => filter,
            Err(error) => panic!("{error}"),
        }
    }

    fn handshake(offered: &str) -> Request {
        let mut req = Request::builder().websocket();
        if !offered.is_empty() {
            req = req.header("Sec-WebSocket-Protocol", offered);
        }
        req.build()
    }

    const PREFIX: &str = r#"{"prefix":"token."}"#;
    const KUBERNETES: &str =
        r#"{"prefix":"base64url.bearer.authorization.k8s.io.","base64url":true}"#;

    #[test]
    fn the_token_moves_into_the_header() {
        #[track_caller]
        fn check(config: &str, offered: &str, token: Option<&str>, rest: &[&str]) {
            let mut req = handshake(offered);
            assert_eq!(filter(config).on_request(&mut req), Verdict::Continue);
            let got = req.header("authorization");
            assert_eq!(got.as_deref(), token, "{offered}");
            assert_eq!(req.subprotocols(), rest, "{offered}");
        }
        check("{}", "bearer, abc.def", Some("Bearer abc.def"), &[]);
        check(
            "{}",
            "chat, bearer, abc, v2",
            Some("Bearer abc"),
            &["chat", "v2"],
        );
        check("{}", "chat", None, &["chat"]);
        check("{}", "", None, &[]);
        check("{}", "Bearer, abc", None, &["Bearer", "abc"]);
        check(PREFIX, "token.abc", Some("Bearer abc"), &[]);
        check(PREFIX, "chat, token.abc", Some("Bearer abc"), &["chat"]);
        check(PREFIX, "bearer, abc", None, &["bearer", "abc"]);
        let both = r#"{"prefix":"token.","marker":"bearer"}"#;
        check(both, "bearer, token.abc", Some("Bearer token.abc"), &[]);
        check(both, "token.abc", Some("Bearer abc"), &[]);
        check(
            KUBERNETES,
            "base64url.bearer.authorization.k8s.io.bXktdG9rZW4, base64.binary.k8s.io",
            Some("Bearer my-token"),
            &["base64.binary.k8s.io"],
        );
    }

    #[test]
    fn the_header_is_the_operators_choice() {
        let filter = filter(r#"{"header":"X-Token","scheme":""}"#);
        let mut req = Request::builder()
            .websocket()
            .header("Sec-WebSocket-Protocol", "bearer, abc")
            .header("X-Token", "forged")
            .header("X-Token", "twice")
            .build();
        assert_eq!(filter.on_request(&mut req), Verdict::Continue);
        assert_eq!(req.header_values("x-token"), [b"abc".to_vec()]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        #[track_caller]
        fn check(config: &str, offered: &str, why: &str) {
            let before = testing::metric("refused", &[("why", why)]);
            let mut req = handshake(offered);
            assert_eq!(filter(config).on_request(&mut req).status(), Some(400));
            assert_eq!(testing::metric("refused", &[("why", why)]), before + 1.0);
            let said = format!("{:?}", testing::logs());
            assert!(!said.contains("abc"), "{said}");
        }
        check("{}", "bearer", "missing");
        check("{}", "chat, bearer", "missing");
        check(PREFIX, "token.", "characters");
        check(PREFIX, "token.abc, token.abcd", "several");
        check(
            KUBERNETES,
            "base64url.bearer.authorization.k8s.io.abc*",
            "base64url",
        );
        // Not the shortest spelling of its bytes.
        check(
            KUBERNETES,
            "base64url.bearer.authorization.k8s.io.YWJ",
            "base64url",
        );
        // "a b", "a\r\nb", and Latin letters
        for bad in ["YSBi", "YQ0KYg", "5OT2"] {
            let offered = format!("base64url.bearer.authorization.k8s.io.{bad}");
            check(KUBERNETES, &offered, "characters");
        }
        check(PREFIX, &format!("token.{}", "a".repeat(8190)), "too-large");
    }

    #[test]
    fn ordinary_requests_are_left_alone() {
        let mut req = Request::builder()
            .header("Sec-WebSocket-Protocol", "bearer, abc")
            .build();
        assert_eq!(filter("{}").on_request(&mut req), Verdict::Continue);
        assert_eq!(req.subprotocols(), ["bearer", "abc"]);
        assert_eq!(req.header("authorization"), None);
    }

    #[test]
    fn a_browser_gets_a_subprotocol_that_it_offered() {
        #[track_caller]
        fn check(config: &str, offered: &str, chosen: Option<&str>, expect: Option<&str>) {
            let filter = filter(config);
            let mut req = handshake(offered);
            assert_eq!(filter.on_request(&mut req), Verdict::Continue);
            let offered: Vec<&str> = offered.split(", ").collect();
            let mut res = Response::builder().status(101).offered(&offered);
            if let Some(chosen) = chosen {
                res = res.header("Sec-WebSocket-Protocol", chosen);
            }
            let mut res = res.build();
            assert_eq!(filter.on_response(&mut res), Verdict::Continue);
            let answered = res.header("sec-websocket-protocol");
            assert_eq!(answered.as_deref(), expect);
        }
        check("{}", "bearer, abc", None, Some("bearer"));
        check(PREFIX, "token.abc", None, Some("token.abc"));
        check("{}", "bearer, abc, chat", Some("chat"), Some("chat"));
        // The upstream wants none of what was left: so the browser must learn.
        check("{}", "bearer, abc, chat", None, None);
        check("{}", "chat", None, None);
    }

    #[test]
    fn nothing_is_answered_for_a_later_handshake() {
        let filter = filter("{}");
        filter.on_request(&mut handshake("bearer, abc"));
        filter.on_request(&mut handshake(""));
        let mut res = Response::builder().status(101).offered(&["bearer"]).build();
        filter.on_response(&mut res);
        assert_eq!(res.header("sec-websocket-protocol"), None);

        filter.on_request(&mut handshake("bearer, abc"));
        let mut res = Response::builder().status(403).offered(&["bearer"]).build();
        filter.on_response(&mut res);
        assert_eq!(res.header("sec-websocket-protocol"), None);
    }

    #[test]
    fn the_second_hook_is_only_used_to_answer() {
        assert!(filter("{}").uses(Hook::Response));
        assert!(!filter(r#"{"answer":false}"#).uses(Hook::Response));
        assert!(filter(r#"{"answer":false}"#).uses(Hook::Request));
    }

    #[test]
    fn a_bad_config_is_named() {
        #[track_caller]
        fn check(config: &str, expect: &str) {
            let made = testing::configure::<SubprotocolToken>(config).map(|_| ());
            assert_eq!(made.unwrap_err().to_string(), expect);
        }
        check(
            r#"{"prefix":""}"#,
            "`prefix`: `` cannot be in a subprotocol",
        );
        check(
            r#"{"marker":"a,b"}"#,
            "`marker`: `a,b` cannot be in a subprotocol",
        );
        check(
            r#"{"header":"Host"}"#,
            "`header`: `Host`: written by the proxy itself",
        );
        check(
            r#"{"scheme":"a\nb"}"#,
            "`scheme`: `a\nb`: not a valid value",
        );
    }
}
