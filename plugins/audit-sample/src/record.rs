//! What is noted of a message, as fields of a log line or as JSON.

use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::log::{self, Level};
use sluicegate_plugin::{Ending, Opening, Side, clock, config};

use serde_json::{Map, Value, json};

/// What is noted of a message itself.
#[config]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Payload {
    /// Its size only.
    #[default]
    None,
    /// Its SHA-256: the same message can be found again.
    Hash,
    /// How it begins; binary data in hexadecimal.
    Excerpt,
}

impl Payload {
    /// Under its name.
    pub(crate) fn of(
        self,
        data: &[u8],
        excerpt: impl FnOnce() -> String,
    ) -> Option<(&'static str, String)> {
        match self {
            Payload::None => None,
            Payload::Hash => Some(("sha256", hex(&crypto::hash(Hash::Sha256, data)))),
            Payload::Excerpt => Some(("excerpt", excerpt())),
        }
    }
}

pub(crate) struct Record {
    pub(crate) from: &'static str,
    pub(crate) kind: &'static str,
    /// Of the messages of its connection that were looked at.
    pub(crate) number: u64,
    pub(crate) size: usize,
    pub(crate) payload: Option<(&'static str, String)>,
}

impl Record {
    pub(crate) fn log(&self, request_id: &str) {
        let (number, size) = (self.number.to_string(), self.size.to_string());
        let mut fields = vec![
            ("request_id", request_id),
            ("from", self.from),
            ("kind", self.kind),
            ("number", &number),
            ("size", &size),
        ];
        fields.extend(
            self.payload
                .as_ref()
                .map(|(name, text)| (*name, text.as_str())),
        );
        log::event(Level::Info, "message", &fields);
    }

    pub(crate) fn json(&self) -> String {
        let since = clock::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let millis = u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        let mut record = json!({
            "at": millis,
            "from": self.from,
            "kind": self.kind,
            "number": self.number,
            "size": self.size,
        });
        if let Some((name, text)) = &self.payload {
            record[*name] = text.as_str().into();
        }
        record.to_string()
    }
}

/// The connection, as an object that is still open.
pub(crate) fn head(opening: &Opening) -> String {
    let labels = opening.labels().iter();
    let labels: Map<String, Value> = labels
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let head = json!({
        "request_id": opening.request_id(),
        "route": opening.route(),
        "host": opening.host(),
        "path": opening.path(),
        "client_ip": opening.client_ip().to_string(),
        "subprotocol": opening.subprotocol(),
        "labels": labels,
    });
    let mut head = head.to_string();
    head.pop();
    head
}

/// A whole request's body: the head with its records, and how many before them are missing.
pub(crate) fn body(head: &str, records: &str, lost: u64, ending: Option<&Ending>) -> String {
    let ended = ending.map(|ending| {
        let by = ending.by.map(|by| match by {
            Side::Client => "client",
            Side::Server => "server",
        });
        json!({ "code": ending.code, "by": by, "cause": ending.cause })
    });
    let ended = Value::from(ended);
    format!(r#"{head},"messages":[{records}],"lost":{lost},"ended":{ended}}}"#)
}

/// The beginning of a text, in so many bytes at most.
pub(crate) fn excerpt(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

pub(crate) fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes
        .into_iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
