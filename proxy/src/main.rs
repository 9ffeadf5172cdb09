//! The `sluicegate` command. Everything is in [`sluicegate::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sluicegate::cli::main()
}
