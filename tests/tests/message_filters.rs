//! Filters of messages behind the real binary: what a failure does to whom, timers, what a handshake's hook
//! keeps, pings; over TLS, across a reload and a stop; the end of a session; what is counted.
//!
//! What filters make of messages in all ways of compression and fragmentation is in `conversations.rs`.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use sluicegate_tests::certs::Authority;
use sluicegate_tests::proxy::{Proxy, conversation_guest};
use sluicegate_tests::upstream::Script;
use sluicegate_tests::websocket::deflate::Deflater;
use sluicegate_tests::websocket::frame::{self, COMPRESSED, Frame};
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{Heard, Peer};
use sluicegate_tests::{client, soon};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{WebSocketStream, tungstenite};

/// A client's end of a tunnel and its server's.
struct Tunnel {
    client: Peer,
    server: Peer,
}

impl Tunnel {
    async fn open(proxy: &Proxy, script: &Script, path: &str) -> Tunnel {
        let (client, server) = Peer::pair(proxy.addr(0), path, "", script, None).await;
        Tunnel { client, server }
    }

    /// The client says this, and the server hears that.
    async fn up(&mut self, said: &str, heard: &str) {
        self.client
            .say(Frame::new(frame::TEXT, said))
            .await
            .unwrap();
        assert_eq!(self.server.next().await.text(), heard);
    }

    /// The server says this, and the client hears that.
    async fn down(&mut self, said: &str, heard: &str) {
        self.server
            .say(Frame::new(frame::TEXT, said))
            .await
            .unwrap();
        assert_eq!(self.client.next().await.text(), heard);
    }

    /// Both ends hear this Close and answer it, and nothing before it; then the tunnel is over.
    async fn ends_with(mut self, code: u16, reason: &str) {
        let close = Heard::Close(Some((code, reason.to_owned())));
        for end in [&mut self.client, &mut self.server] {
            assert_eq!(end.next().await, close);
            end.say(Frame::close(code, "")).await.unwrap();
        }
        for end in [&mut self.client, &mut self.server] {
            assert_eq!(end.next().await, Heard::End);
        }
    }

    /// The client says Close, and the server answers.
    async fn close(mut self) {
        let close = Frame::close(1000, "");
        let heard = Heard::Close(Some((1000, String::new())));
        self.client.say(close.clone()).await.unwrap();
        assert_eq!(self.server.next().await, heard);
        self.server.say(close).await.unwrap();
        assert_eq!(self.client.next().await, heard);
        drop(self.server);
        assert_eq!(self.client.next().await, Heard::End);
    }
}

/// A proxy whose tunnels share one thread, with the guest on each of these routes to one server: the path, and
/// what the entry of `plugins` says besides its name. `more` goes on with the plugin's table.
async fn start(script: &Script, more: &str, routes: &[(&str, &str)]) -> Proxy {
    let mut config = more.to_owned();
    for (path, entry) in routes {
        config += &format!(
            r#"
            [[route]]
            path = "{path}"
            to = "{}"
            plugins = [{{ use = "guest", {entry} }}]
            "#,
            script.addr
        );
    }
    Proxy::with_guest(&config).await
}

/// The `ws.close` of a tunnel on this path.
async fn close_line(proxy: &Proxy, path: &str) -> Value {
    proxy
        .access_event("ws.close", |event| event["path"] == path)
        .await
}

/// The series of what the guest said about messages on this route.
fn answers(route: &str, verdict: &str) -> String {
    format!(
        r#"sluicegate_plugin_messages_total{{plugin="guest",route="{route}",verdict="{verdict}"}}"#
    )
}

