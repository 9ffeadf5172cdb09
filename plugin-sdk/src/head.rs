//! The heads a filter sees.
//!
//! Behind the proxy they are handles, lent for one call: what a filter does not ask for is never
//! copied into the guest. Natively they are maps in memory (see `native`), under the same rules.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use sluicegate_plugin_rules as rules;

/// Why the proxy refused an edit; the head is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EditError {
    /// Not a field name (RFC 9110, section 5.1), or one of more than 256 bytes; not a label's name.
    InvalidName,
    /// A value with CR, LF, NUL or another control byte; a subprotocol that is no token or comes
    /// twice; a query with blanks, control bytes, `#` or anything but ASCII.
    InvalidValue,
    /// The proxy itself writes this field: `host`, `connection`, `content-length`,
    /// `sec-websocket-*`, `x-forwarded-*` and their like.
    Protected,
    /// The head would hold more than 128 fields, or the session more than 32 labels.
    TooMany,
    /// The value or query would be larger than 8 KiB, or the head than 64 KiB; more than a label may say,
    /// or than may be kept.
    TooLarge,
    /// The client did not offer this subprotocol, or there is no upgrade to answer with it.
    NotOffered,
    /// The configuration does not allow it to this plugin (`allow`).
    NotAllowed,
}

impl std::fmt::Display for EditError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EditError::InvalidName => "not a field name",
            EditError::InvalidValue => "not a valid value",
            EditError::Protected => "written by the proxy itself",
            EditError::TooMany => "too many fields",
            EditError::TooLarge => "too large",
            EditError::NotOffered => "not offered by the client",
            EditError::NotAllowed => "not allowed to this plugin",
        })
    }
}

impl std::error::Error for EditError {}

/// Judges a header before there is a request, so that `configure` can refuse what every
/// handshake would.
///
/// # Errors
/// What [`Request::set_header`] would say; the limits of a whole head aside.
pub fn check_header(name: &str, value: impl AsRef<[u8]>) -> Result<(), EditError> {
    Ok(rules::check_field(name, value.as_ref())?)
}

/// Judges a label's name likewise.
///
/// # Errors
/// What [`Request::set_label`] would say.
pub fn check_label(name: &str) -> Result<(), EditError> {
    Ok(rules::Session::default().set_label(name, "")?)
}

/// Judges a subprotocol, or the beginning of one, likewise: it must be a token (RFC 9110, section 5.6.2).
///
/// # Errors
/// `InvalidValue`.
pub fn check_subprotocol(text: &str) -> Result<(), EditError> {
    let good = rules::is_token(text);
    good.then_some(()).ok_or(EditError::InvalidValue)
}

/// What the TLS handshake settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: String,
    /// IANA name of the cipher suite.
    pub cipher: String,
    /// The server name the client asked for, in lower case.
    pub sni: Option<String>,
    /// The subject (RFC 4514) of the client certificate that the proxy verified.
    pub client_subject: Option<String>,
}

/// The fields of a head, read and edited.
macro_rules! fields {
    ($head:ty) => {
        impl $head {
            /// The first value of a field, names in any case. What is not UTF-8 comes with replacement
            /// characters rather than as absent; `header_values` has the bytes.
            pub fn header(&self, name: &str) -> Option<String> {
                self.0.header(name).map(text)
            }

            /// Every value of a field, in order.
            pub fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
                self.0.header_values(name)
            }

            /// All fields, names in lower case. Dearer than asking for the ones you need.
            pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
                self.0.headers()
            }

            /// Replaces every value of a field.
            ///
            /// # Errors
            /// See [`EditError`].
            pub fn set_header(
                &mut self,
                name: &str,
                value: impl AsRef<[u8]>,
            ) -> Result<(), EditError> {
                Ok(self.0.set_header(name, value.as_ref())?)
            }

            /// Adds a value to a field.
            ///
            /// # Errors
            /// See [`EditError`].
            pub fn add_header(
                &mut self,
                name: &str,
                value: impl AsRef<[u8]>,
            ) -> Result<(), EditError> {
                Ok(self.0.add_header(name, value.as_ref())?)
            }

            /// Removes a field; removing what is not there is fine.
            ///
            /// # Errors
            /// `InvalidName`, `Protected`.
            pub fn remove_header(&mut self, name: &str) -> Result<(), EditError> {
                Ok(self.0.remove_header(name)?)
            }
        }
    };
}

