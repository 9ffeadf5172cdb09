//! Asks an HTTP service whether a request may pass.
//!
//! The service gets the credentials the client sent and what the request is for. With a 2xx the request
//! goes on, with fields of the answer that tell the upstream who it is; with a redirect or a 4xx that
//! answer is the client's. Whatever else happens lets nobody in, unless the operator says so for the one
//! case that has nothing to do with what a client sends: that the service is not there.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::outbound::{self, Error};
use sluicegate_plugin::{
    ConfigError, EditError, Filter, Interval, Reply, Request, Service, Verdict, check_header,
    check_label, config, export, metrics,
};

use crate::cache::Answer;

mod cache;

#[config]
#[derive(Debug)]
pub struct Config {
    /// The service, one of the configuration's upstreams; `allow.http` must name it.
    upstream: String,
    /// What is asked for there.
    path: String,
    /// `GET`, `HEAD` or `POST`, without a body.
    #[serde(default = "default_method")]
    method: String,
    /// `Host` of the question; by default the server's own.
    host: Option<String>,
    /// The client's headers that the service gets.
    #[serde(default = "default_request_headers")]
    request_headers: Vec<String>,
    /// Headers of its 2xx that the upstream gets; the client's own are dropped.
    #[serde(default)]
    response_headers: Vec<String>,
    /// Headers of its other answers that the client gets.
    #[serde(default = "default_deny_headers")]
    deny_headers: Vec<String>,
    /// Headers of its 2xx that become labels of the session: header = label.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// How long it may take.
    #[serde(default = "default_timeout")]
    timeout: Interval,
    /// What to do when no server takes the question, or none answers in time.
    #[serde(default)]
    on_unreachable: OnUnreachable,
    /// How long a 2xx is remembered; by default not at all.
    allow_ttl: Option<Interval>,
    /// How long another answer is remembered; by default not at all.
    deny_ttl: Option<Interval>,
    /// End the tunnel after this time: the client then has to ask again.
    lifetime: Option<Interval>,
}

#[config]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum OnUnreachable {
    /// 503.
    #[default]
    Deny,
    /// The request goes on, without anything that the service would have said.
    Pass,
}

/// Names in lower case.
pub struct ForwardAuth {
    config: Config,
    response_headers: Vec<String>,
    deny_headers: Vec<String>,
    /// What is kept of a 2xx: what the upstream gets, and what becomes a label.
    kept: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// No server took the question, or none answered in time.
    Unreachable(String),
    /// What the client sent cannot be sent on.
    Invalid(String),
    /// An answer that says nothing.
    Useless(String),
}

impl Filter for ForwardAuth {
    type Config = Config;
    // Without a time to live nothing is kept.
    const OPTIONAL: &'static [Service] = &[Service::Kv];

    fn configure(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let response_headers = lower(&config.response_headers);
        let mut deny_headers = lower(&config.deny_headers);
        // A body is nothing without it.
        deny_headers.push("content-type".to_owned());
        let labelled = config.labels.keys().map(|name| name.to_ascii_lowercase());
        let kept = response_headers.iter().cloned().chain(labelled).collect();
        Ok(ForwardAuth {
            config,
            response_headers,
            deny_headers,
            kept,
        })
    }

    fn on_request(&self, req: &mut Request) -> Verdict {
        match self.ask(req) {
            Ok(answer) if is_allowing(answer.status) => self.pass_on(req, Some(&answer)),
            Ok(answer) => {
                metrics::count("refused", &[("why", "denied")], 1).ok();
                let status = answer.status.to_string();
                log::event(Level::Info, "the service refused", &[("status", &status)]);
                self.refuse_as(&answer).into()
            }
            Err(failure) => self.on_failure(req, &failure),
        }
    }
}

export!(ForwardAuth);

