//! The table against examples, and against a model too simple to be wrong.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::config::model::{Action, HeaderEdits, RouteTimeouts};

fn route(name: &str, hosts: &[&str], path: PathPattern) -> Route {
    Route {
        name: name.into(),
        hosts: hosts.iter().map(|host| host_pattern(host)).collect(),
        path,
        methods: Vec::new(),
        match_headers: Vec::new(),
        action: Action::Respond {
            status: StatusCode::OK,
            body: Arc::from(""),
            content_type: HeaderValue::from_static("text/plain"),
        },
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        origins: Vec::new(),
        plugins: Vec::new(),
        tunnel: Default::default(),
        expiry_close_code: 1008,
        body_rate: None,
        timeouts: RouteTimeouts {
            connect: Duration::ZERO,
            response_head: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            drain: Duration::ZERO,
        },
        span: 0..0,
    }
}

fn host_pattern(text: &str) -> HostPattern {
    match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
        None => HostPattern::Exact(text.to_owned()),
    }
}

/// `=` exact, `~` regex, else prefix.
fn path_pattern(text: &str) -> PathPattern {
    match text.split_at(1) {
        ("=", path) => PathPattern::Exact(path.to_owned()),
        ("~", regex) => PathPattern::Regex(Regex::new(regex).unwrap()),
        _ => PathPattern::Prefix(text.to_owned()),
    }
}

fn simple(hosts: &[&str], path: &str) -> Route {
    route(&format!("{hosts:?} {path}"), hosts, path_pattern(path))
}

fn header(name: &'static str, value: HeaderValueMatch) -> HeaderMatch {
    HeaderMatch {
        name: HeaderName::from_static(name),
        value,
    }
}

fn refusing(path: &str) -> Route {
    let mut route = simple(&[], path);
    if let Action::Respond { status, .. } = &mut route.action {
        *status = StatusCode::FORBIDDEN;
    }
    route
}

#[test]
fn a_route_that_refuses_takes_its_path_in_any_case() {
    #[track_caller]
    fn check(routes: &[Route], path: &str, expect: usize) {
        let found = Table::new(routes).find("a", path, &Method::GET, &HeaderMap::new());
        assert_eq!(found, Match::Route(expect), "{path}");
    }
    let routes = [
        simple(&[], "/"),
        refusing("/admin"),
        refusing("=/Key"),
        simple(&[], "/admin/open"),
        simple(&[], "=/ADMIN/one"),
    ];
    for (path, expect) in [
        ("/admin/x", 1),
        ("/ADMIN", 1),
        ("/aDmIn/x", 1),
        ("/adm", 0),
        ("/key", 2),
        ("/KEY", 2),
        ("/keys", 0),
        ("/admin/open", 3),
        ("/admin/OPEN", 1),
        ("/ADMIN/one", 4),
        ("/ADMIN/two", 1),
    ] {
        check(&routes, path, expect);
    }
    // Here the two are told apart.
    let routes = [simple(&[], "/"), refusing("/admin"), simple(&[], "/Admin")];
    for (path, expect) in [("/admin", 1), ("/Admin", 2), ("/ADMIN", 0)] {
        check(&routes, path, expect);
    }
    // Only what refuses.
    let routes = [simple(&[], "/"), simple(&[], "/ws")];
    check(&routes, "/WS", 0);
}

