//! An oracle for whole conversations: two ends of our own say to each other what a number decides, through
//! each filter and each way with compression, in any fragmentation and any chunking of the stream, and what
//! each of them hears must be what a model of the filter says. Over HTTP/2 they say it again, on streams of one
//! connection on either side.
//!
//! A number makes the same conversation everywhere; a failure names it. `SLUICEGATE_CONVERSATIONS` runs
//! others than the usual ones: `17` one, `1000..20000` a range.

#[path = "conversations/speech.rs"]
mod speech;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use sluicegate_tests::client;
use sluicegate_tests::http2::client::Client;
use sluicegate_tests::http2::server::{Arrival, Manner, Server};
use sluicegate_tests::proxy::{Proxy, conversation_guest};
use sluicegate_tests::websocket::frame::{self, Frame};
use sluicegate_tests::websocket::leg::Wire;
use sluicegate_tests::websocket::negotiation::{Deflate, Params};
use sluicegate_tests::websocket::opening::Wish;
use sluicegate_tests::websocket::random::Random;
use sluicegate_tests::websocket::{AnyPeer, Heard, Message, Peer, Receiver, Role};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use speech::{Speech, text};

/// A filter on the route, and what becomes of messages there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// None: frames are followed.
    None,
    Pass,
    Redact,
    /// As `Redact`, but larger messages are not of interest to it.
    RedactSmall,
    DropThird,
    Inject,
    /// `Redact` and `DropThird`, the second with an instance of its own for each tunnel.
    Both,
}

/// The route's `compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Pass,
    Terminate,
    Off,
}

/// One conversation, as its number decides it.
#[derive(Debug)]
struct Conversation {
    filter: Filter,
    compression: Compression,
    /// What the client offers; empty: nothing.
    offers: String,
    /// How the server would like to compress.
    wish: Option<Deflate>,
    /// Who begins the closing handshake, and its payload.
    closer: Role,
    close: Vec<u8>,
}

/// What the other end is to hear of it.
struct Expected {
    /// A message's `wire` is what it was; whether it must be that again is `as_it_was`.
    heard: Heard,
    as_it_was: bool,
}

/// What one end's speech turns into.
#[derive(Default)]
struct Outcome {
    to_other: Vec<Expected>,
    /// Texts that its own end gets.
    replies: Vec<String>,
}

/// What became of the messages, but for empty ones, that their sender had compressed and no filter changed.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    said: u32,
    /// Heard as they came, byte for byte.
    passed: u32,
    /// Heard compressed by the proxy.
    recompressed: u32,
}

/// One for each way with compression in which a message may be compressed where it is read.
#[derive(Debug, Default)]
struct Tallies {
    pass: Tally,
    terminate: Tally,
}

