//! `sluicegate plugin inspect`: what a file is, what it would need granted, and whether this proxy runs it.
//!
//! What can be said without running it comes first: it is what explains a refusal. All names come from a file
//! from elsewhere, and none reaches the terminal raw.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use sluicegate_plugin_host::messages::{self, Interest, Kinds};
use sluicegate_plugin_host::{
    Description, Filter, Host, HostSettings, Inspection, Kind, Limits, Plugin, inspect,
};

use super::super::{Failure, print, runtime, size};
use super::test::{everything, time};

/// Show what a plugin is, what it needs, how it is configured, and whether this proxy can run it
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The .wasm file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print the JSON schema of its config, and nothing else
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn show(args: &Args) -> Result<(), Failure> {
    let failed = |what: String| Failure::runtime(format!("`{}`: {what}", args.file.display()));
    let bytes = std::fs::read(&args.file).map_err(|error| failed(error.to_string()))?;
    let inspection = inspect(&bytes).map_err(|error| failed(error.to_string()))?;
    if !args.json {
        print(&facts(&inspection))?;
    }
    let settings = HostSettings {
        instances: 1,
        ..HostSettings::default()
    };
    let plugin = Host::new(settings)
        .map_err(Failure::runtime)?
        .load(
            "inspected",
            &bytes,
            Limits::default(),
            &everything(&inspection),
        )
        .map_err(|error| failed(format!("this proxy cannot run it: {error}")))?;
    let schema = plugin.description().config_schema.as_ref();
    let schema = schema
        .map(|text| read_schema(text))
        .transpose()
        .map_err(failed)?;
    match (args.json, schema) {
        (false, schema) => {
            let messages = wanted_messages(&plugin)?;
            print(&running(&plugin, schema.as_ref(), messages))
        }
        (true, Some(schema)) => print(&format!("{schema:#}\n")),
        (true, None) => Err(failed("it has no schema of its config".to_owned())),
    }
}

/// What a plugin asks for that must be granted, as `allow` has it; empty: nothing.
pub(super) fn needs(inspection: &Inspection) -> String {
    let asks = |what: &str| inspection.imports.iter().any(|name| name.starts_with(what));
    let keys = NEEDS.iter().filter(|(import, ..)| asks(import));
    let keys: Vec<&str> = keys.filter_map(|(_, _, key)| *key).collect();
    match keys.as_slice() {
        [] => String::new(),
        keys => format!("allow = {{ {} }}", keys.join(", ")),
    }
}

fn facts(inspection: &Inspection) -> String {
    let kind = match inspection.kind {
        Kind::Component => "component".to_owned(),
        Kind::Module => format!(
            "core module, becomes a component of {}",
            size(inspection.component_size)
        ),
    };
    let version = inspection.version.as_deref().unwrap_or("none");
    let asks = |what: &str| inspection.imports.iter().any(|name| name.starts_with(what));
    let uses = NEEDS.iter().filter(|(import, ..)| asks(import));
    let uses: Vec<String> = uses
        .map(|(_, words, key)| match key {
            Some(key) => format!("{words}: needs `allow = {{ {key} }}`"),
            None => (*words).to_owned(),
        })
        .collect();
    [
        line("kind", &kind),
        line("size", &size(inspection.size)),
        line("interface", version),
        line("uses", &list(&uses)),
        line("imports", &list(&inspection.imports)),
        line("exports", &list(&inspection.exports)),
        line("made with", &inspection.producers.join(", ")),
    ]
    .concat()
}

/// What only a plugin that runs can tell.
fn running(plugin: &Arc<Plugin>, schema: Option<&Value>, messages: Option<String>) -> String {
    let Description {
        name,
        version,
        request_hook,
        response_hook,
        message_hooks,
        optional,
        ..
    } = plugin.description();
    let hooks = [
        (*request_hook, "request"),
        (*response_hook, "response"),
        (*message_hooks, "messages"),
    ];
    let hooks: Vec<&str> = hooks
        .iter()
        .filter_map(|(used, name)| used.then_some(*name))
        .collect();
    [
        line("plugin", &format!("{name} {version}")),
        line("hooks", &hooks.join(", ")),
        messages.map_or_else(String::new, |wanted| line("messages", &wanted)),
        line("optional", &list(optional)),
        line("compiled", &format!("in {}", time(plugin.load_time()))),
        line(
            "memory",
            &format!("{} in a fresh instance", size(plugin.peak_memory())),
        ),
        line(
            "config",
            &schema.map_or_else(|| "any: it has no schema".to_owned(), config),
        ),
    ]
    .concat()
}

