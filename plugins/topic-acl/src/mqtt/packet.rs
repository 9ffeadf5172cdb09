//! The packets that matter, read no further than to their topics, and the answers to those that are refused.

use super::{Fault, Version};

pub(super) const CONNECT: u8 = 1;
pub(super) const PUBLISH: u8 = 3;
pub(super) const SUBSCRIBE: u8 = 8;

/// A packet, as much of it as is there.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    flags: u8,
    /// Bytes of all of it.
    len: usize,
    body: &'a [u8],
    whole: bool,
}

impl<'a> Frame<'a> {
    /// `None`: more is needed to know its length.
    pub(super) fn first_of(bytes: &'a [u8]) -> Result<Option<Self>, Fault> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let mut reader = Reader(rest);
        let Some(len) = reader.varint() else {
            return match rest.len() {
                ..4 => Ok(None),
                _ => Err(Fault::Malformed),
            };
        };
        let body = reader.0.get(..len);
        Ok(Some(Frame {
            kind: first >> 4,
            flags: first & 0x0f,
            len: bytes.len() - reader.0.len() + len,
            whole: body.is_some(),
            body: body.unwrap_or(reader.0),
        }))
    }

    /// At least 2.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}

pub(super) struct Connect<'a> {
    pub(super) version: Version,
    /// Where the server publishes for the client when it has gone.
    pub(super) will_topic: Option<&'a str>,
}

impl<'a> Connect<'a> {
    pub(super) fn read(frame: &Frame<'a>) -> Option<Self> {
        let mut reader = Reader(frame.body);
        let name = reader.text().filter(|_| frame.kind == CONNECT)?;
        let version = match (name, reader.byte()?) {
            ("MQIsdp", 3) | ("MQTT", 4) => Version::Three,
            ("MQTT", 5) => Version::Five,
            _ => return None,
        };
        let flags = reader.byte()?;
        let _keep_alive = reader.number()?;
        if version == Version::Five {
            reader.properties()?;
        }
        let _client = reader.text()?;
        let mut will_topic = None;
        if flags & 0x04 != 0 {
            if version == Version::Five {
                reader.properties()?;
            }
            will_topic = Some(reader.text()?);
        }
        Some(Connect {
            version,
            will_topic,
        })
    }

    /// CONNACK: not authorized.
    pub(super) fn refusal(&self) -> Vec<u8> {
        match self.version {
            Version::Three => vec![0x20, 2, 0, 5],
            Version::Five => vec![0x20, 3, 0, NOT_AUTHORIZED, 0],
        }
    }
}

pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) alias: Option<u16>,
    /// Quality of service 1 or 2, and the number to answer to.
    acknowledged: Option<(u8, [u8; 2])>,
}

impl<'a> Publish<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Option<Self> {
        let mut reader = Reader(frame.body);
        let topic = reader.text()?;
        let acknowledged = match frame.flags >> 1 & 3 {
            0 => None,
            quality @ (1 | 2) => Some((quality, reader.number()?.to_be_bytes())),
            _ => return None,
        };
        let alias = match version {
            Version::Three => None,
            Version::Five => reader.properties()?.topic_alias()?,
        };
        Some(Publish {
            topic,
            alias,
            acknowledged,
        })
    }

    /// PUBACK or PUBREC. Version 3 knows no bad ones: the server takes the message and forgets it
    /// (3.1.1, section 3.3.5).
    pub(super) fn refusal(&self, version: Version) -> Vec<u8> {
        let Some((quality, [high, low])) = self.acknowledged else {
            return Vec::new();
        };
        let kind = if quality == 1 { 0x40 } else { 0x50 };
        match version {
            Version::Three => vec![kind, 2, high, low],
            Version::Five => vec![kind, 3, high, low, NOT_AUTHORIZED],
        }
    }
}

pub(super) struct Subscribe<'a> {
    id: [u8; 2],
    /// Without what makes a subscription a shared one.
    pub(super) topics: Vec<&'a str>,
}

impl<'a> Subscribe<'a> {
    pub(super) fn read(frame: &Frame<'a>, version: Version) -> Option<Self> {
        // Only its end shows how many topics it has.
        let mut reader = Reader(Some(frame.body).filter(|_| frame.whole)?);
        let id = reader.number()?.to_be_bytes();
        if version == Version::Five {
            reader.properties()?;
        }
        let mut topics = Vec::new();
        while !reader.0.is_empty() {
            let filter = reader.text()?;
            let _options = reader.byte()?;
            topics.push(match filter.strip_prefix("$share/") {
                Some(shared) => shared.split_once('/')?.1,
                None => filter,
            });
        }
        let good = !topics.is_empty() && topics.iter().all(|topic| !topic.is_empty());
        good.then_some(Subscribe { id, topics })
    }

    /// SUBACK, the same for each topic.
    pub(super) fn refusal(&self, version: Version) -> Vec<u8> {
        let (properties, code): (&[u8], u8) = match version {
            Version::Three => (&[], 0x80),
            Version::Five => (&[0], NOT_AUTHORIZED),
        };
        let mut packet = vec![0x90];
        let mut len = 2 + properties.len() + self.topics.len();
        while len > 0x7f {
            packet.push((len & 0x7f | 0x80) as u8);
            len >>= 7;
        }
        packet.push(len as u8);
        packet.extend_from_slice(&self.id);
        packet.extend_from_slice(properties);
        packet.resize(packet.len() + self.topics.len(), code);
        packet
    }
}

/// The bytes that are left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.bytes(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// With its length in front, UTF-8 and without NUL.
    fn text(&mut self) -> Option<&'a str> {
        let len = self.number()?;
        let text = std::str::from_utf8(self.bytes(len.into())?).ok()?;
        (!text.contains('\0')).then_some(text)
    }

    /// Up to four bytes, seven bits each (section 1.5.5).
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn properties(&mut self) -> Option<Reader<'a>> {
        let len = self.varint()?;
        self.bytes(len).map(Reader)
    }

    /// Among properties (section 2.2.2). `None`: they cannot be read; `Some(None)`: it is not there.
    #[expect(clippy::option_option, reason = "unreadable, absent, there")]
    fn topic_alias(mut self) -> Option<Option<u16>> {
        let mut alias = None;
        while let Some(property) = self.byte() {
            match property {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => drop(self.byte()?),
                0x13 | 0x21 | 0x22 => drop(self.number()?),
                0x02 | 0x11 | 0x18 | 0x27 => drop(self.bytes(4)?),
                0x0b => drop(self.varint()?),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    let len = self.number()?;
                    self.bytes(len.into())?;
                }
                0x26 => {
                    for _ in 0..2 {
                        let len = self.number()?;
                        self.bytes(len.into())?;
                    }
                }
                // Once, and not 0.
                0x23 if alias.is_none() => alias = Some(self.number().filter(|it| *it > 0)?),
                _ => return None,
            }
        }
        Some(alias)
    }
}

/// In version 5.
const NOT_AUTHORIZED: u8 = 0x87;
