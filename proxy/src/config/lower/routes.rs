//! Routes: one action each, a path pattern, and everything that must fit together.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};
use regex::Regex;

use super::plugins::Plugins;
use super::upstreams::Upstreams;
use super::{BODY_RATE, Context, conflicts, entries, number, rate, tunnels};
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{
    Action, HeaderEdits, HeaderMatch, HostPattern, Located, PathPattern, Rewrite, Route,
    RouteTimeouts, Span, Template,
};
use crate::config::reader::{Field, Named, Read, Text, Whole};
use crate::config::schema;
use crate::config::values::{HeaderTemplate, NormalPath};

/// What counts on routes that say nothing else.
#[derive(Clone, Copy)]
struct Defaults {
    timeouts: RouteTimeouts,
    message_size: Option<u64>,
    body_rate: Option<NonZeroU64>,
}

/// All routes; `None` if one of them has mistakes or collides with another.
pub(super) fn lower(
    file: &schema::File,
    timeouts: RouteTimeouts,
    upstreams: &mut Upstreams,
    plugins: &mut Plugins,
    cx: &mut Context<'_>,
) -> Option<Vec<Route>> {
    let written = entries(&file.route)?;
    if written.is_empty() {
        cx.report(
            Diagnostic::missing("there is no route")
                .hint("add `[[route]]` with `to = \"127.0.0.1:3000\"`".to_owned()),
        );
        return None;
    }
    refuse_equal_names(written, cx);
    let limits = file.limits.value();
    let message_size = limits.and_then(|limits| limits.message_size.value());
    let defaults = Defaults {
        timeouts,
        message_size: message_size.map(|size| size.0),
        body_rate: limits
            .and_then(|limits| rate(&limits.body_rate))
            .unwrap_or(BODY_RATE.0),
    };
    let routes: Vec<_> = written
        .iter()
        .map(|field| {
            let given = field.given()?;
            lower_route(&given.value, &given.span, defaults, upstreams, plugins, cx)
        })
        .collect();
    conflicts::refuse(routes.iter().flatten(), cx);

    let mut routes: Vec<Route> = routes.into_iter().collect::<Option<_>>()?;
    name_the_nameless(&mut routes);
    Some(routes)
}

fn lower_route(
    written: &schema::Route,
    span: &Span,
    defaults: Defaults,
    upstreams: &mut Upstreams,
    plugins: &mut Plugins,
    cx: &mut Context<'_>,
) -> Option<Route> {
    let path = path(written, cx);
    let action = action(written, span, path.as_ref(), upstreams, cx);
    let request_headers = header_edits(&written.request_headers, true, cx);
    let response_headers = header_edits(&written.response_headers, false, cx);
    let plugins = plugins.chain(written, cx);
    let match_headers = match_headers(written, cx);
    let hosts = all(&written.host, "host", cx);
    let methods = all(&written.methods, "methods", cx);
    let origins = all(&written.origins, "origins", cx);
    let expiry_close_code = expiry_close_code(&written.expiry_close_code, cx);
    let tunnel = tunnels::lower(written, defaults.message_size, cx);
    let Defaults { timeouts, .. } = defaults;
    Some(Route {
        // Empty until all routes are there: see `name_the_nameless`.
        name: written
            .name
            .value()
            .map_or_else(|| Arc::from(""), |name| Arc::from(name.0.as_str())),
        hosts: hosts?,
        path: path?,
        methods: methods?,
        match_headers: match_headers?,
        action: action?,
        request_headers: request_headers?,
        response_headers: response_headers?,
        origins: origins?,
        plugins: plugins?,
        timeouts: RouteTimeouts {
            connect: written.connect.value().copied().unwrap_or(timeouts.connect),
            response_head: written
                .response_head
                .value()
                .copied()
                .unwrap_or(timeouts.response_head),
            idle_timeout: written
                .idle_timeout
                .value()
                .copied()
                .unwrap_or(timeouts.idle_timeout),
            drain: written.drain.value().copied().unwrap_or(timeouts.drain),
        },
        body_rate: rate(&written.body_rate).unwrap_or(defaults.body_rate),
        tunnel,
        expiry_close_code: expiry_close_code?,
        span: span.clone(),
    })
}

fn expiry_close_code(written: &Field<Whole<1000, 4999>>, cx: &mut Context<'_>) -> Option<u16> {
    let code = number(written, EXPIRY_CLOSE_CODE);
    // Others are reserved, or would blame somebody (RFC 6455 §7.4).
    let sensible = matches!(code, 1000 | 1001 | 1008 | 1011..=1014 | 3000..=4999);
    if let Some(given) = written.given()
        && !sensible
    {
        let message = format!("`{code}` does not say that a session has expired");
        let hint = "1008, or one of your own from 4000 to 4999".to_owned();
        cx.report(Diagnostic::error(given.span.clone(), message).hint(hint));
        return None;
    }
    u16::try_from(code).ok()
}

