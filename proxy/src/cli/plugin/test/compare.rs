//! What came of a case beside what was expected: the differences, and what to write to have none.

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderName};
use toml_edit::Value;

use super::head::subprotocols;
use super::run::{Got, Outcome};
use super::stub::has;
use super::written::{
    array, datetime, duration, field_values, number, quoted, shown, stored_value, table, text,
};
use crate::config::cases::{
    Case, Decision, ExpectResponse, FieldValues, MetricName, Moment, Stored,
};

mod messages;

/// One thing that is not as it was expected.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) place: Place,
    /// The keys below that; none: it is not there at all.
    pub(super) path: Vec<String>,
    /// Lines of a value each, as TOML has them; or words.
    pub(super) expected: Vec<String>,
    pub(super) got: Vec<String>,
    /// What makes it right; `None`: nothing does but another `expect` as a whole.
    pub(super) write: Option<Value>,
}

/// Where something was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the case's `expect`.
    Expect,
    /// In this one of its messages.
    Message(usize),
}

impl Difference {
    /// Whether blessing makes it right.
    pub(super) fn can_be_blessed(&self) -> bool {
        self.place == Place::Expect || self.write.is_some()
    }
}

/// All differences, in the order of the keys in the reference.
pub(super) fn differences(case: &Case, outcome: &Outcome) -> Vec<Difference> {
    let expect = &case.expect;
    let whole = |key: &str, expected: String, got: String| {
        vec![Difference {
            place: Place::Expect,
            path: vec![key.to_owned()],
            expected: vec![expected],
            got: got.lines().map(str::to_owned).collect(),
            write: None,
        }]
    };
    let got = match (outcome, &expect.config_error) {
        (Outcome::ConfigRefused(reasons), Some(expected)) => {
            let reasons: Vec<&str> = reasons
                .iter()
                .map(|reason| reason.message.as_str())
                .collect();
            if reasons.iter().any(|reason| begins(reason, expected)) {
                return Vec::new();
            }
            let write = reasons.first().map(|reason| text(reason));
            return vec![Difference {
                place: Place::Expect,
                path: vec!["config_error".to_owned()],
                expected: vec![quoted(expected)],
                got: reasons.into_iter().map(quoted).collect(),
                write,
            }];
        }
        (Outcome::ConfigRefused(reasons), None) => {
            let got: Vec<_> = reasons
                .iter()
                .map(|reason| quoted(&reason.message))
                .collect();
            return whole(
                "config_error",
                "a config that is accepted".into(),
                got.join("\n"),
            );
        }
        (Outcome::Called(_), Some(expected)) => {
            return whole(
                "config_error",
                quoted(expected),
                "a config that is accepted".into(),
            );
        }
        (Outcome::Called(got), None) => got,
    };
    let of_tunnel = got.conversed.as_ref().and_then(|talk| talk.error.as_ref());
    match (got.verdict.as_ref().err().or(of_tunnel), &expect.error) {
        (Some(error), Some(expected)) if error.starts_with(expected.as_str()) => {}
        (Some(error), Some(expected)) => return whole("error", quoted(expected), error.clone()),
        (None, Some(expected)) => return whole("error", quoted(expected), shown_verdict(got)),
        (Some(error), None) if got.verdict.is_ok() => {
            return whole("error", "no failure".into(), error.clone());
        }
        (Some(error), None) => {
            let verdict = expect.verdict.unwrap_or(Decision::Continue);
            return whole(
                "verdict",
                decision(verdict).to_string(),
                format!("error: {error}"),
            );
        }
        (None, None) => {
            let verdict = expect.verdict.unwrap_or(Decision::Continue);
            if decided(got) != Some(verdict) {
                return whole("verdict", decision(verdict).to_string(), shown_verdict(got));
            }
        }
    }
    let mut all = messages::differences(case, got);
    all.extend(of_call(case, got));
    all
}

