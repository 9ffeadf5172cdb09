//! What a message of a healthy tunnel says, so that whoever gets it knows whether one was lost, doubled,
//! overtaken or damaged: its tunnel, its number, and a hash of all of it.

use sluicegate_tests::websocket::Message;
use sluicegate_tests::websocket::random::Random;

/// `TUNNEL NUMBER HASH FILLING`, the first three with sixteen hexadecimal digits.
pub(crate) fn compose(tunnel: u64, number: u64, filling: &[u8]) -> Vec<u8> {
    let hash = hash(tunnel, number, filling);
    let mut said = format!("{tunnel:016x} {number:016x} {hash:016x} ").into_bytes();
    said.extend_from_slice(filling);
    said
}

/// The tunnel and number of an undamaged message.
pub(crate) fn parse(said: &[u8]) -> Option<(u64, u64)> {
    let (head, filling) = said.split_at_checked(3 * 17)?;
    let head = std::str::from_utf8(head).ok()?;
    let mut words = head.split(' ').map(|word| u64::from_str_radix(word, 16));
    let mut word = || words.next()?.ok();
    let (tunnel, number, found) = (word()?, word()?, word()?);
    (found == hash(tunnel, number, filling)).then_some((tunnel, number))
}

/// What must come next on one direction of a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    tunnel: Option<u64>,
    number: u64,
}

impl Expectation {
    /// How the message differs from what was expected, if it does.
    pub(crate) fn check(&mut self, message: &Message) -> Result<(), String> {
        let (tunnel, number) = parse(&message.data).ok_or("a message is damaged")?;
        let expected = (*self.tunnel.get_or_insert(tunnel), self.number);
        if (tunnel, number) != expected {
            return Err(format!(
                "message {number} of tunnel {tunnel} came where {} of {} was due",
                expected.1, expected.0
            ));
        }
        self.number += 1;
        Ok(())
    }
}

/// Mostly a little, at times more than any buffer on the way; text where asked for.
pub(crate) fn filling(random: &mut Random, text: bool, most: usize) -> Vec<u8> {
    let length = match random.below(20) {
        0 => 0,
        1 => random.between(1, most),
        2..6 => random.between(200, 2_000.min(most)),
        _ => random.between(1, 200.min(most)),
    };
    if text {
        // Repeats, so that compression has something to do.
        let word = format!("{:x} ", random.number());
        word.into_bytes().into_iter().cycle().take(length).collect()
    } else {
        random.bytes(length)
    }
}

/// FNV-1a over eight bytes at a time.
fn hash(tunnel: u64, number: u64, filling: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ tunnel;
    let mut take = |word: u64| hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    take(number);
    take(filling.len() as u64);
    for chunk in filling.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        take(u64::from_le_bytes(word));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: Vec<u8>) -> Message {
        Message {
            text: false,
            data,
            compressed: false,
            wire: Vec::new(),
        }
    }

    #[test]
    fn what_is_lost_doubled_overtaken_or_damaged_is_found() {
        let said = |number| compose(7, number, b"what is said");
        let mut damaged = said(1);
        *damaged.last_mut().unwrap() ^= 1;
        let mut cut = said(1);
        cut.pop();
        for (name, second, fits) in [
            ("the next", said(1), true),
            ("a later one", said(2), false),
            ("the same", said(0), false),
            ("of another tunnel", compose(8, 1, b""), false),
            ("damaged", damaged, false),
            ("cut", cut, false),
            ("empty", Vec::new(), false),
        ] {
            let mut due = Expectation::default();
            assert_eq!(due.check(&message(said(0))), Ok(()));
            assert_eq!(due.check(&message(second)).is_ok(), fits, "{name}");
        }
    }
}
