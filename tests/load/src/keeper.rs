//! A process between the benchmark and a proxy that never lets the proxy outlive the benchmark.
//!
//! `sluicegate-load keep` starts the program on the processor it is told, writes its process id to
//! standard output, and kills it with all its descendants when standard input ends: because the
//! benchmark dropped its [`Kept`], failed, or was killed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::failure::{Failure, Result};
use crate::machine;
use crate::measure::processes;
use crate::peers::Found;

/// A running program; dropping it kills and waits for it.
#[derive(Debug)]
pub(crate) struct Kept {
    keeper: Child,
    /// What the child wrote as its first line: a process id, or the port of the backend.
    pub(crate) first_line: u32,
}

impl Kept {
    /// Starts this same binary with `arguments`, its errors going to `log`, and reads its first line.
    ///
    /// # Errors
    /// When it does not start or says nothing.
    pub(crate) fn start(arguments: &[OsString], log: &Path) -> Result<Kept> {
        Kept::start_with(arguments, &[], log)
    }

    fn start_with(
        arguments: &[OsString],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> Result<Kept> {
        let failed = Failure::of("cannot start a child");
        let mut keeper = Command::new(std::env::current_exe().map_err(&failed)?)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()
            .map_err(&failed)?;
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut kept = Kept {
            keeper,
            first_line: 0,
        };
        kept.first_line = line.trim().parse().map_err(|_| {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            Failure::new(format!("cannot start a child: {}", said.trim()))
        })?;
        Ok(kept)
    }

    /// Starts a proxy on processor `cpu` behind a keeper; [`Kept::first_line`] is its process id.
    ///
    /// # Errors
    /// As [`Kept::start`].
    pub(crate) fn program(
        found: &Found,
        config: &Path,
        folder: &Path,
        cpu: Option<usize>,
        log: &Path,
    ) -> Result<Kept> {
        let program = found.peer.program;
        let mut all: Vec<OsString> = vec!["keep".into()];
        if let Some(cpu) = cpu {
            all.extend(["--cpu".into(), cpu.to_string().into()]);
        }
        all.extend(["--".into(), found.path.clone().into()]);
        all.extend(program.arguments(config, folder));
        Kept::start_with(&all, program.environment(), log)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        for _ in 0..ENDING_STEPS {
            if let Ok(Some(_)) = self.keeper.try_wait() {
                return;
            }
            thread::sleep(ENDING_STEP);
        }
        // It never answered; what it keeps is then the system's business.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The `keep` command: see the module.
///
/// # Errors
/// When the program does not start.
pub(crate) fn keep(cpu: Option<usize>, command: &[OsString]) -> Result<()> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::new("nothing to keep"));
    };
    machine::pin(cpu)?;
    // Workers whose master is killed become children of this process, which waits for them too.
    set_child_subreaper(Some(getpid())).map_err(io::Error::from)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(Failure::of(&format!(
            "cannot start `{}`",
            Path::new(program).display()
        )))?;
    writeln!(io::stdout(), "{}", child.id())?;
    // When the program ends by itself the benchmark finds it gone; this waits to be told.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    let own = std::process::id();
    let descendants = processes::tree(own)?;
    kill(descendants.into_iter().filter(|process| *process != own));
    while let Ok(Some(_)) = wait(WaitOptions::empty()) {}
    Ok(())
}

/// Kills these processes, as far as they are still there.
pub(crate) fn kill(processes: impl IntoIterator<Item = u32>) {
    for process in processes {
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

const ENDING_STEP: Duration = Duration::from_millis(10);
const ENDING_STEPS: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_killed_with_its_leaves() {
        let mut root = Command::new("sh")
            .args(["-c", "sleep 600 & echo started; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(root.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        let tree = processes::tree(root.id()).unwrap();
        assert_eq!(tree.len(), 2);
        kill(tree);
        // It ends only when both, which hold it, are gone.
        assert_eq!(stdout.read_to_end(&mut Vec::new()).unwrap(), 0);
        root.wait().unwrap();
    }
}