/// Every entry of an array that, if it is there, says something.
fn all<L, T>(field: &Field<L>, key: &str, cx: &mut Context<'_>) -> Option<Vec<T::Out>>
where
    T: Read,
    T::Out: Clone,
    L: Read<Out = Vec<Field<T>>>,
{
    if let Some(given) = field.given()
        && given.value.is_empty()
    {
        let message = format!("an empty `{key}` would match nothing");
        let hint = "leave the key out to match any".to_owned();
        cx.report(Diagnostic::error(given.span.clone(), message).hint(hint));
        return None;
    }
    entries(field)?
        .iter()
        .map(|entry| entry.value().cloned())
        .collect()
}

fn path(written: &schema::Route, cx: &mut Context<'_>) -> Option<PathPattern> {
    let (prefix, exact, regex) = (&written.path, &written.path_exact, &written.path_regex);
    let spans = [
        prefix.given().map(|path| &path.span),
        exact.given().map(|path| &path.span),
        regex.given().map(|path| &path.span),
    ];
    let mut given = spans.into_iter().flatten();
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        let message = "a route has one path";
        let hint = "keep one of `path`, `path_exact` and `path_regex`".to_owned();
        let mistake = Diagnostic::error(second.clone(), message).hint(hint);
        cx.report(mistake.related(first.clone(), "the other one"));
        return None;
    }
    match (prefix, exact, regex) {
        (Field::Absent, Field::Absent, Field::Absent) => Some(PathPattern::Prefix("/".to_owned())),
        (Field::Given(path), _, _) => Some(PathPattern::Prefix(path.value.0.clone())),
        (_, Field::Given(path), _) => Some(PathPattern::Exact(path.value.0.clone())),
        (_, _, Field::Given(path)) => Some(PathPattern::Regex(path.value.clone())),
        _ => None,
    }
}

fn action(
    written: &schema::Route,
    span: &Span,
    path: Option<&PathPattern>,
    upstreams: &mut Upstreams,
    cx: &mut Context<'_>,
) -> Option<Action> {
    let rewrite = rewrite(written, path, cx);
    let to = written.to.given().map(|to| upstreams.resolve(to, cx));

    let choices = [
        (
            !written.to.is_absent(),
            written.to.given().map(|to| &to.span),
        ),
        (
            !written.respond.is_absent(),
            written.respond.given().map(|respond| &respond.span),
        ),
        (
            !written.redirect.is_absent(),
            written.redirect.given().map(|redirect| &redirect.span),
        ),
    ];
    let chosen: Vec<_> = choices.iter().filter(|(there, _)| *there).collect();
    match chosen.as_slice() {
        [] => {
            let hint = "add one of `to`, `respond` and `redirect`".to_owned();
            cx.report(Diagnostic::error(span.clone(), "this route does nothing").hint(hint));
            return None;
        }
        [_] => {}
        [first, second, ..] => {
            let at = second.1.unwrap_or(span).clone();
            let hint = "keep one of `to`, `respond` and `redirect`".to_owned();
            let mut mistake = Diagnostic::error(at, "a route does one thing").hint(hint);
            if let Some(first) = first.1 {
                mistake = mistake.related(first.clone(), "the other one");
            }
            cx.report(mistake);
            return None;
        }
    }
    if written.to.is_absent() {
        let strip = written
            .strip_prefix
            .given()
            .map(|given| (&given.span, "strip_prefix"));
        let rewrite = written
            .rewrite
            .given()
            .map(|given| (&given.span, "rewrite"));
        for (span, key) in [strip, rewrite].into_iter().flatten() {
            let message = format!("`{key}` changes nothing on a route without `to`");
            cx.report(Diagnostic::error(span.clone(), message));
        }
    }
    if let Some(upstream) = to {
        return Some(Action::Forward {
            upstream: upstream?,
            rewrite: rewrite?,
        });
    }
    match (&written.respond, &written.redirect) {
        (Field::Given(respond), _) => lower_respond(&respond.value, cx),
        (_, Field::Given(redirect)) => lower_redirect(&redirect.value, cx),
        _ => None,
    }
}

