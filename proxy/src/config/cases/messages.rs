//! What the cases of message filters have besides: who says what, and what must come of it.
//!
//! A message is written the same way wherever it stands: a string is text, `{ binary = "30 05" }`,
//! `{ ping = "…" }` and `{ pong = "…" }` are the others.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Case, schema};
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{Located, Span};
use crate::config::reader::{Node, OneOrMany, Read, Reader, Whole, inline_schema};
use crate::config::values::{FromText, Mistake};

/// One thing that happens in a conversation, and what must come of it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Of the step, for reports.
    pub span: Span,
    pub what: Happening,
    /// What passes on the clock before; `None`: nothing, or what the plugin's timer takes.
    pub after: Option<Duration>,
    /// At least once; each time the same must come of it.
    pub repeat: u32,
    /// `None`: what is said by the other side, and nothing else.
    pub to_server: Option<Vec<Payload>>,
    pub to_client: Option<Vec<Payload>>,
    /// `None`: the tunnel goes on.
    pub close: Option<Closing>,
    /// The beginning of the failure's words.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    Said(Side, Payload),
    /// The plugin's timer is due.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

/// A Close that both sides get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    pub code: u16,
    /// `None`: any.
    pub reason: Option<String>,
}

/// How a conversation ends that its plugin does not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub code: Option<u16>,
    /// `None`: the proxy.
    pub by: Option<Side>,
    /// The access log's word for it.
    pub cause: &'static str,
}

/// What arrives at a side, as it is written: one message, several, or false.
pub(super) struct Arriving;

/// A Close as it is written: its code, the table that says more, or false.
pub(super) struct CloseOrNot;

/// Bytes, two digits each.
pub(super) struct Hex(Vec<u8>);

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause(&'static str);

/// Who ended a tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    Side(Side),
    Proxy,
}

impl Payload {
    /// Bytes as `{ binary = "…" }` has them.
    pub fn hex(bytes: &[u8]) -> String {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(" ")
    }
}

impl Default for Ending {
    /// The client says good-bye.
    fn default() -> Self {
        Ending {
            code: Some(1000),
            by: Some(Side::Client),
            cause: "close",
        }
    }
}

/// The step that was written; only meant where there are no mistakes.
pub(super) fn step(written: &Located<&schema::Step>, mistakes: &mut Vec<Diagnostic>) -> Step {
    let Located {
        value: written,
        span,
    } = written;
    let said =
        |side, field: Option<&Payload>| field.map(|said| Happening::Said(side, said.clone()));
    let happenings = [
        said(Side::Client, written.client.value()),
        said(Side::Server, written.server.value()),
        (written.tick.value() == Some(&true)).then_some(Happening::Tick),
    ];
    let mut given = happenings.into_iter().flatten();
    let what = match (given.next(), given.next()) {
        (Some(what), None) => what,
        (first, _) => {
            if !written.is_mistaken() {
                let message = match first {
                    Some(_) => "a step is one message, or a tick of the timer",
                    None => "nothing happens in this step",
                };
                let hint = "one of `client = …`, `server = …` and `tick = true`".to_owned();
                mistakes.push(Diagnostic::error(span.clone(), message).hint(hint));
            }
            Happening::Tick
        }
    };
    if let (Some(repeat), true) = (written.repeat.given(), written.ends()) {
        let message = "what ends the tunnel happens once";
        mistakes.push(Diagnostic::error(repeat.span.clone(), message));
    }
    Step {
        span: span.clone(),
        what,
        after: written.after.value().copied(),
        repeat: written.repeat.value().map_or(1, |repeat| *repeat as u32),
        to_server: written.to_server.value().cloned(),
        to_client: written.to_client.value().cloned(),
        close: written.close.value().cloned().flatten(),
        error: written.error.value().map(|error| error.0.clone()),
    }
}

/// What a case with messages cannot have.
pub(super) fn check(written: &schema::Case, case: &Case, mistakes: &mut Vec<Diagnostic>) {
    if let Some(repeat) = written.repeat.given() {
        let message = "a case with messages is run once";
        let hint = "a single message can have `repeat`".to_owned();
        mistakes.push(Diagnostic::error(repeat.span.clone(), message).hint(hint));
    }
    let request = written.request.value();
    if let Some(websocket) = request.and_then(|request| request.websocket.given())
        && !case.request.websocket
    {
        let message = "without the opening handshake of a WebSocket there are no messages";
        mistakes.push(Diagnostic::error(websocket.span.clone(), message));
    }
    if let (Some(answer), Some(written)) = (&case.response, written.response.given())
        && answer.status != 101
    {
        let message = format!("behind a status of {} there are no messages", answer.status);
        let hint = "the upstream accepts with `status = 101`".to_owned();
        mistakes.push(Diagnostic::error(written.span.clone(), message).hint(hint));
    }
}

/// How a conversation ends.
pub(super) fn ending(written: &schema::Ending) -> Ending {
    let default = Ending::default();
    Ending {
        code: written
            .code
            .value()
            .map_or(default.code, |code| Some(*code as u16)),
        by: written.by.value().map_or(default.by, |by| match by {
            By::Side(side) => Some(*side),
            By::Proxy => None,
        }),
        cause: written.cause.value().map_or(default.cause, |cause| cause.0),
    }
}

impl schema::Step {
    fn ends(&self) -> bool {
        matches!(self.close.value(), Some(Some(_))) || self.error.given().is_some()
    }

