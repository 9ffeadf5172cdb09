//! Filters of WebSocket messages: what they want to see, what they are told, what they may answer.
//!
//! A [`Filter`](crate::Filter) opens a [`Conversation`] with its plugin for a tunnel; the conversation is then
//! asked about messages, one call at a time. Conversations of a thread share an instance (a `room`), as many
//! as the route allows, unless each is to have its own. What an instance does wrong ends all of its
//! conversations: a trap, a limit, a call given up half way. An answer that breaks a rule
//! (`sluicegate_plugin_rules::messages`) fails its own call only.
//!
//! Nothing here knows frames: messages are whole, plain and unmasked (RFC 6455, RFC 7692).

use std::net::IpAddr;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

mod conversation;
mod room;

pub use conversation::Conversation;
pub use sluicegate_plugin_rules::messages::{Kind, ReactionError};

pub(crate) use room::Rooms;

/// An end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Server,
}

/// A set of kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u8);

/// What a plugin wants to see with its config; everything else goes on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    pub from_client: Kinds,
    pub from_server: Kinds,
    /// Larger messages go on unseen, bytes.
    pub max_size: Option<u32>,
    /// How often [`Conversation::on_timer`] is to be called; at least [`MIN_EVERY`].
    pub every: Option<Duration>,
    /// It wants to be told of the end.
    pub close: bool,
}

/// The handshake of a tunnel, once it has succeeded.
#[derive(Debug, Clone)]
pub struct Opening {
    pub request_id: Arc<str>,
    pub route: Arc<str>,
    /// Lower case, no port.
    pub host: Arc<str>,
    pub path: Arc<str>,
    /// Without the `?`.
    pub query: Option<Arc<str>>,
    pub client_ip: IpAddr,
    /// The client's fields, as the filters left them.
    pub headers: HeaderMap,
    /// The one that both ends agreed on.
    pub subprotocol: Option<String>,
    /// What the filters noted about the session.
    pub labels: Vec<(String, String)>,
    /// What the plugin's own hooks of this handshake have kept.
    pub kept: Bytes,
}

/// A whole message of a plugin's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// UTF-8 if it is text; at most 125 bytes for a ping or pong.
    pub data: Vec<u8>,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on; from a timer: nothing happens.
    Forward,
    /// This goes on in its place: data for data, a ping for a ping, a pong for a pong.
    Replace(Message),
    Drop,
    /// It goes nowhere, and both sides get this Close.
    Close {
        /// One that may be sent.
        code: u16,
        /// At most 123 bytes.
        reason: String,
    },
}

/// Where a message of a plugin's own goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before what became of the message under judgement.
    Before,
    After,
}

/// A message of a plugin's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    pub to: Side,
    pub moment: Moment,
    pub message: Message,
}

/// A plugin's answer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    pub verdict: Verdict,
    /// At most 64, in this order.
    pub inject: Vec<Injection>,
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The first close code that was seen or sent; 1005: a Close without one.
    pub code: Option<u16>,
    /// Who began it; `None`: the proxy.
    pub by: Option<Side>,
    /// The access log's word for it.
    pub cause: &'static str,
}

/// How conversations are spread over instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of a thread share one.
    Shared,
    /// Each has its own.
    Connection,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

impl Kinds {
    pub const NONE: Kinds = Kinds(0);
    pub const TEXT: Kinds = Kinds(1);
    pub const BINARY: Kinds = Kinds(2);
    pub const PING: Kinds = Kinds(4);
    pub const PONG: Kinds = Kinds(8);
    /// Text and binary.
    pub const DATA: Kinds = Kinds(3);

    pub fn contains(self, kind: Kind) -> bool {
        let kind = match kind {
            Kind::Text => Kinds::TEXT,
            Kind::Binary => Kinds::BINARY,
            Kind::Ping => Kinds::PING,
            Kind::Pong => Kinds::PONG,
        };
        self.meets(kind)
    }

    /// Whether a kind is in both.
    pub fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self == Kinds::NONE
    }
}

impl BitOr for Kinds {
    type Output = Kinds;

    fn bitor(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }
}

impl Interest {
    /// Text and binary from both sides, whatever their size.
    pub const DATA: Interest = Interest {
        from_client: Kinds::DATA,
        from_server: Kinds::DATA,
        max_size: None,
        every: None,
        close: false,
    };

    /// The kinds that it wants of what a side sends.
    pub fn kinds(&self, sender: Side) -> Kinds {
        match sender {
            Side::Client => self.from_client,
            Side::Server => self.from_server,
        }
    }

    /// Whether a message of so many bytes is to be shown.
    pub fn wants(&self, sender: Side, kind: Kind, size: usize) -> bool {
        let small = |max: u32| u32::try_from(size).is_ok_and(|size| size <= max);
        self.kinds(sender).contains(kind) && self.max_size.is_none_or(small)
    }

    /// Whether a conversation would never be called.
    pub fn is_nothing(&self) -> bool {
        let messages = self.from_client | self.from_server;
        messages.is_empty() && self.every.is_none() && !self.close
    }
}

/// The shortest time between two calls of a timer.
pub const MIN_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interest_goes_by_sender_kind_and_size() {
        let interest = Interest {
            from_client: Kinds::TEXT | Kinds::PING,
            from_server: Kinds::NONE,
            max_size: Some(10),
            every: None,
            close: false,
        };
        #[track_caller]
        fn check(interest: &Interest, sender: Side, kind: Kind, size: usize, expect: bool) {
            assert_eq!(interest.wants(sender, kind, size), expect, "{kind} {size}");
        }
        check(&interest, Side::Client, Kind::Text, 0, true);
        check(&interest, Side::Client, Kind::Text, 10, true);
        check(&interest, Side::Client, Kind::Text, 11, false);
        check(&interest, Side::Client, Kind::Text, usize::MAX, false);
        check(&interest, Side::Client, Kind::Ping, 1, true);
        check(&interest, Side::Client, Kind::Binary, 1, false);
        check(&interest, Side::Client, Kind::Pong, 1, false);
        check(&interest, Side::Server, Kind::Text, 1, false);
        check(
            &Interest::DATA,
            Side::Server,
            Kind::Binary,
            usize::MAX,
            true,
        );
        check(&Interest::DATA, Side::Server, Kind::Ping, 1, false);
    }

    #[test]
    fn an_interest_in_nothing_is_known() {
        let nothing = Interest {
            from_client: Kinds::NONE,
            from_server: Kinds::NONE,
            max_size: Some(10),
            every: None,
            close: false,
        };
        assert!(nothing.is_nothing());
        for something in [
            Interest {
                from_server: Kinds::PONG,
                ..nothing
            },
            Interest {
                every: Some(MIN_EVERY),
                ..nothing
            },
            Interest {
                close: true,
                ..nothing
            },
        ] {
            assert!(!something.is_nothing(), "{something:?}");
        }
    }
}