#[tokio::test]
async fn a_failure_closes_both_sides_unless_the_message_is_to_pass() {
    let script = Script::new().await;
    let closing = "config = { act = 'fail' }";
    let passing = "config = { act = 'fail' }, on_message_error = 'pass'";
    let passing_all = "config = { act = 'fail' }, on_error = 'pass'";
    let closing_yet = "config = { act = 'fail' }, on_error = 'pass', on_message_error = 'close'";
    for (path, entry, passes) in [
        ("/default/", closing, false),
        ("/pass/", passing, true),
        ("/pass-all/", passing_all, true),
        ("/close/", closing_yet, false),
    ] {
        let proxy = start(&script, "", &[(path, entry)]).await;
        for (failure, label) in [
            ("trap", "trap"),
            ("loop", "timeout"),
            ("nonsense", "bad_reply"),
        ] {
            let told = format!("{path}: {failure}");
            let own = format!("{path}{failure}");
            let mut tunnel = Tunnel::open(&proxy, &script, &own).await;
            tunnel.up("count", "1").await;
            let (start, rest) = failure.split_at(2);
            let pieces = [
                Frame::new(frame::TEXT, start).unfinished(),
                Frame::new(frame::CONTINUATION, rest),
            ];
            let wire = pieces
                .map(|piece| piece.masked([9, 8, 7, 6]).encode())
                .concat();
            tunnel.client.send(&wire).await.unwrap();
            if passes {
                let Heard::Message(message) = tunnel.server.next().await else {
                    panic!("{told}: no message");
                };
                assert_eq!(message.wire, wire, "{told}");
                // The instance that failed is not asked again; one that talked nonsense is.
                let heard = if label == "bad_reply" { "3" } else { "count" };
                tunnel.up("count", heard).await;
                tunnel.close().await;
            } else {
                tunnel.ends_with(1011, "a filter failed").await;
            }
            let line = close_line(&proxy, &own).await;
            let ended = ["cause", "close_code", "closed_by"].map(|key| line[key].clone());
            let expected: [Value; 3] = match passes {
                true => ["close".into(), 1000.into(), "client".into()],
                false => ["filter_failed".into(), 1011.into(), "proxy".into()],
            };
            assert_eq!(ended, expected, "{told}");
            proxy.until_metric(&answers(path, label), 1.0).await;
        }
    }
}

#[tokio::test]
async fn a_trap_ends_the_tunnels_of_its_instance_and_no_others() {
    let script = Script::new().await;
    let shared = "config = { act = 'fail' }";
    let alone = "config = { act = 'fail' }, connections_per_instance = 1";
    let passing = "config = { act = 'fail' }, on_message_error = 'pass'";
    let routes = [
        ("/shared/", shared),
        ("/other/", shared),
        ("/alone/", alone),
        ("/pass/", passing),
    ];
    let proxy = start(&script, "", &routes).await;
    let open = |path: &'static str| {
        let (proxy, script) = (&proxy, &script);
        async move {
            let mut tunnel = Tunnel::open(proxy, script, path).await;
            tunnel.up("count", "1").await;
            tunnel
        }
    };
    let trap = Frame::new(frame::TEXT, "trap");
    let (mut one, two) = (open("/shared/one").await, open("/shared/two").await);
    let mut other = open("/other/").await;
    let (mut first, mut second) = (open("/alone/").await, open("/alone/").await);

    one.client.say(trap.clone()).await.unwrap();
    one.ends_with(1011, "a filter failed").await;
    // It has said nothing itself.
    two.ends_with(1011, "a filter failed").await;
    for path in ["/shared/one", "/shared/two"] {
        assert_eq!(close_line(&proxy, path).await["cause"], "filter_failed");
    }
    other.up("count", "2").await;
    first.server.say(trap.clone()).await.unwrap();
    first.ends_with(1011, "a filter failed").await;
    second.up("count", "2").await;
    second.down("count", "3").await;
    // Who comes next gets an instance that is well.
    let mut next = open("/shared/").await;
    next.up("count", "2").await;

    let (mut one, mut two) = (open("/pass/").await, open("/pass/").await);
    one.client.say(trap).await.unwrap();
    assert_eq!(one.server.next().await.text(), "trap");
    two.up("count", "count").await;
    two.down("count", "count").await;
    for route in ["/shared/", "/alone/", "/pass/"] {
        proxy.until_metric(&answers(route, "trap"), 1.0).await;
    }
    assert_eq!(proxy.metric(&answers("/other/", "trap")).await, None);
}

