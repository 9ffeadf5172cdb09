//! How the edits of a failed call are taken back.
//!
//! Nearly every call succeeds and edits a field or two, so what is kept is the old values of just
//! those fields; the head is copied only for a guest that makes more edits than [`MAX_STEPS`]. What is
//! taken back may stand at another place among fields of other names, which means nothing
//! (RFC 9110, section 5.3).

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use sluicegate_plugin_rules::Session;

/// What a call has changed so far.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    /// Field by field, the latest edit last, as it was before.
    steps: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// All fields, once there were too many steps.
    whole: Option<HeaderMap>,
    /// The query, if it was changed.
    query: Option<Option<Arc<str>>>,
    /// The chosen upstream, if it was changed.
    upstream: Option<Option<Arc<str>>>,
    /// The session, if it was changed.
    session: Option<Session>,
}

impl Undo {
    /// Remembers a field that is about to be edited.
    pub(crate) fn note_field(&mut self, fields: &HeaderMap, name: &HeaderName) {
        if self.whole.is_some() {
            return;
        }
        if self.steps.len() == MAX_STEPS {
            let mut whole = fields.clone();
            self.take_back_steps(&mut whole);
            self.whole = Some(whole);
            return;
        }
        let before = fields.get_all(name).iter().cloned().collect();
        self.steps.push((name.clone(), before));
    }

    /// Remembers the query that is about to be edited.
    pub(crate) fn note_query(&mut self, query: Option<&Arc<str>>) {
        self.query.get_or_insert_with(|| query.cloned());
    }

    /// Remembers the upstream that is about to be chosen.
    pub(crate) fn note_upstream(&mut self, upstream: Option<&Arc<str>>) {
        self.upstream.get_or_insert_with(|| upstream.cloned());
    }

    /// Remembers the session that is about to be edited.
    pub(crate) fn note_session(&mut self, session: &Session) {
        self.session.get_or_insert_with(|| session.clone());
    }

    /// The edits stand.
    pub(crate) fn forget(&mut self) {
        self.steps.clear();
        self.whole = None;
        self.query = None;
        self.upstream = None;
        self.session = None;
    }

    /// Takes back all edits of fields.
    pub(crate) fn fields(&mut self, fields: &mut HeaderMap) {
        match self.whole.take() {
            Some(whole) => *fields = whole,
            None => self.take_back_steps(fields),
        }
    }

    /// Takes back all edits of the query.
    pub(crate) fn query(&mut self, query: &mut Option<Arc<str>>) {
        if let Some(before) = self.query.take() {
            *query = before;
        }
    }

    /// Takes back the choice of an upstream.
    pub(crate) fn upstream(&mut self, upstream: &mut Option<Arc<str>>) {
        if let Some(before) = self.upstream.take() {
            *upstream = before;
        }
    }

    /// Takes back all edits of the session.
    pub(crate) fn session(&mut self, session: &mut Session) {
        if let Some(before) = self.session.take() {
            *session = before;
        }
    }

    fn take_back_steps(&mut self, fields: &mut HeaderMap) {
        while let Some((name, before)) = self.steps.pop() {
            let mut before = before.into_iter();
            match before.next() {
                // In its old place, where it still has one.
                Some(first) => drop(fields.insert(name.clone(), first)),
                None => drop(fields.remove(&name)),
            }
            for more in before {
                fields.append(name.clone(), more);
            }
        }
    }
}

/// Edits of one call that are remembered one by one.
const MAX_STEPS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")] {
            fields.append(name, HeaderValue::from_static(value));
        }
        fields
    }

    #[test]
    fn every_edit_is_taken_back_few_or_many() {
        for rounds in [1, 2, 100] {
            let (mut fields, mut query) = (head(), Some(Arc::from("a=1")));
            let mut undo = Undo::default();
            for round in 0..rounds {
                for name in ["a", "b", "new", &format!("x-{round}")] {
                    let name = name.parse().unwrap();
                    undo.note_field(&fields, &name);
                    fields.insert(name, HeaderValue::from_static("edited"));
                }
                for name in ["b", "c"] {
                    undo.note_field(&fields, &HeaderName::from_static(name));
                    fields.remove(name);
                }
                undo.note_field(&fields, &HeaderName::from_static("c"));
                fields.append("c", HeaderValue::from_static("more"));
                undo.note_query(query.as_ref());
                query = None;
            }
            assert!(undo.steps.len() <= MAX_STEPS);
            undo.fields(&mut fields);
            undo.query(&mut query);
            assert_eq!(fields, head(), "{rounds} rounds");
            assert_eq!(query.as_deref(), Some("a=1"));
            assert!(undo.steps.is_empty() && undo.whole.is_none() && undo.query.is_none());
        }
    }

    #[test]
    fn edits_that_stand_are_forgotten() {
        for edits in [1, 100] {
            let (mut fields, mut undo) = (head(), Undo::default());
            for _ in 0..edits {
                undo.note_field(&fields, &HeaderName::from_static("a"));
                fields.insert("a", HeaderValue::from_static("edited"));
            }
            undo.forget();
            undo.fields(&mut fields);
            assert_eq!(fields["a"], "edited");
        }
    }
}
