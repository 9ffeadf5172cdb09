//! Heads in memory, for authors' unit tests; edits go by the rules that the host enforces.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use sluicegate_plugin_rules::{self as rules, Session};

use crate::{Request, Response, TlsFacts};

/// Makes a [`Request`] for a unit test: by default `GET http://example.com/` from 192.0.2.1.
#[derive(Debug)]
#[must_use]
pub struct RequestBuilder(RequestHead);

/// Makes a [`Response`] for a unit test: by default a 200 without headers.
#[derive(Debug)]
#[must_use]
pub struct ResponseBuilder(ResponseHead);

#[derive(Debug)]
pub(crate) struct RequestHead {
    method: String,
    path: String,
    query: Option<String>,
    scheme: String,
    host: String,
    client_ip: String,
    request_id: String,
    route: String,
    tls: Option<TlsFacts>,
    peer: String,
    listener: String,
    http_version: String,
    is_websocket: bool,
    /// Where the request goes, and where it may.
    upstream: Option<String>,
    upstreams: Vec<String>,
    session: Session,
    kept: Vec<u8>,
    fields: HeaderMap,
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    status: u16,
    offered: Vec<String>,
    session: Session,
    kept: Vec<u8>,
    fields: HeaderMap,
}

impl Request {
    /// Makes a request for a unit test; not there in a plugin.
    pub fn builder() -> RequestBuilder {
        RequestBuilder(RequestHead {
            method: "GET".into(),
            path: "/".into(),
            query: None,
            scheme: "http".into(),
            host: "example.com".into(),
            client_ip: "192.0.2.1".into(),
            request_id: "0123456789abcdef0123456789abcdef".into(),
            route: "test".into(),
            tls: None,
            peer: "192.0.2.1:49152".into(),
            listener: ":443".into(),
            http_version: "1.1".into(),
            is_websocket: false,
            upstream: None,
            upstreams: Vec::new(),
            session: Session::default(),
            kept: Vec::new(),
            fields: HeaderMap::new(),
        })
    }

    /// Where [`Request::set_upstream`] sent it; for unit tests.
    pub fn upstream(&self) -> Option<&str> {
        self.0.upstream.as_deref()
    }

    /// The earliest moment that [`Request::expire_at`] was told; for unit tests.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.session.expires_at()
    }

    /// The shortest time that [`Request::limit_lifetime`] was told; for unit tests.
    pub fn lifetime(&self) -> Option<Duration> {
        self.0.session.max_lifetime.map(Duration::from_millis)
    }

    /// What [`Request::keep`] was told last; for unit tests.
    pub fn kept(&self) -> &[u8] {
        &self.0.kept
    }
}

impl Response {
    /// Makes a response for a unit test; not there in a plugin.
    pub fn builder() -> ResponseBuilder {
        ResponseBuilder(ResponseHead {
            status: 200,
            offered: Vec::new(),
            session: Session::default(),
            kept: Vec::new(),
            fields: HeaderMap::new(),
        })
    }

    /// As [`Request::expires_at`].
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.session.expires_at()
    }
}

impl RequestBuilder {
    pub fn method(mut self, method: &str) -> Self {
        self.0.method = method.into();
        self
    }

    /// Path and query, `/ws?a=1`.
    pub fn uri(mut self, uri: &str) -> Self {
        (self.0.path, self.0.query) = path_and_query(uri);
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.0.host = host.into();
        self
    }

    pub fn client_ip(mut self, ip: std::net::IpAddr) -> Self {
        self.0.client_ip = ip.to_string();
        self
    }

    pub fn route(mut self, route: &str) -> Self {
        self.0.route = route.into();
        self
    }

    /// Makes it a request over TLS.
    pub fn tls(mut self, tls: TlsFacts) -> Self {
        self.0.scheme = "https".into();
        self.0.tls = Some(tls);
        self
    }

    /// Makes it the opening handshake of a WebSocket.
    pub fn websocket(mut self) -> Self {
        self.0.is_websocket = true;
        self
    }

