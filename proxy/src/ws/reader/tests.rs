//! The reader against tables of right and wrong streams.

mod any_stream;

use super::*;
use crate::ws::deflate::{Deflater, Params};
use crate::ws::frame::tests::frame;
use crate::ws::{encode_close, encode_compressed, encode_message, encode_ping};

const KEY: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// An event with what it borrowed; the pieces of a message that is passed put together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(Message),
    Passing(Vec<u8>),
    Passed(Vec<u8>, Passed),
    Control(Control),
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    seen: Vec<Seen>,
    fault: Option<Fault>,
}

fn rules(side: Side) -> Rules {
    Rules {
        side,
        deflate: None,
        max_message: u64::MAX,
        max_frames: u32::MAX,
        inspect: false,
    }
}

fn deflated(takeover: bool) -> Option<Params> {
    Some(Params {
        window_bits: 12,
        takeover,
    })
}

/// Reads chunks to the end and checks what must hold at every step.
fn read_on(
    reader: &mut Reader,
    chunks: &[impl AsRef<[u8]>],
    mut want: impl FnMut(&Begin) -> Want,
) -> Outcome {
    let mut outcome = Outcome {
        seen: Vec::new(),
        fault: None,
    };
    for chunk in chunks {
        let mut bytes = chunk.as_ref();
        loop {
            match reader.read(&mut bytes, &mut want) {
                Ok(None) => break,
                Ok(Some(event)) => note(&mut outcome.seen, event),
                Err(fault) => assert_eq!(outcome.fault.replace(fault), None, "a second fault"),
            }
        }
        assert!(bytes.is_empty(), "bytes are left though more is asked for");
    }
    outcome
}

fn note(seen: &mut Vec<Seen>, event: Event<'_>) {
    let (wire, ends) = match event {
        Event::Message(message) => return seen.push(Seen::Message(message)),
        Event::Control(control) => return seen.push(Seen::Control(control)),
        Event::Passed { wire, ends } => (wire, ends),
    };
    assert!(!wire.is_empty(), "an event without bytes");
    let mut all = match seen.pop() {
        Some(Seen::Passing(before)) => before,
        before => {
            seen.extend(before);
            Vec::new()
        }
    };
    all.extend_from_slice(&wire);
    seen.push(match ends {
        Some(passed) => Seen::Passed(all, passed),
        None => Seen::Passing(all),
    });
}

fn read(rules: Rules, chunks: &[impl AsRef<[u8]>], want: Want) -> (Outcome, Reader) {
    let mut reader = Reader::new(rules);
    let outcome = read_on(&mut reader, chunks, |_| want);
    (outcome, reader)
}

fn bytes(chunk: &[u8]) -> Vec<Vec<u8>> {
    chunk.iter().map(|byte| vec![*byte]).collect()
}

fn whole(message: &Seen) -> &Message {
    match message {
        Seen::Message(message) => message,
        other => panic!("not a whole message: {other:?}"),
    }
}

fn control(control: &Seen) -> &Control {
    match control {
        Seen::Control(control) => control,
        other => panic!("not a control frame: {other:?}"),
    }
}

#[test]
fn a_reader_is_small_and_holds_nothing_between_messages() {
    assert!(size_of::<Reader>() <= 192, "{}", size_of::<Reader>());
    let stream = [
        frame(0x01, &[b'a'; 100], KEY),
        encode_ping(b"between", KEY).to_vec(),
        frame(0x80, &[b'b'; 100], KEY),
    ]
    .concat();
    let (outcome, reader) = read(rules(Side::FromClient), &bytes(&stream), Want::Whole);
    assert_eq!(outcome.seen.len(), 2);
    assert!(reader.is_idle() && reader.at_boundary() && !reader.in_message());
    assert!(reader.collected.is_none() && reader.inflater.is_none());
    assert_eq!(reader.control.capacity(), 0);
}