/// Where clients come in.
enum Door {
    /// Each on a connection of its own.
    Http1(SocketAddr),
    /// All on this one.
    Http2(Client),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_heard_is_what_a_model_says() {
    hold_all("http", async |address| Door::Http1(address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_it_is_the_same() {
    hold_all("h2c", async |address| {
        Door::Http2(Client::plain(address).await)
    })
    .await;
}

/// `scheme` is the servers'.
async fn hold_all(scheme: &str, door: impl AsyncFnOnce(SocketAddr) -> Door) {
    let numbers = numbers();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let manner = Manner::WEBSOCKET;
        lanes.push(Server::new(manner).await);
    }
    let config = config(scheme, &lanes, &conversation_guest().await);
    let proxy = Proxy::start(&config).await;
    let door = Arc::new(door(proxy.addr(0)).await);
    let running = lanes.into_iter().enumerate().map(|(lane, server)| {
        let (numbers, door) = (numbers.clone(), Arc::clone(&door));
        tokio::spawn(async move {
            let (mut failed, mut tallies) = (Vec::new(), Tallies::default());
            for number in numbers.filter(|number| *number as usize % LANES == lane) {
                let mut random = Random::new(number);
                let conversation = Conversation::of(number, &mut random);
                let path = conversation.path(lane);
                let told = format!("{number}: {conversation:?}");
                let holding = async {
                    let pair = conversation.open(&door, &path, &server).await;
                    let tally = conversation.hold(pair, random).await;
                    tallies.add(&conversation, tally);
                };
                if std::panic::AssertUnwindSafe(holding)
                    .catch_unwind()
                    .await
                    .is_err()
                {
                    failed.push(told);
                }
            }
            (failed, tallies)
        })
    });
    let (mut failed, mut tallies) = (Vec::new(), Tallies::default());
    for lane in futures_util::future::join_all(running).await {
        let (of_lane, counted) = lane.unwrap();
        failed.extend(of_lane);
        tallies.pass.add(counted.pass);
        tallies.terminate.add(counted.terminate);
    }
    let count = failed.len();
    assert!(
        failed.is_empty(),
        "{count} conversations failed:\n{}",
        failed.join("\n")
    );
    // Or nothing was shown of compression.
    if numbers == USUAL {
        for tally in [tallies.pass, tallies.terminate] {
            let counts = [tally.said, tally.passed, tally.recompressed];
            assert!(!counts.contains(&0), "{tallies:?}");
        }
    }
}

impl Conversation {
    fn of(number: u64, random: &mut Random) -> Conversation {
        let kind = number as usize / LANES;
        let offers_and_wish = |random: &mut Random| {
            let mut bits = || random.pick(&[8, 9, 10, 11, 12, 13, 14, 15, 15, 15, 15]);
            let (client, server, limit) = (bits(), bits(), bits());
            let params = |window_bits, random: &mut Random| Params {
                window_bits,
                takeover: !random.once_in(3),
            };
            let wish = Deflate {
                client: params(client, random),
                server: params(server, random),
            };
            let mut offer = "permessage-deflate".to_owned();
            let mut also = |once_in, parameter: &str| {
                if random.once_in(once_in) {
                    offer = format!("{offer}; {parameter}");
                }
            };
            also(1, "client_max_window_bits");
            also(3, &format!("server_max_window_bits={limit}"));
            also(5, "server_no_context_takeover");
            also(6, "client_no_context_takeover");
            (offer, Some(wish))
        };
        let (offers, wish) = match random.below(8) {
            0 => (String::new(), None),
            // Offered, and not taken up.
            1 => (offers_and_wish(random).0, None),
            _ => offers_and_wish(random),
        };
        let close = match random.below(4) {
            0 => Vec::new(),
            1 => Frame::close(1000, "").payload,
            _ => {
                let code = random.pick(&[1000, 1001, 1003, 1011, 3000, 4999]);
                Frame::close(code, &text(random, 10)).payload
            }
        };
        Conversation {
            filter: FILTERS[kind % FILTERS.len()],
            compression: COMPRESSIONS[kind / FILTERS.len() % COMPRESSIONS.len()],
            offers,
            wish,
            closer: random.pick(&[Role::Client, Role::Server]),
            close,
        }
    }

    fn path(&self, lane: usize) -> String {
        format!("/{lane}/{:?}/{:?}/", self.filter, self.compression)
    }

    /// Both ends: the client's, the server's.
    async fn open(&self, door: &Door, path: &str, server: &Server) -> (AnyPeer, AnyPeer) {
        let offers = [("sec-websocket-extensions", self.offers.as_str())];
        let fields = if self.offers.is_empty() {
            &[]
        } else {
            &offers[..]
        };
        let asking = async {
            match door {
                Door::Http1(address) => {
                    let stream: Box<dyn Wire> = Box::new(client::tcp(*address).await);
                    Peer::ask(stream, path, fields).await
                }
                Door::Http2(client) => AnyPeer::connect_on(client, path, fields).await,
            }
        };
        let wish = Wish {
            deflate: self.wish,
            subprotocol: None,
        };
        let answering = async {
            let arrival = server.next().await;
            let of_http2 = matches!(arrival, Arrival::Http2(_));
            assert_eq!(of_http2, matches!(door, Door::Http2(_)));
            AnyPeer::answer(arrival, wish).await
        };
        let (client, server) = tokio::join!(asking, answering);
        (client.expect("a WebSocket"), server)
    }

    async fn hold(&self, (client, server): (AnyPeer, AnyPeer), mut random: Random) -> Tally {
        self.check_negotiation(&client, &server);
        let params = |peer: &AnyPeer, role| {
            let deflate = peer.deflate?;
            Some(match role {
                Role::Client => deflate.client,
                Role::Server => deflate.server,
            })
        };
        let up = (params(&client, Role::Client), params(&server, Role::Client));
        let down = (params(&server, Role::Server), params(&client, Role::Server));
        let from_client = Speech::new(Role::Client, up.0, &mut random);
        let from_server = Speech::new(Role::Server, down.0, &mut random);
        let up = self.outcome(&from_client, up);
        let down = self.outcome(&from_server, down);

        let (mut to_proxy, mut from_proxy) = (client.sender, client.receiver);
        let (mut to_server, mut at_server) = (server.sender, server.receiver);
        let (one, other) = (Random::new(random.number()), Random::new(random.number()));
        let ((), (), server_heard, client_heard) = tokio::join!(
            in_pieces(&mut to_proxy, &from_client.wire, one),
            in_pieces(&mut to_server, &from_server.wire, other),
            listen(&mut at_server, &up.to_other, &down.replies, "the server"),
            listen(&mut from_proxy, &down.to_other, &up.replies, "the client"),
        );
        match self.closer {
            Role::Client => {
                self.close(
                    (&mut to_proxy, &mut from_proxy),
                    (&mut to_server, &mut at_server),
                )
                .await;
            }
            Role::Server => {
                self.close(
                    (&mut to_server, &mut at_server),
                    (&mut to_proxy, &mut from_proxy),
                )
                .await;
            }
        }
        // The server's end goes first.
        to_server.shutdown().await.unwrap();
        assert_eq!(from_proxy.next().await, Heard::End);
        // The proxy may be gone already.
        let _ = to_proxy.shutdown().await;
        assert_eq!(at_server.next().await, Heard::End);
        let mut tally = server_heard;
        tally.add(client_heard);
        tally
    }

    fn check_negotiation(&self, client: &AnyPeer, server: &AnyPeer) {
        match self.compression {
            Compression::Pass => assert_eq!(client.deflate, server.deflate),
            Compression::Off => {
                assert_eq!((client.deflate, server.deflate), (None, None));
                assert_eq!(server.extensions, "");
            }
            // Each leg as its two ends see fit, if only the proxy takes what it is offered.
            Compression::Terminate => {
                let taken = client.deflate.map(|deflate| deflate.accept(&self.offers));
                let taken = taken.map(|again| again.expect("it was offered").1);
                assert_eq!(client.deflate, taken);
            }
        }
    }

    /// What becomes of a speech, with the sender's parameters and the receiver's.
    fn outcome(
        &self,
        speech: &Speech,
        (sender, receiver): (Option<Params>, Option<Params>),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut data_messages = 0;
        // The contexts of both legs are the same.
        let mut together = self.compression == Compression::Pass;
        let independent = sender.is_none_or(|params| !params.takeover);
        for heard in &speech.said {
            let Heard::Message(message) = heard else {
                outcome.tell(heard.clone(), false);
                continue;
            };
            data_messages += 1;
            let text = message
                .text
                .then(|| String::from_utf8(message.data.clone()).unwrap());
            let as_it_was = match message.compressed {
                true => self.compression == Compression::Pass && (together || independent),
                // One that may be compressed for the receiver need not be as it was.
                false => self.compression != Compression::Terminate || receiver.is_none(),
            };
            let small = message.data.len() <= SMALL;
            match (self.filter, text) {
                (Filter::DropThird | Filter::Both, _) if data_messages % 3 == 0 => {
                    together &= !message.compressed;
                }
                (Filter::Redact | Filter::Both, Some(text)) if text.contains("secret") => {
                    together = false;
                    outcome.tell_text(&text.replace("secret", "******"));
                }
                (Filter::RedactSmall, Some(text)) if small && text.contains("secret") => {
                    together = false;
                    outcome.tell_text(&text.replace("secret", "******"));
                }
                (Filter::Inject, Some(text)) if text.starts_with('!') => {
                    let size = text.len();
                    // The proxy may compress its own.
                    together = false;
                    outcome.tell_text(&format!("before {size}"));
                    outcome.tell(Heard::Ping(size.to_string().into_bytes()), false);
                    outcome.tell(
                        heard.clone(),
                        as_it_was && (!message.compressed || independent),
                    );
                    outcome.tell_text(&format!("after {size}"));
                    outcome.replies.push(format!("reply {size}"));
                }
                // A reply of the filter's to the other side comes at any time.
                (Filter::Inject, _) => {
                    outcome.tell(
                        heard.clone(),
                        as_it_was && (!message.compressed || independent),
                    );
                }
                _ => outcome.tell(heard.clone(), as_it_was),
            }
        }
        outcome
    }

    /// The closing handshake.
    async fn close<S, R>(&self, one: (&mut S, &mut Receiver<R>), other: (&mut S, &mut Receiver<R>))
    where
        S: AsyncWrite + Unpin,
        R: AsyncRead + Unpin,
    {
        let frame = |role: Role| {
            let close = Frame::new(frame::CLOSE, self.close.clone());
            match role {
                Role::Client => close.masked([1, 2, 3, 4]).encode(),
                Role::Server => close.encode(),
            }
        };
        let answerer = match self.closer {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        let payload = self.close.split_first_chunk::<2>();
        let expected = Heard::Close(payload.map(|(code, reason)| {
            (
                u16::from_be_bytes(*code),
                String::from_utf8(reason.to_vec()).unwrap(),
            )
        }));
        one.0.write_all(&frame(self.closer)).await.unwrap();
        assert_eq!(other.1.next().await, expected);
        other.0.write_all(&frame(answerer)).await.unwrap();
        assert_eq!(one.1.next().await, expected);
    }
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.said += other.said;
        self.passed += other.passed;
        self.recompressed += other.recompressed;
    }
}

impl Tallies {
    fn add(&mut self, conversation: &Conversation, tally: Tally) {
        match conversation.compression {
            // Nobody reads it.
            Compression::Pass if conversation.filter == Filter::None => {}
            Compression::Pass => self.pass.add(tally),
            Compression::Terminate => self.terminate.add(tally),
            Compression::Off => assert_eq!(tally.said, 0),
        }
    }
}

impl Outcome {
    fn tell(&mut self, heard: Heard, as_it_was: bool) {
        self.to_other.push(Expected { heard, as_it_was });
    }

    /// A text that the filter has made.
    fn tell_text(&mut self, text: &str) {
        let message = Message {
            text: true,
            data: text.as_bytes().to_vec(),
            compressed: false,
            wire: Vec::new(),
        };
        self.tell(Heard::Message(message), false);
    }
}

/// Hears what is expected, in its order; between it come the replies, in theirs.
async fn listen(
    receiver: &mut Receiver<impl AsyncRead + Unpin>,
    expected: &[Expected],
    replies: &[String],
    who: &str,
) -> Tally {
    let mut tally = Tally::default();
    let (mut expected, mut replies) = (expected.iter(), replies.iter());
    while expected.len() > 0 || replies.len() > 0 {
        let heard = receiver.next().await;
        let left = expected.len();
        if let Heard::Message(message) = &heard
            && message.data.starts_with(b"reply ")
        {
            let reply = replies.next().map(String::as_bytes);
            assert_eq!(
                Some(message.data.as_slice()),
                reply,
                "{who}, a reply, {left} left"
            );
            continue;
        }
        let Some(next) = expected.next() else {
            panic!("{who}: nothing more is expected, and {heard:?} came");
        };
        match (&heard, &next.heard) {
            (Heard::Message(heard), Heard::Message(message)) => {
                assert_eq!(heard.text, message.text, "{who}, {left} left");
                assert!(
                    heard.data == message.data,
                    "{who}, {left} left: {} bytes were to be heard, and these were:\n{:?}",
                    message.data.len(),
                    String::from_utf8_lossy(&heard.data),
                );
                let same = heard.wire == message.wire;
                assert!(same || !next.as_it_was, "{who}, {left} left: other frames");
                if message.compressed && !message.data.is_empty() {
                    tally.said += 1;
                    tally.passed += u32::from(same);
                    tally.recompressed += u32::from(!same && heard.compressed);
                }
            }
            (heard, expected) => assert_eq!(heard, expected, "{who}, {left} left"),
        }
    }
    tally
}

/// Writes in pieces of any size, letting others run between them.
async fn in_pieces(stream: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8], mut random: Random) {
    // Not too many of them.
    let least = bytes.len() / 400;
    while !bytes.is_empty() {
        let size = random.pick(&[1, 2, 7, 60, 1400, 20_000, 200_000]) + least;
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        stream.write_all(piece).await.unwrap();
        bytes = rest;
        for _ in 0..random.below(4) {
            tokio::task::yield_now().await;
        }
    }
}

fn numbers() -> Range<u64> {
    let Ok(asked) = std::env::var("SLUICEGATE_CONVERSATIONS") else {
        return USUAL;
    };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&asked)..number(&asked) + 1,
    }
}

