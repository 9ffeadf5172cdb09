//! A message filter that does what its config asks for; the tests of conversations know the outcome
//! beforehand.

use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, Message, MessageFilter, Opening, Reaction, Side, config,
    export,
};

#[config]
#[derive(Debug)]
pub struct Config {
    act: Act,
    /// Larger messages are not of interest.
    #[serde(default)]
    max_size: Option<u32>,
    /// Bytes of what `flood` and `reply` inject.
    #[serde(default)]
    size: usize,
}

/// What becomes of a data message.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It goes on.
    Pass,
    /// It goes on, read to the end; one with a byte of 0xff in it, which is rare, is dropped.
    Scan,
    /// `secret` becomes `******` in text.
    Redact,
    /// Every third of a side goes nowhere.
    DropThird,
    /// Around a text that begins with `!` go messages of the filter's own.
    Inject,
    /// Its sender gets a binary message of `size` bytes for it.
    Reply,
    /// The other side gets sixteen binary messages of `size` bytes with it.
    Flood,
    /// A text `close CODE REASON` ends the tunnel.
    Close,
}

pub struct Guest(Config);

/// How many data messages each side has sent.
#[derive(Debug, Default)]
pub struct Counts {
    client: u32,
    server: u32,
}

impl Filter for Guest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        Ok(Guest(config))
    }

    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for Guest {
    type Session = Counts;

    fn interest(&self) -> Interest {
        let interest = match self.0.act {
            Act::Redact | Act::Close => Interest::text(),
            _ => Interest::data(),
        };
        match self.0.max_size {
            Some(most) => interest.max_size(most),
            None => interest,
        }
    }

    fn open(&self, _: &Opening) -> Option<Counts> {
        Some(Counts::default())
    }

    fn on_text(&self, counts: &mut Counts, sender: Side, text: &str) -> Reaction {
        match self.0.act {
            Act::Redact if text.contains("secret") => {
                Reaction::replace(text.replace("secret", "******"))
            }
            Act::Inject if text.starts_with('!') => {
                let size = text.len();
                Reaction::forward()
                    .send_before(sender.other(), format!("before {size}"))
                    .send_before(sender.other(), Message::Ping(size.to_string().into_bytes()))
                    .send_after(sender.other(), format!("after {size}"))
                    .send_after(sender, format!("reply {size}"))
            }
            Act::Close => match close(text) {
                Some((code, reason)) => Reaction::close(code, reason),
                None => Reaction::forward(),
            },
            _ => self.either(counts, sender, text.as_bytes()),
        }
    }

    fn on_binary(&self, counts: &mut Counts, sender: Side, data: &[u8]) -> Reaction {
        self.either(counts, sender, data)
    }
}

impl Guest {
    fn either(&self, counts: &mut Counts, sender: Side, data: &[u8]) -> Reaction {
        match self.0.act {
            Act::Scan if data.contains(&0xff) => Reaction::drop(),
            Act::DropThird => {
                let count = match sender {
                    Side::Client => &mut counts.client,
                    Side::Server => &mut counts.server,
                };
                *count += 1;
                match *count % 3 {
                    0 => Reaction::drop(),
                    _ => Reaction::forward(),
                }
            }
            Act::Reply => Reaction::forward().send_after(sender, vec![b'r'; self.0.size]),
            Act::Flood => (0..16).fold(Reaction::forward(), |reaction, _| {
                reaction.send_after(sender.other(), vec![b'f'; self.0.size])
            }),
            _ => Reaction::forward(),
        }
    }
}

/// `close CODE REASON`.
fn close(text: &str) -> Option<(u16, &str)> {
    let (code, reason) = text.strip_prefix("close ")?.split_once(' ')?;
    Some((code.parse().ok()?, reason))
}

export!(Guest: messages);