/// Everything behind the verdict.
fn of_call(case: &Case, got: &Got) -> Vec<Difference> {
    let expect = &case.expect;
    let mut found = Found::default();
    found.fields(&["headers"], head_of(got), &expect.headers);
    if let Some(expected) = &expect.body {
        found.text(&["body"], expected, &body_of(got));
    }
    let one = |found: &mut Found, key: &str, expected: &Option<FieldValues>, got: Option<&str>| {
        if let Some(expected) = expected {
            found.values(
                &[key],
                expected,
                got.map(str::to_owned).into_iter().collect(),
            );
        }
    };
    one(
        &mut found,
        "query",
        &expect.query,
        got.request.query.as_deref(),
    );
    if let Some(expected) = &expect.subprotocols {
        let offered = subprotocols(&got.request.headers);
        if *expected != offered {
            found.push(&["subprotocols"], &array(expected), array(&offered));
        }
    }
    one(
        &mut found,
        "upstream",
        &expect.upstream,
        got.request.upstream.as_deref(),
    );
    for (name, expected) in &expect.labels {
        let label = got.session.label(name).map(str::to_owned);
        found.values(&["labels", name], expected, label.into_iter().collect());
    }
    if let Some(expected) = expect.expires_at {
        let got = got.session.expires_at.map(moment);
        if got != Some(expected) {
            found.push(
                &["expires_at"],
                &datetime(expected),
                got.map_or(Value::from(false), datetime),
            );
        }
    }
    if let Some(expected) = expect.lifetime {
        let expected = expected.as_millis().try_into().unwrap_or(u64::MAX);
        if got.session.max_lifetime != Some(expected) {
            let got = got.session.max_lifetime;
            let got = got.map_or(Value::from(false), |got| duration(got).into());
            found.push(&["lifetime"], &duration(expected).into(), got);
        }
    }
    found.logs(&expect.logs, &got.logs);
    for (name, expected) in &expect.metrics {
        let value = metric(name, &got.metrics);
        if value != expected.0 {
            found.push(
                &["metrics", &name.to_string()],
                &number(expected.0),
                number(value),
            );
        }
    }
    for (key, expected) in &expect.kv {
        let stored = got.kv.iter().find(|(known, _)| known == key);
        let stored = stored.map_or(&Stored::Absent, |(_, stored)| stored);
        if text_of(expected) != text_of(stored) {
            found.push(&["kv", key], &stored_value(expected), stored_value(stored));
        }
    }
    if let Some(expected) = &expect.response {
        found.response(expected, got);
    }
    found.0
}

