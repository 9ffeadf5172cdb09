//! Who negotiates permessage-deflate with whom (RFC 7692 §5, §7.1), and what each leg has settled.
//!
//! A route passes the client's offers on and the upstream's choice back, so that both legs are compressed
//! alike; or it deals with each leg on its own; or there is no extension at all. Where messages are read
//! no other extension may be agreed on: what its frames mean nobody here could tell.
//!
//! It changes heads and judges nothing: an upstream's choice is checked by
//! [`verify_upstream`](super::verify_upstream) against the offers that are left here.

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use super::extension::{DeflateParams, Extension};
use super::{Agreed, Offer};
use crate::config::model::Compression;
use crate::ws::deflate::{Legs, Negotiated, Params};

/// What a route wants of its handshakes.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    pub compression: Compression,
    /// Of windows that are ours to choose, 9 to 15.
    pub window_bits: u8,
    /// The tunnel looks into messages.
    pub reads_messages: bool,
}

/// A negotiation that waits for the upstream's choice.
#[derive(Debug, PartialEq, Eq)]
pub enum Bargain {
    /// What the upstream chooses is what the client gets.
    Shared,
    /// The client gets this, whatever the upstream chooses.
    Apart(Option<Answer>),
}

/// Our answer to a client's offer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    field: HeaderValue,
    settled: Negotiated,
}

impl Bargain {
    /// Makes the client's offers, in the request's head and in `offer`, those that the upstream shall see.
    pub fn open(wishes: Wishes, offer: &mut Offer, headers: &mut HeaderMap) -> Bargain {
        match wishes.compression {
            Compression::Pass => {
                let readable = |extension: &Extension| extension.is_deflate();
                if wishes.reads_messages && !offer.extensions.iter().all(readable) {
                    offer.extensions.retain(readable);
                    put(headers, field(&offer.extensions));
                }
                Bargain::Shared
            }
            Compression::Terminate => {
                let answer = answer(&offer.extensions, wishes.window_bits);
                offer.extensions = own_offers(wishes.window_bits);
                put(headers, field(&offer.extensions));
                Bargain::Apart(answer)
            }
            Compression::Off => {
                offer.extensions.clear();
                put(headers, None);
                Bargain::Apart(None)
            }
        }
    }

    /// The upstream has chosen; `headers` is its answer's head, and becomes the client's.
    pub fn close(self, agreed: &Agreed, headers: &mut HeaderMap) -> Legs {
        let upstream = settled(&agreed.extensions);
        match self {
            Bargain::Shared => Legs {
                downstream: upstream,
                upstream,
            },
            Bargain::Apart(answer) => {
                let (field, downstream) = match answer {
                    Some(Answer { field, settled }) => (Some(field), Some(settled)),
                    None => (None, None),
                };
                put(headers, field);
                Legs {
                    downstream,
                    upstream,
                }
            }
        }
    }
}

/// The answer to the first offer of permessage-deflate; every one can be met.
fn answer(offers: &[Extension], window_bits: u8) -> Option<Answer> {
    let offers = offers.iter().filter(|offer| offer.is_deflate());
    let offer = offers.filter_map(DeflateParams::of_offer).next()?;
    // The client's window is ours to choose where it says that it can limit it. Its hint that it will not
    // take its context over becomes a promise.
    let client_window = offer
        .client_window
        .map(|most| most.unwrap_or(WIDEST).min(window_bits));
    let chosen = DeflateParams {
        client_window: client_window.map(Some),
        ..offer
    };
    Some(Answer {
        field: field(&[chosen.extension()])?,
        settled: chosen.settled(),
    })
}

/// What we offer an upstream: a small window for what it sends, or any.
fn own_offers(window_bits: u8) -> Vec<Extension> {
    let any = DeflateParams {
        client_window: Some(None),
        ..DeflateParams::default()
    };
    let small = DeflateParams {
        server_window: Some(window_bits),
        ..any
    };
    // Not every server can choose its window; one that cannot passes over the first.
    let small = (window_bits < WIDEST).then(|| small.extension());
    small.into_iter().chain([any.extension()]).collect()
}

/// What a verified choice means.
fn settled(chosen: &[Extension]) -> Option<Negotiated> {
    let deflate = chosen.iter().find(|extension| extension.is_deflate())?;
    DeflateParams::of_answer(deflate).map(DeflateParams::settled)
}

