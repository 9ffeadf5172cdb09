//! A client's HTTP/1.1 connection through the proxy's own reader, decisions and writer, held against [`strict`].
//!
//! A request is taken only where the strict reader takes the same one. What goes to the upstream is one whole
//! request of the same content, or one that is visibly cut; the next hop decides about it as this one did.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::site::{Decision, From, HEAD, SITE};
use super::strict::{self, Broken, Field, Head, Message, sorted};
use super::target;
use super::wire::{Whole, Wire, finish};
use crate::forward::{self, Circumstances};
use crate::handshake::{self, Kind};
use crate::http1::client::{self, Upload};
use crate::http1::{Framing, HeadLimits, server};

/// Any bytes from a client.
pub fn requests(data: &[u8]) {
    if let Some((&[options, piece], stream)) = data.split_first_chunk() {
        serve(options, piece, stream);
    }
}

/// A chunked body behind a head that is right.
pub fn chunked(piece: u8, body: &[u8]) {
    let head: &[u8] = b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    serve(0, piece, &[head, body].concat());
}

/// Serves a client as long as it may go on. `options`: 1, it is a trusted proxy.
fn serve(options: u8, piece: u8, stream: &[u8]) {
    let from = match options & 1 != 0 {
        true => From::Trusted,
        false => From::Stranger,
    };
    let (wire, far) = Wire::new(stream, piece);
    let mut connection = server::Connection::new(wire, HEAD);
    let mut rest = stream;
    let mut answered = Vec::new();
    loop {
        let mut behind = rest;
        let reference = strict::request(&mut behind);
        let request = match finish(|cx| connection.poll_request(cx)) {
            Ok(Some(request)) => request,
            Ok(None) => {
                assert!(matches!(rest, b"" | b"\r\n"), "something was left out");
                break;
            }
            Err(server::Fault::Refused(violation)) => {
                if let Ok(message) = &reference {
                    assert!(!is_plain(message), "{violation}: {message:?}");
                }
                answered.push("GET".to_owned());
                answer(&mut connection, StatusCode::BAD_REQUEST, true);
                break;
            }
            Err(server::Fault::Io(_)) => {
                assert_eq!(reference.err(), Some(Broken::Cut));
                break;
            }
            Err(server::Fault::Http2) => panic!("nobody asked to be told"),
        };
        let (mut parts, body) = request.into_parts();
        let head = strict::request_head(&mut rest)
            .unwrap_or_else(|broken| panic!("it was taken, and is {broken:?}"));
        check_head(&head, &parts);
        check_framing(&head, &body);
        let must_close = handshake::asks_for_websocket(&parts.headers);
        answered.push(parts.method.to_string());
        let decided = SITE.decide(&mut parts, &from.facts(), body.is_end_stream());
        let status = match decided {
            Ok(decision) => {
                forward(&parts, &head, &decision, from, body, &reference);
                match decision.kind {
                    Kind::Plain => StatusCode::OK,
                    Kind::WebSocket(_) => StatusCode::SWITCHING_PROTOCOLS,
                }
            }
            Err(rejection) => rejection.status,
        };
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let close = !switches && (must_close || status == StatusCode::BAD_REQUEST);
        let goes_on = answer(&mut connection, status, close);
        if switches {
            let (_, early) = connection
                .into_stream()
                .unwrap_or_else(|| panic!("it is lent"));
            assert!(behind.starts_with(&early), "a tunnel begins with {early:?}");
            break;
        }
        if !goes_on {
            break;
        }
        assert!(reference.is_ok(), "it goes on behind {reference:?}");
        rest = behind;
    }
    let written = far.written();
    let mut bytes = &written[..];
    for method in answered {
        strict::response(&mut bytes, &method)
            .unwrap_or_else(|broken| panic!("the answer is {broken:?}"));
    }
    assert!(bytes.is_empty(), "more than the answers was said");
}

