//! A relay between two real sockets, with a judge that does what the messages say.

use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::model::{Allowance, Over, Rate, SideRules};
use crate::drain::Drain;
use crate::facts::ClosedBy;
use crate::tunnel::tests::{socket, tunnel};
use crate::tunnel::{
    Injection, Interest, Judged, Judging, Kind, Level, Message, Moment, Outcome, Receiver, Tunnel,
};
use crate::ws::control::encode_close;
use crate::ws::encode::encode_message;
use crate::ws::message::DataKind;

/// Obeys text: `drop`, `close`, `shout` (replaced in capitals), `inject` (to both, before and after),
/// `wait` (until it is told).
struct Puppet {
    /// Messages that were put before it.
    judged: Arc<AtomicU32>,
    told: Option<oneshot::Receiver<()>>,
    parted: Option<oneshot::Sender<Summary>>,
}

impl Puppet {
    async fn consider(&mut self, message: Message) -> Judged {
        let mut inject = Vec::new();
        let outcome = match &message.data.clone()[..] {
            b"drop" => Outcome::Drop,
            b"close" => Outcome::Stop(Box::new(Stop {
                cause: Cause::Filter,
                code: CloseCode(4001),
                reason: "said so".to_owned(),
                offender: None,
            })),
            b"shout" => Outcome::Replace(text("SHOUT")),
            b"inject" => {
                for to in [Receiver::Client, Receiver::Server] {
                    for moment in [Moment::Before, Moment::After] {
                        let message = text(&format!("{moment:?}"));
                        inject.push(Injection {
                            to,
                            moment,
                            message,
                        });
                    }
                }
                Outcome::Forward(message)
            }
            b"flood" => {
                let message = text(&"x".repeat(1 << 20));
                let (to, moment) = (Receiver::Client, Moment::After);
                inject.push(Injection {
                    to,
                    moment,
                    message,
                });
                Outcome::Drop
            }
            b"wait" => {
                if let Some(told) = self.told.take() {
                    told.await.unwrap();
                }
                Outcome::Forward(message)
            }
            _ => Outcome::Forward(message),
        };
        Judged { outcome, inject }
    }
}

impl Judge for Puppet {
    fn interest(&self, _: Side) -> Interest {
        Interest {
            text: true,
            max_size: 64,
            ..Interest::default()
        }
    }

    fn judge(mut self: Box<Self>, _: Side, message: Message) -> Judging {
        self.judged.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let judged = self.consider(message).await;
            (self as Box<dyn Judge>, judged)
        })
    }

    fn tick(self: Box<Self>) -> Judging {
        unreachable!("it has no clock")
    }

    fn next_tick(&self) -> Option<Instant> {
        None
    }

    fn poll_failed(&mut self, _: &mut Context<'_>) -> std::task::Poll<Box<Stop>> {
        std::task::Poll::Pending
    }

    fn part(
        mut self: Box<Self>,
        summary: Summary,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            if let Some(parted) = self.parted.take() {
                let _ = parted.send(summary);
            }
        })
    }
}

struct Rig {
    client: UnixStream,
    server: UnixStream,
    drain: Drain,
    judged: Arc<AtomicU32>,
    tunnel: JoinHandle<Summary>,
    /// Lets a judge who waits go on.
    tell: Option<oneshot::Sender<()>>,
    parted: Option<oneshot::Receiver<Summary>>,
}

impl Rig {
    fn judged() -> Rig {
        Rig::new(TunnelRules::default(), true)
    }

    fn ruled(change: impl FnOnce(&mut TunnelRules)) -> Rig {
        let mut rules = TunnelRules::default();
        change(&mut rules);
        Rig::new(rules, false)
    }