#[tokio::test]
async fn an_endless_loop_is_cut_while_another_route_goes_on() {
    let script = Script::new().await;
    let entry = "config = { act = 'fail' }";
    let routes = [("/loop/", entry), ("/echo/", entry)];
    // Time enough for the other one.
    let limits = "limits = { call_timeout = '500ms' }";
    let proxy = start(&script, limits, &routes).await;
    let mut looping = Tunnel::open(&proxy, &script, "/loop/").await;
    let mut echoing = Tunnel::open(&proxy, &script, "/echo/").await;
    looping.up("count", "1").await;
    let endless = Frame::new(frame::TEXT, "loop");
    looping.client.say(endless).await.unwrap();
    let is_cut = Cell::new(false);
    let cut = async {
        looping.ends_with(1011, "a filter failed").await;
        is_cut.set(true);
    };
    let echoes = async {
        let mut rounds = 0;
        while !is_cut.get() {
            echoing.up("hello", "hello").await;
            echoing.down("hello", "hello").await;
            rounds += 1;
        }
        rounds
    };
    let ((), rounds) = tokio::join!(cut, echoes);
    // A call that kept its thread would let one or two through.
    assert!(rounds >= 5, "only {rounds} rounds in the loop's time");
    proxy.until_metric(&answers("/loop/", "timeout"), 1.0).await;
}

#[tokio::test]
async fn a_receiver_may_leave_while_the_filter_thinks() {
    let script = Script::new().await;
    let entry = "config = { act = 'fail' }";
    let limits = "limits = { call_timeout = '2s' }";
    let proxy = start(&script, limits, &[("/", entry)]).await;
    let mut tunnel = Tunnel::open(&proxy, &script, "/").await;
    tunnel.up("count", "1").await;
    let endless = Frame::new(frame::TEXT, "loop");
    tunnel.client.say(endless).await.unwrap();
    tunnel.server.reset();
    assert_eq!(tunnel.client.next().await, Heard::End);
    // The call goes on until it is cut, and ends its instance then.
    let cut = answers("/", "timeout");
    assert_eq!(proxy.metric(&cut).await, None);
    assert_eq!(close_line(&proxy, "/").await["cause"], "reset");
    proxy.until_metric(&cut, 1.0).await;
    let mut next = Tunnel::open(&proxy, &script, "/").await;
    next.up("count", "1").await;
}

#[tokio::test]
async fn a_filter_that_fails_before_the_first_message_fails_the_handshake() {
    let script = Script::new().await;
    let routes = [
        ("/deny/", "config = { act = 'fail' }"),
        ("/pass/", "config = { act = 'fail' }, on_error = 'pass'"),
    ];
    let proxy = start(&script, "", &routes).await;
    let mut sharing = Tunnel::open(&proxy, &script, "/deny/").await;
    sharing.up("count", "1").await;
    let (answer, mut server) = tokio::join!(
        Peer::connect(proxy.addr(0), "/deny/?trap", ""),
        Peer::accept(&script, None)
    );
    assert_eq!(answer.err().expect("no 101").status(), 500);
    assert_eq!(server.next().await, Heard::End);
    sharing.ends_with(1011, "a filter failed").await;
    // Without the filter; whoever comes next has it.
    let mut tunnel = Tunnel::open(&proxy, &script, "/pass/?trap").await;
    tunnel.up("count", "count").await;
    let mut next = Tunnel::open(&proxy, &script, "/pass/").await;
    next.up("count", "1").await;
}

