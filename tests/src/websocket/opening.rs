//! How a peer opens its leg: by an upgrade (RFC 6455 §4) or by an extended CONNECT (RFC 8441 §5).

use std::net::SocketAddr;

use http::{HeaderMap, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::leg::{Leg, Wire};
use super::negotiation::Deflate;
use super::{AnyPeer, Peer, Role};
use crate::client;
use crate::http2::client::Client;
use crate::http2::server::{Arrival, Asked};
use crate::upstream::Script;
use crate::wire::{self, Fields, Head};

/// What a server would like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// How to compress, if that is offered.
    pub deflate: Option<Deflate>,
    /// Of those offered.
    pub subprotocol: Option<&'static str>,
}

impl Peer {
    /// A client that asks for `path` with these extensions; empty: none.
    ///
    /// # Errors
    /// The answer, where it is not a 101.
    pub async fn connect(proxy: SocketAddr, path: &str, offers: &str) -> Result<Peer, Head> {
        let fields = [(EXTENSIONS, offers)];
        let fields = if offers.is_empty() { &[] } else { &fields[..] };
        Peer::ask(client::tcp(proxy).await, path, fields).await
    }

    /// The server's end of the proxy's next connection to the upstream. `wish` is how the server would
    /// like to compress, if that is offered to it.
    pub async fn accept(script: &Script, wish: Option<Deflate>) -> Peer {
        let wish = Wish {
            deflate: wish,
            subprotocol: None,
        };
        Peer::upgrade(script.accept().await, wish).await
    }

    /// Both ends of one tunnel: the client's, the server's.
    pub async fn pair(
        proxy: SocketAddr,
        path: &str,
        offers: &str,
        script: &Script,
        wish: Option<Deflate>,
    ) -> (Peer, Peer) {
        let (client, server) = tokio::join!(
            Peer::connect(proxy, path, offers),
            Peer::accept(script, wish)
        );
        (client.expect("a 101"), server)
    }
}

impl<L: Leg + AsyncRead + AsyncWrite + Unpin> Peer<L> {
    /// A client that asks for an upgrade over this stream, with these fields more.
    ///
    /// # Errors
    /// The answer, where it is not a 101.
    pub async fn ask(mut leg: L, path: &str, fields: &[(&str, &str)]) -> Result<Peer<L>, Head> {
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        );
        for (name, value) in fields {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        leg.write_all(request.as_bytes()).await.unwrap();
        leg.flush().await.unwrap();
        let head = wire::read_head(&mut leg).await.unwrap();
        if head.status() != 101 {
            return Err(head);
        }
        let accept = derive_accept_key(KEY.as_bytes());
        assert_eq!(head.get("sec-websocket-accept"), Some(accept.as_str()));
        Ok(Peer::client(leg, head.fields))
    }

    /// The server's end over a stream on which an upgrade is asked for.
    pub async fn upgrade(mut leg: L, wish: Wish) -> Peer<L> {
        let head = wire::read_head(&mut leg).await.unwrap();
        let (agreed, answers) = wish.settle(&head.fields);
        let accept = derive_accept_key(head.get("sec-websocket-key").unwrap().as_bytes());
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n"
        );
        for (name, value) in &answers.0 {
            answer += &format!("{name}: {value}\r\n");
        }
        answer += "\r\n";
        leg.write_all(answer.as_bytes()).await.unwrap();
        leg.flush().await.unwrap();
        Peer::new(leg, Role::Server, agreed, head.fields)
    }

    fn client(leg: L, answered: Fields) -> Peer<L> {
        let deflate = Deflate::parse(&answered.all(EXTENSIONS).join(", "));
        Peer::new(leg, Role::Client, deflate, answered)
    }
}

impl AnyPeer {
    /// A client that asks by extended CONNECT, with these fields more.
    ///
    /// # Errors
    /// The answer, where it is not a 200.
    pub async fn connect_on(
        client: &Client,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<AnyPeer, Head> {
        let (head, stream) = client.open(path, fields).await.unwrap();
        let answered = head_of(&head);
        if head.status() != 200 {
            return Err(answered);
        }
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert_eq!(answered.get(name), None, "{name} means nothing here");
        }
        let leg: Box<dyn Wire> = Box::new(stream);
        Ok(Peer::client(leg, answered.fields))
    }

    /// The server's end of whatever has come.
    pub async fn answer(arrival: Arrival, wish: Wish) -> AnyPeer {
        match arrival {
            Arrival::Http1(leg) => Peer::upgrade(leg, wish).await,
            Arrival::Http2(asked) => AnyPeer::answer_stream(asked, wish),
        }
    }

    fn answer_stream(asked: Asked, wish: Wish) -> AnyPeer {
        assert!(asked.is_websocket(), "{:?}", asked.head);
        let fields = fields_of(asked.head.headers());
        for name in ["upgrade", "connection", "sec-websocket-key"] {
            assert!(fields.all(name).is_empty(), "{name} means nothing here");
        }
        assert_eq!(fields.all("sec-websocket-version"), ["13"]);
        let (agreed, answers) = wish.settle(&fields);
        let mut answer = Response::builder().status(200);
        for (name, value) in answers.0 {
            answer = answer.header(name, value);
        }
        let leg: Box<dyn Wire> = Box::new(asked.accept(answer.body(()).unwrap()));
        Peer::new(leg, Role::Server, agreed, fields)
    }
}

impl Wish {
    /// What of it the client's offers allow, and the fields that say so.
    fn settle(self, asked: &Fields) -> (Option<Deflate>, Fields) {
        let mut answers = Fields::default();
        let offers = asked.all(EXTENSIONS).join(", ");
        let deflate = self.deflate.and_then(|wish| wish.accept(&offers));
        if let Some((extension, _)) = &deflate {
            answers.0.push((EXTENSIONS.to_owned(), extension.clone()));
        }
        let offered = asked.all(SUBPROTOCOL).join(",");
        if let Some(wanted) = self.subprotocol
            && offered.split(',').any(|offered| offered.trim() == wanted)
        {
            answers.0.push((SUBPROTOCOL.to_owned(), wanted.to_owned()));
        }
        (deflate.map(|(_, deflate)| deflate), answers)
    }
}

/// A response's head as HTTP/1.1 would have it.
fn head_of(response: &Response<()>) -> Head {
    Head {
        start: format!("HTTP/2 {}", response.status().as_u16()),
        fields: fields_of(response.headers()),
    }
}

fn fields_of(headers: &HeaderMap) -> Fields {
    let fields = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str().to_owned(), value.into_owned())
    });
    Fields(fields.collect())
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const EXTENSIONS: &str = "sec-websocket-extensions";
const SUBPROTOCOL: &str = "sec-websocket-protocol";
