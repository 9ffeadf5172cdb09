//! What a conversation begins with.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::head;

/// The handshake, once it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    request_id: String,
    route: String,
    host: String,
    path: String,
    query: Option<String>,
    client_ip: IpAddr,
    headers: Vec<(String, Vec<u8>)>,
    subprotocol: Option<String>,
    labels: Vec<(String, String)>,
    kept: Vec<u8>,
}

impl Opening {
    /// The same id as in the access log.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The name of the route.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// In lower case, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The raw query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The first parameter of this name in the query, decoded as a form (`+` is a blank).
    pub fn query_param(&self, name: &str) -> Option<String> {
        head::query_param(self.query()?, name)
    }

    /// The client's address, also behind trusted proxies.
    pub fn client_ip(&self) -> IpAddr {
        self.client_ip
    }

    /// The first value of a field of the client's, as the filters left it; names in any case. What is not
    /// UTF-8 comes with replacement characters.
    pub fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        head::first(&self.headers, name).map(String::from_utf8_lossy)
    }

    /// All fields, names in lower case.
    pub fn headers(&self) -> &[(String, Vec<u8>)] {
        &self.headers
    }

    /// The subprotocol that both ends agreed on.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// What a filter of the handshake noted about the session.
    pub fn label(&self, name: &str) -> Option<&str> {
        let (_, value) = self.labels.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    /// All that filters noted.
    pub fn labels(&self) -> &[(String, String)] {
        &self.labels
    }

    /// What this plugin's own hooks kept ([`Request::keep`](crate::Request::keep)); empty: nothing.
    pub fn kept(&self) -> &[u8] {
        &self.kept
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::OpeningBuilder;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use std::net::IpAddr;

    use super::Opening;
    use crate::native::path_and_query;

    /// Makes an [`Opening`] for a unit test: by default of `ws://example.com/` from 192.0.2.1.
    #[derive(Debug)]
    #[must_use]
    pub struct OpeningBuilder(Opening);

    impl Opening {
        /// Makes an opening for a unit test; not there in a plugin.
        pub fn builder() -> OpeningBuilder {
            OpeningBuilder(Opening {
                request_id: "0123456789abcdef0123456789abcdef".into(),
                route: "test".into(),
                host: "example.com".into(),
                path: "/".into(),
                query: None,
                client_ip: IpAddr::from([192, 0, 2, 1]),
                headers: Vec::new(),
                subprotocol: None,
                labels: Vec::new(),
                kept: Vec::new(),
            })
        }
    }

    impl OpeningBuilder {
        pub fn route(mut self, route: &str) -> Self {
            self.0.route = route.into();
            self
        }

        pub fn host(mut self, host: &str) -> Self {
            self.0.host = host.into();
            self
        }

        /// Path and query, `/ws?a=1`.
        pub fn uri(mut self, uri: &str) -> Self {
            (self.0.path, self.0.query) = path_and_query(uri);
            self
        }

        pub fn client_ip(mut self, ip: IpAddr) -> Self {
            self.0.client_ip = ip;
            self
        }

        /// Adds a field that the client sent.
        pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
            let field = (name.to_ascii_lowercase(), value.as_ref().to_vec());
            self.0.headers.push(field);
            self
        }

        pub fn subprotocol(mut self, chosen: &str) -> Self {
            self.0.subprotocol = Some(chosen.into());
            self
        }

        /// A label that a filter of the handshake has set.
        pub fn label(mut self, name: &str, value: &str) -> Self {
            self.0.labels.push((name.into(), value.into()));
            self
        }

        /// What the plugin's own hooks kept.
        pub fn kept(mut self, data: impl Into<Vec<u8>>) -> Self {
            self.0.kept = data.into();
            self
        }

        pub fn build(self) -> Opening {
            self.0
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::Opening;
    use crate::glue::messages::wit;

    impl From<wit::Opening> for Opening {
        fn from(opening: wit::Opening) -> Self {
            Opening {
                request_id: opening.request_id,
                route: opening.route,
                host: opening.host,
                path: opening.path,
                query: opening.query,
                client_ip: crate::head::address(&opening.client_ip),
                headers: opening.headers,
                subprotocol: opening.subprotocol,
                labels: opening.labels,
                kept: opening.kept,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_has_what_was_put_into_it() {
        let opening = Opening::builder()
            .uri("/ws?room=a%20b")
            .header("X-User", b"caf\xe9")
            .label("sub", "ada")
            .subprotocol("chat")
            .kept("state")
            .build();
        assert_eq!((opening.path(), opening.host()), ("/ws", "example.com"));
        assert_eq!(opening.query_param("room").as_deref(), Some("a b"));
        assert_eq!(opening.header("x-USER").as_deref(), Some("caf\u{fffd}"));
        assert_eq!(opening.header("x-other"), None);
        assert_eq!(opening.label("sub"), Some("ada"));
        assert_eq!(opening.subprotocol(), Some("chat"));
        assert_eq!(opening.kept(), b"state");
    }
}
