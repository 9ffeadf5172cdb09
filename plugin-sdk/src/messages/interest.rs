//! What a filter wants to see.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Side;

/// What a filter wants to see; everything else goes on without it, at the price of a few instructions.
///
/// ```
/// use sluicegate_plugin::{Interest, Side};
///
/// Interest::text().from(Side::Client).max_size(64 << 10);
/// Interest::text().from(Side::Client).and(Interest::binary().from(Side::Server));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Interest {
    pub(crate) from_client: Kinds,
    pub(crate) from_server: Kinds,
    pub(crate) max_size: Option<u32>,
    /// Milliseconds.
    pub(crate) every: Option<u32>,
    pub(crate) close: bool,
}

/// Whose messages a filter looks at, for its config: `"client"`, `"server"` or `"both"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Senders {
    Client,
    Server,
    #[default]
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kinds {
    pub(crate) text: bool,
    pub(crate) binary: bool,
    pub(crate) ping: bool,
    pub(crate) pong: bool,
}

impl Interest {
    /// No messages: only what is added, like [`Interest::every`].
    pub const fn none() -> Self {
        Self::both(Kinds::NONE)
    }

    /// Text and binary messages of both sides.
    pub const fn data() -> Self {
        Self::both(Kinds {
            text: true,
            binary: true,
            ..Kinds::NONE
        })
    }

    /// Text messages of both sides.
    pub const fn text() -> Self {
        Self::both(Kinds {
            text: true,
            ..Kinds::NONE
        })
    }

    /// Binary messages of both sides.
    pub const fn binary() -> Self {
        Self::both(Kinds {
            binary: true,
            ..Kinds::NONE
        })
    }

    /// Pings of both sides as well, or only of the one whose messages are wanted.
    pub const fn pings(mut self) -> Self {
        let (client, server) = self.senders();
        self.from_client.ping |= client;
        self.from_server.ping |= server;
        self
    }

    /// Pongs as well, likewise.
    pub const fn pongs(mut self) -> Self {
        let (client, server) = self.senders();
        self.from_client.pong |= client;
        self.from_server.pong |= server;
        self
    }

    /// Only what this side sends.
    pub const fn from(mut self, sender: Side) -> Self {
        match sender {
            Side::Client => self.from_server = Kinds::NONE,
            Side::Server => self.from_client = Kinds::NONE,
        }
        self
    }

    /// Only what these send.
    pub const fn sent_by(self, senders: Senders) -> Self {
        match senders {
            Senders::Client => self.from(Side::Client),
            Senders::Server => self.from(Side::Server),
            Senders::Both => self,
        }
    }

    /// What either of the two wants, up to the larger size and as often as the one that asks more often.
    pub fn and(self, other: Interest) -> Self {
        let every = [self.every, other.every];
        Interest {
            from_client: self.from_client.and(other.from_client),
            from_server: self.from_server.and(other.from_server),
            max_size: self.max_size.zip(other.max_size).map(|(a, b)| a.max(b)),
            every: every.into_iter().flatten().min(),
            close: self.close || other.close,
        }
    }

    /// Larger messages go on unseen; bytes.
    pub const fn max_size(mut self, bytes: u32) -> Self {
        self.max_size = Some(bytes);
        self
    }

    /// Calls [`on_timer`](crate::MessageFilter::on_timer) so often, at most ten times a second.
    pub fn every(mut self, interval: Duration) -> Self {
        let millis = u32::try_from(interval.as_millis()).unwrap_or(u32::MAX);
        self.every = Some(millis.max(SHORTEST_MS));
        self
    }

    /// Calls [`on_close`](crate::MessageFilter::on_close).
    pub const fn on_close(mut self) -> Self {
        self.close = true;
        self
    }

    const fn both(kinds: Kinds) -> Self {
        Interest {
            from_client: kinds,
            from_server: kinds,
            max_size: None,
            every: None,
            close: false,
        }
    }

    /// Whose messages are wanted: client's, server's. Nobody's means that no side was chosen.
    const fn senders(&self) -> (bool, bool) {
        match (self.from_client.any(), self.from_server.any()) {
            (false, false) => (true, true),
            some => some,
        }
    }
}

impl Kinds {
    const NONE: Self = Kinds {
        text: false,
        binary: false,
        ping: false,
        pong: false,
    };

    const fn any(self) -> bool {
        self.text || self.binary || self.ping || self.pong
    }

    fn and(self, other: Self) -> Self {
        Kinds {
            text: self.text || other.text,
            binary: self.binary || other.binary,
            ping: self.ping || other.ping,
            pong: self.pong || other.pong,
        }
    }
}

const SHORTEST_MS: u32 = 100;

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{Interest, Kinds};
    use crate::glue::messages::wit;

    impl From<Interest> for wit::Interest {
        fn from(interest: Interest) -> Self {
            wit::Interest {
                from_client: interest.from_client.into(),
                from_server: interest.from_server.into(),
                max_size: interest.max_size,
                every: interest.every,
                close: interest.close,
            }
        }
    }

    impl From<Kinds> for wit::Kinds {
        fn from(kinds: Kinds) -> Self {
            let or_none = |wanted, kind| if wanted { kind } else { wit::Kinds::empty() };
            or_none(kinds.text, wit::Kinds::TEXT)
                | or_none(kinds.binary, wit::Kinds::BINARY)
                | or_none(kinds.ping, wit::Kinds::PING)
                | or_none(kinds.pong, wit::Kinds::PONG)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `client/server` with the first letters of the kinds.
    fn shown(interest: Interest) -> String {
        let letters = |kinds: Kinds| -> String {
            let all = [kinds.text, kinds.binary, kinds.ping, kinds.pong];
            let wanted = "tbpo".chars().zip(all).filter(|(_, wanted)| *wanted);
            wanted.map(|(letter, _)| letter).collect()
        };
        let (client, server) = (interest.from_client, interest.from_server);
        format!("{}/{}", letters(client), letters(server))
    }

    #[test]
    fn sides_and_kinds() {
        #[track_caller]
        fn check(interest: Interest, expect: &str) {
            assert_eq!(shown(interest), expect);
        }
        check(Interest::none(), "/");
        check(Interest::data(), "tb/tb");
        check(Interest::text().from(Side::Client), "t/");
        check(Interest::binary().from(Side::Server).pings(), "/bp");
        check(Interest::none().pongs(), "o/o");
        check(Interest::text().pings().pongs().from(Side::Server), "/tpo");
        let mixed = Interest::text().from(Side::Client);
        let mixed = mixed.and(Interest::binary().from(Side::Server).pings());
        check(mixed, "t/bp");
    }

    #[test]
    fn senders_are_one_side_or_both() {
        for (name, alike) in [
            ("client", Interest::data().from(Side::Client)),
            ("server", Interest::data().from(Side::Server)),
            ("both", Interest::data()),
        ] {
            let senders = serde_json::from_value(name.into()).unwrap();
            assert_eq!(Interest::data().sent_by(senders), alike, "{name}");
        }
        assert!(serde_json::from_str::<Senders>("\"nobody\"").is_err());
    }

    #[test]
    fn two_interests_want_what_either_does() {
        let small = Interest::text().max_size(10).every(Duration::from_secs(2));
        let large = Interest::text().max_size(20).on_close();
        let both = small.and(large);
        assert_eq!((both.max_size, both.every), (Some(20), Some(2000)));
        assert!(both.close);
        assert_eq!(both.and(Interest::text()).max_size, None);
        let often = Interest::none().every(Duration::from_millis(5));
        assert_eq!(both.and(often).every, Some(SHORTEST_MS));
    }
}
