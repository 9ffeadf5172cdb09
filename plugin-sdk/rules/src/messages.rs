//! What a message filter may answer to a message, a timer or nothing at all (RFC 6455).
//!
//! The host refuses a reaction that breaks a rule, as it refuses a plugin's own response: the call has
//! failed then. The SDK tells an author's unit test the same.

/// Messages of its own that one reaction may send.
pub const MAX_INJECTIONS: usize = 64;
/// The payload of a control frame, in bytes (section 5.5).
pub const MAX_CONTROL: usize = 125;
/// The reason of a Close: what its code leaves of a control frame's payload.
pub const MAX_REASON: usize = MAX_CONTROL - 2;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
}

/// What becomes of the message that was judged, as far as rules need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Forward,
    /// By a message of this kind and so many bytes.
    Replace(Kind, usize),
    Drop,
    /// With this code.
    Close(u16),
}

/// Why a reaction is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReactionError {
    #[error("a {by} in place of a {judged}")]
    Replacement { judged: Kind, by: Kind },
    #[error("a verdict on a message where there is none")]
    NothingJudged,
    #[error("a {kind} of {len} bytes; at most {MAX_CONTROL} are allowed")]
    Control { kind: Kind, len: usize },
    #[error("close code `{0}` may not be sent")]
    Code(u16),
    #[error("{0} messages of its own; at most {MAX_INJECTIONS} are allowed")]
    Injections(usize),
}

/// Judges a reaction to a message of this kind; `None`: to a timer. `injected` are kinds and sizes.
///
/// Data may take the place of data, a ping of a ping and a pong of a pong. A timer has no message to
/// replace or to drop.
///
/// # Errors
/// The first rule that it breaks.
pub fn reaction(
    judged: Option<Kind>,
    outcome: Outcome,
    injected: impl ExactSizeIterator<Item = (Kind, usize)>,
) -> Result<(), ReactionError> {
    match (outcome, judged) {
        (Outcome::Forward, _) => {}
        (Outcome::Close(code), _) if may_be_sent(code) => {}
        (Outcome::Close(code), _) => return Err(ReactionError::Code(code)),
        (_, None) => return Err(ReactionError::NothingJudged),
        (Outcome::Drop, Some(_)) => {}
        (Outcome::Replace(by, len), Some(judged)) => {
            if by != judged && (by.is_control() || judged.is_control()) {
                return Err(ReactionError::Replacement { judged, by });
            }
            size(by, len)?;
        }
    }
    if injected.len() > MAX_INJECTIONS {
        return Err(ReactionError::Injections(injected.len()));
    }
    for (kind, len) in injected {
        size(kind, len)?;
    }
    Ok(())
}

/// Whether an endpoint may put this code into a Close (section 7.4, and IANA's registry): 1004 and 1016 to
/// 2999 are reserved, 1005, 1006 and 1015 stand for what no frame says.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// As much of a reason as a Close has room for, in whole characters.
pub fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

impl Kind {
    /// A ping or a pong (section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Kind::Ping | Kind::Pong)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Text => "text",
            Kind::Binary => "binary",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
        })
    }
}

fn size(kind: Kind, len: usize) -> Result<(), ReactionError> {
    if kind.is_control() && len > MAX_CONTROL {
        Err(ReactionError::Control { kind, len })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reactions_are_judged() {
        #[track_caller]
        fn check(judged: Option<Kind>, outcome: Outcome, expect: &str) {
            let judgement = reaction(judged, outcome, [].into_iter());
            let said = judgement
                .err()
                .map_or(String::new(), |error| error.to_string());
            assert_eq!(said, expect);
        }
        use Kind::{Binary, Ping, Pong, Text};
        use Outcome::{Close, Drop, Forward, Replace};
        for kind in [Text, Binary, Ping, Pong] {
            check(Some(kind), Forward, "");
            check(Some(kind), Drop, "");
            check(Some(kind), Replace(kind, 125), "");
        }
        check(Some(Text), Replace(Binary, 1 << 20), "");
        check(Some(Binary), Replace(Text, 0), "");
        check(Some(Text), Replace(Ping, 0), "a ping in place of a text");
        check(Some(Ping), Replace(Pong, 0), "a pong in place of a ping");
        check(
            Some(Pong),
            Replace(Binary, 0),
            "a binary in place of a pong",
        );
        let large = "a ping of 126 bytes; at most 125 are allowed";
        check(Some(Ping), Replace(Ping, 126), large);
        check(None, Forward, "");
        check(None, Close(1001), "");
        let nothing = "a verdict on a message where there is none";
        check(None, Drop, nothing);
        check(None, Replace(Text, 0), nothing);
        check(Some(Text), Close(1005), "close code `1005` may not be sent");
    }

    #[test]
    fn injections_are_few_and_controls_short() {
        let many = |count| {
            reaction(
                None,
                Outcome::Forward,
                vec![(Kind::Text, 9); count].into_iter(),
            )
        };
        assert_eq!(many(64), Ok(()));
        assert_eq!(many(65), Err(ReactionError::Injections(65)));
        let long = reaction(
            Some(Kind::Text),
            Outcome::Forward,
            [(Kind::Pong, 125), (Kind::Pong, 126)].into_iter(),
        );
        let error = ReactionError::Control {
            kind: Kind::Pong,
            len: 126,
        };
        assert_eq!(long, Err(error));
    }

    #[test]
    fn codes_that_may_be_sent() {
        let may: Vec<u16> = (0..=u16::MAX).filter(|code| may_be_sent(*code)).collect();
        let expect = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
        assert_eq!(may, expect.collect::<Vec<_>>());
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        assert_eq!(cut_reason("bye"), "bye");
        assert_eq!(cut_reason(&"a".repeat(124)), "a".repeat(123));
        assert_eq!(cut_reason(&"é".repeat(62)), "é".repeat(61));
    }
}
