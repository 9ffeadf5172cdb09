//! A filter of handshakes and messages: shows what the SDK hands over, and does what texts ask it for.

#![expect(clippy::panic, reason = "it fails as it is asked to")]

use std::time::Duration;

use sluicegate_plugin::{
    ConfigError, Ending, Filter, Interest, Message, MessageFilter, Opening, Reaction, Request,
    Response, ResponseFilter, Side, Verdict, config, export, info,
};

#[config]
pub struct Config {
    /// Data of the client only: no controls, no timer, no end.
    #[serde(default)]
    little: bool,
}

pub struct Guest(Config);

pub struct Session {
    opening: String,
    messages: u32,
    ticks: u32,
}

impl Filter for Guest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        info!("configured");
        Ok(Guest(config))
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        // What was kept last is what stays.
        let kept = req.keep("nothing").and_then(|()| req.keep(req.path()));
        if kept.is_err() || req.keep([0; 4097]).is_ok() {
            panic!("what may be kept");
        }
        info!("asked");
        Verdict::Continue
    }
}

impl ResponseFilter for Guest {
    fn on_response(&self, res: &mut Response) -> Verdict {
        let kept = [res.kept().as_slice(), b" answered"].concat();
        match res
            .keep(kept)
            .and_then(|()| res.set_label("status", &res.status().to_string()))
        {
            Ok(()) => Verdict::Continue,
            Err(error) => panic!("{error}"),
        }
    }
}

impl MessageFilter for Guest {
    type Session = Session;

    fn interest(&self) -> Interest {
        match self.0.little {
            true => Interest::data().from(Side::Client).max_size(10),
            false => Interest::data()
                .pings()
                .pongs()
                .every(Duration::from_secs(2))
                .on_close(),
        }
    }

    fn open(&self, opening: &Opening) -> Option<Session> {
        match opening.path() {
            "/none" => return None,
            "/panic" => panic!("as asked"),
            _ => {}
        }
        let opening = format!(
            "{} {} {} {:?} {} {:?} {:?} {:?} {:?}",
            opening.request_id(),
            opening.route(),
            opening.host(),
            opening.query_param("q"),
            opening.client_ip(),
            opening.header("X-Who"),
            opening.subprotocol(),
            opening.labels(),
            String::from_utf8_lossy(opening.kept()),
        );
        Some(Session {
            opening,
            messages: 0,
            ticks: 0,
        })
    }

    fn on_text(&self, session: &mut Session, sender: Side, text: &str) -> Reaction {
        session.messages += 1;
        match text {
            "who" => Reaction::reply(sender, session.opening.as_str()),
            "count" => Reaction::replace(session.messages.to_string()),
            "around" => Reaction::forward()
                .send_after(Side::Server, vec![1, 2])
                .send_before(Side::Client, "before")
                .send_before(Side::Server, Message::Ping(b"p".to_vec()))
                .send_after(Side::Client, Message::Pong(Vec::new())),
            "drop" => Reaction::drop(),
            "close" => Reaction::close(4000, "as asked").send_before(sender, "bye"),
            "unsendable" => Reaction::close(1005, ""),
            "panic" => panic!("as asked"),
            _ => Reaction::forward(),
        }
    }

    fn on_binary(&self, _: &mut Session, _: Side, data: &[u8]) -> Reaction {
        Reaction::replace(data.iter().rev().copied().collect::<Vec<u8>>())
    }

    fn on_ping(&self, _: &mut Session, _: Side, data: &[u8]) -> Reaction {
        Reaction::replace(Message::Ping(data.to_ascii_uppercase()))
    }

    fn on_pong(&self, _: &mut Session, sender: Side, _: &[u8]) -> Reaction {
        Reaction::reply(sender, "pong?")
    }

    fn on_timer(&self, session: &mut Session) -> Reaction {
        session.ticks += 1;
        let now = sluicegate_plugin::clock::unix_seconds() % 60;
        match session.ticks {
            3.. => Reaction::close(1001, "enough"),
            ticks => Reaction::forward().send_after(Side::Client, format!("{ticks} at {now}")),
        }
    }

    fn on_close(&self, session: &mut Session, ending: &Ending) {
        let Ending { code, by, cause } = ending;
        let messages = session.messages;
        info!("over after {messages}: {code:?} {by:?} {cause}");
        if *code == Some(4999) {
            panic!("as asked");
        }
    }
}

export!(Guest: messages);
