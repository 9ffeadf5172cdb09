//! What was said on one WebSocket, and the case that it makes. No IO.

use std::fmt::Write as _;

use super::super::test::written::{message, text};
use crate::config::cases::Payload;
use crate::ws::{Control, ControlKind, DataKind, Event, Reader, Rules, Side, Want};

/// A request's head, as its client wrote it.
pub(super) struct Handshake<'h> {
    lines: Vec<&'h [u8]>,
}

/// What was said so far.
pub(super) struct Transcript {
    uri: String,
    offered: Option<String>,
    agreed: Option<String>,
    client: Reader,
    server: Reader,
    said: Vec<(Side, Payload)>,
    /// Bytes in `said`.
    size: usize,
    left_out: u32,
    /// Who said Close first, with which code.
    close: Option<(Side, Option<u16>)>,
}

impl<'h> Handshake<'h> {
    pub(super) fn read(head: &'h [u8]) -> Self {
        Handshake {
            lines: head.split_inclusive(|byte| *byte == b'\n').collect(),
        }
    }

    /// The head without its offer of extensions.
    pub(super) fn without_extensions(&self) -> Vec<u8> {
        let kept = self.lines.iter();
        let kept = kept.filter(|line| field(line, "sec-websocket-extensions").is_none());
        kept.copied().collect::<Vec<_>>().concat()
    }

    fn field(&self, name: &str) -> Option<String> {
        let mut values = self.lines.iter().filter_map(|line| field(line, name));
        values.next().map(str::to_owned)
    }
}

impl Transcript {
    /// `None`: the answer accepts no WebSocket.
    pub(super) fn begin(request: &Handshake<'_>, answer: &[u8]) -> Option<Self> {
        let first = String::from_utf8_lossy(request.lines.first()?);
        let uri = first.split(' ').nth(1)?.to_owned();
        let answer = Handshake::read(answer);
        let status = String::from_utf8_lossy(answer.lines.first()?);
        if status.split(' ').nth(1) != Some("101") {
            return None;
        }
        let reader = |side| {
            Reader::new(Rules {
                side,
                deflate: None,
                max_message: MAX_SIZE as u64,
                max_frames: u32::MAX,
                inspect: false,
            })
        };
        Some(Transcript {
            uri,
            offered: request.field(PROTOCOL),
            agreed: answer.field(PROTOCOL),
            client: reader(Side::FromClient),
            server: reader(Side::FromServer),
            said: Vec::new(),
            size: 0,
            left_out: 0,
            close: None,
        })
    }

