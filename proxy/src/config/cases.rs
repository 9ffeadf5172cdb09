//! Case files of plugins: requests, and what must come of them. `sluicegate plugin test` runs them.
//!
//! A second kind of document, read as the configuration is: [`parse`] walks the text against the
//! tables of `schema` and fills in the defaults. All mistakes come at once, each with its place and a hint.
//! Nothing is run or opened here; the keys are explained in `plugin-sdk/README.md`.

mod messages;
mod schema;
mod values;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::diagnostic::{Diagnostic, Report};
use super::model::{Located, PluginConfig, Span};
use super::reader::{Field, Named, OneOrMany, Read, Reader, Text};
use super::values::{Name, PluginJson};
use super::{Source, document, lower};
pub use messages::{Closing, Ending, Happening, Payload, Side, Step};
pub use values::{Amount, Decision, FieldValues, MetricName, Moment, OutboundFailure, Stored};

/// The cases of one file.
#[derive(Debug, Clone)]
pub struct Suite {
    /// `None`: what the plugin imports.
    pub allow: Option<Allow>,
    pub cases: Vec<Case>,
}

/// What the file grants; what it does not mention stays as it is by default.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    pub log: Option<bool>,
    pub metrics: Option<bool>,
    pub clock: Option<bool>,
    pub random: Option<bool>,
    pub crypto: Option<bool>,
    pub kv: Option<bool>,
    pub wasi: Option<bool>,
    pub http: Option<Vec<Arc<str>>>,
    pub upstreams: Option<Vec<Arc<str>>>,
}

/// One call of the plugin and what must come of it.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: Located<String>,
    pub config: PluginConfig,
    pub now: Moment,
    /// At least once.
    pub repeat: u32,
    pub every: Duration,
    pub request: Request,
    pub kv: Vec<(String, Stored)>,
    pub http: Vec<HttpAnswer>,
    pub response: Option<Response>,
    /// What happens in the tunnel; empty: there is none.
    pub messages: Vec<Step>,
    pub ending: Ending,
    pub expect: Expect,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    /// Begins with a slash.
    pub path: String,
    pub query: Option<String>,
    /// With its port, if any.
    pub host: HeaderValue,
    pub client_ip: IpAddr,
    pub websocket: bool,
    pub tls: bool,
    pub client_subject: Option<String>,
    pub http_version: &'static str,
    pub listener: String,
    pub route: String,
    pub request_id: String,
    pub labels: Vec<Located<(String, String)>>,
    pub headers: HeaderMap,
}

/// An answer to an HTTP request of the plugin's own.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    pub upstream: String,
    pub method: Option<Method>,
    pub path: Option<String>,
    pub headers: Vec<(HeaderName, FieldValues)>,
    pub body: Option<String>,
    pub answer: Result<Response, OutboundFailure>,
}

/// An upstream's answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
}

#[derive(Debug, Clone)]
pub enum Body {
    Text(String),
    /// Joined to the folder of the case file.
    File(Located<PathBuf>),
}

/// What must come of a case; what is `None` or empty is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// It was written at all.
    pub written: bool,
    pub verdict: Option<Decision>,
    pub headers: Vec<(HeaderName, FieldValues)>,
    pub body: Option<String>,
    pub query: Option<FieldValues>,
    pub subprotocols: Option<Vec<String>>,
    pub upstream: Option<FieldValues>,
    pub labels: Vec<(String, FieldValues)>,
    pub expires_at: Option<Moment>,
    pub lifetime: Option<Duration>,
    pub logs: Vec<String>,
    pub metrics: Vec<(MetricName, Amount)>,
    pub kv: Vec<(String, Stored)>,
    pub error: Option<String>,
    pub config_error: Option<String>,
    pub response: Option<ExpectResponse>,
}

#[derive(Debug, Clone, Default)]
pub struct ExpectResponse {
    pub status: Option<u16>,
    pub headers: Vec<(HeaderName, FieldValues)>,
    pub body: Option<String>,
    pub error: Option<String>,
}

/// Turns the text into cases.
///
/// # Errors
/// A report of every mistake in the text, in file order.
pub fn parse(source: &Arc<Source>) -> Result<Suite, Report> {
    let document = document(source)?;
    let mut reader = Reader::new(&source.text, &schema::WORDS);
    let written = schema::Suite::from_document(&document, &mut reader);
    let mut mistakes = reader.into_diagnostics();
    let suite = suite(&written, source, &mut mistakes);
    if mistakes.is_empty() {
        Ok(suite)
    } else {
        Err(Report::new(source, mistakes))
    }
}

/// The JSON schema (draft 2020-12) of case files, for editors.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(schema::Suite).to_value()
}

