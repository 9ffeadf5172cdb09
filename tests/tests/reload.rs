//! Reloads: nothing live is touched, everything new is served, a mistake changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use http::Response;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::http2::server::{Arrival, Manner, Server};
use sluicegate_tests::proxy::Proxy;
use sluicegate_tests::upstream::{Script, Upstream};
use sluicegate_tests::{client, free_port, http2, raise_descriptor_limit, soon, until};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A plain listener and an admin listener, and whatever else the test wants.
fn config(rest: &str) -> String {
    format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        [admin]
        bind = "127.0.0.1:0"
        {rest}
        "#
    )
}

fn route(path: &str, to: SocketAddr) -> String {
    format!("[[route]]\nname = \"it\"\npath = \"{path}\"\nto = \"{to}\"\n")
}

async fn open(proxy: &Proxy, path: &str) -> WebSocketStream<TcpStream> {
    let stream = client::tcp(proxy.addr(0)).await;
    let request = client::ws_request(&format!("ws://a.test{path}"), &[]);
    client::websocket(stream, request).await.unwrap().0
}

async fn echoes<S>(socket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send("ping".into()).await.unwrap();
    let answer = soon("an echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.to_text().unwrap(), "ping");
}

#[tokio::test]
async fn a_thousand_sockets_outlive_a_reload() {
    const SOCKETS: usize = 1000;
    raise_descriptor_limit();
    let echo = Upstream::echoing("echo").await;
    let other = Upstream::describing("other").await;
    let proxy = Proxy::start(&config(&route("/", echo.addr))).await;
    let proxy = &proxy;
    let mut sockets: Vec<_> = stream::iter(0..SOCKETS)
        .map(|_| open(proxy, "/"))
        .buffer_unordered(50)
        .collect()
        .await;
    let open_now = r#"sluicegate_websockets_open{route="it",http_version="1.1"}"#;
    proxy.until_metric(open_now, SOCKETS as f64).await;

    // Not a stone is left upon another: their route and their upstream are gone.
    proxy.rewrite_config(&config(&route("/new/", other.addr)));
    assert!(proxy.reload().await);
    assert_eq!(client::get(proxy.addr(0), "/new/").await.0.status, 200);
    assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 404);
    for socket in &mut sockets {
        echoes(socket).await;
    }
    proxy.until_metric(open_now, SOCKETS as f64).await;
    drop(sockets);
    proxy.until_metric(open_now, 0.0).await;
}

#[tokio::test]
async fn requests_under_way_go_on_and_new_ones_see_the_new_configuration() {
    let script = Script::new().await;
    let fresh = Upstream::describing("fresh").await;
    let proxy = Proxy::start(&config(&route("/", script.addr))).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut under_way = client::tcp(proxy.addr(0)).await;
    under_way.write_all(request).await.unwrap();
    let mut upstream = script.accept().await;
    client::read_request_head(&mut upstream).await;

    proxy.rewrite_config(&config(
        &(route("/", fresh.addr) + "[[route]]\npath = \"/added\"\nrespond = { body = '1' }\n"),
    ));
    assert!(proxy.reload().await);
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
        .await
        .unwrap();
    let (_, body) = client::read_response(&mut under_way).await.unwrap();
    assert_eq!(body, b"old");
    // Also on the connection that was open before.
    let (_, described) = client::ask(&mut under_way, "a.test", "/", "")
        .await
        .unwrap();
    assert_eq!(described["server"], "fresh");
    let (_, added) = client::ask(&mut under_way, "a.test", "/added", "")
        .await
        .unwrap();
    assert_eq!(added, 1);
}

