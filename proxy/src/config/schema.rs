//! What the user may write: every table and key of the configuration file, described once.
//!
//! From this one description come the reader (`table!`), the list of known keys and the JSON schema
//! for editors; the comments on the keys are what editors show. What the keys mean together is
//! `lower`'s business.
//!
//! It is long because it is a list, read from top to bottom; the tables of a route, the longest of all,
//! are in `route`.

mod route;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeTable;

use super::model::{AccessFormat, Balance, Bind, Located, Protocols, TlsVersion, WebSocketOver};
use super::reader::{
    BoolOr, Field, List, Named, Node, OneOrMany, Read, Reader, Table, Tables, Text, TextOr, Whole,
    Words, table,
};
use super::values::{
    ByteRate, ByteSize, ClientAuthMode, LogLevel, Name, PluginJson, ServerName, ServerUrl,
};
pub(super) use route::{HeaderEdits, PluginUse, Rate, Redirect, Respond, Rewrite, Route};

table! {
    /// The configuration of sluicegate.
    File "the top level" {
        required {}
        optional {
            /// A socket to accept connections on.
            listener: Tables<Listener>,
            /// Named groups of servers.
            upstream: Named<Name, Upstream>,
            /// Plugins; each is declared once and used by any number of routes.
            plugin: Named<Name, Plugin>,
            /// What to do with which requests; the most specific host and path win, never the order.
            route: Tables<Route>,
            timeouts: Timeouts,
            limits: Limits,
            /// Metrics, health and reload for operators.
            admin: Admin,
            log: Log,
            runtime: Runtime,
            /// Networks whose X-Forwarded-* fields are believed, e.g. `10.0.0.0/8`.
            trusted_proxies: List<Text<IpNet>>,
        }
    }
}

table! {
    /// A socket to accept connections on.
    Listener "[[listener]]" {
        required {
            /// `:443` (IPv6 and IPv4), `127.0.0.1:80`, `[::1]:80` or `unix:/path`.
            bind: Text<Bind>,
        }
        optional {
            /// Serve TLS.
            tls: ListenerTls,
            /// Serve HTTP/2 besides HTTP/1.1, or a table that says more. Default true with `tls`, false
            /// without; true without `tls` serves clients that begin with HTTP/2 unasked.
            http2: BoolOr<ListenerHttp2>,
            /// Answer every request with a 308 to the same URL on https. Default false.
            redirect_to_https: bool,
        }
    }
}

table! {
    /// TLS of a listener.
    ListenerTls "the `tls` of a listener" {
        required {}
        optional {
            /// Certificate chain, a PEM file.
            cert: Text<PathBuf>,
            /// Private key, a PEM file.
            key: Text<PathBuf>,
            /// Several certificates, chosen by the name that the client asks for.
            certs: List<Certificate>,
            /// PEM file with the authorities that sign client certificates.
            client_ca: Text<PathBuf>,
            /// Whether clients need a certificate. Default `require`, once `client_ca` is given.
            client_auth: Text<ClientAuthMode>,
            /// Default `1.2`.
            min_version: Text<TlsVersion>,
        }
    }
}

table! {
    /// HTTP/2 of a listener.
    ListenerHttp2 "the `http2` of a listener" {
        required {}
        optional {
            /// Default true with `tls`, false without.
            enabled: bool,
            /// Take WebSockets over HTTP/2 (RFC 8441). Default true.
            websocket: bool,
        }
    }
}

table! {
    /// A certificate and its key.
    Certificate "an entry of `certs`" {
        required {
            /// Certificate chain, a PEM file.
            cert: Text<PathBuf>,
            /// Private key, a PEM file.
            key: Text<PathBuf>,
        }
        optional {}
    }
}