/// What was read, with defaults; only meant where there are no mistakes.
fn suite(written: &schema::Suite, source: &Source, mistakes: &mut Vec<Diagnostic>) -> Suite {
    let nothing = PluginJson::default();
    let config = written.config.value().unwrap_or(&nothing);
    let span = written.config.given().map(|config| config.span.clone());
    let cases = given(&written.case).map(|written| {
        let own = written.value.config.given();
        let merged = own.map(|own| lower::overlay(config, &own.value));
        let span = own.map(|own| own.span.clone()).or_else(|| span.clone());
        // Without any config the case itself is the place that mistakes are shown at.
        let span = span.unwrap_or_else(|| name_span(&written));
        let config = lower::located(merged.as_ref().unwrap_or(config), span, &source.dir);
        case(written.value, config, source, mistakes)
    });
    Suite {
        cases: cases.collect(),
        allow: written.allow.value().map(|allow| Allow {
            log: allow.log.value().copied(),
            metrics: allow.metrics.value().copied(),
            clock: allow.clock.value().copied(),
            random: allow.random.value().copied(),
            crypto: allow.crypto.value().copied(),
            kv: allow.kv.value().copied(),
            wasi: allow.wasi.value().copied(),
            http: upstreams(&allow.http),
            upstreams: upstreams(&allow.upstreams),
        }),
    }
}

fn case(
    written: &schema::Case,
    config: PluginConfig,
    source: &Source,
    mistakes: &mut Vec<Diagnostic>,
) -> Case {
    let name = written.name.given().map(|name| Located {
        value: name.value.0.clone(),
        span: name.span.clone(),
    });
    let case = Case {
        name: name.unwrap_or(Located {
            value: String::new(),
            span: 0..0,
        }),
        config,
        now: written.now.value().copied().unwrap_or(NOW),
        repeat: written.repeat.value().map_or(1, |repeat| *repeat as u32),
        every: written.every.value().copied().unwrap_or_default(),
        request: request(written.request.value(), !written.messages.is_absent()),
        kv: named(&written.kv),
        http: given(&written.http)
            .map(|answer| http_answer(&answer, source, mistakes))
            .collect(),
        response: (written.response.given())
            .map(|answer| response(&answer.value, source, mistakes)),
        messages: given(&written.messages)
            .map(|step| messages::step(&step, mistakes))
            .collect(),
        ending: written
            .ending
            .value()
            .map(messages::ending)
            .unwrap_or_default(),
        expect: written.expect.value().map(expect).unwrap_or_default(),
    };
    if let Some(kv) = written.kv.given()
        && case.kv.iter().any(|(_, value)| *value == Stored::Absent)
    {
        let message = "what the store holds before is a string or an integer";
        mistakes.push(Diagnostic::error(kv.span.clone(), message));
    }
    if !case.messages.is_empty() {
        messages::check(written, &case, mistakes);
    }
    if let Some(response) = written
        .expect
        .value()
        .and_then(|expect| expect.response.given())
        && case.response.is_none()
        && case.messages.is_empty()
    {
        let message = "without an upstream's answer there is no response hook";
        let hint = "give the case one: `response = { status = 101 }`".to_owned();
        mistakes.push(Diagnostic::error(response.span.clone(), message).hint(hint));
    }
    case
}

/// `tunnel`: the case is about what it becomes.
fn request(written: Option<&schema::Request>, tunnel: bool) -> Request {
    let nothing = schema::Request::default();
    let written = written.unwrap_or(&nothing);
    let uri = written.uri.value().map_or("/", |uri| uri.0.as_str());
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (uri, None),
    };
    let subject = written.client_subject.value();
    let tls = written.tls.value().copied().unwrap_or(subject.is_some());
    let text = |field: &Field<Text<HeaderValue>>, default: &str| {
        let value = field.value().and_then(|value| value.to_str().ok());
        value.unwrap_or(default).to_owned()
    };
    let listener = written.listener.value().map(|listener| listener.0.clone());
    Request {
        method: written.method.value().cloned().unwrap_or(Method::GET),
        path: path.to_owned(),
        query,
        host: (written.host.value().cloned()).unwrap_or(HeaderValue::from_static("example.com")),
        client_ip: written.client_ip.value().copied().unwrap_or(CLIENT),
        websocket: written.websocket.value().copied().unwrap_or(tunnel),
        tls,
        client_subject: subject.map(|subject| String::from_utf8_lossy(subject.as_bytes()).into()),
        http_version: written
            .http_version
            .value()
            .map_or("1.1", |version| version.0),
        listener: listener.unwrap_or_else(|| if tls { ":443" } else { ":80" }.to_owned()),
        route: written
            .route
            .value()
            .map_or("test", |route| &route.0)
            .to_owned(),
        request_id: text(&written.request_id, "00000000000000000000000000000000"),
        labels: (written.labels.value().into_iter().flatten())
            .filter_map(|(name, value)| {
                Some(Located {
                    value: (name.value.clone(), value.value()?.clone()),
                    span: name.span.clone(),
                })
            })
            .collect(),
        headers: header_map(&written.headers),
    }
}