/// Old connections end with what they carry; what is new goes as the new configuration says.
#[tokio::test]
async fn what_both_sides_speak_changes_with_a_reload() {
    let server = Server::new(Manner::WEBSOCKET).await;
    let text = |client: bool, http: u8| {
        format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            http2 = {client}
            [admin]
            bind = "127.0.0.1:0"
            [upstream.it]
            servers = ["{}"]
            http = "{http}"
            [[route]]
            to = "it"
            "#,
            server.addr
        )
    };
    let proxy = Proxy::start(&text(false, 2)).await;
    let ok = || Response::new(());
    let accepting = async { server.asked().await.accept(ok()) };
    let (mut down, up) = tokio::join!(open(&proxy, "/"), accepting);
    let mut up = WebSocketStream::from_raw_socket(up, Role::Server, None).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let refused = client::exchange(proxy.addr(0), preface).await;
    assert!(refused.starts_with(b"HTTP/1.1 "), "{refused:?}");

    proxy.rewrite_config(&text(true, 1));
    assert!(proxy.reload().await);
    let riding = http2::client::Client::plain(proxy.addr(0)).await;
    let answering = async {
        let Arrival::Http1(mut wire) = server.next().await else {
            panic!("over HTTP/2");
        };
        client::read_request_head(&mut wire).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh1";
        wire.write_all(answer).await.unwrap();
        wire
    };
    let (answer, _kept) = tokio::join!(riding.get("/"), answering);
    assert_eq!(answer.unwrap().body, b"h1");

    proxy.rewrite_config(&text(true, 2));
    assert!(proxy.reload().await);
    let answering = async { server.asked().await.respond(ok(), "h2") };
    let (answer, ()) = tokio::join!(riding.get("/"), answering);
    assert_eq!(answer.unwrap().body, b"h2");
    assert_eq!(server.connections(), 2);

    down.send("still".into()).await.unwrap();
    let heard = soon("a message", up.next()).await.unwrap().unwrap();
    assert_eq!(heard.to_text().unwrap(), "still");
}

#[tokio::test]
async fn a_new_certificate_is_served_while_old_tunnels_live() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    let old = authority.issue(&["a.test"]);
    old.write(dir.path(), "a");
    let echo = Upstream::echoing("echo").await;
    let proxy = Proxy::start_in(
        dir,
        &config(&format!(
            "[[listener]]\nbind = \"127.0.0.2:0\"\ntls = {{ cert = 'a.crt', key = 'a.key' }}\n{}",
            route("/", echo.addr)
        )),
    )
    .await;
    let tls = authority.client(&["http/1.1"]);
    let connect = async || {
        let stream = client::tls(proxy.addr(1), "a.test", Arc::clone(&tls)).await;
        let stream = stream.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let request = client::ws_request("wss://a.test/", &[]);
        let (socket, _) = client::websocket(stream, request).await.unwrap();
        (socket, certificate)
    };
    let (mut before, certificate) = connect().await;
    assert_eq!(certificate, old.der());

    let new = authority.issue(&["a.test"]);
    new.write(proxy.dir(), "a");
    // Nothing is read before the reload.
    assert_eq!(connect().await.1, old.der());
    assert!(proxy.reload().await);
    let (mut after, certificate) = connect().await;
    assert_eq!(certificate, new.der());
    echoes(&mut before).await;
    echoes(&mut after).await;
}

#[tokio::test]
async fn listeners_come_and_go_and_their_tunnels_stay() {
    let echo = Upstream::echoing("echo").await;
    let port = free_port();
    let proxy = Proxy::start(&config(&route("/", echo.addr))).await;
    let mut sockets = vec![open(&proxy, "/").await];
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let socket = proxy.dir().join("new.sock");

    for round in 0..3 {
        let added = format!(
            "{}[[listener]]\nbind = \"{addr}\"\n[[listener]]\nbind = \"unix:{{dir}}/new.sock\"\n",
            route("/", echo.addr)
        );
        proxy.rewrite_config(&config(&added));
        assert!(proxy.reload().await, "round {round}");
        let request = || client::ws_request("ws://a.test/", &[]);
        let stream = client::tcp(addr).await;
        sockets.push(client::websocket(stream, request()).await.unwrap().0);
        let stream = UnixStream::connect(&socket).await.unwrap();
        let (mut on_unix, _) = client::websocket(stream, request()).await.unwrap();

        proxy.rewrite_config(&config(&route("/", echo.addr)));
        assert!(proxy.reload().await, "round {round}");
        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let refused = UnixStream::connect(&socket).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        echoes(&mut on_unix).await;
        for socket in &mut sockets {
            echoes(socket).await;
        }
    }
}

