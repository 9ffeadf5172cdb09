//! The access log: one line per request, two per WebSocket (`ws.open`, `ws.close`).
//!
//! A line is formatted into a buffer of the thread's own and handed to a [`LogWriter`], which never
//! waits. Everything that came from outside is escaped and cut to [`MAX_VALUE`] bytes, so that a
//! line stays one line and a terminal stays sane. Query strings carry secrets more often than not:
//! they are written as `?…` unless the configuration asks for them.
//!
//! JSON keys are stable; a key whose value is unknown is left out.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::log_writer::LogWriter;
use crate::config::model::AccessFormat;
use crate::facts::{ClosedBy, ConnectionFacts, Traffic};
use crate::ws::CloseCode;
use line::{JsonLine, Line, TextLine};

mod line;

/// Where and how to write access events; a snapshot carries one.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// `None`: off.
    output: Option<(Format, LogWriter)>,
    query: bool,
}

/// What all events say about an exchange; empty strings are left out like `None`.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    pub connection: &'a ConnectionFacts,
    pub request_id: &'a str,
    /// The client after `trusted_proxies`.
    pub client_ip: IpAddr,
    pub method: &'a str,
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2` …
    pub protocol: &'static str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// What the endpoint was spoken to in, as `protocol`.
    pub upstream_protocol: Option<&'static str>,
    /// What filters noted about the session.
    pub labels: &'a [(String, String)],
}

/// An ordinary request was answered, or any request was refused.
#[derive(Debug, Clone, Copy)]
pub struct RequestEvent<'a> {
    pub exchange: Exchange<'a>,
    pub status: u16,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// From sending the request upstream to the head of the answer.
    pub upstream_duration: Option<Duration>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Why the proxy refused it, as the metric label.
    pub refused: Option<&'static str>,
    pub error: Option<ErrorLabel>,
}

/// Which side failed, and how.
#[derive(Debug, Clone, Copy)]
pub struct ErrorLabel {
    pub side: &'static str,
    pub kind: &'static str,
}

/// A handshake was accepted.
#[derive(Debug, Clone, Copy)]
pub struct WsOpenEvent<'a> {
    pub exchange: Exchange<'a>,
    /// What the client was answered: 101, or 200 over HTTP/2.
    pub status: u16,
    /// From the request's first byte to the answer.
    pub duration: Duration,
    pub upstream_duration: Option<Duration>,
    pub subprotocol: Option<&'a str>,
}

/// A tunnel ended.
#[derive(Debug, Clone, Copy)]
pub struct WsCloseEvent<'a> {
    pub exchange: Exchange<'a>,
    /// From the answer to the end.
    pub duration: Duration,
    pub from_client: Traffic,
    pub from_upstream: Traffic,
    pub close_code: Option<CloseCode>,
    pub close_reason: Option<&'a str>,
    pub closed_by: ClosedBy,
    /// What ended it, as a short label.
    pub cause: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Json,
    Text,
}

impl AccessLog {
    /// Writes events to `writer` as `format` says; `query`: with their query strings.
    pub fn new(format: AccessFormat, query: bool, writer: &LogWriter) -> AccessLog {
        let format = match format {
            AccessFormat::Json => Some(Format::Json),
            AccessFormat::Text => Some(Format::Text),
            AccessFormat::Off => None,
        };
        AccessLog {
            output: format.map(|format| (format, writer.clone())),
            query,
        }
    }

    /// A log that writes nothing.
    pub fn off() -> AccessLog {
        AccessLog {
            output: None,
            query: false,
        }
    }

    /// Whether events are written at all; a caller may save itself the making of one.
    pub fn is_on(&self) -> bool {
        self.output.is_some()
    }

    pub fn request(&self, event: &RequestEvent<'_>) {
        self.write("request", |query, line| write_request(event, query, line));
    }

    pub fn ws_open(&self, event: &WsOpenEvent<'_>) {
        self.write("ws.open", |query, line| write_open(event, query, line));
    }

    pub fn ws_close(&self, event: &WsCloseEvent<'_>) {
        self.write("ws.close", |query, line| write_close(event, query, line));
    }

    fn write(&self, event: &str, fill: impl FnOnce(bool, &mut dyn Line)) {
        let Some((format, writer)) = &self.output else {
            return;
        };
        LINE.with_borrow_mut(|buffer| {
            format_line(buffer, *format, self.query, event, SystemTime::now(), fill);
            writer.line(buffer.as_bytes());
        });
    }
}

fn format_line(
    buffer: &mut String,
    format: Format,
    query: bool,
    event: &str,
    at: SystemTime,
    fill: impl FnOnce(bool, &mut dyn Line),
) {
    buffer.clear();
    match format {
        Format::Json => {
            let mut line = JsonLine::begin(buffer, event, at);
            fill(query, &mut line);
            line.end();
        }
        Format::Text => {
            let mut line = TextLine::begin(buffer, event, at);
            fill(query, &mut line);
            line.end();
        }
    }
}

fn write_request(event: &RequestEvent<'_>, query: bool, line: &mut dyn Line) {
    line.number("status", event.status.into());
    write_exchange(&event.exchange, query, line);
    line.millis("duration_ms", event.duration);
    if let Some(duration) = event.upstream_duration {
        line.millis("upstream_ms", duration);
    }
    line.number("bytes_in", event.bytes_in);
    line.number("bytes_out", event.bytes_out);
    if let Some(refused) = event.refused {
        line.text("refused", refused);
    }
    if let Some(error) = event.error {
        line.text("error_side", error.side);
        line.text("error_kind", error.kind);
    }
}

fn write_open(event: &WsOpenEvent<'_>, query: bool, line: &mut dyn Line) {
    line.number("status", event.status.into());
    write_exchange(&event.exchange, query, line);
    line.millis("duration_ms", event.duration);
    if let Some(duration) = event.upstream_duration {
        line.millis("upstream_ms", duration);
    }
    line.text("subprotocol", event.subprotocol.unwrap_or_default());
}

fn write_close(event: &WsCloseEvent<'_>, query: bool, line: &mut dyn Line) {
    write_exchange(&event.exchange, query, line);
    line.millis("duration_ms", event.duration);
    line.number("bytes_in", event.from_client.bytes);
    line.number("bytes_out", event.from_upstream.bytes);
    line.number("messages_in", event.from_client.messages);
    line.number("messages_out", event.from_upstream.messages);
    if let Some(code) = event.close_code {
        line.number("close_code", code.0.into());
    }
    line.text("close_reason", event.close_reason.unwrap_or_default());
    line.text("closed_by", event.closed_by.label());
    line.text("cause", event.cause);
}

fn write_exchange(exchange: &Exchange<'_>, query: bool, line: &mut dyn Line) {
    let connection = exchange.connection;
    line.text("method", exchange.method);
    line.text("host", exchange.host);
    line.text("path", exchange.path);
    match exchange.query {
        Some(text) if query => line.text("query", text),
        Some(_) => line.text("query", REDACTED),
        None => {}
    }
    line.text("protocol", exchange.protocol);
    line.display("client_ip", &exchange.client_ip);
    line.display("peer", &connection.peer);
    line.text("listener", &connection.listener);
    if let Some(tls) = &connection.tls {
        line.text("tls", tls.version);
        line.text(
            "client_subject",
            tls.client_subject.as_deref().unwrap_or_default(),
        );
    }
    line.text("route", exchange.route.unwrap_or_default());
    line.text("upstream", exchange.upstream.unwrap_or_default());
    line.text("endpoint", exchange.endpoint.unwrap_or_default());
    line.text(
        "upstream_protocol",
        exchange.upstream_protocol.unwrap_or_default(),
    );
    line.text("request_id", exchange.request_id);
    line.labels(exchange.labels);
}

thread_local! {
    /// The thread's line buffer: formatting allocates nothing once it has grown.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Longest value written, bytes before escaping.
pub const MAX_VALUE: usize = 1024;

/// Stands for a query string.
const REDACTED: &str = "?…";

#[cfg(test)]
mod tests;
