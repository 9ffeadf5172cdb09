//! The binary under test, built together with the tests so that it is never stale.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluicegate::cli::main()
}
