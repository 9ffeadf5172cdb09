//! `sluicegate plugin test` on the real binary: the first-party plugins' cases, how a failure is shown, what
//! `--bless` writes, and what is wrong with a case file.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use sluicegate_tests::plugins;
use sluicegate_tests::proxy::{binary, source_root};
use tempfile::TempDir;

#[test]
fn the_cases_of_every_first_party_plugin_pass() {
    let mut folders = 0;
    for entry in std::fs::read_dir(source_root().join("plugins")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("Cargo.toml").is_file() {
            continue;
        }
        let name = folder.file_name().unwrap().to_str().unwrap();
        let cases = folder.join("cases");
        assert!(cases.is_dir(), "`{name}` has no cases");
        let wasm = plugins::wasm(&format!("sluicegate-{name}"));
        let output = test(&folder, &wasm, &["--cases", cases.to_str().unwrap()]);
        assert!(output.status.success(), "{name}:\n{}", said(&output));
        folders += 1;
    }
    assert!(folders > 0);
}

/// A case for each kind of difference.
const FAILING: &str = r#"config = { keys = { ci = "s3cret" } }

[[case]]
name    = "passes"
request = { headers = { X-Api-Key = "s3cret" } }
[case.expect]
headers = { X-Consumer = "ci", X-Api-Key = false }

[[case]]
name    = "another verdict"
request = { headers = { X-Api-Key = "other" } }
[case.expect]
verdict = "continue"

[[case]]
name    = "other details"   # of the request
request = { uri = "/ws/?a=1", headers = { X-Api-Key = "s3cret" } }
[case.expect]
# who it is
headers = { x-consumer = "cx", X-Api-Key = ["a", "b"] } # both
query   = "a=2"
labels  = { nobody = "here" }
logs    = ["warn: nothing is as it was"]
metrics = { 'refused{why="unheard-of"}' = 1 }

[[case]]
name   = "a config that is refused"
config = { keys = { ci = "" } }
"#;

const SHOWN: &str = r#"  FAILED  another verdict  (cases/keys.toml:10)
            expect.verdict
              - "continue"
              + 403 with "this API key is not valid\n"
  FAILED  other details  (cases/keys.toml:16)
            expect.headers.x-consumer
              - "cx"
              + "ci"
            expect.headers.x-api-key
              - ["a", "b"]
              + not there
            expect.query
              - "a=2"
              + "a=1"
            expect.labels.nobody
              - "here"
              + not there
            expect.logs
              - "warn: nothing is as it was"
              + no line
            expect.metrics.refused{why="unheard-of"}
              - 1
              + 0
  FAILED  a config that is refused  (cases/keys.toml:27)
            expect.config_error
              - a config that is accepted
              + "`keys.ci`: is empty"
error: `keys.ci`: is empty
  --> cases/keys.toml:28:26
   |
28 | config = { keys = { ci = "" } }
   |                          ^^

cases/keys.toml: 1 error
sluicegate-api-key 0.1.0: 4 cases, 3 failed
"#;

const BLESSED: &str = r#"config = { keys = { ci = "s3cret" } }

[[case]]
name    = "passes"
request = { headers = { X-Api-Key = "s3cret" } }
[case.expect]
headers = { X-Consumer = "ci", X-Api-Key = false }

[[case]]
name    = "another verdict"
request = { headers = { X-Api-Key = "other" } }
[case.expect]
verdict = 403
headers = { content-type = "text/plain" }
body = "this API key is not valid\n"
logs = ['warn: key refused why="unknown"']
metrics = { 'refused{why="unknown"}' = 1 }

[[case]]
name    = "other details"   # of the request
request = { uri = "/ws/?a=1", headers = { X-Api-Key = "s3cret" } }
[case.expect]
# who it is
headers = { x-consumer = "ci", X-Api-Key = false } # both
query   = "a=1"
labels  = { nobody = false }
logs    = []
metrics = { 'refused{why="unheard-of"}' = 0 }

[[case]]
name   = "a config that is refused"
config = { keys = { ci = "" } }

[case.expect]
config_error = "`keys.ci`: is empty"
"#;