/// What filters know of the session: of a request, and of the tunnel or answer it becomes.
macro_rules! session {
    ($head:ty) => {
        impl $head {
            /// What a filter noted about the session.
            pub fn label(&self, name: &str) -> Option<String> {
                self.0.label(name)
            }

            /// All that filters noted.
            pub fn labels(&self) -> Vec<(String, String)> {
                self.0.labels()
            }

            /// Notes something about the session, like its `sub`: later filters and the access log see
            /// it. At most 32 labels; names are `[a-z0-9_.-]{1,64}`, values at most 1 KiB.
            ///
            /// # Errors
            /// `InvalidName`, `InvalidValue` (control characters), `TooMany`, `TooLarge`.
            pub fn set_label(&mut self, name: &str, value: &str) -> Result<(), EditError> {
                Ok(self.0.set_label(name, value)?)
            }

            /// Ends the tunnel at this moment, with the route's close code. The earliest moment that a
            /// filter said holds.
            pub fn expire_at(&mut self, moment: SystemTime) {
                let since = moment.duration_since(SystemTime::UNIX_EPOCH);
                self.0.expire_at(millis(since.unwrap_or_default()));
            }

            /// Ends the tunnel after this time, likewise.
            pub fn limit_lifetime(&mut self, lifetime: Duration) {
                self.0.limit_lifetime(millis(lifetime));
            }

            /// Keeps at most 4 KiB for this plugin's own hooks of the same handshake that come later:
            /// [`ResponseFilter::on_response`](crate::ResponseFilter::on_response), which may run in
            /// another instance, and [`MessageFilter::open`](crate::MessageFilter::open), which does. It
            /// takes the place of what was kept before; nobody else sees it, and no log.
            ///
            /// # Errors
            /// `TooLarge`.
            pub fn keep(&mut self, data: impl AsRef<[u8]>) -> Result<(), EditError> {
                Ok(self.0.keep(data.as_ref())?)
            }
        }
    };
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A request on its way to the upstream.
///
/// Reading is never refused; every edit may be, see [`EditError`].
#[derive(Debug)]
pub struct Request(pub(crate) RequestHead);

impl Request {
    /// `GET` of every opening handshake, also over HTTP/2 (RFC 8441), where the client says CONNECT.
    pub fn method(&self) -> String {
        self.0.method()
    }

    /// The one normal form of the path, as it is matched and forwarded.
    pub fn path(&self) -> String {
        self.0.path()
    }

    /// The raw query, without its `?`.
    pub fn query(&self) -> Option<String> {
        self.0.query()
    }

    /// The first parameter of this name in the query, decoded as a form (`+` is a blank).
    pub fn query_param(&self, name: &str) -> Option<String> {
        query_param(&self.query()?, name)
    }

    /// Takes every parameter of this name out of the query; the others stay as they are.
    ///
    /// # Errors
    /// `InvalidValue` where the rest is no valid query.
    pub fn remove_query_param(&mut self, name: &str) -> Result<(), EditError> {
        let Some(query) = self.query() else {
            return Ok(());
        };
        let kept: Vec<&str> = query
            .split('&')
            .filter(|pair| decode(key_and_value(pair).0) != name)
            .collect();
        let kept = kept.join("&");
        if kept == query {
            return Ok(());
        }
        self.set_query((!kept.is_empty()).then_some(&kept))
    }

    /// Replaces the query that goes upstream; `None` drops it.
    ///
    /// # Errors
    /// `InvalidValue`, `TooLarge`.
    pub fn set_query(&mut self, query: Option<&str>) -> Result<(), EditError> {
        Ok(self.0.set_query(query)?)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> String {
        self.0.scheme()
    }

    /// In lower case, without the port.
    pub fn host(&self) -> String {
        self.0.host()
    }

    /// The client's address, also behind trusted proxies.
    pub fn client_ip(&self) -> IpAddr {
        address(&self.0.client_ip())
    }

    /// Address and port of the connection's other end: the client, or the proxy before this one. `unix` on
    /// a socket of the file system.
    pub fn peer(&self) -> String {
        self.0.peer()
    }

    /// What the listener is bound to, as the configuration has it.
    pub fn listener(&self) -> String {
        self.0.listener()
    }

    /// `1.0`, `1.1` or `2`, as the client speaks it.
    pub fn http_version(&self) -> String {
        self.0.http_version()
    }

    /// It is the opening handshake of a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.0.is_websocket()
    }

    /// The same id as in the access log.
    pub fn request_id(&self) -> String {
        self.0.request_id()
    }

    /// The name of the route that matched.
    pub fn route(&self) -> String {
        self.0.route()
    }

    /// What the TLS handshake settled; `None` on a plain listener.
    pub fn tls(&self) -> Option<TlsFacts> {
        tls_of(&self.0)
    }

    /// The subprotocols the client offers, in its order.
    pub fn subprotocols(&self) -> Vec<String> {
        self.0.subprotocols()
    }

    /// Offers these instead, each one of [`Request::subprotocols`]; none drops the field.
    ///
    /// # Errors
    /// `InvalidValue`, `NotOffered`.
    pub fn set_subprotocols(&mut self, offered: &[String]) -> Result<(), EditError> {
        Ok(self.0.set_subprotocols(offered)?)
    }

    /// The first cookie of this name.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let fields = self.0.header_values("cookie").into_iter().map(text);
        fields.into_iter().find_map(|field| {
            let mut pairs = field.split(';').map(|pair| key_and_value(pair.trim()));
            let (_, value) = pairs.find(|(key, _)| *key == name)?;
            Some(value.to_owned())
        })
    }

    /// Sends this request to another upstream of the configuration, one that `allow.upstreams` names.
    ///
    /// # Errors
    /// `NotAllowed`.
    pub fn set_upstream(&mut self, name: &str) -> Result<(), EditError> {
        Ok(self.0.set_upstream(name)?)
    }
}

