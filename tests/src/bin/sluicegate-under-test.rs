//! The binary under test, built together with the tests so that it is never stale.

use std::process::ExitCode;

fn main() -> ExitCode {
    // replaced by sluicegate::cli::main() once the command line is there
    let path = std::env::args().nth(3).unwrap_or_default();
    match sluicegate::server::run(sluicegate::reload::Origin::File(path.into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error {
                sluicegate::server::RunError::Config(_) => 3,
                sluicegate::server::RunError::Bind(_)
                | sluicegate::server::RunError::AdminBind { .. } => 4,
                _ => 1,
            })
        }
    }
}
