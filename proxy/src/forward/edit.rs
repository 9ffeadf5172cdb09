//! What a route's configuration changes: header edits, templates, path rewriting.
//!
//! Values come from the request, so a rendered text is untrusted: it becomes a field value only if
//! it is one, never by escaping, and a rewritten path goes through the normal form again.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderValue};
use thiserror::Error;

use super::is_protected;
use crate::config::model::{HeaderEdits, Rewrite, Template, TemplatePart, Variable};
use crate::facts::{ConnectionFacts, RequestFacts};
use crate::request::{PathFault, normal_path};

/// What the variables of a template stand for.
#[derive(Debug, Clone, Copy)]
pub struct TemplateValues<'a> {
    pub facts: &'a RequestFacts,
    pub conn: &'a ConnectionFacts,
    /// The route's name.
    pub route: &'a str,
}

/// Why a path could not be rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the rewritten path is refused: {0}")]
pub struct RewriteFault(#[from] pub PathFault);

/// The text of a template. Without a value a variable is empty.
pub fn render(template: &Template, values: &TemplateValues<'_>) -> String {
    template
        .parts
        .iter()
        .map(|part| render_part(part, values))
        .collect()
}

/// Applies a route's edits: removals, then `set`, then `add`.
///
/// Protected fields stay as they are. A rendered value that no field can hold (a line end, a
/// control character) leaves its field out: with `set` the old value is gone too, so that a client
/// cannot keep its own by making ours invalid.
pub fn apply_edits(edits: &HeaderEdits, headers: &mut HeaderMap, values: &TemplateValues<'_>) {
    for name in edits.remove.iter().filter(|name| !is_protected(name)) {
        headers.remove(name);
    }
    for (name, template) in edits.set.iter().filter(|(name, _)| !is_protected(name)) {
        match HeaderValue::from_bytes(render(template, values).as_bytes()) {
            Ok(value) => headers.insert(name, value),
            Err(_) => headers.remove(name),
        };
    }
    for (name, template) in edits.add.iter().filter(|(name, _)| !is_protected(name)) {
        if let Ok(value) = HeaderValue::from_bytes(render(template, values).as_bytes()) {
            headers.append(name, value);
        }
    }
}

/// The path as the route's rewrite makes it, again in normal form. A prefix or pattern that does
/// not match changes nothing, and `*` (OPTIONS) stays; a missing first slash is put back.
pub fn rewrite_path(rewrite: &Rewrite, path: &str) -> Result<String, RewriteFault> {
    if path == "*" {
        return Ok(path.to_owned());
    }
    let rewritten = match rewrite {
        Rewrite::StripPrefix(prefix) => {
            Cow::from(path.strip_prefix(prefix.as_str()).unwrap_or(path))
        }
        Rewrite::Regex { regex, to } => regex.replace(path, to.as_str()),
    };
    let rooted = match rewritten.starts_with('/') {
        true => rewritten,
        false => Cow::from(format!("/{rewritten}")),
    };
    Ok(normal_path(&rooted)?.into_owned())
}

/// The Location of a redirect; `None` if what was rendered is no field value.
///
/// The path in it is in normal form and so never starts with two slashes: `{path}` alone cannot
/// lead to another host.
pub fn redirect_location(to: &Template, values: &TemplateValues<'_>) -> Option<HeaderValue> {
    HeaderValue::from_str(&render(to, values)).ok()
}

fn render_part<'a>(part: &'a TemplatePart, values: &TemplateValues<'a>) -> Cow<'a, str> {
    let facts = values.facts;
    match part {
        TemplatePart::Literal(text) => Cow::from(text.as_str()),
        TemplatePart::Variable(variable) => match variable {
            Variable::Host => Cow::from(&*facts.host),
            Variable::Path => Cow::from(facts.place()),
            Variable::Query => match facts.query.as_deref() {
                Some(query) => Cow::from(format!("?{query}")),
                None => Cow::from(""),
            },
            Variable::Scheme => Cow::from(facts.scheme),
            Variable::ClientIp => Cow::from(facts.client_ip.to_string()),
            Variable::RequestId => Cow::from(&*facts.request_id),
            Variable::TlsSubject => {
                let tls = values.conn.tls.as_ref();
                Cow::from(
                    tls.and_then(|tls| tls.client_subject.as_deref())
                        .unwrap_or_default(),
                )
            }
            Variable::Route => Cow::from(values.route),
        },
    }
}
