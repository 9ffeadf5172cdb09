//! Streams of any frames, cut anywhere: what comes of them is the same, and what passes is what came.

use proptest::prelude::*;

use super::*;
use crate::ws::frame::tests::cut;

/// A frame as a test makes it, before compression and masks.
#[derive(Debug, Clone)]
enum Made {
    /// Data, cut into fragments so; the flag asks for compression.
    Data(DataKind, Vec<u8>, Vec<usize>, bool),
    Ping(Vec<u8>),
    Raw(Vec<u8>),
}

fn any_made() -> impl Strategy<Value = Made> {
    let payload = prop_oneof![
        4 => "[a-zé€😀 ]{0,30}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => "[ab]{100,300}".prop_map(String::into_bytes),
        1 => Just(b"0123456789".repeat(300)),
    ];
    let cuts = prop_oneof![
        2 => Just(vec![]),
        1 => prop::collection::vec(0..60_usize, 0..5),
    ];
    prop_oneof![
        12 => (any::<bool>(), payload, cuts, any::<bool>()).prop_map(|(text, payload, cuts, deflate)| {
            let text = text && std::str::from_utf8(&payload).is_ok();
            let kind = if text { DataKind::Text } else { DataKind::Binary };
            Made::Data(kind, payload, cuts, deflate)
        }),
        2 => prop::collection::vec(any::<u8>(), 0..126).prop_map(Made::Ping),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Made::Raw),
    ]
}

/// The frames of a stream, with whether each is data; pings come between fragments as well.
fn encode_all(made: &[Made], params: Option<Params>, masks: &[[u8; 4]]) -> Vec<(bool, Vec<u8>)> {
    let mut masks = masks.iter().copied().cycle();
    let mut deflater = params.map(|params| Deflater::new(params, 6));
    let mut frames = Vec::new();
    for one in made {
        match one {
            Made::Ping(payload) => frames.push((false, frame(0x89, payload, masks.next()))),
            Made::Raw(bytes) => frames.push((false, bytes.clone())),
            Made::Data(kind, payload, cuts, deflate) => {
                let mut first = if *kind == DataKind::Text { 0x01 } else { 0x02 };
                let mut deflated = Vec::new();
                let shrunk = match &mut deflater {
                    Some(deflater) if *deflate => deflater.message(payload, &mut deflated),
                    _ => false,
                };
                first |= if shrunk { 0x40 } else { 0 };
                let payload = if shrunk { &deflated } else { payload };
                let fragments = cut(payload, cuts);
                let last = fragments.len() - 1;
                for (at, fragment) in fragments.iter().enumerate() {
                    let fin = if at == last { 0x80 } else { 0 };
                    frames.push((true, frame(first | fin, fragment, masks.next())));
                    first = 0;
                    if at == 1 && last > 1 {
                        frames.push((false, frame(0x8a, b"between", masks.next())));
                    }
                }
            }
        }
    }
    frames
}

fn any_params() -> impl Strategy<Value = Option<Params>> {
    let params = (9..=15_u8, any::<bool>()).prop_map(|(window_bits, takeover)| Params {
        window_bits,
        takeover,
    });
    prop::option::of(params)
}