    fn new(rules: TunnelRules, judged: bool) -> Rig {
        let (client, downstream) = socket();
        let (server, upstream) = socket();
        let (tell, told) = oneshot::channel();
        let (parted, has_parted) = oneshot::channel();
        let count = Arc::new(AtomicU32::new(0));
        let puppet = Puppet {
            judged: Arc::clone(&count),
            told: Some(told),
            parted: Some(parted),
        };
        let drain = Drain::default();
        let silence = (rules.client.idle_timeout, rules.server.idle_timeout);
        let level = Level::Messages(Box::new(Terms {
            rules: Arc::new(rules),
            compression: Legs::default(),
            memory: None,
            judge: judged.then_some(Box::new(puppet)),
        }));
        let tunnel = Tunnel {
            silence,
            idle_timeout: Duration::from_secs(3600),
            ..tunnel(downstream, upstream, level, &drain)
        };
        Rig {
            client,
            server,
            drain,
            judged: count,
            tunnel: tokio::spawn(tunnel.run()),
            tell: Some(tell),
            parted: judged.then_some(has_parted),
        }
    }

    async fn says(&mut self, who: Side, bytes: &[u8]) {
        let socket = match who {
            Side::FromClient => &mut self.client,
            Side::FromServer => &mut self.server,
        };
        socket.write_all(bytes).await.unwrap();
    }

    /// What arrives at the receiver is exactly this.
    #[track_caller]
    fn hears(&mut self, who: Receiver, expect: &[u8]) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        let socket = match who {
            Receiver::Client => &mut self.client,
            Receiver::Server => &mut self.server,
        };
        async move {
            let mut bytes = vec![0; expect.len()];
            socket.read_exact(&mut bytes).await.unwrap();
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(expect),
                "at {at}"
            );
        }
    }
}

fn text(data: &str) -> Message {
    Message {
        kind: Kind::Text,
        data: data.as_bytes().to_vec(),
    }
}

fn from_client(data: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message(DataKind::Text, data.as_bytes(), Some(*b"mask"), &mut frame);
    frame
}

fn from_server(data: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_message(DataKind::Text, data.as_bytes(), None, &mut frame);
    frame
}

/// What a server hears, with whatever mask.
async fn unmasked(socket: &mut UnixStream) -> String {
    let mut head = [0; 6];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(head[1] & 0x80, 0x80, "masked");
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    socket.read_exact(&mut payload).await.unwrap();
    let mask = &head[2..];
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[i % 4];
    }
    String::from_utf8(payload).unwrap()
}

use Side::{FromClient, FromServer};