#[test]
fn the_most_specific_route_wins_in_any_order() {
    let mut routes = vec![
        simple(&[], "/"),
        simple(&["*.example.com"], "/"),
        simple(&["*.eu.example.com"], "/"),
        simple(&["a.eu.example.com"], "/only/"),
        simple(&["b.test", "c.test"], "/"),
        simple(&["b.test"], "/ws"),
        simple(&["b.test"], "=/ws/one"),
        simple(&["b.test"], "~^/ws/[a-z]+$"),
        simple(&["b.test"], "~^/ws/"),
        simple(&["b.test"], "/ws/two/long/prefix"),
    ];
    let cases = [
        ("unknown.test", "/x", "[] /"),
        ("example.com", "/", "[] /"),
        ("x.example.com", "/", "[\"*.example.com\"] /"),
        ("x.y.example.com", "/", "[\"*.example.com\"] /"),
        ("x.eu.example.com", "/", "[\"*.eu.example.com\"] /"),
        (
            "a.eu.example.com",
            "/only/1",
            "[\"a.eu.example.com\"] /only/",
        ),
        // The exact host has no such path: less specific hosts are asked.
        ("a.eu.example.com", "/else", "[\"*.eu.example.com\"] /"),
        (".example.com", "/", "[] /"),
        ("c.test", "/ws/one", "[\"b.test\", \"c.test\"] /"),
        ("b.test", "/ws/one", "[\"b.test\"] =/ws/one"),
        ("b.test", "/ws/two", "[\"b.test\"] ~^/ws/[a-z]+$"),
        ("b.test", "/ws/2", "[\"b.test\"] ~^/ws/"),
        ("b.test", "/wsx", "[\"b.test\"] /ws"),
        ("b.test", "/ws/two/long/prefix/1", "[\"b.test\"] ~^/ws/"),
        ("b.test", "/WS", "[\"b.test\", \"c.test\"] /"),
    ];
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        let table = Table::new(&routes);
        for (host, path, expected) in cases {
            match table.find(host, path, &Method::GET, &HeaderMap::new()) {
                Match::Route(index) => assert_eq!(&*routes[index].name, expected, "{host}{path}"),
                other => panic!("{host}{path}: {other:?}"),
            }
        }
    }
}

#[test]
fn methods_and_headers_are_conditions() {
    let with = |name: &str, path: &str, methods: &[Method], headers: Vec<HeaderMatch>| {
        let mut made = route(name, &["a.test"], path_pattern(path));
        made.methods = methods.to_vec();
        made.match_headers = headers;
        made
    };
    let version = |value| vec![header("x-version", value)];
    let two = Regex::new("^2").unwrap();
    let routes = [
        with("get", "/api", &[Method::GET], vec![]),
        with("post", "/api", &[Method::POST, Method::GET], vec![]),
        with(
            "exact",
            "/v",
            &[],
            version(HeaderValueMatch::Exact("1".parse().unwrap())),
        ),
        with(
            "regex",
            "/v",
            &[Method::GET],
            version(HeaderValueMatch::Regex(two)),
        ),
        with("present", "/v/", &[], version(HeaderValueMatch::Present)),
        with("rest", "/v", &[], vec![]),
        with(
            "put",
            "/p",
            &[Method::PUT],
            version(HeaderValueMatch::Present),
        ),
    ];
    let table = Table::new(&routes);
    let check = |method: Method, path: &str, version: &[&'static str], expected: &str| {
        let mut headers = HeaderMap::new();
        for version in version {
            headers.append("x-version", HeaderValue::from_static(version));
        }
        let shown = match table.find("a.test", path, &method, &headers) {
            Match::Route(index) => routes[index].name.to_string(),
            Match::MethodNotAllowed { allow } => {
                let allow: Vec<_> = allow.iter().map(Method::as_str).collect();
                format!("405 {}", allow.join(" "))
            }
            Match::NotFound => "404".to_owned(),
        };
        assert_eq!(shown, expected, "{method} {path} {version:?}");
    };
    check(Method::GET, "/api", &[], "get");
    check(Method::HEAD, "/api", &[], "get");
    check(Method::POST, "/api", &[], "post");
    check(Method::PUT, "/api", &[], "405 GET HEAD POST");
    check(Method::PUT, "/none", &[], "404");
    check(Method::GET, "/v/1", &[], "rest");
    check(Method::GET, "/v/1", &["9"], "present");
    check(Method::GET, "/v", &["1"], "exact");
    check(Method::GET, "/v", &["0", "1"], "exact");
    check(Method::GET, "/v", &["2.1"], "regex");
    check(Method::POST, "/v", &["2.1"], "rest");
    // The method would be wrong too, but the header already rules the route out.
    check(Method::GET, "/p", &[], "404");
    check(Method::GET, "/p", &["1"], "405 PUT");
}

