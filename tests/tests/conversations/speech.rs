//! What one end says in a conversation: messages of both kinds, some of them compressed, in fragments, with
//! control frames between and within them.

use sluicegate_tests::websocket::deflate::Deflater;
use sluicegate_tests::websocket::frame::{self, COMPRESSED, Frame};
use sluicegate_tests::websocket::negotiation::Params;
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{Heard, Message, Role};

/// All that one end says, in the order in which it is complete.
pub struct Speech {
    pub wire: Vec<u8>,
    pub said: Vec<Heard>,
}

impl Speech {
    pub fn new(role: Role, params: Option<Params>, random: &mut Random) -> Speech {
        let mut speech = Speech {
            wire: Vec::new(),
            said: Vec::new(),
        };
        let mut deflater = params.map(|params| Deflater::new(params, random));
        for _ in 0..random.between(1, 20) {
            if random.once_in(6) {
                speech.control(role, random);
            } else {
                speech.message(role, deflater.as_mut(), random);
            }
        }
        speech
    }

    fn control(&mut self, role: Role, random: &mut Random) {
        let size = random.pick(&[0, 1, 125, 20]);
        let payload = random.bytes(size);
        let (opcode, heard) = match random.once_in(2) {
            true => (frame::PING, Heard::Ping(payload.clone())),
            false => (frame::PONG, Heard::Pong(payload.clone())),
        };
        self.wire
            .extend(encode(Frame::new(opcode, payload), role, random));
        self.said.push(heard);
    }

    fn message(&mut self, role: Role, deflater: Option<&mut Deflater>, random: &mut Random) {
        let words = match random.below(40) {
            0..=2 => 0,
            3 => random.between(2000, 20_000),
            4..=10 => random.between(100, 900),
            _ => random.between(1, 60),
        };
        let is_text = !random.once_in(3);
        let data = match is_text {
            true => text(random, words).into_bytes(),
            // Partly the same again and again.
            false => {
                let piece = random.bytes(50);
                (0..words * 7)
                    .map(|at| piece[at % 50] ^ (at / 1000) as u8)
                    .collect()
            }
        };
        let deflater = deflater.filter(|_| !random.once_in(5));
        let compressed = deflater.is_some();
        let payload = match deflater {
            Some(deflater) => deflater.message(&data, random),
            None => data.clone(),
        };
        let mut cuts = match random.once_in(2) {
            true => Vec::new(),
            // Two in the same place make an empty frame.
            false => (0..random.between(1, 8))
                .map(|_| random.below(payload.len() + 1))
                .collect(),
        };
        cuts.sort_unstable();
        cuts.push(payload.len());
        let (mut wire, mut start) = (Vec::new(), 0);
        for (number, end) in cuts.iter().enumerate() {
            let opcode = match (number, is_text) {
                (0, true) => frame::TEXT,
                (0, false) => frame::BINARY,
                _ => frame::CONTINUATION,
            };
            let frame = Frame {
                fin: number + 1 == cuts.len(),
                rsv: if compressed && number == 0 {
                    COMPRESSED
                } else {
                    0
                },
                ..Frame::new(opcode, &payload[start..*end])
            };
            if number > 0 && random.once_in(3) {
                self.control(role, random);
            }
            let bytes = encode(frame, role, random);
            self.wire.extend_from_slice(&bytes);
            wire.extend(bytes);
            start = *end;
        }
        self.said.push(Heard::Message(Message {
            text: is_text,
            data,
            compressed,
            wire,
        }));
    }
}

fn encode(frame: Frame, role: Role, random: &mut Random) -> Vec<u8> {
    match role {
        Role::Client => frame
            .masked((random.number() as u32).to_ne_bytes())
            .encode(),
        Role::Server => frame.encode(),
    }
}

/// So many words, some of them of more bytes than letters.
pub fn text(random: &mut Random, words: usize) -> String {
    let mut text = String::new();
    for _ in 0..words {
        text += random.pick(&WORDS);
        if random.once_in(4) {
            text += &(random.number() % 10_000).to_string();
        }
    }
    text
}

const WORDS: [&str; 16] = [
    " the ",
    "secret",
    "market ",
    "price",
    "\"symbol\":",
    "{",
    "}",
    ",",
    "!",
    "grün",
    "€",
    "日本語",
    "😀",
    "a",
    "subscribe",
    "\n",
];
