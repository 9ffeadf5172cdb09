//! A plugin that misbehaves in the way its config asks for; the host must survive all of it.

use std::cell::Cell;

use sluicegate_plugin::{
    ConfigError, EditError, Filter, Reply, Request, Response, ResponseFilter, Verdict, config,
    crypto, export,
};

#[config]
#[derive(Debug)]
pub struct Config {
    #[serde(default)]
    request: Act,
    #[serde(default)]
    response: Act,
    /// What `configure` itself does.
    #[serde(default)]
    configure: Act,
}

/// What a hook does.
#[config]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    #[default]
    Continue,
    /// 403; for a request with what it saw of the head in the body.
    Refuse,
    /// A panic.
    Trap,
    /// Edits the head, then panics.
    EditAndTrap,
    /// Says so in the log, then never ends.
    Loop,
    Memory,
    Stack,
    /// A thousand lines, with line ends and escapes in them.
    LogFlood,
    /// Edits that must be refused; `x-refused` lists what the host said.
    BadHeaders,
    /// As many fields as it can set, and what is too large or no value; `x-told` says what came of it.
    HeaderFlood,
    BigBody,
    /// 2 KiB.
    SmallBody,
    BadStatus,
    BadReplyHeader,
    /// Counts its calls in a static; `x-count` shows how many this instance has seen.
    Count,
    /// As `count`, and a panic where the query says `trap`, a loop where it says `loop`.
    CountOrFail,
    /// Has the host check a password against the dearest hash that it takes; `x-answer` shows the outcome.
    SlowHostCall,
    /// An error, from `configure` only.
    Reject,
}

pub struct Guest(Config);

impl Filter for Guest {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, ConfigError> {
        match config.configure {
            Act::Reject => Err(ConfigError::key("configure", "rejected as asked")),
            Act::Loop => loop {
                std::hint::spin_loop();
            },
            Act::Trap => trap_as_asked(),
            Act::Memory => {
                memory_bomb();
                Err("the bomb did not go off".into())
            }
            _ => Ok(Guest(config)),
        }
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        match self.0.request {
            Act::Refuse => {
                let seen = format!(
                    "{} {}?{} {} {} {} {} {} {:?}",
                    req.method(),
                    req.path(),
                    req.query().unwrap_or_default(),
                    req.scheme(),
                    req.host(),
                    req.client_ip(),
                    req.request_id(),
                    req.route(),
                    req.tls().map(|tls| tls.version),
                );
                Reply::new(403)
                    .header("x-reason", "as asked")
                    .body(seen)
                    .into()
            }
            Act::EditAndTrap => {
                let done = (req.set_header("x-edited", "yes"), req.set_query(None));
                sluicegate_plugin::debug!("{done:?}");
                trap_as_asked()
            }
            Act::BadHeaders => {
                let refused = [
                    req.set_header("x-split", "a\r\nhost: evil"),
                    req.set_header("x-line", "a\nhost: evil"),
                    req.set_header("x-return", "a\rhost: evil"),
                    req.set_header("x-nul", "a\0b"),
                    req.set_header("x-name: a\r\nhost", "evil"),
                    req.set_header("x bad", "v"),
                    req.set_header("Content-Length", "0"),
                    req.add_header("transfer-encoding", "chunked"),
                    req.remove_header("connection"),
                    req.set_header("Upgrade", "h2c"),
                    req.set_header("Sec-WebSocket-Key", "AAAA"),
                    req.set_header("Host", "evil"),
                    req.set_query(Some("a b")),
                    req.set_subprotocols(&["evil".to_owned()]),
                ];
                edited(req.set_header("x-refused", all(refused)))
            }
            Act::Count => edited(req.set_header("x-count", count().to_string())),
            Act::HeaderFlood => header_flood(|name, value| req.set_header(name, value)),
            Act::SlowHostCall => {
                let answer = crypto::verify_password(DEAREST_HASH, "password");
                edited(req.set_header("x-answer", format!("{answer:?}")))
            }
            Act::CountOrFail => match req.query().as_deref() {
                Some("trap") => trap_as_asked(),
                Some("loop") => act(Act::Loop),
                _ => edited(req.set_header("x-count", count().to_string())),
            },
            other => act(other),
        }
    }
}