fields!(Request);
fields!(Response);
session!(Request);
session!(Response);

/// The upstream's final answer, before the client sees it. Interim ones (1xx) are shown to no filter.
#[derive(Debug)]
pub struct Response(pub(crate) ResponseHead);

impl Response {
    pub fn status(&self) -> u16 {
        self.0.status()
    }

    /// The upstream accepted the WebSocket, and a tunnel follows. The status is 101 then, also where either
    /// side speaks HTTP/2, which has no 101: on its wire the same answer is a 200.
    pub fn is_upgrade(&self) -> bool {
        self.0.is_upgrade()
    }

    /// What this plugin kept when it saw the request ([`Request::keep`]); empty: nothing.
    pub fn kept(&self) -> Vec<u8> {
        self.0.kept()
    }

    /// Answers an accepted upgrade with this subprotocol, one that the client offered; `None`: with
    /// none.
    ///
    /// # Errors
    /// `NotOffered`.
    pub fn set_subprotocol(&mut self, chosen: Option<&str>) -> Result<(), EditError> {
        Ok(self.0.set_subprotocol(chosen)?)
    }
}

impl From<rules::EditError> for EditError {
    fn from(error: rules::EditError) -> Self {
        match error {
            rules::EditError::InvalidName => EditError::InvalidName,
            rules::EditError::InvalidValue => EditError::InvalidValue,
            rules::EditError::Protected => EditError::Protected,
            rules::EditError::TooMany => EditError::TooMany,
            rules::EditError::TooLarge => EditError::TooLarge,
            rules::EditError::NotOffered => EditError::NotOffered,
            rules::EditError::NotAllowed => EditError::NotAllowed,
        }
    }
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The first value of a field, names in any case.
pub(crate) fn first<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    let (_, value) = fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(value)
}

/// An address that the proxy wrote.
pub(crate) fn address(text: &str) -> IpAddr {
    // The fallback is unreachable and lets nobody pass for somebody.
    text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

/// The first parameter of this name, decoded.
pub(crate) fn query_param(query: &str, name: &str) -> Option<String> {
    query_pairs(query)
        .find(|(key, _)| decode(key) == name)
        .map(|(_, value)| decode(value))
}

fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(key_and_value)
}

