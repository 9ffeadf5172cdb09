//! The follower against tables, and against a decoder that sees the whole stream at once.

use proptest::prelude::*;

use super::*;
use crate::ws::{encode_close, encode_ping};

/// What a follower knows after a stream.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    messages: u64,
    close: Option<CloseCode>,
    violation: Option<Violation>,
    at_boundary: bool,
    in_message: bool,
}

fn follow<'a>(
    side: Side,
    rsv1_allowed: bool,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Seen, Follower) {
    let mut follower = Follower::new(side, rsv1_allowed);
    let mut violation = None;
    for chunk in chunks {
        if let Err(found) = follower.follow(chunk) {
            assert_eq!(violation.replace(found), None, "reported twice");
        }
    }
    let seen = Seen {
        messages: follower.messages(),
        close: follower.close(),
        violation,
        at_boundary: follower.at_boundary(),
        in_message: follower.in_message(),
    };
    (seen, follower)
}

/// A frame with its length in shortest form.
pub(in crate::ws) fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ ..126 => bytes.push(masked | len as u8),
        len @ 126..=0xffff => {
            bytes.push(masked | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(masked | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask = match mask {
        Some(mask) => {
            bytes.extend(mask);
            mask
        }
        None => [0; 4],
    };
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// The same facts from the whole stream, decoded frame by frame with slices.
fn decode_whole(side: Side, rsv1_allowed: bool, stream: &[u8]) -> Seen {
    let mut seen = Seen {
        messages: 0,
        close: None,
        violation: None,
        at_boundary: true,
        in_message: false,
    };
    let mut rest = stream;
    while !rest.is_empty() {
        seen.at_boundary = false;
        match decode_one(side, rsv1_allowed, seen.in_message, rest) {
            Ok(Some((opcode, fin, payload, used))) => {
                rest = &rest[used..];
                seen.at_boundary = true;
                match opcode {
                    8 => {
                        let code = payload.get(..2).map(|c| u16::from_be_bytes([c[0], c[1]]));
                        seen.close = Some(CloseCode(code.unwrap_or(1005)));
                        seen.at_boundary = false;
                        return seen;
                    }
                    9 | 10 => {}
                    _ => {
                        seen.in_message = !fin;
                        seen.messages += u64::from(fin);
                    }
                }
            }
            Ok(None) => return seen,
            Err(violation) => {
                seen.violation = Some(violation);
                return seen;
            }
        }
    }
    seen
}

type Decoded = (u8, bool, Vec<u8>, usize);

fn decode_one(
    side: Side,
    rsv1_allowed: bool,
    in_message: bool,
    bytes: &[u8],
) -> Result<Option<Decoded>, Violation> {
    let first = bytes[0];
    let (fin, opcode) = (first >= 0x80, first & 15);
    let rsv = first >> 4 & 7;
    if rsv != 0 && !(rsv == 4 && rsv1_allowed && (opcode == 1 || opcode == 2)) {
        return Err(Violation::ReservedBit);
    }
    if opcode == 0 && !in_message {
        return Err(Violation::ContinuationWithoutStart);
    }
    if (opcode == 1 || opcode == 2) && in_message {
        return Err(Violation::MessageInsideMessage);
    }
    if !matches!(opcode, 0..=2 | 8..=10) {
        return Err(Violation::ReservedOpcode);
    }
    if opcode >= 8 && !fin {
        return Err(Violation::ControlFragmented);
    }
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    let masked = second >= 0x80;
    match side {
        Side::FromClient if !masked => return Err(Violation::MaskMissing),
        Side::FromServer if masked => return Err(Violation::MaskUnexpected),
        _ => {}
    }
    let short = second & 127;
    if opcode >= 8 && short > 125 {
        return Err(Violation::ControlTooLong);
    }
    let (length, mut at) = match short {
        126 => match bytes.get(2..4) {
            Some(l) => (u64::from(u16::from_be_bytes(l.try_into().unwrap())), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(l) => (u64::from_be_bytes(l.try_into().unwrap()), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if (short == 126 && length < 126) || (short == 127 && length < 65536) {
        return Err(Violation::LengthNotMinimal);
    }
    if length >= 1 << 63 {
        return Err(Violation::LengthTooLarge);
    }
    if opcode == 8 && length == 1 {
        return Err(Violation::CloseTooShort);
    }
    let mut mask = [0; 4];
    if masked {
        match bytes.get(at..at + 4) {
            Some(m) => mask.copy_from_slice(m),
            None => return Ok(None),
        }
        at += 4;
    }
    let rest = &bytes[at..];
    if (rest.len() as u64) < length {
        return Ok(None);
    }
    let length = length as usize;
    let payload = rest[..length].iter().zip(mask.iter().cycle());
    let payload = payload.map(|(b, m)| b ^ m).collect();
    Ok(Some((opcode, fin, payload, at + length)))
}

#[test]
fn state_is_small() {
    assert!(size_of::<Follower>() <= 32, "{}", size_of::<Follower>());
}

#[test]
fn counts_messages_fragments_and_control_frames() {
    let mask = Some([9, 8, 7, 6]);
    let stream = [
        frame(0x81, b"hello", mask),
        frame(0x02, &[0; 200], mask),
        encode_ping(b"between fragments", mask).to_vec(),
        frame(0x00, b"", mask),
        frame(0x80, &vec![1; 70_000], mask),
        frame(0x8a, b"", mask),
        encode_close(CloseCode(4000), "done", mask).to_vec(),
        b"whatever follows a close".to_vec(),
    ]
    .concat();
    let (seen, follower) = follow(Side::FromClient, false, [&stream[..]]);
    assert_eq!(
        seen,
        Seen {
            messages: 2,
            close: Some(CloseCode(4000)),
            violation: None,
            at_boundary: false,
            in_message: false,
        }
    );
    assert!(!follower.is_lost());
}

#[test]
fn an_empty_close_has_no_status() {
    let (seen, _) = follow(Side::FromServer, false, [&[0x88, 0][..]]);
    assert_eq!(seen.close, Some(CloseCode::NO_STATUS));
}

#[test]
fn finds_the_boundary_inside_a_chunk() {
    let first = frame(0x01, b"abc", None);
    let chunk = [&first[..], &frame(0x80, b"def", None)[..]].concat();
    let mut follower = Follower::new(Side::FromServer, false);
    assert_eq!(follower.follow_frame(&chunk[..3]), Ok(3));
    assert!(!follower.at_boundary());
    assert_eq!(follower.follow_frame(&chunk[3..]), Ok(first.len() - 3));
    assert!(follower.at_boundary() && follower.in_message());
    assert_eq!(
        follower.follow_frame(&chunk[first.len()..]),
        Ok(chunk.len() - first.len())
    );
    assert!(follower.at_boundary() && !follower.in_message());
}

#[test]
fn every_violation_is_reported_once_and_ends_the_counting() {
    let check = |side, rsv1_allowed, bytes: &[u8], expect| {
        let good = match side {
            Side::FromClient => frame(0x81, b"ok", Some([1; 4])),
            Side::FromServer => frame(0x81, b"ok", None),
        };
        let stream = [&good[..], bytes, &good[..]].concat();
        let (seen, follower) = follow(side, rsv1_allowed, stream.chunks(1));
        assert_eq!(seen.violation, Some(expect), "{bytes:x?}");
        assert_eq!(seen.messages, 1, "{bytes:x?}");
        assert!(follower.is_lost() && !follower.at_boundary());
    };
    use Side::{FromClient, FromServer};
    check(FromServer, false, &[0xc1, 0], Violation::ReservedBit);
    check(FromServer, true, &[0xa1, 0], Violation::ReservedBit);
    check(FromServer, true, &[0x91, 0], Violation::ReservedBit);
    check(FromServer, true, &[0xc9, 0], Violation::ReservedBit);
    check(FromServer, false, &[0x83, 0], Violation::ReservedOpcode);
    check(FromServer, false, &[0x8f, 0], Violation::ReservedOpcode);
    check(FromClient, false, &[0x81, 0], Violation::MaskMissing);
    check(FromServer, false, &[0x81, 0x80], Violation::MaskUnexpected);
    check(FromServer, false, &[0x89, 126], Violation::ControlTooLong);
    check(FromServer, false, &[0x09, 0], Violation::ControlFragmented);
    check(FromServer, false, &[0x88, 1], Violation::CloseTooShort);
    check(
        FromServer,
        false,
        &[0x82, 126, 0, 125],
        Violation::LengthNotMinimal,
    );
    check(
        FromServer,
        false,
        &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        Violation::LengthNotMinimal,
    );
    check(
        FromServer,
        false,
        &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        Violation::LengthTooLarge,
    );
    check(
        FromServer,
        false,
        &[0x80, 0],
        Violation::ContinuationWithoutStart,
    );
    let inside = [frame(0x01, b"12345678", None), vec![0x81, 0]].concat();
    check(FromServer, false, &inside, Violation::MessageInsideMessage);
}

/// Mostly well-formed frames, with any first byte now and then.
fn any_stream(side: Side) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8a, 0xc1]),
        1 => Just(0x88_u8),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..20),
        2 => prop::collection::vec(any::<u8>(), 100..400),
    ];
    let one = (first, payload, any::<[u8; 4]>(), 0..40_u8).prop_map(move |(f, p, mask, odd)| {
        let masked = (side == Side::FromClient) ^ (odd == 0);
        frame(f, &p, masked.then_some(mask))
    });
    prop::collection::vec(one, 0..12).prop_map(|frames| frames.concat())
}

pub(in crate::ws) fn cut(stream: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut rest = stream;
    for cut in cuts {
        let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
        chunks.push(chunk.to_vec());
        rest = tail;
    }
    chunks.push(rest.to_vec());
    chunks
}

proptest! {
    #[test]
    fn any_chunking_agrees_with_the_whole_stream(
        (side, stream) in prop_oneof![
            any_stream(Side::FromClient).prop_map(|s| (Side::FromClient, s)),
            any_stream(Side::FromServer).prop_map(|s| (Side::FromServer, s)),
        ],
        rsv1_allowed in any::<bool>(),
        cuts in prop::collection::vec(0..30_usize, 0..40),
        lost_tail in 0..10_usize,
    ) {
        let stream = &stream[..stream.len().saturating_sub(lost_tail)];
        let expect = decode_whole(side, rsv1_allowed, stream);
        let chunks = cut(stream, &cuts);
        let (seen, _) = follow(side, rsv1_allowed, chunks.iter().map(Vec::as_slice));
        prop_assert_eq!(&seen, &expect);
    }

    #[test]
    fn noise_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(0..30_usize, 0..40),
    ) {
        for side in [Side::FromClient, Side::FromServer] {
            let chunks = cut(&noise, &cuts);
            let (seen, _) = follow(side, true, chunks.iter().map(Vec::as_slice));
            prop_assert_eq!(&seen, &decode_whole(side, true, &noise));
        }
    }

    #[test]
    fn our_own_frames_are_followed(
        code in any::<u16>(), reason in ".{0,200}", mask in any::<[u8; 4]>(),
    ) {
        let close = encode_close(CloseCode(code), &reason, Some(mask));
        let (seen, _) = follow(Side::FromClient, false, close.chunks(3));
        let expect = if CloseCode(code).may_be_sent() { code } else { 1005 };
        prop_assert_eq!(seen.close, Some(CloseCode(expect)));
        prop_assert_eq!(seen.violation, None);
    }
}
