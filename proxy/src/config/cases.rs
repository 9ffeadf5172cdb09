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
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Suite, String> {
        let source = Source {
            name: "t.toml".to_owned(),
            text: text.to_owned(),
            dir: PathBuf::from("cases"),
        };
        parse(&Arc::new(source)).map_err(|report| report.render(false))
    }

    #[track_caller]
    fn refused(text: &str, why: &[&str]) {
        let report = read(text).expect_err(text);
        for part in why {
            assert!(report.contains(part), "{part}:\n{report}");
        }
    }

    #[test]
    fn everything_has_a_default() {
        let suite = read("[[case]]\nname = \"a\"\n").expect("cases");
        assert!(suite.allow.is_none());
        let [case] = suite.cases.as_slice() else {
            panic!("{suite:?}");
        };
        assert_eq!(case.now.to_toml(), "2026-01-01T00:00:00Z");
        assert_eq!((case.repeat, case.every), (1, Duration::ZERO));
        let request = &case.request;
        assert_eq!(
            (&request.method, request.path.as_str()),
            (&Method::GET, "/")
        );
        assert_eq!((request.listener.as_str(), request.tls), (":80", false));
        assert!(!case.expect.written && case.expect.verdict.is_none());
    }

    #[test]
    fn what_is_written_is_read() {
        let suite = read(
            r#"
            allow  = { kv = false, http = "idp" }
            config = { a = 1, secret = "file:s" }
            [[case]]
            name     = "n"
            config   = { b = 2, secret = "plain" }
            now      = 2026-01-01T01:00:00+01:00
            repeat   = 3
            every    = "10s"
            request  = { uri = "/p?q", client_subject = "CN=x", labels = { sub = "x" }, headers = { A = ["1", "2"] } }
            kv       = { n = 1, s = "x" }
            http     = [{ upstream = "idp", path = "/j", respond = { body_file = "j.json" } }]
            response = { status = 101 }
            [case.expect]
            verdict  = 401
            headers  = { A = false, B = "x", C = [] }
            logs     = "warn"
            kv       = { n = false, s = 2 }
            metrics  = { 'a{b="c"}' = 1.5 }
            lifetime = "1h"
            response = { status = 101 }
            "#,
        );
        let suite = suite.expect("cases");
        let allow = suite.allow.expect("grants");
        assert_eq!((allow.kv, allow.log), (Some(false), None));
        assert_eq!(allow.http.as_deref(), Some(&["idp".into()][..]));
        let case = &suite.cases[0];
        assert_eq!(
            case.config.json,
            serde_json::json!({"a": 1, "b": 2, "secret": "plain"})
        );
        assert!(
            case.config.secrets.is_empty(),
            "the file's secret was replaced"
        );
        assert_eq!(case.now.to_toml(), "2026-01-01T00:00:00Z");
        assert_eq!((case.repeat, case.every), (3, Duration::from_secs(10)));
        assert_eq!(case.request.query.as_deref(), Some("q"));
        assert!(case.request.tls, "a subject comes over TLS");
        assert_eq!(case.request.headers.get_all("a").iter().count(), 2);
        let body = case.http[0].answer.as_ref().map(|answer| &answer.body);
        assert!(
            matches!(body, Ok(Body::File(file)) if file.value == std::path::Path::new("cases/j.json"))
        );
        let expect = &case.expect;
        assert_eq!(expect.verdict, Some(Decision::Refuse(401)));
        assert_eq!(expect.headers[0].1, FieldValues::Absent);
        assert_eq!(expect.logs, ["warn"]);
        assert_eq!(expect.metrics[0].1, Amount(1.5));
        assert!(expect.kv.contains(&("n".to_owned(), Stored::Absent)));
        assert!(expect.response.is_some());
    }

    #[test]
    fn mistakes_have_their_place_and_a_hint() {
        refused(
            "[[case]]\nname = 1\n",
            &["`name` must be a string", "t.toml:2:8"],
        );
        refused("[[case]]\n", &["[[case]] lacks the key `name`"]);
        refused("cases = []\n", &["did you mean `case`?"]);
        refused(
            "[case]\nname = \"a\"\n",
            &["write it with two brackets, [[case]]"],
        );
        let case = |rest: &str| format!("[[case]]\nname = \"a\"\n{rest}\n");
        refused(
            &case("verdict = 1"),
            &["`verdict` belongs in [case.expect]"],
        );
        refused(
            &case("request = { uri = \"a\" }"),
            &["does not begin with `/`"],
        );
        refused(
            &case("request = { uri = \"/a b\" }"),
            &["percent-encoded", "t.toml:3:22"],
        );
        refused(&case("kv = { a = false }"), &["a string or an integer"]);
        refused(&case("expect = { verdict = 100 }"), &["from 200 to 599"]);
        refused(
            &case("expect = { verdict = \"pass\" }"),
            &["must be `\"continue\"` or a status"],
        );
        refused(&case("expect = { headers = { a = true } }"), &["or false"]);
        refused(
            &case("expect = { response = { status = 200 } }"),
            &["no response hook"],
        );
        refused(
            &case("http = [{ upstream = \"a\", respond = {}, fail = \"timeout\" }]"),
            &["an answer cannot respond and fail"],
        );
        refused(
            &case("response = { body = \"a\", body_file = \"b\" }"),
            &["either `body` or `body_file`"],
        );
        refused("[[case]\n", &["this is not TOML"]);
    }

    #[test]
    fn conversations_are_read() {
        let suite = read(
            r#"
            [[case]]
            name    = "n"
            request = { uri = "/ws" }
            ending  = { code = 1001, by = "proxy", cause = "drain" }
            [[case.messages]]
            client    = "a"
            to_server = ["b", { binary = "0aFF 00" }]
            to_client = false
            [[case.messages]]
            server = { ping = "p" }
            after  = "2s"
            repeat = 3
            [[case.messages]]
            client = ""
            close  = { code = 1008, reason = "no" }
            [[case.messages]]
            tick  = true
            close = 4000
            error = "trapped"
            "#,
        );
        let case = suite.expect("cases").cases.remove(0);
        assert!(case.request.websocket, "what else has messages");
        assert_eq!((case.ending.code, case.ending.by), (Some(1001), None));
        let [first, second, third, last] = case.messages.as_slice() else {
            panic!("{:?}", case.messages);
        };
        let text = Payload::Text("a".to_owned());
        assert_eq!(first.what, Happening::Said(Side::Client, text));
        let bytes = Payload::Binary(vec![0x0a, 0xff, 0]);
        let sent = vec![Payload::Text("b".to_owned()), bytes];
        assert_eq!(first.to_server, Some(sent));
        assert_eq!((&first.to_client, first.repeat), (&Some(vec![]), 1));
        let ping = Payload::Ping(b"p".to_vec());
        assert_eq!(second.what, Happening::Said(Side::Server, ping));
        let closing = Closing {
            code: 1008,
            reason: Some("no".to_owned()),
        };
        assert_eq!(third.close, Some(closing));
        assert_eq!(
            (second.repeat, second.after),
            (3, Some(Duration::from_secs(2)))
        );
        assert_eq!((&last.what, &second.to_server), (&Happening::Tick, &None));
        assert_eq!(last.error.as_deref(), Some("trapped"));
        assert_eq!(Payload::hex(&[0x0a, 0xff]), "0a ff");
    }

    #[test]
    fn mistakes_in_conversations_have_their_place() {
        let step = |rest: &str| format!("[[case]]\nname = \"a\"\n[[case.messages]]\n{rest}\n");
        let hint = "one of `client = …`, `server = …` and `tick = true`";
        refused(
            &step("to_server = \"a\""),
            &["nothing happens in this step", hint],
        );
        refused(
            &step("client = \"a\"\nserver = \"b\""),
            &["a step is one message", hint],
        );
        refused(
            &step("client = { binary = \"0 0 g\" }"),
            &["no hexadecimal digit", "t.toml:4:26", "1 error"],
        );
        refused(
            &step("client = { binary = \"000\" }"),
            &["only one", "1 error"],
        );
        let kinds = "client = { ping = \"\", pong = \"\" }";
        refused(&step(kinds), &["of one kind", "t.toml:4:10"]);
        refused(&step("client = {}"), &["of one kind", "`{ ping = \"\" }`"]);
        refused(
            &step("client = { text = \"a\" }"),
            &["unknown key `text` in a message"],
        );
        refused(
            &step("client = 3"),
            &["must be a string or a table", "1 error"],
        );
        refused(
            &step("client = \"a\"\nto_client = true"),
            &["a message, an array of them, or false"],
        );
        refused(&step("client = \"a\"\nclose = 99"), &["from 1000 to 4999"]);
        refused(
            &step("client = \"a\"\nclose = { reason = \"r\" }"),
            &["lacks the key `code`"],
        );
        refused(
            &step("client = \"a\"\nclose = 1008\nrepeat = 2"),
            &["what ends the tunnel happens once"],
        );
        refused(
            &step("client = \"a\"\nwait = \"1s\""),
            &["did you mean `after`?"],
        );
        let case = |rest: &str| {
            format!("[[case]]\nname = \"a\"\nmessages = [{{ client = \"a\" }}]\n{rest}\n")
        };
        refused(&case("repeat = 2"), &["is run once", "t.toml:4:10"]);
        refused(
            &case("request = { websocket = false }"),
            &["there are no messages", "t.toml:4:25"],
        );
        refused(
            &case("response = { status = 200 }"),
            &["behind a status of 200"],
        );
        refused(
            &case("ending = { by = \"me\" }"),
            &["`client`, `server` or `proxy`"],
        );
    }

    #[test]
    fn the_json_schema_knows_the_tables() {
        let schema = json_schema();
        let keys = |table: &serde_json::Value| {
            let properties = table["properties"].as_object().into_iter().flatten();
            properties.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&schema), ["allow", "case", "config"]);
        for (title, known) in schema::WORDS.tables {
            let described = schema["$defs"].as_object().expect("tables").values();
            let mut known: Vec<_> = known.iter().map(|key| (*key).to_owned()).collect();
            known.sort();
            let same = |table: &serde_json::Value| {
                let mut keys = keys(table);
                keys.sort();
                keys == known
            };
            assert!(same(&schema) || { described }.any(same), "{title}");
        }
    }

    #[test]
    fn the_words_of_others_lead_to_keys_that_exist() {
        for (theirs, ours) in schema::WORDS.elsewhere {
            let known = schema::WORDS
                .tables
                .iter()
                .any(|(_, keys)| keys.contains(ours));
            assert!(known, "{theirs} leads to {ours}");
        }
    }
}