#[test]
fn a_fragmented_message_comes_whole_behind_its_control_frames() {
    let fragments = [
        frame(0x01, "gr".as_bytes(), KEY),
        frame(0x00, b"", Some([0; 4])),
        frame(0x00, &"ü".as_bytes()[..1], Some([9, 8, 7, 6])),
        frame(0x80, &[&"ü".as_bytes()[1..], b"n"].concat(), KEY),
    ];
    let ping = encode_ping(b"now", KEY);
    let stream = [&fragments[0], &ping[..], &fragments[1..].concat()].concat();
    for chunks in [vec![stream.clone()], bytes(&stream)] {
        let (outcome, reader) = read(rules(Side::FromClient), &chunks, Want::Whole);
        assert_eq!(outcome.fault, None);
        let [ping_seen, message] = &outcome.seen[..] else {
            panic!("{outcome:?}");
        };
        assert_eq!(control(ping_seen).kind, ControlKind::Ping);
        assert_eq!(control(ping_seen).payload(), b"now");
        assert_eq!(control(ping_seen).wire()[..], ping[..]);
        let message = whole(message);
        assert_eq!(message.kind, DataKind::Text);
        assert_eq!(message.plain(), "grün".as_bytes());
        assert_eq!((message.frames(), message.wire_payload()), (4, 5));
        let mut wire = b"before ".to_vec();
        message.append_wire(&mut wire);
        assert_eq!(wire, [b"before ", &fragments.concat()[..]].concat());
        assert_eq!(message.clone().into_plain(), "grün".as_bytes());
        assert_eq!(reader.messages(), 1);
    }
}

#[test]
fn what_is_passed_on_leaves_as_it_came_and_says_where_it_stands() {
    let first = frame(0x02, &[1; 300], KEY);
    let pong = frame(0x8a, b"", KEY);
    let last = frame(0x80, &[2; 10], KEY);
    let mut reader = Reader::new(rules(Side::FromClient));
    let mut step = |chunk: &[u8]| {
        let mut rest = chunk;
        let mut begins = 0;
        let mut seen = Vec::new();
        while let Some(event) = reader
            .read(&mut rest, |begin| {
                assert_eq!((begin.frame_len, begin.fin), (300, false));
                begins += 1;
                Want::Pass
            })
            .unwrap()
        {
            seen.push(match event {
                Event::Passed { wire, ends } => (wire.to_vec(), ends.is_some()),
                Event::Control(control) => (control.wire().to_vec(), false),
                Event::Message(_) => panic!("not wanted"),
            });
        }
        let places = (
            reader.at_boundary(),
            reader.in_message(),
            reader.is_passing(),
        );
        (seen, begins, places)
    };
    // A head that is not all there yet stays back.
    assert_eq!(step(&first[..5]), (vec![], 0, (true, false, false)));
    // Then it comes on its own, and the payload behind it.
    let expect = vec![(first[..8].to_vec(), false), (first[8..20].to_vec(), false)];
    assert_eq!(step(&first[5..20]), (expect, 1, (false, true, true)));
    let rest = [&first[20..], &pong, &last[..1]].concat();
    let expect = vec![(first[20..].to_vec(), false), (pong, false)];
    assert_eq!(step(&rest), (expect, 0, (true, true, true)));
    let expect = vec![(last[..6].to_vec(), false), (last[6..].to_vec(), true)];
    assert_eq!(step(&last[1..]), (expect, 0, (true, false, false)));
}