#[tokio::test]
async fn a_timer_sends_messages_where_nobody_says_anything() {
    let script = Script::new().await;
    let routes = [
        ("/tick/", "config = { act = 'tick' }"),
        ("/trap/", "config = { act = 'tick_trap' }"),
        (
            "/pass/",
            "config = { act = 'tick_trap' }, on_message_error = 'pass'",
        ),
    ];
    let proxy = start(&script, "", &routes).await;
    let began = Instant::now();
    let mut tunnel = Tunnel::open(&proxy, &script, "/tick/").await;
    for tick in ["tick 1", "tick 2", "tick 3"] {
        assert_eq!(tunnel.client.next().await.text(), tick);
        assert_eq!(tunnel.server.next().await.text(), tick);
    }
    // A tenth of a second before each of them.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(290), "{took:?}");
    let ticks = proxy.metric(&answers("/tick/", "forward")).await;
    assert!(ticks.unwrap() >= 3.0, "{ticks:?}");
    let tunnel = Tunnel::open(&proxy, &script, "/trap/").await;
    tunnel.ends_with(1011, "a filter failed").await;
    proxy.until_metric(&answers("/trap/", "trap"), 1.0).await;
    let mut tunnel = Tunnel::open(&proxy, &script, "/pass/").await;
    proxy.until_metric(&answers("/pass/", "trap"), 1.0).await;
    tunnel.up("hello", "hello").await;
    tunnel.down("hello", "hello").await;
}

#[tokio::test]
async fn what_the_handshake_kept_is_there_for_the_messages_of_the_same_filter() {
    let script = Script::new().await;
    // Two of them on one route; each knows its own only.
    let entry = "config = { act = 'keep', mark = 'first ' } }, \
                 { use = 'guest', config = { act = 'keep', mark = 'second ' }";
    let proxy = start(&script, "", &[("/", entry)]).await;
    let mut one = Tunnel::open(&proxy, &script, "/one").await;
    let mut two = Tunnel::open(&proxy, &script, "/two").await;
    one.up("kept", "first /one").await;
    two.up("kept", "first /two").await;
    // In reverse.
    one.down("kept", "second /one").await;
    two.down("kept", "second /two").await;
}

#[tokio::test]
async fn pings_are_shown_to_who_wants_them() {
    let script = Script::new().await;
    let proxy = start(&script, "", &[("/", "config = { act = 'pings' }")]).await;
    let mut tunnel = Tunnel::open(&proxy, &script, "/").await;
    let Tunnel { client, server } = &mut tunnel;
    let pieces = [
        Frame::new(frame::TEXT, "not of ").unfinished(),
        Frame::new(frame::PING, "between"),
        Frame::new(frame::PING, "drop"),
        Frame::new(frame::PONG, "pong"),
        Frame::new(frame::CONTINUATION, "interest"),
    ];
    for piece in pieces {
        client.say(piece).await.unwrap();
    }
    assert_eq!(server.next().await, Heard::Ping(b"BETWEEN".to_vec()));
    assert_eq!(server.next().await, Heard::Pong(b"pong".to_vec()));
    assert_eq!(server.next().await.text(), "not of interest");
    server.say(Frame::new(frame::PING, "back")).await.unwrap();
    assert_eq!(client.next().await, Heard::Ping(b"BACK".to_vec()));
    proxy.until_metric(&answers("/", "replace"), 2.0).await;
    proxy.until_metric(&answers("/", "drop"), 1.0).await;
    assert_eq!(proxy.metric(&answers("/", "forward")).await, None);
}

