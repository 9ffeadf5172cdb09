//! What is fuzzed: ordinary functions of any bytes, which panic if the proxy contradicts itself.
//!
//! The first bytes choose sides, limits and cuts; what follows is what the other end might send. The seeds in
//! `seeds/` are replayed through the same functions by the proxy's own tests.

#[path = "bodies/answers.rs"]
mod answers;
#[path = "bodies/codec.rs"]
mod codec;
#[path = "bodies/configuration.rs"]
mod configuration;
#[path = "bodies/forwarded.rs"]
mod forwarded;
#[path = "bodies/frames.rs"]
mod frames;
#[path = "bodies/http2.rs"]
mod http2;
#[path = "bodies/http2_answers.rs"]
mod http2_answers;
#[path = "bodies/requests.rs"]
mod requests;
#[path = "bodies/site.rs"]
mod site;
#[path = "bodies/strict.rs"]
mod strict;
#[path = "bodies/target.rs"]
mod target;
#[path = "bodies/wire.rs"]
mod wire;

/// A function that takes any bytes, and inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    /// See [`seeds`].
    pub seeds: &'static str,
}

macro_rules! target {
    ($name:literal, $body:expr) => {
        Target {
            name: $name,
            body: $body,
            seeds: include_str!(concat!("../seeds/", $name, ".txt")),
        }
    };
}
/// All there are.
pub static TARGETS: [Target; 12] = [
    target!("head", codec::head),
    target!("follower", codec::follower),
    target!("reader", codec::reader),
    target!("deflate", codec::deflate),
    target!("request", requests::requests),
    target!("answer", answers::answer),
    target!("chunked", chunked),
    target!("http2", http2::http2),
    target!("http2-answer", http2_answers::http2_answer),
    target!("target", target::targets),
    target!("forwarded", forwarded::forwarded),
    target!("config", configuration::configuration),
];

/// A chunked body, of a request or an answer.
fn chunked(data: &[u8]) {
    match data {
        [options, piece, body @ ..] if options & 1 != 0 => requests::chunked(*piece, body),
        [_, piece, body @ ..] => answers::chunked(*piece, body),
        _ => {}
    }
}

/// The seeds in a file, one to a line: hexadecimal digits, text in quotes with the escapes `\r \n \t \\ \"`, and
/// comments behind `#`.
pub fn seeds(text: &str) -> impl Iterator<Item = Vec<u8>> {
    let seeds = text.lines().map(|line| (line, seed(line)));
    seeds
        .filter(|(line, seed)| !seed.is_empty() || line.contains("\"\""))
        .map(|(_, seed)| seed)
}

fn seed(line: &str) -> Vec<u8> {
    let mut seed = Vec::new();
    let mut chars = line.chars();
    while let Some(first) = chars.next() {
        match first {
            '#' => break,
            '"' => {
                while let Some(char) = chars.next() {
                    let char = match char {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('r') => '\r',
                            Some('n') => '\n',
                            Some('t') => '\t',
                            Some(char @ ('\\' | '"')) => char,
                            other => panic!("an unknown escape {other:?} in {line}"),
                        },
                        char => char,
                    };
                    seed.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            ' ' => {}
            high => {
                let digits =
                    [Some(high), chars.next()].map(|digit| digit.and_then(|d| d.to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    panic!("no hexadecimal digits in {line}");
                };
                seed.push((high << 4 | low) as u8);
            }
        }
    }
    seed
}