#[test]
fn every_violation_has_its_close_code() {
    let check = |rules: Rules, stream: &[u8], fault: Fault, code: u16| {
        assert_eq!(fault.close_code(), CloseCode(code), "{fault}");
        for want in [Want::Whole, Want::Pass] {
            for chunks in [vec![stream.to_vec()], bytes(stream)] {
                let (outcome, mut reader) = read(rules, &chunks, want);
                assert_eq!(outcome.fault, Some(fault), "{want:?} {stream:x?}");
                assert!(reader.is_over() && reader.close().is_none());
                // A lost reader ignores everything.
                let after = read_on(&mut reader, &[frame(0x81, b"more", KEY)], |_| want);
                assert_eq!((after.seen, after.fault), (vec![], None));
            }
        }
    };
    let client = rules(Side::FromClient);
    let server = rules(Side::FromServer);
    let inspecting = Rules {
        inspect: true,
        ..server
    };
    let compressing = Rules {
        deflate: deflated(true),
        ..inspecting
    };
    let inside = |bytes: &[u8]| [&frame(0x01, b"begun", None)[..], bytes].concat();

    use Violation as V;
    check(server, &[0xc1, 0], V::ReservedBit.into(), 1002);
    check(server, &[0x91], V::ReservedBit.into(), 1002);
    check(server, &[0xa1], V::ReservedBit.into(), 1002);
    check(compressing, &[0xc9], V::ReservedBit.into(), 1002);
    check(compressing, &inside(&[0xc0]), V::ReservedBit.into(), 1002);
    for reserved in [0x83, 0x87, 0x8b, 0x8f] {
        check(server, &[reserved], V::ReservedOpcode.into(), 1002);
    }
    check(client, &[0x81, 0x00], V::MaskMissing.into(), 1002);
    check(server, &[0x81, 0x80], V::MaskUnexpected.into(), 1002);
    check(server, &[0x89, 126], V::ControlTooLong.into(), 1002);
    check(server, &[0x08], V::ControlFragmented.into(), 1002);
    check(server, &[0x09], V::ControlFragmented.into(), 1002);
    check(
        server,
        &[0x82, 126, 0, 125],
        V::LengthNotMinimal.into(),
        1002,
    );
    check(
        server,
        &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
        V::LengthNotMinimal.into(),
        1002,
    );
    check(
        server,
        &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        V::LengthTooLarge.into(),
        1002,
    );
    check(server, &[0x80], V::ContinuationWithoutStart.into(), 1002);
    check(
        server,
        &inside(&[0x81]),
        V::MessageInsideMessage.into(),
        1002,
    );
    check(server, &[0x88, 1], V::CloseTooShort.into(), 1002);

    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535_u16] {
        let close = frame(0x88, &code.to_be_bytes(), None);
        check(server, &close, Fault::CloseCode(CloseCode(code)), 1002);
    }
    let close = frame(0x88, b"\x03\xe8caf\xc3", None);
    check(server, &close, Fault::CloseReason, 1007);

    let text = frame(0x81, b"ok \xff", None);
    check(inspecting, &text, Fault::Text, 1007);
    let text = frame(0x81, b"ends inside \xc3", None);
    check(inspecting, &text, Fault::Text, 1007);
    let text = [frame(0x01, b"\xe2\x82", None), frame(0x80, b"", None)].concat();
    check(inspecting, &text, Fault::Text, 1007);
    let text = [frame(0x01, b"\xf4", None), frame(0x00, b"\x90", None)].concat();
    check(inspecting, &text, Fault::Text, 1007);

    let bad = frame(0xc1, b"\x07\xff\xff", None);
    check(compressing, &bad, Fault::Deflate, 1007);
    let empty = frame(0xc2, b"", None);
    check(compressing, &empty, Fault::Deflate, 1007);
    let mut latin = Vec::new();
    assert!(Deflater::new(deflated(true).unwrap(), 6).message(&[0xe9; 100], &mut latin));
    check(compressing, &frame(0xc1, &latin, None), Fault::Text, 1007);
}

