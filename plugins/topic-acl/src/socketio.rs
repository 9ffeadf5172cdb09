//! Packets of socket.io (protocol 5) over engine.io (protocol 4): `42/chat,17["say",{…}]`.
//!
//! Only what a client says in an event is judged; connects, acknowledgements and engine.io's own packets pass,
//! but for those of a namespace that is not open. The attachments of a binary event come behind it, as
//! binary messages of their own: those of one that was refused are dropped with it.

/// A text message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Nothing in it to judge.
    Other { namespace: &'a str },
    Event {
        namespace: &'a str,
        /// Binary messages that belong to it.
        attachments: u32,
        /// The acknowledgement that the client waits for.
        ack: Option<&'a str>,
        /// A list: the event's name and its arguments.
        json: &'a str,
    },
}

/// `None`: it is no packet.
pub(crate) fn parse(text: &str) -> Option<Packet<'_>> {
    let root = Packet::Other { namespace: "/" };
    let mut rest = match text.as_bytes().first()? {
        b'4' => &text[1..],
        b'0'..=b'6' => return Some(root),
        _ => return None,
    };
    let kind = *rest.as_bytes().first()?;
    if !kind.is_ascii_digit() || kind > b'6' {
        return None;
    }
    rest = &rest[1..];
    let mut attachments = 0;
    if matches!(kind, b'5' | b'6') {
        let (count, after) = rest.split_once('-')?;
        attachments = number(count).filter(|count| *count <= MAX_ATTACHMENTS)?;
        rest = after;
    }
    let mut namespace = "/";
    if rest.starts_with('/') {
        let (name, after) = rest.split_once(',').unwrap_or((rest, ""));
        // Old clients put a query behind it.
        namespace = name.split_once('?').map_or(name, |(name, _)| name);
        rest = after;
    }
    if !matches!(kind, b'2' | b'5') {
        return Some(Packet::Other { namespace });
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (ack, json) = rest.split_at(digits);
    Some(Packet::Event {
        namespace,
        attachments,
        ack: (!ack.is_empty()).then_some(ack),
        json,
    })
}

/// Digits only: `parse` takes a sign as well.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Of one event.
const MAX_ATTACHMENTS: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        let event = |namespace, attachments, ack, json| {
            Some(Packet::Event {
                namespace,
                attachments,
                ack,
                json,
            })
        };
        let other = |namespace| Some(Packet::Other { namespace });
        for (text, expect) in [
            (r#"42["say"]"#, event("/", 0, None, r#"["say"]"#)),
            (r#"4217["say"]"#, event("/", 0, Some("17"), r#"["say"]"#)),
            (
                r#"42/a,17["say"]"#,
                event("/a", 0, Some("17"), r#"["say"]"#),
            ),
            (r#"42/a?t=1,["say"]"#, event("/a", 0, None, r#"["say"]"#)),
            (r#"452-/a,["say"]"#, event("/a", 2, None, r#"["say"]"#)),
            (r#"451-["say"]"#, event("/", 1, None, r#"["say"]"#)),
            ("42", event("/", 0, None, "")),
            ("40", other("/")),
            (r#"40/admin,{"token":"x"}"#, other("/admin")),
            ("40/admin", other("/admin")),
            ("431[]", other("/")),
            ("461-1[]", other("/")),
            ("2", other("/")),
            ("2probe", other("/")),
            ("3", other("/")),
            ("", None),
            ("4", None),
            ("47", None),
            ("4x", None),
            ("7", None),
            ("hello", None),
            ("45[]", None),
            ("45+1-[]", None),
            ("4599999-[]", None),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
    }
}
