//! The stub of WASI: what it lets a guest do, and where it ends.

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use sluicegate_plugin_host::{ConfigureError, FilterError, Grants, Host, Limits, Plugin, Verdict};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::{host, request};

#[test]
fn what_needs_wasi_is_refused_where_it_is_not_granted() {
    let error = host(1)
        .load("guest", &GUEST, Limits::default(), &Grants::default())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("imports `wasi:"), "{error}");
    assert!(error.contains("`allow = { wasi = true }`"), "{error}");
}

#[tokio::test]
async fn there_are_no_files_sockets_arguments_or_variables() {
    continues(&act("a").await);
}

#[tokio::test]
async fn what_is_printed_ends_in_the_log_line_by_line() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer({
            let lines = lines.clone();
            move || lines.clone()
        })
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    continues(&act("w").await);
    let text = String::from_utf8(lines.0.lock().expect("lock").clone()).expect("text");
    let found: Vec<&str> = text.lines().collect();
    // The last one was not ended; it is there because the instance is gone.
    for (line, expect) in found.iter().zip([r"one\u{1b}[31m", "two", "rest"]) {
        assert!(line.contains("WARN") && line.contains(expect), "{line}");
        assert!(
            line.contains("guest") && line.contains("the-route"),
            "{line}"
        );
    }
    assert_eq!(found.len(), 3, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_wait_within_its_time() {
    continues(&act("s").await);
    assert!(matches!(act("f").await, Err(FilterError::WallTimeout)));
}

#[tokio::test]
async fn nothing_waits_in_configure() {
    let plugin = load(&host(1), &GUEST).expect("it loads");
    let error = plugin
        .configure(r#"{"act":"c"}"#)
        .await
        .expect_err("refused");
    let ConfigureError::Failed(FilterError::Trap { reason, .. }) = error else {
        panic!("{error}")
    };
    assert!(reason.contains("may wait in `on-request`"), "{reason}");
}

#[tokio::test]
async fn what_a_guest_takes_too_much_of_ends_it() {
    for (letter, expect) in [
        ("e", "exit"),
        ("t", "resource table has no free keys"),
        ("z", "more than `check-write` allowed"),
        ("r", "random bytes at once"),
    ] {
        let Err(FilterError::Trap { reason, .. }) = act(letter).await else {
            panic!("`{letter}` went well")
        };
        assert!(reason.contains(expect), "{letter}: {reason}");
    }
}

#[track_caller]
fn continues(result: &Result<Verdict, FilterError>) {
    assert!(matches!(result, Ok(Verdict::Continue)), "{result:?}");
}

/// The verdict of the guest that does this.
async fn act(letter: &str) -> Result<Verdict, FilterError> {
    let plugin = load(&host(2), &GUEST).expect("it loads");
    let config = format!(r#"{{"act":"{letter}"}}"#);
    let filter = plugin
        .configure(&config)
        .await
        .expect("it takes the config");
    let (_, outcome) = filter.on_request(request(&[])).await;
    Ok(outcome?.verdict)
}

fn load(host: &Arc<Host>, wasm: &[u8]) -> Result<Arc<Plugin>, String> {
    let grants = Grants {
        wasi: true,
        ..Grants::default()
    };
    let loaded = host.load("guest", wasm, Limits::default(), &grants);
    loaded.map_err(|error| error.to_string())
}

/// `guest.wat`, with what `guest.wit` says of it.
static GUEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut module = wat::parse_str(include_str!("wasi/guest.wat")).expect("valid text");
    let mut resolve = Resolve::default();
    let interface = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-sdk/wit/0.2.0");
    resolve.push_dir(interface).expect("the interface");
    let guest = resolve
        .push_str("guest.wit", include_str!("wasi/guest.wit"))
        .expect("the guest's world");
    let world = resolve
        .select_world(&[guest], Some("guest"))
        .expect("a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("it fits");
    module
});

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
