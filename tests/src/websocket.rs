//! A WebSocket end of our own, for either side of the proxy: it says byte for byte what a test wants said,
//! knows how each message came over the wire, and fails the test over whatever the RFCs 6455 and 7692
//! forbid. It shares no code with the proxy, nor with a WebSocket library.
//!
//! It answers nothing by itself, neither a Ping nor a Close.

pub mod deflate;
pub mod frame;
pub mod inflate;
pub mod leg;
pub mod negotiation;
pub mod opening;
pub mod random;

use std::fmt;
use std::io::Result;

use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use self::frame::Frame;
use self::inflate::Inflater;
use self::leg::{Leg, Wire};
use self::negotiation::Deflate;
use crate::soon;
use crate::wire::Fields;

/// One end of a leg, past the handshake.
pub struct Peer<L: Leg = TcpStream> {
    pub sender: L::Sender,
    pub receiver: Receiver<L::Receiver>,
    /// What was agreed on with the proxy.
    pub deflate: Option<Deflate>,
    /// What the other end of the handshake said of extensions: the offers, or the answer.
    pub extensions: String,
    /// All that it said: the fields of its request, or of its answer.
    pub fields: Fields,
}

/// A peer over whatever carries its leg.
pub type AnyPeer = Peer<Box<dyn Wire>>;

/// The half that listens.
pub struct Receiver<R = OwnedReadHalf> {
    stream: BufReader<R>,
    role: Role,
    inflater: Option<Inflater>,
    /// The message that has begun.
    open: Option<Open>,
    /// How the stream ended, where that was in no good order.
    pub broken: Option<std::io::Error>,
}

/// Which end of its leg a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a peer hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Message(Message),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// With its code and reason, if it has them.
    Close(Option<(u16, String)>),
    /// The stream ended, in good order or not ([`Receiver::broken`]).
    End,
}

/// A data message, whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub text: bool,
    /// Plain.
    pub data: Vec<u8>,
    pub compressed: bool,
    /// Its data frames as they came, without what stood between them.
    pub wire: Vec<u8>,
}

struct Open {
    text: bool,
    compressed: bool,
    payload: Vec<u8>,
    wire: Vec<u8>,
}

impl Heard {
    /// What a text message says.
    ///
    /// # Panics
    /// It is something else.
    #[track_caller]
    pub fn text(self) -> String {
        match self {
            Heard::Message(message) if message.text => String::from_utf8(message.data).unwrap(),
            other => panic!("no text but {other:?}"),
        }
    }
}

impl<L: Leg> Peer<L> {
    /// Sends raw bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.sender.write_all(bytes).await?;
        self.sender.flush().await
    }

    /// Sends a frame, masked where this end is a client.
    pub async fn say(&mut self, frame: Frame) -> Result<()> {
        let frame = match self.receiver.role {
            Role::Client => frame.masked([0x5a, 0x01, 0xfe, 0x33]),
            Role::Server => frame,
        };
        self.send(&frame.encode()).await
    }

    /// What comes next; [`Receiver::next`].
    pub async fn next(&mut self) -> Heard {
        self.receiver.next().await
    }

    /// Everything up to the end, without data messages and what is said to keep a connection alive.
    pub async fn closing(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            match self.next().await {
                Heard::Message(_) | Heard::Ping(_) | Heard::Pong(_) => {}
                last @ Heard::End => {
                    heard.push(last);
                    return heard;
                }
                close => heard.push(close),
            }
        }
    }

    /// Goes with an RST, or RST_STREAM.
    pub fn reset(self) {
        L::cut(self.receiver.stream.into_inner(), self.sender);
    }

    /// Over a leg on which the handshake is done.
    fn new(leg: L, role: Role, deflate: Option<Deflate>, fields: Fields) -> Peer<L> {
        let params = deflate.map(|deflate| match role {
            Role::Client => deflate.server,
            Role::Server => deflate.client,
        });
        let (reading, sender) = leg.halves();
        Peer {
            sender,
            receiver: Receiver {
                stream: BufReader::new(reading),
                role,
                inflater: params.map(Inflater::new),
                open: None,
                broken: None,
            },
            deflate,
            extensions: fields.all(opening::EXTENSIONS).join(", "),
            fields,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, compressed) = (self.text, self.compressed);
        let shown = frame::shown(&self.data);
        write!(
            f,
            "Message {{ text: {text}, compressed: {compressed}, {shown} }}"
        )
    }
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// What comes next.
    ///
    /// # Panics
    /// When nothing comes in time, or what comes breaks the protocol.
    pub async fn next(&mut self) -> Heard {
        soon("a frame", self.read()).await
    }

    /// As [`Receiver::next`], however long it takes.
    pub async fn read(&mut self) -> Heard {
        loop {
            let (frame, wire) = match frame::read(&mut self.stream).await {
                Ok(Some(read)) => read,
                Ok(None) => return Heard::End,
                Err(error) => {
                    self.broken = Some(error);
                    return Heard::End;
                }
            };
            let from_client = self.role == Role::Server;
            assert_eq!(frame.mask.is_some(), from_client, "masked? {frame:?}");
            if frame.opcode & 8 == 0 {
                if let Some(message) = self.data(frame, &wire) {
                    return Heard::Message(message);
                }
                continue;
            }
            assert!(frame.fin && frame.rsv == 0, "{frame:?}");
            assert!(frame.payload.len() <= 125, "{frame:?}");
            return match frame.opcode {
                frame::PING => Heard::Ping(frame.payload),
                frame::PONG => Heard::Pong(frame.payload),
                frame::CLOSE => Heard::Close(close_payload(&frame.payload)),
                other => panic!("an opcode of {other}"),
            };
        }
    }

    fn data(&mut self, frame: Frame, wire: &[u8]) -> Option<Message> {
        let fin = frame.fin;
        match frame.opcode {
            frame::CONTINUATION => {
                assert_eq!(frame.rsv, 0, "RSV bits within a message");
                let open = self.open.as_mut().expect("a message has begun");
                open.payload.extend(frame.payload);
                open.wire.extend(wire);
            }
            frame::TEXT | frame::BINARY => {
                assert!(self.open.is_none(), "a message within a message");
                let compressed = frame.rsv == frame::COMPRESSED;
                assert!(compressed || frame.rsv == 0, "{}", frame.rsv);
                self.open = Some(Open {
                    text: frame.opcode == frame::TEXT,
                    compressed,
                    payload: frame.payload,
                    wire: wire.to_vec(),
                });
            }
            other => panic!("an opcode of {other}"),
        }
        let open = self.open.take_if(|_| fin)?;
        let data = match open.compressed {
            true => {
                let inflater = self.inflater.as_mut().expect("compression was agreed on");
                let plain = inflater.message(&open.payload);
                plain.unwrap_or_else(|fault| panic!("deflate: {fault}"))
            }
            false => open.payload,
        };
        assert!(!open.text || std::str::from_utf8(&data).is_ok(), "UTF-8");
        Some(Message {
            text: open.text,
            data,
            compressed: open.compressed,
            wire: open.wire,
        })
    }
}

fn close_payload(payload: &[u8]) -> Option<(u16, String)> {
    if payload.is_empty() {
        return None;
    }
    let (code, reason) = payload.split_at(2);
    let code = u16::from_be_bytes(code.try_into().unwrap());
    let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
    Some((code, reason))
}
