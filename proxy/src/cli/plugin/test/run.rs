//! One case in the real host: what came of it, judged by nobody yet.
//!
//! Each case has a host of its own, and so a clock, a store and metrics that no other case has touched; the
//! compiled code comes from a cache that all of them share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderValue, Response, StatusCode};
use sluicegate_plugin_host::clock::SettableClock;
use sluicegate_plugin_host::kv::KvStore;
use sluicegate_plugin_host::messages::Opening;
use sluicegate_plugin_host::metrics::{Registry, Value};
use sluicegate_plugin_host::{
    ConfigureError, Filter, FilterError, Grants, Host, HostSettings, Inspection, Limits, Plugin,
    RequestHead, RequestOutcome, ResponseHead, ResponseOutcome, Session, Verdict,
};
use tokio::runtime::Runtime;

use super::capture::Captured;
use super::converse::{self, Conversed};
use super::head::{request_head, subprotocols};
use super::stub::Stub;
use crate::config::Diagnostic;
use crate::config::cases::{self, Allow, Body, Case, HttpAnswer, MetricName, Stored, Suite};
use crate::config::model::{PluginConfig, Span};
use crate::snapshot::config_schema::{ConfigSchema, place};
use crate::snapshot::resolve_secrets;

/// A plugin under test.
pub(super) struct Subject<'a> {
    pub(super) wasm: &'a [u8],
    pub(super) inspection: &'a Inspection,
    /// Compiled code, for this run alone.
    pub(super) cache: &'a Path,
}

/// What came of a case.
pub(super) enum Outcome {
    /// The config is refused; the diagnostics point into the case file.
    ConfigRefused(Vec<Diagnostic>),
    Called(Box<Got>),
}

/// What came of a call.
pub(super) struct Got {
    /// As the plugin saw it.
    pub(super) before: RequestHead,
    pub(super) request: RequestHead,
    /// The refusal, or `None` to continue.
    pub(super) verdict: Result<Option<Response<Bytes>>, String>,
    /// What came of the case's messages; `None`: there is no tunnel.
    pub(super) conversed: Option<Conversed>,
    /// What the client gets of the upstream's answer, where there was one.
    pub(super) response: Option<Result<Response<Bytes>, String>>,
    /// After both hooks.
    pub(super) session: Session,
    pub(super) logs: Vec<String>,
    /// Every series.
    pub(super) metrics: Vec<(MetricName, f64)>,
    /// The entries that the case names.
    pub(super) kv: Vec<(String, Stored)>,
    /// Requests of the plugin's own that nothing answered.
    pub(super) unanswered: Vec<String>,
    pub(super) peak_memory: usize,
    /// For measuring.
    again: Again,
}

/// A call that can be repeated.
struct Again {
    filter: Filter,
    head: RequestHead,
    /// With it the call is about the case's first message.
    opening: Option<Opening>,
}

