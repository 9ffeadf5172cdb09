//! What an author may write into a case file: every table and key, described once with `table!`.
//!
//! The same reader as the configuration's, so the same reports; and where the words are the
//! configuration's (`allow`, `config`), so are the tables.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use toml::Spanned;
use toml::de::DeTable;

use super::messages::{Arriving, By, Cause, CloseOrNot, Hex, Payload};
use super::values::{
    Amount, Decision, FieldValues, HttpVersion, MetricName, Moment, OneLine, OutboundFailure,
    Stored, Uri,
};
use crate::config::model::Located;
use crate::config::reader::{
    Field, List, Named, Node, OneOrMany, Read, Reader, Table, Tables, Text, Whole, Words, table,
};
use crate::config::schema::Allow;
use crate::config::values::{Name, PluginJson};

table! {
    /// The cases of a plugin.
    Suite "the top level" {
        required {}
        optional {
            /// What the plugin may ask of the proxy. Default: what it imports.
            allow: Allow,
            /// The plugin's config, for all cases of the file.
            config: PluginJson,
            /// One call of the plugin and what must come of it.
            case: Tables<Case>,
        }
    }
}

table! {
    /// One call of the plugin and what must come of it.
    Case "[[case]]" {
        required {
            name: Text<OneLine>,
        }
        optional {
            /// Laid over the file's config, key by key.
            config: PluginJson,
            /// Where the clock stands. Default 2026-01-01T00:00:00Z.
            now: Moment,
            /// How often the request comes; what is expected is the last one's. Default 1.
            repeat: Whole<1, 10_000>,
            /// What passes on the clock between two of them. Default nothing.
            every: Text<Duration>,
            request: Request,
            /// What the store holds before.
            kv: Named<String, Stored>,
            /// Answers to the plugin's own HTTP requests; the first that fits.
            http: Tables<HttpAnswer>,
            /// The upstream's answer; with it the response hook runs as well.
            response: Response,
            /// What the two ends say through the tunnel that the request becomes.
            messages: Tables<Step>,
            /// How the tunnel ends, unless the plugin ends it.
            ending: Ending,
            expect: Expect,
        }
    }
}

table! {
    /// One thing that happens in a tunnel, and what must come of it.
    Step "[[case.messages]]" {
        required {}
        optional {
            /// What the client says.
            client: Payload,
            /// What the server says.
            server: Payload,
            /// The plugin's timer is due.
            tick: bool,
            /// What passes on the clock before. Default nothing; before a tick, what the plugin asked for.
            after: Text<Duration>,
            /// How often it happens; each time the same must come of it. Default 1.
            repeat: Whole<1, 100_000>,
            /// What arrives at the server; false: nothing. Default: what the client says.
            to_server: Arriving,
            /// What arrives at the client; false: nothing. Default: what the server says.
            to_client: Arriving,
            /// The plugin ends the tunnel: the code, or `{ code, reason }`.
            close: CloseOrNot,
            /// The call fails: the beginning of the failure's words.
            error: Text<OneLine>,
        }
    }
}

table! {
    /// A message that is no text.
    Typed "a message" {
        required {}
        optional {
            /// Hexadecimal, with blanks where you like.
            binary: Text<Hex>,
            ping: Text<String>,
            pong: Text<String>,
        }
    }
}

table! {
    /// A Close that both sides get.
    Closing "the `close` of a message" {
        required {
            code: Whole<1000, 4999>,
        }
        optional {
            /// Default: any.
            reason: Text<String>,
        }
    }
}

table! {
    /// How a tunnel ends.
    Ending "the `ending` of a case" {
        required {}
        optional {
            /// Default 1000.
            code: Whole<1000, 4999>,
            /// `client` (default), `server` or `proxy`.
            by: Text<By>,
            /// As in the access log. Default `close`.
            cause: Text<Cause>,
        }
    }
}

table! {
    /// The request that the plugin is asked about.
    Request "the `request` of a case" {
        required {}
        optional {
            /// Default `GET`.
            method: Text<Method>,
            /// Path and query. Default `/`.
            uri: Text<Uri>,
            /// With its port, if any. Default `example.com`.
            host: Text<HeaderValue>,
            /// Default `192.0.2.1`.
            client_ip: Text<IpAddr>,
            /// The opening handshake of a WebSocket. Default false.
            websocket: bool,
            /// It came over TLS. Default false, or true with a `client_subject`.
            tls: bool,
            /// The subject of a client certificate.
            client_subject: Text<HeaderValue>,
            /// `1.0`, `1.1` (default) or `2`.
            http_version: Text<HttpVersion>,
            /// What the listener is bound to. Default `:443` with TLS, else `:80`.
            listener: Text<OneLine>,
            /// The route's name. Default `test`.
            route: Text<OneLine>,
            /// Default 32 zeros.
            request_id: Text<HeaderValue>,
            /// What filters before this one noted.
            labels: Named<String, Text<String>>,
            headers: Named<HeaderName, OneOrMany<Text<HeaderValue>>>,
        }
    }
}

