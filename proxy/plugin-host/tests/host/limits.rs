//! What a misbehaving plugin gets: an end, while everything else goes on.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sluicegate_plugin_host::{
    ConfigureError, Filter, FilterError, Grants, Limits, RequestHead, Verdict,
};

use crate::support::{GUEST, Lines, guest, host, plugin, request, response};

#[tokio::test]
async fn a_trap_names_the_function_and_undoes_the_edits() {
    let filter = guest(r#"{"request":"edit_and_trap"}"#).await;
    let original = request(&[("x-edited", "no")]);
    let (head, error) = failed(&filter, original.clone()).await;
    let FilterError::Trap { reason, backtrace } = error else {
        panic!("{error:?}")
    };
    assert!(reason.contains("unreachable"), "{reason}");
    assert!(backtrace.contains("trap_as_asked"), "{backtrace}");
    assert_eq!(head.headers, original.headers);
    assert_eq!(head.query, original.query);
}

#[tokio::test]
async fn a_failed_response_hook_undoes_its_own_edits_only() {
    let filter = guest(r#"{"request":"count","response":"edit_and_trap"}"#).await;
    let (head, outcome) = filter.on_request(request(&[])).await;
    let hook = outcome
        .expect("a verdict")
        .response_hook
        .expect("it has the hook");
    let (answer, verdict) = hook.on_response(response(&[("x-edited", "no")])).await;
    assert!(matches!(verdict, Err(FilterError::Trap { .. })));
    assert_eq!(answer.headers["x-edited"], "no");
    assert_eq!(head.headers["x-count"], "1");
}

#[tokio::test]
async fn a_loop_is_cut_while_the_same_thread_goes_on() {
    let filter = guest(r#"{"request":"loop"}"#).await;
    let turns = Arc::new(AtomicU32::new(0));
    let other = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let began = Instant::now();
    let (_, error) = failed(&filter, request(&[])).await;
    other.abort();
    assert_eq!(error.label(), "timeout");
    assert!(
        began.elapsed() >= Duration::from_millis(30),
        "it had its time"
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "cut after {:?}",
        began.elapsed()
    );
    assert!(
        turns.load(Ordering::Relaxed) > 5,
        "the other task went on meanwhile"
    );
}

#[tokio::test]
async fn bombs_and_bad_replies_fail_by_their_names() {
    let plugin = plugin(&host(2), &GUEST);
    for (act, label) in [
        ("trap", "trap"),
        ("memory", "memory"),
        ("stack", "trap"),
        ("loop", "timeout"),
        ("big_body", "bad_reply"),
        ("bad_status", "bad_reply"),
        ("bad_reply_header", "bad_reply"),
    ] {
        let filter = plugin
            .configure(&format!(r#"{{"request":"{act}"}}"#))
            .await
            .expect("config");
        let (_, error) = failed(&filter, request(&[])).await;
        assert_eq!(error.label(), label, "{act}: {error:?}");
        let hook = format!(r#"{{"response":"{act}"}}"#);
        let filter = plugin.configure(&hook).await.expect("config");
        let (_, outcome) = filter.on_request(request(&[])).await;
        let hook = outcome
            .expect("a verdict")
            .response_hook
            .expect("it has the hook");
        let (_, verdict) = hook.on_response(response(&[])).await;
        assert_eq!(verdict.expect_err("it fails").label(), label, "{act}");
    }
    // After all this the plugin still serves.
    let filter = plugin.configure("{}").await.expect("config");
    let (_, outcome) = filter.on_request(request(&[])).await;
    assert!(matches!(
        outcome.expect("a verdict").verdict,
        Verdict::Continue
    ));
}

#[tokio::test]
async fn configure_has_its_own_deadline() {
    let limits = Limits {
        configure_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let plugin = host(1)
        .load("guest", &GUEST, limits, &Grants::default())
        .expect("it loads");
    let began = Instant::now();
    let result = plugin.configure(r#"{"configure":"loop"}"#).await;
    assert!(matches!(result, Err(ConfigureError::Timeout)), "{result:?}");
    assert!(began.elapsed() < Duration::from_secs(2));
    let result = plugin.configure(r#"{"configure":"memory"}"#).await;
    assert!(
        matches!(result, Err(ConfigureError::Failed(FilterError::Memory))),
        "{result:?}"
    );
}

#[tokio::test]
async fn more_handshakes_than_instances_wait_their_turn() {
    let limits = Limits {
        instances: NonZeroU32::new(2).expect("not zero"),
        ..Limits::default()
    };
    let plugin = host(8)
        .load("guest", &GUEST, limits, &Grants::default())
        .expect("it loads");
    let filter = plugin
        .configure(r#"{"request":"count"}"#)
        .await
        .expect("config");
    let handshakes: Vec<_> = (0..32)
        .map(|_| {
            let filter = filter.clone();
            tokio::spawn(async move { filter.on_request(request(&[])).await.1.map(drop) })
        })
        .collect();
    for handshake in handshakes {
        handshake.await.expect("no panic").expect("its turn came");
    }
}

#[tokio::test]
async fn no_instance_in_time_is_an_error_and_a_dropped_one_is_free() {
    let plugin = plugin(&host(1), &GUEST);
    let filter = plugin.configure("{}").await.expect("config");
    let (_, held) = filter.on_request(request(&[])).await;
    let held = held
        .expect("a verdict")
        .response_hook
        .expect("it waits for the answer");
    let (_, error) = failed(&filter, request(&[])).await;
    assert_eq!(error.label(), "no_instance");
    drop(held);
    assert!(filter.on_request(request(&[])).await.1.is_ok());
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_call_frees_the_instance() {
    let limits = Limits {
        call_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let plugin = host(1)
        .load("guest", &GUEST, limits, &Grants::default())
        .expect("it loads");
    let looping = plugin
        .configure(r#"{"request":"loop"}"#)
        .await
        .expect("config");
    let fine = plugin.configure("{}").await.expect("config");
    for _ in 0..3 {
        let cut = tokio::time::timeout(Duration::from_millis(20), looping.on_request(request(&[])));
        assert!(cut.await.is_err(), "it loops until it is dropped");
        assert!(
            fine.on_request(request(&[])).await.1.is_ok(),
            "the one instance is free again"
        );
    }
}

#[tokio::test]
async fn a_log_flood_is_cut_escaped_and_counted() {
    let lines = Lines::collect();
    let filter = guest(r#"{"request":"log_flood"}"#).await;
    filter.on_request(request(&[])).await.1.expect("a verdict");
    let text = lines.text();
    let flood: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("forged"))
        .collect();
    // The flood may straddle two seconds on a slow machine, but not three.
    assert!((100..=200).contains(&flood.len()), "{} lines", flood.len());
    for line in flood {
        assert!(line.contains(r"\r\n\u{1b}[31m"), "escaped: {line}");
        assert!(
            line.contains("guest") && line.contains("the-route"),
            "attributed: {line}"
        );
        assert!(line.len() < 1300, "cut: {} bytes", line.len());
    }
}

async fn failed(filter: &Filter, head: Box<RequestHead>) -> (Box<RequestHead>, FilterError) {
    let (head, outcome) = filter.on_request(head).await;
    (head, outcome.expect_err("it fails"))
}