#[test]
fn a_failing_case_is_shown_with_what_differs() {
    let (folder, wasm) = (with_cases(FAILING), plugins::wasm("sluicegate-api-key"));
    let output = test(folder.path(), &wasm, &["--cases", "cases", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(said(&output), SHOWN);

    let one = ["--cases", "cases", "--only", "passes"];
    let output = test(folder.path(), &wasm, &one);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let lines = said(&output);
    let lines: Vec<&str> = lines.lines().collect();
    let [file, case, summary, costs] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(*file, "cases/keys.toml");
    assert_eq!(*case, "  ok      passes");
    assert_eq!(*summary, "sluicegate-api-key 0.1.0: 1 case, all pass");
    for cost in [" a call, ", " of memory at most, ", "compiled in "] {
        assert!(costs.contains(cost), "{costs}");
    }
}

#[test]
fn what_is_blessed_passes_and_keeps_the_rest_of_the_file() {
    let (folder, wasm) = (with_cases(FAILING), plugins::wasm("sluicegate-api-key"));
    let output = test(folder.path(), &wasm, &["--cases", "cases", "--bless"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let blessed = std::fs::read_to_string(folder.path().join("cases/keys.toml")).unwrap();
    assert_eq!(blessed, BLESSED);

    let output = test(folder.path(), &wasm, &["--cases", "cases", "--quiet"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(said(&output), "", "nothing is wrong");
    test(folder.path(), &wasm, &["--cases", "cases", "--bless"]);
    let again = std::fs::read_to_string(folder.path().join("cases/keys.toml")).unwrap();
    assert_eq!(again, blessed, "what passes is left alone");
}

#[test]
fn failures_of_the_plugin_itself_can_be_expected() {
    let cases = r#"
        [[case]]
        name   = "a trap"
        config = { request = "trap" }
        expect = { error = "trapped: " }

        [[case]]
        name   = "an edit is taken back"
        config = { request = "edit_and_trap" }
        expect = { error = "trapped: ", headers = { x-edited = false } }

        [[case]]
        name   = "a loop"
        config = { request = "loop" }
        expect = { error = "ran longer than `call_timeout`", logs = ["info: looping"] }

        [[case]]
        name   = "a config that the guest refuses"
        config = { configure = "reject" }
        expect = { config_error = "`configure`: rejected as asked" }

        [[case]]
        name   = "each request has an instance of its own"
        repeat = 3
        config = { request = "count" }
        expect = { headers = { x-count = "1" } }

        [[case]]
        name     = "a response hook that fails"
        config   = { response = "trap" }
        response = { status = 101 }
        expect   = { verdict = "continue", response = { error = "trapped: " } }

        [[case]]
        name     = "a response hook that answers instead"
        config   = { response = "refuse" }
        response = { status = 200, headers = { A = "b" }, body = "upstream" }
        expect   = { response = { status = 403, headers = { A = false, x-reason = "as asked" } } }

        [[case]]
        name     = "a response that is let through"
        response = { status = 200, headers = { A = "b" }, body = "upstream" }
        expect   = { response = { status = 200, headers = { A = "b" }, body = "upstream" } }

        [[case]]
        name    = "what the plugin sees"
        config  = { request = "refuse" }
        request = { method = "POST", uri = "/a?b", host = "Ex.test:8", client_ip = "2001:db8::1", tls = true, route = "r", request_id = "id" }
        [case.expect]
        verdict = 403
        body    = "POST /a?b https ex.test 2001:db8::1 id r Some(\"TLSv1.3\")"
    "#;
    let folder = with_cases(cases);
    let wasm = plugins::wasm("sluicegate-test-guests");
    let output = test(folder.path(), &wasm, &["--cases", "cases", "--quiet"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn conversations_are_held_in_the_host() {
    let cases = r#"
        [[case]]
        name     = "a handshake, and what it leaves to its messages"
        request  = { uri = "/ws?q=a%20b", route = "r", request_id = "id", labels = { sub = "ada" }, headers = { X-Who = "me", Sec-WebSocket-Protocol = "chat, other" } }
        ending   = { code = 1001, by = "server", cause = "eof" }
        messages = [{ client = "who", to_server = false, to_client = 'id r example.com Some("a b") 192.0.2.1 Some("me") Some("chat") [("sub", "ada"), ("status", "101")] "/ws answered"' }]
        [case.expect]
        labels   = { status = "101" }
        logs     = ["info: configured", "info: asked", "info: over after 1: Some(1001) Some(Server) eof"]

        [[case]]
        name     = "each kind of message"
        [[case.messages]]
        server   = "text"
        [[case.messages]]
        client    = { binary = "01 02 ff" }
        to_server = { binary = "ff0201" }
        [[case.messages]]
        server    = { ping = "beat" }
        to_client = { ping = "BEAT" }
        [[case.messages]]
        client    = { pong = "" }
        to_server = []
        to_client = "pong?"
        [[case.messages]]
        client    = "count"
        to_server = "2"

        [[case]]
        name     = "messages of its own, and none"
        [[case.messages]]
        client    = "around"
        to_server = [{ ping = "p" }, "around", { binary = "01 02" }]
        to_client = ["before", { pong = "" }]
        [[case.messages]]
        client    = "drop"
        to_server = false
        repeat    = 50
        [[case.messages]]
        server    = "count"
        to_client = "52"
        [[case.messages]]
        server    = "close"
        to_server = "bye"
        close     = { code = 4000, reason = "as asked" }
        [case.expect]
        logs      = "info: over after 53: Some(4000) None filter"

        [[case]]
        name     = "a timer"
        now      = 2026-01-01T00:00:10Z
        [[case.messages]]
        tick      = true
        to_client = "1 at 12"
        [[case.messages]]
        client    = "later"
        after     = "20s"
        [[case.messages]]
        tick      = true
        after     = "1s"
        to_client = "2 at 33"
        [[case.messages]]
        tick      = true
        close     = 1001

        [[case]]
        name     = "what is of no interest goes on unseen"
        config   = { little = true }
        messages = [{ server = "count" }, { client = { ping = "beat" } }, { client = "count", to_server = "1" }, { client = { binary = "00 01 02 03 04 05 06 07 08 09 0a" } }, { tick = true, error = "no timer" }]
        expect   = { logs = ["info: configured", "info: asked"] }

        [[case]]
        name     = "a tunnel that the plugin leaves alone"
        request  = { uri = "/none" }
        messages = [{ client = "count" }]

        [[case]]
        name     = "failures"
        messages = [{ client = "count", to_server = "1" }, { client = "panic", error = "trapped: " }]
        [[case]]
        name     = "a failure to begin"
        request  = { uri = "/panic" }
        messages = [{ client = "count" }]
        expect   = { error = "trapped: " }
        [[case]]
        name     = "a failure to end"
        ending   = { code = 4999 }
        messages = [{ client = "x" }]
        expect   = { error = "trapped: ", logs = ["info: over"] }
        [[case]]
        name     = "a reaction that breaks a rule"
        messages = [{ client = "unsendable", error = "gave a reaction that cannot be carried out: close code `1005`" }]
    "#;
    let folder = with_cases(cases);
    let wasm = plugins::wasm("sluicegate-session-guest");
    let output = test(folder.path(), &wasm, &["--cases", "cases", "--quiet"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

/// A case for each way in which a message can come to something else.
const TALK: &str = r#"
[[case]]
name = "arrivals"
[[case.messages]]
client = "count"    # says how many
[[case.messages]]
client = "drop"
to_client = ["a", { ping = "b" }]  # both
[[case.messages]]
client = "close"
to_client = "bye"

[[case]]
name = "inline"
messages = [{ client = "count" }, { client = "x", close = 1008, error = "trapped" }]
[case.expect]
logs = "warn: none"

[[case]]
name = "more than can be told"
[[case.messages]]
client = "count"
to_server = "1"
repeat = 3
[[case.messages]]
client = "close"
to_client = "bye"
close = 4000
[[case.messages]]
server = "late"
"#;

const TALK_SHOWN: &str = r#"  FAILED  arrivals  (cases/keys.toml:3)
            message 1: to_server  (cases/keys.toml:4)
              - "count"
              + "1"
            message 2: to_server  (cases/keys.toml:6)
              - "drop"
              + nothing
            message 2: to_client  (cases/keys.toml:6)
              - ["a", { ping = "b" }]
              + nothing
            message 3: close  (cases/keys.toml:9)
              - goes on
              + { code = 4000, reason = "as asked" }
  FAILED  inline  (cases/keys.toml:14)
            message 1: to_server  (cases/keys.toml:15)
              - "count"
              + "1"
            message 2: close  (cases/keys.toml:15)
              - 1008
              + goes on
            message 2: error  (cases/keys.toml:15)
              - "trapped"
              + no failure
            expect.logs
              - "warn: none"
              + "info: configured"
              + "info: asked"
              + "info: over after 2: Some(1000) Some(Client) close"
  FAILED  more than can be told  (cases/keys.toml:20)
            message 1: to_server  (cases/keys.toml:21)
              - "1"
              + "2"
            message 3  (cases/keys.toml:29)
              - server = "late"
              + the tunnel had ended before
sluicegate-session-guest 0.1.0: 3 cases, 3 failed
"#;

const TALK_BLESSED: &str = r#"
[[case]]
name = "arrivals"
[[case.messages]]
client = "count"    # says how many
to_server = "1"
[[case.messages]]
client = "drop"
to_client = false  # both
to_server = false
[[case.messages]]
client = "close"
to_client = "bye"
close = { code = 4000, reason = "as asked" }

[[case]]
name = "inline"
messages = [{ client = "count", to_server = "1" }, { client = "x", close = false }]
[case.expect]
logs = ["info: configured", "info: asked", "info: over after 2: Some(1000) Some(Client) close"]

[[case]]
name = "more than can be told"
[[case.messages]]
client = "count"
to_server = "1"
repeat = 3
[[case.messages]]
client = "close"
to_client = "bye"
close = 4000
[[case.messages]]
server = "late"
"#;

#[test]
fn messages_that_come_to_something_else_are_shown_and_blessed() {
    let (folder, wasm) = (with_cases(TALK), plugins::wasm("sluicegate-session-guest"));
    let output = test(folder.path(), &wasm, &["--cases", "cases", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(said(&output), TALK_SHOWN);

    let output = test(folder.path(), &wasm, &["--cases", "cases", "--bless"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "one is for its author to mend"
    );
    let blessed = std::fs::read_to_string(folder.path().join("cases/keys.toml")).unwrap();
    assert_eq!(blessed, TALK_BLESSED);
    for name in ["arrivals", "inline"] {
        let one = ["--cases", "cases", "--only", name];
        let output = test(folder.path(), &wasm, &one);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains(" a message, "), "{}", said(&output));
    }
}

#[test]
fn a_plugin_of_handshakes_has_no_conversations() {
    let folder = with_cases("[[case]]\nname = \"a\"\nmessages = [{ client = \"a\" }]\n");
    let wasm = plugins::wasm("sluicegate-test-guests");
    let output = test(folder.path(), &wasm, &["--cases", "cases"]);
    assert_eq!(output.status.code(), Some(1));
    let report = said(&output);
    assert!(
        report.contains("the plugin filters no messages"),
        "{report}"
    );
    assert!(report.contains("cases/keys.toml:2:8"), "{report}");
}

#[test]
fn the_cases_of_the_example_of_messages_pass() {
    let folder = source_root().join("examples/messages");
    let wasm = plugins::wasm("word-guard");
    let output = test(&folder, &wasm, &["--cases", "cases"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn mistakes_in_a_case_file_are_shown_at_their_place() {
    let cases = r#"config = { keys = { ci = "s3cret" } }
[[case]]
name = "a"
requst = {}
now = "2026-01-01"
[case.expect]
verdict = 101
header = { a = 1 }
[[case.http]]
upstream = "idp"
"#;
    let folder = with_cases(cases);
    let wasm = plugins::wasm("sluicegate-api-key");
    let output = test(folder.path(), &wasm, &["--cases", "cases"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let report = said(&output);
    for part in [
        "unknown key `requst` in [[case]]",
        "cases/keys.toml:4:1",
        "did you mean `request`?",
        "`now` must be a date and time, not a string",
        "without quotes and with its offset: `2026-01-01T00:00:00Z`",
        "`101` is no status that a plugin can answer",
        "did you mean `headers`?",
        "this answers nothing",
        "cases/keys.toml: 5 errors",
    ] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
}

#[test]
fn without_cases_it_says_how_to_begin() {
    let folder = TempDir::new().unwrap();
    let wasm = plugins::wasm("sluicegate-api-key");
    std::fs::copy(&wasm, folder.path().join("filter.wasm")).unwrap();
    for (arguments, code, message) in [
        (&["."][..], 1, "no cases in `./cases`"),
        (&["filter.wasm"], 1, "begins like this"),
        (&["missing.wasm"], 1, "`missing.wasm`: "),
        (&["--cases"], 2, "a value is required"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
    std::fs::create_dir(folder.path().join("cases")).unwrap();
    let first = "config = { keys = { ci = \"k\" } }\n[[case]]\nname = \"first\"\n";
    std::fs::write(folder.path().join("cases/first.toml"), first).unwrap();
    let output = run(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("+ 401 with"), "{}", said(&output));
}

/// A folder with these cases in it.
fn with_cases(cases: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("cases")).unwrap();
    std::fs::write(folder.path().join("cases/keys.toml"), cases).unwrap();
    folder
}

fn test(folder: &Path, wasm: &Path, arguments: &[&str]) -> Output {
    let wasm = wasm.to_str().unwrap();
    run(folder, &[&[wasm], arguments].concat())
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(["plugin", "test"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}