/// What must be the same however a stream is cut: all but how far a message was passed on that ends
/// in a fault, and what is found first in compressed data that is wrong in more than one way.
fn settled(mut outcome: Outcome, deflate: Option<Params>) -> Outcome {
    if deflate.is_some() && matches!(outcome.fault, Some(Fault::Text | Fault::TooBig(_))) {
        outcome.fault = Some(Fault::Deflate);
    }
    if outcome.fault.is_some() && matches!(outcome.seen.last(), Some(Seen::Passing(_))) {
        outcome.seen.pop();
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_chunking_gives_the_same_events(
        made in prop::collection::vec(any_made(), 0..8),
        masks in prop::collection::vec(any::<[u8; 4]>(), 1..5),
        params in any_params(),
        cuts in prop::collection::vec(0..200_usize, 0..40),
        wants in prop::collection::vec(any::<bool>(), 1..6),
        flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        inspect in any::<bool>(),
        max_message in prop_oneof![Just(u64::MAX), 0..4000_u64],
    ) {
        let frames = encode_all(&made, params, &masks);
        let mut stream: Vec<u8> = frames.iter().flat_map(|(_, frame)| frame.clone()).collect();
        let mut intact = max_message == u64::MAX
            && !made.iter().any(|one| matches!(one, Made::Raw(bytes) if !bytes.is_empty()));
        if let (Some((at, bits)), false) = (flip, stream.is_empty()) {
            intact &= bits == 0;
            let at = at.index(stream.len());
            stream[at] ^= bits;
        }
        let rules = Rules {
            side: Side::FromClient,
            deflate: params,
            max_message,
            max_frames: 100,
            // Without it a message may be wanted whole only where no context is needed.
            inspect: inspect || params.is_some_and(|params| params.takeover),
        };
        let run = |chunks: &[Vec<u8>]| {
            let mut reader = Reader::new(rules);
            let mut wants = wants.iter().cycle();
            let outcome = read_on(&mut reader, chunks, |_| match wants.next() {
                Some(true) => Want::Whole,
                _ => Want::Pass,
            });
            (settled(outcome, params), reader)
        };
        let (outcome, reader) = run(&[stream.clone()]);
        let (in_pieces, cut_reader) = run(&cut(&stream, &cuts));
        prop_assert_eq!(&in_pieces, &outcome);
        prop_assert_eq!(reader.messages(), cut_reader.messages());
        prop_assert_eq!(reader.in_message(), cut_reader.in_message());
        prop_assert_eq!(reader.close(), cut_reader.close());
        let (in_bytes, _) = run(&bytes(&stream));
        prop_assert_eq!(&in_bytes, &outcome);

        if intact {
            prop_assert_eq!(outcome.fault, None);
            prop_assert!(reader.is_idle());
            // Every message says what it was made of, and every frame leaves as it came.
            let mut plains = made.iter().filter_map(|one| match one {
                Made::Data(kind, payload, ..) => Some((*kind, payload)),
                _ => None,
            });
            let (mut data, mut others) = (Vec::new(), Vec::new());
            for seen in &outcome.seen {
                match seen {
                    Seen::Control(control) => others.extend_from_slice(&control.wire()),
                    Seen::Passing(wire) => data.extend_from_slice(wire),
                    Seen::Passed(wire, passed) => {
                        data.extend_from_slice(wire);
                        let (kind, plain) = plains.next().unwrap();
                        prop_assert_eq!(passed.kind, kind);
                        if rules.inspect || !passed.compressed {
                            prop_assert_eq!(passed.size, plain.len() as u64);
                        }
                    }
                    Seen::Message(message) => {
                        message.append_wire(&mut data);
                        let (kind, plain) = plains.next().unwrap();
                        prop_assert_eq!(message.kind, kind);
                        prop_assert_eq!(message.plain(), &plain[..]);
                    }
                }
            }
            prop_assert!(plains.next().is_none());
            let of = |data| frames.iter().filter(move |(is, _)| *is == data).map(|(_, frame)| &frame[..]);
            prop_assert_eq!(data, of(true).collect::<Vec<_>>().concat());
            prop_assert_eq!(others, of(false).collect::<Vec<_>>().concat());
        }
    }

    /// Passed on, a stream of whole frames leaves byte for byte, control frames in their places.
    #[test]
    fn a_passed_stream_is_the_stream(
        made in prop::collection::vec(any_made(), 0..8),
        masks in prop::collection::vec(any::<[u8; 4]>(), 1..5),
        cuts in prop::collection::vec(0..200_usize, 0..40),
    ) {
        let made: Vec<Made> = made.into_iter().filter(|one| !matches!(one, Made::Raw(_))).collect();
        let frames = encode_all(&made, None, &masks);
        let stream: Vec<u8> = frames.into_iter().flat_map(|(_, frame)| frame).collect();
        let (outcome, _) = read(rules(Side::FromClient), &cut(&stream, &cuts), Want::Pass);
        let wire: Vec<u8> = outcome.seen.iter().flat_map(|seen| match seen {
            Seen::Passing(wire) | Seen::Passed(wire, _) => wire.clone(),
            Seen::Control(control) => control.wire().to_vec(),
            Seen::Message(_) => Vec::new(),
        }).collect();
        prop_assert_eq!(wire, stream);
    }

    #[test]
    fn what_is_encoded_is_read(
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            Just(vec![3; 65_535]),
            Just(vec![3; 65_536]),
        ],
        text in any::<bool>(),
        compress in any::<bool>(),
        mask in prop::option::of(any::<[u8; 4]>()),
    ) {
        let text = text && std::str::from_utf8(&payload).is_ok();
        let kind = if text { DataKind::Text } else { DataKind::Binary };
        let params = deflated(false).unwrap();
        let (mut stream, mut deflated) = (Vec::new(), Vec::new());
        let compress = compress && Deflater::new(params, 6).message(&payload, &mut deflated);
        if compress {
            encode_compressed(kind, &deflated, mask, &mut stream);
        } else {
            encode_message(kind, &payload, mask, &mut stream);
        }
        let side = if mask.is_some() { Side::FromClient } else { Side::FromServer };
        let rules = Rules { deflate: Some(params), ..rules(side) };
        let (outcome, _) = read(rules, &[&stream], Want::Whole);
        prop_assert_eq!(outcome.seen.len(), 1);
        let message = whole(&outcome.seen[0]);
        prop_assert_eq!((message.kind, message.compressed), (kind, compress));
        prop_assert_eq!(message.plain(), &payload[..]);
        let mut wire = Vec::new();
        message.append_wire(&mut wire);
        prop_assert_eq!(wire, stream);
    }

    #[test]
    fn noise_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(0..30_usize, 0..20),
        from_client in any::<bool>(),
        params in any_params(),
    ) {
        let side = if from_client { Side::FromClient } else { Side::FromServer };
        let rules = Rules { deflate: params, inspect: true, max_message: 1 << 20, ..rules(side) };
        for want in [Want::Whole, Want::Pass] {
            let (outcome, _) = read(rules, &cut(&noise, &cuts), want);
            let (again, _) = read(rules, &[&noise], want);
            prop_assert_eq!(settled(outcome, params), settled(again, params));
        }
    }
}
