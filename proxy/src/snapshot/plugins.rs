//! Loading plugins and configuring them for each route that uses them.
//!
//! A plugin whose file and limits did not change is not compiled again, and a config that it has
//! accepted before is not tried again. Secrets (`env:`, `file:`) are read here, put into the JSON
//! that the guest gets, and never into a message.

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use sluicegate_plugin_host::messages::Isolation;
use sluicegate_plugin_host::{ConfigureError, Filter, Grants, Limits, Plugin};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use super::config_schema::{ConfigSchema, place};
use super::{ChainLink, Snapshot, Standing, Workshop};
use crate::config::Diagnostic;
use crate::config::model::{
    self, Config, Located, PluginConfig, PluginUse, SecretRef, SecretSource,
};

/// A compiled plugin and the filters that routes have made of it.
pub struct LoadedPlugin {
    pub plugin: Arc<Plugin>,
    /// Of its config, where it describes one.
    schema: Option<Arc<ConfigSchema>>,
    allow: model::Allow,
    limits: model::PluginLimits,
    /// By the config with its secrets, as JSON text.
    filters: HashMap<String, Filter>,
}

/// Compiles what is new, in the order of the configuration; `None` where that failed.
pub(super) async fn load_plugins(
    config: &Config,
    previous: Option<&Snapshot>,
    workshop: &Workshop,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Option<LoadedPlugin>> {
    let mut loaded = Vec::with_capacity(config.plugins.len());
    for plugin in &config.plugins {
        match load(plugin, config, previous, workshop).await {
            Ok(plugin) => loaded.push(Some(plugin)),
            Err(diagnostic) => {
                diagnostics.push(diagnostic);
                loaded.push(None);
            }
        }
    }
    diagnostics.extend(too_many_instances(config, &loaded));
    loaded
}

/// What the process can no longer make room for.
fn too_many_instances(config: &Config, loaded: &[Option<LoadedPlugin>]) -> Vec<Diagnostic> {
    let plugins = config.plugins.iter().zip(loaded);
    let large = plugins.filter_map(|(plugin, loaded)| {
        let room = loaded.as_ref()?.plugin.host().instances();
        let wanted = plugin.limits.instances.get();
        let warning = Diagnostic::warning(
            plugin.span.clone(),
            format!(
                "`instances` is {wanted}, but this process has {room} for all plugins together"
            ),
        );
        let hint =
            "the number follows the configuration that the process was started with, up to 10,240";
        (wanted > room).then(|| warning.hint(Some(hint.to_owned())))
    });
    large.collect()
}

/// Makes the filters of every route, in the order of the configuration.
pub(super) async fn build_chains(
    config: &Config,
    plugins: &mut [Option<LoadedPlugin>],
    previous: Option<&Snapshot>,
    workshop: &Workshop,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Vec<ChainLink>> {
    let mut chains = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let mut chain = Vec::with_capacity(route.plugins.len());
        for link in &route.plugins {
            let Some(loaded) = &mut plugins[link.plugin] else {
                continue;
            };
            match filter(loaded, &link.config, previous).await {
                Ok(filter) if filter.interest().is_some() && !route.tunnel.follow => {
                    let name = loaded.plugin.name();
                    let message = format!(
                        "plugin `{name}` filters messages, and this route only copies bytes"
                    );
                    let hint = Some("leave out `follow = false`".to_owned());
                    diagnostics.push(Diagnostic::error(link.span.clone(), message).hint(hint));
                }
                Ok(filter) => {
                    diagnostics.extend(without_effect(&filter, link));
                    chain.push(ChainLink {
                        metrics: workshop.metrics.plugin(loaded.plugin.name(), &route.name),
                        standing: {
                            let rule = loaded.limits.quarantine;
                            Standing::of(&filter, rule, &route.name, previous)
                        },
                        // Never taken over from before: instances of an earlier generation go with it.
                        filter: spread(filter, link),
                        on_error: link.on_error,
                        on_message_error: link.on_message_error,
                    });
                }
                Err(found) => {
                    // Routes that share the plugin's own config share its mistakes.
                    for diagnostic in found {
                        if !diagnostics.contains(&diagnostic) {
                            diagnostics.push(diagnostic);
                        }
                    }
                }
            }
        }
        chains.push(chain);
    }
    chains
}

/// What is said of messages to a filter that wants none with this config.
fn without_effect(filter: &Filter, link: &PluginUse) -> Vec<Diagnostic> {
    if filter.interest().is_some() {
        return Vec::new();
    }
    let name = filter.plugin().name();
    let keys = link.message_keys.iter();
    let warning = |key: &Located<&str>| {
        let message = format!(
            "`{}` changes nothing where plugin `{name}` filters no messages",
            key.value
        );
        Diagnostic::warning(key.span.clone(), message)
    };
    keys.map(warning).collect()
}

/// The filter with instances of its own, spread over requests and tunnels as the route says.
fn spread(filter: Filter, link: &PluginUse) -> Filter {
    let filter = match link.reuse {
        Some(requests) => filter.reusing(requests),
        None => filter,
    };
    let isolation = link.isolation.map(|isolation| match isolation {
        model::Isolation::Shared => Isolation::Shared,
        model::Isolation::Connection => Isolation::Connection,
    });
    filter.conversing(isolation, link.connections_per_instance)
}

async fn load(
    plugin: &model::Plugin,
    config: &Config,
    previous: Option<&Snapshot>,
    workshop: &Workshop,
) -> Result<LoadedPlugin, Diagnostic> {
    let path = &plugin.wasm.value;
    let fail = |message: String| Diagnostic::error(plugin.wasm.span.clone(), message);
    let bytes = read_bounded(path).await.map_err(|error| {
        let diagnostic = fail(format!("cannot read `{}`: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::NotFound => diagnostic.hint(Some(
                "`sluicegate plugin build` makes it from the plugin's source".to_owned(),
            )),
            _ => diagnostic,
        }
    })?;
    let hash = hex(digest(&SHA256, &bytes).as_ref());
    let unchanged = previous
        .into_iter()
        .flat_map(|previous| &previous.plugins)
        .find(|before| {
            before.plugin.name() == &*plugin.name
                && before.plugin.content_hash() == hash
                && before.limits == plugin.limits
                && before.allow == plugin.allow
        });
    if let Some(before) = unchanged {
        return Ok(LoadedPlugin {
            plugin: Arc::clone(&before.plugin),
            schema: before.schema.clone(),
            allow: plugin.allow.clone(),
            limits: plugin.limits,
            filters: HashMap::new(),
        });
    }
    (workshop.progress)(&format!("loading plugin `{}`", plugin.name));
    let compiling = {
        let host = workshop
            .host(config)
            .map_err(|error| fail(format!("cannot start the plugin host: {error}")))?;
        let (host, name) = (Arc::clone(host), Arc::clone(&plugin.name));
        let limits = host_limits(&plugin.limits);
        let grants = grants(&plugin.allow);
        spawn_blocking(move || host.load(&name, &bytes, limits, &grants))
    };
    let compiled = in_time(path, compiling).await.map_err(fail)?;
    let described = compiled.description().config_schema.as_deref();
    let schema = described.map(ConfigSchema::new).transpose();
    let unusable = |why| {
        fail(format!(
            "`{}` describes its config by no usable schema: {why}",
            path.display()
        ))
    };
    Ok(LoadedPlugin {
        schema: schema.map_err(unusable)?.map(Arc::new),
        plugin: compiled,
        allow: plugin.allow.clone(),
        limits: plugin.limits,
        filters: HashMap::new(),
    })
}

