//! What the two ends of a leg agree on about permessage-deflate (RFC 7692 §7.1).

/// How one end compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// 8 to 15.
    pub window_bits: u8,
    /// Whether a message may refer to the ones before it.
    pub takeover: bool,
}

/// How both ends of a leg compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflate {
    pub client: Params,
    pub server: Params,
}

impl Deflate {
    /// What a server agrees on when this is offered and `self` is what it would like; the answer too.
    /// `None`: no permessage-deflate is offered.
    pub fn accept(self, offers: &str) -> Option<(String, Deflate)> {
        let first = offers.split(',').find(|offer| is_deflate(offer))?;
        let mut agreed = self;
        agreed.client.window_bits = match parameter(first, "client_max_window_bits") {
            None => 15,
            Some(limit) => self.client.window_bits.min(limit.unwrap_or(15)),
        };
        let limit = parameter(first, "server_max_window_bits");
        if let Some(limit) = limit {
            let limit = limit.expect("a server's window is offered with a number");
            agreed.server.window_bits = limit.min(self.server.window_bits);
        }
        if parameter(first, "server_no_context_takeover").is_some() {
            agreed.server.takeover = false;
        }
        Some((agreed.answer(limit.is_some()), agreed))
    }

    /// What a server's answer means; `None`: nothing is compressed.
    ///
    /// # Panics
    /// On an answer that is none.
    pub fn parse(answer: &str) -> Option<Deflate> {
        if answer.is_empty() {
            return None;
        }
        assert!(is_deflate(answer) && !answer.contains(','), "`{answer}`");
        let params = |side: &str| {
            let window = parameter(answer, &format!("{side}_max_window_bits"));
            let window_bits = window.map_or(15, |bits| bits.expect("an answer has a number"));
            assert!((8..=15).contains(&window_bits), "`{answer}`");
            let without = parameter(answer, &format!("{side}_no_context_takeover"));
            Params {
                window_bits,
                takeover: without.is_none(),
            }
        };
        Some(Deflate {
            client: params("client"),
            server: params("server"),
        })
    }

    /// One that was asked for a limit of the server's window names it in any case (§7.1.2.1).
    fn answer(self, asked: bool) -> String {
        let mut answer = "permessage-deflate".to_owned();
        for (side, params, asked) in [
            ("client", self.client, false),
            ("server", self.server, asked),
        ] {
            if params.window_bits < 15 || asked {
                answer += &format!("; {side}_max_window_bits={}", params.window_bits);
            }
            if !params.takeover {
                answer += &format!("; {side}_no_context_takeover");
            }
        }
        answer
    }
}

fn is_deflate(offer: &str) -> bool {
    offer.split(';').next().map(str::trim) == Some("permessage-deflate")
}

/// A parameter that is there, with its number if it has one.
fn parameter(offer: &str, name: &str) -> Option<Option<u8>> {
    offer.split(';').skip(1).find_map(|parameter| {
        let (own, value) = match parameter.split_once('=') {
            Some((own, value)) => (own, Some(value.trim().trim_matches('"').parse().unwrap())),
            None => (parameter, None),
        };
        (own.trim() == name).then_some(value)
    })
}