impl ForwardAuth {
    /// The service's answer, or what is remembered of it.
    fn ask(&self, req: &Request) -> Result<Answer, Failure> {
        let question = self.question(req);
        let may_be_kept = self.config.allow_ttl.or(self.config.deny_ttl).is_some();
        let entry = may_be_kept.then(|| cache::entry(&question, &[&self.kept, &self.deny_headers]));
        if let Some(answer) = entry.as_ref().and_then(|entry| cache::load(entry)) {
            metrics::count("cached", &[], 1).ok();
            return Ok(answer);
        }
        let response = question.send().map_err(Failure::from)?;
        let status = response.status;
        if !is_allowing(status) && !(300..500).contains(&status) {
            return Err(Failure::Useless(format!("status {status}")));
        }
        let may_keep = cache::may_keep(&response);
        let (answer, ttl) = if is_allowing(status) {
            (
                Answer::of(response, &self.kept, false),
                self.config.allow_ttl,
            )
        } else {
            (
                Answer::of(response, &self.deny_headers, true),
                self.config.deny_ttl,
            )
        };
        if let (Some(entry), Some(ttl), true) = (entry, ttl, may_keep) {
            cache::keep(&entry, &answer, ttl.get());
        }
        Ok(answer)
    }

    /// `X-Original-*`, as nginx's users send them: `X-Forwarded-*` is what the proxy itself says of a
    /// request, and this one is its own.
    fn question(&self, req: &Request) -> outbound::Request {
        let config = &self.config;
        let uri = match req.query() {
            Some(query) => format!("{}?{query}", req.path()),
            None => req.path(),
        };
        let url = format!("{}://{}{uri}", req.scheme(), authority(req));
        let mut question = outbound::Request::new(&config.method, &config.upstream, &config.path)
            .header("X-Original-Method", req.method())
            .header("X-Original-URL", url)
            .header("X-Original-URI", uri)
            .header("X-Original-For", req.client_ip().to_string())
            .timeout(config.timeout.get());
        if let Some(host) = &config.host {
            question = question.header("Host", host.as_str());
        }
        for name in &config.request_headers {
            for value in req.header_values(name) {
                question = question.header(name, value);
            }
        }
        question
    }

    /// Lets the request go on with what the service said, or with nothing of it.
    fn pass_on(&self, req: &mut Request, answer: Option<&Answer>) -> Verdict {
        match self.edit(req, answer) {
            Ok(()) => Verdict::Continue,
            // Better no request than one that names nobody, or whom the client likes.
            Err(error) => {
                metrics::count("refused", &[("why", "request")], 1).ok();
                sluicegate_plugin::warn!("the request cannot be rewritten: {error}");
                text(400, "the request cannot be sent on\n").into()
            }
        }
    }

    fn edit(&self, req: &mut Request, answer: Option<&Answer>) -> Result<(), EditError> {
        for name in &self.response_headers {
            req.remove_header(name)?;
            for value in answer.into_iter().flat_map(|answer| answer.values(name)) {
                req.add_header(name, value)?;
            }
        }
        let Some(answer) = answer else {
            return Ok(());
        };
        for (name, label) in &self.config.labels {
            if let Some(value) = answer.values(&name.to_ascii_lowercase()).next() {
                req.set_label(label, &String::from_utf8_lossy(&value))?;
            }
        }
        if let Some(lifetime) = self.config.lifetime {
            req.limit_lifetime(lifetime.get());
        }
        Ok(())
    }

    /// The service's answer, as far as the proxy would send it.
    fn refuse_as(&self, answer: &Answer) -> Reply {
        let mut reply = Reply::new(answer.status);
        for (name, value) in answer.headers() {
            if check_header(name, &value).is_ok() {
                reply = reply.header(name, value);
            }
        }
        // Half a page would be worse than none.
        if answer.body().len() <= MAX_BODY {
            reply = reply.body(answer.body());
        }
        reply
    }