#[tokio::test]
async fn what_is_forwarded_arrives_byte_for_byte() {
    let mut rig = Rig::judged();
    // In two fragments, with a ping between them, and another message behind.
    let mut stream = vec![0x01, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    let ping = [0x89, 0x81, 9, 9, 9, 9, b'!' ^ 9];
    let rest = [0x80, 0x81, 5, 6, 7, 8, b'!' ^ 5];
    stream.extend_from_slice(&ping);
    stream.extend_from_slice(&rest);
    stream.extend_from_slice(&from_client("next"));
    rig.says(FromClient, &stream).await;
    // The message is whole before any of it goes on, so the ping overtakes it.
    let whole = [&ping[..], &stream[..8], &rest, &from_client("next")].concat();
    rig.hears(Receiver::Server, &whole).await;
    rig.says(FromServer, &from_server("ho")).await;
    rig.hears(Receiver::Client, &from_server("ho")).await;
}

#[tokio::test]
async fn messages_are_dropped_replaced_and_joined_by_others() {
    let mut rig = Rig::judged();
    let all = ["drop", "shout", "inject", "end"].map(from_server).concat();
    rig.says(FromServer, &all).await;
    let heard = ["SHOUT", "Before", "inject", "After", "end"].map(from_server);
    rig.hears(Receiver::Client, &heard.concat()).await;
    for heard in ["Before", "After"] {
        assert_eq!(unmasked(&mut rig.server).await, heard);
    }
    rig.says(FromClient, &from_client("shout")).await;
    assert_eq!(unmasked(&mut rig.server).await, "SHOUT");
}

#[tokio::test]
async fn a_message_in_court_holds_up_its_side_and_the_others_messages_only() {
    let mut rig = Rig::judged();
    let sent = ["wait", "behind it"].map(from_client).concat();
    rig.says(FromClient, &sent).await;
    // Nobody wants binary messages judged.
    let mut binary = Vec::new();
    encode_message(DataKind::Binary, b"unseen", None, &mut binary);
    rig.says(FromServer, &binary).await;
    rig.hears(Receiver::Client, &binary).await;
    rig.says(FromServer, &from_server("queued")).await;
    rig.tell.take().unwrap().send(()).unwrap();
    rig.hears(Receiver::Client, &from_server("queued")).await;
    rig.hears(Receiver::Server, &sent).await;
}

#[tokio::test]
async fn a_filters_close_tells_both_sides_and_comes_after_what_was_said_before() {
    let mut rig = Rig::judged();
    let sent = ["first", "close", "never"].map(from_client).concat();
    rig.says(FromClient, &sent).await;
    rig.hears(Receiver::Server, &from_client("first")).await;
    let close = encode_close(CloseCode(4001), "said so", None);
    rig.hears(Receiver::Client, &close).await;
    let mut at_server = [0; 6 + 9];
    rig.server.read_exact(&mut at_server).await.unwrap();
    assert_eq!(at_server[..2], [0x88, 0x80 | 9]);
    let answer = encode_close(CloseCode(4001), "", Some([0; 4]));
    rig.says(FromClient, &answer).await;
    let answer = encode_close(CloseCode(4001), "", None);
    rig.says(FromServer, &answer).await;
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.cause, Cause::Filter);
    assert_eq!(summary.closed_by, ClosedBy::Proxy);
    assert_eq!(summary.close_code, Some(CloseCode(4001)));
    assert_eq!(rig.parted.unwrap().await.unwrap(), summary);
}

#[tokio::test]
async fn a_tunnel_that_is_stopped_lets_its_judge_finish() {
    let mut rig = Rig::judged();
    rig.says(FromClient, &from_client("wait")).await;
    rig.says(FromServer, &[0x82, 1, b'!']).await;
    rig.hears(Receiver::Client, &[0x82, 1, b'!']).await;
    rig.drain.stop();
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.cause, Cause::Stopped);
    assert_eq!(rig.drain.live(), 1, "the judge still thinks");
    rig.tell.take().unwrap().send(()).unwrap();
    assert_eq!(rig.parted.unwrap().await.unwrap(), summary);
}

#[tokio::test(start_paused = true)]
async fn an_end_in_mid_thought_waits_for_the_verdict() {
    let mut rig = Rig::judged();
    rig.says(FromClient, &from_client("wait")).await;
    let close = encode_close(CloseCode::NORMAL, "bye", Some([0; 4]));
    rig.says(FromClient, &close).await;
    rig.says(FromServer, &from_server("x")).await;
    rig.tell.take().unwrap().send(()).unwrap();
    let all = [&from_client("wait")[..], &close].concat();
    rig.hears(Receiver::Server, &all).await;
}

#[tokio::test]
async fn what_is_injected_for_a_slow_reader_holds_the_sender_back() {
    let mut rig = Rig::judged();
    let flood = from_client("flood").repeat(64);
    rig.says(FromClient, &flood).await;
    let mut many = Vec::new();
    for _ in 0..1000 {
        many.extend_from_slice(&from_client("flood").repeat(100));
    }
    let (mut read, mut write) = rig.client.into_split();
    let writing = tokio::spawn(async move { write.write_all(&many).await });
    // 64 MiB would have been made of the first alone; what is made waits for the reader.
    let mut first = vec![0; 3 << 20];
    read.read_exact(&mut first).await.unwrap();
    assert!(!writing.is_finished(), "1.1 MB of orders are not all read");
    writing.abort();
    drop(read);
}

