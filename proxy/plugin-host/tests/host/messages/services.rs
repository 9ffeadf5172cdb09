//! What a conversation may ask of its host, and how plugins of messages are loaded.

use super::*;

#[tokio::test]
async fn the_store_and_the_log_are_there_in_messages() {
    let lines = Lines::collect();
    let filter = shared("", 9).await;
    let (mut first, mut second) = (open(&filter).await, open(&filter).await);
    assert_eq!(answer(&mut first, "kv").await, "Ok(1)");
    assert_eq!(answer(&mut second, "kv").await, "Ok(2)");
    say(&mut first, "log").await.expect("a reaction");
    assert!(lines.text().contains("told to"), "{}", lines.text());
}

/// Answers when it is told to, and remembers what was asked.
#[derive(Debug, Default)]
struct Upstream {
    asked: Mutex<Vec<String>>,
    go: Arc<Notify>,
}

impl Outbound for Upstream {
    fn send(&self, request: OutboundRequest) -> OutboundFuture {
        self.asked.lock().expect("no panic").push(request.path);
        let go = Arc::clone(&self.go);
        Box::pin(async move {
            go.notified().await;
            Ok(OutboundResponse {
                status: 200,
                headers: http::HeaderMap::new(),
                body: "from afar".into(),
            })
        })
    }
}

#[tokio::test]
async fn who_waits_for_an_upstream_keeps_its_turn_and_its_generation() {
    let filter = shared("", 9).await;
    let upstream = Arc::new(Upstream::default());
    let facts = Arc::new(CallFacts {
        outbound: Some(Arc::clone(&upstream) as Arc<dyn Outbound>),
        ..CallFacts::clone(&facts())
    });
    let first = filter.open(&opening("/ws"), facts).await.expect("it opens");
    let mut first = first.expect("it is interested");
    let mut second = open(&filter).await;
    {
        let mut asking = pin!(answer(&mut first, "outbound"));
        assert!(poll_once(&mut asking).await.is_none(), "it waits");
        let mut next = pin!(answer(&mut second, "count"));
        assert!(
            poll_once(&mut next).await.is_none(),
            "and so does the next one"
        );
        assert_eq!(*upstream.asked.lock().expect("no panic"), ["/"]);
        upstream.go.notify_one();
        assert_eq!(asking.await, "Ok(\"from afar\") 1 of 1");
        assert_eq!(next.await, "1 of 2, 2 open");
    }
    // The other one's handshake knew no upstreams.
    let told = answer(&mut second, "outbound").await;
    assert!(told.contains("there are no upstreams here"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_has_a_limit() {
    let filter = shared("", 9).await;
    let facts = Arc::new(CallFacts {
        outbound: Some(Arc::new(Upstream::default())),
        ..CallFacts::clone(&facts())
    });
    let first = filter.open(&opening("/ws"), facts).await.expect("it opens");
    let mut first = first.expect("it is interested");
    let mut second = open(&filter).await;
    assert_eq!(
        failure(&mut first, "outbound").await.label(),
        "wall_timeout"
    );
    assert!(has_failed(&mut second).await);
}

#[tokio::test]
async fn instances_of_images_and_from_the_cache_talk_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let private = folder.path().join("cache");
    for from_cache in [false, true] {
        let host = Host::new(sluicegate_plugin_host::HostSettings {
            cache_dir: Some(private.clone()),
            ..Default::default()
        });
        let plugin = loaded(&host.expect("a host"), Limits::default());
        assert_eq!(plugin.from_cache(), from_cache);
        let filter = configured(&plugin, "wants-close").await;
        assert!(filter.interest().is_some_and(|interest| interest.close));
        assert_eq!(
            answer(&mut open(&filter).await, "count").await,
            "1 of 1, 1 open"
        );
    }
    let filter = configured(&loaded(&imaging_host(4), Limits::default()), "wants-close").await;
    assert!(filter.has_image());
    assert!(filter.interest().is_some_and(|interest| interest.close));
    let filter = filter.conversing(Some(Isolation::Shared), seats(9));
    let (mut first, second) = (open(&filter).await, open(&filter).await);
    drop(second);
    assert_eq!(answer(&mut first, "count").await, "1 of 1, 1 open");
}

#[test]
fn hook_and_exports_must_agree() {
    #[track_caller]
    fn check(world: &str, exports: &str, hooks: u8, expect: Option<&str>) {
        let text = format!(
            r#"(module
              (import "sluicegate:plugin/http@0.2.0" "[resource-drop]request" (func (param i32)))
              (memory (export "memory") 1)
              (data (i32.const 16) "\00\01\00\00\01\00\00\00\00\01\00\00\01\00\00\00\{hooks:02}")
              (data (i32.const 256) "p")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
              (func (export "describe") (result i32) (i32.const 16))
              (func (export "configure") (param i32 i32) (result i32) unreachable)
              (func (export "on-request") (param i32) (result i32) unreachable)
              (func (export "on-response") (param i32) (result i32) unreachable)
              {exports})"#
        );
        let wasm = modules::encoded_for("0.2.0", world, &text);
        let loaded = host(1).load("guest", &wasm, Limits::default(), &grants());
        let error = loaded.err().map(|error| {
            assert!(matches!(error, LoadError::Messages { .. }), "{error}");
            error.to_string()
        });
        assert_eq!(error.as_deref(), expect);
    }
    const MESSAGES: &str = r#"
        (func (export "sluicegate:plugin/messages@0.2.0#wants") (result i32) unreachable)
        (func (export "sluicegate:plugin/messages@0.2.0#open") (param i32) (result i32) unreachable)
        (func (export "sluicegate:plugin/messages@0.2.0#[method]conversation.on-message")
          (param i32 i32 i32 i32 i32) (result i32) unreachable)
        (func (export "sluicegate:plugin/messages@0.2.0#[method]conversation.on-timer")
          (param i32) (result i32) unreachable)
        (func (export "sluicegate:plugin/messages@0.2.0#[method]conversation.on-close")
          (param i32 i32 i32 i32 i32 i32 i32) unreachable)"#;
    check("handshake-filter", "", 3, None);
    check("message-filter", MESSAGES, 7, None);
    check(
        "message-filter",
        MESSAGES,
        3,
        Some(
            "does not say that it has the hook `messages`, but exports `sluicegate:plugin/messages@0.2.0`",
        ),
    );
    check(
        "handshake-filter",
        "",
        7,
        Some(
            "says that it has the hook `messages`, but does not export `sluicegate:plugin/messages@0.2.0`",
        ),
    );
}

#[tokio::test]
async fn many_conversations_come_and_go() {
    let filter = shared("wants-close", 50).await;
    let mut open_ones = Vec::new();
    let began = Instant::now();
    for round in 0..2000_usize {
        open_ones.push(open(&filter).await);
        if round % 3 == 0 {
            let gone: Conversation = open_ones.swap_remove(round % open_ones.len());
            drop(gone);
        }
        if open_ones.len() > 120 {
            open_ones.truncate(20);
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    for conversation in &mut open_ones {
        assert!(say(conversation, "hello").await.is_ok());
    }
}
