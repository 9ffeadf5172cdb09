//! HTTP/2 with clients and servers that others wrote: a browser, Python's h2, nghttp, h2load, curl, and gRPC's own.

use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::foreign::{self, Server};
use sluicegate_tests::proxy::{Proxy, source_root};
use sluicegate_tests::upstream::Upstream;
use sluicegate_tests::{free_port, soon};
use tempfile::TempDir;

/// Port and, with TLS, the authority's certificate: how a script is told where to go.
type Door = (String, Option<String>);

/// A proxy in front of an echo server, on a plain port and on one with TLS; `more` are routes.
struct Site {
    proxy: Proxy,
    doors: [Door; 2],
    _echo: Upstream,
}

impl Site {
    async fn start(more: &str) -> Site {
        let echo = Upstream::echoing("echo").await;
        let dir = TempDir::new().unwrap();
        let authority = Authority::new("authority of the tests");
        authority
            .issue(&["localhost"])
            .write(dir.path(), "localhost");
        let proxy = start(
            dir,
            &authority,
            &format!(
                r#"
                [[route]]
                to = "{echo}"
                [[route]]
                path = "/terminated/"
                to = "{echo}"
                compression = "terminate"
                [[route]]
                path = "/refused"
                respond = {{ status = 403, body = "no\n" }}
                {more}
                "#,
                echo = echo.addr
            ),
        )
        .await;
        Site {
            doors: doors(&proxy),
            proxy,
            _echo: echo,
        }
    }
}

/// Two listeners that speak HTTP/2, and `more`; the authority lies beside as `ca.crt`.
async fn start(dir: TempDir, authority: &Authority, more: &str) -> Proxy {
    std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
    let plain = free_port();
    let config = format!(
        r#"
        [log]
        access = "json"
        [[listener]]
        bind = "127.0.0.1:{plain}"
        http2 = true
        [[listener]]
        bind = "127.0.0.1:0"
        tls = {{ cert = "localhost.crt", key = "localhost.key" }}
        {more}
        "#
    );
    Proxy::start_in(dir, &config).await
}

fn doors(proxy: &Proxy) -> [Door; 2] {
    let port = |index| proxy.addr(index).port().to_string();
    let ca = proxy.dir().join("ca.crt").display().to_string();
    [(port(0), None), (port(1), Some(ca))]
}

#[tokio::test]
async fn sockets_of_python_h2() {
    if foreign::script("sockets.py").is_none() {
        return;
    }
    let site = Site::start("").await;
    for (port, ca) in &site.doors {
        let mut sockets = foreign::script("sockets.py").unwrap();
        let said = foreign::run(sockets.arg(port).args(ca)).await;
        assert!(said.contains("passed: refusals"), "{said}");
    }
}

