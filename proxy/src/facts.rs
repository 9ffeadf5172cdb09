//! What is known about a connection and a request, gathered once and only read afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    Ip(SocketAddr),
    /// A unix socket: local by nature.
    Unix,
}

impl Peer {
    /// The peer's address; an IPv4-mapped one as plain IPv4. Unix peers count as 127.0.0.1.
    pub fn ip(self) -> IpAddr {
        match self {
            Peer::Ip(addr) => addr.ip().to_canonical(),
            Peer::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()).fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Facts of one downstream connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    pub peer: Peer,
    /// The listener's `bind` as configured.
    pub listener: Arc<str>,
    /// Boxed: plain connections have none, and tunnels keep these facts.
    pub tls: Option<Box<TlsFacts>>,
}

/// What the TLS handshake settled.
#[derive(Debug, Clone)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher: &'static str,
    /// Server name the client asked for, lower case.
    pub sni: Option<Arc<str>>,
    /// Subject (RFC 4514) of the client certificate that was verified.
    pub client_subject: Option<Arc<str>>,
    pub resumed: bool,
    /// ALPN chose HTTP/2.
    pub http2: bool,
}

/// Facts of one request, after validation.
#[derive(Debug, Clone)]
pub struct RequestFacts {
    /// The peer is one of `trusted_proxies`: its forwarding headers count.
    pub peer_trusted: bool,
    /// The client after `trusted_proxies`; the peer's address without them.
    pub client_ip: IpAddr,
    /// `http` or `https`, after `trusted_proxies`.
    pub scheme: &'static str,
    /// Host in lower case without its port; IPv6 in brackets.
    pub host: Arc<str>,
    /// Host as it goes upstream, with its port if it had one.
    pub authority: Arc<str>,
    /// The one normal form of the path: what is matched and forwarded.
    pub path: Arc<str>,
    /// Without the `?`.
    pub query: Option<Arc<str>>,
    /// 32 lower-case hex digits, or a trusted proxy's X-Request-Id.
    pub request_id: Arc<str>,
}

impl RequestFacts {
    /// Where the path leads: the server as a whole (`OPTIONS *`) is where its root is.
    pub fn place(&self) -> &str {
        match &*self.path {
            "*" => "/",
            path => path,
        }
    }
}

/// What came from one side of a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    /// Whole data messages; control frames do not count.
    pub messages: u64,
}

/// Who began the end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    Downstream,
    Upstream,
    Proxy,
}

impl ClosedBy {
    /// For logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            ClosedBy::Downstream => "client",
            ClosedBy::Upstream => "upstream",
            ClosedBy::Proxy => "proxy",
        }
    }
}