#[tokio::test]
async fn a_mistake_leaves_the_old_configuration_serving_and_is_told() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "good");
    authority.issue(&["a.test"]).write(dir.path(), "other");
    std::fs::write(dir.path().join("garbage.crt"), "not PEM").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let echo = Upstream::echoing("echo").await;
    let good = route("/", echo.addr);
    let proxy = Proxy::start_in(dir, &config(&good)).await;
    let mut socket = open(&proxy, "/").await;

    let tls = |cert: &str, key: &str| {
        format!(
            "[[listener]]\nbind = \"127.0.0.2:0\"\ntls = {{ cert = '{cert}', key = '{key}' }}\n{good}"
        )
    };
    let mistakes = [
        ("[[route]\n".to_owned(), "sluicegate.toml:"),
        ("[[route]]\nto = \"nobody\"\n".to_owned(), "nobody"),
        (format!("{good}hots = 'a'\n"), "did you mean `host`"),
        (tls("garbage.crt", "good.key"), "garbage.crt"),
        (tls("absent.crt", "good.key"), "absent.crt"),
        (tls("good.crt", "other.key"), "other.key"),
        (
            format!("{good}plugins = ['p']\n[plugin.p]\nwasm = 'absent.wasm'\n"),
            "absent.wasm",
        ),
        (
            format!("{good}[[listener]]\nbind = '{taken}'\n"),
            "cannot listen on",
        ),
    ];
    for (count, (mistake, told)) in mistakes.iter().enumerate() {
        proxy.rewrite_config(&config(mistake));
        assert!(!proxy.reload().await, "{mistake}");
        proxy.log_line(told, |line| line.contains(told)).await;
        let (status, outcome) = proxy.post_reload().await;
        assert_eq!(
            (status, &outcome["result"]),
            (422, &"rejected".into()),
            "{mistake}"
        );
        let report = outcome["report"].as_str().unwrap();
        assert!(report.contains(told), "{report}");

        let rejected = r#"sluicegate_reloads_total{result="rejected"}"#;
        assert_eq!(proxy.metric(rejected).await, Some(2.0 * (count + 1) as f64));
        assert_eq!(
            proxy.metric("sluicegate_config_generation").await,
            Some(1.0)
        );
        echoes(&mut socket).await;
        echoes(&mut open(&proxy, "/").await).await;
    }
    std::fs::remove_file(proxy.config_path()).unwrap();
    assert!(!proxy.reload().await);
    assert_eq!(proxy.admin_get("/readyz").await.0, 200);

    proxy.rewrite_config(&config(&good));
    let (status, outcome) = proxy.post_reload().await;
    assert_eq!(status, 200);
    assert_eq!(outcome["result"], "applied");
    assert_eq!(outcome["generation"], 2);
    let applied = r#"sluicegate_reloads_total{result="applied"}"#;
    assert_eq!(proxy.metric(applied).await, Some(1.0));
    assert_eq!(
        proxy.metric("sluicegate_config_generation").await,
        Some(2.0)
    );
    echoes(&mut socket).await;
}