fn lower_respond(written: &schema::Respond, cx: &mut Context<'_>) -> Option<Action> {
    let number = number(&written.status, 200);
    let status = u16::try_from(number)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())?;
    let body = written.body.value().map_or("", String::as_str);
    let bodiless = [
        StatusCode::NO_CONTENT,
        StatusCode::RESET_CONTENT,
        StatusCode::NOT_MODIFIED,
    ];
    if let Some(given) = written.body.given()
        && bodiless.contains(&status)
        && !body.is_empty()
    {
        let message = format!("a response with status {number} has no body");
        cx.report(Diagnostic::error(given.span.clone(), message));
    }
    let content_type = written.content_type.value().cloned();
    Some(Action::Respond {
        status,
        body: Arc::from(body),
        content_type: content_type.unwrap_or(HeaderValue::from_static(CONTENT_TYPE)),
    })
}

fn lower_redirect(written: &schema::Redirect, cx: &mut Context<'_>) -> Option<Action> {
    let number = number(&written.status, 308);
    if !REDIRECTS.contains(&number) {
        let at = written.status.given()?.span.clone();
        let message = format!("a response with status {number} sends nobody elsewhere");
        let hint = "one of 301, 302, 303, 307 and 308".to_owned();
        cx.report(Diagnostic::error(at, message).hint(hint));
        return None;
    }
    let status = u16::try_from(number)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok())?;
    Some(Action::Redirect {
        to: written.to.value()?.0.clone(),
        status,
    })
}

/// `None` on a mistake, `Some(None)` without a rewrite.
fn rewrite(
    written: &schema::Route,
    path: Option<&PathPattern>,
    cx: &mut Context<'_>,
) -> Option<Option<Rewrite>> {
    if let (Some(strip), Some(rewrite)) = (written.strip_prefix.given(), written.rewrite.given()) {
        let message = "`strip_prefix` and `rewrite` exclude each other";
        let hint = "a regex that begins with `^/prefix` can do both".to_owned();
        let mistake = Diagnostic::error(rewrite.span.clone(), message).hint(hint);
        cx.report(mistake.related(strip.span.clone(), "the other one"));
    }
    match (&written.strip_prefix, &written.rewrite) {
        (Field::Mistaken, _) | (_, Field::Mistaken) => None,
        (Field::Absent, Field::Absent) => Some(None),
        (Field::Given(prefix), _) => strip_prefix(prefix, path, cx).map(Some),
        (_, Field::Given(rewrite)) => {
            let regex = rewrite.value.regex.value();
            let to = rewrite.value.to.given();
            if let (Some(regex), Some(to)) = (regex, to) {
                refuse_unknown_groups(regex, to, cx);
            }
            Some(Some(Rewrite::Regex {
                regex: regex?.clone(),
                to: to?.value.clone(),
            }))
        }
    }
}

fn strip_prefix(
    prefix: &Located<NormalPath>,
    path: Option<&PathPattern>,
    cx: &mut Context<'_>,
) -> Option<Rewrite> {
    let text = &prefix.value.0;
    let (matched, hint) = match path? {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => (
            path.starts_with(text.as_str()),
            format!("the route's path is `{path}`"),
        ),
        PathPattern::Regex(_) => (false, "use `rewrite` with `path_regex`".to_owned()),
    };
    if !matched {
        let message = format!("not every path of this route begins with `{text}`");
        cx.report(Diagnostic::error(prefix.span.clone(), message).hint(hint));
    }
    Some(Rewrite::StripPrefix(text.clone()))
}

/// The regex crate would silently replace an unknown group by nothing.
fn refuse_unknown_groups(regex: &Regex, to: &Located<String>, cx: &mut Context<'_>) {
    let mut rest = to.value.as_str();
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let name = match rest.strip_prefix('{') {
            Some(braced) => braced.split('}').next().unwrap_or(""),
            None => {
                let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                &rest[..rest.find(|c| !part(c)).unwrap_or(rest.len())]
            }
        };
        let known = match name.parse::<usize>() {
            Ok(number) => number < regex.captures_len(),
            Err(_) => regex.capture_names().flatten().any(|known| known == name),
        };
        if !known {
            let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let hint = match (name, digits) {
                ("", _) => "a dollar sign itself is written `$$`".to_owned(),
                (_, 1..) if digits < name.len() => {
                    format!(
                        "did you mean `${{{}}}{}`?",
                        &name[..digits],
                        &name[digits..]
                    )
                }
                _ => format!("the groups go from `$0` to `${}`", regex.captures_len() - 1),
            };
            let message = format!("the regex has no group `{}`", name.escape_debug());
            cx.report(Diagnostic::error(to.span.clone(), message).hint(hint));
        }
    }
}

fn match_headers(written: &schema::Route, cx: &mut Context<'_>) -> Option<Vec<HeaderMatch>> {
    let written = match &written.match_headers {
        Field::Absent => return Some(Vec::new()),
        Field::Mistaken => return None,
        Field::Given(headers) => &headers.value,
    };
    refuse_equal_headers(written, cx);
    written
        .iter()
        .map(|(name, value)| {
            Some(HeaderMatch {
                name: name.value.clone(),
                value: value.value()?.clone(),
            })
        })
        .collect()
}