    fn is_mistaken(&self) -> bool {
        self.client.is_mistaken() || self.server.is_mistaken() || self.tick.is_mistaken()
    }
}

impl Read for Payload {
    type Out = Self;
    const EXPECTED: &'static str = "a string or a table";
    const HINT: Option<&'static str> = Some(
        "text is a string; the others are `{ binary = \"30 05\" }`, `{ ping = \"\" }`, `{ pong = \"\" }`",
    );

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(text) = node.get_ref().as_str() {
            return Some(Payload::Text(text.to_owned()));
        }
        node.get_ref().as_table()?;
        let typed = schema::Typed::read(node, reader)?;
        let binary = typed
            .binary
            .value()
            .map(|Hex(bytes)| Payload::Binary(bytes.clone()));
        let ping = typed
            .ping
            .value()
            .map(|text| Payload::Ping(text.clone().into()));
        let pong = typed
            .pong
            .value()
            .map(|text| Payload::Pong(text.clone().into()));
        let mut given = [binary, ping, pong].into_iter().flatten();
        let first = given.next();
        if (first.is_none() && !typed.is_mistaken()) || given.next().is_some() {
            let message = "a message is of one kind";
            let hint = Self::HINT.map(str::to_owned);
            reader.report(Diagnostic::error(node.span(), message).hint(hint));
        }
        first
    }
}

impl schema::Typed {
    fn is_mistaken(&self) -> bool {
        self.binary.is_mistaken() || self.ping.is_mistaken() || self.pong.is_mistaken()
    }
}

impl Read for Arriving {
    type Out = Vec<Payload>;
    const EXPECTED: &'static str = "a message, an array of them, or false";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Vec<Payload>> {
        if let Some(there) = node.get_ref().as_bool() {
            return (!there).then(Vec::new);
        }
        let all = OneOrMany::<Payload>::read(node, reader)?;
        all.iter().map(|one| one.value().cloned()).collect()
    }
}

impl Read for CloseOrNot {
    type Out = Option<Closing>;
    const EXPECTED: &'static str = "a code, `{ code, reason }`, or false";

    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Option<Closing>> {
        let value = node.get_ref();
        if let Some(there) = value.as_bool() {
            return (!there).then_some(None);
        }
        let (code, reason) = match value.as_table() {
            Some(_) => {
                let closing = schema::Closing::read(node, reader)?;
                (*closing.code.value()?, closing.reason.value().cloned())
            }
            None => (Whole::<1000, 4999>::read(node, reader)?, None),
        };
        Some(Some(Closing {
            code: code as u16,
            reason,
        }))
    }
}

impl FromText for Hex {
    const HINT: Option<&'static str> =
        Some("hexadecimal, with blanks where you like: `30 05 00 01`");

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let bad = |message: &str, within| Mistake {
            message: message.to_owned(),
            hint: Self::HINT.map(str::to_owned),
            within,
        };
        let mut digits = Vec::with_capacity(text.len());
        for (at, c) in text
            .char_indices()
            .filter(|(_, c)| !c.is_ascii_whitespace())
        {
            let digit = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let within = Some(at..at + c.len_utf8());
            digits.push(digit.ok_or_else(|| bad("this is no hexadecimal digit", within))?);
        }
        let (bytes, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(bad(
                "a byte has two digits; the last one has only one",
                None,
            ));
        }
        Ok(Hex(bytes
            .iter()
            .map(|[high, low]| high << 4 | low)
            .collect()))
    }
}

impl FromText for Cause {
    const CHOICES: &'static [&'static str] = &[
        "close",
        "eof",
        "reset",
        "idle_timeout",
        "client_idle_timeout",
        "server_idle_timeout",
        "pong_timeout",
        "expired",
        "lifetime",
        "protocol_error",
        "message_size",
        "message_rate",
        "message_kind",
        "message_frames",
        "connection_memory",
        "memory",
        "filter",
        "filter_failed",
        "drain",
        "stopped",
    ];

    fn from_text(text: &str) -> Result<Self, Mistake> {
        let known = Self::CHOICES.iter().find(|cause| **cause == text);
        known.map(|cause| Cause(cause)).ok_or_else(|| {
            let message = format!("`{}` is no cause in the access log", text.escape_debug());
            Mistake::new(message).hint(format!("one of {}", Self::CHOICES.join(", ")))
        })
    }
}

impl FromText for By {
    const CHOICES: &'static [&'static str] = &["client", "server", "proxy"];

    fn from_text(text: &str) -> Result<Self, Mistake> {
        match text {
            "client" => Ok(By::Side(Side::Client)),
            "server" => Ok(By::Side(Side::Server)),
            "proxy" => Ok(By::Proxy),
            _ => {
                let message = format!("`{}` ends no tunnel", text.escape_debug());
                Err(Mistake::new(message).hint("`client`, `server` or `proxy`".to_owned()))
            }
        }
    }
}

inline_schema!([] Payload, |generator| json_schema!({
    "anyOf": [{ "type": "string" }, generator.subschema_for::<schema::Typed>()]
}));
inline_schema!([] Arriving, |generator| {
    let one = generator.subschema_for::<Payload>();
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }, { "const": false }] })
});
inline_schema!([] CloseOrNot, |generator| json_schema!({
    "anyOf": [
        { "type": "integer", "minimum": 1000, "maximum": 4999 },
        generator.subschema_for::<schema::Closing>(),
        { "const": false },
    ]
}));
