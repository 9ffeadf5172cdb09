//! HTTP/2 frames from any bytes, so that most of them are frames: each byte below 128 begins one of that kind (its
//! low four bits), with flags, stream, length and payload as they come; each other one a HEADERS on a stream, with
//! the pseudo-fields that its bits say, and as many fields as the next byte (its low two bits).

use tokio::runtime::{Builder, Runtime};

/// The preface, empty SETTINGS, and frames. Of a HEADERS: 1 END_STREAM, 2 an extended CONNECT, 4 a POST, 8 a path that
/// comes next.
pub fn from_client(data: &[u8]) -> Vec<u8> {
    let mut stream = PREFACE.to_vec();
    stream.extend_from_slice(&SETTINGS);
    push_frames(&mut stream, data, |kind, rest, block| {
        let method: &[u8] = match kind & 6 {
            0 => b"GET",
            4 => b"POST",
            _ => b"CONNECT",
        };
        push_field(block, b":method", method);
        push_field(block, b":scheme", b"http");
        push_field(block, b":authority", b"a.test");
        let path = match kind & 8 != 0 {
            true => take_text(rest),
            false => b"/ws",
        };
        push_field(block, b":path", path);
        if kind & 2 != 0 {
            push_field(block, b":protocol", b"websocket");
            push_field(block, b"sec-websocket-version", b"13");
        }
    });
    stream
}

/// SETTINGS, and frames. Of a HEADERS: 1 END_STREAM, 2 an interim answer, 4 no :status.
pub fn from_server(data: &[u8]) -> Vec<u8> {
    let mut stream = SETTINGS.to_vec();
    push_frames(&mut stream, data, |kind, _, block| {
        let status: &[u8] = if kind & 2 != 0 { b"103" } else { b"200" };
        if kind & 4 == 0 {
            push_field(block, b":status", status);
        }
    });
    stream
}

/// Whole frames and nothing else, behind the preface of a client.
pub fn check(written: &[u8]) {
    let mut rest = written.strip_prefix(PREFACE).unwrap_or(written);
    while !rest.is_empty() {
        let (head, payload) = rest
            .split_at_checked(SETTINGS.len())
            .unwrap_or_else(|| panic!("half a head"));
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(payload.len() >= length, "half a frame");
        rest = &payload[length..];
    }
}

/// Runs it where timers can be made; none of them runs out.
pub fn with_timers(body: impl FnOnce()) {
    RUNTIME.with(|runtime| {
        let _entered = runtime.enter();
        body();
    });
}

fn push_frames(
    stream: &mut Vec<u8>,
    data: &[u8],
    pseudo_fields: impl Fn(u8, &mut &[u8], &mut Vec<u8>),
) {
    let mut rest = data;
    while let Some((&kind, after)) = rest.split_first() {
        rest = after;
        if kind < 0x80 {
            let [flags, id] = [(); 2].map(|()| take(&mut rest));
            let payload = take_text(&mut rest);
            push_frame(stream, kind & 15, flags, id, payload);
            continue;
        }
        let id = take(&mut rest);
        let mut block = Vec::new();
        pseudo_fields(kind, &mut rest, &mut block);
        for _ in 0..take(&mut rest) & 3 {
            let [name, value] = [(); 2].map(|()| take_text(&mut rest));
            push_field(&mut block, name, value);
        }
        push_frame(stream, 1, 4 | kind & 1, id, &block);
    }
}

fn push_frame(stream: &mut Vec<u8>, kind: u8, flags: u8, id: u8, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    stream.extend_from_slice(&length[1..]);
    stream.extend_from_slice(&[kind, flags, 0, 0, 0, id]);
    stream.extend_from_slice(payload);
}

/// A literal without indexing (RFC 7541 §6.2.2), cut to the lengths that fit seven bits.
fn push_field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        let text = &text[..text.len().min(126)];
        block.push(text.len() as u8);
        block.extend_from_slice(text);
    }
}

fn take(bytes: &mut &[u8]) -> u8 {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    *bytes = rest;
    *first
}

/// A length, and so many bytes or what is left.
fn take_text<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::from(take(bytes));
    let (taken, rest) = bytes.split_at(length.min(bytes.len()));
    *bytes = rest;
    taken
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Empty ones.
pub const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
}
