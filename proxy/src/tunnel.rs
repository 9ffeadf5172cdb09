//! Everything after the 101: bytes go both ways until one [`Cause`] ends it.
//!
//! A tunnel is one poll function for both directions, in the task of its connection, at one of three
//! [levels](Level), by what its route needs. *copy* sees bytes. *follow*, the default, reads frame heads
//! (RFC 6455 §5.2) without touching payloads, which gives message counts and close codes and lets a
//! drain or an idle timeout put a Close between two frames; both refuse to judge: frames that break the
//! protocol are passed on and merely stop the counting. *messages* reads and checks what is said, asks
//! filters about it, and ends what breaks a rule.
//!
//! It holds no buffer while idle: reads go through one scratch buffer per thread, and only what a slow
//! receiver could not take is kept, within bounds.

mod bytes;
mod carrier;
mod judge;
mod keepalive;
mod live;
mod messages;
mod outlet;
pub mod rate;
mod silence;
mod way;

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use futures_util::future::Either;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::drain::Member;
use crate::facts::{ClosedBy, Traffic};
use crate::random;
use crate::stream::Stream;
use crate::telemetry::metrics::RouteMetrics;
use crate::ws::control::CloseCode;
use crate::ws::frame::Side;
pub use carrier::Stop;
pub use judge::{
    Injection, Interest, Judge, Judged, Judging, Kind, Message, Moment, Outcome, Receiver,
};
use live::{Beginning, Running};
use messages::Relay;
pub use messages::Terms;
use silence::Alarms;
use way::Way;

/// A verified upgrade, ready to run.
pub struct Tunnel {
    pub downstream: Leg,
    pub upstream: Leg,
    pub level: Level,
    /// Close after this long without a byte in either direction, or up to a quarter later.
    pub idle_timeout: Duration,
    /// The longest that the client, and the server, may send nothing.
    pub silence: (Option<Duration>, Option<Duration>),
    /// Time that a drain gives this tunnel, from the drain's start.
    pub drain: Duration,
    /// Boxed: most sessions have no end.
    pub expiry: Option<Box<Expiry>>,
    pub member: Member,
    /// What it holds counts there.
    pub budget: Arc<Budget>,
    /// Where traffic is counted, from time to time and at the end.
    pub metrics: Option<RouteMetrics>,
}

/// How deep a tunnel looks into what it carries.
pub enum Level {
    /// Bytes.
    Copy,
    /// The heads of frames.
    Follow {
        /// RSV1 means something: permessage-deflate (RFC 7692) was agreed on.
        compressed: bool,
    },
    /// Whole messages.
    Messages(Box<Terms>),
}

/// When a session ends, and how its tunnel says so.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    pub at: Instant,
    pub code: CloseCode,
    /// It is the route's `max_lifetime` that ends, not the session.
    pub lifetime: bool,
}

/// One side of a tunnel.
pub struct Leg {
    pub stream: Stream,
    /// What was read past the head of the handshake: the first bytes of the tunnel.
    pub early: Bytes,
}

/// How a tunnel went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub cause: Cause,
    pub closed_by: ClosedBy,
    /// The first close code that was seen or sent; 1005 for a Close without one.
    pub close_code: Option<CloseCode>,
    pub from_downstream: Traffic,
    pub from_upstream: Traffic,
    pub duration: Duration,
    /// Why the proxy ended it, where that is more than its cause.
    pub stop: Option<Box<Stop>>,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A Close frame from either side began it.
    Close,
    /// A side ended its stream without a Close frame.
    Eof,
    /// A side's connection broke.
    Reset,
    IdleTimeout,
    /// The session that a filter gave it has ended.
    Expired,
    /// The tunnel has lived as long as its route lets it.
    Lifetime,
    /// One side sent nothing for too long.
    SilentClient,
    SilentServer,
    /// A side did not answer the proxy's ping.
    PongTimeout,
    /// A side broke the protocol (RFC 6455, RFC 7692).
    Protocol,
    /// A message, or a limit on messages, is over what the route allows.
    MessageSize,
    MessageRate,
    MessageKind,
    /// A message came in too many frames.
    MessageFrames,
    /// What it takes to hold what was said is over what one connection may have.
    ConnectionMemory,
    /// The process has no memory left, and this one held most.
    Memory,
    /// A filter's verdict.
    Filter,
    /// A filter's failure.
    FilterFailed,
    /// An orderly stop of the proxy.
    Drain,
    /// The proxy had no time left.
    Stopped,
}