fn http_answer(
    written: &Located<&schema::HttpAnswer>,
    source: &Source,
    mistakes: &mut Vec<Diagnostic>,
) -> HttpAnswer {
    let Located {
        value: written,
        span,
    } = written;
    let answer = match (written.respond.given(), written.fail.value()) {
        (Some(answer), None) => Ok(response(&answer.value, source, mistakes)),
        (None, Some(failure)) => Err(*failure),
        (both, _) => {
            // An array of tables has the span of its first key only.
            let message = match both {
                Some(_) => "an answer cannot respond and fail",
                None => "this answers nothing",
            };
            let hint = "either `respond = { status = 200 }` or `fail = \"timeout\"`".to_owned();
            mistakes.push(Diagnostic::error(span.clone(), message).hint(hint));
            Err(OutboundFailure::Broken)
        }
    };
    HttpAnswer {
        upstream: written
            .upstream
            .value()
            .map_or(String::new(), |name| name.0.clone()),
        method: written.method.value().cloned(),
        path: written.path.value().map(|path| path.0.clone()),
        headers: named(&written.headers),
        body: written.body.value().cloned(),
        answer,
    }
}

fn response(
    written: &schema::Response,
    source: &Source,
    mistakes: &mut Vec<Diagnostic>,
) -> Response {
    let body = match (written.body.value(), written.body_file.given()) {
        (Some(_), Some(file)) => {
            let message = "a body is either `body` or `body_file`";
            mistakes.push(Diagnostic::error(file.span.clone(), message));
            Body::Text(String::new())
        }
        (None, Some(file)) => Body::File(Located {
            value: source.dir.join(&file.value),
            span: file.span.clone(),
        }),
        (text, None) => Body::Text(text.cloned().unwrap_or_default()),
    };
    Response {
        status: written.status.value().map_or(200, |status| *status as u16),
        headers: header_map(&written.headers),
        body,
    }
}

fn expect(written: &schema::Expect) -> Expect {
    Expect {
        written: true,
        verdict: written.verdict.value().copied(),
        headers: named(&written.headers),
        body: written.body.value().cloned(),
        query: written.query.value().cloned(),
        subprotocols: written.subprotocols.value().map(|offered| {
            let offered = offered.iter().filter_map(Field::value);
            offered.cloned().collect()
        }),
        upstream: written.upstream.value().cloned(),
        labels: named(&written.labels),
        expires_at: written.expires_at.value().copied(),
        lifetime: written.lifetime.value().copied(),
        logs: one_or_many(&written.logs)
            .map(|line| line.0.clone())
            .collect(),
        metrics: named(&written.metrics),
        kv: named(&written.kv),
        error: written.error.value().map(|error| error.0.clone()),
        config_error: written.config_error.value().map(|error| error.0.clone()),
        response: written.response.value().map(|written| ExpectResponse {
            status: written.status.value().map(|status| *status as u16),
            headers: named(&written.headers),
            body: written.body.value().cloned(),
            error: written.error.value().map(|error| error.0.clone()),
        }),
    }
}

/// The tables of an array that were read.
fn given<T, L>(field: &Field<L>) -> impl Iterator<Item = Located<&T>>
where
    T: Read<Out = T> + 'static,
    L: Read<Out = Vec<Field<T>>>,
{
    let tables = field.value().into_iter().flatten().filter_map(Field::given);
    tables.map(|table| Located {
        value: &table.value,
        span: table.span.clone(),
    })
}

fn one_or_many<T: Read + 'static>(field: &Field<OneOrMany<T>>) -> impl Iterator<Item = &T::Out> {
    field.value().into_iter().flatten().filter_map(Field::value)
}

/// The entries of a table whose keys the author chose.
fn named<K, T>(field: &Field<Named<K, T>>) -> Vec<(K, T)>
where
    K: super::values::FromText + Clone,
    T: Read<Out = T> + Clone,
{
    let entries = field.value().into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.value.clone(), value.value()?.clone())))
        .collect()
}

fn header_map(field: &Field<Named<HeaderName, OneOrMany<Text<HeaderValue>>>>) -> HeaderMap {
    let entries = field.value().into_iter().flatten();
    entries
        .flat_map(|(name, values)| {
            let values = values
                .value()
                .into_iter()
                .flatten()
                .filter_map(Field::value);
            values.map(|value| (name.value.clone(), value.clone()))
        })
        .fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
}

fn upstreams(field: &Field<OneOrMany<Text<Name>>>) -> Option<Vec<Arc<str>>> {
    field.given()?;
    Some(
        one_or_many(field)
            .map(|name| Arc::from(name.0.as_str()))
            .collect(),
    )
}

fn name_span(case: &Located<&schema::Case>) -> Span {
    let name = case.value.name.given();
    name.map_or_else(|| case.span.clone(), |name| name.span.clone())
}

/// 2026-01-01T00:00:00Z.
const NOW: Moment = Moment(Duration::from_secs(1_767_225_600));
/// An address for documentation (RFC 5737).
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[cfg(test)]
mod tests;
