//! Blocks as the standard shows them, and what messages they are.

use super::*;

const REQUEST: Message = Message::Request { extended: true };

/// A block of literals that leave the table as it is.
fn plain(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_length(text.len(), &mut block);
            block.extend(text.as_bytes());
        }
    }
    block
}

#[test]
fn the_table_is_that_of_the_standard() {
    // RFC 7541 §C.5: a table of 256 bytes, from which entries fall out.
    let mut decoder = Decoder::new();
    decoder.read(&[0x3f, 0xe1, 0x01]).unwrap();
    let literal = |index: u8, value: &str| {
        let mut block = vec![0x40 | index];
        push_length(value.len(), &mut block);
        block.extend(value.as_bytes());
        block
    };
    let first = [
        literal(8, "302"),
        literal(24, "private"),
        literal(33, "Mon, 21 Oct 2013 20:13:21 GMT"),
        literal(46, "https://www.example.com"),
    ];
    decoder.read(&first.concat()).unwrap();
    assert_eq!((decoder.entries.len(), decoder.size), (4, 222));
    let second = [literal(8, "307"), vec![0xc1, 0xc0, 0xbf]].concat();
    decoder.read(&second).unwrap();
    assert_eq!((decoder.entries.len(), decoder.size), (4, 222));
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let third = [
        vec![0x88, 0xc1],
        literal(33, "Mon, 21 Oct 2013 20:13:22 GMT"),
        vec![0xc0],
        literal(26, "gzip"),
        literal(55, cookie),
    ];
    let block = decoder.read(&third.concat()).unwrap();
    assert_eq!((decoder.entries.len(), decoder.size), (3, 215));
    assert!(block.is(Message::Response));
    assert_eq!(block.fields, 6);
    assert_eq!(decoder.entry(65), Err(Undecodable));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new();
    let large = "x".repeat(4096);
    for value in ["y", &large] {
        let mut block = vec![0x40 | 58];
        push_length(value.len(), &mut block);
        block.extend(value.as_bytes());
        decoder.read(&block).unwrap();
    }
    assert_eq!((decoder.entries.len(), decoder.size), (0, 0));
}

#[test]
fn what_a_block_is() {
    let is = |fields: &[(&str, &str)], message| {
        let block = Decoder::new().read(&plain(fields)).unwrap();
        block.is(message)
    };
    let get = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/b?c=d"),
        ("x", "y"),
    ];
    assert!(is(&get, REQUEST));
    assert!(is(&get[..4], REQUEST));
    assert!(!is(&get[1..], REQUEST));
    assert!(!is(&get, Message::Trailers));
    assert!(!is(&get, Message::Response));
    assert!(is(&get[4..], Message::Trailers));
    assert!(is(&[], Message::Trailers));
    let star = [(":method", "OPTIONS"), (":scheme", "https"), (":path", "*")];
    assert!(is(&star, REQUEST));
    assert!(!is(&[(":method", "GET"), star[1], star[2]], REQUEST));
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/"),
    ];
    assert!(is(&websocket, REQUEST));
    assert!(!is(&websocket, Message::Request { extended: false }));
    assert!(is(&[websocket[0], websocket[3]], REQUEST));
}

#[test]
fn nonsense_is_as_long_as_what_it_stands_for() {
    for (name, value) in [("X", ""), ("", "y"), ("X-Upper", "value"), ("x", "a\rb")] {
        let mut block = plain(&[(name, value)]);
        block[0] = 0x40;
        let mut decoder = Decoder::new();
        let instead = decoder.read(&block).unwrap().stand_in();
        let mut other = Decoder::new();
        let found = other.read(&instead).unwrap();
        assert!(!found.is(Message::Trailers));
        assert_eq!(other.size, decoder.size, "{name:?}: {value:?}");
        assert_eq!(other.entries.len(), 1);
    }
    // There is no field of no bytes to stand in.
    assert!(Decoder::new().read(&[0x40, 0, 0]).is_err());
}