table! {
    /// A named group of servers.
    Upstream "[upstream.NAME]" {
        required {
            /// `host:port`, `http://…`, `https://…`, `h2://…` (HTTP/2 over TLS), `h2c://…` (without),
            /// `unix:/path`, or a table that says more.
            servers: List<TextOr<ServerUrl, Server>>,
        }
        optional {
            /// How to choose a server. Default `round-robin`.
            balance: Text<Balance>,
            /// How to talk TLS to `https://` and `h2://` servers.
            tls: UpstreamTls,
            /// What to speak to servers without a scheme of their own for it: `1`, `2` or `auto`, which
            /// lets `https://` servers choose. Default `1`.
            http: Text<Protocols>,
            /// What WebSockets ride on: `h1`, `h2`, or `auto`, which is HTTP/2 where the server announces
            /// that it takes them. Default `auto`.
            websocket: Text<WebSocketOver>,
            /// How many HTTP/2 connections to open, and how much to ask of one.
            http2: UpstreamHttp2,
            /// When to leave out a server that fails.
            health: Health,
            /// How long an idle connection to a server is kept. Default `60s`.
            keep_alive: Text<Duration>,
            /// Idle connections kept per server and worker. Default 64.
            keep_alive_connections: Whole<0, 65_536>,
            /// Connections and tunnels at once, for each server that has no limit of its own.
            max_connections: Whole<1, { u64::MAX }>,
        }
    }
}

table! {
    /// A server of an upstream.
    Server "a server" {
        required {
            /// `host:port`, `http://…`, `https://…`, `h2://…`, `h2c://…` or `unix:/path`.
            url: Text<ServerUrl>,
        }
        optional {
            /// Share of the requests. Default 1.
            weight: Whole<1, 65_535>,
            /// Use it only while no other server is up. Default false.
            backup: bool,
            /// Connections and tunnels at once.
            max_connections: Whole<1, { u64::MAX }>,
        }
    }
}

table! {
    /// How to talk TLS to the `https://` and `h2://` servers of an upstream.
    UpstreamTls "the `tls` of an upstream" {
        required {}
        optional {
            /// PEM file with the only authorities to trust. Default: the system's.
            ca: Text<PathBuf>,
            /// Certificate to present, a PEM file.
            cert: Text<PathBuf>,
            /// Its key, a PEM file.
            key: Text<PathBuf>,
            /// Name to verify and ask for, instead of the server's host.
            server_name: Text<ServerName>,
        }
    }
}

table! {
    /// The HTTP/2 connections to each server of an upstream.
    UpstreamHttp2 "the `http2` of an upstream" {
        required {}
        optional {
            /// Requests and WebSockets at once on one connection, if the server allows as many. Default 100.
            streams: Whole<1, 10_000>,
            /// Connections per server and worker. Default 8.
            connections: Whole<1, 1_024>,
            /// A connection of this age takes no more requests and ends with its last. Default `1h`.
            max_age: Text<Duration>,
        }
    }
}

table! {
    /// A server that fails `fails` times within `within` gets nothing for `out_for`.
    Health "the `health` of an upstream" {
        required {}
        optional {
            /// Default 3.
            fails: Whole<1, 65_535>,
            /// Default `10s`.
            within: Text<Duration>,
            /// Default `10s`.
            out_for: Text<Duration>,
        }
    }
}

table! {
    /// A WebAssembly plugin.
    Plugin "[plugin.NAME]" {
        required {
            /// The component, or the .wasm that cargo made.
            wasm: Text<PathBuf>,
        }
        optional {
            /// The plugin's own keys; a route may lay others over them. A string `env:NAME` or
            /// `file:PATH` stands for a secret.
            config: PluginJson,
            /// What the plugin may ask of the proxy.
            allow: Allow,
            /// What the plugin may use.
            limits: PluginLimits,
        }
    }
}

table! {
    /// What one plugin may ask of the proxy; a plugin that imports more is refused when it is loaded.
    Allow "the `allow` of a plugin" {
        required {}
        optional {
            /// Lines in the proxy's log. Default true.
            log: bool,
            /// Figures among the proxy's metrics. Default true.
            metrics: bool,
            /// What time it is. Default true.
            clock: bool,
            /// Random bytes. Default true.
            random: bool,
            /// Signatures, hashes, password checks. Default true.
            crypto: bool,
            /// A store that all workers share. Default false.
            kv: bool,
            /// A stub of WASI, for plugins in languages that need one. Default false.
            wasi: bool,
            /// Upstreams that it may send HTTP requests of its own to. Default none.
            http: OneOrMany<Text<Name>>,
            /// Upstreams that it may send the client's request to instead of the route's. Default none.
            upstreams: OneOrMany<Text<Name>>,
        }
    }
}