impl DeflateParams {
    /// What an answer with these settles.
    fn settled(self) -> Negotiated {
        Negotiated {
            from_client: Params {
                window_bits: self.client_window.flatten().unwrap_or(WIDEST),
                takeover: !self.client_no_context_takeover,
            },
            from_server: Params {
                window_bits: self.server_window.unwrap_or(WIDEST),
                takeover: !self.server_no_context_takeover,
            },
        }
    }
}

fn field(extensions: &[Extension]) -> Option<HeaderValue> {
    if extensions.is_empty() {
        return None;
    }
    let texts: Vec<String> = extensions.iter().map(Extension::to_string).collect();
    // Names and values are tokens.
    HeaderValue::try_from(texts.join(", ")).ok()
}

fn put(headers: &mut HeaderMap, field: Option<HeaderValue>) {
    match field {
        Some(field) => headers.insert(SEC_WEBSOCKET_EXTENSIONS, field),
        None => headers.remove(SEC_WEBSOCKET_EXTENSIONS),
    };
}

/// Of a window that nobody limits (§7.1.2).
const WIDEST: u8 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// The offer of a request with this field, and its head.
    fn head(field: &str) -> (Offer, HeaderMap) {
        let mut headers = HeaderMap::new();
        if !field.is_empty() {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, field.parse().unwrap());
        }
        let offer = Offer {
            key: String::new(),
            subprotocols: Vec::new(),
            extensions: Extension::parse_all(&headers).unwrap(),
        };
        (offer, headers)
    }

    fn text(headers: &HeaderMap) -> &str {
        let mut lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
        let text = lines.next().map_or("", |value| value.to_str().unwrap());
        assert_eq!(lines.next(), None);
        text
    }

    fn wishes(compression: Compression, window_bits: u8) -> Wishes {
        Wishes {
            compression,
            window_bits,
            reads_messages: true,
        }
    }

    /// What a leg has settled, as `client window, server window`, with `!` where contexts are not taken over.
    fn shown(settled: Option<Negotiated>) -> String {
        let shown = |params: Params| {
            let mark = if params.takeover { "" } else { "!" };
            format!("{}{mark}", params.window_bits)
        };
        settled.map_or("none".to_owned(), |settled| {
            format!(
                "{} {}",
                shown(settled.from_client),
                shown(settled.from_server)
            )
        })
    }

    /// Plays a handshake: what upstream sees, what the client gets, and what each leg has settled.
    fn played(wishes: Wishes, offered: &str, chosen: &str) -> [String; 4] {
        let (mut offer, mut request) = head(offered);
        let bargain = Bargain::open(wishes, &mut offer, &mut request);
        let (seen, _) = head(text(&request));
        assert_eq!(seen.extensions, offer.extensions, "{offered}");
        let (choice, mut response) = head(chosen);
        for extension in &choice.extensions {
            let answers = offer
                .extensions
                .iter()
                .any(|offered| extension.answers(offered));
            assert!(answers, "{chosen} is no answer to {}", text(&request));
        }
        let agreed = Agreed {
            subprotocol: None,
            extensions: choice.extensions,
        };
        let legs = bargain.close(&agreed, &mut response);
        // The client, too, must find what it gets among its offers.
        let (given, _) = head(text(&response));
        let (wanted, _) = head(offered);
        for extension in &given.extensions {
            let answers = wanted
                .extensions
                .iter()
                .any(|offered| extension.answers(offered));
            assert!(answers, "{} is no answer to {offered}", text(&response));
        }
        [
            text(&request).to_owned(),
            text(&response).to_owned(),
            shown(legs.downstream),
            shown(legs.upstream),
        ]
    }

    const D: &str = "permessage-deflate";

    /// `D` stands for the extension's name.
    fn spelled(text: &str) -> String {
        text.replace('D', D)
    }

    #[test]
    fn clients_get_an_answer_of_our_own() {
        let check = |offered: &str, window_bits: u8, answered: &str, settled: &str| {
            let wishes = wishes(Compression::Terminate, window_bits);
            let [_, given, downstream, upstream] = played(wishes, &spelled(offered), "");
            assert_eq!(given, spelled(answered), "{offered}");
            assert_eq!(downstream, settled, "{offered}");
            assert_eq!(upstream, "none");
        };
        // Chrome, Safari and Python's websockets; Firefox; gorilla.
        check(
            "D; client_max_window_bits",
            12,
            "D; client_max_window_bits=12",
            "12 15",
        );
        check("D", 12, "D", "15 15");
        check(
            "D; server_no_context_takeover; client_no_context_takeover",
            12,
            "D; server_no_context_takeover; client_no_context_takeover",
            "15! 15!",
        );
        // Python's websockets with windows, Node's ws, what spells it otherwise.
        check(
            "D; server_max_window_bits=12; client_max_window_bits=12",
            15,
            "D; server_max_window_bits=12; client_max_window_bits=12",
            "12 12",
        );
        check(
            "D;client_max_window_bits ; server_no_context_takeover",
            9,
            "D; server_no_context_takeover; client_max_window_bits=9",
            "9 15!",
        );
        check(
            "D; server_max_window_bits=\"10\"",
            12,
            "D; server_max_window_bits=10",
            "15 10",
        );
        check(
            "D; client_max_window_bits=10",
            12,
            "D; client_max_window_bits=10",
            "10 15",
        );
        check(
            "D; client_max_window_bits=8",
            12,
            "D; client_max_window_bits=8",
            "8 15",
        );
        check(
            "D; server_max_window_bits=8",
            12,
            "D; server_max_window_bits=8",
            "15 8",
        );
        // The first of several; others are not known.
        check(
            "x-unknown; a=b, D; server_max_window_bits=10, D",
            12,
            "D; server_max_window_bits=10",
            "15 10",
        );
        check("", 12, "", "none");
        check("x-unknown, permessage-bzip2", 12, "", "none");
    }

    #[test]
    fn upstreams_get_an_offer_of_our_own() {
        let check = |window_bits: u8, offers: &str, chosen: &str, settled: &str| {
            for offered in [
                "",
                D,
                "x-unknown",
                "permessage-deflate; client_max_window_bits",
            ] {
                let wishes = wishes(Compression::Terminate, window_bits);
                let [seen, _, downstream, upstream] = played(wishes, offered, &spelled(chosen));
                assert_eq!(seen, spelled(offers));
                assert_eq!(upstream, settled, "{chosen}");
                assert_eq!(downstream == "none", !offered.contains(D));
            }
        };
        let both =
            "D; server_max_window_bits=12; client_max_window_bits, D; client_max_window_bits";
        check(12, both, "", "none");
        check(12, both, "D; server_max_window_bits=12", "15 12");
        check(
            12,
            both,
            "D; server_max_window_bits=9; client_max_window_bits=8",
            "8 9",
        );
        check(12, both, "D", "15 15");
        check(
            12,
            both,
            "D; server_no_context_takeover; client_no_context_takeover",
            "15! 15!",
        );
        check(
            15,
            "D; client_max_window_bits",
            "D; client_max_window_bits=15",
            "15 15",
        );
    }

    #[test]
    fn passed_offers_are_the_clients_own() {
        let check = |offered: &str, seen: &str, chosen: &str, settled: &str| {
            let wishes = wishes(Compression::Pass, 12);
            let played = played(wishes, &spelled(offered), &spelled(chosen));
            let expect = [&spelled(seen), &spelled(chosen), settled, settled];
            assert_eq!(played.each_ref().map(String::as_str), expect, "{offered}");
        };
        // As the client spelled them, unless something is taken out.
        check(
            "D;client_max_window_bits",
            "D;client_max_window_bits",
            "",
            "none",
        );
        check(
            "D;client_max_window_bits",
            "D;client_max_window_bits",
            "D",
            "15 15",
        );
        check(
            "x, D;client_max_window_bits = \"10\", y; z, D",
            "D; client_max_window_bits=10, D",
            "D;client_max_window_bits=9; server_no_context_takeover",
            "9 15!",
        );
        check("x, y; z", "", "", "none");
        check("", "", "", "none");

        // Where nobody reads messages, every extension is between the two ends.
        let wishes = Wishes {
            reads_messages: false,
            ..wishes(Compression::Pass, 12)
        };
        let offered = "x;a=\"b\", permessage-deflate";
        let chosen = "x, permessage-deflate; server_max_window_bits=9";
        let expect = [offered, chosen, "15 9", "15 9"];
        assert_eq!(played(wishes, offered, chosen), expect.map(str::to_owned));
    }

    #[test]
    fn off_is_neither_offered_nor_answered() {
        for reads_messages in [false, true] {
            for offered in ["", D, "permessage-deflate; client_max_window_bits, x"] {
                let wishes = Wishes {
                    reads_messages,
                    ..wishes(Compression::Off, 12)
                };
                let expect = ["", "", "none", "none"].map(str::to_owned);
                assert_eq!(played(wishes, offered, ""), expect);
            }
        }
    }
}