impl Cause {
    /// A rule about messages, time or room, as opposed to what the two sides or a filter did.
    pub fn is_limit(self) -> bool {
        matches!(
            self,
            Cause::Lifetime
                | Cause::SilentClient
                | Cause::SilentServer
                | Cause::PongTimeout
                | Cause::MessageSize
                | Cause::MessageRate
                | Cause::MessageKind
                | Cause::MessageFrames
                | Cause::ConnectionMemory
        )
    }

    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Close => "close",
            Cause::Eof => "eof",
            Cause::Reset => "reset",
            Cause::IdleTimeout => "idle_timeout",
            Cause::Expired => "expired",
            Cause::Lifetime => "lifetime",
            Cause::SilentClient => "client_idle_timeout",
            Cause::SilentServer => "server_idle_timeout",
            Cause::PongTimeout => "pong_timeout",
            Cause::Protocol => "protocol_error",
            Cause::MessageSize => "message_size",
            Cause::MessageRate => "message_rate",
            Cause::MessageKind => "message_kind",
            Cause::MessageFrames => "message_frames",
            Cause::ConnectionMemory => "connection_memory",
            Cause::Memory => "memory",
            Cause::Filter => "filter",
            Cause::FilterFailed => "filter_failed",
            Cause::Drain => "drain",
            Cause::Stopped => "stopped",
        }
    }
}

impl Tunnel {
    /// Carries bytes until the tunnel ends. Dropping the future closes both sockets.
    ///
    /// Call it within the runtime of the sockets.
    pub fn run(self) -> impl Future<Output = Summary> + Send {
        let (to_upstream, to_downstream) = (self.downstream.early, self.upstream.early);
        let metrics = self.metrics;
        let (client, server) = self.silence;
        let is_deep = matches!(self.level, Level::Messages(_));
        let alarms = (is_deep || client.is_some() || server.is_some())
            .then(|| Box::new(Alarms::new(client, server, Instant::now())));
        macro_rules! running {
            ($carrier:expr, $metrics:expr) => {
                Running::new(Beginning {
                    carrier: $carrier,
                    downstream: self.downstream.stream,
                    upstream: self.upstream.stream,
                    idle_timeout: self.idle_timeout,
                    drain: self.drain,
                    expiry: self.expiry,
                    member: self.member,
                    budget: self.budget,
                    metrics: $metrics,
                    alarms,
                })
            };
        }
        let compressed = match self.level {
            Level::Copy => None,
            Level::Follow { compressed } => Some(compressed),
            Level::Messages(terms) => {
                let relay = Relay::new(*terms, metrics.clone(), to_upstream, to_downstream);
                return Either::Right(Box::pin(running!(relay, metrics)));
            }
        };
        let carrier = bytes::Bytes {
            from_downstream: Way::new(Side::FromClient, compressed, &to_upstream),
            from_upstream: Way::new(Side::FromServer, compressed, &to_downstream),
        };
        Either::Left(running!(carrier, metrics))
    }
}

/// A fresh masking key (RFC 6455 §5.3 asks for strong entropy).
fn random_mask() -> [u8; 4] {
    // A failure of the system's generator leaves a zero key: valid on the wire, merely predictable.
    random::bytes().unwrap_or_default()
}

/// One read's worth; measured best at 16 KiB messages and free while idle.
const SCRATCH_SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice());
}

#[cfg(test)]
mod tests;