table! {
    /// What one plugin may use.
    PluginLimits "the `limits` of a plugin" {
        required {}
        optional {
            /// Memory of one instance. Default `16MiB`.
            memory: Text<ByteSize>,
            /// CPU time of one call. Default `50ms`.
            call_timeout: Text<Duration>,
            /// Wall-clock time of one call, with all that the plugin asks of the proxy. Default `2s` or
            /// 20 times `call_timeout`, and time for a request where `allow.http` permits them.
            wall_timeout: Text<Duration>,
            /// Time to configure it when it is loaded. Default `5s`.
            configure_timeout: Text<Duration>,
            /// Instances alive at once. Default 256.
            instances: Whole<1, 100_000>,
            /// How long a request waits for an instance. Default `1s`.
            instance_wait: Text<Duration>,
            /// Body of a response that the plugin makes itself. Default and most `64KiB`.
            response_body: Text<ByteSize>,
            /// Lines in the log, a second. Default 100.
            log_lines: Whole<0, 10_000>,
            /// Message of such a line, and each field. Default `1KiB`.
            log_line: Text<ByteSize>,
            /// An HTTP request of the plugin's own, from connecting to the end of the answer. Default `5s`.
            http_timeout: Text<Duration>,
            /// Body of the answer to one. Default `1MiB`.
            http_body: Text<ByteSize>,
            /// What one call for a message may give back, in place of it and besides it. Default `1MiB`.
            message_output: Text<ByteSize>,
            /// When to leave it out for a while. Default: never.
            quarantine: Quarantine,
        }
    }
}

table! {
    /// A plugin that fails `fails` times within `within` on a route is not asked there for `out_for`;
    /// meanwhile the route's `on_error` answers.
    Quarantine "the `quarantine` of a plugin" {
        required {}
        optional {
            /// Default 5.
            fails: Whole<1, 10_000>,
            /// Default `10s`.
            within: Text<Duration>,
            /// Default `30s`.
            out_for: Text<Duration>,
        }
    }
}

table! {
    /// How long to wait for what; a route may override the last four.
    Timeouts "[timeouts]" {
        required {}
        optional {
            /// Default `10s`.
            tls_handshake: Text<Duration>,
            /// Default `10s`.
            request_head: Text<Duration>,
            /// Longest wait for the next piece of a request body. Default `60s`.
            request_body: Text<Duration>,
            /// How long an idle client connection is kept. Default `75s`.
            keep_alive: Text<Duration>,
            /// Default `5s`.
            connect: Text<Duration>,
            /// Default `60s`.
            response_head: Text<Duration>,
            /// A tunnel without a byte for this long is closed, and a response whose body stalls. Default `1h`.
            idle_timeout: Text<Duration>,
            /// How long an orderly stop may take. Default `30s`.
            drain: Text<Duration>,
        }
    }
}

table! {
    /// How much is too much.
    Limits "[limits]" {
        required {}
        optional {
            /// Client connections at once. Default: what the system's descriptor limit allows.
            connections: Whole<1, { u64::MAX }>,
            /// Connections at once from one client address. Default: no limit.
            connections_per_client: Whole<1, { u64::MAX }>,
            /// Leading bits of an IPv6 address that are one client. Default 64.
            ipv6_prefix: Whole<1, 128>,
            /// Requests on one connection, which then ends in an orderly way. Default: no limit.
            requests_per_connection: Whole<1, { u64::MAX }>,
            /// TLS handshakes with clients at once; further ones wait in line. Default: 256 for each core.
            tls_handshakes: Whole<1, 1_000_000>,
            /// Request head. Default `16KiB`.
            head_size: Text<ByteSize>,
            /// Fields in a request head. Default 100.
            head_fields: Whole<1, 1_000>,
            /// Request target. Default `8KiB`.
            target_size: Text<ByteSize>,
            /// Request body. Default: no limit.
            request_body: Text<ByteSize>,
            /// Bytes a second that a client has to send of a request's body, and to take of an answer, on
            /// average once it has been waited for for a while; a route may say otherwise. Default `240B`.
            body_rate: Text<ByteRate>,
            /// WebSocket message, as it is before compression; a route may say otherwise. Default: no limit.
            message_size: Text<ByteSize>,
            /// Bytes that may wait in buffers of the whole process, at least `1MiB`. Default: half of the memory
            /// that the process may have.
            memory: Text<ByteSize>,
            /// Bytes that may wait in the buffers of one WebSocket whose messages are read, at least `64KiB`.
            /// Default: what the other limits allow.
            connection_memory: Text<ByteSize>,
            /// Requests and WebSockets at once on one HTTP/2 connection. Default 128.
            http2_streams: Whole<1, 10_000>,
            /// Streams reset on one HTTP/2 connection within ten seconds, by the client or for its faults. Default 200.
            http2_resets: Whole<1, 1_000_000>,
            /// HTTP/2 frames that carry nothing (PING, SETTINGS, WINDOW_UPDATE …) from one connection within ten seconds, beyond what answers our own. Default 1000.
            http2_control_frames: Whole<1, 1_000_000>,
        }
    }
}