impl Subject<'_> {
    /// A host with this clock, and the plugin in it.
    ///
    /// # Errors
    /// Why the plugin does not load, ready to be shown.
    pub(super) fn load(
        &self,
        clock: &Arc<SettableClock>,
        grants: &Grants,
        cheap_configure: Duration,
    ) -> Result<(Arc<Host>, Arc<Plugin>), String> {
        let settings = HostSettings {
            instances: INSTANCES,
            cache_dir: Some(self.cache.to_owned()),
            clock: clock.clone(),
            cheap_configure,
            ..HostSettings::default()
        };
        let host = Host::new(settings).map_err(|error| error.to_string())?;
        let plugin = host.load(NAME, self.wasm, Limits::default(), grants);
        let plugin = plugin.map_err(|error| format!("this proxy cannot run it: {error}"))?;
        Ok((host, plugin))
    }

    /// What a suite grants: what it says, and else what the plugin imports.
    pub(super) fn grants(&self, suite: &Suite) -> Grants {
        let unsaid = Allow::default();
        let allow = suite.allow.as_ref().unwrap_or(&unsaid);
        let imports = |what: &str| {
            self.inspection
                .imports
                .iter()
                .any(|name| name.starts_with(what))
        };
        let stubs = suite.cases.iter().flat_map(|case| &case.http);
        let mut answered: Vec<Arc<str>> = stubs.map(|stub| stub.upstream.as_str().into()).collect();
        answered.sort();
        answered.dedup();
        if answered.is_empty() && imports("sluicegate:plugin/outbound@") {
            answered.push("nobody".into());
        }
        let defaults = Grants::default();
        Grants {
            log: allow.log.unwrap_or(defaults.log),
            metrics: allow.metrics.unwrap_or(defaults.metrics),
            clock: allow.clock.unwrap_or(defaults.clock),
            random: allow.random.unwrap_or(defaults.random),
            crypto: allow.crypto.unwrap_or(defaults.crypto),
            kv: allow.kv.unwrap_or_else(|| imports("sluicegate:plugin/kv@")),
            wasi: allow.wasi.unwrap_or_else(|| imports("wasi:")),
            http: allow.http.clone().unwrap_or(answered),
            upstreams: allow.upstreams.clone().unwrap_or_default(),
        }
    }

    /// Runs one case. Every instance is configured by itself: an image of its memory would take longer to
    /// make than all cases take.
    ///
    /// # Errors
    /// Why it could not be run at all, with the place in the case file.
    pub(super) fn run(
        &self,
        case: &Case,
        grants: &Grants,
        runtime: &Runtime,
    ) -> Result<Outcome, Box<Diagnostic>> {
        self.run_with(case, grants, runtime, Duration::MAX)
    }

    /// The median of so many calls: with a case's request, instances included and configured as they are in
    /// the proxy, or about its first message in a tunnel that is open. `None` where there is nothing to call.
    /// The response hook is not counted.
    pub(super) fn measure(
        &self,
        case: &Case,
        grants: &Grants,
        runtime: &Runtime,
        calls: usize,
    ) -> Option<Duration> {
        let cheap_configure = HostSettings::default().cheap_configure;
        let outcome = self.run_with(case, grants, runtime, cheap_configure);
        let Ok(Outcome::Called(got)) = outcome else {
            return None;
        };
        let mut times = runtime.block_on(got.again.times(case, calls));
        times.sort_unstable();
        times.get(calls / 2).copied()
    }

    fn run_with(
        &self,
        case: &Case,
        grants: &Grants,
        runtime: &Runtime,
        cheap_configure: Duration,
    ) -> Result<Outcome, Box<Diagnostic>> {
        let cannot = |why: String| mistake(&case.name.span, why);
        let captured = Captured::default();
        captured.during(|| {
            let clock = Arc::new(SettableClock::new(case.now.0));
            let (host, plugin) = self.load(&clock, grants, cheap_configure).map_err(cannot)?;
            let stub = Arc::new(Stub::new(answers(case)?));
            runtime.block_on(async {
                let store = host.kv(NAME);
                fill(&*store, &case.kv).await.map_err(cannot)?;
                let filter = match configure(&plugin, &case.config).await {
                    Ok(filter) => filter,
                    Err(refused) => return Ok(Outcome::ConfigRefused(refused)),
                };
                let configured = captured.take();
                let head = request_head(case, &stub)?;
                if !case.messages.is_empty() && !plugin.description().message_hooks {
                    return Err(cannot("the plugin filters no messages".to_owned()));
                }
                let mut last = None;
                for _ in 0..case.repeat {
                    // Those of the last call count.
                    captured.take();
                    last = Some(call(&filter, case, head.clone()).await?);
                    clock.advance(case.every);
                }
                let Some((mut got, kept)) = last else {
                    return Err(cannot("a case is run at least once".to_owned()));
                };
                let handshake = spoken(&configured, captured.take());
                if let Some(kept) = kept {
                    let opening = opening(&got, kept);
                    let facts = &got.request.facts;
                    let talk = converse::converse(&filter, &opening, facts, case, &clock);
                    got.conversed = Some(talk.await);
                    got.again.opening = Some(opening);
                }
                let tunnel = spoken(&configured, captured.take());
                got.logs = [configured, handshake, tunnel].concat();
                got.metrics = metrics(host.metrics());
                got.kv = entries(&*store, case).await;
                got.unanswered = stub.unanswered();
                got.peak_memory = plugin.peak_memory();
                Ok(Outcome::Called(Box::new(got)))
            })
        })
    }
}

impl Again {
    async fn times(&self, case: &Case, calls: usize) -> Vec<Duration> {
        if let Some(opening) = &self.opening {
            return converse::times(&self.filter, opening, &self.head.facts, case, calls).await;
        }
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let head = Box::new(self.head.clone());
            let began = Instant::now();
            let outcome = self.filter.on_request(head).await;
            times.push(began.elapsed());
            drop(outcome);
        }
        times
    }
}

