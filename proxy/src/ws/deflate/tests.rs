use std::thread;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;

use super::*;

mod reference;

use reference::Receiver;

const LIMIT: u64 = 1 << 20;

fn params(window_bits: u8, takeover: bool) -> Params {
    Params {
        window_bits,
        takeover,
    }
}

/// One message in one piece.
fn inflate(inflater: &mut Inflater, payload: &[u8]) -> Result<Vec<u8>, InflateError> {
    let mut plain = Vec::new();
    inflater.push(payload, &mut plain, LIMIT)?;
    inflater.finish()?;
    Ok(plain)
}

/// Does something on a thread that has no state of anybody, so that only windows are at hand.
fn elsewhere<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A message that holds much of what other ones do.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        &b"{\"type\":\"message\",\"room\":"[..],
        b"\"lobby\"",
        b",\"from\":\"ann\"}",
        b"0123456789",
        b" ",
        b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        b"\x00\xff\x7f",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat())
}

/// Text, noise, or much of either.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let noise = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        4 => text(),
        1 => noise(40),
        1 => noise(3000),
        1 => (text(), 1..60usize).prop_map(|(text, times)| text.repeat(times)),
        1 => (text(), noise(600), text()).prop_map(|(a, b, c)| [a, b, c].concat()),
    ]
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7692 §7.2.3.
    let cases: [(&[&[u8]], &str); 6] = [
        (&[&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]], "Hello"),
        (&[&[0xf2, 0x48, 0xcd], &[0xc9, 0xc9, 0x07, 0x00]], "Hello"),
        (
            &[&[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ]],
            "Hello",
        ),
        (
            &[&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]],
            "Hello",
        ),
        (
            &[&[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ]],
            "Hello",
        ),
        (&[&[0x00]], ""),
    ];
    for (pieces, expect) in cases {
        let mut inflater = Inflater::new(params(15, true));
        let mut plain = Vec::new();
        for piece in pieces {
            inflater.push(piece, &mut plain, LIMIT).unwrap();
        }
        inflater.finish().unwrap();
        assert_eq!(plain, expect.as_bytes());
    }
    // Two messages that share a window.
    let mut inflater = Inflater::new(params(15, true));
    for payload in [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
    ] {
        assert_eq!(inflate(&mut inflater, payload).unwrap(), b"Hello");
    }
    let mut deflater = Deflater::new(params(15, true), 6);
    let mut payload = Vec::new();
    assert!(!deflater.message(b"Hello", &mut payload), "not smaller");
    assert!(payload.is_empty());
}

#[test]
fn what_does_not_end_as_a_message_is_refused() {
    let invalid = |payload: &[u8]| {
        for takeover in [true, false] {
            let mut inflater = Inflater::new(params(15, takeover));
            assert_eq!(
                inflate(&mut inflater, payload),
                Err(InflateError::Invalid),
                "{payload:02x?}"
            );
            // And so is everything after it.
            assert_eq!(inflate(&mut inflater, &[0]), Err(InflateError::Invalid));
        }
    };
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for cut in 0..hello.len() {
        invalid(&hello[..cut]);
    }
    // A last block and nothing behind it, where the tail would begin another block.
    invalid(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    invalid(&[0x01, 0x00, 0x00, 0xff, 0xff]);
    // A kind of block that does not exist, wrong lengths, a match before the first byte.
    invalid(&[0x06]);
    invalid(&[0x00, 0x05, 0x00, 0xfa, 0xfe]);
    invalid(&[0xf2, 0x00, 0x11, 0x00, 0x00]);
    // The tail left on: behind it a block's head is missing.
    invalid(&[&hello[..], &TAIL].concat());
    // The tail would be data of a stored block.
    invalid(&[0x00, 0x04, 0x00, 0xfb, 0xff]);
}

/// A payload cut inside the tables of a block, to which the tail adds zeros that are two runs of absent
/// literals, and ones that are the rest of the tables and the block's end, a bit before its own.
#[test]
fn a_tail_that_passes_for_tables_is_no_end() {
    let mut bits: Vec<u8> = Vec::new();
    // From the lowest bit, but for codes, which come from the highest (RFC 1951 §3.1.1).
    let mut number = |value: u32, count: u32| {
        bits.extend((0..count).map(|place| (value >> place & 1) as u8));
    };
    // Not the last block, with tables: 257 literals, one distance, all 19 lengths of code lengths.
    number(0, 1);
    number(2, 2);
    number(0, 5);
    number(0, 5);
    number(15, 4);
    // 18 is `0`, 0 is six ones and a zero, 1 is seven ones.
    for length in [2, 3, 1, 7, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0] {
        number(length, 3);
    }
    // The first literal has one bit; then none for 138, 94 and one.
    number(0b111_1111, 7);
    number(0, 1);
    number(138 - 11, 7);
    number(0, 1);
    number(94 - 11, 7);
    number(0b011_1111, 7);
    assert_eq!(bits.len() % 8, 0);
    let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit);
    let payload: Vec<u8> = bits.chunks(8).map(byte).collect();

    // zlib takes it, and would go on with that bit.
    let mut theirs = zlib_rs::Inflate::new(false, 15);
    let whole = [&payload[..], &TAIL].concat();
    let inflated = theirs.decompress(&whole, &mut [0; 10], zlib_rs::InflateFlush::SyncFlush);
    assert_eq!(inflated, Ok(zlib_rs::Status::Ok));
    assert_eq!(
        (theirs.total_in(), theirs.total_out()),
        (whole.len() as u64, 0)
    );
    let mut inflater = Inflater::new(params(15, true));
    assert_eq!(inflate(&mut inflater, &payload), Err(InflateError::Invalid));
    assert_eq!(Receiver::new(15, true).message(&payload), None);
}