table! {
    /// Metrics, health and reload for operators.
    Admin "[admin]" {
        required {
            /// `127.0.0.1:9900`, or `unix:/path`; keep it away from clients.
            bind: Text<Bind>,
        }
        optional {}
    }
}

table! {
    /// What to log.
    Log "[log]" {
        required {}
        optional {
            /// Format of the access log. Default `text`.
            access: Text<AccessFormat>,
            /// Default `info`; `info,sluicegate::tunnel=debug` says more about one part.
            level: Text<LogLevel>,
            /// Write query strings to the access log. Default false.
            query: bool,
        }
    }
}

table! {
    /// How to run.
    Runtime "[runtime]" {
        required {}
        optional {
            /// Worker threads. Default: one per core.
            workers: Whole<1, 1_024>,
            /// Become this user once the addresses are bound; for a start as root.
            user: Text<String>,
            /// Become this group with it. Default: the user's own.
            group: Text<String>,
        }
    }
}

impl File {
    /// Reads a whole document; every key that does not fit is reported to `reader`.
    pub(super) fn from_document(document: &Spanned<DeTable<'_>>, reader: &mut Reader<'_>) -> Self {
        Self::from_table(
            Located {
                value: document.get_ref(),
                span: document.span(),
            },
            reader,
        )
    }
}

/// The words of the configuration file.
pub(super) const WORDS: Words = Words {
    tables: TABLES,
    elsewhere: ELSEWHERE,
};

/// Every table, for hints and for the proof that the JSON schema knows the same keys.
const TABLES: &[(&str, &[&str])] = &[
    (File::TITLE, File::KEYS),
    (Listener::TITLE, Listener::KEYS),
    (ListenerTls::TITLE, ListenerTls::KEYS),
    (ListenerHttp2::TITLE, ListenerHttp2::KEYS),
    (Certificate::TITLE, Certificate::KEYS),
    (Upstream::TITLE, Upstream::KEYS),
    (Server::TITLE, Server::KEYS),
    (UpstreamTls::TITLE, UpstreamTls::KEYS),
    (UpstreamHttp2::TITLE, UpstreamHttp2::KEYS),
    (Health::TITLE, Health::KEYS),
    (Plugin::TITLE, Plugin::KEYS),
    (Allow::TITLE, Allow::KEYS),
    (PluginLimits::TITLE, PluginLimits::KEYS),
    (Quarantine::TITLE, Quarantine::KEYS),
    (Route::TITLE, Route::KEYS),
    (Rate::TITLE, Rate::KEYS),
    (Respond::TITLE, Respond::KEYS),
    (Redirect::TITLE, Redirect::KEYS),
    (Rewrite::TITLE, Rewrite::KEYS),
    (HeaderEdits::TITLE, HeaderEdits::KEYS),
    (PluginUse::TITLE, PluginUse::KEYS),
    (Timeouts::TITLE, Timeouts::KEYS),
    (Limits::TITLE, Limits::KEYS),
    (Admin::TITLE, Admin::KEYS),
    (Log::TITLE, Log::KEYS),
    (Runtime::TITLE, Runtime::KEYS),
];