/// As the proxy does at a reload: the schema first, then the secrets, then the plugin itself.
async fn configure(plugin: &Arc<Plugin>, config: &PluginConfig) -> Result<Filter, Vec<Diagnostic>> {
    let name = &plugin.description().name;
    if let Some(schema) = &plugin.description().config_schema {
        let schema = ConfigSchema::new(schema).map_err(|why| {
            let message =
                format!("plugin `{name}` describes its config by no usable schema: {why}");
            vec![Diagnostic::error(config.span.clone(), message)]
        })?;
        let mistakes = schema.mistakes(name, config);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
    }
    let json = resolve_secrets(config)?.to_string();
    plugin.configure(&json).await.map_err(|error| {
        let span = match &error {
            ConfigureError::Rejected(problem) => place(config, &problem.pointer),
            _ => config.span.clone(),
        };
        vec![Diagnostic::error(span, error.to_string())]
    })
}

/// One request, and the answer to it if the case has one. With what the plugin kept where a tunnel
/// follows.
async fn call(
    filter: &Filter,
    case: &Case,
    head: RequestHead,
) -> Result<(Got, Option<Bytes>), Box<Diagnostic>> {
    let again = Again {
        filter: filter.clone(),
        head: head.clone(),
        opening: None,
    };
    let (request, outcome) = filter.on_request(Box::new(head.clone())).await;
    let mut got = Got {
        before: head,
        session: request.session.clone(),
        request: *request,
        verdict: Ok(None),
        conversed: None,
        response: None,
        logs: Vec::new(),
        metrics: Vec::new(),
        kv: Vec::new(),
        unanswered: Vec::new(),
        peak_memory: 0,
        again,
    };
    let (hook, kept) = match outcome {
        Err(error) => {
            got.verdict = Err(told(&error));
            return Ok((got, None));
        }
        Ok(RequestOutcome {
            verdict: Verdict::Respond(refusal),
            ..
        }) => {
            got.verdict = Ok(Some(refusal));
            return Ok((got, None));
        }
        Ok(outcome) => (outcome.response_hook, outcome.kept),
    };
    let offered = subprotocols(&got.request.headers);
    let mut response = match &case.response {
        Some(answer) => upstreams_answer(answer)?,
        None if case.messages.is_empty() => return Ok((got, None)),
        None => acceptance(offered.first()),
    };
    let tunnel = |kept| (!case.messages.is_empty()).then_some(kept);
    let Some(hook) = hook else {
        got.response = Some(Ok(response));
        return Ok((got, tunnel(kept)));
    };
    let answer = ResponseHead {
        status: response.status(),
        is_upgrade: response.status() == StatusCode::SWITCHING_PROTOCOLS,
        headers: std::mem::take(response.headers_mut()),
        offered: subprotocols(&got.before.headers).into(),
        session: got.session.clone(),
    };
    let (answer, outcome) = hook.on_response(Box::new(answer)).await;
    *response.headers_mut() = answer.headers;
    got.session = answer.session;
    let (response, kept) = match outcome {
        Ok(ResponseOutcome {
            verdict: Verdict::Continue,
            kept,
        }) => (Ok(response), tunnel(kept)),
        Ok(ResponseOutcome {
            verdict: Verdict::Respond(instead),
            ..
        }) => (Ok(instead), None),
        Err(error) => (Err(told(&error)), None),
    };
    got.response = Some(response);
    Ok((got, kept))
}

/// What the case lets the upstream answer.
fn upstreams_answer(answer: &cases::Response) -> Result<Response<Bytes>, Box<Diagnostic>> {
    let mut response = Response::new(body(&answer.body)?);
    *response.status_mut() = status(answer.status);
    *response.headers_mut() = answer.headers.clone();
    Ok(response)
}

/// An upstream that accepts the upgrade, with a subprotocol if one is offered.
fn acceptance(subprotocol: Option<&String>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(value) = subprotocol.and_then(|name| HeaderValue::from_str(name).ok()) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    response
}

