//! Plugins: the declared ones, and their uses on routes with the config laid over.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::upstreams::Upstreams;
use super::{Context, entries, number, size};
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{
    Allow, Isolation, Located, OnError, OnMessageError, Plugin, PluginConfig, PluginLimits,
    PluginUse, Quarantine, SecretRef, SecretSource, Span,
};
use crate::config::reader::{Either, Field, OneOrMany, Read, Text};
use crate::config::schema;
use crate::config::values::{Name, PluginJson, Secret, did_you_mean};

/// All plugins by name, and which of them a route uses.
pub(super) struct Plugins {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// The whole `[plugin]` was unreadable: no name can be called unknown.
    unreadable: bool,
}

struct Entry {
    name: Located<Name>,
    /// `None`: it has mistakes, but its name counts.
    plugin: Option<Plugin>,
    /// What the user wrote as its config.
    config: PluginJson,
    used: bool,
}

impl Plugins {
    pub(super) fn lower(
        file: &schema::File,
        upstreams: &mut Upstreams,
        cx: &mut Context<'_>,
    ) -> Self {
        let mut plugins = Plugins {
            entries: Vec::new(),
            by_name: HashMap::new(),
            unreadable: matches!(file.plugin, Field::Mistaken),
        };
        for (name, field) in file.plugin.value().into_iter().flatten() {
            let written = field.value();
            let config = written.and_then(|plugin| plugin.config.value()).cloned();
            let config = config.unwrap_or_default();
            plugins
                .by_name
                .insert(name.value.0.clone(), plugins.entries.len());
            plugins.entries.push(Entry {
                plugin: written
                    .and_then(|written| lower_plugin(name, written, &config, upstreams, cx)),
                name: name.clone(),
                config,
                used: false,
            });
        }
        plugins
    }

    /// The chain of a route; unknown names are reported.
    pub(super) fn chain(
        &mut self,
        written: &schema::Route,
        cx: &mut Context<'_>,
    ) -> Option<Vec<PluginUse>> {
        let uses = match &written.plugins {
            Field::Absent => return Some(Vec::new()),
            Field::Mistaken => return None,
            Field::Given(uses) => &uses.value,
        };
        // All are looked at before the first failure counts, so that all mistakes are found.
        let uses: Vec<_> = uses
            .iter()
            .map(|field| self.resolve(field.given()?, cx))
            .collect();
        uses.into_iter().collect()
    }

    /// Warns of unused ones; `None` if one of them had mistakes.
    pub(super) fn finish(self, cx: &mut Context<'_>) -> Option<Vec<Plugin>> {
        for entry in self.entries.iter().filter(|entry| !entry.used) {
            let message = format!("no route uses the plugin `{}`", entry.name.value.0);
            cx.report(Diagnostic::warning(entry.name.span.clone(), message));
        }
        self.entries.into_iter().map(|entry| entry.plugin).collect()
    }

    fn resolve(
        &mut self,
        written: &Located<Either<Name, schema::PluginUse>>,
        cx: &mut Context<'_>,
    ) -> Option<PluginUse> {
        let (name, span, table) = match &written.value {
            Either::Short(name) => (name, &written.span, None),
            Either::Table(table) => {
                let name = table.r#use.given()?;
                (&name.value, &name.span, Some(table))
            }
        };
        let Some(index) = self.by_name.get(&name.0).copied() else {
            if !self.unreadable {
                let names = self.entries.iter().map(|entry| entry.name.value.0.as_str());
                let hint = did_you_mean(&name.0, names)
                    .unwrap_or_else(|| format!("declare `[plugin.{}]`", name.0));
                let message = format!("there is no plugin `{}`", name.0);
                cx.report(Diagnostic::error(span.clone(), message).hint(hint));
            }
            return None;
        };
        let entry = &mut self.entries[index];
        entry.used = true;
        let default = entry.plugin.as_ref();
        let config = match table.map(|table| &table.config) {
            None | Some(Field::Absent) => default?.config.clone(),
            Some(Field::Mistaken) => return None,
            Some(Field::Given(own)) => located(
                &overlay(&entry.config, &own.value),
                own.span.clone(),
                cx.dir,
            ),
        };
        let nothing = schema::PluginUse::default();
        let table = table.unwrap_or(&nothing);
        let on_error = table.on_error.value().copied().unwrap_or(OnError::Deny);
        let isolation = table.isolation.value().copied();
        if let (Some(Isolation::Connection), Some(shared)) =
            (isolation, table.connections_per_instance.given())
        {
            let message = "with an instance for each connection, none is shared";
            let hint = "keep one of `isolation` and `connections_per_instance`".to_owned();
            let mistake = Diagnostic::error(shared.span.clone(), message).hint(hint);
            let isolation = table.isolation.given().map(|given| given.span.clone());
            cx.report(mistake.related(isolation.unwrap_or(span.clone()), "said here"));
        }
        let per_instance = number(&table.connections_per_instance, CONNECTIONS_PER_INSTANCE);
        let message_keys = [
            key("isolation", &table.isolation),
            key("connections_per_instance", &table.connections_per_instance),
            key("on_message_error", &table.on_message_error),
        ];
        let on_message_error = table.on_message_error.value().copied();
        Some(PluginUse {
            plugin: index,
            config,
            on_error,
            reuse: NonZeroU32::new(number(&table.reuse, 0)),
            isolation,
            connections_per_instance: NonZeroU32::new(per_instance).unwrap_or(NonZeroU32::MIN),
            on_message_error: on_message_error.unwrap_or(match on_error {
                OnError::Deny => OnMessageError::Close,
                OnError::Pass => OnMessageError::Pass,
            }),
            message_keys: message_keys.into_iter().flatten().collect(),
            span: written.span.clone(),
        })
    }
}