#[test]
fn without_inspection_only_heads_are_looked_at() {
    let stream = [
        frame(0x81, b"\xff", KEY),
        frame(0xc1, b"not deflate", KEY),
        frame(0x82, b"x", KEY),
    ]
    .concat();
    let rules = Rules {
        deflate: deflated(false),
        ..rules(Side::FromClient)
    };
    let (outcome, _) = read(rules, &[stream], Want::Pass);
    let sizes: Vec<_> = outcome
        .seen
        .iter()
        .map(|seen| match seen {
            Seen::Passed(_, passed) => (passed.compressed, passed.wire, passed.size),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes, [(false, 1, 1), (true, 11, 11), (false, 1, 1)]);
}

#[test]
fn a_message_over_the_limit_ends_at_the_head_that_passes_it() {
    let limited = |max_message| Rules {
        max_message,
        ..rules(Side::FromServer)
    };
    let fragments = [
        frame(0x02, &[0; 60], None),
        frame(0x00, &[0; 40], None),
        frame(0x80, &[0; 1], None),
    ]
    .concat();
    for want in [Want::Whole, Want::Pass] {
        let (outcome, _) = read(limited(101), &[&fragments], want);
        assert_eq!(outcome.fault, None);
        // The head alone, without a byte of what it announces.
        let (outcome, _) = read(limited(100), &[&fragments[..fragments.len() - 1]], want);
        assert_eq!(outcome.fault, Some(Fault::TooBig(100)));
        assert_eq!(outcome.fault.unwrap().close_code(), CloseCode::TOO_BIG);
        let huge = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
        let (outcome, _) = read(limited(1 << 62), &[&huge], want);
        assert_eq!(outcome.fault, Some(Fault::TooBig(1 << 62)));
    }
}

#[test]
fn nothing_is_reserved_on_the_word_of_a_head() {
    let huge = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
    let mut reader = Reader::new(rules(Side::FromServer));
    for chunk in [&huge[..], b"0123456789", b"0123456789"] {
        assert_eq!(
            read_on(&mut reader, &[chunk], |_| Want::Whole).seen,
            vec![],
            "never part of a message"
        );
    }
    let message = reader.collected.as_ref().unwrap();
    assert_eq!(message.payload.len(), 20);
    assert!(message.payload.capacity() < 100);
}

#[test]
fn fragments_without_end_are_stopped() {
    let rules = Rules {
        max_frames: 1000,
        ..rules(Side::FromServer)
    };
    for want in [Want::Whole, Want::Pass] {
        let mut reader = Reader::new(rules);
        let first = read_on(&mut reader, &[frame(0x01, b"", None)], |_| want);
        assert_eq!(first.fault, None);
        let more = read_on(&mut reader, &[[0, 0].repeat(999)], |_| want);
        assert_eq!(more.fault, None);
        let last = read_on(&mut reader, &[[0, 0]], |_| want);
        assert_eq!(last.fault, Some(Fault::TooManyFrames(1000)));
        assert_eq!(last.fault.unwrap().close_code(), CloseCode::POLICY);
        assert!(reader.collected.is_none(), "what had come is given back");
    }
}

#[test]
fn a_flood_of_pings_leaves_nothing_behind() {
    let ping = encode_ping(&[7; 125], KEY);
    let mut reader = Reader::new(rules(Side::FromClient));
    for _ in 0..10_000 {
        let seen = read_on(&mut reader, &[&ping[..50], &ping[50..]], |_| Want::Whole).seen;
        assert_eq!(seen.len(), 1);
    }
    assert!(reader.is_idle() && reader.control.capacity() == 0);
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let mut bomb = Vec::new();
    assert!(Deflater::new(deflated(true).unwrap(), 9).message(&vec![0; 4 << 20], &mut bomb));
    let stream = frame(0xc2, &bomb, KEY);
    for inspect in [false, true] {
        let want = if inspect { Want::Pass } else { Want::Whole };
        let rules = |max_message| Rules {
            deflate: deflated(true),
            max_message,
            inspect,
            ..rules(Side::FromClient)
        };
        let (outcome, _) = read(rules(4 << 20), &[&stream], want);
        assert_eq!(outcome.fault, None);
        let (outcome, reader) = read(rules((4 << 20) - 1), &[&stream], want);
        assert_eq!(outcome.fault, Some(Fault::TooBig((4 << 20) - 1)));
        assert!(reader.at_boundary(), "not a byte of it was handed out");
        // One that takes too much even before it is inflated: blocks that say nothing.
        let nothing = [0, 0, 0, 0xff, 0xff].repeat(1000);
        let (outcome, _) = read(rules(100), &[frame(0xc2, &nothing, KEY)], want);
        assert_eq!(outcome.fault, Some(Fault::TooBig(100)));
    }
}

#[test]
fn data_that_does_not_shrink_is_not_too_big() {
    // Stored blocks of one byte each: the worst that a careless sender makes of its bytes.
    let mut noise = Vec::new();
    for byte in 0..50 {
        noise.extend([0, 1, 0, 0xfe, 0xff, byte]);
    }
    noise.push(0);
    let rules = Rules {
        deflate: deflated(true),
        max_message: 50,
        ..rules(Side::FromServer)
    };
    let (outcome, _) = read(rules, &[frame(0xc2, &noise, None)], Want::Whole);
    assert_eq!(outcome.fault, None);
    assert_eq!(
        whole(&outcome.seen[0]).plain(),
        (0..50).collect::<Vec<u8>>()
    );
}

#[test]
fn compressed_messages_share_a_context_whether_passed_or_collected() {
    let params = deflated(true).unwrap();
    let mut deflater = Deflater::new(params, 6);
    let texts = [1, 2, 3].map(|tick| format!("tick {tick}: tock tock tock tock tock"));
    let frames: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| {
            let (mut deflated, mut frame) = (Vec::new(), Vec::new());
            assert!(deflater.message(text.as_bytes(), &mut deflated));
            encode_compressed(DataKind::Text, &deflated, KEY, &mut frame);
            frame
        })
        .collect();
    let rules = |inspect| Rules {
        deflate: Some(params),
        inspect,
        ..rules(Side::FromClient)
    };
    let wants = [Want::Whole, Want::Pass, Want::Whole];
    let mut reader = Reader::new(rules(true));
    for ((frame, want), text) in frames.iter().zip(wants).zip(&texts) {
        let seen = read_on(&mut reader, &bytes(frame), |_| want).seen;
        match &seen[..] {
            [Seen::Message(message)] => {
                assert!(message.compressed);
                assert_eq!(message.plain(), text.as_bytes());
                let mut wire = Vec::new();
                message.append_wire(&mut wire);
                assert_eq!(&wire, frame);
            }
            [Seen::Passed(wire, passed)] => {
                assert_eq!(wire, frame);
                assert_eq!(passed.size, text.len() as u64);
            }
            other => panic!("{other:?}"),
        }
    }
    // Not followed, the context is gone: better no message than a wrong one.
    let mut reader = Reader::new(rules(false));
    let mut wants = wants.into_iter();
    let outcome = read_on(&mut reader, &frames, |_| wants.next().unwrap());
    assert_eq!(outcome.seen.len(), 2);
    assert_eq!(outcome.fault, Some(Fault::ContextMissing));
    assert_eq!(
        outcome.fault.unwrap().close_code(),
        CloseCode::INTERNAL_ERROR
    );
}