#[tokio::test(start_paused = true)]
async fn limits_close_with_their_codes() {
    let size = |rules: &mut TunnelRules| rules.client.message_size = Some(4);
    let only = |rules: &mut TunnelRules| rules.only = Some(crate::config::model::OnlyKind::Binary);
    let rate = |rules: &mut TunnelRules| rules.client.rate = Some(one_a_second(Over::Close));
    type Change = fn(&mut TunnelRules);
    let table: [(Change, &str, u16, Cause); 3] = [
        (size, "12345", 1009, Cause::MessageSize),
        (only, "text", 1003, Cause::MessageKind),
        (rate, "one too many", 1008, Cause::MessageRate),
    ];
    for (change, last, code, cause) in table {
        let mut rig = Rig::ruled(change);
        if cause == Cause::MessageRate {
            rig.says(FromClient, &from_client("fine")).await;
        }
        rig.says(FromClient, &from_client(last)).await;
        let mut close = [0; 4];
        rig.client.read_exact(&mut close).await.unwrap();
        assert_eq!((close[0], &close[2..]), (0x88, &code.to_be_bytes()[..]));
        drop((rig.client, rig.server));
        let summary = rig.tunnel.await.unwrap();
        assert_eq!((summary.cause, summary.closed_by), (cause, ClosedBy::Proxy));
        assert!(!summary.stop.unwrap().reason.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_can_hold_back_instead() {
    let mut rig = Rig::ruled(|rules| rules.client.rate = Some(one_a_second(Over::Wait)));
    let started = Instant::now();
    rig.says(FromClient, &from_client("x").repeat(4)).await;
    rig.hears(Receiver::Server, &from_client("x").repeat(4))
        .await;
    let took = started.elapsed();
    assert!((2..4).contains(&took.as_secs()), "{took:?}");
}

fn one_a_second(over: Over) -> Rate {
    let messages = Some(Allowance {
        per_second: 1,
        burst: 1,
    });
    Rate {
        messages,
        bytes: None,
        over,
    }
}

#[tokio::test(start_paused = true)]
async fn pings_of_our_own_are_answered_to_us_alone() {
    let second = Duration::from_secs(1);
    let mut rig = Rig::ruled(|rules| {
        rules.pong_timeout = 5 * second;
        rules.client = SideRules {
            ping_interval: Some(30 * second),
            ..SideRules::default()
        };
    });
    for _ in 0..3 {
        let mut ping = [0; 10];
        rig.client.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping[..2], [0x89, 8]);
        let mut pong = vec![0x8a, 0x88, 0, 0, 0, 0];
        pong.extend_from_slice(&ping[2..]);
        rig.says(FromClient, &pong).await;
        rig.says(FromClient, &from_client("hi")).await;
        rig.hears(Receiver::Server, &from_client("hi")).await;
    }
    // The fourth stays without a pong.
    let mut ping = [0; 10];
    rig.client.read_exact(&mut ping).await.unwrap();
    let started = Instant::now();
    let close = encode_close(CloseCode::GOING_AWAY, "no pong", None);
    rig.hears(Receiver::Client, &close).await;
    assert_eq!(started.elapsed().as_secs(), 5);
    drop((rig.client, rig.server));
    assert_eq!(rig.tunnel.await.unwrap().cause, Cause::PongTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_says_nothing_ends_it_though_the_other_talks() {
    let mut rig = Rig::ruled(|rules| rules.client.idle_timeout = Some(Duration::from_secs(8)));
    let started = Instant::now();
    for _ in 0..7 {
        rig.says(FromServer, &from_server("hello?")).await;
        rig.hears(Receiver::Client, &from_server("hello?")).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let close = encode_close(CloseCode::GOING_AWAY, "client idle timeout", None);
    rig.hears(Receiver::Client, &close).await;
    assert!((8..=10).contains(&started.elapsed().as_secs()));
    drop((rig.client, rig.server));
    assert_eq!(rig.tunnel.await.unwrap().cause, Cause::SilentClient);
}

#[tokio::test(start_paused = true)]
async fn a_broken_protocol_ends_it_and_the_other_side_hears_of_it() {
    let mut rig = Rig::judged();
    rig.says(FromClient, &from_client("fine")).await;
    // A reserved opcode.
    rig.says(FromClient, &[0x83, 0x80, 0, 0, 0, 0]).await;
    rig.hears(Receiver::Server, &from_client("fine")).await;
    let mut close = [0; 2];
    rig.server.read_exact(&mut close).await.unwrap();
    assert_eq!(close[0], 0x88);
    let mut close = [0; 4];
    rig.client.read_exact(&mut close).await.unwrap();
    assert_eq!((close[0], &close[2..]), (0x88, &[3, 0xea][..]));
    drop((rig.client, rig.server));
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.cause, Cause::Protocol);
    assert_eq!(summary.close_code, Some(CloseCode::PROTOCOL_ERROR));
}

#[tokio::test]
async fn who_breaks_a_rule_still_gets_what_the_other_had_said() {
    let mut rig = Rig::judged();
    rig.says(FromClient, &from_client("question")).await;
    rig.says(FromClient, &[0x83, 0x80, 0, 0, 0, 0]).await;
    rig.hears(Receiver::Server, &from_client("question")).await;
    let mut at_server = [0; 2];
    rig.server.read_exact(&mut at_server).await.unwrap();
    assert_eq!(at_server[0], 0x88, "the server is told at once");
    rig.says(FromServer, &from_server("answer")).await;
    let answer = encode_close(CloseCode::NORMAL, "fine", None);
    rig.says(FromServer, &answer).await;
    rig.hears(Receiver::Client, &from_server("answer")).await;
    let mut close = [0; 4];
    rig.client.read_exact(&mut close).await.unwrap();
    assert_eq!(
        (close[0], &close[2..]),
        (0x88, &[3, 0xea][..]),
        "ours, not its own"
    );
    drop((rig.client, rig.server));
    let summary = rig.tunnel.await.unwrap();
    assert_eq!(summary.cause, Cause::Protocol);
    assert_eq!(summary.close_code, Some(CloseCode::PROTOCOL_ERROR));
}

#[tokio::test]
async fn what_is_injected_behind_a_message_that_passes_has_a_bound_too() {
    let mut rig = Rig::judged();
    // Nobody wants binary messages judged, and this one takes its time.
    rig.says(FromServer, &[0x82, 3, b'a']).await;
    rig.hears(Receiver::Client, &[0x82, 3, b'a']).await;
    rig.says(FromClient, &from_client("flood").repeat(50)).await;
    rig.says(FromServer, b"b").await;
    rig.hears(Receiver::Client, b"b").await;
    assert_eq!(
        rig.judged.load(Ordering::Relaxed),
        1,
        "one is over the buffer"
    );
    rig.says(FromServer, b"c").await;
    let mut rest = vec![0; 1 + 50 * (10 + (1 << 20))];
    rig.client.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest[..3], [b'c', 0x81, 127]);
}

#[tokio::test]
async fn what_one_side_can_no_longer_take_never_reaches_the_other() {
    let mut rig = Rig::judged();
    rig.says(FromClient, &from_client("first")).await;
    rig.hears(Receiver::Server, &from_client("first")).await;
    // The tunnel sees both at once: the message, and that its receiver is gone.
    rig.says(FromClient, &from_client("late")).await;
    drop(rig.server);
    let mut heard = Vec::new();
    // A reset is an end as good as any.
    let _ = rig.client.read_to_end(&mut heard).await;
    assert_eq!(heard, b"");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_backlog_is_delivered_though_the_other_side_has_ended() {
    let mut rig = Rig::ruled(|rules| rules.client.rate = Some(one_a_second(Over::Wait)));
    rig.says(FromClient, &from_client("x").repeat(3)).await;
    rig.hears(Receiver::Server, &from_client("x")).await;
    rig.server.shutdown().await.unwrap();
    rig.hears(Receiver::Server, &from_client("x").repeat(2))
        .await;
}

mod memory;
