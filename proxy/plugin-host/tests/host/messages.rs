//! Conversations with a filter of messages, behaved and not.

mod services;

use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluicegate_plugin_host::messages::{
    Conversation, Ending, Injection, Interest, Isolation, Kind, Kinds, MIN_EVERY, Message, Moment,
    Opening, Reaction, Side, Verdict,
};
use sluicegate_plugin_host::{
    CallFacts, Filter, FilterError, Grants, Host, Limits, LoadError, Outbound, OutboundFuture,
    OutboundRequest, OutboundResponse, Plugin,
};
use tokio::sync::Notify;

use crate::support::{Lines, MESSAGES, host, imaging_host, modules, request, response};

/// What the plugin needs of grants.
fn grants() -> Grants {
    Grants {
        kv: true,
        http: vec!["idp".into()],
        ..Grants::default()
    }
}

fn loaded(host: &Arc<Host>, limits: Limits) -> Arc<Plugin> {
    host.load("talker", &MESSAGES, limits, &grants())
        .expect("it loads")
}

async fn configured(plugin: &Arc<Plugin>, does: &str) -> Filter {
    let config = format!(r#"{{"does":"{does}"}}"#);
    plugin
        .configure(&config)
        .await
        .expect("it takes the config")
}

/// One whose conversations share an instance, up to so many.
async fn shared(does: &str, per_instance: u32) -> Filter {
    let filter = configured(&loaded(&host(4), Limits::default()), does).await;
    filter.conversing(Some(Isolation::Shared), seats(per_instance))
}

fn seats(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("not zero")
}

fn opening(path: &str) -> Opening {
    let head = request(&[("user-agent", "test")]);
    Opening {
        request_id: "id-1".into(),
        route: "the-route".into(),
        host: "ws.example.com".into(),
        path: path.into(),
        query: Some("a=1".into()),
        client_ip: [192, 0, 2, 7].into(),
        headers: head.headers.clone(),
        subprotocol: Some("chat".into()),
        labels: vec![("sub".into(), "ann".into())],
        kept: Bytes::from_static(b"something"),
    }
}

fn facts() -> Arc<CallFacts> {
    Arc::clone(&request(&[]).facts)
}

async fn open(filter: &Filter) -> Conversation {
    try_open(filter).await.expect("it opens")
}

async fn try_open(filter: &Filter) -> Result<Conversation, FilterError> {
    let conversation = filter.open(&opening("/ws"), facts()).await?;
    Ok(conversation.expect("it is interested"))
}

async fn say(conversation: &mut Conversation, text: &str) -> Result<Reaction, FilterError> {
    let text = text.as_bytes();
    conversation
        .on_message(Side::Client, Kind::Text, text)
        .await
}

/// What takes the place of a text.
async fn answer(conversation: &mut Conversation, text: &str) -> String {
    match say(conversation, text).await.expect("a reaction").verdict {
        Verdict::Replace(Message { data, .. }) => String::from_utf8(data).expect("text"),
        other => panic!("{other:?}"),
    }
}

async fn failure(conversation: &mut Conversation, text: &str) -> FilterError {
    say(conversation, text).await.expect_err("it fails")
}

async fn has_failed(conversation: &mut Conversation) -> bool {
    poll_fn(|cx| Poll::Ready(conversation.poll_failed(cx).is_ready())).await
}

fn verdict(verdict: Verdict) -> Reaction {
    Reaction {
        verdict,
        inject: Vec::new(),
    }
}

#[tokio::test]
async fn a_message_is_passed_dropped_replaced_or_ends_it_all() {
    let filter = shared("", 10).await;
    assert!(filter.plugin().description().message_hooks);
    let mut conversation = open(&filter).await;
    let mut ask = async |sender, kind, data: &[u8], expect| {
        let reaction = conversation.on_message(sender, kind, data).await;
        assert_eq!(reaction.expect("a reaction"), verdict(expect));
    };
    let replaced = |kind, data: &[u8]| {
        let data = data.to_vec();
        Verdict::Replace(Message { kind, data })
    };
    ask(Side::Client, Kind::Text, b"hello", Verdict::Forward).await;
    ask(Side::Client, Kind::Text, b"", Verdict::Forward).await;
    ask(Side::Client, Kind::Text, b"drop", Verdict::Drop).await;
    ask(
        Side::Client,
        Kind::Text,
        b"sender",
        replaced(Kind::Text, b"Side::Client"),
    )
    .await;
    ask(
        Side::Server,
        Kind::Text,
        b"sender",
        replaced(Kind::Text, b"Side::Server"),
    )
    .await;
    ask(
        Side::Client,
        Kind::Text,
        "as-binary é".as_bytes(),
        replaced(Kind::Binary, "é".as_bytes()),
    )
    .await;
    ask(Side::Client, Kind::Binary, &[0; 9], Verdict::Forward).await;
    ask(
        Side::Server,
        Kind::Binary,
        &[1; 9],
        replaced(Kind::Binary, &[9]),
    )
    .await;
    ask(
        Side::Server,
        Kind::Ping,
        b"pong?",
        replaced(Kind::Ping, b"pong?"),
    )
    .await;
    ask(Side::Server, Kind::Pong, b"pong!", Verdict::Forward).await;
    let closed = |reason: &str| Verdict::Close {
        code: 4001,
        reason: reason.to_owned(),
    };
    ask(
        Side::Client,
        Kind::Text,
        b"close 4001 enough",
        closed("enough"),
    )
    .await;
    let long = "long".repeat(100);
    ask(
        Side::Client,
        Kind::Text,
        b"close 4001 long",
        closed(&long[..123]),
    )
    .await;
}

#[tokio::test]
async fn injections_keep_their_order_side_and_moment() {
    let mut conversation = open(&shared("", 10).await).await;
    let reaction = say(&mut conversation, "inject 64")
        .await
        .expect("a reaction");
    assert_eq!(reaction.verdict, Verdict::Forward);
    assert_eq!(reaction.inject.len(), 64);
    for (n, injection) in reaction.inject.iter().enumerate() {
        let expect = Injection {
            to: if n % 2 == 0 {
                Side::Client
            } else {
                Side::Server
            },
            moment: if n % 3 == 0 {
                Moment::Before
            } else {
                Moment::After
            },
            message: Message {
                kind: Kind::Text,
                data: n.to_string().into_bytes(),
            },
        };
        assert_eq!(*injection, expect);
    }
}

#[tokio::test]
async fn the_opening_is_told_and_may_be_declined() {
    let filter = shared("", 10).await;
    let mut conversation = open(&filter).await;
    let told = answer(&mut conversation, "opening").await;
    for part in [
        "id-1 the-route ws.example.com /ws Some(\"a=1\") 192.0.2.7",
        "user-agent: test",
        "Some(\"chat\")",
        "[(\"sub\", \"ann\")]",
    ] {
        assert!(told.contains(part), "`{part}` in {told}");
    }
    assert_eq!(answer(&mut conversation, "kept").await, "something");
    let declined = filter.open(&opening("/none"), facts()).await;
    assert!(declined.expect("no failure").is_none());
    // One that declines leaves nothing behind.
    assert_eq!(answer(&mut conversation, "count").await, "3 of 3, 1 open");
}

#[tokio::test]
async fn interest_is_asked_once_configured() {
    let plugin = loaded(&host(4), Limits::default());
    let filter = configured(&plugin, "wants-small wants-timer wants-close").await;
    let interest = Interest {
        from_client: Kinds::DATA | Kinds::PING,
        from_server: Kinds::DATA,
        max_size: Some(1000),
        every: Some(MIN_EVERY),
        close: true,
    };
    assert_eq!(filter.interest(), Some(&interest));
    for nothing in ["wants-nothing", "silent"] {
        let filter = configured(&plugin, nothing).await;
        assert_eq!(filter.interest(), None, "{nothing}");
        let opened = filter.open(&opening("/ws"), facts()).await;
        assert!(opened.expect("no failure").is_none());
    }
    for (does, label) in [("wants-trap", "trap"), ("wants-memory", "memory")] {
        let config = format!(r#"{{"does":"{does}"}}"#);
        let error = plugin.configure(&config).await.expect_err("it fails");
        assert!(
            error.to_string().starts_with("configure failed"),
            "{label}: {error}"
        );
    }
}

#[tokio::test]
async fn conversations_share_an_instance_and_no_state() {
    let filter = shared("", 2).await;
    let mut first = open(&filter).await;
    let mut second = open(&filter).await;
    assert_eq!(answer(&mut first, "count").await, "1 of 1, 2 open");
    assert_eq!(answer(&mut second, "count").await, "1 of 2, 2 open");
    assert_eq!(answer(&mut first, "count").await, "2 of 3, 2 open");
    // A third finds no seat, and gets an instance of its own.
    let mut third = open(&filter).await;
    assert_eq!(answer(&mut third, "count").await, "1 of 1, 1 open");
    // A seat that becomes free is taken again; what was there is gone by then.
    drop(first);
    let mut fourth = open(&filter).await;
    assert_eq!(answer(&mut fourth, "count").await, "1 of 4, 2 open");
    let mut fifth = open(&filter).await;
    assert_eq!(answer(&mut fifth, "count").await, "1 of 2, 2 open");
    // Another filter of the same config has instances of its own.
    let other = filter.conversing(Some(Isolation::Shared), seats(2));
    let mut sixth = open(&other).await;
    assert_eq!(answer(&mut sixth, "count").await, "1 of 1, 1 open");
}

#[tokio::test]
async fn an_instance_ends_with_its_last_conversation() {
    let filter = configured(&loaded(&host(1), Limits::default()), "").await;
    let filter = filter.conversing(Some(Isolation::Shared), seats(2));
    for _ in 0..3 {
        let (first, mut second) = (open(&filter).await, open(&filter).await);
        drop(first);
        assert_eq!(answer(&mut second, "count").await, "1 of 1, 1 open");
        let error = try_open(&filter.conversing(None, seats(9))).await;
        assert_eq!(error.expect_err("it is taken").label(), "no_instance");
    }
}

#[tokio::test(start_paused = true)]
async fn conversations_are_bounded_and_leave_room_for_handshakes() {
    let two = Limits {
        instances: seats(2),
        ..Limits::default()
    };
    for (limits, most) in [(two, 2), (Limits::default(), 3)] {
        let filter = configured(&loaded(&host(4), limits), "request").await;
        let filter = filter.conversing(Some(Isolation::Connection), seats(1000));
        let mut held = Vec::new();
        while held.len() < most {
            held.push(open(&filter).await);
        }
        let error = try_open(&filter).await.expect_err("no more");
        assert_eq!(error.label(), "no_instance");
        if most == 3 {
            let (_, outcome) = filter.on_request(request(&[])).await;
            assert!(outcome.is_ok(), "the fourth is for handshakes");
        }
        held.pop();
        held.push(open(&filter).await);
    }
}

#[tokio::test]
async fn isolated_conversations_have_an_instance_each() {
    let plugin = loaded(&host(3), Limits::default());
    let filter = configured(&plugin, "").await;
    // As it imports what waits, this is the default.
    for filter in [
        filter.clone(),
        filter.conversing(None, seats(1000)),
        filter.conversing(Some(Isolation::Connection), seats(1000)),
    ] {
        let mut all = [
            open(&filter).await,
            open(&filter).await,
            open(&filter).await,
        ];
        for conversation in &mut all {
            assert_eq!(answer(conversation, "count").await, "1 of 1, 1 open");
        }
        assert_eq!(failure(&mut all[0], "trap").await.label(), "trap");
        assert!(!has_failed(&mut all[1]).await);
        assert_eq!(answer(&mut all[1], "count").await, "2 of 2, 1 open");
    }
}

#[tokio::test]
async fn what_a_conversation_does_wrong_ends_all_of_its_instance() {
    let limits = Limits {
        call_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let plugin = loaded(&host(4), limits);
    for (does, text, label) in [
        ("", "trap", "trap"),
        ("", "loop", "timeout"),
        ("", "memory", "memory"),
        ("", "large 2000000", "bad_reply"),
    ] {
        let filter = configured(&plugin, does).await;
        let filter = filter.conversing(Some(Isolation::Shared), seats(2));
        let (mut culprit, mut victim) = (open(&filter).await, open(&filter).await);
        let mut other = open(&filter).await;
        assert!(!has_failed(&mut victim).await);
        let woken = tokio::spawn(async move {
            poll_fn(|cx| victim.poll_failed(cx)).await;
            victim
        });
        tokio::task::yield_now().await;
        assert_eq!(failure(&mut culprit, text).await.label(), label, "{text}");
        let mut victim = woken.await.expect("no panic");
        assert!(has_failed(&mut culprit).await);
        let error = failure(&mut victim, "hello").await;
        assert_eq!(error.label(), "instance_gone");
        assert!(!error.is_fault());
        assert!(!has_failed(&mut other).await, "in another instance");
        assert!(say(&mut other, "hello").await.is_ok());
        // Who comes now gets a fresh one.
        let mut next = open(&filter).await;
        assert!(say(&mut next, "hello").await.is_ok());
    }
}

#[tokio::test]
async fn a_reaction_just_over_the_limit_ends_nothing() {
    let filter = shared("", 2).await;
    let (mut culprit, mut victim) = (open(&filter).await, open(&filter).await);
    let error = failure(&mut culprit, "large 1048577").await;
    assert_eq!(error.label(), "bad_reply");
    for conversation in [&mut culprit, &mut victim] {
        assert!(!has_failed(conversation).await);
        assert!(say(conversation, "hello").await.is_ok());
    }
}

#[tokio::test]
async fn a_trap_names_the_function() {
    let mut conversation = open(&shared("", 2).await).await;
    let FilterError::Trap { reason, backtrace } = failure(&mut conversation, "trap").await else {
        panic!("another error");
    };
    assert!(reason.contains("unreachable"), "{reason}");
    assert!(backtrace.contains("trap_as_asked"), "{backtrace}");
}

#[tokio::test]
async fn a_reaction_that_breaks_a_rule_ends_nothing() {
    let filter = shared("", 2).await;
    let mut conversation = open(&filter).await;
    for (text, expect) in [
        (
            "inject 65",
            "65 messages of its own; at most 64 are allowed",
        ),
        (
            "inject 1000",
            "1000 messages of its own; at most 64 are allowed",
        ),
        ("as-ping 1", "a ping in place of a text"),
        (
            "inject-ping 126",
            "a ping of 126 bytes; at most 125 are allowed",
        ),
        ("close 1005 x", "close code `1005` may not be sent"),
        ("close 999 x", "close code `999` may not be sent"),
        ("close 1006 x", "close code `1006` may not be sent"),
    ] {
        let error = failure(&mut conversation, text).await;
        assert_eq!(
            error.to_string(),
            format!("gave a reaction that cannot be carried out: {expect}")
        );
        assert!(error.is_fault() && error.label() == "bad_reply");
        assert!(!has_failed(&mut conversation).await);
    }
    assert_eq!(answer(&mut conversation, "count").await, "8 of 8, 1 open");
}

#[tokio::test]
async fn what_comes_back_is_bounded() {
    let limits = Limits {
        message_output: 1000,
        ..Limits::default()
    };
    let filter = configured(&loaded(&host(4), limits), "").await;
    for (text, fits) in [
        ("large 1000", true),
        ("large 1001", false),
        ("large 5000000", false),
    ] {
        let mut conversation = open(&filter).await;
        match say(&mut conversation, text).await {
            Ok(_) => assert!(fits, "{text}"),
            Err(error) => {
                let expect = "gave more messages than `message_output` allows, 1000 bytes";
                assert_eq!(error.to_string(), expect);
                assert!(!fits, "{text}");
            }
        }
    }
    let large = Limits {
        message_output: 4 << 20,
        ..Limits::default()
    };
    let filter = configured(&loaded(&host(4), large), "").await;
    let reaction = say(&mut open(&filter).await, "large 4194304").await;
    assert!(reaction.is_ok(), "{reaction:?}");
}

#[tokio::test]
async fn misbehaviour_at_other_moments_ends_the_instance_too() {
    let limits = Limits {
        call_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let plugin = loaded(&host(4), limits);
    let ending = Ending {
        code: None,
        by: None,
        cause: "eof",
    };
    for (how, label) in [("trap", "trap"), ("loop", "timeout"), ("memory", "memory")] {
        let filter = async |moment: &str| {
            let does = format!("wants-close wants-timer {moment}-{how}");
            let filter = configured(&plugin, &does).await;
            filter.conversing(Some(Isolation::Shared), seats(9))
        };
        let error = try_open(&filter("open").await).await.expect_err("it fails");
        assert_eq!(error.label(), label, "open");

        let timer = filter("timer").await;
        let (mut first, mut second) = (open(&timer).await, open(&timer).await);
        let error = first.on_timer().await.expect_err("it fails");
        assert_eq!(error.label(), label, "timer");
        assert!(has_failed(&mut second).await);

        let close = filter("close").await;
        let (first, mut second) = (open(&close).await, open(&close).await);
        let error = first.on_close(&ending).await.expect_err("it fails");
        assert_eq!(error.label(), label, "close");
        assert!(has_failed(&mut second).await);

        // A destructor runs at the next call, which pays for it.
        let destructor = filter("drop").await;
        let (first, mut second) = (open(&destructor).await, open(&destructor).await);
        drop(first);
        assert!(!has_failed(&mut second).await);
        assert_eq!(failure(&mut second, "hello").await.label(), label, "drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_the_door_waits_for_one_instance() {
    let plugin = loaded(&host(1), Limits::default());
    let other = configured(&plugin, "").await;
    let filter = other.conversing(Some(Isolation::Shared), seats(100));
    let holder = open(&other).await;
    let crowd = |count: usize| {
        let filter = &filter;
        let all = (0..count).map(move |_| {
            let filter = filter.clone();
            tokio::spawn(async move { try_open(&filter).await })
        });
        all.collect::<Vec<_>>()
    };
    for opened in crowd(3) {
        let error = opened.await.expect("no panic").expect_err("all are taken");
        assert!(
            ["no_instance", "instance_gone"].contains(&error.label()),
            "{error}"
        );
        assert!(!error.is_fault());
    }
    let crowd = crowd(100);
    tokio::task::yield_now().await;
    drop(holder);
    let mut inside = Vec::new();
    for opened in crowd {
        inside.push(opened.await.expect("no panic").expect("it opens"));
    }
    assert_eq!(answer(&mut inside[0], "count").await, "1 of 1, 100 open");
}

#[tokio::test]
async fn calls_take_turns_in_their_order_and_let_the_thread_go_on() {
    let limits = Limits {
        call_timeout: Duration::from_secs(20),
        wall_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let filter = configured(&loaded(&host(4), limits), "").await;
    let filter = filter.conversing(Some(Isolation::Shared), seats(9));
    let (mut slow, mut first, mut second) = (
        open(&filter).await,
        open(&filter).await,
        open(&filter).await,
    );
    let other = configured(filter.plugin(), "").await;
    let mut other = open(&other).await;
    let mut slow = pin!(answer(&mut slow, "spin 300"));
    let mut first = pin!(answer(&mut first, "count"));
    let mut second = pin!(answer(&mut second, "count"));
    assert!(
        poll_once(&mut slow).await.is_none(),
        "it computes, and yields"
    );
    assert!(
        poll_once(&mut first).await.is_none(),
        "it waits for its turn"
    );
    assert!(poll_once(&mut second).await.is_none());
    // In another instance nothing waits.
    assert_eq!(answer(&mut other, "count").await, "1 of 1, 1 open");
    let (second, first, slow) = tokio::join!(biased; second, first, slow);
    assert_eq!(
        [&slow, &first, &second],
        ["1 of 1", "1 of 2, 3 open", "1 of 3, 3 open"]
    );
}

async fn poll_once<T>(future: &mut std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_the_instance() {
    let limits = Limits {
        call_timeout: Duration::from_secs(60),
        wall_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let filter = configured(&loaded(&host(1), limits), "").await;
    let filter = filter.conversing(Some(Isolation::Shared), seats(9));
    let (mut first, mut second) = (open(&filter).await, open(&filter).await);
    {
        let mut call = pin!(say(&mut first, "loop"));
        assert!(poll_once(&mut call).await.is_none());
        let mut waiting = pin!(say(&mut second, "hello"));
        assert!(poll_once(&mut waiting).await.is_none());
    }
    assert!(has_failed(&mut second).await);
    // One that gives up before its turn harms nobody.
    let (mut third, mut fourth) = (open(&filter).await, open(&filter).await);
    {
        let mut call = pin!(answer(&mut third, "spin 300"));
        assert!(poll_once(&mut call).await.is_none());
        {
            let mut waiting = pin!(say(&mut fourth, "hello"));
            assert!(poll_once(&mut waiting).await.is_none());
        }
        assert_eq!(call.await, "1 of 1");
    }
    assert_eq!(answer(&mut fourth, "count").await, "1 of 2, 2 open");
}

#[tokio::test]
async fn timers_and_ends_are_told() {
    let lines = Lines::collect();
    let filter = shared("wants-close wants-timer", 9).await;
    let mut conversation = open(&filter).await;
    say(&mut conversation, "hello").await.expect("a reaction");
    let reaction = conversation.on_timer().await.expect("a reaction");
    assert_eq!(reaction.verdict, Verdict::Forward);
    assert_eq!(reaction.inject[0].message.data, b"timer 1");
    let ending = Ending {
        code: Some(1001),
        by: Some(Side::Server),
        cause: "close",
    };
    conversation.on_close(&ending).await.expect("no failure");
    let text = lines.text();
    assert!(
        text.contains("over after 1: Some(1001) Some(Side::Server) close"),
        "{text}"
    );
    assert!(
        text.contains("talker") && text.contains("the-route"),
        "{text}"
    );

    let filter = shared("wants-timer timer-drops", 9).await;
    let mut conversation = open(&filter).await;
    let error = conversation
        .on_timer()
        .await
        .expect_err("there is nothing to drop");
    assert_eq!(error.label(), "bad_reply");
    conversation
        .on_close(&ending)
        .await
        .expect("it does not want to know");
}

#[tokio::test]
async fn what_the_hooks_keep_comes_to_the_conversation() {
    let filter = shared("request response", 9).await;
    let (_, outcome) = filter.on_request(request(&[])).await;
    let outcome = outcome.expect("a verdict");
    assert_eq!(outcome.kept, "refused true");
    let hook = outcome.response_hook.expect("it has the hook");
    let (_, answered) = hook.on_response(response(&[])).await;
    let kept = answered.expect("a verdict").kept;
    assert_eq!(kept, "refused true, and more");
    let opening = Opening {
        kept,
        ..opening("/ws")
    };
    let conversation = filter.open(&opening, facts()).await.expect("it opens");
    let mut conversation = conversation.expect("it is interested");
    assert_eq!(
        answer(&mut conversation, "kept").await,
        "refused true, and more"
    );
    // A reused instance remembers nothing of another request.
    let reusing = filter.reusing(seats(100));
    for _ in 0..2 {
        let (_, outcome) = reusing.on_request(request(&[])).await;
        assert_eq!(outcome.expect("a verdict").kept, "refused true");
    }
}