/// A key of an `expect`, and what stands there.
type Entry = (Vec<&'static str>, Value);

/// Everything that the plugin did, for an `expect` that is written anew.
pub(super) fn everything(outcome: &Outcome) -> Vec<Entry> {
    let got = match outcome {
        Outcome::ConfigRefused(reasons) => {
            let reason = reasons.first().map_or("", |reason| &reason.message);
            return vec![(vec!["config_error"], text(reason))];
        }
        Outcome::Called(got) => got,
    };
    let mut all = Vec::new();
    match &got.verdict {
        Err(error) => return vec![(vec!["error"], first_line(error))],
        Ok(refusal) => {
            if let Some(error) = got.conversed.as_ref().and_then(|talk| talk.error.as_ref()) {
                all.push((vec!["error"], first_line(error)));
            }
            let verdict = decided(got).unwrap_or(Decision::Continue);
            all.push((vec!["verdict"], decision(verdict)));
            match refusal {
                Some(refusal) => {
                    let headers = changed(&HeaderMap::new(), refusal.headers());
                    all.push((vec!["headers"], headers));
                    all.push((vec!["body"], text(&body_of(got))));
                }
                None => all.extend(of_request(got)),
            }
        }
    }
    all.extend(of_session(got));
    all.push((vec!["logs"], array(&got.logs)));
    let counted = got.metrics.iter();
    let counted = counted.map(|(name, value)| (name.to_string(), number(*value)));
    all.push((vec!["metrics"], table(counted)));
    let entries = got.kv.iter();
    let entries = entries.map(|(key, value)| (key.clone(), stored_value(value)));
    all.push((vec!["kv"], table(entries)));
    match &got.response {
        Some(Ok(response)) => {
            let status = i64::from(response.status().as_u16());
            all.push((vec!["response", "status"], status.into()));
            let headers = changed(&HeaderMap::new(), response.headers());
            all.push((vec!["response", "headers"], headers));
        }
        Some(Err(error)) => all.push((vec!["response", "error"], first_line(error))),
        None => {}
    }
    // What the plugin left alone is nobody's expectation.
    all.retain(|(path, value)| match value {
        Value::InlineTable(table) => !table.is_empty(),
        Value::Array(array) => !array.is_empty() || path == &["subprotocols"],
        _ => true,
    });
    all
}

/// What became of a request that goes on.
fn of_request(got: &Got) -> Vec<Entry> {
    let changes = changed(&got.before.headers, &got.request.headers);
    let mut all = vec![(vec!["headers"], changes)];
    if got.before.query != got.request.query {
        let query = got.request.query.as_deref();
        all.push((vec!["query"], query.map_or(false.into(), text)));
    }
    let offered = subprotocols(&got.request.headers);
    if offered != subprotocols(&got.before.headers) {
        all.push((vec!["subprotocols"], array(&offered)));
    }
    if let Some(upstream) = got.request.upstream.as_deref() {
        all.push((vec!["upstream"], text(upstream)));
    }
    all
}

/// What was noted of the session.
fn of_session(got: &Got) -> Vec<Entry> {
    let labels = got.session.labels.iter();
    let new = labels.filter(|label| !got.before.session.labels.contains(label));
    let new = new.map(|(name, value)| (name.clone(), text(value)));
    let mut all = vec![(vec!["labels"], table(new))];
    if let Some(expiry) = got.session.expires_at {
        all.push((vec!["expires_at"], datetime(moment(expiry))));
    }
    if let Some(lifetime) = got.session.max_lifetime {
        all.push((vec!["lifetime"], duration(lifetime).into()));
    }
    all
}

fn first_line(text: &str) -> Value {
    self::text(text.lines().next().unwrap_or_default())
}

/// Differences as they are found.
#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn push(&mut self, path: &[&str], expected: &Value, got: Value) {
        self.0.push(Difference {
            place: Place::Expect,
            path: path.iter().map(|&key| key.to_owned()).collect(),
            expected: vec![shown(expected)],
            got: vec![shown(&got)],
            write: Some(got),
        });
    }

    fn text(&mut self, path: &[&str], expected: &str, got: &str) {
        if expected != got {
            self.push(path, &text(expected), text(got));
        }
    }

    fn values(&mut self, path: &[&str], expected: &FieldValues, got: Vec<String>) {
        let got = match got.is_empty() {
            true => FieldValues::Absent,
            false => FieldValues::Exactly(got),
        };
        if *expected != got {
            self.push(path, &field_values(expected), field_values(&got));
        }
    }

    fn fields(
        &mut self,
        path: &[&str],
        headers: &HeaderMap,
        expected: &[(HeaderName, FieldValues)],
    ) {
        for (name, expected) in expected {
            if !has(headers, name, expected) {
                let path = [path, &[name.as_str()]].concat();
                self.push(
                    &path,
                    &field_values(expected),
                    field_values(&values_of(headers, name)),
                );
            }
        }
    }

    /// Each expected line begins one of those that are left; others may stand between.
    fn logs(&mut self, expected: &[String], got: &[String]) {
        let mut left = got.iter();
        let all = expected.iter();
        let missing = all.filter(|expected| !left.any(|line| line.starts_with(expected.as_str())));
        if missing.count() > 0 {
            let lines = |lines: &[String]| match lines {
                [] => vec!["no line".to_owned()],
                lines => lines.iter().map(|line| quoted(line)).collect(),
            };
            self.0.push(Difference {
                place: Place::Expect,
                path: vec!["logs".to_owned()],
                expected: lines(expected),
                got: lines(got),
                write: Some(array(got)),
            });
        }
    }

    fn response(&mut self, expected: &ExpectResponse, got: &Got) {
        let response = match (&got.response, &expected.error) {
            (Some(Ok(response)), None) => response,
            (Some(Err(error)), Some(expected)) if error.starts_with(expected.as_str()) => return,
            (hook, expected) => {
                let got = match hook {
                    Some(Ok(response)) => response.status().to_string(),
                    Some(Err(error)) => format!("error: {error}"),
                    None => "no response hook: the request was refused".to_owned(),
                };
                return self.0.push(Difference {
                    place: Place::Expect,
                    path: vec!["response".to_owned()],
                    expected: vec![match expected {
                        Some(error) => quoted(error),
                        None => "an answer".to_owned(),
                    }],
                    got: got.lines().map(str::to_owned).collect(),
                    write: None,
                });
            }
        };
        let status = response.status().as_u16();
        if let Some(expected) = expected.status
            && expected != status
        {
            let (expected, got) = (i64::from(expected), i64::from(status));
            self.push(&["response", "status"], &expected.into(), got.into());
        }
        self.fields(
            &["response", "headers"],
            response.headers(),
            &expected.headers,
        );
        if let Some(expected) = &expected.body {
            let body = String::from_utf8_lossy(response.body());
            self.text(&["response", "body"], expected, &body);
        }
    }
}