#[tokio::test]
async fn a_tunnel_over_tls_keeps_its_filter_across_a_reload_and_is_told_of_a_stop() {
    let script = Script::new().await;
    let (authority, dir) = (Authority::new("ca"), TempDir::new().unwrap());
    authority.issue(&["a.test"]).write(dir.path(), "a");
    let wasm = conversation_guest().await;
    let config = |mark: &str| {
        format!(
            r#"
            [[listener]]
            bind = "127.0.0.1:0"
            tls  = {{ cert = "a.crt", key = "a.key" }}
            [timeouts]
            drain = "1s"
            [plugin.guest]
            wasm = "{}"
            config = {{ act = "mark", mark = "{mark} " }}
            [[route]]
            to = "{}"
            plugins = ["guest"]
            "#,
            wasm.display(),
            script.addr
        )
    };
    let mut proxy = Proxy::start_in(dir, &config("old")).await;
    let tls = authority.client(&["http/1.1"]);
    let open = || async {
        let stream = client::tls(proxy.addr(0), "a.test", tls.clone()).await;
        let request = client::ws_request("wss://a.test/", &[]);
        let (client, server) = tokio::join!(
            client::websocket(stream.unwrap(), request),
            script.accept_websocket()
        );
        (client.unwrap().0, server)
    };
    let mut old = open().await;
    passes(&mut old.0, &mut old.1, "old hello").await;
    passes(&mut old.1, &mut old.0, "old hello").await;
    proxy.rewrite_config(&config("new"));
    assert!(proxy.reload().await, "{}", proxy.stderr_text());
    let mut new = open().await;
    passes(&mut new.0, &mut new.1, "new hello").await;
    passes(&mut old.0, &mut old.1, "old hello").await;
    passes(&mut old.1, &mut old.0, "old hello").await;
    passes(&mut new.1, &mut new.0, "new hello").await;
    proxy.signal(libc::SIGTERM);
    tokio::join!(
        is_told_to_go(old.0),
        is_told_to_go(old.1),
        is_told_to_go(new.0),
        is_told_to_go(new.1)
    );
    assert_eq!(proxy.exit_code().await, Some(0));
}

/// One end says `hello`, and the other hears this.
async fn passes<S, R>(
    sender: &mut WebSocketStream<S>,
    receiver: &mut WebSocketStream<R>,
    heard: &str,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    sender.send("hello".into()).await.unwrap();
    let message = soon("a message", receiver.next()).await.unwrap().unwrap();
    assert_eq!(message, tungstenite::Message::text(heard));
}

/// A Close of 1001, which is answered, and the end.
async fn is_told_to_go<S: AsyncRead + AsyncWrite + Unpin>(mut end: WebSocketStream<S>) {
    match soon("a Close", end.next()).await {
        Some(Ok(tungstenite::Message::Close(Some(frame)))) => {
            assert_eq!(u16::from(frame.code), 1001);
        }
        other => panic!("no Close but {other:?}"),
    }
    // Sends the answer.
    assert!(soon("the end", end.next()).await.is_none());
}

#[tokio::test]
async fn a_session_ends_in_its_time_whatever_its_filter_has_to_do() {
    let script = Script::new().await;
    let routes = [
        ("/moment/", "config = { act = 'fail', expires_in = 400 }"),
        ("/lifetime/", "config = { act = 'fail', lifetime = 400 }"),
        // The sooner of two holds, and a filter that ticks meanwhile changes nothing.
        (
            "/both/",
            "config = { act = 'fail', expires_in = 60000, lifetime = 400 } }, \
             { use = 'guest', config = { act = 'tick' }",
        ),
    ];
    let proxy = start(&script, "", &routes).await;
    for (path, _) in routes {
        let began = Instant::now();
        let mut tunnel = Tunnel::open(&proxy, &script, path).await;
        tunnel
            .client
            .say(Frame::new(frame::TEXT, "count"))
            .await
            .unwrap();
        let Tunnel { client, server } = &mut tunnel;
        let (at_client, at_server) = tokio::join!(until_close(client), until_close(server));
        // The clock of the filter counts whole milliseconds.
        assert!(began.elapsed() >= Duration::from_millis(399), "{path}");
        let without_ticks = |texts: Vec<String>| -> Vec<String> {
            let texts = texts.into_iter();
            texts.filter(|text| !text.starts_with("tick")).collect()
        };
        let close = (1008, "session expired".to_owned());
        assert_eq!(without_ticks(at_client.0), [""; 0], "{path}");
        assert_eq!(without_ticks(at_server.0), ["1"], "{path}");
        assert_eq!((at_client.1, at_server.1), (close.clone(), close), "{path}");
        let line = close_line(&proxy, path).await;
        assert_eq!(
            (&line["cause"], &line["close_code"], &line["closed_by"]),
            (&"expired".into(), &1008.into(), &"proxy".into()),
            "{path}"
        );
        assert_eq!(line["labels"]["path"], path);
    }
}