fn key_and_value(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// Form decoding (WHATWG URL, section 5.1); a `%` without two hex digits stays.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        out.push(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        });
    }
    self::text(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(not(target_arch = "wasm32"))]
use crate::native::{RequestHead, ResponseHead, tls_of};

#[cfg(target_arch = "wasm32")]
use wasm::{RequestHead, ResponseHead, tls_of};

#[cfg(target_arch = "wasm32")]
mod wasm {
    use std::mem::ManuallyDrop;

    use super::{EditError, Request, Response, TlsFacts};
    use crate::glue::bindings::sluicegate::plugin::http;

    // The bindings own the handle and give it back after the call; these are second names for
    // it, which must not do so again.
    pub(crate) type RequestHead = ManuallyDrop<http::Request>;
    pub(crate) type ResponseHead = ManuallyDrop<http::Response>;

    impl Request {
        /// A second name for a request; the caller keeps it from outliving the first.
        #[expect(
            unsafe_code,
            reason = "the bindings lend a handle, authors get a type of ours"
        )]
        pub(crate) fn lent(req: &http::Request) -> Self {
            // SAFETY: `handle` is a live handle of this type for as long as `req` is borrowed;
            // it is never dropped here, and hooks only get `&mut Request`, which they can
            // neither keep nor swap for another (there is no other way to make one).
            Request(ManuallyDrop::new(unsafe {
                http::Request::from_handle(req.handle())
            }))
        }
    }

    impl Response {
        /// As [`Request::lent`].
        #[expect(unsafe_code, reason = "as `Request::lent`")]
        pub(crate) fn lent(res: &http::Response) -> Self {
            // SAFETY: as in `Request::lent`.
            Response(ManuallyDrop::new(unsafe {
                http::Response::from_handle(res.handle())
            }))
        }
    }

    pub(crate) fn tls_of(head: &RequestHead) -> Option<TlsFacts> {
        let http::TlsFacts {
            version,
            cipher,
            sni,
            client_subject,
        } = head.tls()?;
        Some(TlsFacts {
            version,
            cipher,
            sni,
            client_subject,
        })
    }

    impl From<http::EditError> for EditError {
        fn from(error: http::EditError) -> Self {
            match error {
                http::EditError::InvalidName => EditError::InvalidName,
                http::EditError::InvalidValue => EditError::InvalidValue,
                http::EditError::Protected => EditError::Protected,
                http::EditError::TooMany => EditError::TooMany,
                http::EditError::TooLarge => EditError::TooLarge,
                http::EditError::NotOffered => EditError::NotOffered,
                http::EditError::NotAllowed => EditError::NotAllowed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found() {
        let req = Request::builder()
            .header("Cookie", "a=1; b=x=y;c")
            .header("Cookie", "a=2; d=4")
            .build();
        let cookies = ["a", "b", "c", "d", "e"].map(|name| req.cookie(name));
        let expect = [Some("1"), Some("x=y"), Some(""), Some("4"), None];
        assert_eq!(cookies, expect.map(|value| value.map(str::to_owned)));
    }

    #[test]
    fn queries_are_decoded_and_edited() {
        #[track_caller]
        fn check(query: &str, value: Option<&str>, left: Option<&str>) {
            let mut req = Request::builder().uri(&format!("/ws?{query}")).build();
            assert_eq!(req.query_param("api_key").as_deref(), value, "{query}");
            req.remove_query_param("api_key").expect("a valid query");
            assert_eq!(req.query().as_deref(), left, "{query}");
        }
        check("api_key=s3", Some("s3"), None);
        check("a=1&api_key=s%33+x&b=%20", Some("s3 x"), Some("a=1&b=%20"));
        check("api%5fkey=s3&api_key=other&c", Some("s3"), Some("c"));
        check("api_key", Some(""), None);
        check("API_KEY=s3", None, Some("API_KEY=s3"));
        check("api_key=%f&x=%", Some("%f"), Some("x=%"));
        check("api_key=%ff", Some("\u{fffd}"), None);
    }
}
