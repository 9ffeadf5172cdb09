//! Byte classes and short words: what the inspector needs to look at a head without keeping it.

/// A word to compare: the first bytes of a name or value, and whether there were more.
#[derive(Debug, Default)]
pub(super) struct Word {
    bytes: [u8; WORD_LENGTH],
    length: usize,
    too_long: bool,
    /// Blanks not yet known to be inside the value.
    blanks: bool,
}

impl Word {
    pub(super) fn clear(&mut self) {
        *self = Word::default();
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(WORD_LENGTH - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        self.too_long |= taken < bytes.len();
    }

    /// Appends without the blanks around the value; any inside make it equal to no word.
    pub(super) fn push_value(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b' ' | b'\t') {
                self.blanks |= self.length > 0;
            } else {
                self.too_long |= self.blanks;
                self.push(std::slice::from_ref(byte));
            }
        }
    }

    fn get(&self) -> Option<&[u8]> {
        (!self.too_long).then(|| &self.bytes[..self.length])
    }

    pub(super) fn is(&self, word: &[u8]) -> bool {
        self.get() == Some(word)
    }

    pub(super) fn is_ignoring_case(&self, word: &[u8]) -> bool {
        self.get().is_some_and(|own| own.eq_ignore_ascii_case(word))
    }

    /// 1*DIGIT within `CONTENT_LENGTH_DIGITS`, which always fits.
    pub(super) fn decimal(&self) -> Option<u64> {
        let digits = self.get()?;
        if digits.is_empty() || digits.len() > CONTENT_LENGTH_DIGITS {
            return None;
        }
        digits.iter().try_fold(0_u64, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + u64::from(digit - b'0'))
        })
    }
}

/// How many of the first bytes belong to the class.
pub(super) fn run(bytes: &[u8], class: &[bool; 256]) -> usize {
    bytes
        .iter()
        .position(|byte| !class[usize::from(*byte)])
        .unwrap_or(bytes.len())
}

/// Byte classes, as constant tables: one load per byte in the hot loops.
#[derive(Clone, Copy)]
enum Class {
    /// RFC 9110 §5.6.2
    Token,
    /// RFC 9110 §5.5, with obs-text.
    Text,
    /// Visible ASCII but the fragment's mark, which is never sent (RFC 9112 §3.2).
    Target,
}

impl Class {
    const fn holds(self, byte: u8) -> bool {
        match self {
            Class::Token => {
                byte.is_ascii_alphanumeric()
                    || matches!(
                        byte,
                        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
                    )
                    || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~')
            }
            Class::Text => matches!(byte, b'\t' | 0x20..=0x7e | 0x80..=0xff),
            Class::Target => byte.is_ascii_graphic() && byte != b'#',
        }
    }

    const fn table(self) -> [bool; 256] {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        loop {
            table[byte as usize] = self.holds(byte);
            if byte == u8::MAX {
                return table;
            }
            byte += 1;
        }
    }
}

pub(super) static TOKEN: [bool; 256] = Class::Token.table();
pub(super) static TEXT: [bool; 256] = Class::Text.table();
pub(super) static TARGET: [bool; 256] = Class::Target.table();

/// Holds `transfer-encoding`, a content length and every value compared here.
const WORD_LENGTH: usize = 24;
/// 10^19 - 1 fits 64 bits.
const CONTENT_LENGTH_DIGITS: usize = 19;