    /// Upstreams that [`Request::set_upstream`] may choose, as `allow.upstreams` names them.
    pub fn upstreams(mut self, allowed: &[&str]) -> Self {
        self.0.upstreams = allowed.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// A label that an earlier filter has set.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        let label = (name.to_owned(), value.to_owned());
        self.0.session.labels.push(label);
        self
    }

    /// Adds a header that the client sent; protected names are fine here.
    ///
    /// # Panics
    /// Where no client could have sent it.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        append(&mut self.0.fields, name, value.as_ref());
        self
    }

    pub fn build(self) -> Request {
        Request(self.0)
    }
}

impl ResponseBuilder {
    /// 101 makes it an accepted upgrade.
    pub fn status(mut self, status: u16) -> Self {
        self.0.status = status;
        self
    }

    /// The subprotocols that the client offered.
    pub fn offered(mut self, subprotocols: &[&str]) -> Self {
        self.0.offered = subprotocols.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// What the plugin kept when it saw the request.
    pub fn kept(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.0.kept = data.into();
        self
    }

    /// Adds a header that the upstream sent.
    ///
    /// # Panics
    /// Where no upstream could have sent it.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        append(&mut self.0.fields, name, value.as_ref());
        self
    }

    pub fn build(self) -> Response {
        Response(self.0)
    }
}

impl RequestHead {
    pub(crate) fn method(&self) -> String {
        self.method.clone()
    }
    pub(crate) fn path(&self) -> String {
        self.path.clone()
    }
    pub(crate) fn query(&self) -> Option<String> {
        self.query.clone()
    }
    pub(crate) fn set_query(&mut self, query: Option<&str>) -> Result<(), rules::EditError> {
        query.map_or(Ok(()), rules::check_query)?;
        self.query = query.map(str::to_owned);
        Ok(())
    }
    pub(crate) fn scheme(&self) -> String {
        self.scheme.clone()
    }
    pub(crate) fn host(&self) -> String {
        self.host.clone()
    }
    pub(crate) fn client_ip(&self) -> String {
        self.client_ip.clone()
    }
    pub(crate) fn request_id(&self) -> String {
        self.request_id.clone()
    }
    pub(crate) fn route(&self) -> String {
        self.route.clone()
    }
    pub(crate) fn peer(&self) -> String {
        self.peer.clone()
    }
    pub(crate) fn listener(&self) -> String {
        self.listener.clone()
    }
    pub(crate) fn http_version(&self) -> String {
        self.http_version.clone()
    }
    pub(crate) fn is_websocket(&self) -> bool {
        self.is_websocket
    }
    pub(crate) fn set_upstream(&mut self, name: &str) -> Result<(), rules::EditError> {
        if !self.upstreams.iter().any(|allowed| allowed == name) {
            return Err(rules::EditError::NotAllowed);
        }
        self.upstream = Some(name.to_owned());
        Ok(())
    }
    pub(crate) fn subprotocols(&self) -> Vec<String> {
        rules::subprotocols(&self.fields)
            .map(str::to_owned)
            .collect()
    }
    pub(crate) fn set_subprotocols(&mut self, offered: &[String]) -> Result<(), rules::EditError> {
        rules::set_subprotocols(&mut self.fields, offered)
    }
}

impl ResponseHead {
    pub(crate) fn status(&self) -> u16 {
        self.status
    }
    pub(crate) fn is_upgrade(&self) -> bool {
        self.status == 101
    }
    pub(crate) fn kept(&self) -> Vec<u8> {
        self.kept.clone()
    }
    pub(crate) fn set_subprotocol(&mut self, chosen: Option<&str>) -> Result<(), rules::EditError> {
        rules::set_subprotocol(&mut self.fields, &self.offered, chosen)
    }
}