#[tokio::test]
async fn what_needs_a_restart_is_told_until_it_is_taken_back() {
    let config = |admin: &str, workers: usize| {
        format!(
            "[[listener]]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"{admin}\"\n\
             [runtime]\nworkers = {workers}\n[[route]]\nrespond = {{}}\n"
        )
    };
    let (here, elsewhere) = ("127.0.0.1:0", format!("127.0.0.1:{}", free_port()));
    let admin_bind = "warning: a change of `[admin] bind` needs a restart\n";
    let workers = "warning: a change of `[runtime] workers` needs a restart\n";
    let proxy = Proxy::start(&config(here, 1)).await;
    for (text, warnings) in [
        (config(here, 1), String::new()),
        (config(&elsewhere, 1), admin_bind.to_owned()),
        (config(here, 2), workers.to_owned()),
        (config(&elsewhere, 2), [admin_bind, workers].concat()),
        // Still not what runs.
        (config(&elsewhere, 2), [admin_bind, workers].concat()),
        (config(here, 1), String::new()),
    ] {
        proxy.rewrite_config(&text);
        let (status, outcome) = proxy.post_reload().await;
        assert_eq!(status, 200);
        assert_eq!(outcome["warnings"], warnings, "{text}");
        assert_eq!(client::get(proxy.addr(0), "/").await.0.status, 200);
    }
    assert!(TcpStream::connect(&elsewhere).await.is_err());

    let warnings = || {
        let log = proxy.stderr_text();
        log.matches("configuration reloaded with warnings").count()
    };
    assert_eq!(warnings(), 4);
    proxy.rewrite_config(&config(here, 3));
    assert!(proxy.reload().await);
    assert_eq!(warnings(), 5);
}

#[tokio::test]
async fn a_tunnel_keeps_the_idle_timeout_it_began_with() {
    let echo = Upstream::echoing("echo").await;
    let with_idle = |idle: &str| {
        config(&format!(
            "{}idle_timeout = \"{idle}\"\n",
            route("/", echo.addr)
        ))
    };
    let proxy = Proxy::start(&with_idle("700ms")).await;
    let short_began = Instant::now();
    let mut short = open(&proxy, "/").await;
    proxy.rewrite_config(&with_idle("1h"));
    assert!(proxy.reload().await);
    let mut long = open(&proxy, "/").await;
    proxy.rewrite_config(&with_idle("100ms"));
    assert!(proxy.reload().await);
    let shortest_began = Instant::now();
    let mut shortest = open(&proxy, "/").await;

    for (socket, began, idle) in [
        (&mut shortest, shortest_began, 100),
        (&mut short, short_began, 700),
    ] {
        let message = soon("a Close", socket.next()).await;
        let Some(Ok(Message::Close(Some(frame)))) = message else {
            panic!("{message:?}");
        };
        assert_eq!(&*frame.reason, "idle timeout");
        assert!(began.elapsed() >= Duration::from_millis(idle));
    }
    echoes(&mut long).await;
}

#[tokio::test]
async fn endpoints_keep_their_leases_and_their_health() {
    let echo = Upstream::echoing("echo").await;
    let dead = free_port();
    let with_limit = |limit: usize| {
        config(&format!(
            r#"
            [upstream.live]
            servers = ["{}"]
            max_connections = {limit}
            [upstream.dead]
            servers = ["127.0.0.1:{dead}"]
            health = {{ fails = 1, out_for = "1h" }}
            [[route]]
            to = "live"
            [[route]]
            path = "/dead"
            to = "dead"
            "#,
            echo.addr
        ))
    };
    let proxy = Proxy::start(&with_limit(1)).await;
    let mut before = open(&proxy, "/").await;
    assert_eq!(client::get(proxy.addr(0), "/dead").await.0.status, 502);
    for (limit, status) in [(1, 503), (2, 101)] {
        proxy.rewrite_config(&with_limit(limit));
        assert!(proxy.reload().await);
        let stream = client::tcp(proxy.addr(0)).await;
        let request = client::ws_request("ws://a.test/", &[]);
        let opened = client::websocket(stream, request).await;
        match status {
            101 => echoes(&mut opened.unwrap().0).await,
            _ => assert!(opened.unwrap_err().to_string().contains("503")),
        }
        // Out before, out afterwards: nobody tries to connect.
        assert_eq!(client::get(proxy.addr(0), "/dead").await.0.status, 503);
    }
    echoes(&mut before).await;
}

