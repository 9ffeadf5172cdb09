//! From a .wasm and a config to a filter: what is refused at start and at a reload, how the report
//! names it, and that secrets are resolved and never told.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::secrets::planted;
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{client, modules, plugins, soon};
use tempfile::TempDir;

#[tokio::test]
async fn what_is_no_usable_plugin_stops_the_start_with_code_3_and_its_place() {
    let api_key = std::fs::read(plugins::wasm("sluicegate-api-key")).unwrap();
    let good = r#"{ keys = { ci = "k" } }"#;
    // A core module that imports from WASI: \0asm, one type, one import.
    let huge = [b"\0asm\x01\0\0\0".as_slice(), &vec![0; 100 << 20]].concat();
    let wasi = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x23\x01\x16wasi_snapshot_preview1\x08fd_write\0\0";
    for (bytes, config, place, message) in [
        (None, good, "4:8", "cannot read"),
        (
            Some(&b"#!/bin/sh\n"[..]),
            good,
            "4:8",
            "not a WebAssembly file",
        ),
        (Some(b""), good, "4:8", "not a WebAssembly file"),
        (
            Some(&api_key[..api_key.len() / 2]),
            good,
            "4:8",
            "invalid or truncated WebAssembly",
        ),
        (
            Some(wasi),
            good,
            "4:8",
            "imports `wasi_snapshot_preview1.fd_write`, which sluicegate does not offer",
        ),
        (
            Some(b"\0asm\x0d\0\x01\0"),
            good,
            "4:8",
            "does not export `describe`",
        ),
        (Some(&huge), good, "4:8", "a plugin has at most 33554432"),
        (Some(&api_key), "{}", "5:10", "needs the key `keys`"),
        (
            Some(&api_key),
            "{ keys = {} }",
            "5:19",
            "`keys`: names no consumer",
        ),
        (
            Some(&api_key),
            r#"{ keys = { ci = "k" }, haeder = "X" }"#,
            "5:33",
            "plugin `filter` has no key `haeder`",
        ),
        (
            Some(&api_key),
            r#"{ keys = { ci = "k" }, haeder = "X" }"#,
            "5:33",
            "did you mean `header`?",
        ),
        (
            Some(&api_key),
            "{ keys = { ci = 3 } }",
            "5:26",
            "plugin `filter` expects a value of type string here",
        ),
        (
            Some(&api_key),
            r#"{ keys = { ci = "env:SLUICEGATE_TEST_NOT_SET" } }"#,
            "5:26",
            "the environment variable `SLUICEGATE_TEST_NOT_SET` is not set",
        ),
        (
            Some(&api_key),
            r#"{ keys = { ci = "file:no.key" } }"#,
            "5:26",
            "cannot read the secret in",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        if let Some(bytes) = bytes {
            std::fs::write(dir.path().join("filter.wasm"), bytes).unwrap();
        }
        let mut proxy = Proxy::spawn(dir, &config_with(config, ""), |_| {});
        let status = proxy.wait().await;
        let report = proxy.stderr_to_end().await;
        assert_eq!(status.code(), Some(3), "{message}: {report}");
        assert!(report.contains(message), "{message}: {report}");
        let place = format!("sluicegate.toml:{place}");
        assert!(report.contains(&place), "{place}: {report}");
    }
}

#[tokio::test]
async fn a_plugin_of_the_version_before_goes_on_running() {
    let upstream = Upstream::describing("main").await;
    let dir = TempDir::new().unwrap();
    copy("sluicegate-old-guest", dir.path());
    let config = config_to(&upstream.addr.to_string(), "{}", "");
    let proxy = Proxy::start_in(dir, &config).await;
    let (head, body) = client::get(proxy.addr(0), "/?refuse").await;
    assert_eq!((head.status, body.as_slice()), (418, &b"GET"[..]));
    assert_eq!(head.get("x-by"), Some("old"));
    let (head, body) = client::get(proxy.addr(0), "/").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.get("x-old-answer"), Some("200"));
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("protected"), "{body}");
    proxy
        .log_line("its line", |line| line.contains("old plugin at 1"))
        .await;
    proxy.rewrite_config(&config_to(&upstream.addr.to_string(), "{ a = 1 }", ""));
    assert!(!proxy.reload().await);
    let told = "does not take this config: takes no config";
    proxy.log_line(told, |line| line.contains(told)).await;
}