/// Waits for what a thread of its own compiles, but not for ever; that thread goes on until it is done.
async fn in_time<T, E: Display>(
    path: &Path,
    compiling: impl Future<Output = Result<Result<T, E>, JoinError>>,
) -> Result<T, String> {
    let path = path.display();
    match timeout(COMPILE_TIMEOUT, compiling).await {
        Ok(Ok(Ok(compiled))) => Ok(compiled),
        Ok(Ok(Err(error))) => Err(format!("`{path}` is no usable plugin: {error}")),
        Ok(Err(_)) => Err(format!("compiling `{path}` failed")),
        Err(_) => Err(format!(
            "compiling `{path}` took longer than {} s",
            COMPILE_TIMEOUT.as_secs()
        )),
    }
}

/// Reads a file, but no more of it than shows that it is too large for the host.
async fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).await?;
    file.take(MAX_FILE).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The plugin with this config: one that is in use already, or a newly proven one.
async fn filter(
    loaded: &mut LoadedPlugin,
    config: &PluginConfig,
    previous: Option<&Snapshot>,
) -> Result<Filter, Vec<Diagnostic>> {
    check_schema(loaded, config)?;
    let json = resolve_secrets(config)?.to_string();
    if let Some(filter) = loaded.filters.get(&json) {
        return Ok(filter.clone());
    }
    let before = previous
        .into_iter()
        .flat_map(|previous| &previous.plugins)
        .find(|before| Arc::ptr_eq(&before.plugin, &loaded.plugin))
        .and_then(|before| before.filters.get(&json));
    let filter = match before {
        Some(filter) => filter.clone(),
        None => match loaded.plugin.configure(&json).await {
            Ok(filter) => filter,
            Err(error) => {
                let name = loaded.plugin.name();
                let (pointer, reason) = told_without_secrets(&loaded.plugin, config, error).await;
                let reason = without_values(&config.json, reason);
                let message = format!("plugin `{name}` does not take this config: {reason}");
                return Err(vec![Diagnostic::error(place(config, &pointer), message)]);
            }
        },
    };
    loaded.filters.insert(json, filter.clone());
    Ok(filter)
}

