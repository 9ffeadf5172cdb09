//! What the user may write about a route and the plugins on it.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use regex::Regex;
use toml::de::DeTable;

use crate::config::model::{
    Compression, HeaderValueMatch, HostPattern, Isolation, Located, OnError, OnMessageError,
    OriginPattern, Over,
};
use crate::config::reader::{
    Field, List, Named, Node, OneOrMany, Read, Reader, Table, Text, TextOr, Whole, table,
};
use crate::config::values::{
    ByteRate, ByteSize, ExactPath, HeaderTemplate, Name, NormalPath, PluginJson, RedirectTarget,
    RouteName, Target,
};

table! {
    /// What to do with some requests; exactly one of `to`, `respond` and `redirect`.
    Route "[[route]]" {
        required {}
        optional {
            /// Name in logs and metrics. Default: made from host and path.
            name: Text<RouteName>,
            /// `ws.example.com` or `*.example.com`, one or several. Default: any.
            host: OneOrMany<Text<HostPattern>>,
            /// Paths that begin with this. Default `/`.
            path: Text<NormalPath>,
            /// Only this path.
            path_exact: Text<ExactPath>,
            /// Paths in which this matches somewhere; anchor it with `^`.
            path_regex: Text<Regex>,
            /// Default: any. GET includes HEAD.
            methods: OneOrMany<Text<Method>>,
            /// Header fields to match: a value, `*` for any, or `~` and a regex.
            match_headers: Named<HeaderName, Text<HeaderValueMatch>>,
            /// Forward to this upstream, or to an address such as `127.0.0.1:3000`.
            to: Text<Target>,
            /// Answer at once.
            respond: Respond,
            /// Send the client elsewhere.
            redirect: Redirect,
            /// Take this off the front of the path before it goes upstream.
            strip_prefix: Text<NormalPath>,
            /// Replace a part of the path before it goes upstream.
            rewrite: Rewrite,
            /// Edits of the request's header on its way upstream.
            request_headers: HeaderEdits,
            /// Edits of the response's header on its way to the client.
            response_headers: HeaderEdits,
            /// Origins that may open a WebSocket, e.g. `https://app.example.com`. Default: any.
            origins: OneOrMany<Text<OriginPattern>>,
            /// The filter chain: names of plugins, or tables that say more.
            plugins: List<TextOr<Name, PluginUse>>,
            /// Overrides `timeouts.connect`.
            connect: Text<Duration>,
            /// Overrides `timeouts.response_head`.
            response_head: Text<Duration>,
            /// Overrides `timeouts.idle_timeout`.
            idle_timeout: Text<Duration>,
            /// Overrides `timeouts.drain`.
            drain: Text<Duration>,
            /// Overrides `limits.body_rate`.
            body_rate: Text<ByteRate>,
            /// Close code (RFC 6455 section 7.4) of a tunnel whose session has expired: a plugin's word.
            /// Default 1008.
            expiry_close_code: Whole<1000, 4999>,
            /// Follow the frames in tunnels, for counts, close codes and everything below. Default true;
            /// false copies bytes.
            follow: bool,
            /// permessage-deflate: `pass` what client and server agree on, `terminate` it on each side
            /// on its own, or keep it `off`. Default `pass`.
            compression: Text<Compression>,
            /// Of what the proxy compresses: 1 is fast, 9 small. Default 6.
            compression_level: Whole<1, 9>,
            /// Bits of the window of what the proxy compresses and, where the other end lets it choose,
            /// of what that compresses. Default 12, which is 4 KiB.
            compression_window: Whole<9, 15>,
            /// Largest message from either side, as it is before compression; a larger one ends the tunnel
            /// with 1009. Default: `limits.message_size`, or 1 MiB where messages are collected.
            message_size: Text<ByteSize>,
            /// Overrides `message_size` for what the client sends.
            client_message_size: Text<ByteSize>,
            /// Overrides `message_size` for what the server sends.
            server_message_size: Text<ByteSize>,
            /// Frames of one message, from either side; more end the tunnel with 1008. Default 4096 where
            /// messages are read.
            message_frames: Whole<1, 1_000_000>,
            /// How much the client may send in a second.
            client_rate: Rate,
            /// How much the server may send in a second.
            server_rate: Rate,
            /// A binary message ends the tunnel with 1003. Default false.
            text_only: bool,
            /// A text message ends the tunnel with 1003. Default false.
            binary_only: bool,
            /// Close a tunnel without a byte from the client for this long. Default: never.
            client_idle_timeout: Text<Duration>,
            /// Close a tunnel without a byte from the server for this long. Default: never.
            server_idle_timeout: Text<Duration>,
            /// Close a tunnel of this age with 1001. Default: never.
            max_lifetime: Text<Duration>,
            /// So many per cent of `max_lifetime` at most it comes earlier, at random. Default 10.
            lifetime_jitter: Whole<0, 100>,
            /// How often the proxy pings both sides. Default: never.
            ping_interval: Text<Duration>,
            /// Overrides `ping_interval` for the client.
            client_ping_interval: Text<Duration>,
            /// Overrides `ping_interval` for the server.
            server_ping_interval: Text<Duration>,
            /// How long a ping waits for its pong until the tunnel is closed. Default `10s`, or half of the
            /// interval if that is shorter.
            pong_timeout: Text<Duration>,
            /// What is kept of messages for a slow receiver, in each direction, until the sender has to wait.
            /// Default `256KiB`.
            tunnel_buffer: Text<ByteSize>,
        }
    }
}

