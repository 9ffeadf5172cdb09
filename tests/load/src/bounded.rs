//! Runs a program to its end, but not for longer than it may take.
//!
//! For what runs before the measurements: a program that hangs must not hang the benchmark, nor be
//! left behind by it.

use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::keeper;
use crate::measure::processes;

/// What the program wrote, and how it ended. After `most` it is killed with all its descendants.
///
/// # Errors
/// When it does not start, or takes longer.
pub(crate) fn output(command: &mut Command, most: Duration) -> Result<Output> {
    let program = command.get_program().display().to_string();
    let tried = format!("cannot run `{program}`");
    let failed = Failure::of(&tried);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(&failed)?;
    let root = child.id();
    let (done, ended) = mpsc::channel();
    // Not joined: who has detached from the program may hold its pipes for ever.
    thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    let output = ended.recv_timeout(most);
    if output.is_err() {
        keeper::kill(processes::tree(root).unwrap_or_default());
    }
    output
        .map_err(|_| Failure::new(format!("`{program}` takes longer than {most:?}")))?
        .map_err(&failed)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_it_wrote_is_returned() {
        let output = output(Command::new("echo").arg("here"), Duration::from_secs(60));
        assert_eq!(output.unwrap().stdout, b"here\n");
    }

    #[test]
    fn what_takes_too_long_is_a_failure() {
        let before = Instant::now();
        let failure = output(Command::new("sleep").arg("600"), Duration::from_millis(50));
        let said = failure.unwrap_err().to_string();
        assert_eq!(said, "`sleep` takes longer than 50ms");
        assert!(before.elapsed() < Duration::from_secs(60));
    }
}