fn check_schema(loaded: &LoadedPlugin, config: &PluginConfig) -> Result<(), Vec<Diagnostic>> {
    let Some(schema) = &loaded.schema else {
        return Ok(());
    };
    let mistakes = schema.mistakes(loaded.plugin.name(), config);
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(mistakes)
    }
}

/// Where and why a guest refuses a config, in words that it found without knowing the secrets: guests quote
/// what they do not like.
async fn told_without_secrets(
    plugin: &Arc<Plugin>,
    config: &PluginConfig,
    error: ConfigureError,
) -> (String, String) {
    let ConfigureError::Rejected(problem) = error else {
        return (String::new(), error.to_string());
    };
    if config.secrets.is_empty() {
        return (problem.pointer.clone(), problem.to_string());
    }
    // With the sources in the place of the secrets it may find something else to refuse, which would
    // lead astray.
    let touches_a_secret = |pointer: &str| {
        let mut secrets = config.secrets.iter().map(|secret| secret.pointer.as_str());
        secrets.any(|secret| secret.starts_with(pointer) || pointer.starts_with(secret))
    };
    match plugin.configure(&config.json.to_string()).await {
        Err(ConfigureError::Rejected(second))
            if second.pointer == problem.pointer && !touches_a_secret(&second.pointer) =>
        {
            (second.pointer.clone(), second.to_string())
        }
        _ if !problem.pointer.is_empty() && !touches_a_secret(&problem.pointer) => {
            let reason = "it refuses this, in words that are kept back as they may quote a secret";
            (problem.pointer, reason.to_owned())
        }
        _ => {
            let concerned = |secret: &&SecretRef| secret.pointer == problem.pointer;
            let alone = config.secrets.iter().find(concerned);
            let all = config.secrets.iter();
            let concerned =
                all.filter(|secret| alone.is_none_or(|one| one.pointer == secret.pointer));
            let keys = concerned.map(|secret| {
                let key = secret.pointer.trim_start_matches('/').replace('/', ".");
                format!("`{key}`")
            });
            let keys = keys.collect::<Vec<_>>().join(", ");
            let reason = format!("it refuses the value of a secret ({keys})");
            let first = config.secrets.first();
            let pointer = match problem.pointer.is_empty() {
                true => first
                    .map(|secret| secret.pointer.clone())
                    .unwrap_or_default(),
                false => problem.pointer,
            };
            (pointer, reason)
        }
    }
}

