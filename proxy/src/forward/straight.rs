//! The head of a request that no filter and no edit looks at, written in one pass.
//!
//! It says what [`prepare_request`](super::prepare_request),
//! [`upstream_request`](super::upstream_request) and [`request_head`](super::request_head) make of a
//! request together, and a test holds them to that. But nothing is taken out of the header map, ours
//! never goes in, and no value is made only to be copied: a third of the cost.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, TE};
use http::request;

use super::{
    BadUpstreamRequest, CLIENT_SUBJECT_HEADER, Field, X_FORWARDED_HOST, X_REAL_IP, asks_trailers,
    fits_request_line, named_by_connection, push_address,
};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::http1::Framing;
use crate::http1::client::{Fields, RequestHead};
use crate::request::{X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID};

/// What is known of a request beside its head.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub facts: &'a RequestFacts,
    pub conn: &'a ConnectionFacts,
    /// It is a WebSocket handshake, and gets upgrade fields of our own.
    pub websocket: bool,
}

/// The head as it goes to the upstream, straight from the client's: origin form with the path
/// (after rewriting) and the query.
pub fn straight_head(
    parts: &request::Parts,
    path: &str,
    about: Circumstances<'_>,
    framing: Option<Framing>,
) -> Result<RequestHead, BadUpstreamRequest> {
    let facts = about.facts;
    let query = facts.query.as_deref().unwrap_or_default();
    if !fits_request_line(path) || !fits_request_line(query) {
        return Err(BadUpstreamRequest("target"));
    }
    if !is_value(&facts.authority) {
        return Err(BadUpstreamRequest("host"));
    }
    let mark = if facts.query.is_some() { "?" } else { "" };
    let target = [path, mark, query];
    Ok(RequestHead::write(
        &parts.method,
        &target,
        framing,
        |fields| {
            fields.put("host", facts.authority.as_bytes());
            let passed = pass_on(&parts.headers, facts.peer_trusted, fields);
            put_forwarding(&parts.headers, &about, passed.forwarded_host, fields);
            if about.websocket {
                fields.put("connection", b"Upgrade");
                fields.put("upgrade", b"websocket");
            } else if passed.te_trailers {
                fields.put("te", b"trailers");
                fields.put("connection", b"te");
            }
        },
    ))
}

/// What was met among the client's fields.
#[derive(Default)]
struct Passed {
    te_trailers: bool,
    forwarded_host: bool,
}

/// Copies the client's fields that may pass.
fn pass_on(headers: &HeaderMap, peer_trusted: bool, fields: &mut Fields) -> Passed {
    let named = named_by_connection(headers);
    let mut passed = Passed::default();
    for (name, value) in headers {
        let field = Field::of(name);
        let passes = match field {
            Field::HopByHop => {
                passed.te_trailers |= *name == TE && asks_trailers(value);
                false
            }
            Field::Upgrade | Field::Host | Field::OneHopRequest | Field::ClientSubject => false,
            Field::Forwarding => {
                passed.forwarded_host |= peer_trusted && *name == X_FORWARDED_HOST;
                peer_trusted && !is_replaced(name)
            }
            // The body's framing is said anew.
            Field::Length => *name != CONTENT_LENGTH,
            Field::Handshake => true,
            Field::OneHopResponse | Field::Other => !named.contains(name),
        };
        if passes {
            fields.put(name.as_str(), value.as_bytes());
        }
    }
    passed
}

fn put_forwarding(
    headers: &HeaderMap,
    about: &Circumstances<'_>,
    has_forwarded_host: bool,
    fields: &mut Fields,
) {
    let (facts, conn) = (about.facts, about.conn);
    fields.put_with(X_FORWARDED_FOR.as_str(), |line| {
        if facts.peer_trusted {
            for before in headers.get_all(X_FORWARDED_FOR) {
                line.extend_from_slice(before.as_bytes());
                line.extend_from_slice(b", ");
            }
        }
        push_address(line, conn.peer.ip());
    });
    fields.put_with(X_REAL_IP.as_str(), |line| {
        push_address(line, facts.client_ip);
    });
    fields.put(X_FORWARDED_PROTO.as_str(), facts.scheme.as_bytes());
    if !has_forwarded_host {
        fields.put(X_FORWARDED_HOST.as_str(), facts.authority.as_bytes());
    }
    fields.put(X_REQUEST_ID.as_str(), facts.request_id.as_bytes());
    let tls = conn.tls.as_ref();
    let subject = tls.and_then(|tls| tls.client_subject.as_deref());
    // One that no field can hold is left out rather than cut in two.
    if let Some(subject) = subject.filter(|subject| is_value(subject)) {
        fields.put(CLIENT_SUBJECT_HEADER.as_str(), subject.as_bytes());
    }
}

