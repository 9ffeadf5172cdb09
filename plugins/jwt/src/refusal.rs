//! Why a request is refused: what the operator reads, and what the client gets (RFC 6750, section 3).

use std::borrow::Cow;

use sluicegate_plugin::Reply;

/// A reason in three lengths: one word for the metric, a sentence for the log, and next to nothing for the
/// client. None of them ever holds a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: Why,
    pub(crate) detail: Cow<'static, str>,
}

/// The kinds of reasons; the values of the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Missing,
    Several,
    Malformed,
    Algorithm,
    Type,
    Key,
    Signature,
    Expired,
    NotYet,
    Age,
    Issuer,
    Audience,
    Claim,
    Scope,
    /// The keys could not be fetched: nobody knows whether the token is right.
    Unavailable,
    /// The rest of the request cannot be sent on.
    Request,
}

impl Refused {
    pub(crate) fn new(why: Why, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Refused { why, detail }
    }

    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Why::Malformed, detail)
    }

    pub(crate) fn reply(&self, realm: &str, scopes: &str) -> Reply {
        let (status, error, body) = match self.why {
            // RFC 6750: no error code where no token was sent.
            Why::Missing => (401, String::new(), "a token is required\n"),
            Why::Several => (
                400,
                error("invalid_request"),
                "the token was sent more than once\n",
            ),
            Why::Request => return text(400, "the request cannot be sent on\n"),
            Why::Unavailable => {
                return text(503, "the token cannot be checked now\n").header("retry-after", "1");
            }
            Why::Scope => (
                403,
                format!(", error=\"insufficient_scope\", scope=\"{scopes}\""),
                "the token does not allow this\n",
            ),
            // A client has to know when it needs a new one; the signature was right.
            Why::Expired => (
                401,
                error("invalid_token") + ", error_description=\"expired\"",
                "the token has expired\n",
            ),
            _ => (401, error("invalid_token"), "the token is not valid\n"),
        };
        let challenge = format!("Bearer realm=\"{realm}\"{error}");
        text(status, body).header("www-authenticate", challenge)
    }
}

impl Why {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Why::Missing => "missing",
            Why::Several => "several",
            Why::Malformed => "malformed",
            Why::Algorithm => "algorithm",
            Why::Type => "type",
            Why::Key => "key",
            Why::Signature => "signature",
            Why::Expired => "expired",
            Why::NotYet => "not-yet",
            Why::Age => "age",
            Why::Issuer => "issuer",
            Why::Audience => "audience",
            Why::Claim => "claim",
            Why::Scope => "scope",
            Why::Unavailable => "unavailable",
            Why::Request => "request",
        }
    }
}

/// The beginning of something that the client wrote, for the log.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

fn error(code: &str) -> String {
    format!(", error=\"{code}\"")
}

fn text(status: u16, body: &str) -> Reply {
    Reply::new(status)
        .header("content-type", "text/plain")
        .body(body)
}
