//! A message filter that does what its config asks for; the tests of conversations know the outcome
//! beforehand.

use std::time::Duration;

use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, Message, MessageFilter, Opening, Reaction, Request, Side,
    Verdict, clock, config, export,
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
    /// What `mark` and `keep` write.
    #[serde(default)]
    mark: String,
    /// Milliseconds after which the session ends by the clock.
    #[serde(default)]
    expires_in: Option<u64>,
    /// Milliseconds that it may live.
    #[serde(default)]
    lifetime: Option<u64>,
}

/// What the filter does, with data messages unless it says otherwise.
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
    /// A text `trap`, `loop` or `nonsense` is a failure of that kind; `count` becomes how many texts the tunnel
    /// has had. A query of `trap` lets it fail before there is a tunnel.
    Fail,
    /// Nothing but time is of interest: each tenth of a second both sides get `tick NUMBER`.
    Tick,
    /// What time brings is a trap.
    TickTrap,
    /// The handshake's hook keeps the mark and the path; a text `kept` becomes what arrived of it.
    Keep,
    /// Nothing but pings is of interest: they come out in capitals, those that say `drop` not at all.
    Pings,
    /// Each text gets the mark in front.
    Mark,
}

pub struct Guest(Config);

/// What is known of a tunnel.
#[derive(Debug, Default)]
pub struct Session {
    /// How many data messages each side has sent.
    client: u32,
    server: u32,
    texts: u32,
    ticks: u32,
    kept: String,
}

impl Filter for Guest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        Ok(Guest(config))
    }

    fn uses(&self, hook: Hook) -> bool {
        let Config {
            act,
            expires_in,
            lifetime,
            ..
        } = &self.0;
        let of_request = *act == Act::Keep || expires_in.is_some() || lifetime.is_some();
        hook == Hook::Messages || hook == Hook::Request && of_request
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        let path = req.path().to_owned();
        let edited = req
            .keep(format!("{}{path}", self.0.mark))
            .and_then(|()| req.set_label("path", &path));
        if edited.is_err() {
            std::process::abort();
        }
        if let Some(millis) = self.0.expires_in {
            req.expire_at(clock::now() + Duration::from_millis(millis));
        }
        if let Some(millis) = self.0.lifetime {
            req.limit_lifetime(Duration::from_millis(millis));
        }
        Verdict::Continue
    }
}

impl MessageFilter for Guest {
    type Session = Session;

    fn interest(&self) -> Interest {
        let interest = match self.0.act {
            Act::Redact | Act::Close | Act::Keep | Act::Mark => Interest::text(),
            Act::Tick | Act::TickTrap => Interest::none().every(Duration::from_millis(100)),
            Act::Pings => Interest::none().pings(),
            _ => Interest::data(),
        };
        match self.0.max_size {
            Some(most) => interest.max_size(most),
            None => interest,
        }
    }

    fn open(&self, opening: &Opening) -> Option<Session> {
        if self.0.act == Act::Fail && opening.query() == Some("trap") {
            std::process::abort();
        }
        Some(Session {
            kept: String::from_utf8_lossy(opening.kept()).into_owned(),
            ..Session::default()
        })
    }

    fn on_text(&self, session: &mut Session, sender: Side, text: &str) -> Reaction {
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
            Act::Fail => fail(session, text),
            Act::Keep if text == "kept" => Reaction::replace(session.kept.as_str()),
            Act::Mark => Reaction::replace(format!("{}{text}", self.0.mark)),
            _ => self.either(session, sender, text.as_bytes()),
        }
    }

    fn on_binary(&self, session: &mut Session, sender: Side, data: &[u8]) -> Reaction {
        self.either(session, sender, data)
    }

    fn on_ping(&self, _: &mut Session, _: Side, data: &[u8]) -> Reaction {
        match data {
            b"drop" => Reaction::drop(),
            _ => Reaction::replace(Message::Ping(data.to_ascii_uppercase())),
        }
    }

    fn on_timer(&self, session: &mut Session) -> Reaction {
        if self.0.act == Act::TickTrap {
            std::process::abort();
        }
        session.ticks += 1;
        let tick = format!("tick {}", session.ticks);
        Reaction::forward()
            .send_after(Side::Client, tick.as_str())
            .send_after(Side::Server, tick.as_str())
    }
}

impl Guest {
    fn either(&self, session: &mut Session, sender: Side, data: &[u8]) -> Reaction {
        match self.0.act {
            Act::Scan if data.contains(&0xff) => Reaction::drop(),
            Act::DropThird => {
                let count = match sender {
                    Side::Client => &mut session.client,
                    Side::Server => &mut session.server,
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

/// [`Act::Fail`].
fn fail(session: &mut Session, text: &str) -> Reaction {
    session.texts += 1;
    match text {
        "trap" => std::process::abort(),
        "loop" => loop {
            std::hint::spin_loop();
        },
        // A code that may not be sent.
        "nonsense" => Reaction::close(1005, ""),
        "count" => Reaction::replace(session.texts.to_string()),
        _ => Reaction::forward(),
    }
}

/// `close CODE REASON`.
fn close(text: &str) -> Option<(u16, &str)> {
    let (code, reason) = text.strip_prefix("close ")?.split_once(' ')?;
    Some((code.parse().ok()?, reason))
}

export!(Guest: messages);