#[test]
fn a_last_block_ends_the_window() {
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let refers = [0xf2, 0x00, 0x11, 0x00, 0x00];
    for parked in [false, true] {
        let mut inflater = Inflater::new(params(15, true));
        assert_eq!(inflate(&mut inflater, &last).unwrap(), b"Hello");
        let next = match parked {
            false => inflate(&mut inflater, &refers),
            true => elsewhere(|| inflate(&mut inflater, &refers)),
        };
        assert_eq!(next, Err(InflateError::Invalid));
    }
}

#[test]
fn the_limit_is_exact() {
    let plain = b"much of the same ".repeat(5000);
    let size = plain.len() as u64;
    let mut payload = Vec::new();
    assert!(Deflater::new(params(15, false), 6).message(&plain, &mut payload));
    for chunk in [1, 7, 100, payload.len()] {
        for (limit, fits) in [
            (size, true),
            (size - 1, false),
            (0, false),
            (u64::MAX, true),
        ] {
            let mut inflater = Inflater::new(params(15, true));
            let mut out = Vec::new();
            let inflated = payload
                .chunks(chunk)
                .try_for_each(|chunk| inflater.push(chunk, &mut out, limit))
                .and_then(|()| inflater.finish());
            assert_eq!(inflated.is_ok(), fits, "{chunk} {limit}");
            if fits {
                assert!(out == plain);
            } else {
                assert_eq!(inflated, Err(InflateError::TooBig));
                assert!(out.len() as u64 <= limit);
            }
        }
    }
    // Each message has the limit for itself.
    let mut inflater = Inflater::new(params(15, true));
    for _ in 0..3 {
        let mut out = Vec::new();
        inflater.push(&payload, &mut out, size).unwrap();
        inflater.finish().unwrap();
    }
}