/// What keeps the proxy busy until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(proxy: &Proxy) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        let addr = proxy.addr(0);
        for number in 0..12 {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                match number % 3 {
                    0 => long_lived(addr, &stop, &done).await,
                    1 => short_lived(addr, &stop, &done).await,
                    _ => requests(addr, &stop, &done).await,
                }
            });
        }
        Load { stop, done, tasks }
    }

    /// Ends it; a failure of any task is one of the test. Gives back what was done.
    async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = soon("the end of the load", self.tasks.join_next()).await {
            ended.unwrap();
        }
        self.done.load(Ordering::SeqCst)
    }
}

async fn dial(addr: SocketAddr) -> WebSocketStream<TcpStream> {
    let request = client::ws_request("ws://a.test/ws/", &[]);
    let stream = client::tcp(addr).await;
    client::websocket(stream, request).await.unwrap().0
}

async fn long_lived(addr: SocketAddr, stop: &AtomicBool, done: &AtomicUsize) {
    let mut socket = dial(addr).await;
    while !stop.load(Ordering::SeqCst) {
        echoes(&mut socket).await;
        done.fetch_add(1, Ordering::SeqCst);
    }
}

async fn short_lived(addr: SocketAddr, stop: &AtomicBool, done: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        let mut socket = dial(addr).await;
        echoes(&mut socket).await;
        socket.close(None).await.unwrap();
        while soon("the end of a socket", socket.try_next())
            .await
            .is_ok_and(|m| m.is_some())
        {}
        done.fetch_add(1, Ordering::SeqCst);
    }
}

async fn requests(addr: SocketAddr, stop: &AtomicBool, done: &AtomicUsize) {
    let mut stream = client::tcp(addr).await;
    while !stop.load(Ordering::SeqCst) {
        let (head, described) = client::ask(&mut stream, "a.test", "/x", "").await.unwrap();
        assert_eq!(head.status, 200);
        assert!(described["server"].is_string());
        done.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn reloads_in_quick_succession_under_load_lose_and_leak_nothing() {
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let echo = Upstream::echoing("echo").await;
    let (a, b) = (
        Upstream::describing("a").await,
        Upstream::describing("b").await,
    );
    // Two configurations that differ in everything but the load's own paths.
    let version = |first: &Upstream, second: &Upstream, bind: &str, name: &str| {
        config(&format!(
            r#"
            [[listener]]
            bind = "{bind}"
            tls = {{ cert = "a.crt", key = "a.key" }}
            [upstream.pages]
            servers = ["{}", "{}"]
            [[route]]
            name = "{name}"
            to = "pages"
            [[route]]
            path = "/ws/"
            to = "{}"
            "#,
            first.addr, second.addr, echo.addr
        ))
    };
    let versions = [
        version(&a, &b, "127.0.0.2:0", "left"),
        version(&b, &a, "127.0.0.3:0", "right"),
    ];
    let proxy = Proxy::start_in(dir, &versions[0]).await;
    let idle = proxy.descriptors();
    let load = Load::start(&proxy);
    let mut pace = tokio::time::interval(Duration::from_millis(60));
    let mut resident = Vec::new();
    for round in 1..=60 {
        pace.tick().await;
        proxy.rewrite_config(&versions[round % 2]);
        assert!(proxy.reload().await, "round {round}");
        resident.push(proxy.resident_kib());
    }
    let done = load.stop().await;
    assert!(done > 200, "only {done} exchanges");
    assert_eq!(
        proxy
            .metric(r#"sluicegate_reloads_total{result="applied"}"#)
            .await,
        Some(60.0)
    );
    // The connections kept alive to endpoints that are gone go too.
    proxy.rewrite_config(&config("[[route]]\nrespond = {}\n"));
    assert!(proxy.reload().await);
    until("the release of the descriptors", || async {
        (proxy.descriptors() <= idle).then_some(())
    })
    .await;
    let (early, late) = (resident[19], resident[59]);
    assert!(
        late < early + 2 * 1024,
        "resident memory went from {early} to {late} KiB: {resident:?}"
    );
}
