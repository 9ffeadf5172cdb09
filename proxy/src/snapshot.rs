//! One immutable generation of the configuration, with everything that it needs to serve.
//!
//! [`Snapshot::build`] does all the reading and compiling that `config` refuses to do, and reports
//! what it finds with the same diagnostics, pointing into the same file. It takes over from the
//! previous generation what did not change: endpoints with their health and connections, compiled
//! plugins, TLS ticket keys, metric series. A snapshot is never changed; whoever began with one
//! keeps it.

pub mod config_schema;
mod plugins;
mod standing;

use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use sluicegate_plugin_host::{self as plugin_host, Filter, Host, HostError, HostSettings};

use crate::admission::ClientLimit;
use crate::config::model::{
    self, Action, Bind, Config, HeaderEdits, Http2, Limits, Listener, OnError, OnMessageError,
    OriginPattern, RouteTimeouts, Timeouts, TunnelRules,
};
use crate::config::{Diagnostic, Report, Source};
use crate::facts::Peer;
use crate::request;
use crate::route::Table;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{EndpointMetrics, Metrics, PluginMetrics, RouteMetrics};
use crate::tls::{CertInfo, Fault, ServerTls};
use crate::upstream::Upstream;
pub use plugins::{LoadedPlugin, resolve_secrets};
pub use standing::Standing;

/// A generation, ready to serve.
pub struct Snapshot {
    pub generation: u64,
    pub config: Config,
    pub listeners: Vec<(Bind, Arc<ListenerPolicy>)>,
    pub table: Table,
    /// In the order that `table` counts.
    pub routes: Vec<Arc<Route>>,
    /// In the order of the configuration, which [`Action::Forward`] counts.
    pub upstreams: Vec<UpstreamEntry>,
    pub plugins: Vec<LoadedPlugin>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub trusted_proxies: Vec<IpNet>,
    pub access_log: AccessLog,
}

/// How one generation treats what a listener accepts.
pub struct ListenerPolicy {
    /// As configured, for logs.
    pub bind: Arc<str>,
    pub tls: Option<Arc<ServerTls>>,
    pub http2: Http2,
    /// Every request is redirected to https on this port.
    pub redirect_to_https: Option<u16>,
}

/// A route as requests use it.
pub struct Route {
    pub name: Arc<str>,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub origins: Vec<OriginPattern>,
    pub chain: Vec<ChainLink>,
    pub timeouts: RouteTimeouts,
    /// Bytes a second that a client has to send or to take of a body.
    pub body_rate: Option<NonZeroU64>,
    /// Shared with its tunnels, which outlive it.
    pub tunnel: Arc<TunnelRules>,
    /// A filter of it has an interest in messages.
    pub converses: bool,
    /// Its tunnels are read message by message, by its rules or for its filters.
    pub reads_messages: bool,
    /// Of a tunnel whose session has expired.
    pub expiry_close_code: u16,
    pub metrics: RouteMetrics,
}

/// One filter of a route.
pub struct ChainLink {
    pub filter: Filter,
    pub on_error: OnError,
    pub on_message_error: OnMessageError,
    pub standing: Arc<Standing>,
    pub metrics: PluginMetrics,
}

/// An upstream and the metric series of its endpoints, which a lease's index counts.
pub struct UpstreamEntry {
    pub upstream: Arc<Upstream>,
    pub metrics: Vec<EndpointMetrics>,
}

/// What of the process a snapshot is built with.
pub struct Workshop {
    host: OnceLock<Arc<Host>>,
    settings: HostSettings,
    pub metrics: Arc<Metrics>,
    /// Told what takes time, for a person who waits.
    pub progress: Box<dyn Fn(&str) + Send + Sync>,
}

impl Workshop {
    pub fn new(
        settings: HostSettings,
        metrics: Arc<Metrics>,
        progress: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Workshop {
        Workshop {
            host: OnceLock::new(),
            settings,
            metrics,
            progress,
        }
    }

    /// The plugin host, started at the first call: a proxy without plugins has none.
    ///
    /// # Errors
    /// When it cannot start; a cache folder that is not safe to use only costs the cache.
    fn host(&self, config: &Config) -> Result<&Arc<Host>, HostError> {
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let settings = HostSettings {
            instances: self.instances(config),
            ..self.settings.clone()
        };
        let host = Host::new(settings.clone()).or_else(|error| {
            tracing::warn!(%error, "compiled plugins are not kept, each start compiles them anew");
            Host::new(HostSettings {
                cache_dir: None,
                ..settings
            })
        })?;
        Ok(self.host.get_or_init(|| {
            self.metrics.export_plugins(Arc::clone(host.metrics()));
            host
        }))
    }

    /// Plugin instances that this configuration wants to be alive at once: the usual number, and what plugins
    /// may have beyond what is usual for one.
    fn instances(&self, config: &Config) -> u32 {
        let usual = plugin_host::Limits::default().instances.get();
        let plugins = config.plugins.iter();
        let more = plugins.map(|plugin| plugin.limits.instances.get().saturating_sub(usual));
        let wanted = more.fold(self.settings.instances, u32::saturating_add);
        wanted.min(HostSettings::MAX_INSTANCES)
    }
}

impl Snapshot {
    /// Does all the IO that a parsed configuration needs.
    ///
    /// Runs for as long as reading certificates and compiling plugins takes: never on a serving
    /// thread.
    ///
    /// # Errors
    /// A report of everything that is wrong; nothing of the previous generation has changed.
    pub async fn build(
        source: &Arc<Source>,
        config: Config,
        mut warnings: Vec<Diagnostic>,
        previous: Option<&Snapshot>,
        workshop: &Workshop,
        access_log: AccessLog,
    ) -> Result<(Snapshot, Report), Report> {
        let mut diagnostics = Vec::new();
        let listeners = build_listeners(&config, previous, &mut diagnostics);
        let upstreams = build_upstreams(&config, previous, workshop, &mut diagnostics);
        let mut plugins =
            plugins::load_plugins(&config, previous, workshop, &mut diagnostics).await;
        let chains =
            plugins::build_chains(&config, &mut plugins, previous, workshop, &mut diagnostics)
                .await;
        diagnostics.append(&mut warnings);
        let report = Report::new(source, diagnostics);
        if report.has_errors() {
            return Err(report);
        }
        let routes = config
            .routes
            .iter()
            .zip(chains)
            .map(|(route, chain)| Arc::new(Route::new(route, chain, &workshop.metrics)))
            .collect();
        let snapshot = Snapshot {
            generation: previous.map_or(1, |previous| previous.generation + 1),
            listeners,
            table: Table::new(&config.routes),
            routes,
            upstreams,
            plugins: plugins.into_iter().flatten().collect(),
            timeouts: config.timeouts,
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            access_log,
            config,
        };
        Ok((snapshot, report))
    }