/// What the plugin is told of the tunnel that the handshake became.
fn opening(got: &Got, kept: Bytes) -> Opening {
    let RequestHead { facts, .. } = &got.request;
    let answered = got
        .response
        .as_ref()
        .and_then(|answer| answer.as_ref().ok());
    let chosen = answered.and_then(|answer| subprotocols(answer.headers()).into_iter().next());
    Opening {
        request_id: facts.request_id.clone(),
        route: facts.route.clone(),
        host: facts.host.clone(),
        path: got.request.path.clone(),
        query: got.request.query.clone(),
        client_ip: facts.client_ip,
        headers: got.request.headers.clone(),
        subprotocol: chosen,
        labels: got.session.labels.clone(),
        kept,
    }
}

/// A failure with the guest's backtrace below it.
pub(super) fn told(error: &FilterError) -> String {
    match error {
        FilterError::Trap { backtrace, .. } if !backtrace.is_empty() => {
            format!("{error}\n{backtrace}")
        }
        _ => error.to_string(),
    }
}

fn answers(case: &Case) -> Result<Vec<(HttpAnswer, Bytes)>, Box<Diagnostic>> {
    let with_body = |answer: &HttpAnswer| {
        let bytes = match &answer.answer {
            Ok(response) => body(&response.body)?,
            Err(_) => Bytes::new(),
        };
        Ok((answer.clone(), bytes))
    };
    case.http.iter().map(with_body).collect()
}

fn body(body: &Body) -> Result<Bytes, Box<Diagnostic>> {
    match body {
        Body::Text(text) => Ok(Bytes::from(text.clone())),
        Body::File(file) => std::fs::read(&file.value)
            .map(Bytes::from)
            .map_err(|error| {
                let message = format!("cannot read `{}`: {error}", file.value.display());
                mistake(&file.span, message)
            }),
    }
}

async fn fill(store: &dyn KvStore, entries: &[(String, Stored)]) -> Result<(), String> {
    for (key, value) in entries {
        let stored = match value {
            Stored::Absent => Ok(()),
            Stored::Text(text) => store.set(key, text.as_bytes(), None).await,
            Stored::Number(number) => store.increment(key, *number, None).await.map(drop),
        };
        stored.map_err(|error| format!("the store does not take `{key}`: {error}"))?;
    }
    Ok(())
}

/// The entries that the case names, as they are now.
async fn entries(store: &dyn KvStore, case: &Case) -> Vec<(String, Stored)> {
    let mut entries: Vec<(String, Stored)> = Vec::new();
    for (key, _) in case.kv.iter().chain(&case.expect.kv) {
        if entries.iter().any(|(known, _)| known == key) {
            continue;
        }
        let stored = match store.get(key).await {
            Ok(Some(bytes)) => Stored::Text(String::from_utf8_lossy(&bytes).into_owned()),
            // A key that cannot be is not there.
            Ok(None) | Err(_) => Stored::Absent,
        };
        entries.push((key.clone(), stored));
    }
    entries
}

/// The lines of a call alone: an instance that was configured once more has said again what was said then.
fn spoken(configured: &[String], mut call: Vec<String>) -> Vec<String> {
    if !configured.is_empty() && call.starts_with(configured) {
        call.drain(..configured.len());
    }
    call
}

fn metrics(registry: &Registry) -> Vec<(MetricName, f64)> {
    let prefix = format!("plugin_{NAME}_");
    let families = registry.families(&[]).into_iter();
    let series = families.flat_map(|family| {
        let name = family.name.strip_prefix(&prefix).unwrap_or(&family.name);
        let name = name.to_owned();
        family.series.into_iter().map(move |series| {
            let labels = series.labels.into_iter();
            let name = MetricName {
                name: name.clone(),
                labels: labels.filter(|(label, _)| label != "plugin").collect(),
            };
            let value = match series.value {
                Value::Counter(count) => count as f64,
                Value::Gauge(value) => value,
                Value::Histogram { buckets, .. } => {
                    buckets.iter().map(|(_, count)| *count).sum::<u64>() as f64
                }
            };
            (name, value)
        })
    });
    series.collect()
}

/// Why a case cannot be run, with its place.
pub(super) fn mistake(span: &Span, why: String) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(span.clone(), why))
}

fn status(status: u16) -> StatusCode {
    // The case file's reader lets nothing else through.
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}

/// How the plugin is called inside of its host.
const NAME: &str = "plugin";
/// One serves, and one may wait for the upstream's answer.
const INSTANCES: u32 = 2;
