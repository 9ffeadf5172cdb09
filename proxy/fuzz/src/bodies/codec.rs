//! WebSocket frames, messages and their compression: any bytes of a tunnel.

use crate::ws::deflate::{Deflater, Inflater, Params};
use crate::ws::head::Expect;
use crate::ws::{
    DataKind, Event, Fault, Follower, Head, Reader, Rules, Side, Want, encode_message,
};

/// A head is judged the same however much of it is there, and comes out as it came.
pub fn head(data: &[u8]) {
    let Some((&options, bytes)) = data.split_first() else {
        return;
    };
    let expect = Expect {
        side: side(options),
        rsv1_allowed: options & 2 != 0,
        in_message: options & 4 != 0,
    };
    let whole = Head::parse(bytes, expect);
    for cut in 0..bytes.len() {
        match Head::parse(&bytes[..cut], expect) {
            Ok(None) => {}
            verdict => assert_eq!(verdict, whole),
        }
    }
    if let Ok(Some((head, used))) = whole {
        let mut again = Vec::new();
        head.encode(&mut again);
        assert_eq!(again, bytes[..used]);
    }
}

/// The follower sees the same in any cut, and the same as a reader that passes everything on.
pub fn follower(data: &[u8]) {
    let Some((&[options, cut], stream)) = data.split_first_chunk() else {
        return;
    };
    let rsv1_allowed = options & 2 != 0;
    let follow = |size: usize| {
        let mut follower = Follower::new(side(options), rsv1_allowed);
        let mut violation = None;
        for chunk in stream.chunks(size) {
            violation = violation.or(follower.follow(chunk).err());
        }
        (follower, violation)
    };
    let (follower, violation) = follow(stream.len().max(1));
    let (in_pieces, again) = follow(usize::from(cut).max(1));
    assert_eq!(violation, again);
    assert_eq!(follower.messages(), in_pieces.messages());
    assert_eq!(follower.close(), in_pieces.close());
    assert_eq!(follower.at_boundary(), in_pieces.at_boundary());

    let mut reader = Reader::new(Rules {
        side: side(options),
        deflate: rsv1_allowed.then_some(params(0)),
        max_message: u64::MAX,
        max_frames: u32::MAX,
        inspect: false,
    });
    let mut rest = stream;
    let fault = loop {
        match reader.read(&mut rest, |_| Want::Pass) {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(fault) => break Some(fault),
        }
    };
    assert_eq!(reader.messages(), follower.messages());
    match fault {
        Some(Fault::Framing(found)) => assert_eq!(Some(found), violation),
        // A follower does not judge what a Close says.
        Some(Fault::CloseCode(_) | Fault::CloseReason) => assert!(follower.close().is_some()),
        Some(fault) => panic!("a reader that only passes on found {fault}"),
        None => assert_eq!((reader.close(), violation), (follower.close(), None)),
    }
}

/// A reader gives the same events in any cut, and what leaves is what came.
pub fn reader(data: &[u8]) {
    let Some((&[options, cut, window, limit], stream)) = data.split_first_chunk() else {
        return;
    };
    let deflate = (options & 2 != 0).then(|| params(window));
    let rules = Rules {
        side: side(options),
        deflate,
        max_message: if limit == 0 {
            1 << 20
        } else {
            u64::from(limit) * 8
        },
        max_frames: 64,
        inspect: options & 4 != 0 || deflate.is_some_and(|params| params.takeover),
    };
    let wants = if options & 8 != 0 {
        [Want::Whole, Want::Pass]
    } else {
        [Want::Pass, Want::Whole]
    };
    let whole = read(rules, wants, stream, stream.len().max(1));
    let in_pieces = read(rules, wants, stream, usize::from(cut).max(1));
    assert_eq!(whole, in_pieces);
}

/// What a stream came to: every whole event in turn, with its bytes on the wire.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    events: Vec<(String, Vec<u8>)>,
    fault: Option<Fault>,
    messages: u64,
}

fn read(rules: Rules, wants: [Want; 2], stream: &[u8], size: usize) -> Read {
    let mut reader = Reader::new(rules);
    let mut wants = wants.iter().cycle();
    let mut events = Vec::new();
    let mut passing = Vec::new();
    let mut fault = None;
    for mut chunk in stream.chunks(size) {
        while fault.is_none() {
            let event = match reader.read(&mut chunk, |_| *wants.next().unwrap_or(&Want::Pass)) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(found) => {
                    fault = Some(match found {
                        // Compressed data may be wrong in more than one way: the cut decides which
                        // is found first.
                        Fault::TooBig(_) | Fault::Text if rules.deflate.is_some() => Fault::Deflate,
                        found => found,
                    });
                    break;
                }
            };
            match event {
                Event::Message(message) => {
                    if message.kind == DataKind::Text {
                        assert!(std::str::from_utf8(message.plain()).is_ok());
                    }
                    assert!(message.plain().len() as u64 <= rules.max_message);
                    let mut wire = Vec::new();
                    message.append_wire(&mut wire);
                    let shown = format!("{:?} {:?}", message.kind, message.plain());
                    events.push((shown, wire));
                }
                Event::Passed { wire, ends } => {
                    passing.extend_from_slice(&wire);
                    if let Some(passed) = ends {
                        events.push((format!("{passed:?}"), std::mem::take(&mut passing)));
                    }
                }
                Event::Control(control) => {
                    events.push((format!("{control:?}"), control.wire().to_vec()));
                }
            }
        }
    }
    Read {
        events,
        fault,
        messages: reader.messages(),
    }
}

/// Anything inflates the same in one piece and in many, within its limit; what is deflated comes back.
pub fn deflate(data: &[u8]) {
    let Some((&[window, cut, limit], bytes)) = data.split_first_chunk() else {
        return;
    };
    let limit = u64::from(limit) * 64;
    let inflate = |size: usize| {
        let mut inflater = Inflater::new(params(window));
        let mut plain = Vec::new();
        let inflated = bytes
            .chunks(size)
            .try_for_each(|piece| inflater.push(piece, &mut plain, limit))
            .and_then(|()| inflater.finish());
        assert!(plain.len() as u64 <= limit);
        inflated.map(|()| plain)
    };
    // Broken data that is too big as well may be called either.
    let (whole, in_pieces) = (
        inflate(bytes.len().max(1)),
        inflate(usize::from(cut).max(1)),
    );
    assert_eq!(whole.ok(), in_pieces.ok());

    let mut deflater = Deflater::new(params(window), 1 + cut % 9);
    let mut inflater = Inflater::new(params(window));
    for message in bytes.chunks(usize::from(cut).max(1) * 16) {
        let (mut deflated, mut plain) = (Vec::new(), Vec::new());
        if deflater.message(message, &mut deflated) {
            inflater
                .push(&deflated, &mut plain, u64::MAX)
                .and_then(|()| inflater.finish())
                .unwrap_or_else(|error| panic!("our own message does not inflate: {error}"));
            assert_eq!(plain, message);
        } else {
            // It goes as it is, and the context stays as it was.
            encode_message(DataKind::Binary, message, None, &mut plain);
        }
    }
}

fn side(options: u8) -> Side {
    if options & 1 != 0 {
        Side::FromClient
    } else {
        Side::FromServer
    }
}

fn params(window: u8) -> Params {
    Params {
        window_bits: 8 + window % 8,
        takeover: window & 8 != 0,
    }
}
