use super::*;

/// A string with its length.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut packet = vec![first];
    let mut len = body.len();
    loop {
        let more = if len > 0x7f { 0x80 } else { 0 };
        packet.push((len & 0x7f) as u8 | more);
        len >>= 7;
        if len == 0 {
            return [packet, body].concat();
        }
    }
}

fn connect(version: u8, will: Option<&str>) -> Vec<u8> {
    let (flags, none): (u8, &[u8]) = match (will, version) {
        (None, 5) => (2, &[0]),
        (None, _) => (2, &[]),
        (Some(_), 5) => (6, &[0]),
        (Some(_), _) => (6, &[]),
    };
    let head = [
        &text("MQTT")[..],
        &[version, flags, 0, 60],
        none,
        &text("client"),
    ]
    .concat();
    match will {
        None => packet(0x10, &[&head]),
        Some(will) => packet(0x10, &[&head, none, &text(will), &text("bye")]),
    }
}

fn publish(topic: &str, quality: u8, properties: Option<&[u8]>) -> Vec<u8> {
    let id: &[u8] = if quality > 0 { &[0, 7] } else { &[] };
    let properties = properties.map(|it| [&[it.len() as u8], it].concat());
    packet(
        0x30 | quality << 1,
        &[
            &text(topic),
            id,
            &properties.unwrap_or_default(),
            b"payload",
        ],
    )
}

fn subscribe(topics: &[&str], five: bool) -> Vec<u8> {
    let properties: &[u8] = if five { &[0] } else { &[] };
    let topics: Vec<u8> = topics
        .iter()
        .flat_map(|topic| [text(topic), vec![1]].concat())
        .collect();
    packet(0x82, &[&[0, 9], properties, &topics])
}

fn open(version: u8) -> Stream {
    let mut stream = Stream::default();
    let outcome = stream.take(&connect(version, None), |_, _| false);
    assert_eq!(outcome, Ok(Outcome::default()));
    stream
}

/// `ok` and what begins with it may be done.
fn allow(_: Action, topics: &[&str]) -> bool {
    topics.iter().all(|topic| topic.starts_with("ok"))
}

#[track_caller]
fn check(stream: &mut Stream, message: &[u8], onward: Option<&[u8]>, answer: &[u8], refused: u32) {
    let expect = Outcome {
        onward: onward.map(<[u8]>::to_vec),
        answer: answer.to_vec(),
        refused,
        over: false,
    };
    assert_eq!(stream.take(message, allow), Ok(expect));
}

#[test]
fn what_is_allowed_goes_on_as_it_came() {
    for version in [4, 5] {
        let stream = &mut open(version);
        let properties = (version == 5).then_some(&[][..]);
        check(stream, &publish("ok", 1, properties), None, &[], 0);
        check(
            stream,
            &subscribe(&["ok/a", "ok/b"], version == 5),
            None,
            &[],
            0,
        );
        // PINGREQ, DISCONNECT, UNSUBSCRIBE of anything.
        check(stream, &[0xc0, 0, 0xe0, 0, 0xa2, 2, 0, 1], None, &[], 0);
        check(stream, &[], None, &[], 0);
    }
}

#[test]
fn what_is_refused_is_answered_as_a_server_does() {
    let three = &mut open(4);
    check(three, &publish("no", 0, None), Some(&[]), &[], 1);
    check(
        three,
        &publish("no", 1, None),
        Some(&[]),
        &[0x40, 2, 0, 7],
        1,
    );
    check(
        three,
        &publish("no", 2, None),
        Some(&[]),
        &[0x50, 2, 0, 7],
        1,
    );
    check(
        three,
        &subscribe(&["ok", "no"], false),
        Some(&[]),
        &[0x90, 4, 0, 9, 0x80, 0x80],
        1,
    );
    let five = &mut open(5);
    let some = Some(&[0x01, 1, 0x26, 0, 1, b'a', 0, 1, b'b'][..]);
    check(
        five,
        &publish("no", 1, some),
        Some(&[]),
        &[0x40, 3, 0, 7, 0x87],
        1,
    );
    check(
        five,
        &publish("no", 2, some),
        Some(&[]),
        &[0x50, 3, 0, 7, 0x87],
        1,
    );
    check(
        five,
        &subscribe(&["no"], true),
        Some(&[]),
        &[0x90, 4, 0, 9, 0, 0x87],
        1,
    );
    check(five, &subscribe(&["$share/group/ok/+"], true), None, &[], 0);
    check(
        five,
        &subscribe(&["$share/ok/no"], true),
        Some(&[]),
        &[0x90, 4, 0, 9, 0, 0x87],
        1,
    );
    check(five, &publish("ok/+", 0, some), Some(&[]), &[], 1);
}

#[test]
fn the_rest_of_a_message_goes_on() {
    let (good, bad) = (publish("ok", 0, None), publish("no", 1, None));
    let message = [&good[..], &bad, &good].concat();
    check(
        &mut open(4),
        &message,
        Some(&[&good[..], &good].concat()),
        &[0x40, 2, 0, 7],
        1,
    );
}

#[test]
fn a_packet_may_come_in_any_pieces() {
    let all = [
        publish("ok/1", 1, None),
        subscribe(&["ok"], false),
        publish("ok/2", 0, None),
    ]
    .concat();
    for cut in 0..all.len() {
        let mut stream = open(4);
        let mut came = Vec::new();
        for piece in [&all[..cut], &all[cut..]] {
            let outcome = stream.take(piece, allow).unwrap();
            came.extend(outcome.onward.unwrap_or_else(|| piece.to_vec()));
        }
        assert_eq!(came, all, "{cut}");
    }
    let mut stream = open(4);
    let mut came = Vec::new();
    for byte in &all {
        let outcome = stream.take(&[*byte], allow).unwrap();
        came.extend(outcome.onward.unwrap_or_else(|| vec![*byte]));
    }
    assert_eq!(came, all);
}