    /// Reads along. What breaks the protocol is the ends' business: nothing more of that side is written down.
    pub(super) fn read(&mut self, sender: Side, mut bytes: &[u8]) {
        loop {
            let reader = match sender {
                Side::FromClient => &mut self.client,
                Side::FromServer => &mut self.server,
            };
            match reader.read(&mut bytes, |_| Want::Whole) {
                Ok(Some(Event::Message(message))) => {
                    let kind = message.kind;
                    let data = message.into_plain();
                    self.say(
                        sender,
                        match kind {
                            // The reader has judged it.
                            DataKind::Text => Payload::Text(String::from_utf8_lossy(&data).into()),
                            DataKind::Binary => Payload::Binary(data),
                        },
                    );
                }
                Ok(Some(Event::Control(control))) => self.control(sender, &control),
                Ok(Some(Event::Passed { .. })) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// As text of a case file.
    pub(super) fn case(&self, number: u32) -> String {
        let mut case = format!("\n[[case]]\nname = \"recorded {number}\"\n");
        let protocol = |value: &str| format!("headers = {{ {PROTOCOL} = {} }}", text(value));
        let uri = text(&self.uri);
        // Writing to a string cannot fail.
        let _ = match &self.offered {
            Some(offered) => writeln!(case, "request = {{ uri = {uri}, {} }}", protocol(offered)),
            None => writeln!(case, "request = {{ uri = {uri} }}"),
        };
        let first = self
            .offered
            .as_deref()
            .and_then(|offered| offered.split(',').next());
        if first.map(str::trim) != self.agreed.as_deref() {
            let agreed = self.agreed.as_deref().map(protocol);
            let agreed = agreed.map_or_else(String::new, |agreed| format!(", {agreed}"));
            let _ = writeln!(case, "response = {{ status = 101{agreed} }}");
        }
        let by = |side| {
            if side == Side::FromClient {
                "client"
            } else {
                "server"
            }
        };
        let _ = match self.close {
            Some((side, code)) => {
                let code = code.unwrap_or(NO_STATUS);
                writeln!(case, "ending = {{ code = {code}, by = \"{}\" }}", by(side))
            }
            None => writeln!(case, "ending = {{ cause = \"eof\" }}"),
        };
        for (sender, said) in &self.said {
            let _ = writeln!(
                case,
                "\n[[case.messages]]\n{} = {}",
                by(*sender),
                message(said)
            );
        }
        if self.left_out > 0 {
            let _ = writeln!(
                case,
                "\n# {} more messages: too much for one case",
                self.left_out
            );
        }
        case
    }

    fn control(&mut self, sender: Side, control: &Control) {
        let payload = control.payload().to_vec();
        match control.kind {
            ControlKind::Close => {
                let code = control.close_code().map(|code| code.0);
                self.close.get_or_insert((sender, code));
            }
            ControlKind::Ping => self.say(sender, Payload::Ping(payload)),
            ControlKind::Pong => self.say(sender, Payload::Pong(payload)),
        }
    }

    fn say(&mut self, sender: Side, said: Payload) {
        let size = match &said {
            Payload::Text(text) => text.len(),
            Payload::Binary(data) | Payload::Ping(data) | Payload::Pong(data) => data.len(),
        };
        // What comes later would have another meaning without what comes before.
        if self.left_out > 0 || self.said.len() == MAX_SAID || self.size + size > MAX_SIZE {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.size += size;
        self.said.push((sender, said));
    }
}

/// The value of a line that is this field; names match in any case.
fn field<'l>(line: &'l [u8], name: &str) -> Option<&'l str> {
    let (own, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    own.eq_ignore_ascii_case(name).then(|| value.trim())
}

const PROTOCOL: &str = "Sec-WebSocket-Protocol";
/// A Close without a code (RFC 6455 §7.1.5).
const NO_STATUS: u16 = 1005;
/// Messages of a case.
const MAX_SAID: usize = 10_000;
/// And their bytes.
const MAX_SIZE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::{CloseCode, encode_close, encode_message, encode_ping};

    const REQUEST: &[u8] = b"GET /chat?a=1 HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\
        sec-websocket-extensions: permessage-deflate\r\nsec-websocket-protocol: a, b\r\n\r\n";
    const ACCEPTED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: b\r\n\r\n";

    const RECORDED: &str = r#"
[[case]]
name = "recorded 7"
request = { uri = "/chat?a=1", headers = { Sec-WebSocket-Protocol = "a, b" } }
response = { status = 101, headers = { Sec-WebSocket-Protocol = "b" } }
ending = { code = 1001, by = "server" }

[[case.messages]]
client = 'say "hi"'

[[case.messages]]
client = { binary = "00 ff" }

[[case.messages]]
server = { ping = "beat" }
"#;

    #[test]
    fn what_is_said_becomes_a_case() {
        let handshake = Handshake::read(REQUEST);
        let sent = String::from_utf8(handshake.without_extensions()).expect("text");
        let offer = "sec-websocket-extensions: permessage-deflate\r\n";
        let expect = String::from_utf8_lossy(REQUEST).replace(offer, "");
        assert_eq!(sent, expect);

        let mut transcript = Transcript::begin(&handshake, ACCEPTED).expect("accepted");
        let mut said = Vec::new();
        encode_message(DataKind::Text, b"say \"hi\"", Some([1; 4]), &mut said);
        encode_message(DataKind::Binary, &[0, 255], Some([2; 4]), &mut said);
        for byte in said {
            transcript.read(Side::FromClient, &[byte]);
        }
        transcript.read(Side::FromServer, &encode_ping(b"beat", None));
        let close = encode_close(CloseCode::GOING_AWAY, "", None);
        transcript.read(Side::FromServer, &close);
        let answer = encode_close(CloseCode::NORMAL, "", Some([3; 4]));
        transcript.read(Side::FromClient, &answer);
        assert_eq!(transcript.case(7), RECORDED);
    }

    #[test]
    fn an_answer_that_is_no_acceptance_makes_no_case() {
        let handshake = Handshake::read(REQUEST);
        assert!(Transcript::begin(&handshake, b"HTTP/1.1 200 OK\r\n\r\n").is_none());
        assert!(Transcript::begin(&Handshake::read(b""), ACCEPTED).is_none());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let handshake = Handshake::read(b"GET / HTTP/1.1\r\n\r\n");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        let mut transcript = Transcript::begin(&handshake, answer).expect("accepted");
        let mut frame = Vec::new();
        encode_message(DataKind::Text, b"", None, &mut frame);
        for _ in 0..MAX_SAID + 2 {
            transcript.read(Side::FromServer, &frame);
        }
        let case = transcript.case(1);
        assert!(case.contains("ending = { cause = \"eof\" }"), "{case:.100}");
        assert!(case.ends_with("# 2 more messages: too much for one case\n"));
    }
}
