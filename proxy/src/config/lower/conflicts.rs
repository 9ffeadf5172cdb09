//! Routes that collide: two that would match the same requests, and one that never matches.
//!
//! The order in the file never decides between routes. What does: the host (exact, then the longest
//! wildcard, then any), the path (exact, then regexes, the longest first, then the longest prefix),
//! the number of header matches, and whether methods are listed. Two routes that are equal in all
//! of this and can match one request are a mistake, and so is a route in whose way a regex stands
//! that matches all its paths. Different regexes are not compared: they may overlap.

use std::collections::HashMap;

use http::Method;

use super::Context;
use super::routes::show_host;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{HeaderMatch, HeaderValueMatch, HostPattern, PathPattern, Route};

/// Reports every route that collides with another, once; of two equal ones the later.
pub(super) fn refuse<'a>(routes: impl Iterator<Item = &'a Route>, cx: &mut Context<'_>) {
    let routes: Vec<&Route> = routes.collect();
    let greedy: Vec<_> = routes
        .iter()
        .filter_map(|route| Greedy::new(route))
        .collect();
    // Only routes with a host and a path in common can tie: large files stay cheap.
    let mut alike: HashMap<_, Vec<&Route>> = HashMap::new();
    for route in routes {
        let any_host = route.hosts.is_empty().then_some(None);
        let places = route.hosts.iter().map(Some).chain(any_host);
        let mut tie = None;
        for host in places {
            let earlier = alike.entry((host, path_key(&route.path))).or_default();
            tie = tie.or_else(|| earlier.iter().find_map(|first| equal(first, route, host)));
            earlier.push(route);
        }
        let collision = tie.or_else(|| greedy.iter().find_map(|other| shadowed(route, other)));
        if let Some(diagnostic) = collision {
            cx.report(diagnostic);
        }
    }
}

/// A route without conditions whose regex matches every path that begins with `taken`.
struct Greedy<'a> {
    route: &'a Route,
    regex: &'a str,
    taken: &'a str,
}

impl<'a> Greedy<'a> {
    fn new(route: &'a Route) -> Option<Self> {
        let PathPattern::Regex(regex) = &route.path else {
            return None;
        };
        let regex = regex.as_str();
        let taken = matches_all_that_begin_with(regex)?;
        let unconditional = route.methods.is_empty() && route.match_headers.is_empty();
        unconditional.then_some(Greedy {
            route,
            regex,
            taken,
        })
    }
}

/// Whether the two, which have `host` and their path in common, tie for some request.
fn equal(first: &Route, second: &Route, host: Option<&HostPattern>) -> Option<Diagnostic> {
    let same_rank = first.match_headers.len() == second.match_headers.len()
        && first.methods.is_empty() == second.methods.is_empty();
    let both = same_rank
        && methods_overlap(&first.methods, &second.methods)
        && !headers_exclude(&first.match_headers, &second.match_headers);
    if !both {
        return None;
    }
    let same_methods = first.methods.len() == second.methods.len()
        && first
            .methods
            .iter()
            .all(|method| second.methods.contains(method));
    let duplicate = same_methods && same_headers(&first.match_headers, &second.match_headers);
    let host = host.map_or(String::new(), |host| format!("`{}` and ", show_host(host)));
    let what = format!("{host}`{}`", path_key(&second.path).1);
    let (message, hint) = if duplicate {
        (
            format!("there already is a route for {what}"),
            "change its host or path, or remove it",
        )
    } else {
        let hint = "make one of them match more, or less: neither is more specific";
        (format!("some requests for {what} match two routes"), hint)
    };
    let diagnostic = Diagnostic::error(second.span.clone(), message).hint(hint.to_owned());
    Some(diagnostic.related(first.span.clone(), "the other one"))
}

/// Whether `other` comes first and takes every request of `route`.
fn shadowed(route: &Route, other: &Greedy<'_>) -> Option<Diagnostic> {
    if !hosts_within(route, other.route) {
        return None;
    }
    let beginning = match &route.path {
        PathPattern::Exact(_) => return None,
        PathPattern::Prefix(prefix) => prefix.as_str(),
        PathPattern::Regex(own) => {
            let own = own.as_str();
            let later = (other.regex.len(), own) > (own.len(), other.regex);
            matches_all_that_begin_with(own).filter(|_| later)?
        }
    };
    if !beginning.starts_with(other.taken) {
        return None;
    }
    let message = format!(
        "no request gets to this route: `{}` matches them all",
        other.regex
    );
    let hint = "regexes come before prefixes, the longest first; narrow the regex".to_owned();
    let diagnostic = Diagnostic::error(route.span.clone(), message).hint(hint);
    Some(diagnostic.related(other.route.span.clone(), "this route takes them"))
}

/// Whether each host pattern of `route` is one of `other`'s.
fn hosts_within(route: &Route, other: &Route) -> bool {
    let is_in = |host: &HostPattern| other.hosts.contains(host);
    route.hosts.is_empty() == other.hosts.is_empty() && route.hosts.iter().all(is_in)
}

fn path_key(path: &PathPattern) -> (u8, &str) {
    match path {
        PathPattern::Exact(path) => (0, path),
        PathPattern::Regex(regex) => (1, regex.as_str()),
        PathPattern::Prefix(path) => (2, path),
    }
}

fn methods_overlap(a: &[Method], b: &[Method]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|method| b.contains(method))
}

/// Whether no request can have both: some field would need two different values.
fn headers_exclude(a: &[HeaderMatch], b: &[HeaderMatch]) -> bool {
    a.iter().any(|a| {
        b.iter()
            .any(|b| a.name == b.name && values_exclude(&a.value, &b.value))
    })
}

fn values_exclude(a: &HeaderValueMatch, b: &HeaderValueMatch) -> bool {
    use HeaderValueMatch::{Exact, Regex};
    match (a, b) {
        (Exact(a), Exact(b)) => a != b,
        (Exact(value), Regex(regex)) | (Regex(regex), Exact(value)) => {
            value.to_str().is_ok_and(|value| !regex.is_match(value))
        }
        _ => false,
    }
}

fn same_headers(a: &[HeaderMatch], b: &[HeaderMatch]) -> bool {
    use HeaderValueMatch::{Exact, Present, Regex};
    let same_value = |a: &HeaderValueMatch, b: &HeaderValueMatch| match (a, b) {
        (Present, Present) => true,
        (Exact(a), Exact(b)) => a == b,
        (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
        _ => false,
    };
    a.len() == b.len()
        && a.iter().all(|a| {
            b.iter()
                .any(|b| a.name == b.name && same_value(&a.value, &b.value))
        })
}

/// The literal of `^literal` or `^literal.*`: such a regex matches every path that begins with it.
fn matches_all_that_begin_with(regex: &str) -> Option<&str> {
    let unanchored = regex.strip_suffix(".*").unwrap_or(regex);
    let literal = match unanchored.strip_prefix('^') {
        Some(literal) => literal,
        None if unanchored.is_empty() => "",
        None => return None,
    };
    regex_syntax_free(literal).then_some(literal)
}

fn regex_syntax_free(text: &str) -> bool {
    !text.contains([
        '\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$', '#',
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regexes_that_take_whole_prefixes() {
        let check = |regex: &str, expected: Option<&str>| {
            assert_eq!(matches_all_that_begin_with(regex), expected, "{regex}");
        };
        check("^/api", Some("/api"));
        check("^/api/.*", Some("/api/"));
        check("^", Some(""));
        check(".*", Some(""));
        check("", Some(""));
        check("^/api$", None);
        check("^/a.i", None);
        check("/api", None);
        check("^/api|^/b", None);
    }
}