/// A key, where it was given.
fn key<T: Read>(name: &'static str, field: &Field<T>) -> Option<Located<&'static str>> {
    let span = field.given()?.span.clone();
    Some(Located { value: name, span })
}

fn lower_plugin(
    name: &Located<Name>,
    written: &schema::Plugin,
    config: &PluginJson,
    upstreams: &mut Upstreams,
    cx: &mut Context<'_>,
) -> Option<Plugin> {
    let allow = lower_allow(written.allow.value(), upstreams, cx);
    let sends_requests = allow.as_ref().is_some_and(|allow| !allow.http.is_empty());
    let limits = lower_limits(written.limits.value(), sends_requests, cx);
    let config_span = match &written.config {
        Field::Absent => name.span.clone(),
        Field::Mistaken => return None,
        Field::Given(config) => config.span.clone(),
    };
    Some(Plugin {
        name: Arc::from(name.value.0.as_str()),
        wasm: cx.path(&written.wasm)?,
        config: located(config, config_span, cx.dir),
        allow: allow?,
        limits: limits?,
        span: name.span.clone(),
    })
}

fn lower_allow(
    written: Option<&schema::Allow>,
    upstreams: &mut Upstreams,
    cx: &mut Context<'_>,
) -> Option<Allow> {
    let nothing = schema::Allow::default();
    let written = written.unwrap_or(&nothing);
    let or = |field: &Field<bool>, default| field.value().copied().unwrap_or(default);
    let mut named = |field: &Field<OneOrMany<Text<Name>>>| -> Option<Vec<Arc<str>>> {
        let named: Vec<_> = entries(field)?
            .iter()
            .map(|name| upstreams.named(name.given()?, cx))
            .collect();
        named.into_iter().collect()
    };
    let (http, elsewhere) = (named(&written.http), named(&written.upstreams));
    Some(Allow {
        log: or(&written.log, true),
        metrics: or(&written.metrics, true),
        clock: or(&written.clock, true),
        random: or(&written.random, true),
        crypto: or(&written.crypto, true),
        kv: or(&written.kv, false),
        wasi: or(&written.wasi, false),
        http: http?,
        upstreams: elsewhere?,
    })
}

fn lower_limits(
    written: Option<&schema::PluginLimits>,
    sends_requests: bool,
    cx: &mut Context<'_>,
) -> Option<PluginLimits> {
    let empty = schema::PluginLimits::default();
    let written = written.unwrap_or(&empty);
    let memory = size(
        &written.memory,
        MEMORY,
        MIN_MEMORY..=MAX_MEMORY,
        "a plugin cannot have this much memory, or this little",
        "from `64KiB`, one page of WebAssembly, to `256MiB`",
        cx,
    );
    let response_body = size(
        &written.response_body,
        MAX_RESPONSE_BODY,
        0..=MAX_RESPONSE_BODY,
        "a plugin cannot answer with this much",
        "at most `64KiB`",
        cx,
    );
    let log_line = size(
        &written.log_line,
        LOG_LINE,
        MIN_LOG_LINE..=MAX_LOG_LINE,
        "a line of the log cannot be this long, or this short",
        "from `64B` to `64KiB`",
        cx,
    );
    let message_output = size(
        &written.message_output,
        MESSAGE_OUTPUT,
        MIN_MESSAGE_OUTPUT..=MAX_MEMORY,
        "a call cannot give back this much, or this little",
        "from `1KiB` to `256MiB`",
        cx,
    );
    let time = |field: &Field<Text<Duration>>, default| field.value().copied().unwrap_or(default);
    let call_timeout = time(&written.call_timeout, CALL_TIMEOUT);
    let http_timeout = time(&written.http_timeout, HTTP_TIMEOUT);
    // A request's own limit comes first, so that the plugin is told and can do something about it.
    let waits = if sends_requests {
        http_timeout
    } else {
        Duration::ZERO
    };
    let wall_timeout = MIN_WALL.max(call_timeout.saturating_mul(WALL_FACTOR)) + waits;
    Some(PluginLimits {
        memory: memory?,
        call_timeout,
        wall_timeout: time(&written.wall_timeout, wall_timeout),
        configure_timeout: time(&written.configure_timeout, CONFIGURE_TIMEOUT),
        instances: NonZeroU32::new(number(&written.instances, INSTANCES))
            .unwrap_or(NonZeroU32::MIN),
        instance_wait: time(&written.instance_wait, INSTANCE_WAIT),
        response_body: response_body?,
        log_lines: number(&written.log_lines, LOG_LINES),
        log_line: log_line?,
        http_timeout,
        http_body: written.http_body.value().map_or(HTTP_BODY, |size| size.0),
        message_output: message_output?,
        quarantine: written.quarantine.value().map(|written| Quarantine {
            fails: NonZeroU32::new(number(&written.fails, FAILS)).unwrap_or(NonZeroU32::MIN),
            within: time(&written.within, WITHIN),
            out_for: time(&written.out_for, OUT_FOR),
        }),
    })
}

/// One config's keys laid over another's, a route's over the plugin's; a secret goes when its key is
/// replaced.
pub(in crate::config) fn overlay(default: &PluginJson, own: &PluginJson) -> PluginJson {
    let mut json = default.json.clone();
    json.extend(
        own.json
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    let kept = default
        .secrets
        .iter()
        .filter(|secret| !own.json.contains_key(&secret.top_key));
    let top_key = |pointer: &str| pointer.split('/').nth(1).map(str::to_owned);
    let replaced: Vec<_> = own
        .places
        .keys()
        .filter_map(|place| top_key(place))
        .collect();
    let kept_places = default
        .places
        .iter()
        .filter(|(pointer, _)| top_key(pointer).is_none_or(|key| !replaced.contains(&key)));
    PluginJson {
        json,
        secrets: kept.chain(&own.secrets).cloned().collect(),
        places: kept_places
            .chain(&own.places)
            .map(|(pointer, place)| (pointer.clone(), place.clone()))
            .collect(),
    }
}

/// A config with its secrets' files in the folder that they are relative to.
pub(in crate::config) fn located(config: &PluginJson, span: Span, dir: &Path) -> PluginConfig {
    let secret = |secret: &Secret| SecretRef {
        pointer: secret.pointer.clone(),
        source: match &secret.source {
            SecretSource::File(path) => SecretSource::File(dir.join(path)),
            env @ SecretSource::Env(_) => env.clone(),
        },
        span: secret.span.clone(),
    };
    PluginConfig {
        json: Value::Object(config.json.clone()),
        secrets: config.secrets.iter().map(secret).collect(),
        places: config.places.clone(),
        span,
    }
}

const MEMORY: u64 = 16 << 20;
const MIN_MEMORY: u64 = 64 << 10;
/// What the instance pool reserves for each.
const MAX_MEMORY: u64 = 256 << 20;
const CALL_TIMEOUT: Duration = Duration::from_millis(50);
const CONFIGURE_TIMEOUT: Duration = Duration::from_secs(5);
const INSTANCES: u32 = 256;
const INSTANCE_WAIT: Duration = Duration::from_secs(1);
/// Wall-clock time of a call, in `call_timeout`s; and at least this long.
const WALL_FACTOR: u32 = 20;
const MIN_WALL: Duration = Duration::from_secs(2);
/// What the plugin interface allows.
const MAX_RESPONSE_BODY: u64 = 64 << 10;
const LOG_LINES: u32 = 100;
const LOG_LINE: u64 = 1 << 10;
const MIN_LOG_LINE: u64 = 64;
const MAX_LOG_LINE: u64 = 64 << 10;
const FAILS: u32 = 5;
const WITHIN: Duration = Duration::from_secs(10);
const OUT_FOR: Duration = Duration::from_secs(30);
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_BODY: u64 = 1 << 20;
const MESSAGE_OUTPUT: u64 = 1 << 20;
const MIN_MESSAGE_OUTPUT: u64 = 1 << 10;
const CONNECTIONS_PER_INSTANCE: u32 = 1_000;