#[tokio::test]
async fn a_routes_own_config_is_reported_at_the_route() {
    let dir = TempDir::new().unwrap();
    copy("sluicegate-api-key", dir.path());
    let config = config_with(r#"{ keys = { ci = "k" } }"#, ", config = { query = \"\" }");
    let mut proxy = Proxy::spawn(dir, &config, |_| {});
    assert_eq!(proxy.wait().await.code(), Some(3));
    let report = proxy.stderr_to_end().await;
    assert!(report.contains("`query`: is empty"), "{report}");
    assert!(report.contains("sluicegate.toml:8:49"), "{report}");
}

#[tokio::test]
async fn a_filter_of_messages_is_refused_where_bytes_are_only_copied() {
    let with = |config: &str, follow: bool| {
        let dir = TempDir::new().unwrap();
        copy("sluicegate-message-guest", dir.path());
        let config = config_with(config, "");
        (dir, format!("{config}follow = {follow}\n"))
    };
    let (dir, config) = with("{}", false);
    let mut proxy = Proxy::spawn(dir, &config, |_| {});
    assert_eq!(proxy.wait().await.code(), Some(3));
    let report = proxy.stderr_to_end().await;
    let reason = "plugin `filter` filters messages, and this route only copies bytes";
    assert!(report.contains(reason), "{report}");
    assert!(report.contains("sluicegate.toml:8:12"), "{report}");

    // One that wants none with this config, and one whose route follows frames.
    for (config, follow) in [(r#"{ does = "silent" }"#, false), ("{}", true)] {
        let (dir, config) = with(config, follow);
        Proxy::start_in(dir, &config).await;
    }
}

#[tokio::test]
async fn what_is_said_of_messages_to_a_filter_of_none_is_a_warning() {
    let said =
        ", isolation = \"shared\", connections_per_instance = 5, on_message_error = \"pass\"";
    for (package, config, said, warned) in [
        ("sluicegate-test-guests", "{}", said, true),
        ("sluicegate-test-guests", "{}", "", false),
        // One that wants none with this config, and one that wants some.
        (
            "sluicegate-message-guest",
            r#"{ does = "silent" }"#,
            said,
            true,
        ),
        ("sluicegate-message-guest", "{}", said, false),
    ] {
        let dir = TempDir::new().unwrap();
        copy(package, dir.path());
        let proxy = Proxy::start_in(dir, &config_with(config, said)).await;
        let told = proxy.stderr_text();
        for (key, place) in [
            ("isolation", "8:42"),
            ("connections_per_instance", "8:79"),
            ("on_message_error", "8:101"),
        ] {
            let warning = format!(
                "warning: `{key}` changes nothing where plugin `filter` filters no messages\n"
            );
            let place = format!("sluicegate.toml:{place}\n");
            let count = [&warning, &place].map(|text| told.matches(text.as_str()).count());
            assert_eq!(count, [usize::from(warned); 2], "{told}");
        }
    }
}

#[tokio::test]
async fn a_configure_that_takes_too_long_stops_a_start_and_a_reload_with_its_place() {
    let upstream = Upstream::echoing("echo").await;
    let to = upstream.addr.to_string();
    let limits = "limits = { configure_timeout = \"300ms\" }";
    let good = config_to(&to, &format!("{{}}\n{limits}"), "");
    let endless = config_to(&to, &format!("{{ configure = \"loop\" }}\n{limits}"), "");
    let too_long = "plugin `filter` does not take this config: \
                    configure took longer than `configure_timeout`";
    let dir = TempDir::new().unwrap();
    copy("sluicegate-test-guests", dir.path());
    let mut proxy = Proxy::spawn(dir, &endless, |_| {});
    assert_eq!(proxy.wait().await.code(), Some(3));
    let report = proxy.stderr_to_end().await;
    assert!(report.contains(too_long), "{report}");
    assert!(report.contains("sluicegate.toml:5:10"), "{report}");

    let dir = TempDir::new().unwrap();
    copy("sluicegate-test-guests", dir.path());
    let proxy = Proxy::start_in(dir, &good).await;
    proxy.rewrite_config(&endless);
    let began = Instant::now();
    assert!(!proxy.reload().await);
    // Nothing is compiled here, and the default would be 5 s.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    for told in [too_long, "sluicegate.toml:5:10"] {
        proxy.log_line(told, |line| line.contains(told)).await;
    }
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request("ws://localhost/", &[]);
    client::websocket(stream, request).await.unwrap();
}

#[tokio::test]
async fn a_reload_takes_a_changed_wasm_and_keeps_the_old_one_when_it_is_broken() {
    let upstream = Upstream::echoing("echo").await;
    let dir = TempDir::new().unwrap();
    copy("sluicegate-test-guests", dir.path());
    let config = config_to(&upstream.addr.to_string(), "{}", "");
    let proxy = Proxy::start_in(dir, &config).await;
    let open = || async {
        let stream = client::tcp(proxy.addr(0)).await;
        client::websocket(stream, client::ws_request("ws://localhost/", &[])).await
    };
    let (mut live, _) = open().await.unwrap();

    let file = proxy.dir().join("filter.wasm");
    let whole = std::fs::read(&file).unwrap();
    let key_config = config_to(&upstream.addr.to_string(), r#"{ keys = { ci = "k" } }"#, "");
    for broken in ["truncated", "missing", "rejects"] {
        match broken {
            "truncated" => std::fs::write(&file, &whole[..whole.len() / 2]).unwrap(),
            "missing" => std::fs::remove_file(&file).unwrap(),
            // The new plugin wants keys, which the unchanged configuration does not give.
            _ => copy("sluicegate-api-key", proxy.dir()),
        }
        assert!(!proxy.reload().await, "{broken}");
        let reason = match broken {
            "truncated" => "truncated WebAssembly",
            "missing" => "cannot read",
            _ => "needs the key `keys`",
        };
        proxy
            .log_line("the reason", |line| line.contains(reason))
            .await;
        open()
            .await
            .unwrap_or_else(|error| panic!("{broken}: {error}"));
    }
    proxy.rewrite_config(&key_config);
    assert!(proxy.reload().await);
    assert!(open().await.is_err(), "the new plugin asks for a key");
    live.send("whoami".into()).await.unwrap();
    let answer = soon("an echo", live.next()).await.unwrap().unwrap();
    assert_eq!(answer.to_text().unwrap(), "echo", "live sockets go on");

    // The same configuration, another file.
    copy("sluicegate-test-guests", proxy.dir());
    assert!(!proxy.reload().await, "the old plugin does not know `keys`");
    assert!(open().await.is_err());
    proxy.rewrite_config(&config);
    assert!(proxy.reload().await);
    open().await.unwrap();
    let log = proxy.stderr_text();
    assert!(!log.contains("with warnings"), "there are none: {log}");
}

#[tokio::test]
async fn a_table_bomb_is_refused_and_takes_no_memory() {
    let upstream = Upstream::describing("main").await;
    let dir = TempDir::new().unwrap();
    // It grows until it is refused, and traps if that never comes, or comes at once.
    let bomb = r#"
        (loop $more
          (br_if $more
            (i32.and
              (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))
              (i32.lt_u (table.size $table) (i32.const 10000000)))))
        (if (i32.ge_u (table.size $table) (i32.const 10000000)) (then unreachable))
        (if (i32.lt_u (table.size $table) (i32.const 1000)) (then unreachable))"#;
    let bomb = format!("{bomb} (call $drop_request (local.get 0))");
    let wasm = modules::encoded(&modules::text("", "(table $table 1 funcref)", "", &bomb));
    std::fs::write(dir.path().join("filter.wasm"), wasm).unwrap();
    let config = config_to(&upstream.addr.to_string(), "{}", "");
    let proxy = Proxy::start_in(dir, &config).await;
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 200);
    let before = proxy.resident_kib();
    for _ in 0..50 {
        assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 200);
    }
    let more = proxy.resident_kib().saturating_sub(before);
    assert!(more < 8 * 1024, "{more} KiB more");
}

