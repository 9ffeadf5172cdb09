//! WebSocket messages as both ends mean them: whole, unmasked, decompressed.
//!
//! A [`MessageFilter`] says once what it wants to see ([`Interest`]), makes a session of each tunnel
//! ([`MessageFilter::open`]), and answers each message with a [`Reaction`]. Where client and server use
//! compression it goes on; the filter sees what it stands for.
//!
//! ```
//! use sluicegate_plugin::{
//!     ConfigError, Filter, Hook, MessageFilter, NoConfig, Opening, Reaction, Side, export,
//! };
//!
//! struct Polite;
//!
//! impl Filter for Polite {
//!     type Config = NoConfig;
//!
//!     fn configure(_: NoConfig) -> Result<Self, ConfigError> {
//!         Ok(Polite)
//!     }
//!
//!     fn uses(&self, hook: Hook) -> bool {
//!         hook == Hook::Messages
//!     }
//! }
//!
//! impl MessageFilter for Polite {
//!     /// How often this client was rude.
//!     type Session = u32;
//!
//!     fn open(&self, _: &Opening) -> Option<u32> {
//!         Some(0)
//!     }
//!
//!     fn on_text(&self, rude: &mut u32, sender: Side, text: &str) -> Reaction {
//!         if sender == Side::Server || !text.contains("darn") {
//!             return Reaction::forward();
//!         }
//!         *rude += 1;
//!         match *rude {
//!             1..=3 => Reaction::replace(text.replace("darn", "****")),
//!             _ => Reaction::close(1008, "mind your language"),
//!         }
//!     }
//! }
//!
//! export!(Polite: messages);
//!
//! let mut rude = 0;
//! let said = Polite.on_text(&mut rude, Side::Client, "darn it");
//! assert_eq!((said, rude), (Reaction::replace("**** it"), 1));
//! ```
//!
//! # The contract
//! - **One instance serves many tunnels**, hundreds as a rule, unless the operator isolates them
//!   (`isolation = "connection"`). So what belongs to one tunnel goes into its session, and nowhere else:
//!   a `static` or a `thread_local` is everybody's, and says nothing about other workers either; [`kv`]
//!   is what all share.
//! - Calls come one after the other, also those of different tunnels, and each side's messages in their
//!   order. While one waits for [`outbound`], the other tunnels of its instance wait too; the proxy gives
//!   such plugins an instance for each tunnel, if the operator says nothing else.
//! - A panic, too much memory or too much time ends **all conversations of the instance**, and the
//!   route's `on_message_error` decides whether their tunnels close (1011) or go on unfiltered. So a filter
//!   must not panic on what somebody sends.
//! - The handshake's hooks run in other instances. What they learned gets here by [`Request::keep`],
//!   [`Response::keep`] and [`Request::set_label`], and is read from the [`Opening`].
//! - [`Filter::configure`] runs once for an instance, as for the other hooks. Memory that sessions leave
//!   behind is not given back before the instance ends: it does so with its last tunnel.
//!
//! # Limits
//! A reaction may send 64 messages of its own; pings and pongs have at most 125 bytes, the reason of a Close
//! 123; all that one call answers is at most what the operator says (`message_output`, 1 MiB). One that
//! breaks a rule fails the call; [`Reaction::check`] tells in a unit test.
//!
//! [`kv`]: crate::kv
//! [`outbound`]: crate::outbound
//! [`Request::keep`]: crate::Request::keep
//! [`Request::set_label`]: crate::Request::set_label
//! [`Response::keep`]: crate::Response::keep

mod interest;
mod opening;
mod reaction;

pub use interest::{Interest, Senders};
pub use opening::Opening;
#[cfg(not(target_arch = "wasm32"))]
pub use opening::OpeningBuilder;
pub use reaction::{Injection, Moment, Reaction, Verdict};

use crate::Filter;

/// A filter of WebSocket messages; made the plugin of its crate by `export!(TYPE: messages)`.
///
/// It may filter handshakes as well. One that does not says so, or each handshake makes an instance for
/// nothing: `fn uses(&self, hook: Hook) -> bool { hook == Hook::Messages }`.
pub trait MessageFilter: Filter {
    /// What the filter knows of one tunnel.
    type Session: 'static;

    /// What this filter wants to see with its config; the proxy does not call it for anything else.
    /// Asked once.
    fn interest(&self) -> Interest {
        Interest::data()
    }

    /// Begins a conversation: the handshake has succeeded, and nothing has been said yet. `None`: this
    /// tunnel goes on without the filter.
    fn open(&self, opening: &Opening) -> Option<Self::Session>;

    /// Decides on a text message.
    fn on_text(&self, session: &mut Self::Session, sender: Side, text: &str) -> Reaction {
        let _ = (session, sender, text);
        Reaction::forward()
    }

    /// Decides on a binary message.
    fn on_binary(&self, session: &mut Self::Session, sender: Side, data: &[u8]) -> Reaction {
        let _ = (session, sender, data);
        Reaction::forward()
    }

    /// Decides on a ping; only with [`Interest::pings`].
    fn on_ping(&self, session: &mut Self::Session, sender: Side, data: &[u8]) -> Reaction {
        let _ = (session, sender, data);
        Reaction::forward()
    }

    /// Decides on a pong; only with [`Interest::pongs`]. Those that answer the proxy's own pings are not
    /// seen.
    fn on_pong(&self, session: &mut Self::Session, sender: Side, data: &[u8]) -> Reaction {
        let _ = (session, sender, data);
        Reaction::forward()
    }

    /// Time has passed; only with [`Interest::every`]. There is no message to replace or to drop:
    /// [`Reaction::forward`] goes on, and may send messages.
    fn on_timer(&self, session: &mut Self::Session) -> Reaction {
        let _ = session;
        Reaction::forward()
    }

    /// The tunnel has ended, and nobody can be told anything; only with [`Interest::on_close`]. A session
    /// is dropped after it in any case.
    fn on_close(&self, session: &mut Self::Session, ending: &Ending) {
        let _ = (session, ending);
    }
}

/// An end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    /// The opposite end.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// A message of the filter's own, or one in place of another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    Text(String),
    Binary(Vec<u8>),
    /// At most 125 bytes, like a pong's.
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Message::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Message::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Message {
    fn from(data: Vec<u8>) -> Self {
        Message::Binary(data)
    }
}

/// How a tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// The first close code that was seen or sent; 1005: a Close without one.
    pub code: Option<u16>,
    /// Who began it; `None`: the proxy.
    pub by: Option<Side>,
    /// As in the access log: `close`, `eof`, `reset`, `idle_timeout` …
    pub cause: String,
}