/// A guest's words without the texts of the config, any of which may be a secret that was written out, perhaps
/// into the wrong key.
fn without_values(json: &Value, words: String) -> String {
    match json {
        Value::String(text) if text.len() >= SHORTEST_SECRET => words.replace(text.as_str(), "…"),
        Value::Array(items) => items
            .iter()
            .fold(words, |words, item| without_values(item, words)),
        Value::Object(members) => members
            .values()
            .fold(words, |words, member| without_values(member, words)),
        _ => words,
    }
}

/// The config with its secrets in it.
///
/// # Errors
/// Each secret that cannot be read, at its place.
pub fn resolve_secrets(config: &PluginConfig) -> Result<Value, Vec<Diagnostic>> {
    let mut json = config.json.clone();
    let mut diagnostics = Vec::new();
    for secret in &config.secrets {
        match read_secret(&secret.source) {
            Ok(text) => {
                if let Some(place) = json.pointer_mut(&secret.pointer) {
                    *place = Value::String(text);
                }
            }
            Err(message) => diagnostics.push(Diagnostic::error(secret.span.clone(), message)),
        }
    }
    if diagnostics.is_empty() {
        Ok(json)
    } else {
        Err(diagnostics)
    }
}

fn read_secret(source: &SecretSource) -> Result<String, String> {
    match source {
        SecretSource::Env(name) => std::env::var(name).map_err(|error| match error {
            std::env::VarError::NotPresent => {
                format!("the environment variable `{name}` is not set")
            }
            std::env::VarError::NotUnicode(_) => {
                format!("the environment variable `{name}` is not UTF-8")
            }
        }),
        SecretSource::File(path) => read_secret_file(path)
            .map_err(|error| format!("cannot read the secret in `{}`: {error}", path.display())),
    }
}

fn read_secret_file(path: &Path) -> std::io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn host_limits(limits: &model::PluginLimits) -> Limits {
    let bytes = |size| usize::try_from(size).unwrap_or(usize::MAX);
    Limits {
        memory: limits.memory,
        call_timeout: limits.call_timeout,
        configure_timeout: limits.configure_timeout,
        instances: limits.instances,
        http_timeout: limits.http_timeout,
        http_body: bytes(limits.http_body),
        wall_timeout: limits.wall_timeout,
        instance_wait: limits.instance_wait,
        response_body: bytes(limits.response_body),
        log_lines: limits.log_lines,
        log_line: bytes(limits.log_line),
        message_output: bytes(limits.message_output),
    }
}

fn grants(allow: &model::Allow) -> Grants {
    let model::Allow {
        log,
        metrics,
        clock,
        random,
        crypto,
        kv,
        wasi,
        http,
        upstreams,
    } = allow.clone();
    Grants {
        log,
        metrics,
        clock,
        random,
        crypto,
        kv,
        wasi,
        http,
        upstreams,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The host refuses more than 32 MiB, with a message that says so.
const MAX_FILE: u64 = (32 << 20) + 1;
/// Far above any honest plugin; a compile bomb must not hold a reload for ever.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(120);

/// A shorter text is part of too many words to be taken out of them.
const SHORTEST_SECRET: usize = 4;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_of_a_config_are_taken_out_of_what_a_guest_says_of_it() {
        let config =
            json!({ "mode": "any", "keys": ["hunter2"], "more": { "pin": "secret" }, "n": 17 });
        for (words, told) in [
            (
                "`hunter2` and `secret` are no keys",
                "`…` and `…` are no keys",
            ),
            ("`any` is no mode, nor is 17", "`any` is no mode, nor is 17"),
        ] {
            assert_eq!(without_values(&config, words.to_owned()), told);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_compiles_without_end_is_given_up() {
        let endless = std::future::pending::<Result<Result<(), String>, JoinError>>();
        let told = in_time(Path::new("bomb.wasm"), endless).await.unwrap_err();
        assert_eq!(told, "compiling `bomb.wasm` took longer than 120 s");
        let refused = spawn_blocking(|| Err::<(), _>("too large"));
        let told = in_time(Path::new("a.wasm"), refused).await.unwrap_err();
        assert_eq!(told, "`a.wasm` is no usable plugin: too large");
    }
}
