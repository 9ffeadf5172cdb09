//! Bytes in pieces of every size, against what may go on of them.

use super::*;

const BOUNDS: Bounds = Bounds {
    head_size: 1000,
    head_fields: 20,
    streams: 10,
    resets: 5,
    control_frames: 20,
};
const CLIENT: Peer = Peer::Client { extended: true };
/// `:method: GET`, `:scheme: http`, `:path: /`.
const GET: &[u8] = &[0x82, 0x86, 0x84];

/// What goes on of these bytes, given so many at once, and why it ends.
fn sift(peer: Peer, bytes: &[u8], at_once: usize) -> (Vec<u8>, Option<Reason>) {
    let mut frames = Frames::from(peer, BOUNDS);
    let mut out = Vec::new();
    let mut held = Vec::new();
    for piece in bytes.chunks(at_once) {
        held.extend(piece);
        loop {
            let (passed, found) = frames.look(&held);
            out.extend(held.drain(..passed));
            match found {
                Found::Beginning => break,
                Found::Instead { taken, with } => {
                    held.drain(..taken);
                    out.extend(with);
                }
                Found::Fault(reason) => return (out, Some(reason)),
            }
        }
    }
    (out, None)
}

/// However the bytes come, the same comes out.
fn check(peer: Peer, frames: &[Vec<u8>], wanted: &[Vec<u8>], fault: Option<Reason>) {
    let start = match peer {
        Peer::Client { .. } => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        Peer::Server => Vec::new(),
    };
    let begin = frame(SETTINGS, 0, 0, b"");
    let bytes = [start.clone(), begin.clone(), frames.concat()].concat();
    let wanted = [start, begin, wanted.concat()].concat();
    for at_once in [1, 2, 3, 7, 10, 64, bytes.len()] {
        let (out, end) = sift(peer, &bytes, at_once);
        assert_eq!(end, fault, "{at_once} at once");
        assert_eq!(out, wanted, "{at_once} at once");
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    [&head.bytes(), payload].concat()
}

fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
}

#[test]
fn what_is_fine_goes_on_as_it_came() {
    let frames = [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]),
        request(1),
        frame(HEADERS, END_HEADERS, 3, GET),
        frame(DATA, 0, 3, &[1; 300]),
        frame(0x55, 0xff, 0, &[9; 100]),
        frame(DATA, PADDED, 3, &[2, b'a', 0, 0]),
        frame(WINDOW_UPDATE, 0, 3, &[0, 0, 0, 9]),
        frame(DATA, END_STREAM, 3, b""),
        frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
        frame(PING, 0, 0, &[7; 8]),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    check(CLIENT, &frames, &frames, None);
}

#[test]
fn a_head_in_pieces_goes_on_whole() {
    let frames = [
        frame(HEADERS, END_STREAM, 1, &GET[..1]),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, 0, 1, &GET[1..2]),
        frame(CONTINUATION, END_HEADERS, 1, &GET[2..]),
    ];
    check(CLIENT, &frames, &[request(1)], None);
}

#[test]
fn empty_data_that_ends_nothing_does_not_go_on() {
    let head = frame(HEADERS, END_HEADERS, 1, GET);
    let empty = frame(DATA, 0, 1, b"");
    let text = frame(DATA, 0, 1, b"text");
    let end = frame(DATA, END_STREAM, 1, b"");
    let frames = [&head, &empty, &text, &empty, &empty, &end].map(Vec::clone);
    check(CLIENT, &frames, &[head, text, end], None);
}

#[test]
fn a_compressor_keeps_no_more_than_it_must() {
    let greedy = frame(SETTINGS, 0, 0, &[0, 1, 0xff, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
    let modest = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x10, 0, 0, 3, 0, 0, 0, 1]);
    check(CLIENT, &[greedy], &[modest], None);
}

#[test]
fn a_malformed_head_is_another_with_the_same_entries() {
    // `x: y` and `x: CR` go into the table; then there is no path.
    let block = [&GET[..2], b"\x40\x01x\x01y\x40\x01x\x01\r"].concat();
    let bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let instead = [b"\x40\x01x\x01y\x40\x01x\x01x", head::MALFORMED].concat();
    let instead = frame(HEADERS, END_HEADERS | END_STREAM, 1, &instead);
    // The second is the latest, so the first is at 63.
    let by_index = [GET, &[0x80 | 63]].concat();
    let next = frame(HEADERS, END_HEADERS | END_STREAM, 3, &by_index);
    check(CLIENT, &[bad, next.clone()], &[instead, next], None);
}