impl ResponseFilter for Guest {
    fn on_response(&self, res: &mut Response) -> Verdict {
        match self.0.response {
            Act::Count | Act::CountOrFail => edited(res.set_header("x-count", count().to_string())),
            Act::HeaderFlood => header_flood(|name, value| res.set_header(name, value)),
            Act::BadHeaders => {
                let refused = [
                    res.set_header("x-split", "a\r\nset-cookie: evil"),
                    res.set_header("x-line", "a\nset-cookie: evil"),
                    res.set_header("x-return", "a\rset-cookie: evil"),
                    res.set_header("x-nul", "a\0b"),
                    res.set_header("x-name: a\r\nset-cookie", "evil"),
                    res.set_header("Content-Length", "0"),
                    res.add_header("transfer-encoding", "chunked"),
                    res.remove_header("connection"),
                    res.set_header("Upgrade", "h2c"),
                    res.set_header("Sec-WebSocket-Accept", "AAAA"),
                    res.set_subprotocol(Some("evil")),
                ];
                edited(res.set_header("x-refused", all(refused)))
            }
            Act::EditAndTrap => {
                let done = res.set_header("x-edited", "yes");
                sluicegate_plugin::debug!("{done:?}");
                trap_as_asked()
            }
            other => act(other),
        }
    }
}

export!(Guest);

fn act(act: Act) -> Verdict {
    match act {
        Act::Refuse => return Reply::new(403).header("x-reason", "as asked").into(),
        Act::Trap => trap_as_asked(),
        Act::Loop => {
            sluicegate_plugin::info!("looping");
            loop {
                std::hint::spin_loop();
            }
        }
        Act::Memory => memory_bomb(),
        Act::Stack => {
            std::hint::black_box(deeper(std::hint::black_box(1)));
        }
        Act::LogFlood => {
            for i in 0..1000 {
                sluicegate_plugin::warn!("line {i}\r\n\x1b[31mforged{}", "é".repeat(1000));
            }
        }
        Act::BigBody => return Reply::new(200).body(vec![b'a'; 65 * 1024]).into(),
        Act::SmallBody => return Reply::new(200).body(vec![b'a'; 2048]).into(),
        Act::BadStatus => return Reply::new(101).into(),
        Act::BadReplyHeader => return Reply::new(200).header("content-length", "7").into(),
        _ => {}
    }
    Verdict::Continue
}

/// What came of each edit.
fn all<const N: usize>(edits: [Result<(), EditError>; N]) -> String {
    let told = edits.map(|edit| {
        edit.err()
            .map_or("accepted".into(), |error| error.to_string())
    });
    told.join("; ")
}

fn edited(result: Result<(), EditError>) -> Verdict {
    match result {
        Ok(()) => Verdict::Continue,
        Err(error) => Reply::new(500).body(error.to_string()).into(),
    }
}

fn header_flood(mut set: impl FnMut(&str, &str) -> Result<(), EditError>) -> Verdict {
    let first = set("x-told", "");
    let mut told = |name: &str, value: &str| match set(name, value) {
        Ok(()) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    let nul = told("x-nul", "a\0b");
    let large = told("x-large", &"v".repeat(9 << 10));
    let flood = (0..1000).map(|n| told(&format!("x-{n}"), "v"));
    let accepted = flood.filter(|told| told == "accepted").count();
    let told = format!("{accepted} accepted; {large}; {nul}");
    edited(first.and_then(|()| set("x-told", &told)))
}

fn count() -> u32 {
    thread_local! {
        static CALLS: Cell<u32> = const { Cell::new(0) };
    }
    CALLS.with(|calls| {
        calls.set(calls.get() + 1);
        calls.get()
    })
}

/// Its name is to be found in the backtrace.
#[inline(never)]
fn trap_as_asked() -> ! {
    std::process::abort()
}

fn memory_bomb() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![1; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}

fn deeper(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        0
    } else {
        deeper(depth + 1) + frame[(depth % 64) as usize]
    }
}

const DEAREST_HASH: &str =
    "$argon2id$v=19$m=65536,t=10,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
