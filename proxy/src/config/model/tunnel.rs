//! What a route does with its tunnels: how deep it looks into them, what is too much, when they end.
//!
//! Sides are named by who sends: `client` is what comes from downstream, `server` what comes from upstream.

use std::num::NonZeroU32;
use std::time::Duration;

/// The rules of a route's tunnels.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelRules {
    /// Frames are followed; otherwise bytes are copied, and nothing here asks for more.
    pub follow: bool,
    pub compression: Compression,
    /// 1 to 9, of what the proxy compresses.
    pub compression_level: u8,
    /// 9 to 15 bits, of what the proxy compresses, and of what the other end does where it lets us choose.
    pub compression_window: u8,
    pub client: SideRules,
    pub server: SideRules,
    /// Data frames of one message from either side; `None`: [`MESSAGE_FRAMES`] where messages are read,
    /// but no reason to read them.
    pub message_frames: Option<NonZeroU32>,
    /// The one kind of message that may pass.
    pub only: Option<OnlyKind>,
    /// How long a ping waits for its pong; shorter than any `ping_interval`.
    pub pong_timeout: Duration,
    /// Bytes of messages kept per direction for a slow receiver.
    pub buffer: usize,
    pub max_lifetime: Option<Duration>,
    /// Share of `max_lifetime`, 0.0 to 1.0, that a tunnel may end earlier.
    pub lifetime_jitter: f64,
}

/// Rules for one side of a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SideRules {
    /// Largest message that this side may send, bytes before compression; `None`: any, but
    /// [`COLLECTED_MESSAGE`] where messages are collected.
    pub message_size: Option<u64>,
    /// How much this side may send.
    pub rate: Option<Rate>,
    /// The tunnel ends when nothing has come from this side for so long.
    pub idle_timeout: Option<Duration>,
    /// How often the proxy pings this side.
    pub ping_interval: Option<Duration>,
}

/// How much may be sent in a second: messages, bytes, or both; at least one of them is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub messages: Option<Allowance>,
    /// Bytes as they come: compressed, and with the heads of frames.
    pub bytes: Option<Allowance>,
    pub over: Over,
}

/// So many a second, after a pause so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// At least 1.
    pub per_second: u64,
    /// At least `per_second`.
    pub burst: u64,
}

/// What a side's sending too much does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Ends the tunnel with 1008.
    Close,
    /// Nothing is read from the side until it would not be too much.
    Wait,
}

/// What the proxy does about permessage-deflate (RFC 7692).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The client's offer goes upstream, the upstream's choice comes back.
    Pass,
    /// The proxy answers the client and makes an offer of its own upstream.
    Terminate,
    /// No extension is offered or answered.
    Off,
}

/// Messages of the other kind end the tunnel with 1003.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlyKind {
    Text,
    Binary,
}

/// Which tunnels share an instance of a message filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Those of a worker, up to a number.
    Shared,
    /// None.
    Connection,
}

/// What a filter's failure at a message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnMessageError {
    /// Ends the tunnel with 1011.
    Close,
    /// The message goes on as if the filter had forwarded it.
    Pass,
}

impl TunnelRules {
    /// Whether they ask for messages to be read, not only the heads of frames.
    pub fn reads_messages(&self) -> bool {
        let asks = |side: &SideRules| {
            side.message_size.is_some() || side.rate.is_some() || side.ping_interval.is_some()
        };
        asks(&self.client)
            || asks(&self.server)
            || self.only.is_some()
            || self.message_frames.is_some()
            || self.compression == Compression::Terminate
    }
}

impl Default for TunnelRules {
    /// Of a route that says nothing.
    fn default() -> TunnelRules {
        TunnelRules {
            follow: true,
            compression: Compression::Pass,
            compression_level: 6,
            compression_window: 12,
            client: SideRules::default(),
            server: SideRules::default(),
            message_frames: None,
            only: None,
            pong_timeout: Duration::from_secs(10),
            buffer: 256 << 10,
            max_lifetime: None,
            lifetime_jitter: 0.1,
        }
    }
}

/// Largest message, bytes, where messages are collected and nobody says otherwise.
pub const COLLECTED_MESSAGE: u64 = 1 << 20;

/// Data frames of one message where messages are read and nobody says otherwise.
pub const MESSAGE_FRAMES: u32 = 4096;