#[test]
fn a_will_is_published_as_well() {
    for (version, answer) in [(4, &[0x20, 2, 0, 5][..]), (5, &[0x20, 3, 0, 0x87, 0])] {
        let outcome = Stream::default().take(&connect(version, Some("no")), allow);
        let expect = Outcome {
            onward: Some(Vec::new()),
            answer: answer.to_vec(),
            refused: 1,
            over: true,
        };
        assert_eq!(outcome, Ok(expect));
        let outcome = Stream::default().take(&connect(version, Some("ok")), allow);
        assert_eq!(outcome, Ok(Outcome::default()));
    }
}

#[test]
fn a_topics_number_stands_for_it() {
    let stream = &mut open(5);
    let alias = |topic, number| publish(topic, 0, Some(&[0x23, 0, number]));
    check(stream, &alias("ok", 1), None, &[], 0);
    check(stream, &alias("", 1), None, &[], 0);
    check(stream, &alias("no", 2), Some(&[]), &[], 1);
    check(stream, &alias("", 2), Some(&[]), &[], 1);
    check(stream, &alias("no", 1), Some(&[]), &[], 1);
    check(stream, &alias("", 1), Some(&[]), &[], 1);
    for (topic, number) in [("", 3), ("ok", 0)] {
        let fault = stream.take(&alias(topic, number), allow);
        assert_eq!(fault, Err(Fault::Malformed));
    }
    let stream = &mut open(5);
    for number in 1..=MAX_ALIASES as u8 {
        check(stream, &alias("ok", number), None, &[], 0);
    }
    let fault = stream.take(&alias("ok", 200), allow);
    assert_eq!(fault, Err(Fault::Malformed));
}

#[test]
fn what_is_no_mqtt_ends_the_stream() {
    #[track_caller]
    fn check(stream: &mut Stream, message: &[u8], expect: Fault) {
        assert_eq!(stream.take(message, allow), Err(expect));
    }
    use Fault::{Malformed, TooLarge, TooMany};
    check(&mut Stream::default(), &publish("ok", 0, None), Malformed);
    check(&mut Stream::default(), &connect(6, None), Malformed);
    check(&mut Stream::default(), b"GET / HTTP/1.1", Malformed);
    check(&mut open(4), &connect(4, None), Malformed);
    check(&mut open(4), &[0x30, 0xff, 0xff, 0xff, 0xff], Malformed);
    check(&mut open(4), &[0x30, 2, 0, 0], Malformed);
    check(&mut open(4), &[0x30, 2, 0, 1], Malformed);
    check(&mut open(4), &[0x36, 3, 0, 1, b'a'], Malformed);
    check(&mut open(4), &[0x30, 3, 0, 1, 0xff], Malformed);
    check(&mut open(4), &[0x82, 2, 0, 1], Malformed);
    check(&mut open(5), &publish("ok", 0, Some(&[0x7f])), Malformed);
    check(
        &mut open(4),
        &subscribe(&["ok"; MAX_JUDGED], false),
        TooMany,
    );
    let pings = [0xc0, 0].repeat(MAX_JUDGED + 1);
    check(&mut open(4), &pings, TooMany);
    // A head that does not end, and a message that has nearly no room for what was held before it.
    let long = [&[0x30, 0xff, 0xff, 0x7f, 0xff, 0xff][..], &[b'a'; MAX_HELD]].concat();
    check(&mut open(4), &long, TooLarge);
    let mut stream = open(4);
    assert!(stream.take(&[0x30], allow).is_ok());
    let rest = [
        &[0xff, 0xff, 0x7f, 0, 2, b'o', b'k'][..],
        &vec![0; MAX_ONWARD],
    ]
    .concat();
    check(&mut stream, &rest, TooLarge);
    let topic = "ok".repeat(MAX_ALIAS_BYTES / 2 + 1);
    check(
        &mut open(5),
        &publish(&topic, 0, Some(&[0x23, 0, 1])),
        Malformed,
    );
}

#[test]
fn a_large_packet_is_not_held() {
    let large = packet(0x30, &[&text("ok"), &[0; 100_000]]);
    let refused = packet(0x32, &[&text("no"), &[0, 7], &[0; 100_000]]);
    let stream = &mut open(4);
    check(stream, &large[..50_000], None, &[], 0);
    check(stream, &large[50_000..], None, &[], 0);
    check(stream, &refused[..50_000], Some(&[]), &[0x40, 2, 0, 7], 1);
    let end = [&refused[50_000..], &large[..10]].concat();
    check(stream, &end, Some(&large[..10]), &[], 0);
    assert!(stream.held.is_empty());
    check(stream, &large[10..], None, &[], 0);
}

proptest::proptest! {
    #[test]
    fn any_bytes_do_no_harm(messages in proptest::collection::vec(proptest::collection::vec(0..=255_u8, 0..40), 0..6), five in 4..=5_u8) {
        let mut stream = open(five);
        for message in messages {
            if stream.take(&message, |_, _| true).is_err() {
                break;
            }
            proptest::prop_assert!(stream.held.len() <= MAX_HELD);
        }
    }
}