/// Which messages the plugin wants to see with an empty config; `None`: it has no hook for them.
fn wanted_messages(plugin: &Arc<Plugin>) -> Result<Option<String>, Failure> {
    if !plugin.description().message_hooks {
        return Ok(None);
    }
    let filter = runtime()?.block_on(plugin.configure("{}"));
    Ok(Some(match filter.as_ref().map(Filter::interest) {
        Ok(Some(interest)) => interest_in_words(interest),
        Ok(None) => "none, with an empty config".to_owned(),
        Err(_) => "as its config says".to_owned(),
    }))
}

fn interest_in_words(interest: &Interest) -> String {
    let kinds = |kinds: Kinds, sender: &str| {
        let all = {
            use messages::Kind::{Binary, Ping, Pong, Text};
            [Text, Binary, Ping, Pong]
        };
        let wanted = all.into_iter().filter(|kind| kinds.contains(*kind));
        let wanted: Vec<String> = wanted.map(|kind| kind.to_string()).collect();
        (!wanted.is_empty()).then(|| format!("{} from the {sender}", wanted.join(", ")))
    };
    let size_limit = |max| format!("up to {}", size(max as usize));
    let parts = [
        kinds(interest.from_client, "client"),
        kinds(interest.from_server, "server"),
        interest.max_size.map(size_limit),
        interest
            .every
            .map(|every| format!("a timer every {}", time(every))),
        interest.close.then(|| "the end".to_owned()),
    ];
    list(&parts.into_iter().flatten().collect::<Vec<_>>())
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(NEXT_LINE),
    }
}

fn line(what: &str, value: &str) -> String {
    let visible = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    let clean: String = value.chars().map(visible).collect();
    format!("{what:<11} {clean}\n")
}

fn read_schema(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("its schema is no JSON: {error}"))
}

/// One key of a config.
struct Key {
    path: String,
    kind: String,
    default: String,
    description: String,
}