fn decided(got: &Got) -> Option<Decision> {
    match &got.verdict {
        Ok(None) => Some(Decision::Continue),
        Ok(Some(refusal)) => Some(Decision::Refuse(refusal.status().as_u16())),
        Err(_) => None,
    }
}

fn shown_verdict(got: &Got) -> String {
    let verdict = decided(got).unwrap_or(Decision::Continue);
    match &got.verdict {
        Ok(Some(_)) => format!("{} with {}", decision(verdict), quoted(&body_of(got))),
        _ => decision(verdict).to_string(),
    }
}

fn decision(decision: Decision) -> Value {
    match decision {
        Decision::Continue => "continue".into(),
        Decision::Refuse(status) => i64::from(status).into(),
    }
}

/// The head that `expect.headers` is about.
fn head_of(got: &Got) -> &HeaderMap {
    match &got.verdict {
        Ok(Some(refusal)) => refusal.headers(),
        _ => &got.request.headers,
    }
}

fn body_of(got: &Got) -> String {
    match &got.verdict {
        Ok(Some(refusal)) => String::from_utf8_lossy(refusal.body()).into_owned(),
        _ => String::new(),
    }
}

/// What a head has otherwise than the one before; offers of subprotocols have a key of their own.
fn changed(before: &HeaderMap, after: &HeaderMap) -> Value {
    let mut names: Vec<&HeaderName> = before.keys().chain(after.keys()).collect();
    names.sort_by_key(|name| name.as_str());
    names.dedup();
    let others = names.into_iter().filter(|name| {
        let offers = **name == SEC_WEBSOCKET_PROTOCOL && before.contains_key(*name);
        !offers && values_of(before, name) != values_of(after, name)
    });
    table(others.map(|name| (name.to_string(), field_values(&values_of(after, name)))))
}

fn values_of(headers: &HeaderMap, name: &HeaderName) -> FieldValues {
    let values = headers.get_all(name).iter();
    let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let values: Vec<_> = values.collect();
    match values.is_empty() {
        true => FieldValues::Absent,
        false => FieldValues::Exactly(values),
    }
}

/// All series that have these labels, together.
fn metric(name: &MetricName, counted: &[(MetricName, f64)]) -> f64 {
    let fits = |(series, _): &&(MetricName, f64)| {
        series.name == name.name
            && name
                .labels
                .iter()
                .all(|label| series.labels.contains(label))
    };
    counted.iter().filter(fits).map(|(_, value)| value).sum()
}

/// Of a guest that tells where (`` `keys.ci`: … ``), or of a schema that names the plugin first.
fn begins(reason: &str, expected: &str) -> bool {
    let behind_the_name = reason
        .strip_prefix("plugin `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    reason.starts_with(expected) || behind_the_name.is_some_and(|rest| rest.starts_with(expected))
}

fn moment(milliseconds: u64) -> Moment {
    Moment(std::time::Duration::from_millis(milliseconds))
}

/// The store knows numbers as their digits.
fn text_of(stored: &Stored) -> Option<String> {
    match stored {
        Stored::Absent => None,
        Stored::Text(text) => Some(text.clone()),
        Stored::Number(number) => Some(number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_begins_where_the_plugin_is_named_or_behind() {
        let reason = "plugin `jwt` has no key `isuer`";
        for (expected, fits) in [
            ("plugin `jwt` has", true),
            ("has no key `isuer`", true),
            ("no key", false),
        ] {
            assert_eq!(begins(reason, expected), fits, "{expected}");
        }
        assert!(begins("plugin `jwt`: the value is too long", "the value"));
        assert!(begins("`keys.ci`: is empty", "`keys.ci`: is"));
    }

    #[test]
    fn a_metric_is_the_sum_of_its_series() {
        let named = |name: &str, label: &str| MetricName {
            name: name.to_owned(),
            labels: vec![("why".to_owned(), label.to_owned())],
        };
        let counted = [
            (named("a", "x"), 1.0),
            (named("a", "y"), 2.0),
            (named("b", "x"), 4.0),
        ];
        let all = MetricName {
            name: "a".to_owned(),
            labels: Vec::new(),
        };
        assert_eq!(metric(&all, &counted), 3.0);
        assert_eq!(metric(&named("a", "y"), &counted), 2.0);
        assert_eq!(metric(&named("c", "y"), &counted), 0.0);
    }
}