/// A forwarding field that we say ourselves whatever a trusted peer says.
fn is_replaced(name: &HeaderName) -> bool {
    [X_FORWARDED_FOR, X_REAL_IP, X_FORWARDED_PROTO, X_REQUEST_ID].contains(name)
}

/// Visible ASCII with blanks between.
fn is_value(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Peer, TlsFacts};
    use crate::forward::{prepare_request, request_head, upstream_request};

    fn facts(peer_trusted: bool, query: Option<&str>) -> RequestFacts {
        RequestFacts {
            peer_trusted,
            client_ip: "203.0.113.9".parse().unwrap(),
            scheme: "https",
            host: "ws.example.com".into(),
            authority: "ws.example.com:8443".into(),
            path: "/client".into(),
            query: query.map(Into::into),
            request_id: "0123".into(),
        }
    }

    fn conn(subject: Option<&str>) -> ConnectionFacts {
        ConnectionFacts {
            peer: Peer::Ip("[2001:db8::1]:5".parse().unwrap()),
            listener: "test".into(),
            tls: Some(Box::new(TlsFacts {
                version: "TLSv1.3",
                cipher: "TLS13_AES_128_GCM_SHA256",
                sni: None,
                client_subject: subject.map(Into::into),
                resumed: false,
                http2: false,
            })),
        }
    }

    /// The request line, then the field lines by name.
    fn lines(head: &RequestHead) -> Vec<String> {
        let text = String::from_utf8(head.bytes().to_vec()).unwrap();
        let mut lines: Vec<String> = text.split_inclusive("\r\n").map(str::to_owned).collect();
        let fields = 1..lines.len();
        lines[fields].sort_by_key(|line| line.split(':').next().map(str::to_owned));
        lines
    }

    fn field() -> impl Strategy<Value = (&'static str, &'static str)> {
        let names = prop::sample::select(vec![
            "accept",
            "connection",
            "content-length",
            "expect",
            "forwarded",
            "host",
            "keep-alive",
            "origin",
            "proxy",
            "proxy-authenticate",
            "sec-websocket-key",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "x-client-cert-subject",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-one",
            "x-real-ip",
            "x-request-id",
            "x-two",
        ]);
        let values = prop::sample::select(vec![
            "",
            "close, X-One, x-two",
            "upgrade,origin,Accept,proxy-authenticate",
            "host, sec-websocket-key, x-forwarded-for, trailer",
            "gzip, Trailers",
            "trailers",
            "10.0.0.7",
            "h\u{e9}",
        ]);
        (names, values)
    }

    proptest! {
        #[test]
        fn both_ways_give_the_same_head(
            fields in prop::collection::vec(field(), 0..12),
            peer_trusted: bool,
            websocket: bool,
            query in prop::sample::select(vec![None, Some(""), Some("a=1")]),
            subject in prop::sample::select(vec![None, Some("CN=x"), Some("a\r\nX-Admin: 1")]),
            framing in prop::sample::select(vec![
                None,
                Some(Framing::Length(12)),
                Some(Framing::Chunked),
            ]),
        ) {
            let (mut parts, ()) = Request::new(()).into_parts();
            for (name, value) in fields {
                parts.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let (facts, conn) = (facts(peer_trusted, query), conn(subject));
            let about = Circumstances { facts: &facts, conn: &conn, websocket };
            let straight = straight_head(&parts, "/x", about, framing).unwrap();

            prepare_request(&mut parts.headers, &facts, &conn);
            upstream_request(&mut parts.headers, &facts, websocket).unwrap();
            let step_by_step = request_head(&parts, "/x", query, framing).unwrap();
            prop_assert_eq!(lines(&straight), lines(&step_by_step));
        }
    }

    #[test]
    fn what_no_request_may_hold_is_refused() {
        let (parts, ()) = Request::new(()).into_parts();
        let conn = conn(None);
        let fits = |path: &str, facts: &RequestFacts| {
            let about = Circumstances {
                facts,
                conn: &conn,
                websocket: false,
            };
            straight_head(&parts, path, about, None).is_ok()
        };
        assert!(fits("/x", &facts(false, Some("q"))));
        assert!(!fits("/a b", &facts(false, None)));
        assert!(!fits("/x", &facts(false, Some("a\r\nb"))));
        let bad_host = RequestFacts {
            authority: "a\r\nb".into(),
            ..facts(false, None)
        };
        assert!(!fits("/x", &bad_host));
    }
}