/// The texts that come before a Close, which is answered, and what it says.
async fn until_close(end: &mut Peer) -> (Vec<String>, (u16, String)) {
    let mut texts = Vec::new();
    loop {
        match end.next().await {
            Heard::Close(Some(close)) => {
                end.say(Frame::close(close.0, "")).await.unwrap();
                return (texts, close);
            }
            message => texts.push(message.text()),
        }
    }
}

#[tokio::test]
async fn messages_are_counted_by_verdict_and_where_they_are_compressed_anew() {
    let script = Script::new().await;
    let routes = [
        ("/redact/", "config = { act = 'redact' }"),
        ("/drop/", "config = { act = 'drop_third' }"),
        ("/close/", "config = { act = 'close' }"),
    ];
    let proxy = start(&script, "", &routes).await;
    let params = Params {
        window_bits: 15,
        takeover: true,
    };
    let wish = Deflate {
        client: params,
        server: params,
    };
    let offer = "permessage-deflate";
    let pair = Peer::pair(proxy.addr(0), "/redact/", offer, &script, Some(wish)).await;
    let (client, server) = pair;
    let mut tunnel = Tunnel { client, server };
    let secret = "the secret of a text that is worth it is that it is a secret ".repeat(3);
    let redacted = secret.replace("secret", "******");
    let random = &mut Random::new(1);
    let mut deflater = Deflater::new(params, random);
    for (said, heard) in [
        ("nothing", "nothing"),
        (&secret, &redacted),
        (&secret, &redacted),
    ] {
        let payload = deflater.message(said.as_bytes(), random);
        let frame = Frame::new(frame::TEXT, payload).with_rsv(COMPRESSED);
        tunnel.client.say(frame).await.unwrap();
        assert_eq!(tunnel.server.next().await.text(), heard);
    }
    // Not compressed by the server, but for the client.
    tunnel.down(&secret, &redacted).await;
    tunnel.down("nothing", "nothing").await;
    // Not of interest to this filter.
    let binary = Frame::new(frame::BINARY, "secret");
    tunnel.server.say(binary).await.unwrap();
    assert!(matches!(tunnel.client.next().await, Heard::Message(_)));
    tunnel.close().await;

    let mut tunnel = Tunnel::open(&proxy, &script, "/drop/").await;
    for (said, heard) in [("one", "one"), ("two", "two")] {
        tunnel.up(said, heard).await;
    }
    let third = Frame::new(frame::TEXT, "three");
    tunnel.client.say(third).await.unwrap();
    tunnel.up("four", "four").await;
    tunnel.close().await;

    let mut tunnel = Tunnel::open(&proxy, &script, "/close/").await;
    let close = Frame::new(frame::TEXT, "close 4000 enough");
    tunnel.server.say(close).await.unwrap();
    tunnel.ends_with(4000, "enough").await;

    let recompressed = |direction| {
        format!(
            r#"sluicegate_websocket_recompressed_messages_total{{route="/redact/",direction="{direction}"}}"#
        )
    };
    for (series, count) in [
        (answers("/redact/", "forward"), 2.0),
        (answers("/redact/", "replace"), 3.0),
        (answers("/drop/", "forward"), 3.0),
        (answers("/drop/", "drop"), 1.0),
        (answers("/close/", "close"), 1.0),
        (recompressed("from_downstream"), 2.0),
        (recompressed("from_upstream"), 1.0),
    ] {
        proxy.until_metric(&series, count).await;
    }
}