    fn on_failure(&self, req: &mut Request, failure: &Failure) -> Verdict {
        let (why, detail) = match failure {
            Failure::Unreachable(detail) => ("unreachable", detail),
            Failure::Invalid(detail) => ("invalid", detail),
            Failure::Useless(detail) => ("answer", detail),
        };
        let unreachable = matches!(failure, Failure::Unreachable(_));
        let passes = unreachable && self.config.on_unreachable == OnUnreachable::Pass;
        let (name, message) = if passes {
            ("passed", "nobody was asked, the request passes")
        } else {
            ("refused", "nobody could be asked")
        };
        metrics::count(name, &[("why", why)], 1).ok();
        log::event(Level::Warn, message, &[("why", why), ("detail", detail)]);
        if passes {
            return self.pass_on(req, None);
        }
        let reply = match failure {
            Failure::Invalid(_) => text(400, "the request cannot be checked\n"),
            _ => text(503, "try again later\n").header("retry-after", "1"),
        };
        reply.into()
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let sendable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if self.upstream.is_empty() {
            return Err(ConfigError::key("upstream", "is empty"));
        }
        if !self.path.starts_with('/') || !sendable(&self.path) {
            return Err(ConfigError::key(
                "path",
                format!("`{}` is no path", self.path),
            ));
        }
        // Nothing else is asked without a body.
        if !["GET", "HEAD", "POST"].contains(&self.method.as_str()) {
            let message = format!("`{}` is not GET, HEAD or POST", self.method);
            return Err(ConfigError::key("method", message));
        }
        if let Some(host) = self
            .host
            .as_ref()
            .filter(|host| host.is_empty() || !sendable(host))
        {
            return Err(ConfigError::key("host", format!("`{host}` is no host")));
        }
        for (key, names) in [
            ("request_headers", &self.request_headers),
            ("response_headers", &self.response_headers),
            ("deny_headers", &self.deny_headers),
        ] {
            for (i, name) in names.iter().enumerate() {
                check_header(name, "").map_err(|error| {
                    ConfigError::at([key, &i.to_string()], format!("`{name}`: {error}"))
                })?;
            }
        }
        let ours = |name: &&String| name.to_ascii_lowercase().starts_with("x-original-");
        if let Some(name) = self.request_headers.iter().find(ours) {
            // The client would be believed about what it asks for.
            let message = format!("`{name}` is written by this plugin");
            return Err(ConfigError::key("request_headers", message));
        }
        for (name, label) in &self.labels {
            check_header(name, "")
                .map_err(|error| ConfigError::key("labels", format!("`{name}`: {error}")))?;
            check_label(label)
                .map_err(|_| ConfigError::at(["labels", name], format!("`{label}` is no label")))?;
        }
        for (key, interval) in [
            ("timeout", Some(self.timeout)),
            ("allow_ttl", self.allow_ttl),
            ("deny_ttl", self.deny_ttl),
            ("lifetime", self.lifetime),
        ] {
            if interval.is_some_and(Interval::is_zero) {
                return Err(ConfigError::key(key, "is no time at all"));
            }
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Unreachable(_) | Error::Timeout => Failure::Unreachable(detail),
            Error::Invalid(_) => Failure::Invalid(detail),
            _ => Failure::Useless(detail),
        }
    }
}

/// The host, with the port that the client knows of: a redirect has to lead back there.
fn authority(req: &Request) -> String {
    let host = req.host();
    let sent = req.header("host").map(|sent| sent.to_ascii_lowercase());
    let port = sent
        .as_ref()
        .and_then(|sent| sent.strip_prefix(&host)?.strip_prefix(':'));
    match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{host}:{port}"),
        _ => host,
    }
}

fn is_allowing(status: u16) -> bool {
    (200..300).contains(&status)
}

fn lower(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn text(status: u16, body: &str) -> Reply {
    Reply::new(status)
        .header("content-type", "text/plain")
        .body(body)
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_request_headers() -> Vec<String> {
    ["Authorization", "Cookie"].map(str::to_owned).into()
}

fn default_deny_headers() -> Vec<String> {
    [
        "WWW-Authenticate",
        "Location",
        "Set-Cookie",
        "Cache-Control",
        "Retry-After",
    ]
    .map(str::to_owned)
    .into()
}

fn default_timeout() -> Interval {
    Interval::from_secs(5)
}

/// Of a plugin's own response.
const MAX_BODY: usize = 64 * 1024;

#[cfg(test)]
mod tests;
