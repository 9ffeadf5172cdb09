//! `run --watch`: whatever a configuration is made of is picked up when it changes, and a broken file leaves
//! the old configuration serving.

use std::path::Path;

use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::{client, plugins, until};
use tempfile::TempDir;

const ROUTES: &str = r#"
    [[listener]]
    bind = "127.0.0.1:0"
    [plugin.filter]
    wasm   = "plugins/filter.wasm"
    config = { CONFIG }
    [[route]]
    plugins = ["filter"]
    respond = { status = 204 }
"#;

#[tokio::test]
async fn a_plugin_that_is_replaced_serves_and_a_broken_one_does_not() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    let file = dir.path().join("plugins/filter.wasm");
    let guest = std::fs::read(plugins::wasm("sluicegate-test-guests")).unwrap();
    std::fs::write(&file, &guest).unwrap();
    let proxy = watching(dir, &ROUTES.replace("CONFIG", "request = \"refuse\"")).await;
    assert_eq!(status(&proxy).await, 403);

    // As an editor saves: another file, renamed.
    replace(&file, b"\0asm broken");
    let rejected = |line: &str| line.contains("reload rejected");
    proxy.log_line("the rejection", rejected).await;
    let reason = |line: &str| line.contains("plugins/filter.wasm` is no usable plugin: ");
    proxy.log_line("the reason", reason).await;
    assert_eq!(status(&proxy).await, 403, "the old one goes on");

    // As a compiler writes: in place. Other bytes that do the same, so the reload itself is waited for.
    let mut other = guest.clone();
    other.extend_from_slice(b"\0\x05\x04more");
    std::fs::write(&file, &other).unwrap();
    let reloaded = |line: &str| line.contains("configuration reloaded generation=2");
    proxy.log_line("the reload", reloaded).await;
    assert_eq!(status(&proxy).await, 403);

    let headers = std::fs::read(plugins::wasm("sluicegate-headers")).unwrap();
    replace(&file, &headers);
    let refused = |line: &str| line.contains("plugin `filter` expects a value");
    proxy
        .log_line("a plugin that wants another config", refused)
        .await;
    proxy.rewrite_config(&ROUTES.replace("CONFIG", "request = { set = { x-a = \"b\" } }"));
    until("the new plugin", || async {
        (status(&proxy).await == 204).then_some(())
    })
    .await;
}

#[tokio::test]
async fn configuration_secrets_and_certificates_are_watched() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("secrets")).unwrap();
    std::fs::write(dir.path().join("secrets/key"), "first").unwrap();
    let wasm = plugins::wasm("sluicegate-api-key");
    let authority = Authority::new("first");
    authority.issue(&["a.test"]).write(dir.path(), "first");
    let config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [[listener]]
        bind = "unix:{{dir}}/tls.sock"
        tls  = {{ cert = "first.crt", key = "first.key" }}
        [plugin.keys]
        wasm   = "{}"
        config = {{ keys = {{ ci = "file:secrets/key" }} }}
        [[route]]
        plugins = ["keys"]
        respond = {{ status = 204 }}
        "#,
        wasm.display()
    );
    let proxy = watching(dir, &config).await;
    assert_eq!(with_key(&proxy, "first").await, 204);

    // A link that is turned elsewhere, as secrets are mounted into containers.
    std::fs::write(proxy.dir().join("secrets/next"), "second").unwrap();
    let link = proxy.dir().join("secrets/link");
    std::os::unix::fs::symlink("next", &link).unwrap();
    std::fs::rename(&link, proxy.dir().join("secrets/key")).unwrap();
    reloaded(&proxy, 2).await;
    assert_eq!(with_key(&proxy, "second").await, 204);
    assert_eq!(with_key(&proxy, "first").await, 403);

    // What a link leads to.
    std::fs::write(proxy.dir().join("secrets/next"), "third").unwrap();
    reloaded(&proxy, 3).await;
    assert_eq!(with_key(&proxy, "third").await, 204);

    authority.issue(&["b.test"]).write(proxy.dir(), "first");
    reloaded(&proxy, 4).await;

    // A file that only the new configuration names.
    std::fs::write(proxy.dir().join("other"), "fourth").unwrap();
    proxy.rewrite_config(&config.replace("secrets/key", "other"));
    reloaded(&proxy, 5).await;
    assert_eq!(with_key(&proxy, "fourth").await, 204);
    replace(&proxy.dir().join("other"), b"fifth");
    reloaded(&proxy, 6).await;
    assert_eq!(with_key(&proxy, "fifth").await, 204);
}

async fn watching(dir: TempDir, config: &str) -> Proxy {
    Proxy::start_with(dir, config, |command| {
        command.arg("--watch");
    })
    .await
}

async fn reloaded(proxy: &Proxy, generation: u64) {
    let wanted = format!("configuration reloaded generation={generation}");
    proxy.log_line(&wanted, |line| line.contains(&wanted)).await;
}

async fn status(proxy: &Proxy) -> u16 {
    client::get(proxy.addr(0), "/").await.0.status
}

async fn with_key(proxy: &Proxy, key: &str) -> u16 {
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\nConnection: close\r\n\r\n");
    let answer = client::exchange(proxy.addr(0), request.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Another file in the place of this one, at once.
fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, file).unwrap();
}