#[tokio::test]
async fn while_a_plugin_compiles_for_long_requests_are_served() {
    let upstream = Upstream::describing("pages").await;
    let dir = TempDir::new().unwrap();
    // Thousands of functions, each of hundreds of operations on what only the next request knows.
    let mut bomb = String::new();
    for n in 0..3000 {
        bomb += &format!("(func (export \"f{n}\") (param i64) (result i64) (local.get 0)");
        bomb += &"(i64.mul (local.get 0)) (i64.xor (i64.load (i32.const 8))) ".repeat(200);
        bomb += ")";
    }
    let wasm = modules::encoded(&modules::text(
        "",
        &bomb,
        "",
        "(call $drop_request (local.get 0))",
    ));
    std::fs::write(dir.path().join("filter.wasm"), wasm).unwrap();
    let plain = format!(
        "[runtime]\nworkers = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/plain\"\nto = \"{}\"\n",
        upstream.addr
    );
    let bombed = format!(
        "{plain}[plugin.bomb]\nwasm = \"filter.wasm\"\n\
         [[route]]\npath = \"/bomb\"\nto = \"{}\"\nplugins = [\"bomb\"]\n",
        upstream.addr
    );
    let proxy = Proxy::start_in(dir, &plain).await;
    proxy.rewrite_config(&bombed);
    let began = Instant::now();
    let reload = async {
        assert!(proxy.reload().await);
        began.elapsed()
    };
    let serving = async {
        let mut slowest = Duration::ZERO;
        loop {
            let began = Instant::now();
            assert_eq!(client::get(proxy.addr(0), "/plain").await.0.status, 200);
            slowest = slowest.max(began.elapsed());
            if client::get(proxy.addr(0), "/bomb").await.0.status == 200 {
                return slowest;
            }
        }
    };
    let (compiling, slowest) = soon("both", async { tokio::join!(reload, serving) }).await;
    // On a worker, compiling would have kept one request waiting for all of it.
    assert!(slowest < compiling / 2, "{slowest:?} of {compiling:?}");
}