/// The keys of a config, one a line: path, type, default, description.
fn config(schema: &Value) -> String {
    let mut keys = Vec::new();
    collect(schema, schema, "", 0, &mut keys);
    if keys.is_empty() {
        return "nothing".to_owned();
    }
    let width = |of: fn(&Key) -> &str| {
        let widths = keys.iter().map(|key| of(key).chars().count());
        widths.max().unwrap_or(0).min(MAX_WIDTH)
    };
    let (path, kind) = (width(|key| &key.path), width(|key| &key.kind));
    let default = width(|key| &key.default);
    let lines = keys.iter().map(|key| {
        let Key {
            path: p,
            kind: k,
            default: d,
            description,
        } = key;
        let line = format!("{p:<path$}  {k:<kind$}  {d:<default$}  {description}");
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join(NEXT_LINE)
}

fn collect(root: &Value, schema: &Value, above: &str, depth: usize, keys: &mut Vec<Key>) {
    let schema = resolved(root, schema);
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    for (name, property) in properties.into_iter().flatten() {
        if keys.len() == MAX_KEYS {
            return;
        }
        let needed = required.is_some_and(|all| all.iter().any(|key| key == name));
        let target = resolved(root, property);
        let told = |key: &str| property.get(key).or_else(|| target.get(key));
        let default = match told("default") {
            _ if needed => "required".to_owned(),
            Some(Value::Null) | None => "-".to_owned(),
            Some(default) => cut(&default.to_string()),
        };
        let description = told("description").and_then(Value::as_str).unwrap_or("");
        let path = format!("{above}{}", cut(name));
        keys.push(Key {
            path: path.clone(),
            kind: kind(root, property, 0),
            default,
            description: cut(description.lines().next().unwrap_or("")),
        });
        if depth < MAX_DEPTH {
            collect(root, property, &format!("{path}."), depth + 1, keys);
            if let Some(items) = target.get("items") {
                collect(root, items, &format!("{path}[]."), depth + 1, keys);
            }
        }
    }
}

/// What a value is, in a few words.
fn kind(root: &Value, schema: &Value, depth: usize) -> String {
    let schema = resolved(root, schema);
    if depth > MAX_DEPTH {
        return "…".to_owned();
    }
    let inner = |key: &str| schema.get(key).filter(|inner| inner.is_object());
    let inner = |key: &str| inner(key).map(|inner| kind(root, inner, depth + 1));
    if let Some(constant) = schema.get("const") {
        return cut(&constant.to_string());
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        let options: Vec<String> = options.iter().map(Value::to_string).collect();
        return cut(&options.join(" or "));
    }
    let one_of = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    if let Some(forms) = one_of.and_then(Value::as_array) {
        let forms = forms.iter().map(|form| kind(root, form, depth + 1));
        let mut forms: Vec<String> = forms.filter(|form| form != "null").collect();
        forms.dedup();
        return cut(&forms.join(" or "));
    }
    let named = match schema.get("type") {
        Some(Value::String(one)) => one.clone(),
        Some(Value::Array(several)) => {
            let several = several.iter().filter_map(Value::as_str);
            several
                .filter(|one| *one != "null")
                .collect::<Vec<_>>()
                .join(" or ")
        }
        _ => return "any".to_owned(),
    };
    match named.as_str() {
        "array" => inner("items").map_or(named, |items| format!("array of {items}")),
        "object" => match inner("additionalProperties") {
            Some(values) => format!("table of {values}"),
            None => "table".to_owned(),
        },
        _ => cut(&named),
    }
}

/// What `$ref` names, if there is one; only inside of the schema itself.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema.get("$ref").and_then(Value::as_str);
    let target = target.and_then(|target| root.pointer(target.strip_prefix('#')?));
    target.unwrap_or(schema)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What imports mean, in the order in which they are told; the last: what grants it, where that is needed.
const NEEDS: &[(&str, &str, Option<&str>)] = &[
    ("sluicegate:plugin/logging@", "the log", None),
    ("sluicegate:plugin/metrics@", "metrics", None),
    ("sluicegate:plugin/clock@", "the clock", None),
    ("sluicegate:plugin/random@", "random bytes", None),
    (
        "sluicegate:plugin/crypto@",
        "signatures, hashes, passwords",
        None,
    ),
    ("sluicegate:plugin/kv@", "the store", Some("kv = true")),
    (
        "sluicegate:plugin/outbound@",
        "HTTP requests of its own",
        Some("http = [\"UPSTREAM\"]"),
    ),
    ("wasi:", "a stub of WASI", Some("wasi = true")),
];
/// Where a list goes on.
const NEXT_LINE: &str = "\n            ";
/// Of what a schema nests, and of a schema that refers to itself.
const MAX_DEPTH: usize = 3;
const MAX_KEYS: usize = 100;
/// Characters of a default, a type, a description.
const MAX_TEXT: usize = 100;
/// Columns of an aligned part.
const MAX_WIDTH: usize = 36;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_told_in_lines() {
        let schema = json!({
            "type": "object",
            "properties": {
                "keys": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Secret" },
                          "description": "Consumer name to key.\nMore of it." },
                "mode": { "enum": ["allow", "deny"], "default": "deny" },
                "query": { "type": ["string", "null"] },
                "rules": { "type": "array", "items": { "$ref": "#/$defs/Rule" } },
                "any": {},
            },
            "required": ["keys"],
            "$defs": {
                "Secret": { "type": "string" },
                "Rule": {
                    "type": "object",
                    "properties": {
                        "to": { "type": "string" },
                        "above": { "$ref": "#/$defs/Rule" },
                        "when": { "anyOf": [{ "type": "integer" }, { "const": "never" }, { "type": "null" }] },
                    },
                    "required": ["to"],
                },
            },
        });
        let told = config(&schema);
        let lines: Vec<&str> = told.lines().map(str::trim_start).collect();
        let find = |path: &str| {
            let words = lines
                .iter()
                .find(|line| line.split(' ').next() == Some(path));
            let words = words.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
            words.unwrap_or_else(|| panic!("no `{path}` in\n{told}"))
        };
        assert_eq!(
            find("keys"),
            "keys table of string required Consumer name to key."
        );
        assert_eq!(find("mode"), "mode \"allow\" or \"deny\" \"deny\"");
        assert_eq!(find("query"), "query string -");
        assert_eq!(find("rules"), "rules array of table -");
        assert_eq!(find("rules[].to"), "rules[].to string required");
        assert_eq!(find("rules[].when"), "rules[].when integer or \"never\" -");
        assert_eq!(find("any"), "any any -");
        // It refers to itself, and ends all the same.
        assert_eq!(
            find("rules[].above.above.to"),
            "rules[].above.above.to string required"
        );
        assert!(!told.contains("above.above.above."), "{told}");
        assert_eq!(config(&json!({ "type": "object" })), "nothing");
    }

    #[test]
    fn a_hostile_schema_is_shown_harmlessly() {
        let schema = json!({ "properties": { "\u{1b}[2J": { "type": "x".repeat(5000) } } });
        let shown = line("config", &config(&schema));
        assert!(!shown.contains('\u{1b}') && shown.len() < 400, "{shown:?}");
        let round = json!({ "$ref": "#" });
        assert_eq!(config(&round), "nothing");
    }
}