macro_rules! field_access {
    ($head:ty) => {
        impl $head {
            pub(crate) fn header(&self, name: &str) -> Option<Vec<u8>> {
                self.fields.get(name).map(|value| value.as_bytes().to_vec())
            }
            pub(crate) fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
                self.fields
                    .get_all(name)
                    .iter()
                    .map(|value| value.as_bytes().to_vec())
                    .collect()
            }
            pub(crate) fn headers(&self) -> Vec<(String, Vec<u8>)> {
                let pair = |(name, value): (&HeaderName, &HeaderValue)| {
                    (name.as_str().to_owned(), value.as_bytes().to_vec())
                };
                self.fields.iter().map(pair).collect()
            }
            pub(crate) fn set_header(
                &mut self,
                name: &str,
                value: &[u8],
            ) -> Result<(), rules::EditError> {
                rules::set(&mut self.fields, name, value)
            }
            pub(crate) fn add_header(
                &mut self,
                name: &str,
                value: &[u8],
            ) -> Result<(), rules::EditError> {
                rules::add(&mut self.fields, name, value)
            }
            pub(crate) fn remove_header(&mut self, name: &str) -> Result<(), rules::EditError> {
                rules::remove(&mut self.fields, name)
            }
            pub(crate) fn label(&self, name: &str) -> Option<String> {
                self.session.label(name).map(str::to_owned)
            }
            pub(crate) fn labels(&self) -> Vec<(String, String)> {
                self.session.labels.clone()
            }
            pub(crate) fn set_label(
                &mut self,
                name: &str,
                value: &str,
            ) -> Result<(), rules::EditError> {
                self.session.set_label(name, value)
            }
            pub(crate) fn expire_at(&mut self, moment: u64) {
                self.session.expire_at(moment);
            }
            pub(crate) fn limit_lifetime(&mut self, milliseconds: u64) {
                self.session.limit_lifetime(milliseconds);
            }
            pub(crate) fn keep(&mut self, data: &[u8]) -> Result<(), rules::EditError> {
                if data.len() > rules::MAX_KEPT {
                    return Err(rules::EditError::TooLarge);
                }
                self.kept = data.to_vec();
                Ok(())
            }
        }
    };
}

field_access!(RequestHead);
field_access!(ResponseHead);

pub(crate) fn tls_of(head: &RequestHead) -> Option<TlsFacts> {
    head.tls.clone()
}

/// Both parts of `/ws?a=1`.
pub(crate) fn path_and_query(uri: &str) -> (String, Option<String>) {
    match uri.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (uri.to_owned(), None),
    }
}

#[expect(
    clippy::expect_used,
    reason = "only in authors' tests; documented as a panic"
)]
fn append(fields: &mut HeaderMap, name: &str, value: &[u8]) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a field name");
    let value = HeaderValue::from_bytes(value).expect("a field value");
    fields.append(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EditError;

    #[test]
    fn edits_go_by_the_rules_of_the_proxy() {
        let mut req = Request::builder()
            .header("Sec-WebSocket-Protocol", "chat, api-key.s3")
            .header("X-A", "1")
            .build();
        assert_eq!(req.set_header("x-a", "2"), Ok(()));
        assert_eq!(req.add_header("X-A", "3"), Ok(()));
        assert_eq!(req.header_values("x-a"), [b"2".to_vec(), b"3".to_vec()]);
        assert_eq!(req.set_header("Upgrade", "h2c"), Err(EditError::Protected));
        assert_eq!(
            req.set_header("x-b", "a\r\nb"),
            Err(EditError::InvalidValue)
        );
        assert_eq!(req.set_query(Some("a b")), Err(EditError::InvalidValue));
        assert_eq!(req.set_subprotocols(&["chat".into()]), Ok(()));
        assert_eq!(req.subprotocols(), ["chat"]);
        assert_eq!(
            req.set_subprotocols(&["api-key.s3".into()]),
            Err(EditError::NotOffered)
        );

        assert_eq!(req.keep("state"), Ok(()));
        assert_eq!(req.keep([0; 4097]), Err(EditError::TooLarge));
        assert_eq!(req.kept(), b"state");

        let mut res = Response::builder().status(101).kept("state").build();
        assert_eq!(res.kept(), b"state");
        assert!(res.is_upgrade());
        assert_eq!(
            res.set_header("sec-websocket-accept", "x"),
            Err(EditError::Protected)
        );
        assert_eq!(res.set_header("x-served-by", "me"), Ok(()));
        assert_eq!(res.header("X-Served-By").as_deref(), Some("me"));
    }
}
