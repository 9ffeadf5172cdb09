//! Clients and servers that others wrote: programs on the PATH, and scripts of `tests/foreign` with what they need
//! in `target/foreign`, where `.ci/foreign.sh` puts it.
//!
//! What is missing is said on standard error, past the test harness, and the test that needs it does nothing: not
//! everybody has a browser.

use std::env;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::proxy::source_root;
use crate::{PATIENCE, soon};

/// A program that others wrote; `None`, which is said: it is not there.
pub fn program(name: &str) -> Option<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    or_say(name, found).map(command)
}

/// A script of `tests/foreign`; `None`, which is said: what it needs is not there.
pub fn script(name: &str) -> Option<Command> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| source_root().join("target"), PathBuf::from);
    let python = target.join("foreign/venv/bin/python");
    let found = Some(python).filter(|file| file.is_file());
    let mut command = command(or_say("Python for tests/foreign", found)?);
    command
        .arg("-B")
        .arg(source_root().join("tests/foreign").join(name));
    Some(command)
}

/// Runs to its end, which must be a success; returns what it said.
pub async fn run(command: &mut Command) -> String {
    let program = command.as_std().get_program().display().to_string();
    let Ok(output) = timeout(LONGEST_RUN, command.output()).await else {
        panic!("{program} did not end within {LONGEST_RUN:?}")
    };
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program}: {status}\n{said}\n{errors}");
    said
}

/// A server that says its ports in one line, and serves until this is dropped.
pub struct Server {
    pub ports: Vec<u16>,
    _stdin: ChildStdin,
    _child: Child,
}

impl Server {
    pub async fn start(mut command: Command) -> Server {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = soon("the start of a server", said.next_line()).await;
        let line = line.unwrap().expect("it ended");
        Server {
            ports: line.split(' ').map(|port| port.parse().unwrap()).collect(),
            _stdin: child.stdin.take().unwrap(),
            _child: child,
        }
    }
}

fn command(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // They reach for servers of this machine only.
    for name in ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

fn or_say(what: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let test = std::thread::current();
        let test = test.name().unwrap_or("a test");
        // The macros' output is shown of failures only.
        let line = format!("SKIPPED {test}: no {what}; .ci/foreign.sh installs it\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

/// A script is many events, one after the other.
const LONGEST_RUN: Duration = PATIENCE.saturating_mul(4);