#[tokio::test]
async fn a_browser_keeps_its_sockets_on_the_connection_of_its_page() {
    let Some(mut browser) = foreign::program("chromium") else {
        return;
    };
    let page = source_root().join("tests/foreign/page.html");
    let page = std::fs::read_to_string(page).unwrap();
    let site = Site::start(&format!(
        "
        [[route]]
        path = \"/page\"
        respond = {{ status = 200, content_type = \"text/html\", body = '''{page}''' }}
        [[route]]
        path = \"/done/\"
        respond = {{ status = 200, body = \"thanks\" }}
        "
    ))
    .await;
    let home = TempDir::new().unwrap();
    let net_log = home.path().join("net.json");
    let [_, (port, _)] = &site.doors;
    browser
        .env("HOME", home.path())
        .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
        .args(["--no-first-run", "--no-proxy-server"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .arg("--ignore-certificate-errors")
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--log-net-log={}", net_log.display()))
        .arg(format!("https://localhost:{port}/page"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut browser = browser.spawn().unwrap();

    let is_done = |line: &str| line.contains("/done/");
    let done = site.proxy.access_line("the page's end", is_done).await;
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(
        done["path"],
        "/done/hello-true-chat.v2-plain-4321-done-true\
         /hello-true-chat.v2-permessage-deflate-4321-done-true/1006-false"
    );

    // Its log is whole once it has ended in order.
    let pid = libc::pid_t::try_from(browser.id().unwrap()).unwrap();
    // SAFETY: kill(2) takes any pid and signal; the child is ours and not yet reaped.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    soon("the browser's end", browser.wait()).await.unwrap();
    let log = std::fs::read_to_string(&net_log).unwrap();
    let heads = heads_sent(&log);
    let (connection, _) = the_one(&heads, "/page");
    for path in ["/echo", "/terminated/echo", "/refused"] {
        let (own, head) = the_one(&heads, path);
        assert_eq!(own, connection, "{path}");
        assert!(head.contains(&":method: CONNECT".into()), "{head:?}");
        assert!(head.contains(&":protocol: websocket".into()), "{head:?}");
    }
}

/// The heads of requests over HTTP/2 in a browser's log, each with the number of its connection.
fn heads_sent(log: &str) -> Vec<(u64, Vec<String>)> {
    let mut lines = log.lines();
    // Each line is one value, and the comma behind it.
    let constants = lines.next().unwrap().trim_end_matches(',');
    let constants: Value = serde_json::from_str(&format!("{constants}}}")).unwrap();
    let sent = &constants["constants"]["logEventTypes"]["HTTP2_SESSION_SEND_HEADERS"];
    lines
        .filter_map(|line| serde_json::from_str::<Value>(line.trim_end_matches(',')).ok())
        .filter(|event| event["type"] == *sent)
        .map(|event| {
            let fields = event["params"]["headers"].as_array().unwrap().iter();
            let fields = fields.map(|field| field.as_str().unwrap().to_owned());
            (event["source"]["id"].as_u64().unwrap(), fields.collect())
        })
        .collect()
}

/// The only head with this path.
fn the_one<'a>(heads: &'a [(u64, Vec<String>)], path: &str) -> (u64, &'a Vec<String>) {
    let wanted = format!(":path: {path}");
    let mut found = heads.iter().filter(|(_, head)| head.contains(&wanted));
    let (connection, head) = found
        .next()
        .unwrap_or_else(|| panic!("no {path}: {heads:?}"));
    assert!(found.next().is_none(), "twice: {path}");
    (*connection, head)
}

#[tokio::test]
async fn requests_of_curl_nghttp_and_h2load() {
    let pages = Upstream::describing("pages").await;
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("authority of the tests");
    authority
        .issue(&["localhost"])
        .write(dir.path(), "localhost");
    let route = format!("[[route]]\nto = \"{}\"", pages.addr);
    let proxy = start(dir, &authority, &route).await;
    for (port, ca) in doors(&proxy) {
        let scheme = if ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{port}/page");
        if let Some(mut curl) = foreign::program("curl") {
            let http2 = match &ca {
                Some(ca) => vec!["--http2", "--cacert", ca],
                None => vec!["--http2-prior-knowledge"],
            };
            curl.args(["-sS", "-4", "-w", " %{http_version} %{http_code}"])
                .args(http2)
                .args(["--data-binary", "sent", &url]);
            let said = foreign::run(&mut curl).await;
            assert!(said.ends_with("} 2 200"), "{said}");
            assert!(said.contains(r#""body_len":4"#), "{said}");
        }
        if let Some(mut nghttp) = foreign::program("nghttp") {
            // It asks again and again on one connection, and knows no authorities.
            nghttp.args(["-v", "-n", "-m", "3", "--no-verify-peer", &url]);
            let said = foreign::run(&mut nghttp).await;
            assert_eq!(said.matches(":status: 200").count(), 3, "{said}");
            assert_eq!(said.matches("recv HEADERS frame").count(), 3, "{said}");
        }
        if let Some(mut h2load) = foreign::program("h2load") {
            h2load.args(["-n", "500", "-c", "5", "-m", "20", &url]);
            let said = foreign::run(&mut h2load).await;
            assert!(said.contains("500 succeeded, 0 failed"), "{said}");
            assert!(said.contains("500 2xx"), "{said}");
        }
    }
}

#[tokio::test]
async fn grpc_over_http2_with_and_without_tls() {
    let (Some(_), Some(mut server)) = (
        foreign::script("grpc_calls.py"),
        foreign::script("grpc_server.py"),
    ) else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("authority of the tests");
    authority
        .issue(&["localhost"])
        .write(dir.path(), "localhost");
    for ending in ["crt", "key"] {
        server.arg(dir.path().join(format!("localhost.{ending}")));
    }
    let server = Server::start(server).await;
    let &[plain, tls] = &server.ports[..] else {
        panic!("{:?}", server.ports)
    };
    let proxy = start(
        dir,
        &authority,
        &format!(
            r#"
            [upstream.plain]
            servers = ["h2c://127.0.0.1:{plain}"]
            [upstream.tls]
            servers = ["h2://localhost:{tls}"]
            tls = {{ ca = "ca.crt" }}
            [[route]]
            path = "/plain/"
            to = "plain"
            [[route]]
            path = "/tls/"
            to = "tls"
            "#
        ),
    )
    .await;
    for (port, ca) in doors(&proxy) {
        for service in ["plain", "tls"] {
            let mut calls = foreign::script("grpc_calls.py").unwrap();
            let said = foreign::run(calls.args([&port, service]).args(&ca)).await;
            assert!(said.contains("passed: a deadline"), "{said}");
        }
    }
}
