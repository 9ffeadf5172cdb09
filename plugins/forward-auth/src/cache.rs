//! Answers that are remembered, in the store that all workers share.
//!
//! An answer is for exactly the question that was asked: it is found by the SHA-256 of everything that
//! was sent. One that hands out a cookie is the one client's and never kept, nor one that says
//! `no-store`.

use std::time::Duration;

use sluicegate_plugin::crypto::{self, Hash};
use sluicegate_plugin::serde::{Deserialize, Serialize};
use sluicegate_plugin::{kv, outbound};

/// What is left of an answer: what the client or the upstream gets to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "sluicegate_plugin::serde")]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Values in any bytes but control characters, one char for each byte.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// Keeps the fields of these names (in lower case), and the body if asked for.
    pub(crate) fn of(response: outbound::Response, names: &[String], with_body: bool) -> Self {
        let kept = response.headers.into_iter();
        let kept = kept.filter(|(name, _)| names.contains(name));
        Answer {
            status: response.status,
            headers: kept.map(|(name, value)| (name, latin1(&value))).collect(),
            body: if with_body { response.body } else { Vec::new() },
        }
    }

    /// Every value of a field, its name in lower case.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = Vec<u8>> {
        let own = self.headers.iter().filter(move |(n, _)| n == name);
        own.map(|(_, value)| bytes(value))
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        let fields = self.headers.iter();
        fields.map(|(name, value)| (name.as_str(), bytes(value)))
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

/// The place of a question's answer; `for_whom` keeps apart those who keep different parts of it.
pub(crate) fn entry(request: &outbound::Request, for_whom: &[&[String]]) -> String {
    let mut all = Vec::new();
    // With its length each part is itself: nothing can be moved from one to the next.
    let mut add = |part: &[u8]| {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(part);
    };
    for part in [&request.upstream, &request.method, &request.path] {
        add(part.as_bytes());
    }
    for (name, value) in &request.headers {
        add(name.as_bytes());
        add(value);
    }
    for names in for_whom {
        add(b"");
        names.iter().for_each(|name| add(name.as_bytes()));
    }
    let hash = crypto::hash(Hash::Sha256, &all);
    hash.iter().fold("answer:".to_owned(), |text, byte| {
        format!("{text}{byte:02x}")
    })
}

pub(crate) fn load(entry: &str) -> Option<Answer> {
    // A store that does not answer has nothing: the service is asked.
    let stored = kv::get(entry).ok()??;
    serde_json::from_slice(&stored).ok()
}

/// Whether an answer may be given to the next who asks the same.
pub(crate) fn may_keep(response: &outbound::Response) -> bool {
    let must_not = response.headers.iter().any(|(name, value)| {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let mut directives = value.split(',').map(str::trim);
        name == "cache-control"
            && directives.any(|one| matches!(one, "no-store" | "no-cache" | "max-age=0"))
    });
    // Of this moment, not of this client.
    let passing = matches!(response.status, 408 | 425 | 429);
    !must_not
        && !passing
        && response.header("set-cookie").is_none()
        && response.body.len() <= MAX_KEPT_BODY
}

pub(crate) fn keep(entry: &str, answer: &Answer, ttl: Duration) {
    // Not kept, it is asked for again; nothing is wrong with that.
    if let Ok(stored) = serde_json::to_vec(answer) {
        kv::set(entry, stored, Some(ttl)).ok();
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn bytes(latin1: &str) -> Vec<u8> {
    let byte = |char| u8::try_from(u32::from(char)).ok();
    latin1.chars().filter_map(byte).collect()
}

/// Written as JSON numbers, it takes four times as much of the store.
const MAX_KEPT_BODY: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_store() {
        let response = outbound::Response::new(403)
            .with_header("X-A", b"caf\xe9 \"x\"".as_slice())
            .with_header("X-A", "2")
            .with_header("X-B", "3")
            .with_body([0, 255, b'"'].as_slice());
        let answer = Answer::of(response, &["x-a".to_owned()], true);
        keep("e", &answer, Duration::from_secs(1));
        let loaded = load("e").unwrap();
        assert_eq!(loaded, answer);
        let values: Vec<_> = loaded.values("x-a").collect();
        assert_eq!(values, [b"caf\xe9 \"x\"".to_vec(), b"2".to_vec()]);
        assert_eq!(loaded.values("x-b").count(), 0);
        assert_eq!(loaded.body(), [0, 255, b'"']);
        assert_eq!(load("other"), None);
    }

    #[test]
    fn every_part_of_a_question_matters() {
        let names = |name: &str| vec![name.to_owned()];
        let ask =
            |path: &str, value: &str| outbound::Request::get("idp", path).header("x-a", value);
        let (a, b) = (names("a"), names("b"));
        let all = [
            entry(&ask("/", "1"), &[&a, &b]),
            entry(&ask("/a", "1"), &[&a, &b]),
            entry(&ask("/", "2"), &[&a, &b]),
            entry(&ask("/", "1").header("x-a", ""), &[&a, &b]),
            entry(&ask("/", "1"), &[&a, &a]),
            entry(&ask("/", "1"), &[&b, &a]),
            entry(
                &outbound::Request::post("idp", "/").header("x-a", "1"),
                &[&a, &b],
            ),
            entry(
                &outbound::Request::get("idp", "/").header("x-a1", ""),
                &[&a, &b],
            ),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(all[0], entry(&ask("/", "1"), &[&a, &b]));
    }

    #[test]
    fn what_is_for_one_client_is_not_kept() {
        let response = || outbound::Response::new(200);
        assert!(may_keep(
            &response().with_header("cache-control", "private, max-age=3")
        ));
        assert!(!may_keep(&response().with_header("Set-Cookie", "a=1")));
        assert!(!may_keep(
            &response().with_header("Cache-Control", "private, No-Store")
        ));
        assert!(!may_keep(&response().with_body(vec![0; MAX_KEPT_BODY + 1])));
    }
}