table! {
    /// How much one side of a tunnel may send in a second: messages, bytes, or both.
    Rate "a rate" {
        required {}
        optional {
            /// Messages a second.
            messages: Whole<1, { u64::MAX }>,
            /// Messages at once after a pause. Default: a second's worth.
            messages_burst: Whole<1, { u64::MAX }>,
            /// Bytes a second, as they come: compressed, and with the heads of frames.
            bytes: Text<ByteSize>,
            /// Bytes at once after a pause. Default: a second's worth.
            bytes_burst: Text<ByteSize>,
            /// What too much does: `close` the tunnel with 1008, or let the sender `wait`. Default `close`.
            over: Text<Over>,
        }
    }
}

table! {
    /// An answer that no upstream gives.
    Respond "`respond`" {
        required {}
        optional {
            /// Default 200.
            status: Whole<200, 599>,
            /// Default empty.
            body: Text<String>,
            /// Default `text/plain; charset=utf-8`.
            content_type: Text<HeaderValue>,
        }
    }
}

table! {
    /// An answer that sends the client elsewhere.
    Redirect "`redirect`" {
        required {
            /// Where to, with variables: `https://{host}{path}{query}`.
            to: Text<RedirectTarget>,
        }
        optional {
            /// 301, 302, 303, 307 or 308. Default 308.
            status: Whole<100, 999>,
        }
    }
}

table! {
    /// A change of the path: the first match of `regex` becomes `to`.
    Rewrite "`rewrite`" {
        required {
            regex: Text<Regex>,
            /// `$1` or `${name}` stand for groups of the regex.
            to: Text<String>,
        }
        optional {}
    }
}

table! {
    /// Edits of a header: removals first, then `set`, then `add`. Values may hold variables.
    HeaderEdits "header edits" {
        required {}
        optional {
            set: Named<HeaderName, Text<HeaderTemplate>>,
            add: Named<HeaderName, Text<HeaderTemplate>>,
            remove: OneOrMany<Text<HeaderName>>,
        }
    }
}

table! {
    /// A plugin on a route.
    PluginUse "an entry of `plugins`" {
        required {
            /// Name of the plugin.
            r#use: Text<Name>,
        }
        optional {
            /// Laid over the plugin's own config, key by key.
            config: PluginJson,
            /// What a failure of the plugin does. Default `deny`.
            on_error: Text<OnError>,
            /// Requests that one instance serves before a fresh one takes its place. Default 0:
            /// every request gets an instance of its own.
            reuse: Whole<0, 1_000_000>,
            /// Whether the tunnels of a worker share an instance for their messages (`shared`) or each
            /// `connection` gets its own. Default `shared`, unless the plugin waits for something in
            /// its calls.
            isolation: Text<Isolation>,
            /// Tunnels that share an instance at most. Default 1000.
            connections_per_instance: Whole<1, 1_000_000>,
            /// What a failure at a message does: `close` the tunnel with 1011, or let the message `pass`.
            /// Default: as `on_error`.
            on_message_error: Text<OnMessageError>,
        }
    }
}
