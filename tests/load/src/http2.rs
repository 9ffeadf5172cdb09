//! The frames of HTTP/2 that both ends of the benchmark speak, and the windows that bound what an end may send
//! (RFC 9113, sections 4 and 5.2).
//!
//! No IO, and not for strangers' bytes: what neither end needs to understand is ignored.

use std::collections::BTreeMap;

use crate::failure::{Failure, Result};

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// A frame's head, its payload, and what follows it.
pub(crate) type Split<'a> = (Head, &'a [u8], &'a [u8]);

/// What an end still may send on a connection and on each of its streams, and what waits until it may.
pub(crate) struct Outlet {
    window: i64,
    /// Window that a new stream begins with.
    initial: i64,
    streams: BTreeMap<u32, Outgoing>,
}

struct Outgoing {
    window: i64,
    waiting: Vec<u8>,
    /// The stream ends behind what waits.
    ends: bool,
}

/// What came in and was not given back yet to the window of a connection or of a stream.
#[derive(Debug, Default)]
pub(crate) struct Debt(usize);

impl Head {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Outlet {
    pub(crate) fn new() -> Outlet {
        Outlet {
            window: FIRST_WINDOW,
            initial: FIRST_WINDOW,
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn open(&mut self, stream: u32) {
        self.streams.insert(
            stream,
            Outgoing {
                window: self.initial,
                waiting: Vec::new(),
                ends: false,
            },
        );
    }

    pub(crate) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Puts DATA frames with `bytes` into `out`, as far as the windows allow; the rest waits. A stream that
    /// `ends` is forgotten once all is out; one that is not open takes nothing.
    pub(crate) fn send(&mut self, stream: u32, bytes: &[u8], ends: bool, out: &mut Vec<u8>) {
        let Some(outgoing) = self.streams.get_mut(&stream) else {
            return;
        };
        outgoing.ends |= ends;
        let mut sent = 0;
        if outgoing.waiting.is_empty() {
            sent = outgoing.put(stream, bytes, &mut self.window, out);
        }
        outgoing.waiting.extend_from_slice(&bytes[sent..]);
        if outgoing.is_done() {
            self.close(stream);
        }
    }

    /// Obeys the payload of a SETTINGS frame. Returns the value of `wanted`, if it is among them.
    pub(crate) fn obey(&mut self, payload: &[u8], wanted: u16, out: &mut Vec<u8>) -> Option<u32> {
        let mut found = None;
        let (settings, _) = payload.as_chunks::<6>();
        for &[name_high, name_low, a, b, c, d] in settings {
            let name = u16::from_be_bytes([name_high, name_low]);
            let value = u32::from_be_bytes([a, b, c, d]);
            if name == INITIAL_WINDOW_SIZE {
                let change = i64::from(value) - self.initial;
                self.initial += change;
                for outgoing in self.streams.values_mut() {
                    outgoing.window += change;
                }
                self.resume(out);
            }
            if name == wanted {
                found = Some(value);
            }
        }
        found
    }

    /// Takes a WINDOW_UPDATE frame in; what waited for it goes into `out`.
    ///
    /// # Errors
    /// When it is malformed.
    pub(crate) fn grant(&mut self, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let bytes = payload.try_into().map_err(Failure::of("a window update"))?;
        let bytes = i64::from(u32::from_be_bytes(bytes));
        if stream == 0 {
            self.window += bytes;
        } else if let Some(outgoing) = self.streams.get_mut(&stream) {
            outgoing.window += bytes;
        }
        self.resume(out);
        Ok(())
    }

    fn resume(&mut self, out: &mut Vec<u8>) {
        for (stream, outgoing) in &mut self.streams {
            if !outgoing.waiting.is_empty() {
                let waiting = std::mem::take(&mut outgoing.waiting);
                let sent = outgoing.put(*stream, &waiting, &mut self.window, out);
                outgoing.waiting.extend_from_slice(&waiting[sent..]);
            }
        }
        self.streams.retain(|_, outgoing| !outgoing.is_done());
    }
}

impl Outgoing {
    /// Returns how many bytes the windows had room for.
    fn put(&mut self, stream: u32, bytes: &[u8], window: &mut i64, out: &mut Vec<u8>) -> usize {
        let mut sent = 0;
        loop {
            let rest = &bytes[sent..];
            let room = usize::try_from(self.window.min(*window)).unwrap_or(0);
            let length = rest.len().min(room).min(LONGEST_FRAME);
            let last = self.ends && length == rest.len();
            if length == 0 && !last {
                return sent;
            }
            let flags = if last { END_STREAM } else { 0 };
            push_frame(DATA, flags, stream, &rest[..length], out);
            self.window -= length as i64;
            *window -= length as i64;
            sent += length;
            if sent == bytes.len() {
                return sent;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.ends && self.waiting.is_empty()
    }
}

impl Debt {
    /// Adds what came in; gives it back, seldom and in large pieces. `stream` 0 is the connection.
    pub(crate) fn add(&mut self, stream: u32, bytes: usize, out: &mut Vec<u8>) {
        self.0 += bytes;
        if self.0 >= WINDOW as usize / 2 {
            let bytes = (self.0 as u32).to_be_bytes();
            self.0 = 0;
            push_frame(WINDOW_UPDATE, 0, stream, &bytes, out);
        }
    }
}

/// Splits the first frame off; `None` while it is not whole.
///
/// # Errors
/// When it is longer than [`LONGEST_FRAME`].
pub(crate) fn split(bytes: &[u8]) -> Result<Option<Split<'_>>> {
    let &[a, b, c, kind, flags, s0, s1, s2, s3, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    let head = Head {
        length: u32::from_be_bytes([0, a, b, c]) as usize,
        kind,
        flags,
        stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
    };
    if head.length > LONGEST_FRAME {
        return Err(Failure::new("a frame that is too long"));
    }
    Ok(rest
        .split_at_checked(head.length)
        .map(|(payload, after)| (head, payload, after)))
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    push_frame(kind, flags, stream, payload, &mut frame);
    frame
}

pub(crate) fn push_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The SETTINGS that an end begins with, and a connection window as large as its streams'.
pub(crate) fn greeting(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings.iter().chain(&[(INITIAL_WINDOW_SIZE, WINDOW)]) {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    let mut greeting = frame(SETTINGS, 0, 0, &payload);
    let more = WINDOW - FIRST_WINDOW as u32;
    push_frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes(), &mut greeting);
    greeting
}

/// A field of HPACK that stays out of the tables, its name an entry of the static one (RFC 7541, section 6.2.2).
pub(crate) fn field(name: u8, value: &str) -> Vec<u8> {
    let mut field = match name.checked_sub(15) {
        None => vec![name],
        Some(more) => vec![15, more],
    };
    push_text(value, &mut field);
    field
}

/// The same with any name.
pub(crate) fn named_field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    push_text(name, &mut field);
    push_text(value, &mut field);
    field
}

/// No text of the benchmark is longer than 126 bytes.
fn push_text(text: &str, out: &mut Vec<u8>) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 32;

pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
/// RFC 8441.
pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;

/// Windows that both ends grant: larger than what is ever under way.
const WINDOW: u32 = 1 << 30;
/// What everybody may send before anything was said.
const FIRST_WINDOW: i64 = 65_535;
/// Nobody is allowed more.
const LONGEST_FRAME: usize = 16_384;

/// `:status: 200` of the static table.
pub(crate) const STATUS_200: u8 = 0x88;
/// `:method: GET`, `:scheme: http` and `:scheme: https` likewise.
pub(crate) const METHOD_GET: u8 = 0x82;
pub(crate) const SCHEME_HTTP: u8 = 0x86;
pub(crate) const SCHEME_HTTPS: u8 = 0x87;
/// Names in the static table.
pub(crate) const AUTHORITY: u8 = 1;
pub(crate) const METHOD: u8 = 2;
pub(crate) const PATH: u8 = 4;
pub(crate) const ACCEPT: u8 = 19;
pub(crate) const CONTENT_LENGTH: u8 = 28;
pub(crate) const CONTENT_TYPE: u8 = 31;
pub(crate) const SERVER: u8 = 54;
pub(crate) const USER_AGENT: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_split_off_only_when_it_is_whole() {
        let mut bytes = frame(DATA, END_STREAM, 5, b"hello");
        let length = bytes.len();
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
        for short in 0..length {
            assert!(split(&bytes[..short]).unwrap().is_none());
        }
        let (head, payload, after) = split(&bytes).unwrap().unwrap();
        assert_eq!((head.kind, head.stream, payload), (DATA, 5, &b"hello"[..]));
        assert_eq!(after.len(), HEAD + 8);
        assert!(split(&[1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    /// Payloads and streams of the DATA frames in `out`, which is emptied.
    fn data(out: &mut Vec<u8>) -> Vec<(u32, usize, bool)> {
        let bytes = std::mem::take(out);
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Some((head, _, after)) = split(rest).unwrap() {
            assert_eq!(head.kind, DATA);
            all.push((head.stream, head.length, head.has(END_STREAM)));
            rest = after;
        }
        assert!(rest.is_empty());
        all
    }

    #[test]
    fn nothing_is_sent_beyond_the_windows_and_what_waits_goes_in_order() {
        let (mut outlet, mut out) = (Outlet::new(), Vec::new());
        outlet.open(1);
        outlet.open(3);
        outlet.send(1, &[1; 60_000], false, &mut out);
        let whole = (1, LONGEST_FRAME, false);
        assert_eq!(data(&mut out), [whole, whole, whole, (1, 10_848, false)]);
        // The connection's window, then the stream's own.
        outlet.send(3, &[3; 10_000], true, &mut out);
        assert_eq!(data(&mut out), [(3, 5535, false)]);
        outlet.send(1, &[1; 6000], false, &mut out);
        assert_eq!(data(&mut out), []);
        outlet.grant(0, &20_000u32.to_be_bytes(), &mut out).unwrap();
        assert_eq!(data(&mut out), [(1, 5535, false), (3, 4465, true)]);
        let mut wider = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        wider.extend_from_slice(&65_540u32.to_be_bytes());
        assert_eq!(outlet.obey(&wider, ENABLE_PUSH, &mut out), None);
        assert_eq!(data(&mut out), [(1, 5, false)]);
        outlet.grant(1, &1000u32.to_be_bytes(), &mut out).unwrap();
        assert_eq!(data(&mut out), [(1, 460, false)]);
        // 3 has ended and is gone.
        outlet.send(3, b"more", false, &mut out);
        outlet.send(1, b"", true, &mut out);
        assert_eq!(data(&mut out), [(1, 0, true)]);
    }

    #[test]
    fn a_window_is_given_back_by_halves() {
        let (mut debt, mut out) = (Debt::default(), Vec::new());
        debt.add(7, WINDOW as usize / 2 - 1, &mut out);
        assert!(out.is_empty());
        debt.add(7, 1, &mut out);
        assert_eq!(out, frame(WINDOW_UPDATE, 0, 7, &(WINDOW / 2).to_be_bytes()));
    }
}