fn header_edits(
    written: &Field<schema::HeaderEdits>,
    of_request: bool,
    cx: &mut Context<'_>,
) -> Option<HeaderEdits> {
    let written = match written {
        Field::Absent => return Some(HeaderEdits::default()),
        Field::Mistaken => return None,
        Field::Given(edits) => &edits.value,
    };
    for edits in [&written.set, &written.add] {
        let edits = edits.value().map(Vec::as_slice).unwrap_or_default();
        refuse_equal_headers(edits, cx);
        for (name, _) in edits {
            refuse_protected(name, cx);
        }
    }
    let removed: Vec<_> = entries(&written.remove)?
        .iter()
        .filter_map(Field::given)
        .collect();
    for name in &removed {
        refuse_protected(name, cx);
    }
    let added = written
        .add
        .value()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    for name in added.chain(removed.iter().copied()) {
        if of_request && name.value == header::HOST {
            let message = "a request has exactly one Host";
            let hint = "`set` replaces it".to_owned();
            cx.report(Diagnostic::error(name.span.clone(), message).hint(hint));
        }
    }
    Some(HeaderEdits {
        remove: removed.into_iter().map(|name| name.value.clone()).collect(),
        set: templates(&written.set)?,
        add: templates(&written.add)?,
    })
}

fn templates(
    written: &Field<Named<HeaderName, Text<HeaderTemplate>>>,
) -> Option<Vec<(HeaderName, Template)>> {
    let edits = match written {
        Field::Absent => return Some(Vec::new()),
        Field::Mistaken => return None,
        Field::Given(edits) => &edits.value,
    };
    edits
        .iter()
        .map(|(name, value)| Some((name.value.clone(), value.value()?.0.clone())))
        .collect()
}

/// Header names are compared without case, which TOML keys are not.
fn refuse_equal_headers<T: Read>(
    entries: &[(Located<HeaderName>, Field<T>)],
    cx: &mut Context<'_>,
) {
    let mut seen: HashMap<&HeaderName, &Span> = HashMap::new();
    for (name, _) in entries {
        if let Some(first) = seen.insert(&name.value, &name.span) {
            let message = format!("`{}` is here twice", name.value);
            let mistake = Diagnostic::error(name.span.clone(), message);
            cx.report(mistake.related(first.clone(), "first here"));
        }
    }
}

fn refuse_protected(name: &Located<HeaderName>, cx: &mut Context<'_>) {
    let text = name.value.as_str();
    if PROTECTED.contains(&text) || text.starts_with("sec-websocket-") {
        let message = format!("`{text}` cannot be edited");
        let hint = "the proxy itself answers for framing and for the upgrade".to_owned();
        cx.report(Diagnostic::error(name.span.clone(), message).hint(hint));
    }
}

fn refuse_equal_names(routes: &[Field<schema::Route>], cx: &mut Context<'_>) {
    let mut seen: HashMap<&str, &Span> = HashMap::new();
    for name in routes
        .iter()
        .filter_map(|route| route.value()?.name.given())
    {
        if let Some(first) = seen.insert(&name.value.0, &name.span) {
            let message = format!("two routes are named `{}`", name.value.0);
            let mistake = Diagnostic::error(name.span.clone(), message);
            cx.report(mistake.related(first.clone(), "the other one"));
        }
    }
}

/// Names the other routes by host and path, and by a number where that is not enough.
fn name_the_nameless(routes: &mut [Route]) {
    let mut taken: HashSet<Arc<str>> = routes.iter().map(|route| Arc::clone(&route.name)).collect();
    for route in routes.iter_mut().filter(|route| route.name.is_empty()) {
        let base = host_and_path(route);
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(Arc::from(name.as_str())) {
            name = format!("{base} #{number}");
            number += 1;
        }
        route.name = Arc::from(name);
    }
}

fn host_and_path(route: &Route) -> String {
    let hosts: Vec<String> = route.hosts.iter().map(show_host).collect();
    let path = match &route.path {
        PathPattern::Exact(path) => format!("={path}"),
        PathPattern::Prefix(path) => path.clone(),
        PathPattern::Regex(regex) => format!("~{regex}"),
    };
    format!("{}{path}", hosts.join(","))
}

/// A host as the user writes it.
pub(super) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}"),
    }
}

const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
/// Policy violation.
const EXPIRY_CLOSE_CODE: u32 = 1008;
const REDIRECTS: &[u32] = &[301, 302, 303, 307, 308];
/// Fields of one connection or of the message's framing (RFC 9110 §7.6.1, RFC 9112 §6).
const PROTECTED: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
