//! Finding the route of a request: the most specific one wins, never the first in the file.
//!
//! Routes are ranked, and the first in rank whose every condition holds is taken:
//!
//! 1. host: exact, then wildcards with the longest suffix first, then routes for any host;
//! 2. path: exact, then regexes (longer pattern text first, ties by text), then prefixes with the
//!    longest first;
//! 3. conditions: more `match_headers` first, then routes with `methods` before those without;
//! 4. the route's name, so that even a tie does not depend on the order of the file.
//!
//! A route whose path, headers or method do not hold is passed over, and the search goes on with
//! less specific paths and then with less specific hosts. A method is refused (405) only if some
//! route would have taken the request but for its method, and none took it.
//!
//! Letters of a path count as they are written. But a route that only refuses, with a 4xx of its own, takes
//! its path in any case, as some servers behind us would; unless another route's path is the same in other
//! letters, which says that here they are two.
//!
//! [`Table::new`] sorts once; [`Table::find`] allocates nothing unless some route refuses the
//! method. Hosts and paths arrive in their one normal form (lower case, no port; decoded dots).

use std::cmp::Reverse;
use std::collections::HashMap;

use http::{HeaderMap, Method};

use crate::config::model::{
    Action, HeaderMatch, HeaderValueMatch, HostPattern, PathPattern, Route,
};

/// All routes, compiled for look-up.
#[derive(Debug)]
pub struct Table {
    exact_hosts: HashMap<String, Paths>,
    /// By suffix (`.example.com`), tried from the longest.
    wildcard_hosts: HashMap<String, Paths>,
    any_host: Paths,
}

/// What [`Table::find`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Index of the route in the slice that the table was made from.
    Route(usize),
    /// Only the method stood in the way; the methods that would not have, each once.
    MethodNotAllowed {
        allow: Vec<Method>,
    },
    NotFound,
}

/// The routes of one host, each list in rank order.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<Candidate>>,
    /// Those of `exact` that take any case.
    exact_any_case: Vec<(String, Candidate)>,
    patterns: Vec<(regex::Regex, Candidate)>,
    prefixes: Vec<(String, Candidate)>,
}

/// A route and the conditions that are not its host or path.
#[derive(Debug, Clone)]
struct Candidate {
    route: usize,
    methods: Vec<Method>,
    headers: Vec<HeaderMatch>,
    /// Its path is matched in upper and lower case alike.
    any_case: bool,
}

impl Table {
    /// Ranks the routes of one configuration.
    pub fn new(routes: &[Route]) -> Self {
        let mut ranked: Vec<usize> = (0..routes.len()).collect();
        ranked.sort_by(|&a, &b| rank(&routes[a]).cmp(&rank(&routes[b])));
        let mut table = Self {
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            any_host: Paths::default(),
        };
        for index in ranked {
            let route = &routes[index];
            let any_case = takes_any_case(route, routes);
            if route.hosts.is_empty() {
                table.any_host.add(index, route, any_case);
            }
            for host in &route.hosts {
                match host {
                    HostPattern::Exact(name) => table.exact_hosts.entry(name.clone()),
                    HostPattern::Wildcard(suffix) => table.wildcard_hosts.entry(suffix.clone()),
                }
                .or_default()
                .add(index, route, any_case);
            }
        }
        table
    }

    /// Finds the route of a request by the rules of this module.
    ///
    /// `HEAD` is taken by a route for `GET`.
    pub fn find(&self, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Match {
        let mut refused = Vec::new();
        let found = self
            .candidates(host, path)
            .filter(|candidate| {
                candidate
                    .headers
                    .iter()
                    .all(|want| header_holds(want, headers))
            })
            .find(|candidate| {
                let taken = candidate.takes(method);
                if !taken {
                    refused.push(*candidate);
                }
                taken
            });
        match found {
            Some(candidate) => Match::Route(candidate.route),
            None if refused.is_empty() => Match::NotFound,
            None => Match::MethodNotAllowed {
                allow: allowed(&refused),
            },
        }
    }

    /// Every route whose host and path hold, in rank order.
    fn candidates<'a>(
        &'a self,
        host: &'a str,
        path: &'a str,
    ) -> impl Iterator<Item = &'a Candidate> {
        // Each dot but a leading one starts a suffix; the leftmost gives the longest.
        let dotted = match self.wildcard_hosts.is_empty() {
            true => "",
            false => host,
        };
        let wildcards = dotted
            .match_indices('.')
            .filter(|&(dot, _)| dot > 0)
            .filter_map(|(dot, _)| self.wildcard_hosts.get(&host[dot..]));
        self.exact_hosts
            .get(host)
            .into_iter()
            .chain(wildcards)
            .chain([&self.any_host])
            .flat_map(move |paths| paths.candidates(path))
    }
}

