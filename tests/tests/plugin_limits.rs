//! The limits of a plugin that an operator can set, behind the real binary: what each one cuts, and
//! what quarantine does with a plugin that keeps failing.

use std::time::{Duration, Instant};

use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, plugins, soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_slow_host_call_ends_with_the_wall_clock_and_not_the_worker() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let routes = [
        route("/slow", &to, r#"request = "slow_host_call""#, ""),
        route("/fine", &to, r#"request = "count""#, ""),
    ];
    // One worker, which goes on while the guest waits.
    let config = with_guest(r#"wall_timeout = "100ms""#, &routes.concat());
    let proxy = Proxy::start(&format!("[runtime]\nworkers = 1\n{config}")).await;
    let addr = proxy.addr(0);
    let slow = tokio::spawn(async move { client::get(addr, "/slow").await.0.status });
    assert_eq!(client::get(addr, "/fine").await.0.status, 200);
    assert_eq!(slow.await.unwrap(), 500);
    let line = proxy
        .log_line("the failure", |line| line.contains("filter failed"))
        .await;
    assert!(line.contains("took longer than `wall_timeout`"), "{line}");
    let series = calls("/slow", "wall_timeout");
    proxy.until_metric(&series, 1.0).await;
}

#[tokio::test]
async fn the_wait_for_an_instance_is_as_long_as_the_limit_says() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let routes = [
        route("/loop", &to, r#"request = "loop""#, ""),
        route("/fine", &to, r#"request = "count""#, ""),
        route(
            "/pass",
            &to,
            r#"request = "count""#,
            r#", on_error = "pass""#,
        ),
    ]
    .concat();
    // Short: who finds the one instance taken is told so before the loop is over.
    let limits = r#"instances = 1, call_timeout = "10m", instance_wait = "100ms""#;
    let proxy = Proxy::start(&with_guest(limits, &routes)).await;
    let looping = begin_loop(&proxy).await;
    let began = Instant::now();
    assert_eq!(client::get(proxy.addr(0), "/fine").await.0.status, 503);
    assert!(began.elapsed() >= Duration::from_millis(100));
    assert_eq!(client::get(proxy.addr(0), "/pass").await.0.status, 200);
    assert_eq!(
        proxy.metric(&calls("/fine", "no_instance")).await,
        Some(1.0)
    );
    drop(looping);

    // Long: it waits for as long as the loop takes, which is longer than by default.
    let limits = r#"instances = 1, call_timeout = "1500ms", instance_wait = "1m""#;
    let proxy = Proxy::start(&with_guest(limits, &routes)).await;
    let looping = begin_loop(&proxy).await;
    assert_eq!(client::get(proxy.addr(0), "/fine").await.0.status, 200);
    drop(looping);
}

#[tokio::test]
async fn a_response_of_the_plugins_own_is_as_large_as_the_limit_says() {
    let routes = route("/", "127.0.0.1:9", r#"request = "small_body""#, "");
    for (limit, status) in [("2KiB", 200), ("2047B", 500), ("64KiB", 200)] {
        let limits = format!(r#"response_body = "{limit}""#);
        let proxy = Proxy::start(&with_guest(&limits, &routes)).await;
        let (head, body) = client::get(proxy.addr(0), "/").await;
        assert_eq!(head.status, status, "{limit}");
        assert_eq!(body.len() == 2048, status == 200, "{limit}");
        if status == 500 {
            let line = proxy
                .log_line("the failure", |line| line.contains("filter failed"))
                .await;
            let expect = "a body of 2048 bytes; `response_body` allows 2047";
            assert!(line.contains(expect), "{line}");
        }
    }
}

#[tokio::test]
async fn a_head_takes_only_so_many_fields_and_so_much_of_a_value() {
    let upstream = Script::new().await;
    let to = upstream.addr.to_string();
    let act = r#"request = "header_flood", response = "header_flood""#;
    let proxy = Proxy::start(&with_guest("", &route("/", &to, act, ""))).await;
    let mut stream = client::tcp(proxy.addr(0)).await;
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut server = upstream.accept().await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(soon("a request head", server.read_u8()).await.unwrap());
    }
    let seen = String::from_utf8(seen).unwrap().to_ascii_lowercase();
    let fields = seen.lines().filter_map(|line| line.split_once(": "));
    let seen: Vec<_> = fields.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    server
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    let head = client::read_head(&mut stream).await.unwrap();
    for (fields, whose) in [(&seen, "the request's"), (&head.fields, "the response's")] {
        let told = fields.iter().find(|(name, _)| name == "x-told").unwrap();
        let (accepted, why) = told.1.split_once(" accepted; ").unwrap();
        let accepted: usize = accepted.parse().unwrap();
        assert!((100..128).contains(&accepted), "{whose}: {accepted}");
        assert_eq!(why, "too large; not a valid value", "{whose}");
        // A few are the proxy's own.
        assert!(fields.len() <= 128 + 4, "{whose}: {}", fields.len());
    }
}

#[tokio::test]
async fn log_lines_are_as_many_and_as_long_as_the_limits_say() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let routes = [
        route("/flood", &to, r#"request = "log_flood""#, ""),
        route("/trap", &to, r#"request = "trap""#, ""),
    ];
    let limits = r#"log_lines = 3, log_line = "100B""#;
    let proxy = Proxy::start(&with_guest(limits, &routes.concat())).await;
    let began = Instant::now();
    assert_eq!(client::get(proxy.addr(0), "/flood").await.0.status, 200);
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    // Of our own, behind the flood.
    client::get(proxy.addr(0), "/trap").await;
    proxy
        .log_line("the trap", |line| line.contains("filter failed"))
        .await;
    let log = proxy.stderr_text();
    let flood: Vec<&str> = log.lines().filter(|line| line.contains("forged")).collect();
    assert!((3..=3 * (seconds + 2)).contains(&flood.len()), "{flood:#?}");
    for line in flood {
        assert!(line.matches('é').count() < 50, "cut: {line}");
    }
    // The count of the others comes with the first line of a later second.
    until("the count of the rest", || async {
        client::get(proxy.addr(0), "/flood").await;
        let log = proxy.stderr_text();
        log.lines()
            .any(|line| line.contains("log lines suppressed") && line.contains("suppressed=99"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn failures_are_logged_so_often_and_then_counted() {
    let routes = route("/", "127.0.0.1:9", r#"request = "trap""#, "");
    let proxy = Proxy::start(&with_guest("", &routes)).await;
    let mut sent = 0;
    until("a count of failures without a line", || {
        sent += 20;
        let addr = proxy.addr(0);
        let log = proxy.stderr_text();
        async move {
            for _ in 0..20 {
                assert_eq!(client::get(addr, "/").await.0.status, 500);
            }
            let counted = |line: &str| line.contains("filter failed as often without a line");
            log.lines().any(counted).then_some(())
        }
    })
    .await;
    let log = proxy.stderr_text();
    let logged = log.lines().filter(|line| line.contains("trap_as_asked"));
    assert!(logged.count() < sent, "{sent} failures");
    let failed = proxy.metric(&calls("/", "trap")).await;
    assert_eq!(failed, Some(f64::from(u32::try_from(sent).unwrap())));
}

#[tokio::test]
async fn a_plugin_that_keeps_failing_is_not_asked() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let (act, pass) = (r#"request = "count_or_fail""#, r#", on_error = "pass""#);
    let routes = [
        route("/deny", &to, act, ""),
        route("/pass", &to, act, pass),
        route("/other", &to, r#"request = "count""#, ""),
    ]
    .concat();
    let limits = r#"quarantine = { fails = 3, within = "1h", out_for = "1h" }"#;
    let config = with_guest(limits, &routes);
    let proxy = Proxy::start(&config).await;
    let get = async |target: &str| client::get(proxy.addr(0), target).await.0.status;

    // Less than so many failures do nothing, and what works counts for nothing.
    for _ in 0..2 {
        assert_eq!(get("/deny?trap").await, 500);
        assert_eq!(get("/deny").await, 200);
    }
    assert_eq!(proxy.metric(&quarantined("/deny")).await, Some(0.0));
    assert_eq!(get("/deny?trap").await, 500);
    assert_eq!(proxy.metric(&quarantined("/deny")).await, Some(1.0));
    let begins = r#"sluicegate_plugin_quarantines_total{plugin="guest",route="/deny"}"#;
    assert_eq!(proxy.metric(begins).await, Some(1.0));
    proxy
        .log_line("the beginning", |line| {
            line.contains("the plugin is in quarantine")
                && line.contains("route=\"/deny\"")
                && line.contains("fails=3")
        })
        .await;
    // A reload that changes nothing here changes nothing.
    proxy.rewrite_config(&format!("{config}\n# the same\n"));
    assert!(proxy.reload().await);
    for _ in 0..20 {
        assert_eq!(get("/deny").await, 503, "also what would have worked");
    }
    let spared = proxy.metric(&calls("/deny", "quarantined")).await;
    assert_eq!(spared, Some(20.0));
    assert_eq!(get("/other").await, 200, "other routes are none the wiser");
    let log = proxy.stderr_text();
    let begun = log.lines().filter(|line| line.contains("in quarantine"));
    assert_eq!(begun.count(), 1, "and not a line for each request: {log}");

    // Where failures pass, it is as if the plugin were not there.
    for _ in 0..3 {
        assert_eq!(get("/pass?trap").await, 200);
    }
    assert_eq!(proxy.metric(&quarantined("/pass")).await, Some(1.0));
    let (head, body) = client::get(proxy.addr(0), "/pass").await;
    assert_eq!(head.status, 200);
    let seen = String::from_utf8(body).unwrap();
    assert!(!seen.contains("x-count"), "it was not asked: {seen}");
}

#[tokio::test]
async fn a_quarantine_ends() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let routes = route("/", &to, r#"request = "count_or_fail""#, "");
    let limits = r#"quarantine = { fails = 1, out_for = "300ms" }"#;
    let proxy = Proxy::start(&with_guest(limits, &routes)).await;
    for _ in 0..2 {
        assert_eq!(client::get(proxy.addr(0), "/?trap").await.0.status, 500);
        until("the end", || async {
            (client::get(proxy.addr(0), "/").await.0.status == 200).then_some(())
        })
        .await;
        assert_eq!(proxy.metric(&quarantined("/")).await, Some(0.0));
    }
    let over = |line: &str| line.contains("quarantine is over") && line.contains("spared=");
    proxy.log_line("the end", over).await;
}

#[tokio::test]
async fn a_changed_config_lifts_the_quarantine() {
    let upstream = Upstream::describing("pages").await;
    let to = upstream.addr.to_string();
    let limits = r#"quarantine = { fails = 1, out_for = "1h" }"#;
    let config = |act: &str| {
        let act = format!(r#"request = "{act}""#);
        with_guest(limits, &route("/", &to, &act, ""))
    };
    let proxy = Proxy::start(&config("trap")).await;
    for status in [500, 503, 503] {
        assert_eq!(client::get(proxy.addr(0), "/").await.0.status, status);
    }
    let unchanged = format!("{}\n# the same\n", config("trap"));
    proxy.rewrite_config(&unchanged);
    assert!(proxy.reload().await);
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 503);
    proxy.rewrite_config(&config("count"));
    assert!(proxy.reload().await);
    assert_eq!(proxy.metric(&quarantined("/")).await, Some(0.0));
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 200);
}

/// A listener, the admin's, the misbehaving guest with these limits, and the routes.
fn with_guest(limits: &str, routes: &str) -> String {
    format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n\
         [plugin.guest]\nwasm = \"{}\"\nlimits = {{ {limits} }}\n{routes}",
        plugins::wasm("sluicegate-test-guests").display()
    )
}

/// A route of the path's name with the guest in its chain.
fn route(path: &str, to: &str, config: &str, more: &str) -> String {
    format!(
        "[[route]]\nname = \"{path}\"\npath = \"{path}\"\nto = \"{to}\"\n\
         plugins = [{{ use = \"guest\", config = {{ {config} }}{more} }}]\n"
    )
}

/// Holds an instance in a loop, until the client's stream is dropped.
async fn begin_loop(proxy: &Proxy) -> tokio::net::TcpStream {
    let mut stream = client::tcp(proxy.addr(0)).await;
    let request = b"GET /loop HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    proxy
        .log_line("the loop", |line| line.contains("looping"))
        .await;
    stream
}

fn calls(route: &str, result: &str) -> String {
    format!(r#"sluicegate_plugin_calls_total{{plugin="guest",route="{route}",result="{result}"}}"#)
}

fn quarantined(route: &str) -> String {
    format!(r#"sluicegate_plugin_quarantined{{plugin="guest",route="{route}"}}"#)
}