/// The rules once more, as a sort of everything that matches.
fn naive(
    routes: &[Route],
    host: &str,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Arc<str>> {
    let mut matching = Vec::new();
    for route in routes {
        let hosts: Vec<(u8, usize)> = match &route.hosts[..] {
            [] => vec![(2, 0)],
            hosts => hosts
                .iter()
                .filter_map(|pattern| match pattern {
                    HostPattern::Exact(name) => (name == host).then_some((0, 0)),
                    HostPattern::Wildcard(suffix) => (host.ends_with(suffix)
                        && host.len() > suffix.len())
                    .then_some((1, usize::MAX - suffix.len())),
                })
                .collect(),
        };
        let holds = match &route.path {
            PathPattern::Exact(exact) => path == exact,
            PathPattern::Prefix(prefix) => path.starts_with(prefix),
            PathPattern::Regex(regex) => regex.is_match(path),
        };
        let get = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let allowed = route.methods.is_empty()
            || route.methods.contains(method)
            || route.methods.contains(get);
        let agrees = route
            .match_headers
            .iter()
            .all(|want| headers.contains_key(&want.name));
        if holds && allowed && agrees {
            for host in hosts {
                matching.push((host, rank(route), route.name.clone()));
            }
        }
    }
    matching
        .into_iter()
        .min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
        .map(|(_, _, name)| name)
}

fn any_route() -> impl Strategy<Value = Route> {
    let host = prop::sample::select(vec![
        "a.test",
        "b.test",
        "x.a.test",
        "*.test",
        "*.a.test",
        "*.x.a.test",
    ]);
    let path = prop_oneof![
        "[=]?/[ab]{0,3}/?",
        Just("~a".to_owned()),
        Just("~/b$".to_owned()),
        Just("~^/ab".to_owned()),
    ];
    let methods = prop::sample::subsequence(vec![Method::GET, Method::HEAD, Method::POST], 0..=2);
    let headers = prop::sample::subsequence(vec!["x-one", "x-two"], 0..=2);
    (prop::collection::vec(host, 0..3), path, methods, headers).prop_map(
        |(hosts, path, methods, headers)| {
            let mut made = simple(&hosts, &path);
            made.methods = methods;
            made.match_headers = headers
                .into_iter()
                .map(|name| header(name, HeaderValueMatch::Present))
                .collect();
            made
        },
    )
}

proptest! {
    #[test]
    fn the_table_agrees_with_the_naive_model(
        mut routes in prop::collection::vec(any_route(), 0..12),
        host in prop::sample::select(vec!["a.test", "b.test", "x.a.test", "y.x.a.test", "test"]),
        path in "/[ab]{0,4}/?",
        method in prop::sample::select(vec![Method::GET, Method::HEAD, Method::PUT]),
        sent in prop::sample::subsequence(vec!["x-one", "x-two"], 0..=2),
    ) {
        // Names are unique in a configuration, and the last tie is broken by them.
        for (index, route) in routes.iter_mut().enumerate() {
            route.name = format!("{index}").into();
        }
        let headers: HeaderMap = sent
            .into_iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .collect();
        let expected = naive(&routes, host, path.as_str(), &method, &headers);
        let table = Table::new(&routes);
        let found = match table.find(host, &path, &method, &headers) {
            Match::Route(index) => Some(routes[index].name.clone()),
            _ => None,
        };
        prop_assert_eq!(found, expected.clone());

        // The order of the file does not matter.
        routes.reverse();
        let reversed = match Table::new(&routes).find(host, &path, &method, &headers) {
            Match::Route(index) => Some(routes[index].name.clone()),
            _ => None,
        };
        prop_assert_eq!(reversed, expected);
    }
}