#[tokio::test]
async fn secrets_from_the_environment_and_from_files_work_and_are_never_told() {
    let upstream = Upstream::describing("pages").await;
    let dir = TempDir::new().unwrap();
    copy("sluicegate-api-key", dir.path());
    let secrets = [planted("in-the-environment"), planted("in-a-file")];
    let rotated = planted("rotated");
    std::fs::write(dir.path().join("ops.key"), format!("{}\n", secrets[1])).unwrap();
    let config = |keys: &str| {
        format!(
            "[admin]\nbind = \"127.0.0.1:0\"\n[log]\nlevel = \"trace\"\n{}",
            config_to(
                &upstream.addr.to_string(),
                &format!(r#"{{ keys = {{ {keys} }}, query = "key" }}"#),
                ""
            )
        )
    };
    let both = r#"ci = "env:SLUICEGATE_TEST_KEY", ops = "file:ops.key""#;
    let mut proxy = Proxy::start_with(dir, &config(both), |command| {
        command.env("SLUICEGATE_TEST_KEY", &secrets[0]);
    })
    .await;
    for (secret, consumer) in secrets.iter().zip(["ci", "ops"]) {
        let (head, body) = client::get(proxy.addr(0), &format!("/?key={secret}")).await;
        assert_eq!(head.status, 200);
        let body = String::from_utf8(body).unwrap();
        assert!(
            body.contains(&format!(r#"["x-consumer","{consumer}"]"#)),
            "{body}"
        );
        assert!(!body.contains(secret.as_str()), "{body}");
    }
    assert_eq!(
        client::get(proxy.addr(0), "/?key=env:SLUICEGATE_TEST_KEY")
            .await
            .0
            .status,
        403
    );

    // A changed secret counts from the next reload on.
    std::fs::write(proxy.dir().join("ops.key"), &rotated).unwrap();
    assert!(proxy.reload().await);
    assert_eq!(
        client::get(proxy.addr(0), &format!("/?key={}", secrets[1]))
            .await
            .0
            .status,
        403
    );
    assert_eq!(
        client::get(proxy.addr(0), &format!("/?key={rotated}"))
            .await
            .0
            .status,
        200
    );

    // Configs that the plugin refuses, and whose errors quote the values.
    let marks = format!("{} \"with, marks\"", planted("in-words"));
    std::fs::write(proxy.dir().join("marks.key"), marks).unwrap();
    for (wrong, quoted) in [
        (
            r#"bearer = "env:SLUICEGATE_TEST_KEY""#,
            "expects a value of type boolean here",
        ),
        (
            r#"consumer_header = "file:marks.key""#,
            "refuses the value of a secret (`consumer_header`)",
        ),
        (
            r#"subprotocol = "file:marks.key""#,
            "refuses the value of a secret (`subprotocol`)",
        ),
    ] {
        proxy.rewrite_config(&config(both).replace("query = \"key\"", wrong));
        assert!(!proxy.reload().await, "{wrong}");
        proxy
            .log_line("the reason", |line| line.contains(quoted))
            .await;
    }
    std::fs::write(proxy.dir().join("ops.key"), "").unwrap();
    proxy.rewrite_config(&config(both));
    assert!(!proxy.reload().await, "an empty key");
    let reason = "refuses the value of a secret (`keys.ops`)";
    proxy
        .log_line("the reason", |line| line.contains(reason))
        .await;

    // The harness looks for all of them in what was said; of the last a part could be told as well.
    assert_eq!(proxy.admin_get("/metrics").await.0, 200);
    proxy.signal(libc::SIGTERM);
    proxy.wait().await;
    assert!(!proxy.stderr_to_end().await.contains("with, marks"));
}

/// Line 4 names the .wasm, line 5 holds the config, line 8 the chain.
fn config_with(config: &str, more: &str) -> String {
    config_to("127.0.0.1:9", config, more)
}

fn config_to(to: &str, config: &str, more: &str) -> String {
    format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[plugin.filter]\nwasm = \"filter.wasm\"\n\
         config = {config}\n[[route]]\nto = \"{to}\"\n\
         plugins = [{{ use = \"filter\"{more} }}]\n"
    )
}

/// Puts a plugin where the configuration looks for it, whole or not at all.
fn copy(package: &str, dir: &Path) {
    let new = dir.join("new.wasm");
    std::fs::copy(plugins::wasm(package), &new).unwrap();
    std::fs::rename(new, dir.join("filter.wasm")).unwrap();
}