/// Words of other proxies and ours for the same thing.
const ELSEWHERE: &[(&str, &str)] = &[
    ("listen", "bind"),
    ("address", "bind"),
    ("port", "bind"),
    ("server", "servers"),
    ("endpoints", "servers"),
    ("server_name", "host"),
    ("location", "path"),
    ("prefix", "path"),
    ("proxy_pass", "to"),
    ("backend", "to"),
    ("return", "respond"),
    ("ssl", "tls"),
    ("certificate", "cert"),
    ("ssl_certificate", "cert"),
    ("ssl_certificate_key", "key"),
    ("private_key", "key"),
    ("proxy_read_timeout", "idle_timeout"),
    ("max_message_size", "message_size"),
    ("max_payload", "message_size"),
    ("permessage_deflate", "compression"),
    ("heartbeat", "ping_interval"),
    ("ping_timeout", "pong_timeout"),
    ("max_connection_age", "max_lifetime"),
    ("proxy_connect_timeout", "connect"),
    ("add_header", "response_headers"),
    ("proxy_set_header", "request_headers"),
    ("headers", "match_headers"),
    ("allowed_origins", "origins"),
    ("max_fails", "fails"),
    ("fail_timeout", "out_for"),
    ("client_max_body_size", "request_body"),
    ("worker_processes", "workers"),
    ("threads", "workers"),
    ("worker_connections", "connections"),
    ("filters", "plugins"),
    ("module", "wasm"),
    ("path", "wasm"),
    ("metrics", "admin"),
    ("set_real_ip_from", "trusted_proxies"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::reader::plain;
    use super::*;

    #[test]
    fn the_json_schema_and_the_reader_know_the_same_keys() {
        let schema = crate::config::json_schema();
        let mut described: Vec<&Value> = vec![&schema];
        described.extend(schema["$defs"].as_object().expect("definitions").values());

        let keys_of = |table: &Value| -> BTreeSet<String> {
            let properties = table["properties"].as_object().into_iter().flatten();
            properties.map(|(key, _)| key.clone()).collect()
        };
        let by_schema: BTreeSet<_> = described.iter().map(|table| keys_of(table)).collect();
        let by_reader: BTreeSet<BTreeSet<String>> = TABLES
            .iter()
            .map(|(_, keys)| keys.iter().map(|key| plain(key).to_owned()).collect())
            .collect();
        assert_eq!(by_schema, by_reader);
        for table in described {
            assert_eq!(table["additionalProperties"], Value::Bool(false), "{table}");
        }
    }

    #[test]
    fn every_key_of_the_json_schema_is_read() {
        // A wrong type is reported only by a key that the reader knows.
        let schema = crate::config::json_schema();
        for key in schema["properties"].as_object().expect("properties").keys() {
            let text = format!("{key} = 1979-05-27\n");
            let document = DeTable::parse(&text).expect("toml");
            let mut reader = Reader::new(&text, &WORDS);
            File::from_document(&document, &mut reader);
            let messages: Vec<_> = reader
                .into_diagnostics()
                .into_iter()
                .map(|d| d.message)
                .collect();
            assert_eq!(messages.len(), 1, "{key}: {messages:?}");
            assert!(
                messages[0].starts_with(&format!("`{key}` must be ")),
                "{messages:?}"
            );
        }
    }

    #[test]
    fn required_keys_are_required_in_both() {
        let schema = crate::config::json_schema();
        let required = |name: &str| schema["$defs"][name]["required"].clone();
        assert_eq!(required("Listener"), serde_json::json!(["bind"]));
        assert_eq!(required("Upstream"), serde_json::json!(["servers"]));
        assert_eq!(required("PluginUse"), serde_json::json!(["use"]));
        assert_eq!(required("Route"), Value::Null);
    }

    #[test]
    fn hints_name_the_key_or_its_home() {
        let check = |key: &str, table: &str, keys: &[&str], expected: &str| {
            assert_eq!(WORDS.hint(key, table, keys).as_deref(), Some(expected));
        };
        check("hots", Route::TITLE, Route::KEYS, "did you mean `host`?");
        check(
            "proxy_pass",
            Route::TITLE,
            Route::KEYS,
            "did you mean `to`?",
        );
        check(
            "us",
            PluginUse::TITLE,
            PluginUse::KEYS,
            "did you mean `use`?",
        );
        check(
            "tls_handshake",
            Route::TITLE,
            Route::KEYS,
            "`tls_handshake` belongs in [timeouts]",
        );
        check(
            "xyzzy",
            Runtime::TITLE,
            Runtime::KEYS,
            "the keys here are workers, user, group",
        );
    }

    #[test]
    fn the_words_of_others_lead_to_keys_that_exist() {
        for (theirs, ours) in ELSEWHERE {
            let known = TABLES.iter().any(|(_, keys)| keys.contains(ours));
            assert!(known, "{theirs} leads to {ours}");
        }
    }
}
