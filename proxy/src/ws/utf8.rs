//! UTF-8 that comes in pieces (RFC 6455 §8.1, RFC 3629).
//!
//! A piece may end inside a character. Its begin is kept, at most three bytes, and checked at once: what
//! no further byte can mend is refused right there, as the strictest receivers do.

/// Text that has come so far is right, and what of a character has come already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8 {
    begun: [u8; 4],
    len: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("text is not UTF-8")]
pub struct InvalidUtf8;

impl Utf8 {
    /// Checks the next piece; after an error the text is wrong whatever follows.
    #[inline]
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.begun[usize::from(self.len)] = byte;
            self.len += 1;
            bytes = rest;
            match is_whole(&self.begun[..usize::from(self.len)]) {
                Ok(false) => {}
                verdict => {
                    self.len = 0;
                    verdict?;
                }
            }
        }
        let (text, begun) = bytes.split_at(bytes.len() - unfinished(bytes));
        simdutf8::basic::from_utf8(text).map_err(|_| InvalidUtf8)?;
        if !begun.is_empty() {
            is_whole(begun)?;
            self.begun[..begun.len()].copy_from_slice(begun);
            self.len = begun.len() as u8;
        }
        Ok(())
    }

    /// The text has ended: not inside a character. Ready for the next text.
    #[inline]
    pub fn finish(&mut self) -> Result<(), InvalidUtf8> {
        match std::mem::take(&mut self.len) {
            0 => Ok(()),
            _ => Err(InvalidUtf8),
        }
    }
}

/// Whether the bytes of one character are all there; wrong if they cannot become one.
fn is_whole(character: &[u8]) -> Result<bool, InvalidUtf8> {
    match std::str::from_utf8(character) {
        Ok(_) => Ok(true),
        Err(error) if error.error_len().is_none() => Ok(false),
        Err(_) => Err(InvalidUtf8),
    }
}

/// How many bytes at the end begin a character that goes on behind them.
#[inline]
fn unfinished(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let whole = match byte {
            ..0x80 => return 0,
            0x80..0xc0 => continue,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        };
        return if back + 1 < whole { back + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the text is right, fed in pieces of `size`, and the bytes that were taken before it was
    /// found wrong.
    fn check(bytes: &[u8], size: usize) -> (bool, usize) {
        let mut utf8 = Utf8::default();
        let mut taken = 0;
        for piece in bytes.chunks(size.max(1)) {
            if utf8.push(piece).is_err() {
                return (false, taken);
            }
            taken += piece.len();
        }
        (utf8.finish().is_ok(), taken)
    }

    #[test]
    fn what_cannot_be_mended_is_refused_at_its_byte() {
        let wrong: [(&[u8], usize); 12] = [
            (b"ok\x80", 2),
            (b"ok\xff", 2),
            (b"\xc0", 0),
            (b"\xc3(", 1),
            (b"\xe0\x80", 1),
            (b"\xe2\x82(", 2),
            (b"\xed\xa0", 1),
            (b"\xf0\x80", 1),
            (b"\xf0\x9f\x98(", 3),
            (b"\xf4\x90", 1),
            (b"\xf5", 0),
            (
                b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80",
                12,
            ),
        ];
        for (bytes, at) in wrong {
            assert_eq!(check(bytes, 1), (false, at), "{bytes:x?}");
            assert!(!check(bytes, 100).0, "{bytes:x?}");
        }
    }

    #[test]
    fn text_may_not_end_inside_a_character() {
        for bytes in [&b"\xc3"[..], b"\xe2\x82", b"\xf0\x9f\x98"] {
            let mut utf8 = Utf8::default();
            assert_eq!(utf8.push(bytes), Ok(()));
            assert_eq!(utf8.finish(), Err(InvalidUtf8), "{bytes:x?}");
            assert_eq!(utf8.push(b"next"), Ok(()), "ready for the next text");
            assert_eq!(utf8.finish(), Ok(()));
        }
    }

    /// Text with a byte changed now and then.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        (
            prop_oneof![".{0,80}", "[a-zé€😀\u{10ffff}]{0,80}"],
            any::<prop::sample::Index>(),
            prop::option::weighted(0.5, any::<u8>()),
        )
            .prop_map(|(text, at, change)| {
                let mut bytes = text.into_bytes();
                if let (Some(byte), false) = (change, bytes.is_empty()) {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            })
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_agree_with_the_whole(bytes in nearly_text(), size in 1..90_usize) {
            prop_assert_eq!(check(&bytes, size).0, std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn noise_is_judged_as_by_the_standard_library(
            bytes in prop::collection::vec(any::<u8>(), 0..12), size in 1..5_usize,
        ) {
            prop_assert_eq!(check(&bytes, size).0, std::str::from_utf8(&bytes).is_ok());
        }

        /// Byte by byte, a text is refused exactly where it stops being the begin of a right one.
        #[test]
        fn refused_at_the_earliest(bytes in nearly_text()) {
            let (_, taken) = check(&bytes, 1);
            let wrong_at = match std::str::from_utf8(&bytes) {
                Ok(_) => bytes.len(),
                Err(error) => match error.error_len() {
                    None => bytes.len(),
                    Some(len) => {
                        // The standard library reports the longest right begin of the character.
                        let at = error.valid_up_to();
                        at + (1..=len).take_while(|end| {
                            std::str::from_utf8(&bytes[at..at + end])
                                .is_err_and(|e| e.error_len().is_none())
                        }).count()
                    }
                },
            };
            prop_assert_eq!(taken, wrong_at);
        }
    }
}