impl Paths {
    /// Routes come in rank order, so each list ends up in rank order.
    fn add(&mut self, index: usize, route: &Route, any_case: bool) {
        let candidate = Candidate {
            route: index,
            methods: route.methods.clone(),
            headers: route.match_headers.clone(),
            any_case,
        };
        match &route.path {
            PathPattern::Exact(path) => {
                if any_case {
                    let candidate = candidate.clone();
                    self.exact_any_case.push((path.clone(), candidate));
                }
                self.exact.entry(path.clone()).or_default().push(candidate);
            }
            PathPattern::Regex(regex) => self.patterns.push((regex.clone(), candidate)),
            PathPattern::Prefix(prefix) => self.prefixes.push((prefix.clone(), candidate)),
        }
    }

    fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Candidate> {
        let exact = self.exact.get(path).into_iter().flatten();
        let other_case = move |written: &str| written != path && written.eq_ignore_ascii_case(path);
        let exact_any_case = self
            .exact_any_case
            .iter()
            .filter(move |(written, _)| other_case(written));
        let patterns = self
            .patterns
            .iter()
            .filter(move |(regex, _)| regex.is_match(path));
        // The list is ordered by length: what is longer than the path cannot be its prefix.
        let start = self
            .prefixes
            .partition_point(|(prefix, _)| prefix.len() > path.len());
        let prefixes = self.prefixes[start..]
            .iter()
            .filter(move |(prefix, candidate)| {
                let start = &path.as_bytes()[..prefix.len()];
                start == prefix.as_bytes()
                    || candidate.any_case && start.eq_ignore_ascii_case(prefix.as_bytes())
            });
        exact
            .chain(exact_any_case.map(|(_, candidate)| candidate))
            .chain(patterns.map(|(_, candidate)| candidate))
            .chain(prefixes.map(|(_, candidate)| candidate))
    }
}

impl Candidate {
    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty()
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}

/// Whether a route refuses what it takes, and no other route tells its path from one in other letters.
fn takes_any_case(route: &Route, routes: &[Route]) -> bool {
    let refuses =
        matches!(&route.action, Action::Respond { status, .. } if status.is_client_error());
    let written = route.path.literal();
    let differs = |other: &Route| match (written, other.path.literal()) {
        (Some(path), Some(other)) => path != other && path.eq_ignore_ascii_case(other),
        _ => false,
    };
    refuses && written.is_some() && !routes.iter().any(differs)
}

/// Order within one host: smaller is more specific.
fn rank(route: &Route) -> impl Ord + '_ {
    let (kind, text) = match &route.path {
        PathPattern::Exact(path) => (0, path.as_str()),
        PathPattern::Regex(regex) => (1, regex.as_str()),
        PathPattern::Prefix(prefix) => (2, prefix.as_str()),
    };
    (
        kind,
        Reverse(text.len()),
        text,
        Reverse(route.match_headers.len()),
        route.methods.is_empty(),
        &*route.name,
    )
}

/// Whether some value of the field is as wanted.
fn header_holds(want: &HeaderMatch, headers: &HeaderMap) -> bool {
    headers
        .get_all(&want.name)
        .iter()
        .any(|value| match &want.value {
            HeaderValueMatch::Present => true,
            HeaderValueMatch::Exact(exact) => value == exact,
            HeaderValueMatch::Regex(regex) => {
                std::str::from_utf8(value.as_bytes()).is_ok_and(|text| regex.is_match(text))
            }
        })
}

fn allowed(refused: &[&Candidate]) -> Vec<Method> {
    let mut allow: Vec<Method> = Vec::new();
    for method in refused.iter().flat_map(|candidate| &candidate.methods) {
        let implied = (method == Method::GET).then_some(&Method::HEAD);
        for method in [Some(method), implied].into_iter().flatten() {
            if !allow.contains(method) {
                allow.push(method.clone());
            }
        }
    }
    allow
}

#[cfg(test)]
mod tests;