table! {
    /// An answer to an HTTP request of the plugin's own.
    HttpAnswer "[[case.http]]" {
        required {
            upstream: Text<Name>,
        }
        optional {
            /// Default: any.
            method: Text<Method>,
            /// With the query, if this has one. Default: any.
            path: Text<Uri>,
            /// What the request's headers must be.
            headers: Named<HeaderName, FieldValues>,
            /// What the request's body must be.
            body: Text<String>,
            respond: Response,
            /// `timeout`, `unreachable`, `broken` or `too-large`.
            fail: Text<OutboundFailure>,
        }
    }
}

table! {
    /// An upstream's answer.
    Response "an answer" {
        required {}
        optional {
            /// Default 200.
            status: Whole<100, 599>,
            headers: Named<HeaderName, OneOrMany<Text<HeaderValue>>>,
            body: Text<String>,
            /// A file beside the case file.
            body_file: Text<PathBuf>,
        }
    }
}

table! {
    /// What must come of a case.
    Expect "[case.expect]" {
        required {}
        optional {
            /// `continue` (default), or the status of a refusal.
            verdict: Decision,
            /// Of the request as it goes on, or of the refusal; false: not there.
            headers: Named<HeaderName, FieldValues>,
            /// Of the refusal.
            body: Text<String>,
            /// Of the request as it goes on; false: none.
            query: FieldValues,
            /// The offered ones, as they go on.
            subprotocols: List<Text<String>>,
            /// The one that the plugin chose; false: the route's.
            upstream: FieldValues,
            /// Of the session; false: not there.
            labels: Named<String, FieldValues>,
            expires_at: Moment,
            lifetime: Text<Duration>,
            /// Each is the beginning of a line, in this order; others may stand between.
            logs: OneOrMany<Text<OneLine>>,
            /// As they are after the last request.
            metrics: Named<MetricName, Amount>,
            /// As it is after the last request; false: not there.
            kv: Named<String, Stored>,
            /// The call fails: the beginning of the failure's words.
            error: Text<OneLine>,
            /// The config is refused: the beginning of the reason.
            config_error: Text<OneLine>,
            /// What the response hook makes of the upstream's answer.
            response: ExpectResponse,
        }
    }
}

table! {
    /// What must come of the response hook.
    ExpectResponse "[case.expect.response]" {
        required {}
        optional {
            status: Whole<100, 599>,
            /// false: not there.
            headers: Named<HeaderName, FieldValues>,
            /// Of an answer that the hook gives instead.
            body: Text<String>,
            /// The hook fails: the beginning of the failure's words.
            error: Text<OneLine>,
        }
    }
}

impl Suite {
    /// Reads a whole document; every key that does not fit is reported to `reader`.
    pub(super) fn from_document(document: &Spanned<DeTable<'_>>, reader: &mut Reader<'_>) -> Self {
        let value = document.get_ref();
        let span = document.span();
        Self::from_table(Located { value, span }, reader)
    }
}

/// The words of a case file.
pub(super) const WORDS: Words = Words {
    tables: &[
        (Suite::TITLE, Suite::KEYS),
        (Case::TITLE, Case::KEYS),
        (Step::TITLE, Step::KEYS),
        (Typed::TITLE, Typed::KEYS),
        (Closing::TITLE, Closing::KEYS),
        (Ending::TITLE, Ending::KEYS),
        (Request::TITLE, Request::KEYS),
        (HttpAnswer::TITLE, HttpAnswer::KEYS),
        (Response::TITLE, Response::KEYS),
        (Expect::TITLE, Expect::KEYS),
        (ExpectResponse::TITLE, ExpectResponse::KEYS),
        (Allow::TITLE, Allow::KEYS),
    ],
    elsewhere: &[
        ("url", "uri"),
        ("path", "uri"),
        ("ip", "client_ip"),
        ("status", "verdict"),
        ("answer", "respond"),
        ("store", "kv"),
        ("time", "now"),
        ("times", "repeat"),
        ("cases", "case"),
        ("log", "logs"),
        ("conversation", "messages"),
        ("steps", "messages"),
        ("timer", "tick"),
        ("wait", "after"),
        ("from_client", "client"),
        ("from_server", "server"),
    ],
};