    /// How many connections a client may have; `None` of trusted proxies, behind which there are many, and
    /// of whom nobody limits.
    pub fn client_limit(&self, peer: Peer) -> Option<ClientLimit> {
        let most = self.limits.connections_per_client?;
        let trusted = request::is_trusted(peer.ip(), &self.trusted_proxies);
        (!trusted).then_some(ClientLimit {
            most,
            ipv6_prefix: self.limits.ipv6_prefix,
        })
    }

    /// The longest that any route lets either side keep the other waiting.
    pub fn longest_wait(&self) -> Duration {
        let waits = self.routes.iter().map(|route| {
            let timeouts = &route.timeouts;
            timeouts
                .idle_timeout
                .max(timeouts.connect + timeouts.response_head)
        });
        waits.fold(self.timeouts.request_body, Duration::max)
    }

    /// The certificates of all listeners, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = &CertInfo> {
        self.listeners
            .iter()
            .filter_map(|(_, policy)| policy.tls.as_ref())
            .flat_map(|tls| tls.certs())
    }
}

impl Route {
    /// Whether nobody looks at a request's fields, or changes them, on the way to the upstream.
    pub fn is_straight(&self) -> bool {
        self.chain.is_empty() && self.request_headers.is_empty()
    }

    fn new(route: &model::Route, chain: Vec<ChainLink>, metrics: &Metrics) -> Route {
        let converses = chain.iter().any(|link| link.filter.interest().is_some());
        Route {
            name: Arc::clone(&route.name),
            action: route.action.clone(),
            request_headers: route.request_headers.clone(),
            response_headers: route.response_headers.clone(),
            origins: route.origins.clone(),
            chain,
            timeouts: route.timeouts,
            body_rate: route.body_rate,
            converses,
            reads_messages: converses || route.tunnel.reads_messages(),
            tunnel: Arc::new(route.tunnel.clone()),
            expiry_close_code: route.expiry_close_code,
            metrics: metrics.route(&route.name),
        }
    }
}

fn build_listeners(
    config: &Config,
    previous: Option<&Snapshot>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<(Bind, Arc<ListenerPolicy>)> {
    let https_port = config.listeners.iter().find_map(https_port);
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let bind = &listener.bind.value;
        let before = previous
            .into_iter()
            .flat_map(|previous| &previous.listeners)
            .find(|(before, _)| before == bind)
            .and_then(|(_, policy)| policy.tls.as_deref());
        let tls = match &listener.tls {
            None => None,
            Some(tls) => match ServerTls::build(tls, listener.http2.enabled, before) {
                Ok(tls) => {
                    let warnings = tls.warnings().iter();
                    diagnostics.extend(warnings.map(|fault| Diagnostic {
                        severity: crate::config::Severity::Warning,
                        ..diagnostic(fault)
                    }));
                    Some(tls)
                }
                Err(faults) => {
                    diagnostics.extend(faults.iter().map(diagnostic));
                    continue;
                }
            },
        };
        let policy = ListenerPolicy {
            bind: bind.to_string().into(),
            tls,
            http2: listener.http2,
            redirect_to_https: listener.redirect_to_https.then_some(https_port).flatten(),
        };
        listeners.push((bind.clone(), Arc::new(policy)));
    }
    listeners
}

fn https_port(listener: &Listener) -> Option<u16> {
    listener.tls.as_ref()?;
    match &listener.bind.value {
        Bind::Tcp(addr) => Some(addr.port()),
        Bind::AnyTcp(port) => Some(*port),
        Bind::Unix(_) => None,
    }
}

fn build_upstreams(
    config: &Config,
    previous: Option<&Snapshot>,
    workshop: &Workshop,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<UpstreamEntry> {
    let mut upstreams = Vec::new();
    for upstream in &config.upstreams {
        let before = previous
            .into_iter()
            .flat_map(|previous| &previous.upstreams)
            .find(|entry| *entry.upstream.name() == upstream.name)
            .map(|entry| &*entry.upstream);
        match Upstream::build(upstream, before) {
            Ok(built) => {
                let metrics = built
                    .endpoints()
                    .map(|endpoint| {
                        let metrics = workshop.metrics.endpoint(&upstream.name, endpoint.name());
                        metrics.set_up(endpoint.is_up());
                        metrics
                    })
                    .collect();
                upstreams.push(UpstreamEntry {
                    upstream: built,
                    metrics,
                });
            }
            Err(faults) => diagnostics.extend(faults.iter().map(diagnostic)),
        }
    }
    upstreams
}

fn diagnostic(fault: &Fault) -> Diagnostic {
    Diagnostic::error(fault.span.clone(), fault.message.clone()).hint(fault.hint.clone())
}