fn config(scheme: &str, lanes: &[Server], wasm: &Path) -> String {
    let mut config = format!(
        r#"
        [[listener]]
        bind = "127.0.0.1:0"
        http2 = true
        [plugin.guest]
        wasm = "{}"
        "#,
        wasm.display()
    );
    for (lane, server) in lanes.iter().enumerate() {
        let address = server.addr;
        config += &format!("[upstream.lane{lane}]\nservers = ['{scheme}://{address}']\n");
        for filter in FILTERS {
            let plugin = match filter {
                Filter::None => String::new(),
                Filter::Pass => used("act = 'pass'"),
                Filter::Redact => used("act = 'redact'"),
                Filter::RedactSmall => used(&format!("act = 'redact', max_size = {SMALL}")),
                Filter::DropThird => used("act = 'drop_third'"),
                Filter::Inject => used("act = 'inject'"),
                Filter::Both => {
                    let second = "{ use = 'guest', config = { act = 'drop_third' }, isolation = 'connection' }";
                    used("act = 'redact'").replace("]", &format!(", {second}]"))
                }
            };
            for compression in COMPRESSIONS {
                let word = format!("{compression:?}").to_lowercase();
                config += &format!(
                    r#"
                    [[route]]
                    path = "/{lane}/{filter:?}/{compression:?}/"
                    to = "lane{lane}"
                    compression = "{word}"
                    {plugin}
                    "#
                );
            }
        }
    }
    config
}

fn used(config: &str) -> String {
    format!("plugins = [{{ use = 'guest', config = {{ {config} }} }}]")
}

const FILTERS: [Filter; 7] = [
    Filter::None,
    Filter::Pass,
    Filter::Redact,
    Filter::RedactSmall,
    Filter::DropThird,
    Filter::Inject,
    Filter::Both,
];
const COMPRESSIONS: [Compression; 3] =
    [Compression::Pass, Compression::Terminate, Compression::Off];
/// Conversations that are held at the same time.
const LANES: usize = 4;
/// Sixteen of each filter and compression.
const USUAL: Range<u64> = 0..16 * 7 * 3;
/// Bytes of the largest message that [`Filter::RedactSmall`] wants to see.
const SMALL: usize = 300;
