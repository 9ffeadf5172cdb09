//! The request of a case, as the proxy would hand it to the first filter of a route.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};
use sluicegate_plugin_host::{CallFacts, RequestHead, Session, TlsFacts};

use super::run::mistake;
use super::stub::Stub;
use crate::config::Diagnostic;
use crate::config::cases::{Case, Request};
use crate::facts::{self, ConnectionFacts, Peer, RequestFacts};
use crate::forward;

/// What the proxy would hand to the first filter of a route.
pub(super) fn request_head(case: &Case, stub: &Arc<Stub>) -> Result<RequestHead, Box<Diagnostic>> {
    let request = &case.request;
    let authority: Arc<str> = String::from_utf8_lossy(request.host.as_bytes()).into();
    let host = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &authority,
    };
    let peer = SocketAddr::new(request.client_ip, PORT);
    let tls = request.tls.then(|| facts::TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        sni: Some(host.to_ascii_lowercase().into()),
        client_subject: request.client_subject.as_deref().map(Into::into),
        resumed: false,
        http2: request.http_version == "2",
    });
    let connection = ConnectionFacts {
        peer: Peer::Ip(peer),
        listener: request.listener.as_str().into(),
        tls: tls.map(Box::new),
    };
    let facts = RequestFacts {
        peer_trusted: false,
        client_ip: request.client_ip.to_canonical(),
        scheme: if request.tls { "https" } else { "http" },
        host: host.to_ascii_lowercase().into(),
        authority,
        path: request.path.as_str().into(),
        query: request.query.as_deref().map(Into::into),
        request_id: request.request_id.as_str().into(),
    };
    let mut headers = sent_headers(request);
    forward::prepare_request(&mut headers, &facts, &connection);
    let mut session = Session::default();
    for label in &request.labels {
        let (name, value) = &label.value;
        session
            .set_label(name, value)
            .map_err(|error| mistake(&label.span, format!("label `{name}`: {error}")))?;
    }
    let call_facts = CallFacts {
        client_ip: facts.client_ip,
        scheme: facts.scheme,
        host: facts.host,
        request_id: facts.request_id,
        route: request.route.as_str().into(),
        tls: connection.tls.map(|tls| TlsFacts {
            version: tls.version,
            cipher: tls.cipher,
            sni: tls.sni,
            client_subject: tls.client_subject,
        }),
        peer: Some(peer),
        listener: connection.listener,
        http_version: request.http_version,
        is_websocket: request.websocket,
        outbound: Some(stub.clone()),
    };
    Ok(RequestHead {
        method: request.method.clone(),
        path: facts.path,
        query: facts.query,
        headers,
        upstream: None,
        session,
        facts: Arc::new(call_facts),
    })
}

/// The fields that the client sends.
fn sent_headers(request: &Request) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, request.host.clone());
    if request.websocket {
        for (name, value) in [
            (CONNECTION, "Upgrade"),
            (UPGRADE, "websocket"),
            (http::header::SEC_WEBSOCKET_VERSION, "13"),
            (http::header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    for name in request.headers.keys() {
        headers.remove(name);
    }
    for (name, value) in &request.headers {
        headers.append(name, value.clone());
    }
    headers
}

/// The subprotocols that a request offers.
pub(super) fn subprotocols(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let names = lines.flat_map(|line| line.to_str().unwrap_or("").split(','));
    let names = names.map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The client's.
const PORT: u16 = 50_000;
