//! Instances that serve several requests: what is kept, for how long, and what is never shared.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_plugin_host::{Filter, FilterError, Grants, Host, Limits, ResponseFilter};

use crate::support::{GUEST, host, plugin, request, response};

#[tokio::test]
async fn state_is_kept_for_n_requests_and_gone_after_them() {
    let filter = counting(&host(2), r#"{"request":"count"}"#, 3).await;
    let mut seen = Vec::new();
    for _ in 0..8 {
        seen.push(exchange(&filter).await);
    }
    // The plugin has a response hook, which counts on but is not asked to show it.
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3", "1", "2"]);
}

#[tokio::test]
async fn both_hooks_of_a_request_run_in_one_instance() {
    let filter = counting(&host(2), r#"{"request":"count","response":"count"}"#, 2).await;
    for (first, second) in [("1", "2"), ("3", "4"), ("1", "2")] {
        let (count, hook) = begin(&filter, None).await.expect("a verdict");
        assert_eq!(count, first);
        let (head, verdict) = hook.on_response(response(&[])).await;
        verdict.expect("a verdict");
        assert_eq!(head.headers["x-count"], second);
    }
}

#[tokio::test]
async fn two_requests_at_once_never_share_an_instance() {
    let filter = counting(&host(3), r#"{"request":"count","response":"count"}"#, 100).await;
    let (one, first) = begin(&filter, None).await.expect("a verdict");
    let (two, second) = begin(&filter, None).await.expect("a verdict");
    assert_eq!(
        (&*one, &*two),
        ("1", "1"),
        "the first instance still waits for its response"
    );
    for hook in [second, first] {
        let (head, verdict) = hook.on_response(response(&[])).await;
        verdict.expect("a verdict");
        assert_eq!(head.headers["x-count"], "2", "each answers for its own");
    }
    // Both are there again.
    let (three, first) = begin(&filter, None).await.expect("a verdict");
    let (four, second) = begin(&filter, None).await.expect("a verdict");
    assert_eq!((&*three, &*four), ("3", "3"));
    drop((first, second));
    let (five, _) = begin(&filter, None).await.expect("a verdict");
    assert_eq!(
        five, "1",
        "an instance whose request got no response is gone"
    );
}

#[tokio::test]
async fn a_failed_instance_is_never_asked_again() {
    let filter = counting(&host(1), r#"{"request":"count_or_fail"}"#, 100).await;
    for (fault, label) in [("trap", "trap"), ("loop", "timeout")] {
        assert_eq!(exchange(&filter).await, "1");
        assert_eq!(exchange(&filter).await, "2");
        let error = begin(&filter, Some(fault)).await.map(|(count, _)| count);
        assert_eq!(error.expect_err("it fails").label(), label);
        assert_eq!(exchange(&filter).await, "1", "after a {fault}");
        let left = begin(&filter, Some("loop"));
        let left = tokio::time::timeout(std::time::Duration::from_millis(5), left).await;
        assert!(left.is_err(), "the client leaves in mid call");
    }
}

#[tokio::test]
async fn filters_do_not_share_instances_and_idle_ones_make_room() {
    let host = host(1);
    let plugin = plugin(&host, &GUEST);
    let config = plugin.configure(r#"{"request":"count"}"#).await;
    let config = config.expect("it takes the config");
    let [one, other] = [(); 2].map(|()| config.reusing(requests(100)));
    assert_eq!(exchange(&one).await, "1");
    assert_eq!(exchange(&one).await, "2");
    assert_eq!(
        exchange(&other).await,
        "1",
        "there is but one place, and an idle instance gives it up"
    );
    assert_eq!(exchange(&config).await, "1", "the filter without reuse too");
    assert_eq!(exchange(&one).await, "1");
    assert_eq!(exchange(&one.clone()).await, "2", "a clone is the same");
}

#[tokio::test]
async fn whoever_waits_gets_the_place_of_one_that_would_be_kept() {
    let limits = Limits {
        instances: requests(1),
        ..Limits::default()
    };
    let plugin = host(8)
        .load("guest", &GUEST, limits, &Grants::default())
        .expect("it loads");
    let config = plugin.configure("{}").await.expect("config");
    let one = config.reusing(requests(100));
    let (_, held) = one.on_request(request(&[])).await;
    let held = held.expect("a verdict").response_hook.expect("a hook");
    let (waited, _) = tokio::join!(config.on_request(request(&[])), async {
        // The other request is polled first and waits by now.
        held.on_response(response(&[])).await.1
    });
    assert!(waited.1.is_ok());
}

/// A request and its response; what the request hook had counted.
async fn exchange(filter: &Filter) -> String {
    let (count, hook) = begin(filter, None).await.expect("a verdict");
    hook.on_response(response(&[])).await.1.expect("a verdict");
    count
}

async fn begin(
    filter: &Filter,
    query: Option<&str>,
) -> Result<(String, ResponseFilter), FilterError> {
    let mut head = request(&[]);
    head.query = query.map(Into::into);
    let (head, outcome) = filter.on_request(head).await;
    let hook = outcome?.response_hook.expect("it has the hook");
    let count = head.headers["x-count"].to_str().expect("a number");
    Ok((count.to_owned(), hook))
}

async fn counting(host: &Arc<Host>, config: &str, n: u32) -> Filter {
    let filter = plugin(host, &GUEST).configure(config).await;
    filter.expect("it takes the config").reusing(requests(n))
}

fn requests(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}
