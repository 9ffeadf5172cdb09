//! An upstream's HTTP/1.1 answer through the proxy's own reader and writer, held against [`strict`].
//!
//! An answer is taken only where the strict reader takes the same one. What the client gets is one whole answer of
//! the same content, or one that is visibly cut; a tunnel begins only behind a handshake that is right. What it
//! hears before is heads alone.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderMap;
use http::response::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::requests::{fields_of, is_small, may_trail};
use super::site::HEAD;
use super::strict::{self, Broken, Field, Head, Message, sorted};
use super::wire::{Whole, Wire, finish};
use crate::config::model::HeaderEdits;
use crate::forward;
use crate::handshake::{self, Offer};
use crate::http1::client::{Connection, Heard, RequestHead, ResponseBody, Upload};
use crate::http1::{BodyFault, server};

/// Any bytes from an upstream.
pub fn answer(data: &[u8]) {
    if let Some((&[options, piece], stream)) = data.split_first_chunk() {
        relay(options, piece, stream);
    }
}

/// A chunked body behind a head that is right.
pub fn chunked(piece: u8, body: &[u8]) {
    let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    relay(0, piece, &[head, body].concat());
}

/// Relays one answer. `options`: 1 to a HEAD, 2 to a handshake, 4 to a client of HTTP/1.0.
fn relay(options: u8, piece: u8, stream: &[u8]) {
    let websocket = options & 2 != 0;
    let method = match options & 1 != 0 && !websocket {
        true => Method::HEAD,
        false => Method::GET,
    };
    let mut upstream = Connection::new(Wire::new(stream, piece).0);
    let mut upload = Upload::<Whole>::none();
    let request = RequestHead::new(&method, &["/"], &HeaderMap::new(), None);
    upstream.begin(&request, &mut upload);
    let mut rest = stream;
    let (interims, head) = heads(&mut rest);
    let mut interims = interims.into_iter();
    let mut behind = stream;
    let reference = head.clone().and_then(|head| {
        let framing = strict::response_framing(&head, method.as_str())?;
        behind = rest;
        strict::body(&mut behind, head, framing, true)
    });
    let mut parts = loop {
        match finish(|cx| upstream.poll_heard(&mut upload, HEAD, cx)) {
            Ok(Heard::Answer(parts)) => break parts,
            Ok(Heard::Interim(parts)) => check_interim(parts, interims.next()),
            Err(fault) => {
                if let Ok(message) = &reference {
                    // Statuses end at 599 (RFC 9110 §15).
                    let is_known = *message.head.start[1] < *"600";
                    let is_first = stream.len() == rest.len() + message.head.size;
                    let is_plain = is_small(message) && is_known && is_first;
                    assert!(!is_plain, "{fault}: {message:?}");
                }
                return;
            }
        }
    };
    let head = head.unwrap_or_else(|broken| panic!("it was taken, and is {broken:?}"));
    assert_eq!(parts.status.as_str(), head.start[1]);
    assert_eq!(format!("{:?}", parts.version), head.start[0]);
    assert_eq!(fields_of(&parts.headers), sorted(head.fields.clone()));

    if websocket && handshake::verify_upstream(&offer(), &parts).is_ok() {
        check_handshake(&head);
        let (_, early) = upstream.into_upgraded();
        assert!(rest.starts_with(&early), "a tunnel begins with {early:?}");
        return;
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    forward::downstream_response(&mut parts, false);
    let body = Lent(Arc::new(Mutex::new(upstream.into_body(upload))));
    let source = Arc::clone(&body.0);
    let response = Response::from_parts(parts, body);
    let (written, sent) = send(&method, options & 4 != 0, response, || {});
    check_sent(&written, sent, method.as_str(), &head.fields, &reference);

    let Some(body) = Arc::into_inner(source) else {
        panic!("an answer that is over holds its body");
    };
    let body = body.into_inner().unwrap_or_else(PoisonError::into_inner);
    if body.into_connection().is_some() {
        assert!(reference.is_ok(), "it is used again behind {reference:?}");
        assert_eq!(head.start[0], "HTTP/1.1");
        assert!(!head.connection_says("close"));
    }
}

/// The heads before the answer that counts, and its own.
fn heads(bytes: &mut &[u8]) -> (Vec<Head>, Result<Head, Broken>) {
    let mut interims = Vec::new();
    loop {
        match strict::response_head(bytes) {
            Ok(head) if head.start[1].starts_with('1') && head.start[1] != "101" => {
                interims.push(head);
            }
            head => return (interims, head),
        }
    }
}

/// An interim answer becomes one head, which says nothing but what `received` does and of that nothing that is of
/// one connection or frames a message.
fn check_interim(mut parts: Parts, received: Option<Head>) {
    let Some(received) = received else {
        panic!("{} is invented", parts.status);
    };
    assert_eq!(parts.status.as_str(), received.start[1]);
    let fields = sorted(received.fields);
    assert_eq!(fields_of(&parts.headers), fields);
    forward::interim_response(&mut parts.headers, &HeaderEdits::default());
    let (wire, far) = Wire::new(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", u8::MAX);
    let mut client = server::Connection::new(wire, HEAD);
    let asked = finish(|cx| client.poll_request(cx));
    assert!(matches!(asked, Ok(Some(_))));
    let herald = client.herald();
    finish(|cx| {
        herald.say(&parts, cx);
        Poll::Ready(())
    });
    let written = far.written();
    let mut rest = &written[..];
    let head = strict::response_head(&mut rest)
        .unwrap_or_else(|broken| panic!("the client is told {broken:?}"));
    assert!(rest.is_empty(), "the client is told more than a head");
    assert_eq!(head.start[1], received.start[1]);
    for field in &head.fields {
        assert!(fields.contains(field), "{field:?} is invented");
        let name = &*field.0;
        let frames = name == "content-length" || name == "trailer";
        assert!(!frames && !GONE.contains(&name), "{name} is told");
    }
    assert_eq!(sorted(head.fields), fields_of(&parts.headers));
}

/// What the client gets, and whether it was all. `drive` is polled beside it.
pub fn send<B>(
    method: &Method,
    old: bool,
    response: Response<B>,
    mut drive: impl FnMut(),
) -> (Vec<u8>, bool)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let version = if old { "1.0" } else { "1.1" };
    let request = format!("{method} / HTTP/{version}\r\nHost: a.test\r\n\r\n");
    let (wire, far) = Wire::new(request.as_bytes(), u8::MAX);
    let mut client = server::Connection::new(wire, HEAD);
    let asked = finish(|cx| client.poll_request(cx));
    assert!(matches!(asked, Ok(Some(_))));
    let mut answer = client.begin_answer(response);
    let sent = finish(|cx| {
        drive();
        client.poll_answer(&mut answer, cx)
    });
    (far.written(), sent.is_ok())
}

/// `reference` is what came of the answer with the head `received`.
pub fn check_sent(
    written: &[u8],
    sent: bool,
    method: &str,
    received: &[Field],
    reference: &Result<Message, Broken>,
) {
    let mut bytes = written;
    let head = strict::response_head(&mut bytes)
        .unwrap_or_else(|broken| panic!("the client gets {broken:?}"));
    let framing = strict::response_framing(&head, method)
        .unwrap_or_else(|broken| panic!("the client gets {broken:?}"));
    for (name, value) in &head.fields {
        let pair = (name.clone(), value.clone());
        // What it asks for is a WebSocket, if anything.
        let asks = head.start[1] == "426" && name == "upgrade" && value == b"websocket";
        let is_ours = asks || OURS.contains(&&**name);
        assert!(is_ours || received.contains(&pair), "{name} is invented");
        assert!(
            asks || !GONE.contains(&&**name),
            "{name} is the upstream's alone"
        );
    }
    let message = strict::body(&mut bytes, head, framing, false);
    match (sent, reference) {
        (true, Ok(reference)) => {
            let message = message.unwrap_or_else(|broken| panic!("the client gets {broken:?}"));
            assert!(bytes.is_empty(), "the client gets more than an answer");
            assert_eq!(message.body, reference.body);
            for trailer in &message.trailers {
                assert!(reference.trailers.contains(trailer), "{trailer:?}");
                assert!(may_trail(&trailer.0), "{trailer:?}");
            }
        }
        (true, Err(broken)) => panic!("the client gets all of an answer that came {broken:?}"),
        (false, reference) => {
            if framing != strict::Framing::UntilClose {
                assert_eq!(message.err(), Some(Broken::Cut), "it looks whole");
            }
            if let Ok(reference) = reference {
                assert!(!is_small(reference), "its body is right");
            }
        }
    }
}

/// RFC 6455 §4.1, for a client that offers nothing.
fn check_handshake(head: &Head) {
    let upgrade = head.only("upgrade").map(<[u8]>::to_ascii_lowercase);
    assert_eq!(head.start[1], "101");
    assert_eq!(upgrade.as_deref(), Some(&b"websocket"[..]));
    assert!(head.connection_says("upgrade"));
    let accept = head.only("sec-websocket-accept");
    assert_eq!(accept, Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..]));
    assert!(head.values("sec-websocket-protocol").is_empty());
    let extensions = head.values("sec-websocket-extensions");
    let named = |value: &[u8]| value.iter().any(|byte| !b" \t,".contains(byte));
    assert!(!extensions.into_iter().any(named));
}

/// That of RFC 6455 §1.3.
fn offer() -> Offer {
    Offer {
        key: "dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
        subprotocols: Vec::new(),
        extensions: Vec::new(),
    }
}

/// The body of an answer as `body::ResponseBody` hands it on; whoever lent it sees what became of it.
struct Lent(Arc<Mutex<ResponseBody<Wire>>>);

impl Lent {
    fn body(&self) -> MutexGuard<'_, ResponseBody<Wire>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let polled = Pin::new(&mut *self.body()).poll_frame(cx);
        polled.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                forward::clean_trailers(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

/// Fields that are said anew.
const OURS: [&str; 4] = ["connection", "date", "content-length", "transfer-encoding"];

/// Fields that never pass.
const GONE: [&str; 5] = [
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "te",
    "proxy-authenticate",
];