#[test]
fn resets_and_empty_frames_have_limits() {
    let reset = |stream| [request(stream), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
    let resets: Vec<_> = (0..6).map(|count| reset(2 * count + 1)).collect();
    let last = resets[5][..HEAD + GET.len()].to_vec();
    let passed = [&resets[..5], &[last]].concat();
    check(CLIENT, &resets, &passed, Some(Reason::ENHANCE_YOUR_CALM));
    // The first SETTINGS are one of them.
    let pings = vec![frame(PING, 0, 0, &[0; 8]); 20];
    check(
        CLIENT,
        &pings,
        &pings[..19],
        Some(Reason::ENHANCE_YOUR_CALM),
    );
}

#[test]
fn what_we_send_may_be_answered() {
    let mut frames = Frames::from(CLIENT, BOUNDS);
    let start = [&[0; PREFACE][..], &frame(SETTINGS, 0, 0, b"")].concat();
    assert_eq!(frames.look(&start), (start.len(), Found::Beginning));
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    for _ in 0..100 {
        frames.sent();
        for _ in 0..ANSWERS {
            assert_eq!(frames.look(&update), (update.len(), Found::Beginning));
        }
    }
}

#[test]
fn resets_that_the_client_provokes_count() {
    // How many of them end the connection.
    for (reason, limit) in [
        (Reason::PROTOCOL_ERROR, Some(BOUNDS.resets)),
        (Reason::FLOW_CONTROL_ERROR, Some(BOUNDS.resets)),
        (Reason::REFUSED_STREAM, Some(BOUNDS.control_frames)),
        (Reason::STREAM_CLOSED, Some(BOUNDS.control_frames)),
        (Reason::NO_ERROR, None),
        (Reason::CANCEL, None),
        (Reason::INTERNAL_ERROR, None),
    ] {
        let mut frames = Frames::from(CLIENT, BOUNDS);
        let ended = (0..100).find(|count| frames.gave_up(2 * count + 1, reason).is_err());
        assert_eq!(ended, limit, "{reason:?}");
    }
}

#[test]
fn who_resets_what_was_answered_leaves_nothing_undone() {
    let mut frames = Frames::from(CLIENT, BOUNDS);
    let start = [&[0; PREFACE][..], &frame(SETTINGS, 0, 0, b"")].concat();
    assert_eq!(frames.look(&start).1, Found::Beginning);
    for count in 0..1000 {
        let stream = 2 * count + 1;
        let open = frame(HEADERS, END_HEADERS, stream, GET);
        assert_eq!(frames.look(&open), (open.len(), Found::Beginning));
        frames.answered();
        let reset = frame(RST_STREAM, 0, stream, &[0; 4]);
        assert_eq!(frames.look(&reset), (reset.len(), Found::Beginning));
    }
}

#[test]
fn frames_under_way_on_a_stream_that_was_reset_go_on() {
    let mut frames = Frames::from(CLIENT, BOUNDS);
    let open = [
        &[0; PREFACE][..],
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, END_HEADERS, 1, GET),
    ]
    .concat();
    assert_eq!(frames.look(&open).1, Found::Beginning);
    frames.gave_up(1, Reason::NO_ERROR).unwrap();
    let data = frame(DATA, 0, 1, b"late");
    assert_eq!(frames.look(&data), (data.len(), Found::Beginning));
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"");
    assert_eq!(frames.look(&trailers), (trailers.len(), Found::Beginning));
    // `h2` would end the connection for what it cannot decode.
    let bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01x\x01\r");
    assert!(matches!(frames.look(&bad), (0, Found::Instead { .. })));
}

#[test]
fn answers_have_rules_of_their_own() {
    let head = |stream, flags, block: &[u8]| frame(HEADERS, END_HEADERS | flags, stream, block);
    let answer = |blocks: &[Vec<u8>]| {
        let mut frames = Frames::from(Peer::Server, BOUNDS);
        let begin = frame(SETTINGS, 0, 0, b"");
        assert_eq!(frames.look(&begin), (begin.len(), Found::Beginning));
        frames.opened(1);
        let bytes = blocks.concat();
        match frames.look(&bytes) {
            (passed, Found::Beginning) if passed == bytes.len() => Ok(()),
            (_, Found::Instead { .. }) => Err(None),
            (_, Found::Fault(reason)) => Err(Some(reason)),
            (_, Found::Beginning) => panic!("{blocks:?}"),
        }
    };
    const OK: &[u8] = &[0x88];
    const EARLY: &[u8] = b"\x08\x03103";
    let malformed = Err(None);
    let protocol = Err(Some(Reason::PROTOCOL_ERROR));
    for (blocks, wanted) in [
        (vec![head(1, END_STREAM, OK)], Ok(())),
        (
            vec![head(1, 0, EARLY), head(1, 0, OK), head(1, END_STREAM, b"")],
            Ok(()),
        ),
        (vec![head(1, 0, OK), head(1, END_STREAM, OK)], malformed),
        (vec![head(1, 0, OK), head(1, 0, b"")], malformed),
        (vec![head(1, END_STREAM, EARLY)], malformed),
        (vec![head(1, 0, b"")], malformed),
        (vec![head(1, 0, GET)], malformed),
        (vec![head(1, 0, b"\x88\x88")], malformed),
        (vec![head(1, 0, b"\x08\x0299")], malformed),
        (vec![head(1, 0, b"\x88\x00\x01x\x03a\r\n")], malformed),
        (vec![head(3, 0, OK)], protocol),
        (vec![head(2, 0, OK)], protocol),
        (vec![frame(DATA, 0, 3, b"a")], protocol),
        (
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            protocol,
        ),
        (vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1])], protocol),
        (
            vec![
                frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1]),
                frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 0]),
            ],
            protocol,
        ),
    ] {
        assert_eq!(answer(&blocks), wanted, "{blocks:?}");
    }
}