#[test]
fn what_would_not_get_smaller_leaves_the_context_as_it_was() {
    let mut deflater = Deflater::new(params(9, true), 6);
    let mut receiver = Receiver::new(9, true);
    let noise: Vec<u8> = (0..200u32)
        .map(|at| (at.wrapping_mul(at).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut payload = b"before".to_vec();
    for round in 0..4 {
        assert!(!deflater.message(&noise, &mut payload), "{round}");
        assert!(!deflater.message(b"tiny", &mut payload));
        assert_eq!(payload, b"before");
        let text = b"a message that is said over and over, as messages are";
        let mut payload = Vec::new();
        assert!(deflater.message(text, &mut payload));
        assert_eq!(receiver.message(&payload).unwrap().plain, text);
        assert_eq!(payload.len() < 10, round > 0, "the context was lost");
    }
    let mut deflater = Deflater::new(params(8, true), 6);
    assert!(!deflater.message(&[b'x'; 100], &mut payload));
}

#[test]
fn idle_contexts_are_small() {
    assert!(size_of::<Inflater>() <= 80, "{}", size_of::<Inflater>());
    assert!(size_of::<Deflater>() <= 64, "{}", size_of::<Deflater>());
    assert!(size_of::<Passage>() <= 12, "{}", size_of::<Passage>());
}

#[test]
fn contexts_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<(Inflater, Deflater, Passage)>();
}

#[test]
fn nothing_comes_behind_the_last_block_of_a_stream() {
    let last = [0x01, 0x01, 0x00, 0xfe, 0xff, b'a'];
    let next = [0x00, 0x01, 0x00, 0xfe, 0xff, b'x'];
    for (payload, fine) in [
        ([&last[..], &[0x00]].concat(), true),
        ([&next[..], &last, &[0x00]].concat(), true),
        ([&last[..], &next, &[0x00]].concat(), false),
    ] {
        let mut inflater = Inflater::new(params(15, true));
        let mut out = Vec::new();
        let inflated = inflater
            .push(&payload, &mut out, LIMIT)
            .and_then(|()| inflater.finish());
        assert_eq!(inflated.is_ok(), fine, "{payload:?}");
    }
}

proptest! {
    #[test]
    fn what_is_deflated_means_the_same_to_everybody(
        window_bits in 9u8..=15,
        takeover: bool,
        level in 1u8..=9,
        messages in prop::collection::vec((message(), any::<u8>(), any::<bool>()), 1..12),
        chunk in 1usize..300,
    ) {
        let params = params(window_bits, takeover);
        let mut deflater = Deflater::new(params, level);
        let mut inflater = Inflater::new(params);
        let mut receiver = Receiver::new(window_bits, takeover);
        let mut theirs = Decompress::new(false);
        for (plain, parked, forget) in messages {
            if forget && parked > 200 {
                deflater.forget();
            }
            let mut payload = vec![0xaa];
            let anyway = parked & 4 == 0;
            let mut deflate = || match anyway {
                true => deflater.recompress(&plain, &mut payload),
                false => deflater.message(&plain, &mut payload),
            };
            let compressed = if parked & 1 == 0 { deflate() } else { elsewhere(deflate) };
            prop_assert_eq!(payload.remove(0), 0xaa);
            if !compressed {
                prop_assert!(!anyway && payload.is_empty());
                continue;
            }
            prop_assert!(anyway || payload.len() < plain.len());

            let meant = receiver.message(&payload).expect("a strict receiver takes it");
            prop_assert!(meant.plain == plain);

            let mut out = Vec::new();
            let mut inflate = || {
                for piece in payload.chunks(chunk) {
                    inflater.push(piece, &mut out, plain.len() as u64)?;
                }
                inflater.finish()
            };
            let inflated = match parked & 2 {
                0 => inflate(),
                _ => elsewhere(inflate),
            };
            prop_assert_eq!(inflated, Ok(()));
            prop_assert!(out == plain);

            if !takeover {
                theirs.reset(false);
            }
            let mut out = Vec::with_capacity(plain.len() + 1);
            payload.extend_from_slice(&TAIL);
            theirs.decompress_vec(&payload, &mut out, FlushDecompress::Sync).unwrap();
            prop_assert!(out == plain);
        }
    }

    #[test]
    fn what_others_deflate_is_inflated(
        takeover: bool,
        level in 0u32..=9,
        messages in prop::collection::vec((message(), any::<bool>()), 1..12),
        chunk in 1usize..300,
    ) {
        let mut theirs = Compress::new(Compression::new(level), false);
        let mut inflater = Inflater::new(params(15, takeover));
        for (plain, parked) in messages {
            let mut payload = Vec::with_capacity(plain.len() * 2 + 100);
            theirs.compress_vec(&plain, &mut payload, FlushCompress::Sync).unwrap();
            prop_assert!(payload.ends_with(&TAIL));
            payload.truncate(payload.len() - TAIL.len());
            let mut out = Vec::new();
            let mut inflate = || {
                for piece in payload.chunks(chunk) {
                    inflater.scan(piece, plain.len() as u64, |piece| out.extend_from_slice(piece))?;
                }
                inflater.finish()
            };
            let inflated = if parked { elsewhere(inflate) } else { inflate() };
            prop_assert_eq!(inflated, Ok(()));
            prop_assert!(out == plain);
            if !takeover {
                theirs.reset();
            }
        }
    }

    /// Whatever is made of payloads, the same ones are refused as by the book, and the others mean the
    /// same, one after the other, whether the state was kept or only the window.
    #[test]
    fn broken_payloads_are_judged_by_the_book(
        takeover: bool,
        level in 1u8..=9,
        messages in prop::collection::vec(
            (message(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), any::<u8>()),
            1..6,
        ),
        chunk in 1usize..300,
    ) {
        let mut deflater = Deflater::new(params(15, takeover), level);
        let mut hot = Inflater::new(params(15, takeover));
        let mut parked = Inflater::new(params(15, takeover));
        let mut receiver = Receiver::new(15, takeover);
        for (plain, changes, cut) in messages {
            let mut payload = Vec::new();
            if !deflater.message(&plain, &mut payload) {
                payload = [&[0, plain.len() as u8, (plain.len() >> 8) as u8], &plain[..]].concat();
                payload.splice(3..3, [!payload[1], !payload[2]]);
                payload.push(0);
            }
            for (place, byte) in changes {
                *place.get_mut(&mut payload) ^= byte;
            }
            payload.truncate(payload.len() - usize::from(cut).saturating_sub(200).min(payload.len()));
            let expect = receiver.message(&payload).map(|meaning| meaning.plain);
            let judged = |inflater: &mut Inflater| {
                let mut out = Vec::new();
                payload
                    .chunks(chunk)
                    .try_for_each(|piece| inflater.push(piece, &mut out, LIMIT))
                    .and_then(|()| inflater.finish())
                    .is_ok()
                    .then_some(out)
            };
            prop_assert_eq!(&judged(&mut hot), &expect);
            prop_assert_eq!(&elsewhere(|| judged(&mut parked)), &expect);
            if expect.is_none() {
                break;
            }
        }
    }

    /// What a passage allows, a receiver with exactly its window can read.
    #[test]
    fn passed_messages_are_readable(
        sender in prop::option::of((9u8..=11, any::<bool>())),
        receiver in prop::option::of((9u8..=11, any::<bool>())),
        messages in prop::collection::vec((message(), 0u8..16), 1..40),
    ) {
        let [sender, receiver] =
            [sender, receiver].map(|leg| leg.map(|(bits, takeover)| params(bits, takeover)));
        let mut passage = Passage::new(sender, receiver);
        let mut theirs = sender.map(|params| Deflater::new(params, 6));
        let mut ours = receiver.map(|params| Deflater::new(params, 6));
        let mut reader = receiver.map(|params| Receiver::new(params.window_bits, params.takeover));
        let mut read = |payload: &[u8]| reader.as_mut().unwrap().message(payload).unwrap().plain;
        let together = match (sender, receiver) {
            (Some(sender), Some(receiver)) => {
                sender.window_bits <= receiver.window_bits
                    && (receiver.takeover || !sender.takeover)
            }
            _ => false,
        };
        // Bytes that went on unchanged since something did not.
        let mut same = u64::MAX;
        for (plain, fate) in messages {
            let mut sent = Vec::new();
            let compressed =
                theirs.as_mut().is_some_and(|theirs| theirs.message(&plain, &mut sent));
            let takes_over = sender.is_some_and(|sender| sender.takeover);
            // A sender may break its word and refer as far back as DEFLATE can.
            let window = 1 << 15;
            let expect = if compressed {
                together && (!takes_over || same >= window)
            } else {
                sender.is_some() || receiver.is_none()
            };
            prop_assert_eq!(passage.allows(compressed), expect);
            if fate > 0 && passage.allows(compressed) {
                if compressed {
                    prop_assert!(read(&sent) == plain);
                    if let Some(ours) = &mut ours {
                        ours.forget();
                    }
                    same = same.saturating_add(plain.len() as u64);
                }
                passage.passed(compressed, plain.len() as u64);
                continue;
            }
            // Dropped, changed, or only compressed anew.
            let (goes, changed) = match fate {
                0 => (None, true),
                1 => (Some([&plain[..], b" and more of it"].concat()), true),
                _ => (Some(plain), false),
            };
            let mut again = Vec::new();
            let anew = match (&goes, &mut ours) {
                (Some(plain), Some(ours)) if compressed && !changed => {
                    ours.recompress(plain, &mut again)
                }
                (Some(plain), Some(ours)) => ours.message(plain, &mut again),
                _ => false,
            };
            if anew {
                prop_assert!(&read(&again) == goes.as_ref().unwrap());
            }
            if compressed && anew && !changed {
                let len = goes.map_or(0, |plain| plain.len() as u64);
                passage.recompressed(len);
                same = same.saturating_add(len);
            } else if compressed || anew {
                passage.parted();
                same = 0;
            }
        }
    }
}
