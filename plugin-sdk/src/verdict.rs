//! What a filter decides, and the response it may give itself.

use crate::head;

/// What becomes of a request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next filter, in the end to the upstream or the client.
    Continue,
    /// The client gets this; nothing (more) reaches the upstream.
    Respond(Reply),
}

impl Verdict {
    /// The status of [`Verdict::Respond`].
    pub fn status(&self) -> Option<u16> {
        match self {
            Verdict::Continue => None,
            Verdict::Respond(reply) => Some(reply.status),
        }
    }
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Verdict::Respond(reply)
    }
}

/// A whole response made by the filter.
///
/// The proxy refuses, and `on_error` decides, where the status is not between 200 and 599, the
/// body is larger than 64 KiB, or a header breaks the rules of
/// [`EditError`](crate::EditError); [`Reply::check`] tells in a unit test. The proxy adds
/// `content-length` and `date` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Reply {
    /// An empty response with this status.
    pub fn new(status: u16) -> Self {
        Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body; say what it is with a `content-type` header.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first header of this name, in any case, if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(head::first(&self.headers, name)?).ok()
    }

    /// Whether the proxy would send this, by the proxy's own rules.
    ///
    /// # Errors
    /// Says which rule is broken.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&self) -> Result<(), String> {
        sluicegate_plugin_rules::reply(self.status, &self.headers, &self.body)
            .map(drop)
            .map_err(|e| e.to_string())
    }
}

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::{Reply, Verdict};
    use crate::glue::bindings::sluicegate::plugin::http;

    impl From<Verdict> for http::Verdict {
        fn from(verdict: Verdict) -> Self {
            match verdict {
                Verdict::Continue => http::Verdict::Continue,
                Verdict::Respond(Reply {
                    status,
                    headers,
                    body,
                }) => http::Verdict::Respond(http::Reply {
                    status,
                    headers,
                    body,
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_checked_by_the_rules_of_the_proxy() {
        #[track_caller]
        fn check(reply: &Reply, expect: Result<(), &str>) {
            assert_eq!(reply.check(), expect.map_err(str::to_owned));
        }
        check(&Reply::new(403).header("x-why", "no").body("no"), Ok(()));
        check(
            &Reply::new(101),
            Err("status `101` is not between 200 and 599"),
        );
        check(
            &Reply::new(200).header("Connection", "close"),
            Err("header `Connection`: written by the proxy itself"),
        );
        assert_eq!(
            Reply::new(403).header("X-Why", "no").get("x-why"),
            Some("no")
        );
        assert_eq!(Verdict::from(Reply::new(403)).status(), Some(403));
    }
}