/// Answers, and tells whether the connection goes on.
fn answer(connection: &mut server::Connection<Wire>, status: StatusCode, close: bool) -> bool {
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let text: &'static [u8] = if switches { b"" } else { b"said" };
    let mut response = Response::new(Whole(Bytes::from_static(text)));
    *response.status_mut() = status;
    if close {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    let mut answer = connection.begin_answer(response);
    finish(|cx| connection.poll_answer(&mut answer, cx))
        .unwrap_or_else(|error| panic!("the answer did not go out: {error}"));
    let goes_on = connection.may_go_on(&answer);
    assert!(!(goes_on && close), "it was to be closed");
    goes_on
}

/// Sends an admitted request on, and sees what comes out.
pub fn forward<B>(
    parts: &Parts,
    received: &Head,
    decision: &Decision,
    from: From,
    body: B,
    reference: &Result<Message, Broken>,
) where
    B: Body<Data = Bytes> + Unpin,
{
    let websocket = matches!(decision.kind, Kind::WebSocket(_));
    let framing = framing_of(&parts.method, &body);
    let conn = from.facts();
    let facts = &decision.facts;
    let about = Circumstances {
        facts,
        conn: &conn,
        websocket,
    };
    let head = forward::straight_head(parts, &facts.path, about, framing)
        .unwrap_or_else(|error| panic!("{error}"));

    let (wire, far) = Wire::new(b"HTTP/1.1 204 No Content\r\n\r\n", u8::MAX);
    far.hold(usize::MAX);
    let mut upstream = client::Connection::new(wire);
    let mut upload = match body.is_end_stream() {
        true => Upload::none(),
        false => Upload::of(Cleaned(body), framing.unwrap_or(Framing::Chunked)),
    };
    upstream.begin(&head, &mut upload);
    let sent = finish(|cx| {
        let polled = upstream.poll_answer(&mut upload, HEAD, cx);
        // No server answers before it has all.
        far.hold(if upload.is_finished() { 0 } else { usize::MAX });
        polled
    });

    let written = far.written();
    let mut bytes = &written[..];
    let forwarded = strict::request(&mut bytes);
    match (sent, reference) {
        (Ok(_), Ok(reference)) => {
            let forwarded = forwarded.unwrap_or_else(|broken| panic!("forwarded: {broken:?}"));
            assert!(bytes.is_empty(), "more than one request went out");
            assert_eq!(forwarded.body, reference.body);
            for trailer in &forwarded.trailers {
                assert!(reference.trailers.contains(trailer), "{trailer:?}");
                assert!(may_trail(&trailer.0), "{trailer:?}");
            }
            check_forwarded(&forwarded.head, received, parts, decision, from);
            check_next_hop(&written, parts, decision);
        }
        (Ok(_), Err(broken)) => panic!("a request went out that came {broken:?}"),
        (Err(_), reference) => {
            assert_eq!(forwarded.err(), Some(Broken::Cut), "it looks whole");
            if let Ok(reference) = reference {
                assert!(!is_plain(reference), "its body is right");
            }
        }
    }
}

/// As `flow::forwarding` says the end of a body.
fn framing_of(method: &Method, body: &impl Body) -> Option<Framing> {
    if body.is_end_stream() {
        let usual = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        return usual.then_some(Framing::Length(0));
    }
    Some(
        body.size_hint()
            .exact()
            .map_or(Framing::Chunked, Framing::Length),
    )
}

fn check_head(head: &Head, parts: &Parts) {
    let [method, target, version] = &head.start;
    assert_eq!(parts.method.as_str(), method);
    assert_eq!(format!("{:?}", parts.version), *version);
    if target.starts_with('/') {
        assert_eq!(parts.uri.to_string(), *target);
    }
    assert_eq!(fields_of(&parts.headers), sorted(head.fields.clone()));
}

fn check_framing(head: &Head, body: &impl Body) {
    let size = body.size_hint().exact();
    let framing = strict::request_framing(head);
    match framing {
        Ok(strict::Framing::Nothing | strict::Framing::Length(0)) => {
            assert!(body.is_end_stream());
        }
        Ok(strict::Framing::Length(length)) => assert_eq!(size, Some(length)),
        Ok(strict::Framing::Chunked) => assert_eq!(size, None),
        broken => panic!("a body was found where there is {broken:?}"),
    }
}

fn check_forwarded(head: &Head, received: &Head, parts: &Parts, decision: &Decision, from: From) {
    let facts = &decision.facts;
    let trusted = from != From::Stranger;
    let only = |name: &str, value: &str| {
        assert_eq!(head.only(name), Some(value.as_bytes()), "{name}: {head:?}");
    };
    let target = match &facts.query {
        Some(query) => format!("{}?{query}", facts.path),
        None => facts.path.to_string(),
    };
    assert_eq!(head.start, [parts.method.as_str(), &target, "HTTP/1.1"]);
    if &*facts.path != "*" {
        target::check_normal(&facts.path);
    }
    only("host", &facts.authority);
    only("x-real-ip", &facts.client_ip.to_string());
    only("x-forwarded-proto", facts.scheme);
    only("x-request-id", &facts.request_id);
    let ours = from.ip().to_string();
    let chain = head.only("x-forwarded-for").map(String::from_utf8_lossy);
    let chain = chain.unwrap_or_else(|| panic!("no X-Forwarded-For: {head:?}"));
    assert_eq!(chain.rsplit(", ").next(), Some(&*ours));
    if !trusted {
        assert_eq!(chain, ours);
        only("x-forwarded-host", &facts.authority);
    }
    match decision.kind {
        Kind::WebSocket(_) => {
            only("connection", "Upgrade");
            only("upgrade", "websocket");
        }
        Kind::Plain => {
            assert!(head.values("upgrade").is_empty());
            assert!(
                matches!(head.values("connection")[..], [] | [b"te"]),
                "{head:?}"
            );
            assert!(
                matches!(head.values("te")[..], [] | [b"trailers"]),
                "{head:?}"
            );
        }
    }
    for (name, value) in &head.fields {
        assert!(!GONE.contains(&&**name) && !name.contains('_'), "{name}");
        let pair = (name.clone(), value.clone());
        let is_ours = OURS.contains(&&**name);
        assert!(
            is_ours || received.fields.contains(&pair),
            "{name} is invented"
        );
        let proxies = name == "forwarded" || name.starts_with("x-forwarded-");
        assert!(is_ours || trusted || !proxies, "{name} is a stranger's");
    }
}

/// The next proxy, which trusts this one, is of the same mind.
fn check_next_hop(bytes: &[u8], before: &Parts, decision: &Decision) {
    let limits = HeadLimits {
        size: 1 << 16,
        fields: 100,
    };
    let mut connection = server::Connection::new(Wire::new(bytes, u8::MAX).0, limits);
    let request = finish(|cx| connection.poll_request(cx));
    let Ok(Some(request)) = request else {
        panic!("the next hop refuses it: {:?}", request.err());
    };
    let (mut parts, body) = request.into_parts();
    let again = SITE.decide(&mut parts, &From::NextHop.facts(), body.is_end_stream());
    let facts = &decision.facts;
    match again {
        Ok(again) => {
            assert_eq!(parts.method, before.method);
            assert_eq!(again.kind, decision.kind);
            let told = again.facts;
            assert_eq!(
                (told.host, told.path),
                (facts.host.clone(), facts.path.clone())
            );
            assert_eq!(told.authority, facts.authority);
            assert_eq!(told.query, facts.query);
            assert_eq!(told.client_ip, facts.client_ip);
            assert_eq!(told.scheme, facts.scheme);
            assert_eq!(told.request_id, facts.request_id);
        }
        // What had to be escaped has become longer.
        Err(rejection) => assert_eq!(rejection.reason, "target_too_long"),
    }
}

/// What no reader has a reason to refuse.
fn is_plain(message: &Message) -> bool {
    let [method, target, version] = &message.head.start;
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~%?=&".contains(&byte);
    method.len() <= 32
        && target.starts_with('/')
        && target.bytes().all(is_usual)
        && version == "HTTP/1.1"
        && is_small(message)
}

/// Within the limits, and without the parts that have limits of their own.
pub fn is_small(message: &Message) -> bool {
    let head = &message.head;
    let length = head.only("content-length").unwrap_or_default();
    head.size <= HEAD.size
        && head.fields.len() <= HEAD.fields
        && length.len() < 19
        && (length == b"0" || !length.starts_with(b"0"))
        && message.extensions == 0
        && message.trailers.is_empty()
}

/// The fields of a map by name, those of one name in their order.
pub fn fields_of(headers: &HeaderMap) -> Vec<Field> {
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    sorted(fields.collect())
}

/// Whether trailers may hold it behind a proxy.
pub fn may_trail(name: &str) -> bool {
    !OURS.contains(&name)
        && !GONE.contains(&name)
        && !name.starts_with("x-forwarded-")
        && !name.starts_with("content-")
        && !["authorization", "cookie", "set-cookie", "trailer"].contains(&name)
}

/// The body of a request as `body::RequestBody` hands it on.
struct Cleaned<B>(B);

impl<B: Body<Data = Bytes> + Unpin> Body for Cleaned<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        polled.map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                forward::clean_request_trailers(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Fields that are said anew.
const OURS: [&str; 11] = [
    "host",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
    "connection",
    "upgrade",
    "te",
    "content-length",
    "transfer-encoding",
];

/// Fields that never pass.
const GONE: [&str; 6] = [
    "keep-alive",
    "proxy-connection",
    "proxy",
    "proxy-authorization",
    "expect",
    "x-client-cert-subject",
];