#[test]
fn what_follows_a_close_is_ignored() {
    let close = encode_close(CloseCode(4001), "done", KEY);
    let stream = [&close[..], &frame(0x81, b"late", KEY), b"\xff\xff\xff"].concat();
    for chunks in [vec![stream.clone()], bytes(&stream)] {
        let (outcome, reader) = read(rules(Side::FromClient), &chunks, Want::Whole);
        assert_eq!(outcome.fault, None);
        let [seen] = &outcome.seen[..] else {
            panic!("{outcome:?}");
        };
        let seen = control(seen);
        assert_eq!(seen.close_code(), Some(CloseCode(4001)));
        assert_eq!(seen.close_reason(), "done");
        assert_eq!(seen.wire()[..], close[..]);
        assert!(reader.is_over() && !reader.at_boundary());
        assert_eq!(reader.close(), Some(CloseCode(4001)));
    }
    let (outcome, reader) = read(rules(Side::FromServer), &[[0x88, 0]], Want::Whole);
    assert_eq!(control(&outcome.seen[0]).close_code(), None);
    assert_eq!(reader.close(), Some(CloseCode::NO_STATUS));
}

#[test]
fn a_kind_that_is_not_wanted_is_refused() {
    let stream = [frame(0x81, b"yes", None), frame(0x82, b"no", None)].concat();
    let mut reader = Reader::new(rules(Side::FromServer));
    let outcome = read_on(&mut reader, &[stream], |begin| match begin.kind {
        DataKind::Text => Want::Whole,
        DataKind::Binary => Want::Refuse,
    });
    assert_eq!(outcome.seen.len(), 1);
    assert_eq!(outcome.fault, Some(Fault::Refused));
    assert_eq!(outcome.fault.unwrap().close_code(), CloseCode::UNSUPPORTED);
}

#[test]
fn a_fault_inside_a_passed_frame_leaves_no_place_for_a_close() {
    let text = frame(0x81, b"0123456789 \xff\xff", None);
    let inspecting = Rules {
        inspect: true,
        ..rules(Side::FromServer)
    };
    let (outcome, reader) = read(inspecting, &[&text[..6], &text[6..]], Want::Pass);
    assert_eq!(outcome.seen, [Seen::Passing(text[..6].to_vec())]);
    assert_eq!(outcome.fault, Some(Fault::Text));
    assert!(!reader.at_boundary());
}
